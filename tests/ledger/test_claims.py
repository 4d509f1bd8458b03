"""The packaged claims hold together, and a file that does not is refused with its place."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.ledger.conftest import CLAIMS
from thriftnet import recipe as recipes
from thriftnet.errors import RecipeError, UserError
from thriftnet.ledger.audit import LAYER_TABLES, corrections, read_rows
from thriftnet.ledger.claims import (
    AccuracyClaim,
    AuditClaim,
    CurveClaim,
    Direction,
    load_claims,
    side_recipe,
    training_key,
)
from thriftnet.models.build import check_recipe_network

PACKAGED = load_claims()
ACCURACIES = {claim.id: claim for claim in PACKAGED.claim if isinstance(claim, AccuracyClaim)}
DIRECTIONS = {direction.id: direction for direction in PACKAGED.direction}

AMP = {
    "perturbation.name", "perturbation.epsilon", "perturbation.inner_steps", "perturbation.inner_lr",
    "perturbation.eta", "perturbation.start", "perturbation.batchnorm",
}  # fmt: skip
BATCH = {"training.batch_size", "training.evaluation_batch_size"}
STAGES = {"model.widths", "model.blocks", "model.strides"}
DIFFERING = {
    "tirumalasetty-amp-equal-epochs": AMP,
    "tirumalasetty-amp-equal-time": AMP | {"training.epochs"},
    "tirumalasetty-amp-as-run": AMP | {"optimizer.lr", "optimizer.weight_decay"},
    "tirumalasetty-amp-each-epoch": AMP | {"optimizer.lr", "optimizer.weight_decay"},
    "tirumalasetty-amp-fgsm": AMP,
    "tirumalasetty-amp-pgd": AMP,
    "tirumalasetty-amp-sharpness": AMP,
    "tirumalasetty-amp-time": AMP,
    "liu-adam-sgd": {"optimizer.name", "optimizer.weight_decay"},
    "li-gelu-relu-adam": {"model.activation"},
    "li-adam-sgd-gelu": {"optimizer.name", "optimizer.lr"},
    "li-gelu-relu-sgd": {"model.activation"},
    "li-adam-sgd-relu": {"optimizer.name", "optimizer.lr"},
    "liu-rate-high": {"optimizer.lr"},
    "liu-rate-low": {"optimizer.lr"},
    "liu-rate-low-early": {"optimizer.lr"},
    "liu-batch-512": BATCH,
    "liu-batch-256": BATCH,
    "liu-kernel-early": {"model.stem.kernel"},
    "liu-kernel": {"model.stem.kernel"},
    "liu-stages": STAGES,
    "liu-stages-early": STAGES,
    "liu-blocks": {"model.blocks"},
    "liu-smoothness": BATCH | {"half_periods_per_epoch"},
    "liu-smoothness-same-phase": BATCH,
    "xu-augmentation": {"augment.ops", "augment.concatenate_originals"},
    "xu-augmentation-equal-updates": {"augment.ops", "augment.concatenate_originals", "training.epochs"},
    "ramavath-one-cycle-constant": {"schedule.name", "schedule.cycle_momentum"},
    "ramavath-one-cycle-cosine": {"schedule.name", "schedule.cycle_momentum"},
    "li-cutout": {"augment.ops"},
    "li-vertical-flip": {"augment.ops"},
}
"""In what the two sides of every direction differ; what the question leaves out, its `note` says."""


def test_every_printed_accuracy_of_liu_is_claimed() -> None:
    printed = {int(row["Model"]): float(row["Acc(%)"]) for row in read_rows("liu-trials")}
    claimed = {number: ACCURACIES[f"liu-trial-{number}-accuracy"].claimed for number in range(9)}
    assert claimed == {number: (accuracy,) for number, accuracy in printed.items()}


def test_every_printed_accuracy_of_xu_is_claimed() -> None:
    rows = {row["Model ->"]: row for row in read_rows("xu-comparison")}
    for column, recipe in (("ResNet18", "xu-resnet18"), ("ResNetLarge", "xu-resnetlarge")):
        for row, claim in (("Final Test Accuracy", "accuracy"), ("Final Train Accuracy", "train")):
            printed = float(rows[row][column].removesuffix("%"))
            assert ACCURACIES[f"{recipe}-{claim}"].claimed == (printed,)


def test_every_claimed_accuracy_of_a_paper_recipe_is_in_the_ledger() -> None:
    """A recipe's `expect` and the ledger claim the same."""
    for name in recipes.names():
        expect = recipes.load(name).expect
        expected = {"test": expect.claimed_test_accuracy, "validation": expect.claimed_validation_accuracy}
        own = [claim for claim in ACCURACIES.values() if claim.recipe == name and claim.split != "train"]
        for claim in own:
            assert expected[claim.split] in (None, *claim.claimed[-1:]), name


