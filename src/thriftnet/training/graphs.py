"""CUDA graphs: what a step launches on the GPU, recorded once for each kind of step and then launched as one.

A recorded function reads its inputs from memory that stays in place and leaves its results there; the next call with
the same key overwrites them. What it asks Python for, an epoch's number for instance, it asks only once, so everything
that changes from step to step must come in through a tensor. torch's generator does (it hands a graph its seed and
position at every launch), so dropout and stochastic depth draw what they would draw without graphs.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from thriftnet.errors import RecipeError
from thriftnet.optim.undo import Kept

WARM_UPS = 3
"""Calls before recording, in which libraries choose and load their kernels; torch's documentation recommends three."""

Function = Callable[..., Sequence[Tensor]]
Recorded = tuple[Sequence[Tensor], Callable[[], object]]
"""(results, launch): calling `launch` fills the results anew."""
Recorder = Callable[[Callable[[], Sequence[Tensor]]], Recorded]


@dataclass(frozen=True)
class Recording:
    """A recorded function with the memory that it works on."""

    inputs: tuple[Tensor, ...]
    results: Sequence[Tensor]
    launch: Callable[[], object]


class Graphs:
    """Recordings of a training's functions by key, for full batches of `batch_images`; an incomplete one is rare.

    `state`: what the functions change beside their results (running statistics), which recording must leave alone.
    `note` is told once where recording fails; everything then runs without. `required`: that raises RecipeError.
    """

    def __init__(
        self,
        device: torch.device,
        batch_images: int,
        state: Callable[[], Sequence[Tensor]],
        note: Callable[[str], None],
        required: bool = False,
        recorder: Recorder | None = None,
    ) -> None:
        self.device, self.batch_images, self.state = device, batch_images, state
        self.note, self.required = note, required
        self._record = recorder or CudaRecorder(device)
        self._recordings: dict[Hashable, Recording] = {}
        self.failed = False

    def __len__(self) -> int:
        return len(self._recordings)

    def forget(self) -> None:
        """Record everything anew: what is trained has changed."""
        self._recordings.clear()

    def run(self, key: Hashable, function: Function, *inputs: Tensor) -> Sequence[Tensor]:
        """`function(*inputs)`, recorded at the first call with `key`.

        All calls with one key must mean the same function and inputs of the same shapes.
        """
        if self.failed:
            return function(*inputs)
        if key not in self._recordings:
            try:
                self._recordings[key] = self._new(function, inputs)
            except RuntimeError as error:
                self._give_up(error)
                return function(*inputs)
        recording = self._recordings[key]
        for static, given in zip(recording.inputs, inputs, strict=True):
            static.copy_(given, non_blocking=True)
        recording.launch()
        return recording.results

    def _new(self, function: Function, inputs: Sequence[Tensor]) -> Recording:
        started = time.perf_counter()
        static = tuple(given.detach().clone() for given in inputs)
        kept, generators = Kept(self.state()), _generator_states(self.device)
        try:
            results, launch = self._record(lambda: function(*static))
        finally:
            kept.put_back()
            _set_generator_states(self.device, generators)
        self.note(f"CUDA graph {len(self) + 1} recorded in {time.perf_counter() - started:.1f} s")
        return Recording(static, results, launch)

    def _give_up(self, error: RuntimeError) -> None:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        if self.required:
            raise RecipeError(
                f"runtime.cuda_graphs = 'yes' is not possible here: {reason}; set runtime.cuda_graphs = auto or no"
            ) from error
        self.failed = True
        self.forget()
        self.note(f"CUDA graphs off, training is slower: {reason}")
        if self.device.type == "cuda":
            torch.cuda.empty_cache()


class CudaRecorder:
    """Records on a GPU. The recordings share one pool of memory: none needs its results after another has run."""

    def __init__(self, device: torch.device) -> None:
        self.device, self._pool = device, torch.cuda.graph_pool_handle()

    def __call__(self, function: Callable[[], Sequence[Tensor]]) -> Recorded:
        aside = torch.cuda.Stream(self.device)  # type: ignore[no-untyped-call]
        aside.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(aside):
            for _ in range(WARM_UPS):
                function()
        torch.cuda.current_stream(self.device).wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool):
            results = function()
        return results, graph.replay


def _generator_states(device: torch.device) -> tuple[Tensor, Tensor | None]:
    return torch.get_rng_state(), torch.cuda.get_rng_state(device) if device.type == "cuda" else None


def _set_generator_states(device: torch.device, states: tuple[Tensor, Tensor | None]) -> None:
    torch.set_rng_state(states[0])
    if states[1] is not None:
        torch.cuda.set_rng_state(states[1], device)
