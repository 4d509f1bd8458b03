"""Paths as users write them, files that are complete or absent, and what the operating system refuses.

A file is written beside its final place, forced to the disk and then renamed over it, so that neither a full disk nor a
killed process leaves half a file under the real name. Every refusal of the operating system becomes one StorageError:
of a write by `atomic_path`, of anything else by `refusals_named`, which is around every function of the library.
"""

from __future__ import annotations

import errno
import json
import os
import secrets
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from thriftnet.errors import StorageError, UserError, escaped

CACHE_VARIABLE = "THRIFTNET_CACHE"
PARTIAL = ".partial-"
"""What the name of a file that is still being written begins with."""

_REASONS = {
    errno.ENOSPC: ("no space is left on the device", "free some space or use another disk"),
    errno.EDQUOT: ("the disk quota is used up", "free some space or use another disk"),
    errno.EFBIG: ("the file is larger than the system allows", "raise the limit (ulimit -f) or use another disk"),
    errno.EACCES: ("permission denied", "choose a folder that you may write to"),
    errno.EPERM: ("permission denied", "choose a folder that you may write to"),
    errno.EROFS: ("the file system is read-only", "use another folder, or a copy of this one elsewhere"),
    errno.ENOENT: ("its folder does not exist", "create it or choose another"),
    errno.ENOTDIR: ("a part of its path is a file, not a folder", "choose another path"),
    errno.EEXIST: ("a file of that name is in the way", "choose another path"),
    errno.EISDIR: ("it is a folder", "give the path of a file"),
    errno.ENOLCK: ("its file system has no locks left or knows none", "choose a folder on another file system"),
    errno.EOPNOTSUPP: ("its file system knows no locks", "choose a folder on another file system"),
    errno.ENAMETOOLONG: ("the name is too long", "choose a shorter one"),
    errno.ELOOP: ("its links point at each other", "remove one of them, or choose another path"),
    errno.EMFILE: ("too many files are open", "raise the limit (ulimit -n)"),
    errno.EIO: ("the device does not answer as it should", "check the disk, or use a copy elsewhere"),
    errno.ESTALE: ("its network file system has lost it", "mount it again, or use a copy elsewhere"),
}
_ALLOW = "give this user access to it and to the folders it is in, or use a copy that is the user's own"
# Where reading or writing was refused: not that something is or is not there, which is for us to look at beforehand.
_REFUSALS = {
    number: (reason, _ALLOW if number in (errno.EACCES, errno.EPERM) else fix)
    for number, (reason, fix) in _REASONS.items()
    if number not in (errno.ENOENT, errno.EEXIST, errno.ENOLCK, errno.EOPNOTSUPP)
}


def user_path(path: Path | str) -> Path:
    """`path` as a user gave it, with a `~` or `~name` in front as that home folder: shells leave it in `--out=~/x`.

    Raises UserError for a home folder that nobody has.
    """
    expanded = os.path.expanduser(path)
    if os.fspath(expanded).startswith("~"):
        raise UserError(f"{path} begins with nobody's home folder; give a whole path, or ./{path} for that name")
    found = Path(expanded)
    # `./~` is a folder of that name, and as a Path has lost its dot.
    return found.absolute() if str(found).startswith("~") else found


def cache_folder() -> Path:
    """The folder in THRIFTNET_CACHE, else the user's own cache; it need not exist."""
    import pooch

    return user_path(os.environ.get(CACHE_VARIABLE) or pooch.os_cache("thriftnet"))


def why_refused(error: BaseException) -> str | None:
    """Reason and fix where the operating system refused access to a path that `error` names; None for other errors."""
    if not isinstance(error, OSError) or not isinstance(error.filename, str | bytes | os.PathLike):
        return None
    found = _REFUSALS.get(error.errno or 0)
    return None if found is None else "; ".join(found)


@contextmanager
def refusals_named() -> Iterator[None]:
    """Turn the first refusal in the block into a StorageError: its path, the reason, what is needed.

    Other errors, and those that name no path, pass: they are faults of this program. Also a decorator.
    """
    try:
        yield
    except OSError as error:
        why = why_refused(error)
        if why is None:
            raise
        raise StorageError(f"could not use {os.fsdecode(error.filename)}: {why}") from error


