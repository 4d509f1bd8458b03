"""Training throughput: the product against the way the papers and tutorials train, and against the machine.

    python -m benchmarks.throughput [--recipes NAME ...] [--rounds 5] [--steps 3] [--out FILE] [--again]
    python -m benchmarks.throughput --profile [--recipes NAME ...]

Three processes take turns for each recipe, in one run: the product (its own `fit` on images in memory: gather,
augmentation, normalisation, forward, backward, update), the baseline (benchmarks/baseline.py) with the best of 0, 1, 2
workers and 1, 2 threads, tried out just before, and the network's convolutions alone (benchmarks/convolutions.py) in
the dtype and layout that is fastest for them. Numbers are medians over the rounds, ratios medians of the rounds'
ratios. The roofline (benchmarks/roofline.py) says what the rest of the step is bound by.

With --profile it prints and stores where the product's step spends its time instead.
"""

from __future__ import annotations

import itertools
import statistics
from argparse import Namespace
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from benchmarks import baseline
from benchmarks.common import (
    NETWORKS,
    RESULTS,
    Row,
    Store,
    Worker,
    alternate,
    announce,
    child,
    compared_recipes,
    environment,
    geometric_mean,
    median_ratio,
    parser,
    print_table,
    run_main,
)
from benchmarks.convolutions import convolutions_of
from benchmarks.roofline import ceilings, explain, passes_of, step_bounds
from benchmarks.step_profile import ORDER
from thriftnet import recipe as recipes
from thriftnet import runtime as runtimes
from thriftnet.config import RecipeConfig, RuntimeConfig
from thriftnet.errors import ThriftnetError
from thriftnet.models.build import build_on_meta
from thriftnet.reporting.figures import BLUE, GREEN, INK, VERMILLION, new_figure, styled

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CEILINGS = "ceilings"
SCREENING_ROUNDS = 2
SECONDS_A_RECIPE, SECONDS_A_PROFILE = 240, 60
NINE = NETWORKS
"""The nine networks; the tenth recipe trains one of them with AMP."""


def screen_baseline(name: str, options: Namespace) -> Row:
    """Images a second of the baseline with each number of workers and threads, as `workers 1, threads 2`."""
    batch = recipes.load(name).training.batch_size
    found = {}
    for workers, threads in itertools.product(options.workers, options.threads):
        with Worker("benchmarks.baseline", _baseline(name, workers, threads, options, 1), _threads(threads)) as worker:
            speeds = [_images_per_s(worker.round(), batch) for _ in range(SCREENING_ROUNDS)]
        found[f"workers {workers}, threads {threads}"] = {
            "workers": workers,
            "threads": threads,
            "images_per_s": statistics.median(speeds),
        }
    return found


def measure(name: str, options: Namespace, machine: Row) -> Row:
    """One row: all sides of one recipe."""
    recipe = recipes.load(name)
    batch = recipe.training.batch_size
    reason = baseline.unsupported(recipe)
    screened = screen_baseline(name, options) if reason is None else {}
    with ExitStack() as stack:
        product = stack.enter_context(
            Worker(
                "benchmarks.product",
                {"recipe": name, "steps": options.steps, "rounds": options.rounds, "runtime": _runtime(options)},
            )
        )
        alone = stack.enter_context(
            Worker("benchmarks.convolutions", {"recipe": name, "steps": 1, "passes": 2, "device": options.device})
        )
        workers = {"product": product, "convolutions": alone}
        if reason is None:
            best = max(screened.values(), key=lambda each: each["images_per_s"])
            arguments = _baseline(name, best["workers"], best["threads"], options, options.steps)
            workers["baseline"] = stack.enter_context(
                Worker("benchmarks.baseline", arguments, _threads(best["threads"]))
            )
        sides = {side: partial(_round, worker, batch) for side, worker in workers.items()}
        speeds = alternate(sides, options.rounds)
    row: Row = {
        "batch_size": batch,
        "images_per_s": {side: statistics.median(values) for side, values in speeds.items()},
        "all_images_per_s": speeds,
        "baseline": screened if reason is None else reason,
        "ratio": median_ratio(speeds["product"], speeds["baseline"]) if reason is None else None,
    }
    return row | machine_row(recipe, speeds, alone.ready, machine, options)


