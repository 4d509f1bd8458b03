"""Names of files, classes and folders that are no UTF-8: everything works, and what is shown and stored is escaped."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.conftest import thriftnet
from tests.training.conftest import tiny_recipe
from thriftnet import recipe as recipes
from thriftnet.errors import DataError, escaped
from thriftnet.storage import write_atomic

CAFE = os.fsdecode(b"caf\xe9")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A set of photographs, a recipe and a run, all with names that are no UTF-8."""
    root = tmp_path_factory.mktemp("odd") / os.fsdecode(b"\xff")
    for label, name in enumerate((CAFE, "dog")):
        folder = root / "data" / name
        folder.mkdir(parents=True)
        for number in range(12):
            pixels = np.random.default_rng(number).integers(0, 60, (16, 16, 3)) + 150 * label
            Image.fromarray(pixels.astype(np.uint8)).save(folder / os.fsdecode(b"\xe9%d.png" % number))
    recipe = tiny_recipe(data={"validation_images": 6, "image_side": 16}, training={"epochs": 1})
    named = recipes.to_toml(recipe)
    assert named.startswith('name = "tiny"\n')
    (root / f"{CAFE}.toml").write_text(named.partition("\n")[2], encoding="utf-8")  # the file's name is the recipe's
    (root / "tiny.toml").write_text(named, encoding="utf-8")
    (root / f"{CAFE}-study.toml").write_text(
        'recipe = "tiny.toml"\nsummary = "one rate"\nobjective = "validation_loss"\ntrials = 1\n'
        'sampler = { name = "random", seed = 0 }\nspace.optimizer.lr = { values = [0.001, 0.01] }\n',
        encoding="utf-8",
    )
    assert thriftnet("train", root / f"{CAFE}.toml", "--data", root / "data", "--out", root / CAFE).status == 0
    return root


@pytest.mark.parametrize(
    "words",
    ["evaluate RUN", "evaluate RUN --json", "evaluate RUN --split validation", "calibrate RUN", "report RUN",
     "check RUN", "compare RUN RUN", "landscape RUN --images 8 --grid 3 --lines 1", "data info DATA --out SHEET",
     "predict RUN DATA --out CSV", "train --resume RUN", "evaluate RUN --shift --shift-images 2",
     "study run STUDY --data DATA --out SEARCHED"],
)  # fmt: skip
def test_every_command_works_with_them(place: Path, tmp_path: Path, words: str) -> None:
    paths = {"RUN": place / CAFE, "DATA": place / "data", "SHEET": tmp_path / "sheet.png", "CSV": tmp_path / "out.csv",
             "STUDY": place / f"{CAFE}-study.toml", "SEARCHED": tmp_path / CAFE}  # fmt: skip
    outcome = thriftnet(*(paths.get(word, word) for word in words.split()))
    assert outcome.status == 0, outcome.stderr
    if "STUDY" in words:
        outcome = thriftnet("study", "show", tmp_path / CAFE, "--html", tmp_path / CAFE / "page.html")
        assert outcome.status == 0, outcome.stderr


def test_they_are_stored_escaped(place: Path, tmp_path: Path) -> None:
    thriftnet("predict", place / CAFE, place / "data", "--out", tmp_path / "out.csv", "--names")
    rows = (tmp_path / "out.csv").read_text(encoding="utf-8").splitlines()
    assert rows[1].startswith("caf\\xe9/\\xe90.png,")
    thriftnet("report", place / CAFE, "--out", tmp_path / "page.html")
    assert "caf\\xe9" in (tmp_path / "page.html").read_text(encoding="utf-8")


def test_escaping() -> None:
    assert escaped(CAFE) == "caf\\xe9"
    assert escaped("caf\u00e9 \u732b") == "caf\u00e9 \u732b"


def test_text_is_written_whatever_is_in_it(tmp_path: Path) -> None:
    write_atomic(tmp_path / "text", CAFE)
    assert (tmp_path / "text").read_bytes() == b"caf\\xe9"


def test_ids_that_are_no_text_are_written_after_all_images_were_predicted(place: Path, tmp_path: Path) -> None:
    images = np.zeros((2, 16, 16, 3), np.uint8)
    (tmp_path / "in.pkl").write_bytes(pickle.dumps({"data": images, "ids": [CAFE, "\ud800"]}))
    assert thriftnet("predict", place / CAFE, tmp_path / "in.pkl", "--out", tmp_path / "out.csv").status == 0
    rows = (tmp_path / "out.csv").read_text(encoding="utf-8").splitlines()
    assert [row.split(",")[0] for row in rows] == ["ID", "caf\\xe9", "\\ud800"]


def test_a_message_shows_them_as_files_do() -> None:
    assert str(DataError(f"no {CAFE}")) == "no caf\\xe9"
