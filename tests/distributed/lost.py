"""Processes that are lost, for tests/distributed/test_heartbeat.py: python -m tests.distributed.lost FOLDER.

Every rank is a real process with the real command line, forked from here because importing takes longer than the rest.
They meet as torchrun's do. Of each case FOLDER/results.json has, by rank, how it ended, after how many seconds, and
what it said.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch._dynamo
import torch.distributed as dist

from tests.conftest import write_tiny_data
from tests.training.conftest import tiny_recipe
from thriftnet import api as api
from thriftnet import cli
from thriftnet import recipe as recipes
from thriftnet.distributed import batchnorm as batchnorm
from thriftnet.distributed import heartbeat, processes
from thriftnet.training import loop

SILENT_S = 6.0
"""Instead of heartbeat.SILENT_S, so that the tests are short."""
GIVEN_UP_S = 90.0
AT_ONCE = 4
"""Cases; most of them wait."""

At = Callable[[Callable[[], None]], None]
"""Makes its argument be called at some moment."""


def in_an_epoch(act: Callable[[], None]) -> None:
    before, counted = loop.train_step, iter(range(10**9))

    def step(*arguments: Any) -> Any:
        if next(counted) == 5:  # the second of the second epoch
            act()
        return before(*arguments)

    loop.train_step = step


def in_an_evaluation(act: Callable[[], None]) -> None:
    before = loop.predict_logits

    def predict(*arguments: Any, **named: Any) -> Any:
        act()
        return before(*arguments, **named)

    loop.predict_logits = predict


def while_connecting(act: Callable[[], None]) -> None:
    before = dist.init_process_group

    def connect(*arguments: Any, **named: Any) -> Any:
        act()
        return before(*arguments, **named)

    dist.init_process_group = connect


def between_commands(act: Callable[[], None]) -> None:
    before = processes.Processes.one_first_on_each_machine

    def first(self: processes.Processes, compute: Any) -> Any:
        act()
        return before(self, compute)

    processes.Processes.one_first_on_each_machine = first  # type: ignore[method-assign]


def send(number: int) -> Callable[[], None]:
    return lambda: os.kill(os.getpid(), number)


def no_memory() -> None:
    raise torch.OutOfMemoryError(
        "CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has a total capacity of 79 GiB"
    )


def a_bug() -> None:
    raise KeyError("a bug")


@dataclass
class Case:
    """What happens to which of how many ranks."""

    at: At
    act: Callable[[], None]
    victim: int = 1
    world_size: int = 2
    launched: bool = False
    """Whether a process between this and the ranks plays torchrun; it is what is killed then."""
    pids: list[int] = field(default_factory=list)
    ended: dict[int, tuple[int, float]] = field(default_factory=dict)


CASES = {
    "killed in an epoch": Case(in_an_epoch, send(signal.SIGKILL)),
    "killed in an evaluation": Case(in_an_evaluation, send(signal.SIGKILL)),
    "killed before the training": Case(between_commands, send(signal.SIGKILL)),
    "killed while connecting": Case(while_connecting, send(signal.SIGKILL), world_size=3),
    "stopped in an epoch": Case(in_an_epoch, send(signal.SIGSTOP)),
    "stopped in an evaluation": Case(in_an_evaluation, send(signal.SIGSTOP)),
    "stopped while connecting": Case(while_connecting, send(signal.SIGSTOP)),
    "main killed": Case(in_an_epoch, send(signal.SIGKILL), victim=0),
    "main stopped": Case(in_an_epoch, send(signal.SIGSTOP), victim=0),
    "out of memory": Case(in_an_epoch, no_memory),
    "a bug": Case(in_an_epoch, a_bug),
    "launcher killed": Case(in_an_epoch, lambda: None, launched=True),
}


def train(folder: Path, name: str, rank: int, port: int) -> None:
    """What a rank does, in a process of its own."""
    case, said = CASES[name], os.open(folder / f"{name} {rank}.txt", os.O_WRONLY | os.O_CREAT)
    os.dup2(said, 1)
    os.dup2(said, 2)
    heartbeat.SILENT_S = processes.SILENT_S = SILENT_S
    place = {"RANK": rank, "WORLD_SIZE": case.world_size, "LOCAL_RANK": rank, "LOCAL_WORLD_SIZE": case.world_size,
             "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}  # fmt: skip
    os.environ.update({key: str(value) for key, value in place.items()})
    if case.launched:
        os.environ["TORCHELASTIC_RUN_ID"] = "none"
        in_an_epoch(lambda: (folder / f"{name} {rank} trains").touch())
    elif rank == case.victim:
        case.at(lambda: ((folder / f"{name} lost").touch(), case.act())[1])
    sys.argv = ["thriftnet", "train", str(folder / "tiny.toml"), "--data", str(folder / "tiny.npz"),
                "--out", str(folder / name)]  # fmt: skip
    status: Any = 0
    try:
        cli.main()
    except SystemExit as stop:
        status = stop.code
    except BaseException:
        traceback.print_exc()
        status = 70
    finally:
        for meeting in processes._met:  # what a normal end does, too
            meeting.leave()
        sys.stdout.flush()
        os._exit(status if isinstance(status, int) else 71)


def begin(folder: Path, name: str) -> None:
    case = CASES[name]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    ranks = folder / f"{name} ranks"
    launcher = os.fork() if case.launched else 0
    if launcher:
        case.pids = [launcher]
        return
    pids = []
    for rank in range(case.world_size):
        pid = os.fork()
        if pid == 0:
            train(folder, name, rank, port)
        pids.append(pid)
    if case.launched:
        ranks.write_text(json.dumps(pids))
        time.sleep(GIVEN_UP_S)
        os._exit(0)
    case.pids = pids


def lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def watch(folder: Path) -> dict[str, dict[str, Any]]:
    """Until every rank but the stopped ones has ended, or time is up; then nothing is left."""
    lost: dict[str, float] = {}
    coming, waiting, deadlines = list(CASES), set[str](), dict[str, float]()
    while coming or waiting:
        while coming and len(waiting) < AT_ONCE:
            name = coming.pop(0)
            begin(folder, name)
            waiting.add(name)
            deadlines[name] = time.monotonic() + GIVEN_UP_S
        for name in sorted(waiting):
            case, now = CASES[name], time.monotonic()
            if (
                case.launched
                and name not in lost
                and all((folder / f"{name} {rank} trains").exists() for rank in (0, 1))
            ):
                ranks = json.loads((folder / f"{name} ranks").read_text())
                os.kill(case.pids[0], signal.SIGKILL)
                os.waitpid(case.pids[0], 0)
                case.pids, lost[name] = ranks, now
            elif (folder / f"{name} lost").exists():
                lost.setdefault(name, now)
            if case.launched and name not in lost:
                continue
            for rank, pid in enumerate(case.pids):
                if rank not in case.ended:
                    ended, status = (0, 0) if case.launched else os.waitpid(pid, os.WNOHANG)
                    if ended or (case.launched and not lives(pid)):
                        code = os.waitstatus_to_exitcode(status) if ended else -1
                        case.ended[rank] = code, now - lost.get(name, now)
            others = set(range(case.world_size)) - (set() if case.launched else {case.victim})
            if others <= set(case.ended) or now > deadlines[name]:
                waiting.discard(name)
                for rank, pid in enumerate(case.pids):
                    if rank not in case.ended and lives(pid):
                        os.kill(pid, signal.SIGKILL)
        time.sleep(0.02)
    return {
        name: {
            str(rank): (*case.ended.get(rank, (None, None)), (folder / f"{name} {rank}.txt").read_text())
            for rank in range(case.world_size)
        }
        for name, case in CASES.items()
    }


def main() -> None:
    folder = Path(sys.argv[1])
    os.environ["TORCH_CPP_LOG_LEVEL"] = "ERROR"  # of no effect here: torch is loaded; for those that read the output
    write_tiny_data(folder / "tiny.npz")
    recipe = tiny_recipe(training={"epochs": 100_000}, runtime={"kernels": "no"})
    (folder / "tiny.toml").write_text(recipes.to_toml(recipe))
    (folder / "results.json").write_text(json.dumps(watch(folder)))


if __name__ == "__main__":
    main()
