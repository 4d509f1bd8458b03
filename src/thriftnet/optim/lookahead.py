"""Lookahead: slow weights that every few updates take a step towards the optimiser's fast weights.

Zhang, Lucas, Hinton, Ba, "Lookahead Optimizer: k steps forward, 1 step back", NeurIPS 2019, arXiv 1907.08610,
algorithm 1. After every `steps` updates of any optimiser:

    slow <- slow + alpha (fast - slow)
    fast <- slow

The optimiser's own state, its momentum, is kept at a synchronisation; the paper names two alternatives.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from thriftnet.config import LookaheadConfig


class Lookahead:
    """`network` is a copy with the slow weights; running statistics and frozen parameters are the fast network's."""

    def __init__(self, network: nn.Module, config: LookaheadConfig) -> None:
        self.network = copy.deepcopy(network).eval().requires_grad_(False)
        self.config = config
        self.updates = 0

    @torch.no_grad()
    def update(self, network: nn.Module) -> None:
        """To be called after every update of `network`, whose weights it sets back at a synchronisation."""
        self.updates += 1
        for buffer, value in zip(self.network.buffers(), network.buffers(), strict=True):
            buffer.copy_(value)
        if self.updates % self.config.steps != 0:
            return
        slow: list[Tensor] = []
        fast: list[Tensor] = []
        for follower, leader in zip(self.network.parameters(), network.parameters(), strict=True):
            if leader.requires_grad:
                slow.append(follower)
                fast.append(leader)
            else:
                follower.copy_(leader)
        torch._foreach_lerp_(slow, fast, self.config.alpha)
        torch._foreach_copy_(fast, slow)
