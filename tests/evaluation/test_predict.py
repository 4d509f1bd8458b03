from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from thriftnet.evaluation.predict import predict_logits

CPU = torch.device("cpu")
MEAN, STD = (0.5, 0.25, 0.125), (0.25, 0.5, 0.75)


def predict(model: nn.Module, images: Tensor, **options: object) -> Tensor:
    defaults = {"device": CPU, "dtype": None, "channels_last": False, "batch_size": 4}
    return predict_logits(model, images, MEAN, STD, **(defaults | options))  # type: ignore[arg-type]


def images(count: int) -> Tensor:
    return torch.randint(0, 256, (count, 3, 6, 6), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.9), nn.Flatten(), nn.Linear(64, 5))


class Mean(nn.Module):
    """The mean of each channel of the left half: logits that can be worked out by hand."""

    def forward(self, x_NCHW: Tensor) -> Tensor:
        return x_NCHW[..., : x_NCHW.shape[-1] // 2].mean((2, 3))


def test_pixels_are_scaled_and_normalised() -> None:
    white = torch.full((1, 3, 2, 2), 255, dtype=torch.uint8)
    assert predict(Mean(), white).tolist() == [[2.0, 1.5, pytest.approx(0.875 / 0.75)]]


@pytest.mark.parametrize("channels_last", [False, True])
def test_equals_the_plain_forward_whatever_the_batch_size(channels_last: bool) -> None:
    model, x = network(), images(9)
    with torch.no_grad():
        mean, std = torch.tensor(MEAN).view(3, 1, 1), torch.tensor(STD).view(3, 1, 1)
        expected = model.eval()((x / 255 - mean) / std)
    for batch_size in (1, 4, 9, 100):
        torch.testing.assert_close(predict(model, x, batch_size=batch_size, channels_last=channels_last), expected)


def test_result_is_float32_on_the_cpu_also_under_autocast_and_for_no_images() -> None:
    model = network()
    for dtype in (None, torch.bfloat16):
        logits = predict(model, images(3), dtype=dtype)
        assert logits.dtype == torch.float32
        assert logits.device == CPU
        assert logits.shape == (3, 5)
    assert predict(model, images(0)).shape == (0, 5)
    assert not torch.equal(predict(model, images(3)), predict(model, images(3), dtype=torch.bfloat16))


def test_modes_and_running_statistics_are_left_as_they_were() -> None:
    model = network().train()
    model[1].eval()  # frozen on purpose
    before = {name: value.clone() for name, value in model.state_dict().items()}
    predict(model, images(5))
    assert [module.training for module in model] == [True, False, True, True, True]
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_modes_come_back_after_a_failure() -> None:
    model = network().train()
    with pytest.raises(RuntimeError):
        predict(model, torch.zeros(1, 3, 7, 7, dtype=torch.uint8))
    assert model.training
    assert model[2].training


def test_flip_shift_averages_six_views_with_their_weights() -> None:
    x = images(7)
    padded = torch.nn.functional.pad(x.float(), (1, 1, 1, 1), mode="reflect").to(torch.uint8)
    views = [(x, 0.25), (padded[..., :-2, :-2], 0.125), (padded[..., 2:, 2:], 0.125)]
    expected = sum(
        weight * (predict(Mean(), view).softmax(1) + predict(Mean(), view.flip(-1)).softmax(1))
        for view, weight in views
    )
    averaged = predict(Mean(), x, tta="flip_shift")
    torch.testing.assert_close(averaged.exp(), expected)
    torch.testing.assert_close(averaged.exp().sum(1), torch.ones(7))
    assert not torch.allclose(averaged, predict(Mean(), x, tta="flip"))


def test_flip_averages_the_probabilities_of_image_and_mirror_image() -> None:
    x = images(7)
    plain, mirrored = predict(Mean(), x), predict(Mean(), x.flip(-1))
    averaged = predict(Mean(), x, tta="flip")
    torch.testing.assert_close(averaged.exp(), (plain.softmax(1) + mirrored.softmax(1)) / 2)
    torch.testing.assert_close(averaged.softmax(1), averaged.exp())
    torch.testing.assert_close(averaged, predict(Mean(), x.flip(-1), tta="flip"))
