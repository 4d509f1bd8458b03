"""The typed recipe: every field with its default, its unit and one sentence.

A recipe file states only its departures from these defaults. Nothing here touches data or torch, so a recipe is checked
(types, ranges, combinations) before any work begins. Unknown keys are refused: `recipe.py` turns pydantic's complaints
into one line that names the field, the value and the nearest right name.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Positive = Annotated[float, Field(gt=0.0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0.0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]
Range = Annotated[tuple[float, float], Field(strict=False)]
Channels = Annotated[tuple[Fraction, ...], Field(strict=False)]
Counts = Annotated[tuple[Count, ...], Field(strict=False)]
CountsOrZero = Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(strict=False)]

RESNET9_RESIDUAL_CONVS = (2, 0, 2)
"""`residual_convs` of the published ResNet-9."""
LARGEST_WHITENING_KERNEL = 8
"""Half of the smallest image side that can be trained on."""


class Section(BaseModel):
    """Base of every table of a recipe: strict types, no unknown keys, immutable."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, use_attribute_docstrings=True)

    def inapplicable(self) -> dict[str, str]:
        """Fields without meaning beside the section's other values -> where they do belong, e.g. `name = 'sgd'`."""
        return {}

    @model_validator(mode="after")
    def _nothing_is_ignored(self) -> Self:
        for field, owner in self.inapplicable().items():
            if field in self.model_fields_set and getattr(self, field) is not None:
                raise ValueError(f"{field} belongs to {owner}; remove it")
        return self


class StemConfig(Section):
    """The first convolution, of stride 1."""

    kind: Literal["conv", "whitening"] = "conv"
    """`conv`: padding (kernel - 1) / 2, then normalisation. `whitening`: frozen filters from the training images and a
    trainable bias, no padding, no normalisation (arXiv 2404.00498)."""
    width: Count | None = None
    """Output channels of `conv`; `whitening` has 2 x image channels x kernel^2."""
    kernel: Count = 3
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
    widths: Counts | None = None
    """Channels per stage: the block's output for `basic` and `preactivation`, its inner width for `bottleneck`; absent
    for `resnext`. Two to five stages for `resnet9`."""
    blocks: Counts = (2, 2, 2, 2)
    """Residual blocks per stage (`resnet` family)."""
    strides: Counts = (1, 2, 2, 2)
    """Stride of the first block of each stage (`resnet` family)."""
    expansion: Count | None = None
    """Output channels of a `bottleneck` or `resnext` block, as a multiple of its inner width; 4 and 2 when absent."""
    cardinality: Count | None = None
    """Groups of the 3x3 convolution (`resnext`)."""
    base_width: Count | None = None
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
    se_reduction: Annotated[int, Field(ge=0)] = 0
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
    parameter_budget: Count = 5_000_000
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

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.family == "resnet9":
            if self.widths is None or not 2 <= len(self.widths) <= 5:
                raise ValueError(f"widths = {_plain(self.widths)} must have 2 to 5 values for family = 'resnet9'")
            if len(self.residual_branches) != len(self.widths):
                raise ValueError(
                    f"residual_convs = {_plain(self.residual_convs)} must have one value for each of the "
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
                f"widths = {_plain(self.widths)} must have one value for each of the {len(self.blocks)} stages"
            )
        return self


