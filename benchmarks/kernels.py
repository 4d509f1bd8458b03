"""The compiled kernel for normalisation, activation and addition against torch's, layer by layer and in the whole step.

    python -m benchmarks.kernels [--activation gelu] [--rounds 15] [--out FILE]

Layers: every shape that normalisation meets in --networks, at batch 128, channels-last, with and without a residual.
The bandwidth is what the kernel itself has to move: forward x twice and y once; backward dy and x twice and dx once,
with a residual also the output (GELU: the residual), and its gradient written and read. Steps: the whole training
step of --recipes in fp32, as of the product. Both sides take turns in one process; medians, and medians of the ratios
round by round.
`cpu_ratio` compares processor time instead, on one thread (more would wait spinning): on a machine that others use
too it is the steadier number.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Literal
from unittest.mock import patch

import torch
from torch import nn

from benchmarks.steps import Trainer
from thriftnet import recipe as recipes
from thriftnet import runtime as runtimes
from thriftnet.config import RuntimeConfig
from thriftnet.kernels.build import load_kernels
from thriftnet.kernels.norm_act_add import norm_act_add, use_kernels
from thriftnet.models.blocks import ACTIVATIONS
from thriftnet.models.build import build_on_meta

BATCH = 128
WARMUP_ROUNDS = 2
SIDES = ("torch", "kernel")


def build_seconds() -> float:
    """Compiling into an empty cache."""
    folder = tempfile.mkdtemp()
    try:
        with patch.dict("os.environ", {"THRIFTNET_CACHE": folder}):
            started = time.perf_counter()
            load_kernels.__wrapped__("norm_act_add")
            return time.perf_counter() - started
    finally:
        shutil.rmtree(folder)


def normalised_shapes(network: str) -> list[tuple[int, int]]:
    """(channels, side) of what each normalisation of a recipe's network gets at 32 pixels, each shape once."""
    model = build_on_meta(recipes.load(network).model)
    shapes: dict[tuple[int, int], None] = {}
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.register_forward_hook(lambda _, inputs, __: shapes.setdefault(tuple(inputs[0].shape[1:3])))
    model(torch.empty(2, 3, 32, 32, device="meta"))
    return list(shapes)


def alternate(
    sides: Mapping[str, Callable[[], Any]], rounds: int, clock: Callable[[], float]
) -> dict[str, list[float]]:
    """Seconds of each side, round by round."""
    seconds: dict[str, list[float]] = {side: [] for side in sides}
    for number in range(WARMUP_ROUNDS + rounds):
        for side, work in sides.items():
            started = clock()
            work()
            if number >= WARMUP_ROUNDS:
                seconds[side].append(clock() - started)
    return seconds


def ratio(seconds: dict[str, list[float]]) -> float:
    """How many times faster the kernel is."""
    return round(statistics.median(a / b for a, b in zip(seconds["torch"], seconds["kernel"], strict=True)), 2)


def measure_layer(
    channels: int, side: int, dtype: torch.dtype, with_residual: bool, activation: str, rounds: int
) -> dict[str, Any]:
    shape = (BATCH, channels, side, side)
    generator = torch.Generator().manual_seed(0)
    x, residual, dy = (
        torch.randn(shape, generator=generator).to(dtype).contiguous(memory_format=torch.channels_last)
        for _ in range(3)
    )
    leaves = [x.requires_grad_(), *([residual.requires_grad_()] if with_residual else [])]
    norms = {side: nn.BatchNorm2d(channels) for side in SIDES}
    use_kernels(norms["kernel"])
    act, outputs = ACTIVATIONS[activation], dict[str, torch.Tensor]()

    def forward(name: str) -> None:
        outputs.pop(name, None)  # what it held goes back to the allocator, as in a training step
        outputs[name] = norm_act_add(x, norms[name], act, (lambda: residual) if with_residual else None)

    def backward(name: str) -> None:
        torch.autograd.grad(outputs[name], [*leaves, *norms[name].parameters()], dy, retain_graph=True)

    megabytes = x.numel() * x.element_size() / 1e6
    row: dict[str, Any] = {
        "shape": list(shape), "dtype": str(dtype).removeprefix("torch."), "residual": with_residual,
        "activation": activation,
    }  # fmt: skip
    passes = {"forward": 4 if with_residual else 3, "backward": 7 if with_residual else 5}
    threads = torch.get_num_threads()
    for name, work in (("forward", forward), ("backward", backward)):
        sides = {side: partial(work, side) for side in SIDES}
        seconds = alternate(sides, rounds, time.perf_counter)
        torch.set_num_threads(1)
        cpu_seconds = alternate(sides, rounds, time.process_time)
        torch.set_num_threads(threads)
        milliseconds = {side: statistics.median(values) * 1e3 for side, values in seconds.items()}
        row[name] = {
            "ms": {side: round(value, 3) for side, value in milliseconds.items()},
            "ratio": ratio(seconds),
            "cpu_ratio": ratio(cpu_seconds),
            "kernel_gb_per_s": round(passes[name] * megabytes / milliseconds["kernel"], 1),
        }
    return row


