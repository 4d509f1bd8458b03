"""What changed during training: loss, accuracy, learning rate."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from thriftnet.reporting.figures import BLUE, GREEN, INK, VERMILLION, new_figure, styled

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Measure = Literal["loss", "accuracy"]

_COLOURS = {"train": BLUE, "validation": VERMILLION, "test": GREEN}
_DASHES = {"train": "-", "validation": "-", "test": "--"}
_LABELS = {"train": "train", "validation": "validation", "test": "test (test-selected)"}
_AXIS_LABELS = {"loss": "cross-entropy (nats)", "accuracy": "accuracy (%)"}
_ROUND: dict[str, Any] = {"integer": True, "steps": [1, 2, 5, 10]}
_FEW_EPOCHS = 40
_LR_BUCKETS = 1000


@dataclass(frozen=True)
class CurvesData:
    """For each measure and split (`train`, `validation`, `test`), the epochs that have a finite value, and the values.

    The loss is in nats, the accuracy in per cent.
    """

    loss: Mapping[str, tuple[list[int], list[float]]]
    accuracy: Mapping[str, tuple[list[int], list[float]]]
    selected_epoch: int


def curves_data(history: Sequence[Mapping[str, Any]], selected_epoch: int) -> CurvesData:
    """From the rows of metrics.csv: `epoch`, and `<split>_loss`, `<split>_accuracy` (a fraction) or None.

    A test column is there only if training selected on the test set, so its curve is labelled test-selected.
    """

    def series(measure: Measure, factor: float) -> dict[str, tuple[list[int], list[float]]]:
        found = {}
        for split in _COLOURS:
            column = [(row["epoch"], row.get(f"{split}_{measure}")) for row in history]
            points = [(epoch, value * factor) for epoch, value in column if value is not None and math.isfinite(value)]
            if points:
                found[split] = ([epoch for epoch, _ in points], [value for _, value in points])
        return found

    return CurvesData(series("loss", 1.0), series("accuracy", 100.0), selected_epoch)


@styled
def draw_curves(data: CurvesData, measures: Sequence[Measure] = ("loss", "accuracy")) -> Figure:
    """One panel a measure, side by side; the selected epoch is marked."""
    figure = new_figure(5.2 * len(measures), 3.5)
    panels = figure.subplots(1, len(measures), squeeze=False)[0]
    for axes, measure in zip(panels, measures, strict=True):
        _draw_panel(axes, data, measure)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=len(labels))
    return figure


def _draw_panel(axes: Axes, data: CurvesData, measure: Measure) -> None:
    from matplotlib.ticker import MaxNLocator

    for split, (epochs, values) in getattr(data, measure).items():
        marker = "o" if len(epochs) <= _FEW_EPOCHS else None
        axes.plot(
            epochs, values, _DASHES[split], color=_COLOURS[split], marker=marker, markersize=3, label=_LABELS[split]
        )
        if data.selected_epoch in epochs:
            at = epochs.index(data.selected_epoch)
            axes.plot(epochs[at], values[at], "o", color=_COLOURS[split], markersize=6)
    axes.axvline(data.selected_epoch, color=INK, linewidth=1, linestyle=":", label=f"epoch {data.selected_epoch}, kept")
    axes.set(xlabel="epoch", ylabel=_AXIS_LABELS[measure])
    axes.xaxis.set_major_locator(MaxNLocator(**_ROUND, min_n_ticks=1))
    axes.grid(visible=True)


@dataclass(frozen=True)
class LearningRateData:
    """The rate at some of the steps, enough to show every swing."""

    steps: np.ndarray
    rates: np.ndarray
    steps_per_epoch: int


def learning_rate_data(rates: Sequence[float], steps_per_epoch: int) -> LearningRateData:
    """Thin out `rates`, one a step from step 0: of each stretch of steps keep the first, lowest, highest and last.

    So 30,000 steps make a small figure in which no peak is missing.
    """
    values = np.asarray(rates, dtype=float)
    kept: set[int] = set()
    for stretch in np.array_split(np.arange(len(values)), min(_LR_BUCKETS, max(len(values), 1))):
        if len(stretch):
            inside = values[stretch]
            kept |= {int(stretch[i]) for i in (0, inside.argmin(), inside.argmax(), -1)}
    steps = np.array(sorted(kept), dtype=int)
    return LearningRateData(steps, values[steps], steps_per_epoch)


@styled
def draw_learning_rate(data: LearningRateData) -> Figure:
    """The rate over steps, with epochs along the top."""
    from matplotlib.ticker import MaxNLocator

    figure = new_figure(5.2, 3.0)
    axes = figure.subplots()
    axes.plot(data.steps, data.rates, color=BLUE, linewidth=1.2)
    axes.set(xlabel="step", ylabel="learning rate")
    axes.set_ylim(bottom=0)
    axes.set_xlim(0, data.steps[-1] + 1)
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, **_ROUND))
    axes.grid(visible=True)
    per_epoch = data.steps_per_epoch
    top = axes.secondary_xaxis(
        "top", functions=(lambda x: np.divide(x, per_epoch), lambda x: np.multiply(x, per_epoch))
    )
    top.set_xlabel("epoch")
    top.xaxis.set_major_locator(MaxNLocator(**_ROUND))
    return figure