def storage_error(path: Path, error: OSError, safe: str) -> StorageError:
    """The one-line StorageError for a refused write to `path`; `safe` says what is unharmed."""
    unknown = (error.strerror or str(error), "check the disk and try again")
    reason, fix = _REASONS.get(error.errno or 0, unknown)
    return StorageError(f"could not write {path}: {reason}; {safe}; {fix}")


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a new empty file in the folder of `path`; when the block ends well, it takes the place of `path`.

    Whatever the block raises, the file is removed and an earlier `path` stays as it was. The yielded name ends as
    `path` does, because some writers look at the ending. A device or pipe (`/dev/stdout`) is yielded itself: replacing
    it would turn it into a file. Libraries that hide the OSError of a failed write in an error of their own
    (safetensors, torch.save) should write to memory first and use `write_atomic`.

    Raises StorageError for an OSError of the write, naming `path`, the reason, what is safe and the fix.
    """
    safe = "no incomplete file is left"
    temporary = None
    try:
        try:
            kind = os.stat(path).st_mode
        except FileNotFoundError:
            kind = stat.S_IFREG
        else:
            safe = "the earlier file is unchanged"
        if stat.S_ISDIR(kind):
            raise IsADirectoryError(errno.EISDIR, "it is a folder")
        if not stat.S_ISREG(kind):
            safe = "a part may have been written"
            yield path
            return
        # A link keeps pointing where it did: its target is replaced.
        final = Path(os.path.realpath(path))
        temporary = final.with_name(f"{PARTIAL}{secrets.token_hex(8)}{final.suffix}")
        os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
        yield temporary
        _flush(temporary)
        os.replace(temporary, final)
        safe = "the new file is in place but may not outlive a crash of the machine"
        _flush_folder(final.parent)
    except OSError as error:
        # Only this write's own errors: a block that could not read some other file says so itself.
        if error.filename is not None and os.fspath(error.filename) not in (str(temporary), str(path)):
            raise
        raise storage_error(path, error, safe) from error
    finally:
        if temporary is not None:
            # Where even this is refused (a read-only file system), the write has said so already.
            with suppress(OSError):
                temporary.unlink()


class _GivenUp(Exception):
    pass


def check_writable(path: Path) -> Path:
    """`path`, if `write_atomic` could write it; for before the work whose result it takes. Raises StorageError."""
    with suppress(_GivenUp), atomic_path(path):
        raise _GivenUp
    return path


def check_folder(path: Path) -> Path:
    """`path`, if it is a folder that can be written to, or could be made with its parents. Raises StorageError."""
    nearest = next(each for each in (path, *path.absolute().parents) if os.path.lexists(each))
    try:
        tempfile.TemporaryFile(dir=nearest).close()
    except OSError as error:
        raise storage_error(path, error, "nothing was done yet") from None
    return path


def write_atomic(path: Path, content: bytes | str) -> None:
    """Write `content` (a str as UTF-8, line ends as given) to `path`, whole or not at all.

    Of a str, what UTF-8 cannot hold (a file's name in other bytes) is escaped.

    Raises StorageError as `atomic_path` does.
    """
    with atomic_path(path) as temporary:
        temporary.write_bytes(escaped(content).encode() if isinstance(content, str) else content)


def parse_json(text: str | bytes) -> Any:
    """The value of a JSON text. Raises ValueError for a text that is none, or nested deeper than Python can follow."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deep") from None


def remove_partial_files(folder: Path) -> None:
    """Remove what killed writers left in `folder` and the folders in it. Nobody may be writing there."""
    for path in folder.rglob(f"{PARTIAL}*"):
        path.unlink()


def _flush(path: Path) -> None:
    """Without this a crash of the machine after the rename could leave an empty file under the real name."""
    descriptor = os.open(path, os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _flush_folder(folder: Path) -> None:
    if not hasattr(os, "O_DIRECTORY"):  # Windows cannot open a folder; its rename is journalled
        return
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EBADF):  # file systems that do not know it for folders
            raise
    finally:
        os.close(descriptor)
