"""Temperature scaling finds the temperature that the labels were drawn with, and SciPy's minimum."""

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


def test_where_all_is_right_or_wrong_it_stays_within_bounds() -> None:
    logits = torch.tensor([[5.0, 0.0], [0.0, 3.0]])
    assert fit_temperature(logits, torch.tensor([0, 1])) == pytest.approx(LOWEST, rel=1e-6)
    assert fit_temperature(logits, torch.tensor([1, 0])) == pytest.approx(HIGHEST, rel=1e-6)
