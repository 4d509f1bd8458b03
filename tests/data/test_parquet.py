from __future__ import annotations

import io
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from thriftnet.data.parquet import ParquetSource
from thriftnet.data.statistics import channel_statistics
from thriftnet.errors import DataError, UnlabelledError

STRUCT = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def pixels(count: int, side: int = 16, seed: int = 0, channels: int = 3) -> np.ndarray:
    shape = (count, side, side, channels) if channels > 1 else (count, side, side)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def png(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(array).save(stream, "PNG")
    return stream.getvalue()


def write(
    path: Path,
    images: Sequence[np.ndarray] | np.ndarray,
    labels: Sequence[Any] | None,
    *,
    image: str = "img",
    label: str = "label",
    paths: Sequence[str] | None = None,
    names: Sequence[str] | None = None,
    kind: pa.DataType = STRUCT,
    damaged: int | None = None,
) -> None:
    """A file as Hugging Face writes it."""
    encoded = [png(array) for array in images]
    if damaged is not None:
        encoded[damaged] = encoded[damaged][:50]
    rows = [{"bytes": item, "path": paths[row] if paths else None} for row, item in enumerate(encoded)]
    columns = {image: pa.array(rows if kind == STRUCT else encoded, kind)}
    if labels is not None:
        columns[label] = pa.array(labels)
    table = pa.table(columns)
    if names is not None:
        features = {image: {"_type": "Image"}, label: {"names": list(names), "_type": "ClassLabel"}}
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, row_group_size=2)


def test_train_and_test_in_several_shards(tmp_path: Path) -> None:
    images = pixels(7)
    for shard, rows in enumerate((slice(0, 2), slice(2, 3), slice(3, 5))):
        write(tmp_path / f"train-0000{shard}-of-00003.parquet", images[rows], [0, 1, 2, 0, 1][rows])
    write(tmp_path / "test-00000-of-00001.parquet", images[5:], [2, 2])
    source = ParquetSource(tmp_path)
    train, test = source.train(), source.test()
    assert np.array_equal(train.images.numpy(), images[:5].transpose(0, 3, 1, 2))
    assert train.labels.tolist() == [0, 1, 2, 0, 1]
    assert np.array_equal(test.images.numpy(), images[5:].transpose(0, 3, 1, 2))
    assert test.labels.tolist() == [2, 2]
    assert source.class_names == ("0", "1", "2")
    assert (source.format, source.location, source.has_test, source.notes) == ("parquet", str(tmp_path), True, ())


@pytest.mark.parametrize("kind", [STRUCT, pa.binary(), pa.large_binary()], ids=["struct", "binary", "large"])
@pytest.mark.parametrize(("image", "label"), [("img", "label"), ("image", "fine_label")])
def test_column_names_and_types(tmp_path: Path, kind: pa.DataType, image: str, label: str) -> None:
    images = pixels(2)
    write(tmp_path / "train.parquet", images, [1, 0], image=image, label=label, kind=kind)
    train = ParquetSource(tmp_path).train()
    assert np.array_equal(train.images.numpy(), images.transpose(0, 3, 1, 2))
    assert train.labels.tolist() == [1, 0]


def test_names_come_from_the_schema(tmp_path: Path) -> None:
    # One class has no image in this file, and is a class all the same.
    write(tmp_path / "train.parquet", pixels(2), [0, 2], names=["cat", "cow", "dog"], paths=["x/1.png", "y/1.png"])
    assert ParquetSource(tmp_path).class_names == ("cat", "cow", "dog")


def test_names_come_from_folders_in_paths_where_they_match_one_to_one(tmp_path: Path) -> None:
    file = tmp_path / "train.parquet"
    for paths, expected in (
        (["a/dog/1.png", "cat/1.png", "cat/2.png", "a\\dog\\2.png"], ("cat", "dog")),
        (["dog/1.png", "cat/1.png", "dog/2.png", "dog/2.png"], ("0", "1")),  # label 0 is in two folders
        (["all/1.png", "all/2.png", "all/3.png", "all/4.png"], ("0", "1")),  # one folder for both labels
        (["1.png", "2.png", "3.png", "4.png"], ("0", "1")),
        ([None, None, None, None], ("0", "1")),
    ):
        write(file, pixels(4), [1, 0, 0, 1], paths=paths)
        assert ParquetSource(tmp_path).class_names == expected


