"""What a step is trained on: which images, augmented, resized and mixed, on the device.

Shapes: N images of this process, M >= N with the partners that theirs are mixed with, P images in a mixture.

There are two parts. `Batches.raw` gathers images and what is drawn for them; `Batches.make` turns that into what the
network sees and is a function of tensors alone, so that a CUDA graph can record it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from thriftnet.augment.draws import Draws, EpochKey, epoch_key
from thriftnet.augment.mixing import PARTNERS, Targets, mix_rows, mixes_in, partners
from thriftnet.augment.policy import COPIES, build_policy
from thriftnet.augment.resizing import resize, training_side
from thriftnet.config import RecipeConfig
from thriftnet.data.batches import epoch_order, steps_per_epoch
from thriftnet.data.normalize import as_float, normalize
from thriftnet.data.prepare import TrainingData
from thriftnet.distributed.processes import ALONE, Processes
from thriftnet.runtime import Runtime

RESIDENT_SHARE = 0.5
"""Of the device's free memory, what the training images may take; the rest is for training."""


class Raw(NamedTuple):
    """A batch before augmentation, on the device."""

    images: Tensor
    """uint8 [M, C, H, W]."""
    labels: Tensor
    """int64 [M]."""
    keys: Tensor
    """int64 [M]: places in the whole training split, which the draws are keyed by."""
    epoch: Tensor
    """int64, 0-d: the key of the epoch."""
    epoch_is_even: Tensor
    """bool, 0-d."""
    copies: Tensor | None = None
    """bool [M]: which are augmented; None: all."""
    partners: Tensor | None = None
    """int64 [P - 1, N]: places among the M of what the first N are mixed with; None: nothing is mixed."""


@dataclass(frozen=True)
class EpochOfBatches:
    """An epoch's order, on the device that keeps the images."""

    number: int
    """From 1."""
    order: Tensor
    """int64: entries; from the number of images on, they are the augmented copies of originals that are shown too."""
    key: EpochKey
    batch_size: int
    steps: int

    def size(self, step: int) -> int:
        """Images in the whole batch of this step."""
        return min(self.batch_size, len(self.order) - step * self.batch_size)

    def entries(self, step: int) -> Tensor:
        """int64 [size(step)]."""
        return self.order[step * self.batch_size : (step + 1) * self.batch_size]


