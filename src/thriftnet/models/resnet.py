"""The `resnet` family: stem, stages of residual blocks, global average pooling, one linear layer.

x: [N, in_channels, H, W] -> logits: [N, num_classes], for any H and W.
"""

from __future__ import annotations

from torch import Tensor, nn

from thriftnet.config import ModelConfig
from thriftnet.kernels.norm_act_add import norm_act_add
from thriftnet.models.blocks import ACTIVATIONS, BasicBlock, BlockStyle, Bottleneck, ResNeXtBlock, conv

BLOCKS: dict[str, type[BasicBlock] | type[Bottleneck]] = {
    "basic": BasicBlock,
    "bottleneck": Bottleneck,
    "resnext": ResNeXtBlock,
}
DEFAULT_EXPANSION = {"basic": 1, "bottleneck": 4, "resnext": 2}


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
        )
        self.activation = style.activation
        self.conv = conv(in_channels, model.stem.width, model.stem.kernel, style)
        self.norm = nn.BatchNorm2d(model.stem.width)
        width = model.stem.width
        stages = []
        for stage_width, depth, first_stride in zip(stage_widths(model), model.blocks, model.strides, strict=True):
            blocks: list[nn.Module] = []
            for stride in [first_stride] + [1] * (depth - 1):
                block = BLOCKS[model.block](width, stage_width, stride, style)
                width = block.out_width
                blocks.append(block)
            stages.append(nn.Sequential(*blocks))
        self.stages = nn.Sequential(*stages)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.linear = nn.Linear(width, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = norm_act_add(self.conv(x), self.norm, self.activation)
        x = self.pool(self.stages(x))
        return self.linear(x.flatten(1))
