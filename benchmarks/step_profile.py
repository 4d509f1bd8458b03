"""Where the time of the product's training step goes: torch's profiler around steps of `fit`, in groups.

python -m benchmarks.throughput --profile [--recipes NAME ...]
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile, record_function

from benchmarks.common import Row, parser, run_main, run_worker, say
from benchmarks.product import Rounds, images_for, round_recipe, run_rounds
from benchmarks.roofline import GROUPS, group_of
from thriftnet import recipe as recipes
from thriftnet.augment.policy import Policy
from thriftnet.training import progress

AUGMENTATION = "benchmark: augmentation"
OPTIMIZER = "Optimizer.step#"
LISTED_OPERATIONS = 15
ORDER = [*GROUPS, "optimiser", "augmentation", "other"]


@contextmanager
def augmentation_named() -> Iterator[None]:
    """Give the augmentation a name in the profile; its operations are the same as the network's."""
    plain = Policy.__call__

    def named(self: Policy, *args: Any, **kwargs: Any) -> Any:
        with record_function(AUGMENTATION):
            return plain(self, *args, **kwargs)

    Policy.__call__ = named  # type: ignore[method-assign]
    try:
        yield
    finally:
        Policy.__call__ = plain  # type: ignore[method-assign]


def group_of_event(event: Any) -> str:
    """The group of a profiler event: what it was done for (optimiser, augmentation), else the nearest telling name."""
    named = None
    node = event
    while node is not None:
        if node.name.startswith(OPTIMIZER):
            return "optimiser"
        if node.name == AUGMENTATION:
            return "augmentation"
        named = named or group_of(node.name)
        node = node.cpu_parent
    return named or "other"


def grouped(events: Any) -> tuple[dict[str, float], dict[str, float]]:
    """Seconds of each group, and of the operations that took longest, as `group: name`; device time where there is."""
    groups, operations = Counter[str](), Counter[str]()
    for event in events:
        seconds = max(event.self_device_time_total, 0) / 1e6 or event.self_cpu_time_total / 1e6
        if event.name.startswith(("ProfilerStep", "cuda", "Activity Buffer")):
            continue
        group = group_of_event(event)
        groups[group] += seconds
        operations[f"{group}: {event.name}"] += seconds
    return {name: groups[name] for name in ORDER}, dict(operations.most_common(LISTED_OPERATIONS))


class Profiled(Rounds):
    """Profiles the steps between the loop's first report to the display and the second."""

    def __init__(self) -> None:
        super().__init__(lambda measured: True)
        activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * torch.cuda.is_available()
        self.profiler = profile(activities=activities)
        self.reports = 0

    def step(self, epoch: int, step: int, loss: float, accuracy: float, images_per_s: float) -> None:
        self.reports += 1
        if self.reports == 1:
            self.profiler.start()
        elif self.reports == 2:
            self.profiler.stop()


def profile_recipe(name: str) -> Row:
    """Seconds a step in each group over STEPS_PER_REPORT steps of the recipe, after as many that warm up."""
    steps = 2 * progress.STEPS_PER_REPORT
    recipe = round_recipe(recipes.load(name), rounds=1)
    display = Profiled()
    with augmentation_named():
        run_rounds(recipe, images_for(recipe, steps), display)
    groups, operations = grouped(display.profiler.events())  # type: ignore[no-untyped-call]
    per_step = progress.STEPS_PER_REPORT
    return {
        "steps": per_step,
        "seconds_a_step": {group: seconds / per_step for group, seconds in groups.items()},
        "longest_operations_s": {operation: seconds / per_step for operation, seconds in operations.items()},
    }


def main() -> None:
    options = parser(__doc__, "profile")
    given = options.parse_args().worker or options.error("it is started by benchmarks.throughput --profile")
    run_worker(lambda arguments: say(profile_recipe(arguments["recipe"])), given)


if __name__ == "__main__":
    run_main(main)
