"""Newton-Schulz against the singular value decomposition, Muon against torch's own and against steps by hand."""

import itertools
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from thriftnet.config import MuonConfig
from thriftnet.optim.muon import Muon, newton_schulz, orthogonalize


def optimizer(weights: list[nn.Parameter], dtype: torch.dtype = torch.float32, **values: Any) -> Muon:
    config = MuonConfig.model_validate({"lr": 0.1, **values})
    return Muon([{"params": weights}], config, dtype)


def quintic(value: float, steps: int) -> float:
    for _ in range(steps):
        value = 3.4445 * value - 4.7750 * value**3 + 2.0315 * value**5
    return value


def polar_factor(matrix: Tensor) -> Tensor:
    """U V^T of U S V^T, the nearest orthogonal matrix."""
    u, _, vh = torch.linalg.svd(matrix, full_matrices=False)
    return u @ vh


def test_one_step_on_a_diagonal_by_hand() -> None:
    # diag(3, 4) has Frobenius norm 5: the singular values 0.6 and 0.8 go through the quintic once.
    # 3.4445 * 0.6 - 4.775 * 0.216 + 2.0315 * 0.07776 = 1.193269..; 0.8: 2.7556 - 2.4448 + 0.66568192 = 0.97648192.
    found = newton_schulz(torch.diag(torch.tensor([3.0, 4.0])).double()[None], 1, torch.float64)[0]
    torch.testing.assert_close(found, torch.diag(torch.tensor([1.19326944, 0.97648192], dtype=torch.float64)))


def test_a_2x2_matrix_comes_near_its_polar_factor() -> None:
    matrix = torch.tensor([[2.0, -1.0], [1.0, 3.0]], dtype=torch.float64)
    found = newton_schulz(matrix[None], 5, torch.float64)[0]
    # The write-up's quintic does not converge to 1: it stays within about a third of it.
    assert (found - polar_factor(matrix)).abs().max() < 0.35
    assert torch.linalg.matrix_norm(found - polar_factor(matrix), 2) < 0.32


@settings(deadline=None, max_examples=25)
@given(st.integers(1, 7), st.integers(1, 7), st.integers(1, 6), st.integers(0, 2**20))
def test_singular_vectors_stay_and_singular_values_go_through_the_quintic(
    rows: int, columns: int, steps: int, seed: int
) -> None:
    matrix = torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    u, s, vh = torch.linalg.svd(matrix, full_matrices=False)
    expected = u @ torch.diag(torch.tensor([quintic(v, steps) for v in (s / s.norm()).tolist()]).double()) @ vh
    found = newton_schulz(matrix[None], steps, torch.float64)[0]
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)


def test_five_steps_bring_singular_values_near_one() -> None:
    values = torch.linspace(0.003, 1, 4000).tolist()
    results = [quintic(value, 5) for value in values]
    assert min(results) > 0.68
    assert max(results) < 1.21


def test_a_zero_gradient_gives_a_zero_update() -> None:
    for dtype in (torch.float32, torch.bfloat16):
        assert torch.equal(newton_schulz(torch.zeros(1, 2, 3), 5, dtype), torch.zeros(1, 2, 3))


def test_a_nearly_singular_matrix_loses_little_in_fp32() -> None:
    # Rank 4 of 32 rows and noise of a ten-thousandth: the squares of the small singular values are below fp32's grain.
    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn(32, 4, generator=generator) @ torch.randn(4, 288, generator=generator)
    matrix += 1e-4 * torch.randn(32, 288, generator=generator)
    exact = newton_schulz(matrix.double()[None], 5, torch.float64)
    found = newton_schulz(matrix[None], 5, torch.float32)
    assert (found - exact).norm() < 1e-3 * exact.norm()


def test_batching_equal_shapes_changes_no_result() -> None:
    generator = torch.Generator().manual_seed(0)
    shapes = [(4, 9), (6, 3), (4, 9), (3, 6), (4, 9)]
    matrices = [torch.randn(shape, generator=generator) for shape in shapes]
    for matrix, found in zip(matrices, orthogonalize(matrices, 5, torch.float32), strict=True):
        assert found.shape == matrix.shape
        torch.testing.assert_close(found, newton_schulz(matrix[None], 5, torch.float32)[0])


def test_bf16_is_close_to_fp32_and_returns_the_weights_type() -> None:
    matrix = torch.randn(1, 8, 24, generator=torch.Generator().manual_seed(0))
    found = newton_schulz(matrix, 5, torch.bfloat16)
    assert found.dtype == torch.float32
    assert (found - newton_schulz(matrix, 5, torch.float32)).norm() < 0.03 * 8**0.5
    assert not torch.equal(found, newton_schulz(matrix, 5, torch.float32))


