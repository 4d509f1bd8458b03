"""The seven official files, rebuilt from the original pixels and read as a folder and as the tar.gz.

Where THRIFTNET_TEST_CIFAR10 names the original pixels, the script beside them writes the official layout.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from thriftnet.data.dataset import Source
from thriftnet.data.open import open_source
from thriftnet.data.statistics import fingerprint

CIFAR10 = Path(os.environ.get("THRIFTNET_TEST_CIFAR10", "."))
SCRIPT = CIFAR10 / "make_official_batches.py"
MD5 = {  # as torchvision.datasets.CIFAR10 publishes them
    "data_batch_1": "c99cafc152244af753f735de768cd75f",
    "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
    "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
    "data_batch_4": "634d18415352ddfa80567beed471001a",
    "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
    "test_batch": "40351d587109b95175f43aff81a1287e",
    "batches.meta": "5ff9c542aee3614f3951f8cda6e48888",
}

pytestmark = pytest.mark.skipif(
    not SCRIPT.is_file(), reason="THRIFTNET_TEST_CIFAR10 names no folder with the original pixels and their script"
)


@pytest.fixture(scope="module")
def official(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("official") / "cifar-10-batches-py"
    subprocess.run([sys.executable, str(SCRIPT), str(CIFAR10), str(folder)], check=True, capture_output=True)
    return folder


@pytest.fixture(scope="module")
def expected() -> dict[str, str]:
    return _fingerprints(open_source(str(CIFAR10)))


def test_the_files_are_the_official_ones(official: Path) -> None:
    assert {path.name: hashlib.md5(path.read_bytes()).hexdigest() for path in official.iterdir()} == MD5


@pytest.mark.parametrize("where", ["the folder", "its parent", "the archive"])
def test_every_form_gives_the_images_of_the_parquet_files(
    where: str, official: Path, expected: dict[str, str], tmp_path: Path
) -> None:
    path = official if where == "the folder" else official.parent
    if where == "the archive":
        path = tmp_path / "cifar-10-python.tar.gz"
        with tarfile.open(path, "w:gz", compresslevel=1) as archive:
            archive.add(official, official.name)
    source = open_source(str(path))
    assert source.format == "cifar-python"
    assert _fingerprints(source) == expected


def _fingerprints(source: Source) -> dict[str, str]:
    return {"train": fingerprint(source.train()), "test": fingerprint(source.test()), "names": str(source.class_names)}
