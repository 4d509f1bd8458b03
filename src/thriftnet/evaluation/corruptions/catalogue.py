"""The nineteen corruptions by name, each with the constants of CIFAR-10-C's five severities.

Hendrycks and Dietterich 2019, arXiv 1903.12261. The constants are those with which the authors' public program made
CIFAR-10-C, for 32 pixels; ImageNet-C's are larger. On images of another side they stay what they are in pixels, except
that pixelate and elastic_transform are defined by fractions of the side.

All are the original's steps in formulas of our own but `frost`, whose photographs are replaced by drawn ice: its
numbers cannot be compared with published ones.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from thriftnet.augment.draws import Draws
from thriftnet.data.normalize import as_float
from thriftnet.errors import UserError, nearest
from thriftnet.evaluation.corruptions import blur, digital, noise, weather

SEVERITIES = (1, 2, 3, 4, 5)
_IMAGES_AT_ONCE = 250  # keeps what a corruption needs in between small; the result does not depend on it


@dataclass(frozen=True)
class Corruption:
    """A function of images, draws, a stream's name and constants, with the constants of severities 1 to 5."""

    function: Callable[..., Tensor]
    constants: tuple[tuple[Any, ...], ...]


CORRUPTIONS: dict[str, Corruption] = {
    "gaussian_noise": Corruption(noise.gaussian_noise, ((0.04,), (0.06,), (0.08,), (0.09,), (0.10,))),
    "shot_noise": Corruption(noise.shot_noise, ((500,), (250,), (100,), (75,), (50,))),
    "impulse_noise": Corruption(noise.impulse_noise, ((0.01,), (0.02,), (0.03,), (0.05,), (0.07,))),
    "defocus_blur": Corruption(blur.defocus_blur, ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1))),
    "glass_blur": Corruption(blur.glass_blur, ((0.05, 1, 1), (0.25, 1, 1), (0.4, 1, 1), (0.25, 1, 2), (0.4, 1, 2))),
    "motion_blur": Corruption(blur.motion_blur, ((6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5))),
    "zoom_blur": Corruption(blur.zoom_blur, ((7,), (12,), (16,), (21,), (26,))),
    "snow": Corruption(
        weather.snow,
        (
            (0.1, 0.2, 1, 0.6, 8, 3, 0.95),
            (0.1, 0.2, 1, 0.5, 10, 4, 0.9),
            (0.15, 0.3, 1.75, 0.55, 10, 4, 0.9),
            (0.25, 0.3, 2.25, 0.6, 12, 6, 0.85),
            (0.3, 0.3, 1.25, 0.65, 14, 12, 0.8),
        ),
    ),
    "frost": Corruption(weather.frost, ((1, 0.2), (1, 0.3), (0.9, 0.4), (0.85, 0.4), (0.75, 0.45))),
    "fog": Corruption(weather.fog, ((0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75))),
    "brightness": Corruption(digital.brightness, ((0.05,), (0.1,), (0.15,), (0.2,), (0.3,))),
    "contrast": Corruption(digital.contrast, ((0.75,), (0.5,), (0.4,), (0.3,), (0.15,))),
    "elastic_transform": Corruption(
        digital.elastic_transform,
        ((0, 0, 0.08), (0.05, 0.2, 0.07), (0.08, 0.06, 0.06), (0.1, 0.04, 0.05), (0.1, 0.03, 0.03)),
    ),
    "pixelate": Corruption(digital.pixelate, ((0.95,), (0.9,), (0.85,), (0.75,), (0.65,))),
    "jpeg_compression": Corruption(digital.jpeg_compression, ((80,), (65,), (58,), (50,), (40,))),
    "speckle_noise": Corruption(noise.speckle_noise, ((0.06,), (0.1,), (0.12,), (0.16,), (0.2,))),
    "gaussian_blur": Corruption(blur.gaussian_blur, ((0.4,), (0.6,), (0.7,), (0.8,), (1,))),
    "spatter": Corruption(
        weather.spatter,
        (
            (0.62, 0.1, 0.7, 0.7, 0.5, False),
            (0.65, 0.1, 0.8, 0.7, 0.5, False),
            (0.65, 0.3, 1, 0.69, 0.5, False),
            (0.65, 0.1, 0.7, 0.69, 0.6, True),
            (0.65, 0.1, 0.5, 0.68, 0.6, True),
        ),
    ),
    "saturate": Corruption(digital.saturate, ((0.3, 0), (0.1, 0), (1.5, 0), (2, 0.1), (2.5, 0.2))),
}
EXTRA = ("speckle_noise", "gaussian_blur", "spatter", "saturate")
"""Published for tuning; the benchmark's mean leaves them out."""
BENCHMARK = tuple(name for name in CORRUPTIONS if name not in EXTRA)


def corrupt(images: Tensor, name: str, severity: int, indices: Tensor | None = None, seed: int = 0) -> Tensor:
    """The images, uint8 [N, C, H, W], under one corruption of severity 1 to 5; uint8 on the same device.

    What is random depends on (seed, name, severity, index) alone: `indices` (int64 [N], by default 0 to N - 1) are the
    images' places in their split, so a subset or another batch gives the same images. Fractions of levels are cut off,
    as the original does. Raises UserError for an unknown name or severity or for images that it cannot be applied to.
    """
    if name not in CORRUPTIONS:
        raise UserError(f"there is no corruption {name!r}{nearest(name, CORRUPTIONS)}")
    if severity not in SEVERITIES:
        raise UserError(f"severity {severity} of {name} does not exist; give 1 to 5")
    reason = unsuitable(name, images.shape[1])
    if reason is not None:
        raise UserError(f"{name} {reason}; leave it out")
    indices = torch.arange(len(images)) if indices is None else indices
    corruption, result = CORRUPTIONS[name], torch.empty_like(images)
    for start in range(0, len(images), _IMAGES_AT_ONCE):
        part = slice(start, start + _IMAGES_AT_ONCE)
        draws = Draws(seed, 0, indices[part].to(images.device))
        changed = corruption.function(
            as_float(images[part]), draws, f"{name}.{severity}", *corruption.constants[severity - 1]
        )
        # A thousandth of a level more, so that rounding errors do not lower whole levels by one.
        result[part] = (changed.clamp_(0, 1) * 255 + 1e-3).to(torch.uint8)
    return result


def unsuitable(name: str, channels: int) -> str | None:
    """Why a corruption cannot be applied to images of so many channels; None where it can."""
    if channels not in (1, 3):
        return f"needs images of 1 or 3 channels, not {channels}"
    return "needs colour, and these images are gray" if name == "saturate" and channels == 1 else None
