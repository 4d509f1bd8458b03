"""Every error that thriftnet raises on purpose.

    ThriftnetError                 exit status 1; the message says what happened, what is safe, what to do
    ├── UserError                  exit status 2; something the user gave cannot work
    │   ├── RecipeError            a recipe's key, type, value or combination
    │   ├── BudgetError            the network has more trainable parameters than the budget
    │   ├── DataError              data that cannot be found, read or used
    │   │   └── UnlabelledError    images whose labels are all absent
    │   ├── RunFolderError         a run folder that is missing, damaged, occupied or unwritable
    │   │   └── FolderInUseError   another process writes to it right now
    │   ├── StudyError             a study's file, folder or engine
    │   └── MissingExtraError      an optional dependency is not installed
    ├── NonFiniteLossError         the loss or gradient became NaN or infinite; the update was not applied
    │                              (of a trained run: its weights or outputs are)
    ├── StorageError               the operating system refused access (permission, a folder for a file, full disk)
    ├── ProcessLostError           another of several processes ended, or cannot be reached
    ├── OutOfMemoryError           the machine or the GPU has too little memory; never retried with a smaller batch
    └── Interrupted                Ctrl-C or SIGTERM; what was done is saved and can go on (exit status 130 or 143)

The command line prints the message of any of these as one line and never shows a traceback for them.
"""

from __future__ import annotations

import codecs
import difflib
from collections.abc import Iterable

ESCAPING = "thriftnet"
"""For `errors` of whatever encodes text: what the encoding cannot hold is escaped as `escaped` does."""
MOST_CHARACTERS = 10_000
"""Of a message: two of the longest paths that a system has, with the words around them."""


class ThriftnetError(Exception):
    """Base of every error that thriftnet raises on purpose.

    The message is one printable line, whatever was quoted in it: line breaks and a terminal's control characters come
    out escaped, and a long middle is left out.
    """

    exit_status = 1

    def __init__(self, message: str) -> None:
        super().__init__(_one_line(message))


class UserError(ThriftnetError):
    """Something the user gave cannot work; the message names it, its value and the fix."""

    exit_status = 2


class RecipeError(UserError):
    """A recipe has an unknown key, a wrong type, a value out of range or an impossible combination."""


class BudgetError(UserError):
    """The network has more trainable parameters than the budget allows."""


class DataError(UserError):
    """Data that cannot be found, read or used."""


class UnlabelledError(DataError):
    """Images without labels where labels are needed. `images`: how many there are."""

    def __init__(self, where: str, images: int) -> None:
        super().__init__(
            f"{where}: {images:,} images without labels; training and evaluation need labels (prediction does not)"
        )
        self.images = images


class RunFolderError(UserError):
    """A run folder that is missing, damaged, occupied or unwritable."""


class FolderInUseError(RunFolderError):
    """Another process, or another thread of this one, writes to the run folder right now."""


class StudyError(UserError):
    """A study's file, folder, storage or engine cannot work as given."""


class MissingExtraError(UserError):
    """An optional dependency is needed and not installed; the message names the extra."""


class NonFiniteLossError(ThriftnetError):
    """The loss or its gradient became NaN or infinite. Raised before the update, so the weights are still finite.

    Also raised where a trained run's weights or outputs are NaN or infinite, before anything is written.

    `step` counts from the epoch's first where another step than the latest was the first bad one; else None.
    """

    def __init__(self, message: str, step: int | None = None) -> None:
        super().__init__(message)
        self.step = step


class StorageError(ThriftnetError):
    """The operating system refused access to a path: permission, a folder in a file's place, full disk, quota."""


class ProcessLostError(ThriftnetError):
    """Another process of the same training ended or cannot be reached."""


class OutOfMemoryError(ThriftnetError):
    """The machine or the GPU has too little memory. Nothing is tried again with another batch."""


class Interrupted(ThriftnetError):
    """Ctrl-C or SIGTERM arrived; what was done is saved, and the message has the command that goes on.

    `signal_number` is 2 (SIGINT) or 15 (SIGTERM); the exit status is 128 + that number, as shells expect.
    """

    def __init__(self, message: str, signal_number: int) -> None:
        super().__init__(message)
        self.signal_number = signal_number
        self.exit_status = 128 + signal_number


def escaped(text: str) -> str:
    r"""`text` with bytes of a file's name that are no UTF-8 as `\xe9`: to be shown and stored, not to be opened."""
    return text.encode("utf-8", ESCAPING).decode()


def _escape(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    refused = error.object[error.start : error.end]
    # Python holds a byte that is no UTF-8 as a lone surrogate, 0xDC00 above it.
    held = (ord(each) - 0xDC00 if "\udc80" <= each <= "\udcff" else None for each in refused)
    return "".join(
        each.encode("ascii", "backslashreplace").decode() if byte is None else f"\\x{byte:02x}"
        for each, byte in zip(refused, held, strict=True)
    ), error.end


codecs.register_error(ESCAPING, _escape)


def _one_line(message: str) -> str:
    message = escaped(message)
    if len(message) > MOST_CHARACTERS:
        half = MOST_CHARACTERS // 2
        message = f"{message[:half]} ... {message[-half:]}"
    if message.isprintable():
        return message
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in message)


def nearest(word: str, candidates: Iterable[str]) -> str:
    """` - did you mean 'x'?` for the candidate nearest to `word`, or an empty string when none is near."""
    matches = difflib.get_close_matches(word, list(candidates), n=1, cutoff=0.6)
    return f" - did you mean {matches[0]!r}?" if matches else ""
