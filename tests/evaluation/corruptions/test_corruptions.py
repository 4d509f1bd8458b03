"""The constants against the published ones; every corruption against SciPy, scikit-image or Pillow, in distribution
where it is random, else by hand; pinned outcomes where no library has the whole of it."""

from __future__ import annotations

import io
import math
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage, stats
from skimage import color, feature, filters, util
from torch import Tensor

from thriftnet.augment.draws import Draws
from thriftnet.errors import UserError
from thriftnet.evaluation.corruptions import BENCHMARK, CORRUPTIONS, EXTRA, SEVERITIES, blur, corrupt, digital, weather
from thriftnet.evaluation.corruptions.fields import symmetric_uniform

RANDOM = (
    "gaussian_noise", "shot_noise", "impulse_noise", "glass_blur", "motion_blur", "snow", "frost", "fog",
    "elastic_transform", "speckle_noise", "spatter",
)  # fmt: skip
# Typed from ImageNet-C/create_c/make_cifar_c.py of github.com/hendrycks/robustness, commit ca36008, in the order of its
# tuples. Elastic's are shares of 32 pixels there too; zoom blur's are the numbers of factors in its aranges.
PUBLISHED: dict[str, tuple[tuple[Any, ...], ...]] = {
    "gaussian_noise": ((0.04,), (0.06,), (0.08,), (0.09,), (0.10,)),
    "shot_noise": ((500,), (250,), (100,), (75,), (50,)),
    "impulse_noise": ((0.01,), (0.02,), (0.03,), (0.05,), (0.07,)),
    "speckle_noise": ((0.06,), (0.1,), (0.12,), (0.16,), (0.2,)),
    "gaussian_blur": ((0.4,), (0.6,), (0.7,), (0.8,), (1,)),
    "glass_blur": ((0.05, 1, 1), (0.25, 1, 1), (0.4, 1, 1), (0.25, 1, 2), (0.4, 1, 2)),
    "defocus_blur": ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1)),
    "motion_blur": ((6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5)),
    "zoom_blur": ((7,), (12,), (16,), (21,), (26,)),
    "fog": ((0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75)),
    "frost": ((1, 0.2), (1, 0.3), (0.9, 0.4), (0.85, 0.4), (0.75, 0.45)),
    "snow": (
        (0.1, 0.2, 1, 0.6, 8, 3, 0.95),
        (0.1, 0.2, 1, 0.5, 10, 4, 0.9),
        (0.15, 0.3, 1.75, 0.55, 10, 4, 0.9),
        (0.25, 0.3, 2.25, 0.6, 12, 6, 0.85),
        (0.3, 0.3, 1.25, 0.65, 14, 12, 0.8),
    ),
    "spatter": (
        (0.62, 0.1, 0.7, 0.7, 0.5, 0),
        (0.65, 0.1, 0.8, 0.7, 0.5, 0),
        (0.65, 0.3, 1, 0.69, 0.5, 0),
        (0.65, 0.1, 0.7, 0.69, 0.6, 1),
        (0.65, 0.1, 0.5, 0.68, 0.6, 1),
    ),
    "contrast": ((0.75,), (0.5,), (0.4,), (0.3,), (0.15,)),
    "brightness": ((0.05,), (0.1,), (0.15,), (0.2,), (0.3,)),
    "saturate": ((0.3, 0), (0.1, 0), (1.5, 0), (2, 0.1), (2.5, 0.2)),
    "jpeg_compression": ((80,), (65,), (58,), (50,), (40,)),
    "pixelate": ((0.95,), (0.9,), (0.85,), (0.75,), (0.65,)),
    "elastic_transform": ((0, 0, 0.08), (0.05, 0.2, 0.07), (0.08, 0.06, 0.06), (0.1, 0.04, 0.05), (0.1, 0.03, 0.03)),
}
PINNED = {
    "glass_blur": ((126.29, 6.27), (125.39, 6.49), (125.38, 6.21), (124.93, 10.73), (124.66, 10.39)),
    "motion_blur": ((127.20, 3.75), (127.26, 6.69), (128.12, 10.14), (127.49, 8.71), (127.93, 10.67)),
    "snow": ((137.88, 10.96), (152.55, 25.63), (152.93, 26.01), (164.75, 37.83), (185.56, 58.64)),
    "frost": ((162.35, 35.43), (179.34, 52.43), (184.36, 57.44), (179.97, 53.05), (175.94, 49.05)),
    "fog": ((125.84, 9.19), (130.28, 19.91), (131.44, 26.23), (134.38, 29.43), (132.97, 36.53)),
    "spatter": ((127.86, 0.95), (129.84, 2.92), (133.43, 6.52), (123.16, 3.87), (121.55, 5.47)),
}
"""(mean, mean change of a value), in levels, of `pictures()` at severities 1 to 5."""


