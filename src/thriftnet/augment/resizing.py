"""Progressive resizing: training on smaller images first."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch
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

    None: as they are. As two matrix products, because on a CPU torch's own resampling of floats takes five times as
    long (24 from 32 pixels).
    """
    if side_px is None:
        return images
    rows, columns = (_weights(side, side_px, images.dtype, images.device) for side in images.shape[2:])
    return rows @ (images @ columns.T)


@lru_cache(maxsize=64)
def _weights(side: int, side_px: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """[side_px, side]: what each pixel along an axis is made of; kept on the device."""
    with torch.inference_mode(False):  # a tensor first made while predicting must also serve a backward pass
        unit = torch.eye(side, dtype=dtype, device=device)[None, None]
        return functional.interpolate(unit, size=(side_px, side), mode="bilinear", antialias=True)[0, 0]
