"""The kernel against torch's convolution in float64, and the rule that says where it is used."""

from __future__ import annotations

import copy
import ctypes
import platform
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.training.conftest import TinySource
from thriftnet.config import ModelConfig, OptimizerConfig, RuntimeConfig
from thriftnet.data.normalize import as_float
from thriftnet.kernels import amx_convolution as module
from thriftnet.kernels import build
from thriftnet.kernels.amx_convolution import convolve, has_matrix_units, prepare, suits
from thriftnet.kernels.build import KernelsUnavailable
from thriftnet.kernels.convolution import Conv2d, use_kernels
from thriftnet.models.build import build_model
from thriftnet.optim.build import build_optimizer
from thriftnet.runtime import resolve
from thriftnet.training.step import Learner, train_step

CHANNELS_LAST = torch.channels_last
RESULTS = ("y", "dx", "dweight", "dbias")


class Shape(NamedTuple):
    images: int
    in_channels: int
    out_channels: int
    height: int
    width: int
    kernel: int = 3
    stride: int = 1
    padding: int = 1
    groups: int = 1


# Of blocks of 32 images, units of 16 or 32 channels and bands of rows there are whole ones, several and parts.
SHAPES = [
    Shape(16, 16, 16, 1, 1),
    Shape(17, 20, 42, 2, 3),
    Shape(33, 42, 20, 4, 4),
    Shape(32, 32, 64, 3, 5),
    Shape(70, 84, 96, 8, 8),
    Shape(20, 17, 33, 7, 6),
    Shape(18, 96, 84, 9, 5),  # beyond MAX_SIDE the output and dx are torch's
    Shape(16, 20, 16, 31, 12),
    Shape(33, 16, 16, 31, 31),  # in bands
    # padding
    Shape(17, 16, 20, 4, 5, padding=0),
    Shape(17, 16, 20, 3, 3, padding=0),
    Shape(17, 20, 16, 4, 6, padding=2),
    Shape(34, 20, 40, 4, 1, kernel=1, padding=0),
    # stride 2, odd and even sides
    Shape(33, 20, 42, 8, 8, stride=2),
    Shape(19, 42, 16, 9, 7, stride=2),
    Shape(16, 16, 16, 1, 2, stride=2),
    Shape(17, 20, 20, 7, 8, stride=2, padding=0),
    Shape(17, 20, 20, 6, 5, stride=2, padding=2),
    Shape(33, 32, 48, 32, 31, stride=2),  # in bands
    Shape(33, 42, 84, 8, 7, kernel=1, stride=2, padding=0),
    Shape(16, 16, 20, 1, 9, kernel=1, stride=2, padding=0),
    Shape(33, 42, 84, 16, 12, kernel=1, stride=2, padding=0),
    # 1x1: one matrix product
    Shape(33, 84, 42, 4, 4, kernel=1, padding=0),
    Shape(40, 70, 17, 12, 16, kernel=1, padding=0),
    # groups
    Shape(33, 128, 128, 5, 4, groups=32),
    Shape(17, 256, 256, 3, 4, groups=32),
    Shape(33, 512, 512, 2, 2, stride=2, groups=32),
    Shape(18, 18, 24, 4, 5, groups=6),
    Shape(18, 34, 18, 5, 5, groups=2),
    Shape(18, 21, 21, 4, 3, groups=3),
    Shape(34, 20, 36, 12, 16, stride=2, groups=4),
    Shape(18, 24, 18, 5, 5, kernel=1, padding=0, groups=6),
    Shape(17, 16, 32, 9, 9, groups=16),
    Shape(33, 132, 66, 12, 12, groups=2),  # a group begins within a tile
    Shape(16, 64, 64, 31, 16, groups=2),  # in bands
    # sums of the weights' gradient: several blocks in a part; by all threads, also in bands and several blocks at once
    Shape(300, 16, 20, 2, 2),
    Shape(16, 428, 107, 2, 2),
    Shape(130, 128, 160, 8, 7),
    Shape(33, 144, 128, 16, 12),
]


