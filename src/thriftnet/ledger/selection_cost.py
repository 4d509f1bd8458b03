"""What selecting on the test set costs: the best test epoch minus the last, of runs that selected there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Annotated, Any

from pydantic import BaseModel, Field

from thriftnet.ledger.measured import Measured, bounds, mean_of, measured_dict
from thriftnet.ledger.plan import Job, Plan, Row, rows_by_claim
from thriftnet.run import Run


@dataclass(frozen=True)
class SelectionCost:
    """Best test epoch minus last epoch of runs that selected on the test set."""

    recipe: str
    cost: Measured
    values: tuple[float, ...]
    """Of each run, in points."""
    training: str
    """The key of the runs."""

    def as_dict(self) -> dict[str, Any]:
        """For ledger.json; a `JoinedCost` is read from it."""
        return {"cost": measured_dict(self.cost), "values": list(self.values), "training": self.training}


class JoinedCost(BaseModel):
    """What another ledger's json has of it."""

    cost: Measured
    values: Annotated[tuple[float, ...], Field(min_length=1)]
    training: str


def find_selection_costs(
    plan: Plan, joined: Sequence[JoinedCost] = ()
) -> tuple[tuple[SelectionCost, ...], Measured | None]:
    """Of each recipe's most faithful shortening that has finished test-selected runs, and over all of those."""
    by_recipe: dict[str, tuple[Row, SelectionCost]] = {}
    for _, rows in rows_by_claim(plan.rows):
        for row in rows:
            recipe = row.shortened.recipe
            if recipe.training.selection == "test" and recipe.name not in by_recipe:
                found = _cost_here(row) or _cost_elsewhere(row, joined)
                if found is not None:
                    by_recipe[recipe.name] = (row, found)
    if not by_recipe:
        return (), None
    rows = [row for row, _ in by_recipe.values()]
    costs = tuple(cost for _, cost in by_recipe.values())
    nearest = max(by_recipe.values(), key=lambda each: each[0].shortened.faithfulness)[1].cost
    once = {cost.training: cost for cost in costs}.values()  # two names may stand for one training
    values = [value for each in once for value in each.values]
    labels = dict.fromkeys(label for row in rows for label in row.shortened.labels)
    pooled = replace(
        nearest,
        value=fmean(values),
        interval=bounds(values),
        seeds=tuple(dict.fromkeys(seed for each in once for seed in each.cost.seeds)),
        data=", ".join(dict.fromkeys(each.cost.data for each in once)),
        device="; ".join(dict.fromkeys(each.cost.device for each in once)),
        elapsed_s=sum(each.cost.elapsed_s * len(each.values) for each in once) / len(values),
        labels=(*labels, "test-selected", "one seed" if len(values) == 1 else f"{len(values)} runs"),
    )
    return costs, pooled


def _cost_here(row: Row) -> SelectionCost | None:
    values: dict[Job, float | None] = {job: selection_cost(job.run) for job in row.jobs if job.finished}
    measured = mean_of(row.shortened, values, "points", "test", "best epoch minus last epoch", test_selected=True)
    if measured is None:
        return None
    known = tuple(value for value in values.values() if value is not None)
    return SelectionCost(row.shortened.recipe.name, measured, known, row.training)


def _cost_elsewhere(row: Row, joined: Sequence[JoinedCost]) -> SelectionCost | None:
    for each in joined:
        if each.training == row.training:
            return SelectionCost(row.shortened.recipe.name, each.cost, each.values, each.training)
    return None


def selection_cost(run: Run) -> float:
    """Test accuracy of the best test epoch minus that of the last, in points; never negative."""
    curve = [100 * float(row["test_accuracy"]) for row in run.history]
    return max(curve) - curve[-1]
