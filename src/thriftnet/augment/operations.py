"""The operations of a recipe: each draws its parameters for a batch and applies them.

Shapes: N images, C channels, H rows, W columns; images are uint8 until an operation needs fractions, then float32 in
[0, 1]. Whole-pixel operations are several times faster on uint8.

Stream names of draws are `position.op.what`, so two rotations in one list differ, and adding an operation at the end
changes nothing before it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar, Literal, Protocol, runtime_checkable

import torch
from torch import Tensor

from thriftnet import config
from thriftnet.augment import colour, erasing, filters, geometry
from thriftnet.augment.draws import Draws
from thriftnet.data.normalize import as_float
from thriftnet.errors import RecipeError

_WINDOW_ATTEMPTS = 10
"""Windows drawn before a centred one is taken, as in torchvision's RandomResizedCrop."""


Interpolation = Literal["nearest", "bilinear"]


class Operation(Protocol):
    """One entry of augment.ops, ready to be applied."""

    def apply(self, images: Tensor, draws: Draws) -> Tensor:
        """The images [N, C, H, W], changed; row i is drawn for by row i of `draws`."""


@runtime_checkable
class GeometricOperation(Operation, Protocol):
    """An operation that can also be said as affine maps, and so be fused with its neighbours."""

    @property
    def interpolation(self) -> Interpolation:
        """How values between pixel centres are found; flips and whole-pixel crops need none."""

    @property
    def fill(self) -> float | None:
        """What is seen outside the image, in [0, 1]; None: nothing outside is ever seen."""

    def maps(self, draws: Draws, height: int, width: int) -> Tensor:
        """The affine maps [N, 2, 3] of `geometry`, for the same draws as in `apply`."""


@dataclass(frozen=True)
class Flip:
    settings: config.HorizontalFlip | config.VerticalFlip | config.AlternatingFlip
    stream: str
    interpolation: ClassVar[Interpolation] = "nearest"
    fill: ClassVar[None] = None

    def apply(self, images: Tensor, draws: Draws) -> Tensor:
        axis = 2 if isinstance(self.settings, config.VerticalFlip) else 3
        return geometry.flip(images, self.mirrored(draws), axis)

    def maps(self, draws: Draws, height: int, width: int) -> Tensor:
        mirrored = self.mirrored(draws).to(torch.int64)
        still = torch.zeros_like(mirrored)
        if isinstance(self.settings, config.VerticalFlip):
            return geometry.axis_maps(still + 1, still, 1 - 2 * mirrored, height * mirrored)
        return geometry.axis_maps(1 - 2 * mirrored, width * mirrored, still + 1, still)

    def mirrored(self, draws: Draws) -> Tensor:
        """bool [N]: which images are mirrored; alternating ones as drawn for epoch 1, the others in even epochs."""
        if isinstance(self.settings, config.AlternatingFlip):
            return _chosen(draws.in_epoch(1), self.stream, 0.5) ^ draws.key.is_even
        return _chosen(draws, self.stream, self.settings.probability)


@dataclass(frozen=True)
class PaddedCrop:
    settings: config.PaddedCrop
    stream: str
    interpolation: ClassVar[Interpolation] = "nearest"

    @property
    def fill(self) -> float:
        return self.settings.fill

    def apply(self, images: Tensor, draws: Draws) -> Tensor:
        side = min(images.shape[2:])
        if self.settings.padding == "reflect" and self.settings.pad_px >= side:
            raise RecipeError(
                f"augment.ops: padded_crop's pad_px = {self.settings.pad_px} with padding = 'reflect' must be less "
                f"than the image side, {side}"
            )
        images, fill = with_fill(images, self.settings.fill)
        dx, dy = self._shifts(draws)
        return geometry.shift_crop(images, dx, dy, self.settings.padding, fill)

    def maps(self, draws: Draws, height: int, width: int) -> Tensor:
        dx, dy = self._shifts(draws)
        return geometry.axis_maps(torch.ones_like(dx), dx, torch.ones_like(dy), dy)

    def _shifts(self, draws: Draws) -> tuple[Tensor, ...]:
        pad_px = self.settings.pad_px
        return (draws.integers(f"{self.stream}.offset", 2 * pad_px + 1, 2) - pad_px).unbind(1)


@dataclass(frozen=True)
class Rotation:
    """Rotation and affine: the centre stays, then the image is shifted by whole pixels."""

    settings: config.Rotation | config.Affine
    stream: str

    @property
    def interpolation(self) -> Interpolation:
        return self.settings.interpolation

    @property
    def fill(self) -> float:
        return self.settings.fill

    def apply(self, images: Tensor, draws: Draws) -> Tensor:
        images, fill = with_fill(images if self.interpolation == "nearest" else as_float(images), self.fill)
        return geometry.resample(images, self.maps(draws, *images.shape[2:]), self.interpolation, fill)

    def maps(self, draws: Draws, height: int, width: int) -> Tensor:
        degrees = _between(draws, f"{self.stream}.degrees", -self.settings.degrees, self.settings.degrees)
        scale, dx, dy = torch.ones_like(degrees), torch.zeros_like(degrees), torch.zeros_like(degrees)
        if isinstance(self.settings, config.Affine):
            scale = _between(draws, f"{self.stream}.scale", *self.settings.scale)
            reach_x, reach_y = self.settings.translate * width, self.settings.translate * height
            dx = _between(draws, f"{self.stream}.dx", -reach_x, reach_x).round()
            dy = _between(draws, f"{self.stream}.dy", -reach_y, reach_y).round()
        return geometry.rotation_maps(degrees, scale, dx, dy, height, width)


