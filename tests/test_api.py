"""The library: the commands' words as functions, with typed results."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import thriftnet
from tests.conftest import Trained
from tests.training.conftest import tiny_recipe
from thriftnet import cli
from thriftnet import recipe as recipes
from thriftnet.config import RecipeConfig
from thriftnet.data.info import DataInfo
from thriftnet.errors import BudgetError, RunFolderError, ThriftnetError, UserError
from thriftnet.inference import Measurement, Predictions
from thriftnet.models.budget import trainable_parameters
from thriftnet.models.summary import Summary
from thriftnet.run import DataFacts, Run, without_shared_folders
from thriftnet.training.progress import SilentDisplay

PUBLIC = [
    "ThriftnetError", "build", "calibrate", "check", "compare", "data_info", "evaluate", "evaluate_shift", "landscape",
    "load_recipe", "load_run", "predict", "recipe_table", "remedies", "report", "resume", "summary", "train",
    "train_seeds",
]  # fmt: skip


def test_the_public_names_are_these() -> None:
    assert thriftnet.__all__ == PUBLIC
    assert dir(thriftnet) == sorted([*PUBLIC, "__version__"])
    assert re.fullmatch(r"\d+\.\d+\.\d+", thriftnet.__version__)
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        thriftnet.trian  # type: ignore[attr-defined]  # noqa: B018


@pytest.mark.parametrize("first", ["thriftnet.cli", "thriftnet.api", "thriftnet.reporting.run_report", "thriftnet"])
def test_no_module_hides_a_function_of_its_name(first: str) -> None:
    hidden = f"[name for name in {PUBLIC} if not callable(getattr(thriftnet, name))]"
    code = f"import {first}, thriftnet; thriftnet.build; print({hidden})"
    finished = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert finished.stdout == "[]\n", finished.stderr


def test_every_command_is_a_function_with_its_words() -> None:
    """An option of a command that the function lacks would be a thing that only the command line can do."""
    elsewhere = {
        "train": {"resume", "seeds"},  # the functions `resume` and `train_seeds`
        "evaluate": {"as_json", "shift", "shift_images", "html"},  # the function `evaluate_shift`
        "compare": {"as_json"},
        "landscape": {"as_json"},
        "remedies": {"as_json", "shift_images"},  # images
        "summary": {"as_json", "classes", "channels", "side"},  # num_classes, in_channels, image_side
    }
    names = ("train", "evaluate", "compare", "predict", "remedies", "calibrate", "report", "summary", "landscape")
    for name in names:
        options = set(inspect.signature(getattr(cli, name)).parameters) - elsewhere.get(name, set())
        assert options <= set(inspect.signature(getattr(thriftnet, name)).parameters), name


def test_build_gives_a_plain_module() -> None:
    network = thriftnet.build("liu-4x2", num_classes=37)
    assert isinstance(network, nn.Module)
    assert network.training
    assert {parameter.dtype for parameter in network.parameters()} == {torch.float32}
    assert trainable_parameters(network) == 2_799_146 + 27 * (256 + 1)
    assert network(torch.zeros(2, 3, 32, 32)).shape == (2, 37)
    gray = thriftnet.build("digits-demo", in_channels=1)
    assert gray(torch.zeros(2, 1, 48, 48)).shape == (2, 10)


def test_build_takes_a_recipe_value_and_keeps_the_budget() -> None:
    assert thriftnet.build(tiny_recipe(), num_classes=3)(torch.zeros(2, 3, 16, 16)).shape == (2, 3)
    with pytest.raises(BudgetError, match="over the budget of 100"):
        thriftnet.build(tiny_recipe(model={"parameter_budget": 100}))


def test_recipes() -> None:
    recipe = thriftnet.load_recipe("liu-4x2", ["optimizer.lr=0.05"], "honest")
    assert isinstance(recipe, RecipeConfig)
    assert (recipe.optimizer.lr, recipe.training.selection) == (0.05, "validation")
    with pytest.raises(UserError, match="overrides apply to a recipe given by name"):
        thriftnet.load_recipe(recipe, ["optimizer.lr=0.1"])
    rows = {row["name"]: row for row in thriftnet.recipe_table()}
    assert rows["liu-4x2"]["parameters"] == 2_799_146
    assert isinstance(thriftnet.summary("liu-4x2"), Summary)


def test_data_info_is_typed() -> None:
    info = thriftnet.data_info("digits")
    assert isinstance(info, DataInfo)
    assert info.train.images == 1438
    assert info.test is not None
    assert info.test.images == 359


def test_train_takes_flags_and_returns_the_run(shared_run: Trained, tmp_path: Path) -> None:
    recipe = tiny_recipe()
    run = thriftnet.train(
        recipe, str(shared_run.data), out=tmp_path / "run", epochs=2, seed=5, budget=2000, display=SilentDisplay()
    )
    assert isinstance(run, Run)
    assert run.recipe.training.epochs == 2
    assert run.recipe.training.seed == 5
    assert run.recipe.model.parameter_budget == 2000
    assert recipe.training.epochs == 4  # the value given is not changed
    assert [row["epoch"] for row in run.history] == [1, 2]
    again = thriftnet.resume(run, display=SilentDisplay())
    assert again.result == run.result


def test_load_run_opens_a_run_as_typed_values(shared_run: Trained) -> None:
    run = thriftnet.load_run(str(shared_run.path))
    assert run == Run(shared_run.path)
    assert isinstance(run.data, DataFacts)
    assert run.data.class_names == ("dark", "middle", "bright")
    assert (run.data.channels, run.data.image_side, run.data.training_images) == (1, 16, 72)
    assert not run.test_selected
    assert run.summary() == shared_run.outcome.stdout.splitlines()[0]
    network = run.network()
    assert not network.training
    assert network(torch.zeros(5, 1, 16, 16)).shape == (5, 3)
    with pytest.raises(RunFolderError, match="does not exist"):
        thriftnet.load_run(shared_run.path / "absent")


def test_weights_of_another_network_are_refused(trained: Trained) -> None:
    recipe = trained.path / "recipe.toml"
    recipe.write_text(recipe.read_text().replace("widths = [4, 8]", "widths = [4, 16]"))
    (trained.path / "SHA256SUMS").unlink()
    with pytest.raises(RunFolderError, match=r"selected\.safetensors does not fit the run's recipe"):
        thriftnet.load_run(trained.path).network()


def test_evaluate_and_predict_agree(trained: Trained) -> None:
    """The images of the test split, measured as labelled and predicted as unlabelled ones."""
    run = thriftnet.load_run(trained.path)
    measured = thriftnet.evaluate(run)
    assert isinstance(measured, Measurement)
    assert measured.path.is_file()
    predictions = thriftnet.predict(run, trained.data)  # x_test of the same file
    assert isinstance(predictions, Predictions)
    assert torch.equal(predictions.labels, measured.logits.argmax(1))
    assert torch.allclose(predictions.probabilities, measured.logits.softmax(1))
    assert float((predictions.labels == measured.images.labels).double().mean()) == measured.evaluation.accuracy
    assert predictions.ids == tuple(range(90))


NEW_NETWORKS: dict[str, dict[str, Any]] = {
    "whitening resnet9": {
        "family": "resnet9",
        "stem": {"kind": "whitening", "kernel": 2, "bias_epochs": 1},
        "widths": [4, 8],
        "residual_convs": [1, 0],
        "pool_first": True,
        "norm_scale": False,
        "logit_scale": 0.5,
        "init": "dirac",
    },
    "squeeze-excitation preactivation": {
        "block": "preactivation",
        "stem": {"width": 4},
        "widths": [4, 8],
        "blocks": [1, 1],
        "strides": [1, 2],
        "stochastic_depth": 0.2,
        "se_reduction": 2,
    },
}


@pytest.mark.parametrize("model", NEW_NETWORKS.values(), ids=NEW_NETWORKS.keys())
def test_a_saved_network_is_evaluated_as_it_was_validated(
    shared_run: Trained, tmp_path: Path, model: dict[str, Any]
) -> None:
    recipe = recipes.validate(tiny_recipe().model_dump(exclude_unset=True) | {"model": model}, "tiny")
    run = thriftnet.train(recipe, str(shared_run.data), out=tmp_path / "run", epochs=3, display=SilentDisplay())
    measured = thriftnet.evaluate(run, "validation")
    assert measured.evaluation.accuracy == run.result["selected"]["validation_accuracy"]
    assert measured.evaluation.loss == pytest.approx(run.result["selected"]["validation_loss"], rel=1e-5)
    predictions = thriftnet.predict(run, shared_run.data)
    assert torch.equal(predictions.labels, thriftnet.evaluate(run, "test").logits.argmax(1))
    summary = thriftnet.summary(recipe, num_classes=3, in_channels=1, image_side=16)
    assert summary.trainable_parameters == run.result["parameters"]
    assert summary.macs == sum(layer.macs for layer in summary.layers) > 0


def test_report_returns_the_path(trained: Trained) -> None:
    assert thriftnet.report(trained.path) == trained.path / "report.html"


def test_what_a_notebook_shows_stands_alone(trained: Trained) -> None:
    run = thriftnet.load_run(trained.path)
    shown = run._repr_html_()
    assert run.summary() in shown
    assert shown.count('<img src="data:image/png;base64,iVBOR') == 2  # curves, learning rate
    measured = thriftnet.evaluate(run, "validation")._repr_html_()
    assert "validation accuracy" in measured
    assert measured.count('<img src="data:image/png;base64,iVBOR') == 2  # confusion matrix, mistakes
    predictions = thriftnet.predict(run, trained.data)
    lines = predictions._repr_html_().splitlines()
    assert len(lines) == 1 + 10 + 1
    assert lines[-1].startswith("and 80 more")
    assert len(repr(predictions)) < 200  # no array of a hundred thousand images on the screen


def test_a_run_without_figures_is_shown_without(trained: Trained) -> None:
    for figure in (trained.path / "figures").iterdir():
        figure.unlink()
    assert "<img" not in thriftnet.load_run(trained.path)._repr_html_()


def test_one_exception_catches_all() -> None:
    assert thriftnet.ThriftnetError is ThriftnetError
    with pytest.raises(thriftnet.ThriftnetError):
        thriftnet.build("no-such-recipe")


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["runs/a/seed-0", "runs/b/seed-0"], ["a/seed-0", "b/seed-0"]),
        (["/deep/runs/a", "/deep/runs/a/b", "/deep/runs/c"], ["a", "a/b", "c"]),
        (["runs/a", "runs/a"], ["a", "a"]),
        (["fast", "runs/fast"], ["fast", "runs/fast"]),
        (["runs/a"], ["a"]),
    ],
)
def test_paths_lose_the_folders_that_tell_nothing_apart(paths: list[str], names: list[str]) -> None:
    assert without_shared_folders(paths) == names
