"""A folder of class folders: PNG, JPEG, WebP, GIF, BMP, TIFF and PPM of any size, brought to one side as `decode` says.

    ROOT/cat/*.png                        a fixed stratified fifth is the test split
    ROOT/train/cat/*.png, ROOT/test/...   its own splits; `validation` beside them is the validation split
    ROOT/trainLabels.csv, ROOT/train/*    as Kaggle has CIFAR-10: names of files and classes in a table
    ROOT/val/val_annotations.txt          as Tiny-ImageNet has it: the same for one split

Splits may be called train or training, val, valid, validation or dev, test or testing, in any case. Where no test image
has a label, the validation folder is the test split. Class folders may have folders inside. Classes are sorted by name,
or by value where all names are numbers. Which fifth is tested depends on the images' names alone: the order is that of
the SHA-256 of each relative path, so adding an image moves few others from one side to the other, and no run's seed
matters.
"""

from __future__ import annotations

import csv
import hashlib
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from thriftnet.data.dataset import CARVED, VALIDATES, LabelledImages, Source
from thriftnet.data.decode import KINDS, common_channels, decode_all
from thriftnet.data.image_files import NO_IMAGE, SHOWN, FoundFiles, find_images, folders_in, look_in
from thriftnet.data.place import as_given
from thriftnet.data.splits import carve_test
from thriftnet.errors import DataError, UnlabelledError, escaped

DEFAULT_SIDE = 32
_NAMES = {
    "train": ("train", "training"),
    "validation": ("validation", "val", "valid", "dev"),
    "test": ("test", "testing"),
}
_LABELS = "trainlabels.csv"
_ANNOTATIONS = "val_annotations.txt"
_LIKE_A_SPLIT = re.compile(
    r"(.+[-_ .])?(train|training|test|testing|val|valid|validation|dev|eval|learn|learning|pred|predict|holdout)"
    r"(ing)?([-_ .].+|\d*)?"
)
_STRAY = "images that lie in no class folder are not used"
_NOTHING = f"has no images ({KINDS}) in class folders, nor CIFAR, Parquet or .npz files; give another folder"
_WANTED = "call them train and test (and validation), each with one folder a class"


@dataclass(frozen=True)
class _Files:
    paths: list[Path]
    labels: list[int]

    def choose(self, indices: Sequence[int]) -> _Files:
        return _Files([self.paths[index] for index in indices], [self.labels[index] for index in indices])