def test_a_file_of_no_split_gives_a_fixed_fifth_to_the_test_split(tmp_path: Path) -> None:
    images = pixels(20)
    write(tmp_path / "pets.parquet", images, [0, 1] * 10)
    for path in (tmp_path, tmp_path / "pets.parquet"):
        source = ParquetSource(path)
        train, test = source.train(), source.test()
        assert torch.bincount(test.labels).tolist() == [2, 2]
        both = [image.tobytes() for image in (*train.images.numpy(), *test.images.numpy())]
        assert sorted(both) == sorted(image.tobytes() for image in images.transpose(0, 3, 1, 2).copy())
        assert torch.equal(ParquetSource(path).test().images, test.images)
        assert "fixed stratified fifth" in source.notes[0]


def test_a_training_file_alone_has_no_test_split(tmp_path: Path) -> None:
    write(tmp_path / "train-00000-of-00001.parquet", pixels(4), [0, 1, 0, 1])
    source = ParquetSource(tmp_path / "train-00000-of-00001.parquet")
    assert len(source.train()) == 4
    assert not source.has_test
    with pytest.raises(DataError, match=r"has no test split; give a folder that also holds test-\*\.parquet"):
        source.test()


def test_training_decodes_no_test_image(tmp_path: Path) -> None:
    write(tmp_path / "train.parquet", pixels(2), [0, 1])
    write(tmp_path / "test.parquet", pixels(2), [0, 1], damaged=0)
    source = ParquetSource(tmp_path)
    assert len(source.train()) == 2
    with pytest.raises(DataError, match=r"^1 of 2 images cannot be read: .*test\.parquet row 0 \("):
        source.test()


def test_one_corrupt_image_among_good_ones_is_named_by_file_and_row(tmp_path: Path) -> None:
    write(tmp_path / "train-00000-of-00002.parquet", pixels(3), [0, 1, 0])
    write(tmp_path / "train-00001-of-00002.parquet", pixels(5), [0, 1, 0, 1, 0], damaged=3)
    with pytest.raises(
        DataError, match=r"^1 of 8 images .* \S*train-00001-of-00002\.parquet row 3 \(.*\); replace or remove"
    ):
        ParquetSource(tmp_path).train()


def test_a_row_without_an_image_is_named(tmp_path: Path) -> None:
    rows = [{"bytes": png(pixels(1)[0]), "path": None}, {"bytes": None, "path": "somewhere.png"}]
    pq.write_table(pa.table({"img": pa.array(rows, STRUCT), "label": [0, 1]}), tmp_path / "train.parquet")
    with pytest.raises(DataError, match=r"train\.parquet row 1 \(not a PNG"):
        ParquetSource(tmp_path).train()


def test_without_labels_the_columns_are_named(tmp_path: Path) -> None:
    path = tmp_path / "train.parquet"
    write(path, pixels(2), None)
    with pytest.raises(
        DataError, match=r"has no column label or fine_label, only img; training and evaluation need labels"
    ):
        ParquetSource(path)


