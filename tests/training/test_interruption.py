"""Signals as a flag, also where one watcher lies within another."""

import os
import signal
import threading
from collections.abc import Iterator

import pytest

from thriftnet.errors import Interrupted
from thriftnet.training.interruption import watch_signals


def send(number: int = signal.SIGTERM) -> None:
    os.kill(os.getpid(), number)


@pytest.fixture(autouse=True)
def usual() -> Iterator[None]:
    """As in a foreground process; a shell's background has SIGINT ignored, and a library may have taken SIGTERM."""
    interrupt = signal.signal(signal.SIGINT, signal.default_int_handler)
    terminate = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGINT, interrupt)
    signal.signal(signal.SIGTERM, terminate)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_is_a_flag_and_heeding_it_raises(number: int) -> None:
    before = signal.getsignal(number)
    with watch_signals() as request:
        request.heed("nothing yet")
        send(number)
        assert request.signal_number == number
        with pytest.raises(Interrupted, match="what was done") as caught:
            request.heed("what was done")
    assert caught.value.exit_status == 128 + number
    assert signal.getsignal(number) == before


def test_a_second_signal_acts_as_usual_however_deep() -> None:
    with watch_signals(), watch_signals():
        send()
        with pytest.raises(KeyboardInterrupt):
            send(signal.SIGINT)
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_what_an_inner_watcher_saw_too_late_is_the_outer_ones() -> None:
    with watch_signals() as outer:
        with watch_signals() as inner:
            send()
        assert inner.signal_number == outer.signal_number == signal.SIGTERM
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_what_an_inner_watcher_stopped_for_is_an_exception_only() -> None:
    with watch_signals() as outer:
        with pytest.raises(Interrupted), watch_signals() as inner:  # noqa: PT012
            send()
            inner.heed("stopped")
        assert outer.signal_number is None
        send()  # it still watches
        assert outer.signal_number == signal.SIGTERM


def test_another_thread_installs_nothing() -> None:
    before = signal.getsignal(signal.SIGTERM)
    seen = []

    def work() -> None:
        with watch_signals() as request:
            seen.append((signal.getsignal(signal.SIGTERM), request.signal_number))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [(before, None)]
