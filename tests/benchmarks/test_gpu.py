"""The plan of the GPU benchmark: order, limits and going on, with steps that only pretend to take time."""

from __future__ import annotations

import os
import signal
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest
from benchmarks.common import OutOfTime, Store
from benchmarks.gpu import Step, run_plan

from benchmarks import gpu
from tests.benchmarks.test_common import HERE
from tests.conftest import write_tiny_data
from tests.training.conftest import tiny_recipe
from thriftnet import recipe as recipes
from thriftnet.errors import ThriftnetError, UserError
from thriftnet.models.build import count_parameters
from thriftnet.training.progress import SilentDisplay

OPTIONS = Namespace(data="cifar", tta="none", full=False, runs=Path("runs"))


class Clock:
    """Time that passes only while a step runs."""

    def __init__(self) -> None:
        self.now = 0.0
        self.run: list[str] = []

    def step(self, key: str, takes_s: float, estimate_s: float | None = None, row: Any = None) -> Step:
        def work(left_s: float) -> Any:
            self.run.append(key)
            if takes_s > left_s:
                self.now += left_s
                raise OutOfTime("stopped after 100 s")
            self.now += takes_s
            if isinstance(row, ThriftnetError):
                raise row
            return {"takes_s": takes_s} if row is None else row

        return Step(key, takes_s if estimate_s is None else estimate_s, work)

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "gpu.json"


def open_store(path: Path) -> Store:
    return Store(path, "one GPU", {}, False, HERE)


def test_steps_run_in_order_until_the_next_does_not_fit(path: Path):
    clock = Clock()
    steps = [clock.step(key, 40) for key in "abcd"]
    assert run_plan(steps, open_store(path), 100, clock) == 2
    assert clock.run == ["a", "b"]
    assert run_plan(steps, open_store(path), 100, clock) == 0
    assert clock.run == ["a", "b", "c", "d"]
    assert run_plan(steps, open_store(path), 100, clock) == 0
    assert clock.run == ["a", "b", "c", "d"]
    assert set(open_store(path).rows) == set("abcd")


def test_the_first_step_always_begins(path: Path):
    clock = Clock()
    assert run_plan([clock.step("a", 50, estimate_s=1_000), clock.step("b", 10)], open_store(path), 100, clock) == 0
    assert clock.run == ["a", "b"]


def test_what_runs_out_of_time_comes_first_at_the_next_call(path: Path):
    clock = Clock()
    steps = [clock.step("a", 60), clock.step("b", 80, estimate_s=30), clock.step("c", 10)]
    assert run_plan(steps, open_store(path), 100, clock) == 2
    assert run_plan(steps, open_store(path), 100, clock) == 0
    assert clock.run == ["a", "b", "b", "c"]
    assert "failed" not in open_store(path).rows["b"]


def test_what_never_fits_is_stored_as_failed_and_the_others_get_their_turn(path: Path):
    clock = Clock()
    steps = [clock.step("a", 500, estimate_s=30), clock.step("b", 10)]
    assert run_plan(steps, open_store(path), 100, clock) == 1
    assert open_store(path).rows["a"]["failed"] == "stopped after 100 s"
    assert run_plan(steps, open_store(path), 100, clock) == 0
    assert clock.run == ["a", "b"]


def test_a_failing_step_is_recorded(path: Path):
    clock = Clock()
    steps = [clock.step("a", 1, row=ThriftnetError("no compiler")), clock.step("b", 1)]
    assert run_plan(steps, open_store(path), 100, clock) == 0
    assert open_store(path).rows["a"]["failed"] == "no compiler"
    assert gpu.describe("a", open_store(path).rows["a"]) == "failed: no compiler"


def test_a_step_in_pieces_goes_on_at_the_next_call(path: Path):
    clock = Clock()
    answers: list[Any] = [None, None, {"whole": True}]
    step = Step("a", 10, lambda left_s: answers.pop(0))
    assert [run_plan([step], open_store(path), 100, clock) for _ in range(3)] == [1, 1, 0]
    assert open_store(path).rows["a"]["whole"] is True


def test_the_most_telling_steps_come_first():
    steps, reasons = gpu.plan(OPTIONS, ["fast", "best"])
    keys = [step.key for step in steps]
    assert reasons == []
    assert keys[0] == "tests: the GPU path"
    assert keys[1:5] == ["fast, cold, seed 0", "fast, warm, seed 0", "full: liu-4x2", "best, cold, seed 0"]
    assert keys.index("throughput: liu-4x2, eager") < keys.index("fast, warm, seed 1") < keys.index("epochs: liu-4x2")
    assert "baseline: liu-4x2" in keys
    peer = keys.index("full: preactivation-20x4-ricap")
    assert keys.index("best, warm, seed 2") < peer < keys.index("epochs: liu-4x2")
    assert "baseline: fast" not in keys  # it has no tutorial-style form
    assert len(set(keys)) == len(keys)
    assert all(step.estimate_s < 600 for step in steps)


def test_a_recipe_that_is_not_there_is_left_out_with_a_reason():
    steps, reasons = gpu.plan(OPTIONS, ["fast"])
    assert reasons == ["best is left out: there is no recipe of that name yet"]
    assert not any(step.key.startswith("best") for step in steps)


def test_the_peers_of_best_have_the_parameters_of_their_authors():
    counts = {peer.stem: count_parameters(recipes.load(str(peer)).model) for peer in gpu.PEERS}
    without_the_stems_gate = 4_697_742 - 580
    assert counts == {"efficient-resnet": without_the_stems_gate, "preactivation-20x4-ricap": 4_326_986}


