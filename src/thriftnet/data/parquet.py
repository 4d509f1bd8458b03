"""Hugging Face Parquet: encoded images and integer labels in columns.

Image column `img` or `image`: a struct with `bytes` (and `path`), or plain binary. Label column `label` or
`fine_label`. Class names come from the `huggingface` entry of the schema; else, where each image's `path` lies in a
folder and folders and labels match one to one, from those folders; else they are the labels as text.

Files: one `.parquet`, or a folder (or its only subfolder) of `train-*.parquet` and `test-*.parquet` in any number of
shards. Without `test-*`, `validation-*` or `val-*` is the test split; files of no such name are taken together and a
fixed fifth of their rows is the test split.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from thriftnet.data import decode
from thriftnet.data.arrays import check_label_range, numbered_classes
from thriftnet.data.dataset import LabelledImages, Source
from thriftnet.data.limits import check_decompressed, check_images
from thriftnet.data.splits import carve_test
from thriftnet.errors import DataError

IMAGE_COLUMNS = ("img", "image")
LABEL_COLUMNS = ("label", "fine_label")
_SPLIT_NAME = re.compile(r"(train|test|validation|val)(?![a-z])", re.IGNORECASE)
_SHARD = re.compile(r"-(\d{5})-of-(\d{5})$")
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
            expected = " or ".join(IMAGE_COLUMNS)
            raise DataError(
                f"{path} has no column {expected}, only {', '.join(schema.names)}; rename that of the images"
            )
        kind = schema.field(column).type
        if not (_is_binary(kind) or (pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0)):
            raise DataError(f"{path}: column {column} is {kind}, not encoded images (binary, or a struct with bytes)")
        return cls(path, column, schema, rows)

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
        for batch in self._batches(column):
            yield from (value or b"" for value in batch)

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
        self.location = str(path.resolve())
        self._side = image_side
        splits, self.notes = _find_files(path)
        self.has_test = "test" in splits or "all" in splits
        self._files = {split: [ParquetImages.open(file) for file in files] for split, files in splits.items()}
        self._label_columns = {file.path: _label_column(file) for files in self._files.values() for file in files}
        naming = next(iter(self._files.values()))
        self.class_names = self._names_in_schema(naming[0]) or self._names_in_paths(naming) or self._numbers(naming)

    def train(self) -> LabelledImages:
        """The training split."""
        if "all" in self._files:
            return self._read("all", carve_test(self._labels(self._files["all"]))[0])
        return self._read("train")

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
        """int64 [rows of all files]. Raises DataError for an absent or negative one."""
        labels: list[int] = []
        for file in files:
            column = self._label_columns[file.path]
            for row, label in enumerate(file.values(column)):
                if not isinstance(label, int) or not 0 <= label < 2**63:
                    raise DataError(f"{file.path} row {row} has {column} = {label}; every row needs a label from 0")
                labels.append(label)
        return torch.tensor(labels, dtype=torch.int64)

    def _names_in_schema(self, file: ParquetImages) -> tuple[str, ...]:
        try:
            described = json.loads((file.schema.metadata or {}).get(b"huggingface", b"{}"))
            names = described["info"]["features"][self._label_columns[file.path]]["names"]
        except (ValueError, KeyError, TypeError):
            return ()  # other software writes other things there, and names are a convenience
        return tuple(map(str, names)) if isinstance(names, list) else ()

    def _names_in_paths(self, files: Sequence[ParquetImages]) -> tuple[str, ...]:
        if not all(file.has_paths for file in files):
            return ()
        paths = [str(path or "") for file in files for path in file.values(f"{file.column}.path")]
        labels = self._labels(files).tolist()
        folders = [path.replace("\\", "/").rpartition("/")[0].rpartition("/")[2] for path in paths]
        pairs = set(zip(labels, folders, strict=True))
        names = dict(pairs)
        one_to_one = len(pairs) == len(names) == len(set(names.values())) == max(labels, default=-1) + 1
        return tuple(names[label] for label in sorted(names)) if one_to_one and all(names.values()) else ()

    def _numbers(self, files: Sequence[ParquetImages]) -> tuple[str, ...]:
        return numbered_classes(self._labels(files), self.location)


def _find_files(path: Path) -> tuple[dict[str, list[Path]], tuple[str, ...]]:
    """({split: its files in order}, notes); splits are `train` and `test`, or `all`. The first names the classes."""
    if path.is_file():
        found = [path]
    else:
        folders = [path, *sorted(folder for folder in path.iterdir() if folder.is_dir() and folder.name[0] != ".")]
        holding = [folder for folder in folders if any(folder.glob("*.parquet"))]
        if not holding:
            raise DataError(f"{path} holds no .parquet file; give the folder that does")
        if holding[0] != path and len(holding) > 1:
            raise DataError(
                f"{path} holds several sets: {', '.join(f.name for f in holding)}; give one of these folders"
            )
        found = sorted(holding[0].glob("*.parquet"))
    by_name: dict[str, list[Path]] = {}
    for file in found:
        match = _SPLIT_NAME.match(file.stem)
        by_name.setdefault(match[1].lower() if match else "all", []).append(file)
    for files in by_name.values():
        _check_shards(files, alone=path.is_file())
    if set(by_name) == {"all"}:
        return by_name, ("no test split of its own: a fixed stratified fifth of the rows is the test split",)
    test = next((name for name in ("test", "validation", "val") if name in by_name), None)
    splits = {"train": by_name.get("train"), "test": by_name[test] if test else None}
    notes = [] if test in ("test", None) else [f"{test}-*.parquet is used as the test split"]
    notes += [f"{name}-*.parquet is not used" for name in by_name if name not in ("train", "all", test)]
    notes += [f"{file.name} is not used" for file in by_name.get("all", [])]
    return {split: files for split, files in splits.items() if files}, tuple(notes)


def _check_shards(files: Sequence[Path], alone: bool) -> None:
    for file in files:
        shard = _SHARD.search(file.stem)
        expected = int(shard[2]) if shard else 1
        if shard and expected != len(files) and not (alone and expected == 1):
            raise DataError(
                f"{file.parent} holds {len(files)} of the {expected} shards of {file.name[: shard.start()]}; "
                f"give the folder with all of them, or download the missing ones"
            )


def _label_column(file: ParquetImages) -> str:
    column = next((name for name in LABEL_COLUMNS if name in file.schema.names), None)
    if column is None:
        raise DataError(
            f"{file.path} has no column {' or '.join(LABEL_COLUMNS)}, only {', '.join(file.schema.names)}; "
            f"training and evaluation need labels (prediction does not)"
        )
    if not pa.types.is_integer(file.schema.field(column).type):
        raise DataError(f"{file.path}: column {column} is {file.schema.field(column).type}; labels must be integers")
    return column


def _leaf(batch: pa.RecordBatch, column: str) -> pa.Array:
    array = batch.column(0)
    return array.field(column.partition(".")[2]) if "." in column else array


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
