"""Workers on the machines of a Ray cluster: Ray starts and watches them, the pool is the same as for local processes.

An actor on each machine holds a `LocalWorker`, so a stopped training process can be killed from its own machine. All
machines must see the study's folder and the data under the same paths, and have thriftnet installed.
"""

from __future__ import annotations

import os
import signal
import socket
import tempfile
import threading
from collections.abc import Iterator
from contextlib import chdir, contextmanager, suppress
from pathlib import Path
from typing import Any

from thriftnet.errors import MissingExtraError, StudyError
from thriftnet.training.interruption import StopRequest
from thriftnet.tuning.engines import LEASE_S, LocalWorker, Pool, Worker, check_threads
from thriftnet.tuning.study import Search

QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_worker_niceness": "0"}
"""No report to Ray's makers; and training is not background work (Ray's own niceness is 15). For clusters made here."""
_REMOTE_KILL_S = 5.0
_CONNECT_S = 5.0
_TRIES = "RAY_gcs_server_port_wait_time_s"
"""How often Ray tries to reach a cluster, 40 s each time; its default of 20 takes a quarter of an hour to fail."""


class _Remote(LocalWorker):
    """What the actor runs on its machine."""

    def __init__(self, log: str, threads: int) -> None:
        if not (Path(log).parent.parent / "study.json").is_file():
            raise FileNotFoundError(
                f"{Path(log).parent.parent} is not on this machine; the study needs a shared folder"
            )
        super().__init__(Path(log), threads)

    def place(self) -> tuple[str, int, int]:
        """The node, the training process and this process."""
        import ray

        return ray.get_runtime_context().get_node_id(), self.process.pid, os.getpid()

    def poll(self) -> tuple[list[dict[str, Any]], str | None]:
        ended = self.ended()
        return self.messages(), ended


class RayWorker:
    """A worker on some machine of the cluster, seen from here."""

    def __init__(self, log: Path, threads: int) -> None:
        import ray

        remote = ray.remote(num_cpus=threads, max_restarts=0)(_Remote)
        self.actor: Any = remote.remote(str(log), threads)
        self._poll: Any = None
        self._ended: str | None = None

    def messages(self) -> list[dict[str, Any]]:
        import ray

        if self._ended is not None:
            return []
        if self._poll is None:
            self._poll = self.actor.poll.remote()
        if not ray.wait([self._poll], timeout=0)[0]:
            return []
        answer, self._poll = self._poll, None
        try:
            said, self._ended = ray.get(answer)
        except ray.exceptions.RayError as error:
            self._ended = f"was lost with its machine or actor ({' '.join(str(error).split())[:200]})"
            return []
        return list(said)

    def send(self, message: dict[str, Any]) -> None:
        self.actor.send.remote(message)

    def ended(self) -> str | None:
        return self._ended

    def terminate(self) -> None:
        self.actor.terminate.remote()

    def kill(self) -> None:
        import ray

        # The process first, from its own machine; then the actor, which may itself be stopped or gone: a process that
        # nobody listens to ends by itself.
        with suppress(ray.exceptions.RayError):
            ray.get(self.actor.kill.remote(), timeout=_REMOTE_KILL_S)
        ray.kill(self.actor)
        self._ended = self._ended or "was killed"


@contextmanager
def cluster(address: str | None) -> Iterator[None]:
    """Be connected to the cluster at `address` (`local`: one on this machine, made and ended here).

    Raises MissingExtraError without Ray, StudyError for no address or one where there is no cluster.
    """
    if address is None:
        raise StudyError("--engine ray needs --address: HOST:PORT of a cluster, auto for one on this machine, or local")
    for name, value in QUIET.items():  # before the import, which reads them
        os.environ.setdefault(name, value)
    try:
        import ray
    except ModuleNotFoundError:
        raise MissingExtraError("--engine ray needs Ray; install it with: pip install 'thriftnet[tune,ray]'") from None
    try:
        with _signals_kept(), tempfile.TemporaryDirectory(prefix="thriftnet-") as empty, chdir(empty):
            # Ray puts the folder it was started in on the path of all its processes, before what is installed.
            if address == "local":
                ray.init(address="local", include_dashboard=False, log_to_driver=False, object_store_memory=100 * 2**20)
            else:
                _check_somebody_listens(address)
                with _tried_once():
                    ray.init(address=address, log_to_driver=False)
    except (OSError, OverflowError, ValueError, RuntimeError) as error:
        raise StudyError(
            f"--address {address}: no Ray cluster answers ({' '.join(str(error).split())[:200]}); "
            "give the HOST:PORT that `ray start --head` named on the cluster's first machine"
        ) from None
    try:
        yield
    finally:
        ray.shutdown()


def _check_somebody_listens(address: str) -> None:
    """Raise OSError for a HOST:PORT that takes no connection, OverflowError for a port that cannot be.

    Other forms of address are Ray's to judge.
    """
    host, _, port = address.rpartition(":")
    if host and port.isdecimal() and "/" not in host:
        socket.create_connection((host.strip("[]"), int(port)), _CONNECT_S).close()


@contextmanager
def _tried_once() -> Iterator[None]:
    """For connecting alone: a cluster that is started waits by the same variable for its own first process."""
    given = os.environ.get(_TRIES)
    os.environ.setdefault(_TRIES, "1")
    try:
        yield
    finally:
        if given is None:
            del os.environ[_TRIES]


@contextmanager
def _signals_kept() -> Iterator[None]:
    """Ray's `init` takes SIGTERM for itself and never gives it back; whoever watched it still does after this."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)


def ray_pool(search: Search, request: StopRequest, workers: int, lease_s: float = LEASE_S) -> Pool:
    """A pool on the connected cluster. Raises StudyError for more workers than it has cores."""
    import ray

    cores = [int(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
    threads = check_threads(search, _threads_each(cores, workers))

    def start(number: int) -> Worker:
        return RayWorker(search.folder.resolve() / "logs" / f"worker-{number}.log", threads)

    return Pool(search, request, start, workers, lease_s)


def _threads_each(cores: list[int], workers: int) -> int:
    """The most threads that `workers` can each have on machines of so many cores, no core twice."""
    for threads in range(max(cores, default=0), 0, -1):
        if sum(count // threads for count in cores) >= workers:
            return threads
    raise StudyError(
        f"--workers {workers} would share the {sum(cores)} cores of the cluster; give at most {sum(cores)}"
    )
