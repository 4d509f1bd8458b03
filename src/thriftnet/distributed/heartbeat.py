"""Signs of life between processes that train together, so that a stopped or lost one is an error and never a hang.

A process that dies closes its connections, which the others notice in their next exchange. One that is stopped, or
whose machine is gone, leaves them waiting inside gloo or NCCL, where no exception can reach them. So a thread of each
process counts aloud in the store where they met, and hears the others. Where one falls silent it says so and ends its
own process: files are complete at every moment, so that costs no more than a kill.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import NoReturn

import torch.distributed as dist

BEAT_S = 1.0
SILENT_S = 20.0
"""A process that was heard and then says nothing for so long is lost. Its thread needs no step to end to be heard."""
SPEAKER_FIRST_S = 3.0
"""So long the others stay, for torchrun stops all that are left once one has ended."""
SAVING_S = 20.0
"""So long a process whose launcher has ended may take to save."""
_ENDED = "ended"


class Heartbeat:
    """The thread, between `start` and `stop`. `store` must be no one else's: a client answers one call at a time.

    `launched` says whether the parent process is torchrun, without which nobody looks after the processes: then it asks
    its own for a stop as SIGTERM does.
    """

    def __init__(self, rank: int, world_size: int, store: dist.Store, launched: bool) -> None:
        self.rank, self.world_size, self._store, self._launched = rank, world_size, store, launched
        self.last_words: Callable[[], str] = str
        """What follows `; ` in the message: what is safe and how to go on, or nothing."""
        self._parent = os.getppid()
        self._heard: dict[int, tuple[bytes, float]] = {}
        self._all_here, self._done = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True, name="heartbeat")

    def start(self) -> None:
        self._thread.start()

    def wait_for_all(self, timeout_s: float) -> bool:
        """Whether every process has been heard within `timeout_s`."""
        return self._all_here.wait(timeout_s)

    def stop(self) -> None:
        """To be called before the process ends, so that nobody takes it for lost."""
        self._done.set()
        self._thread.join(timeout=SPEAKER_FIRST_S)

    def _beat(self) -> None:
        count, last = 0, time.monotonic()
        while not self._done.wait(BEAT_S if count else 0):
            count += 1
            if self._launched and os.getppid() != self._parent:
                self._orphaned()
                return
            try:
                self._store.set(_key(self.rank), str(count))
                self._listen()
            except RuntimeError:  # the process with the store has ended: torchrun's, or else the main one
                if self._launched:
                    self._orphaned()
                else:
                    self._lost([0], "has ended or cannot be reached")
                return
            now = time.monotonic()
            if now - last > SILENT_S / 2:
                # It was this process that slept: what the others said meanwhile is still to be heard.
                self._heard = {rank: (said, now) for rank, (said, _) in self._heard.items()}
            last = now
            silent = [rank for rank, (said, at) in self._heard.items() if now - at > SILENT_S and said != _ended()]
            if silent:
                self._lost(silent, f"said nothing for {SILENT_S:g} s: stopped, or its machine cannot be reached")
                return
        with suppress(RuntimeError):
            self._store.set(_key(self.rank), _ENDED)

    def _listen(self) -> None:
        for rank in range(self.world_size):
            if rank == self.rank or not (rank in self._heard or self._store.check([_key(rank)])):
                continue
            said = self._store.get(_key(rank))
            if rank not in self._heard or self._heard[rank][0] != said:
                self._heard[rank] = said, time.monotonic()
        if len(self._heard) == self.world_size - 1:
            self._all_here.set()

    def _lost(self, silent: list[int], why: str) -> None:
        """Of those that are left, the one with the lowest rank speaks; all end."""
        speaks = min(set(range(self.world_size)) - set(silent)) == self.rank
        if self._done.wait(0 if speaks else SPEAKER_FIRST_S):  # this process was about to end anyway
            return
        names = " and ".join(str(rank) for rank in sorted(silent))
        noun = "process" if len(silent) == 1 else "processes"
        self._end(f"{noun} {names} of {self.world_size} {why}" if speaks else None)

    def _orphaned(self) -> None:
        """Save and stop; what the main thread does not manage in time, it must do without."""
        if self.rank == 0:
            print("thriftnet: torchrun, which started this training, has ended; saving and stopping", file=sys.stderr)
        for _ in range(2):  # the second one ends a process that only remembers the first
            if not self._done.is_set():
                os.kill(os.getpid(), signal.SIGTERM)
            if self._done.wait(SAVING_S):
                return
        self._end(None)

    def _end(self, message: str | None) -> NoReturn:
        if message is not None:
            with suppress(Exception):  # nothing may keep this process from ending
                message = "; ".join(filter(None, (message, self.last_words())))
            print(f"thriftnet: {message}", file=sys.stderr, flush=True)
        os._exit(1)


def _key(rank: int) -> str:
    return f"thriftnet/alive/{rank}"


def _ended() -> bytes:
    return _ENDED.encode()
