"""Where the trials of a study are trained: in this process, or by a pool of workers, here or through Ray.

The pool only needs what `Worker` says, so one loop serves local processes and machines far away.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from thriftnet.errors import Interrupted, ProcessLostError, StudyError, ThriftnetError
from thriftnet.runtime import available_cores
from thriftnet.training.interruption import StopRequest
from thriftnet.tuning.study import Search
from thriftnet.tuning.trial import Job, Outcome, kept_source, run_trial
from thriftnet.tuning.worker import job_message

LEASE_S = 25.0
"""A worker that says nothing for so long is given up; it says something every second."""
START_S = 300.0
"""So long a pool waits for its first worker."""
FAREWELL_S = 5.0
"""So long workers may take to end after a signal, before they are killed."""
_PAUSE_S = 0.05
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


class Worker(Protocol):
    """A process that trains, wherever it is. No method waits for it."""

    def messages(self) -> list[dict[str, Any]]:
        """What it has said since the last call."""

    def send(self, message: dict[str, Any]) -> None: ...

    def ended(self) -> str | None:
        """How it ended, as a predicate of a sentence; None while it lives."""

    def terminate(self) -> None:
        """Ask it to end; what it has saved is whole at every moment."""

    def kill(self) -> None: ...


class LocalWorker:
    """A process on this machine, whose libraries use `threads` threads; `log` gets its standard error."""

    def __init__(self, log: Path, threads: int) -> None:
        log.parent.mkdir(parents=True, exist_ok=True)
        environment = os.environ | dict.fromkeys(_THREAD_VARIABLES, str(threads))
        with log.open("a", encoding="utf-8") as errors:
            # A session of its own: Ctrl-C reaches the study's process alone, which then ends its workers in order.
            # -P: the current folder, where anybody may have put a torch.py, is not on Python's path.
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-m", "thriftnet.tuning.worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env=environment,
                start_new_session=True,
                text=True,
                encoding="utf-8",
            )
        self._said: deque[dict[str, Any]] = deque()
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    def _listen(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.endswith("\n"):  # a killed worker may leave half a line
                self._said.append(json.loads(line))

    def messages(self) -> list[dict[str, Any]]:
        return [self._said.popleft() for _ in range(len(self._said))]

    def send(self, message: dict[str, Any]) -> None:
        assert self.process.stdin is not None
        with suppress(OSError):  # it has ended, which `ended` tells
            self.process.stdin.write(json.dumps(message) + "\n")
            self.process.stdin.flush()

    def ended(self) -> str | None:
        status = self.process.poll()
        if status is None or self._listener.is_alive():  # first hear all that it said
            return None
        return f"was killed by signal {-status}" if status < 0 else f"ended with exit status {status}"

    def terminate(self) -> None:
        self.process.terminate()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        assert self.process.stdin is not None
        with suppress(OSError):  # something was still to be flushed
            self.process.stdin.close()


@dataclass
class _Seat:
    """One place of the pool: its worker of the moment and what it works at."""

    worker: Worker
    heard: float
    ready: bool = False
    job: Job | None = None


def run_here(search: Search, request: StopRequest) -> None:
    """Train one trial after the other in this process. Raises Interrupted, and what `run_trial` raises."""
    try:
        while request.signal_number is None and (job := search.next_job()) is not None:

            def report(epoch: int, value: float, job: Job = job) -> bool:
                return search.report(job, epoch, value)

            search.finish(job, run_trial(job, report))
    finally:
        kept_source.cache_clear()  # this process goes on, and the next study may find other data in the same place
    if request.signal_number is not None:
        raise Interrupted("interrupted", request.signal_number)


@dataclass
class Pool:
    """Workers that `start` makes, given their number; at most `size` at a time."""

    search: Search
    request: StopRequest
    start: Callable[[int], Worker]
    size: int
    lease_s: float = LEASE_S
    seats: dict[int, _Seat] = field(default_factory=dict)
    exhausted: bool = False
    """Whether the study had nothing to do when it was last asked, and no trial has come back since."""

    def run(self) -> None:
        """Train until there is nothing left to do. Raises Interrupted, StudyError, ProcessLostError."""
        first = self.search.next_job()
        if first is None:
            return
        began = last_pass = time.monotonic()
        try:
            while not self.exhausted or any(seat.job is not None for seat in self.seats.values()):
                if self.request.signal_number is not None:
                    raise Interrupted("interrupted", self.request.signal_number)
                now = time.monotonic()
                if now - last_pass > self.lease_s / 2:
                    # It was this process that slept: what the workers said meanwhile is still to be heard.
                    for seat in self.seats.values():
                        seat.heard = now
                last_pass = now
                for number in range(self.size):
                    if number in self.seats:
                        self._look_at(number, now)
                    elif not self.exhausted:
                        self.seats[number] = _Seat(self.start(number), now)
                for seat in self.seats.values():
                    if seat.ready and seat.job is None and not self.exhausted:
                        # Only now, so that a sampler knows all that has been found.
                        job, first = first or self.search.next_job(), None
                        if job is None:
                            self.exhausted = True
                        else:
                            seat.worker.send(job_message(job))
                            seat.job = job
                if now - began > START_S and not any(seat.ready for seat in self.seats.values()):
                    raise ProcessLostError(f"no worker was ready after {START_S:.0f} s; {self._what_to_do}")
                time.sleep(_PAUSE_S)
        finally:
            self._dismiss()

    def _look_at(self, number: int, now: float) -> None:
        """Hear a worker, and give it up where it has ended or is silent for too long."""
        seat = self.seats[number]
        ended = seat.worker.ended()
        for message in seat.worker.messages():
            seat.heard = now
            self._hear(seat, message)
        if ended is None and (not seat.ready or now - seat.heard <= self.lease_s):
            return
        if not seat.ready:
            raise ProcessLostError(f"a worker {ended} before it could work; {self._what_to_do}")
        seat.worker.kill()
        del self.seats[number]
        if seat.job is not None:
            self.search.lost(seat.job, ended or f"was silent for {self.lease_s:g} s")
            self.exhausted = False

    def _hear(self, seat: _Seat, message: dict[str, Any]) -> None:
        kind = message["kind"]
        if kind == "ready":
            seat.ready = True
        elif kind == "epoch" and seat.job is not None:
            seat.worker.send({"stop": self.search.report(seat.job, message["epoch"], message["value"])})
        elif kind == "ended" and seat.job is not None:
            self.search.finish(seat.job, Outcome(message["state"], message["reason"]))
            seat.job = None
        elif kind == "error" and seat.job is not None:
            error = ThriftnetError(f"trial {seat.job.number}: {message['message']}; {self._what_to_do}")
            error.exit_status = message["exit_status"]
            raise error

    @property
    def _what_to_do(self) -> str:
        return (
            f"trials that have ended are recorded; {self.search.folder / 'logs'} may say more; give the same command "
            "again to go on"
        )

    def _dismiss(self) -> None:
        """End all workers: politely, then surely."""
        for seat in self.seats.values():
            seat.worker.terminate()
        deadline = time.monotonic() + FAREWELL_S
        while time.monotonic() < deadline and any(seat.worker.ended() is None for seat in self.seats.values()):
            time.sleep(_PAUSE_S)
        for seat in self.seats.values():
            seat.worker.kill()
        self.seats.clear()


def local_pool(search: Search, request: StopRequest, workers: int, lease_s: float = LEASE_S) -> Pool:
    """A pool of processes on this machine, which share its cores. Raises StudyError for more workers than cores."""
    cores = available_cores()
    if workers > cores:
        raise StudyError(f"--workers {workers} would share {cores} cores, less than one each; give at most {cores}")
    threads = check_threads(search, cores // workers)

    def start(number: int) -> Worker:
        return LocalWorker(search.folder / "logs" / f"worker-{number}.log", threads)

    return Pool(search, request, start, workers, lease_s)


def check_threads(search: Search, threads: int) -> int:
    """`threads`, which each worker may use. Raises StudyError where the recipe asks for more."""
    asked = search.study.base.runtime.threads
    if isinstance(asked, int) and asked > threads:
        raise StudyError(
            f"runtime.threads = {asked}, but each worker has {threads}; give fewer --workers, or --set "
            "runtime.threads=auto"
        )
    return threads
