from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional

from thriftnet.augment.resizing import check_stages, resize, training_side
from thriftnet.config import ProgressiveStage
from thriftnet.errors import RecipeError

STAGES = (ProgressiveStage(side_px=16, until=0.4), ProgressiveStage(side_px=24, until=0.7))


def test_sides_of_the_epochs():
    assert [training_side(STAGES, epoch, 10) for epoch in range(1, 11)] == [16] * 4 + [24] * 3 + [None] * 3
    assert [training_side(STAGES, epoch, 3) for epoch in (1, 2, 3)] == [16, 16, 24]  # shares 0, 1/3 and 2/3
    assert training_side((), 1, 10) is None


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("side", "side_px"), [(32, 16), (32, 24), (33, 20), (64, 9)])
def test_resizing_is_pillows_smoothed_bilinear(side: int, side_px: int, channels: int):
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (4, channels, side, side), dtype=torch.uint8, generator=generator)
    smaller = resize(images / 255, side_px)
    assert smaller.shape == (4, channels, side_px, side_px)
    for image, result in zip(images, smaller, strict=True):
        for plane, values in zip(image, result, strict=True):
            picture = Image.fromarray(plane.numpy()).resize((side_px, side_px), Image.Resampling.BILINEAR)
            # Pillow rounds to levels after rows and again after columns.
            np.testing.assert_allclose(values * 255, np.array(picture), atol=1.51)


@pytest.mark.parametrize("sides", [(32, 32), (20, 48), (17, 9)])
def test_resizing_is_torchs_of_images_that_need_not_be_square(sides: tuple[int, int]):
    images = torch.rand(5, 3, *sides, generator=torch.Generator().manual_seed(1))
    expected = functional.interpolate(images, size=(8, 8), mode="bilinear", antialias=True)
    torch.testing.assert_close(resize(images, 8), expected)


def test_full_size_is_the_image_itself():
    images = torch.rand(2, 3, 16, 16)
    assert resize(images, None) is images


def test_a_stage_must_be_smaller_than_the_images():
    check_stages(STAGES, 25)
    with pytest.raises(RecipeError, match="side_px = 24 must be less than the image side, 24"):
        check_stages(STAGES, 24)
