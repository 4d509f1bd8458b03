"""The library: every command as a function with the same words and a typed result."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from torch import nn

from thriftnet import inference
from thriftnet import recipe as recipes
from thriftnet.config import RecipeConfig
from thriftnet.data.info import DataInfo, describe
from thriftnet.data.open import open_source
from thriftnet.distributed.processes import joined
from thriftnet.errors import UserError
from thriftnet.evaluation.predict import Averaging
from thriftnet.inference import Measurement, Predictions, Split
from thriftnet.models.budget import check_budget, trainable_parameters
from thriftnet.models.build import build_model, build_on_meta, check_recipe_network
from thriftnet.models.summary import Summary, summarize
from thriftnet.reporting.run_report import draw_evaluation_figures, draw_training_figures, write_run_report
from thriftnet.run import Run
from thriftnet.run import load_run as load_run  # a part of the library, as the functions below are
from thriftnet.training.loop import fit
from thriftnet.training.progress import Display, LiveDisplay
from thriftnet.training.run_folder import Which

if TYPE_CHECKING:
    from thriftnet.reporting.study_report import StudyFacts

Protocol = Literal["paper", "honest"]
Engine = Literal["process", "processes", "ray"]


def load_recipe(
    recipe: str | RecipeConfig, overrides: Sequence[str] = (), protocol: Protocol = "paper"
) -> RecipeConfig:
    """A recipe by name, file or value, with `section.key=value` overrides, under the paper's or the honest protocol.

    Raises RecipeError for an unknown name, key, type or combination.
    """
    if isinstance(recipe, str):
        resolved = recipes.load(recipe, overrides)
    elif overrides:
        raise UserError("overrides apply to a recipe given by name or file; change the RecipeConfig itself instead")
    else:
        resolved = recipe
    return recipes.honest(resolved) if protocol == "honest" else resolved


def build(recipe: str | RecipeConfig, num_classes: int = 10, in_channels: int = 3) -> nn.Module:
    """The network of a recipe with fresh weights: normalised [N, in_channels, H, W] -> logits [N, num_classes].

    Raises RecipeError for an unknown recipe, BudgetError for a network over its budget.
    """
    resolved = load_recipe(recipe)
    return build_model(resolved.model, in_channels, num_classes, resolved.name)


def summary(
    recipe: str | RecipeConfig,
    overrides: Sequence[str] = (),
    *,
    num_classes: int = 10,
    in_channels: int = 3,
    image_side: int = 32,
) -> Summary:
    """The layer table of a recipe's network. Raises BudgetError for one over its budget."""
    resolved = load_recipe(recipe, overrides)
    network = build_on_meta(resolved.model, in_channels, num_classes)
    check_budget(trainable_parameters(network), resolved.model, resolved.name)
    return summarize(network, (in_channels, image_side, image_side))


def recipe_table() -> list[dict[str, Any]]:
    """One row a packaged recipe: name, paper, parameters, epochs, claimed accuracy (per cent or None), summary."""
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
                "summary": recipe.summary,
            }
        )
    return rows


def data_info(data: str, *, contact_sheet: Path | str | None = None) -> DataInfo:
    """Counts, shapes, mean, std and hash of a data set; with `contact_sheet`, a PNG of its first images a class."""
    return describe(open_source(data), Path(contact_sheet) if contact_sheet is not None else None)


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
    display: Display | None = None,
) -> Run:
    """Train a recipe on a data set into a new run folder and return the run.

    `data` is what `--data` takes; None means THRIFTNET_DATA, else the bundled digits. `out` is the run folder itself,
    by default a new one under `runs/`. In each of several processes that torchrun started, the same call trains one
    run together, which the main process writes. Raises what `training.loop.fit` raises.
    """
    with joined() as processes:
        with processes.together():
            resolved = _changed(load_recipe(recipe, overrides, protocol), epochs, seed, budget)
            check_recipe_network(resolved)  # before the data is looked for: a network over budget costs no download
        source = processes.one_first_on_each_machine(lambda: open_source(data, resolved.data.image_side))
        path = processes.from_main(lambda: Path(out) if out is not None else _new_run_path(resolved))
        run = Run(path)
        data_used = fit(resolved, source, run.folder, display or LiveDisplay(), processes=processes)
        with processes.together():
            if processes.main:
                draw_training_figures(run, data_used)
        return run


def _changed(recipe: RecipeConfig, epochs: int | None, seed: int | None, budget: int | None) -> RecipeConfig:
    changes: dict[str, dict[str, Any]] = {"training": {}, "model": {}}
    if epochs is not None:
        changes["training"]["epochs"] = epochs
    if seed is not None:
        changes["training"]["seed"] = seed
    if budget is not None:
        changes["model"]["parameter_budget"] = budget
    return recipes.with_changes(recipe, {section: table for section, table in changes.items() if table})