class Batches:
    """The training images of a run, kept on the device where they fit, and the batches made of them."""

    def __init__(
        self, recipe: RecipeConfig, data: TrainingData, runtime: Runtime, processes: Processes = ALONE
    ) -> None:
        self.recipe, self.data, self.runtime, self.processes = recipe, data, runtime, processes
        self.policy = build_policy(recipe.augment, data.mean)
        self.notes: tuple[str, ...] = ()
        """How the images are kept, where that is not as usual."""
        self.home = runtime.device
        free = _free_memory(runtime.device)
        if free is not None and data.train.images.nbytes > RESIDENT_SHARE * free:
            self.home = torch.device("cpu")
            self.notes = (
                f"images stay in main memory: they take {data.train.images.nbytes / 1e9:.1f} GB and the device has "
                f"{free / 1e9:.1f} GB free; each batch is copied there",
            )
        self._images, self._labels = data.train.images.to(self.home), data.train.labels.to(self.home)
        # Draws are keyed by the place in the whole training split, so that another subset changes no image.
        self._keys = data.train_indices.to(self.home)
        self.shown = len(data.train) * (2 if recipe.augment.concatenate_originals else 1)
        self.views = 1 if recipe.augment.consistency_weight is None else 1 + COPIES
        """How often a step shows each of its images."""
        training = recipe.training
        self.steps_per_epoch = steps_per_epoch(self.shown, training.batch_size, training.drop_last)

    def epoch(self, number: int) -> EpochOfBatches:
        """The order of epoch `number`, counted from 1; moved to where the images are once, not batch by batch."""
        seed, key = self.recipe.training.seed, epoch_key(self.recipe.training.seed, number)
        on_device = EpochKey(self._moved(torch.tensor(key.value)), self._moved(torch.tensor(key.is_even)))
        order = _sent(epoch_order(self.shown, seed, number), self.home)
        return EpochOfBatches(number, order, on_device, self.recipe.training.batch_size, self.steps_per_epoch)

    def batch(self, epoch: EpochOfBatches, step: int) -> tuple[Tensor, Tensor | Targets]:
        """Normalised images float32 [N, C, H, W] and labels int64 [N], of mixed images `Targets`, of a step from 0.

        With `augment.consistency_weight` there are 3 N images, the copies behind (`Policy.with_copies`). With several
        processes N is this one's share of the batch.
        """
        return self.make(self.side_px(epoch.number), self.raw(epoch, step))

    def side_px(self, epoch: int) -> int | None:
        """Side of the images in this epoch; None: as they are."""
        return training_side(self.recipe.training.progressive, epoch, self.recipe.training.epochs)

    def raw(self, epoch: EpochOfBatches, step: int) -> Raw:
        """The images of a step, counted from 0, and what is drawn for them, on the device."""
        entries, size = epoch.entries(step), epoch.size(step)
        share, rows = self.processes.shard(size), None
        mix = self.recipe.augment.mix
        if mix is not None and mixes_in(mix, epoch.number, self.recipe.training.epochs):
            seed = self.recipe.training.seed
            rows = partners(seed, epoch.number, step, size, PARTNERS[mix.name], self.home)[:, share]
        if rows is not None and self.processes.several:
            # A mixed image needs its partners, wherever in the batch they are: they are made here too.
            count = rows.shape[1]
            entries = torch.cat([entries[share], entries[rows.flatten()]])
            rows = count + torch.arange(rows.numel(), device=self.home).view_as(rows)
        else:
            entries = entries[share]
        count = len(self.data.train)
        indices = entries % count
        return Raw(
            images=self._moved(self._images[indices]),
            labels=self._moved(self._labels[indices]),
            keys=self._moved(self._keys[indices]),
            epoch=torch.as_tensor(epoch.key.value),
            epoch_is_even=torch.as_tensor(epoch.key.is_even),
            copies=self._moved(entries >= count) if self.recipe.augment.concatenate_originals else None,
            partners=None if rows is None else self._moved(rows),
        )

    def make(self, side_px: int | None, raw: Raw) -> tuple[Tensor, Tensor | Targets]:
        """What `batch` returns, of images that are resized to `side_px`; a function of the tensors in `raw`."""
        draws = Draws(self.recipe.training.seed, EpochKey(raw.epoch, raw.epoch_is_even), raw.keys)
        images = (self.policy if self.views == 1 else self.policy.with_copies)(raw.images, draws)
        if raw.copies is not None:
            # Augmenting all costs little; picking some would make a GPU wait for their number.
            images = torch.where(raw.copies[:, None, None, None], images, as_float(raw.images))
        images = resize(images, side_px)
        targets: Tensor | Targets = raw.labels
        mix = self.recipe.augment.mix
        if mix is not None and raw.partners is not None:
            own = Draws(draws.seed, draws.key, raw.keys[: raw.partners.shape[1]])
            images, targets = mix_rows(mix, images, raw.labels, raw.partners, own)
        images = normalize(images, self.data.mean, self.data.std)
        return images.contiguous(memory_format=self.runtime.memory_format), targets

    def _moved(self, tensor: Tensor) -> Tensor:
        """On the device; a GPU is not waited for."""
        return _sent(tensor, self.runtime.device)


def _sent(tensor: Tensor, device: torch.device) -> Tensor:
    """On `device`. Only a copy from pinned memory leaves the host free; torch reuses it when the copy is done."""
    if device.type != "cuda" or tensor.device.type != "cpu":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def _free_memory(device: torch.device) -> int | None:
    """Bytes; None where the device has no memory of its own."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else None


def resize_and_mix(
    recipe: RecipeConfig, images: Tensor, labels: Tensor, draws: Draws, epoch: int, step: int
) -> tuple[Tensor, Tensor | Targets]:
    """What happens to the augmented images of a whole batch, float32 [N, C, H, W] in [0, 1], outside of training.

    `labels`: int64 [N]; `epoch` counts from 1, `step` from the epoch's first.
    """
    mix, epochs = recipe.augment.mix, recipe.training.epochs
    images = resize(images, training_side(recipe.training.progressive, epoch, epochs))
    if mix is None or not mixes_in(mix, epoch, epochs):
        return images, labels
    rows = partners(draws.seed, epoch, step, len(images), PARTNERS[mix.name], images.device)
    return mix_rows(mix, images, labels, rows, draws)
