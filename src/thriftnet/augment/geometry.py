"""Flips, crops, rotations and affine maps of batches, each with its own parameters for every image.

Shapes: N images, C channels, H rows, W columns. Everything here is deterministic; `operations.py` draws the parameters.

An affine map is float64 [N, 2, 3] (float32 where the device has no float64) and takes a point (x, y) of the result to
the point of the source that is seen there. Points are in pixels from the top left corner of the image, so the centre of
the pixel in row i and column j is (j + 0.5, i + 0.5), as in Pillow.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

_FIXED_BITS = 16
"""Fraction bits of Pillow's fixed-point coordinates for nearest neighbours (libImaging/Geometry.c, affine_fixed)."""


def flip(images: Tensor, chosen: Tensor, axis: int) -> Tensor:
    """Mirror the images [N, C, H, W] where `chosen` (bool [N]) holds: left-right (axis 3) or top-bottom (axis 2)."""
    # Copying whole images from a batch beside its mirror image is several times faster than torch.where on the CPU.
    count = images.shape[0]
    both = torch.cat([images, images.flip(axis)])
    return both.index_select(0, torch.arange(count, device=images.device) + count * chosen)


def shift_crop(images: Tensor, dx: Tensor, dy: Tensor, padding: str, fill: float) -> Tensor:
    """Move the frame dx columns to the right and dy rows down (int64 [N]) and crop what it shows, [N, C, H, W].

    `padding`: what lies outside, `constant` (the value `fill`, in the images' own units) or `reflect` (mirrored about
    the border pixels, which are not repeated; the shift must be smaller than the side).
    """
    height, width = images.shape[2:]
    rows = torch.arange(height, device=images.device) + dy[:, None]
    columns = torch.arange(width, device=images.device) + dx[:, None]
    if padding == "reflect":
        rows, columns = _mirror(rows, height), _mirror(columns, width)
    return _gather(images, rows[:, :, None], columns[:, None, :], fill)


def resize_windows(images: Tensor, left: Tensor, top: Tensor, width: Tensor, height: Tensor) -> Tensor:
    """Enlarge each image's window (int64 [N] each, in pixels) to the whole frame, bilinear; images float [N, C, H, W].

    As Pillow's Image.crop and then Image.resize(..., BILINEAR): nothing outside the window is looked at. A window is
    never larger than the frame, so there is nothing to smooth.
    """
    frame_height, frame_width = images.shape[2:]
    x = _across_window(left, width, frame_width)[:, None, :].expand(-1, frame_height, -1)
    y = _across_window(top, height, frame_height)[:, :, None].expand(-1, -1, frame_width)
    return _grid_sample(images, torch.stack([x, y], dim=1))


def axis_maps(scale_x: Tensor, shift_x: Tensor, scale_y: Tensor, shift_y: Tensor) -> Tensor:
    """The affine maps [N, 2, 3] that scale and shift along each axis; inputs are numbers, [N]."""
    zero = torch.zeros_like(scale_x)
    entries = [scale_x, zero, shift_x, zero, scale_y, shift_y]
    return torch.stack([entry.to(exact_dtype(zero.device)) for entry in entries], dim=1).view(-1, 2, 3)


def rotation_maps(degrees: Tensor, scale: Tensor, dx: Tensor, dy: Tensor, height: int, width: int) -> Tensor:
    """The affine maps [N, 2, 3] that rotate counter-clockwise and scale about the centre, then shift; inputs are [N].

    The result shows at p the source's point c + R(p - c - d) / s: centre c = (W/2, H/2), d = (dx, dy), scale s.
    """
    radians = torch.deg2rad(degrees.to(exact_dtype(degrees.device)))
    cos, sin = torch.cos(radians) / scale, torch.sin(radians) / scale
    x, y = width / 2 + dx, height / 2 + dy
    shift_x = width / 2 - cos * x + sin * y
    shift_y = height / 2 - sin * x - cos * y
    return torch.stack([cos, -sin, shift_x, sin, cos, shift_y], dim=1).view(-1, 2, 3)


def compose(first: Tensor, second: Tensor) -> Tensor:
    """The affine maps [N, 2, 3] of applying `first` to the images and `second` to its result."""
    linear, shift = first[:, :, :2], first[:, :, 2:]
    composed = linear @ second
    return torch.cat([composed[:, :, :2], composed[:, :, 2:] + shift], dim=2)


