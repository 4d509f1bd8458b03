from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from thriftnet.data.dataset import LabelledImages
from thriftnet.data.image_folder import ImageFolderSource
from thriftnet.data.info import contact_sheet, describe
from thriftnet.data.open import open_source
from thriftnet.data.statistics import channel_statistics, fingerprint
from thriftnet.errors import DataError, StorageError

from .test_cifar import written
from .test_image_folder import folder, picture
from .test_parquet import pixels, write


def test_facts_are_of_the_training_split_and_counts_of_both(tmp_path: Path) -> None:
    folder(tmp_path / "train", 12)
    folder(tmp_path / "val", 2)
    picture(tmp_path / "val" / "dog" / "one more.png")
    source = ImageFolderSource(tmp_path)
    info = describe(source)
    train = source.train()
    assert info.test is not None
    assert (info.train.per_class, info.test.per_class) == ((12, 12), (2, 3))
    assert (info.train.images, info.train.shape, info.test.images) == (24, (3, 32, 32), 5)
    assert (info.mean, info.std) == channel_statistics(train.images)
    assert info.fingerprint == fingerprint(train)
    stored = json.loads(json.dumps(info.as_dict()))
    assert stored["splits"]["test"] == {"images": 5, "shape": [3, 32, 32], "per_class": [2, 3]}
    assert stored["class_names"] == ["cat", "dog"]
    assert stored["sha256"] == info.fingerprint
    text = info.text()
    assert "2 classes, 24 training images and 5 test images" in text
    assert "32x32 pixels, RGB, uint8" in text
    assert f"mean {info.mean[0]:.4f}/{info.mean[1]:.4f}/{info.mean[2]:.4f}" in text
    assert "note: no labelled test images: val is the test split" in text
    assert text.splitlines()[-2:] == ["    0  cat                12        2", "    1  dog                12        3"]


def test_without_a_test_split(tmp_path: Path) -> None:
    folder(tmp_path / "train", 2)
    info = describe(ImageFolderSource(tmp_path))
    assert info.test is None
    assert "no test split" in info.text()
    assert list(info.as_dict()["splits"]) == ["train"]


@pytest.mark.parametrize("form", ["parquet", "npz", "cifar"])
def test_a_test_split_without_labels_is_counted_as_that(tmp_path: Path, form: str) -> None:
    if form == "parquet":
        write(tmp_path / "train.parquet", pixels(4), [0, 1, 0, 1])
        write(tmp_path / "test.parquet", pixels(3), [-1, -1, -1])
    elif form == "npz":
        np.savez(tmp_path / "x.npz", x_train=pixels(4), y_train=[0, 1, 0, 1], x_test=pixels(3), y_test=[-1, -1, -1])
    else:
        made = written(0, per_file=20)
        made.labels = {name: np.arange(20) % 10 for name in made.images}
        made.images["test_batch"], made.labels["test_batch"] = made.images["test_batch"][:3], np.full(3, -1)
        made.unpacked(tmp_path)
    info = describe(open_source(str(tmp_path / "x.npz" if form == "npz" else tmp_path)))
    assert (info.test, info.unlabelled_test_images) == (None, 3)
    assert "training images and 3 test images without labels (they can only be predicted)" in info.text()
    assert info.as_dict()["unlabelled_test_images"] == 3
    assert info.text().splitlines()[-1].endswith(" -")  # not 0: nobody knows


def test_the_sheet_shows_the_first_ten_images_of_each_class(tmp_path: Path) -> None:
    source = ImageFolderSource(folder(tmp_path / "data" / "train", 12).parent)
    path = tmp_path / "sheet.png"
    describe(source, path)
    sheet = np.asarray(Image.open(path))
    train = source.train()
    width, pitch = sheet.shape[1] - 10 * 68, 68
    for label in (0, 1):
        first = int((train.labels == label).nonzero()[0])
        for column in (0, 9):
            left, top = width + column * pitch, 4 + label * pitch
            shown = sheet[top : top + 64 : 2, left : left + 64 : 2].transpose(2, 0, 1)
            assert np.array_equal(shown, train.images[first + column].numpy())
        names = sheet[4 + label * pitch :][:64, :width]
        assert names.min() < 100  # something is written there


def test_a_class_with_few_images_leaves_white(tmp_path: Path) -> None:
    images = torch.zeros(3, 1, 64, 64, dtype=torch.uint8)
    sheet = np.asarray(
        contact_sheet(LabelledImages(images, torch.tensor([0, 1, 1])), ("a", "an extraordinarily long name"))
    )
    columns = [sheet[4:68, -10 * 68 + 68 * column :][:, :64].max() for column in range(10)]
    assert columns == [0] + [255] * 9


def test_what_cannot_be_trained_on_is_said_here_too(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has 1 class"):
        describe(ImageFolderSource(folder(tmp_path, classes=("cat",))))


def test_a_sheet_that_cannot_be_written_is_a_storage_error(tmp_path: Path) -> None:
    source = ImageFolderSource(folder(tmp_path / "data"))
    with pytest.raises(StorageError, match="could not write"):
        describe(source, tmp_path / "missing" / "sheet.png")


def test_a_validation_split_has_a_column(tmp_path: Path) -> None:
    for name, count in (("train", 4), ("validation", 3), ("test", 2)):
        folder(tmp_path / name, count)
    info = describe(ImageFolderSource(tmp_path))
    assert info.validation is not None
    assert info.validation.per_class == (3, 3)
    text = info.text()
    assert "2 classes, 8 training images, 6 validation images and 4 test images" in text
    assert text.splitlines()[-2:] == [
        "    0  cat                 4          3        2",
        "    1  dog                 4          3        2",
    ]
    assert info.as_dict()["splits"]["validation"]["images"] == 6


def test_images_of_test_without_labels_are_counted(tmp_path: Path) -> None:
    folder(tmp_path / "train", 2)
    picture(tmp_path / "test" / "1.png")
    info = describe(ImageFolderSource(tmp_path))
    assert (info.test, info.unlabelled_test_images) == (None, 1)
    assert "4 training images and 1 test images without labels" in info.text()
