"""From a source to what the training loop needs: split, checked, with statistics. The test split stays closed."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from thriftnet.config import DataConfig
from thriftnet.data.arrays import numbering_fault
from thriftnet.data.dataset import MOST_CLASSES, LabelledImages, Source
from thriftnet.data.decode import SIZE_FIX
from thriftnet.data.splits import split_training
from thriftnet.data.statistics import channel_statistics, fingerprint
from thriftnet.errors import DataError

SMALLEST_SIDE, LARGEST_SIDE = 16, 256


@dataclass(frozen=True)
class TrainingData:
    """What a training sees of its data."""

    train: LabelledImages
    """The images that are trained on."""
    validation: LabelledImages | None
    """The data's own validation split, or the images held out of the training split; None where there are none."""
    mean: tuple[float, ...]
    """Per channel, in [0, 1]: the recipe's, else of the images that are trained on."""
    std: tuple[float, ...]
    fingerprint: str
    """SHA-256 of the whole training split as it was read, before validation images were held out."""
    validation_fingerprint: str | None
    """SHA-256 of the data's own validation split where that is used; None where images are held out."""
    class_names: tuple[str, ...]
    train_indices: Tensor
    """int64, sorted: where `train` lies in the source's training split."""
    validation_indices: Tensor
    """Of those held out of it; empty where the data have a validation split of their own."""
    notes: tuple[str, ...]
    """How it was divided where that is not obvious, one sentence each, to be shown to the user."""


def prepare(
    source: Source, config: DataConfig, selection: str, split_seed: int, own_validation: bool = True
) -> TrainingData:
    """Read the training split of `source`, check it and divide it. Never opens the test split.

    The source's own validation split is used unless `config` asks for a number of images, or `own_validation` is False:
    runs of earlier versions held images out all the same.

    Raises DataError where the images cannot be trained on or the numbers asked for do not fit them.
    """
    if selection == "test" and not source.has_test:
        raise DataError(
            f"training.selection = 'test' needs a test split, and {source.location} has none; set 'validation'"
        )
    everything = source.train()
    check_images(everything, source, config.image_side)
    own = source.validation() if own_validation and not config.validation_images else None
    held_out = config.validation_images if own is None else 0
    if own is not None and own.images.shape[1:] != everything.images.shape[1:]:
        shapes = " and ".join("x".join(map(str, data.images.shape[1:])) for data in (everything, own))
        raise DataError(
            f"{source.location} has training and validation images of {shapes} values; bring both to one side with "
            "data.image_side, or hold images out with data.validation_images"
        )
    train_indices, validation_indices = split_training(everything.labels, held_out, config.train_images, split_seed)
    validation = own if own is not None else everything.select(validation_indices)
    if selection == "validation" and len(validation) == 0:
        raise DataError("data.validation_images = 0, but training.selection = 'validation' needs some; set either")
    train = everything.select(train_indices)
    mean, std = _normalisation(train, config)
    return TrainingData(
        train=train,
        validation=validation if len(validation) else None,
        mean=mean,
        std=std,
        fingerprint=fingerprint(everything),
        validation_fingerprint=None if own is None else fingerprint(own),
        class_names=source.class_names,
        train_indices=train_indices,
        validation_indices=validation_indices,
        notes=_division_notes(source, config, own),
    )


def _division_notes(source: Source, config: DataConfig, own: LabelledImages | None) -> tuple[str, ...]:
    if own is not None:
        return (f"the {len(own):,} images of the data's own validation split are the validation images",)
    if not source.has_validation:
        return ()
    return (
        f"data.validation_images = {config.validation_images} images are held out of the training split; the data's "
        "own validation split is not used",
    )


def check_images(data: LabelledImages, source: Source, image_side: int | None) -> None:
    """Raise DataError unless these training images can be trained on: classes, labels, channels and sides."""
    where, classes = source.location, len(source.class_names)
    if classes < 2:
        only = f", {source.class_names[0]}" if source.class_names else ""
        raise DataError(f"{where} has {classes} class{only}; classification needs at least two")
    if classes > MOST_CLASSES:
        raise DataError(f"{where} has {classes:,} classes; {MOST_CLASSES:,} are the most")
    if len(data) == 0:
        raise DataError(f"{where} has no training images")
    low, high = int(data.labels.min()), int(data.labels.max())
    if low < 0 or high >= classes:
        raise DataError(
            f"{where} has labels from {low} to {high}; with {classes} classes they must be 0 to {classes - 1}"
        )
    counts = torch.bincount(data.labels, minlength=classes)
    empty = [name for name, count in zip(source.class_names, counts.tolist(), strict=True) if count == 0]
    if empty and source.class_names == tuple(map(str, range(classes))):
        raise DataError(f"{where} has {numbering_fault(counts.tolist())}")
    if empty:
        raise DataError(f"{where} has no training image of class {', '.join(empty[:3])}; add some or remove the class")
    _, channels, height, width = data.images.shape
    if channels not in (1, 3):
        raise DataError(f"{where} has images of {channels} channels; 1 (grey) and 3 (RGB) can be used")
    if height != width or not SMALLEST_SIDE <= height <= LARGEST_SIDE:
        raise DataError(
            f"{where} has images of {width}x{height} pixels; "
            f"they must be square, {SMALLEST_SIDE} to {LARGEST_SIDE} pixels: {SIZE_FIX}"
        )
    if image_side is not None and height != image_side:
        raise DataError(f"{where} was opened with side {height}, not data.image_side = {image_side}; open it with that")


def _normalisation(train: LabelledImages, config: DataConfig) -> tuple[tuple[float, ...], tuple[float, ...]]:
    channels = train.images.shape[1]
    if config.mean is not None and config.std is not None:
        for field, values in (("mean", config.mean), ("std", config.std)):
            if len(values) != channels:
                raise DataError(
                    f"data.{field} = {list(values)} needs {channels} values, one for each channel of the images"
                )
        return config.mean, config.std
    mean, std = channel_statistics(train.images)
    if min(std) == 0:
        raise DataError(f"channel {std.index(0)} is the same in every pixel of every image, so it cannot be normalised")
    return mean, std