def test_without_images_the_columns_are_named(tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": ["a"], "label": [0]}), tmp_path / "x.parquet")
    with pytest.raises(DataError, match="has no column img or image, only text, label; rename"):
        ParquetSource(tmp_path)
    pq.write_table(pa.table({"img": [1], "label": [0]}), tmp_path / "x.parquet")
    with pytest.raises(DataError, match="column img is int64, not encoded images"):
        ParquetSource(tmp_path)
    pq.write_table(pa.table({"photo": [b""], "mask": [b""], "label": [0]}), tmp_path / "x.parquet")
    with pytest.raises(DataError, match="only photo, mask, label; rename photo or mask to image"):
        ParquetSource(tmp_path)


@pytest.mark.parametrize(
    "column",
    [
        pa.array([{"bytes": None, "path": "a.png"}, {"bytes": None, "path": "b.png"}], STRUCT),
        pa.array([{"path": "a.png"}, {"path": "b.png"}]),
        pa.array(["a.png", "b.png"]),
    ],
)
def test_paths_alone_are_no_images(tmp_path: Path, column: pa.Array) -> None:
    pq.write_table(pa.table({"image": column, "label": [0, 1]}), tmp_path / "train.parquet")
    with pytest.raises(DataError, match=r"column image holds the paths of images, not the images; give the folder"):
        ParquetSource(tmp_path).train()


def several_columns(path: Path, images: Sequence[str], labels: Sequence[str]) -> Path:
    """Different images and labels in every column, the first ones 0 and 1."""
    columns = [pa.array([png(array) for array in pixels(2, seed=at)]) for at, _ in enumerate(images)]
    columns += [pa.array([at, at + 1]) for at, _ in enumerate(labels)]
    pq.write_table(pa.Table.from_arrays(columns, [*images, *labels]), path)
    return path


@pytest.mark.parametrize(
    ("images", "labels", "note"),
    [
        (["image", "mask"], ["label"], "images are column image, labels label; not used: mask"),
        (["img", "image"], ["label"], "images are column img, labels label; not used: image"),
        (["img"], ["fine_label", "coarse_label"], "images are column img, labels fine_label; not used: coarse_label"),
        (["img"], ["label", "fine_label"], "images are column img, labels label; not used: fine_label"),
    ],
)
def test_of_several_columns_the_known_name_is_used_and_the_others_are_told(
    tmp_path: Path, images: list[str], labels: list[str], note: str
) -> None:
    source = ParquetSource(several_columns(tmp_path / "train.parquet", images, labels))
    assert source.notes == (note,)
    assert np.array_equal(source.train().images.numpy(), pixels(2).transpose(0, 3, 1, 2))
    assert source.train().labels.tolist() == [0, 1]


@pytest.mark.parametrize(("images", "labels"), [(["img", "img"], ["label"]), (["img"], ["label", "label"])])
def test_two_columns_of_one_name_are_refused(tmp_path: Path, images: list[str], labels: list[str]) -> None:
    path = several_columns(tmp_path / "train.parquet", images, labels)
    with pytest.raises(DataError, match=r"train\.parquet has 2 columns named (img|label); keep one, or rename the oth"):
        ParquetSource(path)


def test_all_files_have_the_same_column_of_labels(tmp_path: Path) -> None:
    write(tmp_path / "train.parquet", pixels(2), [0, 1], label="fine_label")
    several_columns(tmp_path / "test.parquet", ["img"], ["label", "fine_label"])
    with pytest.raises(DataError, match="has label 2 at row 1"):  # those of fine_label are 1 and 2
        ParquetSource(tmp_path).test()
    write(tmp_path / "test.parquet", pixels(2), [0, 1], label="label")
    with pytest.raises(DataError, match=r"test\.parquet has no column fine_label, only img, label"):
        ParquetSource(tmp_path)


class TestClassNames:
    """The test split, and every shard, may list the classes in another order."""

    def test_are_matched_by_name(self, tmp_path: Path) -> None:
        write(tmp_path / "train-00000-of-00002.parquet", pixels(2), [0, 1], names=["cat", "dog"])
        write(tmp_path / "train-00001-of-00002.parquet", pixels(2), [0, 1], names=["dog", "cat"])
        write(tmp_path / "test.parquet", pixels(3), [0, 1, 1], names=["dog", "cat"])
        source = ParquetSource(tmp_path)
        assert source.class_names == ("cat", "dog")
        assert source.train().labels.tolist() == [0, 1, 1, 0]
        assert source.test().labels.tolist() == [1, 0, 0]
        assert source.notes == (
            "the train split lists its classes in another order: matched by name",
            "the test split lists its classes in another order: matched by name",
        )

    def test_of_fewer_classes_are_matched_too(self, tmp_path: Path) -> None:
        write(tmp_path / "train.parquet", pixels(3), [0, 1, 2], names=["cat", "cow", "dog"])
        write(tmp_path / "test.parquet", pixels(2), [0, 1], names=["cow", "dog"])
        assert ParquetSource(tmp_path).test().labels.tolist() == [1, 2]
        write(tmp_path / "test.parquet", pixels(2), [0, 2], names=["cow", "dog"])
        with pytest.raises(DataError, match=r"test\.parquet has label 2 at row 1, but 2 classes"):
            ParquetSource(tmp_path).test()

    @pytest.mark.parametrize("names", [["cat", "fox"], ["dog", "dog"]])
    def test_that_do_not_fit_are_refused_before_training(self, tmp_path: Path, names: list[str]) -> None:
        write(tmp_path / "train.parquet", pixels(2), [0, 1], names=["cat", "dog"])
        write(tmp_path / "test.parquet", pixels(2), [0, 1], names=names)
        with pytest.raises(
            DataError, match=rf"test\.parquet has the classes {', '.join(names)}, the training split cat, dog; give"
        ):
            ParquetSource(tmp_path)

    @pytest.mark.parametrize(
        ("named", "note"),
        [
            ("train", "files of the test split name no classes: their labels are taken by number"),
            ("test", "the test split names its classes, the training split does not: its labels are taken by number"),
        ],
    )
    def test_of_one_split_alone_are_told(self, tmp_path: Path, named: str, note: str) -> None:
        for split in ("train", "test"):
            write(tmp_path / f"{split}.parquet", pixels(2), [0, 1], names=["cat", "dog"] if split == named else None)
        source = ParquetSource(tmp_path)
        assert source.test().labels.tolist() == [0, 1]
        assert source.notes == (note,)

    def test_in_json_that_is_nested_too_deep_are_none(self, tmp_path: Path) -> None:
        write(tmp_path / "train.parquet", pixels(2), [0, 1])
        table = pq.read_table(tmp_path / "train.parquet").replace_schema_metadata({"huggingface": "[" * 100_000})
        pq.write_table(table, tmp_path / "train.parquet")
        assert ParquetSource(tmp_path).class_names == ("0", "1")

    def test_from_folders_in_paths_are_matched_by_folder(self, tmp_path: Path) -> None:
        write(tmp_path / "train.parquet", pixels(2), [0, 1], paths=["cat/1.png", "dog/1.png"])
        for paths, expected in (
            (["x/dog/1.png", "x/cat/2.png"], [1, 0]),
            (["test/1.png", "test/2.png"], [0, 1]),  # no folders of classes
        ):
            write(tmp_path / "test.parquet", pixels(2), [0, 1], paths=paths)
            assert ParquetSource(tmp_path).test().labels.tolist() == expected


@pytest.mark.parametrize("labels", [[-1, -1], [None, None], None])
def test_a_test_split_without_labels_is_said_and_training_goes_on(tmp_path: Path, labels: list[Any] | None) -> None:
    write(tmp_path / "train.parquet", pixels(2), [0, 1])
    write(tmp_path / "test.parquet", pixels(2), labels)
    source = ParquetSource(tmp_path)
    assert len(source.train()) == 2
    with pytest.raises(UnlabelledError, match=r"test\.parquet: 2 images without labels; training and evalu") as caught:
        source.test()
    assert caught.value.images == 2
    write(tmp_path / "test.parquet", pixels(2), [0, -1])
    with pytest.raises(DataError, match=r"test\.parquet row 1 has label = -1"):
        ParquetSource(tmp_path).test()


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (["cat", "dog"], "column label is string; labels must be integers from 0, and the texts the names of a Cla"),
        ([0.0, 1.0], "column label is double; labels must be integers from 0; cast them to int64"),
        ([[0, 1], [1, 0]], r"column label is list<.*>; labels must be integers from 0; of one-hot rows keep the pl"),
        ([0, None], r"train\.parquet row 1 has label = None; every row needs a label from 0"),
        ([0, -1], r"train\.parquet row 1 has label = -1"),
    ],
)
def test_unusable_labels_are_named(tmp_path: Path, labels: list[Any], message: str) -> None:
    write(tmp_path / "train.parquet", pixels(2), labels)
    with pytest.raises(DataError, match=message):
        ParquetSource(tmp_path).train()


