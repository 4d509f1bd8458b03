"""The kernel against torch's convolution in float64, and the rule that says where it is used."""

from __future__ import annotations

import copy
import ctypes
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.training.conftest import TinySource
from thriftnet.config import ModelConfig, OptimizerConfig, RuntimeConfig
from thriftnet.data.normalize import as_float
from thriftnet.kernels import build
from thriftnet.kernels import winograd as module
from thriftnet.kernels.build import KernelsUnavailable
from thriftnet.kernels.convolution import Conv2d, use_kernels
from thriftnet.kernels.winograd import prepare, suits
from thriftnet.models.build import build_model
from thriftnet.optim.build import build_optimizer
from thriftnet.runtime import resolve
from thriftnet.training.step import Learner, train_step

CHANNELS_LAST = torch.channels_last

# (images, in, out, height, width): one whole tile; one pixel; a batch of one; tiles in part on both sides; not square;
# channels below one vector, between vectors, and 1 to 7 vectors, so that panels of 1, 2, 3 and 2 + 2 occur; several
# blocks; sums in parts and, with many channels, by all threads together.
SHAPES = [
    (1, 16, 16, 4, 4),
    (2, 3, 5, 1, 1),
    (1, 17, 40, 31, 31),
    (3, 40, 17, 10, 7),
    (2, 64, 32, 5, 12),
    (5, 33, 64, 9, 8),
    (3, 100, 112, 8, 6),
    (9, 48, 16, 32, 32),
    (40, 128, 144, 8, 8),
]


@pytest.fixture(autouse=True)
def _threads_as_before() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module", autouse=True)
def _kernel() -> None:
    """Skips where the kernel cannot be compiled."""
    try:
        prepare()
    except KernelsUnavailable as problem:
        pytest.skip(str(problem))


def values(*shape: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator).contiguous(memory_format=CHANNELS_LAST)


def problem(shape: tuple[int, ...]) -> dict[str, Tensor]:
    images, in_channels, out_channels, height, width = shape
    return {
        "x": values(images, in_channels, height, width, seed=1),
        "weight": values(out_channels, in_channels, 3, 3, seed=2),
        "bias": torch.randn(out_channels, generator=torch.Generator().manual_seed(3)),
        "dy": values(images, out_channels, height, width, seed=4),
    }


def by_kernel(x: Tensor, weight: Tensor, bias: Tensor, dy: Tensor) -> dict[str, Tensor]:
    leaves = [value.detach().clone().requires_grad_() for value in (x, weight, bias)]
    y = module._Winograd.apply(*leaves)
    y.backward(dy)
    return {"y": y.detach(), "dx": leaves[0].grad, "dweight": leaves[1].grad, "dbias": leaves[2].grad}


def by_torch(x: Tensor, weight: Tensor, bias: Tensor, dy: Tensor) -> dict[str, Tensor]:
    """In float64."""
    leaves = [value.detach().double().requires_grad_() for value in (x, weight, bias)]
    y = F.conv2d(*leaves, padding=1)
    y.backward(dy.double())
    return {"y": y.detach(), "dx": leaves[0].grad, "dweight": leaves[1].grad, "dbias": leaves[2].grad}


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("threads", [1, 3])
def test_equals_torch_in_float64(shape: tuple[int, ...], threads: int) -> None:
    torch.set_num_threads(threads)
    found, exact = by_kernel(**problem(shape)), by_torch(**problem(shape))
    for name, value in exact.items():
        assert name == "dbias" or found[name].is_contiguous(memory_format=CHANNELS_LAST)
        error = (found[name] - value).abs().max() / value.abs().max()
        assert error < 3e-5, name


@pytest.mark.parametrize("channels", [32, 256])
def test_root_mean_square_error(channels: int) -> None:
    inputs = problem((64, channels, channels, 8, 8))
    found, exact = by_kernel(**inputs), by_torch(**inputs)
    for name in ("y", "dx", "dweight"):
        assert (found[name] - exact[name]).norm() / exact[name].norm() < 6e-6, name


