"""From a run folder to its figures and its page: what is drawn when, and where it is kept.

`figures/` holds each figure as PNG and SVG. Those that show images, and the confusion matrix whose cells open them,
keep their data beside them (.npz), so that a report can be written without the data set.
"""

from __future__ import annotations

import io
import shlex
import zipfile
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch

from thriftnet import recipe as recipes
from thriftnet.augment.draws import Draws
from thriftnet.augment.policy import build_policy
from thriftnet.data.batches import epoch_batches, steps_per_epoch
from thriftnet.data.limits import check_decompressed
from thriftnet.data.prepare import TrainingData
from thriftnet.errors import RunFolderError
from thriftnet.evaluation.metrics import Evaluation
from thriftnet.fonts import numbered
from thriftnet.inference import Measurement
from thriftnet.models.build import build_on_meta
from thriftnet.models.summary import summarize
from thriftnet.optim.schedules import Schedule
from thriftnet.predictor import stored_temperature
from thriftnet.reporting.class_figures import confusion_data, distribution_data, draw_confusion, draw_distribution
from thriftnet.reporting.confusion import GRID_CLASSES, ConfusedImages, confused_images_data
from thriftnet.reporting.curves import curves_data, draw_curves, draw_learning_rate, learning_rate_data
from thriftnet.reporting.figures import encoded
from thriftnet.reporting.html import Claim, RunFigures, RunReport, write_report
from thriftnet.reporting.image_figures import (
    AugmentedBatchData,
    MistakesData,
    augmented_batch_data,
    draw_augmented_batch,
    draw_mistakes,
    mistakes_data,
)
from thriftnet.reporting.shift_figures import draw_foretold, draw_heat_map, foretold_data, heat_map_data
from thriftnet.run import Run
from thriftnet.shift import stored_remedies, stored_shift
from thriftnet.training.batches import resize_and_mix
from thriftnet.training.outcome import EVALUATED_SPLIT

if TYPE_CHECKING:
    from matplotlib.figure import Figure

D = TypeVar("D", AugmentedBatchData, MistakesData, ConfusedImages)

SHOWN_IMAGES = 16
ORIGINAL_PIXELS = ("cifar-python", "cifar-binary")  # the layouts in which CIFAR's own pixels are distributed


def draw_training_figures(run: Run, data: TrainingData) -> None:
    """Curves, learning rate and an augmented batch into the run's `figures/`. Raises StorageError."""
    batch = _augmented_batch(run, data)
    with run.folder.after_training(), run.folder.only_writer():
        _write_arrays(run, "augmented-batch", asdict(batch))
        _save(run, "augmented-batch", draw_augmented_batch(batch))
        _save(run, "curves", draw_curves(_curves(run)))
        _save(run, "learning-rate", draw_learning_rate(_learning_rates(run)))


def draw_evaluation_figures(measurement: Measurement) -> None:
    """Confusion matrix with its images, class distribution and most confident mistakes of a split.

    Raises StorageError.
    """
    run, evaluation = measurement.run, measurement.evaluation
    suffix = measurement.path.stem.removeprefix("evaluation-")
    mistakes = mistakes_data(
        measurement.images.images, measurement.logits, measurement.images.labels, evaluation.class_names
    )
    confused = confused_images_data(measurement.images.images, measurement.logits, measurement.images.labels)
    _write_arrays(run, f"mistakes-{suffix}", asdict(mistakes))
    _write_arrays(run, f"confusion-{suffix}", asdict(confused))
    _save(run, f"mistakes-{suffix}", draw_mistakes(mistakes))
    _save(run, f"confusion-{suffix}", draw_confusion(confusion_data(evaluation)))
    _save(run, f"distribution-{suffix}", draw_distribution(_distribution(evaluation)))


def write_run_report(run: Run, path: Path) -> None:
    """One self-contained HTML page from what is in the run folder. Raises RunFolderError, StorageError."""
    write_report(gather(run), path)


