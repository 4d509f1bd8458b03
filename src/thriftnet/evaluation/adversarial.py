"""Accuracy on images that were changed to be misclassified: FGSM and PGD in the maximum norm.

Shapes: N images, C channels, H x W pixels, K classes. Images lie in [0, 1], so an epsilon of e levels is e / 255.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from thriftnet.config import Section
from thriftnet.data.normalize import as_float, normalize
from thriftnet.errors import NonFiniteLossError
from thriftnet.evaluation.predict import evaluating


class AttackConfig(Section):
    """An attack on images within a cube around each of them."""

    name: Literal["fgsm", "pgd"]
    """`fgsm`: one step to the cube's border (arXiv 1412.6572, section 4). `pgd`: projected gradient steps from a random
    point of the cube (arXiv 1706.06083, section 2.1)."""
    epsilon_levels: Annotated[float, Field(gt=0.0, le=255.0)]
    """Largest change of a pixel, of 255 levels."""
    steps: Annotated[int, Field(ge=1)] | None = None
    """`pgd`: number of steps."""
    step_levels: Annotated[float, Field(gt=0.0)] | None = None
    """`pgd`: size of a step, of 255 levels; absent: 2.5 x epsilon / steps, so that every point can be reached."""
    seed: Annotated[int, Field(ge=0)] = 0
    """`pgd`: of the random starting points."""

    def inapplicable(self) -> dict[str, str]:
        return {} if self.name == "pgd" else dict.fromkeys(("steps", "step_levels", "seed"), "name = 'pgd'")

    @property
    def text(self) -> str:
        """`PGD, 10 steps, 2/255`."""
        steps = f", {self.steps or DEFAULT_STEPS} steps" if self.name == "pgd" else ""
        return f"{self.name.upper()}{steps}, {self.epsilon_levels:g}/255"

    @property
    def slug(self) -> str:
        """For a file name."""
        return f"{self.name}-{self.steps or DEFAULT_STEPS}x{self.epsilon_levels:g}-seed{self.seed}"


DEFAULT_STEPS = 10


def attacked_accuracy(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    mean: Sequence[float],
    std: Sequence[float],
    attack: AttackConfig,
    *,
    device: torch.device,
    batch_size: int,
) -> float:
    """Share of `images`, uint8 [N, C, H, W], that the model still classifies as `labels`, int64 [N], after `attack`.

    Raises NonFiniteLossError for outputs that are not finite.
    """
    correct = 0
    starts = _starts(images, attack)
    for first in range(0, len(images), batch_size):
        part = slice(first, first + batch_size)
        clean, truth = as_float(images[part]).to(device), labels[part].to(device)
        start = None if starts is None else starts[part].to(device)
        changed = attacked_images(model, clean, truth, mean, std, attack, start)
        with evaluating(model), torch.inference_mode():
            outputs = model(normalize(changed, mean, std))
        if not outputs.isfinite().all():  # they would count as class 0
            raise NonFiniteLossError(f"the output is not finite under {attack.slug}, in the batch of image {first}")
        correct += int((outputs.argmax(1) == truth).sum())
    return correct / len(images)


def attacked_images(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    mean: Sequence[float],
    std: Sequence[float],
    attack: AttackConfig,
    start: Tensor | None = None,
) -> Tensor:
    """Float [N, C, H, W] in [0, 1], none of them farther than epsilon from `images` (float, in [0, 1]) in any pixel.

    `start`: float [N, C, H, W] in [-1, 1], where in the cube PGD begins, in units of epsilon; None: its centre.

    Each step adds step * sign(gradient of the cross-entropy with respect to the image), and is clipped to the cube and
    to [0, 1]. FGSM is one step of size epsilon from the centre.
    """
    epsilon = attack.epsilon_levels / 255
    steps, step = 1, epsilon
    if attack.name == "pgd":
        steps = attack.steps or DEFAULT_STEPS
        step = (attack.step_levels or 2.5 * attack.epsilon_levels / steps) / 255
    changed = images if start is None else (images + epsilon * start).clamp(0, 1)
    for _ in range(steps):
        with evaluating(model), torch.enable_grad():
            asked = changed.detach().clone().requires_grad_()
            loss = cross_entropy(model(normalize(asked, mean, std)), labels, reduction="sum")
            (gradient,) = torch.autograd.grad(loss, asked)
        changed = changed + step * gradient.sign()
        changed = torch.minimum(torch.maximum(changed, images - epsilon), images + epsilon).clamp(0, 1)
    return changed.detach()


def _starts(images: Tensor, attack: AttackConfig) -> Tensor | None:
    """Drawn for all images at once, so that the batch size changes nothing."""
    if attack.name == "fgsm":
        return None
    generator = torch.Generator().manual_seed(attack.seed)
    return torch.rand(images.shape, generator=generator) * 2 - 1
