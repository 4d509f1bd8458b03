from __future__ import annotations

import gzip
import io
import os
import pickle
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from thriftnet.data.cifar import LAYOUTS, PIXELS, CifarSource, Layout, find_cifar_folder
from thriftnet.errors import DataError

FOLDERS = ("cifar-10-batches-py", "cifar-100-python", "cifar-10-batches-bin", "cifar-100-binary")


@dataclass
class Written:
    """A set in one of the published layouts, made here."""

    layout: Layout
    folder: str
    images: dict[str, np.ndarray]
    labels: dict[str, np.ndarray]
    names: list[str]
    protocol: int = 2
    key_type: type = bytes

    def files(self) -> dict[str, bytes]:
        files = {name: self.batch(name) for name in self.images}
        if self.layout.label_bytes:
            return files | {self.layout.meta: "\n".join([*self.names, ""]).encode()}
        return files | {self.layout.meta: self.pickled({self.layout.names: self.names, "num_vis": 3072})}

    def batch(self, name: str) -> bytes:
        images, labels = self.images[name], self.labels[name]
        if not self.layout.label_bytes:
            return self.pickled(
                {"data": images, self.layout.labels: labels.tolist(), "coarse_labels": [0] * len(images)}
            )
        coarse = [np.zeros((len(images), 1), np.uint8)] * (self.layout.label_bytes - 1)
        return np.hstack([*coarse, labels[:, None].astype(np.uint8), images]).tobytes()

    def pickled(self, content: dict[str, Any]) -> bytes:
        keyed = {key.encode() if self.key_type is bytes else key: value for key, value in content.items()}
        return pickle.dumps(keyed, self.protocol)

    def unpacked(self, root: Path) -> Path:
        folder = root / self.folder
        folder.mkdir(parents=True)
        for name, content in self.files().items():
            (folder / name).write_bytes(content)
        return folder

    def packed(self, root: Path, name: str = "") -> Path:
        path = root / (name or self.layout.archive)
        with tarfile.open(path, "w:gz", compresslevel=1) as archive:
            for file, content in self.files().items():
                member = tarfile.TarInfo(f"{self.folder}/{file}")
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
        return path

    def expected(self, files: tuple[str, ...]) -> tuple[np.ndarray, list[int]]:
        images = np.concatenate([self.images[name] for name in files]).reshape(-1, 3, 32, 32)
        return images, np.concatenate([self.labels[name] for name in files]).tolist()


def written(which: int, per_file: int = 3, seed: int = 0, **options: Any) -> Written:
    rng, layout = np.random.default_rng(seed), LAYOUTS[which]
    files = (*layout.train, layout.test)
    images = {name: rng.integers(0, 256, (per_file, 3072), dtype=np.uint8) for name in files}
    labels = {name: rng.integers(0, layout.classes, per_file) for name in files}
    names = [f"class {number}" for number in range(layout.classes)]
    return Written(layout, FOLDERS[which], images, labels, names, **options)


def check(source: CifarSource, made: Written) -> None:
    for data, files in ((source.train(), made.layout.train), (source.test(), (made.layout.test,))):
        images, labels = made.expected(files)
        assert np.array_equal(data.images.numpy(), images)
        assert data.labels.tolist() == labels
    assert source.class_names == tuple(made.names)
    assert source.format == made.layout.format
    assert source.has_test
    assert source.notes == ()


@settings(max_examples=25)
@given(
    st.integers(0, 3),
    st.integers(1, 4),
    st.integers(0, 10**6),
    st.integers(0, 5),
    st.sampled_from([bytes, str]),
    st.sampled_from(["folder", "parent", "archive"]),
)
def test_every_layout_round_trips(
    tmp_path_factory: pytest.TempPathFactory,
    which: int,
    per_file: int,
    seed: int,
    protocol: int,
    key_type: type,
    form: str,
) -> None:
    made = written(which, per_file, seed, protocol=protocol, key_type=key_type)
    root = tmp_path_factory.mktemp("cifar")
    path = made.packed(root) if form == "archive" else made.unpacked(root)
    if form == "parent":
        assert find_cifar_folder(root) == path
    check(CifarSource(path), made)


