"""Which Parquet files of a folder belong to which split; no file is opened.

ROOT/train-00000-of-00002.parquet, test-...     shards, also with a hash behind (`-of-00002-1a2b.parquet`)
ROOT/pets-train.parquet, ROOT/pets-test.parquet the split's name in front or behind
ROOT/train/0000.parquet, ROOT/test/0000.parquet a folder a split, as the Hub converts its sets
ROOT/default/...                                any of these in the only folder that has one
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

from thriftnet.data.dataset import CARVED, VALIDATES
from thriftnet.errors import DataError

_TRAIN = ("train", "training", "partial-train")
_TEST = (
    *("test", "testing", "eval", "evaluation", "partial-test"),
    *("validation", "valid", "val", "dev", "partial-validation"),
)
"""In the order in which they are preferred as the test split. `partial-`: the Hub converts the first 5 GB only."""
_REAL_TESTS, _VALIDATION = _TEST[:5], _TEST[5:]
_NAMES = "|".join(sorted((*_TRAIN, *_TEST), key=len, reverse=True))
_IN_FRONT, _BEHIND = (re.compile(form, re.IGNORECASE) for form in (rf"({_NAMES})(?![a-z])", rf".*[-_.]({_NAMES})$"))
_SHARD = re.compile(r"[-_.]?(\d{5})-of-(\d{5})(?:-[0-9a-z]+)?$", re.IGNORECASE)


def find_files(path: Path) -> tuple[dict[str, list[Path]], tuple[str, ...]]:
    """({split: its files in order}, notes) of a file or a folder; splits are `train`, `test`, `validation`, or `all`.

    The first split names the classes. Raises DataError where there is no file, where there are several sets, and where
    shards are missing.
    """
    if path.is_file():
        by_name, unused = {_split_of(path) or "all": [path]}, []
    else:
        sets = set_folders(path)
        if not sets:
            raise DataError(f"{path} holds no .parquet file; give the folder that does")
        if len(sets) > 1:
            raise DataError(f"{path} holds several sets: {', '.join(f.name for f in sets)}; give one of these folders")
        by_name, unused = _listed(sets[0]), _unused_folders(sets[0])
    notes = [f"the folder {folder.name} is not used" for folder in unused]
    if set(by_name) == {"all"}:
        _check_complete(by_name["all"])
        return by_name, (f"no test split of its own: {CARVED}", *notes)
    chosen = [next((name for name in names if name in by_name), None) for names in (_TRAIN, _TEST, _VALIDATION)]
    if chosen[1] not in _REAL_TESTS:
        chosen[2] = None  # it is the test split
    kinds = ("train", "test", "validation")
    splits = {split: by_name[name] for split, name in zip(kinds, chosen, strict=True) if name is not None}
    for files in splits.values():
        _check_complete(files)
    test = chosen[1]
    told = [f"{_shown(test, by_name)} is used as the test split"] if test and test not in _REAL_TESTS else []
    told += [f"{_shown(chosen[2], by_name)} {VALIDATES}"] if chosen[2] else []
    told += [f"{name} holds a part of its split only" for name in chosen if name and name.startswith("partial-")]
    told += [f"{_shown(name, by_name)} is not used" for name in by_name if name not in ("all", *chosen)]
    told += [f"{file.name} is not used" for file in by_name.get("all", [])]
    return splits, (*told, *notes)


def set_folders(path: Path) -> list[Path]:
    """`path`, where its own or its split folders' files make a set, else each folder in it of which that is true."""
    return [path] if _listed(path) else [folder for folder in _folders(path) if _listed(folder)]


def _listed(folder: Path) -> dict[str, list[Path]]:
    """Files by the split's name, those of none under `all`: of `folder` itself, else of the split folders in it."""
    by_name: dict[str, list[Path]] = {}
    for file in _files(folder):
        by_name.setdefault(_split_of(file) or "all", []).append(file)
    return by_name or {
        split.name.lower(): files
        for split in _folders(folder)
        if (files := _files(split)) and _is_split(split.name.lower(), files)
    }


def _is_split(name: str, files: Sequence[Path]) -> bool:
    """A folder called `train` may also be a set of its own, with files of both splits."""
    return name in (*_TRAIN, *_TEST) and all(_split_of(file) in (None, name) for file in files)


def _unused_folders(used: Path) -> list[Path]:
    """Folders beside the files, or beside the split folders, that hold Parquet too, or cannot be looked into."""
    taken = {file.parent for files in _listed(used).values() for file in files}
    others = [folder for folder in _folders(used) if folder not in taken]
    return [folder for folder in others if _listed(folder) or not os.access(folder, os.R_OK | os.X_OK)]


def _split_of(file: Path) -> str | None:
    """The split that a file's name says, or of the Hub's 0000.parquet its folder's, in lower case."""
    stem = _SHARD.sub("", file.stem)
    match = _IN_FRONT.match(stem) or _BEHIND.match(stem)
    return match[1].lower() if match else file.absolute().parent.name.lower() if _is_numbered(file) else None


def _is_numbered(file: Path) -> bool:
    return re.fullmatch(r"\d{4}", file.stem) is not None and file.absolute().parent.name.lower() in (*_TRAIN, *_TEST)


def _shown(name: str, by_name: dict[str, list[Path]]) -> str:
    in_folder = by_name[name][0].parent.name.lower() == name
    return f"the folder {by_name[name][0].parent.name}" if in_folder else f"{name}-*.parquet"


def _check_complete(files: Sequence[Path]) -> None:
    """Raise DataError unless every shard is there once. The Hub's 0000, 0001, ... are shards without a total."""
    folder, shards = files[0].parent, dict[str, list[re.Match[str]]]()
    for file in files:
        if match := _SHARD.search(file.stem):
            shards.setdefault(file.stem[: match.start()], []).append(match)
    for name, matches in shards.items():
        whole, total = [file.stem for file in files if file.stem == name], int(matches[0][2])
        numbers = {int(match[1]) for match in matches}
        if whole or len(numbers) < len(matches) or len({match[2] for match in matches}) > 1:
            several = ", ".join([*whole, *(match.string for match in matches)][:4])
            raise DataError(f"{folder} holds {name} in more than one version: {several}; keep the files of one")
        if numbers != set(range(total)):
            raise DataError(
                f"{folder} holds {len(matches)} of the {total} shards of {name}; give the folder with all of them, or "
                f"download the missing ones"
            )
    if all(_is_numbered(file) for file in files):
        given, present = ({int(file.stem) for file in which if _is_numbered(file)} for which in (files, _files(folder)))
        missing = sorted(set(range(max(present) + 1)) - given)
        if missing:
            raise DataError(
                f"{folder} holds {len(given)} of the shards of {folder.absolute().name}, without {missing[0]:04d}; "
                "give the folder with all of them, or download the missing ones"
            )


def _files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.parquet"))


def _folders(parent: Path) -> list[Path]:
    """Folders that are not hidden; no file is looked at, as there may be a hundred thousand images."""
    try:
        with os.scandir(parent) as entries:
            return sorted(parent / entry.name for entry in entries if entry.name[0] != "." and _is_folder(entry))
    except PermissionError:
        return []  # what the folder is not used for is said in `_unused_folders`, and by image folders


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False  # a link to itself, or into a folder that cannot be looked into
