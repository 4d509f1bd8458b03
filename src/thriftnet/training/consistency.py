"""AugMix's loss: predictions for an image and its augmented copies should agree (arXiv 1912.02781, section 3)."""

from __future__ import annotations

from torch import Tensor

SMALLEST_SHARE = 1e-7
"""Of a class in the mean of the posteriors, as in the authors' program: its logarithm stays finite."""


def jensen_shannon(logits: Tensor) -> Tensor:
    """Mean Jensen-Shannon divergence in nats (0-d) of the posteriors of each image; logits: [copies, N, classes].

    JS = 1 / copies * (KL(p_1 || m) + KL(p_2 || m) + ...), m the mean of the posteriors p between 0 and
    log(copies). Of no image it is NaN, as every mean.
    """
    log_p = logits.log_softmax(dim=2)
    p = log_p.exp()
    log_mean = p.mean(dim=0).clamp_min(SMALLEST_SHARE).log()
    return (p * (log_p - log_mean)).sum(dim=2).mean()
