"""What the tests of the whole program share: its command line, a tiny data set and one run trained on it."""

from __future__ import annotations

import contextlib
import io
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from tests.training.conftest import TinySource, tiny_recipe
from thriftnet import cli
from thriftnet import recipe as recipes


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
