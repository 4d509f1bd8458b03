"""Unlabelled images to predict, with their ids: the course's pickle, images, Parquet or `.npz`.

    pickle     a dict with `data` and `ids` (bytes or str keys): N x 3072, N x 3 x 32 x 32 or N x 32 x 32 x 3
    folder     every image in and below it, links followed; ids are relative paths, sorted; one image works too
    .parquet   column `img` or `image`; ids from a column `id`, `ids` or `ID`, else row numbers from 0
    .npz       `images` (or `data`, `x_test`, `test_images`) and `ids`
    CIFAR      one file of its binary or Python layout, such as test.bin or test_batch; its labels are not used

Images of another size or with other channels than the network's are converted as `decode` says; for arrays, where every
image has the same, a note says so.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from thriftnet.data.arrays import as_images
from thriftnet.data.cifar import LAYOUTS, PIXELS, images_of_records
from thriftnet.data.decode import ENDINGS, KINDS, convert_all, decode_all
from thriftnet.data.image_files import FoundFiles, find_images
from thriftnet.data.limits import read_file
from thriftnet.data.npz import NpzArrays
from thriftnet.data.place import kind_of
from thriftnet.data.safe_pickle import field, load_pickle, shortly
from thriftnet.errors import DataError, escaped

_NPZ_IMAGES = ("images", "data", "x_test", "test_images")
_LABEL_KEYS = ("labels", "fine_labels")
_LABELS_UNUSED = "the labels in the file are not used"
_SET_ENDINGS = (".parquet", ".npz")
_PICKLE_ENDINGS = ("", ".pkl", ".pickle", ".p")
_TAKEN = "a folder of images, an image, a .parquet or .npz file, a pickle of data and ids, or one file of CIFAR"
_SHOWN = 5
_ID_COLUMNS = ("id", "ids", "ID")
_NO_IDS = "no ids: images are numbered from 0"


@dataclass(frozen=True)
class Unlabelled:
    """Images in the network's channels and side, in the input's order."""

    images: Tensor
    """uint8 [N, C, H, W]."""
    ids: tuple[int | str, ...]
    """One an image, all different, as the input gives them."""
    notes: tuple[str, ...]
    """What was found out about the layout, one sentence each."""


def read_unlabelled(path: Path, channels: int, image_side: int) -> Unlabelled:
    """Read images for a network of `channels` and `image_side` pixels. Raises DataError where they cannot be used."""
    try:
        return _read(path, channels, image_side)
    except OSError as error:
        raise DataError(f"{path} cannot be opened ({error}); check its path and permissions") from None


def _read(path: Path, channels: int, image_side: int) -> Unlabelled:
    if not path.exists():
        raise DataError(f"there is nothing at {path}; give {_TAKEN}")
    if path.is_dir() or path.suffix.lower() in ENDINGS:
        return _from_files(path, channels, image_side)
    kind = kind_of(path)
    if kind == "parquet":
        return _from_parquet(path, channels, image_side)
    if kind == "npz":
        return _from_npz(path, channels, image_side)
    if kind == "archive":
        raise DataError(f"{path} is an archive; unpack it and give one file or a folder of it: {_TAKEN}")
    return _from_bytes(path, read_file(path), channels, image_side)


def _from_files(path: Path, channels: int, side: int) -> Unlabelled:
    found = find_images(path) if path.is_dir() else FoundFiles([path])
    images = found.images
    if not images:
        sets = [file for _, file in found.left_out if file.suffix.lower() in _SET_ENDINGS and file.is_file()]
        if len(sets) == 1:
            return _read(sets[0], channels, side)
        if sets:
            some = ", ".join(escaped(str(file.relative_to(path))) for file in sets[:_SHOWN])
            raise DataError(
                f"{path} has no images, but {some}{', ...' * (len(sets) > _SHOWN)}; give one of these files"
            )
        raise DataError(f"{path} has no {KINDS} images; give another folder, or a .parquet or .npz file")
    root = path if path.is_dir() else path.parent
    ids = tuple(escaped(image.relative_to(root).as_posix()) for image in images)
    if repeated := _repeated(ids):
        raise DataError(f"{path} has two images called {repeated[0]} once their names are escaped; rename one")
    notes = (f"{len(ids)} images, in the order of their names", *found.notes(root))
    named = zip((escaped(str(image)) for image in images), images, strict=True)
    return Unlabelled(decode_all(named, channels, side), ids, notes)


def _from_parquet(path: Path, channels: int, side: int) -> Unlabelled:
    from thriftnet.data.parquet import ParquetImages  # its library takes a moment to import

    file = ParquetImages.open(path)
    column = file.column_named(_ID_COLUMNS)
    ids = _checked_ids(file.values(column), file.rows, f"{path}: {column}") if column else tuple(range(file.rows))
    if not ids:
        raise DataError(f"{path} has no rows; there is nothing to predict")
    named = ((f"{path} row {row}", encoded) for row, encoded in enumerate(file.encoded()))
    notes = (f"{file.rows} images from column {file.column}", f"ids from column {column}" if column else _NO_IDS)
    return Unlabelled(decode_all(named, channels, side), ids, notes)


def _from_npz(path: Path, channels: int, side: int) -> Unlabelled:
    arrays = NpzArrays(path)
    key = next((name for name in _NPZ_IMAGES if name in arrays.keys), None)
    if key is None:
        raise DataError(f"{path} holds {', '.join(arrays.keys) or 'nothing'}; name the array of images `images`")
    ids = arrays.read("ids") if "ids" in arrays.keys else None
    return _from_array(arrays.read(key), ids, arrays.name(key), channels, side)


def _from_bytes(path: Path, content: bytes, channels: int, side: int) -> Unlabelled:
    if (found := images_of_records(content, path.name)) is not None:  # no pickle begins with a label of CIFAR
        images, layout = found
        notes = [f"{len(images)} records of {layout.name}", _LABELS_UNUSED]
        return _converted(images, None, str(path), notes, channels, side)
    is_pickle = content.startswith(b"\x80") or content.endswith(b".")  # protocols 2 to 5; every whole one
    if not is_pickle and path.suffix.lower() == ".bin":
        sizes = " nor ".join(
            f"{layout.label_bytes + PIXELS} ({layout.name})" for layout in LAYOUTS if layout.label_bytes
        )
        raise DataError(
            f"{path} has {len(content):,} bytes that are no file of CIFAR: neither records of {sizes}, each beginning "
            "with its label; get it again"
        )
    if not is_pickle and path.suffix.lower() not in _PICKLE_ENDINGS:
        raise DataError(f"{path} is nothing that can be predicted; give {_TAKEN}")
    return _from_pickle(path, content, channels, side)


def _from_pickle(path: Path, encoded: bytes, channels: int, side: int) -> Unlabelled:
    content = load_pickle(encoded, str(path))
    if isinstance(content, np.ndarray):
        return _from_array(content, None, str(path), channels, side)
    data = field(content, "data") if isinstance(content, dict) else None
    if not isinstance(data, np.ndarray):
        keys = ", ".join(map(shortly, list(content)[:_SHOWN])) if isinstance(content, dict) else type(content).__name__
        raise DataError(f"{path} holds {keys or 'nothing'}; expected a dict with b'data' (an array) and b'ids'")
    notes = [_LABELS_UNUSED] if any(field(content, key) is not None for key in _LABEL_KEYS) else []
    return _from_array(data, field(content, "ids"), f"{path}: data", channels, side, notes)


def _from_array(
    array: np.ndarray, ids: Any, where: str, channels: int, side: int, notes: Sequence[str] = ()
) -> Unlabelled:
    images, layout = as_images(np.asarray(array), where)
    return _converted(images, ids, where, [layout, *notes], channels, side)


def _converted(images: Tensor, ids: Any, where: str, notes: list[str], channels: int, side: int) -> Unlabelled:
    """`images`, uint8 [N, C, H, W], as the network wants them; what is done to them is added to `notes`."""
    found_channels, height, width = images.shape[1:]
    if (height, width) != (side, side):
        notes.append(f"resized from {width}x{height} to {side}x{side} pixels, which the network was trained on")
    if found_channels != channels:
        notes.append("grey repeated in three channels" if channels == 3 else "colour turned to grey")
    if ids is None:
        notes.append(_NO_IDS)
    checked = tuple(range(len(images))) if ids is None else _checked_ids(ids, len(images), f"{where}, ids")
    return Unlabelled(convert_all(images, channels, side), checked, tuple(notes))


def _checked_ids(ids: Any, count: int, where: str) -> tuple[int | str, ...]:
    """Whole numbers as int, text as str. Raises DataError unless there is one an image, each different."""
    values = np.asarray(ids).reshape(-1).tolist() if isinstance(ids, np.ndarray) else ids
    if not isinstance(values, list | tuple) or len(values) != count:
        found = len(values) if isinstance(values, list | tuple) else type(values).__name__
        raise DataError(f"{where}: {found} ids for {count} images; every image needs one")
    checked = tuple(_id(value, where) for value in values)
    repeated = _repeated(map(str, checked))
    if repeated:
        raise DataError(f"{where}: the id {repeated[0]:.80} appears more than once; ids must differ, or leave them out")
    return checked


def _id(value: object, where: str) -> int | str:
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, int | str) and not isinstance(value, bool):
        return value
    raise DataError(f"{where}: {shortly(value)} is no id; ids are whole numbers or text")


def _repeated(values: Iterable[str]) -> Sequence[str]:
    return [value for value, count in Counter(values).items() if count > 1]
