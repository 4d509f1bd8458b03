"""Brightness, contrast, saturation and hue of batches, in an order of its own for every image.

Shapes: images float32 [N, C, H, W] in [0, 1], C = 3 (red, green, blue) or 1 (gray). Results are clamped to [0, 1] after each
operation. Pillow's ImageEnhance rounds to whole levels there instead, and rounds the mean for contrast.
"""

from __future__ import annotations

import torch
from torch import Tensor

from thriftnet.errors import DataError

LUMA = (0.299, 0.587, 0.114)
"""Weights of red, green and blue in gray: ITU-R BT.601, section 2.5.1, as in Pillow's mode L."""

BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)


def jitter(images: Tensor, factors: dict[int, Tensor], order: Tensor) -> Tensor:
    """Apply to every image the operations in its own order.

    `factors`: operation (BRIGHTNESS, CONTRAST, SATURATION, HUE) -> float32 [N], the factor or, for HUE, the shift in turns.
    `order`: int64 [N, K], row i a permutation of the K keys of `factors`: first the operation applied first to image i.

    Gray images have no saturation and no hue: these leave them as they are. Raises DataError unless C is 1 or 3.
    """
    channels = images.shape[1]
    if channels not in (1, 3):
        raise DataError(f"color_jitter needs images of 1 or 3 channels, not {channels}; remove color_jitter from augment.ops")
    idle = torch.ones_like(images[:, 0, 0, 0])
    blended = (BRIGHTNESS, CONTRAST, SATURATION) if channels == 3 else (BRIGHTNESS, CONTRAST)
    table = torch.stack([factors[op] if op in blended and op in factors else idle for op in range(4)], dim=1)
    factor = table.gather(1, order)
    if HUE not in factors or channels == 1:
        return _blend_in_turn(images, order, factor)
    # Hue costs most, so it runs once: between the blends that come before it and, for other images, those that come after.
    # Picking the images whose turn it is would make a GPU wait for the host; a blend with factor 1 changes nothing.
    steps = torch.arange(order.shape[1], device=order.device)
    hue_comes = (order == HUE).to(torch.int8).argmax(dim=1, keepdim=True)
    images = _blend_in_turn(images, order[:, :-1], torch.where(steps < hue_comes, factor, 1)[:, :-1])
    images = shift_hue(images, factors[HUE])
    return _blend_in_turn(images, order[:, 1:], torch.where(steps > hue_comes, factor, 1)[:, 1:])


def grayscale(images: Tensor) -> Tensor:
    """float32 [N, 1, H, W]: the luma of colour images, gray images as they are."""
    if images.shape[1] == 1:
        return images
    return torch.matmul(images.new_tensor([LUMA]), images.flatten(2)).view(-1, 1, *images.shape[2:])


def _blend_in_turn(images: Tensor, order: Tensor, factor: Tensor) -> Tensor:
    """K times reference + factor * (image - reference), clamped; `order` (operations) and `factor` are [N, K].

    The reference is black for brightness, the mean of the gray image for contrast, the gray image for saturation
    (Haeberli and Voorhies, "Image processing by interpolation and extrapolation", 1994; Pillow's ImageEnhance).
    """
    takes_mean = (order == CONTRAST).to(images.dtype)
    takes_gray = (order == SATURATION).to(images.dtype)
    for position in range(order.shape[1]):
        gray = grayscale(images)
        mean = gray.mean(dim=(2, 3), keepdim=True) * _per_image(takes_mean[:, position])
        reference = torch.addcmul(mean, gray, _per_image(takes_gray[:, position]))
        images = torch.lerp(reference, images, _per_image(factor[:, position])).clamp_(0, 1)
    return images


def shift_hue(images: Tensor, turns: Tensor) -> Tensor:
    """Turn the hue of colour images [N, 3, H, W] by `turns` (float [N]) of the circle, at the same HSV value and saturation.

    HSV as in A. R. Smith, "Color gamut transform pairs", SIGGRAPH 1978 (colorsys). With value v, chroma c = v - min and the
    turned hue h, channel n is v - c * clamp(2 - 6 d, 0, 1), where d is the distance on the circle, in turns, from h to the
    hue opposite to channel n: 1/2, 5/6, 1/6 for red, green, blue.
    """
    red, green, blue = images.unbind(1)
    value = images.amax(dim=1)
    chroma = value - images.amin(dim=1)
    # 0 where the channel is the largest, else 1; selecting by lerp is vectorised on the CPU, torch.where is not.
    red_is_less, green_is_less = (value - red).sign_(), (value - green).sign_()
    sixths = torch.lerp((blue - red).add_(chroma, alpha=2), (red - green).add_(chroma, alpha=4), green_is_less)
    sixths = torch.lerp(green - blue, sixths, red_is_less)
    hue = sixths.div_(chroma.clamp_min(1e-12)).div_(6).add_(turns[:, None, None])
    distance = hue[:, None] - images.new_tensor([1 / 2, 5 / 6, 1 / 6])[:, None, None]
    distance.sub_(distance.round()).abs_()
    away = distance.mul_(-6).add_(2).clamp_(0, 1)
    return torch.addcmul(value[:, None], chroma[:, None], away, value=-1).clamp_(0, 1)


def _per_image(values: Tensor) -> Tensor:
    return values[:, None, None, None]
