"""What the papers' printed tables say, and where arithmetic or another sentence contradicts them.

printed/*.tsv hold the cells as printed, misprints included; printed/corrections.toml lists what arithmetic demands
instead, the rows that a table left out, and sentences that contradict a table.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from importlib import resources
from typing import Annotated, Any, Literal

from pydantic import Field

from thriftnet import recipe as recipes
from thriftnet.config import Section
from thriftnet.models.build import count_parameters

Column = Literal["parameters", "output_shape", "total"]

LAYER_TABLES = {
    "xu-resnet18": ("xu", "Figure 2"),
    "xu-resnetlarge": ("xu", "Figure 3"),
    "li-resnet": ("li", "Figures 2 and 3"),
    "ramavath-table1": ("ramavath", "Table 1"),
    "tirumalasetty-resnext29": ("tirumalasetty", "Figure 2"),
}
"""Table, which is also the recipe of its network -> (paper, where it is printed). Liu, Douglas, Ji print none."""


class Misprint(Section):
    """A cell that its own paper's arithmetic refutes."""

    table: str
    rows: tuple[str, ...] = Field(strict=False, min_length=1)
    """Labels of the rows that carry it."""
    column: Column
    printed: str
    correct: str
    why: str


class Contradiction(Section):
    """A sentence that a table or another sentence of the same paper contradicts."""

    id: str
    paper: str
    place: str
    sentence: str
    against: str
    rows: tuple[int, ...] = Field(default=(), strict=False)
    """Rows of Table 1 of Liu, Douglas, Ji that settle it."""
    columns: tuple[str, ...] = Field(default=(), strict=False)
    """The columns, besides model and accuracy, in which these rows differ."""


class Corrections(Section):
    """corrections.toml."""

    misprint: tuple[Misprint, ...] = Field(strict=False)
    contradiction: tuple[Contradiction, ...] = Field(strict=False)
    alignment: Mapping[str, Mapping[str, str]]
    """Table -> its rows with parameters -> the module of our network, where the table's own numbering does not say."""
    absent: Mapping[str, Annotated[tuple[str, ...], Field(strict=False)]]
    """Table -> modules that its printed total counts and its rows leave out."""


@dataclass(frozen=True)
class PrintedRow:
    label: str
    output_shape: str
    parameters: str


@dataclass(frozen=True)
class PrintedTable:
    """A layer table, cells as text."""

    rows: tuple[PrintedRow, ...]
    totals: Mapping[str, str]

    @property
    def labels(self) -> set[str]:
        return {row.label for row in self.rows}

    @property
    def sum_of_rows(self) -> int:
        return sum(number(row.parameters) for row in self.rows)

    @property
    def total(self) -> int:
        """The printed total of parameters."""
        return number(next(value for label, value in self.totals.items() if label.startswith("Total")))


@dataclass(frozen=True)
class TableAudit:
    """One printed layer table against arithmetic: its rows, its total, and the network built."""

    table: str
    paper: str
    place: str
    rows: int
    misprinted_rows: int
    """Rows and totals that carry a misprint."""
    sum_of_rows: int
    printed_total: int
    corrected_sum: int
    """Of the rows once the misprints are corrected; what the rows leave out is still missing."""
    left_out: int
    """Modules with parameters that have no row."""
    built: int
    """Trainable parameters of the network built from the paper's words."""

    @property
    def finding(self) -> str:
        """One sentence."""
        if self.left_out:
            return (
                f"the rows add up to {self.sum_of_rows:,} of the printed {self.printed_total:,}: {self.left_out} "
                f"layers are not printed; with them the total is that of the network built, {self.built:,}"
            )
        if not self.misprinted_rows:
            return f"every row is right, and they add up to the printed total of {self.printed_total:,}"
        total = (
            f"the printed total of {self.printed_total:,} is right"
            if self.printed_total == self.built
            else f"the printed total of {self.printed_total:,} should be {self.built:,}"
        )
        return (
            f"{self.misprinted_rows} cells are misprints; as printed the rows add up to {self.sum_of_rows:,}, "
            f"corrected to {self.corrected_sum:,}; {total}"
        )


@cache
def corrections() -> Corrections:
    """The packaged corrections."""
    tables: dict[str, Any] = tomllib.loads(_text("corrections.toml"))
    return Corrections.model_validate(tables)


def read_table(name: str, corrected: bool = False) -> PrintedTable:
    """A printed layer table, or the same with its misprints replaced. Raises KeyError for an unknown name."""
    if name not in LAYER_TABLES:
        raise KeyError(name)
    cells = [line.split("\t") for line in _text(f"{name}.tsv").splitlines()[1:]]
    rows = [PrintedRow(*row) for row in cells if row[1]]
    totals = {label: value for label, shape, value in cells if not shape}
    for misprint in corrections().misprint if corrected else ():
        if misprint.table != name:
            continue
        for label in misprint.rows:
            if misprint.column == "total":
                totals[label] = misprint.correct
            else:
                place = next(index for index, row in enumerate(rows) if row.label == label)
                rows[place] = replace(rows[place], **{misprint.column: misprint.correct})
    return PrintedTable(tuple(rows), totals)


def read_rows(name: str) -> list[dict[str, str]]:
    """A printed table of trials or models: one mapping a row, cells as text."""
    header, *lines = (line.split("\t") for line in _text(f"{name}.tsv").splitlines())
    return [dict(zip(header, line, strict=True)) for line in lines]


def audit_table(name: str) -> TableAudit:
    """Check one printed layer table. Raises KeyError for an unknown name."""
    printed, corrected = read_table(name), read_table(name, corrected=True)
    paper, place = LAYER_TABLES[name]
    return TableAudit(
        table=name,
        paper=paper,
        place=place,
        rows=len(printed.rows),
        misprinted_rows=sum(len(misprint.rows) for misprint in corrections().misprint if misprint.table == name),
        sum_of_rows=printed.sum_of_rows,
        printed_total=printed.total,
        corrected_sum=corrected.sum_of_rows,
        left_out=len(corrections().absent.get(name, ())),
        built=count_parameters(recipes.load(name).model),
    )


def number(cell: str) -> int:
    """`1,134` -> 1134."""
    return int(cell.replace(",", ""))


def _text(name: str) -> str:
    return (resources.files("thriftnet.ledger") / "printed" / name).read_text(encoding="utf-8")
