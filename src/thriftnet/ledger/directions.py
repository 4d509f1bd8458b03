"""Whether A is better than B: pairs of runs with the same seeds, and the verdict over them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from statistics import fmean
from typing import Any, Literal, Self

from pydantic import BaseModel, model_validator

from thriftnet.evaluation.compare import Verdict, paired_interval, verdict
from thriftnet.ledger.claims import Direction
from thriftnet.ledger.measured import Measured, mean_of, measured_dict
from thriftnet.ledger.plan import Pair
from thriftnet.ledger.train import ATTACKED_IMAGES, SHARPNESS, SHARPNESS_FILE, attack_file
from thriftnet.run import Run


@dataclass(frozen=True)
class PairValue:
    """One seed of a direction."""

    seed: int
    a: float
    b: float
    difference: float
    """A - B, in the direction's unit; of `worst_lead` the lowest of all epochs, so not that of a and b."""


@dataclass(frozen=True)
class DirectionFinding:
    """A - B over the seeds that both sides have."""

    direction: Direction
    values: tuple[PairValue, ...]
    difference: Measured | None
    verdict: Verdict | Literal["missing"]
    a_labels: tuple[str, ...]
    b_labels: tuple[str, ...]
    missing_seeds: tuple[int, ...]
    diverged: tuple[str, ...]
    """`B, seed 1`."""
    hardly_learned: tuple[str, ...]
    """Sides whose mean accuracy is below twice that of guessing, so that the difference is one of learning at all."""
    training: tuple[str, str]
    """The keys of A's and of B's runs."""
    joined: str = ""
    """The ledger that it was taken from, where it was measured elsewhere."""

    def as_dict(self) -> dict[str, Any]:
        """For ledger.json; a `JoinedDirection` is read from it."""
        return {
            "question": self.direction.question,
            "claimed_sign": self.direction.claimed_sign,
            "claimed_difference": self.direction.claimed_difference,
            "values": [asdict(value) for value in self.values],
            "difference": measured_dict(self.difference),
            "verdict": self.verdict,
            "a_labels": list(self.a_labels),
            "b_labels": list(self.b_labels),
            "missing_seeds": list(self.missing_seeds),
            "diverged": list(self.diverged),
            "hardly_learned": list(self.hardly_learned),
            "training": list(self.training),
            "measured_as": self.direction.measured_as,
        }


class JoinedDirection(BaseModel):
    """What another ledger's json has of a direction; the verdict is found here, by the sign that is claimed today."""

    values: tuple[PairValue, ...]
    difference: Measured | None
    diverged: tuple[str, ...]
    hardly_learned: tuple[str, ...]
    training: tuple[str, str]
    measured_as: str
    joined: str = ""

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if bool(self.values) != (self.difference is not None):
            raise ValueError("values and difference go together")
        return self

    def is_of(self, pair: Pair) -> bool:
        """Whether it is the same measure of the same runs as `pair`, but for their seeds."""
        return (self.training, self.measured_as) == (pair.training, pair.direction.measured_as)


def direction_finding(pairs: Sequence[Pair], joined: Sequence[JoinedDirection] = ()) -> DirectionFinding:
    """From the shortening with the most pairs (three are as good as more), of equal ones the most faithful.

    Pairs of here and of elsewhere are not put together: they would differ in more than the seed.
    """
    found = [each for pair in pairs for each in (_from_here(pair), *_from_elsewhere(pair, joined))]
    return max(found, key=lambda each: min(len(each.values), 3))  # of equal ones the first, which is more faithful


def _from_elsewhere(pair: Pair, joined: Sequence[JoinedDirection]) -> list[DirectionFinding]:
    return [
        DirectionFinding(
            pair.direction,
            each.values,
            each.difference,
            _verdict(pair, each.values),
            pair.a.labels,
            pair.b.labels,
            (),
            each.diverged,
            each.hardly_learned,
            pair.training,
            each.joined,
        )
        for each in joined
        if each.is_of(pair)
    ]


def _verdict(pair: Pair, values: Sequence[PairValue]) -> Verdict | Literal["missing"]:
    signed = [pair.direction.sign * value.difference for value in values]
    return verdict(paired_interval(signed)) if signed else "missing"


