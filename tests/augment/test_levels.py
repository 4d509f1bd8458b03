"""Every operation on whole levels against Pillow, value for value."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageEnhance, ImageOps
from torch import Tensor

from thriftnet.augment import levels
from thriftnet.errors import DataError

ENHANCERS: dict[str, type] = {
    "brightness": ImageEnhance.Brightness,
    "colour": ImageEnhance.Color,
    "contrast": ImageEnhance.Contrast,
    "sharpness": ImageEnhance.Sharpness,
}
COUNT = 80


def pictures(channels: int, side: int) -> Tensor:
    """Noise, dull noise, flat images, nearly flat ones, few levels, and black beside white."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (COUNT, channels, side, side), dtype=torch.uint8, generator=generator)
    images[:20] = images[:20] // 5 + 40
    images[20], images[21], images[22] = 0, 7, 255
    images[23] = 9
    images[23, :, 0, 0] = 10
    images[24:40] = (images[24:40] > 250) * 200
    images[40:60] = images[40:60] // 40 * 30
    images[60:65] = (images[60:65] > 127) * 255
    return images


def pillow(image: Tensor, function: Callable[[Image.Image], Image.Image]) -> Tensor:
    picture = Image.fromarray(image[0].numpy() if len(image) == 1 else image.permute(1, 2, 0).numpy())
    return torch.from_numpy(np.array(function(picture))).reshape(*image.shape[1:], -1).permute(2, 0, 1)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("side", [16, 17, 32])
@pytest.mark.parametrize("name", ENHANCERS)
def test_enhancements_are_pillows(name: str, side: int, channels: int):
    images = pictures(channels, side)
    factor = torch.linspace(0, 2, COUNT)[torch.randperm(COUNT, generator=torch.Generator().manual_seed(1))]
    factor[:3] = torch.tensor([0.0, 1.0, 3.5])
    enhanced = getattr(levels, name)(images, factor)
    for image, result, weight in zip(images, enhanced, factor.tolist(), strict=True):
        assert torch.equal(result, pillow(image, lambda p, f=weight: ENHANCERS[name](p).enhance(f)))  # type: ignore[misc]


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("side", [16, 17, 32])
def test_operations_on_the_histogram_are_pillows(side: int, channels: int):
    images = pictures(channels, side)
    for function, oracle in ((levels.autocontrast, ImageOps.autocontrast), (levels.equalize, ImageOps.equalize)):
        results = function(images)
        for image, result in zip(images, results, strict=True):
            assert torch.equal(result, pillow(image, oracle))


@pytest.mark.parametrize("channels", [1, 3])
def test_posterize_and_solarize_are_pillows(channels: int):
    images = pictures(channels, 16)
    bits, threshold = torch.arange(COUNT) % 8 + 1, torch.linspace(0, 256, COUNT)
    posterized, solarized = levels.posterize(images, bits), levels.solarize(images, threshold)
    for row, image in enumerate(images):
        assert torch.equal(posterized[row], pillow(image, lambda p, b=int(bits[row]): ImageOps.posterize(p, b)))  # type: ignore[misc]
        assert torch.equal(solarized[row], pillow(image, lambda p, t=float(threshold[row]): ImageOps.solarize(p, t)))  # type: ignore[misc]


@settings(max_examples=200)
@given(st.integers(0, 254), st.integers(1, 255))
def test_autocontrast_cuts_to_levels_as_pillow_for_every_range(low: int, spread: int):
    """Some products are a hair below a whole level in float64, and both must be cut to the same one."""
    high = min(low + spread, 255)
    image = torch.linspace(low, high, 256).round().to(torch.uint8).view(1, 16, 16)
    assert torch.equal(levels.autocontrast(image[None])[0], pillow(image, ImageOps.autocontrast))


@pytest.mark.parametrize("name", ["colour", "contrast"])
def test_other_channels_are_refused(name: str):
    with pytest.raises(DataError, match="1 or 3 channels, not 4; remove trivial_augment and rand_augment"):
        getattr(levels, name)(torch.zeros(2, 4, 16, 16, dtype=torch.uint8), torch.ones(2))
