from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from thriftnet.data.arrays import as_images, as_labels, check_label_range, numbering_fault
from thriftnet.errors import DataError


@given(st.integers(1, 4), st.sampled_from([1, 3]), st.integers(4, 40), st.sampled_from([np.uint8, np.int64, np.uint16]))
def test_every_layout_of_the_same_images_is_found(count: int, channels: int, side: int, kind: type) -> None:
    images = np.random.default_rng(side).integers(0, 256, (count, channels, side, side)).astype(kind)
    layouts = {
        "channels first": images,
        "channels last": images.transpose(0, 2, 3, 1),
        "flat rows, channel by channel": images.reshape(count, -1),
    }
    if channels == 1:
        layouts["grey images"] = images[:, 0]
    for words, array in layouts.items():
        found, layout = as_images(array, "x")
        assert found.dtype == torch.uint8
        assert np.array_equal(found.numpy(), images)
        assert layout == f"{'x'.join(map(str, array.shape))}: {words}"


def test_images_are_a_copy_of_their_own() -> None:
    array = np.zeros((1, 3072), np.uint8)
    found, _ = as_images(array, "x")
    array[:] = 1
    assert found.sum() == 0


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((2, 3071), np.uint8), r"^x has rows of 3071 values"),
        (np.zeros((2, 3, 32, 3), np.uint8), r"^x has shape 2x3x32x3; images are"),
        (np.zeros((2, 32, 32, 4), np.uint8), r"^x has shape 2x32x32x4"),
        (np.zeros(5, np.uint8), r"^x has shape 5; images are"),
        (np.zeros((0, 3, 32, 32), np.uint8), "there is no image in it"),
        (np.zeros((2, 3, 32, 32)), "holds float64; images must be whole numbers from 0 to 255"),
        (np.full((1, 3, 8, 8), np.nan), "holds float64"),
        (np.full((1, 3, 8, 8), 256), "values from 256 to 256"),
        (np.full((1, 3, 8, 8), -1), "values from -1 to -1"),
        (np.zeros((1, 3072), bool), "holds bool"),
        (np.zeros((1, 3072), "U1"), "holds <U1"),
    ],
)
def test_what_are_no_images_is_said(array: np.ndarray, message: str) -> None:
    with pytest.raises(DataError, match=message):
        as_images(array, "x")


def test_labels_of_either_shape_and_any_integer_type() -> None:
    for array in (np.array([0, 2], np.uint8), np.array([[0], [2]], np.int32)):
        assert as_labels(array, "y", 2).tolist() == [0, 2]
        assert as_labels(array, "y", 2).dtype == torch.int64


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.array([0, 1, 2]), "y has shape 3; 2 images need 2 labels"),
        (np.zeros((2, 14), int), "y has shape 2x14; 2 images need 2 labels, one each$"),
        (np.eye(2), r"y has shape 2x2; .* one each: of one-hot rows keep the place of the one \(argmax\(1\)\)"),
        (np.array(1), "y has shape of one number"),
        (np.array([0.0, 1.0]), "y holds float64; labels must be whole numbers from 0: save them as int64"),
        (np.array([False, True]), "y holds bool; .*: save them as int64"),
        (np.array(["cat", "dog"]), r"y holds <U3; .*: numpy\.unique\(labels, return_inverse=True\) gives class_names"),
        (np.array([-1, -1]), "y: 2 images without labels"),
        (np.array([0, -1]), "y has -1 at 1"),
    ],
)
def test_what_are_no_labels_is_said(array: np.ndarray, message: str) -> None:
    with pytest.raises(DataError, match=message):
        as_labels(array, "y", 2)


def test_a_label_beyond_the_classes_is_found() -> None:
    check_label_range(torch.tensor([0, 9]), 10, "y")
    with pytest.raises(DataError, match=r"y has label 10 at row 1, but 10 classes \(0 to 9\)$"):
        check_label_range(torch.tensor([0, 10]), 10, "y")
    with pytest.raises(DataError, match=r"\(0 to 9\); labels must begin at 0, these begin at 1: subtract 1 from each"):
        check_label_range(torch.tensor([1, 10]), 10, "y")
    with pytest.raises(DataError, match=r"\(0 to 9\)$"):
        check_label_range(torch.tensor([1, 11]), 10, "y")


@pytest.mark.parametrize(
    ("counts", "fault"),
    [
        ([0, 3, 3], "labels that begin at 1, and must begin at 0; subtract 1 from each"),
        ([0, 0, 3], "labels that begin at 2, and must begin at 0; subtract 2 from each"),
        ([3, 0, 3], "no training image of label 1, though labels go up to 2; number them from 0 without gaps (numpy"),
        ([0, 3, 0, 0, 0, 3], "no training image of label 0, 2, 3, ..., though labels go up to 5; number them"),
    ],
)
def test_what_is_wrong_with_the_numbers_of_classes(counts: list[int], fault: str) -> None:
    assert numbering_fault(counts).startswith(fault)
