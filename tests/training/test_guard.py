"""Which steps are bad, and what is said of the first of them."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from thriftnet.errors import NonFiniteLossError
from thriftnet.training.guard import Guard

GOOD = [torch.ones(3), torch.full((2, 2), -3e38)]


def bad(value: float) -> list[Tensor]:
    return [torch.ones(3), torch.tensor([[0.0, value], [1.0, 2.0]])]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_at_once(value: float) -> None:
    guard = Guard()
    guard.judge(torch.tensor(0.5), GOOD)
    with pytest.raises(NonFiniteLossError, match=f"^the loss is {value}$"):
        guard.judge(torch.tensor(value), GOOD)
    with pytest.raises(NonFiniteLossError, match=r"^the gradient is not finite, at a loss of 0\.5,$"):
        guard.judge(torch.tensor(0.5), bad(value))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_finite_gradients_of_any_size_pass_and_a_bad_value_anywhere_does_not(dtype: torch.dtype) -> None:
    guard, loss = Guard(), torch.tensor(0.5)
    for size in (0.0, 1e-45, 1e-3, 1e20, torch.finfo(dtype).max):  # squares and sums of the last two overflow
        gradient = torch.full((1001,), size, dtype=dtype)
        gradient[::2] *= -1
        guard.judge(loss, [torch.ones(3, dtype=dtype), gradient])
        for position in (0, 500, 1000):
            for value in (math.nan, math.inf, -math.inf):
                poisoned = gradient.clone()
                poisoned[position] = value
                with pytest.raises(NonFiniteLossError, match="gradient is not finite"):
                    guard.judge(loss, [torch.ones(3, dtype=dtype), poisoned])


@pytest.mark.parametrize(("loss", "gradients"), [(math.nan, GOOD), (0.5, bad(math.nan)), (0.5, bad(math.inf))])
def test_deferred_names_the_first_bad_step(loss: float, gradients: list[Tensor]) -> None:
    guard = Guard(deferred=True)
    for _ in range(3):
        guard.judge(torch.tensor(1.0), GOOD)
        guard.check()
    assert guard.found == 0
    guard.judge(torch.tensor(loss), gradients)
    assert guard.found == 1
    guard.judge(torch.tensor(7.0), GOOD)  # the steps after it count no more
    assert guard.found == 1
    with pytest.raises(NonFiniteLossError, match=f"the loss is {loss}|at a loss of {loss}") as caught:
        guard.check()
    assert caught.value.step == 3
    guard.begin()
    guard.check()


def test_an_overflow_that_loss_scaling_handles_is_none_of_its_business() -> None:
    guard, yes = Guard(), torch.tensor(1.0)
    guard.judge(torch.tensor(0.5), bad(math.inf), excused=yes)
    with pytest.raises(NonFiniteLossError, match="gradient"):
        guard.judge(torch.tensor(0.5), bad(math.inf), excused=1 - yes)
    with pytest.raises(NonFiniteLossError, match="loss is nan"):
        guard.judge(torch.tensor(math.nan), GOOD, excused=yes)