def machine_row(
    recipe: RecipeConfig, speeds: dict[str, list[float]], alone: Row, machine: Row, options: Namespace
) -> Row:
    """Convolution-only time, its share of the step, and the roofline. AMP's steps have two passes of convolutions."""
    side, passes, batch = recipe.data.image_side or 32, passes_of(recipe), recipe.training.batch_size
    step_s = batch / statistics.median(speeds["product"])
    convolution_s = passes * batch / statistics.median(speeds["convolutions"])
    precision = runtimes.resolve(RuntimeConfig(device=options.device)).precision
    listed = convolutions_of(build_on_meta(recipe.model), (3, side, side))
    bounds = step_bounds(recipe, listed, precision, machine, side)
    fastest_each = sum(min(times) for times in zip(*alone["seconds"].values(), strict=True))
    return {
        "step_s": step_s,
        "convolution_only": {
            "choice": alone["choice"],
            "seconds_a_step": convolution_s,
            "share_of_step": passes * median_ratio(speeds["product"], speeds["convolutions"]),
            "screened_seconds": {choice: passes * sum(times) for choice, times in alone["seconds"].items()},
            "seconds_with_the_best_choice_for_each": passes * fastest_each,
            "each_seconds": dict(zip(alone["paths"], alone["seconds"][alone["choice"]], strict=True)),
        },
        "gflops_reached": bounds["convolution_gflop"] / step_s,
        "roofline": bounds | explain(step_s, convolution_s, bounds),
    }


def profile(name: str) -> Row:
    """The profile of a recipe's step, taken in a fresh process."""
    return child("benchmarks.step_profile", {"recipe": name})[0]


def _round(worker: Worker, batch: int) -> float:
    return _images_per_s(worker.round(), batch)


def _images_per_s(measured: Row, batch: int) -> float:
    return float(measured["steps"] * batch / measured["seconds"])


def _baseline(name: str, workers: int, threads: int, options: Namespace, steps: int) -> Row:
    device = str(runtimes.resolve(RuntimeConfig(device=options.device)).device)
    return {"recipe": name, "workers": workers, "threads": threads, "device": device, "steps": steps}


def _threads(count: int) -> dict[str, str]:
    return {"OMP_NUM_THREADS": str(count)}


def _runtime(options: Namespace) -> dict[str, Any]:
    return {} if options.device == "auto" else {"device": options.device}


def summarize(rows: dict[str, Row]) -> Row:
    """Geometric means of the ratios over the nine networks, as far as they are measured, and the smallest ratio."""
    ratios = {name: rows[name]["ratio"] for name in NINE if rows.get(name, {}).get("ratio")}
    if not ratios:
        return {}
    slowest = min(ratios, key=lambda name: ratios[name])
    return {
        "networks": len(ratios),
        "geometric_mean_ratio": geometric_mean(list(ratios.values())),
        "smallest_ratio": {"recipe": slowest, "ratio": ratios[slowest]},
        "smallest_convolution_share": min(rows[name]["convolution_only"]["share_of_step"] for name in ratios),
    }


def show(rows: dict[str, Row]) -> None:
    """The table."""
    header = ["recipe", "batch", "baseline", "product", "ratio", "convolutions", "share", "GFLOP/s", "rest bound by"]
    lines = []
    for name, row in rows.items():
        speeds = row["images_per_s"]
        lines.append(
            (
                name,
                row["batch_size"],
                f"{speeds['baseline']:,.0f}" if "baseline" in speeds else "-",
                f"{speeds['product']:,.0f}",
                f"{row['ratio']:.2f}" if row["ratio"] else "-",
                row["convolution_only"]["choice"],
                f"{row['convolution_only']['share_of_step']:.0%}",
                f"{row['gflops_reached']:,.0f}",
                f"memory {row['roofline']['rest_explained_by_memory']:.0%}",
            )
        )
    print("images/s of the whole step; share: convolution-only time in the product's step")
    print_table(header, lines)


