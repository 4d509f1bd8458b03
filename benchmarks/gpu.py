"""Everything that needs one CUDA GPU, in resumable steps of under ten minutes, the most telling first.

    python -m benchmarks.gpu --data DATA [--limit-s 540] [--full] [--dry-run] [--out FILE] [--again]

1. The tests that need a GPU.
2. `fast`: a whole training in a fresh process (cold: imports and compiling count), then in a warm one.
3. `liu-4x2` to its end, evaluated, reported and used to predict. `best`, cold.
4. Every network's throughput, launched operation by operation, from CUDA graphs, and compiled as well, in the product's
   own precision and layout, with seconds an epoch; and of the tutorial-style baseline, at its best number of workers.
5. `best`, warm. More seeds of `fast` and `best`.
6. The networks that `best` is to beat, with their own recipes (benchmarks/peers), a piece a call.
7. Whole-run times of the papers' recipes, extrapolated from measured epochs and labelled so; with --full also run to
   their end, a piece a call.

It stops cleanly before a step for which --limit-s leaves no time; the same command goes on. A step that cannot finish
even with all of the time is stored as failed, so that the others get their turn.
"""

from __future__ import annotations

import os
import shutil
import signal
import statistics
import tempfile
import threading
import time
from argparse import Namespace
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.baseline import IMAGES, Baseline, unsupported
from benchmarks.common import (
    RESULTS,
    ROOT,
    OutOfTime,
    RandomImages,
    Row,
    Store,
    child,
    compared_recipes,
    duration,
    environment,
    geometric_mean,
    paper_experiments,
    parser,
    print_table,
    rows_first,
    run_main,
    run_worker,
    say,
)
from benchmarks.product import Epochs, NoMoreRounds, images_for, round_recipe, run_rounds
from benchmarks.time_to_accuracy import timed_run
from thriftnet import api, inference
from thriftnet import recipe as recipes
from thriftnet.config import RuntimeConfig
from thriftnet.data.open import VARIABLE, open_source
from thriftnet.errors import Interrupted, ThriftnetError, UserError
from thriftnet.run import Run, load_run
from thriftnet.runtime import available_cores
from thriftnet.training.progress import SilentDisplay
from thriftnet.training.run_folder import RunFolder

OWN = ("fast", "best")
MORE_SEEDS = {"fast": range(1, 5), "best": range(1, 3)}
PEERS = tuple(sorted((Path(__file__).parent / "peers").glob("*.toml")))
FIRST_FULL = "liu-4x2"
ESTIMATES_S = {"tests": 180, "fast": 60, "best": 480, "throughput": 30, "baseline": 60, "epochs": 60, "full": 150}
COMPILING_S = 60
VARIANTS = {
    "graphs": {"cuda_graphs": "yes", "compile": "no"},
    "compiled": {"cuda_graphs": "yes", "compile": "yes"},
    "eager": {"cuda_graphs": "no", "compile": "no"},
}
TESTS = ("tests/training/test_cuda.py", "tests/augment/test_draws.py")
THROUGHPUT_STEPS, THROUGHPUT_ROUNDS = 50, 5
BASELINE_ROUNDS = 3
PREDICTED_IMAGES = 100
MEASURED_EPOCHS = 3
EPOCH_IMAGES = 50_000
SAVING_S = 20
"""Left at the end of a piece of a whole run for saving and, after the last, evaluating."""


@dataclass(frozen=True)
class Step:
    """One thing to measure; `run` gets the seconds that are left and returns its row, None where it goes on later."""

    key: str
    estimate_s: float
    run: Callable[[float], Row | None]


def run_plan(steps: Sequence[Step], store: Store, limit_s: float, clock: Callable[[], float] = time.monotonic) -> int:
    """Run what is not stored yet until the time is used up; returns how many steps are left.

    A step begins only where its estimate fits what is left, the first one always. What runs out of time is tried again
    first at the next call, unless it had all of the time: then it is stored as failed.
    """
    started = clock()
    begun = False
    pending = [step for step in steps if not store.finished(step.key)]
    for place, step in enumerate(pending):
        left_s = limit_s - (clock() - started)
        if begun and step.estimate_s > left_s:
            return len(pending) - place
        print(f"{step.key} ({place + 1} of {len(pending)}, {duration(left_s)} left)", flush=True)
        had_all_of_it, begun = not begun, True
        try:
            row = step.run(left_s)
        except OutOfTime as error:
            if not had_all_of_it:
                return len(pending) - place
            row = {"failed": str(error)}
        except ThriftnetError as error:
            row = {"failed": str(error)}
        if row is None:
            return len(pending) - place
        if "failed" in row:
            print(f"{step.key} failed: {row['failed']}", flush=True)
        store.put(step.key, row)
    return 0


