"""A study file: a base recipe, what is searched, how, for how long, and what is best."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, ValidationError, field_validator, model_validator

from thriftnet import recipe as recipes
from thriftnet.config import RecipeConfig, Section
from thriftnet.config.fields import Count, Positive
from thriftnet.errors import RecipeError, StudyError, escaped, nearest
from thriftnet.storage import user_path, why_refused
from thriftnet.tuning.space import Axis, flatten, grid, overrides, parse_constraint, value_at
from thriftnet.twins import narrow, refuse_set_twice, shorten

MAX_STUDY_BYTES = 1_000_000
MOST_KEYS = 64
"""That a study searches: no study of its trials could tell more apart."""
MOST_TRIALS = 1_000_000
"""Of a study: its journal is read and searched as a whole after each."""
MEASURES = ("parameters", "macs")

SHORTENED = ("training.epochs", "training.early_stopping_epochs", "schedule.", "model.stem.bias_epochs")
NARROWED = ("model.widths", "model.stem.width", "model.cardinality")

_UNSEARCHABLE = {
    "training.selection": "it decides which split is looked at",
    "training.split_seed": "settings measured on different validation images cannot be compared",
    "data.validation_images": "settings measured on different validation images cannot be compared",
}


class SamplerConfig(Section):
    """How the next setting is chosen."""

    name: Literal["grid", "random", "tpe"]
    """`grid`: every combination. `random`: independent draws. `tpe`: tree-structured Parzen estimator (Bergstra et al.
    2011), which learns from the trials so far."""
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    """Seed of the draws; a draw is a function of it, the trial's number and, for `tpe`, the earlier trials."""
    startup_trials: Count = 10
    """`tpe`: random trials before it learns."""

    def inapplicable(self) -> dict[str, str]:
        return {
            "grid": {"seed": "name = 'random' or 'tpe'", "startup_trials": "name = 'tpe'"},
            "random": {"startup_trials": "name = 'tpe'"},
            "tpe": {},
        }[self.name]


class PruningConfig(Section):
    """When a trial that does badly is stopped, decided after each of its epochs."""

    name: Literal["median", "successive_halving"]
    """`median`: its best value so far is worse than the median of earlier trials at the same epoch.
    `successive_halving`: it is not among the best 1 / reduction_factor at one of the epochs min_epochs,
    min_epochs * reduction_factor, ... (arXiv 1810.05934).
    Where the space has `training.epochs`, trials are compared at the same tenth of their own epochs instead."""
    startup_trials: Annotated[int, Field(ge=0)] = 5
    """`median`: completed trials before any is stopped."""
    warmup_epochs: Annotated[int, Field(ge=0)] = 0
    """`median`: epochs of a trial, its own, before it may be stopped."""
    min_epochs: Count = 1
    """`successive_halving`: epochs of the first decision (tenths, where trials are compared at tenths)."""
    reduction_factor: Annotated[int, Field(ge=2)] = 4
    """`successive_halving`: one in this many goes on."""

    def inapplicable(self) -> dict[str, str]:
        if self.name == "median":
            return dict.fromkeys(("min_epochs", "reduction_factor"), "name = 'successive_halving'")
        return dict.fromkeys(("startup_trials", "warmup_epochs"), "name = 'median'")


