"""A shift measurement as one page, and its figures in the run folder."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

from thriftnet.evaluation.accuracy_estimates import NAMES
from thriftnet.evaluation.corruptions import EXTRA, SEVERITIES
from thriftnet.reporting.figures import encoded
from thriftnet.reporting.page import (
    Block,
    Cell,
    Code,
    Drawing,
    Facts,
    Heading,
    Page,
    Section,
    Table,
    Text,
    write_page,
)
from thriftnet.reporting.shift_figures import (
    draw_foretold,
    draw_heat_map,
    draw_severity_curves,
    foretold_data,
    heat_map_data,
    severity_curves_data,
)
from thriftnet.shift import ShiftMeasurement, StoredRemedies
from thriftnet.training.run_folder import RunFolder

if TYPE_CHECKING:
    from matplotlib.figure import Figure

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
    run = measurement.stored.context["runs"][0]
    return Page("shift", f"{run['recipe']} on shifted data", _lead(measurement), [
        Section("Measured", [_facts(measurement), Text(FROST, note=True), *_left_out(measurement)]),
        Section("Accuracy by corruption and severity", [
            Drawing(
                draw_heat_map(heat_map_data(measurement)),
                "Accuracy in per cent; the stronger the colour, the more is lost.",
            ),
            Drawing(
                draw_severity_curves(severity_curves_data(measurement)),
                "Mean accuracy over the corruptions of each group, by severity.",
            ),
            _conditions(measurement),
        ]),
        Section("What would have foretold the fall", _foretold(measurement, draw_foretold(foretold_data(measurement)))),
        Section("Repeat it", [Code(_command(measurement))]),
    ])  # fmt: skip


def run_section(
    measurement: ShiftMeasurement, remedies: StoredRemedies | None, heat_map: Figure | None, foretold: Figure | None
) -> Section:
    """What a run's own page says of it; a figure that is None is left out."""
    context = measurement.stored.context
    test_selected = context["split"] == "test" and context["test_selected"]
    blocks: list[Block] = [Text(_lead(measurement)), _facts(measurement)]
    if heat_map is not None:
        caption = "Accuracy in per cent by corruption and severity; the stronger the colour, the more is lost."
        blocks.append(Drawing(heat_map, caption, alt="Accuracy by corruption and severity"))
    blocks += [_by_corruption(measurement), Text(FROST, note=True), *_left_out(measurement)]
    blocks += [Heading("What would have foretold the fall"), *_foretold(measurement, foretold)]
    if remedies is not None:
        blocks += [Heading("What raises it again"), *_remedies(remedies)]
    blocks += [Heading("Measure it again"), Code(_command(measurement))]
    return Section("Shifted data", blocks, "test-selected" if test_selected else "")


def _lead(measurement: ShiftMeasurement) -> str:
    context = measurement.stored.context
    label = " (test-selected)" if context["split"] == "test" and context["test_selected"] else ""
    return (
        f"{context['split'].capitalize()} accuracy{label} falls from {measurement.clean.accuracy:.2%} on clean images "
        f"to {measurement.mean('accuracy'):.2%} on shifted ones, the mean of CIFAR-10-C's corruptions at five "
        "severities."
    )


def _foretold(measurement: ShiftMeasurement, figure: Figure | None) -> list[Block]:
    """Every estimate beside what is true."""
    blocks: list[Block] = [
        Text(
            "Three estimates of accuracy need no labels, only the network's confidence. They were fitted on "
            f"{measurement.stored.context['estimates_from']} and then given the shifted images."
        )
    ]
    if figure is not None:
        caption = "One point a corruption, severity and estimate; above the line the estimate is too hopeful."
        blocks.append(Drawing(figure, caption, wide=True, alt="Estimated against measured accuracy"))
    true = measurement.mean("compared_accuracy")
    rows: list[list[Cell]] = [
        [
            text,
            f"{measurement.estimated(name):.2%}",
            f"{true:.2%}",
            _points(measurement.estimated(name) - true),
            f"{measurement.estimate_error(name):.2%}",
            _largest(measurement, name),
        ]
        for name, text in NAMES.items()
    ]
    columns = ("estimate", "foretold", "measured", "points", "mean error", "largest error")
    caption = (
        "Foretold and measured: mean accuracy of the benchmark's corruptions on the images that no estimate was fitted "
        "on, and their difference in percentage points. Errors: absolute difference, over all conditions."
    )
    return [*blocks, Table(columns, rows, caption)]


