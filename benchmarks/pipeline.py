"""Data pipelines alone: images a second from uint8 in memory to a normalised batch, without any training.

    python -m benchmarks.pipeline [--recipes NAME ...] [--rounds 5] [--out FILE] [--again]

Per image, as tutorials do it (benchmarks/baseline.py), with 0, 1 and 2 loader workers, against the product's batched
operations on the device. The sides take turns; medians over the rounds. A round of a loader begins once the batches
that its workers prepared in the pause are used up.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from benchmarks import baseline
from benchmarks.common import (
    RESULTS,
    RandomImages,
    Row,
    Store,
    alternate,
    announce,
    compared_recipes,
    environment,
    median_ratio,
    parser,
    print_table,
    rows_first,
    run_main,
    wait_for,
)
from thriftnet import recipe as recipes
from thriftnet import runtime as runtimes
from thriftnet.augment import Draws, build_policy
from thriftnet.config import RecipeConfig, RuntimeConfig
from thriftnet.data.dataset import LabelledImages
from thriftnet.data.normalize import as_float, normalize
from thriftnet.errors import UserError
from thriftnet.reporting.figures import BLUE, VERMILLION, new_figure, styled
from thriftnet.runtime import Runtime

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MEAN, STD = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)
SECONDS_A_RECIPE = 60
LOADER_BATCHES, BATCHED_BATCHES = 4, 16
"""Batches a round; the batched side needs more of them to take long enough to time."""
WORKERS = (0, 1, 2)


def batched(recipe: RecipeConfig, data: LabelledImages, runtime: Runtime) -> Callable[[], float]:
    """Images a second of the product's operations: gather, augmentation, normalisation, layout."""
    size, count = recipe.training.batch_size, len(data)
    policy = build_policy(recipe.augment, MEAN)
    images = data.images.to(runtime.device)
    generator = torch.Generator().manual_seed(0)
    rounds = 0

    def one_batch(place: int) -> None:
        indices = torch.randint(0, count, (size,), generator=generator).to(runtime.device)
        raw = images[indices]
        if recipe.augment.concatenate_originals:  # half of the images of an epoch are not augmented
            half = size // 2
            batch = as_float(raw)
            batch[half:] = policy(raw[half:], Draws(0, place, indices[half:]))
        else:
            batch = policy(raw, Draws(0, place, indices))
        normalize(batch, MEAN, STD).contiguous(memory_format=runtime.memory_format)

    def round_() -> float:
        nonlocal rounds
        rounds += 1
        wait_for(runtime.device)
        started = time.perf_counter()
        for place in range(BATCHED_BATCHES):
            one_batch(rounds * BATCHED_BATCHES + place)
        wait_for(runtime.device)
        return BATCHED_BATCHES * size / (time.perf_counter() - started)

    return round_


def per_image(recipe: RecipeConfig, data: LabelledImages, workers: int) -> Callable[[], float]:
    """Images a second that come out of the baseline's DataLoader."""
    size = recipe.training.batch_size
    pixels = rows_first(data.images)
    loader = baseline.build_loader(recipe.augment, pixels, data.labels.tolist(), MEAN, STD, size, workers)

    def endless() -> Any:
        while True:
            yield from loader

    batches = endless()

    def round_() -> float:
        for _ in range(2 * workers + 1):
            next(batches)
        started = time.perf_counter()
        images = sum(len(next(batches)[1]) for _ in range(LOADER_BATCHES))
        return images / (time.perf_counter() - started)

    return round_


def measure(recipe: RecipeConfig, rounds: int, runtime: Runtime, count: int = baseline.IMAGES) -> Row:
    """One row: every side of one recipe; images a second."""
    data = RandomImages(count, recipe.data.image_side or 32).train()
    sides = {"batched": batched(recipe, data, runtime)}
    try:
        sides |= {f"per image, {workers} workers": per_image(recipe, data, workers) for workers in WORKERS}
        missing = None
    except UserError as error:
        missing = str(error)
    for side in sides.values():
        side()
    speeds = alternate(sides, rounds)
    medians = {side: statistics.median(values) for side, values in speeds.items()}
    best = max((side for side in medians if side != "batched"), key=lambda side: medians[side], default=None)
    return {
        "operations": [settings.op for settings in recipe.augment.ops],
        "batch_size": recipe.training.batch_size,
        "images_per_s": medians,
        "all_images_per_s": speeds,
        "best_per_image": best,
        "ratio": median_ratio(speeds["batched"], speeds[best]) if best is not None else None,
        "no_per_image_because": missing,
    }


@styled
def draw(rows: dict[str, Row]) -> Figure:
    """Both ways, on a logarithmic axis."""
    figure = new_figure(7.0, 1.2 + 0.36 * len(rows))
    axes = figure.subplots()
    for place, row in enumerate(rows.values()):
        speeds = row["images_per_s"]
        if row["best_per_image"]:
            axes.barh(place - 0.2, speeds[row["best_per_image"]], 0.4, color=VERMILLION)
        axes.barh(place + 0.2, speeds["batched"], 0.4, color=BLUE)
    axes.set(xscale="log", xlabel="images/s (red: per image, best number of workers; blue: batched)")
    axes.xaxis.set_major_formatter("{x:,.0f}")  # the default is a formula, which the style prints as it stands
    axes.set_yticks(range(len(rows)), list(rows))
    axes.invert_yaxis()
    return figure


def main() -> None:
    options_parser = parser(__doc__, "pipeline")
    options_parser.set_defaults(out=RESULTS / "pipeline.json")
    options_parser.add_argument("--recipes", nargs="+", default=compared_recipes())
    options_parser.add_argument("--rounds", type=int, default=5)
    options_parser.add_argument("--device", default="auto")
    options = options_parser.parse_args()
    config = RuntimeConfig(device=options.device)
    runtime = runtimes.resolve(config)
    settings = {"rounds": options.rounds, "device": options.device}
    store = Store(options.out, "pipeline", settings, options.again, environment(config))
    announce("pipeline", sum(not store.finished(name) for name in options.recipes), SECONDS_A_RECIPE)
    for name in options.recipes:
        store.row(name, partial(measure, recipes.load(name), options.rounds, runtime))
    rows = {name: store.rows[name] for name in options.recipes}
    print("images/s of the data pipeline alone")
    sides = [f"per image, {workers} workers" for workers in WORKERS] + ["batched"]
    lines = []
    for name, row in rows.items():
        speeds = [f"{row['images_per_s'][side]:,.0f}" if side in row["images_per_s"] else "-" for side in sides]
        lines.append((name, *speeds, f"{row['ratio']:.1f}" if row["ratio"] else "-"))
    print_table(["recipe", *sides, "ratio to the best"], lines)
    store.draw(draw(rows))


if __name__ == "__main__":
    run_main(main)
