"""One training step: gradient, clipping, update. AMP, loss scaling and weight averaging compose around it.

Shape legend: N images in a batch, C channels, H = W = side, K classes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from thriftnet.config import OptimizerConfig, PerturbationConfig
from thriftnet.distributed.processes import ALONE, Processes
from thriftnet.errors import NonFiniteLossError
from thriftnet.optim.averaging import WeightAverage
from thriftnet.optim.build import clip_gradients
from thriftnet.optim.perturbation import adversarial_gradient
from thriftnet.runtime import Runtime


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
    processes: Processes = ALONE


def train_step(
    learner: Learner, images: Tensor, labels: Tensor, batch_images: int | None = None
) -> tuple[Tensor, Tensor]:
    """One update on normalised `images` (float32 [N, C, H, W]) and `labels` (int64 [N]).

    With several processes these are this one's part of a batch of `batch_images`; update and results are the batch's.
    Returns (mean loss, correct predictions) as 0-d tensors on the device, both before the update. Raises
    NonFiniteLossError before the update where the loss is NaN or infinite.
    """
    network, scaler, processes = learner.network, learner.scaler, learner.processes
    logits: list[Tensor] = []

    def compute_gradient() -> Tensor:
        learner.optimizer.zero_grad(set_to_none=True)
        with learner.runtime.autocast():
            outputs = network(images)
        loss = F.cross_entropy(outputs.float(), labels, label_smoothing=learner.label_smoothing)
        objective = processes.objective(loss, outputs, batch_images or len(labels))
        loss = processes.average(objective.detach())  # the whole batch's, so that all stop where one would
        if not torch.isfinite(loss):
            raise NonFiniteLossError(f"the loss is {loss.item()}")
        scaler.scale(objective).backward()  # type: ignore[no-untyped-call]
        logits.append(outputs.detach())
        return loss

    if learner.perturbation is None:
        loss = compute_gradient()
    else:
        loss = adversarial_gradient(network, learner.perturbation, compute_gradient, scaler.get_scale())
    scaler.unscale_(learner.optimizer)
    clip_gradients(network.parameters(), learner.optimizer_config)
    scaler.step(learner.optimizer)
    scaler.update()
    if learner.average is not None:
        learner.average.update(network)
    return loss, processes.sum((logits[0].argmax(1) == labels).sum())
