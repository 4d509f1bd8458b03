"""The typed recipe: every field with its default, its unit and one sentence.

A recipe file states only its departures from these defaults. Nothing here touches data or torch, so a recipe is checked
(types, ranges, combinations) before any work begins. Unknown keys are refused: `recipe.py` turns pydantic's complaints
into one line that names the field, the value and the nearest right name.
"""

from thriftnet.config.augment import (
    Affine,
    AlternatingFlip,
    AugmentConfig,
    AugmentOp,
    AugMix,
    ColorJitter,
    Cutout,
    GaussianBlur,
    HorizontalFlip,
    MixConfig,
    PaddedCrop,
    RandAugment,
    RandomResizedCrop,
    Rotation,
    TrivialAugment,
    VerticalFlip,
)
from thriftnet.config.data import DataConfig
from thriftnet.config.fields import Section
from thriftnet.config.model import LARGEST_WHITENING_KERNEL, RESNET9_RESIDUAL_CONVS, ModelConfig, StemConfig
from thriftnet.config.optim import LookaheadConfig, MuonConfig, OptimizerConfig, PerturbationConfig, ScheduleConfig
from thriftnet.config.recipe import RecipeConfig
from thriftnet.config.training import ExpectConfig, ProgressiveStage, RuntimeConfig, TrainingConfig

__all__ = [
    "LARGEST_WHITENING_KERNEL",
    "RESNET9_RESIDUAL_CONVS",
    "Affine",
    "AlternatingFlip",
    "AugMix",
    "AugmentConfig",
    "AugmentOp",
    "ColorJitter",
    "Cutout",
    "DataConfig",
    "ExpectConfig",
    "GaussianBlur",
    "HorizontalFlip",
    "LookaheadConfig",
    "MixConfig",
    "ModelConfig",
    "MuonConfig",
    "OptimizerConfig",
    "PaddedCrop",
    "PerturbationConfig",
    "ProgressiveStage",
    "RandAugment",
    "RandomResizedCrop",
    "RecipeConfig",
    "Rotation",
    "RuntimeConfig",
    "ScheduleConfig",
    "Section",
    "StemConfig",
    "TrainingConfig",
    "TrivialAugment",
    "VerticalFlip",
]
