"""Shifted data end to end: measured, interrupted, taken again, drawn; temperatures, means of runs, remedies."""

from __future__ import annotations

import csv
import json
import re
import shlex
from html import unescape
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from tests.conftest import Outcome, Trained, thriftnet
from tests.training.conftest import TinySource, tiny_recipe
from thriftnet import api, inference, shift
from thriftnet import recipe as recipes
from thriftnet.errors import DataError, RunFolderError, UserError
from thriftnet.evaluation.calibration import fit_temperature
from thriftnet.evaluation.corruptions import BENCHMARK, CORRUPTIONS, corrupt
from thriftnet.predictor import Predictor, mean_of_runs, read_temperature
from thriftnet.reporting.page import Page, render_page
from thriftnet.reporting.shift_figures import foretold_data, heat_map_data, severity_curves_data
from thriftnet.reporting.shift_page import run_section, shift_page
from thriftnet.run import load_run
from thriftnet.run_data import meet
from thriftnet.shift import ShiftMeasurement, measure_shift
from thriftnet.training.run_folder import RunFolder

COLOURLESS = [name for name in CORRUPTIONS if name != "saturate"]


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """One corruption of each group, and the one that gray images cannot have, in place of nineteen."""
    names = ("gaussian_noise", "defocus_blur", "brightness", "contrast", "saturate")
    kept = {name: CORRUPTIONS[name] for name in names}
    monkeypatch.setattr(shift, "CORRUPTIONS", kept)


@pytest.fixture
def one_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    """A temperature is fitted as if one validation image were of another class: of these all are right."""

    def fit(logits: torch.Tensor, labels: torch.Tensor) -> float | None:
        return fit_temperature(logits, torch.cat([(labels[:1] + 1) % 3, labels[1:]]))

    monkeypatch.setattr(inference, "fit_temperature", fit)


@pytest.fixture
def second(trained: Trained, tmp_path: Path) -> Path:
    """Another run of the same recipe and data, seed 1."""
    path = tmp_path / "second"
    outcome = thriftnet("train", trained.recipe, "--data", trained.data, "--seed", 1, "--epochs", 3, "--out", path)
    assert outcome.status == 0, outcome.stderr
    return path


def run_logits_that_are_right(trained: Trained) -> torch.Tensor:
    """For the run's validation images: 5 for the class of each, 0 for the others."""
    run = load_run(trained.path)
    images = meet((run,), str(trained.data)).images("validation")
    return 5.0 * torch.nn.functional.one_hot(images.labels, 3)


def opened(path: Path) -> list[dict[str, Any]]:
    lines = (path / "events.jsonl").read_text().splitlines()
    return [event for event in map(json.loads, lines) if event["event"] == "test set opened"]


