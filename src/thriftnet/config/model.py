"""The network."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from thriftnet.config.fields import LARGEST_SIDE_PX, Count, CountsOrZero, Positive, Section, plain

MOST_CHANNELS = 65_536
"""Of a layer; its 3x3 weights alone would be 8,000 times the usual budget, and still counted without overflow."""
MOST_BLOCKS = 1_000
"""Of a network, with the convolutions of residual branches: to count them each is built, a millisecond apiece. The
deepest published residual network (ResNet-1202, arXiv 1512.03385) has 600."""
MOST_STAGES = 16
"""Twice the halvings that the largest image side, 256 pixels, allows."""
LARGEST_KERNEL_PX = 2 * LARGEST_SIDE_PX - 1
"""From one end of the largest image to the other; beyond it lies padding."""
MOST_PARAMETERS = 100_000_000
"""That a budget may allow: 400 MB in fp32, and five times that in training."""

Width = Annotated[int, Field(ge=1, le=MOST_CHANNELS)]
Widths = Annotated[tuple[Width, ...], Field(strict=False, max_length=MOST_STAGES)]
Blocks = Annotated[tuple[Annotated[int, Field(ge=1, le=MOST_BLOCKS)], ...], Field(strict=False, max_length=MOST_STAGES)]
Strides = Annotated[
    tuple[Annotated[int, Field(ge=1, le=LARGEST_SIDE_PX)], ...], Field(strict=False, max_length=MOST_STAGES)
]

RESNET9_RESIDUAL_CONVS = (2, 0, 2)
"""`residual_convs` of the published ResNet-9."""
LARGEST_WHITENING_KERNEL = 8
"""Half of the smallest image side that can be trained on."""


class StemConfig(Section):
    """The first convolution, of stride 1."""

    kind: Literal["conv", "whitening"] = "conv"
    """`conv`: padding (kernel - 1) / 2, then normalisation. `whitening`: frozen filters from the training images and a
    trainable bias, no padding, no normalisation (arXiv 2404.00498)."""
    width: Width | None = None
    """Output channels of `conv`; `whitening` has 2 x image channels x kernel^2."""
    kernel: Annotated[int, Field(ge=1, le=LARGEST_KERNEL_PX)] = 3
    """Side of the square kernel in pixels; odd for `conv`, so that the padding keeps the image side."""
    bias_epochs: Count | None = None
    """The bias of `whitening` is trained in this many first epochs, then frozen; absent: in all."""

    def inapplicable(self) -> dict[str, str]:
        if self.kind == "conv":
            return {"bias_epochs": "kind = 'whitening'"}
        return {"width": "kind = 'conv' (whitening: 2 x image channels x kernel^2)"}

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.kind == "whitening":
            if self.kernel > LARGEST_WHITENING_KERNEL:
                raise ValueError(
                    f"kernel = {self.kernel} must be at most {LARGEST_WHITENING_KERNEL} for kind = 'whitening', "
                    "which does not pad; 2 is usual"
                )
            return self
        if self.width is None:
            raise ValueError("width is missing; kind = 'conv' needs it, for example 64")
        if self.kernel % 2 == 0:
            raise ValueError(f"kernel = {self.kernel} must be odd; {self.kernel - 1} and {self.kernel + 1} are")
        return self


class ModelConfig(Section):
    """A residual network: a stem, stages of residual blocks, global pooling and one linear layer."""

    family: Literal["resnet", "resnet9"] = "resnet"
    """`resnet`: stages of blocks, average pooling. `resnet9`: pooled convolutions, residual branches, max pooling."""
    block: Literal["basic", "preactivation", "bottleneck", "resnext"] = "basic"
    """The residual block of the `resnet` family; `preactivation` is `basic` in the order of arXiv 1603.05027."""
    stem: StemConfig
    """The first convolution."""
    widths: Widths | None = None
    """Channels per stage: the block's output for `basic` and `preactivation`, its inner width for `bottleneck`; absent
    for `resnext`. Two to five stages for `resnet9`."""
    blocks: Blocks = (2, 2, 2, 2)
    """Residual blocks per stage (`resnet` family)."""
    strides: Strides = (1, 2, 2, 2)
    """Stride of the first block of each stage (`resnet` family)."""
    expansion: Width | None = None
    """Output channels of a `bottleneck` or `resnext` block, as a multiple of its inner width; 4 and 2 when absent."""
    cardinality: Width | None = None
    """Groups of the 3x3 convolution (`resnext`)."""
    base_width: Width | None = None
    """Channels per group in the first stage (`resnext`); it doubles with every stage."""
    residual_convs: CountsOrZero | None = None
    """Convolutions in the residual branch after each stage's pooled one (`resnet9`), 0 for no branch; absent:
    [2, 0, 2], for three stages."""
    pool_first: bool = False
    """Whether a pooled convolution pools before it normalises and activates a quarter of the values (`resnet9`)."""
    activation: Literal["relu", "gelu", "silu"] = "relu"
    """Non-linearity everywhere."""
    dropout: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    """Probability; inside each block before its last convolution (`resnet`), before the linear layer (`resnet9`)."""
    stochastic_depth: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    """Probability that the last block's residual branch is left out for an image in training; it rises linearly from
    block to block (`resnet`, arXiv 1603.09382)."""
    se_reduction: Annotated[int, Field(ge=0, le=MOST_CHANNELS)] = 0
    """Squeeze-and-excitation with this reduction at the end of each block's residual branch; 0 is none."""
    conv_bias: bool = False
    """Whether convolutions have a bias although a normalisation follows."""
    norm_scale: bool = True
    """Whether the scales of batch normalisation are trained; false: they stay 1, and only the biases are."""
    norm_momentum: Annotated[float, Field(gt=0.0, le=1.0)] = 0.1
    """Share of the batch's statistics in each update of the running ones."""
    init: Literal["torch", "kaiming_fan_in", "kaiming_fan_out", "dirac"] = "kaiming_fan_out"
    """Convolution weights: torch's default, Kaiming-normal by fan-in or fan-out (arXiv 1502.01852), or torch's default
    with an identity in the first filters of 3x3 convolutions (arXiv 2404.00498)."""
    logit_scale: Positive = 1.0
    """Factor on the linear layer's output."""
    parameter_budget: Annotated[int, Field(ge=1, le=MOST_PARAMETERS)] = 5_000_000
    """The most trainable parameters the network may have; checked before any data is touched."""

    @property
    def residual_branches(self) -> tuple[int, ...]:
        """`residual_convs` with its default."""
        return RESNET9_RESIDUAL_CONVS if self.residual_convs is None else self.residual_convs

    def inapplicable(self) -> dict[str, str]:
        if self.family == "resnet9":
            resnet_only = ("block", "blocks", "strides", "expansion", "cardinality", "base_width")
            return dict.fromkeys((*resnet_only, "stochastic_depth", "se_reduction"), "family = 'resnet'")
        fields = dict.fromkeys(("residual_convs", "pool_first"), "family = 'resnet9'")
        if self.block in ("basic", "preactivation"):
            fields["expansion"] = "block = 'bottleneck' or 'resnext'"
        if self.block == "resnext":
            fields["widths"] = "block = 'basic', 'preactivation' or 'bottleneck' (resnext: cardinality x base_width)"
        else:
            fields |= dict.fromkeys(("cardinality", "base_width"), "block = 'resnext'")
        return fields

    def _check_size(self) -> None:
        """Raise ValueError for more than can be counted; whether it keeps to its budget is counted later."""
        depth = sum(self.residual_branches) if self.family == "resnet9" else sum(self.blocks)
        if depth > MOST_BLOCKS:
            field = "residual_convs" if self.family == "resnet9" else "blocks"
            raise ValueError(f"{field} has {depth:,} in all; a network may have {MOST_BLOCKS:,}")
        widest = max(self.widths or (1,)) * (self.expansion or 1)
        if self.block == "resnext" and self.cardinality is not None and self.base_width is not None:
            widest = self.cardinality * self.base_width * 2 ** (len(self.blocks) - 1) * (self.expansion or 1)
        if widest > MOST_CHANNELS:
            raise ValueError(f"a layer would have {widest:,} channels; the most is {MOST_CHANNELS:,}")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        self._check_size()
        if self.family == "resnet9":
            if self.widths is None or not 2 <= len(self.widths) <= 5:
                raise ValueError(f"widths = {plain(self.widths)} must have 2 to 5 values for family = 'resnet9'")
            if len(self.residual_branches) != len(self.widths):
                raise ValueError(
                    f"residual_convs = {plain(self.residual_convs)} must have one value for each of the "
                    f"{len(self.widths)} stages; it may be absent for {len(RESNET9_RESIDUAL_CONVS)}"
                )
            return self
        if len(self.blocks) != len(self.strides):
            raise ValueError(
                f"blocks has {len(self.blocks)} stages but strides has {len(self.strides)}; "
                "give one value a stage in each"
            )
        if self.block == "resnext":
            if self.cardinality is None or self.base_width is None:
                raise ValueError("block = 'resnext' needs cardinality and base_width, for example 32 and 4")
            return self
        if self.widths is None or len(self.widths) != len(self.blocks):
            raise ValueError(
                f"widths = {plain(self.widths)} must have one value for each of the {len(self.blocks)} stages"
            )
        return self
