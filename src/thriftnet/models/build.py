"""From a ModelConfig to a network within its budget."""

from __future__ import annotations

import torch

from thriftnet.config import ModelConfig, RecipeConfig
from thriftnet.errors import RecipeError
from thriftnet.models.budget import check_budget, trainable_parameters
from thriftnet.models.init import initialize
from thriftnet.models.resnet import ResNet
from thriftnet.models.resnet9 import ResNet9

FAMILIES: dict[str, type[ResNet] | type[ResNet9]] = {"resnet": ResNet, "resnet9": ResNet9}
PAPER_CHANNELS, PAPER_CLASSES = 3, 10  # what `expect.parameters` counts


def build_model(
    model: ModelConfig, in_channels: int = 3, num_classes: int = 10, name: str = "the network"
) -> ResNet | ResNet9:
    """The network with fresh initial weights from torch's random generator: [N, in_channels, H, W] -> [N, num_classes].

    Raises BudgetError, counted on the meta device, before memory is taken.
    """
    check_budget(count_parameters(model, in_channels, num_classes), model, name)
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


def check_recipe_network(recipe: RecipeConfig) -> int:
    """Check budget and `expect.parameters` before any data is touched; returns the count for 3 channels, 10 classes."""
    count = count_parameters(recipe.model, PAPER_CHANNELS, PAPER_CLASSES)
    check_budget(count, recipe.model, recipe.name)
    expected = recipe.expect.parameters
    if expected is not None and count != expected:
        raise RecipeError(
            f"expect.parameters = {expected:,} but {recipe.name} has {count:,} trainable parameters "
            f"({PAPER_CHANNELS} channels, {PAPER_CLASSES} classes); correct [model] or remove expect.parameters"
        )
    return count
