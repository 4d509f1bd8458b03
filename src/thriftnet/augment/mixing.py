"""Mixup, CutMix and RICAP: every image is mixed with others of its batch, and its label as much.

Shapes: N images of a batch, C channels, H rows, W columns, P images in a mixture (2; RICAP: 4), the image's own first.

What is drawn for a mixture (shares, boxes, crops) is keyed by image as in `draws`; who the partners are is a function
of (seed, epoch, step, place in the global batch). So a resumed run mixes the same, and a process that holds part of a
batch knows the partners of its images without asking the others.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from thriftnet.augment.draws import Draws, EpochKey
from thriftnet.config import MixConfig

PARTNERS = {"mixup": 1, "cutmix": 1, "ricap": 3}
"""Other images in a mixture."""


@dataclass(frozen=True)
class Targets:
    """The labels of mixed images: `labels` int64 [N, P] and how much each counts, `weights` float32 [N, P], sum 1."""

    labels: Tensor
    weights: Tensor

    def probabilities(self, classes: int) -> Tensor:
        """float32 [N, classes]: the weights, added up class by class."""
        is_class = self.labels[:, :, None] == torch.arange(classes, device=self.labels.device)
        return (is_class * self.weights[:, :, None]).sum(dim=1)

    def heaviest(self) -> Tensor:
        """int64 [N]: the label with the greatest weight; of equal ones the first."""
        return self.labels.gather(1, self.weights.argmax(dim=1, keepdim=True))[:, 0]


def mixes_in(mix: MixConfig, epoch: int, epochs: int) -> bool:
    """Whether images are mixed in this epoch, counted from 1, of a run of so many."""
    return (epoch - 1) / epochs < mix.until


def mix_batch(mix: MixConfig, images: Tensor, labels: Tensor, draws: Draws, step: int) -> tuple[Tensor, Targets]:
    """A whole batch mixed within itself; arguments as in `mix_rows`, `step` counts from the epoch's first."""
    rows = partners(draws.seed, draws.key, step, len(images), PARTNERS[mix.name], images.device)
    return mix_rows(mix, images, labels, rows, draws)


def partners(seed: int, epoch: int | EpochKey, step: int, batch_size: int, count: int, device: torch.device) -> Tensor:
    """int64 [count, batch_size]: rows are permutations of the places in a global batch, the partners of every place.

    An image may be its own partner, as in the authors' programs.
    """
    places = Draws(seed, epoch, torch.arange(batch_size, device=device))
    return places.bits(f"mix.partners.{step}", count).T.argsort(dim=1, stable=True)


def mix_rows(mix: MixConfig, images: Tensor, labels: Tensor, rows: Tensor, draws: Draws) -> tuple[Tensor, Targets]:
    """The first N of `images` (float32 [M, C, H, W], `labels` int64 [M]), each mixed with the images that it is given.

    `rows`: int64 [P - 1, N], the partners of the N images as places among the M; image i is drawn for by row i of
    `draws`. Returned are float32 [N, C, H, W] and the labels of the mixtures.
    """
    draws = draws.to(images.device)
    mixed = draws.uniform("mix.chosen")[:, 0] < mix.probability
    function = {"mixup": _mixup, "cutmix": _cutmix, "ricap": _ricap}[mix.name]
    shown, weights = function(mix, images, rows, mixed, draws)
    return shown, Targets(torch.cat([labels[None, : rows.shape[1]], labels[rows]]).T, weights)


def symmetric_beta(draws: Draws, stream: str, alpha: float) -> Tensor:
    """float32 [N] from Beta(alpha, alpha), by a formula of two uniform numbers that needs no rejection.

    T = sqrt(nu (U^(-2 / nu) - 1)) cos(2 pi V) has Student's t distribution of nu degrees of freedom (Bailey, "Polar
    generation of random variates with the t-distribution", Mathematics of Computation 62, 1994). For nu = 2 alpha,
    (1 + T / sqrt(nu + T^2)) / 2 has Beta(alpha, alpha) (Devroye, "Random variate generation in one line of code",
    Winter Simulation Conference 1996).
    """
    uniform = 1 - draws.uniform(f"{stream}.radius")[:, 0]  # in (0, 1]
    cosine = torch.cos(2 * math.pi * draws.uniform(f"{stream}.angle")[:, 0])
    power = uniform ** (1 / alpha)  # it underflows to 0 for a small alpha, which is then the limit
    rest = (1 - power) * cosine.square()
    outside = power / (power + rest)  # 1 - T^2 / (nu + T^2)
    smaller = 0.5 * outside / (1 + (1 - outside).sqrt())
    return torch.where(cosine < 0, smaller, 1 - smaller)


