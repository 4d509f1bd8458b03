"""The report of a run as one HTML file that needs nothing else: its sections, and what is said with each number."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from thriftnet.evaluation.metrics import Evaluation
from thriftnet.fonts import NUMBERED
from thriftnet.models.summary import Summary
from thriftnet.reporting.confusion import GRID_CLASSES, ConfusedImages, Confusion
from thriftnet.reporting.page import (
    Block,
    Code,
    Drawing,
    Facts,
    Heading,
    Headline,
    Page,
    Section,
    Side,
    Sides,
    SmallDrawings,
    Table,
    Text,
    render_page,
)
from thriftnet.reporting.shift_page import run_section
from thriftnet.shift import ShiftMeasurement, StoredRemedies
from thriftnet.storage import write_atomic

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_VIEWS = {
    "none": "one",
    "flip": "it and its mirror image, averaged",
    "flip_shift": "it and its mirror image, each also shifted by one pixel, averaged",
}
TEST_SELECTED = "test-selected"
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
    """Of more classes than a matrix of numbers can show."""
    distribution: Figure | None = None
    mistakes: Figure | None = None
    numbered: bool = False
    """Whether some classes are shown by number, which the captions then say."""
    shift: Figure | None = None
    """Accuracy by corruption and severity."""
    foretold: Figure | None = None
    """Accuracy estimated without labels, against measured."""


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
    status: str = "completed"
    summary: str = ""
    paper: str = ""
    train_accuracy: float | None = None
    """Of the selected epoch, as are the next two."""
    validation_accuracy: float | None = None
    test_accuracy: float | None = None
    calibration: tuple[tuple[str, str], ...] = ()
    """What `calibrate` found: label and value of each fact."""
    """Only where training selected on the test set."""
    claim: Claim | None = None
    evaluation: Evaluation | None = None
    evaluated_split: str = "test"
    tta: str = "none"
    confused: ConfusedImages | None = None
    """What the cells of the confusion matrix open."""
    shift: ShiftMeasurement | None = None
    remedies: StoredRemedies | None = None
    layers: Summary | None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    figures: RunFigures = RunFigures()


@dataclass(frozen=True)
class _Result:
    """The number at the head of the page and what must be said with it."""

    value: str
    meaning: str
    badge: str
    interval: str
    notes: tuple[str, ...]
    difference: str


def write_report(content: RunReport, path: Path) -> None:
    """Write the page. Raises StorageError where the file cannot be written; an earlier one is then unchanged."""
    write_atomic(path, render_report(content))


def render_report(content: RunReport) -> str:
    """The page as text."""
    return render_page(run_page(content))


def run_page(run: RunReport) -> Page:
    """The page as its parts."""
    result = _result(run)
    head: list[Block] = [Text(f"After {run.paper}", muted=True)] if run.paper else []
    head.append(Headline(result.value, result.meaning, result.badge))
    if result.interval:
        head.append(Text(result.interval, muted=True))
    head += [Text(note, note=True) for note in result.notes]
    head.append(Facts(_facts(run)))
    sections = [_claim_section(run.claim, result)] if run.claim is not None else []
    sections += [_training_section(run), _evaluation_section(run)]
    if run.figures.mistakes is not None:
        caption = "In colour what the network took the image for, and how confidently; below it the label"
        sections.append(
            Section(
                "Most confident mistakes",
                [
                    Drawing(
                        run.figures.mistakes, _with_names(run, caption), wide=True, alt="The most confident mistakes"
                    )
                ],
            )
        )
    if run.shift is not None:
        sections.append(run_section(run.shift, run.remedies, run.figures.shift, run.figures.foretold))
    if run.layers is not None:
        sections.append(_network_section(run.layers))
    sections.append(Section("Resolved recipe", [Code(run.recipe_text)]))
    if run.environment:
        sections.append(Section("Environment", [Facts(list(run.environment.items()))]))
    sections.append(Section("Repeat it", [Code(run.command)]))
    return Page("report of one run", f"{run.recipe}, seed {run.seed}", run.summary, sections, head)


def _claim_section(claim: Claim, result: _Result) -> Section:
    claimed = f"{claim.accuracy_percent:.2f}\u00a0%"
    source = claim.source or "accuracy on the test images"
    blocks: list[Block] = [
        Sides(
            [
                Side("Claimed by the source, not measured here", claimed, source, claimed=True),
                Side("Measured here", result.value, result.meaning, badge=result.badge),
            ]
        )
    ]
    if claim.not_comparable:
        blocks.append(Text(f"Not comparable: {claim.not_comparable}", note=True))
    elif result.difference:
        blocks.append(Text(result.difference))
    return Section("Claimed and measured", blocks)


def _training_section(run: RunReport) -> Section:
    figures = run.figures
    loss = (
        "Loss by epoch. Training values are means over the epoch while the weights change, on the images as the "
        "network was shown them."
    )
    accuracy = "Accuracy by epoch. The dotted line marks the epoch whose weights were kept."
    curves = [
        Drawing(figure, caption)
        for figure, caption in ((figures.loss, loss), (figures.accuracy, accuracy))
        if figure is not None
    ]
    blocks: list[Block] = [SmallDrawings(curves)] if curves else []
    if not curves and run.epochs == 0:
        blocks.append(Text("No epoch has been completed yet.", muted=True))
    if figures.learning_rate is not None:
        blocks.append(Drawing(figures.learning_rate, "Learning rate by step."))
    if figures.augmented is not None:
        caption = _with_names(run, "Training images as they are stored and as augmentation changed them")
        blocks += [Heading("What the network is shown"), Drawing(figures.augmented, caption, wide=True)]
    return Section("Training", blocks)


def _evaluation_section(run: RunReport) -> Section:
    evaluation = run.evaluation
    if evaluation is None:
        sealed = "" if run.selection == "test" else " Until then the test images are sealed."
        return Section("Evaluation", [Text(f"Not evaluated yet; thriftnet evaluate does it.{sealed}", muted=True)])
    rows = [
        (row.name, _percent(row.precision), _percent(row.recall), _percent(row.f1), row.support, row.predicted)
        for row in evaluation.classes
    ]
    by_class = Table(("Class", "Precision", "Recall", "F1", "Images", "Predicted"), rows)
    undefined = (
        "A dash stands for a ratio that is not defined: precision of a class never predicted, recall of a class "
        "without images."
    )
    blocks: list[Block] = [
        Facts(_measures(evaluation, run.tta)),
        Heading("By class"),
        by_class,
        Text(undefined, muted=True),
        Heading("Confusion matrix"),
        *_confusion_blocks(run, evaluation),
    ]
    if run.figures.distribution is not None:
        caption = _with_names(run, "How often each class is predicted, and how many images it has")
        blocks += [Heading("Predicted classes"), Drawing(run.figures.distribution, caption)]
    badge = TEST_SELECTED if run.evaluated_split == "test" and run.selection == "test" else ""
    return Section(f"Evaluation on the {run.evaluated_split} images", blocks, badge)


def _confusion_blocks(run: RunReport, evaluation: Evaluation) -> list[Block]:
    images, figure = run.confused, run.figures.confusion
    caption = "Rows are true classes, columns predicted ones; colour is the share of the true class"
    opens = "" if images is None else " A number opens its images."
    matrix = Confusion(evaluation.class_names, evaluation.confusion, images)
    if len(evaluation.class_names) <= GRID_CLASSES:
        keys = " Arrow keys walk, Enter opens, Escape closes." if opens else ""
        return [Text(f"{caption}, numbers are images, an empty cell is none.{opens}{keys}", muted=True), matrix]
    blocks: list[Block] = (
        [] if figure is None else [Drawing(figure, _with_names(run, caption), wide=True, alt="Confusion matrix")]
    )
    too_many = f"Too many classes to number every cell; these are the mistakes made most often.{opens}"
    return [*blocks, Text(too_many, muted=True), matrix]


def _with_names(run: RunReport, caption: str) -> str:
    """The caption of a figure that names classes; tables have the names themselves."""
    return f"{caption}; {NUMBERED}." if run.figures.numbered else f"{caption}."


def _network_section(layers: Summary) -> Section:
    rows = [
        (row.name, row.path, " × ".join(map(str, row.output_shape)).replace("-", "−"), row.parameters, row.macs)
        for row in layers.layers
    ]
    table = Table(
        ("Layer", "Module", "Output shape", "Parameters", "Multiply-adds"),
        rows,
        totals=("Total", "", "", layers.total_parameters, layers.macs),
    )
    sizes = (
        f"For one image; −1 stands for the batch. Parameters take {layers.parameters_mb:.2f} MB in fp32, activations "
        f"and their gradients {layers.forward_backward_mb:.2f} MB."
    )
    return Section("Network", [table, Text(sizes, muted=True)])


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
    return _Result(
        _percent(accuracy), meaning, TEST_SELECTED if test_selected else "", interval, tuple(notes), difference
    )


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
    return [*facts, *run.calibration]


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
