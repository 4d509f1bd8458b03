"""Training what a plan lacks, within a time budget; every run is resumable, so is the whole."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from thriftnet import inference
from thriftnet import runtime as runtimes
from thriftnet.campaign import is_finished, train_missing
from thriftnet.config import RuntimeConfig
from thriftnet.data.dataset import Source
from thriftnet.data.splits import stratified_subset
from thriftnet.errors import DataError, FolderInUseError, Interrupted, NonFiniteLossError, RunFolderError
from thriftnet.evaluation.adversarial import AttackConfig, attacked_accuracy
from thriftnet.ledger.claims import training_key
from thriftnet.ledger.plan import DIVERGED, Job, Plan, duration
from thriftnet.run import Run
from thriftnet.run_data import prepare_again
from thriftnet.run_landscape import Settings, measure_sharpness
from thriftnet.training.interruption import watch_signals
from thriftnet.training.progress import Display, SilentDisplay

ATTACKED_IMAGES = 1_000
"""Of the validation images, each class by its share: PGD takes a dozen passes an image."""
SHARPNESS = Settings()
"""As `thriftnet landscape` measures it when nothing else is said."""
SHARPNESS_FILE = "sharpness.json"
"""In the run folder."""

Clock = Callable[[], float]


class _OutOfTime(Exception):
    """The time budget is used up; the epoch that ended is saved."""


@dataclass
class _Deadline:
    """A display that ends a training after the first epoch past the deadline, unless it is the last."""

    inner: Display
    ends_at: float
    clock: Clock
    epochs: int = 0

    def start(self, lines: list[str], epochs: int, steps_per_epoch: int, epochs_done: int) -> None:
        self.epochs = epochs
        self.inner.start(lines, epochs, steps_per_epoch, epochs_done)

    def note(self, line: str) -> None:
        self.inner.note(line)

    def step(self, epoch: int, step: int, loss: float, accuracy: float, images_per_s: float) -> None:
        self.inner.step(epoch, step, loss, accuracy, images_per_s)

    def epoch(self, row: dict[str, Any], selected: bool) -> None:
        self.inner.epoch(row, selected)
        if row["epoch"] < self.epochs and self.clock() >= self.ends_at:
            raise _OutOfTime

    def stop(self) -> None:
        self.inner.stop()


def train_plan(
    plan: Plan,
    source: Source,
    *,
    hours: float | None = None,
    display: Display | None = None,
    say: Callable[[str], None] = lambda line: None,
    clock: Clock = time.monotonic,
) -> bool:
    """Train and evaluate what `plan` lacks, in its order; returns whether all of it is there.

    With `hours` it ends after the first epoch past that time. A run whose loss becomes NaN or infinite is marked and
    not tried again; one that another command is training is left to it, so that several may share a folder. Raises
    Interrupted after a signal, and what `campaign.train_missing` raises.
    """
    ends_at = float("inf") if hours is None else clock() + hours * 3600
    deadline = _Deadline(display or SilentDisplay(), ends_at, clock)
    wanted = [job for job in plan.jobs if job in plan.asked]
    places = {job: place for place, job in enumerate(wanted, 1)}
    left = wanted
    with watch_signals() as request:
        for _ in range(2):  # what another command was training may be finished, or given up, by the second time
            asked, left = left, []
            for job in asked:
                if request.signal_number is not None:
                    request.heed(_interrupted(plan, wanted))
                if job.diverged or (job.finished and not _wants_evaluation(job)):
                    continue
                if clock() >= ends_at:
                    say(_out_of_time(plan))
                    return False
                estimate_s = plan.estimates_s().get(job)
                about = "" if estimate_s is None else f", about {duration(estimate_s)}"
                say(f"run {places[job]} of {len(wanted)}: {job.folder}{about}")
                try:
                    if not _trained_and_evaluated(job, source, deadline, say):
                        left.append(job)
                except _OutOfTime:
                    say(_out_of_time(plan))
                    return False
                except Interrupted as error:
                    raise Interrupted(_interrupted(plan, wanted), error.signal_number) from None
    if left:
        say(f"other commands are still training {len(left)} of {len(wanted)} runs; the same command looks again")
    return not left


def _trained_and_evaluated(job: Job, source: Source, display: Display, say: Callable[[str], None]) -> bool:
    """False: another command is training this run. A run that diverges is marked, and done with."""
    try:
        _evaluate(job, train_job(job, source, display), source)
    except FolderInUseError:
        say("another command is training it; it is left to that")
        return False
    except NonFiniteLossError as error:
        job.run.folder.write_json(DIVERGED, {"message": str(error)})
        say(f"{job.path}: {error}")
    return True


def _interrupted(plan: Plan, wanted: Sequence[Job]) -> str:
    there = len(wanted) - len(plan.missing)
    return f"interrupted; {there} of {len(wanted)} runs are there, and what others had begun; the same command goes on"


def train_job(job: Job, source: Source, display: Display) -> Run:
    """The finished run of a job. Raises RunFolderError where the folder holds another training or other data."""
    run = job.run
    recipe = job.recipe
    if run.folder.has("recipe.toml"):
        if training_key(run.recipe) != job.key or run.recipe.training.seed != recipe.training.seed:
            raise RunFolderError(f"{run.path} holds a run of another recipe; move it away or choose another --out")
        if is_finished(run):
            return run  # wherever it was trained: its data stands beside its number
        recipe = run.recipe  # the same training, perhaps under another recipe's name
    return train_missing(recipe, source, job.path, display)


def attack_file(attack: AttackConfig) -> str:
    """Where the run folder keeps the accuracy under `attack`."""
    return f"adversarial-{attack.slug}.json"


def _wants_evaluation(job: Job) -> bool:
    folder = job.run.folder
    wanted = [attack_file(attack) for attack in job.attacks]
    wanted += [SHARPNESS_FILE] if job.needs_sharpness else []
    return job.lacks_test or not all(map(folder.has, wanted))


def _evaluate(job: Job, run: Run, source: Source) -> None:
    if job.lacks_test:
        inference.measure(run, "test", data=source)
    for attack in job.attacks:
        if not run.folder.has(attack_file(attack)):
            run.folder.write_json(attack_file(attack), measure_under_attack(run, source, attack))
    if job.needs_sharpness and not run.folder.has(SHARPNESS_FILE):
        run.folder.write_json(SHARPNESS_FILE, measure_sharpness(run, source, SHARPNESS))


def measure_under_attack(run: Run, source: Source, attack: AttackConfig) -> dict[str, Any]:
    """Accuracy of `run` on validation images after `attack`, with what the number depends on.

    Raises DataError for a run without validation images, or where `source` is not what it was trained on.
    """
    data = prepare_again(run, source)
    if data.validation is None:
        raise DataError(f"{run.path} has no validation images in {source.location} to attack")
    count = min(ATTACKED_IMAGES, len(data.validation))
    images = data.validation.select(stratified_subset(data.validation.labels, count, seed=0))
    runtime = runtimes.resolve(RuntimeConfig(precision="fp32", kernels="no", threads=run.recipe.runtime.threads))
    accuracy = attacked_accuracy(
        runtime.place(run.network()),
        images.images,
        images.labels,
        run.data.mean,
        run.data.std,
        attack,
        device=runtime.device,
        batch_size=run.recipe.training.batch_size,  # gradients take the memory of a training step, not of an evaluation
    )
    return {
        "accuracy": accuracy,
        "attack": attack.model_dump(mode="json", exclude_none=True),
        "split": "validation",
        "images": count,
        "device": str(runtime.device),
    }


def _out_of_time(plan: Plan) -> str:
    return f"the time is used up; {len(plan.missing)} of {len(plan.asked)} runs are missing; the same command goes on"