def id_of(shape: Shape) -> str:
    # fmt: off
    return (f"{shape.images}x{shape.in_channels}->{shape.out_channels}x{shape.height}x{shape.width}"
            f"-k{shape.kernel}s{shape.stride}p{shape.padding}g{shape.groups}")
    # fmt: on


@pytest.fixture(autouse=True)
def _threads_as_before() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def kernel() -> None:
    """Skips where the kernel cannot be had."""
    try:
        prepare()
    except KernelsUnavailable as problem:
        pytest.skip(str(problem))


needs_kernel = pytest.mark.usefixtures("kernel")


def images(*shape: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator).bfloat16().contiguous(memory_format=CHANNELS_LAST)


def layer(shape: Shape, **settings: Any) -> Conv2d:
    torch.manual_seed(0)
    _, in_channels, out_channels, _, _, kernel, stride, padding, groups = shape
    return Conv2d(in_channels, out_channels, **(
        {"kernel_size": kernel, "stride": stride, "padding": padding, "groups": groups} | settings
    )).to(memory_format=CHANNELS_LAST)  # fmt: skip


def problem(shape: Shape) -> tuple[Conv2d, Tensor, Tensor]:
    """Layer, x, dy; the bias has values that bfloat16 has, because torch rounds it."""
    convolution = layer(shape)
    with torch.no_grad():
        convolution.bias.copy_(convolution.bias.bfloat16())
    sides = [(side + 2 * shape.padding - shape.kernel) // shape.stride + 1 for side in (shape.height, shape.width)]
    x = images(shape.images, shape.in_channels, shape.height, shape.width, seed=1)
    return convolution, x, images(shape.images, shape.out_channels, *sides, seed=2)


def by_kernel(convolution: Conv2d, x: Tensor, dy: Tensor) -> dict[str, Tensor]:
    x, convolution = x.clone().requires_grad_(), copy.deepcopy(convolution)
    with torch.autocast("cpu", torch.bfloat16):
        assert suits(x, convolution)
        y = convolve(x, convolution)
    y.backward(dy)
    return dict(zip(RESULTS, (y.detach(), x.grad, convolution.weight.grad, convolution.bias.grad), strict=True))


def by_torch(convolution: Conv2d, x: Tensor, dy: Tensor) -> dict[str, Tensor]:
    """In float64, with the weights as bfloat16 has them."""
    x = x.double().requires_grad_()
    exact = copy.deepcopy(convolution).bfloat16().double()
    y = nn.Conv2d.forward(exact, x)
    y.backward(dy.double())
    return dict(zip(RESULTS, (y.detach(), x.grad, exact.weight.grad, exact.bias.grad), strict=True))


def sizes_of_terms(convolution: Conv2d, x: Tensor, dy: Tensor) -> dict[str, Tensor]:
    """Of each result the sum of its terms without their signs, which bounds what a float32 sum can lose."""
    convolution = copy.deepcopy(convolution)
    for parameter in convolution.parameters():
        parameter.data.abs_()
    return by_torch(convolution, x.abs(), dy.abs())


def relative(found: Tensor, exact: Tensor) -> float:
    """The root mean square error as a share of the root mean square."""
    return float((found - exact).norm() / exact.norm())


@needs_kernel
@pytest.mark.parametrize("shape", SHAPES, ids=id_of)
def test_equals_torch_in_float64(shape: Shape) -> None:
    torch.set_num_threads(1 if shape.images % 2 else 3)
    inputs = problem(shape)
    found, exact, terms = by_kernel(*inputs), by_torch(*inputs), sizes_of_terms(*inputs)
    for name in ("y", "dx"):
        assert found[name].dtype == torch.bfloat16
        assert found[name].is_contiguous(memory_format=CHANNELS_LAST)
        # Half a unit in the last of bfloat16's eight places, after a float32 sum.
        assert ((found[name] - exact[name]).abs() <= 2**-8 * exact[name].abs() + 2e-6 * terms[name]).all(), name
        assert relative(found[name], exact[name]) < 2e-3, name
    for name in ("dweight", "dbias"):
        assert found[name].dtype == torch.float32
        assert ((found[name] - exact[name]).abs() <= 2e-6 * terms[name]).all(), name
        assert relative(found[name], exact[name]) < 1e-6, name


@needs_kernel
def test_the_bias_is_added_before_the_only_rounding() -> None:
    convolution, x, _ = problem(Shape(16, 16, 16, 4, 4))
    with torch.no_grad():
        convolution.weight.zero_()
        convolution.bias.copy_(torch.linspace(1, 1.1, 16))
        convolution.weight[:, 0, 1, 1] = 1.0
        y = convolve(x, convolution)
    assert torch.equal(y, (x[:, :1].float() + convolution.bias[:, None, None]).bfloat16())


@needs_kernel
@pytest.mark.parametrize(
    "shape", [Shape(17, 18, 18, 5, 7), Shape(17, 18, 18, 5, 7, stride=2), Shape(17, 18, 18, 12, 9, groups=9)], ids=id_of
)
def test_whole_numbers_through_an_identity(shape: Shape) -> None:
    """Filters that copy a channel, and one that moves it by a pixel: what is where is exact."""
    convolution, x, _ = problem(shape)
    x = torch.randint(-99, 99, x.shape, generator=torch.Generator().manual_seed(0)).to(x).contiguous(
        memory_format=CHANNELS_LAST
    )  # fmt: skip
    with torch.no_grad():
        nn.init.dirac_(convolution.weight, shape.groups)
        convolution.bias.zero_()
        convolution.weight[0] = 0
        convolution.weight[0, 1, 0, 2] = 1  # the pixel above and to the right, of channel 1
        y = convolve(x, convolution)
    moved = F.pad(x[:, 1], (0, 1, 1, 0))[:, :-1, 1:]
    expected = torch.cat([moved[:, None], x[:, 1:]], 1)[:, :, :: shape.stride, :: shape.stride]
    assert torch.equal(y, expected)


@needs_kernel
@pytest.mark.parametrize(
    "shape",
    [
        Shape(40, 32, 48, 8, 8),
        Shape(33, 32, 48, 32, 31, stride=2),
        Shape(33, 128, 128, 12, 12, groups=32),
        Shape(70, 128, 160, 8, 7),
        Shape(300, 16, 20, 2, 2),
    ],
    ids=id_of,
)
def test_the_number_of_threads_changes_no_bit(shape: Shape) -> None:
    inputs, results = problem(shape), []
    for threads in (1, 2, 3, 5, 3):
        torch.set_num_threads(threads)
        results.append(by_kernel(*inputs))
    for other in results[1:]:
        assert all(torch.equal(other[name], results[0][name]) for name in RESULTS)


@needs_kernel
def test_nothing_is_left_of_the_call_before() -> None:
    small = problem(Shape(17, 17, 18, 5, 6))
    before = by_kernel(*small)
    convolution, x, dy = problem(Shape(64, 64, 64, 8, 8))
    by_kernel(convolution, x * float("nan"), dy * float("nan"))
    after = by_kernel(*small)
    assert all(torch.equal(after[name], before[name]) for name in RESULTS)


@pytest.fixture
def memory_of_nan() -> Iterator[None]:
    """glibc's malloc fills what it gives with 0xff, which is NaN as bfloat16 and as float32."""
    if platform.libc_ver()[0] != "glibc":
        pytest.skip("glibc's M_PERTURB")
    perturb, libc = -6, ctypes.CDLL(None)
    libc.mallopt(perturb, 0x100)  # its lowest byte, inverted
    yield
    libc.mallopt(perturb, 0)


@needs_kernel
@pytest.mark.parametrize("threads", [1, 2])
def test_no_memory_is_read_before_it_is_written(memory_of_nan: None, threads: int) -> None:
    assert torch.empty(1000, 1000).isnan().all()
    torch.set_num_threads(threads)
    for shape in SHAPES:
        if shape.images < 40:
            found = by_kernel(*problem(shape))
            assert all(found[name].isfinite().all() for name in RESULTS), shape


@needs_kernel
@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
@pytest.mark.parametrize("side", [8, 12])  # the kernel's output and torch's
def test_what_is_not_finite_reaches_the_output_and_the_gradients(poison: float, side: int) -> None:
    convolution, x, dy = problem(Shape(17, 16, 16, side, side))
    x[1, 3, 2, 5] = poison
    dy[2, 4, 0, 0] = poison
    found = by_kernel(convolution, x, dy)
    assert not found["y"][1, :, 1:4, 4:7].isfinite().any()
    assert not found["dx"][2, :, :2, :2].isfinite().any()
    assert not found["dweight"][:, 3].isfinite().any()
    assert not found["dweight"][4, :, 1:, 1:].isfinite().any()
    assert not found["dbias"][4].isfinite()
    assert found["y"][[0, *range(2, 17)]].isfinite().all()
    assert found["dbias"][:4].isfinite().all()


PLAIN = Shape(16, 16, 16, 8, 8)


def suits_under_autocast(x: Tensor, convolution: nn.Conv2d) -> bool:
    with torch.autocast("cpu", torch.bfloat16):
        return suits(x, convolution)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, True),
        ({"bias": False}, True),
        ({"stride": 2}, True),
        ({"groups": 16}, True),
        ({"padding": 0}, True),
        ({"padding": 2}, True),
        ({"kernel_size": 1, "padding": 0}, True),
        ({"padding": 3}, False),
        ({"kernel_size": 1}, False),
        ({"kernel_size": 5, "padding": 2}, False),
        ({"kernel_size": (3, 1), "padding": (1, 0)}, False),
        ({"padding": (1, 0)}, False),
        ({"padding": "same"}, False),
        ({"padding": "valid"}, False),
        ({"padding_mode": "reflect"}, False),
        ({"dilation": 2, "padding": 2}, False),
        ({"stride": (1, 2)}, False),
        ({"stride": 3}, False),
        ({"dtype": torch.bfloat16}, False),
        ({"dtype": torch.float64}, False),
    ],
    ids=str,
)
def test_the_rule_on_layers(settings: dict[str, Any], expected: bool) -> None:
    assert suits_under_autocast(images(16, 16, 8, 8, seed=0), layer(PLAIN, **settings)) is expected


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        (PLAIN, True),
        (PLAIN._replace(in_channels=15), False),
        (PLAIN._replace(out_channels=15), False),
        (PLAIN._replace(images=15), False),
        (PLAIN._replace(height=1, width=1), True),
        (PLAIN._replace(height=224, width=3), True),
        (PLAIN._replace(height=2, padding=0), False),  # no place for the filter: torch's error
    ],
    ids=str,
)
def test_the_rule_on_shapes(shape: Shape, expected: bool) -> None:
    x = images(shape.images, shape.in_channels, shape.height, shape.width, seed=0)
    assert suits_under_autocast(x, layer(shape)) is expected


