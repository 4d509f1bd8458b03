"""A display that also tells trackers: what a run shows while it trains is what they are told, so training knows none.

The run folder is the record; trackers are copies for looking at. They hear of an epoch when it is complete and saved,
its reports with it: a run that was interrupted and goes on then has no point twice. Which trackers a run has and up to
which epoch they know it is in its tracking.json, so `--resume` and `evaluate` go on with the same ones.
"""

from __future__ import annotations

import secrets
import sys
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from thriftnet import recipe as recipes
from thriftnet.errors import RunFolderError, StorageError
from thriftnet.inference import Measurement
from thriftnet.models.budget import trainable_parameters
from thriftnet.models.build import build_on_meta
from thriftnet.optim.schedules import Schedule
from thriftnet.run import Run
from thriftnet.storage import storage_error
from thriftnet.tracking.load import load, require
from thriftnet.tracking.tracker import TrackedRun, Tracker
from thriftnet.training.outcome import EVALUATED_SPLIT
from thriftnet.training.progress import Display

STATE = "tracking.json"
TRAINING_FIGURES = ("curves", "learning-rate", "augmented-batch")


@contextmanager
def tracked(
    run: Run, names: Sequence[str], display: Display, group: str | None = None, name: str | None = None
) -> Iterator[Display]:
    """Yields the display to train `run` with: `display`, which trackers `names` and those of its folder are told too.

    At the end of the block they get the run's figures and outcome and are closed. `group` is the study that the run is
    a trial of, `name` what it is called there, by default as its folder. Without trackers `display` itself is yielded.
    Raises MissingExtraError for a name whose library is not installed, UserError for an unknown one; what fails later
    is said on standard error and in the run's events, and the run goes on without that tracker.
    """
    require(names)
    if not names and not run.folder.has(STATE):
        yield display
        return
    shown = TrackedDisplay(display, run, names, group, name)
    try:
        yield shown
    except BaseException:
        shown.trackers.close(failed=True)
        raise
    with run.folder.after_training():
        shown.finish()
        shown.trackers.close(failed=False)


def track_evaluation(measurement: Measurement) -> None:
    """Tell the trackers of a measurement's run its numbers and its confusion matrix, where the run has trackers."""
    run, evaluation = measurement.run, measurement.evaluation
    if not run.folder.has(STATE):
        return
    trackers = _Trackers(run, [], None)
    for line in trackers.open():
        print(line, file=sys.stderr)
    suffix = measurement.path.stem.removeprefix("evaluation-")
    label = _split_label(run, measurement.split) + suffix.removeprefix(measurement.split)
    values = {
        "accuracy": evaluation.accuracy,
        "loss": evaluation.loss,
        "expected_calibration_error": evaluation.expected_calibration_error,
        "epoch": measurement.context["epoch"],
    }
    named = {f"evaluation/{label}/{key}": value for key, value in values.items()}
    trackers.conclude([f"confusion-{suffix}"], named, run.history[-1]["steps"])
    trackers.close(failed=False)


