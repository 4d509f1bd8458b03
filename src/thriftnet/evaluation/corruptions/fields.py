"""What the corruptions are made of: keyed noise, separable maps of rows and columns, borders, sampling.

Shapes: N images, C channels, H rows, W columns. A separable map is a matrix [side, side] whose row i says how much of
each old row (or column) makes new row i; zooms, blurs and resizing are such maps.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from thriftnet.augment.draws import Draws

Border = Literal["nearest", "mirror", "reflect"]
"""What lies outside: the border pixel; the image mirrored about it (c b | a b c) or about its edge (b a | a b c)."""


def normal(draws: Draws, stream: str, *shape: int) -> Tensor:
    """float32 [N, *shape] of the standard normal distribution (Box and Muller, Ann. Math. Stat. 29, 1958, page 610)."""
    count = math.prod(shape)
    first, second = draws.uniform(stream, 2 * ((count + 1) // 2)).chunk(2, dim=1)
    radius, angle = (-2 * torch.log1p(-first)).sqrt(), 2 * math.pi * second
    return torch.cat([radius * angle.cos(), radius * angle.sin()], dim=1)[:, :count].reshape(-1, *shape)


def symmetric_uniform(draws: Draws, stream: str, *shape: int) -> Tensor:
    """float32 [N, *shape], uniform in [-1, 1)."""
    return (2 * draws.uniform(stream, math.prod(shape)) - 1).reshape(-1, *shape)


def inside(positions: Tensor, side: int, border: Border) -> Tensor:
    """int64: the pixel in [0, side) that is seen at each of `positions` (int64, any)."""
    if border == "nearest":
        return positions.clamp(0, side - 1)
    period = 2 * side if border == "reflect" else max(2 * side - 2, 1)
    folded = positions.remainder(period)
    last = period - 1 if border == "reflect" else period
    return torch.minimum(folded, last - folded)


def separable(images: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """float [N, C, H, W] with the map `rows` [H, H] along rows and `columns` [W, W] along columns."""
    return rows.to(images) @ images @ columns.to(images).T


def gaussian_map(side: int, sigma_px: float, border: Border = "nearest", truncate: float = 4.0) -> Tensor:
    """float64 [side, side]: a Gaussian blur cut at `truncate` standard deviations and normalised, as SciPy's."""
    reach = int(truncate * sigma_px + 0.5)
    taps = torch.arange(-reach, reach + 1)
    weights = torch.exp(-0.5 * (taps.double() / max(sigma_px, 1e-12)).square())
    blur = torch.zeros(side, side, dtype=torch.float64)
    seen = inside(torch.arange(side)[:, None] + taps, side, border)
    return blur.scatter_add_(1, seen, (weights / weights.sum()).expand(side, -1))


def smooth(images: Tensor, sigma_px: float, border: Border = "nearest", truncate: float = 4.0) -> Tensor:
    """Gaussian blur of float [N, C, H, W]; the defaults are those of skimage.filters.gaussian."""
    rows, columns = (gaussian_map(side, sigma_px, border, truncate) for side in images.shape[2:])
    return separable(images, rows, columns)


