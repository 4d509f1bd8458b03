"""Compiling is tried first, with a stand-in for torch.compile, which takes half a minute; what it leaves behind."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.training.conftest import tiny_recipe
from tests.training.test_loop import run, timeless
from thriftnet.config import RuntimeConfig
from thriftnet.errors import RecipeError
from thriftnet.runtime import resolve
from thriftnet.training.compiled import compiled

CPU = resolve(RuntimeConfig(device="cpu", precision="fp32", threads=1, kernels="no"))
SHAPE = (4, 3, 8, 8)


class Translated(nn.Module):
    """Runs `network`; counts its calls."""

    def __init__(self, network: nn.Module, error: Exception | None = None) -> None:
        super().__init__()
        self.network, self.error, self.calls = network, error, 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        outputs: Tensor = self.network(x)
        if self.error is not None:
            raise self.error
        return outputs


def network() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5), nn.Flatten(), nn.Linear(144, 3))


def test_the_trial_leaves_no_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", lambda network, dynamic: Translated(network))
    model = network()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    torch.manual_seed(1)
    wanted = torch.rand(3)
    torch.manual_seed(1)
    found, line = compiled(model, CPU, SHAPE, required=False)
    assert isinstance(found, Translated)
    assert found.calls == 1
    assert line.startswith("the network was compiled in ")
    assert torch.equal(torch.rand(3), wanted)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_compiler_that_fails_is_said_and_trained_without(monkeypatch: pytest.MonkeyPatch) -> None:
    error = ValueError("no such instruction\nmore")
    monkeypatch.setattr(torch, "compile", lambda network, dynamic: Translated(network, error))
    model = network()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    assert compiled(model, CPU, SHAPE, required=False) == (
        None,
        "torch.compile off, training is slower: no such instruction",
    )
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    with pytest.raises(RecipeError, match=r"runtime\.compile = 'yes' is not possible here: no such instruction; set"):
        compiled(model, CPU, SHAPE, required=True)


@pytest.mark.parametrize(
    "sections",
    [
        {"training": {"ema_decay": 0.9}},
        {"lookahead": {"steps": 3}, "perturbation": {"name": "sam", "batchnorm": "first_pass"}},
    ],
)
def test_a_training_of_the_translated_network_is_the_same(
    monkeypatch: pytest.MonkeyPatch, out: Path, sections: dict[str, Any]
) -> None:
    made: list[Translated] = []

    def translate(network: nn.Module, dynamic: bool) -> Translated:
        made.append(Translated(network))
        return made[0]

    monkeypatch.setattr(torch, "compile", translate)
    runtime = {"device": "cpu", "precision": "fp32", "threads": 1, "kernels": "no"}
    plain = run(tiny_recipe(**sections, runtime=runtime), out / "plain")
    folder = run(tiny_recipe(**sections, runtime=runtime | {"compile": "yes"}), out / "compiled")
    assert made[0].calls > 16
    assert timeless(folder.read_history()) == timeless(plain.read_history())
    assert folder.read_json("environment.json")["compile"] is True
    events = [json.loads(line) for line in (out / "compiled" / "events.jsonl").read_text().splitlines()]
    assert any(event.get("reason", "").startswith("the network was compiled in ") for event in events)
