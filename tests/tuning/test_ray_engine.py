"""A study on a real Ray cluster of two nodes on this machine, started and ended here."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks import studies
from tests.conftest import Outcome, thriftnet
from tests.tuning.conftest import GRID, Place, results
from tests.tuning.test_run import COMMAND, command, shown
from thriftnet.errors import StudyError
from thriftnet.training.interruption import StopRequest, watch_signals
from thriftnet.training.run_folder import RunFolder
from thriftnet.tuning import ray_engine
from thriftnet.tuning.ray_engine import RayWorker, _threads_each, cluster, ray_pool

SHORT = GRID + "[overrides]\ntraining.epochs = 4\n"


@pytest.fixture(scope="module")
def two_nodes() -> Iterator[str]:
    """The address of a cluster of two nodes with a core each."""
    with studies.cluster(cores_each=1) as address:
        yield address


def test_two_nodes_share_a_study_and_a_killed_worker_is_replaced(
    place: Place, two_nodes: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray

    # A module in the current folder is nobody's: neither Ray's processes nor the workers import it.
    (place.folder / "torch.py").write_text("raise SystemExit('planted')\n", encoding="utf-8")
    monkeypatch.chdir(place.folder)

    nodes: set[str] = set()
    killed: list[int] = []
    with place.search(SHORT) as search, cluster(two_nodes):
        pool = ray_pool(search, StopRequest(), workers=2)
        record, start = search.report, pool.start

        def started(number: int) -> Any:
            worker = start(number)
            nodes.add(ray.get(worker.actor.place.remote())[0])
            return worker

        def report(job: Any, epoch: int, value: float) -> bool:
            if job.number == 0 and not killed:
                [seat] = [seat for seat in pool.seats.values() if seat.job is job]
                worker: Any = seat.worker
                killed.append(ray.get(worker.actor.place.remote())[1])
                os.kill(killed[0], signal.SIGKILL)
            return record(job, epoch, value)

        pool.start, search.report = started, report  # type: ignore[method-assign]
        pool.run()
        assert [state for state, _ in results(search).values()] == ["COMPLETE"] * 4
        found = {number: value for number, (_, value) in results(search).items()}
    assert killed
    assert len(nodes) == 2
    assert sum("was killed by signal 9" in line for line in place.said) == 1
    for number in range(4):
        folder = RunFolder(place.out / "trials" / f"{number:04d}")
        assert [row["epoch"] for row in folder.read_history()] == [1, 2, 3, 4]
        events = (folder.path / "events.jsonl").read_text()
        assert events.count('"started"') == 1
        assert folder.read_json("environment.json")["threads"] == 1
    # The same set of trials with the same results as in one process, whose thread count is the same.
    place.said.clear()
    again = Place(place.folder / "again")
    again.folder.mkdir()
    for name in ("tiny.npz", "tiny.toml"):
        (again.folder / name).write_bytes((place.folder / name).read_bytes())
    assert {number: value for number, (_, value) in again.run(SHORT).items()} == found


def test_the_command_gives_what_one_process_gives(
    place: Place, two_nodes: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray

    nodes: list[str] = []

    class Seen(RayWorker):
        def __init__(self, log: Path, threads: int) -> None:
            super().__init__(log, threads)
            nodes.append(ray.get(self.actor.place.remote())[0])

    monkeypatch.setattr(ray_engine, "RayWorker", Seen)
    outcome = thriftnet("study", "run", *command(place, "--engine", "ray", "--address", two_nodes, "--workers", "2"))
    assert outcome.status == 0, outcome.stderr
    assert outcome.last_line == str(place.out)
    assert "4 of 4 trials begun: 4 completed. Best: trial " in outcome.stdout
    assert len(set(nodes)) == 2
    found = objectives(place)
    place.out.rename(place.folder / "by-ray")
    assert thriftnet("study", "run", *command(place)).status == 0
    assert found == objectives(place)


def objectives(place: Place) -> dict[int, float]:
    return {trial["number"]: trial["objective"] for trial in shown(place)["trials"]}


def test_a_killed_actor_is_replaced_and_its_trial_goes_on(place: Place, two_nodes: str) -> None:
    """As when its machine is lost: the actor says nothing more, not even how its process ended."""
    import ray

    killed: list[int] = []
    with place.search(SHORT) as search, cluster(two_nodes):
        pool = ray_pool(search, StopRequest(), workers=1)
        record = search.report

        def report(job: Any, epoch: int, value: float) -> bool:
            if not killed:
                worker: Any = pool.seats[0].worker
                killed.extend(ray.get(worker.actor.place.remote())[1:])
                os.kill(killed[1], signal.SIGKILL)
            return record(job, epoch, value)

        search.report = report  # type: ignore[method-assign]
        pool.run()
        assert [state for state, _ in results(search).values()] == ["COMPLETE"] * 4
    assert sum("its worker was lost with its machine or actor" in line for line in place.said) == 1
    assert not Path(f"/proc/{killed[0]}").exists()  # the training process ends with the actor that it told
    for number in range(4):
        folder = RunFolder(place.out / "trials" / f"{number:04d}")
        assert [row["epoch"] for row in folder.read_history()] == [1, 2, 3, 4]
        events = (folder.path / "events.jsonl").read_text()
        assert (events.count('"started"'), events.count('"resumed"')) == (1, int(number == 0))


def test_a_stopped_actor_and_a_stopped_process_are_given_up(place: Place, two_nodes: str) -> None:
    """Trial 0's training process is stopped, then the actor of whoever has it next: that is the second loss."""
    import ray

    stopped: list[int] = []
    with place.search(SHORT) as search, cluster(two_nodes):
        pool = ray_pool(search, StopRequest(), workers=1, lease_s=5.0)
        record = search.report

        def report(job: Any, epoch: int, value: float) -> bool:
            if job.number == 0 and len(stopped) < 2:
                worker: Any = pool.seats[0].worker
                _, process, actor = ray.get(worker.actor.place.remote())
                stopped.append([process, actor][len(stopped)])
                os.kill(stopped[-1], signal.SIGSTOP)
            return record(job, epoch, value)

        search.report = report  # type: ignore[method-assign]
        try:
            pool.run()
        finally:
            for process in stopped:
                if Path(f"/proc/{process}").exists():
                    os.kill(process, signal.SIGCONT)
        states = [state for state, _ in results(search).values()]
        reason = search.trials()[0].user_attrs["facts"]["reason"]
    assert len(stopped) == 2
    assert states == ["FAIL", "COMPLETE", "COMPLETE", "COMPLETE"]
    assert reason == "its worker was silent for 5 s; the one before was lost too"