def resample(images: Tensor, maps: Tensor, interpolation: str, fill: float) -> Tensor:
    """The images [N, C, H, W] as seen through affine maps [N, 2, 3], by `nearest` or `bilinear` interpolation.

    Points outside the image take the value `fill`, in the images' own units; between the outermost pixel centres and
    the border, `bilinear` repeats the outermost pixels. Both are Pillow's rules (Image.transform), as are the
    fixed-point coordinates of `nearest`, so that ties fall as they do there. `bilinear` takes float images in [0, 1],
    `nearest` any.
    """
    if interpolation == "nearest":
        return _resample_nearest(images, maps, fill)
    return _resample_bilinear(images, maps, fill)


def _resample_nearest(images: Tensor, maps: Tensor, fill: float) -> Tensor:
    height, width = images.shape[2:]
    centred = maps.clone()
    centred[:, :, 2] += (maps[:, :, 0] + maps[:, :, 1]) / 2
    fixed = (centred * 2**_FIXED_BITS + 0.5).floor().to(torch.int64)
    along_row = fixed[:, :, 0, None] * torch.arange(width, device=images.device)
    along_column = fixed[:, :, 1, None] * torch.arange(height, device=images.device)
    # int32 halves the time of what follows; only points more than 16,000 pixels away lose their exact place.
    along_row, along_column = _saturate(along_row), _saturate(along_column + fixed[:, :, 2, None])
    columns, rows = ((along_row[:, :, None, :] + along_column[:, :, :, None]) >> _FIXED_BITS).unbind(1)
    return _gather(images, rows, columns, fill)


def _resample_bilinear(images: Tensor, maps: Tensor, fill: float) -> Tensor:
    height, width = images.shape[2:]
    x = torch.arange(width, device=images.device, dtype=maps.dtype) + 0.5
    y = torch.arange(height, device=images.device, dtype=maps.dtype) + 0.5
    axes = []
    for axis, side in ((0, width), (1, height)):
        scale_x, scale_y, shift = (maps[:, axis, :, None] * (2 / side)).unbind(1)
        along_row, along_column = scale_x * x, scale_y * y + (shift - 1)
        axes.append(along_row.to(images.dtype)[:, None, :] + along_column.to(images.dtype)[:, :, None])
    grid = torch.stack(axes, dim=1)
    inside = (grid.abs().amax(dim=1, keepdim=True) <= 1).to(images.dtype)
    seen = _grid_sample(images, grid).mul_(inside)
    return seen.add_(1 - inside, alpha=fill) if fill else seen


def _grid_sample(images: Tensor, grid: Tensor) -> Tensor:
    """Bilinear values at the points [N, 2, H, W], x and y as fractions of the half side from the centre."""
    points = grid.to(images.dtype).movedim(1, 3)
    seen = functional.grid_sample(images, points, mode="bilinear", padding_mode="border", align_corners=False)
    return seen.clamp_(0, 1)  # the four weights may add up to a little more than 1


def _across_window(start: Tensor, extent: Tensor, side: int) -> Tensor:
    """Where a frame's pixels lie in the windows, [N, side], as fractions of the half side from the centre."""
    points = (torch.arange(side, device=start.device) + 0.5) * (extent / side)[:, None] + start[:, None]
    first, last = start[:, None] + 0.5, (start + extent)[:, None] - 0.5
    return torch.minimum(torch.maximum(points, first), last) * (2 / side) - 1


def _gather(images: Tensor, rows: Tensor, columns: Tensor, fill: float) -> Tensor:
    """Pixel (rows, columns), integers broadcasting to [N, H, W], of every image; `fill` where that is outside."""
    # A border of one pixel holds the fill, and indices that lie outside are clamped to it: masks would cost more.
    channels, height, width = images.shape[1:]
    bordered = functional.pad(images, (1, 1, 1, 1), value=fill)
    flat = (rows.clamp(-1, height) + 1) * (width + 2) + (columns.clamp(-1, width) + 1)
    flat = flat.to(torch.int64).flatten(1)[:, None].expand(-1, channels, -1)
    return bordered.flatten(2).gather(2, flat).view(images.shape)


def _saturate(fixed: Tensor) -> Tensor:
    """Fixed-point numbers in int32, so far inside its range that the sum of two cannot leave it."""
    return fixed.clamp(-(2**30), 2**30 - 1).to(torch.int32)


def _mirror(positions: Tensor, side: int) -> Tensor:
    """Reflect positions in (-side, 2 * side - 1) into [0, side)."""
    return (side - 1) - ((side - 1) - positions.abs()).abs()


def exact_dtype(device: torch.device) -> torch.dtype:
    """float64, so that rounding hits no pixel's border, but on Apple's MPS, which has none."""
    return torch.float32 if device.type == "mps" else torch.float64