def pictures(count: int = 4, channels: int = 3, side: int = 32) -> Tensor:
    """Smooth colours with edges and a little noise: something between noise and a photograph."""
    generator = torch.Generator().manual_seed(3)
    coarse = torch.rand(count, channels, 4, 4, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, size=(side, side), mode="bilinear")
    smooth += 0.05 * torch.rand(smooth.shape, generator=generator)
    return (smooth.clamp(0, 1) * 255).to(torch.uint8)


def flat(level: int, count: int = 8) -> Tensor:
    return torch.full((count, 3, 32, 32), level, dtype=torch.uint8)


def each(images: Tensor) -> list[np.ndarray]:
    """uint8 [H, W, 3] each."""
    return list(images.permute(0, 2, 3, 1).numpy())


def assert_close(ours: Tensor, expected: list[np.ndarray], share: float = 0.0, most: int = 1) -> None:
    """Levels may differ by `most`, in at most `share` of the values: where the cut to whole levels falls."""
    apart = np.abs(np.stack(each(ours)).astype(int) - np.stack(expected).astype(int))
    assert apart.max() <= most
    assert (apart > 0).mean() <= share


def test_there_are_fifteen_and_four_with_five_severities_each() -> None:
    assert (len(BENCHMARK), len(EXTRA), SEVERITIES) == (15, 4, (1, 2, 3, 4, 5))


def test_constants_are_the_published_ones() -> None:
    assert {name: corruption.constants for name, corruption in CORRUPTIONS.items()} == PUBLISHED


@pytest.mark.parametrize("severity", SEVERITIES)
@pytest.mark.parametrize("name", PINNED)
def test_outcomes_are_the_pinned_ones(name: str, severity: int) -> None:
    """Within what rounding does: on another machine a few values end a level higher or lower."""
    clean, changed = pictures().double(), corrupt(pictures(), name, severity).double()
    found = float(changed.mean()), float((changed - clean).abs().mean())
    assert found == pytest.approx(PINNED[name][severity - 1], abs=0.03)


@pytest.mark.parametrize("name", CORRUPTIONS)
@pytest.mark.parametrize(("channels", "side"), [(3, 32), (3, 20), (1, 16), (1, 33)])
def test_an_image_is_the_same_in_any_batch(name: str, channels: int, side: int) -> None:
    images = pictures(6, channels, side)
    if (name, channels) == ("saturate", 1):
        with pytest.raises(UserError, match="saturate needs colour, and these images are gray; leave it out"):
            corrupt(images, name, 1)
        return
    together = corrupt(images, name, 4)
    assert (together.dtype, together.shape) == (torch.uint8, images.shape)
    apart = corrupt(images[[5, 2]], name, 4, torch.tensor([5, 2]))
    # Matrix products add in another order for another batch; that may move a value over the border of a level.
    assert (apart.int() - together[[5, 2]].int()).abs().max() <= 1
    assert (apart != together[[5, 2]]).float().mean() < 0.001
    assert not torch.equal(together, images)


@pytest.mark.parametrize("name", RANDOM)
def test_seed_severity_and_index_draw_anew(name: str) -> None:
    images = flat(128, 2) if "blur" not in name and name != "elastic_transform" else pictures(1).expand(2, -1, -1, -1)
    drawn = corrupt(images, name, 3)
    assert not torch.equal(drawn[0], drawn[1])
    assert not torch.equal(corrupt(images, name, 3, seed=1), drawn)
    assert torch.equal(corrupt(images, name, 3), drawn)


