"""The product's side: its own `fit`, timed from outside, an epoch a round.

Nothing of the loop is repeated here, so whatever the loop comes to do is measured. The images are random and in memory;
the rate is so low that random labels do not make the loss diverge, which changes no time.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from benchmarks.common import RandomImages, Row, asked_for_a_round, parser, run_main, run_worker, say
from thriftnet import recipe as recipes
from thriftnet.config import RecipeConfig
from thriftnet.training.loop import fit
from thriftnet.training.progress import SilentDisplay
from thriftnet.training.run_folder import RunFolder


class NoMoreRounds(Exception):
    """Ends `fit` from its display, where nobody wants another round."""


class Rounds(SilentDisplay):
    """Tells of every epoch; `after` may wait, and ends the training by returning false."""

    def __init__(self, after: Callable[[Row], bool]) -> None:
        self.after, self.earlier_s, self.earlier_steps = after, 0.0, 0

    def epoch(self, row: dict[str, Any], selected: bool) -> None:
        # elapsed_s ends once the device is done; images_per_s may end before.
        measured = {"steps": row["steps"] - self.earlier_steps, "seconds": row["elapsed_s"] - self.earlier_s}
        self.earlier_s, self.earlier_steps = row["elapsed_s"], row["steps"]
        if not self.after(measured):
            raise NoMoreRounds


class Epochs(Rounds):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.measured: list[Row] = []
        super().__init__(self._keep)

    def _keep(self, measured: Row) -> bool:
        self.measured.append(measured)
        return True

    def step_s(self) -> float:
        """Median seconds a step; the first epoch, which warms up, is left out."""
        return statistics.median(float(each["seconds"] / each["steps"]) for each in self.measured[1:])


def round_recipe(recipe: RecipeConfig, rounds: int, runtime: dict[str, Any] | None = None) -> RecipeConfig:
    """The recipe for `rounds` epochs that are training alone: nothing held out or evaluated, images of full size.

    Every step is of the dearest kind: a perturbation that begins late acts from the first step.
    """
    changes: dict[str, dict[str, Any]] = {
        "training": {"epochs": rounds, "selection": "last", "early_stopping_epochs": None, "progressive": []},
        "data": {"validation_images": 0, "train_images": None},
        "optimizer": {"lr": 1e-4},
        "runtime": runtime or {},
    }
    if recipe.perturbation is not None:
        changes["perturbation"] = {"start": 0.0}
    if recipe.schedule.warmup_epochs >= rounds:
        changes["schedule"] = {"warmup_epochs": 0.0}
    return recipes.with_changes(recipe, changes)


def images_for(recipe: RecipeConfig, steps: int) -> int:
    """Images in memory of which an epoch makes this many full batches."""
    return max(2, steps * recipe.training.batch_size // (2 if recipe.augment.concatenate_originals else 1))


def run_rounds(recipe: RecipeConfig, images: int, display: SilentDisplay) -> None:
    """Train `recipe` (made by `round_recipe`) on this many random images; an epoch is a round that `display` sees."""
    with tempfile.TemporaryDirectory() as folder:
        source = RandomImages(images, recipe.data.image_side or 32)
        with suppress(NoMoreRounds):
            fit(recipe, source, RunFolder(Path(folder) / "run"), display)


def work(arguments: Row) -> None:
    """A worker: {recipe, steps, rounds, runtime} -> a first round that warms up, then a round whenever asked."""
    rounds = arguments["rounds"] + 1
    recipe = round_recipe(recipes.load(arguments["recipe"]), rounds, arguments.get("runtime"))

    def after(measured: Row) -> bool:
        say(measured)
        return asked_for_a_round()

    run_rounds(recipe, images_for(recipe, arguments["steps"]), Rounds(after))


def main() -> None:
    options = parser(__doc__, "product")
    run_worker(work, options.parse_args().worker or options.error("it is started by benchmarks.throughput"))


if __name__ == "__main__":
    run_main(main)
