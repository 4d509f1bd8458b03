"""Every paper's recipe for one epoch on a 10,000-image subset: trained, evaluated and used for predictions.

    python scripts/one_epoch_each.py --data PATH --out FOLDER [--recipes NAME ...]

Not a result about the networks, which need their whole schedules, but the proof that each recipe runs from data to
predictions. Done recipes are skipped when it is started again. Writes FOLDER/one-epoch-each.json.
"""

from __future__ import annotations

import argparse
import json
import pickle
import time
from pathlib import Path
from typing import Any

import torch

import thriftnet
from thriftnet import recipe as recipes
from thriftnet.data.open import open_source

TRAIN_IMAGES = 10_000
PREDICTED_IMAGES = 1_000


def run_one(name: str, data: str, folder: Path, pickled: Path, labels: torch.Tensor) -> dict[str, Any]:
    run = thriftnet.train(name, data, out=folder, epochs=1, overrides=[f"data.train_images={TRAIN_IMAGES}"])
    measured = thriftnet.evaluate(run, "test")
    started = time.perf_counter()
    predictions = thriftnet.predict(run, pickled, out=folder / "predictions.csv")
    return {
        "recipe": name,
        "parameters": run.result["parameters"],
        "images_per_s": round(run.result["last"]["images_per_s"], 1),
        "train_loss": run.result["last"]["train_loss"],
        "selection": run.result["selection"],
        "test_accuracy": measured.evaluation.accuracy,
        "predicted": len(predictions.ids),
        "predicted_right": int((predictions.labels == labels).sum()),
        "predict_s": round(time.perf_counter() - started, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--recipes", nargs="+", default=[n for n in recipes.names() if recipes.load(n).paper])
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    results = arguments.out / "one-epoch-each.json"
    rows = json.loads(results.read_text(encoding="utf-8")) if results.exists() else []
    test = open_source(arguments.data).test()
    chosen = torch.linspace(0, len(test) - 1, PREDICTED_IMAGES).long()
    content = {b"data": test.images[chosen].flatten(1).numpy(), b"ids": chosen.numpy()}
    pickled = arguments.out / "custom-test.pkl"
    pickled.write_bytes(pickle.dumps(content))
    for name in arguments.recipes:
        if any(row["recipe"] == name for row in rows):
            continue
        rows.append(run_one(name, arguments.data, arguments.out / name, pickled, test.labels[chosen]))
        results.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")
        print(json.dumps(rows[-1]), flush=True)


if __name__ == "__main__":
    main()
