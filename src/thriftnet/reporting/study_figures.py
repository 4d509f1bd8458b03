"""What a study found: its course, all settings side by side, and two keys against each other.

Values of the objective are as the study has them; accuracies are drawn in per cent.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from thriftnet.reporting.figures import (
    BLUE,
    GRID,
    INK,
    MUTED,
    PAGE,
    VERMILLION,
    WHITE,
    WHITE_TEXT,
    new_figure,
    short_name,
    styled,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Setting = Mapping[str, Any]
_MOST_TICKS = 9
_LABEL_SPACE = 0.05
"""Share of an axis that a label needs, so that it can be read beside the next."""


@dataclass(frozen=True)
class HistoryData:
    """Completed trials by number with their value, the best value so far after each, and pruned trials apart."""

    numbers: list[int]
    values: list[float]
    best: list[float]
    pruned_numbers: list[int]
    pruned_values: list[float]
    label: str


def history_data(
    completed: Sequence[tuple[int, float]], pruned: Sequence[tuple[int, float]], label: str, maximize: bool
) -> HistoryData:
    """`completed`, `pruned`: (number, value); of a pruned trial its last value. Sorted by number here."""
    completed, pruned = sorted(completed), sorted(pruned)
    values = [value for _, value in completed]
    accumulate = np.maximum.accumulate if maximize else np.minimum.accumulate
    best = [float(value) for value in accumulate(values)] if values else []
    return HistoryData(
        [number for number, _ in completed],
        values,
        best,
        [number for number, _ in pruned],
        [value for _, value in pruned],
        label,
    )


@styled
def draw_history(data: HistoryData) -> Figure:
    """Each trial a point, the best so far a line."""
    from matplotlib.ticker import MaxNLocator

    figure = new_figure(5.2, 3.2)
    axes = figure.subplots()
    axes.plot(data.numbers, data.values, "o", color=BLUE, markersize=4, label="completed")
    if data.pruned_numbers:
        axes.plot(data.pruned_numbers, data.pruned_values, "x", color=MUTED, markersize=4.5, label="pruned")
    axes.step(data.numbers, data.best, where="post", color=VERMILLION, label="best so far")
    axes.set(xlabel="trial", ylabel=data.label)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
    axes.grid(visible=True)
    figure.legend(loc="outside upper center", ncols=3)
    return figure


@dataclass(frozen=True)
class Column:
    """One upright axis: where on it (0 to 1) each trial lies, and its ticks as (place, label)."""

    name: str
    places: list[float]
    ticks: list[tuple[float, str]]


@dataclass(frozen=True)
class ParallelData:
    """A column for each searched key and last one for the objective; `values` is the objective, one a trial."""

    columns: list[Column]
    values: list[float]
    maximize: bool


def parallel_data(
    settings: Sequence[Setting],
    values: Sequence[float],
    label: str,
    maximize: bool,
    *,
    log_keys: Sequence[str] = (),
    listed_keys: Sequence[str] = (),
) -> ParallelData:
    """From the completed trials. Words, and up to nine values of `listed_keys`, stand evenly: 0.001, 0.01 and 0.1 are
    three choices. `log_keys` are spaced by ratio, and other numbers keep their distances.
    """
    keys = list(settings[0]) if settings else []
    columns = [
        _column(key, [setting[key] for setting in settings], key in log_keys, key in listed_keys) for key in keys
    ]
    columns.append(_column(label, list(values), log=False))
    return ParallelData(columns, list(values), maximize)


def _column(name: str, values: list[Any], log: bool, evenly: bool = False) -> Column:
    distinct = sorted(set(values), key=lambda value: (isinstance(value, str), value))
    if any(isinstance(value, str | bool) for value in values) or (evenly and len(distinct) <= _MOST_TICKS):
        place = {value: at / max(len(distinct) - 1, 1) for at, value in enumerate(distinct)}
        return Column(name, [place[value] for value in values], [(place[value], _mark(value)) for value in distinct])
    scale = math.log10 if log else float
    low, high = (scale(distinct[0]), scale(distinct[-1])) if distinct else (0.0, 1.0)
    span = (high - low) or 1.0

    def at(value: float) -> float:
        return (scale(value) - low) / span

    if len(distinct) <= _MOST_TICKS:
        marks = distinct
    else:
        marks = [float(10**mark if log else mark) for mark in np.linspace(low, high, 5)]
    shown: list[float] = []
    for mark in marks:  # the last always, of others those with room for a label
        if mark == marks[-1] or all(abs(at(mark) - at(other)) > _LABEL_SPACE for other in (*shown, marks[-1])):
            shown.append(mark)
    return Column(name, [at(value) for value in values], [(at(mark), _mark(mark)) for mark in shown])


def _mark(value: Any) -> str:
    return str(value) if isinstance(value, str | bool) else f"{value:.4g}"


@styled
def draw_parallel(data: ParallelData) -> Figure:
    """One line a trial across all columns; the darker, the better, the best in colour and on top."""
    from matplotlib.patheffects import withStroke

    count = len(data.columns)
    figure = new_figure(max(1.45 * count, 4.4), 3.6)
    axes = figure.subplots()
    sign = 1 if data.maximize else -1
    order = sorted(range(len(data.values)), key=lambda trial: (sign * data.values[trial], -trial))
    for rank, trial in enumerate(order):
        best = rank == len(order) - 1
        axes.plot(
            range(count),
            [column.places[trial] for column in data.columns],
            color=VERMILLION if best else BLUE,
            alpha=1.0 if best else 0.12 + 0.6 * rank / max(len(order) - 1, 1),
            linewidth=2.2 if best else 1.1,
        )
    for at, column in enumerate(data.columns):
        axes.axvline(at, color=GRID, linewidth=1, zorder=0)
        for place, label in column.ticks:
            # Above its place, which the lines of the trials go through, and readable where they cross it.
            text = axes.text(at + 0.03, place + 0.01, short_name(label, 12), fontsize=7.5, va="bottom", zorder=3)
            text.set_path_effects([withStroke(linewidth=2.2, foreground=PAGE)])
    axes.set_xticks(range(count), [column.name.replace(".", ".\n", 1) for column in data.columns])
    axes.set_yticks([])
    axes.set_xlim(-0.15, count - 1 + 0.45)
    axes.set_ylim(-0.04, 1.1)
    axes.spines["left"].set_visible(False)
    return figure


@dataclass(frozen=True)
class HeatMapData:
    """`values`: the best objective of each cell, float [rows, columns], NaN where no trial completed."""

    values: np.ndarray
    row_labels: list[str]
    column_labels: list[str]
    row_key: str
    column_key: str
    label: str
    maximize: bool


def heat_map_data(
    settings: Sequence[Setting],
    values: Sequence[float],
    row_key: str,
    column_key: str,
    label: str,
    maximize: bool,
) -> HeatMapData:
    """The completed trials over two of their keys; where other keys vary too, a cell has its best trial."""

    def ordered(key: str) -> list[Any]:
        return sorted({setting[key] for setting in settings}, key=lambda value: (isinstance(value, str), value))

    rows, columns = ordered(row_key), ordered(column_key)
    cells = np.full((len(rows), len(columns)), np.nan)
    better = np.fmax if maximize else np.fmin
    for setting, value in zip(settings, values, strict=True):
        at = rows.index(setting[row_key]), columns.index(setting[column_key])
        cells[at] = better(cells[at], value)
    labels = [
        [f"{value:.4g}" if isinstance(value, float) else str(value) for value in axis] for axis in (rows, columns)
    ]
    return HeatMapData(cells, labels[0], labels[1], row_key, column_key, label, maximize)


@styled
def draw_heat_map(data: HeatMapData) -> Figure:
    """Colour and number by the objective: full is best; a cell without a completed trial has a dash."""
    from matplotlib.colors import ListedColormap, to_rgb

    rows, columns = data.values.shape
    figure = new_figure(max(0.85 * columns + 2.2, 4.0), max(0.55 * rows + 1.2, 2.4))
    axes = figure.subplots()
    # From clear to full, so that it lies on a light page as well as on a dark one.
    opacity = np.linspace(0.05, 1, 256)[:, None]
    colours = ListedColormap(np.hstack([np.tile(to_rgb(BLUE), (256, 1)), opacity]))
    if not data.maximize:
        colours = colours.reversed()
    image = axes.imshow(data.values, cmap=colours, aspect="auto", interpolation="none", origin="lower")
    finite = data.values[np.isfinite(data.values)]
    low, high = (finite.min(), finite.max()) if len(finite) else (0.0, 1.0)
    for row in range(rows):
        for column in range(columns):
            value = data.values[row, column]
            share = (value - low) / (high - low) if high > low else 1.0
            strong = (share if data.maximize else 1 - share) > WHITE_TEXT
            text = f"{value:.2f}" if math.isfinite(value) else "–"
            colour = WHITE if math.isfinite(value) and strong else INK
            axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=8.5)
    axes.set_xticks(range(columns), [short_name(label, 12) for label in data.column_labels])
    axes.set_yticks(range(rows), [short_name(label, 12) for label in data.row_labels])
    axes.set(xlabel=data.column_key, ylabel=data.row_key)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    figure.colorbar(image, ax=axes, label=data.label)
    return figure


@styled
def draw_importance(shares: Mapping[str, float]) -> Figure:
    """A bar a searched key, the most important on top, with its share of the objective's variance (0 to 1)."""
    figure = new_figure(5.2, 0.8 + 0.34 * len(shares))
    axes = figure.subplots()
    keys, values = list(shares), [100 * share for share in shares.values()]
    axes.barh(range(len(keys)), values, height=0.6, color=BLUE)
    for at, value in enumerate(values):
        axes.annotate(f"{value:.0f}", (value, at), (3, 0), textcoords="offset points", va="center", fontsize=8.5)
    axes.set_yticks(range(len(keys)), [short_name(key, 28) for key in keys])
    axes.invert_yaxis()
    axes.set(xlabel="share of the objective's variance (%)", xlim=(0, 1.12 * max(values, default=1.0)))
    axes.tick_params(axis="y", length=0)
    return figure
