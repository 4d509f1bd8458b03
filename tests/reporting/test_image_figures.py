from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from thriftnet.reporting.image_figures import (
    augmented_batch_data,
    draw_augmented_batch,
    draw_mistakes,
    mistakes_data,
)

NAMES = ("airplane", "automobile", "a name that goes on and on")


def images(count: int, channels: int = 3, side: int = 8) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, channels, side, side), dtype=torch.uint8, generator=generator)


def assert_texts_lie_apart_and_inside(figure: Figure) -> None:
    figure.draw_without_rendering()
    boxes = [text.get_window_extent() for text in figure.axes[0].texts]
    page = figure.bbox
    assert all(page.x0 <= b.x0 <= b.x1 <= page.x1 and page.y0 <= b.y0 <= b.y1 <= page.y1 for b in boxes)
    assert not any(first.overlaps(second) for first, second in combinations(boxes, 2))


def test_mistakes_come_most_confident_first_and_equal_ones_in_order() -> None:
    #          right     wrong, sure  wrong       right     wrong
    logits = torch.tensor([[3.0, 0, 0], [9, 0, 0], [0, 2, 0], [0, 0, 1], [0, 2, 0]])
    labels = torch.tensor([0, 1, 2, 2, 0])
    pixels = images(5)
    data = mistakes_data(pixels, logits, labels, NAMES)
    assert data.indices == (1, 2, 4)
    assert data.predicted_names == ("airplane", "automobile", "automobile")
    assert data.true_names == ("automobile", NAMES[2], "airplane")
    assert data.confidences == pytest.approx(logits.softmax(1).max(1).values[[1, 2, 4]].tolist())
    assert (data.total, data.count) == (3, 5)
    np.testing.assert_array_equal(data.images, pixels[[1, 2, 4]].permute(0, 2, 3, 1).numpy())
    limited = mistakes_data(pixels, logits, labels, NAMES, limit=2)
    assert (limited.indices, limited.total) == ((1, 2), 3)


def test_every_mistake_is_drawn_with_its_names_apart() -> None:
    count = 12
    labels = torch.arange(count) % 3
    logits = torch.nn.functional.one_hot((labels + 1) % 3, 3).float() * 20
    figure = draw_mistakes(mistakes_data(images(count), logits, labels, NAMES))
    assert len(figure.axes[0].images) == count
    words = [text.get_text() for text in figure.axes[0].texts]
    pairs = list(zip(words[::2], words[1::2], strict=True))
    assert pairs.count(("automobile 100.0%", "is airplane")) == 4
    assert pairs.count(("a name tha… 100.0%", "is automobile")) == 4
    assert_texts_lie_apart_and_inside(figure)


def test_no_mistake_is_said() -> None:
    labels = torch.tensor([0, 1])
    data = mistakes_data(images(2), torch.nn.functional.one_hot(labels, 3).float(), labels, NAMES)
    assert [text.get_text() for text in draw_mistakes(data).texts] == ["no mistake among 2 images"]


def test_a_batch_is_shown_before_and_after() -> None:
    before = images(20)
    after = before.flip(-1).float() / 255
    labels = torch.arange(20) % 3
    data = augmented_batch_data(before, after, labels, NAMES, limit=10)
    np.testing.assert_array_equal(data.originals, before[:10].permute(0, 2, 3, 1).numpy())
    np.testing.assert_array_equal(data.augmented, before[:10].flip(-1).permute(0, 2, 3, 1).numpy())
    assert data.names == tuple(NAMES[k % 3] for k in range(10))
    figure = draw_augmented_batch(data)
    assert len(figure.axes[0].images) == 20
    np.testing.assert_array_equal(figure.axes[0].images[1].get_array(), data.augmented[0])
    assert_texts_lie_apart_and_inside(figure)


def test_values_outside_the_range_are_clipped_and_grey_becomes_three_channels() -> None:
    data = augmented_batch_data(
        images(1, channels=1), torch.tensor([[[[-1.0, 0.5], [1.0, 2.0]]]]), torch.tensor([0]), NAMES
    )
    assert data.originals.shape == (1, 8, 8, 3)
    assert data.augmented[0].tolist() == [[[0] * 3, [128] * 3], [[255] * 3, [255] * 3]]


def test_large_images_are_reduced() -> None:
    big = torch.full((2, 3, 256, 256), 77, dtype=torch.uint8)
    data = augmented_batch_data(big, big, torch.tensor([0, 1]), NAMES)
    assert data.originals.shape == (2, 128, 128, 3)
    assert (data.originals == 77).all()
