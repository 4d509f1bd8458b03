"""Hugging Face Parquet: encoded images and integer labels in columns.

Image column `img` or `image`: a struct with `bytes` (and `path`), or plain binary. Label column `label` or
`fine_label`. Class names come from the `huggingface` entry of the schema; else, where each image's `path` lies in a
folder and folders and labels match one to one, from those folders; else they are the labels as text. A file that lists
the same classes in another order is matched by name.

Files: one `.parquet`, or a folder as `parquet_files` says. Without a test split of its own, a validation split is it;
files of no split's name are taken together and a fixed fifth of their rows is the test split. A test split whose labels
are absent, or all -1, is unlabelled.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from thriftnet.data import decode
from thriftnet.data.arrays import check_label_range, numbered_classes
from thriftnet.data.dataset import LabelledImages, Source
from thriftnet.data.limits import check_decompressed, check_images
from thriftnet.data.parquet_files import find_files
from thriftnet.data.place import as_given
from thriftnet.data.splits import carve_test
from thriftnet.errors import DataError, UnlabelledError, escaped
from thriftnet.storage import parse_json

IMAGE_COLUMNS = ("img", "image")
LABEL_COLUMNS = ("label", "fine_label")
_SHOWN = 10
_ROWS = 128
"""Read at once: decoding takes a thousand times longer, and one image may be as large as a photograph."""
# A text that is not UTF-8 is a ValueError; pyarrow's own errors are of many more kinds than ArrowException.
_DAMAGED = (pa.ArrowException, OSError, ValueError, KeyError, IndexError, TypeError, MemoryError, OverflowError)


@dataclass(frozen=True)
class ParquetImages:
    """One file and its image column, checked; no row is read yet."""

    path: Path
    column: str
    schema: pa.Schema
    rows: int

    @classmethod
    def open(cls, path: Path) -> ParquetImages:
        """Raises DataError where the file is damaged or has no image column."""
        path.open("rb").close()  # Arrow does not tell a refusal of the system from damage
        try:
            file = pq.ParquetFile(path)
        except _DAMAGED as error:
            raise DataError(f"{path} is no readable Parquet file ({_one_line(error)}); download it again") from None
        with file:
            schema, rows = file.schema_arrow, file.metadata.num_rows
            check_images(rows, str(path))
            _check_sizes(file.metadata, path)
        column = next((name for name in IMAGE_COLUMNS if name in schema.names), None)
        if column is None:
            holding = " or ".join(field.name for field in schema if _holds_images(field.type))
            raise DataError(
                f"{path} has no column {' or '.join(IMAGE_COLUMNS)}, only {', '.join(schema.names)}; rename "
                f"{holding or 'that of the images'} to {IMAGE_COLUMNS[1]}"
            )
        file = cls(path, column, schema, rows)
        file.column_named(IMAGE_COLUMNS)
        kind = schema.field(column).type
        if _is_text(kind) or (pa.types.is_struct(kind) and {part.name for part in kind} == {"path"}):
            raise file.only_paths()
        if not _holds_images(kind):
            raise DataError(f"{path}: column {column} is {kind}, not encoded images (binary, or a struct with bytes)")
        return file

    def column_named(self, names: Sequence[str]) -> str | None:
        """The first of `names` that is a column. Raises DataError where several columns have that name."""
        found = next((name for name in names if name in self.schema.names), None)
        count = 0 if found is None else self.schema.names.count(found)
        if count > 1:
            raise DataError(f"{self.path} has {count} columns named {found}; keep one, or rename the others")
        return found

    def lacks(self, names: Sequence[str]) -> NoReturn:
        """Raise DataError for the missing column of labels."""
        raise DataError(
            f"{self.path} has no column {' or '.join(names)}, only {', '.join(self.schema.names)}; "
            f"training and evaluation need labels (prediction does not)"
        )

    def only_paths(self) -> DataError:
        """What to raise where the images themselves are not in the file."""
        return DataError(
            f"{self.path}: column {self.column} holds the paths of images, not the images; give the folder that they "
            "lie in, or store their bytes"
        )

    @property
    def has_paths(self) -> bool:
        """Whether the image column also stores a path."""
        kind = self.schema.field(self.column).type
        return bool(pa.types.is_struct(kind) and kind.get_field_index("path") >= 0)

    def values(self, column: str) -> list[object]:
        """A whole column, `img.path` for a part of a struct; images are not read. Raises DataError."""
        found: list[object] = []
        for batch in self._batches(column):
            found += batch
        return found

    def encoded(self) -> Iterator[bytes]:
        """Encoded images in row order; an absent one is empty, which no decoder accepts. Raises DataError."""
        column = self.column if _is_binary(self.schema.field(self.column).type) else f"{self.column}.bytes"
        empty = self.has_paths and self.rows > 0
        for batch in self._batches(column):
            empty = empty and not any(batch)
            yield from (value or b"" for value in batch)
        if empty:
            raise self.only_paths()

    def _batches(self, column: str) -> Iterator[list[Any]]:
        """The column's values, as many in all as the footer says."""
        read = 0
        try:
            with pq.ParquetFile(self.path) as file:
                batches = file.iter_batches(batch_size=_ROWS, columns=[column])
                while (batch := next(batches, None)) is not None:
                    read += len(batch)
                    if read > self.rows:
                        break
                    values = _leaf(batch, column).to_pylist()
                    yield values
        except _DAMAGED as error:
            raise DataError(f"{self.path} is damaged ({_one_line(error)}); download it again") from None
        if read != self.rows:
            raise DataError(f"{self.path} is damaged (it says {self.rows:,} rows and has others); download it again")


