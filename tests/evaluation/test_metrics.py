from __future__ import annotations

import json
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from thriftnet.errors import DataError, NonFiniteLossError
from thriftnet.evaluation.metrics import Evaluation, evaluate_logits, reliability_bins, wilson_interval

NAMES = ("a", "b", "c")


def logits_for(predicted: list[int], margin: float = 10.0, classes: int = 3) -> Tensor:
    return torch.nn.functional.one_hot(torch.tensor(predicted), classes).float() * margin


@st.composite
def scored(draw: st.DrawFn) -> tuple[Tensor, Tensor]:
    classes = draw(st.integers(2, 6))
    count = draw(st.integers(1, 40))
    seed = draw(st.integers(0, 2**31))
    scale = draw(st.sampled_from([0.0, 0.1, 1.0, 5.0, 100.0]))
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(count, classes, generator=generator) * scale
    return logits, torch.randint(0, classes, (count,), generator=generator)


def evaluate(logits: Tensor, labels: Tensor) -> Evaluation:
    return evaluate_logits(logits, labels, [f"class {k}" for k in range(logits.shape[1])])


def test_values_worked_out_by_hand() -> None:
    # true:      a a a b b c ; predicted: a a b b b a
    result = evaluate_logits(logits_for([0, 0, 1, 1, 1, 0]), torch.tensor([0, 0, 0, 1, 1, 2]), NAMES)
    assert result.count == 6
    assert result.accuracy == pytest.approx(4 / 6)
    assert result.confusion == ((2, 1, 0), (0, 2, 0), (1, 0, 0))
    a, b, c = result.classes
    assert (a.precision, a.recall, a.f1) == (pytest.approx(2 / 3), pytest.approx(2 / 3), pytest.approx(2 / 3))
    assert (b.precision, b.recall, b.f1) == (pytest.approx(2 / 3), 1.0, pytest.approx(0.8))
    assert (c.precision, c.recall, c.f1) == (None, 0.0, 0.0)  # never predicted
    assert [(s.support, s.predicted) for s in result.classes] == [(3, 3), (2, 3), (1, 0)]
    right = math.exp(10) / (math.exp(10) + 2)
    wrong = 1 / (math.exp(10) + 2)
    assert result.loss == pytest.approx(-(4 * math.log(right) + 2 * math.log(wrong)) / 6)
    assert result.expected_calibration_error == pytest.approx(right - 4 / 6)  # all in the last bin


def test_a_class_without_images_has_no_recall_and_one_never_seen_has_no_f1() -> None:
    result = evaluate_logits(logits_for([0, 2, 0], classes=4), torch.tensor([0, 0, 0]), (*NAMES, "d"))
    _, b, c, d = result.classes
    assert (c.precision, c.recall, c.f1, c.support, c.predicted) == (0.0, None, 0.0, 0, 1)
    assert (b.precision, b.recall, b.f1, b.support) == (None, None, None, 0) == (d.precision, d.recall, d.f1, d.support)


def test_a_perfect_classifier() -> None:
    labels = torch.tensor([0, 1, 2, 2])
    result = evaluate_logits(logits_for(labels.tolist(), margin=100.0), labels, NAMES)
    assert result.accuracy == 1.0
    assert result.loss == 0.0
    assert result.expected_calibration_error == 0.0
    assert all((s.precision, s.recall, s.f1) == (1.0, 1.0, 1.0) for s in result.classes)
    assert result.accuracy_interval == (pytest.approx(4 / (4 + 1.959964**2), abs=1e-6), 1.0)


def test_a_constant_classifier_has_chance_accuracy_and_the_entropy_of_a_uniform_guess() -> None:
    result = evaluate_logits(torch.zeros(30, 3), torch.arange(30) % 3, NAMES)
    assert result.accuracy == pytest.approx(1 / 3)
    assert result.loss == pytest.approx(math.log(3))
    assert result.expected_calibration_error == pytest.approx(0.0, abs=1e-12)
    assert [s.predicted for s in result.classes] == [30, 0, 0]


def test_wilson_interval_against_published_values() -> None:
    # R. G. Newcombe, Statistics in Medicine 17 (1998), table I, method 3.
    for successes, count, low, high in [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611)]:
        assert wilson_interval(successes, count) == (pytest.approx(low, abs=5e-5), pytest.approx(high, abs=5e-5))
    # Exactly: by the formula alone rounding made these miss 0 and 1 at some counts.
    assert all(wilson_interval(0, n)[0] == 0.0 and wilson_interval(n, n)[1] == 1.0 for n in range(1, 200))
    assert wilson_interval(1, 29) == (pytest.approx(0.0061, abs=5e-5), pytest.approx(0.1718, abs=5e-5))


@given(st.integers(1, 10**6), st.data())
def test_wilson_interval_lies_in_0_1_and_holds_the_proportion(count: int, data: st.DataObject) -> None:
    successes = data.draw(st.integers(0, count))
    low, high = wilson_interval(successes, count)
    assert 0 <= low <= successes / count + 1e-12
    assert successes / count - 1e-12 <= high <= 1
    assert low < high


