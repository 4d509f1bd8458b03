from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

from thriftnet.augment import geometry

sides = st.integers(16, 40)
channel_counts = st.sampled_from([1, 3])


def noise(count: int, channels: int, side: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, channels, side, side), dtype=torch.uint8, generator=generator)


def to_pillow(image: Tensor) -> Image.Image:
    return Image.fromarray(image[0].numpy() if image.shape[0] == 1 else image.permute(1, 2, 0).numpy())


def from_pillow(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(image)).reshape(image.height, image.width, -1).permute(2, 0, 1)


def levels_apart(fractions: Tensor, levels: Tensor) -> float:
    """Largest difference between an image in [0, 1] and one in whole levels, in levels."""
    return float((fractions * 255 - levels).abs().max())


def random_numbers(count: int, low: float, high: float, seed: int) -> Tensor:
    return low + (high - low) * torch.rand(count, generator=torch.Generator().manual_seed(seed))


@given(channel_counts, sides, st.sampled_from([2, 3]))
def test_flip_mirrors_the_chosen(channels: int, side: int, axis: int):
    images = noise(5, channels, side)
    chosen = torch.tensor([True, False, True, True, False])
    flipped = geometry.flip(images, chosen, axis)
    for image, result, mirrored in zip(images, flipped, chosen, strict=True):
        assert np.array_equal(result.numpy(), np.flip(image.numpy(), axis - 1) if mirrored else image.numpy())


@given(channel_counts, sides, st.integers(1, 15), st.sampled_from(["constant", "reflect"]))
def test_shift_crop_is_padding_then_cropping(channels: int, side: int, pad: int, padding: str):
    images = noise(9, channels, side)
    shifts = torch.tensor([(x, y) for x in (-pad, 0, pad) for y in (-pad, 1, pad)])
    cropped = geometry.shift_crop(images, shifts[:, 0], shifts[:, 1], padding, 7)
    options = {"constant_values": 7} if padding == "constant" else {}
    padded = np.pad(images.numpy(), ((0, 0), (0, 0), (pad, pad), (pad, pad)), padding, **options)
    for row, (dx, dy) in enumerate(shifts.tolist()):
        top, left = pad + dy, pad + dx
        assert np.array_equal(cropped[row].numpy(), padded[row, :, top : top + side, left : left + side])


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("side", [16, 17, 32, 33, 64])
def test_rotation_is_pillows(channels: int, side: int):
    images = noise(20, channels, side)
    degrees = torch.cat([random_numbers(16, -180, 180, seed=1), torch.tensor([0.0, 90.0, -90.0, 180.0])])
    still = torch.zeros_like(degrees)
    maps = geometry.rotation_maps(degrees, still + 1, still, still, side, side)
    nearest = geometry.resample(images, maps, "nearest", 9)
    bilinear = geometry.resample(images / 255, maps, "bilinear", 9 / 255)
    for row, angle in enumerate(degrees.tolist()):
        image = to_pillow(images[row])
        fill = 9 if channels == 1 else (9, 9, 9)
        assert torch.equal(nearest[row], from_pillow(image.rotate(angle, Image.Resampling.NEAREST, fillcolor=fill)))
        smooth = from_pillow(image.rotate(angle, Image.Resampling.BILINEAR, fillcolor=fill))
        assert levels_apart(bilinear[row], smooth) < 1.01


@pytest.mark.parametrize("side", [16, 32, 33])
def test_affine_is_pillows_transform(side: int):
    count = 24
    images = noise(count, 3, side)
    degrees = random_numbers(count, -90, 90, seed=2)
    degrees[:6] = 0
    scale = random_numbers(count, 0.5, 2, seed=3)
    scale[:3] = 1
    dx, dy = (random_numbers(count, -side / 3, side / 3, seed=seed).round() for seed in (4, 5))
    maps = geometry.rotation_maps(degrees, scale, dx, dy, side, side)
    nearest = geometry.resample(images, maps, "nearest", 9)
    bilinear = geometry.resample(images / 255, maps, "bilinear", 9 / 255)
    for row in range(count):
        forward = forward_affine(math.radians(degrees[row]), float(scale[row]), float(dx[row]), float(dy[row]), side)
        inverse = np.linalg.inv(forward)[:2].flatten().tolist()
        arguments = ((side, side), Image.Transform.AFFINE, inverse)
        image = to_pillow(images[row])
        expected = from_pillow(image.transform(*arguments, Image.Resampling.NEAREST, fillcolor=(9, 9, 9)))
        assert torch.equal(nearest[row], expected)
        smooth = from_pillow(image.transform(*arguments, Image.Resampling.BILINEAR, fillcolor=(9, 9, 9)))
        assert levels_apart(bilinear[row], smooth) < 1.01