@styled
def draw(rows: dict[str, Row]) -> Figure:
    """Left: ratio to the baseline. Right: what a step's time goes to, beside the least its convolutions could take."""
    figure = new_figure(10.0, 1.6 + 0.36 * len(rows))
    left, right = figure.subplots(1, 2, sharey=True)
    names = list(rows)
    left.barh(names, [rows[name]["ratio"] or 0 for name in names], color=BLUE)
    left.axvline(1, color=INK, linewidth=1)
    left.set(xlabel="images/s, product / baseline", title="Ratio to the baseline")
    left.invert_yaxis()
    for place, name in enumerate(names):
        row = rows[name]
        share = min(row["convolution_only"]["share_of_step"], 1.0)
        memory = row["roofline"]["rest_explained_by_memory"] * (1 - share)
        parts = [("convolutions alone", share, BLUE), ("bytes of the rest", memory, VERMILLION)]
        start = 0.0
        for label, width, colour in [*parts, ("neither", 1 - share - memory, GREEN)]:
            right.barh(place, width, left=start, color=colour, label=label if place == 0 else None)
            start += width
        bound = row["roofline"]["convolution_s"] / row["step_s"]
        right.plot([bound, bound], [place - 0.4, place + 0.4], color=INK, label="roofline" if place == 0 else None)
    right.set(xlabel="share of the step", xlim=(0, 1), title="Where the step's time goes")
    figure.legend(*right.get_legend_handles_labels(), loc="outside lower right", ncols=4)
    return figure


def run_profile(options: Namespace) -> None:
    store = Store(RESULTS / "profile.json" if options.out is None else options.out, "profile", {}, options.again)
    announce("profile", sum(not store.finished(name) for name in options.recipes), SECONDS_A_PROFILE)
    for name in options.recipes:
        store.row(name, partial(profile, name))
    print("milliseconds a step, and share")
    lines = []
    for name in options.recipes:
        groups = store.rows[name]["seconds_a_step"]
        total = sum(groups.values())
        lines.append(
            (name, f"{total * 1e3:,.0f}", *(f"{groups[g] * 1e3:,.0f} ({groups[g] / total:.0%})" for g in ORDER))
        )
    print_table(["recipe", "all", *ORDER], lines)


def main() -> None:
    options_parser = parser(__doc__, "throughput")
    options_parser.set_defaults(out=None)
    options_parser.add_argument("--recipes", nargs="+", default=compared_recipes())
    options_parser.add_argument("--rounds", type=int, default=5)
    options_parser.add_argument("--steps", type=int, default=3, help="steps a round")
    options_parser.add_argument("--workers", type=int, nargs="+", default=[0, 1, 2], help="of the baseline's loader")
    options_parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], help="of the baseline")
    options_parser.add_argument("--device", default="auto")
    options_parser.add_argument("--profile", action="store_true", help="where the step's time goes, instead")
    options = options_parser.parse_args()
    if options.profile:
        run_profile(options)
        return
    settings = {key: getattr(options, key) for key in ("rounds", "steps", "workers", "threads", "device")}
    described = environment(RuntimeConfig.model_validate(_runtime(options)))
    path = options.out or RESULTS / "throughput.json"
    store = Store(path, "throughput", settings, options.again, described)
    announce("throughput", sum(not store.finished(name) for name in options.recipes), SECONDS_A_RECIPE)
    device = torch.device(described["device"])
    machine = store.row(CEILINGS, lambda: ceilings(device))
    for name in options.recipes:
        try:
            store.row(name, partial(measure, name, options, machine))
        except ThriftnetError as error:
            print(f"{name} is left out: {error}")
    rows = {name: store.rows[name] for name in options.recipes if name in store.rows}
    show(rows)
    summary = summarize(rows)
    if summary:
        print(f"geometric mean over {summary['networks']} of 9 networks: {summary['geometric_mean_ratio']:.2f}")
    store.write(summary=summary)
    if rows:
        store.draw(draw(rows))


if __name__ == "__main__":
    run_main(main)
