"""Dropout whose mask is a function of one seed and each element's place in memory, forward and backward alike.

On a CPU torch draws the mask serially from a generator whose every number needs the one before: in bf16 this was the
slowest layer but convolutions. Here every call takes 64 bits from torch's generator, which keys a counter-based one
(Threefry-2x32 with 13 rounds, Salmon et al. 2011), so that threads and vectors draw side by side and the
backward pass draws the mask again instead of keeping it.

x: any shape, float32 or bfloat16, contiguous or channels-last; the same values in another layout get another mask.
"""

from __future__ import annotations

import ctypes
from typing import Any

import torch
from torch import Tensor, nn

from thriftnet.kernels.build import load_kernels

_POINTER, _LONG, _INT = ctypes.c_void_p, ctypes.c_long, ctypes.c_int
_ARGUMENTS: list[Any] = [_INT, _POINTER, _POINTER, _LONG, ctypes.c_uint64, ctypes.c_uint32, ctypes.c_float, _INT]


def prepare() -> None:
    """Compile the kernel where it is not in the cache. Raises KernelsUnavailable."""
    function = load_kernels("dropout").dropout
    function.argtypes, function.restype = _ARGUMENTS, None


def use_kernels(network: nn.Module) -> None:
    """Let the `Dropout` layers of `network` use the kernel. Raises KernelsUnavailable."""
    prepare()
    for module in network.modules():
        if isinstance(module, Dropout):
            module.uses_kernels = True


class Dropout(nn.Dropout):
    """torch's layer, which uses the kernel where `use_kernels` allowed it and the tensor suits it.

    It has the name of torch's, which layer tables show.
    """

    uses_kernels = False

    def forward(self, input: Tensor) -> Tensor:
        if self.uses_kernels and self.training and 0 < self.p < 1 and not self.inplace and _suits(input):
            # A seed for each call, from the generator that the loop seeds and a resume restores.
            seed = int(torch.empty((), dtype=torch.int64).random_(-(2**63), None)) % 2**64
            return _Dropout.apply(input, seed, self.p)  # type: ignore[no-untyped-call]
        return super().forward(input)


def _suits(x: Tensor) -> bool:
    return x.device.type == "cpu" and x.dtype in (torch.float32, torch.bfloat16) and _layout(x) is not None


def _layout(x: Tensor) -> torch.memory_format | None:
    """In which every element of memory is one of x; None for any other layout."""
    formats = (torch.contiguous_format, torch.channels_last)
    return next((layout for layout in formats if x.is_contiguous(memory_format=layout)), None)


class _Dropout(torch.autograd.Function):
    """x * mask / (1 - p), rounded once; linear in x, so its gradient is the same function of dy."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, seed: int, p: float) -> Tensor:
        ctx.seed, ctx.p, ctx.layout = seed, p, _layout(x)
        y = torch.empty_like(x)
        threshold = min(round(p * 2**32), 2**32 - 1)
        pointers = (x.dtype == torch.bfloat16, x.data_ptr(), y.data_ptr(), x.numel())
        load_kernels("dropout").dropout(*pointers, seed, threshold, 1 / (1 - p), torch.get_num_threads())
        return y

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        dy = dy.contiguous(memory_format=ctx.layout)
        return _Dropout.apply(dy, ctx.seed, ctx.p), None, None  # type: ignore[no-untyped-call]
