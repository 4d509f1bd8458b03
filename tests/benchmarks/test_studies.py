"""One study by two engines, for real but tiny, and what the comparison says of it.

Ray's side is left to the benchmark: a second cluster beside that of tests/tuning would take its ports and its cores.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from benchmarks.common import Row

from benchmarks import studies
from tests.tuning.conftest import GRID, make_place


def row(wall_s: float, *objectives: float | None) -> Row:
    trials = [
        {
            "number": number,
            "state": "failed" if value is None else "completed",
            "setting": {"lr": number},
            "objective": value,
        }
        for number, value in enumerate(objectives)
    ]
    return {"wall_s": wall_s, "trials": trials}


def test_engines_are_compared_round_by_round_and_trial_by_trial() -> None:
    rows = {
        "process 0": row(10, 0.5, 0.7),
        "process 1": row(30, 0.5, 0.7),
        "processes 0": row(5, 0.5, 0.75),
        "processes 1": row(10, 0.5, None),
        "ray 0": row(20, 0.5, 0.7),
        "ray 1": row(20, 0.5, 0.7) | {"trials": row(0, 0.5, 0.7)["trials"][::-1]},
    }
    found = studies.compared(rows, rounds=2)
    assert found["processes"]["wall_s"] == 7.5
    assert found["processes"]["times_one_process"] == 2.5  # 10 / 5 and 30 / 10
    assert found["processes"]["completed"] == [2, 1]
    assert found["processes"]["largest_difference_of_objective"] == pytest.approx(0.05)
    assert found["process"]["same_trials"]
    assert not found["ray"]["same_trials"]


def test_a_study_by_two_engines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = make_place(tmp_path)
    (tmp_path / "study.toml").write_text(GRID, encoding="utf-8")
    out = tmp_path / "found.json"
    command = ["studies.py", str(tmp_path / "study.toml"), "--data", place.data, "--width", "1", "--rounds", "1"]
    monkeypatch.setattr(sys, "argv", [*command, "--out", str(out)])
    monkeypatch.delitem(studies.SIDES, "ray")
    studies.main()
    stored = json.loads(out.read_text(encoding="utf-8"))
    assert set(stored["rows"]) == {"process 0", "processes 0"}
    for found in stored["summary"].values():
        assert found["same_trials"]
        assert found["completed"] == [4]
        assert found["largest_difference_of_objective"] < 0.1
