"""What the five papers claim, and the pairs of trainings that test their directions: two TOML files, strictly typed.

A claim has its place in the paper and how its number was selected. A direction is a pair of recipes, A and B, a measure
and the sign that the paper claims of A - B.
"""

from __future__ import annotations

import tomllib
from collections.abc import Set
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import pydantic
from pydantic import Field, model_validator

from thriftnet import recipe as recipes
from thriftnet.config import ExpectConfig, RecipeConfig, Section
from thriftnet.errors import RecipeError, UserError, nearest
from thriftnet.evaluation.adversarial import AttackConfig
from thriftnet.ledger.audit import LAYER_TABLES, corrections
from thriftnet.storage import why_refused
from thriftnet.tuning.config import names as study_names

Protocol = Literal["paper", "honest"]
Selection = Literal["test-selected", "last epoch", "validation", "custom test", "not said", "none"]
PairMeasure = Literal[
    "accuracy", "early_accuracy", "worst_lead", "roughness", "epoch_time", "adversarial_accuracy", "sharpness"
]
CurveQuantity = Literal["epochs_to_accuracy", "minutes", "late_gain", "generalization_gap"]

KEY_LENGTH = 8
"""Hexadecimal digits of a training's key, with which the name of its folder ends."""
PAIR_UNITS: dict[str, str] = {
    "accuracy": "points",
    "early_accuracy": "points",
    "worst_lead": "points",
    "roughness": "points an epoch",
    "epoch_time": "% of B's time",
    "adversarial_accuracy": "points",
    "sharpness": "nats",
}


class Paper(Section):
    """One of the five."""

    id: str
    authors: str
    title: str


class Claim(Section):
    """What every claim has."""

    id: str
    paper: str
    place: str
    """Section, table or figure."""
    statement: str
    """In our own words."""
    selection: Selection
    """How the paper came to its number."""
    claimed: Annotated[tuple[float, ...], Field(strict=False, max_length=2)] = ()
    """The number, or the lowest and highest of a range; absent where none is given."""
    unit: str = ""

    @property
    def claimed_text(self) -> str:
        """The claimed number with its unit, or a dash."""
        return f"{' to '.join(f'{value:g}' for value in self.claimed)} {self.unit}" if self.claimed else "–"

    @model_validator(mode="after")
    def _with_unit(self) -> Self:
        if bool(self.claimed) != bool(self.unit):
            raise ValueError("claimed and unit go together; give both or neither")
        if list(self.claimed) != sorted(self.claimed):
            raise ValueError(f"claimed = {list(self.claimed)} must rise")
        return self


class AccuracyClaim(Claim):
    """An accuracy after a full training, in per cent; without a number where the paper trained it and prints none."""

    kind: Literal["accuracy"]
    recipe: str
    split: Literal["test", "validation", "train"] = "test"

    @property
    def measured_as(self) -> str:
        """What is read from a run: a number of another ledger is taken for the same alone."""
        return f"{self.split} accuracy"


class CurveClaim(Claim):
    """Something about how a training goes, read from its epochs."""

    kind: Literal["curve"]
    recipe: str
    protocol: Protocol = "paper"
    """`honest` where the claim needs a validation curve that the paper's own protocol does not draw."""
    quantity: CurveQuantity
    threshold: Annotated[float, Field(gt=0.0, le=100.0)] | None = None
    """`epochs_to_accuracy`: the accuracy to reach, in per cent."""
    from_share: Annotated[float, Field(gt=0.0, lt=1.0)] | None = None
    """`late_gain`: share of the epochs after which the gain of the best later epoch is counted."""

    @property
    def measured_as(self) -> str:
        """As of an accuracy."""
        known = [value for value in (self.threshold, self.from_share) if value is not None]
        return " ".join([self.quantity, *(f"{value:g}" for value in known)])

    def inapplicable(self) -> dict[str, str]:
        owners = {"threshold": "epochs_to_accuracy", "from_share": "late_gain"}
        return {field: f"quantity = {name!r}" for field, name in owners.items() if self.quantity != name}

    @model_validator(mode="after")
    def _complete(self) -> Self:
        needed = {"epochs_to_accuracy": "threshold", "late_gain": "from_share"}.get(self.quantity)
        if needed is not None and getattr(self, needed) is None:
            raise ValueError(f"quantity = {self.quantity!r} needs {needed}")
        return self


class DirectionClaim(Claim):
    """A is better than B; `directions` say on what it is tested."""

    kind: Literal["direction"]
    directions: Annotated[tuple[str, ...], Field(strict=False, min_length=1)]


