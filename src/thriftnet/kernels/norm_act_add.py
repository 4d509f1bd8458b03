"""Batch normalisation, residual addition and ReLU or GELU in few passes over memory.

On a CPU these layers compute little and wait for memory, and torch runs them one by one. The kernel in norm_act_add.cpp
reads x twice and writes y once forward; backward it takes the two channel sums in one pass, with the activation's slope
on the fly, and the gradients in another. Where nothing is added before the activation its slope is recomputed from x,
so y is not kept for it.

x: [N, C, H, W] in channels-last memory, float32 or bfloat16; statistics and parameters float32.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any, TypeGuard

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from thriftnet.kernels.build import load_kernels

_MARK = "uses_kernels"
_SECOND = "for_shortcut"
"""Attribute of an output: the same values for a second reader."""
_CODES: dict[Any, int] = {None: 0, F.relu: 1, F.gelu: 2}
"""The activations that the kernel has, as norm_act_add.cpp numbers them."""
_RELU, _GELU = _CODES[F.relu], _CODES[F.gelu]
_POINTER, _LONG, _INT, _DOUBLE = ctypes.c_void_p, ctypes.c_long, ctypes.c_int, ctypes.c_double
_FORWARD = [_INT, _POINTER, _POINTER, _INT, _POINTER, _LONG, _LONG, _INT]  # dtype, x, residual, after, y, sizes, code
_ARGUMENTS: dict[str, list[Any]] = {
    "training": [*_FORWARD, *[_POINTER] * 4, *[_DOUBLE] * 2, *[_POINTER] * 3],
    "fixed": [*_FORWARD, *[_POINTER] * 3],
    "backward": [_INT] + [_POINTER] * 6 + [_LONG] * 2 + [_INT] + [_POINTER] * 6,
}


def prepare() -> None:
    """Compile the kernel where it is not in the cache. Raises KernelsUnavailable."""
    library = load_kernels("norm_act_add")
    for name, arguments in _ARGUMENTS.items():
        function = getattr(library, f"norm_act_add_{name}")
        function.argtypes, function.restype = [*arguments, _INT], _INT


def use_kernels(network: nn.Module) -> None:
    """Let `norm_act_add` use the kernel for the BatchNorm2d layers of `network`. Raises KernelsUnavailable."""
    prepare()
    for module in network.modules():
        if type(module) is nn.BatchNorm2d:  # a subclass may normalise over other images, as SyncBatchNorm does
            setattr(module, _MARK, True)


def norm_act_add(
    x: Tensor,
    norm: nn.Module,
    activation: Callable[[Tensor], Tensor] | None = None,
    residual: Callable[[], Tensor] | None = None,
    after: bool = False,
) -> Tensor:
    """activation(norm(x) + residual()), with the kernel where `use_kernels` allowed it and the tensors suit it.

    With `after` it is activation(norm(x)) + residual(). `residual` is called after the normalisation, so that the
    modules run in the order of the layer table. The kernel rounds once where bfloat16 layers one by one round three
    times.
    """
    if _suits(norm, x):
        code = _CODES.get(activation)  # None: the kernel lacks this activation
        added = None if residual is None else residual()
        if added is None or (added.shape == x.shape and added.dtype == x.dtype and not (after and code is None)):
            out, added = _fused(x, norm, code or 0, added, after), None
            activation = activation if code is None else None
        else:
            out = _fused(x, norm, 0, None)
    else:
        out = norm(x)
        added = None if residual is None else residual()
    # What the kernel left.
    if added is not None and not after:
        out = out + added
    if activation is not None:
        out = activation(out)
    return out if added is None or not after else out + added


def shortcut_of(x: Tensor) -> Tensor:
    """x for the second of its two readers, a block's shortcut.

    Where the kernel made x, this is a tensor of the same memory with a gradient of its own: the kernel takes both
    gradients in, and torch need not go over memory once more to add them. Elsewhere it is x itself.
    """
    return getattr(x, _SECOND, x)


def _suits(norm: nn.Module, x: Tensor) -> TypeGuard[nn.BatchNorm2d]:
    return (
        getattr(norm, _MARK, False)
        and isinstance(norm, nn.BatchNorm2d)
        and x.device.type == "cpu"
        and x.dtype in (torch.float32, torch.bfloat16)
        and x.is_contiguous(memory_format=torch.channels_last)
        and x.numel() > x.shape[1]  # torch's own layer refuses a single value per channel
        and norm.momentum is not None
        and norm.affine
        and norm.weight.dtype == torch.float32
        and not (norm._forward_hooks or norm._forward_pre_hooks)  # the layer itself would not run
        and (norm.training or (norm.running_mean is not None and not torch.is_grad_enabled()))
    )


def _fused(x: Tensor, norm: nn.BatchNorm2d, activation: int, residual: Tensor | None, after: bool = False) -> Tensor:
    if residual is not None:
        residual = residual.contiguous(memory_format=torch.channels_last)
    if not norm.training:
        return _forward_fixed(x, norm, activation, residual, after)
    running_mean = running_var = None
    if norm.track_running_stats and norm.num_batches_tracked is not None:
        norm.num_batches_tracked.add_(1)
        running_mean, running_var = norm.running_mean, norm.running_var
    y, second = _NormActAdd.apply(  # type: ignore[no-untyped-call]
        x, norm.weight, norm.bias, residual, after, running_mean, running_var, norm.momentum, norm.eps, activation
    )
    if second is not None:
        setattr(y, _SECOND, second)
    return y


def _call(name: str, *arguments: Tensor | float | None) -> None:
    """Call the C function with tensors as pointers, in as many threads as torch uses. Raises MemoryError."""
    function = getattr(load_kernels("norm_act_add"), f"norm_act_add_{name}")
    plain = [argument.data_ptr() if isinstance(argument, Tensor) else argument for argument in arguments]
    if function(*plain, torch.get_num_threads()):
        raise MemoryError("no memory for a normalisation's sums")


def _layout(x: Tensor) -> tuple[int, int]:
    """(rows, channels) of x: [N, C, H, W] seen as [N * H * W, C]."""
    return x.numel() // x.shape[1], x.shape[1]


def _forward_fixed(x: Tensor, norm: nn.BatchNorm2d, activation: int, residual: Tensor | None, after: bool) -> Tensor:
    """Normalise with the running statistics; no gradient."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    y = torch.empty_like(x)
    scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
    bf16 = x.dtype == torch.bfloat16
    _call("fixed", bf16, x, residual, after, y, *_layout(x), activation, norm.running_mean, scale, norm.bias)
    return y


