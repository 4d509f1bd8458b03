"""Kernels in C++, compiled for this processor at first use and kept in the cache folder.

A source includes nothing of torch and is called through ctypes, so it compiles in seconds and no torch version binds
it. It must run on torch's own OpenMP threads (a second pool of threads would fight with the first for the cores), so it
is linked to the OpenMP library that torch has loaded.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import platform
import shlex
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path

import torch

from thriftnet.errors import StorageError
from thriftnet.storage import CACHE_VARIABLE, cache_folder, write_atomic

SOURCES = Path(__file__).parent
COMPILERS = ("g++", "c++", "clang++")
FLAGS = ("-O3", "-march=native", "-std=c++17", "-fPIC", "-fopenmp")
WIDE_VECTORS = "-mprefer-vector-width=512"
"""x86 compilers take 256 bits by default; bfloat16 in integer arithmetic is up to 1.5 times faster in 512."""
COMPILE_TIMEOUT_S = 300


class KernelsUnavailable(Exception):
    """No kernel can be had here; the message says why and what to do. It never reaches a user as an exception."""


@cache
def load_kernels(name: str) -> ctypes.CDLL:
    """The library built from `name`.cpp, compiled here unless the cache folder holds it.

    The cached file's name is a hash of source, command, compiler, processor and torch. Several processes may build at
    once: each writes a file of its own, and the last one to be renamed stays. What another user may have written is
    never loaded, nor is a file that is not as it was compiled. Raises KernelsUnavailable.
    """
    source = SOURCES / f"{name}.cpp"
    compiler = find_compiler()
    openmp = _openmp_of_torch()
    flags = [*FLAGS, WIDE_VECTORS] if platform.machine() in ("x86_64", "AMD64") else [*FLAGS]
    depends_on = [compiler, _run([*compiler, "--version"]), flags, str(openmp), torch.__version__, _processor()]
    key = hashlib.sha256(source.read_bytes() + json.dumps(depends_on).encode()).hexdigest()[:24]
    library = cache_folder() / "kernels" / f"{name}-{key}.so"
    try:
        return _loaded(_cached(library) or _compiled_into(library, lambda: _compile(compiler, flags, source, openmp)))
    except StorageError as error:
        raise KernelsUnavailable(f"{error}, or set THRIFTNET_CACHE") from None
    except OSError as error:
        raise KernelsUnavailable(f"{library} could not be used ({error}); remove it or set THRIFTNET_CACHE") from None


def _compiled_into(library: Path, build: Callable[[], bytes]) -> bytes:
    """What `build` gives, also kept in the cache where no other user may change it; a shared cache keeps nothing."""
    library.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    content = build()
    if _is_only_ours(library.parent, stat.S_ISDIR):
        for path, text in ((library, content), (_digest_file(library), _digest(content))):
            write_atomic(path, text)
            path.chmod(0o600)
    else:
        _say(f"{library.parent} is not this user's alone, so kernels are compiled anew each time; set {CACHE_VARIABLE}")
    return content


def _cached(library: Path) -> bytes | None:
    """The library that this user compiled earlier; None where there is none, or one that may be somebody else's."""
    if not os.path.lexists(library):
        return None
    digest = _digest_file(library)
    ours = _is_only_ours(library.parent, stat.S_ISDIR) and all(
        _is_only_ours(path, stat.S_ISREG) for path in (library, digest)
    )
    if ours:
        content = library.read_bytes()
        if _digest(content) == digest.read_text(encoding="ascii", errors="replace"):
            return content
    why = "is not the one that was compiled" if ours else "is not this user's alone, or has no digest"
    _say(f"{library} {why}; kernels are compiled anew")
    return None


def _is_only_ours(path: Path, kind: Callable[[int], bool]) -> bool:
    """Whether `path` is a plain file or folder that this user owns and nobody else may write."""
    try:
        known = path.lstat()
    except OSError:
        return False
    return kind(known.st_mode) and known.st_uid == os.geteuid() and not known.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def _loaded(content: bytes) -> ctypes.CDLL:
    """The very bytes that were looked at: a path could lead elsewhere by now.

    The descriptor stays open, since the linker takes two libraries of one path for the same.
    """
    descriptor = os.memfd_create("thriftnet-kernels")
    with open(descriptor, "wb", closefd=False) as file:
        file.write(content)
    return ctypes.CDLL(f"/proc/self/fd/{descriptor}")


def _digest_file(library: Path) -> Path:
    return library.with_suffix(".sha256")


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _say(line: str) -> None:
    print(f"thriftnet: {line}", file=sys.stderr)


def find_compiler() -> list[str]:
    """The command in CXX, else the first of COMPILERS that is installed. Raises KernelsUnavailable."""
    wanted = shlex.split(os.environ.get("CXX", ""))
    for command in [wanted] if wanted else [[compiler] for compiler in COMPILERS]:
        if shutil.which(command[0]):
            return command
    if wanted:
        raise KernelsUnavailable(f"the compiler CXX = {shlex.join(wanted)!r} is not installed; correct or unset CXX")
    raise KernelsUnavailable("no C++ compiler is installed; install g++")


def _compile(compiler: list[str], flags: list[str], source: Path, openmp: Path) -> bytes:
    with tempfile.TemporaryDirectory(prefix="thriftnet-") as folder:
        # In two steps: linking with -fopenmp would bring in the compiler's own OpenMP library.
        compiled, linked = Path(folder, "kernel.o"), Path(folder, "kernel.so")
        _run([*compiler, *flags, "-c", str(source), "-o", str(compiled)])
        _run([*compiler, "-shared", "-Wl,-z,defs", str(compiled), str(openmp), "-lm", "-o", str(linked)])
        return linked.read_bytes()


def _run(command: list[str]) -> str:
    try:
        done = subprocess.run(
            command, capture_output=True, encoding="utf-8", errors="replace", check=True, timeout=COMPILE_TIMEOUT_S
        )
    except subprocess.CalledProcessError as error:
        complaint = next((line for line in error.stderr.splitlines() if "error" in line), f"status {error.returncode}")
        raise KernelsUnavailable(f"{command[0]} failed: {complaint.strip()}; install a recent g++") from None
    except (OSError, subprocess.TimeoutExpired) as error:
        raise KernelsUnavailable(f"{command[0]} failed: {error}; install a recent g++") from None
    return done.stdout


def _openmp_of_torch() -> Path:
    """The OpenMP library that torch calls; other packages (scikit-learn) may have loaded copies of their own."""
    try:
        torch_cpu = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"))
        address = ctypes.cast(torch_cpu.omp_get_max_threads, ctypes.c_void_p).value or 0
        mapped = Path("/proc/self/maps").read_text(encoding="utf-8").splitlines()
    except (OSError, AttributeError):
        raise KernelsUnavailable("kernels are built on Linux only, for a torch with OpenMP") from None
    for line in mapped:  # 7f00-7fff r-xp 00000000 08:01 1234   /path/of/the library
        fields = line.split(maxsplit=5)
        first, end = (int(bound, 16) for bound in fields[0].split("-"))
        if first <= address < end and len(fields) == 6:
            return Path(fields[5])
    raise KernelsUnavailable("the OpenMP library of torch was not found; install the official wheel")


def _processor() -> list[str]:
    """Model and instruction sets: what -march=native compiles for."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    wanted = ("model name", "flags", "Features", "CPU part")
    return sorted({line for line in lines if line.startswith(wanted)})
