"""A self-contained HTML page made of sections of text, tables and figures: studies, comparisons, the ledger.

Style, figures (SVG) and scripts are in the file; a content security policy in its head forbids any request. Text is
escaped by the template, whoever it comes from.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from thriftnet.reporting.figures import inline_svg
from thriftnet.storage import write_atomic

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Cell = str | int | float | None


@dataclass(frozen=True)
class Text:
    """One paragraph; `note` sets it apart as something that a number must be read with."""

    text: str
    note: bool = False


@dataclass(frozen=True)
class Facts:
    """Names with values, in small print side by side."""

    pairs: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Code:
    """Text as it is: a command, a recipe."""

    text: str


@dataclass(frozen=True)
class Table:
    """Columns and rows; a column of numbers sorts as numbers. None is shown as a dash."""

    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    caption: str = ""


@dataclass(frozen=True)
class Drawing:
    """A figure with the sentence that explains it."""

    figure: Figure
    caption: str
    wide: bool = False


Block = Text | Facts | Code | Table | Drawing


@dataclass(frozen=True)
class Section:
    """One heading with what stands below it."""

    title: str
    blocks: Sequence[Block]


@dataclass(frozen=True)
class Page:
    """A whole page. `kind` says what it reports on, `lead` is the finding in one or two sentences."""

    kind: str
    title: str
    lead: str
    sections: Sequence[Section]


def write_page(page: Page, path: Path) -> None:
    """Write the page. Raises StorageError where the file cannot be written; an earlier one is then unchanged."""
    write_atomic(path, render_page(page))


def render_page(page: Page) -> str:
    """The page as text."""
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=PackageLoader("thriftnet.reporting", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.tests["block"] = lambda block, kind: type(block).__name__ == kind
    environment.filters["cell"] = _cell
    numbers = iter(range(1_000_000))  # the parts of each SVG need names of their own
    environment.filters["svg"] = lambda drawing: Markup(
        inline_svg(drawing.figure, f"drawing-{next(numbers)}", drawing.caption)
    )
    return environment.get_template("page.html.j2").render(page=page)


def _cell(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