class AuditClaim(Claim):
    """What a printed table says, or a sentence that a table contradicts: settled by arithmetic, without training."""

    kind: Literal["audit"]
    table: str | None = None
    contradiction: str | None = None

    @model_validator(mode="after")
    def _one_subject(self) -> Self:
        if (self.table is None) == (self.contradiction is None):
            raise ValueError("an audit has a table or a contradiction; give one")
        if self.table is not None and self.table not in LAYER_TABLES:
            raise ValueError(f"table = {self.table!r} is not a printed layer table{nearest(self.table, LAYER_TABLES)}")
        known = [each.id for each in corrections().contradiction]
        if self.contradiction is not None and self.contradiction not in known:
            raise ValueError(
                f"contradiction = {self.contradiction!r} is not listed{nearest(self.contradiction, known)}"
            )
        return self


class StudyClaim(Claim):
    """A search over settings, which the packaged `study` runs; its result is read from the ledger's folder."""

    kind: Literal["study"]
    study: str

    @model_validator(mode="after")
    def _packaged(self) -> Self:
        if self.study not in study_names():
            raise ValueError(f"study = {self.study!r} is not packaged{nearest(self.study, study_names())}")
        return self


class ElsewhereClaim(Claim):
    """What no training and no table here can settle; `measured_by` says what comes nearest."""

    kind: Literal["elsewhere"]
    measured_by: str
    shifted: str | None = None
    """The claimed accuracy on clean images whose runs, where `evaluate --shift` has measured them, are held against
    this."""


AnyClaim = Annotated[
    AccuracyClaim | CurveClaim | DirectionClaim | AuditClaim | StudyClaim | ElsewhereClaim,
    Field(discriminator="kind"),
]


class Side(Section):
    """One of the two trainings that a direction compares."""

    label: str
    recipe: str
    changes: dict[str, Any] = Field(default_factory=dict)
    """Tables of fields that differ from the recipe's, as in its TOML file; `none` takes a field or a table away."""
    without: Annotated[tuple[str, ...], Field(strict=False)] = ()
    """Operations that are taken out of the recipe's augmentation."""
    epochs_factor: Annotated[float, Field(gt=0.0)] = 1.0
    """Times the recipe's epochs: 2 beside a recipe of two passes a step is about equal time."""
    half_periods_per_epoch: Annotated[float, Field(gt=0.0)] | None = None
    """Swings of a cosine in an epoch, whatever the number of its steps; absent: as the recipe says."""


class Direction(Section):
    """A - B in one measure, over the same seeds."""

    id: str
    paper: str
    question: str
    measure: PairMeasure = "accuracy"
    claimed_sign: Literal["higher", "lower"] = "higher"
    """Of A's value against B's."""
    claimed_difference: float | None = None
    """A - B as the paper's numbers have it, in the measure's unit; absent: none is printed."""
    at_epoch: Annotated[int, Field(ge=1)] | None = None
    """`early_accuracy`: after this epoch."""
    attack: AttackConfig | None = None
    """`adversarial_accuracy`: what is done to the images."""
    note: str = ""
    a: Side
    b: Side

    @property
    def sign(self) -> int:
        """+1 where the paper claims A - B > 0, else -1."""
        return 1 if self.claimed_sign == "higher" else -1

    @property
    def unit(self) -> str:
        return PAIR_UNITS[self.measure]

    @property
    def measured_as(self) -> str:
        """What is read from each pair of runs: a difference of another ledger is taken for the same alone."""
        details = [f"epoch {self.at_epoch}"] if self.at_epoch is not None else []
        details += [self.attack.slug] if self.attack is not None else []
        return " ".join([self.measure, *details])

    def inapplicable(self) -> dict[str, str]:
        owners = {"at_epoch": "early_accuracy", "attack": "adversarial_accuracy"}
        return {field: f"measure = {name!r}" for field, name in owners.items() if self.measure != name}

    @model_validator(mode="after")
    def _complete(self) -> Self:
        needed = {"early_accuracy": "at_epoch", "adversarial_accuracy": "attack"}.get(self.measure)
        if needed is not None and getattr(self, needed) is None:
            raise ValueError(f"measure = {self.measure!r} needs {needed}")
        if self.claimed_difference is not None and self.claimed_difference * self.sign < 0:
            raise ValueError(f"claimed_difference = {self.claimed_difference:g} contradicts {self.claimed_sign!r}")
        return self


