"""Optimisers, their groups and clipping against torch's plain ones."""

from typing import Any

import pytest
import torch
from torch import nn

from thriftnet.config import ModelConfig, MuonConfig, OptimizerConfig
from thriftnet.errors import RecipeError
from thriftnet.models.build import build_model
from thriftnet.optim.build import (
    CompositeOptimizer,
    build_optimizer,
    clip_gradients,
    muon_weights,
    parameter_groups,
    set_rates,
)
from thriftnet.optim.muon import Muon

CPU = torch.device("cpu")


def config(**values: Any) -> OptimizerConfig:
    return OptimizerConfig.model_validate(values)


def network() -> nn.Module:
    torch.manual_seed(0)
    # No bias before the normalisation: its gradient is rounding noise, which Adam would blow up to a full step.
    return nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4 * 36, 5))


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int = 4) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    for _ in range(steps):
        x = torch.randn(8, 3, 8, 8, generator=generator)
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()
    return [parameter.detach().clone() for parameter in model.parameters()]


@pytest.mark.parametrize(
    ("ours", "reference"),
    [
        ({"name": "sgd", "lr": 0.1}, lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, foreach=False)),
        (
            {"name": "sgd", "lr": 0.1, "nesterov": True, "weight_decay": 0.01},
            lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, nesterov=True, weight_decay=0.01, foreach=False),
        ),
        ({"name": "adam", "lr": 0.01, "weight_decay": 0.1}, lambda p: torch.optim.Adam(p, 0.01, weight_decay=0.1)),
        (
            {"name": "adamw", "lr": 0.01, "betas": [0.8, 0.99], "weight_decay": 0.1},
            lambda p: torch.optim.AdamW(p, 0.01, betas=(0.8, 0.99), weight_decay=0.1),
        ),
    ],
)
def test_fused_steps_equal_the_reference(ours: dict[str, Any], reference: Any) -> None:
    first, second = network(), network()
    for a, b in zip(
        train(first, build_optimizer(first, config(**ours), CPU)),
        train(second, reference(second.parameters())),
        strict=True,
    ):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7)


def test_weight_decay_can_leave_out_biases_and_norms() -> None:
    model = network()
    decayed, spared = parameter_groups(model, config(weight_decay=0.1, decay_biases_and_norms=False))
    assert decayed["weight_decay"] == 0.1
    assert spared["weight_decay"] == 0.0
    assert [p.ndim for p in decayed["params"]] == [4, 2]  # type: ignore[attr-defined]
    assert [p.ndim for p in spared["params"]] == [1, 1, 1]  # type: ignore[attr-defined]
    assert len(parameter_groups(model, config(weight_decay=0.1))) == 1


def test_spared_parameters_do_not_shrink_when_the_gradient_is_zero() -> None:
    model = network()
    before = [parameter.detach().clone() for parameter in model.parameters()]
    optimizer = build_optimizer(
        model, config(lr=0.1, momentum=0.0, weight_decay=0.5, decay_biases_and_norms=False), CPU
    )
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for old, new in zip(before, model.parameters(), strict=True):
        expected = old * (1 - 0.1 * 0.5) if old.ndim > 1 else old
        torch.testing.assert_close(new.detach(), expected)


def test_clipping_by_value_then_norm() -> None:
    parameter = nn.Parameter(torch.zeros(3))
    parameter.grad = torch.tensor([30.0, -40.0, 1.0])
    clip_gradients([parameter], config(clip_value=4.0))
    assert parameter.grad.tolist() == [4.0, -4.0, 1.0]
    clip_gradients([parameter], config(clip_norm=1.0))
    assert parameter.grad.norm().item() == pytest.approx(1.0, rel=1e-4)
    parameter.grad = torch.tensor([0.3, 0.4, 0.0])
    clip_gradients([parameter], config(clip_norm=1.0))
    assert parameter.grad.tolist() == pytest.approx([0.3, 0.4, 0.0])


