"""The `resnet9` family: pooled convolutions with residual branches and max pooling (after the DAWNBench ResNet-9).

x: [N, in_channels, H, W] -> logits: [N, num_classes]. Every pooling halves the side, rounded down, until one pixel is
left, and the last one is adaptive, so that any side works; for the published network's three stages at 32 pixels it
equals the 4x4 max pooling that was published.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from thriftnet.config import ModelConfig
from thriftnet.kernels.dropout import Dropout
from thriftnet.kernels.max_pool import MaxPool2d
from thriftnet.kernels.norm_act_add import norm_act_add, shortcut_of
from thriftnet.models.blocks import ACTIVATIONS, BlockStyle, conv, norm
from thriftnet.models.stem import stem_layers


class ConvNorm(nn.Module):
    """activation(norm(convolution(x))), then max pooling by 2 where `pool`; with `pool_first` before the norm.

    Without a norm, which the stem may lack, the convolution is activated as it is.
    """

    def __init__(
        self,
        convolution: nn.Conv2d,
        norm: nn.BatchNorm2d | None,
        style: BlockStyle,
        pool: bool = False,
        pool_first: bool = False,
    ) -> None:
        super().__init__()
        self.conv = convolution
        self.norm = norm
        self.pool = MaxPool2d(2) if pool else None
        self.pool_first = pool_first
        self.activation = style.activation

    def forward(self, x: Tensor, shortcut: Callable[[], Tensor] | None = None) -> Tensor:
        """What `shortcut` returns, [N, out, H, W], is added after the activation; where nothing is pooled only."""
        x = self.conv(x)
        if self.pool_first:
            x = self._pooled(x)
        if self.norm is not None:
            x = norm_act_add(x, self.norm, self.activation, shortcut, after=True)
        else:
            x = self.activation(x) if shortcut is None else self.activation(x) + shortcut()
        return x if self.pool_first else self._pooled(x)

    def _pooled(self, x: Tensor) -> Tensor:
        """A single pixel has nothing left to pool."""
        return x if self.pool is None or x.shape[-1] == 1 else self.pool(x)


class Residual(nn.Module):
    """x + `depth` ConvNorms of x."""

    def __init__(self, width: int, depth: int, style: BlockStyle) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            *(ConvNorm(conv(width, width, 3, style), norm(width, style), style) for _ in range(depth))
        )

    def forward(self, x: Tensor) -> Tensor:
        *first, last = self.branch
        out = x
        for layer in first:
            out = layer(out)
        out = last(out, lambda: shortcut_of(x))
        return out


class ResNet9(nn.Module):
    """Stem, then for every stage a pooled convolution and its residual branch, global max pooling, linear."""

    def __init__(self, model: ModelConfig, in_channels: int, num_classes: int) -> None:
        super().__init__()
        assert model.widths is not None  # ModelConfig checks it
        style = BlockStyle(
            activation=ACTIVATIONS[model.activation],
            conv_bias=model.conv_bias,
            norm_scale=model.norm_scale,
            norm_momentum=model.norm_momentum,
        )
        stem, stem_norm = stem_layers(model.stem, in_channels, style)
        features: list[nn.Module] = [ConvNorm(stem, stem_norm, style)]
        width = stem.out_channels
        for stage_width, depth in zip(model.widths, model.residual_branches, strict=True):
            widening = conv(width, stage_width, 3, style)
            width = stage_width
            features.append(ConvNorm(widening, norm(width, style), style, pool=True, pool_first=model.pool_first))
            if depth:
                features.append(Residual(width, depth, style))
        self.features = nn.Sequential(*features)
        self.pool = nn.AdaptiveMaxPool2d(1)
        self.dropout = Dropout(model.dropout)
        self.linear = nn.Linear(width, num_classes)
        self.logit_scale = model.logit_scale

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(self.features(x))
        return self.logit_scale * self.linear(self.dropout(x.flatten(1)))
