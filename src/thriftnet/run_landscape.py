"""The loss landscape around trained runs of one network: what `thriftnet landscape` measures and stores."""

from __future__ import annotations

import io
import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from thriftnet import recipe as recipes
from thriftnet import runtime as runtimes
from thriftnet.augment.draws import Draws
from thriftnet.config import RuntimeConfig
from thriftnet.config.fields import MOST_COUNT
from thriftnet.data.dataset import LabelledImages, Source
from thriftnet.errors import DataError, RunFolderError, UserError
from thriftnet.evaluation.landscape import (
    BatchNormStatistics,
    ImageLoss,
    Sharpness,
    adaptive_sharpness,
    filter_normalised_direction,
    losses_along,
    losses_between,
)
from thriftnet.predictor import require_finite
from thriftnet.run import Run, without_shared_folders
from thriftnet.run_data import Split, meet
from thriftnet.runtime import Runtime
from thriftnet.storage import check_folder, storage_error, write_atomic

# Of [model], what changes training but not what a trained network computes.
TRAINING_ONLY = (
    "dropout",
    "stochastic_depth",
    "norm_momentum",
    "norm_scale",
    "init",
    "bias_epochs",
    "parameter_budget",
)

SPLITTING = ("data.validation_images", "data.train_images", "training.split_seed")


MOST_GRID_POINTS = 201
"""Along a side: 40,401 passes over the images, and as many cells as a figure can show."""
MOST_LINES = 100
"""Directions are held in memory at once, each as large as the network."""
MOST_ASCENT_STEPS = 1_000
"""Of one search; the curve is flat long before."""


@dataclass(frozen=True)
class Settings:
    """Where and how closely is looked; the defaults are the command's."""

    split: Split = "train"
    images: int = 1000
    """How many of the split's images, always the same; a smaller split is taken whole."""
    grid_points: int = 15
    """Along each side of the grid, an odd number so that the solution is one of them; a line has 2 n - 1."""
    lines: int = 3
    """Directions of the one-dimensional curves; the grid's are the first two."""
    span: float = 1.0
    """How far the grid and the lines reach, in norms of each filter."""
    rho: float = 0.1
    """Radius of adaptive sharpness: near enough for a rise of tenths of a nat at a minimum, not of tens."""
    ascent_steps: int = 10
    batchnorm: BatchNormStatistics = "stored"
    seed: int = 0
    """Of the directions."""

    def check(self) -> None:
        """Raise UserError for what cannot be measured."""
        if self.grid_points < 3 or self.grid_points % 2 == 0:
            raise UserError(f"--grid {self.grid_points} must be odd and at least 3, so that the solution is in it")
        for name, value, most in (
            ("--grid", self.grid_points, MOST_GRID_POINTS),
            ("--images", self.images, MOST_COUNT),
            ("--lines", self.lines, MOST_LINES),
            ("--steps", self.ascent_steps, MOST_ASCENT_STEPS),
        ):
            if not 1 <= value <= most:
                raise UserError(f"{name} {value} must be 1 to {most:,}")
        for name, size in (("--span", self.span), ("--rho", self.rho)):
            if not (math.isfinite(size) and size > 0):
                raise UserError(f"{name} {size:g} must be above 0")

    @property
    def grid_coefficients(self) -> np.ndarray:
        """float64 [G], of either direction."""
        return np.linspace(-self.span, self.span, self.grid_points)

    @property
    def line_coefficients(self) -> np.ndarray:
        """float64 [P]."""
        return np.linspace(-self.span, self.span, 2 * self.grid_points - 1)

    @property
    def fractions(self) -> np.ndarray:
        """float64 [P], of the way from one run to the other."""
        return np.linspace(0, 1, 2 * self.grid_points - 1)


@dataclass(frozen=True)
class RunLandscape:
    """What is around one run; losses in nats."""

    label: str
    run: Run = field(repr=False)
    loss: float
    """At the solution."""
    sharpness: Sharpness
    lines: np.ndarray = field(repr=False)
    """float64 [lines, P]."""
    grid: np.ndarray = field(repr=False)
    """float64 [G, G], the first direction along rows, the second along columns."""

    def facts(self) -> dict[str, Any]:
        """What the numbers depend on, and the numbers; None for one that is not finite."""
        result = self.run.result
        return {
            "label": self.label,
            "run": str(self.run.path),
            "recipe": result["recipe"],
            "recipe_hash": result["recipe_hash"],
            "seed": result["seed"],
            "selection": result["selection"],
            "epoch": result["selected_epoch"],
            "parameters": result["parameters"],
            "loss": _finite(self.loss),
            "adaptive_sharpness": {**asdict(self.sharpness), "rise": _finite(self.sharpness.rise)},
        }


