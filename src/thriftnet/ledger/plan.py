"""What has to run: the recipes of claims and directions, shortened as asked, each once, the most telling first."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, ValidationError

from thriftnet import recipe as recipes
from thriftnet.campaign import is_finished
from thriftnet.comparison import MOST_SEEDS
from thriftnet.config import ModelConfig, RecipeConfig, Section
from thriftnet.data.batches import steps_per_epoch
from thriftnet.data.dataset import Source
from thriftnet.data.statistics import fingerprint
from thriftnet.errors import RunFolderError, UserError
from thriftnet.evaluation.adversarial import AttackConfig
from thriftnet.ledger.claims import AccuracyClaim, Claims, CurveClaim, Direction, Side, side_recipe, training_key
from thriftnet.models.build import build_on_meta
from thriftnet.models.summary import summarize
from thriftnet.run import Run
from thriftnet.storage import parse_json
from thriftnet.twins import narrow, shorten

TWIN_WIDTH = 0.25
"""Of the networks that directions are tested on, unless another is asked for."""
DIVERGED = "diverged.json"
"""In the folder of a run whose loss became NaN or infinite: it would again, so it is not tried again."""

RowClaim = AccuracyClaim | CurveClaim


class Request(Section):
    """What was asked of one ledger folder; a folder keeps all of its requests."""

    paper: str = "all"
    """`all`, a paper, or a recipe whose accuracies and curves alone are wanted."""
    rows: bool = True
    """Whether accuracies and curves are measured."""
    directions: bool = True
    """Whether directions are tested."""
    scale: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0
    """Share of the epochs."""
    width: Annotated[float, Field(gt=0.0, le=1.0)] | None = None
    """Share of every width; absent: TWIN_WIDTH for directions, 1 for rows."""
    train_images: Annotated[int, Field(ge=2)] | None = None
    """Images that are trained on; absent: all."""
    seeds: Annotated[int, Field(ge=1, le=MOST_SEEDS)] = 3


def checked_request(**values: Any) -> Request:
    """A request. Raises UserError for a value out of range, or one that asks for nothing."""
    try:
        request = Request(**values)
    except ValidationError as error:
        first = error.errors()[0]
        raise UserError(f"{first['loc'][0]} = {first['input']!r}: {first['msg']}") from None
    if not request.rows and not request.directions:
        raise UserError("without rows and directions nothing is left to reproduce; leave one of them in")
    return request


@dataclass(frozen=True)
class DataShape:
    """What planning needs to know of the data."""

    images: int
    """Of the training split, validation included."""
    channels: int
    side: int
    classes: int
    fingerprint: str
    """SHA-256 of the training split: of two copies of one set, measured numbers are those of one."""

    @classmethod
    def of(cls, source: Source) -> DataShape:
        """Reads the training split. Raises DataError where it cannot be read."""
        data = source.train()
        _, channels, side, _ = data.images.shape
        return cls(len(data), channels, side, len(source.class_names), fingerprint(data))

    @property
    def text(self) -> str:
        """For a message."""
        size = f"{self.channels} x {self.side} x {self.side}"
        return f"{self.images:,} images of {size} in {self.classes} classes (fingerprint {self.fingerprint[:12]})"

    def trained_on(self, recipe: RecipeConfig) -> int:
        """Images that a run of `recipe` trains on. Raises UserError where the data are too few for it."""
        held_out = recipe.data.validation_images
        left = self.images - (max(1, round(self.images / 10)) if held_out is None else held_out)
        if left < self.classes:
            raise UserError(
                f"{recipe.name} holds {held_out:,} images out for validation, and these data have {self.images:,} to "
                "train on; give larger data with --data, or leave out the accuracies and curves: --no-rows"
            )
        return left if recipe.data.train_images is None else min(recipe.data.train_images, left)


@dataclass(frozen=True)
class Shortened:
    """One recipe as its paper had it, and as it is run."""

    full: RecipeConfig
    recipe: RecipeConfig
    width: float
    images: int
    """That are trained on."""
    images_in_full: int

    @property
    def epochs_share(self) -> float:
        return self.recipe.training.epochs / self.full.training.epochs

    @property
    def faithfulness(self) -> tuple[float, float, float]:
        """Larger is nearer to the paper's own training: width, then images, then epochs."""
        return self.width, self.images / self.images_in_full, self.epochs_share

    @property
    def labels(self) -> tuple[str, ...]:
        """What every number of this recipe must say."""
        labels = []
        if self.width < 1:
            labels.append(f"twin {self.width:g}")
        if self.epochs_share < 1:
            labels.append(f"scaled {self.recipe.training.epochs}/{self.full.training.epochs} epochs")
        if self.images < self.images_in_full:
            labels.append(f"scaled {self.images:,}/{self.images_in_full:,} images")
        return tuple(labels)


