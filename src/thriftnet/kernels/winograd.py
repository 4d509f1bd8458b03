"""3x3 convolutions in fp32 with a quarter of the multiplications (Lavin and Gray 2015, arXiv 1509.09308, section 4).

torch's fp32 convolutions come close to what a CPU without matrix units can multiply, so only fewer multiplications make
them faster. The kernel in winograd.cpp computes the output, the gradient of the input and that of the weights in tiles
of 4x4 pixels by F(4x4, 3x3). Its transforms cost accuracy: with 16 to 512 channels the root mean square error of all
three is 1e-6 to 5e-6 of the values', five to ten times that of the direct sum in fp32, and no value is off by more than
3e-5 of the largest. The gradient of a whole network hides that: liu-4x2's is 0.5 % off the one in float64 either way,
since rounding decides for ReLU which values near 0 are positive.

x: [N, in, H, W] -> [N, out, H, W], channels-last, float32.
"""

from __future__ import annotations

import ctypes
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from thriftnet.kernels.build import load_kernels

# Measured at 2 to 32 pixels and 8 to 512 channels, forward and backward together: below these the direct convolution is
# as fast or faster. The rule knows shapes only, so that a resumed run chooses as the first did.
MIN_CHANNELS = 16
MIN_TILES = 32
"""The filters are transformed once a batch, whatever its size."""
MIN_FILLED = 0.6
"""The least share of the tiles' pixels that are in the image: 10 pixels fill 0.69 of 12, 9 only 0.56."""
TILE_SIDE = 4

_POINTER, _LONG, _INT = ctypes.c_void_p, ctypes.c_long, ctypes.c_int
_ARGUMENTS: dict[str, list[Any]] = {
    "winograd_convolve": [_POINTER] * 4 + [_LONG] * 5 + [_INT],
    "winograd_weight_gradient": [_POINTER] * 3 + [_LONG] * 5,
}


def prepare() -> None:
    """Compile the kernel where it is not in the cache. Raises KernelsUnavailable, also without AVX2."""
    library = load_kernels("winograd")
    for name, arguments in _ARGUMENTS.items():
        function = getattr(library, name)
        function.argtypes, function.restype = [*arguments, _INT], _INT


def suits(x: Tensor, weight: Tensor) -> bool:
    """Whether the kernel takes x: [N, in, H, W] with weight: [out, in, 3, 3], and is faster than the direct sum."""
    if x.dim() != 4 or x.device.type != "cpu" or x.dtype != torch.float32 or weight.dtype != torch.float32:
        return False
    if torch.is_autocast_enabled("cpu") or not x.is_contiguous(memory_format=torch.channels_last):
        return False
    count, in_channels, height, width = x.shape
    tiles = -(-height // TILE_SIDE) * -(-width // TILE_SIDE)
    return (
        min(in_channels, weight.shape[0]) >= MIN_CHANNELS
        and count * tiles >= MIN_TILES
        and height * width >= MIN_FILLED * tiles * TILE_SIDE**2
    )


def _call(name: str, *arguments: Tensor | int | None) -> None:
    """Call the C function with tensors as pointers, in as many threads as torch uses. Raises MemoryError."""
    plain = [argument.data_ptr() if isinstance(argument, Tensor) else argument for argument in arguments]
    if getattr(load_kernels("winograd"), name)(*plain, torch.get_num_threads()):
        raise MemoryError("no memory for a convolution's workspace")


def _convolve(x: Tensor, weight: Tensor, bias: Tensor | None, out_channels: int, turned: bool) -> Tensor:
    count, in_channels, height, width = x.shape
    y = torch.empty(count, out_channels, height, width, memory_format=torch.channels_last)
    _call("winograd_convolve", x, weight, bias, y, count, height, width, in_channels, out_channels, turned)
    return y


def convolve(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """The convolution of stride 1 and padding 1, where `suits` says so. Raises MemoryError."""
    weight = weight.contiguous(memory_format=torch.channels_last)
    return _Winograd.apply(x, weight, bias)  # type: ignore[no-untyped-call]


class _Winograd(torch.autograd.Function):
    """Of channels-last x and weight; differentiable once."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _convolve(x, weight, bias, weight.shape[0], turned=False)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        needs_dx, needs_dweight, needs_dbias = ctx.needs_input_grad
        dy = dy.contiguous(memory_format=torch.channels_last)
        dx = _convolve(dy, weight, None, x.shape[1], turned=True) if needs_dx else None
        dweight = None
        if needs_dweight:
            dweight = torch.empty_like(weight, memory_format=torch.channels_last)
            count, in_channels, height, width = x.shape
            sizes = (count, height, width, in_channels, weight.shape[0])
            _call("winograd_weight_gradient", x, dy, dweight, *sizes)
        return dx, dweight, dy.sum((0, 2, 3)) if needs_dbias else None
