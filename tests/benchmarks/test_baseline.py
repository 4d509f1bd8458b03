"""The baseline does what the product does: the same pixels for the same parameters, the same draws, the same update."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from benchmarks.baseline import Baseline, build_loader, build_transforms, unsupported
from PIL import Image
from scipy import stats
from torch import Tensor

from benchmarks import baseline, common
from tests.training.conftest import tiny_recipe
from thriftnet import config
from thriftnet import recipe as recipes
from thriftnet import runtime as runtimes
from thriftnet.augment import colour, erasing, filters, geometry
from thriftnet.config import AugmentConfig, RecipeConfig, RuntimeConfig
from thriftnet.data.normalize import normalize
from thriftnet.models.build import build_model
from thriftnet.optim.build import build_optimizer
from thriftnet.training.step import Learner, train_step

LEVEL = 1 / 255
SMALLEST_P = 1e-3


@pytest.fixture(params=[1, 3], ids=["gray", "colour"])
def images(request: pytest.FixtureRequest) -> Tensor:
    """uint8 [3, C, 20, 20], smooth enough that interpolation means something."""
    generator = torch.Generator().manual_seed(3)
    coarse = torch.rand(3, request.param, 5, 5, generator=generator)
    fine = torch.nn.functional.interpolate(coarse, size=(20, 20), mode="bilinear")
    return (fine * 255).round().to(torch.uint8)


def picture(image: Tensor) -> Image.Image:
    return Image.fromarray(image.permute(1, 2, 0).squeeze(2).numpy())


def transformed(images: Tensor, op: dict[str, Any], drawn: Any) -> Tensor:
    """float32 [N, C, H, W] in [0, 1] of the baseline's transform with the same parameters for every image."""
    (transform,) = build_transforms(AugmentConfig.model_validate({"ops": (op,)}), (0.5,) * images.shape[1])
    return torch.stack([baseline.to_tensor(transform.apply(picture(image), drawn)) for image in images])


def test_to_tensor_is_the_products_conversion(images: Tensor):
    assert torch.equal(torch.stack([baseline.to_tensor(picture(image)) for image in images]), images / 255)


@pytest.mark.parametrize(("op", "axis"), [("horizontal_flip", 3), ("vertical_flip", 2)])
def test_flips_equal_the_products(images: Tensor, op: str, axis: int):
    assert torch.equal(transformed(images, {"op": op}, True), geometry.flip(images, torch.ones(3).bool(), axis) / 255)


@pytest.mark.parametrize("padding", ["constant", "reflect"])
def test_crops_equal_the_products(images: Tensor, padding: str):
    ours = transformed(images, {"op": "padded_crop", "padding": padding, "fill": 0.2 * (padding == "constant")}, (1, 6))
    dx, dy = torch.full((3,), 1 - 4), torch.full((3,), 6 - 4)
    assert torch.equal(ours, geometry.shift_crop(images, dx, dy, padding, 51) / 255)


def rotated(images: Tensor, interpolation: str, degrees: float, scale: float, dx: int, dy: int) -> Tensor:
    """The product's map, with fill 0.4."""
    values = [torch.full((3,), value, dtype=torch.float64) for value in (degrees, scale, dx, dy)]
    maps = geometry.rotation_maps(*values, 20, 20)
    if interpolation == "nearest":
        return geometry.resample(images, maps, interpolation, 102) / 255
    return geometry.resample(images / 255, maps, interpolation, 0.4)


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear"])
@pytest.mark.parametrize("degrees", [-9.5, 4.0, 30.0])
def test_rotations_equal_the_products(images: Tensor, interpolation: str, degrees: float):
    op = {"op": "rotation", "degrees": 30.0, "interpolation": interpolation, "fill": 0.4}
    expected = rotated(images, interpolation, degrees, 1.0, 0, 0)
    tolerance = 0 if interpolation == "nearest" else 1.01 * LEVEL
    torch.testing.assert_close(transformed(images, op, degrees), expected, atol=tolerance, rtol=0)


@pytest.mark.parametrize("drawn", [(0.0, 1.0, 2, -1), (12.0, 1.2, -3, 2)])
def test_affine_maps_equal_the_products(images: Tensor, drawn: tuple[float, float, int, int]):
    op = {"op": "affine", "degrees": 20.0, "translate": 0.2, "scale": (0.8, 1.3), "fill": 0.4}
    assert torch.equal(transformed(images, op, drawn), rotated(images, "nearest", *drawn))


def test_resized_crops_equal_the_products(images: Tensor):
    window = (3, 1, 11, 14)
    expected = geometry.resize_windows(images / 255, *(torch.full((3,), value) for value in window))
    ours = transformed(images, {"op": "random_resized_crop"}, window)
    torch.testing.assert_close(ours, expected, atol=1.01 * LEVEL, rtol=0)


