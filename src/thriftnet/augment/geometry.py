"""Flips, crops, rotations and affine maps of batches, each with its own parameters for every image.

Shapes: N images, C channels, H rows, W columns. Everything here is deterministic; `policy.py` draws the parameters.

An affine map is float64 [N, 2, 3] (float32 where the device has no float64) and takes a point (x, y) of the result to the
point of the source that is seen there. Points are in pixels from the top left corner of the image, so the centre of pixel
(row i, column j) is (j + 0.5, i + 0.5), as in Pillow.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

_FIXED_BITS = 16
"""Fraction bits of Pillow's fixed-point coordinates for nearest neighbours (libImaging/Geometry.c, affine_fixed)."""


def flip(images: Tensor, chosen: Tensor, axis: int) -> Tensor:
    """Mirror the images [N, C, H, W] for which `chosen` (bool [N]) holds: left-right with axis 3, top-bottom with axis 2."""
    # Copying whole images from a batch beside its mirror image is several times faster than torch.where on the CPU.
    count = images.shape[0]
    both = torch.cat([images, images.flip(axis)])
    return both.index_select(0, torch.arange(count, device=images.device) + count * chosen)


def shift_crop(images: Tensor, dx: Tensor, dy: Tensor, padding: str, fill: float) -> Tensor:
    """Move the frame dx columns to the right and dy rows down (int64 [N]) and crop what it shows, [N, C, H, W].

    `padding`: what lies outside, `constant` (the value `fill`, in the images' own units) or `reflect` (mirrored about the
    border pixels, which are not repeated; the shift must be smaller than the side).
    """
    height, width = images.shape[2:]
    rows = torch.arange(height, device=images.device) + dy[:, None]
    columns = torch.arange(width, device=images.device) + dx[:, None]
    if padding == "reflect":
        rows, columns = _mirror(rows, height), _mirror(columns, width)
    return _gather(images, rows[:, :, None], columns[:, None, :], fill)


def rotation_scale_shift(degrees: Tensor, scale: Tensor, dx: Tensor, dy: Tensor, height: int, width: int) -> Tensor:
    """The affine map [N, 2, 3] that rotates counter-clockwise and scales about the centre, then shifts; inputs are [N].

    The result shows at p the source's point c + R(p - c - d) / s, with c the centre (W/2, H/2), d = (dx, dy), s the scale.
    """
    exact = torch.float32 if degrees.device.type == "mps" else torch.float64
    radians = torch.deg2rad(degrees.to(exact))
    cos, sin = torch.cos(radians) / scale, torch.sin(radians) / scale
    x, y = dx.to(exact) + width / 2, dy.to(exact) + height / 2
    shift_x = width / 2 - cos * x + sin * y
    shift_y = height / 2 - sin * x - cos * y
    return torch.stack([cos, -sin, shift_x, sin, cos, shift_y], dim=1).view(-1, 2, 3)


def resample(images: Tensor, maps: Tensor, interpolation: str, fill: float) -> Tensor:
    """The images [N, C, H, W] as seen through affine maps [N, 2, 3], by `nearest` or `bilinear` interpolation.

    Points outside the image take the value `fill`, in the images' own units; between the outermost pixel centres and the border, bilinear repeats
    the outermost pixels. Both are Pillow's rules (Image.transform), as are the fixed-point coordinates of `nearest`, so that
    ties fall as they do there. `bilinear` needs floating-point images, `nearest` takes any.
    """
    if interpolation == "nearest":
        return _resample_nearest(images, maps, fill)
    return _resample_bilinear(images, maps, fill)


def _resample_nearest(images: Tensor, maps: Tensor, fill: float) -> Tensor:
    height, width = images.shape[2:]
    centred = maps.clone()
    centred[:, :, 2] += (maps[:, :, 0] + maps[:, :, 1]) / 2
    fixed = (centred * 2**_FIXED_BITS + 0.5).floor().to(torch.int32)
    along_row = fixed[:, :, 0, None] * torch.arange(width, device=images.device, dtype=torch.int32)
    along_column = fixed[:, :, 1, None] * torch.arange(height, device=images.device, dtype=torch.int32)
    source = along_row[:, :, None, :] + (along_column + fixed[:, :, 2, None])[:, :, :, None]
    columns, rows = (source >> _FIXED_BITS).unbind(1)
    return _gather(images, rows, columns, fill)


def _resample_bilinear(images: Tensor, maps: Tensor, fill: float) -> Tensor:
    height, width = images.shape[2:]
    x = torch.arange(width, device=images.device, dtype=maps.dtype) + 0.5
    y = torch.arange(height, device=images.device, dtype=maps.dtype) + 0.5
    # In float32 from here on: points as fractions of the half side from the centre, which is what grid_sample takes.
    size = torch.tensor([[width], [height]], device=images.device, dtype=maps.dtype)
    along_row = (maps[:, :, 0, None] * x * (2 / size)).to(images.dtype)
    along_column = ((maps[:, :, 1, None] * y + maps[:, :, 2, None]) * (2 / size) - 1).to(images.dtype)
    grid = along_row[:, :, None, :] + along_column[:, :, :, None]
    inside = (grid.abs().amax(dim=1, keepdim=True) <= 1).to(images.dtype)
    seen = functional.grid_sample(
        images, grid.movedim(1, 3), mode="bilinear", padding_mode="border", align_corners=False
    ).mul_(inside)
    return seen.add_(1 - inside, alpha=fill) if fill else seen


def _gather(images: Tensor, rows: Tensor, columns: Tensor, fill: float) -> Tensor:
    """Pixel (rows, columns) of every image, for integer indices that broadcast to [N, H, W]; `fill` where it is outside."""
    # A border of one pixel holds the fill, and indices that lie outside are clamped to it: masks would cost more.
    count, channels, height, width = images.shape
    bordered = functional.pad(images, (1, 1, 1, 1), value=fill)
    flat = (rows.clamp(-1, height) + 1) * (width + 2) + (columns.clamp(-1, width) + 1)
    flat = flat.to(torch.int64).view(count, 1, -1).expand(-1, channels, -1)
    return bordered.flatten(2).gather(2, flat).view(count, channels, *torch.broadcast_shapes(rows.shape, columns.shape)[1:])


def _mirror(positions: Tensor, side: int) -> Tensor:
    """Reflect positions in (-side, 2 * side - 1) into [0, side)."""
    return (side - 1) - ((side - 1) - positions.abs()).abs()
