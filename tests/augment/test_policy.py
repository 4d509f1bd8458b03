from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from thriftnet.augment import Draws, build_policy
from thriftnet.augment.policy import Policy
from thriftnet.config import AugmentConfig
from thriftnet.errors import RecipeError

FLIP = {"op": "horizontal_flip"}
CROP = {"op": "padded_crop"}
ROTATION = {"op": "rotation", "degrees": 10.0}
JITTER = {"op": "color_jitter", "brightness": 0.2, "contrast": 0.2, "saturation": 0.2, "hue": 0.1}
GEOMETRIC: tuple[dict[str, Any], ...] = (
    FLIP,
    {"op": "vertical_flip"},
    {"op": "alternating_flip"},
    CROP,
    {"op": "padded_crop", "pad_px": 3, "padding": "reflect"},
    {"op": "padded_crop", "fill": 0.3},
    ROTATION,
    {"op": "rotation", "degrees": 180.0, "interpolation": "bilinear", "fill": 1.0},
    {"op": "affine", "translate": 0.2},
    {"op": "affine", "degrees": 30.0, "scale": (0.5, 2.0), "interpolation": "bilinear"},
    {"op": "random_resized_crop"},
)
EVERY_OP = (
    *GEOMETRIC,
    JITTER,
    {"op": "color_jitter", "saturation": 3.0},
    {"op": "gaussian_blur", "probability": 0.5},
    {"op": "cutout", "side_px": 8, "holes": 2},
    {"op": "trivial_augment"},
    {"op": "augmix"},
    {"op": "trivial_augment", "interpolation": "bilinear", "fill": 0.5, "bins": 5},
    {"op": "rand_augment"},
)
op_lists = st.lists(st.sampled_from(EVERY_OP), max_size=5)
geometries = st.sampled_from(["exact", "fused"])


def policy(*ops: dict[str, Any], geometry: str = "exact", channels: int = 3) -> Policy:
    return build_policy(AugmentConfig.model_validate({"ops": ops, "geometry": geometry}), (0.5, 0.4, 0.3)[:channels])


def noise(count: int, channels: int = 3, side: int = 32) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, channels, side, side), dtype=torch.uint8, generator=generator)


def draws(count: int, seed: int = 0, epoch: int = 1) -> Draws:
    return Draws(seed, epoch, torch.arange(count))


def test_no_image_gives_no_image():
    assert policy(*EVERY_OP)(noise(0), draws(0)).shape == (0, 3, 32, 32)


def test_no_operation_is_plain_conversion():
    images = noise(3)
    assert torch.equal(policy()(images, draws(3)), images / 255)


@settings(max_examples=60, deadline=None)
@given(op_lists, geometries, st.sampled_from([1, 3]), st.sampled_from([16, 17, 32, 50]))
def test_the_result_is_float32_of_the_same_shape_in_the_unit_range(
    ops: list[dict[str, Any]], geometry: str, channels: int, side: int
):
    images = noise(6, channels, side)
    before = images.clone()
    augmented = policy(*ops, geometry=geometry, channels=channels)(images, draws(6))
    assert augmented.shape == images.shape
    assert augmented.dtype == torch.float32
    assert 0 <= augmented.min() <= augmented.max() <= 1
    assert torch.equal(images, before)


@settings(max_examples=60, deadline=None)
@given(op_lists, geometries, st.permutations(range(12)), st.lists(st.integers(0, 12), max_size=3))
def test_any_order_and_any_partition_gives_the_same_images(
    ops: list[dict[str, Any]], geometry: str, order: list[int], cuts: list[int]
):
    augment, images, indices = policy(*ops, geometry=geometry), noise(12), torch.tensor(order)
    whole = augment(images, draws(12))
    borders = sorted({0, 12, *cuts})
    parts = [indices[start:stop] for start, stop in itertools.pairwise(borders)]
    assert torch.equal(torch.cat([augment(images[part], Draws(0, 1, part)) for part in parts]), whole[indices])


