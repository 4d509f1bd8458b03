"""The gradient that the base optimiser steps with, taken at perturbed weights: AMP, SAM and ASAM.

*Adversarial model perturbation* (AMP): Zheng, Zhang, Mao, CVPR 2021, arXiv 2010.04925, algorithm 1. For each parameter
tensor, from delta = 0, `inner_steps` times:

    delta <- delta + inner_lr * gradient(theta + delta)
    if ||delta||_2 > epsilon:  delta <- delta * epsilon / ||delta||_2

*Sharpness-aware minimisation* (SAM): Foret et al., ICLR 2021, arXiv 2010.01412, equation 2, with one norm over all
parameters. *Adaptive SAM* (ASAM): Kwon et al., ICML 2021, arXiv 2102.11600, algorithm 1, T = |theta| + eta elementwise:

    SAM:   delta = rho * gradient / ||gradient||_2
    ASAM:  delta = rho * T^2 gradient / ||T gradient||_2

Then the parameters are restored and the optimiser steps with gradient(theta + delta). The `if` tells AMP from SAM:
where the gradient is shorter than epsilon, delta is the gradient itself, not stretched to the ball.

Decisions, documented in docs/optimisation.md: the reported loss is the unperturbed one; clipping applies to the
gradient that the optimiser steps with, never to the one that perturbs; BatchNorm's running statistics are updated by
every pass, as the authors' code of AMP does, or by the first alone (`batchnorm = "first_pass"`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor, nn

from thriftnet.config import PerturbationConfig

DEFAULT_RHO = {"sam": 0.05, "asam": 0.5}  # the papers' values for CIFAR-10
SMALLEST_NORM = 1e-12  # of a gradient that SAM still stretches to its ball; a zero gradient perturbs nothing


def has_begun(config: PerturbationConfig | None, step: int, total_steps: int) -> bool:
    """Whether update `step`, counted from 0, is perturbed: the first round(start * total_steps) are not."""
    return config is not None and step >= round(config.start * total_steps)


def adversarial_gradient(
    network: nn.Module, config: PerturbationConfig, compute: Callable[[], Tensor], gradient_scale: float | Tensor = 1.0
) -> Tensor:
    """Leave gradient(theta + delta) in every `.grad`, theta as it was (bit for bit), and return the loss at theta.

    `compute` clears the gradients, runs forward and backward and returns the loss; if it raises, theta is restored.
    `gradient_scale` (a number, or 0-d) is what fp16 loss scaling has multiplied the gradients by.
    """
    loss = compute()
    parameters: list[Tensor] = [p for p in network.parameters() if p.grad is not None]
    originals = [p.detach().clone() for p in parameters]
    deltas = [torch.zeros_like(p) for p in parameters]
    later_passes = _running_statistics_kept(network) if config.batchnorm == "first_pass" else nullcontext()
    try:
        with later_passes:
            for _ in range(config.inner_steps):
                gradients = _unscaled_gradients(parameters, gradient_scale)
                if config.name == "amp":
                    _ascend(deltas, gradients, config)
                else:
                    deltas = _sharpness_ascent(originals, gradients, config)
                _assign(parameters, torch._foreach_add(originals, deltas))
                compute()
    finally:
        _assign(parameters, originals)
    return loss


@torch.no_grad()
def _unscaled_gradients(parameters: list[Tensor], gradient_scale: float | Tensor) -> list[Tensor]:
    gradients = [p.grad for p in parameters if p.grad is not None]
    if not isinstance(gradient_scale, Tensor) and gradient_scale == 1.0:  # a comparison would wait for a GPU
        return gradients
    # An overflow under fp16 scaling must not reach the weights: that component is left unperturbed, and the
    # scaler skips the update if the overflow is there in the last pass too.
    return [torch.nan_to_num(g / gradient_scale, nan=0.0, posinf=0.0, neginf=0.0) for g in gradients]


@torch.no_grad()
def _ascend(deltas: list[Tensor], gradients: list[Tensor], config: PerturbationConfig) -> None:
    """AMP's step inside the ball of each tensor."""
    torch._foreach_add_(deltas, gradients, alpha=config.inner_lr)
    for delta, norm in zip(deltas, torch._foreach_norm(deltas), strict=True):
        # A tensor operation instead of a Python `if`, so that a GPU is not waited for.
        delta.mul_(torch.where(norm > config.epsilon, config.epsilon / norm, torch.ones_like(norm)))


@torch.no_grad()
def _sharpness_ascent(originals: list[Tensor], gradients: list[Tensor], config: PerturbationConfig) -> list[Tensor]:
    """The deltas of SAM or ASAM, of one 2-norm over all parameters (ASAM: the norm of delta / T)."""
    rho = config.rho if config.rho is not None else DEFAULT_RHO[config.name]
    magnitudes: list[Tensor] | tuple[Tensor, ...] | None = None
    if config.name == "asam":
        magnitudes = torch._foreach_abs(originals)
        torch._foreach_add_(magnitudes, config.eta)
        gradients = list(torch._foreach_mul(gradients, magnitudes))
    norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
    deltas = list(torch._foreach_mul(gradients, rho / norm.clamp_min(SMALLEST_NORM)))
    if magnitudes is not None:
        torch._foreach_mul_(deltas, magnitudes)
    return deltas


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
