"""Real worker processes: killed, stopped, never more than their share of the cores, never left behind."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.training.conftest import tiny_recipe
from tests.tuning.conftest import GRID, Place, results
from thriftnet import recipe as recipes
from thriftnet.data.dataset import LabelledImages
from thriftnet.data.npz import NpzSource
from thriftnet.errors import Interrupted, ProcessLostError, StudyError, ThriftnetError
from thriftnet.training.interruption import StopRequest
from thriftnet.training.run_folder import RunFolder
from thriftnet.tuning import engines
from thriftnet.tuning.engines import LocalWorker, Pool, Worker, local_pool
from thriftnet.tuning.study import Search
from thriftnet.tuning.trial import Job

# Long enough that a worker can be met in the middle of a trial.
LONG = GRID + "[overrides]\ntraining.epochs = 8\n"


class Watched(LocalWorker):
    """Does something when it has said that it trained an epoch of a trial."""

    def __init__(self, log: Path, at_epoch: Callable[[Watched, int], None]) -> None:
        super().__init__(log, threads=1)
        self.at_epoch = at_epoch
        self.told: dict[str, Any] = {}

    def send(self, message: dict[str, Any]) -> None:
        self.told = message if "number" in message else self.told
        super().send(message)

    def messages(self) -> list[dict[str, Any]]:
        said = super().messages()
        for message in said:
            if message["kind"] == "epoch":
                self.at_epoch(self, message["epoch"])
        return said


def events(place: Place, number: int) -> str:
    return (place.out / "trials" / f"{number:04d}" / "events.jsonl").read_text()


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except OSError:
        return False


def test_killed_and_sleeping_workers_are_replaced_once_and_counted_never(place: Place) -> None:
    """Trial 0's worker is killed; trial 1's is stopped, cannot be killed, and wakes when another has its trial."""
    met: dict[str, Any] = {"killed": 0, "stopped": None, "woken": False}

    def meet(worker: Watched, epoch: int) -> None:
        number = worker.told["number"]
        if number == 0 and epoch == 2 and not met["killed"]:
            met["killed"] = worker.process.pid
            os.kill(worker.process.pid, signal.SIGKILL)
        if number == 1 and met["stopped"] is None:
            met["stopped"] = worker
            os.kill(worker.process.pid, signal.SIGSTOP)
            worker.kill = lambda: None  # type: ignore[method-assign]  # as on a machine that cannot be reached
        elif number == 1 and met["stopped"] is not worker and not met["woken"]:
            met["woken"] = True
            os.kill(met["stopped"].process.pid, signal.SIGCONT)

    with place.search(LONG) as search:
        pool = Pool(
            search,
            StopRequest(),
            lambda number: Watched(place.out / "logs" / f"worker-{number}.log", meet),
            size=2,
            lease_s=4.0,
        )
        pool.run()
        found = results(search)
        stopped = met["stopped"].process
        try:
            stopped.stdin.close()
            assert stopped.wait(timeout=30) is not None  # it has found its folder gone or nobody listening
        finally:
            stopped.kill()
        assert [state for state, _ in found.values()] == ["COMPLETE"] * 4
        assert search.finished() == len(search.trials()) == search.planned == 4
        assert search.next_job() is None
    assert met["killed"]
    assert met["woken"]
    assert sum("was killed by signal 9" in line for line in place.said) == 1
    assert sum("was silent for 4 s" in line for line in place.said) == 1
    assert sorted(path.name for path in (place.out / "trials").iterdir()) == ["0000", "0001", "0002", "0003"]
    for number in range(4):
        folder = RunFolder(place.out / "trials" / f"{number:04d}")
        assert folder.read_json("result.json")["status"] == "completed"
        assert [row["epoch"] for row in folder.read_history()] == list(range(1, 9))
    # Run again from what was saved, once.
    assert [events(place, number).count('"started"') for number in range(4)] == [1] * 4
    assert events(place, 0).count('"resumed"') == 1


def test_the_median_pruner_stops_a_trial_in_a_worker(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its decision goes to another process; it once had a type that could not."""
    report = Search.report

    def worse_than_before(self: Search, job: Job, epoch: int, value: float) -> bool:
        return report(self, job, epoch, -float(job.number))

    monkeypatch.setattr(Search, "report", worse_than_before)
    text = GRID + '[overrides]\ntraining.epochs = 4\n[pruning]\nname = "median"\nstartup_trials = 1\n'
    with place.search(text) as search:
        local_pool(search, StopRequest(), 1, 30.0).run()
        assert [trial.state.name for trial in search.trials()] == ["COMPLETE", "PRUNED", "PRUNED", "PRUNED"]
        assert [trial.user_attrs["facts"]["epochs"] for trial in search.trials()] == [4, 1, 1, 1]


def test_a_signal_ends_all_workers_and_the_study_goes_on(place: Place) -> None:
    request = StopRequest()
    workers: list[Watched] = []

    def stop(worker: Watched, epoch: int) -> None:
        request.signal_number = signal.SIGTERM

    def start(number: int) -> Worker:
        workers.append(Watched(place.out / "logs" / f"worker-{number}.log", stop))
        return workers[-1]

    with place.search(LONG) as search:
        began = time.monotonic()
        with pytest.raises(Interrupted):
            Pool(search, request, start, size=2).run()
        assert search.finished() < 4
    assert time.monotonic() - began < 60
    assert workers
    assert not any(alive(worker.process.pid) for worker in workers)
    found = place.run(LONG)
    assert [state for state, _ in found.values()] == ["COMPLETE"] * 4
    for number in range(4):
        assert [row["epoch"] for row in RunFolder(place.out / "trials" / f"{number:04d}").read_history()] == list(
            range(1, 9)
        )
    assert any('"resumed"' in events(place, number) for number in range(4))


