from __future__ import annotations

import io
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageOps

from thriftnet.data.decode import UnreadableImage, common_channels, convert_all, decode, decode_all
from thriftnet.errors import DataError


def encoded(image: Image.Image, form: str = "PNG", **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, form, **options)
    return stream.getvalue()


def picture(width: int = 20, height: int = 20, mode: str = "RGB") -> Image.Image:
    channels = len(Image.new(mode, (1, 1)).getbands())
    shape = (height, width) if channels == 1 else (height, width, channels)
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8))


def png_header(width: int, height: int) -> bytes:
    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def test_lossless_images_come_through_unchanged(tmp_path: Path) -> None:
    image = picture()
    planes = np.asarray(image).transpose(2, 0, 1)
    (tmp_path / "a.webp").write_bytes(encoded(image, "WEBP", lossless=True))
    for source in (encoded(image), tmp_path / "a.webp"):
        for side in (None, 20):
            assert np.array_equal(decode(source, 3, side), planes)
    grey = picture(mode="L")
    assert np.array_equal(decode(encoded(grey), 1, None), np.asarray(grey)[None])
    assert np.array_equal(decode(encoded(grey), 3, None), np.stack([np.asarray(grey)] * 3))


def test_jpeg_is_what_pillow_decodes() -> None:
    content = encoded(picture(32, 32), "JPEG", quality=90)
    expected = np.asarray(Image.open(io.BytesIO(content))).transpose(2, 0, 1)
    # The side must not matter where nothing is to be resized: a run is resumed and evaluated with it.
    assert np.array_equal(decode(content, 3, None), expected)
    assert np.array_equal(decode(content, 3, 32), expected)


def test_colour_becomes_grey_by_itu_601() -> None:
    image = Image.new("RGB", (2, 2), (200, 100, 50))
    assert decode(encoded(image), 1, None).tolist() == [
        [[124] * 2] * 2
    ]  # 0.299 * 200 + 0.587 * 100 + 0.114 * 50 = 124.2


def test_sixteen_bit_grey_is_scaled_not_cut() -> None:
    values = np.array([[0, 257, 65535, 25700]], dtype=np.uint16).repeat(4, 0)
    assert decode(encoded(Image.fromarray(values)), 1, None)[0, 0].tolist() == [0, 1, 255, 100]


def test_transparency_lies_on_white() -> None:
    image = Image.new("RGBA", (2, 1))
    image.putpixel((0, 0), (255, 0, 0, 0))
    image.putpixel((1, 0), (255, 0, 0, 255))
    assert decode(encoded(image), 3, None)[:, 0].T.tolist() == [[255, 255, 255], [255, 0, 0]]
    half = Image.new("LA", (1, 1), (0, 51))  # 51 / 255 of black on white
    assert decode(encoded(half), 1, None).tolist() == [[[204]]]


def test_palettes_are_looked_up_and_their_transparent_entry_is_white() -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.putpixel((1, 0), 1)
    assert decode(encoded(image), 3, None)[:, 0].T.tolist() == [[10, 20, 30], [40, 50, 60]]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert decode(encoded(image, transparency=1), 3, None)[:, 0].T.tolist() == [[10, 20, 30], [255, 255, 255]]


def test_cmyk_jpeg_becomes_rgb() -> None:
    red, green, blue = decode(encoded(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG"), 3, None)[:, 4, 4]
    assert red > 240
    assert max(green, blue) < 15


def test_exif_orientation_is_applied() -> None:
    image = Image.new("RGB", (16, 16), "black")
    image.paste("white", (0, 0, 16, 8))  # the upper half
    exif = Image.Exif()
    exif[0x0112] = 6  # the viewer turns it clockwise, so the upper half comes to the right
    turned = decode(encoded(image, "JPEG", exif=exif, quality=95), 1, None)[0]
    assert turned[:, 12:].min() > 200
    assert turned[:, :4].max() < 50


@pytest.mark.parametrize("orientation", range(10))
def test_every_orientation_agrees_with_pillow(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = encoded(picture(8, 12), "PNG", exif=exif)
    expected = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(content))))
    assert np.array_equal(decode(content, 3, None), expected.transpose(2, 0, 1))


def test_unreadable_exif_does_not_matter() -> None:
    content = encoded(picture(8, 8), "JPEG", exif=b"Exif\x00\x00not a TIFF header")
    assert np.array_equal(decode(content, 3, None), decode(encoded(picture(8, 8), "JPEG"), 3, None))


def test_the_central_square_is_resized() -> None:
    image = Image.new("L", (60, 20), 0)
    image.paste(200, (10, 0, 50, 20))  # the central square and what a smooth resize sees beside it
    assert decode(encoded(image), 1, 5).tolist() == [[[200] * 5] * 5]
    tall = image.transpose(Image.Transpose.ROTATE_90)
    assert decode(encoded(tall), 1, 16).tolist() == [[[200] * 16] * 16]


def test_resizing_equals_shorter_side_then_centre_crop() -> None:
    image = picture(48, 32).resize((480, 320), Image.Resampling.BICUBIC)
    whole = image.resize((96, 64), Image.Resampling.BICUBIC).crop((16, 0, 80, 64))
    ours = decode(encoded(image), 3, 64).transpose(1, 2, 0).astype(int)
    assert np.abs(ours - np.asarray(whole).astype(int)).max() <= 1


