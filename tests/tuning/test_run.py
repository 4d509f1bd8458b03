"""The commands as a user gives them: `study run`, stopped and given again, `study show`, `study list`."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import thriftnet
from tests.tracking.conftest import read_tensorboard, read_wandb
from tests.tracking.test_display import curve
from tests.tuning.conftest import GRID, Place
from thriftnet.run import Run
from thriftnet.tuning.trial import Outcome, run_trial

COMMAND = [sys.executable, "-m", "thriftnet", "study", "run"]


def command(place: Place, *arguments: object) -> list[str]:
    study = place.folder / "grid.toml"
    study.write_text(GRID, encoding="utf-8")
    return list(map(str, [study, "--data", place.folder / "tiny.npz", "--out", place.out, *arguments]))


def shown(place: Place) -> dict[str, Any]:
    outcome = thriftnet("study", "show", place.out, "--json")
    assert outcome.status == 0, outcome.stderr
    return dict(json.loads(outcome.stdout))


def test_runs_shows_and_writes_figures_and_a_page(place: Place) -> None:
    outcome = thriftnet("study", "run", *command(place))
    assert outcome.status == 0, outcome.stderr
    assert outcome.last_line == str(place.out)
    assert "4 of 4 trials begun: 4 completed. Best: trial " in outcome.stdout
    assert [line.split()[0] for line in outcome.stderr.splitlines()] == ["1/4", "2/4", "3/4", "4/4"]
    drawn = {path.name for path in (place.out / "figures").iterdir()}
    assert {
        "history.svg",
        "importance.svg",
        "parallel-coordinates.png",
        "heat-map-optimizer.lr-optimizer.momentum.svg",
    } <= drawn
    page = place.folder / "page.html"
    outcome = thriftnet("study", "show", place.out, "--html", page)
    assert outcome.last_line == str(page)
    assert page.read_text(encoding="utf-8").count("<svg") == 4
    facts = shown(place)
    assert [trial["state"] for trial in facts["trials"]] == ["completed"] * 4
    assert facts["best"] == max(facts["trials"], key=lambda trial: (trial["objective"], -trial["number"]))["number"]
    assert sum(facts["importance"].values()) == pytest.approx(1)
    # Another --set is another study, and the page's own command goes on with this one.
    assert (
        "differs in training.epochs" in thriftnet("study", "run", *command(place, "--set", "training.epochs=5")).error
    )
    again = thriftnet("study", "run", place.out / "study.toml", "--data", place.folder / "tiny.npz", "--out", place.out)
    assert (again.status, again.stderr) == (0, "")


def test_a_study_of_which_every_trial_failed_says_so(place: Place) -> None:
    (place.folder / "study.toml").write_text(
        GRID.replace("optimizer.momentum = { values = [0.0, 0.9] }", "model.widths = { values = [[900, 900]] }"),
        encoding="utf-8",
    )
    ended = thriftnet("study", "run", place.folder / "study.toml", "--data", place.data, "--out", place.out)
    assert ended.status == 2
    assert "thriftnet: all 2 trials failed, trial 0 because tiny has" in ended.stderr.splitlines()[-1]
    assert thriftnet("study", "show", place.out).status == 0


def test_a_study_is_drawn_while_it_runs_and_where_it_was_stopped(place: Place) -> None:
    figures = place.out / "figures"
    with place.search(GRID) as search:
        outcome = thriftnet("study", "show", place.out)
        assert (outcome.stdout.count("figures"), figures.exists()) == (0, False)  # nothing is completed
        for _ in range(3):
            job = search.next_job()
            assert job is not None
            search.finish(job, run_trial(job, lambda epoch, value: False))
        assert search.next_job() is not None
        outcome = thriftnet("study", "show", place.out)
        assert outcome.last_line == f"figures: {figures}"
        assert "4 of 4 trials begun: 3 completed, 1 running." in outcome.stdout
        running = {path.name for path in figures.iterdir()}
        shutil.rmtree(figures)
    earlier, own = figures / "heat-map-another-pair.svg", figures / "notes.txt"
    figures.mkdir()
    for path in (earlier, own):
        path.touch()
    outcome = thriftnet("study", "show", place.out, "--json")
    assert (outcome.status, outcome.stderr) == (0, f"figures: {figures}\n")
    assert json.loads(outcome.stdout)["best"] is not None
    names = ("heat-map-optimizer.lr-optimizer.momentum", "history", "parallel-coordinates")
    assert running == {name + ending for name in names for ending in (".png", ".svg")}
    assert {path.name for path in figures.iterdir()} == {*running, "notes.txt"}


def test_where_figures_cannot_be_written_the_study_can_still_be_read(place: Place) -> None:
    place.run(GRID)
    (place.out / "figures").touch()
    assert (
        "figures: a file of that name is in the way; the study is safe" in thriftnet("study", "show", place.out).error
    )
    outcome = thriftnet("study", "show", place.out, "--no-figures")
    assert (outcome.status, outcome.stdout.count("figures")) == (0, 0)


def test_trials_draw_no_figures_of_their_own_and_their_page_has_them(place: Place) -> None:
    assert thriftnet("study", "run", *command(place)).status == 0
    trial = place.out / "trials" / "0000"
    assert not (trial / "figures").exists()
    page = Path(thriftnet("report", trial).last_line).read_text("utf-8")
    assert page.count("<svg") >= 3


@pytest.mark.parametrize("engine", [(), ("--engine", "processes", "--workers", "1")])
@pytest.mark.parametrize("tracker", ["tensorboard", "wandb"])
def test_trackers_are_told_of_every_trial(place: Place, tracker: str, engine: tuple[str, ...]) -> None:
    """Read back from the files that TensorBoard, or W&B offline, wrote."""
    outcome = thriftnet("study", "run", *command(place, "--track", tracker, *engine))
    assert outcome.status == 0, outcome.stderr
    for number in range(4):
        run = Run(place.out / "trials" / f"{number:04d}")
        state = json.loads((run.path / "tracking.json").read_text())
        assert (state["group"], state["trackers"][tracker]["epochs"]) == ("grid", 2)
        assert state["trackers"][tracker]["finished"]
        points, figures = told(run, tracker)
        assert len(run.history) == 2
        assert points["train/loss"] == curve(run, "train_loss")
        assert points["validation/accuracy"] == curve(run, "validation_accuracy")
        assert "figures/curves" in figures


def told(run: Run, tracker: str) -> tuple[dict[str, list[tuple[int, Any]]], set[str]]:
    """Points by name, and the names of figures."""
    if tracker == "tensorboard":
        board = read_tensorboard(run.path)
        return board.scalars, set(board.images)
    (offline,) = read_wandb(run.path)
    assert (offline.run.display_name, offline.run.run_group) == (f"trial {int(run.path.name)}", "grid")
    assert offline.config["optimizer"]["lr"] == run.recipe.optimizer.lr
    assert offline.config["optimizer"]["momentum"] == run.recipe.optimizer.momentum
    assert (offline.summary["status"], offline.exit_code) == ("completed", 0)
    return offline.points, {name for name in offline.points if name.startswith("figures/")}


def test_a_pruned_trials_last_epoch_is_told_too(place: Place) -> None:
    with place.search(GRID) as search:
        search.track = ("tensorboard",)
        job = search.next_job()
        assert job is not None
        assert run_trial(job, lambda epoch, value: True) == Outcome("pruned")
    assert json.loads((job.path / "tracking.json").read_text())["trackers"]["tensorboard"]["epochs"] == 1


def test_an_unknown_tracker_is_refused_before_anything_is_made(place: Place) -> None:
    outcome = thriftnet("study", "run", *command(place, "--track", "paper"))
    assert (outcome.status, outcome.error) == (
        2, "thriftnet: there is no tracker 'paper'; there are wandb and tensorboard",
    )  # fmt: skip
    assert not place.out.exists()


def test_a_terminated_study_says_how_to_go_on_and_does(place: Place) -> None:
    """SIGTERM while two workers train; nothing is left behind; given again, every trial is there once."""
    arguments = command(place, "--set", "training.epochs=12", "--engine", "processes", "--workers", "2")
    with subprocess.Popen([*COMMAND, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            deadline = time.monotonic() + 120
            while not list(place.out.glob("trials/*.running-1/metrics.csv")):
                assert time.monotonic() < deadline
                assert process.poll() is None, process.stderr.read() if process.stderr else ""
                time.sleep(0.05)
            children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
            saved = [path.parent.name[:4] for path in place.out.glob("trials/*.running-1/metrics.csv")]
            told = time.monotonic()
            process.send_signal(signal.SIGTERM)
            stdout, stderr = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == 143, stderr
    assert time.monotonic() - told < 30
    assert stdout == ""
    last = stderr.splitlines()[-1]
    assert last.startswith("thriftnet: interrupted; ")
    assert "of 4 trials have ended" in last
    assert last.endswith("give the same command again to go on")
    assert children
    assert not [child for child in children if Path(f"/proc/{child}").exists()]
    assert thriftnet("study", "run", *command(place, "--set", "training.epochs=12")).status == 0
    facts = shown(place)
    assert [(trial["number"], trial["state"], trial["epochs"]) for trial in facts["trials"]] == [
        (number, "completed", 12) for number in range(4)
    ]
    for name in saved:  # nothing that was saved is trained again
        assert (place.out / "trials" / name / "events.jsonl").read_text().count('"started"') == 1


def test_a_killed_study_leaves_no_worker_and_goes_on(place: Place) -> None:
    arguments = command(place, "--set", "training.epochs=12", "--engine", "processes", "--workers", "1")
    with subprocess.Popen([*COMMAND, *arguments], stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 120
        while not list(place.out.glob("trials/*.running-1/metrics.csv")):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        process.kill()
    deadline = time.monotonic() + 20
    while any(Path(f"/proc/{child}").exists() for child in children):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert children
    assert thriftnet("study", "run", *command(place, "--set", "training.epochs=12")).status == 0
    facts = shown(place)
    assert [(trial["state"], trial["epochs"]) for trial in facts["trials"]] == [("completed", 12)] * 4


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--workers", "2"], "--workers 2 belongs to --engine processes or ray"),
        (["--address", "auto"], "--address auto belongs to --engine ray"),
        (["--engine", "ray"], "--engine ray needs --address"),
        (["--trials", "3"], "a grid has exactly its points"),
        (["--storage", "nonsense://x"], "--storage nonsense://x cannot be opened"),
    ],
)
def test_options_that_cannot_work_are_refused(place: Place, arguments: list[str], complaint: str) -> None:
    outcome = thriftnet("study", "run", *command(place, *arguments))
    assert outcome.status == 2
    assert complaint in outcome.error


def test_what_is_no_study_is_told(tmp_path: Path) -> None:
    assert "is not a study's folder" in thriftnet("study", "show", tmp_path).error


def test_without_optuna_the_extra_is_named(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    assert thriftnet("study", "run", *command(place)).error.endswith("install it with: pip install 'thriftnet[tune]'")


def test_without_ray_the_extra_is_named(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    outcome = thriftnet("study", "run", *command(place, "--engine", "ray", "--address", "local"))
    assert outcome.error.endswith("install it with: pip install 'thriftnet[tune,ray]'")


def test_lists_the_packaged_studies() -> None:
    rows = json.loads(thriftnet("study", "list", "--json").stdout)
    assert {(row["name"], row["trials"]) for row in rows} == {("xu-grid", 16), ("ramavath-sweep", 30)}
    assert "xu-resnetlarge" in thriftnet("study", "list").stdout
