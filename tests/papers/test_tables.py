"""Every layer table that the papers print, laid beside our network's, row by row.

The tables and their corrections are those of the ledger (ledger/printed). Liu, Douglas, Ji print no layer table.
"""

from __future__ import annotations

from dataclasses import replace
from importlib import resources

import pytest

from thriftnet import recipe
from thriftnet.ledger.audit import (
    LAYER_TABLES,
    Contradiction,
    Misprint,
    PrintedRow,
    PrintedTable,
    audit_table,
    corrections,
    number,
    read_rows,
    read_table,
)
from thriftnet.models.build import build_on_meta
from thriftnet.models.summary import Summary, summarize

MISPRINTS = corrections().misprint
TORCHSUMMARY_TABLES = [name for name in LAYER_TABLES if name != "ramavath-table1"]


def our_summary(name: str) -> Summary:
    return summarize(build_on_meta(recipe.load(name).model), (3, 32, 32))


def without_unprinted_pooling(summary: Summary, printed: PrintedTable) -> Summary:
    """Where a paper pools by a function, its table has no row for it and its sizes leave it out."""
    if any(label.startswith("AdaptiveAvgPool2d") for label in printed.labels):
        return summary
    return replace(summary, layers=tuple(layer for layer in summary.layers if layer.type != "AdaptiveAvgPool2d"))


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


@pytest.mark.parametrize("misprint", MISPRINTS, ids=lambda misprint: f"{misprint.table}-{misprint.printed}")
def test_every_listed_misprint_is_printed_and_wrong(misprint: Misprint) -> None:
    assert misprint.printed != misprint.correct
    printed = read_table(misprint.table)
    rows = {row.label: row for row in printed.rows}
    for label in misprint.rows:
        cell = printed.totals[label] if misprint.column == "total" else getattr(rows[label], misprint.column)
        assert cell == misprint.printed


def test_misprints_of_parameters_are_the_known_ones() -> None:
    of_parameters = [misprint for misprint in MISPRINTS if misprint.column == "parameters"]
    cells = {(m.table, m.printed, m.correct): len(m.rows) for m in of_parameters}
    assert cells == {
        ("li-resnet", "2,448", "2,048"): 1,
        ("li-resnet", "704,912", "294,912"): 1,
        ("li-resnet", "2,576", "2,570"): 1,
        ("tirumalasetty-resnext29", "133,072", "131,072"): 6,
    }


def test_ramavath_rows_with_parameters_are_ours() -> None:
    printed = read_table("ramavath-table1")
    alignment = corrections().alignment["ramavath-table1"]
    ours = {layer.path: layer for layer in our_summary("ramavath-table1").layers}
    with_parameters = [row for row in printed.rows if number(row.parameters)]
    assert [row.label for row in with_parameters] == list(alignment)
    for row in with_parameters:
        layer = ours[alignment[row.label]]
        side = "-" if len(layer.output_shape) == 2 else "×".join(map(str, layer.output_shape[2:]))
        assert (row.output_shape, row.parameters) == (side, f"{layer.parameters:,}"), row.label


def test_ramavath_absent_rows_are_the_rest_of_the_printed_total() -> None:
    printed = read_table("ramavath-table1")
    aligned = list(corrections().alignment["ramavath-table1"].values())
    absent = corrections().absent["ramavath-table1"]
    ours = {layer.path: layer.parameters for layer in our_summary("ramavath-table1").layers if layer.parameters}
    assert sorted([*aligned, *absent]) == sorted(ours)
    assert sum(number(row.parameters) for row in printed.rows) == 472_362
    assert 472_362 + sum(ours[path] for path in absent) == number(printed.totals["Total:"])


def test_every_table_is_checked() -> None:
    """A layer table added to the folder must be added to a test."""
    folder = resources.files("thriftnet.ledger") / "printed"
    texts = {path.name: path.read_text(encoding="utf-8") for path in folder.iterdir() if path.name.endswith(".tsv")}
    layer_tables = {name.removesuffix(".tsv") for name, text in texts.items() if text.startswith("Layer")}
    assert layer_tables == set(LAYER_TABLES)


# (cells with a misprint, sum of the rows as printed, sum of the corrected rows, layers without a row)
AUDITS = {
    "xu-resnet18": (0, 4_815_940, 4_815_940, 0),
    "xu-resnetlarge": (0, 4_903_242, 4_903_242, 0),
    "li-resnet": (8, 4_998_096, 4_587_690, 0),
    "ramavath-table1": (0, 472_362, 472_362, 28),
    "tirumalasetty-resnext29": (19, 4_773_770, 4_761_770, 0),
}


@pytest.mark.parametrize("name", LAYER_TABLES)
def test_audit_says_what_adds_up(name: str) -> None:
    audit = audit_table(name)
    counted = (audit.misprinted_rows, audit.sum_of_rows, audit.corrected_sum, audit.left_out)
    assert counted == AUDITS[name]
    assert audit.built == recipe.load(name).expect.parameters


def test_audit_in_words() -> None:
    assert audit_table("xu-resnet18").finding == "every row is right, and they add up to the printed total of 4,815,940"
    assert "should be 4,587,690" in audit_table("li-resnet").finding
    assert "28 layers are not printed" in audit_table("ramavath-table1").finding
    assert "the printed total of 4,761,770 is right" in audit_table("tirumalasetty-resnext29").finding


@pytest.mark.parametrize("contradiction", corrections().contradiction, ids=lambda each: each.id)
def test_contradicting_rows_differ_as_said(contradiction: Contradiction) -> None:
    assert bool(contradiction.rows) == bool(contradiction.columns)
    trials = {int(row["Model"]): row for row in read_rows("liu-trials")}
    rows = [trials[number] for number in contradiction.rows]
    differing = [column for column in trials[0] if len({row[column] for row in rows}) > 1]
    assert set(differing) - {"Model", "Acc(%)"} == set(contradiction.columns)


def test_every_trial_but_model_2_uses_adam() -> None:
    """What `liu-sgd-for-the-rest` is refuted by, and `liu-four-models`."""
    trials = read_rows("liu-trials")
    assert [row["Model"] for row in trials if row["Optimizer"] == "SGD"] == ["2"]
    assert [row["Model"] for row in trials if row["Batch Size(training)"] == "128"] == ["1", "5", "6", "7", "8"]