@pytest.mark.parametrize("geometry", ["exact", "fused"])
@pytest.mark.parametrize("op", EVERY_OP, ids=lambda op: str(op["op"]))
def test_a_batch_without_images_stays_one(op: dict[str, Any], geometry: str):
    """As of a last batch that, beside originals, has no augmented copy."""
    assert policy(op, op, geometry=geometry)(noise(0), draws(0)).shape == (0, 3, 32, 32)


@pytest.mark.parametrize("op", EVERY_OP, ids=lambda op: str(op["op"]))
def test_every_operation_draws_anew_for_each_image_epoch_and_seed(op: dict[str, Any]):
    images = noise(1).expand(32, -1, -1, -1)
    augment = policy(op)
    first = augment(images, draws(32))
    assert torch.equal(first, augment(images, draws(32)))
    assert len(first.unique(dim=0)) > 1
    assert not torch.equal(first, augment(images, draws(32, epoch=2)))
    assert not torch.equal(first, augment(images, draws(32, seed=1)))


def test_an_operation_appended_changes_nothing_before_it_and_twins_draw_apart():
    images = noise(64)
    once = policy(CROP)(images, draws(64))
    assert torch.equal(policy(CROP, {"op": "vertical_flip", "probability": 0.0})(images, draws(64)), once)
    flips = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16).expand(64, -1, -1, -1)
    twice = policy(FLIP, FLIP, channels=1)(flips, draws(64))
    mirrored = (twice == flips.flip(3) / 255).flatten(1).all(dim=1)
    assert 16 < int(mirrored.sum()) < 48


@pytest.mark.parametrize("op", GEOMETRIC)
def test_fused_is_exact_for_a_single_operation(op: dict[str, Any]):
    images = noise(16)
    exact, fused = (policy(op, JITTER, geometry=geometry)(images, draws(16)) for geometry in ("exact", "fused"))
    assert torch.equal(exact, fused)


def test_fused_is_exact_for_flips_and_one_crop():
    ops = (FLIP, CROP, {"op": "vertical_flip"})
    images = noise(64)
    exact, fused = (policy(*ops, geometry=geometry)(images, draws(64)) for geometry in ("exact", "fused"))
    assert torch.equal(exact, fused)


def test_fused_differs_from_exact_nearest_only_where_the_frame_cut_the_image():
    """Away from the borders, rotation, flip and crop in one resampling show the same pixels as in turn."""
    ops = (ROTATION, FLIP, CROP)
    images = noise(200)
    exact, fused = (policy(*ops, geometry=geometry)(images, draws(200)) for geometry in ("exact", "fused"))
    apart = (exact != fused).any(dim=1)
    assert apart.any()
    assert apart[:, 8:24, 8:24].float().mean() < 1e-4  # ties of the fixed-point coordinates


def test_fused_is_bilinear_where_one_of_its_operations_is():
    ops = (FLIP, {**ROTATION, "interpolation": "bilinear"})
    images = noise(64)
    exact, fused = (policy(*ops, geometry=geometry)(images, draws(64)) for geometry in ("exact", "fused"))
    torch.testing.assert_close(fused[..., 8:24, 8:24], exact[..., 8:24, 8:24], atol=1e-4, rtol=0)


def test_fused_shows_what_the_frame_would_have_cut():
    """Shifted there and back, an image has lost its edge; fused, it is whole."""
    images = noise(200)
    there_and_back = ({"op": "affine", "translate": 0.5}, CROP)
    exact, fused = (policy(*there_and_back, geometry=geometry)(images, draws(200)) for geometry in ("exact", "fused"))
    assert ((exact == 0) | (exact == fused)).all()
    assert (exact == 0).sum() > (fused == 0).sum()


@pytest.mark.parametrize(
    "between", [{"op": "padded_crop", "fill": 1.0}, {"op": "padded_crop", "padding": "reflect"}, {"op": "cutout"}]
)
def test_another_fill_a_mirrored_border_or_another_operation_ends_a_fused_run(between: dict[str, Any]):
    images = noise(32)
    ops = (ROTATION, between, {"op": "gaussian_blur"})
    exact, fused = (policy(*ops, geometry=geometry)(images, draws(32)) for geometry in ("exact", "fused"))
    assert torch.equal(exact, fused)