class DataConfig(Section):
    """What is trained on; where it lies is said on the command line."""

    image_side: Annotated[int, Field(ge=16, le=256)] | None = None
    """Side in pixels to which images of other sizes are resized; absent: the data's own side (32 for image folders)."""
    validation_images: Annotated[int, Field(ge=0)] | None = None
    """Images held out of the training split, stratified; absent: a tenth (5,000 of CIFAR-10); 0: none."""
    train_images: Count | None = None
    """Train on a stratified subset of this many images (after validation is held out); absent: all."""
    mean: Channels | None = None
    """Channel means in [0, 1] for the normalisation; absent: computed from the training images."""
    std: Channels | None = None
    """Channel standard deviations in [0, 1]; absent: computed from the training images."""

    @model_validator(mode="after")
    def _pair(self) -> Self:
        if (self.mean is None) != (self.std is None):
            raise ValueError("mean and std go together; give both or neither")
        if self.std is not None and min(self.std) <= 0:
            raise ValueError(f"std = {_plain(self.std)} must be positive")
        return self


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
    pad_px: Count = 4
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
        _check_range("scale", self.scale, above=0.0)
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
        _check_range("scale", self.scale, above=0.0, at_most=1.0)
        _check_range("ratio", self.ratio, above=0.0)
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
    kernel_px: Count = 3
    sigma_px: Range = (0.1, 2.0)
    probability: Fraction = 1.0

    @model_validator(mode="after")
    def _valid(self) -> Self:
        if self.kernel_px % 2 == 0:
            raise ValueError(f"kernel_px = {self.kernel_px} must be odd")
        _check_range("sigma_px", self.sigma_px, above=0.0)
        return self


class Cutout(Section):
    """Blank squares whose centres are uniform over the image and which the border clips (arXiv 1708.04552)."""

    op: Literal["cutout"]
    side_px: Count = 16
    holes: Count = 1
    probability: Fraction = 1.0
    fill: Channels | None = None
    """Value in [0, 1] per channel, or one for all; absent: the channel means, so zero after normalisation."""


class TrivialAugment(Section):
    """One operation of fourteen for every image, of a strength drawn too, in the wide space (arXiv 2103.10158)."""

    op: Literal["trivial_augment"]
    bins: Annotated[int, Field(ge=2)] = 31
    """Strengths from none to the most, equally likely."""
    interpolation: Literal["nearest", "bilinear"] = "nearest"
    fill: Fraction = 0.0


class RandAugment(Section):
    """Several operations of fourteen for every image, one after the other, of one strength (arXiv 1909.13719)."""

    op: Literal["rand_augment"]
    operations: Count = 2
    magnitude: Annotated[int, Field(ge=0)] = 9
    """Strength, of `bins` from 0 to bins - 1."""
    bins: Annotated[int, Field(ge=2)] = 31
    interpolation: Literal["nearest", "bilinear"] = "nearest"
    fill: Fraction = 0.0

    @model_validator(mode="after")
    def _within_bins(self) -> Self:
        if self.magnitude >= self.bins:
            raise ValueError(f"magnitude = {self.magnitude} must be less than bins = {self.bins}")
        return self


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
    | RandAugment,
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

    ops: Annotated[tuple[AugmentOp, ...], Field(strict=False)] = ()
    """Operations in order, each a table with `op` and its parameters."""
    geometry: Literal["exact", "fused"] = "exact"
    """`exact` resamples at each geometric operation; `fused` composes neighbours and resamples once."""
    concatenate_originals: bool = False
    """An epoch shows every image twice, as it is and augmented; the number of steps doubles."""
    mix: MixConfig | None = None
    """Mixing of images and labels within a batch, after the operations; absent: none."""

    def inapplicable(self) -> dict[str, str]:
        return {"mix": "concatenate_originals = false"} if self.concatenate_originals else {}


class OptimizerConfig(Section):
    """The base optimiser and what is done to gradients before it steps."""

    name: Literal["sgd", "adam", "adamw"] = "sgd"
    lr: Positive = 0.1
    """Learning rate; the schedule multiplies it."""
    momentum: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.9
    """Momentum of SGD."""
    nesterov: bool = False
    betas: Annotated[tuple[float, float], Field(strict=False)] = (0.9, 0.999)
    """Decay rates of Adam's two moments."""
    eps: Positive = 1e-8
    """Adam's denominator offset."""
    weight_decay: NonNegative = 0.0
    """Added to the gradient for sgd and adam, decoupled for adamw."""
    decay_biases_and_norms: bool = True
    """Whether weight decay also shrinks one-dimensional parameters (biases, normalisation scales)."""
    bias_lr_factor: Positive = 1.0
    """Multiplies the learning rate of one-dimensional parameters, except the linear layer's bias; not their decay."""
    linear_lr_factor: Positive = 1.0
    """Multiplies the learning rate of the last linear layer, weight and bias; not their decay."""
    clip_value: Positive | None = None
    """Clip each gradient component to [-v, v]; absent: no clipping."""
    clip_norm: Positive | None = None
    """Scale the whole gradient down to this 2-norm; absent: no clipping."""

    def inapplicable(self) -> dict[str, str]:
        if self.name == "sgd":
            return dict.fromkeys(("betas", "eps"), "name = 'adam' or 'adamw'")
        return dict.fromkeys(("momentum", "nesterov"), "name = 'sgd'")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.nesterov and self.momentum == 0:
            raise ValueError("nesterov = true needs momentum > 0")
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"betas = {_plain(self.betas)} must lie in [0, 1)")
        return self


