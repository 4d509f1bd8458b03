"""Sides against each other: the numbers of a difference, and the words that are said of it."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from thriftnet.errors import UserError
from thriftnet.evaluation.compare import crossed_estimate, mcnemar_p
from thriftnet.evaluation.sides import Comparison, Pair, Side, compare_sides, difference


def side(correct: object, name: str = "side", seeds: tuple[int, ...] | None = None) -> Side:
    rows = np.atleast_2d(np.asarray(correct, dtype=bool))
    return Side(
        name=name,
        seeds=seeds if seeds is not None else tuple(range(len(rows))),
        correct=rows,
        images_sha256="same",
        epochs=(3,) * len(rows),
        parameters=1000,
        selection="validation",
        training_images=72,
        trained_on="a processor fp32",
    )


def right(accuracy: float, seeds: int = 1, images: int = 1000, key: int = 0, seed_sd: float = 0.0) -> Side:
    """A side with about this accuracy; some images are harder than others."""
    generator = np.random.default_rng(key)
    hard = np.random.default_rng(99).random(images)
    return side(
        [hard < accuracy + generator.normal(0, seed_sd) + generator.normal(0, 0.05, images) for _ in range(seeds)]
    )


def compared(*sides: Side, **changes: str) -> Comparison:
    return compare_sides(sides, "test", "digits", "thriftnet compare a b", **changes)  # type: ignore[arg-type]


def only_pair(*sides: Side) -> Pair:
    (pair,) = compared(*sides).pairs
    return pair


class TestOneRunASide:
    first = side([1, 1, 1, 1, 1, 1, 1, 1, 0, 0])
    second = side([0, 0, 0, 0, 0, 0, 0, 1, 1, 0])

    def test_numbers_by_hand(self) -> None:
        found = difference(self.first, self.second)
        assert found.value == pytest.approx(0.6)
        assert (found.only_first, found.only_second) == (7, 1)
        assert found.p == mcnemar_p(7, 1)
        # McNemar's standard error: sqrt(b + c - (b - c)^2 / n) / n.
        assert found.standard_error == pytest.approx((8 - 36 / 10) ** 0.5 / 10)
        assert (found.over_seeds, found.over_both) == (None, None)
        assert found.interval == found.over_images

    def test_a_better_network_is_not_a_better_recipe(self) -> None:
        pair = only_pair(self.first, self.second)
        assert pair.judgement == "better"
        assert pair.sentence.startswith("A is better: +60.00 points, 95 % interval ")
        assert "(p = 0.039, McNemar, mid-p); that holds for these two networks, " in pair.sentence
        assert pair.sentence.endswith("one seed a side says nothing of other seeds")
        assert only_pair(self.second, self.first).sentence.startswith("B is better: -60.00 points")

    def test_with_itself_it_is_noise(self) -> None:
        pair = only_pair(self.first, self.first)
        assert (pair.judgement, pair.adjusted_p) == ("noise", 1.0)
        assert (
            pair.sentence
            == "the difference is noise at 1 seed a side and 10 images: +0.00 points (p = 1, McNemar, mid-p)"
        )

    def test_undecided_it_says_how_many_images_would_do(self) -> None:
        pair = only_pair(side([1, 1, 1, 1, 0, 0, 0, 0, 0, 0]), side([0, 0, 0, 0, 1, 0, 0, 0, 0, 0]))
        # se = sqrt(5 - 9/10) / 10 = 0.2025; 10 * (2.8016 * 0.2025 / 0.3)^2 = 35.8 images.
        assert pair.judgement == "not decided"
        assert pair.sentence.endswith("; about 36 test images would be needed if that is the true difference")


class TestSeveralRunsASide:
    def test_numbers_are_those_of_seeds_and_images(self) -> None:
        first, second = right(0.8, seeds=4, key=1, seed_sd=0.01), right(0.75, seeds=4, key=2, seed_sd=0.01)
        found = difference(first, second)
        expected = crossed_estimate(first.correct.astype(float) - second.correct)
        assert found.seeds_paired
        assert found.over_both == expected.interval()
        assert found.p == expected.p_value
        by_seed = stats.ttest_rel(first.accuracies, second.accuracies).confidence_interval()
        assert found.over_seeds is not None
        assert (found.over_seeds.low, found.over_seeds.high) == pytest.approx((by_seed.low, by_seed.high))
        assert found.interval == found.over_both

    def test_runs_of_a_seed_are_paired_in_whatever_order_they_come(self) -> None:
        first, second = right(0.8, seeds=3, key=1, seed_sd=0.02), right(0.75, seeds=3, key=2, seed_sd=0.02)
        shuffled = replace(second, seeds=(2, 0, 1), correct=second.correct[[2, 0, 1]])
        assert difference(first, shuffled) == difference(first, second)

    def test_other_seeds_are_not_paired(self) -> None:
        first, second = right(0.8, seeds=3, key=1, seed_sd=0.02), right(0.75, seeds=4, key=2, seed_sd=0.02)
        found = difference(first, second)
        assert not found.seeds_paired
        expected = stats.ttest_ind(first.accuracies, second.accuracies, equal_var=False).confidence_interval()
        assert found.over_seeds is not None
        assert (found.over_seeds.low, found.over_seeds.high) == pytest.approx((expected.low, expected.high))
        assert found.test == "t over seeds and images, seeds not paired"

    def test_a_clear_difference_is_found(self) -> None:
        pair = only_pair(right(0.9, seeds=3, key=1), right(0.7, seeds=3, key=2))
        assert pair.judgement == "better"
        assert "seeds paired" in pair.sentence
        assert "says nothing" not in pair.sentence

    def test_seeds_that_move_more_than_the_difference_leave_it_open(self) -> None:
        """One bootstrap over images would call it decided."""
        pair = only_pair(
            side(np.repeat([[1, 1], [1, 0], [1, 1]], 500, axis=1)),
            side(np.repeat([[1, 0], [1, 0], [1, 1]], 500, axis=1)),
        )
        assert pair.difference is not None
        assert pair.difference.over_images.excludes_zero
        assert pair.judgement == "noise"
        # Differences of 20, 5 and 30 images in a thousand: mean 1.83 points, t = 2.52 with 2 degrees of freedom.
        images = np.arange(1000)
        pair = only_pair(
            side([images < hits for hits in (820, 800, 840)]), side([images < hits for hits in (800, 795, 810)])
        )
        assert pair.judgement == "not decided"
        assert pair.adjusted_p == pytest.approx(0.128, abs=0.01)  # of the seeds alone; images add little
        assert pair.sentence.startswith("not decided at 3 seeds a side and 1,000 images: +1.83 points")
        assert pair.sentence.endswith("about 6 seeds a side would be needed if that is the true difference")

    def test_with_itself_it_is_noise(self) -> None:
        first = right(0.8, seeds=3, seed_sd=0.02)
        pair = only_pair(first, first)
        assert (pair.judgement, pair.adjusted_p) == ("noise", 1.0)
        assert pair.difference is not None
        assert pair.difference.over_both is not None
        assert (pair.difference.over_both.low, pair.difference.over_both.high) == (0, 0)

    def test_one_run_against_several_decides_nothing(self) -> None:
        pair = only_pair(right(0.9, seeds=3), replace(right(0.5), name="lone"))
        assert (pair.judgement, pair.adjusted_p) == ("not decided", None)
        assert pair.sentence.startswith("not decided (+")
        assert pair.sentence.endswith(" points): lone has one run, so nothing is known of its other seeds; train more")
        assert pair.difference is not None
        assert pair.difference.over_images.excludes_zero


@settings(max_examples=25)
@given(st.integers(1, 4), st.integers(1, 4), st.integers(2, 40), st.integers(0, 10**6))
def test_swapped_sides_mirror_everything(s1: int, s2: int, images: int, key: int) -> None:
    generator = np.random.default_rng(key)
    first, second = (side(generator.random((seeds, images)) < 0.7) for seeds in (s1, s2))
    found, swapped = difference(first, second), difference(second, first)
    assert swapped.value == -found.value
    assert swapped.over_images == -found.over_images
    assert swapped.p == pytest.approx(found.p)
    for one, other in ((found.over_seeds, swapped.over_seeds), (found.over_both, swapped.over_both)):
        assert (one is None) == (other is None)
        if one is not None and other is not None:
            assert (other.low, other.high) == pytest.approx((-one.high, -one.low))
    assert swapped.needed == found.needed
    mirrored = {"better": "worse", "worse": "better"}
    judged = only_pair(first, second).judgement
    assert only_pair(second, first).judgement == mirrored.get(judged, judged)


def test_different_images_are_never_compared() -> None:
    first, second = right(0.9), replace(right(0.5), images_sha256="other")
    with pytest.raises(UserError, match="were tested on different images"):
        difference(first, second)
    pair = only_pair(first, second)
    assert (pair.judgement, pair.difference, pair.adjusted_p) == ("not comparable", None, None)
    assert pair.sentence == "not comparable: they were tested on different images of the test split"


def test_barred_pairs_say_why_and_the_others_are_compared() -> None:
    found = compare_sides([right(0.9), right(0.8), right(0.5)], "test", "digits", "", {(0, 2): "other data"})
    assert [pair.judgement for pair in found.pairs] == ["better", "not comparable", "better"]
    assert found.pairs[1].sentence == "not comparable: other data"


def test_more_than_two_sides_are_corrected_for() -> None:
    sides = right(0.8, key=1), right(0.775, key=2), right(0.77, key=3)
    found = compared(*sides)
    plain = [pair.difference.p for pair in found.pairs if pair.difference is not None]
    adjusted = [pair.adjusted_p for pair in found.pairs]
    assert min(p for p in adjusted if p is not None) == pytest.approx(3 * min(p for p in plain if p is not None))
    assert any("Holm" in note for note in found.notes)
    assert not any("Holm" in note for note in compared(*sides[:2]).notes)


def test_one_side_has_the_interval_of_what_varies() -> None:
    single, several = right(0.8), right(0.8, seeds=3, key=1, seed_sd=0.02)
    assert single.covers == "other images"
    assert single.sd is None
    assert single.interval.low < single.mean < single.interval.high
    assert several.covers == "other seeds"
    assert several.sd == pytest.approx(np.std(several.accuracies, ddof=1))
    assert several.interval.estimate == pytest.approx(np.mean(several.accuracies))


def test_notes_warn_of_selected_numbers_and_unequal_training() -> None:
    notes = compared(
        replace(right(0.8), selection="test-selected"),
        replace(right(0.8), selection="test-selected", training_images=9),
    ).notes
    assert notes[0] == "A number marked selected is too high: the test images chose its epoch."
    assert notes[1] == "Not all were trained on equally many images: A 72, B 9."
    assert compared(right(0.8), right(0.7)).notes == ()


def test_what_is_printed_and_stored_agrees() -> None:
    found = compared(right(0.9, seeds=3, key=1), replace(right(0.7, seeds=3, key=2), name="other", epochs=(3, 5, 4)))
    stored = json.loads(json.dumps(found.as_dict(), allow_nan=False))
    text = found.summary()
    for side_ in stored["sides"].values():
        assert f"{side_['mean']:.2%}" in text
        assert f"{side_['sd']:.2%}" in text
    assert "3-5" in text
    assert stored["pairs"][0]["sentence"] in text
    for covered in ("other images", "other seeds", "other seeds and images"):
        assert covered in text
    assert "-0.00" not in compared(right(0.8), right(0.8)).summary()


def test_an_unbounded_interval_is_told_as_unknown() -> None:
    found = compared(right(0.9, seeds=3), right(0.5))
    assert json.loads(json.dumps(found.as_dict(), allow_nan=False))["pairs"][0]["difference"]["p"] is None
    assert "not decided" in found.summary()
