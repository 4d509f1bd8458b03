"""Residual blocks. Every block maps x: [N, in_width, H, W] to [N, out_width, H/stride, W/stride].

Activations are functional, so that a layer table numbers the modules as the papers' printed tables do; a projection
shortcut is registered after the main branch for the same reason.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from thriftnet.kernels.norm_act_add import norm_act_add
from thriftnet.kernels.winograd import Conv2d

Activation = Callable[[Tensor], Tensor]

ACTIVATIONS: dict[str, Activation] = {"relu": F.relu, "gelu": F.gelu, "silu": F.silu}


@dataclass(frozen=True)
class BlockStyle:
    """What all blocks of one network share; the fields mean what they mean in ModelConfig."""

    activation: Activation
    dropout: float = 0.0
    se_reduction: int = 0
    conv_bias: bool = False
    expansion: int = 1
    groups: int = 1


def conv(in_width: int, out_width: int, kernel: int, style: BlockStyle, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    """A convolution whose padding keeps the image side at stride 1."""
    return Conv2d(in_width, out_width, kernel, stride=stride, padding=kernel // 2, groups=groups, bias=style.conv_bias)


class SqueezeExcitation(nn.Module):
    """Scale each channel by a gate computed from all channels' means (Hu et al. 2018, arXiv 1709.01507, section 3)."""

    def __init__(self, width: int, reduction: int, activation: Activation) -> None:
        super().__init__()
        squeezed = max(1, width // reduction)
        self.reduce = nn.Conv2d(width, squeezed, 1)
        self.expand = nn.Conv2d(squeezed, width, 1)
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        gate = self.expand(self.activation(self.reduce(x.mean((2, 3), keepdim=True))))
        return x * gate.sigmoid()


class ResidualBlock(nn.Module):
    """activation(branch(x) + shortcut(x)); subclasses define the branch.

    The shortcut is the identity, or 1x1 convolution and normalisation where the shape changes
    (He et al. 2015, arXiv 1512.03385, option B).
    """

    def __init__(self, out_width: int, style: BlockStyle) -> None:
        super().__init__()
        self.out_width = out_width
        self.activation = style.activation

    def _add_tail(self, in_width: int, stride: int, style: BlockStyle) -> None:
        self.se = (
            SqueezeExcitation(self.out_width, style.se_reduction, style.activation) if style.se_reduction else None
        )
        self.shortcut = (
            nn.Sequential(conv(in_width, self.out_width, 1, style, stride), nn.BatchNorm2d(self.out_width))
            if stride != 1 or in_width != self.out_width
            else None
        )

    def branch(self, x: Tensor) -> tuple[Tensor, nn.BatchNorm2d]:
        """The branch up to its last normalisation, and that one, which the addition takes along."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        def shortcut() -> Tensor:
            return x if self.shortcut is None else norm_act_add(self.shortcut[0](x), self.shortcut[1])

        out, last_norm = self.branch(x)
        if self.se is None:
            return norm_act_add(out, last_norm, self.activation, shortcut)
        return self.activation(self.se(norm_act_add(out, last_norm)) + shortcut())


class BasicBlock(ResidualBlock):
    """Two 3x3 convolutions; `width` is the output width (arXiv 1512.03385, figure 5 left)."""

    def __init__(self, in_width: int, width: int, stride: int, style: BlockStyle) -> None:
        super().__init__(width, style)
        self.conv1 = conv(in_width, width, 3, style, stride)
        self.norm1 = nn.BatchNorm2d(width)
        self.dropout = nn.Dropout(style.dropout) if style.dropout else None
        self.conv2 = conv(width, width, 3, style)
        self.norm2 = nn.BatchNorm2d(width)
        self._add_tail(in_width, stride, style)

    def branch(self, x: Tensor) -> tuple[Tensor, nn.BatchNorm2d]:
        out = norm_act_add(self.conv1(x), self.norm1, self.activation)
        if self.dropout is not None:
            out = self.dropout(out)
        return self.conv2(out), self.norm2


class Bottleneck(ResidualBlock):
    """1x1 to `width`, 3x3 (in `groups` groups, with the stride), 1x1 to `width` x expansion.

    With one group it is the bottleneck of arXiv 1512.03385, figure 5 right; the stride sits on the 3x3 convolution.
    With more it is ResNeXt's block (Xie et al. 2017, arXiv 1611.05431, figure 3c).
    """

    def __init__(self, in_width: int, width: int, stride: int, style: BlockStyle) -> None:
        super().__init__(width * style.expansion, style)
        self.conv1 = conv(in_width, width, 1, style)
        self.norm1 = nn.BatchNorm2d(width)
        self.conv2 = conv(width, width, 3, style, stride, groups=style.groups)
        self.norm2 = nn.BatchNorm2d(width)
        self.dropout = nn.Dropout(style.dropout) if style.dropout else None
        self.conv3 = conv(width, self.out_width, 1, style)
        self.norm3 = nn.BatchNorm2d(self.out_width)
        self._add_tail(in_width, stride, style)

    def branch(self, x: Tensor) -> tuple[Tensor, nn.BatchNorm2d]:
        out = norm_act_add(self.conv1(x), self.norm1, self.activation)
        out = norm_act_add(self.conv2(out), self.norm2, self.activation)
        if self.dropout is not None:
            out = self.dropout(out)
        return self.conv3(out), self.norm3


class ResNeXtBlock(Bottleneck):
    """A bottleneck whose 3x3 convolution is grouped; a class of its own so that layer tables name it."""