@dataclass(frozen=True)
class Landscape:
    """The landscape around each of several runs, looked at along the same draws."""

    settings: Settings
    runs: tuple[RunLandscape, ...]
    between: np.ndarray | None = field(repr=False)
    """float64 [P]: on the straight line from the first to the second of two runs; None for another number of runs."""
    folder: Path
    context: dict[str, Any] = field(repr=False)
    """Data set, images, device, precision, time."""

    @property
    def page(self) -> Path:
        return self.folder / "landscape.html"

    def as_dict(self) -> dict[str, Any]:
        """landscape.json: every number but the arrays, which are in landscape.npz."""
        return {
            **self.context,
            **asdict(self.settings),
            "directions": "Gaussian, filter-normalised (arXiv 1712.09913); biases and BatchNorm's parameters stay",
            "sharpness": "filter-wise adaptive sharpness, 2-norm (arXiv 2102.11600, definition 2), a lower bound, nats",
            "runs": [around.facts() for around in self.runs],
        }

    def arrays(self) -> dict[str, np.ndarray]:
        """landscape.npz: coefficients and losses, `lines` [runs, lines, P] and `grids` [runs, G, G]."""
        arrays = {
            "grid_coefficients": self.settings.grid_coefficients,
            "line_coefficients": self.settings.line_coefficients,
            "lines": np.stack([around.lines for around in self.runs]),
            "grids": np.stack([around.grid for around in self.runs]),
        }
        if self.between is not None:
            arrays |= {"fractions": self.settings.fractions, "between": self.between}
        return arrays

    def summary(self) -> str:
        """A line for each run, and what they say together."""
        width = max(len(around.label) for around in self.runs)
        lines = [f"{'run':<{width}}  {'loss':>8}  adaptive sharpness (rho {self.settings.rho:g})"]
        for around in self.runs:
            lines.append(f"{around.label:<{width}}  {around.loss:>8.4f}  {around.sharpness.rise:.4g}")
        return "\n".join([*lines, self.finding()])

    def finding(self) -> str:
        """In one or two sentences; about these runs, not about the methods that trained them."""
        ordered = sorted(self.runs, key=lambda around: around.sharpness.rise)
        first, last = ordered[0], ordered[-1]
        images = f"{self.context['images_measured']:,} {self.settings.split} images"
        if len(ordered) == 1:
            return f"The loss rises by at most {first.sharpness.rise:.4g} nats that were found, on {images}."
        return (
            f"{first.label} is the flattest: its loss rises by {first.sharpness.rise:.4g} nats, that of {last.label} "
            f"by {last.sharpness.rise:.4g}, on {images}. One run each says nothing yet about how they were trained."
        )


def measure_landscape(
    runs: Sequence[Run], settings: Settings, *, data: str | None = None, out: Path | None = None
) -> Landscape:
    """Measure the landscape around `runs` in fp32 on the device at hand and write landscape.json and landscape.npz.

    Raises UserError for settings that cannot be, RunFolderError for runs of different networks, DataError for runs
    trained on different images, NonFiniteLossError for a run whose weights or outputs are NaN or infinite. `split =
    "test"` is logged in every run.
    """
    settings.check()
    _check_comparable(runs)
    networks = [run.network() for run in runs]
    first = runs[0]
    folder = check_folder(out or first.path.parent / _name(runs))
    met = meet(runs, data)
    split = met.images(settings.split, weights="selected", why="landscape")
    images = fixed_subset(split, settings.images)
    runtime = runtimes.resolve(RuntimeConfig(precision="fp32", threads=first.recipe.runtime.threads))
    started = time.perf_counter()
    line_points, grid_points = len(settings.line_coefficients), settings.grid_points**2
    each = settings.lines * line_points + grid_points + settings.ascent_steps + 2
    between: np.ndarray | None = None
    with _progress(len(runs) * each + (line_points if len(runs) == 2 else 0)) as progress:
        networks = [runtime.place(network) for network in networks]
        labels = _labels(runs)
        around = []
        for run, network, label in zip(runs, networks, labels, strict=True):
            with progress.stage(label):
                loss = _image_loss(run, images, runtime, settings.batchnorm, progress.advance)
                require_finite(loss.outputs(network), run)
                around.append(_around(run, network, label, loss, settings))
        if len(runs) == 2:
            with progress.stage(f"from {labels[0]} to {labels[1]}"):
                fractions = settings.fractions.tolist()
                re_estimated = _image_loss(first, images, runtime, "re-estimated", progress.advance)
                between = np.array(losses_between(networks[0], networks[1], fractions, re_estimated))
    landscape = Landscape(
        settings,
        tuple(around),
        between,
        folder,
        {
            "data": met.as_dict(),
            "images_measured": len(images),
            "device": str(runtime.device),
            "precision": runtime.precision,
            "elapsed_s": time.perf_counter() - started,
            "environment": runtimes.environment(runtime),
        },
    )
    _write(landscape)
    return landscape


def measure_sharpness(run: Run, source: Source, settings: Settings) -> dict[str, Any]:
    """The same sharpness number of one run alone, in fp32 on the device at hand, with what it depends on.

    `rise` is None where a loss away from the solution was not finite. Raises DataError where `source` is not what the
    run was trained on, NonFiniteLossError as `measure_landscape` does.
    """
    images = fixed_subset(
        meet([run], source).images(settings.split, weights="selected", why="sharpness"), settings.images
    )
    runtime = runtimes.resolve(RuntimeConfig(precision="fp32", threads=run.recipe.runtime.threads))
    network = runtime.place(run.network())
    loss = _image_loss(run, images, runtime, settings.batchnorm)
    require_finite(loss.outputs(network), run)
    sharpness = adaptive_sharpness(network, loss.with_gradient, settings.rho, settings.ascent_steps, settings.seed)
    return {
        **asdict(sharpness),
        "rise": _finite(sharpness.rise),
        "split": settings.split,
        "images": len(images),
        "batchnorm": settings.batchnorm,
        "seed": settings.seed,
        "device": str(runtime.device),
    }


