from __future__ import annotations

import csv
import os
from pathlib import Path

import pytest
import torch

from thriftnet.errors import StorageError
from thriftnet.evaluation.prediction_file import write_predictions

NAMES = ("cat", 'dog, "big"', "été")


def test_exact_bytes_with_indices_and_with_names(tmp_path: Path) -> None:
    path = tmp_path / "p.csv"
    write_predictions(path, [7, 3, 5], torch.tensor([2, 0, 1]), None, NAMES, names=False)
    assert path.read_bytes() == b"ID,Label\n7,2\n3,0\n5,1\n"
    write_predictions(path, ["b.png", "a,1.png", "c"], torch.tensor([2, 0, 1]), None, NAMES, names=True)
    assert path.read_text("utf-8") == 'ID,Label\nb.png,été\n"a,1.png",cat\nc,"dog, ""big"""\n'


def test_probabilities_read_back_exactly(tmp_path: Path) -> None:
    probabilities = torch.rand(50, 3, generator=torch.Generator().manual_seed(0)).mul(20).softmax(1)
    predicted = probabilities.argmax(1)
    write_predictions(tmp_path / "p.csv", range(50), predicted, probabilities, NAMES, names=False)
    with open(tmp_path / "p.csv", encoding="utf-8", newline="") as stream:
        header, *rows = csv.reader(stream)
    assert header == ["ID", "Label", "p_cat", 'p_dog, "big"', "p_été"]
    assert [int(row[0]) for row in rows] == list(range(50))
    assert [int(row[1]) for row in rows] == predicted.tolist()
    assert torch.equal(torch.tensor([[float(value) for value in row[2:]] for row in rows]), probabilities)


def test_a_second_run_gives_the_same_bytes(tmp_path: Path) -> None:
    probabilities = torch.rand(5, 3)
    for name in ("a", "b"):
        write_predictions(tmp_path / name, range(5), probabilities.argmax(1), probabilities, NAMES, names=True)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_no_images_give_the_header_alone(tmp_path: Path) -> None:
    write_predictions(tmp_path / "p", [], torch.empty(0, dtype=torch.int64), torch.empty(0, 3), NAMES, names=False)
    assert (tmp_path / "p").read_text("utf-8").splitlines() == ['ID,Label,p_cat,"p_dog, ""big""",p_été']


def test_disagreeing_lengths_are_refused_and_leave_nothing(tmp_path: Path) -> None:
    two = torch.tensor([0, 1])
    with pytest.raises(ValueError, match="1 ids, 2 predictions"):
        write_predictions(tmp_path / "p", [1], two, None, NAMES, names=False)
    with pytest.raises(ValueError, match="2 probabilities an image for 3 classes"):
        write_predictions(tmp_path / "p", [1, 2], two, torch.ones(2, 2), NAMES, names=False)
    assert os.listdir(tmp_path) == []


def test_a_missing_folder_says_what_is_safe(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"p\.csv: its folder does not exist; no incomplete file is left"):
        write_predictions(tmp_path / "missing" / "p.csv", [1], torch.tensor([0]), None, NAMES, names=False)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="this system has no /dev/full")
def test_a_full_disk_says_so() -> None:
    with pytest.raises(StorageError, match="no space is left on the device"):
        write_predictions(Path("/dev/full"), [1], torch.tensor([0]), None, NAMES, names=False)


def test_a_failure_half_way_keeps_the_earlier_file(tmp_path: Path) -> None:
    path = tmp_path / "p.csv"
    path.write_text("earlier")
    with pytest.raises(IndexError):  # class 9 has no name: the failure comes after the first row
        write_predictions(path, [1, 2], torch.tensor([0, 9]), None, NAMES, names=True)
    assert path.read_text() == "earlier"
    assert os.listdir(tmp_path) == ["p.csv"]
