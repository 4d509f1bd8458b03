"""Recipes and runs set against each other on the same images: each side, each pair of them, and a verdict in words.

Shapes: S seeds (runs) of a side, N images. Accuracies are fractions; differences are printed in percentage points.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from statistics import fmean, stdev
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from thriftnet.errors import UserError
from thriftnet.evaluation.compare import (
    CONFIDENCE,
    MOST_SEEDS,
    CrossedEstimate,
    Estimate,
    Interval,
    bootstrap_images,
    crossed_estimate,
    holm,
    images_needed,
    mcnemar_p,
    mean_estimate,
    mean_interval,
    seeds_needed,
    unpaired_estimate,
)
from thriftnet.evaluation.metrics import wilson_interval

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
Judgement = Literal["better", "worse", "noise", "not decided", "not comparable"]


@dataclass(frozen=True)
class Side:
    """One recipe or run with what each of its seeds got right."""

    name: str
    seeds: tuple[int, ...]
    correct: NDArray[np.bool_] = field(repr=False)
    """[S, N]: whether the run of a seed was right about an image."""
    images_sha256: str
    """Of the images and labels that were tested, in their order."""
    epochs: tuple[int, ...]
    """That each run was trained for."""
    parameters: int
    selection: str
    """How the kept epoch was chosen, as a reader must be told."""
    training_images: int
    trained_on: str
    """Device and precision of the training."""

    @property
    def accuracies(self) -> list[float]:
        """One a seed."""
        return [float(row.mean()) for row in self.correct]

    @property
    def mean(self) -> float:
        return fmean(self.accuracies)

    @property
    def sd(self) -> float | None:
        """Sample standard deviation over seeds; None for one."""
        return stdev(self.accuracies) if len(self.seeds) > 1 else None

    @property
    def interval(self) -> Interval:
        """Over seeds on these images (Student's t); of a single run over images (Wilson's)."""
        if len(self.seeds) > 1:
            return mean_interval(self.accuracies).within(0, 1)
        return Interval(self.mean, *wilson_interval(int(self.correct.sum()), self.correct.size, CONFIDENCE))

    @property
    def covers(self) -> str:
        """What the interval varies."""
        return "other seeds" if len(self.seeds) > 1 else "other images"

    def as_dict(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "seeds": list(self.seeds),
            "accuracies": self.accuracies,
            "mean": self.mean,
            "sd": self.sd,
            "interval": {**self.interval.as_dict(), "covers": self.covers},
            "images_sha256": self.images_sha256,
            "epochs": list(self.epochs),
            "parameters": self.parameters,
            "selection": self.selection,
            "training_images": self.training_images,
            "trained_on": self.trained_on,
        }


@dataclass(frozen=True)
class Difference:
    """Accuracy of a first side minus that of a second one, with an interval for each thing that varies.

    Sides of one run each: the networks are given, the images vary, and McNemar's test decides. Sides of several runs
    each: seeds and images vary together, and t of `crossed_estimate` decides; p agrees with the interval `both`. One
    run against several: the spread of the one is unknown, and nothing is decided about recipes.
    """

    value: float
    over_images: Interval
    """Bootstrap; these trained networks on other images."""
    over_seeds: Interval | None
    """Other seeds on these images; None unless both sides have several."""
    over_both: Interval | None
    """Other seeds and other images; None unless both sides have several."""
    seeds_paired: bool
    """Whether both sides have the same seeds, so that the runs of a seed were set against each other."""
    standard_error: float
    """Of what decides; infinite where nothing does."""
    test: str
    p: float | None
    only_first: int | None
    """Images that only the first was right about; None unless both sides are one run."""
    only_second: int | None
    needed: str
    """What would decide if the true difference were this one."""

    @property
    def interval(self) -> Interval:
        """The one that belongs to the verdict."""
        return self.over_both or self.over_images

    def as_dict(self) -> dict[str, Any]:
        return {
            "value": self.value,
            "over_images": self.over_images.as_dict(),
            "over_seeds": self.over_seeds.as_dict() if self.over_seeds else None,
            "over_both": self.over_both.as_dict() if self.over_both else None,
            "seeds_paired": self.seeds_paired,
            "test": self.test,
            "p": self.p,
            "only_first": self.only_first,
            "only_second": self.only_second,
            "needed": self.needed,
        }


@dataclass(frozen=True)
class Pair:
    """Two sides by their places, and what came of them."""

    first: int
    second: int
    difference: Difference | None
    """None where they cannot be compared."""
    adjusted_p: float | None
    """Holm's, over all pairs that were tested."""
    judgement: Judgement
    sentence: str

    @property
    def names(self) -> tuple[str, str]:
        return LETTERS[self.first], LETTERS[self.second]

    def as_dict(self) -> dict[str, Any]:
        return {
            "first": self.names[0],
            "second": self.names[1],
            "difference": self.difference.as_dict() if self.difference else None,
            "adjusted_p": self.adjusted_p,
            "judgement": self.judgement,
            "sentence": self.sentence,
        }


