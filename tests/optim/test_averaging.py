import pytest
import torch
from torch import nn

from thriftnet.optim.averaging import WeightAverage


def test_follows_its_formula_for_weights_and_running_statistics() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    average = WeightAverage(model, decay=0.5)
    expected = {name: value.clone().double() for name, value in model.state_dict().items()}
    for update in range(12):
        model(torch.randn(4, 2))
        with torch.no_grad():
            model[0].weight.add_(torch.randn(2, 2))
        average.update(model)
        decay = min(0.5, (1 + update) / (10 + update))
        for name, value in model.state_dict().items():
            expected[name] = expected[name] * decay + value.double() * (1 - decay)
    for name, value in average.network.state_dict().items():
        if value.is_floating_point():
            torch.testing.assert_close(value.double(), expected[name], rtol=1e-5, atol=1e-6)
    assert average.network[1].num_batches_tracked == model[1].num_batches_tracked == 12


def test_the_average_is_apart_from_the_network() -> None:
    model = nn.Linear(2, 2)
    average = WeightAverage(model, decay=0.9)
    before = average.network.weight.clone()
    with torch.no_grad():
        model.weight.add_(1)
    assert torch.equal(average.network.weight, before)
    assert not any(parameter.requires_grad for parameter in average.network.parameters())


@pytest.mark.parametrize("decay", [0.9, 0.999])
def test_constant_weights_stay(decay: float) -> None:
    model = nn.Linear(3, 3)
    average = WeightAverage(model, decay)
    for _ in range(5):
        average.update(model)
    torch.testing.assert_close(average.network.weight, model.weight)
