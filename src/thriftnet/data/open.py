"""The one `--data` argument: a name, a folder or a file, and which source reads it."""

from __future__ import annotations

import os
from pathlib import Path

from thriftnet.data.cifar import FILE_NAMES, CifarSource, find_cifar_folder
from thriftnet.data.dataset import Source
from thriftnet.data.digits import DigitsSource
from thriftnet.data.download import ARCHIVES, fetch
from thriftnet.data.image_files import find_images, folders_in
from thriftnet.data.image_folder import ImageFolderSource
from thriftnet.data.npz import NpzSource
from thriftnet.data.parquet_files import set_folders
from thriftnet.data.place import kind_of
from thriftnet.errors import DataError, escaped, nearest
from thriftnet.storage import user_path

VARIABLE = "THRIFTNET_DATA"
NAMES = ("digits", *ARCHIVES)


def open_source(data: str | None, image_side: int | None = None) -> Source:
    """The set that `data` names; None takes it from the environment variable THRIFTNET_DATA, or else `digits`.

    `digits`, `cifar10` and `cifar100` are names (a folder so called is `./digits`); anything else is the path of a
    CIFAR folder or tar.gz, a Parquet file or folder, an `.npz`, or a folder of class folders. `image_side`: pixels to
    resize to; None keeps the data's own side (32 for image folders). Raises DataError, and UserError for
    a home folder that nobody has.
    """
    given = (os.environ.get(VARIABLE) or "digits") if data is None else data
    if given == "digits":
        return DigitsSource(image_side)
    if given in ARCHIVES:
        return CifarSource(fetch(given), image_side)
    if not given.strip():
        raise DataError(f"the data set's name is empty; give the path of a set, or one of {', '.join(NAMES)}")
    try:
        path = user_path(given)
        if not path.exists():
            from_where = f" ({VARIABLE} says so)" if data is None else ""
            raise DataError(
                f"there is no data at {given}{from_where}{nearest(given, NAMES)}; give the path of a set, or one of "
                f"{', '.join(NAMES)}"
            )
        return _open_folder(path, image_side) if path.is_dir() else _open_file(path, image_side)
    except OSError as error:
        raise DataError(f"{given} cannot be opened ({error}); check its path and permissions") from None


def _open_folder(path: Path, image_side: int | None) -> Source:
    cifar = find_cifar_folder(path)
    if cifar is not None:
        return CifarSource(cifar, image_side)
    if set_folders(path):
        return _parquet(path, image_side)
    arrays = _arrays_in(path) or [file for folder in folders_in(path) for file in _arrays_in(folder)]
    if arrays and not find_images(path).images:
        if len(arrays) > 1:
            names = ", ".join(escaped(str(each.relative_to(path))) for each in arrays[:5])
            more = ", ..." if len(arrays) > 5 else ""
            raise DataError(f"{path} holds {len(arrays)} .npz files, {names}{more}; give one of them")
        return NpzSource(arrays[0], image_side)
    return ImageFolderSource(path, image_side)


def _arrays_in(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("[!.]*.npz") if path.is_file())


def _open_file(path: Path, image_side: int | None) -> Source:
    kind = kind_of(path)
    if kind == "parquet":
        return _parquet(path, image_side)
    if kind == "npz":
        return NpzSource(path, image_side)
    if kind == "archive":
        return CifarSource(path, image_side)
    if path.name in FILE_NAMES:
        raise DataError(
            f"{path} is one of the files of CIFAR; give the folder of all of them, {path.absolute().parent}"
        )
    raise DataError(
        f"{path} is of no known kind; give a .parquet, .npz or CIFAR .tar.gz file, or a folder (not a .zip)"
    )


def _parquet(path: Path, image_side: int | None) -> Source:
    from thriftnet.data.parquet import ParquetSource  # pyarrow takes a moment to import

    return ParquetSource(path, image_side)
