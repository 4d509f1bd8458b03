"""Which letters can be drawn here, in figures (matplotlib) and contact sheets (Pillow).

DejaVu Sans comes with matplotlib and has the alphabets of Europe; others, such as Chinese, Japanese and Korean, are
drawn with a font of the system that has their letters. Where there is none, a class is shown by its number.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path

MAIN = "DejaVu Sans"
NUMBERED = "classes with letters that no font here has are shown by number"
_USE_LAST = re.compile("bold|italic|oblique|light|black|thin|mono|serif", re.IGNORECASE)

_families = [MAIN]


def families() -> list[str]:
    """For matplotlib's `font.family`: the main one, then those that `font_for` has found, in that order."""
    return list(_families)


def printable(text: str) -> str:
    """`text` with a replacement character for what cannot be printed: control characters, bytes that are no text."""
    return "".join(each if each.isprintable() else "\ufffd" for each in text)


def numbered(class_names: Sequence[str]) -> tuple[str, ...]:
    """The names as they are, and `class 3` for one whose letters no font here has."""
    return tuple(
        name if font_for(printable(name)) is not None else f"class {index}" for index, name in enumerate(class_names)
    )


def drawable(text: str) -> str:
    """`text` with a replacement character for each letter that no font here has."""
    return text if font_for(text) is not None else "".join(c if font_for(c) is not None else "\ufffd" for c in text)


@cache
def font_for(text: str) -> Path | None:
    """The file of a font that has every letter of `text`, the main one if it does; None where there is none."""
    needed = frozenset(map(ord, text))
    if needed <= _letters(main_font()):
        return main_font()
    found = next((path for path in system_fonts() if needed <= _letters(path)), None)
    if found is not None:
        _register(found)
    return found


@cache
def main_font() -> Path:
    """DejaVu Sans, as matplotlib brings it."""
    import matplotlib

    return Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")


@cache
def system_fonts() -> tuple[Path, ...]:
    """The font files of this machine, plain ones first."""
    from matplotlib import font_manager

    found = [Path(path) for path in font_manager.findSystemFonts()]
    # macOS has a font that draws an empty box for everything.
    usable = [path for path in found if "lastresort" not in path.name.lower()]
    return tuple(sorted(usable, key=lambda path: (_USE_LAST.search(path.stem) is not None, str(path))))


@cache
def _letters(path: Path) -> frozenset[int]:
    """The code points that a font has; none where it cannot be read, or has pictures instead of outlines."""
    from matplotlib.ft2font import FT2Font

    try:
        font = FT2Font(str(path))
        return frozenset(font.get_charmap()) if font.scalable else frozenset()
    except (OSError, RuntimeError):
        return frozenset()


def _register(path: Path) -> None:
    """Let matplotlib find the font by its family's name, which `families` then has."""
    from matplotlib import font_manager
    from matplotlib.ft2font import FT2Font

    family = FT2Font(str(path)).family_name
    if all(entry.name != family for entry in font_manager.fontManager.ttflist):
        font_manager.fontManager.addfont(str(path))
    if family not in _families:
        _families.append(family)
