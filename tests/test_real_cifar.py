"""The whole job on real CIFAR-10 images: a short training beats chance, and its predictions are the measured ones."""

import csv
import os
import pickle
from pathlib import Path

import numpy as np
import pytest

import thriftnet
from thriftnet.data.open import open_source
from thriftnet.training.progress import SilentDisplay

CIFAR10 = os.environ.get("THRIFTNET_TEST_CIFAR10")


@pytest.mark.skipif(CIFAR10 is None, reason="THRIFTNET_TEST_CIFAR10 does not name a folder with CIFAR-10")
def test_a_narrow_twin_learns_real_images(tmp_path: Path) -> None:
    run = thriftnet.train(
        "liu-4x2",
        CIFAR10,
        out=tmp_path / "run",
        epochs=4,
        protocol="honest",
        overrides=[
            "model.widths=[8, 16, 32, 64]",
            "model.stem.width=8",
            "data.train_images=4000",
            "training.batch_size=64",
            "schedule.half_period_steps=none",
        ],
        display=SilentDisplay(),
    )
    measured = thriftnet.evaluate(run, "test").evaluation
    assert measured.count == 10_000
    assert measured.accuracy > 0.25  # chance is 0.10 with a standard error of 0.003
    # The course's pickle of the same images gets the same classes, so the CSV scores the measured accuracy.
    test = open_source(CIFAR10).test()
    ids = np.arange(len(test)) + 7
    pickled = tmp_path / "custom-test.pkl"
    pickled.write_bytes(pickle.dumps({b"data": test.images.flatten(1).numpy(), b"ids": ids}))
    thriftnet.predict(run, pickled, out=tmp_path / "answer.csv")
    with (tmp_path / "answer.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["ID"]) for row in rows] == ids.tolist()
    right = sum(int(row["Label"]) == label for row, label in zip(rows, test.labels.tolist(), strict=True))
    assert right / len(test) == measured.accuracy