def test_bins_are_open_below_and_closed_above() -> None:
    bins = reliability_bins(
        torch.tensor([3 / 15, 3 / 15 + 1e-9, 1.0, 1.0 + 1e-16], dtype=torch.float64),
        torch.tensor([True, False, True, False]),
    )
    assert len(bins) == 15
    assert [b.count for b in bins] == [0, 0, 1, 1] + [0] * 10 + [2]
    assert (bins[2].low, bins[2].high) == (pytest.approx(2 / 15), pytest.approx(3 / 15))
    assert bins[14].accuracy == 0.5
    assert bins[14].mean_confidence == 1.0
    assert bins[0].accuracy is None


def test_calibration_error_worked_out_by_hand() -> None:
    # Two classes: confidences 0.9 (right, wrong) and 0.6 (right): 2/3 * |0.5 - 0.9| + 1/3 * |1 - 0.6| = 0.4
    p = torch.tensor([[0.9, 0.1], [0.1, 0.9], [0.6, 0.4]], dtype=torch.float64)
    assert evaluate(p.log(), torch.tensor([0, 0, 0])).expected_calibration_error == pytest.approx(0.4)


@settings(max_examples=40, deadline=None)
@given(scored())
def test_what_holds_for_any_classifier(case: tuple[Tensor, Tensor]) -> None:
    logits, labels = case
    result = evaluate(logits, labels)
    confusion = torch.tensor(result.confusion)
    assert 0 <= result.expected_calibration_error <= 1
    assert result.accuracy == int(confusion.trace()) / int(confusion.sum())
    assert confusion.sum(1).tolist() == torch.bincount(labels, minlength=logits.shape[1]).tolist()
    assert confusion.sum(1).tolist() == [s.support for s in result.classes]
    assert confusion.sum(0).tolist() == [s.predicted for s in result.classes]
    assert sum(b.count for b in result.reliability) == result.count == len(labels)
    low, high = result.accuracy_interval
    assert low <= result.accuracy <= high
    for k, score in enumerate(result.classes):  # an independent count of hits, false alarms and misses
        hits, alarms, misses = (
            sum(bool((p == k) == x and (t == k) == y) for p, t in zip(logits.argmax(1), labels, strict=True))
            for x, y in [(True, True), (True, False), (False, True)]
        )
        assert score.precision == (pytest.approx(hits / (hits + alarms)) if hits + alarms else None)
        assert score.recall == (pytest.approx(hits / (hits + misses)) if hits + misses else None)
        assert score.f1 == (pytest.approx(2 * hits / (2 * hits + alarms + misses)) if hits + alarms + misses else None)


@settings(max_examples=25, deadline=None)
@given(scored(), st.randoms(use_true_random=False))
def test_the_order_of_the_images_does_not_matter(case: tuple[Tensor, Tensor], random: object) -> None:
    logits, labels = case
    order = list(range(len(labels)))
    random.shuffle(order)  # type: ignore[attr-defined]
    first, second = evaluate(logits, labels), evaluate(logits[order], labels[order])
    assert first.confusion == second.confusion
    assert first.classes == second.classes
    assert first.loss == pytest.approx(second.loss)
    assert first.expected_calibration_error == pytest.approx(second.expected_calibration_error, abs=1e-12)


@settings(max_examples=25, deadline=None)
@given(scored())
def test_stored_as_json_and_read_back_the_same(case: tuple[Tensor, Tensor]) -> None:
    result = evaluate(*case)
    stored = json.loads(json.dumps(result.as_dict(), allow_nan=False))
    assert Evaluation.from_dict(stored | {"split": "test"}) == result
    assert stored["class_names"] == list(result.class_names)
    assert stored["accuracy"] == result.accuracy


def test_what_cannot_be_evaluated_is_refused() -> None:
    with pytest.raises(DataError, match="no labelled images"):
        evaluate_logits(torch.empty(0, 3), torch.empty(0, dtype=torch.int64), NAMES)
    with pytest.raises(DataError, match="2 labels and 3 class names"):
        evaluate_logits(torch.zeros(1, 3), torch.tensor([0, 1]), NAMES)
    with pytest.raises(DataError, match="1 labels and 2 class names"):
        evaluate_logits(torch.zeros(1, 3), torch.tensor([0]), NAMES[:2])
    with pytest.raises(DataError, match="label 3 is outside 0 to 2"):
        evaluate_logits(torch.zeros(1, 3), torch.tensor([3]), NAMES)
    with pytest.raises(DataError, match="label -1 is outside"):
        evaluate_logits(torch.zeros(1, 3), torch.tensor([-1]), NAMES)
    broken = torch.zeros(4, 3)
    broken[1, 2], broken[3] = math.nan, math.inf
    with pytest.raises(NonFiniteLossError, match="for 2 of 4 images"):
        evaluate_logits(broken, torch.zeros(4, dtype=torch.int64), NAMES)
