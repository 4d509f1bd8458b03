"""What differences between trained networks are worth: intervals, tests, and how many seeds would decide.

Pure functions of numbers. Shapes: S seeds (runs of one recipe), N test images. Accuracies and their differences are
fractions. Which interval covers what is told in docs/statistics.md; in short, a number varies because another seed
would train another network, and because other images would be tested, and an interval covers only what was varied.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import bdtr, stdtr, stdtrit

CONFIDENCE = 0.95
RESAMPLES = 10_000
POWER = 0.8  # the usual one (Cohen, Statistical Power Analysis for the Behavioral Sciences, 1988, section 2.4)
MOST_SEEDS = 1000

Verdict = Literal["holds", "fails", "not decided"]
Values = NDArray[np.float64]


@dataclass(frozen=True)
class Interval:
    """A number with its two-sided confidence interval; unbounded where nothing is known of its spread."""

    estimate: float
    low: float
    high: float
    confidence: float = CONFIDENCE

    @property
    def excludes_zero(self) -> bool:
        return self.low > 0 or self.high < 0

    def __neg__(self) -> Interval:
        """The interval of the opposite difference."""
        return Interval(-self.estimate, -self.high, -self.low, self.confidence)

    def within(self, low: float, high: float) -> Interval:
        """Cut to what is possible, for example accuracies from 0 to 1; that loses no truth."""
        return Interval(self.estimate, max(self.low, low), min(self.high, high), self.confidence)

    def as_dict(self) -> dict[str, float | None]:
        """Ready for JSON, which has no infinity: None where unbounded."""
        return {
            "estimate": self.estimate,
            "low": self.low if math.isfinite(self.low) else None,
            "high": self.high if math.isfinite(self.high) else None,
            "confidence": self.confidence,
        }


@dataclass(frozen=True)
class Estimate:
    """A mean or a difference of means whose error follows Student's t."""

    value: float
    standard_error: float
    """Infinite where there are too few values to know it."""
    degrees_of_freedom: float

    def interval(self, confidence: float = CONFIDENCE) -> Interval:
        """value +- t * standard error. Without any spread it has no width, however few the values."""
        margin = math.inf
        if math.isfinite(self.standard_error):
            margin = float(stdtrit(self.degrees_of_freedom, (1 + confidence) / 2)) * self.standard_error
        return Interval(self.value, self.value - margin, self.value + margin, confidence)

    @property
    def p_value(self) -> float:
        """Two-sided: how often a value this far from zero would come from a true value of zero."""
        if self.standard_error == 0:
            return 1.0 if self.value == 0 else 0.0
        return min(1.0, 2 * float(stdtr(self.degrees_of_freedom, -abs(self.value) / self.standard_error)))


@dataclass(frozen=True)
class CrossedEstimate(Estimate):
    """An estimate over seeds and images, with the two parts of its variance."""

    seed_variance: float
    """Of one seed, so that S seeds contribute a share of 1/S; holds the noise of single images in single runs too."""
    image_variance: float
    """What no number of seeds takes away."""


def mean_estimate(values: Sequence[float]) -> Estimate:
    """Mean of independent values, one a seed; S - 1 degrees of freedom (Student, Biometrika 6, 1908, pages 1-25).

    With one value the spread is unknown and the interval unbounded. Raises ValueError without values, or for NaN.
    """
    _require_finite(values)
    count = len(values)
    error = stdev(values) / math.sqrt(count) if count > 1 else math.inf
    return Estimate(fmean(values), error, max(count - 1, 1))


def mean_interval(values: Sequence[float], confidence: float = CONFIDENCE) -> Interval:
    """Student's t interval of the mean over seeds; covers other seeds on these same images."""
    return mean_estimate(values).interval(confidence)


def paired_interval(differences: Sequence[float], confidence: float = CONFIDENCE) -> Interval:
    """Student's t interval of a mean difference, from one difference a seed (both sides trained with that seed)."""
    return mean_interval(differences, confidence)


def unpaired_estimate(first: Sequence[float], second: Sequence[float]) -> Estimate:
    """Mean of `first` minus mean of `second`, of seeds that are not the same (B. L. Welch, Biometrika 34, 1947).

    Raises ValueError for an empty side, or for NaN.
    """
    sides = mean_estimate(first), mean_estimate(second)
    variance = sum(side.standard_error**2 for side in sides)
    return Estimate(
        sides[0].value - sides[1].value,
        math.sqrt(variance),
        _satterthwaite(variance, [(side.standard_error**2, side.degrees_of_freedom) for side in sides]),
    )