def test_the_rule_on_layout_and_precision() -> None:
    x, convolution = images(16, 16, 8, 8, seed=0), layer(PLAIN)
    assert suits_under_autocast(x, convolution)
    assert not suits_under_autocast(x.contiguous(), convolution)
    assert not suits_under_autocast(x.float(), convolution)
    assert not suits_under_autocast(x.half(), convolution)
    assert not suits_under_autocast(x.double(), convolution)
    assert not suits_under_autocast(x.to("meta"), copy.deepcopy(convolution).to("meta"))
    assert not suits_under_autocast(x[0], convolution)
    assert not suits(x, convolution)
    with torch.autocast("cpu", torch.float16):
        assert not suits(x, convolution)
        assert not suits(x.half(), convolution)


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


ALL_PASSES = ["output", "input_gradient", "weight_gradient"]


@needs_kernel
@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        (PLAIN, ALL_PASSES),
        (PLAIN._replace(height=9), ["weight_gradient"]),
        (PLAIN._replace(height=10, padding=0), ALL_PASSES),  # the output has 8 rows
        (PLAIN._replace(height=31, stride=2), ALL_PASSES),
        (PLAIN._replace(height=31, groups=2), ALL_PASSES),
        (PLAIN._replace(kernel=1, padding=0), ["weight_gradient"]),
        (PLAIN._replace(kernel=1, padding=0, stride=2), ALL_PASSES),  # the output has 4 rows
        (PLAIN._replace(kernel=1, padding=0, stride=2, height=9), ["input_gradient", "weight_gradient"]),
        (PLAIN._replace(kernel=1, padding=0, stride=2, height=9, groups=2), ALL_PASSES),
    ],
    ids=str,
)
def test_each_pass_goes_the_faster_way(shape: Shape, expected: list[str], calls: list[str]) -> None:
    by_kernel(*problem(shape))
    assert calls == expected


