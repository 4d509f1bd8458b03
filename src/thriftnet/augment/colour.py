"""Brightness, contrast, saturation and hue of batches, in an order of its own for every image.

Shapes: images float32 [N, C, H, W] in [0, 1], C = 3 (red, green, blue) or 1 (gray). Results are clamped to [0, 1] after
each operation, where Pillow's ImageEnhance rounds to whole levels; it also rounds the mean for contrast.
"""

from __future__ import annotations

import torch
from torch import Tensor

from thriftnet.errors import DataError


def jitter(images: Tensor, factors: dict[str, Tensor], order: Tensor) -> Tensor:
    """Apply to every image the operations in its own order.

    `factors`: some of brightness, contrast, saturation and hue -> float32 [N], the factor or, for hue, the turns.
    `order`: int64 [N, K], row i a permutation of 0 to K - 1: which of the K keys of `factors` comes first for image i,
    which second, and so on.

    Gray images have no saturation and no hue: these leave them as they are. Raises DataError unless C is 1 or 3.
    """
    channels = images.shape[1]
    if channels not in (1, 3):
        raise DataError(
            f"color_jitter needs images of 1 or 3 channels, not {channels}; remove color_jitter from augment.ops"
        )
    names = list(factors)
    idle = torch.ones_like(images[:, 0, 0, 0])
    factor = torch.stack([idle if name == "hue" else factors[name] for name in names], dim=1).gather(1, order)
    takes_mean = _turns(order, names, "contrast")
    takes_gray = _turns(order, names, "saturation")
    if "hue" not in names or channels == 1:
        return _blend_in_turn(images, factor, takes_mean, takes_gray)
    # Hue costs most, so it runs once: after the blends that come before it and before those that come after it.
    # Picking the images whose turn it is would make a GPU wait for the host; a blend with factor 1 changes nothing.
    place = torch.arange(len(names), device=order.device)
    hue_place = _turns(order, names, "hue").to(torch.int8).argmax(dim=1, keepdim=True)
    before, after = torch.where(place < hue_place, factor, 1), torch.where(place > hue_place, factor, 1)
    images = _blend_in_turn(images, before[:, :-1], takes_mean[:, :-1], takes_gray[:, :-1])
    images = shift_hue(images, factors["hue"])
    return _blend_in_turn(images, after[:, 1:], takes_mean[:, 1:], takes_gray[:, 1:])


def grayscale(images: Tensor) -> Tensor:
    """float32 [N, 1, H, W]: the luma of colour images (ITU-R BT.601, Pillow's mode L), gray images as they are."""
    if images.shape[1] == 1:
        return images
    red, green, blue = images.unbind(1)
    return (red * 0.299).add_(green, alpha=0.587).add_(blue, alpha=0.114)[:, None]


def _turns(order: Tensor, names: list[str], name: str) -> Tensor:
    """bool [N, K]: whether it is the turn of this operation."""
    return order == (names.index(name) if name in names else -1)


def _blend_in_turn(images: Tensor, factor: Tensor, takes_mean: Tensor, takes_gray: Tensor) -> Tensor:
    """K times reference + factor * (image - reference), clamped; the last three arguments are [N, K].

    The reference is the mean of the gray image (contrast) where `takes_mean`, the gray image (saturation) where
    `takes_gray`, else black (brightness): Haeberli and Voorhies, "Image processing by interpolation and extrapolation",
    IRIS Universe 28, 1994.
    """
    for turn in range(factor.shape[1]):
        gray = grayscale(images)
        mean = gray.mean(dim=(2, 3), keepdim=True) * _per_image(takes_mean[:, turn])
        reference = torch.addcmul(mean, gray, _per_image(takes_gray[:, turn].to(gray.dtype)))
        images = torch.lerp(reference, images, _per_image(factor[:, turn])).clamp_(0, 1)
    return images


def shift_hue(images: Tensor, turns: Tensor) -> Tensor:
    """Turn the hue of colour images [N, 3, H, W] by `turns` (float32 [N]) of the circle; HSV saturation and value stay.

    HSV as in A. R. Smith, "Color gamut transform pairs", SIGGRAPH 1978 (and colorsys). With value v, chroma c = v - min
    and the turned hue h, channel n is v - c * clamp(2 - 6 d, 0, 1), where d is the distance on the circle, in turns,
    from h to the hue opposite to channel n: 1/2, 5/6, 1/6 for red, green, blue.
    """
    red, green, blue = images.unbind(1)
    value = images.amax(dim=1)
    chroma = value - images.amin(dim=1)
    # 0 where the channel is the largest, else 1; selecting by lerp is vectorised on the CPU, torch.where is not.
    red_is_less, green_is_less = (value - red).sign_(), (value - green).sign_()
    sixths = torch.lerp((blue - red).add_(chroma, alpha=2), (red - green).add_(chroma, alpha=4), green_is_less)
    sixths = torch.lerp(green - blue, sixths, red_is_less)
    hue = sixths.div_(chroma.clamp_min(1e-12)).div_(6).add_(turns[:, None, None])
    distance = torch.stack([hue - 1 / 2, hue - 5 / 6, hue - 1 / 6], dim=1)
    distance.sub_(distance.round()).abs_()
    away = distance.mul_(-6).add_(2).clamp_(0, 1)
    return torch.addcmul(value[:, None], chroma[:, None], away, value=-1).clamp_(0, 1)


def _per_image(values: Tensor) -> Tensor:
    return values[:, None, None, None]