def test_sigterm_stays_the_studys_though_ray_takes_it(two_nodes: str) -> None:
    before = signal.getsignal(signal.SIGTERM)
    with watch_signals() as request:
        with cluster(two_nodes):
            os.kill(os.getpid(), signal.SIGTERM)
        assert request.signal_number == signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) == before


def test_an_address_is_needed() -> None:
    with pytest.raises(StudyError, match="--engine ray needs --address"), cluster(None):
        pass


def test_an_address_where_nobody_listens_is_told_at_once(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    monkeypatch.setattr(ray, "init", lambda **_: pytest.fail("Ray tried it"))
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    for address in (f"127.0.0.1:{port}", "127.0.0.1:63790000"):
        told_what_to_give(address, thriftnet("study", "run", *command(place, "--engine", "ray", "--address", address)))


def test_an_address_where_something_else_listens_is_told_in_bounded_time(place: Place) -> None:
    """Ray alone would try for a quarter of an hour; its own warnings stand before the error."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        arguments = command(place, "--engine", "ray", "--address", address)
        ended = subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, timeout=180)
    assert "Traceback" not in ended.stderr
    last = ended.stderr.rstrip().splitlines()[-1] + "\n"
    told_what_to_give(address, Outcome(ended.returncode, ended.stdout, last))


def told_what_to_give(address: str, outcome: Outcome) -> None:
    assert outcome.status == 2
    assert outcome.error.startswith(f"thriftnet: --address {address}: no Ray cluster answers (")
    assert outcome.error.endswith("; give the HOST:PORT that `ray start --head` named on the cluster's first machine")


@pytest.mark.parametrize(
    ("cores", "workers", "threads"),
    [([1, 1], 2, 1), ([8, 8], 2, 8), ([8, 4], 2, 4), ([8, 4], 3, 4), ([16], 3, 5), ([3, 5], 4, 1), ([2, 2], 1, 2)],
)
def test_each_worker_has_the_most_threads_with_no_core_shared(cores: list[int], workers: int, threads: int) -> None:
    assert _threads_each(cores, workers) == threads
    assert sum(count // (threads + 1) for count in cores) < workers


def test_more_workers_than_cores_are_refused() -> None:
    with pytest.raises(StudyError, match="--workers 3 would share the 2 cores of the cluster; give at most 2"):
        _threads_each([1, 1], 3)