def test_batches_keep_their_order_whatever_the_archives(tmp_path: Path) -> None:
    made = written(0)
    made.images = dict(reversed(made.images.items()))  # the published archive begins with data_batch_4
    check(CifarSource(made.packed(tmp_path)), made)


def test_another_side_is_resized_to(tmp_path: Path) -> None:
    source = CifarSource(written(2).unpacked(tmp_path), image_side=16)
    assert source.train().images.shape == (15, 3, 16, 16)
    assert source.test().images.shape == (3, 3, 16, 16)


def test_labels_may_be_an_array_when_pickled_again(tmp_path: Path) -> None:
    made = written(1)
    folder = made.unpacked(tmp_path)
    again = {b"data": made.images["test"], b"fine_labels": made.labels["test"]}
    (folder / "test").write_bytes(pickle.dumps(again))
    check(CifarSource(folder), made)


def test_without_meta_classes_are_numbered_and_a_note_says_so(tmp_path: Path) -> None:
    folder = written(0).unpacked(tmp_path)
    (folder / "batches.meta").unlink()
    source = CifarSource(folder)
    assert source.class_names == tuple("0123456789")
    assert "batches.meta" in source.notes[0]


def test_training_does_not_need_the_test_batch(tmp_path: Path) -> None:
    folder = written(0).unpacked(tmp_path)
    (folder / "test_batch").unlink()
    source = CifarSource(folder)
    assert len(source.train()) == 15
    assert not source.has_test
    with pytest.raises(DataError, match=r"lacks test_batch, the test images; download cifar-10-python\.tar\.gz again"):
        source.test()


def test_training_opens_no_test_batch(tmp_path: Path) -> None:
    folder = written(1).unpacked(tmp_path)
    (folder / "test").write_bytes(b"not even a pickle")
    assert len(CifarSource(folder).train()) == 3


@pytest.mark.parametrize("which", range(4))
@pytest.mark.parametrize("share", [0.01, 0.5, 0.99])
def test_a_truncated_archive_is_found_before_anything_is_read(tmp_path: Path, which: int, share: float) -> None:
    path = written(which).packed(tmp_path)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    layout = LAYOUTS[which]
    expected = (
        rf"{layout.archive} is truncated or damaged \(.+\); download {layout.archive} again \(md5 .*{layout.md5}\)$"
    )
    with pytest.raises(DataError, match=expected):
        CifarSource(path)


def test_a_flipped_bit_in_an_archive_is_found_by_its_checksum(tmp_path: Path) -> None:
    made = written(2)
    content = bytearray(gzip.decompress(made.packed(tmp_path).read_bytes()))
    path = tmp_path / "other.tar.gz"
    path.write_bytes(gzip.compress(bytes(content), compresslevel=0))  # stored, so that the flip stays readable
    CifarSource(path)
    stored = bytearray(path.read_bytes())
    position = stored.index(made.images["data_batch_2.bin"][1, :64].tobytes())
    stored[position] ^= 1
    path.write_bytes(stored)
    with pytest.raises(DataError, match=r"other\.tar\.gz is truncated or damaged"):
        CifarSource(path)


def test_a_missing_batch_is_named(tmp_path: Path) -> None:
    folder = written(0).unpacked(tmp_path)
    (folder / "data_batch_3").unlink()
    with pytest.raises(
        DataError, match=r"lacks data_batch_3 of CIFAR-10; download .* \(md5 .*c58f30108f718f92721af3b95e74349a"
    ):
        CifarSource(folder)


