"""Accuracy without labels, by hand."""

import pytest
import torch

from thriftnet.evaluation.accuracy_estimates import NAMES, fit_estimator


def logits_of(confidences: list[float], predicted: int = 0) -> torch.Tensor:
    """Two classes; class `predicted` has each confidence."""
    chance = torch.tensor(confidences, dtype=torch.float64)
    both = [chance, 1 - chance] if predicted == 0 else [1 - chance, chance]
    return torch.stack(both, dim=1).log()


# Right at 0.9, 0.8, 0.6; wrong at 0.7: accuracy 3/4, mean confidence 0.75; one image lies below the threshold.
KNOWN, LABELS = logits_of([0.9, 0.8, 0.6, 0.7]), torch.tensor([0, 0, 0, 1])


def test_by_hand() -> None:
    estimates = fit_estimator(KNOWN, LABELS).estimates(logits_of([0.95, 0.65, 0.55, 0.71, 0.7]))
    assert set(estimates) == set(NAMES)
    assert estimates["average_confidence"] == pytest.approx(0.712)
    assert estimates["difference_of_confidences"] == pytest.approx(0.75 - (0.75 - 0.712))
    assert estimates["thresholded_confidence"] == pytest.approx(3 / 5)  # 0.95, 0.71, 0.70 reach 0.70


@pytest.mark.parametrize("labels", [LABELS, torch.zeros(4).long(), torch.ones(4).long()])
def test_on_the_images_of_the_fit_all_but_the_first_are_exact(labels: torch.Tensor) -> None:
    accuracy = float((labels == 0).double().mean())
    estimates = fit_estimator(KNOWN, labels).estimates(KNOWN)
    assert estimates["difference_of_confidences"] == pytest.approx(accuracy)
    assert estimates["thresholded_confidence"] == pytest.approx(accuracy)


def test_an_estimate_is_a_fraction() -> None:
    sure = fit_estimator(logits_of([0.6, 0.6]), torch.tensor([0, 0]))
    assert sure.estimates(logits_of([0.99, 0.99], predicted=1))["difference_of_confidences"] == 1.0