class ImageFolderSource(Source):
    """Labelled images in class folders. Opening lists names only. Raises DataError where there are no class folders."""

    format = "image-folder"

    def __init__(self, root: Path, image_side: int | None = None) -> None:
        """`image_side`: side in pixels of every image; None is 32."""
        self.location = as_given(root)
        self._root, self._side = root, image_side or DEFAULT_SIDE
        self._validation = _Files([], [])
        folders, files = look_in(root)
        tables = [path for why, path in files.left_out if why == NO_IMAGE and path.name.lower() == _LABELS]
        split = {kind: [each for name in names for each in folders if each.name.lower() == name]
                 for kind, names in _NAMES.items()}  # fmt: skip
        # A class may be called train too; then its images lie right in it.
        training = next((folder for folder in split["train"] if folders_in(folder)), None)
        if tables:
            self._open_listed(tables[0], split)
        elif training is not None:
            self._open_splits(training, split)
        else:
            self._refuse_what_holds_no_classes(folders, split)
            self._open_whole()
        self.has_validation = bool(self._validation.paths)

    def _open_whole(self) -> None:
        self._classes = self._classes_in(self._root)
        everything = self._list_training(self._root, "")
        names = [path.relative_to(self._root).as_posix() for path in everything.paths]
        train, test = carve_test(torch.tensor(everything.labels), _keys(names))
        self._train, self._test = everything.choose(train.tolist()), everything.choose(test.tolist())
        self.carved_test = True
        self.notes += (f"no test folder: {CARVED}",)

    def _open_splits(self, train: Path, split: Mapping[str, Sequence[Path]]) -> None:
        self._refuse_wrapper(train, "move the class folders of {} into it")
        self._classes = self._classes_in(train)
        self._train = self._list_training(train, "training ")
        self._validation, self._test = (
            self._list_split(split[kind][0], f"{kind} ") if split[kind] else _Files([], [])
            for kind in ("validation", "test")
        )
        if not self._test.paths and self._validation.paths:
            self._test, self._validation = self._validation, _Files([], [])
            self.notes += (f"no labelled test images: {split['validation'][0].name} is the test split",)
        if self._validation.paths:
            name = split["validation"][0].name
            self.notes += (f"{name} {VALIDATES}",)
        self.has_test = bool(self._test.paths)
        used = [train, *(split[kind][0] for kind in ("validation", "test") if split[kind])]
        unused = self._note_unused(used)
        if len(unused) > 1 and len(used) == 1:
            raise DataError(
                f"{self._root} has {train.name}, with folders in it, beside {_some(unused)}, with images: for splits, "
                f"{_WANTED}; for a class {train.name}, put its images right into it; or give {train} alone"
            )

    def _open_listed(self, table: Path, split: Mapping[str, Sequence[Path]]) -> None:
        """Kaggle's: a table of `id,label`, the images of `train` by their ids; those of `test` have no labels."""
        if not split["train"]:
            raise DataError(f"{table} names training images, but {self._root} has no folder train beside it; add it")
        labelled = _read_labels(table)
        self._classes = tuple(sorted(set(labelled.values())))
        self._train = self._list_named(find_images(split["train"][0]), labelled, table, "training ")
        self.has_test, self._test = False, _Files([], [])
        self.notes += (f"classes from {table.name}; none of its images is a test split",)
        for folder in split["test"][:1]:
            self._note_unlabelled(folder, "test ")
        self._note_unused([split["train"][0], *split["test"][:1]])

    def _note_unused(self, used: Sequence[Path]) -> list[str]:
        """Note what lies beside the `used` folders; returns the names of the folders among it that hold images."""
        folders, files = look_in(self._root)
        left_out = [each for each in files.left_out if each[0] != NO_IMAGE]  # a licence, a description
        self.notes += FoundFiles([], [*left_out, *((_STRAY, image) for image in files.images)]).notes(self._root)
        with_images = []
        for folder in folders:
            if folder not in used:
                try:
                    count = len(find_images(folder).images)
                except PermissionError:
                    self.notes += (f"the folder {escaped(folder.name)} cannot be read, and is not used",)
                    continue
                images = f": it has {count:,} images" if count else ""
                self.notes += (f"the folder {escaped(folder.name)} is not used{images}",)
                with_images += [folder.name] if count else []
        return with_images

    def _note_unlabelled(self, folder: Path, split: str) -> None:
        count = len(find_images(folder).images)
        if split == "test ":
            self.unlabelled_test_images = count
        self.notes += (f"the {count:,} images of {folder.name} have no labels: predict takes that folder",)

    def train(self) -> LabelledImages:
        """The training split."""
        return self._read(self._train)

    def validation(self) -> LabelledImages | None:
        """The validation split; None without a folder of it, or where that is the test split."""
        return self._read(self._validation) if self._validation.paths else None

    def test(self) -> LabelledImages:
        """The test split, with the channels of the training split."""
        if self.unlabelled_test_images and not self.has_test:
            raise UnlabelledError(f"{self.location}, test split", self.unlabelled_test_images)
        if not self.has_test:
            raise DataError(
                f"{self.location} has a train folder but no labelled test images; put them into test/CLASS/ beside it"
            )
        return self._read(self._test)

    @property
    def class_names(self) -> tuple[str, ...]:  # type: ignore[override]
        """As the folders are called; bytes that are no UTF-8 are escaped."""
        return tuple(map(escaped, self._classes))

    @cached_property
    def _channels(self) -> int:
        return common_channels(self._train.paths)

    def _read(self, files: _Files) -> LabelledImages:
        named = ((escaped(str(path)), path) for path in files.paths)
        images = decode_all(named, self._channels, self._side)
        return LabelledImages(images, torch.tensor(files.labels, dtype=torch.int64))

    def _refuse_what_holds_no_classes(self, folders: Sequence[Path], split: Mapping[str, Sequence[Path]]) -> None:
        """Raise DataError for folders that are splits, or look like it, and for one that wraps the set."""
        self._refuse_wrapper(self._root, "give {}")
        names = [folder.name for folder in folders]
        if names and all(_LIKE_A_SPLIT.fullmatch(name.lower()) for name in names):
            raise DataError(f"{self._root}: the folders {_some(names)} look like splits, not like classes; {_WANTED}")
        for held_out in (*split["test"], *split["validation"]):
            others = [name for name in names if name != held_out.name]
            raise DataError(
                f"{self._root} has the folder {held_out.name} beside {_some(others)}: for splits, {_WANTED}; a class "
                "needs another name"
            )

    def _refuse_wrapper(self, folder: Path, advice: str) -> None:
        """Raise DataError where the only folder in `folder` holds the folders; `advice` is given the innermost."""
        inner = folder
        while len(inside := folders_in(inner)) == 1 and not (inner != folder and look_in(inner)[1].images):
            inner = inside[0]
        if inner != folder and len(inside) > 1:
            name = escaped(folders_in(folder)[0].name)
            raise DataError(f"{folder} holds one folder, {name}; {advice.format(inner)}")

    def _classes_in(self, folder: Path) -> tuple[str, ...]:
        names = [child.name for child in folders_in(folder)]
        if not names:
            if find_images(folder).images:
                raise DataError(f"{folder} has images but no class folders; put them into one folder a class")
            raise DataError(f"{folder} {_NOTHING}")
        if all(name.isdecimal() for name in names):
            return tuple(sorted(names, key=int))
        return tuple(sorted(names))

    def _list_training(self, folder: Path, split: str) -> _Files:
        files = self._list(folder, split)
        if not files.paths:
            raise DataError(f"{folder} {_NOTHING}")
        empty = sorted(set(range(len(self._classes))) - set(files.labels))
        if empty:
            raise DataError(f"{folder / self._classes[empty[0]]} has no images; add some or remove the folder")
        self._note_deeper_folders(folder, files)
        return files

    def _note_deeper_folders(self, folder: Path, files: _Files) -> None:
        """Where the images of every class lie in several folders, those may be what is meant by classes."""
        inside: list[set[str]] = [set() for _ in self._classes]
        for path, label in zip(files.paths, files.labels, strict=True):
            first, *deeper = path.relative_to(folder / self._classes[label]).parts
            if not deeper:
                return
            inside[label].add(first)
        if all(len(each) > 1 for each in inside):
            self.notes += (
                f"the {len(inside)} folders {_some(self._classes)} are the classes; their images lie in "
                f"{sum(map(len, inside))} folders further in: to have those as classes, give a folder of links to them",
            )

    def _list_split(self, folder: Path, split: str) -> _Files:
        """The labelled images of a split other than training; none where it has only images without labels."""
        table = folder / _ANNOTATIONS
        if table.is_file():
            return self._list_named(find_images(folder), _read_annotations(table), table, split)
        inside = [child.name for child in folders_in(folder)]
        if len(inside) < 2 and not set(inside) & set(self._classes) and find_images(folder).images:
            if inside:
                self._refuse_wrapper(folder, "move the class folders of {} into it")
            self._note_unlabelled(folder, split)
            return _Files([], [])
        return self._list(folder, split)

    def _list_named(self, found: FoundFiles, labelled: Mapping[str, str], table: Path, split: str) -> _Files:
        """The images that a table names, by their name with or without its ending."""
        unknown = sorted(set(labelled.values()) - set(self._classes))
        if unknown:
            raise DataError(f"{table} has class {unknown[0]}, which the training images lack; correct it")
        paths, labels, without, names = [], [], [], set()
        for path in found.images:
            name = path.name if path.name in labelled else path.stem
            if name not in labelled:
                without.append(path)
                continue
            names.add(name)
            paths.append(path)
            labels.append(self._classes.index(labelled[name]))
        missing = [name for name in labelled if name not in names]
        if missing:
            raise DataError(f"{table} names {len(missing):,} images that are not there: {_some(missing)}; get them too")
        others = [each for each in found.left_out if each[1] != table]
        self.notes += FoundFiles([], others).notes(self._root, split)
        if without:
            self.notes += (f"{len(without):,} {split}images that {table.name} does not name are not used: "
                           f"{_some([path.name for path in without])}",)  # fmt: skip
        return _Files(paths, labels)

    def _list(self, folder: Path, split: str) -> _Files:
        """The images of every class, class after class, by sorted path."""
        folders, files = look_in(folder)
        unknown = [child.name for child in folders if child.name not in self._classes]
        if unknown:
            raise DataError(
                f"{folder} has class {escaped(unknown[0])}, which {self._root}/train lacks; remove or add it there"
            )
        paths: list[Path] = []
        labels: list[int] = []
        found = FoundFiles([], [*files.left_out, *((_STRAY, image) for image in files.images)])
        for child in sorted(folders, key=lambda child: self._classes.index(child.name)):
            inside = find_images(child)
            paths += inside.images
            labels += [self._classes.index(child.name)] * len(inside.images)
            found.left_out.extend(inside.left_out)
        self.notes += found.notes(folder, split)
        return _Files(paths, labels)


