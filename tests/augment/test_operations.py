"""The draws of each operation: their distributions, and their limits."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor

from thriftnet.augment import Draws, build_policy
from thriftnet.augment.geometry import resample
from thriftnet.augment.operations import Flip, GeometricOperation, PaddedCrop, RandomResizedCrop, Rotation
from thriftnet.config import Affine, AlternatingFlip, AugmentConfig, HorizontalFlip, VerticalFlip
from thriftnet.config import PaddedCrop as PaddedCropConfig
from thriftnet.config import RandomResizedCrop as ResizedCropConfig
from thriftnet.config import Rotation as RotationConfig
from thriftnet.errors import RecipeError

SMALLEST_P = 1e-3
COUNT = 4_000
DRAWS = Draws(0, 0, torch.arange(COUNT))


def augmented(images: Tensor, **op: Any) -> Tensor:
    """The images after this one operation."""
    return build_policy(AugmentConfig.model_validate({"ops": (op,)}), (0.5,) * images.shape[1])(
        images, Draws(0, 0, torch.arange(len(images)))
    )


def flat(*levels: int) -> Tensor:
    """COUNT images of one colour."""
    return torch.tensor(levels, dtype=torch.uint8)[None, :, None, None].expand(COUNT, -1, 16, 16)


def is_uniform(values: Tensor, low: float, high: float) -> bool:
    return bool(stats.kstest(values.double().numpy(), stats.uniform(low, high - low).cdf).pvalue > SMALLEST_P)


def equally_likely(values: Tensor, bins: int) -> bool:
    return bool(stats.chisquare(torch.bincount(values, minlength=bins).numpy()).pvalue > SMALLEST_P)


def degrees_of(maps: Tensor) -> Tensor:
    return torch.rad2deg(torch.atan2(maps[:, 1, 0], maps[:, 0, 0]))


@pytest.mark.parametrize("op", ["horizontal_flip", "vertical_flip"])
@pytest.mark.parametrize("probability", [0.0, 0.3, 0.5, 1.0])
def test_flips_come_as_often_as_asked(op: str, probability: float):
    images = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16).expand(COUNT, -1, -1, -1)
    axis = 3 if op == "horizontal_flip" else 2
    flipped = (augmented(images, op=op, probability=probability) == images.flip(axis) / 255).flatten(1).all(dim=1)
    count = int(flipped.sum())
    if probability in (0.0, 1.0):
        assert count == probability * COUNT
    else:
        assert stats.binomtest(count, COUNT, probability).pvalue > SMALLEST_P


def test_alternating_flips_are_drawn_once_and_alternate():
    """Half of the images are mirrored in odd epochs, the others in even ones, whatever the epoch is."""
    flip = Flip(AlternatingFlip(op="alternating_flip"), "0.alternating_flip")
    first = flip.mirrored(Draws(0, 1, torch.arange(COUNT)))
    assert stats.binomtest(int(first.sum()), COUNT).pvalue > SMALLEST_P
    for epoch in (2, 3, 4, 77, 100):
        expected = first if epoch % 2 else ~first
        assert torch.equal(flip.mirrored(Draws(0, epoch, torch.arange(COUNT))), expected)
    assert not torch.equal(flip.mirrored(Draws(1, 1, torch.arange(COUNT))), first)
    images = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16).expand(COUNT, -1, -1, -1)
    shown = flip.apply(images, Draws(0, 2, torch.arange(COUNT)))
    assert torch.equal(shown[first], images[first])
    assert torch.equal(shown[~first], images[~first].flip(3))


def test_crop_offsets_are_uniform_over_all_places():
    maps = PaddedCrop(PaddedCropConfig(op="padded_crop", pad_px=4), "0").maps(DRAWS, 32, 32)
    dx, dy = maps[:, 0, 2].long() + 4, maps[:, 1, 2].long() + 4
    assert equally_likely(dx * 9 + dy, 81)


def test_angles_are_uniform():
    maps = Rotation(RotationConfig(op="rotation", degrees=15.0), "0").maps(DRAWS, 32, 32)
    assert is_uniform(degrees_of(maps), -15, 15)


def test_affine_draws_angle_scale_and_whole_shifts_uniformly():
    settings = Affine(op="affine", degrees=20.0, translate=0.25, scale=(0.5, 2.0))
    maps = Rotation(settings, "0").maps(DRAWS, 40, 40)
    scale = 1 / torch.linalg.det(maps[:, :, :2]).sqrt()
    assert is_uniform(degrees_of(maps), -20, 20)
    assert is_uniform(scale, 0.5, 2)
    centre = torch.full((COUNT, 2, 1), 20.0, dtype=maps.dtype)
    shift = torch.linalg.solve(maps[:, :, :2], centre - maps[:, :, 2:])[:, :, 0] - 20
    torch.testing.assert_close(shift, shift.round(), atol=1e-9, rtol=0)
    for axis in (0, 1):
        whole = shift[:, axis].round().long()
        assert whole.abs().max() == 10
        assert equally_likely(whole[whole.abs() < 10] + 9, 19)


def test_affine_without_range_is_the_image_itself():
    images = torch.randint(0, 256, (4, 3, 17, 17), dtype=torch.uint8)
    assert torch.equal(augmented(images, op="affine"), images / 255)


def reference_window(side: int, scale: tuple[float, float], ratio: tuple[float, float]) -> tuple[int, int, int, int]:
    """torchvision's documented rule, written as the loop that it is."""
    for _ in range(10):
        area = side * side * random.uniform(*scale)
        aspect = math.exp(random.uniform(math.log(ratio[0]), math.log(ratio[1])))
        width, height = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < width <= side and 0 < height <= side:
            return random.randint(0, side - width), random.randint(0, side - height), width, height
    raise AssertionError("the scales and ratios of this test always fit within ten attempts")


