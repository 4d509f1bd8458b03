"""A tiny data set and a tiny recipe: real trainings in a second."""

from pathlib import Path
from typing import Any

import pytest
import torch

from thriftnet import recipe as recipes
from thriftnet.config import RecipeConfig
from thriftnet.data.dataset import LabelledImages, Source
from thriftnet.errors import DataError


class TinySource(Source):
    """Three classes of 16x16 gray images that differ in brightness, with noise; the test split can be sealed."""

    format = "tiny"
    location = "tiny"
    class_names = ("dark", "middle", "bright")

    def __init__(self, count: int = 90, sealed: bool = True) -> None:
        self.count, self.sealed, self.test_opened = count, sealed, 0

    def _images(self, seed: int) -> LabelledImages:
        generator = torch.Generator().manual_seed(seed)
        labels = torch.arange(self.count) % 3
        noise = torch.randint(0, 90, (self.count, 1, 16, 16), generator=generator)
        return LabelledImages((labels[:, None, None, None] * 60 + noise).to(torch.uint8), labels)

    def train(self) -> LabelledImages:
        return self._images(0)

    def test(self) -> LabelledImages:
        if self.sealed:
            raise DataError("the test split was opened")
        self.test_opened += 1
        return self._images(1)


def tiny_recipe(**sections: dict[str, Any]) -> RecipeConfig:
    tables: dict[str, Any] = {
        "name": "tiny",
        "model": {"stem": {"width": 4}, "widths": [4, 8], "blocks": [1, 1], "strides": [1, 2], "dropout": 0.1},
        "data": {"validation_images": 18},
        "augment": {"ops": [{"op": "horizontal_flip"}, {"op": "padded_crop", "pad_px": 2}]},
        "optimizer": {"name": "sgd", "lr": 0.05},
        "training": {"epochs": 4, "batch_size": 20},
        "runtime": {"device": "cpu", "precision": "fp32", "threads": 1},
    }
    for section, values in sections.items():
        tables[section] = tables.get(section, {}) | values  # a table within a section is replaced
    return recipes.validate(tables, "tiny")


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "run"
