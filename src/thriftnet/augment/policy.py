"""From the list of operations in a recipe to one function of a batch: who draws what, in which order.

Shapes: N images, C channels, H rows, W columns. Stream names of draws are `position.op.what`, so two rotations in one list
differ, and adding an operation at the end changes nothing before it.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from thriftnet.augment import colour, geometry
from thriftnet.augment.draws import Draws
from thriftnet.config import (
    AugmentConfig,
    AugmentOp,
    ColorJitter,
    HorizontalFlip,
    PaddedCrop,
    Rotation,
    VerticalFlip,
)
from thriftnet.errors import RecipeError

Step = Callable[[Tensor, Draws], Tensor]


class Policy:
    """The operations of a recipe, applied in order. Build one with `build_policy`."""

    def __init__(self, steps: list[Step]) -> None:
        self._steps = steps

    def __call__(self, images: Tensor, draws: Draws) -> Tensor:
        """uint8 [N, C, H, W] to float32 [N, C, H, W] in [0, 1], not normalised; row i is drawn for by row i of `draws`."""
        draws = draws.to(images.device)
        for step in self._steps:
            images = step(images, draws)
        return as_float(images)


def build_policy(config: AugmentConfig, mean: tuple[float, ...]) -> Policy:
    """The policy of a recipe for images with the channel means `mean`, the value that cutout fills with by default."""
    return Policy([_step(operation, f"{position}.{operation.op}") for position, operation in enumerate(config.ops)])


def as_float(images: Tensor) -> Tensor:
    """uint8 levels as float32 in [0, 1]; floating-point images as they are."""
    return images.to(torch.float32).div_(255) if images.dtype == torch.uint8 else images


def _step(config: AugmentOp, stream: str) -> Step:
    if isinstance(config, HorizontalFlip | VerticalFlip):
        axis = 3 if isinstance(config, HorizontalFlip) else 2
        return lambda images, draws: geometry.flip(images, _chosen(draws, stream, config.probability), axis)
    if isinstance(config, PaddedCrop):
        return lambda images, draws: _padded_crop(images, draws, config, stream)
    if isinstance(config, Rotation):
        return lambda images, draws: _rotation(images, draws, config, stream)
    if isinstance(config, ColorJitter):
        return lambda images, draws: _color_jitter(images, draws, config, stream)
    raise RecipeError(f"augment.ops: {config.op} is not available yet")


def _padded_crop(images: Tensor, draws: Draws, config: PaddedCrop, stream: str) -> Tensor:
    side = min(images.shape[2:])
    if config.padding == "reflect" and config.pad_px >= side:
        raise RecipeError(f"pad_px = {config.pad_px} with padding = 'reflect' must be less than the image side, {side}")
    shift = draws.integers(f"{stream}.offset", 2 * config.pad_px + 1, 2) - config.pad_px
    images, fill = _with_fill(images, config.fill)
    return geometry.shift_crop(images, shift[:, 0], shift[:, 1], config.padding, fill)


def _rotation(images: Tensor, draws: Draws, config: Rotation, stream: str) -> Tensor:
    degrees = _between(draws, f"{stream}.degrees", -config.degrees, config.degrees)
    still = torch.zeros_like(degrees)
    maps = geometry.rotation_scale_shift(degrees, still + 1, still, still, *images.shape[2:])
    images, fill = _with_fill(images if config.interpolation == "nearest" else as_float(images), config.fill)
    return geometry.resample(images, maps, config.interpolation, fill)


def _color_jitter(images: Tensor, draws: Draws, config: ColorJitter, stream: str) -> Tensor:
    factors = {
        operation: _between(draws, f"{stream}.{name}", max(0.0, 1 - strength), 1 + strength)
        for operation, name, strength in (
            (colour.BRIGHTNESS, "brightness", config.brightness),
            (colour.CONTRAST, "contrast", config.contrast),
            (colour.SATURATION, "saturation", config.saturation),
        )
        if strength > 0
    }
    if config.hue > 0:
        factors[colour.HUE] = _between(draws, f"{stream}.hue", -config.hue, config.hue)
    if not factors:
        return images
    operations = torch.tensor(list(factors), device=images.device)
    return colour.jitter(as_float(images), factors, operations[draws.permutations(f"{stream}.order", len(factors))])


def _with_fill(images: Tensor, fill: float) -> tuple[Tensor, float]:
    """The images and the fill in one unit: whole levels while that is exact and the images still are, else [0, 1]."""
    if images.dtype == torch.uint8 and (fill * 255).is_integer():
        return images, fill * 255
    return as_float(images), fill


def _chosen(draws: Draws, stream: str, probability: float) -> Tensor:
    return draws.uniform(f"{stream}.chosen")[:, 0] < probability


def _between(draws: Draws, stream: str, low: float, high: float) -> Tensor:
    return low + (high - low) * draws.uniform(stream)[:, 0]