@dataclass(eq=False)
class Job:
    """One training, with everything that is wanted of it."""

    recipe: RecipeConfig
    key: str
    path: Path
    order: tuple[int, int, int]
    """Lowest first."""
    epoch_work: float
    """Multiply-accumulates of all forward passes of an epoch."""
    width: float
    """Share of the recipe's widths."""
    uses: list[str] = field(default_factory=list)
    """Ids of claims and directions."""
    needs_test: bool = False
    attacks: list[AttackConfig] = field(default_factory=list)
    needs_sharpness: bool = False

    @property
    def run(self) -> Run:
        return Run(self.path)

    @property
    def folder(self) -> str:
        """`liu-trial-5-309eb4c3/seed-0`, within the ledger's runs."""
        return f"{self.path.parent.name}/{self.path.name}"

    @property
    def diverged(self) -> str | None:
        """Why it ended without a result, or None."""
        folder = self.run.folder
        return str(folder.read_json(DIVERGED)["message"]) if folder.has(DIVERGED) else None

    @property
    def begun(self) -> bool:
        return self.run.folder.has("recipe.toml")

    @property
    def finished(self) -> bool:
        return is_finished(self.run)

    @property
    def epochs_done(self) -> int:
        folder = self.run.folder
        return int(folder.read_json("result.json")["epochs"]) if folder.has("result.json") else 0

    @property
    def remaining_work(self) -> float:
        return (self.recipe.training.epochs - self.epochs_done) * self.epoch_work

    @property
    def lacks_test(self) -> bool:
        return self.needs_test and self.run.evaluation("test") is None


@dataclass(frozen=True)
class Row:
    """The runs of one claim at one shortening, one a seed."""

    claim: RowClaim
    shortened: Shortened
    jobs: tuple[Job, ...]

    @property
    def training(self) -> str:
        """The key of its runs."""
        return self.jobs[0].key

    @property
    def is_there(self) -> bool:
        """Whether every run of it is trained and, where it needs that, measured on the test split."""
        return all(job.finished and not job.lacks_test for job in self.jobs)

    def replaces(self, other: Row) -> bool:
        """Whether this has as many seeds as `other` wants, of other runs that are shortened no more."""
        shares = zip(self.shortened.faithfulness, other.shortened.faithfulness, strict=True)
        return (
            self.claim.id == other.claim.id
            and len(self.jobs) >= len(other.jobs)
            and not set(self.jobs) >= set(other.jobs)
            and all(mine >= its for mine, its in shares)
        )


@dataclass(frozen=True)
class Pair:
    """The runs of one direction at one shortening: A and B with the same seeds in the same order."""

    direction: Direction
    a: Shortened
    b: Shortened
    a_jobs: tuple[Job, ...]
    b_jobs: tuple[Job, ...]

    @property
    def training(self) -> tuple[str, str]:
        """The keys of A's and of B's runs."""
        return self.a_jobs[0].key, self.b_jobs[0].key


