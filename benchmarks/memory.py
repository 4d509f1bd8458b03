"""Peak memory of every recipe, and how step time and memory grow with width, depth, batch, image side and images.

    python -m benchmarks.memory [--recipes NAME ...] [--around liu-4x2] [--steps 3] [--out FILE] [--again]

Each point is a fresh process that trains a few steps with the product's `fit`. Memory is the process's high-water mark
of resident memory on a CPU (interpreter and torch included, whose own share is stored beside it), on a GPU the most
that torch had allocated there.
"""

from __future__ import annotations

import resource
import sys
import time
from argparse import Namespace
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from benchmarks.common import (
    RESULTS,
    Row,
    Store,
    announce,
    child,
    compared_recipes,
    environment,
    parser,
    print_table,
    run_main,
    run_worker,
    say,
)
from benchmarks.product import Epochs, NoMoreRounds, images_for, round_recipe, run_rounds
from thriftnet import recipe as recipes
from thriftnet import runtime as runtimes
from thriftnet.config import RecipeConfig, RuntimeConfig
from thriftnet.config.model import MOST_PARAMETERS
from thriftnet.errors import ThriftnetError, UserError
from thriftnet.models.build import count_parameters
from thriftnet.reporting.figures import BLUE, VERMILLION, new_figure, styled
from thriftnet.training.progress import STEPS_PER_REPORT, SilentDisplay

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SECONDS_A_POINT = 25
ROUNDS = 2
SWEEPS: dict[str, tuple[float, ...]] = {
    "width": (0.5, 0.75, 1.0, 1.5, 2.0),
    "depth": (1, 2, 3, 4),
    "batch": (32, 64, 128, 256, 512),
    "image side": (16, 24, 32, 48, 64),
    "images": (5_000, 10_000, 50_000, 100_000),
}
LABELS = {
    "width": "width, times the recipe's",
    "depth": "blocks a stage",
    "batch": "images a batch",
    "image side": "image side (pixels)",
    "images": "training images",
}
NO_BUDGET = MOST_PARAMETERS


def varied(recipe: RecipeConfig, axis: str, value: float) -> RecipeConfig:
    """The recipe with one thing changed; `images` changes the data, not the recipe."""
    model = recipe.model
    if axis == "width":
        if model.widths is None:
            raise UserError(f"{recipe.name} has no model.widths to vary; give --around a recipe that has")
        if model.stem.width is None:
            raise UserError(f"{recipe.name} has a whitening stem, whose width follows; give --around another recipe")
        scaled: dict[str, Any] = {
            "stem": {"width": max(1, round(model.stem.width * value))},
            "widths": [max(1, round(width * value)) for width in model.widths],
        }
        return _with_network(recipe, scaled)
    if axis == "depth":
        return _with_network(recipe, {"blocks": [int(value)] * len(model.blocks)})
    if axis == "batch":
        return recipes.with_changes(recipe, {"training": {"batch_size": int(value)}})
    if axis == "image side":
        return recipes.with_changes(recipe, {"data": {"image_side": int(value)}})
    return recipe


def _with_network(recipe: RecipeConfig, model: dict[str, Any]) -> RecipeConfig:
    """Of any size: without the budget, and without what the recipe says of its own network."""
    changes = {"model": model | {"parameter_budget": NO_BUDGET}, "expect": recipes.ABSENT}
    return recipes.with_changes(recipe, changes)


def peak_rss_mb() -> float:
    """High-water mark of this process's resident memory, in MB of 10^6 bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6


class Reports(SilentDisplay):
    """Seconds a step, by the loop's first reports: a whole epoch of many images would take too long."""

    def __init__(self) -> None:
        self.at: list[float] = []

    def step(self, epoch: int, step: int, loss: float, accuracy: float, images_per_s: float) -> None:
        self.at.append(time.perf_counter())
        if len(self.at) > ROUNDS:
            raise NoMoreRounds

    def step_s(self) -> float:
        return (self.at[-1] - self.at[0]) / (len(self.at) - 1) / STEPS_PER_REPORT


