"""`thriftnet landscape`: what it measures around real runs, what it writes, what it refuses."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import thriftnet
from tests.conftest import Trained
from tests.conftest import thriftnet as command
from tests.training.conftest import TinySource
from thriftnet.run import Run
from thriftnet.run_landscape import Landscape, Settings, _labels, fixed_subset

QUICK = {"images": 40, "grid": 3, "lines": 2, "steps": 2}
FLAGS = [word for name, value in QUICK.items() for word in (f"--{name}", value)]


@pytest.fixture(scope="module")
def other_run(shared_run: Trained, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same network with another seed, trained with AMP."""
    path = tmp_path_factory.mktemp("amp") / "amp"
    outcome = command(
        "train", shared_run.recipe, "--data", shared_run.data, "--out", path, "--seed", 1, "--epochs", 3,
        "--set", "perturbation={ name = 'amp' }", "--set", "model.dropout=0.0",
    )  # fmt: skip
    assert outcome.status == 0, outcome.stderr
    return path


@pytest.fixture(scope="module")
def measured(shared_run: Trained, other_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Landscape:
    out = tmp_path_factory.mktemp("landscape") / "both"
    return thriftnet.landscape([shared_run.path, other_run], out=out, **QUICK)  # type: ignore[arg-type]


def weights(path: Path) -> bytes:
    return (path / "selected.safetensors").read_bytes()


def test_two_runs_are_measured_and_written(measured: Landscape, shared_run: Trained, other_run: Path) -> None:
    with np.load(measured.folder / "landscape.npz") as arrays:
        assert arrays["grid_coefficients"].tolist() == [-1, 0, 1]
        assert arrays["line_coefficients"].tolist() == [-1, -0.5, 0, 0.5, 1]
        assert arrays["fractions"].tolist() == [0, 0.25, 0.5, 0.75, 1]
        lines, grids, between = arrays["lines"], arrays["grids"], arrays["between"]
    assert (lines.shape, grids.shape, between.shape) == ((2, 2, 5), (2, 3, 3), (5,))
    for number, around in enumerate(measured.runs):
        # The centre of every line and of the grid is the solution, and the grid's axes are the first two lines.
        assert lines[number, :, 2].tolist() == [around.loss] * 2
        assert grids[number, :, 1].tolist() == lines[number, 0, ::2].tolist()
        assert grids[number, 1].tolist() == lines[number, 1, ::2].tolist()
        assert around.sharpness.rise > 0
    stored = json.loads((measured.folder / "landscape.json").read_text())
    assert stored == json.loads(json.dumps(measured.as_dict()))
    assert [run["run"] for run in stored["runs"]] == [str(shared_run.path), str(other_run)]
    assert [run["seed"] for run in stored["runs"]] == [0, 1]
    assert (stored["images_measured"], stored["split"], stored["precision"]) == (40, "train", "fp32")
    assert {path.name for path in measured.folder.iterdir()} == {
        "landscape.json", "landscape.npz", "landscape.html", "contours.png", "contours.svg", "lines.png", "lines.svg",
        "between.png", "between.svg",
    }  # fmt: skip


def test_runs_of_equal_names_are_told_apart_by_their_folders() -> None:
    runs = [Run(Path("a/deep/folder") / name / "seed-0") for name in ("amp", "sgd")]
    assert _labels(runs) == ["amp/seed-0", "sgd/seed-0"]
    assert _labels([runs[0], Run(Path("seed-1"))]) == ["seed-0", "seed-1"]


def test_the_loss_at_the_solution_is_that_of_evaluation(trained: Trained) -> None:
    measurement = thriftnet.evaluate(trained.path, "train")
    around = thriftnet.landscape([trained.path], split="train", out=trained.path / "around", **QUICK | {"images": 72})
    assert around.runs[0].loss == pytest.approx(measurement.evaluation.loss, rel=1e-5)
    assert around.between is None
    assert around.context["images_measured"] == 72


def test_the_page_says_what_was_found_and_how(measured: Landscape, shared_run: Trained) -> None:
    page = measured.page.read_text(encoding="utf-8")
    assert page.count("<svg") == 3
    flattest = min(measured.runs, key=lambda around: around.sharpness.rise).label
    assert f"{flattest} is the flattest" in page
    assert "One run each" in page
    assert f"thriftnet landscape {shared_run.path}" in page
    assert "stored with the weights" in page


def test_the_command_prints_the_numbers_and_last_the_page(shared_run: Trained, tmp_path: Path) -> None:
    shutil.copytree(shared_run.path, tmp_path / "run")
    before = weights(tmp_path / "run")
    outcome = command("landscape", tmp_path / "run", *FLAGS, "--batchnorm", "re-estimated", "--seed", 3)
    assert outcome.status == 0, outcome.stderr
    assert outcome.last_line == str(tmp_path / "landscape-run" / "landscape.html")
    assert "adaptive sharpness (rho 0.1)" in outcome.stdout
    assert "run: measured in" in outcome.stderr
    assert weights(tmp_path / "run") == before
    stored = json.loads((tmp_path / "landscape-run" / "landscape.json").read_text())
    again = command("landscape", tmp_path / "run", *FLAGS, "--batchnorm", "re-estimated", "--seed", 3, "--json")
    assert json.loads(again.stdout)["runs"] == stored["runs"]  # same seed, same numbers
    assert stored["batchnorm"] == "re-estimated"


def test_the_test_split_is_opened_only_when_asked_for_and_that_is_recorded(trained: Trained) -> None:
    command("landscape", trained.path, *FLAGS)
    assert "test set opened" not in (trained.path / "events.jsonl").read_text()
    assert command("landscape", trained.path, *FLAGS, "--split", "test").status == 0
    last = json.loads((trained.path / "events.jsonl").read_text().splitlines()[-1])
    assert (last["event"], last["why"]) == ("test set opened", "landscape")


def test_different_networks_are_refused(shared_run: Trained, tmp_path: Path) -> None:
    for name, change in (("wide", "model.widths=[4,16]"), ("gelu", "model.activation=gelu")):
        options = ("--data", shared_run.data, "--epochs", 1, "--set", change, "--out", tmp_path / name)
        assert command("train", shared_run.recipe, *options).status == 0
        outcome = command("landscape", shared_run.path, tmp_path / name, *FLAGS, "--out", tmp_path / "out")
        assert outcome.status == 2
        assert f"are different networks (in {change.split('=')[0]})" in outcome.error
    assert not (tmp_path / "out").exists()


def test_runs_of_different_images_are_refused(shared_run: Trained, tmp_path: Path) -> None:
    options = ("--data", shared_run.data, "--epochs", 1, "--set", "training.split_seed=5", "--out", tmp_path / "split")
    assert command("train", shared_run.recipe, *options).status == 0
    outcome = command("landscape", shared_run.path, tmp_path / "split", *FLAGS)
    assert outcome.status == 2
    assert "were trained on different images (another training.split_seed)" in outcome.error


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--grid", 4], "--grid 4 must be odd"),
        (["--span", 0], "--span 0 must be above 0"),
        (["--rho", -1], "--rho -1 must be above 0"),
    ],
)
def test_what_cannot_be_measured_is_refused(shared_run: Trained, flags: list[object], says: str) -> None:
    outcome = command("landscape", shared_run.path, *flags)
    assert outcome.status == 2
    assert says in outcome.error


def test_a_subset_is_always_the_same_and_has_every_class() -> None:
    images = TinySource().train()
    some, again = fixed_subset(images, 30), fixed_subset(images, 30)
    assert torch.equal(some.images, again.images)
    assert len(some) == 30
    assert torch.bincount(some.labels).min() > 4  # a third each; every third image would be of one class
    more = {image.numpy().tobytes() for image in fixed_subset(images, 60).images}
    assert {image.numpy().tobytes() for image in some.images} <= more
    assert len(fixed_subset(images, 1000)) == 90


def test_the_defaults_of_command_library_and_settings_agree() -> None:
    import inspect

    from thriftnet import cli

    settings = Settings()
    of_settings = {
        "split": settings.split, "images": settings.images, "grid": settings.grid_points, "lines": settings.lines,
        "span": settings.span, "rho": settings.rho, "steps": settings.ascent_steps, "batchnorm": settings.batchnorm,
        "seed": settings.seed,
    }  # fmt: skip
    for function in (cli.landscape, thriftnet.landscape):
        defaults = {name: p.default for name, p in inspect.signature(function).parameters.items()}
        assert {name: defaults[name] for name in of_settings} == of_settings
