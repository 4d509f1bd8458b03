"""Adversarial model perturbation, SAM and ASAM against steps computed by hand."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from thriftnet.config import PerturbationConfig
from thriftnet.optim.perturbation import adversarial_gradient, has_begun


def amp(**values: Any) -> PerturbationConfig:
    return perturbation("amp", **values)


def perturbation(name: str, **values: Any) -> PerturbationConfig:
    return PerturbationConfig.model_validate({"name": name, **values})


class Quadratic(nn.Module):
    """Loss 1/2 sum(curvature * w^2) + sum(curvature_b * b^2)/2: its gradient at any point is known."""

    def __init__(self, w: list[float], b: list[float]) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor(w, dtype=torch.float64))
        self.b = nn.Parameter(torch.tensor(b, dtype=torch.float64))
        self.register_buffer("curvature", torch.tensor([1.0, 4.0], dtype=torch.float64))

    def loss(self) -> Tensor:
        return 0.5 * (self.curvature * self.w**2).sum() + 0.5 * (self.b**2).sum()


def compute(model: Quadratic, places: list[Tensor] | None = None) -> Callable[[], Tensor]:
    def closure() -> Tensor:
        if places is not None:
            places.append(model.w.detach().clone())
        model.zero_grad()
        loss = model.loss()
        loss.backward()
        return loss.detach()

    return closure


def test_one_sgd_step_by_hand() -> None:
    # w = (3, 1): gradient (3, 4), norm 5 > 0.5, so delta = 0.1 * (3, 4) = (0.3, 0.4); the gradient at (3.3, 1.4) is
    # (3.3, 5.6). b = (0.2): gradient 0.2, shorter than 0.5, so delta = 0.2 itself; the gradient at 0.4 is 0.4.
    model = Quadratic([3.0, 1.0], [0.2])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    loss = adversarial_gradient(model, amp(epsilon=0.5), compute(model))
    assert loss.item() == pytest.approx(0.5 * (9 + 4) + 0.02)  # the unperturbed loss is what is reported
    torch.testing.assert_close(model.w.grad, torch.tensor([3.3, 5.6], dtype=torch.float64))
    torch.testing.assert_close(model.b.grad, torch.tensor([0.4], dtype=torch.float64))
    optimizer.step()
    torch.testing.assert_close(model.w.detach(), torch.tensor([3 - 0.33, 1 - 0.56], dtype=torch.float64))
    torch.testing.assert_close(model.b.detach(), torch.tensor([0.2 - 0.04], dtype=torch.float64))


def test_a_gradient_shorter_than_epsilon_is_the_perturbation_itself_which_tells_amp_from_sam() -> None:
    model = Quadratic([0.03, 0.01], [0.0])
    places: list[Tensor] = []
    adversarial_gradient(model, amp(epsilon=0.5), compute(model, places))
    gradient = torch.tensor([0.03, 0.04], dtype=torch.float64)
    torch.testing.assert_close(places[1] - places[0], gradient)
    sam = gradient * 0.5 / gradient.norm()
    assert not torch.allclose(places[1] - places[0], sam)


def test_two_inner_steps_accumulate_and_stay_in_the_ball() -> None:
    # delta1 = (0.3, 0.4) as above; the gradient there is (3.3, 5.6); 0.3 + 3.3, 0.4 + 5.6 = (3.6, 6.0), norm 6.997..,
    # scaled back to 0.5.
    model = Quadratic([3.0, 1.0], [0.0])
    places: list[Tensor] = []
    adversarial_gradient(model, amp(epsilon=0.5, inner_steps=2), compute(model, places))
    expected = torch.tensor([3.6, 6.0], dtype=torch.float64) * 0.5 / (3.6**2 + 6.0**2) ** 0.5
    assert len(places) == 3
    torch.testing.assert_close(places[2] - places[0], expected)


def test_inner_lr_scales_the_ascent() -> None:
    model = Quadratic([0.3, 0.0], [0.0])
    places: list[Tensor] = []
    adversarial_gradient(model, amp(epsilon=10.0, inner_lr=0.5), compute(model, places))
    torch.testing.assert_close((places[1] - places[0])[0], torch.tensor(0.15, dtype=torch.float64))


def test_sam_by_hand() -> None:
    # w = (3, 1): gradient (3, 4); b = 12: gradient 12. One norm over both: 13. rho = 1.3: delta = 0.1 * gradient, so
    # w + delta = (3.3, 1.4) with gradient (3.3, 5.6), b + delta = 13.2 with gradient 13.2.
    model = Quadratic([3.0, 1.0], [12.0])
    loss = adversarial_gradient(model, perturbation("sam", rho=1.3), compute(model))
    assert loss.item() == pytest.approx(0.5 * (9 + 4) + 72)
    torch.testing.assert_close(model.w.grad, torch.tensor([3.3, 5.6], dtype=torch.float64))
    torch.testing.assert_close(model.b.grad, torch.tensor([13.2], dtype=torch.float64))
    assert model.w.tolist() == [3.0, 1.0]


def test_asam_by_hand() -> None:
    # eta = 1: T = (4, 2) for w = (3, -1), 2 for b = 1. Gradient (3, -4), 1; T gradient = (12, -8), 2, of norm
    # sqrt(144 + 64 + 4) = sqrt(212). T^2 gradient = (48, -16), 4; rho = sqrt(212) / 40 divides these by 40:
    # delta = (1.2, -0.4), 0.1. The gradient at (4.2, -1.4), 1.1 is (4.2, -5.6), 1.1.
    model = Quadratic([3.0, -1.0], [1.0])
    adversarial_gradient(model, perturbation("asam", rho=212**0.5 / 40, eta=1.0), compute(model))
    torch.testing.assert_close(model.w.grad, torch.tensor([4.2, -5.6], dtype=torch.float64))
    torch.testing.assert_close(model.b.grad, torch.tensor([1.1], dtype=torch.float64))


@pytest.mark.parametrize(("name", "rho"), [("sam", 0.05), ("asam", 0.5)])
def test_rho_that_is_left_out_is_the_papers(name: str, rho: float) -> None:
    first, second = Quadratic([3.0, 1.0], [0.2]), Quadratic([3.0, 1.0], [0.2])
    adversarial_gradient(first, perturbation(name), compute(first))
    adversarial_gradient(second, perturbation(name, rho=rho), compute(second))
    assert torch.equal(first.w.grad, second.w.grad)


@settings(deadline=None)
@given(st.lists(st.floats(-100, 100), min_size=2, max_size=2), st.floats(1e-3, 10), st.sampled_from(["sam", "asam"]))
def test_sam_and_asam_lie_on_their_ball_and_restore_bit_for_bit(w: list[float], rho: float, name: str) -> None:
    model = Quadratic(w, [0.1])
    before = model.w.detach().clone()
    deltas: list[Tensor] = []

    def closure() -> Tensor:
        deltas.append(torch.cat([model.w.detach() - before, model.b.detach() - 0.1]))
        return compute(model)()

    adversarial_gradient(model, perturbation(name, rho=rho), closure)
    assert torch.equal(model.w, before)
    scale = torch.cat([before, torch.tensor([0.1]).double()]).abs() + 0.01 if name == "asam" else 1.0
    assert (deltas[1] / scale).norm().item() == pytest.approx(rho, rel=1e-6)


def test_the_first_share_of_steps_is_not_perturbed() -> None:
    last_quarter = [has_begun(perturbation("sam", start=0.75), step, 40) for step in range(40)]
    assert last_quarter == [False] * 30 + [True] * 10
    assert all(has_begun(amp(), step, 40) for step in range(40))
    assert [has_begun(amp(start=0.07), step, 100) for step in (6, 7)] == [False, True]  # 0.07 * 100 > 7 in binary
    assert not has_begun(None, 39, 40)


@settings(deadline=None)
@given(st.lists(st.floats(-100, 100), min_size=2, max_size=2), st.floats(1e-3, 10), st.integers(1, 3))
def test_never_leaves_the_ball_and_restores_bit_for_bit(w: list[float], epsilon: float, inner_steps: int) -> None:
    model = Quadratic(w, [0.1])
    before = model.w.detach().clone()
    places: list[Tensor] = []
    adversarial_gradient(model, amp(epsilon=epsilon, inner_steps=inner_steps), compute(model, places))
    assert torch.equal(model.w, before)
    for place in places:
        assert (place - before).norm() <= epsilon * (1 + 1e-6) + 1e-12 * before.norm()


@pytest.mark.parametrize("name", ["amp", "sam", "asam"])
def test_a_zero_gradient_perturbs_nothing(name: str) -> None:
    model = Quadratic([0.0, 0.0], [0.0])
    adversarial_gradient(model, perturbation(name), compute(model))
    assert torch.equal(model.w.grad, torch.zeros(2, dtype=torch.float64))


def test_an_error_in_the_perturbed_pass_leaves_the_weights_as_they_were() -> None:
    model = Quadratic([3.0, 1.0], [0.2])
    calls = []

    def fails_the_second_time() -> Tensor:
        calls.append(1)
        if len(calls) == 2:
            raise FloatingPointError("overflow")
        return compute(model)()

    with pytest.raises(FloatingPointError):
        adversarial_gradient(model, amp(), fails_the_second_time)
    assert model.w.tolist() == [3.0, 1.0]


@pytest.mark.parametrize("name", ["amp", "sam", "asam"])
def test_loss_scaling_does_not_change_the_perturbation(name: str) -> None:
    plain, scaled = Quadratic([3.0, 1.0], [0.2]), Quadratic([3.0, 1.0], [0.2])

    def compute_scaled() -> Tensor:
        scaled.zero_grad()
        loss = scaled.loss()
        (loss * 1024).backward()
        return loss.detach()

    adversarial_gradient(plain, perturbation(name), compute(plain))
    adversarial_gradient(scaled, perturbation(name), compute_scaled, gradient_scale=1024.0)
    torch.testing.assert_close(scaled.w.grad / 1024, plain.w.grad)


def test_an_overflow_under_loss_scaling_leaves_its_component_unperturbed() -> None:
    model = Quadratic([3.0, 1.0], [0.0])
    places: list[Tensor] = []

    def overflows() -> Tensor:
        places.append(model.w.detach().clone())
        model.w.grad, model.b.grad = torch.tensor([torch.inf, 8.0]).double(), torch.zeros(1).double()
        return torch.tensor(0.0)

    adversarial_gradient(model, perturbation("sam", rho=0.5), overflows, gradient_scale=2.0)
    assert (places[1] - places[0]).tolist() == [0.0, 0.5]


@pytest.mark.parametrize(("rule", "updates"), [("every_pass", 2), ("first_pass", 1)])
@pytest.mark.parametrize("name", ["amp", "sam", "asam"])
def test_which_passes_update_running_statistics(name: str, rule: str, updates: int) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.LazyLinear(3))
    x, y = torch.randn(8, 1, 6, 6), torch.randint(0, 3, (8,))
    model(x)
    norm = model[1]
    norm.reset_running_stats()

    def closure() -> Tensor:
        model.zero_grad()
        loss = nn.functional.cross_entropy(model(x), y)
        loss.backward()
        return loss.detach()

    batch_mean = model[0](x).mean((0, 2, 3)).detach()
    radius = "epsilon" if name == "amp" else "rho"
    adversarial_gradient(model, perturbation(name, batchnorm=rule, **{radius: 0.05}), closure)
    assert norm.num_batches_tracked.item() == updates
    after_one = 0.1 * batch_mean
    assert torch.allclose(norm.running_mean, after_one, atol=1e-6) == (updates == 1)
    assert norm.track_running_stats
