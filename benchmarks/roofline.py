"""How fast a training step could be: its arithmetic and its bytes against what the machine does at best.

Roofline: Williams, Waterman, Patterson, "Roofline: an insightful visual performance model", CACM 52(4), 2009. A piece
of work takes at least max(FLOPs / peak FLOP/s, bytes / memory bandwidth); pieces that run one after the other add up.
"""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from benchmarks.common import Row, wait_for
from benchmarks.convolutions import DTYPES, Convolution, choices
from thriftnet.config import RecipeConfig
from thriftnet.models.budget import trainable_parameters
from thriftnet.models.build import build_on_meta

MATRIX_SIDE = 2048
STREAMED_VALUES = 2**26
"""256 MiB an array: beyond every cache."""
BYTES = {"fp32": 4, "bf16": 2, "fp16": 2}

# The first group whose pattern is in an operation's name; what matches none is "other".
GROUPS = {
    "convolution": r"conv|winograd",
    "normalisation": r"norm",
    "activation and addition": r"relu|gelu|silu|threshold|clamp_min|dropout|aten::add(_|\.|$)|sigmoid|pool",
    "casts and copies": r"aten::(_to_copy|to|copy_|clone|contiguous)$",
}
OPTIMIZER_VALUES = {"sgd": 5, "adam": 7, "adamw": 7}
"""Numbers read and written a parameter: gradient, weight and each moment (Qian et al.'s momentum, Adam's two)."""


def group_of(operation: str) -> str | None:
    """Which part of a step an operation such as `aten::relu` belongs to; None where its name does not say."""
    return next((group for group, pattern in GROUPS.items() if re.search(pattern, operation, re.IGNORECASE)), None)


def ceilings(device: torch.device, rounds: int = 5) -> Row:
    """Measured best GFLOP/s of a matrix product for each dtype, and GB/s of a = b + s * c, on this machine now."""
    found: Row = {"matrix_gflops": {}}
    for dtype in dict.fromkeys(dtype for dtype, _ in choices(device)):
        a, b = (torch.randn(MATRIX_SIDE, MATRIX_SIDE, device=device, dtype=DTYPES[dtype]) for _ in range(2))
        seconds = _best(lambda a=a, b=b: a @ b, device, rounds)
        found["matrix_gflops"][dtype] = 2 * MATRIX_SIDE**3 / seconds / 1e9
    a, b, c = (torch.ones(STREAMED_VALUES, device=device) for _ in range(3))
    seconds = _best(lambda: torch.add(b, c, alpha=1.5, out=a), device, rounds)
    found["memory_gb_per_s"] = 3 * 4 * STREAMED_VALUES / seconds / 1e9
    return found


def _best(work: Any, device: torch.device, rounds: int) -> float:
    """A ceiling is the fastest of the rounds, not their median."""
    seconds = []
    for _ in range(rounds + 1):
        wait_for(device)
        started = time.perf_counter()
        work()
        wait_for(device)
        seconds.append(time.perf_counter() - started)
    return min(seconds[1:])


class _Traffic(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Numbers that each operation reads and writes, by group; views and bookkeeping move nothing."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.values: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = func(*args, **(kwargs or {}))
        if not func.is_view and func.namespace == "aten" and "detach" not in func.name():
            tensors = [leaf for leaf in tree_leaves((args, kwargs or {}, given)) if isinstance(leaf, Tensor)]
            self.values[group_of(func.name()) or "other"] += sum(tensor.numel() for tensor in tensors)
        return given


def values_moved(recipe: RecipeConfig, side: int) -> dict[str, int]:
    """Numbers read and written by forward and backward of one batch, by group: each operation of the eager network
    touches its inputs and outputs once. Counted on the meta device, without computing anything."""
    network = build_on_meta(recipe.model).train()
    batch = recipe.training.batch_size
    images = torch.empty(batch, 3, side, side, device="meta")
    labels = torch.empty(batch, dtype=torch.int64, device="meta")
    with _Traffic() as traffic:
        loss = functional.cross_entropy(network(images), labels)
        loss.backward()  # type: ignore[no-untyped-call]
    return dict(traffic.values)


def passes_of(recipe: RecipeConfig) -> int:
    """Forward and backward passes an update."""
    return 1 if recipe.perturbation is None else 1 + getattr(recipe.perturbation, "inner_steps", 1)


def step_bounds(recipe: RecipeConfig, listed: Sequence[Convolution], precision: str, machine: Row, side: int) -> Row:
    """The least seconds a step's parts take on a machine with these `ceilings`, in the precision that was used.

    Convolutions: each one's larger of arithmetic and bytes. The other groups are bound by bytes; `elementwise_s` is
    what they take operation by operation, so fusing them can go below it. The optimiser's state is fp32.
    """
    passes, batch = passes_of(recipe), recipe.training.batch_size
    flops_per_s = machine["matrix_gflops"][precision] * 1e9
    bytes_per_s = machine["memory_gb_per_s"] * 1e9
    arithmetic = [each.flops(batch) / flops_per_s for each in listed]
    memory = [each.values_moved(batch) * BYTES[precision] / bytes_per_s for each in listed]
    moved = {group: passes * values * BYTES[precision] for group, values in values_moved(recipe, side).items()}
    moved["convolution"] = passes * sum(each.values_moved(batch) for each in listed) * BYTES[precision]
    per_parameter = OPTIMIZER_VALUES.get(recipe.optimizer.name)
    if per_parameter is not None:
        count = trainable_parameters(build_on_meta(recipe.model))
        moved["optimiser"] = 4 * per_parameter * count
    elementwise = sum(bytes_ for group, bytes_ in moved.items() if group not in ("convolution", "optimiser"))
    return {
        "precision": precision,
        "convolution_gflop": passes * sum(each.flops(batch) for each in listed) / 1e9,
        "megabytes": {group: round(bytes_ / 1e6, 1) for group, bytes_ in moved.items()},
        "convolution_s": passes * sum(map(max, arithmetic, memory)),
        "convolution_arithmetic_s": passes * sum(arithmetic),
        "convolution_memory_s": passes * sum(memory),
        "elementwise_s": elementwise / bytes_per_s,
        "optimiser_s": moved.get("optimiser", 0) / bytes_per_s,
    }


def explain(step_s: float, convolution_s: float, bounds: Row) -> Row:
    """What the step's time goes to: convolutions as measured, bytes of the rest at full bandwidth, and what is left."""
    rest_s = step_s - convolution_s
    memory_s = bounds["elementwise_s"] + bounds["optimiser_s"]
    by_memory = min(1.0, memory_s / rest_s) if rest_s > 0 else 1.0
    if rest_s <= 0:
        limit = "convolutions alone take as long as the step"
    elif by_memory >= 0.5:
        limit = "memory: normalisation, activation and optimiser passes"
    else:
        limit = "work that is neither convolution nor bound by memory: augmentation, casts, calls"
    return {
        "rest_s": rest_s,
        "rest_share": rest_s / step_s,
        "rest_explained_by_memory": by_memory,
        "limit_of_the_rest": limit,
        "convolution_efficiency": bounds["convolution_s"] / convolution_s,
    }
