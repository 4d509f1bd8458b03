"""Initial weights."""

from __future__ import annotations

from typing import Literal

from torch import nn


def initialize(network: nn.Module, scheme: Literal["torch", "kaiming_fan_in", "kaiming_fan_out"]) -> None:
    """Convolutions Kaiming-normal with ReLU's gain (He et al. 2015, arXiv 1502.01852, equation 10), norms 1 and 0.

    `torch` leaves the modules as torch built them. Linear layers keep torch's default in every scheme, as in the
    papers' code.
    """
    if scheme == "torch":
        return
    mode: Literal["fan_in", "fan_out"] = "fan_in" if scheme == "kaiming_fan_in" else "fan_out"
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode=mode, nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)
