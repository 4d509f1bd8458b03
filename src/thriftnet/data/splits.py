"""Which images train, validate and test: stratified, exact in number, and a pure function of labels and seed.

The random order comes from SplitMix64 (Steele, Lea, Flood 2014, "Fast splittable pseudorandom number generators") of
(seed, index), not from a library's generator, so a split is the same under every version of torch and NumPy.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from thriftnet.errors import DataError

_GOLDEN = 0x9E3779B97F4A7C15
_VALIDATION_STREAM, _SUBSET_STREAM, _TEST_STREAM = 1, 2, 3
TEST_SHARE = 5
"""A set without a test split of its own gives one image in this many, always the same ones, to be its test split."""


def split_training(
    labels: Tensor, validation_images: int | None, train_images: int | None, seed: int
) -> tuple[Tensor, Tensor]:
    """(training indices, validation indices), int64, sorted and disjoint, into `labels` int64 [N].

    `validation_images` None holds out a tenth (at least one image). `train_images` then keeps a stratified subset of
    what is left. Raises DataError where the numbers do not fit the set.
    """
    held_out = max(1, round(len(labels) / 10)) if validation_images is None else validation_images
    kept, validation = _split(labels, held_out, _keys(len(labels), seed, _VALIDATION_STREAM), "data.validation_images")
    if train_images is not None:
        kept = kept[stratified_subset(labels[kept], train_images, seed)]
    return kept, validation


def stratified_split(labels: Tensor, held_out: int, seed: int) -> tuple[Tensor, Tensor]:
    """(kept indices, held-out indices), int64, sorted; exactly `held_out` of them, each class by its share.

    Shares are rounded by largest remainder, and no class loses its last image to the held-out part. Raises DataError
    where `held_out` is negative or would leave a class without an image.
    """
    return _split(labels, held_out, _keys(len(labels), seed, _VALIDATION_STREAM), "the number of held-out images")


def stratified_subset(labels: Tensor, count: int, seed: int) -> Tensor:
    """Sorted indices int64 [count] into `labels`, each class by its share and none missing. Raises DataError."""
    classes = len(torch.unique(labels))
    if not classes <= count <= len(labels):
        raise DataError(
            f"data.train_images = {count} must lie between {classes} (one a class) and {len(labels)} (all of them)"
        )
    keys = _keys(len(labels), seed, _SUBSET_STREAM)
    return _split(labels, len(labels) - count, keys, "data.train_images")[0]


def carve_test(labels: Tensor, keys: np.ndarray | None = None) -> tuple[Tensor, Tensor]:
    """(training indices, test indices) of a set without a test split: a stratified fifth, whatever the run's seed.

    `keys`, uint64 [N], order the images (those of the lowest are tested); absent: a fixed draw by index. Raises
    DataError for a set too small to share.
    """
    keys = _keys(len(labels), 0, _TEST_STREAM) if keys is None else keys
    return _split(labels, max(1, round(len(labels) / TEST_SHARE)), keys, "the number of test images")


def _split(labels: Tensor, held_out: int, keys: np.ndarray, what: str) -> tuple[Tensor, Tensor]:
    """Hold out, in each class, the images of the lowest `keys`."""
    values, class_of = np.unique(labels.numpy(), return_inverse=True)
    most = len(labels) - len(values)
    if not 0 <= held_out <= most:
        raise DataError(
            f"{what} = {held_out} must lie between 0 and {most}: {len(labels)} images of {len(values)} classes, "
            f"of which each keeps one to train on"
        )
    takes = _largest_remainder(np.bincount(class_of, minlength=len(values)), held_out)
    held = np.zeros(len(labels), dtype=bool)
    for label, take in enumerate(takes):
        members = np.flatnonzero(class_of == label)
        held[members[np.argsort(keys[members], kind="stable")[:take]]] = True
    return torch.from_numpy(np.flatnonzero(~held)), torch.from_numpy(np.flatnonzero(held))


def _largest_remainder(counts: np.ndarray, total: int) -> np.ndarray:
    """`total` shared out in proportion to `counts`, each share below its count; of equal remainders the first wins."""
    shares, remainder = np.divmod(counts.astype(np.int64) * total, max(1, int(counts.sum())))
    while (missing := total - int(shares.sum())) > 0:
        open_classes = np.flatnonzero(shares < counts - 1)
        best = open_classes[np.argsort(-remainder[open_classes], kind="stable")[:missing]]
        shares[best] += 1
    return shares


def _keys(count: int, seed: int, stream: int) -> np.ndarray:
    """uint64 [count]: the random key of each index."""
    start = np.uint64((seed * 4 + stream) % 2**64)
    base = _mix(np.array([start], dtype=np.uint64))
    return _mix(base + np.arange(1, count + 1, dtype=np.uint64) * np.uint64(_GOLDEN))


def _mix(z: np.ndarray) -> np.ndarray:
    """SplitMix64's finaliser; uint64 arrays wrap round, as it wants."""
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    z ^= z >> np.uint64(31)
    return z
