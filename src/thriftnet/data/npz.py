"""NumPy's `.npz`: arrays of images and labels under the usual names.

    images, labels                                             a fixed stratified fifth is the test split
    x_train, y_train, x_test, y_test                           as Keras has it
    train_images, train_labels, test_images, test_labels       as MedMNIST has it

and `x_val`, `y_val` (or `val_images`, `val_labels`), the validation split, or that of the test without one, and
`class_names` where present. Layouts are found by `arrays.as_images`. Objects in arrays are refused, never loaded.
"""

from __future__ import annotations

import lzma
import struct
import warnings
import zipfile
import zlib
from pathlib import Path
from typing import IO

import numpy as np
from numpy.lib import format as npy

from thriftnet.data.arrays import as_images, as_labels, check_label_range, numbered_classes
from thriftnet.data.dataset import CARVED, MOST_CLASSES, VALIDATES, LabelledImages, Source
from thriftnet.data.decode import convert_all
from thriftnet.data.limits import array_bytes, check_decompressed
from thriftnet.data.place import as_given
from thriftnet.data.splits import carve_test
from thriftnet.errors import DataError, escaped
from thriftnet.storage import why_refused

_WHOLE = (("images", "labels"), ("x", "y"))
_TRAIN = (("x_train", "y_train"), ("train_images", "train_labels"))
_TEST = (("x_test", "y_test"), ("test_images", "test_labels"))
_VALIDATION = (("x_val", "y_val"), ("x_valid", "y_valid"), ("val_images", "val_labels"))
_DAMAGED = (
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    OSError,
    EOFError,
    ValueError,
    KeyError,
    StopIteration,
    struct.error,
    RuntimeError,  # an encrypted member
    NotImplementedError,
    MemoryError,
)


class NpzArrays:
    """The arrays of one file by name, read one by one. Raises DataError where it is damaged or holds objects."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with zipfile.ZipFile(path) as archive:
                self.keys = tuple(name.removesuffix(".npy") for name in archive.namelist())
        except _DAMAGED as error:
            if why_refused(error):  # no fault of what is in the file
                raise
            raise self._unreadable(error) from None

    def read(self, key: str) -> np.ndarray:
        """One array, of any plain type."""
        try:
            with zipfile.ZipFile(self.path) as archive:
                member = next(each for each in archive.infolist() if each.filename.removesuffix(".npy") == key)
                check_decompressed(member.file_size, member.compress_size, self.name(key))
                with archive.open(member) as stream:
                    return self._array(stream, member.file_size, key)
        except _DAMAGED as error:
            raise self._unreadable(error, f" at {key}") from None

    def _array(self, stream: IO[bytes], size: int, key: str) -> np.ndarray:
        """NumPy reads the header alone: what that claims is compared with what there is before memory is taken."""
        version = npy.read_magic(stream)
        read_header = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of Python 2's headers
                shape, fortran, dtype = read_header(stream)
        except Exception as error:  # it is Python text, whose parser raises many kinds
            raise ValueError(f"its header cannot be read: {type(error).__name__}") from None
        if dtype.hasobject:
            raise DataError(f"{self.path} holds objects at {key}, not numbers; save arrays of uint8 and of integers")
        claimed, present = array_bytes(shape, dtype.itemsize), size - stream.tell()
        if claimed != present or min(shape, default=0) < 0 or dtype.itemsize == 0:
            raise ValueError(f"an array of shape {shape} and type {dtype} with {present:,} bytes")
        return np.frombuffer(bytearray(stream.read()), dtype).reshape(shape, order="F" if fortran else "C")

    def name(self, key: str) -> str:
        """What a message calls this array."""
        return f"{self.path}: {key}"

    def _unreadable(self, error: Exception, where: str = "") -> DataError:
        reason = " ".join(str(error).split()) or type(error).__name__
        return DataError(f"{self.path} is no readable .npz{where} ({reason}); save or get it again")


class NpzSource(Source):
    """A labelled set in one `.npz`. Opening reads the training labels, no image."""

    format = "npz"

    def __init__(self, path: Path, image_side: int | None = None) -> None:
        """`image_side`: pixels to resize to; None keeps the images' own side."""
        self.location = as_given(path)
        self._arrays, self._side = NpzArrays(path), image_side
        train, validation, test, whole = (self._pair(pairs) for pairs in (_TRAIN, _VALIDATION, _TEST, _WHOLE))
        found = train or whole
        if found is None:
            raise DataError(
                f"{path} holds {', '.join(self._arrays.keys) or 'nothing'}; name the arrays images and labels, or "
                f"x_train, y_train, x_test and y_test"
            )
        stands_in = train is not None and test is None and validation is not None
        if stands_in:
            test, validation = validation, None
        self._train, self._validation, self._test = found, validation, test
        self.has_validation = validation is not None
        self.carved_test = train is None and test is None
        self.has_test = self.carved_test or test is not None
        stored, where = self._arrays.read(found[1]), self._arrays.name(found[1])
        listed = stored if stored.ndim else stored[None][:0]  # `train` says what is wrong with a single number
        self.class_names = self._names() or numbered_classes(as_labels(listed, where, len(listed)), where)
        used = {*found, *(validation or ()), *(test or ()), "class_names"}
        self.notes = (f"no test split: {CARVED}",) if self.carved_test else ()
        self.notes += (f"no arrays of a test split: {test[0]} is the test split",) if stands_in and test else ()
        self.notes += () if validation is None else (f"{validation[0]} {VALIDATES}",)
        unused = [key for key in self._arrays.keys if key not in used]
        self.notes += (f"not used: {', '.join(unused)}",) if unused else ()

    def train(self) -> LabelledImages:
        """The training split."""
        everything = self._read(self._train)
        return everything.select(carve_test(everything.labels)[0]) if self.carved_test else everything

    def validation(self) -> LabelledImages | None:
        """The validation split; None where there is none."""
        return None if self._validation is None else self._read(self._validation)

    def test(self) -> LabelledImages:
        """The test split."""
        if self.carved_test:
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
        if "class_names" not in self._arrays.keys:
            return ()
        names = self._arrays.read("class_names")
        if names.ndim != 1 or names.dtype.kind not in "US" or len(names) > MOST_CLASSES:
            raise DataError(
                f"{self._arrays.name('class_names')} has shape {names.shape} of {names.dtype}; it must be a list of at "
                f"most {MOST_CLASSES:,} texts"
            )
        return tuple(
            name.decode("utf-8", "replace") if isinstance(name, bytes) else escaped(name) for name in names.tolist()
        )
