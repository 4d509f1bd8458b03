"""The library: every command as a function with the same words and a typed result."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from torch import nn

from thriftnet import comparison, inference, shift, twins
from thriftnet import recipe as recipes
from thriftnet.comparison import SeedRuns, Tell
from thriftnet.config import RecipeConfig
from thriftnet.data.dataset import MOST_CLASSES
from thriftnet.data.info import DataInfo, describe
from thriftnet.data.open import open_source
from thriftnet.distributed.processes import joined
from thriftnet.errors import RecipeError, UserError
from thriftnet.evaluation.landscape import BatchNormStatistics
from thriftnet.evaluation.predict import Averaging
from thriftnet.evaluation.sides import Comparison
from thriftnet.inference import Measurement, Predictions
from thriftnet.ledger.claims import load_claims
from thriftnet.ledger.plan import checked_request
from thriftnet.ledger.write import Ledger
from thriftnet.ledger.write import reproduce as write_ledger
from thriftnet.models.build import build_model, build_on_meta, check_budget, check_recipe_network
from thriftnet.models.summary import Summary, summarize
from thriftnet.predictor import Temperature
from thriftnet.reporting.comparison_report import write_comparison_report
from thriftnet.reporting.figures import save
from thriftnet.reporting.landscape import landscape_figures, landscape_page
from thriftnet.reporting.page import write_page
from thriftnet.reporting.run_report import draw_evaluation_figures, draw_training_figures, write_run_report
from thriftnet.reporting.shift_page import draw_shift_figures, write_shift_page
from thriftnet.run import Run
from thriftnet.run import load_run as open_run
from thriftnet.run_data import Split
from thriftnet.run_landscape import Landscape, Settings, measure_landscape
from thriftnet.shift import Remedies, Say, ShiftMeasurement
from thriftnet.storage import check_folder, check_writable, refusals_named, user_path
from thriftnet.tracking.display import track_evaluation, tracked
from thriftnet.tracking.load import require
from thriftnet.training.loop import fit
from thriftnet.training.progress import Display, LiveDisplay
from thriftnet.training.run_folder import Which

if TYPE_CHECKING:
    from thriftnet.reporting.study_report import StudyFacts

Protocol = Literal["paper", "honest"]
Runs = Run | Path | str | Sequence[Run | Path | str]
Engine = Literal["process", "processes", "ray"]


@refusals_named()
def load_run(path: Path | str) -> Run:
    """Open a run folder. Raises RunFolderError unless it is one."""
    return open_run(user_path(path))


@refusals_named()
def load_recipe(
    recipe: str | RecipeConfig,
    overrides: Sequence[str] = (),
    protocol: Protocol = "paper",
    *,
    scale: float = 1.0,
    width: float = 1.0,
) -> RecipeConfig:
    """A recipe by name, file or value, with `section.key=value` overrides, under the paper's or the honest protocol.

    `scale` shortens its epochs and `width` narrows its network (`twins`). Raises RecipeError for an unknown name, key,
    type or combination, and for an override that one of the others would change.
    """
    honest = protocol == "honest"
    if isinstance(recipe, str):
        twins.refuse_set_twice(overrides, scale, width)
        resolved = recipes.load(recipe, overrides, sealed=honest)
    elif overrides:
        raise UserError("overrides apply to a recipe given by name or file; change the RecipeConfig itself instead")
    else:
        resolved = recipes.honest(recipe, recipe.data.validation_images or None) if honest else recipe
    return twins.narrow(twins.shorten(resolved, scale), width)


@refusals_named()
def build(recipe: str | RecipeConfig, num_classes: int = 10, in_channels: int = 3) -> nn.Module:
    """The network of a recipe with fresh weights: normalised [N, in_channels, H, W] -> logits [N, num_classes].

    Raises RecipeError for an unknown recipe, BudgetError for a network over its budget.
    """
    resolved = load_recipe(recipe)
    return build_model(resolved.model, in_channels, num_classes, resolved.name)


@refusals_named()
def summary(
    recipe: str | RecipeConfig,
    overrides: Sequence[str] = (),
    *,
    num_classes: int = 10,
    in_channels: int = 3,
    image_side: int = 32,
    width: float = 1.0,
) -> Summary:
    """The layer table of a recipe's network. Raises BudgetError for one over its budget."""
    resolved = load_recipe(recipe, overrides, width=width)
    if not 2 <= num_classes <= MOST_CLASSES:
        raise UserError(f"--classes {num_classes:,} must be 2 to {MOST_CLASSES:,}")
    check_budget(resolved.model, in_channels, num_classes, resolved.name)
    return summarize(build_on_meta(resolved.model, in_channels, num_classes), (in_channels, image_side, image_side))


