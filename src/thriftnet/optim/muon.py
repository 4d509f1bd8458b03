"""Muon: stochastic gradient descent with momentum whose update of a weight matrix is nearly orthogonal.

Keller Jordan et al., "Muon: An optimizer for hidden layers in neural networks", 2024,
https://kellerjordan.github.io/posts/muon/. For a weight W: [rows, cols] with gradient G, momentum mu and rate lr:

    M <- mu M + G
    O <- newton_schulz(G + mu M)      (nesterov; else newton_schulz(M))
    W <- W - lr f O

The write-up has no factor f. f = max(1, rows / cols)^0.5 is that of torch's Muon ("original"), which takes matrices
only. The reference implementation takes the last two dimensions of the gradient: for a convolution its kernel's, so
f = 1 for every square one. The two differ where rows > cols: in 1x1 and grouped convolutions that widen. Under
`normalize_weights` W is first rescaled to ||W||_F = sqrt(rows) and f = 1, as airbench94_muon does.

A convolution's weight [out, in / groups, k, k] counts as the matrix [out, in / groups * k * k]: a filter is a row.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from thriftnet.config import MuonConfig
from thriftnet.optim.undo import Kept

QUINTIC = (
    3.4445,
    -4.7750,
    2.0315,
)  # the write-up's coefficients: steepest at 0, so that small singular values rise fast
SMALLEST_NORM = 1e-7  # of a matrix that is still normalised; a zero gradient gives a zero update


def newton_schulz(matrices: Tensor, steps: int, dtype: torch.dtype) -> Tensor:
    """Nearly the closest orthogonal matrix U V^T to each U S V^T of `matrices`: float [count, rows, cols].

    X <- X / ||X||_F, then `steps` times X <- P X with P = a I + b A + c A^2, A = X X^T, computed in `dtype`. Every
    singular value s becomes a s + b s^3 + c s^5 in each step; five bring all from 0.003 to 1 into [0.68, 1.21].
    """
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if tall else matrices  # the smaller A
    x = x / torch.linalg.vector_norm(x, dim=(1, 2), keepdim=True).clamp_min(SMALLEST_NORM)
    x = x.to(dtype)
    x = _iterate(x, steps) if dtype == torch.bfloat16 else _iterate_on_gram(x, steps)
    x = x.to(matrices.dtype)
    return x.mT if tall else x


def _iterate(x: Tensor, steps: int) -> Tensor:
    """As the formula says; x: [count, rows, cols], rows <= cols."""
    a, b, c = QUINTIC
    for _ in range(steps):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x


def _iterate_on_gram(x: Tensor, steps: int) -> Tensor:
    """The same by products of [rows, rows] alone: X_n = P_n ... P_1 X, and A_n+1 = P_n A_n P_n as all P and A commute.

    A 3x3 convolution has about nine times more columns than rows, so this saves most of the arithmetic. A holds the
    squares of the singular values: too fine for bf16.
    """
    gram = x @ x.mT
    polynomial = product = _polynomial(gram)
    for _ in range(steps - 1):
        gram = polynomial @ gram @ polynomial
        polynomial = _polynomial(gram)
        product = polynomial @ product
    return product @ x


def _polynomial(gram: Tensor) -> Tensor:
    """a I + b A + c A^2."""
    a, b, c = QUINTIC
    result = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
    result.diagonal(dim1=1, dim2=2).add_(a)
    return result


def orthogonalize(matrices: Sequence[Tensor], steps: int, dtype: torch.dtype) -> list[Tensor]:
    """`newton_schulz` of every matrix [rows, cols]; those of equal shape are computed as one batch."""
    places: dict[torch.Size, list[int]] = {}
    for place, matrix in enumerate(matrices):
        places.setdefault(matrix.shape, []).append(place)
    results = list(matrices)
    for same_shape in places.values():
        batch = newton_schulz(torch.stack([matrices[place] for place in same_shape]), steps, dtype)
        for place, result in zip(same_shape, batch, strict=True):
            results[place] = result
    return results


class Muon(torch.optim.Optimizer):
    """Muon over weights of two or more dimensions, orthogonalised in `dtype`.

    Momentum is `config`'s and stays what it is when a schedule moves the momentum of the other parameters.
    """

    def __init__(self, groups: list[dict[str, object]], config: MuonConfig, dtype: torch.dtype) -> None:
        self.config, self.dtype = config, dtype
        self.found_inf: Tensor | None = None
        """0-d: a step where it is 1 is left out, as by torch's fused optimisers; None: none is."""
        super().__init__(groups, {"lr": config.lr})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One update of every weight that has a gradient; `closure` is torch's signature and not called."""
        for group in self.param_groups:
            weights = [weight for weight in group["params"] if weight.grad is not None]
            if weights:
                self._update(weights, group["lr"])

    def _update(self, weights: list[Tensor], lr: float) -> None:
        config = self.config
        gradients = [weight.grad for weight in weights if weight.grad is not None]
        momenta = [self._momentum(weight) for weight in weights]
        before = None if self.found_inf is None else Kept([*weights, *momenta])
        torch._foreach_mul_(momenta, config.momentum)
        torch._foreach_add_(momenta, gradients)
        directions = torch._foreach_add(gradients, momenta, alpha=config.momentum) if config.nesterov else momenta
        updates = orthogonalize([_matrix(d) for d in directions], config.newton_schulz_steps, self.dtype)
        if config.normalize_weights:
            _normalize(weights)
        elif config.weight_decay:
            torch._foreach_mul_(weights, 1 - lr * config.weight_decay)
        for weight, direction, update in zip(weights, directions, updates, strict=True):
            factor = 1.0 if config.normalize_weights else max(1.0, update.shape[0] / update.shape[1]) ** 0.5
            weight.add_(_tensor(update, direction), alpha=-lr * factor)
        if before is not None and self.found_inf is not None:
            before.put_back_where(self.found_inf)

    def _momentum(self, weight: Tensor) -> Tensor:
        state = self.state[weight]
        if "momentum" not in state:
            state["momentum"] = torch.zeros_like(weight)
        momentum: Tensor = state["momentum"]
        return momentum


def _lies_channels_last(tensor: Tensor) -> bool:
    return tensor.ndim == 4 and tensor.is_contiguous(memory_format=torch.channels_last)


def _matrix(tensor: Tensor) -> Tensor:
    """[rows, the rest] with columns in the order of memory, without a copy: orthogonalisation commutes with theirs."""
    return (tensor.permute(0, 2, 3, 1) if _lies_channels_last(tensor) else tensor).flatten(1)


def _tensor(matrix: Tensor, like: Tensor) -> Tensor:
    """`matrix` in the shape of `like`, of which `_matrix` made one whose columns have this order."""
    if not _lies_channels_last(like):
        return matrix.reshape(like.shape)
    rows, channels, *kernel = like.shape
    return matrix.reshape(rows, *kernel, channels).permute(0, 3, 1, 2)


def _normalize(weights: list[Tensor]) -> None:
    """Rescale each to Frobenius norm sqrt(rows), so that an update turns it by about lr whatever its gradient."""
    for weight, norm in zip(weights, torch._foreach_norm(weights), strict=True):
        weight.mul_(len(weight) ** 0.5 / norm.clamp_min(SMALLEST_NORM))
