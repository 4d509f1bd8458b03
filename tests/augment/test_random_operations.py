"""TrivialAugment, RandAugment, AugMix: what is drawn, what strength means, and that each image gets its own."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance, ImageOps
from scipy import stats
from torch import Tensor

from thriftnet.augment import Draws, build_policy
from thriftnet.augment import random_operations as ops
from thriftnet.augment.random_operations import (
    OPERATIONS,
    apply_operations,
    augmix_space,
    augmix_strength,
    rand_augment_space,
    wide_space,
)
from thriftnet.config import AugmentConfig, AugMix, RandAugment, TrivialAugment

SMALLEST_P = 1e-3
TRIVIAL = TrivialAugment(op="trivial_augment")


def noise(count: int, channels: int = 3, side: int = 32) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, channels, side, side), dtype=torch.uint8, generator=generator)


def draws(count: int) -> Draws:
    return Draws(0, 1, torch.arange(count))


def by_pillow(image: Tensor, name: str, strength: float, sign: int, space: ops.Space, settings: Any) -> Tensor:
    """The same operation, said in Pillow's words."""
    channels, height, width = image.shape
    picture = Image.fromarray(image[0].numpy() if channels == 1 else image.permute(1, 2, 0).numpy())
    level = round(255 * settings.fill)
    options = {
        "resample": Image.Resampling[settings.interpolation.upper()],
        "fillcolor": level if channels == 1 else (level,) * 3,
    }

    def transform(*coefficients: float) -> Image.Image:
        return picture.transform((width, height), Image.Transform.AFFINE, coefficients, **options)  # type: ignore[arg-type]

    signed = float(np.float32(strength)) * sign
    factor = float(np.float32(1 + np.float32(space.factor) * np.float32(strength) * sign))
    bits = 8 - round(space.dropped_bits * strength)
    result = {
        "identity": lambda: picture,
        "shear_x": lambda: transform(1, space.shear * signed, 0, 0, 1, 0),
        "shear_y": lambda: transform(1, 0, 0, space.shear * signed, 1, 0),
        "translate_x": lambda: transform(1, 0, space.translate_px * signed, 0, 1, 0),
        "translate_y": lambda: transform(1, 0, 0, 0, 1, space.translate_px * signed),
        "rotate": lambda: picture.rotate(space.degrees * signed, **options),  # type: ignore[arg-type]
        "brightness": lambda: ImageEnhance.Brightness(picture).enhance(factor),
        "colour": lambda: ImageEnhance.Color(picture).enhance(factor),
        "contrast": lambda: ImageEnhance.Contrast(picture).enhance(factor),
        "sharpness": lambda: ImageEnhance.Sharpness(picture).enhance(factor),
        "posterize": lambda: ImageOps.posterize(picture, bits),
        "solarize": lambda: ImageOps.solarize(picture, 256 * (1 - strength)),  # type: ignore[arg-type]
        "autocontrast": lambda: ImageOps.autocontrast(picture),
        "equalize": lambda: ImageOps.equalize(picture),
    }[name]()
    return torch.from_numpy(np.array(result)).reshape(height, width, -1).permute(2, 0, 1)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("space", [wide_space(32), rand_augment_space(32)], ids=["wide", "rand"])