def _image_loss(
    run: Run,
    images: LabelledImages,
    runtime: Runtime,
    batchnorm: BatchNormStatistics,
    after: Callable[[], None] = lambda: None,
) -> ImageLoss:
    return ImageLoss(
        images,
        run.data.mean,
        run.data.std,
        device=runtime.device,
        channels_last=runtime.channels_last,
        batch_size=run.recipe.training.evaluation_batch_size,
        gradient_batch_size=run.recipe.training.batch_size,  # as much memory as training took
        batchnorm=batchnorm,
        after=after,
    )


def fixed_subset(images: LabelledImages, count: int) -> LabelledImages:
    """`count` of the images, always the same ones, in the split's order; all where there are no more."""
    keys = Draws(0, 0, torch.arange(len(images))).bits("landscape")[:, 0]
    return images.select(keys.argsort(stable=True)[:count].sort().values)


def _around(run: Run, network: torch.nn.Module, label: str, loss: ImageLoss, settings: Settings) -> RunLandscape:
    directions = [filter_normalised_direction(network, settings.seed, n) for n in range(max(settings.lines, 2))]
    sharpness = adaptive_sharpness(network, loss.with_gradient, settings.rho, settings.ascent_steps, settings.seed)
    steps = settings.line_coefficients.tolist()
    lines = [losses_along(network, [d], [(step,) for step in steps], loss) for d in directions[: settings.lines]]
    side = settings.grid_coefficients.tolist()
    grid = losses_along(network, directions[:2], [(x, y) for x in side for y in side], loss)
    return RunLandscape(
        label, run, lines[0][len(steps) // 2], sharpness, np.array(lines), np.array(grid).reshape(len(side), len(side))
    )


def _check_comparable(runs: Sequence[Run]) -> None:
    if not runs:
        raise UserError("name at least one run")
    first = runs[0]
    for run in runs[1:]:
        different = [key for key, _, _ in recipes.differences(first.recipe, run.recipe)]
        model = [key for key in different if key.startswith("model.") and key.split(".")[-1] not in TRAINING_ONLY]
        if model or run.data.channels != first.data.channels or run.data.class_names != first.data.class_names:
            what = ", ".join(model) or "channels or classes"
            raise RunFolderError(
                f"{first.path} and {run.path} are different networks (in {what}), whose landscapes have no common "
                f"directions; give runs of one network"
            )
        divided = [key for key in different if key in SPLITTING]
        facts = [(each.data.fingerprint, each.data.validation_fingerprint) for each in (first, run)]
        if facts[0] != facts[1] or divided:
            raise DataError(
                f"{first.path} and {run.path} were trained on different images (another "
                f"{', '.join(divided) or 'data set'}); give runs trained on the same"
            )


def _labels(runs: Sequence[Run]) -> list[str]:
    """The folders' names where they tell the runs apart, else as much of their paths as does."""
    paths = [run.path.resolve() for run in runs]
    names = [path.name for path in paths]
    return names if len(set(names)) == len(names) else without_shared_folders(paths)


def _name(runs: Sequence[Run]) -> str:
    names = [run.path.resolve().name for run in runs]
    return "-".join(["landscape", *names[:2], *([f"and-{len(names) - 2}-more"] if len(names) > 2 else [])])


def _write(landscape: Landscape) -> None:
    try:
        landscape.folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise storage_error(landscape.folder, error, "the runs are safe") from None
    buffer = io.BytesIO()
    arrays: dict[str, Any] = landscape.arrays()
    np.savez_compressed(buffer, **arrays)
    write_atomic(landscape.folder / "landscape.npz", buffer.getvalue())
    text = json.dumps(landscape.as_dict(), indent=2, allow_nan=False) + "\n"
    write_atomic(landscape.folder / "landscape.json", text)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


class _Stages:
    """What is being measured and for how long: a bar on a terminal, a plain line a stage elsewhere."""

    def __init__(self, bar: Progress, task: TaskID) -> None:
        self.bar, self.task = bar, task

    def advance(self) -> None:
        self.bar.advance(self.task)

    @contextmanager
    def stage(self, label: str) -> Iterator[None]:
        self.bar.update(self.task, stage=label)
        started = time.perf_counter()
        yield
        text = f"{label}: measured in {time.perf_counter() - started:.0f} s"
        self.bar.console.print(text, markup=False, highlight=False, soft_wrap=True)


@contextmanager
def _progress(passes: int) -> Iterator[_Stages]:
    console = Console(stderr=True)
    columns = (TextColumn("{task.fields[stage]}"), BarColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        yield _Stages(bar, bar.add_task("landscape", total=passes, stage=""))