def unpaired_interval(first: Sequence[float], second: Sequence[float], confidence: float = CONFIDENCE) -> Interval:
    """Welch's t interval of the difference of two means over seeds that are not the same."""
    return unpaired_estimate(first, second).interval(confidence)


def crossed_estimate(*groups: NDArray[np.generic]) -> CrossedEstimate:
    """Sum of the groups' means when seeds and images both vary.

    One group [S, N] of scores gives a mean; one group of differences (first minus second side, the same seed in the
    same row) gives a paired difference; two groups, the first side's [S1, N] and the *negative* of the second's
    [S2, N], give the difference of sides whose seeds differ. Every group has the same images in its columns.

    Every seed is tested on every image, as readers and cases are crossed in studies of medical imaging, from which the
    analysis comes: variance = (MS_seeds + max(MS_images - MS_residual, 0)) / (S N), with the degrees of freedom of
    S. L. Hillis, Statistics in Medicine 26, 2007, pages 596-619; for unequal seeds S. L. Hillis, Statistics in
    Medicine 33, 2014, pages 330-360. Both were made for few readers, where a bootstrap over seeds is too narrow. With
    two seeds they are still too sure: simulated 95 % intervals held the truth in 88 to 95 % of cases, with three in 92
    to 95 %, with five in 94 to 95 %.

    With a single seed or image the error is unknown: infinite. Raises ValueError for empty or unequal groups, or NaN.
    """
    scores = [np.asarray(group, dtype=np.float64) for group in groups]
    images = scores[0].shape[-1] if scores else 0
    if images == 0 or any(each.ndim != 2 or each.shape[0] == 0 or each.shape[1] != images for each in scores):
        raise ValueError(f"groups of shapes {[each.shape for each in scores]} are not all [seeds, the same images]")
    _require_finite([float(each.sum()) for each in scores])
    value = sum(float(each.mean()) for each in scores)
    if images == 1 or any(len(each) == 1 for each in scores):
        return CrossedEstimate(value, math.inf, 1, math.inf, math.inf)
    over_seeds = [(float(each.mean(1).var(ddof=1)) / len(each), len(each) - 1) for each in scores]
    residual = sum(_residual_mean_square(each) / each.size for each in scores)
    over_images = float(np.sum([each.mean(0) for each in scores], axis=0).var(ddof=1)) / images
    image_variance = max(over_images - residual, 0.0)
    seeds_part = sum(variance for variance, _ in over_seeds)
    variance = seeds_part + image_variance
    return CrossedEstimate(
        value,
        math.sqrt(variance),
        _satterthwaite(variance, over_seeds) if seeds_part > 0 else images - 1,
        seed_variance=sum(variance * len(each) for each, (variance, _) in zip(scores, over_seeds, strict=True)),
        image_variance=image_variance,
    )


def bootstrap_images(
    differences: NDArray[np.generic],
    confidence: float = CONFIDENCE,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Interval:
    """Percentile bootstrap over images of the mean of `differences` [N], one an image (paired: A minus B).

    B. Efron and R. Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13; for test sets T. Berg-Kirkpatrick
    et al., EMNLP 2012. It covers other images and nothing of other seeds. A function of its arguments: the draws are
    keyed by `seed`. Opposite differences give exactly the opposite interval. Raises ValueError without images or NaN.
    """
    given = np.asarray(differences, dtype=np.float64)
    _require_finite([float(given.sum())] if given.size else [])
    # Images with equal differences are interchangeable, so how often each value is drawn is all that matters.
    values, counts = np.unique(given + 0.0, return_counts=True)
    opposite = (-values[::-1]).tolist(), counts[::-1].tolist()
    own = values.tolist(), counts.tolist()
    if own < opposite:
        return -bootstrap_images(-given, confidence, resamples=resamples, seed=seed)
    generator = np.random.default_rng(seed)
    at_once = max(1, 10_000_000 // len(values))
    sizes = [min(at_once, resamples - start) for start in range(0, resamples, at_once)]
    means = np.concatenate(
        [generator.multinomial(given.size, counts / given.size, size) @ values / given.size for size in sizes]
    )
    low, high = (float(bound) for bound in np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2]))
    if own == opposite:
        high = max(-low, high)
        low = -high
    return Interval(float(given.mean()), low, high, confidence)


