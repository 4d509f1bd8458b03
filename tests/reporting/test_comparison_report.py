"""The page of a comparison: its figures' data and what stands on it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.evaluation.test_sides import compared, right
from thriftnet.evaluation.sides import Comparison
from thriftnet.reporting.comparison_report import (
    comparison_page,
    differences_data,
    draw_differences,
    draw_sides,
    sides_data,
    write_comparison_report,
)
from thriftnet.reporting.page import Drawing, render_page


@pytest.fixture
def comparison() -> Comparison:
    return compared(
        replace(right(0.9, seeds=3, key=1, seed_sd=0.01), name="<good>"),
        replace(right(0.6, seeds=3, key=2, seed_sd=0.01), name="poor"),
        replace(right(0.7), name="lone", selection="test-selected"),
        replace(right(0.7), name="elsewhere", images_sha256="other"),
    )


def test_sides_have_a_dot_a_seed_and_an_interval(comparison: Comparison) -> None:
    data = sides_data(comparison)
    assert data.names == ["A  <good>", "B  poor", "C  lone", "D  elsewhere"]
    assert [len(dots) for dots in data.accuracies] == [3, 3, 1, 1]
    assert data.means[0] == pytest.approx(np.mean(data.accuracies[0])) == pytest.approx(100 * comparison.sides[0].mean)
    low, high = data.intervals[0] or (0, 0)
    assert (low, high) == pytest.approx(
        (100 * comparison.sides[0].interval.low, 100 * comparison.sides[0].interval.high)
    )
    axes = draw_sides(data).axes[0]
    dots = [line for line in axes.lines if line.get_marker() == "o"]
    assert [len(np.asarray(line.get_xdata())) for line in dots] == [3, 3, 1, 1]


def test_sides_in_the_same_folder_are_told_apart() -> None:
    folder = "a/deep/folder/that/is/longer/than/a/label"
    sides = [replace(right(0.9), name=f"{folder}/{name}") for name in ("good", "poor")]
    found = compared(*sides)
    assert sides_data(found).names == ["A  good", "B  poor"]
    assert comparison_page(found).title == "good against poor"


def test_differences_are_those_that_could_be_compared(comparison: Comparison) -> None:
    data = differences_data(comparison)
    assert data.names == ["A − B", "A − C", "B − C"]
    assert data.judgements == ["better", "not decided", "not decided"]
    assert data.intervals[1:] == [None, None]  # one run against three: nothing is known of other seeds
    low, high = data.intervals[0] or (0, 0)
    assert low < data.differences[0] < high
    figure = draw_differences(data)
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["one is better", "not decided"]


def test_the_page_says_what_the_text_says(comparison: Comparison, tmp_path: Path) -> None:
    write_comparison_report(comparison, tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    for pair in comparison.pairs:
        assert pair.sentence.replace("<good>", "&lt;good&gt;") in page
    for expected in ("test-selected", "A number marked selected is too high", "&lt;good&gt;", comparison.command):
        assert expected in page
    assert page.count("<svg") == 2
    assert "://" not in page.replace("http://www.w3.org/", "")


def test_nothing_comparable_draws_no_differences() -> None:
    found = compared(right(0.9), replace(right(0.5), images_sha256="other"))
    page = comparison_page(found)
    drawings = [block for section in page.sections for block in section.blocks if isinstance(block, Drawing)]
    assert len(drawings) == 1
    assert "not comparable: they were tested on different images" in render_page(page)
