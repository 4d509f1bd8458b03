"""Intervals over seeds."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean, stdev
from typing import Literal

Verdict = Literal["holds", "fails", "not decided"]
CONFIDENCE = 0.95


def interval_over_seeds(values: Sequence[float]) -> tuple[float, float] | None:
    """95 % interval of the mean by Student's t, n - 1 degrees of freedom; None for fewer than two values.

    Of differences between runs of the same seed it is the paired interval.
    """
    if len(values) < 2:
        return None
    from scipy.stats import t  # comes with scikit-learn, and takes a moment to import

    mean = fmean(values)
    half = float(t.ppf((1 + CONFIDENCE) / 2, len(values) - 1)) * stdev(values) / len(values) ** 0.5
    return mean - half, mean + half


def verdict(differences: Sequence[float], claimed_sign: int) -> Verdict:
    """Whether A - B has the claimed sign: `holds` or `fails` where its 95 % interval lies on one side of zero."""
    interval = interval_over_seeds(differences)
    if interval is None:
        return "not decided"
    low, high = sorted(claimed_sign * bound for bound in interval)
    return "holds" if low > 0 else "fails" if high < 0 else "not decided"
