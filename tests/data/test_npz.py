from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from thriftnet.data.npz import NpzSource
from thriftnet.errors import DataError, UnlabelledError


def some(count: int, seed: int = 0, shape: tuple[int, ...] = (16, 16, 3)) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, *shape), dtype=np.uint8)


def saved(folder: Path, **arrays: Any) -> Path:
    path = folder / "set.npz"
    np.savez_compressed(path, **arrays)
    return path


def test_keras_names(tmp_path: Path) -> None:
    x, z = some(4), some(2, seed=1)
    path = saved(tmp_path, x_train=x, y_train=np.array([0, 1, 2, 0]), x_test=z, y_test=np.array([2, 1]))
    source = NpzSource(path)
    assert np.array_equal(source.train().images.numpy(), x.transpose(0, 3, 1, 2))
    assert source.train().labels.tolist() == [0, 1, 2, 0]
    assert np.array_equal(source.test().images.numpy(), z.transpose(0, 3, 1, 2))
    assert source.test().labels.tolist() == [2, 1]
    assert (source.class_names, source.format, source.has_test, source.notes) == (("0", "1", "2"), "npz", True, ())


def test_medmnist_names_with_labels_in_a_column(tmp_path: Path) -> None:
    shape = (16, 16)
    path = saved(
        tmp_path,
        train_images=some(4, shape=shape),
        train_labels=np.array([[0], [1], [1], [0]], np.uint8),
        val_images=some(2, shape=shape),
        val_labels=np.array([[0], [1]], np.uint8),
        test_images=some(3, shape=shape),
        test_labels=np.array([[0], [1], [1]], np.uint8),
    )
    source = NpzSource(path)
    assert source.train().images.shape == (4, 1, 16, 16)
    assert source.train().labels.tolist() == [0, 1, 1, 0]
    assert source.test().labels.tolist() == [0, 1, 1]
    validation = source.validation()
    assert source.has_validation
    assert validation is not None
    assert validation.labels.tolist() == [0, 1]
    assert source.notes == ("val_images is the validation split, unless data.validation_images is above 0",)


def test_validation_arrays_stand_in_for_test(tmp_path: Path) -> None:
    arrays = {"x_train": some(4, shape=(16, 16)), "y_train": np.arange(4) % 2}
    source = NpzSource(saved(tmp_path, **arrays, x_val=some(2, shape=(16, 16)), y_val=np.arange(2)))
    assert (source.has_test, source.has_validation, source.validation()) == (True, False, None)
    assert source.test().labels.tolist() == [0, 1]
    assert source.notes == ("no arrays of a test split: x_val is the test split",)


@pytest.mark.parametrize("keys", [("images", "labels"), ("x", "y")])
def test_one_array_gives_a_fixed_fifth_to_the_test_split(tmp_path: Path, keys: tuple[str, str]) -> None:
    images = some(20, shape=(3, 16, 16))
    path = saved(tmp_path, **{keys[0]: images, keys[1]: np.arange(20) % 2}, class_names=np.array(["cat", "dog"]))
    source = NpzSource(path, image_side=16)
    train, test = source.train(), source.test()
    assert source.class_names == ("cat", "dog")
    assert torch.bincount(test.labels).tolist() == [2, 2]
    both = sorted(image.tobytes() for image in (*train.images.numpy(), *test.images.numpy()))
    assert both == sorted(image.tobytes() for image in images)
    assert "fixed stratified fifth" in source.notes[0]


def test_another_side_is_resized_to(tmp_path: Path) -> None:
    path = saved(tmp_path, images=some(10, shape=(28, 28)), labels=np.arange(10) % 2)
    assert NpzSource(path).train().images.shape == (8, 1, 28, 28)
    assert NpzSource(path, image_side=32).train().images.shape == (8, 1, 32, 32)


def test_training_arrays_alone_have_no_test_split(tmp_path: Path) -> None:
    source = NpzSource(saved(tmp_path, x_train=some(4), y_train=np.array([0, 1, 0, 1])))
    assert len(source.train()) == 4
    assert not source.has_test
    with pytest.raises(DataError, match="has no x_test and y_test; add them"):
        source.test()


def test_a_test_split_without_labels_is_said(tmp_path: Path) -> None:
    path = saved(tmp_path, x_train=some(2), y_train=np.array([0, 1]), x_test=some(3), y_test=np.full((3, 1), -1))
    source = NpzSource(path)
    assert len(source.train()) == 2
    with pytest.raises(
        UnlabelledError, match=r"set\.npz: y_test: 3 images without labels; training and evaluation need"
    ):
        source.test()


def test_training_reads_no_test_array(tmp_path: Path) -> None:
    objects = np.array([None, None], dtype=object)
    path = saved(tmp_path, x_train=some(4), y_train=np.array([0, 1, 0, 1]), x_test=objects, y_test=objects)
    source = NpzSource(path)
    assert len(source.train()) == 4
    with pytest.raises(DataError, match="holds objects at x_test, not numbers"):
        source.test()


def test_objects_are_refused_and_not_loaded(tmp_path: Path) -> None:
    path = saved(tmp_path, images=some(2), labels=np.array([0, 1], dtype=object))
    with pytest.raises(DataError, match=r"set\.npz holds objects at labels, not numbers"):
        NpzSource(path)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"a": some(2)}, "holds a; name the arrays images and labels, or x_train"),
        ({"x_train": some(2)}, "holds x_train; name the arrays"),
        ({}, "holds nothing; name the arrays"),
        ({"images": some(2), "labels": np.array([0, 1, 1])}, "labels has shape 3; 2 images need 2 labels"),
        ({"images": some(2), "labels": np.array([0.0, 1.0])}, "labels holds float64"),
        ({"images": some(2), "labels": np.array([0, -1])}, "labels has -1 at 1"),
        ({"images": some(2), "labels": np.array(3)}, "labels has shape of one number; 2 images"),
        ({"images": np.zeros((5, 16, 16, 3)), "labels": np.array([0, 1, 0, 1, 1])}, "images holds float64"),
        (
            {"x_train": some(2), "y_train": np.array([0, 1]), "x_test": some(1), "y_test": np.array([2])},
            "y_test has label 2",
        ),
        (
            {"images": some(2), "labels": np.array([0, 1]), "class_names": np.array(["cat"])},
            "label 1 at row 1, but 1 class",
        ),
    ],
)
def test_unusable_arrays_are_named(tmp_path: Path, arrays: dict[str, Any], message: str) -> None:
    path = saved(tmp_path, **arrays)
    with pytest.raises(DataError, match=message):
        read_everything(path)


def read_everything(path: Path) -> None:
    source = NpzSource(path)
    source.train()
    source.test()


@pytest.mark.parametrize("share", [0.0, 0.5, 0.99])
def test_a_truncated_file_is_named(tmp_path: Path, share: float) -> None:
    path = saved(tmp_path, images=some(10), labels=np.arange(10) % 2)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    with pytest.raises(DataError, match=r"set\.npz is no readable \.npz \(.+\); save or get it again"):
        NpzSource(path)


def test_a_damaged_array_is_named(tmp_path: Path) -> None:
    path = tmp_path / "set.npz"
    np.savez(path, images=some(10), labels=np.arange(10) % 2)
    content = bytearray(path.read_bytes())
    content[1000] ^= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"set\.npz is no readable \.npz at images \(.+\)"):
        NpzSource(path).train()


def test_a_zip_of_other_files_is_said(tmp_path: Path) -> None:
    path = tmp_path / "set.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("images", b"abc")
        archive.writestr("labels", b"abc")
    with pytest.raises(DataError, match=r"labels"):
        NpzSource(path)
