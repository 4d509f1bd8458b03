"""Ctrl-C and SIGTERM as a flag that the loop looks at between steps."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class StopRequest:
    """`signal_number` is set once a signal has come."""

    def __init__(self) -> None:
        self.signal_number: int | None = None


@contextmanager
def watch_signals() -> Iterator[StopRequest]:
    """Turn the first SIGINT or SIGTERM into a flag; a second one acts as usual, so a hung step can still be stopped.

    Python delivers signals to the main thread only; elsewhere nothing is installed.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    usual = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def handle(number: int, frame: FrameType | None) -> None:
        request.signal_number = number
        for each, handler in usual.items():
            signal.signal(each, handler)

    for number in usual:
        signal.signal(number, handle)
    try:
        yield request
    finally:
        for number, handler in usual.items():
            signal.signal(number, handler)
