"""Channel-wise normalisation of images."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor


def as_float(images: Tensor) -> Tensor:
    """uint8 levels as float32 in [0, 1]; floating-point images as they are."""
    return images.to(torch.float32).div_(255) if images.dtype == torch.uint8 else images


def normalize(images: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """`(images - mean) / std` channel by channel.

    `images`: float [N, C, H, W] in [0, 1]; the result has the same shape, dtype, device and memory layout.
    Raises ValueError where `mean` or `std` does not have C values or a `std` is not above zero.
    """
    channels = images.shape[1]
    if len(mean) != channels or len(std) != channels or min(std) <= 0:
        raise ValueError(f"{channels} channels need as many means and positive stds, not {list(mean)} and {list(std)}")
    mean_c11 = _channel_values(tuple(mean), images.dtype, images.device)
    std_c11 = _channel_values(tuple(std), images.dtype, images.device)
    return (images - mean_c11).div_(std_c11)


@lru_cache(maxsize=64)
def _channel_values(values: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Kept on the device: a copy from the host for every batch would make a GPU wait."""
    with torch.inference_mode(False):  # a tensor first made while predicting must also serve a backward pass
        return torch.tensor(values, dtype=dtype, device=device)[:, None, None]