def plan(options: Namespace, available: Sequence[str]) -> tuple[list[Step], list[str]]:
    """(steps, the reasons why something is left out)."""
    reasons = [f"{name} is left out: there is no recipe of that name yet" for name in OWN if name not in available]
    own = [name for name in OWN if name in available]

    def whole(name: str, warm: bool, seed: int) -> Step:
        return Step(
            f"{name}, {'warm' if warm else 'cold'}, seed {seed}",
            ESTIMATES_S[name],
            lambda left_s: timed_run(name, seed, options.data, [], warm, options.tta, left_s),
        )

    def asked(what: str, name: str, **more: Any) -> Step:
        arguments = {"what": what, "recipe": name, "data": options.data} | more
        variant = more.get("variant", "")
        return Step(
            f"{what}: {name}" + (f", {variant}" if variant else ""),
            ESTIMATES_S[what] + (COMPILING_S if variant == "compiled" else 0),
            lambda left_s: child("benchmarks.gpu", arguments, left_s)[0],
        )

    def full(name: str, recipe: str | None = None) -> Step:
        folder = str(options.runs / name)

        def piece(left_s: float) -> Row | None:
            arguments = {"what": "full", "recipe": recipe or name, "data": options.data, "folder": folder}
            answer = child("benchmarks.gpu", arguments | {"limit_s": left_s - SAVING_S}, left_s)[0]
            if "unfinished" not in answer:
                return answer
            if answer["new_epochs"] == 0:
                raise OutOfTime(f"not one epoch was completed in {duration(left_s)}")
            return None

        return Step(f"full: {name}", ESTIMATES_S["full"], piece)

    steps = [asked("tests", "the GPU path")]
    steps += [whole("fast", warm, 0) for warm in (False, True) if "fast" in own]
    steps += [full(FIRST_FULL)]
    steps += [whole("best", False, 0)] if "best" in own else []
    for name in compared_recipes():
        steps += [asked("throughput", name, variant=variant) for variant in VARIANTS]
        steps += [asked("baseline", name)] if unsupported(recipes.load(name)) is None else []
    steps += [whole("best", True, 0)] if "best" in own else []
    steps += [whole(name, True, seed) for name in own for seed in MORE_SEEDS[name]]
    steps += [full(peer.stem, str(peer)) for peer in PEERS] if "best" in own else []
    steps += [asked("epochs", name) for name in paper_experiments()]
    if options.full:
        steps += [full(name) for name in paper_experiments() if name != FIRST_FULL]
    return steps, reasons


class Counter:
    """Counts outcomes of tests for pytest."""

    def __init__(self) -> None:
        self.counts = {"passed": 0, "failed": 0, "skipped": 0}
        self.failures: list[str] = []

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.when == "call" or report.outcome != "passed":
            self.counts[report.outcome] += 1
        if report.outcome == "failed":
            self.failures.append(f"{report.nodeid}: {report.longreprtext[-LONGEST_FAILURE:]}")


LONGEST_FAILURE = 1500
"""Characters of a failed test's report that are kept: its end."""


def tests(arguments: Row) -> Row:
    """Passed, failed and skipped tests of the GPU path, and what failed."""
    import pytest  # needed by this step alone

    os.chdir(ROOT)
    counter, started = Counter(), time.perf_counter()
    paths = arguments.get("tests", list(TESTS))
    pytest.main(["-q", "-p", "no:cacheprovider", "--no-header", *paths], plugins=[counter])
    print(flush=True)
    return {"tests": counter.counts, "failures": counter.failures, "seconds": time.perf_counter() - started}


def baseline(arguments: Row) -> Row:
    """Images a second of the tutorial-style training on random images, at its best number of loader workers."""
    recipe = recipes.load(arguments["recipe"], ["optimizer.lr=0.0001"])  # random labels must not diverge
    images = RandomImages(arguments.get("images", IMAGES), recipe.data.image_side or 32).train()
    pixels, labels = rows_first(images.images), images.labels.tolist()
    device, steps = torch.device(arguments.get("device", "cuda")), arguments.get("steps", THROUGHPUT_STEPS)
    speeds: dict[int, float] = {}
    for workers in arguments.get("workers") or worker_counts(available_cores()):
        side = Baseline(recipe, pixels, labels, workers, device)
        side.step()
        rounds = [side.round(steps) for _ in range(BASELINE_ROUNDS)]
        seconds = statistics.median(one["seconds"] / one["steps"] for one in rounds)
        speeds[workers] = recipe.training.batch_size / seconds
    best = max(speeds, key=lambda workers: speeds[workers])
    shown = EPOCH_IMAGES * (2 if recipe.augment.concatenate_originals else 1)
    return {
        "batch_size": recipe.training.batch_size,
        "images_per_s": speeds[best],
        "workers": best,
        "all_images_per_s": speeds,
        "seconds_an_epoch": shown / speeds[best],
    }


