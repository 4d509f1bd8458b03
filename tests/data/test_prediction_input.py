from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from thriftnet.data.prediction_input import Unlabelled, read_unlabelled
from thriftnet.errors import DataError

from .test_cifar import written

IMAGES = np.random.default_rng(0).integers(0, 256, (4, 3, 32, 32), dtype=np.uint8)


def read(path: Path, channels: int = 3, side: int = 32) -> Unlabelled:
    return read_unlabelled(path, channels, side)


def pickled(folder: Path, content: Any, protocol: int = 4) -> Path:
    path = folder / "custom.pkl"
    path.write_bytes(pickle.dumps(content, protocol))
    return path


@pytest.mark.parametrize(
    ("array", "note"),
    [
        (IMAGES.reshape(4, 3072), "4x3072: flat rows, channel by channel"),
        (IMAGES, "4x3x32x32: channels first"),
        (IMAGES.transpose(0, 2, 3, 1), "4x32x32x3: channels last"),
        (IMAGES.astype(np.int64), "4x3x32x32: channels first"),
    ],
)
@pytest.mark.parametrize("key", [str, str.encode])
def test_the_courses_pickle_in_every_layout(tmp_path: Path, array: np.ndarray, note: str, key: Any) -> None:
    for protocol in range(6):
        content = {key("data"): array, key("ids"): np.array([7, 3, 9, 1])}
        found = read(pickled(tmp_path, content, protocol))
        assert np.array_equal(found.images.numpy(), IMAGES)
        assert found.ids == (7, 3, 9, 1)
        assert found.notes == (note,)


@pytest.mark.parametrize(
    ("ids", "expected"),
    [
        ([4, 3, 2, 1], (4, 3, 2, 1)),
        (("a", "b", "c", "d"), ("a", "b", "c", "d")),
        ([b"a", b"b", b"c", b"d"], ("a", "b", "c", "d")),
        (np.array(["a", "b", "c", "d"]), ("a", "b", "c", "d")),
        (np.array([[4], [3], [2], [1]], np.uint16), (4, 3, 2, 1)),
    ],
)
def test_ids_of_every_kind(tmp_path: Path, ids: Any, expected: tuple[Any, ...]) -> None:
    found = read(pickled(tmp_path, {b"data": IMAGES, b"ids": ids}))
    assert found.ids == expected
    assert [type(value) for value in found.ids] == [type(value) for value in expected]


def test_without_ids_images_are_numbered_and_a_note_says_so(tmp_path: Path) -> None:
    for content in ({b"data": IMAGES}, IMAGES, {"data": IMAGES, "ids": None}):
        found = read(pickled(tmp_path, content))
        assert found.ids == (0, 1, 2, 3)
        assert found.notes[-1] == "no ids: images are numbered from 0"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({b"data": IMAGES, b"ids": [1, 2, 2, 3]}, r"ids: the id 2 appears more than once; ids must differ"),
        ({b"data": IMAGES, b"ids": [1, "1", 2, 3]}, r"the id 1 appears more than once"),
        ({b"data": IMAGES, b"ids": [1, 2]}, r"ids: 2 ids for 4 images"),
        ({b"data": IMAGES, b"ids": 5}, r"ids: int ids for 4 images"),
        ({b"data": IMAGES, b"ids": [1, 2, 3, 0.5]}, r"0\.5 is no id; ids are whole numbers or text"),
        ({b"data": IMAGES.reshape(4, -1)[:, :-1]}, r"data has rows of 3071 values"),
        ({b"data": IMAGES / 255}, r"data holds float64"),
        ({b"images": IMAGES}, r"holds b'images'; expected a dict with b'data' \(an array\) and b'ids'"),
        ({}, r"holds nothing; expected a dict"),
        ({b"data": [[1, 2]]}, r"expected a dict with b'data' \(an array\)"),
        ([1, 2], r"holds list; expected a dict"),
    ],
)
def test_unusable_pickles_are_said(tmp_path: Path, content: Any, message: str) -> None:
    with pytest.raises(DataError, match=rf"custom\.pkl.*{message}"):
        read(pickled(tmp_path, content))


class _Attack:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


