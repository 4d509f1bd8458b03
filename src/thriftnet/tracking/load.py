"""The trackers there are, by name; the library of each is imported only when it is asked for."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable

from thriftnet.errors import MissingExtraError, UserError
from thriftnet.tracking.tracker import Tracker

NAMES = ("wandb", "tensorboard")
"""Each is also the name of the module that it needs and of the extra that installs it."""


def require(names: Iterable[str]) -> None:
    """Raise UserError for an unknown tracker, MissingExtraError for one whose library is not installed."""
    for name in names:
        if name not in NAMES:
            raise UserError(f"there is no tracker {name!r}; there are {' and '.join(NAMES)}")
        if importlib.util.find_spec(name) is None:
            raise MissingExtraError(f"tracking by {name} needs an extra; install it: pip install 'thriftnet[{name}]'")


def load(name: str) -> Tracker:
    """A tracker that is not open yet. Raises what `require` raises."""
    require([name])
    if name == "wandb":
        from thriftnet.tracking.weights_and_biases import WeightsAndBiases

        return WeightsAndBiases()
    from thriftnet.tracking.tensorboard import TensorBoard

    return TensorBoard()