def test_whole_numbers_through_an_identity() -> None:
    """Filters that copy a channel, and one that moves it by a pixel: what is where is exact."""
    x = torch.randint(-9, 9, (2, 16, 6, 7), generator=torch.Generator().manual_seed(0)).float()
    x = x.contiguous(memory_format=CHANNELS_LAST)
    weight = torch.zeros(16, 16, 3, 3)
    nn.init.dirac_(weight)
    weight[0] = 0
    weight[0, 5, 0, 2] = 1  # the pixel above and to the right, of channel 5
    y = module._Winograd.apply(x, weight.contiguous(memory_format=CHANNELS_LAST), None)
    torch.testing.assert_close(y[:, 1:], x[:, 1:], rtol=0, atol=1e-5)
    torch.testing.assert_close(y[:, 0, 1:, :-1], x[:, 5, :-1, 1:], rtol=0, atol=1e-5)
    torch.testing.assert_close(y[:, 0, 0], torch.zeros(2, 7), rtol=0, atol=1e-5)
    torch.testing.assert_close(y[:, 0, :, -1], torch.zeros(2, 6), rtol=0, atol=1e-5)


@pytest.mark.parametrize("shape", [(16, 32, 48, 12, 12), (40, 128, 144, 8, 8), (70, 160, 168, 4, 4)], ids=str)
def test_the_number_of_threads_changes_no_bit(shape: tuple[int, ...]) -> None:
    results = []
    for threads in (1, 2, 3, 5, 3):
        torch.set_num_threads(threads)
        results.append(by_kernel(**problem(shape)))
    for other in results[1:]:
        assert all(torch.equal(other[name], results[0][name]) for name in ("y", "dx", "dweight"))


def test_nothing_is_left_of_the_call_before() -> None:
    """Threads keep their memory; a large shape of NaN must leave no trace in a small one."""
    small = problem((1, 17, 18, 5, 6))
    before = by_kernel(**small)
    large = problem((4, 64, 64, 16, 16))
    by_kernel(**(large | {"x": large["x"] * float("nan"), "dy": large["dy"] * float("nan")}))
    after = by_kernel(**small)
    assert all(torch.equal(after[name], before[name]) for name in before)


@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
def test_what_is_not_finite_reaches_the_loss(poison: float) -> None:
    x = values(2, 16, 8, 8, seed=0)
    x[1, 3, 2, 5] = poison
    y = module._Winograd.apply(x, values(16, 16, 3, 3, seed=1), None)
    assert not y[1, :, 1:4, 4:7].isfinite().any()
    assert y[0].isfinite().all()


