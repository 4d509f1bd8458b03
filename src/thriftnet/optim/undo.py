"""Undoing on the device what should not have happened, without waiting to hear whether it should.

A GPU is told many steps in advance what to do. Where a step turns out to have a non-finite loss, the host learns that
later, so the device itself leaves out the update: torch's fused optimisers read a flag, `found_inf`, and for everything
else there is `Kept`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

_WHOLE_NUMBERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
"""By bytes a value."""


class Kept:
    """A copy of `tensors` as they are now, to be put back."""

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        bits: dict[int, list[Tensor]] = {}
        for tensor in tensors:
            size = tensor.element_size()
            bits.setdefault(size, []).append(tensor.detach().view(_WHOLE_NUMBERS[size]))
        self._groups = [(views, torch._foreach_add(views, 0)) for views in bits.values()]

    @torch.no_grad()
    def put_back(self) -> None:
        """Make every tensor what it was."""
        for views, kept in self._groups:
            torch._foreach_copy_(views, kept)

    @torch.no_grad()
    def put_back_where(self, flag: Tensor) -> None:
        """The same where `flag` (0-d, 0 or 1) is 1; the device is not waited for.

        On the bits, kept + (1 - flag) (now - kept) modulo 2^w is exactly one of the two, also where now is NaN, and
        takes three launches for any number of tensors; torch.where takes one for each.
        """
        for views, kept in self._groups:
            torch._foreach_sub_(views, kept)
            torch._foreach_mul_(views, (1 - flag).to(views[0].dtype))
            torch._foreach_add_(views, kept)
