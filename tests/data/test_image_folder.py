from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from thriftnet.data.image_folder import ImageFolderSource, find_images
from thriftnet.errors import DataError


def picture(path: Path, width: int = 32, height: int = 32, mode: str = "RGB") -> np.ndarray:
    """Write an image that its name determines; returns its pixels."""
    rng = np.random.default_rng(zlib.crc32(path.name.encode()))
    array = rng.integers(0, 256, (height, width) if mode == "L" else (height, width, 3), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)
    return array


def folder(root: Path, per_class: int = 10, classes: tuple[str, ...] = ("cat", "dog")) -> Path:
    for name in classes:
        for number in range(per_class):
            picture(root / name / f"{name}{number}.png")
    return root


def test_own_test_folder(tmp_path: Path) -> None:
    folder(tmp_path / "train", 3)
    only = picture(tmp_path / "test" / "dog" / "x.png")
    source = ImageFolderSource(tmp_path)
    assert source.class_names == ("cat", "dog")
    assert source.train().labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert np.array_equal(source.test().images[0].numpy(), only.transpose(2, 0, 1))
    assert source.test().labels.tolist() == [1]
    assert (source.format, source.has_test, source.notes) == ("image-folder", True, ())


def test_without_one_a_fixed_fifth_is_the_test_split(tmp_path: Path) -> None:
    source = ImageFolderSource(folder(tmp_path))
    train, test = source.train(), source.test()
    assert torch.bincount(train.labels).tolist() == [8, 8]
    assert torch.bincount(test.labels).tolist() == [2, 2]
    pictures = {image.numpy().tobytes() for data in (train, test) for image in data.images}
    assert len(pictures) == 20
    assert "fixed stratified fifth" in source.notes[0]


def test_the_fifth_depends_on_names_alone(tmp_path: Path) -> None:
    first = ImageFolderSource(folder(tmp_path / "a"))
    second = ImageFolderSource(folder(tmp_path / "elsewhere" / "b"))
    tested = {image.numpy().tobytes() for image in first.test().images}
    assert torch.equal(first.test().images, second.test().images)
    # Five more pictures: one more is tested, and nothing that was tested is trained on.
    for number in range(5):
        picture(tmp_path / "a" / "cat" / f"another{number}.png")
    later = ImageFolderSource(tmp_path / "a")
    assert len(later.test()) == 5
    assert len(tested & {image.numpy().tobytes() for image in later.test().images}) >= 3


def test_the_fifth_is_not_simply_the_first_or_last_names(tmp_path: Path) -> None:
    source = ImageFolderSource(folder(tmp_path, 50))
    order = [path.name for path in source._test.paths[:10]]
    names = sorted(f"cat{number}.png" for number in range(50))
    assert order not in (names[:10], names[-10:])


@pytest.mark.parametrize("name", ["val", "validation", "Val"])
def test_a_validation_folder_stands_in_for_test_and_is_left_out_beside_it(tmp_path: Path, name: str) -> None:
    folder(tmp_path / "train", 2)
    folder(tmp_path / name, 1)
    source = ImageFolderSource(tmp_path)
    assert len(source.test()) == 2
    assert source.notes == (f"no test folder: {name.lower()} is the test split",)
    folder(tmp_path / "test", 2)
    source = ImageFolderSource(tmp_path)
    assert len(source.test()) == 4
    assert source.notes == (f"the folder {name} is not used",)


def test_training_needs_no_test_folder(tmp_path: Path) -> None:
    folder(tmp_path / "train", 2)
    picture(tmp_path / "test" / "unlabelled.png")
    source = ImageFolderSource(tmp_path)
    assert len(source.train()) == 4
    assert not source.has_test
    assert "1 test files that are no image in a class folder are not used: unlabelled.png" in source.notes
    with pytest.raises(DataError, match="has a train folder but no test images; put them into test/CLASS/"):
        source.test()


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    source = ImageFolderSource(folder(tmp_path, classes=("bus", "train")))
    assert source.class_names == ("bus", "train")


def test_numbered_classes_are_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    source = ImageFolderSource(folder(tmp_path, 2, classes=("10", "9", "0")))
    assert source.class_names == ("0", "9", "10")
    assert ImageFolderSource(folder(tmp_path, 2, classes=("a",))).class_names == ("0", "10", "9", "a")


