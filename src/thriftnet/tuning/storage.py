"""Where a study's trials are recorded: Optuna's journal in the study folder, or any storage that Optuna has by URL.

The journal is a text file of one JSON object a line. A crash of the machine or a full disk can cut it anywhere, an
editor or another version can leave in it what Optuna does not know, and Optuna then refuses all of it; `repair_journal`
cuts it back to the entries before that.
"""

from __future__ import annotations

import math
import re
from bisect import bisect_right
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from thriftnet.errors import MissingExtraError, StudyError, ThriftnetError
from thriftnet.storage import parse_json, write_atomic

if TYPE_CHECKING:
    import optuna

JOURNAL = "journal.log"
_SECRET = re.compile(r"pass|pwd|secret|token|key|credential|user|auth")
"""In the name of a URL's query key: its value is not shown."""


def require_optuna() -> None:
    """Raise MissingExtraError unless Optuna is installed; make it quiet."""
    try:
        import optuna
    except ModuleNotFoundError:
        raise MissingExtraError("studies need Optuna; install it with: pip install 'thriftnet[tune]'") from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)


def open_storage(folder: Path, url: str | None) -> optuna.storages.BaseStorage:
    """The storage of the study in `folder`. Raises what Optuna does: call it within `odd_records`."""
    import optuna
    from optuna.storages.journal import JournalFileBackend

    if url is not None:
        return optuna.storages.get_storage(url)
    return optuna.storages.JournalStorage(JournalFileBackend(str(folder / JOURNAL)))


@contextmanager
def odd_records(folder: Path, url: str | None) -> Iterator[None]:
    """Turn what Optuna, its database and our reading of a trial raise for odd content into one StudyError.

    Optuna has no error of its own for that: by place it is a KeyError, an AssertionError, a RuntimeError.
    """
    from optuna.exceptions import OptunaError
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (ThriftnetError, OSError):
        raise
    except (OptunaError, SQLAlchemyError, ImportError, LookupError, TypeError, ValueError, ArithmeticError) as error:
        raise _unreadable(folder, url, error) from None
    except (AttributeError, AssertionError, RuntimeError) as error:
        raise _unreadable(folder, url, error) from None


@contextmanager
def storage_failures(folder: Path, url: str | None) -> Iterator[None]:
    """Turn what Optuna and its database raise while a study runs (a lock, a lost connection) into one StudyError."""
    from optuna.exceptions import OptunaError
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (OptunaError, SQLAlchemyError) as error:
        where = folder / JOURNAL if url is None else without_password(url)
        raise StudyError(
            f"the study's storage {where} failed ({_reason(error, url)}); trials that have ended are recorded; give "
            "the same command again to go on"
        ) from None


def _unreadable(folder: Path, url: str | None, error: Exception) -> StudyError:
    reason = _reason(error, url)
    if url is None:
        return StudyError(
            f"{folder / JOURNAL} is damaged or of another version ({reason}); `thriftnet study run` keeps what comes "
            "before that, and every trial with a folder"
        )
    return StudyError(
        f"--storage {without_password(url)} cannot be opened ({reason}); correct the URL, restore the database from a "
        "copy, or begin anew with another --storage and --out"
    )


def _reason(error: Exception, url: str | None) -> str:
    reason = " ".join(str(error).split()) or type(error).__name__
    if url is not None:
        reason = reason.replace(url, without_password(url))
        for secret in _secrets(url):
            reason = reason.replace(secret, "***")
    return reason[:200]


def _secrets(url: str) -> list[str]:
    """What `without_password` leaves out, in every form in which a driver may quote it; the longest first."""
    place, _, query = url.partition("://")[2].partition("?")
    before, found, _ = place.rpartition("@")
    parts = [before, *before.split(":", 1)[1:]] if found else []
    parts += [part.partition("=")[2] for part in query.split("&") if _SECRET.search(part.partition("=")[0].lower())]
    return sorted({form for part in parts if part for form in (part, unquote(part))}, key=len, reverse=True)


