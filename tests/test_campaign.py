"""Several runs: finished ones are taken, interrupted ones go on, missing ones are trained."""

import os
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.training.conftest import TinySource, tiny_recipe
from thriftnet import campaign
from thriftnet.campaign import is_finished, train_missing, train_seeds
from thriftnet.errors import Interrupted, RunFolderError
from thriftnet.training.progress import SilentDisplay
from thriftnet.training.run_folder import RunFolder


class StopsAfterAnEpoch(SilentDisplay):
    def epoch(self, row: dict[str, Any], selected: bool) -> None:
        raise Interrupted("stopped", 15)


def weights(path: Path) -> bytes:
    return (path / "last.safetensors").read_bytes()


def test_missing_run_is_trained_and_drawn(tmp_path: Path) -> None:
    run = train_missing(tiny_recipe(), TinySource(), tmp_path / "run")
    assert is_finished(run)
    assert (tmp_path / "run" / "figures" / "curves.svg").is_file()
    train_missing(tiny_recipe(), TinySource(), tmp_path / "undrawn", figures=False)
    assert not (tmp_path / "undrawn" / "figures").exists()


def test_finished_run_is_taken_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = train_missing(tiny_recipe(), TinySource(), tmp_path / "run")
    monkeypatch.setattr(campaign, "fit", lambda *_, **__: pytest.fail("trained again"))
    assert train_missing(tiny_recipe(), TinySource(), tmp_path / "run").result == first.result


def test_interrupted_run_goes_on_to_the_same_weights(tmp_path: Path) -> None:
    train_missing(tiny_recipe(), TinySource(), tmp_path / "whole")
    with pytest.raises(Interrupted):
        train_missing(tiny_recipe(), TinySource(), tmp_path / "parts", StopsAfterAnEpoch())
    train_missing(tiny_recipe(), TinySource(), tmp_path / "parts")
    events = (tmp_path / "parts" / "events.jsonl").read_text()
    assert '"resumed"' in events
    assert weights(tmp_path / "parts") == weights(tmp_path / "whole")


def test_a_run_that_another_command_begins_meanwhile_is_gone_on_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train_missing(tiny_recipe(), TinySource(), tmp_path / "whole")
    original, resumed = campaign.fit, list[bool]()

    def beaten(*arguments: Any, resume: bool) -> Any:
        resumed.append(resume)
        if not resume:  # the other command is faster, and is stopped after an epoch
            with pytest.raises(Interrupted):
                original(*arguments[:3], StopsAfterAnEpoch(), resume=False)
        return original(*arguments, resume=resume)

    monkeypatch.setattr(campaign, "fit", beaten)
    assert is_finished(train_missing(tiny_recipe(), TinySource(), tmp_path / "run"))
    assert resumed == [False, True]
    assert weights(tmp_path / "run") == weights(tmp_path / "whole")


def test_folder_of_another_recipe_is_refused_and_kept(tmp_path: Path) -> None:
    train_missing(tiny_recipe(), TinySource(), tmp_path / "run")
    before = weights(tmp_path / "run")
    with pytest.raises(RunFolderError, match=r"another recipe \(it differs in training\.seed\)"):
        train_missing(tiny_recipe(training={"seed": 1}), TinySource(), tmp_path / "run")
    assert weights(tmp_path / "run") == before


def test_the_same_data_through_a_link_is_the_same(tmp_path: Path) -> None:
    class At(TinySource):
        def __init__(self, location: Path) -> None:
            super().__init__()
            self.location = str(location)

    (tmp_path / "data").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "data")
    run = train_missing(tiny_recipe(), At(tmp_path / "data"), tmp_path / "run")
    assert train_missing(tiny_recipe(), At(tmp_path / "link"), tmp_path / "run").path == run.path
    with pytest.raises(RunFolderError, match="was trained on"):
        train_missing(tiny_recipe(), At(tmp_path / "other"), tmp_path / "run")


class TerminatedInTheLastEpoch(SilentDisplay):
    """A signal that comes when nothing of the run is left to stop."""

    def stop(self) -> None:
        os.kill(os.getpid(), signal.SIGTERM)


def test_a_signal_at_the_very_end_of_a_run_stops_before_the_next(tmp_path: Path) -> None:
    with pytest.raises(Interrupted, match="1 of 2 runs are finished"):
        train_seeds(tiny_recipe(), TinySource(), tmp_path, [0, 1], TerminatedInTheLastEpoch())
    assert is_finished(train_missing(tiny_recipe(), TinySource(), tmp_path / "seed-0"))
    assert not (tmp_path / "seed-1").exists()


def test_seeds_have_folders_of_their_own(tmp_path: Path) -> None:
    runs = train_seeds(tiny_recipe(), TinySource(), tmp_path, [0, 3])
    assert [run.path.name for run in runs] == ["seed-0", "seed-3"]
    assert [run.recipe.training.seed for run in runs] == [0, 3]
    assert weights(runs[0].path) != weights(runs[1].path)
    assert [RunFolder(run.path).read_json("result.json")["seed"] for run in runs] == [0, 3]
