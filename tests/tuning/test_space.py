"""Axes, settings and constraints."""

from __future__ import annotations

import math
import tomllib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from tests.training.conftest import tiny_recipe
from thriftnet import recipe as recipes
from thriftnet.errors import StudyError
from thriftnet.tuning.space import Axis, flatten, grid, overrides, parse_constraint, value_at


def axis(**values: Any) -> Axis:
    return Axis.model_validate(values)


def test_a_range_of_whole_numbers_is_drawn_whole_and_any_other_is_not() -> None:
    from optuna.distributions import FloatDistribution, IntDistribution

    assert axis(low=16, high=64, step=16).distribution() == IntDistribution(16, 64, False, 16)
    assert axis(low=1, high=8).distribution() == IntDistribution(1, 8)
    assert axis(low=0.001, high=1, log=True).distribution() == FloatDistribution(0.001, 1.0, log=True)


def test_points_of_a_grid() -> None:
    assert axis(low=16, high=64, step=16).points() == (16, 32, 48, 64)
    assert axis(low=1, high=3).points() == (1, 2, 3)
    assert axis(low=0.0, high=0.5, step=0.25).points() == (0.0, 0.25, 0.5)
    assert axis(low=0.0, high=0.5).points() is None
    points = list(grid({"a.b": axis(values=[1, "x"]), "c.d": axis(low=0, high=1)}))
    assert points == [{"a.b": one, "c.d": two} for one in (1, "x") for two in (0, 1)]
    with pytest.raises(StudyError, match=r"space\.a\.b is a continuous range"):
        grid({"a.b": axis(low=0.0, high=1.0)})


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        ({}, "give either values, or low and high"),
        ({"low": 1}, "give either values, or low and high"),
        ({"low": 2, "high": 1}, "must be less than"),
        ({"low": 0, "high": 1, "log": True}, "must be positive"),
        ({"low": 1, "high": 8, "log": True, "step": 2}, "exclude each other"),
        ({"low": 1, "high": 8, "step": 2}, "whole steps"),
        ({"low": 1, "high": 8, "step": 0.5}, "must be whole"),
        ({"low": 0.0, "high": 1.0, "step": 0.0}, "whole steps"),
        ({"values": [1, 2, 1]}, "holds 1 twice"),
        ({"values": [1, 1.0]}, "holds 1.0 twice"),
        ({"values": [[1, 2], [1, 2]]}, "twice"),
        ({"values": [1, 2], "low": 0}, "low belongs to a range"),
        ({"values": []}, "at least 1 item"),
    ],
)
def test_what_makes_no_sense_is_refused(values: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValidationError, match=complaint):
        axis(**values)


def test_dotted_and_quoted_keys_are_the_same() -> None:
    text = """
optimizer.lr = { low = 0.1, high = 1.0 }
"augment.ops.0.degrees" = { values = [5, 10] }
model.stem.width = { values = [4] }
"""
    assert list(flatten(tomllib.loads(text))) == ["optimizer.lr", "augment.ops.0.degrees", "model.stem.width"]


@given(
    st.one_of(
        st.lists(st.one_of(st.integers(), st.booleans(), st.text(max_size=5), st.lists(st.integers(), max_size=3))),
        st.lists(st.floats(allow_nan=False, allow_infinity=False)),
    )
)
def test_what_is_stored_comes_back(values: list[Any]) -> None:
    distinct: list[Any] = []
    for value in values:
        if not any(value == other for other in distinct):
            distinct.append(value)
    try:
        one = axis(values=distinct)
    except ValidationError:
        return  # none at all, or a list beside its own JSON text
    assert [one.decode(stored) for stored in one.points() or ()] == distinct
    assert [one.encode(value) for value in distinct if value is not None] == list(one.points() or ())


@given(st.floats(min_value=1e-5, max_value=1e-1))
def test_a_recipe_holds_its_setting_exactly(lr: float) -> None:
    space = {"optimizer.lr": axis(low=1e-5, high=1e-1, log=True), "optimizer.clip_value": axis(values=["none", 0.5])}
    for clip in ("none", 0.5):
        setting = {"optimizer.lr": lr, "optimizer.clip_value": clip}
        made = recipes.with_overrides(tiny_recipe(), overrides(space, setting))
        assert {key: each.encode(value_at(made, key)) for key, each in space.items()} == setting


def test_lists_and_their_members_can_be_searched() -> None:
    space = {
        "model.widths": axis(values=[[4, 8], [8, 16]]),
        "augment.ops.1.pad_px": axis(low=1, high=3),
        "model.stem.width": axis(values=[4, 6]),
    }
    setting = {"model.widths": "[8, 16]", "augment.ops.1.pad_px": 3, "model.stem.width": 6}
    made = recipes.with_overrides(tiny_recipe(), overrides(space, setting))
    assert (made.model.widths, made.model.stem.width) == ((8, 16), 6)
    assert value_at(made, "augment.ops.1.pad_px") == 3
    assert {key: each.encode(value_at(made, key)) for key, each in space.items()} == setting
    with pytest.raises(KeyError):
        value_at(made, "model.wdths")


@pytest.mark.parametrize("value", [0.2, "x", True, None])
def test_a_value_of_another_study_is_not_taken_for_one_of_this(value: Any) -> None:
    with pytest.raises(ValueError, match=r"outside|not a number"):
        axis(low=0.0, high=0.1).encode(value)


class TestConstraint:
    values: dict[str, Any] = {"parameters": 1319, "optimizer.lr": 0.05, "training.epochs": 4, "optimizer.name": "sgd"}  # noqa: RUF012

    @pytest.mark.parametrize(
        ("text", "refusal"),
        [
            ("parameters <= 1_319", None),
            ("parameters < 1319", "parameters = 1,319 is not < 1319"),
            ("5e-2 == optimizer.lr", None),
            ("optimizer.lr != 0.05", "optimizer.lr = 0.05 is not != 0.05"),
            ("training.epochs > optimizer.lr", None),
            ("training.epochs <= optimizer.lr", "training.epochs = 4 is not <= optimizer.lr = 0.05"),
            ("-1 >= training.epochs", "-1 is not >= training.epochs = 4"),
        ],
    )
    def test_compares(self, text: str, refusal: str | None) -> None:
        assert parse_constraint(text).refusal(self.values.__getitem__) == refusal

    @pytest.mark.parametrize("text", ["", "parameters", "a <= b <= c", "__import__('os').system('x') <= 1", "a =< 1"])
    def test_nothing_else_is_understood(self, text: str) -> None:
        with pytest.raises(ValueError, match="is not a comparison"):
            parse_constraint(text)

    def test_words_are_not_compared(self) -> None:
        with pytest.raises(StudyError, match=r"optimizer\.name = 'sgd' is not a number"):
            parse_constraint("optimizer.name <= 3").refusal(self.values.__getitem__)

    @given(st.floats(allow_nan=False, allow_infinity=False), st.floats(allow_nan=False, allow_infinity=False))
    def test_agrees_with_arithmetic(self, left: float, right: float) -> None:
        assert (parse_constraint("a.b <= c.d").refusal({"a.b": left, "c.d": right}.__getitem__) is None) == (
            left <= right
        )
        assert not math.isnan(left)
