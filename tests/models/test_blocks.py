"""Pre-activation blocks, stochastic depth and batch normalisation's options against plain functional forms."""

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from thriftnet.config import ModelConfig
from thriftnet.models.blocks import BlockStyle, StochasticDepth, norm
from thriftnet.models.build import build_model, build_on_meta, count_parameters
from thriftnet.models.resnet import ResNet


def config(**values: Any) -> ModelConfig:
    return ModelConfig.model_validate(
        {"stem": {"width": 8}, "widths": [8, 16], "blocks": [1, 2], "strides": [1, 2]} | values
    )


def resnet(**values: Any) -> ResNet:
    """With running statistics, scales and biases that are not what they start as."""
    torch.manual_seed(0)
    network = build_model(config(**values))
    assert isinstance(network, ResNet)
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_()
                module.running_var.uniform_(0.5, 2.0)
                module.weight.uniform_(0.5, 2.0)
                module.bias.normal_()
    return network.eval()


class Weights:
    """Layers of a state dict as functions."""

    def __init__(self, network: nn.Module) -> None:
        self.state = network.state_dict()

    def conv(self, x: Tensor, name: str, stride: int = 1) -> Tensor:
        weight = self.state[f"{name}.weight"]
        return F.conv2d(x, weight, self.state.get(f"{name}.bias"), stride=stride, padding=weight.shape[-1] // 2)

    def norm(self, x: Tensor, name: str) -> Tensor:
        keys = ("running_mean", "running_var", "weight", "bias")
        mean, var, scale, bias = (self.state[f"{name}.{key}"][:, None, None] for key in keys)
        return (x - mean) / (var + 1e-5).sqrt() * scale + bias

    def excited(self, x: Tensor, name: str) -> Tensor:
        gate = self.conv(F.relu(self.conv(x.mean((2, 3), keepdim=True), f"{name}.reduce")), f"{name}.expand")
        return x * torch.sigmoid(gate)


def test_preactivation_network_is_the_paper_s() -> None:
    network = resnet(block="preactivation", se_reduction=4)
    of = Weights(network)
    images = torch.randn(3, 3, 17, 17)
    # The first activation comes right after the stem, before the paths of the first block part.
    x = F.relu(of.norm(of.conv(images, "conv"), "norm"))
    branch = of.conv(F.relu(of.norm(of.conv(x, "stages.0.0.conv1"), "stages.0.0.norm2")), "stages.0.0.conv2")
    x = x + of.excited(branch, "stages.0.0.se")
    # A change of shape: the projection sees the activated input.
    active = F.relu(of.norm(x, "stages.1.0.norm1"))
    branch = of.conv(F.relu(of.norm(of.conv(active, "stages.1.0.conv1", 2), "stages.1.0.norm2")), "stages.1.0.conv2")
    x = of.excited(branch, "stages.1.0.se") + of.conv(active, "stages.1.0.shortcut", 2)
    # None: the identity is untouched.
    active = F.relu(of.norm(x, "stages.1.1.norm1"))
    branch = of.conv(F.relu(of.norm(of.conv(active, "stages.1.1.conv1"), "stages.1.1.norm2")), "stages.1.1.conv2")
    x = x + of.excited(branch, "stages.1.1.se")
    x = F.relu(of.norm(x, "final_norm")).mean((2, 3))
    expected = F.linear(x, of.state["linear.weight"], of.state["linear.bias"])
    torch.testing.assert_close(network(images), expected)


def test_preactivation_parameters_by_hand() -> None:
    stem = 3 * 8 * 9 + 2 * 8
    first = 8 * 8 * 9 + 2 * 8 + 8 * 8 * 9  # its first normalisation is the stem's
    widening = 2 * 8 + 8 * 16 * 9 + 2 * 16 + 16 * 16 * 9 + 8 * 16
    plain = 2 * (2 * 16 + 16 * 16 * 9)
    final = 2 * 16 + 16 * 10 + 10
    assert count_parameters(config(block="preactivation")) == stem + first + widening + plain + final


def test_preactivation_dropout_lies_before_the_last_convolution() -> None:
    network = resnet(block="preactivation", dropout=0.5, widths=[8], blocks=[1], strides=[1]).train()
    seen: dict[str, Tensor] = {}
    block = network.stages[0][0]
    block.norm2.register_forward_hook(lambda module, inputs, output: seen.update(before=output.detach()))
    block.conv2.register_forward_hook(lambda module, inputs, output: seen.update(after=inputs[0].detach()))
    network(torch.randn(4, 3, 16, 16))
    active, dropped = F.relu(seen["before"]), seen["after"]
    kept = dropped != 0
    torch.testing.assert_close(dropped[kept], 2 * active[kept])
    assert 0.4 < kept[active > 0].double().mean() < 0.6  # 4,000 values: standard error 0.008


def test_stochastic_depth_leaves_out_whole_images_and_keeps_the_mean() -> None:
    torch.manual_seed(0)
    layer = StochasticDepth(0.2)
    x = torch.rand(20_000, 2, 3, 3) + 1
    factors = (layer(x) / x).flatten(1)
    kept = factors[:, 0] != 0
    torch.testing.assert_close(factors[kept], torch.full_like(factors[kept], 1.25))
    assert not factors[~kept].any()
    assert kept.double().mean().item() == pytest.approx(0.8, abs=0.01)  # standard error 0.003
    assert layer.eval()(x) is x


def test_stochastic_depth_draws_from_the_seeded_generator() -> None:
    layer, x = StochasticDepth(0.5), torch.ones(64, 1, 1, 1)

    def drawn(seed: int) -> Tensor:
        torch.manual_seed(seed)
        return layer(x)

    assert torch.equal(drawn(3), drawn(3))
    assert not torch.equal(drawn(3), drawn(4))


def test_stochastic_depth_keeps_dtype() -> None:
    assert StochasticDepth(0.5)(torch.ones(4, 1, 2, 2, dtype=torch.bfloat16)).dtype == torch.bfloat16


@pytest.mark.parametrize("block", ["basic", "preactivation", "bottleneck", "resnext"])
def test_stochastic_depth_rises_linearly_to_its_value_in_the_last_block(block: str) -> None:
    resnext = {"widths": None, "cardinality": 4, "base_width": 2} if block == "resnext" else {}
    network = build_on_meta(config(block=block, blocks=[1, 3], stochastic_depth=0.4, **resnext))
    probabilities = [m.probability for m in network.modules() if isinstance(m, StochasticDepth)]
    assert probabilities == pytest.approx([0.1, 0.2, 0.3, 0.4])
    assert not [m for m in build_on_meta(config()).modules() if isinstance(m, StochasticDepth)]


@pytest.mark.parametrize("block", ["basic", "preactivation"])
def test_an_image_whose_branch_is_left_out_passes_by_the_shortcut(block: str, monkeypatch: pytest.MonkeyPatch) -> None:
    network = resnet(block=block, stochastic_depth=0.5, widths=[8], blocks=[1], strides=[1])
    x = F.relu(torch.randn(2, 8, 9, 9))
    block_module = network.stages[0][0]
    whole = block_module(x)
    block_module.stochastic_depth.train()
    draws = torch.tensor([0.49, 0.5])[:, None, None, None]
    monkeypatch.setattr(torch, "rand", lambda *size, **options: draws)
    out = block_module(x)
    torch.testing.assert_close(out[0], x[0])  # relu(x) is x
    if block == "preactivation":
        torch.testing.assert_close(out[1], x[1] + 2 * (whole[1] - x[1]))
    assert not torch.allclose(out[1], x[1])


def test_norms_without_a_trained_scale_move_only_their_biases() -> None:
    network = build_model(config(norm_scale=False))
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    assert norms
    assert all(torch.equal(module.weight, torch.ones_like(module.weight)) for module in norms)
    network(torch.randn(4, 3, 16, 16)).sum().backward()
    assert all(module.weight.grad is None for module in norms)
    assert all(module.bias.grad is not None for module in norms)
    scales = sum(module.num_features for module in norms)
    assert count_parameters(config()) - count_parameters(config(norm_scale=False)) == scales == 8 + 16 + 16 * 3 + 32


def test_norm_momentum_is_the_share_of_the_batch() -> None:
    layer = norm(2, BlockStyle(activation=F.relu, norm_momentum=0.4))
    x = torch.randn(5, 2, 3, 3) + 3
    layer(x)
    torch.testing.assert_close(layer.running_mean, 0.4 * x.mean((0, 2, 3)))
    torch.testing.assert_close(layer.running_var, torch.full((2,), 0.6) + 0.4 * x.var((0, 2, 3)))


@pytest.mark.parametrize("family", ["resnet", "resnet9"])
def test_norm_options_and_logit_scale_reach_the_whole_network(family: str) -> None:
    values: dict[str, Any] = {"stem": {"width": 8}, "family": family, "widths": [8, 16, 16]}
    if family == "resnet":
        values |= {"blocks": [1, 1, 1], "strides": [1, 2, 2], "block": "preactivation"}
    options = {"norm_scale": False, "norm_momentum": 0.4}
    network = build_on_meta(ModelConfig.model_validate(values | options))
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    assert {(module.momentum, module.weight.requires_grad) for module in norms} == {(0.4, False)}
    torch.manual_seed(0)
    plain = build_model(ModelConfig.model_validate(values)).eval()
    torch.manual_seed(0)
    scaled = build_model(ModelConfig.model_validate(values | {"logit_scale": 0.125})).eval()
    images = torch.randn(2, 3, 16, 16)
    assert torch.equal(scaled(images), plain(images) / 8)


def test_a_preactivation_network_survives_copying() -> None:
    network = resnet(block="preactivation", stochastic_depth=0.3)
    images = torch.randn(2, 3, 16, 16)
    assert torch.equal(copy.deepcopy(network)(images), network(images))
