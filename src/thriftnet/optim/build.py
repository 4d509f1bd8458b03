"""The base optimiser of a recipe, and clipping."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

from thriftnet.config import OptimizerConfig


def parameter_groups(network: nn.Module, config: OptimizerConfig) -> list[dict[str, object]]:
    """All trainable parameters, in two groups where biases and norms (one-dimensional) are spared weight decay."""
    trainable = [parameter for parameter in network.parameters() if parameter.requires_grad]
    if config.decay_biases_and_norms or config.weight_decay == 0:
        return [{"params": trainable, "weight_decay": config.weight_decay}]
    return [
        {"params": [p for p in trainable if p.ndim > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in trainable if p.ndim <= 1], "weight_decay": 0.0},
    ]


def build_optimizer(network: nn.Module, config: OptimizerConfig, device: torch.device) -> torch.optim.Optimizer:
    """torch's SGD, Adam or AdamW over `network`; its fused kernel where the device has one (one pass over memory)."""
    groups = parameter_groups(network, config)
    fused = device.type in ("cpu", "cuda")
    if config.name == "sgd":
        return torch.optim.SGD(groups, lr=config.lr, momentum=config.momentum, nesterov=config.nesterov, fused=fused)
    kind = torch.optim.Adam if config.name == "adam" else torch.optim.AdamW
    return kind(groups, lr=config.lr, betas=config.betas, eps=config.eps, fused=fused)


def set_rates(optimizer: torch.optim.Optimizer, lr: float, momentum: float | None) -> None:
    """Write the schedule's values for the next update; `momentum` is Adam's beta1 where there are betas."""
    for group in optimizer.param_groups:
        group["lr"] = lr
        if momentum is not None:
            if "betas" in group:
                group["betas"] = (momentum, group["betas"][1])
            else:
                group["momentum"] = momentum


def clip_gradients(parameters: Iterable[nn.Parameter], config: OptimizerConfig) -> None:
    """Clip each component first, then the whole gradient's 2-norm, where the recipe asks for it."""
    if config.clip_value is None and config.clip_norm is None:
        return
    parameters = list(parameters)
    if config.clip_value is not None:
        nn.utils.clip_grad_value_(parameters, config.clip_value)
    if config.clip_norm is not None:
        nn.utils.clip_grad_norm_(parameters, config.clip_norm)
