"""Intervals over seeds, by hand and against SciPy's paired test."""

import pytest
from scipy import stats

from thriftnet.ledger.statistics import interval_over_seeds, verdict


def test_interval_by_hand() -> None:
    """Mean 2, standard deviation 1, t(0.975, 2) = 4.302653: 2 +- 4.302653 / sqrt(3)."""
    interval = interval_over_seeds([1.0, 2.0, 3.0])
    assert interval == pytest.approx((2 - 2.484138, 2 + 2.484138), abs=1e-6)


def test_interval_is_that_of_the_paired_t_test() -> None:
    a, b = [91.2, 90.4, 91.9, 90.8], [90.1, 90.2, 90.9, 90.6]
    oracle = stats.ttest_rel(a, b).confidence_interval(0.95)
    differences = [first - second for first, second in zip(a, b, strict=True)]
    assert interval_over_seeds(differences) == pytest.approx((oracle.low, oracle.high))


def test_one_value_has_no_interval_and_decides_nothing() -> None:
    assert interval_over_seeds([3.0]) is None
    assert verdict([3.0], 1) == "not decided"


@pytest.mark.parametrize(
    ("differences", "sign", "expected"),
    [
        ([1.0, 1.1, 0.9], 1, "holds"),
        ([1.0, 1.1, 0.9], -1, "fails"),
        ([-1.0, -1.1, -0.9], -1, "holds"),
        ([1.0, -1.0, 0.5], 1, "not decided"),
        ([0.0, 0.0], 1, "not decided"),
    ],
)
def test_verdict_needs_the_interval_on_one_side(differences: list[float], sign: int, expected: str) -> None:
    assert verdict(differences, sign) == expected
