"""BatchNorm over two real processes against nn.BatchNorm2d on the whole batch."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tests.conftest import TwoProcesses
from tests.distributed.worker import CPU, NORMS, norm_case, norm_result
from thriftnet.distributed.batchnorm import SynchronisedBatchNorm2d, synchronise_batchnorm

TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 2e-2}


@pytest.mark.parametrize("name", NORMS)
def test_equals_torch_on_the_whole_batch(two_processes: TwoProcesses, name: str) -> None:
    ranks = [found[name] for found in two_processes.found("norms")]
    network, batches, gradient = norm_case(name)
    expected = norm_result(network, batches, gradient, slice(None))
    tolerance = TOLERANCE[gradient.dtype]
    assert ranks[0].keys() == expected.keys()
    for key, value in expected.items():
        if key in ("y", "dx"):
            found = torch.cat([rank[key] for rank in ranks])
            assert found.is_contiguous(memory_format=NORMS[name][3])
        elif key.startswith("gradient"):
            found = ranks[0][key] + ranks[1][key]
        else:  # buffers are the same in both, bit for bit
            assert torch.equal(ranks[0][key], ranks[1][key])
            found = ranks[0][key]
        assert found.dtype == value.dtype
        torch.testing.assert_close(found, value, rtol=tolerance, atol=tolerance)


def test_one_value_a_channel_is_refused_in_both(two_processes: TwoProcesses) -> None:
    assert "got 1 in all processes" in two_processes.found("one_value_a_channel")[1]


def test_replacement_keeps_parameters_buffers_names_and_modes() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Sequential(nn.BatchNorm2d(4, eps=0.5, momentum=0.25))).eval()
    before = {**dict(network.named_parameters()), **dict(network.named_buffers())}
    x = torch.randn(2, 3, 4, 4)
    expected = network(x)
    synchronise_batchnorm(network, CPU)
    after = {**dict(network.named_parameters()), **dict(network.named_buffers())}
    assert before.keys() == after.keys()
    assert all(before[name] is after[name] for name in before)
    norm = network[1][0]
    assert isinstance(norm, SynchronisedBatchNorm2d)
    assert (norm.eps, norm.momentum, norm.training) == (0.5, 0.25, False)
    assert torch.equal(network(x), expected)


def test_a_gpu_gets_torchs_own() -> None:
    network = nn.Sequential(nn.Sequential(nn.BatchNorm2d(4)))
    synchronise_batchnorm(network, torch.device("cuda"))
    assert type(network[0][0]) is nn.SyncBatchNorm


def test_a_norm_without_a_synchronised_form_is_refused() -> None:
    with pytest.raises(TypeError, match="BatchNorm1d has no form"):
        synchronise_batchnorm(nn.Sequential(nn.BatchNorm1d(4)), CPU)
