"""Real runs told to real trackers: the same bits, no point twice, no run lost."""

from __future__ import annotations

import json
import math
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import thriftnet
from tests.conftest import Trained
from tests.conftest import thriftnet as command
from tests.tracking.conftest import read_tensorboard, read_wandb
from tests.training.conftest import TinySource, tiny_recipe
from thriftnet.errors import Interrupted, MissingExtraError, RunFolderError, StorageError, UserError
from thriftnet.run import Run
from thriftnet.tracking import display as tracking
from thriftnet.tracking.display import tracked
from thriftnet.tracking.tracker import TrackedRun
from thriftnet.training.loop import fit
from thriftnet.training.progress import SilentDisplay
from thriftnet.training.run_folder import RunFolder

# 72 images in batches of 6: 12 updates an epoch, so a report each at the tenth.
RECIPE = tiny_recipe(training={"epochs": 3, "batch_size": 6}, schedule={"name": "cosine"})


class Recorded:
    """A tracker that remembers, and fails where it is told to."""

    def __init__(self, fail_in: str = "", at_epoch: int = 0) -> None:
        self.fail_in, self.at_epoch = fail_in, at_epoch
        self.opened: list[TrackedRun] = []
        self.points: list[tuple[int, dict[str, float]]] = []
        self.figures: list[str] = []
        self.outcomes: list[dict[str, Any]] = []
        self.closed: list[bool] = []

    def _maybe_fail(self, method: str, epoch: float = math.inf) -> None:
        if method == self.fail_in and epoch >= self.at_epoch:
            raise ConnectionError("no route\nto host")

    def open(self, run: TrackedRun) -> str:
        self._maybe_fail("open")
        self.opened.append(run)
        return f"tracking: recorded from step {run.steps_done}"

    def log(self, values: Mapping[str, float], step: int) -> None:
        self._maybe_fail("log", values.get("epoch", 0))
        self.points.append((step, dict(values)))

    def figure(self, name: str, png: Path, step: int) -> None:
        self._maybe_fail("figure")
        assert png.is_file()
        self.figures.append(name)

    def outcome(self, values: Mapping[str, Any], step: int) -> None:
        self._maybe_fail("outcome")
        self.outcomes.append(dict(values))

    def close(self, failed: bool) -> None:
        self._maybe_fail("close")
        self.closed.append(failed)


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> Recorded:
    tracker = Recorded()
    monkeypatch.setattr(tracking, "load", lambda name: tracker)
    return tracker


class Lines(SilentDisplay):
    """Remembers what is said at the start; sends a real signal at the end of an epoch."""

    def __init__(self, stop_after: int = 0) -> None:
        self.stop_after, self.lines = stop_after, [""]

    def start(self, lines: list[str], epochs: int, steps_per_epoch: int, epochs_done: int) -> None:
        self.lines = lines

    def epoch(self, row: dict[str, Any], selected: bool) -> None:
        if row["epoch"] == self.stop_after:
            os.kill(os.getpid(), signal.SIGTERM)


def train(path: Path, names: Sequence[str], display: SilentDisplay | None = None, group: str | None = None) -> Run:
    """Train, or go on with what is there; the figures are small stand-ins."""
    run = Run(path)
    with tracked(run, names, display or SilentDisplay(), group) as shown:
        fit(RECIPE, TinySource(), run.folder, shown, resume=run.folder.has("recipe.toml"))
        (path / "figures").mkdir(exist_ok=True)
        for name in ("curves", "learning-rate", "augmented-batch"):
            Image.new("RGB", (7, 5), "red").save(path / "figures" / f"{name}.png")
    return Run(path)


def weights(path: Path) -> bytes:
    return (path / "last.safetensors").read_bytes() + (path / "selected.safetensors").read_bytes()


