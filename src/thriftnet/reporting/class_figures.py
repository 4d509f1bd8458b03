"""Which classes are predicted, and for which.

Shapes: K classes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from thriftnet.evaluation.metrics import Evaluation
from thriftnet.fonts import numbered
from thriftnet.reporting.figures import BLUE, GRID, INK, MUTED, VERMILLION, WHITE, new_figure, short_name, styled

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MOST_NUMBERED = 25
_MOST_NAMED = 130
_MOST_BARS = 120
_BARS_A_COLUMN = 34


@dataclass(frozen=True)
class ConfusionData:
    """`counts`: int [K, K], the row is the true class; `shares`: the same, each row divided by its sum (0 if empty)."""

    counts: np.ndarray
    shares: np.ndarray
    class_names: tuple[str, ...]


def confusion_data(evaluation: Evaluation) -> ConfusionData:
    counts = np.array(evaluation.confusion)
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    return ConfusionData(counts, shares, numbered(evaluation.class_names))


@styled
def draw_confusion(data: ConfusionData) -> Figure:
    """Colour by share of the true class; counts in the cells up to 25 classes, an empty cell is 0."""
    from matplotlib.colors import ListedColormap, PowerNorm, to_rgb
    from matplotlib.textpath import TextPath
    from matplotlib.ticker import MaxNLocator

    classes = len(data.class_names)
    side_in = min(max(3.6, 0.42 * classes), 10.5)
    names = [short_name(name) for name in data.class_names] if classes <= _MOST_NAMED else []
    names_pt = min(9.0, 0.8 * 72 * side_in / classes)
    names_in = max([TextPath((0, 0), name, size=names_pt).get_extents().width / 72 for name in names], default=0.3)
    # Placed by hand: the constrained layout does not find room for long names beside square axes.
    left_in, below_in, right_in, above_in = names_in + 0.5, names_in + 0.5, 1.05, 0.12
    width_in, height_in = left_in + side_in + right_in, below_in + side_in + above_in
    figure = new_figure(width_in, height_in, make_room=False)
    axes = figure.add_axes((left_in / width_in, below_in / height_in, side_in / width_in, side_in / height_in))
    # From clear to full, so that it lies on a light page as well as on a dark one. The square root brings out the rare
    # confusions, which are what one looks for.
    opacity = np.linspace(0, 1, 256)[:, None]
    blues = ListedColormap(np.hstack([np.tile(to_rgb(BLUE), (256, 1)), opacity]))
    norm = PowerNorm(0.5, vmin=0, vmax=1)
    axes.imshow(data.shares, cmap=blues, norm=norm, interpolation="none")
    bar = axes.inset_axes((1 + 0.12 / side_in, 0.0, 0.16 / side_in, 1.0))
    bar.imshow(opacity**2, cmap=blues, norm=norm, aspect="auto", origin="lower", extent=(0, 1, 0, 1))
    ticks = (0, 0.01, 0.05, 0.1, 0.25, 0.5, 1)
    bar.set_xticks([])
    bar.set_yticks([math.sqrt(tick) for tick in ticks], [f"{tick:.0%}" for tick in ticks], fontsize=8)
    bar.yaxis.tick_right()
    bar.yaxis.set_label_position("right")
    bar.set_ylabel("share of the true class")
    for frame in (axes, bar):
        frame.spines[:].set_visible(True)

    if names:
        axes.set_xticks(range(classes), names, rotation=90, fontsize=names_pt)
        axes.set_yticks(range(classes), names, fontsize=names_pt)
    else:
        numbers = [k for k in MaxNLocator(integer=True).tick_values(0, classes - 1) if 0 <= k < classes]
        axes.set_xticks(numbers)
        axes.set_yticks(numbers)
    axes.set_xlabel("predicted class")
    axes.set_ylabel("true class")
    if classes <= _MOST_NUMBERED:
        _write_counts(figure, data, side_in)
    else:
        # Lines to find a cell's row and column by; they would be clutter among numbers.
        axes.set_xticks(np.arange(9.5, classes - 1, 10), minor=True)
        axes.set_yticks(np.arange(9.5, classes - 1, 10), minor=True)
        axes.grid(visible=True, which="minor", linewidth=0.4)
        axes.tick_params(which="minor", length=0)
    return figure


def _write_counts(figure: Figure, data: ConfusionData, side_in: float) -> None:
    cell_pt = 72 * side_in / len(data.class_names)
    longest = len(f"{data.counts.max()}")
    size = min(8.5, 1.3 * cell_pt / longest, 0.6 * cell_pt)
    for (row, column), count in np.ndenumerate(data.counts):
        if count:
            colour = WHITE if data.shares[row, column] > 0.6 else INK
            figure.axes[0].text(column, row, str(count), ha="center", va="center", color=colour, fontsize=size)


@dataclass(frozen=True)
class DistributionData:
    """Predictions a class, and images a class where the truth is known. `hidden` classes are left out of the figure."""

    class_names: tuple[str, ...]
    predicted: tuple[int, ...]
    true: tuple[int, ...] | None
    hidden: int


def distribution_data(
    class_names: Sequence[str], predicted: Sequence[int], true: Sequence[int] | None
) -> DistributionData:
    """`predicted` and `true`: counts, one a class.

    Of more than 120 classes those are kept, in their order, whose two counts differ most, or are predicted most.
    """
    if len(class_names) != len(predicted) or (true is not None and len(true) != len(predicted)):
        raise ValueError(f"{len(class_names)} class names do not fit {len(predicted)} counts")
    names, counts = numbered(class_names), np.array(predicted)
    weight = counts if true is None else np.abs(counts - np.array(true))
    kept = sorted(np.argsort(-weight, kind="stable")[:_MOST_BARS].tolist())
    return DistributionData(
        tuple(names[k] for k in kept),
        tuple(int(predicted[k]) for k in kept),
        None if true is None else tuple(int(true[k]) for k in kept),
        hidden=len(class_names) - len(kept),
    )


@styled
def draw_distribution(data: DistributionData) -> Figure:
    """A bar a class for the predictions; a line across it where the true count is."""
    from matplotlib.ticker import MaxNLocator

    classes = len(data.class_names)
    columns = math.ceil(classes / _BARS_A_COLUMN)
    rows = math.ceil(classes / columns)
    figure = new_figure(5.2 if columns == 1 else 3.2 * columns, 0.2 * rows + 1.1)
    panels = figure.subplots(1, columns, squeeze=False, sharex=True)[0]
    for column, axes in enumerate(panels):
        part = slice(column * rows, (column + 1) * rows)
        names = [short_name(name, 18) for name in data.class_names[part]]
        places = np.arange(len(names))
        axes.barh(places, data.predicted[part], height=0.72, color=BLUE, label="predicted")
        if data.true is not None:
            true = data.true[part]
            axes.vlines(true, places - 0.46, places + 0.46, color=VERMILLION, linewidth=2.2, label="true")
        axes.set_yticks(places, names, fontsize=8.5 if classes <= _BARS_A_COLUMN else 7.5)
        axes.set_ylim(rows - 0.4, -0.6)
        axes.tick_params(axis="y", length=0)
        axes.xaxis.set_major_locator(MaxNLocator(nbins=5, integer=True))
        axes.xaxis.set_major_formatter("{x:,.0f}")
        axes.set_xlabel("images")
        axes.grid(visible=True, axis="x", color=GRID)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=2)
    if data.hidden:
        figure.supxlabel(f"{data.hidden} further classes are not shown", fontsize=8, color=MUTED)
    return figure