@pytest.mark.parametrize("name", sorted(set(CORRUPTIONS) - set(RANDOM)))
def test_the_others_draw_nothing(name: str) -> None:
    assert torch.equal(corrupt(pictures(), name, 3), corrupt(pictures(), name, 3, seed=1))


def test_a_wrong_name_or_severity_is_refused() -> None:
    with pytest.raises(UserError, match="there is no corruption 'snwo' - did you mean 'snow'"):
        corrupt(pictures(), "snwo", 1)
    with pytest.raises(UserError, match="severity 6 of fog does not exist; give 1 to 5"):
        corrupt(pictures(), "fog", 6)


class TestNoise:
    @pytest.mark.parametrize("severity", SEVERITIES)
    def test_gaussian_has_its_deviation(self, severity: int) -> None:
        deviation = 255 * PUBLISHED["gaussian_noise"][severity - 1][0]
        added = corrupt(flat(128), "gaussian_noise", severity).double() - 128
        assert float(added.mean()) == pytest.approx(-0.5, abs=4 * deviation / added.numel() ** 0.5)  # cut, not rounded
        assert float(added.std()) == pytest.approx((deviation**2 + 1 / 12) ** 0.5, rel=0.02)

    @pytest.mark.parametrize("severity", SEVERITIES)
    @pytest.mark.parametrize("level", [0, 40, 128])
    def test_speckle_grows_with_the_level(self, level: int, severity: int) -> None:
        added = corrupt(flat(level), "speckle_noise", severity).double() - level
        deviation = level * PUBLISHED["speckle_noise"][severity - 1][0]
        assert float(added.std()) == pytest.approx(deviation, rel=0.03, abs=0)

    @pytest.mark.parametrize(("level", "severity"), [(0, 1), (3, 1), (60, 5), (128, 1), (128, 3)])
    def test_shot_is_poisson(self, level: int, severity: int) -> None:
        (photons,) = PUBLISHED["shot_noise"][severity - 1]
        noisy = corrupt(flat(level, 4), "shot_noise", severity)
        counts = torch.bincount(noisy.flatten().long(), minlength=256).numpy()
        chance = np.zeros(256)
        for k in range(2 * photons):
            chance[int(min(k / photons, 1) * 255 + 1e-3)] += stats.poisson.pmf(k, level / 255 * photons)
        total = counts.sum()
        likely = chance * total >= 10
        expected = np.append(chance[likely], max(1 - chance[likely].sum(), 1e-9)) * total
        found = np.append(counts[likely], total - counts[likely].sum())
        expected *= total / expected.sum()
        if expected[-1] < 5:
            assert found[-1] < 30
            expected, found = expected[:-1] * found[:-1].sum() / expected[:-1].sum(), found[:-1]
        assert len(found) == 1 or stats.chisquare(found, expected).pvalue > 1e-3

    @pytest.mark.parametrize("severity", SEVERITIES)
    def test_impulse_hits_its_share_of_the_values_of_every_channel(self, severity: int) -> None:
        (amount,) = PUBLISHED["impulse_noise"][severity - 1]
        noisy = corrupt(flat(128), "impulse_noise", severity)
        share = (noisy == 0).double().mean(), (noisy == 255).double().mean()
        tolerance = 4 * (amount / 2 / noisy.numel()) ** 0.5
        assert [float(s) for s in share] == pytest.approx([amount / 2] * 2, abs=tolerance)
        assert ((noisy == 0) | (noisy == 255) | (noisy == 128)).all()
        theirs = util.random_noise(np.full((320, 320, 3), 0.5), mode="s&p", amount=amount, rng=0)
        assert float((theirs == 0).mean()) == pytest.approx(amount / 2, rel=0.1)
        assert not torch.equal(noisy[:, 0], noisy[:, 1])


