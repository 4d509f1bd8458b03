"""What logits and labels say about a classifier.

Shapes: N images, K classes. Accuracies, precision, recall and F1 are fractions; the loss is in nats.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import torch
from pydantic import TypeAdapter
from torch import Tensor
from torch.nn.functional import cross_entropy

from thriftnet.errors import DataError, NonFiniteLossError

CALIBRATION_BINS = 15  # as in Guo et al., arXiv 1706.04599, section 5


@dataclass(frozen=True)
class ClassScore:
    """One class. `precision` is None for a class never predicted, `recall` for one without images, `f1` if both."""

    name: str
    precision: float | None
    recall: float | None
    f1: float | None
    support: int
    """Images whose true class it is."""
    predicted: int
    """Images predicted to be it."""


@dataclass(frozen=True)
class ReliabilityBin:
    """Images whose confidence lies in (`low`, `high`]; the means are None where there are none."""

    low: float
    high: float
    count: int
    mean_confidence: float | None
    accuracy: float | None


@dataclass(frozen=True)
class Evaluation:
    """Every measure of one split; `as_dict` is what `evaluation-<split>.json` holds."""

    count: int
    """Images, N."""
    accuracy: float
    accuracy_interval: tuple[float, float]
    """95 % Wilson interval: how far another test set of this size could move it; says nothing of other seeds."""
    loss: float
    """Mean cross-entropy in nats, without label smoothing."""
    expected_calibration_error: float
    reliability: tuple[ReliabilityBin, ...]
    class_names: tuple[str, ...]
    classes: tuple[ClassScore, ...]
    confusion: tuple[tuple[int, ...], ...]
    """[K][K]; the row is the true class, the column the predicted one."""

    def as_dict(self) -> dict[str, Any]:
        """Lists, numbers, strings and None only, ready for JSON."""
        stored: dict[str, Any] = TypeAdapter(Evaluation).dump_python(self, mode="json")
        return stored

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> Evaluation:
        """The inverse of `as_dict`; further keys are allowed.

        Raises ValueError (pydantic's for wrong types) where the classes, or their counts, do not fit one another.
        """
        found = TypeAdapter(Evaluation).validate_python(stored)
        names = tuple(score.name for score in found.classes)
        rows = (found.confusion, *found.confusion)
        counts = [count for row in found.confusion for count in row]
        if names != found.class_names or any(len(row) != len(names) for row in rows) or len(names) < 2:
            raise ValueError(f"{len(found.class_names)} class names do not fit the scores and the confusion matrix")
        if min(counts) < 0 or sum(counts) != found.count or found.count == 0:
            raise ValueError(f"the confusion matrix has not the {found.count} images")
        if any(score.support < 0 or score.predicted < 0 for score in found.classes):
            raise ValueError("a class has less than no images")
        return found


def evaluate_logits(logits: Tensor, labels: Tensor, class_names: Sequence[str]) -> Evaluation:
    """Measure `logits`: float [N, K] against `labels`: int64 [N].

    Raises DataError where there are no images or a label is no class, and NonFiniteLossError for NaN or infinity.
    """
    count, classes = logits.shape
    if count == 0:
        raise DataError("there are no labelled images to evaluate; give a split that has some")
    if len(labels) != count or len(class_names) != classes:
        raise DataError(
            f"{count} x {classes} logits do not fit {len(labels)} labels and {len(class_names)} class names; "
            "evaluate with the data that the run was trained on"
        )
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= classes:
        label = low if low < 0 else high
        raise DataError(f"label {label} is outside 0 to {classes - 1}; evaluate with the data of this run's classes")
    broken = int((~logits.isfinite()).any(1).sum())
    if broken:
        raise NonFiniteLossError(
            f"the network's output is NaN or infinite for {broken} of {count} images; nothing was written; "
            "try runtime.precision = 'fp32'"
        )

    logits = logits.double()
    confidence, predicted = logits.softmax(1).max(1)
    correct = predicted == labels
    confusion = torch.bincount(labels * classes + predicted, minlength=classes**2).reshape(classes, classes)
    reliability = reliability_bins(confidence, correct)
    hits = int(correct.sum())
    return Evaluation(
        count=count,
        accuracy=hits / count,
        accuracy_interval=wilson_interval(hits, count),
        loss=float(cross_entropy(logits, labels)),
        expected_calibration_error=expected_calibration_error(reliability),
        reliability=reliability,
        class_names=tuple(class_names),
        classes=_class_scores(labels, predicted, confusion, class_names),
        confusion=tuple(tuple(row) for row in confusion.tolist()),
    )


def wilson_interval(successes: int, count: int, level: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval of a proportion (E. B. Wilson, J. Am. Stat. Assoc. 22, 1927, pages 209-212).

    Unlike p +- z * sqrt(p (1 - p) / n) it stays inside [0, 1] and has a width at p = 1.
    """
    z = NormalDist().inv_cdf((1 + level) / 2)
    p = successes / count
    centre = p + z**2 / (2 * count)
    half_width = z * math.sqrt(p * (1 - p) / count + z**2 / (4 * count**2))
    scale = 1 + z**2 / count
    # At p = 0 and p = 1 the formula gives p itself, but for rounding.
    low = 0.0 if successes == 0 else (centre - half_width) / scale
    high = 1.0 if successes == count else (centre + half_width) / scale
    return low, high


def reliability_bins(confidence: Tensor, correct: Tensor) -> tuple[ReliabilityBin, ...]:
    """Equal-width bins (low, high] over [0, 1] (arXiv 1706.04599, section 2).

    `confidence`: float64 [N], the largest probability; `correct`: bool [N].
    """
    edges = torch.linspace(0, 1, CALIBRATION_BINS + 1, dtype=torch.float64)
    # Rounding may push a probability a hair above 1, and the last bin must have it.
    index = torch.bucketize(confidence, edges[1:-1])
    counts = torch.bincount(index, minlength=CALIBRATION_BINS).tolist()
    confidence_sums = torch.bincount(index, weights=confidence, minlength=CALIBRATION_BINS).tolist()
    hits = torch.bincount(index, weights=correct.double(), minlength=CALIBRATION_BINS).tolist()
    return tuple(
        ReliabilityBin(
            low=float(edges[b]),
            high=float(edges[b + 1]),
            count=counts[b],
            mean_confidence=confidence_sums[b] / counts[b] if counts[b] else None,
            accuracy=hits[b] / counts[b] if counts[b] else None,
        )
        for b in range(CALIBRATION_BINS)
    )


def expected_calibration_error(bins: Sequence[ReliabilityBin]) -> float:
    """Mean over images of |accuracy - mean confidence| of the image's bin (arXiv 1706.04599, equation 3)."""
    total = sum(b.count for b in bins)
    return sum(
        b.count / total * abs(b.accuracy - b.mean_confidence)
        for b in bins
        if b.accuracy is not None and b.mean_confidence is not None
    )


def _class_scores(
    labels: Tensor, predicted: Tensor, confusion: Tensor, class_names: Sequence[str]
) -> tuple[ClassScore, ...]:
    from sklearn.metrics import precision_recall_fscore_support  # here: its import takes a second

    scores = precision_recall_fscore_support(
        labels.numpy(), predicted.numpy(), labels=range(len(class_names)), zero_division=math.nan
    )
    columns = ([None if math.isnan(value) else float(value) for value in column] for column in scores[:3])
    support, predicted_counts = confusion.sum(1).tolist(), confusion.sum(0).tolist()
    return tuple(ClassScore(*values) for values in zip(class_names, *columns, support, predicted_counts, strict=True))
