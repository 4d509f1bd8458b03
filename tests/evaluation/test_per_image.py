"""What is stored of every image, and when it is refused."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save

from thriftnet.errors import RunFolderError
from thriftnet.evaluation.per_image import PerImageResults, decode_per_image

RESULTS = PerImageResults(
    labels=torch.tensor([0, 1, 2]),
    predicted=torch.tensor([0, 2, 2]),
    true_class_probability=torch.tensor([0.75, 0.125, 1.0]),
    location="digits",
    images_sha256="ab",
    weights_sha256="cd",
)


PATH = Path("run/evaluation-test.safetensors")


def test_what_is_encoded_is_read_again() -> None:
    read = decode_per_image(RESULTS.encoded(), PATH)
    assert read.correct.tolist() == [True, False, True]
    assert read.labels.tolist() == [0, 1, 2]
    assert read.true_class_probability.tolist() == [0.75, 0.125, 1.0]
    assert (read.location, read.images_sha256, read.weights_sha256) == ("digits", "ab", "cd")


def test_it_is_small() -> None:
    many = torch.arange(10_000)
    results = replace(RESULTS, labels=many, predicted=many, true_class_probability=many / 10_000)
    assert len(results.encoded()) < 121_000


def test_damaged_files_are_refused() -> None:
    whole = RESULTS.encoded()
    texts = {"location": "digits", "images_sha256": "ab", "weights_sha256": "cd"}
    columns = {"labels": torch.zeros(3), "predicted": torch.zeros(3), "true_class_probability": torch.zeros(3)}
    for damaged in (
        whole[:-1],
        b"",
        b"\x80\x04.",
        save(columns),  # no hashes
        save({"labels": torch.zeros(3)}, texts),
        save(columns | {"labels": torch.zeros(2)}, texts),
    ):
        with pytest.raises(RunFolderError, match=r"run/evaluation-test\.safetensors is damaged .* evaluate run"):
            decode_per_image(damaged, PATH)
