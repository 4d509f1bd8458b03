"""Resume states that would run code, in every form that torch has ever read, and a torch whose reader has holes."""

from __future__ import annotations

import collections
import datetime
import io
import os
import pickle
import re
import tarfile
import tomllib
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.training.conftest import TinySource, tiny_recipe
from thriftnet.errors import RunFolderError, UserError
from thriftnet.training.checkpoint import SAFE_TORCH, require_safe_reader
from thriftnet.training.checksums import NAME as SUMS
from thriftnet.training.loop import fit
from thriftnet.training.progress import SilentDisplay
from thriftnet.training.run_folder import RunFolder

PROOF = "harm-was-done"


class Harmful:
    """Pickles as a call that leaves a folder behind."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (PROOF,)


def saved(value: object, **how: Any) -> bytes:
    file = io.BytesIO()
    torch.save(value, file, **how)
    return file.getvalue()


def in_a_tar() -> bytes:
    """The layout of torch 0.1: nothing stored, and a pickle."""
    parts = {
        "sys_info": {"protocol_version": 1000, "little_endian": True, "type_sizes": {"short": 2, "int": 4, "long": 4}},
        "pickle": {"network": Harmful()},
        "storages": 0,
        "tensors": 0,
    }
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name, value in parts.items():
            content = pickle.dumps(value, 2)
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return file.getvalue()


def torchscript() -> bytes:
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(torch.nn.Linear(1, 1)), file)
    return file.getvalue()


FOREIGN = r"it wants to use \S+, which no state needs and which was not run: do not trust this folder"
REFUSED = "it holds what torch's restricted reader refuses, and nothing of it was run: do not trust this folder"
OTHER_FORM = "File is not a zip file"  # refused before torch's readers of old forms see it
STATES: dict[str, tuple[Callable[[], bytes], str]] = {
    "zip": (lambda: saved({"network": Harmful()}), FOREIGN),
    "zip, protocol 4": (lambda: saved({"network": Harmful()}, pickle_protocol=4), REFUSED),
    "legacy": (lambda: saved({"network": Harmful()}, _use_new_zipfile_serialization=False), OTHER_FORM),
    "plain pickle": (lambda: pickle.dumps({"network": Harmful()}, 2), OTHER_FORM),
    "plain pickle of text": (lambda: pickle.dumps({"network": Harmful()}, 0), OTHER_FORM),
    "tar": (in_a_tar, OTHER_FORM),
    "torchscript": (torchscript, "it is compressed, which no state is"),
    "a date": (lambda: saved({"network": datetime.date(2020, 1, 1)}), FOREIGN),
    "a path": (lambda: saved({"network": Path("x")}), FOREIGN),
    "a function": (lambda: saved({"network": os.remove}), FOREIGN),
    "a deque": (lambda: saved({"network": collections.deque([1])}), FOREIGN),
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunFolder:
    monkeypatch.chdir(tmp_path)
    run = RunFolder(tmp_path / "run")
    fit(tiny_recipe(training={"epochs": 2}), TinySource(), run, SilentDisplay())
    return run


def plant(folder: RunFolder, content: bytes, updates: int = 8) -> None:
    """Put it in the state's place with a digest that fits, as whoever made the whole folder would."""
    folder.write_bytes(f"resume-{updates:08d}.pt", content)


@pytest.mark.parametrize("name", ["zip", "zip, protocol 4", "legacy"])
def test_the_attacks_are_real(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.load(io.BytesIO(STATES[name][0]()), weights_only=False)
    assert Path(PROOF).exists()


@pytest.mark.parametrize("listed", [True, False], ids=["with digests", "without digests"])
@pytest.mark.parametrize("variable", [None, "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"], ids=["", "unrestricted by variable"])
def test_what_is_no_training_state_is_refused_without_effect(
    folder: RunFolder, listed: bool, variable: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if variable is not None:
        monkeypatch.setenv(variable, "1")
    for name, (make, says) in STATES.items():
        for updates in (4, 8):
            plant(folder, make(), updates)
        if not listed:
            (folder.path / SUMS).unlink()
        with pytest.raises(RunFolderError) as caught:
            folder.find_resume_state()
        message = str(caught.value)
        assert message.startswith(f"{folder.path / 'resume-00000008.pt'} is damaged ("), name
        assert re.search(says, message), (name, message)
        assert "\n" not in message
        assert "likely succeed" not in message  # torch's advice to read it without the restriction
        assert not Path(PROOF).exists(), name


def test_a_refused_newest_state_gives_way_to_the_one_before_by_the_same_reader(folder: RunFolder) -> None:
    whole = folder.read_bytes("last.safetensors")
    plant(folder, STATES["zip"][0]())
    fit(tiny_recipe(training={"epochs": 2}), TinySource(), folder, SilentDisplay(), resume=True)
    assert folder.read_bytes("last.safetensors") == whole
    assert "posix.mkdir, which no state needs and which was not run" in (folder.path / "events.jsonl").read_text()
    assert not Path(PROOF).exists()


def test_a_state_with_another_or_no_digest_is_not_even_parsed(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.load", lambda *_, **__: pytest.fail("was parsed"))
    for updates in (4, 8):
        (folder.path / f"resume-{updates:08d}.pt").write_bytes(STATES["zip"][0]())
    with pytest.raises(RunFolderError, match="its SHA-256 is not the one in SHA256SUMS"):
        folder.find_resume_state()
    for updates in (4, 8):
        (folder.path / f"resume-{updates:08d}.pt").unlink()
    (folder.path / "resume-00000009.pt").write_bytes(STATES["zip"][0]())
    with pytest.raises(RunFolderError, match=r"resume-00000009.pt is damaged \(SHA256SUMS does not list it\)"):
        folder.find_resume_state()


@pytest.mark.parametrize("version", ["2.5.1", "2.6.0", "2.9.1+cpu", "1.13.1", "2.9.0a0+git123"])
def test_a_torch_with_known_holes_reads_no_state(
    folder: RunFolder, version: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.load", lambda *_, **__: pytest.fail("was read"))
    monkeypatch.setattr("torch.__version__", version)
    with pytest.raises(UserError) as caught:
        folder.find_resume_state()
    assert str(caught.value) == (
        f"torch {version} has known holes in its restricted reader of files (CVE-2026-24747, fixed in 2.10), so no "
        "resume state is read; nothing was changed; install torch 2.10 or newer"
    )


@pytest.mark.parametrize("version", ["2.10.0", "2.10.0a0", "2.13.0+cpu", "3.0.0"])
def test_a_torch_without_them_is_taken(version: str) -> None:
    require_safe_reader(version)


def test_the_package_asks_for_such_a_torch() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())
    required = next(line for line in project["project"]["dependencies"] if line.startswith("torch"))
    assert tuple(map(int, required.removeprefix("torch>=").split("."))) >= SAFE_TORCH
