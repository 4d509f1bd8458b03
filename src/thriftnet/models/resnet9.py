"""The `resnet9` family: four convolutions that widen, two residual pairs, max pooling (after the DAWNBench ResNet-9).

x: [N, in_channels, H, W] -> logits: [N, num_classes]. The last pooling is adaptive, so that any side from 16 pixels
works; at 32 pixels it equals the 4x4 max pooling of the published network.
"""

from __future__ import annotations

from torch import Tensor, nn

from thriftnet.config import ModelConfig
from thriftnet.kernels.norm_act_add import norm_act_add
from thriftnet.models.blocks import ACTIVATIONS, BlockStyle, conv


class ConvNorm(nn.Module):
    """activation(normalisation(convolution(x))), then max pooling by 2 where `pool`."""

    def __init__(self, in_width: int, out_width: int, kernel: int, style: BlockStyle, pool: bool = False) -> None:
        super().__init__()
        self.conv = conv(in_width, out_width, kernel, style)
        self.norm = nn.BatchNorm2d(out_width)
        self.pool = nn.MaxPool2d(2) if pool else None
        self.activation = style.activation

    def forward(self, x: Tensor) -> Tensor:
        x = norm_act_add(self.conv(x), self.norm, self.activation)
        return x if self.pool is None else self.pool(x)


class ResidualPair(nn.Module):
    """x + two ConvNorms of x."""

    def __init__(self, width: int, style: BlockStyle) -> None:
        super().__init__()
        self.first = ConvNorm(width, width, 3, style)
        self.second = ConvNorm(width, width, 3, style)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(self.first(x))


class ResNet9(nn.Module):
    """stem, then widths[0] (pool, residual), widths[1] (pool), widths[2] (pool, residual, global max pool), linear."""

    def __init__(self, model: ModelConfig, in_channels: int, num_classes: int) -> None:
        super().__init__()
        assert model.widths is not None  # ModelConfig checks it
        style = BlockStyle(activation=ACTIVATIONS[model.activation], conv_bias=model.conv_bias)
        stem = model.stem.width
        first, second, third = model.widths
        self.features = nn.Sequential(
            ConvNorm(in_channels, stem, model.stem.kernel, style),
            ConvNorm(stem, first, 3, style, pool=True),
            ResidualPair(first, style),
            ConvNorm(first, second, 3, style, pool=True),
            ConvNorm(second, third, 3, style, pool=True),
            ResidualPair(third, style),
        )
        self.pool = nn.AdaptiveMaxPool2d(1)
        self.dropout = nn.Dropout(model.dropout)
        self.linear = nn.Linear(third, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(self.features(x))
        return self.linear(self.dropout(x.flatten(1)))