def worker_counts(cores: int) -> list[int]:
    """Loader workers that are tried: the tutorials' two, and as many as leave the training a core."""
    return sorted({2, max(2, cores - 1)})


def throughput(arguments: Row) -> Row:
    """Images a second of the product on random images; the first round has the compiling in it."""
    variant = arguments["variant"]
    runtime = {"device": arguments.get("device", "cuda"), "channels_last": "yes"} | VARIANTS[variant]
    recipe = round_recipe(recipes.load(arguments["recipe"]), THROUGHPUT_ROUNDS + 1, runtime)
    display = Epochs()
    run_rounds(recipe, images_for(recipe, arguments.get("steps", THROUGHPUT_STEPS)), display)
    size = recipe.training.batch_size
    speeds = [one["steps"] * size / one["seconds"] for one in display.measured[1:]]
    shown = EPOCH_IMAGES * (2 if recipe.augment.concatenate_originals else 1)
    on_gpu = torch.cuda.max_memory_allocated() / 1e6 if torch.cuda.is_available() else None
    return {
        "batch_size": size,
        "variant": variant,
        "images_per_s": statistics.median(speeds),
        "all_images_per_s": speeds,
        "first_round_s": display.measured[0]["seconds"],
        "seconds_an_epoch": shown / statistics.median(speeds),
        "peak_gpu_mb": on_gpu,
    }


class FirstEpochs(SilentDisplay):
    """When each of the first epochs was done and saved, then the end of the training."""

    def __init__(self, epochs: int) -> None:
        self.epochs = epochs
        self.at: list[float] = []

    def start(self, lines: list[str], epochs: int, steps_per_epoch: int, epochs_done: int) -> None:
        self.at.append(time.perf_counter())

    def epoch(self, row: dict[str, Any], selected: bool) -> None:
        self.at.append(time.perf_counter())
        if len(self.at) > self.epochs:
            raise NoMoreRounds


def first_epochs(arguments: Row, folder: Path) -> Row:
    """A recipe's first epochs on the data, evaluation and saving included, and the whole run's time from them."""
    recipe = recipes.load(arguments["recipe"])
    display = FirstEpochs(arguments.get("epochs", MEASURED_EPOCHS))
    started = time.perf_counter()
    with suppress(NoMoreRounds):
        api.train(recipe, arguments["data"], out=folder, display=display)
    epochs_s = [later - earlier for earlier, later in zip(display.at, display.at[1:], strict=False)]
    each_s = statistics.median(epochs_s[1:])
    start_s = display.at[0] - started
    return {
        "epochs_s": epochs_s,
        "start_s": start_s,
        "epochs": recipe.training.epochs,
        "whole_run_s": start_s + epochs_s[0] + each_s * (recipe.training.epochs - 1),
        "extrapolated": True,
        "extrapolated_from_epochs": len(epochs_s),
    }


def whole_run(arguments: Row) -> Row:
    """A recipe to its end, or as far as `limit_s` reaches: the run folder keeps it, the next call goes on."""
    folder = Path(arguments["folder"])
    before = _epochs_done(folder)
    timer = threading.Timer(arguments["limit_s"], os.kill, (os.getpid(), signal.SIGINT))
    timer.daemon = True
    timer.start()
    try:
        if before:
            run = api.resume(folder, arguments["data"], SilentDisplay())
        else:
            shutil.rmtree(folder, ignore_errors=True)  # stopped before its first epoch was saved: nothing to keep
            run = api.train(arguments["recipe"], arguments["data"], out=folder, display=SilentDisplay())
    except (Interrupted, KeyboardInterrupt):  # the latter before the loop watches signals
        return {"unfinished": True, "new_epochs": _epochs_done(folder) - before}
    finally:
        timer.cancel()
    result = run.result
    return {
        "accuracy": inference.measure(run, "test", data=arguments["data"]).evaluation.accuracy,
        "used": used(run, arguments["data"]),
        "split": "test",
        "selection": result["selection"],
        "seed": result["seed"],
        "epochs": result["epochs"],
        "whole_run_s": result["elapsed_s"],
        "extrapolated": False,
    }


def used(run: Run, data: str) -> Row:
    """Seconds of what one does with a trained run: evaluate, report, predict; and how many predictions are right."""
    seconds = {}

    def timed(name: str, work: Callable[[], Any]) -> Any:
        started = time.perf_counter()
        done = work()
        seconds[name] = time.perf_counter() - started
        return done

    test = open_source(data, run.recipe.data.image_side).test()
    count = min(PREDICTED_IMAGES, len(test))
    images = run.path / "to-predict.npz"
    np.savez(images, images=rows_first(test.images[:count]), ids=np.arange(count))
    timed("evaluate", lambda: api.evaluate(run, "test", data=data, tta="flip"))
    page = timed("report", lambda: api.report(run))
    found = timed("predict", lambda: api.predict(run, images, out=run.path / "predictions.csv"))
    right = int((found.labels == test.labels[:count]).sum())
    return {"seconds": seconds, "predicted": count, "right": right, "report_bytes": page.stat().st_size}


