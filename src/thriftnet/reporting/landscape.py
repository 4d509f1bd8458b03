"""The loss around solutions, drawn: contours on one colour scale, lines over each other, and the page of both."""

from __future__ import annotations

import math
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from thriftnet.reporting.figures import BLUE, GREEN, INK, MUTED, VERMILLION, new_figure, short_names, styled
from thriftnet.reporting.page import Code, Drawing, Facts, Page, Section, Table, Text
from thriftnet.run_landscape import Landscape

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_COLOURS = (BLUE, VERMILLION, GREEN, INK, MUTED)
_DASHES = ("-", "--", ":")
_PANELS_A_ROW = 3
_LEVELS = 17
_TIMES_CHANCE = 4
"""Losses above this many times that of guessing (ln K) are drawn as that: what lies there does not matter."""


@dataclass(frozen=True)
class ContourData:
    """Losses [G, G] around each solution, finite, above 0 and at most `levels[-1]`, and the levels that all share."""

    labels: tuple[str, ...]
    coefficients: np.ndarray
    losses: tuple[np.ndarray, ...]
    levels: np.ndarray


def contour_data(
    labels: Sequence[str], coefficients: np.ndarray, grids: Sequence[np.ndarray], classes: int
) -> ContourData:
    """Levels equally spaced in the logarithm, from the lowest loss of all grids to the highest that matters."""
    bounded = [_bounded(grid, classes) for grid in grids]
    low = min(float(grid.min()) for grid in bounded)
    high = max(max(float(grid.max()) for grid in bounded), low * 1.01)
    return ContourData(tuple(labels), coefficients, tuple(bounded), np.geomspace(low, high, _LEVELS))


@styled
def draw_contours(data: ContourData) -> Figure:
    """A panel for each run; the solution is the cross."""
    from matplotlib.colors import LogNorm
    from matplotlib.ticker import LogLocator

    columns = min(len(data.labels), _PANELS_A_ROW)
    rows = -(-len(data.labels) // columns)
    figure = new_figure(3.4 * columns + 0.9, 3.3 * rows)
    figure.set_layout_engine("compressed")  # each drawing anew shifts square axes under "constrained", out of the page
    panels = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True).flatten()
    norm = LogNorm(data.levels[0], data.levels[-1])
    for axes, label, losses in zip(panels, short_names(data.labels), data.losses, strict=False):
        x, y = np.meshgrid(data.coefficients, data.coefficients, indexing="ij")
        filled = axes.contourf(x, y, losses, levels=data.levels, norm=norm, cmap="viridis_r")
        axes.contour(x, y, losses, levels=data.levels, norm=norm, colors=INK, linewidths=0.3)
        axes.plot(0, 0, "+", color=VERMILLION, markersize=9, markeredgewidth=1.6)
        axes.set(title=label, xlabel="first direction", aspect="equal")
    for axes in panels[::columns]:
        axes.set_ylabel("second direction")
    for axes in panels[len(data.labels) :]:
        axes.set_visible(False)
    bar = figure.colorbar(filled, ax=list(panels), label="cross-entropy (nats)", ticks=LogLocator(subs=(1, 2, 5)))
    bar.ax.yaxis.set_major_formatter("{x:.3g}")
    bar.ax.minorticks_off()
    return figure


@dataclass(frozen=True)
class LinesData:
    """Losses [lines, P] along each run's directions, finite and bounded as those of the contours are."""

    labels: tuple[str, ...]
    coefficients: np.ndarray
    losses: tuple[np.ndarray, ...]


def lines_data(labels: Sequence[str], coefficients: np.ndarray, lines: Sequence[np.ndarray], classes: int) -> LinesData:
    """From the losses of each run, [lines, P]."""
    return LinesData(tuple(labels), coefficients, tuple(_bounded(values, classes) for values in lines))


