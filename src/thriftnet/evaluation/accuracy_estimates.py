"""The accuracy on images without labels, estimated from the network's confidence in them.

Each estimate is fitted on labelled images of the known kind (N x K logits), then needs logits alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

NAMES = {
    "average_confidence": "average confidence",
    "difference_of_confidences": "difference of confidences",
    "thresholded_confidence": "average thresholded confidence",
}


@dataclass(frozen=True)
class AccuracyEstimator:
    """What is kept of the labelled images; `fit_estimator` makes one."""

    accuracy: float
    confidence: float
    """Mean over images of the largest probability."""
    threshold: float
    """Negative entropy in nats above which there are as many labelled images as are right."""

    def estimates(self, logits: Tensor) -> dict[str, float]:
        """Name -> estimated accuracy for unlabelled images, logits float [N, K].

        `average_confidence`: the mean confidence. `difference_of_confidences`: the labelled accuracy less the fall of
        the mean confidence, within 0 to 1 (Guillory et al. 2021, arXiv 2107.03315, equation 3).
        `thresholded_confidence`: the share of images whose negative entropy passes the threshold (ATC; Garg et al.
        2022, arXiv 2201.04234, equations 1 and 2).
        """
        confidence, certainty = _confidence(logits)
        mean = float(confidence.mean())
        return {
            "average_confidence": mean,
            "difference_of_confidences": min(1.0, max(0.0, self.accuracy - (self.confidence - mean))),
            "thresholded_confidence": float((certainty >= self.threshold).double().mean()),
        }


def fit_estimator(logits: Tensor, labels: Tensor) -> AccuracyEstimator:
    """From labelled images of the known kind: `logits` float [N, K], `labels` int64 [N], N at least 1."""
    confidence, certainty = _confidence(logits)
    right = logits.argmax(1) == labels
    wrong = int((~right).sum())
    ordered = torch.cat([certainty.sort().values, torch.tensor([torch.inf], dtype=certainty.dtype)])
    return AccuracyEstimator(float(right.double().mean()), float(confidence.mean()), float(ordered[wrong]))


def _confidence(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Largest probability and negative entropy in nats, float64 [N] each."""
    logs = logits.double().log_softmax(1)
    return logs.amax(1).exp(), (logs.exp() * logs).sum(1)
