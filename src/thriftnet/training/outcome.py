"""What follows from the epochs so far, and from nothing else: which is kept, whether it is over, what is stored."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from thriftnet import recipe as recipes
from thriftnet.config import RecipeConfig
from thriftnet.config.training import TrainingConfig
from thriftnet.data.dataset import Source
from thriftnet.data.prepare import TrainingData

EVALUATED_SPLIT = {"validation": "validation", "test": "test", "last": "validation"}
"""What is evaluated after each epoch, by `training.selection`."""


@dataclass(frozen=True)
class Selection:
    """The kept epoch: its number from 1, and the accuracy (a fraction) and loss that chose it; 0 before the first."""

    epoch: int = 0
    accuracy: float | None = None
    loss: float | None = None

    @classmethod
    def of(cls, row: dict[str, Any], rule: str) -> Selection:
        """That of an epoch, if `rule` (training.selection) keeps it."""
        split = EVALUATED_SPLIT[rule]
        return cls(row["epoch"], row[f"{split}_accuracy"], row[f"{split}_loss"])

    @property
    def is_finite(self) -> bool:
        """Whether there is nothing against keeping it."""
        return self.loss is None or math.isfinite(self.loss)

    def beats(self, kept: Selection, rule: str) -> bool:
        """Whether it is to be kept instead: higher accuracy, of equal ones lower loss, else the first.

        The loss matters on small validation sets, where many epochs classify every image right.
        """
        if rule == "last" or kept.accuracy is None or kept.loss is None:
            return True
        assert self.accuracy is not None  # this rule always evaluates
        assert self.loss is not None
        return (self.accuracy, -self.loss) > (kept.accuracy, -kept.loss)


def status(history: Sequence[dict[str, Any]], training: TrainingConfig) -> str:
    """`running`, `completed` or `stopped early`."""
    if len(history) >= training.epochs:
        return "completed"
    patience = training.early_stopping_epochs
    if patience is not None and history:
        found = [Selection.of(row, training.selection) for row in history]
        accuracies = [each.accuracy if each.is_finite and each.accuracy is not None else -1.0 for each in found]
        if len(accuracies) - 1 - accuracies.index(max(accuracies)) >= patience:
            return "stopped early"
    return "running"


def result(
    recipe: RecipeConfig, data: TrainingData, parameters: int, history: Sequence[dict[str, Any]], selection: Selection
) -> dict[str, Any]:
    """result.json."""
    training = recipe.training
    return {
        "status": status(history, training),
        "recipe": recipe.name,
        "recipe_hash": recipes.content_hash(recipe),
        "parameters": parameters,
        "seed": training.seed,
        "epochs": len(history),
        "epochs_planned": training.epochs,
        "selection": "test-selected" if training.selection == "test" else training.selection,
        "selected_epoch": selection.epoch,
        "selected": history[selection.epoch - 1],
        "last": {key: _or_none(value) for key, value in history[-1].items()},
        "training_images": len(data.train),
        "validation_images": len(data.validation) if data.validation is not None else 0,
        "elapsed_s": history[-1]["elapsed_s"],
    }


def describe_data(source: Source, data: TrainingData) -> dict[str, Any]:
    """data.json: what prediction and a report need to know of the data, without the data."""
    counts = torch.bincount(data.train.labels, minlength=len(data.class_names)).tolist()
    return {
        "location": source.location,
        "format": source.format,
        "fingerprint": data.fingerprint,
        "validation_fingerprint": data.validation_fingerprint,
        "class_names": list(data.class_names),
        "channels": data.train.images.shape[1],
        "image_side": data.train.images.shape[2],
        "mean": list(data.mean),
        "std": list(data.std),
        "training_images": len(data.train),
        "training_images_per_class": counts,
        "validation_images": len(data.validation) if data.validation is not None else 0,
    }


def _or_none(value: Any) -> Any:
    """JSON has no NaN."""
    return None if isinstance(value, float) and not math.isfinite(value) else value