def measure_step(name: str, rounds: int) -> dict[str, Any]:
    recipe = recipes.load(name)
    row: dict[str, Any] = {"recipe": name, "batch_size": recipe.training.batch_size}
    threads = runtimes.available_cores()
    choices: dict[str, Literal["no", "yes"]] = {"torch": "no", "kernel": "yes"}
    trainers = {
        side: Trainer(recipe, RuntimeConfig(precision="fp32", threads=threads, kernels=kernels))
        for side, kernels in choices.items()
    }
    sides = {side: partial(trainer.run, 1) for side, trainer in trainers.items()}
    seconds = alternate(sides, rounds, time.perf_counter)
    row["seconds"] = {side: round(statistics.median(values), 4) for side, values in seconds.items()}
    row["all_seconds"] = {side: [round(value, 4) for value in values] for side, values in seconds.items()}
    row["ratio"] = ratio(seconds)
    torch.set_num_threads(1)
    seconds = alternate(sides, rounds, time.process_time)
    row["cpu_seconds"] = {side: round(statistics.median(values), 4) for side, values in seconds.items()}
    row["cpu_ratio"] = ratio(seconds)
    torch.set_num_threads(threads)
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="*", default=["liu-4x2", "xu-resnetlarge", "tirumalasetty-resnext29"])
    parser.add_argument("--recipes", nargs="*", default=["liu-4x2", "xu-resnetlarge", "ramavath-resnet9"])
    parser.add_argument("--activation", choices=["relu", "gelu"], default="relu", help="of the layers")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "kernels.json")
    arguments = parser.parse_args()
    environment = runtimes.environment(runtimes.resolve(RuntimeConfig(device="cpu", precision="fp32", kernels="yes")))
    stored = {"environment": environment, "rounds": arguments.rounds, "build_seconds": round(build_seconds(), 1)}
    print(f"{environment['device_name']}, {environment['threads']} threads; built in {stored['build_seconds']} s")
    shapes = sorted({shape for network in arguments.networks for shape in normalised_shapes(network)})
    layers = []
    print(f"{'channels':>8} {'side':>4} {'dtype':>8} residual  forward, backward: ms, ratio, cpu, GB/s")
    for channels, side in shapes:
        for dtype in (torch.float32, torch.bfloat16):
            for with_residual in (False, True):
                row = measure_layer(channels, side, dtype, with_residual, arguments.activation, arguments.rounds)
                layers.append(row)
                text = f"{channels:>8} {side:>4} {row['dtype']:>8} {with_residual!s:>8}"
                for part in (row["forward"], row["backward"]):
                    text += f" {part['ms']['kernel']:>8.2f} {part['ratio']:>5.2f} {part['cpu_ratio']:>5.2f}"
                    text += f" {part['kernel_gb_per_s']:>5.1f}"
                print(text, flush=True)
    steps = []
    for name in arguments.recipes:
        row = measure_step(name, arguments.rounds)
        steps.append(row)
        print(
            f"{name:<24} whole step x{row['ratio']:.2f} (processor time on one thread x{row['cpu_ratio']:.2f})",
            flush=True,
        )
    measured = {"layers": layers, "steps": steps}
    # An empty list of networks or recipes keeps what was stored of the other part.
    earlier = json.loads(arguments.out.read_text(encoding="utf-8")) if arguments.out.exists() else {}
    stored |= {part: rows or earlier.get(part, []) for part, rows in measured.items()}
    arguments.out.write_text(json.dumps(stored, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
