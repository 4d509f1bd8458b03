"""Accuracy under shift: a heat map, curves over severity, and what was foretold against what was measured."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from thriftnet.evaluation.accuracy_estimates import NAMES
from thriftnet.evaluation.corruptions import BENCHMARK, EXTRA, SEVERITIES
from thriftnet.reporting.figures import BLUE, GREEN, GRID, INK, MUTED, VERMILLION, WHITE, new_figure, styled
from thriftnet.shift import ShiftMeasurement

if TYPE_CHECKING:
    from matplotlib.figure import Figure

GROUPS = {
    "noise": ("gaussian_noise", "shot_noise", "impulse_noise"),
    "blur": ("defocus_blur", "glass_blur", "motion_blur", "zoom_blur"),
    "weather": ("snow", "frost", "fog", "brightness"),
    "digital": ("contrast", "elastic_transform", "pixelate", "jpeg_compression"),
}
"""As the paper groups its fifteen (arXiv 1903.12261, section 3)."""
_LINES = dict(zip(GROUPS, ((BLUE, "-"), (VERMILLION, "-"), (GREEN, "-"), (MUTED, "-")), strict=True))
_MARKS = dict(zip(NAMES, ((BLUE, "o"), (VERMILLION, "s"), (GREEN, "^")), strict=True))


@dataclass(frozen=True)
class HeatMapData:
    """Accuracies in per cent, float [rows, 5 severities]; the row of each corruption, extra ones named so."""

    names: tuple[str, ...]
    accuracy: np.ndarray
    clean: float


def heat_map_data(measurement: ShiftMeasurement) -> HeatMapData:
    names = measurement.corruptions
    values = [[100 * measurement.mean("accuracy", [name], [level]) for level in SEVERITIES] for name in names]
    shown = tuple(name.replace("_", " ") + (" (extra)" if name in EXTRA else "") for name in names)
    return HeatMapData(shown, np.array(values), 100 * measurement.clean.accuracy)


@styled
def draw_heat_map(data: HeatMapData) -> Figure:
    """Colour by what is lost against the clean images; accuracies in per cent in the cells."""
    from matplotlib.colors import ListedColormap, to_rgb

    rows, columns = data.accuracy.shape
    figure = new_figure(5.2, 0.9 + 0.27 * rows)
    axes = figure.subplots()
    lost = np.clip(data.clean - data.accuracy, 0, None)
    # From clear to full, so that it lies on a light page as well as on a dark one.
    opacity = np.linspace(0, 1, 256)[:, None]
    colours = ListedColormap(np.hstack([np.tile(to_rgb(VERMILLION), (256, 1)), opacity]))
    most = max(float(lost.max()), 1.0)
    axes.imshow(lost, cmap=colours, vmin=0, vmax=most, aspect="auto", interpolation="none")
    for (row, column), accuracy in np.ndenumerate(data.accuracy):
        colour = WHITE if lost[row, column] > 0.9 * most else INK
        axes.text(column, row, f"{accuracy:.1f}", ha="center", va="center", fontsize=8, color=colour)
    axes.set_xticks(range(columns), [str(level) for level in SEVERITIES])
    axes.set_yticks(range(rows), data.names)
    axes.set(xlabel=f"severity; accuracy in per cent, {data.clean:.1f} on clean images")
    axes.tick_params(length=0)
    return figure


@dataclass(frozen=True)
class SeverityCurvesData:
    """Mean accuracy in per cent at severity 0 (clean) to 5: of each group that was measured, and of the benchmark."""

    groups: dict[str, list[float]]
    benchmark: list[float]


def severity_curves_data(measurement: ShiftMeasurement) -> SeverityCurvesData:
    def curve(names: tuple[str, ...]) -> list[float]:
        shifted = [100 * measurement.mean("accuracy", names, [level]) for level in SEVERITIES]
        return [100 * measurement.clean.accuracy, *shifted]

    return SeverityCurvesData({group: curve(names) for group, names in GROUPS.items()}, curve(BENCHMARK))


@styled
def draw_severity_curves(data: SeverityCurvesData) -> Figure:
    figure = new_figure(5.2, 3.4)
    axes = figure.subplots()
    for group, values in data.groups.items():
        colour, dashes = _LINES[group]
        axes.plot(range(6), values, dashes, color=colour, marker="o", markersize=3, label=group)
    axes.plot(range(6), data.benchmark, "--", color=INK, label="mean of fifteen")
    axes.set(xlabel="severity (0: clean)", ylabel="accuracy (%)")
    axes.grid(visible=True)
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=len(labels))
    return figure


@dataclass(frozen=True)
class ForetoldData:
    """Measured accuracies in per cent, one a condition, and each estimate's of the same."""

    measured: list[float]
    estimated: dict[str, list[float]]


def foretold_data(measurement: ShiftMeasurement) -> ForetoldData:
    conditions = measurement.conditions
    return ForetoldData(
        [100 * condition.compared_accuracy for condition in conditions],
        {name: [100 * condition.estimated[name] for condition in conditions] for name in NAMES},
    )


@styled
def draw_foretold(data: ForetoldData) -> Figure:
    """One point a condition and estimate; on the diagonal an estimate is right, above it too hopeful."""
    figure = new_figure(6.2, 4.4)
    axes = figure.subplots()
    everything = [*data.measured, *(value for values in data.estimated.values() for value in values)]
    ends = (min(everything), max(everything))
    axes.plot(ends, ends, color=GRID, zorder=0)
    for name, values in data.estimated.items():
        colour, marker = _MARKS[name]
        axes.plot(data.measured, values, marker, color=colour, markersize=3.5, alpha=0.7, label=NAMES[name])
    axes.set(xlabel="measured accuracy (%)", ylabel="estimated without labels (%)")
    axes.grid(visible=True)
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=len(labels))
    return figure