class StudyConfig(Section):
    """A whole study file."""

    name: str
    """The file's name without its ending."""
    paper: str = ""
    """Authors of the source; empty for a study of our own."""
    summary: str = ""
    """One line for `thriftnet study list`."""
    recipe: str
    """The base recipe: a packaged name, or a TOML file, sought beside the study file first."""
    overrides: Annotated[dict[str, Any], Field(default_factory=dict)]
    """Values of the base recipe that the study changes, in the recipe's own tables."""
    objective: Literal["validation_accuracy", "validation_loss"] = "validation_accuracy"
    """What is best: the highest validation accuracy or the lowest validation loss, of the epoch that a trial keeps."""
    sampler: SamplerConfig
    trials: Annotated[int, Field(ge=1, le=MOST_TRIALS)] | None = None
    """Settings to try; a `grid` has its own number."""
    time_limit_minutes: Positive | None = None
    """No further trial begins once the study has run this long in all; absent: no limit."""
    space: Annotated[dict[str, Axis], Field(min_length=1, max_length=MOST_KEYS)]
    """What is searched: for each dotted key of the recipe its values or its range."""
    constraints: Annotated[tuple[str, ...], Field(strict=False, max_length=MOST_KEYS)] = ()
    """Comparisons between two of a number, a key, `parameters` and `macs` (3 channels, 10 classes); a setting that
    fails one is not tried."""
    pruning: PruningConfig | None = None
    """Absent: every trial trains all its epochs."""

    def inapplicable(self) -> dict[str, str]:
        return {"trials": "sampler.name = 'random' or 'tpe' (a grid has exactly its points)"} if self._is_grid else {}

    @property
    def _is_grid(self) -> bool:
        return self.sampler.name == "grid"

    @property
    def maximize(self) -> bool:
        return self.objective == "validation_accuracy"

    @field_validator("objective", mode="before")
    @classmethod
    def _never_the_test_split(cls, value: Any) -> Any:
        if isinstance(value, str) and "test" in value:
            raise ValueError(
                f"{value!r} cannot be the objective: a setting that was chosen on the test images has no honest test "
                "accuracy left; use 'validation_accuracy' or 'validation_loss'"
            )
        return value

    @field_validator("space", mode="before")
    @classmethod
    def _one_entry_a_key(cls, value: Any) -> Any:
        return flatten(value) if isinstance(value, Mapping) else value

    @field_validator("space")
    @classmethod
    def _searchable(cls, space: dict[str, Axis]) -> dict[str, Axis]:
        for key in space:
            section = key.split(".")[0]
            reason = _UNSEARCHABLE.get(key)
            if section in ("runtime", "expect") or "." not in key:
                reason = "it says nothing of what is trained"
            if reason is not None:
                raise ValueError(f"{key} cannot be searched: {reason}; remove it")
        return space

    @field_validator("constraints")
    @classmethod
    def _comparisons(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for text in value:
            parse_constraint(text)
        return value

    @model_validator(mode="after")
    def _searched_or_set(self) -> Self:
        both = sorted(self.space.keys() & flatten(self.overrides).keys())
        if both:
            raise ValueError(f"{both[0]} stands in space and in overrides, so it would be searched; remove one of them")
        return self

    @model_validator(mode="after")
    def _has_an_end(self) -> Self:
        if not self._is_grid and self.trials is None and self.time_limit_minutes is None:
            raise ValueError("a study needs an end; give trials or time_limit_minutes")
        return self


@dataclass(frozen=True)
class ResolvedStudy:
    """A study with its base recipe; `notes` says what was changed to make it honest or fixed."""

    config: StudyConfig
    base: RecipeConfig
    notes: tuple[str, ...] = ()

    def recipe_of(self, stored: Mapping[str, Any]) -> RecipeConfig:
        """The recipe of one setting as Optuna stores it. Raises RecipeError for an impossible combination."""
        return recipes.with_overrides(self.base, overrides(self.config.space, stored))

    def to_toml(self) -> str:
        """The study as a file beside `recipe.toml`, its base recipe."""
        values = self.config.model_dump(mode="json", exclude_unset=True, exclude={"overrides"})
        return recipes.tables_to_toml(values | {"recipe": "recipe.toml"})


def names() -> list[str]:
    """The packaged studies, sorted."""
    return sorted(entry.name.removesuffix(".toml") for entry in _packaged().iterdir() if entry.name.endswith(".toml"))


def load(
    name_or_path: str,
    changes: Sequence[str] = (),
    trials: int | None = None,
    *,
    scale: float = 1.0,
    width: float = 1.0,
) -> ResolvedStudy:
    """The study of a packaged name or of a TOML file; `changes` are `section.key=value` for its base recipe.

    `scale` and `width` shorten and narrow the base recipe (`twins`), which must not be searched then. A change of a key
    that is searched fixes it: it is not searched then. A recipe that is not measured on validation
    images is put under the honest protocol, which a note says. Raises StudyError or RecipeError.
    """
    name, text, folder = _read(name_or_path)
    try:
        tables = recipes.parse_toml(text)
    except ValueError as error:
        raise StudyError(f"study {name} is not valid TOML: {error}") from None
    tables.setdefault("name", name)
    if trials is not None:
        tables["trials"] = trials
    try:
        config = StudyConfig.model_validate(tables)
    except ValidationError as error:
        raise StudyError(f"study {name}: {recipes.explain(error, StudyConfig)}") from None
    return _resolve(config, folder, changes, scale, width)


def _resolve(
    config: StudyConfig, folder: Path | None, changes: Sequence[str], scale: float, width: float
) -> ResolvedStudy:
    notes = []
    base_name = config.recipe
    if folder is not None and (folder / base_name).is_file():
        base_name = str(folder / base_name)
    base = recipes.load(base_name)
    if config.overrides:
        claims = {"expect": recipes.ABSENT} if "model" in config.overrides else {}
        base = recipes.with_changes(base, config.overrides | claims)
    base = recipes.with_overrides(base, changes)
    space = dict(config.space)
    for change in changes:
        key = change.partition("=")[0].strip()
        if space.pop(key, None) is not None:
            notes.append(f"{key} is fixed at {json.dumps(value_at(base, key))} and not searched")
    refuse_set_twice(changes, scale, width)
    base = narrow(shorten(base, scale), width)
    for option, share, keys in (("scale", scale, SHORTENED), ("width", width, NARROWED)):
        searched = [key for key in space if key.startswith(keys)]
        if share != 1 and searched:
            raise StudyError(
                f"study {config.name} searches {searched[0]}, which --{option} {share:g} would change as well; leave "
                f"--{option} out"
            )
    if base.reduced:
        notes.append(f"reduced: {base.reduced}")
    if not space:
        raise StudyError(f"study {config.name}: every key of its space is fixed by --set; leave one to search")
    if base.training.selection == "test":
        base = recipes.honest(base, base.data.validation_images or None)
        notes.append(
            f"{base.name} selects on the test split; here it runs under the honest protocol, the test split sealed"
        )
    elif base.data.validation_images == 0:
        base = recipes.honest(base)
        notes.append(f"{base.name} holds no validation images out; here a tenth is, and the best epoch on them is kept")
    resolved = ResolvedStudy(config.model_copy(update={"space": space}), base, tuple(notes))
    _check(resolved)
    return resolved


def _check(study: ResolvedStudy) -> None:
    """Raise StudyError or RecipeError for a space or a constraint that no trial could use."""
    config = study.config
    for key, axis in config.space.items():
        present = _known(study.base, key)
        if axis.whole and isinstance(present, float):
            raise StudyError(
                f"study {config.name}: space.{key} has whole numbers only, but the recipe's is {present!r}; "
                f"write low = {float(axis.low or 0)} and high = {float(axis.high or 0)}"
            )
        ends = axis.values if axis.values is not None else (axis.low, axis.high)
        complaints = []
        for value in ends:
            try:
                recipes.with_overrides(study.base, [f"{key}={json.dumps(value)}"])
            except RecipeError as error:
                complaints.append(error)
        # One that fails may need another key's value beside it; where all fail, the key or its range is wrong.
        if len(complaints) == len(ends):
            raise StudyError(f"study {config.name}: space.{key} cannot work: {complaints[0]}")
    for text in config.constraints:
        for name in parse_constraint(text).names:
            if not name[0].isdigit() and name[0] not in "+-" and name not in MEASURES:
                try:
                    value_at(study.base, name)
                except KeyError:
                    hint = nearest(name, [*MEASURES, *config.space])
                    raise StudyError(f"study {config.name}: constraint {text!r}: there is no {name}{hint}") from None
    if config.sampler.name == "grid":
        grid(config.space)


def _known(recipe: RecipeConfig, key: str) -> Any:
    try:
        return value_at(recipe, key)
    except KeyError:
        return None  # the check of the values names the nearest right key


def _packaged() -> Any:
    return resources.files("thriftnet") / "studies"


def _read(name_or_path: str) -> tuple[str, str, Path | None]:
    """(name, text, folder of the file or None when packaged)."""
    if name_or_path.endswith(".toml") or os.sep in name_or_path:
        path = user_path(name_or_path)
        try:
            if path.stat().st_size > MAX_STUDY_BYTES:
                raise StudyError(f"study {path} is larger than {MAX_STUDY_BYTES:,} bytes; studies are about 25 lines")
            return escaped(path.stem), path.read_text(encoding="utf-8-sig"), path.parent
        except OSError as error:
            why = why_refused(error) or error.strerror or error
            raise StudyError(f"study {path} cannot be read: {why}") from None
        except UnicodeDecodeError:
            raise StudyError(f"study {path} is not UTF-8 text; save it as UTF-8") from None
    entry = _packaged() / f"{name_or_path}.toml"
    if not entry.is_file():
        hint = nearest(name_or_path, names())
        raise StudyError(
            f"no study named {name_or_path!r}{hint}; `thriftnet study list` names them, a file ends in .toml"
        )
    return name_or_path, entry.read_text(encoding="utf-8"), None
