"""Signs of life between processes that train together, so that a stopped or lost one is an error and never a hang.

A process that dies closes its connections, which the others notice in their next exchange. One that is stopped, or
whose machine is gone, leaves them waiting inside gloo or NCCL, where no exception can reach them. So a thread of each
process counts aloud in the store where they met, and hears the others. Where one falls silent, it says so and ends its
own process: files are complete at every moment, so that costs no more than a kill. A second thread judges, since
the first one waits without an end for a store whose process was stopped.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch._C._distributed_c10d import Store

BEAT_S = 1.0
SILENT_S = 20.0
"""A process that was heard and then says nothing for so long is lost. Its thread counts through long steps too."""
OTHERS_FIRST_S = 3.0
"""So long a process stays that has nothing to say: torchrun stops all that are left once one has ended."""
BY_ITSELF_S = 8.0
"""So long the main thread may take to notice by itself that a connection broke, and to say so."""
SAVING_S = 20.0
"""So long a process whose launcher has ended may take to save."""


def _what_to_do() -> str:
    return "what is saved is whole; give the same command again"


class Heartbeat:
    """The threads of one process, which end with it. `store` is nobody else's: a client answers one call at a time.

    `launched`: the parent is torchrun. Once that is gone nobody looks after the processes, so this one is asked to
    stop, as by SIGTERM.
    """

    def __init__(self, rank: int, world_size: int, store: Store, launched: bool) -> None:
        self.rank, self.world_size, self._store, self._launched = rank, world_size, store, launched
        self._last_words: list[Callable[[], str]] = []
        """What messages say after the cause, of each `watching` that has begun."""
        self._parent = os.getppid()
        self._heard: dict[int, tuple[bytes, float]] = {}
        """What each other process said last, and since when it says that."""
        self._answered: float | None = time.monotonic()
        """When the store did so last; None: it is gone."""
        self._all_here, self._done = threading.Event(), threading.Event()
        self._says, self._orphaned_said = threading.Lock(), False

    def start(self) -> None:
        for work in (self._beat, self._judge):
            threading.Thread(target=work, daemon=True, name=f"heartbeat{work.__name__}").start()

    @contextmanager
    def watching(self, last_words: Callable[[], str] = _what_to_do) -> Iterator[None]:
        """While the block runs, end this process where another is lost; `last_words`: what is safe and what to do."""
        self._forgive()
        self._last_words.append(last_words)
        try:
            yield
        finally:
            self._last_words.pop()

    def wait_for_all(self, timeout_s: float) -> bool:
        """Whether every process has been heard within `timeout_s`."""
        return self._all_here.wait(timeout_s)

    def hears(self, rank: int) -> bool:
        """Whether that process has said something just now."""
        return rank in self._heard and time.monotonic() - self._heard[rank][1] < BY_ITSELF_S

    def stop(self) -> None:
        """To be called before the store is gone."""
        self._done.set()

    def _beat(self) -> None:
        count = 0
        while not self._done.wait(BEAT_S if count else 0):
            count += 1
            try:
                self._store.set(_key(self.rank), str(count))
                self._listen()
                self._answered = time.monotonic()
            except RuntimeError:
                self._answered = None
                return

    def _judge(self) -> None:
        last = time.monotonic()
        while not self._done.wait(BEAT_S):
            now = time.monotonic()
            if now - last > SILENT_S / 2:
                self._forgive()
            last = now
            store_is_gone = self._answered is None or now - self._answered > SILENT_S
            if self._launched and (store_is_gone or os.getppid() != self._parent):
                self._orphaned()
            elif store_is_gone:  # the main process had it
                if self._answered is not None or not self._done.wait(BY_ITSELF_S):
                    self._lost([0], "has ended or cannot be reached")
                return
            silent = [rank for rank, (_, since) in sorted(self._heard.items()) if now - since > SILENT_S]
            if silent and self._last_words:
                self._lost(silent, f"said nothing for {SILENT_S:g} s (stopped, or its machine cannot be reached)")

    def _listen(self) -> None:
        for rank in range(self.world_size):
            if rank == self.rank or not (rank in self._heard or self._store.check([_key(rank)])):
                continue
            said = self._store.get(_key(rank))
            if rank not in self._heard or self._heard[rank][0] != said:
                self._heard[rank] = said, time.monotonic()
        if len(self._heard) == self.world_size - 1:
            self._all_here.set()

    def _forgive(self) -> None:
        """It was this process that slept or did not care: what the others said meanwhile is still to be heard."""
        now = time.monotonic()
        self._heard = {rank: (said, now) for rank, (said, _) in self._heard.items()}
        if self._answered is not None:
            self._answered = now

    def say_if_orphaned(self) -> None:
        """Say that the launcher has ended, if it has: another process may have noticed first and made all stop."""
        if self._launched and os.getppid() != self._parent:
            self._say_orphaned()

    def _say_orphaned(self) -> None:
        with self._says:
            if self.rank == 0 and not self._orphaned_said:
                self._orphaned_said = True
                message = "torchrun, which started this, has ended; saving and stopping"
                print(f"thriftnet: {message}", file=sys.stderr, flush=True)

    def _lost(self, lost: Sequence[int], why: str) -> None:
        """End this process; of those that are left the one with the lowest rank says why."""
        speaks = min(set(range(self.world_size)) - set(lost)) == self.rank
        if self._done.wait(0 if speaks else OTHERS_FIRST_S) or not self._last_words:
            return  # the main thread has noticed
        if speaks:
            whom = f"process {lost[0]}" if len(lost) == 1 else f"processes {' and '.join(map(str, lost))}"
            message = f"{whom} of {self.world_size} {why}"
            with suppress(Exception):  # nothing may keep this process from ending
                message += f"; {self._last_words[-1]()}"
            print(f"thriftnet: {message}", file=sys.stderr, flush=True)
        os._exit(1)

    def _orphaned(self) -> None:
        """Ask this process to save and stop, and then to end as it is."""
        self._say_orphaned()
        for _ in range(2):  # the second one also ends a process that waits for a step to end
            os.kill(os.getpid(), signal.SIGTERM)
            if self._done.wait(SAVING_S):
                return
        os._exit(1)


def _key(rank: int) -> str:
    return f"thriftnet/alive/{rank}"
