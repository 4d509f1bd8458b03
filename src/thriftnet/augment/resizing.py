"""Progressive resizing: training on smaller images first."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor
from torch.nn import functional

from thriftnet.config import ProgressiveStage
from thriftnet.errors import RecipeError


def check_stages(stages: Sequence[ProgressiveStage], image_side: int) -> None:
    """Raises RecipeError where a stage is not smaller than the images, whose side is `image_side` pixels."""
    for stage in stages:
        if stage.side_px >= image_side:
            raise RecipeError(
                f"training.progressive: side_px = {stage.side_px} must be less than the image side, {image_side}; "
                "the last part of training is at full size without a stage of its own"
            )


def training_side(stages: Sequence[ProgressiveStage], epoch: int, epochs: int) -> int | None:
    """Side in pixels of this epoch's training images, counted from 1, of a run of so many; None: full size."""
    share = (epoch - 1) / epochs
    return next((stage.side_px for stage in stages if share < stage.until), None)


def resize(images: Tensor, side_px: int | None) -> Tensor:
    """Images float32 [N, C, H, W] made square and smaller, bilinear and smoothed as by Pillow's Image.resize.

    None: as they are.
    """
    if side_px is None:
        return images
    return functional.interpolate(images, size=(side_px, side_px), mode="bilinear", antialias=True)
