"""What is recorded, with stand-ins for a GPU that run or replay operations on the CPU.

`again` runs a recorded function anew on its static memory. `traced` replays the operations that it ran while it was
recorded, as a CUDA graph does: whatever it asked Python for has become a constant, and asking a tensor for its value is
an error.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

from tests.training.conftest import TinySource, tiny_recipe
from tests.training.test_loop import RESUMABLE, run, timeless
from thriftnet import runtime as runtimes
from thriftnet.augment import random_operations
from thriftnet.config import RecipeConfig
from thriftnet.data.prepare import prepare
from thriftnet.errors import RecipeError
from thriftnet.training import loop
from thriftnet.training.batches import Batches, Raw
from thriftnet.training.graphs import Graphs, Recorded

CPU = torch.device("cpu")


def again(function: Callable[[], Sequence[Tensor]]) -> Recorded:
    results = [result.clone() for result in function()]

    def launch() -> None:
        for static, result in zip(results, function(), strict=True):
            static.copy_(result)

    return results, launch


def graphs_of(recorder: Callable[..., Recorded] = again, **more: Any) -> tuple[Graphs, list[str]]:
    said: list[str] = []
    return Graphs(CPU, 4, lambda: more.pop("state", []), said.append, more.get("required", False), recorder), said


def test_a_recording_reads_and_writes_memory_that_stays() -> None:
    graphs, said = graphs_of()
    first = graphs.run("sum", lambda a, b: [a + b], torch.tensor(1.0), torch.tensor(2.0))
    assert first[0] == 3
    second = graphs.run("sum", lambda a, b: [], torch.tensor(5.0), torch.tensor(2.0))
    assert second[0] is first[0]
    assert second[0] == 7
    assert len(graphs) == 1
    assert said[0].startswith("CUDA graph 1 recorded in ")
    graphs.forget()
    assert graphs.run("sum", lambda a, b: [a * b], torch.tensor(5.0), torch.tensor(2.0))[0] == 10


def test_recording_leaves_state_and_generators_alone() -> None:
    state = torch.zeros(2)

    def function(x: Tensor) -> list[Tensor]:
        state.add_(1)
        return [x + torch.rand(())]

    graphs, _ = graphs_of(state=[state])
    torch.manual_seed(3)
    wanted = torch.rand(())
    torch.manual_seed(3)
    assert graphs.run("key", function, torch.zeros(()))[0] == wanted
    assert state.tolist() == [1, 1]  # by the launch alone


def test_what_cannot_be_recorded_is_said_once_and_runs_without() -> None:
    def fails(function: Callable[[], Sequence[Tensor]]) -> Recorded:
        function()
        raise RuntimeError("operation not permitted when stream is capturing\nmore")

    state = torch.zeros(1)

    def function(x: Tensor) -> list[Tensor]:
        state.add_(1)
        return [x + 1]

    graphs, said = graphs_of(fails, state=[state])
    for key in ("a", "b"):
        assert graphs.run(key, function, torch.tensor(1.0))[0] == 2
    assert state == 2  # what the failed recording did is undone
    assert said == ["CUDA graphs off, training is slower: operation not permitted when stream is capturing"]
    required, _ = graphs_of(fails, state=[state], required=True)
    with pytest.raises(RecipeError, match=r"runtime\.cuda_graphs = 'yes' is not possible here: operation not"):
        required.run("a", function, torch.tensor(1.0))


RECORDED = {
    name: RESUMABLE[name]
    for name in (
        "plain",
        "adam with averaging",
        "perturbed",
        "muon and lookahead over a whitening stem",
        "all together",
        "originals concatenated",
        "mixup until halfway",
        "ricap on smaller images",
        "augmix's consistency",
        "whitening, bias frozen before the stop",
        "stochastic depth",
    )
}


@pytest.mark.parametrize("sections", RECORDED.values(), ids=RECORDED.keys())
def test_a_training_from_static_memory_equals_the_plain_one_bit_for_bit(
    out: Path, monkeypatch: pytest.MonkeyPatch, sections: dict[str, Any]
) -> None:
    recipe = tiny_recipe(**sections)
    plain = run(recipe, out / "plain")
    counted: list[Graphs] = []

    def graphs(self: loop._Run, runtime: runtimes.Runtime) -> Graphs:
        counted.append(Graphs(CPU, 20, lambda: list(self.network.buffers()), self._note, recorder=again))
        return counted[0]

    monkeypatch.setattr(loop._Run, "_graphs", graphs)
    recorded = run(recipe, out / "recorded")
    assert len(counted[0]) >= 2  # batch and gradient
    assert timeless(recorded.read_history()) == timeless(plain.read_history())
    for which in ("selected", "last"):
        expected, found = plain.read_weights(which), recorded.read_weights(which)
        assert all(torch.equal(expected[name], found[name]) for name in expected)


AUGMENTED: dict[str, dict[str, Any]] = {
    "flips and crops": {},
    "alternating flip": {"ops": [{"op": "alternating_flip"}, {"op": "padded_crop", "pad_px": 2, "padding": "reflect"}]},
    "originals and copies": {"concatenate_originals": True},
    "geometry": {
        "ops": [
            {"op": "rotation", "degrees": 10, "interpolation": "nearest"},
            {"op": "affine", "translate": 0.1, "interpolation": "bilinear"},
            {"op": "random_resized_crop"},
            {"op": "vertical_flip"},
        ]
    },
    "colour": {
        "ops": [
            {"op": "color_jitter", "brightness": 0.2, "contrast": 0.2, "saturation": 0.2, "hue": 0.1},
            {"op": "gaussian_blur", "kernel_px": 3, "probability": 0.5},
            {"op": "cutout", "side_px": 4},
        ]
    },
    "trivial augment, mixup": {"ops": [{"op": "trivial_augment"}], "mix": {"name": "mixup"}},
    "rand augment, cutmix": {"ops": [{"op": "rand_augment"}], "mix": {"name": "cutmix", "probability": 0.5}},
    "ricap": {"mix": {"name": "ricap"}},
    "augmix": {"ops": [{"op": "augmix", "depth": 2}]},
    "augmix with copies": {"ops": [{"op": "horizontal_flip"}, {"op": "augmix"}], "consistency_weight": 12.0},
}


def batches_of(recipe: RecipeConfig) -> Batches:
    data = prepare(TinySource(), recipe.data, recipe.training.selection, 0)
    return Batches(recipe, data, runtimes.resolve(recipe.runtime))


@pytest.mark.parametrize("augment", AUGMENTED.values(), ids=AUGMENTED.keys())
def test_a_batch_that_is_recorded_once_is_right_in_every_later_step_and_epoch(
    monkeypatch: pytest.MonkeyPatch, augment: dict[str, Any]
) -> None:
    # On a GPU each random operation runs on the whole batch.
    whole = functools.partial(random_operations.apply_operations, whole_batch=True)
    monkeypatch.setattr(random_operations, "apply_operations", whole)
    recipe = tiny_recipe(augment=augment, training={"progressive": [{"side_px": 12, "until": 0.75}]})
    batches = batches_of(recipe)

    def make(*raw: Tensor) -> tuple[Tensor, ...]:
        images, labels = batches.make(12, Raw(**dict(zip(given, raw, strict=True))))
        return (images, labels) if isinstance(labels, Tensor) else (images, labels.labels, labels.weights)

    first = batches.raw(batches.epoch(1), 0)
    given = [name for name, tensor in zip(Raw._fields, first, strict=True) if tensor is not None]
    traced = make_fx(make)(*(tensor for tensor in first if tensor is not None))
    for number, step in ((1, 0), (1, 2), (2, 1), (3, 0)):
        raw = [tensor for tensor in batches.raw(batches.epoch(number), step) if tensor is not None]
        for found, wanted in zip(traced(*raw), make(*raw), strict=True):
            assert torch.equal(found, wanted)