class TestMeasure:
    def test_all_conditions_are_stored_drawn_and_said(self, trained: Trained, tmp_path: Path) -> None:
        page = tmp_path / "shift.html"
        outcome = thriftnet("evaluate", trained.path, "--shift", "--html", page)
        assert outcome.last_line == str(page)
        stored = json.loads((trained.path / "shift-test.json").read_text())
        assert stored["complete"]
        pairs = [(c["corruption"], c["severity"]) for c in stored["conditions"]]
        assert pairs == [(name, severity) for name in COLOURLESS for severity in range(1, 6)]
        assert stored["left_out"] == {"saturate": "needs colour, and these images are gray"}
        assert "saturate is left out: it needs colour, and these images are gray" in outcome.stdout
        assert (len(opened(trained.path)), opened(trained.path)[0]["shift"]) == (1, True)
        of_benchmark = [c["accuracy"] for c in stored["conditions"] if c["corruption"] in BENCHMARK]
        assert stored["mean_accuracy"] == pytest.approx(np.mean(of_benchmark))
        assert stored["mean_corruption_error"] == pytest.approx(1 - np.mean(of_benchmark))
        assert f"{stored['mean_accuracy']:.2%} shifted: mean of 15 corruptions x 5 severities" in outcome.stdout
        assert "not normalised by AlexNet's" in outcome.stdout
        assert outcome.stderr.count("%") == 5 * len(COLOURLESS)
        names = {path.name for path in (trained.path / "figures").iterdir()}
        assert {"shift-test.png", "shift-test.svg", "shift-test-severity.png"} <= names
        html = page.read_text()
        assert "Frost is drawn" in html
        assert f"thriftnet evaluate {trained.path} --shift --split test --data {trained.data}" in html
        assert html.count("<svg") >= 3

    def test_the_printed_command_repeats_it(self, trained: Trained, tmp_path: Path) -> None:
        run, data, page = tmp_path / "a run", tmp_path / "moved data.npz", tmp_path / "shift.html"
        trained.path.rename(run)
        data.write_bytes(trained.data.read_bytes())
        how = ("--split", "validation", "--weights", "last", "--tta", "flip", "--batch-size", 7, "--adapt-batchnorm")
        first = thriftnet("evaluate", run, "--shift", "--data", data, "--shift-images", 6, *how, "--html", page)
        assert first.status == 0, first.stderr
        printed = re.search(r"thriftnet (evaluate .*?)</", unescape(page.read_text()))
        assert printed is not None
        again = thriftnet(*shlex.split(printed[1]))
        assert "the same weights, data and settings were measured before" in again.stderr

    def test_colour_images_have_all_ninety_five(self, tmp_path: Path) -> None:
        """Each condition is its own corruption at its own severity: the loss is that of those images."""
        noise = np.random.default_rng(0).integers(0, 120, (2, 24, 3, 16, 16))
        labels = np.arange(24) % 3
        train, test = (noise + 90 * np.eye(3, dtype=int)[labels][:, :, None, None]).astype(np.uint8)  # a tint a class
        data, recipe, path = tmp_path / "colour.npz", tmp_path / "tiny.toml", tmp_path / "run"
        np.savez(data, x_train=train, y_train=labels, x_test=test, y_test=labels)
        recipe.write_text(recipes.to_toml(tiny_recipe(data={"validation_images": 6})), encoding="utf-8")
        assert thriftnet("train", recipe, "--data", data, "--out", path).status == 0
        outcome = thriftnet("evaluate", path, "--shift", "--html", tmp_path / "shift.html")
        assert outcome.status == 0, outcome.stderr
        assert "left out" not in outcome.stdout
        stored = json.loads((path / "shift-test.json").read_text())
        assert stored["complete"]
        assert stored["left_out"] == {}
        found = {(c["corruption"], c["severity"]): c["loss"] for c in stored["conditions"]}
        assert len(stored["conditions"]) == 95
        predictor, images = Predictor((load_run(path),)), torch.from_numpy(test)
        expected = {
            (name, severity): float(
                cross_entropy(predictor.logits(corrupt(images, name, severity)).double(), torch.from_numpy(labels))
            )
            for name in CORRUPTIONS
            for severity in range(1, 6)
        }
        assert found == pytest.approx(expected)
        assert len(set(found.values())) == 95
        page = (tmp_path / "shift.html").read_text()
        assert "saturate (extra)" in page
        assert "left out" not in page

    def test_one_condition_is_what_its_parts_give(self, trained: Trained, few: None) -> None:
        run = load_run(trained.path)
        measured = measure_shift(run)
        images = TinySource(sealed=False).test()
        logits = Predictor((run,)).logits(corrupt(images.images, "contrast", 4))
        condition = next(c for c in measured.conditions if (c.corruption, c.severity) == ("contrast", 4))
        assert condition.accuracy == float((logits.argmax(1) == images.labels).double().mean())
        confidence = float(logits.double().softmax(1).amax(1).mean())
        assert condition.estimated["average_confidence"] == pytest.approx(confidence)
        # The run held out 18 images, so the estimates are fitted on those and compared on all.
        assert measured.stored.context["estimates_from"] == "18 validation images"
        assert condition.compared_accuracy == condition.accuracy

    def test_without_validation_images_half_of_the_clean_ones_serve(self, trained: Trained, few: None) -> None:
        folder = RunFolder(trained.path)
        folder.write_json("data.json", folder.read_json("data.json") | {"validation_images": 0})
        measured = measure_shift(load_run(trained.path))
        assert measured.stored.context["estimates_from"] == "a random half of the clean images"
        assert {round(c.compared_accuracy * 45, 6) % 1 for c in measured.conditions} == {0.0}  # of 45 images

    def test_an_interrupted_measurement_goes_on_and_a_finished_one_is_taken(self, trained: Trained, few: None) -> None:
        whole = measure_shift(load_run(trained.path)).as_dict()
        (trained.path / "shift-test.json").unlink()

        def stop(line: str) -> None:
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            measure_shift(load_run(trained.path), say=stop)  # when the first of four is written
        measure = shift._Measuring._condition
        again: list[str] = []

        def counted(self: Any, name: str, *rest: Any) -> Any:
            again.append(name)
            return measure(self, name, *rest)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(shift._Measuring, "_condition", counted)
            lines: list[str] = []
            said = lines.append
            resumed = measure_shift(load_run(trained.path), say=said).as_dict()
            assert len(again) == 15
            assert "gaussian_noise" not in again
            assert resumed == whole
            again.clear()
            taken = measure_shift(load_run(trained.path), say=said).as_dict()
            assert (taken, again) == (whole, [])
            assert lines[-1].startswith("taken from")
            # Other weights: measured anew.
            measure_shift(load_run(trained.path), weights="last", say=said)
            assert "clean" in again

    def test_a_damaged_file_is_measured_anew(self, trained: Trained, few: None) -> None:
        (trained.path / "shift-test.json").write_text('{"context": {}, "complete"')
        assert measure_shift(load_run(trained.path)).stored.complete

    def test_a_subset_is_stratified_stated_and_of_the_same_corrupted_images(self, trained: Trained, few: None) -> None:
        outcome = thriftnet("evaluate", trained.path, "--shift", "--shift-images", 30, "--json")
        stored = json.loads(outcome.stdout)
        assert (stored["context"]["images"], stored["context"]["split_images"]) == (30, 90)
        assert (trained.path / "shift-test-30-images.json").is_file()
        labels = TinySource(sealed=False).test().labels
        chosen = shift._chosen(labels, 30)
        assert torch.bincount(labels[chosen]).tolist() == [10, 10, 10]
        summary = measure_shift(load_run(trained.path), images=30).summary()
        assert "30 images of 90, stratified" in summary
        with pytest.raises(UserError, match=r"--shift-images 2 must lie between 3 \(one a class\) and 90"):
            measure_shift(load_run(trained.path), images=2)

    def test_validation_keeps_the_test_split_closed(self, trained: Trained, few: None) -> None:
        measured = measure_shift(load_run(trained.path), "validation")
        assert measured.path.name == "shift-validation.json"
        assert opened(trained.path) == []

    @pytest.mark.parametrize("flags", [("--shift-images", 30), ("--html", "x.html")])
    def test_options_without_shift_are_refused(self, trained: Trained, flags: tuple[object, ...]) -> None:
        outcome = thriftnet("evaluate", trained.path, *flags)
        assert outcome.status == 2
        assert outcome.error == f"thriftnet: {flags[0]} belongs to --shift; add that"


