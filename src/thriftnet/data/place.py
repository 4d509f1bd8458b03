"""Where data lies, and of which kind a file is."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path
from typing import Literal

ARCHIVE_ENDINGS = (".tar.gz", ".tgz", ".tar")

Kind = Literal["parquet", "npz", "archive"]


def as_given(path: Path) -> str:
    """The absolute path with its links kept: the target of a link may have a name that says nothing of its kind."""
    plain = os.path.abspath(path)
    return plain if os.path.realpath(plain) == os.path.realpath(path) else str(path.absolute())  # `..` behind a link


def same_place(one: str, other: str) -> bool:
    """Whether two locations of sources are one, whatever links lead there."""
    return one == other or (os.path.isabs(one) and os.path.isabs(other) and real_place(one) == real_place(other))


def real_place(location: str) -> str:
    """A source's location with every link followed; the name of a bundled set as it is."""
    return os.path.realpath(location) if os.path.isabs(location) else location


def kind_of(path: Path) -> Kind | None:
    """Of a set in one file: by its name, by that of its link's target, else by its first bytes; None is no such set.

    Raises OSError where it cannot be read.
    """
    for name in (path.name.lower(), path.resolve().name.lower()):
        if name.endswith(".parquet"):
            return "parquet"
        if name.endswith(".npz"):
            return "npz"
        if name.endswith(ARCHIVE_ENDINGS):
            return "archive"
    with path.open("rb") as file:
        start = file.read(4)
    if start == b"PAR1":
        return "parquet"
    if start[:2] == b"\x1f\x8b":
        return "archive"
    return "npz" if start == b"PK\x03\x04" and _holds_arrays(path) else None


def _holds_arrays(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith(".npy") for name in archive.namelist())
    except (zipfile.BadZipFile, ValueError, NotImplementedError):
        return False
