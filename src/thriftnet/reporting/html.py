"""The report of a run as one HTML file that needs nothing else.

Style, figures (SVG) and images (PNG inside the SVG) are in the file; a content security policy in its head forbids any
request. Text is escaped by the template, whoever it comes from.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from thriftnet.evaluation.metrics import Evaluation
from thriftnet.models.summary import Summary
from thriftnet.reporting.figures import inline_svg
from thriftnet.storage import write_atomic

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_VIEWS = {
    "none": "one",
    "flip": "it and its mirror image, averaged",
    "flip_shift": "it and its mirror image, each also shifted by one pixel, averaged",
}
_SELECTION_RULES = {
    "validation": "best validation accuracy",
    "last": "the last epoch",
    "test": "best test accuracy (test-selected)",
}


@dataclass(frozen=True)
class Claim:
    """What the recipe's source printed."""

    accuracy_percent: float
    source: str
    """Where and how it is claimed."""
    not_comparable: str = ""
    """Why no difference is shown, for example other images or fewer epochs; empty where a comparison is fair."""


@dataclass(frozen=True)
class RunFigures:
    """The drawn figures; those absent are left out of the page."""

    loss: Figure | None = None
    accuracy: Figure | None = None
    learning_rate: Figure | None = None
    augmented: Figure | None = None
    confusion: Figure | None = None
    distribution: Figure | None = None
    mistakes: Figure | None = None


_DESCRIPTIONS = {
    "loss": "Loss by epoch",
    "accuracy": "Accuracy by epoch",
    "learning_rate": "Learning rate by step",
    "augmented": "Training images before and after augmentation",
    "confusion": "Confusion matrix",
    "distribution": "Predicted and true images by class",
    "mistakes": "The most confident mistakes",
}


@dataclass(frozen=True)
class RunReport:
    """Everything on the page; accuracies are fractions, None is what does not exist (yet)."""

    recipe: str
    dataset: str
    training_images: int
    validation_images: int
    class_count: int
    parameters: int
    parameter_budget: int
    selection: Literal["validation", "last", "test"]
    selected_epoch: int
    epochs: int
    """Epochs completed."""
    epochs_planned: int
    seed: int
    split_seed: int
    device: str
    precision: str
    elapsed_s: float
    recipe_text: str
    command: str
    version: str
    status: str = "completed"
    summary: str = ""
    paper: str = ""
    train_accuracy: float | None = None
    """Of the selected epoch, as are the next two."""
    validation_accuracy: float | None = None
    test_accuracy: float | None = None
    """Only where training selected on the test set."""
    claim: Claim | None = None
    evaluation: Evaluation | None = None
    evaluated_split: str = "test"
    tta: str = "none"
    layers: Summary | None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    figures: RunFigures = RunFigures()


@dataclass(frozen=True)
class _Result:
    """The number at the head of the page and what must be said with it."""

    value: str
    meaning: str
    test_selected: bool
    interval: str
    notes: tuple[str, ...]
    difference: str


def write_report(content: RunReport, path: Path) -> None:
    """Write the page. Raises StorageError where the file cannot be written; an earlier one is then unchanged."""
    write_atomic(path, render_report(content))