class TestBlur:
    @pytest.mark.parametrize("severity", SEVERITIES)
    def test_gaussian_is_scikit_images(self, severity: int) -> None:
        (sigma,) = PUBLISHED["gaussian_blur"][severity - 1]
        expected = [np.uint8(filters.gaussian(p / 255, sigma=sigma, channel_axis=2) * 255) for p in each(pictures())]
        assert_close(corrupt(pictures(), "gaussian_blur", severity), expected, share=0.01)

    def test_disks_are_by_hand(self) -> None:
        """Radius below 1: the 3x3 Gaussian alone; radius 1: five pixels; radius 1.5: nine."""
        edge = math.exp(-0.5 / 0.4**2)
        row = torch.tensor([edge, 1, edge], dtype=torch.float64) / (1 + 2 * edge)
        assert torch.allclose(blur.disk_kernel(0.3, 0.4)[2:5, 2:5], row.outer(row))
        assert (blur.disk_kernel(1, 1e-3) > 0).sum() == 5
        assert torch.allclose(blur.disk_kernel(1.5, 1e-3)[2:5, 2:5], torch.full((3, 3), 1 / 9, dtype=torch.float64))
        for radius, sigma in PUBLISHED["defocus_blur"]:
            assert float(blur.disk_kernel(radius, sigma).sum()) == pytest.approx(1)

    @pytest.mark.parametrize("severity", SEVERITIES)
    def test_defocus_is_a_correlation_with_its_kernel(self, severity: int) -> None:
        radius, sigma = PUBLISHED["defocus_blur"][severity - 1]
        y, x = np.mgrid[-8:9, -8:9]
        disk = (x**2 + y**2 <= radius**2).astype(float)
        weights = np.exp(-0.5 * (np.array([-1, 0, 1]) / sigma) ** 2)
        kernel = ndimage.correlate(disk / disk.sum(), np.outer(weights, weights) / weights.sum() ** 2, mode="constant")
        expected = [
            np.uint8(np.clip(ndimage.correlate(p / 255, kernel[..., None], mode="mirror"), 0, 1) * 255 + 1e-3)
            for p in each(pictures())
        ]
        assert_close(corrupt(pictures(), "defocus_blur", severity), expected, share=0.01)

    @pytest.mark.parametrize("severity", SEVERITIES)
    def test_glass_copies_as_the_original_loop_does(self, severity: int) -> None:
        """The loop as published, with NumPy views on both sides of an exchange, which is why it copies."""
        sigma, reach, iterations = PUBLISHED["glass_blur"][severity - 1]
        images = pictures(1)
        pixels = np.uint8(filters.gaussian(each(images)[0] / 255, sigma=sigma, channel_axis=2) * 255 + 1e-3)
        draws = Draws(0, 0, torch.arange(1))
        for turn in range(iterations):
            stream = f"glass_blur.{severity}.shift.{turn}"
            shifts = draws.integers(stream, 2 * reach, 2 * 32 * 32).reshape(2, 32, 32).numpy() - reach
            assert set(np.unique(shifts)) == {-1, 0}
            for row in range(32 - reach, reach, -1):
                for column in range(32 - reach, reach, -1):
                    down, right = shifts[:, row, column]
                    first, second = pixels[row, column], pixels[row + down, column + right]
                    pixels[row, column], pixels[row + down, column + right] = second, first
        expected = np.uint8(np.clip(filters.gaussian(pixels / 255, sigma=sigma, channel_axis=2), 0, 1) * 255 + 1e-3)
        assert_close(corrupt(images, "glass_blur", severity), [expected], share=0.02, most=2)

    def test_directed_blur_spreads_a_point_along_its_line(self) -> None:
        """Straight right, straight down and on the diagonal: the weights of a one-sided Gaussian, from the point on."""
        images = torch.zeros(3, 1, 32, 32)
        images[:, 0, 16, 16] = 1
        weights = torch.exp(-0.5 * (torch.arange(13) / 2.0) ** 2)
        weights /= weights.sum()
        spread = blur.directed_blur(images, torch.tensor([0.0, 90.0, 45.0]), 6, 2)
        assert torch.allclose(spread[0, 0, 16, 4:17], weights.flip(0), atol=1e-6)
        assert torch.allclose(spread[1, 0, 4:17, 16], weights.flip(0), atol=1e-6)
        # On the diagonal, taps 0.7 px apart are rounded to whole pixels, so some share one.
        places = (torch.arange(13) * math.cos(math.pi / 4) - 0.5).ceil().long()
        expected = torch.zeros(32).scatter_add_(0, 16 - places, weights)
        assert torch.allclose(spread[2, 0].diagonal(), expected, atol=1e-6)
        assert torch.allclose(spread.sum(dim=(1, 2, 3)), torch.ones(3), atol=1e-5)

    def test_motion_stays_within_45_degrees(self) -> None:
        point = torch.zeros(200, 3, 32, 32, dtype=torch.uint8)
        point[:, :, 16, 16] = 255
        spread = corrupt(point, "motion_blur", 5)
        rows, columns = (spread[:, 0] > 0).nonzero()[:, 1:].unbind(1)
        assert (columns <= 16).all()
        assert ((rows - 16).abs() <= 16 - columns).all()
        assert (rows < 16).any()
        assert (rows > 16).any()

    @pytest.mark.parametrize("severity", SEVERITIES)
    def test_zoom_is_the_mean_of_scipys(self, severity: int) -> None:
        factors = np.arange(1, (1.06, 1.11, 1.16, 1.21, 1.26)[severity - 1], 0.01)
        assert (len(factors),) == PUBLISHED["zoom_blur"][severity - 1]
        expected = []
        for pixels in each(pictures(2)):
            total = pixels / 255
            for factor in factors:
                window = int(np.ceil(32 / factor))
                top = (32 - window) // 2
                cut = pixels[top : top + window, top : top + window] / 255
                zoomed = ndimage.zoom(cut, (factor, factor, 1), order=1)
                trim = (zoomed.shape[0] - 32) // 2
                total = total + zoomed[trim : trim + 32, trim : trim + 32]
            expected.append(np.uint8(total / (len(factors) + 1) * 255))
        assert_close(corrupt(pictures(2), "zoom_blur", severity), expected, share=0.01)


