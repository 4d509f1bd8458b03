"""The loss around a solution, in directions that count the same for every network: how flat is its minimum?

*Filter-normalised directions*: Li, Xu, Taylor, Studer, Goldstein, NeurIPS 2018, arXiv 1712.09913, section 4. A network
with BatchNorm computes the same function whatever the scale of a filter, so a step of a fixed length means much to
small weights and little to large ones. Each filter of a Gaussian direction therefore takes the norm of the filter that
it moves: d <- d / ||d|| * ||w||. A filter is what leads to one output: weight[i] of a convolution or linear layer.
Biases and BatchNorm's scales and shifts stay where they are (their direction is zero), as in that paper's code.

*Adaptive sharpness*: Kwon, Kim, Park, Choi, ICML 2021, arXiv 2102.11600, definition 2 with the 2-norm and its
filter-wise operator T, which multiplies each filter by its norm. Over the same weights as above:

    sharpness(rho) = max over ||T^-1 delta||_2 <= rho of  loss(w + delta) - loss(w)

Both are unchanged when filters are rescaled before a BatchNorm, which other measures are not: the trace or the largest
eigenvalue of the Hessian and a ball of fixed size can be made anything so (Dinh et al. 2017, arXiv 1703.04933).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from thriftnet.augment.draws import Draws
from thriftnet.data.dataset import LabelledImages
from thriftnet.data.normalize import as_float, normalize
from thriftnet.errors import DataError
from thriftnet.evaluation.predict import evaluating

BatchNormStatistics = Literal["stored", "re-estimated"]
Direction = Mapping[str, Tensor]
"""What is added to the parameters of these names; the others stay."""
Loss = Callable[[nn.Module], float]
LossAndGradient = Callable[[nn.Module, Sequence[nn.Parameter]], tuple[float, list[Tensor]]]


def moved_parameters(network: nn.Module) -> dict[str, nn.Parameter]:
    """The trained weights of convolutions and linear layers by name: what has filters."""
    return {name: p for name, p in network.named_parameters() if p.ndim >= 2 and p.requires_grad}


def filter_norms(weight: Tensor) -> Tensor:
    """The 2-norm of each filter: [out, ...] -> [out, 1, ...], so that it multiplies a weight."""
    return torch.linalg.vector_norm(weight.detach(), dim=tuple(range(1, weight.ndim)), keepdim=True)


def filter_normalised_direction(network: nn.Module, seed: int, number: int) -> dict[str, Tensor]:
    """Direction `number` of `seed`: Gaussian, each filter with the norm of the network's own.

    The draws are a function of seed, number, the parameter's name and the place in it, so that two networks of one
    shape are looked at along the same draws, on any device.
    """
    direction = {}
    for name, weight in moved_parameters(network).items():
        draws = Draws(seed, number, torch.arange(len(weight)))
        # The middle of each of the 2^24 levels, so that no value is infinite.
        levels = draws.uniform(name, weight[0].numel()).double() + 2.0**-25
        gaussian = torch.special.ndtri(levels).view(weight.shape).to(weight)
        direction[name] = gaussian / filter_norms(gaussian) * filter_norms(weight)
    return direction


@torch.no_grad()
def losses_along(
    network: nn.Module, directions: Sequence[Direction], coefficients: Iterable[Sequence[float]], loss: Loss
) -> list[float]:
    """loss(w + sum of c_k d_k) for each (c_1, ..., c_K); the weights are afterwards as they were, bit for bit."""
    parameters = dict(network.named_parameters())
    moved = {name: parameters[name] for direction in directions for name in direction}
    losses = []
    with _restoring(moved) as originals:
        for point in coefficients:
            for name, parameter in moved.items():
                parameter.copy_(originals[name])
                for coefficient, direction in zip(point, directions, strict=True):
                    if name in direction:
                        parameter.add_(direction[name], alpha=coefficient)
            losses.append(loss(network))
    return losses


@torch.no_grad()
def losses_between(network: nn.Module, end: nn.Module, fractions: Iterable[float], loss: Loss) -> list[float]:
    """loss((1 - t) w + t w_end) for each t (Goodfellow et al. 2015, arXiv 1412.6544), of all parameters.

    BatchNorm's running statistics are not mixed: the average of two networks' statistics fits neither, nor what lies
    between, so `loss` should estimate them anew.
    """
    parameters = dict(network.named_parameters())
    ends = dict(end.named_parameters())
    losses = []
    with _restoring(parameters) as originals:
        for t in fractions:
            for name, parameter in parameters.items():
                # Not lerp: at t = 1 this is the end exactly.
                parameter.copy_(originals[name] * (1 - t) + ends[name].to(parameter) * t)
            losses.append(loss(network))
    return losses


@dataclass(frozen=True)
class Sharpness:
    """The highest loss that the ascent found, minus the loss at the solution: a lower bound of the maximum."""

    rise: float
    """In nats."""
    rho: float
    steps: int
    best_step: int
    """At which the highest loss was found; the last one says that more steps may find more."""


def adaptive_sharpness(
    network: nn.Module, loss_and_gradient: LossAndGradient, rho: float, steps: int, seed: int = 0
) -> Sharpness:
    """Filter-wise adaptive sharpness, see the module; the weights are afterwards as they were, bit for bit.

    ASAM's own step, delta = rho * T^2 g / ||T g||_2, repeated with the gradient g at the last w + delta: the point of
    the ball in which the linear approximation is highest. For a convex loss none of these steps goes down, and for a
    quadratic one they are the power method. The first gradient is taken at a random point of the ball, a hundredth as
    far out, because it vanishes at a perfect minimum. Of all points the highest counts.
    """
    parameters = moved_parameters(network)
    scales = {name: filter_norms(parameter) for name, parameter in parameters.items()}
    start = filter_normalised_direction(network, seed, number=-1)
    with _restoring(parameters) as originals:
        solution, _ = loss_and_gradient(network, [])
        relative = {
            name: value / scales[name].clamp_min(torch.finfo(value.dtype).tiny) for name, value in start.items()
        }
        _place(parameters, originals, scales, relative, rho / 100)
        _, gradients = loss_and_gradient(network, list(parameters.values()))
        best, best_step = 0.0, 0
        for step in range(1, steps + 1):
            relative = {name: g * scales[name] for name, g in zip(parameters, gradients, strict=True)}
            _place(parameters, originals, scales, relative, rho)
            loss, gradients = loss_and_gradient(network, list(parameters.values()))
            rise = loss - solution if math.isfinite(loss) else math.inf
            if rise > best:
                best, best_step = rise, step
    return Sharpness(best, rho, steps, best_step)


@torch.no_grad()
def _place(
    parameters: Mapping[str, nn.Parameter],
    originals: Mapping[str, Tensor],
    scales: Mapping[str, Tensor],
    relative: Mapping[str, Tensor],
    radius: float,
) -> None:
    """w + T u with u along `relative`, of 2-norm `radius`; where that is zero, w."""
    norm = torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(u) for u in relative.values()]))
    factor = radius / norm if norm > 0 else 0.0
    for name, parameter in parameters.items():
        parameter.copy_(originals[name] + scales[name] * relative[name] * factor)


class ImageLoss:
    """Mean cross-entropy (nats) of a network on fixed images, not augmented, without label smoothing.

    The network is in evaluation mode: no dropout. BatchNorm uses the network's `stored` running statistics, or ones
    `re-estimated` on these images at each point. The stored ones were gathered at the solution; away from it they fit
    less and less, and part of the rise that is then seen is theirs. Gradients keep every layer's output, so their
    batches may be smaller (absent: `batch_size`). `after` is called after each pass over the images.
    """

    def __init__(
        self,
        images: LabelledImages,
        mean: Sequence[float],
        std: Sequence[float],
        *,
        device: torch.device,
        channels_last: bool = False,
        batch_size: int = 500,
        gradient_batch_size: int | None = None,
        batchnorm: BatchNormStatistics = "stored",
        after: Callable[[], None] = lambda: None,
    ) -> None:
        self.images, self.labels = images.images.to(device), images.labels.to(device)
        self.mean, self.std, self.batchnorm, self.after = mean, std, batchnorm, after
        self.batch_size, self.gradient_batch_size = batch_size, gradient_batch_size or batch_size
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format

    def __call__(self, network: nn.Module) -> float:
        """The loss alone."""
        return self.with_gradient(network, [])[0]

    @torch.no_grad()
    def outputs(self, network: nn.Module) -> Tensor:
        """The logits that the loss is of, float32 [N, K]."""
        with evaluating(network), self._statistics(network):
            return torch.cat([network(inputs).float() for inputs in self._batches(self.batch_size)])

    def with_gradient(self, network: nn.Module, parameters: Sequence[nn.Parameter]) -> tuple[float, list[Tensor]]:
        """The loss and its gradient with respect to each of `parameters`.

        The gradient takes BatchNorm's statistics as constants, whichever they are.
        """
        size = self.gradient_batch_size if parameters else self.batch_size
        total, gradients = 0.0, [torch.zeros_like(parameter) for parameter in parameters]
        with evaluating(network), self._statistics(network), torch.set_grad_enabled(bool(parameters)):
            for inputs, labels in zip(self._batches(size), torch.split(self.labels, size), strict=True):
                loss = F.cross_entropy(network(inputs).float(), labels, reduction="sum")
                if parameters:
                    torch._foreach_add_(gradients, torch.autograd.grad(loss, parameters))
                total += float(loss.detach())
        self.after()
        return total / len(self.labels), [gradient / len(self.labels) for gradient in gradients]

    def _statistics(self, network: nn.Module) -> AbstractContextManager[None]:
        if self.batchnorm == "stored":
            return nullcontext()
        count, size = len(self.images), max(2, self.batch_size)
        if count < 2:
            raise DataError("BatchNorm's statistics cannot be re-estimated on one image; measure on two at least")
        # One image may have one value a channel, which has no variance: a last one joins the batch before it.
        sizes = [size] * (count // size) + [count % size] * (count % size > 0)
        if sizes[-1] == 1:
            sizes = [*sizes[:-2], size + 1]
        return batchnorm_estimated(network, self._batches(sizes))

    def _batches(self, size: int | list[int]) -> Iterator[Tensor]:
        for batch in torch.split(self.images, size):
            yield normalize(as_float(batch), self.mean, self.std).contiguous(memory_format=self.memory_format)


@contextmanager
def batchnorm_estimated(network: nn.Module, batches: Iterable[Tensor]) -> Iterator[None]:
    """Inside the block BatchNorm's running statistics are the mean of the batches'; afterwards they are as they were.

    Otherwise the network stays in the mode that it has. `batches`: normalised images, float32 [N, C, H, W].
    """
    norms = [m for m in network.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.track_running_stats]
    before = [({name: b.clone() for name, b in norm.named_buffers()}, norm.momentum, norm.training) for norm in norms]
    try:
        with torch.no_grad():
            for norm in norms:
                norm.reset_running_stats()
                norm.momentum = None  # torch's word for the mean of all batches since
                norm.training = True
            for inputs in batches:
                network(inputs)
        for norm, (_, momentum, training) in zip(norms, before, strict=True):
            norm.momentum, norm.training = momentum, training
        yield
    finally:
        for norm, (buffers, momentum, training) in zip(norms, before, strict=True):
            norm.momentum, norm.training = momentum, training
            for name, buffer in norm.named_buffers():
                buffer.copy_(buffers[name])


@contextmanager
def _restoring(parameters: Mapping[str, nn.Parameter]) -> Iterator[dict[str, Tensor]]:
    """Yields copies of the values, which the parameters have again afterwards, whatever happens."""
    originals = {name: parameter.detach().clone() for name, parameter in parameters.items()}
    try:
        yield originals
    finally:
        with torch.no_grad():
            for name, parameter in parameters.items():
                parameter.copy_(originals[name])
