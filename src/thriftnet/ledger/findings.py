"""What the runs of a plan say about each claim. Reads run folders; trains and evaluates nothing.

Accuracies are in per cent here, differences in percentage points. A number is a `Measured`, and its text always carries
what was shortened, how it was selected and over how many seeds.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from thriftnet.ledger.audit import TableAudit, audit_table, corrections
from thriftnet.ledger.beside import shift_finding, study_finding
from thriftnet.ledger.claims import (
    AccuracyClaim,
    AnyClaim,
    AuditClaim,
    Claims,
    CurveClaim,
    DirectionClaim,
    ElsewhereClaim,
    StudyClaim,
)
from thriftnet.ledger.directions import DirectionFinding, direction_finding
from thriftnet.ledger.measured import Measured, measured_dict
from thriftnet.ledger.plan import Job, Plan, pairs_by_direction, rows_by_claim
from thriftnet.ledger.rows import RowFinding, RowState, row_finding
from thriftnet.ledger.selection_cost import SelectionCost, find_selection_costs


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
    beside: dict[str, str]
    """By claim: how its study stands, or how far accuracy fell on shifted images."""
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
            case StudyClaim():
                return self.beside[claim.id]
            case ElsewhereClaim():
                shifted = self.beside.get(claim.id)
                return f"not measured here: {claim.measured_by}{'' if shifted is None else f'; {shifted}'}"

    def as_dict(self) -> dict[str, Any]:
        """ledger.json: numbers, strings, lists and None only."""
        return {
            "claims": [
                {**claim.model_dump(mode="json"), "outcome": self.outcome(claim)} for claim in self.claims.claim
            ],
            "rows": {
                key: {
                    "state": row.state,
                    "measured": measured_dict(row.measured),
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
                    "difference": measured_dict(found.difference),
                    "verdict": found.verdict,
                    "a_labels": list(found.a_labels),
                    "b_labels": list(found.b_labels),
                    "missing_seeds": list(found.missing_seeds),
                    "diverged": list(found.diverged),
                    "hardly_learned": list(found.hardly_learned),
                }
                for key, found in self.directions.items()
            },
            "cost_of_selecting_on_the_test_set": {
                "all": measured_dict(self.all_selection_costs),
                **{each.recipe: measured_dict(each.cost) for each in self.selection_costs},
            },
            "printed_tables": [{**asdict(audit), "finding": audit.finding} for audit in self.audits],
            "runs": [asdict(job) for job in self.jobs],
        }


def find(plan: Plan, claims: Claims, out: Path) -> Findings:
    """Read everything that the runs of `plan` and the studies in `out` say about `claims`.

    Raises RunFolderError for a damaged run.
    """
    planned = {claim.id: rows for claim, rows in rows_by_claim(plan.rows)}
    rows = {claim: row_finding(own) for claim, own in planned.items()}
    beside = {claim.id: study_finding(claim, out) for claim in claims.claim if isinstance(claim, StudyClaim)}
    for claim in claims.claim:
        if isinstance(claim, ElsewhereClaim) and claim.shifted in planned:
            shifted = shift_finding(claim, planned[claim.shifted])
            beside |= {} if shifted is None else {claim.id: shifted}
    directions = {direction.id: direction_finding(pairs) for direction, pairs in pairs_by_direction(plan.pairs)}
    costs, every_cost = find_selection_costs(plan)
    estimates = plan.estimates_s()
    named = [claim.table for claim in claims.claim if isinstance(claim, AuditClaim) and claim.table is not None]
    return Findings(
        claims=claims,
        rows=rows,
        directions=directions,
        selection_costs=costs,
        all_selection_costs=every_cost,
        audits=tuple(audit_table(name) for name in dict.fromkeys(named)),
        beside=beside,
        jobs=tuple(_job_state(plan, job, estimates.get(job)) for job in plan.jobs),
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
