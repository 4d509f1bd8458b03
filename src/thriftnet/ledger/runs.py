"""How each run of a plan stands, for the tables of runs and of what is missing."""

from __future__ import annotations

from dataclasses import dataclass

from thriftnet.ledger.claims import KEY_LENGTH
from thriftnet.ledger.plan import Job, Plan
from thriftnet.ledger.rows import RowState


@dataclass(frozen=True)
class JobState:
    """A run that is there, was begun, or is asked for."""

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
    joined: str = ""
    """The ledger that it was read from, where it was trained elsewhere."""

    @property
    def key(self) -> str:
        """Of its training and seed: without the recipe's name, since two may stand for one training."""
        return self.folder[self.folder.index("/") - KEY_LENGTH :]


def job_state(plan: Plan, job: Job, estimate_s: float | None) -> JobState:
    """How a run of `plan` stands."""
    recipe = job.recipe
    state: RowState = "diverged" if job.diverged else "measured" if job.finished else "missing"
    accuracy, elapsed_s = "–", None
    if job.epochs_done:
        elapsed_s = float(job.run.result["elapsed_s"])
        state = "started" if state == "missing" else state
        accuracy = _run_accuracy(plan, job)
    return JobState(
        folder=job.folder,
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
