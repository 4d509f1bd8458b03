"""The confusion matrix of a page: cells that open their images.

Shapes: N images, M of them kept, C channels, S x S pixels, K classes. A pair is (true class, predicted class).
"""

from __future__ import annotations

import io
from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from thriftnet.reporting.figures import WHITE_TEXT, short_name
from thriftnet.reporting.image_figures import pixels
from thriftnet.reporting.tables import Cell, Link, Table

GRID_CLASSES = 25
"""Up to here the page shows the whole matrix, beyond it the most confused pairs."""
LISTED_PAIRS = 100
IMAGES_A_PAIR = 12
KEPT_PIXELS = 2**19
"""All images together: 512 of 32 x 32 pixels, about 1.6 MB of a page."""
LARGEST_SIDE_PX = 64


Pair = tuple[int, int]


@dataclass(frozen=True)
class ConfusedImages:
    """Some images of each listed pair, in the order in which they are shown.

    `images`: uint8 [M, S, S, 3]; `true`, `predicted`: classes; `confidences`: of the predicted class, fractions.
    Raises ValueError where these do not fit each other.
    """

    images: np.ndarray
    true: tuple[int, ...]
    predicted: tuple[int, ...]
    confidences: tuple[float, ...]

    def __post_init__(self) -> None:
        lengths = {len(self.true), len(self.predicted), len(self.confidences)}
        if self.images.ndim != 4 or self.images.dtype != np.uint8 or lengths != {len(self.images)}:
            raise ValueError("images, classes and confidences do not fit each other")


@dataclass(frozen=True)
class Confusion:
    """A block of a page: which class is taken for which. `counts`: [K][K], the row is the true class."""

    class_names: Sequence[str]
    counts: Sequence[Sequence[int]]
    images: ConfusedImages | None = None


def confused_images_data(images: Tensor, logits: Tensor, labels: Tensor) -> ConfusedImages:
    """Choose the images to keep: uint8 [N, C, H, W], float [N, K], int64 [N].

    Of a mistaken pair those of which the network was surest, of a class recognised those of which it was least sure.
    Every listed pair gets its first image before any gets its second, until 512 images of 32 x 32 pixels, or as many
    pixels of another size, are reached. Images above 64 pixels a side are reduced.
    """
    classes = logits.shape[1]
    confidences, predicted = logits.double().softmax(1).max(1)
    counts = torch.bincount(labels * classes + predicted, minlength=classes**2).reshape(classes, classes)
    pairs = listed_pairs(counts.tolist())
    members = []
    for true, taken_for in pairs:
        inside = ((labels == true) & (predicted == taken_for)).nonzero().squeeze(1)
        order = torch.sort(confidences[inside], descending=true != taken_for, stable=True).indices
        members.append(inside[order][:IMAGES_A_PAIR].tolist())
    room = KEPT_PIXELS // min(images.shape[-1], LARGEST_SIDE_PX) ** 2
    rounds = [
        (rank, place) for rank in range(IMAGES_A_PAIR) for place, indices in enumerate(members) if rank < len(indices)
    ]
    kept = torch.tensor([members[place][rank] for rank, place in rounds[:room]], dtype=torch.int64)
    return ConfusedImages(
        pixels(images[kept], LARGEST_SIDE_PX),
        tuple(labels[kept].tolist()),
        tuple(predicted[kept].tolist()),
        tuple(confidences[kept].tolist()),
    )


def listed_pairs(counts: Sequence[Sequence[int]]) -> list[Pair]:
    """The pairs that occur, most frequent mistakes first, then the classes recognised.

    Of more than 25 classes only the 100 most frequent mistakes: a matrix could not be read.
    """
    found = [(true, taken_for) for true, row in enumerate(counts) for taken_for, count in enumerate(row) if count]
    mistakes = sorted((pair for pair in found if pair[0] != pair[1]), key=lambda pair: -counts[pair[0]][pair[1]])
    if len(counts) > GRID_CLASSES:
        return mistakes[:LISTED_PAIRS]
    return mistakes + [pair for pair in found if pair[0] == pair[1]]


