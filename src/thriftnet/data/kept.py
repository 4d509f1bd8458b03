"""A source whose splits stay in memory, for whoever trains many runs on one."""

from __future__ import annotations

from functools import cached_property

from thriftnet.data.dataset import LabelledImages, Source


class KeptSource(Source):
    """A source whose splits are read once, each when it is first asked for.

    Decoding takes longer than some of the runs of a study: 50,000 JPEGs of 32 pixels took 13 s of one core.
    """

    def __init__(self, source: Source) -> None:
        self._source = source
        self.format, self.location, self.class_names = source.format, source.location, source.class_names
        self.has_test, self.carved_test, self.notes = source.has_test, source.carved_test, source.notes
        self.has_validation = source.has_validation

    def train(self) -> LabelledImages:
        return self._train

    def validation(self) -> LabelledImages | None:
        return self._validation

    def test(self) -> LabelledImages:
        return self._test

    @cached_property
    def _train(self) -> LabelledImages:
        return self._source.train()

    @cached_property
    def _test(self) -> LabelledImages:
        return self._source.test()

    @cached_property
    def _validation(self) -> LabelledImages | None:
        return self._source.validation()