def test_rates_reach_every_group() -> None:
    model = network()
    sgd = build_optimizer(model, config(weight_decay=0.1, decay_biases_and_norms=False), CPU)
    set_rates(sgd, 0.25, 0.5)
    assert [(group["lr"], group["momentum"]) for group in sgd.param_groups] == [(0.25, 0.5)] * 2
    adam = build_optimizer(model, config(name="adam"), CPU)
    set_rates(adam, 0.5, 0.8)
    assert adam.param_groups[0]["betas"] == (0.8, 0.999)
    set_rates(adam, 0.1, None)
    assert adam.param_groups[0]["betas"] == (0.8, 0.999)


def test_factors_multiply_the_rate_of_biases_and_norms_and_of_the_last_linear_layer() -> None:
    model = network()
    mine = build_optimizer(model, config(lr=0.1, bias_lr_factor=64.0, linear_lr_factor=0.5), CPU)
    names = {id(parameter): name for name, parameter in model.named_parameters()}

    def rates() -> dict[str, float]:
        return {names[id(p)]: group["lr"] for group in mine.param_groups for p in group["params"]}

    expected = {"0.weight": 0.1, "1.weight": 6.4, "1.bias": 6.4, "3.weight": 0.05, "3.bias": 0.05}
    assert rates() == pytest.approx(expected)
    set_rates(mine, 0.01, None)
    assert rates() == pytest.approx({name: rate / 10 for name, rate in expected.items()})


def test_factors_and_spared_decay_make_a_group_for_each_combination() -> None:
    groups = parameter_groups(network(), config(weight_decay=0.1, decay_biases_and_norms=False, linear_lr_factor=2.0))
    found = {(group["weight_decay"], group["lr_factor"]): len(group["params"]) for group in groups}  # type: ignore[arg-type]
    assert found == {(0.1, 1.0): 1, (0.0, 1.0): 2, (0.05, 2.0): 1, (0.0, 2.0): 1}


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_factors_do_not_scale_weight_decay(name: str) -> None:
    model = network()
    before = [parameter.detach().clone() for parameter in model.parameters()]
    mine = build_optimizer(
        model, config(name=name, lr=0.1, weight_decay=0.5, bias_lr_factor=4.0, linear_lr_factor=0.5), CPU
    )
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    mine.step()
    for old, new in zip(before, model.parameters(), strict=True):
        torch.testing.assert_close(new.detach(), old * (1 - 0.1 * 0.5))


def deep_network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, bias=False),
        nn.BatchNorm2d(4),
        nn.Conv2d(4, 6, 3, bias=False),
        nn.Conv2d(6, 6, 3, groups=2),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(6, 5),
    )


def with_muon(model: nn.Module, **values: Any) -> torch.optim.Optimizer:
    return build_optimizer(model, config(lr=0.1), CPU, MuonConfig.model_validate({"lr": 0.02, **values}))


def test_muon_takes_every_convolution_but_the_first() -> None:
    model = deep_network()
    mine = with_muon(model)
    assert isinstance(mine, CompositeOptimizer)
    rest, muon = mine.optimizers
    assert isinstance(muon, Muon)
    assert [p.shape for group in muon.param_groups for p in group["params"]] == [(6, 4, 3, 3), (6, 3, 3, 3)]
    assert sorted(p.ndim for group in rest.param_groups for p in group["params"]) == [1, 1, 1, 1, 2, 4]
    everything = [id(p) for group in mine.param_groups for p in group["params"]]
    assert sorted(everything) == sorted(id(p) for p in model.parameters())


def test_the_first_convolution_is_the_input_layer_even_when_frozen() -> None:
    model = deep_network()
    model[0].weight.requires_grad_(False)
    assert [tuple(weight.shape) for weight in muon_weights(model)] == [(6, 4, 3, 3), (6, 3, 3, 3)]
    model[2].weight.requires_grad_(False)
    assert [tuple(weight.shape) for weight in muon_weights(model)] == [(6, 3, 3, 3)]


