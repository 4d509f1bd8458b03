"""Logits of a network for images in memory.

Shapes: N images, C channels, H x W pixels, K classes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Literal

import torch
from torch import Tensor, nn

from thriftnet.data.normalize import as_float, normalize


def predict_logits(
    model: nn.Module,
    images: Tensor,
    mean: Sequence[float],
    std: Sequence[float],
    *,
    device: torch.device,
    dtype: torch.dtype | None,
    channels_last: bool,
    batch_size: int,
    tta: Literal["none", "flip"] = "none",
) -> Tensor:
    """Float32 logits [N, K] on the CPU for `images`: uint8 [N, C, H, W], on the CPU or on `device`.

    `model` must already be on `device`; it runs in evaluation mode and gets its modes back. `mean` and `std` are
    those of the training images scaled to [0, 1]; `dtype` is autocast's (None: no autocast).

    `tta = "flip"` averages the class probabilities of every image and its mirror image (left-right), as in arXiv
    1409.1556, section 3.2, and returns their logarithms: softmax leaves these as they are, so whatever takes logits
    takes them too.
    """
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    parts = []
    with _evaluating(model), torch.inference_mode(), _autocast(device, dtype):
        # At least one batch, even an empty one, so that the result always has K columns.
        for start in range(0, max(len(images), 1), batch_size):
            batch = images[start : start + batch_size].to(device, non_blocking=True)
            inputs = normalize(as_float(batch), mean, std).contiguous(memory_format=memory_format)
            logits = model(inputs).float()
            if tta == "flip":
                mirrored = model(inputs.flip(-1)).float()
                both = torch.stack([logits.log_softmax(1), mirrored.log_softmax(1)])
                logits = both.logsumexp(0) - math.log(2)
            parts.append(logits)
        # One transfer at the end; a transfer for every batch would make a GPU wait.
        return torch.cat(parts).cpu()


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode inside the block; afterwards each module has its own mode again, also a frozen one."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def _autocast(device: torch.device, dtype: torch.dtype | None) -> AbstractContextManager[Any]:
    return nullcontext() if dtype is None else torch.autocast(device.type, dtype)
