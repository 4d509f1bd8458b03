"""Counting parameters and holding a network to its budget, before any real memory or data is touched."""

from __future__ import annotations

from torch import nn

from thriftnet.config import ModelConfig
from thriftnet.errors import BudgetError


def trainable_parameters(network: nn.Module) -> int:
    """Elements of all parameters that require a gradient; works on the meta device."""
    return sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad)


def check_budget(count: int, model: ModelConfig, name: str) -> None:
    """Raise BudgetError, with the excess and what to change, if `count` exceeds `model.parameter_budget`."""
    excess = count - model.parameter_budget
    if excess <= 0:
        return
    # Parameters of convolutions grow with the square of the widths, so the square root of the ratio fits the budget.
    factor = (model.parameter_budget / count) ** 0.5
    lever = "model.base_width" if model.block == "resnext" and model.family == "resnet" else "model.widths"
    raise BudgetError(
        f"{name} has {count:,} trainable parameters, {excess:,} over the budget of {model.parameter_budget:,}; "
        f"multiply {lever} by about {factor:.2f}, use fewer model.blocks, or raise model.parameter_budget (--budget)"
    )
