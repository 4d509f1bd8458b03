"""What `thriftnet data info` says about a data set, and its contact sheet.

The test split is opened here, for the number of its images in each class and nothing else: mean, std, hash and pictures
come from the training split.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageDraw, ImageFont

from thriftnet.data.dataset import LabelledImages, Source
from thriftnet.data.prepare import check_images
from thriftnet.data.statistics import channel_statistics, fingerprint
from thriftnet.errors import UnlabelledError
from thriftnet.fonts import NUMBERED, font_for, main_font, numbered, printable
from thriftnet.storage import atomic_path

IMAGES_PER_CLASS = 10
_CELL_PX, _GAP_PX, _TEXT_PX = 64, 4, 14


@dataclass(frozen=True)
class SplitInfo:
    """Numbers of one split."""

    images: int
    shape: tuple[int, int, int]
    """(C, H, W) of every image."""
    per_class: tuple[int, ...]
    """Images of each class, in label order."""


@dataclass(frozen=True)
class DataInfo:
    """Facts of a data set; mean, std (in [0, 1]) and fingerprint are of the whole training split."""

    location: str
    format: str
    class_names: tuple[str, ...]
    notes: tuple[str, ...]
    train: SplitInfo
    validation: SplitInfo | None
    """None where the data come without one: training holds images out."""
    test: SplitInfo | None
    """None where there is none, and where its images have no labels."""
    unlabelled_test_images: int
    """Of a test split without labels."""
    mean: tuple[float, ...]
    std: tuple[float, ...]
    fingerprint: str

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        splits = {"train": self.train, "validation": self.validation, "test": self.test}
        return {
            "location": self.location,
            "format": self.format,
            "classes": len(self.class_names),
            "class_names": list(self.class_names),
            "notes": list(self.notes),
            "splits": {
                name: {"images": split.images, "shape": list(split.shape), "per_class": list(split.per_class)}
                for name, split in splits.items()
                if split is not None
            },
            "unlabelled_test_images": self.unlabelled_test_images,
            "mean": list(self.mean),
            "std": list(self.std),
            "sha256": self.fingerprint,
        }

    def text(self) -> str:
        """For a person: a few facts, then a line a class."""
        held_out = [""] * len(self.class_names)
        if self.validation is not None:
            held_out = [f" {count:>10,}" for count in self.validation.per_class]
        tested = ["-"] * len(self.class_names) if self.test is None else [f"{count:,}" for count in self.test.per_class]
        channels, height, width = self.train.shape
        width_of_names = max(12, *map(len, self.class_names))
        unlabelled = f"{self.unlabelled_test_images:,} test images without labels (they can only be predicted)"
        validates = "" if self.validation is None else f", {self.validation.images:,} validation images"
        without = unlabelled if self.unlabelled_test_images else "no test split"
        lines = [
            f"{self.location} ({self.format})",
            f"{len(self.class_names)} classes, {self.train.images:,} training images{validates} and "
            + (f"{self.test.images:,} test images" if self.test else without),
            f"{width}x{height} pixels, {'grey' if channels == 1 else 'RGB'}, uint8",
            f"mean {_numbers(self.mean)}  std {_numbers(self.std)}  (training split, in [0, 1])",
            f"sha256 {self.fingerprint} (training split)",
            *(f"note: {note}" for note in self.notes),
            f"{'label':>5}  {'class':<{width_of_names}} {'train':>8}"
            + ("" if self.validation is None else f" {'validation':>10}")
            + f" {'test':>8}",
        ]
        rows = zip(self.class_names, self.train.per_class, held_out, tested, strict=True)
        for label, (name, train, validation, test) in enumerate(rows):
            lines.append(f"{label:>5}  {name:<{width_of_names}} {train:>8,}{validation} {test:>8}")
        return "\n".join(lines)


def describe(source: Source, contact_sheet_path: Path | None = None) -> DataInfo:
    """Read the whole set, check it as training would, and write a contact sheet where a path is given.

    Raises DataError where the set cannot be read or trained on, StorageError where the sheet cannot be written.
    """
    train = source.train()
    check_images(train, source, image_side=None)
    all_drawn = contact_sheet_path is None or numbered(source.class_names) == source.class_names
    mean, std = channel_statistics(train.images)
    own, test, unlabelled = source.validation(), None, source.unlabelled_test_images
    try:
        test = _count(source.test(), source) if source.has_test else None
    except UnlabelledError as error:
        unlabelled = error.images
    info = DataInfo(
        location=source.location,
        format=source.format,
        class_names=source.class_names,
        notes=source.notes if all_drawn else (*source.notes, f"in the contact sheet {NUMBERED}"),
        train=_count(train, source),
        validation=None if own is None else _count(own, source),
        test=test,
        unlabelled_test_images=unlabelled,
        mean=mean,
        std=std,
        fingerprint=fingerprint(train),
    )
    if contact_sheet_path is not None:
        write_contact_sheet(train, source.class_names, contact_sheet_path)
    return info


def contact_sheet(data: LabelledImages, class_names: tuple[str, ...]) -> Image.Image:
    """A row a class: its name, as `fonts.numbered` has it, and its first ten images.

    These are enlarged without smoothing to at least 64 pixels.
    """
    side = data.images.shape[2]
    factor = max(1, round(_CELL_PX / side))
    pitch = side * factor + _GAP_PX
    names = [printable(name) for name in numbered(class_names)]
    fonts = [ImageFont.truetype(font_for(name) or main_font(), _TEXT_PX) for name in names]
    name_px = max(int(font.getlength(name)) for font, name in zip(fonts, names, strict=True)) + 3 * _GAP_PX
    sheet = Image.new("RGB", (name_px + IMAGES_PER_CLASS * pitch, len(class_names) * pitch + _GAP_PX), "white")
    draw = ImageDraw.Draw(sheet)
    for label, (font, name) in enumerate(zip(fonts, names, strict=True)):
        top = _GAP_PX + label * pitch
        draw.text((_GAP_PX, top + (pitch - _GAP_PX) // 2), name, fill="black", font=font, anchor="lm")
        for column, index in enumerate((data.labels == label).nonzero().flatten()[:IMAGES_PER_CLASS].tolist()):
            pixels = data.images[index].expand(3, -1, -1).permute(1, 2, 0).contiguous().numpy()
            enlarged = Image.fromarray(pixels).resize((side * factor,) * 2, Image.Resampling.NEAREST)
            sheet.paste(enlarged, (name_px + column * pitch, top))
    return sheet


def write_contact_sheet(data: LabelledImages, class_names: tuple[str, ...], path: Path) -> None:
    """Write `contact_sheet` as PNG, whole or not at all. Raises StorageError."""
    sheet = contact_sheet(data, class_names)
    with atomic_path(path) as temporary:
        sheet.save(temporary, format="PNG")


def _count(data: LabelledImages, source: Source) -> SplitInfo:
    channels, height, width = data.images.shape[1:]
    counts = torch.bincount(data.labels, minlength=len(source.class_names))
    return SplitInfo(len(data), (channels, height, width), tuple(counts.tolist()))


def _numbers(values: tuple[float, ...]) -> str:
    return "/".join(f"{value:.4f}" for value in values)