class ParquetSource(Source):
    """A labelled set in Parquet. Raises DataError for missing files, shards or columns when opened."""

    format = "parquet"

    def __init__(self, path: Path, image_side: int | None = None) -> None:
        """`image_side`: pixels to resize to; None keeps the images' own side."""
        self.location = as_given(path)
        self._side = image_side
        splits, notes = find_files(path)
        self.carved_test = "all" in splits
        self.has_test = self.carved_test or "test" in splits
        self.has_validation = "validation" in splits
        self._files = {split: [ParquetImages.open(file) for file in files] for split, files in splits.items()}
        naming = next(iter(self._files.values()))
        self._column = self._common_label_column(naming)
        self._order: dict[Path, Tensor] = {}
        names = next((names for file in naming if (names := self._names_in_schema(file))), ())
        self._named_by_folders = not names and bool(names := self._names_in_folders(naming))
        self.class_names = names or self._numbers(naming)
        self.notes = (*notes, *self._match_classes(named=bool(names)), *_unused_columns(naming[0], self._column))

    def train(self) -> LabelledImages:
        """The training split."""
        if "all" in self._files:
            return self._read("all", carve_test(self._labels(self._files["all"]))[0])
        return self._read("train")

    def validation(self) -> LabelledImages | None:
        """The validation split, as `test`; None where there is none, or where that is the test split."""
        return self._read("validation") if self.has_validation else None

    def test(self) -> LabelledImages:
        """The test split, with the channels and the side of the training split."""
        if "all" in self._files:
            return self._read("all", carve_test(self._labels(self._files["all"]))[1])
        return self._read("test")

    def _read(self, split: str, indices: Tensor | None = None) -> LabelledImages:
        if split not in self._files:
            raise DataError(f"{self.location} has no {split} split; give a folder that also holds {split}-*.parquet")
        labels = self._labels(self._files[split])
        if len(labels) == 0:
            raise DataError(f"{self.location} has no rows in its {split} split; download it again")
        if split != next(iter(self._files)) and self._named_by_folders:
            labels = self._as_folders_say(labels, self._files[split])
        check_label_range(labels, len(self.class_names), f"{self.location}, split {split},")
        wanted = None if indices is None else np.isin(np.arange(len(labels)), indices.numpy())
        images = decode.decode_all(self._named(split, wanted), self._channels, self._side)
        return LabelledImages(images, labels if indices is None else labels[indices])

    def _named(self, split: str, wanted: np.ndarray | None = None) -> Iterator[tuple[str, bytes]]:
        before = 0
        for file in self._files[split]:
            for row, encoded in enumerate(file.encoded()):
                if wanted is None or wanted[before + row]:
                    yield f"{file.path} row {row}", encoded
            before += file.rows

    @cached_property
    def _channels(self) -> int:
        """Of the training split, which the test split follows."""
        return decode.common_channels(encoded for _, encoded in self._named(next(iter(self._files))))

    def _labels(self, files: Sequence[ParquetImages]) -> Tensor:
        """int64 [rows of all files], in the order of `class_names`. Raises DataError for an absent or negative one."""
        labels: list[Tensor] = []
        lacking = [self._column not in file.schema.names for file in files]
        values = [
            [None] * file.rows if lacks else file.values(self._column)
            for file, lacks in zip(files, lacking, strict=True)
        ]
        count = sum(map(len, values))
        if count and all(label in (None, -1) for each in values for label in each):
            raise UnlabelledError(f"{files[0].path}" + (f" and {len(files) - 1} more" if len(files) > 1 else ""), count)
        for file, each in zip(files, values, strict=True):
            for row, label in enumerate(each):
                if not isinstance(label, int) or not 0 <= label < 2**63:
                    raise DataError(
                        f"{file.path} row {row} has {self._column} = {label}; every row needs a label from 0"
                    )
            found = torch.tensor(each, dtype=torch.int64)
            order = self._order.get(file.path)
            if order is not None:
                check_label_range(found, len(order), str(file.path))
            labels.append(found if order is None else order[found])
        return torch.cat(labels)

    def _common_label_column(self, naming: Sequence[ParquetImages]) -> str:
        """Of the files that name the classes; all others have it too, or none of the test files has any."""
        column = _label_column(naming[0]) or naming[0].lacks(LABEL_COLUMNS)
        for files in self._files.values():
            without = [file for file in files if _label_column(file, (column,)) is None]
            labelled = files is naming or len(without) < len(files) or any(map(_label_column, without))
            if without and labelled:
                without[0].lacks((column,))
        return column

    def _names_in_schema(self, file: ParquetImages) -> tuple[str, ...]:
        try:
            described = parse_json((file.schema.metadata or {}).get(b"huggingface", b"{}"))
            names = described["info"]["features"][self._column]["names"]
        except (ValueError, KeyError, TypeError, RecursionError):
            return ()  # other software writes other things there, and names are a convenience
        return tuple(escaped(str(name)) for name in names) if isinstance(names, list) else ()

    def _match_classes(self, named: bool) -> list[str]:
        """Find the order of `class_names` in every file's own; notes. Raises DataError for classes of other names."""
        notes: list[str] = []
        numbers = {name: number for number, name in enumerate(self.class_names)}
        for split, file in ((split, file) for split, files in self._files.items() for file in files):
            names, where = self._names_in_schema(file), "the set" if split == "all" else f"the {split} split"
            if names == self.class_names or (not names and (not named or self._named_by_folders)):
                continue
            if not names:
                notes.append(f"files of {where} name no classes: their labels are taken by number")
            elif not named:
                notes.append(f"{where} names its classes, the training split does not: its labels are taken by number")
            elif len(set(names)) < len(names) or not set(names) <= set(numbers):
                raise DataError(
                    f"{file.path} has the classes {_some(names)}, the training split {_some(self.class_names)}; "
                    "give a test split of the same classes, or the training file alone"
                )
            else:
                self._order[file.path] = torch.tensor([numbers[name] for name in names])
                notes.append(f"{where} lists its classes in another order: matched by name")
        return list(dict.fromkeys(notes))

    def _names_in_folders(self, files: Sequence[ParquetImages]) -> tuple[str, ...]:
        folders = self._folders(files)
        return (
            tuple(folders[label] for label in sorted(folders)) if len(folders) == max(folders, default=-1) + 1 else ()
        )

    def _folders(self, files: Sequence[ParquetImages]) -> dict[int, str]:
        """{label: the folder in its images' paths}, or nothing where these do not match one to one."""
        if not all(file.has_paths for file in files):
            return {}
        paths = [str(path or "") for file in files for path in file.values(f"{file.column}.path")]
        folders = [path.replace("\\", "/").rpartition("/")[0].rpartition("/")[2] for path in paths]
        pairs = set(zip(self._labels(files).tolist(), folders, strict=True))
        found = dict(pairs)
        return found if len(pairs) == len(found) == len(set(found.values())) and all(found.values()) else {}

    def _as_folders_say(self, labels: Tensor, files: Sequence[ParquetImages]) -> Tensor:
        """Labels by the folders in the paths, where these are the ones that named the classes."""
        folders = self._folders(files)
        if not folders or not set(folders.values()) <= set(self.class_names):
            return labels
        numbers = {name: number for number, name in enumerate(self.class_names)}
        return torch.tensor([numbers[folders[label]] for label in labels.tolist()], dtype=torch.int64)

    def _numbers(self, files: Sequence[ParquetImages]) -> tuple[str, ...]:
        return numbered_classes(self._labels(files), self.location)


