"""The page of a comparison: sides with every seed, differences with their intervals, and what was decided."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from thriftnet.evaluation.compare import Interval
from thriftnet.evaluation.sides import (
    LETTERS,
    Comparison,
    epochs_text,
    interval_text,
    intervals_of,
)
from thriftnet.reporting.figures import BLUE, GREEN, INK, MUTED, VERMILLION, new_figure, short_names, styled
from thriftnet.reporting.page import Code, Drawing, Facts, Page, Section, Table, Text, write_page
from thriftnet.run import without_shared_folders

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_COLOURS = {"better": GREEN, "worse": GREEN, "noise": MUTED, "not decided": VERMILLION}
_LABELS = {"better": "one is better", "worse": "one is better"}
_ROW_IN = 0.42
_SHOWN_NAME = 34


@dataclass(frozen=True)
class SidesData:
    """For each side, top to bottom: its accuracies (a dot a seed) and its mean with interval, all in per cent."""

    names: Sequence[str]
    accuracies: Sequence[Sequence[float]]
    means: Sequence[float]
    intervals: Sequence[tuple[float, float] | None]
    """None where unbounded."""


@dataclass(frozen=True)
class DifferencesData:
    """For each pair that could be compared: difference and interval of its verdict in percentage points."""

    names: Sequence[str]
    differences: Sequence[float]
    intervals: Sequence[tuple[float, float] | None]
    judgements: Sequence[str]


def sides_data(comparison: Comparison) -> SidesData:
    """What the figure of the sides shows."""
    sides = comparison.sides
    return SidesData(
        names=[f"{letter}  {name}" for letter, name in zip(LETTERS, _names(comparison, _SHOWN_NAME), strict=False)],
        accuracies=[[100 * accuracy for accuracy in side.accuracies] for side in sides],
        means=[100 * side.mean for side in sides],
        intervals=[_bounds(side.interval) for side in sides],
    )


def differences_data(comparison: Comparison) -> DifferencesData:
    """What the figure of the differences shows."""
    pairs = [(pair, pair.difference) for pair in comparison.pairs if pair.difference is not None]
    return DifferencesData(
        names=[" − ".join(pair.names) for pair, _ in pairs],
        differences=[100 * found.value for _, found in pairs],
        intervals=[_bounds(found.interval) if found.p is not None else None for _, found in pairs],
        judgements=[pair.judgement for pair, _ in pairs],
    )


@styled
def draw_sides(data: SidesData) -> Figure:
    """A row a side: a dot a seed, the mean as a bar across, its 95 % interval as a line."""
    figure = new_figure(7.2, 0.9 + _ROW_IN * len(data.names))
    axes = figure.subplots()
    for row, (accuracies, mean, interval) in enumerate(zip(data.accuracies, data.means, data.intervals, strict=True)):
        if interval is not None:
            axes.plot(interval, [row, row], color=INK, linewidth=1.2)
            axes.plot(interval, [row, row], "|", color=INK, markersize=7)
        axes.plot(accuracies, [row] * len(accuracies), "o", color=BLUE, markersize=5, alpha=0.75)
        axes.plot([mean], [row], "|", color=VERMILLION, markersize=15, markeredgewidth=2)
    axes.set_yticks(range(len(data.names)), data.names)
    axes.set_ylim(len(data.names) - 0.5, -0.5)
    axes.set_xlabel("accuracy (%)")
    axes.grid(visible=True, axis="x")
    return figure


@styled
def draw_differences(data: DifferencesData) -> Figure:
    """A row a pair: the difference with its 95 % interval about zero, in the colour of the verdict."""
    figure = new_figure(7.2, 1.2 + _ROW_IN * len(data.names))
    axes = figure.subplots()
    axes.axvline(0, color=INK, linewidth=1, linestyle=":")
    shown: set[str] = set()
    rows = zip(data.differences, data.intervals, data.judgements, strict=True)
    for row, (value, interval, judgement) in enumerate(rows):
        colour, label = _COLOURS[judgement], _LABELS.get(judgement, judgement)
        if interval is not None:
            axes.plot(interval, [row, row], color=colour)
            axes.plot(interval, [row, row], "|", color=colour, markersize=7)
        axes.plot([value], [row], "o", color=colour, markersize=6, label=None if label in shown else label)
        shown.add(label)
    axes.set_yticks(range(len(data.names)), data.names)
    axes.set_ylim(len(data.names) - 0.5, -0.5)
    axes.set_xlabel("difference of accuracy (percentage points)")
    axes.grid(visible=True, axis="x")
    figure.legend(loc="outside upper center", ncols=len(shown))
    return figure


def comparison_page(comparison: Comparison) -> Page:
    """The whole page."""
    return Page(
        kind="comparison",
        title=" against ".join(_names(comparison, 60)),
        lead=" ".join(f"{' − '.join(pair.names)}: {pair.sentence}." for pair in comparison.pairs[:3]),
        sections=[
            Section("Sides", [*_sides(comparison), *(Text(note, note=True) for note in comparison.notes)]),
            Section("Differences", _differences(comparison)),
            Section("How to read this", _reading(comparison)),
        ],
    )


def write_comparison_report(comparison: Comparison, path: Path) -> None:
    """Write the page. Raises StorageError."""
    write_page(comparison_page(comparison), path)


def _names(comparison: Comparison, longest: int) -> list[str]:
    return short_names(without_shared_folders([side.name for side in comparison.sides]), longest)


def _sides(comparison: Comparison) -> list[Facts | Drawing | Table]:
    columns = [
        "", "side", "seeds", "epochs", "parameters", "epoch kept by", "accuracy %", "sd", "95 % interval", "covers",
        "trained on",
    ]  # fmt: skip
    rows = [
        [
            letter,
            side.name,
            len(side.seeds),
            epochs_text(side.epochs),
            side.parameters,
            side.selection,
            round(100 * side.mean, 2),
            None if side.sd is None else round(100 * side.sd, 2),
            interval_text(side.interval, "%"),
            side.covers,
            side.trained_on,
        ]
        for letter, side in zip(LETTERS, comparison.sides, strict=False)
    ]
    lettered = zip(LETTERS, comparison.sides, strict=False)
    facts = Facts(
        [
            ("Data", comparison.data),
            ("Split", comparison.split),
            ("Images", f"{comparison.images:,}"),
            ("Seeds", ", ".join(f"{letter} {'/'.join(map(str, side.seeds))}" for letter, side in lettered)),
        ]
    )
    caption = "A dot is a run, the upright bar the mean over seeds, the line its 95 % interval."
    return [
        facts,
        Drawing(draw_sides(sides_data(comparison)), caption, wide=True),
        Table(columns, rows, "A single run's interval covers other images, that of several runs other seeds."),
    ]


def _differences(comparison: Comparison) -> list[Drawing | Table | Text]:
    rows: list[list[str | int | float | None]] = []
    for pair in comparison.pairs:
        found = pair.difference
        if found is None:
            continue
        of = dict(intervals_of(found))
        rows.append(
            [
                " − ".join(pair.names),
                round(100 * found.value, 2),
                *(
                    interval_text(of[covered]) if covered in of else None
                    for covered in ("other images", "other seeds", "other seeds and images")
                ),
                found.test,
                found.p,
                pair.adjusted_p,
                pair.judgement,
            ]
        )
    columns = [
        "pair", "points", "other images", "other seeds", "other seeds and images", "test", "p", "p, adjusted",
        "verdict",
    ]  # fmt: skip
    words = [Text(f"{' − '.join(pair.names)}: {pair.sentence}.") for pair in comparison.pairs]
    if not rows:
        return [*words]
    caption = "Percentage points; a line that crosses zero has not decided which is better."
    return [
        Drawing(draw_differences(differences_data(comparison)), caption, wide=True),
        *words,
        Table(columns, rows, "95 % intervals of each difference, by what they vary."),
    ]


def _reading(comparison: Comparison) -> list[Text | Code]:
    return [
        Text(
            "Other images: a bootstrap over the tested images, for these very networks. Other seeds: Student's t over "
            "runs, on these very images. Other seeds and images: both at once, which is what a claim about recipes "
            "needs; the verdict on several seeds rests on it, that on two single runs on McNemar's mid-p test."
        ),
        Text("A difference is called noise where it is smaller than its own standard error."),
        Code(comparison.command),
    ]


def _bounds(interval: Interval) -> tuple[float, float] | None:
    return (100 * interval.low, 100 * interval.high) if math.isfinite(interval.low) else None