def _from_here(pair: Pair) -> DirectionFinding:
    direction, values = pair.direction, _pair_values(pair)
    labels = tuple(dict.fromkeys([*pair.a.labels, *pair.b.labels]))
    diverged = tuple(
        f"{side}, seed {job.recipe.training.seed}"
        for side, jobs in (("A", pair.a_jobs), ("B", pair.b_jobs))
        for job in jobs
        if job.diverged
    )
    measured_seeds = {value.seed for value in values}
    waiting = [
        a.recipe.training.seed
        for a, b in zip(pair.a_jobs, pair.b_jobs, strict=True)
        if a.recipe.training.seed not in measured_seeds and not a.diverged and not b.diverged
    ]
    both = {a: value.difference for a in pair.a_jobs for value in values if value.seed == a.recipe.training.seed}
    difference = mean_of(pair.a, both, direction.unit, *_split_and_selection(direction), labels)
    return DirectionFinding(
        direction,
        values,
        difference,
        _verdict(pair, values),
        pair.a.labels,
        pair.b.labels,
        tuple(waiting),
        diverged,
        _hardly_learned(pair, values),
        pair.training,
    )


def _hardly_learned(pair: Pair, values: Sequence[PairValue]) -> tuple[str, ...]:
    if pair.direction.measure != "accuracy" or not values:
        return ()
    guessing = 100 / len(next(job.run.data.class_names for job in pair.a_jobs if job.finished))
    means = {"A": fmean(value.a for value in values), "B": fmean(value.b for value in values)}
    return tuple(
        f"{side} hardly learned: {mean:.1f} %, guessing gives {guessing:.1f} %"
        for side, mean in means.items()
        if mean < 2 * guessing
    )


def _split_and_selection(direction: Direction) -> tuple[str, str]:
    """What the compared values were measured on, and of which epoch."""
    match direction.measure:
        case "accuracy":
            return "validation", "validation-selected"
        case "adversarial_accuracy":
            return f"at most {ATTACKED_IMAGES:,} validation images", "validation-selected"
        case "sharpness":
            return f"at most {SHARPNESS.images:,} training images", "validation-selected"
        case "early_accuracy":
            return "validation", f"epoch {direction.at_epoch or 1}"
        case "epoch_time":
            return "no split", "mean of all epochs"
        case "roughness":
            return "validation", "second half of the epochs"
        case "worst_lead":
            return "validation", "every epoch"


def _pair_values(pair: Pair) -> tuple[PairValue, ...]:
    found = []
    for a, b in zip(pair.a_jobs, pair.b_jobs, strict=True):
        if a.finished and b.finished:
            value = _pair_value(pair.direction, a.recipe.training.seed, a.run, b.run)
            if value is not None:
                found.append(value)
    return tuple(found)


def _pair_value(direction: Direction, seed: int, a: Run, b: Run) -> PairValue | None:
    match direction.measure:
        case "worst_lead":
            leads = [first - second for first, second in zip(_curve(a), _curve(b), strict=False)]
            return PairValue(seed, _curve(a)[-1], _curve(b)[-1], min(leads))
        case "epoch_time":
            first, second = (float(run.result["elapsed_s"]) / int(run.result["epochs"]) for run in (a, b))
            return PairValue(seed, first, second, 100 * (first / second - 1)) if second > 0 else None
    values = [_side_value(direction, run) for run in (a, b)]
    if values[0] is None or values[1] is None:
        return None
    return PairValue(seed, values[0], values[1], values[0] - values[1])


def _side_value(direction: Direction, run: Run) -> float | None:
    match direction.measure:
        case "accuracy":
            return 100 * float(run.result["selected"]["validation_accuracy"])
        case "early_accuracy":
            curve = _curve(run)
            return curve[min(direction.at_epoch or 1, len(curve)) - 1]
        case "roughness":
            return roughness(_curve(run))
        case "sharpness":
            has = run.folder.has(SHARPNESS_FILE)
            rise = run.folder.read_json(SHARPNESS_FILE)["rise"] if has else None
            return None if rise is None else float(rise)
        case _:
            assert direction.attack is not None  # the config demands it
            name = attack_file(direction.attack)
            return 100 * float(run.folder.read_json(name)["accuracy"]) if run.folder.has(name) else None


def _curve(run: Run) -> list[float]:
    """Validation accuracy after each epoch, in per cent."""
    return [100 * float(row["validation_accuracy"]) for row in run.history]


def roughness(curve: Sequence[float]) -> float | None:
    """Mean size of the change from one epoch to the next over the second half of a curve; None for under three values.

    The first half rises for every network, and its rise is no roughness.
    """
    second = curve[len(curve) // 2 :]
    if len(second) < 2 or len(curve) < 3:
        return None
    return fmean(abs(after - before) for before, after in pairwise(second))
