"""Learning rates as pure functions of the step; nothing hidden to save or resume.

A step is one update, counted from 0 over the whole run; step t is made with `Schedule.lr(t)`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from thriftnet.config import ScheduleConfig

PLATEAU_THRESHOLD = 1e-4  # a loss counts as lower only by this share, as in torch's ReduceLROnPlateau


@dataclass(frozen=True)
class Schedule:
    """A ScheduleConfig with the numbers it depends on; `base_lr` is the recipe's optimizer.lr."""

    config: ScheduleConfig
    base_lr: float
    epochs: int
    steps_per_epoch: int

    @property
    def total_steps(self) -> int:
        return self.epochs * self.steps_per_epoch

    @property
    def warmup_steps(self) -> int:
        return round(self.config.warmup_epochs * self.steps_per_epoch)

    @property
    def _steps_after_warmup(self) -> int:
        # A run of very few steps may round to nothing but warm-up.
        return max(1, self.total_steps - self.warmup_steps)

    def lr(self, step: int, monitored_losses: Sequence[float] = ()) -> float:
        """The learning rate of update `step`; `plateau` also reads the monitored loss of each completed epoch."""
        if step < self.warmup_steps:
            return self.lr(self.warmup_steps) * (step + 1) / self.warmup_steps
        shape = {
            "constant": lambda: self.base_lr,
            "linear": lambda: self._linear(step),
            "cosine": lambda: self._cosine(step),
            "one_cycle": lambda: self._one_cycle(step),
            "multi_step": lambda: self._multi_step(step),
            "plateau": lambda: self._plateau(monitored_losses),
        }
        return shape[self.config.name]()

    def momentum(self, step: int) -> float | None:
        """SGD's momentum (Adam's beta1) at update `step` where one_cycle moves it, else None."""
        if self.config.cycle_momentum is None:
            return None
        low, high = self.config.cycle_momentum
        return self._two_phases(max(step, self.warmup_steps), high, low, high)

    def _linear(self, step: int) -> float:
        """base + (floor - base) t / T over the T steps after warm-up; the floor would be reached at step T itself."""
        share = (step - self.warmup_steps) / self._steps_after_warmup
        return self.base_lr + (self.config.floor_lr - self.base_lr) * share

    def _cosine(self, step: int) -> float:
        """floor + (base - floor) (1 + cos(pi t / T)) / 2 (arXiv 1608.03983, equation 5, without restarts).

        Past T the rate rises again, as torch's CosineAnnealingLR does when it is stepped beyond T_max.
        """
        if self.config.half_period_epochs is not None:
            done, half_period = step // self.steps_per_epoch, self.config.half_period_epochs
        else:
            done = step - self.warmup_steps
            half_period = self.config.half_period_steps or self._steps_after_warmup
        floor = self.config.floor_lr
        return floor + (self.base_lr - floor) * (1 + math.cos(math.pi * done / half_period)) / 2

    def _one_cycle(self, step: int) -> float:
        """Rise to base_lr, fall far below the start (arXiv 1708.07120); equal to torch's OneCycleLR, two phases."""
        start = self.base_lr / self.config.start_divisor
        return self._two_phases(step, start, self.base_lr, start / self.config.end_divisor)

    def _two_phases(self, step: int, start: float, middle: float, end: float) -> float:
        step -= self.warmup_steps
        steps = self.total_steps - self.warmup_steps
        peak_step, last_step = self.config.peak_fraction * steps - 1, steps - 1
        if step <= peak_step:
            # A run so short that the peak is its first step has nothing to rise through.
            return self._anneal(start, middle, step / peak_step) if peak_step > 0 else middle
        # A run so short that the peak is its last step has nothing to fall through.
        return (
            self._anneal(middle, end, (step - peak_step) / (last_step - peak_step)) if last_step > peak_step else middle
        )

    def _anneal(self, start: float, end: float, share: float) -> float:
        if self.config.anneal == "linear":
            return start + (end - start) * share
        return end + (start - end) * (1 + math.cos(math.pi * share)) / 2

    def _multi_step(self, step: int) -> float:
        epoch = step // self.steps_per_epoch
        passed = sum(epoch >= milestone for milestone in self.config.milestones_epochs or ())
        return self.base_lr * self.config.gamma**passed

    def _plateau(self, monitored_losses: Sequence[float]) -> float:
        """Replays torch's ReduceLROnPlateau (mode min, relative threshold) over the completed epochs."""
        lr, best, waited = self.base_lr, math.inf, 0
        for loss in monitored_losses:
            if loss < best * (1 - PLATEAU_THRESHOLD):
                best, waited = loss, 0
            else:
                waited += 1
            if waited > self.config.patience_epochs:
                lr, waited = max(lr * self.config.gamma, self.config.floor_lr), 0
        return lr
