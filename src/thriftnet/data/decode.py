"""Encoded images (PNG, JPEG, WebP, GIF, BMP, TIFF, PPM) to uint8 arrays of one shape; of several frames the first.

What happens to an image, in this order:
- its EXIF orientation is applied, so that it stands as a viewer shows it;
- 16-bit grey values are divided by 257; palettes are looked up; transparent pixels lie on white;
- it becomes grey (1 channel, ITU-R 601 luma) or RGB (3 channels, grey repeated), as the whole set demands;
- where a side is asked for and the image is not already that square: its central square is resized to it, bicubic and
  antialiased (which is the shorter side resized, then a centre crop).
"""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from thriftnet.errors import DataError
from thriftnet.storage import why_refused

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM")
KINDS = "PNG, JPEG, WebP, GIF, BMP, TIFF or PPM"
ENDINGS = frozenset(
    (".png", ".jpg", ".jpeg", ".jfif", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm")
)
SIZE_FIX = "resize them with --set data.image_side=32 (16 to 256)"

Encoded = bytes | Path

# What Pillow's decoders raise for damaged files.
_DAMAGED = (OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, TypeError, struct.error, zlib.error)
_SHOWN = 3
_ORIENTATION = 0x0112
_BITS, _SAMPLE_FORMAT = 258, 339  # tags of TIFF; unsigned whole numbers are format 1
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class UnreadableImage(Exception):
    """One image cannot be decoded; the message is the reason alone."""


def decode(encoded: Encoded, channels: int, side: int | None) -> np.ndarray:
    """The image as uint8 [channels, H, W]; H = W = `side` unless `side` is None. Raises UnreadableImage."""
    with _opened(encoded) as image:
        if side is not None:
            # Only JPEG obeys: its decoder then leaves out detail beyond four times the side. For a photo of 14
            # megapixels that took 0.02 s instead of 0.15 s, and no value moved by more than 2 of 255.
            image.draft(None, (4 * side, 4 * side))
        image.load()
        _check_values(image)
        return to_planes(resize(_converted(_upright(image), channels), side))


def decode_all(named: Iterable[tuple[str, Encoded]], channels: int, side: int | None) -> Tensor:
    """Every image, uint8 [N, channels, H, W]; where `side` is None, all must have the size of the first.

    `named` yields (what a message calls it, the encoded image). Raises DataError that names the unreadable ones.
    """
    arrays: list[np.ndarray] = []
    unreadable: list[str] = []
    for name, encoded in named:
        try:
            array = decode(encoded, channels, side)
        except UnreadableImage as reason:
            unreadable.append(f"{name} ({reason})")
            continue
        if arrays and array.shape != arrays[0].shape:
            raise DataError(f"{name} has {_size(array)} pixels, the images before it {_size(arrays[0])}; {SIZE_FIX}")
        arrays.append(array)
    if unreadable:
        total, more = len(unreadable) + len(arrays), len(unreadable) - _SHOWN
        shown = ", ".join(unreadable[:_SHOWN]) + (f" and {more} more" if more > 0 else "")
        raise DataError(f"{len(unreadable)} of {total} images cannot be read: {shown}; replace or remove them")
    if not arrays:
        return torch.empty(0, channels, side or 0, side or 0, dtype=torch.uint8)
    return torch.from_numpy(np.stack(arrays))


def common_channels(encoded: Iterable[Encoded]) -> int:
    """1 where every image is grey, else 3. Reads headers only, and no further than the first colour image."""
    for item in encoded:
        try:
            with _opened(item) as image:
                if not _is_grey(image):
                    return 3
        except UnreadableImage:
            continue  # `decode_all` names it
    return 1


def resize(image: Image.Image, side: int | None) -> Image.Image:
    """The central square of `image`, `side` pixels wide; `image` itself where it is that already or `side` is None."""
    if side is None or image.size == (side, side):
        return image
    width, height = image.size
    square = min(width, height)
    left, top = (width - square) / 2, (height - square) / 2
    box = (left, top, left + square, top + square)
    return image.resize((side, side), Image.Resampling.BICUBIC, box=box)


def convert_all(images: Tensor, channels: int, side: int) -> Tensor:
    """uint8 [N, 1 or 3, H, W] as [N, channels, side, side], by this module's rules; `images` where nothing changes."""
    if tuple(images.shape[1:]) == (channels, side, side):
        return images
    converted = torch.empty(len(images), channels, side, side, dtype=torch.uint8)
    for index, planes in enumerate(images.numpy()):
        picture = Image.fromarray(planes[0] if len(planes) == 1 else np.ascontiguousarray(planes.transpose(1, 2, 0)))
        converted[index] = torch.from_numpy(to_planes(resize(_converted(picture, channels), side)))
    return converted


def to_planes(image: Image.Image) -> np.ndarray:
    """A grey or RGB Pillow image as uint8 [C, H, W]."""
    array = np.array(image)
    return array[None] if array.ndim == 2 else np.ascontiguousarray(array.transpose(2, 0, 1))


@contextmanager
def _opened(encoded: Encoded) -> Iterator[Image.Image]:
    """The opened image; whatever Pillow says inside the block becomes one UnreadableImage."""
    try:
        with warnings.catch_warnings():
            # Pillow only warns between one and two times its limit of 89 megapixels; a set of images needs neither.
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            file = io.BytesIO(encoded) if isinstance(encoded, bytes) else encoded
            opened = Image.open(file, formats=FORMATS)
        with opened as image:
            yield image
    except UnidentifiedImageError:
        raise UnreadableImage(f"not a {KINDS} image") from None
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        raise UnreadableImage(f"more than {Image.MAX_IMAGE_PIXELS:,} pixels; make it smaller") from None
    except _DAMAGED as error:
        raise UnreadableImage(why_refused(error) or " ".join(str(error).split()) or type(error).__name__) from None


def _check_values(image: Image.Image) -> None:
    """Raise UnreadableImage for grey values of which the file does not say what is white."""
    if image.mode == "F":
        raise UnreadableImage("it holds fractions; save it with 8 or 16 bits")
    if image.format == "TIFF" and image.mode.startswith("I"):
        tags = image.tag_v2  # type: ignore[attr-defined]
        kind = tuple(tags.get(_BITS, ())), tuple(tags.get(_SAMPLE_FORMAT, (1,)))
        if kind != ((16,), (1,)):
            raise UnreadableImage("its grey values are signed, or of other than 8 or 16 bits; save it with those")


def _upright(image: Image.Image) -> Image.Image:
    try:
        orientation = image.getexif().get(_ORIENTATION)
    except _DAMAGED:
        return image  # as every viewer does: only the pixels matter, and they were read
    return image.transpose(_TURNS[orientation]) if orientation in _TURNS else image


def _is_grey(image: Image.Image) -> bool:
    return image.mode in ("1", "L", "LA") or image.mode.startswith("I")


def _converted(image: Image.Image, channels: int) -> Image.Image:
    if image.mode.startswith("I"):
        image = Image.fromarray(((np.asarray(image).astype(np.int64).clip(0, 65535) + 128) // 257).astype(np.uint8))
    elif image.has_transparency_data:
        with_alpha = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), with_alpha).convert("RGB")
    return image.convert("L" if channels == 1 else "RGB")


def _size(array: np.ndarray) -> str:
    return f"{array.shape[2]}x{array.shape[1]}"
