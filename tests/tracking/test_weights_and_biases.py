"""What the `.wandb` files of a run hold, and that nothing waits for a network that is not there."""

from __future__ import annotations

import socket
import time
from pathlib import Path

import pytest

from tests.tracking.conftest import read_wandb
from tests.tracking.test_display import Lines, curve, train
from thriftnet.errors import Interrupted
from thriftnet.tracking import weights_and_biases
from thriftnet.tracking.weights_and_biases import logged_in


def test_curves_figures_configuration_and_outcome(tmp_path: Path) -> None:
    run = train(tmp_path / "run", ["wandb"], group="grid")
    (offline,) = read_wandb(run.path)
    assert (offline.run.project, offline.run.display_name, offline.run.run_group) == ("thriftnet", "run", "grid")
    assert offline.config["optimizer"]["lr"] == 0.05
    assert offline.config["parameters"] == 1319
    assert offline.config["environment"]["precision"] == "fp32"
    assert offline.points["train/loss"] == curve(run, "train_loss")
    assert offline.points["validation/accuracy"] == curve(run, "validation_accuracy")
    assert offline.points["learning_rate"] == curve(run, "lr")
    assert [step for step, _ in offline.points["report/loss"]] == [10, 22, 34]
    assert {key for key in offline.points if key.startswith("figures/")} == {
        "figures/curves", "figures/learning-rate", "figures/augmented-batch",
    }  # fmt: skip
    (step, image), *_ = offline.points["figures/curves"]
    assert step == 36
    (files,) = (run.path / "tracking" / "wandb").glob("offline-run-*/files")
    assert (files / image["path"]).read_bytes() == (run.path / "figures" / "curves.png").read_bytes()
    assert offline.summary["status"] == "completed"
    assert offline.summary["selected/epoch"] == run.result["selected_epoch"]
    assert offline.exit_code == 0
    assert {path.name for path in files.iterdir()} <= {
        "media",
        "config.yaml",
        "wandb-summary.json",
    }  # nothing is collected


def test_a_resumed_run_is_the_same_run_with_every_point_once(tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        train(tmp_path / "run", ["wandb"], Lines(stop_after=2))
    run = train(tmp_path / "run", [])
    first, second = read_wandb(run.path)
    assert first.run.run_id == second.run.run_id
    assert (first.exit_code, second.exit_code) == (1, 0)
    assert first.points["train/loss"] + second.points["train/loss"] == curve(run, "train_loss")
    assert [step for step, _ in second.points["report/loss"]] == [34]
    assert "figures/curves" not in first.points


@pytest.mark.parametrize(
    ("mode", "says"), [("offline", "wandb offline (WANDB_MODE=offline)"), ("disabled", "disabled")]
)
def test_wandb_mode_is_honoured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str, says: str) -> None:
    monkeypatch.setenv("WANDB_MODE", mode)
    monkeypatch.setenv("WANDB_API_KEY", "k" * 40)
    lines = Lines()
    run = train(tmp_path / "run", ["wandb"], lines)
    assert says in lines.lines[-1]
    assert len(read_wandb(run.path)) == (1 if mode == "offline" else 0)


def test_a_server_that_does_not_answer_costs_the_run_nothing_but_the_timeout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A server that takes the connection and then says nothing; the one real case that could wait for ever."""
    monkeypatch.setattr(weights_and_biases, "INIT_TIMEOUT_S", 1.0)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{silent.getsockname()[1]}")
        monkeypatch.setenv("WANDB_API_KEY", "k" * 40)
        assert logged_in()
        started = time.monotonic()
        run = train(tmp_path / "run", ["wandb"])
        assert time.monotonic() - started < 60
    assert run.result["status"] == "completed"
    assert "tracking by wandb failed in opening it" in capsys.readouterr().err


def test_whether_somebody_is_logged_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not logged_in()
    netrc = tmp_path / "netrc"
    netrc.write_text(f"machine api.wandb.ai\n  login user\n  password {'k' * 40}\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    assert logged_in()
    monkeypatch.setenv("WANDB_BASE_URL", "https://wandb.example.org:8080")
    assert not logged_in()  # the key is for another server
    netrc.write_text("this is no netrc file")
    assert not logged_in()
    monkeypatch.setenv("WANDB_API_KEY", "k" * 40)
    assert logged_in()
