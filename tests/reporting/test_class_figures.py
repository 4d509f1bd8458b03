from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from matplotlib.collections import LineCollection
from matplotlib.text import Text

from thriftnet.evaluation.metrics import evaluate_logits
from thriftnet.reporting.class_figures import (
    confusion_data,
    distribution_data,
    draw_confusion,
    draw_distribution,
)

NAMES = ("a", "b", "c")
EVALUATION = evaluate_logits(
    torch.nn.functional.one_hot(torch.tensor([0, 0, 1, 1, 1]), 3).float(), torch.tensor([0, 0, 0, 1, 1]), NAMES
)


def test_shares_are_of_the_true_class_and_zero_for_a_class_without_images() -> None:
    data = confusion_data(EVALUATION)
    assert data.counts.tolist() == [[2, 1, 0], [0, 2, 0], [0, 0, 0]]
    np.testing.assert_allclose(data.shares, [[2 / 3, 1 / 3, 0], [0, 1, 0], [0, 0, 0]])


def test_a_small_confusion_matrix_shows_every_count_at_its_place() -> None:
    axes = draw_confusion(confusion_data(EVALUATION)).axes[0]
    assert {text.get_position(): text.get_text() for text in axes.texts} == {(0, 0): "2", (1, 0): "1", (1, 1): "2"}
    assert [label.get_text() for label in axes.get_yticklabels()] == list(NAMES)
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("predicted class", "true class")
    np.testing.assert_allclose(axes.images[0].get_array(), confusion_data(EVALUATION).shares)


@pytest.mark.parametrize("classes", [2, 10, 100, 200])
def test_no_label_of_a_confusion_matrix_is_cut_off_or_covers_another(classes: int) -> None:
    names = [f"class with a long name {k}" for k in range(classes)]
    logits = torch.eye(classes).repeat(3, 1)
    figure = draw_confusion(confusion_data(evaluate_logits(logits, torch.arange(classes).repeat(3), names)))
    figure.draw_without_rendering()
    page = figure.bbox.padded(1)
    for artist in figure.findobj(Text):
        if artist.get_visible() and artist.get_text():
            box = artist.get_window_extent()
            assert page.x0 <= box.x0 <= box.x1 <= page.x1, artist
            assert page.y0 <= box.y0 <= box.y1 <= page.y1, artist
    boxes = [label.get_window_extent() for label in figure.axes[0].get_yticklabels()]
    assert all(not first.overlaps(second) for first, second in pairwise(boxes))
    assert bool(figure.axes[0].texts) == (classes <= 25)


def test_distribution_bars_and_marks_stand_at_the_counts() -> None:
    figure = draw_distribution(distribution_data(NAMES, [3, 0, 2], [1, 2, 2]))
    (axes,) = figure.axes
    assert [bar.get_width() for bar in axes.patches] == [3, 0, 2]
    (marks,) = (c for c in axes.collections if isinstance(c, LineCollection))
    assert [segment[0][0] for segment in marks.get_segments()] == [1, 2, 2]
    assert [label.get_text() for label in axes.get_yticklabels()] == list(NAMES)


def test_distribution_without_labels_has_no_marks() -> None:
    figure = draw_distribution(distribution_data(NAMES, [3, 0, 2], None))
    assert not figure.axes[0].collections
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["predicted"]


def test_a_hundred_classes_are_all_shown_in_columns() -> None:
    names = [f"c{k}" for k in range(100)]
    figure = draw_distribution(distribution_data(names, range(100), range(100)))
    assert len(figure.axes) == 3
    assert [label.get_text() for axes in figure.axes for label in axes.get_yticklabels()] == names


def test_of_very_many_classes_those_that_differ_most_are_kept_in_order() -> None:
    predicted = [0] * 300
    predicted[7], predicted[299] = 5, 9
    data = distribution_data([f"c{k}" for k in range(300)], predicted, [0] * 300)
    assert data.hidden == 180
    assert len(data.class_names) == 120
    assert data.class_names[-1] == "c299"
    assert dict(zip(data.class_names, data.predicted, strict=True))["c7"] == 5


def test_wrong_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match="3 class names do not fit 2 counts"):
        distribution_data(NAMES, [1, 2], None)
