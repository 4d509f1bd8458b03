"""Epochs and batches, the machine, and what the recipe's source printed."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from thriftnet.config.fields import LARGEST_SIDE_PX, Count, Positive, Section, plain

MOST_EPOCHS = 100_000
"""metrics.csv is written anew after each, and the learning rate drawn for all: three hundred times the papers' most."""
MOST_BATCH_IMAGES = 65_536
"""Activations grow with the batch: of the whole of CIFAR-10 at once they would take some 100 GB."""
MOST_THREADS = 1_024
"""The largest machines have fewer cores; OpenMP takes 200 kB for each thread before it starts one."""
MOST_STAGES = 16
"""Of progressive resizing: a side of 8 to 256 pixels."""


class ProgressiveStage(Section):
    """A part of training on smaller images."""

    side_px: Annotated[int, Field(ge=8, le=LARGEST_SIDE_PX)]
    """Side to which augmented training images are resized."""
    until: Annotated[float, Field(gt=0.0, lt=1.0)]
    """Share of the run's epochs at which the stage ends; below 1, so that training ends at full size."""


class TrainingConfig(Section):
    """Epochs, batches, the loss and which epoch is kept."""

    epochs: Annotated[int, Field(ge=1, le=MOST_EPOCHS)] = 30
    batch_size: Annotated[int, Field(ge=1, le=MOST_BATCH_IMAGES)] = 128
    drop_last: bool = False
    """Whether an incomplete last batch is left out."""
    evaluation_batch_size: Annotated[int, Field(ge=1, le=MOST_BATCH_IMAGES)] = 512
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
    progressive: Annotated[tuple[ProgressiveStage, ...], Field(strict=False, max_length=MOST_STAGES)] = ()
    """Progressive resizing: stages of rising side and end, then full size; evaluation is always at full size."""

    @model_validator(mode="after")
    def _rising_stages(self) -> Self:
        for field in ("side_px", "until"):
            values = tuple(getattr(stage, field) for stage in self.progressive)
            if list(values) != sorted(set(values)):
                raise ValueError(f"the {field} of progressive, {plain(values)}, must rise from stage to stage")
        return self


def _as_word(value: object) -> object:
    """Runs of earlier versions have true or false."""
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else value


class RuntimeConfig(Section):
    """Where and how the arithmetic runs; `auto` choices are printed with their reason."""

    device: str = "auto"
    """`auto`, `cpu`, `cuda`, `cuda:1` or `mps`."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Automatic mixed precision of the forward and backward pass; weights stay fp32."""
    channels_last: Literal["auto", "yes", "no"] = "auto"
    """Memory layout of activations and convolution weights."""
    threads: Annotated[int, Field(ge=1, le=MOST_THREADS)] | Literal["auto"] = "auto"
    """Intra-operation CPU threads."""
    compile: Annotated[Literal["auto", "yes", "no"], BeforeValidator(_as_word)] = "auto"
    """Whether torch.compile translates the network; its time counts as training time. auto: on a GPU, for long runs."""
    cuda_graphs: Literal["auto", "yes", "no"] = "auto"
    """Whether a step's work on a GPU is recorded once and then launched as one (CUDA only)."""
    deterministic: bool = False
    """Whether the same run gives the same bits on a GPU too, which is slower; on a CPU it always does."""
    kernels: Literal["auto", "yes", "no"] = "auto"
    """Whether normalisation, activation and addition run as one, and convolutions by kernels of our own (CPU only).

    A C++ compiler here translates these kernels at first use.
    """
    sync_batchnorm: bool = True
    """Whether BatchNorm's batch statistics are those of all processes' parts of a batch; alone it changes nothing."""
    checkpoint_minutes: Positive = 10.0
    """Time after which the state is saved within an epoch too; at an epoch's end and at a signal it always is."""

    @model_validator(mode="after")
    def _kernels_apply(self) -> Self:
        if self.kernels == "yes" and self.compile == "yes":
            raise ValueError("kernels = 'yes' and compile = 'yes' exclude each other; set one of them to no")
        if self.kernels == "yes" and self.channels_last == "no":
            raise ValueError("kernels = 'yes' needs channels_last = 'yes' or 'auto'")
        return self


class ExpectConfig(Section):
    """What the recipe's source printed; checked (parameters) or shown beside what is measured (accuracy)."""

    parameters: Count | None = None
    """Exact trainable parameters with 3 channels and 10 classes; a recipe that misses it is refused."""
    claimed_test_accuracy: Annotated[float, Field(ge=0.0, le=100.0)] | None = None
    """In per cent, as claimed; never a number measured here."""
    claimed_validation_accuracy: Annotated[float, Field(ge=0.0, le=100.0)] | None = None
    """The same of a source that prints only this one: no test accuracy is to be compared with it."""
    claim: str = ""
    """Where and how the source claims it."""

    @model_validator(mode="after")
    def _one_claim(self) -> Self:
        if self.claimed_test_accuracy is not None and self.claimed_validation_accuracy is not None:
            raise ValueError("claimed_test_accuracy and claimed_validation_accuracy exclude each other; leave one out")
        return self
