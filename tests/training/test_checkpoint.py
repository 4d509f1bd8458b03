"""Resume states: bit-exact within an epoch too, two of them kept, a damaged one left out, saves that fail or end."""

from __future__ import annotations

import errno
import json
import os
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tests.conftest import Trained, thriftnet
from tests.training.conftest import tiny_recipe
from tests.training.test_loop import RESUMABLE, StopAfter, run, timeless
from tests.training.test_records import RESULT, ROW
from thriftnet import predictor, storage
from thriftnet.config import RecipeConfig
from thriftnet.errors import Interrupted, NonFiniteLossError, RunFolderError, StorageError
from thriftnet.evaluation.predict import predict_logits
from thriftnet.training import loop
from thriftnet.training.checkpoint import newest_first, state_name
from thriftnet.training.progress import SilentDisplay
from thriftnet.training.run_folder import RunFolder

# ---- within an epoch


class StopWithin(SilentDisplay):
    """Sends a real signal to this process after the tenth step of an epoch."""

    def __init__(self, epoch: int, signal_number: int = signal.SIGTERM) -> None:
        self.at, self.signal_number = epoch, signal_number

    def step(self, epoch: int, step: int, loss: float, accuracy: float, images_per_s: float) -> None:
        if epoch == self.at:
            os.kill(os.getpid(), self.signal_number)


def small_batches(**sections: dict[str, Any]) -> RecipeConfig:
    """18 steps an epoch."""
    training = {"epochs": 3} | sections.get("training", {}) | {"batch_size": 4}
    return tiny_recipe(**sections | {"training": training | {"epochs": 3}})


def assert_same_result(found: RunFolder, expected: RunFolder) -> None:
    assert timeless(found.read_history()) == timeless(expected.read_history())
    for which in ("selected", "last"):
        tensors, wanted = found.read_weights(which), expected.read_weights(which)
        assert tensors.keys() == wanted.keys()
        assert all(torch.equal(tensors[name], wanted[name]) for name in wanted)


WITHIN_AN_EPOCH = RESUMABLE | {
    "adam": {"optimizer": {"name": "adam", "lr": 0.01}},
    "adamw with clipping": {"optimizer": {"name": "adamw", "lr": 0.01, "clip_norm": 0.5}},
    "momentum": {"optimizer": {"name": "sgd", "momentum": 0.9, "nesterov": True}},
    "one cycle in its rise": {"schedule": {"name": "one_cycle", "cycle_momentum": [0.85, 0.95]}},
    "sam": {"perturbation": {"name": "sam"}},
    "bf16": {"runtime": {"precision": "bf16"}},
    "dropped last batch": {"training": {"drop_last": True}},
    "no validation": {"data": {"validation_images": 0}, "training": {"selection": "last"}},
}


@pytest.mark.parametrize("sections", WITHIN_AN_EPOCH.values(), ids=WITHIN_AN_EPOCH.keys())
def test_a_resume_within_an_epoch_gives_the_uninterrupted_result_bit_for_bit(
    out: Path, sections: dict[str, Any]
) -> None:
    recipe = small_batches(**sections)
    whole, parts = run(recipe, out / "whole"), RunFolder(out / "parts")
    with pytest.raises(Interrupted, match="epoch 1 of 3 is saved up to step 10 of "):
        run(recipe, parts.path, display=StopWithin(1))
    with pytest.raises(Interrupted, match="epoch 2 of 3 is saved up to step 10 of ") as caught:
        run(recipe, parts.path, display=StopWithin(2), resume=True)
    assert caught.value.exit_status == 143
    assert str(caught.value).endswith(f"go on with: thriftnet train --resume {parts.path}")
    assert len(parts.read_history()) == 1
    run(recipe, parts.path, resume=True)
    assert_same_result(parts, whole)
    events = [json.loads(line) for line in (parts.path / "events.jsonl").read_text().splitlines()]
    assert [(e["epoch"], e["step"]) for e in events if e["event"] == "resumed"] == [(0, 10), (1, 10)]


