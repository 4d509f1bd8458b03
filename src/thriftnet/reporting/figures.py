"""What all figures share: one style, files, and SVG that follows a page's light or dark colours.

Every figure is made in two steps: `..._data` computes plain values, `draw_...` turns them into a matplotlib Figure.
Matplotlib is imported where it is used, so that importing thriftnet stays quick, and never through pyplot, so that
nothing global changes.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import wraps
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, ParamSpec

from thriftnet import fonts
from thriftnet.storage import write_atomic

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# The colours are those of M. Okabe and K. Ito (Color Universal Design, 2002), told apart by all kinds of colour vision.
BLUE, VERMILLION, GREEN = "#0072b2", "#d55e00", "#009e73"
INK, MUTED, GRID = "#1f2328", "#59636e", "#d8dee4"
WHITE = "#ffffff"
PAGE = "#fffffe"
"""White that follows the page: around words that lines cross."""
WHITE_TEXT = 0.8
"""The opacity of BLUE from which white is the easier to read, on a light page; that of VERMILLION is 0.9."""

# In a page these take their value from the style sheet, which has one for light and one for dark.
_PAGE_COLOURS = {
    BLUE: "--blue",
    VERMILLION: "--vermillion",
    GREEN: "--green",
    INK: "--ink",
    MUTED: "--muted",
    GRID: "--grid",
    PAGE: "--page",
}

_STYLE: Any = {
    "text.parse_math": False,  # a class named "$5" is a name, not a formula
    "font.size": 9,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.facecolor": "none",
    "axes.edgecolor": MUTED,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.titlesize": 9.5,
    "axes.titlelocation": "left",
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "lines.linewidth": 1.6,
    "lines.solid_capstyle": "round",
    "svg.fonttype": "path",  # looks the same where the font is missing
    "svg.hashsalt": "thriftnet",  # the same figure gives the same bytes
}

_PNG_DPI = 160
_LONGEST_NAME = 22

P = ParamSpec("P")

_inside = ContextVar("_inside", default=False)
"""Whether a figure is being drawn in this package's style."""


@contextmanager
def _styled() -> Iterator[None]:
    import matplotlib

    with matplotlib.rc_context():
        matplotlib.rcdefaults()  # a reader's own matplotlibrc must not change a run's figures
        matplotlib.rcParams.update({**_STYLE, "font.family": fonts.families()})
        token = _inside.set(True)
        try:
            yield
        finally:
            _inside.reset(token)


def styled(draw: Callable[P, Figure]) -> Callable[P, Figure]:
    """Draw in this package's style and leave the user's settings as they are."""

    @wraps(draw)
    def inner(*args: P.args, **kwargs: P.kwargs) -> Figure:
        with _styled():
            return draw(*args, **kwargs)

    return inner


def new_figure(width_in: float, height_in: float, make_room: bool = True) -> Figure:
    """An empty figure, sizes in inches; with `make_room` its axes shrink until no label is cut off."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width_in, height_in), layout="constrained" if make_room else None, facecolor=WHITE)


def save(figure: Figure, path: Path) -> None:
    """Write `figure` as `path`'s ending says, `.png` or `.svg`; the same figure gives the same bytes.

    Raises StorageError where the file cannot be written, ValueError for another ending.
    """
    write_atomic(path, encoded(figure, path))


def encoded(figure: Figure, path: Path) -> bytes:
    """What `save` writes."""
    if path.suffix not in (".png", ".svg"):
        raise ValueError(f"a figure is written as .png or .svg, not as {path.name}")
    return _render(figure, "png" if path.suffix == ".png" else "svg", background=True)


def inline_svg(figure: Figure, name: str, description: str) -> str:
    """An `<svg>` element to put into a page: transparent, in the page's colours, with ids that start with `name`.

    It holds no text from data except as outlines of letters, and no reference outside itself. `name` must be letters,
    digits and hyphens; `description`, any text, is read out to those who cannot see it.
    """
    svg = _render(figure, "svg", background=False).decode()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<!--.*?-->|<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    # Ids are unique in one figure only, and a page has several.
    svg = re.sub(r'\bid="', f'id="{name}-', svg)
    svg = re.sub(r'href="#', f'href="#{name}-', svg)
    svg = re.sub(r"url\(#", f"url(#{name}-", svg)
    for colour, variable in _PAGE_COLOURS.items():
        svg = svg.replace(colour, f"var({variable}, {colour})")
    return svg.replace("<svg", f'<svg role="img" aria-label="{escape(description)}"', 1)


def short_name(name: str, longest: int = _LONGEST_NAME) -> str:
    """A class name on one line and cut to `longest` characters, so that no label covers another.

    What cannot be printed (control characters, a file name's bytes that are no text) becomes a replacement character,
    as does a letter that no font here has, and nothing a dash.
    """
    line = fonts.drawable(fonts.printable(" ".join(name.split()))) or "–"
    if _inside.get():  # another font may have been found for it just now
        import matplotlib

        matplotlib.rcParams["font.family"] = fonts.families()
    return line if len(line) <= longest else line[: longest - 1] + "…"


def short_names(names: Sequence[str], longest: int = _LONGEST_NAME) -> list[str]:
    """Each as `short_name` makes it, but cut in the middle where cutting the ends would make two the same.

    One with letters that no font here has gets its number in front.
    """
    names = [name if _is_drawable(name) else f"{number} {name}" for number, name in enumerate(names, start=1)]
    cut = [short_name(name, longest) for name in names]
    if len(set(cut)) == len(set(names)):
        return cut
    lines = [short_name(name, max(len(name), 1)) for name in names]
    head = (longest - 1) // 2
    return [line if len(line) <= longest else f"{line[:head]}…{line[head + 1 - longest :]}" for line in lines]


def _is_drawable(name: str) -> bool:
    return fonts.font_for(fonts.printable(name)) is not None


def _render(figure: Figure, kind: Literal["png", "svg"], background: bool) -> bytes:
    buffer = io.BytesIO()
    with _styled():  # some of the style is read only now
        figure.savefig(
            buffer,
            format=kind,
            dpi=_PNG_DPI if kind == "png" else 72,
            facecolor=WHITE if background else "none",
            metadata={"Software": None} if kind == "png" else {"Date": None},
        )
    return buffer.getvalue()
