from __future__ import annotations

from pathlib import Path

import pytest

from thriftnet.data.open import open_source
from thriftnet.data.parquet_files import find_files, set_folders
from thriftnet.errors import DataError

from .test_parquet import pixels, write


def made(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def found(path: Path) -> dict[str, list[str]]:
    root = path if path.is_dir() else path.parent
    return {
        split: [file.relative_to(root).as_posix() for file in files] for split, files in find_files(path)[0].items()
    }


@pytest.mark.parametrize(
    ("train", "test"),
    [
        (["train-00000-of-00002.parquet", "train-00001-of-00002.parquet"], ["test-00000-of-00001.parquet"]),
        (
            ["train-00000-of-00002-1a2b.parquet", "train-00001-of-00002-c0de.parquet"],
            ["test-00000-of-00001-ff.parquet"],
        ),
        (["data/train-00000-of-00001.parquet"], ["data/test-00000-of-00001.parquet"]),
        (["train/0000.parquet", "train/0001.parquet"], ["test/0000.parquet"]),
        (["default/train/0000.parquet"], ["default/test/0000.parquet"]),
        (["plain_text/train/0000.parquet", "plain_text/train/0001.parquet"], ["plain_text/test/0000.parquet"]),
        (["train/train-00000-of-00001.parquet"], ["test/test-00000-of-00001.parquet"]),
        (["train/a.parquet", "train/b.parquet"], ["test/c.parquet"]),
        (["cifar10-train.parquet"], ["cifar10-test.parquet"]),
        (["cifar10-train-00000-of-00001.parquet"], ["cifar10-test-00000-of-00001.parquet"]),
        (["training.parquet"], ["testing.parquet"]),
        (["Train.parquet"], ["Test.parquet"]),
    ],
)
def test_splits_are_found_in_every_layout(tmp_path: Path, train: list[str], test: list[str]) -> None:
    made(tmp_path, *train, *test)
    assert found(tmp_path) == {"train": train, "test": test}
    assert find_files(tmp_path)[1] == ()
    made(tmp_path, ".cache/train.parquet")  # hidden folders are no sets
    assert found(tmp_path) == {"train": train, "test": test}


@pytest.mark.parametrize("layout", ["default/{}/0000.parquet", "{}/0000.parquet"])
def test_the_hubs_own_layout_is_opened(tmp_path: Path, layout: str) -> None:
    write(tmp_path / layout.format("train"), pixels(4), [0, 1, 0, 1], names=["cat", "dog"])
    write(tmp_path / layout.format("test"), pixels(2), [0, 1], names=["cat", "dog"])
    source = open_source(str(tmp_path))
    assert (source.format, len(source.train()), len(source.test())) == ("parquet", 4, 2)


def test_one_file_of_a_split_is_that_split(tmp_path: Path) -> None:
    for name in ("train-00000-of-00001.parquet", "train-00000-of-00001-1a2b.parquet", "train/0000.parquet"):
        made(tmp_path, name)
        assert list(find_files(tmp_path / name)[0]) == ["train"]
    assert found(tmp_path / "train") == {"train": ["0000.parquet"]}


def test_files_of_no_split_are_taken_together(tmp_path: Path) -> None:
    made(tmp_path, "cats.parquet", "dogs.parquet", "2019.parquet")
    assert found(tmp_path) == {"all": ["2019.parquet", "cats.parquet", "dogs.parquet"]}
    assert "fixed stratified fifth" in find_files(tmp_path)[1][0]


@pytest.mark.parametrize(
    "names",
    [
        ["train-00000-of-00003.parquet", "train-00002-of-00003.parquet"],
        ["train-00000-of-00003-1a2b3c4d.parquet", "train-00002-of-00003-5e6f7a8b.parquet"],
    ],
)
def test_missing_shards_are_counted(tmp_path: Path, names: list[str]) -> None:
    made(tmp_path, *names, "test-00000-of-00001.parquet")
    for path, count in ((tmp_path, 2), (tmp_path / names[0], 1)):
        with pytest.raises(
            DataError, match=rf"holds {count} of the 3 shards of train; give the folder with all of them"
        ):
            find_files(path)


def test_a_missing_shard_of_a_numbered_split_is_named(tmp_path: Path) -> None:
    made(tmp_path, "train/0000.parquet", "train/0002.parquet", "test/0000.parquet")
    for path, count, missing in ((tmp_path, 2, "0001"), (tmp_path / "train" / "0000.parquet", 1, "0001")):
        with pytest.raises(DataError, match=rf"train holds {count} of the shards of train, without {missing}; give"):
            find_files(path)


@pytest.mark.parametrize(
    "names",
    [
        ["train-00000-of-00002-1a2b.parquet", "train-00000-of-00002-3c4d.parquet"],
        ["train-00000-of-00001.parquet", "train-00000-of-00002.parquet"],
        ["train.parquet", "train-00000-of-00001.parquet"],
    ],
)
def test_shards_of_several_versions_are_refused(tmp_path: Path, names: list[str]) -> None:
    made(tmp_path, *names)
    with pytest.raises(DataError, match=r"holds train in more than one version: train.*; keep the files of one"):
        find_files(tmp_path)


def test_shards_that_are_not_used_may_be_missing(tmp_path: Path) -> None:
    made(tmp_path, "train.parquet", "test.parquet", "validation.parquet", "dev-00000-of-00002.parquet")
    assert find_files(tmp_path)[1][1:] == ("dev-*.parquet is not used",)


def test_validation_validates_or_stands_in_for_test(tmp_path: Path) -> None:
    made(tmp_path, "train.parquet", "validation.parquet")
    assert found(tmp_path)["test"] == ["validation.parquet"]
    assert find_files(tmp_path)[1] == ("validation-*.parquet is used as the test split",)
    made(tmp_path, "test.parquet", "odd.parquet")
    assert found(tmp_path)["test"] == ["test.parquet"]
    assert found(tmp_path)["validation"] == ["validation.parquet"]
    assert find_files(tmp_path)[1] == (
        "validation-*.parquet is the validation split, unless data.validation_images is above 0",
        "odd.parquet is not used",
    )


def test_what_is_not_used_or_incomplete_is_told(tmp_path: Path) -> None:
    made(tmp_path, "partial-train/0000.parquet", "valid/0000.parquet", "old/train.parquet", "plots/a.png")
    splits, notes = find_files(tmp_path)
    assert {split: files[0].parent.name for split, files in splits.items()} == {
        "train": "partial-train",
        "test": "valid",
    }
    assert notes == (
        "the folder valid is used as the test split",
        "partial-train holds a part of its split only",
        "the folder old is not used",
    )


def test_several_sets_and_none_are_said(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"holds no \.parquet file; give the folder that does"):
        find_files(tmp_path)
    made(tmp_path, "one/train/0000.parquet", "two/train-00000-of-00001.parquet", "pictures/cat/1.png")
    with pytest.raises(DataError, match="several sets: one, two; give one of these folders"):
        find_files(tmp_path)
    # A set may lie in a folder called train, with files of both splits.
    made(tmp_path, "deep/train/train.parquet", "deep/train/test.parquet")
    assert set_folders(tmp_path / "deep") == [tmp_path / "deep" / "train"]
