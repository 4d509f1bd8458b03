"""The long form of the tests of reliability: python -m tests.soak.soak --out results/reliability.json

A real training (the bundled digits) through the command line, hit by random events, must end with the bits of one that
was left alone; a small one is killed at 200 random moments; bits of run folders are flipped. Prints and stores what was
done and found. The quick form of each is in `make test`.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import re
import resource
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from tests.soak.killed import assert_same_run, inspect, kill_at_random_moments
from thriftnet.storage import write_atomic
from thriftnet.training.run_folder import RunFolder

KINDS = ("SIGKILL", "SIGTERM", "SIGSTOP", "full disk")
TERM_LIMIT_S = 10.0
EXPECTED = {
    "SIGKILL": (-signal.SIGKILL,),
    "SIGTERM": (143, -signal.SIGTERM, 0),  # -15: nothing to save, while it starts or draws figures; 0: at its very end
    "SIGSTOP": (-signal.SIGKILL, 0),
    "full disk": (1, 0),  # 0: nothing was left to write
}


@dataclass
class Soak:
    """One training under random events."""

    folder: Path
    settings: tuple[str, ...]
    rng: random.Random
    events: list[dict[str, Any]] = field(default_factory=list)

    def command(self, path: Path) -> list[str]:
        begin = ["digits-demo", "--data", "digits", "--out", str(path), *self.settings]
        arguments = ["--resume", str(path)] if RunFolder(path).has("recipe.toml") else begin
        return [sys.executable, "-m", "thriftnet.cli", "train", *arguments]

    def start(self, path: Path) -> subprocess.Popen[str]:
        return subprocess.Popen(self.command(path), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)

    def to_the_end(self, path: Path) -> float:
        """Train until it is finished; seconds."""
        started = time.monotonic()
        process = self.start(path)
        stderr = process.communicate()[1]
        assert process.returncode == 0, stderr
        return time.monotonic() - started

    def hit(self, path: Path, kind: str, longest_wait_s: float, starting: bool) -> None:
        """Start or go on, do one thing to it at a random moment, and look at what it left.

        `starting`: the moment may also be one before it writes anything, while Python is still loading.
        """
        begun = self.beginnings(path)
        process = self.start(path)
        while not starting and process.poll() is None and self.beginnings(path) == begun:
            time.sleep(0.01)
        wait_s = self.rng.uniform(0.0, 5.0 if starting else longest_wait_s)
        time.sleep(wait_s)
        event: dict[str, Any] = {"event": kind, "after_s": round(wait_s, 2), "starting": starting}
        event["running"] = process.poll() is None
        sent = time.monotonic()
        if event["running"]:
            event |= getattr(self, kind.replace(" ", "_").lower())(process, path)
        stderr = process.communicate()[1]
        took_s = time.monotonic() - sent
        assert "Traceback" not in stderr, stderr
        if event["running"]:
            assert process.returncode in EXPECTED[kind], (process.returncode, stderr)
        if process.returncode == 143:
            assert took_s < TERM_LIMIT_S
            event["ended_after_s"] = round(took_s, 2)
        if process.returncode in (1, 143):
            assert f"go on with: thriftnet train --resume {path}" in stderr, stderr
        if process.returncode == 1:
            assert "the file is larger than the system allows" in stderr, stderr
        if process.returncode in (0, 1, 143):
            assert not list(path.rglob(".partial-*"))
        event |= {"status": process.returncode, "updates_saved": inspect(path) if path.exists() else 0}
        self.events.append(event)

    def beginnings(self, path: Path) -> int:
        """How often the training began or went on; shortly before its first step it notes that."""
        log = path / "events.jsonl"
        return len(re.findall('"event": "(started|resumed)"', log.read_text())) if log.exists() else 0

    def holds(self, path: Path) -> bool:
        return (path / ".lock").exists() and (path / ".lock").read_bytes().strip() != b""

    def sigkill(self, process: subprocess.Popen[str], path: Path) -> dict[str, Any]:
        process.kill()
        return {}

    def sigterm(self, process: subprocess.Popen[str], path: Path) -> dict[str, Any]:
        process.terminate()
        return {}

    def sigstop(self, process: subprocess.Popen[str], path: Path) -> dict[str, Any]:
        """Stopped, it still has its folder: a second writer is refused. Then it goes on, and is killed later."""
        process.send_signal(signal.SIGSTOP)
        held = self.holds(path) and f'"pid": {process.pid},'.encode() in (path / ".lock").read_bytes()
        second = subprocess.run(self.command(path), capture_output=True, text=True) if held else None
        process.send_signal(signal.SIGCONT)
        if second is not None:
            assert second.returncode == 2, second.stderr
            assert f"is in use: process {process.pid} on " in second.stderr
        time.sleep(self.rng.uniform(0.1, 1.0))
        process.kill()
        return {"second_writer_refused": second is not None}

    def full_disk(self, process: subprocess.Popen[str], path: Path) -> dict[str, Any]:
        """From now on the system refuses to write more than 4 KB to a file: resume states do not fit any more."""
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (4096, 4096))
        return {}


def soak(folder: Path, events: int, epochs: int, seed: int) -> dict[str, Any]:
    """`events` random events, then to the end; raises AssertionError where a promise does not hold."""
    settings = ("--epochs", str(epochs), "--set", "runtime.threads=1", "--set", "runtime.checkpoint_minutes=0.005")
    trial = Soak(folder, settings, random.Random(seed))
    clean_s = trial.to_the_end(folder / "clean")
    trained_s = RunFolder(folder / "clean").read_json("result.json")["elapsed_s"]
    path = folder / "soaked"
    kinds = [KINDS[number % len(KINDS)] for number in range(events)]
    trial.rng.shuffle(kinds)
    for number, kind in enumerate(kinds):
        trial.hit(path, kind, longest_wait_s=1.5 * trained_s / events, starting=number % 5 == 4)
        print(json.dumps(trial.events[-1]), file=sys.stderr, flush=True)
    trial.to_the_end(path)
    assert_same_run(path, folder / "clean")
    RunFolder(path).check()
    return {
        "recipe": "digits-demo",
        "settings": " ".join(settings),
        "clean_s": round(clean_s, 1),
        "events": trial.events,
        "hit_while_running": sum(event["running"] for event in trial.events),
        "final_weights": "bit-equal to the clean run",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--events", type=int, default=20)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    found: dict[str, Any] = {
        "command": "make soak",
        "torch": torch.__version__,
        "python": platform.python_version(),
        "cores": os.cpu_count(),
        "seed": given.seed,
    }
    for name, do in {
        "kills": lambda here: kill_at_random_moments(here, given.kills, epochs=6, rng=random.Random(given.seed)),
        "soak": lambda here: soak(here, given.events, given.epochs, given.seed),
    }.items():
        started = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            found[name] = do(Path(folder))
        found[name]["elapsed_s"] = round(time.monotonic() - started, 1)
        print(f"{name}: {json.dumps(found[name])}", flush=True)
    write_atomic(given.out, json.dumps(found, indent=2) + "\n")
    print(given.out)


if __name__ == "__main__":
    main()
