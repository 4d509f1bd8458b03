"""A kept source reads each split once, when it is asked for, and is otherwise the source that it keeps."""

from __future__ import annotations

import torch

from tests.training.conftest import TinySource
from thriftnet.data.dataset import LabelledImages
from thriftnet.data.kept import KeptSource


class Counting(TinySource):
    read = 0

    def train(self) -> LabelledImages:
        self.read += 1
        return super().train()


def test_each_split_is_read_once_when_it_is_asked_for() -> None:
    source = Counting(sealed=False)
    kept = KeptSource(source)
    assert (source.read, source.test_opened) == (0, 0)
    assert kept.train() is kept.train()
    assert (source.read, source.test_opened) == (1, 0)
    assert kept.test() is kept.test()
    assert (source.read, source.test_opened) == (1, 1)
    assert torch.equal(kept.train().images, source.train().images)


def test_all_else_is_the_sources() -> None:
    source = TinySource()
    source.has_test, source.notes = False, ("a note",)
    kept = KeptSource(source)
    for name in ("format", "location", "class_names", "has_test", "notes"):
        assert getattr(kept, name) == getattr(source, name)
