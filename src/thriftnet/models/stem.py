"""The first convolution of both families, and patch whitening.

Shapes: N images, C channels, k x k the kernel, D = C k^2 the values of a patch.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from thriftnet.config import StemConfig
from thriftnet.data.normalize import as_float, normalize
from thriftnet.models.blocks import BlockStyle, conv, norm

WHITENING_IMAGES = 5000
"""How many training images the filters are computed from, as in the code of arXiv 2404.00498."""
WHITENING_EPS = 5e-4
"""Added to the eigenvalues, as in that code: it keeps filters of patches that hardly ever occur from growing."""
PATCHES_AT_ONCE = 2**16


class WhiteningConv(nn.Conv2d):
    """Frozen convolution without padding: D uncorrelated outputs and their negatives; only the bias is trained.

    x: [N, C, H, W] -> [N, 2 D, H - k + 1, W - k + 1] (Jordan 2024, arXiv 2404.00498, section 3.1, after Page's blog).
    The filters come from the training images, see `whiten`; until then they are those of uncorrelated values of
    variance one: one for each place and channel. The bias starts at zero.
    """

    def __init__(self, in_channels: int, kernel: int, bias_epochs: int | None) -> None:
        super().__init__(in_channels, 2 * in_channels * kernel**2, kernel)
        self.bias_epochs = bias_epochs
        self.weight.requires_grad_(False)
        self.set_filters(torch.eye(in_channels * kernel**2))
        assert self.bias is not None
        nn.init.zeros_(self.bias)

    @torch.no_grad()
    def set_filters(self, filters: Tensor) -> None:
        """`filters`: [D, D], one a row, values in the order of the weights; the negatives are added here."""
        self.weight.copy_(torch.cat([filters, -filters]).view_as(self.weight))

    def start_epoch(self, epoch: int) -> bool:
        """Train the bias in `epoch` (from 1) or freeze it, so that backward passes end before this layer.

        Returns whether that is a change.
        """
        assert self.bias is not None
        before = self.bias.requires_grad
        self.bias.requires_grad_(self.bias_epochs is None or epoch <= self.bias_epochs)
        if not self.bias.requires_grad:
            self.bias.grad = None  # an optimiser moves what has a gradient
        return before != self.bias.requires_grad


def stem_layers(stem: StemConfig, in_channels: int, style: BlockStyle) -> tuple[nn.Conv2d, nn.BatchNorm2d | None]:
    """(convolution, normalisation), to be followed by the activation; whitened patches need no normalisation."""
    if stem.kind == "whitening":
        return WhiteningConv(in_channels, stem.kernel, stem.bias_epochs), None
    assert stem.width is not None  # StemConfig checks it
    return conv(in_channels, stem.width, stem.kernel, style), norm(stem.width, style)


def whiten(network: nn.Module, images: Tensor, mean: Sequence[float], std: Sequence[float]) -> None:
    """Compute the filters of a whitening stem from training `images` (uint8 [N, C, H, W]); other networks stay."""
    for module in network.modules():
        if isinstance(module, WhiteningConv):
            module.set_filters(whitening_filters(images, mean, std, module.kernel_size[0]))


def start_epoch(network: nn.Module, epoch: int) -> bool:
    """What in the network depends on the epoch (from 1) alone: whether the bias of a whitening stem is trained.

    Returns whether other parameters are trained than before.
    """
    stems = [module for module in network.modules() if isinstance(module, WhiteningConv)]
    return any([stem.start_epoch(epoch) for stem in stems])  # noqa: C419 - every one has to start


def whitening_filters(images: Tensor, mean: Sequence[float], std: Sequence[float], kernel: int) -> Tensor:
    """float32 [D, D]: row i is v_i / sqrt(lambda_i + eps), of the eigenpairs of the patches' covariance, largest first.

    Of `images`, uint8 [N, C, H, W], WHITENING_IMAGES evenly spread ones are used (all, if there are fewer), normalised
    with `mean` and `std`. Computed in float64 on the CPU, so that it does not depend on the device; the sign that an
    eigenvector may have either way is the one that makes its largest component positive.
    """
    count = min(WHITENING_IMAGES, len(images))
    chosen = images[torch.arange(count) * len(images) // count].cpu()
    values = images.shape[1] * kernel**2
    sums, products, patches_seen = torch.zeros(values).double(), torch.zeros(values, values).double(), 0
    for chunk in torch.split(chosen, max(1, PATCHES_AT_ONCE // chosen[0, 0].numel())):
        patches = F.unfold(normalize(as_float(chunk), mean, std), kernel).transpose(0, 1).flatten(1).double()
        sums += patches.sum(1)
        products += patches @ patches.T
        patches_seen += patches.shape[1]
    average = sums / patches_seen
    eigenvalues, eigenvectors = torch.linalg.eigh(products / patches_seen - average.outer(average))
    rows = eigenvectors.T.flip(0)
    rows = rows * rows.gather(1, rows.abs().argmax(1, keepdim=True)).sign()
    # Rounding can take an eigenvalue of zero below it, where images are grey or of one colour.
    return (rows / (eigenvalues.flip(0).clamp(min=0) + WHITENING_EPS).sqrt()[:, None]).float()
