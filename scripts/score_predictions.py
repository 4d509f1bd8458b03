"""Score a prediction file against labels, both with the columns ID and Label.

python scripts/score_predictions.py PREDICTIONS.csv LABELS.csv
"""

from __future__ import annotations

import argparse
import csv
import sys
from pathlib import Path


def read(path: Path) -> dict[str, str]:
    """ID -> Label. Ends the script with one line for a file that cannot be read or has other columns."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = csv.DictReader(file)
            if not {"ID", "Label"} <= set(rows.fieldnames or ()):
                sys.exit(f"{path} has the columns {', '.join(rows.fieldnames or ()) or 'none'}; give ID and Label")
            return {row["ID"]: row["Label"] for row in rows}
    except (OSError, ValueError) as error:
        sys.exit(f"{path} cannot be read ({error})")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("predictions", type=Path)
    parser.add_argument("labels", type=Path)
    arguments = parser.parse_args()
    predicted, true = read(arguments.predictions), read(arguments.labels)
    if predicted.keys() != true.keys():
        sys.exit(f"the files have different ids: {len(predicted.keys() ^ true.keys())} are in one of them only")
    if not true:
        sys.exit(f"{arguments.labels} has no rows")
    right = sum(predicted[identity] == label for identity, label in true.items())
    print(f"{right:,} of {len(true):,} right: {right / len(true):.2%}")


if __name__ == "__main__":
    main()
