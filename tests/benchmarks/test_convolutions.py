"""The list of a network's convolutions is complete, and what they compute and move is counted right."""

from __future__ import annotations

import pytest
import torch
from benchmarks.convolutions import Convolution, ConvolutionPass, choices, convolutions_of, screen
from torch import Tensor, nn

from thriftnet import recipe as recipes
from thriftnet.models.build import build_on_meta
from thriftnet.models.summary import summarize

CPU = torch.device("cpu")


class Small(nn.Module):
    """A strided grouped convolution with a bias after one on the images, and a frozen one."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3, padding=1, bias=False)
        self.second = nn.Conv2d(4, 8, 3, stride=2, padding=1, groups=2)
        self.frozen = nn.Conv2d(8, 2, 1, bias=False)
        self.frozen.weight.requires_grad_(False)

    def forward(self, images: Tensor) -> Tensor:
        return self.frozen(self.second(self.first(images)))


def listed() -> list[Convolution]:
    with torch.device("meta"):
        network = Small()
    return convolutions_of(network, (3, 8, 8))


@pytest.mark.parametrize("name", recipes.names())
def test_every_convolution_of_every_recipe_is_listed(name: str):
    network = build_on_meta(recipes.load(name).model)
    rows = [layer for layer in summarize(network, (3, 32, 32)).layers if layer.type in ("Conv2d", "WhiteningConv")]
    found = convolutions_of(network, (3, 32, 32))
    assert [each.path for each in found] == [row.path for row in rows]
    assert [each.macs for each in found] == [row.macs for row in rows]
    assert [each.needs_input_gradient for each in found].count(False) == 1


def test_what_is_needed_of_each():
    first, second, frozen = listed()
    assert (first.needs_input_gradient, first.needs_weight_gradient) == (False, True)
    assert (second.needs_input_gradient, second.needs_weight_gradient, second.bias) == (True, True, True)
    assert (frozen.needs_input_gradient, frozen.needs_weight_gradient) == (True, False)
    assert (second.stride, second.groups) == ((2, 2), 2)
    assert (second.input_shape, second.output_shape) == ((4, 8, 8), (8, 4, 4))


def test_arithmetic_and_traffic_by_hand():
    first, second, _ = listed()
    assert first.macs == 4 * 8 * 8 * 3 * 9
    assert first.flops(batch=5) == 2 * first.macs * 5 * 2  # forward and the weight's gradient
    assert second.macs == 8 * 4 * 4 * 2 * 9
    assert second.flops(batch=5) == 2 * second.macs * 5 * 3
    assert first.values_moved(batch=5) == 2 * (5 * (3 * 64 + 4 * 64) + 4 * 3 * 9)
    assert second.values_moved(batch=5) == 3 * (5 * (4 * 64 + 8 * 16) + 8 * 2 * 9)


def test_the_kernels_are_those_of_autograd():
    """What is timed computes the outputs and gradients of the modules."""
    run = ConvolutionPass(listed(), 2, CPU, "fp32", "channels_last")
    place = 1
    inputs = run.inputs[place].clone().requires_grad_()
    weight = run.weights[place].clone().requires_grad_()
    bias = torch.zeros(8, requires_grad=True)
    output = torch.nn.functional.conv2d(inputs, weight, bias, stride=2, padding=1, groups=2)
    output.backward(run.gradients[place])
    ours = torch.ops.aten.convolution_backward(
        run.gradients[place], run.inputs[place], run.weights[place], [8], [2, 2], [1, 1], [1, 1], False, [0, 0], 2,
        [True, True, True],
    )  # fmt: skip
    for found, expected in zip(ours, (inputs.grad, weight.grad, bias.grad), strict=True):
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_a_pass_times_every_convolution_forward_and_backward(layout: str):
    run = ConvolutionPass(listed(), 2, CPU, "fp32", layout)
    assert [tuple(x.shape) for x in run.inputs] == [(2, 3, 8, 8), (2, 4, 8, 8), (2, 8, 4, 4)]
    assert run.inputs[1].is_contiguous(memory_format=torch.channels_last) == (layout == "channels_last")
    spans = run.run()
    assert len(spans) == 3
    assert all(forward > 0 and backward > 0 for forward, backward in spans)


def test_every_choice_is_tried():
    assert ("fp32", "contiguous") in choices(CPU)
    times = screen(listed(), 2, CPU, passes=1)
    assert set(times) == {f"{dtype} {layout}" for dtype, layout in choices(CPU)}
    assert all(len(each) == 3 for each in times.values())
