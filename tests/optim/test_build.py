"""Optimisers and clipping against torch's plain ones."""

from typing import Any

import pytest
import torch
from torch import nn

from thriftnet.config import OptimizerConfig
from thriftnet.optim.build import build_optimizer, clip_gradients, parameter_groups, set_rates

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
