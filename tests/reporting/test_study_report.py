"""A study's figures, table and page from hand-made facts."""

from __future__ import annotations

import json
import math
from itertools import product
from typing import Any

import numpy as np
import pytest

from thriftnet.reporting.page import render_page
from thriftnet.reporting.study_figures import (
    draw_heat_map,
    draw_history,
    draw_importance,
    draw_parallel,
    heat_map_data,
    history_data,
    parallel_data,
)
from thriftnet.reporting.study_report import (
    HEAT_MAP,
    StudyFacts,
    TrialFacts,
    duration,
    study_drawings,
    study_page,
    study_text,
)

SETTINGS = [{"optimizer.lr": lr, "optimizer.momentum": momentum} for lr in (0.01, 0.1) for momentum in (0.0, 0.9)]


def study(**changes: Any) -> StudyFacts:
    trials = [
        TrialFacts(0, "completed", 0.5, SETTINGS[0], 4, 4, 3, 10.0, 1319),
        TrialFacts(1, "completed", 0.75, SETTINGS[1], 4, 4, 4, 12.0, 1319),
        TrialFacts(2, "pruned", 0.9, SETTINGS[2], 1, 4, 1, 3.0, 1319, saved_s=9.0),
        TrialFacts(3, "failed", None, SETTINGS[3], 0, 4, reason="the loss is nan <b>"),
        TrialFacts(4, "completed", 0.75, SETTINGS[1], 4, 4, 4, None, 1319, reused_from=1),
    ]
    values: dict[str, Any] = {
        "name": "grid <1>",
        "paper": "",
        "summary": "A summary.",
        "recipe": "tiny",
        "objective": "validation_accuracy",
        "maximize": True,
        "sampler": "grid",
        "pruning": "median",
        "planned": 6,
        "data": "digits",
        "seed": 0,
        "train_images": 90,
        "validation_images": 18,
        "selection": "the best on validation",
        "device": "a CPU",
        "elapsed_s": 125.0,
        "log_keys": ["optimizer.lr"],
        "listed_keys": ["optimizer.momentum"],
        "constraints": ["macs <= 3"],
        "importance": {"optimizer.momentum": 0.75, "optimizer.lr": 0.25},
        "folder": "studies/grid",
        "trials": trials,
    }
    return StudyFacts(**(values | changes))


def test_the_best_is_completed_and_of_equal_ones_the_first() -> None:
    found = study()
    assert found.best is not None
    assert found.best.number == 1  # the pruned one's 0.9 is not that of a whole training
    lowest = study(objective="validation_loss", maximize=False).best
    assert lowest is not None
    assert lowest.number == 0
    assert study(trials=[]).best is None
    assert (found.trained_s, found.saved_s) == (25.0, 9.0)


def test_text_has_a_row_a_trial_and_what_follows() -> None:
    lines = study_text(study()).splitlines()
    assert lines[0].split() == [
        "trial",
        "state",
        "validation",
        "accuracy",
        "epochs",
        "time",
        "parameters",
        "optimizer.lr",
        "optimizer.momentum",
    ]
    assert lines[2].split() == ["1", "completed", "75.00%", "4/4", "12", "s", "1,319", "0.01", "0.9"]
    assert lines[3].split()[:4] == ["2", "pruned", "90.00%", "1/4"]
    assert lines[5].split()[1:4] == ["completed", "(as", "1)"]
    assert lines[6] == "trial 3 failed: the loss is nan <b>"
    assert lines[8].startswith(
        "5 of 6 trials begun: 3 completed, 1 pruned, 1 failed. Best: trial 1, validation accuracy 75.00%"
    )
    assert lines[9] == "importance (fANOVA): optimizer.momentum 75%  optimizer.lr 25%"
    assert lines[10].startswith(
        "Pruning stopped 1 trials early and saved about 9.0 s of training; 25 s were spent (estimate"
    )
    assert study_text(study(trials=[])).splitlines()[-2].startswith("0 of 6 trials begun: none.")


def test_json_holds_everything() -> None:
    values = json.loads(json.dumps(study().as_dict()))
    assert (values["best"], values["saved_s"], values["trials"][3]["reason"]) == (1, 9.0, "the loss is nan <b>")


