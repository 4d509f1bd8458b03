"""Ctrl-C and SIGTERM as a flag that is looked at where stopping is safe."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import FrameType
from typing import Any

from thriftnet.errors import Interrupted

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopRequest:
    """`signal_number` is set once a signal has come."""

    def __init__(self, usual: Mapping[signal.Signals, Any] | None = None) -> None:
        self.signal_number: int | None = None
        self._usual = usual or {}

    def handle(self, number: int, frame: FrameType | None = None) -> None:
        """Remember the signal; a second one acts as where nobody watches, so a hung step can still be stopped."""
        self.signal_number = number
        for each, handler in self._usual.items():
            signal.signal(each, handler)

    def heed(self, message: str) -> None:
        """Raise Interrupted with `message` if a signal has come."""
        if self.signal_number is not None:
            raise Interrupted(message, self.signal_number)


@contextmanager
def watch_signals() -> Iterator[StopRequest]:
    """Turn the first SIGINT or SIGTERM into a flag.

    Blocks may lie within each other: a signal that an inner one saw too late to stop for, because it was done, is the
    outer one's. Python delivers signals to the main thread only; elsewhere nothing is installed.
    """
    before = {number: signal.getsignal(number) for number in SIGNALS}
    outer = getattr(before[signal.SIGTERM], "__self__", None)
    request = StopRequest(outer._usual if isinstance(outer, StopRequest) else before)
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    for number in SIGNALS:
        signal.signal(number, request.handle)
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if request.signal_number is not None and isinstance(outer, StopRequest):
        outer.handle(request.signal_number)