class TrackedDisplay:
    """See `tracked`; between `start` and `finish`."""

    def __init__(
        self, display: Display, run: Run, names: Sequence[str], group: str | None, name: str | None = None
    ) -> None:
        self.display, self.run = display, run
        self.trackers = _Trackers(run, names, group, name)
        self.reports: list[tuple[int, dict[str, float]]] = []

    def start(self, lines: list[str], epochs: int, steps_per_epoch: int, epochs_done: int) -> None:
        recipe = self.run.recipe
        self.steps_per_epoch = steps_per_epoch
        self.schedule = Schedule(recipe.schedule, recipe.optimizer.lr, recipe.training.epochs, steps_per_epoch)
        self.history = self.run.history if epochs_done else []
        said = self.trackers.open()
        self.display.start([*lines, *said], epochs, steps_per_epoch, epochs_done)
        for row in self.history:  # what was saved in the moment before a process was killed
            self._log_epoch(row)

    def note(self, line: str) -> None:
        self.display.note(line)

    def step(self, epoch: int, step: int, loss: float, accuracy: float, images_per_s: float) -> None:
        self.display.step(epoch, step, loss, accuracy, images_per_s)
        step += (epoch - 1) * self.steps_per_epoch
        monitored = [row[f"{EVALUATED_SPLIT[self.run.recipe.training.selection]}_loss"] for row in self.history]
        values = {
            "loss": loss,
            "accuracy": accuracy,
            "images_per_s": images_per_s,
            "learning_rate": self.schedule.lr(step - 1, monitored),
        }
        self.reports.append((step, {f"report/{name}": value for name, value in values.items()}))

    def epoch(self, row: dict[str, Any], selected: bool) -> None:
        self.display.epoch(row, selected)
        self.history.append(row)
        self._log_epoch(row)

    def stop(self) -> None:
        self.display.stop()

    def finish(self) -> None:
        """Figures and outcome of the trained run, once."""
        if not self.trackers.opened or not self.history:
            return  # nothing was trained, or another process tracks it
        result = self.run.result
        selected = epoch_values(self.run, result.pop("selected"))
        del result["last"]  # the end of every curve
        values = {**result, **{f"selected/{name}": value for name, value in selected.items()}}
        self.trackers.finish(TRAINING_FIGURES, values, self.history[-1]["steps"])

    def _log_epoch(self, row: dict[str, Any]) -> None:
        points = [*self.reports, (row["steps"], epoch_values(self.run, row))]
        self.reports = []
        self.trackers.log_epoch(row["epoch"], points)


def epoch_values(run: Run, row: Mapping[str, Any]) -> dict[str, float]:
    """The points of one row of metrics.csv under the names that trackers show; what was not measured has none.

    Losses are in nats, accuracies fractions; of a run that the test split selected, its points say so.
    """
    values: dict[str, float] = {"epoch": row["epoch"], "learning_rate": row["lr"], "images_per_s": row["images_per_s"]}
    for split in ("train", "validation", "test"):
        for measure in ("loss", "accuracy"):
            if row[f"{split}_{measure}"] is not None:
                values[f"{_split_label(run, split)}/{measure}"] = row[f"{split}_{measure}"]
    return values


def _split_label(run: Run, split: str) -> str:
    return "test-selected" if split == "test" and run.test_selected else split


