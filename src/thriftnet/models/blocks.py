"""Residual blocks. Every block maps x: [N, in_width, H, W] to [N, out_width, H/stride, W/stride], rounded up.

Activations are functional, so that a layer table numbers the modules as the papers' printed tables do; a projection
shortcut is registered after the main branch for the same reason.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from thriftnet.kernels.convolution import Conv2d
from thriftnet.kernels.dropout import Dropout
from thriftnet.kernels.norm_act_add import norm_act_add, shortcut_of

Activation = Callable[[Tensor], Tensor]

ACTIVATIONS: dict[str, Activation] = {"relu": F.relu, "gelu": F.gelu, "silu": F.silu}


@dataclass(frozen=True)
class BlockStyle:
    """What a block has besides its widths; the fields mean what they mean in ModelConfig where nothing else is said."""

    activation: Activation
    dropout: float = 0.0
    se_reduction: int = 0
    conv_bias: bool = False
    expansion: int = 1
    groups: int = 1
    norm_scale: bool = True
    norm_momentum: float = 0.1
    stochastic_depth: float = 0.0
    """This block's own probability."""
    activated_input: bool = False
    """Whether the stem has activated what a pre-activation block gets."""


def conv(in_width: int, out_width: int, kernel: int, style: BlockStyle, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    """A convolution whose padding keeps the image side at stride 1."""
    return Conv2d(in_width, out_width, kernel, stride=stride, padding=kernel // 2, groups=groups, bias=style.conv_bias)


def norm(width: int, style: BlockStyle) -> nn.BatchNorm2d:
    """Batch normalisation, whose scale stays 1 where it is not trained."""
    layer = nn.BatchNorm2d(width, momentum=style.norm_momentum)
    layer.weight.requires_grad_(style.norm_scale)
    return layer


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


class StochasticDepth(nn.Module):
    """Leave the residual branch out, image by image, in training only (Huang et al. 2016, arXiv 1603.09382, section 3).

    x: [N, C, H, W] is set to zero with `probability` and else divided by 1 - probability, as dropout does, so that the
    expected value is x; the paper multiplies by 1 - probability in evaluation instead, which is the same network up to
    the scale of its weights. The paper draws once a batch, to save time; a draw for each image has less variance. It
    comes from torch's generator, which the training loop seeds for every epoch.
    """

    def __init__(self, probability: float) -> None:
        super().__init__()
        self.probability = probability

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        kept = torch.rand(len(x), 1, 1, 1, device=x.device) >= self.probability
        return x * (kept / (1 - self.probability)).to(x.dtype)

    def extra_repr(self) -> str:
        return f"p={self.probability:g}"


class ResidualBlock(nn.Module):
    """activation(branch(x) + shortcut(x)); subclasses define the branch, or their own order.

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
        self.stochastic_depth = StochasticDepth(style.stochastic_depth) if style.stochastic_depth else None
        same_shape = stride == 1 and in_width == self.out_width
        self.shortcut = None if same_shape else self._projection(in_width, stride, style)

    def _projection(self, in_width: int, stride: int, style: BlockStyle) -> nn.Module:
        return nn.Sequential(conv(in_width, self.out_width, 1, style, stride), norm(self.out_width, style))

    def branch(self, x: Tensor) -> tuple[Tensor, nn.BatchNorm2d]:
        """The branch up to its last normalisation, and that one, which the addition takes along."""
        raise NotImplementedError

    def _tail(self, out: Tensor) -> Tensor:
        """What every kind of branch ends with."""
        if self.se is not None:
            out = self.se(out)
        return out if self.stochastic_depth is None else self.stochastic_depth(out)

    def forward(self, x: Tensor) -> Tensor:
        def shortcut() -> Tensor:
            if self.shortcut is None:
                return shortcut_of(x)
            assert isinstance(self.shortcut, nn.Sequential)
            return norm_act_add(self.shortcut[0](shortcut_of(x)), self.shortcut[1])

        out, last_norm = self.branch(x)
        if self.se is None and self.stochastic_depth is None:
            return norm_act_add(out, last_norm, self.activation, shortcut)
        return self.activation(self._tail(norm_act_add(out, last_norm)) + shortcut())


class BasicBlock(ResidualBlock):
    """Two 3x3 convolutions; `width` is the output width (arXiv 1512.03385, figure 5 left)."""

    def __init__(self, in_width: int, width: int, stride: int, style: BlockStyle) -> None:
        super().__init__(width, style)
        self.conv1 = conv(in_width, width, 3, style, stride)
        self.norm1 = norm(width, style)
        self.dropout = Dropout(style.dropout) if style.dropout else None
        self.conv2 = conv(width, width, 3, style)
        self.norm2 = norm(width, style)
        self._add_tail(in_width, stride, style)

    def branch(self, x: Tensor) -> tuple[Tensor, nn.BatchNorm2d]:
        out = norm_act_add(self.conv1(x), self.norm1, self.activation)
        if self.dropout is not None:
            out = self.dropout(out)
        return self.conv2(out), self.norm2


class PreactivationBlock(ResidualBlock):
    """x + two 3x3 convolutions, each after normalisation and activation (He et al. 2016, arXiv 1603.05027, figure 4e).

    Where the shape changes, the shortcut is a 1x1 convolution of the activated input. In the first block of a network
    both paths start from the activated input, which is the stem's (appendix).
    """

    def __init__(self, in_width: int, width: int, stride: int, style: BlockStyle) -> None:
        super().__init__(width, style)
        self.norm1 = None if style.activated_input else norm(in_width, style)
        self.conv1 = conv(in_width, width, 3, style, stride)
        self.norm2 = norm(width, style)
        self.dropout = Dropout(style.dropout) if style.dropout else None
        self.conv2 = conv(width, width, 3, style)
        self._add_tail(in_width, stride, style)

    def _projection(self, in_width: int, stride: int, style: BlockStyle) -> nn.Module:
        return conv(in_width, self.out_width, 1, style, stride)

    def forward(self, x: Tensor) -> Tensor:
        activated = x if self.norm1 is None else norm_act_add(x, self.norm1, self.activation)
        out = norm_act_add(self.conv1(activated), self.norm2, self.activation)
        if self.dropout is not None:
            out = self.dropout(out)
        out = self._tail(self.conv2(out))
        return out + (x if self.shortcut is None else self.shortcut(activated))


class Bottleneck(ResidualBlock):
    """1x1 to `width`, 3x3 (in `groups` groups, with the stride), 1x1 to `width` x expansion.

    With one group it is the bottleneck of arXiv 1512.03385, figure 5 right; the stride sits on the 3x3 convolution.
    With more it is ResNeXt's block (Xie et al. 2017, arXiv 1611.05431, figure 3c).
    """

    def __init__(self, in_width: int, width: int, stride: int, style: BlockStyle) -> None:
        super().__init__(width * style.expansion, style)
        self.conv1 = conv(in_width, width, 1, style)
        self.norm1 = norm(width, style)
        self.conv2 = conv(width, width, 3, style, stride, groups=style.groups)
        self.norm2 = norm(width, style)
        self.dropout = Dropout(style.dropout) if style.dropout else None
        self.conv3 = conv(width, self.out_width, 1, style)
        self.norm3 = norm(self.out_width, style)
        self._add_tail(in_width, stride, style)

    def branch(self, x: Tensor) -> tuple[Tensor, nn.BatchNorm2d]:
        out = norm_act_add(self.conv1(x), self.norm1, self.activation)
        out = norm_act_add(self.conv2(out), self.norm2, self.activation)
        if self.dropout is not None:
            out = self.dropout(out)
        return self.conv3(out), self.norm3


class ResNeXtBlock(Bottleneck):
    """A bottleneck whose 3x3 convolution is grouped; a class of its own so that layer tables name it."""