@dataclass(frozen=True)
class Plan:
    """The runs of one or several requests; a run that several need is there once."""

    rows: tuple[Row, ...]
    pairs: tuple[Pair, ...]
    jobs: tuple[Job, ...]
    """In the order of training."""
    asked: frozenset[Job]
    """Those that the last request needs; the others have begun for an earlier one."""

    @property
    def missing(self) -> list[Job]:
        """Asked for, neither finished nor diverged."""
        return [job for job in self.jobs if job in self.asked and not job.finished and not job.diverged]

    def estimates_s(self) -> dict[Job, float | None]:
        """Seconds that are left of each missing run, from the speed of the runs nearest to it; None before any epoch.

        Nearest: other seeds of it, else the same recipe at the same width, else any recipe at that width, else the
        same recipe, else all of them. A narrow network computes fewer multiply-accumulates in a second: by quarters of
        ResNet-18 the whole one was expected to take three times as long as it took.
        """
        rates = self._rates()
        estimates: dict[Job, float | None] = {}
        for job in self.missing:
            wide = [(other, rate) for other, rate in rates if other.width == job.width]
            nearest = (
                [rate for other, rate in rates if other.key == job.key],
                [rate for other, rate in wide if other.recipe.name == job.recipe.name],
                [rate for _, rate in wide],
                [rate for other, rate in rates if other.recipe.name == job.recipe.name],
                [rate for _, rate in rates],
            )
            near = next(filter(None, nearest), None)
            estimates[job] = None if near is None else job.remaining_work / statistics.median(near)
        return estimates

    def _rates(self) -> list[tuple[Job, float]]:
        """Work in a second of each run that has an epoch."""
        found = []
        for job in self.jobs:
            if job.epochs_done:
                elapsed_s = float(job.run.result["elapsed_s"])
                if elapsed_s > 0:
                    found.append((job, job.epochs_done * job.epoch_work / elapsed_s))
        return found

    def summary(self) -> list[str]:
        """A few lines for a person."""
        estimates = self.estimates_s()
        there = len(self.asked) - len(estimates)
        lines = [f"{len(self.asked)} runs in all: {there} are there, {len(estimates)} are missing"]
        lines += [
            f"  {job.folder}: {'unknown time' if left is None else duration(left)}, for {', '.join(job.uses)}"
            for job, left in estimates.items()
        ]
        known = [left for left in estimates.values() if left is not None]
        if known:
            lines.append(f"about {duration(sum(known))} of training is missing, at the speed of the runs there")
        elif estimates:
            lines.append("how long they take is known once one epoch is there")
        return lines


def plan(
    request: Request,
    claims: Claims,
    shape: DataShape,
    out: Path,
    earlier: Sequence[Request] = (),
    elsewhere: Callable[[Row | Pair], bool] = lambda wanted: False,
) -> Plan:
    """Plan `request`; of `earlier` ones only the runs that have begun, since nobody asks for the others any more.

    What was measured `elsewhere` needs no run, nor a row that is there or elsewhere shortened less: that is the one the
    ledger shows. Raises RecipeError for a recipe or a change that does not fit, UserError for an unknown name.
    """
    planner = _Planner(shape, out)
    for each in (request, *earlier):
        wanted = claims.of(each.paper)
        if each.directions:
            planner.directions(wanted, each)
        if each.rows:
            planner.rows(wanted, each)
        if each is request:
            rows, pairs = tuple(planner.found_rows), tuple(planner.found_pairs)
    have = [row for row in planner.found_rows if row.is_there or elsewhere(row)]
    needed = [row for row in rows if not elsewhere(row) and not any(other.replaces(row) for other in have)]
    asked = {job for row in needed for job in row.jobs} | {
        job for pair in pairs if not elsewhere(pair) for job in (*pair.a_jobs, *pair.b_jobs)
    }
    jobs = [job for job in planner.sorted_jobs() if job in asked or job.begun]
    return Plan(tuple(planner.found_rows), tuple(planner.found_pairs), tuple(jobs), frozenset(asked))


def read_requests(out: Path) -> list[Request]:
    """What was asked of the folder so far. Raises RunFolderError for a damaged file."""
    path = out / "requests.json"
    if not path.is_file():
        return []
    try:
        return [Request.model_validate(each) for each in parse_json(path.read_bytes())]
    except ValueError as error:
        raise RunFolderError(f"{path} is damaged ({' '.join(str(error).split())[:200]}); remove it") from None


