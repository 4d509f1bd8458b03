"""BatchNorm adapted to images: torch's own batch statistics, the blend by hand, nothing else changed."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from thriftnet.evaluation.batchnorm_adaptation import adapt_batchnorm
from thriftnet.evaluation.predict import predict_logits

PLACE: dict[str, Any] = {"device": torch.device("cpu"), "channels_last": False}
MEAN, STD = (0.4,), (0.2,)


def network() -> nn.Module:
    torch.manual_seed(0)
    made = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 3),
    )  # fmt: skip
    with torch.no_grad():
        for layer in (made[1], made[4]):
            layer.running_mean.normal_()
            layer.running_var.uniform_(0.5, 2)
    return made.eval()


def images(count: int = 12, added: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return (torch.randint(0, 120, (count, 1, 9, 9), generator=generator) + added).to(torch.uint8)


def predicted(model: nn.Module, pixels: Tensor) -> Tensor:
    return predict_logits(model, pixels, MEAN, STD, dtype=None, batch_size=100, **PLACE)


def test_without_a_prior_one_batch_is_what_torch_does_in_training_mode() -> None:
    adapted = adapt_batchnorm(network(), images(), MEAN, STD, batch_size=12, prior_images=0, **PLACE)
    training = network().train()
    with torch.no_grad():
        expected = training((images() / 255 - MEAN[0]) / STD[0])
    torch.testing.assert_close(predicted(adapted, images()), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("batch_size", [5, 12])
def test_the_first_layer_has_the_blend_of_all_images_in_any_batches(batch_size: int) -> None:
    before, prior = network(), 4
    adapted: Any = adapt_batchnorm(before, images(), MEAN, STD, batch_size=batch_size, prior_images=prior, **PLACE)
    with torch.no_grad():
        seen = before[0]((images() / 255 - MEAN[0]) / STD[0])  # type: ignore[index]
    share = prior / (prior + 12)
    mean = share * before[1].running_mean + (1 - share) * seen.mean((0, 2, 3))  # type: ignore[index]
    var = share * before[1].running_var + (1 - share) * seen.var((0, 2, 3), correction=0)  # type: ignore[index]
    torch.testing.assert_close(adapted[1].running_mean, mean)
    torch.testing.assert_close(adapted[1].running_var, var)


def test_the_network_itself_keeps_its_statistics_and_no_hook_is_left() -> None:
    before = network()
    stored = copy.deepcopy(before.state_dict())
    adapted = adapt_batchnorm(before, images(), MEAN, STD, batch_size=5, **PLACE)
    assert all(torch.equal(stored[name], value) for name, value in before.state_dict().items())
    assert not any(module._forward_pre_hooks for model in (before, adapted) for module in model.modules())
    assert not adapted.training
    learned = dict(before.named_parameters())
    assert all(torch.equal(value, learned[name]) for name, value in adapted.named_parameters())


def test_the_order_of_the_input_hardly_matters_even_when_sorted() -> None:
    """Dark images first, then bright ones: batches of one kind alone would adapt to neither."""
    both = torch.cat([images(30), images(30, added=130)])
    mixed = both[torch.randperm(60, generator=torch.Generator().manual_seed(3))]
    first, second = (
        predicted(adapt_batchnorm(network(), pixels, MEAN, STD, batch_size=20, **PLACE), both)
        for pixels in (both, mixed)
    )
    assert float((first - second).abs().max()) < 0.1 * float(first.std())


def test_a_shift_of_brightness_is_undone() -> None:
    before = network()
    adapted = adapt_batchnorm(before, images(), MEAN, STD, batch_size=12, prior_images=0, **PLACE)
    brighter = adapt_batchnorm(before, images(added=80), MEAN, STD, batch_size=12, prior_images=0, **PLACE)
    clean, shifted = predicted(adapted, images()), predicted(brighter, images(added=80))
    torch.testing.assert_close(clean, shifted, rtol=1e-3, atol=1e-3)
    assert float((predicted(before, images()) - predicted(before, images(added=80))).abs().max()) > 0.01


def test_no_image_leaves_the_trained_statistics() -> None:
    before = network()
    adapted = adapt_batchnorm(before, images(0), MEAN, STD, batch_size=12, **PLACE)
    assert all(torch.equal(a, b) for a, b in zip(before.buffers(), adapted.buffers(), strict=True))
