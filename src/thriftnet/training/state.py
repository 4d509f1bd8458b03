"""What a resume state holds of a training, and taking it up again; `checkpoint` has the files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from thriftnet.training.checkpoint import Position, checked_position
from thriftnet.training.outcome import Selection
from thriftnet.training.records import check_history
from thriftnet.training.step import Learner


@dataclass
class TrainingState:
    """How far a training has come, besides its weights."""

    history: list[dict[str, Any]] = field(default_factory=list)
    """A row for each completed epoch, as in metrics.csv."""
    selection: Selection = field(default_factory=Selection)
    selected_weights: dict[str, Tensor] | None = None
    """Of the kept epoch, on the CPU, so that every state holds them."""
    position: Position | None = None
    """Where the first epoch to be trained goes on, if within it."""


def learned(network: nn.Module, learner: Learner) -> dict[str, Any]:
    """Everything that steps change; `network` as the recipe built it, whatever trains it."""
    average, lookahead = learner.average, learner.lookahead
    return {
        "network": network.state_dict(),
        "optimizer": learner.optimizer.state_dict(),
        "scaler": learner.scaler.state_dict(),
        "average": average.network.state_dict() if average is not None else None,
        "average_updates": average.updates if average is not None else 0,
        "lookahead": lookahead.network.state_dict() if lookahead is not None else None,
        "lookahead_updates": lookahead.updates if lookahead is not None else 0,
    }


def restore_learned(state: Mapping[str, Any], network: nn.Module, learner: Learner) -> None:
    """Take up what `learned` gave. Raises KeyError, ValueError, RuntimeError, TypeError or what else torch raises."""
    network.load_state_dict(state["network"])
    learner.optimizer.load_state_dict(state["optimizer"])
    _check_moments(learner.optimizer)
    learner.scaler.load_state_dict(state["scaler"])
    if learner.average is not None:
        learner.average.network.load_state_dict(state["average"])
        learner.average.updates = state["average_updates"]
    if learner.lookahead is not None:
        learner.lookahead.network.load_state_dict(state["lookahead"])
        learner.lookahead.updates = state["lookahead_updates"]


def _check_moments(optimizer: torch.optim.Optimizer) -> None:
    """torch takes up whatever a state holds, and would fail at the first step. Raises ValueError."""
    for parameter, values in optimizer.state.items():
        for name, value in values.items():
            fits = isinstance(value, Tensor) and (value.ndim == 0 or value.shape == parameter.shape)
            if not (fits or value is None or isinstance(value, int | float)):
                raise ValueError(f"the optimiser's {name} does not fit its parameter")


def reached(state: TrainingState, position: Position | None) -> dict[str, Any]:
    """The rest of a state, taken at `position` of the epoch after those completed (None: at its beginning)."""
    return {
        "history": state.history,
        "selection": asdict(state.selection),
        "selected_weights": state.selected_weights,
        "position": asdict(position) if position is not None else None,
    }


def checked_state(
    stored: Mapping[str, Any], epochs: int, steps_per_epoch: int, weights: Mapping[str, Tensor]
) -> TrainingState:
    """What `reached` gave, of a training of so many `epochs` whose kept weights have the names and shapes of `weights`.

    Raises ValueError, KeyError or TypeError for what no such training wrote.
    """
    history, selection, kept = stored["history"], Selection(**stored["selection"]), stored["selected_weights"]
    if not isinstance(history, list) or len(history) > epochs:
        raise ValueError("its history is not one of this recipe's epochs")
    check_history(history)
    if type(selection.epoch) is not int or not (selection.epoch > 0) == bool(history) == (kept is not None):
        raise ValueError(f"its kept epoch {selection.epoch} has no weights or no row")
    if selection.epoch > len(history):
        raise ValueError(f"its kept epoch {selection.epoch} is beyond the last, {len(history)}")
    for value in (selection.accuracy, selection.loss):
        if not isinstance(value, float | None):
            raise TypeError(f"its kept epoch has {value!r:.40} as a measure")
    if kept is not None and (
        kept.keys() != weights.keys()
        or any(not isinstance(value, Tensor) or value.shape != weights[name].shape for name, value in kept.items())
    ):
        raise ValueError("the weights of its kept epoch are not of this network")
    position = checked_position(stored["position"]) if stored["position"] is not None else None
    if position is not None and position.step > steps_per_epoch:
        raise ValueError(f"its step {position.step} is beyond the epoch's {steps_per_epoch}")
    return TrainingState(history, selection, kept, position)
