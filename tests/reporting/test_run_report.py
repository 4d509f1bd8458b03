"""What a run folder keeps for its figures, and what its page makes of it."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.conftest import Trained, thriftnet, write_tiny_data
from tests.training.conftest import tiny_recipe
from thriftnet import recipe as recipes
from thriftnet.evaluation.metrics import Evaluation
from thriftnet.reporting.run_report import _paper
from thriftnet.run import Run
from thriftnet.training import loop
from thriftnet.training.run_folder import RunFolder
from thriftnet.training.step import train_step


def test_mixed_and_resized_images_are_those_of_the_first_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[torch.Tensor] = []

    def step(learner: Any, images: torch.Tensor, *rest: Any) -> Any:
        shown.append(images)
        return train_step(learner, images, *rest)

    monkeypatch.setattr(loop, "train_step", step)
    sections = {
        "data": {"mean": [0.25], "std": [0.5]},
        "augment": {"mix": {"name": "ricap", "beta": 1.0}},
        "training": {"epochs": 2, "progressive": [{"side_px": 12, "until": 0.5}]},
    }
    (tmp_path / "tiny.toml").write_text(recipes.to_toml(tiny_recipe(**sections)), encoding="utf-8")
    write_tiny_data(tmp_path / "tiny.npz")
    run = tmp_path / "run"
    outcome = thriftnet("train", tmp_path / "tiny.toml", "--data", tmp_path / "tiny.npz", "--out", run)
    assert outcome.status == 0, outcome.stderr
    with np.load(run / "figures" / "augmented-batch.npz") as figure:
        originals, augmented = figure["originals"], figure["augmented"]
    assert originals.shape == (16, 16, 16, 3)
    expected = (shown[0][:16, 0] * 0.5 + 0.25) * 255
    np.testing.assert_allclose(augmented[..., 0], expected.numpy(), atol=0.51)
    assert (run / "figures" / "augmented-batch.png").exists()


def test_evaluation_keeps_the_images_of_the_confusion_matrix_so_that_a_report_needs_no_data(trained: Trained) -> None:
    outcome = thriftnet("evaluate", trained.path, "--data", trained.data)
    assert outcome.status == 0, outcome.stderr
    with np.load(trained.path / "figures" / "confusion-test.npz") as kept:
        images, true, predicted = kept["images"], kept["true"], kept["predicted"]
    evaluation = Evaluation.from_dict(json.loads((trained.path / "evaluation-test.json").read_text()))
    for pair in set(zip(true.tolist(), predicted.tolist(), strict=True)):
        shown = int(((true == pair[0]) & (predicted == pair[1])).sum())
        assert shown == min(evaluation.confusion[pair[0]][pair[1]], 12)
    trained_on = np.load(trained.data)
    stored = {image.tobytes() for image in trained_on["x_test"][:, 0]}
    assert all(image[..., 0].tobytes() in stored for image in images)
    moved = trained.data.with_suffix(".away")
    trained.data.rename(moved)
    try:
        report = write_and_read(trained)
    finally:
        moved.rename(trained.data)
    assert report.count("<img ") == len(images)


def test_a_run_evaluated_by_an_older_version_shows_its_matrix_without_images(trained: Trained) -> None:
    assert thriftnet("evaluate", trained.path, "--data", trained.data).status == 0
    (trained.path / "figures" / "confusion-test.npz").unlink()
    report = write_and_read(trained)
    assert "<img" not in report
    assert '<table class="grid' in report


@pytest.mark.parametrize("damage", ["cut", "another figure's", "not fitting"])
def test_a_damaged_figure_file_is_named(trained: Trained, damage: str) -> None:
    assert thriftnet("evaluate", trained.path, "--data", trained.data).status == 0
    figures = trained.path / "figures"
    path = figures / "confusion-test.npz"
    if damage == "cut":
        content = path.read_bytes()[:-40]
    elif damage == "another figure's":
        content = (figures / "mistakes-test.npz").read_bytes()
    else:
        with np.load(path) as kept:
            parts = dict(kept)
        np.savez(buffer := io.BytesIO(), **{**parts, "true": parts["true"][:1]})
        content = buffer.getvalue()
    # With its checksum, as a file that a faulty program has written.
    RunFolder(trained.path).write_bytes("figures/confusion-test.npz", content)
    error = thriftnet("report", trained.path).error
    assert f"{path} is damaged (" in error
    assert "draw it again by evaluating" in error


def write_and_read(trained: Trained) -> str:
    outcome = thriftnet("report", trained.path)
    assert outcome.status == 0, outcome.stderr
    return Path(outcome.last_line).read_text("utf-8")


def test_a_reduced_run_says_so_beside_its_number(trained: Trained) -> None:
    folder = RunFolder(trained.path)
    folder.write_recipe(recipes.with_changes(folder.read_recipe(), {"reduced": "2 of 8 epochs"}))
    assert re.search(r"<h1>[^<]*\(reduced: 2 of 8 epochs\)[^<]*</h1>", write_and_read(trained))


def test_a_validation_accuracy_that_is_claimed_is_not_compared_with_the_test_images(trained: Trained) -> None:
    assert thriftnet("evaluate", trained.path, "--data", trained.data).status == 0
    folder = RunFolder(trained.path)
    claim = {"claimed_validation_accuracy": 84.5, "claim": "abstract: peak validation accuracy"}
    folder.write_recipe(recipes.with_changes(folder.read_recipe(), {"expect": claim}))
    report = write_and_read(trained)
    assert "abstract: peak validation accuracy" in report
    assert "an accuracy on validation images, which the source does not name" in report
    assert "Measured minus claimed" not in report


def test_what_a_run_changed_of_a_papers_recipe_stands_beside_the_paper(trained: Trained) -> None:
    folder = RunFolder(trained.path)
    paper = {"name": "liu-4x2", "paper": "Liu, Douglas, Ji"}
    folder.write_recipe(recipes.with_changes(folder.read_recipe(), paper))
    assert re.search(r"After Liu, Douglas, Ji, changed in [^<]*optimizer\.lr", write_and_read(trained))
    folder.write_recipe(recipes.load("liu-4x2", ["runtime.threads=1", "training.seed=3"]))
    assert _paper(Run(trained.path)) == "Liu, Douglas, Ji"
