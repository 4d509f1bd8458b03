"""On a CUDA GPU: nothing waits, graphs change nothing, a resume gives the same bits. Skipped where there is none.

Curves are compared with a tolerance of 1e-3 of the loss where another order of additions is expected, and without one
where the same kernels must run: resuming in deterministic mode.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.training.conftest import TinySource, tiny_recipe
from tests.training.test_graphs import AUGMENTED, batches_of
from tests.training.test_loop import RESUMABLE, StopAfter, run, timeless
from thriftnet import runtime as runtimes
from thriftnet.config import RecipeConfig
from thriftnet.data.prepare import prepare
from thriftnet.errors import Interrupted, NonFiniteLossError
from thriftnet.optim.build import CompositeOptimizer, set_rates
from thriftnet.training import batches as batches_module
from thriftnet.training import loop
from thriftnet.training.graphs import Graphs
from thriftnet.training.progress import Reading
from thriftnet.training.run_folder import RunFolder
from thriftnet.training.step import train_step

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")

GRAPHS = ["yes", "no"]
SOME = (
    "plain",
    "adam with averaging",
    "perturbed",
    "muon and lookahead over a whitening stem",
    "all together",
    "originals concatenated",
    "ricap on smaller images",
    "augmix's consistency",
    "whitening, bias frozen before the stop",
    "stochastic depth",
)
VARIED: dict[str, dict[str, Any]] = {name: RESUMABLE[name] for name in SOME}


@pytest.fixture(autouse=True)
def _arithmetic_as_before() -> Iterator[None]:
    yield
    torch.use_deterministic_algorithms(False)
    torch.backends.cudnn.deterministic = False


def on_gpu(sections: dict[str, Any], **values: Any) -> RecipeConfig:
    runtime = {"device": "cuda", "precision": "fp32", "compile": "no"} | values
    return tiny_recipe(**sections | {"runtime": runtime})


def losses(folder: RunFolder) -> list[float]:
    return [row[key] for row in folder.read_history() for key in ("train_loss", "validation_loss")]


def reasons(folder: RunFolder) -> list[str]:
    events = [json.loads(line) for line in (folder.path / "events.jsonl").read_text().splitlines()]
    return [event["reason"] for event in events if event["event"] == "automatic choice"]


@pytest.mark.parametrize("graphs", GRAPHS)
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_learns(out: Path, graphs: str, precision: str) -> None:
    folder = run(on_gpu({"training": {"epochs": 12}}, precision=precision, cuda_graphs=graphs), out)
    assert folder.read_json("result.json")["selected"]["validation_accuracy"] > 0.8
    assert folder.read_json("environment.json")["cuda_graphs"] == (graphs == "yes")


@pytest.mark.parametrize("sections", VARIED.values(), ids=VARIED.keys())
def test_graphs_give_the_curve_of_plain_steps(out: Path, sections: dict[str, Any]) -> None:
    recorded, plain = (run(on_gpu(sections, cuda_graphs=graphs, deterministic=True), out / graphs) for graphs in GRAPHS)
    assert losses(recorded) == pytest.approx(losses(plain), rel=1e-3)
    assert any(reason.startswith("CUDA graph 2 recorded") for reason in reasons(recorded))


@pytest.mark.parametrize("graphs", GRAPHS)
@pytest.mark.parametrize("sections", VARIED.values(), ids=VARIED.keys())
def test_resume_gives_the_uninterrupted_result_bit_for_bit(out: Path, sections: dict[str, Any], graphs: str) -> None:
    recipe = on_gpu(sections, cuda_graphs=graphs, deterministic=True)
    whole = run(recipe, out / "whole")
    with pytest.raises(Interrupted):
        run(recipe, out / "parts", display=StopAfter(2))
    parts = run(recipe, out / "parts", resume=True)
    assert timeless(parts.read_history()) == timeless(whole.read_history())
    for which in ("selected", "last"):
        expected, found = whole.read_weights(which), parts.read_weights(which)
        assert all(torch.equal(expected[name], found[name]) for name in expected)


def prepared(recipe: RecipeConfig, folder: Path) -> loop._Run:
    source = TinySource()
    data = prepare(source, recipe.data, recipe.training.selection, 0)
    return loop._Run(recipe, runtimes.resolve(recipe.runtime), data, source, RunFolder(folder))


WAITING = VARIED | {f"augment: {name}": {"augment": augment} for name, augment in AUGMENTED.items()}


@pytest.mark.parametrize("graphs", GRAPHS)
@pytest.mark.parametrize("name", WAITING)
def test_nothing_in_an_epoch_waits_for_the_gpu(out: Path, name: str, graphs: str) -> None:
    nothing_waits(on_gpu(WAITING[name], cuda_graphs=graphs, precision="bf16"), out)


@pytest.mark.parametrize("graphs", GRAPHS)
@pytest.mark.parametrize("name", ["all together", "originals concatenated"])
def test_neither_does_loss_scaling_nor_images_in_main_memory(
    monkeypatch: pytest.MonkeyPatch, out: Path, name: str, graphs: str
) -> None:
    monkeypatch.setattr(batches_module, "_free_memory", lambda device: 0)
    nothing_waits(on_gpu(WAITING[name], cuda_graphs=graphs, precision="fp16"), out)


def nothing_waits(recipe: RecipeConfig, out: Path) -> None:
    """The second epoch's steps under torch's own watch, which makes waiting an error."""
    out.mkdir()
    training = prepared(recipe, out)
    training.network.train()
    reading, learner = Reading(), training.learner
    step_number = 0

    def epoch(number: int) -> None:
        nonlocal step_number
        batches = training.batches.epoch(number)
        for step in range(batches.steps):
            images, labels = training._batch(batches, step)
            set_rates(learner.optimizer, training.schedule.lr(step_number), training.schedule.momentum(step_number))
            loss, correct = train_step(learner, images, labels, recipe.perturbation is not None, batches.size(step))
            reading.of(torch.stack([loss, correct.float(), learner.guard.found]))
            step_number += 1

    epoch(1)  # constants, kernels and recordings are made
    try:
        torch.cuda.set_sync_debug_mode("error")
        epoch(2)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    learner.guard.check()


@pytest.mark.parametrize("graphs", GRAPHS)
def test_a_non_finite_loss_is_found_and_nothing_of_it_saved(out: Path, graphs: str) -> None:
    recipe = on_gpu({"optimizer": {"lr": 1e30}, "schedule": {"name": "constant"}}, cuda_graphs=graphs)
    with pytest.raises(NonFiniteLossError, match=r"in epoch 1, step [23] of 4 .*the update was not made"):
        run(recipe, out)
    assert not (out / "resume.pt").exists()


def test_what_cannot_be_recorded_runs_without_and_the_gpu_goes_on() -> None:
    said: list[str] = []
    device = torch.device("cuda")

    def asks(x: Tensor) -> list[Tensor]:
        return [x * x.sum().item()]

    graphs = Graphs(device, 4, list, said.append)
    for _ in range(2):
        assert graphs.run("key", asks, torch.ones(2, device=device))[0].tolist() == [2, 2]
    assert len(said) == 1
    assert said[0].startswith("CUDA graphs off, training is slower: ")
    fresh = Graphs(device, 4, list, said.append)
    assert fresh.run("key", lambda x: [x + 1], torch.ones(2, device=device))[0].tolist() == [2, 2]


@pytest.mark.skipif(find_spec("triton") is None, reason="needs Triton")
@pytest.mark.parametrize("graphs", GRAPHS)
def test_a_compiled_network_gives_the_plain_curve(out: Path, graphs: str) -> None:
    sections = {"model": {"dropout": 0.0}, "perturbation": {"name": "sam", "start": 0.5, "batchnorm": "first_pass"}}
    plain = run(on_gpu(sections, cuda_graphs="no"), out / "plain")
    compiled = run(on_gpu(sections, cuda_graphs=graphs, compile="yes"), out / "compiled")
    assert losses(compiled) == pytest.approx(losses(plain), rel=1e-2)
    assert any(reason.startswith("the network was compiled in ") for reason in reasons(compiled))


@pytest.mark.parametrize("augment", AUGMENTED.values(), ids=AUGMENTED.keys())
def test_batches_are_those_of_a_cpu(augment: dict[str, Any]) -> None:
    there, here = batches_of(on_gpu({"augment": augment})), batches_of(tiny_recipe(augment=augment))
    for number in (1, 2):
        shown, wanted = (ours.batch(ours.epoch(number), 1)[0] for ours in (there, here))
        # A rounding at the border between two levels or pixels may fall the other way.
        assert ((shown.cpu() - wanted).abs() < 1e-3).double().mean() > 0.995


def test_images_in_main_memory_give_the_same_bits(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sections = {"augment": {"mix": {"name": "cutmix"}}}
    resident = run(on_gpu(sections, deterministic=True), out / "resident")
    monkeypatch.setattr(batches_module, "_free_memory", lambda device: 0)
    aside = run(on_gpu(sections, deterministic=True), out / "aside")
    assert any(reason.startswith("images stay in main memory") for reason in reasons(aside))
    assert losses(aside) == losses(resident)


def test_optimisers_are_fused(out: Path) -> None:
    for optimizer in ({"name": "sgd"}, {"name": "adam"}, {"name": "adamw"}):
        training = prepared(on_gpu({"optimizer": optimizer, "muon": {"lr": 0.02}}), out)
        assert isinstance(training.learner.optimizer, CompositeOptimizer)
        assert training.learner.optimizer.optimizers[0].defaults["fused"]
        assert training.learner.guard.deferred
