"""The parts of corruptions against SciPy, scikit-image and Pillow."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage, stats
from skimage.filters import gaussian
from torch import Tensor

from thriftnet.augment.draws import Draws
from thriftnet.evaluation.corruptions import fields


def image(side: int = 32) -> Tensor:
    return torch.rand(1, 1, side, side, generator=torch.Generator().manual_seed(0))


def draws(count: int) -> Draws:
    return Draws(0, 0, torch.arange(count))


def test_normal_draws_are_normal_and_independent_of_the_batch() -> None:
    drawn = fields.normal(draws(40), "x", 3, 11, 11)
    assert drawn.shape == (40, 3, 11, 11)
    assert stats.kstest(drawn.flatten().numpy(), "norm").pvalue > 1e-3
    assert torch.equal(fields.normal(Draws(0, 0, torch.tensor([7])), "x", 3, 11, 11)[0], drawn[7])


@pytest.mark.parametrize(("border", "mode"), [("nearest", "edge"), ("mirror", "reflect"), ("reflect", "symmetric")])
@pytest.mark.parametrize("side", [2, 5])
def test_borders_are_numpys(border: fields.Border, mode: str, side: int) -> None:
    expected = np.pad(np.arange(side), 12, mode=mode)  # type: ignore[call-overload]
    assert fields.inside(torch.arange(-12, side + 12), side, border).tolist() == expected.tolist()


@pytest.mark.parametrize("sigma", [0, 0.05, 0.25, 0.4, 1.0, 2.3])
def test_smoothing_is_scikit_images(sigma: float) -> None:
    expected = gaussian(image()[0, 0].numpy(), sigma=sigma)
    np.testing.assert_allclose(fields.smooth(image(), sigma)[0, 0].numpy(), expected, atol=1e-6)


@pytest.mark.parametrize("sigma", [0.96, 1.92, 6.4])
def test_smoothing_with_a_mirrored_border_is_scipys(sigma: float) -> None:
    expected = ndimage.gaussian_filter(image()[0, 0].numpy(), sigma, mode="reflect", truncate=3)
    smoothed = fields.smooth(image(), sigma, "reflect", truncate=3)[0, 0]
    np.testing.assert_allclose(smoothed.numpy(), expected, atol=1e-6)


@pytest.mark.parametrize("side", [16, 28, 32, 33])
@pytest.mark.parametrize("factor", [1, 1.01, 1.04, 1.25, 1.75, 2.25])
def test_zoom_is_scipys(side: int, factor: float) -> None:
    window = int(np.ceil(side / factor))
    top = (side - window) // 2
    pixels = image(side)[0, 0].double().numpy()
    stretched = ndimage.zoom(pixels[top : top + window, top : top + window], factor, order=1)
    trim = (stretched.shape[0] - side) // 2
    zoom = fields.clipped_zoom_map(side, factor)
    zoomed = fields.separable(image(side).double(), zoom, zoom)[0, 0]
    np.testing.assert_allclose(zoomed.numpy(), stretched[trim : trim + side, trim : trim + side], atol=1e-12)


@pytest.mark.parametrize(("old", "new"), [(32, 30), (32, 28), (32, 20), (20, 32), (32, 8), (33, 21), (5, 5)])
def test_box_resizing_is_pillows(old: int, new: int) -> None:
    row = (image(old)[0, 0, :1] * 255).numpy()
    resized = Image.fromarray(row).resize((new, 1), Image.Resampling.BOX)  # mode F: not rounded
    np.testing.assert_allclose((row @ fields.box_map(old, new).float().T.numpy()), np.asarray(resized), rtol=1e-5)


def test_correlation_mirrors_the_border() -> None:
    kernel = torch.rand(3, 3, generator=torch.Generator().manual_seed(1))
    expected = ndimage.correlate(image()[0, 0].numpy(), kernel.numpy(), mode="mirror")
    np.testing.assert_allclose(fields.correlate(image(), kernel)[0, 0].numpy(), expected, atol=1e-6)


@pytest.mark.parametrize(("border", "mode"), [("nearest", "nearest"), ("mirror", "mirror"), ("reflect", "reflect")])
def test_sampling_is_scipys(border: fields.Border, mode: str) -> None:
    rows, columns = torch.rand(2, 1, 32, 32, generator=torch.Generator().manual_seed(2)).mul(50).sub(9).unbind(0)
    expected = ndimage.map_coordinates(image()[0, 0].numpy(), [rows[0].numpy(), columns[0].numpy()], order=1, mode=mode)
    np.testing.assert_allclose(fields.sample(image(), rows, columns, border)[0, 0].numpy(), expected, atol=1e-5)


def test_plasma_without_noise_below_the_first_step_is_smooth_and_scaled() -> None:
    clouds = fields.plasma(draws(4), "c", 32, decay=3)
    assert clouds.shape == (4, 32, 32)
    assert (clouds.amin(dim=(1, 2)) == 0).all()
    assert (clouds.amax(dim=(1, 2)) == 1).all()
    steps = [(fields.plasma(draws(50), "c", 32, decay).diff(dim=1).abs().mean()) for decay in (3, 2, 1.2)]
    assert steps[0] < steps[1] < steps[2]


def test_plasma_is_the_diamond_square_algorithm_by_hand() -> None:
    """Side 2: one square step, then the two diamonds, each the mean of four neighbours on the torus plus a draw."""
    square, right, down = (
        float(fields.symmetric_uniform(draws(1), f"c.{kind}.2", 1, 1)) for kind in ("square", "horizontal", "vertical")
    )
    heights = np.array([[0, square / 2 + right], [square / 2 + down, square]])
    heights -= heights.min()
    np.testing.assert_allclose(fields.plasma(draws(1), "c", 2, 3)[0].numpy(), heights / heights.max(), atol=1e-6)


def test_plasma_of_other_sides_is_cut_from_the_next_power_of_two() -> None:
    assert torch.equal(fields.plasma(draws(1), "c", 20, 2), fields.plasma(draws(1), "c", 32, 2)[:, :20, :20])
