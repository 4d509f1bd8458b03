"""How much a file of data may ask for, decided from its header or directory, before memory is taken.

Images live in memory, so what these limits refuse could not be trained on either. Compressed files have a second limit:
a few kilobytes can claim to be gigabytes of zeros, and no set of images is as empty as that.
"""

from __future__ import annotations

import math
from pathlib import Path

from thriftnet.errors import DataError

MOST_BYTES = 4 * 2**30
"""Of one file, or one array once it is decompressed: 1.4 million images of CIFAR's size as uint8."""
MOST_IMAGES = 5_000_000
"""Of a split: more than MOST_BYTES holds, of the smallest side that can be trained on."""
MOST_RATIO = 200
"""Of decompressed to compressed bytes; photographs reach 2, drawings some 20, DEFLATE at its best 1,032."""
ALWAYS_BYTES = 64 * 2**20
"""So much may be decompressed whatever the ratio is: a set of uniform images in a test is no attack."""


def check_size(size: int, where: str) -> None:
    """Raise DataError where so many bytes are more than can be held."""
    if size > MOST_BYTES:
        raise DataError(f"{where} has {size:,} bytes, and images live in memory; give at most {MOST_BYTES:,}")


def check_decompressed(size: int, compressed: int, where: str) -> None:
    """Raise DataError where `compressed` bytes claim to be `size` that are too many, or too many for so few."""
    check_size(size, where)
    if size > ALWAYS_BYTES and size > MOST_RATIO * compressed:
        raise DataError(
            f"{where} claims {size:,} bytes in {compressed:,} compressed ones, as no images do; do not trust this file"
        )


def check_images(count: int, where: str) -> None:
    """Raise DataError for more images than can be held."""
    if not 0 <= count <= MOST_IMAGES:
        raise DataError(f"{where} claims {count:,} images; {MOST_IMAGES:,} are the most, so divide or sample them")


def read_file(path: Path, where: str = "") -> bytes:
    """The content of a file that is not too large. Raises DataError, and OSError where it cannot be read."""
    check_size(path.stat().st_size, where or str(path))
    return path.read_bytes()


def array_bytes(shape: tuple[int, ...], item_bytes: int) -> int:
    """Of an array; Python's integers do not overflow."""
    return math.prod(shape) * item_bytes
