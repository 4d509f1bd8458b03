"""Statistics against printed tables, values worked out by hand, scipy.stats and simulations."""

from __future__ import annotations

import math
from math import comb

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from thriftnet.evaluation.compare import (
    CrossedEstimate,
    Interval,
    bootstrap_images,
    crossed_estimate,
    holm,
    images_needed,
    mcnemar_p,
    mean_estimate,
    mean_interval,
    paired_interval,
    seeds_needed,
    unpaired_estimate,
    unpaired_interval,
    verdict,
)

fractions = st.floats(-1, 1, allow_subnormal=False)
several = st.lists(fractions, min_size=2, max_size=8)


def bounds(interval: Interval) -> tuple[float, float, float]:
    return interval.estimate, interval.low, interval.high


class TestMeans:
    def test_three_values_by_hand(self) -> None:
        # mean 0.91, sd 0.01, and 4.3027 is t for 2 degrees of freedom in any printed table.
        interval = mean_interval([0.90, 0.91, 0.92])
        assert bounds(interval) == pytest.approx((0.91, 0.91 - 4.3027 * 0.01 / 3**0.5, 0.91 + 4.3027 * 0.01 / 3**0.5))
        assert interval.confidence == 0.95

    @pytest.mark.parametrize(("count", "t"), [(2, 12.706), (3, 4.303), (5, 2.776), (11, 2.228), (31, 2.042)])
    def test_the_quantiles_are_those_of_the_printed_table(self, count: int, t: float) -> None:
        values = [float(k) for k in range(count)]
        estimate = mean_estimate(values)
        assert (estimate.interval().high - estimate.value) / estimate.standard_error == pytest.approx(t, abs=6e-4)

    @given(several, st.sampled_from([0.8, 0.95, 0.99]))
    def test_agrees_with_scipy(self, values: list[float], confidence: float) -> None:
        estimate = mean_estimate(values)
        if estimate.standard_error < 1e-6:  # scipy gives up where nothing varies
            return
        expected = stats.ttest_1samp(values, 0.0)
        interval = expected.confidence_interval(confidence)
        found = estimate.interval(confidence)
        assert (found.low, found.high) == pytest.approx((interval.low, interval.high), rel=1e-6, abs=1e-9)
        assert estimate.p_value == pytest.approx(expected.pvalue, rel=1e-6, abs=1e-12)

    def test_one_seed_bounds_nothing(self) -> None:
        interval = paired_interval([0.02])
        assert bounds(interval) == (0.02, -math.inf, math.inf)
        assert not interval.excludes_zero
        assert mean_estimate([0.02]).p_value == 1.0
        assert interval.as_dict() == {"estimate": 0.02, "low": None, "high": None, "confidence": 0.95}

    def test_equal_values_have_no_width(self) -> None:
        assert bounds(paired_interval([0.0, 0.0, 0.0])) == (0, 0, 0)
        assert mean_estimate([0.0, 0.0]).p_value == 1.0
        assert mean_estimate([0.5, 0.5]).p_value == 0.0

    def test_it_can_be_cut_to_what_is_possible(self) -> None:
        assert bounds(mean_interval([0.5, 0.99]).within(0, 1)) == (0.745, 0, 1)
        assert bounds(Interval(0.5, 0.4, 0.6).within(0, 1)) == (0.5, 0.4, 0.6)

    @pytest.mark.parametrize("values", [[], [0.1, math.nan], [math.inf, 0.0]])
    def test_nothing_and_nan_are_refused(self, values: list[float]) -> None:
        with pytest.raises(ValueError, match=r"no values|NaN or infinite"):
            mean_interval(values)


class TestUnpaired:
    @pytest.mark.filterwarnings("ignore:Precision loss")
    @given(several, several, st.sampled_from([0.9, 0.95]))
    def test_agrees_with_welch_in_scipy(self, first: list[float], second: list[float], confidence: float) -> None:
        estimate = unpaired_estimate(first, second)
        if estimate.standard_error < 1e-6:
            return
        expected = stats.ttest_ind(first, second, equal_var=False)
        interval = expected.confidence_interval(confidence)
        found = estimate.interval(confidence)
        assert (found.low, found.high) == pytest.approx((interval.low, interval.high), rel=1e-6, abs=1e-9)
        assert estimate.p_value == pytest.approx(expected.pvalue, rel=1e-6, abs=1e-12)

    @given(several, several)
    def test_swapped_sides_mirror_the_interval(self, first: list[float], second: list[float]) -> None:
        found, swapped = unpaired_interval(first, second), unpaired_interval(second, first)
        assert bounds(found) == pytest.approx(bounds(-swapped))

    def test_a_single_seed_bounds_nothing(self) -> None:
        interval = unpaired_interval([0.9], [0.8, 0.82])
        assert interval.estimate == pytest.approx(0.09)
        assert (interval.low, interval.high) == (-math.inf, math.inf)