def _read_labels(table: Path) -> dict[str, str]:
    """Name of an image -> class, of a CSV with the columns id and label. Raises DataError."""
    try:
        with table.open(newline="", encoding="utf-8-sig") as file:
            rows = [(row["id"], row["label"]) for row in csv.DictReader(file)]
    except (KeyError, ValueError, csv.Error):
        raise DataError(f"{table} is no table of id,label in UTF-8; get it again") from None
    return _table(table, rows)


def _read_annotations(table: Path) -> dict[str, str]:
    """Name of an image -> class, of lines that begin with both, separated by tabs. Raises DataError."""
    try:
        lines = table.read_text(encoding="utf-8-sig").splitlines()
        return _table(table, [(line.split("\t")[0], line.split("\t")[1]) for line in lines if line.strip()])
    except (IndexError, ValueError):
        raise DataError(f"{table} has lines without an image and its class, separated by a tab; get it again") from None


def _table(table: Path, rows: Sequence[tuple[str | None, str | None]]) -> dict[str, str]:
    found: dict[str, str] = {}
    for name, label in rows:
        if not name or not label:
            raise DataError(f"{table} has a row without an image or its class; get it again")
        if found.setdefault(name, label) != label:
            raise DataError(f"{table} gives {name} two classes, {found[name]} and {label}; correct it")
    if not found:
        raise DataError(f"{table} names no image; get it again")
    return found


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(map(escaped, sorted(names)[:SHOWN])) + more


def _keys(names: Sequence[str]) -> np.ndarray:
    digests = [hashlib.sha256(os.fsencode(name)).digest()[:8] for name in names]
    return np.array([int.from_bytes(digest, "big") for digest in digests], dtype=np.uint64)
