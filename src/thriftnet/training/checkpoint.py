"""Resume states: what is in one, which are kept, and which one a run goes on from.

A state is named after the updates that went into it, `resume-00000480.pt`, and holds all that the rest of the training
depends on, also the weights of the kept epoch: every other file of the run's outcome can be made again from it. It is
written after every epoch and, in the middle of one, at a signal and every `training.checkpoint_minutes`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from thriftnet.errors import UserError

SAFE_TORCH = (2, 10)
"""The first without known holes in the reader that states need: CVE-2025-32434 ran code before 2.6, CVE-2026-24747
corrupted memory before 2.10. pyproject.toml asks for as much."""
_FOREIGN = re.compile(r"GLOBAL ([\w.]+)")
_NAME = re.compile(r"resume-(\d{8,})\.pt")


@dataclass(frozen=True)
class Position:
    """Where in an epoch a state was taken: before its step `step`, counted from 0, with the sums until there."""

    step: int = 0
    loss_sum: float = 0.0
    """Of the loss of every image seen, in nats."""
    correct_sum: int = 0
    seen: int = 0
    """Images of the epoch until here."""
    elapsed_s: float = 0.0
    generators: tuple[dict[str, Tensor], ...] = ()
    """Of each process, the states of the generators that dropout and stochastic depth draw from, by device type."""


@dataclass(frozen=True)
class FoundState:
    """The newest state that is whole, and what was wrong with newer ones: (file name, message) each."""

    name: str
    state: dict[str, Any]
    refused: tuple[tuple[str, str], ...] = ()

    @property
    def notes(self) -> list[str]:
        """For the user, a line for every newer state that could not be used."""
        return [f"{message}; going on from {self.name} instead" for _, message in self.refused]


def checked_position(stored: Mapping[str, Any]) -> Position:
    """Raises ValueError or TypeError for what is no place in an epoch."""
    position = Position(**stored)
    for name in ("step", "correct_sum", "seen"):
        value = getattr(position, name)
        if type(value) is not int or not 0 <= value < 2**53:
            raise ValueError(f"position.{name} = {value!r:.40}")
    for name in ("loss_sum", "elapsed_s"):
        if not isinstance(getattr(position, name), float):
            raise TypeError(f"position.{name} = {getattr(position, name)!r:.40}")
    for states in position.generators:
        if not all(isinstance(each, Tensor) and each.dtype == torch.uint8 for each in states.values()):
            raise TypeError("position.generators")
    return position


def state_name(updates: int) -> str:
    """The file of the state after so many updates."""
    return f"resume-{updates:08d}.pt"


def require_safe_reader(version: str) -> None:
    """Raise UserError for a torch whose restricted reader of states has a known hole; `version` as torch gives it."""
    release = tuple(int(number) for number in re.findall(r"\d+", version)[:2])
    if release < SAFE_TORCH:
        raise UserError(
            f"torch {version} has known holes in its restricted reader of files (CVE-2026-24747, fixed in 2.10), so no "
            "resume state is read; nothing was changed; install torch 2.10 or newer"
        )


def refusal(error: Exception) -> str:
    """Why torch's restricted reader did not take a state, without its advice to use the unrestricted one."""
    foreign = _FOREIGN.search(str(error))
    if foreign is not None:
        return f"it wants to use {foreign[1]}, which no state needs and which was not run: do not trust this folder"
    if "weights_only" in str(error):
        return "it holds what torch's restricted reader refuses, and nothing of it was run: do not trust this folder"
    return str(error)


def newest_first(names: Iterable[str]) -> list[str]:
    """Those of `names` that are states, the one with the most updates first."""
    numbered = [(int(match[1]), name) for name in names if (match := _NAME.fullmatch(name))]
    return [name for _, name in sorted(numbered, reverse=True)]


def generator_states(device: torch.device) -> dict[str, Tensor]:
    """The states of the CPU's default generator and of `device`'s, uint8 each, by device type."""
    states = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    elif device.type == "mps":
        states["mps"] = torch.mps.get_rng_state()
    return states


def restore_generators(states: Mapping[str, Tensor], device: torch.device) -> None:
    """Put back what `generator_states` gave; a device of another type keeps the state that it was seeded with."""
    torch.set_rng_state(states["cpu"])
    if device.type == "cuda" and "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"], device)
    elif device.type == "mps" and "mps" in states:
        torch.mps.set_rng_state(states["mps"])