class TestWeather:
    @pytest.mark.parametrize("severity", SEVERITIES)
    def test_fog_lightens_within_the_images_range(self, severity: int) -> None:
        density = PUBLISHED["fog"][severity - 1][0]
        foggy = corrupt(flat(100), "fog", severity).double()
        low, high = 100 / 255, 100 / 255 + density
        scale = low / (low + density) * 255
        assert float(foggy.amax()) == pytest.approx(high * scale, abs=1)  # the cloud's top
        assert float(foggy.amin()) == pytest.approx(low * scale, abs=1)  # its bottom

    def test_snow_adds_flakes_and_their_half_turn_to_a_paler_image(self) -> None:
        for severity in SEVERITIES:
            snowy = corrupt(flat(60), "snow", severity).int()
            assert torch.equal(snowy, snowy.flip(2, 3))
            kept = PUBLISHED["snow"][severity - 1][-1]
            paler = kept * 60 + (1 - kept) * (1.5 * 60 + 0.5 * 255)
            # Where no flake lies, the image alone.
            assert int(snowy.amin()) >= int(paler) - 1
            assert float(snowy.double().mean()) > paler

    @pytest.mark.parametrize("severity", SEVERITIES)
    def test_frost_mixes_image_and_ice_as_published(self, severity: int) -> None:
        kept, ice = PUBLISHED["frost"][severity - 1]
        draws = Draws(0, 0, torch.arange(4))
        layer = weather.frost_layer(torch.zeros(4, 3, 32, 32), draws, f"frost.{severity}") * 255
        assert float(layer.amin()) >= 90
        assert float(layer.amax()) <= 250
        frosty = corrupt(flat(100, 4), "frost", severity)
        assert (frosty.double() - (kept * 100 + ice * layer).clamp(0, 255)).abs().max() <= 1

    def test_edges_of_a_square_are_its_outline(self) -> None:
        levels = torch.zeros(1, 1, 16, 16)
        levels[..., 5:11, 4:12] = 200
        found = weather.edges(levels)[0, 0]
        assert not found[7:9, 6:10].any()
        assert not found[:4].any()
        assert not found[12:].any()
        assert 20 <= int(found.sum()) <= 32
        outline = feature.canny(levels[0, 0].numpy(), sigma=0.01)
        near = ndimage.binary_dilation(outline, iterations=1)
        assert near[found.numpy()].all()

    def test_weak_edges_count_where_they_touch_a_strong_one(self) -> None:
        values = np.random.default_rng(0).random((32, 32))
        grown = weather.grown(torch.from_numpy(values > 0.9)[None, None], torch.from_numpy(values > 0.6)[None, None])
        labels, _ = ndimage.label(values > 0.6, structure=np.ones((3, 3)))
        expected = np.isin(labels, np.unique(labels[values > 0.9])) & (values > 0.6)
        assert (grown[0, 0].numpy() == expected).all()

    @pytest.mark.parametrize("share", [0.01, 0.3])
    def test_distance_is_scipys(self, share: float) -> None:
        marked = np.random.default_rng(0).random((2, 20, 33)) < share
        expected = [ndimage.distance_transform_edt(~m) for m in marked]
        np.testing.assert_allclose(weather.distance_to(torch.from_numpy(marked)[:, None])[:, 0], expected, rtol=1e-6)
        assert (weather.distance_to(torch.zeros(1, 1, 4, 4, dtype=torch.bool)) >= 100).all()

    def test_equalisation_by_hand(self) -> None:
        levels = torch.tensor([[[[3.0, 3, 5, 5], [5, 9, 9, 20]]]])
        assert weather.equalise(levels).flatten().tolist() == [0, 0, 128, 128, 128, 212, 212, 255]
        assert weather.equalise(torch.full((1, 1, 2, 2), 7.0)).flatten().tolist() == [7, 7, 7, 7]

    @pytest.mark.parametrize("severity", SEVERITIES)
    def test_spatter_is_pale_turquoise_water_or_brown_mud(self, severity: int) -> None:
        dirty = corrupt(flat(100), "spatter", severity).int() - 100
        touched = (dirty != 0).any(dim=1)
        assert 0.001 < float(touched.float().mean()) < 0.5
        red, green, blue = (dirty[:, channel][touched].double() for channel in range(3))
        if severity <= 3:  # it only lightens, in the proportions of the colour
            assert (red >= 0).all()
            assert torch.equal(green, blue)
            assert float(green.amax()) == pytest.approx(min(0.5 * 238, 155), abs=1)
            assert float(red.sum() / green.sum()) == pytest.approx(175 / 238, abs=0.03)
        else:  # it covers by at least four fifths
            for channel, colour in ((red, 63), (green, 42), (blue, 20)):
                assert int(channel.amin()) >= colour - 100 - 1
                assert int(channel.amax()) <= 0.8 * (colour - 100) + 1


