"""The kernel against Threefry written out in numpy, against torch's layer, and its masks as random numbers."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from thriftnet.config import ModelConfig, RuntimeConfig
from thriftnet.kernels import dropout as module
from thriftnet.kernels.dropout import Dropout, prepare, use_kernels
from thriftnet.models.build import build_model
from thriftnet.runtime import resolve

pytestmark = pytest.mark.usefixtures("kernels")

DTYPES = [torch.float32, torch.bfloat16]
ROTATIONS = (13, 15, 26, 6, 17, 29, 16, 24)
PARITY = 0x1BD11BDA
MILLION = 1_000_000
CHUNK = 512
"""Elements that share a chunk of counters, half of them the first words."""


@pytest.fixture(autouse=True)
def _prepared_and_threads_as_before(kernels: None) -> Iterator[None]:
    before = torch.get_num_threads()
    prepare()
    yield
    torch.set_num_threads(before)


def layer(p: float) -> Dropout:
    made = Dropout(p)
    use_kernels(made)
    return made


def threefry(counter: tuple[object, object], key: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Threefry-2x32 with 13 rounds (Salmon et al. 2011, section 4.2), of whole arrays of counters."""
    keys = (*key, PARITY ^ key[0] ^ key[1])
    a, b = (np.asarray(word, dtype=np.uint64) + keys[place] for place, word in enumerate(counter))
    mask = np.uint64(2**32 - 1)
    a, b = a & mask, b & mask
    for number in range(13):
        a = (a + b) & mask
        turn = ROTATIONS[number % 8]
        b = ((b << np.uint64(turn) | b >> np.uint64(32 - turn)) & mask) ^ a
        if number % 4 == 3:
            times = number // 4 + 1
            a = (a + keys[times % 3]) & mask
            b = (b + keys[(times + 1) % 3] + times) & mask
    return a, b


