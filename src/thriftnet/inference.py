"""What a trained run is used for: measuring it on a split, and predicting unlabelled images."""

from __future__ import annotations

from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from thriftnet import runtime as runtimes
from thriftnet.config import RuntimeConfig
from thriftnet.data.dataset import LabelledImages, Source
from thriftnet.data.open import open_source
from thriftnet.data.prediction_input import read_unlabelled
from thriftnet.data.prepare import prepare
from thriftnet.errors import DataError, Interrupted
from thriftnet.evaluation.metrics import Evaluation, evaluate_logits
from thriftnet.evaluation.predict import Averaging, predict_logits
from thriftnet.evaluation.prediction_file import write_predictions
from thriftnet.run import Run
from thriftnet.training.interruption import watch_signals
from thriftnet.training.run_folder import Which

Split = Literal["test", "validation", "train"]
_VIEWS = {
    "none": "",
    "flip": ", averaged over the image and its mirror image",
    "flip_shift": ", averaged over the image and its mirror image, each also shifted by one pixel",
}


@dataclass(frozen=True)
class Measurement:
    """An evaluation with everything that its numbers depend on."""

    run: Run
    split: Split
    weights: Which
    tta: Averaging
    images: LabelledImages = field(repr=False)
    """The split that was measured, uint8 [N, C, H, W] with labels."""
    logits: Tensor = field(repr=False)
    """float32 [N, K]."""
    evaluation: Evaluation = field(repr=False)
    context: dict[str, Any] = field(repr=False)
    """Data set, selection, epoch, seed, device, precision."""

    @property
    def path(self) -> Path:
        """The JSON file in the run folder; test-time averaging has one of its own."""
        suffix = "" if self.tta == "none" else f"-tta-{self.tta}"
        return self.run.path / f"evaluation-{self.split}{suffix}.json"

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
        label = " (test-selected)" if self.split == "test" and self.context["selection"] == "test-selected" else ""
        lines = [
            f"{self.split} accuracy{label} {measured.accuracy:.2%} (95 % interval {low:.2%} to {high:.2%}, "
            f"{measured.count:,} images{_VIEWS[self.tta]}; one seed)",
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
    run: Run, split: Split = "test", *, data: str | None = None, tta: Averaging = "none", weights: Which = "selected"
) -> Measurement:
    """Measure `run` on a split of its data (or of `data`, where it has moved) and write `evaluation-<split>.json`.

    Opening the test split is logged in the run. Raises DataError for data that does not fit the run, RunFolderError
    for one that is damaged or being trained, Interrupted after a signal.
    """
    with run.folder.only_writer():
        return _measure(run, split, data, tta, weights)


def _measure(run: Run, split: Split, data: str | None, tta: Averaging, weights: Which) -> Measurement:
    network, result = run.network(weights), run.result  # a damaged run shows before the test set is opened
    source = open_source(data or run.data.location, run.data.image_side)
    if source.class_names != run.data.class_names and sorted(source.class_names) == sorted(run.data.class_names):
        raise DataError(f"{source.location} has the run's classes in another order; their labels mean other classes")
    if len(source.class_names) != len(run.data.class_names):
        raise DataError(
            f"{source.location} has {len(source.class_names)} classes, the run {len(run.data.class_names)}; "
            f"evaluate with the data that the run was trained on"
        )
    if split == "test":
        run.folder.log("test set opened", location=source.location, weights=weights, tta=tta)
    images = _split(source, run, split)
    logits, runtime = _logits(run, network, images.images, tta, "no evaluation was written")
    evaluation = evaluate_logits(logits, images.labels, run.data.class_names)
    context = {
        "split": split,
        "recipe": run.recipe.name,
        "data": {"location": source.location, "format": source.format},
        "selection": result["selection"],
        "weights": weights,
        "epoch": result["selected_epoch"] if weights == "selected" else result["epochs"],
        "tta": tta,
        "seed": run.recipe.training.seed,
        "device": str(runtime.device),
        "precision": runtime.precision,
    }
    measurement = Measurement(run, split, weights, tta, images, logits, evaluation, context)
    run.folder.write_json(measurement.path.name, measurement.as_dict())
    run.folder.log("evaluated", split=split, accuracy=evaluation.accuracy, weights=weights, tta=tta)
    return measurement


def predict(
    run: Run,
    images: Path | str,
    *,
    out: Path | str | None = None,
    probabilities: bool = False,
    names: bool = False,
    tta: Averaging = "none",
    weights: Which = "selected",
) -> Predictions:
    """Predict unlabelled images: the course's pickle, a folder of images, Parquet or .npz; see `data.prediction_input`.

    With `out`, a CSV file `ID,Label` in the input's order. Raises DataError for input that cannot be read, Interrupted
    after a signal.
    """
    facts = run.data
    network = run.network(weights)
    unlabelled = read_unlabelled(Path(images), facts.channels, facts.image_side)
    logits, _ = _logits(run, network, unlabelled.images, tta, "no prediction was written")
    chances = logits.softmax(1)
    predictions = Predictions(unlabelled.ids, chances.argmax(1), chances, facts.class_names, unlabelled.notes)
    if out is not None:
        columns = chances if probabilities else None
        write_predictions(Path(out), predictions.ids, predictions.labels, columns, facts.class_names, names)
    return predictions


def _split(source: Source, run: Run, split: Split) -> LabelledImages:
    if split == "test":
        images = source.test()
    else:
        prepared = prepare(source, run.recipe.data, run.recipe.training.selection, run.recipe.training.split_seed)
        if prepared.fingerprint != run.data.fingerprint:
            raise DataError(
                f"{source.location} is not the training data of this run (hash {prepared.fingerprint[:12]}, the run's "
                f"{run.data.fingerprint[:12]}), so its {split} split is another; give --data"
            )
        if split == "validation" and prepared.validation is None:
            raise DataError("this run held out no validation images; use --split test or train")
        images = prepared.train if split == "train" or prepared.validation is None else prepared.validation
    expected = (run.data.channels, run.data.image_side, run.data.image_side)
    if tuple(images.images.shape[1:]) != expected:
        raise DataError(
            f"{source.location} has images of shape {list(images.images.shape[1:])}, "
            f"the run was trained on {list(expected)}"
        )
    return images


def _logits(
    run: Run, network: torch.nn.Module, images: Tensor, tta: Averaging, safe: str
) -> tuple[Tensor, runtimes.Runtime]:
    """Of the network, and where they were computed; `safe` says what a signal meanwhile has left undone."""
    # In fp32 on whatever device is here, not as the run was trained: a run folder gives the same classes everywhere.
    runtime = runtimes.resolve(RuntimeConfig(precision="fp32", kernels="no", threads=run.recipe.runtime.threads))
    with watch_signals() as request:

        def stop_if_asked() -> None:
            if request.signal_number is not None:
                raise Interrupted(f"interrupted; {safe}; give the same command again", request.signal_number)

        logits = predict_logits(
            runtime.place(network),
            images,
            run.data.mean,
            run.data.std,
            device=runtime.device,
            dtype=runtime.autocast_dtype,
            channels_last=runtime.channels_last,
            batch_size=run.recipe.training.evaluation_batch_size,
            tta=tta,
            before_batch=stop_if_asked,
        )
        stop_if_asked()
    return logits, runtime