@pytest.mark.parametrize(
    ("fill", "expected"), [((0.25,), 0.25), ((0.0, 0.5, 1.0), (0.0, 0.5, 1.0)), (None, (0.5, 0.4, 0.3))]
)
def test_cutout_fills_with_what_it_is_given(fill: Any, expected: Any):
    augmented = policy({"op": "cutout", "side_px": 64, "fill": fill})(noise(2), draws(2))
    torch.testing.assert_close(augmented, torch.tensor(expected).view(1, -1, 1, 1).expand(2, 3, 32, 32))


def test_a_fill_for_other_channels_is_refused():
    with pytest.raises(RecipeError, match="2 values but the images have 3 channels; give 1 or 3"):
        policy({"op": "cutout", "fill": (0.1, 0.2)})


@pytest.mark.parametrize("geometry", ["exact", "fused"])
@pytest.mark.parametrize("op", EVERY_OP, ids=lambda op: str(op["op"]))
def test_all_arithmetic_is_on_the_images_device_and_none_waits_for_a_value(op: dict[str, Any], geometry: str):
    """Meta tensors have no values to wait for and refuse to meet tensors of the CPU."""
    images = torch.empty(4, 3, 32, 32, dtype=torch.uint8, device="meta")
    for indices in (torch.arange(4, device="meta"), torch.arange(4)):
        assert policy(op, op, geometry=geometry)(images, Draws(0, 0, indices)).is_meta


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("geometry", ["exact", "fused"])
def test_cuda_gives_the_same_images(geometry: str):
    images = noise(64)
    ops = (ROTATION, FLIP, CROP, JITTER, {"op": "gaussian_blur"}, {"op": "cutout"})
    augment = policy({"op": "rand_augment"}, {"op": "alternating_flip"}, *ops, geometry=geometry)
    here = augment(images, draws(64))
    there = augment(images.cuda(), draws(64))
    assert there.is_cuda
    torch.testing.assert_close(there.cpu(), here, atol=1e-5, rtol=0)


# ---- copies for AugMix's loss

MIXING = (CROP, {"op": "augmix"}, {"op": "cutout", "side_px": 8}, FLIP)


def copies(count: int, *ops: dict[str, Any], which: slice = slice(None), epoch: int = 1) -> list[Tensor]:
    """[image, first copy, second copy], float32 [n, C, H, W] each."""
    indices = torch.arange(count)[which]
    return list(policy(*ops).with_copies(noise(count)[which], Draws(0, epoch, indices)).chunk(3))


def test_copies_differ_by_augmix_alone():
    clean, first, second = copies(6, *MIXING)
    without = (CROP, {"op": "rotation", "degrees": 0.0}, *MIXING[2:])  # draws are keyed by place in the list
    assert torch.equal(clean, policy(*without)(noise(6), draws(6)))
    assert torch.equal(first, policy(*MIXING)(noise(6), draws(6)))
    assert not torch.equal(first, second)
    assert not torch.equal(clean, first)
    hidden = [(part == torch.tensor((0.5, 0.4, 0.3))[:, None, None]).all(1) for part in (clean, first, second)]
    assert hidden[0].any()
    assert all(torch.equal(hidden[0], other) for other in hidden[1:])


def test_a_copy_depends_on_image_and_epoch_alone():
    whole = copies(9, *MIXING)
    for part in (slice(0, 4), slice(4, 9), slice(7, 8)):
        assert all(torch.equal(a[part], b) for a, b in zip(whole, copies(9, *MIXING, which=part), strict=True))
    assert not torch.equal(whole[2], copies(9, *MIXING, epoch=2)[2])
    assert policy(*MIXING).with_copies(noise(0), draws(0)).shape == (0, 3, 32, 32)
