"""Shorter and narrower forms of a recipe, for machines that the recipe itself would keep busy for days."""

from __future__ import annotations

from typing import Any

from thriftnet import recipe as recipes
from thriftnet.config import RecipeConfig


def shorten(recipe: RecipeConfig, scale: float) -> RecipeConfig:
    """`recipe` with `scale` times the epochs, one at least; a schedule with a period of its own keeps it."""
    return recipes.with_changes(recipe, {"training": {"epochs": _scaled(recipe.training.epochs, scale)}})


def narrow(recipe: RecipeConfig, width: float) -> RecipeConfig:
    """`recipe` with `width` times the channels of its stem and stages, one at least, and without `expect`."""
    model = recipe.model
    changes: dict[str, Any] = {}
    if model.stem.width is not None:
        changes["stem"] = {"width": _scaled(model.stem.width, width)}
    if model.widths is not None:
        changes["widths"] = [_scaled(each, width) for each in model.widths]
    if model.cardinality is not None:
        changes["cardinality"] = _scaled(model.cardinality, width)
    tables: dict[str, Any] = {"model": changes, "expect": recipes.ABSENT}
    return recipes.with_changes(recipe, tables)


def _scaled(count: int, share: float) -> int:
    return max(1, round(count * share))
