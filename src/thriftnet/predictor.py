"""From trained runs to the logits of images: which runs, which views, and what is done against shifted data."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from shlex import quote
from typing import Annotated, Any

import pydantic
import torch
from torch import Tensor, nn

from thriftnet import memory
from thriftnet import runtime as runtimes
from thriftnet.config import RuntimeConfig
from thriftnet.errors import DataError, NonFiniteLossError, RunFolderError
from thriftnet.evaluation.batchnorm_adaptation import adapt_batchnorm
from thriftnet.evaluation.calibration import HIGHEST, LOWEST
from thriftnet.evaluation.predict import Averaging, predict_logits
from thriftnet.run import AFTER_NON_FINITE, Run
from thriftnet.training.interruption import watch_signals
from thriftnet.training.run_folder import Which

TEMPERATURE_FILE = "temperature.json"
_VIEWS = {
    "none": "",
    "flip": "averaged over the image and its mirror image",
    "flip_shift": "averaged over the image and its mirror image, each also shifted by one pixel",
}


class Temperature(pydantic.BaseModel):
    """temperature.json: what `calibrate` fitted, on how many validation images, for which weights."""

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid")

    temperature: Annotated[float, pydantic.Field(gt=0.0, allow_inf_nan=False)]
    weights: Which
    weights_hash: str
    validation_images: int
    loss_before: float
    """Mean cross-entropy of the validation images in nats; the temperature was chosen for the least."""
    loss_after: float
    calibration_error_before: float
    calibration_error_after: float
    note: str = ""
    """Why the temperature stayed 1, where none is the best."""

    def summary(self) -> str:
        """One line for a person."""
        found = f"temperature {self.temperature:.4f} on {self.validation_images:,} validation images"
        if self.note:
            return f"{found}, nothing fitted: {self.note}"
        return (
            f"{found}: calibration error {self.calibration_error_before:.2%} -> {self.calibration_error_after:.2%}, "
            f"loss {self.loss_before:.4f} -> {self.loss_after:.4f} nats"
        )


@dataclass(frozen=True)
class Predictor:
    """How images are predicted. Of several runs the class probabilities are averaged with equal weights.

    Raises DataError where the runs have other classes, channels or image sides.
    """

    runs: tuple[Run, ...]
    weights: Which = "selected"
    tta: Averaging = "none"
    calibrated: bool = False
    """Divide each run's logits by its fitted temperature."""
    adapt_batchnorm: bool = False
    """Take BatchNorm's statistics from the images themselves (`evaluation.batchnorm_adaptation`)."""
    batch_size: int | None = None
    """Images at once; None: each run's `training.evaluation_batch_size`. The adaptation depends on it a little."""

    def __post_init__(self) -> None:
        first = self.runs[0].data
        for run in self.runs[1:]:
            for what in ("class_names", "channels", "image_side"):
                if getattr(run.data, what) != getattr(first, what):
                    raise DataError(
                        f"{run.path} has other {what.replace('_', ' ')} than {self.runs[0].path}; "
                        "only runs of the same data can be averaged"
                    )

    @property
    def variant(self) -> str:
        """What distinguishes it from one run as it is, for the names of files; empty if nothing does."""
        parts = [
            f"{self.weights}-weights" if self.weights != "selected" else "",
            f"mean-of-{len(self.runs)}" if len(self.runs) > 1 else "",
            "adapted" if self.adapt_batchnorm else "",
            "calibrated" if self.calibrated else "",
            f"tta-{self.tta}" if self.tta != "none" else "",
        ]
        return "-".join(filter(None, parts))

    @property
    def description(self) -> str:
        """What distinguishes it, in words; empty if nothing does."""
        parts = [
            f"the {self.weights} weights" if self.weights != "selected" else "",
            f"mean of {len(self.runs)} runs" if len(self.runs) > 1 else "",
            "BatchNorm adapted to the images" if self.adapt_batchnorm else "",
            self._scaling if self.calibrated else "",
            _VIEWS[self.tta],
        ]
        return ", ".join(filter(None, parts))

    @property
    def _scaling(self) -> str:
        return "temperature scaled" if any(t != 1 for t in self._temperatures) else "no temperature is best: kept at 1"

    @property
    def _temperatures(self) -> list[float]:
        return [read_temperature(run, self.weights) for run in self.runs]

    @cached_property
    def runtime(self) -> runtimes.Runtime:
        # In fp32 on whatever device is here, not as the run was trained: a run folder gives the same classes everywhere
        threads = self.runs[0].recipe.runtime.threads
        return runtimes.resolve(RuntimeConfig(precision="fp32", kernels="no", threads=threads))

    @cached_property
    def networks(self) -> tuple[nn.Module, ...]:
        """The trained networks on the device. Raises RunFolderError for a damaged run, or one without temperature."""
        networks: list[nn.Module] = [self.runtime.place(run.network(self.weights)) for run in self.runs]
        if self.calibrated:
            networks = [_Scaled(network, t) for network, t in zip(networks, self._temperatures, strict=True)]
        return tuple(networks)

    def logits(self, images: Tensor, named: Callable[[int], object] | None = None) -> Tensor:
        """float32 [N, K] on the CPU for uint8 [N, C, H, W]; of several runs logarithms of the mean probabilities.

        Raises NonFiniteLossError for outputs that are not finite, with the first such image's name (None: its place).
        """
        parts = [self._logits(run, network, images) for run, network in zip(self.runs, self.networks, strict=True)]
        for run, part in zip(self.runs, parts, strict=True):
            require_finite(part, run, named)
        return parts[0] if len(parts) == 1 else mean_of_runs(parts)

    def _logits(self, run: Run, network: nn.Module, images: Tensor) -> Tensor:
        """Raises Interrupted after a signal, OutOfMemoryError."""
        at_once = self.batch_size or run.recipe.training.evaluation_batch_size
        with memory.named(
            lambda: (
                f"to predict {min(at_once, len(images))} images of {images.shape[2]} x {images.shape[3]} px at once; "
                "nothing unfinished was written; evaluate and predict take a smaller --batch-size"
            )
        ):
            return self._logits_of_batches(run, network, images, at_once)

    def _logits_of_batches(self, run: Run, network: nn.Module, images: Tensor, at_once: int) -> Tensor:
        place: dict[str, Any] = {
            "device": self.runtime.device,
            "channels_last": self.runtime.channels_last,
            "batch_size": at_once,
        }
        if self.adapt_batchnorm:
            network = adapt_batchnorm(network, images, run.data.mean, run.data.std, **place)
        with watch_signals() as request:
            stop_if_asked = partial(
                request.heed, "interrupted; nothing unfinished was written; give the same command again"
            )
            logits = predict_logits(
                network,
                images,
                run.data.mean,
                run.data.std,
                dtype=self.runtime.autocast_dtype,
                tta=self.tta,
                before_batch=stop_if_asked,
                **place,
            )
            stop_if_asked()
        return logits

    def as_dict(self) -> dict[str, Any]:
        """What its numbers depend on, for JSON. Raises RunFolderError for a damaged run."""
        return {
            "runs": [
                {
                    "path": str(run.path),
                    "recipe": run.recipe.name,
                    "seed": run.recipe.training.seed,
                    "selection": run.result["selection"],
                    "weights_hash": weights_hash(run, self.weights),
                }
                for run in self.runs
            ],
            "weights": self.weights,
            "tta": self.tta,
            "temperatures": self._temperatures if self.calibrated else None,
            "adapt_batchnorm": self.adapt_batchnorm,
            "device": str(self.runtime.device),
            "precision": self.runtime.precision,
            **({} if self.batch_size is None else {"batch_size": self.batch_size}),
        }


