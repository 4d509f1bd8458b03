"""The images in and below a folder, and what was left out of it and why.

Links are followed: data folders are the user's own. Each folder is read once, so that neither a circle of links nor
two links to one folder give an image twice.
"""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from thriftnet.data.decode import ENDINGS
from thriftnet.errors import escaped
from thriftnet.storage import why_refused

SHOWN = 3
"""Names in a note."""


@dataclass(frozen=True)
class FoundFiles:
    """What lies in and below a folder, in the order of the relative paths."""

    images: list[Path] = field(default_factory=list)
    left_out: list[tuple[str, Path]] = field(default_factory=list)
    """(why, which)."""

    def notes(self, root: Path, what: str = "") -> tuple[str, ...]:
        """What was left out, one sentence a reason: how many, why, and the first names relative to `root`."""
        sentences = []
        for why, count in Counter(why for why, _ in self.left_out).items():
            names = [escaped(path.relative_to(root).as_posix()) for reason, path in self.left_out if reason == why]
            shown = ", ".join(sorted(names)[:SHOWN]) + (f" and {count - SHOWN} more" if count > SHOWN else "")
            sentences.append(f"{count} {what}{why}: {shown}")
        return tuple(sentences)

    def _sort(self) -> None:
        self.images.sort(key=Path.as_posix)
        self.left_out.sort(key=lambda each: each[1].as_posix())


NO_IMAGE = "files that are no image are not used"
HIDDEN = "hidden images are not used"
DANGLING = "links lead nowhere"
LOOP = "links lead back to a folder that they lie in, and are not followed"
AGAIN = "links lead to a folder that is read already, and are not followed"
UNREADABLE = "folders cannot be read"


def find_images(folder: Path) -> FoundFiles:
    """All images in and below `folder`, but hidden ones. Raises OSError where `folder` itself cannot be read."""
    found, around, read = FoundFiles(), _around(folder), set[tuple[int, int]]()
    ahead, linked = [folder], list[Path]()
    while ahead or linked:
        here = ahead.pop() if ahead else linked.pop(0)  # a folder is found where it lies before a link to it
        try:
            identity = _identity(here)
            if here != folder and identity in around:
                found.left_out.append((LOOP, here))
            elif identity in read:
                found.left_out.append((AGAIN, here))
            else:
                read.add(identity)
                for inside in _look_in(here, found):
                    (linked if inside.is_symlink() else ahead).append(inside)
        except OSError as error:
            if here == folder or not why_refused(error):
                raise
            found.left_out.append((UNREADABLE, here))
    found._sort()
    return found


def look_in(folder: Path) -> tuple[list[Path], FoundFiles]:
    """(the folders right in `folder`, links to folders among them; the files right in it), sorted by name."""
    found, around = FoundFiles(), _around(folder)
    folders = []
    for inside in _look_in(folder, found):
        if inside.is_symlink() and _identity(inside) in around:
            found.left_out.append((LOOP, inside))
        else:
            folders.append(inside)
    found._sort()
    return sorted(folders), found


def folders_in(parent: Path) -> list[Path]:
    """The folders right in `parent`, links to folders among them, sorted by name; hidden ones left out."""
    return look_in(parent)[0]


def is_hidden(name: str) -> bool:
    """Whether systems and archivers put it there, not the user."""
    return name.startswith(".") or name == "__MACOSX"


def is_image(name: str) -> bool:
    """By its ending."""
    return os.path.splitext(name)[1].lower() in ENDINGS


def _look_in(folder: Path, found: FoundFiles) -> list[Path]:
    """The folders right in `folder`; its files are added to `found`."""
    folders = []
    with os.scandir(folder) as scanned:
        entries = sorted(scanned, key=lambda entry: entry.name)
    for entry in entries:
        path = folder / entry.name
        try:
            is_folder, is_file = entry.is_dir(), entry.is_file()
        except OSError as error:  # what a link leads to cannot be looked at, or it leads to itself
            found.left_out.append((UNREADABLE if isinstance(error, PermissionError) else DANGLING, path))
            continue
        if is_hidden(entry.name):
            found.left_out.extend((HIDDEN, image) for image in _hidden_images(path, is_folder))
        elif is_folder:
            folders.append(path)
        elif is_file and is_image(entry.name):
            found.images.append(path)
        else:
            dangling = entry.is_symlink() and not is_file
            found.left_out.append((DANGLING if dangling else NO_IMAGE, path))
    return folders


def _hidden_images(path: Path, is_folder: bool) -> list[Path]:
    """Those of a hidden file or folder; what macOS puts beside each file (._a.png, __MACOSX) only looks like one."""
    if path.name == "__MACOSX":
        return []
    inside = [Path(here, name) for here, _, names in os.walk(path) for name in names] if is_folder else [path]
    return [file for file in inside if is_image(file.name) and not file.name.startswith("._")]


def _around(folder: Path) -> set[tuple[int, int]]:
    """`folder` and all that it lies in, by its path as given and by its real one."""
    places = (folder.absolute(), Path(os.path.realpath(folder)))
    return {_identity(each) for place in places for each in (place, *place.parents)}


def _identity(folder: Path) -> tuple[int, int]:
    known = folder.stat()
    return known.st_dev, known.st_ino
