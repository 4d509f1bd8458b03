"""Tables of a page: what their cells show, and by what they are sorted."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

_SECONDS = {"h": 3600.0, "min": 60.0, "s": 1.0}
_NUMBER = r"[+−-]?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?:[eE][+−-]?\d+)?"
_QUANTITY = re.compile(
    rf"(?P<number>{_NUMBER})"
    rf"(?:\s*(?:±|–|-|to)\s*{_NUMBER})?"  # a spread, or the other end of a range
    r"\s*(?P<unit>%|[A-Za-zµ/]+)?"
    r"(?:\s*[±(,;–].*)?"  # a remark
)
_DURATION = re.compile(r"(?:\d+ h )?\d+ min(?: \d+ s)?")
_LONG_TEXT = 36
_LONG_WORD = 12


@dataclass(frozen=True)
class Link:
    """A cell that leads to the element of that id on the same page; a confusion's images open."""

    value: str | int | float
    target: str


Cell = str | int | float | Link | None


@dataclass(frozen=True)
class Table:
    """Columns and rows, sorted by a click on a heading and filtered where there are more than eight rows.

    A column sorts as numbers where most of what it has are numbers, or text such as `91.47 %`, `1,234` or `2 h 5 min`,
    of one unit; None is shown as a dash and stays last. `totals` is a row below that stays there.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    caption: str = ""
    totals: Sequence[Cell] = ()


@dataclass(frozen=True)
class ShownCell:
    """A cell as the template writes it."""

    text: str
    sorted_by: str = ""
    """A number as JavaScript reads it; empty for what is text, or nothing."""
    absent: bool = False
    """Stands at the end however the column is sorted."""
    target: str = ""


@dataclass(frozen=True)
class ShownColumn:
    """A column as the template writes it: `kind` is its class, `number`, `text` or `long`."""

    name: str
    kind: str
    wraps: bool = False
    """Whether its numbers carry remarks too long for one line."""

    @property
    def breakable(self) -> bool:
        """Whether a printed heading may be broken within a word, as a recipe's long keys must be."""
        return any(len(word) > _LONG_WORD for word in self.name.split())


def shown_table(table: Table) -> tuple[list[ShownColumn], list[list[ShownCell]]]:
    """Columns with their kinds and rows with their sort values. Raises ValueError for a row of another length."""
    columns, rows = table.columns, table.rows
    for row in (*rows, table.totals or columns):
        if len(row) != len(columns):
            raise ValueError(f"a row of {len(row)} cells does not fit {len(columns)} columns")
    heads, by_column = [], []
    for name, cells in zip(columns, zip(*rows, strict=True) if rows else [()] * len(columns), strict=True):
        kind, shown = _shown_column(cells)
        wraps = kind == "number" and any(len(cell.text) > _LONG_TEXT for cell in shown)
        heads.append(ShownColumn(name, kind, wraps))
        by_column.append(shown)
    return heads, [list(row) for row in zip(*by_column, strict=True)]


def cell_text(value: Cell) -> str:
    """Numbers with separators or four digits; a dash for what does not exist."""
    if isinstance(value, Link):
        return cell_text(value.value)
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _shown_column(cells: Sequence[Cell]) -> tuple[str, list[ShownCell]]:
    """A column is of numbers where most of what it has are numbers of one unit; the rest then comes after them."""
    texts = [cell_text(cell) for cell in cells]
    absent = [text.strip() in ("", "–", "-") for text in texts]
    found = [_quantity(cell) for cell in cells]
    units = Counter(quantity[1] for quantity in found if quantity is not None)
    unit, count = units.most_common(1)[0] if units else ("", 0)
    numeric = 2 * count > len(cells) - sum(absent)
    shown = [
        ShownCell(
            text,
            _javascript(quantity[0]) if numeric and quantity is not None and quantity[1] == unit else "",
            nothing,
            cell.target if isinstance(cell, Link) else "",
        )
        for cell, text, nothing, quantity in zip(cells, texts, absent, found, strict=True)
    ]
    longest = max(map(len, texts), default=0)
    return ("number" if numeric else "long" if longest > _LONG_TEXT else "text"), shown


def _quantity(cell: Cell) -> tuple[float, str] | None:
    """The number and its unit, or None for what is neither a number nor written as one."""
    value = cell.value if isinstance(cell, Link) else cell
    if value is None or isinstance(value, bool):
        return None
    if isinstance(value, int | float):
        return None if math.isnan(value) else (float(value), "")
    text = " ".join(value.split())
    if _DURATION.fullmatch(text):
        words = text.split()
        return sum(float(n) * _SECONDS[u] for n, u in zip(words[::2], words[1::2], strict=True)), "s"
    match = _QUANTITY.fullmatch(text)
    if match is None:
        return None
    number, unit = float(match["number"].replace(",", "").replace("−", "-")), match["unit"] or ""
    return (number * _SECONDS[unit], "s") if unit in _SECONDS else (number, unit)


def _javascript(value: float) -> str:
    return repr(value).replace("inf", "Infinity")
