"""Which convolutions are compared, on which side the kernel is, and what the summary adds up."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from benchmarks.convolution_kernels import PASSES, RECIPES, Layers, Shape, of_network, shapes_of
from benchmarks.kernels import SIDES

from benchmarks import convolution_kernels
from tests.training.conftest import tiny_recipe
from thriftnet import recipe as recipes
from thriftnet.config import RuntimeConfig
from thriftnet.runtime import Runtime, resolve

SHAPE = Shape(32, 16, 16, 8, 8, kernel=3, stride=1, padding=1, groups=1, bias=False)


def runtime_of(precision: str) -> Runtime:
    runtime = resolve(RuntimeConfig.model_validate({"device": "cpu", "precision": precision, "threads": 1}))
    if runtime.convolutions is None:
        pytest.skip("; ".join(runtime.reasons))
    return runtime


def test_shapes_are_counted() -> None:
    shapes = shapes_of("liu-4x2")
    assert sum(shapes.values()) == 20
    assert shapes[Shape(128, 64, 64, 16, 16, kernel=3, stride=1, padding=1, groups=1, bias=False)] == 3
    assert {shape.groups for shape in shapes_of("tirumalasetty-resnext29")} == {1, 32}
    assert set(RECIPES) <= set(recipes.names())


def test_a_shape_has_a_name_of_its_own() -> None:
    assert str(SHAPE) == "32 x 16 -> 16 at 8x8, 3x3"
    special = SHAPE._replace(kernel=1, stride=2, padding=1, groups=4, bias=True)
    assert str(special) == "32 x 16 -> 16 at 8x8, 1x1, stride 2, 4 groups, padding 1, bias"
    shapes = {shape for name in RECIPES for shape in shapes_of(name)}
    assert len({str(shape) for shape in shapes}) == len(shapes)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_each_pass_is_measured_with_and_without_the_kernel(precision: str) -> None:
    layers = Layers(SHAPE, runtime_of(precision))
    assert layers.differ()
    row = layers.measure(rounds=1)
    assert row["gflop_a_pass"] == 2 * 32 * 64 * 16 * 16 * 9 / 1e9
    assert set(row) == {"shape", "gflop_a_pass", *PASSES}
    for name in PASSES:
        assert all(row[name]["seconds"][side] > 0 for side in SIDES)


@pytest.mark.parametrize(("precision", "changed"), [("fp32", {"groups": 2}), ("bf16", {"in_channels": 3})])
def test_what_the_rule_leaves_to_torch_is_no_comparison(precision: str, changed: dict[str, Any]) -> None:
    assert not Layers(SHAPE._replace(**changed), runtime_of(precision)).differ()


def test_a_network_adds_up_its_shapes_as_often_as_they_occur() -> None:
    def row(torch_s: float, kernel_s: float) -> dict[str, Any]:
        return {name: {"cpu_seconds": {"torch": torch_s, "kernel": kernel_s}} for name in PASSES}

    other, left = SHAPE._replace(stride=2), SHAPE._replace(in_channels=3)
    found = of_network({SHAPE: 3, other: 1, left: 1}, {SHAPE: row(2, 1), other: row(4, 1)})
    assert (found["convolutions"], found["by_the_kernel"]) == (5, 4)
    assert found["forward"] == {"torch": 10, "kernel": 4, "ratio": 2.5}
    assert found["all passes"] == {"torch": 30, "kernel": 12, "ratio": 2.5}
    assert of_network({left: 1}, {})["all passes"]["ratio"] is None


def test_the_whole_benchmark_of_a_tiny_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    runtime_of("fp32")
    recipe, out = tmp_path / "wide.toml", tmp_path / "found.json"
    recipe.write_text(recipes.to_toml(tiny_recipe(model={"widths": [16, 16]})), encoding="utf-8")
    options = ["--precision", "fp32", "--rounds", "1", "--recipes", str(recipe), "--out", str(out)]
    monkeypatch.setattr(sys, "argv", ["convolution_kernels.py", *options])
    convolution_kernels.main()
    stored = json.loads(out.read_text(encoding="utf-8"))
    assert set(stored["rows"]) == {
        f"step of {recipe}", "20 x 16 -> 16 at 32x32, 3x3", "20 x 16 -> 16 at 16x16, 3x3",
    }  # fmt: skip
    summary = stored["summary"][str(recipe)]
    assert (summary["convolutions"], summary["by_the_kernel"]) == (7, 2)
    assert summary["all passes"]["ratio"] > 0
    capsys.readouterr()
    convolution_kernels.main()  # all of it is stored
    told = capsys.readouterr().out
    assert told.count("0 to measure") == 2
    assert "2 of 7" in told
    assert json.loads(out.read_text(encoding="utf-8"))["rows"] == stored["rows"]


def test_nothing_to_compare_is_said(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    without = Runtime(torch.device("cpu"), "bf16", channels_last=True, threads=1, reasons=())
    monkeypatch.setattr(convolution_kernels.runtimes, "resolve", lambda _: without)
    monkeypatch.setattr(sys, "argv", ["convolution_kernels.py"])
    convolution_kernels.main()
    assert capsys.readouterr().out.startswith("convolutions in bf16 are torch's here: nothing to compare")
