"""How a trained run meets data: whether they are its own, what it has seen of them, which label is which class.

A run's own data are those that it was trained on. They have the same training images, or lie in the same place and
have a test split of their own. In other data a test split that is merely carved out by a fixed draw would mix what the
run was trained on with what it was not: there all images are measured, and only where the run has seen none of them
(`training.seen_images`).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from thriftnet.data.dataset import CARVED, LabelledImages, Source
from thriftnet.data.open import open_source
from thriftnet.data.place import same_place
from thriftnet.data.prepare import TrainingData, prepare
from thriftnet.data.statistics import fingerprint, image_digests
from thriftnet.errors import DataError, RunFolderError
from thriftnet.run import Run
from thriftnet.training import seen_images

Split = Literal["test", "validation", "train"]


@dataclass(frozen=True)
class RunData:
    """Data that fit some runs, which all have the same classes and shape of images."""

    runs: tuple[Run, ...]
    source: Source
    """With the runs' classes in their order."""
    own: bool
    """Whether they are what the first run was trained on."""
    notes: tuple[str, ...]
    """How they were understood, one sentence each, to be shown to the user."""

    def images(self, split: Split, **details: Any) -> LabelledImages:
        """A split that fits all runs; opening the test split is logged in each, with `details`.

        Raises DataError where there is none, or the runs divided their training data in different ways.
        """
        if split != "test":
            return self._labelled_split(split)
        for run in self.runs:
            run.folder.log("test set opened", location=self.source.location, **details)
        return self._fitting(self.source.test())

    def label(self, images: LabelledImages) -> str:
        """What names of files say of the measured `images`: nothing for the run's own, else where they are from."""
        if self.own:
            return ""
        name = re.sub(r"[^A-Za-z0-9]+", "-", Path(self.source.location).stem)[:40].strip("-")
        return "-".join(filter(None, ("on", name, fingerprint(images)[:8])))

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        facts: dict[str, Any] = {"location": self.source.location, "format": self.source.format, "own": self.own}
        return facts | ({"notes": list(self.notes)} if self.notes else {})

    def _labelled_split(self, split: Literal["validation", "train"]) -> LabelledImages:
        first = self.runs[0]
        if len({_division(run) for run in self.runs}) > 1:
            raise DataError(f"the runs divided their training data in different ways, so they share no {split} split")
        prepared = prepare_again(first, self.source)
        if split == "validation" and prepared.validation is None:
            raise DataError("this run held out no validation images; use --split test or train")
        images = prepared.train if split == "train" or prepared.validation is None else prepared.validation
        return self._fitting(images)

    def _fitting(self, images: LabelledImages) -> LabelledImages:
        _check_shape(images, self.source, self.runs[0])
        return images


def prepare_again(run: Run, source: Source) -> TrainingData:
    """`source` divided as in the training of `run`. Raises DataError where it is not what was trained on."""
    data, training, own = run.recipe.data, run.recipe.training, run.data.validation_fingerprint is not None
    prepared = prepare(source, data, training.selection, training.split_seed, own)
    for split, found, expected in (
        ("training", prepared.fingerprint, run.data.fingerprint),
        ("validation", prepared.validation_fingerprint, run.data.validation_fingerprint),
    ):
        if found != expected:
            raise DataError(
                f"{source.location} is not the {split} data of this run (hash {_short(found)}, the run's "
                f"{_short(expected)}); give those that it was trained on with --data"
            )
    return prepared


def _short(fingerprint: str | None) -> str:
    return "none" if fingerprint is None else fingerprint[:12]


def meet(runs: Sequence[Run], data: str | Source | None) -> RunData:
    """The runs' data, or `data`, with which they can be measured.

    Raises DataError where classes or images are not the runs', and for data without a test split of their own that
    share images with the training.
    """
    first = runs[0]
    opened = data if isinstance(data, Source) else open_source(data or first.data.location, first.data.image_side)
    source, matched = _with_classes(opened, first)
    in_place = same_place(source.location, first.data.location)
    own = (in_place and source.has_test and not source.carved_test) or _trained_on(source, first)
    notes = (*source.notes, *matched)
    if not own and source.carved_test:
        notes = tuple(note for note in notes if not note.endswith(CARVED))
        source, unseen = _unseen(source, runs, named=data is not None)
        notes = (*notes, unseen)
    return RunData(tuple(runs), source, own, notes)


def _trained_on(source: Source, run: Run) -> bool:
    return fingerprint(source.train()) == run.data.fingerprint


