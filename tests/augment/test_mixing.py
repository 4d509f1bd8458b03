"""Mixup, CutMix and RICAP: exact images for known draws, distributions, partners, labels."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor

from thriftnet.augment import Draws
from thriftnet.augment.mixing import (
    PARTNERS,
    Targets,
    mix_batch,
    mix_rows,
    mixes_in,
    partners,
    symmetric_beta,
)
from thriftnet.config import MixConfig

SMALLEST_P = 1e-3
CPU = torch.device("cpu")
NAMES = tuple(PARTNERS)
COUNT = 60


def draws(count: int = COUNT, seed: int = 0, epoch: int = 1) -> Draws:
    return Draws(seed, epoch, torch.arange(count) * 7 + 3)


def coordinates(count: int = COUNT, side: int = 16) -> Tensor:
    """Images that tell where each pixel is from: channels image, row, column."""
    image, row, column = torch.meshgrid(torch.arange(count), torch.arange(side), torch.arange(side), indexing="ij")
    return torch.stack([image, row, column], dim=1).float()


LABELS = torch.arange(COUNT) % 7


@pytest.mark.parametrize("alpha", [0.1, 0.3, 0.5, 1.0, 2.0, 8.0])
def test_the_share_has_the_beta_distribution(alpha: float):
    """The smaller part keeps its digits however near to 0; which side it is on is a fair coin, whatever its size."""
    share = symmetric_beta(Draws(0, 0, torch.arange(20_000)), "mix.share", alpha)
    assert 0 <= share.min() <= share.max() <= 1
    beta = stats.beta(alpha, alpha)
    lower = share[share < 0.5].double().numpy()
    assert stats.kstest(lower, lambda x: 2 * beta.cdf(x)).pvalue > SMALLEST_P
    assert stats.binomtest(len(lower), len(share)).pvalue > SMALLEST_P
    upper = 1 - share[share >= 0.5].double().numpy()
    edges = beta.ppf(np.linspace(0, 0.5, 9))
    edges = np.array([0, *edges[(edges > 1e-6) & (edges < 0.49)], 0.5])  # float32 near 1 is no finer
    expected = 2 * len(upper) * np.diff(beta.cdf(edges))
    assert stats.chisquare(np.histogram(upper, edges)[0], expected).pvalue > SMALLEST_P


def test_partners_are_permutations_that_seed_epoch_and_step_change():
    base = partners(0, 1, 0, 128, 3, CPU)
    assert torch.equal(base, partners(0, 1, 0, 128, 3, CPU))
    assert base.sort(dim=1).values.eq(torch.arange(128)).all()
    others = [partners(1, 1, 0, 128, 3, CPU), partners(0, 2, 0, 128, 3, CPU), partners(0, 1, 1, 128, 3, CPU)]
    rows = torch.cat([base, *others])
    assert len(rows.unique(dim=0)) == 12
    assert (rows == torch.arange(128)).sum(dim=1).max() < 10  # one fixed point on average


def test_mixup_is_the_weighted_mean_of_images_and_labels():
    images = torch.rand(COUNT, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    shown, targets = mix_batch(MixConfig(name="mixup", alpha=0.7), images, LABELS, draws(), step=5)
    share = symmetric_beta(draws(), "mix.share", 0.7)
    other = partners(0, 1, 5, COUNT, 1, CPU)[0]
    for row in range(COUNT):
        expected = share[row] * images[row] + (1 - share[row]) * images[other[row]]
        torch.testing.assert_close(shown[row], expected, atol=1e-6, rtol=0)
    assert torch.equal(targets.labels, torch.stack([LABELS, LABELS[other]], dim=1))
    assert torch.equal(targets.weights, torch.stack([share, 1 - share], dim=1))


def test_cutmix_pastes_one_box_at_its_own_place_and_counts_what_is_seen():
    images, side = coordinates(), 16
    shown, targets = mix_batch(MixConfig(name="cutmix"), images, LABELS, draws(), step=5)
    other = partners(0, 1, 5, COUNT, 1, CPU)[0]
    share = symmetric_beta(draws(), "mix.share", 1.0).double()
    centre = draws().uniform("mix.centre", 2).double() * side
    assert torch.equal(shown[:, 1:], images[:, 1:])  # every pixel is at its own place
    for row in range(COUNT):
        reach = float((1 - share[row]).sqrt()) * side / 2
        (top, bottom), (left, right) = (
            (round(max(float(c) - reach, 0)), round(min(float(c) + reach, side))) for c in centre[row]
        )
        expected = images[row, 0].clone()
        expected[top:bottom, left:right] = other[row]
        assert torch.equal(shown[row, 0], expected)
        area = max(bottom - top, 0) * max(right - left, 0) / side**2
        torch.testing.assert_close(targets.weights[row], torch.tensor([1 - area, area]))
    assert torch.equal(targets.labels, torch.stack([LABELS, LABELS[other]], dim=1))


def test_ricap_is_four_crops_side_by_side_and_counts_their_areas():
    images, side = coordinates(), 16
    shown, targets = mix_batch(MixConfig(name="ricap"), images, LABELS, draws(), step=5)
    sources = torch.cat([torch.arange(COUNT)[None], partners(0, 1, 5, COUNT, 3, CPU)])
    meeting = [(symmetric_beta(draws(), f"mix.{axis}", 0.3) * side).round().long() for axis in ("row", "column")]
    for row in range(COUNT):
        top, left = int(meeting[0][row]), int(meeting[1][row])
        for crop, (rows, columns) in enumerate(
            (rows, columns)
            for rows in (slice(0, top), slice(top, side))
            for columns in (slice(0, left), slice(left, side))
        ):
            seen = shown[row, :, rows, columns]
            assert float(targets.weights[row, crop]) == seen[0].numel() / side**2
            assert int(targets.labels[row, crop]) == int(LABELS[sources[crop, row]])
            if seen.numel() == 0:
                continue
            assert (seen[0] == sources[crop, row]).all()
            # A crop is one rectangle of its image: rows and columns go up by one from wherever it was cut.
            first_row, first_column = int(seen[1, 0, 0]), int(seen[2, 0, 0])
            height, width = seen.shape[1:]
            assert torch.equal(seen[1], torch.arange(first_row, first_row + height).float()[:, None].expand(-1, width))
            assert torch.equal(seen[2], torch.arange(first_column, first_column + width).float().expand(height, -1))


def test_ricap_cuts_its_crops_anywhere():
    """With both axes met at the middle, a crop of half the side has nine places along each axis, all alike."""
    count, side = 5_000, 16
    rows = partners(0, 1, 0, count, 3, CPU)
    config = MixConfig(name="ricap", beta=1e6)
    shown, targets = mix_rows(config, coordinates(count), torch.zeros(count, dtype=torch.int64), rows, draws(count))
    assert (targets.weights == 0.25).all()
    for top, left in ((0, 0), (0, 8), (8, 0), (8, 8)):
        cut = shown[:, 1, top, left].long() * 9 + shown[:, 2, top, left].long()
        assert shown[:, 1:, top, left].max() == side / 2
        assert stats.chisquare(torch.bincount(cut, minlength=81).numpy()).pvalue > SMALLEST_P


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("channels", [1, 3])
def test_weights_add_up_and_images_stay_in_range(name: str, channels: int):
    images = torch.rand(COUNT, channels, 17, 17, generator=torch.Generator().manual_seed(0))
    shown, targets = mix_batch(MixConfig(name=name), images, LABELS, draws(), step=0)  # type: ignore[arg-type]
    assert shown.shape == images.shape
    assert shown.dtype == torch.float32
    assert targets.weights.dtype == torch.float32
    assert targets.labels.shape == targets.weights.shape == (COUNT, PARTNERS[name] + 1)
    torch.testing.assert_close(targets.weights.sum(dim=1), torch.ones(COUNT))
    assert targets.weights.min() >= 0
    assert 0 <= shown.min() <= shown.max() <= 1
    assert not torch.equal(shown, images)


@pytest.mark.parametrize("name", NAMES)
def test_as_many_are_mixed_as_asked_and_the_others_are_themselves(name: str):
    count = 2_000
    images, labels = coordinates(count, side=16), torch.arange(count)
    config = MixConfig(name=name, probability=0.3)  # type: ignore[arg-type]
    shown, targets = mix_batch(config, images, labels, draws(count), step=0)
    mixed = draws(count).uniform("mix.chosen")[:, 0] < 0.3
    assert stats.binomtest(int(mixed.sum()), count, 0.3).pvalue > SMALLEST_P
    assert torch.equal(shown[~mixed], images[~mixed])
    assert (targets.weights[~mixed, 0] == 1).all()
    assert torch.equal(targets.heaviest()[~mixed], labels[~mixed])
    assert (shown[mixed] != images[mixed]).flatten(1).any(dim=1).float().mean() > 0.8


@settings(max_examples=30)
@given(st.sampled_from(NAMES), st.integers(1, 39))
def test_a_part_of_a_batch_mixes_as_the_whole(name: str, cut: int):
    """What a process with some of the images does: its own first, then their partners."""
    config = MixConfig(name=name)  # type: ignore[arg-type]
    images, labels = coordinates(40), torch.arange(40) % 7
    whole, targets = mix_batch(config, images, labels, draws(40), step=2)
    permutations = partners(0, 1, 2, 40, PARTNERS[name], CPU)
    for own in (torch.arange(cut), torch.arange(cut, 40)):
        needed = torch.cat([own, permutations[:, own].flatten()])
        rows = torch.arange(len(own), len(needed)).view(-1, len(own))
        part, part_targets = mix_rows(config, images[needed], labels[needed], rows, Draws(0, 1, own * 7 + 3))
        assert torch.equal(part, whole[own])
        assert torch.equal(part_targets.labels, targets.labels[own])
        assert torch.equal(part_targets.weights, targets.weights[own])


@pytest.mark.parametrize("name", NAMES)
def test_all_arithmetic_is_on_the_images_device_and_none_waits_for_a_value(name: str):
    images = torch.empty(4, 3, 16, 16, device="meta")
    labels = torch.empty(4, dtype=torch.int64, device="meta")
    shown, targets = mix_batch(MixConfig(name=name), images, labels, Draws(0, 0, torch.arange(4)), step=0)  # type: ignore[arg-type]
    assert shown.is_meta
    assert targets.probabilities(10).is_meta
    assert targets.heaviest().is_meta


def test_mixing_stops_after_its_share_of_the_epochs():
    config = MixConfig(name="mixup", until=0.7)
    assert [mixes_in(config, epoch, 10) for epoch in range(1, 11)] == [True] * 7 + [False] * 3
    assert all(mixes_in(MixConfig(name="mixup"), epoch, 3) for epoch in (1, 2, 3))
    assert not mixes_in(MixConfig(name="mixup", until=0.0), 1, 3)


def test_targets_by_hand():
    targets = Targets(torch.tensor([[2, 0], [1, 1], [0, 2]]), torch.tensor([[0.25, 0.75], [0.5, 0.5], [0.5, 0.5]]))
    assert targets.probabilities(3).tolist() == [[0.75, 0, 0.25], [0, 1, 0], [0.5, 0, 0.5]]
    assert targets.heaviest().tolist() == [0, 1, 0]
