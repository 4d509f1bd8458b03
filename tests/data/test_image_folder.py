from __future__ import annotations

import errno
import os
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from thriftnet.data.image_files import find_images
from thriftnet.data.image_folder import ImageFolderSource
from thriftnet.data.open import open_source
from thriftnet.errors import DataError, UnlabelledError


def picture(path: Path, width: int = 32, height: int = 32, mode: str = "RGB") -> np.ndarray:
    """Write an image that its name determines; returns its pixels."""
    rng = np.random.default_rng(zlib.crc32(os.fsencode(path.name)))
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


@pytest.mark.parametrize("name", ["val", "validation", "Valid", "dev"])
def test_a_validation_folder_is_the_validation_split_or_stands_in_for_test(tmp_path: Path, name: str) -> None:
    folder(tmp_path / "train", 2)
    folder(tmp_path / name, 1)
    source = ImageFolderSource(tmp_path)
    assert (len(source.test()), source.validation()) == (2, None)
    assert source.notes == (f"no labelled test images: {name} is the test split",)
    folder(tmp_path / "test", 2)
    source = ImageFolderSource(tmp_path)
    assert len(source.test()) == 4
    validation = source.validation()
    assert validation is not None
    assert validation.labels.tolist() == [0, 1]
    assert source.notes == (f"{name} is the validation split, unless data.validation_images is above 0",)


@pytest.mark.parametrize("names", [("Training", "Testing"), ("TRAIN", "Test"), ("training", "test")])
def test_splits_are_known_by_either_name_in_any_case(tmp_path: Path, names: tuple[str, str]) -> None:
    for name, count in zip(names, (3, 2), strict=True):
        folder(tmp_path / name, count, classes=tuple("0123456789"))
    source = ImageFolderSource(tmp_path)
    assert source.class_names == tuple("0123456789")
    assert (len(source.train()), len(source.test())) == (30, 20)


@pytest.mark.parametrize(
    "names", [("learn", "test"), ("seg_train", "seg_test", "seg_pred"), ("train_images", "val_images")]
)
def test_folders_that_look_like_splits_are_no_classes(tmp_path: Path, names: tuple[str, ...]) -> None:
    for name in names:
        folder(tmp_path / name, 2)
    with pytest.raises(DataError, match="look like splits, not like classes; call them train and test"):
        ImageFolderSource(tmp_path)


def test_images_right_in_train_and_test_have_no_classes(tmp_path: Path) -> None:
    for name in ("train", "test"):
        picture(tmp_path / name / "1.png")
    with pytest.raises(DataError, match="test, train look like splits"):
        ImageFolderSource(tmp_path)


