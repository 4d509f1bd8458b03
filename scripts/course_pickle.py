"""Write a pickle in the course's layout from a data set's test images, and their labels apart from it.

    python scripts/course_pickle.py DATA FOLDER [--images 1000]

`FOLDER/custom-test.pkl` is a dict with b'data' (uint8 [N, 3072], channel-first rows) and b'ids' (N);
`FOLDER/labels.csv` (ID,Label) is for scoring a prediction file afterwards with `score_predictions.py`.
"""

from __future__ import annotations

import argparse
import csv
import pickle
from pathlib import Path

import numpy as np

from thriftnet.data.open import open_source


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", metavar="DATA")
    parser.add_argument("folder", type=Path, metavar="FOLDER")
    parser.add_argument("--images", type=int, default=1000)
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    test = open_source(arguments.data).test()
    # A stride through the whole split, so that every class is in it whatever the order.
    chosen = np.linspace(0, len(test) - 1, min(arguments.images, len(test))).astype(int)
    images, labels = test.images.numpy()[chosen], test.labels.numpy()[chosen]
    content = {b"data": images.reshape(len(images), -1), b"ids": np.arange(len(images))}
    (arguments.folder / "custom-test.pkl").write_bytes(pickle.dumps(content))
    with (arguments.folder / "labels.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["ID", "Label"])
        writer.writerows(enumerate(labels.tolist()))
    print(f"{len(images):,} images in {arguments.folder}")


if __name__ == "__main__":
    main()
