"""Optimiser, perturbation, slow weights, learning rate."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from thriftnet.config.fields import Count, CountOrZero, Counts, NonNegative, Positive, Range, Section, plain

MOST_INNER_STEPS = 1_000
"""Within one update: it cannot be interrupted, so it must end while somebody waits."""


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
            raise ValueError(f"betas = {plain(self.betas)} must lie in [0, 1)")
        return self


class MuonConfig(Section):
    """Muon for the weights of all convolutions but the first; every other parameter stays with [optimizer]."""

    lr: Positive
    """Learning rate where the schedule is at optimizer.lr; it moves in proportion to the schedule."""
    momentum: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.95
    nesterov: bool = True
    newton_schulz_steps: Annotated[int, Field(ge=1, le=MOST_INNER_STEPS)] = 5
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
    inner_steps: Annotated[int, Field(ge=1, le=MOST_INNER_STEPS)] = 1
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
    patience_epochs: CountOrZero = 10
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
            raise ValueError(f"milestones_epochs = {plain(self.milestones_epochs)} must rise")
        return self
