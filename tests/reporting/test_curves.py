from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from thriftnet.reporting.curves import curves_data, draw_curves, draw_learning_rate, learning_rate_data


def row(epoch: int, train: float, validation: float | None, test: float | None) -> dict[str, Any]:
    values = {"train": train, "validation": validation, "test": test}
    losses = {f"{split}_loss": value for split, value in values.items()}
    accuracies = {f"{split}_accuracy": None if v is None else 1 - v for split, v in values.items()}
    return {"epoch": epoch, "steps": 10 * epoch, "lr": 0.1, **losses, **accuracies, "elapsed_s": 1.0}


HISTORY = [row(1, 0.9, 0.75, None), row(2, 0.5, None, None), row(3, math.nan, 0.25, None)]


def test_only_finite_values_become_points_and_accuracies_become_per_cent() -> None:
    data = curves_data(HISTORY, selected_epoch=3)
    assert data.loss == {"train": ([1, 2], [0.9, 0.5]), "validation": ([1, 3], [0.75, 0.25])}
    assert data.accuracy == {"train": ([1, 2], [pytest.approx(10), 50]), "validation": ([1, 3], [25, 75])}


def test_panels_show_the_data_and_mark_the_kept_epoch() -> None:
    figure = draw_curves(curves_data(HISTORY, selected_epoch=3))
    assert [axes.get_ylabel() for axes in figure.axes] == ["cross-entropy (nats)", "accuracy (%)"]
    lines = {line.get_label(): line for line in figure.axes[1].get_lines()}
    assert list(lines["validation"].get_xdata()) == [1, 3]
    assert list(lines["validation"].get_ydata()) == [25, 75]
    assert list(lines["epoch 3, kept"].get_xdata()) == [3, 3]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["train", "validation", "epoch 3, kept"]


def test_a_test_curve_is_labelled_test_selected() -> None:
    history = [row(1, 0.5, None, 0.5), row(2, 0.4, None, 0.4)]
    figure = draw_curves(curves_data(history, selected_epoch=2), ["accuracy"])
    assert len(figure.axes) == 1
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels == ["train", "test (test-selected)", "epoch 2, kept"]


def test_a_single_epoch_is_visible_as_a_point() -> None:
    figure = draw_curves(curves_data(HISTORY[:1], selected_epoch=1))
    assert all(line.get_marker() == "o" for line in figure.axes[0].get_lines() if line.get_label() == "train")


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=5000))
def test_thinning_keeps_the_ends_and_every_extreme(rates: list[float]) -> None:
    data = learning_rate_data(rates, steps_per_epoch=10)
    assert data.steps[0] == 0
    assert data.steps[-1] == len(rates) - 1
    assert (np.diff(data.steps) > 0).all()
    assert data.rates.tolist() == [rates[step] for step in data.steps]
    assert data.rates.max() == max(rates)
    assert data.rates.min() == min(rates)
    assert len(data.steps) <= 4000


def test_thinning_loses_no_swing_and_leaves_short_runs_whole() -> None:
    swinging = [0.005 * (1 + math.cos(math.pi * step / 200)) for step in range(27_370)]
    data = learning_rate_data(swinging, 391)
    tops = int((data.rates > 0.0099999).sum())
    assert tops >= 27_370 // 400
    assert learning_rate_data(swinging[:900], 391).steps.tolist() == list(range(900))


def test_the_learning_rate_is_drawn_over_steps_with_epochs_above() -> None:
    figure = draw_learning_rate(learning_rate_data([0.1, 0.2, 0.3, 0.0], steps_per_epoch=2))
    axes = figure.axes[0]
    assert list(axes.get_lines()[0].get_xdata()) == [0, 1, 2, 3]
    assert list(axes.get_lines()[0].get_ydata()) == [0.1, 0.2, 0.3, 0.0]
    figure.draw_without_rendering()
    (top,) = axes.child_axes
    assert top.get_xlim() == (0, 2)