def duration(seconds: float) -> str:
    """`40 s`, `12 min`, `3.4 h`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


class _Planner:
    """Collects jobs; one that is wanted again only gets another use."""

    def __init__(self, shape: DataShape, out: Path) -> None:
        self.shape, self.out = shape, out
        self.found_rows: list[Row] = []
        self.found_pairs: list[Pair] = []
        self._jobs: dict[tuple[str, int], Job] = {}

    def sorted_jobs(self) -> list[Job]:
        return sorted(self._jobs.values(), key=lambda job: job.order)

    def directions(self, claims: Claims, request: Request) -> None:
        """Each seed of all directions before the next seed: a verdict needs pairs, not one side complete."""
        width = TWIN_WIDTH if request.width is None else request.width
        for place, direction in enumerate(claims.direction):
            sides = [self._shortened(side_recipe(side), request, width, side) for side in (direction.a, direction.b)]
            jobs = [
                tuple(self._job(side, seed, (seed, 0, place), direction.id) for seed in range(request.seeds))
                for side in sides
            ]
            for job in (*jobs[0], *jobs[1]):
                if direction.attack is not None and direction.attack not in job.attacks:
                    job.attacks.append(direction.attack)
                job.needs_sharpness |= direction.measure == "sharpness"
            self.found_pairs.append(Pair(direction, sides[0], sides[1], jobs[0], jobs[1]))

    def rows(self, claims: Claims, request: Request) -> None:
        """The first seed beside that of the directions; further seeds only after these have all of theirs."""
        place = 0
        for claim in claims.claim:
            if not isinstance(claim, RowClaim):
                continue
            recipe = recipes.load(claim.recipe)
            if isinstance(claim, CurveClaim) and claim.protocol == "honest":
                recipe = recipes.honest(recipe)
            shortened = self._shortened(recipe, request, request.width or 1.0)
            jobs = tuple(
                self._job(shortened, seed, (seed if seed == 0 else request.seeds + seed, 1, place), claim.id)
                for seed in range(request.seeds)
            )
            if isinstance(claim, AccuracyClaim) and claim.split == "test" and recipe.training.selection != "test":
                for job in jobs:
                    job.needs_test = True
            self.found_rows.append(Row(claim, shortened, jobs))
            place += 1

    def _shortened(self, full: RecipeConfig, request: Request, width: float, side: Side | None = None) -> Shortened:
        recipe = shorten(full, request.scale) if request.scale < 1 else full
        recipe = narrow(recipe, width) if width < 1 else recipe
        in_full = self.shape.trained_on(full)
        if request.train_images is not None and request.train_images < in_full:
            recipe = recipes.with_changes(recipe, {"data": {"train_images": request.train_images}})
        if side is not None and side.half_periods_per_epoch is not None:
            steps = max(1, round(self._steps(recipe) / side.half_periods_per_epoch))
            recipe = recipes.with_changes(recipe, {"schedule": {"half_period_steps": steps}})
        return Shortened(full, recipe, width, self.shape.trained_on(recipe), in_full)

    def _job(self, shortened: Shortened, seed: int, order: tuple[int, int, int], use: str) -> Job:
        recipe = recipes.with_changes(shortened.recipe, {"training": {"seed": seed}})
        key = training_key(recipe)
        job = self._jobs.get((key, seed))
        if job is None:
            job = Job(
                recipe,
                key,
                self._folder(recipe, key) / f"seed-{seed}",
                order,
                self._epoch_work(recipe),
                shortened.width,
            )
            self._jobs[key, seed] = job
        job.order = min(job.order, order)
        if use not in job.uses:
            job.uses.append(use)
        return job

    def _folder(self, recipe: RecipeConfig, key: str) -> Path:
        """The same training may have been begun under another recipe's name."""
        there = sorted((self.out / "runs").glob(f"*-{key}"))
        return there[0] if there else self.out / "runs" / f"{recipe.name}-{key}"

    def _shown(self, recipe: RecipeConfig) -> int:
        """Images that an epoch shows."""
        return self.shape.trained_on(recipe) * (2 if recipe.augment.concatenate_originals else 1)

    def _steps(self, recipe: RecipeConfig) -> int:
        return steps_per_epoch(self._shown(recipe), recipe.training.batch_size, recipe.training.drop_last)

    def _epoch_work(self, recipe: RecipeConfig) -> float:
        passes = 1
        if recipe.perturbation is not None:
            passes += recipe.perturbation.inner_steps if recipe.perturbation.name == "amp" else 1
        return float(self._shown(recipe) * passes * _macs(recipe.model, self.shape))


@cache
def _macs(model: ModelConfig, shape: DataShape) -> int:
    """Multiply-accumulates of one image's forward pass."""
    network = build_on_meta(model, shape.channels, shape.classes)
    return summarize(network, (shape.channels, shape.side, shape.side)).macs


def rows_by_claim(found: Sequence[Row]) -> Iterator[tuple[RowClaim, list[Row]]]:
    """Each claim once, with its rows at all shortenings, the most faithful first."""
    for claim in dict.fromkeys(row.claim.id for row in found):
        rows = [row for row in found if row.claim.id == claim]
        yield rows[0].claim, sorted(rows, key=lambda row: row.shortened.faithfulness, reverse=True)


def pairs_by_direction(found: Sequence[Pair]) -> Iterator[tuple[Direction, list[Pair]]]:
    """Each direction once, with its pairs at all shortenings, the most faithful first."""
    for direction in dict.fromkeys(pair.direction.id for pair in found):
        pairs = [pair for pair in found if pair.direction.id == direction]
        yield pairs[0].direction, sorted(pairs, key=lambda pair: pair.a.faithfulness, reverse=True)
