"""The figure of an augmented batch shows what training was given."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.conftest import thriftnet, write_tiny_data
from tests.training.conftest import tiny_recipe
from thriftnet import recipe as recipes
from thriftnet.training import loop
from thriftnet.training.step import train_step


def test_mixed_and_resized_images_are_those_of_the_first_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[torch.Tensor] = []

    def step(learner: Any, images: torch.Tensor, *rest: Any) -> Any:
        shown.append(images)
        return train_step(learner, images, *rest)

    monkeypatch.setattr(loop, "train_step", step)
    sections = {
        "data": {"mean": [0.25], "std": [0.5]},
        "augment": {"mix": {"name": "ricap", "beta": 1.0}},
        "training": {"epochs": 2, "progressive": [{"side_px": 12, "until": 0.5}]},
    }
    (tmp_path / "tiny.toml").write_text(recipes.to_toml(tiny_recipe(**sections)), encoding="utf-8")
    write_tiny_data(tmp_path / "tiny.npz")
    run = tmp_path / "run"
    outcome = thriftnet("train", tmp_path / "tiny.toml", "--data", tmp_path / "tiny.npz", "--out", run)
    assert outcome.status == 0, outcome.stderr
    with np.load(run / "figures" / "augmented-batch.npz") as figure:
        originals, augmented = figure["originals"], figure["augmented"]
    assert originals.shape == (16, 16, 16, 3)
    expected = (shown[0][:16, 0] * 0.5 + 0.25) * 255
    np.testing.assert_allclose(augmented[..., 0], expected.numpy(), atol=0.51)
    assert (run / "figures" / "augmented-batch.png").exists()