def test_every_experiment_of_a_paper_is_a_row() -> None:
    """Also those of which no number is printed; two names of one training are one experiment."""
    experiments = {training_key(recipes.load(name)) for name in recipes.names() if recipes.load(name).paper}
    assert {training_key(recipes.load(claim.recipe)) for claim in ACCURACIES.values()} == experiments
    without = {claim.recipe for claim in ACCURACIES.values() if not claim.claimed}
    assert without == {"li-relu-sgd", "li-relu-adam", "li-gelu-sgd"}


def test_every_printed_table_and_contradiction_is_claimed() -> None:
    audits = [claim for claim in PACKAGED.claim if isinstance(claim, AuditClaim)]
    assert {claim.table for claim in audits} - {None} == set(LAYER_TABLES)
    assert {claim.contradiction for claim in audits} - {None} == {each.id for each in corrections().contradiction}


@pytest.mark.parametrize("claim", [each for each in PACKAGED.claim if isinstance(each, AccuracyClaim | CurveClaim)])
def test_rows_run_what_their_paper_ran(claim: AccuracyClaim | CurveClaim) -> None:
    recipe = recipes.load(claim.recipe)
    authors = {paper.id: paper.authors for paper in PACKAGED.paper}
    assert recipe.paper == authors[claim.paper]
    if claim.selection == "test-selected":
        assert recipe.training.selection == "test"


@pytest.mark.parametrize("direction", PACKAGED.direction, ids=lambda direction: direction.id)
def test_sides_of_a_direction_are_networks_within_budget_and_sealed(direction: Direction) -> None:
    for side in (direction.a, direction.b):
        recipe = side_recipe(side)
        check_recipe_network(recipe)
        assert recipe.training.selection == "validation"
        assert recipe.expect.parameters is None


def test_directions_change_what_they_say_and_nothing_else() -> None:
    assert {direction.id: differing(direction) for direction in PACKAGED.direction} == DIFFERING


def differing(direction: Direction) -> set[str]:
    """Recipe keys, all of the operations as one, and what is set in steps of the data at hand."""
    found = recipes.differences(side_recipe(direction.a), side_recipe(direction.b))
    keys = {re.sub(r"\.ops\.\d.*", ".ops", key) for key, _, _ in found} - {"paper", "summary"}
    same_swings = direction.a.half_periods_per_epoch == direction.b.half_periods_per_epoch
    return keys if same_swings else {*keys, "half_periods_per_epoch"}


@pytest.mark.parametrize(("name", "taken_out"), [("li-cutout", "cutout"), ("li-vertical-flip", "vertical_flip")])
def test_one_operation_is_taken_out_and_the_others_stay(name: str, taken_out: str) -> None:
    ops, others = (side_recipe(side).augment.ops for side in (DIRECTIONS[name].a, DIRECTIONS[name].b))
    assert len(others) == len(ops) - 1
    assert others == tuple(op for op in ops if op.op != taken_out)


def test_without_augmentation_there_is_no_operation() -> None:
    for name in ("xu-augmentation", "xu-augmentation-equal-updates"):
        assert side_recipe(DIRECTIONS[name].b).augment.ops == ()


