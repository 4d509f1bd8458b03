"""Operations on whole levels, each with a parameter of its own for every image, equal to Pillow's value for value.

Shapes: images uint8 [N, C, H, W], C = 3 (red, green, blue) or 1 (gray); parameters [N]. Pillow's ImageEnhance and
ImageOps cut or round at several places, which is repeated here; `colour.py` has the same blends without rounding.
"""

from __future__ import annotations

import torch
from torch import Tensor

from thriftnet.augment.geometry import exact_dtype
from thriftnet.errors import DataError

_LEVELS = 256


def brightness(images: Tensor, factor: Tensor) -> Tensor:
    """Away from (factor above 1) or towards black, ImageEnhance.Brightness."""
    return _blend(torch.zeros_like(images), images, factor)


def colour(images: Tensor, factor: Tensor) -> Tensor:
    """Away from or towards the gray image, ImageEnhance.Color; gray images stay as they are."""
    return _blend(_gray(images), images, factor)


def contrast(images: Tensor, factor: Tensor) -> Tensor:
    """Away from or towards the mean of the gray image, rounded to a whole level, ImageEnhance.Contrast."""
    pixels = images.shape[2] * images.shape[3]
    total = _gray(images).sum(dim=(2, 3), keepdim=True, dtype=torch.int64)
    return _blend((2 * total + pixels) // (2 * pixels), images, factor)


def sharpness(images: Tensor, factor: Tensor) -> Tensor:
    """Away from or towards the smoothed image, ImageEnhance.Sharpness.

    Smooth is the 3x3 mean in which the centre counts five times (ImageFilter.SMOOTH); the border pixels stay.
    """
    values = images.to(torch.float32)
    columns = (values[..., :-2] + values[..., 1:-1]).add_(values[..., 2:])
    around = (columns[..., :-2, :] + columns[..., 1:-1, :]).add_(columns[..., 2:, :])
    around.add_(values[..., 1:-1, 1:-1], alpha=4).div_(13).add_(0.5).floor_()
    values[..., 1:-1, 1:-1] = around
    return _blend(values, images, factor)


def posterize(images: Tensor, bits: Tensor) -> Tensor:
    """Keep the highest `bits` (int64 [N], 0 to 8) of every level, ImageOps.posterize."""
    mask = (_LEVELS - (1 << (8 - bits))).to(torch.uint8)
    return images & mask[:, None, None, None]


def solarize(images: Tensor, threshold: Tensor) -> Tensor:
    """Invert the levels from `threshold` (float [N]) on, ImageOps.solarize."""
    inverted = (images >= threshold[:, None, None, None]).to(torch.uint8).mul_(255)
    return images ^ inverted


def autocontrast(images: Tensor) -> Tensor:
    """Stretch every channel so that its darkest level becomes 0 and its lightest 255, ImageOps.autocontrast.

    A channel of one level stays as it is.
    """
    levels = torch.arange(_LEVELS, device=images.device, dtype=exact_dtype(images.device))
    low = images.amin(dim=(2, 3)).to(levels.dtype)[:, :, None]
    spread = images.amax(dim=(2, 3)).to(levels.dtype)[:, :, None] - low
    # float64, one true division (torch computes 255 / x as a reciprocal times 255) and this order of operations: then
    # the cut to whole levels falls as in Pillow.
    scale = torch.full_like(spread, 255).div_(spread.clamp_min(1))
    stretched = (levels * scale + -low * scale).clamp_(0, 255)
    return _look_up(torch.where(spread > 0, stretched, levels), images.flatten(2).to(torch.int64)).view(images.shape)


def equalize(images: Tensor) -> Tensor:
    """Map the levels of every channel so that they come about equally often, ImageOps.equalize.

    Level v becomes (step // 2 + count of pixels below v) // step, where step is a 255th of the pixels below the
    channel's lightest level; a channel with less than one such pixel a step stays as it is.
    """
    values = images.flatten(2).to(torch.int64)
    levels = torch.arange(_LEVELS, device=images.device)
    histogram = torch.zeros(*values.shape[:2], _LEVELS, dtype=torch.int64, device=images.device)
    histogram.scatter_add_(2, values, torch.ones_like(values))
    lightest = histogram.gather(2, values.amax(dim=2, keepdim=True))
    step = (values.shape[2] - lightest) // 255
    below = histogram.cumsum(dim=2) - histogram
    spread = ((step // 2 + below) // step.clamp_min(1)).clamp_(max=255)
    return _look_up(torch.where(step > 0, spread, levels), values).view(images.shape)


def _look_up(table: Tensor, values: Tensor) -> Tensor:
    """uint8 [N, C, pixels]: for each of the levels `values` (int64) the entry in its channel's `table` [N, C, 256]."""
    return table.to(torch.uint8).gather(2, values)


def _gray(images: Tensor) -> Tensor:
    """int32 [N, 1, H, W]: Pillow's mode L, ITU-R BT.601 luma in 16-bit fixed point.

    Raises DataError unless C is 1 or 3.
    """
    channels = images.shape[1]
    if channels not in (1, 3):
        raise DataError(
            f"colour and contrast need images of 1 or 3 channels, not {channels}; "
            "remove trivial_augment and rand_augment from augment.ops"
        )
    if channels == 1:
        return images.to(torch.int32)
    red, green, blue = images.to(torch.int32).unbind(1)
    return ((red * 19595 + green * 38470 + blue * 7471 + 0x8000) >> 16)[:, None]


def _blend(reference: Tensor, images: Tensor, factor: Tensor) -> Tensor:
    """reference + factor * (images - reference), cut to whole levels within 0 to 255: Image.blend in its float32."""
    reference = reference.to(torch.float32)
    difference = images.to(torch.float32) - reference
    return (difference.mul_(factor[:, None, None, None]) + reference).clamp_(0, 255).to(torch.uint8)
