"""Compiling at first use: the cache, processes that build at once, and every reason why there is no kernel."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from thriftnet.kernels import build
from thriftnet.kernels.build import KernelsUnavailable, load_kernels

SOURCE = 'extern "C" int answer() { return 42; }\n'


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Holds `tiny.cpp`; the cache is empty."""
    (tmp_path / "tiny.cpp").write_text(SOURCE)
    monkeypatch.setattr(build, "SOURCES", tmp_path)
    monkeypatch.setenv("THRIFTNET_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("CXX", raising=False)
    load_kernels.cache_clear()
    yield tmp_path
    load_kernels.cache_clear()


@pytest.fixture
def compiler() -> None:
    """Skips where nothing can be compiled."""
    try:
        build.find_compiler()
        build._openmp_of_torch()
    except KernelsUnavailable as problem:
        pytest.skip(str(problem))


def cached(folder: Path) -> list[Path]:
    return sorted((folder / "cache" / "kernels").glob("*.so"))


def test_compiles_once(compiler: None, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert load_kernels("tiny").answer() == 42
    [library] = cached(folder)
    load_kernels.cache_clear()
    monkeypatch.setattr(build, "_compile", None)
    assert load_kernels("tiny").answer() == 42
    assert cached(folder) == [library]


@pytest.mark.parametrize("changed", ["source", "flags", "processor"])
def test_compiles_again_where_something_changed(
    compiler: None, folder: Path, monkeypatch: pytest.MonkeyPatch, changed: str
) -> None:
    load_kernels("tiny")
    load_kernels.cache_clear()
    if changed == "source":
        (folder / "tiny.cpp").write_text(SOURCE.replace("42", "43"))
    elif changed == "flags":
        monkeypatch.setattr(build, "FLAGS", (*build.FLAGS, "-g"))
    else:
        monkeypatch.setattr(build, "_processor", lambda: ["model name: another"])
    assert load_kernels("tiny").answer() == (43 if changed == "source" else 42)
    assert len(cached(folder)) == 2


def test_builders_at_the_same_time_leave_one_whole_library(compiler: None, folder: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        libraries = list(pool.map(load_kernels.__wrapped__, ["tiny"] * 4))
    assert [library.answer() for library in libraries] == [42] * 4
    assert len(cached(folder)) == 1


def test_runs_on_the_threads_of_torch(compiler: None, folder: Path) -> None:
    (folder / "tiny.cpp").write_text('#include <omp.h>\nextern "C" int answer() { return omp_get_max_threads(); }\n')
    import sklearn.cluster  # noqa: F401  brings an OpenMP library of its own

    before = torch.get_num_threads()
    try:
        for threads in (3, 5):
            torch.set_num_threads(threads)
            assert load_kernels("tiny").answer() == threads
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("compiler", "says"),
    [
        ("", "no C++ compiler is installed; install g++"),
        ("no-such-compiler -x", "CXX = 'no-such-compiler -x' is not installed; correct or unset CXX"),
        ("/bin/false", "/bin/false failed: status 1; install a recent g++"),
    ],
)
def test_no_compiler(monkeypatch: pytest.MonkeyPatch, compiler: str, says: str) -> None:
    monkeypatch.setenv("CXX", compiler)
    if not compiler:
        monkeypatch.setenv("PATH", "")
    with pytest.raises(KernelsUnavailable, match=re.escape(says)):
        load_kernels("tiny")


def test_a_source_that_the_compiler_refuses(compiler: None, folder: Path) -> None:
    (folder / "tiny.cpp").write_text('extern "C" int answer() { return missing; }\n')
    with pytest.raises(KernelsUnavailable, match=r"failed: .*missing.*; install a recent g\+\+"):
        load_kernels("tiny")
    assert cached(folder) == []


def test_a_compiler_whose_words_are_not_utf_8(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    compiler = folder / "c++"
    compiler.write_bytes(b"#!/bin/sh\nprintf 'error: d\\351claration\\n' >&2\nexit 1\n")
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", str(compiler))
    with pytest.raises(KernelsUnavailable, match=r"failed: error: d.claration; install a recent g"):
        load_kernels("tiny")


def test_a_cache_that_cannot_be_written(compiler: None, folder: Path) -> None:
    (folder / "cache").write_text("a file in the way")
    with pytest.raises(KernelsUnavailable, match="set THRIFTNET_CACHE"):
        load_kernels("tiny")


@pytest.mark.parametrize(
    "attack", ["planted", "truncated", "no digest", "open folder", "open file", "a link", "another user"]
)
def test_only_what_this_user_compiled_is_loaded(
    compiler: None, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], attack: str
) -> None:
    """A library planted in a shared cache would run; a truncated one ends in a bus error."""
    assert load_kernels("tiny").answer() == 42
    load_kernels.cache_clear()
    [library] = cached(folder)
    if attack == "planted":
        (folder / "evil.cpp").write_text('extern "C" int answer() { return 666; }')
        load_kernels("evil")
        library.write_bytes(next(path for path in cached(folder) if "evil" in path.name).read_bytes())
    elif attack == "truncated":
        library.write_bytes(library.read_bytes()[:-100])
    elif attack == "no digest":
        library.with_suffix(".sha256").unlink()
    elif attack == "open folder":
        library.parent.chmod(0o777)
    elif attack == "open file":
        library.chmod(0o666)
    elif attack == "a link":
        library.rename(folder / "elsewhere.so")
        library.symlink_to(folder / "elsewhere.so")
    else:
        user = os.geteuid()
        monkeypatch.setattr(os, "geteuid", lambda: user + 1)
    capsys.readouterr()
    assert load_kernels("tiny").answer() == 42
    assert "compiled anew" in capsys.readouterr().err
    if attack in ("planted", "truncated", "no digest", "open file"):
        load_kernels.cache_clear()
        monkeypatch.setattr(build, "_compile", None)
        assert load_kernels("tiny").answer() == 42
        assert capsys.readouterr().err == ""


def test_two_libraries_are_told_apart(compiler: None, folder: Path) -> None:
    (folder / "other.cpp").write_text('extern "C" int answer() { return 7; }')
    assert (load_kernels("tiny").answer(), load_kernels("other").answer()) == (42, 7)


def test_a_damaged_library(compiler: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "_compile", lambda *_: b"damaged")
    with pytest.raises(KernelsUnavailable, match="remove it or set THRIFTNET_CACHE"):
        load_kernels("tiny")