def work(arguments: Row) -> None:
    """A worker, used once: {recipe, axis, value, steps, device} -> seconds a step and peak memory."""
    empty_mb = peak_rss_mb()
    recipe = varied(recipes.load(arguments["recipe"]), arguments["axis"], arguments["value"])
    runtime = {} if arguments["device"] == "auto" else {"device": arguments["device"]}
    recipe = round_recipe(recipe, ROUNDS + 1, runtime)
    given = arguments["axis"] == "images"
    images = int(arguments["value"]) if given else images_for(recipe, arguments["steps"])
    display = Reports() if given else Epochs()
    run_rounds(recipe, images, display)
    device = runtimes.resolve(recipe.runtime).device
    on_gpu = torch.cuda.max_memory_allocated(device) / 1e6 if device.type == "cuda" else None
    say(
        {
            "parameters": count_parameters(recipe.model),
            "batch_size": recipe.training.batch_size,
            "images_in_memory": images,
            "step_s": display.step_s(),
            "rss_before_training_mb": empty_mb,
            "peak_rss_mb": peak_rss_mb(),
            "peak_gpu_mb": on_gpu,
        }
    )


def measure(arguments: Row) -> Row:
    """What the process of one point answers; a point that no memory or kernel was enough for is stored as failed."""
    try:
        return child("benchmarks.memory", arguments)[0]
    except ThriftnetError as error:
        return {"failed": str(error)}


def points(options: Namespace) -> dict[str, Row]:
    """Key of a row -> what its process is told: each recipe as it is, then the sweeps."""
    common = {"steps": options.steps, "device": options.device}
    found = {f"recipe: {name}": {"recipe": name, "axis": "none", "value": 1} | common for name in options.recipes}
    for axis, values in SWEEPS.items():
        for value in values:
            found[f"{axis}: {value:g}"] = {"recipe": options.around, "axis": axis, "value": value} | common
    return found


def memory_mb(row: Row) -> float:
    """The number that is drawn: the GPU's where there is one."""
    return float(row["peak_rss_mb"] if row["peak_gpu_mb"] is None else row["peak_gpu_mb"])


@styled
def draw(rows: dict[str, Row], around: str) -> Figure:
    """Step time above, memory below, one column an axis."""
    figure = new_figure(2.4 * len(SWEEPS), 4.6)
    panels = figure.subplots(2, len(SWEEPS), sharex="col")
    measures: list[tuple[Any, str, str]] = [
        (lambda row: row["step_s"], "seconds a step", BLUE),
        (memory_mb, "peak memory (MB)", VERMILLION),
    ]
    for column, (axis, values) in enumerate(SWEEPS.items()):
        for line, (value_of, label, colour) in enumerate(measures):
            points = [(value, rows[f"{axis}: {value:g}"]) for value in values]
            shown = [(value, value_of(row)) for value, row in points if "failed" not in row]
            panels[line, column].plot([x for x, _ in shown], [y for _, y in shown], "o-", color=colour, markersize=3)
            panels[line, column].set_ylim(bottom=0)
            panels[line, column].grid(visible=True)
            if column == 0:
                panels[line, column].set_ylabel(label)
        panels[1, column].set_xlabel(LABELS[axis])
    figure.suptitle(f"Around {around}")
    return figure


def main() -> None:
    options_parser = parser(__doc__, "memory")
    options_parser.set_defaults(out=RESULTS / "memory.json")
    options_parser.add_argument("--recipes", nargs="*", default=compared_recipes())
    options_parser.add_argument("--around", default="liu-4x2", help="the recipe that is varied")
    options_parser.add_argument("--steps", type=int, default=3, help="steps a round")
    options_parser.add_argument("--device", default="auto")
    options = options_parser.parse_args()
    if options.worker:
        run_worker(work, options.worker)
        return
    settings = {key: getattr(options, key) for key in ("around", "steps", "device")}
    store = Store(options.out, "memory", settings, options.again, environment(RuntimeConfig(device=options.device)))
    asked = points(options)
    announce("memory", sum(not store.finished(key) for key in asked), SECONDS_A_POINT)
    for key, arguments in asked.items():
        store.row(key, partial(measure, arguments))
    rows = {key: store.rows[key] for key in asked}
    for key, row in rows.items():
        if "failed" in row:
            print(f"{key} failed: {row['failed']}")
    print_table(
        ["", "parameters", "batch", "ms a step", "peak RSS MB", "before training", "peak GPU MB"],
        [
            (
                key,
                f"{row['parameters']:,}",
                row["batch_size"],
                f"{row['step_s'] * 1e3:,.0f}",
                f"{row['peak_rss_mb']:,.0f}",
                f"{row['rss_before_training_mb']:,.0f}",
                "-" if row["peak_gpu_mb"] is None else f"{row['peak_gpu_mb']:,.0f}",
            )
            for key, row in rows.items()
            if "failed" not in row
        ],
    )
    store.draw(draw(rows, options.around))


if __name__ == "__main__":
    run_main(main)
