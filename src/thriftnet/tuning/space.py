"""The values that a study may give to keys of its recipe, and the comparisons that they must satisfy.

A setting is a dict from dotted key (as `--set` takes it) to value. Optuna stores only single values, so a list is
stored as its JSON text; `Axis.decode` gives the list back.
"""

from __future__ import annotations

import itertools
import json
import math
import operator
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Self

from pydantic import BaseModel, Field, model_validator

from thriftnet import recipe as recipes
from thriftnet.config import RecipeConfig, Section
from thriftnet.errors import StudyError

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

MOST_POINTS = 100_000
"""Of a key's values, and of a grid in all: a training for each of them would take years."""
LARGEST_NUMBER = 2**53
"""That a range may reach: up to here every whole number is a float too, and none overflows in a sampler."""

Setting = Mapping[str, Any]
Number = int | float
Scalar = bool | int | float | str


class Axis(Section):
    """What one key of the recipe may be: one of `values`, or a number from `low` to `high`."""

    values: Annotated[tuple[Any, ...], Field(strict=False, min_length=1, max_length=MOST_POINTS)] | None = None
    """The choices, of any kind that the key takes; `"none"` takes the recipe's value away."""
    low: Number | None = None
    """Smallest number; whole numbers are drawn where `low` and `high` are whole."""
    high: Number | None = None
    """Largest number, itself included."""
    log: bool = False
    """Whether equal ratios are equally likely, instead of equal differences."""
    step: Number | None = None
    """Distance between neighbouring numbers; absent: 1 for whole numbers, none for others."""

    def inapplicable(self) -> dict[str, str]:
        return dict.fromkeys(("low", "high", "log", "step"), "a range without values") if self.values else {}

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.values is not None:
            stored = [_stored(value) for value in self.values]
            twice = next((value for at, value in enumerate(stored) if value in stored[:at]), None)
            if twice is not None:
                raise ValueError(f"values holds {twice!r} twice; name each once")
            return self
        if self.low is None or self.high is None:
            raise ValueError("give either values, or low and high")
        if not -LARGEST_NUMBER <= self.low < self.high <= LARGEST_NUMBER:
            raise ValueError(
                f"low = {self.low!r} must be less than high = {self.high!r}, both within +-{LARGEST_NUMBER:,}"
            )
        if self.log and self.low <= 0:
            raise ValueError(f"low = {self.low!r} must be positive for log = true")
        if self.log and self.step is not None:
            raise ValueError("log = true and step exclude each other; remove one")
        if self.step is not None:
            if self.whole and not isinstance(self.step, int):
                raise ValueError(f"step = {self.step!r} must be whole between low = {self.low} and high = {self.high}")
            steps = (self.high - self.low) / self.step if self.step > 0 else 0.5
            if not steps < LARGEST_NUMBER or abs(steps - round(steps)) > 1e-9:
                raise ValueError(f"step = {self.step!r} must lead from low to high in whole steps")
        return self

    @property
    def whole(self) -> bool:
        """Whether it is a range of whole numbers."""
        return isinstance(self.low, int) and isinstance(self.high, int)

    def distribution(self) -> BaseDistribution:
        """The same as Optuna knows it."""
        from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

        if self.values is not None:
            return CategoricalDistribution([_stored(value) for value in self.values])
        assert self.low is not None
        assert self.high is not None
        if self.whole:
            return IntDistribution(int(self.low), int(self.high), self.log, 1 if self.step is None else int(self.step))
        return FloatDistribution(self.low, self.high, self.log, self.step)

    def points(self) -> tuple[Any, ...] | None:
        """Every value as Optuna stores it; None where they are too many to be tried one by one."""
        count = self.count
        if self.values is not None:
            return tuple(_stored(value) for value in self.values)
        if count is None or count > MOST_POINTS:
            return None
        assert self.low is not None
        step = 1 if self.step is None else self.step
        return tuple(self.low + at * step for at in range(count))

    @property
    def count(self) -> int | None:
        """How many values there are; None for a continuous range."""
        if self.values is not None:
            return len(self.values)
        assert self.low is not None
        assert self.high is not None
        step = self.step if self.step is not None else 1 if self.whole and not self.log else None
        return None if step is None else round((self.high - self.low) / step) + 1

    def decode(self, stored: Any) -> Any:
        """The recipe's value for one that Optuna stored."""
        if self.values is None:
            return stored
        return self.values[[_stored(value) for value in self.values].index(stored)]

    def encode(self, value: Any) -> Any:
        """The value that Optuna stores for one of a recipe (None: absent). Raises ValueError for one not allowed."""
        if self.values is None:
            if isinstance(value, bool) or not isinstance(value, Number):
                raise ValueError(f"{value!r} is not a number")
            assert self.low is not None
            assert self.high is not None
            if not self.low <= value <= self.high:
                raise ValueError(f"{value!r} is outside")
            return value
        wanted = recipes.ABSENT if value is None else value
        for allowed in self.values:
            if allowed == wanted and isinstance(allowed, bool) == isinstance(wanted, bool):
                return _stored(allowed)
        raise ValueError(f"{value!r} is not among the values")