@pytest.mark.parametrize(
    "model",
    [
        {"stem": {"width": 4}, "widths": [4, 8], "blocks": [1, 1], "strides": [1, 2], "se_reduction": 4},
        {"family": "resnet9", "stem": {"width": 4}, "widths": [4, 8, 8]},
        {"stem": {"kind": "whitening", "kernel": 2}, "widths": [4, 8], "blocks": [1, 1], "strides": [1, 2]},
    ],
)
def test_muon_leaves_stem_and_linear_layer_of_our_networks(model: dict[str, Any]) -> None:
    built = build_model(ModelConfig.model_validate(model))
    chosen = {id(weight) for weight in muon_weights(built)}
    left = [name for name, p in built.named_parameters() if id(p) not in chosen and p.ndim > 1]
    assert left in (["conv.weight", "linear.weight"], ["features.0.conv.weight", "linear.weight"])


def test_a_network_without_hidden_convolutions_is_refused() -> None:
    with pytest.raises(RecipeError, match=r"this network has none; remove \[muon\]"):
        with_muon(network())


def test_muon_moves_with_the_schedule_and_keeps_its_momentum() -> None:
    mine = with_muon(deep_network())
    set_rates(mine, 0.05, 0.6)  # half of optimizer.lr
    assert isinstance(mine, CompositeOptimizer)
    rest, muon = mine.optimizers
    assert [(group["lr"], group["momentum"]) for group in rest.param_groups] == [(0.05, 0.6)]
    assert [group["lr"] for group in muon.param_groups] == [pytest.approx(0.01)]
    assert "momentum" not in muon.param_groups[0]


def test_a_composite_step_is_the_step_of_each_part() -> None:
    together, apart = deep_network(), deep_network()
    composite = with_muon(together)
    weights = muon_weights(apart)
    muon = Muon([{"params": weights}], MuonConfig(lr=0.02), torch.float32)
    sgd = torch.optim.SGD([p for p in apart.parameters() if all(p is not w for w in weights)], 0.1, momentum=0.9)
    for _ in range(3):
        for ours, theirs in zip(together.parameters(), apart.parameters(), strict=True):
            ours.grad = torch.randn_like(ours)
            theirs.grad = ours.grad.clone()
        composite.step()
        muon.step()
        sgd.step()
    for ours, theirs in zip(together.parameters(), apart.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs)
    composite.zero_grad()
    assert all(parameter.grad is None for parameter in together.parameters())


def test_a_composites_state_goes_on_bit_for_bit_and_its_rates_still_reach_the_parts() -> None:
    whole, half = deep_network(), deep_network()
    optimizer = with_muon(whole)
    train(whole, optimizer)
    train(half, first := with_muon(half))
    second = with_muon(half)
    second.load_state_dict(first.state_dict())
    for mine in (optimizer, second):
        set_rates(mine, 0.07, None)
    for a, b in zip(train(whole, optimizer), train(half, second), strict=True):
        assert torch.equal(a, b)
    with pytest.raises((KeyError, ValueError)):
        second.load_state_dict(torch.optim.SGD(half.parameters(), 0.1).state_dict())


def test_loss_scaling_changes_no_step_and_leaves_out_an_overflow_in_every_part() -> None:
    plain, scaled = deep_network(), deep_network()
    train(plain, with_muon(plain))
    mine = with_muon(scaled)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    generator = torch.Generator().manual_seed(1)
    for _ in range(4):
        x = torch.randn(8, 3, 8, 8, generator=generator)
        mine.zero_grad()
        scaler.scale(scaled(x).square().mean()).backward()
        scaler.unscale_(mine)
        scaler.step(mine)
        scaler.update()
    for a, b in zip(plain.parameters(), scaled.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)
    before = [p.detach().clone() for p in scaled.parameters()]
    scaler.scale(scaled(torch.randn(8, 3, 8, 8)).square().mean()).backward()
    scaled[0].weight.grad[0, 0, 0, 0] = torch.inf
    scaler.unscale_(mine)
    scaler.step(mine)
    scaler.update()
    assert all(torch.equal(a, b) for a, b in zip(before, scaled.parameters(), strict=True))
    assert scaler.get_scale() == 512.0
