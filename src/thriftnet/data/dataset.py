"""What every data source yields, in memory as uint8.

Shapes: N images, C channels (1 or 3), H = W = side in pixels.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

CARVED = "a fixed stratified fifth of the images is the test split"
"""What a source with `carved_test` says of it, after why."""
VALIDATES = "is the validation split, unless data.validation_images is above 0"
"""What a source with `has_validation` says of it, after where it lies."""
MOST_CLASSES = 10_000
"""A table of confusions has its square: 800 MB. The largest sets of photographs have about as many."""


@dataclass(frozen=True)
class LabelledImages:
    """`images`: uint8 [N, C, H, W] and `labels`: int64 [N], both on the CPU."""

    images: Tensor
    labels: Tensor

    def __post_init__(self) -> None:
        if self.images.dtype != torch.uint8 or self.images.ndim != 4:
            raise TypeError(f"images must be uint8 [N, C, H, W], not {self.images.dtype} {list(self.images.shape)}")
        if self.labels.dtype != torch.int64 or self.labels.shape != self.images.shape[:1]:
            shape = list(self.labels.shape)
            raise TypeError(f"labels must be int64 [{len(self.images)}], not {self.labels.dtype} {shape}")

    def __len__(self) -> int:
        return len(self.images)

    def select(self, indices: Tensor) -> LabelledImages:
        """The images and labels at `indices`: int64 [M], in that order."""
        return LabelledImages(self.images[indices], self.labels[indices])


class Source(ABC):
    """One data set on disk or bundled. Opening reads no image; `train` and `test` read their own split only.

    So training under a sealed test split never touches the bytes of the test images.
    """

    format: str
    """Short name of the layout: `digits`, `cifar-python`, `cifar-binary`, `parquet`, `image-folder`, `npz`."""
    location: str
    """Where it lies, as an absolute path, or the name of a bundled set."""
    class_names: tuple[str, ...]
    """One name a class, in label order."""
    has_test: bool = True
    """Whether there is a test split, its own or a fixed part that is never trained on; asking opens no image."""
    has_validation: bool = False
    """Whether there is a validation split of its own; asking opens no image."""
    carved_test: bool = False
    """Whether that is a fixed part of the whole, which has no split of its own: other images, another part."""
    unlabelled_test_images: int = 0
    """Of a test split without labels, where opening tells how many it has."""
    notes: tuple[str, ...] = ()
    """How the data was understood where that is not obvious, one sentence each, to be shown to the user."""

    @abstractmethod
    def train(self) -> LabelledImages:
        """The training split. Raises DataError where it cannot be read."""

    def validation(self) -> LabelledImages | None:
        """The validation split that the data come with, or None. Raises DataError where it cannot be read."""
        return None

    @abstractmethod
    def test(self) -> LabelledImages:
        """The test split. Raises DataError where it cannot be read or there is none."""

    def whole(self) -> LabelledImages:
        """Where the test split is carved out, every labelled image. Raises DataError where one cannot be read."""
        train, test = self.train(), self.test()
        return LabelledImages(torch.cat([train.images, test.images]), torch.cat([train.labels, test.labels]))
