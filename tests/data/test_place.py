from __future__ import annotations

import os
import zipfile
from pathlib import Path

import numpy as np
import pytest

from thriftnet.data.place import as_given, kind_of, real_place, same_place


def test_links_are_kept_and_steps_upward_are_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a" / "inner").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "a" / "inner")
    monkeypatch.chdir(tmp_path)
    assert as_given(Path("link")) == str(tmp_path / "link")
    assert as_given(Path("a/../a/./inner")) == str(tmp_path / "a" / "inner")
    # Behind a link `..` leads elsewhere than the text says.
    assert os.path.samefile(as_given(Path("link/..")), tmp_path / "a")


def test_places_are_the_same_through_links_and_names_are_no_paths(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "digits").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "digits")
    monkeypatch.chdir(tmp_path)
    assert same_place(str(tmp_path / "link"), str(tmp_path / "digits"))
    assert not same_place(str(tmp_path / "link"), str(tmp_path))
    assert same_place("digits", "digits")
    assert not same_place("digits", str(tmp_path / "digits"))
    assert (real_place("digits"), real_place(str(tmp_path / "link"))) == ("digits", str(tmp_path / "digits"))


def test_the_kind_of_a_file_is_in_its_name_its_target_or_its_bytes(tmp_path: Path) -> None:
    contents = {"parquet": b"PAR1....PAR1", "npz": b"", "archive": b"\x1f\x8b\x08\x00"}
    names = {"parquet": "x.PARQUET", "npz": "x.npz", "archive": "x.tgz"}
    for kind, content in contents.items():
        named, blob = tmp_path / names[kind], tmp_path / f"{kind}-blob"
        named.write_bytes(b"")
        assert kind_of(named) == kind
        (tmp_path / f"link to {kind}").symlink_to(named)
        assert kind_of(tmp_path / f"link to {kind}") == kind
        blob.write_bytes(content)
        if kind == "npz":
            with blob.open("wb") as file:
                np.savez(file, images=np.zeros(1))
        assert kind_of(blob) == kind
    with zipfile.ZipFile(tmp_path / "pictures.zip", "w") as archive:
        archive.writestr("a.png", b"")
    (tmp_path / "torn").write_bytes(b"PK\x03\x04")
    (tmp_path / "empty").write_bytes(b"")
    assert [kind_of(tmp_path / name) for name in ("pictures.zip", "torn", "empty")] == [None, None, None]