@dataclass(frozen=True)
class RandomResizedCrop:
    settings: config.RandomResizedCrop
    stream: str
    interpolation: ClassVar[Interpolation] = "bilinear"
    fill: ClassVar[None] = None

    def apply(self, images: Tensor, draws: Draws) -> Tensor:
        return geometry.resize_windows(as_float(images), *self.windows(draws, *images.shape[2:]))

    def maps(self, draws: Draws, height: int, width: int) -> Tensor:
        left, top, window_width, window_height = self.windows(draws, height, width)
        return geometry.axis_maps(window_width / width, left, window_height / height, top)

    def windows(self, draws: Draws, height: int, width: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Left, top, width, height of the windows, int64 [N] each, in pixels.

        Area uniform in `scale`, logarithm of the aspect ratio uniform in `ratio`, rounded to whole pixels; of ten such
        windows the first that fits, else the largest centred one with a ratio in the range (torchvision's rule).
        """
        low, high = self.settings.ratio
        area = _between(draws, f"{self.stream}.area", *self.settings.scale, _WINDOW_ATTEMPTS) * (height * width)
        ratio = _between(draws, f"{self.stream}.ratio", math.log(low), math.log(high), _WINDOW_ATTEMPTS).exp()
        wide, tall = (area * ratio).sqrt().round().to(torch.int64), (area / ratio).sqrt().round().to(torch.int64)
        fits = (wide > 0) & (wide <= width) & (tall > 0) & (tall <= height)
        first = fits.to(torch.int8).argmax(dim=1, keepdim=True)
        nearest_ratio = min(max(width / height, low), high)
        fallback_wide = min(width, max(1, round(height * nearest_ratio)))
        fallback_tall = min(height, max(1, round(width / nearest_ratio)))
        fitted = fits.any(dim=1, keepdim=True)
        wide = torch.where(fitted, wide.gather(1, first), fallback_wide)
        tall = torch.where(fitted, tall.gather(1, first), fallback_tall)
        left = torch.where(fitted, draws.integers(f"{self.stream}.left", width + 1 - wide), (width - wide) // 2)
        top = torch.where(fitted, draws.integers(f"{self.stream}.top", height + 1 - tall), (height - tall) // 2)
        return left[:, 0], top[:, 0], wide[:, 0], tall[:, 0]


@dataclass(frozen=True)
class ColorJitter:
    settings: config.ColorJitter
    stream: str

    def apply(self, images: Tensor, draws: Draws) -> Tensor:
        factors = {
            name: _between(draws, f"{self.stream}.{name}", max(0.0, 1 - strength), 1 + strength)
            for name in ("brightness", "contrast", "saturation")
            if (strength := getattr(self.settings, name)) > 0
        }
        if self.settings.hue > 0:
            factors["hue"] = _between(draws, f"{self.stream}.hue", -self.settings.hue, self.settings.hue)
        if not factors:
            return images
        return colour.jitter(as_float(images), factors, draws.permutations(f"{self.stream}.order", len(factors)))


@dataclass(frozen=True)
class GaussianBlur:
    settings: config.GaussianBlur
    stream: str

    def apply(self, images: Tensor, draws: Draws) -> Tensor:
        side = min(images.shape[2:])
        if self.settings.kernel_px // 2 >= side:
            raise RecipeError(
                f"augment.ops: gaussian_blur's kernel_px = {self.settings.kernel_px} must be less than twice the image "
                f"side, {side}"
            )
        sigma = _between(draws, f"{self.stream}.sigma", *self.settings.sigma_px)
        chosen = _chosen(draws, self.stream, self.settings.probability)
        return filters.gaussian_blur(as_float(images), sigma * chosen, self.settings.kernel_px)


@dataclass(frozen=True)
class Cutout:
    settings: config.Cutout
    stream: str
    fill: tuple[float, ...]
    """One value a channel or one for all, in [0, 1]."""

    def apply(self, images: Tensor, draws: Draws) -> Tensor:
        height, width = images.shape[2:]
        rows = draws.integers(f"{self.stream}.row", height, self.settings.holes)
        columns = draws.integers(f"{self.stream}.column", width, self.settings.holes)
        chosen = _chosen(draws, self.stream, self.settings.probability)
        fill = _on_device(self.fill, images.device)
        return erasing.erase_squares(as_float(images), rows, columns, self.settings.side_px, chosen, fill)


@lru_cache(maxsize=64)
def _on_device(values: tuple[float, ...], device: torch.device) -> Tensor:
    """float32, kept there: a copy for every batch would make a GPU wait, and a CUDA graph may hold none."""
    return torch.tensor(values, device=device)


def with_fill(images: Tensor, fill: float) -> tuple[Tensor, float]:
    """The images and the fill in one unit: whole levels while that is exact and the images still are, else [0, 1]."""
    if images.dtype == torch.uint8 and (fill * 255).is_integer():
        return images, fill * 255
    return as_float(images), fill


def _chosen(draws: Draws, stream: str, probability: float) -> Tensor:
    """bool [N], true with this probability; never for 0, always for 1."""
    return draws.uniform(f"{stream}.chosen")[:, 0] < probability


def _between(draws: Draws, stream: str, low: float, high: float, count: int | None = None) -> Tensor:
    """float32 [N], or [N, count], uniform from low to high."""
    uniform = draws.uniform(stream)[:, 0] if count is None else draws.uniform(stream, count)
    return low + (high - low) * uniform