class MuonConfig(Section):
    """Muon for the weights of all convolutions but the first; every other parameter stays with [optimizer]."""

    lr: Positive
    """Learning rate where the schedule is at optimizer.lr; it moves in proportion to the schedule."""
    momentum: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.95
    nesterov: bool = True
    newton_schulz_steps: Count = 5
    """Iterations of the orthogonalisation."""
    weight_decay: NonNegative = 0.0
    """Decoupled: each update first shrinks the weights by lr * weight_decay."""
    normalize_weights: bool = False
    """Rescale each weight matrix to Frobenius norm sqrt(rows) before its update, and leave out the factor for shape."""

    def inapplicable(self) -> dict[str, str]:
        return {"weight_decay": "normalize_weights = false"} if self.normalize_weights else {}

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.nesterov and self.momentum == 0:
            raise ValueError("nesterov = true needs momentum > 0; set nesterov = false")
        return self


class PerturbationConfig(Section):
    """Take the gradient at perturbed parameters: adversarial model perturbation (AMP), SAM or ASAM."""

    name: Literal["amp", "sam", "asam"] = "amp"
    """`amp`: arXiv 2010.04925; `sam`: arXiv 2010.01412; `asam`: arXiv 2102.11600."""
    epsilon: Positive = 0.5
    """`amp`: radius of the 2-norm ball around each parameter tensor."""
    inner_steps: Count = 1
    """`amp`: ascent steps inside the ball."""
    inner_lr: Positive = 1.0
    """`amp`: size of an ascent step, times the gradient (the paper's zeta)."""
    rho: Positive | None = None
    """`sam`, `asam`: 2-norm of the perturbation of all parameters together; absent: 0.05 for sam, 0.5 for asam."""
    eta: NonNegative = 0.01
    """`asam`: added to each parameter's magnitude, so that a parameter near zero is perturbed too."""
    start: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    """Share of all updates that are made before the perturbation begins; 0.75: it acts in the last quarter."""
    batchnorm: Literal["every_pass", "first_pass"] = "every_pass"
    """Which passes update running statistics: all, as the authors of AMP do, or only the unperturbed one."""

    def inapplicable(self) -> dict[str, str]:
        owners = {
            "epsilon": ("amp",),
            "inner_steps": ("amp",),
            "inner_lr": ("amp",),
            "rho": ("sam", "asam"),
            "eta": ("asam",),
        }
        return {
            field: f"name = {' or '.join(map(repr, names))}"
            for field, names in owners.items()
            if self.name not in names
        }


class LookaheadConfig(Section):
    """Slow weights that follow the optimiser's fast ones (arXiv 1907.08610) and are what is evaluated."""

    steps: Count = 5
    """Updates between two synchronisations (the paper's k)."""
    alpha: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.5
    """How far the slow weights go towards the fast ones, which then start again from there."""


