from __future__ import annotations

import hashlib
import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from thriftnet.augment.draws import Draws, epoch_key

MASK = (1 << 64) - 1
SMALLEST_P = 1e-3
"""Draws are fixed by their keys, so these tests always give the same p-values; none of the sound ones is this small."""

GOLDEN_UNIFORM = [[15502858, 8504148], [15601194, 15149277], [14975296, 8712273]]
GOLDEN_INTEGERS = [[0, 2], [0, 6], [6, 6]]
GOLDEN_PERMUTATIONS = [[2, 3, 0, 1], [1, 0, 3, 2], [1, 3, 0, 2]]


def splitmix64_finaliser(z: int) -> int:
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
    return z ^ (z >> 31)


def hash64(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def uniformity_p(values: torch.Tensor, bins: int) -> float:
    """Chi-square p-value of integers in [0, bins)."""
    return float(stats.chisquare(torch.bincount(values.flatten(), minlength=bins).numpy()).pvalue)


def independence_p(first: torch.Tensor, second: torch.Tensor, bins: int = 16) -> float:
    """Chi-square p-value of the joint distribution of two uniform samples over bins x bins cells."""
    cells = (first * bins).long() * bins + (second * bins).long()
    return uniformity_p(cells, bins * bins)


def test_bits_are_those_of_the_generator_in_plain_integers():
    seed, epoch, indices, count = 7, 3, [0, 1, 49_999, 2**40], 3
    expected = []
    for index in indices:
        key = splitmix64_finaliser((index * 0x9E3779B97F4A7C15 + hash64(f"{seed}.{epoch}")) & MASK)
        row = [(key + hash64("s") + position * 0x9E3779B97F4A7C15) & MASK for position in range(1, count + 1)]
        expected.append([splitmix64_finaliser(z) for z in row])
    bits = Draws(seed, epoch, torch.tensor(indices)).bits("s", count).numpy().view(np.uint64)
    assert bits.tolist() == expected


def test_golden_values():
    """Stored runs depend on these: a change of them changes every augmented image."""
    draws = Draws(0, 1, torch.tensor([0, 1, 44_999]))
    assert (draws.uniform("0.rotation.degrees", 2) * 2**24).long().tolist() == GOLDEN_UNIFORM
    assert draws.integers("2.padded_crop.offset", 9, 2).tolist() == GOLDEN_INTEGERS
    assert draws.permutations("3.color_jitter.order", 4).tolist() == GOLDEN_PERMUTATIONS


def test_uniform_is_uniform_along_every_part_of_the_key():
    one = torch.tensor([5])
    samples = {
        "index": Draws(0, 0, torch.arange(50_000)).uniform("a"),
        "position": Draws(0, 0, one).uniform("a", 50_000),
        "epoch": torch.cat([Draws(0, epoch, one).uniform("a", 100) for epoch in range(500)]),
        "seed": torch.cat([Draws(seed, 0, one).uniform("a", 100) for seed in range(500)]),
        "stream": torch.cat([Draws(0, 0, one).uniform(f"{stream}.op", 100) for stream in range(500)]),
    }
    for part, sample in samples.items():
        assert sample.dtype == torch.float32
        assert 0 <= sample.min() <= sample.max() < 1
        assert stats.kstest(sample.flatten().double().numpy(), "uniform").pvalue > SMALLEST_P, part
        assert uniformity_p((sample * 256).long(), 256) > SMALLEST_P, part


def test_neighbouring_keys_are_independent():
    indices = torch.arange(50_000)
    base = Draws(0, 0, indices).uniform("0.rotation.degrees")
    neighbours = {
        "index": Draws(0, 0, indices + 1).uniform("0.rotation.degrees"),
        "epoch": Draws(0, 1, indices).uniform("0.rotation.degrees"),
        "seed": Draws(1, 0, indices).uniform("0.rotation.degrees"),
        "stream": Draws(0, 0, indices).uniform("1.rotation.degrees"),
        "seed and epoch": Draws(1, 1, indices).uniform("0.rotation.degrees"),
        "position": Draws(0, 0, indices).uniform("0.rotation.degrees", 2)[:, 1:],
    }
    for part, sample in neighbours.items():
        assert independence_p(base, sample) > SMALLEST_P, part


def test_every_bit_is_a_fair_coin():
    bits = Draws(0, 0, torch.arange(20_000)).bits("a")
    ones = ((bits >> torch.arange(64)) & 1).sum(dim=0)
    pvalues = [stats.binomtest(int(count), 20_000).pvalue for count in ones]
    assert min(pvalues) > SMALLEST_P / 64


def test_no_two_keys_of_a_training_share_their_bits():
    bits = torch.cat([Draws(0, epoch, torch.arange(5_000)).bits(s, 2) for epoch in range(5) for s in ("a", "b")])
    assert bits.unique().numel() == bits.numel()


@pytest.mark.parametrize("high", [1, 2, 9, 10, 2**31])
def test_integers_are_uniform_below_their_bound(high: int):
    values = Draws(0, 0, torch.arange(20_000)).integers("a", high)
    assert 0 <= values.min() <= values.max() < high
    if 1 < high < 100:
        assert uniformity_p(values, high) > SMALLEST_P


def test_integers_take_a_bound_for_each_image():
    high = torch.arange(1, 2_001)[:, None]
    draws = Draws(0, 0, torch.arange(2_000))
    values = draws.integers("a", high)
    assert ((values >= 0) & (values < high)).all()
    assert values[8].item() == draws.integers("a", 9)[8].item()


def test_permutations_come_in_all_orders_equally():
    rows = Draws(0, 0, torch.arange(24_000)).permutations("a", 4)
    assert rows.sort(dim=1).values.eq(torch.arange(4)).all()
    orders = list(itertools.permutations(range(4)))
    codes = torch.tensor([orders.index(tuple(row)) for row in rows.tolist()])
    assert uniformity_p(codes, 24) > SMALLEST_P


@given(st.permutations(range(40)), st.lists(st.integers(0, 40), max_size=5))
def test_any_order_and_any_partition_draws_the_same(order: list[int], cuts: list[int]):
    indices = torch.tensor(order)
    whole = Draws(3, 2, torch.arange(40))
    borders = sorted({0, 40, *cuts})
    parts = [Draws(3, 2, indices[start:stop]) for start, stop in itertools.pairwise(borders)]
    assert torch.equal(torch.cat([part.uniform("a", 3) for part in parts]), whole.uniform("a", 3)[indices])
    assert torch.equal(torch.cat([part.permutations("a", 4) for part in parts]), whole.permutations("a", 4)[indices])


def test_another_epoch_of_the_same_images():
    draws = Draws(3, 2, torch.arange(40)).in_epoch(5)
    assert draws.key == epoch_key(3, 5)
    assert torch.equal(draws.bits("a"), Draws(3, 5, torch.arange(40)).bits("a"))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_draws_the_same():
    indices = torch.arange(1_000)
    here, there = Draws(1, 2, indices), Draws(1, 2, indices.cuda())
    assert torch.equal(here.bits("a", 5), there.bits("a", 5).cpu())
    assert torch.equal(here.uniform("a", 5), there.uniform("a", 5).cpu())
    assert torch.equal(here.permutations("a", 4), there.permutations("a", 4).cpu())
    assert torch.equal(here.to(torch.device("cuda")).bits("a"), there.bits("a"))