def test_every_format_and_size_comes_to_one_side(tmp_path: Path) -> None:
    for number, ending in enumerate(("png", "jpg", "JPEG", "webp")):
        for name in ("a", "b"):
            picture(tmp_path / name / "deeper" / f"{number}.{ending}", width=40 + number, height=30)
    everything = [ImageFolderSource(tmp_path), ImageFolderSource(tmp_path, image_side=48)]
    assert [source.train().images.shape for source in everything] == [(6, 3, 32, 32), (6, 3, 48, 48)]


def test_a_set_of_grey_images_has_one_channel(tmp_path: Path) -> None:
    for name in ("a", "b"):
        for number in range(3):
            picture(tmp_path / "train" / name / f"{number}.png", mode="L")
        picture(tmp_path / "test" / name / "x.png")
    source = ImageFolderSource(tmp_path)
    assert source.train().images.shape[1] == 1
    assert source.test().images.shape[1] == 1


def test_one_corrupt_image_among_good_ones_is_named(tmp_path: Path) -> None:
    folder(tmp_path)
    path = tmp_path / "dog" / "dog3.png"
    path.write_bytes(path.read_bytes()[:100])
    source = ImageFolderSource(tmp_path)
    with pytest.raises(
        DataError, match=r"^1 of \d+ images cannot be read: \S*dog3\.png \(.+\); replace or remove them$"
    ):
        [source.train(), source.test()]


def test_training_opens_no_test_image(tmp_path: Path) -> None:
    folder(tmp_path / "train", 2)
    folder(tmp_path / "test", 2)
    (tmp_path / "test" / "cat" / "cat0.png").write_bytes(b"damaged")
    assert len(ImageFolderSource(tmp_path).train()) == 4


def test_other_files_are_left_out_and_said(tmp_path: Path) -> None:
    folder(tmp_path)
    for name in ("notes.txt", "cat/a.gif", "cat/b.csv", "cat/.DS_Store", ".hidden/x.png", "__MACOSX/cat/y.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    source = ImageFolderSource(tmp_path)
    assert source.class_names == ("cat", "dog")
    assert "3 files that are no image in a class folder are not used: cat/a.gif, cat/b.csv, notes.txt" in source.notes


@pytest.mark.parametrize("make", ["empty", "text", "empty classes"])
def test_a_folder_with_no_images_is_said(tmp_path: Path, make: str) -> None:
    if make == "text":
        (tmp_path / "a").mkdir()
        (tmp_path / "a" / "x.txt").write_text("x")
    elif make == "empty classes":
        (tmp_path / "a").mkdir()
        (tmp_path / "b").mkdir()
    with pytest.raises(DataError, match=r"has no images \(PNG, JPEG or WebP\) in class folders, nor CIFAR, Parquet"):
        ImageFolderSource(tmp_path)


def test_a_class_without_images_is_named(tmp_path: Path) -> None:
    folder(tmp_path)
    (tmp_path / "cow").mkdir()
    with pytest.raises(DataError, match="cow has no images; add some or remove the folder"):
        ImageFolderSource(tmp_path)


def test_images_without_class_folders_are_said(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    with pytest.raises(DataError, match="has images but no class folders; put them into one folder a class"):
        ImageFolderSource(tmp_path)


def test_a_class_that_is_only_tested_is_named(tmp_path: Path) -> None:
    folder(tmp_path / "train", 2)
    folder(tmp_path / "test", 2, classes=("cat", "cow"))
    with pytest.raises(DataError, match=r"test has class cow, which .*train lacks"):
        ImageFolderSource(tmp_path)


def test_find_images_sorts_by_relative_path(tmp_path: Path) -> None:
    for name in ("b.png", "a/c.jpg", "a.webp", "a/.x.png"):
        picture(tmp_path / name)
    (tmp_path / "z.txt").write_text("")
    images, others = find_images(tmp_path)
    assert [path.relative_to(tmp_path).as_posix() for path in images] == ["a.webp", "a/c.jpg", "b.png"]
    assert [path.name for path in others] == ["z.txt"]
