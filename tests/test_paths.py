"""Paths that users give, whatever the command: `~`, what cannot be written or read, and a byte order mark in text."""

from __future__ import annotations

import errno
import inspect
import subprocess
import sys
from codecs import BOM_UTF8
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Trained, thriftnet
from thriftnet import api, inference, predictor, run_landscape, shift
from thriftnet import recipe as recipes
from thriftnet.errors import RecipeError, StorageError
from thriftnet.ledger.claims import load_claims
from thriftnet.reporting.study_report import study_command
from thriftnet.training.run_folder import RunFolder

SCRIPTS = sorted((Path(__file__).parents[1] / "scripts").glob("*.py"))


@pytest.fixture
def home(trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home folder with a run in it; the working folder is another, and empty."""
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def landscape_options(out: str) -> list[object]:
    return ["--images", 6, "--grid", 3, "--lines", 1, "--steps", 1, "--out", out]


def test_every_path_may_begin_with_the_home_folder(home: Path, trained: Trained) -> None:
    (home / "mine.toml").write_bytes(trained.recipe.read_bytes())
    data = trained.data
    for arguments, made in (
        (["report", "~/run", "--out=~/a.html"], "a.html"),
        (["predict", "~/run", data, "--out=~/p.csv"], "p.csv"),
        (["data", "info", data, "--out=~/sheet.png"], "sheet.png"),
        (["compare", "~/run", "~/run", "--html=~/c.html"], "c.html"),
        (["landscape", "~/run", *landscape_options("~/l")], "l/landscape.html"),
        (["train", "~/mine.toml", "--data", data, "--epochs", 1, "--out=~/new"], "new/recipe.toml"),
        (["check", "~/new"], "new"),
        (["train", "--resume=~/new"], "new"),
        (["evaluate", "~/run", "--split", "validation"], "run/evaluation-validation.json"),
        (["reproduce", "ramavath", "--data", data, "--write-only", "--no-rows", "--out=~/r"], "r/ledger.html"),
    ):
        outcome = thriftnet(*arguments)
        assert outcome.status == 0, (arguments, outcome.stderr)
        assert (home / made).exists(), arguments
        assert str(home) in outcome.stdout, arguments  # a script reads the path
    assert list(Path.cwd().iterdir()) == []


def test_the_library_knows_the_home_folder_too(home: Path, trained: Trained) -> None:
    assert api.load_run("~/run").path == home / "run"
    assert api.report("~/run", out="~/a.html") == home / "a.html"
    api.predict("~/run", str(trained.data), out=Path("~/p.csv"))
    assert (home / "p.csv").is_file()
    assert api.train("~/mine.toml" if (home / "mine.toml").exists() else str(trained.recipe), str(trained.data),
                     out="~/new", epochs=1).path == home / "new"  # fmt: skip
    assert list(Path.cwd().iterdir()) == []


def test_every_function_of_the_library_names_refusals() -> None:
    functions = [function for _, function in inspect.getmembers(api, inspect.isfunction)]
    own = [f for f in functions if inspect.unwrap(f).__module__ == api.__name__ and not f.__name__.startswith("_")]
    assert len(own) >= 20
    assert [f.__name__ for f in own if inspect.unwrap(f) is f] == []


@pytest.mark.parametrize(
    ("arguments", "work"),
    [
        (["predict", "RUN", "DATA", "--out", "no/p.csv"], (predictor.Predictor, "logits")),
        (["report", "RUN", "--out", "no/a.html"], (api, "write_run_report")),
        (["compare", "RUN", "RUN", "--html", "no/c.html"], (api.comparison, "compare")),
        (["data", "info", "DATA", "--out", "no/a.png"], (api, "open_source")),
        (["evaluate", "RUN", "--shift", "--html", "no/s.html"], (shift, "measure_shift")),
        (["landscape", "RUN", "--out", "file/a"], (run_landscape, "meet")),
        (["reproduce", "xu", "--data", "DATA", "--out", "file/a"], (api, "open_source")),
        (["reproduce", "xu", "--data", "DATA", "--out", "file"], (api, "open_source")),
        (["study", "show", "study", "--html", "no/s.html"], (api, "write_page")),
        (["predict", "RUN", "DATA", "--out", "."], (predictor.Predictor, "logits")),
    ],
)
def test_what_cannot_be_written_is_said_before_the_work(
    home: Path, trained: Trained, monkeypatch: pytest.MonkeyPatch, arguments: list[str], work: tuple[Any, str]
) -> None:
    Path("file").write_bytes(b"")
    monkeypatch.setattr(*work, lambda *_, **__: pytest.fail("began the work"))
    given = [{"RUN": str(trained.path), "DATA": str(trained.data)}.get(word, word) for word in arguments]
    error = thriftnet(*given).error
    assert error.startswith("thriftnet: could not write ")
    assert any(why in error for why in ("create it or choose another", "choose another path", "the path of a file"))


def refuse(*_: object, **__: object) -> None:
    raise PermissionError(errno.EACCES, "Permission denied", "some/file")


def test_any_refusal_is_one_line_of_the_command(trained: Trained, monkeypatch: pytest.MonkeyPatch) -> None:
    for function in ("has", "read_bytes"):
        with monkeypatch.context() as patch:
            patch.setattr(RunFolder, function, refuse)
            error = thriftnet("report", trained.path).error
            assert error.startswith("thriftnet: could not use some/file: permission denied; give this user access")
            with pytest.raises(StorageError, match=r"^could not use some/file: permission denied"):
                api.report(trained.path)
    with monkeypatch.context() as patch:
        patch.setattr(recipes, "differences", refuse)  # outside the library's functions
        assert "could not use some/file" in thriftnet("recipes", "diff", "fast", "fast").error


def test_a_fault_of_the_program_is_no_refusal(trained: Trained, monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(*_: object, **__: object) -> None:
        raise FileNotFoundError(errno.ENOENT, "No such file or directory", "thriftnet/forgotten.toml")

    monkeypatch.setattr(inference, "measure", wrong)
    with pytest.raises(FileNotFoundError):
        thriftnet("evaluate", trained.path)


def test_a_folder_in_place_of_a_file(trained: Trained) -> None:
    (trained.path / "temperature.json").mkdir()
    assert "has no temperature yet" in thriftnet("evaluate", trained.path, "--calibrated").error
    (trained.path / "events.jsonl").unlink()
    (trained.path / "events.jsonl").mkdir()
    assert "events.jsonl: it is a folder" in thriftnet("evaluate", trained.path).error


def test_a_study_whose_files_are_folders(tmp_path: Path, shared_run: Trained) -> None:
    pytest.importorskip("optuna")
    study = tmp_path / "s.toml"
    (tmp_path / "tiny.toml").write_bytes(shared_run.recipe.read_bytes())
    study.write_bytes(
        BOM_UTF8
        + b"""recipe = "tiny.toml"
objective = "validation_accuracy"
trials = 1
[sampler]
name = "random"
[space]
"optimizer.lr" = {low = 0.01, high = 0.1}
"""
    )
    command = ("study", "run", study, "--data", shared_run.data, "--set", "training.epochs=1", "--out", tmp_path / "o")
    outcome = thriftnet(*command)
    assert outcome.status == 0, outcome.stderr
    for name in ("journal.log", "study.lock"):
        kept = (tmp_path / "o" / name).rename(tmp_path / name)
        (tmp_path / "o" / name).mkdir()
        assert f"{name}: it is a folder; give the path of a file" in thriftnet(*command).error
        (tmp_path / "o" / name).rmdir()
        kept.rename(tmp_path / "o" / name)
    assert thriftnet(*command).status == 0


def test_text_with_a_byte_order_mark_is_read(trained: Trained, tmp_path: Path) -> None:
    marked = tmp_path / "marked.toml"
    marked.write_bytes(BOM_UTF8 + trained.recipe.read_bytes())
    assert thriftnet("recipes", "show", marked).stdout == thriftnet("recipes", "show", trained.recipe).stdout
    assert not thriftnet("recipes", "show", marked, "--source").stdout.splitlines()[1].startswith("\ufeff")
    child = tmp_path / "child.toml"
    child.write_bytes(BOM_UTF8 + b'inherits = "marked"\n[training]\nepochs = 2\n')
    assert recipes.load(str(child)).training.epochs == 2
    claims = tmp_path / "claims.toml"
    claims.write_bytes(BOM_UTF8 + b"paper = []\nclaim = []\ndirection = []\n")
    with pytest.raises(RecipeError, match="claims: paper: Tuple should have at least 1"):  # it was read
        load_claims(claims)
    (trained.path / "SHA256SUMS").unlink()  # with it, what an editor changed is damaged
    for name in ("metrics.csv", "result.json", "data.json", "recipe.toml"):
        (trained.path / name).write_bytes(BOM_UTF8 + (trained.path / name).read_bytes())
    assert api.load_run(trained.path).history[0]["epoch"] == 1
    assert thriftnet("report", trained.path).status == 0


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_every_script_says_how_it_is_used(script: Path) -> None:
    asked = subprocess.run([sys.executable, script, "--help"], capture_output=True, text=True)
    assert (asked.returncode, asked.stderr) == (0, "")
    assert asked.stdout.startswith(f"usage: {script.name}")


def score(predicted: Path, true: Path) -> subprocess.CompletedProcess[str]:
    script = next(path for path in SCRIPTS if path.stem == "score_predictions")
    return subprocess.run([sys.executable, script, predicted, true], capture_output=True, text=True)


def test_predictions_are_scored(tmp_path: Path) -> None:
    predicted, true, other = tmp_path / "p.csv", tmp_path / "t.csv", tmp_path / "o.csv"
    predicted.write_text("ID,Label,p_cat\n0,1,0.5\n1,1,0.5\n")
    true.write_bytes(BOM_UTF8 + b"ID,Label\r\n1,0\r\n0,1\r\n")  # as Excel saves it
    assert score(predicted, true).stdout == "1 of 2 right: 50.00%\n"
    other.write_text("id,label\n0,1\n")
    assert score(predicted, other).stderr == f"{other} has the columns id, label; give ID and Label\n"
    assert "No such file" in score(predicted, tmp_path / "absent.csv").stderr
    other.write_text("ID,Label\n0,1\n")
    assert "different ids: 1 are in one of them only" in score(predicted, other).stderr


@pytest.mark.parametrize(
    ("arguments", "missing"),
    [(["run"], "INPUT"), (["run", "--out", "p.csv"], "INPUT"), ([], "RUN..."), (["--out", "p.csv"], "RUN...")],
)
def test_predict_names_the_argument_that_is_missing(arguments: list[str], missing: str) -> None:
    outcome = thriftnet("predict", *arguments)
    assert outcome.status == 2
    assert f"Missing argument '{missing}'" in outcome.stderr


def test_a_study_whose_trials_are_elsewhere_goes_on_with_them() -> None:
    said = study_command("my study", "data set.npz", "sqlite:///a b.db")
    assert said == (
        "thriftnet study run 'my study/study.toml' --out 'my study' --data 'data set.npz' --storage 'sqlite:///a b.db'"
    )