@pytest.fixture(scope="module")
def untracked(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return train(tmp_path_factory.mktemp("untracked") / "run", [])


def curve(run: Run, column: str) -> list[tuple[int, float]]:
    return [(row["steps"], pytest.approx(row[column], rel=1e-6)) for row in run.history]


class TestWhatIsTold:
    def test_an_epoch_when_it_is_complete_with_its_reports(self, recorded: Recorded, tmp_path: Path) -> None:
        lines = Lines()
        run = train(tmp_path / "run", ["wandb"], lines, group="grid")
        assert lines.lines[-1] == "tracking: recorded from step 0"
        assert [step for step, _ in recorded.points] == [10, 12, 22, 24, 34, 36]
        reports, epochs = recorded.points[::2], recorded.points[1::2]
        assert set(reports[0][1]) == {"report/loss", "report/accuracy", "report/images_per_s", "report/learning_rate"}
        for (_, values), row in zip(epochs, run.history, strict=True):
            assert values == {
                "epoch": row["epoch"], "learning_rate": row["lr"], "images_per_s": row["images_per_s"],
                "train/loss": row["train_loss"], "train/accuracy": row["train_accuracy"],
                "validation/loss": row["validation_loss"], "validation/accuracy": row["validation_accuracy"],
            }  # fmt: skip
        assert recorded.figures == ["curves", "learning-rate", "augmented-batch"]
        (outcome,) = recorded.outcomes
        assert (outcome["status"], outcome["parameters"], outcome["selection"]) == ("completed", 1319, "validation")
        assert outcome["selected/validation/accuracy"] == run.result["selected"]["validation_accuracy"]
        assert recorded.closed == [False]

    def test_the_learning_rate_of_a_report_is_that_of_its_last_update(self, recorded: Recorded, tmp_path: Path) -> None:
        """A cosine from 0.05 over 36 updates: the tenth has index 9."""
        train(tmp_path / "run", ["wandb"])
        expected = 0.05 * (1 + math.cos(math.pi * 9 / 36)) / 2
        assert recorded.points[0][1]["report/learning_rate"] == pytest.approx(expected)

    def test_who_it_is(self, recorded: Recorded, tmp_path: Path) -> None:
        train(tmp_path / "trial-7", ["wandb"], group="grid")
        (told,) = recorded.opened
        assert (told.name, told.group, told.steps_done) == ("trial-7", "grid", 0)
        assert told.folder.is_dir()
        assert told.config["optimizer"]["lr"] == 0.05
        assert (told.config["parameters"], told.config["recipe_name"]) == (1319, "tiny")
        assert told.config["data"]["validation_images"] == 18
        assert told.config["environment"]["precision"] == "fp32"
        assert 'name = "cosine"' in told.recipe

    def test_what_the_test_split_selected_is_labelled(self) -> None:
        paper = tiny_recipe(training={"selection": "test"}, data={"validation_images": 0})

        class Paper(Run):
            recipe = paper  # type: ignore[assignment]

        row = {"epoch": 1, "lr": 0.1, "images_per_s": 9.0, "steps": 4} | {
            f"{split}_{measure}": None if split == "validation" else 0.5
            for split in ("train", "validation", "test")
            for measure in ("loss", "accuracy")
        }
        names = set(tracking.epoch_values(Paper(Path("nowhere")), row))
        assert {"test-selected/loss", "test-selected/accuracy"} < names
        assert not any(name.startswith(("test/", "validation/")) for name in names)

    def test_without_a_tracker_the_display_is_the_given_one(self, tmp_path: Path) -> None:
        display = SilentDisplay()
        with tracked(Run(tmp_path / "run"), [], display) as shown:
            assert shown is display
        train(tmp_path / "run", [])
        assert not (tmp_path / "run" / "tracking.json").exists()


class TestSameRun:
    def test_tracking_changes_no_bit(self, untracked: Run, tmp_path: Path) -> None:
        run = train(tmp_path / "run", ["wandb", "tensorboard"])
        assert weights(run.path) == weights(untracked.path)
        timed = ("images_per_s", "elapsed_s")
        rows, others = (
            [{k: v for k, v in row.items() if k not in timed} for row in r.history] for r in (run, untracked)
        )
        assert rows == others

    @pytest.mark.parametrize("fail_in", ["open", "log", "figure", "outcome", "close"])
    def test_a_tracker_that_fails_is_heard_of_and_loses_nothing(
        self,
        untracked: Run,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
        fail_in: str,
    ) -> None:
        failing, healthy = Recorded(fail_in, at_epoch=2), Recorded()
        monkeypatch.setattr(tracking, "load", lambda name: {"wandb": failing, "tensorboard": healthy}[name])
        run = train(tmp_path / "run", ["wandb", "tensorboard"])
        assert weights(run.path) == weights(untracked.path)
        assert [values["epoch"] for _, values in healthy.points if "epoch" in values] == [1, 2, 3]
        assert len(healthy.outcomes) == 1
        said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("thriftnet:")]
        assert "tracking by wandb failed in" in said[0]
        assert "(no route to host); the run goes on without it and loses nothing" in said[0]
        assert len(said) == (1 if fail_in == "close" else 2)  # once more at the end, where it can be seen
        events = [json.loads(line) for line in (run.path / "events.jsonl").read_text().splitlines()]
        (event,) = [event for event in events if event["event"] == "tracking failed"]
        assert (event["tracker"], event["reason"]) == ("wandb", "no route to host")
        state = json.loads((run.path / "tracking.json").read_text())["trackers"]
        assert state["tensorboard"]["epochs"] == 3
        assert state["wandb"]["epochs"] == {"open": 0, "log": 1}.get(fail_in, 3)


