from __future__ import annotations

from typing import Any

import pytest

from thriftnet.training.records import check_file, check_history

ROW: dict[str, Any] = {
    "epoch": 1, "steps": 4, "lr": 0.1, "train_loss": 1.0, "train_accuracy": 0.5, "validation_loss": float("inf"),
    "validation_accuracy": 0.5, "test_loss": None, "test_accuracy": None, "images_per_s": 10, "elapsed_s": 1.5,
}  # fmt: skip
RESULT: dict[str, Any] = {
    "status": "completed", "recipe": "tiny", "parameters": 10, "seed": 0, "epochs": 1, "epochs_planned": 2,
    "selection": "validation", "selected_epoch": 1, "selected": ROW, "last": {}, "training_images": 9,
    "validation_images": 1, "elapsed_s": 1.5,
}  # fmt: skip


def test_what_a_training_writes_is_accepted() -> None:
    check_history([])
    check_history([ROW, ROW | {"epoch": 2, "train_loss": float("nan")}])
    check_file("result.json", RESULT | {"of a later version": [1]})
    check_file("any-other.json", {})


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([ROW, ROW], "row 2 is of epoch 1"),
        ([ROW | {"epoch": "1"}], "epoch: input should be a valid integer"),
        ([ROW | {"train_accuracy": 1.5}], "train_accuracy: "),
        ([ROW | {"elapsed_s": None}], "elapsed_s: "),
        ([ROW | {"lr": True}], "lr: "),
        ([{key: value for key, value in ROW.items() if key != "steps"}], "steps: field required"),
    ],
)
def test_other_rows_are_named(rows: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}"):
        check_history(rows)


@pytest.mark.parametrize("name", RESULT)
def test_a_result_without_a_field_is_named(name: str) -> None:
    with pytest.raises(ValueError, match=f"^{name}: field required"):
        check_file("result.json", {key: value for key, value in RESULT.items() if key != name})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"status": None}, "status: "),
        ({"epochs": -1}, "epochs: "),
        ({"parameters": 10**30}, "parameters: "),
        ({"selected": []}, "selected: "),
        ({"selected": ROW | {"epoch": 0}}, "selected.epoch: "),
        ({"elapsed_s": float("nan")}, "elapsed_s: "),
    ],
)
def test_another_result_is_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}"):
        check_file("result.json", RESULT | change)