@pytest.mark.parametrize(
    ("counter", "key", "words"),
    [
        ((0, 0), (0, 0), (0x9D1C5EC6, 0x8BD50731)),
        ((2**32 - 1, 2**32 - 1), (2**32 - 1, 2**32 - 1), (0xFD36D048, 0x2D17272C)),
        ((0x243F6A88, 0x85A308D3), (0x13198A2E, 0x03707344), (0xBA3E4725, 0xF27D669E)),
    ],
)
def test_the_reference_gives_the_authors_known_answers(
    counter: tuple[int, int], key: tuple[int, int], words: tuple[int, int]
) -> None:
    """From kat_vectors of the authors' library Random123."""
    assert tuple(int(word) for word in threefry(counter, key)) == words


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("seed", [0, 1, 2**64 - 1, 0x0370734413198A2E])
@pytest.mark.parametrize("size", [1, 511, 512, 513, 40_000])  # chunks that are full or not; enough for several threads
def test_every_value_is_x_times_its_mask_rounded_once(dtype: torch.dtype, seed: int, size: int) -> None:
    p = 0.3
    places = np.arange(size)
    counters = places // CHUNK * (CHUNK // 2) + places % (CHUNK // 2)
    first, second = threefry((counters, 0), (seed % 2**32, seed >> 32))
    words = np.where(places % CHUNK < CHUNK // 2, first, second)
    factor = torch.from_numpy(np.where(words >= round(p * 2**32), np.float32(1 / (1 - p)), np.float32(0)))
    x = torch.randn(size, generator=torch.Generator().manual_seed(1)).to(dtype)
    x[:: size // 3 or 1] = -torch.inf
    found = module._Dropout.apply(x, seed, p)  # type: ignore[no-untyped-call]
    torch.testing.assert_close(found, (x.float() * factor).to(dtype), rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("p", [1e-4, 0.15, 0.5, 0.9, 0.9999])
@pytest.mark.parametrize("dtype", DTYPES)
def test_as_many_are_kept_as_the_rate_says_and_the_expected_value_is_x(p: float, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    drop = layer(p)
    kept = 0
    for _ in range(4):
        y = drop(torch.ones(MILLION, dtype=dtype))
        assert set(y.unique().tolist()) <= {0.0, torch.tensor(1 / (1 - p), dtype=dtype).item()}
        kept += int(y.count_nonzero())
    deviation = (4 * MILLION * p * (1 - p)) ** 0.5
    assert abs(kept - 4 * MILLION * (1 - p)) < 4 * deviation
    assert kept / (1 - p) / (4 * MILLION) == pytest.approx(1, abs=4 * deviation / (1 - p) / (4 * MILLION))


def test_neighbours_rows_chunks_and_calls_are_independent() -> None:
    """Correlations of the masks at every distance up to two chunks, and of the first calls with each other."""
    torch.manual_seed(0)
    drop = layer(0.5)
    masks = [drop(torch.ones(MILLION)) - 1 for _ in range(6)]  # +1 or -1
    bound = 5 / MILLION**0.5  # about one in 1.7 million exceeds it by chance
    for shift in range(1, 2 * CHUNK + 1):
        assert abs(float((masks[0][shift:] * masks[0][:-shift]).sum())) / MILLION < bound
    for number, one in enumerate(masks):
        for other in masks[:number]:
            assert abs(float((one * other).sum())) / MILLION < bound


def test_seeds_that_differ_in_one_bit_give_independent_masks() -> None:
    x = torch.ones(MILLION)
    plain = module._Dropout.apply(x, 0, 0.5) - 1  # type: ignore[no-untyped-call]
    for bit in range(64):
        other = module._Dropout.apply(x, 1 << bit, 0.5) - 1  # type: ignore[no-untyped-call]
        assert abs(float((plain * other).sum())) / MILLION < 5 / MILLION**0.5


def test_runs_of_8_elements_show_all_patterns_alike() -> None:
    """A chi-squared test, 255 degrees of freedom."""
    torch.manual_seed(1)
    mask = (layer(0.5)(torch.ones(8 * MILLION)) > 0).view(MILLION, 8)
    patterns = (mask * 2 ** torch.arange(8)).sum(1).bincount(minlength=256).double()
    chi_squared = float(((patterns - MILLION / 256) ** 2 / (MILLION / 256)).sum())
    assert 255 - 4 * (2 * 255) ** 0.5 < chi_squared < 255 + 4 * (2 * 255) ** 0.5


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(7, 33), (3, 5, 7, 6), (64, 42, 8, 8)])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_the_gradient_has_the_mask_of_the_output(
    shape: tuple[int, ...], layout: torch.memory_format, dtype: torch.dtype
) -> None:
    if layout == torch.channels_last and len(shape) != 4:
        layout = torch.contiguous_format
    x = torch.ones(shape, dtype=dtype).contiguous(memory_format=layout).requires_grad_()
    dy = torch.randn(shape, generator=torch.Generator().manual_seed(2)).to(dtype)  # contiguous, whatever x is
    torch.manual_seed(0)
    y = layer(0.4)(x)
    assert y.stride() == x.stride()
    (dx,) = torch.autograd.grad(y, x, dy)
    factor = (y.detach() > 0) * torch.tensor(1 / (1 - 0.4))
    assert torch.equal(dx, (dy.float() * factor).to(dtype))
    assert 0 < int(y.count_nonzero()) < y.numel()


def test_the_gradient_of_the_gradient_is_the_mask_too() -> None:
    x, dy = torch.ones(600, requires_grad=True), torch.ones(600, requires_grad=True)
    torch.manual_seed(0)
    y = layer(0.4)(x)
    (dx,) = torch.autograd.grad(y, x, dy, create_graph=True)
    (ddy,) = torch.autograd.grad(dx, dy, torch.ones(600))
    assert torch.equal(ddy, y)


def test_masks_follow_torchs_seed_and_the_state_of_its_generator() -> None:
    drop, x = layer(0.5), torch.ones(1000)
    torch.manual_seed(3)
    first = drop(x)
    state = torch.get_rng_state()
    second, third = drop(x), drop(x)
    assert not torch.equal(first, second)
    assert not torch.equal(second, third)
    torch.set_rng_state(state)
    assert torch.equal(drop(x), second)
    assert torch.equal(drop(x), third)
    torch.manual_seed(3)
    assert torch.equal(drop(x), first)
    torch.manual_seed(4)
    assert not torch.equal(drop(x), first)


@pytest.mark.parametrize("dtype", DTYPES)
def test_any_number_of_threads_gives_the_same_bits(dtype: torch.dtype) -> None:
    x = torch.randn(5, 42, 32, 32, generator=torch.Generator().manual_seed(1)).to(dtype)
    x = x.contiguous(memory_format=torch.channels_last).requires_grad_()
    results = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        torch.manual_seed(0)
        y = layer(0.15)(x)
        results.append((y.detach(), *torch.autograd.grad(y, x, y.detach())))
    for y, dx in results[1:]:
        assert torch.equal(y, results[0][0])
        assert torch.equal(dx, results[0][1])


def test_evaluation_is_the_identity_and_draws_nothing() -> None:
    drop, x = layer(0.5).eval(), torch.randn(1000)
    state = torch.get_rng_state()
    assert torch.equal(drop(x), x)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    ("drop", "x"),
    [
        (layer, torch.ones(8, 6).t()),
        (layer, torch.ones(4, 8, 6, 6)[:, ::2]),
        (layer, torch.ones(100, dtype=torch.float64)),
        (Dropout, torch.ones(100)),
    ],
)
def test_torchs_layer_where_the_kernel_does_not_suit(drop: Callable[[float], Dropout], x: Tensor) -> None:
    torch.manual_seed(0)
    found = drop(0.5)(x)
    torch.manual_seed(0)
    assert torch.equal(found, nn.Dropout(0.5)(x))


def test_nothing_is_dropped_from_nothing() -> None:
    assert layer(0.5)(torch.ones(0, 5)).shape == (0, 5)


@pytest.mark.parametrize("p", [0.0, 1.0])
def test_the_ends_are_torchs(p: float) -> None:
    assert torch.equal(layer(p)(torch.ones(100)), torch.full((100,), 1 - p))


def test_in_place_is_torchs() -> None:
    drop = Dropout(0.5, inplace=True)
    use_kernels(drop)
    x = torch.ones(100)
    assert drop(x) is x


@pytest.mark.parametrize("wanted", ["yes", "no"])
@pytest.mark.parametrize(
    "family",
    [
        {"widths": [8], "blocks": [2], "strides": [1]},
        {"block": "preactivation", "widths": [8], "blocks": [1], "strides": [1]},
        {"block": "resnext", "cardinality": 4, "base_width": 2, "blocks": [1, 1], "strides": [1, 2]},
        {"family": "resnet9", "widths": [8, 16, 24]},
    ],
    ids=["basic", "preactivation", "resnext", "resnet9"],
)
def test_every_network_s_dropout_uses_the_kernel_where_training_does(wanted: str, family: dict[str, Any]) -> None:
    runtime = resolve(RuntimeConfig.model_validate({"device": "cpu", "kernels": wanted, "threads": 1}))
    model = ModelConfig.model_validate({"stem": {"width": 8}, "dropout": 0.1} | family)
    network = runtime.place(build_model(model))
    layers = [layer for layer in network.modules() if isinstance(layer, nn.Dropout)]
    assert layers
    assert all(isinstance(layer, Dropout) and layer.uses_kernels == (wanted == "yes") for layer in layers)


def test_a_copy_keeps_the_kernel_and_the_name_is_torchs() -> None:
    copied = copy.deepcopy(layer(0.5))
    assert copied.uses_kernels
    assert repr(copied) == repr(nn.Dropout(0.5))