def _stored(value: Any) -> Scalar:
    return value if isinstance(value, Scalar) else json.dumps(value)


def flatten(tables: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested tables of a [space] -> one entry a key: in TOML `optimizer.lr = {...}` is nested, its quoted form not."""
    flat: dict[str, Any] = {}
    for key, value in tables.items():
        path = f"{prefix}{key}"
        if isinstance(value, Mapping) and value and not value.keys() & Axis.model_fields.keys():
            flat |= flatten(value, f"{path}.")
        else:
            flat[path] = value
    return flat


def overrides(space: Mapping[str, Axis], stored: Setting) -> list[str]:
    """What `--set` would be given for a setting as Optuna stores it."""
    return [f"{key}={json.dumps(axis.decode(stored[key]))}" for key, axis in space.items()]


def grid(space: Mapping[str, Axis]) -> Iterator[dict[str, Any]]:
    """Every combination, the last key changing fastest. Raises StudyError where there are too many."""
    total = math.prod(axis.count or 1 for axis in space.values())
    if total > MOST_POINTS:
        raise StudyError(
            f"the grid of {', '.join(space)} has {total:,} points, a training each; {MOST_POINTS:,} are the most: give "
            "fewer values or a larger step, or another sampler"
        )
    columns = []
    for key, axis in space.items():
        points = axis.points()
        if points is None:
            raise StudyError(
                f"space.{key} is a continuous range, which a grid cannot cover; give values or step, or another sampler"
            )
        columns.append(points)
    return (dict(zip(space, point, strict=True)) for point in itertools.product(*columns))


def value_at(recipe: RecipeConfig, key: str) -> Any:
    """A resolved value of the recipe by dotted key, lists by index; None where it is absent. Raises KeyError."""
    place: Any = recipe
    for step in key.split("."):
        if isinstance(place, BaseModel):
            if step not in type(place).model_fields:
                raise KeyError(key)
            place = getattr(place, step)
        elif isinstance(place, tuple) and step.isdigit() and int(step) < len(place):
            place = place[int(step)]
        elif place is None:
            return None
        else:
            raise KeyError(key)
    return _plain(place)


def _plain(value: Any) -> Any:
    """Tuples as the lists that TOML has."""
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json", exclude_unset=True)
    return [_plain(entry) for entry in value] if isinstance(value, tuple) else value


_OPERATORS: dict[str, Callable[[Any, Any], bool]] = {
    "<=": operator.le,
    ">=": operator.ge,
    "<": operator.lt,
    ">": operator.gt,
    "==": operator.eq,
    "!=": operator.ne,
}
_COMPARISON = re.compile(r"\s*([\w.+-]+)\s*(<=|>=|<|>|==|!=)\s*([\w.+-]+)\s*")
_NUMBER = re.compile(r"[+-]?\d[\d_]*(\.\d+)?([eE][+-]?\d+)?")


@dataclass(frozen=True)
class Constraint:
    """One comparison between two of: a number, a dotted key of the recipe, `parameters`, `macs`."""

    text: str
    left: str
    relation: str
    right: str

    def refusal(self, measure: Callable[[str], Any]) -> str | None:
        """Why a recipe is refused, or None; `measure` gives a name's value. Raises StudyError for what is no number."""
        sides = []
        for name in (self.left, self.right):
            value = _number(name)
            if value is None:
                value = measure(name)
                if isinstance(value, bool) or not isinstance(value, int | float):
                    raise StudyError(f"constraint {self.text!r}: {name} = {value!r} is not a number")
            sides.append(value)
        if _OPERATORS[self.relation](*sides):
            return None
        shown = [
            name if _number(name) is not None else f"{name} = {value:,}"
            for name, value in zip(self.names, sides, strict=True)
        ]
        return f"{shown[0]} is not {self.relation} {shown[1]}"

    @property
    def names(self) -> tuple[str, str]:
        return self.left, self.right


def parse_constraint(text: str) -> Constraint:
    """`parameters <= 2_000_000`, `schedule.warmup_epochs < training.epochs`. Raises ValueError for any other form."""
    match = _COMPARISON.fullmatch(text)
    if match is None:
        raise ValueError(
            f"{text!r} is not a comparison; write two of a number, a key of the recipe, parameters and macs with one "
            f"of {' '.join(_OPERATORS)} between, for example 'parameters <= 2_000_000'"
        )
    return Constraint(text, *match.groups())


def _number(name: str) -> float | None:
    return float(name.replace("_", "")) if _NUMBER.fullmatch(name) else None
