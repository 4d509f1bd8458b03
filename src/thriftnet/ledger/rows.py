"""Accuracies and curves of the papers: claimed, measured, and what stands between them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from pydantic import BaseModel

from thriftnet.ledger.claims import AccuracyClaim, CurveClaim
from thriftnet.ledger.measured import Measured, mean_of, measured_dict
from thriftnet.ledger.plan import Row, RowClaim
from thriftnet.run import Run

REPRODUCED_FROM = 0.25
"""Share of the paper's training (its epochs times the images of one) below which a row reproduces nothing."""

RowState = Literal["measured", "started", "diverged", "missing"]


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
    training: str | None = None
    """The key of the runs that it is of; None where there is none."""
    never_reached: int = 0
    """Finished runs in which what is claimed did not come about, so that they are not in the mean."""
    joined: str = ""
    """The ledger that it was taken from, where it was measured elsewhere."""

    def as_dict(self) -> dict[str, Any]:
        """For ledger.json; a `JoinedRow` is read from it."""
        return {
            "state": self.state,
            "measured": measured_dict(self.measured),
            "difference": self.difference,
            "explanations": list(self.explanations),
            "status": self.status,
            "training": self.training,
            "measured_as": self.claim.measured_as,
            "never_reached": self.never_reached,
        }


class JoinedRow(BaseModel):
    """What another ledger's json has of a row; how its number compares is found here, by the claims of today."""

    measured: Measured | None
    training: str | None
    measured_as: str
    never_reached: int
    joined: str = ""

    def is_of(self, row: Row) -> bool:
        """Whether it is the same measure of the same runs as `row`, but for their seeds."""
        return (self.training, self.measured_as) == (row.training, row.claim.measured_as)

    @property
    def seeds(self) -> int:
        """Finished runs."""
        return self.never_reached + (0 if self.measured is None else len(self.measured.seeds))


def row_finding(rows: Sequence[Row], joined: Sequence[JoinedRow] = ()) -> RowFinding:
    """From the most faithful shortening that has a number, of equal ones with the most seeds, here before joined."""
    found = [each for row in rows for each in (_measured_here(row), *_measured_elsewhere(row, joined)) if each]
    if not found:
        return _unmeasured(rows, joined)
    places = {row.training: place for place, row in enumerate(reversed(rows))}  # `rows` begin with the most faithful
    return max(found, key=lambda each: (places[each.training or ""], len(each.measured.seeds if each.measured else ())))


def _measured_here(row: Row) -> RowFinding | None:
    values = {job: _row_value(row, job.run) for job in row.jobs if job.finished and not job.lacks_test}
    measured = mean_of(row.shortened, values, _row_unit(row.claim), *_row_split(row))
    never = sum(value is None for value in values.values())
    return None if measured is None else _compared(row, measured, never)


def _measured_elsewhere(row: Row, joined: Sequence[JoinedRow]) -> list[RowFinding]:
    return [
        replace(_compared(row, each.measured, each.never_reached), joined=each.joined)
        for each in joined
        if each.is_of(row) and each.measured is not None
    ]


def _unmeasured(rows: Sequence[Row], joined: Sequence[JoinedRow]) -> RowFinding:
    claim, jobs = rows[0].claim, [job for row in rows for job in row.jobs]
    reasons = [job.diverged for job in jobs if job.diverged]
    if len(reasons) == len(jobs):
        return RowFinding(claim, "diverged", None, None, (), f"diverged: {reasons[0]}")
    for row in rows:
        finished = [job for job in row.jobs if job.finished]
        if finished and all(job.lacks_test for job in row.jobs):
            return RowFinding(claim, "started", None, None, (), "missing: trained, but not evaluated yet")
        other = next((each for each in joined if each.is_of(row) and each.never_reached), None)
        if finished or other is not None:
            labels = "; ".join(row.shortened.labels) or "full length"
            status = f"not reproduced: never reached [{labels}]"
            never, place = (len(finished), "") if finished or other is None else (other.never_reached, other.joined)
            return RowFinding(claim, "measured", None, None, (), status, row.training, never, place)
    furthest = max(jobs, key=lambda job: job.epochs_done)
    if furthest.epochs_done:
        done = f"{furthest.epochs_done} of {furthest.recipe.training.epochs} epochs are there"
        return RowFinding(claim, "started", None, None, (), f"missing: {done}")
    return RowFinding(claim, "missing", None, None, (), "missing")


def _row_value(row: Row, run: Run) -> float | None:
    claim, history = row.claim, run.history
    if isinstance(claim, AccuracyClaim):
        if claim.split == "train":
            return 100 * float(history[-1]["train_accuracy"])
        if claim.split == "test" and not run.test_selected:
            measured = run.evaluation("test")
            assert measured is not None  # else the run lacks its test
            return 100 * measured.accuracy
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
    difference = _distance(row.claim.claimed, measured.value)
    explanations = _explanations(row, measured)
    if never:
        explanations = (f"never reached in {never} of {never + len(measured.seeds)} runs", *explanations)
    status = _status(row, measured, difference)
    return RowFinding(row.claim, "measured", measured, difference, explanations, status, row.training, never)


def _distance(claimed: Sequence[float], value: float) -> float | None:
    if not claimed:
        return None
    low, high = claimed[0], claimed[-1]
    return value - high if value > high else value - low if value < low else 0.0


def _status(row: Row, measured: Measured, difference: float | None) -> str:
    shortened = row.shortened
    if shortened.width < 1:
        return f"not reproduced: a twin of {shortened.width:g} of every width"
    if shortened.epochs_share * shortened.images / shortened.images_in_full < REPRODUCED_FROM:
        epochs = f"{measured.epochs} of {measured.full_epochs} epochs"
        images = f"{shortened.images:,} of {shortened.images_in_full:,} images"
        return f"not reproduced: {epochs}" + (f" of {images}" if shortened.images < shortened.images_in_full else "")
    if difference is None:
        return "measured; no number is claimed"
    if measured.interval is not None and _overlaps(row.claim.claimed, measured.interval):
        word = "agrees: the claimed number lies within the interval over seeds"
    elif difference == 0:
        word = "agrees: within the claimed range"
    else:
        side, unit = "above" if difference > 0 else "below", difference_unit(measured.unit)
        word = f"{side} the claim by {abs(difference):.2f} {unit}"
    return f"{word} (scaled)" if shortened.labels else word


def difference_unit(unit: str) -> str:
    """Of the difference of two values: percentages differ by points."""
    return "points" if unit == "%" else unit


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
