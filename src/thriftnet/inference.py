"""What a trained run is used for: measuring it on a split, and predicting unlabelled images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

from torch import Tensor

from thriftnet.data.dataset import LabelledImages, Source
from thriftnet.data.prediction_input import read_unlabelled
from thriftnet.data.statistics import fingerprint
from thriftnet.errors import DataError, UserError
from thriftnet.evaluation.calibration import HIGHEST, LOWEST, fit_temperature
from thriftnet.evaluation.metrics import Evaluation, evaluate_logits
from thriftnet.evaluation.per_image import PerImageResults
from thriftnet.evaluation.predict import Averaging
from thriftnet.evaluation.prediction_file import write_predictions
from thriftnet.predictor import TEMPERATURE_FILE, Predictor, Temperature, weights_hash
from thriftnet.run import Run
from thriftnet.run_data import Split, meet
from thriftnet.training.run_folder import Which


@dataclass(frozen=True)
class Measurement:
    """An evaluation with everything that its numbers depend on."""

    predictor: Predictor
    split: Split
    images: LabelledImages = field(repr=False)
    """The split that was measured, uint8 [N, C, H, W] with labels."""
    logits: Tensor = field(repr=False)
    """float32 [N, K]."""
    evaluation: Evaluation = field(repr=False)
    context: dict[str, Any] = field(repr=False)
    """Data set, selection, epoch, seed, device, precision."""
    data_label: str = ""
    """Which data, for names of files; empty for the run's own."""

    @property
    def run(self) -> Run:
        """The run; of several the first."""
        return self.predictor.runs[0]

    @property
    def path(self) -> Path:
        """The JSON file in the run folder: the plain name is that of the kept weights on the run's own data."""
        parts = ("evaluation", self.split, self.predictor.variant, self.data_label)
        return self.run.path / f"{'-'.join(filter(None, parts))}.json"

    def as_dict(self) -> dict[str, Any]:
        return {**self.context, **self.evaluation.as_dict()}

    def _repr_html_(self) -> str:
        """What a notebook shows: the numbers, the confusion matrix and the most confident mistakes."""
        suffix = self.path.stem.removeprefix("evaluation-")
        figures = self.run.figures_html(f"confusion-{suffix}", f"mistakes-{suffix}")
        return f"<pre>{escape(self.summary())}</pre>{figures}"

    def summary(self) -> str:
        """A few lines for a person."""
        measured = self.evaluation
        low, high = measured.accuracy_interval
        selected = any(run["selection"] == "test-selected" for run in self.context["runs"])
        label = " (test-selected)" if self.split == "test" and selected else ""
        if self.context["reduced"]:
            label += f" (reduced: {self.context['reduced']})"
        how = f", {self.predictor.description}" if self.predictor.description else ""
        where = "" if self.context["data"]["own"] else f" of {self.context['data']['location']}"
        seeds = ", ".join(str(run["seed"]) for run in self.context["runs"])
        seeds = f"seeds {seeds}" if len(self.context["runs"]) > 1 else "one seed"
        lines = [
            f"{self.split} accuracy{where}{label} {measured.accuracy:.2%} (95 % interval {low:.2%} to {high:.2%}, "
            f"{measured.count:,} images{how}; {seeds})",
            f"loss {measured.loss:.4f} nats, expected calibration error {measured.expected_calibration_error:.2%}",
            f"{'class':<16} {'precision':>9} {'recall':>9} {'F1':>9} {'images':>7} {'predicted':>9}",
        ]
        for score in measured.classes:
            figures = [
                f"{value:.2%}" if value is not None else "-" for value in (score.precision, score.recall, score.f1)
            ]
            lines.append(
                f"{score.name[:16]:<16} {figures[0]:>9} {figures[1]:>9} {figures[2]:>9} "
                f"{score.support:>7} {score.predicted:>9}"
            )
        lines += [f"note: {note}" for note in self.context["data"].get("notes", ())]
        return "\n".join(lines)


@dataclass(frozen=True)
class Predictions:
    """Predicted classes of unlabelled images."""

    ids: tuple[int | str, ...] = field(repr=False)
    labels: Tensor = field(repr=False)
    """int64 [N]."""
    probabilities: Tensor = field(repr=False)
    """float32 [N, K]."""
    class_names: tuple[str, ...]
    notes: tuple[str, ...]
    """What was found out about the input's layout."""

    def summary(self, rows: int = 10) -> str:
        """The first predictions as a table."""
        lines = [f"{'ID':<24} {'class':<16} {'probability':>11}"]
        for name, label, chances in list(zip(self.ids, self.labels.tolist(), self.probabilities, strict=True))[:rows]:
            lines.append(f"{name!s:<24} {self.class_names[label][:16]:<16} {float(chances[label]):>11.2%}")
        more = len(self.ids) - rows
        return "\n".join(lines + ([f"and {more:,} more"] if more > 0 else []))

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        return f"<pre>{escape(self.summary())}</pre>"


def measure(
    run: Run | Sequence[Run],
    split: Split = "test",
    *,
    data: str | Source | None = None,
    tta: Averaging = "none",
    weights: Which = "selected",
    calibrated: bool = False,
    adapt_batchnorm: bool = False,
    batch_size: int | None = None,
) -> Measurement:
    """Measure a run on a split of its data and write `evaluation-<split>.json`.

    `data`: where the data has moved to, or the data itself, already open. What the network said of each image goes into
    a safetensors file of the same name; see `evaluation.per_image`. Of several runs the mean of the class probabilities
    is measured, and written into the first one's folder. Opening the test split is logged in each. Raises DataError for
    data that does not fit the runs, RunFolderError for one that is damaged or being trained, Interrupted after a
    signal, OutOfMemoryError where `batch_size` images at once (None: the recipe's training.evaluation_batch_size) are
    too many.
    """
    predictor = Predictor(as_runs(run), weights, tta, calibrated, adapt_batchnorm, batch_size)
    with predictor.runs[0].folder.only_writer():
        return _measure(predictor, split, data)