@refusals_named()
def recipe_table() -> list[dict[str, Any]]:
    """One row a packaged recipe: name, paper, parameters, epochs, claimed accuracies (per cent or None), summary."""
    rows = []
    for name in recipes.names():
        recipe = recipes.load(name)
        rows.append(
            {
                "name": name,
                "paper": recipe.paper,
                "parameters": check_recipe_network(recipe),
                "epochs": recipe.training.epochs,
                "claimed_test_accuracy": recipe.expect.claimed_test_accuracy,
                "claimed_validation_accuracy": recipe.expect.claimed_validation_accuracy,
                "summary": recipe.summary,
            }
        )
    return rows


@refusals_named()
def data_info(data: str, *, contact_sheet: Path | str | None = None) -> DataInfo:
    """Counts, shapes, mean, std and hash of a data set; with `contact_sheet`, a PNG of its first images a class."""
    sheet = None if contact_sheet is None else check_writable(user_path(contact_sheet))
    return describe(open_source(data), sheet)


@refusals_named()
def train(
    recipe: str | RecipeConfig,
    data: str | None = None,
    *,
    out: Path | str | None = None,
    epochs: int | None = None,
    seed: int | None = None,
    budget: int | None = None,
    overrides: Sequence[str] = (),
    protocol: Protocol = "paper",
    scale: float = 1.0,
    width: float = 1.0,
    track: Sequence[str] = (),
    display: Display | None = None,
) -> Run:
    """Train a recipe on a data set into a new run folder and return the run.

    `data` is what `--data` takes; None means THRIFTNET_DATA, else the bundled digits. `out` is the run folder itself,
    by default a new one under `runs/`. `scale` and `width` make a smaller recipe of it, labelled so (`twins`). `track`:
    "wandb", "tensorboard" or both, which are told too (docs/tracking.md). In each of several processes that torchrun
    started, the same call trains one run together, which the main process writes. Raises MissingExtraError where a
    tracker's library is not installed, and what `training.loop.fit` raises.
    """
    with joined() as processes:
        with processes.together():
            require(track)
            resolved = load_recipe(recipe, overrides, protocol, scale=scale, width=width)
            resolved = _changed(resolved, overrides, scale, epochs, seed, budget)
            check_recipe_network(resolved)  # before the data is looked for: a network over budget costs no download
        source = processes.one_first_on_each_machine(lambda: open_source(data, resolved.data.image_side))
        path = processes.from_main(lambda: user_path(out) if out is not None else _new_run_path(resolved))
        run = Run(path)
        with tracked(run, track, display or LiveDisplay()) as shown:
            data_used = fit(resolved, source, run.folder, shown, processes=processes)
            with processes.together():
                if processes.main:
                    draw_training_figures(run, data_used)
        return run


@refusals_named()
def train_seeds(
    recipe: str | RecipeConfig,
    data: str | None = None,
    *,
    seeds: int,
    out: Path | str | None = None,
    epochs: int | None = None,
    seed: int | None = None,
    budget: int | None = None,
    overrides: Sequence[str] = (),
    protocol: Protocol = "paper",
    scale: float = 1.0,
    width: float = 1.0,
    track: Sequence[str] = (),
    display: Display | None = None,
    tell: Tell = lambda line: None,
) -> SeedRuns:
    """Train a recipe with `seeds` seeds, from `seed` (else the recipe's) on, each in `out/seed-<n>`.

    What is finished there is taken and what was interrupted goes on, so the same call can be made again. `out` is by
    default a folder under `runs/` that the recipe and the data name. `tell` gets a line when a seed begins. Raises what
    `train` raises, RunFolderError for folders with other runs, UserError under torchrun.
    """
    require(track)
    resolved = load_recipe(recipe, overrides, protocol, scale=scale, width=width)
    resolved = _changed(resolved, overrides, scale, epochs, seed, budget)
    check_recipe_network(resolved)
    source = open_source(data, resolved.data.image_side)
    folder = user_path(out) if out is not None else comparison.default_folder(resolved, source)
    numbers = comparison.seed_range(resolved, seeds)
    runs = comparison.train_recipe_seeds(resolved, source, folder, numbers, display, tell, track)
    return SeedRuns(folder, tuple(runs))


