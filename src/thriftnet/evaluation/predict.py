"""Logits of a network for images in memory.

Shapes: N images, C channels, H x W pixels, K classes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from thriftnet.data.normalize import as_float, normalize

Averaging = Literal["none", "flip", "flip_shift"]
"""Views of each image whose class probabilities are averaged."""


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
    tta: Averaging = "none",
    before_batch: Callable[[], None] | None = None,
) -> Tensor:
    """Float32 logits [N, K] on the CPU for `images`: uint8 [N, C, H, W], on the CPU or on `device`.

    `model` must already be on `device`; it runs in evaluation mode and gets its modes back. `mean` and `std` are
    those of the training images scaled to [0, 1]; `dtype` is autocast's (None: no autocast). `before_batch` is called
    before each batch and may raise, to stop.

    `tta = "flip"` averages the class probabilities of every image and its mirror image (left-right), as in arXiv
    1409.1556, section 3.2. `tta = "flip_shift"` averages six views, as the multi-crop evaluation of arXiv 2404.00498
    does: image and mirror image count 0.25 each; both of them shifted by one pixel, up and left and also down and
    right, with the border mirrored, count 0.125 each. (That paper averages logits; here it is probabilities for both.)
    Returned are logarithms of the averages: softmax leaves these as they are, so whatever takes logits takes them too.
    """
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    parts = []
    with evaluating(model), torch.inference_mode(), _autocast(device, dtype):
        # At least one batch, even an empty one, so that the result always has K columns.
        for start in range(0, max(len(images), 1), batch_size):
            if before_batch is not None:
                before_batch()
            batch = images[start : start + batch_size].to(device, non_blocking=True)
            inputs = normalize(as_float(batch), mean, std).contiguous(memory_format=memory_format)
            if tta == "none":
                parts.append(model(inputs).float())
                continue
            weighted = [model(view).float().log_softmax(1) + math.log(weight) for view, weight in _views(inputs, tta)]
            parts.append(torch.stack(weighted).logsumexp(0))
        # One transfer at the end; a transfer for every batch would make a GPU wait.
        return torch.cat(parts).cpu()


def _views(inputs: Tensor, tta: Averaging) -> Iterator[tuple[Tensor, float]]:
    """Views [N, C, H, W] of the inputs with their weights, which add up to 1."""
    share = 0.5 if tta == "flip" else 0.25
    yield inputs, share
    yield inputs.flip(-1), share
    if tta == "flip_shift":
        height, width = inputs.shape[2:]
        padded = functional.pad(inputs, (1, 1, 1, 1), mode="reflect")
        for offset in (0, 2):
            shifted = padded[:, :, offset : offset + height, offset : offset + width]
            yield shifted, share / 2
            yield shifted.flip(-1), share / 2


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
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
