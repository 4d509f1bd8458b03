"""Blurs. Shapes: images float32 [N, C, H, W] in [0, 1]; results may leave [0, 1] and are cut by the caller."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from thriftnet.augment.draws import Draws
from thriftnet.evaluation.corruptions.fields import (
    clipped_zoom_map,
    correlate,
    gather_pixels,
    inside,
    pixel_grid,
    separable,
    smooth,
)

_REACH_PX = 3  # of the largest defocus kernel: radius 1.5, then a 3x3 Gaussian


def gaussian_blur(images: Tensor, draws: Draws, stream: str, sigma_px: float) -> Tensor:
    return smooth(images, sigma_px)


def defocus_blur(images: Tensor, draws: Draws, stream: str, radius_px: float, sigma_px: float) -> Tensor:
    """A disk whose edge a 3x3 Gaussian softens."""
    return correlate(images, disk_kernel(radius_px, sigma_px))


def disk_kernel(radius_px: float, sigma_px: float) -> Tensor:
    """float64 [7, 7], sum 1: the pixels within `radius_px`, blurred by a 3x3 Gaussian of `sigma_px`."""
    at = torch.arange(-_REACH_PX, _REACH_PX + 1)
    disk = (at[:, None] ** 2 + at**2 <= radius_px**2).double()
    side = torch.exp(-0.5 * torch.tensor([-1.0, 0.0, 1.0], dtype=torch.float64).div(sigma_px).square())
    side = side / side.sum()
    return torch.nn.functional.conv2d((disk / disk.sum())[None, None], side.outer(side)[None, None], padding=1)[0, 0]


def glass_blur(images: Tensor, draws: Draws, stream: str, sigma_px: float, reach_px: int, iterations: int) -> Tensor:
    """Blur, cut to whole levels, move pixels about, blur again.

    The original means to exchange each pixel with a neighbour up to `reach_px` up and left, going from the bottom right
    corner to the top left. Its exchange of two NumPy views copies the neighbour instead; the public files of CIFAR-10-C
    were made so. A copied pixel was not written before, so all can be copied at once.
    """
    blurred = (smooth(images, sigma_px) * 255 + 1e-3).floor() / 255
    rows, columns = pixel_grid(images)
    moved = (rows > reach_px) & (columns > reach_px)
    for turn in range(iterations):
        shape = (len(images), 2, *images.shape[2:])
        shift = draws.integers(f"{stream}.shift.{turn}", 2 * reach_px, shape[1] * shape[2] * shape[3]) - reach_px
        shift = shift.reshape(shape) * moved[:, None]
        seen_rows = (rows + shift[:, 0]).clamp(0, images.shape[2] - 1)
        blurred = gather_pixels(blurred, seen_rows, (columns + shift[:, 1]).clamp(0, images.shape[3] - 1))
    return smooth(blurred, sigma_px)


def motion_blur(images: Tensor, draws: Draws, stream: str, radius_px: int, sigma_px: float) -> Tensor:
    """Blur along a line at an angle drawn from [-45, 45) degrees; whole levels, as the original's program returns."""
    degrees = 90 * draws.uniform(f"{stream}.angle")[:, 0] - 45
    return (directed_blur(images, degrees, radius_px, sigma_px) * 255).round() / 255


def directed_blur(images: Tensor, degrees: Tensor, radius_px: int, sigma_px: float) -> Tensor:
    """ImageMagick's motion blur: one-sided Gaussian weights at 2 radius + 1 whole pixels along a line.

    Tap i lies at (ceil(i cos - 1/2), ceil(i sin - 1/2)) right and down of the pixel; outside is the border pixel.
    `degrees`: float32 [N].
    """
    rows, columns = pixel_grid(images)
    weights = [math.exp(-0.5 * (tap / sigma_px) ** 2) for tap in range(2 * radius_px + 1)]
    right, down = torch.cos(torch.deg2rad(degrees)), torch.sin(torch.deg2rad(degrees))
    blurred = torch.zeros_like(images)
    for tap, weight in enumerate(weights):
        ahead, below = ((tap * part - 0.5).ceil().to(torch.int64)[:, None, None] for part in (right, down))
        seen_rows = inside(rows + below, images.shape[2], "nearest")
        seen = gather_pixels(images, seen_rows, inside(columns + ahead, images.shape[3], "nearest"))
        blurred.add_(seen, alpha=weight / sum(weights))
    return blurred


def zoom_blur(images: Tensor, draws: Draws, stream: str, zooms: int) -> Tensor:
    """Mean of the image, counted twice, and of its zooms by 1.01, 1.02, ...: `zooms` factors from 1 in all."""
    total = images.clone()
    for step in range(zooms):
        # As numpy.arange(1, ..., 0.01) rounds: its 1.25 is a little more, which makes 33 of 32.5 pixels.
        factor = 1 + step * (1.01 - 1)
        rows, columns = (clipped_zoom_map(side, factor) for side in images.shape[2:])
        total += separable(images, rows, columns)
    return total / (zooms + 1)
