"""The kernel against torch's own layers, computed one by one in float64."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.training.conftest import TinySource
from thriftnet.config import ModelConfig, OptimizerConfig, RuntimeConfig
from thriftnet.data.normalize import as_float
from thriftnet.kernels import norm_act_add as module
from thriftnet.kernels.norm_act_add import norm_act_add, shortcut_of, use_kernels
from thriftnet.models.build import build_model
from thriftnet.optim.build import build_optimizer
from thriftnet.runtime import resolve
from thriftnet.training.step import Learner, train_step

pytestmark = pytest.mark.usefixtures("kernels")

# A row alone, rows that fill no group, several groups and parts, more channels than a group has, odd ones, one.
SHAPES = [(2, 16, 1, 3), (3, 5, 7, 3), (9, 16, 20, 20), (5, 300, 4, 4), (33, 428, 1, 1), (4, 1, 9, 2)]
# bfloat16 has 8 bits: half a unit in the last place is 2^-9 of the value.
TOLERANCE = {torch.float32: {"rtol": 1e-5, "atol": 2e-6}, torch.bfloat16: {"rtol": 2**-8, "atol": 1e-3}}


@pytest.fixture(autouse=True)
def _threads_as_before() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def values(shape: tuple[int, ...], dtype: torch.dtype, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    drawn = 3 * torch.randn(shape, generator=generator) + 2
    return drawn.to(dtype).contiguous(memory_format=torch.channels_last)


def norm_layer(channels: int, **settings: Any) -> nn.BatchNorm2d:
    norm = nn.BatchNorm2d(channels, **settings)
    generator = torch.Generator().manual_seed(7)
    nn.init.normal_(norm.weight, generator=generator)
    nn.init.normal_(norm.bias, generator=generator)
    return norm


def with_kernels(norm: nn.BatchNorm2d) -> nn.BatchNorm2d:
    marked = copy.deepcopy(norm)
    use_kernels(marked)
    return marked


def gradients(
    norm: nn.BatchNorm2d,
    x: Tensor,
    residual: Tensor | None,
    dy: Tensor,
    activation: Callable[[Tensor], Tensor] | None,
    after: bool = False,
) -> dict[str, Tensor | None]:
    """Everything that a forward and a backward pass leave behind."""
    dtype = torch.float64 if norm.weight.dtype == torch.float64 else x.dtype
    x = x.detach().to(dtype).requires_grad_()
    added = None if residual is None else residual.detach().to(dtype).requires_grad_()
    y = norm_act_add(x, norm, activation, None if added is None else lambda: added, after)
    y.backward(dy.to(dtype))
    return {
        "y": y.detach(),
        "dx": x.grad,
        "dresidual": None if added is None else added.grad,
        "dweight": norm.weight.grad,
        "dbias": norm.bias.grad,
        "running_mean": norm.running_mean,
        "running_var": norm.running_var,
        "batches": norm.num_batches_tracked,
    }


@pytest.fixture
def plain_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """The test fails if the kernel is used."""

    def refuse(*_: object, **__: object) -> Tensor:
        raise AssertionError("the kernel was used")

    monkeypatch.setattr(module, "_fused", refuse)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("added", ["nothing", "before", "after"])
@pytest.mark.parametrize(
    ("dtype", "activation"),
    [
        (torch.float32, None),
        (torch.float32, F.relu),
        (torch.float32, F.gelu),
        (torch.float32, F.silu),
        (torch.bfloat16, None),
        (torch.bfloat16, F.relu),
        (torch.bfloat16, F.gelu),
    ],
)
def test_equals_torch_in_float64(
    shape: tuple[int, ...],
    dtype: torch.dtype,
    added: str,
    activation: Callable[[Tensor], Tensor] | None,
) -> None:
    norm, after = norm_layer(shape[1]), added == "after"
    x, dy = values(shape, dtype, 1), values(shape, dtype, 2)
    residual = values(shape, dtype, 3) if added != "nothing" else None
    expected = gradients(copy.deepcopy(norm).double(), x, residual, dy, activation, after)
    found = gradients(with_kernels(norm), x, residual, dy, activation, after)
    for name, value in expected.items():
        if value is None:
            assert found[name] is None, name
            continue
        tolerance = dict(TOLERANCE[dtype])
        if name in ("y", "dx", "dresidual"):
            assert found[name].dtype == dtype
            assert found[name].is_contiguous(memory_format=torch.channels_last)
        else:  # parameters and statistics are float32 whatever x is
            tolerance = dict(TOLERANCE[torch.float32])
        if name == "dx" and dtype == torch.bfloat16 and activation is F.gelu and added == "before":
            tolerance["atol"] = 2**-8  # the residual's gradient, rounded, is what dx is computed from, as in torch
        # Sums of many values of both signs are exact to their largest terms, not to what is left of them.
        tolerance["atol"] *= float(value.abs().max().clamp(min=1))
        torch.testing.assert_close(found[name].to(value.dtype), value, **tolerance, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("activation", [F.relu, F.gelu])
def test_is_at_least_as_exact_as_torch(activation: Callable[[Tensor], Tensor]) -> None:
    """Long sums, where torch's float32 ones have lost three digits more."""
    shape = (64, 8, 32, 32)
    x, dy, residual = (values(shape, torch.float32, seed) for seed in (1, 2, 3))
    norm = norm_layer(8)
    exact = gradients(copy.deepcopy(norm).double(), x, residual, dy, activation)
    ours = gradients(with_kernels(norm), x, residual, dy, activation)
    theirs = gradients(norm, x, residual, dy, activation)
    for name in ("y", "dx", "dweight", "dbias", "running_mean", "running_var"):
        errors = [float((found[name] - exact[name]).norm() / exact[name].norm()) for found in (ours, theirs)]
        assert errors[0] < 3e-7, name
        assert errors[0] <= errors[1], name


