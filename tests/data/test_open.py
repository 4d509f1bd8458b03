from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from thriftnet.data import open as opening
from thriftnet.data.open import open_source
from thriftnet.errors import DataError, UserError

from .test_cifar import written
from .test_image_folder import folder
from .test_parquet import pixels, write


@pytest.fixture(autouse=True)
def _no_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("THRIFTNET_DATA", raising=False)


def test_the_default_is_digits_and_the_variable_names_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert open_source(None).format == "digits"
    assert open_source("digits", 16).train().images.shape[2] == 16
    monkeypatch.setenv("THRIFTNET_DATA", str(folder(tmp_path)))
    assert open_source(None).location == str(tmp_path)
    assert open_source("digits").format == "digits"


def test_every_kind_is_recognised(tmp_path: Path) -> None:
    write(tmp_path / "hf" / "data" / "train-00000-of-00001.parquet", pixels(2), [0, 1])
    np.savez(tmp_path / "x.npz", images=pixels(10), labels=np.arange(10) % 2)
    expected = {
        written(0).unpacked(tmp_path / "c10"): "cifar-python",
        tmp_path / "c10": "cifar-python",
        written(3).unpacked(tmp_path / "c100").parent: "cifar-binary",
        written(1).packed(tmp_path): "cifar-python",
        written(2).packed(tmp_path, "renamed.tgz"): "cifar-binary",
        tmp_path / "hf": "parquet",
        tmp_path / "hf" / "data" / "train-00000-of-00001.parquet": "parquet",
        tmp_path / "x.npz": "npz",
        folder(tmp_path / "pictures"): "image-folder",
    }
    for path, form in expected.items():
        source = open_source(str(path), 24)
        assert source.format == form, path
        assert source.train().images.shape[2:] == (24, 24)


def test_the_location_opens_the_same_set_from_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written(0).unpacked(tmp_path)
    monkeypatch.chdir(tmp_path)
    location = open_source(".").location
    monkeypatch.chdir("/")
    assert len(open_source(location).train()) == 15


@pytest.mark.parametrize("form", ["parquet", "npz", "archive", "folder", "pictures"])
def test_the_location_is_the_path_as_given_through_links(tmp_path: Path, form: str) -> None:
    # The hub's cache keeps files as blobs without a suffix, and links to them under their names.
    blobs = tmp_path / "blobs"
    blobs.mkdir()
    if form == "parquet":
        write(blobs / "0a1b", pixels(10), [0, 1] * 5)
        link = tmp_path / "set.parquet"
    elif form == "npz":
        np.savez(blobs / "x.npz", images=pixels(10), labels=np.arange(10) % 2)
        (blobs / "x.npz").rename(blobs / "0a1b")
        link = tmp_path / "set.npz"
    elif form == "archive":
        written(1).packed(blobs, "0a1b")
        link = tmp_path / "cifar.tar.gz"
    else:
        made = written(0).unpacked(blobs) if form == "folder" else folder(blobs / "pets")
        made.rename(blobs / "0a1b")
        link = tmp_path / "set"
    link.symlink_to(blobs / "0a1b")
    source = open_source(str(link))
    assert source.location == str(link)
    train = source.train()
    for location in (source.location, str(blobs / "0a1b")):  # a run may have stored either
        assert torch.equal(open_source(location).train().images, train.images)


def test_a_home_folder_may_be_short(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    folder(tmp_path / "pictures")
    assert open_source("~/pictures").format == "image-folder"


def test_names_are_downloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = written(1).packed(tmp_path)
    monkeypatch.setattr(opening, "fetch", lambda name: archive if name == "cifar100" else None)
    assert open_source("cifar100").location == str(archive)


def test_what_is_not_there_is_said_with_the_nearest_name(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match=r"^there is no data at cifar-10 - did you mean 'cifar10'\?; give the path"):
        open_source("cifar-10")
    monkeypatch.setenv("THRIFTNET_DATA", "/no/such/place")
    with pytest.raises(DataError, match=r"^there is no data at /no/such/place \(THRIFTNET_DATA says so\); give"):
        open_source(None)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("", "the data set's name is empty; give the path"),  # an unset variable of a shell script
        ("x" * 1000, r"cannot be opened \(.*too long|there is no data at x"),  # Python 3.14 calls it absent
        ("~nobody-of-this-name/data", "begins with nobody's home folder; give a whole path"),
    ],
)
def test_no_paths_at_all_are_said(data: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        open_source(data)


def test_files_of_no_known_kind_are_said(tmp_path: Path) -> None:
    path = tmp_path / "x.zip"
    path.write_bytes(b"")
    with pytest.raises(DataError, match=r"x\.zip is of no known kind; give a \.parquet, \.npz or CIFAR \.tar\.gz file"):
        open_source(str(path))


def test_one_file_of_cifar_is_told_its_folder(tmp_path: Path) -> None:
    place = written(3).unpacked(tmp_path)
    with pytest.raises(DataError, match=rf"test\.bin is one of the files of CIFAR; give the folder .* {place}$"):
        open_source(str(place / "test.bin"))


def test_an_empty_folder_is_said(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"has no images .* nor CIFAR, Parquet or \.npz files; give another folder"):
        open_source(str(tmp_path))


def test_the_only_npz_of_a_folder_is_read_and_of_several_all_are_named(tmp_path: Path) -> None:
    arrays = {"images": pixels(10), "labels": np.arange(10) % 2}
    (tmp_path / "inside" / "docs").mkdir(parents=True)
    np.savez(tmp_path / "inside" / "x.npz", **arrays)
    for place in (tmp_path / "inside", tmp_path):
        assert open_source(str(place)).location == str(tmp_path / "inside" / "x.npz")
    np.savez(tmp_path / "inside" / "y.npz", **arrays)
    for place, names in ((tmp_path / "inside", r"x\.npz, y\.npz"), (tmp_path, r"inside/x\.npz, inside/y\.npz")):
        with pytest.raises(DataError, match=rf"holds 2 \.npz files, {names}; give one of them"):
            open_source(str(place))