class TestFiguresAndPage:
    def test_their_data_are_the_measured_numbers(self, trained: Trained) -> None:
        measured = measure_shift(load_run(trained.path), images=12)
        heat = heat_map_data(measured)
        assert heat.accuracy.shape == (18, 5)
        assert heat.accuracy[0, 0] == pytest.approx(100 * measured.conditions[0].accuracy)
        assert heat.names[-1] == "spatter (extra)"
        curves = severity_curves_data(measured)
        assert curves.benchmark[0] == 100 * measured.clean.accuracy
        assert curves.benchmark[3] == pytest.approx(100 * measured.mean("accuracy", severities=[3]))
        assert list(curves.groups) == ["noise", "blur", "weather", "digital"]
        foretold = foretold_data(measured)
        assert len(foretold.measured) == 90
        expected = np.mean(np.abs(np.subtract(foretold.measured, foretold.estimated["average_confidence"]))) / 100
        assert measured.estimate_error("average_confidence") == pytest.approx(expected)
        text = render_page(shift_page(measured))
        assert "12 of 90, stratified" in text
        assert "--shift-images 12" in text


def report_of(path: Path) -> str:
    outcome = thriftnet("report", path)
    assert outcome.status == 0, outcome.stderr
    return Path(outcome.last_line).read_text("utf-8")