@pytest.mark.parametrize(("name", "value"), [("brightness", 0.7), ("contrast", 1.3), ("saturation", 0.6)])
def test_colour_operations_equal_the_products(images: Tensor, name: str, value: float):
    expected = colour.jitter(images / 255, {name: torch.full((3,), value)}, torch.zeros(3, 1, dtype=torch.int64))
    ours = transformed(images, {"op": "color_jitter", name: 0.5}, [(name, value)])
    torch.testing.assert_close(ours, expected, atol=1.51 * LEVEL, rtol=0)  # Pillow rounds the mean and each result


def test_hue_equals_the_products_within_pillows_256_hues(images: Tensor):
    expected = colour.jitter(images / 255, {"hue": torch.full((3,), 0.1)}, torch.zeros(3, 1, dtype=torch.int64))
    ours = transformed(images, {"op": "color_jitter", "hue": 0.1}, [("hue", 0.1)])
    if images.shape[1] == 1:
        assert torch.equal(ours, images / 255)
    assert (ours - expected).abs().mean() < 3 * LEVEL
    assert (ours - expected).abs().max() < 12 * LEVEL


def test_jitter_follows_its_order(images: Tensor):
    drawn = [("contrast", 1.4), ("brightness", 0.6)]
    factors = {"brightness": torch.full((3,), 0.6), "contrast": torch.full((3,), 1.4)}
    expected = colour.jitter(images / 255, factors, torch.tensor([[1, 0]] * 3))
    ours = transformed(images, {"op": "color_jitter", "brightness": 0.5, "contrast": 0.5}, drawn)
    torch.testing.assert_close(ours, expected, atol=3 * LEVEL, rtol=0)


@pytest.mark.parametrize("kernel_px", [3, 5])
def test_blur_equals_the_products(images: Tensor, kernel_px: int):
    expected = filters.gaussian_blur(images / 255, torch.full((3,), 0.8), kernel_px)
    ours = transformed(images, {"op": "gaussian_blur", "kernel_px": kernel_px}, 0.8)
    torch.testing.assert_close(ours, expected, atol=0.51 * LEVEL, rtol=0)


def test_cutout_equals_the_products(images: Tensor):
    fill = (0.1, 0.4, 0.9)[: images.shape[1]]
    settings = config.Cutout(op="cutout", side_px=6, holes=2)
    transform = baseline.Cutout(settings, fill)
    ours = torch.stack([transform.apply(image / 255, [(1, 18), (9, 9)]) for image in images])
    rows, columns = torch.tensor([[1, 9]] * 3), torch.tensor([[18, 9]] * 3)
    expected = erasing.erase_squares(images / 255, rows, columns, 6, torch.ones(3).bool(), torch.tensor(fill))
    assert torch.equal(ours, expected)


def draws(op: dict[str, Any], count: int = 2_000) -> list[Any]:
    torch.manual_seed(0)
    (transform,) = build_transforms(AugmentConfig.model_validate({"ops": (op,)}), (0.5,) * 3)
    return [transform.draw(32, 32) for _ in range(count)]


def test_draws_are_distributed_as_the_recipe_says():
    flips = sum(drawn is not None for drawn in draws({"op": "horizontal_flip", "probability": 0.3}))
    assert stats.binomtest(flips, 2_000, 0.3).pvalue > SMALLEST_P
    places = np.bincount([left * 9 + top for left, top in draws({"op": "padded_crop"})], minlength=81)
    assert stats.chisquare(places).pvalue > SMALLEST_P
    angles = draws({"op": "rotation", "degrees": 10.0})
    assert stats.kstest(angles, stats.uniform(-10, 20).cdf).pvalue > SMALLEST_P
    jitters = draws({"op": "color_jitter", "brightness": 0.2, "saturation": 0.4, "hue": 0.1})
    for name, low, width in (("brightness", 0.8, 0.4), ("saturation", 0.6, 0.8), ("hue", -0.1, 0.2)):
        values = [dict(drawn)[name] for drawn in jitters]
        assert stats.kstest(values, stats.uniform(low, width).cdf).pvalue > SMALLEST_P
    first = np.unique([drawn[0][0] for drawn in jitters], return_counts=True)[1]
    assert stats.chisquare(first).pvalue > SMALLEST_P


def test_windows_fit_the_image_and_have_the_area_and_ratio_asked_for():
    for left, top, wide, tall in draws({"op": "random_resized_crop", "scale": (0.5, 1.0)}):
        assert 0 <= left <= 32 - wide
        assert 0 <= top <= 32 - tall
        assert 0.45 < wide * tall / 1024 <= 1
        assert 0.7 < wide / tall < 1.42


