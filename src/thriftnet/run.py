"""A trained network on disk, as a typed value."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from html import escape
from pathlib import Path, PurePath
from shlex import quote
from typing import Annotated, Any, Literal, Self

import pydantic
from pydantic import Field
from torch import nn

from thriftnet.config import RecipeConfig
from thriftnet.data.dataset import MOST_CLASSES
from thriftnet.data.limits import MOST_IMAGES
from thriftnet.data.place import same_place
from thriftnet.data.prepare import LARGEST_SIDE, SMALLEST_SIDE
from thriftnet.errors import NonFiniteLossError, RunFolderError, escaped
from thriftnet.evaluation.metrics import Evaluation
from thriftnet.memory import is_out_of_memory
from thriftnet.models.build import build_model
from thriftnet.training.run_folder import RunFolder, Which

AFTER_NON_FINITE = "train again with a lower optimizer.lr or optimizer.clip_norm=1.0"
"""What to do with a run whose weights or outputs are NaN or infinite."""


class DataFacts(pydantic.BaseModel):
    """What prediction needs to know of the training data, without the data; data.json."""

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid")

    location: str
    format: str
    fingerprint: str
    validation_fingerprint: str | None = None
    class_names: Annotated[tuple[str, ...], Field(min_length=2, max_length=MOST_CLASSES)]
    channels: Literal[1, 3]
    image_side: Annotated[int, Field(ge=SMALLEST_SIDE, le=LARGEST_SIDE)]
    mean: tuple[Annotated[float, Field(ge=0.0, le=1.0)], ...]
    std: tuple[Annotated[float, Field(gt=0.0, le=1.0)], ...]
    training_images: Annotated[int, Field(ge=1, le=MOST_IMAGES)]
    training_images_per_class: tuple[int, ...]
    validation_images: Annotated[int, Field(ge=0, le=MOST_IMAGES)]

    @pydantic.model_validator(mode="after")
    def _consistent(self) -> Self:
        if len(self.mean) != self.channels or len(self.std) != self.channels:
            raise ValueError(f"mean and std must have {self.channels} values, one a channel")
        if len(self.training_images_per_class) != len(self.class_names):
            raise ValueError(f"training_images_per_class must have {len(self.class_names)} values, one a class")
        return self


@dataclass(frozen=True)
class Run:
    """A run folder; `load_run` opens one. Files are read when asked for; damaged ones raise RunFolderError."""

    path: Path

    @property
    def folder(self) -> RunFolder:
        return RunFolder(self.path)

    @cached_property
    def recipe(self) -> RecipeConfig:
        """The resolved recipe."""
        return self.folder.read_recipe()

    @cached_property
    def data(self) -> DataFacts:
        """What it was trained on: class names, channels, image side, mean, std, hash, counts."""
        try:
            return DataFacts.model_validate(self.folder.read_json("data.json"))
        except pydantic.ValidationError as error:
            wrong = ".".join(map(str, error.errors()[0]["loc"]))
            raise RunFolderError(
                f"{self.path / 'data.json'} is damaged ({wrong}: {error.errors()[0]['msg']}); restore it from a copy"
            ) from None

    @property
    def result(self) -> dict[str, Any]:
        """The outcome so far: status, selection, selected epoch, its losses and accuracies, time."""
        return self.folder.read_json("result.json")

    @property
    def environment(self) -> dict[str, Any]:
        """Where it was trained: versions, device, precision, threads."""
        return self.folder.read_json("environment.json")

    @property
    def history(self) -> list[dict[str, Any]]:
        """One row an epoch, as in metrics.csv."""
        return self.folder.read_history()

    def evaluation(self, split: str, calibrated: bool = False) -> Evaluation | None:
        """The plain evaluation of a split: of the kept weights, on the run's own data; None where there is none.

        `calibrated`: that with the run's temperature.

        One that an earlier version stored for other weights or data is none, nor is one of weights that were kept
        before the run went on. Raises RunFolderError for a damaged one.
        """
        name = f"evaluation-{split}{'-calibrated' if calibrated else ''}.json"
        if not self.folder.has(name):
            return None
        stored = self.folder.read_json(name)
        try:
            return Evaluation.from_dict(stored) if self._is_plain(stored) else None
        except (ValueError, LookupError, TypeError, AttributeError):
            raise RunFolderError(
                f"{self.path / name} is damaged; evaluate again: thriftnet evaluate {quote(str(self.path))} "
                f"--split {split}"
            ) from None

    def _is_plain(self, stored: dict[str, Any]) -> bool:
        """Whether a stored evaluation is of the kept weights (which may be gone by now) and the run's own data."""
        data, own = stored.get("data", {}), True
        if "own" in data or "location" in data:
            own = data.get("own", same_place(str(data.get("location")), self.data.location))
        measured = stored["runs"][0]["weights_hash"] if "runs" in stored else ""
        there = self.folder.has("selected.safetensors")
        kept = not there or self.folder.weights_sha256("selected").startswith(measured)
        return bool(own) and kept and stored.get("weights", "selected") == "selected"

    @property
    def test_selected(self) -> bool:
        """Whether the test set chose the kept epoch, so that its test accuracy must be labelled."""
        return self.recipe.training.selection == "test"

    def summary(self) -> str:
        """One line: what was selected how, and its accuracy with the label it must carry."""
        result = self.result
        reduced = f" (reduced: {self.recipe.reduced})" if self.recipe.reduced else ""
        text = f"{result['status']} after epoch {result['epochs']}{reduced}; kept epoch {result['selected_epoch']}"
        for split, label in (("validation", "validation accuracy"), ("test", "test accuracy (test-selected)")):
            accuracy = result["selected"][f"{split}_accuracy"]
            if accuracy is not None:
                text += f", {label} {accuracy:.2%}"
        return text

    def _repr_html_(self) -> str:
        """What a notebook shows: the outcome and the curves."""
        text = f"<p><code>{escape(str(self.path))}</code>: {escape(self.summary())}</p>"
        return text + self.figures_html("curves", "learning-rate")

    def figures_html(self, *names: str) -> str:
        """Figures of the run as HTML that stands alone; one that was never drawn is left out."""
        files = (f"figures/{name}.png" for name in names)
        images = (b64encode(self.folder.read_bytes(file)).decode() for file in files if self.folder.has(file))
        return "".join(f'<img src="data:image/png;base64,{image}" style="max-width: 100%">' for image in images)

    def network(self, weights: Which = "selected") -> nn.Module:
        """The trained network in evaluation mode on the CPU: normalised [N, C, H, W] -> logits [N, K].

        Raises RunFolderError for a damaged run, NonFiniteLossError for weights that are NaN or infinite.
        """
        network = build_model(self.recipe.model, self.data.channels, len(self.data.class_names), self.recipe.name)
        tensors = self.folder.read_weights(weights)
        try:
            network.load_state_dict(tensors)
        except RuntimeError as error:
            if is_out_of_memory(error):
                raise
            detail = str(error).splitlines()[-1].strip()
            raise RunFolderError(
                f"{self.path / weights}.safetensors does not fit the run's recipe ({detail}); restore both from one run"
            ) from None
        broken = next((name for name, tensor in tensors.items() if not tensor.isfinite().all()), None)
        if broken is not None:
            raise NonFiniteLossError(
                f"{self.path} can predict no image: {broken} in {weights}.safetensors is NaN or infinite; nothing was "
                f"written; {AFTER_NON_FINITE}"
            )
        return network.eval()


def load_run(path: Path | str) -> Run:
    """Open a run folder. Raises RunFolderError unless it is one."""
    RunFolder(path).require()
    return Run(Path(path))


def without_shared_folders(paths: Sequence[Path | str]) -> list[str]:
    """The ends of the paths that tell them apart, as names; the last part of each stays."""
    parts = [PurePath(path).parts for path in paths]
    shared = 0
    while all(len(each) > shared + 1 and each[shared] == parts[0][shared] for each in parts):
        shared += 1
    return [escaped(str(PurePath(*each[shared:]))) for each in parts]
