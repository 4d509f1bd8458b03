from __future__ import annotations

import dataclasses
import hashlib
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pooch
import pytest

from thriftnet.data import download
from thriftnet.data.download import ARCHIVES, fetch
from thriftnet.errors import DataError, StorageError

CONTENT = b"an archive" * 1000


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("THRIFTNET_CACHE", str(tmp_path / "cache"))
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    expected = dataclasses.replace(ARCHIVES["cifar10"], md5=hashlib.md5(CONTENT).hexdigest())
    monkeypatch.setitem(ARCHIVES, "cifar10", expected)
    return tmp_path / "cache"


@pytest.fixture
def site(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """(address, folder) of a web server on this machine."""
    folder = tmp_path / "site"
    folder.mkdir()
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", folder
    server.shutdown()
    server.server_close()
    thread.join()


def test_the_archives_are_the_published_ones() -> None:
    assert {name: (layout.archive, layout.md5) for name, layout in ARCHIVES.items()} == {
        "cifar10": ("cifar-10-python.tar.gz", "c58f30108f718f92721af3b95e74349a"),
        "cifar100": ("cifar-100-python.tar.gz", "eb9058c3a382ffc7106e4002c42a8d85"),
    }


def test_it_is_downloaded_once_and_quietly(
    cache: Path, site: tuple[str, Path], capfd: pytest.CaptureFixture[str]
) -> None:
    address, folder = site
    (folder / "cifar-10-python.tar.gz").write_bytes(CONTENT)
    level = pooch.get_logger().level
    path = fetch("cifar10", address)
    assert path == cache / "cifar-10-python.tar.gz"
    assert path.read_bytes() == CONTENT
    (folder / "cifar-10-python.tar.gz").unlink()
    assert fetch("cifar10", address) == path
    assert capfd.readouterr() == ("", "")
    assert pooch.get_logger().level == level


def test_a_damaged_file_in_the_cache_is_downloaded_again(cache: Path, site: tuple[str, Path]) -> None:
    address, folder = site
    (folder / "cifar-10-python.tar.gz").write_bytes(CONTENT)
    cache.mkdir()
    (cache / "cifar-10-python.tar.gz").write_bytes(CONTENT[:-1])
    assert fetch("cifar10", address).read_bytes() == CONTENT


def test_what_has_another_md5_is_not_kept(cache: Path, site: tuple[str, Path]) -> None:
    address, folder = site
    (folder / "cifar-10-python.tar.gz").write_bytes(b"something else")
    with pytest.raises(DataError, match="what arrived does not have the md5"):
        fetch("cifar10", address)
    assert list(cache.iterdir()) == []


def test_a_server_without_it_is_said(cache: Path, site: tuple[str, Path]) -> None:
    with pytest.raises(DataError, match="the server answers 404"):
        fetch("cifar10", site[0])


def test_offline_one_line_says_what_was_tried_and_what_to_do(cache: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(DataError) as caught:
        fetch("cifar10", "http://127.0.0.1:9")  # nobody listens there
    md5 = ARCHIVES["cifar10"].md5
    assert str(caught.value) == (
        "could not download http://127.0.0.1:9/cifar-10-python.tar.gz: no connection, or it broke; fetch "
        f"cifar-10-python.tar.gz (md5 {md5}) where there is a network, then give its path "
        f"as --data or put it into {cache}"
    )
    assert capfd.readouterr() == ("", "")


def test_silence_is_a_timeout(cache: Path, site: tuple[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    import requests

    def no_answer(*args: object, **options: object) -> None:
        raise requests.exceptions.ReadTimeout

    monkeypatch.setattr(requests, "get", no_answer)
    with pytest.raises(DataError, match="no answer within 30 s"):
        fetch("cifar10", site[0])


def test_a_cache_that_cannot_be_written_is_a_storage_error(cache: Path) -> None:
    cache.write_text("a file where the folder should be")
    with pytest.raises(StorageError, match=r"could not write .*cache"):
        fetch("cifar10", "http://127.0.0.1:9")


def test_the_official_site_is_the_default() -> None:
    assert download._SITE == "https://www.cs.toronto.edu/~kriz"