def _changed(
    recipe: RecipeConfig,
    overrides: Sequence[str],
    scale: float,
    epochs: int | None,
    seed: int | None,
    budget: int | None,
) -> RecipeConfig:
    """Raises RecipeError where `overrides` or `scale` set the same."""
    if epochs is not None and scale != 1:
        raise RecipeError("--epochs and --scale would both set the epochs; leave one of them out")
    changes: dict[str, dict[str, Any]] = {"training": {}, "model": {}}
    for section, field, value, option in (
        ("training", "epochs", epochs, "--epochs"),
        ("training", "seed", seed, "--seed"),
        ("model", "parameter_budget", budget, "--budget"),
    ):
        if value is not None:
            recipes.refuse_set_twice(overrides, option, (f"{section}.{field}",))
            changes[section][field] = value
    return recipes.with_changes(recipe, {section: table for section, table in changes.items() if table})


@refusals_named()
def resume(run: Run | Path | str, data: str | None = None, display: Display | None = None) -> Run:
    """Go on with a run from its newest whole state; the result equals that of an uninterrupted run.

    Its trackers are told the rest. `data` is needed only where the data has moved. The number of processes may differ
    from the one before. Raises RunFolderError for a folder that cannot be gone on with.
    """
    with joined() as processes:
        opened = run if isinstance(run, Run) else Run(user_path(run))
        recipe, location = processes.from_main(lambda: _stored(opened, data))
        source = processes.one_first_on_each_machine(lambda: open_source(location, recipe.data.image_side))
        with tracked(opened, (), display or LiveDisplay()) as shown:
            data_used = fit(recipe, source, opened.folder, shown, resume=True, processes=processes)
            with processes.together():
                if processes.main:
                    draw_training_figures(opened, data_used)
        return opened


def _stored(run: Run, data: str | None) -> tuple[RecipeConfig, str]:
    """What a run was trained with, and where its data lies now."""
    opened = _opened(run.path)
    return opened.recipe, data or opened.data.location


@refusals_named()
def evaluate(
    run: Runs,
    split: Split = "test",
    *,
    data: str | None = None,
    tta: Averaging = "none",
    weights: Which = "selected",
    calibrated: bool = False,
    adapt_batchnorm: bool = False,
    batch_size: int | None = None,
) -> Measurement:
    """Measure a run, or the mean of several, on a split; write `evaluation-<split>.json` and figures into its folder.

    `split = "test"` opens the sealed test set, which the runs' events record.
    """
    measurement = inference.measure(
        _all_opened(run), split, data=data, tta=tta, weights=weights, calibrated=calibrated,
        adapt_batchnorm=adapt_batchnorm, batch_size=batch_size,
    )  # fmt: skip
    draw_evaluation_figures(measurement)
    track_evaluation(measurement)
    return measurement


@refusals_named()
def evaluate_shift(
    run: Runs,
    split: Split = "test",
    *,
    data: str | None = None,
    tta: Averaging = "none",
    weights: Which = "selected",
    calibrated: bool = False,
    adapt_batchnorm: bool = False,
    batch_size: int | None = None,
    images: int | None = None,
    html: Path | str | None = None,
    say: Say = lambda line: None,
) -> ShiftMeasurement:
    """Measure a run, or the mean of several, under the corruptions of CIFAR-10-C; see `shift.measure_shift`.

    Writes `shift-<split>.json` and two figures into the run folder and, with `html`, one page.
    """
    runs, page = _all_opened(run), None if html is None else check_writable(user_path(html))
    check_folder(runs[0].path)
    measurement = shift.measure_shift(
        runs, split, data=data, tta=tta, weights=weights, calibrated=calibrated,
        adapt_batchnorm=adapt_batchnorm, batch_size=batch_size, images=images, say=say,
    )  # fmt: skip
    draw_shift_figures(measurement)
    if page is not None:
        write_shift_page(measurement, page)
    return measurement


