"""A self-contained HTML page made of sections of text, tables and figures: runs, studies, comparisons, the ledger.

Style, figures (SVG), images and one script are in the file; a content security policy in its head forbids any request
and any script but that one, whose SHA-256 it names. Text is escaped by the templates, whoever it comes from. Without
scripts everything can be read; with them tables sort and filter, and a confusion matrix is walked with arrow keys.
"""

from __future__ import annotations

import hashlib
from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import thriftnet
from thriftnet.errors import escaped
from thriftnet.reporting.confusion import Confusion, shown_confusion
from thriftnet.reporting.figures import inline_svg
from thriftnet.reporting.tables import Cell, Link, Table, breakable, cell_text, shown_table
from thriftnet.storage import write_atomic

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = [
    "Block", "Cell", "Code", "Confusion", "Drawing", "Facts", "Heading", "Headline", "Link", "Page", "Section", "Side",
    "Sides", "SmallDrawings", "Table", "Text", "render_page", "write_page",
]  # fmt: skip


@dataclass(frozen=True)
class Text:
    """One paragraph; `note` sets it apart as something that a number must be read with, `muted` takes it back."""

    text: str
    note: bool = False
    muted: bool = False


@dataclass(frozen=True)
class Heading:
    """A heading below the section's."""

    text: str


@dataclass(frozen=True)
class Facts:
    """Names with values, in small print side by side."""

    pairs: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Code:
    """Text as it is: a command, a recipe."""

    text: str


@dataclass(frozen=True)
class Drawing:
    """A figure with the sentence that explains it; `alt` is read out in its place, by default the caption."""

    figure: Figure
    caption: str
    wide: bool = False
    alt: str = ""


@dataclass(frozen=True)
class SmallDrawings:
    """Figures side by side where there is room."""

    drawings: Sequence[Drawing]


@dataclass(frozen=True)
class Headline:
    """The one number of a page with its meaning; `badge` is a word that must stand wherever the number does."""

    value: str
    meaning: str
    badge: str = ""


@dataclass(frozen=True)
class Side:
    """One of several numbers that are set against each other; `claimed` ones were not measured here."""

    title: str
    value: str
    meaning: str
    claimed: bool = False
    badge: str = ""


@dataclass(frozen=True)
class Sides:
    """Claimed and measured, side by side and never mixed."""

    sides: Sequence[Side]


Block = Text | Heading | Facts | Code | Table | Drawing | SmallDrawings | Headline | Sides | Confusion


@dataclass(frozen=True)
class Section:
    """One heading with what stands below it."""

    title: str
    blocks: Sequence[Block]
    badge: str = ""


@dataclass(frozen=True)
class Page:
    """A whole page. `kind` says what it reports on, `lead` is the finding in one or two sentences.

    `head` stands above the links to the sections.
    """

    kind: str
    title: str
    lead: str
    sections: Sequence[Section]
    head: Sequence[Block] = ()


def write_page(page: Page, path: Path) -> None:
    """Write the page. Raises StorageError where the file cannot be written; an earlier one is then unchanged."""
    write_atomic(path, render_page(page))


def render_page(page: Page) -> str:
    """The page as text."""
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup, escape

    environment = Environment(
        loader=PackageLoader("thriftnet.reporting", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    numbers = iter(range(1_000_000))  # the parts of each figure need names of their own
    environment.tests["a"] = lambda block, kind: type(block).__name__ == kind
    environment.filters["cell"] = cell_text
    environment.filters["table"] = shown_table
    environment.filters["breakable"] = lambda text: Markup(breakable(str(escape(text)), "<wbr>"))
    environment.filters["confusion"] = lambda block: shown_confusion(block, f"pair-{next(numbers)}")
    environment.filters["svg"] = lambda drawing: Markup(
        inline_svg(drawing.figure, f"drawing-{next(numbers)}", drawing.alt or drawing.caption)
    )
    script = environment.get_template("script.js.j2").render()
    text = environment.get_template("page.html.j2").render(
        page=page,
        script=Markup(script),
        script_hash=b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        version=thriftnet.__version__,
    )
    return escaped(text)
