"""Two real processes against one: loss curves, weights, resuming, errors, one writer; and torchrun itself.

Tolerances: steps in float64 agree to 1e-10. Whole trainings in float32 agree to 1e-5 of the loss over all steps; the
difference is the order in which float32 sums are taken.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.conftest import TwoProcesses, write_tiny_data
from tests.distributed.worker import TRAININGS, steps, train, without_dropout
from tests.training.conftest import tiny_recipe
from thriftnet import api
from thriftnet import recipe as recipes
from thriftnet.distributed.processes import ALONE
from thriftnet.training.run_folder import RunFolder

LOSSES = ("train_loss", "validation_loss")


def assert_same_curve(found: list[dict[str, Any]], expected: list[dict[str, Any]]) -> None:
    assert len(found) == len(expected)
    for row, wanted in zip(found, expected, strict=True):
        for key in ("epoch", "steps", "lr", "train_accuracy", "validation_accuracy"):
            assert row[key] == wanted[key], key
        for key in LOSSES:
            assert row[key] == pytest.approx(wanted[key], rel=1e-5), key


def assert_same_weights(found: RunFolder, expected: RunFolder, tolerance: float) -> None:
    for which in ("last", "selected"):
        tensors, wanted = found.read_weights(which), expected.read_weights(which)
        assert tensors.keys() == wanted.keys()
        for name, tensor in tensors.items():
            torch.testing.assert_close(tensor, wanted[name], rtol=tolerance, atol=tolerance)


def test_steps_equal_those_of_one_process(two_processes: TwoProcesses, tmp_path: Path) -> None:
    expected = steps(ALONE, tmp_path)
    for found in two_processes.found("steps"):
        assert found.keys() == expected.keys()
        for name, (losses, correct, state) in expected.items():
            assert found[name][0] == pytest.approx(losses, rel=1e-10)
            assert found[name][1] == correct
            for tensor, wanted in zip(found[name][2], state, strict=True):
                torch.testing.assert_close(tensor, wanted, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", TRAININGS)
def test_two_processes_give_the_curve_and_weights_of_one(
    two_processes: TwoProcesses, tmp_path: Path, name: str
) -> None:
    two_processes.found("trainings")
    together, alone = RunFolder(two_processes.folder / name), RunFolder(tmp_path / "alone")
    assert train(without_dropout(**TRAININGS[name]), alone.path, ALONE) == ""
    assert_same_curve(together.read_history(), alone.read_history())
    assert_same_weights(together, alone, 1e-5)


def test_only_the_main_process_writes(two_processes: TwoProcesses, tmp_path: Path) -> None:
    two_processes.found("trainings")
    name = "uneven batches"
    together, alone = two_processes.folder / name, tmp_path / "alone"
    train(without_dropout(**TRAININGS[name]), alone, ALONE)
    assert {path.name for path in together.iterdir()} == {path.name for path in alone.iterdir()}
    assert not list(two_processes.folder.glob("*-of-rank-1"))
    events = [json.loads(line)["event"] for line in (together / "events.jsonl").read_text().splitlines()]
    assert events == [json.loads(line)["event"] for line in (alone / "events.jsonl").read_text().splitlines()]
    environment = RunFolder(together).read_json("environment.json")
    assert (environment["world_size"], environment["backend"]) == (2, "gloo")
    environment = RunFolder(alone).read_json("environment.json")
    assert (environment["world_size"], environment["backend"]) == (1, None)


def test_a_run_goes_on_with_another_number_of_processes(two_processes: TwoProcesses) -> None:
    said, said_by_the_other = two_processes.found("resumes")
    assert said[0].startswith("Interrupted: interrupted; epoch 1 of 3 is saved")  # two: a signal to the main one alone
    assert said[1].startswith("Interrupted: interrupted; epoch 2 of 3 is saved")  # one
    assert said[2] == ""  # two again
    assert [message.split(";")[0] for message in said_by_the_other] == ["Interrupted: interrupted", ""]
    parts, whole = RunFolder(two_processes.folder / "parts"), RunFolder(two_processes.folder / "uneven batches")
    assert_same_curve(parts.read_history(), whole.read_history())
    assert_same_weights(parts, whole, 1e-5)


def test_two_processes_resume_bit_for_bit_with_dropout(two_processes: TwoProcesses) -> None:
    two_processes.found("resumes")
    parts, whole = (RunFolder(two_processes.folder / name) for name in ("dropout parts", "dropout"))
    assert_same_weights(parts, whole, 0.0)
    assert [row["train_loss"] for row in parts.read_history()] == [row["train_loss"] for row in whole.read_history()]


def test_two_processes_resume_within_an_epoch_bit_for_bit_with_dropout(two_processes: TwoProcesses) -> None:
    said, _ = two_processes.found("within_an_epoch")
    assert said.startswith("interrupted; epoch 2 of 2 is saved up to step 10 of 18; go on with: ")
    parts, whole = (RunFolder(two_processes.folder / name) for name in ("within parts", "within whole"))
    assert_same_weights(parts, whole, 0.0)
    assert [row["train_loss"] for row in parts.read_history()] == [row["train_loss"] for row in whole.read_history()]


FAILURES = {
    "data of one process": ("DataError: process 1 of 2: image 7 is damaged", "DataError: image 7 is damaged"),
    "bug in one process": ("ProcessLostError: process 1 of 2 failed (KeyError: 'a bug')", "KeyError: 'a bug'"),
    "another recipe": ("UserError: process 1 of 2 has another recipe (", "UserError: process 1 of 2 has another"),
    "other data": ("UserError: process 1 of 2 has another data fingerprint (", "UserError: process 1 of 2 has another"),
    "batch too small": ("RecipeError: training.batch_size = 1 is shared by 2 processes",) * 2,
    "last batch too small": ("RecipeError: runtime.sync_batchnorm = false needs an image in each of 2 processes",) * 2,
    "full disk": ("StorageError: no space is left; no epoch was completed yet", "StorageError: process 0 of 2: no"),
    "non-finite": ("NonFiniteLossError: the loss is nan in epoch 1, step 2 of 4",) * 2,
}


@pytest.mark.parametrize("name", FAILURES)
def test_an_error_in_one_process_ends_both(two_processes: TwoProcesses, name: str) -> None:
    for found, expected in zip(two_processes.found("failures"), FAILURES[name], strict=True):
        assert found[name].startswith(expected)


def test_a_non_finite_loss_is_logged_once(two_processes: TwoProcesses) -> None:
    two_processes.found("failures")
    events = (two_processes.folder / "non-finite" / "events.jsonl").read_text()
    assert events.count("non-finite loss") == 1


@pytest.mark.parametrize(
    ("command", "says"),
    [
        ("unknown recipe", "thriftnet: no recipe named 'nothing-of-this-name'"),
        ("no data", "thriftnet: there is no data at "),
        ("nothing to do", "thriftnet: name a recipe"),
        ("no run", "thriftnet: run folder "),
    ],
)
def test_a_command_fails_with_one_message_and_one_status(two_processes: TwoProcesses, command: str, says: str) -> None:
    main, other = (found[command] for found in two_processes.found("command_line"))
    assert main[0] == other[0] == 2
    assert main[2].startswith(says)
    assert main[2].count("\n") == 1
    assert main[1] == other[1] == other[2] == ""


def test_a_process_that_vanishes_leaves_one_line(two_processes: TwoProcesses) -> None:
    said = str(two_processes.ranks[0]["lost"])
    assert said.startswith("ProcessLostError: another process of this training has ended or cannot be reached")
    assert f"go on with: thriftnet train --resume {two_processes.folder / 'lost'}" in said


def test_torchrun_starts_the_command_and_a_signal_stops_all(tmp_path: Path) -> None:
    data, recipe, run = tmp_path / "tiny.npz", tmp_path / "tiny.toml", tmp_path / "run"
    write_tiny_data(data)
    recipe.write_text(recipes.to_toml(tiny_recipe(training={"epochs": 10_000}, runtime={"threads": "auto"})))
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = ["-m", "thriftnet", "train", str(recipe), "--data", str(data), "--out", str(run)]
    process = subprocess.Popen([*torchrun, *command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        deadline = time.monotonic() + 90
        while not (run / "metrics.csv").exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        _, stderr = process.communicate(timeout=60)
    finally:
        process.kill()
    said = [line for line in stderr.splitlines() if line.startswith("thriftnet: ")]
    assert len(said) == 1, stderr
    assert said[0].startswith("thriftnet: interrupted; epoch ")
    assert said[0].endswith(f"go on with: thriftnet train --resume {run}")
    assert stderr.count("tiny: 1,319 trainable parameters") == 1
    assert "Error" not in stderr.split("SignalException")[0]  # torchrun's own end, not ours, is a traceback
    events = [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]
    assert [event["event"] for event in events].count("started") == 1
    assert (events[-1]["event"], events[-1]["signal"]) == ("interrupted", signal.SIGTERM)
    done = len(RunFolder(run).read_history())
    assert events[-1]["epoch"] == done >= 1
    assert api.load_run(run).result["status"] == "running"
