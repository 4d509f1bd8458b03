"""The one `--data` argument."""

from __future__ import annotations

import os
from pathlib import Path

from thriftnet.data.dataset import Source
from thriftnet.data.digits import DigitsSource
from thriftnet.errors import DataError

VARIABLE = "THRIFTNET_DATA"


def open_source(data: str | None, image_side: int | None = None) -> Source:
    """The set that `data` names; None takes it from THRIFTNET_DATA, or else the bundled `digits`.

    `image_side`: pixels to resize to; None keeps the data's own side (32 for image folders). Raises DataError.
    """
    data = data or os.environ.get(VARIABLE) or "digits"
    if data == "digits":
        return DigitsSource(image_side)
    path = Path(data).expanduser()
    if not path.exists():
        raise DataError(f"there is no data at {data}")
    from thriftnet.data.parquet import ParquetSource

    return ParquetSource(path, image_side)
