"""The convolutions of a network and nothing else: how long a step's would take alone, and what they compute and move.

Shapes: N images in a batch; a convolution maps [N, C, H, W] to [N, D, P, Q].
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from benchmarks.common import Row, parser, run_main, run_worker, serve, wait_for
from thriftnet import recipe as recipes
from thriftnet import runtime as runtimes
from thriftnet.config import RuntimeConfig
from thriftnet.models.build import build_on_meta

LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Convolution:
    """One call of a convolution in a forward pass."""

    path: str
    input_shape: tuple[int, ...]
    """[C, H, W]."""
    output_shape: tuple[int, ...]
    """[D, P, Q]."""
    weight_shape: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int
    bias: bool
    needs_input_gradient: bool
    """False where it takes the images themselves."""
    needs_weight_gradient: bool

    @property
    def macs(self) -> int:
        """Multiply-accumulates of the forward pass for one image, as `models.summary` counts them."""
        depth, rows, columns = self.output_shape
        return depth * rows * columns * self.weight_shape[1] * self.weight_shape[2] * self.weight_shape[3]

    @property
    def passes(self) -> int:
        """Forward, and one for each gradient: each takes as many multiply-accumulates as the forward pass."""
        return 1 + self.needs_input_gradient + self.needs_weight_gradient

    def flops(self, batch: int) -> int:
        """Of forward and backward; two a multiply-accumulate."""
        return 2 * self.macs * self.passes * batch

    def values_moved(self, batch: int) -> int:
        """Numbers read and written where each pass touches its three tensors (input, weight, output) once."""
        inputs, outputs, weights = (_count(s) for s in (self.input_shape, self.output_shape, self.weight_shape))
        return self.passes * (batch * (inputs + outputs) + weights)


def _count(shape: Sequence[int]) -> int:
    product = 1
    for length in shape:
        product *= length
    return product


def convolutions_of(network: nn.Module, input_shape: tuple[int, int, int]) -> list[Convolution]:
    """Every call of a Conv2d in one forward pass of `network` (on the meta device), in order; input [C, H, W]."""
    found: list[Convolution] = []
    images = torch.empty(1, *input_shape, device="meta")

    def record(path: str, module: nn.Conv2d, taken: Tensor, given: Tensor) -> None:
        assert not isinstance(module.padding, str)  # thriftnet's networks give numbers
        found.append(
            Convolution(
                path=path,
                input_shape=tuple(taken.shape[1:]),
                output_shape=tuple(given.shape[1:]),
                weight_shape=tuple(module.weight.shape),
                stride=module.stride,
                padding=module.padding,
                dilation=module.dilation,
                groups=module.groups,
                bias=module.bias is not None,
                needs_input_gradient=taken is not images,
                needs_weight_gradient=module.weight.requires_grad,
            )
        )

    handles = [
        module.register_forward_hook(lambda m, taken, given, path=path: record(path, m, taken[0], given))
        for path, module in network.named_modules()
        if isinstance(module, nn.Conv2d)
    ]
    training = network.training
    try:
        with torch.no_grad():
            network.eval()(images)
    finally:
        network.train(training)
        for handle in handles:
            handle.remove()
    return found


class ConvolutionPass:
    """The convolutions on random values in one dtype and layout; every call has its own tensors, as in training."""

    def __init__(
        self, listed: Sequence[Convolution], batch: int, device: torch.device, dtype: str, layout: str
    ) -> None:
        self.listed, self.device = listed, device

        def random(*shape: int) -> Tensor:
            values = torch.randn(*shape, device=device, dtype=DTYPES[dtype])
            return values.contiguous(memory_format=LAYOUTS[layout])

        self.inputs = [random(batch, *each.input_shape) for each in listed]
        self.gradients = [random(batch, *each.output_shape) for each in listed]
        self.weights = [random(*each.weight_shape) for each in listed]
        self.biases = [
            torch.zeros(each.weight_shape[0], device=device, dtype=DTYPES[dtype]) if each.bias else None
            for each in listed
        ]

    def run(self) -> list[tuple[float, float]]:
        """(forward, backward) seconds of each convolution: all forward in order, then all backward in reverse."""
        count = len(self.listed)
        timer = Timer(self.device)
        for place in range(count):
            self._forward(place)
            timer.mark()
        for place in reversed(range(count)):
            self._backward(place)
            timer.mark()
        spans = timer.spans()
        return list(zip(spans[:count], reversed(spans[count:]), strict=True))

    def _forward(self, place: int) -> None:
        each = self.listed[place]
        torch.ops.aten.convolution(
            self.inputs[place],
            self.weights[place],
            self.biases[place],
            each.stride,
            each.padding,
            each.dilation,
            False,
            [0, 0],
            each.groups,
        )

    def _backward(self, place: int) -> None:
        each = self.listed[place]
        torch.ops.aten.convolution_backward(
            self.gradients[place],
            self.inputs[place],
            self.weights[place],
            [each.weight_shape[0]] if each.bias else None,
            each.stride,
            each.padding,
            each.dilation,
            False,
            [0, 0],
            each.groups,
            [each.needs_input_gradient, each.needs_weight_gradient, each.bias],
        )


class Timer:
    """Seconds between marks; on a GPU by its own clock, so that nothing waits in between."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        wait_for(device)
        self.marks: list[float | torch.cuda.Event] = []
        self.mark()

    def mark(self) -> None:
        if self.device.type == "cuda":
            event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
            event.record()
            self.marks.append(event)
        else:
            self.marks.append(time.perf_counter())

    def spans(self) -> list[float]:
        wait_for(self.device)
        if self.device.type == "cuda":
            return [a.elapsed_time(b) / 1000 for a, b in zip(self.marks, self.marks[1:], strict=False)]  # type: ignore[union-attr, arg-type]
        return [b - a for a, b in zip(self.marks, self.marks[1:], strict=False)]  # type: ignore[operator]


