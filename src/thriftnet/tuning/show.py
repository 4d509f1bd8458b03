"""A study's folder as plain facts, for the table, the figures and the page."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from thriftnet.errors import RunFolderError, StudyError
from thriftnet.reporting.figures import save
from thriftnet.reporting.study_report import HEAT_MAP, State, StudyFacts, TrialFacts, study_drawings
from thriftnet.storage import storage_error
from thriftnet.training.run_folder import RunFolder
from thriftnet.tuning.config import ResolvedStudy, SamplerConfig, StudyConfig, load
from thriftnet.tuning.pruning import compares_shares, epoch_of
from thriftnet.tuning.storage import check_trial, odd_records, open_storage, require_optuna, without_password
from thriftnet.tuning.study import number_of, planned_trials, read_facts

if TYPE_CHECKING:
    import optuna
    from optuna.trial import FrozenTrial

FEWEST_FOR_IMPORTANCE = 4
_RECORDED = ("epochs", "planned_epochs", "kept_epoch", "elapsed_s", "parameters", "saved_s", "reason")
"""Of a trial's facts what is shown; a later version may record more."""


def read_study(folder: Path, storage: str | None = None) -> StudyFacts:
    """The study in `folder`, also while it runs. Raises StudyError where there is none or its storage is not given."""
    require_optuna()
    import optuna

    facts = read_facts(folder)
    if storage is None and facts["storage"] is not None:
        raise StudyError(f"the trials of {folder} are in {facts['storage']}; give it with --storage")
    if storage is not None and without_password(storage) != facts["storage"]:
        raise StudyError(
            f"the trials of {folder} are not in that storage; leave --storage out, or give {facts['storage']}"
        )
    study = load(str(folder / "study.toml"))
    with odd_records(folder, storage):
        opened = open_storage(folder, storage)
        try:
            recorded = optuna.load_study(storage=opened, study_name=facts["name"])
        except KeyError:
            raise StudyError(
                f"the log of {folder} has no study; `thriftnet study run` makes it again from the trials"
            ) from None
        for trial in recorded.get_trials(deepcopy=False):
            check_trial(trial)
        return _facts(folder, study, facts["data"], facts["storage"], recorded)


def draw_study_figures(study: StudyFacts, folder: Path) -> None:
    """Write what the trials suffice for into `figures/` of the study's folder, as PNG and SVG; no lock is needed.

    As trials are added, other pairs of keys become the most important: heat maps that are no longer drawn are removed.
    Raises StorageError.
    """
    drawings = study_drawings(study)
    if not drawings:
        return
    target = folder / "figures"
    try:
        target.mkdir(exist_ok=True)
        for earlier in target.glob(f"{HEAT_MAP}*"):
            if earlier.stem not in drawings:
                earlier.unlink(missing_ok=True)
    except OSError as error:
        raise storage_error(target, error, "the study is safe") from None
    for name, drawing in drawings.items():
        for ending in (".png", ".svg"):
            save(drawing.figure, target / f"{name}{ending}")


def _facts(folder: Path, study: ResolvedStudy, data: str, storage: str | None, recorded: optuna.Study) -> StudyFacts:
    config, base = study.config, study.base
    trials = recorded.get_trials(deepcopy=False)
    return StudyFacts(
        name=config.name,
        paper=config.paper,
        summary=config.summary,
        recipe=base.title,
        objective=config.objective,
        maximize=config.maximize,
        sampler=_sampler(config.sampler),
        pruning=_pruning(config),
        planned=planned_trials(study),
        data=data,
        seed=base.training.seed,
        train_images=base.data.train_images,
        validation_images=base.data.validation_images,
        selection="the last epoch" if base.training.selection == "last" else "the best on validation",
        device=", ".join(sorted({_device(folder, trial) for trial in trials} - {""})) or "-",
        elapsed_s=float(recorded.user_attrs.get("elapsed_s", 0.0)),
        log_keys=[key for key, axis in config.space.items() if axis.log],
        listed_keys=[key for key, axis in config.space.items() if axis.values is not None],
        constraints=config.constraints,
        importance=_importance(recorded, list(config.space)),
        folder=str(folder),
        storage=storage,
        trials=[_trial(study, trial) for trial in sorted(trials, key=number_of)],
    )


def _trial(study: ResolvedStudy, trial: FrozenTrial) -> TrialFacts:
    states: dict[str, State] = {"COMPLETE": "completed", "PRUNED": "pruned", "FAIL": "failed"}
    facts: dict[str, Any] = trial.user_attrs.get("facts", {})
    epochs = 0
    if trial.intermediate_values:
        planned_epochs = study.recipe_of(trial.params).training.epochs
        epochs = epoch_of(study.config, max(trial.intermediate_values), planned_epochs)
    return TrialFacts(
        number=number_of(trial),
        state=states.get(trial.state.name, "running"),
        objective=trial.value,
        setting=trial.params,
        reused_from=trial.user_attrs.get("reused_from"),
        **({"epochs": epochs} | {name: facts[name] for name in _RECORDED if name in facts}),
    )


def _device(folder: Path, trial: FrozenTrial) -> str:
    try:
        return str(
            RunFolder(folder / "trials" / f"{number_of(trial):04d}").read_json("environment.json")["device_name"]
        )
    except (RunFolderError, KeyError):
        return ""  # it has not ended, or was never trained


def _importance(recorded: optuna.Study, keys: list[str]) -> dict[str, float]:
    """fANOVA's share of each key; empty where the completed trials are too few or all alike."""
    import optuna

    completed = [trial for trial in recorded.get_trials(deepcopy=False) if trial.state.name == "COMPLETE"]
    if len(completed) < FEWEST_FOR_IMPORTANCE or len({trial.value for trial in completed}) < 2:
        return {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
        found = optuna.importance.get_param_importances(recorded, evaluator=evaluator)
    return {key: float(found[key]) for key in sorted(found, key=lambda key: -found[key]) if key in keys}


def _sampler(sampler: SamplerConfig) -> str:
    return {
        "grid": "grid: every combination",
        "random": f"random, seed {sampler.seed}",
        "tpe": f"TPE, seed {sampler.seed}, {sampler.startup_trials} random trials first",
    }[sampler.name]


def _pruning(config: StudyConfig) -> str:
    pruning = config.pruning
    if pruning is None:
        return "none"
    shares = compares_shares(config)
    if pruning.name == "median":
        own = f"{pruning.startup_trials} completed trials and {pruning.warmup_epochs} epochs of its own"
        return f"median, after {own}" + (", at equal tenths of the epochs" if shares else "")
    first = f"tenth {pruning.min_epochs} of its own epochs" if shares else f"epoch {pruning.min_epochs}"
    return f"successive halving, one in {pruning.reduction_factor} from {first} on"


def packaged_table() -> list[dict[str, Any]]:
    """One row a packaged study: name, paper, recipe, sampler, trials (None: as time allows), summary."""
    from thriftnet.tuning.config import names

    rows = []
    for name in names():
        study = load(name)
        rows.append(
            {
                "name": name,
                "paper": study.config.paper,
                "recipe": study.config.recipe,
                "sampler": study.config.sampler.name,
                "trials": planned_trials(study),
                "summary": study.config.summary,
            }
        )
    return rows
