"""The compiled convolutions against torch's: every shape, each pass, and the whole training step.

    python -m benchmarks.convolution_kernels [--precision fp32] [--rounds 7] [--recipes NAME ...]

The precision is what `auto` chooses here, and chooses the kernel: Winograd's in fp32, the matrix units' in bf16.
Shapes: every convolution in the networks of --recipes at their recipes' batch and image side, channels-last, but for
those that the rule leaves to torch. Both layers get the same input and run as in training: in bf16 torch's rounds its
weights, and hands their gradient back in float32. Steps: the whole training step of --recipes, all other kernels on
both sides. Sides take turns; medians, and medians of the ratios round by round. `cpu_seconds` and `cpu_ratio` are
processor time on one thread, the steadier number on a machine that others use too. The summary adds up a network's
convolutions, as often as each shape occurs.
"""

from __future__ import annotations

import statistics
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from benchmarks.common import NETWORKS, RESULTS, Row, Store, announce, environment, parser, print_table, run_main
from benchmarks.convolutions import convolutions_of
from benchmarks.kernels import SIDES, alternate, ratio
from benchmarks.steps import Trainer
from thriftnet import recipe as recipes
from thriftnet import runtime as runtimes
from thriftnet.config import RuntimeConfig
from thriftnet.kernels.convolution import Conv2d, use_kernels
from thriftnet.models.build import build_on_meta
from thriftnet.runtime import Runtime

RECIPES = (*NETWORKS, "fast")
PASSES = ("forward", "input gradient", "weight gradient")
SECONDS_A_SHAPE = 3
SECONDS_A_STEP = 30
SECONDS = 75 * SECONDS_A_SHAPE + len(RECIPES) * SECONDS_A_STEP


