"""Accuracy against time: whole trainings through the library, each in a fresh process, over seeds.

    python -m benchmarks.time_to_accuracy --data DATA [--recipes NAME ...] [--seeds 0 1 2] [--target 0.94] [--warm]
        [--tta none] [--set KEY=VALUE] [--versus 'COMMAND with {seed}'] [--out FILE] [--again]

Cold is what a user waits for: from the start of the process, so imports, reading the data and compiling count. With
--warm another process trains a few epochs first and then times a whole training, data included. The test split is
opened once, after training; the curve is what the recipe itself evaluates after each epoch, and its label says which
split that is. --versus runs another program in turns with ours, seed by seed; its last line of standard output must be
a JSON object with `accuracy` (a fraction) and `seconds`, of its training alone; ours then are compared too, without
imports, reading of data and evaluation.
"""

from __future__ import annotations

import math
import shlex
import statistics
import tempfile
import time
from argparse import Namespace
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.common import (
    RESULTS,
    Row,
    Store,
    announce,
    child,
    environment,
    median_ratio,
    parser,
    print_table,
    run_main,
    run_worker,
    say,
    timed_command,
)
from thriftnet import api, inference
from thriftnet import recipe as recipes
from thriftnet.config import RecipeConfig, RuntimeConfig
from thriftnet.errors import ThriftnetError, UserError
from thriftnet.reporting.figures import BLUE, GREEN, INK, VERMILLION, new_figure, styled
from thriftnet.training.outcome import EVALUATED_SPLIT
from thriftnet.training.progress import SilentDisplay

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SECONDS_A_RUN = 400
VERSUS = "versus"


class Recorder(SilentDisplay):
    """The accuracy of every epoch with wall and CPU seconds since `origin` (time.time, time.process_time)."""

    def __init__(self, split: str, origin: tuple[float, float]) -> None:
        self.split, self.origin = split, origin
        self.curve: list[Row] = []
        self.start_s = 0.0

    def start(self, lines: list[str], epochs: int, steps_per_epoch: int, epochs_done: int) -> None:
        self.start_s = time.time() - self.origin[0]

    def epoch(self, row: dict[str, Any], selected: bool) -> None:
        wall_s, cpu_s = since(self.origin)
        accuracy = row.get(f"{self.split}_accuracy")
        self.curve.append({"epoch": row["epoch"], "wall_s": wall_s, "cpu_s": cpu_s, "accuracy": accuracy})


def since(origin: tuple[float, float]) -> tuple[float, float]:
    return time.time() - origin[0], time.process_time() - origin[1]


def warm_up(recipe: RecipeConfig, data: str) -> None:
    """A tenth of the epochs, thrown away: what is loaded, compiled and tuned once per process is done after it."""
    epochs = max(math.ceil(recipe.training.epochs / 10), math.floor(recipe.schedule.warmup_epochs) + 1)
    with tempfile.TemporaryDirectory() as folder:
        api.train(recipe, data, out=Path(folder) / "run", epochs=epochs, display=SilentDisplay())


def train_once(arguments: Row) -> Row:
    """{recipe, seed, data, overrides, warm, tta, spawned_at} -> accuracy, curve and times of one training."""
    recipe = api.load_recipe(arguments["recipe"], arguments["overrides"])
    data = arguments["data"]
    origin = (arguments["spawned_at"], 0.0)
    if arguments["warm"]:
        warm_up(recipe, data)
        origin = (time.time(), time.process_time())
    split = EVALUATED_SPLIT[recipe.training.selection]
    recorder = Recorder(split, origin)
    with tempfile.TemporaryDirectory() as folder:
        run = api.train(recipe, data, out=Path(folder) / "run", seed=arguments["seed"], display=recorder)
        trained_wall_s, trained_cpu_s = since(origin)
        measurement = inference.measure(run, "test", data=data, tta=arguments["tta"])
        wall_s, cpu_s = since(origin)
        result = run.result
    return {
        "accuracy": measurement.evaluation.accuracy,
        "split": "test",
        "selection": result["selection"],
        "tta": arguments["tta"],
        "seed": arguments["seed"],
        "recipe_hash": result["recipe_hash"],
        "parameters": result["parameters"],
        "epochs": result["epochs"],
        "start_s": recorder.start_s,
        "epochs_s": result["elapsed_s"],
        "training_s": trained_wall_s,
        "training_cpu_s": trained_cpu_s,
        "wall_s": wall_s,
        "cpu_s": cpu_s,
        "curve_split": split,
        "curve": recorder.curve,
    }


