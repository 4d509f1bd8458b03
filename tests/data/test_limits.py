from __future__ import annotations

from pathlib import Path

import pytest

from thriftnet.data.limits import (
    ALWAYS_BYTES,
    MOST_BYTES,
    MOST_IMAGES,
    MOST_RATIO,
    check_decompressed,
    check_images,
    check_size,
    read_file,
)
from thriftnet.errors import DataError


def test_the_limits_themselves_are_allowed() -> None:
    check_size(MOST_BYTES, "a")
    check_images(MOST_IMAGES, "a")
    check_images(0, "a")
    check_decompressed(ALWAYS_BYTES, 1, "a")
    check_decompressed(MOST_RATIO * 10**6, 10**6, "a")


def test_what_is_beyond_them_is_named() -> None:
    with pytest.raises(DataError, match=r"^a has 4,294,967,297 bytes, and images live in memory; give at most"):
        check_size(MOST_BYTES + 1, "a")
    with pytest.raises(DataError, match=r"^a claims 200,000,001 bytes in 1,000,000 compressed ones"):
        check_decompressed(MOST_RATIO * 10**6 + 1, 10**6, "a")
    with pytest.raises(DataError, match="images live in memory"):
        check_decompressed(MOST_BYTES + 1, MOST_BYTES, "a")
    for count in (-1, MOST_IMAGES + 1):
        with pytest.raises(DataError, match=r"^a claims .* images; 5,000,000 are the most"):
            check_images(count, "a")


def test_a_file_is_measured_before_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"abc")
    assert read_file(path) == b"abc"
    with path.open("wb") as file:
        file.truncate(MOST_BYTES + 1)
    with pytest.raises(DataError, match="has 4,294,967,297 bytes"):
        read_file(path)
