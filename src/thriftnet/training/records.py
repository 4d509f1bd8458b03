"""What the JSON and CSV files of a run folder must hold, so that whoever reads one meets no surprise in it.

A digest says that a file is as it was written, not that a training wrote it: a folder may come from anybody. Further
keys are allowed, for those that later versions add.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

Whole = Annotated[int, Field(ge=0, lt=2**63)]
Share = Annotated[float, Field(ge=0.0, le=1.0)]
Number = Annotated[float, Field(allow_inf_nan=False)]


class _Record(BaseModel):
    model_config = ConfigDict(extra="allow", frozen=True, strict=True)


class Epoch(_Record):
    """A row of metrics.csv; a loss may be infinite or NaN."""

    epoch: Annotated[int, Field(ge=1, lt=2**31)]
    steps: Whole
    lr: float
    train_loss: float
    train_accuracy: Share
    validation_loss: float | None = None
    validation_accuracy: Share | None = None
    test_loss: float | None = None
    test_accuracy: Share | None = None
    images_per_s: float
    elapsed_s: Number


class Result(_Record):
    """result.json."""

    status: str
    recipe: str
    parameters: Whole
    seed: Whole
    epochs: Whole
    epochs_planned: Whole
    selection: str
    selected_epoch: Whole
    selected: Epoch
    last: dict[str, Any]
    training_images: Whole
    validation_images: Whole
    elapsed_s: Number


class Environment(_Record):
    """environment.json."""

    device: str
    device_name: str
    precision: str
    threads: Whole
    packages: dict[str, str | None]


_FILES: dict[str, type[_Record]] = {"result.json": Result, "environment.json": Environment}


def check_file(name: str, value: Mapping[str, Any]) -> None:
    """Raise ValueError, naming the key, unless `value` is what the file `name` holds; other names hold anything."""
    kind = _FILES.get(name)
    if kind is not None:
        _check(kind, value)


def check_history(rows: list[dict[str, Any]]) -> None:
    """Raise ValueError unless these are the rows of epochs 1, 2, 3, ..."""
    for number, row in enumerate(rows, start=1):
        _check(Epoch, row)
        if row["epoch"] != number:
            raise ValueError(f"row {number} is of epoch {row['epoch']}")


def _check(kind: type[_Record], value: Mapping[str, Any]) -> None:
    try:
        kind.model_validate(value)
    except ValidationError as error:
        first = error.errors()[0]
        raise ValueError(f"{'.'.join(map(str, first['loc']))}: {first['msg'].lower()}") from None