@needs_kernel
def test_only_where_allowed(calls: list[str]) -> None:
    x, convolution = images(16, 16, 8, 8, seed=0), layer(PLAIN)
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        plain = convolution(x)
        assert calls == []
        use_kernels(convolution, "amx")
        found = convolution(x)
        assert calls == ["output"]
        torch.testing.assert_close(found, plain, rtol=2**-7, atol=1e-3)  # torch rounds the bias too
        assert torch.equal(convolution(x.float()), plain)  # in float32: torch's layer, which rounds it
        assert calls == ["output"]


@needs_kernel
def test_only_the_gradients_that_are_wanted_are_computed(calls: list[str]) -> None:
    x, convolution = images(16, 16, 8, 8, seed=0), layer(PLAIN)
    with torch.autocast("cpu", torch.bfloat16):
        convolve(x, convolution).sum().backward()
        assert calls == ["output", "weight_gradient"]
        calls.clear()
        convolution.weight.requires_grad_(False)
        convolution.bias.grad = None
        convolve(x, convolution).sum().backward()  # the sum's gradient is expanded, not channels-last
        assert calls == ["output", "weight_gradient"]
        assert convolution.bias.grad.eq(16 * 8 * 8).all()
        calls.clear()
        convolution.requires_grad_(False)
        convolve(x.requires_grad_(), convolution).sum().backward()
    assert calls == ["output", "input_gradient"]
    exact = by_torch(convolution.requires_grad_(), x.detach(), torch.ones(16, 16, 8, 8))
    torch.testing.assert_close(x.grad.double(), exact["dx"], rtol=2**-8, atol=1e-5)


