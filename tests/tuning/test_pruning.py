"""Which epochs are steps at which trials are compared."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from thriftnet.tuning.config import StudyConfig
from thriftnet.tuning.pruning import TENTHS, epoch_of, step_of


def config(key: str) -> StudyConfig:
    return StudyConfig.model_validate(
        {
            "name": "x",
            "recipe": "liu-4x2",
            "overrides": {},
            "sampler": {"name": "random", "seed": 0},
            "trials": 2,
            "space": {key: {"values": [1, 2]}},
        }
    )


@given(epoch=st.integers(1, 500), planned=st.integers(1, 500))
def test_a_step_is_an_epoch_where_all_train_equally_many(epoch: int, planned: int) -> None:
    study = config("training.batch_size")
    assert step_of(study, epoch, planned) == epoch
    assert epoch_of(study, epoch, planned) == epoch


@given(planned=st.integers(1, 500))
def test_tenths_rise_end_with_the_training_and_tell_their_epoch(planned: int) -> None:
    study = config("training.epochs")
    steps = {epoch: step_of(study, epoch, planned) for epoch in range(1, planned + 1)}
    known = [(epoch, step) for epoch, step in steps.items() if step is not None]
    assert len(known) == min(planned, TENTHS)
    assert known[-1] == (planned, TENTHS)
    assert [step for _, step in known] == sorted({step for _, step in known})
    for epoch, step in known:
        assert epoch_of(study, step, planned) == epoch
        assert epoch / planned >= step / TENTHS > (epoch - 1) / planned - 1e-12


@pytest.mark.parametrize(("planned", "epochs"), [(10, [1, 2, 3]), (20, [2, 4, 6]), (30, [3, 6, 9])])
def test_the_lengths_of_ramavaths_sweep_meet_at_every_tenth(planned: int, epochs: list[int]) -> None:
    study = config("training.epochs")
    assert [epoch for epoch in range(1, planned + 1) if step_of(study, epoch, planned) in (1, 2, 3)] == epochs
