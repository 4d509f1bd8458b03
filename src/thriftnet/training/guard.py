"""A non-finite loss or gradient ends the training before the update that would have spread it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from thriftnet.errors import NonFiniteLossError


class Guard:
    """Judges every step before its update, for the steps since `begin`.

    On a CPU a bad step raises at once. On a GPU that would mean to wait for every step; there `deferred` marks it in
    `found`, whoever updates leaves out this step and all later ones, and `check` raises when it is called.
    """

    def __init__(self, device: torch.device | None = None, deferred: bool = False) -> None:
        self.device, self.deferred = device or torch.device("cpu"), deferred
        self.begin()

    def begin(self, step: int = 0) -> None:
        """Count steps from `step`, as at the start of an epoch; to be called when no step was bad."""
        self.found = torch.zeros((), device=self.device)
        """float32, 0-d: 1 from the first bad step on."""
        self._good_steps = torch.full((), float(step), device=self.device)
        self._loss = torch.zeros((), device=self.device)

    @torch.no_grad()
    def judge(self, loss: Tensor, gradients: Sequence[Tensor], excused: Tensor | None = None) -> None:
        """`loss`: 0-d. Bad is a loss or a value of `gradients` that is NaN or infinite.

        Overflows of the gradient are no fault where `excused` (0-d) is 1: loss scaling leaves out such a step itself.
        Raises NonFiniteLossError for a bad step unless the guard is deferred.
        """
        bad = (~torch.isfinite(loss)).float()
        if gradients:
            overflows = _any_not_finite(list(gradients), may_ask=not self.deferred)
            bad = torch.maximum(bad, overflows if excused is None else overflows * (1 - excused))
        if not self.deferred:
            if bad.item():
                raise non_finite(loss.item())
            return
        self._loss = torch.where(self.found > 0, self._loss, loss.float())
        self.found = torch.maximum(self.found, bad)
        self._good_steps = self._good_steps + (1 - self.found)

    def check(self) -> None:
        """Wait for the device and raise NonFiniteLossError, with the number of the first bad step, if there was one."""
        found, good_steps, loss = torch.stack([self.found, self._good_steps, self._loss]).tolist()
        if found:
            raise non_finite(loss, step=int(good_steps))


def _any_not_finite(gradients: list[Tensor], may_ask: bool) -> Tensor:
    """float32, 0-d: 1 if a value of `gradients` is NaN or infinite, else 0; `may_ask`: the device is waited for."""
    # torch takes 16 times longer for the largest value than for the sum of squares (on a CPU), which is finite only if
    # every value is. Squares of large values overflow, so an infinite sum decides nothing yet.
    if may_ask and torch.stack(torch._foreach_norm(gradients)).isfinite().all():
        return torch.zeros(())
    largest = torch.stack(torch._foreach_norm(gradients, torch.inf))
    return (~torch.isfinite(largest)).any().float()


def non_finite(loss: float, step: int | None = None) -> NonFiniteLossError:
    """The error of a step with this loss; `step` counts from the epoch's first, None: the one being made."""
    if torch.isfinite(torch.tensor(loss)):
        return NonFiniteLossError(f"the gradient is not finite, at a loss of {loss:.4g},", step)
    return NonFiniteLossError(f"the loss is {loss}", step)
