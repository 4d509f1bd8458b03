from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from thriftnet.data import splits
from thriftnet.data.splits import carve_test, split_training, stratified_split, stratified_subset
from thriftnet.errors import DataError

LABELS = st.lists(st.integers(0, 5), min_size=1, max_size=200).map(torch.tensor)


def counts(labels: torch.Tensor, classes: int = 10) -> list[int]:
    return torch.bincount(labels, minlength=classes).tolist()


def test_the_mixer_is_splitmix64() -> None:
    # The first outputs of the published generator with state 1234567.
    states = np.uint64(1234567) + np.arange(1, 6, dtype=np.uint64) * np.uint64(splits._GOLDEN)
    assert splits._mix(states).tolist() == [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ]


@given(LABELS, st.data(), st.integers(0, 2**31 - 1))
def test_split_is_exact_disjoint_sorted_and_proportional(labels: torch.Tensor, data: st.DataObject, seed: int) -> None:
    classes = len(torch.unique(labels))
    held_out = data.draw(st.integers(0, len(labels) - classes))
    kept, held = stratified_split(labels, held_out, seed)
    assert len(held) == held_out
    assert sorted([*kept.tolist(), *held.tolist()]) == list(range(len(labels)))
    assert kept.tolist() == sorted(kept.tolist())
    assert held.tolist() == sorted(held.tolist())
    assert kept.dtype == held.dtype == torch.int64
    assert set(labels[kept].tolist()) == set(labels.tolist())
    for total, taken in zip(counts(labels), counts(labels[held]), strict=True):
        assert taken >= int(held_out * total / len(labels))
    again = stratified_split(labels.clone(), held_out, seed)
    assert torch.equal(again[0], kept)
    assert torch.equal(again[1], held)


@given(st.lists(st.integers(20, 200), min_size=2, max_size=6), st.integers(0, 38))
def test_no_share_is_off_by_one_or_more_where_no_class_is_tiny(sizes: list[int], held_out: int) -> None:
    labels = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    _, held = stratified_split(labels, held_out, seed=3)
    for size, taken in zip(sizes, counts(labels[held], len(sizes)), strict=True):
        assert abs(taken - held_out * size / sum(sizes)) < 1


def test_shares_by_largest_remainder_and_no_class_is_emptied() -> None:
    labels = torch.tensor([0] * 7 + [1] * 2 + [2])
    # 3 of 10: 2.1, 0.6 and 0.3, so the second class gets the odd one.
    assert counts(labels[stratified_split(labels, 3, 0)[1]], 3) == [2, 1, 0]
    # 7 of 10: 4.9, 1.4 and 0.7, so 5, 1, 1 by remainder; but the last class has only one image, which stays.
    assert counts(labels[stratified_split(labels, 7, 0)[1]], 3) == [6, 1, 0]


def test_the_draw_is_pinned() -> None:
    # A new release must not move anyone's validation split.
    labels = torch.arange(30) % 3
    assert stratified_split(labels, 6, 0)[1].tolist() == [7, 14, 16, 24, 27, 29]
    assert stratified_split(labels, 6, 1)[1].tolist() == [14, 15, 18, 25, 26, 28]
    assert carve_test(labels)[1].tolist() == [8, 16, 18, 22, 26, 27]
    assert stratified_subset(labels, 6, 0).tolist() == [1, 6, 16, 17, 21, 23]


def test_every_index_is_as_likely() -> None:
    labels = torch.zeros(20, dtype=torch.int64)
    hits = torch.zeros(20)
    for seed in range(2000):
        hits[stratified_split(labels, 5, seed)[1]] += 1
    # Binomial(2000, 1/4): standard deviation 19.4.
    assert (hits - 500).abs().max() < 5 * 19.4


def test_cifar_gets_five_hundred_validation_images_a_class() -> None:
    labels = torch.arange(50_000) % 10
    train, validation = split_training(labels, None, None, seed=0)
    assert counts(labels[train]) == [4500] * 10
    assert counts(labels[validation]) == [500] * 10


def test_subset_comes_from_what_validation_leaves() -> None:
    labels = torch.arange(1000) % 10
    train, validation = split_training(labels, 100, 200, seed=7)
    assert counts(labels[train]) == [20] * 10
    assert not set(train.tolist()) & set(validation.tolist())
    # The validation split does not depend on the subset.
    assert torch.equal(validation, split_training(labels, 100, None, seed=7)[1])


def test_subset_is_no_function_of_which_images_validate() -> None:
    # Were both drawn from the same random order, the subset would lie next to the held-out images in that order.
    labels = torch.zeros(1000, dtype=torch.int64)
    first = set(stratified_subset(labels, 500, 0).tolist())
    second = set(stratified_split(labels, 500, 0)[0].tolist())
    assert 200 < len(first & second) < 300


@given(LABELS, st.data())
def test_subset_has_every_class(labels: torch.Tensor, data: st.DataObject) -> None:
    classes = set(labels.tolist())
    count = data.draw(st.integers(len(classes), len(labels)))
    chosen = stratified_subset(labels, count, seed=1)
    assert len(chosen) == count
    assert set(labels[chosen].tolist()) == classes


@pytest.mark.parametrize(
    ("validation", "subset", "field"),
    [(9, None, "validation_images"), (0, 11, "train_images"), (0, 1, "train_images")],
)
def test_numbers_that_do_not_fit_name_the_field(validation: int, subset: int | None, field: str) -> None:
    with pytest.raises(DataError, match=rf"data\.{field} = .* must lie between"):
        split_training(torch.arange(10) % 2, validation, subset, seed=0)


def test_small_sets_hold_out_one_image_or_say_that_they_cannot() -> None:
    assert len(split_training(torch.tensor([0, 0, 1]), None, None, 0)[1]) == 1
    with pytest.raises(DataError, match="each keeps one"):
        split_training(torch.tensor([0, 1]), None, None, 0)


def test_a_fifth_is_tested_by_given_keys() -> None:
    labels = torch.tensor([0, 0, 0, 0, 0, 1, 1, 1, 1, 1])
    keys = np.arange(10, dtype=np.uint64)[::-1]
    train, test = carve_test(labels, keys)
    assert test.tolist() == [4, 9]
    assert train.tolist() == [0, 1, 2, 3, 5, 6, 7, 8]
