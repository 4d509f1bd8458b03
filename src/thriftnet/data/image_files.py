"""The images in and below a folder, and what was left out of it and why.

Links are followed: data folders are the user's own. A link back to a folder that it lies in is not, for it has no end.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from thriftnet.data.decode import ENDINGS
from thriftnet.storage import escaped, why_refused

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


NO_IMAGE = "files that are no image are not used"
DANGLING = "links lead nowhere"
LOOP = "links lead back to a folder that they lie in, and are not followed"
UNREADABLE = "folders cannot be read"


def find_images(folder: Path, parents: Sequence[Path] = ()) -> FoundFiles:
    """All images in and below `folder`; hidden files and folders are passed over. Raises OSError for itself alone.

    Links to `parents`, the folders that it is searched for, go round in a circle too.
    """
    found = FoundFiles()
    _walk(folder, set(map(_identity, (folder, *parents))), found, top=True)
    found.images.sort(key=lambda path: path.relative_to(folder).as_posix())
    found.left_out.sort(key=lambda each: each[1].relative_to(folder).as_posix())
    return found


def folders_in(parent: Path) -> list[Path]:
    """The folders right in `parent`, links to folders among them, sorted by name; hidden ones left out."""
    return sorted(child for child in parent.iterdir() if child.is_dir() and not is_hidden(child.name))


def is_hidden(name: str) -> bool:
    """Whether systems and archivers put it there, not the user."""
    return name.startswith(".") or name == "__MACOSX"


def is_image(path: Path) -> bool:
    """By its name."""
    return path.suffix.lower() in ENDINGS


def _walk(folder: Path, inside: set[tuple[int, int]], found: FoundFiles, top: bool = False) -> None:
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        if top or not why_refused(error):
            raise
        found.left_out.append((UNREADABLE, folder))
        return
    for entry in entries:
        path = folder / entry.name
        if is_hidden(entry.name):
            continue
        if entry.is_dir():
            identity = _identity(path)
            if identity in inside:
                found.left_out.append((LOOP, path))
            else:
                _walk(path, inside | {identity}, found)
        elif entry.is_file():
            if is_image(path):
                found.images.append(path)
            else:
                found.left_out.append((NO_IMAGE, path))
        else:
            found.left_out.append((DANGLING if entry.is_symlink() else NO_IMAGE, path))


def _identity(folder: Path) -> tuple[int, int]:
    known = folder.stat()
    return known.st_dev, known.st_ino
