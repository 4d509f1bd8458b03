"""The optimiser of a recipe, its rates, and clipping."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from thriftnet.config import MuonConfig, OptimizerConfig
from thriftnet.errors import RecipeError
from thriftnet.optim.muon import Muon

FUSED_DEVICES = ("cpu", "cuda")
"""Where torch's optimisers have a kernel for all weights at once, which also reads `found_inf`."""


class CompositeOptimizer(torch.optim.Optimizer):
    """Optimisers of disjoint parameters as one; `param_groups` are theirs, so a change of a rate reaches them.

    `step_unless` leaves out a step of all of them.
    """

    def __init__(self, *optimizers: torch.optim.Optimizer) -> None:
        self.optimizers = optimizers
        super().__init__(self._groups(), {})

    def _groups(self) -> list[dict[str, Any]]:
        return [group for optimizer in self.optimizers for group in optimizer.param_groups]

    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One update by each; `closure` is torch's signature and not called."""
        for optimizer in self.optimizers:
            optimizer.step()

    def state_dict(self) -> dict[str, Any]:
        """The states in order, under `optimizers`."""
        return {"optimizers": [optimizer.state_dict() for optimizer in self.optimizers]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Raises KeyError or ValueError for the state of other optimisers."""
        for optimizer, state in zip(self.optimizers, state_dict["optimizers"], strict=True):
            optimizer.load_state_dict(state)
        self.param_groups = self._groups()  # loading made them anew


def muon_weights(network: nn.Module) -> list[nn.Parameter]:
    """Trainable weights of all convolutions but the first: [out, in / groups, k, k] each.

    The write-up leaves input and output layers to another optimiser; the first convolution counts as the input layer
    whether it is trained or frozen.
    """
    convolutions = [parameter for parameter in network.parameters() if parameter.ndim == 4]
    return [weight for weight in convolutions[1:] if weight.requires_grad]


def parameter_groups(
    network: nn.Module, config: OptimizerConfig, excluded: Iterable[nn.Parameter] = ()
) -> list[dict[str, object]]:
    """All trainable parameters but `excluded`, in a group for each weight decay and learning-rate factor among them.

    Biases and norms (one-dimensional) may be spared weight decay. `lr_factor` in a group is read by `set_rates`.
    torch multiplies weight decay by the learning rate; dividing it by the factor keeps a factor from scaling it too.
    """
    linear_layers = [module for module in network.modules() if isinstance(module, nn.Linear)]
    last_linear = {id(parameter) for layer in linear_layers[-1:] for parameter in layer.parameters()}
    left_out = {id(parameter) for parameter in excluded}
    members: dict[tuple[float, float], list[nn.Parameter]] = {}
    for parameter in network.parameters():
        if not parameter.requires_grad or id(parameter) in left_out:
            continue
        decays = parameter.ndim > 1 or config.decay_biases_and_norms
        if id(parameter) in last_linear:
            factor = config.linear_lr_factor
        else:
            factor = config.bias_lr_factor if parameter.ndim <= 1 else 1.0
        members.setdefault((config.weight_decay if decays else 0.0, factor), []).append(parameter)
    return [
        {"params": parameters, "weight_decay": weight_decay / factor, "lr": config.lr * factor, "lr_factor": factor}
        for (weight_decay, factor), parameters in members.items()
    ]


def build_optimizer(
    network: nn.Module,
    config: OptimizerConfig,
    device: torch.device,
    muon: MuonConfig | None = None,
    muon_dtype: torch.dtype = torch.float32,
) -> torch.optim.Optimizer:
    """torch's SGD, Adam or AdamW over `network`; its fused kernel where the device has one (one pass over memory).

    With `muon`, `muon_weights(network)` are Muon's, orthogonalised in `muon_dtype`. Raises RecipeError where there are
    none.
    """
    if muon is None:
        return _base_optimizer(parameter_groups(network, config), config, device)
    weights = muon_weights(network)
    if not weights:
        raise RecipeError("[muon] updates convolutions after the first, and this network has none; remove [muon]")
    groups: list[dict[str, object]] = [{"params": weights, "lr": muon.lr, "lr_factor": muon.lr / config.lr}]
    rest = _base_optimizer(parameter_groups(network, config, excluded=weights), config, device)
    return CompositeOptimizer(rest, Muon(groups, muon, muon_dtype))


def _base_optimizer(
    groups: list[dict[str, object]], config: OptimizerConfig, device: torch.device
) -> torch.optim.Optimizer:
    fused = device.type in FUSED_DEVICES
    if config.name == "sgd":
        return torch.optim.SGD(groups, lr=config.lr, momentum=config.momentum, nesterov=config.nesterov, fused=fused)
    kind = torch.optim.Adam if config.name == "adam" else torch.optim.AdamW
    return kind(groups, lr=config.lr, betas=config.betas, eps=config.eps, fused=fused)


def step_unless(optimizer: torch.optim.Optimizer, skip: Tensor | None) -> None:
    """One update, left out where `skip` (float32, 0-d, on the device, 0 or 1) is 1; None: it is always made.

    Weights and state then stay as they are. A GPU decides that itself: torch's fused optimisers and Muon read `skip`
    from their attribute `found_inf`. On other devices it is waited for.
    """
    parts = optimizer.optimizers if isinstance(optimizer, CompositeOptimizer) else [optimizer]
    if skip is not None and skip.device.type not in FUSED_DEVICES:
        if skip.item():
            return
        skip = None
    for part in parts:
        if skip is not None and isinstance(part, torch.optim.SGD):
            _begin_momentum(part)
        part.found_inf = skip  # type: ignore[attr-defined]
    optimizer.step()


def _begin_momentum(optimizer: torch.optim.SGD) -> None:
    """SGD's first step sets its momentum to the gradient; a first step that is left out would leave it undefined."""
    for group in optimizer.param_groups:
        for weight in group["params"]:
            if group["momentum"] and weight.grad is not None and "momentum_buffer" not in optimizer.state[weight]:
                optimizer.state[weight]["momentum_buffer"] = torch.zeros_like(weight)


def set_rates(optimizer: torch.optim.Optimizer, lr: float, momentum: float | None) -> None:
    """Write the schedule's values for the next update; `momentum` is Adam's beta1 where there are betas.

    Each group's rate is `lr` times its factor. Muon's groups have no momentum of their own.
    """
    for group in optimizer.param_groups:
        group["lr"] = lr * group["lr_factor"]
        if momentum is not None:
            if "betas" in group:
                group["betas"] = (momentum, group["betas"][1])
            elif "momentum" in group:
                group["momentum"] = momentum


def clip_gradients(parameters: Iterable[nn.Parameter], config: OptimizerConfig) -> None:
    """Clip each component first, then the whole gradient's 2-norm, where the recipe asks for it."""
    if config.clip_value is None and config.clip_norm is None:
        return
    parameters = list(parameters)
    if config.clip_value is not None:
        nn.utils.clip_grad_value_(parameters, config.clip_value)
    if config.clip_norm is not None:
        nn.utils.clip_grad_norm_(parameters, config.clip_norm)
