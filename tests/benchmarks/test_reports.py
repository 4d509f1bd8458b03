"""What the benchmarks make of their measurements: rows, summaries, figures."""

from __future__ import annotations

import json
import sys
import time
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest
from benchmarks.convolutions import convolutions_of

from benchmarks import memory, pipeline, throughput, time_to_accuracy
from tests.benchmarks.test_gpu import tiny_npz, tiny_toml
from tests.training.conftest import tiny_recipe
from thriftnet import recipe as recipes
from thriftnet import runtime as runtimes
from thriftnet.config import RuntimeConfig
from thriftnet.errors import UserError
from thriftnet.models.build import build_on_meta, count_parameters

MACHINE = {"matrix_gflops": {"fp32": 100.0, "bf16": 400.0}, "memory_gb_per_s": 10.0}


def throughput_row(product: float, ratio: float | None) -> dict[str, Any]:
    recipe = tiny_recipe(training={"batch_size": 8})
    listed = convolutions_of(build_on_meta(recipe.model), (3, 32, 32))
    alone = {
        "choice": "fp32 contiguous",
        "paths": [each.path for each in listed],
        "seconds": {"fp32 contiguous": [0.01] * len(listed), "fp32 channels_last": [0.02] * len(listed)},
    }
    speeds = {"product": [product] * 3, "convolutions": [2 * product] * 3}
    row = {"batch_size": 8, "images_per_s": {side: values[0] for side, values in speeds.items()}, "ratio": ratio}
    if ratio is not None:
        row["images_per_s"]["baseline"] = product / ratio
    return row | throughput.machine_row(recipe, speeds, alone, MACHINE, Namespace(device="cpu"))


def test_the_share_of_convolutions_is_their_time_in_the_step():
    row = throughput_row(100.0, 4.0)
    assert row["step_s"] == pytest.approx(0.08)
    assert row["convolution_only"]["seconds_a_step"] == pytest.approx(0.04)
    assert row["convolution_only"]["share_of_step"] == pytest.approx(0.5)
    assert row["roofline"]["rest_share"] == pytest.approx(0.5)
    assert list(row["convolution_only"]["each_seconds"].values()) == [0.01] * 6
    json.dumps(row)


def test_throughput_is_summed_up_over_the_nine_networks():
    rows = {name: throughput_row(100.0, ratio) for name, ratio in zip(throughput.NINE, [2.0, 8.0] * 5, strict=False)}
    rows["tirumalasetty-resnext29-amp"] = throughput_row(100.0, 1.0)  # a tenth recipe of one of the nine
    summary = throughput.summarize(rows)
    assert len(throughput.NINE) == summary["networks"] == 9
    assert summary["geometric_mean_ratio"] == pytest.approx((2.0**5 * 8.0**4) ** (1 / 9))
    assert summary["smallest_ratio"]["ratio"] == 2.0
    assert throughput.summarize({}) == {}


def test_throughput_is_shown_and_drawn(capsys: pytest.CaptureFixture[str]):
    rows = {"one": throughput_row(100.0, 4.0), "own": throughput_row(900.0, None)}
    throughput.show(rows)
    told = capsys.readouterr().out.splitlines()
    assert told[2].split()[:5] == ["one", "8", "25", "100", "4.00"]
    assert told[3].split()[:5] == ["own", "8", "-", "900", "-"]
    left, right = throughput.draw(rows).axes
    assert [bar.get_width() for bar in left.patches] == [4.0, 0]
    assert sum(bar.get_width() for bar in right.patches) == pytest.approx(2)


