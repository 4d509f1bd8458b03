from __future__ import annotations

import json
from math import prod

import pytest
import torch
import torchinfo
from torch import Tensor, nn

from thriftnet import recipe
from thriftnet.config import ModelConfig, StemConfig
from thriftnet.models.build import build_model, build_on_meta
from thriftnet.models.summary import summarize

CIFAR = (3, 32, 32)
NETWORKS = {
    "basic": ModelConfig(
        stem=StemConfig(width=8, kernel=5), widths=(8, 16), blocks=(1, 2), strides=(1, 2), dropout=0.1
    ),
    "bottleneck": ModelConfig(
        block="bottleneck", stem=StemConfig(width=8), widths=(4, 8), blocks=(1, 1), strides=(1, 2)
    ),
    "resnext": ModelConfig(
        block="resnext", stem=StemConfig(width=8), blocks=(1, 1), strides=(1, 2), cardinality=4, base_width=2
    ),
    "squeeze": ModelConfig(stem=StemConfig(width=8), widths=(8, 16), blocks=(1, 1), strides=(1, 2), se_reduction=4),
    "preactivation": ModelConfig(
        block="preactivation",
        stem=StemConfig(kind="whitening", kernel=2),
        widths=(8, 16),
        blocks=(1, 2),
        strides=(1, 2),
        stochastic_depth=0.2,
        norm_scale=False,
    ),
    "resnet9": ModelConfig(family="resnet9", stem=StemConfig(width=4), widths=(8, 8, 12), conv_bias=True),
}

SMALL_TABLE = """\
-----------------------------------------------------
  Layer (type)       Output Shape  Param #  Mult-Adds
=====================================================
      Conv2d-1  [-1, 256, 16, 16]    7,168  1,769,472
     Flatten-2        [-1, 65536]        0          0
      Linear-3           [-1, 10]  655,370    655,360
=====================================================
Total params: 662,538
Trainable params: 662,282
Non-trainable params: 256
Total mult-adds: 2,424,832
-----------------------------------------------------
Input size (MB): 0.00
Forward/backward pass size (MB): 1.00
Params size (MB): 2.53
Estimated Total Size (MB): 3.53
-----------------------------------------------------"""


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 48, 40)])
def test_agrees_with_torchinfo(name: str, shape: tuple[int, int, int]) -> None:
    network = build_model(NETWORKS[name], in_channels=shape[0], num_classes=7)
    summary = summarize(network, shape)
    oracle = torchinfo.summary(network, (1, *shape), verbose=0)
    assert summary.total_parameters == oracle.total_params
    assert summary.trainable_parameters == oracle.trainable_params
    infos = {id(info.module): info for info in oracle.summary_list}
    modules = dict(network.named_modules())
    counted = ("Conv2d", "WhiteningConv", "Linear")
    rows = [row for row in summary.layers if row.type in counted]
    assert len(rows) == sum(info.class_name in counted for info in oracle.summary_list)
    for row in rows:
        module, info = modules[row.path], infos[id(modules[row.path])]
        assert row.parameters == info.num_params
        assert list(row.output_shape[1:]) == list(info.output_size[1:])
        # torchinfo counts an operation for every bias and position, which is no multiplication.
        positions = prod(info.output_size[2:])
        assert row.macs == info.macs - (0 if module.bias is None else module.bias.numel() * positions)


