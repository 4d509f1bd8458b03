"""The figures of a landscape: what is drawn of losses that are not finite, and on which scale."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from thriftnet.reporting.figures import encoded
from thriftnet.reporting.landscape import contour_data, draw_between, draw_contours, draw_lines, lines_data

STEPS = np.array([-1.0, 0.0, 1.0])
TOP = 4 * math.log(10)


def grid(factor: float) -> np.ndarray:
    return factor * (0.1 + STEPS[:, None] ** 2 + 2 * STEPS[None] ** 2)


def test_all_panels_share_one_scale_from_the_lowest_to_the_highest_loss() -> None:
    data = contour_data(["sgd", "amp"], STEPS, [grid(1.0), grid(0.5)], classes=10)
    assert data.levels[0] == pytest.approx(0.05)
    assert data.levels[-1] == pytest.approx(3.1)
    assert np.diff(np.log(data.levels)) == pytest.approx(np.log(62) / (len(data.levels) - 1))
    figure = draw_contours(data)
    assert [axes.get_title(loc="left") for axes in figure.axes[:2]] == ["sgd", "amp"]
    norms = {collection.norm.vmin for axes in figure.axes[:2] for collection in axes.collections[:1]}
    assert norms == {data.levels[0]}


def test_what_is_not_finite_or_far_above_guessing_is_drawn_as_that() -> None:
    wild = grid(1.0)
    wild[0, 0], wild[0, 1], wild[2, 2] = math.nan, math.inf, 1e30
    data = contour_data(["one"], STEPS, [wild], classes=10)
    assert data.losses[0][0, 0] == data.losses[0][0, 1] == data.losses[0][2, 2] == pytest.approx(TOP)
    assert data.levels[-1] == pytest.approx(TOP)
    draw_contours(data)


def test_a_flat_landscape_and_four_runs_can_be_drawn() -> None:
    data = contour_data(list("abcd"), STEPS, [np.zeros((3, 3))] * 4, classes=10)
    figure = draw_contours(data)
    assert [axes.get_visible() for axes in figure.axes[:6]] == [True] * 4 + [False] * 2


def test_no_label_leaves_the_figure_however_often_it_is_drawn() -> None:
    figure = draw_contours(contour_data(["a", "b"], STEPS, [grid(1.0), grid(0.5)], classes=10))
    for kind in (".png", ".svg", ".svg", ".svg"):
        encoded(figure, Path(f"a{kind}"))
        assert figure.axes[0].yaxis.label.get_window_extent().x0 > 0


def test_the_first_direction_is_drawn_along_x() -> None:
    ramp = np.repeat(np.array([1.0, 2.0, 3.0])[:, None], 3, axis=1)  # rises along the first direction alone
    (filled, *_) = draw_contours(contour_data(["a"], STEPS, [ramp], classes=10)).axes[0].collections
    low = filled.get_paths()[0].get_extents()
    assert low.x1 < -0.5
    assert low.y1 - low.y0 == pytest.approx(2)


def test_lines_are_drawn_with_their_mean() -> None:
    data = lines_data(["a", "b"], STEPS, [np.array([[1.0, 0.0, 3.0], [3.0, 0.0, 1.0]]), np.ones((1, 3))], classes=10)
    figure = draw_lines(data)
    drawn = [line.get_ydata().tolist() for line in figure.axes[0].get_lines()]
    assert drawn == [[1, 1e-6, 3], [3, 1e-6, 1], [2, 1e-6, 2], [1, 1, 1]]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["a", "b"]


def test_the_way_between_shows_the_loss_of_guessing() -> None:
    figure = draw_between(np.array([0.0, 0.5, 1.0]), np.array([0.1, math.inf, 0.2]), ("a", "b"), classes=10)
    way, guessing = figure.axes[0].get_lines()
    assert list(way.get_ydata()) == pytest.approx([0.1, TOP, 0.2])
    assert list(guessing.get_ydata()) == pytest.approx([math.log(10)] * 2)
    assert figure.axes[0].get_xlabel() == "from a (0) to b (1)"