def test_questions_fit_beside_the_figure() -> None:
    """The forest plot cuts what is longer, and two questions cut alike could not be told apart."""
    questions = [direction.question for direction in PACKAGED.direction]
    assert max(map(len, questions)) <= 62
    assert len(set(questions)) == len(questions)


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "claims.toml"
    path.write_text(text.format(selected="a", last="b"), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ('id = "two"', 'id = "three"', "claim two-final: paper = 'two' is not listed"),
        ('directions = ["one-rate", ', "directions = [", "direction 'one-rate' is named by no claim"),
        ('"one-flat"]', '"one-flat", "other"]', "direction 'other' is not defined"),
        ('table = "li-resnet"', 'table = "li-resnets"', "did you mean 'li-resnet'"),
        ('contradiction = "ramavath-optimizer"', 'contradiction = "x"', "contradiction = 'x' is not listed"),
        ('id = "one-table"', 'id = "one-best"', "claim id 'one-best' is given twice"),
        ("claimed = [89.0, 90.0]", "claimed = [90.0, 89.0]", "must rise"),
        ('unit = "%"\nkind = "accuracy"\nrecipe = "{last}"', 'kind = "accuracy"\nrecipe = "{last}"', "go together"),
        ("at_epoch = 1", "", "needs at_epoch"),
        ("claimed_difference = 5.0", "claimed_difference = -5.0", "contradicts 'higher'"),
        ("from_share = 0.5", "threshold = 50.0", "threshold belongs to quantity = 'epochs_to_accuracy'"),
        ("from_share = 0.5", "", "needs from_share"),
        ('kind = "elsewhere"', 'kind = "rumour"', "rumour"),
        ('shifted = "one-best"', 'shifted = "one-plateau"', "shifted = 'one-plateau' is no accuracy with a number"),
        ('claimed = [91.5]\nunit = "%"\n', "", "shifted = 'one-best' is no accuracy with a number"),
        ('kind = "audit"\ntable = "li-resnet"', 'kind = "study"\nstudy = "xu-gird"', "did you mean 'xu-grid'"),
    ],
)
def test_what_does_not_hold_together_is_refused(tmp_path: Path, old: str, new: str, complaint: str) -> None:
    assert old in CLAIMS
    with pytest.raises(RecipeError, match=complaint):
        load_claims(write(tmp_path, CLAIMS.replace(old, new)))


def test_unreadable_files_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="cannot be read"):
        load_claims(tmp_path / "absent.toml")
    with pytest.raises(RecipeError, match="cannot be read"):
        load_claims(write(tmp_path, "[[paper"))


def test_one_paper_keeps_its_own_claims() -> None:
    li = PACKAGED.of("li")
    assert {claim.paper for claim in li.claim} == {"li"}
    assert {direction.paper for direction in li.direction} == {"li"}
    with pytest.raises(UserError, match="is named 'ramavat' - did you mean 'ramavath'"):
        PACKAGED.of("ramavat")


def test_one_recipe_keeps_its_accuracies_and_curves_alone() -> None:
    trial = PACKAGED.of("liu-trial-5")
    assert [paper.id for paper in trial.paper] == ["liu"]
    assert [claim.id for claim in trial.claim] == [
        "liu-trial-5-accuracy", "liu-eighty-per-cent", "liu-plateau", "liu-trial-time",
    ]  # fmt: skip
    assert trial.direction == ()
    with pytest.raises(UserError, match="is named 'liu-trial-9' - did you mean 'liu-trial-"):
        PACKAGED.of("liu-trial-9")


@pytest.mark.parametrize("name", [name for name in recipes.names() if recipes.load(name).paper])
def test_every_recipe_of_a_paper_has_rows(name: str) -> None:
    own = PACKAGED.of(name).claim
    keys = {training_key(recipes.load(claim.recipe)) for claim in own if isinstance(claim, AccuracyClaim | CurveClaim)}
    assert keys == {training_key(recipes.load(name))}
    assert any(isinstance(claim, AccuracyClaim) for claim in own)


def test_another_name_of_the_same_training_gives_the_same_rows() -> None:
    assert PACKAGED.of("liu-4x2") == PACKAGED.of("liu-trial-5")


@pytest.mark.parametrize("name", [name for name in recipes.names() if not recipes.load(name).paper])
def test_a_recipe_of_no_paper_is_sent_to_train(name: str) -> None:
    with pytest.raises(UserError, match=f"no paper claims anything of the recipe {name}, so `thriftnet train` trains"):
        PACKAGED.of(name)


def test_an_operation_that_is_not_there_cannot_be_taken_out() -> None:
    side = DIRECTIONS["li-cutout"].b.model_copy(update={"without": ("trivial_augment",)})
    with pytest.raises(RecipeError, match="no operation 'trivial_augment'"):
        side_recipe(side)
