"""Taking turns, medians, results that can be gone on with, and processes that are timed from outside."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from benchmarks.common import OutOfTime, Store, Worker, alternate, geometric_mean, median_ratio, timed_command

from benchmarks import common
from thriftnet.errors import ThriftnetError, UserError

HERE = {"device_name": "A CPU", "cores": 2, "packages": {"torch": "2.13.0"}}


def store(path: Path, again: bool = False, rounds: int = 3, **machine: object) -> Store:
    return Store(path, "a benchmark", {"rounds": rounds}, again, HERE | machine)


def refuse() -> dict[str, object]:
    raise AssertionError("a finished row was measured again")


def test_sides_take_turns_and_change_who_is_first():
    calls = []
    sides = {name: lambda name=name: float(calls.append(name) or len(calls)) for name in ("a", "b", "c")}
    values = alternate(sides, 3)
    assert "".join(calls) == "abccbaabc"
    assert values == {"a": [1.0, 6.0, 7.0], "b": [2.0, 5.0, 8.0], "c": [3.0, 4.0, 9.0]}


def test_ratios_are_taken_round_by_round():
    assert median_ratio([2, 9, 4], [1, 3, 4]) == 2
    assert geometric_mean([2, 8]) == pytest.approx(4)


def test_a_finished_row_is_not_measured_again(tmp_path: Path):
    path = tmp_path / "results" / "a.json"
    assert store(path).row("one", lambda: {"images_per_s": 5})["images_per_s"] == 5
    resumed = store(path)
    assert resumed.finished("one")
    assert not resumed.finished("two")
    assert resumed.row("one", refuse)["images_per_s"] == 5
    resumed.row("two", lambda: {"images_per_s": 7})
    assert list(store(path).rows) == ["one", "two"]


def test_other_settings_and_again_measure_anew(tmp_path: Path):
    path = tmp_path / "a.json"
    store(path).row("one", lambda: {"value": 1})
    assert not store(path, rounds=4).finished("one")
    again = store(path, again=True)
    assert again.row("one", lambda: {"value": 2})["value"] == 2
    assert again.row("one", refuse)["value"] == 2  # once a call is enough


def test_rows_of_another_machine_are_never_mixed_in(tmp_path: Path):
    path = tmp_path / "a.json"
    store(path).row("one", lambda: {"value": 1})
    with pytest.raises(UserError, match=r"measured on A CPU, 2 cores, torch 2\.13\.0, not on B CPU.*--out.*--again"):
        store(path, device_name="B CPU")
    assert store(path, again=True, device_name="B CPU").rows == {}


def test_a_failed_measurement_leaves_the_file_as_it_was(tmp_path: Path):
    path = tmp_path / "a.json"
    store(path).row("one", lambda: {"value": 1})
    before = path.read_bytes()
    with pytest.raises(AssertionError):
        store(path).row("two", refuse)
    assert path.read_bytes() == before


def test_the_file_says_where_when_and_how(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "argv", ["/a/place/benchmarks/memory.py", "--steps", "3"])
    path = tmp_path / "a.json"
    described = common.environment()
    Store(path, "a benchmark", {"rounds": 1}, environment=described).row("one", lambda: {"value": 1})
    stored = json.loads(path.read_text(encoding="utf-8"))
    assert stored["benchmark"] == "a benchmark"
    assert stored["command"] == "python -m benchmarks.memory --steps 3"
    assert {"device", "device_name", "precision", "channels_last", "threads", "cores", "git_commit", "packages"} <= set(
        stored["environment"]
    )
    assert {"torch", "numpy", "pillow"} <= set(stored["environment"]["packages"])
    assert stored["written_at"].endswith("+00:00")
    row = stored["rows"]["one"]
    assert row["settings"] == {"rounds": 1}
    assert row["measured_at"] <= stored["written_at"]
    assert row["git_commit"] == stored["environment"]["git_commit"]


def test_the_stored_command_names_no_place():
    told = common.command_line(["/a/place/benchmarks/memory.py", "--out", "/a/place/x.json", "--steps", "3"])
    assert told == "python -m benchmarks.memory --out x.json --steps 3"


def test_a_command_is_timed_from_outside():
    busy = "import json; sum(range(3_000_000)); print('progress'); print(json.dumps({'accuracy': 0.9}))"
    answer, spent = timed_command([sys.executable, "-c", busy])
    assert answer == {"accuracy": 0.9}
    assert spent["wall_s"] > 0
    assert spent["cpu_s"] > 0


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ('print(\'{"error": "no such recipe"}\'); raise SystemExit(2)', "no such recipe"),
        ("print('{}'); raise SystemExit(3)", "status 3"),
        ("print('done')", "no JSON object"),
        ("pass", "no JSON object"),
    ],
)
def test_a_command_that_fails_is_one_sentence(code: str, message: str):
    with pytest.raises(ThriftnetError, match=message):
        timed_command([sys.executable, "-c", code])


def test_a_command_that_takes_too_long_is_stopped():
    with pytest.raises(OutOfTime, match="stopped after"):
        timed_command([sys.executable, "-c", "import time; time.sleep(60)"], limit_s=0.3)


def test_a_worker_answers_every_round_and_leaves_when_nobody_asks():
    with Worker("tests.benchmarks.a_worker", {"start": 4}) as worker:
        assert worker.ready == {"warm": True}
        assert [worker.round() for _ in range(3)] == [{"value": 5}, {"value": 6}, {"value": 7}]
    assert worker.process.returncode == 0


def test_an_error_in_a_worker_reaches_the_parent():
    with pytest.raises(ThriftnetError, match="start = -1 is below zero"):
        Worker("tests.benchmarks.a_worker", {"start": -1})


@pytest.mark.parametrize(("seconds", "text"), [(40, "40 s"), (720, "12 min"), (12_000, "3 h 20 min")])
def test_durations_read_well(seconds: float, text: str):
    assert common.duration(seconds) == text
