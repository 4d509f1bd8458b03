"""What the runs of a plan say about each claim. Reads run folders; trains and evaluates nothing.

Accuracies are in per cent here, differences in percentage points. A number is a `Measured`, and its text always carries
what was shortened, how it was selected and over how many seeds.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from shlex import quote
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
from thriftnet.ledger.joined import NOTHING_JOINED, JoinedLedgers
from thriftnet.ledger.measured import Measured, measured_dict
from thriftnet.ledger.plan import Plan, pairs_by_direction, rows_by_claim
from thriftnet.ledger.rows import RowFinding, row_finding
from thriftnet.ledger.runs import JobState, job_state
from thriftnet.ledger.selection_cost import SelectionCost, find_selection_costs


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
    """Of the plan, then those of joined ledgers that are not in this folder."""
    out: str
    """Name of the ledger's folder."""
    left_out: tuple[str, ...]
    """Numbers of joined ledgers of which no training that is planned now is."""

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
                place = quote(f"{self.out}/studies/{claim.study}")
                return self.beside.get(
                    claim.id, f"missing: thriftnet study run {claim.study} --data PATH --out {place}"
                )
            case ElsewhereClaim():
                shifted = self.beside.get(claim.id)
                return f"not measured here: {claim.measured_by}{'' if shifted is None else f'; {shifted}'}"

    def as_dict(self) -> dict[str, Any]:
        """ledger.json: numbers, strings, lists and None only."""
        return {
            "claims": [
                {**claim.model_dump(mode="json"), "outcome": self.outcome(claim)} for claim in self.claims.claim
            ],
            "rows": {key: row.as_dict() for key, row in self.rows.items()},
            "directions": {key: found.as_dict() for key, found in self.directions.items()},
            "cost_of_selecting_on_the_test_set": {
                "all": measured_dict(self.all_selection_costs),
                "recipes": {each.recipe: each.as_dict() for each in self.selection_costs},
            },
            "beside": self.beside,
            "printed_tables": [{**asdict(audit), "finding": audit.finding} for audit in self.audits],
            "runs": [asdict(job) for job in self.jobs],
        }


def find(plan: Plan, claims: Claims, out: Path, joined: JoinedLedgers = NOTHING_JOINED) -> Findings:
    """Read everything that the runs of `plan`, the studies in `out` and `joined` ledgers say about `claims`.

    Raises RunFolderError for a damaged run.
    """
    planned = {claim.id: rows for claim, rows in rows_by_claim(plan.rows)}
    rows = {claim: row_finding(own, joined.rows(claim)) for claim, own in planned.items()}
    beside: dict[str, str] = {}
    for claim in claims.claim:
        here = None
        if isinstance(claim, StudyClaim):
            here = study_finding(claim, out)
        elif isinstance(claim, ElsewhereClaim) and claim.shifted in planned:
            here = shift_finding(claim, planned[claim.shifted])
        text = here or joined.beside(claim.id)
        beside |= {} if text is None else {claim.id: text}
    directions = {
        direction.id: direction_finding(pairs, joined.directions(direction.id))
        for direction, pairs in pairs_by_direction(plan.pairs)
    }
    costs, every_cost = find_selection_costs(plan, joined.costs())
    estimates = plan.estimates_s()
    own = tuple(job_state(plan, job, estimates.get(job)) for job in plan.jobs)
    named = [claim.table for claim in claims.claim if isinstance(claim, AuditClaim) and claim.table is not None]
    return Findings(
        claims=claims,
        rows=rows,
        directions=directions,
        selection_costs=costs,
        all_selection_costs=every_cost,
        audits=tuple(audit_table(name) for name in dict.fromkeys(named)),
        beside=beside,
        jobs=(*own, *joined.runs(own)),
        out=out.name,
        left_out=joined.left_out(plan),
    )