def gather(run: Run) -> RunReport:
    """Everything on the page. Of several evaluations the plain one of the test split is shown, else of validation."""
    recipe, result, environment = run.recipe, run.result, run.environment
    evaluation, suffix = _stored_evaluation(run)
    kept = result["selected"]
    curves = _curves(run)
    batch = _read_arrays(run, "augmented-batch", AugmentedBatchData)
    mistakes = _read_arrays(run, f"mistakes-{suffix}", MistakesData) if evaluation is not None else None
    confused = _read_arrays(run, f"confusion-{suffix}", ConfusedImages) if evaluation is not None else None
    shift, remedies = stored_shift(run), stored_remedies(run)
    many_classes = len(run.data.class_names) > GRID_CLASSES
    network = build_on_meta(recipe.model, run.data.channels, len(run.data.class_names))
    return RunReport(
        recipe=recipe.title,
        dataset=run.data.location
        if run.data.location == run.data.format
        else f"{run.data.format}: {run.data.location}",
        training_images=run.data.training_images,
        validation_images=run.data.validation_images,
        class_count=len(run.data.class_names),
        parameters=result["parameters"],
        parameter_budget=recipe.model.parameter_budget,
        selection=recipe.training.selection,
        selected_epoch=result["selected_epoch"],
        epochs=result["epochs"],
        epochs_planned=result["epochs_planned"],
        seed=recipe.training.seed,
        split_seed=recipe.training.split_seed,
        device=f"{environment['device_name']} ({environment['device']}, {environment['threads']} threads)",
        precision=environment["precision"],
        elapsed_s=result["elapsed_s"],
        recipe_text=recipes.to_toml(recipe),
        command=_command(run),
        status=result["status"],
        summary=recipe.summary,
        paper=_paper(run),
        train_accuracy=kept["train_accuracy"],
        validation_accuracy=kept["validation_accuracy"],
        test_accuracy=kept["test_accuracy"],
        calibration=_calibration(run, suffix),
        claim=_claim(run),
        evaluation=evaluation,
        evaluated_split=suffix,
        confused=confused,
        shift=shift,
        remedies=remedies,
        layers=summarize(network, (run.data.channels, run.data.image_side, run.data.image_side)),
        environment={key.replace("_", " "): _in_words(value) for key, value in environment.items()},
        figures=RunFigures(
            numbered=numbered(run.data.class_names) != run.data.class_names,
            loss=draw_curves(curves, ("loss",)),
            accuracy=draw_curves(curves, ("accuracy",)),
            learning_rate=draw_learning_rate(_learning_rates(run)),
            augmented=draw_augmented_batch(batch) if batch is not None else None,
            confusion=draw_confusion(confusion_data(evaluation)) if evaluation is not None and many_classes else None,
            distribution=draw_distribution(_distribution(evaluation)) if evaluation is not None else None,
            mistakes=draw_mistakes(mistakes) if mistakes is not None else None,
            shift=draw_heat_map(heat_map_data(shift)) if shift is not None else None,
            foretold=draw_foretold(foretold_data(shift)) if shift is not None else None,
        ),
    )


def _curves(run: Run) -> Any:
    return curves_data(run.history, run.result["selected_epoch"])