def _by_corruption(measurement: ShiftMeasurement) -> Table:
    """Of a run's page, where the heat map shows the severities."""
    mean, clean = measurement.mean, measurement.clean
    rows: list[list[Cell]] = [
        ["clean", f"{clean.accuracy:.2%}", None, f"{clean.loss:.4f}", f"{clean.calibration_error:.2%}"]
    ]
    rows += [
        [
            _shown(name),
            f"{mean('accuracy', [name]):.2%}",
            _points(mean("accuracy", [name]) - clean.accuracy),
            f"{mean('loss', [name]):.4f}",
            f"{mean('calibration_error', [name]):.2%}",
        ]
        for name in measurement.corruptions
    ]
    columns = ("corruption", "accuracy", "points", "loss", "calibration error")
    return Table(columns, rows, "Means of five severities; points: difference from clean, in percentage points.")


def _points(difference: float) -> str:
    """Percentage points with their sign."""
    return f"{100 * difference:+.2f}".replace("-", "−")


def _remedies(stored: StoredRemedies) -> list[Block]:
    context, plain = stored.context, stored.remedies[0]
    rows: list[list[Cell]] = [
        [
            row.name,
            f"{row.clean_accuracy:.2%}",
            f"{row.shifted_accuracy:.2%}",
            _points(row.shifted_accuracy - plain.shifted_accuracy),
            f"{row.shifted_loss:.4f}",
            f"{row.shifted_calibration_error:.2%}",
        ]
        for row in stored.remedies
    ]
    columns = ("remedy", "clean", "shifted", "points gained", "loss", "calibration error")
    caption = (
        f"On {_size(context)} {context['split']} images, each remedy alone; shifted, loss and calibration error: mean "
        "of the benchmark's corruptions at five severities."
    )
    return [Table(columns, rows, caption), *(Text(note, muted=True) for note in stored.notes)]


def _facts(measurement: ShiftMeasurement) -> Facts:
    context, clean, mean = measurement.stored.context, measurement.clean, measurement.mean
    return Facts([
        ("images", _size(context)),
        ("data", context["data"]["location"]),
        ("split", context["split"]),
        ("runs", ", ".join(f"{run['recipe']} seed {run['seed']}" for run in context["runs"])),
        ("prediction", context["how"] or "plain"),
        *([("weights", "of the last epoch")] if context["weights"] == "last" else []),
        ("device", f"{context['device']}, {context['precision']}"),
        ("mean corruption error, not normalised", f"{measurement.mean_corruption_error:.2%}"),
        ("calibration error", f"{clean.calibration_error:.2%} clean, {mean('calibration_error'):.2%} shifted"),
        ("loss (nats)", f"{clean.loss:.4f} clean, {mean('loss'):.4f} shifted"),
    ])  # fmt: skip


def _size(context: dict[str, Any]) -> str:
    """`10,000`, or `1,000 of 10,000, stratified`."""
    all_of_them = context["images"] == context["split_images"]
    return f"{context['images']:,}" + ("" if all_of_them else f" of {context['split_images']:,}, stratified")


def _shown(name: str) -> str:
    return name.replace("_", " ") + (" (extra)" if name in EXTRA else "")


def _left_out(measurement: ShiftMeasurement) -> list[Text]:
    return [Text(f"{name} is left out: it {why}.", note=True) for name, why in measurement.stored.left_out.items()]


def _conditions(measurement: ShiftMeasurement) -> Table:
    mean = measurement.mean
    rows: list[list[Cell]] = [
        [
            _shown(name),
            *(f"{100 * mean('accuracy', [name], [level]):.2f}" for level in SEVERITIES),
            f"{100 * mean('accuracy', [name]):.2f}",
            f"{mean('loss', [name]):.4f}",
            f"{100 * mean('calibration_error', [name]):.2f}",
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
    parts += ["--data", context["data"]["location"]]
    if context["images"] != context["split_images"]:
        parts += ["--shift-images", str(context["images"])]
    parts += ["--tta", context["tta"]] if context["tta"] != "none" else []
    parts += ["--weights", context["weights"]] if context["weights"] != "selected" else []
    parts += ["--calibrated"] if context["temperatures"] else []
    parts += ["--adapt-batchnorm"] if context["adapt_batchnorm"] else []
    parts += ["--batch-size", str(context["batch_size"])] if "batch_size" in context else []
    return shlex.join(parts)