@dataclass(frozen=True)
class Comparison:
    """All sides, all pairs of them, and what was tested."""

    split: str
    data: str
    """Where the tested images lay."""
    images: int
    sides: tuple[Side, ...]
    pairs: tuple[Pair, ...]
    command: str

    @property
    def notes(self) -> tuple[str, ...]:
        """What the numbers must be read with."""
        found = []
        if any("selected" in side.selection for side in self.sides):
            found.append(f"A number marked selected is too high: the {self.split} images chose its epoch.")
        if len({side.training_images for side in self.sides}) > 1:
            counts = ", ".join(f"{LETTERS[at]} {side.training_images:,}" for at, side in enumerate(self.sides))
            found.append(f"Not all were trained on equally many images: {counts}.")
        if sum(pair.adjusted_p is not None for pair in self.pairs) > 1:
            found.append("p is adjusted for the number of pairs (Holm); each interval is for its own pair alone.")
        return tuple(found)

    def as_dict(self) -> dict[str, Any]:
        """Ready for JSON; accuracies are fractions."""
        return {
            "split": self.split,
            "data": self.data,
            "images": self.images,
            "confidence": CONFIDENCE,
            "sides": {LETTERS[at]: side.as_dict() for at, side in enumerate(self.sides)},
            "pairs": [pair.as_dict() for pair in self.pairs],
            "notes": list(self.notes),
            "command": self.command,
        }

    def summary(self) -> str:
        """Tables and verdicts for a person."""
        width = max(len("side"), *(len(side.name) for side in self.sides))
        lines = [
            f"{self.split} split of {self.data}, {self.images:,} images",
            "",
            f"   {'side':<{width}}  seeds  epochs  parameters  {'epoch kept by':<18}  accuracy       sd"
            f"  95 % interval      covers",
        ]
        for letter, side in zip(LETTERS, self.sides, strict=False):
            sd = "-" if side.sd is None else f"{side.sd:.2%}"
            lines.append(
                f"{letter}  {side.name:<{width}}  {len(side.seeds):>5}  {epochs_text(side.epochs):>6}  "
                f"{side.parameters:>10,}  {side.selection:<18}  {side.mean:>8.2%}  {sd:>7}  "
                f"{interval_text(side.interval, '%'):<17}  {side.covers}"
            )
        lines.append("")
        for pair in self.pairs:
            lines.append(f"{' - '.join(pair.names)}: {pair.sentence}")
            if pair.difference is not None:
                for covered, interval in intervals_of(pair.difference):
                    lines.append(f"    {covered:<26}{points(interval.estimate):>7}, {interval_text(interval)}")
        return "\n".join([*lines, *(["", *self.notes] if self.notes else [])])


def compare_sides(
    sides: Sequence[Side],
    split: str,
    data: str,
    command: str,
    not_comparable: Mapping[tuple[int, int], str] | None = None,
) -> Comparison:
    """Every pair of sides, judged at 95 % with Holm's correction over all of them.

    `not_comparable` says of pairs why not; pairs that were not tested on the same images are added to it.
    """
    barred = dict(not_comparable or {})
    for first, second in combinations(range(len(sides)), 2):
        if sides[first].images_sha256 != sides[second].images_sha256:
            barred.setdefault((first, second), f"they were tested on different images of the {split} split")
    pairs = [
        Pair(first, second, None, None, "not comparable", f"not comparable: {barred[first, second]}")
        if (first, second) in barred
        else Pair(first, second, difference(sides[first], sides[second]), None, "not decided", "")
        for first, second in combinations(range(len(sides)), 2)
    ]
    tested = [at for at, pair in enumerate(pairs) if pair.difference is not None and pair.difference.p is not None]
    for at, adjusted in zip(tested, holm([_p(pairs[at]) for at in tested]), strict=True):
        pairs[at] = replace(pairs[at], adjusted_p=adjusted)
    judged = [_judged(pair, sides) if pair.difference is not None else pair for pair in pairs]
    return Comparison(split, data, sides[0].correct.shape[1], tuple(sides), tuple(judged), command)


