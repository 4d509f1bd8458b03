"""Whole trainings on a tiny data set: selection, resume, sealing, interruption, non-finite losses."""

import csv
import json
import os
import signal
from contextlib import nullcontext
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tests.training.conftest import TinySource, tiny_recipe
from thriftnet import recipe as recipes
from thriftnet.config import RecipeConfig
from thriftnet.data.prepare import prepare
from thriftnet.errors import BudgetError, Interrupted, NonFiniteLossError, RecipeError, RunFolderError
from thriftnet.evaluation.predict import predict_logits
from thriftnet.models.build import count_parameters
from thriftnet.models.stem import whitening_filters
from thriftnet.training import loop
from thriftnet.training.loop import fit
from thriftnet.training.progress import SilentDisplay
from thriftnet.training.run_folder import RunFolder
from thriftnet.training.step import train_step


class StopAfter(SilentDisplay):
    """Sends a real signal to this process when an epoch ends."""

    def __init__(self, epochs: int, signal_number: int = signal.SIGTERM) -> None:
        self.epochs, self.signal_number = epochs, signal_number

    def epoch(self, row: dict[str, Any], selected: bool) -> None:
        if row["epoch"] == self.epochs:
            os.kill(os.getpid(), self.signal_number)


def run(recipe: RecipeConfig, path: Path, source: TinySource | None = None, **arguments: Any) -> RunFolder:
    folder = RunFolder(path)
    fit(recipe, source or TinySource(), folder, arguments.pop("display", SilentDisplay()), **arguments)
    return folder


def timeless(history: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{key: value for key, value in row.items() if key not in ("images_per_s", "elapsed_s")} for row in history]


def test_learns_and_writes_the_run_folder(out: Path) -> None:
    folder = run(tiny_recipe(training={"epochs": 12}), out)
    result = folder.read_json("result.json")
    assert result["status"] == "completed"
    assert result["selection"] == "validation"
    assert result["selected"]["validation_accuracy"] > 0.8  # three brightnesses; chance is a third
    assert result["training_images"] == 72
    assert {path.name for path in out.iterdir()} == {
        "recipe.toml",
        "environment.json",
        "data.json",
        "seen-images.safetensors",
        "metrics.csv",
        "events.jsonl",
        "result.json",
        "selected.safetensors",
        "last.safetensors",
        "resume-00000044.pt",  # 4 steps an epoch
        "resume-00000048.pt",
        "SHA256SUMS",
        ".lock",
    }
    with (out / "metrics.csv").open() as file:
        assert [int(row["epoch"]) for row in csv.DictReader(file)] == list(range(1, 13))
    events = [json.loads(line)["event"] for line in (out / "events.jsonl").read_text().splitlines()]
    assert events[0] == "started"
    assert events[-1] == "finished"


def test_same_seed_same_weights_other_seed_other_weights(out: Path) -> None:
    first = run(tiny_recipe(), out / "a").read_weights("last")
    again = run(tiny_recipe(), out / "b").read_weights("last")
    other = run(tiny_recipe(training={"seed": 1}), out / "c").read_weights("last")
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["conv.weight"], other["conv.weight"])


