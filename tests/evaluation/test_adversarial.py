"""FGSM and PGD: by hand on a linear model, within their cube, and worse for the model than noise."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import Tensor, nn

from thriftnet.evaluation.adversarial import AttackConfig, attacked_accuracy, attacked_images

CPU = torch.device("cpu")
FGSM = AttackConfig(name="fgsm", epsilon_levels=25.5)
PGD = AttackConfig(name="pgd", epsilon_levels=25.5, steps=4)


class Linear(nn.Module):
    """Logits of two classes from the mean of the first channel: class 1 where it is above 0.5."""

    def forward(self, images: Tensor) -> Tensor:
        brightness = images[:, 0].mean((1, 2)) - 0.5
        return torch.stack([-brightness, brightness], 1) * 10


def gray(*levels: int) -> Tensor:
    """uint8 [N, 1, 4, 4], each image of one level."""
    return torch.tensor(levels, dtype=torch.uint8)[:, None, None, None].expand(-1, 1, 4, 4)


def test_fgsm_moves_every_pixel_by_epsilon_towards_the_other_class() -> None:
    """The loss of class 1 rises where the image darkens: 0.6 becomes 0.5, and 0.05 of class 0 becomes 0.15."""
    images = torch.tensor([0.6, 0.05])[:, None, None, None].expand(-1, 1, 4, 4)
    changed = attacked_images(Linear(), images, torch.tensor([1, 0]), (0.0,), (1.0,), FGSM)
    assert torch.allclose(changed[:, 0, 0, 0], torch.tensor([0.5, 0.15]))
    assert torch.all(changed == changed[:, :, :1, :1])


def test_a_pixel_never_leaves_the_range_of_images() -> None:
    images = torch.tensor([0.02, 0.98])[:, None, None, None].expand(-1, 1, 4, 4)
    changed = attacked_images(Linear(), images, torch.tensor([1, 0]), (0.0,), (1.0,), FGSM)
    assert torch.allclose(changed[:, 0, 0, 0], torch.tensor([0.0, 1.0]))


def test_accuracy_by_hand() -> None:
    """0.1 of brightness turns 0.55 and 0.45, not 0.7 and 0.3."""
    images, labels = gray(140, 115, 178, 77), torch.tensor([1, 0, 1, 0])
    for attack in (FGSM, PGD):
        accuracy = attacked_accuracy(Linear(), images, labels, (0.0,), (1.0,), attack, device=CPU, batch_size=3)
        assert accuracy == 0.5


def test_normalisation_is_the_models_business() -> None:
    """The cube is measured in levels of the image, whatever its standard deviation."""
    images = torch.full((1, 1, 4, 4), 0.6)
    for std in (0.5, 1.0, 3.0):
        changed = attacked_images(Linear(), images, torch.tensor([1]), (0.0,), (std,), FGSM)
        assert torch.allclose((changed - images).abs(), torch.tensor(0.1))


class Bent(nn.Module):
    """A small random network, for attacks that need more than a sign."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(
            nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(6 * 36, 3)
        )

    def forward(self, images: Tensor) -> Tensor:
        return self.layers(images)


@settings(max_examples=15, deadline=None)
@given(st.sampled_from([FGSM, PGD]), st.integers(0, 1000))
def test_no_attack_leaves_its_cube(attack: AttackConfig, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand(4, 1, 8, 8, generator=generator)
    start = torch.rand(4, 1, 8, 8, generator=generator) * 2 - 1
    changed = attacked_images(Bent(), images, torch.arange(4) % 3, (0.5,), (0.3,), attack, start)
    assert float((changed - images).abs().max()) <= 0.1 + 1e-6
    assert float(changed.min()) >= 0
    assert float(changed.max()) <= 1


def losses(changed: Tensor, labels: Tensor) -> float:
    with torch.no_grad():
        return float(nn.functional.cross_entropy(Bent().eval()((changed - 0.5) / 0.3), labels))


def test_pgd_is_stronger_than_fgsm_and_both_than_noise() -> None:
    generator = torch.Generator().manual_seed(3)
    images = torch.rand(64, 1, 8, 8, generator=generator) * 0.6 + 0.2
    labels = torch.arange(64) % 3
    noise = images + 0.1 * (torch.rand(images.shape, generator=generator) * 2 - 1).sign()
    strong = AttackConfig(name="pgd", epsilon_levels=25.5, steps=20)
    by = {
        attack.name: losses(attacked_images(Bent(), images, labels, (0.5,), (0.3,), attack), labels)
        for attack in (FGSM, strong)
    }
    assert losses(noise, labels) < by["fgsm"] < by["pgd"]


def test_batch_size_changes_nothing_and_the_model_stays_as_it_was() -> None:
    model = Bent().train()
    images = torch.randint(0, 256, (20, 1, 8, 8), generator=torch.Generator().manual_seed(1)).to(torch.uint8)
    labels = torch.arange(20) % 3
    before = {name: value.clone() for name, value in model.state_dict().items()}
    found = {
        size: attacked_accuracy(model, images, labels, (0.5,), (0.3,), PGD, device=CPU, batch_size=size)
        for size in (3, 20)
    }
    assert found[3] == found[20]
    assert model.training
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_what_an_attack_needs_is_checked() -> None:
    with pytest.raises(ValidationError, match="steps belongs to name = 'pgd'"):
        AttackConfig(name="fgsm", epsilon_levels=2.0, steps=3)
    with pytest.raises(ValidationError, match="greater than 0"):
        AttackConfig(name="fgsm", epsilon_levels=0.0)
    assert AttackConfig(name="pgd", epsilon_levels=2.0).text == "PGD, 10 steps, 2/255"
    assert FGSM.text == "FGSM, 25.5/255"
