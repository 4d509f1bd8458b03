"""The Jensen-Shannon loss: its value and gradient, what it is zero for, a step and a training with it."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.distance import jensenshannon
from torch import nn

from tests.training.conftest import tiny_recipe
from tests.training.test_graphs import batches_of
from tests.training.test_loop import run
from tests.training.test_step import IMAGES, LABELS, learner, network
from thriftnet.config import OptimizerConfig, PerturbationConfig, RecipeConfig
from thriftnet.errors import NonFiniteLossError, RecipeError
from thriftnet.models.build import build_model
from thriftnet.training.consistency import jensen_shannon
from thriftnet.training.run_folder import RunFolder
from thriftnet.training.step import Learner, train_step

LOGITS = torch.randn(3, 5, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
OPS = {"ops": [{"op": "horizontal_flip"}, {"op": "augmix"}]}


# ---- the loss


def test_value_by_hand() -> None:
    # Posteriors (1/2, 1/2), (1/2, 1/2), (1/4, 3/4): the mean is (5/12, 7/12).
    logits = torch.tensor([[[0.0, 0.0]], [[0.0, 0.0]], [[0.0, math.log(3)]]], dtype=torch.float64)
    wanted = (
        2 * (0.5 * math.log(0.5 * 12 / 5) + 0.5 * math.log(0.5 * 12 / 7))
        + 0.25 * math.log(0.25 * 12 / 5)
        + 0.75 * math.log(0.75 * 12 / 7)
    ) / 3
    assert jensen_shannon(logits).item() == pytest.approx(wanted, rel=1e-12)


def test_of_two_copies_it_is_scipys() -> None:
    p, q = LOGITS[:2].softmax(2).numpy()
    assert jensen_shannon(LOGITS[:2]).item() == pytest.approx(np.mean(jensenshannon(p, q, axis=1) ** 2), rel=1e-9)


def test_value_and_gradient_are_those_of_the_papers_sum_of_divergences() -> None:
    ours, theirs = LOGITS.clone().requires_grad_(), LOGITS.clone().requires_grad_()
    loss = jensen_shannon(ours)
    loss.backward()
    posteriors = theirs.softmax(2)
    mixture = posteriors.mean(0)
    divergences = [nn.functional.kl_div(mixture.log(), p, reduction="batchmean") for p in posteriors]
    wanted = sum(divergences) / 3
    wanted.backward()
    assert loss.item() == pytest.approx(wanted.item(), rel=1e-12)
    torch.testing.assert_close(ours.grad, theirs.grad)
    assert torch.autograd.gradcheck(jensen_shannon, (LOGITS.clone().requires_grad_(),))


@given(st.lists(st.floats(-50, 50), min_size=4, max_size=4), st.floats(-5, 5))
def test_equal_posteriors_cost_nothing_and_give_no_gradient(row: list[float], shift: float) -> None:
    logits = torch.tensor(row).expand(3, 2, 4) + shift * torch.arange(3)[:, None, None]  # the same after softmax
    logits.requires_grad_()
    loss = jensen_shannon(logits)
    loss.backward()
    assert abs(loss.item()) < 1e-5
    assert logits.grad is not None
    assert float(logits.grad.abs().max()) < 1e-5


@given(st.permutations(range(3)))
def test_the_copies_are_exchangeable(order: list[int]) -> None:
    assert jensen_shannon(LOGITS[order]).item() == pytest.approx(jensen_shannon(LOGITS).item(), rel=1e-12)


def test_certain_posteriors_that_contradict_each_other_stay_finite() -> None:
    logits = torch.full((3, 1, 3), -300.0)
    for copy in range(3):
        logits[copy, 0, copy] = 300.0
    logits.requires_grad_()
    loss = jensen_shannon(logits)
    loss.backward()
    assert loss.item() == pytest.approx(math.log(3), rel=1e-6)  # the most there is
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


# ---- a step


def with_copies(model: nn.Module, perturbation: PerturbationConfig | None = None, **values: Any) -> Learner:
    config = OptimizerConfig(name="sgd", lr=0.1, momentum=0.0)
    return replace(learner(model, config, perturbation, **values), consistency_weight=12.0)


COPIES = torch.cat([IMAGES, IMAGES + 0.3 * torch.randn(IMAGES.shape), IMAGES.flip(3)])


@pytest.mark.parametrize("perturbation", [None, PerturbationConfig(epsilon=0.1)])
def test_a_step_is_that_of_one_pass_over_all_copies(perturbation: PerturbationConfig | None) -> None:
    ours, theirs = network(), network()
    passes: list[int] = []
    ours.register_forward_pre_hook(lambda module, inputs: passes.append(len(inputs[0])))
    loss, correct = train_step(with_copies(ours, perturbation, label_smoothing=0.1), COPIES, LABELS)
    logits = theirs(COPIES)
    expected = nn.functional.cross_entropy(logits[:6], LABELS, label_smoothing=0.1)
    expected = expected + 12 * jensen_shannon(logits.view(3, 6, 3))
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    assert int(correct) == int((logits[:6].argmax(1) == LABELS).sum())  # of the images, not of their copies
    assert passes == [18] * (1 if perturbation is None else 2)
    if perturbation is None:
        expected.backward()
        torch.optim.SGD(theirs.parameters(), 0.1).step()
        for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
            torch.testing.assert_close(a, b)


def test_a_copy_that_is_not_finite_changes_nothing() -> None:
    model = network()
    before = [tensor.clone() for tensor in model.state_dict().values()]
    images = COPIES.clone()
    images[-1, 0, 0, 0] = math.nan  # of the last copy alone
    with pytest.raises(NonFiniteLossError, match="the loss is nan"):
        train_step(with_copies(model), images, LABELS)
    assert all(torch.equal(*pair) for pair in zip(before, model.state_dict().values(), strict=True))


# ---- a training


def divergence(recipe: RecipeConfig, folder: RunFolder) -> float:
    """Of a trained network's predictions for the copies of one batch."""
    batches = batches_of(recipe)
    model = build_model(recipe.model, 1, 3, recipe.name)
    model.load_state_dict(folder.read_weights("last"))
    with torch.no_grad():
        logits = model.eval()(batches.batch(batches.epoch(1), 0)[0])
    return jensen_shannon(logits.unflatten(0, (3, -1))).item()


