"""One trial: a normal run that tells its epochs and may be stopped after any of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from thriftnet.campaign import train_missing
from thriftnet.config import RecipeConfig
from thriftnet.data.dataset import Source
from thriftnet.data.open import open_source
from thriftnet.errors import BudgetError, NonFiniteLossError, OutOfMemoryError
from thriftnet.training.progress import SilentDisplay
from thriftnet.training.run_folder import RunFolder

Report = Callable[[int, float], bool]
"""Takes an epoch and the objective's value; returns whether the trial is to be stopped there."""


@dataclass(frozen=True)
class Job:
    """What a worker needs to train a trial."""

    number: int
    recipe: RecipeConfig
    data: str
    """What `open_source` takes."""
    path: Path
    """The run folder of this attempt."""
    objective: str
    """Column of metrics.csv that is reported."""


@dataclass(frozen=True)
class Outcome:
    """How a trial ended."""

    state: Literal["completed", "pruned", "failed"]
    reason: str = ""
    """Of a failure."""


class _Pruned(Exception):
    pass


class _Reporting(SilentDisplay):
    """Reports each epoch; after the last there is nothing left to stop."""

    def __init__(self, job: Job, report: Report) -> None:
        self.job, self.report = job, report

    def epoch(self, row: dict[str, Any], selected: bool) -> None:
        stop = self.report(row["epoch"], row[self.job.objective])
        if stop and row["epoch"] < self.job.recipe.training.epochs:
            raise _Pruned


def run_trial(job: Job, report: Report) -> Outcome:
    """Train `job` as far as it is not yet trained, reporting each new epoch.

    A loss that became NaN, a network over its budget and too little memory are a trial's own failure. Raises what
    else `train_missing` raises: such errors would meet the other trials too.
    """
    source = _source(job.data, job.recipe.data.image_side)
    try:
        train_missing(job.recipe, source, job.path, _Reporting(job, report))
    except _Pruned:
        RunFolder(job.path).log("pruned")
        return Outcome("pruned")
    except (NonFiniteLossError, BudgetError, OutOfMemoryError) as error:
        return Outcome("failed", " ".join(str(error).split()))
    return Outcome("completed")


@lru_cache(maxsize=1)  # the trials of a study share one
def _source(data: str, image_side: int | None) -> Source:
    return open_source(data, image_side)