class TestRunPage:
    def test_a_run_without_a_measurement_has_no_such_section(self, trained: Trained) -> None:
        text = report_of(trained.path)
        assert "Shifted data" not in text
        assert "--shift" not in text

    def test_it_says_what_was_measured_and_what_would_have_foretold_it(self, trained: Trained, few: None) -> None:
        assert thriftnet("evaluate", trained.path, "--shift").status == 0
        measured = measure_shift(load_run(trained.path))
        text = report_of(trained.path)
        assert "Shifted data</h2>" in text
        assert f"{measured.clean.accuracy:.2%} on clean images to {measured.mean('accuracy'):.2%} on shifted" in text
        assert "saturate is left out: it needs colour" in text
        assert "Frost is drawn" in text
        assert 'aria-label="Accuracy by corruption and severity"' in text
        assert 'aria-label="Estimated against measured accuracy"' in text
        for name in ("average_confidence", "difference_of_confidences", "thresholded_confidence"):
            foretold = float(np.mean([c.estimated[name] for c in measured.conditions]))
            cells = [f"{foretold:.2%}", f"{measured.mean('accuracy'):.2%}", f"{measured.estimate_error(name):.2%}"]
            assert all(f">{cell}<" in text for cell in cells)
        assert f"thriftnet evaluate {trained.path} --shift --split test" in text
        assert "What raises it again" not in text

    def test_remedies_stand_beside_it_once_they_are_measured(self, trained: Trained, few: None) -> None:
        assert thriftnet("remedies", trained.path, "--shift-images", 30).status == 0
        rows = json.loads((trained.path / "remedies-test.json").read_text())["remedies"]
        text = report_of(trained.path)
        assert "What raises it again" in text
        assert "On 30 of 90, stratified test images" in text
        for row in rows:
            gained = 100 * (row["shifted_accuracy"] - rows[0]["shifted_accuracy"])
            assert f">{row['name']}<" in text
            assert f">{gained:+.2f}<".replace("-", "\N{MINUS SIGN}") in text
        assert "averaging is left out" in text

    def test_the_test_split_and_then_the_most_images_are_shown(self, trained: Trained, few: None) -> None:
        run = load_run(trained.path)
        for split, images, adapt in (("validation", None, 0), ("test", 12, 0), ("test", 30, 0), ("test", 45, 1)):
            measure_shift(run, split, images=images, adapt_batchnorm=bool(adapt))
            found = shift.stored_shift(run)
            assert found is not None
            assert (found.stored.context["split"], found.stored.context["how"]) == (split, "")
        assert found.path.name == "shift-test-30-images.json"  # the adapted one is not of the run as it is
        measure_shift(run)
        found = shift.stored_shift(run)
        assert found is not None
        assert found.path.name == "shift-test.json"

    def test_one_of_other_weights_or_unfinished_is_not_shown(self, trained: Trained, few: None) -> None:
        run, folder = load_run(trained.path), RunFolder(trained.path)
        shift.measure_remedies(run, images=30)
        assert shift.stored_remedies(run) is not None
        whole = folder.read_json("shift-test-30-images.json")
        folder.write_json("shift-test-30-images.json", whole | {"complete": False})
        assert shift.stored_shift(run) is None
        folder.write_json("shift-test-30-images.json", whole)
        last = run.network("last")
        folder.write_weights("selected", {name: tensor + 1 for name, tensor in last.state_dict().items()}, 1)
        assert shift.stored_shift(run) is None
        assert shift.stored_remedies(run) is None
        assert "Shifted data" not in report_of(trained.path)

    @pytest.mark.parametrize(
        ("name", "again"),
        [("shift-test", "evaluate {} --shift --split test"), ("remedies-test", "remedies {} --split test")],
    )
    def test_a_damaged_file_is_named_with_the_command_that_mends_it(
        self, trained: Trained, name: str, again: str
    ) -> None:
        RunFolder(trained.path).write_json(f"{name}.json", {"context": {}})
        outcome = thriftnet("report", trained.path)
        path = trained.path / f"{name}.json"
        expected = f"{path} is damaged; measure again: thriftnet {again.format(trained.path)}"
        assert (outcome.status, outcome.error) == (2, f"thriftnet: {expected}")

    def test_a_test_selected_runs_fall_is_labelled(self, trained: Trained, few: None) -> None:
        measured = measure_shift(load_run(trained.path))
        context = measured.stored.context | {"test_selected": True}
        labelled = ShiftMeasurement(measured.path, measured.stored.model_copy(update={"context": context}))
        section = run_section(labelled, None, None, None)
        assert section.badge == "test-selected"
        assert "Test accuracy (test-selected) falls" in render_page(Page("a test", "title", "", [section]))


