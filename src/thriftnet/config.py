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
    """The first convolution: stride 1, padding (kernel - 1) / 2."""

    width: Count
    """Output channels."""
    kernel: Count = 3
    """Side of the square kernel in pixels; odd, so that the padding keeps the image side."""

    @model_validator(mode="after")
    def _odd_kernel(self) -> Self:
        if self.kernel % 2 == 0:
            raise ValueError(f"kernel = {self.kernel} must be odd; {self.kernel - 1} and {self.kernel + 1} are")
        return self


class ModelConfig(Section):
    """A residual network: a stem, stages of residual blocks, global pooling and one linear layer."""

    family: Literal["resnet", "resnet9"] = "resnet"
    """`resnet`: stages of blocks, average pooling. `resnet9`: convolutions with two residual pairs, max pooling."""
    block: Literal["basic", "bottleneck", "resnext"] = "basic"
    """The residual block of the `resnet` family."""
    stem: StemConfig
    """The first convolution."""
    widths: Counts | None = None
    """Channels per stage: the block's output for `basic`, its inner width for `bottleneck`; absent for `resnext`."""
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
    activation: Literal["relu", "gelu", "silu"] = "relu"
    """Non-linearity everywhere."""
    dropout: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    """Probability; inside each block after the first activation (`resnet`), before the linear layer (`resnet9`)."""
    se_reduction: Annotated[int, Field(ge=0)] = 0
    """Squeeze-and-excitation with this reduction at the end of each block's residual branch; 0 is none."""
    conv_bias: bool = False
    """Whether convolutions have a bias although a normalisation follows."""
    init: Literal["torch", "kaiming_fan_in", "kaiming_fan_out"] = "kaiming_fan_out"
    """Convolution weights: torch's default, or Kaiming-normal by fan-in or fan-out (arXiv 1502.01852)."""
    parameter_budget: Count = 5_000_000
    """The most trainable parameters the network may have; checked before any data is touched."""

    def inapplicable(self) -> dict[str, str]:
        if self.family == "resnet9":
            resnet_only = ("block", "blocks", "strides", "expansion", "cardinality", "base_width", "se_reduction")
            return dict.fromkeys(resnet_only, "family = 'resnet'")
        fields: dict[str, str] = {}
        if self.block == "basic":
            fields["expansion"] = "block = 'bottleneck' or 'resnext'"
        if self.block == "resnext":
            fields["widths"] = "block = 'basic' or 'bottleneck' (resnext: cardinality x base_width)"
        else:
            fields |= dict.fromkeys(("cardinality", "base_width"), "block = 'resnext'")
        return fields

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.family == "resnet9":
            if self.widths is None or len(self.widths) != 3:
                raise ValueError(f"widths = {_plain(self.widths)} must have 3 values for family = 'resnet9'")
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


AugmentOp = Annotated[
    HorizontalFlip
    | VerticalFlip
    | PaddedCrop
    | Rotation
    | Affine
    | RandomResizedCrop
    | ColorJitter
    | GaussianBlur
    | Cutout,
    Field(discriminator="op"),
]


class AugmentConfig(Section):
    """What happens to training images, in the order of the list, before normalisation."""

    ops: Annotated[tuple[AugmentOp, ...], Field(strict=False)] = ()
    """Operations in order, each a table with `op` and its parameters."""
    geometry: Literal["exact", "fused"] = "exact"
    """`exact` resamples at each geometric operation; `fused` composes neighbours and resamples once."""
    concatenate_originals: bool = False
    """An epoch shows every image twice, as it is and augmented; the number of steps doubles."""


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


class PerturbationConfig(Section):
    """Take the gradient at perturbed parameters: adversarial model perturbation (AMP, arXiv 2010.04925)."""

    name: Literal["amp"] = "amp"
    epsilon: Positive = 0.5
    """Radius of the 2-norm ball around each parameter tensor."""
    inner_steps: Count = 1
    """Ascent steps inside the ball."""
    inner_lr: Positive = 1.0
    """Size of an ascent step, times the gradient (the paper's zeta)."""
    batchnorm: Literal["every_pass", "first_pass"] = "every_pass"
    """Which passes update running statistics: all, as the authors' code does, or only the unperturbed one."""


class ScheduleConfig(Section):
    """The learning rate as a pure function of the step."""

    name: Literal["constant", "cosine", "one_cycle", "multi_step", "plateau"] = "cosine"
    warmup_epochs: NonNegative = 0.0
    """Linear rise from zero to the schedule's first value, before it begins; may be a fraction of an epoch."""
    floor_lr: NonNegative = 0.0
    """Lowest learning rate of `cosine` and `plateau`."""
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
            "floor_lr": ("cosine", "plateau"),
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
    perturbation: PerturbationConfig | None = None
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
