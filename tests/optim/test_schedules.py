"""Every schedule against torch's own scheduler, or against its formula where torch has none."""

import math
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.optim import lr_scheduler

from thriftnet.config import ScheduleConfig
from thriftnet.optim.schedules import Schedule


def schedule(base_lr: float = 0.1, epochs: int = 6, steps_per_epoch: int = 7, **values: Any) -> Schedule:
    return Schedule(ScheduleConfig.model_validate(values), base_lr, epochs, steps_per_epoch)


def torch_rates(
    make: Callable[[torch.optim.Optimizer], Any], steps: int, key: str = "lr", lr: float = 0.1
) -> list[float]:
    """The values of `steps` updates under torch's scheduler, stepped after every update."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=lr, momentum=0.9)
    scheduler = make(optimizer)
    values = []
    for step in range(steps):
        values.append(optimizer.param_groups[0][key])
        optimizer.step()
        if step < steps - 1:
            scheduler.step()
    return values


@pytest.mark.parametrize("anneal", ["cosine", "linear"])
@pytest.mark.parametrize(("peak", "start", "end"), [(0.3, 25.0, 1e4), (0.15, 10.0, 100.0)])
def test_one_cycle_equals_torch_value_for_value(anneal: str, peak: float, start: float, end: float) -> None:
    ours = schedule(
        name="one_cycle",
        anneal=anneal,
        peak_fraction=peak,
        start_divisor=start,
        end_divisor=end,
        cycle_momentum=[0.85, 0.95],
    )
    strategy = "cos" if anneal == "cosine" else "linear"
    for key, mine in (("lr", ours.lr), ("momentum", ours.momentum)):
        theirs = torch_rates(
            lambda o: lr_scheduler.OneCycleLR(
                o, 0.1, total_steps=42, pct_start=peak, anneal_strategy=strategy, div_factor=start, final_div_factor=end
            ),
            42,
            key,
        )
        assert [mine(step) for step in range(42)] == pytest.approx(theirs, rel=1e-12, abs=1e-15)


def test_linear_equals_torch() -> None:
    theirs = torch_rates(lambda o: lr_scheduler.LinearLR(o, start_factor=1.0, end_factor=0.1, total_iters=42), 42)
    ours = schedule(name="linear", floor_lr=0.01)
    assert [ours.lr(step) for step in range(42)] == pytest.approx(theirs, rel=1e-9)


def test_linear_after_warmup_falls_over_the_remaining_steps() -> None:
    ours = schedule(name="linear", warmup_epochs=1.0)
    assert [ours.lr(step) for step in (7, 14, 41)] == pytest.approx([0.1, 0.08, 0.1 / 35])


@pytest.mark.parametrize("name", ["linear", "cosine"])
def test_a_run_that_rounds_to_nothing_but_warmup_reaches_the_full_rate(name: str) -> None:
    assert schedule(epochs=1, steps_per_epoch=1, name=name, warmup_epochs=0.9).lr(0) == pytest.approx(0.1)


def test_cosine_to_zero_equals_torch() -> None:
    theirs = torch_rates(lambda o: lr_scheduler.CosineAnnealingLR(o, T_max=42, eta_min=0.01), 42)
    ours = schedule(name="cosine", floor_lr=0.01)
    assert [ours.lr(step) for step in range(42)] == pytest.approx(theirs, rel=1e-9)


def test_swinging_cosine_equals_torch_stepped_beyond_t_max() -> None:
    # What Liu, Douglas, Ji ran: CosineAnnealingLR with T_max = 200 stepped after every one of 391 batches an epoch.
    steps = 3 * 391
    theirs = torch_rates(lambda o: lr_scheduler.CosineAnnealingLR(o, T_max=200), steps, lr=0.01)
    ours = schedule(base_lr=0.01, epochs=3, steps_per_epoch=391, name="cosine", half_period_steps=200)
    assert [ours.lr(step) for step in range(steps)] == pytest.approx(theirs, abs=1e-9)
    assert ours.lr(200) == pytest.approx(0.0, abs=1e-12)
    assert ours.lr(400) == pytest.approx(0.01)


def test_cosine_stepped_each_epoch_ends_half_way() -> None:
    # Tirumalasetty, Doma, Kadali: T_max = 200 epochs, of which 100 are trained.
    ours = schedule(base_lr=0.001, epochs=100, steps_per_epoch=5, name="cosine", half_period_epochs=200)
    assert [ours.lr(step) for step in range(5)] == [0.001] * 5
    assert ours.lr(499) == pytest.approx(0.0005 * (1 + math.cos(math.pi * 99 / 200)))
    assert ours.lr(499) > 0.0005


def test_multi_step_equals_torch() -> None:
    theirs = torch_rates(lambda o: lr_scheduler.MultiStepLR(o, [14, 28], gamma=0.2), 42)
    ours = schedule(name="multi_step", milestones_epochs=[2, 4], gamma=0.2)
    assert [ours.lr(step) for step in range(42)] == pytest.approx(theirs)


@given(st.lists(st.floats(0.01, 10), min_size=1, max_size=30), st.integers(0, 4))
def test_plateau_equals_torch(losses: list[float], patience: int) -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    theirs = lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.5, patience=patience, min_lr=0.004, eps=0)
    for loss in losses:
        theirs.step(loss)
    ours = schedule(name="plateau", gamma=0.5, patience_epochs=patience, floor_lr=0.004)
    assert ours.lr(0, losses) == pytest.approx(optimizer.param_groups[0]["lr"])


@pytest.mark.parametrize(
    "values",
    [
        {"name": "constant"},
        {"name": "linear"},
        {"name": "cosine"},
        {"name": "cosine", "half_period_steps": 5},
        {"name": "multi_step", "milestones_epochs": [3]},
        {"name": "plateau"},
    ],
)
def test_warmup_rises_linearly_to_the_full_rate_then_hands_over(values: dict[str, Any]) -> None:
    ours = schedule(warmup_epochs=1.5, **values)
    assert ours.warmup_steps == 10
    assert [ours.lr(step) for step in range(10)] == pytest.approx([0.1 * (step + 1) / 10 for step in range(10)])
    assert ours.lr(10) == pytest.approx(0.1)


def test_one_cycle_after_warmup_is_the_shorter_cycle() -> None:
    ours = schedule(name="one_cycle", warmup_epochs=2.0, cycle_momentum=[0.85, 0.95])
    shorter = schedule(name="one_cycle", epochs=4, cycle_momentum=[0.85, 0.95])
    assert [ours.lr(step + 14) for step in range(28)] == [shorter.lr(step) for step in range(28)]
    assert [ours.lr(step) for step in range(14)] == pytest.approx([0.1 / 25 * (step + 1) / 14 for step in range(14)])
    assert ours.momentum(0) == 0.95


def test_cosine_after_warmup_uses_the_remaining_steps() -> None:
    ours = schedule(name="cosine", warmup_epochs=1.0)
    assert ours.lr(7 + 35 // 2) == pytest.approx(0.05 * (1 + math.cos(math.pi * 17 / 35)))
    assert ours.lr(41) < 0.001


SHARES = st.floats(0, 1, exclude_min=True, exclude_max=True) | st.integers(2, 50).map(lambda steps: 1 / steps)
"""Those of one step among others: floats drawn at random would never meet them."""


@given(st.data(), st.sampled_from(["constant", "linear", "cosine", "one_cycle", "multi_step", "plateau"]))
def test_rates_are_finite_and_within_bounds_for_any_length(data: st.DataObject, name: str) -> None:
    epochs, steps = data.draw(st.integers(1, 5)), data.draw(st.integers(1, 9))
    values: dict[str, Any] = {"name": name, "warmup_epochs": data.draw(SHARES) * epochs * data.draw(st.integers(0, 1))}
    if name == "one_cycle":
        values["peak_fraction"] = data.draw(SHARES)
        values["anneal"] = data.draw(st.sampled_from(["cosine", "linear"]))
        values["cycle_momentum"] = [0.85, 0.95]
    elif name == "multi_step":
        values["milestones_epochs"] = sorted(data.draw(st.sets(st.integers(1, 9), min_size=1)))
    elif name == "cosine":
        values[data.draw(st.sampled_from(["half_period_steps", "half_period_epochs"]))] = data.draw(
            st.none() | st.integers(1, 50)
        )
    ours = schedule(epochs=epochs, steps_per_epoch=steps, **values)
    for step in range(ours.total_steps):
        assert 0 <= ours.lr(step, [1.0] * (step // steps)) <= 0.1 * (1 + 1e-12)
        assert 0.85 - 1e-12 <= (ours.momentum(step) or 0.9) <= 0.95 + 1e-12


@pytest.mark.parametrize("anneal", ["cosine", "linear"])
@pytest.mark.parametrize(("peak_fraction", "steps"), [(1 / 3, 3), (0.1, 10), (0.02, 50)])
def test_one_cycle_whose_peak_is_its_first_step_falls_from_there(peak_fraction: float, steps: int, anneal: str) -> None:
    ours = schedule(
        epochs=1, steps_per_epoch=steps, name="one_cycle", peak_fraction=peak_fraction, anneal=anneal,
        cycle_momentum=[0.85, 0.95],
    )  # fmt: skip
    rates = [ours.lr(step) for step in range(steps)]
    assert (rates[0], ours.momentum(0)) == (0.1, 0.85)
    assert rates == sorted(rates, reverse=True)


def test_one_cycle_of_a_single_step_does_not_divide_by_zero() -> None:
    assert schedule(epochs=1, steps_per_epoch=1, name="one_cycle").lr(0) > 0


warnings.filterwarnings("ignore", message=".*lr_scheduler.step.*")
