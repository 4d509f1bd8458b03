"""The `resnet` family: stem, stages of residual blocks, global average pooling, one linear layer.

x: [N, in_channels, H, W] -> logits: [N, num_classes], for any H and W.
"""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor, nn

from thriftnet.config import ModelConfig
from thriftnet.kernels.norm_act_add import norm_act_add
from thriftnet.models.blocks import (
    ACTIVATIONS,
    BasicBlock,
    BlockStyle,
    Bottleneck,
    PreactivationBlock,
    ResNeXtBlock,
    norm,
)
from thriftnet.models.stem import stem_layers

BLOCKS: dict[str, type[BasicBlock] | type[PreactivationBlock] | type[Bottleneck]] = {
    "basic": BasicBlock,
    "preactivation": PreactivationBlock,
    "bottleneck": Bottleneck,
    "resnext": ResNeXtBlock,
}
DEFAULT_EXPANSION = {"basic": 1, "preactivation": 1, "bottleneck": 4, "resnext": 2}


def stage_widths(model: ModelConfig) -> tuple[int, ...]:
    """The width handed to each stage's blocks; for ResNeXt cardinality x base width, doubling with every stage."""
    if model.block == "resnext":
        assert model.cardinality is not None  # ModelConfig checks it
        assert model.base_width is not None
        return tuple(model.cardinality * model.base_width * 2**stage for stage in range(len(model.blocks)))
    assert model.widths is not None
    return model.widths


class ResNet(nn.Module):
    """See the module; the layout of the nine published networks is in the recipes that name them."""

    def __init__(self, model: ModelConfig, in_channels: int, num_classes: int) -> None:
        super().__init__()
        style = BlockStyle(
            activation=ACTIVATIONS[model.activation],
            dropout=model.dropout,
            se_reduction=model.se_reduction,
            conv_bias=model.conv_bias,
            expansion=model.expansion or DEFAULT_EXPANSION[model.block],
            groups=model.cardinality or 1,
            norm_scale=model.norm_scale,
            norm_momentum=model.norm_momentum,
        )
        self.activation = style.activation
        self.conv, self.norm = stem_layers(model.stem, in_channels, style)
        width = self.conv.out_channels
        stages = []
        number = 0
        for stage_width, depth, first_stride in zip(stage_widths(model), model.blocks, model.strides, strict=True):
            blocks: list[nn.Module] = []
            for stride in [first_stride] + [1] * (depth - 1):
                number += 1
                # The linear rule (arXiv 1603.09382, equation 4); the stem counts as the block before the first.
                depth_drop = model.stochastic_depth * number / sum(model.blocks)
                own_style = replace(style, stochastic_depth=depth_drop, activated_input=number == 1)
                block = BLOCKS[model.block](width, stage_width, stride, own_style)
                width = block.out_width
                blocks.append(block)
            stages.append(nn.Sequential(*blocks))
        self.stages = nn.Sequential(*stages)
        # Pre-activation blocks leave their sum as it is, so what is pooled is normalised and activated once more.
        self.final_norm = norm(width, style) if model.block == "preactivation" else None
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.linear = nn.Linear(width, num_classes)
        self.logit_scale = model.logit_scale

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        x = self.activation(x) if self.norm is None else norm_act_add(x, self.norm, self.activation)
        x = self.stages(x)
        if self.final_norm is not None:
            x = norm_act_add(x, self.final_norm, self.activation)
        return self.logit_scale * self.linear(self.pool(x).flatten(1))
