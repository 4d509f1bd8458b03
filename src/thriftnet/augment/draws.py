"""Random draws that depend on what they are for, never on when they are made.

A counter-based generator: the key of a draw is (seed, epoch, image index, stream name, position in the stream), and its
value is a hash of the key. So an image gets the same augmentation in any batch, order or process and on any device, and
a resumed run has no generator state to restore.

The hash is the finaliser of splitmix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", OOPSLA
2014; constants of Stafford's variant 13), in int64 arithmetic, which wraps around modulo 2^64 in torch on every device.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import torch
from torch import Tensor

_GOLDEN = 0x9E3779B97F4A7C15
"""2^64 divided by the golden ratio, odd: splitmix64's step between neighbouring counters."""


@dataclass(frozen=True)
class EpochKey:
    """All that draws need to know of an epoch, as numbers or as 0-d tensors on the device of the draws.

    What a CUDA graph has recorded stays valid in the next epoch only if it reads these from tensors.
    """

    value: int | Tensor
    """int64: the hash of seed and epoch."""
    is_even: bool | Tensor


def epoch_key(seed: int, epoch: int) -> EpochKey:
    """The key of an epoch, counted from 1, as numbers."""
    return EpochKey(_hash64(f"{seed}.{epoch}"), epoch % 2 == 0)


class Draws:
    """The draws of a batch: row i of every result belongs to image `indices[i]` of the data set.

    `indices`: int64 [N], on the device on which the draws shall be made. `epoch`: its number, or its key.
    """

    def __init__(self, seed: int, epoch: int | EpochKey, indices: Tensor) -> None:
        self.seed, self._indices = seed, indices
        self.key = epoch if isinstance(epoch, EpochKey) else epoch_key(seed, epoch)
        self._keys = _mix(indices * _signed(_GOLDEN) + self.key.value)

    def __len__(self) -> int:
        return self._keys.shape[0]

    @property
    def device(self) -> torch.device:
        return self._keys.device

    def to(self, device: torch.device) -> Draws:
        """The same draws, made on `device`."""
        return Draws(self.seed, self.key, self._indices.to(device, non_blocking=device.type != "cpu"))

    def in_epoch(self, epoch: int) -> Draws:
        """The draws that the same images have in another epoch."""
        return Draws(self.seed, epoch, self._indices)

    def bits(self, stream: str, count: int = 1) -> Tensor:
        """int64 [N, count], all 64 bits random."""
        counters = torch.arange(1, count + 1, device=self.device) * _signed(_GOLDEN) + _hash64(stream)
        return _mix(self._keys[:, None] + counters)

    def uniform(self, stream: str, count: int = 1) -> Tensor:
        """float32 [N, count] in [0, 1): the 2^24 multiples of 2^-24, equally likely."""
        return (_shift_right(self.bits(stream, count), 40)).to(torch.float32) * 2.0**-24

    def integers(self, stream: str, high: int | Tensor, count: int = 1) -> Tensor:
        """int64 [N, count] in [0, high) for high up to 2^31, one number or int64 [N, 1]; uneven by at most 2^-32."""
        return (_shift_right(self.bits(stream, count), 32) * high) >> 32

    def permutations(self, stream: str, size: int) -> Tensor:
        """int64 [N, size]: in each row the numbers 0 to size - 1 in one of the size! orders, equally likely."""
        return self.bits(stream, size).argsort(dim=1, stable=True)


def _mix(z: Tensor) -> Tensor:
    z = (z ^ _shift_right(z, 30)) * _signed(0xBF58476D1CE4E5B9)
    z = (z ^ _shift_right(z, 27)) * _signed(0x94D049BB133111EB)
    return z ^ _shift_right(z, 31)


def _shift_right(z: Tensor, bits: int) -> Tensor:
    """Shift in zeros: torch's `>>` on int64 copies the sign, so the copies are masked away."""
    return (z >> bits) & ((1 << (64 - bits)) - 1)


def _signed(value: int) -> int:
    """The int64 with the bits of this unsigned 64-bit number."""
    return value - (1 << 64) if value >> 63 else value


def _hash64(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little", signed=True)
