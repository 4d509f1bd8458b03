"""CIFAR-10 and CIFAR-100 as their authors publish them: Python batches or binary records, unpacked or in the tar.gz.

The layouts are those of https://www.cs.toronto.edu/~kriz/cifar.html. A tar.gz is read in place and nothing is unpacked;
reading the training split passes over the compressed bytes of the test split without decoding an image.
"""

from __future__ import annotations

import gzip
import tarfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
import torch
from torch import Tensor

from thriftnet.data.arrays import as_images, as_labels, check_label_range
from thriftnet.data.dataset import LabelledImages, Source
from thriftnet.data.decode import convert_all
from thriftnet.data.limits import read_file
from thriftnet.data.place import as_given
from thriftnet.data.safe_pickle import field, load_pickle
from thriftnet.errors import DataError, escaped
from thriftnet.storage import why_refused

SIDE, CHANNELS = 32, 3
PIXELS = CHANNELS * SIDE * SIDE
_SUPERCLASSES = 20
"""Of CIFAR-100: the label before the class."""
MOST_ARCHIVE_BYTES = 512 * 2**20
"""Of an archive when unpacked: three times CIFAR, a second of decompressing."""
MOST_MEMBERS = 1_000
"""Of an archive."""
_TAR_DAMAGED = (tarfile.TarError, EOFError, zlib.error, OSError, ValueError, OverflowError, MemoryError)


@dataclass(frozen=True)
class Layout:
    """One of the four published forms."""

    name: str
    format: str
    train: tuple[str, ...]
    test: str
    meta: str
    labels: str
    """Python: the key of the labels."""
    names: str
    """Python: the key of the class names in `meta`."""
    label_bytes: int
    """Binary: bytes before the pixels, of which the last is the label."""
    classes: int
    archive: str
    md5: str
    """Of the archive, as its authors publish it."""


class _TooMuch(Exception):
    """An archive goes on beyond MOST_ARCHIVE_BYTES."""


class _Bounded:
    """A file of which no more than MOST_ARCHIVE_BYTES are read: tarfile believes what a header claims."""

    def __init__(self, file: gzip.GzipFile | IO[bytes]) -> None:
        self._file = file
        self.tell = file.tell

    def read(self, size: int) -> bytes:
        if self.tell() + size > MOST_ARCHIVE_BYTES:
            raise _TooMuch
        return self._file.read(size)

    def seek(self, position: int) -> int:
        if position > MOST_ARCHIVE_BYTES:
            raise _TooMuch
        return self._file.seek(position)


def _layouts() -> tuple[Layout, ...]:
    ten, hundred = tuple(f"data_batch_{number}" for number in range(1, 6)), ("train",)
    ten_bin, hundred_bin = tuple(f"{name}.bin" for name in ten), ("train.bin",)
    return (
        Layout("CIFAR-10", "cifar-python", ten, "test_batch", "batches.meta", "labels", "label_names", 0, 10,
               "cifar-10-python.tar.gz", "c58f30108f718f92721af3b95e74349a"),
        Layout("CIFAR-100", "cifar-python", hundred, "test", "meta", "fine_labels", "fine_label_names", 0, 100,
               "cifar-100-python.tar.gz", "eb9058c3a382ffc7106e4002c42a8d85"),
        Layout("CIFAR-10", "cifar-binary", ten_bin, "test_batch.bin", "batches.meta.txt", "", "", 1, 10,
               "cifar-10-binary.tar.gz", "c32a1d4ab5d03f1284b67883e8d87530"),
        Layout("CIFAR-100", "cifar-binary", hundred_bin, "test.bin", "fine_label_names.txt", "", "", 2, 100,
               "cifar-100-binary.tar.gz", "03b5dce01913d631647c71ecec9e9cb8"),
    )  # fmt: skip


LAYOUTS = _layouts()
FILE_NAMES = frozenset(name for layout in LAYOUTS for name in (*layout.train, layout.test, layout.meta))


def find_cifar_folder(folder: Path) -> Path | None:
    """The folder of CIFAR's files: `folder` or one in it; None where there is none. Raises DataError for several."""
    inside = sorted(child for child in folder.iterdir() if child.is_dir())
    for candidates in ([folder], inside):
        found = [path for path in candidates if _match(_known_files(path))]
        if len(found) > 1:
            raise DataError(f"{folder} holds several sets: {', '.join(path.name for path in found)}; give one of them")
        if found:
            return found[0]
    return None