class Claims(Section):
    """claims.toml and directions.toml together; the order of each file is that of the page and of training."""

    paper: Annotated[tuple[Paper, ...], Field(strict=False, min_length=1)]
    claim: Annotated[tuple[AnyClaim, ...], Field(strict=False, min_length=1)]
    direction: Annotated[tuple[Direction, ...], Field(strict=False)] = ()

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        papers = {paper.id for paper in self.paper}
        for what, entries in (("claim", self.claim), ("direction", self.direction)):
            ids = [entry.id for entry in entries]
            twice = {each for each in ids if ids.count(each) > 1}
            if twice:
                raise ValueError(f"{what} id {min(twice)!r} is given twice")
            for entry in entries:
                if entry.paper not in papers:
                    raise ValueError(f"{what} {entry.id}: paper = {entry.paper!r} is not listed")
        tested = {direction.id for direction in self.direction}
        accuracies = {claim.id for claim in self.claim if isinstance(claim, AccuracyClaim) and claim.claimed}
        for claim in self.claim:
            if isinstance(claim, ElsewhereClaim) and claim.shifted is not None and claim.shifted not in accuracies:
                raise ValueError(f"claim {claim.id}: shifted = {claim.shifted!r} is no accuracy with a number")
        named = {each for claim in self.claim if isinstance(claim, DirectionClaim) for each in claim.directions}
        if named != tested:
            odd = min(named ^ tested)
            raise ValueError(f"direction {odd!r} is {'not defined' if odd in named else 'named by no claim'}")
        return self

    def of(self, name: str) -> Claims:
        """One paper's; the accuracies and curves of one recipe, whatever name they call its training; or `all`.

        Raises UserError for an unknown name, or a recipe that no paper claims anything of.
        """
        if name == "all":
            return self
        papers = [each.id for each in self.paper]
        if name in papers:
            return self.of_papers({name})
        rows = [each for each in self.claim if isinstance(each, AccuracyClaim | CurveClaim)]
        named = {each.recipe for each in rows}
        if name not in named and name in recipes.names():
            key = training_key(recipes.load(name))
            names = {each for each in named if training_key(recipes.load(each)) == key}
        else:
            names = named & {name}
        own = tuple(each for each in rows if each.recipe in names)
        if own:
            return Claims(paper=tuple(each for each in self.paper if each.id == own[0].paper), claim=own)
        options = f"give one of {', '.join(papers)}, a recipe of theirs, or all"
        if name in recipes.names():
            raise UserError(f"no paper claims anything of the recipe {name}, so `thriftnet train` trains it; {options}")
        near = nearest(name, [*papers, *named, *recipes.names()])
        raise UserError(f"no paper and no recipe of theirs is named {name!r}{near}; {options}")

    def of_papers(self, papers: Set[str]) -> Claims:
        """All of these papers'."""
        return Claims(
            paper=tuple(each for each in self.paper if each.id in papers),
            claim=tuple(each for each in self.claim if each.paper in papers),
            direction=tuple(each for each in self.direction if each.paper in papers),
        )


def load_claims(path: Path | None = None) -> Claims:
    """The packaged claims, or those of one TOML file that holds papers, claims and directions.

    Raises RecipeError for a file that cannot be read or does not hold together.
    """
    try:
        if path is not None:
            tables = recipes.parse_toml(path.read_text(encoding="utf-8-sig"))
        else:
            folder = resources.files("thriftnet.ledger")
            tables = {}
            for name in ("claims.toml", "directions.toml"):
                tables |= tomllib.loads((folder / name).read_text(encoding="utf-8"))
        return Claims.model_validate(tables)
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise RecipeError(f"claims: {place}: {first['msg'].removeprefix('Value error, ')}") from None
    except (OSError, ValueError) as error:
        raise RecipeError(f"claims {path} cannot be read: {why_refused(error) or error}") from None


def training_key(recipe: RecipeConfig) -> str:
    """KEY_LENGTH hexadecimal digits over all that training depends on but the seed: not over names and claims."""
    unnamed = dict.fromkeys(("name", "paper", "summary", "reduced"), "")
    plain = recipe.model_copy(update={**unnamed, "expect": ExpectConfig()})
    return recipes.content_hash(recipes.with_changes(plain, {"training": {"seed": 0}}))[:KEY_LENGTH]


def side_recipe(side: Side) -> RecipeConfig:
    """The recipe of one side at full length, under the honest protocol, without what the paper printed of its network.

    Raises RecipeError for an unknown recipe or a change that does not fit it.
    """
    recipe = recipes.honest(recipes.load(side.recipe))
    tables: dict[str, Any] = {**side.changes, "expect": recipes.ABSENT}
    recipe = recipes.with_changes(recipe, tables)
    changes: dict[str, dict[str, Any]] = {
        "training": {"epochs": max(1, round(recipe.training.epochs * side.epochs_factor))}
    }
    if side.without:
        operations = recipe.model_dump(exclude_unset=True)["augment"]["ops"]
        absent = set(side.without) - {each["op"] for each in operations}
        if absent:
            raise RecipeError(f"recipe {side.recipe} has no operation {min(absent)!r} that could be taken out")
        changes["augment"] = {"ops": [each for each in operations if each["op"] not in side.without]}
    return recipes.with_changes(recipe, changes)
