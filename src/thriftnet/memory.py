"""Memory that runs out, of the machine or of a GPU: told apart from other errors and named in one line.

Nothing is tried again with less. A smaller batch is another training, so it is the user's to choose.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from thriftnet.errors import OutOfMemoryError, ThriftnetError

_SAYINGS = ("DefaultCPUAllocator", "out of memory", "bad_alloc", "STATUS_ALLOC_FAILED", "Cannot allocate memory")
"""What a RuntimeError of torch says where memory ran out: on the CPU, on GPUs, in C++, in cuDNN, for threads."""
_ASKED = re.compile(r"[Tt]ried to allocate ([\d.]+) (bytes|[KMGTP]i?B)|Unable to allocate ([\d.]+) ([KMGTP]iB)")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error of Python, NumPy, torch or the operating system means that there was not enough memory."""
    if isinstance(error, MemoryError):
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    return isinstance(error, RuntimeError) and any(saying in str(error) for saying in _SAYINGS)


@contextmanager
def named(explain: Callable[[], str]) -> Iterator[None]:
    """Turn memory that runs out in the block into OutOfMemoryError: what ran out, then a space and `explain()`."""
    try:
        yield
    except ThriftnetError:
        raise
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        raise OutOfMemoryError(f"{what_ran_out(error)} {explain()}") from None


def what_ran_out(error: BaseException) -> str:
    """`out of memory on the CPU, which could not give 3.0 GiB more,` as far as the error says so."""
    text = str(error)
    on_gpu = type(error).__name__ == "OutOfMemoryError" or any(word in text for word in ("CUDA", "CUBLAS", "MPS"))
    where = "the GPU" if on_gpu else "the CPU"
    asked = _ASKED.search(text)
    if asked is None:
        return f"out of memory on {where}"
    number, unit = (asked[1], asked[2]) if asked[1] else (asked[3], asked[4])
    size = _readable(int(number)) if unit == "bytes" else f"{number} {unit}"
    return f"out of memory on {where}, which could not give {size} more,"


def _readable(size: float) -> str:
    if size < 1024:
        return f"{size:.0f} bytes"
    power = 1 if size < 1024**2 else 2 if size < 1024**3 else 3
    return f"{size / 1024**power:.1f} {('KiB', 'MiB', 'GiB')[power - 1]}"
