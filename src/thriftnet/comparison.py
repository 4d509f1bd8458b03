"""Several seeds of a recipe, and recipes and runs set against each other: what must be trained and evaluated for it.

The statistics are in `evaluation.compare`, tables and verdicts in `evaluation.sides`.
"""

from __future__ import annotations

import hashlib
import os
import re
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from statistics import stdev

import numpy as np

from thriftnet import inference
from thriftnet import recipe as recipes
from thriftnet.campaign import check_same, is_finished, train_seeds
from thriftnet.config import RecipeConfig
from thriftnet.data.dataset import Source
from thriftnet.data.kept import KeptSource
from thriftnet.data.open import open_source
from thriftnet.data.place import real_place, same_place
from thriftnet.distributed.processes import from_environment
from thriftnet.errors import RunFolderError, UserError, escaped, nearest
from thriftnet.evaluation.compare import mean_interval
from thriftnet.evaluation.per_image import PerImageResults, decode_per_image
from thriftnet.evaluation.sides import LETTERS, Comparison, Side, compare_sides, interval_text
from thriftnet.reporting.run_report import draw_evaluation_figures
from thriftnet.run import Run, load_run
from thriftnet.run_data import Split
from thriftnet.storage import user_path
from thriftnet.tracking.display import tracked
from thriftnet.training.interruption import watch_signals
from thriftnet.training.progress import Display, LiveDisplay
from thriftnet.training.run_folder import RunFolder

Tell = Callable[[str], None]
"""Takes one line about what begins now."""

_MEASURED = (("validation", "validation accuracy"), ("test", "test accuracy (test-selected)"))
MOST_SEEDS = 1_000
"""Of one recipe: what a table and an interval of seeds can be for; each is a training."""
MACHINE = "runtime."  # where and how arithmetic ran, which makes no other recipe


@dataclass(frozen=True)
class SeedRuns:
    """Finished runs of one recipe that differ in their seed."""

    folder: Path
    runs: tuple[Run, ...]

    def summary(self) -> str:
        """A table of the runs with mean, sample standard deviation and 95 % interval of the kept epochs' accuracy."""
        results = [run.result for run in self.runs]
        values = {label: [each["selected"][f"{split}_accuracy"] for each in results] for split, label in _MEASURED}
        measured = {label: accuracies for label, accuracies in values.items() if None not in accuracies}
        lines = ["  ".join([f"{'seed':>6}", f"{'epochs':>6}", f"{'kept':>6}", *measured, "run"])]
        for at, (run, result) in enumerate(zip(self.runs, results, strict=True)):
            numbers = [f"{result[key]:>6}" for key in ("seed", "epochs", "selected_epoch")]
            shown = [f"{accuracies[at]:>{len(label)}.2%}" for label, accuracies in measured.items()]
            lines.append("  ".join([*numbers, *shown, str(run.path)]))
        return "\n".join([*lines, *(f"{label}: {_spread(accuracies)}" for label, accuracies in measured.items())])


def train_recipe_seeds(
    recipe: RecipeConfig,
    source: Source,
    folder: Path,
    seeds: Sequence[int],
    display: Display | None = None,
    tell: Tell = lambda line: None,
    track: Sequence[str] = (),
) -> list[Run]:
    """`recipe` once for each of `seeds`, in `folder/seed-<n>`: finished runs are taken, the others go on or begin.

    Every folder is looked at before the first training. Raises RunFolderError for one that holds something else,
    UserError under torchrun, and what `campaign.train_missing` raises.
    """
    _require_one_process()
    if RunFolder(folder).has("recipe.toml"):
        raise RunFolderError(f"{folder} is a run itself; give --out a folder that several runs can lie in")
    planned = [recipes.with_changes(recipe, {"training": {"seed": seed}}) for seed in seeds]
    for each in planned:
        begun = Run(folder / f"seed-{each.training.seed}")
        if begun.folder.has("recipe.toml"):
            check_same(begun, each, source)
    runs: list[Run] = []
    kept = KeptSource(source)
    with watch_signals() as request:
        for at, seed in enumerate(seeds, start=1):
            request.heed(f"interrupted; {len(runs)} of {len(seeds)} seeds are finished; the same command goes on")
            if not is_finished(Run(folder / f"seed-{seed}")):
                tell(f"{recipe.name}, seed {seed} ({at} of {len(seeds)})")
            with tracked(Run(folder / f"seed-{seed}"), track, display or LiveDisplay(), group=recipe.name) as shown:
                runs += train_seeds(recipe, kept, folder, [seed], shown)
    return runs


def default_folder(recipe: RecipeConfig, source: Source) -> Path:
    """Where the seeds of `recipe` on this data lie unless told otherwise: the same command finds them again."""
    unseeded = recipes.with_changes(recipe, {"training": {"seed": 0}})
    key = hashlib.sha256(f"{recipes.content_hash(unseeded)} {real_place(source.location)}".encode()).hexdigest()[:8]
    return Path("runs") / f"{recipe.name}-seeds-{key}"