WHITENING = {"stem": {"kind": "whitening", "kernel": 2, "bias_epochs": 3}, "norm_scale": False}
RESUMABLE = {
    "plain": {},
    "adam with averaging": {"optimizer": {"name": "adam", "lr": 0.01}, "training": {"ema_decay": 0.9}},
    "perturbed": {"perturbation": {"name": "amp", "epsilon": 0.1}},
    "perturbation begins after the resume": {"perturbation": {"name": "sam", "start": 0.7}},
    "asam over adamw": {"perturbation": {"name": "asam"}, "optimizer": {"name": "adamw", "lr": 0.01}},
    "muon": {"muon": {"lr": 0.02, "weight_decay": 0.1}, "optimizer": {"bias_lr_factor": 2.0, "linear_lr_factor": 0.5}},
    "muon on normalised weights": {"muon": {"lr": 0.1, "normalize_weights": True}, "schedule": {"name": "linear"}},
    "muon and lookahead over a whitening stem": {
        "model": {"stem": {"kind": "whitening", "kernel": 2, "bias_epochs": 3}},
        "muon": {"lr": 0.1, "normalize_weights": True},
        "lookahead": {"steps": 3},
        "optimizer": {"bias_lr_factor": 4.0},
    },
    # An epoch has 4 steps: epochs end between synchronisations.
    "lookahead": {"lookahead": {"steps": 3}},
    "all together": {
        "muon": {"lr": 0.02},
        "lookahead": {"steps": 3, "alpha": 0.8},
        "perturbation": {"name": "sam", "start": 0.3, "batchnorm": "first_pass"},
        "training": {"ema_decay": 0.9},
        "schedule": {"name": "one_cycle", "cycle_momentum": [0.85, 0.95]},
    },
    "plateau": {"schedule": {"name": "plateau", "patience_epochs": 0, "gamma": 0.5}},
    "originals concatenated": {"augment": {"concatenate_originals": True}},
    "mixup until halfway": {"augment": {"mix": {"name": "mixup", "until": 0.6}}},
    "cutmix of some": {"augment": {"mix": {"name": "cutmix", "probability": 0.5}}},
    "ricap on smaller images": {
        "augment": {"ops": [{"op": "alternating_flip"}, {"op": "trivial_augment"}], "mix": {"name": "ricap"}},
        "training": {"progressive": [{"side_px": 8, "until": 0.25}, {"side_px": 12, "until": 0.6}]},
    },
    "augmix's consistency": {
        "augment": {
            "ops": [{"op": "horizontal_flip"}, {"op": "augmix"}, {"op": "cutout", "side_px": 4}],
            "consistency_weight": 12.0,
        },
        "perturbation": {"name": "amp", "epsilon": 0.1},
        "training": {"ema_decay": 0.9, "label_smoothing": 0.1, "progressive": [{"side_px": 12, "until": 0.5}]},
    },
    "early stopping": {"training": {"epochs": 9, "early_stopping_epochs": 2}},
    "whitening, bias frozen before the stop": {"model": WHITENING | {"stem": WHITENING["stem"] | {"bias_epochs": 1}}},
    "whitening, bias frozen after the stop": {"model": WHITENING, "training": {"ema_decay": 0.9}},
    "stochastic depth": {"model": {"block": "preactivation", "stochastic_depth": 0.5}},
    "wide enough for Winograd": {"model": {"stem": {"width": 16}, "widths": [16, 24]}},
    "wide enough for AMX": {"model": {"stem": {"width": 16}, "widths": [16, 24]}, "runtime": {"precision": "bf16"}},
}


@pytest.mark.parametrize("sections", RESUMABLE.values(), ids=RESUMABLE.keys())
def test_resume_gives_the_uninterrupted_result_bit_for_bit(out: Path, sections: dict[str, Any]) -> None:
    recipe = tiny_recipe(**sections)
    whole = run(recipe, out / "whole")
    with pytest.raises(Interrupted) as caught:
        run(recipe, out / "parts", display=StopAfter(2))
    assert caught.value.exit_status == 143
    assert f"epoch 2 of {recipe.training.epochs} is saved" in str(caught.value)
    assert f"--resume {out / 'parts'}" in str(caught.value)
    parts = RunFolder(out / "parts")
    assert len(parts.read_history()) == 2
    run(recipe, out / "parts", resume=True)
    assert timeless(parts.read_history()) == timeless(whole.read_history())
    for which in ("selected", "last"):
        expected, found = whole.read_weights(which), parts.read_weights(which)
        assert all(torch.equal(expected[name], found[name]) for name in expected)


class WatchStem(SilentDisplay):
    """Notes the stem as it is saved after each epoch."""

    def __init__(self, path: Path) -> None:
        self.folder, self.stems = RunFolder(path), list[dict[str, torch.Tensor]]()

    def epoch(self, row: dict[str, Any], selected: bool) -> None:
        weights = self.folder.read_weights("last")
        self.stems.append({name: weights[f"conv.{name}"] for name in ("weight", "bias")})


