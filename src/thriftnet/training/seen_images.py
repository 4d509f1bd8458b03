"""Which images a run has seen: a digest of each that it trained on or held out, 8 bytes an image.

By these a run knows its images again in a data set that has changed since.
"""

from __future__ import annotations

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from thriftnet.data.prepare import TrainingData
from thriftnet.data.statistics import image_digests

NAME = "seen-images.safetensors"
"""In the run folder."""
COLUMNS = ("trained", "held_out")
"""int64, sorted; see `data.statistics.image_digests`."""


def encoded(data: TrainingData) -> bytes:
    """The file of a training."""
    held_out = data.train.images[:0] if data.validation is None else data.validation.images
    return save(
        {
            name: image_digests(images).sort().values
            for name, images in zip(COLUMNS, (data.train.images, held_out), strict=True)
        }
    )


def decoded(content: bytes) -> dict[str, Tensor]:
    """COLUMNS of what `encoded` gave. Raises ValueError for anything else."""
    try:
        tensors = load(content)
        found = {name: tensors[name] for name in COLUMNS}
    except (SafetensorError, KeyError) as error:
        raise ValueError(str(error)) from None
    if any(tensor.dtype != torch.int64 or tensor.ndim != 1 for tensor in found.values()):
        raise ValueError("its columns are of other types")
    return found
