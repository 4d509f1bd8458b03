"""Score a prediction file against labels: `python scripts/score_predictions.py PREDICTIONS.csv LABELS.csv`."""

from __future__ import annotations

import csv
import sys
from pathlib import Path


def read(path: str) -> dict[str, str]:
    with Path(path).open(newline="", encoding="utf-8") as file:
        return {row["ID"]: row["Label"] for row in csv.DictReader(file)}


predicted, true = read(sys.argv[1]), read(sys.argv[2])
if predicted.keys() != true.keys():
    sys.exit(f"the files have different ids: {len(predicted.keys() ^ true.keys())} are in one of them only")
right = sum(predicted[identity] == label for identity, label in true.items())
print(f"{right:,} of {len(true):,} right: {right / len(true):.2%}")