class TestTemperature:
    def test_it_is_fitted_on_validation_images_and_used_when_asked(
        self, trained: Trained, tmp_path: Path, one_wrong: None
    ) -> None:
        outcome = thriftnet("calibrate", trained.path)
        assert outcome.last_line == str(trained.path / "temperature.json")
        assert opened(trained.path) == []
        fitted = json.loads((trained.path / "temperature.json").read_text())
        assert fitted["validation_images"] == 18
        assert fitted["temperature"] != 1
        assert fitted["note"] == ""
        assert f"temperature {fitted['temperature']:.4f}" in outcome.stdout
        run = load_run(trained.path)
        images = TinySource(sealed=False).test().images
        plain, scaled = Predictor((run,)).logits(images), Predictor((run,), calibrated=True).logits(images)
        torch.testing.assert_close(scaled, plain / fitted["temperature"])
        validation = json.loads(
            thriftnet("evaluate", trained.path, "--split", "validation", "--calibrated", "--json").stdout
        )
        assert validation["loss"] == pytest.approx(fitted["loss_after"])
        assert validation["temperatures"] == [fitted["temperature"]]
        assert (trained.path / "evaluation-validation-calibrated.json").is_file()
        np.savez(tmp_path / "images.npz", images=images.numpy())
        out = tmp_path / "answer.csv"
        thriftnet("predict", trained.path, tmp_path / "images.npz", "--out", out, "--probabilities", "--calibrated")
        with out.open(newline="") as file:
            rows = list(csv.reader(file))
        assert [float(cell) for cell in rows[1][2:]] == pytest.approx(scaled.softmax(1)[0].tolist())

    def test_where_all_validation_images_are_right_it_stays_1_and_says_so(
        self, trained: Trained, few: None, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(Predictor, "logits", lambda self, images: torch.zeros(len(images), 3))
        reason = "the loss is least at no temperature within 0.02 to 50"
        outcome = thriftnet("calibrate", trained.path)
        assert f"temperature 1.0000 on 18 validation images, nothing fitted: {reason}" in outcome.stdout
        monkeypatch.undo()
        right = run_logits_that_are_right(trained)
        monkeypatch.setattr(Predictor, "logits", lambda self, images: right)
        fitted = api.calibrate(trained.path)
        reason = "all 18 validation images are right, so the loss falls as long as the temperature does"
        assert (fitted.temperature, fitted.note, fitted.loss_after) == (1.0, reason, fitted.loss_before)
        assert json.loads((trained.path / "temperature.json").read_text())["note"] == reason
        monkeypatch.undo()
        calibrated = thriftnet("evaluate", trained.path, "--split", "validation", "--calibrated")
        assert "no temperature is best: kept at 1" in calibrated.stdout
        remedies = thriftnet("remedies", trained.path, "--shift-images", 30)
        assert f"the temperature of {trained.path} stays 1: {reason}" in remedies.stdout
        assert "temperature scaled" not in remedies.stdout

    def test_one_that_an_earlier_version_left_at_a_bound_is_refused(self, trained: Trained) -> None:
        thriftnet("calibrate", trained.path)
        folder = RunFolder(trained.path)
        folder.write_json("temperature.json", folder.read_json("temperature.json") | {"temperature": 0.02 * (1 + 1e-9)})
        outcome = thriftnet("evaluate", trained.path, "--calibrated")
        assert outcome.status == 2
        assert outcome.error.endswith(
            f"0.02, is a bound of the search, not the best; fit it with: thriftnet calibrate {trained.path}"
        )

    def test_without_one_or_for_other_weights_the_fix_is_named(self, trained: Trained) -> None:
        outcome = thriftnet("evaluate", trained.path, "--calibrated")
        assert outcome.error.endswith(f"has no temperature yet; fit it with: thriftnet calibrate {trained.path}")
        assert opened(trained.path) == []
        thriftnet("calibrate", trained.path)
        with pytest.raises(RunFolderError, match="was fitted for other weights"):
            read_temperature(load_run(trained.path), "last")
        (trained.path / "temperature.json").write_text("{}")
        with pytest.raises(RunFolderError, match=r"temperature\.json is damaged"):
            read_temperature(load_run(trained.path), "selected")

    def test_a_run_without_validation_images_cannot_have_one(self, trained: Trained) -> None:
        folder = RunFolder(trained.path)
        folder.write_json("data.json", folder.read_json("data.json") | {"validation_images": 0})
        outcome = thriftnet("calibrate", trained.path)
        assert outcome.status == 2
        assert "never fitted on the test set; train with --protocol honest" in outcome.error


class TestSeveralRuns:
    def test_their_probabilities_are_averaged(self, trained: Trained, second: Path, tmp_path: Path) -> None:
        images = TinySource(sealed=False).test().images
        runs = [load_run(trained.path), load_run(second)]
        chances = [Predictor((run,)).logits(images).softmax(1) for run in runs]
        mean = (chances[0] + chances[1]) / 2
        torch.testing.assert_close(Predictor(tuple(runs)).logits(images).softmax(1), mean)
        torch.testing.assert_close(mean_of_runs([c.log() for c in chances]).exp(), mean)
        outcome = thriftnet("evaluate", trained.path, second)
        assert "mean of 2 runs; seeds 0, 1)" in outcome.stdout
        assert outcome.last_line == str(trained.path / "evaluation-test-mean-of-2.json")
        assert len(opened(trained.path)) == len(opened(second)) == 1
        np.savez(tmp_path / "images.npz", images=images.numpy())
        out = tmp_path / "answer.csv"
        predicted = thriftnet(
            "predict", trained.path, second, tmp_path / "images.npz", "--out", out, "--adapt-batchnorm"
        )
        assert predicted.status == 0, predicted.stderr
        adapted = Predictor(tuple(runs), adapt_batchnorm=True).logits(images).argmax(1)
        assert [int(row["Label"]) for row in csv.DictReader(out.open(newline=""))] == adapted.tolist()

    def test_runs_of_other_data_are_refused(self, trained: Trained, second: Path) -> None:
        folder = RunFolder(second)
        folder.write_json("data.json", folder.read_json("data.json") | {"class_names": ["a", "b", "c"]})
        outcome = thriftnet("evaluate", trained.path, second)
        assert outcome.status == 2
        assert f"{second} has other class names than {trained.path}" in outcome.error
        assert opened(trained.path) == []

    def test_runs_with_other_validation_images_share_none(self, trained: Trained, tmp_path: Path) -> None:
        other = tmp_path / "other"
        setting = ("--set", "training.split_seed=5", "--epochs", 1)
        thriftnet("train", trained.recipe, "--data", trained.data, *setting, "--out", other)
        with pytest.raises(DataError, match="they share no validation split"):
            api.evaluate([trained.path, other], "validation")


class TestRemedies:
    def test_each_is_measured_alone_and_all_together(
        self, trained: Trained, second: Path, few: None, one_wrong: None
    ) -> None:
        first = thriftnet("remedies", trained.path, "--shift-images", 30)
        assert "temperature scaling is left out; fit it with: thriftnet calibrate" in first.stdout
        assert "averaging is left out; give several run folders" in first.stdout
        for path in (trained.path, second):
            thriftnet("calibrate", path)
        outcome: Outcome = thriftnet("remedies", trained.path, second, "--shift-images", 30, "--json")
        table = json.loads(outcome.stdout)
        assert json.loads((trained.path / "remedies-test.json").read_text()) == table
        rows = {row["name"]: row for row in table["remedies"]}
        assert list(rows) == [
            "as trained", "BatchNorm adapted", "mirror image averaged", "temperature scaled", "mean of 2 runs",
            "all of these",
        ]  # fmt: skip
        assert rows["temperature scaled"]["shifted_accuracy"] == rows["as trained"]["shifted_accuracy"]
        assert rows["temperature scaled"]["shifted_loss"] != rows["as trained"]["shifted_loss"]
        assert rows["all of these"]["file"] == "shift-test-mean-of-2-adapted-calibrated-tta-flip-30-images.json"
        alone = measure_shift(load_run(trained.path), images=30, adapt_batchnorm=True)
        assert rows["BatchNorm adapted"]["shifted_accuracy"] == alone.mean("accuracy")
        assert table["notes"] == []
