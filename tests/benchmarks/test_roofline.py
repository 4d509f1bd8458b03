"""Bytes and arithmetic against ceilings, on numbers that can be checked by hand."""

from __future__ import annotations

import pytest
import torch
from benchmarks.convolutions import convolutions_of
from benchmarks.roofline import ceilings, explain, group_of, passes_of, step_bounds, values_moved

from tests.training.conftest import tiny_recipe
from thriftnet import recipe as recipes
from thriftnet.models.build import build_on_meta

MACHINE = {"matrix_gflops": {"fp32": 1.0, "bf16": 4.0}, "memory_gb_per_s": 1.0}


@pytest.mark.parametrize(
    ("operation", "group"),
    [
        ("aten::convolution_backward", "convolution"),
        ("aten::mkldnn_convolution", "convolution"),
        ("_AmxConvolution", "convolution"),
        ("autograd::engine::evaluate_function: _AmxConvolutionBackward", "convolution"),
        ("_WinogradBackward", "convolution"),
        ("_NormActAdd", "normalisation"),
        ("aten::native_batch_norm_backward", "normalisation"),
        ("aten::threshold_backward", "activation and addition"),
        ("aten::add.Tensor", "activation and addition"),
        ("aten::add_", "activation and addition"),
        ("_MaxPool", "activation and addition"),
        ("_DropoutBackward", "activation and addition"),
        ("aten::addmm", None),
        ("aten::_to_copy", "casts and copies"),
        ("aten::index", None),
    ],
)
def test_operations_fall_into_their_group(operation: str, group: str | None):
    assert group_of(operation) == group


def test_the_traffic_of_normalisation_and_activation_by_hand():
    """One stage of one block without shortcut: three norms, three activations, one addition, each over N x 4 x 16^2."""
    recipe = tiny_recipe(
        model={"widths": [4], "blocks": [1], "strides": [1], "dropout": 0.0}, training={"batch_size": 8}
    )
    moved = values_moved(recipe, 16)
    values = 8 * 4 * 16 * 16
    channels = 3 * 4  # per norm: weight, bias, running and batch statistics, a few more or less
    # Forward reads and writes once each, backward reads two and writes one.
    assert moved["normalisation"] == pytest.approx(3 * 5 * values, abs=20 * channels)
    # An activation moves 2 forward and 3 backward; the addition 3; the two gradients that meet at the fork 3.
    additions = 3 * values + 3 * values
    assert moved["activation and addition"] == pytest.approx(3 * 5 * values + additions, abs=20)  # and batch counters


def test_bounds_take_the_larger_of_arithmetic_and_bytes():
    recipe = tiny_recipe(training={"batch_size": 8})
    listed = convolutions_of(build_on_meta(recipe.model), (3, 16, 16))
    bounds = step_bounds(recipe, listed, "fp32", MACHINE, 16)
    arithmetic = sum(each.flops(8) for each in listed) / 1e9
    memory = sum(4 * each.values_moved(8) for each in listed) / 1e9
    assert bounds["convolution_arithmetic_s"] == pytest.approx(arithmetic)
    assert bounds["convolution_memory_s"] == pytest.approx(memory)
    assert max(arithmetic, memory) <= bounds["convolution_s"] <= arithmetic + memory
    halved = step_bounds(recipe, listed, "bf16", MACHINE, 16)
    assert halved["convolution_memory_s"] == pytest.approx(memory / 2)
    assert halved["elementwise_s"] == pytest.approx(bounds["elementwise_s"] / 2)
    assert halved["optimiser_s"] == bounds["optimiser_s"]  # its state is fp32 in every precision


def test_amp_takes_two_passes_a_step():
    assert passes_of(recipes.load("tirumalasetty-resnext29")) == 1
    assert passes_of(recipes.load("tirumalasetty-resnext29-amp")) == 2


@pytest.mark.parametrize(
    ("elementwise_s", "explained", "limit"), [(0.03, 0.8, "memory"), (0.0, 0.2, "neither"), (9.0, 1.0, "memory")]
)
def test_the_rest_is_explained_by_bytes_or_not(elementwise_s: float, explained: float, limit: str):
    bounds = {"elementwise_s": elementwise_s, "optimiser_s": 0.01, "convolution_s": 0.025}
    found = explain(0.1, 0.05, bounds)
    assert found["rest_s"] == pytest.approx(0.05)
    assert found["rest_share"] == pytest.approx(0.5)
    assert found["rest_explained_by_memory"] == pytest.approx(explained)
    assert limit in found["limit_of_the_rest"]
    assert found["convolution_efficiency"] == pytest.approx(0.5)


def test_ceilings_are_measured_for_every_dtype(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("benchmarks.roofline.MATRIX_SIDE", 64)
    monkeypatch.setattr("benchmarks.roofline.STREAMED_VALUES", 2**12)
    found = ceilings(torch.device("cpu"), rounds=2)
    assert found["matrix_gflops"]["fp32"] > 0
    assert found["memory_gb_per_s"] > 0
