"""Many runs in one place: what is finished is taken, what was interrupted goes on, what is missing is trained.

So every command that needs several runs (seeds, a study, the ledger) can be stopped anywhere and given again.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from thriftnet import recipe as recipes
from thriftnet.config import RecipeConfig
from thriftnet.data.dataset import Source
from thriftnet.data.place import same_place
from thriftnet.errors import RunFolderError
from thriftnet.reporting.run_report import draw_training_figures
from thriftnet.run import Run
from thriftnet.training.interruption import watch_signals
from thriftnet.training.loop import fit
from thriftnet.training.progress import Display, SilentDisplay

FINISHED = ("completed", "stopped early")


def train_missing(
    recipe: RecipeConfig, source: Source, path: Path, display: Display | None = None, figures: bool = True
) -> Run:
    """The finished run of `recipe` on `source` in the folder `path`, trained only as far as it is not there yet.

    `figures`: whether to draw those of a training; of those its page would then lack the augmented batch alone.

    Raises RunFolderError where `path` holds a run of another recipe or other data, and what `training.loop.fit` raises.
    """
    run = Run(path)
    begun = run.folder.has("recipe.toml")
    if begun:
        check_same(run, recipe, source)
        if is_finished(run):
            return run
    try:
        data = fit(recipe, source, run.folder, display or SilentDisplay(), resume=begun)
    except RunFolderError:
        if begun or not run.folder.has("recipe.toml"):
            raise
        # Another command has begun it since we looked: theirs to finish, or ours to go on with.
        return train_missing(recipe, source, path, display, figures)
    run = Run(path)
    if figures:
        draw_training_figures(run, data)
    return run


def train_seeds(
    recipe: RecipeConfig, source: Source, folder: Path, seeds: Sequence[int], display: Display | None = None
) -> list[Run]:
    """`recipe` once for each of `seeds`, in `folder/seed-<n>`. Raises what `train_missing` raises, and between two."""
    runs: list[Run] = []
    with watch_signals() as request:
        for seed in seeds:
            request.heed(f"interrupted; {len(runs)} of {len(seeds)} runs are finished; the same command goes on")
            seeded = recipes.with_changes(recipe, {"training": {"seed": seed}})
            runs.append(train_missing(seeded, source, folder / f"seed-{seed}", display))
    return runs


def is_finished(run: Run) -> bool:
    """Whether training has come to its end, so that nothing is left to resume."""
    return run.folder.has("result.json") and run.result["status"] in FINISHED


def check_same(run: Run, recipe: RecipeConfig, source: Source) -> None:
    """Raise RunFolderError unless the run was begun with this recipe on this data."""
    if recipes.content_hash(run.recipe) != recipes.content_hash(recipe):
        changed = [key for key, _, _ in recipes.differences(run.recipe, recipe)]
        raise RunFolderError(
            f"{run.path} holds a run of another recipe (it differs in {', '.join(changed[:5])}); choose another folder"
        )
    if run.folder.has("data.json") and not same_place(run.data.location, source.location):
        raise RunFolderError(
            f"{run.path} was trained on {run.data.location}, not {source.location}; choose another folder"
        )