def _epochs_done(folder: Path) -> int:
    return len(load_run(folder).history) if RunFolder(folder).has_epoch else 0


def work(arguments: Row) -> None:
    """A worker, used once."""
    if arguments["what"] in ("throughput", "baseline", "tests"):
        say({"throughput": throughput, "baseline": baseline, "tests": tests}[arguments["what"]](arguments))
    elif arguments["what"] == "epochs":
        with tempfile.TemporaryDirectory() as folder:
            say(first_epochs(arguments, Path(folder) / "run"))
    else:
        say(whole_run(arguments))


def describe(key: str, row: Row) -> str:
    """One line of the table."""
    if "failed" in row:
        return f"failed: {row['failed']}"
    if "tests" in row:
        named = [failure.partition(":")[2].partition(":")[2].split(":")[0] for failure in row["failures"]]
        counts = row["tests"]
        return f"{counts['passed']} passed, {counts['failed']} failed" + (f" ({', '.join(named)})" if named else "")
    if "images_per_s" in row:
        return f"{row['images_per_s']:,.0f} images/s, {row['seconds_an_epoch']:.2f} s an epoch of 50,000 images"
    if "whole_run_s" in row:
        note = f", extrapolated from {row['extrapolated_from_epochs']} epochs" if row["extrapolated"] else ""
        return f"{duration(row['whole_run_s'])} for {row['epochs']} epochs{note}"
    return f"{row['accuracy']:.2%} ({row['selection']}), {row['wall_s']:.1f} s"


def ratios(rows: dict[str, Row]) -> Row:
    """Best variant against the baseline for every network that has both, and the geometric mean."""
    found: dict[str, Row] = {}
    for name in compared_recipes():
        speeds = {
            variant: rows[key]["images_per_s"]
            for variant in VARIANTS
            if "images_per_s" in rows.get(key := f"throughput: {name}, {variant}", {})
        }
        base = rows.get(f"baseline: {name}", {}).get("images_per_s")
        if speeds and base:
            best = max(speeds, key=lambda variant: speeds[variant])
            found[name] = {"variant": best, "ratio": speeds[best] / base}
    if not found:
        return {}
    mean = geometric_mean([one["ratio"] for one in found.values()])
    return {"to_the_baseline": found, "geometric_mean_ratio": mean}


def main() -> None:
    options_parser = parser(__doc__, "gpu")
    options_parser.set_defaults(out=RESULTS / "gpu.json")
    options_parser.add_argument("--data", default=os.environ.get(VARIABLE), help="CIFAR-10, as `--data` of thriftnet")
    options_parser.add_argument("--limit-s", type=float, default=540.0, help="stop cleanly after so many seconds")
    options_parser.add_argument("--full", action="store_true", help="also train the papers' recipes to their end")
    options_parser.add_argument(
        "--runs",
        type=Path,
        default=Path("runs/bench-gpu"),
        help="where --full keeps its runs; one without a saved epoch is begun anew",
    )
    options_parser.add_argument("--tta", default="none", help="as in `thriftnet evaluate --tta`")
    options_parser.add_argument("--dry-run", action="store_true", help="print the steps and do nothing")
    options = options_parser.parse_args()
    if options.worker:
        run_worker(work, options.worker)
        return
    steps, reasons = plan(options, recipes.names())
    for reason in reasons:
        print(reason)
    if options.dry_run:
        print_table(["step", "about"], [(step.key, duration(step.estimate_s)) for step in steps])
        return
    if not torch.cuda.is_available():
        raise UserError("this benchmark needs a CUDA GPU and torch sees none here; --dry-run prints what it would do")
    if options.data is None:
        raise UserError(f"say where CIFAR-10 lies with --data or {VARIABLE}, or --data cifar10 to download it")
    options.runs = options.runs.resolve()
    settings = {"data": Path(options.data).name, "tta": options.tta}
    store = Store(options.out, "one GPU", settings, options.again, environment(RuntimeConfig(device="cuda")))
    left = run_plan(steps, store, options.limit_s)
    done = {step.key: store.rows[step.key] for step in steps if step.key in store.rows}
    print_table(["step", "measured"], [(key, describe(key, row)) for key, row in done.items()])
    summary = ratios(done)
    for name, one in summary.get("to_the_baseline", {}).items():
        print(f"{name}: {one['ratio']:.1f} times the baseline ({one['variant']})")
    store.write(summary=summary)
    print(f"{left} steps are left; the same command goes on" if left else "all steps are done")


if __name__ == "__main__":
    run_main(main)