class _Trackers:
    """The open trackers of a run; one that fails is closed to it, and everybody hears of that."""

    def __init__(self, run: Run, names: Sequence[str], group: str | None, name: str | None = None) -> None:
        self.run, self.names, self.group, self.name = run, names, group, name
        self.opened: dict[str, Tracker] = {}
        self.failures: list[str] = []

    def open(self) -> list[str]:
        """Open them; returns what each has to say.

        Raises RunFolderError for a damaged tracking.json, StorageError where the folder cannot be written.
        """
        run, self.state = self.run, self._read_state()
        known = self.state["trackers"]
        for name in self.names:
            known.setdefault(name, {"id": secrets.token_hex(4), "epochs": 0, "finished": False})
        folder = run.path / "tracking"
        try:
            folder.mkdir(exist_ok=True)
        except OSError as error:
            raise storage_error(folder, error, "what the run already holds is safe") from None
        self._write_state()
        history, recipe_text = run.history, recipes.to_toml(run.recipe)
        config, said = _config(run, recipe_text), []
        for name, facts in known.items():
            facts["epochs"] = min(facts["epochs"], len(history))  # an earlier state may have been restored
            tracked_run = TrackedRun(
                id=facts["id"],
                name=self.name or run.path.resolve().name,
                group=self.state["group"],
                folder=folder,
                recipe=recipe_text,
                config=config,
                steps_done=history[facts["epochs"] - 1]["steps"] if facts["epochs"] else 0,
            )
            try:
                tracker = load(name)
                said.append(tracker.open(tracked_run))
            except Exception as error:  # of any library that a tracker uses, and no run is lost to one
                self._failed(name, "opening it", error)
            else:
                self.opened[name] = tracker
        return said

    def each(self, doing: str, do: Callable[[Tracker, dict[str, Any]], None]) -> None:
        """`do` with each open tracker and what tracking.json says of it."""
        for name, tracker in list(self.opened.items()):
            try:
                do(tracker, self.state["trackers"][name])
            except Exception as error:  # see `open`
                del self.opened[name]
                self._failed(name, doing, error)

    def log_epoch(self, epoch: int, points: Sequence[tuple[int, Mapping[str, float]]]) -> None:
        """Tell each that does not know `epoch` yet its points, and mark it as known."""

        def log(tracker: Tracker, facts: dict[str, Any]) -> None:
            if epoch > facts["epochs"]:
                for step, values in points:
                    tracker.log(values, step)
                facts["epochs"] = epoch

        self.each(f"telling it epoch {epoch}", log)
        self._write_state()

    def conclude(self, figures: Sequence[str], values: Mapping[str, Any], step: int) -> None:
        """Tell each the figures that were drawn, and `values`."""

        def tell(tracker: Tracker, _: dict[str, Any]) -> None:
            for name in figures:
                png = self.run.path / "figures" / f"{name}.png"
                if png.is_file():
                    tracker.figure(name, png, step)
            tracker.outcome(values, step)

        self.each("telling it figures and outcome", tell)

    def finish(self, figures: Sequence[str], values: Mapping[str, Any], step: int) -> None:
        """`conclude`, but only with those that have not been told of the run's end before."""
        self.opened = {name: t for name, t in self.opened.items() if not self.state["trackers"][name]["finished"]}
        self.conclude(figures, values, step)
        self.each("marking its end", lambda _, facts: facts.update(finished=True))
        self._write_state()

    def close(self, failed: bool) -> None:
        """Close those that are open, and say again what failed on the way."""
        before = list(self.failures)
        self.each("closing it", lambda tracker, _: tracker.close(failed))
        self.opened = {}
        for failure in before:
            print(f"thriftnet: as said before, {failure}", file=sys.stderr)

    def _failed(self, name: str, doing: str, error: Exception) -> None:
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        failure = f"tracking by {name} failed in {doing} ({reason}); the run goes on without it and loses nothing"
        print(f"thriftnet: {failure}", file=sys.stderr)
        self.failures.append(failure)
        with suppress(StorageError):  # on a full disk: it was just said, and a run ends by its own files alone
            self.run.folder.log("tracking failed", tracker=name, doing=doing, reason=reason)

    def _read_state(self) -> dict[str, Any]:
        if not self.run.folder.has(STATE):
            return {"group": self.group, "trackers": {}}
        state = self.run.folder.read_json(STATE)
        try:
            for facts in state["trackers"].values():
                known = facts["epochs"]
                if type(known) is not int or known < 0:
                    raise ValueError(f"{known!r} epochs")
                _ = str(facts["id"]), bool(facts["finished"])
            _ = state["group"]
        except (KeyError, TypeError, ValueError, AttributeError):
            path = self.run.path / STATE
            raise RunFolderError(f"{path} is damaged; restore it from a copy, or delete it to stop tracking") from None
        return state

    def _write_state(self) -> None:
        self.run.folder.write_json(STATE, self.state)


def _config(run: Run, recipe_text: str) -> dict[str, Any]:
    network = build_on_meta(run.recipe.model, run.data.channels, len(run.data.class_names))
    tables = tomllib.loads(recipe_text)
    return {
        **tables,
        "recipe_name": run.recipe.name,
        "recipe_hash": recipes.content_hash(run.recipe),
        "parameters": trainable_parameters(network),
        "data": tables.get("data", {}) | run.folder.read_json("data.json"),
        "environment": run.folder.read_json("environment.json"),
    }