def test_rounds_bfloat16_as_torch_does() -> None:
    """Every bfloat16 there is, infinities and NaN among them, plus half a unit in the last place of one."""
    every = torch.arange(2**16, dtype=torch.int32).to(torch.int16).view(torch.bfloat16)
    x = every.reshape(1, 256, 16, 16).contiguous(memory_format=torch.channels_last)
    norm = nn.BatchNorm2d(256, eps=0.0).eval()  # with mean 0 and variance 1, y = x + bias
    nn.init.constant_(norm.bias, 2.0**-8)
    use_kernels(norm)
    with torch.no_grad():
        found = norm_act_add(x, norm)
    expected = (x.float() + 2.0**-8).to(torch.bfloat16)
    torch.testing.assert_close(found, expected, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("activation", [None, F.relu, F.gelu])
def test_evaluation_uses_the_running_statistics(
    dtype: torch.dtype, activation: Callable[[Tensor], Tensor] | None
) -> None:
    norm = norm_layer(5).eval()
    norm.running_mean.copy_(torch.linspace(-2, 2, 5))
    norm.running_var.copy_(torch.linspace(0.1, 3, 5))
    x, residual = values((3, 5, 7, 3), dtype, 1), values((3, 5, 7, 3), dtype, 2)
    exact = norm_act_add(x.double(), copy.deepcopy(norm).double(), activation, residual.double)
    with torch.inference_mode():
        found = norm_act_add(x, with_kernels(norm), activation, lambda: residual)
    torch.testing.assert_close(found.double(), exact.detach(), **TOLERANCE[dtype])
    assert norm.num_batches_tracked == 0


def test_evaluation_with_a_gradient_is_torch_s(plain_only: None) -> None:
    norm = with_kernels(norm_layer(5)).eval()
    x = values((3, 5, 7, 3), torch.float32, 1).requires_grad_()
    norm_act_add(x, norm, F.relu).sum().backward()
    assert x.grad is not None


def test_variance_far_from_zero() -> None:
    x = (1000 + torch.randn(64, 4, 8, 8, generator=torch.Generator().manual_seed(0))).to(
        memory_format=torch.channels_last
    )
    norm = with_kernels(nn.BatchNorm2d(4, momentum=1.0))
    y = norm_act_add(x, norm)
    torch.testing.assert_close(norm.running_var.double(), x.double().var((0, 2, 3)), rtol=1e-6, atol=0)
    expected = F.batch_norm(x.double(), None, None, training=True)
    torch.testing.assert_close(y.double(), expected, rtol=0, atol=1e-4)  # float32 places the mean to 6e-5


def test_a_constant_channel_gives_its_bias() -> None:
    norm = norm_layer(3)
    x = torch.full((2, 3, 4, 4), 5.3).contiguous(memory_format=torch.channels_last)
    y = norm_act_add(x, with_kernels(norm))
    torch.testing.assert_close(y, norm.bias[None, :, None, None].expand_as(y), rtol=0, atol=1e-6)


def test_gelu_and_its_slope_for_every_size_of_number() -> None:
    """From the far tails, whose square overflows, through zero; the slope by autograd in float64."""
    z = torch.cat([torch.linspace(-12, 12, 9001), torch.tensor([-3e38, -1e20, -90.0, -0.0, 0.0, 1e-38, 90.0, 3e38])])
    x = torch.stack([z, -z]).T.reshape(1, 2, -1, 1).contiguous(memory_format=torch.channels_last)
    norm = nn.BatchNorm2d(2, eps=0.0).eval()  # the identity
    use_kernels(norm)
    with torch.no_grad():
        found = norm_act_add(x, norm, F.gelu)
    torch.testing.assert_close(found.double(), F.gelu(x.double()), rtol=2e-7, atol=3e-7)
    # In training, dbias sums g = dy * slope(z); a channel with one dy that is not zero gives one slope.
    for value in [*torch.linspace(-10, 10, 21).tolist(), -3e37, 3e37]:
        row = torch.tensor([value - 1, value + 1, value]).reshape(1, 1, 3, 1)  # mean = value, so that z = bias
        layer = nn.BatchNorm2d(1)
        nn.init.constant_(layer.bias, value)
        use_kernels(layer)
        dy = torch.tensor([0.0, 0.0, 1.0]).reshape(1, 1, 3, 1)
        norm_act_add(row.contiguous(memory_format=torch.channels_last), layer, F.gelu).backward(dy)
        exact = torch.tensor(value, dtype=torch.float64, requires_grad=True)
        F.gelu(exact).backward()
        torch.testing.assert_close(layer.bias.grad.double()[0], exact.grad, rtol=0, atol=5e-7)


@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
@pytest.mark.parametrize("activation", [F.relu, F.gelu])
def test_what_is_not_finite_reaches_the_loss(poison: float, activation: Callable[[Tensor], Tensor]) -> None:
    x = values((4, 3, 5, 5), torch.float32, 0)
    x[1, 2, 3, 4] = poison
    y = norm_act_add(x, with_kernels(norm_layer(3)), activation)
    assert y[:, 2].isnan().any()
    assert y[:, :2].isfinite().all()


def test_the_number_of_threads_changes_no_bit() -> None:
    shape = (64, 24, 12, 12)
    x, dy, residual = (values(shape, torch.float32, seed) for seed in (1, 2, 3))
    for activation in (F.relu, F.gelu):
        results = []
        for threads in (1, 2, 3, 3):
            torch.set_num_threads(threads)
            results.append(gradients(with_kernels(norm_layer(24)), x, residual, dy, activation))
        for other in results[1:]:
            assert all(torch.equal(other[name], value) for name, value in results[0].items())


def test_running_statistics_may_be_left_alone() -> None:
    """As AMP's later passes do (`perturbation.batchnorm = "first_pass"`)."""
    norm = with_kernels(norm_layer(5))
    norm.track_running_stats = False
    norm_act_add(values((3, 5, 7, 3), torch.float32, 1), norm, F.relu)
    assert torch.equal(norm.running_mean, torch.zeros(5))
    assert norm.num_batches_tracked == 0


def test_an_expanded_gradient() -> None:
    """What average pooling hands back is one value for a whole image."""
    x = values((3, 5, 4, 4), torch.float32, 1)
    found, expected = x.clone().requires_grad_(), x.double().requires_grad_()
    F.adaptive_avg_pool2d(norm_act_add(found, with_kernels(norm_layer(5)), F.relu), 1).pow(2).sum().backward()
    F.adaptive_avg_pool2d(norm_act_add(expected, norm_layer(5).double(), F.relu), 1).pow(2).sum().backward()
    torch.testing.assert_close(found.grad.double(), expected.grad, **TOLERANCE[torch.float32])


def test_frozen_input_and_frozen_scale() -> None:
    norm, reference = with_kernels(norm_layer(5)), norm_layer(5)
    norm.weight.requires_grad_(False)
    x = values((3, 5, 4, 4), torch.float32, 1)
    norm_act_add(x, norm, F.relu).pow(2).sum().backward()
    norm_act_add(x, reference, F.relu).pow(2).sum().backward()
    assert norm.weight.grad is None
    torch.testing.assert_close(norm.bias.grad, reference.bias.grad)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("activation", [F.relu, F.gelu])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("readers", [(True, False), (False, True), (True, True)])
@pytest.mark.parametrize("with_residual", [False, True])
def test_two_readers_have_gradients_of_their_own(
    shape: tuple[int, ...],
    activation: Callable[[Tensor], Tensor],
    dtype: torch.dtype,
    readers: tuple[bool, bool],
    with_residual: bool,
) -> None:
    norm, residual = norm_layer(shape[1]), values(shape, dtype, seed=2)
    gradients_of = [values(shape, dtype, seed=3 + reader) if readers[reader] else None for reader in range(2)]
    found, exact = [], []
    for layer, kept, exactly in ((with_kernels(norm), found, False), (norm.double(), exact, True)):
        x, added = (each.double() if exactly else each for each in (values(shape, dtype, seed=1), residual))
        x, added = x.clone().requires_grad_(), added.clone().requires_grad_()
        y = norm_act_add(x, layer, activation, (lambda added=added: added) if with_residual else None)
        second = shortcut_of(y)
        assert (second is y) is exactly
        assert torch.equal(second, y)
        pairs = [(each, dy) for each, dy in zip((y, second), gradients_of, strict=True) if dy is not None]
        torch.autograd.backward([each for each, _ in pairs], [dy.to(x.dtype) for _, dy in pairs])
        kept += [layer.weight.grad, layer.bias.grad, x.grad, *([added.grad] if with_residual else [])]
    for mine, theirs, atol in zip(found[2:], exact[2:], (2**-8, 1e-3)[: len(found) - 2], strict=True):  # as above
        tolerance = {"rtol": 2**-8, "atol": atol} if dtype == torch.bfloat16 else TOLERANCE[dtype]
        scale = float(theirs.abs().max().clamp(min=1))
        torch.testing.assert_close(mine.double(), theirs, rtol=tolerance["rtol"], atol=tolerance["atol"] * scale)
    for mine, theirs in zip(found[:2], exact[:2], strict=True):
        torch.testing.assert_close(mine.double(), theirs, rtol=1e-4, atol=1e-3)


FIRST = {"stem": {"width": 16}, "widths": [16, 24]}
CHAINS = [
    # Backwards: of the last block nobody reads twice; its branch, the block before and so on, and the stem.
    ({**FIRST, "blocks": [2, 2], "strides": [1, 2]}, 4),
    # What a residual branch reads is its shortcut too; what a branch and its shortcut make is read once.
    ({**FIRST, "family": "resnet9", "activation": "gelu", "pool_first": True, "residual_convs": [1, 2]}, 2),
]


@pytest.mark.parametrize(("model", "readers"), CHAINS, ids=["resnet", "resnet9"])
def test_blocks_in_a_row_leave_no_addition_to_torch(
    monkeypatch: pytest.MonkeyPatch, model: dict[str, Any], readers: int
) -> None:
    """The gradients of a block's branch and of its shortcut, identity or projection, meet in the kernel."""
    split: list[bool] = []
    call = module._call

    def record(name: str, *arguments: Any) -> None:
        if name == "backward":
            split.append(arguments[2] is not None)
        call(name, *arguments)

    network = build_model(ModelConfig.model_validate(model), 3, 10).to(memory_format=torch.channels_last)
    use_kernels(network)
    monkeypatch.setattr(module, "_call", record)
    images = values((4, 3, 8, 8), torch.float32, seed=0)
    network(images).square().sum().backward()
    found = [parameter.grad.clone() for parameter in network.parameters()]
    assert sum(split) == readers
    monkeypatch.undo()
    network.zero_grad()
    plain = copy.deepcopy(network).double()
    plain(images.double()).square().sum().backward()
    for mine, theirs in zip(found, plain.parameters(), strict=True):
        torch.testing.assert_close(mine.double(), theirs.grad, rtol=1e-3, atol=1e-3 * float(theirs.grad.abs().max()))


@pytest.mark.parametrize(("activation", "after"), [(F.relu, True), (F.gelu, True), (None, False)])
def test_one_reader_where_the_residual_s_gradient_is_the_output_s(
    activation: Callable[[Tensor], Tensor] | None, after: bool
) -> None:
    x = values((2, 16, 1, 3), torch.float32, seed=1).requires_grad_()
    y = norm_act_add(x, with_kernels(norm_layer(16)), activation, lambda: x, after)
    assert shortcut_of(y) is y


def hooked(norm: nn.BatchNorm2d) -> nn.BatchNorm2d:
    norm.register_forward_hook(lambda *_: None)
    return norm


@pytest.mark.parametrize(
    ("x", "norm"),
    [
        (values((3, 5, 4, 4), torch.float32, 1).contiguous(), with_kernels),
        (values((3, 5, 4, 4), torch.float64, 1), lambda norm: with_kernels(norm).double()),
        (values((3, 5, 4, 4), torch.bfloat16, 1), lambda norm: with_kernels(norm).bfloat16()),
        (values((3, 5, 4, 4), torch.float32, 1), lambda norm: with_kernels(nn.BatchNorm2d(5, momentum=None))),
        (values((3, 5, 4, 4), torch.float32, 1), lambda norm: with_kernels(nn.BatchNorm2d(5, affine=False))),
        (values((3, 5, 4, 4), torch.float32, 1), lambda norm: hooked(with_kernels(norm))),
        (values((3, 5, 4, 4), torch.float32, 1), lambda norm: norm),
    ],
    ids=["contiguous", "float64", "bfloat16 weights", "cumulative", "no parameters", "hooked", "not allowed"],
)
def test_torch_s_layers_where_the_kernel_does_not_suit(
    plain_only: None, x: Tensor, norm: Callable[[nn.BatchNorm2d], nn.BatchNorm2d]
) -> None:
    used = norm(norm_layer(5))
    reference = copy.deepcopy(used)
    found = norm_act_add(x, used, F.relu, lambda: x)
    assert torch.equal(found, F.relu(reference(x) + x))
    for name, buffer in reference.named_buffers():
        assert torch.equal(used.get_buffer(name), buffer)


def test_synchronised_layers_are_not_replaced() -> None:
    network = nn.Sequential(nn.SyncBatchNorm(3), nn.BatchNorm2d(3))
    use_kernels(network)
    assert not hasattr(network[0], module._MARK)
    assert hasattr(network[1], module._MARK)
    assert not hasattr(nn.SyncBatchNorm.convert_sync_batchnorm(network)[1], module._MARK)


def test_a_residual_of_another_dtype_is_added_as_torch_adds_it() -> None:
    x, residual = values((3, 5, 4, 4), torch.bfloat16, 1), values((3, 5, 4, 4), torch.float32, 2)
    found = norm_act_add(x, with_kernels(norm_layer(5)), F.relu, lambda: residual)
    expected = F.relu(norm_layer(5)(x) + residual)
    assert found.dtype == expected.dtype == torch.float32
    torch.testing.assert_close(found, expected, **TOLERANCE[torch.bfloat16])


def test_a_single_value_per_channel_is_refused_as_by_torch() -> None:
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        norm_act_add(torch.ones(1, 5, 1, 1), with_kernels(norm_layer(5)))


MODELS = [
    {"stem": {"width": 8}, "widths": [8, 16], "blocks": [1, 2], "strides": [1, 2]},
    {"stem": {"width": 8}, "widths": [8], "blocks": [2], "strides": [2], "se_reduction": 4, "activation": "gelu"},
    {"stem": {"width": 8}, "block": "resnext", "cardinality": 4, "base_width": 2, "blocks": [1, 1], "strides": [1, 2]},
    {"family": "resnet9", "stem": {"width": 8}, "widths": [8, 12, 16], "conv_bias": True},
    {"stem": {"width": 8}, "widths": [8, 16], "blocks": [1, 2], "strides": [1, 2], "activation": "gelu"},
]


@pytest.mark.parametrize("model", MODELS, ids=["basic", "squeeze-excitation", "resnext", "resnet9", "gelu"])
@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-3), ("bf16", 1e-2)])
def test_the_loss_curve_stays(model: dict[str, Any], precision: str, tolerance: float) -> None:
    """20 steps from one seed, which differ by at most `tolerance` of the first loss.

    Rounding grows with the steps: torch's own layers with one thread and with two differ as much.
    """
    source = TinySource(count=48, sealed=False).train()
    images = as_float(source.images).contiguous(memory_format=torch.channels_last)

    def curve(kernels: str) -> tuple[list[float], nn.Module]:
        runtime = resolve(RuntimeConfig(device="cpu", precision=precision, threads=1, kernels=kernels))
        torch.manual_seed(0)
        network = runtime.place(build_model(ModelConfig.model_validate(model), 1, 3)).train()
        config = OptimizerConfig(name="sgd", lr=0.02)
        optimizer = build_optimizer(network, config, runtime.device)
        scaler = torch.amp.GradScaler("cpu", enabled=False)
        learner = Learner(network, optimizer, config, None, 0.0, None, scaler, runtime)
        return [float(train_step(learner, images, source.labels)[0]) for _ in range(20)], network

    fused, network = curve("yes")
    plain, reference = curve("no")
    assert plain[-1] < plain[0]
    assert max(abs(a - b) for a, b in zip(fused, plain, strict=True)) < tolerance * plain[0]
    assert network.state_dict().keys() == reference.state_dict().keys()
    assert fused != plain  # or the kernel was not used at all