def mcnemar_p(only_first: int, only_second: int) -> float:
    """Two-sided mid-p value of McNemar's test that two networks err equally often on the same images.

    `only_first` images were right with the first network alone, `only_second` with the second alone. Q. McNemar,
    Psychometrika 12, 1947; recommended for two classifiers trained once by T. G. Dietterich, Neural Computation 10(7),
    1998, section 3.1. The mid-p form 2 P(X <= k) - P(X = k), X binomial with p = 1/2 and k the smaller count (of equal
    counts: 1 - P(X = k) / 2), serves for few and many such images, where the exact test is too cautious: M. W.
    Fagerland, S. Lydersen and P. Laake, BMC Medical Research Methodology 13:91, 2013. Without any it is 1.
    """
    fewer, total = min(only_first, only_second), only_first + only_second
    if fewer < 0:
        raise ValueError(f"counts must not be negative: {only_first}, {only_second}")
    if total == 0:
        return 1.0
    at_most, below = bdtr(fewer, total, 0.5), bdtr(fewer - 1, total, 0.5) if fewer else 0.0
    return float(1 - (at_most - below) / 2 if only_first == only_second else at_most + below)


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p values: one below alpha is significant while all of them together err with probability alpha at most.

    S. Holm, Scandinavian Journal of Statistics 6(2), 1979, pages 65-70; for systems compared on several data sets
    R. Dror et al., ACL 2018, section 3.3.
    """
    adjusted, highest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = highest
    return adjusted


def verdict(interval: Interval, margin: float = 0.0) -> Verdict:
    """What an interval says of the claim that the true difference is greater than `margin`.

    `holds` where all of the interval is above it, `fails` where all is below, else `not decided`. At 95 % two-sided,
    either answer is wrong in at most 2.5 % of such intervals.
    """
    if interval.low > margin:
        return "holds"
    return "fails" if interval.high < margin else "not decided"


def seeds_needed(
    difference: float,
    seed_variance: float,
    image_variance: float = 0.0,
    *,
    confidence: float = CONFIDENCE,
    power: float = POWER,
) -> int | None:
    """The fewest seeds a side that would find a true `difference` with probability `power`; at least 2.

    The smallest S with |difference| >= (t(confidence) + t(power)) * sqrt(seed_variance / S + image_variance), t with
    the degrees of freedom of `crossed_estimate` for paired seeds. `seed_variance` is that of one seed's difference. A
    rough number: variances from few seeds are rough, and the true difference is not the one that was seen. None where
    MOST_SEEDS would not do, or the variance is unknown.
    """
    if not (math.isfinite(seed_variance) and math.isfinite(image_variance)):
        return None
    seeds = np.arange(2, MOST_SEEDS + 1, dtype=np.float64)
    from_seeds = seed_variance / seeds
    variance = from_seeds + image_variance
    shares = np.divide(variance, from_seeds, out=np.full_like(seeds, np.inf), where=from_seeds > 0)
    freedom = (seeds - 1) * shares**2
    quantiles = stdtrit(freedom, (1 + confidence) / 2) + stdtrit(freedom, power)
    enough = abs(difference) >= quantiles * np.sqrt(variance)
    return int(seeds[enough.argmax()]) if difference != 0 and enough.any() else None


def images_needed(
    difference: float, standard_error: float, images: int, *, confidence: float = CONFIDENCE, power: float = POWER
) -> int | None:
    """About how many test images would find a true `difference` between these very networks with probability `power`.

    `standard_error` is that of the difference on `images` images; it falls with the root of their number. None for a
    difference of 0.
    """
    if difference == 0:
        return None
    quantiles = float(stdtrit(math.inf, (1 + confidence) / 2) + stdtrit(math.inf, power))
    return math.ceil(images * (quantiles * standard_error / difference) ** 2)


def _residual_mean_square(scores: Values) -> float:
    """Of [S, N], S and N at least 2: what is left when seed means and image means are taken out."""
    left = scores - scores.mean(1, keepdims=True) - scores.mean(0, keepdims=True) + scores.mean()
    return float((left**2).sum()) / ((scores.shape[0] - 1) * (scores.shape[1] - 1))


def _satterthwaite(variance: float, parts: Sequence[tuple[float, float]]) -> float:
    """Degrees of freedom of `variance`, of which each part (its share, its own degrees of freedom) is an estimate.

    F. E. Satterthwaite, Biometrics Bulletin 2, 1946, pages 110-114.
    """
    spread = sum(share**2 / freedom for share, freedom in parts)
    if not math.isfinite(variance):
        return 1
    return variance**2 / spread if spread > 0 else sum(freedom for _, freedom in parts)


def _require_finite(values: Sequence[float]) -> None:
    if len(values) == 0:
        raise ValueError("there are no values to compare")
    if not all(map(math.isfinite, values)):
        raise ValueError("a value to compare is NaN or infinite")