def test_a_signal_in_the_evaluation_stops_there_and_no_step_is_made_twice(
    out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = small_batches(training={"evaluation_batch_size": 4})
    whole = run(recipe, out / "whole")
    batches: list[int] = []

    def logits(network: nn.Module, images: torch.Tensor, *rest: Any, **options: Any) -> torch.Tensor:
        stop = options["before_batch"]

        def heed() -> None:
            batches.append(1)
            if len(batches) == 2:
                os.kill(os.getpid(), signal.SIGTERM)
            stop()

        return predict_logits(network, images, *rest, **options | {"before_batch": heed})

    with monkeypatch.context() as patch:
        patch.setattr(loop, "predict_logits", logits)
        with pytest.raises(Interrupted, match="1 of 3 is saved up to step 18 of 18"):
            run(recipe, out / "parts")
    assert len(batches) == 2  # of five
    run(recipe, out / "parts", resume=True)
    assert_same_result(RunFolder(out / "parts"), whole)


def test_the_state_is_saved_again_and_again_within_an_epoch(out: Path) -> None:
    class Killed(SilentDisplay):
        """Ends the work as SIGKILL would: nothing is saved for it."""

        def step(self, epoch: int, step: int, loss: float, accuracy: float, images_per_s: float) -> None:
            if epoch == 2:
                raise KeyboardInterrupt

    recipe = small_batches(runtime={"checkpoint_minutes": 1e-6})
    with pytest.raises(KeyboardInterrupt):
        run(recipe, out / "parts", display=Killed())
    states = newest_first(os.listdir(out / "parts"))
    assert states == [state_name(18 + 9), state_name(18 + 8)]  # killed in the report after the tenth step
    run(recipe, out / "parts", resume=True)
    assert_same_result(RunFolder(out / "parts"), run(recipe, out / "whole"))


def test_the_last_weights_are_those_of_a_whole_epoch(out: Path) -> None:
    class Started(SilentDisplay):
        def start(self, *_: Any) -> None:
            raise KeyboardInterrupt

    recipe = small_batches()
    for path, stop in ((out / "whole epoch", StopAfter(1)), (out / "within", StopWithin(2))):
        with pytest.raises(Interrupted):
            run(recipe, path, display=stop)
    expected = (out / "whole epoch" / "last.safetensors").read_bytes()
    assert (out / "within" / "last.safetensors").read_bytes() == expected
    with pytest.raises(KeyboardInterrupt):
        run(recipe, out / "within", display=Started(), resume=True)
    assert (out / "within" / "last.safetensors").read_bytes() == expected


# ---- two states, and which one is taken


def test_two_states_are_kept_and_the_newest_is_taken(out: Path) -> None:
    folder = run(tiny_recipe(), out)
    assert newest_first(os.listdir(out)) == [state_name(16), state_name(12)]
    assert folder.find_resume_state().name == state_name(16)
    assert newest_first(["resume-100000000.pt", "resume-99999999.pt", "resume.pt", "resume-1.pt"]) == [
        "resume-100000000.pt",
        "resume-99999999.pt",
    ]


@pytest.mark.parametrize("stop", [StopAfter(3), StopWithin(3)], ids=["epoch", "within an epoch"])
@pytest.mark.parametrize("damage", ["flipped bit", "cut", "empty", "gone"])
def test_a_damaged_newest_state_falls_back_to_the_one_before_and_says_so(
    out: Path, damage: str, stop: SilentDisplay
) -> None:
    recipe = tiny_recipe(training={"epochs": 4, "batch_size": 4})
    with pytest.raises(Interrupted):
        run(recipe, out / "parts", display=stop)
    newest = newest_first(os.listdir(out / "parts"))[0]
    path = out / "parts" / newest
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    match damage:
        case "gone":
            path.unlink()
        case _:
            path.write_bytes({"flipped bit": bytes(content), "cut": content[:1000], "empty": b""}[damage])

    class Told(SilentDisplay):
        lines: tuple[str, ...] = ()

        def start(self, lines: list[str], *rest: Any) -> None:
            self.lines = tuple(lines)

    told = Told()
    run(recipe, out / "parts", display=told, resume=True)
    assert_same_result(RunFolder(out / "parts"), run(recipe, out / "whole"))
    events = [json.loads(line) for line in (out / "parts" / "events.jsonl").read_text().splitlines()]
    refused = [event for event in events if event["event"] == "damaged state left out"]
    if damage == "gone":
        assert refused == []
        return
    assert [event["file"] for event in refused] == [newest]
    line = next(line for line in told.lines if newest in line)
    assert line.startswith(f"{path} is damaged (it was changed after it was written: ")
    assert line.endswith(f"; going on from {refused[0]['instead']} instead")


def test_no_whole_state_is_an_error_that_names_them_and_changes_nothing(out: Path) -> None:
    recipe = tiny_recipe()
    run(recipe, out)
    for name in newest_first(os.listdir(out)):
        with (out / name).open("ab") as file:
            file.write(b"!")
    before = {path.name: path.read_bytes() for path in out.iterdir() if path.name != ".lock"}
    with pytest.raises(RunFolderError, match=rf"{state_name(16)} is damaged \(.*\), as is {state_name(12)}; to eva"):
        run(recipe, out, resume=True)
    assert {path.name: path.read_bytes() for path in out.iterdir() if path.name != ".lock"} == before


def a_folder(path: Path, epochs: int = 2) -> RunFolder:
    folder = RunFolder(path)
    folder.create()
    folder.write_recipe(tiny_recipe())
    for epoch in range(1, epochs + 1):
        save(folder, epoch)
    return folder


def save(folder: RunFolder, epoch: int) -> None:
    with folder.as_one():
        folder.write_resume_state({"epoch": epoch, "weights": torch.full((64,), float(epoch))}, epoch)
        folder.write_weights("last", nn.Linear(2, 2), epoch)
        folder.write_history([ROW | {"epoch": number} for number in range(1, epoch + 1)])
        folder.write_json("result.json", RESULT | {"epochs": epoch, "selected": ROW | {"validation_loss": 1.0}})


def test_pruning_keeps_the_last_whole_state_even_if_it_is_old(out: Path) -> None:
    folder = a_folder(out)
    (out / state_name(2)).write_bytes(b"damaged")
    save(folder, 3)
    assert newest_first(os.listdir(out)) == [state_name(3), state_name(1)]  # the damaged one is no reserve
    (out / state_name(3)).write_bytes(b"damaged")
    assert folder.find_resume_state().state["epoch"] == 1


def test_a_state_newer_than_the_one_gone_on_from_is_taken_away(out: Path) -> None:
    folder = a_folder(out, epochs=9)
    (out / state_name(9)).write_bytes(b"damaged")
    folder.write_resume_state({"epoch": 8.5}, 8)  # of the same updates as the reserve, which it replaces
    assert newest_first(os.listdir(out)) == [state_name(8)]


# ---- saves that fail, or end in the middle


OPERATIONS = ((storage, "_flush"), (storage, "_flush_folder"), (os, "replace"), (Path, "write_bytes"), (Path, "unlink"))


def fail_at(number: int, fault: Callable[[], Any], patch: pytest.MonkeyPatch) -> list[str]:
    """Let operation `number` of those on files, counted from 1, end in `fault`; the list fills with those made."""
    made: list[str] = []

    def replaced(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def operation(*arguments: Any, **options: Any) -> Any:
            made.append(name)
            if len(made) == number:
                fault()
            return real(*arguments, **options)

        return operation

    for place, name in OPERATIONS:
        patch.setattr(place, name, replaced(name, getattr(place, name)))
    return made


def inspect(folder: RunFolder, epochs: tuple[int, ...]) -> None:
    """A folder that can be gone on with: nothing damaged, everything there, each file of one of `epochs`."""
    folder.check()
    found = folder.find_resume_state()
    assert found.refused == ()
    assert found.state["epoch"] in epochs
    assert torch.equal(found.state["weights"], torch.full((64,), float(found.state["epoch"])))
    assert folder.read_json("result.json")["epochs"] in epochs
    assert len(folder.read_history()) in epochs
    folder.read_weights("last")


def no_debris(folder: RunFolder) -> bool:
    return not list(folder.path.rglob(".partial-*"))


def count_operations(base: RunFolder, here: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    shutil.copytree(base.path, here)
    with monkeypatch.context() as patch:
        made = fail_at(0, lambda: None, patch)
        save(RunFolder(here), 3)
    return len(made)


def test_a_save_that_fails_anywhere_is_loud_and_leaves_no_debris(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = a_folder(out / "base")
    operations = count_operations(base, out / "all", monkeypatch)
    assert operations > 20

    def full() -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    loud = 0
    for number in range(1, operations + 1):
        here = out / str(number)
        shutil.copytree(base.path, here)
        folder = RunFolder(here)
        said = ""
        with monkeypatch.context() as patch:
            made = fail_at(number, full, patch)
            try:
                save(folder, 3)
            except StorageError as error:
                said = str(error)
        loud += "no space is left on the device" in said
        assert said or made[number - 1] == "unlink"  # of a temporary file that is no more
        inspect(folder, (2, 3))
        assert no_debris(folder)
        save(folder, 3)
        inspect(folder, (3,))
    assert loud > 20


def test_a_process_that_ends_anywhere_in_a_save_leaves_a_whole_folder(
    out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = a_folder(out / "base")
    operations = count_operations(base, out / "all", monkeypatch)
    for number in range(1, operations + 1):
        here = out / str(number)
        shutil.copytree(base.path, here)
        child = os.fork()
        if child == 0:
            with pytest.MonkeyPatch.context() as patch:
                fail_at(number, lambda: os._exit(9), patch)
                save(RunFolder(here), 3)
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
        folder = RunFolder(here)
        inspect(folder, (2, 3))
        save(folder, 3)  # the next writer cleans up
        inspect(folder, (3,))
        assert no_debris(folder)
        assert len(newest_first(os.listdir(here))) == 2


def test_a_full_disk_within_an_epoch_keeps_the_state_before(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = small_batches()

    class FullDisk(SilentDisplay):
        def step(self, epoch: int, step: int, loss: float, accuracy: float, images_per_s: float) -> None:
            if epoch == 2:
                patch.setattr(Path, "write_bytes", no_space)
                os.kill(os.getpid(), signal.SIGTERM)

    def no_space(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(StorageError) as caught:
        run(recipe, out / "parts", display=FullDisk())
    assert "no space is left on the device" in str(caught.value)
    assert "epoch 1 of 3 is saved; go on with: thriftnet train --resume" in str(caught.value)
    assert no_debris(RunFolder(out / "parts"))
    run(recipe, out / "parts", resume=True)
    assert_same_result(RunFolder(out / "parts"), run(recipe, out / "whole"))


# ---- a flipped bit


def readers(folder: RunFolder) -> dict[str, Callable[[], Any]]:
    """For each file, what reads it."""
    special: dict[str, Callable[[], Any]] = {
        "recipe.toml": folder.read_recipe,
        "metrics.csv": folder.read_history,
        "selected.safetensors": lambda: folder.read_weights("selected"),
        "last.safetensors": lambda: folder.read_weights("last"),
        "events.jsonl": lambda: folder.log("evaluated"),
        "SHA256SUMS": folder.read_recipe,
    }
    found: dict[str, Callable[[], Any]] = {}
    for path in folder.path.rglob("*"):
        name = path.relative_to(folder.path).as_posix()
        if not path.is_file() or name == ".lock":
            continue
        if name in special:
            found[name] = special[name]
        elif name.startswith("resume-"):
            found[name] = lambda name=name: folder._read_state(name)  # type: ignore[misc]
        elif name.endswith(".json"):
            found[name] = lambda name=name: folder.read_json(name)  # type: ignore[misc]
        else:
            found[name] = lambda name=name: folder.read_bytes(name)  # type: ignore[misc]
    return found


def flip_a_bit(path: Path, rng: random.Random) -> bytes:
    """Flip one, and return what the file held before."""
    before = path.read_bytes()
    content = bytearray(before)
    content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    path.write_bytes(content)
    return before


def refusals_of_flipped_bits(folder: RunFolder, flips: int, rng: random.Random) -> int:
    """How many of `flips` flipped bits, spread over all files, are refused by their reader with the file's name."""
    files = readers(folder)
    for read in files.values():
        read()
    refused = 0
    for number in range(flips):
        name = sorted(files)[number % len(files)]
        before = flip_a_bit(folder.path / name, rng)
        try:
            files[name]()
        except RunFolderError as error:
            refused += f"{folder.path / name} is damaged" in str(error)
        (folder.path / name).write_bytes(before)
    return refused


def test_100_flipped_bits_of_a_finished_run_are_100_refusals_that_name_the_file(trained: Trained) -> None:
    assert thriftnet("evaluate", trained.path, "--data", trained.data).status == 0
    folder = RunFolder(trained.path)
    assert len(readers(folder)) >= 25  # with figures and the evaluation
    assert refusals_of_flipped_bits(folder, 100, random.Random(0)) == 100


def test_100_flipped_bits_of_an_interrupted_run_are_100_refusals_that_name_the_file(out: Path) -> None:
    with pytest.raises(Interrupted):
        run(small_batches(), out, display=StopWithin(2))
    assert refusals_of_flipped_bits(RunFolder(out), 100, random.Random(1)) == 100


def test_the_commands_refuse_a_flipped_bit_and_check_finds_it(trained: Trained, tmp_path: Path) -> None:
    rng = random.Random(2)
    assert thriftnet("check", trained.path).stdout.splitlines()[0].endswith("files are as they were written")
    for name, command in {
        "selected.safetensors": ("predict", trained.path, trained.data, "--out", tmp_path / "p.csv"),
        "result.json": ("evaluate", trained.path, "--data", trained.data),
        "figures/augmented-batch.npz": ("report", trained.path),
        "data.json": ("predict", trained.path, trained.data, "--out", tmp_path / "p.csv"),
        "recipe.toml": ("train", "--resume", trained.path),
    }.items():
        before = flip_a_bit(trained.path / name, rng)
        for arguments in (command, ("check", trained.path)):
            outcome = thriftnet(*arguments)
            assert outcome.status == 2
            assert f"{name} is damaged" in outcome.error
        (trained.path / name).write_bytes(before)
    (trained.path / "result.json").unlink()
    assert "result.json is missing (1 of " in thriftnet("check", trained.path).error


# ---- what is kept, and what is the same elsewhere


def test_nan_is_never_the_best(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measured = iter([(0.9, 0.5), (float("nan"), 1.0), (float("inf"), 1.0), (0.8, 0.6)])
    monkeypatch.setattr(loop._Run, "_evaluate", lambda *_: next(measured))
    folder = run(tiny_recipe(), out)
    result = folder.read_json("result.json")
    assert result["selected_epoch"] == 4
    assert [row["validation_accuracy"] for row in folder.read_history()] == [0.5, 1.0, 1.0, 0.6]


@pytest.mark.parametrize("selection", ["validation", "last"])
def test_nan_after_the_last_epoch_keeps_an_earlier_one(
    out: Path, monkeypatch: pytest.MonkeyPatch, selection: str
) -> None:
    measured = iter([(0.9, 0.5), (0.8, 0.5), (0.7, 0.5), (float("nan"), 1.0)])
    monkeypatch.setattr(loop._Run, "_evaluate", lambda *_: next(measured))
    folder = run(tiny_recipe(training={"selection": selection}), out)
    result = folder.read_json("result.json")
    assert (result["selected_epoch"], result["last"]["validation_loss"]) == (3, None)
    assert "non-finite loss" in (out / "events.jsonl").read_text()
    run(tiny_recipe(training={"selection": selection}), out, resume=True)  # the history of NaN is read back


def test_nan_after_the_first_epoch_stops_because_nothing_can_be_kept(
    out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop._Run, "_evaluate", lambda *_: (float("nan"), 1.0))
    with pytest.raises(NonFiniteLossError, match="the validation loss is nan after epoch 1, so it cannot be kept"):
        run(tiny_recipe(), out)
    assert not (out / "selected.safetensors").exists()


def test_weights_are_read_back_bit_for_bit(out: Path) -> None:
    folder = RunFolder(out)
    folder.create()
    generator = torch.Generator().manual_seed(0)
    bits = torch.randint(-(2**31), 2**31, (5000,), generator=generator).to(torch.int32)  # NaNs of every kind too
    special = torch.tensor([0.0, -0.0, float("inf"), float("nan"), 1e-45, 3.4e38])
    folder.write_weights("last", {"a": bits.view(torch.float32), "b": special, "c": torch.tensor(7)}, 1)
    found = folder.read_weights("last")
    assert torch.equal(found["a"].view(torch.int32), bits)
    assert torch.equal(found["b"].view(torch.int32), special.view(torch.int32))
    assert torch.equal(found["c"], torch.tensor(7))


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_in_an_evaluation_writes_nothing_and_says_how_to_go_on(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, status: int
) -> None:
    def logits(network: nn.Module, images: torch.Tensor, *rest: Any, **options: Any) -> torch.Tensor:
        os.kill(os.getpid(), number)
        return predict_logits(network, images, *rest, **options)

    with monkeypatch.context() as patch:
        patch.setattr(predictor, "predict_logits", logits)
        outcome = thriftnet("evaluate", trained.path, "--data", trained.data)
        assert outcome.status == status
        assert outcome.error == "thriftnet: interrupted; nothing unfinished was written; give the same command again"
        command = ("predict", trained.path, trained.data, "--out", tmp_path / "p.csv")
        outcome = thriftnet(*command)
        assert outcome.status == status
        assert outcome.error == "thriftnet: interrupted; nothing unfinished was written; give the same command again"
    assert not (trained.path / "evaluation-test.json").exists()
    assert not (tmp_path / "p.csv").exists()
    assert thriftnet("check", trained.path).status == 0
    assert thriftnet("evaluate", trained.path, "--data", trained.data).status == 0


def test_a_copied_run_predicts_the_same_and_can_be_gone_on_with(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = tmp_path / "another place" / "copy"
    shutil.copytree(trained.path, elsewhere)
    monkeypatch.chdir(elsewhere)
    for path, name in ((trained.path, "a.csv"), (elsewhere, "b.csv")):
        command = ("predict", path, trained.data, "--out", tmp_path / name, "--probabilities")
        assert thriftnet(*command).status == 0
    assert (tmp_path / "a.csv").read_bytes() == (tmp_path / "b.csv").read_bytes()
    assert thriftnet("check", elsewhere).status == 0
    assert thriftnet("train", "--resume", elsewhere, "--data", trained.data).status == 0


def test_lost_outcome_files_are_made_again_from_the_state(out: Path) -> None:
    recipe = tiny_recipe()
    folder = run(recipe, out)
    names = ("selected.safetensors", "last.safetensors", "metrics.csv", "result.json")
    before = {name: (out / name).read_bytes() for name in names}
    for name in names[:2]:
        (out / name).write_bytes(b"damaged")
    for name in names[2:]:
        (out / name).unlink()
    run(recipe, out, resume=True)
    assert {name: (out / name).read_bytes() for name in names} == before
    folder.check()


def test_a_signal_while_it_compiles_ends_it_at_once_and_the_same_command_begins_again(out: Path) -> None:
    """Before the first step there is nothing to save. What compiles here never ends, as if it took minutes."""
    recipe = tiny_recipe(training={"epochs": 1})
    code = f"""
import time
from thriftnet.training import loop
from tests.training.conftest import TinySource, tiny_recipe

def compiled(*_):
    print("compiling", flush=True)
    time.sleep(600)

loop.compiled = compiled
recipe = tiny_recipe(training={{"epochs": 1}}, runtime={{"compile": "yes"}})
loop.fit(recipe, TinySource(), loop.RunFolder({str(out)!r}), loop.SilentDisplay())
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "compiling\n"
        process.terminate()
        assert process.wait(timeout=10) == -signal.SIGTERM
    run(recipe, out)
    RunFolder(out).check()
    assert RunFolder(out).read_json("result.json")["status"] == "completed"
