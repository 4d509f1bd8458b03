from __future__ import annotations

import numpy as np
import torch
from sklearn.datasets import load_digits

from thriftnet.data.digits import DigitsSource


def test_all_digits_are_there_once_and_a_fifth_of_each_is_tested() -> None:
    source = DigitsSource()
    train, test = source.train(), source.test()
    assert train.images.shape == (1438, 1, 32, 32)
    assert test.images.shape == (359, 1, 32, 32)
    per_class = np.bincount(load_digits().target)
    assert (torch.bincount(train.labels) + torch.bincount(test.labels)).tolist() == per_class.tolist()
    assert np.abs(torch.bincount(test.labels).numpy() - per_class * 359 / 1797).max() < 1
    assert source.class_names == tuple("0123456789")
    assert source.has_test


def test_images_are_the_digits_enlarged() -> None:
    digits = load_digits()
    source = DigitsSource()
    train = source.train()
    # Averaged back to 8x8 they agree with the originals, 0 to 16 as 0 to 255, and keep their order and labels.
    small = torch.nn.functional.avg_pool2d(train.images.float(), 4)[:, 0].numpy() / 255 * 16
    distances = np.abs(small[:20, None] - digits.images[None]).mean((2, 3))
    nearest = distances.argmin(1)
    assert distances.min(1).max() < 1 < np.sort(distances, 1)[:, 1].min()
    assert digits.target[nearest].tolist() == train.labels[:20].tolist()
    assert nearest.tolist() == sorted(nearest.tolist())


def test_another_side() -> None:
    assert DigitsSource(16).train().images.shape[2:] == (16, 16)