def test_a_test_label_beyond_the_classes_is_named(tmp_path: Path) -> None:
    write(tmp_path / "train.parquet", pixels(2), [0, 1])
    write(tmp_path / "test.parquet", pixels(2), [0, 2])
    with pytest.raises(DataError, match="split test, has label 2 at row 1, but 2 classes"):
        ParquetSource(tmp_path).test()


@pytest.mark.parametrize("share", [0.0, 0.3, 0.95])
def test_a_truncated_file_is_named(tmp_path: Path, share: float) -> None:
    path = tmp_path / "train.parquet"
    write(path, pixels(4), [0, 1, 0, 1])
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    with pytest.raises(DataError, match=r"train\.parquet is no readable Parquet file \(.+\); download it again"):
        ParquetSource(path)


def test_damage_inside_a_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "train.parquet"
    write(path, pixels(40), [0, 1] * 20)
    content = bytearray(path.read_bytes())
    content[4:40] = b"\xff" * 36  # the header of the first page of images
    path.write_bytes(content)
    source = ParquetSource(path)
    with pytest.raises(DataError, match=r"train\.parquet is damaged \(.+\); download it again"):
        source.train()


def test_images_of_several_sizes_need_a_side(tmp_path: Path) -> None:
    write(tmp_path / "train.parquet", [pixels(1, 16)[0], pixels(1, 20)[0]], [0, 1])
    with pytest.raises(
        DataError, match=r"row 1 has 20x20 pixels, the images before it 16x16; resize them with --set data"
    ):
        ParquetSource(tmp_path).train()
    assert ParquetSource(tmp_path, image_side=24).train().images.shape == (2, 3, 24, 24)


