"""What happens to training images."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from thriftnet.config.fields import Channels, Fraction, NonNegative, Pixels, Positive, Range, Section, check_range

MOST_REPEATS = 64
"""Of a cutout's holes, and of operations on one image: each takes random numbers for every image of a batch."""
MOST_BINS = 1_000
"""Of a strength: a hundred would already be finer than eye or network can tell."""
MOST_OPERATIONS = 64
"""In the list: the longest published one has six."""

Repeats = Annotated[int, Field(ge=1, le=MOST_REPEATS)]
Bins = Annotated[int, Field(ge=2, le=MOST_BINS)]


class HorizontalFlip(Section):
    """Mirror left-right."""

    op: Literal["horizontal_flip"]
    probability: Fraction = 0.5


class VerticalFlip(Section):
    """Mirror top-bottom."""

    op: Literal["vertical_flip"]
    probability: Fraction = 0.5


class AlternatingFlip(Section):
    """Mirror left-right in every second epoch, drawn for the first epoch with probability 1/2 (arXiv 2404.00498)."""

    op: Literal["alternating_flip"]


class PaddedCrop(Section):
    """Pad every side by `pad_px`, then crop the original size at a uniformly drawn whole-pixel offset."""

    op: Literal["padded_crop"]
    pad_px: Pixels = 4
    padding: Literal["constant", "reflect"] = "constant"
    fill: Fraction = 0.0
    """Value of constant padding, in [0, 1]."""


class Rotation(Section):
    """Rotate about the centre by an angle drawn uniformly from [-degrees, degrees]."""

    op: Literal["rotation"]
    degrees: Annotated[float, Field(ge=0.0, le=180.0)]
    interpolation: Literal["nearest", "bilinear"] = "nearest"
    fill: Fraction = 0.0


class Affine(Section):
    """Rotate, translate and scale about the centre, each drawn uniformly."""

    op: Literal["affine"]
    degrees: Annotated[float, Field(ge=0.0, le=180.0)] = 0.0
    translate: Fraction = 0.0
    """Largest shift along each axis as a fraction of the image side."""
    scale: Range = (1.0, 1.0)
    """Smallest and largest factor."""
    interpolation: Literal["nearest", "bilinear"] = "nearest"
    fill: Fraction = 0.0

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        check_range("scale", self.scale, above=0.0)
        return self


class RandomResizedCrop(Section):
    """Crop a window of random area and aspect ratio, resized (bilinear) to the image's size."""

    op: Literal["random_resized_crop"]
    scale: Range = (0.08, 1.0)
    """Smallest and largest area, as a fraction of the image's."""
    ratio: Range = (3 / 4, 4 / 3)
    """Smallest and largest width / height."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        check_range("scale", self.scale, above=0.0, at_most=1.0)
        check_range("ratio", self.ratio, above=0.0)
        return self


class ColorJitter(Section):
    """Brightness, contrast, saturation and hue, in an order drawn for every image."""

    op: Literal["color_jitter"]
    brightness: NonNegative = 0.0
    """Factor drawn from [max(0, 1 - b), 1 + b]; contrast and saturation likewise."""
    contrast: NonNegative = 0.0
    saturation: NonNegative = 0.0
    hue: Annotated[float, Field(ge=0.0, le=0.5)] = 0.0
    """Shift drawn from [-hue, hue], in turns of the colour circle."""


class GaussianBlur(Section):
    """Blur with a standard deviation drawn uniformly from `sigma_px`."""

    op: Literal["gaussian_blur"]
    kernel_px: Pixels = 3
    sigma_px: Range = (0.1, 2.0)
    probability: Fraction = 1.0

    @model_validator(mode="after")
    def _valid(self) -> Self:
        if self.kernel_px % 2 == 0:
            raise ValueError(f"kernel_px = {self.kernel_px} must be odd")
        check_range("sigma_px", self.sigma_px, above=0.0)
        return self


class Cutout(Section):
    """Blank squares whose centres are uniform over the image and which the border clips (arXiv 1708.04552)."""

    op: Literal["cutout"]
    side_px: Pixels = 16
    holes: Repeats = 1
    probability: Fraction = 1.0
    fill: Channels | None = None
    """Value in [0, 1] per channel, or one for all; absent: the channel means, so zero after normalisation."""


class TrivialAugment(Section):
    """One operation of fourteen for every image, of a strength drawn too, in the wide space (arXiv 2103.10158)."""

    op: Literal["trivial_augment"]
    bins: Bins = 31
    """Strengths from none to the most, equally likely."""
    interpolation: Literal["nearest", "bilinear"] = "nearest"
    fill: Fraction = 0.0


class RandAugment(Section):
    """Several operations of fourteen for every image, one after the other, of one strength (arXiv 1909.13719)."""

    op: Literal["rand_augment"]
    operations: Repeats = 2
    magnitude: Annotated[int, Field(ge=0, lt=MOST_BINS)] = 9
    """Strength, of `bins` from 0 to bins - 1."""
    bins: Bins = 31
    interpolation: Literal["nearest", "bilinear"] = "nearest"
    fill: Fraction = 0.0

    @model_validator(mode="after")
    def _within_bins(self) -> Self:
        if self.magnitude >= self.bins:
            raise ValueError(f"magnitude = {self.magnitude} must be less than bins = {self.bins}")
        return self


class AugMix(Section):
    """Mix the image with chains of random operations of itself (arXiv 1912.02781); see `consistency_weight`."""

    op: Literal["augmix"]
    severity: Annotated[float, Field(gt=0.0, le=10.0)] = 3.0
    """Each operation's strength is drawn uniformly up to a tenth of this (and from 0.01)."""
    chains: Repeats = 3
    """Chains mixed with weights from a Dirichlet(1, ..., 1); their mean replaces a uniformly drawn share."""
    depth: Repeats = 3
    """Most operations in a chain; their number is drawn from 1 to this for every chain."""
    interpolation: Literal["nearest", "bilinear"] = "bilinear"
    fill: Fraction = 0.0


