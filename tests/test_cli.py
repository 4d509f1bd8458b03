"""The commands as a user gives them: what they print, where, what they leave behind, and with which exit status."""

from __future__ import annotations

import csv
import json
import pickle
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.conftest import Outcome, Trained, thriftnet
from thriftnet import recipe as recipes
from thriftnet.training.run_folder import RunFolder

CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f]")
COMMAND = [sys.executable, "-m", "thriftnet"]


def timeless(run: Path) -> list[dict[str, Any]]:
    """metrics.csv without what differs between any two trainings."""
    rows = RunFolder(run).read_history()
    return [{key: value for key, value in row.items() if key not in ("images_per_s", "elapsed_s")} for row in rows]


def events(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]


def rows(path: Path) -> list[list[str]]:
    with path.open(newline="") as file:
        return list(csv.reader(file))


def short_training(shared_run: Trained, *arguments: object) -> Outcome:
    return thriftnet("train", shared_run.recipe, "--epochs", 1, *arguments)


class TestTrain:
    def test_prints_the_outcome_and_last_the_run_folder(self, shared_run: Trained) -> None:
        outcome, last = shared_run.outcome.stdout.splitlines()
        assert re.fullmatch(r"completed after epoch 12; kept epoch \d+, validation accuracy \d+\.\d\d%", outcome)
        assert last == str(shared_run.path)
        assert (shared_run.path / "figures" / "curves.png").is_file()

    def test_is_quiet_where_there_is_no_terminal(self, shared_run: Trained) -> None:
        assert not CONTROL.search(shared_run.outcome.stdout + shared_run.outcome.stderr)
        lines = shared_run.outcome.stderr.splitlines()
        assert lines[0] == "tiny: 1,319 trainable parameters"
        epochs = [line for line in lines if line.startswith("epoch ")]
        assert [line.split()[1] for line in epochs] == [f"{epoch}/12" for epoch in range(1, 13)]

    def test_flags_reach_the_resolved_recipe(self, shared_run: Trained, tmp_path: Path) -> None:
        out = tmp_path / "run"
        flags = ("--data", shared_run.data, "--seed", 7, "--budget", 2000, "--set", "training.batch_size=36")
        assert short_training(shared_run, *flags, "--set", "optimizer.momentum=0.8", "--out", out).last_line == str(out)
        recipe = RunFolder(out).read_recipe()
        assert (recipe.training.epochs, recipe.training.seed, recipe.training.batch_size) == (1, 7, 36)
        assert (recipe.model.parameter_budget, recipe.optimizer.momentum) == (2000, 0.8)
        result = RunFolder(out).read_json("result.json")
        assert (result["seed"], result["epochs_planned"], result["parameters"]) == (7, 1, 1319)
        assert timeless(out)[0]["steps"] == 2  # 72 images in batches of 36

    def test_honest_protocol_seals_what_a_paper_opened(self, shared_run: Trained, tmp_path: Path) -> None:
        paper = tmp_path / "paper.toml"
        values = "[data]\nvalidation_images = 0\n[training]\nselection = 'test'\nepochs = 1\n"
        paper.write_text(f"inherits = '{shared_run.recipe}'\n{values}", encoding="utf-8")
        opened = thriftnet("train", paper, "--data", shared_run.data, "--out", tmp_path / "opened")
        assert "test accuracy (test-selected)" in opened.stdout
        assert "test (test-selected) loss" in opened.stderr
        assert "the test images choose the epoch that is kept" in opened.stderr
        honest = ("--protocol", "honest", "--out", tmp_path / "sealed")
        sealed = thriftnet("train", paper, "--data", shared_run.data, *honest)
        assert "the test images choose" not in sealed.stderr
        assert "validation accuracy" in sealed.stdout
        assert "test" not in sealed.stdout.splitlines()[0]
        assert RunFolder(tmp_path / "sealed").read_json("data.json")["validation_images"] == 9

    @pytest.mark.parametrize(
        ("options", "says"),
        [
            (["--epochs", 1, "--set", "training.epochs=2"], "--set training.epochs and --epochs would both set"),
            (["--epochs", 1, "--scale", 0.5], "--epochs and --scale would both set the epochs"),
            (["--seed", 1, "--set", "training={ seed = 2 }"], "--set training.seed and --seed would both set"),
            (["--budget", 9, "--set", "model.parameter_budget=8"], "--set model.parameter_budget and --budget would"),
            (["--scale", 0.5, "--set", "training.epochs=2"], "--set training.epochs and --scale would both set"),
            (["--scale", 0.5, "--set", "schedule.warmup_epochs=1"], "--set schedule.warmup_epochs and --scale would"),
            (["--width", 0.5, "--set", "model.widths.0=2"], "--set model.widths.0 and --width would both set"),
            (["--width", 0.5, "--set", "expect.parameters=2"], "--set expect.parameters and --width would both set"),
            (["--protocol", "honest", "--set", "training.selection=test"], "--set training.selection=test and --pro"),
            (["--protocol", "honest", "--set", "data.validation_images=0"], "--set data.validation_images=0 and --pro"),
        ],
    )
    @pytest.mark.parametrize("seeds", [[], ["--seeds", 2]], ids=["one", "seeds"])
    def test_what_is_set_is_never_dropped(
        self, shared_run: Trained, tmp_path: Path, options: list[object], says: str, seeds: list[object]
    ) -> None:
        out = tmp_path / "run"
        outcome = thriftnet("train", shared_run.recipe, "--data", shared_run.data, "--out", out, *options, *seeds)
        assert (outcome.status, out.exists()) == (2, False)
        assert says in outcome.error
        assert outcome.error.endswith("; leave one of them out")

    def test_the_environment_names_the_data_and_the_run_gets_a_folder(
        self, shared_run: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("THRIFTNET_DATA", str(shared_run.data))
        out = Path(short_training(shared_run, "--seed", 3).last_line)
        assert out.parent == Path("runs")
        assert out.name.startswith("tiny-seed3-")
        assert RunFolder(out).read_json("data.json")["location"] == str(shared_run.data)
        monkeypatch.setenv("THRIFTNET_DATA", "nowhere")
        assert "there is no data at nowhere (THRIFTNET_DATA says so)" in short_training(shared_run).error
        assert short_training(shared_run, "--data", shared_run.data, "--out", "given").status == 0

    def test_the_budget_is_checked_before_any_data_is_looked_for(self, tmp_path: Path) -> None:
        widths = "model.widths=[64,128,256,512]"
        outcome = thriftnet("train", "xu-resnet18", "--set", widths, "--data", tmp_path / "absent")
        assert outcome.status == 2
        assert re.search(r"has 11,163,468 trainable parameters, 6,163,468 over the budget of 5,000,000", outcome.error)
        assert "set model.stem.width = 28 and model.widths = [42, 85, 170, 339] (4,904,702 parameters)" in outcome.error
        assert outcome.stdout == ""
        assert list(tmp_path.iterdir()) == []

    def test_a_terminated_run_resumes_to_the_same_numbers(self, shared_run: Trained, tmp_path: Path) -> None:
        whole, parts = shared_run.path, tmp_path / "parts"
        command = [*COMMAND, "train", str(shared_run.recipe), "--data", str(shared_run.data), "--out", str(parts)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            assert process.stderr is not None
            seen = []
            for line in process.stderr:
                seen.append(line)
                if line.startswith("epoch 1/12"):
                    process.send_signal(signal.SIGTERM)
            assert process.stdout.read() == ""
        assert process.returncode == 143, seen
        done = len(timeless(parts))
        assert 1 <= done < 12
        # The signal comes between two epochs, or between two steps of the next.
        saved = rf"epoch ({done} of 12 is saved|{done + 1} of 12 is saved up to step [1-4] of 4)"
        go_on = re.escape(f"; go on with: thriftnet train --resume {parts}\n")
        assert re.fullmatch(f"thriftnet: interrupted; {saved}{go_on}", seen[-1])
        assert events(parts)[-1]["event"] == "interrupted"
        resumed = thriftnet("train", "--resume", parts)
        assert resumed.last_line == str(parts)
        assert resumed.stdout.splitlines()[0] == shared_run.outcome.stdout.splitlines()[0]
        assert timeless(parts) == timeless(whole)
        assert (parts / "last.safetensors").read_bytes() == (whole / "last.safetensors").read_bytes()
        assert (parts / "selected.safetensors").read_bytes() == (whole / "selected.safetensors").read_bytes()
        assert [event["epoch"] for event in events(parts) if event["event"] == "resumed"] == [done]

    @pytest.mark.parametrize(
        ("extra", "named"),
        [
            (["tiny"], "RECIPE"),
            (["--epochs", 3], "--epochs"),
            (["--seed", 0, "--set", "a.b=1"], "--seed, --set"),
            (["--protocol", "honest"], "--protocol"),
        ],
    )
    def test_resume_ignores_nothing_silently(self, shared_run: Trained, extra: list[object], named: str) -> None:
        outcome = thriftnet("train", "--resume", shared_run.path, *extra)
        assert outcome.status == 2
        assert outcome.error == f"thriftnet: --resume goes on with the run's own recipe; remove {named}"


class TestEvaluate:
    def test_writes_the_numbers_and_logs_the_opening_of_the_test_set(self, trained: Trained) -> None:
        outcome = thriftnet("evaluate", trained.path)
        path = trained.path / "evaluation-test.json"
        assert outcome.last_line == str(path)
        measured = json.loads(path.read_text())
        assert measured["count"] == 90
        assert 0.8 < measured["accuracy"] <= 1.0  # a fraction; chance is a third
        low, high = measured["accuracy_interval"]
        assert low < measured["accuracy"] <= high <= 1.0
        assert measured["accuracy"] == pytest.approx(np.trace(measured["confusion"]) / 90)
        assert f"test accuracy {measured['accuracy']:.2%} (95 % interval" in outcome.stdout
        assert [score["name"] for score in measured["classes"]] == ["dark", "middle", "bright"]
        opened, evaluated = events(trained.path)[-2:]
        assert (opened["event"], opened["location"]) == ("test set opened", str(trained.data))
        assert (evaluated["event"], evaluated["accuracy"]) == ("evaluated", measured["accuracy"])
        figures = {path.name for path in (trained.path / "figures").iterdir()}
        assert {"confusion-test.png", "confusion-test.svg", "distribution-test.png", "mistakes-test.png"} <= figures

    def test_other_split_weights_and_averaging_are_kept_apart(self, trained: Trained) -> None:
        outcome = thriftnet("evaluate", trained.path, "--split", "validation", "--weights", "last", "--json")
        measured = json.loads(outcome.stdout)
        last = timeless(trained.path)[-1]
        assert (measured["count"], measured["weights"], measured["epoch"]) == (18, "last", 12)
        assert measured["accuracy"] == last["validation_accuracy"]
        assert measured["loss"] == pytest.approx(last["validation_loss"], rel=1e-5)
        assert "test set opened" not in [event["event"] for event in events(trained.path)]
        outcome = thriftnet("evaluate", trained.path, "--tta", "flip")
        assert "averaged over the image and its mirror image" in outcome.stdout
        assert Path(outcome.last_line).name == "evaluation-test-tta-flip.json"
        assert events(trained.path)[-2]["tta"] == "flip"
        outcome = thriftnet("evaluate", trained.path, "--tta", "flip_shift")
        assert "mirror image, each also shifted by one pixel" in outcome.stdout
        assert Path(outcome.last_line).name == "evaluation-test-tta-flip_shift.json"
        assert not (trained.path / "evaluation-test.json").exists()

    def test_moved_data_is_named_and_can_be_given(self, trained: Trained, tmp_path: Path) -> None:
        moved = tmp_path / "moved.npz"
        shutil.copy(trained.data, moved)
        facts = json.loads((trained.path / "data.json").read_text())
        RunFolder(trained.path).write_json("data.json", facts | {"location": str(tmp_path / "old.npz")})
        outcome = thriftnet("evaluate", trained.path)
        assert outcome.status == 2
        assert f"there is no data at {tmp_path / 'old.npz'}" in outcome.error
        assert thriftnet("evaluate", trained.path, "--data", moved).status == 0
        # A resume notes where the data is now.
        assert thriftnet("train", "--resume", trained.path, "--data", moved).status == 0
        assert thriftnet("evaluate", trained.path).status == 0

    def test_data_given_as_a_link_to_a_blob_stays_the_runs_own(self, trained: Trained, tmp_path: Path) -> None:
        link, blob, run = tmp_path / "set.npz", tmp_path / "blobs" / "0a1b", tmp_path / "linked"
        blob.parent.mkdir()
        shutil.copy(trained.data, blob)
        link.symlink_to(blob)
        assert thriftnet("train", trained.recipe, "--data", link, "--epochs", 1, "--out", run).status == 0
        assert thriftnet("evaluate", run).status == 0
        assert thriftnet("train", "--resume", run).status == 0


def course_pickle(path: Path, layout: str, keys: tuple[object, object], protocol: int) -> None:
    """Nine gray 32x32 images in the three brightnesses of the run's classes, as the course hands them out."""
    brightness = np.repeat(np.array([45, 105, 165], np.uint8), 3)
    images = np.broadcast_to(brightness[:, None, None, None], (9, 3, 32, 32))
    data = {"flat": images.reshape(9, 3072), "nchw": images, "nhwc": images.transpose(0, 2, 3, 1)}[layout]
    path.write_bytes(pickle.dumps({keys[0]: np.ascontiguousarray(data), keys[1]: np.arange(9, 0, -1)}, protocol))


class TestPredict:
    @pytest.mark.parametrize(
        ("layout", "keys", "protocol"),
        [("flat", (b"data", b"ids"), 2), ("nchw", ("data", "ids"), 5), ("nhwc", (b"data", b"ids"), 4)],
    )
    def test_the_course_pickle(
        self, shared_run: Trained, tmp_path: Path, layout: str, keys: tuple[object, object], protocol: int
    ) -> None:
        course_pickle(tmp_path / "test.pkl", layout, keys, protocol)
        outcome = thriftnet("predict", shared_run.path, tmp_path / "test.pkl", "--out", tmp_path / "p.csv")
        assert outcome.stdout.splitlines() == ["9 predictions", str(tmp_path / "p.csv")]
        assert "resized from 32x32 to 16x16 pixels" in outcome.stderr
        written = rows(tmp_path / "p.csv")
        assert written[0] == ["ID", "Label"]
        assert written[1:] == [[str(9 - index), str(index // 3)] for index in range(9)]

    def test_names_and_probabilities(self, shared_run: Trained, tmp_path: Path) -> None:
        out = tmp_path / "p.csv"
        flags = ("--probabilities", "--names", "--tta", "flip")
        assert thriftnet("predict", shared_run.path, shared_run.data, "--out", out, *flags).status == 0
        header, *written = rows(out)
        assert header == ["ID", "Label", "p_dark", "p_middle", "p_bright"]
        assert len(written) == 90
        for index, (name, label, *chances) in enumerate(written):
            values = [float(chance) for chance in chances]
            assert name == str(index)
            assert label == ("dark", "middle", "bright")[int(np.argmax(values))]
            assert sum(values) == pytest.approx(1, abs=1e-5)

    def test_a_folder_of_images(self, shared_run: Trained, tmp_path: Path) -> None:
        (tmp_path / "photos").mkdir()
        for name, brightness in (("b.png", 45), ("a.png", 165)):
            Image.new("L", (40, 30), brightness).save(tmp_path / "photos" / name)
        assert thriftnet("predict", shared_run.path, tmp_path / "photos", "--out", tmp_path / "p.csv").status == 0
        assert rows(tmp_path / "p.csv") == [["ID", "Label"], ["a.png", "2"], ["b.png", "0"]]

    def test_changes_nothing_in_the_run(self, shared_run: Trained, tmp_path: Path) -> None:
        before = {path: path.read_bytes() for path in shared_run.path.rglob("*") if path.is_file()}
        thriftnet("predict", shared_run.path, shared_run.data, "--out", tmp_path / "p.csv")
        assert {path: path.read_bytes() for path in shared_run.path.rglob("*") if path.is_file()} == before


class TestLooking:
    def test_summary_as_a_table(self) -> None:
        lines = thriftnet("summary", "liu-4x2").stdout.splitlines()
        assert lines[1].split() == ["Layer", "(type)", "Output", "Shape", "Param", "#", "Mult-Adds"]
        assert lines[3].split() == ["Conv2d-1", "[-1,", "32,", "32,", "32]", "2,400", "2,457,600"]
        assert "Trainable params: 2,799,146" in lines

    def test_summary_as_json(self) -> None:
        table = json.loads(thriftnet("summary", "liu-4x2", "--json").stdout)
        assert table["total_parameters"] == sum(layer["parameters"] for layer in table["layers"]) == 2_799_146
        assert table["macs"] == sum(layer["macs"] for layer in table["layers"]) > 0
        assert table["layers"][0] == {
            "name": "Conv2d-1", "path": "conv", "type": "Conv2d", "output_shape": [-1, 32, 32, 32],
            "parameters": 2400, "macs": 2400 * 32 * 32,
        }  # fmt: skip

    def test_summary_says_what_is_trained_and_what_is_fixed(self) -> None:
        changes = (
            "model.stem={ kind = 'whitening', kernel = 2 }",
            "model.block=preactivation",
            "model.norm_scale=false",
        )
        options = [word for change in changes for word in ("--set", change)]
        lines = thriftnet("summary", "liu-4x2", *options).stdout.splitlines()
        assert lines[3].split() == ["WhiteningConv-1", "[-1,", "24,", "31,", "31]", "312", f"{24 * 12 * 31**2:,}"]
        # A normalisation before each convolution but the first, whose input the stem has activated, and one at the end.
        scales = 32 + 2 * 32 + (32 + 3 * 64) + (64 + 3 * 128) + (128 + 3 * 256) + 256
        fixed = next(line for line in lines if line.startswith("Non-trainable"))
        assert fixed == f"Non-trainable params: {24 * 12 + scales:,}"

    def test_summary_of_other_classes_channels_and_sides(self) -> None:
        options = ("--classes", 37, "--channels", 1, "--side", 64, "--json")
        table = json.loads(thriftnet("summary", "liu-4x2", *options).stdout)
        assert table["input_shape"] == [1, 64, 64]
        assert table["layers"][-1]["output_shape"] == [-1, 37]
        # Two channels less into the 5x5 stem of 32, 27 classes more out of 256 features.
        assert table["total_parameters"] == 2_799_146 - 2 * 25 * 32 + 27 * (256 + 1)

    def test_recipes_lists_every_packaged_one(self) -> None:
        table = thriftnet("recipes").stdout
        listed = json.loads(thriftnet("recipes", "--json").stdout)
        assert [row["name"] for row in listed] == recipes.names()
        for row in listed:
            line = next(line for line in table.splitlines() if line.split()[0] == row["name"])
            assert f"{row['parameters']:,}" in line
            assert f" {row['epochs']} " in line
        assert next(row for row in listed if row["name"] == "liu-4x2")["claimed_test_accuracy"] == 91.47
        assert "91.47 % test " in table
        [ramavath] = [row for row in listed if row["name"] == "ramavath-resnet9"]
        assert (ramavath["claimed_test_accuracy"], ramavath["claimed_validation_accuracy"]) == (None, 84.5)
        assert "84.50 % validation " in table

    def test_show_source_prints_the_files_with_their_reasons(self) -> None:
        shown = thriftnet("recipes", "show", "xu-resnet18", "--source").stdout
        own, base = shown.index("# --- xu-resnet18.toml ---"), shown.index("# --- _xu-base.toml ---")
        assert own < base
        assert "# paper" in shown[own:base]
        assert "leave out --set" in thriftnet("recipes", "show", "liu-4x2", "--source", "--protocol", "honest").error

    @pytest.mark.parametrize("word", ["recipes", "recipe"])
    def test_show_prints_what_can_be_trained_again(self, word: str, tmp_path: Path) -> None:
        shown = thriftnet(word, "show", "liu-4x2", "--set", "optimizer.lr=0.05", "--protocol", "honest").stdout
        (tmp_path / "liu-4x2.toml").write_text(shown)
        again = recipes.load(str(tmp_path / "liu-4x2.toml"))
        assert again == recipes.honest(recipes.load("liu-4x2", ["optimizer.lr=0.05"]))
        assert again.training.selection == "validation"

    def test_diff_prints_only_what_differs(self) -> None:
        lines = thriftnet("recipes", "diff", "liu-4x2", "liu-4x3").stdout.splitlines()
        assert "model.blocks: [2, 2, 2, 2] -> [3, 3, 3, 3]" in lines
        assert "expect.parameters: 2799146 -> 4367786" in lines
        assert all(line.startswith(("model.blocks:", "expect.", "summary:")) for line in lines)
        assert thriftnet("recipes", "diff", "liu-4x2", "liu-4x2").stdout == ""

    def test_data_info(self, shared_run: Trained, tmp_path: Path) -> None:
        sheet = tmp_path / "sheet.png"
        outcome = thriftnet("data", "info", shared_run.data, "--out", sheet)
        assert outcome.last_line == str(sheet)
        assert "3 classes, 90 training images and 90 test images" in outcome.stdout
        assert re.search(r"middle +30 +30$", outcome.stdout, re.MULTILINE)
        with Image.open(sheet) as image:
            assert image.format == "PNG"
        facts = json.loads(thriftnet("data", "info", shared_run.data, "--out", sheet, "--json").stdout)
        assert facts["splits"]["train"] == {"images": 90, "shape": [1, 16, 16], "per_class": [30, 30, 30]}
        assert facts["sha256"] == RunFolder(shared_run.path).read_json("data.json")["fingerprint"]

    def test_report(self, trained: Trained, tmp_path: Path) -> None:
        assert thriftnet("report", trained.path).last_line == str(trained.path / "report.html")
        given = tmp_path / "page.html"
        assert thriftnet("report", trained.path, "--out", given).last_line == str(given)
        page = given.read_text(encoding="utf-8")
        assert "1,319" in page
        assert not re.search(r"""(src|href)=["']?(https?:|/|[\w-]+/)""", page)  # self-contained


class TestMistakes:
    @pytest.mark.parametrize(
        ("arguments", "says"),
        [
            (["frobnicate"], "No such command 'frobnicate'"),
            (["train", "digits-demo", "--epoch", "3"], "--epochs"),
            (["train", "digits-demo", "--epochs", "0"], "greater than or equal to 1"),
            (["train", "digits-demo", "--seed", "x"], "--seed"),
            (["train", "digits-demo", "--protocol", "dishonest"], "'paper', 'honest'"),
            (["evaluate", "run", "--split", "holdout"], "'validation'"),
            (["predict", "run", "images"], "--out"),
            (["summary"], "RECIPE"),
            (["summary", "liu-4x2", "--side", "8"], "16"),
        ],
    )
    def test_of_usage(self, arguments: list[str], says: str) -> None:
        outcome = thriftnet(*arguments)
        assert outcome.status == 2
        assert says in re.sub(r"[\s│]+", " ", outcome.stderr)
        assert "Traceback" not in outcome.stderr

    @pytest.mark.parametrize(
        ("arguments", "says"),
        [
            (["train"], "name a recipe (`thriftnet recipes` lists them) or a run to --resume"),
            (["train", "digit-demo"], "no recipe named 'digit-demo' - did you mean 'digits-demo'?"),
            (["train", "absent.toml"], "recipe absent.toml cannot be read: No such file or directory"),
            (["train", "digits-demo", "--data", "digts"], "there is no data at digts - did you mean 'digits'?"),
            (["train", "digits-demo", "--set", "optimizer.lr"], "is not of the form section.key=value"),
            (
                ["train", "digits-demo", "--set", "optimizer.lr=fast"],
                "optimizer.lr = 'fast': input should be a valid number",
            ),
            (
                ["train", "digits-demo", "--set", "optimizer.momentum=0.5"],
                "momentum belongs to name = 'sgd'; remove it (--set optimizer.momentum=none)",
            ),
            (["recipes", "show", "liu"], "no recipe named 'liu' - did you mean 'liu-4x"),
            (["evaluate", "absent"], "run folder absent does not exist"),
        ],
    )
    def test_of_content(self, arguments: list[str], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        outcome = thriftnet(*arguments)
        assert outcome.status == 2
        assert says in outcome.error
        assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "command",
    ["", "train", "evaluate", "predict", "report", "summary", "recipes", "recipes show", "data info", "landscape"],
)
def test_help(command: str) -> None:
    outcome = thriftnet(*command.split(), "--help")
    assert outcome.status == 0
    assert f"Usage: thriftnet {command}".strip() in outcome.stdout


@pytest.mark.parametrize(
    ("commands", "default"),
    [
        ("evaluate remedies calibrate landscape", "Default: the data that the run was trained on."),
        ("train", "Default: $THRIFTNET_DATA, else digits; with --resume the run's own data."),
        ("compare", "Default: each run's own data, and for recipes $THRIFTNET_DATA, else digits."),
        ("reproduce", "Default: $THRIFTNET_DATA, else digits."),
    ],
)
def test_help_says_where_data_comes_from(commands: str, default: str) -> None:
    for command in commands.split():
        words = thriftnet(command, "--help").stdout.replace("\N{BOX DRAWINGS LIGHT VERTICAL}", " ").split()
        assert default in " ".join(words), command


def test_the_installed_command() -> None:
    script = shutil.which("thriftnet", path=str(Path(sys.executable).parent))
    if script is None:
        pytest.skip("thriftnet is not installed beside this interpreter")
    finished = subprocess.run([script, "train", "no-such-recipe"], capture_output=True, text=True)
    assert finished.returncode == 2
    assert finished.stdout == ""
    assert finished.stderr.startswith("thriftnet: no recipe named 'no-such-recipe'")
    assert finished.stderr.count("\n") == 1
