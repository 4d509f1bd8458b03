from __future__ import annotations

import hashlib

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from thriftnet.data.dataset import LabelledImages
from thriftnet.data.statistics import channel_statistics, fingerprint


def test_known_values() -> None:
    images = torch.zeros(4, 3, 2, 2, dtype=torch.uint8)
    images[:2, 0] = 255
    images[:, 1] = 51
    images[0, 2, 0, 0] = 255
    mean, std = channel_statistics(images)
    assert mean == pytest.approx((0.5, 0.2, 1 / 16), abs=1e-15)
    assert std == pytest.approx((0.5, 0.0, (15 / 256) ** 0.5), abs=1e-15)
    assert std[1] == 0


@given(arrays.arrays(np.uint8, st.tuples(st.integers(1, 5), st.sampled_from([1, 3]), st.just(4), st.just(4))))
def test_agrees_with_numpy_in_double_precision(array: np.ndarray) -> None:
    mean, std = channel_statistics(torch.from_numpy(array))
    assert mean == pytest.approx(tuple(array.mean((0, 2, 3), dtype=np.float64) / 255), abs=1e-12)
    assert std == pytest.approx(tuple(array.std((0, 2, 3), dtype=np.float64) / 255), abs=1e-12)


def test_more_images_than_one_chunk() -> None:
    images = torch.zeros(10_000, 1, 1, 1, dtype=torch.uint8)
    images[9_999] = 255
    assert channel_statistics(images)[0] == (1e-4,)


def test_nothing_has_no_mean() -> None:
    with pytest.raises(ValueError, match="no pixels"):
        channel_statistics(torch.empty(0, 3, 32, 32, dtype=torch.uint8))


def some() -> LabelledImages:
    images = torch.arange(2 * 3 * 4 * 4).reshape(2, 3, 4, 4).to(torch.uint8)
    return LabelledImages(images, torch.tensor([0, 1]))


def test_fingerprint_is_a_sha256_of_shape_pixels_and_labels() -> None:
    data = some()
    content = b"[2, 3, 4, 4]" + bytes(range(96)) + bytes([0] * 8 + [1] + [0] * 7)
    assert fingerprint(data) == hashlib.sha256(content).hexdigest()


def test_fingerprint_sees_every_change_and_no_memory_layout() -> None:
    data = some()
    original = fingerprint(data)
    pixel, label = data.images.clone(), data.labels.clone()
    pixel[1, 2, 3, 3] += 1
    label[1] = 0
    changed = [
        LabelledImages(pixel, data.labels),
        LabelledImages(data.images, label),
        LabelledImages(data.images.reshape(2, 3, 2, 8), data.labels),
        data.select(torch.tensor([1, 0])),
    ]
    assert len({original, *map(fingerprint, changed)}) == 5
    other_layout = data.images.to(memory_format=torch.channels_last)
    assert fingerprint(LabelledImages(other_layout, data.labels)) == original