@dataclass(frozen=True)
class ShownImage:
    """An image as the template writes it."""

    source: str
    """A data URI."""
    confidence: str


@dataclass(frozen=True)
class ShownPair:
    """What a cell opens."""

    target: str
    name: str
    title: str
    said: str
    images: Sequence[ShownImage]


@dataclass(frozen=True)
class GridCell:
    """One cell of the matrix; `opacity` is the square root of the share, which brings out rare confusions."""

    count: int
    opacity: float
    white: bool
    said: str
    target: str


@dataclass(frozen=True)
class ShownConfusion:
    """A matrix up to 25 classes, else a table; what their cells open is in `pairs`."""

    names: Sequence[tuple[str, str]]
    """Whole and shortened."""
    grid: Sequence[Sequence[GridCell]]
    table: Table | None
    pairs: Sequence[ShownPair]

    @property
    def long_names(self) -> bool:
        """Whether they must be turned to stand above a column."""
        return any(len(short) > 3 for _, short in self.names)


def shown_confusion(block: Confusion, name: str) -> ShownConfusion:
    """`block` as the template writes it; ids start with `name`."""
    names, counts = block.class_names, block.counts
    pairs = {pair: _shown_pair(block, name, pair) for pair in listed_pairs(counts)}
    opened = [pair for pair in pairs.values() if pair.images]
    if len(names) <= GRID_CLASSES:
        every = range(len(names))
        grid = [[_grid_cell(block, pairs, (true, taken_for)) for taken_for in every] for true in every]
        return ShownConfusion([(whole, short_name(whole, 16)) for whole in names], grid, None, opened)
    rows: list[list[Cell]] = []
    for (true, taken_for), shown in pairs.items():
        count: Cell = counts[true][taken_for]
        if shown.images:
            count = Link(counts[true][taken_for], shown.target)
        rows.append([names[true], names[taken_for], count, f"{100 * _share(block, (true, taken_for)):.2f}\u00a0%"])
    table = Table(("True class", "Taken for", "Images", "Share of the true class"), rows, "The most frequent mistakes.")
    return ShownConfusion((), (), table, opened)


def _grid_cell(block: Confusion, pairs: Mapping[Pair, ShownPair], pair: Pair) -> GridCell:
    shown = pairs.get(pair)
    if shown is None:
        return GridCell(0, 0.0, False, "", "")
    opacity = _share(block, pair) ** 0.5
    count = block.counts[pair[0]][pair[1]]
    return GridCell(count, round(opacity, 3), opacity > WHITE_TEXT, shown.title, shown.target if shown.images else "")


def _shown_pair(block: Confusion, name: str, pair: Pair) -> ShownPair:
    true, taken_for = (block.class_names[k] for k in pair)
    right = pair[0] == pair[1]
    what = f"“{true}” recognised" if right else f"“{true}” taken for “{taken_for}”"
    count, kept = block.counts[pair[0]][pair[1]], block.images
    images = []
    if kept is not None:
        for image, confidence, *found in zip(kept.images, kept.confidences, kept.true, kept.predicted, strict=True):
            if tuple(found) == pair:
                images.append(ShownImage(_data_uri(image), f"{100 * confidence:.1f}\u00a0%"))
    some = "all" if len(images) == count else f"{len(images)} of them"
    return ShownPair(
        target=f"{name}-{pair[0]}-{pair[1]}",
        name=what,
        title=f"{what}: {count:,} image{'s' if count > 1 else ''}, {100 * _share(block, pair):.1f} % of the class",
        said=f"Shown: {some}, first where the network was {'least sure' if right else 'surest'}, with its confidence.",
        images=images,
    )


def _share(block: Confusion, pair: Pair) -> float:
    return block.counts[pair[0]][pair[1]] / sum(block.counts[pair[0]])


def _data_uri(image: np.ndarray) -> str:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG", optimize=True)
    return f"data:image/png;base64,{b64encode(buffer.getvalue()).decode()}"
