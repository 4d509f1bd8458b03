"""From the list of operations in a recipe to one function of a batch.

Shapes: N images, C channels, H rows, W columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce

import torch
from torch import Tensor

from thriftnet import config
from thriftnet.augment import geometry
from thriftnet.augment.draws import Draws
from thriftnet.augment.operations import (
    ColorJitter,
    Cutout,
    Flip,
    GaussianBlur,
    GeometricOperation,
    Operation,
    PaddedCrop,
    RandomResizedCrop,
    Rotation,
    with_fill,
)
from thriftnet.augment.random_operations import AugMix, RandAugment, TrivialAugment
from thriftnet.data.normalize import as_float
from thriftnet.errors import RecipeError

COPIES = 2
"""Augmented copies that AugMix's loss compares with an image (arXiv 1912.02781, section 3)."""


class Policy:
    """The operations of a recipe, applied in order. Build one with `build_policy`."""

    def __init__(self, operations: Sequence[Operation]) -> None:
        self._operations = operations

    def __call__(self, images: Tensor, draws: Draws) -> Tensor:
        """uint8 [N, C, H, W] to float32 [N, C, H, W] in [0, 1], not normalised; row i is drawn for by row i of `draws`.

        Raises RecipeError where the images are too small for an operation, DataError where they have wrong channels.
        """
        return as_float(_applied(self._operations, images, draws))

    def with_copies(self, images: Tensor, draws: Draws) -> Tensor:
        """float32 [3 N, C, H, W]: all N images with AugMix left out, then two copies of all with it, draws its own.

        Every other operation has the same draws in all three, so that they differ by AugMix alone, and the first copy
        is what the policy itself makes (arXiv 1912.02781, section 3). Raises as the policy does.
        """
        place = next(place for place, operation in enumerate(self._operations) if isinstance(operation, AugMix))
        before, after = self._operations[:place], self._operations[place:]
        shared = _applied(before, images, draws)
        clean = Policy([operation for operation in after if not isinstance(operation, AugMix)])
        copies = [
            Policy([operation.copy(number) if isinstance(operation, AugMix) else operation for operation in after])
            for number in range(COPIES)
        ]
        return torch.cat([policy(shared, draws) for policy in (clean, *copies)])


def _applied(operations: Sequence[Operation], images: Tensor, draws: Draws) -> Tensor:
    if len(images) == 0:  # one of several processes may have no image of a small last batch
        return images
    draws = draws.to(images.device)
    for operation in operations:
        images = operation.apply(images, draws)
    return images


def build_policy(augment: config.AugmentConfig, mean: tuple[float, ...]) -> Policy:
    """The policy of a recipe; `mean` (in [0, 1], one value a channel) is what cutout fills with by default.

    Raises RecipeError where a fill has another number of values than the images have channels.
    """
    operations = [_operation(settings, f"{place}.{settings.op}", mean) for place, settings in enumerate(augment.ops)]
    return Policy(_fuse_neighbours(operations) if augment.geometry == "fused" else operations)


@dataclass(frozen=True)
class Fused:
    """Neighbouring geometric operations, their maps composed and the images resampled once."""

    parts: tuple[GeometricOperation, ...]

    def apply(self, images: Tensor, draws: Draws) -> Tensor:
        maps = reduce(geometry.compose, (part.maps(draws, *images.shape[2:]) for part in self.parts))
        interpolation = "bilinear" if any(part.interpolation == "bilinear" for part in self.parts) else "nearest"
        fill = next((part.fill for part in self.parts if part.fill is not None), 0.0)
        images, fill = with_fill(as_float(images) if interpolation == "bilinear" else images, fill)
        return geometry.resample(images, maps, interpolation, fill)


def _fuse_neighbours(operations: Sequence[Operation]) -> list[Operation]:
    """Replace each run of two or more geometric operations by one; another fill or a mirrored border ends a run."""
    fused: list[Operation] = []
    run: list[GeometricOperation] = []

    def close_run() -> None:
        fused.extend([Fused(tuple(run))] if len(run) > 1 else run)
        run.clear()

    for operation in operations:
        if not isinstance(operation, GeometricOperation) or _mirrors_border(operation):
            close_run()
            fused.append(operation)
            continue
        if len({part.fill for part in (*run, operation)} - {None}) > 1:
            close_run()
        run.append(operation)
    close_run()
    return fused


def _mirrors_border(operation: Operation) -> bool:
    return isinstance(operation, PaddedCrop) and operation.settings.padding == "reflect"


def _operation(settings: config.AugmentOp, stream: str, mean: tuple[float, ...]) -> Operation:
    match settings:
        case config.HorizontalFlip() | config.VerticalFlip() | config.AlternatingFlip():
            return Flip(settings, stream)
        case config.PaddedCrop():
            return PaddedCrop(settings, stream)
        case config.Rotation() | config.Affine():
            return Rotation(settings, stream)
        case config.RandomResizedCrop():
            return RandomResizedCrop(settings, stream)
        case config.ColorJitter():
            return ColorJitter(settings, stream)
        case config.GaussianBlur():
            return GaussianBlur(settings, stream)
        case config.TrivialAugment():
            return TrivialAugment(settings, stream)
        case config.RandAugment():
            return RandAugment(settings, stream)
        case config.AugMix():
            return AugMix(settings, stream)
        case config.Cutout():
            fill = mean if settings.fill is None else settings.fill
            if len(fill) not in (1, len(mean)):
                raise RecipeError(
                    f"augment.ops: cutout's fill = {list(fill)} has {len(fill)} values but the images have {len(mean)} "
                    f"channels; give 1 or {len(mean)}"
                )
            return Cutout(settings, stream, tuple(fill))
