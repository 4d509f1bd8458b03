from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from thriftnet.config import DataConfig
from thriftnet.data.dataset import LabelledImages, Source
from thriftnet.data.open import open_source
from thriftnet.data.prepare import prepare
from thriftnet.data.statistics import channel_statistics, fingerprint
from thriftnet.errors import DataError

from .test_parquet import pixels, write


class Sealed(Source):
    """Random images whose test split must not be opened."""

    format, location = "fake", "/fake"

    def __init__(
        self, labels: Any = None, shape: tuple[int, ...] = (3, 16, 16), classes: int = 4, has_test: bool = True
    ) -> None:
        labels = torch.arange(200) % classes if labels is None else torch.tensor(labels, dtype=torch.int64)
        generator = torch.Generator().manual_seed(0)
        images = torch.randint(0, 256, (len(labels), *shape), dtype=torch.uint8, generator=generator)
        self.data = LabelledImages(images, labels)
        self.class_names = tuple("abcdefgh"[:classes])
        self.has_test = has_test

    def train(self) -> LabelledImages:
        return self.data

    def test(self) -> LabelledImages:
        raise AssertionError("the test split was opened")


def test_a_tenth_validates_and_statistics_are_of_the_rest() -> None:
    source = Sealed()
    data = prepare(source, DataConfig(), "validation", split_seed=0)
    assert data.validation is not None
    assert torch.bincount(data.train.labels).tolist() == [45] * 4
    assert torch.bincount(data.validation.labels).tolist() == [5] * 4
    assert torch.equal(data.train.images, source.data.images[data.train_indices])
    assert torch.equal(data.validation.images, source.data.images[data.validation_indices])
    assert (data.mean, data.std) == channel_statistics(data.train.images)
    assert (data.mean, data.std) != channel_statistics(source.data.images)
    assert data.fingerprint == fingerprint(source.data)
    assert data.class_names == ("a", "b", "c", "d")


def test_all_images_may_train() -> None:
    source = Sealed()
    data = prepare(source, DataConfig(validation_images=0), "test", split_seed=0)
    assert data.validation is None
    assert torch.equal(data.train.images, source.data.images)
    assert (data.mean, data.std) == channel_statistics(source.data.images)


@given(st.integers(1, 60), st.integers(4, 100), st.integers(0, 1000))
def test_numbers_asked_for_are_exact(validation: int, training: int, seed: int) -> None:
    config = DataConfig(validation_images=validation, train_images=training)
    data = prepare(Sealed(), config, "validation", seed)
    assert data.validation is not None
    assert (len(data.train), len(data.validation)) == (training, validation)
    again = prepare(Sealed(), config, "validation", seed)
    assert torch.equal(data.train_indices, again.train_indices)


def test_the_seed_moves_the_split_and_nothing_else() -> None:
    first, second = (prepare(Sealed(), DataConfig(), "last", seed) for seed in (0, 1))
    assert not torch.equal(first.train_indices, second.train_indices)
    assert first.fingerprint == second.fingerprint


def test_mean_and_std_of_the_recipe_win() -> None:
    config = DataConfig(mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6))
    data = prepare(Sealed(), config, "last", 0)
    assert (data.mean, data.std) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))