def seed_range(recipe: RecipeConfig, count: int) -> range:
    """`count` seeds from the recipe's own on. Raises UserError for more than MOST_SEEDS, or than there are."""
    first, after = recipe.training.seed, recipe.training.seed + count
    if not 1 <= count <= MOST_SEEDS or after > 2**31:
        raise UserError(
            f"--seeds {count:,} from seed {first:,} on must be 1 to {MOST_SEEDS:,}, below {2**31:,}; each is a training"
        )
    return range(first, after)


def compare(
    sides: Sequence[str],
    split: Split = "test",
    *,
    data: str | None = None,
    seeds: int | None = None,
    out: Path | None = None,
    overrides: Sequence[str] = (),
    honest: bool = False,
    display: Display | None = None,
    tell: Tell = lambda line: None,
) -> Comparison:
    """Set two or more sides against each other on a split.

    A side is a run folder, a folder of runs of one recipe that differ in their seed, or a recipe, of which `seeds` runs
    are trained as far as they are missing (in `out/<recipe>/seed-<n>`, by default in `default_folder`), changed by
    `overrides` and under the `honest` protocol if asked for. Runs are evaluated where that was not done yet, which for
    `test` opens the sealed split and is logged.

    Raises UserError for sides that cannot be understood, or of which no two can be compared; RunFolderError,
    DataError and what training raises.
    """
    _require_one_process()
    if not 2 <= len(sides) <= len(LETTERS):
        raise UserError(f"{len(sides)} sides were given; 2 to {len(LETTERS)} can be compared")
    named = {side: recipes.load(side, overrides, sealed=honest) for side in dict.fromkeys(sides) if _is_recipe(side)}
    asked = {"--seeds": seeds is not None, "--out": out is not None, "--set": bool(overrides), "--protocol": honest}
    if not named and any(asked.values()):
        needless = ", ".join(option for option, given in asked.items() if given)
        raise UserError(f"all sides are runs, trained already; remove {needless}, which recipes are trained with")
    trained_on: str | None = None  # of recipes: without --data the environment says it, and may name another tomorrow
    # What is at hand is looked at before anything is trained.
    found = {side: _runs_at(user_path(side)) for side in sides if side not in named}
    for side, recipe in named.items():
        if seeds is None:
            raise UserError(f"{side} is a recipe; say with --seeds how many runs of it to compare")
        source = open_source(data, recipe.data.image_side)
        trained_on = source.location
        folder = out / recipe.name if out is not None else default_folder(recipe, source)
        found[side] = train_recipe_seeds(recipe, source, folder, seed_range(recipe, seeds), display, tell)
    groups = [found[side] for side in sides]
    barred = {
        (first, second): "; ".join(found_reasons)
        for first, second in combinations(range(len(sides)), 2)
        if (found_reasons := _why_not(groups[first][0], groups[second][0], split))
    }
    if len(barred) == len(sides) * (len(sides) - 1) // 2:
        reasons = [f"{sides[first]} and {sides[second]}: {why}" for (first, second), why in barred.items()]
        raise UserError(f"nothing here can be compared: {'. '.join(reasons)}")
    location, measured = _measured_sides(sides, groups, split, data, tell)
    words = ["thriftnet", "compare", *sides, "--split", split]
    options = [
        ("--data", trained_on if data is None else data),
        ("--seeds", seeds),
        ("--out", out),
        ("--protocol", "honest" if honest else None),
    ]
    for option, value in [*options, *(("--set", override) for override in overrides)]:
        words += [option, str(value)] if value is not None else []
    return compare_sides(measured, split, location, shlex.join(words), barred)


def _require_one_process() -> None:
    if from_environment(os.environ).several:
        raise UserError("several runs are trained and compared one after another; start without torchrun")


def _is_recipe(side: str) -> bool:
    """Packaged names win over folders of that name (`./fast`), as names of data sets do."""
    if side in recipes.names() or user_path(side).is_file():
        return True
    if not user_path(side).is_dir():
        hint = nearest(side, recipes.names())
        raise UserError(f"{side} is no run folder, no folder of runs, no recipe's name and no TOML file{hint}")
    return False


def _runs_at(path: Path) -> list[Run]:
    """The run in a folder, or those in its subfolders by seed; all finished, of one recipe, on one data set."""
    places = [path] if RunFolder(path).has("recipe.toml") else [each.parent for each in path.glob("*/recipe.toml")]
    if not places:
        raise RunFolderError(f"{path} is no run folder and holds none; give what `thriftnet train` printed")
    runs = sorted((load_run(place) for place in places), key=lambda run: run.recipe.training.seed)
    for run in runs:
        if not is_finished(run):
            raise RunFolderError(f"{run.path} is not trained to its end; go on with: {run.folder.resume_command}")
    first = runs[0]
    for run in runs[1:]:
        changed = [
            key
            for key, _, _ in recipes.differences(first.recipe, run.recipe)
            if key != "training.seed" and not key.startswith(MACHINE)
        ]
        if changed:
            raise RunFolderError(
                f"{path} holds runs of different recipes ({first.path.name} and {run.path.name} differ in "
                f"{', '.join(changed[:5])}); give each as a side of its own"
            )
        if run.data.fingerprint != first.data.fingerprint:
            raise RunFolderError(f"{first.path} and {run.path} were trained on different data; give each as a side")
    counts = [run.recipe.training.seed for run in runs]
    twice = [seed for seed in counts if counts.count(seed) > 1]
    if twice:
        raise RunFolderError(f"{path} holds several runs of seed {twice[0]}, which are not independent; remove one")
    return runs