def _learning_rates(run: Run) -> Any:
    """The rate of every step so far; the schedule is a pure function, so nothing had to be recorded."""
    recipe, history = run.recipe, run.history
    shown = run.data.training_images * (2 if recipe.augment.concatenate_originals else 1)
    per_epoch = steps_per_epoch(shown, recipe.training.batch_size, recipe.training.drop_last)
    schedule = Schedule(recipe.schedule, recipe.optimizer.lr, recipe.training.epochs, per_epoch)
    monitored = [row[f"{EVALUATED_SPLIT[recipe.training.selection]}_loss"] for row in history]
    rates = [schedule.lr(step, monitored[: step // per_epoch]) for step in range(len(history) * per_epoch)]
    return learning_rate_data(rates, per_epoch)


def _augmented_batch(run: Run, data: TrainingData) -> AugmentedBatchData:
    """The first images of the training split as epoch 1 showed them.

    Mixed images are those of the first step instead: partners come from the same batch.
    """
    recipe, training = run.recipe, run.recipe.training
    batches = epoch_batches(len(data.train), training.batch_size, training.drop_last, training.seed, epoch=1)
    rows = next(batches) if recipe.augment.mix is not None else torch.arange(min(SHOWN_IMAGES, len(data.train)))
    originals, draws = data.train.select(rows), Draws(training.seed, 1, data.train_indices[rows])
    augmented = build_policy(recipe.augment, data.mean)(originals.images, draws)
    shown, _ = resize_and_mix(recipe, augmented, originals.labels, draws, epoch=1, step=0)
    return augmented_batch_data(originals.images, shown, originals.labels, data.class_names, SHOWN_IMAGES)


def _distribution(evaluation: Evaluation) -> Any:
    predicted = [score.predicted for score in evaluation.classes]
    return distribution_data(evaluation.class_names, predicted, [score.support for score in evaluation.classes])


def _stored_evaluation(run: Run) -> tuple[Evaluation | None, str]:
    for split in ("test", "validation"):
        evaluation = run.evaluation(split)
        if evaluation is not None:
            return evaluation, split
    return None, "test"


def _calibration(run: Run, split: str) -> tuple[tuple[str, str], ...]:
    """Temperature and calibration errors of a run that `calibrate` has seen."""
    fitted = stored_temperature(run)
    if fitted is None:
        return ()
    before, after = fitted.calibration_error_before, fitted.calibration_error_after
    facts = [
        (
            "Temperature",
            (fitted.note and f"stays 1: {fitted.note}")
            or f"{fitted.temperature:.4f}, fitted on {fitted.validation_images:,} validation images",
        ),
        ("Calibration error of those images", f"{before:.2%} as trained, {after:.2%} with the temperature"),
    ]
    calibrated = run.evaluation(split, calibrated=True)
    if calibrated is not None:
        error = f"{calibrated.expected_calibration_error:.2%}"
        facts.append((f"Calibration error of the {split} images with the temperature", error))
    return tuple(facts)


def _claim(run: Run) -> Claim | None:
    """The source's number, with every known reason why this run's is not comparable."""
    expect = run.recipe.expect
    reasons = []
    if expect.claimed_test_accuracy is not None:
        claimed = expect.claimed_test_accuracy
    elif expect.claimed_validation_accuracy is not None:
        claimed = expect.claimed_validation_accuracy
        reasons.append("the claim is an accuracy on validation images, which the source does not name")
    else:
        return None
    if run.data.format not in ORIGINAL_PIXELS:
        reasons.append("the claim is on CIFAR-10's original pixels, which this data is not known to have")
    changed = _changed(run)
    if changed is None:
        reasons.append("the recipe is not the packaged one")
    elif changed:
        reasons.append(f"this run changed {', '.join(changed)}")
    return Claim(claimed, expect.claim, "; ".join(reasons))


def _paper(run: Run) -> str:
    """Whose recipe it is, with what this run changed of it."""
    changed = _changed(run) if run.recipe.paper else None
    return f"{run.recipe.paper}, changed in {', '.join(changed)}" if changed else run.recipe.paper


def _changed(run: Run) -> list[str] | None:
    """The keys in which the run's recipe is not the packaged one of its name; None where there is none."""
    if run.recipe.name not in recipes.names():
        return None
    return [
        key
        for key, _, _ in recipes.differences(recipes.load(run.recipe.name), run.recipe)
        if not key.startswith(("runtime.", "training.seed", "expect.", "summary", "paper"))
    ]


def _command(run: Run) -> str:
    """The command that repeats the run with the resolved recipe that is stored in it."""
    recipe = shlex.quote(str(run.path / "recipe.toml"))
    return f"thriftnet train {recipe} --data {shlex.quote(run.data.location)}"


def _in_words(value: Any) -> str:
    """A value of environment.json as a sentence's part."""
    match value:
        case dict():
            return ", ".join(f"{key} {inside}" for key, inside in value.items())
        case list():
            return "; ".join(map(str, value))
        case None:
            return "none"
        case bool():
            return "yes" if value else "no"
    return str(value)


def _save(run: Run, name: str, figure: Figure) -> None:
    for ending in (".png", ".svg"):
        path = Path("figures") / f"{name}{ending}"
        run.folder.write_bytes(path.as_posix(), encoded(figure, path))


def _write_arrays(run: Run, name: str, values: dict[str, Any]) -> None:
    buffer = io.BytesIO()
    arrays: dict[str, Any] = {key: np.asarray(value) for key, value in values.items()}
    np.savez_compressed(buffer, **arrays)
    run.folder.write_bytes(f"figures/{name}.npz", buffer.getvalue())


def _read_arrays(run: Run, name: str, kind: type[D]) -> D | None:
    """The figure's data, or None where it was never drawn."""
    file = f"figures/{name}.npz"
    if not run.folder.has(file):
        return None
    content = run.folder.read_bytes(file)
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            for member in archive.infolist():
                check_decompressed(member.file_size, member.compress_size, member.filename)
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            return kind(**{key: _unpacked(arrays[key]) for key in arrays.files})
    except Exception as error:  # NumPy reads headers as Python's text, whose parser raises many kinds
        raise RunFolderError(
            f"{run.path / file} is damaged ({error}); delete it, or draw it again by evaluating"
        ) from None


def _unpacked(array: np.ndarray) -> Any:
    """Images stay arrays; names, numbers and counts become what the figure's data class had."""
    if array.ndim == 0:
        return array.item()
    return array if array.ndim == 4 else tuple(array.tolist())
