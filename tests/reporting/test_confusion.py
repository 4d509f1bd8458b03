"""Which images are kept for the confusion matrix, and what its cells say."""

from __future__ import annotations

import io
from base64 import b64decode

import numpy as np
import pytest
import torch
from PIL import Image

from thriftnet.reporting.confusion import (
    IMAGES_A_PAIR,
    KEPT_PIXELS,
    LISTED_PAIRS,
    ConfusedImages,
    Confusion,
    confused_images_data,
    listed_pairs,
    shown_confusion,
)

COUNTS = [[5, 1, 0], [3, 0, 2], [0, 0, 4]]


def images(count: int, side: int = 8) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, 3, side, side), dtype=torch.uint8, generator=generator)


def logits_of(predicted: torch.Tensor, classes: int, sureness: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.one_hot(predicted, classes) * sureness[:, None]


def test_mistakes_come_most_frequent_first_and_then_the_classes_recognised() -> None:
    assert listed_pairs(COUNTS) == [(1, 0), (1, 2), (0, 1), (0, 0), (2, 2)]


def test_of_many_classes_only_the_most_frequent_mistakes_are_listed() -> None:
    counts = np.eye(1000, dtype=int) * 9
    counts[np.arange(400), np.arange(400) + 1] = 2
    counts[7, 9] = 5
    pairs = listed_pairs(counts.tolist())
    assert len(pairs) == LISTED_PAIRS
    assert pairs[:3] == [(7, 9), (0, 1), (1, 2)]


def test_the_surest_mistakes_and_the_least_sure_right_answers_are_kept_in_that_order() -> None:
    #                          two mistakes 0 -> 1, two right 0, one right 1
    labels, predicted = torch.tensor([0, 0, 0, 0, 1]), torch.tensor([1, 1, 0, 0, 1])
    sureness = torch.tensor([2.0, 3, 5, 4, 1])
    pixels = images(5)
    logits = logits_of(predicted, 2, sureness)
    data = confused_images_data(pixels, logits, labels)
    order = [1, 3, 4, 0, 2]  # the first of every pair, then the second
    assert (data.true, data.predicted) == ((0, 0, 1, 0, 0), (1, 0, 1, 1, 0))
    np.testing.assert_array_equal(data.images, pixels[order].permute(0, 2, 3, 1).numpy())
    assert data.confidences == pytest.approx(logits.softmax(1).max(1).values[order].tolist())


def test_no_more_are_kept_than_a_page_can_hold_and_every_pair_has_its_share() -> None:
    count, classes = 4000, 10
    generator = torch.Generator().manual_seed(1)
    labels = torch.randint(0, classes, (count,), generator=generator)
    predicted = torch.randint(0, classes, (count,), generator=generator)
    logits = logits_of(predicted, classes, torch.rand(count, generator=generator))
    data = confused_images_data(images(count, side=32), logits, labels)
    assert len(data.images) == 512
    kept = [list(zip(data.true, data.predicted, strict=True)).count((t, p)) for t in range(10) for p in range(10)]
    assert min(kept) == 5
    assert max(kept) == 6
    small = confused_images_data(images(count, side=8), logits, labels)
    assert len(small.images) == 100 * IMAGES_A_PAIR


def test_large_images_are_reduced_and_fewer_are_kept() -> None:
    labels = torch.arange(20).repeat(20)
    logits = logits_of(labels.sort().values, 20, torch.ones(400))
    data = confused_images_data(images(400, side=80), logits, labels)
    assert data.images.shape == (KEPT_PIXELS // 64**2, 64, 64, 3)


def kept_images() -> ConfusedImages:
    pixels = images(3).permute(0, 2, 3, 1).numpy()
    return ConfusedImages(pixels, (1, 1, 0), (0, 0, 0), (0.987, 0.5, 0.25))


def test_each_cell_says_what_it_is_and_opens_its_images() -> None:
    kept = kept_images()
    view = shown_confusion(Confusion(("cat", "a dog of long name", "owl"), COUNTS, kept), "m")
    assert view.names == [("cat", "cat"), ("a dog of long name", "a dog of long n…"), ("owl", "owl")]
    cell = view.grid[1][0]
    assert (cell.count, cell.opacity, cell.white) == (3, round(0.6**0.5, 3), False)
    assert cell.said == "“a dog of long name” taken for “cat”: 3 images, 60.0 % of the class"
    assert view.grid[2][2].white
    assert (view.grid[1][1].count, view.grid[1][1].target) == (0, "")
    assert [(pair.target, len(pair.images)) for pair in view.pairs] == [("m-1-0", 2), ("m-0-0", 1)]
    assert (view.grid[1][0].target, view.grid[0][0].target, view.grid[0][1].target) == ("m-1-0", "m-0-0", "")
    mistaken, right = view.pairs
    assert mistaken.said == "Shown: 2 of them, first where the network was surest, with its confidence."
    assert right.said == "Shown: 1 of them, first where the network was least sure, with its confidence."
    assert right.name == "“cat” recognised"
    assert [image.confidence for image in mistaken.images] == ["98.7\u00a0%", "50.0\u00a0%"]
    content = b64decode(mistaken.images[0].source.removeprefix("data:image/png;base64,"))
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(content))), kept.images[0])


def test_without_images_nothing_opens() -> None:
    view = shown_confusion(Confusion(("cat", "dog", "owl"), COUNTS), "m")
    assert view.pairs == []
    assert {cell.target for row in view.grid for cell in row} == {""}
    assert view.grid[1][0].said == "“dog” taken for “cat”: 3 images, 60.0 % of the class"


def test_many_classes_are_a_table_of_pairs() -> None:
    counts = np.eye(30, dtype=int) * 9
    counts[1, 0], counts[4, 5] = 3, 1
    view = shown_confusion(Confusion([f"c{k}" for k in range(30)], counts.tolist(), kept_images()), "m")
    assert view.grid == ()
    assert view.table is not None
    shown = [[getattr(cell, "value", cell) for cell in row] for row in view.table.rows]
    assert shown == [["c1", "c0", 3, "25.00\u00a0%"], ["c4", "c5", 1, "10.00\u00a0%"]]
    assert [pair.target for pair in view.pairs] == ["m-1-0"]


@pytest.mark.parametrize(
    "wrong",
    [
        {"true": (1,)},
        {"confidences": ()},
        {"images": np.zeros((3, 8, 8), np.uint8)},
        {"images": np.zeros((3, 8, 8, 3))},
    ],
)
def test_parts_that_do_not_fit_are_refused(wrong: dict[str, object]) -> None:
    kept = kept_images()
    parts = {"images": kept.images, "true": kept.true, "predicted": kept.predicted, "confidences": kept.confidences}
    with pytest.raises(ValueError, match="do not fit each other"):
        ConfusedImages(**{**parts, **wrong})  # type: ignore[arg-type]
