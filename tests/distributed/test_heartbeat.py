"""Real processes of the real command line: killed, stopped, without memory, without their launcher; never a hang."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.distributed.lost import CASES, SILENT_S
from thriftnet.distributed import heartbeat

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="/proc and fork")
BUSY_S = 15.0
"""What a busy machine may add."""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder where all cases ran, at the same time."""
    folder = tmp_path_factory.mktemp("lost")
    subprocess.run(
        [sys.executable, "-m", "tests.distributed.lost", str(folder)],
        cwd=Path(__file__).parents[2],
        env=os.environ | {"OMP_NUM_THREADS": "1", "TORCH_CPP_LOG_LEVEL": "ERROR"},
        check=True,
        timeout=300,
    )
    return folder


def outcome(place: Path, case: str, rank: int) -> tuple[int | None, float, list[str]]:
    """(exit status, seconds after the loss, lines of ours) of a rank that was not lost itself."""
    status, seconds, said = json.loads((place / "results.json").read_text())[case][str(rank)]
    assert status is not None, f"rank {rank} hangs; it said: {said}"
    assert "Traceback" not in said, said
    return status, seconds, [line for line in said.splitlines() if line.startswith("thriftnet: ")]


def test_the_limits_leave_less_than_thirty_seconds() -> None:
    for patience in (heartbeat.SILENT_S, heartbeat.BY_ITSELF_S):
        assert patience + heartbeat.OTHERS_FIRST_S + 3 * heartbeat.BEAT_S < 30


@pytest.mark.parametrize("case", [name for name in CASES if name.startswith(("killed", "stopped"))])
def test_a_lost_process_is_one_line_in_the_main_one(place: Path, case: str) -> None:
    status, seconds, lines = outcome(place, case, 0)
    assert status == 1
    assert seconds < (SILENT_S if case.startswith("stopped") or "connecting" in case else 0) + BUSY_S
    assert len(lines) == 1
    victim = CASES[case].victim
    if case.startswith("stopped"):
        why = f"said nothing for {SILENT_S:g} s (stopped, or its machine cannot be reached); "
        assert lines[0].startswith(f"thriftnet: process {victim} of 2 {why}")
    elif "connecting" not in case:
        assert lines[0].startswith("thriftnet: another process of this training has ended or cannot be reached; ")
    if "epoch" in case:
        assert lines[0].endswith(f"; epoch 1 of 100000 is saved; go on with: thriftnet train --resume '{place / case}'")


def test_while_connecting_every_process_that_is_left_says_one_line(place: Path) -> None:
    case = "killed while connecting"
    for rank in (0, 2):
        status, seconds, lines = outcome(place, case, rank)
        assert status == 1
        assert seconds < SILENT_S + heartbeat.OTHERS_FIRST_S + BUSY_S
        assert len(lines) <= 1
    assert not (place / case).exists()


@pytest.mark.parametrize("case", ["main killed", "main stopped"])
def test_where_the_main_process_is_lost_another_speaks(place: Path, case: str) -> None:
    status, seconds, lines = outcome(place, case, 1)
    assert status == 1
    assert seconds < (SILENT_S if case == "main stopped" else 5) + heartbeat.BY_ITSELF_S + BUSY_S
    assert len(lines) == 1
    assert " has ended or cannot be reached; " in lines[0]
    assert lines[0].endswith(f"; epoch 1 of 100000 is saved; go on with: thriftnet train --resume '{place / case}'")


@pytest.mark.parametrize(
    ("case", "kind"),
    [
        ("out of memory", "process 1 of 2: out of memory on the GPU, which could not give 20.00 GiB more, for a batch "
         "of 20 images of 16 x 16 px, 10 of them in each process in fp32, in epoch 2, step 2 of 4; no smaller batch "
         "was tried; "),
        ("a bug", "process 1 of 2 failed (KeyError: 'a bug'); "),
    ],
)  # fmt: skip
def test_the_main_process_tells_what_happened_to_the_other(place: Path, case: str, kind: str) -> None:
    status, _, lines = outcome(place, case, 0)
    assert status == 1
    assert len(lines) == 1
    assert lines[0].startswith(f"thriftnet: {kind}")
    assert lines[0].endswith(f"; epoch 1 of 100000 is saved; go on with: thriftnet train --resume '{place / case}'")
    said = json.loads((place / "results.json").read_text())[case]["1"]
    assert "thriftnet: " not in said[2]


def test_without_their_launcher_processes_save_and_end(place: Path) -> None:
    case = "launcher killed"
    for rank in (0, 1):
        _, seconds, lines = outcome(place, case, rank)
        assert seconds < heartbeat.BEAT_S + BUSY_S
        assert len(lines) == (2 if rank == 0 else 0)
        if rank == 0:
            assert lines[0] == "thriftnet: torchrun, which started this, has ended; saving and stopping"
            assert lines[1].startswith("thriftnet: interrupted; epoch ")
    last: dict[str, Any] = json.loads((place / case / "events.jsonl").read_text().splitlines()[-1])
    assert last["event"] == "interrupted"


@pytest.mark.parametrize(
    ("rank", "launched", "parent_is_gone", "says"),
    [(0, True, True, 1), (1, True, True, 0), (0, True, False, 0), (0, False, True, 0)],
)
def test_the_main_process_says_once_that_its_launcher_has_ended_though_another_noticed_first(
    rank: int,
    launched: bool,
    parent_is_gone: bool,
    says: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Seen on a busy machine: the other one made all stop, and the main one only said `interrupted`."""
    store: Any = None  # nothing here asks it
    beats = heartbeat.Heartbeat(rank, 2, store, launched)
    if parent_is_gone:
        monkeypatch.setattr(os, "getppid", lambda: 1 + beats._parent)
    beats.say_if_orphaned()
    beats.say_if_orphaned()
    assert capsys.readouterr().err.count("torchrun, which started this, has ended; saving and stopping\n") == says