def images_of_records(content: bytes, name: str) -> tuple[Tensor, Layout] | None:
    """(uint8 [N, 3, 32, 32], the layout) of one file of a binary layout, or None where its size or labels fit none.

    `name`, the file's, decides where both layouts fit.
    """
    fitting = [layout for layout in LAYOUTS if layout.label_bytes and _fits(content, layout)]
    if not fitting:
        return None
    layout = min(fitting, key=lambda each: name not in (*each.train, each.test))
    return _pixels(_records(content, layout), layout), layout


class CifarSource(Source):
    """A folder found by `find_cifar_folder`, or a tar.gz. Opening a damaged or incomplete one raises DataError."""

    def __init__(self, path: Path, image_side: int | None = None) -> None:
        """`image_side`: pixels to resize to; None keeps 32."""
        self._path, self._side = path, image_side or SIDE
        self.location = as_given(path)
        names = _known_files(path) if path.is_dir() else self._archive_names()
        layout = _match(names)
        if layout is None:
            raise DataError(f"{path} holds neither CIFAR-10 nor CIFAR-100, but {_some(names)}; give one that does")
        self._layout = layout
        self.format = layout.format
        missing = [name for name in layout.train if name not in names]
        if missing:
            raise DataError(f"{path} lacks {', '.join(missing)} of {layout.name}; {self._again()}")
        self.has_test = layout.test in names
        self.class_names = tuple(map(str, range(layout.classes)))
        if layout.meta in names:
            self.class_names = self._names_from(self._read([layout.meta])[layout.meta])
        else:
            self.notes = (f"no {layout.meta}, so classes are called by their number",)

    def train(self) -> LabelledImages:
        """The training split, batch after batch."""
        return self._split(self._layout.train)

    def test(self) -> LabelledImages:
        """The test split."""
        if not self.has_test:
            raise DataError(f"{self._path} lacks {self._layout.test}, the test images; {self._again()}")
        return self._split((self._layout.test,))

    def _split(self, files: tuple[str, ...]) -> LabelledImages:
        contents = self._read(files)
        decode = self._from_binary if self._layout.label_bytes else self._from_python
        parts = [decode(contents.pop(name), f"{self._path}: {name}") for name in files]
        images, labels = (torch.cat([part[which] for part in parts]) for which in (0, 1))
        return LabelledImages(convert_all(images, CHANNELS, self._side), labels)

    def _from_python(self, content: bytes, where: str) -> tuple[Tensor, Tensor]:
        batch = load_pickle(content, where)
        data, labels = (field(batch, key) if isinstance(batch, dict) else None for key in ("data", self._layout.labels))
        if isinstance(labels, list) and all(isinstance(label, int) for label in labels):
            labels = np.array(labels)
        if not isinstance(data, np.ndarray) or data.shape[1:] != (PIXELS,) or not isinstance(labels, np.ndarray):
            expected = f"data of N x {PIXELS} and {self._layout.labels}"
            raise DataError(f"{where} is no batch of {self._layout.name}, which has {expected}; {self._again()}")
        images, _ = as_images(np.asarray(data), f"{where} data")
        numbers = as_labels(np.asarray(labels), f"{where} {self._layout.labels}", len(images))
        check_label_range(numbers, len(self.class_names), where)
        return images, numbers

    def _from_binary(self, content: bytes, where: str) -> tuple[Tensor, Tensor]:
        record = self._layout.label_bytes + PIXELS
        if not content or len(content) % record:
            raise DataError(
                f"{where} has {len(content):,} bytes, not a whole number of records of {record}; {self._again()}"
            )
        records = _records(content, self._layout)
        labels = torch.from_numpy(records[:, self._layout.label_bytes - 1].astype(np.int64))
        check_label_range(labels, len(self.class_names), where)
        return _pixels(records, self._layout), labels

    def _names_from(self, content: bytes) -> tuple[str, ...]:
        where = f"{self._path}: {self._layout.meta}"
        if self._layout.label_bytes:
            names = tuple(line.strip() for line in content.decode("utf-8", "replace").splitlines() if line.strip())
        else:
            meta = load_pickle(content, where)
            stored = field(meta, self._layout.names) if isinstance(meta, dict) else None
            stored = stored if isinstance(stored, list) else []
            names = tuple(
                name.decode("utf-8", "replace") if isinstance(name, bytes) else escaped(str(name)) for name in stored
            )
        if len(names) != self._layout.classes:
            raise DataError(f"{where} names {len(names)} classes, not {self._layout.classes}; {self._again()}")
        return names

    def _read(self, names: Iterable[str]) -> dict[str, bytes]:
        """The content of these files, from one pass over the archive or from the folder."""
        wanted = set(names)
        if self._path.is_dir():
            try:
                return {name: read_file(self._path / name) for name in wanted}
            except OSError as error:
                raise DataError(f"{error.filename} cannot be read ({error.strerror})") from None
        contents: dict[str, bytes] = {}
        with self._archive() as (archive, _):
            for member in self._members(archive):
                name = Path(member.name).name
                if name in wanted and (stream := archive.extractfile(member)) is not None:
                    contents[name] = stream.read()
        if missing := wanted - contents.keys():
            raise DataError(f"{self._path} lacks {', '.join(sorted(missing))}; {self._again()}")
        return contents

    def _archive_names(self) -> set[str]:
        """Passing over the whole archive also finds out that it is complete, before anything is trained."""
        with self._archive() as (archive, unpacked):
            names = {Path(member.name).name for member in self._members(archive) if member.isreg()}
            while unpacked.read(2**20):  # to the very end, where gzip has its checksum
                pass
            return names

    def _members(self, archive: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
        """Each member by its header, before a byte of it is decompressed; nothing is ever unpacked to its name."""
        seen = size = 0
        while (member := archive.next()) is not None:
            seen, size = seen + 1, size + member.size
            shown = ascii(member.name)[:80]
            if not (member.isreg() or member.isdir()):
                raise self._suspect(f"holds {shown}, which is neither a file nor a folder")
            if member.name.startswith("/") or ".." in Path(member.name).parts:
                raise self._suspect(f"holds {shown}, a place outside of it")
            if member.size < 0 or size > MOST_ARCHIVE_BYTES:
                raise self._suspect(f"claims {member.size:,} bytes for {shown}")
            if seen > MOST_MEMBERS:
                raise self._suspect(f"holds more than {MOST_MEMBERS:,} files")
            yield member

    @contextmanager
    def _archive(self) -> Iterator[tuple[tarfile.TarFile, _Bounded]]:
        """Raises DataError for what is damaged, in the block as well."""
        try:
            with self._path.open("rb") as file:
                packed = file.read(2) == b"\x1f\x8b"
                file.seek(0)
                with gzip.GzipFile(fileobj=file) if packed else nullcontext(file) as unpacked:
                    bounded = _Bounded(unpacked)
                    with tarfile.open(fileobj=bounded, mode="r:") as archive:  # type: ignore[call-overload]
                        yield archive, bounded
        except _TooMuch:
            raise self._suspect(f"unpacks to more than {MOST_ARCHIVE_BYTES:,} bytes") from None
        except _TAR_DAMAGED as error:
            if why_refused(error):  # no fault of what is in the file
                raise
            raise self._damaged(error) from None

    def _suspect(self, what: str) -> DataError:
        return DataError(
            f"{self._path} {what}, unlike any archive of CIFAR; do not trust this file: {_again(self._archive_name)}"
        )

    @property
    def _archive_name(self) -> str:
        known = {layout.archive for layout in LAYOUTS}
        return self._path.name if self._path.name in known else "the archive"

    def _damaged(self, error: Exception) -> DataError:
        reason = " ".join(str(error).split()) or type(error).__name__
        return DataError(f"{self._path} is truncated or damaged ({reason}); {_again(self._path.name)}")

    def _again(self) -> str:
        return _again(self._layout.archive)


def _records(content: bytes, layout: Layout) -> np.ndarray:
    return np.frombuffer(content, np.uint8).reshape(-1, layout.label_bytes + PIXELS)


def _pixels(records: np.ndarray, layout: Layout) -> Tensor:
    return torch.from_numpy(records[:, layout.label_bytes :].copy().reshape(-1, CHANNELS, SIDE, SIDE))


def _fits(content: bytes, layout: Layout) -> bool:
    if not content or len(content) % (layout.label_bytes + PIXELS):
        return False
    labels = _records(content, layout)[:, : layout.label_bytes].max(0)
    return bool((labels < [_SUPERCLASSES, layout.classes][-layout.label_bytes :]).all())


def _again(archive: str) -> str:
    md5 = next((layout.md5 for layout in LAYOUTS if layout.archive == archive), None)
    return f"download {archive} again" + (f" (md5 of the complete file: {md5})" if md5 else "")


def _known_files(folder: Path) -> set[str]:
    return {name for name in FILE_NAMES if (folder / name).is_file()}


def _match(names: set[str]) -> Layout | None:
    """The layout that these file names belong to. One batch will do, but `train` alone could be anything."""
    for layout in LAYOUTS:
        present = names & {*layout.train, layout.test, layout.meta}
        if len(present) >= (1 if layout.classes == 10 else 2):
            return layout
    return None


def _some(names: set[str]) -> str:
    shown = sorted(names)[:4]
    return (", ".join(shown) + (", ..." if len(names) > 4 else "")) or "nothing"
