"""The script of the full-length trainings, with a tiny recipe and the made-up papers of the ledger's tests."""

from __future__ import annotations

import importlib.util
import json
import shutil
import sys
from pathlib import Path
from types import ModuleType

import pytest

from tests.conftest import write_tiny_data
from tests.ledger.conftest import make_bench
from tests.training.conftest import tiny_recipe
from thriftnet import recipe as recipes


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script as a module, in the number of threads that this process has."""
    path = Path(__file__).parents[2] / "scripts" / "full_length.py"
    spec = importlib.util.spec_from_file_location("full_length", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "full_length", module)
    spec.loader.exec_module(module)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return module


def test_our_recipes_are_trained_measured_both_ways_and_stored_once(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe, data = tmp_path / "tiny.toml", tmp_path / "tiny.npz"
    recipe.write_text(recipes.to_toml(tiny_recipe()), encoding="utf-8")
    write_tiny_data(data)
    monkeypatch.setattr(script, "TASKS", (script.Task(str(recipe), seeds=2, ours=True),))
    words = [
        "--data",
        str(data),
        "--out",
        str(tmp_path / "runs"),
        "--store",
        str(tmp_path / "stored"),
        "--threads",
        "1",
    ]
    script.main(words)
    assert capsys.readouterr().out.endswith("everything is there\n")
    for seed in (0, 1):
        kept = tmp_path / "stored" / "tiny" / f"seed-{seed}"
        assert json.loads((kept / "result.json").read_text())["seed"] == seed
        measured = [
            json.loads((kept / f"evaluation-test{views}.json").read_text()) for views in ("", "-tta-flip_shift")
        ]
        assert [each["tta"] for each in measured] == ["none", "flip_shift"]
        assert measured[0]["data"]["location"] == "tiny.npz"
        assert not any(str(tmp_path) in path.read_text() for path in kept.glob("*.json"))
        assert (kept / "curves.png").exists()
    # The runs may be gone with their machine: what is stored is not trained again.
    shutil.rmtree(tmp_path / "runs")
    script.main(words)
    assert not (tmp_path / "runs").exists()


def test_a_papers_rows_are_stored_with_their_ledger_which_stands_for_them_later(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    bench = make_bench(tmp_path)
    monkeypatch.setattr("thriftnet.api.load_claims", lambda path: bench.claims)
    monkeypatch.setattr(script, "TASKS", (script.Task("two"),))
    words = ["--data", str(tmp_path / "tiny.npz"), "--out", str(tmp_path / "runs"), "--threads", "1"]
    words += ["--store", str(tmp_path / "stored")]
    script.main(words)
    (evaluation,) = (tmp_path / "stored").glob("*/seed-0/evaluation-test.json")
    first = json.loads((tmp_path / "stored" / "ledger.json").read_text())["rows"]["two-final"]
    assert first["measured"]["value"] == pytest.approx(100 * json.loads(evaluation.read_text())["accuracy"])
    shutil.rmtree(tmp_path / "runs")
    script.main(words)
    assert not list((tmp_path / "runs" / "ledger" / "runs").glob("*"))
    assert (
        json.loads((tmp_path / "stored" / "ledger.json").read_text())["rows"]["two-final"]["measured"]
        == first["measured"]
    )
