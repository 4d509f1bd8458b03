"""The convolution layer of all blocks: torch's, but for the shapes where that is slow or not safe."""

from __future__ import annotations

from types import ModuleType
from typing import Literal

from torch import Tensor, nn

from thriftnet.kernels import amx_convolution, winograd

Kernel = Literal["winograd", "amx"]
KERNELS: dict[Kernel, ModuleType] = {"winograd": winograd, "amx": amx_convolution}
"""By the precision they are for: fp32, bf16."""

SAFE_CHANNELS = 16
"""torch 2.13's 1x1 convolution with a stride writes beyond its memory on a CPU below as many input channels, from 64
pixels a side on, channels-last (tried: 1 to 24 channels, 8 to 32 out, 32 to 128 pixels; 3x3 was sound)."""


def use_kernels(network: nn.Module, kernel: Kernel) -> None:
    """Let the `Conv2d` layers of `network` use this kernel. Raises KernelsUnavailable."""
    KERNELS[kernel].prepare()
    for module in network.modules():
        if isinstance(module, Conv2d):
            module.kernel = kernel


class Conv2d(nn.Conv2d):
    """torch's layer, which uses a kernel where `use_kernels` allowed it and it is the faster way.

    It has the name of torch's, which layer tables show.
    """

    kernel: Kernel | None = None

    def forward(self, input: Tensor) -> Tensor:
        if self.kernel == "amx" and amx_convolution.suits(input, self):
            return amx_convolution.convolve(input, self)
        if self.kernel == "winograd" and self._is_plain_3x3() and winograd.suits(input, self.weight):
            return winograd.convolve(input, self.weight, self.bias)
        if self._picks_pixels() and input.device.type == "cpu" and self.in_channels < SAFE_CHANNELS:
            rows, columns = self.stride
            picked = input[:, :, ::rows, ::columns]
            return nn.functional.conv2d(picked, self.weight, self.bias, groups=self.groups)
        return super().forward(input)

    def _is_plain_3x3(self) -> bool:
        return (
            self.kernel_size == (3, 3)
            and self.stride == self.dilation == self.padding == (1, 1)
            and self.groups == 1
            and self.padding_mode == "zeros"
        )

    def _picks_pixels(self) -> bool:
        """Whether it reads only every second pixel or so, as a projection shortcut does."""
        return self.kernel_size == (1, 1) and self.padding == (0, 0) and self.stride != (1, 1)
