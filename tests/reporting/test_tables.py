"""What cells show, and by what their columns are sorted."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from thriftnet.reporting.tables import Cell, Link, Table, breakable, cell_text, shown_table


def column(*cells: Cell) -> tuple[str, list[str]]:
    """The column's kind, and what each cell is sorted by."""
    shown = shown_table(Table(["name"], [[cell] for cell in cells]))
    return shown.columns[0].kind, ["absent" if row[0].absent else row[0].sorted_by for row in shown.rows]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "–"),
        (math.nan, "–"),
        (1234567, "1,234,567"),
        (0.123456, "0.1235"),
        (math.inf, "inf"),
        (True, "yes"),
        ("<b>", "<b>"),
        (Link(1234, "there"), "1,234"),
    ],
)
def test_what_a_cell_shows(value: Cell, text: str) -> None:
    assert cell_text(value) == text


@pytest.mark.parametrize(
    ("cells", "kind", "sorted_by"),
    [
        ((3, 1.5, None), "number", ["3.0", "1.5", "absent"]),
        ((1, math.nan, -math.inf, "-"), "number", ["1.0", "absent", "-Infinity", "absent"]),
        (("91.47 %", "100.00\u00a0%", "–"), "number", ["91.47", "100.0", "absent"]),
        (("91.47 ± 0.20 %", "84.5 % (validation)", "89–90 %"), "number", ["91.47", "84.5", "89.0"]),
        (("4,815,940", "2,799,146"), "number", ["4815940.0", "2799146.0"]),
        (("−1.5", "+2", "1e-3"), "number", ["-1.5", "2.0", "0.001"]),
        (("2 h 5 min", "45 min", "17.6 s", "1 min 2 s"), "number", ["7500.0", "2700.0", "17.6", "62.0"]),
        ((Link(12, "a"), Link(3, "b")), "number", ["12.0", "3.0"]),
        ((0.5, 0.7, "not run"), "number", ["0.5", "0.7", ""]),
        (("12 MB", "13 MB", "1 GB"), "number", ["12.0", "13.0", ""]),  # another unit is no smaller number
        (("liu-4x2", "xu-resnet18"), "text", ["", ""]),
        (("−1 × 16 × 32 × 32", "−1 × 10"), "text", ["", ""]),
        (("2026-07-01", "2026-08-01"), "text", ["", ""]),
        (("12ab34", "3x3", "1 of 5"), "text", ["", "", ""]),
        ((None, None), "text", ["absent", "absent"]),
        (("a", "a sentence that is too long for one line of a table"), "long", ["", ""]),
    ],
)
def test_a_column_of_numbers_of_one_unit_sorts_as_numbers(
    cells: tuple[Cell, ...], kind: str, sorted_by: list[str]
) -> None:
    assert column(*cells) == (kind, sorted_by)


def test_numbers_with_long_remarks_wrap_and_still_sort() -> None:
    remark = "0.91 to 0.97 [twin 0.25; scaled 2/30 epochs; 3 seeds]"
    shown = shown_table(Table(["a", "b"], [["1.5", f"1.5 ({remark})"], ["2.5", f"2.5 ({remark})"]]))
    short, long = shown.columns
    assert ((short.kind, short.wraps), (long.kind, long.wraps)) == (("number", False), ("number", True))
    assert [row[1].sorted_by for row in shown.rows] == ["1.5", "2.5"]


@pytest.mark.parametrize(
    ("text", "broken"),
    [
        ("validation accuracy (%)", "validation accuracy (%)"),
        ("optimizer.lr", "optimizer.lr"),
        ("optimizer.weight_decay", "optimizer.|weight_|decay"),
        ("at runs/tiny-9810438f/seed-0, -0.5", "at runs/|tiny-|9810438f/|seed-|0, -0.5"),
        ("a number that is test-selected", "a number that is test-selected"),
        ("[scaled 10,000/45,000 images]", "[scaled 10,000/|45,000 images]"),
    ],
)
def test_only_long_words_may_be_broken_and_only_where_they_have_parts(text: str, broken: str) -> None:
    assert breakable(text, "|") == broken


def test_on_paper_words_are_whole_where_there_is_room_in_smaller_letters_if_need_be() -> None:
    words = ["validation", "tirumalasetty-resnext29", "4,587,690"]
    few = shown_table(Table(["a", "heading", "misprinted cells"], [words]))
    assert ([column.whole for column in few.columns], few.dense) == ([10, 14, 12], False)
    many = shown_table(Table(["a"] * 9, [words * 3]))
    assert ([column.whole for column in many.columns], many.dense) == ([10, 14, 9] * 3, True)
    sentences = shown_table(Table(["a"] * 6, [[*words, *words[:2], "a sentence too long for one line of a table"]]))
    assert ([column.whole for column in sentences.columns], sentences.dense) == ([10, 14, 9, 10, 14, 8], True)
    assert not shown_table(Table(["a"] * 6, [[*words, *words[:2], "a sentence"]])).dense
    assert shown_table(Table(["a"], [["x" * 99]])).columns[0].whole == 24
    crowd = shown_table(Table(["a"] * 60, [["longest"] * 60]))
    assert ({column.whole for column in crowd.columns}, crowd.dense) == ({1}, True)


@given(st.lists(st.one_of(st.none(), st.integers(), st.floats(), st.text(), st.booleans()), min_size=1))
def test_every_cell_is_shown_whatever_it_holds(cells: list[Cell]) -> None:
    shown = shown_table(Table(["name"], [[cell] for cell in cells]))
    assert [row[0].text for row in shown.rows] == [cell_text(cell) for cell in cells]
    for row in shown.rows:
        if row[0].sorted_by:
            assert shown.columns[0].kind == "number"
            float(row[0].sorted_by.replace("Infinity", "inf"))


def test_a_table_may_be_empty_and_totals_must_fit() -> None:
    shown = shown_table(Table(["a", "b"], []))
    assert [column.name for column in shown.columns] == ["a", "b"]
    assert shown.rows == []
    with pytest.raises(ValueError, match="a row of 1 cells does not fit 2 columns"):
        shown_table(Table(["a", "b"], [], totals=[1]))
