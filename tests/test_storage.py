from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest

from thriftnet.errors import StorageError, UserError
from thriftnet.storage import atomic_path, check_folder, check_writable, refusals_named, user_path, write_atomic


def test_writes_text_and_bytes_exactly(tmp_path: Path) -> None:
    write_atomic(tmp_path / "a.txt", "é\r\n")
    write_atomic(tmp_path / "b", b"\x00\xff")
    assert (tmp_path / "a.txt").read_bytes() == b"\xc3\xa9\r\n"
    assert (tmp_path / "b").read_bytes() == b"\x00\xff"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.txt", "b"]


def test_mode_follows_the_umask(tmp_path: Path) -> None:
    previous = os.umask(0o027)
    try:
        write_atomic(tmp_path / "a", b"")
    finally:
        os.umask(previous)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o640


def test_the_final_name_appears_only_at_the_end(tmp_path: Path) -> None:
    final = tmp_path / "a.npz"
    with atomic_path(final) as temporary:
        temporary.write_bytes(b"new")
        assert temporary.parent == tmp_path
        assert temporary.suffix == ".npz"
        assert not final.exists()
    assert final.read_bytes() == b"new"


@pytest.mark.parametrize("failure", [RuntimeError("x"), KeyboardInterrupt()])
def test_a_failed_block_leaves_the_earlier_file_and_nothing_else(tmp_path: Path, failure: BaseException) -> None:
    final = tmp_path / "a"
    final.write_bytes(b"old")

    def write() -> None:
        with atomic_path(final) as temporary:
            temporary.write_bytes(b"half")
            raise failure

    with pytest.raises(type(failure)):
        write()
    assert final.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a"]


def test_a_full_disk_says_what_is_safe(tmp_path: Path) -> None:
    final = tmp_path / "a"
    message = "a: no space is left on the device; no incomplete file is left; free"
    with pytest.raises(StorageError, match=message), atomic_path(final):
        raise OSError(errno.ENOSPC, "No space left on device")
    final.write_bytes(b"old")
    with pytest.raises(StorageError, match="the earlier file is unchanged"), atomic_path(final):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert os.listdir(tmp_path) == ["a"]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="this system has no /dev/full")
def test_a_device_is_written_through_not_replaced() -> None:
    with pytest.raises(StorageError, match="/dev/full: no space is left"):
        write_atomic(Path("/dev/full"), b"x")
    write_atomic(Path("/dev/null"), b"x")
    assert stat.S_ISCHR(os.stat("/dev/full").st_mode)
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)


def test_missing_folder_folder_in_the_way_and_file_as_folder(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="its folder does not exist; no incomplete file is left; create it"):
        write_atomic(tmp_path / "missing" / "a", b"")
    with pytest.raises(StorageError, match="it is a folder"):
        write_atomic(tmp_path, b"")
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageError, match="is a file, not a folder"):
        write_atomic(tmp_path / "file" / "a", b"")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_an_unwritable_folder(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(StorageError, match="permission denied"):
        write_atomic(tmp_path / "a", b"")


def test_permission_refused_by_the_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(StorageError, match=r"permission denied; .*; choose a folder that you may write to"):
        write_atomic(tmp_path / "a", b"")
    assert os.listdir(tmp_path) == []


def test_a_link_keeps_pointing_at_the_replaced_target(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_bytes(b"old")
    link = tmp_path / "link"
    link.symlink_to(target)
    write_atomic(link, b"new")
    assert link.is_symlink()
    assert target.read_bytes() == b"new"


def test_an_error_about_another_file_is_not_blamed_on_this_write(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), atomic_path(tmp_path / "a"):
        (tmp_path / "other").read_bytes()
    assert os.listdir(tmp_path) == []


def test_a_home_folder_in_front_of_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert user_path("~/runs/a") == tmp_path / "runs" / "a"
    assert user_path(Path("~")) == tmp_path
    assert user_path("./~") == user_path(user_path("./~")) == Path.cwd() / "~"
    assert user_path("a/~") == Path("a/~")
    with pytest.raises(
        UserError, match=r"^~nobody-of-this-name/a begins with nobody's home .* give a whole path, or \./"
    ):
        user_path("~nobody-of-this-name/a")


@pytest.mark.parametrize(
    ("number", "message"),
    [
        (errno.EACCES, "permission denied; give this user access to it"),
        (errno.EPERM, "permission denied; give this user access to it"),
        (errno.EISDIR, "it is a folder; give the path of a file"),
        (errno.ENOTDIR, "a part of its path is a file, not a folder; choose another path"),
        (errno.ELOOP, "its links point at each other; remove one"),
        (errno.EMFILE, r"too many files are open; raise the limit \(ulimit -n\)"),
    ],
)
def test_a_refusal_becomes_one_line_with_path_and_remedy(number: int, message: str) -> None:
    with pytest.raises(StorageError, match=f"^could not use a/b: {message}"), refusals_named():
        raise OSError(number, "as the system says it", "a/b")


@pytest.mark.parametrize(
    "error",
    [
        FileNotFoundError(errno.ENOENT, "No such file or directory", "a"),
        FileExistsError(errno.EEXIST, "File exists", "a"),
        PermissionError(errno.EPERM, "Operation not permitted"),  # of no path
        OSError("no number"),
        ValueError("x"),
    ],
)
def test_faults_of_the_program_stay_visible(error: Exception) -> None:
    with pytest.raises(type(error)) as raised, refusals_named():
        raise error
    assert raised.value is error


def test_whether_a_file_could_be_written_is_told_beforehand(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"old")
    assert check_writable(tmp_path / "new") == tmp_path / "new"
    check_writable(tmp_path / "file")
    for wrong, why in {
        "no/a": "its folder does not exist",
        "file/a": "is a file, not a folder",
        ".": "a folder",
    }.items():
        with pytest.raises(StorageError, match=why):
            check_writable(tmp_path / wrong)
    assert (tmp_path / "file").read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]


def test_whether_a_folder_could_be_made_is_told_beforehand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_bytes(b"")
    assert check_folder(tmp_path / "a" / "b") == tmp_path / "a" / "b"
    check_folder(tmp_path)
    for wrong in ("file", "file/a"):
        with pytest.raises(StorageError, match=rf"{wrong}: a part of its path is a file.*; nothing was done yet"):
            check_folder(tmp_path / wrong)
    assert os.listdir(tmp_path) == ["file"]

    def refuse(**_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr("tempfile.TemporaryFile", refuse)
    with pytest.raises(StorageError, match="a: permission denied; nothing was done yet; choose a folder"):
        check_folder(tmp_path / "a")
