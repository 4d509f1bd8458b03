"""The product's side of the benchmarks: its own loop, an epoch a round; and the profile of its step."""

from __future__ import annotations

import pytest
import torch
from benchmarks.product import Epochs, Rounds, images_for, round_recipe, run_rounds
from benchmarks.step_profile import ORDER, augmentation_named, grouped

from benchmarks import common
from tests.training.conftest import tiny_recipe
from thriftnet import recipe as recipes
from thriftnet.augment import Draws, build_policy
from thriftnet.augment.policy import Policy


def tiny(rounds: int, **sections: dict[str, object]):
    return round_recipe(
        tiny_recipe(**({"training": {"batch_size": 20}, "data": {"image_side": 16}} | sections)), rounds
    )


def test_every_epoch_is_a_round_of_the_steps_asked_for():
    recipe, display = tiny(3), Epochs()
    run_rounds(recipe, images_for(recipe, 2), display)
    assert [each["steps"] for each in display.measured] == [2, 2, 2]
    assert all(each["seconds"] > 0 for each in display.measured)
    later = [each["seconds"] / 2 for each in display.measured[1:]]
    assert min(later) <= display.step_s() <= max(later)


def test_copies_count_as_images_of_a_round():
    recipe, display = tiny(1, augment={"concatenate_originals": True}), Epochs()
    assert images_for(recipe, 2) == 20
    run_rounds(recipe, images_for(recipe, 2), display)
    assert display.measured[0]["steps"] == 2


def test_nobody_asking_ends_the_training():
    recipe, told = tiny(50), []
    run_rounds(recipe, images_for(recipe, 1), Rounds(lambda one: told.append(one) or len(told) < 2))
    assert len(told) == 2


@pytest.mark.parametrize("name", common.compared_recipes())
def test_every_recipe_can_be_run_in_rounds(name: str):
    recipe = round_recipe(recipes.load(name), 6)
    assert recipe.training.epochs == 6
    assert recipe.training.selection == "last"
    assert recipe.data.validation_images == 0
    assert recipe.augment == recipes.load(name).augment
    assert recipe.model == recipes.load(name).model
    assert recipe.perturbation is None or recipe.perturbation.start == 0  # else rounds would be of two kinds of steps


def test_a_profile_tells_the_parts_of_a_step_apart():
    policy = build_policy(tiny_recipe().augment, (0.5,) * 3)
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.ReLU())
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9, foreach=False)
    raw = torch.randint(0, 256, (8, 3, 16, 16), dtype=torch.uint8)
    plain = Policy.__call__
    with augmentation_named(), torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiler:
        network(policy(raw, Draws(0, 0, torch.arange(8)))).sum().backward()
        optimizer.step()
    assert Policy.__call__ is plain
    groups, operations = grouped(profiler.events())
    assert list(groups) == ORDER
    named = ("convolution", "normalisation", "activation and addition", "optimiser", "augmentation")
    assert all(groups[group] > 0 for group in named)
    # The optimiser's additions are the optimiser's, not the network's.
    assert any(name.startswith("optimiser: aten::") for name in operations) or groups["optimiser"] > 0
    assert not any(name.startswith("other: aten::add") for name in operations)
    assert sum(groups.values()) >= sum(operations.values()) * 0.999