def test_shrinking_does_not_alias() -> None:
    board = (np.indices((64, 64)).sum(0) % 2 * 255).astype(np.uint8)
    shrunk = decode(encoded(Image.fromarray(board)), 1, 16)
    assert np.abs(shrunk.astype(int) - 127).max() <= 3  # every second pixel would be all black or all white


@pytest.mark.parametrize("side", [10_000, 40_000])
def test_an_image_of_enormous_size_is_refused_by_its_header(side: int) -> None:
    with pytest.raises(UnreadableImage, match=r"more than 89,478,485 pixels"):
        decode(png_header(side, side), 3, 32)


def test_other_formats_are_refused() -> None:
    for content in (encoded(picture(), "ICO"), encoded(picture(), "PCX"), b"", b"text"):
        with pytest.raises(UnreadableImage, match="not a PNG, JPEG, WebP, GIF, BMP, TIFF or PPM image"):
            decode(content, 3, 32)


@given(st.sampled_from(["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM"]), st.data())
def test_damage_gives_an_image_or_a_reason_and_nothing_else(form: str, data: st.DataObject) -> None:
    content = bytearray(encoded(picture(16, 16), form))
    for _ in range(data.draw(st.integers(0, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    content = content[: data.draw(st.integers(0, len(content)))]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        reason = "-"
        try:
            assert decode(bytes(content), 3, 16).shape == (3, 16, 16)
        except UnreadableImage as error:
            reason = str(error)
    assert reason
    assert "\n" not in reason


def test_decode_all_names_what_it_cannot_read() -> None:
    good = encoded(picture())
    cut = good[:60]
    images = decode_all([("a", good), ("b", good)], 3, 16)
    assert images.shape == (2, 3, 16, 16)
    assert images.dtype == torch.uint8
    with pytest.raises(DataError, match=r"^1 of 3 images cannot be read: b \(.+\); replace or remove them$"):
        decode_all([("a", good), ("b", cut), ("c", good)], 3, 16)
    with pytest.raises(DataError, match=r"^5 of 5 .* 0 \(.*, 1 \(.*, 2 \(.* and 2 more"):
        decode_all([(str(number), cut) for number in range(5)], 3, 16)


def test_decode_all_asks_for_a_side_where_sizes_differ() -> None:
    both = [("a", encoded(picture())), ("b", encoded(picture(20, 24)))]
    with pytest.raises(DataError, match=r"^b has 20x24 pixels, the images before it 20x20; .*data\.image_side"):
        decode_all(both, 3, None)
    assert decode_all(both, 3, 20).shape == (2, 3, 20, 20)


def test_one_colour_image_makes_the_set_a_colour_set() -> None:
    grey, colour = encoded(picture(mode="L")), encoded(picture())
    assert common_channels([grey, grey]) == 1
    assert common_channels([grey, b"damaged", encoded(Image.new("1", (4, 4)))]) == 1
    assert common_channels([grey, colour]) == 3


def test_convert_all_follows_the_same_rules() -> None:
    image = picture(24, 20)
    planes = torch.from_numpy(np.asarray(image).transpose(2, 0, 1).copy())[None]
    for channels, side in ((3, 16), (1, 16), (3, 20), (1, 40)):
        assert np.array_equal(convert_all(planes, channels, side)[0], decode(encoded(image), channels, side))
    square = planes[..., :20]
    assert convert_all(square, 3, 20) is square
    grey = convert_all(square, 1, 20)
    assert torch.equal(convert_all(grey, 3, 20), grey.expand(-1, 3, -1, -1))


@pytest.mark.parametrize("form", ["GIF", "WEBP", "PNG", "TIFF"])
def test_of_several_frames_the_first_counts(form: str) -> None:
    frames = [Image.new("L", (20, 20), value) for value in (40, 200)]
    options = {"lossless": True} if form == "WEBP" else {}
    content = encoded(frames[0], form, save_all=True, append_images=frames[1:], **options)
    assert decode(content, 1, 20).tolist() == [[[40] * 20] * 20]


@pytest.mark.parametrize("form", ["BMP", "TIFF", "PPM"])
def test_lossless_formats_come_through_unchanged(form: str) -> None:
    image = picture()
    assert np.array_equal(decode(encoded(image, form), 3, None), np.asarray(image).transpose(2, 0, 1))


@pytest.mark.parametrize("form", ["PNG", "TIFF", "PPM"])
def test_16_bit_grey_is_scaled_in_every_format(form: str) -> None:
    image = Image.fromarray(np.full((20, 20), 200 * 257, dtype=np.uint16))
    assert decode(encoded(image, form), 1, None).tolist() == [[[200] * 20] * 20]


@pytest.mark.parametrize("kind", [np.float32, np.int32])
def test_values_without_a_known_white_are_refused(kind: type) -> None:
    content = encoded(Image.fromarray(np.full((20, 20), 1, dtype=kind)), "TIFF")
    with pytest.raises(UnreadableImage, match="save it with"):
        decode(content, 1, None)
