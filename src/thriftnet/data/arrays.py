"""Images and labels from bare arrays: which layout they have, and whether they can be used at all."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from thriftnet.errors import DataError, UnlabelledError


def as_images(array: np.ndarray, where: str) -> tuple[Tensor, str]:
    """(uint8 [N, C, H, W] with C 1 or 3, the layout that was found in words).

    Understood: [N, C, H, W], [N, H, W, C], [N, H, W] (grey) and flat rows [N, C * side * side], channel by channel as
    in CIFAR's own batches. `where` names the array in messages. Raises DataError for other shapes, for values that are
    not whole numbers from 0 to 255, and where the layout is ambiguous.
    """
    array = _bytes_of(array, where)
    shape = "x".join(map(str, array.shape))
    if array.ndim == 2:
        images, layout = _from_rows(array, where), "flat rows, channel by channel"
    elif array.ndim == 3:
        images, layout = array[:, None], "grey images"
    elif array.ndim == 4 and array.shape[1] in (1, 3) and array.shape[3] not in (1, 3):
        images, layout = array, "channels first"
    elif array.ndim == 4 and array.shape[3] in (1, 3) and array.shape[1] not in (1, 3):
        images, layout = array.transpose(0, 3, 1, 2), "channels last"
    else:
        raise DataError(
            f"{where} has shape {shape}; images are N x 3 x H x W, N x H x W x 3, grey N x H x W, or flat rows N x 3072"
        )
    if 0 in array.shape:
        raise DataError(f"{where} has shape {shape}: there is no image in it")
    return torch.from_numpy(np.array(images, dtype=np.uint8, order="C")), f"{shape}: {layout}"


def as_labels(array: np.ndarray, where: str, count: int) -> Tensor:
    """int64 [count] from integers [count] or [count, 1].

    Raises DataError for anything else or a negative label, UnlabelledError where all are -1.
    """
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.shape != (count,):
        shape = "x".join(map(str, array.shape)) or "of one number"
        fix = ": of one-hot rows keep the place of the one (argmax(1))" if _is_one_hot(array) else ""
        raise DataError(f"{where} has shape {shape}; {count} images need {count} labels, one each{fix}")
    if array.dtype.kind not in "iu":
        fix = (
            "numpy.unique(labels, return_inverse=True) gives class_names and numbers"
            if array.dtype.kind in "US"
            else "save them as int64"
        )
        raise DataError(f"{where} holds {array.dtype}; labels must be whole numbers from 0: {fix}")
    if count and (array == -1).all():
        raise UnlabelledError(where, count)
    if count and int(array.min()) < 0:
        raise DataError(f"{where} has {int(array.min())} at {int(array.argmin())}; labels must be whole numbers from 0")
    return torch.from_numpy(array.astype(np.int64))


def numbered_classes(labels: Tensor, where: str) -> tuple[str, ...]:
    """Class names "0" to the highest of `labels`, int64 [N]. Raises DataError where that leaves classes without image.

    So a single absurd label cannot ask for a billion names.
    """
    highest = int(labels.max()) if len(labels) else -1
    if highest >= len(labels):
        raise DataError(
            f"{where} has label {highest:,} at row {int(labels.argmax())} but only {len(labels):,} labels; classes "
            "count from 0, and each needs an image"
        )
    return tuple(map(str, range(highest + 1)))


def numbering_fault(counts: Sequence[int]) -> str:
    """What is wrong with made-up class names where `counts`, the images of labels 0, 1, ..., has zeros, and the fix."""
    unused = [label for label, count in enumerate(counts) if count == 0]
    if unused == list(range(len(unused))):
        return f"labels that begin at {len(unused)}, and must begin at 0; subtract {len(unused)} from each"
    shown = ", ".join(map(str, unused[:3])) + (", ..." if len(unused) > 3 else "")
    return (
        f"no training image of label {shown}, though labels go up to {len(counts) - 1}; number them from 0 without "
        "gaps (numpy.unique(labels, return_inverse=True)[1])"
    )


def check_label_range(labels: Tensor, classes: int, where: str) -> None:
    """Raise DataError where a label names no class."""
    if len(labels) and int(labels.max()) >= classes:
        row, lowest = int(labels.argmax()), int(labels.min())
        fix = f"; labels must begin at 0, these begin at {lowest}: subtract {lowest} from each" if lowest else ""
        raise DataError(
            f"{where} has label {int(labels.max())} at row {row}, but {classes} classes (0 to {classes - 1})"
            f"{fix if int(labels.max()) - lowest < classes else ''}"
        )


def _is_one_hot(array: np.ndarray) -> bool:
    return array.ndim == 2 and array.dtype.kind in "biuf" and bool(((array == 1).sum(1) == 1).all())


def _bytes_of(array: np.ndarray, where: str) -> np.ndarray:
    if array.dtype == np.uint8:
        return array
    if array.dtype.kind not in "iu":
        raise DataError(f"{where} holds {array.dtype}; images must be whole numbers from 0 to 255 (uint8)")
    if array.size and not 0 <= int(array.min()) <= int(array.max()) <= 255:
        raise DataError(f"{where} has values from {int(array.min())} to {int(array.max())}; images must have 0 to 255")
    return array.astype(np.uint8)


def _from_rows(rows: np.ndarray, where: str) -> np.ndarray:
    width = rows.shape[1]
    for channels in (3, 1):  # 3 * a * a is never a square, so at most one fits
        side = math.isqrt(width // channels)
        if side and channels * side * side == width:
            return rows.reshape(len(rows), channels, side, side)
    raise DataError(
        f"{where} has rows of {width} values, which is neither 3 x side x side (3072 for 32) nor side x side"
    )