def test_grey_images_have_one_channel_and_the_test_split_follows(tmp_path: Path) -> None:
    write(tmp_path / "train.parquet", pixels(2, channels=1), [0, 1])
    write(tmp_path / "test.parquet", pixels(2), [0, 1])
    source = ParquetSource(tmp_path)
    assert source.train().images.shape == (2, 1, 16, 16)
    assert source.test().images.shape == (2, 1, 16, 16)


def test_no_rows_are_said(tmp_path: Path) -> None:
    write(tmp_path / "train.parquet", [], pa.array([], pa.int64()))
    with pytest.raises(DataError, match="has no rows in its train split"):
        ParquetSource(tmp_path).train()


@pytest.mark.skipif(
    "THRIFTNET_TEST_CIFAR10" not in os.environ, reason="THRIFTNET_TEST_CIFAR10 names no CIFAR-10 Parquet"
)
def test_real_cifar_10() -> None:
    source = ParquetSource(Path(os.environ["THRIFTNET_TEST_CIFAR10"]))
    names = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
    assert source.class_names == names
    train = source.train()
    assert train.images.shape == (50_000, 3, 32, 32)
    assert torch.bincount(train.labels).tolist() == [5_000] * 10
    # Known of the original pixels; a JPEG copy is a little smoother.
    mean, std = channel_statistics(train.images)
    assert mean == pytest.approx((0.4914, 0.4822, 0.4465), abs=0.001)
    assert std == pytest.approx((0.2470, 0.2435, 0.2616), abs=0.003)
    assert torch.bincount(source.test().labels).tolist() == [1_000] * 10


def test_a_validation_split_beside_a_test_split_is_read(tmp_path: Path) -> None:
    for split, count in (("train", 6), ("validation", 4), ("test", 2)):
        write(tmp_path / f"{split}.parquet", pixels(count, seed=count), [number % 2 for number in range(count)])
    source = ParquetSource(tmp_path)
    validation = source.validation()
    assert validation is not None
    assert np.array_equal(validation.images.numpy(), pixels(4, seed=4).transpose(0, 3, 1, 2))
    assert (source.has_validation, len(source.train()), len(source.test())) == (True, 6, 2)