@pytest.mark.parametrize("optimizer", [{"name": "sgd", "momentum": 0.9, "weight_decay": 0.1}, {"name": "adamw"}])
def test_a_whitening_stem_is_computed_from_the_training_images_and_its_bias_frozen(
    out: Path, optimizer: dict[str, Any]
) -> None:
    recipe = tiny_recipe(model=WHITENING, optimizer=optimizer | {"lr": 0.01}, training={"epochs": 5})
    display = WatchStem(out)
    folder = run(recipe, out, display=display)
    data = prepare(TinySource(), recipe.data, "validation", 0)
    filters = whitening_filters(data.train.images, data.mean, data.std, kernel=2)
    expected = torch.cat([filters, -filters]).view(8, 1, 2, 2)
    assert all(torch.equal(stem["weight"], expected) for stem in display.stems)
    moved = [not torch.equal(*pair) for pair in pairwise(stem["bias"] for stem in display.stems)]
    assert display.stems[0]["bias"].any()
    assert moved == [True, True, False, False]
    # The bias counts although it is frozen in the end; the filters and the scales never do.
    assert folder.read_json("result.json")["parameters"] == count_parameters(recipe.model, 1, 3)


def test_the_average_begins_with_the_whitened_stem(out: Path) -> None:
    stem = run(tiny_recipe(model=WHITENING), out / "plain").read_weights("last")["conv.weight"]
    averaged = run(tiny_recipe(model=WHITENING, training={"ema_decay": 0.9}), out / "averaged").read_weights("last")
    assert torch.equal(averaged["conv.weight"], stem)


def test_mixing_changes_the_training_until_its_share_of_the_epochs(out: Path) -> None:
    def history(**mix: Any) -> list[dict[str, Any]]:
        return timeless(run(tiny_recipe(augment={"mix": mix}), out / str(len(list(out.glob("*"))))).read_history())

    never, half, always = (history(name="ricap", until=until) for until in (0.0, 0.5, 1.0))
    assert never == timeless(run(tiny_recipe(), out / "plain").read_history())
    assert half[:2] == always[:2]
    assert never[0]["train_loss"] < always[0]["train_loss"]
    assert half[3]["train_loss"] < always[3]["train_loss"]


