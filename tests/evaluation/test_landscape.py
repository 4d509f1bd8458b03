"""The loss around a solution: known exactly for quadratics, and unchanged where the network's function is."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from tests.training.conftest import TinySource, tiny_recipe
from thriftnet.errors import DataError
from thriftnet.evaluation.landscape import (
    ImageLoss,
    adaptive_sharpness,
    batchnorm_estimated,
    filter_normalised_direction,
    filter_norms,
    losses_along,
    losses_between,
    moved_parameters,
)
from thriftnet.models.build import build_model

CPU = torch.device("cpu")
IMAGES = TinySource().train()


class Quadratic:
    """loss = 1/2 (w - centre)^T H (w - centre) of the one linear weight of a network, [out, in] in a row."""

    def __init__(self, hessian: Tensor, centre: Tensor) -> None:
        self.hessian, self.centre = hessian, centre

    def _difference(self, network: nn.Module) -> Tensor:
        weight = network.get_parameter("weight")
        return weight.detach().double().flatten() - self.centre

    def __call__(self, network: nn.Module) -> float:
        d = self._difference(network)
        return float(d @ self.hessian @ d) / 2

    def with_gradient(self, network: nn.Module, parameters: Sequence[nn.Parameter]) -> tuple[float, list[Tensor]]:
        gradient = self.hessian @ self._difference(network)
        return self(network), [gradient.view_as(parameter).to(parameter) for parameter in parameters]


def linear(rows: Sequence[Sequence[float]]) -> nn.Linear:
    network = nn.Linear(len(rows[0]), len(rows))
    with torch.no_grad():
        network.weight.copy_(torch.tensor(rows))
    return network


def tiny_network(seed: int = 0) -> nn.Module:
    """With running statistics and scales that are not those of a fresh network."""
    torch.manual_seed(seed)
    network = build_model(tiny_recipe().model, 1, 3)
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight.uniform_(0.5, 1.5)
                module.bias.uniform_(-0.5, 0.5)
                module.eps = 1e-12  # so that a filter's scale is without any effect
                module.momentum = 1.0
    network.train()(next(image_loss()._batches(90)))
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 0.1
    return network.eval()


def image_loss(batchnorm: str = "stored", batch_size: int = 90) -> ImageLoss:
    return ImageLoss(IMAGES, (0.4,), (0.2,), device=CPU, batch_size=batch_size, batchnorm=batchnorm)  # type: ignore[arg-type]


def state(network: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in network.state_dict().items()}


def assert_same_bits(network: nn.Module, before: dict[str, Tensor]) -> None:
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def rescaled(network: nn.Module, factors: Sequence[float]) -> nn.Module:
    """The same function: filters of every convolution (all have a BatchNorm after them) and what that saw, scaled."""
    twin = copy.deepcopy(network)
    convs = [m for m in twin.modules() if isinstance(m, nn.Conv2d)]
    norms = [m for m in twin.modules() if isinstance(m, nn.BatchNorm2d)]
    assert len(convs) == len(norms)
    with torch.no_grad():
        for conv, norm in zip(convs, norms, strict=True):
            scale = torch.tensor([factors[i % len(factors)] for i in range(conv.out_channels)])
            conv.weight.mul_(scale[:, None, None, None])
            assert norm.running_mean is not None
            assert norm.running_var is not None
            norm.running_mean.mul_(scale)
            norm.running_var.mul_(scale**2)
    return twin


class TestDirections:
    @settings(max_examples=25, deadline=None)
    @given(
        seed=st.integers(0, 2**31),
        number=st.integers(0, 9),
        scales=st.lists(st.floats(1e-3, 1e3), min_size=3, max_size=3),
    )
    def test_each_filter_has_the_norm_of_the_networks(self, seed: int, number: int, scales: list[float]) -> None:
        network = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(3, 2))
        with torch.no_grad():
            network[0].weight.mul_(torch.tensor(scales)[:, None, None, None])
        direction = filter_normalised_direction(network, seed, number)
        assert set(direction) == {"0.weight", "3.weight"}  # no bias, nothing of the BatchNorm
        for name, values in direction.items():
            weight = network.get_parameter(name)
            assert values.shape == weight.shape
            for index in range(len(weight)):
                assert values[index].norm() == pytest.approx(float(weight[index].detach().norm()), rel=1e-5)

    def test_the_norm_is_taken_over_what_leads_to_one_output(self) -> None:
        weight = torch.zeros(2, 3, 2, 2)
        weight[0, 0, 0, 0], weight[0, 2, 1, 1], weight[1] = 3.0, 4.0, 0.5
        assert filter_norms(weight).tolist() == [[[[5.0]]], [[[pytest.approx(math.sqrt(12) / 2)]]]]

    def test_two_networks_get_the_same_draws(self) -> None:
        first, second = tiny_network(0), tiny_network(1)
        ones, others = (filter_normalised_direction(network, 5, 2) for network in (first, second))
        for name in ones:
            unit, other = ones[name] / filter_norms(ones[name]), others[name] / filter_norms(others[name])
            assert torch.allclose(unit, other, atol=1e-6)
        assert not torch.allclose(ones["conv.weight"], filter_normalised_direction(first, 5, 3)["conv.weight"])
        assert not torch.allclose(ones["conv.weight"], filter_normalised_direction(first, 6, 2)["conv.weight"])

    def test_the_draws_are_gaussian(self) -> None:
        network = nn.Linear(20_000, 1)
        direction = filter_normalised_direction(network, 0, 0)["weight"]
        unit = (direction / direction.std()).flatten()
        assert abs(float(unit.mean())) < 0.03
        assert float((unit**4).mean()) == pytest.approx(3, abs=0.15)  # of a uniform distribution 1.8

    def test_a_filter_of_zeros_and_a_frozen_weight_stay(self) -> None:
        network = nn.Sequential(nn.Conv2d(1, 2, 1), nn.Conv2d(2, 1, 1))
        network[1].weight.requires_grad_(False)
        with torch.no_grad():
            network[0].weight[1] = 0
        direction = filter_normalised_direction(network, 0, 0)
        assert set(direction) == {"0.weight"}
        assert float(direction["0.weight"][1].abs().sum()) == 0


class TestLosses:
    def test_a_quadratic_by_hand(self) -> None:
        network = linear([[3.0, 4.0]])
        before = state(network)
        loss = Quadratic(torch.diag(torch.tensor([2.0, 6.0])).double(), torch.tensor([3.0, 4.0]).double())
        x, y = {"weight": torch.tensor([[1.0, 0.0]])}, {"weight": torch.tensor([[0.0, 1.0]])}
        # 1/2 (2 a^2 + 6 b^2)
        assert losses_along(network, [x, y], [(0, 0), (1, 0), (0, 1), (-2, 0.5)], loss) == [0, 1, 3, 4.75]
        assert losses_along(network, [x], [(-1,), (3,)], loss) == [1, 9]
        assert_same_bits(network, before)

    def test_the_line_between_two_networks(self) -> None:
        start, end = linear([[3.0, 4.0]]), linear([[5.0, 4.0]])
        loss = Quadratic(torch.diag(torch.tensor([2.0, 6.0])).double(), torch.tensor([3.0, 4.0]).double())
        before = state(start)
        assert losses_between(start, end, [0, 0.5, 1], loss) == [0, 1, 4]
        assert_same_bits(start, before)

    @pytest.mark.parametrize("failing_call", [1, 2, 5])
    def test_weights_come_back_bit_for_bit_even_from_an_error(self, failing_call: int) -> None:
        network = tiny_network()
        before, calls = state(network), 0

        def fails(*_: object) -> tuple[float, list[Tensor]]:
            nonlocal calls
            calls += 1
            if calls == failing_call:
                raise KeyboardInterrupt
            return 1.0, [torch.ones_like(p) for p in moved_parameters(network).values()]

        with pytest.raises(KeyboardInterrupt):
            adaptive_sharpness(network, fails, rho=0.5, steps=9)
        assert_same_bits(network, before)
        directions = [filter_normalised_direction(network, 0, 0)]
        calls = 0
        with pytest.raises(KeyboardInterrupt):
            losses_along(network, directions, [(0.3,)] * 9, lambda network: fails()[0])
        assert_same_bits(network, before)

    @pytest.mark.parametrize("batchnorm", ["stored", "re-estimated"])
    def test_nothing_of_the_network_has_changed_afterwards(self, batchnorm: str) -> None:
        network, other = tiny_network(0), tiny_network(1)
        network.train()
        before, modes = state(network), [module.training for module in network.modules()]
        loss = image_loss(batchnorm)
        losses_along(network, [filter_normalised_direction(network, 0, 0)], [(0.5,), (1.0,)], loss)
        losses_between(network, other, [0.3], loss)
        adaptive_sharpness(network, loss.with_gradient, rho=0.5, steps=2)
        assert_same_bits(network, before)
        assert [module.training for module in network.modules()] == modes
        assert all(m.momentum == 0.1 for m in network.modules() if isinstance(m, nn.BatchNorm2d))


class TestSharpness:
    def test_of_a_quadratic_at_its_minimum_is_half_rho_squared_times_the_largest_eigenvalue(self) -> None:
        """T = diag(5, 5, 2, 2) of the filters (3, 4) and (2, 0): T H T has eigenvalues 25 h1, 25 h2, 4 h3, 4 h4."""
        network = linear([[3.0, 4.0], [2.0, 0.0]])
        loss = Quadratic(
            torch.diag(torch.tensor([0.5, 1.0, 9.0, 2.0])).double(), network.weight.detach().double().flatten()
        )
        before = state(network)
        found = adaptive_sharpness(network, loss.with_gradient, rho=0.4, steps=60)
        assert found.rise == pytest.approx(0.5 * 0.4**2 * 4 * 9, rel=1e-4)  # not 25 x 1, though 9 is the largest of H
        assert_same_bits(network, before)

    def test_with_mixed_curvature_is_the_eigenvalue_that_torch_finds(self) -> None:
        torch.manual_seed(0)
        network = linear(torch.randn(3, 2).tolist())
        root = torch.randn(6, 6).double()
        hessian = root @ root.T
        loss = Quadratic(hessian, network.weight.detach().double().flatten())
        t = filter_norms(network.weight).expand_as(network.weight).flatten().double()
        largest = float(torch.linalg.eigvalsh(t[:, None] * hessian * t).max())
        found = adaptive_sharpness(network, loss.with_gradient, rho=0.1, steps=200)
        assert found.rise == pytest.approx(0.5 * 0.1**2 * largest, rel=1e-3)
        assert found.rise <= 0.5 * 0.1**2 * largest * (1 + 1e-5)

    def test_the_first_step_is_asams(self) -> None:
        """A linear loss g: the highest point is rho T^2 g / ||T g||, with a rise of rho ||T g||."""
        network = linear([[3.0, 4.0], [0.0, 2.0]])
        gradient = torch.tensor([[1.0, 0.0], [0.0, -2.0]])

        def loss(network: nn.Module, parameters: Sequence[nn.Parameter]) -> tuple[float, list[Tensor]]:
            return float((network.get_parameter("weight").detach() * gradient).sum()), [gradient for _ in parameters]

        found = adaptive_sharpness(network, loss, rho=0.5, steps=1)
        assert found.rise == pytest.approx(0.5 * math.sqrt(5.0**2 + 4.0**2), rel=1e-5)
        assert found.best_step == 1

    def test_a_solution_that_cannot_get_worse_has_none(self) -> None:
        found = adaptive_sharpness(linear([[1.0]]), lambda _, p: (2.0, [torch.zeros(1, 1) for _ in p]), rho=1, steps=3)
        assert (found.rise, found.best_step) == (0.0, 0)

    def test_a_loss_that_is_no_number_is_infinitely_worse(self) -> None:
        values = iter([1.0, 1.0, math.nan, 5.0])
        found = adaptive_sharpness(
            linear([[1.0]]), lambda _, p: (next(values), [torch.ones(1, 1) for _ in p]), rho=1, steps=2
        )
        assert (found.rise, found.best_step) == (math.inf, 1)


class TestScale:
    """The point of the normalisation: what does not change the network's function does not change its landscape."""

    @pytest.mark.parametrize("batchnorm", ["stored", "re-estimated"])
    @pytest.mark.parametrize("factors", [(10.0,), (0.2, 3.0, 7.0)])
    def test_rescaled_filters_have_the_same_landscape(self, batchnorm: str, factors: tuple[float, ...]) -> None:
        network = tiny_network()
        twin = rescaled(network, factors)
        loss = image_loss(batchnorm)
        points = [(-1.0, 0.5), (-0.3, 0.0), (0.0, 0.0), (0.4, -0.4), (1.0, 1.0)]

        def landscape(of: nn.Module) -> list[float]:
            return losses_along(of, [filter_normalised_direction(of, 3, n) for n in (0, 1)], points, loss)

        def sharpness(of: nn.Module) -> float:
            return adaptive_sharpness(of, loss.with_gradient, rho=0.5, steps=3).rise

        losses = landscape(network)
        assert max(losses) > losses[2] + 0.05  # there is something to see
        assert landscape(twin) == pytest.approx(losses, rel=2e-4)
        assert sharpness(twin) == pytest.approx(sharpness(network), rel=2e-3)

    def test_directions_of_one_length_for_all_do_not_have_that(self) -> None:
        network = tiny_network()
        twin = rescaled(network, (10.0,))
        plain = filter_normalised_direction(network, 3, 0)
        there = losses_along(network, [plain], [(1.0,)], image_loss())
        assert losses_along(twin, [plain], [(1.0,)], image_loss()) != pytest.approx(there, rel=0.05)