def test_a_pickle_that_would_run_code_does_not(tmp_path: Path) -> None:
    path = pickled(tmp_path, {b"data": IMAGES, b"ids": _Attack(tmp_path / "ran")})
    with pytest.raises(DataError, match=r"custom\.pkl wants to use \w+\.mkdir.*nothing of it was run"):
        read(path)
    assert not (tmp_path / "ran").exists()


def test_other_sizes_and_channels_are_converted_and_noted(tmp_path: Path) -> None:
    path = pickled(tmp_path, {b"data": IMAGES, b"ids": [1, 2, 3, 4]})
    small = read(path, channels=1, side=16)
    assert small.images.shape == (4, 1, 16, 16)
    assert "resized from 32x32 to 16x16 pixels" in small.notes[1]
    assert small.notes[2] == "colour turned to grey"
    grey = read(pickled(tmp_path, {b"data": IMAGES[:, 0], b"ids": [1, 2, 3, 4]}))
    assert np.array_equal(grey.images.numpy(), np.repeat(IMAGES[:, :1], 3, axis=1))
    assert grey.notes == ("4x32x32: grey images", "grey repeated in three channels")


def picture(path: Path, index: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(IMAGES[index].transpose(1, 2, 0).copy()).save(path)


def test_a_folder_of_images_in_the_order_of_their_names(tmp_path: Path) -> None:
    for index, name in enumerate(("b.png", "a.png", "c/d.png", "10.png")):
        picture(tmp_path / name, index)
    found = read(tmp_path)
    assert found.ids == ("10.png", "a.png", "b.png", "c/d.png")
    assert np.array_equal(found.images.numpy(), IMAGES[[3, 1, 0, 2]])
    assert found.notes == ("4 images, in the order of their names",)
    (tmp_path / "notes.txt").write_text("")
    assert "notes.txt" in read(tmp_path).notes[1]


def test_one_image(tmp_path: Path) -> None:
    picture(tmp_path / "a.PNG")
    found = read(tmp_path / "a.PNG")
    assert found.ids == ("a.PNG",)
    assert found.images.shape == (1, 3, 32, 32)


def test_a_corrupt_image_among_good_ones_is_named(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(b"damaged")
    with pytest.raises(DataError, match=r"1 of 2 images cannot be read: \S*b\.png \(not a PNG, JPEG, .* image\)"):
        read(tmp_path)


def parquet(path: Path, **more: Any) -> Path:
    encoded = []
    for index in range(4):
        picture(path.parent / "x.png", index)
        encoded.append({"bytes": (path.parent / "x.png").read_bytes(), "path": None})
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    pq.write_table(pa.table({"img": pa.array(encoded, kind), **more}), path)
    return path


@pytest.mark.parametrize(("column", "ids"), [("id", [5, 6, 7, 8]), ("ID", ["a", "b", "c", "d"])])
def test_parquet_with_ids(tmp_path: Path, column: str, ids: list[Any]) -> None:
    found = read(parquet(tmp_path / "x.parquet", **{column: ids}))
    assert np.array_equal(found.images.numpy(), IMAGES)
    assert found.ids == tuple(ids)
    assert found.notes == ("4 images from column img", f"ids from column {column}")


def test_parquet_without_ids_or_with_labels_is_numbered(tmp_path: Path) -> None:
    found = read(parquet(tmp_path / "x.parquet", label=[0, 1, 2, 3]))
    assert found.ids == (0, 1, 2, 3)
    with pytest.raises(DataError, match="the id 5 appears more than once"):
        read(parquet(tmp_path / "x.parquet", id=[5, 5, 6, 7]))
    with pytest.raises(DataError, match="None is no id"):
        read(parquet(tmp_path / "x.parquet", id=[5, None, 6, 7]))


@pytest.mark.parametrize("key", ["images", "data", "x_test", "test_images"])
def test_npz(tmp_path: Path, key: str) -> None:
    path = tmp_path / "x.npz"
    np.savez(path, **{key: IMAGES, "ids": np.array([4, 3, 2, 1])})
    found = read(path)
    assert np.array_equal(found.images.numpy(), IMAGES)
    assert found.ids == (4, 3, 2, 1)
    np.savez(path, **{key: IMAGES.transpose(0, 2, 3, 1)})
    assert read(path).ids == (0, 1, 2, 3)
    assert np.array_equal(read(path).images.numpy(), IMAGES)
    np.savez(path, pictures=IMAGES)
    with pytest.raises(DataError, match="holds pictures; name the array of images `images`"):
        read(path)


@pytest.mark.parametrize("which", range(4))
@pytest.mark.parametrize("renamed", [None, "mine.dat"])
def test_one_file_of_cifar_in_each_of_its_layouts(tmp_path: Path, which: int, renamed: str | None) -> None:
    made = written(which)
    for name in (made.layout.train[0], made.layout.test):
        path = tmp_path / (renamed or name)
        path.write_bytes(made.batch(name))
        found = read(path)
        assert np.array_equal(found.images.numpy(), made.images[name].reshape(-1, 3, 32, 32))
        assert found.ids == (0, 1, 2)
        first = (
            f"3 records of {made.layout.name}" if made.layout.label_bytes else "3x3072: flat rows, channel by channel"
        )
        assert found.notes == (first, "the labels in the file are not used", "no ids: images are numbered from 0")
    assert read(path, channels=1, side=16).images.shape == (3, 1, 16, 16)


@pytest.mark.parametrize("content", [b"", b"\x00" * 3000, b"\x0b" + b"\x00" * 3072])
def test_a_binary_file_that_is_not_cifars_is_told_the_sizes(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "test.bin").write_bytes(content)
    with pytest.raises(
        DataError, match=r"test\.bin has [\d,]+ bytes .* neither records of 3073 \(CIFAR-10\) nor 3074 "
    ):
        read(tmp_path / "test.bin")


def test_an_archive_is_to_be_unpacked(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"\.tar\.gz is an archive; unpack it and give one file or a folder of it: a fold"
    ):
        read(written(0).packed(tmp_path))


def test_links_to_files_without_a_suffix(tmp_path: Path) -> None:
    made = parquet(tmp_path / "x.parquet")
    made.rename(tmp_path / "0a1b")
    assert np.array_equal(read(tmp_path / "0a1b").images.numpy(), IMAGES)


def test_what_is_nothing_of_this_is_said(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"there is nothing at .*missing; give a folder of images, an image"):
        read(tmp_path / "missing")
    with pytest.raises(DataError, match=r"has no PNG, JPEG, WebP, .* images; give"):
        read(tmp_path)
    # What cannot be looked at is absent to Python 3.14.
    with pytest.raises(DataError, match=r"cannot be opened \(.*too long|there is nothing at .*x"):
        read(tmp_path / ("x" * 1000))
    for name, content in (("x.csv", b"ID,Label\n"), ("x.zip", b"PK\x03\x04"), ("x.npy", b"\x93NUMPY"), ("y.txt", b"")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(
            DataError, match=rf"{name} is nothing that can be predicted; give a folder of images, an im"
        ):
            read(tmp_path / name)
    (tmp_path / "x.pkl").write_bytes(b"no pickle")
    with pytest.raises(DataError, match=r"x\.pkl is no readable pickle"):
        read(tmp_path / "x.pkl")
    empty = parquet(tmp_path / "x.parquet")
    pq.write_table(pq.read_table(empty).slice(0, 0), empty)
    with pytest.raises(DataError, match="has no rows; there is nothing to predict"):
        read(empty)


def test_a_folder_of_sets_instead_of_images(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", images=IMAGES)
    assert np.array_equal(read(tmp_path).images.numpy(), IMAGES)
    np.savez(tmp_path / "y.npz", images=IMAGES)
    with pytest.raises(DataError, match=r"has no images, but x\.npz, y\.npz; give one of these files"):
        read(tmp_path)


def test_what_a_folder_leaves_out_is_counted_and_linked_folders_are_read(tmp_path: Path) -> None:
    picture(tmp_path / "elsewhere" / "a.png")
    picture(tmp_path / "in" / "b.gif")
    picture(tmp_path / "in" / ".hidden.png")
    (tmp_path / "in" / "linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "in" / "again").symlink_to(tmp_path / "in")
    (tmp_path / "in" / "lost.png").symlink_to(tmp_path / "nowhere")
    found = read(tmp_path / "in")
    assert found.ids == ("b.gif", "linked/a.png")
    assert found.notes == (
        "2 images, in the order of their names",
        "1 hidden images are not used: .hidden.png",
        "1 links lead back to a folder that they lie in, and are not followed: again",
        "1 links lead nowhere: lost.png",
    )