class Shape(NamedTuple):
    """What makes a convolution fast or slow."""

    batch: int
    in_channels: int
    out_channels: int
    height: int
    width: int
    kernel: int
    stride: int
    padding: int
    groups: int
    bias: bool

    def __str__(self) -> str:
        extras = [f"stride {self.stride}"] * (self.stride > 1) + [f"{self.groups} groups"] * (self.groups > 1)
        extras += [f"padding {self.padding}"] * (self.padding != self.kernel // 2) + ["bias"] * self.bias
        kernel = f"{self.kernel}x{self.kernel}"
        channels = f"{self.in_channels} -> {self.out_channels}"
        return ", ".join([f"{self.batch} x {channels} at {self.height}x{self.width}", kernel, *extras])


def shapes_of(name: str) -> Counter[Shape]:
    """The convolutions of a recipe's network, all of them square, and how often each shape occurs."""
    recipe = recipes.load(name)
    side = recipe.data.image_side or 32
    shapes = Counter[Shape]()
    for each in convolutions_of(build_on_meta(recipe.model), (3, side, side)):
        (in_channels, height, width), (out_channels, _, kernel, _) = each.input_shape, each.weight_shape
        geometry = (kernel, each.stride[0], each.padding[0], each.groups)
        shapes[Shape(recipe.training.batch_size, in_channels, out_channels, height, width, *geometry, each.bias)] += 1
    return shapes


def timed(sides: Mapping[str, Callable[[], Any]], rounds: int) -> Row:
    """By the clock with the threads that are set, and by processor time with one."""
    seconds = alternate(sides, rounds, time.perf_counter)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    cpu_seconds = alternate(sides, rounds, time.process_time)
    torch.set_num_threads(threads)
    return {
        "seconds": {side: statistics.median(values) for side, values in seconds.items()},
        "ratio": ratio(seconds),
        "cpu_seconds": {side: statistics.median(values) for side, values in cpu_seconds.items()},
        "cpu_ratio": ratio(cpu_seconds),
    }


class Layers:
    """One convolution by torch and by the kernel, with the same weights."""

    def __init__(self, shape: Shape, runtime: Runtime) -> None:
        assert runtime.convolutions is not None
        self.shape, self.runtime = shape, runtime
        self.layers: dict[str, Conv2d] = {}
        for side in SIDES:
            torch.manual_seed(0)
            layer = Conv2d(
                shape.in_channels, shape.out_channels, shape.kernel, shape.stride, shape.padding,
                groups=shape.groups, bias=shape.bias,
            )  # fmt: skip
            self.layers[side] = layer.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        use_kernels(self.layers["kernel"], runtime.convolutions)
        self.x = self._images(shape.in_channels, shape.height, shape.width)

    def _images(self, channels: int, height: int, width: int) -> Tensor:
        dtype = self.runtime.autocast_dtype or torch.float32
        images = torch.randn(self.shape.batch, channels, height, width).to(dtype)
        return images.contiguous(memory_format=torch.channels_last)

    def forward(self, side: str) -> Tensor:
        with self.runtime.autocast():  # entered anew as in each step, else torch would keep the rounded weights
            y: Tensor = self.layers[side](self.x)
        return y

    def differ(self) -> bool:
        """Whether the rule on shapes lets the kernel do anything."""
        return len({type(self.forward(side).grad_fn) for side in SIDES}) > 1

    def measure(self, rounds: int) -> Row:
        weights = {side: list(layer.parameters()) for side, layer in self.layers.items()}
        outputs = {side: self.forward(side) for side in SIDES}
        dy = self._images(*outputs["torch"].shape[1:])

        def backward(side: str, inputs: Mapping[str, Sequence[Tensor]]) -> None:
            torch.autograd.grad(outputs[side], inputs[side], dy, retain_graph=True)

        flop = 2 * dy.numel() * self.shape.in_channels // self.shape.groups * self.shape.kernel**2
        row: Row = {"shape": self.shape._asdict(), "gflop_a_pass": flop / 1e9}
        row["forward"] = timed({side: partial(self.forward, side) for side in SIDES}, rounds)
        row["weight gradient"] = timed({side: partial(backward, side, weights) for side in SIDES}, rounds)
        for layer in self.layers.values():
            layer.requires_grad_(False)
        self.x.requires_grad_()
        outputs = {side: self.forward(side) for side in SIDES}
        images = {side: [self.x] for side in SIDES}
        row["input gradient"] = timed({side: partial(backward, side, images) for side in SIDES}, rounds)
        return row


def measure_step(name: str, config: RuntimeConfig, rounds: int) -> Row:
    trainers = {side: Trainer(recipes.load(name), config) for side in SIDES}
    for module in trainers["torch"].learner.network.modules():
        if isinstance(module, Conv2d):
            module.kernel = None
    return timed({side: partial(trainer.run, 1) for side, trainer in trainers.items()}, rounds)


def of_network(counts: Mapping[Shape, int], rows: Mapping[Shape, Row]) -> Row:
    """Processor seconds of those of a network's convolutions that have a row; `ratio`: torch's by the kernel's."""
    found: Row = {"convolutions": sum(counts.values()), "by_the_kernel": sum(counts[shape] for shape in rows)}
    for name in PASSES:
        found[name] = {
            side: sum(counts[shape] * row[name]["cpu_seconds"][side] for shape, row in rows.items()) for side in SIDES
        }
    found["all passes"] = {side: sum(found[name][side] for name in PASSES) for side in SIDES}
    for name in (*PASSES, "all passes"):
        found[name]["ratio"] = round(found[name]["torch"] / found[name]["kernel"], 2) if rows else None
    return found


def main() -> None:
    options_parser = parser(__doc__, "convolution-kernels")
    options_parser.set_defaults(out=None)
    options_parser.add_argument("--precision", choices=["auto", "fp32", "bf16"], default="auto")
    options_parser.add_argument("--recipes", nargs="+", default=list(RECIPES), metavar="NAME")
    options_parser.add_argument("--rounds", type=int, default=7)
    options = options_parser.parse_args()
    config = RuntimeConfig(device="cpu", precision=options.precision)
    runtime = runtimes.resolve(config)
    if runtime.convolutions is None:
        print(f"convolutions in {runtime.precision} are torch's here: nothing to compare; try --precision fp32")
        return
    suffix = "" if options.precision == "auto" else f"-{options.precision}"
    out = options.out or RESULTS / f"convolution-kernels{suffix}.json"
    store = Store(out, "convolution_kernels", {"rounds": options.rounds}, options.again, environment(config))

    networks = {name: shapes_of(name) for name in options.recipes}
    shapes = {shape for counts in networks.values() for shape in counts}
    taken = [shape for shape in sorted(shapes) if store.finished(str(shape)) or Layers(shape, runtime).differ()]
    announce("shapes", sum(not store.finished(str(shape)) for shape in taken), SECONDS_A_SHAPE)
    for shape in taken:
        if not store.finished(str(shape)):
            row = store.row(str(shape), partial(Layers(shape, runtime).measure, options.rounds))
            told = ", ".join(f"{name} x{row[name]['ratio']} (x{row[name]['cpu_ratio']})" for name in PASSES)
            print(f"{shape}: {told}", flush=True)
    steps = {name: f"step of {name}" for name in networks}
    announce("steps", sum(not store.finished(key) for key in steps.values()), SECONDS_A_STEP)
    for name, key in steps.items():
        store.row(key, partial(measure_step, name, config, options.rounds))
    summary = {
        name: of_network(counts, {shape: store.rows[str(shape)] for shape in taken if shape in counts})
        | {"step": {"ratio": store.rows[steps[name]]["cpu_ratio"]}}
        for name, counts in networks.items()
    }
    store.write(summary=summary)
    print("\ntimes less processor time on one thread than with torch's convolutions")
    columns = (*PASSES, "all passes", "step")
    print_table(
        ["network", "by the kernel", *columns],
        [
            [name, f"{row['by_the_kernel']} of {row['convolutions']}", *(row[column]["ratio"] for column in columns)]
            for name, row in summary.items()
        ],
    )


if __name__ == "__main__":
    run_main(main)
