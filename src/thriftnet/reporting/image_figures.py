"""Figures that show images: a batch before and after augmentation, and the most confident mistakes.

Shapes: N images, M of them shown, C channels (1 or 3), H = W pixels, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from thriftnet.fonts import numbered
from thriftnet.reporting.figures import MUTED, VERMILLION, new_figure, short_name, styled

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_BATCH_COLUMNS = 8
_MISTAKE_COLUMNS = 5


@dataclass(frozen=True)
class AugmentedBatchData:
    """`originals`, `augmented`: uint8 [M, H, W, 3]; `names`: the M classes."""

    originals: np.ndarray
    augmented: np.ndarray
    names: tuple[str, ...]


def augmented_batch_data(
    originals: Tensor, augmented: Tensor, labels: Tensor, class_names: Sequence[str], limit: int = 16
) -> AugmentedBatchData:
    """The first `limit` images of a batch before and after augmentation, not normalised.

    Both: [N, C, H, W], uint8 or float in [0, 1]; `labels`: int64 [N].
    """
    shown = numbered(class_names)
    names = tuple(shown[label] for label in labels[:limit].tolist())
    return AugmentedBatchData(pixels(originals[:limit]), pixels(augmented[:limit]), names)


@styled
def draw_augmented_batch(data: AugmentedBatchData) -> Figure:
    """Pairs of rows: above the image as it is stored, below it what the network was shown."""
    count = len(data.names)
    columns = min(count, _BATCH_COLUMNS)
    bands = -(-count // columns)
    band_height = 2.42
    figure = new_figure(0.78 * columns + 0.4, 0.76 * band_height * bands + 0.1, make_room=False)
    axes = _image_axes(figure, columns, bands * band_height - 0.08, left=0.3)
    for index in range(count):
        band, column = divmod(index, columns)
        top = band * band_height + 0.24
        axes.text(column + 0.5, top - 0.05, short_name(data.names[index], 12), ha="center", va="bottom", fontsize=7)
        _show(axes, data.originals[index], column, top)
        _show(axes, data.augmented[index], column, top + 1.03)
        if column == 0:
            for row, word in enumerate(("original", "augmented")):
                axes.text(-0.06, top + 0.5 + 1.03 * row, word, rotation=90, ha="right", va="center", color=MUTED)
    return figure


@dataclass(frozen=True)
class MistakesData:
    """The most confident mistakes, most confident first. `images`: uint8 [M, H, W, 3]; `confidences`: fractions.

    `total` mistakes were made among `count` images; `indices` are the places of those shown among the images given.
    """

    images: np.ndarray
    predicted_names: tuple[str, ...]
    true_names: tuple[str, ...]
    confidences: tuple[float, ...]
    indices: tuple[int, ...]
    total: int
    count: int


def mistakes_data(
    images: Tensor, logits: Tensor, labels: Tensor, class_names: Sequence[str], limit: int = 20
) -> MistakesData:
    """`images`: uint8 [N, C, H, W]; `logits`: float [N, K]; `labels`: int64 [N]; of equal confidences the first."""
    confidence, predicted = logits.double().softmax(1).max(1)
    wrong = (predicted != labels).nonzero().squeeze(1)
    shown = wrong[torch.sort(confidence[wrong], descending=True, stable=True).indices[:limit]]
    names = numbered(class_names)
    return MistakesData(
        images=pixels(images[shown]),
        predicted_names=tuple(names[k] for k in predicted[shown].tolist()),
        true_names=tuple(names[k] for k in labels[shown].tolist()),
        confidences=tuple(confidence[shown].tolist()),
        indices=tuple(shown.tolist()),
        total=len(wrong),
        count=len(labels),
    )


@styled
def draw_mistakes(data: MistakesData) -> Figure:
    """Each image over what it was taken for, how confidently, and what it is."""
    shown = len(data.indices)
    if shown == 0:
        figure = new_figure(5.2, 0.8, make_room=False)
        figure.text(0.5, 0.5, f"no mistake among {data.count:,} images", ha="center", va="center", color=MUTED)
        return figure
    columns = min(shown, _MISTAKE_COLUMNS)
    rows = -(-shown // columns)
    row_height = 1.42
    figure = new_figure(max(1.16 * columns, 2.4), 1.16 * row_height * rows, make_room=False)
    axes = _image_axes(figure, columns, rows * row_height, left=0.0)
    for index in range(shown):
        row, column = divmod(index, columns)
        top, middle = row * row_height, column + 0.5
        _show(axes, data.images[index], column, top, margin=0.06)
        taken_for = f"{short_name(data.predicted_names[index], 11)} {data.confidences[index]:.1%}"
        axes.text(middle, top + 1.06, taken_for, ha="center", va="center", color=VERMILLION, fontsize=7.5)
        is_really = f"is {short_name(data.true_names[index], 15)}"
        axes.text(middle, top + 1.23, is_really, ha="center", va="center", fontsize=7.5)
    return figure


def pixels(images: Tensor, largest_side_px: int = 128) -> np.ndarray:
    """uint8 [M, H, W, 3] from uint8 or float [M, C, H, W]; larger ones are reduced to `largest_side_px` a side.

    More would not be seen in a figure, and fills the report.
    """
    from PIL import Image

    images = images.detach().cpu()
    if images.is_floating_point():
        images = images.clamp(0, 1).mul(255).round().to(torch.uint8)
    whole: np.ndarray = images.expand(-1, 3, -1, -1).permute(0, 2, 3, 1).contiguous().numpy()
    side = max(whole.shape[1:3])
    if side <= largest_side_px or len(whole) == 0:
        return whole
    size = (largest_side_px * whole.shape[2] // side, largest_side_px * whole.shape[1] // side)
    return np.stack([np.asarray(Image.fromarray(p).resize(size, Image.Resampling.LANCZOS)) for p in whole])


def _image_axes(figure: Figure, columns: int, height: float, left: float) -> Axes:
    """Axes without a frame whose unit is the side of an image, from the top left downwards."""
    axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
    axes.set(xlim=(-left - 0.05, columns + 0.05), ylim=(height, 0), aspect="equal")
    axes.axis("off")
    return axes


def _show(axes: Axes, pixels: np.ndarray, left: float, top: float, margin: float = 0.03) -> None:
    """Pixels as squares: smoothing would hide what the network was given."""
    axes.imshow(
        pixels,
        extent=(left + margin, left + 1 - margin, top + 1 - margin, top + margin),
        interpolation="none",
        aspect="equal",
    )