def require_finite(logits: Tensor, run: Run, named: Callable[[int], object] | None = None) -> None:
    """Raise NonFiniteLossError where outputs [N, K] of `run` are NaN or infinite; they would count as class 0."""
    broken = (~logits.isfinite()).any(1).nonzero()[:, 0].tolist()
    if broken:
        first = f"{broken[0]}, counted from 0" if named is None else named(broken[0])
        raise NonFiniteLossError(
            f"the output of {run.path} is NaN or infinite for {len(broken):,} of {len(logits):,} images, first for "
            f"image {first}; nothing of it was written; {AFTER_NON_FINITE}"
        )


def mean_of_runs(logits: Sequence[Tensor]) -> Tensor:
    """Logarithms [N, K] of the mean of the runs' class probabilities, from the logits [N, K] of each."""
    return torch.stack([part.log_softmax(1) for part in logits]).logsumexp(0) - torch.tensor(float(len(logits))).log()


def read_temperature(run: Run, weights: Which) -> float:
    """The temperature of `read_calibration`, and what that raises."""
    return read_calibration(run, weights).temperature


def read_calibration(run: Run, weights: Which) -> Temperature:
    """Raises RunFolderError where none was fitted for these weights, or one at a bound of the search."""
    again = _fit_again(run)
    if not run.folder.has(TEMPERATURE_FILE):
        raise RunFolderError(f"{run.path} has no temperature yet; {again}")
    fitted = _fitted(run)
    if fitted.weights != weights or fitted.weights_hash != weights_hash(run, weights):
        raise RunFolderError(f"the temperature of {run.path} was fitted for other weights; {again}")
    if any(math.isclose(fitted.temperature, bound, rel_tol=1e-6) for bound in (LOWEST, HIGHEST)):
        raise RunFolderError(
            f"the temperature of {run.path}, {fitted.temperature:.4g}, is a bound of the search, not the best; {again}"
        )
    return fitted


def _fitted(run: Run) -> Temperature:
    try:
        return Temperature.model_validate(run.folder.read_json(TEMPERATURE_FILE))
    except pydantic.ValidationError:
        raise RunFolderError(f"{run.path / TEMPERATURE_FILE} is damaged; {_fit_again(run)}") from None


def _fit_again(run: Run) -> str:
    return f"fit it with: thriftnet calibrate {quote(str(run.path))}"


def stored_temperature(run: Run) -> Temperature | None:
    """What `calibrate` fitted for the kept weights; None where it has not. Raises RunFolderError for a damaged file."""
    if not run.folder.has(TEMPERATURE_FILE):
        return None
    fitted = _fitted(run)
    there = run.folder.has("selected.safetensors")
    return fitted if not there or fitted.weights_hash == weights_hash(run, "selected") else None


def weights_hash(run: Run, weights: Which) -> str:
    """The first 16 digits of the SHA-256 of a weights file. Raises RunFolderError where it is missing."""
    return run.folder.weights_sha256(weights)[:16]


class _Scaled(nn.Module):
    """Logits divided by a temperature."""

    def __init__(self, network: nn.Module, temperature: float) -> None:
        super().__init__()
        self.network, self.temperature = network, temperature

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x) / self.temperature