def timed_run(
    recipe: str, seed: int, data: str, overrides: Sequence[str], warm: bool, tta: str, limit_s: float | None = None
) -> Row:
    """One training in a fresh process; cold, wall and CPU seconds are those of the whole process."""
    arguments = {
        "recipe": recipe,
        "seed": seed,
        "data": data,
        "overrides": list(overrides),
        "warm": warm,
        "tta": tta,
        "spawned_at": time.time(),
    }
    answer, spent = child("benchmarks.time_to_accuracy", arguments, limit_s)
    return answer if warm else answer | spent


def reached(row: Row, target: float) -> Row | None:
    """When the accuracy reached `target`: by the curve, else by the final accuracy; None: never."""
    for point in row.get("curve", []):
        if point["accuracy"] is not None and point["accuracy"] >= target:
            return {"wall_s": point["wall_s"], "cpu_s": point["cpu_s"], "by": f"curve ({row['curve_split']})"}
    if row["accuracy"] >= target:
        return {"wall_s": row["wall_s"], "cpu_s": row["cpu_s"], "by": "final accuracy (test)"}
    return None


def versus_run(command: str, seed: int) -> Row:
    """The other program's accuracy and seconds, and what it took from outside."""
    answer, spent = timed_command(shlex.split(command.replace("{seed}", str(seed))))
    missing = [key for key in ("accuracy", "seconds") if not isinstance(answer.get(key), int | float)]
    if missing:
        raise UserError(f"the last line of --versus has no number {missing[0]!r}; print it as JSON")
    return {"accuracy": answer["accuracy"], "seconds": answer["seconds"], "seed": seed, "answer": answer} | spent


def jobs(options: Namespace) -> list[tuple[str, Callable[[], Row]]]:
    """(key, run) in the order in which they take turns: every other seed backwards."""
    ordered: list[tuple[str, Callable[[], Row]]] = []
    for number, seed in enumerate(options.seeds):
        one_seed: list[tuple[str, Callable[[], Row]]] = []
        for name in options.recipes:
            for warm in (False, True) if options.warm else (False,):
                one_seed.append(
                    (
                        key_of(name, warm, seed),
                        partial(timed_run, name, seed, options.data, options.set, warm, options.tta),
                    )
                )
        if options.versus:
            one_seed.append((f"{VERSUS}, seed {seed}", partial(versus_run, options.versus, seed)))
        ordered += one_seed if number % 2 == 0 else reversed(one_seed)
    return ordered


def key_of(name: str, warm: bool, seed: int) -> str:
    return f"{name}, {'warm' if warm else 'cold'}, seed {seed}"


def summarize(rows: dict[str, Row], target: float | None) -> dict[str, Row]:
    """Over the seeds of each recipe and kind: accuracy (mean, standard deviation), seconds, and against --versus."""
    kinds: dict[str, list[Row]] = {}
    for key, row in rows.items():
        kinds.setdefault(key.rpartition(", seed ")[0], []).append(row)
    other = {row["seed"]: row for row in kinds.get(VERSUS, [])}
    found = {}
    for kind, each in kinds.items():
        accuracies = [row["accuracy"] for row in each]
        summary: Row = {
            "seeds": len(each),
            "accuracy_mean": statistics.fmean(accuracies),
            "accuracy_sd": statistics.stdev(accuracies) if len(each) > 1 else None,
            "wall_s_median": statistics.median(row["wall_s"] for row in each),
            "cpu_s_median": statistics.median(row["cpu_s"] for row in each),
            "training_s_median": statistics.median(row["epochs_s" if "epochs_s" in row else "seconds"] for row in each),
        }
        if target is not None:
            times = [reached(row, target) for row in each]
            summary["target"] = target
            summary["target_reached_wall_s"] = [found and found["wall_s"] for found in times]
        shared = [row for row in each if row["seed"] in other]
        if kind != VERSUS and shared:
            for measure, theirs_is in (("wall_s", "wall_s"), ("cpu_s", "cpu_s"), ("epochs_s", "seconds")):
                ours, theirs = [row[measure] for row in shared], [other[row["seed"]][theirs_is] for row in shared]
                summary[f"{measure}_ratio_to_versus"] = median_ratio(ours, theirs)
        found[kind] = summary
    return found