def test_kaggles_table_of_labels(tmp_path: Path) -> None:
    for number in (1, 2, 3, 10):
        picture(tmp_path / "train" / f"{number}.png")
    picture(tmp_path / "test" / "1.png")
    table = tmp_path / "trainLabels.csv"
    table.write_text("id,label\n1,frog\n2,cat\n10,frog\n", encoding="utf-8")
    source = ImageFolderSource(tmp_path)
    assert (source.class_names, source.has_test) == (("cat", "frog"), False)
    assert source.train().labels.tolist() == [1, 1, 0]
    assert source.notes == (
        "1 training images that trainLabels.csv does not name are not used: 3.png",
        "classes from trainLabels.csv; none of its images is a test split",
        "the 1 images of test have no labels: predict takes that folder",
    )
    table.write_text("id,label\n1,frog\n2,cat\n4,frog\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"trainLabels\.csv names 1 images that are not there: 4"):
        ImageFolderSource(tmp_path)
    table.write_bytes(b"\xff\xfe")
    with pytest.raises(DataError, match="is no table of id,label"):
        ImageFolderSource(tmp_path)


def test_tiny_imagenets_layout(tmp_path: Path) -> None:
    for name in ("n01", "n02"):
        for number in range(3):
            picture(tmp_path / "train" / name / "images" / f"{name}_{number}.JPEG")
    lines = []
    for number in range(4):
        picture(tmp_path / "val" / "images" / f"val_{number}.JPEG")
        lines.append(f"val_{number}.JPEG\tn0{1 + number % 2}\t0\t32\t55\t62\n")
        picture(tmp_path / "test" / "images" / f"test_{number}.JPEG")
    (tmp_path / "val" / "val_annotations.txt").write_text("".join(lines), encoding="utf-8")
    source = ImageFolderSource(tmp_path)
    assert source.train().labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert source.test().labels.tolist() == [0, 1, 0, 1]
    assert source.notes == (
        "the 4 images of test have no labels: predict takes that folder",
        "no labelled test images: val is the test split",
    )


def test_a_folder_around_the_set_names_the_set(tmp_path: Path) -> None:
    folder(tmp_path / "flowers-v2", 2)
    with pytest.raises(DataError, match=r"holds one folder, flowers-v2; give .*flowers-v2$"):
        ImageFolderSource(tmp_path)
    with pytest.raises(DataError, match=r"holds one folder, a; give .*a/b$"):
        ImageFolderSource(folder(tmp_path / "deep" / "a" / "b", 2).parents[1])


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_folder_around_the_classes_of_a_split_is_named(tmp_path: Path, split: str) -> None:
    for name in ("train", "test"):
        folder(tmp_path / name / (name if name == split else ""), 2)
    with pytest.raises(
        DataError, match=rf"{split} holds one folder, {split}; move the class folders of .*{split} into"
    ):
        ImageFolderSource(tmp_path)


def test_a_held_out_folder_beside_classes_is_no_class(tmp_path: Path) -> None:
    folder(tmp_path, 2, classes=("cat", "dog", "Test"))
    with pytest.raises(
        DataError, match=r"has the folder Test beside cat, dog: for splits, .*; a class needs another name"
    ):
        ImageFolderSource(tmp_path)


def test_a_train_folder_of_folders_beside_classes_is_refused(tmp_path: Path) -> None:
    folder(tmp_path, 2, classes=("bus", "car"))
    folder(tmp_path / "train", 2, classes=("diesel", "steam"))
    with pytest.raises(DataError, match="has train, with folders in it, beside bus, car, with images: for splits"):
        ImageFolderSource(tmp_path)
    assert ImageFolderSource(tmp_path / "train").class_names == ("diesel", "steam")


def test_what_lies_beside_the_splits_is_counted(tmp_path: Path) -> None:
    for name in ("train", "test", "extra"):
        folder(tmp_path / name, 2)
    picture(tmp_path / "stray.png")
    (tmp_path / "gone").symlink_to(tmp_path / "nowhere")
    (tmp_path / "README.md").write_text("")
    assert ImageFolderSource(tmp_path).notes == (
        "1 links lead nowhere: gone",
        "1 images that lie in no class folder are not used: stray.png",
        "the folder extra is not used: it has 4 images",
    )


@pytest.mark.parametrize("target", [".", "..", "fox", "/nowhere"])
def test_a_link_in_place_of_a_class_is_told(tmp_path: Path, target: str) -> None:
    """To the set itself, to what it lies in, to the link, to nothing: none is a class."""
    data = folder(tmp_path / "data", 3)
    (data / "fox").symlink_to(target)
    source = open_source(str(data))
    assert source.class_names == ("cat", "dog")
    assert len(source.train()) + len(source.test()) == 6
    assert source.notes[0].endswith(": fox")


def test_classes_further_in_are_told(tmp_path: Path) -> None:
    """Omniglot: alphabets hold characters, and the first level is taken as everywhere else."""
    for alphabet in ("Greek", "Latin"):
        for character in ("character01", "character02"):
            picture(tmp_path / alphabet / character / "1.png")
    source = ImageFolderSource(tmp_path)
    assert source.class_names == ("Greek", "Latin")
    assert "the 2 folders Greek, Latin are the classes; their images lie in 4 folders further in" in source.notes[0]


def test_links_are_followed_but_not_in_circles(tmp_path: Path) -> None:
    data = folder(tmp_path / "data", 3)
    folder(tmp_path / "elsewhere", 4, classes=("more",))
    (data / "cat" / "linked").symlink_to(tmp_path / "elsewhere" / "more")
    (data / "fox").symlink_to(tmp_path / "elsewhere" / "more")
    (data / "cat" / "round").symlink_to(data)
    (data / "dog" / "lost.png").symlink_to(tmp_path / "nowhere.png")
    source = ImageFolderSource(data)
    assert source.class_names == ("cat", "dog", "fox")
    assert len(source.train()) + len(source.test()) == 3 + 4 + 3 + 4
    found = find_images(data)
    assert len(found.images) == 10  # each folder once
    assert "1 links lead to a folder that is read already, and are not followed: cat/linked" in found.notes(data)
    assert "1 links lead nowhere: dog/lost.png" in source.notes
    assert "1 links lead back to a folder that they lie in, and are not followed: cat/round" in source.notes


def test_a_folder_that_cannot_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = folder(tmp_path, 5)
    closed = data / "cat" / "closed"
    closed.mkdir()
    usual = os.scandir

    def scandir(path: Path) -> object:
        if Path(path) == closed:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return usual(path)

    monkeypatch.setattr(os, "scandir", scandir)
    assert "1 folders cannot be read: cat/closed" in ImageFolderSource(data).notes


@pytest.mark.parametrize("ending", ["gif", "bmp", "tif", "tiff", "ppm", "pgm"])
def test_what_pillow_reads_is_an_image(tmp_path: Path, ending: str) -> None:
    for name in ("a", "b"):
        for number in range(3):
            picture(tmp_path / name / f"{number}.{ending}", mode="L" if ending == "pgm" else "RGB")
    source = ImageFolderSource(tmp_path)
    assert (len(source.train()), len(source.test())) == (5, 1)


def test_names_that_are_no_utf_8_are_worked_with_and_shown_escaped(tmp_path: Path) -> None:
    odd = os.fsdecode(b"caf\xe9")
    folder(tmp_path, 4, classes=(odd, "dog"))
    (tmp_path / odd / os.fsdecode(b"\xff.txt")).write_text("")
    source = ImageFolderSource(tmp_path)
    assert source.class_names == ("caf\\xe9", "dog")
    assert source.notes[0] == "1 files that are no image are not used: caf\\xe9/\\xff.txt"
    assert len(source.train()) + len(source.test()) == 8


def test_training_needs_no_test_folder(tmp_path: Path) -> None:
    folder(tmp_path / "train", 2)
    picture(tmp_path / "test" / "unlabelled.png")
    source = ImageFolderSource(tmp_path)
    assert len(source.train()) == 4
    assert (source.has_test, source.unlabelled_test_images) == (False, 1)
    assert source.notes == ("the 1 images of test have no labels: predict takes that folder",)
    with pytest.raises(UnlabelledError, match="test split: 1 images without labels"):
        source.test()
    (tmp_path / "test" / "unlabelled.png").unlink()
    with pytest.raises(DataError, match="has a train folder but no labelled test images; put them into test/CLASS/"):
        ImageFolderSource(tmp_path).test()


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
    for name in ("notes.txt", "cat/a.psd", "cat/b.csv", "cat/.DS_Store", ".hidden/x.png", "__MACOSX/cat/y.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    source = ImageFolderSource(tmp_path)
    assert source.class_names == ("cat", "dog")
    assert source.notes[:2] == (
        "1 hidden images are not used: .hidden/x.png",
        "3 files that are no image are not used: cat/a.psd, cat/b.csv, notes.txt",
    )


@pytest.mark.parametrize("make", ["empty", "text", "empty classes"])
def test_a_folder_with_no_images_is_said(tmp_path: Path, make: str) -> None:
    if make == "text":
        (tmp_path / "a").mkdir()
        (tmp_path / "a" / "x.txt").write_text("x")
    elif make == "empty classes":
        (tmp_path / "a").mkdir()
        (tmp_path / "b").mkdir()
    with pytest.raises(DataError, match=r"has no images \(PNG, JPEG, .*\) in class folders, nor CIFAR, Parquet"):
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
    found = find_images(tmp_path)
    assert [path.relative_to(tmp_path).as_posix() for path in found.images] == ["a.webp", "a/c.jpg", "b.png"]
    assert found.notes(tmp_path) == (
        "1 hidden images are not used: a/.x.png",
        "1 files that are no image are not used: z.txt",
    )
