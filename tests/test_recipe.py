"""From TOML to a checked recipe, and what is said about a mistake."""

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from thriftnet import recipe as recipes
from thriftnet.config import ExpectConfig
from thriftnet.config.training import TrainingConfig
from thriftnet.errors import RecipeError

MINIMAL = """
[model]
stem = { width = 8 }
widths = [8, 16]
blocks = [1, 1]
strides = [1, 2]
"""


@pytest.fixture
def write(tmp_path: Path) -> Any:
    def write_recipe(text: str, name: str = "mine") -> str:
        path = tmp_path / f"{name}.toml"
        path.write_text(text, encoding="utf-8")
        return str(path)

    return write_recipe


def test_defaults_fill_what_a_file_leaves_out(write: Any) -> None:
    recipe = recipes.load(write(MINIMAL))
    assert recipe.name == "mine"
    assert recipe.model.parameter_budget == 5_000_000
    assert recipe.training.selection == "validation"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[optimizer]\nlrr = 1", "unknown key optimizer.lrr = 1 - did you mean 'lr'?"),
        ("[trainning]\nepochs = 1", "unknown key trainning = {'epochs': 1} - did you mean 'training'?"),
        ("[optimizer]\nlr = 'fast'", "optimizer.lr = 'fast': input should be a valid number"),
        ("[training]\nepochs = 2.5", "training.epochs = 2.5: input should be a valid integer"),
        ("[training]\nepochs = 0", "training.epochs = 0: input should be greater than or equal to 1"),
        ("[training]\ndrop_last = 1", "training.drop_last = 1: input should be a valid boolean"),
        ("[optimizer]\nname = 'adamm'", "did you mean 'adam"),
        ("[optimizer]\nlr = nan", "optimizer.lr = nan"),
        ("[optimizer]\nlr = inf", "optimizer.lr = inf"),
        ("[schedule]\nname = 'constant'\nhalf_period_steps = 3", "half_period_steps belongs to name = 'cosine'"),
        ("[schedule]\nname = 'multi_step'", "needs milestones_epochs"),
        ("[schedule]\nwarmup_epochs = 30", "warmup_epochs = 30 must be less than training.epochs = 30"),
        ("[data]\nvalidation_images = 0", "set data.validation_images or training.selection = 'last'"),
        ("[data]\nmean = [0.5]", "mean and std go together"),
        ("[data]\nimage_side = 8", "data.image_side = 8: input should be greater than or equal to 16"),
        ("[optimizer]\nname = 'adam'\nnesterov = true", "nesterov belongs to name = 'sgd'"),
        ("[augment]\nops = [{ op = 'rotation' }]", "degrees is missing"),
        ("[augment]\nops = [{ op = 'rotation', degree = 3 }]", "did you mean 'degrees'?"),
        ("[augment]\nops = [{ op = 'flip' }]", "'horizontal_flip'"),
        ("[augment]\nops = [{ op = 'affine', scale = [2.0, 1.0] }]", "scale = [2.0, 1.0] must satisfy"),
        ("[model.se]\nreduction = 4", "unknown key model.se"),
        ("[muon]\nmomentum = 0.9", "muon.lr is missing"),
        ("[muon]\nlr = 0.02\nmomentun = 0.9", "unknown key muon.momentun = 0.9 - did you mean 'momentum'?"),
        ("[muon]\nlr = 0.02\nmomentum = 0.0", "set nesterov = false"),
        (
            "[muon]\nlr = 0.02\nnormalize_weights = true\nweight_decay = 0.1",
            "[muon] weight_decay belongs to normalize_weights = false; remove it (--set muon.weight_decay=none)",
        ),
        ("[lookahead]\nalpha = 1.0", "lookahead.alpha = 1.0: input should be less than 1"),
        ("[perturbation]\nname = 'sam'\nepsilon = 0.1", "epsilon belongs to name = 'amp'; remove it"),
        ("[perturbation]\nname = 'sam'\neta = 0.1", "eta belongs to name = 'asam'; remove it"),
        ("[perturbation]\nname = 'asam'\ninner_steps = 2", "inner_steps belongs to name = 'amp'; remove it"),
        ("[perturbation]\nname = 'amp'\nrho = 0.1", "rho belongs to name = 'sam' or 'asam'; remove it"),
        ("[perturbation]\nstart = 1.0", "perturbation.start = 1.0: input should be less than 1"),
        ("[optimizer]\nbias_lr_factor = 0.0", "optimizer.bias_lr_factor = 0.0: input should be greater than 0"),
        ("[schedule]\nname = 'constant'\nfloor_lr = 0.1", "floor_lr belongs to name = 'linear' or 'cosine'"),
        ("[runtime]\nprecision = 'fp8'", "'bf16'"),
        ("[augment]\nops = [{ op = 'rand_augment', magnitude = 31 }]", "magnitude = 31 must be less than bins = 31"),
        ("[augment]\nops = [{ op = 'trivial_augment', bins = 1 }]", "augment.ops.0.bins = 1: input should be greater"),
        ("[augment]\nmix = { name = 'mixup', beta = 0.3 }", "[augment.mix] beta belongs to name = 'ricap'; remove it"),
        ("[augment]\nmix = { name = 'ricap', alpha = 1.0 }", "alpha belongs to name = 'mixup' or 'cutmix'"),
        ("[augment]\nmix = { name = 'mixup', alpha = 0.0 }", "augment.mix.alpha = 0.0"),
        ("[augment]\nmix = { name = 'cutmixup' }", "did you mean 'cutmix'?"),
        (
            "[augment]\nconcatenate_originals = true\nmix = { name = 'mixup' }",
            "[augment] mix belongs to concatenate_originals = false; remove it",
        ),
        (
            "[training]\nprogressive = [{ side_px = 24, until = 0.3 }, { side_px = 16, until = 0.6 }]",
            "the side_px of progressive, [24, 16], must rise from stage to stage",
        ),
        (
            "[training]\nprogressive = [{ side_px = 16, until = 0.6 }, { side_px = 24, until = 0.6 }]",
            "the until of progressive, [0.6, 0.6], must rise from stage to stage",
        ),
        ("[training]\nprogressive = [{ side_px = 16, until = 1.0 }]", "training.progressive.0.until = 1.0"),
        ("[runtime]\nkernels = 'yes'\ncompile = true", "kernels = 'yes' and compile = 'yes' exclude each other"),
        (
            "[expect]\nclaimed_test_accuracy = 90.0\nclaimed_validation_accuracy = 84.5",
            "claimed_test_accuracy and claimed_validation_accuracy exclude each other",
        ),
        ("[runtime]\nkernels = 'yes'\nchannels_last = 'no'", "needs channels_last = 'yes' or 'auto'"),
        ("not toml", "is not valid TOML"),
    ],
)
def test_a_mistake_is_named_with_field_value_and_fix(write: Any, text: str, message: str) -> None:
    with pytest.raises(RecipeError) as caught:
        recipes.load(write(MINIMAL + "\n" + text))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith("recipe mine")


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({"stem": {"width": 8, "kernel": 4}}, "kernel = 4 must be odd"),
        ({"blocks": [1, 1, 1]}, "blocks has 3 stages but strides has 2"),
        ({"widths": [8]}, "widths = [8] must have one value for each of the 2 stages"),
        ({"block": "resnext"}, "widths belongs to block = 'basic', 'preactivation' or 'bottleneck'"),
        ({"block": "resnext", "widths": None}, "needs cardinality and base_width"),
        ({"cardinality": 2}, "cardinality belongs to block = 'resnext'"),
        ({"expansion": 2}, "belongs to block = 'bottleneck'"),
        ({"family": "resnet9"}, "blocks belongs to family = 'resnet'"),
        ({"residual_convs": [1, 1]}, "residual_convs belongs to family = 'resnet9'"),
        ({"pool_first": True}, "pool_first belongs to family = 'resnet9'"),
        ({"block": "preactivation", "expansion": 2}, "expansion belongs to block = 'bottleneck'"),
        ({"stem": {}}, "[model.stem] width is missing; kind = 'conv' needs it"),
        ({"stem": {"width": 8, "bias_epochs": 3}}, "bias_epochs belongs to kind = 'whitening'"),
        ({"stem": {"kind": "whitening", "width": 8}}, "width belongs to kind = 'conv' (whitening: 2 x image channels"),
        ({"stem": {"kind": "whitening", "kernel": 9}}, "kernel = 9 must be at most 8 for kind = 'whitening'"),
        ({"norm_momentum": 0.0}, "model.norm_momentum = 0.0: input should be greater than 0"),
        ({"stochastic_depth": 1.0}, "model.stochastic_depth = 1.0: input should be less than 1"),
        ({"logit_scale": 0.0}, "model.logit_scale = 0.0: input should be greater than 0"),
        ({"dropout": 1.0}, "model.dropout = 1.0: input should be less than 1"),
    ],
)
def test_impossible_networks(model: dict[str, Any], message: str) -> None:
    tables = {"name": "mine", "model": tomllib.loads(MINIMAL)["model"] | model}
    with pytest.raises(RecipeError, match=re.escape(message)):
        recipes.validate(tables, "mine")


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({"stochastic_depth": 0.1}, "stochastic_depth belongs to family = 'resnet'"),
        ({"widths": [8]}, "widths = [8] must have 2 to 5 values"),
        ({"residual_convs": [1]}, "residual_convs = [1] must have one value for each of the 2 stages"),
        ({}, "residual_convs = absent must have one value for each of the 2 stages; it may be absent for 3"),
        ({"residual_convs": []}, "residual_convs = [] must have one value for each of the 2 stages"),
        ({"residual_convs": [1, -1]}, "model.residual_convs.1 = -1: input should be greater than or equal"),
    ],
)
def test_impossible_resnet9(model: dict[str, Any], message: str) -> None:
    tables = {"family": "resnet9", "stem": {"width": 8}, "widths": [8, 16]} | model
    with pytest.raises(RecipeError, match=re.escape(message)):
        recipes.validate({"name": "mine", "model": tables}, "mine")


