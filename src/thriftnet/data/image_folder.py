"""A folder of class folders: PNG, JPEG and WebP of any size, brought to one side as `decode` says.

    ROOT/cat/*.png                        a fixed stratified fifth is the test split
    ROOT/train/cat/*.png, ROOT/test/...   its own test split; without `test`, `val` or `validation` is the test split

Class folders may have folders inside. Classes are sorted by name, or by value where all names are numbers. Which fifth
is tested depends on the images' names alone: the order is that of the SHA-256 of each relative path, so adding an image
moves few others from one side to the other, and no run's seed matters.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from thriftnet.data.dataset import CARVED, LabelledImages, Source
from thriftnet.data.decode import ENDINGS, common_channels, decode_all
from thriftnet.data.place import as_given
from thriftnet.data.splits import carve_test
from thriftnet.errors import DataError

DEFAULT_SIDE = 32
_TEST_FOLDERS = ("test", "val", "validation")
_NOTHING = "has no images (PNG, JPEG or WebP) in class folders, nor CIFAR, Parquet or .npz files; give another folder"


def find_images(folder: Path) -> tuple[list[Path], list[Path]]:
    """(images in and below `folder`, other files), each sorted by relative path; hidden files and folders left out."""
    images: list[Path] = []
    others: list[Path] = []
    for path in sorted(folder.rglob("*"), key=lambda path: path.relative_to(folder).as_posix()):
        if not any(_is_hidden(part) for part in path.relative_to(folder).parts) and path.is_file():
            (images if path.suffix.lower() in ENDINGS else others).append(path)
    return images, others


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
        # A class may be called train too; then its images lie right in it.
        splits = [folder for folder in _folders(root) if folder.name.lower() == "train" and _folders(folder)]
        if splits:
            self._open_splits(splits[0])
        else:
            self._open_whole()

    def _open_whole(self) -> None:
        self.class_names = self._classes_in(self._root)
        everything = self._list_training(self._root, "")
        names = [path.relative_to(self._root).as_posix() for path in everything.paths]
        train, test = carve_test(torch.tensor(everything.labels), _keys(names))
        self._train, self._test = everything.choose(train.tolist()), everything.choose(test.tolist())
        self.carved_test = True
        self.notes += (f"no test folder: {CARVED}",)

    def _open_splits(self, train: Path) -> None:
        self.class_names = self._classes_in(train)
        self._train = self._list_training(train, "training ")
        others = {folder.name.lower(): folder for folder in _folders(self._root) if folder != train}
        held_out = next((name for name in _TEST_FOLDERS if name in others), None)
        self._test = self._list(others.pop(held_out), "test ") if held_out else _Files([], [])
        self.has_test = bool(self._test.paths)
        if self.has_test and held_out != "test":
            self.notes += (f"no test folder: {held_out} is the test split",)
        self.notes += tuple(f"the folder {folder.name} is not used" for folder in others.values())

    def train(self) -> LabelledImages:
        """The training split."""
        return self._read(self._train)

    def test(self) -> LabelledImages:
        """The test split, with the channels of the training split."""
        if not self.has_test:
            raise DataError(
                f"{self.location} has a train folder but no test images; put them into test/CLASS/ beside it"
            )
        return self._read(self._test)

    @cached_property
    def _channels(self) -> int:
        return common_channels(self._train.paths)

    def _read(self, files: _Files) -> LabelledImages:
        named = ((str(path), path) for path in files.paths)
        images = decode_all(named, self._channels, self._side)
        return LabelledImages(images, torch.tensor(files.labels, dtype=torch.int64))

    def _classes_in(self, folder: Path) -> tuple[str, ...]:
        names = [child.name for child in _folders(folder)]
        if not names:
            if find_images(folder)[0]:
                raise DataError(f"{folder} has images but no class folders; put them into one folder a class")
            raise DataError(f"{folder} {_NOTHING}")
        if all(name.isdecimal() for name in names):
            return tuple(sorted(names, key=int))
        return tuple(sorted(names))

    def _list_training(self, folder: Path, split: str) -> _Files:
        files = self._list(folder, split)
        if not files.paths:
            raise DataError(f"{folder} {_NOTHING}")
        empty = sorted(set(range(len(self.class_names))) - set(files.labels))
        if empty:
            raise DataError(f"{folder / self.class_names[empty[0]]} has no images; add some or remove the folder")
        return files

    def _list(self, folder: Path, split: str) -> _Files:
        """The images of every class, class after class, by sorted path."""
        unknown = [child.name for child in _folders(folder) if child.name not in self.class_names]
        if unknown:
            raise DataError(f"{folder} has class {unknown[0]}, which {self._root}/train lacks; remove or add it there")
        paths: list[Path] = []
        labels: list[int] = []
        left_out = [path for path in folder.iterdir() if path.is_file() and not _is_hidden(path.name)]
        for label, name in enumerate(self.class_names):
            images, others = find_images(folder / name)
            paths += images
            labels += [label] * len(images)
            left_out += others
        if left_out:
            some = ", ".join(sorted(path.relative_to(folder).as_posix() for path in left_out)[:3])
            self.notes += (f"{len(left_out)} {split}files that are no image in a class folder are not used: {some}",)
        return _Files(paths, labels)


def _folders(parent: Path) -> list[Path]:
    return sorted(child for child in parent.iterdir() if child.is_dir() and not _is_hidden(child.name))


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name == "__MACOSX"


def _keys(names: Sequence[str]) -> np.ndarray:
    digests = [hashlib.sha256(name.encode()).digest()[:8] for name in names]
    return np.array([int.from_bytes(digest, "big") for digest in digests], dtype=np.uint64)
