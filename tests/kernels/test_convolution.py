"""The layer of all blocks where torch's own is not safe; `test_winograd` and `test_amx_convolution` have where it
is slow."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch import nn

from thriftnet.kernels.convolution import SAFE_CHANNELS, Conv2d


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(
    ("channels", "side", "settings"),
    [
        (3, 9, {}),
        (8, 16, {"bias": False}),
        (15, 8, {"stride": (3, 2)}),
        (8, 6, {"groups": 4}),
        (SAFE_CHANNELS, 8, {}),
        (8, 8, {"padding": 1}),  # pads, so it is torch's
    ],
)
def test_a_projection_gives_what_torchs_gives(
    channels: int, side: int, settings: dict[str, object], layout: torch.memory_format
) -> None:
    torch.manual_seed(0)
    kwargs: dict[str, object] = {"kernel_size": 1, "stride": 2} | settings
    ours, plain = Conv2d(channels, 12, **kwargs), nn.Conv2d(channels, 12, **kwargs)  # type: ignore[arg-type]
    plain.load_state_dict(ours.state_dict())
    ours, plain = ours.double(), plain.double()
    x = torch.randn(2, channels, side, side, dtype=torch.float64).to(memory_format=layout)
    results = []
    for network in (ours, plain):
        own = x.clone().requires_grad_()
        y = network(own)
        y.square().sum().backward()
        results.append([y.detach(), own.grad, *(parameter.grad for parameter in network.parameters())])
    for mine, theirs in zip(*results, strict=True):
        torch.testing.assert_close(mine, theirs)


def test_the_shapes_that_end_torch_do_not_end_us() -> None:
    """In a process of its own, whose memory is checked at each release."""
    code = f"""
import torch
from thriftnet.kernels.convolution import Conv2d
torch.set_num_threads(1)
for channels in (1, 3, 4, 8, 12, {SAFE_CHANNELS - 1}):
    for out, side in ((8, 64), (16, 64), (32, 128)):
        layer = Conv2d(channels, out, 1, stride=2, bias=False).to(memory_format=torch.channels_last)
        for number in range(3):
            x = torch.randn(4, channels, side, side).to(memory_format=torch.channels_last).requires_grad_()
            layer(x).square().mean().backward()
            torch.randn(1000 + 7 * number)
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (ended.returncode, ended.stderr) == (0, "")