def test_progressive_resizing_shows_smaller_images_first_and_evaluates_at_full_size(
    out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sides: list[int] = []
    evaluated: list[int] = []

    def step(learner: Any, images: torch.Tensor, *rest: Any) -> Any:
        sides.append(images.shape[2])
        assert images.shape[2] == images.shape[3]
        return train_step(learner, images, *rest)

    def logits(network: torch.nn.Module, images: torch.Tensor, *rest: Any, **options: Any) -> torch.Tensor:
        evaluated.append(images.shape[2])
        return predict_logits(network, images, *rest, **options)

    monkeypatch.setattr(loop, "train_step", step)
    monkeypatch.setattr(loop, "predict_logits", logits)
    stages = [{"side_px": 8, "until": 0.4}, {"side_px": 12, "until": 0.6}]
    run(tiny_recipe(training={"epochs": 5, "progressive": stages}), out)
    assert sides == [8] * 8 + [12] * 4 + [16] * 8
    assert evaluated == [16] * 5


def test_a_progressive_stage_as_large_as_the_images_is_refused(out: Path) -> None:
    with pytest.raises(RecipeError, match="side_px = 16 must be less than the image side, 16"):
        run(tiny_recipe(training={"progressive": [{"side_px": 16, "until": 0.5}]}), out)
    assert not out.exists()


class StopAtOnce(SilentDisplay):
    """Sends a real signal in the middle of the first epoch."""

    def step(self, epoch: int, step: int, loss: float, accuracy: float, images_per_s: float) -> None:
        os.kill(os.getpid(), signal.SIGTERM)


def test_interrupted_before_the_first_epoch_resumes_from_the_beginning(out: Path) -> None:
    recipe = tiny_recipe(training={"epochs": 1, "batch_size": 4})
    with pytest.raises(Interrupted, match="epoch 1 of 1 is saved up to step 10 of 18"):
        run(recipe, out, display=StopAtOnce())
    (out / "resume-00000010.pt").unlink()  # as if it had been killed instead
    run(recipe, out, resume=True)
    whole = run(recipe, out.with_name("whole"))
    assert timeless(RunFolder(out).read_history()) == timeless(whole.read_history())


def test_a_lost_resume_state_is_not_mistaken_for_a_fresh_run(out: Path) -> None:
    recipe = tiny_recipe(training={"epochs": 1})
    run(recipe, out)
    (out / "resume-00000004.pt").unlink()
    with pytest.raises(RunFolderError, match="has no resume state"):
        run(recipe, out, resume=True)


def test_ctrl_c_has_exit_status_130(out: Path) -> None:
    before = signal.getsignal(signal.SIGINT)  # ignored, where the tests run in a shell's background
    with pytest.raises(Interrupted) as caught:
        run(tiny_recipe(), out, display=StopAfter(1, signal.SIGINT))
    assert caught.value.exit_status == 130
    assert signal.getsignal(signal.SIGINT) is before


def test_resuming_a_completed_run_changes_nothing(out: Path) -> None:
    recipe = tiny_recipe(training={"epochs": 2})
    folder = run(recipe, out)
    changing = ("events.jsonl", "SHA256SUMS")
    before = {path.name: path.read_bytes() for path in out.iterdir() if path.name not in changing}
    run(recipe, out, resume=True)
    assert {path.name: path.read_bytes() for path in out.iterdir() if path.name not in changing} == before
    assert len(folder.read_history()) == 2


def test_resume_refuses_another_recipe_or_other_data(out: Path) -> None:
    run(tiny_recipe(training={"epochs": 1}), out)
    with pytest.raises(RunFolderError, match="trained with another recipe"):
        run(tiny_recipe(training={"epochs": 2}), out, resume=True)
    with pytest.raises(RunFolderError, match="trained with another data"):
        run(tiny_recipe(training={"epochs": 1}), out, TinySource(count=93), resume=True)


def test_a_run_folder_in_use_is_refused(out: Path) -> None:
    run(tiny_recipe(training={"epochs": 1}), out)
    with pytest.raises(RunFolderError, match=r"is not empty; choose another --out, or go on with --resume"):
        run(tiny_recipe(training={"epochs": 1}), out)


def test_the_test_split_stays_sealed_unless_it_selects(out: Path) -> None:
    run(tiny_recipe(), out / "sealed", TinySource(sealed=True))
    open_source = TinySource(sealed=False)
    recipe = tiny_recipe(training={"selection": "test"}, data={"validation_images": 0})
    folder = run(recipe, out / "selected", open_source)
    assert open_source.test_opened == 1
    result = folder.read_json("result.json")
    assert result["selection"] == "test-selected"
    assert result["selected"]["test_accuracy"] == max(row["test_accuracy"] for row in folder.read_history())


def test_selection_keeps_the_best_epoch_and_last_keeps_the_last(out: Path) -> None:
    best = run(tiny_recipe(training={"epochs": 6}), out / "validation")
    history = best.read_history()
    merits = [(row["validation_accuracy"], -row["validation_loss"]) for row in history]
    assert best.read_json("result.json")["selected_epoch"] == merits.index(max(merits)) + 1
    last = run(tiny_recipe(training={"epochs": 3, "selection": "last"}, data={"validation_images": 0}), out / "last")
    assert last.read_json("result.json")["selected_epoch"] == 3
    selected, final = last.read_weights("selected"), last.read_weights("last")
    assert all(torch.equal(selected[name], final[name]) for name in final)


def test_lookahead_evaluates_and_saves_the_slow_weights(out: Path) -> None:
    # One epoch of 4 steps is over before the first synchronisation: the slow weights are the initial ones.
    initial = run(tiny_recipe(training={"epochs": 1}, optimizer={"lr": 1e-30}), out / "initial").read_weights("last")
    slow = run(tiny_recipe(training={"epochs": 1}, lookahead={"steps": 5}), out / "slow").read_weights("last")
    assert torch.equal(slow["conv.weight"], initial["conv.weight"])
    moved = run(tiny_recipe(training={"epochs": 1}, lookahead={"steps": 4}), out / "moved").read_weights("last")
    assert not torch.equal(moved["conv.weight"], initial["conv.weight"])
    averaged = tiny_recipe(training={"epochs": 1, "ema_decay": 0.9}, lookahead={"steps": 5})
    average = run(averaged, out / "average").read_weights("last")  # of the fast weights, which did move
    assert not torch.equal(average["conv.weight"], initial["conv.weight"])


def test_the_perturbation_begins_where_the_recipe_says(out: Path) -> None:
    # 4 epochs of 4 steps: the 8 of the second half have two passes, and each updates the running statistics.
    half = tiny_recipe(perturbation={"name": "sam", "start": 0.5})
    assert run(half, out).read_weights("last")["norm.num_batches_tracked"] == 8 + 2 * 8


def test_muon_learns_and_the_recorded_rate_is_the_schedules(out: Path) -> None:
    recipe = tiny_recipe(
        muon={"lr": 0.02}, optimizer={"bias_lr_factor": 2.0}, schedule={"name": "linear"}, training={"epochs": 12}
    )
    folder = run(recipe, out)
    assert folder.read_json("result.json")["selected"]["validation_accuracy"] > 0.8
    assert folder.read_history()[-1]["lr"] == pytest.approx(0.05 / 48)


def test_muon_without_a_hidden_convolution_leaves_no_folder(out: Path) -> None:
    with pytest.raises(RecipeError, match=r"remove \[muon\]"):
        run(tiny_recipe(muon={"lr": 0.02}, model={"widths": [], "blocks": [], "strides": []}), out)
    assert not out.exists()


def test_early_stopping_counts_epochs_without_a_better_accuracy(out: Path) -> None:
    folder = run(tiny_recipe(training={"epochs": 40, "early_stopping_epochs": 3}), out)
    history = folder.read_history()
    assert folder.read_json("result.json")["status"] == "stopped early"
    accuracies = [row["validation_accuracy"] for row in history]
    assert len(history) == accuracies.index(max(accuracies)) + 1 + 3 < 40


def test_concatenated_originals_double_the_steps(out: Path) -> None:
    plain = run(tiny_recipe(training={"epochs": 1}), out / "plain").read_history()[0]["steps"]
    doubled = tiny_recipe(training={"epochs": 1}, augment={"concatenate_originals": True})
    assert plain == 4  # 72 images in batches of 20
    assert run(doubled, out / "doubled").read_history()[0]["steps"] == 8  # 144 images


ONE_PIXEL: dict[str, Any] = {"widths": [4, 4, 4, 4, 8], "blocks": [1] * 5, "strides": [1, 2, 2, 2, 2], "dropout": 0.0}
"""The last stage sees 1 x 1 pixel of images of 16."""


def one_pixel(**sections: dict[str, Any]) -> RecipeConfig:
    """One epoch of it; 72 images train."""
    return tiny_recipe(**{"model": ONE_PIXEL} | sections | {"training": {"epochs": 1} | sections.get("training", {})})


@pytest.mark.parametrize(
    "sections",
    [
        {"training": {"batch_size": 71}},
        {"training": {"batch_size": 1}},
        {"training": {"batch_size": 1, "drop_last": True}},
        {"training": {"batch_size": 11}, "augment": {"concatenate_originals": True}},  # 144 = 13 x 11 + 1
        {"training": {"batch_size": 71, "progressive": [{"side_px": 8, "until": 0.5}], "epochs": 2}},
        {
            "training": {"batch_size": 71, "progressive": [{"side_px": 8, "until": 0.5}], "epochs": 2},
            "model": ONE_PIXEL | {"strides": [1, 2, 2, 2, 1]},  # 2 x 2 pixels at full size
        },
    ],
)
def test_a_batch_of_one_image_over_one_pixel_is_refused_with_values_that_train(
    out: Path, sections: dict[str, Any]
) -> None:
    says = r"the smallest batch of an epoch has one image, of which stages\.[34]\.0\.n"
    with pytest.raises(RecipeError, match=says) as told:
        run(one_pixel(**sections), out)
    assert not out.exists()
    ways = str(told.value).split("; set ")[1].split(" or ")
    for number, way in enumerate(ways):
        changed = recipes.with_overrides(one_pixel(**sections), [way.replace(" = ", "=")])
        assert run(changed, out / str(number)).has("result.json")
    assert len(ways) == (1 if sections["training"]["batch_size"] == 1 else 2)


@pytest.mark.parametrize(
    "sections",
    [
        {"training": {"batch_size": 71, "drop_last": True}},
        {"training": {"batch_size": 35}},
        {"training": {"batch_size": 71}, "model": ONE_PIXEL | {"strides": [1, 2, 2, 2, 1]}},
        {
            "training": {"batch_size": 71},
            "augment": {"consistency_weight": 1.0, "ops": [{"op": "augmix"}]},  # three views of each
        },
    ],
)
def test_a_small_last_batch_with_more_than_one_value_trains(out: Path, sections: dict[str, Any]) -> None:
    assert run(one_pixel(**sections), out).has("result.json")


@pytest.mark.parametrize(
    ("processes", "synchronised", "refused"), [(2, True, False), (2, False, True), (3, False, False)]
)
def test_each_process_needs_two_values_where_statistics_are_not_shared(
    processes: int, synchronised: bool, refused: bool
) -> None:
    recipe = one_pixel(training={"batch_size": 69 if processes == 2 else 66}, runtime={"sync_batchnorm": synchronised})
    data = prepare(TinySource(), recipe.data, "validation", 0)
    batches = SimpleNamespace(shown=72, views=1, side_px=lambda epoch: None)
    one = SimpleNamespace(recipe=recipe, data=data, batches=batches, processes=SimpleNamespace(world_size=processes))
    with pytest.raises(RecipeError, match="one image in a process") if refused else nullcontext():
        loop._Run._check_normalised(one)  # type: ignore[arg-type]


class Told(SilentDisplay):
    """Keeps what is said when a training begins."""

    def start(self, lines: list[str], epochs: int, steps_per_epoch: int, epochs_done: int) -> None:
        self.lines = lines


@pytest.mark.parametrize(("batch_size", "steps"), [(20, 8), (2, 72), (1, 144)])
def test_a_handful_of_steps_is_said_before_training(out: Path, batch_size: int, steps: int) -> None:
    told = Told()
    run(tiny_recipe(training={"batch_size": batch_size, "epochs": 2}), out, display=told)
    said = [line for line in told.lines if "optimizer steps in all" in line]
    assert bool(said) == (steps < loop.FEW_STEPS)
    if said:
        assert said[0].startswith(f"only {steps} optimizer steps in all, {steps // 2} an epoch of 72 images")


def test_selection_on_the_test_images_is_said_before_training(out: Path) -> None:
    told = Told()
    run(tiny_recipe(training={"selection": "test", "epochs": 1}), out, TinySource(sealed=False), display=told)
    assert any(line.startswith("training.selection = 'test': the test images choose the epoch") for line in told.lines)


def test_a_non_finite_loss_stops_before_the_update_and_says_where(out: Path) -> None:
    recipe = tiny_recipe(optimizer={"lr": 1e30}, schedule={"name": "constant"})
    with pytest.raises(NonFiniteLossError) as caught:
        run(recipe, out)
    message = str(caught.value)
    assert "in epoch 1, step " in message
    assert "the update was not made" in message
    assert "lower optimizer.lr" in message
    assert json.loads((out / "events.jsonl").read_text().splitlines()[-1])["event"] == "non-finite loss"


def test_the_budget_is_checked_before_any_data_is_read(out: Path) -> None:
    class Unreadable(TinySource):
        def train(self) -> Any:
            raise AssertionError("data was read")

    with pytest.raises(BudgetError):
        run(tiny_recipe(model={"parameter_budget": 10}), out, Unreadable())
    assert not out.exists()


def test_fp16_needs_a_gpu_and_is_refused_before_a_folder_is_made(out: Path) -> None:
    with pytest.raises(RecipeError, match="fp16' needs a GPU"):
        run(tiny_recipe(runtime={"precision": "fp16"}), out)
    assert not out.exists()


def test_bf16_learns_too(out: Path) -> None:
    folder = run(tiny_recipe(runtime={"precision": "bf16"}, training={"epochs": 12}), out)
    assert folder.read_json("result.json")["selected"]["validation_accuracy"] > 0.8
    assert all(tensor.dtype != torch.bfloat16 for tensor in folder.read_weights("last").values())


def test_batch_size_changes_no_augmented_image() -> None:
    """The images of an epoch, by index, are the same in batches of 7 and of 72."""

    def augmented(batch_size: int) -> torch.Tensor:
        recipe = tiny_recipe(training={"batch_size": batch_size, "selection": "last"}, data={"validation_images": 0})
        from thriftnet.runtime import resolve

        source = TinySource()
        data = prepare(source, recipe.data, "last", 0)
        training = loop._Run(recipe, resolve(recipe.runtime), data, source, RunFolder("unused"))
        images = torch.empty(90, 1, 16, 16)
        epoch = training.batches.epoch(3)
        for step in range(epoch.steps):
            images[epoch.entries(step)] = training.batches.batch(epoch, step)[0]
        return images

    assert torch.equal(augmented(7), augmented(72))