@pytest.mark.parametrize("length", [0, 3072, 3073 * 2 - 1])
def test_a_binary_batch_of_wrong_size_is_named(tmp_path: Path, length: int) -> None:
    folder = written(2).unpacked(tmp_path)
    path = folder / "data_batch_5.bin"
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(
        DataError, match=rf"data_batch_5\.bin has {length:,} bytes, not a whole number of records of 3073"
    ):
        CifarSource(folder).train()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({b"data": np.zeros((2, 3072), np.uint8)}, "is no batch of CIFAR-10, which has data of N x 3072 and labels"),
        ({b"data": np.zeros((2, 100), np.uint8), b"labels": [0, 1]}, "is no batch of CIFAR-10"),
        ({b"data": [0, 1], b"labels": [0, 1]}, "is no batch of CIFAR-10"),
        ({b"data": np.zeros((2, 3072), np.uint8), b"labels": [[0], [1, 2]]}, "is no batch of CIFAR-10"),
        ([1, 2], "is no batch of CIFAR-10"),
        ({b"data": np.zeros((2, 3072), np.uint8), b"labels": [0]}, "2 images need 2 labels"),
        ({b"data": np.zeros((2, 3072), np.uint8), b"labels": [0, 10]}, "label 10 at row 1, but 10 classes"),
        ({b"data": np.zeros((2, 3072), np.float32), b"labels": [0, 1]}, "holds float32"),
    ],
)
def test_a_batch_with_other_content_is_named(tmp_path: Path, content: Any, message: str) -> None:
    folder = written(0).unpacked(tmp_path)
    (folder / "data_batch_2").write_bytes(pickle.dumps(content))
    with pytest.raises(DataError, match=f"data_batch_2.*{message}"):
        CifarSource(folder).train()


class _Attack:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("file", ["batches.meta", "data_batch_1"])
def test_a_batch_that_would_run_code_does_not(tmp_path: Path, file: str) -> None:
    folder = written(0).unpacked(tmp_path)
    proof = tmp_path / "ran"
    (folder / file).write_bytes(pickle.dumps({b"data": _Attack(proof)}))
    with pytest.raises(DataError, match=rf"{file} wants to use \w+\.mkdir"):
        CifarSource(folder).train()
    assert not proof.exists()


def test_class_names_of_another_number_are_refused(tmp_path: Path) -> None:
    made = written(3)
    made.names = made.names[:99]
    with pytest.raises(DataError, match=r"fine_label_names\.txt names 99 classes, not 100"):
        CifarSource(made.unpacked(tmp_path))


def test_an_archive_of_something_else_says_what_it_holds(tmp_path: Path) -> None:
    path = tmp_path / "x.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        archive.addfile(tarfile.TarInfo("folder/readme.txt"))
    with pytest.raises(DataError, match=r"holds neither CIFAR-10 nor CIFAR-100, but readme\.txt"):
        CifarSource(path)


def test_folders_that_hold_no_cifar_are_left_to_others(tmp_path: Path) -> None:
    (tmp_path / "train").write_bytes(b"")  # one file of that name could be anything
    (tmp_path / "cats").mkdir()
    assert find_cifar_folder(tmp_path) is None


def test_two_sets_in_one_folder_are_a_question(tmp_path: Path) -> None:
    written(0).unpacked(tmp_path)
    written(3).unpacked(tmp_path)
    with pytest.raises(DataError, match="several sets: cifar-10-batches-py, cifar-100-binary; give one"):
        find_cifar_folder(tmp_path)


def test_pixels_are_where_the_authors_put_them(tmp_path: Path) -> None:
    # The first 1024 values are the red channel, row by row.
    made = written(2, per_file=1)
    made.images["test_batch.bin"][0] = 0
    made.images["test_batch.bin"][0, [1, 32, 1024]] = [10, 20, 30]
    image = CifarSource(made.unpacked(tmp_path)).test().images[0]
    assert image[0, 0, 1] == 10
    assert image[0, 1, 0] == 20
    assert image[1, 0, 0] == 30
    assert image.to(torch.int64).sum() == 60


def member(
    name: str, kind: bytes = tarfile.REGTYPE, content: bytes = b"", **how: object
) -> tuple[tarfile.TarInfo, bytes]:
    entry = tarfile.TarInfo(name)
    entry.type, entry.size = kind, len(content)
    for key, value in how.items():
        setattr(entry, key, value)
    return entry, content


