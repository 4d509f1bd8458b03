"""TrivialAugment, RandAugment and AugMix: operations drawn anew for every image from one set of fourteen.

Shapes: N images, C channels (1 or 3), H rows, W columns. All images are whole levels here (uint8): what an earlier
operation of the list has made fractions is rounded first.

Every image has an operation (a number below 14, the place in `OPERATIONS`), a strength in [0, 1] and a sign. What the
strength means is the `Space`. Nothing waits for a device: on a GPU each kind of operation runs on the whole batch and
the images drawn for it are taken over; on the CPU it runs on those images alone, which gives the same values.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache

import torch
from torch import Tensor

from thriftnet import config
from thriftnet.augment import geometry, levels
from thriftnet.augment.draws import Draws
from thriftnet.data.normalize import as_float

OPERATIONS = (
    "identity",
    "shear_x",
    "shear_y",
    "translate_x",
    "translate_y",
    "rotate",
    "brightness",
    "colour",
    "contrast",
    "sharpness",
    "posterize",
    "solarize",
    "autocontrast",
    "equalize",
)
_NUMBER = {name: number for number, name in enumerate(OPERATIONS)}
_AUGMIX = (
    "autocontrast", "equalize", "posterize", "rotate", "solarize", "shear_x", "shear_y", "translate_x", "translate_y",
)  # fmt: skip
"""AugMix's own nine: none that its authors' robustness benchmark measures (arXiv 1912.02781, section 3)."""
_GEOMETRIC = ("shear_x", "shear_y", "translate_x", "translate_y", "rotate")


@dataclass(frozen=True)
class Space:
    """What strength 1 is; strength 0 changes nothing, and in between it is linear."""

    shear: float
    """Shift of a row or column as a fraction of its distance from the top left corner."""
    translate_px: float
    degrees: float
    factor: float
    """Brightness, colour, contrast and sharpness: 1 + factor or 1 - factor."""
    dropped_bits: int
    """Posterize: bits taken from the eight, rounded to a whole number."""


def wide_space(width: int) -> Space:
    """TrivialAugment's wide space (arXiv 2103.10158); a shift is at most the image's own side."""
    return Space(shear=0.99, translate_px=min(32.0, width), degrees=135.0, factor=0.99, dropped_bits=6)


def rand_augment_space(width: int) -> Space:
    """RandAugment's space, the bounds of AutoAugment (arXiv 1805.09501), with a sign drawn as torchvision does."""
    return Space(shear=0.3, translate_px=150 / 331 * width, degrees=30.0, factor=0.9, dropped_bits=4)


@dataclass(frozen=True)
class TrivialAugment:
    settings: config.TrivialAugment
    stream: str

    def apply(self, images: Tensor, draws: Draws) -> Tensor:
        """uint8 [N, C, H, W], each image changed by one operation of any strength."""
        chosen, sign = _choices(draws, self.stream, 1)
        bins = self.settings.bins
        strength = draws.integers(f"{self.stream}.magnitude", bins)[:, 0] / (bins - 1)
        space = wide_space(images.shape[3])
        return apply_operations(_whole_levels(images), chosen[:, 0], strength, sign[:, 0], space, self.settings)


@dataclass(frozen=True)
class RandAugment:
    settings: config.RandAugment
    stream: str

    def apply(self, images: Tensor, draws: Draws) -> Tensor:
        """uint8 [N, C, H, W], each image changed by several operations of one strength, one after the other."""
        chosen, sign = _choices(draws, self.stream, self.settings.operations)
        strength = torch.full_like(chosen[:, 0], self.settings.magnitude) / (self.settings.bins - 1)
        space = rand_augment_space(images.shape[3])
        images = _whole_levels(images)
        for turn in range(self.settings.operations):
            images = apply_operations(images, chosen[:, turn], strength, sign[:, turn], space, self.settings)
        return images


@dataclass(frozen=True)
class AugMix:
    settings: config.AugMix
    stream: str

    def copy(self, number: int) -> AugMix:
        """The operation with draws of its own for another copy of an image; number 0 has those of the operation."""
        return replace(self, stream=f"{self.stream}.copy{number}") if number else self

    def apply(self, images: Tensor, draws: Draws) -> Tensor:
        """float32 [N, C, H, W] in [0, 1]: (1 - m) x + m (w_1 chain_1(x) + w_2 chain_2(x) + ...).

        m is uniform, w Dirichlet(1, ..., 1), both drawn for every image (arXiv 1912.02781, algorithm 1, alpha = 1).
        """
        settings, images = self.settings, _whole_levels(images)
        space = augmix_space(images.shape[3])
        shares = -torch.log1p(-draws.uniform(f"{self.stream}.weights", settings.chains))  # exponential
        shares = shares / shares.sum(dim=1, keepdim=True).clamp_min(1e-12)
        lengths = 1 + draws.integers(f"{self.stream}.depth", settings.depth, settings.chains)
        mixed = torch.zeros_like(images, dtype=torch.float32)
        for chain in range(settings.chains):
            stream = f"{self.stream}.{chain}"
            chosen = _augmix_numbers(images.device)[draws.integers(f"{stream}.operation", len(_AUGMIX), settings.depth)]
            sign = 2 * draws.integers(f"{stream}.sign", 2, settings.depth) - 1
            strength = draws.uniform(f"{stream}.magnitude", settings.depth)
            strength = (0.1 + (settings.severity - 0.1) * strength) / 10
            changed = images
            for turn in range(settings.depth):
                step = torch.where(turn < lengths[:, chain], chosen[:, turn], _NUMBER["identity"])
                whole = augmix_strength(step, strength[:, turn], space)
                changed = apply_operations(changed, step, whole, sign[:, turn], space, settings)
            mixed.add_(as_float(changed) * shares[:, chain, None, None, None])
        share = draws.uniform(f"{self.stream}.mix")[:, :, None, None]
        return torch.lerp(as_float(images), mixed, share).clamp_(0, 1)  # the shares add up to 1 but for rounding