class TestDigital:
    @pytest.mark.parametrize("severity", SEVERITIES)
    def test_brightness_is_by_scikit_images_hsv(self, severity: int) -> None:
        (added,) = PUBLISHED["brightness"][severity - 1]
        images = torch.cat([pictures(), flat(0, 1), flat(77, 1)])
        expected = []
        for pixels in each(images):
            hsv = color.rgb2hsv(pixels / 255)
            hsv[..., 2] = np.clip(hsv[..., 2] + added, 0, 1)
            expected.append(np.uint8(np.clip(color.hsv2rgb(hsv), 0, 1) * 255 + 1e-3))
        assert_close(corrupt(images, "brightness", severity), expected, share=0.01)

    @pytest.mark.parametrize("severity", SEVERITIES)
    def test_saturate_is_by_scikit_images_hsv(self, severity: int) -> None:
        factor, added = PUBLISHED["saturate"][severity - 1]
        images = torch.cat([pictures(), flat(0, 1), flat(77, 1)])
        expected = []
        for pixels in each(images):
            hsv = color.rgb2hsv(pixels / 255)
            hsv[..., 1] = np.clip(hsv[..., 1] * factor + added, 0, 1)
            expected.append(np.uint8(np.clip(color.hsv2rgb(hsv), 0, 1) * 255 + 1e-3))
        assert_close(corrupt(images, "saturate", severity), expected, share=0.01)

    @pytest.mark.parametrize("severity", SEVERITIES)
    def test_contrast_draws_each_channel_to_its_mean(self, severity: int) -> None:
        (factor,) = PUBLISHED["contrast"][severity - 1]
        expected = []
        for pixels in each(pictures()):
            mean = pixels.mean((0, 1))
            expected.append(np.uint8((pixels - mean) * factor + mean + 1e-3))
        assert_close(corrupt(pictures(), "contrast", severity), expected, share=0.01)

    @pytest.mark.parametrize("severity", SEVERITIES)
    def test_pixelate_is_pillows(self, severity: int) -> None:
        side = int(32 * PUBLISHED["pixelate"][severity - 1][0])
        noise = torch.randint(0, 256, (6, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
        box = Image.Resampling.BOX
        expected = [np.asarray(Image.fromarray(p).resize((side, side), box).resize((32, 32), box)) for p in each(noise)]
        assert_close(corrupt(noise, "pixelate", severity), expected)

    @pytest.mark.parametrize("severity", SEVERITIES)
    def test_jpeg_is_pillows(self, severity: int) -> None:
        expected = []
        for pixels in each(pictures()):
            buffer = io.BytesIO()
            Image.fromarray(pixels).save(buffer, "JPEG", quality=PUBLISHED["jpeg_compression"][severity - 1][0])
            expected.append(np.asarray(Image.open(buffer)))
        assert_close(corrupt(pictures(), "jpeg_compression", severity), expected)

    def test_displacement_is_scipys_for_a_given_field(self) -> None:
        images = pictures(1).float() / 255
        right, down = torch.rand(2, 1, 32, 32, generator=torch.Generator().manual_seed(5)).mul(8).sub(4).unbind(0)
        rows, columns = np.mgrid[:32, :32]
        places = [rows + down[0].numpy(), columns + right[0].numpy()]
        expected = [ndimage.map_coordinates(channel, places, order=1, mode="reflect") for channel in images[0].numpy()]
        np.testing.assert_allclose(digital.displace(images, right, down)[0].numpy(), expected, atol=1e-5)

    def test_affine_takes_the_moved_points_back(self) -> None:
        """Moved by (2, -1), all three: every pixel comes from 2 to the left and 1 below."""
        rows, columns = digital.affine_places(torch.zeros(1, 1, 32, 32), torch.tensor([[[2.0, -1.0]] * 3]))
        assert torch.allclose(rows[0], torch.arange(32.0)[:, None] + 1, atol=1e-4)
        assert torch.allclose(columns[0], torch.arange(32.0) - 2, atol=1e-4)
        # One point moved alone is seen at its new place, the other two where they were.
        rows, columns = digital.affine_places(torch.zeros(1, 1, 32, 32), torch.tensor([[[1.0, 2.0], [0, 0], [0, 0]]]))
        seen = {
            (int(x), int(y)): (float(columns[0, y, x]), float(rows[0, y, x])) for x, y in ((27, 28), (26, 6), (6, 6))
        }
        assert seen[27, 28] == pytest.approx((26, 26), abs=1e-4)
        assert seen[26, 6] == pytest.approx((26, 6), abs=1e-4)
        assert seen[6, 6] == pytest.approx((6, 6), abs=1e-4)

    @pytest.mark.parametrize("severity", SEVERITIES)
    def test_elastic_is_affine_then_displaced_by_the_smoothed_field(self, severity: int) -> None:
        strength, sigma, affine = PUBLISHED["elastic_transform"][severity - 1]
        images, draws = pictures(1), Draws(0, 0, torch.arange(1))
        stream = f"elastic_transform.{severity}"
        moved = symmetric_uniform(draws, f"{stream}.affine", 3, 2) * 32 * affine
        assert float(moved.abs().max()) <= 32 * affine
        rows, columns = (place[0].numpy() for place in digital.affine_places(images, moved))
        field = symmetric_uniform(draws, f"{stream}.field", 2, 32, 32)[0].numpy()
        right, down = (
            ndimage.gaussian_filter(part, 32 * sigma, mode="reflect", truncate=3) * 32 * strength for part in field
        )
        expected = []
        for channel in images[0].numpy() / 255:
            warped = ndimage.map_coordinates(channel, [rows, columns], order=1, mode="mirror")
            places = np.mgrid[:32, :32] + np.stack([down, right])
            expected.append(ndimage.map_coordinates(warped, places, order=1, mode="reflect") * 255 + 1e-3)
        assert_close(corrupt(images, "elastic_transform", severity), [np.uint8(np.stack(expected, axis=2))], 0.02)
