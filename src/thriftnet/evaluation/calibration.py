"""Temperature scaling (Guo et al. 2017, arXiv 1706.04599, section 4.2): one number that makes confidence honest.

Probabilities become softmax(logits / T). No prediction changes; T above 1 makes them less confident.
"""

from __future__ import annotations

from torch import Tensor

LOWEST, HIGHEST = 0.02, 50.0
_HALVINGS = 60


def fit_temperature(logits: Tensor, labels: Tensor) -> float:
    """The temperature of least cross-entropy, within 0.02 to 50, for `logits` float [N, K] and `labels` int64 [N].

    The loss is convex in 1 / T, and its derivative the mean over images of (expected logit - logit of the true class):
    bisection finds where it is zero. Where every image is right, confidence can only be too low, and T is the lowest.
    """
    logits = logits.double()
    logits = logits - logits.gather(1, labels[:, None])
    low, high = 1 / HIGHEST, 1 / LOWEST
    for _ in range(_HALVINGS):
        middle = (low * high) ** 0.5
        slope = ((logits * middle).softmax(1) * logits).sum(1).mean()
        low, high = (low, middle) if float(slope) > 0 else (middle, high)
    return float((low * high) ** -0.5)
