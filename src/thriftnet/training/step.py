"""One training step: gradient, clipping, update. Perturbation, loss scaling, Lookahead and averaging compose around it.

Shape legend: N images in a batch, C channels, H = W = side, K classes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from thriftnet.augment.mixing import Targets
from thriftnet.config import OptimizerConfig, PerturbationConfig
from thriftnet.distributed.processes import ALONE, Processes
from thriftnet.errors import NonFiniteLossError
from thriftnet.optim.averaging import WeightAverage
from thriftnet.optim.build import clip_gradients
from thriftnet.optim.lookahead import Lookahead
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
    lookahead: Lookahead | None = None
    processes: Processes = ALONE


def train_step(
    learner: Learner,
    images: Tensor,
    labels: Tensor | Targets,
    perturbed: bool = True,
    batch_images: int | None = None,
) -> tuple[Tensor, Tensor]:
    """One update on normalised `images` (float32 [N, C, H, W]) and `labels` (int64 [N], of mixed images `Targets`).

    `perturbed` is false in the steps before the learner's perturbation begins. With several processes images and labels
    are this one's part of a batch of `batch_images`; update and results are the batch's.
    Returns (mean loss, correct predictions) as 0-d tensors on the device, both before the update; of a mixed image the
    loss is the weighted sum over its labels, and correct is the label with the greatest weight. Raises
    NonFiniteLossError before the update where the loss is NaN or infinite.
    """
    network, scaler, processes = learner.network, learner.scaler, learner.processes
    logits: list[Tensor] = []

    def compute_gradient() -> Tensor:
        learner.optimizer.zero_grad(set_to_none=True)
        with learner.runtime.autocast():
            outputs = network(images)
        # The weighted sum of cross-entropies is the cross-entropy with the weighted sum of the labels.
        wanted = labels.probabilities(outputs.shape[1]) if isinstance(labels, Targets) else labels
        loss = F.cross_entropy(outputs.float(), wanted, label_smoothing=learner.label_smoothing)
        objective = processes.objective(loss, outputs, batch_images or len(images))
        loss = processes.average(objective.detach())  # the whole batch's, so that all stop where one would
        if not torch.isfinite(loss):
            raise NonFiniteLossError(f"the loss is {loss.item()}")
        scaler.scale(objective).backward()  # type: ignore[no-untyped-call]
        logits.append(outputs.detach())
        return loss

    if learner.perturbation is None or not perturbed:
        loss = compute_gradient()
    else:
        loss = adversarial_gradient(network, learner.perturbation, compute_gradient, scaler.get_scale())
    scaler.unscale_(learner.optimizer)
    clip_gradients(network.parameters(), learner.optimizer_config)
    scaler.step(learner.optimizer)
    scaler.update()
    if learner.lookahead is not None:
        learner.lookahead.update(network)
    if learner.average is not None:
        learner.average.update(network)
    counted = labels.heaviest() if isinstance(labels, Targets) else labels
    return loss, processes.sum((logits[0].argmax(1) == counted).sum())