def test_multiply_accumulates_by_hand() -> None:
    grouped = nn.Conv2d(8, 16, 3, stride=2, padding=1, groups=4, bias=True)
    network = nn.Sequential(grouped, nn.BatchNorm2d(16), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 5))
    summary = summarize(network, (8, 10, 6))
    assert [row.macs for row in summary.layers] == [16 * 5 * 3 * (8 // 4) * 9, 0, 0, 0, 16 * 5]
    assert summary.macs == 4320 + 80


def test_resnet20_has_the_published_cost() -> None:
    """0.27 million parameters (arXiv 1512.03385, table 6, without projections); multiply-adds layer by layer."""
    resnet20 = ModelConfig(stem=StemConfig(width=16), widths=(16, 32, 64), blocks=(3, 3, 3), strides=(1, 2, 2))
    summary = summarize(build_on_meta(resnet20), CIFAR)
    projections = sum(row.macs for row in summary.layers if "shortcut" in row.path)
    projection_parameters = sum(row.parameters for row in summary.layers if "shortcut" in row.path)
    stem, narrow, wide, linear = 3 * 16 * 9 * 32**2, 16 * 16 * 9 * 32**2, 16 * 32 * 9 * 16**2, 64 * 10
    assert summary.macs - projections == stem + 6 * narrow + 2 * (wide + 5 * narrow) + linear == 40_551_040
    assert summary.total_parameters - projection_parameters == 269_722


def test_rows_follow_torchsummary() -> None:
    network = build_on_meta(NETWORKS["basic"])
    rows = [(row.name, row.path, row.output_shape) for row in summarize(network, CIFAR).layers]
    assert rows[:8] == [
        ("Conv2d-1", "conv", (-1, 8, 32, 32)),
        ("BatchNorm2d-2", "norm", (-1, 8, 32, 32)),
        ("Conv2d-3", "stages.0.0.conv1", (-1, 8, 32, 32)),
        ("BatchNorm2d-4", "stages.0.0.norm1", (-1, 8, 32, 32)),
        ("Dropout-5", "stages.0.0.dropout", (-1, 8, 32, 32)),
        ("Conv2d-6", "stages.0.0.conv2", (-1, 8, 32, 32)),
        ("BatchNorm2d-7", "stages.0.0.norm2", (-1, 8, 32, 32)),
        ("BasicBlock-8", "stages.0.0", (-1, 8, 32, 32)),
    ]
    assert rows[-2:] == [
        ("AdaptiveAvgPool2d-23", "pool", (-1, 16, 1, 1)),
        ("Linear-24", "linear", (-1, 10)),
    ]


def test_table_of_a_small_network() -> None:
    convolution = nn.Conv2d(3, 256, 3, padding=1)
    assert convolution.bias is not None
    convolution.bias.requires_grad_(False)
    network = nn.Sequential(convolution, nn.Flatten(), nn.Linear(256 * 16 * 16, 10))
    assert summarize(network, (3, 16, 16)).table() == SMALL_TABLE


def test_leaves_the_model_as_it_was() -> None:
    network = build_model(NETWORKS["basic"]).train()
    network.stages[0].eval()  # a frozen stage in a training network
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    modes = {path: module.training for path, module in network.named_modules()}
    summarize(network, CIFAR)
    assert {path: module.training for path, module in network.named_modules()} == modes
    assert not any(module._forward_hooks for module in network.modules())
    for name, tensor in network.state_dict().items():
        assert tensor.device.type == "cpu"
        assert torch.equal(tensor, before[name]), name
    assert all(parameter.grad is None for parameter in network.parameters())


def test_restores_the_model_after_a_failure() -> None:
    network = build_model(NETWORKS["basic"]).train()
    with pytest.raises(RuntimeError):
        summarize(network, (5, 32, 32))
    assert all(module.training for module in network.modules())
    assert not any(module._forward_hooks for module in network.modules())
    assert all(parameter.device.type == "cpu" for parameter in network.parameters())


def test_computes_nothing_real() -> None:
    """A forward pass at this size would need 64 GB; on the meta device it needs none."""
    summary = summarize(build_on_meta(NETWORKS["basic"]), (3, 2**15, 2**15))
    assert summary.layers[0].output_shape == (-1, 8, 2**15, 2**15)


class Repeated(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(self.layer(x.mean((2, 3))))


def test_a_module_called_twice_counts_its_parameters_once_and_its_work_twice() -> None:
    summary = summarize(Repeated(), (4, 8, 8))
    assert [(row.name, row.parameters, row.macs) for row in summary.layers] == [
        ("Linear-1", 20, 16),
        ("Linear-2", 0, 16),
    ]
    assert summary.total_parameters == 20


def test_frozen_parameters_are_not_trainable() -> None:
    network = build_model(NETWORKS["basic"])
    network.linear.requires_grad_(False)
    summary = summarize(network, CIFAR)
    assert summary.total_parameters - summary.trainable_parameters == 16 * 10 + 10
    assert "Non-trainable params: 170" in summary.table().splitlines()


def test_as_dict_is_plain_json() -> None:
    summary = summarize(build_on_meta(recipe.load("liu-4x2").model), CIFAR)
    values = json.loads(json.dumps(summary.as_dict()))
    assert values == summary.as_dict()
    assert values["total_parameters"] == values["trainable_parameters"] == 2_799_146
    assert values["macs"] == sum(layer["macs"] for layer in values["layers"])
    assert values["layers"][0] == {
        "name": "Conv2d-1",
        "path": "conv",
        "type": "Conv2d",
        "output_shape": [-1, 32, 32, 32],
        "parameters": 2_400,
        "macs": 32 * 32 * 32 * 75,
    }


@pytest.mark.parametrize("name", recipe.names())
def test_rows_add_up_to_the_total(name: str) -> None:
    summary = summarize(build_on_meta(recipe.load(name).model), CIFAR)
    assert sum(row.parameters for row in summary.layers) == summary.total_parameters
