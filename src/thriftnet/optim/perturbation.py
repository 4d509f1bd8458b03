"""Adversarial model perturbation (AMP): the gradient that the base optimiser steps with is taken at perturbed weights.

Zheng, Zhang, Mao, "Regularizing Neural Networks via Adversarial Model Perturbation", CVPR 2021, arXiv 2010.04925,
algorithm 1. For each parameter tensor, from delta = 0, `inner_steps` times:

    delta <- delta + inner_lr * gradient(theta + delta)
    if ||delta||_2 > epsilon:  delta <- delta * epsilon / ||delta||_2

Then the parameters are restored and the optimiser steps with gradient(theta + delta). The condition tells AMP from SAM
(arXiv 2010.01412): where the gradient is shorter than epsilon, delta is the gradient itself, not stretched to the ball.

Decisions, documented in docs/optimisation.md: the reported loss is the unperturbed one; clipping applies to the
gradient that the optimiser steps with, never to the one that perturbs; BatchNorm's running statistics are updated by
every pass, as the authors' code does, or by the first alone (`batchnorm = "first_pass"`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor, nn

from thriftnet.config import PerturbationConfig


def adversarial_gradient(
    network: nn.Module, config: PerturbationConfig, compute: Callable[[], Tensor], gradient_scale: float = 1.0
) -> Tensor:
    """Leave gradient(theta + delta) in every `.grad`, theta as it was (bit for bit), and return the loss at theta.

    `compute` clears the gradients, runs forward and backward and returns the loss; if it raises, theta is restored.
    `gradient_scale` is what fp16 loss scaling has multiplied the gradients by.
    """
    loss = compute()
    parameters: list[Tensor] = [p for p in network.parameters() if p.grad is not None]
    originals = [p.detach().clone() for p in parameters]
    deltas = [torch.zeros_like(p) for p in parameters]
    later_passes = _running_statistics_kept(network) if config.batchnorm == "first_pass" else nullcontext()
    try:
        with later_passes:
            for _ in range(config.inner_steps):
                _ascend(deltas, parameters, config, gradient_scale)
                _assign(parameters, torch._foreach_add(originals, deltas))
                compute()
    finally:
        _assign(parameters, originals)
    return loss


@torch.no_grad()
def _ascend(deltas: list[Tensor], parameters: list[Tensor], config: PerturbationConfig, gradient_scale: float) -> None:
    gradients = [p.grad for p in parameters if p.grad is not None]
    if gradient_scale != 1.0:
        # An overflow under fp16 scaling must not reach the weights: that component is left unperturbed, and the
        # scaler skips the update if the overflow is there in the last pass too.
        gradients = [torch.nan_to_num(g / gradient_scale, nan=0.0, posinf=0.0, neginf=0.0) for g in gradients]
    torch._foreach_add_(deltas, gradients, alpha=config.inner_lr)
    for delta, norm in zip(deltas, torch._foreach_norm(deltas), strict=True):
        # A tensor operation instead of a Python `if`, so that a GPU is not waited for.
        delta.mul_(torch.where(norm > config.epsilon, config.epsilon / norm, torch.ones_like(norm)))


@torch.no_grad()
def _assign(parameters: list[Tensor], values: list[Tensor] | tuple[Tensor, ...]) -> None:
    torch._foreach_copy_(parameters, values)


@contextmanager
def _running_statistics_kept(network: nn.Module) -> Iterator[None]:
    """BatchNorm normalises with the batch's statistics as in training, but leaves its running ones alone."""
    norms = [m for m in network.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.track_running_stats]
    for norm in norms:
        norm.track_running_stats = False
    try:
        yield
    finally:
        for norm in norms:
            norm.track_running_stats = True
