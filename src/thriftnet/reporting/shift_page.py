"""A shift measurement as one page, and its figures in the run folder."""

from __future__ import annotations

import shlex
from pathlib import Path

from thriftnet.evaluation.accuracy_estimates import NAMES
from thriftnet.evaluation.corruptions import EXTRA, SEVERITIES
from thriftnet.reporting.figures import encoded
from thriftnet.reporting.page import Cell, Code, Drawing, Facts, Page, Section, Table, Text, write_page
from thriftnet.reporting.shift_figures import (
    draw_foretold,
    draw_heat_map,
    draw_severity_curves,
    foretold_data,
    heat_map_data,
    severity_curves_data,
)
from thriftnet.shift import ShiftMeasurement
from thriftnet.training.run_folder import RunFolder

FROST = (
    "Frost is drawn, not cut from the original's photographs, so its row cannot be compared with published ones. "
    "The corruption error is the mean error itself; published ones are often divided by AlexNet's."
)


def draw_shift_figures(measurement: ShiftMeasurement) -> None:
    """The heat map and the curves over severity as PNG and SVG into the run's `figures/`. Raises StorageError."""
    stem, folder = measurement.path.stem, RunFolder(measurement.path.parent)
    figures = {
        stem: draw_heat_map(heat_map_data(measurement)),
        f"{stem}-severity": draw_severity_curves(severity_curves_data(measurement)),
    }
    for name, figure in figures.items():
        for ending in (".png", ".svg"):
            path = Path("figures") / f"{name}{ending}"
            folder.write_bytes(path.as_posix(), encoded(figure, path))


def write_shift_page(measurement: ShiftMeasurement, path: Path) -> None:
    """Write the page. Raises StorageError."""
    write_page(shift_page(measurement), path)


def shift_page(measurement: ShiftMeasurement) -> Page:
    """From the stored measurement alone."""
    context, mean = measurement.stored.context, measurement.mean
    run = context["runs"][0]
    label = " (test-selected)" if context["split"] == "test" and context["test_selected"] else ""
    lead = (
        f"{context['split'].capitalize()} accuracy{label} falls from {measurement.clean.accuracy:.2%} on clean images "
        f"to {mean('accuracy'):.2%} on shifted ones, the mean of CIFAR-10-C's corruptions at five severities."
    )
    return Page("shift", f"{run['recipe']} on shifted data", lead, [
        Section("Measured", [_facts(measurement), Text(FROST, note=True), *_left_out(measurement)]),
        Section("Accuracy by corruption and severity", [
            Drawing(draw_heat_map(heat_map_data(measurement)), "Accuracy in per cent; the darker, the more is lost."),
            Drawing(
                draw_severity_curves(severity_curves_data(measurement)),
                "Mean accuracy over the corruptions of each group, by severity.",
            ),
            _conditions(measurement),
        ]),
        Section("What would have foretold the fall", [
            Text(
                "Three estimates of accuracy need no labels, only the network's confidence. They were fitted on "
                f"{context['estimates_from']} and then given the shifted images."
            ),
            Drawing(
                draw_foretold(foretold_data(measurement)),
                "One point a corruption, severity and estimate; above the line the estimate is too hopeful.",
            ),
            Table(
                ("estimate", "mean error", "largest error"),
                [(text, f"{measurement.estimate_error(name):.2%}", _largest(measurement, name))
                 for name, text in NAMES.items()],
                "Absolute difference from the measured accuracy, over all conditions.",
            ),
        ]),
        Section("Repeat it", [Code(_command(measurement))]),
    ])  # fmt: skip


def _facts(measurement: ShiftMeasurement) -> Facts:
    context, clean, mean = measurement.stored.context, measurement.clean, measurement.mean
    size = f"{context['images']:,}"
    if context["images"] != context["split_images"]:
        size += f" of {context['split_images']:,}, stratified"
    return Facts([
        ("images", size),
        ("data", context["data"]["location"]),
        ("split", context["split"]),
        ("runs", ", ".join(f"{run['recipe']} seed {run['seed']}" for run in context["runs"])),
        ("prediction", context["how"] or "plain"),
        ("device", f"{context['device']}, {context['precision']}"),
        ("mean corruption error, not normalised", f"{measurement.mean_corruption_error:.2%}"),
        ("calibration error", f"{clean.calibration_error:.2%} clean, {mean('calibration_error'):.2%} shifted"),
        ("loss (nats)", f"{clean.loss:.4f} clean, {mean('loss'):.4f} shifted"),
    ])  # fmt: skip


def _left_out(measurement: ShiftMeasurement) -> list[Text]:
    return [Text(f"{name} is left out: it {why}.", note=True) for name, why in measurement.stored.left_out.items()]


def _conditions(measurement: ShiftMeasurement) -> Table:
    mean = measurement.mean
    rows: list[list[Cell]] = [
        [
            name.replace("_", " ") + (" (extra)" if name in EXTRA else ""),
            *(round(100 * mean("accuracy", [name], [level]), 2) for level in SEVERITIES),
            round(100 * mean("accuracy", [name]), 2),
            round(mean("loss", [name]), 4),
            round(100 * mean("calibration_error", [name]), 2),
        ]
        for name in measurement.corruptions
    ]
    columns = ("corruption", *(f"severity {level}" for level in SEVERITIES), "mean", "loss", "calibration error")
    return Table(columns, rows, "Accuracy and calibration error in per cent, loss in nats; the last three are means.")


def _largest(measurement: ShiftMeasurement, name: str) -> str:
    worst = max(measurement.conditions, key=lambda c: abs(c.estimated[name] - c.compared_accuracy))
    difference = abs(worst.estimated[name] - worst.compared_accuracy)
    return f"{difference:.2%} ({worst.corruption.replace('_', ' ')} {worst.severity})"


def _command(measurement: ShiftMeasurement) -> str:
    context = measurement.stored.context
    parts = ["thriftnet", "evaluate", *(run["path"] for run in context["runs"]), "--shift", "--split", context["split"]]
    if context["images"] != context["split_images"]:
        parts += ["--shift-images", str(context["images"])]
    parts += ["--tta", context["tta"]] if context["tta"] != "none" else []
    parts += ["--weights", context["weights"]] if context["weights"] != "selected" else []
    parts += ["--calibrated"] if context["temperatures"] else []
    parts += ["--adapt-batchnorm"] if context["adapt_batchnorm"] else []
    return shlex.join(parts)
