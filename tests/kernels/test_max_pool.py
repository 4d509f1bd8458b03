"""The kernel against torch's own layer: the same bits, whichever of equal values the maximum is."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from thriftnet.config import ModelConfig, RuntimeConfig
from thriftnet.kernels import max_pool as module
from thriftnet.kernels.max_pool import MaxPool2d, use_kernels
from thriftnet.models.build import build_model
from thriftnet.runtime import resolve

pytestmark = pytest.mark.usefixtures("kernels")

DTYPES = [torch.float32, torch.bfloat16]
# One window; odd sides; one channel; more than a vector of channels, and not a whole number of them; sides that differ.
SHAPES = [(1, 1, 2, 2), (3, 5, 3, 2), (2, 1, 7, 9), (4, 67, 5, 8), (5, 64, 31, 31), (2, 428, 2, 3), (40, 3, 6, 16)]


@pytest.fixture(autouse=True)
def _threads_as_before() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture
def kernel_only(monkeypatch: pytest.MonkeyPatch) -> None:
    def not_called(*_: Any) -> None:
        raise AssertionError("torch's layer ran")

    monkeypatch.setattr(nn.MaxPool2d, "forward", not_called)


@pytest.fixture
def plain_only(monkeypatch: pytest.MonkeyPatch) -> None:
    def not_called(*_: Any) -> None:
        raise AssertionError("the kernel ran")

    monkeypatch.setattr(module, "_call", not_called)


def layer(*arguments: Any, **settings: Any) -> MaxPool2d:
    made = MaxPool2d(*arguments, **settings)
    use_kernels(made)
    return made


def random(shape: tuple[int, ...], dtype: torch.dtype, seed: int) -> Tensor:
    drawn = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    return drawn.to(dtype).contiguous(memory_format=torch.channels_last)


def tied(shape: tuple[int, ...], dtype: torch.dtype, seed: int) -> Tensor:
    """Few values, so that most windows hold their maximum several times; of both zeros too."""
    return (random(shape, dtype, seed).round().clamp(-1, 1) * 0.5).contiguous(memory_format=torch.channels_last)


def extreme(shape: tuple[int, ...], dtype: torch.dtype, seed: int) -> Tensor:
    """NaN, both infinities and both zeros, each as often."""
    found = torch.tensor([math.nan, math.inf, -math.inf, 0.0, -0.0], dtype=dtype)
    drawn = torch.randint(5, shape, generator=torch.Generator().manual_seed(seed))
    return found[drawn].contiguous(memory_format=torch.channels_last)


def output_and_gradient(pool: nn.Module, x: Tensor, dy: Tensor) -> tuple[Tensor, Tensor]:
    x = x.detach().requires_grad_()
    y = pool(x)
    (dx,) = torch.autograd.grad(y, x, dy)
    return y.detach(), dx


def bits(x: Tensor) -> Tensor:
    """The values as integers, so that 0 is not -0 and NaN is NaN; torch writes NaN with other bits than it read."""
    return x.where(~x.isnan(), math.nan).view(torch.int32 if x.dtype == torch.float32 else torch.int16)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("values", [random, tied, extreme])
def test_output_and_gradient_are_torchs_bit_for_bit(
    kernel_only: None, values: Callable[..., Tensor], shape: tuple[int, int, int, int], dtype: torch.dtype
) -> None:
    for seed in range(20):
        x = values(shape, dtype, seed)
        y, places = nn.functional.max_pool2d(x, 2, return_indices=True)
        dy = random(tuple(y.shape), dtype, seed + 100)
        expected = torch.ops.aten.max_pool2d_with_indices_backward(  # type: ignore[attr-defined]
            dy, x, [2, 2], [2, 2], [0, 0], [1, 1], False, places
        )
        found = output_and_gradient(layer(2), x, dy)
        for mine, theirs in zip(found, (y, expected), strict=True):
            assert mine.is_contiguous(memory_format=torch.channels_last)
            assert torch.equal(bits(mine), bits(theirs))


def test_the_gradient_is_written_everywhere(kernel_only: None) -> None:
    """Also beyond the last window: the memory that it gets held NaN before."""
    x = random((3, 40, 7, 5), torch.float32, 0)
    for _ in range(5):
        torch.full(x.shape, math.nan)  # freed at once, so the next tensor of this size may lie there
        _, dx = output_and_gradient(layer(2), x, torch.ones(3, 40, 3, 2))
        assert int(dx.count_nonzero()) == int(dx.sum()) == 3 * 40 * 3 * 2


@pytest.mark.parametrize("dtype", DTYPES)
def test_any_number_of_threads_gives_the_same_bits(dtype: torch.dtype) -> None:
    x, dy = tied((5, 42, 15, 16), dtype, 0), random((5, 42, 7, 8), dtype, 1)
    results = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        results.append(output_and_gradient(layer(2), x, dy))
    for y, dx in results[1:]:
        assert torch.equal(y, results[0][0])
        assert torch.equal(dx, results[0][1])


def test_a_gradient_in_another_layout(kernel_only: None) -> None:
    x, dy = random((3, 5, 6, 8), torch.float32, 0), random((3, 5, 3, 4), torch.float32, 1)
    expected = output_and_gradient(layer(2), x, dy)
    for other in (dy.contiguous(), dy.repeat(1, 1, 1, 2)[..., :4]):
        for mine, theirs in zip(output_and_gradient(layer(2), x, other), expected, strict=True):
            assert torch.equal(mine, theirs)


def test_without_a_gradient_and_in_evaluation(kernel_only: None) -> None:
    x = random((3, 5, 6, 8), torch.float32, 0)
    expected = nn.functional.max_pool2d(x, 2)
    assert torch.equal(layer(2).eval()(x), expected)
    with torch.no_grad():
        assert torch.equal(layer((2, 2), stride=(2, 2))(x), expected)


X = random((3, 5, 8, 8), torch.float32, 0)


@pytest.mark.parametrize(
    ("x", "pool", "settings"),
    [
        (X.contiguous(), 2, {}),
        (X.double(), 2, {}),
        (X[:, :, 1:], 2, {}),
        (X[0], 2, {}),
        (X, 3, {}),
        (X, (2, 1), {}),
        (X, 2, {"stride": 1}),
        (X, 2, {"padding": 1}),
        (X, 2, {"dilation": 2}),
        (X[..., :7].contiguous(memory_format=torch.channels_last), 2, {"ceil_mode": True}),
        (X[:0], 2, {}),
    ],
)  # fmt: skip
def test_torchs_layer_where_the_kernel_does_not_suit(
    plain_only: None, x: Tensor, pool: int | tuple[int, int], settings: dict[str, Any]
) -> None:
    assert torch.equal(layer(pool, **settings)(x), nn.MaxPool2d(pool, **settings)(x))


def test_indices_are_torchs(plain_only: None) -> None:
    for mine, theirs in zip(layer(2, return_indices=True)(X), nn.MaxPool2d(2, return_indices=True)(X), strict=True):
        assert torch.equal(mine, theirs)


def test_a_side_without_a_window_is_refused_as_by_torch() -> None:
    with pytest.raises(RuntimeError, match="Output size is too small"):
        layer(2)(torch.ones(2, 3, 1, 4).contiguous(memory_format=torch.channels_last))


@pytest.mark.parametrize("wanted", ["yes", "no"])
def test_a_network_s_pooling_uses_the_kernel_where_training_does(wanted: str) -> None:
    runtime = resolve(RuntimeConfig.model_validate({"device": "cpu", "kernels": wanted, "threads": 1}))
    model = ModelConfig.model_validate({"family": "resnet9", "stem": {"width": 8}, "widths": [8, 16, 24]})
    layers = [layer for layer in runtime.place(build_model(model)).modules() if isinstance(layer, nn.MaxPool2d)]
    assert layers
    assert all(isinstance(layer, MaxPool2d) and layer.uses_kernels == (wanted == "yes") for layer in layers)


def test_its_name_is_torchs() -> None:
    assert repr(layer(2)) == repr(nn.MaxPool2d(2))
