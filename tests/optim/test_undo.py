"""Putting back bit for bit, with and without asking."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from thriftnet.optim.undo import Kept


def tensors() -> list[Tensor]:
    special = torch.tensor([math.nan, math.inf, -math.inf, -0.0, 1e-45, 3e38])
    return [
        special,
        torch.randn(2, 3, 4, 4).contiguous(memory_format=torch.channels_last),
        torch.tensor(2**62 + 1),
        torch.randn(3, dtype=torch.float64),
        torch.randn(3, dtype=torch.bfloat16),
        torch.randint(0, 255, (4,), dtype=torch.uint8),
    ]


def bits(tensor: Tensor) -> Tensor:
    return tensor.reshape(-1).view(torch.uint8)


def spoil(changed: list[Tensor]) -> None:
    for tensor in changed:
        tensor.fill_(math.nan) if tensor.is_floating_point() else tensor.fill_(7)


@pytest.mark.parametrize("flag", [0.0, 1.0])
def test_put_back_where_the_flag_is_one_and_else_left_as_it_is(flag: float) -> None:
    ours = tensors()
    before = [tensor.clone() for tensor in ours]
    kept = Kept(ours)
    spoil(ours)
    after = [tensor.clone() for tensor in ours]
    kept.put_back_where(torch.tensor(flag))
    for tensor, wanted in zip(ours, before if flag else after, strict=True):
        assert torch.equal(bits(tensor), bits(wanted))


def test_put_back() -> None:
    ours = tensors()
    before = [tensor.clone() for tensor in ours]
    kept = Kept(ours)
    spoil(ours)
    kept.put_back()
    assert all(torch.equal(bits(a), bits(b)) for a, b in zip(ours, before, strict=True))


def test_nothing_to_keep() -> None:
    Kept([]).put_back_where(torch.tensor(1.0))
