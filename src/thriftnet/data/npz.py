"""NumPy's `.npz`: arrays of images and labels under the usual names.

    images, labels                                             a fixed stratified fifth is the test split
    x_train, y_train, x_test, y_test                           as Keras has it
    train_images, train_labels, test_images, test_labels       as MedMNIST has it; val_images is not used

and `class_names` where present. Layouts are found by `arrays.as_images`. Objects in arrays are refused, never loaded.
"""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path

import numpy as np

from thriftnet.data.arrays import as_images, as_labels, check_label_range
from thriftnet.data.dataset import LabelledImages, Source
from thriftnet.data.decode import convert_all
from thriftnet.data.splits import carve_test
from thriftnet.errors import DataError

_WHOLE = (("images", "labels"), ("x", "y"))
_TRAIN = (("x_train", "y_train"), ("train_images", "train_labels"))
_TEST = (("x_test", "y_test"), ("test_images", "test_labels"))
_DAMAGED = (zipfile.BadZipFile, zlib.error, OSError, EOFError, ValueError, KeyError, NotImplementedError, MemoryError)


class NpzArrays:
    """The arrays of one file by name, read one by one. Raises DataError where it is damaged or holds objects."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with zipfile.ZipFile(path) as archive:
                self.keys = tuple(name.removesuffix(".npy") for name in archive.namelist())
        except _DAMAGED as error:
            raise self._unreadable(error) from None

    def read(self, key: str) -> np.ndarray:
        """One array, of any plain type."""
        try:
            with np.load(self.path, allow_pickle=False) as arrays:
                return np.asarray(arrays[key])
        except _DAMAGED as error:
            raise self._unreadable(error, f" at {key}") from None

    def name(self, key: str) -> str:
        """What a message calls this array."""
        return f"{self.path}: {key}"

    def _unreadable(self, error: Exception, where: str = "") -> DataError:
        if "allow_pickle" in str(error):
            return DataError(f"{self.path} holds objects{where}, not numbers; save arrays of uint8 and of integers")
        return DataError(
            f"{self.path} is no readable .npz{where} ({' '.join(str(error).split())}); save or get it again"
        )


class NpzSource(Source):
    """A labelled set in one `.npz`. Opening reads the training labels, no image."""

    format = "npz"

    def __init__(self, path: Path, image_side: int | None = None) -> None:
        """`image_side`: pixels to resize to; None keeps the images' own side."""
        self.location = str(path.resolve())
        self._arrays, self._side = NpzArrays(path), image_side
        train, test, whole = (self._pair(pairs) for pairs in (_TRAIN, _TEST, _WHOLE))
        found = train or whole
        if found is None:
            raise DataError(
                f"{path} holds {', '.join(self._arrays.keys) or 'nothing'}; name the arrays images and labels, or "
                f"x_train, y_train, x_test and y_test"
            )
        self._train, self._test = found, test
        self._carved = train is None and test is None
        self.has_test = self._carved or test is not None
        stored = np.atleast_1d(self._arrays.read(found[1]))
        labels = as_labels(stored, self._arrays.name(found[1]), len(stored))
        self.class_names = self._names() or tuple(map(str, range(int(labels.max()) + 1 if len(labels) else 0)))
        used = {*found, *(test or ()), "class_names"}
        self.notes = (
            ("no test split: a fixed stratified fifth of the images is the test split",) if self._carved else ()
        )
        unused = [key for key in self._arrays.keys if key not in used]
        self.notes += (f"not used: {', '.join(unused)}",) if unused else ()

    def train(self) -> LabelledImages:
        """The training split."""
        everything = self._read(self._train)
        return everything.select(carve_test(everything.labels)[0]) if self._carved else everything

    def test(self) -> LabelledImages:
        """The test split."""
        if self._carved:
            everything = self._read(self._train)
            return everything.select(carve_test(everything.labels)[1])
        if self._test is None:
            raise DataError(f"{self.location} has no x_test and y_test; add them, or name all images and labels")
        return self._read(self._test)

    def _read(self, keys: tuple[str, str]) -> LabelledImages:
        name = self._arrays.name
        images, _ = as_images(self._arrays.read(keys[0]), name(keys[0]))
        labels = as_labels(self._arrays.read(keys[1]), name(keys[1]), len(images))
        check_label_range(labels, len(self.class_names), name(keys[1]))
        if self._side is not None:
            images = convert_all(images, images.shape[1], self._side)
        return LabelledImages(images, labels)

    def _pair(self, pairs: tuple[tuple[str, str], ...]) -> tuple[str, str] | None:
        return next((pair for pair in pairs if set(pair) <= set(self._arrays.keys)), None)

    def _names(self) -> tuple[str, ...]:
        return tuple(map(str, self._arrays.read("class_names"))) if "class_names" in self._arrays.keys else ()
