"""A tiny data set, a tiny recipe and studies over it: real trainings in a fraction of a second."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import write_tiny_data
from tests.tracking.conftest import nobody_is_logged_in as nobody_is_logged_in  # autouse here too
from tests.training.conftest import tiny_recipe
from thriftnet import recipe as recipes
from thriftnet.data.open import open_source
from thriftnet.training.interruption import StopRequest
from thriftnet.tuning.config import ResolvedStudy, load
from thriftnet.tuning.engines import run_here
from thriftnet.tuning.study import Search, open_search

GRID = """
recipe = "tiny.toml"
sampler = { name = "grid" }
[space]
optimizer.lr = { values = [0.01, 0.1] }
optimizer.momentum = { values = [0.0, 0.9] }
"""
RANDOM = """
recipe = "tiny.toml"
sampler = { name = "random", seed = 3 }
trials = 4
[space]
optimizer.lr = { low = 0.001, high = 0.1, log = true }
model.stem.width = { low = 2, high = 4 }
"""


@dataclass
class Place:
    """A folder with data, a recipe and a study, and what was said while it ran."""

    folder: Path
    said: list[str] = field(default_factory=list)

    @property
    def data(self) -> str:
        return open_source(str(self.folder / "tiny.npz")).location

    @property
    def out(self) -> Path:
        return self.folder / "out"

    def study(self, text: str, **changes: Any) -> ResolvedStudy:
        (self.folder / "study.toml").write_text(text, encoding="utf-8")
        return load(str(self.folder / "study.toml"), **changes)

    @contextlib.contextmanager
    def search(self, text: str, **changes: Any) -> Iterator[Search]:
        with open_search(self.out, self.study(text, **changes), self.data, None, self.said.append) as search:
            yield search

    def run(self, text: str, **changes: Any) -> dict[int, tuple[str, float | None]]:
        """Run in this process; number -> (state, value) of every trial."""
        with self.search(text, **changes) as search:
            run_here(search, StopRequest())
            return results(search)


def results(search: Search) -> dict[int, tuple[str, float | None]]:
    return {trial.user_attrs["number"]: (trial.state.name, trial.value) for trial in search.trials()}


def make_place(folder: Path, epochs: int = 2) -> Place:
    write_tiny_data(folder / "tiny.npz")
    recipe = tiny_recipe(training={"epochs": epochs})
    (folder / "tiny.toml").write_text(recipes.to_toml(recipe), encoding="utf-8")
    return Place(folder)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return make_place(tmp_path)
