"""Where a study's trials are recorded: Optuna's journal in the study folder, or any storage that Optuna has by URL.

The journal is a text file of one JSON object a line. A crash of the machine or a full disk can cut it anywhere, and
Optuna then refuses all of it as soon as something is appended; `repair_journal` cuts it back to its last whole line.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from thriftnet.errors import MissingExtraError, StudyError
from thriftnet.storage import write_atomic

if TYPE_CHECKING:
    import optuna

JOURNAL = "journal.log"


def require_optuna() -> None:
    """Raise MissingExtraError unless Optuna is installed; make it quiet."""
    try:
        import optuna
    except ModuleNotFoundError:
        raise MissingExtraError("studies need Optuna; install it with: pip install 'thriftnet[tune]'") from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)


def open_storage(folder: Path, url: str | None) -> optuna.storages.BaseStorage:
    """The storage of the study in `folder`. Raises StudyError where it cannot be opened or read."""
    import optuna
    from optuna.storages.journal import JournalFileBackend

    if url is None:
        journal = folder / JOURNAL
        try:
            return optuna.storages.JournalStorage(JournalFileBackend(str(journal)))
        except (ValueError, KeyError, AssertionError) as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            raise StudyError(f"{journal} is damaged ({reason}); `thriftnet study run` repairs it") from None
    from sqlalchemy.exc import SQLAlchemyError

    try:
        return optuna.storages.get_storage(url)
    except (SQLAlchemyError, ImportError, ValueError) as error:
        reason = " ".join(str(error).split())[:200].replace(url, without_password(url))
        raise StudyError(
            f"--storage {without_password(url)} cannot be opened ({reason}); correct the URL, or let this user write "
            "there"
        ) from None


def without_password(url: str) -> str:
    """`url` without what stands before the @ of its host, for messages and files."""
    return re.sub(r"//[^/@]*@", "//", url)


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
    """How many bytes from the beginning are complete entries."""
    whole = 0
    for line in journal.splitlines(keepends=True):
        if not line.endswith(b"\n") or not _is_entry(line):
            break
        whole += len(line)
    return whole


def _is_entry(line: bytes) -> bool:
    try:
        entry = json.loads(line)
    except ValueError:
        return False
    return isinstance(entry, dict) and "op_code" in entry and "worker_id" in entry


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