def test_both_pipelines_of_a_recipe_are_measured(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(pipeline, "WORKERS", (0,))
    monkeypatch.setattr(pipeline, "LOADER_BATCHES", 1)
    monkeypatch.setattr(pipeline, "BATCHED_BATCHES", 1)
    runtime = runtimes.resolve(RuntimeConfig(device="cpu", threads=1))
    recipe = tiny_recipe(training={"batch_size": 8}, augment={"concatenate_originals": True})
    row = pipeline.measure(recipe, 2, runtime, count=32)
    assert row["operations"] == ["horizontal_flip", "padded_crop"]
    assert set(row["images_per_s"]) == {"batched", "per image, 0 workers"}
    assert row["ratio"] > 0
    assert pipeline.draw({"tiny": row}).axes


def test_a_sweep_changes_one_thing():
    recipe = recipes.load("liu-4x2")
    assert memory.varied(recipe, "width", 0.5).model.widths == (16, 32, 64, 128)
    assert memory.varied(recipe, "depth", 3).model.blocks == (3, 3, 3, 3)
    assert memory.varied(recipe, "batch", 32).training.batch_size == 32
    assert memory.varied(recipe, "image side", 48).data.image_side == 48
    assert memory.varied(recipe, "images", 1_000) == recipe
    assert count_parameters(memory.varied(recipe, "width", 2.0).model) > 5_000_000
    with pytest.raises(UserError, match=r"no model\.widths to vary"):
        memory.varied(recipes.load("tirumalasetty-resnext29"), "width", 2.0)


def test_memory_has_a_point_for_every_recipe_and_value(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    options = Namespace(recipes=["liu-4x2"], around="liu-4x2", steps=1, device="cpu")
    asked = memory.points(options)
    assert len(asked) == 1 + sum(map(len, memory.SWEEPS.values()))
    memory.work(asked["recipe: liu-4x2"] | {"recipe": str(tiny_toml(tmp_path))})
    row = json.loads(capsys.readouterr().out)
    assert 50 < row["rss_before_training_mb"] <= row["peak_rss_mb"] < 20_000
    assert row["step_s"] > 0
    figure = memory.draw(dict.fromkeys(asked, row) | {"width: 0.5": {"failed": "out of memory"}}, "tiny")
    assert len(figure.axes) == 2 * len(memory.SWEEPS)
    assert len(figure.axes[0].lines[0].get_xdata()) == len(memory.SWEEPS["width"]) - 1


def test_a_point_that_fails_does_not_stop_the_others():
    row = memory.measure({"recipe": "no-such-recipe", "axis": "none", "value": 1, "steps": 1, "device": "cpu"})
    assert "no recipe named 'no-such-recipe'" in row["failed"]


def test_many_images_are_timed_by_the_loops_reports(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    asked = {"recipe": str(tiny_toml(tmp_path)), "axis": "images", "value": 900, "steps": 1, "device": "cpu"}
    memory.work(asked)
    row = json.loads(capsys.readouterr().out)
    assert row["images_in_memory"] == 900
    assert row["step_s"] > 0


def trained(tmp_path: Path, warm: bool) -> dict[str, Any]:
    return time_to_accuracy.train_once(
        {
            "recipe": str(tiny_toml(tmp_path)),
            "overrides": ["training.epochs=3"],
            "data": str(tiny_npz(tmp_path)),
            "seed": 5,
            "warm": warm,
            "tta": "none",
            "spawned_at": time.time() - 100,
        }
    )


def test_a_training_is_told_as_accuracy_and_seconds(tmp_path: Path):
    row = trained(tmp_path, warm=False)
    assert row["seed"] == 5
    assert row["split"] == "test"
    assert row["curve_split"] == "validation"
    assert [point["epoch"] for point in row["curve"]] == [1, 2, 3]
    walls = [row["start_s"], *(point["wall_s"] for point in row["curve"]), row["training_s"], row["wall_s"]]
    assert walls == sorted(walls)
    assert walls[0] > 100  # a cold run begins with its process
    assert row["epochs_s"] < row["wall_s"] - 100


def test_a_warm_run_begins_after_the_warm_up(tmp_path: Path):
    row = trained(tmp_path, warm=True)
    assert row["wall_s"] < 100
    assert row["epochs"] == 3


ROW = {
    "accuracy": 0.92,
    "wall_s": 50.0,
    "cpu_s": 90.0,
    "epochs_s": 40.0,
    "seed": 0,
    "curve_split": "validation",
    "curve": [
        {"epoch": 1, "wall_s": 20.0, "cpu_s": 35.0, "accuracy": 0.8},
        {"epoch": 2, "wall_s": 40.0, "cpu_s": 75.0, "accuracy": 0.91},
    ],
}


@pytest.mark.parametrize(("target", "wall_s"), [(0.8, 20.0), (0.85, 40.0), (0.915, 50.0), (0.95, None)])
def test_a_target_is_reached_by_the_curve_or_the_end(target: float, wall_s: float | None):
    found = time_to_accuracy.reached(ROW, target)
    assert (found and found["wall_s"]) == wall_s


def test_seeds_are_summed_up_against_the_other_program():
    rows = {
        "fast, cold, seed 0": ROW,
        "fast, cold, seed 1": ROW | {"seed": 1, "accuracy": 0.94, "cpu_s": 110.0},
        "versus, seed 0": {"accuracy": 0.9, "wall_s": 100.0, "cpu_s": 180.0, "seconds": 80.0, "seed": 0},
        "versus, seed 1": {"accuracy": 0.9, "wall_s": 100.0, "cpu_s": 110.0, "seconds": 50.0, "seed": 1},
    }
    found = time_to_accuracy.summarize(rows, 0.93)
    ours = found["fast, cold"]
    assert ours["accuracy_mean"] == pytest.approx(0.93)
    assert ours["accuracy_sd"] == pytest.approx(0.02**0.5 / 10)
    assert ours["cpu_s_ratio_to_versus"] == pytest.approx(0.75)
    assert ours["epochs_s_ratio_to_versus"] == pytest.approx(0.65)  # training alone: 40/80 and 40/50
    assert (ours["training_s_median"], found["versus"]["training_s_median"]) == (40.0, 65.0)
    assert ours["target_reached_wall_s"] == [None, 50.0]
    assert "cpu_s_ratio_to_versus" not in found["versus"]
    assert len(time_to_accuracy.draw(rows, 0.93).axes) == 2


def test_the_other_program_takes_turns_seed_by_seed():
    options = Namespace(
        seeds=[0, 1], recipes=["fast"], warm=True, versus="run {seed}", data="digits", set=[], tta="none"
    )
    keys = [key for key, _ in time_to_accuracy.jobs(options)]
    assert keys == [
        "fast, cold, seed 0",
        "fast, warm, seed 0",
        "versus, seed 0",
        "versus, seed 1",
        "fast, warm, seed 1",
        "fast, cold, seed 1",
    ]


def test_the_other_program_says_accuracy_and_seconds():
    code = "import json, sys; print(json.dumps({'accuracy': 0.9, 'seconds': int(sys.argv[1])}))"
    row = time_to_accuracy.versus_run(f'{sys.executable} -c "{code}" {{seed}}', 7)
    assert (row["accuracy"], row["seconds"], row["seed"]) == (0.9, 7, 7)
    assert row["wall_s"] > 0
    with pytest.raises(UserError, match="no number 'seconds'"):
        time_to_accuracy.versus_run(f'{sys.executable} -c "print(\'{{\\"accuracy\\": 1}}\')"', 0)