def resume(run: Run | Path | str, data: str | None = None, display: Display | None = None) -> Run:
    """Go on with a run from its last completed epoch; the result equals that of an uninterrupted run.

    `data` is needed only where the data has moved. The number of processes may differ from the one before. Raises
    RunFolderError for a folder that cannot be gone on with.
    """
    with joined() as processes:
        opened = run if isinstance(run, Run) else Run(Path(run))
        recipe, location = processes.from_main(lambda: _stored(opened, data))
        source = processes.one_first_on_each_machine(lambda: open_source(location, recipe.data.image_side))
        data_used = fit(recipe, source, opened.folder, display or LiveDisplay(), resume=True, processes=processes)
        with processes.together():
            if processes.main:
                draw_training_figures(opened, data_used)
        return opened


def _stored(run: Run, data: str | None) -> tuple[RecipeConfig, str]:
    """What a run was trained with, and where its data lies now."""
    opened = _opened(run.path)
    return opened.recipe, data or opened.data.location


def evaluate(
    run: Run | Path | str,
    split: Split = "test",
    *,
    data: str | None = None,
    tta: Averaging = "none",
    weights: Which = "selected",
) -> Measurement:
    """Measure a run on a split, write `evaluation-<split>.json` and its figures into the run folder.

    `split = "test"` opens the sealed test set, which the run's events record.
    """
    measurement = inference.measure(_opened(run), split, data=data, tta=tta, weights=weights)
    draw_evaluation_figures(measurement)
    return measurement


def predict(
    run: Run | Path | str,
    images: Path | str,
    *,
    out: Path | str | None = None,
    probabilities: bool = False,
    names: bool = False,
    tta: Averaging = "none",
) -> Predictions:
    """Predict unlabelled images; with `out`, write the CSV `ID,Label`. See `inference.predict`."""
    return inference.predict(_opened(run), images, out=out, probabilities=probabilities, names=names, tta=tta)


def report(run: Run | Path | str, *, out: Path | str | None = None) -> Path:
    """Write one self-contained HTML page about a run; by default `report.html` in its folder. Returns its path."""
    opened = _opened(run)
    path = Path(out) if out is not None else opened.path / "report.html"
    write_run_report(opened, path)
    return path


def study_run(
    study: str,
    data: str | None = None,
    *,
    out: Path | str | None = None,
    overrides: Sequence[str] = (),
    trials: int | None = None,
    engine: Engine = "process",
    workers: int | None = None,
    address: str | None = None,
    storage: str | None = None,
    say: Callable[[str], None] | None = None,
) -> StudyFacts:
    """Run a study, or go on with it, and return what it found; `thriftnet study run`.

    `study` is a packaged name or a TOML file, `out` its folder, by default `studies/<name>`. `overrides` change the
    base recipe, and fix a key that is searched. `workers` (2 unless given) belong to the engines `processes` and
    `ray`, `address` to `ray`. `storage`: any Optuna storage by URL instead of the journal in the folder. `say` gets a
    line a trial. Raises StudyError, RecipeError, Interrupted after a signal (the same call goes on), MissingExtraError.
    """
    from thriftnet.tuning import run as tuning
    from thriftnet.tuning.config import load
    from thriftnet.tuning.storage import require_optuna

    require_optuna()
    resolved = load(study, overrides, trials)
    tuning.check_engine(engine, workers, address)
    source = open_source(data, resolved.base.data.image_side)
    folder = Path(out) if out is not None else Path("studies") / resolved.config.name
    return tuning.run_study(folder, resolved, source, engine, workers, address, storage, say or (lambda line: None))


def study_show(folder: Path | str, *, storage: str | None = None, html: Path | str | None = None) -> StudyFacts:
    """The facts of a study, also while it runs; with `html`, write its page. Raises StudyError."""
    from thriftnet.reporting.page import write_page
    from thriftnet.reporting.study_report import study_page
    from thriftnet.tuning.show import read_study

    facts = read_study(Path(folder), storage)
    if html is not None:
        write_page(study_page(facts), Path(html))
    return facts


def study_table() -> list[dict[str, Any]]:
    """One row a packaged study: name, paper, recipe, sampler, trials, summary."""
    from thriftnet.tuning.show import packaged_table

    return packaged_table()


def _opened(run: Run | Path | str) -> Run:
    return run if isinstance(run, Run) else load_run(run)


def _new_run_path(recipe: RecipeConfig) -> Path:
    stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
    return Path("runs") / f"{recipe.name}-seed{recipe.training.seed}-{stamp}-{os.getpid()}"
