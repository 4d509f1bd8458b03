"""Patch whitening against NumPy, and what of the stem is trained when."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from thriftnet.config import ModelConfig
from thriftnet.models import stem as stems
from thriftnet.models.build import build_model, count_parameters
from thriftnet.models.stem import WHITENING_EPS, WhiteningConv, start_epoch, whiten, whitening_filters

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)


def correlated_images(count: int = 40, side: int = 12) -> Tensor:
    """uint8 [count, 3, side, side] whose neighbours and channels resemble each other, as in photographs."""
    generator = np.random.default_rng(0)
    coarse = generator.normal(size=(count, 1, side // 4, side // 4)).repeat(4, 2).repeat(4, 3)
    images = 128 + 30 * coarse + generator.normal(size=(count, 3, side, side)) * np.array([4, 9, 15])[:, None, None]
    return torch.from_numpy(images.clip(0, 255).astype(np.uint8))


def normalised(images: Tensor, mean: tuple[float, ...] = MEAN, std: tuple[float, ...] = STD) -> np.ndarray:
    levels = images.numpy() / 255.0
    return (levels - np.array(mean)[:, None, None]) / np.array(std)[:, None, None]


def patches_of(images: np.ndarray, kernel: int) -> np.ndarray:
    """[patches, C k^2]: every window, cut out one by one."""
    rows = [
        image[:, y : y + kernel, x : x + kernel].ravel()
        for image in images
        for y in range(image.shape[1] - kernel + 1)
        for x in range(image.shape[2] - kernel + 1)
    ]
    return np.array(rows)


def whitening_model(**values: Any) -> ModelConfig:
    stem = {"kind": "whitening", "kernel": 2} | values.pop("stem", {})
    return ModelConfig.model_validate({"family": "resnet9", "stem": stem, "widths": [8, 8, 8]} | values)


@pytest.mark.parametrize("kernel", [1, 2, 3])
def test_whitened_patches_are_uncorrelated_with_variance_one(kernel: int) -> None:
    images = correlated_images()
    network = build_model(whitening_model(stem={"kernel": kernel}))
    whiten(network, images, MEAN, STD)
    stem = network.features[0].conv
    assert isinstance(stem, WhiteningConv)
    inputs = normalised(images)
    patches = patches_of(inputs, kernel)
    values = 3 * kernel**2
    outputs = stem(torch.from_numpy(inputs).float()).detach()
    assert outputs.shape == (40, 2 * values, 13 - kernel, 13 - kernel)
    flat = outputs.transpose(0, 1).flatten(1).double().numpy()
    assert np.array_equal(flat[:values], -flat[values:])
    measured = np.cov(flat[:values], bias=True)
    eigenvalues = np.linalg.eigvalsh(np.cov(patches.T, bias=True))[::-1]
    # The identity, but for eps, which the smallest eigenvalue feels most.
    np.testing.assert_allclose(measured, np.diag(eigenvalues / (eigenvalues + WHITENING_EPS)), atol=2e-4)
    np.testing.assert_allclose(np.diag(measured), 1, atol=0.1)


def test_filters_are_scaled_eigenvectors_of_numpy() -> None:
    images = correlated_images()
    covariance = np.cov(patches_of(normalised(images), 2).T, bias=True)
    eigenvalues, eigenvectors = np.linalg.eigh(covariance)
    expected = (eigenvectors / np.sqrt(eigenvalues + WHITENING_EPS)).T[::-1]
    found = whitening_filters(images, MEAN, STD, 2).double().numpy()
    signs = np.sign((expected * found).sum(1, keepdims=True))
    np.testing.assert_allclose(found, signs * expected, rtol=1e-4, atol=1e-4)
    largest = np.abs(found).argmax(1)
    assert (found[np.arange(12), largest] > 0).all()


def test_the_order_of_chunks_changes_nothing_that_matters(monkeypatch: pytest.MonkeyPatch) -> None:
    images = correlated_images()
    whole = whitening_filters(images, MEAN, STD, 2)
    monkeypatch.setattr(stems, "PATCHES_AT_ONCE", 1)
    torch.testing.assert_close(whitening_filters(images, MEAN, STD, 2), whole)


def test_a_fixed_number_of_images_from_all_over_the_training_split(monkeypatch: pytest.MonkeyPatch) -> None:
    images = correlated_images(count=10)
    monkeypatch.setattr(stems, "WHITENING_IMAGES", 5)
    assert torch.equal(whitening_filters(images, MEAN, STD, 2), whitening_filters(images[::2], MEAN, STD, 2))
    monkeypatch.setattr(stems, "WHITENING_IMAGES", 100)
    assert not torch.equal(whitening_filters(images, MEAN, STD, 2), whitening_filters(images[::2], MEAN, STD, 2))


def test_grey_images_in_three_channels_have_finite_filters() -> None:
    grey = correlated_images()[:, :1].repeat(1, 3, 1, 1)
    filters = whitening_filters(grey, (0.5,) * 3, (0.25,) * 3, 2)
    assert filters.isfinite().all()
    assert filters.norm(dim=1).max().item() == pytest.approx(WHITENING_EPS**-0.5, rel=1e-3)  # of eigenvalues of zero


def test_before_whitening_each_filter_takes_one_value() -> None:
    stem = WhiteningConv(3, 2, None)
    x = torch.randn(1, 3, 2, 2)
    torch.testing.assert_close(stem(x).flatten(), torch.cat([x.flatten(), -x.flatten()]))


@pytest.mark.parametrize("init", ["torch", "kaiming_fan_out", "dirac"])
def test_initialisation_leaves_the_stem_alone(init: str) -> None:
    stem = build_model(whitening_model(init=init, stem={"kernel": 3})).features[0].conv
    eye = torch.eye(27)
    assert torch.equal(stem.weight.flatten(1), torch.cat([eye, -eye]))
    assert not stem.bias.any()


def test_the_stem_is_followed_by_the_activation_alone() -> None:
    images = torch.randn(2, 3, 16, 16)
    for values in (
        {"activation": "gelu"},
        {"activation": "gelu", "family": "resnet", "widths": [8], "blocks": [1], "strides": [1]},
    ):
        network = build_model(whitening_model(**values)).eval()
        seen: list[Tensor] = []
        first = network.stages[0][0].conv1 if "blocks" in values else network.features[1].conv
        first.register_forward_pre_hook(lambda module, inputs, seen=seen: seen.append(inputs[0]))
        network(images)
        stem = network.conv if "blocks" in values else network.features[0].conv
        torch.testing.assert_close(seen[0], torch.nn.functional.gelu(stem(images)))
        assert seen[0].shape == (2, 24, 15, 15)


def test_only_the_bias_counts_as_trainable() -> None:
    conv = count_parameters(whitening_model(stem={"kind": "conv", "width": 24, "kernel": 3}))
    # The frozen 24 filters of 12 values do not count; the bias does; the 3x3 convolution has 27 values and a norm.
    assert count_parameters(whitening_model()) == conv - (24 * 27 + 2 * 24) + 24
    network = build_model(whitening_model())
    assert sum(p.numel() for p in network.parameters() if not p.requires_grad) == 24 * 12


@pytest.mark.parametrize(("bias_epochs", "trained"), [(None, [True] * 4), (2, [True, True, False, False])])
def test_the_bias_is_trained_in_the_first_epochs(bias_epochs: int | None, trained: list[bool]) -> None:
    network = build_model(whitening_model(stem={"bias_epochs": bias_epochs}))
    bias = network.features[0].conv.bias
    for epoch, expected in enumerate(trained, start=1):
        start_epoch(network, epoch)
        assert bias.requires_grad is expected
        assert (bias.grad is None) is (not expected or epoch == 1)
        network(torch.randn(2, 3, 16, 16)).sum().backward()
        assert (bias.grad is not None) is expected
    start_epoch(network, 1)  # the epoch alone decides
    assert bias.requires_grad


def test_a_frozen_stem_has_no_backward_pass() -> None:
    network = build_model(whitening_model(stem={"bias_epochs": 1}))
    outputs: list[Tensor] = []
    network.features[0].register_forward_hook(lambda module, inputs, output: outputs.append(output))
    for epoch in (1, 2):
        start_epoch(network, epoch)
        network(torch.randn(2, 3, 16, 16))
    assert [output.requires_grad for output in outputs] == [True, False]


def test_networks_with_another_stem_are_left_alone() -> None:
    network = build_model(ModelConfig.model_validate({"family": "resnet9", "stem": {"width": 4}, "widths": [4, 4, 4]}))
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    whiten(network, correlated_images(), MEAN, STD)
    start_epoch(network, 5)
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert all(parameter.requires_grad for parameter in network.parameters())
