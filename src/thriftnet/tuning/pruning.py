"""When trials are compared with each other, and which of them is stopped.

Optuna's pruners compare trials at the same step. A step is an epoch where all trials train equally many. Where the
space has `training.epochs`, it is a tenth of a trial's own epochs: the rate of a long training is still high at the
epoch at which a short one has annealed, so that at equal epochs the long ones look worse. (Ramavath's sweep over 10, 20
and 30 epochs was first pruned at equal epochs: each of the 18 longer trials after the first five was stopped, and four
of the seven short ones.)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from thriftnet.tuning.config import StudyConfig

if TYPE_CHECKING:
    import optuna

TENTHS = 10


def compares_shares(config: StudyConfig) -> bool:
    """Whether steps are tenths of a trial's own epochs."""
    return "training.epochs" in config.space


def step_of(config: StudyConfig, epoch: int, planned_epochs: int) -> int | None:
    """The step that ends with `epoch`, counted from 1; None within a tenth."""
    if not compares_shares(config):
        return epoch
    step = TENTHS * epoch // planned_epochs
    return step if step > TENTHS * (epoch - 1) // planned_epochs else None


def epoch_of(config: StudyConfig, step: int, planned_epochs: int) -> int:
    """The epoch with which `step` ended."""
    return -(-step * planned_epochs // TENTHS) if compares_shares(config) else step


def may_stop(config: StudyConfig, epoch: int) -> bool:
    """Whether a trial may be stopped after `epoch`, which is its own whatever a step is."""
    pruning = config.pruning
    return pruning is not None and (pruning.name != "median" or epoch > pruning.warmup_epochs)


def make_pruner(config: StudyConfig) -> optuna.pruners.BasePruner:
    """Optuna's pruner for a study; `may_stop` keeps the warm-up."""
    import optuna

    pruning = config.pruning
    if pruning is None:
        return optuna.pruners.NopPruner()
    if pruning.name == "median":
        return optuna.pruners.MedianPruner(pruning.startup_trials)
    return optuna.pruners.SuccessiveHalvingPruner(pruning.min_epochs, pruning.reduction_factor)
