"""A study as text, as plain values and as a page, from plain facts about its trials."""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any, Literal

from thriftnet.reporting.page import Block, Code, Drawing, Facts, Page, Section, SmallDrawings, Table, Text
from thriftnet.reporting.study_figures import (
    draw_heat_map,
    draw_history,
    draw_importance,
    draw_parallel,
    heat_map_data,
    history_data,
    parallel_data,
)

State = Literal["completed", "pruned", "failed", "running"]

HEAT_MAP = "heat-map-"
"""What the names of heat maps begin with; the two keys follow."""
MOST_HEAT_MAPS = 3


@dataclass(frozen=True)
class TrialFacts:
    """One trial. Accuracies are fractions; what a trial does not have is None."""

    number: int
    state: State
    objective: float | None
    """Of a pruned trial its last value, which is not that of a whole training."""
    setting: Mapping[str, Any]
    epochs: int | None = None
    planned_epochs: int | None = None
    kept_epoch: int | None = None
    elapsed_s: float | None = None
    parameters: int | None = None
    saved_s: float | None = None
    """Estimate: the epochs that pruning left out, each as long as the mean of the trained ones."""
    reused_from: int | None = None
    """The trial of the same training whose result this one has."""
    reason: str = ""
    """Of a failure."""


@dataclass(frozen=True)
class StudyFacts:
    """A study and its trials."""

    name: str
    paper: str
    summary: str
    recipe: str
    """With what was reduced, as nothing may be shown without."""
    objective: Literal["validation_accuracy", "validation_loss"]
    maximize: bool
    sampler: str
    pruning: str
    planned: int | None
    data: str
    seed: int
    train_images: int | None
    """None: all that are not held out."""
    validation_images: int | None
    selection: str
    device: str
    elapsed_s: float
    """Wall time of all sessions."""
    log_keys: Sequence[str]
    listed_keys: Sequence[str]
    """Of which the study file lists the values."""
    constraints: Sequence[str]
    importance: Mapping[str, float]
    """Share of each key in the objective's variance over the completed trials; empty where it cannot be computed."""
    folder: str
    trials: Sequence[TrialFacts]
    storage: str | None = None
    """The URL of the trials, without a password, where they are not in the folder."""

    def of_state(self, state: State) -> list[TrialFacts]:
        return [trial for trial in self.trials if trial.state == state]

    @property
    def best(self) -> TrialFacts | None:
        """The completed trial with the best objective, of equal ones the first."""
        found = [trial for trial in self.of_state("completed") if trial.objective is not None]
        sign = -1 if self.maximize else 1
        return min(found, key=lambda trial: (sign * (trial.objective or 0.0), trial.number), default=None)

    @property
    def trained_s(self) -> float:
        """Training time of all trials together."""
        return sum(trial.elapsed_s or 0.0 for trial in self.trials)

    @property
    def saved_s(self) -> float:
        """Estimate of what pruning saved."""
        return sum(trial.saved_s or 0.0 for trial in self.trials)

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        best = self.best
        return asdict(self) | {
            "best": best.number if best is not None else None,
            "trained_s": self.trained_s,
            "saved_s": self.saved_s,
        }


def study_text(study: StudyFacts) -> str:
    """The table of trials and what follows from it, for a terminal."""
    keys = _keys(study)
    columns = ["trial", "state", _measure(study), "epochs", "time", "parameters", *keys]
    rows = [
        [
            str(trial.number),
            trial.state + (f" (as {trial.reused_from})" if trial.reused_from is not None else ""),
            _objective(study, trial.objective),
            "-" if trial.epochs is None else f"{trial.epochs}/{trial.planned_epochs}",
            duration(trial.elapsed_s),
            "-" if trial.parameters is None else f"{trial.parameters:,}",
            *(_value(trial.setting.get(key)) for key in keys),
        ]
        for trial in study.trials
    ]
    widths = [max(map(len, column)) for column in zip(columns, *rows, strict=True)]
    lines = ["  ".join(f"{cell:>{width}}" for cell, width in zip(row, widths, strict=True)) for row in [columns, *rows]]
    lines += [f"trial {trial.number} failed: {trial.reason}" for trial in study.of_state("failed")]
    lines += ["", study_lead(study)]
    if study.importance:
        shares = "  ".join(f"{key} {share:.0%}" for key, share in study.importance.items())
        lines.append(f"importance (fANOVA): {shares}")
    if study.of_state("pruned"):
        lines.append(_saved(study))
    return "\n".join(lines)