def crossed(seeds: int, images: int, key: int) -> np.ndarray:
    return np.random.default_rng(key).integers(-1, 2, (seeds, images)).astype(float)


class TestCrossed:
    def test_two_seeds_and_two_images_by_hand(self) -> None:
        # Scores 1 1 / 0 1: mean 3/4, seed means 1 and 1/2, image means 1/2 and 1.
        # MS_seeds = 2 * (1/16 + 1/16) = 1/4 = MS_images; residuals are all 1/4: MS_residual = 4/16 = 1/4.
        # variance = (1/4 + max(1/4 - 1/4, 0)) / 4 = 1/16; degrees of freedom (1/4)^2 / ((1/4)^2 / 1) = 1.
        estimate = crossed_estimate(np.array([[1, 1], [0, 1]]))
        assert estimate == CrossedEstimate(0.75, 0.25, 1.0, seed_variance=0.125, image_variance=0.0)

    def test_no_difference_between_seeds_leaves_the_images(self) -> None:
        """Equal seeds know no more than one of them: the error is that of a mean over images."""
        row = np.array([1.0, 0, 0, 1, 1, -1, 0, 1])
        estimate = crossed_estimate(np.stack([row, row, row]))
        assert estimate.standard_error == pytest.approx(row.std(ddof=1) / 8**0.5)
        assert estimate.degrees_of_freedom == 7
        assert (estimate.seed_variance, estimate.image_variance) == (0, pytest.approx(row.var(ddof=1) / 8))

    def test_no_difference_between_images_leaves_the_seeds(self) -> None:
        means = [0.1, 0.4, 0.2]
        estimate = crossed_estimate(np.repeat(np.array(means)[:, None], 50, axis=1))
        assert bounds(estimate.interval()) == pytest.approx(bounds(mean_interval(means)))
        assert estimate.image_variance == 0

    @given(st.integers(2, 5), st.integers(2, 5), st.integers(2, 30), st.integers(0, 10**6))
    def test_swapped_sides_mirror_the_interval(self, s1: int, s2: int, images: int, key: int) -> None:
        first, second = crossed(s1, images, key), crossed(s2, images, key + 1)
        found, swapped = crossed_estimate(first, -second), crossed_estimate(second, -first)
        assert bounds(found.interval()) == pytest.approx(bounds(-swapped.interval()))
        assert found.p_value == pytest.approx(swapped.p_value)
        assert bounds(crossed_estimate(first).interval()) == pytest.approx(bounds(-crossed_estimate(-first).interval()))

    @given(st.integers(2, 5), st.integers(2, 30), st.integers(0, 10**6))
    def test_it_is_never_surer_than_the_seeds_alone(self, seeds: int, images: int, key: int) -> None:
        scores = crossed(seeds, images, key)
        estimate = crossed_estimate(scores)
        assert estimate.standard_error >= mean_estimate(scores.mean(1).tolist()).standard_error - 1e-12
        assert estimate.degrees_of_freedom >= min(seeds, images) - 1 - 1e-9
        assert estimate.standard_error**2 == pytest.approx(estimate.seed_variance / seeds + estimate.image_variance)

    @pytest.mark.parametrize("paired", [True, False])
    def test_it_covers_other_seeds_and_other_images_at_once(self, paired: bool) -> None:
        """Of 700 simulated comparisons of three seeds, about 95 % of the intervals must hold the truth, 0.

        Seeds move accuracy by 4 %, images differ by 20 %, a single run's answer by 20 % more: on 100 images each part
        matters. An interval that varies only the images holds it far less often, as asserted below.
        """
        generator, comparisons, seeds, images = np.random.default_rng(5), 700, 3, 100
        held = held_by_images_alone = 0
        for _ in range(comparisons):

            def side(of_images: np.ndarray) -> np.ndarray:
                noise = generator.normal(0, 0.2, (seeds, images))
                return of_images + generator.normal(0, 0.04, (seeds, 1)) + noise

            if paired:
                groups = [side(generator.normal(0, 0.2, images))]
            else:
                groups = [side(generator.normal(0, 0.2, images)), -side(np.zeros(images))]
            interval = crossed_estimate(*groups).interval()
            held += interval.low <= 0 <= interval.high
            of_images = np.sum([group.mean(0) for group in groups], axis=0)
            held_by_images_alone += abs(of_images.mean()) <= 1.98 * of_images.std(ddof=1) / images**0.5
        assert 0.9 <= held / comparisons <= 0.99
        assert held_by_images_alone / comparisons < 0.85

    def test_one_seed_or_one_image_bounds_nothing(self) -> None:
        for scores in (crossed(1, 9, 0), crossed(4, 1, 0)):
            interval = crossed_estimate(scores).interval()
            assert (interval.low, interval.high) == (-math.inf, math.inf)

    def test_unequal_images_are_refused(self) -> None:
        with pytest.raises(ValueError, match="not all \\[seeds, the same images\\]"):
            crossed_estimate(crossed(3, 9, 0), crossed(3, 8, 0))
        with pytest.raises(ValueError, match="not all"):
            crossed_estimate()


