"""One writer a run folder."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tests.training.conftest import TinySource, tiny_recipe
from tests.training.test_loop import run
from thriftnet import inference
from thriftnet.errors import RunFolderError
from thriftnet.run import load_run
from thriftnet.training.lock import LOCK, RECORD_BYTES, only_writer
from thriftnet.training.run_folder import RunFolder

HOLD = "import sys, time; from pathlib import Path; from thriftnet.training.lock import only_writer\n" \
    "with only_writer(Path(sys.argv[1])):\n    print('held', flush=True); time.sleep(600)"  # fmt: skip


@pytest.fixture
def another_writer(out: Path) -> subprocess.Popen[str]:
    """A process that holds the folder of a finished run."""
    run(tiny_recipe(training={"epochs": 1}), out)
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(out)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_the_second_writer_is_refused_and_told_by_whom(another_writer: subprocess.Popen[str], out: Path) -> None:
    try:
        files = {path.name: path.read_bytes() for path in out.iterdir()}
        expected = rf"run folder {out} is in use: process {another_writer.pid} on \S+ has been writing to it since 20"
        with pytest.raises(RunFolderError, match=expected):
            run(tiny_recipe(training={"epochs": 1}), out, resume=True)
        with pytest.raises(RunFolderError, match=expected):
            RunFolder(out).log("evaluated")
        with pytest.raises(RunFolderError, match=expected):
            inference.measure(load_run(out))
        assert {path.name: path.read_bytes() for path in out.iterdir()} == files
        assert len(RunFolder(out).read_history()) == 1  # reading is free
        another_writer.send_signal(signal.SIGSTOP)  # one that is stopped is not dead
        with pytest.raises(RunFolderError, match="in use"):
            RunFolder(out).log("evaluated")
    finally:
        another_writer.kill()
        another_writer.wait()


def test_the_lock_of_a_killed_process_is_free_and_its_debris_is_taken_away(
    another_writer: subprocess.Popen[str], out: Path
) -> None:
    (out / "figures").mkdir()
    for debris in (out / ".partial-1.pt", out / "figures" / ".partial-2.png"):
        debris.write_bytes(b"half")
    another_writer.kill()
    another_writer.wait()
    assert json.loads((out / LOCK).read_bytes())["pid"] == another_writer.pid
    run(tiny_recipe(training={"epochs": 1}), out, resume=True)
    assert not list(out.rglob(".partial-*"))
    assert (out / LOCK).read_bytes() == b" " * RECORD_BYTES


def test_temporary_files_beside_a_finished_writer_are_somebody_elses(tmp_path: Path) -> None:
    with only_writer(tmp_path):
        pass
    (tmp_path / ".partial-1.csv").write_bytes(b"predictions")
    with only_writer(tmp_path):
        assert (tmp_path / ".partial-1.csv").exists()


def test_a_thread_may_enter_again_and_another_may_not(tmp_path: Path) -> None:
    found: list[str] = []

    def other() -> None:
        try:
            with only_writer(tmp_path):
                found.append("entered")
        except RunFolderError as error:
            found.append(str(error))

    with only_writer(tmp_path), only_writer(tmp_path / "." / ""):
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
    assert f"in use: process {os.getpid()} on " in found[0]
    other()
    assert found[1] == "entered"


def test_a_folder_given_up_meanwhile_is_not_locked_twice(tmp_path: Path) -> None:
    with only_writer(tmp_path):
        (tmp_path / LOCK).unlink()  # as `discard` does
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("thriftnet.training.lock._held", set())
            with only_writer(tmp_path):
                assert (tmp_path / LOCK).exists()


def test_a_run_that_got_no_further_than_its_folder_is_begun_again(out: Path) -> None:
    recipe = tiny_recipe(training={"epochs": 1})
    RunFolder(out).create()
    RunFolder(out).write_json("data.json", {})
    (out / ".partial-1").write_bytes(b"")
    run(recipe, out)
    assert len(RunFolder(out).read_history()) == 1


def test_a_folder_with_other_things_in_it_is_left_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("")
    with pytest.raises(RunFolderError, match="is not empty"):
        run(tiny_recipe(), tmp_path, TinySource())
    assert os.listdir(tmp_path) == ["letter.txt"]
