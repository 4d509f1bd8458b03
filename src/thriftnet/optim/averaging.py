"""Exponential moving average (EMA) of the weights and of BatchNorm's running statistics."""

from __future__ import annotations

import copy

import torch
from torch import nn


class WeightAverage:
    """`network` is a copy whose values are average <- decay * average + (1 - decay) * value after every update.

    The decay rises as min(decay, (1 + updates) / (10 + updates)), so that the initial weights are soon forgotten
    (the convention of TensorFlow's ExponentialMovingAverage). Counters are copied, not averaged.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.network = copy.deepcopy(network).eval().requires_grad_(False)
        self.decay = decay
        self.updates = 0

    @torch.no_grad()
    def update(self, network: nn.Module) -> None:
        """Move the average towards the current values of `network`."""
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        self.updates += 1
        averages, values = [], []
        for average, value in zip(self.network.state_dict().values(), network.state_dict().values(), strict=True):
            if average.is_floating_point():
                averages.append(average)
                values.append(value.to(average.dtype))
            else:
                average.copy_(value)
        torch._foreach_lerp_(averages, values, 1 - decay)