@cache
def _augmix_numbers(device: torch.device) -> Tensor:
    """int64 [9], made once: a CUDA graph cannot record a copy from the host."""
    return torch.tensor([_NUMBER[name] for name in _AUGMIX], device=device)


def augmix_space(width: int) -> Space:
    """AugMix's space, that of its authors' program; `augmix_strength` says what posterize's eight bits mean."""
    return Space(shear=0.3, translate_px=width / 3, degrees=30.0, factor=0.0, dropped_bits=8)


def augmix_strength(chosen: Tensor, strength: Tensor, space: Space) -> Tensor:
    """Strengths [N] as that program rounds them: whole degrees and pixels, whole levels of solarize's threshold.

    Posterize keeps 4 - floor(4 strength) bits.
    """
    rounded = strength
    for names, most, offset, scale in (
        (("rotate",), space.degrees, 0, space.degrees),
        (("translate_x", "translate_y"), space.translate_px, 0, space.translate_px),
        (("solarize",), 256, 0, 256),
        (("posterize",), 4, 4, 8),
    ):
        for name in names:
            rounded = torch.where(chosen == _NUMBER[name], ((most * strength).floor() + offset) / scale, rounded)
    return rounded


def apply_operations(
    images: Tensor,
    chosen: Tensor,
    strength: Tensor,
    sign: Tensor,
    space: Space,
    settings: config.TrivialAugment | config.RandAugment | config.AugMix,
    whole_batch: bool | None = None,
) -> Tensor:
    """uint8 [N, C, H, W]: to image i operation `chosen[i]` (int64), of `strength[i]` (float32) and `sign[i]` (-1 or 1).

    `whole_batch`: run each kind of operation on all images, needed where the host must not wait for `chosen`; absent:
    on every device but the CPU. Raises DataError for images of other than 1 or 3 channels.
    """
    whole_batch = images.device.type != "cpu" if whole_batch is None else whole_batch
    factor = 1 + space.factor * strength * sign
    kept_bits = 8 - (space.dropped_bits * strength).round().to(torch.int64)
    threshold = 256 * (1 - strength)

    def move(images: Tensor, maps: Tensor) -> Tensor:
        if settings.interpolation == "nearest":
            return geometry.resample(images, maps, "nearest", round(255 * settings.fill))
        return _whole_levels(geometry.resample(as_float(images), maps, "bilinear", settings.fill))

    steps: list[tuple[tuple[str, ...], Callable[..., Tensor], tuple[Tensor, ...]]] = [
        (_GEOMETRIC, move, (operation_maps(chosen, strength * sign, space, *images.shape[2:]),)),
        (("brightness",), levels.brightness, (factor,)),
        (("colour",), levels.colour, (factor,)),
        (("contrast",), levels.contrast, (factor,)),
        (("sharpness",), levels.sharpness, (factor,)),
        (("posterize",), levels.posterize, (kept_bits,)),
        (("solarize",), levels.solarize, (threshold,)),
        (("autocontrast",), levels.autocontrast, ()),
        (("equalize",), levels.equalize, ()),
    ]
    result = images.clone()
    for names, function, parameters in steps:
        first, last = _NUMBER[names[0]], _NUMBER[names[-1]]
        taken = (chosen >= first) & (chosen <= last)
        if whole_batch:
            result = torch.where(taken[:, None, None, None], function(images, *parameters), result)
        elif len(rows := taken.nonzero()[:, 0]):
            those = (parameter.index_select(0, rows) for parameter in parameters)
            result.index_copy_(0, rows, function(images.index_select(0, rows), *those))
    return result


def operation_maps(chosen: Tensor, signed_strength: Tensor, space: Space, height: int, width: int) -> Tensor:
    """The affine maps [N, 2, 3] of the geometric operations, of the others those that change nothing.

    As Pillow's Image.transform with (1, shear, 0, 0, 1, 0) or (1, 0, shift, 0, 1, 0), its transposed form for y, and
    Image.rotate.
    """
    still = torch.zeros_like(signed_strength)
    degrees = torch.where(chosen == _NUMBER["rotate"], space.degrees * signed_strength, still)
    maps = geometry.rotation_maps(degrees, still + 1, still, still, height, width)
    for name, row, column, most in (
        ("shear_x", 0, 1, space.shear),
        ("shear_y", 1, 0, space.shear),
        ("translate_x", 0, 2, space.translate_px),
        ("translate_y", 1, 2, space.translate_px),
    ):
        maps[:, row, column] += torch.where(chosen == _NUMBER[name], most * signed_strength, still)
    return maps


def _choices(draws: Draws, stream: str, count: int) -> tuple[Tensor, Tensor]:
    """Operations and signs, int64 [N, count] each."""
    chosen = draws.integers(f"{stream}.operation", len(OPERATIONS), count)
    return chosen, 2 * draws.integers(f"{stream}.sign", 2, count) - 1


def _whole_levels(images: Tensor) -> Tensor:
    """uint8 images as they are, fractions in [0, 1] rounded to levels."""
    return images if images.dtype == torch.uint8 else (images * 255 + 0.5).to(torch.uint8)
