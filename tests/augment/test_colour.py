from __future__ import annotations

import colorsys
import itertools

import kornia
import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance
from torch import Tensor

from thriftnet.augment import colour
from thriftnet.errors import DataError

ENHANCERS = {
    "brightness": ImageEnhance.Brightness,
    "contrast": ImageEnhance.Contrast,
    "saturation": ImageEnhance.Color,
}


def noise(count: int, channels: int = 3, side: int = 16, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, channels, side, side), generator=generator) / 255


def alone(images: Tensor, name: str, factors: Tensor) -> Tensor:
    return colour.jitter(images, {name: factors}, torch.zeros(len(images), 1, dtype=torch.int64))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", list(ENHANCERS))
def test_a_blend_is_pillows_up_to_its_rounding(name: str, channels: int):
    """Pillow rounds the gray image (saturation) or its mean (contrast), up to half a level, then cuts the result."""
    images, factors = noise(12, channels), torch.linspace(0, 2, 12)
    jittered = alone(images, name, factors)
    for image, result, factor in zip(images, jittered, factors.tolist(), strict=True):
        levels = (image * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
        enhanced = np.array(ENHANCERS[name](Image.fromarray(levels.squeeze())).enhance(factor)).reshape(levels.shape)
        apart = (result.permute(1, 2, 0) * 255 - torch.from_numpy(enhanced)).abs().max()
        assert apart < (1.01 if name == "brightness" else 1.51)


@pytest.mark.parametrize("name", list(ENHANCERS))
def test_a_blend_is_its_formula(name: str):
    images, factors = noise(12), torch.linspace(0, 2, 12)
    gray = np.tensordot([0.299, 0.587, 0.114], images.double().numpy(), (0, 1))[:, None]
    reference = {"brightness": 0 * gray, "contrast": gray.mean(axis=(2, 3), keepdims=True), "saturation": gray}[name]
    weight = factors.numpy()[:, None, None, None]
    expected = np.clip(reference + weight * (images.numpy() - reference), 0, 1)
    np.testing.assert_allclose(alone(images, name, factors).numpy(), expected, atol=1e-6)


def test_hue_is_kornias():
    images, turns = noise(16), torch.linspace(-0.5, 0.5, 16)
    expected = kornia.enhance.adjust_hue(images, turns * 2 * torch.pi)
    torch.testing.assert_close(colour.shift_hue(images, turns), expected, atol=1e-5, rtol=0)


def test_hue_is_colorsys_for_pure_mixed_and_gray_colours():
    corners = torch.tensor(list(itertools.product([0.0, 0.25, 1.0], repeat=3)))
    for turns in (-0.5, -0.1, 0.0, 1 / 3, 0.5):
        shifted = colour.shift_hue(corners[:, :, None, None], torch.full((27,), turns))[:, :, 0, 0]
        for before, after in zip(corners.tolist(), shifted.tolist(), strict=True):
            hue, saturation, value = colorsys.rgb_to_hsv(*before)
            assert after == pytest.approx(colorsys.hsv_to_rgb((hue + turns) % 1, saturation, value), abs=1e-6)


@pytest.mark.parametrize("names", [("brightness", "contrast", "saturation"), (*ENHANCERS, "hue"), ("hue",)])
def test_every_order_is_one_operation_after_the_other(names: tuple[str, ...]):
    orders = list(itertools.permutations(range(len(names))))
    images = noise(1).expand(len(orders), -1, -1, -1)
    generator = torch.Generator().manual_seed(1)
    factors = {name: torch.rand(len(orders), generator=generator) * 0.8 + 0.4 for name in names}
    factors.update({"hue": factors["hue"] - 0.8} if "hue" in names else {})
    jittered = colour.jitter(images, factors, torch.tensor(orders))
    for row, order in enumerate(orders):
        expected = images[row : row + 1]
        for name in (names[place] for place in order):
            expected = alone(expected, name, factors[name][row : row + 1])
        torch.testing.assert_close(jittered[row : row + 1], expected, atol=1e-6, rtol=0)


def test_the_order_matters():
    images = noise(2)
    factors = {"brightness": torch.full((2,), 1.5), "contrast": torch.full((2,), 0.5)}
    jittered = colour.jitter(images[:1].expand(2, -1, -1, -1), factors, torch.tensor([[0, 1], [1, 0]]))
    assert (jittered[0] - jittered[1]).abs().max() > 0.1


@pytest.mark.parametrize("channels", [1, 3])
def test_factor_one_changes_nothing(channels: int):
    images = noise(4, channels)
    factors = {name: torch.ones(4) for name in ENHANCERS}
    assert torch.equal(colour.jitter(images, factors, torch.tensor([[2, 0, 1]]).expand(4, -1)), images)


def test_gray_images_have_no_saturation_and_no_hue():
    images = noise(4, channels=1)
    factors = {"saturation": torch.full((4,), 0.3), "hue": torch.full((4,), 0.3)}
    assert torch.equal(colour.jitter(images, factors, torch.tensor([[1, 0]]).expand(4, -1)), images)


def test_other_channels_are_refused():
    with pytest.raises(DataError, match="1 or 3 channels, not 4"):
        alone(torch.zeros(2, 4, 16, 16), "brightness", torch.ones(2))
