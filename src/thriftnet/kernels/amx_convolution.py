"""Convolutions in bfloat16 on the matrix units of x86 processors (AMX): what torch's library is slow at.

Its weight gradient is slow everywhere (at 4x4 pixels by a factor of ten), its output and input gradient are slow for
small images, with a stride and in groups. amx_convolution.cpp says how the kernel differs. Where torch's is the faster,
it computes the output and the input gradient here too.

x: [N, in, H, W] -> [N, out, H', W'], channels-last, bfloat16; weights float32, rounded to bfloat16 on the way in. Sums
and the gradient of the weights are float32, where torch rounds that to bfloat16 first.
"""

from __future__ import annotations

import ctypes
from functools import cache
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from thriftnet.kernels.build import KernelsUnavailable, load_kernels

# Measured with batches of 64 to 1000 images on one thread. The rule knows shapes only, so that a resumed run chooses as
# the first did.
MIN_CHANNELS = 16
MIN_IMAGES = 16
"""A row of the matrix units is an image; half of the rows of a block of 32 are used at least."""
MAX_SIDE, MAX_SIDE_OF_PROJECTION = 8, 4
"""Up to this side the kernel's output is faster than torch's; of a 1x1 convolution with a stride, which reads every
second pixel of what the kernel packs whole, only up to the other one."""

_POINTER, _INT = ctypes.c_void_p, ctypes.c_int
_SIZES = ctypes.c_long * 11
_ARGUMENTS: dict[str, list[Any]] = {"output": [_POINTER] * 5, "input_gradient": [_POINTER] * 4}
_ARGUMENTS["weight_gradient"] = _ARGUMENTS["output"]


def has_matrix_units() -> bool:
    """Whether this processor multiplies bfloat16 matrices (AMX)."""
    try:
        return "amx_bf16" in Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return False  # not Linux, where no kernels are built


def prepare() -> None:
    """Compile the kernel where it is not in the cache. Raises KernelsUnavailable, also without AMX."""
    _library()


@cache
def _library() -> ctypes.CDLL:
    library = load_kernels("amx_convolution")
    for name, arguments in _ARGUMENTS.items():
        function = getattr(library, f"amx_{name}")
        function.argtypes, function.restype = [*arguments, _INT], _INT
    if library.amx_prepare():
        raise KernelsUnavailable("the system does not let this process use the matrix units (AMX); update its kernel")
    return library


def suits(x: Tensor, layer: nn.Conv2d) -> bool:
    """Whether the kernel takes x: [N, in, H, W] and is faster for one pass at least: under bf16 autocast on a CPU."""
    return (
        x.dim() == 4
        and x.device.type == "cpu"
        and torch.is_autocast_enabled("cpu")
        and torch.get_autocast_dtype("cpu") == x.dtype == torch.bfloat16
        and x.is_contiguous(memory_format=torch.channels_last)
        and layer.weight.dtype == torch.float32
        and layer.kernel_size in ((1, 1), (3, 3))
        and layer.dilation == (1, 1)
        and layer.stride in ((1, 1), (2, 2))
        and isinstance(layer.padding, tuple)
        and layer.padding[0] == layer.padding[1] < layer.kernel_size[0]
        and layer.padding_mode == "zeros"
        and min(layer.in_channels, layer.out_channels) >= MIN_CHANNELS
        and len(x) >= MIN_IMAGES
        and min(x.shape[2:]) + 2 * layer.padding[0] >= layer.kernel_size[0]
    )


def convolve(x: Tensor, layer: nn.Conv2d) -> Tensor:
    """What `layer` makes of x, where `suits` says so. Raises MemoryError."""
    weight = layer.weight.contiguous(memory_format=torch.channels_last)
    assert isinstance(layer.padding, tuple)  # `suits`
    return _AmxConvolution.apply(  # type: ignore[no-untyped-call]
        x, weight, layer.bias, layer.stride[0], layer.padding[0], layer.groups
    )


def _call(name: str, *arguments: Tensor | ctypes.Array[ctypes.c_long] | None) -> None:
    """Call the C function with tensors as pointers, in as many threads as torch uses. Raises MemoryError."""
    plain = [argument.data_ptr() if isinstance(argument, Tensor) else argument for argument in arguments]
    if getattr(_library(), f"amx_{name}")(*plain, torch.get_num_threads()):
        raise MemoryError("no memory for a convolution's workspace")


class _AmxConvolution(torch.autograd.Function):
    """Of channels-last x (bfloat16) and weight (float32); differentiable once."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, stride: int, padding: int, groups: int
    ) -> Tensor:
        (count, in_channels, *side), (out_channels, _, kernel, _) = x.shape, weight.shape
        out_side = [(length + 2 * padding - kernel) // stride + 1 for length in side]
        sizes = _SIZES(count, in_channels, *side, out_channels, *out_side, kernel, stride, padding, groups)
        # A 1x1 convolution without a stride is one matrix product for torch too.
        own_gradient = stride > 1 or groups > 1 or (kernel > 1 and max(out_side) <= MAX_SIDE)
        own = own_gradient and (kernel > 1 or groups > 1 or max(out_side) <= MAX_SIDE_OF_PROJECTION)
        rounded = None if own else weight.bfloat16()
        ctx.geometry, ctx.sizes = (stride, padding, groups), sizes
        ctx.save_for_backward(x, weight, None if own_gradient else rounded)
        if rounded is not None:
            with torch.autocast("cpu", enabled=False):
                return F.conv2d(x, rounded, None if bias is None else bias.bfloat16(), stride, padding, 1, groups)
        y = torch.empty(count, out_channels, *out_side, dtype=x.dtype, memory_format=torch.channels_last)
        _call("output", sizes, x, weight, bias, y)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, rounded = ctx.saved_tensors
        needs_dx, needs_dweight, needs_dbias = ctx.needs_input_grad[:3]
        dy = dy.contiguous(memory_format=torch.channels_last)
        dx = dweight = dbias = None
        if needs_dx and rounded is None:
            dx = torch.empty_like(x)
            _call("input_gradient", ctx.sizes, dy, weight, dx)
        elif needs_dx:
            stride, padding, groups = ctx.geometry
            dx = torch.ops.aten.convolution_backward(
                dy, x, rounded, None, [stride] * 2, [padding] * 2, [1, 1], False, [0, 0], groups, [True, False, False]
            )[0]
        if needs_dweight or needs_dbias:
            dweight = torch.empty_like(weight, memory_format=torch.channels_last)
            dbias = torch.empty(len(weight)) if needs_dbias else None
            _call("weight_gradient", ctx.sizes, x, dy, dweight, dbias)
        return dx, dweight, dbias, None, None, None