@refusals_named()
def remedies(
    run: Runs,
    split: Split = "test",
    *,
    data: str | None = None,
    images: int | None = None,
    say: Say = lambda line: None,
) -> Remedies:
    """Measure what raises accuracy on shifted data, each remedy alone and all together: `shift.measure_remedies`."""
    runs = _all_opened(run)
    check_folder(runs[0].path)
    return shift.measure_remedies(runs, split, data=data, images=images, say=say)


@refusals_named()
def calibrate(run: Run | Path | str, *, data: str | None = None) -> Temperature:
    """Fit a run's temperature on its validation images into `temperature.json`; `calibrated=True` then uses it."""
    opened = _opened(run)
    check_folder(opened.path)
    return inference.calibrate(opened, data=data)


@refusals_named()
def compare(
    sides: Sequence[str | Path],
    split: Split = "test",
    *,
    data: str | None = None,
    seeds: int | None = None,
    out: Path | str | None = None,
    overrides: Sequence[str] = (),
    protocol: Protocol = "paper",
    html: Path | str | None = None,
    display: Display | None = None,
    tell: Tell = lambda line: None,
) -> Comparison:
    """Set run folders, folders of seed runs and recipes against each other; see `comparison.compare`.

    `seeds`, `out`, `overrides` and `protocol` are for recipes; `html` is a page to write. `tell` gets a line when a
    training or an evaluation begins.
    """
    page = None if html is None else check_writable(user_path(html))
    compared = comparison.compare(
        [str(side) for side in sides],
        split,
        data=data,
        seeds=seeds,
        out=user_path(out) if out is not None else None,
        overrides=overrides,
        honest=protocol == "honest",
        display=display,
        tell=tell,
    )
    if page is not None:
        write_comparison_report(compared, page)
    return compared


@refusals_named()
def predict(
    run: Runs,
    images: Path | str,
    *,
    out: Path | str | None = None,
    probabilities: bool = False,
    names: bool = False,
    tta: Averaging = "none",
    calibrated: bool = False,
    adapt_batchnorm: bool = False,
    batch_size: int | None = None,
) -> Predictions:
    """Predict unlabelled images with a run or the mean of several; with `out`, write the CSV `ID,Label`."""
    runs, file = _all_opened(run), None if out is None else check_writable(user_path(out))
    return inference.predict(
        runs, user_path(images), out=file, probabilities=probabilities, names=names, tta=tta, calibrated=calibrated,
        adapt_batchnorm=adapt_batchnorm, batch_size=batch_size,
    )  # fmt: skip


@refusals_named()
def report(run: Run | Path | str, *, out: Path | str | None = None) -> Path:
    """Write one self-contained HTML page about a run; by default `report.html` in its folder. Returns its path."""
    opened = _opened(run)
    path = check_writable(user_path(out) if out is not None else opened.path / "report.html")
    write_run_report(opened, path)
    return path


