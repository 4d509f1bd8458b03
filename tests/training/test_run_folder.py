"""Files of a run: written whole, read back, and what is said of damaged ones."""

from pathlib import Path

import pytest
import torch
from torch import nn

from tests.training.conftest import tiny_recipe
from tests.training.test_records import ROW
from thriftnet.errors import RunFolderError
from thriftnet.training.run_folder import RunFolder, UnwrittenRunFolder

STATE = "resume-00000000.pt"


class Harmful:
    """Unpickles into a call."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (Path.touch, (Path("harm-was-done"),))


@pytest.fixture
def folder(out: Path) -> RunFolder:
    folder = RunFolder(out)
    folder.create()
    return folder


def test_recipe_weights_history_and_state_round_trip(folder: RunFolder) -> None:
    recipe = tiny_recipe()
    folder.write_recipe(recipe)
    assert folder.read_recipe() == recipe.model_copy(update={"name": "tiny"})
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).to(memory_format=torch.channels_last)
    folder.write_weights("selected", network, epoch=3)
    for name, tensor in folder.read_weights("selected").items():
        assert torch.equal(tensor, network.state_dict()[name])
    rows = [ROW | {"train_loss": 0.1 + 0.2, "validation_loss": None}]
    folder.write_history(rows)
    assert folder.read_history() == rows
    folder.write_resume_state({"history": rows, "tensor": torch.ones(2)})
    assert folder.read_resume_state()["history"] == rows


@pytest.mark.parametrize("name", ["recipe.toml", "metrics.csv", "selected.safetensors", STATE, "data.json"])
@pytest.mark.parametrize("damage", ["cut", "garbage", "empty"])
@pytest.mark.parametrize("listed", [True, False])
def test_damaged_files_are_named(folder: RunFolder, name: str, damage: str, listed: bool) -> None:
    folder.write_recipe(tiny_recipe())
    folder.write_json("data.json", {"location": "somewhere", "values": list(range(50))})
    folder.write_history([ROW | {"note": 1}])
    folder.write_weights("selected", nn.Linear(4, 4), epoch=1)
    folder.write_resume_state({"network": nn.Linear(4, 4).state_dict()})
    path = folder.path / name
    content = path.read_bytes()
    damaged = {"cut": content[: len(content) * 2 // 3] + b'"', "garbage": b"\x00\xff" * 40, "empty": b""}
    if name == "metrics.csv":  # any text is a table of some kind; what is not one:
        damaged = {"cut": b"epoch,train_loss\n1\n", "garbage": b"epoch\n\xff\xfe\n", "empty": b"epoch\nx\n"}
    path.write_bytes(damaged[damage])
    if not listed:  # the readers do without checksums too
        (folder.path / "SHA256SUMS").unlink()
    read = {
        "recipe.toml": folder.read_recipe,
        "metrics.csv": folder.read_history,
        "selected.safetensors": lambda: folder.read_weights("selected"),
        STATE: folder.read_resume_state,
        "data.json": lambda: folder.read_json("data.json"),
    }[name]
    with pytest.raises(RunFolderError, match=f"{name} is damaged"):
        read()


def test_a_resume_state_that_would_run_code_does_not(
    folder: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (folder.path / "SHA256SUMS").unlink()  # whoever sends such a file sends fitting checksums
    torch.save({"network": Harmful()}, folder.path / STATE)
    with pytest.raises(RunFolderError, match=rf"{STATE} is damaged"):
        folder.read_resume_state()
    assert not (tmp_path / "harm-was-done").exists()


def test_missing_files_and_folders(folder: RunFolder, out: Path) -> None:
    with pytest.raises(RunFolderError, match=r"has no recipe\.toml"):
        folder.require()
    with pytest.raises(RunFolderError, match="does not exist"):
        RunFolder(out / "absent").require()
    assert folder.read_history() == []


def test_a_file_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("")
    with pytest.raises(RunFolderError, match="is a file"):
        RunFolder(tmp_path / "run").create()


def test_the_folder_of_another_process_stays_unwritten(out: Path) -> None:
    folder = UnwrittenRunFolder(out)
    folder.create()
    folder.write_recipe(tiny_recipe())
    folder.write_json("data.json", {})
    folder.write_history([{"epoch": 1}])
    folder.write_weights("last", nn.Linear(1, 1), 1)
    folder.write_resume_state({})
    folder.log("started")
    assert not out.exists()
    out.mkdir()
    folder.discard()
    assert out.exists()