@styled
def draw(rows: dict[str, Row], target: float | None) -> Figure:
    """Accuracy against wall and CPU seconds: curves as evaluated while training, points for the final test accuracy."""
    figure = new_figure(9.0, 3.8)
    colours: dict[str, str] = {}
    for axes, measure, label in zip(
        figure.subplots(1, 2, sharey=True), ("wall_s", "cpu_s"), ("wall seconds", "CPU seconds"), strict=True
    ):
        labelled: set[str] = set()
        for key, row in rows.items():
            kind = key.rpartition(", seed ")[0]
            colour = colours.setdefault(kind, (BLUE, VERMILLION, GREEN, INK)[len(colours) % 4])
            points = [point for point in row.get("curve", []) if point["accuracy"] is not None]
            axes.plot([p[measure] for p in points], [100 * p["accuracy"] for p in points], color=colour, linewidth=1)
            text = None if kind in labelled else f"{kind}: test, final"
            axes.plot(row[measure], 100 * row["accuracy"], "o", color=colour, markersize=4, label=text)
            labelled.add(kind)
        if target is not None:
            axes.axhline(100 * target, color=INK, linewidth=1, linestyle=":")
        axes.set(xlabel=label)
        axes.grid(visible=True)
    figure.axes[0].set_ylabel("accuracy (%)")
    figure.axes[0].legend(loc="best")
    return figure


def main() -> None:
    options_parser = parser(__doc__, "time-to-accuracy")
    options_parser.set_defaults(out=RESULTS / "time-to-accuracy.json")
    options_parser.add_argument("--data", default="digits", help="what `thriftnet train --data` takes")
    options_parser.add_argument("--recipes", nargs="+")
    options_parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    options_parser.add_argument("--target", type=float, help="accuracy to reach, a fraction")
    options_parser.add_argument("--warm", action="store_true", help="also time a second training in a warm process")
    options_parser.add_argument("--tta", default="none", help="as in `thriftnet evaluate --tta`")
    options_parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override a value")
    options_parser.add_argument("--versus", metavar="COMMAND", help="another program, {seed} in it replaced")
    options = options_parser.parse_args()
    if options.worker:
        run_worker(lambda arguments: say(train_once(arguments)), options.worker)
        return
    if options.recipes is None:
        ours = [name for name in ("fast",) if name in recipes.names()]
        options.recipes = ours if ours and options.data != "digits" else ["digits-demo"]
    settings = {"data": Path(options.data).name, "overrides": options.set, "tta": options.tta}
    store = Store(options.out, "time to accuracy", settings, options.again, environment(RuntimeConfig()))
    asked = jobs(options)
    announce("time to accuracy", sum(not store.finished(key) for key, _ in asked), SECONDS_A_RUN)
    for key, run in asked:
        try:
            row = store.row(key, run)
        except ThriftnetError as error:
            print(f"{key} is left out: {error}")
            continue
        print(f"{key}: {row['accuracy']:.2%}, {row['wall_s']:,.1f} s, {row['cpu_s']:,.1f} CPU s", flush=True)
    rows = {key: store.rows[key] for key, _ in asked if key in store.rows}
    summary = summarize(rows, options.target)
    print_table(
        ["", "seeds", "test accuracy", "wall s", "CPU s", "training s", "CPU s / versus", "training s / versus"],
        [
            (
                kind,
                each["seeds"],
                f"{each['accuracy_mean']:.2%}" + (f" ± {each['accuracy_sd']:.2%}" if each["accuracy_sd"] else ""),
                f"{each['wall_s_median']:,.1f}",
                f"{each['cpu_s_median']:,.1f}",
                f"{each['training_s_median']:,.1f}",
                *(
                    f"{each[ratio]:.2f}" if ratio in each else "-"
                    for ratio in ("cpu_s_ratio_to_versus", "epochs_s_ratio_to_versus")
                ),
            )
            for kind, each in summary.items()
        ],
    )
    store.write(summary=summary)
    if rows:
        store.draw(draw(rows, options.target))


if __name__ == "__main__":
    run_main(main)