class TestImageLoss:
    @pytest.mark.parametrize("batchnorm", ["stored", "re-estimated"])
    def test_the_centre_and_its_gradient_are_torchs(self, batchnorm: str) -> None:
        network = tiny_network()
        inputs = (IMAGES.images.float() / 255 - 0.4) / 0.2
        twin = copy.deepcopy(network).train(batchnorm == "re-estimated")
        for module in twin.modules():
            if isinstance(module, nn.Dropout):
                module.eval()
        expected = nn.functional.cross_entropy(twin(inputs), IMAGES.labels)
        loss, gradients = image_loss(batchnorm).with_gradient(network, [network.get_parameter("linear.weight")])
        # torch normalises a batch with the biased variance and stores the other one: 90 x 256 values, hardly different
        assert loss == pytest.approx(float(expected.detach()), rel=1e-4)
        expected.backward()
        reference = twin.get_parameter("linear.weight").grad
        assert torch.allclose(gradients[0], reference, rtol=1e-3, atol=2e-4)  # type: ignore[arg-type]

    def test_the_size_of_a_batch_does_not_matter(self) -> None:
        network = tiny_network()
        weight = [network.get_parameter("conv.weight")]
        whole, parts = (image_loss(batch_size=size).with_gradient(network, weight) for size in (90, 7))
        assert parts[0] == pytest.approx(whole[0], rel=1e-6)
        assert torch.allclose(parts[1][0], whole[1][0], atol=1e-7)

    @pytest.mark.parametrize("batchnorm", ["stored", "re-estimated"])
    def test_batches_of_gradients_may_be_smaller_so_that_they_fit_into_memory(self, batchnorm: str) -> None:
        network = tiny_network()
        weight = [network.get_parameter("conv.weight")]
        whole = image_loss(batchnorm, batch_size=45).with_gradient(network, weight)
        seen: list[tuple[bool, int]] = []
        network.register_forward_pre_hook(lambda _, inputs: seen.append((torch.is_grad_enabled(), len(inputs[0]))))
        loss = image_loss(batchnorm, batch_size=45)
        loss.gradient_batch_size = 20
        small = loss.with_gradient(network, weight)
        # The same also where statistics are estimated: that is done in the larger batches.
        assert small[0] == pytest.approx(whole[0], rel=1e-6)
        assert torch.allclose(small[1][0], whole[1][0], atol=1e-7)
        assert [size for gradient, size in seen if gradient] == [20, 20, 20, 20, 10]
        seen.clear()
        loss(network)
        assert {size for _, size in seen} == {45}

    def test_each_pass_is_reported(self) -> None:
        passes: list[None] = []
        loss = ImageLoss(IMAGES, (0.4,), (0.2,), device=CPU, after=lambda: passes.append(None))
        losses_along(tiny_network(), [], [(), ()], loss)
        assert len(passes) == 2

    def test_estimated_statistics_are_the_mean_of_the_batches(self) -> None:
        norm = nn.BatchNorm2d(1).eval()
        batches = [torch.tensor([1.0, 3.0]).view(2, 1, 1, 1), torch.tensor([5.0, 9.0]).view(2, 1, 1, 1)]
        with batchnorm_estimated(norm, batches):
            assert norm.running_mean is not None
            assert norm.running_var is not None
            assert float(norm.running_mean) == pytest.approx((2 + 7) / 2)
            assert float(norm.running_var) == pytest.approx((2 + 8) / 2)  # unbiased variances
            assert not norm.training
        assert (float(norm.running_mean), float(norm.running_var), int(norm.num_batches_tracked)) == (0, 1, 0)  # type: ignore[arg-type]


@pytest.mark.parametrize(("count", "batch_size", "works"), [(5, 4, True), (3, 2, True), (9, 1, True), (1, 4, False)])
def test_statistics_are_re_estimated_on_batches_of_more_than_one_image(
    count: int, batch_size: int, works: bool
) -> None:
    """Where the last stage sees one pixel, an image alone has no variance."""
    model = {"widths": [4, 4, 4, 4, 8], "blocks": [1] * 5, "strides": [1, 2, 2, 2, 2]}
    network, images = build_model(tiny_recipe(model=model).model, 1, 3), IMAGES.select(torch.arange(count))
    loss = ImageLoss(images, (0.4,), (0.2,), device=CPU, batch_size=batch_size, batchnorm="re-estimated")
    if works:
        assert math.isfinite(loss(network))
    else:
        with pytest.raises(DataError, match="cannot be re-estimated on one image"):
            loss(network)
