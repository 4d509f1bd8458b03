"""What goes wrong for a user, each case through the command line: the message, the exit status, what stays unharmed.

docs/messages.md has the commands and the messages, a section a case; they are run from there, so they cannot be wrong.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import os
import pickle
import re
import resource
import shlex
import shutil
import signal
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

import thriftnet as library
from tests.conftest import Outcome, Trained, thriftnet
from thriftnet.training import loop
from thriftnet.training.progress import SilentDisplay
from thriftnet.training.run_folder import RunFolder

DOCUMENT = Path(__file__).parents[1] / "docs" / "messages.md"


class Harmful:
    """Unpickles into a call."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch harm-was-done",)


class StopAfterOne(SilentDisplay):
    """Ends the process's work after the first epoch, as a lost machine would."""

    def epoch(self, row: dict[str, Any], selected: bool) -> None:
        raise KeyboardInterrupt


def nothing(here: Path) -> None:
    """The case needs nothing but the command."""


def no_images(here: Path) -> None:
    (here / "notes" / "cats").mkdir(parents=True)
    (here / "notes" / "cats" / "list.txt").write_text("cat 1, cat 2")


def truncated_archive(here: Path) -> None:
    rng = np.random.default_rng(0)
    batches = {name: {b"data": rng.integers(0, 256, (20, 3072), dtype=np.uint8), b"labels": list(range(10)) * 2}
               for name in [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]}  # fmt: skip
    with tarfile.open(here / "cifar-10-python.tar.gz", "w:gz") as archive:
        for name, batch in batches.items():
            content = pickle.dumps(batch)
            entry = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    whole = (here / "cifar-10-python.tar.gz").read_bytes()
    (here / "cifar-10-python.tar.gz").write_bytes(whole[: len(whole) // 2])


def harmful_pickles(here: Path) -> None:
    (here / "test.pkl").write_bytes(pickle.dumps({b"data": Harmful(), b"ids": [1]}))
    (here / "cifar").mkdir()
    for number in range(1, 6):
        (here / "cifar" / f"data_batch_{number}").write_bytes(pickle.dumps({b"data": Harmful(), b"labels": [1]}))


def parquet_without_labels(here: Path) -> None:
    pq.write_table(pa.table({"img": [{"bytes": png(value)} for value in range(5)]}), here / "images.parquet")


def corrupt_image(here: Path) -> None:
    for name, brightness in (("bright", 200), ("dark", 20)):
        (here / "photos" / name).mkdir(parents=True)
        for number in range(8):
            (here / "photos" / name / f"{number}.png").write_bytes(png(brightness + number))
    path = here / "photos" / "dark" / "0.png"
    path.write_bytes(path.read_bytes()[:50])


def half_deleted_runs(here: Path) -> None:
    for name, lost in {
        "no-recipe": ["recipe.toml"],
        "no-data": ["data.json"],
        "no-weights": ["selected.safetensors"],
        "no-outcome": ["result.json", "metrics.csv", "last.safetensors"],
        "no-state": ["resume-00000044.pt", "resume-00000048.pt"],
    }.items():
        shutil.copytree(here / "run", here / name)
        for file in lost:
            (here / name / file).unlink()


def damage(path: Path) -> None:
    """Flip one bit in the middle."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def flipped_bits(here: Path) -> None:
    damage(here / "run" / "selected.safetensors")
    shutil.copytree(here / "run", here / "states")
    for name in ("resume-00000044.pt", "resume-00000048.pt"):
        damage(here / "states" / name)


def repaired_by_resuming(here: Path) -> None:
    assert thriftnet("train", "--resume", "run").status == 0
    assert thriftnet("check", "run").status == 0


def recipe_changed_by_hand(here: Path) -> None:
    path = here / "run" / "recipe.toml"
    path.write_text(path.read_text().replace("epochs = 12", "epochs = 20"))


def full_disk(here: Path) -> None:
    mount(here / "disk", "size=1m")
    with pytest.raises(KeyboardInterrupt):
        library.train("tiny.toml", "tiny.npz", out="disk/run", display=StopAfterOne())
    (here / "disk" / "predictions.csv").write_text("earlier")
    with contextlib.suppress(OSError), (here / "disk" / "ballast").open("wb", buffering=0) as ballast:
        while True:
            ballast.write(bytes(1024))


@contextlib.contextmanager
def limited_files(most_bytes: int) -> Iterator[None]:
    """A limit of the process (`ulimit -f`) refuses writes as a full disk does, and needs no rights to set."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def room_for_no_figure() -> contextlib.AbstractContextManager[None]:
    """What a training writes fits, figures do not."""
    largest_bytes = max(path.stat().st_size for path in Path("run").glob("resume-*.pt")) + 1000
    assert Path("run/figures/augmented-batch.png").stat().st_size > largest_bytes
    return limited_files(largest_bytes)


def draws_what_is_missing(here: Path) -> None:
    weights = (here / "undrawn" / "last.safetensors").read_bytes()
    assert thriftnet("train", "--resume", "undrawn").status == 0
    assert (here / "undrawn" / "last.safetensors").read_bytes() == weights
    assert timeless("undrawn") == timeless("run")
    drawn, expected = ({path.name for path in (here / run / "figures").iterdir()} for run in ("undrawn", "run"))
    assert drawn == expected


def read_only(here: Path) -> None:
    mount(here / "disk", "size=1m")
    shutil.copytree(here / "run", here / "disk" / "run")
    subprocess.run(["mount", "-o", "remount,ro", here / "disk"], check=True)


ON_A_GPU = (
    "CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has a total capacity of 79.15 GiB of which 4 GiB is free."
)


@contextlib.contextmanager
def in_the_second_epoch(act: Callable[[], None]) -> Iterator[None]:
    """`act` is called in its second step."""
    before, count = loop.train_step, itertools.count()

    def step(*arguments: Any) -> Any:
        if next(count) == 5:
            act()
        return before(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "train_step", step)
        yield


def no_memory(*_: Any, **__: Any) -> Any:
    raise torch.OutOfMemoryError(ON_A_GPU)


@contextlib.contextmanager
def changed(target: str, value: object) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(target, value)
        yield


def harmful_states(here: Path) -> None:
    folder, state = RunFolder(here / "run"), io.BytesIO()
    torch.save({"network": Harmful()}, state)
    for name in ("resume-00000044.pt", "resume-00000048.pt"):
        folder.write_bytes(name, state.getvalue())


def goes_on_to_the_same_numbers(name: str) -> Callable[[Path], None]:
    def check(here: Path) -> None:
        assert thriftnet("train", "--resume", name).status == 0
        assert timeless(name) == timeless("run")

    return check


@dataclass(frozen=True)
class Case:
    """How the folder is prepared, what may change in it, and what must be true afterwards."""

    prepare: Callable[[Path], None] = nothing
    may_change: tuple[str, ...] = ()
    """Paths, with everything below them."""
    check: Callable[[Path], None] = nothing
    fault: Callable[[], contextlib.AbstractContextManager[None]] = contextlib.nullcontext
    """What goes wrong while the commands run."""


def resumes_once_there_is_space(here: Path) -> None:
    (here / "disk" / "ballast").unlink()
    assert thriftnet("train", "--resume", "disk/run").status == 0
    assert timeless("disk/run") == timeless("run")


def predicts_all_the_same(here: Path) -> None:
    assert thriftnet("predict", "disk/run", "tiny.npz", "--out", "p.csv").status == 0


def remade_on_resume(here: Path) -> None:
    assert thriftnet("train", "--resume", "no-outcome").status == 0
    assert thriftnet("train", "--resume", "no-data", "--data", "tiny.npz").status == 0
    assert thriftnet("train", "--resume", "no-weights").status == 0
    for name in ("result.json", "metrics.csv", "last.safetensors", "data.json", "selected.safetensors", "recipe.toml"):
        for remade in ("no-outcome", "no-data", "no-weights"):
            assert (here / remade / name).read_bytes() == (here / "run" / name).read_bytes(), (remade, name)


def says_where_in_its_events(here: Path) -> None:
    assert '"event": "non-finite loss", "epoch": 1, "step": 1' in (here / "steep" / "events.jsonl").read_text()
    assert not (here / "steep" / "selected.safetensors").exists()


CASES = {
    "A network over its budget": Case(),
    "A misspelt key": Case(),
    "A folder with no images": Case(no_images),
    "A truncated archive": Case(truncated_archive),
    "A pickle that tries to run code": Case(harmful_pickles),
    "A Parquet file without labels": Case(parquet_without_labels),
    "A corrupt image among good ones": Case(corrupt_image),
    "A run folder half deleted": Case(half_deleted_runs, check=remade_on_resume),
    "A flipped bit": Case(flipped_bits, check=repaired_by_resuming),
    "A recipe changed by hand": Case(recipe_changed_by_hand),
    "A full disk while training": Case(full_disk, check=resumes_once_there_is_space),
    "No room for the figures of a finished training": Case(
        may_change=("undrawn",), check=draws_what_is_missing, fault=room_for_no_figure
    ),
    "A full disk while predicting": Case(full_disk),
    "A full device": Case(),
    "A run folder that cannot be made": Case(),
    "A run folder in use": Case(),
    "A run folder that may only be read": Case(read_only, check=predicts_all_the_same),
    "Too little memory": Case(
        may_change=("small",), check=goes_on_to_the_same_numbers("small"), fault=lambda: in_the_second_epoch(no_memory)
    ),
    "Too little memory to predict": Case(fault=lambda: changed("thriftnet.predictor.predict_logits", no_memory)),
    "Stopped by SIGTERM": Case(
        may_change=("stopped",),
        check=goes_on_to_the_same_numbers("stopped"),
        fault=lambda: in_the_second_epoch(lambda: os.kill(os.getpid(), signal.SIGTERM)),
    ),
    "A resume state that tries to run code": Case(harmful_states),
    "A torch whose reader has known holes": Case(fault=lambda: changed("torch.__version__", "2.9.1")),
    "NaN in the loss": Case(may_change=("steep",), check=says_where_in_its_events),
}


@dataclass(frozen=True)
class Section:
    """A case as the document has it."""

    status: int
    commands: tuple[tuple[str, str], ...]
    """(command, message)."""


def sections() -> dict[str, Section]:
    found = {}
    for part in DOCUMENT.read_text(encoding="utf-8").split("\n## ")[1:]:
        status = re.search(r"Exit status (\d+)", part)
        assert status is not None, part
        blocks = "\n".join(re.findall(r"```console\n(.*?)\n```", part, re.DOTALL))
        commands = re.findall(r"^\$ (.+)\n(thriftnet: .+)$", blocks, re.MULTILINE)
        assert commands and 2 * len(commands) == len(blocks.splitlines()), part  # noqa: PT018
        found[part.splitlines()[0]] = Section(int(status[1]), tuple(commands))
    return found


def test_the_document_has_every_case() -> None:
    assert list(sections()) == list(CASES)


@pytest.mark.parametrize("title", CASES)
def test_message_status_and_what_stays_unharmed(title: str, workplace: Path) -> None:
    case, section = CASES[title], sections()[title]
    case.prepare(workplace)
    before = content(workplace, case.may_change)
    for command, message in section.commands:
        with case.fault():
            outcome = run(command)
        assert outcome.error.replace(f"{workplace}/", "") == message
        assert outcome.status == section.status
    assert content(workplace, case.may_change) == before
    case.check(workplace)


def run(command: str) -> Outcome:
    """A command of the document; where the shell has something to do, the shell does it."""
    program, *arguments = shlex.split(command)
    assert program == "thriftnet"
    if ">" not in arguments:
        outcome = thriftnet(*arguments)
        # What a training says before it fails is progress.
        return Outcome(outcome.status, outcome.stdout, outcome.stderr[outcome.stderr.find("thriftnet: ") :])
    if not os.path.exists(arguments[-1]):
        pytest.skip(f"this system has no {arguments[-1]}")
    real = command.replace("thriftnet", f"{shlex.quote(sys.executable)} -m thriftnet.cli", 1)
    finished = subprocess.run(["sh", "-c", real], capture_output=True, text=True)
    return Outcome(finished.returncode, finished.stdout, finished.stderr)


def test_a_repaired_data_set_can_be_trained_on_with_the_same_command(workplace: Path) -> None:
    """The failure leaves no run folder behind that the second attempt would stumble over."""
    corrupt_image(workplace)
    command = (
        "train",
        "tiny.toml",
        "--data",
        "photos",
        "--out",
        "new",
        "--epochs",
        1,
        "--set",
        "data.validation_images=2",
    )
    assert thriftnet(*command).status == 2
    (workplace / "photos" / "dark" / "0.png").write_bytes(png(20))
    assert thriftnet(*command).status == 0


def test_a_file_larger_than_the_system_allows(workplace: Path) -> None:
    with limited_files(4096):  # the weights have 7 KB
        outcome = thriftnet("train", "tiny.toml", "--data", "tiny.npz", "--out", "new")
    assert outcome.status == 1
    assert outcome.stderr.splitlines()[-1] == (
        "thriftnet: could not write new/resume-00000004.pt: the file is larger than the system allows; no incomplete "
        "file is left; raise the limit (ulimit -f) or use another disk; no epoch was completed yet; go on with: "
        "thriftnet train --resume new"
    )
    assert {path.name for path in Path("new").iterdir()} == {
        "recipe.toml", "environment.json", "data.json", "events.jsonl", "SHA256SUMS", ".lock",
        "seen-images.safetensors",
    }  # fmt: skip
    assert thriftnet("train", "--resume", "new").status == 0
    assert timeless("new") == timeless("run")


def test_a_run_that_could_not_begin_begins_again_with_the_same_command(workplace: Path) -> None:
    command = ("train", "tiny.toml", "--data", "tiny.npz", "--out", "new")
    with limited_files(Path("run/recipe.toml").stat().st_size - 1):
        outcome = thriftnet(*command)
    assert outcome.status == 1
    assert outcome.stderr.splitlines()[-1].endswith("; nothing was trained; the same command begins again")
    assert thriftnet(*command).status == 0


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere; the read-only file system stands in for this")
def test_a_run_folder_without_permission(workplace: Path) -> None:
    (workplace / "run").chmod(0o500)
    before = content(workplace)
    outcome = thriftnet("report", "run")
    (workplace / "run").chmod(0o700)
    assert outcome.status == 1
    assert "could not write run/report.html: permission denied" in outcome.error
    assert content(workplace) == before


@pytest.fixture
def workplace(shared_run: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder that the document speaks of, as the current one; what is mounted in it is taken away in the end."""
    shutil.copytree(shared_run.path, tmp_path / "run")
    shutil.copy(shared_run.recipe, tmp_path / "tiny.toml")
    shutil.copy(shared_run.data, tmp_path / "tiny.npz")
    folder = RunFolder(tmp_path / "run")
    folder.write_json("data.json", folder.read_json("data.json") | {"location": str(tmp_path / "tiny.npz")})
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    while os.path.ismount(tmp_path / "disk"):
        subprocess.run(["umount", tmp_path / "disk"], check=True)


def mount(folder: Path, options: str) -> None:
    """A small file system in memory at `folder`; skips the test where this user may not mount one."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True).returncode != 0:
        pytest.skip("this user cannot mount a small tmpfs; the other full disks are tested without one")


def content(folder: Path, except_below: tuple[str, ...] = ()) -> dict[str, bytes]:
    found = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    return {
        name: path.read_bytes()
        for name, path in found.items()
        if not any(Path(name).is_relative_to(changing) for changing in except_below)
    }


def timeless(run_path: str) -> list[dict[str, Any]]:
    """metrics.csv without what differs between any two trainings."""
    rows = RunFolder(run_path).read_history()
    return [{key: value for key, value in row.items() if key not in ("images_per_s", "elapsed_s")} for row in rows]


def png(brightness: int) -> bytes:
    file = io.BytesIO()
    Image.new("L", (16, 16), brightness).save(file, "PNG")
    return file.getvalue()
