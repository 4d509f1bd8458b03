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
"""Letters beyond which a word (a path, a recipe's key) may be broken within."""
_LONG_WORDS = re.compile(rf"\S{{{_LONG_WORD + 1},}}")
_BREAKS = re.compile(r"(?<=\w[./_])(?=\w)|(?<=\w-)(?=\d)")
"""Between a hyphen and a letter browsers break by themselves."""
_BOLD = 1.15
"""How much wider a letter of a heading is, at most."""
_LONGEST_WHOLE = 24
"""Letters of one piece beyond which even that is broken."""
# A4 less its margins, and the padding of a column, in letters of 8.5 and of 7 pt as style.css.j2 reckons them.
_PAPER, _PADDING = 94.5, 1.35
_PAPER_DENSE, _PADDING_DENSE = 115.0, 1.1
_WORDS_BESIDE_SENTENCES = 0.7
"""Share of a line that whole words may take before letters become smaller, where cells are more than words."""


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
    whole: int = 0
    """Letters of its longest word, or as many as paper has room for: no word up to that is broken."""


@dataclass(frozen=True)
class ShownTable:
    """A table as the template writes it."""

    columns: list[ShownColumn]
    rows: list[list[ShownCell]]
    dense: bool
    """Whether it needs smaller letters on paper."""


def shown_table(table: Table) -> ShownTable:
    """Columns with their kinds and rows with their sort values. Raises ValueError for a row of another length."""
    columns, rows = table.columns, table.rows
    for row in (*rows, table.totals or columns):
        if len(row) != len(columns):
            raise ValueError(f"a row of {len(row)} cells does not fit {len(columns)} columns")
    by_column = [_shown_column(cells) for cells in (zip(*rows, strict=True) if rows else [()] * len(columns))]
    longest = [
        max([math.ceil(_BOLD * _longest_piece(name)), *(_longest_piece(cell.text) for cell in shown)])
        for name, (_, shown) in zip(columns, by_column, strict=True)
    ]
    room = _PAPER_DENSE - _PADDING_DENSE * len(columns)
    most = next((most for most in range(_LONGEST_WHOLE, 1, -1) if sum(min(n, most) for n in longest) <= room), 1)
    heads = [
        ShownColumn(name, kind, kind == "number" and any(len(cell.text) > _LONG_TEXT for cell in shown), min(n, most))
        for name, (kind, shown), n in zip(columns, by_column, longest, strict=True)
    ]
    sentences = any(head.kind == "long" or head.wraps for head in heads)
    dense = sum(longest) + _PADDING * len(columns) > _PAPER * (_WORDS_BESIDE_SENTENCES if sentences else 1)
    return ShownTable(heads, [list(row) for row in zip(*(shown for _, shown in by_column), strict=True)], dense)


def breakable(text: str, mark: str) -> str:
    """`text` with `mark` where a long word of it may go on in the next line: a path, a key, a run's name."""
    return _LONG_WORDS.sub(lambda word: _BREAKS.sub(mark, word[0]), text)


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


def _longest_piece(text: str) -> int:
    return max(len(piece) for piece in re.split(r"\s|(?<=\w-)(?=\w)", breakable(text, " ")))


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