def test_the_page_shows_all_of_it_escaped() -> None:
    text = render_page(study_page(study()))
    assert "<b>" not in text.replace("&lt;b&gt;", "")
    for expected in (
        "grid &lt;1&gt;",
        "the loss is nan &lt;b&gt;",
        "macs &lt;= 3",
        "The test split was not opened",
        "fANOVA",
    ):
        assert expected in text
    assert text.count("<svg") == 3
    assert "thriftnet study run studies/grid/study.toml --out studies/grid --data digits" in text
    assert render_page(study_page(study(trials=[], importance={}))).count("<svg") == 0


def test_which_figures_a_study_has() -> None:
    assert set(study_drawings(study())) == {"history", "parallel-coordinates", "importance"}  # one rate completed
    whole = [TrialFacts(at, "completed", at / 4, setting) for at, setting in enumerate(SETTINGS)]
    heat_map = "heat-map-optimizer.lr-optimizer.momentum"
    assert set(study_drawings(study(trials=whole))) == {heat_map, "history", "parallel-coordinates", "importance"}
    assert set(study_drawings(study(trials=whole[:1], importance={}))) == {"history"}


def test_the_three_pairs_that_matter_most_have_a_heat_map_each() -> None:
    keys = ("a", "b", "c", "d")
    settings = [dict(zip(keys, values, strict=True)) for values in product((1, 2), repeat=4)]
    trials = [TrialFacts(at, "completed", at / 16, setting) for at, setting in enumerate(settings)]

    def drawn(importance: dict[str, float]) -> list[str]:
        names = study_drawings(study(trials=trials, importance=importance))
        return [name.removeprefix(HEAT_MAP) for name in names if name.startswith(HEAT_MAP)]

    assert drawn({"d": 0.5, "b": 0.3, "c": 0.15, "a": 0.05}) == ["b-d", "c-d", "a-d"]  # 0.8, 0.65, 0.55
    assert drawn({"d": 0.4, "b": 0.35, "c": 0.2, "a": 0.05}) == ["b-d", "c-d", "b-c"]  # 0.75, 0.6, 0.55
    assert drawn({}) == ["a-b", "a-c", "a-d"]


def test_a_key_drawn_from_a_range_has_no_heat_map() -> None:
    settings = [{"optimizer.lr": 0.01 * (at + 1), "training.batch_size": 32 * (1 + at % 2)} for at in range(4)]
    trials = [TrialFacts(at, "completed", at / 4, setting) for at, setting in enumerate(settings)]
    assert not any(name.startswith("heat-map") for name in study_drawings(study(trials=trials)))


def test_the_most_important_key_is_on_top() -> None:
    axes = draw_importance({"optimizer.momentum": 0.75, "optimizer.lr": 0.25}).axes[0]
    assert [bar.get_width() for bar in axes.patches] == [75, 25]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["optimizer.momentum", "optimizer.lr"]
    assert axes.yaxis_inverted()
    assert [text.get_text() for text in axes.texts] == ["75", "25"]


class TestHistory:
    def test_best_so_far_rises_or_falls(self) -> None:
        points = [(2, 0.75), (0, 0.5), (3, 0.6)]
        assert history_data(points, [(1, 0.1)], "x", maximize=True).best == [0.5, 0.75, 0.75]
        falling = history_data(points, [], "x", maximize=False)
        assert (falling.numbers, falling.best) == ([0, 2, 3], [0.5, 0.5, 0.5])

    def test_drawn(self) -> None:
        axes = draw_history(history_data([(0, 50.0), (2, 75.0)], [(1, 40.0)], "accuracy (%)", True)).axes[0]
        lines = {line.get_label(): line for line in axes.get_lines()}
        assert list(lines["best so far"].get_ydata()) == [50, 75]
        assert list(lines["pruned"].get_xdata()) == [1]
        assert axes.get_ylabel() == "accuracy (%)"


