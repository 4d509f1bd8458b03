"""The `resnet9` family beyond the published three stages."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from thriftnet.config import ModelConfig
from thriftnet.models.build import build_model, build_on_meta, count_parameters
from thriftnet.models.resnet9 import ConvNorm, Residual, ResNet9
from thriftnet.models.summary import summarize

AIRBENCH_SHAPE = {
    "stem": {"kind": "whitening", "kernel": 2},
    "widths": [64, 256, 256],
    "residual_convs": [1, 1, 1],
    "pool_first": True,
    "activation": "gelu",
    "norm_scale": False,
}


def config(**values: Any) -> ModelConfig:
    return ModelConfig.model_validate({"family": "resnet9", "stem": {"width": 4}, "widths": [4, 6, 8]} | values)


def test_parameters_of_the_airbench_shape_by_hand() -> None:
    bias = 24
    pooled = 9 * (24 * 64 + 64 * 256 + 256 * 256)
    residual = 9 * (64**2 + 256**2 + 256**2)
    norms = 2 * (64 + 256 + 256)  # biases only
    assert count_parameters(config(**AIRBENCH_SHAPE)) == bias + pooled + residual + norms + 256 * 10 + 10 == 1_971_362
    summary = summarize(build_on_meta(config(**AIRBENCH_SHAPE)), (3, 32, 32))
    assert summary.trainable_parameters == 1_971_362
    assert summary.total_parameters == 1_971_362 + 24 * 12 + norms
    stem = 24 * 12 * 31**2
    first = 9 * (24 * 64 * 31**2 + 64**2 * 15**2)
    rest = 9 * (64 * 256 * 15**2 + 256**2 * 7**2 + 256**2 * 7**2 + 256**2 * 3**2)
    assert summary.macs == stem + first + rest + 2560


@pytest.mark.parametrize("pool_first", [False, True])
def test_forward_is_the_functional_form(pool_first: bool) -> None:
    torch.manual_seed(0)
    network = build_model(config(residual_convs=[0, 1, 2], pool_first=pool_first, logit_scale=0.5)).eval()
    state = network.state_dict()

    def conv_norm(x: Tensor, name: str, pool: bool = False) -> Tensor:
        x = F.conv2d(x, state[f"{name}.conv.weight"], padding=1)
        if pool and pool_first:
            x = F.max_pool2d(x, 2)
        x = F.batch_norm(
            x,
            state[f"{name}.norm.running_mean"],
            state[f"{name}.norm.running_var"],
            state[f"{name}.norm.weight"],
            state[f"{name}.norm.bias"],
        )
        x = F.relu(x)
        return F.max_pool2d(x, 2) if pool and not pool_first else x

    with torch.no_grad():
        for name, tensor in state.items():
            if name.endswith("norm.weight"):
                tensor.uniform_(-1, 2)  # of a negative scale, the largest value is not the largest before
            elif name.endswith(("norm.bias", "running_mean")):
                tensor.normal_()
    images = torch.randn(2, 3, 20, 20)
    x = conv_norm(images, "features.0")
    x = conv_norm(x, "features.1", pool=True)
    x = conv_norm(x, "features.2", pool=True)
    x = x + conv_norm(x, "features.3.branch.0")
    x = conv_norm(x, "features.4", pool=True)
    x = x + conv_norm(conv_norm(x, "features.5.branch.0"), "features.5.branch.1")
    expected = 0.5 * F.linear(x.amax((2, 3)), state["linear.weight"], state["linear.bias"])
    torch.testing.assert_close(network(images), expected)


def test_three_stages_default_to_the_published_residual_branches() -> None:
    features = build_on_meta(config()).features
    published = [ConvNorm, ConvNorm, Residual, ConvNorm, ConvNorm, Residual]
    assert [type(module) for module in features] == published
    assert [len(module.branch) for module in features if isinstance(module, Residual)] == [2, 2]
    with_zero = build_on_meta(config(residual_convs=[2, 0, 2]))
    assert with_zero.state_dict().keys() == build_on_meta(config()).state_dict().keys()


@pytest.mark.parametrize("widths", [[4, 6], [4, 6, 8, 10], [4, 6, 8, 10, 12]])
def test_two_to_five_stages(widths: list[int]) -> None:
    network = build_on_meta(config(widths=widths, residual_convs=[1] * len(widths)))
    assert isinstance(network, ResNet9)
    assert network.features(torch.empty(2, 3, 64, 64, device="meta")).shape == (
        2,
        widths[-1],
        64 >> len(widths),
        64 >> len(widths),
    )


@pytest.mark.parametrize("side", [16, 32, 37, 256])
@pytest.mark.parametrize("stages", [2, 5])
@pytest.mark.parametrize("pool_first", [False, True])
def test_any_side_after_a_whitening_stem(side: int, stages: int, pool_first: bool) -> None:
    """16 pixels: 15, 7, 3, 1, and a single pixel is pooled no further."""
    model = config(
        stem={"kind": "whitening", "kernel": 2}, widths=[4] * stages, residual_convs=[1] * stages, pool_first=pool_first
    )
    network = build_on_meta(model, in_channels=1, num_classes=7)
    assert network(torch.empty(2, 1, side, side, device="meta")).shape == (2, 7)


def test_maps_of_31_pixels_are_pooled_to_15_7_and_3() -> None:
    network = build_on_meta(config(**AIRBENCH_SHAPE))
    rows = summarize(network, (3, 32, 32)).layers
    assert [row.output_shape[2] for row in rows if row.type == "MaxPool2d"] == [15, 7, 3]
    assert rows[0].type == "WhiteningConv"
    assert (rows[0].parameters, rows[0].macs) == (24 * 12 + 24, 24 * 12 * 31**2)
