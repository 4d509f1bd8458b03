"""The ledger's two pictures: claimed beside measured, and the differences of all directions with their intervals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from thriftnet.reporting.figures import BLUE, GREEN, INK, MUTED, VERMILLION, new_figure, short_name, styled

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_ROW_IN, _MARGIN_IN, _WIDTH_IN = 0.27, 0.8, 8.4
_LONGEST_LABEL = 62

_VERDICT_COLOURS = {"holds": GREEN, "fails": VERMILLION, "not decided": MUTED}


@dataclass(frozen=True)
class ClaimDot:
    """One accuracy, in per cent."""

    name: str
    claimed: tuple[float, ...]
    """The number, or lowest and highest; empty where none is claimed."""
    measured: float
    interval: tuple[float, float] | None
    full: bool
    """Whether the measured training was of full length, width and data."""


@dataclass(frozen=True)
class ForestRow:
    """A - B of one direction, turned so that above zero is what the paper claims."""

    question: str
    difference: float
    interval: tuple[float, float] | None
    claimed: float | None
    """The paper's own difference, turned too."""
    verdict: str


@dataclass(frozen=True)
class ForestData:
    """Rows by unit: differences of different units share no axis."""

    panels: tuple[tuple[str, tuple[ForestRow, ...]], ...]


def forest_data(rows: Sequence[tuple[str, ForestRow]]) -> ForestData:
    """From (unit, row), units in the order of their first row."""
    units = dict.fromkeys(unit for unit, _ in rows)
    return ForestData(tuple((unit, tuple(row for other, row in rows if other == unit)) for unit in units))


@styled
def draw_claims(dots: Sequence[ClaimDot]) -> Figure:
    """A line a claim: the claimed number as a diamond, ours as a circle, hollow where the training was shortened."""
    figure = new_figure(_WIDTH_IN, _ROW_IN * len(dots) + _MARGIN_IN)
    axes = figure.subplots()
    for y, dot in enumerate(dots):
        axes.plot([dot.measured, *dot.claimed], [y] * (1 + len(dot.claimed)), color=MUTED, linewidth=0.8)
        if dot.interval is not None:
            axes.plot(dot.interval, [y, y], color=BLUE, linewidth=3, alpha=0.4)
        axes.plot(dot.claimed, [y] * len(dot.claimed), "-D", color=INK, markersize=4.5, linewidth=1.6)
        axes.plot(dot.measured, y, "o", color=BLUE, markersize=6, markerfacecolor=BLUE if dot.full else "none")
    axes.plot([], [], "-D", color=INK, markersize=4.5, linewidth=1.6, label="claimed")
    axes.plot([], [], "o", color=BLUE, label="measured, full length")
    axes.plot([], [], "o", color=BLUE, markerfacecolor="none", label="measured, scaled or twin")
    _name_rows(axes, [dot.name for dot in dots])
    axes.set_xlabel("accuracy (%)")
    figure.legend(loc="outside upper center", ncols=3)
    return figure


@styled
def draw_forest(data: ForestData) -> Figure:
    """A line a direction with its 95 % interval over seeds; right of zero is what the paper claims."""
    counts = [len(rows) for _, rows in data.panels]
    figure = new_figure(_WIDTH_IN, _ROW_IN * sum(counts) + _MARGIN_IN * len(counts))
    panels = figure.subplots(len(counts), 1, squeeze=False, height_ratios=[count + 1 for count in counts])[:, 0]
    for axes, (unit, rows) in zip(panels, data.panels, strict=True):
        axes.axvline(0, color=INK, linewidth=1)
        for y, row in enumerate(rows):
            colour = _VERDICT_COLOURS[row.verdict]
            if row.interval is not None:
                axes.plot(row.interval, [y, y], color=colour)
            axes.plot(row.difference, y, "o", color=colour, markersize=5)
            if row.claimed is not None:
                axes.plot(row.claimed, y, "D", color=INK, markersize=4, markerfacecolor="none")
        _name_rows(axes, [row.question for row in rows])
        axes.set_xlabel(f"difference in the claimed sense ({unit})")
    for name, colour in _VERDICT_COLOURS.items():
        panels[0].plot([], [], "o", color=colour, label=name)
    panels[0].plot([], [], "D", color=INK, markersize=4, markerfacecolor="none", label="claimed")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=4)
    return figure


def _name_rows(axes: object, names: Sequence[str]) -> None:
    from matplotlib.axes import Axes

    assert isinstance(axes, Axes)
    axes.set_yticks(range(len(names)), [short_name(name, _LONGEST_LABEL) for name in names])
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.grid(visible=True, axis="x")
