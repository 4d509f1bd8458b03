"""Every layer table that the papers print, laid beside our network's, row by row.

tables/*.tsv hold the cells as printed, misprints included; corrections.toml lists what arithmetic demands instead, and
the rows that a paper left out. Liu, Douglas, Ji print no layer table.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from thriftnet import recipe
from thriftnet.models.build import build_on_meta
from thriftnet.models.summary import Summary, summarize

HERE = Path(__file__).parent
CORRECTIONS = tomllib.loads((HERE / "corrections.toml").read_text(encoding="utf-8"))
MISPRINTS = CORRECTIONS["misprint"]
TORCHSUMMARY_TABLES = ["xu-resnet18", "xu-resnetlarge", "li-resnet", "tirumalasetty-resnext29"]
ALL_TABLES = [*TORCHSUMMARY_TABLES, "ramavath-table1"]


@dataclass(frozen=True)
class PrintedRow:
    label: str
    output_shape: str
    parameters: str


@dataclass(frozen=True)
class PrintedTable:
    rows: tuple[PrintedRow, ...]
    totals: dict[str, str]

    @property
    def labels(self) -> set[str]:
        return {row.label for row in self.rows}


def read_table(name: str, corrected: bool = False) -> PrintedTable:
    """The table as printed, or with its misprints replaced."""
    lines = (HERE / "tables" / f"{name}.tsv").read_text(encoding="utf-8").splitlines()[1:]
    cells = [line.split("\t") for line in lines]
    rows = [PrintedRow(*row) for row in cells if row[1]]
    totals = {label: value for label, shape, value in cells if not shape}
    for misprint in MISPRINTS if corrected else ():
        if misprint["table"] != name:
            continue
        for label in misprint["rows"]:
            if misprint["column"] == "total":
                totals[label] = misprint["correct"]
            else:
                place = next(index for index, row in enumerate(rows) if row.label == label)
                rows[place] = replace(rows[place], **{misprint["column"]: misprint["correct"]})
    return PrintedTable(tuple(rows), totals)


def our_summary(name: str) -> Summary:
    return summarize(build_on_meta(recipe.load(name).model), (3, 32, 32))


def without_unprinted_pooling(summary: Summary, printed: PrintedTable) -> Summary:
    """Where a paper pools by a function, its table has no row for it and its sizes leave it out."""
    if any(label.startswith("AdaptiveAvgPool2d") for label in printed.labels):
        return summary
    return replace(summary, layers=tuple(layer for layer in summary.layers if layer.type != "AdaptiveAvgPool2d"))


def number(cell: str) -> int:
    return int(cell.replace(",", ""))


@pytest.mark.parametrize("name", TORCHSUMMARY_TABLES)
def test_every_printed_row_is_ours(name: str) -> None:
    printed = read_table(name, corrected=True)
    summary = without_unprinted_pooling(our_summary(name), printed)
    labels = [f"{layer.type.replace('ResNeXtBlock', 'Block')}-{index}" for index, layer in enumerate(summary.layers, 1)]
    ours = [
        PrintedRow(label, str(list(layer.output_shape)), f"{layer.parameters:,}")
        for label, layer in zip(labels, summary.layers, strict=True)
    ]
    assert ours == list(printed.rows)


@pytest.mark.parametrize("name", TORCHSUMMARY_TABLES)
def test_every_printed_total_is_ours(name: str) -> None:
    printed = read_table(name, corrected=True)
    summary = without_unprinted_pooling(our_summary(name), printed)
    ours = {
        "total params": f"{summary.total_parameters:,}",
        "trainable params": f"{summary.trainable_parameters:,}",
        "non-trainable params": "0",
        "input size (mb)": f"{summary.input_mb:.2f}",
        "forward/backward pass size (mb)": f"{summary.forward_backward_mb:.2f}",
        "params size (mb)": f"{summary.parameters_mb:.2f}",
        "estimated total size (mb)": f"{summary.total_mb:.2f}",
    }
    assert ours == {label.lower(): value for label, value in printed.totals.items()}


@pytest.mark.parametrize("name", TORCHSUMMARY_TABLES)
def test_corrected_rows_add_up_to_the_corrected_total(name: str) -> None:
    """Arithmetic within the paper alone, without our network."""
    printed = read_table(name, corrected=True)
    assert sum(number(row.parameters) for row in printed.rows) == number(printed.totals["Total params"])


@pytest.mark.parametrize("misprint", MISPRINTS, ids=lambda misprint: f"{misprint['table']}-{misprint['printed']}")
def test_every_listed_misprint_is_printed_and_wrong(misprint: dict[str, str]) -> None:
    assert misprint["printed"] != misprint["correct"]
    printed = read_table(misprint["table"])
    rows = {row.label: row for row in printed.rows}
    for label in misprint["rows"]:
        cell = printed.totals[label] if misprint["column"] == "total" else getattr(rows[label], misprint["column"])
        assert cell == misprint["printed"]


def test_misprints_of_parameters_are_the_known_ones() -> None:
    of_parameters = [misprint for misprint in MISPRINTS if misprint["column"] == "parameters"]
    cells = {(m["table"], m["printed"], m["correct"]): len(m["rows"]) for m in of_parameters}
    assert cells == {
        ("li-resnet", "2,448", "2,048"): 1,
        ("li-resnet", "704,912", "294,912"): 1,
        ("li-resnet", "2,576", "2,570"): 1,
        ("tirumalasetty-resnext29", "133,072", "131,072"): 6,
    }


def test_ramavath_rows_with_parameters_are_ours() -> None:
    printed = read_table("ramavath-table1")
    alignment = CORRECTIONS["alignment"]["ramavath-table1"]
    ours = {layer.path: layer for layer in our_summary("ramavath-table1").layers}
    with_parameters = [row for row in printed.rows if number(row.parameters)]
    assert [row.label for row in with_parameters] == list(alignment)
    for row in with_parameters:
        layer = ours[alignment[row.label]]
        side = "-" if len(layer.output_shape) == 2 else "×".join(map(str, layer.output_shape[2:]))
        assert (row.output_shape, row.parameters) == (side, f"{layer.parameters:,}"), row.label


def test_ramavath_absent_rows_are_the_rest_of_the_printed_total() -> None:
    printed = read_table("ramavath-table1")
    aligned = list(CORRECTIONS["alignment"]["ramavath-table1"].values())
    absent = CORRECTIONS["absent"]["ramavath-table1"]
    ours = {layer.path: layer.parameters for layer in our_summary("ramavath-table1").layers if layer.parameters}
    assert sorted(aligned + absent) == sorted(ours)
    assert sum(number(row.parameters) for row in printed.rows) == 472_362
    assert 472_362 + sum(ours[path] for path in absent) == number(printed.totals["Total:"])


def test_every_table_is_checked() -> None:
    """A layer table added to the folder must be added to a test."""
    texts = {path.stem: path.read_text(encoding="utf-8") for path in (HERE / "tables").glob("*.tsv")}
    assert {name for name, text in texts.items() if text.startswith("Layer")} == set(ALL_TABLES)