def test_the_cores_are_divided_and_never_shared_twice(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "available_cores", lambda: 5)
    started: list[int] = []

    class Noted(LocalWorker):
        def __init__(self, log: Path, threads: int) -> None:
            started.append(threads)

    monkeypatch.setattr(engines, "LocalWorker", Noted)
    text = GRID + '[overrides]\nruntime.threads = "auto"\n'
    with place.search(text) as search:
        for workers, threads in ((1, 5), (2, 2), (3, 1), (5, 1)):
            local_pool(search, StopRequest(), workers).start(0)
            assert started.pop() == threads
            assert workers * threads <= 5
        with pytest.raises(StudyError, match="--workers 6 would share 5 cores, less than one each; give at most 5"):
            local_pool(search, StopRequest(), 6)


def test_a_recipe_that_wants_more_threads_than_its_share_is_refused(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engines, "available_cores", lambda: 4)
    with place.search(GRID + "[overrides]\nruntime.threads = 3\n") as search:
        local_pool(search, StopRequest(), 1)
        with pytest.raises(StudyError, match=r"runtime\.threads = 3, but each worker has 2"):
            local_pool(search, StopRequest(), 2)


def test_a_worker_has_its_threads_and_never_outlives_its_master(tmp_path: Path) -> None:
    worker = LocalWorker(tmp_path / "worker.log", threads=3)
    try:
        said: list[dict[str, Any]] = []
        deadline = time.monotonic() + 60
        while not any(message["kind"] == "ready" for message in said):
            assert time.monotonic() < deadline
            said += worker.messages()
            time.sleep(0.05)
        assert [message["threads"] for message in said if message["kind"] == "ready"] == ["3"]
        environment = Path(f"/proc/{worker.process.pid}/environ").read_bytes().split(b"\0")
        assert {b"OMP_NUM_THREADS=3", b"MKL_NUM_THREADS=3"} <= set(environment)
        assert worker.ended() is None
        assert worker.process.stdin is not None
        worker.process.stdin.close()  # all that is left of a master that was killed
        assert worker.process.wait(timeout=20) == 0
    finally:
        worker.kill()


class FakeWorker:
    """Says what it is told to, without a process."""

    def __init__(self, said: list[dict[str, Any]], ended: str | None = None) -> None:
        self.said, self.end, self.killed = said, ended, False

    def messages(self) -> list[dict[str, Any]]:
        said, self.said = self.said, []
        return said

    def send(self, message: dict[str, Any]) -> None:
        pass

    def ended(self) -> str | None:
        return self.end if not self.killed else "was killed"

    def terminate(self) -> None:
        self.killed = True

    def kill(self) -> None:
        self.killed = True


def pool_of(search: Search, worker: FakeWorker) -> Pool:
    return Pool(search, StopRequest(), lambda number: worker, size=1)


def test_workers_that_cannot_start_are_an_error_not_a_loop(place: Place) -> None:
    with (
        place.search(GRID) as search,
        pytest.raises(
            ProcessLostError, match=r"a worker ended with exit status 1 before it could work; .*logs may say more; give"
        ),
    ):
        pool_of(search, FakeWorker([], "ended with exit status 1")).run()
    assert len(place.run(GRID)) == 4


def test_an_error_that_every_trial_would_meet_ends_the_study(place: Place) -> None:
    worker = FakeWorker([{"kind": "ready"}])

    def send(message: dict[str, Any]) -> None:
        worker.said.append({"kind": "error", "message": "the disk is full", "exit_status": 1})

    worker.send = send  # type: ignore[method-assign]
    with (
        place.search(GRID) as search,
        pytest.raises(ThriftnetError, match=r"trial 0: the disk is full; .*logs may say more"),
    ):
        pool_of(search, worker).run()
    assert worker.killed
    assert len(place.run(GRID)) == 4


def test_a_finished_study_starts_no_worker(place: Place) -> None:
    place.run(GRID)
    with place.search(GRID) as search:
        Pool(search, StopRequest(), lambda number: pytest.fail("started"), size=2).run()


def test_trials_in_one_process_read_the_data_once_and_the_next_study_reads_them_anew(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[Path] = []
    train = NpzSource.train

    def counted(source: NpzSource) -> LabelledImages:
        read.append(Path(source.location))
        return train(source)

    monkeypatch.setattr(NpzSource, "train", counted)
    assert len(place.run(GRID)) == 4
    assert len(read) == 1
    place.out.rename(place.folder / "first")
    assert len(place.run(GRID)) == 4
    assert len(read) == 2


def test_an_impossible_setting_fails_its_trial_alone_in_workers_too(place: Place) -> None:
    recipe = tiny_recipe(
        augment={"ops": [{"op": "padded_crop", "pad_px": 2, "padding": "reflect"}]}, training={"epochs": 1}
    )
    (place.folder / "tiny.toml").write_text(recipes.to_toml(recipe), encoding="utf-8")
    study = GRID.split("[space]")[0] + '[space]\n"augment.ops.0.pad_px" = { values = [16, 2] }\n'
    with place.search(study) as search:
        local_pool(search, StopRequest(), 1).run()
        assert [trial.state.name for trial in search.trials()] == ["FAIL", "COMPLETE"]
        assert "pad_px = 16" in search.trials()[0].user_attrs["facts"]["reason"]


def test_a_module_beside_the_study_is_not_imported(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    (place.folder / "torch.py").write_text("raise SystemExit('planted')\n", encoding="utf-8")
    monkeypatch.chdir(place.folder)
    with place.search(GRID) as search:
        local_pool(search, StopRequest(), 2).run()
        assert [trial.state.name for trial in search.trials()] == ["COMPLETE"] * 4