@pytest.mark.parametrize(("scale", "ratio"), [((0.08, 1.0), (3 / 4, 4 / 3)), ((0.02, 0.1), (1 / 6, 6.0))])
def test_resized_crop_windows_are_distributed_as_by_the_reference_rule(
    scale: tuple[float, float], ratio: tuple[float, float]
):
    settings = ResizedCropConfig(op="random_resized_crop", scale=scale, ratio=ratio)
    windows = RandomResizedCrop(settings, "0").windows(DRAWS, 32, 32)
    random.seed(0)
    reference = torch.tensor([reference_window(32, scale, ratio) for _ in range(COUNT)]).unbind(1)
    for drawn, expected in zip(windows, reference, strict=True):
        both = torch.stack([torch.bincount(drawn, minlength=33), torch.bincount(expected, minlength=33)])
        common = both[:, both.sum(dim=0) >= 10]
        assert stats.chi2_contingency(common.numpy()).pvalue > SMALLEST_P


def test_resized_crop_windows_lie_anywhere():
    settings = ResizedCropConfig(op="random_resized_crop", scale=(0.25, 0.25), ratio=(1.0, 1.0))
    left, top, width, height = RandomResizedCrop(settings, "0").windows(DRAWS, 16, 16)
    assert (width == 8).all()
    assert (height == 8).all()
    assert equally_likely(left * 9 + top, 81)


@settings(max_examples=50)
@given(
    st.integers(16, 64),
    st.tuples(st.floats(0.001, 1), st.floats(0.001, 1)).map(lambda pair: tuple(sorted(pair))),
    st.tuples(st.floats(0.05, 20), st.floats(0.05, 20)).map(lambda pair: tuple(sorted(pair))),
)
def test_resized_crop_windows_lie_within_the_image(side: int, scale: tuple[float, float], ratio: tuple[float, float]):
    settings = ResizedCropConfig(op="random_resized_crop", scale=scale, ratio=ratio)
    left, top, width, height = RandomResizedCrop(settings, "0").windows(Draws(0, 0, torch.arange(50)), side, side)
    assert min(left.min(), top.min()) >= 0
    assert min(width.min(), height.min()) >= 1
    assert max((left + width).max(), (top + height).max()) <= side


@pytest.mark.parametrize(("ratio", "expected"), [((2.0, 3.0), (0, 8, 32, 16)), ((0.25, 0.5), (8, 0, 16, 32))])
def test_resized_crop_falls_back_to_the_largest_centred_window(ratio: tuple[float, float], expected: tuple[int, ...]):
    settings = ResizedCropConfig(op="random_resized_crop", scale=(1.0, 1.0), ratio=ratio)
    windows = RandomResizedCrop(settings, "0").windows(Draws(0, 0, torch.arange(5)), 32, 32)
    assert torch.stack(windows, dim=1).tolist() == [list(expected)] * 5