def test_inherits_one_parent_key_by_key(write: Any) -> None:
    write(MINIMAL + "[optimizer]\nname = 'adam'\nlr = 0.5", "parent")
    child = recipes.load(write("inherits = 'parent'\n[optimizer]\nlr = 0.25", "child"))
    assert (child.optimizer.name, child.optimizer.lr, child.name) == ("adam", 0.25, "child")
    assert recipes.load(write("inherits = 'child'", "grandchild")).optimizer.lr == 0.25
    with pytest.raises(RecipeError, match="3 files at most"):
        recipes.load(write("inherits = 'grandchild'", "deeper"))
    with pytest.raises(RecipeError, match="3 files at most"):
        recipes.load(write("inherits = 'itself'", "itself"))


def test_a_claim_does_not_survive_another_network(write: Any) -> None:
    narrow = "[model]\nwidths = [8, 16, 32, 64]"
    assert recipes.load(write("inherits = 'liu-4x2'\n" + narrow)).expect == ExpectConfig()
    assert recipes.load("liu-4x2", ["model.widths=[8, 16, 32, 64]"]).expect == ExpectConfig()
    assert recipes.load("liu-4x2", ["optimizer.lr=0.1"]).expect.parameters == 2_799_146
    kept = recipes.load("liu-4x2", ["model.widths=[8, 16, 32, 64]", "expect.parameters=5"])
    assert kept.expect == ExpectConfig(parameters=5)


