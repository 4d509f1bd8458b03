"""BatchNorm statistics of the images to be predicted, without labels (Schneider et al. 2020, arXiv 2006.16971).

With n images and the training statistics counting as N pseudo-images (section 3, equations 1 and 2):

    mean = N / (N + n) mean_train + n / (N + n) mean_images          and the variance likewise
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from thriftnet.evaluation.predict import predict_logits

PRIOR_IMAGES = 16
"""N. A few images are then trusted little; from some hundred on it hardly matters."""


def adapt_batchnorm(
    network: nn.Module,
    images: Tensor,
    mean: Sequence[float],
    std: Sequence[float],
    *,
    device: torch.device,
    channels_last: bool,
    batch_size: int,
    prior_images: int = PRIOR_IMAGES,
) -> nn.Module:
    """A copy of `network`, whose BatchNorm layers have the blended statistics of `images`, uint8 [N, C, H, W].

    One pass in batches of a fixed random order (an input sorted by class must not give batches of one class). In it
    each layer normalises by the blend with its batch's statistics; afterwards by the blend with those of all images.
    So the result is a function of the images as a set, up to how they fell into batches.
    """
    adapted = copy.deepcopy(network)
    gathered = [
        _Gathered(layer, prior_images / (prior_images + len(images)))
        for layer in adapted.modules()
        if isinstance(layer, nn.modules.batchnorm._BatchNorm)
    ]
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0)).to(images.device)
    predict_logits(
        adapted, images[order], mean, std,
        device=device, dtype=None, channels_last=channels_last, batch_size=batch_size,
    )  # fmt: skip
    for layer in gathered:
        layer.finish()
    return adapted


class _Gathered:
    """One layer's statistics over the batches seen so far; a hook on the layer until `finish`."""

    def __init__(self, layer: nn.modules.batchnorm._BatchNorm, prior_share: float) -> None:
        assert layer.running_mean is not None
        assert layer.running_var is not None
        self.layer, self.prior_share = layer, prior_share
        self.trained = layer.running_mean.clone(), layer.running_var.clone()
        self.images = 0
        self.mean, self.var = torch.zeros_like(layer.running_mean), torch.zeros_like(layer.running_var)
        self.hook = layer.register_forward_pre_hook(self)

    def __call__(self, layer: nn.Module, inputs: tuple[Any, ...]) -> None:
        x: Tensor = inputs[0]
        if len(x) == 0:
            return
        var, mean = torch.var_mean(x.float(), dim=(0, 2, 3), correction=0)
        share = len(x) / (self.images + len(x))
        apart = mean - self.mean
        # Variances are merged, not squares summed, which would cancel (Chan, Golub and LeVeque 1983, equation 1.5).
        self.var = torch.lerp(self.var, var, share) + share * (1 - share) * apart.square()
        self.mean = self.mean + share * apart
        self.images += len(x)
        self._blend(mean, var)

    def finish(self) -> None:
        """Leave the layer with the statistics of all images and no hook."""
        self.hook.remove()
        if self.images:
            self._blend(self.mean, self.var)

    def _blend(self, mean: Tensor, var: Tensor) -> None:
        assert self.layer.running_mean is not None
        assert self.layer.running_var is not None
        self.layer.running_mean.copy_(torch.lerp(mean, self.trained[0], self.prior_share))
        self.layer.running_var.copy_(torch.lerp(var, self.trained[1], self.prior_share))
