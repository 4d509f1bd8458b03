from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from thriftnet.augment.erasing import erase_squares


@given(st.integers(1, 20), st.integers(1, 3), st.sampled_from([1, 3]), st.integers(0, 1000))
def test_squares_are_erased_pixel_by_pixel(side_px: int, holes: int, channels: int, seed: int):
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand(3, channels, 8, 10, generator=generator)
    rows = torch.randint(0, 8, (3, holes), generator=generator)
    columns = torch.randint(0, 10, (3, holes), generator=generator)
    chosen = torch.tensor([True, False, True])
    fill = torch.linspace(0.2, 0.6, channels)
    expected = images.clone()
    for image in (0, 2):
        for row, column in zip(rows[image].tolist(), columns[image].tolist(), strict=True):
            top, left = row - side_px // 2, column - side_px // 2
            expected[image, :, max(0, top) : max(0, top + side_px), max(0, left) : max(0, left + side_px)] = fill[
                :, None, None
            ]
    assert torch.equal(erase_squares(images, rows, columns, side_px, chosen, fill), expected)


def test_one_fill_serves_all_channels():
    centre = torch.full((1, 1), 4)
    erased = erase_squares(torch.zeros(1, 3, 8, 8), centre, centre, 4, torch.tensor([True]), torch.tensor([0.5]))
    assert (erased == 0.5).sum() == 3 * 16