@needs_kernel
@pytest.mark.parametrize("shape", [PLAIN, PLAIN._replace(kernel=1, padding=0, stride=2), PLAIN._replace(groups=4)])
def test_weights_in_any_layout(shape: Shape) -> None:
    x, convolution = images(16, 16, 8, 8, seed=0), layer(shape)
    other = copy.deepcopy(convolution).to(memory_format=torch.contiguous_format)
    with torch.autocast("cpu", torch.bfloat16):
        outputs = [convolve(x, each) for each in (convolution, other)]
    for y in outputs:
        y.square().sum().backward()
    assert torch.equal(*outputs)
    assert torch.equal(convolution.weight.grad, other.weight.grad)


@needs_kernel
def test_differentiable_once() -> None:
    """As with Winograd's: a second derivative would be wrong in silence."""
    x, convolution = images(16, 16, 8, 8, seed=0).requires_grad_(), layer(PLAIN)
    with torch.autocast("cpu", torch.bfloat16):
        y = convolve(x, convolution)
    (dx,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        dx.sum().backward()


MODEL = {"stem": {"width": 16}, "widths": [16, 24], "blocks": [1, 2], "strides": [1, 2], "conv_bias": True}


@needs_kernel
def test_layer_tables_and_weights_stay() -> None:
    network = build_model(ModelConfig.model_validate(MODEL), 3, 10)
    before = list(network.state_dict())
    use_kernels(network, "amx")
    convolutions = [each for each in network.modules() if isinstance(each, nn.Conv2d)]
    assert {type(each).__name__ for each in convolutions} == {"Conv2d"}
    assert list(network.state_dict()) == before


@needs_kernel
def test_a_copy_of_a_network_uses_the_kernel_too(calls: list[str]) -> None:
    network = build_model(ModelConfig.model_validate(MODEL), 3, 10).to(memory_format=CHANNELS_LAST)
    use_kernels(network, "amx")
    x = images(16, 3, 8, 8, seed=0)
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        expected = network(x)
        count = len(calls)
        assert torch.equal(copy.deepcopy(network)(x), expected)
    assert len(calls) == 2 * count > 0


@needs_kernel
def test_the_loss_curve_stays(calls: list[str]) -> None:
    """20 steps from one seed differ by at most a hundredth of the first loss."""
    source = TinySource(count=48, sealed=False).train()
    x = as_float(source.images).contiguous(memory_format=CHANNELS_LAST)

    def curve(amx: bool) -> list[float]:
        runtime = resolve(RuntimeConfig(device="cpu", precision="bf16", threads=1, kernels="no"))
        torch.manual_seed(0)
        network = runtime.place(build_model(ModelConfig.model_validate(MODEL), 1, 3)).train()
        if amx:
            use_kernels(network, "amx")
        config = OptimizerConfig(name="sgd", lr=0.02)
        optimizer = build_optimizer(network, config, runtime.device)
        scaler = torch.amp.GradScaler("cpu", enabled=False)
        learner = Learner(network, optimizer, config, None, 0.0, None, scaler, runtime)
        return [float(train_step(learner, x, source.labels)[0]) for _ in range(20)]

    plain = curve(amx=False)
    assert calls == []
    found = curve(amx=True)
    assert calls.count("weight_gradient") == 20 * 7  # all but the stem's
    assert plain[-1] < plain[0]
    assert max(abs(a - b) for a, b in zip(found, plain, strict=True)) < 1e-2 * plain[0]


@needs_kernel
def test_resolving_uses_it_in_bf16_only() -> None:
    for precision, expected in (("bf16", "amx"), ("fp32", "winograd")):
        runtime = resolve(RuntimeConfig(device="cpu", precision=precision, threads=1))
        assert runtime.convolutions == expected
        network = runtime.place(build_model(ModelConfig.model_validate(MODEL), 3, 10))
        assert {each.kernel for each in network.modules() if isinstance(each, Conv2d)} == {expected}


@needs_kernel
def test_refused_for_processors_without_matrix_units(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THRIFTNET_CACHE", str(tmp_path))
    monkeypatch.setattr(build, "FLAGS", (*build.FLAGS, "-mno-amx-bf16"))
    with pytest.raises(KernelsUnavailable, match="needs a processor with AMX and AVX-512"):
        build.load_kernels.__wrapped__("amx_convolution")


def test_refused_where_the_system_does_not_allow_it(monkeypatch: pytest.MonkeyPatch) -> None:
    functions = {f"amx_{name}": SimpleNamespace() for name in ALL_PASSES}
    library = SimpleNamespace(amx_prepare=lambda: 1, **functions)
    monkeypatch.setattr(module, "load_kernels", lambda _: library)
    with pytest.raises(KernelsUnavailable, match="does not let this process use the matrix units"):
        module._library.__wrapped__()


@pytest.mark.parametrize(("flags", "expected"), [("avx512_bf16 amx_bf16 amx_tile", True), ("avx512_bf16", False)])
def test_processors_with_matrix_units(monkeypatch: pytest.MonkeyPatch, flags: str, expected: bool) -> None:
    monkeypatch.setattr(module.Path, "read_text", lambda *_, **__: f"flags\t\t: fpu {flags}\n")
    assert has_matrix_units() is expected


def test_no_matrix_units_where_processors_are_not_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "Path", lambda _: Path("/nowhere/cpuinfo"))
    assert not has_matrix_units()
