"""What is trained on."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, model_validator

from thriftnet.config.fields import LARGEST_SIDE_PX, Channels, Count, CountOrZero, Section, plain


class DataConfig(Section):
    """What is trained on; where it lies is said on the command line."""

    image_side: Annotated[int, Field(ge=16, le=LARGEST_SIDE_PX)] | None = None
    """Side in pixels to which images of other sizes are resized; absent: the data's own side (32 for image folders)."""
    validation_images: CountOrZero | None = None
    """Images held out of the training split, stratified; absent: a tenth (5,000 of CIFAR-10); 0: none.

    Data that come with a validation split of their own have that one instead, unless this is above 0."""
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
            raise ValueError(f"std = {plain(self.std)} must be positive")
        return self
