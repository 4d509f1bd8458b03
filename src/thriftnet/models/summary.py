"""The layer table of a network in torchsummary's form, with multiply-accumulates, computed without real memory.

Rows are numbered as torchsummary numbers them, so that a table can be laid beside a paper's: every module except plain
containers (nn.Sequential) and the network itself, in the order in which their forward passes end; a residual block
therefore has a row of its own, with no parameters, after its layers.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

BYTES_PER_VALUE = 4  # torchsummary counts fp32, whatever the training precision
BYTES_PER_MB = 1024**2


@dataclass(frozen=True)
class LayerRow:
    """One row: a module at one of its calls."""

    name: str
    """torchsummary's label: type and position, as in `Conv2d-1`."""
    path: str
    """The module's name in the network, as in `stages.0.0.conv1`."""
    type: str
    output_shape: tuple[int, ...]
    """[-1, C, H, W] or [-1, classes]; -1 stands for the batch."""
    parameters: int
    """The module's own; a module called again shows 0, so that the column adds up to the total."""
    macs: int
    """Multiply-accumulates for one image, see `multiply_accumulates`."""

    def as_dict(self) -> dict[str, Any]:
        return vars(self) | {"output_shape": list(self.output_shape)}


@dataclass(frozen=True)
class Summary:
    """A network's layer table; sizes by torchsummary's formulas, in MB of 1024^2 bytes, for one image in fp32."""

    input_shape: tuple[int, int, int]
    layers: tuple[LayerRow, ...]
    total_parameters: int
    trainable_parameters: int

    @property
    def macs(self) -> int:
        """Multiply-accumulates of all layers for one image."""
        return sum(layer.macs for layer in self.layers)

    @property
    def input_mb(self) -> float:
        return prod(self.input_shape) * BYTES_PER_VALUE / BYTES_PER_MB

    @property
    def forward_backward_mb(self) -> float:
        """Every row's output, twice: once for the forward pass, once for its gradient."""
        values = sum(prod(layer.output_shape[1:]) for layer in self.layers)
        return 2 * values * BYTES_PER_VALUE / BYTES_PER_MB

    @property
    def parameters_mb(self) -> float:
        return self.total_parameters * BYTES_PER_VALUE / BYTES_PER_MB

    @property
    def total_mb(self) -> float:
        return self.input_mb + self.forward_backward_mb + self.parameters_mb

    def as_dict(self) -> dict[str, Any]:
        """Plain numbers, strings and lists, ready for JSON."""
        return {
            "input_shape": list(self.input_shape),
            "total_parameters": self.total_parameters,
            "trainable_parameters": self.trainable_parameters,
            "non_trainable_parameters": self.total_parameters - self.trainable_parameters,
            "macs": self.macs,
            "input_mb": self.input_mb,
            "forward_backward_mb": self.forward_backward_mb,
            "parameters_mb": self.parameters_mb,
            "total_mb": self.total_mb,
            "layers": [layer.as_dict() for layer in self.layers],
        }

    def table(self) -> str:
        """torchsummary's table with one more column, as text without a final line break."""
        rows = [("Layer (type)", "Output Shape", "Param #", "Mult-Adds")]
        rows += [
            (layer.name, str(list(layer.output_shape)), f"{layer.parameters:,}", f"{layer.macs:,}")
            for layer in self.layers
        ]
        widths = [max(map(len, column)) + 2 for column in zip(*rows, strict=True)]
        lines = ["".join(f"{cell:>{width}}" for cell, width in zip(row, widths, strict=True)) for row in rows]
        thin, thick = "-" * sum(widths), "=" * sum(widths)
        return "\n".join(
            [
                thin,
                lines[0],
                thick,
                *lines[1:],
                thick,
                f"Total params: {self.total_parameters:,}",
                f"Trainable params: {self.trainable_parameters:,}",
                f"Non-trainable params: {self.total_parameters - self.trainable_parameters:,}",
                f"Total mult-adds: {self.macs:,}",
                thin,
                f"Input size (MB): {self.input_mb:.2f}",
                f"Forward/backward pass size (MB): {self.forward_backward_mb:.2f}",
                f"Params size (MB): {self.parameters_mb:.2f}",
                f"Estimated Total Size (MB): {self.total_mb:.2f}",
                thin,
            ]
        )


def summarize(model: nn.Module, input_shape: tuple[int, int, int]) -> Summary:
    """The layer table of `model` for one image of `input_shape` [C, H, W].

    The forward pass runs on the meta device with stand-ins for parameters and buffers, so nothing is allocated or
    computed, on whatever device the model lies, and the model is left as it was.
    """
    layers: list[LayerRow] = []
    seen: set[nn.Module] = set()
    paths = {module: path for path, module in model.named_modules()}

    def record(module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
        own = sum(parameter.numel() for parameter in module.parameters(recurse=False))
        kind = type(module).__name__
        layers.append(
            LayerRow(
                name=f"{kind}-{len(layers) + 1}",
                path=paths[module],
                type=kind,
                output_shape=(-1, *output.shape[1:]),
                parameters=0 if module in seen else own,
                macs=multiply_accumulates(module, output),
            )
        )
        seen.add(module)

    listed = [module for module in model.modules() if module is not model and not isinstance(module, nn.Sequential)]
    training = {module: module.training for module in model.modules()}
    named_tensors = [*model.named_parameters(), *model.named_buffers()]
    stand_ins = {name: torch.empty_like(tensor, device="meta") for name, tensor in named_tensors}
    handles = [module.register_forward_hook(record) for module in listed]
    try:
        model.eval()  # batch statistics of a single image need not exist
        with torch.no_grad():
            functional_call(model, stand_ins, torch.empty(1, *input_shape, device="meta"))
    finally:
        for handle in handles:
            handle.remove()
        for module, mode in training.items():
            module.training = mode
    return Summary(
        input_shape=input_shape,
        layers=tuple(layers),
        total_parameters=sum(parameter.numel() for parameter in model.parameters()),
        trainable_parameters=sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad),
    )


def single_pixel_norm(model: nn.Module, in_channels: int, image_side: int) -> str | None:
    """The path of a normalisation by batches whose map has one pixel for images of this side, or None."""
    norms = {path for path, module in model.named_modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)}
    layers = summarize(model, (in_channels, image_side, image_side)).layers
    return next((layer.path for layer in layers if layer.path in norms and prod(layer.output_shape[2:]) == 1), None)


def multiply_accumulates(module: nn.Module, output: Tensor) -> int:
    """Multiplications that feed a sum, in convolutions and linear layers, for `output` [N, ...].

    Each output value of a convolution takes (input channels / groups) x kernel height x kernel width, of a linear layer
    its input features. Biases, normalisations, activations, pooling and additions count nothing, as in the
    literature's "multiply-adds" (arXiv 1512.03385, table 1; half of what is called FLOPs elsewhere).
    """
    if isinstance(module, nn.Conv2d):
        return output.numel() * module.weight[0].numel()
    if isinstance(module, nn.Linear):
        return output.numel() * module.in_features
    return 0