def _mixup(mix: MixConfig, images: Tensor, rows: Tensor, mixed: Tensor, draws: Draws) -> tuple[Tensor, Tensor]:
    """lambda x + (1 - lambda) x', labels alike; lambda from Beta(alpha, alpha) (arXiv 1710.09412, equation 1)."""
    share = torch.where(mixed, symmetric_beta(draws, "mix.share", mix.alpha), 1)
    shown = torch.lerp(images[rows[0]], images[: len(mixed)], share[:, None, None, None])
    return shown, torch.stack([share, 1 - share], dim=1)


def _cutmix(mix: MixConfig, images: Tensor, rows: Tensor, mixed: Tensor, draws: Draws) -> tuple[Tensor, Tensor]:
    """A box of the partner pasted at its own place (arXiv 1905.04899, equation 2 and algorithm 1).

    Sides sqrt(1 - lambda) of the image's, lambda from Beta(alpha, alpha), centre uniform over the image, clipped by the
    border, rounded to pixels; labels count by the area that is seen.
    """
    height, width = images.shape[2:]
    share = torch.where(mixed, symmetric_beta(draws, "mix.share", mix.alpha), 1)
    reach = (1 - share).sqrt() / 2
    centre = draws.uniform("mix.centre", 2)
    pasted = []
    for axis, side in ((0, height), (1, width)):
        first = ((centre[:, axis] - reach) * side).clamp_min(0).round()
        last = ((centre[:, axis] + reach) * side).clamp_max(side).round()
        places = torch.arange(side, device=images.device)
        pasted.append((places >= first[:, None]) & (places < last[:, None]))
    box = (pasted[0][:, :, None] & pasted[1][:, None, :]).to(images.dtype)
    area = box.mean(dim=(1, 2))
    shown = torch.lerp(images[: len(mixed)], images[rows[0]], box[:, None])
    return shown, torch.stack([1 - area, area], dim=1)


def _ricap(mix: MixConfig, images: Tensor, rows: Tensor, mixed: Tensor, draws: Draws) -> tuple[Tensor, Tensor]:
    """Four crops side by side, the own one top left, then top right, bottom left, bottom right (arXiv 1811.09030).

    They meet at (w, h), rounded to pixels, w / W and h / H from Beta(beta, beta); each is cut at a uniform place of its
    image; labels count by area.
    """
    count, (channels, height, width) = len(mixed), images.shape[1:]
    meeting = []
    for axis, side in (("row", height), ("column", width)):
        share = symmetric_beta(draws, f"mix.{axis}", mix.beta)
        meeting.append(torch.where(mixed, (share * side).round().to(torch.int64), side))
    top, left = meeting
    # [N, 4]: height and width of the four crops, and where in their images they are cut.
    tall = torch.stack([top, top, height - top, height - top], dim=1)
    wide = torch.stack([left, width - left, left, width - left], dim=1)
    cut_row = draws.integers("mix.cut_row", height + 1 - tall, 4)
    cut_column = draws.integers("mix.cut_column", width + 1 - wide, 4)
    # Where a crop's pixels lie among all values of one channel, up to the place in the frame, which is added below.
    row, column = (torch.arange(side, device=images.device) for side in (height, width))
    own = torch.arange(count, device=images.device)
    first = torch.cat([own[None], rows]).T * (channels * height * width) + cut_row * width + cut_column
    first -= torch.stack([0 * top, left, top * width, top * width + left], dim=1)
    upper, lower = (_by_side(column, left, first[:, pair]) for pair in (slice(0, 2), slice(2, 4)))
    place = torch.where((row < top[:, None])[:, :, None], upper[:, None, :], lower[:, None, :])
    place += row[:, None] * width + column
    values = images.contiguous().flatten()
    seen = torch.stack([values[channel * height * width :].take(place) for channel in range(channels)], dim=1)
    return seen, (tall * wide).to(images.dtype) / (height * width)


def _by_side(column: Tensor, left: Tensor, value: Tensor) -> Tensor:
    """int64 [N, W]: the first of two values [N, 2] in the columns left of the meeting point, else the second."""
    return torch.where(column < left[:, None], value[:, :1], value[:, 1:])