class TestFullDisk:
    def test_a_refused_end_says_that_the_training_is_finished(
        self, recorded: Recorded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        refuse_writes(monkeypatch, "tracking.json", when=lambda: bool(recorded.outcomes))
        with pytest.raises(StorageError, match="no space; the training is finished and its weights are saved") as told:
            train(tmp_path / "run", ["wandb"])
        assert str(told.value).endswith(f"go on with: thriftnet train --resume {tmp_path / 'run'}")
        monkeypatch.undo()
        monkeypatch.setattr(tracking, "load", lambda name: recorded)
        train(tmp_path / "run", [])
        assert RunFolder(tmp_path / "run").read_json("tracking.json")["trackers"]["wandb"]["finished"]

    def test_a_tracker_that_fails_too_hides_no_error(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """The disk is full for the run, for its tracker and for the event that tells of the tracker."""
        monkeypatch.setattr(tracking, "load", lambda name: Recorded("close"))
        refuse_writes(monkeypatch, "result.json", "events.jsonl", when=(tmp_path / "run" / "tracking.json").exists)
        with pytest.raises(StorageError, match=r"result\.json: no space; no epoch was completed yet; go on with: "):
            train(tmp_path / "run", ["wandb"])


def refuse_writes(monkeypatch: pytest.MonkeyPatch, *names: str, when: Callable[[], bool]) -> None:
    """No space for files of the run of these names, as soon as `when`."""
    replace = RunFolder._replace

    def full(folder: RunFolder, files: Mapping[str, bytes], removed: Sequence[str] = ()) -> None:
        refused = sorted(files.keys() & set(names))
        if refused and when():
            raise StorageError(f"could not write {refused[-1]}: no space")
        replace(folder, files, removed)

    monkeypatch.setattr(RunFolder, "_replace", full)


class TestResume:
    def test_goes_on_with_the_same_run_and_no_point_twice(self, recorded: Recorded, tmp_path: Path) -> None:
        with pytest.raises(Interrupted):
            train(tmp_path / "run", ["wandb"], Lines(stop_after=1))
        assert recorded.closed == [True]
        assert recorded.outcomes == []
        train(tmp_path / "run", [])  # the folder knows its trackers
        first, second = recorded.opened
        assert first.id == second.id
        assert second.steps_done == 12
        assert [step for step, _ in recorded.points] == [10, 12, 22, 24, 34, 36]
        assert recorded.closed == [True, False]
        assert len(recorded.outcomes) == 1

    def test_an_epoch_saved_but_not_told_is_told_later(self, recorded: Recorded, tmp_path: Path) -> None:
        """As if the process had been killed between the two."""
        with pytest.raises(Interrupted):
            train(tmp_path / "run", ["wandb"], Lines(stop_after=2))
        folder = RunFolder(tmp_path / "run")
        state = folder.read_json("tracking.json")
        state["trackers"]["wandb"]["epochs"] = 1
        folder.write_json("tracking.json", state)
        del recorded.points[2:]
        train(tmp_path / "run", [])
        assert [step for step, _ in recorded.points] == [10, 12, 24, 34, 36]  # the reports of that epoch are lost

    def test_an_end_is_told_once(self, recorded: Recorded, tmp_path: Path) -> None:
        train(tmp_path / "run", ["wandb"])
        train(tmp_path / "run", [])
        assert len(recorded.outcomes) == 1
        assert len(recorded.figures) == 3

    @pytest.mark.parametrize("wrong", [3, *({"id": "x", "epochs": of, "finished": False} for of in (-1, "1", 1.5))])
    def test_a_damaged_tracking_file_is_said(self, recorded: Recorded, tmp_path: Path, wrong: object) -> None:
        with pytest.raises(Interrupted):
            train(tmp_path / "run", ["wandb"], Lines(stop_after=1))
        RunFolder(tmp_path / "run").write_json("tracking.json", {"group": None, "trackers": {"wandb": wrong}})
        with pytest.raises(RunFolderError, match=r"tracking\.json is damaged; restore it from a copy, or delete it"):
            train(tmp_path / "run", [])

    def test_a_run_goes_on_where_the_library_is_missing(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        with pytest.raises(Interrupted):
            train(tmp_path / "run", ["tensorboard"], Lines(stop_after=1))
        monkeypatch.setitem(sys.modules, "tensorboard", None)
        assert train(tmp_path / "run", []).result["status"] == "completed"
        assert "pip install 'thriftnet[tensorboard]'" in capsys.readouterr().err


class TestCommand:
    @pytest.mark.parametrize("name", ["wandb", "tensorboard"])
    def test_a_missing_extra_is_named_before_anything_is_made(
        self, shared_run: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
    ) -> None:
        monkeypatch.setitem(sys.modules, name, None)
        outcome = command(
            "train", shared_run.recipe, "--data", shared_run.data, "--track", name, "--out", tmp_path / "r"
        )
        assert outcome.status == MissingExtraError.exit_status == 2
        assert (
            outcome.error
            == f"thriftnet: tracking by {name} needs an extra; install it: pip install 'thriftnet[{name}]'"
        )
        assert not (tmp_path / "r").exists()

    def test_an_unknown_tracker_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(UserError, match="there is no tracker 'mlflow'; there are wandb and tensorboard"):
            thriftnet.train(RECIPE, "digits", out=tmp_path / "run", track=["mlflow"])
        assert not (tmp_path / "run").exists()
        assert "there is no tracker 'mlflow'" in command("train", "digits-demo", "--track", "mlflow").error

    def test_resume_takes_the_runs_own_trackers(self, trained: Trained) -> None:
        outcome = command("train", "--resume", trained.path, "--track", "wandb")
        assert "remove --track" in outcome.error

    def test_training_and_evaluation_reach_both_trackers(self, shared_run: Trained, tmp_path: Path) -> None:
        out = tmp_path / "run"
        options = ("--data", shared_run.data, "--epochs", 2, "--out", out, "--track", "wandb", "--track", "tensorboard")
        outcome = command("train", shared_run.recipe, *options)
        assert outcome.status == 0, outcome.stderr
        assert outcome.last_line == str(out)
        assert "tracking: wandb offline (no login is configured); later: wandb sync " in outcome.stderr
        assert f"tracking: tensorboard --logdir {out}/tracking/tensorboard" in outcome.stderr
        evaluated = command("evaluate", out, "--split", "test", "--json")
        assert evaluated.status == 0, evaluated.stderr
        accuracy = json.loads(evaluated.stdout)["accuracy"]
        board, (training, evaluation) = read_tensorboard(out), read_wandb(out)
        assert training.run.run_id == evaluation.run.run_id
        assert training.run.display_name == "run"
        assert board.scalars["result/evaluation/test/accuracy"] == [(8, pytest.approx(accuracy))]
        assert evaluation.summary["evaluation/test/accuracy"] == pytest.approx(accuracy)
        assert "figures/confusion-test" in board.images
        assert "figures/confusion-test" in evaluation.points