HALVES = torch.where(torch.arange(16) < 8, flat(70), flat(130))


@pytest.mark.parametrize(
    ("name", "strength", "images", "factor"),
    [
        ("brightness", 0.5, flat(100), lambda after: after[:, 0, 0, 0] * 255 / 100),
        (
            "contrast",
            0.5,
            torch.where(torch.arange(16) < 8, flat(70), flat(130)),
            lambda after: after[:, 0, 0, 15] * 8.5 - 10 / 3,
        ),
        ("saturation", 0.5, flat(140, 100, 120), lambda after: (after[:, 0] - after[:, 1])[:, 0, 0] * 255 / 40),
        ("brightness", 1.5, flat(10), lambda after: after[:, 0, 0, 0] * 255 / 10),
    ],
)
def test_jitter_factors_are_uniform(name: str, strength: float, images: Tensor, factor: Callable[[Tensor], Tensor]):
    factors = factor(augmented(images, op="color_jitter", **{name: strength}))
    assert is_uniform(factors, max(0.0, 1 - strength), 1 + strength)


def test_hue_shifts_are_uniform():
    """From pure red, a shift of up to a sixth is the green or the blue that joins, in sixths."""
    after = augmented(flat(255, 0, 0), op="color_jitter", hue=0.1)[:, :, 0, 0]
    assert is_uniform((after[:, 1] - after[:, 2]) / 6, -0.1, 0.1)


def test_jitter_of_no_strength_changes_nothing():
    images = torch.randint(0, 256, (4, 3, 16, 16), dtype=torch.uint8)
    assert torch.equal(augmented(images, op="color_jitter"), images / 255)


def test_blur_draws_sigma_uniformly_and_as_often_as_asked():
    images = torch.zeros(COUNT, 1, 16, 16, dtype=torch.uint8)
    images[:, :, 8, 8] = 255
    after = augmented(images, op="gaussian_blur", sigma_px=(0.5, 2.0), probability=0.4)[:, 0, 8]
    blurred = after[:, 7] > 0
    assert stats.binomtest(int(blurred.sum()), COUNT, 0.4).pvalue > SMALLEST_P
    assert is_uniform((-2 * (after[blurred, 7] / after[blurred, 8]).log()).rsqrt(), 0.5, 2)


def test_cutout_centres_are_uniform_over_the_image():
    after = augmented(flat(0), op="cutout", side_px=1, fill=(1.0,))
    assert equally_likely(after.flatten(1).argmax(dim=1), 256)


def test_cutout_fills_with_the_mean_and_as_often_as_asked():
    after = augmented(flat(0, 0, 0), op="cutout", side_px=33, probability=0.25)
    erased = (after == 0.5).flatten(1).all(dim=1)
    assert torch.equal(erased, ~(after == 0).flatten(1).all(dim=1))
    assert stats.binomtest(int(erased.sum()), COUNT, 0.25).pvalue > SMALLEST_P


@pytest.mark.parametrize(
    "operation",
    [
        Flip(HorizontalFlip(op="horizontal_flip"), "0"),
        Flip(VerticalFlip(op="vertical_flip"), "0"),
        PaddedCrop(PaddedCropConfig(op="padded_crop"), "0"),
        RandomResizedCrop(ResizedCropConfig(op="random_resized_crop", scale=(0.3, 1.0)), "0"),
    ],
)
def test_the_maps_of_an_operation_show_what_it_does(operation: GeometricOperation):
    images = torch.rand(40, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    draws = Draws(0, 0, torch.arange(40))
    applied = operation.apply(images, draws)
    seen = resample(images, operation.maps(draws, 32, 32), operation.interpolation, 0.0)
    inner = slice(8, 24)  # a resized crop repeats its window's border, where its map looks beyond
    torch.testing.assert_close(seen[..., inner, inner], applied[..., inner, inner], atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("op", "message"),
    [
        (
            {"op": "padded_crop", "pad_px": 16, "padding": "reflect"},
            "pad_px = 16 .* must be less than the image side, 16",
        ),
        ({"op": "gaussian_blur", "kernel_px": 33}, "kernel_px = 33 must be less than twice the image side, 16"),
    ],
)
def test_what_the_images_are_too_small_for_is_refused(op: dict[str, Any], message: str):
    with pytest.raises(RecipeError, match=message):
        augmented(torch.zeros(2, 3, 16, 16, dtype=torch.uint8), **op)
