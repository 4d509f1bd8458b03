"""Noise. Shapes: images float32 [N, C, H, W] in [0, 1]; results may leave [0, 1] and are cut by the caller."""

from __future__ import annotations

import torch
from torch import Tensor

from thriftnet.augment.draws import Draws
from thriftnet.evaluation.corruptions.fields import normal

_LEVELS = 256


def gaussian_noise(images: Tensor, draws: Draws, stream: str, deviation: float) -> Tensor:
    """x + deviation * normal."""
    return images + deviation * normal(draws, f"{stream}.normal", *images.shape[1:])


def speckle_noise(images: Tensor, draws: Draws, stream: str, deviation: float) -> Tensor:
    """x + x * deviation * normal."""
    return images + images * deviation * normal(draws, f"{stream}.normal", *images.shape[1:])


def shot_noise(images: Tensor, draws: Draws, stream: str, photons: float) -> Tensor:
    """Poisson(x * photons) / photons, by the inverse of the distribution function; x are whole levels."""
    most = int(photons + 10 * photons**0.5)
    counts = torch.arange(most + 1, dtype=torch.float64, device=images.device)
    means = torch.arange(_LEVELS, dtype=torch.float64, device=images.device)[:, None] * (photons / (_LEVELS - 1))
    log_chance = torch.special.xlogy(counts, means) - means - torch.lgamma(counts + 1)
    below = log_chance.exp().cumsum(dim=1).clamp_max_(1)
    below[:, -1] = 1
    # One sorted sequence for all levels: level l has the stretch from l to l + 1.
    levels = (images * (_LEVELS - 1)).round().flatten(1).double()
    drawn = levels + draws.uniform(f"{stream}.uniform", levels.shape[1])
    sequence = (below + torch.arange(_LEVELS, dtype=torch.float64, device=images.device)[:, None]).flatten()
    found = torch.searchsorted(sequence, drawn, right=True) - levels.to(torch.int64) * (most + 1)
    return (found / photons).to(images.dtype).reshape(images.shape)


def impulse_noise(images: Tensor, draws: Draws, stream: str, amount: float) -> Tensor:
    """A share `amount` of the values (of each channel by itself) becomes 0 or 1, equally likely."""
    values = images[0].numel()
    hit = draws.uniform(f"{stream}.hit", values) < amount
    white = draws.integers(f"{stream}.white", 2, values).to(images.dtype)
    return torch.where(hit, white, images.flatten(1)).reshape(images.shape)
