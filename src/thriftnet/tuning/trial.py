"""One trial: a normal run that tells its epochs and may be stopped after any of them."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from thriftnet.campaign import train_missing
from thriftnet.config import RecipeConfig
from thriftnet.data.dataset import Source
from thriftnet.data.kept import KeptSource
from thriftnet.data.open import open_source
from thriftnet.errors import BudgetError, DataError, NonFiniteLossError, OutOfMemoryError, RecipeError, ThriftnetError
from thriftnet.run import Run
from thriftnet.storage import refusals_named, write_atomic
from thriftnet.tracking.display import TrackedDisplay, tracked
from thriftnet.training.progress import Display, SilentDisplay
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
    study: str = ""
    """Name under which trackers group the trials."""
    track: tuple[str, ...] = ()
    """Trackers that are told too."""


@dataclass(frozen=True)
class Outcome:
    """How a trial ended."""

    state: Literal["completed", "pruned", "failed"]
    reason: str = ""
    """Of a failure."""


_OF_THE_SETTING = (RecipeError, BudgetError, DataError, NonFiniteLossError, OutOfMemoryError)
"""Errors that another setting need not meet: a DataError too, once the images are read, for it is then about what was
asked of them."""
TRACEBACK = "traceback.txt"
"""In the run folder of a trial that failed as no setting should."""


class _Pruned(Exception):
    pass


class _Reporting:
    """Reports each epoch once trackers have heard of it; after the last there is nothing left to stop."""

    def __init__(self, job: Job, report: Report, shown: Display) -> None:
        self.job, self.report, self.shown = job, report, shown
        self.start, self.note, self.step, self.stop = shown.start, shown.note, shown.step, shown.stop

    def epoch(self, row: dict[str, Any], selected: bool) -> None:
        self.shown.epoch(row, selected)
        stop = self.report(row["epoch"], row[self.job.objective])
        if stop and row["epoch"] < self.job.recipe.training.epochs:
            raise _Pruned


@refusals_named()
def run_trial(job: Job, report: Report) -> Outcome:
    """Train `job` as far as it is not yet trained, reporting each new epoch.

    Its figures are drawn for trackers alone: drawing takes longer than a short trial. What a setting makes impossible
    is a trial's own failure: the study goes on with the others. So is a fault of the program, whose traceback is kept
    in the trial's folder. Raises other ThriftnetErrors of `train_missing` and OSError, which would meet every trial.
    """
    source = kept_source(job.data, job.recipe.data.image_side)
    source.train()  # data that cannot be read would fail every trial
    name = f"trial {job.number}"
    try:
        with tracked(Run(job.path), job.track, SilentDisplay(), job.study, name) as shown:
            figures = isinstance(shown, TrackedDisplay)
            train_missing(job.recipe, source, job.path, _Reporting(job, report, shown), figures)
    except _Pruned:
        RunFolder(job.path).log("pruned")
        return Outcome("pruned")
    except _OF_THE_SETTING as error:
        return Outcome("failed", " ".join(str(error).split()))
    except (ThriftnetError, OSError):
        raise
    except Exception as error:
        job.path.mkdir(parents=True, exist_ok=True)
        write_atomic(job.path / TRACEBACK, traceback.format_exc())
        what = " ".join(f"{type(error).__name__}: {error}".split())
        return Outcome("failed", f"unexpected {what}; its {TRACEBACK} says where, please report it")
    return Outcome("completed")


@lru_cache(maxsize=1)
def kept_source(data: str, image_side: int | None) -> Source:
    """The trials of a study share one, whose images stay in memory until `kept_source.cache_clear()`."""
    return KeptSource(open_source(data, image_side))
