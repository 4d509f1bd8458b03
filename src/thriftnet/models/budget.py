"""Counting parameters."""

from __future__ import annotations

from torch import nn


def trainable_parameters(network: nn.Module) -> int:
    """Elements of all parameters that require a gradient; works on the meta device."""
    return sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad)
