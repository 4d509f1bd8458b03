"""How a run does on shifted data: nineteen corruptions at five severities, what foretells the fall, what lessens it."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from shlex import quote
from statistics import fmean
from typing import Any, TypeVar

import pydantic
import torch
from torch import Tensor

from thriftnet.data.dataset import LabelledImages
from thriftnet.data.splits import stratified_subset
from thriftnet.errors import DataError, RunFolderError, UserError
from thriftnet.evaluation.accuracy_estimates import NAMES, AccuracyEstimator, fit_estimator
from thriftnet.evaluation.corruptions import BENCHMARK, CORRUPTIONS, EXTRA, SEVERITIES, corrupt, unsuitable
from thriftnet.evaluation.metrics import evaluate_logits
from thriftnet.evaluation.predict import Averaging
from thriftnet.inference import as_runs
from thriftnet.predictor import TEMPERATURE_FILE, Predictor, read_calibration, weights_hash
from thriftnet.run import Run
from thriftnet.run_data import RunData, Split, meet
from thriftnet.training.run_folder import Which

SUBSET_SEED = 0
Say = Callable[[str], None]
M = TypeVar("M", bound=pydantic.BaseModel)


class Condition(pydantic.BaseModel):
    """One corruption at one severity (0: the clean images)."""

    model_config = pydantic.ConfigDict(frozen=True)

    corruption: str
    severity: int
    accuracy: float
    loss: float
    """Mean cross-entropy in nats."""
    calibration_error: float
    """Expected calibration error, 15 bins."""
    estimated: dict[str, float]
    """Accuracy estimated without labels, by each of `accuracy_estimates.NAMES`."""
    compared_accuracy: float
    """Measured on the images that were estimated for: all, or those that no estimate was fitted on."""


class Stored(pydantic.BaseModel):
    """shift-<split>.json. Written after every corruption; `context` says what its numbers depend on."""

    model_config = pydantic.ConfigDict(frozen=True)

    context: dict[str, Any]
    complete: bool
    clean: Condition
    conditions: tuple[Condition, ...]
    left_out: dict[str, str]
    """Corruption -> why these images cannot have it."""


@dataclass(frozen=True)
class ShiftMeasurement:
    """A split measured clean and under every corruption."""

    path: Path
    """The JSON file in the run folder (of several runs, the first one's)."""
    stored: Stored

    @property
    def clean(self) -> Condition:
        return self.stored.clean

    @property
    def conditions(self) -> tuple[Condition, ...]:
        return self.stored.conditions

    @property
    def corruptions(self) -> tuple[str, ...]:
        """Those that were measured, in the benchmark's order."""
        return tuple(dict.fromkeys(condition.corruption for condition in self.conditions))

    def mean(self, what: str, corruptions: Iterable[str] = BENCHMARK, severities: Iterable[int] = SEVERITIES) -> float:
        """Mean of `accuracy`, `loss` or `calibration_error` over corruptions and severities, each counting the same."""
        return fmean(getattr(c, what) for c in self._of(corruptions, severities))

    @property
    def mean_corruption_error(self) -> float:
        """Mean error over the fifteen corruptions of the benchmark and five severities, not divided by AlexNet's."""
        return 1 - self.mean("accuracy")

    def estimate_error(self, name: str) -> float:
        """Mean absolute difference of one estimate and the measured accuracy, over all conditions."""
        return fmean(abs(c.estimated[name] - c.compared_accuracy) for c in self.conditions)

    def estimated(self, name: str) -> float:
        """What one estimate foretold, mean over the benchmark; held against `mean("compared_accuracy")`."""
        return fmean(c.estimated[name] for c in self._of(BENCHMARK, SEVERITIES))

    def _of(self, corruptions: Iterable[str], severities: Iterable[int]) -> list[Condition]:
        names, levels = set(corruptions), set(severities)
        return [c for c in self.conditions if c.corruption in names and c.severity in levels]

    def as_dict(self) -> dict[str, Any]:
        """What the file holds, with the means."""
        return {
            **self.stored.model_dump(mode="json"),
            "mean_accuracy": self.mean("accuracy"),
            "mean_corruption_error": self.mean_corruption_error,
            "mean_loss": self.mean("loss"),
            "mean_calibration_error": self.mean("calibration_error"),
            "mean_accuracy_by_severity": [self.mean("accuracy", severities=[level]) for level in SEVERITIES],
            "estimate_errors": {name: self.estimate_error(name) for name in NAMES},
        }

    def summary(self) -> str:
        """A table of accuracies for a person, and what foretold them."""
        context = self.stored.context
        how = f", {context['how']}" if context["how"] else ""
        label = " (test-selected)" if context["split"] == "test" and context["test_selected"] else ""
        lines = [
            f"{context['split']} accuracy{label} {self.clean.accuracy:.2%} clean, {self.mean('accuracy'):.2%} shifted: "
            f"mean of {len(set(self.corruptions) & set(BENCHMARK))} corruptions x 5 severities",
            f"{context['images']:,} images{_subset(context)}{how}; mean corruption error "
            f"{self.mean_corruption_error:.2%}, not normalised by AlexNet's",
            f"{'accuracy under':<20}" + "".join(f"{'sev ' + str(level):>8}" for level in SEVERITIES) + f"{'mean':>8}",
        ]
        for name in self.corruptions:
            row = [self.mean("accuracy", [name], [level]) for level in SEVERITIES]
            cells = "".join(f"{value:>8.2%}" for value in (*row, fmean(row)))
            lines.append(f"{name:<20}{cells}{'  (extra)' if name in EXTRA else ''}")
        lines += [f"{name} is left out: it {reason}" for name, reason in self.stored.left_out.items()]
        lines.append(f"calibration error {self.clean.calibration_error:.2%} clean, "
                     f"{self.mean('calibration_error'):.2%} shifted; loss {self.clean.loss:.4f} and "
                     f"{self.mean('loss'):.4f} nats")  # fmt: skip
        errors = ", ".join(f"{text} {self.estimate_error(name):.2%}" for name, text in NAMES.items())
        lines.append(f"accuracy estimated without labels, mean error: {errors}; fitted on {context['estimates_from']}")
        return "\n".join(lines)


def stored_shift(run: Run) -> ShiftMeasurement | None:
    """What the run folder holds of the run alone as it is now: test before validation, then the most images.

    One that was interrupted, or of weights that have changed since, is left out. Raises RunFolderError for a damaged
    file.
    """
    found = []
    for path in run.path.glob("shift-*.json"):
        if named := re.fullmatch(r"shift-(test|validation)(?:-(\d+)-images)?\.json", path.name):
            split, images = named.groups()
            found.append((split, -math.inf if images is None else -int(images), path))
    for split, _, path in sorted(found):
        again = f"thriftnet evaluate {quote(str(run.path))} --shift --split {split}"
        stored = _read(run, path.name, Stored, again)
        if stored.complete and _is_of_these_weights(run, stored.context):
            return ShiftMeasurement(path, stored)
    return None


def _read(run: Run, name: str, kind: type[M], again: str) -> M:
    try:
        return kind.model_validate(run.folder.read_json(name))
    except pydantic.ValidationError:
        raise RunFolderError(f"{run.path / name} is damaged; measure again: {again}") from None


def _is_of_these_weights(run: Run, context: dict[str, Any]) -> bool:
    """Whether the first run's weights, which may be all that is left of it, are those that were measured."""
    which: Which = context["weights"]
    return not run.folder.has(f"{which}.safetensors") or context["runs"][0]["weights_hash"] == weights_hash(run, which)


def _subset(context: dict[str, Any]) -> str:
    return "" if context["images"] == context["split_images"] else f" of {context['split_images']:,}, stratified"


def measure_shift(
    run: Run | Sequence[Run],
    split: Split = "test",
    *,
    data: str | None = None,
    tta: Averaging = "none",
    weights: Which = "selected",
    calibrated: bool = False,
    adapt_batchnorm: bool = False,
    batch_size: int | None = None,
    images: int | None = None,
    say: Say = lambda line: None,
) -> ShiftMeasurement:
    """Measure a run, or the mean of several, on a split clean and under every corruption; write `shift-<split>.json`.

    `images`: a stratified subset of so many. Written after each corruption, so that an interrupted measurement goes on
    and a finished one is taken as it is, as long as weights, data and settings are the same. `say` is told each
    corruption's accuracy. Raises what `inference.measure` raises.
    """
    predictor = Predictor(as_runs(run), weights, tta, calibrated, adapt_batchnorm, batch_size)
    first, networks = predictor.runs[0], predictor.networks
    assert networks  # a damaged run shows before the test set is opened
    met = meet(predictor.runs, data)
    for note in met.notes:
        say(f"note: {note}")
    everything = met.images(split, weights=weights, tta=tta, shift=True)
    chosen = _chosen(everything.labels, images)
    measured = everything.select(chosen)
    if len(measured) < 2:
        raise DataError(f"the {split} split has {len(measured)} images; estimates of accuracy need at least two")
    reference = _reference(met, split)
    context = {
        "split": split,
        "data": {**met.as_dict(), "training_hash": first.data.fingerprint},
        "images": len(measured),
        "split_images": len(everything),
        "how": predictor.description,
        "test_selected": any(one.test_selected for one in predictor.runs),
        "estimates_from": f"{len(reference):,} validation images" if reference else "a random half of the clean images",
        **predictor.as_dict(),
    }
    size = "" if images is None else f"{images}-images"
    path = (
        first.path / f"{'-'.join(filter(None, ('shift', split, predictor.variant, met.label(everything), size)))}.json"
    )
    measuring = _Measuring(predictor, measured, chosen, reference, path, context)
    return measuring.go_on(_finished(first, path, context), say)


def _chosen(labels: Tensor, images: int | None) -> Tensor:
    """Places of the measured images in their split, sorted."""
    if images is None:
        return torch.arange(len(labels))
    classes = len(torch.unique(labels))
    if not classes <= images <= len(labels):
        raise UserError(
            f"--shift-images {images} must lie between {classes} (one a class) and {len(labels)} (the whole split)"
        )
    return stratified_subset(labels, images, SUBSET_SEED)


def _reference(met: RunData, split: Split) -> LabelledImages | None:
    """Validation images, where all runs held the same ones out and they are not what is measured."""
    if split != "test" or any(run.data.validation_images == 0 for run in met.runs):
        return None
    try:
        return met.images("validation")
    except DataError:  # several runs divided their data differently, or the training split is not at hand
        return None


def _finished(run: Run, path: Path, context: dict[str, Any]) -> Stored | None:
    """What an earlier measurement of the same things left behind."""
    if not path.is_file():
        return None
    try:
        stored = Stored.model_validate(run.folder.read_json(path.name))
    except (UserError, pydantic.ValidationError):
        return None  # damaged, or of another version: measured anew
    return stored if stored.context == json.loads(json.dumps(context)) else None


class _Measuring:
    """The parts of one measurement."""

    def __init__(
        self,
        predictor: Predictor,
        images: LabelledImages,
        indices: Tensor,
        reference: LabelledImages | None,
        path: Path,
        context: dict[str, Any],
    ) -> None:
        self.predictor, self.images, self.indices, self.path, self.context = predictor, images, indices, path, context
        self.reference = reference
        self.class_names = predictor.runs[0].data.class_names
        # Corruptions need float64 and whole-number arithmetic that only these two have.
        self.device = predictor.runtime.device if predictor.runtime.device.type == "cuda" else torch.device("cpu")

    def go_on(self, stored: Stored | None, say: Say) -> ShiftMeasurement:
        if stored is not None and stored.complete:
            say(f"taken from {self.path}: the same weights, data and settings were measured before")
            return ShiftMeasurement(self.path, stored)
        clean_logits = self.predictor.logits(self.images.images, self._named("clean", 0))
        estimator, compared = self._estimator(clean_logits)
        reasons = {name: unsuitable(name, self.images.images.shape[1]) for name in CORRUPTIONS}
        if stored is None:
            clean = self._condition("clean", 0, clean_logits, estimator, compared)
            left_out = {name: reason for name, reason in reasons.items() if reason is not None}
            stored = Stored(context=self.context, complete=False, clean=clean, conditions=(), left_out=left_out)
        pixels = self.images.images.to(self.device)
        done = {condition.corruption for condition in stored.conditions}
        for name in CORRUPTIONS:
            if name in done or name in stored.left_out:
                continue
            added = []
            for severity in SEVERITIES:
                shifted = corrupt(pixels, name, severity, self.indices)
                logits = self.predictor.logits(shifted, self._named(name, severity))
                added.append(self._condition(name, severity, logits, estimator, compared))
            stored = stored.model_copy(update={"conditions": (*stored.conditions, *added)})
            self._write(stored)
            say(f"{name:<20}" + "".join(f"{condition.accuracy:>8.2%}" for condition in added))
        stored = stored.model_copy(update={"complete": True})
        measurement = ShiftMeasurement(self.path, stored)
        self._write(stored, measurement.as_dict())
        self.predictor.runs[0].folder.log(
            "shift measured", file=self.path.name, accuracy=stored.clean.accuracy, shifted=measurement.mean("accuracy")
        )
        return measurement

    def _named(self, corruption: str, severity: int) -> Callable[[int], str]:
        return lambda place: f"{int(self.indices[place])} of the split, counted from 0 ({corruption} {severity})"

    def _write(self, stored: Stored, value: dict[str, Any] | None = None) -> None:
        self.predictor.runs[0].folder.write_json(self.path.name, value or stored.model_dump(mode="json"))

    def _estimator(self, clean_logits: Tensor) -> tuple[AccuracyEstimator, Tensor]:
        """What is fitted on clean labelled images, and the places of the measured ones that it may be compared on."""
        count = len(clean_logits)
        if self.reference is not None:
            reference_logits = self.predictor.logits(self.reference.images)
            return fit_estimator(reference_logits, self.reference.labels), torch.arange(count)
        order = torch.randperm(count, generator=torch.Generator().manual_seed(SUBSET_SEED))
        fitted, compared = order[: count // 2], order[count // 2 :]
        return fit_estimator(clean_logits[fitted], self.images.labels[fitted]), compared

    def _condition(
        self, name: str, severity: int, logits: Tensor, estimator: AccuracyEstimator, compared: Tensor
    ) -> Condition:
        evaluation = evaluate_logits(logits, self.images.labels, self.class_names)
        right = (logits.argmax(1) == self.images.labels)[compared]
        return Condition(
            corruption=name,
            severity=severity,
            accuracy=evaluation.accuracy,
            loss=evaluation.loss,
            calibration_error=evaluation.expected_calibration_error,
            estimated=estimator.estimates(logits[compared]),
            compared_accuracy=float(right.double().mean()),
        )


@dataclass(frozen=True)
class Remedy:
    """One way of predicting and what it gives on clean and shifted images."""

    name: str
    measurement: ShiftMeasurement


@dataclass(frozen=True)
class Remedies:
    """Every remedy at hand for the same runs, the first row being the first run as it is."""

    rows: tuple[Remedy, ...]
    notes: tuple[str, ...]
    """What could not be measured, and what to do."""

    def as_dict(self) -> dict[str, Any]:
        return {
            "context": self.rows[0].measurement.stored.context,
            "remedies": [
                {
                    "name": row.name,
                    "file": row.measurement.path.name,
                    "clean_accuracy": row.measurement.clean.accuracy,
                    "shifted_accuracy": row.measurement.mean("accuracy"),
                    "shifted_loss": row.measurement.mean("loss"),
                    "shifted_calibration_error": row.measurement.mean("calibration_error"),
                }
                for row in self.rows
            ],
            "notes": list(self.notes),
        }

    def summary(self) -> str:
        context = self.rows[0].measurement.stored.context
        lines = [
            f"{context['split']}, {context['images']:,} images{_subset(context)}; shifted: mean of the benchmark's "
            "corruptions x 5 severities",
            f"{'':<28}{'clean':>9}{'shifted':>9}{'gained':>9}{'loss':>9}{'calib. error':>14}",
        ]
        plain = self.rows[0].measurement.mean("accuracy")
        for row in self.rows:
            shifted = row.measurement.mean("accuracy")
            lines.append(
                f"{row.name:<28}{row.measurement.clean.accuracy:>9.2%}{shifted:>9.2%}{shifted - plain:>+9.2%}"
                f"{row.measurement.mean('loss'):>9.4f}{row.measurement.mean('calibration_error'):>14.2%}"
            )
        return "\n".join([*lines, *self.notes])


class StoredRemedy(pydantic.BaseModel):
    """One row of remedies-<split>.json; accuracies are fractions, shifted: the mean of the benchmark's corruptions."""

    model_config = pydantic.ConfigDict(frozen=True)

    name: str
    clean_accuracy: float
    shifted_accuracy: float
    shifted_loss: float
    shifted_calibration_error: float


class StoredRemedies(pydantic.BaseModel):
    """remedies-<split>.json; the first row is the first run as it is."""

    model_config = pydantic.ConfigDict(frozen=True)

    context: dict[str, Any]
    remedies: tuple[StoredRemedy, ...] = pydantic.Field(min_length=1)
    notes: tuple[str, ...]


def stored_remedies(run: Run) -> StoredRemedies | None:
    """What the run folder holds of the run as it is now, test before validation. Raises RunFolderError for a damaged
    file."""
    for split in ("test", "validation"):
        name = f"remedies-{split}.json"
        if run.folder.has(name):
            stored = _read(run, name, StoredRemedies, f"thriftnet remedies {quote(str(run.path))} --split {split}")
            if _is_of_these_weights(run, stored.context):
                return stored
    return None


def measure_remedies(
    run: Run | Sequence[Run],
    split: Split = "test",
    *,
    data: str | None = None,
    images: int | None = None,
    say: Say = lambda line: None,
) -> Remedies:
    """Measure the first run as it is, then each remedy alone and all of them together, on shifted data.

    Temperatures are taken where `calibrate` fitted them for every run. Each measurement is a file of its own, taken
    if it is there; the table is `remedies-<split>.json` in the first run's folder. Raises what `measure_shift` raises.
    """
    runs = as_runs(run)
    one = Predictor(runs[:1])
    ways = {
        "as trained": one,
        "BatchNorm adapted": replace(one, adapt_batchnorm=True),
        "mirror image averaged": replace(one, tta="flip"),
    }
    notes = []
    everything = replace(Predictor(runs), adapt_batchnorm=True, tta="flip")
    missing = [str(one.path) for one in runs if not one.folder.has(TEMPERATURE_FILE)]
    if missing:
        notes.append(f"temperature scaling is left out; fit it with: thriftnet calibrate {quote(missing[0])}")
    else:
        kept = [(each.path, note) for each in runs if (note := read_calibration(each, "selected").note)]
        notes += [f"the temperature of {path} stays 1: {note}" for path, note in kept]
        if runs[0].path not in dict(kept):
            ways["temperature scaled"] = replace(one, calibrated=True)
        everything = replace(everything, calibrated=True)
    if len(runs) > 1:
        ways[f"mean of {len(runs)} runs"] = Predictor(runs)
    else:
        notes.append("averaging is left out; give several run folders of the same data")
    ways["all of these"] = everything
    rows = []
    for name, way in ways.items():
        say(f"{name}:")
        measured = measure_shift(
            way.runs, split, data=data, tta=way.tta, calibrated=way.calibrated,
            adapt_batchnorm=way.adapt_batchnorm, images=images, say=say,
        )  # fmt: skip
        rows.append(Remedy(name, measured))
    remedies = Remedies(tuple(rows), tuple(notes))
    runs[0].folder.write_json(f"remedies-{split}.json", remedies.as_dict())
    return remedies