def forward_affine(radians: float, scale: float, dx: float, dy: float, side: int) -> np.ndarray:
    """Source to result: to the centre, rotate counter-clockwise as seen (y points down), scale, back, shift."""
    cos, sin = math.cos(radians), math.sin(radians)
    to_centre = np.array([[1, 0, -side / 2], [0, 1, -side / 2], [0, 0, 1]])
    turn = np.array([[scale * cos, scale * sin, 0], [-scale * sin, scale * cos, 0], [0, 0, 1]])
    back = np.array([[1, 0, side / 2 + dx], [0, 1, side / 2 + dy], [0, 0, 1]])
    return back @ turn @ to_centre


@pytest.mark.parametrize("side", [16, 32, 45])
def test_resized_windows_are_pillows_crop_and_resize(side: int):
    images = noise(30, 3, side)
    generator = torch.Generator().manual_seed(6)
    width, height = (torch.randint(1, side + 1, (30,), generator=generator) for _ in "wh")
    left, top = (
        torch.randint(0, 10**6, (30,), generator=generator) % (side + 1 - extent) for extent in (width, height)
    )
    resized = geometry.resize_windows(images / 255, left, top, width, height)
    for row in range(30):
        box = (left[row], top[row], left[row] + width[row], top[row] + height[row])
        window = to_pillow(images[row]).crop([int(edge) for edge in box])
        assert levels_apart(resized[row], from_pillow(window.resize((side, side), Image.Resampling.BILINEAR))) < 1.01


def test_composed_maps_are_one_map_after_the_other():
    images = noise(8, 3, 24)
    one, half = torch.ones(8), torch.arange(8) % 2
    quarter_turns = geometry.rotation_maps(90.0 * torch.arange(8), one, 0 * one, 0 * one, 24, 24)
    mirrors = geometry.axis_maps(1 - 2 * half, 24 * half, torch.ones_like(half), torch.zeros_like(half))
    both = geometry.resample(images, geometry.compose(quarter_turns, mirrors), "nearest", 0)
    in_turn = geometry.resample(geometry.resample(images, quarter_turns, "nearest", 0), mirrors, "nearest", 0)
    assert torch.equal(both, in_turn)
    assert not torch.equal(both, geometry.resample(images, geometry.compose(mirrors, quarter_turns), "nearest", 0))


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear"])
def test_an_absurd_zoom_shows_nothing_but_fill_around_the_centre(interpolation: str):
    """At this scale the step from pixel to pixel, in fixed point, is 2^33: int32 would make it 0."""
    images = torch.ones(1, 3, 256, 256)
    one = torch.ones(1)
    maps = geometry.rotation_maps(0 * one, one / 2**17, 0 * one, 0 * one, 256, 256)
    seen = geometry.resample(images, maps, interpolation, 0.25)
    assert (seen == 0.25).all()


def test_white_stays_white():
    """The weights of the four neighbours may add up to more than 1."""
    one = torch.ones(64)
    maps = geometry.rotation_maps(torch.linspace(-180, 180, 64), 1.3 * one, 0 * one, 0 * one, 33, 33)
    seen = geometry.resample(torch.ones(64, 1, 33, 33), maps, "bilinear", 1.0)
    assert seen.max() == 1
    assert seen.min() > 1 - 1e-6


@settings(max_examples=30)
@given(sides, st.floats(-180, 180), st.floats(0.3, 3), st.sampled_from(["nearest", "bilinear"]))
def test_resampling_stays_within_the_values_of_image_and_fill(
    side: int, angle: float, scale: float, interpolation: str
):
    images = noise(2, 1, side) / 255 * 0.5 + 0.5
    one = torch.ones(2)
    maps = geometry.rotation_maps(angle * one, scale * one, 0 * one, 0 * one, side, side)
    seen = geometry.resample(images, maps, interpolation, 0.75)
    assert seen.shape == images.shape
    assert 0.5 - 1e-6 <= seen.min() <= seen.max() <= 1
