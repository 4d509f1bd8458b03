"""Weather and dirt. Shapes: images float32 [N, C, H, W] in [0, 1]; results may leave [0, 1]; the caller cuts."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from thriftnet.augment.colour import grayscale
from thriftnet.augment.draws import Draws
from thriftnet.evaluation.corruptions.blur import directed_blur
from thriftnet.evaluation.corruptions.fields import (
    clipped_zoom_map,
    correlate,
    normal,
    pixel_grid,
    plasma,
    separable,
    smooth,
)

_WATER, _MUD = (175, 238, 238), (63, 42, 20)  # pale turquoise, brown: levels of red, green, blue
_RELIEF = torch.tensor([[-2.0, -1.0, 0.0], [-1.0, 1.0, 1.0], [0.0, 1.0, 2.0]])
_FARTHEST_PX = 20.0
_EDGE_LOW, _EDGE_HIGH = 50, 150
_NEEDLES = 12
_ICE_DARK, _ICE_LIGHT = (95, 110, 130), (235, 242, 250)


def fog(images: Tensor, draws: Draws, stream: str, density: float, decay: float) -> Tensor:
    """A plasma cloud is added, and the sum scaled so that the lightest value possible stays."""
    lightest = images.amax(dim=(1, 2, 3), keepdim=True)
    cloud = plasma(draws, f"{stream}.cloud", max(images.shape[2:]), decay)[:, None]
    cloud = cloud[:, :, : images.shape[2], : images.shape[3]]
    return (images + density * cloud) * lightest / (lightest + density)


def snow(
    images: Tensor,
    draws: Draws,
    stream: str,
    mean: float,
    deviation: float,
    zoom: float,
    threshold: float,
    radius_px: int,
    sigma_px: float,
    kept: float,
) -> Tensor:
    """Flakes from thresholded, zoomed noise, blurred along their fall, over an image that is drawn towards white.

    The flakes are added twice, as they are and turned by 180 degrees.
    """
    height, width = images.shape[2:]
    layer = mean + deviation * normal(draws, f"{stream}.normal", 1, height, width)
    layer = separable(layer, clipped_zoom_map(height, zoom), clipped_zoom_map(width, zoom))
    layer = torch.where(layer < threshold, 0, layer).clamp_(0, 1).mul_(255).floor_().div_(255)
    degrees = 90 * draws.uniform(f"{stream}.angle")[:, 0] - 135
    layer = (directed_blur(layer, degrees, radius_px, sigma_px) * 255).round() / 255
    pale = torch.maximum(images, grayscale(images) * 1.5 + 0.5)
    return torch.lerp(pale, images, kept) + layer + layer.flip(2, 3)


def frost(images: Tensor, draws: Draws, stream: str, kept: float, ice: float) -> Tensor:
    """kept * x + ice * frost. The frost is drawn here: the original cuts it from five photographs."""
    return kept * images + ice * frost_layer(images, draws, stream)


def frost_layer(images: Tensor, draws: Draws, stream: str) -> Tensor:
    """float32 [N, C, H, W] in [0, 1]: ice needles in three directions 60 degrees apart, over ridges of plasma."""
    rows, columns = pixel_grid(images)
    height, width = images.shape[2:]
    base = draws.uniform(f"{stream}.base") * (math.pi / 3)
    angle = base + draws.integers(f"{stream}.direction", 3, _NEEDLES) * (math.pi / 3)
    place = draws.uniform(f"{stream}.place", 2 * _NEEDLES).reshape(-1, 2, _NEEDLES)
    reach = (0.2 + 0.4 * draws.uniform(f"{stream}.reach", _NEEDLES)) * max(height, width)
    needles = torch.zeros(len(images), height, width, device=images.device)
    for needle in range(_NEEDLES):
        cos, sin = (part[:, needle, None, None] for part in (angle.cos(), angle.sin()))
        x = columns - place[:, 0, needle, None, None] * width
        y = rows - place[:, 1, needle, None, None] * height
        along, across = x * cos + y * sin, y * cos - x * sin
        taper = (1 - along.abs() / reach[:, needle, None, None]).clamp_min(0)
        needles = torch.maximum(needles, taper * torch.exp(-across.square()))
    cloud = plasma(draws, f"{stream}.cloud", max(height, width), 1.5)[:, :height, :width]
    ridges = 1 - (2 * cloud - 1).abs()
    light = (0.55 * ridges + needles).clamp_max(1)[:, None]
    dark_colour, light_colour = (_colour(colour, images) for colour in (_ICE_DARK, _ICE_LIGHT))
    return torch.lerp(dark_colour, light_colour, light)


def spatter(
    images: Tensor,
    draws: Draws,
    stream: str,
    mean: float,
    deviation: float,
    sigma_px: float,
    threshold: float,
    strength: float,
    mud: bool,
) -> Tensor:
    """Drops where smoothed noise passes `threshold`: of water, lit as a relief by `strength`, or of mud."""
    liquid = mean + deviation * normal(draws, f"{stream}.normal", 1, *images.shape[2:])
    liquid = smooth(liquid, sigma_px)
    liquid = torch.where(liquid < threshold, 0, liquid)
    if mud:
        covered = smooth((liquid > threshold).to(images.dtype), strength)
        covered = torch.where(covered < 0.8, 0, covered)
        return images * (1 - covered) + _colour(_MUD, images) * covered
    levels = (liquid.clamp(0, 1) * 255).floor()
    light = levels * relief(levels)
    light = light / light.amax(dim=(2, 3), keepdim=True).clamp_min(1e-12) * strength
    return images + light * _colour(_WATER, images)


def relief(levels: Tensor) -> Tensor:
    """float [N, 1, H, W]: how far each pixel is from an edge of `levels`, equalised, lit from a corner, smoothed.

    OpenCV's steps with whole levels between them. Distances are Euclidean; OpenCV's are approximated to 2 per cent.
    """
    mean = torch.full((3, 3), 1 / 9)
    distance = distance_to(edges(levels)).clamp_max_(_FARTHEST_PX)
    distance = equalise((correlate(distance, mean) + 1e-4).floor())
    lit = correlate(distance, _RELIEF).clamp(0, 255)
    return correlate(lit, mean).round()


def edges(levels: Tensor) -> Tensor:
    """bool [N, 1, H, W]: Canny's edges of whole levels, thresholds 50 and 150 on |dx| + |dy|, as OpenCV finds them.

    J. Canny, "A computational approach to edge detection", IEEE PAMI 8, 1986.
    """
    padded = functional.pad(levels, (1, 1, 1, 1), mode="replicate")
    sobel = torch.tensor([[-1.0, 0, 1], [-2, 0, 2], [-1, 0, 1]], device=levels.device)
    dx, dy = (functional.conv2d(padded, kernel[None, None]) for kernel in (sobel, sobel.T))
    size = dx.abs() + dy.abs()
    around = functional.pad(size, (1, 1, 1, 1))
    height, width = levels.shape[2:]

    def neighbour(down: int, right: int) -> Tensor:
        return around[:, :, 1 + down : 1 + down + height, 1 + right : 1 + right + width]

    across = dy.abs() < dx.abs() * math.tan(math.pi / 8)
    upright = dy.abs() > dx.abs() * math.tan(3 * math.pi / 8)
    falling = dx * dy >= 0
    largest = torch.where(falling, _exceeds(size, neighbour(-1, -1), neighbour(1, 1)),
                          _exceeds(size, neighbour(-1, 1), neighbour(1, -1)))  # fmt: skip
    largest = torch.where(upright, (size > neighbour(-1, 0)) & (size >= neighbour(1, 0)), largest)
    largest = torch.where(across, (size > neighbour(0, -1)) & (size >= neighbour(0, 1)), largest)
    weak = largest & (size > _EDGE_LOW)
    return grown(weak & (size > _EDGE_HIGH), weak)


def _exceeds(size: Tensor, one: Tensor, other: Tensor) -> Tensor:
    return (size > one) & (size > other)


def grown(seeds: Tensor, allowed: Tensor) -> Tensor:
    """bool [N, 1, H, W]: the pixels of `allowed` that touch, also at corners, a chain of them from one of `seeds`."""
    while True:
        wider = (functional.max_pool2d(seeds.float(), 3, stride=1, padding=1) > 0) & allowed
        if torch.equal(wider, seeds):
            return seeds
        seeds = wider


def distance_to(marked: Tensor) -> Tensor:
    """float32 [N, 1, H, W]: Euclidean distance in pixels to the nearest of `marked` (bool), a large number if none.

    One axis after the other: min over rows, then over columns, of squared distances (Felzenszwalb and Huttenlocher,
    "Distance transforms of sampled functions", Theory of Computing 8, 2012, section 3).
    """
    height, width = marked.shape[2:]
    rows, columns = (torch.arange(side, device=marked.device, dtype=torch.float32) for side in (height, width))
    squared = torch.where(marked[:, 0], 0.0, 1e6)
    squared = ((rows[:, None] - rows).square()[None, :, :, None] + squared[:, None]).amin(dim=2)
    squared = ((columns[:, None] - columns).square()[None, None] + squared[:, :, None, :]).amin(dim=3)
    return squared.sqrt()[:, None]


def equalise(levels: Tensor) -> Tensor:
    """Histogram equalisation of whole levels, float [N, 1, H, W], as OpenCV's equalizeHist.

    Level v becomes 255 (pixels up to v - pixels of the darkest level) / (pixels not of the darkest), rounded. An image
    of one level stays.
    """
    values = levels.flatten(1).to(torch.int64)
    histogram = torch.zeros(len(values), 256, device=levels.device).scatter_add_(
        1, values, torch.ones_like(values, dtype=torch.float32)
    )
    darkest = histogram.gather(1, values.amin(dim=1, keepdim=True))
    rest = values.shape[1] - darkest
    table = ((histogram.cumsum(dim=1) - darkest) * 255 / rest.clamp_min(1)).round()
    return torch.where(rest > 0, table.gather(1, values), values).reshape(levels.shape)


def _colour(levels: tuple[int, int, int], images: Tensor) -> Tensor:
    """[1, C, 1, 1] in [0, 1]; for gray images its luma."""
    colour = torch.tensor(levels, device=images.device, dtype=images.dtype)[None, :, None, None] / 255
    return colour if images.shape[1] == 3 else grayscale(colour)
