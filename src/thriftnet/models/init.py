"""Initial weights."""

from __future__ import annotations

from typing import Literal

from torch import nn

Scheme = Literal["torch", "kaiming_fan_in", "kaiming_fan_out", "dirac"]


def initialize(network: nn.Module, scheme: Scheme) -> None:
    """Convolutions Kaiming-normal with ReLU's gain (He et al. 2015, arXiv 1502.01852, equation 10), norms 1 and 0.

    `torch` leaves the modules as torch built them, and `dirac` all but the 3x3 convolutions, see `_partial_identity`.
    Linear layers keep torch's default in every scheme, as in the papers' code; a frozen convolution is left alone.
    """
    if scheme == "torch":
        return
    if scheme == "dirac":
        for module in network.modules():
            if isinstance(module, nn.Conv2d) and module.kernel_size == (3, 3) and module.weight.requires_grad:
                _partial_identity(module)
        return
    mode: Literal["fan_in", "fan_out"] = "fan_in" if scheme == "kaiming_fan_in" else "fan_out"
    for module in network.modules():
        if isinstance(module, nn.Conv2d) and module.weight.requires_grad:
            nn.init.kaiming_normal_(module.weight, mode=mode, nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)


def _partial_identity(convolution: nn.Conv2d) -> None:
    """The first filters copy the input channels, each one; the rest stay (Jordan 2024, arXiv 2404.00498, section 3.2).

    A convolution in groups does so in each of them.
    """
    for filters in convolution.weight.detach().chunk(convolution.groups):
        nn.init.dirac_(filters[: filters.shape[1]])
