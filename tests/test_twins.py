"""Shorter and narrower forms of a recipe."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from thriftnet import recipe as recipes
from thriftnet.errors import UserError
from thriftnet.models.build import check_recipe_network, count_parameters
from thriftnet.twins import narrow, shorten


def test_whole_scale_and_width_change_nothing() -> None:
    recipe = recipes.load("liu-4x2")
    assert narrow(shorten(recipe, 1.0), 1.0) is recipe


def test_shortened_keeps_a_period_and_says_what_it_is() -> None:
    recipe = recipes.load("liu-4x2")
    short = shorten(recipe, 0.25)
    assert short.training.epochs == 18  # 17.5
    assert short.reduced == "18 of 70 epochs"
    assert {key for key, _, _ in recipes.differences(recipe, short)} == {"reduced", "training.epochs"}
    assert short.schedule.half_period_steps == 200


def test_everything_counted_in_epochs_shrinks() -> None:
    recipe = recipes.load(
        "xu-resnetlarge",
        ["schedule.name=multi_step", "schedule.milestones_epochs=[60, 61, 90]", "schedule.warmup_epochs=5"],
    )
    short = shorten(recipe, 0.1)
    assert short.training.epochs == 12
    assert short.schedule.milestones_epochs == (6, 9)  # 6.0 and 6.1 are one
    assert short.schedule.warmup_epochs == 0.5
    plateau = recipes.load("ramavath-resnet9", ["schedule.name=plateau", "schedule.cycle_momentum=none"])
    stopping = recipes.with_changes(plateau, {"training": {"early_stopping_epochs": 9}})
    assert shorten(stopping, 1 / 3).schedule.patience_epochs == 3
    assert shorten(stopping, 1 / 3).training.early_stopping_epochs == 3
    assert shorten(recipes.load("fast"), 0.5).model.stem.bias_epochs is not None


@pytest.mark.parametrize("name", recipes.names())
@pytest.mark.parametrize("width", [0.5, 0.25])
def test_every_recipe_has_a_narrow_twin(name: str, width: float) -> None:
    recipe = recipes.load(name)
    twin = narrow(recipe, width)
    share = check_recipe_network(twin) / check_recipe_network(recipe)
    # Convolutions grow with the square of the width; a stem that is not narrowed, and groups, grow slower.
    assert width**2 * 0.8 < share < width
    assert twin.reduced == f"{width:g} of every width"
    assert twin.expect.claimed_test_accuracy is None
    assert recipes.load(name).training == twin.training


def test_narrow_resnext_keeps_the_channels_of_a_group() -> None:
    twin = narrow(recipes.load("tirumalasetty-resnext29"), 0.25)
    assert (twin.model.cardinality, twin.model.base_width, twin.model.stem.width) == (8, 4, 8)


def test_both_are_named() -> None:
    twin = narrow(shorten(recipes.load("xu-resnet18"), 0.5), 0.25)
    assert twin.reduced == "40 of 80 epochs, 0.25 of every width"
    assert twin.model.widths == (11, 21, 42, 84)  # 10.5 goes up
    assert count_parameters(twin.model) < 400_000


@given(st.floats(allow_nan=True).filter(lambda share: not 0 < share <= 1))
def test_a_share_outside_its_range_is_refused(share: float) -> None:
    with pytest.raises(UserError, match="--scale"):
        shorten(recipes.load("liu-4x2"), share)
    with pytest.raises(UserError, match="--width"):
        narrow(recipes.load("liu-4x2"), share)


@given(st.floats(min_value=1e-6, max_value=1))
def test_any_share_gives_a_recipe_that_holds(share: float) -> None:
    for name in ("liu-4x2", "ramavath-resnet9", "fast", "tirumalasetty-resnext29-amp"):
        assert shorten(recipes.load(name), share).training.epochs >= 1
        assert narrow(recipes.load(name), share).reduced or share == 1
