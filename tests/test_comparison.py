"""Several seeds with one command, and comparisons from run folders and recipes to a verdict."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import thriftnet
from tests.conftest import Outcome, Trained
from tests.conftest import thriftnet as command
from tests.test_campaign import StopsAfterAnEpoch
from tests.training.conftest import TinySource, tiny_recipe
from thriftnet import api, campaign, comparison
from thriftnet import recipe as recipes
from thriftnet.config import RecipeConfig
from thriftnet.errors import Interrupted, RecipeError, RunFolderError, UserError
from thriftnet.evaluation.per_image import decode_per_image
from thriftnet.inference import Measurement
from thriftnet.training.progress import SilentDisplay
from thriftnet.training.run_folder import RunFolder


@pytest.fixture(scope="module", autouse=True)
def drawn() -> Iterator[list[Measurement]]:
    """What was to be drawn; drawing itself takes longer than everything else here and is tested elsewhere."""
    measured: list[Measurement] = []
    with pytest.MonkeyPatch.context() as patch:
        for module in (api, campaign):
            patch.setattr(module, "draw_training_figures", lambda *_: None)
        patch.setattr(api, "draw_evaluation_figures", lambda *_: None)
        patch.setattr(comparison, "draw_evaluation_figures", measured.append)
        yield measured


@pytest.fixture(scope="module")
def seeds_of_two(tmp_path_factory: pytest.TempPathFactory, shared_run: Trained) -> Path:
    """`good` and `poor`, three and two seeds each, trained; not yet evaluated."""
    folder = tmp_path_factory.mktemp("seeds")
    for name, epochs, count in (("good", 4, 3), ("poor", 1, 2)):
        thriftnet.train_seeds(
            tiny_recipe(training={"epochs": epochs}) , str(shared_run.data), seeds=count, out=folder / name,
            display=SilentDisplay(),
        )  # fmt: skip
    return folder


@pytest.fixture
def two(seeds_of_two: Path, tmp_path: Path) -> Path:
    """A copy for one test."""
    shutil.copytree(seeds_of_two, tmp_path / "two")
    return tmp_path / "two"


def opened(run: Path) -> int:
    return (run / "events.jsonl").read_text().count('"test set opened"')


class TestTrainSeeds:
    def train(self, shared_run: Trained, *arguments: object) -> Outcome:
        return command("train", shared_run.recipe, "--data", shared_run.data, "--epochs", 2, *arguments)

    def test_prints_a_table_with_mean_deviation_and_interval(self, shared_run: Trained, tmp_path: Path) -> None:
        outcome = self.train(shared_run, "--seeds", 3, "--seed", 4, "--out", tmp_path / "runs")
        header, *rows, spread, last = outcome.stdout.splitlines()
        assert last == str(tmp_path / "runs")
        assert header.split() == ["seed", "epochs", "kept", "validation", "accuracy", "run"]
        assert [row.split()[0] for row in rows] == ["4", "5", "6"]
        values = [float(row.split()[3].rstrip("%")) for row in rows]
        stored = [RunFolder(tmp_path / "runs" / f"seed-{n}").read_json("result.json")["selected"] for n in (4, 5, 6)]
        assert values == [round(100 * each["validation_accuracy"], 2) for each in stored]
        exact = [each["validation_accuracy"] for each in stored]
        assert f"mean {np.mean(exact):.2%}, standard deviation {np.std(exact, ddof=1):.2%}" in spread
        assert spread.endswith("(3 seeds; covers other seeds, not other images)")
        assert [line for line in outcome.stderr.splitlines() if line.startswith("tiny, seed")] == [
            "tiny, seed 4 (1 of 3)", "tiny, seed 5 (2 of 3)", "tiny, seed 6 (3 of 3)",
        ]  # fmt: skip

    def test_the_same_command_goes_on(
        self, shared_run: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        recipe, data = tiny_recipe(training={"epochs": 2}), str(shared_run.data)
        whole = thriftnet.train_seeds(recipe, data, seeds=2, out="whole", display=SilentDisplay())
        with pytest.raises(Interrupted):
            thriftnet.train_seeds(recipe, data, seeds=2, display=StopsAfterAnEpoch())
        again = thriftnet.train_seeds(recipe, data, seeds=2, display=SilentDisplay())
        assert re.fullmatch(r"runs/tiny-seeds-[0-9a-f]{8}", str(again.folder))
        assert '"resumed"' in (again.folder / "seed-0" / "events.jsonl").read_text()
        for one, other in zip(whole.runs, again.runs, strict=True):
            assert one.folder.weights_sha256("last") == other.folder.weights_sha256("last")
        told: list[str] = []
        third = thriftnet.train_seeds(recipe, data, seeds=3, display=SilentDisplay(), tell=told.append)
        assert third.folder == again.folder
        assert told == ["tiny, seed 2 (3 of 3)"]

    def test_another_recipe_or_data_set_has_another_folder(self) -> None:
        class Elsewhere(TinySource):
            location = "elsewhere"

        def folder(recipe: RecipeConfig, source: TinySource) -> Path:
            return comparison.default_folder(recipe, source)

        here = folder(tiny_recipe(), TinySource())
        assert folder(tiny_recipe(training={"seed": 7}), TinySource()) == here
        assert folder(tiny_recipe(training={"epochs": 9}), TinySource()) != here
        assert folder(tiny_recipe(), Elsewhere()) != here

    def test_a_link_to_the_data_has_the_same_folder(self, tmp_path: Path, shared_run: Trained) -> None:
        (tmp_path / "link.npz").symlink_to(shared_run.data)
        given = [comparison.open_source(str(path)) for path in (shared_run.data, tmp_path / "link.npz")]
        assert len({comparison.default_folder(tiny_recipe(), source) for source in given}) == 1

    def test_everything_is_looked_at_before_anything_is_trained(self, two: Path, shared_run: Trained) -> None:
        shutil.move(two / "good" / "seed-0", two / "seed-3")
        shutil.move(two / "poor" / "seed-1", two / "good" / "seed-3")
        with pytest.raises(RunFolderError, match=r"seed-3 holds a run of another recipe"):
            thriftnet.train_seeds(
                tiny_recipe(), str(shared_run.data), seeds=4, out=two / "good", display=SilentDisplay()
            )
        assert not (two / "good" / "seed-0").exists()

    def test_one_seed_says_nothing_of_its_spread(self, shared_run: Trained, tmp_path: Path) -> None:
        outcome = self.train(shared_run, "--seeds", 1, "--out", tmp_path / "runs")
        assert "(one seed, so nothing is known of its spread)" in outcome.stdout

    def test_selected_on_the_test_set_it_says_so(self, shared_run: Trained, tmp_path: Path) -> None:
        changes = ("--set", "training.selection=test", "--set", "data.validation_images=0")
        outcome = self.train(shared_run, *changes, "--seeds", 2, "--out", tmp_path / "runs")
        assert "test accuracy (test-selected): mean " in outcome.stdout
        assert "validation accuracy" not in outcome.stdout

    @pytest.mark.parametrize(
        ("arguments", "said"),
        [
            (("--resume", "RUN", "--seeds", 2), "--resume goes on with the run's own recipe; remove --seeds"),
            (
                ("RECIPE", "--seeds", 2, "--out", "RUN"),
                "is a run itself; give --out a folder that several runs can lie",
            ),
        ],
    )
    def test_what_makes_no_sense_is_refused(
        self, shared_run: Trained, arguments: tuple[object, ...], said: str
    ) -> None:
        real = {"RUN": shared_run.path, "RECIPE": shared_run.recipe}
        outcome = command("train", *[real.get(str(each), each) for each in arguments], "--data", shared_run.data)
        assert outcome.status == 2
        assert said in outcome.error

    def test_several_processes_are_refused(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        for name, value in {"RANK": 0, "WORLD_SIZE": 2, "LOCAL_RANK": 0, "LOCAL_WORLD_SIZE": 2}.items():
            monkeypatch.setenv(name, str(value))
        with pytest.raises(UserError, match="start without torchrun"):
            comparison.train_recipe_seeds(tiny_recipe(), TinySource(), tmp_path, [0, 1], SilentDisplay())
        with pytest.raises(UserError, match="start without torchrun"):
            thriftnet.compare([tmp_path, tmp_path])
        assert list(tmp_path.iterdir()) == []


class TestEvaluate:
    def test_stores_what_was_said_of_every_image(self, trained: Trained) -> None:
        measured = thriftnet.evaluate(trained.path)
        path = trained.path / "evaluation-test.safetensors"
        stored = decode_per_image(path.read_bytes(), path)
        assert float(stored.correct.double().mean()) == measured.evaluation.accuracy
        assert stored.labels.tolist() == measured.images.labels.tolist()
        expected = measured.logits.softmax(1)[range(90), measured.images.labels]
        assert stored.true_class_probability.tolist() == pytest.approx(expected.tolist())
        assert stored.location == str(trained.data)
        flipped = thriftnet.evaluate(trained.path, tta="flip")
        assert flipped.path.with_suffix(".safetensors").name == "evaluation-test-tta-flip.safetensors"
        assert flipped.path.with_suffix(".safetensors").is_file()


class TestCompare:
    def test_two_folders_of_seeds(self, two: Path, drawn: list[Measurement]) -> None:
        good, poor = two / "good", two / "poor"
        drawn.clear()
        outcome = command("compare", good, poor, "--html", two / "page.html")
        assert outcome.status == 0, outcome.stderr
        assert outcome.last_line == str(two / "page.html")
        expected = [f"{run}: the sealed test split is opened" for run in sorted([*good.iterdir(), *poor.iterdir()])]
        assert outcome.stderr.splitlines() == expected
        assert [measured.run.path for measured in drawn] == sorted([*good.iterdir(), *poor.iterdir()])
        assert [opened(run) for run in (*good.iterdir(), *poor.iterdir())] == [1] * 5
        assert "test split of" in outcome.stdout
        assert "A - B: " in outcome.stdout
        page = (two / "page.html").read_text()
        assert f"thriftnet compare {good} {poor} --split test" in page
        assert page.count("<svg") == 2
        assert 'src="' not in page

    def test_what_was_evaluated_is_not_opened_again(self, two: Path) -> None:
        first = command("compare", two / "good", two / "poor", "--json")
        second = command("compare", two / "good", two / "poor", "--json")
        assert second.stderr == ""
        assert second.stdout == first.stdout
        assert opened(two / "good" / "seed-0") == 1
        numbers = json.loads(first.stdout)
        accuracies = numbers["sides"]["A"]["accuracies"]
        evaluated = [json.loads((two / "good" / f"seed-{n}" / "evaluation-test.json").read_text()) for n in range(3)]
        assert accuracies == [each["accuracy"] for each in evaluated]
        assert numbers["pairs"][0]["difference"]["value"] == pytest.approx(
            np.mean(accuracies) - np.mean(numbers["sides"]["B"]["accuracies"])
        )
        assert numbers["pairs"][0]["difference"]["seeds_paired"] is False  # three against two

    def test_a_network_that_changed_is_measured_again(self, two: Path) -> None:
        run = two / "good" / "seed-0"
        thriftnet.evaluate(run, "validation")
        other = RunFolder(two / "poor" / "seed-0").read_bytes("selected.safetensors")
        RunFolder(run).write_bytes("selected.safetensors", other)
        told: list[str] = []
        compared = thriftnet.compare([run, two / "poor" / "seed-0"], "validation", tell=told.append)
        assert told[0] == f"{run}: the validation split is measured"
        assert compared.pairs[0].judgement == "noise"  # they are the same weights now
        assert compared.pairs[0].adjusted_p == 1.0
        assert opened(run) == 0

    def test_a_run_with_itself_is_noise(self, two: Path) -> None:
        run = two / "good" / "seed-1"
        outcome = command("compare", run, run)
        assert "A - B: the difference is noise at 1 seed a side and 90 images: +0.00 points (p = 1, " in outcome.stdout

    def test_recipes_train_what_is_missing(self, shared_run: Trained, tmp_path: Path) -> None:
        other = tmp_path / "other.toml"
        changed = recipes.with_changes(tiny_recipe(), {"optimizer": {"lr": 0.001}}).model_copy(update={"name": "other"})
        other.write_text(recipes.to_toml(changed))
        arguments = (shared_run.recipe, other, "--data", shared_run.data, "--seeds", 2, "--out", tmp_path / "out")
        shortened = ("--set", "training.epochs=1", "--split", "validation")
        outcome = command("compare", *arguments, *shortened)
        assert outcome.status == 0, outcome.stderr
        trained = sorted(str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").glob("*/seed-*"))
        assert trained == ["other/seed-0", "other/seed-1", "tiny/seed-0", "tiny/seed-1"]
        assert RunFolder(tmp_path / "out" / "tiny" / "seed-1").read_recipe().training.epochs == 1
        again = command("compare", *arguments, *shortened)
        assert (again.stderr, again.stdout) == ("", outcome.stdout)
        mixed = command("compare", tmp_path / "out" / "tiny", *arguments[1:], *shortened, "--json")
        assert [len(side["seeds"]) for side in json.loads(mixed.stdout)["sides"].values()] == [2, 2]
        assert mixed.stderr == ""

    def test_the_command_names_the_data_that_recipes_were_trained_on(
        self, trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("THRIFTNET_DATA", str(trained.data))
        compared = thriftnet.compare(
            [trained.path, str(trained.recipe)],
            "validation",
            seeds=1,
            out=tmp_path,
            overrides=["training.epochs=1"],
        )
        assert f"--data {trained.data} " in compared.command

    def test_the_honest_protocol_reaches_the_recipes(self, shared_run: Trained, tmp_path: Path) -> None:
        compared = thriftnet.compare(
            [shared_run.recipe, shared_run.recipe], data=str(shared_run.data), seeds=1, out=tmp_path, protocol="honest",
            overrides=["data.validation_images=15", "training.epochs=1"], display=SilentDisplay(),
        )  # fmt: skip
        assert RunFolder(tmp_path / "tiny" / "seed-0").read_recipe().data.validation_images == 15
        assert [side.selection for side in compared.sides] == ["validation", "validation"]
        assert compared.pairs[0].judgement == "noise"  # the same run twice
        assert "--protocol honest --set data.validation_images=15 --set training.epochs=1" in compared.command

    def test_other_images_in_the_same_place_are_refused(self, two: Path, shared_run: Trained, tmp_path: Path) -> None:
        first, second = two / "good" / "seed-0", two / "poor" / "seed-0"
        thriftnet.evaluate(first)
        arrays = dict(np.load(shared_run.data))
        arrays["x_test"] = arrays["x_test"][::-1]
        moved = tmp_path / "reversed.npz"
        np.savez(moved, **arrays)
        facts = RunFolder(second).read_json("data.json")
        RunFolder(second).write_json("data.json", facts | {"location": str(moved)})
        outcome = command("compare", first, second)
        assert "A - B: not comparable: they were tested on different images of the test split" in outcome.stdout
        assert "points" not in outcome.stdout
        told: list[str] = []
        same = thriftnet.compare([first, second], data=str(moved), tell=told.append)  # evaluates the first again
        assert told == [f"{first}: the sealed test split is opened"]
        assert same.pairs[0].difference is not None


class TestNotComparable:
    def refused(self, *arguments: object) -> str:
        outcome = command("compare", *arguments)
        assert outcome.status == 2, outcome.stdout
        return outcome.error

    def train(self, shared_run: Trained, out: Path, **sections: dict[str, Any]) -> Path:
        thriftnet.train(tiny_recipe(training={"epochs": 1}, **sections) , str(shared_run.data), out=out, display=SilentDisplay())  # fmt: skip  # noqa: E501
        return out

    def test_test_selected_against_sealed(self, shared_run: Trained, two: Path, tmp_path: Path) -> None:
        thriftnet.train(
            tiny_recipe(training={"epochs": 1, "selection": "test"}), str(shared_run.data), out=tmp_path / "selected",
            display=SilentDisplay(),
        )  # fmt: skip
        sealed = two / "good" / "seed-0"
        error = self.refused(tmp_path / "selected", sealed)
        assert "on the test split one is test-selected, the other validation" in error
        assert opened(sealed) == 0  # nothing was opened for it
        assert not (sealed / "evaluation-test.safetensors").exists()
        # On the validation images the other one was selected.
        assert "one is test, the other validation-selected" in self.refused(
            tmp_path / "selected", sealed, "--split", "validation"
        )

    def test_other_data_and_other_preparation(self, shared_run: Trained, two: Path, tmp_path: Path) -> None:
        larger = self.train(shared_run, tmp_path / "larger", data={"image_side": 32})
        assert "prepared differently (1 x 32 x 32 against 1 x 16 x 16)" in self.refused(larger, two / "good" / "seed-0")
        arrays = dict(np.load(shared_run.data))
        arrays["x_train"][0, 0, 0, 0] ^= 1
        np.savez(tmp_path / "another.npz", **arrays)
        other = thriftnet.train(
            tiny_recipe(training={"epochs": 1}), str(tmp_path / "another.npz"), out=tmp_path / "other",
            display=SilentDisplay(),
        )  # fmt: skip
        error = self.refused(other.path, two / "good" / "seed-0")
        assert f"trained on different data ({tmp_path / 'another.npz'} against {shared_run.data})" in error

    def test_another_split(self, shared_run: Trained, two: Path, tmp_path: Path) -> None:
        other = self.train(shared_run, tmp_path / "other", data={"validation_images": 9})
        error = self.refused(other, two / "good" / "seed-0", "--split", "validation")
        assert "their validation splits differ (data.validation_images or training.split_seed)" in error
        compared = thriftnet.compare([other, two / "good" / "seed-0"])  # the test split is the same
        assert compared.pairs[0].judgement != "not comparable"
        assert any("equally many images: A 81, B 72" in note for note in compared.notes)

    @pytest.mark.parametrize(
        ("arguments", "said"),
        [
            (("good",), "1 sides were given; 2 to 26 can be compared"),
            (("good", "nowhere"), "nowhere is no run folder, no folder of runs, no recipe's name and no TOML file"),
            (("good", "fas"), "fas is no run folder, no folder of runs, no recipe's name and no TOML file - did you mean 'fast'?"),  # noqa: E501
            (("good", "fast"), "fast is a recipe; say with --seeds how many runs of it to compare"),
            (("good", "poor", "--seeds", 2, "--set", "a.b=1"), "remove --seeds, --set, which recipes are trained with"),
            (("good", "empty"), "empty is no run folder and holds none"),
            (("good", "."), "is no run folder and holds none"),
        ],
    )  # fmt: skip
    def test_sides_that_cannot_be_understood(
        self, two: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[object, ...], said: str
    ) -> None:
        monkeypatch.chdir(two)
        (two / "empty").mkdir()
        assert said in self.refused(*arguments)

    def test_folders_that_hold_different_things(self, two: Path) -> None:
        shutil.copytree(two / "good" / "seed-0", two / "good" / "copy")
        assert "holds several runs of seed 0, which are not independent" in self.refused(two / "good", two / "poor")
        shutil.rmtree(two / "good" / "copy")
        shutil.copytree(two / "poor" / "seed-1", two / "good" / "seed-9")
        assert "holds runs of different recipes" in self.refused(two / "good", two / "poor")

    def test_an_unfinished_run(self, two: Path) -> None:
        result = RunFolder(two / "good" / "seed-1").read_json("result.json")
        RunFolder(two / "good" / "seed-1").write_json("result.json", result | {"status": "running"})
        error = self.refused(two / "good", two / "poor")
        assert f"seed-1 is not trained to its end; go on with: thriftnet train --resume {two}/good/seed-1" in error

    def test_a_recipe_that_is_wrong(self, two: Path, tmp_path: Path) -> None:
        (tmp_path / "bad.toml").write_text("[model]\nwidhts = [1]\n")
        with pytest.raises(RecipeError, match="did you mean 'widths'"):
            thriftnet.compare([two / "good", tmp_path / "bad.toml"], seeds=1)
