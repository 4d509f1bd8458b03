"""Cutout: squares of one value, which the network must do without (DeVries and Taylor, arXiv 1708.04552)."""

from __future__ import annotations

import torch
from torch import Tensor


def erase_squares(images: Tensor, rows: Tensor, columns: Tensor, side_px: int, chosen: Tensor, fill: Tensor) -> Tensor:
    """Set squares around the pixels (rows, columns), int64 [N, holes], to `fill`, float32 [C] or [1].

    Images float32 [N, C, H, W]; those for which `chosen` (bool [N]) does not hold stay as they are. Along each axis a
    square covers pixels c - side_px // 2 to c - side_px // 2 + side_px - 1 (for an even side as in the authors' code),
    clipped by the border.
    """
    height, width = images.shape[2:]
    in_rows = _covers(rows, height, side_px) & chosen[:, None, None]
    in_columns = _covers(columns, width, side_px)
    erased = (in_rows[:, :, :, None] & in_columns[:, :, None, :]).any(dim=1, keepdim=True)
    return torch.lerp(images, fill[:, None, None], erased.to(images.dtype))


def _covers(centres: Tensor, side: int, square_px: int) -> Tensor:
    """bool [N, holes, side]: which rows or columns the squares cover."""
    offset = torch.arange(side, device=centres.device) - (centres - square_px // 2)[:, :, None]
    return (offset >= 0) & (offset < square_px)
