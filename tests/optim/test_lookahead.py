"""Lookahead against steps computed by hand."""

import torch
from torch import nn

from thriftnet.config import LookaheadConfig
from thriftnet.optim.lookahead import Lookahead


class Value(nn.Module):
    def __init__(self, value: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([value]))


def test_steps_by_hand() -> None:
    # Start 1, each update adds 1, k = 2, alpha = 0.25.
    # fast 2, 3 -> slow 1 + 0.25 * 2 = 1.5 = fast; 2.5, 3.5 -> slow 1.5 + 0.25 * 2 = 2 = fast; 3.
    model = Value(1.0)
    lookahead = Lookahead(model, LookaheadConfig(steps=2, alpha=0.25))
    seen = []
    for _ in range(5):
        with torch.no_grad():
            model.weight.add_(1)
        lookahead.update(model)
        seen.append((model.weight.item(), lookahead.network.weight.item()))
    assert seen == [(2.0, 1.0), (1.5, 1.5), (2.5, 1.5), (2.0, 2.0), (3.0, 2.0)]


def test_running_statistics_are_the_fast_networks() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    lookahead = Lookahead(model, LookaheadConfig(steps=3))
    for count in range(1, 5):
        model(torch.randn(4, 2, generator=torch.Generator().manual_seed(count)))
        lookahead.update(model)
        assert torch.equal(lookahead.network[1].running_mean, model[1].running_mean)
        assert lookahead.network[1].num_batches_tracked == count


def test_the_slow_network_is_for_evaluation_alone() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.5))
    lookahead = Lookahead(model, LookaheadConfig())
    assert not lookahead.network.training
    assert not any(parameter.requires_grad for parameter in lookahead.network.parameters())
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_a_parameter_that_was_frozen_stays_where_it_is() -> None:
    model = nn.Sequential(Value(1.0), Value(1.0))
    lookahead = Lookahead(model, LookaheadConfig(steps=1, alpha=0.25))
    with torch.no_grad():
        for value in model:
            value.weight.fill_(3.0)
    model[0].weight.requires_grad_(False)
    lookahead.update(model)
    for network in (model, lookahead.network):
        assert [value.weight.item() for value in network] == [3.0, 1.5]