@pytest.mark.parametrize("interpolation", ["nearest", "bilinear"])
def test_every_operation_at_every_strength_is_pillows(interpolation: str, space: ops.Space, channels: int):
    """All at once: 14 operations x 31 strengths, signs in turn.

    Bilinear values may be rounded to the neighbouring level, and points within float32 of the border to either side.
    """
    settings = TrivialAugment(op="trivial_augment", interpolation=interpolation, fill=0.2)  # type: ignore[arg-type]
    chosen = torch.arange(14).repeat_interleave(31)
    strength = (torch.arange(31) / 30).repeat(14)
    sign = 1 - 2 * ((torch.arange(14 * 31) // 2) % 2)
    images = noise(14 * 31, channels)
    results = apply_operations(images, chosen, strength, sign, space, settings)
    assert results.dtype == torch.uint8
    centres = torch.stack([*torch.meshgrid(*2 * [torch.arange(32) + 0.5], indexing="xy"), torch.ones(32, 32)]).double()
    points = torch.einsum("nij,jhw->nihw", ops.operation_maps(chosen, strength * sign, space, 32, 32), centres)
    on_border = torch.minimum(points.abs(), (points - 32).abs()).amin(dim=1, keepdim=True) < 1e-4
    for row, result in enumerate(results):
        name = OPERATIONS[int(chosen[row])]
        expected = by_pillow(images[row], name, float(strength[row]), int(sign[row]), space, settings)
        apart = (result.int() - expected.int()).abs()
        if interpolation == "bilinear" and name in ("shear_x", "shear_y", "translate_x", "translate_y", "rotate"):
            assert int((apart * ~on_border[row]).max()) <= 1, (name, float(strength[row]))
        else:
            assert int(apart.max()) == 0, (name, float(strength[row]))
    assert on_border.float().mean() < 0.001


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear"])
def test_the_whole_batch_and_the_images_alone_give_the_same(interpolation: str):
    """A GPU runs every operation on all images and selects, the CPU groups them."""
    count = 200
    settings = TrivialAugment(op="trivial_augment", interpolation=interpolation)  # type: ignore[arg-type]
    generator = torch.Generator().manual_seed(2)
    chosen = torch.randint(0, 14, (count,), generator=generator)
    strength = torch.rand(count, generator=generator)
    sign = 1 - 2 * torch.randint(0, 2, (count,), generator=generator)
    arguments = (noise(count), chosen, strength, sign, wide_space(32), settings)
    assert torch.equal(apply_operations(*arguments, whole_batch=True), apply_operations(*arguments, whole_batch=False))


def test_no_strength_changes_nothing_but_where_the_histogram_does():
    images = noise(14)
    idle = apply_operations(
        images, torch.arange(14), torch.zeros(14), torch.ones(14, dtype=torch.int64), wide_space(32), TRIVIAL
    )
    assert torch.equal(idle[:12], images[:12])


def test_the_spaces_are_the_published_ones():
    assert wide_space(32) == ops.Space(shear=0.99, translate_px=32, degrees=135, factor=0.99, dropped_bits=6)
    assert wide_space(16).translate_px == 16  # never more than the image
    assert wide_space(224).translate_px == 32
    assert rand_augment_space(331) == ops.Space(shear=0.3, translate_px=150, degrees=30, factor=0.9, dropped_bits=4)


def test_operation_strength_and_sign_are_drawn_evenly_and_apart(monkeypatch: pytest.MonkeyPatch):
    count = 28_000
    seen: dict[str, Tensor] = {}

    def record(images: Tensor, chosen: Tensor, strength: Tensor, sign: Tensor, *rest: Any) -> Tensor:
        seen.update(chosen=chosen, strength=strength, sign=sign)
        return images

    monkeypatch.setattr(ops, "apply_operations", record)
    ops.TrivialAugment(TRIVIAL, "0.trivial_augment").apply(torch.zeros(count, 1, 1, 1, dtype=torch.uint8), draws(count))
    bins = (seen["strength"] * 30).round().long()
    torch.testing.assert_close(seen["strength"], bins / 30)
    cells = (seen["chosen"] * 31 + bins) * 2 + (seen["sign"] + 1) // 2
    assert stats.chisquare(torch.bincount(cells, minlength=14 * 31 * 2).numpy()).pvalue > SMALLEST_P


def test_rand_augment_is_one_operation_after_the_other_at_its_magnitude():
    images, settings = noise(64), RandAugment(op="rand_augment", operations=3, magnitude=12, bins=25)
    augmented = ops.RandAugment(settings, "0.rand_augment").apply(images, draws(64))
    chosen, sign = ops._choices(draws(64), "0.rand_augment", 3)
    assert not torch.equal(chosen[:, 0], chosen[:, 1])
    expected = images
    for turn in range(3):
        arguments = (chosen[:, turn], torch.full((64,), 0.5), sign[:, turn])
        expected = apply_operations(expected, *arguments, rand_augment_space(32), settings)
    assert torch.equal(augmented, expected)


def test_fractions_are_rounded_to_levels_first():
    """After a bilinear rotation the images are fractions; what follows sees whole levels."""
    rotation = {"op": "rotation", "degrees": 30.0, "interpolation": "bilinear"}
    lists = [{"ops": [rotation, *more]} for more in ([], [{"op": "trivial_augment"}])]
    images = noise(50)
    rotated, both = (build_policy(AugmentConfig.model_validate(each), (0.5,) * 3)(images, draws(50)) for each in lists)
    assert torch.equal((both * 255).round() / 255, both)
    trivial = ops.TrivialAugment(TRIVIAL, "1.trivial_augment")
    levels = (rotated * 255 + 0.5).to(torch.uint8)
    assert torch.equal(both, trivial.apply(levels, draws(50)) / 255)


AUGMIX = AugMix(op="augmix")


@pytest.mark.parametrize("level", [0.1, 1.0, 2.4, 3.0, 9.9])
@pytest.mark.parametrize("sign", [-1, 1])
def test_augmix_operations_are_its_programs(level: float, sign: int):
    """Each of the nine in Pillow's words, with the whole numbers that the authors' program makes of a strength."""
    strength = np.float32(level / 10)
    pixels, degrees = int(strength * np.float32(32 / 3)), int(strength * 30)
    image = noise(1)[0]
    picture = Image.fromarray(image.permute(1, 2, 0).numpy())

    def transform(*coefficients: float) -> Image.Image:
        return picture.transform((32, 32), Image.Transform.AFFINE, coefficients, Image.Resampling.BILINEAR)

    shear = float(strength) * 0.3 * sign
    expected = {
        "autocontrast": ImageOps.autocontrast(picture),
        "equalize": ImageOps.equalize(picture),
        "posterize": ImageOps.posterize(picture, 4 - int(strength * 4)),
        "rotate": picture.rotate(degrees * sign, Image.Resampling.BILINEAR),
        "solarize": ImageOps.solarize(picture, 256 - int(strength * 256)),
        "shear_x": transform(1, shear, 0, 0, 1, 0),
        "shear_y": transform(1, 0, 0, shear, 1, 0),
        "translate_x": transform(1, 0, pixels * sign, 0, 1, 0),
        "translate_y": transform(1, 0, 0, 0, 1, pixels * sign),
    }
    assert set(expected) == set(ops._AUGMIX)
    for name, picture_changed in expected.items():
        chosen = torch.tensor([OPERATIONS.index(name)])
        rounded = augmix_strength(chosen, torch.tensor([strength]), augmix_space(32))
        ours = apply_operations(image[None], chosen, rounded, torch.tensor([sign]), augmix_space(32), AUGMIX)
        apart = (ours[0].int() - torch.from_numpy(np.array(picture_changed)).permute(2, 0, 1).int()).abs()
        # Bilinear values may round to the next level; a point on the border may fall to either side.
        assert float((apart > 1).float().mean()) < 0.01, name


def test_augmix_is_the_mixture_of_its_chains(monkeypatch: pytest.MonkeyPatch):
    """Operations that set the image to a number: what comes out is the convex combination that was drawn."""
    settings, images = AugMix(op="augmix", chains=2, depth=3), torch.zeros(400, 1, 16, 16, dtype=torch.uint8)
    lengths: list[Tensor] = []

    def count(images: Tensor, chosen: Tensor, *rest: Any) -> Tensor:
        lengths.append(chosen != 0)
        return images + (chosen != 0).to(torch.uint8)[:, None, None, None]

    monkeypatch.setattr(ops, "apply_operations", count)
    mixed = ops.AugMix(settings, "s").apply(images, draws(400))
    taken = torch.stack(lengths).reshape(2, 3, 400).sum(dim=1).T  # [N, chains]
    assert stats.chisquare(torch.bincount(taken.flatten(), minlength=4)[1:].numpy()).pvalue > SMALLEST_P
    raw = -torch.log1p(-draws(400).uniform("s.weights", 2))
    weights = raw / raw.sum(dim=1, keepdim=True)
    assert stats.kstest(weights[:, 0].numpy(), "uniform").pvalue > SMALLEST_P  # Dirichlet(1, 1)
    share = draws(400).uniform("s.mix")[:, 0]
    torch.testing.assert_close(mixed[:, 0, 0, 0] * 255, share * (taken * weights).sum(dim=1))


def test_augmix_keeps_within_the_image_and_depends_on_image_and_epoch_alone():
    images, augmix = noise(40), ops.AugMix(AUGMIX, "0.augmix")
    mixed = augmix.apply(images, draws(40))
    assert (mixed.dtype, mixed.shape) == (torch.float32, images.shape)
    assert float(mixed.amin()) >= 0
    assert float(mixed.amax()) <= 1
    assert torch.equal(augmix.apply(images[30:31], Draws(0, 1, torch.tensor([30]))), mixed[30:31])
    assert not torch.equal(augmix.apply(images, Draws(0, 2, torch.arange(40))), mixed)
    flat = torch.full((8, 3, 32, 32), 100, dtype=torch.uint8)
    severe = AugMix(op="augmix", severity=10.0, chains=1, depth=1)
    assert float((ops.AugMix(severe, "0.augmix").apply(flat, draws(8)) - 100 / 255).abs().max()) > 0.05
