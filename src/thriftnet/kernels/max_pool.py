"""Max pooling by 2 without overlap, which keeps a byte for each window where torch keeps eight.

torch stores the place of every maximum as an int64, fills the gradient with zeros and then adds to it place by place.
The kernel in max_pool.cpp stores which of the four pixels it was, and writes every value of the gradient once. Output
and gradient are torch's bit for bit, also among equal values and NaN (which keeps its own bits).

x: [N, C, H, W] -> [N, C, H/2, W/2], rounded down; channels-last, float32 or bfloat16.
"""

from __future__ import annotations

import ctypes
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from thriftnet.kernels.build import load_kernels

_ARGUMENTS: list[Any] = [ctypes.c_int] + [ctypes.c_void_p] * 3 + [ctypes.c_long] * 4 + [ctypes.c_int]


def prepare() -> None:
    """Compile the kernel where it is not in the cache. Raises KernelsUnavailable."""
    library = load_kernels("max_pool")
    for function in (library.max_pool_forward, library.max_pool_backward):
        function.argtypes, function.restype = _ARGUMENTS, None


def use_kernels(network: nn.Module) -> None:
    """Let the `MaxPool2d` layers of `network` use the kernel. Raises KernelsUnavailable."""
    prepare()
    for module in network.modules():
        if isinstance(module, MaxPool2d):
            module.uses_kernels = True


class MaxPool2d(nn.MaxPool2d):
    """torch's layer, which uses the kernel where `use_kernels` allowed it and layer and tensor suit it.

    It has the name of torch's, which layer tables show.
    """

    uses_kernels = False

    def forward(self, input: Tensor) -> Tensor:
        if self.uses_kernels and self._is_plain_2x2() and _suits(input):
            return _MaxPool.apply(input)  # type: ignore[no-untyped-call]
        return super().forward(input)

    def _is_plain_2x2(self) -> bool:
        return (
            self.kernel_size in (2, (2, 2))
            and self.stride in (2, (2, 2))
            and self.padding in (0, (0, 0))
            and self.dilation in (1, (1, 1))
            and not (self.ceil_mode or self.return_indices)
        )


def _suits(x: Tensor) -> bool:
    return (
        x.dim() == 4
        and x.device.type == "cpu"
        and x.dtype in (torch.float32, torch.bfloat16)
        and min(x.shape) > 0
        and min(x.shape[2:]) > 1  # torch's own layer refuses a side that has no window
        and x.is_contiguous(memory_format=torch.channels_last)
    )


def _call(name: str, tensors: tuple[Tensor, Tensor, Tensor], x_shape: torch.Size) -> None:
    """Call the C function with tensors as pointers, in as many threads as torch uses."""
    count, channels, height, width = x_shape
    sizes = (count, height, width, channels, torch.get_num_threads())
    pointers = [tensor.data_ptr() for tensor in tensors]
    getattr(load_kernels("max_pool"), f"max_pool_{name}")(tensors[0].dtype == torch.bfloat16, *pointers, *sizes)


class _MaxPool(torch.autograd.Function):
    """Of channels-last x; differentiable once."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        count, channels, height, width = x.shape
        pooled = (count, channels, height // 2, width // 2)
        y = torch.empty(pooled, dtype=x.dtype, memory_format=torch.channels_last)
        winners = torch.empty(pooled, dtype=torch.uint8, memory_format=torch.channels_last)
        _call("forward", (x, y, winners), x.shape)
        ctx.x_shape = x.shape
        ctx.save_for_backward(winners)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> Tensor:
        (winners,) = ctx.saved_tensors
        dy = dy.contiguous(memory_format=torch.channels_last)
        dx = torch.empty(ctx.x_shape, dtype=dy.dtype, memory_format=torch.channels_last)
        _call("backward", (dy, dx, winners), ctx.x_shape)
        return dx