def _label_column(file: ParquetImages, names: Sequence[str] = LABEL_COLUMNS) -> str | None:
    """None where there is none. Raises DataError for one whose values are no labels."""
    column = file.column_named(names)
    kind = None if column is None else file.schema.field(column).type
    if kind is not None and not (pa.types.is_integer(kind) or pa.types.is_null(kind)):
        raise DataError(f"{file.path}: column {column} is {kind}; labels must be integers from 0{_fix(kind)}")
    return column


def _unused_columns(file: ParquetImages, label: str) -> list[str]:
    """A note about further columns of images or labels, where there are any."""
    images = [field.name for field in file.schema if _holds_images(field.type) and field.name != file.column]
    labels = [
        field.name
        for field in file.schema
        if pa.types.is_integer(field.type) and field.name.endswith(("label", "labels")) and field.name != label
    ]
    return [f"images are column {file.column}, labels {label}; not used: {', '.join(images + labels)}"] * bool(
        images + labels
    )


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")


def _fix(kind: pa.DataType) -> str:
    if _is_text(kind):
        return ", and the texts the names of a ClassLabel (class_encode_column of datasets makes both)"
    if pa.types.is_list(kind) or pa.types.is_fixed_size_list(kind) or pa.types.is_large_list(kind):
        return "; of one-hot rows keep the place of the one (argmax)"
    return "; cast them to int64"


def _holds_images(kind: pa.DataType) -> bool:
    return _is_binary(kind) or (pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0)


def _leaf(batch: pa.RecordBatch, column: str) -> pa.Array:
    array = batch.column(0)
    return array.field(column.partition(".")[2]) if "." in column else array


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _is_binary(kind: pa.DataType) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _check_sizes(metadata: pq.FileMetaData, path: Path) -> None:
    """Raise DataError where columns claim to decompress to more than memory, or their bytes, could hold."""
    for group in range(metadata.num_row_groups):
        for column in range(metadata.num_columns):
            chunk = metadata.row_group(group).column(column)
            check_decompressed(
                chunk.total_uncompressed_size, chunk.total_compressed_size, f"{path}: {chunk.path_in_schema}"
            )


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
