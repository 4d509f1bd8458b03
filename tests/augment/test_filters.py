from __future__ import annotations

import kornia
import pytest
import torch

from thriftnet.augment.filters import gaussian_blur


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("kernel_px", [1, 3, 5, 11])
def test_blur_is_kornias(channels: int, kernel_px: int):
    images = torch.rand(9, channels, 17, 17, generator=torch.Generator().manual_seed(0))
    sigma = torch.linspace(0.1, 3, 9)
    expected = kornia.filters.gaussian_blur2d(images, (kernel_px, kernel_px), sigma[:, None].expand(-1, 2), "reflect")
    torch.testing.assert_close(gaussian_blur(images, sigma, kernel_px), expected, atol=1e-6, rtol=0)


def test_an_impulse_shows_the_kernel():
    images = torch.zeros(1, 1, 9, 9)
    images[..., 4, 4] = 1
    weights = torch.exp(-0.5 * (torch.arange(-2, 3) / 1.5) ** 2)
    weights /= weights.sum()
    blurred = gaussian_blur(images, torch.tensor([1.5]), 5)[0, 0]
    torch.testing.assert_close(blurred[2:7, 2:7], weights[:, None] * weights)
    assert blurred.sum() == pytest.approx(1)
    assert (blurred[:2] == 0).all()


def test_sigma_zero_leaves_the_image_and_one_value_stays_that_value():
    images = torch.rand(2, 3, 16, 16)
    assert torch.equal(gaussian_blur(images, torch.zeros(2), 5), images)
    flat = torch.full((1, 3, 16, 16), 0.7)
    torch.testing.assert_close(gaussian_blur(flat, torch.tensor([2.0]), 7), flat)