def _measure(predictor: Predictor, split: Split, data: str | Source | None) -> Measurement:
    first, weights, tta = predictor.runs[0], predictor.weights, predictor.tta
    _ = predictor.networks  # a damaged run shows before the test set is opened
    result = first.result
    met = meet(predictor.runs, data)
    images = met.images(split, weights=weights, tta=tta)
    logits = predictor.logits(images.images)
    evaluation = evaluate_logits(logits, images.labels, first.data.class_names)
    context = {
        "split": split,
        "recipe": first.recipe.name,
        "reduced": first.recipe.reduced,
        "data": met.as_dict(),
        "selection": result["selection"],
        "epoch": result["selected_epoch"] if weights == "selected" else result["epochs"],
        "seed": first.recipe.training.seed,
        **predictor.as_dict(),
    }
    measurement = Measurement(predictor, split, images, logits, evaluation, context, met.label(images))
    # Before the JSON, so that where there is a number there is also what it was counted from.
    results = _per_image(measurement, met.source.location)
    first.folder.write_bytes(measurement.path.with_suffix(".safetensors").name, results.encoded())
    first.folder.write_json(measurement.path.name, measurement.as_dict())
    first.folder.log("evaluated", split=split, accuracy=evaluation.accuracy, weights=weights, tta=tta)
    return measurement


def predict(
    run: Run | Sequence[Run],
    images: Path | str,
    *,
    out: Path | str | None = None,
    probabilities: bool = False,
    names: bool = False,
    tta: Averaging = "none",
    weights: Which = "selected",
    calibrated: bool = False,
    adapt_batchnorm: bool = False,
    batch_size: int | None = None,
) -> Predictions:
    """Predict unlabelled images: a pickle, a folder, Parquet, .npz or a file of CIFAR; see `data.prediction_input`.

    Of several runs the class probabilities are averaged. With `out`, a CSV file `ID,Label` in the input's order.
    Raises DataError for input that cannot be read, Interrupted after a signal, OutOfMemoryError as `measure` does.
    """
    predictor = Predictor(as_runs(run), weights, tta, calibrated, adapt_batchnorm, batch_size)
    facts, _ = predictor.runs[0].data, predictor.networks
    unlabelled = read_unlabelled(Path(images), facts.channels, facts.image_side)
    chances = predictor.logits(unlabelled.images, unlabelled.ids.__getitem__).softmax(1)
    predictions = Predictions(unlabelled.ids, chances.argmax(1), chances, facts.class_names, unlabelled.notes)
    if out is not None:
        columns = chances if probabilities else None
        write_predictions(Path(out), predictions.ids, predictions.labels, columns, facts.class_names, names)
    return predictions


def _per_image(measurement: Measurement, location: str) -> PerImageResults:
    labels, chances = measurement.images.labels, measurement.logits.softmax(1)
    return PerImageResults(
        labels=labels,
        predicted=measurement.logits.argmax(1),
        true_class_probability=chances.gather(1, labels[:, None])[:, 0],
        location=location,
        images_sha256=fingerprint(measurement.images),
        weights_sha256=measurement.run.folder.weights_sha256(measurement.predictor.weights),
    )


def as_runs(run: Run | Sequence[Run]) -> tuple[Run, ...]:
    """One run or several as a tuple. Raises UserError for none."""
    runs = (run,) if isinstance(run, Run) else tuple(run)
    if not runs:
        raise UserError("give at least one run folder")
    return runs


def calibrate(run: Run, *, data: str | None = None) -> Temperature:
    """Fit the temperature of a run on its validation images and write `temperature.json`.

    Where no temperature is the best it stays 1, and `note` says why. The test split stays closed. Raises DataError
    where the run held out no validation images or the data is not its.
    """
    if run.data.validation_images == 0:
        raise DataError(
            f"{run.path} held out no validation images, and a temperature is never fitted on the test set; "
            "train with --protocol honest or data.validation_images above 0"
        )
    predictor = Predictor((run,))
    images = meet((run,), data).images("validation")
    logits = predictor.logits(images.images)
    best = fit_temperature(logits, images.labels)
    temperature = 1.0 if best is None else best
    before, after = (evaluate_logits(z, images.labels, run.data.class_names) for z in (logits, logits / temperature))
    fitted = Temperature(
        temperature=temperature,
        weights="selected",
        weights_hash=weights_hash(run, "selected"),
        validation_images=len(images),
        loss_before=before.loss,
        loss_after=after.loss,
        calibration_error_before=before.expected_calibration_error,
        calibration_error_after=after.expected_calibration_error,
        note="" if best is not None else _no_best_temperature(before),
    )
    run.folder.write_json(TEMPERATURE_FILE, fitted.model_dump())
    return fitted


def _no_best_temperature(measured: Evaluation) -> str:
    if measured.accuracy == 1:
        return f"all {measured.count:,} validation images are right, so the loss falls as long as the temperature does"
    return f"the loss is least at no temperature within {LOWEST:g} to {HIGHEST:g}"