class TestBootstrap:
    def test_agrees_with_scipy(self) -> None:
        differences = np.random.default_rng(0).choice([-1, 0, 1], 500, p=[0.05, 0.85, 0.10])
        found = bootstrap_images(differences)
        expected = stats.bootstrap(
            (differences,), np.mean, n_resamples=10_000, method="percentile", rng=np.random.default_rng(1)
        ).confidence_interval
        assert found.estimate == differences.mean()
        assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1.1e-3)

    def test_it_approaches_the_normal_interval(self) -> None:
        differences = np.repeat([-1, 0, 1], [300, 9000, 700])
        error = differences.std() / 100
        found = bootstrap_images(differences)
        assert (found.low, found.high) == pytest.approx((0.04 - 1.96 * error, 0.04 + 1.96 * error), abs=3e-4)

    @given(st.lists(st.sampled_from([-1.0, -0.5, 0.0, 0.5, 1.0]), min_size=1, max_size=40))
    def test_swapped_sides_mirror_the_interval_exactly(self, differences: list[float]) -> None:
        given_, opposite = np.array(differences), -np.array(differences)
        assert bounds(bootstrap_images(given_, resamples=200)) == bounds(-bootstrap_images(opposite, resamples=200))

    @given(st.permutations([-1.0, 0.0, 0.0, 1.0, 1.0, 1.0]))
    def test_the_order_of_images_does_not_matter(self, differences: list[float]) -> None:
        first = bootstrap_images(np.array([-1.0, 0.0, 0.0, 1.0, 1.0, 1.0]), resamples=200)
        assert bootstrap_images(np.array(differences), resamples=200) == first

    def test_draws_are_keyed(self) -> None:
        differences = np.random.default_rng(0).normal(size=50)
        assert bootstrap_images(differences) == bootstrap_images(differences)
        assert bootstrap_images(differences) != bootstrap_images(differences, seed=1)

    def test_identical_predictions_leave_no_doubt_about_no_difference(self) -> None:
        assert bounds(bootstrap_images(np.zeros(100))) == (0, 0, 0)

    def test_no_images_are_refused(self) -> None:
        with pytest.raises(ValueError, match="no values"):
            bootstrap_images(np.zeros(0))


