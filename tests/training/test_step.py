"""One step against torch's plain training loop."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from thriftnet.augment.mixing import Targets
from thriftnet.config import LookaheadConfig, MuonConfig, OptimizerConfig, PerturbationConfig, RuntimeConfig
from thriftnet.errors import NonFiniteLossError
from thriftnet.optim.averaging import WeightAverage
from thriftnet.optim.build import CompositeOptimizer, build_optimizer
from thriftnet.optim.lookahead import Lookahead
from thriftnet.runtime import resolve
from thriftnet.training.guard import Guard
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
    buffers = [buffer.clone() for buffer in model.buffers()]
    with pytest.raises(NonFiniteLossError, match="the loss is nan"):
        train_step(mine, images, LABELS)
    for old, new in zip(before + buffers, [*model.parameters(), *model.buffers()], strict=True):
        assert torch.equal(old, new)


class BadGradient(nn.Module):
    """The outputs of `network`; once `bad` is set, the gradient that it gets is that value somewhere."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = network()
        self.bad: float | None = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        outputs: torch.Tensor = self.inner(x)
        if self.bad is not None and outputs.requires_grad:
            outputs.register_hook(lambda gradient: gradient.index_fill(0, torch.tensor(1), self.bad))
        return outputs


def state_of(mine: Learner) -> list[torch.Tensor]:
    """Everything that a step may change."""
    keepers = [keeper.network for keeper in (mine.average, mine.lookahead) if keeper is not None]
    values = [value for model in (mine.network, *keepers) for value in (*model.parameters(), *model.buffers())]
    optimizer = mine.optimizer
    parts = optimizer.optimizers if isinstance(optimizer, CompositeOptimizer) else [optimizer]
    values += [value for part in parts for kept in part.state.values() for value in kept.values()]
    return [value.detach().clone() for value in values]


LEARNERS: dict[str, dict[str, Any]] = {
    "sgd": {},
    "sgd without momentum": {"momentum": 0.0},
    "clipped": {"clip_norm": 1.0},
    "clipped by value": {"clip_value": 0.1, "nesterov": True},
    "adam": {"name": "adam"},
    "adamw": {"name": "adamw", "weight_decay": 0.1},
    "muon": {"muon": MuonConfig(lr=0.02)},
    "muon on normalised weights": {"muon": MuonConfig(lr=0.02, normalize_weights=True)},
    "average": {"ema_decay": 0.9},
    "lookahead at a synchronisation": {"lookahead": LookaheadConfig(steps=2)},
    "sam": {"perturbation": PerturbationConfig(name="sam")},
    "amp, muon, lookahead, average": {
        "perturbation": PerturbationConfig(epsilon=0.1, batchnorm="first_pass"),
        "muon": MuonConfig(lr=0.02),
        "lookahead": LookaheadConfig(steps=2),
        "ema_decay": 0.9,
    },
}


def deferred_learner(model: nn.Module, **values: Any) -> Learner:
    """A learner that goes on as on a GPU; `values`: its parts, and fields of the optimiser's config."""
    parts = {name: values.pop(name, None) for name in ("muon", "lookahead", "perturbation", "ema_decay")}
    config = OptimizerConfig(**{"lr": 0.01} | values)
    mine = learner(model, config, parts["perturbation"], **({"ema_decay": 0.9} if parts["ema_decay"] else {}))
    lookahead = Lookahead(model, parts["lookahead"]) if parts["lookahead"] else None
    optimizer = build_optimizer(model, config, torch.device("cpu"), parts["muon"])
    return replace(mine, optimizer=optimizer, lookahead=lookahead, guard=Guard(deferred=True))


def deep_bad_gradient() -> BadGradient:
    """With a second convolution, which is Muon's."""
    model = BadGradient()
    model.inner = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3), nn.Flatten(), nn.Linear(64, 3)
    )
    return model