def without_password(url: str) -> str:
    """`url` for messages and files: without what stands before the last @ of its host, and without secret query keys.

    A password may hold / and @ where it was not escaped, so that no parser of URLs finds its end.
    """
    scheme, separator, rest = url.partition("://")
    place, _, query = rest.partition("?")
    shown = place.rpartition("@")[2]
    kept = [part for part in query.split("&") if part and not _SECRET.search(part.partition("=")[0].lower())]
    return scheme + separator + shown + ("?" if kept else "") + "&".join(kept)


def repair_journal(folder: Path) -> int:
    """Cut the journal in `folder` back to its whole lines; returns how many bytes were cut off.

    Only for the one process that holds the study. What is cut off is kept in `journal.torn`.
    """
    journal = folder / JOURNAL
    # Optuna's own lock is a link that outlives a killed process, and would be waited for.
    (folder / f"{JOURNAL}.lock").unlink(missing_ok=True)
    if not journal.is_file():
        return 0
    content = journal.read_bytes()
    whole = whole_part(content)
    if whole < len(content):
        write_atomic(folder / "journal.torn", content[whole:])
        write_atomic(journal, content[:whole])
    return len(content) - whole


def whole_part(journal: bytes) -> int:
    """How many bytes from the beginning are complete entries that Optuna reads, with trials as studies here have them.

    Where it cannot read an entry it cannot read what follows, so the first such entry is found by bisection.
    """
    entries, ends = [], [0]
    for line in journal.splitlines(keepends=True):
        entry = _entry(line) if line.endswith(b"\n") else None
        if entry is None:
            break
        entries.append(entry)
        ends.append(ends[-1] + len(line))
    if _is_readable(entries):
        return ends[-1]
    readable = bisect_right(range(len(entries)), False, key=lambda count: not _is_readable(entries[:count]))
    return ends[readable - 1]


def _entry(line: bytes) -> dict[str, Any] | None:
    try:
        entry = parse_json(line)
    except ValueError:
        return None
    return entry if isinstance(entry, dict) and "op_code" in entry and "worker_id" in entry else None


def _is_readable(entries: list[dict[str, Any]]) -> bool:
    """Whether Optuna replays `entries`, and every trial has its number, its values and a state."""
    import optuna
    from optuna.storages.journal import BaseJournalBackend

    class Memory(BaseJournalBackend):
        def read_logs(self, log_number_from: int) -> list[dict[str, Any]]:
            return entries[log_number_from:]

        def append_logs(self, logs: list[dict[str, Any]]) -> None:
            raise AssertionError("nothing is written")

    try:
        storage = optuna.storages.JournalStorage(Memory())
        for study in storage.get_all_studies():
            for trial in storage.get_all_trials(study._study_id, deepcopy=False):
                check_trial(trial)
    except Exception:  # of any kind: see `odd_records`
        return False
    return True


def check_trial(trial: optuna.trial.FrozenTrial) -> None:
    """Raise ValueError, KeyError or TypeError for a trial that no study here has recorded."""
    number, facts = trial.user_attrs["number"], trial.user_attrs.get("facts", {})
    if type(number) is not int or number < 0 or not isinstance(facts, dict):
        raise ValueError(f"trial {number!r} is not numbered, or its facts are {facts!r}")
    if trial.state.name == "COMPLETE" and (trial.value is None or not math.isfinite(trial.value)):
        raise ValueError(f"trial {number} is complete with the value {trial.value}")
    if trial.state.is_finished() and "epochs" not in facts and "reason" not in facts:
        raise ValueError(f"trial {number} has ended without its number of epochs")


@contextmanager
def one_writer(folder: Path) -> Iterator[None]:
    """Hold the study in `folder`; the system lets it go when this process ends, however it ends.

    Raises StudyError where another process holds it.
    """
    from filelock import FileLock, Timeout

    lock = FileLock(folder / "study.lock")
    try:
        lock.acquire(blocking=False)
    except Timeout:
        raise StudyError(
            f"another process is running the study in {folder}; wait for it, stop it, or choose another --out"
        ) from None
    try:
        yield
    finally:
        lock.release()