class TestMcNemar:
    def test_the_example_of_its_source(self) -> None:
        """Fagerland et al. 2013, table 1: 21 children, 1 and 7 discordant; exact 0.0703, mid-p 0.0391."""
        assert stats.binomtest(1, 8).pvalue == pytest.approx(0.0703, abs=5e-5)
        assert mcnemar_p(1, 7) == pytest.approx(0.0391, abs=5e-5)
        assert mcnemar_p(7, 1) == (2 * (1 + 8) - 8) / 2**8

    @given(st.integers(0, 300), st.integers(0, 300))
    def test_half_of_what_was_seen_is_taken_from_the_exact_test(self, first: int, second: int) -> None:
        total = first + second
        seen = comb(total, first) / 2**total
        expected = stats.binomtest(first, total).pvalue - (seen if first != second else seen / 2) if total else 1.0
        assert mcnemar_p(first, second) == pytest.approx(expected, rel=1e-6, abs=1e-300)
        assert mcnemar_p(first, second) == mcnemar_p(second, first)

    def test_identical_predictions_are_no_evidence(self) -> None:
        assert mcnemar_p(0, 0) == 1.0

    def test_many_images_approach_chi_square(self) -> None:
        # (b - c)^2 / (b + c) = 100^2 / 2100 with one degree of freedom.
        assert mcnemar_p(1000, 1100) == pytest.approx(stats.chi2.sf(100**2 / 2100, 1), rel=2e-3)

    def test_negative_counts_are_refused(self) -> None:
        with pytest.raises(ValueError, match="negative: -1, 3"):
            mcnemar_p(-1, 3)


class TestHolm:
    def test_by_hand(self) -> None:
        # Sorted 0.01, 0.02, 0.03, 0.04, times 4, 3, 2, 1 and never falling: 0.04, 0.06, 0.06, 0.06.
        assert holm([0.03, 0.01, 0.04, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
        assert holm([0.2]) == [0.2]
        assert holm([0.9, 0.8]) == [1.0, 1.0]
        assert holm([]) == []

    @given(st.lists(st.floats(0, 1), max_size=8))
    def test_it_lies_between_the_p_values_and_bonferroni(self, p_values: list[float]) -> None:
        for p, adjusted in zip(p_values, holm(p_values), strict=True):
            assert p <= adjusted <= min(1.0, len(p_values) * p)


class TestVerdict:
    @pytest.mark.parametrize(
        ("differences", "expected"),
        [
            ([0.02, 0.03, 0.025], "holds"),
            ([-0.02, -0.03, -0.025], "fails"),
            ([0.02, -0.03, 0.025], "not decided"),
            ([0.05], "not decided"),
            ([0.0, 0.0, 0.0], "not decided"),
        ],
    )
    def test_a_direction_over_paired_seeds(self, differences: list[float], expected: str) -> None:
        assert verdict(paired_interval(differences)) == expected

    def test_a_margin_moves_the_claim(self) -> None:
        interval = Interval(0.02, 0.01, 0.03)
        assert [verdict(interval, margin) for margin in (0.0, 0.01, 0.02, 0.04)] == [
            "holds",
            "not decided",
            "not decided",
            "fails",
        ]

    @given(several)
    def test_the_opposite_claim_has_the_opposite_verdict(self, differences: list[float]) -> None:
        opposite = {"holds": "fails", "fails": "holds", "not decided": "not decided"}
        assert verdict(-paired_interval(differences)) == opposite[verdict(paired_interval(differences))]


class TestPower:
    def test_a_number_of_seeds_by_hand(self) -> None:
        # A difference of one standard deviation: t-tables give t(.975) + t(.8) = 2.262 + 0.883 = 3.145 for 9 degrees
        # of freedom, and sqrt(10) = 3.162; for 8: 2.306 + 0.889 = 3.195 > sqrt(9).
        assert seeds_needed(0.01, 0.01**2) == 10
        assert seeds_needed(-0.01, 0.01**2) == 10

    def test_it_finds_the_difference_as_often_as_promised(self) -> None:
        count = seeds_needed(0.008, 0.01**2)
        assert count is not None
        generator = np.random.default_rng(0)
        runs = [mean_interval(generator.normal(0.008, 0.01, count).tolist()) for _ in range(2000)]
        assert np.mean([interval.low > 0 for interval in runs]) == pytest.approx(0.8, abs=0.03)

    def test_images_bound_what_seeds_can_do(self) -> None:
        few = seeds_needed(0.01, 0.01**2, 0.002**2)
        assert few is not None
        assert few > 10
        assert seeds_needed(0.01, 0.01**2, 0.01**2) is None  # the images alone hide it
        assert seeds_needed(0.0, 0.01**2) is None
        assert seeds_needed(0.01, math.inf) is None
        assert seeds_needed(0.01, 0.0) == 2

    def test_a_number_of_images_by_hand(self) -> None:
        # (1.95996 + 0.84162)^2 = 7.8489 times the images at which the difference is one standard error.
        assert images_needed(0.01, 0.01, 1000) == 7849
        assert images_needed(0.0, 0.01, 1000) is None
