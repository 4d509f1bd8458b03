"""BatchNorm over the batches of all processes, on the CPU too.

Shapes: x: [n, C, H, W], this process's part of a batch; N = all processes' n, M = N x H x W values a channel.

    mean = sum(x) / M,  var = sum((x - mean)^2) / M,  y = w (x - mean) / sqrt(var + eps) + b      (arXiv 1502.03167)

with sums over all processes. The backward pass has two more such sums, of dy and of dy x^ (x^ the normalised x):

    dx = w / sqrt(var + eps) (dy - sum(dy) / M - x^ sum(dy x^) / M)

Gradients of w and b stay this process's own: DistributedDataParallel averages them as it does all others.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn


class SynchronisedBatchNorm2d(nn.BatchNorm2d):
    """nn.BatchNorm2d that normalises a training batch with the statistics of all processes' parts together."""

    def forward(self, x: Tensor) -> Tensor:
        """[n, C, H, W] -> [n, C, H, W]; n may be 0 in some processes. Raises ValueError where M is 1, as torch does."""
        return self._forward_over_processes(x) if self.training else super().forward(x)

    @torch.compiler.disable  # type: ignore[untyped-decorator]  # the exchange is no part of a compiled graph
    def _forward_over_processes(self, x: Tensor) -> Tensor:
        self._check_input_dim(x)
        mean, var, values = _global_statistics(x.detach())
        if values <= 1:
            raise ValueError(f"expected more than 1 value per channel when training, got {values} in all processes")
        if self.track_running_stats:
            self._update_running_statistics(mean, var, values)
        return _Normalise.apply(x, self.weight, self.bias, mean, var, values, self.eps)  # type: ignore[no-untyped-call]

    @torch.no_grad()
    def _update_running_statistics(self, mean: Tensor, var: Tensor, values: int) -> None:
        """As torch does: momentum None is the average over all batches; the variance is the unbiased one."""
        assert self.num_batches_tracked is not None
        assert self.running_mean is not None
        assert self.running_var is not None
        self.num_batches_tracked.add_(1)
        factor = 1 / int(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean, factor)
        self.running_var.lerp_(var * (values / (values - 1)), factor)


class _Normalise(torch.autograd.Function):
    """(x, w [C] or None, b [C] or None, mean [C], var [C], M, eps) -> y."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        mean: Tensor,
        var: Tensor,
        values: int,
        eps: float,
    ) -> Tensor:
        ctx.save_for_backward(x, weight, mean, var)
        ctx.values, ctx.eps = values, eps
        return F.batch_norm(x, mean, var, weight, bias, training=False, eps=eps)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, var = ctx.saved_tensors
        sums = torch.zeros(2, x.shape[1], dtype=mean.dtype)
        if x.numel():  # the kernel divides by zero where there is nothing
            # For fixed statistics it gives sum(dy x^) and sum(dy), in one pass over memory.
            _, sums[0], sums[1] = torch.ops.aten.native_batch_norm_backward(
                dy, x, weight, mean, var, None, None, False, ctx.eps, [False, True, True]
            )
        grad_weight, grad_bias = (part if weight is not None else None for part in sums.clone())
        dist.all_reduce(sums)
        sum_dy_normalised, sum_dy = sums / ctx.values
        scale = (var + ctx.eps).rsqrt()
        gain = scale if weight is None else scale * weight
        # -gain (sum_dy + x^ sum_dy_normalised) is a normalisation of x with another scale and shift ...
        dx = F.batch_norm(x, mean, var, -gain * sum_dy_normalised, -gain * sum_dy, training=False, eps=ctx.eps)
        # ... and gain dy is what remains.
        return dx.addcmul_(dy, gain[:, None, None]), grad_weight, grad_bias, None, None, None, None


def _global_statistics(x: Tensor) -> tuple[Tensor, Tensor, int]:
    """(mean [C], biased variance [C], values a channel) over all processes, the same bits in each.

    Means and variances are merged, not sums of squares, which would cancel where the mean is large (Chan, Golub and
    LeVeque, "Algorithms for computing the sample variance", The American Statistician 37, 1983, equation 1.5).
    """
    channels = x.shape[1]
    dtype = torch.promote_types(x.dtype, torch.float32)
    mine = torch.zeros(2 * channels + 1, dtype=torch.float64)
    if x.numel():
        # The kernel that nn.BatchNorm2d uses: torch.var_mean takes 2 to 10 times as long on the CPU.
        unused = torch.zeros(2, channels, dtype=dtype)  # running statistics, which give bf16 batches their precision
        mean, var = torch.batch_norm_update_stats(x, unused[0], unused[1], 0.0)
        mine[:channels], mine[channels:-1], mine[-1] = mean, var, x.numel() // channels
    parts = [torch.empty_like(mine) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, mine)
    means, variances, counts = torch.split(torch.stack(parts), [channels, channels, 1], dim=1)
    weights = counts / counts.sum()
    mean = (weights * means).sum(0)
    var = (weights * (variances + (means - mean) ** 2)).sum(0)
    return mean.to(dtype), var.to(dtype), int(counts.sum())


def synchronise_batchnorm(network: nn.Module, device: torch.device) -> None:
    """Replace every nn.BatchNorm2d inside `network` by one over all processes; parameters, buffers and names stay.

    On a GPU the replacement is torch's own. Raises TypeError for a normalisation by batches of another class.
    """
    if device.type == "cuda":
        nn.SyncBatchNorm.convert_sync_batchnorm(network)  # type: ignore[no-untyped-call]
        return
    for module in list(network.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.modules.batchnorm._BatchNorm):
                setattr(module, name, _synchronised(child))


def _synchronised(norm: nn.Module) -> SynchronisedBatchNorm2d:
    if type(norm) is not nn.BatchNorm2d:
        raise TypeError(f"{type(norm).__name__} has no form that is synchronised over processes")
    made = SynchronisedBatchNorm2d(
        norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats, device="meta"
    )
    made.weight, made.bias = norm.weight, norm.bias
    for name, buffer in norm.named_buffers():
        setattr(made, name, buffer)
    return made.train(norm.training)