class TestHeatMap:
    def test_cells_are_ordered_by_value_and_hold_the_best(self) -> None:
        settings = [{"a": 0.1, "b": "x"}, {"a": 0.01, "b": "none"}, {"a": 0.1, "b": "x"}, {"a": 0.01, "b": "x"}]
        data = heat_map_data(settings, [1.0, 2.0, 3.0, 4.0], "a", "b", "value", maximize=True)
        assert (data.row_labels, data.column_labels) == (["0.01", "0.1"], ["none", "x"])
        np.testing.assert_array_equal(data.values, [[2.0, 4.0], [math.nan, 3.0]])
        worst = heat_map_data(settings, [1.0, 2.0, 3.0, 4.0], "a", "b", "value", maximize=False)
        assert worst.values[1, 1] == 1.0

    @pytest.mark.parametrize("maximize", [True, False])
    def test_every_cell_is_annotated(self, maximize: bool) -> None:
        data = heat_map_data(SETTINGS[:3], [50.0, 75.0, 92.734], "optimizer.lr", "optimizer.momentum", "x", maximize)
        axes = draw_heat_map(data).axes[0]
        assert [text.get_text() for text in axes.texts] == ["50.00", "75.00", "92.73", "–"]
        assert (axes.get_xlabel(), axes.get_ylabel()) == ("optimizer.momentum", "optimizer.lr")


class TestParallel:
    def test_numbers_keep_their_distances_and_words_stand_evenly(self) -> None:
        settings = [{"lr": 0.001, "n": 1, "w": "b"}, {"lr": 0.01, "n": 4, "w": "none"}, {"lr": 0.1, "n": 2, "w": "a"}]
        data = parallel_data(settings, [1.0, 2.0, 3.0], "value", maximize=True, log_keys=["lr"])
        lr, n, w, value = data.columns
        assert lr.places == pytest.approx([0, 0.5, 1])
        assert n.places == pytest.approx([0, 1, 1 / 3])
        assert w.places == [0.5, 1.0, 0.0]
        assert w.ticks == [(0.0, "a"), (0.5, "b"), (1.0, "none")]
        assert value.places == [0, 0.5, 1]

    def test_listed_numbers_are_choices_and_stand_evenly_up_to_nine(self) -> None:
        few = [{"lr": value} for value in (0.1, 0.001, 0.01)]
        [lr, _] = parallel_data(few, [1.0, 2.0, 3.0], "v", True, listed_keys=["lr"]).columns
        assert lr.places == [1.0, 0.0, 0.5]
        assert lr.ticks == [(0.0, "0.001"), (0.5, "0.01"), (1.0, "0.1")]
        many = [{"n": value} for value in (0, 1, 2, 3, 4, 5, 6, 7, 8, 100)]
        [n, _] = parallel_data(many, [1.0] * 10, "v", True, listed_keys=["n"]).columns
        assert n.places[8] == pytest.approx(0.08)

    def test_labels_that_would_lie_on_each_other_are_left_out_but_for_the_last(self) -> None:
        settings = [{"a": value} for value in (0.0, 0.5, 0.52, 0.97, 1.0)]
        ticks = parallel_data(settings, [1.0] * 5, "v", True).columns[0].ticks
        assert ticks == [(0.0, "0"), (0.5, "0.5"), (1.0, "1")]

    def test_a_key_with_one_value_is_no_division_by_zero(self) -> None:
        assert parallel_data([{"a": 1}, {"a": 1}], [1.0, 2.0], "v", True).columns[0].places == [0, 0]

    @pytest.mark.parametrize(("maximize", "best"), [(True, 1), (False, 0)])
    def test_the_best_line_is_on_top(self, maximize: bool, best: int) -> None:
        data = parallel_data(SETTINGS[:3], [50.0, 75.0, 75.0], "v", maximize)
        axes = draw_parallel(data).axes[0]
        lines = [line for line in axes.get_lines() if len(line.get_xdata()) == 3]  # type: ignore[arg-type]
        assert list(lines[-1].get_ydata()) == [column.places[best] for column in data.columns]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(None, "-"), (1.26, "1.3 s"), (12.4, "12 s"), (59.7, "1 min 00 s"), (185, "3 min 05 s"), (7500, "2 h 05 min")],
)
def test_duration(seconds: float | None, text: str) -> None:
    assert duration(seconds) == text
