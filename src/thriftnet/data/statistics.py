"""Channel mean and standard deviation, a fingerprint of a set of images, and a digest of each."""

from __future__ import annotations

import hashlib

import numpy as np
import torch
from torch import Tensor

from thriftnet.data.dataset import LabelledImages

_CHUNK = 4096


def channel_statistics(images: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """(mean, std) per channel of uint8 [N, C, H, W], in [0, 1], over all pixels of all images.

    The 256 possible values are counted first, so no rounding grows with the number of images. The standard deviation is
    the population's (divided by the number of pixels). Raises ValueError for an empty tensor.
    """
    if images.numel() == 0:
        raise ValueError(f"no pixels in images of shape {list(images.shape)}")
    counts = torch.zeros(images.shape[1], 256, dtype=torch.int64)
    for start in range(0, len(images), _CHUNK):
        for channel, plane in enumerate(images[start : start + _CHUNK].unbind(1)):
            counts[channel] += torch.bincount(plane.reshape(-1), minlength=256)
    values = torch.arange(256, dtype=torch.float64) / 255
    share = counts.double() / counts[0].sum()
    mean = share @ values
    std = (share * (values - mean[:, None]) ** 2).sum(1).sqrt()
    return tuple(mean.tolist()), tuple(std.tolist())


def fingerprint(data: LabelledImages) -> str:
    """SHA-256 in hexadecimal of the shape, every pixel and every label, in their order."""
    digest = hashlib.sha256(repr(list(data.images.shape)).encode())
    for start in range(0, len(data), _CHUNK):
        digest.update(data.images[start : start + _CHUNK].contiguous().numpy().data)
    digest.update(data.labels.numpy().astype("<i8").data)
    return digest.hexdigest()


def image_digests(images: Tensor) -> Tensor:
    """int64 [N]: the first 8 bytes of BLAKE2b of the shape and pixels of each of `images`: uint8 [N, C, H, W].

    Two different images share one with a chance of 5e-20; 50,000 images of CIFAR-10 take 0.2 s of one core.
    """
    shape = repr(list(images.shape[1:])).encode()
    rows = images.flatten(1).contiguous().numpy()
    digests = b"".join(hashlib.blake2b(row.data, digest_size=8, key=shape[:64]).digest() for row in rows)
    return torch.from_numpy(np.frombuffer(digests, "<i8").astype(np.int64))
