"""One training step: gradient, clipping, update. Perturbation, loss scaling, Lookahead and averaging compose around it.

Nothing here asks a GPU for a value, so it is told the next step while it still computes the last one.

Shape legend: N images in a batch, C channels, H = W = side, K classes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from thriftnet.augment.mixing import Targets
from thriftnet.augment.policy import COPIES
from thriftnet.config import OptimizerConfig, PerturbationConfig
from thriftnet.distributed.processes import ALONE, Processes
from thriftnet.errors import NonFiniteLossError
from thriftnet.optim.averaging import WeightAverage
from thriftnet.optim.build import clip_gradients, step_unless
from thriftnet.optim.lookahead import Lookahead
from thriftnet.optim.perturbation import adversarial_gradient
from thriftnet.optim.undo import Kept
from thriftnet.runtime import Runtime
from thriftnet.training.consistency import jensen_shannon
from thriftnet.training.graphs import Graphs
from thriftnet.training.guard import Guard


@dataclass(frozen=True)
class Learner:
    """Everything that one update changes or needs."""

    network: nn.Module
    optimizer: torch.optim.Optimizer
    optimizer_config: OptimizerConfig
    perturbation: PerturbationConfig | None
    label_smoothing: float
    average: WeightAverage | None
    scaler: torch.amp.GradScaler
    runtime: Runtime
    lookahead: Lookahead | None = None
    processes: Processes = ALONE
    guard: Guard = field(default_factory=Guard)
    consistency_weight: float | None = None
    """Of AugMix's loss (training.consistency); each image then comes with copies."""
    graphs: Graphs | None = None
    """Where the gradient of a full batch is recorded; None: every step is launched operation by operation."""

    @cached_property
    def parameters(self) -> list[nn.Parameter]:
        return list(self.network.parameters())

    @cached_property
    def running_statistics(self) -> list[Tensor]:
        """What a forward pass changes."""
        return list(self.network.buffers())

    @cached_property
    def followers(self) -> list[Tensor]:
        """What Lookahead and the average change: their own networks and, by Lookahead, the weights."""
        own = [
            tensor
            for keeper in (self.lookahead, self.average)
            if keeper is not None
            for tensor in (*keeper.network.parameters(), *keeper.network.buffers())
        ]
        return own + (list(self.parameters) if self.lookahead is not None else [])


def train_step(
    learner: Learner,
    images: Tensor,
    labels: Tensor | Targets,
    perturbed: bool = True,
    batch_images: int | None = None,
) -> tuple[Tensor, Tensor]:
    """One update on normalised `images` (float32 [N, C, H, W]) and `labels` (int64 [N], of mixed images `Targets`).

    With a `consistency_weight` the images are [3 N, C, H, W], copies of all behind all, and one pass sees them.
    `perturbed` is false in the steps before the learner's perturbation begins. With several processes images and labels
    are this one's part of a batch of `batch_images`; update and results are the batch's.
    Returns (mean loss, correct predictions) as 0-d tensors on the device, both before the update; of a mixed image the
    loss is the weighted sum over its labels, and correct is the label with the greatest weight. Copies count only in
    the loss, by how much their predictions differ.

    Where the loss or its gradient is NaN or infinite, weights, running statistics, and the state of optimiser,
    Lookahead and average stay as they were. NonFiniteLossError is raised then, by a deferred guard when it is checked.
    """
    guard, scaler, optimizer = learner.guard, learner.scaler, learner.optimizer
    count = batch_images or _count(labels)
    scale = scaler.scale(torch.ones((), device=images.device)) if scaler.is_enabled() else None
    results: list[tuple[Tensor, Tensor]] = []

    def compute_gradient() -> Tensor:
        loss, correct = _gradient(learner, images, labels, count)
        results.append((loss, correct))
        return loss

    before = Kept(learner.running_statistics)
    if learner.perturbation is None or not perturbed:
        compute_gradient()
    else:
        adversarial_gradient(learner.network, learner.perturbation, compute_gradient, 1.0 if scale is None else scale)
    loss, correct = results[0]
    scaler.unscale_(optimizer)
    gradients = [parameter.grad for parameter in learner.parameters if parameter.grad is not None]
    # An overflow that remains without any magnification is none of the scale's making.
    excused = None if scale is None else (scale >= 1).float()
    try:
        guard.judge(loss, gradients, excused)
    except NonFiniteLossError:
        before.put_back()
        raise
    clip_gradients(learner.parameters, learner.optimizer_config)
    skip = guard.found if guard.deferred else None
    if scale is not None:
        overflow = torch.stack(list(scaler._found_inf_per_device(optimizer).values())).amax()
        skip = overflow if skip is None else torch.maximum(skip, overflow)
    step_unless(optimizer, skip)
    scaler.update()
    followers = Kept(learner.followers) if guard.deferred else None
    if guard.deferred:
        before.put_back_where(guard.found)
    if learner.lookahead is not None:
        learner.lookahead.update(learner.network)
    if learner.average is not None:
        learner.average.update(learner.network)
    if followers is not None:
        followers.put_back_where(guard.found)
    return loss, learner.processes.sum(correct)