class ScheduleConfig(Section):
    """The learning rate as a pure function of the step."""

    name: Literal["constant", "linear", "cosine", "one_cycle", "multi_step", "plateau"] = "cosine"
    warmup_epochs: NonNegative = 0.0
    """Linear rise from zero to the schedule's first value, before it begins; may be a fraction of an epoch."""
    floor_lr: NonNegative = 0.0
    """Lowest learning rate of `linear`, `cosine` and `plateau`."""
    half_period_steps: Count | None = None
    """`cosine`: swing between lr and floor_lr with this many steps each way, all through training; absent: one fall."""
    half_period_epochs: Count | None = None
    """`cosine`: the same, changed once an epoch."""
    peak_fraction: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.3
    """`one_cycle`: share of its steps that the rise takes."""
    start_divisor: Positive = 25.0
    """`one_cycle`: it starts at lr / start_divisor."""
    end_divisor: Positive = 1e4
    """`one_cycle`: it ends at lr / start_divisor / end_divisor."""
    anneal: Literal["cosine", "linear"] = "cosine"
    """`one_cycle`: shape of the rise and the fall."""
    cycle_momentum: Range | None = None
    """`one_cycle`: momentum (Adam: beta1) falls from the second value to the first while the rate rises, then back."""
    milestones_epochs: Counts | None = None
    """`multi_step`: the rate is multiplied by gamma after each of these epochs."""
    gamma: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.1
    """`multi_step` and `plateau`: factor of a fall."""
    patience_epochs: Annotated[int, Field(ge=0)] = 10
    """`plateau`: epochs without a lower monitored loss before the rate falls."""

    def inapplicable(self) -> dict[str, str]:
        owners = {
            "floor_lr": ("linear", "cosine", "plateau"),
            "half_period_steps": ("cosine",),
            "half_period_epochs": ("cosine",),
            "peak_fraction": ("one_cycle",),
            "start_divisor": ("one_cycle",),
            "end_divisor": ("one_cycle",),
            "anneal": ("one_cycle",),
            "cycle_momentum": ("one_cycle",),
            "milestones_epochs": ("multi_step",),
            "gamma": ("multi_step", "plateau"),
            "patience_epochs": ("plateau",),
        }
        return {
            field: f"name = {' or '.join(map(repr, names))}"
            for field, names in owners.items()
            if self.name not in names
        }

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.half_period_steps is not None and self.half_period_epochs is not None:
            raise ValueError("half_period_steps and half_period_epochs exclude each other; give one")
        if self.name == "multi_step" and not self.milestones_epochs:
            raise ValueError("name = 'multi_step' needs milestones_epochs, for example [60, 80]")
        if self.milestones_epochs and list(self.milestones_epochs) != sorted(set(self.milestones_epochs)):
            raise ValueError(f"milestones_epochs = {_plain(self.milestones_epochs)} must rise")
        return self


class ProgressiveStage(Section):
    """A part of training on smaller images."""

    side_px: Annotated[int, Field(ge=8, le=256)]
    """Side to which augmented training images are resized."""
    until: Annotated[float, Field(gt=0.0, lt=1.0)]
    """Share of the run's epochs at which the stage ends; below 1, so that training ends at full size."""


class TrainingConfig(Section):
    """Epochs, batches, the loss and which epoch is kept."""

    epochs: Count = 30
    batch_size: Count = 128
    drop_last: bool = False
    """Whether an incomplete last batch is left out."""
    evaluation_batch_size: Count = 512
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    """Seed of initial weights, image order, augmentation and dropout; the validation split has a seed of its own."""
    split_seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    """Seed of the train/validation split, so that runs with several seeds share one split."""
    label_smoothing: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    ema_decay: Annotated[float, Field(gt=0.0, lt=1.0)] | None = None
    """Decay per step of an exponential moving average of the weights, which is then what is evaluated; absent: none."""
    selection: Literal["validation", "last", "test"] = "validation"
    """Which epoch is kept: best validation accuracy, the last, or best test accuracy (to reproduce a paper only)."""
    early_stopping_epochs: Count | None = None
    """Stop after this many epochs without a better selection accuracy; absent: never."""
    progressive: Annotated[tuple[ProgressiveStage, ...], Field(strict=False)] = ()
    """Progressive resizing: stages of rising side and end, then full size; evaluation is always at full size."""

    @model_validator(mode="after")
    def _rising_stages(self) -> Self:
        for field in ("side_px", "until"):
            values = tuple(getattr(stage, field) for stage in self.progressive)
            if list(values) != sorted(set(values)):
                raise ValueError(f"the {field} of progressive, {_plain(values)}, must rise from stage to stage")
        return self