def test_none_takes_an_inherited_value_away(write: Any) -> None:
    text = "inherits = 'liu-4x2'\n[schedule]\nname = 'constant'\n"
    with pytest.raises(RecipeError, match="half_period_steps belongs to name = 'cosine'; remove it"):
        recipes.load(write(text))
    assert recipes.load(write(text + "half_period_steps = 'none'")).schedule.half_period_steps is None
    assert recipes.load("liu-4x2", ["schedule.half_period_steps=none"]).schedule.half_period_steps is None


def test_none_as_a_sections_name_never_brings_the_default_kind_back(write: Any) -> None:
    """Before, `perturbation.name=none` took the word away, the default held, and AMP was trained."""
    complaint = (
        r"perturbation\.name = 'none': input should be 'amp', 'sam' or 'asam'; to do without: --set perturbation=none"
    )
    with pytest.raises(RecipeError, match=complaint):
        recipes.load("tirumalasetty-resnext29-amp", ["perturbation.name=none"])
    with pytest.raises(RecipeError, match=complaint):
        recipes.load(write("inherits = 'tirumalasetty-resnext29-amp'\n[perturbation]\nname = 'none'"))
    assert recipes.load("tirumalasetty-resnext29-amp", ["perturbation=none"]).perturbation is None
    with pytest.raises(RecipeError, match=r"augment\.mix\.name = 'none'.*; to do without: --set augment\.mix=none"):
        recipes.load("liu-4x2", ["augment.mix.name=none"])
    with pytest.raises(RecipeError, match=r"optimizer\.name = 'none': input should be 'sgd', 'adam' or 'adamw'$"):
        recipes.load("liu-4x2", ["optimizer.name=none"])