def test_for_processors_without_avx_512(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other half of the source, compiled for AVX2, which every processor here can run too."""
    monkeypatch.setenv("THRIFTNET_CACHE", str(tmp_path))
    monkeypatch.setattr(build, "FLAGS", (*build.FLAGS, "-mno-avx512f"))
    library: ctypes.CDLL = build.load_kernels.__wrapped__("winograd")
    monkeypatch.setattr(module, "load_kernels", lambda _: library)
    prepare()
    for shape in SHAPES:
        found, exact = by_kernel(**problem(shape)), by_torch(**problem(shape))
        for name, value in exact.items():
            assert (found[name] - value).abs().max() / value.abs().max() < 3e-5, (shape, name)


def test_refused_without_avx2(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THRIFTNET_CACHE", str(tmp_path))
    monkeypatch.setattr(build, "FLAGS", (*build.FLAGS, "-mno-avx512f", "-mno-avx2"))
    with pytest.raises(KernelsUnavailable, match="needs a processor with AVX2 and FMA"):
        build.load_kernels.__wrapped__("winograd")


@pytest.mark.parametrize(
    ("x", "out_channels", "expected"),
    [
        ((2, 16, 16, 16), 16, True),
        ((2, 15, 16, 16), 16, False),
        ((2, 16, 16, 16), 15, False),
        ((1, 16, 16, 16), 16, False),  # 16 tiles
        ((32, 16, 4, 4), 16, True),
        ((31, 16, 4, 4), 16, False),
        ((9, 16, 10, 10), 16, True),
        ((9, 16, 9, 9), 16, False),  # fills 81 of 144
        ((9, 16, 31, 33), 16, True),
    ],
)
def test_the_rule_on_shapes(x: tuple[int, ...], out_channels: int, expected: bool) -> None:
    assert suits(values(*x, seed=0), values(out_channels, x[1], 3, 3, seed=0)) is expected


def test_the_rule_on_layout_and_precision() -> None:
    x, weight = values(2, 16, 16, 16, seed=0), values(16, 16, 3, 3, seed=0)
    assert suits(x, weight)
    assert not suits(x.contiguous(), weight)
    assert not suits(x.bfloat16(), weight)
    assert not suits(x.double(), weight.double())
    assert not suits(x, weight.bfloat16())
    assert not suits(x.to("meta"), weight.to("meta"))
    assert not suits(x[0], weight)
    with torch.autocast("cpu", torch.bfloat16):
        assert not suits(x, weight)


def layer(**settings: Any) -> Conv2d:
    torch.manual_seed(0)
    convolution = Conv2d(**({"in_channels": 16, "out_channels": 16, "kernel_size": 3, "padding": 1} | settings))
    use_kernels(convolution, "winograd")
    return convolution


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The C functions called, in order."""
    names: list[str] = []
    call = module._call

    def record(name: str, *arguments: Any) -> None:
        names.append(name)
        call(name, *arguments)

    monkeypatch.setattr(module, "_call", record)
    return names


@pytest.mark.parametrize(
    "settings",
    [
        {"kernel_size": 1, "padding": 0},
        {"kernel_size": 5, "padding": 2},
        {"kernel_size": (3, 1), "padding": (1, 0)},
        {"stride": 2},
        {"padding": 0},
        {"padding": "same"},
        {"dilation": 2, "padding": 2},
        {"groups": 2},
        {"padding_mode": "reflect"},
    ],
    ids=str,
)
def test_other_convolutions_are_torch_s(settings: dict[str, Any], calls: list[str]) -> None:
    x = values(2, 16, 16, 16, seed=0)
    convolution = layer(**settings)
    plain = nn.Conv2d.forward(convolution, x)
    assert torch.equal(convolution(x), plain)
    assert calls == []


def test_only_where_allowed(calls: list[str]) -> None:
    x = values(2, 16, 16, 16, seed=0)
    convolution = layer()
    found = convolution(x)
    assert calls == ["winograd_convolve"]
    convolution.kernel = None
    torch.testing.assert_close(convolution(x), found)
    assert calls == ["winograd_convolve"]


def test_only_the_gradients_that_are_wanted_are_computed(calls: list[str]) -> None:
    x, convolution = values(2, 16, 16, 16, seed=0), layer()
    convolution(x).sum().backward()
    assert calls == ["winograd_convolve", "winograd_weight_gradient"]
    calls.clear()
    convolution.requires_grad_(False)
    convolution(x.requires_grad_()).sum().backward()  # the sum's gradient is expanded, not channels-last
    assert calls == ["winograd_convolve"] * 2
    expected = x.detach().double().requires_grad_()
    F.conv2d(expected, convolution.weight.double(), padding=1).sum().backward()
    torch.testing.assert_close(x.grad.double(), expected.grad, rtol=0, atol=1e-5)


def test_weights_in_any_layout() -> None:
    x, convolution = values(2, 16, 16, 16, seed=0), layer()
    other = copy.deepcopy(convolution).to(memory_format=CHANNELS_LAST)
    assert not convolution.weight.is_contiguous(memory_format=CHANNELS_LAST)
    for each in (convolution, other):
        each(x).square().sum().backward()
    assert torch.equal(convolution(x), other(x))
    assert torch.equal(convolution.weight.grad, other.weight.grad)


def test_layer_tables_and_weights_stay() -> None:
    network = build_model(ModelConfig.model_validate(MODEL), 3, 10)
    convolutions = [each for each in network.modules() if isinstance(each, nn.Conv2d)]
    assert {type(each).__name__ for each in convolutions} == {"Conv2d"}
    assert set(layer().state_dict()) == {"weight", "bias"}


MODEL = {"stem": {"width": 16}, "widths": [16, 24], "blocks": [1, 2], "strides": [1, 2], "conv_bias": True}


def test_the_loss_curve_stays(calls: list[str]) -> None:
    """20 steps from one seed differ by at most a thousandth of the first loss."""
    source = TinySource(count=48, sealed=False).train()
    images = as_float(source.images).contiguous(memory_format=CHANNELS_LAST)

    def curve(winograd: bool) -> list[float]:
        runtime = resolve(RuntimeConfig(device="cpu", precision="fp32", threads=1, kernels="no"))
        torch.manual_seed(0)
        network = runtime.place(build_model(ModelConfig.model_validate(MODEL), 1, 3)).train()
        if winograd:
            use_kernels(network, "winograd")
        config = OptimizerConfig(name="sgd", lr=0.02)
        optimizer = build_optimizer(network, config, runtime.device)
        scaler = torch.amp.GradScaler("cpu", enabled=False)
        learner = Learner(network, optimizer, config, None, 0.0, None, scaler, runtime)
        return [float(train_step(learner, images, source.labels)[0]) for _ in range(20)]

    plain = curve(winograd=False)
    assert calls == []
    found = curve(winograd=True)
    assert calls.count("winograd_weight_gradient") == 20 * 5  # all but the stem's and two strided ones
    assert plain[-1] < plain[0]
    assert max(abs(a - b) for a, b in zip(found, plain, strict=True)) < 1e-3 * plain[0]