@pytest.mark.parametrize("values", LEARNERS.values(), ids=LEARNERS.keys())
@pytest.mark.parametrize("what", ["loss", "gradient nan", "gradient inf"])
@pytest.mark.parametrize("good_steps", [0, 1, 3])
def test_a_deferred_guard_leaves_everything_as_it_was(values: dict[str, Any], what: str, good_steps: int) -> None:
    if "clip_value" in values and what == "gradient inf":
        values = values | {"clip_norm": 1.0}
    torch.manual_seed(0)
    model = deep_bad_gradient()
    mine = deferred_learner(model, **values)
    for _ in range(good_steps):
        train_step(mine, IMAGES, LABELS)
    mine.guard.check()
    before, images = state_of(mine), IMAGES.clone()
    if what == "loss":
        images[0, 0, 0, 0] = math.nan
    else:
        model.bad = float(what.split()[1])
    train_step(mine, images, LABELS)
    model.bad = None
    train_step(mine, IMAGES, LABELS)  # good again, but nothing counts any more
    after = state_of(mine)
    if good_steps:
        assert len(before) == len(after)
        assert all(torch.equal(old, new) for old, new in zip(before, after, strict=True))
    else:  # the optimiser has made its state since, of zeros
        weights = len(before)
        assert all(torch.equal(old, new) for old, new in zip(before, after[:weights], strict=True))
        assert not any(state.any() for state in after[weights:])
    with pytest.raises(
        NonFiniteLossError, match="the loss is nan" if what == "loss" else "the gradient is not"
    ) as caught:
        mine.guard.check()
    assert caught.value.step == good_steps


@pytest.mark.parametrize("values", LEARNERS.values(), ids=LEARNERS.keys())
def test_a_deferred_guard_changes_no_good_step(values: dict[str, Any]) -> None:
    torch.manual_seed(0)
    first, second = deep_bad_gradient(), deep_bad_gradient()
    second.load_state_dict(first.state_dict())
    waiting, deferred = deferred_learner(first, **values), deferred_learner(second, **values)
    waiting = replace(waiting, guard=Guard())
    for _ in range(3):
        a, b = train_step(waiting, IMAGES, LABELS), train_step(deferred, IMAGES, LABELS)
        assert torch.equal(a[0], b[0])
    assert all(torch.equal(a, b) for a, b in zip(state_of(waiting), state_of(deferred), strict=True))


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("clip", [{}, {"clip_norm": 1.0}, {"clip_value": 0.1}])
def test_a_non_finite_gradient_of_a_finite_loss_changes_nothing(bad: float, clip: dict[str, float]) -> None:
    model = BadGradient()
    mine = learner(model, OptimizerConfig(lr=0.1, **clip))
    train_step(mine, IMAGES, LABELS)
    before = state_of(mine)
    model.bad = bad
    with pytest.raises(NonFiniteLossError, match="the gradient is not finite, at a loss of "):
        train_step(mine, IMAGES, LABELS)
    assert all(torch.equal(old, new) for old, new in zip(before, state_of(mine), strict=True))


def test_a_norm_that_overflows_does_not_reach_the_weights() -> None:
    model = BadGradient()
    mine = learner(model, OptimizerConfig(lr=0.1, momentum=0.0, clip_norm=1.0))
    model.bad = 1e30  # finite, but its square is not
    before = [parameter.detach().clone() for parameter in model.parameters()]
    train_step(mine, IMAGES, LABELS)
    for old, new in zip(before, model.parameters(), strict=True):
        assert torch.isfinite(new).all()
        assert (new - old).abs().max() <= 0.1


@pytest.mark.parametrize("deferred", [False, True])
@pytest.mark.parametrize("muon", [None, MuonConfig(lr=0.02)])
def test_loss_scaling_leaves_out_an_overflow_and_goes_on(deferred: bool, muon: MuonConfig | None) -> None:
    torch.manual_seed(0)
    model = deep_bad_gradient()
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    mine = replace(deferred_learner(model, muon=muon), scaler=scaler, guard=Guard(deferred=deferred))
    model.bad = math.inf
    before = [parameter.detach().clone() for parameter in model.parameters()]
    train_step(mine, IMAGES, LABELS)  # the first step of all, as is usual with a scale that begins high
    mine.guard.check()
    assert all(torch.equal(old, new) for old, new in zip(before, model.parameters(), strict=True))
    assert scaler.get_scale() == 512.0
    model.bad = None
    plain = deep_bad_gradient()
    plain.load_state_dict(model.state_dict())
    unscaled = deferred_learner(plain, muon=muon)
    for _ in range(2):
        train_step(mine, IMAGES, LABELS)
        train_step(unscaled, IMAGES, LABELS)
    for a, b in zip(model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)
    assert not torch.equal(before[0], next(iter(model.parameters())))


def test_an_overflow_that_no_scale_avoids_is_an_error() -> None:
    model = BadGradient()
    mine = replace(learner(model, OptimizerConfig(lr=0.1)), scaler=torch.amp.GradScaler("cpu", init_scale=4.0))
    model.bad = math.inf
    for _ in range(3):  # at scales 4, 2 and 1
        train_step(mine, IMAGES, LABELS)
    with pytest.raises(NonFiniteLossError, match="the gradient is not finite"):
        train_step(mine, IMAGES, LABELS)
