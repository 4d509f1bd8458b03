"""What selecting on the test set costs: the best test epoch minus the last, of runs that selected there."""

from __future__ import annotations

from dataclasses import dataclass

from thriftnet.ledger.measured import Measured, mean_of
from thriftnet.ledger.plan import Job, Plan, Shortened, rows_by_claim
from thriftnet.run import Run


@dataclass(frozen=True)
class SelectionCost:
    """Best test epoch minus last epoch of runs that selected on the test set."""

    recipe: str
    cost: Measured


def find_selection_costs(plan: Plan) -> tuple[tuple[SelectionCost, ...], Measured | None]:
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
        measured = mean_of(shortened, own, "points", "test", "best epoch minus last epoch", test_selected=True)
        if measured is not None:
            found.append(SelectionCost(name, measured))
    if not found:
        return (), None
    everything = {job: cost for _, own in by_recipe.values() for job, cost in own.items()}
    labels = tuple(dict.fromkeys(label for shortened, _ in by_recipe.values() for label in shortened.labels))
    nearest = max((shortened for shortened, _ in by_recipe.values()), key=lambda each: each.faithfulness)
    pooled = mean_of(nearest, everything, "points", "test", "best epoch minus last epoch", labels, test_selected=True)
    return tuple(found), pooled


def selection_cost(run: Run) -> float:
    """Test accuracy of the best test epoch minus that of the last, in points; never negative."""
    curve = [100 * float(row["test_accuracy"]) for row in run.history]
    return max(curve) - curve[-1]
