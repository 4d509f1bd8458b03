"""From a ModelConfig to a network within its budget."""

from __future__ import annotations

import torch

from thriftnet.config import ModelConfig, RecipeConfig
from thriftnet.config.model import MOST_PARAMETERS
from thriftnet.errors import BudgetError, RecipeError
from thriftnet.models.budget import trainable_parameters
from thriftnet.models.init import initialize
from thriftnet.models.resnet import ResNet
from thriftnet.models.resnet9 import ResNet9
from thriftnet.twins import narrower

FAMILIES: dict[str, type[ResNet] | type[ResNet9]] = {"resnet": ResNet, "resnet9": ResNet9}
PAPER_CHANNELS, PAPER_CLASSES = 3, 10  # what `expect.parameters` counts


def build_model(
    model: ModelConfig, in_channels: int = 3, num_classes: int = 10, name: str = "the network"
) -> ResNet | ResNet9:
    """The network with fresh initial weights from torch's random generator: [N, in_channels, H, W] -> [N, num_classes].

    Raises BudgetError, counted on the meta device, before memory is taken.
    """
    check_budget(model, in_channels, num_classes, name)
    network = FAMILIES[model.family](model, in_channels, num_classes)
    initialize(network, model.init)
    return network


def build_on_meta(model: ModelConfig, in_channels: int = 3, num_classes: int = 10) -> ResNet | ResNet9:
    """The network without memory or values, for counting and tables."""
    with torch.device("meta"):
        return FAMILIES[model.family](model, in_channels, num_classes)


def count_parameters(model: ModelConfig, in_channels: int = 3, num_classes: int = 10) -> int:
    """Trainable parameters, counted on the meta device."""
    return trainable_parameters(build_on_meta(model, in_channels, num_classes))


def check_budget(model: ModelConfig, in_channels: int, num_classes: int, name: str) -> int:
    """The trainable parameters, counted on the meta device.

    Raises BudgetError where they exceed `model.parameter_budget`, with widths that fit: counted, not estimated.
    """
    count, budget = count_parameters(model, in_channels, num_classes), model.parameter_budget
    if count <= budget:
        return count
    ways = [_narrower_that_fits(model, count, in_channels, num_classes)]
    if count <= MOST_PARAMETERS:
        ways.append(f"raise model.parameter_budget to {count}")
    raise BudgetError(
        f"{name} has {count:,} trainable parameters, {count - budget:,} over the budget of {budget:,}; "
        f"{', or '.join(filter(None, ways)) or 'no width fits, so give another recipe'}"
    )


def _narrower_that_fits(model: ModelConfig, count: int, in_channels: int, num_classes: int) -> str:
    """`set model.widths = [...] (4,998,120 parameters)` for the first that fits of some widths; empty where none does.

    Convolutions grow with the square of the widths, so the root of the ratio is nearly right; from there they fall.
    """
    tables = model.model_dump(exclude_unset=True)
    tried = narrower(model, 1.0)
    for n in range(10):
        changes = narrower(model, (model.parameter_budget / count) ** 0.5 * (1 - n**2 / 100))
        if changes == tried:  # rounded to the same
            continue
        tried = changes
        stem = tables["stem"] | changes.get("stem", {})
        fits = count_parameters(ModelConfig.model_validate(tables | changes | {"stem": stem}), in_channels, num_classes)
        if fits <= model.parameter_budget:
            fields = {"stem.width" if field == "stem" else field: value for field, value in changes.items()}
            fields |= {"stem.width": stem["width"]} if "stem" in changes else {}
            values = " and ".join(f"model.{field} = {value}" for field, value in fields.items())
            return f"set {values} ({fits:,} parameters)"
    return ""


def check_recipe_network(recipe: RecipeConfig) -> int:
    """Check budget and `expect.parameters` before any data is touched; returns the count for 3 channels, 10 classes."""
    count = check_budget(recipe.model, PAPER_CHANNELS, PAPER_CLASSES, recipe.name)
    expected = recipe.expect.parameters
    if expected is not None and count != expected:
        raise RecipeError(
            f"expect.parameters = {expected:,} but {recipe.name} has {count:,} trainable parameters "
            f"({PAPER_CHANNELS} channels, {PAPER_CLASSES} classes); correct [model] or remove expect.parameters"
        )
    return count
