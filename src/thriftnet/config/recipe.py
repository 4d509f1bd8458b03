"""A whole recipe."""

from __future__ import annotations

from typing import Self

from pydantic import model_validator

from thriftnet.config.augment import AugmentConfig
from thriftnet.config.data import DataConfig
from thriftnet.config.fields import Section
from thriftnet.config.model import ModelConfig
from thriftnet.config.optim import LookaheadConfig, MuonConfig, OptimizerConfig, PerturbationConfig, ScheduleConfig
from thriftnet.config.training import ExpectConfig, RuntimeConfig, TrainingConfig


class RecipeConfig(Section):
    """A whole recipe."""

    name: str
    """The file's name without its ending."""
    paper: str = ""
    """Authors and file of the source; empty for a recipe of our own."""
    summary: str = ""
    """One line for `thriftnet recipes`."""
    reduced: str = ""
    """How the recipe is smaller than the one of its name (fewer epochs, narrower), shown with every number."""
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

    @property
    def title(self) -> str:
        """Its name, with what makes it smaller than the recipe of that name."""
        return f"{self.name} (reduced: {self.reduced})" if self.reduced else self.name

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
