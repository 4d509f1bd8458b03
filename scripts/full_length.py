"""The trainings at full length behind `results/full-length`: what is missing is trained, what is finished is stored.

    python scripts/full_length.py --data PATH --out FOLDER [--hours 8] [--threads 2] [--store results/full-length]

In the order of TASKS, each run in a folder of its own under FOLDER. SIGTERM, Ctrl-C and the end of `--hours` save the
run under way; the same command goes on. Several commands may share FOLDER: a run that another one trains is passed
over. Of each finished run the small files (metrics, result, evaluations, recipe, environment, figures) are copied to
`--store`, and the papers' ledger with them. What lies there is not trained again on a machine without the run folders:
its ledger is joined to the new one.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from thriftnet.run import Run

VIEWS = "flip_shift"
"""What our own recipes are measured with too; the papers' claims are of single views."""
SHIFTED_IMAGES = 2_000
"""Of the test images, under every corruption at every severity: 150,000 forward passes."""
KEPT = ("result.json", "metrics.csv", "recipe.toml", "environment.json", "evaluation-*.json", "shift-*.json")
FIGURES = ("curves", "learning-rate", "confusion-test", "shift-test*")


@dataclass(frozen=True)
class Task:
    """One recipe with one or several seeds."""

    recipe: str
    seeds: int = 1
    ours: bool = False
    """Not a claim of the ledger, and measured with VIEWS too."""
    short: float = 1.0
    """Share of the epochs under --short, for processors without AMX."""
    shift: bool = False


TASKS = (
    Task("fast", seeds=5, ours=True),
    Task("laptop", seeds=3, ours=True),
    Task("liu-trial-5"),
    Task("ramavath-resnet9"),
    Task("ramavath-table1"),
    Task("li-gelu-adam"),
    Task("xu-resnetlarge", short=0.25, shift=True),
    Task("xu-resnet18", short=0.25, shift=True),
    *(Task(f"liu-trial-{trial}") for trial in (0, 1, 2, 3, 6, 7, 8)),
    Task("liu-trial-5", seeds=3),
    Task("li-gelu-sgd"),
    Task("li-relu-adam"),
    Task("li-relu-sgd"),
    Task("tirumalasetty-resnext29", short=0.25),
    Task("tirumalasetty-resnext29-amp", short=0.25),
)


def train_ours(task: Task, data: str, out: Path, store: Path) -> bool:
    """Train and measure the seeds of a recipe of ours; returns whether all of them are there."""
    from thriftnet import api, campaign
    from thriftnet import recipe as recipes
    from thriftnet.data.open import open_source
    from thriftnet.errors import FolderInUseError
    from thriftnet.training.progress import LiveDisplay

    complete = True
    recipe = recipes.load(task.recipe)
    for seed in range(task.seeds):
        name = f"{recipe.name}/seed-{seed}"
        if (store / name / f"evaluation-test-tta-{VIEWS}.json").exists():
            continue
        print(f"{name}: {recipe.training.epochs} epochs", flush=True)
        seeded = recipes.with_changes(recipe, {"training": {"seed": seed}})
        try:
            run = campaign.train_missing(seeded, open_source(data, recipe.data.image_side), out / name, LiveDisplay())
            api.evaluate(run, "test")
            measured = api.evaluate(run, "test", tta=VIEWS)
        except FolderInUseError as error:
            print(f"passed over: {error}", flush=True)
            complete = False
            continue
        print(f"{name}: {measured.evaluation.accuracy:.2%} with {VIEWS}", flush=True)
        keep(run, store / name)
    return complete


def train_paper(task: Task, data: str, out: Path, store: Path, short: bool) -> bool:
    """Train and measure a recipe of a paper into the ledger; returns whether it is there."""
    from thriftnet import api
    from thriftnet.training.progress import LiveDisplay

    folder = out / "ledger"
    joined = folder / "joined" / "stored.json"
    if not joined.exists() and not (folder / "ledger.json").exists() and (store / "ledger.json").exists():
        joined.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(store / "ledger.json", joined)
    print(f"{task.recipe}: {task.seeds} seed{'s' if task.seeds > 1 else ''}", flush=True)
    ledger = api.reproduce(
        task.recipe, data, out=folder, seeds=task.seeds, scale=task.short if short else 1.0, directions=False,
        display=LiveDisplay(), say=lambda line: print(line, flush=True),
    )  # fmt: skip
    for job in ledger.plan.jobs:
        if not job.finished:
            continue
        run, place = job.run, store / job.folder
        stored = place / f"shift-test-{SHIFTED_IMAGES}-images.json"
        if task.shift and job.recipe.name == task.recipe and not stored.exists():
            api.evaluate_shift(run, "test", images=SHIFTED_IMAGES, say=lambda line: print(line, flush=True))
        keep(run, place)
    for ending in ("json", "md", "html"):
        shutil.copy(folder / f"ledger.{ending}", store / f"ledger.{ending}")
    return ledger.complete


def keep(run: Run, folder: Path) -> None:
    """Copy what is small of a run; where its data lay is told by name only."""
    folder.mkdir(parents=True, exist_ok=True)
    for pattern in KEPT:
        for path in run.path.glob(pattern):
            (folder / path.name).write_text(_named(path), encoding="utf-8")
    for pattern in FIGURES:
        for path in (run.path / "figures").glob(f"{pattern}.png"):
            shutil.copy(path, folder / path.name)


def _named(path: Path) -> str:
    """The text of a run's file, with the last part of each path in it."""
    text = path.read_text(encoding="utf-8")
    if path.suffix != ".json":
        return text
    content = json.loads(text)
    for facts in (content.get("data"), *content.get("runs", ())):
        for key in ("location", "path"):
            if isinstance(facts, dict) and key in facts:
                facts[key] = Path(facts[key]).name
    return json.dumps(content, indent=2) + "\n"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="CIFAR-10, as thriftnet's --data takes it")
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--store", type=Path, default=Path("results/full-length"), help="folder of what is kept")
    parser.add_argument("--hours", type=float, help="stop after this time; the run under way is saved")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--nice", type=int, default=0, help="lower the priority by this much")
    parser.add_argument("--short", action="store_true", help="a share of the longest trainings, without AMX")
    parser.add_argument("--only", nargs="+", metavar="RECIPE", default=sorted({task.recipe for task in TASKS}))
    given = parser.parse_args(arguments)

    if os.environ.get("OMP_NUM_THREADS") != str(given.threads):  # read once, when torch is imported
        os.environ["OMP_NUM_THREADS"] = str(given.threads)
        os.execv(sys.executable, [sys.executable, *sys.argv])
    from thriftnet.errors import Interrupted, ThriftnetError

    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))  # a training saves itself first
    os.nice(given.nice)
    given.store.mkdir(parents=True, exist_ok=True)
    if given.hours is not None:
        timer = threading.Timer(given.hours * 3600, os.kill, (os.getpid(), signal.SIGTERM))
        timer.daemon = True
        timer.start()
    try:
        missing = []
        for task in (task for task in TASKS if task.recipe in given.only):
            if task.ours:
                complete = train_ours(task, given.data, given.out, given.store)
            else:
                complete = train_paper(task, given.data, given.out, given.store, given.short)
            missing += [] if complete else [task.recipe]
    except Interrupted as error:
        print(f"stopped: {error}", flush=True)
        sys.exit(error.exit_status)
    except ThriftnetError as error:
        sys.exit(f"error: {error}")
    print(f"not whole yet: {', '.join(missing)}" if missing else "everything is there")


if __name__ == "__main__":
    main()
