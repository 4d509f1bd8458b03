"""Gaussian blur of batches, with a standard deviation of its own for every image."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def gaussian_blur(images: Tensor, sigma_px: Tensor, kernel_px: int) -> Tensor:
    """Blur images (float32 [N, C, H, W] in [0, 1]) with standard deviations `sigma_px` (float32 [N]); 0 is no blur.

    The kernel is exp(-t^2 / 2 sigma^2) at the `kernel_px` (odd) whole t around 0, divided by its sum, along columns and
    then rows. The border is mirrored about its pixels (reflect), so kernel_px // 2 must be less than the side.
    """
    reach = kernel_px // 2
    taps = torch.arange(reach + 1, device=images.device) / sigma_px.clamp_min(1e-6)[:, None]
    weights = torch.exp(-0.5 * taps.square())
    weights = weights / (2 * weights.sum(dim=1, keepdim=True) - 1)
    rows_blurred = _convolve(functional.pad(images, (0, 0, reach, reach), mode="reflect"), weights, axis=2)
    return _convolve(functional.pad(rows_blurred, (reach, reach, 0, 0), mode="reflect"), weights, axis=3).clamp_(0, 1)


def _convolve(padded: Tensor, weights: Tensor, axis: int) -> Tensor:
    """The symmetric kernel whose taps 0, 1, ... are `weights` [N, reach + 1], along one axis of the padded images."""
    reach = weights.shape[1] - 1
    side = padded.shape[axis] - 2 * reach
    blurred = padded.narrow(axis, reach, side) * weights[:, 0, None, None, None]
    for tap in range(1, reach + 1):
        pair = padded.narrow(axis, reach - tap, side) + padded.narrow(axis, reach + tap, side)
        blurred.addcmul_(pair, weights[:, tap, None, None, None])
    return blurred
