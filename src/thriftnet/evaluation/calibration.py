"""Temperature scaling (Guo et al. 2017, arXiv 1706.04599, section 4.2): one number that makes confidence honest.

Probabilities become softmax(logits / T). No prediction changes; T above 1 makes them less confident.
"""

from __future__ import annotations

from torch import Tensor

LOWEST, HIGHEST = 0.02, 50.0
_HALVINGS = 60


def fit_temperature(logits: Tensor, labels: Tensor) -> float | None:
    """The temperature of least cross-entropy for `logits` float [N, K] and `labels` int64 [N]; None: there is none.

    The loss is convex in 1 / T, and its derivative the mean over images of (expected logit - logit of the true class):
    bisection finds where it is zero. Where every image is right the loss falls as long as T does, and has no least
    value; neither has it one within 0.02 to 50 where it still falls at one of these.
    """
    logits = logits.double()
    logits = logits - logits.gather(1, labels[:, None])

    def slope(sharpness: float) -> float:
        return float(((logits * sharpness).softmax(1) * logits).sum(1).mean())

    low, high = 1 / HIGHEST, 1 / LOWEST
    if slope(low) >= 0 or slope(high) <= 0:
        return None
    for _ in range(_HALVINGS):
        middle = (low * high) ** 0.5
        low, high = (low, middle) if slope(middle) > 0 else (middle, high)
    return float((low * high) ** -0.5)
