"""Ledgers written elsewhere: by another machine, or of runs whose folders are gone. What they measured stands here too.

`OUT/joined/NAME.json` is the ledger.json of such a folder, as it is. Its numbers are taken where a training that is
planned today is theirs, by the key of the training; verdicts and differences are found anew, by the claims of today.
"""

from __future__ import annotations

import re
from codecs import BOM_UTF8
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Self

from pydantic import BaseModel, Field, ValidationError, field_validator, model_validator

from thriftnet.errors import RunFolderError, UserError
from thriftnet.ledger.claims import KEY_LENGTH, Claims
from thriftnet.ledger.directions import JoinedDirection
from thriftnet.ledger.plan import DataShape, Pair, Plan, Request, Row
from thriftnet.ledger.rows import JoinedRow
from thriftnet.ledger.runs import JobState
from thriftnet.ledger.selection_cost import JoinedCost

FOLDER = "joined"
"""In the ledger's own folder."""
MOST_BYTES = 64 * 2**20
"""Of a file; the whole ledger of the five papers has 0.2 MB."""
MOST_REQUESTS = 100
"""Each is planned: a fifth of a second for all claims, three seconds for the first (one core, measured once)."""
MOST = 1e12
"""No number of a ledger is larger; beyond the finite ones differences and means would not be."""


class _Costs(BaseModel):
    recipes: dict[str, JoinedCost]


class _Contents(BaseModel):
    """Of a ledger.json what is read again."""

    data: DataShape
    requests: Annotated[tuple[Request, ...], Field(max_length=MOST_REQUESTS)]
    rows: dict[str, JoinedRow]
    directions: dict[str, JoinedDirection]
    costs: _Costs = Field(alias="cost_of_selecting_on_the_test_set")
    beside: dict[str, str]
    runs: tuple[JobState, ...]

    @field_validator("runs")
    @classmethod
    def _named(cls, runs: tuple[JobState, ...]) -> tuple[JobState, ...]:
        odd = next(
            (run.folder for run in runs if not re.search(rf"-[0-9a-f]{{{KEY_LENGTH}}}/seed-\d+$", run.folder)), None
        )
        if odd is not None:
            raise ValueError(f"folder = {odd!r} is not named as a ledger's runs are")
        return runs

    @model_validator(mode="after")
    def _finite(self) -> Self:
        odd = next((number for number in _numbers(self.model_dump()) if not abs(number) <= MOST), None)
        if odd is not None:
            raise ValueError(f"{odd!s:.20} is no number that a training gives")
        return self


def _numbers(value: object) -> Iterator[float]:
    if isinstance(value, dict | list | tuple):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _numbers(inner)
    elif isinstance(value, float | int):
        yield value


@dataclass(frozen=True)
class JoinedLedgers:
    """All that lie in one folder, in the order of their names."""

    contents: dict[str, _Contents]

    @property
    def requests(self) -> list[Request]:
        return [request for each in self.contents.values() for request in each.requests]

    def rows(self, claim: str) -> list[JoinedRow]:
        """Of an accuracy or a curve, a ledger each."""
        found = [(name, each.rows[claim]) for name, each in self.contents.items() if claim in each.rows]
        return [row.model_copy(update={"joined": name}) for name, row in found]

    def directions(self, direction: str) -> list[JoinedDirection]:
        """Of a direction, a ledger each."""
        found = [
            (name, each.directions[direction]) for name, each in self.contents.items() if direction in each.directions
        ]
        return [each.model_copy(update={"joined": name}) for name, each in found]

    def costs(self) -> list[JoinedCost]:
        """What selecting on the test set cost, of all recipes."""
        return [cost for each in self.contents.values() for cost in each.costs.recipes.values()]

    def beside(self, claim: str) -> str | None:
        """How a study or a shift stands there."""
        for name, each in self.contents.items():
            if claim in each.beside:
                return f"{each.beside[claim]} (joined from {name})"
        return None

    def runs(self, own: Sequence[JobState]) -> list[JobState]:
        """Those that have ended there and not here."""
        ended = ("measured", "diverged")
        found = {run.key: run for run in own if run.state in ended}
        here = len(found)
        for name, each in self.contents.items():
            for run in each.runs:
                if run.state in ended:
                    found.setdefault(run.key, replace(run, asked=False, joined=name))
        return list(found.values())[here:]

    def has(self, wanted: Row | Pair) -> bool:
        """Whether a ledger has the number of `wanted` over as many seeds, so that it needs no run here."""
        if isinstance(wanted, Row):
            return any(each.is_of(wanted) and each.seeds >= len(wanted.jobs) for each in self.rows(wanted.claim.id))
        return any(
            each.is_of(wanted) and len(each.values) >= len(wanted.a_jobs)
            for each in self.directions(wanted.direction.id)
        )

    def left_out(self, plan: Plan) -> tuple[str, ...]:
        """Numbers of which no planned training is: their recipe or their claim has changed since."""
        found = []
        for name, each in self.contents.items():
            for claim, row in each.rows.items():
                if row.seeds and not any(row.is_of(planned) for planned in plan.rows if planned.claim.id == claim):
                    found.append(f"{name}: {claim}")
            for id, direction in each.directions.items():
                if direction.values and not any(
                    direction.is_of(pair) for pair in plan.pairs if pair.direction.id == id
                ):
                    found.append(f"{name}: {id}")
        return tuple(found)

    def summary(self) -> list[str]:
        """A line a ledger."""
        return [
            f"joined {name}: {sum(row.seeds > 0 for row in each.rows.values())} accuracies and curves, "
            f"{sum(bool(direction.values) for direction in each.directions.values())} directions"
            for name, each in self.contents.items()
        ]


NOTHING_JOINED = JoinedLedgers({})


def read_joined(out: Path, shape: DataShape, claims: Claims) -> JoinedLedgers:
    """The ledgers that lie in `out/joined`; none is as good as no such folder.

    Raises RunFolderError for a file that is no ledger of this version, UserError for one of other data or claims.
    """
    contents = {}
    folder = out / FOLDER
    # A folder that may not be read is an error here; to a glob it would be empty.
    for path in sorted(each for each in (folder.iterdir() if folder.is_dir() else ()) if each.suffix == ".json"):
        try:
            if path.stat().st_size > MOST_BYTES:
                raise RunFolderError(f"{path} has over {MOST_BYTES:,} bytes, more than any ledger; remove it")
            found = _Contents.model_validate_json(path.read_bytes().removeprefix(BOM_UTF8))
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(map(str, first["loc"])) or "the file"
            raise RunFolderError(
                f"{path} cannot be joined ({place}: {first['msg']}); put a ledger.json there that this version of "
                "thriftnet wrote, or remove it"
            ) from None
        if found.data != shape:
            raise UserError(
                f"{path} is a ledger of {found.data.text}, and these data are {shape.text}; remove it, or choose "
                "another --out"
            )
        try:
            for request in found.requests:
                claims.of(request.paper)
        except UserError as error:
            raise UserError(f"{path} is a ledger of other claims ({error}); remove it") from None
        contents[path.stem] = found
    return JoinedLedgers(contents)