def _why_not(first: Run, second: Run, split: Split) -> list[str]:
    """Every reason not to compare, as far as the run folders tell without opening any image."""
    left, right = first.data, second.data
    shapes = [f"{facts.channels} x {facts.image_side} x {facts.image_side}" for facts in (left, right)]
    if left.class_names != right.class_names:
        return ["their classes differ"]
    reasons = []
    if shapes[0] != shapes[1]:
        reasons.append(f"their images are prepared differently ({shapes[0]} against {shapes[1]})")
    elif left.fingerprint != right.fingerprint:
        reasons.append(f"they were trained on different data ({left.location} against {right.location})")
    elif split != "test" and _held_out(first) != _held_out(second):
        same_own = left.validation_fingerprint == right.validation_fingerprint
        why = "data.validation_images or training.split_seed" if same_own else "the validation split of the data"
        reasons.append(f"their {split} splits differ ({why})")
    chosen = [selection_label(run, split) for run in (first, second)]
    if ("selected" in chosen[0]) != ("selected" in chosen[1]):
        reasons.append(f"on the {split} split one is {chosen[0]}, the other {chosen[1]}")
    return reasons


def _held_out(run: Run) -> tuple[object, ...]:
    count, own = run.data.validation_images, run.data.validation_fingerprint
    return count, own, run.recipe.training.split_seed if count and own is None else None


def selection_label(run: Run, split: Split) -> str:
    """How the kept epoch was chosen; `<split>-selected` where the very images did it that are measured now."""
    selection = run.recipe.training.selection
    if selection == split:
        return f"{split}-selected"
    return "last epoch" if selection == "last" else selection


def _measured_sides(
    names: Sequence[str], groups: Sequence[Sequence[Run]], split: Split, data: str | None, tell: Tell
) -> tuple[str, list[Side]]:
    """Where the tested images lay, and every side with what each of its runs got right."""
    sides, location = [], ""
    for name, runs in zip(names, groups, strict=True):
        results = [_per_image(run, split, data, tell) for run in runs]
        if len({each.images_sha256 for each in results}) > 1:
            raise UserError(
                f"the runs of {name} were tested on different images; give --data to evaluate all on the same"
            )
        location = location or results[0].location
        sides.append(_side(name, runs, results, split))
    return location, sides


def _side(name: str, runs: Sequence[Run], results: Sequence[PerImageResults], split: Split) -> Side:
    environments = [run.environment for run in runs]
    return Side(
        name=name,
        seeds=tuple(run.recipe.training.seed for run in runs),
        correct=np.stack([each.correct.numpy() for each in results]),
        images_sha256=results[0].images_sha256,
        epochs=tuple(run.result["epochs"] for run in runs),
        parameters=runs[0].result["parameters"],
        selection=selection_label(runs[0], split),
        training_images=runs[0].data.training_images,
        trained_on=", ".join(sorted({f"{each['device_name']} {each['precision']}" for each in environments})),
    )


def _per_image(run: Run, split: Split, data: str | None, tell: Tell) -> PerImageResults:
    """What the run's selected weights say of every image of the split, measured now unless it is stored."""
    location = run.data.location if data is None else open_source(data, run.data.image_side).location
    for path in sorted(run.path.glob(f"evaluation-{split}*.safetensors")):
        if re.fullmatch(rf"evaluation-{split}(-on-.*-[0-9a-f]{{8}})?", path.stem):
            stored = decode_per_image(run.folder.read_bytes(path.name), path)
            same_weights = stored.weights_sha256 == run.folder.weights_sha256("selected")
            if same_weights and same_place(stored.location, escaped(location)):
                return stored
    sealed = split == "test" and not run.test_selected
    tell(f"{run.path}: {'the sealed test split is opened' if sealed else f'the {split} split is measured'}")
    measurement = inference.measure(run, split, data=data)
    for note in measurement.context["data"].get("notes", ()):
        tell(f"note: {note}")
    draw_evaluation_figures(measurement)
    path = measurement.path.with_suffix(".safetensors")
    return decode_per_image(run.folder.read_bytes(path.name), path)


def _spread(values: Sequence[float]) -> str:
    if len(values) == 1:
        return f"{values[0]:.2%} (one seed, so nothing is known of its spread)"
    interval = mean_interval(values).within(0, 1)
    return (
        f"mean {interval.estimate:.2%}, standard deviation {stdev(values):.2%}, "
        f"95 % interval {interval_text(interval, '%')} ({len(values)} seeds; covers other seeds, not other images)"
    )
