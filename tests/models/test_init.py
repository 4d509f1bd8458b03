"""The partial identity; Kaiming's schemes are in test_build."""

from typing import Any

import torch
from torch import nn

from thriftnet.config import ModelConfig
from thriftnet.models.build import build_model
from thriftnet.models.init import initialize


def built(init: str, **values: Any) -> nn.Module:
    torch.manual_seed(0)
    tables = {"stem": {"width": 8}, "widths": [8, 16], "blocks": [1, 1], "strides": [1, 2], "init": init}
    return build_model(ModelConfig.model_validate(tables | values))


def test_dirac_copies_the_input_in_the_first_filters_and_keeps_torch_s_rest() -> None:
    dirac, plain = built("dirac").state_dict(), built("torch").state_dict()
    changed = {name for name in dirac if not torch.equal(dirac[name], plain[name])}
    assert changed == {"conv.weight"} | {f"stages.{stage}.0.conv{n}.weight" for stage in (0, 1) for n in (1, 2)}
    for name in changed:
        weight, width = dirac[name], dirac[name].shape[1]
        x = torch.randn(2, width, 5, 5)
        assert torch.equal(nn.functional.conv2d(x, weight[:width], padding=1), x)
        assert torch.equal(weight[width:], plain[name][width:])


def test_dirac_of_a_narrowing_convolution_copies_what_it_can() -> None:
    convolution = nn.Conv2d(6, 4, 3, padding=1, bias=False)
    initialize(convolution, "dirac")
    x = torch.randn(2, 6, 5, 5)
    assert torch.equal(convolution(x), x[:, :4])


def test_dirac_in_groups_copies_each_group() -> None:
    convolution = nn.Conv2d(4, 8, 3, padding=1, groups=2, bias=False)
    initialize(convolution, "dirac")
    x = torch.randn(2, 4, 5, 5)
    y = convolution(x)
    assert torch.equal(y[:, 0:2], x[:, 0:2])
    assert torch.equal(y[:, 4:6], x[:, 2:4])


def test_dirac_leaves_other_kernels_alone() -> None:
    for kernel in (1, 5):
        convolution = nn.Conv2d(4, 4, kernel)
        before = convolution.weight.detach().clone()
        initialize(convolution, "dirac")
        assert torch.equal(convolution.weight, before)
