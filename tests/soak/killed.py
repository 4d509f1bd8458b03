"""A small training that is killed again and again: what the child does, and what must be true after every kill."""

from __future__ import annotations

import multiprocessing
import random
import signal
import time
from pathlib import Path
from typing import Any

import torch
import torch._dynamo  # what torch's first optimiser would import, for two seconds of each child

from tests.training.conftest import TinySource, tiny_recipe
from thriftnet.config import RecipeConfig
from thriftnet.training.loop import fit
from thriftnet.training.progress import SilentDisplay
from thriftnet.training.run_folder import RunFolder

# What the child needs is imported once, in a server from which each child is forked.
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["tests.soak.killed"])


def recipe(epochs: int) -> RecipeConfig:
    """Nearly every step is saved, so that most kills fall into a save."""
    return tiny_recipe(
        training={"epochs": epochs, "batch_size": 8, "ema_decay": 0.9},
        optimizer={"momentum": 0.9},
        runtime={"checkpoint_minutes": 1e-6},
    )


def train(path: Path, epochs: int) -> None:
    """Begin the run, or go on with it."""
    torch.set_num_threads(1)
    folder = RunFolder(path)
    fit(recipe(epochs), TinySource(), folder, SilentDisplay(), resume=folder.has("recipe.toml"))


def inspect(path: Path) -> int:
    """Fail unless what a killed training left can be loaded and is complete; returns the updates it holds."""
    folder = RunFolder(path)
    folder.check()
    if not folder.has_progress:
        return 0
    found = folder.find_resume_state()
    assert found.refused == (), found.refused
    for tensor in found.state["network"].values():
        assert torch.isfinite(tensor).all()
    if folder.has("result.json"):
        result = folder.read_json("result.json")
        assert len(folder.read_history()) in (result["epochs"], result["epochs"] + 1)
        folder.read_weights("selected")
        folder.read_weights("last")
    return int(found.name.removeprefix("resume-").removesuffix(".pt"))


def timeless(history: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{key: value for key, value in row.items() if key not in ("images_per_s", "elapsed_s")} for row in history]


def assert_same_run(found: Path, expected: Path) -> None:
    """The same weights in every bit, and the same measures of every epoch."""
    for name in ("selected.safetensors", "last.safetensors"):
        assert (found / name).read_bytes() == (expected / name).read_bytes(), name
    assert timeless(RunFolder(found).read_history()) == timeless(RunFolder(expected).read_history())


def kill_at_random_moments(folder: Path, kills: int, epochs: int, rng: random.Random) -> dict[str, int]:
    """Train with `kills` SIGKILLs at random moments, inspect after each, and compare with a training left alone."""
    train(folder / "clean", epochs)
    path, counts = (
        folder / "killed",
        {"kills": 0, "further than the one before": 0, "with a temporary file": 0, "runs": 1},
    )
    span_s, reached = 1.0, 0
    while counts["kills"] < kills:
        child = CONTEXT.Process(target=train, args=(path, epochs))
        started = time.monotonic()
        child.start()
        child.join(rng.uniform(0.05, span_s))
        if child.is_alive():
            assert child.pid is not None
            child.kill()
            child.join()
        if child.exitcode == -signal.SIGKILL:
            counts["kills"] += 1
            counts["with a temporary file"] += bool(list(path.rglob(".partial-*")))
            before, reached = reached, inspect(path)
            counts["further than the one before"] += reached > before
            continue
        assert child.exitcode == 0
        span_s = max(0.2, time.monotonic() - started)
        assert_same_run(path, folder / "clean")
        path, reached = folder / f"killed-{counts['runs']}", 0
        counts["runs"] += 1
    train(path, epochs)
    assert_same_run(path, folder / "clean")
    assert not list(path.rglob(".partial-*"))
    return counts
