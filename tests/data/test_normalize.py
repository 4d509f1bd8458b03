from __future__ import annotations

import pytest
import torch

from thriftnet.data.normalize import normalize


def test_exact_values_by_channel() -> None:
    images = torch.tensor([[[[0.0, 1.0]], [[0.5, 0.25]]]])
    normalized = normalize(images, (0.5, 0.25), (0.5, 0.25))
    assert normalized.tolist() == [[[[-1.0, 1.0]], [[1.0, 0.0]]]]
    assert images.tolist() == [[[[0.0, 1.0]], [[0.5, 0.25]]]]


def test_gives_zero_mean_and_unit_std_by_the_images_own_statistics() -> None:
    images = torch.rand(20, 3, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    mean, std = images.mean((0, 2, 3)), images.std((0, 2, 3), correction=0)
    normalized = normalize(images, mean.tolist(), std.tolist())
    torch.testing.assert_close(normalized.mean((0, 2, 3)), torch.zeros(3, dtype=torch.float64))
    torch.testing.assert_close(normalized.std((0, 2, 3), correction=0), torch.ones(3, dtype=torch.float64))


def test_keeps_dtype_and_memory_layout() -> None:
    images = torch.rand(2, 3, 4, 4).to(torch.bfloat16).contiguous(memory_format=torch.channels_last)
    normalized = normalize(images, (0.5,) * 3, (0.5,) * 3)
    assert normalized.dtype == torch.bfloat16
    assert normalized.is_contiguous(memory_format=torch.channels_last)


def test_gradients_flow_even_when_the_constants_were_first_used_while_predicting() -> None:
    with torch.inference_mode():
        normalize(torch.rand(1, 1, 2, 2), (0.123,), (0.25,))
    images = torch.rand(1, 1, 2, 2, requires_grad=True)
    normalize(images, (0.123,), (0.25,)).sum().backward()
    assert images.grad is not None
    assert images.grad.eq(4).all()


@pytest.mark.parametrize(("mean", "std"), [((0.5,), (0.5,) * 3), ((0.5,) * 3, (0.5,)), ((0.5,) * 3, (0.5, 0.0, 0.5))])
def test_wrong_statistics_are_refused(mean: tuple[float, ...], std: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="3 channels need"):
        normalize(torch.rand(1, 3, 2, 2), mean, std)
