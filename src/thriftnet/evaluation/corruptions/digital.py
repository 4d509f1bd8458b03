"""Levels, colours, resolution, geometry, compression.

Shapes: images float32 [N, C, H, W] in [0, 1]; results may leave [0, 1] and are cut by the caller.
"""

from __future__ import annotations

import io

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from thriftnet.augment.draws import Draws
from thriftnet.evaluation.corruptions.fields import box_map, pixel_grid, sample, smooth, symmetric_uniform


def brightness(images: Tensor, draws: Draws, stream: str, added: float) -> Tensor:
    """HSV's value raised by `added`; hue and saturation stay. Black has neither and becomes gray."""
    value = images.amax(dim=1, keepdim=True)
    raised = (value + added).clamp_max(1)
    return torch.where(value > 0, images * (raised / value.clamp_min(1e-12)), raised)


def saturate(images: Tensor, draws: Draws, stream: str, factor: float, added: float) -> Tensor:
    """HSV's saturation s becomes factor * s + added; hue and value stay. Gray's hue is 0, so `added` turns it red."""
    value = images.amax(dim=1, keepdim=True)
    away = value - images
    chroma = away.amax(dim=1, keepdim=True)
    saturation = chroma / value.clamp_min(1e-12)
    wanted = (saturation * factor + added).clamp(0, 1)
    red = torch.tensor([0.0, 1.0, 1.0], device=images.device)[None, :, None, None]
    share = torch.where(chroma > 0, away / chroma.clamp_min(1e-12), red)
    return value * (1 - wanted * share)


def contrast(images: Tensor, draws: Draws, stream: str, factor: float) -> Tensor:
    """Each channel drawn towards its mean."""
    mean = images.mean(dim=(2, 3), keepdim=True)
    return torch.lerp(mean, images, factor)


def elastic_transform(
    images: Tensor, draws: Draws, stream: str, strength: float, sigma: float, affine: float
) -> Tensor:
    """Three points of the image move at random, the rest with them; then every pixel by a smooth random field.

    Fractions of the side: `affine` is the most that a point moves along an axis, `sigma` the field's standard deviation
    of smoothing, `strength` what the smoothed uniform field is multiplied by. OpenCV, the original's means, rounds the
    affine coordinates to a 32nd of a pixel; here they are exact.
    """
    side = images.shape[3]
    moved = symmetric_uniform(draws, f"{stream}.affine", 3, 2) * (affine * side)
    rows, columns = affine_places(images, moved)
    images = sample(images, rows, columns, "mirror")
    if strength == 0:
        return images
    field = symmetric_uniform(draws, f"{stream}.field", 2, *images.shape[2:])
    right, down = (smooth(field, sigma * side, "reflect", truncate=3) * (strength * side)).unbind(1)
    return displace(images, right, down)


def affine_places(images: Tensor, moved: Tensor) -> tuple[Tensor, Tensor]:
    """(rows, columns), float32 [N, H, W]: where each pixel comes from when three points move by `moved` [N, 3, 2].

    The points are (x, y) about the centre c = side // 2 at the distance d = side // 3: (c + d, c + d), (c + d, c - d)
    and (c - d, c - d).
    """
    centre, away = images.shape[3] // 2, min(images.shape[2:]) // 3
    points = centre + away * torch.tensor([[1.0, 1], [1, -1], [-1, -1]], device=images.device)
    ones = torch.ones(len(images), 3, 1, device=images.device)
    back = torch.linalg.solve(torch.cat([points + moved, ones], dim=2), points)
    rows, columns = pixel_grid(images)
    x, y = (
        back[:, 0, axis, None, None] * columns + back[:, 1, axis, None, None] * rows + back[:, 2, axis, None, None]
        for axis in (0, 1)
    )
    return y, x


def displace(images: Tensor, right_px: Tensor, down_px: Tensor) -> Tensor:
    """Each pixel takes the bilinear value `right_px` and `down_px` (float [N, H, W]) away from it."""
    rows, columns = pixel_grid(images)
    return sample(images, rows + down_px, columns + right_px, "reflect")


def pixelate(images: Tensor, draws: Draws, stream: str, share: float) -> Tensor:
    """Pillow's BOX resizing to `share` of the side and back, rounded to whole levels after each axis as there."""
    height, width = images.shape[2:]
    levels = images * 255
    for old, new, along_columns in (
        (width, int(width * share), True),
        (height, int(height * share), False),
        (int(width * share), width, True),
        (int(height * share), height, False),
    ):
        resize = box_map(old, new).to(images)
        levels = levels @ resize.T if along_columns else resize @ levels
        levels = (levels + 0.5 + 1e-4).floor()
    return levels / 255


def jpeg_compression(images: Tensor, draws: Draws, stream: str, quality: int) -> Tensor:
    """Through Pillow's JPEG, image by image, on the CPU."""
    levels = (images * 255).round().to("cpu", torch.uint8).permute(0, 2, 3, 1).numpy()
    through = np.stack([_through_jpeg(image, quality) for image in levels])
    return torch.from_numpy(through).permute(0, 3, 1, 2).to(images.device).to(images.dtype) / 255


def _through_jpeg(image: np.ndarray, quality: int) -> np.ndarray:
    """uint8 [H, W, C] -> [H, W, C]."""
    buffer = io.BytesIO()
    Image.fromarray(image[..., 0] if image.shape[2] == 1 else image).save(buffer, "JPEG", quality=quality)
    return np.asarray(Image.open(buffer)).reshape(image.shape)
