"""The points of the memory benchmark are recipes that can be trained."""

from __future__ import annotations

import pytest
from benchmarks.memory import SWEEPS, varied

from thriftnet import recipe as recipes
from thriftnet.models.build import check_recipe_network

POINTS = [(axis, value) for axis, values in SWEEPS.items() for value in values]


@pytest.mark.parametrize(("axis", "value"), POINTS)
def test_a_varied_recipe_is_not_refused_for_the_count_of_the_original(axis: str, value: float) -> None:
    assert check_recipe_network(varied(recipes.load("liu-4x2"), axis, value)) > 0