class _NormActAdd(torch.autograd.Function):
    """Normalise with the statistics of the batch; differentiable once."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        residual: Tensor | None,
        after: bool,
        running_mean: Tensor | None,
        running_var: Tensor | None,
        momentum: float,
        eps: float,
        activation: int,
    ) -> tuple[Tensor, Tensor | None]:
        """(the output, and the same values for a second reader where the kernel can add that one's gradient)."""
        y = torch.empty_like(x)
        statistics = torch.empty(3, x.shape[1])  # mean, scale, 1 / standard deviation
        _call(
            "training", x.dtype == torch.bfloat16, x, residual, after, y, *_layout(x), activation, weight, bias,
            running_mean, running_var, momentum, eps, *statistics,
        )  # fmt: skip
        ctx.activation, ctx.has_residual = activation, residual is not None
        # With a residual before it ReLU's slope is in y alone, and GELU's needs the residual, which others keep anyway.
        other = None if residual is None or after else {_RELU: y, _GELU: residual}.get(activation)
        ctx.save_for_backward(x, other, bias, statistics)
        ctx.set_materialize_grads(False)
        if residual is not None and other is None:
            return y, None  # the residual's gradient is the output's, which the kernel does not write
        return y, torch.empty(0, dtype=y.dtype).set_(y.untyped_storage(), 0, y.shape, y.stride())  # no view of it

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *parts: Tensor | None) -> tuple[Tensor | None, ...]:
        x, other, bias, statistics = ctx.saved_tensors
        dy, *rest = (part.contiguous(memory_format=torch.channels_last) for part in parts if part is not None)
        dy_too = rest[0] if rest else None
        dx = torch.empty_like(x) if ctx.needs_input_grad[0] else None
        masked = None if other is None else torch.empty_like(x)
        dweight, dbias = torch.empty_like(statistics[:2])
        _call(
            "backward", x.dtype == torch.bfloat16, dy, dy_too, x, other, dx, masked, *_layout(x), ctx.activation,
            *statistics, bias, dweight, dbias,
        )  # fmt: skip
        dresidual = None if not ctx.has_residual else dy if masked is None else masked
        return dx, dweight, dbias, dresidual, None, None, None, None, None, None