@refusals_named()
def reproduce(
    paper: str = "all",
    data: str | None = None,
    *,
    out: Path | str = "reproduction",
    scale: float = 1.0,
    width: float | None = None,
    seeds: int = 3,
    rows: bool = True,
    directions: bool = True,
    train_images: int | None = None,
    hours: float | None = None,
    write_only: bool = False,
    claims: Path | str | None = None,
    display: Display | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> Ledger:
    """Train what the papers' claims need and `out` lacks, then write ledger.html, ledger.md and ledger.json there.

    `scale` shortens the epochs; `width` narrows every network, by default only those of directions, to a quarter;
    `hours` ends it after the first epoch past that time; `write_only` trains nothing. `claims` is a TOML file of other
    claims. What the ledger.json files in `out/joined` have measured is shown, not trained. The same call goes on after
    an interruption. Raises what `ledger.write.reproduce` raises.
    """
    request = checked_request(
        paper=paper,
        rows=rows,
        directions=directions,
        scale=scale,
        width=width,
        train_images=train_images,
        seeds=seeds,
    )
    folder = check_folder(user_path(out))
    return write_ledger(
        request,
        load_claims(None if claims is None else user_path(claims)),
        open_source(data),
        folder,
        hours=hours,
        write_only=write_only,
        display=display or LiveDisplay(),
        say=say,
    )


@refusals_named()
def landscape(
    runs: Sequence[Run | Path | str],
    *,
    data: str | None = None,
    split: Split = "train",
    images: int = 1000,
    grid: int = 15,
    lines: int = 3,
    span: float = 1.0,
    rho: float = 0.1,
    steps: int = 10,
    batchnorm: BatchNormStatistics = "stored",
    seed: int = 0,
    out: Path | str | None = None,
) -> Landscape:
    """The loss landscape around runs of one network, written as numbers, figures and `landscape.html` into `out`.

    `out` is by default a folder beside the first run. What the numbers are: `evaluation.landscape`, docs/landscape.md.
    Raises what `run_landscape.measure_landscape` raises.
    """
    settings = Settings(split, images, grid, lines, span, rho, steps, batchnorm, seed)
    opened = [_opened(run) for run in runs]
    measured = measure_landscape(opened, settings, data=data, out=user_path(out) if out is not None else None)
    figures = landscape_figures(measured)
    for name, figure in figures.items():
        for ending in (".png", ".svg"):
            save(figure, measured.folder / f"{name}{ending}")
    write_page(landscape_page(measured, figures), measured.page)
    return measured


@refusals_named()
def check(run: Run | Path | str) -> tuple[int, list[str]]:
    """(how many files of a run are as they were written, those that its SHA256SUMS does not list).

    Raises RunFolderError that names every damaged or missing file.
    """
    return _opened(run).folder.check()


@refusals_named()
def study_run(
    study: str,
    data: str | None = None,
    *,
    out: Path | str | None = None,
    overrides: Sequence[str] = (),
    scale: float = 1.0,
    width: float = 1.0,
    trials: int | None = None,
    engine: Engine = "process",
    workers: int | None = None,
    address: str | None = None,
    storage: str | None = None,
    track: Sequence[str] = (),
    say: Callable[[str], None] | None = None,
) -> StudyFacts:
    """Run a study, or go on with it, and return what it found; `thriftnet study run`.

    `study` is a packaged name or a TOML file, `out` its folder, by default `studies/<name>`. `overrides` change the
    base recipe, and fix a key that is searched; `scale` and `width` make it shorter and narrower, labelled so.
    `workers` (2 unless given) belong to the engines `processes` and `ray`, `address` to `ray`. `storage`: any Optuna
    storage by URL instead of the journal in the folder. `track`: trackers that are told of each trial. `say` gets a
    line a trial. Raises StudyError, RecipeError, Interrupted after a signal (the same call goes on), MissingExtraError.
    """
    from thriftnet.tuning import run as tuning
    from thriftnet.tuning.config import load
    from thriftnet.tuning.storage import require_optuna

    require_optuna()
    resolved = load(study, overrides, trials, scale=scale, width=width)
    tuning.check_engine(engine, workers, address)
    source = open_source(data, resolved.base.data.image_side)
    folder = user_path(out) if out is not None else Path("studies") / resolved.config.name
    return tuning.run_study(
        folder, resolved, source, engine, workers, address, storage, say or (lambda line: None), track=track
    )


@refusals_named()
def study_show(
    folder: Path | str, *, storage: str | None = None, html: Path | str | None = None, figures: bool = True
) -> StudyFacts:
    """The facts of a study, also while it runs or where it was stopped; with `html`, write its page.

    With `figures`, what its completed trials suffice for is drawn into the folder's `figures/`, as PNG and SVG;
    without, nothing is written into the folder. Raises StudyError, StorageError.
    """
    from thriftnet.reporting.page import write_page
    from thriftnet.reporting.study_report import study_page
    from thriftnet.tuning.show import draw_study_figures, read_study

    path, page = user_path(folder), None if html is None else check_writable(user_path(html))
    facts = read_study(path, storage)
    if figures:
        draw_study_figures(facts, path)
    if page is not None:
        write_page(study_page(facts), page)
    return facts


@refusals_named()
def study_table() -> list[dict[str, Any]]:
    """One row a packaged study: name, paper, recipe, sampler, trials, summary."""
    from thriftnet.tuning.show import packaged_table

    return packaged_table()


def _opened(run: Run | Path | str) -> Run:
    return run if isinstance(run, Run) else open_run(user_path(run))


def _all_opened(runs: Runs) -> list[Run]:
    return [_opened(run) for run in ([runs] if isinstance(runs, Run | Path | str) else runs)]


def _new_run_path(recipe: RecipeConfig) -> Path:
    stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
    return Path("runs") / f"{recipe.name}-seed{recipe.training.seed}-{stamp}-{os.getpid()}"
