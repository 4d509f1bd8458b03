"""Batches against what the augmentation says image by image, and where the images are kept."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from tests.training.conftest import TinySource, tiny_recipe
from tests.training.test_graphs import batches_of
from thriftnet.augment import Draws, build_policy
from thriftnet.augment.mixing import Targets, mix_batch
from thriftnet.augment.resizing import resize
from thriftnet.data.batches import epoch_batches
from thriftnet.data.normalize import as_float, normalize
from thriftnet.data.prepare import prepare
from thriftnet.training import batches as module

CASES: dict[str, dict[str, Any]] = {
    "plain": {},
    "alternating flip": {"augment": {"ops": [{"op": "alternating_flip"}]}},
    "originals and copies": {"augment": {"concatenate_originals": True}},
    "copies beside the image": {
        "augment": {
            "ops": [{"op": "padded_crop"}, {"op": "augmix"}, {"op": "cutout", "side_px": 5}],
            "consistency_weight": 2.0,
        }
    },
    "mixed and smaller": {
        "augment": {"mix": {"name": "cutmix"}},
        "training": {"progressive": [{"side_px": 8, "until": 0.8}]},
    },
}


@pytest.mark.parametrize("sections", CASES.values(), ids=CASES.keys())
@pytest.mark.parametrize("number", [1, 2])
def test_a_batch_is_what_its_parts_say(sections: dict[str, Any], number: int) -> None:
    recipe = tiny_recipe(**sections, **({} if "training" in sections else {"training": {"seed": 5}}))
    ours, seed = batches_of(recipe), recipe.training.seed
    data = prepare(TinySource(), recipe.data, "validation", 0)
    policy = build_policy(recipe.augment, data.mean)
    epoch = ours.epoch(number)
    steps = list(epoch_batches(ours.shown, 20, False, seed, number))
    assert epoch.steps == len(steps)
    for step, entries in enumerate(steps):
        assert epoch.size(step) == len(entries)
        rows = entries % 72
        draws = Draws(seed, number, data.train_indices[rows])
        raw = data.train.images[rows]
        images = policy(raw, draws) if recipe.augment.consistency_weight is None else policy.with_copies(raw, draws)
        if recipe.augment.concatenate_originals:
            images = torch.stack([images[i] if entries[i] >= 72 else as_float(raw[i]) for i in range(len(rows))])
        wanted: Tensor | Targets = data.train.labels[rows]
        if recipe.training.progressive:
            images = resize(images, 8)
        if recipe.augment.mix is not None:
            images, wanted = mix_batch(recipe.augment.mix, images, data.train.labels[rows], draws, step)
        found, labels = ours.batch(epoch, step)
        assert torch.equal(found, normalize(images, data.mean, data.std))
        assert type(labels) is type(wanted)
        if isinstance(labels, Targets) and isinstance(wanted, Targets):
            assert torch.equal(labels.labels, wanted.labels)
            assert torch.equal(labels.weights, wanted.weights)
        else:
            assert torch.equal(labels, wanted)  # type: ignore[arg-type]


def test_images_that_do_not_fit_on_the_device_stay_in_main_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    size = 72 * 16 * 16
    monkeypatch.setattr(module, "_free_memory", lambda device: 2 * size)
    assert batches_of(tiny_recipe()).notes == ()
    monkeypatch.setattr(module, "_free_memory", lambda device: 2 * size - 1)
    aside = batches_of(tiny_recipe(augment={"mix": {"name": "ricap"}}))
    assert aside.notes[0].startswith("images stay in main memory: they take 0.0 GB and the device has 0.0 GB free")
    assert aside.home == torch.device("cpu")