class RuntimeConfig(Section):
    """Where and how the arithmetic runs; `auto` choices are printed with their reason."""

    device: str = "auto"
    """`auto`, `cpu`, `cuda`, `cuda:1` or `mps`."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Automatic mixed precision of the forward and backward pass; weights stay fp32."""
    channels_last: Literal["auto", "yes", "no"] = "auto"
    """Memory layout of activations and convolution weights."""
    threads: Count | Literal["auto"] = "auto"
    """Intra-operation CPU threads."""
    compile: bool = False
    """Whether torch.compile translates the network; its time counts as training time."""
    kernels: Literal["auto", "yes", "no"] = "auto"
    """Whether normalisation, ReLU and addition run as one, and fp32 3x3 convolutions as Winograd's (CPU only).

    A C++ compiler here translates these kernels at first use.
    """
    sync_batchnorm: bool = True
    """Whether BatchNorm's batch statistics are those of all processes' parts of a batch; alone it changes nothing."""

    @model_validator(mode="after")
    def _kernels_apply(self) -> Self:
        if self.kernels == "yes" and self.compile:
            raise ValueError("kernels = 'yes' and compile = true exclude each other; set one of them to no or false")
        if self.kernels == "yes" and self.channels_last == "no":
            raise ValueError("kernels = 'yes' needs channels_last = 'yes' or 'auto'")
        return self


class ExpectConfig(Section):
    """What the recipe's source printed; checked (parameters) or shown beside what is measured (accuracy)."""

    parameters: Count | None = None
    """Exact trainable parameters with 3 channels and 10 classes; a recipe that misses it is refused."""
    claimed_test_accuracy: Annotated[float, Field(ge=0.0, le=100.0)] | None = None
    """In per cent, as claimed; never a number measured here."""
    claim: str = ""
    """Where and how the source claims it."""


class RecipeConfig(Section):
    """A whole recipe."""

    name: str
    """The file's name without its ending."""
    paper: str = ""
    """Authors and file of the source; empty for a recipe of our own."""
    summary: str = ""
    """One line for `thriftnet recipes`."""
    model: ModelConfig
    data: DataConfig = DataConfig()
    augment: AugmentConfig = AugmentConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    muon: MuonConfig | None = None
    perturbation: PerturbationConfig | None = None
    lookahead: LookaheadConfig | None = None
    schedule: ScheduleConfig = ScheduleConfig()
    training: TrainingConfig = TrainingConfig()
    runtime: RuntimeConfig = RuntimeConfig()
    expect: ExpectConfig = ExpectConfig()

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        held_out = self.data.validation_images
        if self.training.selection == "validation" and held_out == 0:
            raise ValueError(
                "training.selection = 'validation' needs validation images, but data.validation_images = 0; "
                "set data.validation_images or training.selection = 'last'"
            )
        monitored_by = (
            "schedule.name = 'plateau'"
            if self.schedule.name == "plateau"
            else "training.early_stopping_epochs"
            if self.training.early_stopping_epochs is not None
            else None
        )
        if self.training.selection == "last" and held_out == 0 and monitored_by is not None:
            raise ValueError(f"{monitored_by} needs validation images; set data.validation_images above 0")
        if self.schedule.warmup_epochs >= self.training.epochs:
            raise ValueError(
                f"schedule.warmup_epochs = {self.schedule.warmup_epochs:g} must be less than "
                f"training.epochs = {self.training.epochs}"
            )
        return self


def _check_range(field: str, value: tuple[float, float], above: float, at_most: float = float("inf")) -> None:
    low, high = value
    if not above < low <= high <= at_most:
        bound = f" <= {at_most:g}" if at_most != float("inf") else ""
        raise ValueError(f"{field} = {_plain(value)} must satisfy {above:g} < low <= high{bound}")


def _plain(value: tuple[float, ...] | None) -> str:
    return "absent" if value is None else str(list(value))
