from __future__ import annotations

import pytest
import torch

from thriftnet.data.dataset import LabelledImages


def test_select_keeps_the_order_asked_for() -> None:
    data = LabelledImages(torch.arange(3, dtype=torch.uint8).reshape(3, 1, 1, 1), torch.tensor([5, 6, 7]))
    chosen = data.select(torch.tensor([2, 0]))
    assert chosen.labels.tolist() == [7, 5]
    assert chosen.images.flatten().tolist() == [2, 0]
    assert len(chosen) == 2


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (torch.zeros(2, 3, 4, 4), torch.zeros(2, dtype=torch.int64), "uint8"),
        (torch.zeros(2, 3, 4, dtype=torch.uint8), torch.zeros(2, dtype=torch.int64), "N, C, H, W"),
        (torch.zeros(2, 3, 4, 4, dtype=torch.uint8), torch.zeros(2), "int64"),
        (torch.zeros(2, 3, 4, 4, dtype=torch.uint8), torch.zeros(3, dtype=torch.int64), r"int64 \[2\]"),
    ],
)
def test_wrong_types_and_shapes_are_refused(images: torch.Tensor, labels: torch.Tensor, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        LabelledImages(images, labels)