def test_full_runs_are_asked_for():
    assert [step.key for step in gpu.plan(OPTIONS, [])[0] if step.key.startswith("full")] == ["full: liu-4x2"]
    full, _ = gpu.plan(Namespace(**vars(OPTIONS) | {"full": True}), [])
    assert sum(step.key.startswith("full: ") for step in full) == 19


def test_without_a_gpu_it_says_so_in_one_sentence(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("sys.argv", ["gpu", "--data", "digits"])
    with pytest.raises(UserError, match="needs a CUDA GPU and torch sees none here"):
        gpu.main()


def test_a_dry_run_needs_no_gpu(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setattr("sys.argv", ["gpu", "--dry-run"])
    gpu.main()
    assert "throughput: liu-4x2, compiled" in capsys.readouterr().out


def test_a_whole_run_is_extrapolated_from_measured_epochs(tmp_path: Path):
    found = gpu.first_epochs({"recipe": str(tiny_toml(tmp_path)), "data": str(tiny_npz(tmp_path))}, tmp_path / "run")
    assert len(found["epochs_s"]) == gpu.MEASURED_EPOCHS
    assert found["extrapolated"] is True
    each_s = sum(sorted(found["epochs_s"][1:])) / 2
    assert found["whole_run_s"] == pytest.approx(found["start_s"] + found["epochs_s"][0] + 11 * each_s)


class StoppedAfterThree(SilentDisplay):
    """The signal that ends a piece of a whole run comes in the third epoch."""

    def epoch(self, row: dict[str, Any], selected: bool) -> None:
        if row["epoch"] == 3:
            os.kill(os.getpid(), signal.SIGINT)


def test_a_whole_run_goes_on_from_where_it_was_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    arguments = {"recipe": str(tiny_toml(tmp_path)), "data": str(tiny_npz(tmp_path)), "folder": str(tmp_path / "run")}
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "recipe.toml").touch()  # an earlier piece was killed before its first epoch was saved
    with monkeypatch.context() as patch:
        patch.setattr(gpu, "SilentDisplay", StoppedAfterThree)
        assert gpu.whole_run(arguments | {"limit_s": 100.0}) == {"unfinished": True, "new_epochs": 3}
    done = gpu.whole_run(arguments | {"limit_s": 100.0})
    assert done["epochs"] == 12
    assert done["extrapolated"] is False
    assert set(done["used"]["seconds"]) == {"evaluate", "report", "predict"}
    assert done["used"]["predicted"] == 90
    assert done["used"]["right"] == round(90 * done["accuracy"])
    assert done["used"]["report_bytes"] > 10_000
    assert 0 <= done["accuracy"] <= 1


def test_throughput_of_a_network(tmp_path: Path):
    asked = {"recipe": str(tiny_toml(tmp_path)), "variant": "eager", "device": "cpu", "steps": 2}
    found = gpu.throughput(asked)
    assert len(found["all_images_per_s"]) == gpu.THROUGHPUT_ROUNDS
    assert found["seconds_an_epoch"] == pytest.approx(50_000 / found["images_per_s"])
    assert "images/s" in gpu.describe("", found)


def test_the_baseline_takes_its_best_number_of_workers(tmp_path: Path):
    asked = {"recipe": "liu-4x2", "device": "cpu", "steps": 1, "images": 300, "workers": [0, 1]}
    found = gpu.baseline(asked)
    assert set(found["all_images_per_s"]) == {0, 1}
    assert found["images_per_s"] == max(found["all_images_per_s"].values())
    assert found["seconds_an_epoch"] == pytest.approx(50_000 / found["images_per_s"])
    assert gpu.worker_counts(16) == [2, 15]
    assert gpu.worker_counts(2) == [2]


def test_tests_are_counted_and_failures_kept(tmp_path: Path):
    path = tmp_path / "test_three.py"
    path.write_text(
        "import pytest\n"
        "def test_good(): pass\n"
        "def test_bad(): assert 1 == 2, 'as expected'\n"
        "@pytest.mark.skip\n"
        "def test_left_out(): pass\n"
    )
    found = gpu.child("benchmarks.gpu", {"what": "tests", "tests": [str(path)]})[0]
    assert found["tests"] == {"passed": 1, "failed": 1, "skipped": 1}
    assert "as expected" in found["failures"][0]
    assert gpu.describe("", found) == "1 passed, 1 failed (test_bad)"


def test_ratios_are_those_of_the_best_variant():
    rows = {
        "throughput: liu-4x2, graphs": {"images_per_s": 400.0},
        "throughput: liu-4x2, eager": {"images_per_s": 200.0},
        "throughput: liu-4x2, compiled": {"failed": "no compiler"},
        "baseline: liu-4x2": {"images_per_s": 100.0},
        "baseline: li-resnet": {"images_per_s": 100.0},
    }
    found = gpu.ratios(rows)
    assert found["to_the_baseline"] == {"liu-4x2": {"variant": "graphs", "ratio": 4.0}}
    assert found["geometric_mean_ratio"] == pytest.approx(4)
    assert gpu.ratios({}) == {}


def tiny_toml(folder: Path) -> Path:
    path = folder / "tiny.toml"
    path.write_text(recipes.to_toml(tiny_recipe(training={"epochs": 12})), encoding="utf-8")
    return path


def tiny_npz(folder: Path) -> Path:
    path = folder / "tiny.npz"
    write_tiny_data(path)
    return path
