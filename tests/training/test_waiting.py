"""No step asks the device for a value: on a GPU that would make it wait.

On the CPU every such question is the operation `_local_scalar_dense` (`item`, `float`, `bool`, `if tensor`) or one
whose result has as many rows as values fulfil a condition; both are counted in steps made as on a GPU.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from tests.training.conftest import TinySource, tiny_recipe
from tests.training.test_graphs import AUGMENTED
from tests.training.test_loop import RESUMABLE
from thriftnet import runtime as runtimes
from thriftnet.augment import random_operations
from thriftnet.data.prepare import prepare
from thriftnet.optim.build import set_rates
from thriftnet.training import loop
from thriftnet.training.guard import Guard
from thriftnet.training.run_folder import RunFolder
from thriftnet.training.step import train_step

ASKING = ("_local_scalar_dense", "nonzero", "masked_select", "equal", "unique", "is_nonzero")


class Questions(TorchDispatchMode):
    """The operations that ask."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if name in ASKING:
            self.asked.append(name)
        return func(*args, **(kwargs or {}))


def test_questions_are_counted() -> None:
    with Questions() as questions:
        value = torch.ones(2)
        assert float(value.sum()) == 2
        assert len(value.nonzero()) == 2
    assert questions.asked == ["_local_scalar_dense", "nonzero"]


ASKED_OF = RESUMABLE | {f"augment: {name}": {"augment": augment} for name, augment in AUGMENTED.items()}
ASKED_OF |= {
    "clipping": {"optimizer": {"clip_value": 0.1, "clip_norm": 1.0}},
    "cycled momentum of adam": {
        "optimizer": {"name": "adam", "lr": 0.01},
        "schedule": {"name": "one_cycle", "cycle_momentum": [0.85, 0.95]},
    },
}


@pytest.mark.parametrize("sections", ASKED_OF.values(), ids=ASKED_OF.keys())
def test_a_step_asks_nothing(monkeypatch: pytest.MonkeyPatch, out: Path, sections: dict[str, Any]) -> None:
    whole = functools.partial(random_operations.apply_operations, whole_batch=True)
    monkeypatch.setattr(random_operations, "apply_operations", whole)
    # The kernels for the CPU read the counters of a layer; a GPU has none of them.
    recipe = tiny_recipe(**sections | {"runtime": {"kernels": "no"}})
    source = TinySource()
    data = prepare(source, recipe.data, recipe.training.selection, 0)
    run = loop._Run(recipe, runtimes.resolve(recipe.runtime), data, source, RunFolder(out))
    learner = loop.replace(run.learner, guard=Guard(deferred=True))
    run.network.train()
    with Questions() as questions:
        for number in (1, 4):
            epoch = run.batches.epoch(number)
            for step in range(2):
                images, labels = run.batches.batch(epoch, step)
                set_rates(learner.optimizer, run.schedule.lr(step), run.schedule.momentum(step))
                train_step(learner, images, labels, recipe.perturbation is not None, epoch.size(step))
    assert questions.asked == []
    learner.guard.check()