def clipped_zoom_map(side: int, factor: float) -> Tensor:
    """float64 [side, side]: the middle ceil(side / factor) pixels, stretched linearly end to end, cut to `side`.

    As the original's `clipped_zoom`, scipy.ndimage.zoom of order 1: a rounded size makes small factors off-centre.
    """
    window = math.ceil(side / factor)
    stretched = round(window * factor)
    places = (torch.arange(side, dtype=torch.float64) + (stretched - side) // 2) * ((window - 1) / (stretched - 1))
    low = places.floor().clamp_max(window - 2)
    share = (places - low)[:, None]
    at = (low.to(torch.int64) + (side - window) // 2)[:, None]
    zoom = torch.zeros(side, side, dtype=torch.float64)
    return zoom.scatter_(1, at, 1 - share).scatter_add_(1, at + 1, share)


def box_map(old_side: int, new_side: int) -> Tensor:
    """float64 [new_side, old_side]: Pillow's BOX resizing, the mean of the pixels whose centres lie in a new pixel."""
    scale = old_side / new_side
    support = 0.5 * max(scale, 1.0)
    centres = (torch.arange(new_side, dtype=torch.float64) + 0.5)[:, None] * scale
    apart = (torch.arange(old_side, dtype=torch.float64) + 0.5 - centres) / (2 * support)
    weights = ((apart > -0.5) & (apart <= 0.5)).double()
    return weights / weights.sum(dim=1, keepdim=True)


def correlate(images: Tensor, kernel: Tensor) -> Tensor:
    """float [N, C, H, W] with a small kernel [K, K], K odd; the border is mirrored about its pixels."""
    reach = kernel.shape[0] // 2
    channels = images.shape[1]
    padded = functional.pad(images, (reach,) * 4, mode="reflect")
    return functional.conv2d(padded, kernel.to(images).expand(channels, 1, -1, -1), groups=channels)


def gather_pixels(images: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Pixel (rows, columns), int64 [N, H, W] inside the image, of [N, C, H, W]."""
    flat = (rows * images.shape[3] + columns).flatten(1)[:, None].expand(-1, images.shape[1], -1)
    return images.flatten(2).gather(2, flat).reshape(images.shape)


def pixel_grid(images: Tensor) -> tuple[Tensor, Tensor]:
    """(row, column) of every pixel, int64 [1, H, 1] and [1, 1, W]."""
    height, width = images.shape[2:]
    rows, columns = torch.arange(height, device=images.device), torch.arange(width, device=images.device)
    return rows[None, :, None], columns[None, None, :]


def sample(images: Tensor, rows: Tensor, columns: Tensor, border: Border) -> Tensor:
    """Bilinear values of float [N, C, H, W] at places (rows, columns), float [N, H, W] in pixels; centres are whole."""
    height, width = images.shape[2:]
    top, left = rows.floor(), columns.floor()
    down, right = (rows - top)[:, None], (columns - left)[:, None]
    top, left = top.to(torch.int64), left.to(torch.int64)
    corners = [
        gather_pixels(images, inside(top + below, height, border), inside(left + beside, width, border))
        for below in (0, 1)
        for beside in (0, 1)
    ]
    return torch.lerp(torch.lerp(corners[0], corners[1], right), torch.lerp(corners[2], corners[3], right), down)


def plasma(draws: Draws, stream: str, side: int, decay: float) -> Tensor:
    """float32 [N, side, side] in [0, 1]: a cloud by the diamond-square algorithm on a torus.

    Fournier, Fussell and Carpenter, "Computer rendering of stochastic models", Comm. ACM 25, 1982. Each halving of the
    step divides what is added at random by `decay` squared, as the public generator of CIFAR-10-C does. The map has
    the next power of two for its side and is scaled before it is cut.
    """
    size = 1 << (side - 1).bit_length()
    heights = torch.zeros(len(draws), size, size, device=draws.device)
    step, amplitude = size, 1.0
    while step >= 2:
        half, cells = step // 2, size // step

        def around(total: Tensor, kind: str, step: int = step, cells: int = cells, size: float = amplitude) -> Tensor:
            return total / 4 + size * symmetric_uniform(draws, f"{stream}.{kind}.{step}", cells, cells)

        corners = heights[:, ::step, ::step].clone()
        pairs = corners + corners.roll(-1, 1)
        heights[:, half::step, half::step] = around(pairs + pairs.roll(-1, 2), "square")
        centres = heights[:, half::step, half::step].clone()
        heights[:, ::step, half::step] = around(
            centres + centres.roll(1, 1) + corners + corners.roll(-1, 2), "horizontal"
        )
        heights[:, half::step, ::step] = around(
            centres + centres.roll(1, 2) + corners + corners.roll(-1, 1), "vertical"
        )
        step, amplitude = half, amplitude / decay**2
    heights = heights - heights.amin(dim=(1, 2), keepdim=True)
    return (heights / heights.amax(dim=(1, 2), keepdim=True))[:, :side, :side]