def test_inherits_a_packaged_recipe(write: Any) -> None:
    mine = recipes.load(write("inherits = 'liu-4x2'\n[training]\nepochs = 3"))
    assert mine.training.epochs == 3
    assert mine.model == recipes.load("liu-4x2").model


def test_what_a_paper_says_of_its_recipe_is_not_inherited_by_another_owners(write: Any) -> None:
    mine = recipes.load(write("inherits = 'liu-4x2'\n[training]\nepochs = 3", "mine"))
    assert (mine.name, mine.paper, mine.summary, mine.expect) == ("mine", "", "", ExpectConfig())
    assert mine.training.selection == "test"
    packaged = recipes.load("liu-4x2")
    assert (packaged.paper, packaged.expect.claimed_test_accuracy) == ("Liu, Douglas, Ji", 91.47)
    assert recipes.load("liu-trial-5").expect == packaged.expect


def test_it_is_inherited_along_the_users_own_files(write: Any) -> None:
    own = "inherits = 'li-resnet'\npaper = 'Mine'\nsummary = 'One'\n"
    write(f"{own}[expect]\nclaimed_test_accuracy = 90.0\nclaim = 'Table 1'", "own")
    child = recipes.load(write("inherits = 'own'\n[optimizer]\nlr = 0.5", "child"))
    assert (child.paper, child.summary) == ("Mine", "One")
    assert child.expect == ExpectConfig(claimed_test_accuracy=90.0, claim="Table 1")


def test_nor_what_a_run_says_of_the_recipe_that_it_was_begun_with(tmp_path: Path, write: Any) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "events.jsonl").touch()
    (run / "recipe.toml").write_text(recipes.to_toml(recipes.load("liu-4x2")), encoding="utf-8")
    child = recipes.load(write(f"inherits = '{run / 'recipe.toml'}'", "child"))
    assert (child.name, child.paper, child.expect) == ("child", "", ExpectConfig())
    again = recipes.load(str(run / "recipe.toml"))
    assert (again.name, again.paper) == ("liu-4x2", "Liu, Douglas, Ji")


def test_a_packaged_file_by_its_path_is_packaged(write: Any) -> None:
    path = Path(recipes.__file__).parent / "recipes" / "liu-4x2.toml"
    assert recipes.load(str(path)) == recipes.load("liu-4x2")
    assert recipes.load(write(f"inherits = '{path}'", "child")).paper == ""


@pytest.mark.parametrize(
    ("override", "value"),
    [
        ("optimizer.lr=0.05", lambda r: r.optimizer.lr == 0.05),
        ("optimizer.name=sgd", lambda r: r.optimizer.name == "sgd"),
        ("optimizer.name = 'sgd'", lambda r: r.optimizer.name == "sgd"),
        ("model.widths=[8, 8, 8, 8]", lambda r: r.model.widths == (8, 8, 8, 8)),
        ("augment.ops.0.degrees=10", lambda r: r.augment.ops[0].degrees == 10),
        ("augment.ops=[]", lambda r: r.augment.ops == ()),
        ("training.ema_decay=0.99", lambda r: r.training.ema_decay == 0.99),
    ],
)
def test_overrides(override: str, value: Any) -> None:
    assert value(recipes.load("liu-4x2", [override]))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optimizer.lr", "not of the form"),
        ("=3", "not of the form"),
        ("optimizer.lrr=3", "did you mean 'lr'?"),
        ("optimizer.lr.x=3", "optimizer.lr is a value, not a table"),
        ("augment.ops.9.degrees=3", "'9' is not an index of a list of 4"),
    ],
)
def test_bad_overrides(override: str, message: str) -> None:
    with pytest.raises(RecipeError) as caught:
        recipes.load("liu-4x2", [override])
    assert message in str(caught.value)


def test_unknown_recipe_names_the_nearest() -> None:
    with pytest.raises(RecipeError, match="no recipe named 'xu-resnet19' - did you mean 'xu-resnet18'"):
        recipes.load("xu-resnet19")


def test_unreadable_files(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="cannot be read: No such file"):
        recipes.load(str(tmp_path / "absent.toml"))
    (tmp_path / "latin.toml").write_bytes(b"name = '\xe9'")
    with pytest.raises(RecipeError, match="not UTF-8"):
        recipes.load(str(tmp_path / "latin.toml"))
    (tmp_path / "huge.toml").write_text("#" * 1_000_001)
    with pytest.raises(RecipeError, match="larger than"):
        recipes.load(str(tmp_path / "huge.toml"))