def with_member(path: Path, *members: tuple[tarfile.TarInfo, bytes]) -> Path:
    """A whole archive of CIFAR-10 with these members before the others."""
    batch = bytes([3]) + bytes(PIXELS)
    usual = [*(f"data_batch_{number}.bin" for number in range(1, 6)), "test_batch.bin"]
    with tarfile.open(path, "w:gz") as archive:
        for entry, content in (*members, *(member(f"cifar-10-batches-bin/{name}", content=batch) for name in usual)):
            archive.addfile(entry, io.BytesIO(content))
    return path


BAD = bytes([9]) + bytes(PIXELS)


@pytest.mark.parametrize(
    ("hostile", "message"),
    [
        (member("../data_batch_1.bin", content=BAD), "holds '../data_batch_1.bin', a place outside of it"),
        (member("a/../../data_batch_1.bin", content=BAD), "a place outside of it"),
        (member("/tmp/data_batch_1.bin", content=BAD), "holds '/tmp/data_batch_1.bin', a place outside of it"),
        (member("data_batch_1.bin", tarfile.SYMTYPE, linkname="/etc/passwd"), "which is neither a file nor a folder"),
        (member("data_batch_1.bin", tarfile.LNKTYPE, linkname="/etc/passwd"), "which is neither a file nor a folder"),
        (member("data_batch_1.bin", tarfile.CHRTYPE, devmajor=1, devminor=5), "which is neither a file nor a folder"),
        (member("data_batch_1.bin", tarfile.BLKTYPE, devmajor=8, devminor=0), "which is neither a file nor a folder"),
        (member("data_batch_1.bin", tarfile.FIFOTYPE), "which is neither a file nor a folder"),
        (member("\x1b[2J\n.bin", tarfile.SYMTYPE), r"holds '\\x1b\[2J\\n.bin'"),
    ],
    ids=[
        "dots",
        "dots-inside",
        "absolute",
        "symlink",
        "hardlink",
        "character-device",
        "block-device",
        "pipe",
        "escape",
    ],
)
def test_an_archive_that_reaches_outside_is_refused_and_nothing_is_written(
    tmp_path: Path, hostile: tuple[tarfile.TarInfo, bytes], message: str
) -> None:
    good = with_member(tmp_path / "good.tar.gz")
    assert CifarSource(good).train().labels.tolist() == [3] * 5
    path = with_member(tmp_path / "bad.tar.gz", hostile)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(DataError, match=f"{message}.*do not trust this file"):
        CifarSource(path)
    assert sorted(tmp_path.rglob("*")) == before


def test_an_archive_of_more_files_than_any_is_refused(tmp_path: Path) -> None:
    path = with_member(tmp_path / "a.tar.gz", *(member(f"{number}.txt") for number in range(1001)))
    with pytest.raises(DataError, match="holds more than 1,000 files"):
        CifarSource(path)


def test_an_archive_of_negative_size_is_refused(tmp_path: Path) -> None:
    """tarfile would go back by as much, and never come to the end."""
    entry = tarfile.TarInfo("data_batch_1.bin")
    header = bytearray(entry.tobuf(tarfile.GNU_FORMAT))
    header[124:136] = b"\xff" * 10 + b"\xfc\x00"
    header[148:156] = b"%06o\0 " % (sum(header[:148]) + 256 + sum(header[156:]))
    (tmp_path / "a.tar").write_bytes(bytes(header) * 4)
    with pytest.raises(DataError, match=r"claims -1,024 bytes|truncated or damaged"):
        CifarSource(tmp_path / "a.tar")


def test_a_sparse_file_of_terabytes_is_refused(tmp_path: Path) -> None:
    entry = tarfile.TarInfo("data_batch_1.bin")
    entry.pax_headers = {"GNU.sparse.major": "0", "GNU.sparse.minor": "1", "GNU.sparse.size": "1000000000000",
                         "GNU.sparse.map": "0,0"}  # fmt: skip
    with tarfile.open(tmp_path / "a.tar", "w", format=tarfile.PAX_FORMAT) as archive:
        archive.addfile(entry)
    with pytest.raises(DataError, match="claims 1,000,000,000,000 bytes"):
        CifarSource(tmp_path / "a.tar")