@pytest.mark.parametrize("name", common.paper_recipes())
def test_every_recipe_of_a_paper_has_a_baseline_with_its_list(name: str):
    recipe = recipes.load(name)
    assert unsupported(recipe) is None
    data = common.RandomImages(8).train()
    loader = build_loader(
        recipe.augment, common.rows_first(data.images), data.labels.tolist(), (0.5,) * 3, (0.25,) * 3, 4, workers=0
    )
    assert len(build_transforms(recipe.augment, (0.5,) * 3)) == len(recipe.augment.ops)
    shown = [len(labels) for _, labels in loader]
    assert sum(shown) == (16 if recipe.augment.concatenate_originals else 8)
    batch, labels = next(iter(loader))
    assert batch.shape == (4, 3, 32, 32)
    assert batch.dtype == torch.float32
    assert labels.dtype == torch.int64


def test_an_image_without_operations_is_only_normalised():
    data = common.RandomImages(3).train()
    mean, std = (0.4, 0.5, 0.6), (0.2, 0.3, 0.25)
    items = baseline.Images(common.rows_first(data.images), data.labels.tolist(), [], mean, std)
    ours = torch.stack([items[place][0] for place in range(3)])
    torch.testing.assert_close(ours, normalize(data.images / 255, mean, std))


@pytest.mark.parametrize(
    ("sections", "reason"),
    [
        ({"training": {"ema_decay": 0.99}}, "training.ema_decay"),
        ({"optimizer": {"decay_biases_and_norms": False, "weight_decay": 0.1}}, "optimizer.decay_biases_and_norms"),
        ({"augment": {"ops": [{"op": "cutout"}, {"op": "horizontal_flip"}]}}, "horizontal_flip follows cutout"),
    ],
)
def test_a_recipe_that_asks_for_more_has_no_baseline(sections: dict[str, Any], reason: str):
    found = unsupported(tiny_recipe(**sections))
    assert found is not None
    assert reason in found


@pytest.mark.parametrize(
    "sections",
    [
        {"optimizer": {"name": "sgd", "lr": 0.05, "nesterov": True, "weight_decay": 0.01, "clip_value": 0.01}},
        {"optimizer": {"name": "adam", "lr": 0.01, "clip_norm": 0.1}},
        {"optimizer": {"name": "adamw", "lr": 0.01, "weight_decay": 0.1}, "training": {"label_smoothing": 0.1}},
        {"optimizer": {"name": "sgd", "lr": 0.05}, "perturbation": {"name": "amp", "epsilon": 0.05}},
    ],
    ids=["sgd", "adam", "adamw", "amp"],
)
def test_an_update_is_the_products_update(sections: dict[str, Any]):
    recipe = plain(tiny_recipe(**({"model": {"dropout": 0.0}} | sections)))
    data = common.RandomImages(12, side=16).train()
    theirs = Baseline(recipe, common.rows_first(data.images), data.labels.tolist(), 0, torch.device("cpu"))
    images, labels = normalize(data.images / 255, (0.5,) * 3, (0.25,) * 3), data.labels
    theirs.batches = iter([(images, labels)] * 2)
    runtime = runtimes.resolve(RuntimeConfig(device="cpu", precision="fp32", channels_last="no", threads=1))
    torch.manual_seed(0)
    network = build_model(recipe.model).train()
    learner = Learner(
        network=network,
        optimizer=build_optimizer(network, recipe.optimizer, runtime.device),
        optimizer_config=recipe.optimizer,
        perturbation=recipe.perturbation,
        label_smoothing=recipe.training.label_smoothing,
        average=None,
        scaler=torch.amp.GradScaler("cpu", enabled=False),
        runtime=runtime,
    )
    for _ in range(2):
        theirs.step()
        train_step(learner, images, labels)
    for (name, ours), other in zip(network.named_parameters(), theirs.network.parameters(), strict=True):
        torch.testing.assert_close(other, ours, atol=2e-5, rtol=2e-4, msg=name)
    assert theirs.total == 24
    assert theirs.running_loss > 0


def plain(recipe: RecipeConfig) -> RecipeConfig:
    return recipes.with_changes(recipe, {"augment": {"ops": ()}})


def test_a_round_counts_its_own_steps_only():
    data = common.RandomImages(40, side=16).train()
    recipe = tiny_recipe(training={"batch_size": 8})
    theirs = Baseline(recipe, common.rows_first(data.images), data.labels.tolist(), 0, torch.device("cpu"))
    measured = theirs.round(2)
    assert measured["steps"] == 2
    assert measured["seconds"] > 0
    assert theirs.total == 3 * 8  # one step before the clock starts
