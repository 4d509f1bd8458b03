"""Shorter and narrower forms of a recipe, for machines that the recipe itself would keep busy for days.

Both are labelled: what was changed stands in the recipe's `reduced`, and so beside every number of its runs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from thriftnet import recipe as recipes
from thriftnet.config import ModelConfig, RecipeConfig
from thriftnet.errors import UserError

SHORTENS = (
    "training.epochs", "training.early_stopping_epochs", "schedule.warmup_epochs", "schedule.milestones_epochs",
    "schedule.patience_epochs", "model.stem.bias_epochs",
)  # fmt: skip
"""What `shorten` may change."""
NARROWS = ("model.widths", "model.stem.width", "model.cardinality", "expect")
"""What `narrow` may change."""


def refuse_set_twice(overrides: Sequence[str], scale: float, width: float) -> None:
    """Raise RecipeError where `--set` gives what the scale or the width would change."""
    for option, share, keys in (("--scale", scale, SHORTENS), ("--width", width, NARROWS)):
        if share != 1:
            recipes.refuse_set_twice(overrides, option, keys)


def shorten(recipe: RecipeConfig, scale: float) -> RecipeConfig:
    """`recipe` with `scale` times the epochs, one at least.

    What the recipe counts in epochs from its start (warm-up, milestones, the bias of a whitening stem) or of waiting
    (patience) shrinks with them; a swing with a period of its own keeps it.
    Raises UserError for a scale outside (0, 1].
    """
    _check_share("scale", scale)
    epochs = _scaled(recipe.training.epochs, scale)
    if epochs == recipe.training.epochs:
        return recipe
    schedule, stem = recipe.schedule, recipe.model.stem
    changes: dict[str, dict[str, Any]] = {"training": {"epochs": epochs}, "schedule": {}, "model": {}}
    share = epochs / recipe.training.epochs
    if schedule.warmup_epochs:
        changes["schedule"]["warmup_epochs"] = schedule.warmup_epochs * share
    if schedule.milestones_epochs is not None:
        changes["schedule"]["milestones_epochs"] = sorted({_scaled(each, share) for each in schedule.milestones_epochs})
    if schedule.name == "plateau":
        changes["schedule"]["patience_epochs"] = round(schedule.patience_epochs * share)
    if recipe.training.early_stopping_epochs is not None:
        changes["training"]["early_stopping_epochs"] = _scaled(recipe.training.early_stopping_epochs, share)
    if stem.bias_epochs is not None:
        changes["model"]["stem"] = {"bias_epochs": _scaled(stem.bias_epochs, share)}
    return _reduced(recipe, changes, f"{epochs} of {recipe.training.epochs} epochs")


def narrow(recipe: RecipeConfig, width: float) -> RecipeConfig:
    """`recipe` with `width` times the channels of its stem and stages, one at least; same epochs, same everything else.

    A ResNeXt keeps the channels of a group and has fewer groups. What the source printed of its network (`expect`) does
    not describe the narrow one and is dropped. Raises UserError for a width outside (0, 1].
    """
    _check_share("width", width)
    if width == 1:
        return recipe
    changes = {"model": narrower(recipe.model, width), "expect": recipes.ABSENT}
    return _reduced(recipe, changes, f"{width:g} of every width")


def narrower(model: ModelConfig, width: float) -> dict[str, Any]:
    """The values of [model] that `narrow` changes, as they are at `width`."""
    changes: dict[str, Any] = {}
    if model.stem.width is not None:
        changes["stem"] = {"width": _scaled(model.stem.width, width)}
    if model.widths is not None:
        changes["widths"] = [_scaled(each, width) for each in model.widths]
    if model.cardinality is not None:
        changes["cardinality"] = _scaled(model.cardinality, width)
    return changes


def _reduced(recipe: RecipeConfig, changes: dict[str, Any], how: str) -> RecipeConfig:
    said = f"{recipe.reduced}, {how}" if recipe.reduced else how
    return recipes.with_changes(recipe, {**changes, "reduced": said})


def _scaled(count: int, share: float) -> int:
    return max(1, math.floor(count * share + 0.5))  # halves go up, whatever the count's parity


def _check_share(name: str, share: float) -> None:
    if not 0 < share <= 1:
        raise UserError(f"--{name} {share} must be above 0 and at most 1, for example 0.25")
