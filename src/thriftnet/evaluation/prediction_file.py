"""The CSV of predictions that a course or a Kaggle competition asks for."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from thriftnet.errors import ESCAPING
from thriftnet.storage import atomic_path


def write_predictions(
    path: Path,
    ids: Sequence[int | str],
    predicted: Tensor,
    probabilities: Tensor | None,
    class_names: Sequence[str],
    names: bool,
) -> None:
    """Write `ID,Label`, one line an image in the order given; the same input gives the same bytes.

    `predicted`: int64 [N] class indices, written as they are or, with `names`, as class names. `probabilities`: float
    [N, K] or None; each class adds a column `p_<class name>`, with digits enough to read back the same float.

    Raises StorageError where the file cannot be written; then an earlier file is unchanged. Raises ValueError where the
    lengths disagree.
    """
    if len(ids) != len(predicted) or (probabilities is not None and len(probabilities) != len(predicted)):
        raise ValueError(f"{len(ids)} ids, {len(predicted)} predictions: every image needs one of each")
    if probabilities is not None and probabilities.shape[1] != len(class_names):
        raise ValueError(f"{probabilities.shape[1]} probabilities an image for {len(class_names)} classes")
    labels = predicted.tolist()
    columns = [] if probabilities is None else [f"p_{name}" for name in class_names]
    # NumPy's str of a float32 is the shortest that reads back the same; Python's would show float64 digits.
    rows: Iterable[Iterable[Any]] = [()] * len(labels) if probabilities is None else probabilities.cpu().numpy()
    with atomic_path(path) as temporary, open(temporary, "w", encoding="utf-8", errors=ESCAPING, newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(["ID", "Label", *columns])
        for identity, label, row in zip(ids, labels, rows, strict=True):
            writer.writerow([identity, class_names[label] if names else label, *map(str, row)])