@pytest.mark.parametrize(
    ("source", "config", "selection", "message"),
    [
        (Sealed([0] * 10, classes=1), {}, "last", "/fake has 1 class, .*; classification needs at least two"),
        (Sealed([]), {}, "last", "/fake has no training images"),
        (Sealed([0, 1, 4, 2]), {}, "last", "labels from 0 to 4; with 4 classes they must be 0 to 3"),
        (Sealed([0, 1, -1, 2]), {}, "last", "labels from -1 to 2"),
        (Sealed([0, 1, 0, 1]), {}, "last", "/fake has no training image of class c, d; add some or remove"),
        (Sealed(shape=(2, 16, 16)), {}, "last", "images of 2 channels"),
        (Sealed(shape=(3, 16, 20)), {}, "last", r"images of 20x16 pixels; .*--set data\.image_side=32"),
        (Sealed(shape=(3, 15, 15)), {}, "last", "images of 15x15 pixels; they must be square, 16 to 256"),
        (Sealed([0, 1, 2, 3], shape=(3, 257, 257)), {}, "last", "images of 257x257 pixels"),
        (Sealed(), {"image_side": 32}, "last", r"was opened with side 16, not data\.image_side = 32"),
        (Sealed(), {"validation_images": 0}, "validation", r"data\.validation_images = 0, but training\.selection"),
        (Sealed(), {"validation_images": 197}, "last", r"data\.validation_images = 197 must lie between 0 and 196"),
        (Sealed(), {"train_images": 181}, "last", r"data\.train_images = 181 must lie between 4 .* and 180"),
        (Sealed(), {"mean": (0.5,), "std": (0.5,)}, "last", r"data\.mean = \[0\.5\] needs 3 values"),
        (Sealed(has_test=False), {}, "test", "selection = 'test' needs a test split, and /fake has none"),
    ],
)
def test_what_cannot_be_trained_on_is_said(source: Source, config: Any, selection: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        prepare(source, DataConfig(**config), selection, 0)


def test_a_constant_channel_cannot_be_normalised_unless_the_recipe_says_how() -> None:
    source = Sealed()
    source.data.images[:, 1] = 7
    with pytest.raises(DataError, match="channel 1 is the same in every pixel"):
        prepare(source, DataConfig(), "last", 0)
    prepare(source, DataConfig(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0)), "last", 0)


@pytest.mark.parametrize("form", ["npz", "parquet"])
@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (range(1, 11), "has labels that begin at 1, and must begin at 0; subtract 1 from each"),
        (
            [0, 1, 2, 5],
            r"has no training image of label 3, 4, though labels go up to 5; number them from 0 without gaps",
        ),
    ],
)
def test_labels_that_do_not_count_from_0_are_told_the_fix(tmp_path: Path, form: str, labels: Any, message: str) -> None:
    labels = list(labels) * 5
    if form == "npz":
        np.savez(tmp_path / "x.npz", images=pixels(len(labels)), labels=labels)
    else:
        write(tmp_path / "x.parquet", pixels(len(labels)), labels)
    with pytest.raises(DataError, match=rf"x\.{form} {message}"):
        prepare(open_source(str(tmp_path / f"x.{form}")), DataConfig(), "last", 0)


class WithValidation(Sealed):
    """A source with a validation split of its own: 20 other images."""

    has_validation = True

    def validation(self) -> LabelledImages:
        return Sealed(torch.arange(20) % 4).data.select(torch.arange(20).flip(0))


def test_the_datas_own_validation_split_is_used() -> None:
    source = WithValidation()
    data = prepare(source, DataConfig(train_images=100), "validation", split_seed=0)
    own = source.validation()
    assert data.validation is not None
    assert torch.equal(data.validation.images, own.images)
    assert (len(data.train), len(data.validation_indices)) == (100, 0)
    assert (data.fingerprint, data.validation_fingerprint) == (fingerprint(source.data), fingerprint(own))
    assert data.notes == ("the 20 images of the data's own validation split are the validation images",)
    assert len(prepare(source, DataConfig(), "validation", split_seed=0).train) == 200


def test_a_number_of_validation_images_is_held_out_instead_of_the_datas_own_and_told() -> None:
    data = prepare(WithValidation(), DataConfig(validation_images=40), "validation", split_seed=0)
    without = prepare(Sealed(), DataConfig(validation_images=40), "validation", split_seed=0)
    assert torch.equal(data.validation_indices, without.validation_indices)
    assert (data.validation_fingerprint, without.notes) == (None, ())
    assert data.notes == (
        "data.validation_images = 40 images are held out of the training split; the data's own validation split is not "
        "used",
    )


def test_a_run_that_held_images_out_does_so_again() -> None:
    data = prepare(WithValidation(), DataConfig(), "validation", split_seed=0, own_validation=False)
    assert torch.equal(
        data.validation_indices, prepare(Sealed(), DataConfig(), "validation", split_seed=0).validation_indices
    )


def test_validation_images_of_another_side_are_refused(tmp_path: Path) -> None:
    for split, side in (("train", 16), ("validation", 20), ("test", 16)):
        write(tmp_path / f"{split}.parquet", pixels(6, side), [0, 1] * 3)
    with pytest.raises(DataError, match="has training and validation images of 3x16x16 and 3x20x20 values"):
        prepare(open_source(str(tmp_path)), DataConfig(), "validation", split_seed=0)
    assert prepare(open_source(str(tmp_path)), DataConfig(validation_images=2), "validation", 0).validation is not None