@pytest.mark.parametrize("name", recipes.names())
def test_toml_round_trip_keeps_every_value(name: str, write: Any) -> None:
    recipe = recipes.load(name)
    again = recipes.load(write(recipes.to_toml(recipe), name))
    assert again == recipe
    assert recipes.content_hash(again) == recipes.content_hash(recipe)


@pytest.mark.parametrize(
    "overrides",
    [
        ["muon.lr=0.02", "optimizer.bias_lr_factor=64.0", "optimizer.linear_lr_factor=0.5"],
        ["muon.lr=0.24", "muon.momentum=0.6", "muon.normalize_weights=true"],
        ["lookahead.steps=3", "schedule.name=linear", "schedule.half_period_steps=none"],
        ["perturbation.name=sam"],
        ["perturbation.name=asam", "perturbation.rho=1.0", "perturbation.start=0.75"],
    ],
)
def test_optional_sections_survive_the_round_trip(overrides: list[str], write: Any) -> None:
    recipe = recipes.load("liu-4x2", overrides)
    again = recipes.load(write(recipes.to_toml(recipe), "liu-4x2"))
    assert again == recipe
    assert recipes.content_hash(again) == recipes.content_hash(recipe)


def test_an_inherited_section_can_be_taken_away(write: Any) -> None:
    write(MINIMAL + "[muon]\nlr = 0.02\n[lookahead]\n", "parent")
    assert recipes.load(write("inherits = 'parent'", "kept")).muon is not None
    child = recipes.load(write("inherits = 'parent'\nmuon = 'none'", "child"), ["lookahead=none"])
    assert (child.muon, child.lookahead) == (None, None)


@pytest.mark.parametrize("mix", ["mixup", "cutmix", "ricap"])
def test_mixing_and_progressive_stages_survive_the_round_trip(mix: str, write: Any) -> None:
    stages = [{"side_px": 16, "until": 0.25}, {"side_px": 24, "until": 0.5}]
    ops = [
        {"op": "alternating_flip"},
        {"op": "trivial_augment", "bins": 11},
        {"op": "rand_augment", "fill": 0.5},
        {"op": "augmix"},
    ]
    changes = {"augment": {"ops": ops, "mix": {"name": mix, "until": 0.5}}, "training": {"progressive": stages}}
    recipe = recipes.with_changes(recipes.load("liu-4x2"), changes)
    again = recipes.load(write(recipes.to_toml(recipe), "liu-4x2"))
    assert again == recipe
    assert recipes.content_hash(again) == recipes.content_hash(recipe)
    assert recipes.load(write(recipes.to_toml(recipe)), ["augment.mix=none"]).augment.mix is None


def test_a_consistency_weight_survives_the_round_trip_and_counts_in_the_hash(write: Any) -> None:
    ops = {"ops": [{"op": "augmix"}]}
    plain = recipes.with_changes(recipes.load("liu-4x2"), {"augment": ops})
    weighted = recipes.with_changes(plain, {"augment": {"consistency_weight": 12.0}})
    assert recipes.load(write(recipes.to_toml(weighted), "liu-4x2")) == weighted
    assert recipes.content_hash(weighted) != recipes.content_hash(plain)
    assert recipes.load(write(recipes.to_toml(weighted)), ["augment.consistency_weight=none"]).augment == plain.augment


@given(st.text(max_size=20).filter(lambda text: text != recipes.ABSENT))  # that word takes a value away
def test_any_text_survives_the_round_trip(text: str) -> None:
    recipe = recipes.with_changes(recipes.load("liu-4x2"), {"expect": {"claim": text}})
    assert tomllib.loads(recipes.to_toml(recipe))["expect"]["claim"] == text


def test_a_whitening_stem_survives_the_round_trip(write: Any) -> None:
    stem = "model.stem={ kind = 'whitening', kernel = 2, bias_epochs = 3 }"
    recipe = recipes.load(write(MINIMAL), [stem, "model.block=preactivation", "model.stochastic_depth=0.1"])
    text = recipes.to_toml(recipe)
    assert 'stem = { kind = "whitening", kernel = 2, bias_epochs = 3 }' in text.splitlines()
    assert recipes.load(write(text, "again")).model == recipe.model


def test_the_hash_sees_values_not_formatting(write: Any) -> None:
    first = recipes.load(write(MINIMAL))
    second = recipes.load(write("# a comment\n" + MINIMAL.replace("stem = { width = 8 }", "stem = {width=8,kernel=3}")))
    assert recipes.content_hash(first) == recipes.content_hash(second)
    assert recipes.content_hash(first) != recipes.content_hash(recipes.load(write(MINIMAL + "[optimizer]\nlr = 0.2")))


