"""What TensorBoard's own reader finds in the event files of a run."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from tests.tracking.conftest import read_tensorboard
from tests.tracking.test_display import Lines, curve, train
from thriftnet.errors import Interrupted
from thriftnet.tracking.tensorboard import TensorBoard
from thriftnet.tracking.tracker import TrackedRun


def test_curves_figures_configuration_and_outcome(tmp_path: Path) -> None:
    run = train(tmp_path / "run", ["tensorboard"], group="grid")
    board = read_tensorboard(run.path)
    for tag, column in (
        ("train/loss", "train_loss"),
        ("validation/accuracy", "validation_accuracy"),
        ("learning_rate", "lr"),
    ):
        assert board.scalars[tag] == curve(run, column)
    assert [step for step, _ in board.scalars["report/loss"]] == [10, 22, 34]
    assert set(board.images) == {"figures/curves", "figures/learning-rate", "figures/augmented-batch"}
    with Image.open(run.path / "figures" / "curves.png") as image:
        assert board.images["figures/curves"] == [(36, *image.size)]
    assert "    lr = 0.05" in board.texts["recipe"]
    assert '"parameters": 1319' in board.texts["run"]
    assert '"group": "grid"' in board.texts["run"]
    assert '"status": "completed"' in board.texts["result"]
    assert board.scalars["result/selected/epoch"] == [(36, run.result["selected_epoch"])]


def test_a_resumed_run_has_every_point_once(tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        train(tmp_path / "run", ["tensorboard"], Lines(stop_after=2))
    run = train(tmp_path / "run", [])
    board = read_tensorboard(run.path)
    assert board.scalars["train/loss"] == curve(run, "train_loss")
    assert [step for step, _ in board.scalars["report/loss"]] == [10, 22, 34]
    assert len(board.images["figures/curves"]) == 1
    assert len(list((run.path / "tracking" / "tensorboard").iterdir())) == 2  # two processes would have written these


def test_points_that_were_written_but_never_marked_are_void(tmp_path: Path) -> None:
    """A process killed between writing an epoch and marking it leaves points that the next one writes again."""

    def opened(steps_done: int) -> TensorBoard:
        tracker = TensorBoard()
        config = {"parameters": 1, "data": {}, "environment": {}}
        tracker.open(TrackedRun("id", "run", None, tmp_path / "tracking", "", config, steps_done))
        return tracker

    killed = opened(0)
    for step, loss in ((12, 3.0), (24, 2.0), (34, 1.5)):
        killed.log({"train/loss": loss}, step)
    killed.close(failed=True)
    again = opened(12)
    again.log({"train/loss": 2.0}, 24)
    again.log({"train/loss": 1.0}, 36)
    again.close(failed=False)
    assert read_tensorboard(tmp_path).scalars["train/loss"] == [(12, 3.0), (24, 2.0), (36, 1.0)]