def study_drawings(study: StudyFacts) -> dict[str, Drawing]:
    """File name without ending -> figure; only those that the trials suffice for."""
    factor, label = (100.0, "validation accuracy (%)") if study.maximize else (1.0, "validation loss (nats)")
    done = [(trial, trial.objective * factor) for trial in study.of_state("completed") if trial.objective is not None]
    pruned = [
        (trial.number, trial.objective * factor)
        for trial in study.of_state("pruned")
        if trial.objective is not None and math.isfinite(trial.objective)
    ]
    drawings: dict[str, Drawing] = {}
    if not done:
        return drawings
    settings, values = [trial.setting for trial, _ in done], [value for _, value in done]
    keys = _keys(study)
    completed = [(trial.number, value) for trial, value in done]
    for row_key, column_key in _pairs(study, settings):
        drawings[f"{HEAT_MAP}{row_key}-{column_key}"] = Drawing(
            draw_heat_map(heat_map_data(settings, values, row_key, column_key, label, study.maximize)),
            f"Objective over {row_key} and {column_key}; where other keys vary too, each cell's best trial.",
        )
    drawings["history"] = Drawing(
        draw_history(history_data(completed, pruned, label, study.maximize)),
        "Every trial in the order in which they began; of a pruned one the last value before it was stopped.",
    )
    if len(keys) > 1 and len(done) > 1:
        drawings["parallel-coordinates"] = Drawing(
            draw_parallel(
                parallel_data(
                    settings,
                    values,
                    label,
                    study.maximize,
                    log_keys=study.log_keys,
                    listed_keys=study.listed_keys,
                )
            ),
            "One line a completed trial across its setting to its objective; the best one in colour.",
            wide=True,
        )
    if study.importance:
        drawings["importance"] = Drawing(
            draw_importance(study.importance),
            "Share of the objective's variance that each key explains over the completed trials (fANOVA, Hutter, Hoos, "
            "Leyton-Brown 2014, as Optuna computes it).",
        )
    return drawings


