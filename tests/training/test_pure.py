"""Whole trainings beside what they must be a function of: the step alone, or seed, epoch and index alone."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.training.conftest import TinySource, tiny_recipe
from thriftnet.augment.mixing import Targets
from thriftnet.config import RecipeConfig
from thriftnet.data.prepare import prepare
from thriftnet.distributed.processes import ALONE, Processes
from thriftnet.errors import Interrupted
from thriftnet.runtime import resolve
from thriftnet.training import loop
from thriftnet.training.batches import Batches
from thriftnet.training.loop import fit
from thriftnet.training.progress import SilentDisplay
from thriftnet.training.run_folder import RunFolder
from thriftnet.training.step import train_step

SCHEDULES: dict[str, dict[str, Any]] = {
    "constant": {"name": "constant"},
    "linear": {"name": "linear", "warmup_epochs": 0.6},
    "cosine": {"name": "cosine", "warmup_epochs": 0.75},
    "one-cycle": {"name": "one_cycle", "cycle_momentum": [0.85, 0.95]},
    "multi-step": {"name": "multi_step", "milestones_epochs": [1, 3]},
    "plateau": {"name": "plateau", "patience_epochs": 0, "gamma": 0.5},
}
STOPS = (2, 7, 8, 13)
"""Steps of the whole training before which a signal comes; an epoch has four, so within and between epochs."""


@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES.keys())
def test_the_rates_of_a_training_stopped_four_times_are_those_of_a_whole_one(
    schedule: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each step's learning rate and momentum as the optimiser has them, bit for bit."""
    recipe = tiny_recipe(schedule=schedule, optimizer={"lr": 1.0 if schedule["name"] == "plateau" else 0.05})

    def trace(path: Path, stops: tuple[int, ...]) -> list[tuple[float, float | None]]:
        rates: list[tuple[float, float | None]] = []

        def step(learner: Any, *arguments: Any) -> Any:
            group = learner.optimizer.param_groups[0]
            rates.append((group["lr"], group.get("momentum")))
            if len(rates) in stops:
                os.kill(os.getpid(), signal.SIGTERM)
            return train_step(learner, *arguments)

        monkeypatch.setattr(loop, "train_step", step)
        for _ in stops:
            with pytest.raises(Interrupted):
                fit(recipe, TinySource(), RunFolder(path), SilentDisplay(), resume=path.exists())
        fit(recipe, TinySource(), RunFolder(path), SilentDisplay(), resume=path.exists())
        return rates

    whole = trace(tmp_path / "whole", ())
    assert len(whole) == 16
    assert trace(tmp_path / "parts", STOPS) == whole
    assert len(set(whole)) > 1 or schedule["name"] == "constant"


SHOWN: dict[str, dict[str, Any]] = {
    "crops and flips": {},
    "TrivialAugment": {"augment": {"ops": [{"op": "trivial_augment"}, {"op": "cutout", "side_px": 6}]}},
    "alternating flip, originals too": {
        "augment": {"ops": [{"op": "alternating_flip"}], "concatenate_originals": True}
    },
    "cutmix": {"augment": {"mix": {"name": "cutmix"}}},
    "ricap on smaller images": {
        "augment": {"mix": {"name": "ricap"}},
        "training": {"progressive": [{"side_px": 8, "until": 0.5}]},
    },
}


def shown(recipe: RecipeConfig, processes: Processes, epoch: int, first_step: int) -> list[tuple[torch.Tensor, ...]]:
    """(images, labels, weights) of each step from `first_step` on, as a process that begins there makes them."""
    torch.manual_seed(torch.seed())  # a new process is in no particular state
    data = prepare(TinySource(), recipe.data, "validation", 0)
    batches = Batches(recipe, data, resolve(recipe.runtime), processes)
    of_epoch = batches.epoch(epoch)
    found = []
    for step in range(first_step, of_epoch.steps):
        images, labels = batches.batch(of_epoch, step)
        found.append((images, labels.labels, labels.weights) if isinstance(labels, Targets) else (images, labels))
    return found


@pytest.mark.parametrize("sections", SHOWN.values(), ids=SHOWN.keys())
@pytest.mark.parametrize("epoch", [1, 4])
def test_what_is_shown_is_the_same_from_any_step_in_any_number_of_processes(
    sections: dict[str, Any], epoch: int
) -> None:
    recipe = tiny_recipe(**sections | {"training": {"batch_size": 23} | sections.get("training", {})})
    whole = shown(recipe, ALONE, epoch, 0)
    for world_size in (1, 2, 3, 5):
        for first_step in (0, len(whole) - 1):
            parts = [shown(recipe, Processes(rank, world_size), epoch, first_step) for rank in range(world_size)]
            for step, expected in enumerate(whole[first_step:]):
                for which, wanted in enumerate(expected):
                    # Labels and weights of mixed images are [images in a mixture, N].
                    along = 0 if which == 0 or wanted.dim() == 1 or wanted.shape[0] == expected[0].shape[0] else 1
                    found = torch.cat([part[step][which] for part in parts], along)
                    assert torch.equal(found, wanted), (world_size, first_step, step, which)
    another = shown(recipe, ALONE, epoch + 1, 0)
    assert not torch.equal(another[0][0][: len(whole[0][0])], whole[0][0]) or another[0][0].shape != whole[0][0].shape
