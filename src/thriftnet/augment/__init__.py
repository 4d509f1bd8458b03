"""Batched augmentation on any device, every draw keyed by (seed, epoch, image index); see docs/augmentation.md."""

from thriftnet.augment.draws import Draws
from thriftnet.augment.policy import Policy, build_policy

__all__ = ["Draws", "Policy", "build_policy"]
