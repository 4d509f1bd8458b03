"""What is stored of every image, and when it is refused."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from thriftnet.errors import RunFolderError, StorageError
from thriftnet.evaluation.per_image import PerImageResults, read_per_image

RESULTS = PerImageResults(
    labels=torch.tensor([0, 1, 2]),
    predicted=torch.tensor([0, 2, 2]),
    true_class_probability=torch.tensor([0.75, 0.125, 1.0]),
    location="digits",
    images_sha256="ab",
    weights_sha256="cd",
)


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    RESULTS.write(tmp_path / "evaluation-test.safetensors")
    read = read_per_image(tmp_path / "evaluation-test.safetensors")
    assert read.correct.tolist() == [True, False, True]
    assert read.labels.tolist() == [0, 1, 2]
    assert read.true_class_probability.tolist() == [0.75, 0.125, 1.0]
    assert (read.location, read.images_sha256, read.weights_sha256) == ("digits", "ab", "cd")


def test_it_is_small(tmp_path: Path) -> None:
    many = torch.arange(10_000)
    replace(RESULTS, labels=many, predicted=many, true_class_probability=many / 10_000).write(tmp_path / "many")
    assert (tmp_path / "many").stat().st_size < 121_000


def test_a_missing_file_says_how_to_make_it(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match=rf"there is no .*; evaluate again: thriftnet evaluate {tmp_path}"):
        read_per_image(tmp_path / "evaluation-test.safetensors")


def test_damaged_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "evaluation-test.safetensors"
    RESULTS.write(path)
    whole = path.read_bytes()
    texts = {"location": "digits", "images_sha256": "ab", "weights_sha256": "cd"}
    columns = {"labels": torch.zeros(3), "predicted": torch.zeros(3), "true_class_probability": torch.zeros(3)}
    for damage in (
        lambda: path.write_bytes(whole[:-1]),
        lambda: path.write_bytes(b""),
        lambda: path.write_bytes(b"\x80\x04."),
        lambda: save_file(columns, path),  # no hashes
        lambda: save_file({"labels": torch.zeros(3)}, path, texts),
        lambda: save_file(columns | {"labels": torch.zeros(2)}, path, texts),
    ):
        damage()
        with pytest.raises(RunFolderError, match="is damaged"):
            read_per_image(path)


def test_it_is_complete_or_absent(tmp_path: Path) -> None:
    with pytest.raises(StorageError):
        RESULTS.write(tmp_path / "absent" / "evaluation-test.safetensors")
    assert list(tmp_path.iterdir()) == []