def test_training_brings_the_predictions_for_copies_together(out: Path) -> None:
    severe = {"ops": [{"op": "augmix", "severity": 10.0}]}
    weights = {"weak": 1e-9, "paper's": 12.0}
    found = {}
    for name, weight in weights.items():
        recipe = tiny_recipe(augment=severe | {"consistency_weight": weight}, training={"epochs": 12})
        folder = run(recipe, out / name)
        assert folder.read_history()[-1]["validation_accuracy"] > 0.8
        found[name] = divergence(recipe, folder)
    assert 0 < found["paper's"] < 0.5 * found["weak"]


def test_mixed_precision_gives_nearly_the_curve_of_fp32(out: Path) -> None:
    augment, plain = OPS | {"consistency_weight": 12.0}, {"model": {"dropout": 0.0}}
    losses = [
        [row["train_loss"] for row in run(recipe, out / precision).read_history()]
        for precision in ("fp32", "bf16")
        for recipe in [tiny_recipe(augment=augment, runtime={"precision": precision}, **plain)]
    ]
    assert losses[0] == pytest.approx(losses[1], rel=0.05)


# ---- the recipe


@pytest.mark.parametrize(
    ("augment", "message"),
    [
        ({"ops": [{"op": "horizontal_flip"}]}, r"\[augment\] consistency_weight belongs to ops with .*'augmix'"),
        (OPS | {"concatenate_originals": True}, "consistency_weight belongs to concatenate_originals = false"),
        (OPS | {"mix": {"name": "cutmix"}}, "consistency_weight belongs to augment without mix"),
    ],
)
def test_a_weight_without_meaning_is_refused(augment: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        tiny_recipe(augment=augment | {"consistency_weight": 12.0})


@pytest.mark.parametrize("weight", [0.0, -1.0, math.inf])
def test_a_weight_is_positive(weight: float) -> None:
    with pytest.raises(RecipeError, match="consistency_weight"):
        tiny_recipe(augment=OPS | {"consistency_weight": weight})