def test_a_later_versions_field_changes_no_hash_but_its_other_values_do() -> None:
    class Later(TrainingConfig):
        patience_epochs: int | None = None

    recipe = recipes.load("liu-4x2")
    values = recipe.training.model_dump()
    same = recipe.model_copy(update={"training": Later(**values)})
    other = recipe.model_copy(update={"training": Later(**values, patience_epochs=3)})
    assert recipes.content_hash(same) == recipes.content_hash(recipe) != recipes.content_hash(other)


def test_an_empty_section_is_not_an_absent_one(write: Any) -> None:
    plain, looking = (recipes.load(write(MINIMAL + section)) for section in ("", "[lookahead]\n"))
    assert recipes.content_hash(plain) != recipes.content_hash(looking)


def test_no_two_packaged_recipes_share_a_hash() -> None:
    assert len({recipes.content_hash(recipes.load(name)) for name in recipes.names()}) == len(recipes.names())


@pytest.mark.parametrize(
    ("section", "field", "values"),
    [
        ("training", "label_smoothing", [0.0, 0.1, 0.2]),
        ("optimizer", "name", ["adam", "adamw"]),
        ("augment", "ops", [[], [{"op": "horizontal_flip"}], [{"op": "vertical_flip"}]]),
        ("model", "stem", [{"width": w, "kernel": k} for w, k in [(64, 3), (64, 5), (32, 3)]]),
        ("runtime", "precision", ["auto", "fp32"]),
    ],
)
def test_each_value_has_its_hash(section: str, field: str, values: list[Any]) -> None:
    recipe = recipes.with_changes(recipes.load("liu-4x2"), {"expect": {"claim": "", "parameters": None}})
    changed = [recipes.with_changes(recipe, {section: {field: value}}) for value in values]
    assert len({recipes.content_hash(each) for each in changed}) == len(values)


def test_differences_name_what_differs() -> None:
    found = recipes.differences(recipes.load("liu-4x2"), recipes.load("liu-4x2", ["optimizer.lr=0.5"]))
    assert found == [("optimizer.lr", 0.01, 0.5)]


def test_the_honest_protocol_holds_out_and_seals() -> None:
    paper = recipes.load("liu-4x2")
    honest = recipes.honest(paper)
    assert (paper.data.validation_images, paper.training.selection) == (0, "test")
    assert (honest.data.validation_images, honest.training.selection) == (None, "validation")
    assert honest.optimizer == paper.optimizer


@pytest.mark.parametrize(
    ("file", "overrides", "expected"),
    [
        ("", [], (None, "validation")),
        ("", ["data.validation_images=200"], (200, "validation")),
        ("", ["data={ validation_images = 200 }"], (200, "validation")),
        ("", ["training.selection=last"], (None, "last")),
        ("[data]\nvalidation_images = 200", [], (200, "validation")),
        ("[data]\nvalidation_images = 200", ["data.validation_images=none"], (None, "validation")),
        ("[data]\nvalidation_images = 200\n[training]\nselection = 'last'", [], (200, "last")),
        ("[data]\nvalidation_images = 0\n[training]\nselection = 'test'", [], (None, "validation")),
    ],
)
def test_sealed_replaces_only_what_the_honest_protocol_excludes(
    file: str, overrides: list[str], expected: tuple[int | None, str], write: Any
) -> None:
    recipe = recipes.load(write(f"inherits = 'liu-4x2'\n{file}"), overrides, sealed=True)
    assert (recipe.data.validation_images, recipe.training.selection) == expected


@pytest.mark.parametrize(
    "override", ["training.selection=test", "training={selection='test'}", "data.validation_images=0"]
)
def test_what_the_honest_protocol_excludes_is_refused(override: str) -> None:
    with pytest.raises(RecipeError, match="and --protocol honest exclude each other; leave one of them out"):
        recipes.load("liu-4x2", [override], sealed=True)


@pytest.mark.parametrize("name", recipes.names())
def test_sealed_is_honest_of_a_packaged_recipe(name: str) -> None:
    assert recipes.load(name, sealed=True) == recipes.honest(recipes.load(name))


def test_changes_are_checked_like_a_file() -> None:
    with pytest.raises(RecipeError, match="warmup_epochs"):
        recipes.with_changes(recipes.load("liu-4x2"), {"schedule": {"warmup_epochs": 100.0}})
