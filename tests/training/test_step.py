"""One step against torch's plain training loop."""

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from thriftnet.augment.mixing import Targets
from thriftnet.config import LookaheadConfig, OptimizerConfig, PerturbationConfig, RuntimeConfig
from thriftnet.errors import NonFiniteLossError
from thriftnet.optim.averaging import WeightAverage
from thriftnet.optim.build import build_optimizer
from thriftnet.optim.lookahead import Lookahead
from thriftnet.runtime import resolve
from thriftnet.training.step import Learner, train_step

IMAGES = torch.randn(6, 3, 8, 8, generator=torch.Generator().manual_seed(0))
LABELS = torch.tensor([0, 1, 2, 0, 1, 2])


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3))


def learner(
    model: nn.Module, config: OptimizerConfig, perturbation: PerturbationConfig | None = None, **values: float
) -> Learner:
    runtime = resolve(RuntimeConfig(device="cpu", precision="fp32", threads=1))
    decay = values.get("ema_decay")
    return Learner(
        network=model,
        optimizer=build_optimizer(model, config, runtime.device),
        optimizer_config=config,
        perturbation=perturbation,
        label_smoothing=values.get("label_smoothing", 0.0),
        average=WeightAverage(model, decay) if decay else None,
        scaler=torch.amp.GradScaler("cpu", enabled=False),
        runtime=runtime,
    )


def test_equals_the_plain_loop() -> None:
    config = OptimizerConfig(name="sgd", lr=0.1, weight_decay=0.01, clip_norm=0.5)
    ours, theirs = network(), network()
    plain = torch.optim.SGD(theirs.parameters(), 0.1, momentum=0.9, weight_decay=0.01)
    mine = learner(ours, config, label_smoothing=0.1)
    for _ in range(3):
        loss, correct = train_step(mine, IMAGES, LABELS)
        plain.zero_grad()
        logits = theirs(IMAGES)
        expected = nn.functional.cross_entropy(logits, LABELS, label_smoothing=0.1)
        expected.backward()
        nn.utils.clip_grad_norm_(theirs.parameters(), 0.5)
        plain.step()
        assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
        assert int(correct) == int((logits.argmax(1) == LABELS).sum())
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("perturbation", [None, PerturbationConfig(epsilon=0.1)])
def test_mixed_labels_are_the_weighted_sum_of_cross_entropies(perturbation: PerturbationConfig | None) -> None:
    config = OptimizerConfig(name="sgd", lr=0.1, momentum=0.0)
    partners = torch.tensor([1, 2, 0, 0, 2, 2])
    weights = torch.tensor([[0.9, 0.1], [0.4, 0.6], [0.5, 0.5], [1.0, 0.0], [0.25, 0.75], [0.3, 0.7]])
    model, reference = network(), network()
    targets = Targets(torch.stack([LABELS, partners], dim=1), weights)
    loss, correct = train_step(learner(model, config, perturbation, label_smoothing=0.1), IMAGES, targets)
    logits = reference(IMAGES)
    losses = [
        nn.functional.cross_entropy(logits, labels, label_smoothing=0.1, reduction="none")
        for labels in (LABELS, partners)
    ]
    expected = (torch.stack(losses, dim=1) * weights).sum(1).mean()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    heaviest = torch.tensor([0, 2, 2, 0, 2, 2])  # of 2 and 0 with half each, the image's own
    assert int(correct) == int((logits.argmax(1) == heaviest).sum())
    if perturbation is None:
        expected.backward()
        torch.optim.SGD(reference.parameters(), 0.1).step()
        for ours, theirs in zip(model.parameters(), reference.parameters(), strict=True):
            torch.testing.assert_close(ours, theirs)


def test_perturbed_step_clips_only_the_gradient_that_it_steps_with() -> None:
    config = OptimizerConfig(name="sgd", lr=1.0, momentum=0.0, clip_norm=1e-3)
    model = network()
    before = [parameter.detach().clone() for parameter in model.parameters()]
    seen: list[float] = []
    hook = model[0].register_forward_pre_hook(lambda module, inputs: seen.append(module.weight.detach().norm().item()))
    train_step(learner(model, config, PerturbationConfig(epsilon=0.5)), IMAGES, LABELS)
    hook.remove()
    moved = torch.cat([(a.detach() - b).flatten() for a, b in zip(model.parameters(), before, strict=True)]).norm()
    assert moved.item() == pytest.approx(1e-3, rel=1e-3)  # the step is clipped
    assert len(seen) == 2
    assert abs(seen[1] - seen[0]) > 1e-2  # the perturbation is not: it moved the weights much further


def test_the_average_follows_the_update() -> None:
    model = network()
    mine = learner(model, OptimizerConfig(lr=0.1), ema_decay=0.5)
    before = model[0].weight.detach().clone()
    train_step(mine, IMAGES, LABELS)
    assert mine.average is not None
    expected = before * 0.1 + model[0].weight.detach() * 0.9  # the decay of the first update is 1 / 10
    torch.testing.assert_close(mine.average.network[0].weight, expected)


def test_lookahead_sets_the_weights_back_before_they_are_averaged() -> None:
    config = OptimizerConfig(lr=0.1)
    plain, model = network(), network()
    start = model[0].weight.detach().clone()
    train_step(learner(plain, config), IMAGES, LABELS)
    lookahead = Lookahead(model, LookaheadConfig(steps=1, alpha=0.25))
    mine = replace(learner(model, config, ema_decay=0.5), lookahead=lookahead)
    train_step(mine, IMAGES, LABELS)
    assert mine.average is not None
    slow = start + 0.25 * (plain[0].weight.detach() - start)
    torch.testing.assert_close(model[0].weight.detach(), slow)
    torch.testing.assert_close(lookahead.network[0].weight, slow)
    torch.testing.assert_close(mine.average.network[0].weight, start * 0.1 + slow * 0.9)


def test_a_step_before_the_perturbation_begins_is_a_plain_one() -> None:
    config = OptimizerConfig(lr=0.1)
    plain, early = network(), network()
    train_step(learner(plain, config), IMAGES, LABELS)
    train_step(learner(early, config, PerturbationConfig(name="sam")), IMAGES, LABELS, perturbed=False)
    for a, b in zip(plain.parameters(), early.parameters(), strict=True):
        assert torch.equal(a, b)
    assert early[1].num_batches_tracked == 1


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_non_finite_loss_changes_nothing(bad: float) -> None:
    model = network()
    mine = learner(model, OptimizerConfig(lr=0.1))
    train_step(mine, IMAGES, LABELS)
    before = [parameter.detach().clone() for parameter in model.parameters()]
    images = IMAGES.clone()
    images[0, 0, 0, 0] = bad
    with pytest.raises(NonFiniteLossError):
        train_step(mine, images, LABELS)
    for old, new in zip(before, model.parameters(), strict=True):
        assert torch.equal(old, new)
