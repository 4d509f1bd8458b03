"""Temperature scaling finds the temperature that the labels were drawn with, and SciPy's minimum."""

import math

import pytest
import torch
from scipy import optimize
from torch.nn.functional import cross_entropy

from thriftnet.evaluation.calibration import HIGHEST, LOWEST, fit_temperature


def drawn(temperature: float, count: int = 20_000) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits, and labels drawn from softmax(logits / temperature)."""
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(count, 5, generator=generator)
    return logits, torch.multinomial((logits / temperature).softmax(1), 1, generator=generator)[:, 0]


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.5])
def test_the_temperature_of_the_labels_is_found(temperature: float) -> None:
    assert fit_temperature(*drawn(temperature)) == pytest.approx(temperature, rel=0.03)


def test_it_is_the_minimum_of_the_loss() -> None:
    logits, labels = drawn(1.7, 500)

    def loss(temperature: float) -> float:
        return float(cross_entropy(logits.double() / temperature, labels))

    best = optimize.minimize_scalar(loss, bounds=(0.1, 10), method="bounded", options={"xatol": 1e-9}).x
    assert fit_temperature(logits, labels) == pytest.approx(best, rel=1e-4)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
@pytest.mark.parametrize("labels", [[0, 1, 0], [1, 0, 1]], ids=["all right", "all wrong"])
def test_where_all_is_right_or_wrong_no_temperature_is_the_best(labels: list[int], scale: float) -> None:
    logits = scale * torch.tensor([[5.0, 0.0], [0.0, 3.0], [4.0, 0.0]])
    assert fit_temperature(logits, torch.tensor(labels)) is None


@pytest.mark.parametrize(
    ("temperature", "found"), [(LOWEST / 2, False), (0.1, True), (9.0, True), (2 * HIGHEST, False)]
)
def test_an_optimum_beyond_the_bounds_is_none(temperature: float, found: bool) -> None:
    logits = torch.tensor([[temperature, 0.0]]).expand(4, 2)  # three in four are class 0: best at T / ln 3
    best = fit_temperature(logits, torch.tensor([0, 0, 0, 1]))
    assert best == (pytest.approx(temperature / math.log(3)) if found else None)


def test_logits_without_differences_have_none() -> None:
    assert fit_temperature(torch.zeros(4, 3), torch.tensor([0, 1, 2, 0])) is None
