"""Study files: what they resolve to and what they refuse."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from tests.tuning.conftest import GRID, RANDOM, Place
from thriftnet import recipe as recipes
from thriftnet.errors import RecipeError, StudyError
from thriftnet.tuning import config
from thriftnet.tuning.config import load
from thriftnet.tuning.study import planned_trials

STUDIES = Path(config.__file__).parents[1] / "studies"


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (("recipe =", 'objective = "test_accuracy"\nrecipe ='), r"objective.*'test_accuracy' cannot be the objective"),
        (("trials = 4\n", ""), "a study needs an end"),
        (('name = "random"', 'name = "grid"'), r"belongs to name = 'random' or 'tpe'"),
        (("seed = 3", "startup_trials = 2"), "startup_trials belongs to name = 'tpe'"),
        (('name = "random"', 'name = "rendom"'), "did you mean 'random'"),
        (("trials = 4", "trails = 4"), "unknown key trails = 4 - did you mean 'trials'"),
        (("log = true", "logs = true"), r"unknown key space\.optimizer\.lr\.logs"),
        (
            ("optimizer.lr =", "optimizer.learning_rate ="),
            r"space\.optimizer\.learning_rate cannot work: .* unknown key",
        ),
        (("optimizer.lr =", "optimizer.momentun ="), "did you mean 'momentum'"),
        (("low = 0.001, high = 0.1, log = true", "low = -2.0, high = -1.0"), "cannot work"),
        (("low = 0.001, high = 0.1, log = true", "low = 0, high = 1"), "whole numbers only.*write low = 0.0"),
        (("optimizer.lr =", "training.selection ="), "training.selection cannot be searched: it decides which split"),
        (("optimizer.lr =", "training.split_seed ="), "cannot be compared"),
        (("optimizer.lr =", "runtime.threads ="), "says nothing of what is trained"),
        (
            ("[space]", '[pruning]\nname = "median"\nreduction_factor = 3\n[space]'),
            "belongs to name = 'successive_halving'",
        ),
        (("trials = 4", 'trials = 4\nconstraints = ["parameters is small"]'), "is not a comparison"),
        (
            ("trials = 4", 'trials = 4\nconstraints = ["paramters <= 3"]'),
            "there is no paramters - did you mean 'parameters'",
        ),
        (("trials = 4", "trials = "), "is not valid TOML"),
    ],
)
def test_what_cannot_work_is_refused(place: Place, change: tuple[str, str], complaint: str) -> None:
    assert change[0] in RANDOM
    with pytest.raises(StudyError, match=complaint) as caught:
        place.study(RANDOM.replace(*change))
    assert "\n" not in str(caught.value)


def test_names_are_found_or_the_nearest_is_named(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="did you mean 'xu-grid'"):
        load("xu-gird")
    with pytest.raises(StudyError, match="cannot be read"):
        load(str(tmp_path / "absent.toml"))
    with pytest.raises(StudyError, match=r"belongs to sampler\.name"):
        load("xu-grid", trials=3)


def test_a_recipe_that_selects_on_the_test_split_is_made_honest_and_says_so(place: Place) -> None:
    text = GRID + '[overrides]\ntraining.selection = "test"\ndata.validation_images = 0\n'
    study = place.study(text)
    assert study.base.training.selection == "validation"
    assert study.base.data.validation_images is None
    assert any("selects on the test split" in note and "honest protocol" in note for note in study.notes)


def test_validation_images_that_are_set_stay(place: Place) -> None:
    text = GRID + '[overrides]\ntraining.selection = "test"\n'
    assert place.study(text, changes=["data.validation_images=12"]).base.data.validation_images == 12
    assert place.study(text + "data.validation_images = 12\n").base.data.validation_images == 12


def test_a_key_is_searched_or_set(place: Place) -> None:
    with pytest.raises(StudyError, match=r"optimizer\.lr stands in space and in overrides"):
        place.study(GRID + "[overrides]\noptimizer.lr = 0.5\n")


def test_a_recipe_without_validation_images_gets_some_and_says_so(place: Place) -> None:
    study = place.study(GRID + '[overrides]\ntraining.selection = "last"\ndata.validation_images = 0\n')
    assert study.base.data.validation_images is None
    assert any("holds no validation images out" in note for note in study.notes)


def test_a_key_that_is_set_is_not_searched(place: Place) -> None:
    study = place.study(GRID, changes=["optimizer.lr=0.5", "training.epochs=1"])
    assert list(study.config.space) == ["optimizer.momentum"]
    assert (study.base.optimizer.lr, study.base.training.epochs) == (0.5, 1)
    assert study.notes == ("optimizer.lr is fixed at 0.5 and not searched",)
    with pytest.raises(StudyError, match="every key of its space is fixed"):
        place.study(GRID, changes=["optimizer.lr=0.5", "optimizer.momentum=0"])
    with pytest.raises(RecipeError, match="did you mean 'epochs'"):
        place.study(GRID, changes=["training.epoch=1"])


def test_overrides_of_the_network_drop_the_papers_claims(place: Place) -> None:
    text = GRID.replace("tiny.toml", "xu-resnetlarge") + "[overrides]\nmodel.stem.width = 8\n"
    assert place.study(text).base.expect.parameters is None


@pytest.mark.parametrize("text", [GRID, RANDOM])
def test_the_resolved_study_reads_back_the_same(place: Place, text: str) -> None:
    study = place.study(text + "[overrides]\ntraining.epochs = 3\n", changes=["optimizer.nesterov=false"])
    copy = place.folder / "copy"
    copy.mkdir()
    (copy / "study.toml").write_text(study.to_toml(), encoding="utf-8")
    (copy / "recipe.toml").write_text(recipes.to_toml(study.base), encoding="utf-8")
    again = load(str(copy / "study.toml"))
    ignored = {"recipe", "overrides"}
    assert again.config.model_dump(exclude=ignored) == study.config.model_dump(exclude=ignored)
    assert recipes.content_hash(again.base) == recipes.content_hash(study.base)


class TestPackaged:
    def test_xu_searches_learning_rate_and_momentum_on_at_least_4_by_4(self) -> None:
        study = load("xu-grid")
        assert list(study.config.space) == ["optimizer.lr", "optimizer.momentum"]
        assert all(len(axis.values or ()) >= 4 for axis in study.config.space.values())
        assert planned_trials(study) == 16
        assert (study.base.name, study.base.expect.parameters, study.notes) == ("xu-resnetlarge", 4_903_242, ())
        assert study.base.data.validation_images == 5_000

    def test_ramavath_sweeps_what_the_paper_names_with_pruning(self) -> None:
        study = load("ramavath-sweep")
        assert set(study.config.space) == {
            "training.batch_size",
            "optimizer.lr",
            "training.epochs",
            "optimizer.weight_decay",
            "optimizer.clip_value",
        }
        assert (planned_trials(study) or 0) >= 30
        assert study.config.pruning is not None
        assert (study.config.objective, study.config.maximize) == ("validation_loss", False)
        assert study.config.space["training.epochs"].values == (10, 20, 30)
        assert study.config.space["optimizer.lr"].values == (0.001, 0.01, 0.1)

    @pytest.mark.parametrize("name", config.names())
    def test_can_be_made_short(self, name: str) -> None:
        study = load(name, ["training.epochs=2", "data.train_images=2000"])
        assert (study.base.training.epochs, study.base.data.train_images) == (2, 2000)
        assert "training.epochs" not in study.config.space

    @pytest.mark.parametrize("name", config.names())
    def test_every_value_says_where_it_comes_from(self, name: str) -> None:
        text = (STUDIES / f"{name}.toml").read_text(encoding="utf-8")
        header = [line for line in text.splitlines() if line.startswith("#")]
        assert header[-1] == f"# thriftnet study run {name} --data PATH"
        values = [line for line in text.splitlines() if re.match(r"[\w.]+ = ", line)]
        exempt = ("paper =", "summary =")
        untagged = [
            line
            for line in values
            if not line.startswith(exempt) and not re.search(r"# (paper|code|chosen)(: \S.*)?$", line)
        ]
        assert untagged == []
        assert len(values) > 5


def test_every_field_is_explained() -> None:
    def unexplained(section: Any) -> list[str]:
        return [name for name, entry in section.model_fields.items() if not entry.description]

    for section in (config.StudyConfig, config.PruningConfig, config.Axis):
        assert set(unexplained(section)) <= {"sampler"}


def test_a_shorter_and_narrower_study_says_so_and_never_of_what_is_searched() -> None:
    study = load("xu-grid", scale=0.5, width=0.25)
    assert study.base.reduced == "5 of 10 epochs, 0.25 of every width"
    assert "reduced: 5 of 10 epochs, 0.25 of every width" in study.notes
    assert study.base.model.widths == (16, 32, 64, 128)
    with pytest.raises(StudyError, match=r"searches training\.epochs, which --scale 0\.5 would change as well"):
        load("ramavath-sweep", scale=0.5)
    with pytest.raises(RecipeError, match=r"--set training\.epochs and --scale would both set training\.epochs"):
        load("ramavath-sweep", ["training.epochs=10"], scale=0.5)
    assert load("ramavath-sweep", ["training.epochs=10"]).base.training.epochs == 10