@pytest.mark.parametrize("nesterov", [True, False])
@pytest.mark.parametrize("shape", [(6, 10), (10, 6)])
def test_equals_torchs_muon_on_a_matrix(
    shape: tuple[int, int], nesterov: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    # torch always computes in bf16, whose rounding would hide an error of a few per cent.
    monkeypatch.setattr(Tensor, "bfloat16", Tensor.clone)
    generator = torch.Generator().manual_seed(0)
    ours = nn.Parameter(torch.randn(shape, generator=generator))
    theirs = nn.Parameter(ours.detach().clone())
    values: dict[str, Any] = {"lr": 0.05, "momentum": 0.9, "nesterov": nesterov, "weight_decay": 0.1}
    mine = optimizer([ours], **values)
    reference = torch.optim.Muon([theirs], adjust_lr_fn="original", **values)
    for _ in range(4):
        ours.grad = torch.randn(shape, generator=generator)
        theirs.grad = ours.grad.clone()
        mine.step()
        reference.step()
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_a_convolution_counts_as_a_matrix_of_filters_in_any_memory_layout() -> None:
    generator = torch.Generator().manual_seed(0)
    start, gradient = torch.randn(4, 2, 3, 3, generator=generator), torch.randn(4, 2, 3, 3, generator=generator)
    layouts = (torch.contiguous_format, torch.channels_last)
    for layout, layout_of_gradient in itertools.product(layouts, layouts):
        weight = nn.Parameter(start.clone(memory_format=layout))
        weight.grad = gradient.clone(memory_format=layout_of_gradient)
        optimizer([weight], lr=0.1).step()
        update = newton_schulz(gradient.reshape(1, 4, 18), 5, torch.float32).reshape(4, 2, 3, 3)
        torch.testing.assert_close(weight.detach(), start - 0.1 * update)


def test_momentum_by_hand() -> None:
    # On 1x1 matrices the normalisation leaves the sign alone, so only the momentum decides: gradients 1, then -0.5.
    # mu = 0.9: M = 1, 0.4. Plain: signs +, +. Nesterov: 1 + 0.9 = 1.9 and -0.5 + 0.36 = -0.14: signs +, -.
    step = quintic(1.0, 5)
    for nesterov, expected in ((False, -2 * step), (True, 0.0)):
        weight = nn.Parameter(torch.zeros(1, 1))
        mine = optimizer([weight], lr=1.0, momentum=0.9, nesterov=nesterov)
        for gradient in (1.0, -0.5):
            weight.grad = torch.full((1, 1), gradient)
            mine.step()
        assert weight.item() == pytest.approx(expected, abs=1e-5)


def test_tall_matrices_move_further_by_the_root_of_their_shape() -> None:
    # Both are one column or row of equal entries: the orthogonalised one is quintic(1) times the unit vector.
    for shape, factor in (((4, 1), 2.0), ((1, 4), 1.0)):
        weight = nn.Parameter(torch.zeros(shape))
        weight.grad = torch.ones(shape)
        optimizer([weight], lr=0.1).step()
        expected = torch.full(shape, -0.1 * factor * quintic(1.0, 5) * 0.5)
        torch.testing.assert_close(weight.detach(), expected)


def test_weight_decay_is_decoupled() -> None:
    weight = nn.Parameter(torch.tensor([[2.0, -4.0]]))
    weight.grad = torch.zeros(1, 2)
    optimizer([weight], lr=0.1, weight_decay=0.5).step()
    torch.testing.assert_close(weight.detach(), torch.tensor([[1.9, -3.8]]))


def test_normalised_weights_have_norm_root_of_rows_before_an_update_without_factor() -> None:
    # ||(3, 4)||_F = 5 becomes sqrt(2) for two rows: (0.6, 0.8) * sqrt(2). The gradient (1, 0)^T is its own direction.
    weight = nn.Parameter(torch.tensor([[3.0], [4.0]]))
    weight.grad = torch.tensor([[1.0], [0.0]])
    optimizer([weight], lr=0.1, normalize_weights=True).step()
    expected = torch.tensor([[0.6 * 2**0.5 - 0.1 * quintic(1.0, 5)], [0.8 * 2**0.5]])
    torch.testing.assert_close(weight.detach(), expected)


def test_normalising_leaves_a_zero_weight_finite() -> None:
    weight = nn.Parameter(torch.zeros(2, 2))
    weight.grad = torch.eye(2)
    optimizer([weight], normalize_weights=True).step()
    assert torch.isfinite(weight).all()


def test_a_weight_without_gradient_stays() -> None:
    used, unused = nn.Parameter(torch.ones(2, 2)), nn.Parameter(torch.ones(2, 2))
    used.grad = torch.eye(2)
    optimizer([used, unused]).step()
    assert torch.equal(unused, torch.ones(2, 2))
    assert not torch.equal(used, torch.ones(2, 2))