def study_page(study: StudyFacts) -> Page:
    """The page of `thriftnet study show FOLDER --html FILE`."""
    keys = _keys(study)
    facts = [
        ("Base recipe", study.recipe),
        ("Objective", f"{_measure(study)}, of the kept epoch ({study.selection})"),
        ("Sampler", study.sampler),
        ("Pruning", study.pruning),
        ("Data", study.data),
        ("Training images", "all others" if study.train_images is None else f"{study.train_images:,}"),
        (
            "Validation images",
            "the data's own, else a tenth" if study.validation_images is None else f"{study.validation_images:,}",
        ),
        ("Seed of the trainings", f"{study.seed} (one each)"),
        ("Device", study.device),
        ("Study ran for", duration(study.elapsed_s)),
        ("Training time in all", duration(study.trained_s)),
    ]
    facts += [("Constraint", text) for text in study.constraints]
    found: list[Block] = [Text(study.summary)] if study.summary else []
    found.append(Facts(facts))
    found.append(
        Text(
            "Every number here is measured on validation images, and they chose the best setting: it is higher than on "
            "fresh images. The test split was not opened. Each setting has one seed: small differences are noise.",
            note=True,
        )
    )
    if study.of_state("pruned"):
        found.append(Text(_saved(study)))
    sections = [Section("The study", found)]
    drawings = study_drawings(study)
    if drawings:
        small = [drawing for drawing in drawings.values() if not drawing.wide]
        wide = [drawing for drawing in drawings.values() if drawing.wide]
        sections.append(Section("Figures", [SmallDrawings(small), *wide]))
    percent = " (%)" if study.maximize else ""
    rows = [
        [
            trial.number,
            trial.state,
            None if trial.objective is None else trial.objective * (100 if study.maximize else 1),
            trial.epochs,
            trial.planned_epochs,
            trial.elapsed_s,
            trial.parameters,
            *(_plain(trial.setting.get(key)) for key in keys),
            trial.reason or (f"the training of trial {trial.reused_from}" if trial.reused_from is not None else ""),
        ]
        for trial in study.trials
    ]
    columns = ["trial", "state", _measure(study) + percent, "epochs", "of", "time (s)", "parameters", *keys, "note"]
    if not any(row[-1] for row in rows):
        columns, rows = columns[:-1], [row[:-1] for row in rows]
    sections.append(Section("Trials", [Table(columns, rows, "Every trial; a pruned one has its last value.")]))
    sections.append(Section("To go on", [Code(study_command(study.folder, study.data, study.storage))]))
    return Page("a study", study.name, study_lead(study), sections)


def duration(seconds: float | None) -> str:
    """`12 s`, `3 min 05 s`, `2 h 05 min`."""
    if seconds is None:
        return "-"
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{whole} s"
    minutes, rest = divmod(whole, 60)
    return f"{minutes} min {rest:02} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02} min"


def study_command(folder: str, data: str, storage: str | None) -> str:
    """The command that goes on with a study; a password has to be added to `storage`."""
    words = ["thriftnet", "study", "run", f"{folder}/study.toml", "--out", folder, "--data", data]
    return shlex.join(words if storage is None else [*words, "--storage", storage])


def study_lead(study: StudyFacts) -> str:
    """How many trials there are, and the best of them."""
    counts = ", ".join(
        f"{len(found)} {state}"
        for state in ("completed", "pruned", "failed", "running")
        if (found := study.of_state(state))
    )
    of = f" of {study.planned}" if study.planned is not None else ""
    text = f"{len(study.trials)}{of} trials begun: {counts or 'none'}."
    best = study.best
    if best is None:
        return text
    setting = ", ".join(f"{key} = {_value(value)}" for key, value in best.setting.items())
    return f"{text} Best: trial {best.number}, {_measure(study)} {_objective(study, best.objective)}, with {setting}."


def _saved(study: StudyFacts) -> str:
    return (
        f"Pruning stopped {len(study.of_state('pruned'))} trials early and saved about {duration(study.saved_s)} of "
        f"training; {duration(study.trained_s)} were spent (estimate: left-out epochs as long as the trained ones)."
    )


def _pairs(study: StudyFacts, settings: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """Which keys with few values to draw against each other, the pairs that matter most first (by summed importance).

    A key whose every trial has a value of its own was drawn from a range: its map would be a row of single cells.
    """
    most = min(12, len(settings) - 1)
    few = [key for key in _keys(study) if 1 < len({setting[key] for setting in settings}) <= most]
    pairs = list(combinations(few, 2))
    pairs.sort(key=lambda pair: -sum(study.importance.get(key, 0.0) for key in pair))
    return pairs[:MOST_HEAT_MAPS]


def _keys(study: StudyFacts) -> list[str]:
    return list(study.trials[0].setting) if study.trials else []


def _measure(study: StudyFacts) -> str:
    return study.objective.replace("_", " ")


def _objective(study: StudyFacts, value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.2%}" if study.maximize else f"{value:.4f}"


def _value(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _plain(value: Any) -> Any:
    return value if isinstance(value, int | float | str) and not isinstance(value, bool) else str(value)