def choices(device: torch.device) -> list[tuple[str, str]]:
    """(dtype, layout) pairs to try: fp32, and what the product would choose by itself on this device."""
    fast = runtimes.resolve(RuntimeConfig(device=str(device))).precision
    return [(dtype, layout) for dtype in dict.fromkeys(["fp32", fast]) for layout in LAYOUTS]


def screen(listed: Sequence[Convolution], batch: int, device: torch.device, passes: int) -> dict[str, list[float]]:
    """For each `dtype layout`, the seconds of each convolution (forward and backward), the best of some passes."""
    times = {}
    for dtype, layout in choices(device):
        run = ConvolutionPass(listed, batch, device, dtype, layout)
        run.run()
        taken = [run.run() for _ in range(passes)]
        times[f"{dtype} {layout}"] = [min(sum(one[place]) for one in taken) for place in range(len(listed))]
    return times


def work(arguments: Row) -> None:
    """A worker: {recipe, device, passes, steps} -> every choice's time, then rounds of the fastest."""
    runtime = runtimes.resolve(RuntimeConfig(device=arguments["device"]))
    recipe = recipes.load(arguments["recipe"])
    side = recipe.data.image_side or 32
    listed = convolutions_of(build_on_meta(recipe.model), (3, side, side))
    batch = recipe.training.batch_size
    times = screen(listed, batch, runtime.device, arguments["passes"])
    best = min(times, key=lambda choice: sum(times[choice]))
    run = ConvolutionPass(listed, batch, runtime.device, *best.split())
    run.run()

    def measure() -> Row:
        taken = [run.run() for _ in range(arguments["steps"])]
        return {"steps": len(taken), "seconds": sum(sum(each) for one in taken for each in one)}

    serve({"choice": best, "seconds": times, "paths": [each.path for each in listed]}, measure)


def main() -> None:
    options = parser(__doc__, "convolutions")
    run_worker(work, options.parse_args().worker or options.error("it is started by benchmarks.throughput"))


if __name__ == "__main__":
    run_main(main)