@styled
def draw_lines(data: LinesData) -> Figure:
    """A thin curve for each direction, a thick one for their mean; each run in its colour."""
    figure = new_figure(5.6, 3.6)
    axes = figure.subplots()
    for number, (label, losses) in enumerate(zip(short_names(data.labels), data.losses, strict=True)):
        colour, dash = _COLOURS[number % len(_COLOURS)], _DASHES[number // len(_COLOURS) % len(_DASHES)]
        if len(losses) > 1:
            axes.plot(data.coefficients, losses.T, dash, color=colour, linewidth=0.6, alpha=0.55)
        axes.plot(data.coefficients, losses.mean(0), dash, color=colour, linewidth=2, label=label)
    axes.set(xlabel="distance, in norms of each filter", ylabel="cross-entropy (nats)")
    axes.grid(visible=True)
    figure.legend(loc="outside upper center", ncols=min(len(data.labels), 4))
    return figure


@styled
def draw_between(fractions: np.ndarray, losses: np.ndarray, labels: tuple[str, str], classes: int) -> Figure:
    """The loss on the straight line from one run to the other; the dotted line is the loss of guessing."""
    figure = new_figure(5.6, 3.2)
    axes = figure.subplots()
    axes.plot(fractions, _bounded(losses, classes), color=BLUE, marker="o", markersize=3)
    axes.axhline(math.log(classes), color=MUTED, linewidth=1, linestyle=":")
    first, second = short_names(labels)
    axes.set(xlabel=f"from {first} (0) to {second} (1)", ylabel="cross-entropy (nats)")
    axes.set_ylim(bottom=0)
    axes.grid(visible=True)
    return figure


def landscape_figures(landscape: Landscape) -> dict[str, Figure]:
    """By file name: contours, lines and, of two runs, between."""
    settings, labels = landscape.settings, [around.label for around in landscape.runs]
    classes = len(landscape.runs[0].run.data.class_names)
    grids, lines = [around.grid for around in landscape.runs], [around.lines for around in landscape.runs]
    figures = {
        "contours": draw_contours(contour_data(labels, settings.grid_coefficients, grids, classes)),
        "lines": draw_lines(lines_data(labels, settings.line_coefficients, lines, classes)),
    }
    if landscape.between is not None:
        figures["between"] = draw_between(settings.fractions, landscape.between, (labels[0], labels[1]), classes)
    return figures


def landscape_page(landscape: Landscape, figures: dict[str, Figure]) -> Page:
    """The page of a landscape with the drawings of `landscape_figures`."""
    settings, context = landscape.settings, landscape.context
    labels = [around.label for around in landscape.runs]
    facts = [around.facts() for around in landscape.runs]
    images = f"{context['images_measured']:,} {settings.split} images of {context['data']['location']}"
    opened = [Text("The test split was opened for this, which the runs' events record.", note=True)]
    sharpness = Section(
        "Sharpness",
        [
            Table(
                ["run", "recipe", "seed", "selection", "epoch", "loss at the solution", "adaptive sharpness"],
                [
                    [f["label"], f["recipe"], f["seed"], f["selection"], f["epoch"], f["loss"],
                     f["adaptive_sharpness"]["rise"]]
                    for f in facts
                ],
                f"Losses in nats on {images}.",
            ),
            Text(
                f"Adaptive sharpness is how much the loss rises at most when the filters are moved by {settings.rho:g} "
                f"in all, each measured in its own norm (arXiv 2102.11600, definition 2, filter-wise, 2-norm). It was "
                f"sought in {settings.ascent_steps} steps, so it is a lower bound. Like the figures it does not change "
                f"when filters are rescaled before a BatchNorm, which the Hessian's eigenvalues do."
            ),
            Text(
                "One run each describes these runs. Whether a method finds flatter minima needs several seeds, and "
                "whether flatter ones generalise better is disputed (arXiv 2302.07011).",
                note=True,
            ),
            *(opened if settings.split == "test" else []),
        ],
    )  # fmt: skip
    statistics = (
        "BatchNorm uses the running statistics stored with the weights. They were gathered at the solution and fit "
        "less and less away from it, so part of the rise is theirs; --batchnorm re-estimated takes that away."
        if settings.batchnorm == "stored"
        else "BatchNorm's statistics are estimated on the same images at every point."
    )
    around = Section(
        "Around each solution",
        [
            Drawing(
                figures["contours"],
                f"Loss over two filter-normalised directions (arXiv 1712.09913), the same draws for every run, up to "
                f"{settings.span:g} norms of each filter; one colour scale, logarithmic. Losses above "
                f"{_TIMES_CHANCE} times that of guessing are drawn as that.",
                wide=True,
            ),
            Drawing(
                figures["lines"],
                f"Loss along {settings.lines} directions (thin) and their mean (thick). Biases and BatchNorm's "
                f"parameters stay where they are.",
            ),
            Text(statistics),
        ],
    )
    sections = [sharpness, around]
    if "between" in figures:
        caption = (
            "Loss on the straight line between the two solutions (arXiv 1412.6544), BatchNorm's statistics estimated "
            "at every point. Dotted: the loss of guessing. A hill says that the two are not in one basin."
        )
        sections.append(Section("Between the two", [Drawing(figures["between"], caption)]))
    sections.append(Section("How it was measured", [_how(landscape), Code(_command(landscape))]))
    return Page("a loss landscape", " · ".join(labels), landscape.finding(), sections)


def _how(landscape: Landscape) -> Facts:
    settings, context = landscape.settings, landscape.context
    environment = context["environment"]
    return Facts(
        [
            ("Images", f"{context['images_measured']:,} of {settings.split}, not augmented"),
            ("Data", context["data"]["location"]),
            ("Parameters", f"{landscape.runs[0].facts()['parameters']:,}"),
            ("Device", f"{environment['device_name']} ({context['device']}, {environment['threads']} threads)"),
            ("Precision", context["precision"]),
            ("Seed of the directions", str(settings.seed)),
            ("Time", f"{context['elapsed_s']:.0f} s"),
            ("PyTorch", environment["packages"]["torch"]),
        ]
    )


def _command(landscape: Landscape) -> str:
    settings = landscape.settings
    options = {
        "--data": landscape.context["data"]["location"],
        "--split": settings.split,
        "--images": settings.images,
        "--grid": settings.grid_points,
        "--lines": settings.lines,
        "--span": settings.span,
        "--rho": settings.rho,
        "--steps": settings.ascent_steps,
        "--batchnorm": settings.batchnorm,
        "--seed": settings.seed,
    }
    words = ["thriftnet", "landscape", *(str(around.run.path) for around in landscape.runs)]
    return shlex.join([*words, *(str(part) for option in options.items() for part in option)])


def _bounded(losses: np.ndarray, classes: int) -> np.ndarray:
    top = _TIMES_CHANCE * math.log(classes)
    return np.clip(np.nan_to_num(losses, nan=top, posinf=top), 1e-6, top)