AugmentOp = Annotated[
    HorizontalFlip
    | VerticalFlip
    | AlternatingFlip
    | PaddedCrop
    | Rotation
    | Affine
    | RandomResizedCrop
    | ColorJitter
    | GaussianBlur
    | Cutout
    | TrivialAugment
    | RandAugment
    | AugMix,
    Field(discriminator="op"),
]


class MixConfig(Section):
    """Mix every training image with others of its batch, and its label as much; drawn for every image."""

    name: Literal["mixup", "cutmix", "ricap"]
    """`mixup`: weighted mean with one image (arXiv 1710.09412). `cutmix`: a box from one image (arXiv 1905.04899).
    `ricap`: four crops side by side (arXiv 1811.09030)."""
    alpha: Positive = 1.0
    """`mixup`, `cutmix`: an image keeps a share drawn from Beta(alpha, alpha)."""
    beta: Positive = 0.3
    """`ricap`: the point where the four crops meet is drawn from Beta(beta, beta) along each axis."""
    probability: Fraction = 1.0
    """Share of the images that are mixed."""
    until: Fraction = 1.0
    """Share of the run's epochs after which mixing stops."""

    def inapplicable(self) -> dict[str, str]:
        return {"alpha": "name = 'mixup' or 'cutmix'"} if self.name == "ricap" else {"beta": "name = 'ricap'"}


class AugmentConfig(Section):
    """What happens to training images, in the order of the list, before normalisation."""

    ops: Annotated[tuple[AugmentOp, ...], Field(strict=False, max_length=MOST_OPERATIONS)] = ()
    """Operations in order, each a table with `op` and its parameters."""
    geometry: Literal["exact", "fused"] = "exact"
    """`exact` resamples at each geometric operation; `fused` composes neighbours and resamples once."""
    concatenate_originals: bool = False
    """An epoch shows every image twice, as it is and augmented; the number of steps doubles."""
    mix: MixConfig | None = None
    """Mixing of images and labels within a batch, after the operations; absent: none."""
    consistency_weight: Positive | None = None
    """Of AugMix's Jensen-Shannon divergence between an image without `augmix` and two copies with it, added to the loss
    (12 in arXiv 1912.02781); absent: `augmix` is an operation as the others."""

    def inapplicable(self) -> dict[str, str]:
        elsewhere = {"mix": "concatenate_originals = false"} if self.concatenate_originals else {}
        if not any(isinstance(op, AugMix) for op in self.ops):
            elsewhere["consistency_weight"] = "ops with { op = 'augmix' }"
        elif self.concatenate_originals:
            elsewhere["consistency_weight"] = "concatenate_originals = false"
        elif self.mix is not None:
            elsewhere["consistency_weight"] = "augment without mix"
        return elsewhere