def _unseen(source: Source, runs: Sequence[Run], named: bool) -> tuple[Source, str]:
    """`source` with all its images as the test split, and what to say of that."""
    images = source.whole()
    _check_shape(images, source, runs[0])
    digests = image_digests(images.images)
    everything = f"no test split of its own, so all {len(images):,} images are measured"
    for run in runs:
        known = _seen_by(run)
        if known is None:
            if not named:
                raise DataError(
                    f"{source.location} has changed since {run.path} was trained, and that run has no record of its "
                    "images; name it with --data to measure all of it, unknown how many it was trained on"
                )
            everything += f"; how many of them {run.path.name} was trained on is unknown: it has no record of them"
            continue
        for how, seen in (("trained on", known["trained"]), ("chosen with", known["held_out"])):
            shared = int(torch.isin(digests, seen).sum())
            if shared:
                raise DataError(
                    f"{source.location} has no test split of its own, and {run.path.name} was {how} {shared:,} of its "
                    f"{len(images):,} images; leave those out, or give data with a test split"
                )
    return _WholeSource(source, images), everything


def _seen_by(run: Run) -> dict[str, Tensor] | None:
    """Digests of what it has seen; None for a run of a version that kept none. Raises RunFolderError for damage."""
    if not run.folder.has(seen_images.NAME):
        return None
    try:
        return seen_images.decoded(run.folder.read_bytes(seen_images.NAME))
    except ValueError as error:
        raise RunFolderError(f"{run.path / seen_images.NAME} is damaged ({error}); restore it from a copy") from None


class _WholeSource(Source):
    """A source whose images are all tested."""

    def __init__(self, source: Source, images: LabelledImages) -> None:
        self.format, self.location, self.class_names = source.format, source.location, source.class_names
        self._source, self._images = source, images

    def train(self) -> LabelledImages:
        return self._source.train()

    def test(self) -> LabelledImages:
        return self._images


class _Relabelled(Source):
    """A source whose labels are numbered as a run's classes are: its class k is the run's class `numbers[k]`."""

    def __init__(self, source: Source, numbers: Sequence[int], class_names: tuple[str, ...]) -> None:
        self.format, self.location, self.class_names = source.format, source.location, class_names
        self.has_test, self.carved_test, self.notes = source.has_test, source.carved_test, source.notes
        self.has_validation = source.has_validation
        self._source, self._numbers = source, torch.tensor(numbers)

    def train(self) -> LabelledImages:
        return self._numbered(self._source.train())

    def validation(self) -> LabelledImages | None:
        own = self._source.validation()
        return None if own is None else self._numbered(own)

    def test(self) -> LabelledImages:
        return self._numbered(self._source.test())

    def whole(self) -> LabelledImages:
        return self._numbered(self._source.whole())

    def _numbered(self, data: LabelledImages) -> LabelledImages:
        return LabelledImages(data.images, self._numbers[data.labels])


def _with_classes(source: Source, run: Run) -> tuple[Source, tuple[str, ...]]:
    """`source` with the run's classes, and what to say of how they were matched.

    Equal sets of names are matched by name. Numbers are no names: where either side has only those, as many classes fit
    by their number.
    """
    theirs, ours = source.class_names, run.data.class_names
    if theirs == ours:
        return source, ()
    if len(theirs) == len(ours) and _numbers(theirs) != _numbers(ours):
        return _Relabelled(source, range(len(ours)), ours), ("classes without names are matched by their number",)
    if sorted(theirs) == sorted(ours):
        by_name = [ours.index(name) for name in theirs]
        return _Relabelled(source, by_name, ours), ("its classes are in another order, and are matched by name",)
    raise DataError(
        f"{source.location} has the {len(theirs)} classes {_listed(theirs)}, {run.path} the {len(ours)} classes "
        f"{_listed(ours)}; give data with the run's classes"
    )


def _numbers(names: Sequence[str]) -> bool:
    return list(names) == [str(number) for number in range(len(names))]


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:12]) + (", ..." if len(names) > 12 else "")


def _division(run: Run) -> tuple[Any, ...]:
    data, own = run.recipe.data, run.data.validation_fingerprint
    drawn = own is None or data.train_images is not None
    seed = run.recipe.training.split_seed if drawn else None
    return run.data.fingerprint, own, run.data.validation_images, data.train_images, seed


def _check_shape(images: LabelledImages, source: Source, run: Run) -> None:
    """Raise DataError unless the images are of the shape that the run was trained on."""
    expected = (run.data.channels, run.data.image_side, run.data.image_side)
    if tuple(images.images.shape[1:]) != expected:
        raise DataError(
            f"{source.location} has images of shape {list(images.images.shape[1:])}, "
            f"the run was trained on {list(expected)}"
        )
