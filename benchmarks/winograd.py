"""Winograd convolutions against torch's direct ones in fp32: each layer, and the whole training step.

    python -m benchmarks.winograd [--rounds 15] [--out FILE]

Layers: every 3x3 convolution with stride 1 in the networks of --recipes, batch 128, channels-last, but for those that
the rule on shapes leaves to torch; backward is the gradients of input and weights. Steps: the whole training step of
--recipes, all other kernels on both sides. Sides, medians and `cpu_ratio` as in kernels.py; GFLOP/s count the
multiplications and additions of the direct sum.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.kernels import BATCH, SIDES, alternate, ratio
from benchmarks.steps import Trainer
from thriftnet import recipe as recipes
from thriftnet import runtime as runtimes
from thriftnet.config import RuntimeConfig
from thriftnet.kernels.convolution import Conv2d, use_kernels
from thriftnet.kernels.winograd import suits
from thriftnet.models.build import build_on_meta

FP32 = RuntimeConfig(device="cpu", precision="fp32", kernels="yes")


def layer_shapes(network: str) -> list[tuple[int, int, int]]:
    """(in, out, side) of the 3x3 convolutions with stride 1 of a recipe's network at 32 pixels, each once."""
    model = build_on_meta(recipes.load(network).model)
    shapes: dict[tuple[int, int, int], None] = {}

    def note(layer: nn.Module, inputs: tuple[torch.Tensor, ...], _: torch.Tensor) -> None:
        assert isinstance(layer, nn.Conv2d)
        if (layer.kernel_size, layer.stride, layer.groups) == ((3, 3), (1, 1), 1):
            shapes[(layer.in_channels, layer.out_channels, inputs[0].shape[2])] = None

    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(note)
    model(torch.empty(2, 3, 32, 32, device="meta"))
    return list(shapes)


def measure_layer(in_channels: int, out_channels: int, side: int, rounds: int) -> dict[str, Any] | None:
    torch.manual_seed(0)
    x = torch.randn(BATCH, in_channels, side, side).contiguous(memory_format=torch.channels_last).requires_grad_()
    dy = torch.randn(BATCH, out_channels, side, side).contiguous(memory_format=torch.channels_last)
    layers = {
        name: Conv2d(in_channels, out_channels, 3, padding=1, bias=False).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        for name in SIDES
    }
    use_kernels(layers["kernel"])
    if not suits(x, layers["kernel"].weight):
        return None
    outputs = {name: layer(x) for name, layer in layers.items()}

    works: dict[str, Callable[[str], Any]] = {
        "forward": lambda name: layers[name](x.detach()),
        "backward": lambda name: torch.autograd.grad(outputs[name], [x, layers[name].weight], dy, retain_graph=True),
    }
    row: dict[str, Any] = {"in": in_channels, "out": out_channels, "side": side}
    gflop = 2 * 9 * BATCH * side * side * in_channels * out_channels / 1e9
    threads = torch.get_num_threads()
    for what, work in works.items():
        operations = gflop if what == "forward" else 2 * gflop
        sides = {name: partial(work, name) for name in SIDES}
        seconds = alternate(sides, rounds, time.perf_counter)
        torch.set_num_threads(1)
        cpu_seconds = alternate(sides, rounds, time.process_time)
        torch.set_num_threads(threads)
        row[what] = {
            "gflop_per_s": {name: round(operations / statistics.median(values), 1) for name, values in seconds.items()},
            "ratio": ratio(seconds),
            "cpu_seconds": {name: statistics.median(values) for name, values in cpu_seconds.items()},
            "cpu_ratio": ratio(cpu_seconds),
        }
    totals = [sum(row[what]["cpu_seconds"][name] for what in works) for name in SIDES]
    row["cpu_ratio"] = round(totals[0] / totals[1], 2)
    return row


def measure_step(name: str, rounds: int) -> dict[str, Any]:
    trainers = {side: Trainer(recipes.load(name), FP32) for side in SIDES}
    for module in trainers["torch"].learner.network.modules():
        if isinstance(module, Conv2d):
            module.uses_kernels = False
    sides = {side: partial(trainer.run, 1) for side, trainer in trainers.items()}
    seconds = alternate(sides, rounds, time.perf_counter)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    cpu_seconds = alternate(sides, max(3, rounds // 3), time.process_time)
    torch.set_num_threads(threads)
    return {
        "recipe": name,
        "seconds": {side: round(statistics.median(values), 4) for side, values in seconds.items()},
        "ratio": ratio(seconds),
        "cpu_ratio": ratio(cpu_seconds),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipes", nargs="*", default=["liu-4x2", "xu-resnet18", "xu-resnetlarge"])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "winograd.json")
    arguments = parser.parse_args()
    environment = runtimes.environment(runtimes.resolve(FP32))
    print(f"{environment['device_name']}, {environment['threads']} threads")
    layers, steps = [], []
    for shape in sorted({shape for name in arguments.recipes for shape in layer_shapes(name)}, key=lambda s: -s[2]):
        row = measure_layer(*shape, arguments.rounds)
        if row is not None:
            layers.append(row)
            parts = f"forward x{row['forward']['ratio']}, backward x{row['backward']['ratio']}"
            print(f"{shape[0]} -> {shape[1]} at {shape[2]} px: {parts}; processor time x{row['cpu_ratio']}", flush=True)
    for name in arguments.recipes:
        steps.append(measure_step(name, arguments.rounds))
        print(f"{name}: whole step x{steps[-1]['ratio']}, processor time x{steps[-1]['cpu_ratio']}", flush=True)
    arguments.out.parent.mkdir(exist_ok=True)
    stored = {"environment": environment, "rounds": arguments.rounds, "layers": layers, "steps": steps}
    arguments.out.write_text(json.dumps(stored, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
