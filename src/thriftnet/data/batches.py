"""The order of an epoch, as a pure function of (seed, epoch): nothing hidden to resume."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor


def steps_per_epoch(count: int, batch_size: int, drop_last: bool) -> int:
    """Updates in an epoch of `count` images. A set smaller than one batch still gives one."""
    return max(1, count // batch_size) if drop_last else -(-count // batch_size)


def smallest_batch(count: int, batch_size: int, drop_last: bool) -> int:
    """Images in the smallest batch of an epoch of `count` images, as `epoch_batches` cuts it."""
    last = (steps_per_epoch(count, batch_size, drop_last) - 1) * batch_size
    return min(batch_size, count - last)


def epoch_order(count: int, seed: int, epoch: int) -> Tensor:
    """Indices int64 [count], each once, in the order of this seed and epoch."""
    generator = torch.Generator().manual_seed((seed * 1_000_003 + epoch * 7_919 + 17) % 2**63)
    return torch.randperm(count, generator=generator)


def epoch_batches(count: int, batch_size: int, drop_last: bool, seed: int, epoch: int) -> Iterator[Tensor]:
    """The order cut into steps: int64 [up to batch_size] each."""
    order = epoch_order(count, seed, epoch)
    for step in range(steps_per_epoch(count, batch_size, drop_last)):
        yield order[step * batch_size : (step + 1) * batch_size]
