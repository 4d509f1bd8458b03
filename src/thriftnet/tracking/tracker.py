"""What a tracker is: a service or a set of files that a run's curves, figures and outcome are also sent to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol


@dataclass(frozen=True)
class TrackedRun:
    """What a tracker is told of a run when it is opened."""

    id: str
    """The same each time the run is gone on with."""
    name: str
    group: str | None
    """The study that the run is a trial of, or None."""
    folder: Path
    """Exists; where the tracker may keep files."""
    recipe: str
    """The resolved recipe as TOML."""
    config: Mapping[str, Any]
    """The resolved recipe as tables, and parameters, data and environment."""
    steps_done: int
    """Updates up to which the tracker knows the run; 0 for a new one. Whatever it was told of later ones is void."""


class Tracker(Protocol):
    """Any method may raise any Exception, which ends the tracking but never the run."""

    def open(self, run: TrackedRun) -> str:
        """Begin or go on; returns one line that says where the run is tracked."""

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Points of curves after `step` updates; steps never fall."""

    def figure(self, name: str, png: Path, step: int) -> None: ...

    def outcome(self, values: Mapping[str, Any], step: int) -> None:
        """Final numbers and words, one for each name."""

    def close(self, failed: bool) -> None: ...
