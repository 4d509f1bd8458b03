"""What the tests of the whole program share: its command line, a tiny data set and one run trained on it."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from tests.training.conftest import TinySource, tiny_recipe
from thriftnet import cli
from thriftnet import recipe as recipes

if TYPE_CHECKING:
    from tests.ledger.conftest import Bench
    from thriftnet.ledger.write import Ledger


@dataclass(frozen=True)
class Outcome:
    """What a command left behind."""

    status: int
    stdout: str
    stderr: str

    @property
    def last_line(self) -> str:
        """Of standard output: what a script reads."""
        return self.stdout.splitlines()[-1]

    @property
    def error(self) -> str:
        """The one line on standard error of a command that failed on purpose."""
        assert self.status != 0, self.stdout
        assert "Traceback" not in self.stderr
        assert self.stderr.startswith("thriftnet: ")
        assert self.stderr.count("\n") == 1
        return self.stderr.removesuffix("\n")


def thriftnet(*arguments: object) -> Outcome:
    """The installed command, entry point and all, but in this process."""
    stdout, stderr = io.StringIO(), io.StringIO()
    status: object = 0
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(stdout), contextlib.redirect_stderr(stderr):
        patch.setattr(sys, "argv", ["thriftnet", *map(str, arguments)])
        try:
            cli.main()
        except SystemExit as stop:
            status = stop.code or 0
    assert isinstance(status, int)
    return Outcome(status, stdout.getvalue(), stderr.getvalue())


@dataclass(frozen=True)
class Trained:
    """A run folder, what the command that made it said, and what it was made from."""

    path: Path
    outcome: Outcome
    recipe: Path
    data: Path


def write_tiny_data(path: Path) -> None:
    """90 training and 90 test images, [1, 16, 16], in three classes of brightness, as `.npz`."""
    source = TinySource(sealed=False)
    train, test = source.train(), source.test()
    np.savez(
        path,
        x_train=train.images.numpy(),
        y_train=train.labels.numpy(),
        x_test=test.images.numpy(),
        y_test=test.labels.numpy(),
        class_names=np.array(source.class_names),
    )


@pytest.fixture(scope="session")
def shared_run(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """Trained once; tests that write into it take `trained`."""
    folder = tmp_path_factory.mktemp("tiny")
    recipe, data, path = folder / "tiny.toml", folder / "tiny.npz", folder / "run"
    recipe.write_text(recipes.to_toml(tiny_recipe(training={"epochs": 12})), encoding="utf-8")
    write_tiny_data(data)
    outcome = thriftnet("train", recipe, "--data", data, "--out", path)
    assert outcome.status == 0, outcome.stderr
    return Trained(path, outcome, recipe, data)


@pytest.fixture
def trained(shared_run: Trained, tmp_path: Path) -> Trained:
    """A copy of the shared run, for this test alone."""
    path = tmp_path / "run"
    shutil.copytree(shared_run.path, path)
    return Trained(path, shared_run.outcome, shared_run.recipe, shared_run.data)


@pytest.fixture(scope="session")
def shared_ledger(tmp_path_factory: pytest.TempPathFactory) -> tuple[Bench, Ledger]:
    """A whole ledger of two made-up papers and two seeds, trained once; tests must not write into it."""
    from tests.ledger.conftest import make_bench  # it takes its data from here

    bench = make_bench(tmp_path_factory.mktemp("ledger"))
    return bench, bench.reproduce(seeds=2, width=0.5)


@dataclass(frozen=True)
class TwoProcesses:
    """What two real processes, connected by gloo, found in the scenarios of tests/distributed/worker.py."""

    folder: Path
    ranks: tuple[dict[str, Any], dict[str, Any]]

    def found(self, scenario: str) -> tuple[Any, Any]:
        """What the scenario returned in rank 0 and in rank 1."""
        for rank in self.ranks:
            assert f"{scenario} failed" not in rank, rank[f"{scenario} failed"]
        return self.ranks[0][scenario], self.ranks[1][scenario]


@pytest.fixture(scope="session")
def two_processes(tmp_path_factory: pytest.TempPathFactory) -> TwoProcesses:
    """Run once; the last scenario ends rank 1, which therefore has no result of it."""
    folder = tmp_path_factory.mktemp("two")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = {"WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    started = []
    for rank in range(2):
        variables = {**common, "RANK": rank, "LOCAL_RANK": rank, "OMP_NUM_THREADS": 1}
        started.append(
            subprocess.Popen(
                [sys.executable, "-m", "tests.distributed.worker", str(folder)],
                cwd=Path(__file__).parents[1],
                env=os.environ | {name: str(value) for name, value in variables.items()},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
        )
    try:
        said = [process.communicate(timeout=120)[0] for process in started]
    finally:
        for process in started:
            process.kill()
    assert [process.returncode for process in started] == [0, 9], "\n".join(said)
    found = [torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in range(2)]
    return TwoProcesses(folder, (found[0], found[1]))