def render_report(content: RunReport) -> str:
    """The page as text."""
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=PackageLoader("thriftnet.reporting", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["percent"] = _percent
    drawn = {name: getattr(content.figures, name) for name in _DESCRIPTIONS}
    return environment.get_template("run.html.j2").render(
        run=content,
        evaluation=content.evaluation,
        tests=content.evaluated_split == "test",
        result=_result(content),
        facts=_facts(content),
        measures=_measures(content.evaluation, content.tta) if content.evaluation is not None else (),
        figures={
            name: None if figure is None else Markup(inline_svg(figure, name, _DESCRIPTIONS[name]))
            for name, figure in drawn.items()
        },
    )


def _result(run: RunReport) -> _Result:
    """The best founded number there is: an evaluation, else what training saw of the test or validation images."""
    notes = []
    interval = ""
    accuracy: float | None
    if run.evaluation is not None:
        split, accuracy = run.evaluated_split, run.evaluation.accuracy
        low, high = run.evaluation.accuracy_interval
        meaning = f"accuracy on {run.evaluation.count:,} {split} images"
        interval = (
            f"95 % interval {_percent(low)} to {_percent(high)} (Wilson): how far other images could move it. "
            "It says nothing of other seeds; this is one run."
        )
    else:
        # Of a run that selects on the test set, no number is free of it, its validation accuracy included.
        split = "test" if run.selection == "test" else "validation"
        accuracy = run.test_accuracy if split == "test" else run.validation_accuracy
        meaning = f"{split} accuracy of epoch {run.selected_epoch}, as training saw it; not evaluated yet"
    if accuracy is None:
        meaning = "not evaluated yet"
    test_selected = accuracy is not None and split == "test" and run.selection == "test"
    if test_selected:
        notes.append(
            "Test-selected: the kept epoch is the one with the best accuracy on these very test images, as the source "
            "did it. The number flatters and is here to reproduce a claim, not to compare methods."
        )
    if accuracy is not None and split == "validation" and run.selection == "validation":
        notes.append("The kept epoch is the one with the best accuracy on these images, so the number flatters.")
    if run.status != "completed":
        how = "Stopped early by the recipe's rule" if run.status == "stopped early" else "Not complete"
        notes.append(f"{how}: {run.epochs} of {run.epochs_planned} epochs.")
    difference = ""
    if accuracy is not None and split == "test" and run.claim is not None:
        points = 100 * accuracy - run.claim.accuracy_percent
        difference = f"Measured minus claimed: {points:+.2f} percentage points, from one run.".replace("-", "−")
    return _Result(_percent(accuracy), meaning, test_selected, interval, tuple(notes), difference)


def _facts(run: RunReport) -> list[tuple[str, str]]:
    kept_out = f"{run.validation_images:,} for validation" if run.validation_images else "none for validation"
    facts = [
        ("Data", f"{run.dataset}, {run.class_count} classes"),
        ("Split", f"{run.training_images:,} images for training, {kept_out} (split seed {run.split_seed})"),
        ("Kept epoch", f"{run.selected_epoch} of {run.epochs}: {_SELECTION_RULES[run.selection]}"),
        ("Epochs", f"{run.epochs} of {run.epochs_planned} planned"),
        ("Seed", str(run.seed)),
        ("Trainable parameters", f"{run.parameters:,} of a budget of {run.parameter_budget:,}"),
        ("Device", run.device),
        ("Precision", run.precision),
        ("Training time", _duration(run.elapsed_s)),
    ]
    if run.train_accuracy is not None:
        facts.append(("Training accuracy of that epoch", _percent(run.train_accuracy)))
    if run.validation_accuracy is not None:
        facts.append(("Validation accuracy of that epoch", _percent(run.validation_accuracy)))
    if run.test_accuracy is not None:
        facts.append(("Test accuracy of that epoch (test-selected)", _percent(run.test_accuracy)))
    return facts


def _measures(evaluation: Evaluation, tta: str) -> list[tuple[str, str]]:
    low, high = evaluation.accuracy_interval
    return [
        ("Accuracy", _percent(evaluation.accuracy)),
        ("95 % interval", f"{_percent(low)} to {_percent(high)}"),
        ("Loss", f"{evaluation.loss:.4f} nats"),
        ("Expected calibration error", _percent(evaluation.expected_calibration_error)),
        ("Images", f"{evaluation.count:,}"),
        ("Views of each image", _VIEWS[tta]),
    ]


def _percent(fraction: float | None) -> str:
    """`91.47 %` with a space that does not break; a dash for what is not defined."""
    return "–" if fraction is None else f"{100 * fraction:.2f}\u00a0%"


def _duration(seconds: float) -> str:
    whole = round(seconds)
    hours, minutes = whole // 3600, whole // 60 % 60
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {whole % 60} s" if minutes else f"{seconds:.1f} s"
