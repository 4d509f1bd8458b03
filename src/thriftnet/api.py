"""The library: every command as a function with the same words and a typed result."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from torch import nn

from thriftnet import recipe as recipes
from thriftnet.config import RecipeConfig
from thriftnet.data.open import open_source
from thriftnet.errors import RecipeError
from thriftnet.models.build import build_model, check_recipe_network
from thriftnet.training.loop import fit
from thriftnet.training.progress import Display, LiveDisplay
from thriftnet.training.run_folder import RunFolder, Which

Protocol = Literal["paper", "honest"]


@dataclass(frozen=True)
class Run:
    """A trained network on disk; `load_run` opens one. Files are read when they are asked for."""

    path: Path

    @cached_property
    def folder(self) -> RunFolder:
        return RunFolder(self.path)

    @cached_property
    def recipe(self) -> RecipeConfig:
        """The resolved recipe."""
        return self.folder.read_recipe()

    @cached_property
    def data(self) -> dict[str, Any]:
        """What it was trained on: class names, channels, image side, mean, std, hash, counts."""
        return self.folder.read_json("data.json")

    @property
    def result(self) -> dict[str, Any]:
        """The outcome so far: status, selected epoch, its losses and accuracies, time."""
        return self.folder.read_json("result.json")

    @property
    def history(self) -> list[dict[str, Any]]:
        """One row an epoch, as in metrics.csv."""
        return self.folder.read_history()


def build(recipe: str | RecipeConfig, num_classes: int = 10, in_channels: int = 3) -> nn.Module:
    """The network of a recipe with fresh weights: [N, in_channels, H, W] -> logits [N, num_classes].

    Raises RecipeError for an unknown recipe, BudgetError for a network over its budget.
    """
    resolved = load_recipe(recipe)
    return build_model(resolved.model, in_channels, num_classes, resolved.name)


def load_recipe(
    recipe: str | RecipeConfig, overrides: Sequence[str] = (), protocol: Protocol = "paper"
) -> RecipeConfig:
    """A recipe by name, file or value, with `section.key=value` overrides, under the paper's or the honest protocol."""
    resolved = recipes.load(recipe, overrides) if isinstance(recipe, str) else recipe
    if overrides and not isinstance(recipe, str):
        raise RecipeError("overrides apply to a recipe given by name or file; change the RecipeConfig itself instead")
    return recipes.honest(resolved) if protocol == "honest" else resolved


def train(
    recipe: str | RecipeConfig,
    data: str | None = None,
    *,
    out: Path | str | None = None,
    epochs: int | None = None,
    seed: int | None = None,
    budget: int | None = None,
    overrides: Sequence[str] = (),
    protocol: Protocol = "paper",
    display: Display | None = None,
) -> Run:
    """Train a recipe on a data set into a new run folder and return the run.

    `data` is what `--data` takes; None means THRIFTNET_DATA, else the bundled digits. `out` is the run folder itself,
    by default a new one under `runs/`. Raises what `training.loop.fit` raises.
    """
    resolved = load_recipe(recipe, overrides, protocol)
    changes: dict[str, dict[str, Any]] = {"training": {}, "model": {}}
    if epochs is not None:
        changes["training"]["epochs"] = epochs
    if seed is not None:
        changes["training"]["seed"] = seed
    if budget is not None:
        changes["model"]["parameter_budget"] = budget
    resolved = recipes.with_changes(resolved, {section: table for section, table in changes.items() if table})
    check_recipe_network(resolved)
    folder = RunFolder(Path(out) if out is not None else _new_run_path(resolved))
    fit(resolved, open_source(data, resolved.data.image_side), folder, display or LiveDisplay())
    return _finish(folder)


def resume(run: Path | str, data: str | None = None, display: Display | None = None) -> Run:
    """Go on with a run from its last completed epoch; the result equals that of an uninterrupted run.

    `data` is needed only where the data has moved. Raises RunFolderError for a folder that cannot be gone on with.
    """
    opened = load_run(run)
    source = open_source(data or opened.data["location"], opened.recipe.data.image_side)
    fit(opened.recipe, source, opened.folder, display or LiveDisplay(), resume=True)
    return _finish(opened.folder)


def load_run(path: Path | str) -> Run:
    """Open a run folder. Raises RunFolderError unless it is one."""
    folder = RunFolder(path)
    folder.require()
    return Run(folder.path)


def _new_run_path(recipe: RecipeConfig) -> Path:
    stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
    return Path("runs") / f"{recipe.name}-seed{recipe.training.seed}-{stamp}-{os.getpid()}"


def _finish(folder: RunFolder) -> Run:
    return Run(folder.path)
