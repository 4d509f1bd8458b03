"""One writer a run folder: a lock of the operating system, which ends with the process that holds it.

`.lock` says who writes, for the message to whoever comes second. A process that ends by itself blanks its name; one
that was killed leaves it, which tells the next writer that half-written temporary files may lie about. `flock` is
local to a machine on some network file systems (an NFS server without its lock service, NFS mounted with
`local_lock`); there two machines can still write to one folder.
"""

from __future__ import annotations

import json
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path

from thriftnet.errors import FolderInUseError
from thriftnet.storage import parse_json, remove_partial_files, storage_error

try:
    import fcntl
except ImportError:  # Windows, which is not a platform of this project's tests: nothing is locked there
    fcntl = None  # type: ignore[assignment]

LOCK = ".lock"
RECORD_BYTES = 256  # always the same, so that a full disk cannot keep a finished writer from blanking its name
SAFE = "what the run already holds is safe"

_held: set[tuple[Path, int]] = set()
"""(folder, thread) of every lock that this process holds."""


@contextmanager
def only_writer(folder: Path) -> Iterator[None]:
    """Keep other processes, and other threads of this one, from writing to `folder` while the block runs.

    The thread that holds it may enter again. Raises FolderInUseError where another writer has it, naming that one;
    StorageError where the folder cannot be written to or its file system knows no locks.
    """
    held = Path(os.path.realpath(folder)), threading.get_ident()
    if held in _held or fcntl is None:
        yield
        return
    descriptor = _acquire(folder)
    _held.add(held)
    try:
        yield
    finally:
        _held.discard(held)
        with suppress(OSError):  # a name that stays costs the next writer a look for temporary files, no more
            os.pwrite(descriptor, b" " * RECORD_BYTES, 0)
        os.close(descriptor)


def _acquire(folder: Path) -> int:
    """A descriptor with the lock. It is tried again where the holder took the folder's lock file away meanwhile."""
    path = folder / LOCK
    while True:
        descriptor = -1
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_at(descriptor, path):
                if os.pread(descriptor, RECORD_BYTES, 0).strip():
                    remove_partial_files(folder)
                os.pwrite(descriptor, _record(), 0)
                return descriptor
            os.close(descriptor)
        except BlockingIOError:
            holder = _holder(os.pread(descriptor, RECORD_BYTES, 0))
            os.close(descriptor)
            raise FolderInUseError(
                f"run folder {folder} is in use: {holder}; nothing was changed; wait for it or use another folder"
            ) from None
        except OSError as error:
            if descriptor >= 0:
                os.close(descriptor)
            raise storage_error(path, error, SAFE) from None


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False


def _record() -> bytes:
    since = datetime.now().astimezone().isoformat(timespec="seconds")
    record = {"pid": os.getpid(), "host": socket.gethostname()[:100], "since": since}
    return json.dumps(record).encode().ljust(RECORD_BYTES)


def _holder(record: bytes) -> str:
    try:
        found = parse_json(record)
        return f"process {found['pid']} on {found['host']} has been writing to it since {found['since']}"
    except (ValueError, KeyError, TypeError):
        return "another process is writing to it"  # it got the lock this very moment