def difference(first: Side, second: Side) -> Difference:
    """First minus second. Raises UserError unless both were tested on the same images."""
    if first.images_sha256 != second.images_sha256 or first.correct.shape[1] != second.correct.shape[1]:
        raise UserError(f"{first.name} and {second.name} were tested on different images; evaluate both on the same")
    runs = len(first.seeds), len(second.seeds)
    hits = first.correct.sum(0, dtype=np.int64), second.correct.sum(0, dtype=np.int64)
    # In whole numbers first, so that equal differences of images are equal and a swap only changes the sign.
    by_image = (hits[0] * runs[1] - hits[1] * runs[0]) / (runs[0] * runs[1])
    value, images = float(by_image.mean()), len(by_image)
    over_images = bootstrap_images(by_image)
    paired = sorted(first.seeds) == sorted(second.seeds)
    if runs == (1, 1):
        only_first, only_second = int((by_image > 0).sum()), int((by_image < 0).sum())
        error = float(by_image.std()) / math.sqrt(images)
        more = images_needed(value, error, images)
        needed = "" if more is None else f"about {_rounded(more)} test images would be needed"
        p = mcnemar_p(only_first, only_second)
        return Difference(
            value, over_images, None, None, paired, error, "McNemar, mid-p", p, only_first, only_second, needed
        )
    if 1 in runs:
        lone = " and ".join(side.name for side in (first, second) if len(side.seeds) == 1)
        needed = f"{lone} has one run, so nothing is known of its other seeds; train more"
        return Difference(value, over_images, None, None, paired, math.inf, "none", None, None, None, needed)
    by_seed: Estimate
    if paired:
        rows = first.correct[np.argsort(first.seeds)], second.correct[np.argsort(second.seeds)]
        differences = rows[0].astype(np.float64) - rows[1]
        by_seed = mean_estimate(differences.mean(1).tolist())
        crossed = crossed_estimate(differences)
    else:
        by_seed = unpaired_estimate(first.accuracies, second.accuracies)
        crossed = crossed_estimate(first.correct.astype(np.float64), -second.correct.astype(np.float64))
    return Difference(
        value=value,
        over_images=over_images,
        over_seeds=by_seed.interval(),
        over_both=crossed.interval(),
        seeds_paired=paired,
        standard_error=crossed.standard_error,
        test=f"t over seeds and images, seeds {'paired' if paired else 'not paired'}",
        p=crossed.p_value,
        only_first=None,
        only_second=None,
        needed=_seeds_needed(value, crossed),
    )


def points(fraction: float) -> str:
    """A difference of accuracies in percentage points, with its sign."""
    return f"{100 * fraction + 0.0:+.2f}"  # + 0.0: no negative zero


def interval_text(interval: Interval, unit: Literal["points", "%"] = "points") -> str:
    """`low to high`, as differences in points or as accuracies in per cent."""
    if not math.isfinite(interval.low):
        return "unknown"
    if unit == "%":
        return f"{interval.low:.2%} to {interval.high:.2%}"
    return f"{points(interval.low)} to {points(interval.high)}"


def epochs_text(epochs: Sequence[int]) -> str:
    """One number, or the range where runs stopped early."""
    low, high = min(epochs), max(epochs)
    return str(low) if low == high else f"{low}-{high}"


def intervals_of(found: Difference) -> list[tuple[str, Interval]]:
    """What varies, and the interval of the difference that covers it; the one of the verdict is last."""
    each = [
        ("other images", found.over_images),
        ("other seeds", found.over_seeds),
        ("other seeds and images", found.over_both),
    ]
    return [(covered, interval) for covered, interval in each if interval is not None]


def _judged(pair: Pair, sides: Sequence[Side]) -> Pair:
    found = pair.difference
    assert found is not None
    value, seen = found.value, f"{points(found.value)} points"
    runs = len(sides[pair.first].seeds), len(sides[pair.second].seeds)
    tested = f"{min(runs)} seed{'s' if min(runs) > 1 else ''} a side and {sides[pair.first].correct.shape[1]:,} images"
    if pair.adjusted_p is None:
        return replace(pair, judgement="not decided", sentence=f"not decided ({seen}): {found.needed}")
    evidence = f"p = {pair.adjusted_p:.2g}, {found.test}"
    if pair.adjusted_p <= 1 - CONFIDENCE + 1e-12:
        winner = pair.names[0 if value > 0 else 1]
        sentence = f"{winner} is better: {seen}, 95 % interval {interval_text(found.interval)} ({evidence})"
        if runs == (1, 1):
            sentence += "; that holds for these two networks, one seed a side says nothing of other seeds"
        return replace(pair, judgement="better" if value > 0 else "worse", sentence=sentence)
    if abs(value) <= found.standard_error:
        return replace(pair, judgement="noise", sentence=f"the difference is noise at {tested}: {seen} ({evidence})")
    return replace(
        pair,
        judgement="not decided",
        sentence=f"not decided at {tested}: {seen} ({evidence}); {found.needed} if that is the true difference",
    )


def _seeds_needed(value: float, crossed: CrossedEstimate) -> str:
    count = seeds_needed(value, crossed.seed_variance, crossed.image_variance)
    if count is not None:
        return f"about {_rounded(count)} seeds a side would be needed"
    if crossed.image_variance > 0 and seeds_needed(value, crossed.seed_variance) is not None:
        return "more test images would be needed, however many the seeds"
    return f"more than {MOST_SEEDS:,} seeds a side would be needed"


def _rounded(count: int) -> str:
    """To two digits: the estimate has no more."""
    digits = max(len(str(count)) - 2, 0)
    return f"{math.ceil(count / 10**digits) * 10**digits:,}"


def _p(pair: Pair) -> float:
    assert pair.difference is not None
    assert pair.difference.p is not None
    return pair.difference.p