def _gradient(learner: Learner, images: Tensor, labels: Tensor | Targets, batch_images: int) -> tuple[Tensor, Tensor]:
    """Leave the gradient in every `.grad`; returns (mean loss of the whole batch, correct of this process's part)."""
    parameters = learner.parameters

    def compute(images: Tensor, *labels: Tensor) -> list[Tensor]:
        learner.optimizer.zero_grad(set_to_none=True)
        targets = Targets(*labels) if len(labels) == 2 else labels[0]
        with learner.runtime.autocast():
            outputs, divergence = learner.network(images), None
        if learner.consistency_weight is not None:
            of_copies = outputs.float().unflatten(0, (1 + COPIES, _count(targets)))
            outputs, divergence = of_copies[0], learner.consistency_weight * jensen_shannon(of_copies)
        # The weighted sum of cross-entropies is the cross-entropy with the weighted sum of the labels.
        wanted = targets.probabilities(outputs.shape[1]) if isinstance(targets, Targets) else targets
        loss = F.cross_entropy(outputs.float(), wanted, label_smoothing=learner.label_smoothing)
        if divergence is not None:
            loss = loss + divergence
        objective = learner.processes.objective(loss, outputs, batch_images)
        learner.scaler.scale(objective).backward()  # type: ignore[no-untyped-call]
        counted = targets.heaviest() if isinstance(targets, Targets) else targets
        # The whole batch's loss, so that all processes stop where one would.
        loss = learner.processes.average(objective.detach())
        correct = (outputs.detach().argmax(1) == counted).sum()
        return [loss, correct, *(parameter.grad for parameter in parameters if parameter.grad is not None)]

    flat = (labels.labels, labels.weights) if isinstance(labels, Targets) else (labels,)
    if learner.graphs is None or len(flat[0]) != learner.graphs.batch_images:
        loss, correct, *_ = compute(images, *flat)
        return loss, correct
    key = ("gradient", images.shape, len(flat), _statistics_follow(learner.network))
    loss, correct, *gradients = learner.graphs.run(key, compute, images, *flat)
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    for parameter, gradient in zip(trained, gradients, strict=True):
        parameter.grad = gradient
    return loss.clone(), correct.clone()  # another pass of a perturbation overwrites them


def _count(labels: Tensor | Targets) -> int:
    """Images without their copies."""
    return len(labels.labels if isinstance(labels, Targets) else labels)


def _statistics_follow(network: nn.Module) -> bool:
    """Whether this pass updates running statistics: all layers do, or none (`optim.perturbation`)."""
    norms = (module for module in network.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm))
    return next((norm.track_running_stats for norm in norms), True)
