"""One study: which setting is tried next, what each trial found, and how all of it survives a crash.

One process decides (`Search`) and records; workers only train. So there is nothing to agree on between workers, a
pruning decision or a result is recorded once, and a worker may vanish at any moment.

    study.toml, recipe.toml   the resolved study and its base recipe: `thriftnet study run FOLDER/study.toml`
    study.json                where data and storage are
    journal.log               Optuna's record of the trials (not with a storage by URL)
    trials/0007/              the run folder of trial 7
    trials/0007.running-2/    the same while its second attempt trains
    logs/worker-0.log         what a worker process wrote to standard error

Every attempt has a folder name of its own. A worker that was given up and wakes later finds its folder gone, whatever
machine it is on; it can neither write into the trial nor report it.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import secrets
import shutil
import time
import warnings
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from thriftnet import recipe as recipes
from thriftnet.config import RecipeConfig
from thriftnet.data.place import same_place
from thriftnet.errors import BudgetError, RecipeError, RunFolderError, StudyError
from thriftnet.models.build import PAPER_CHANNELS, PAPER_CLASSES, build_on_meta, check_recipe_network, count_parameters
from thriftnet.models.summary import summarize
from thriftnet.reporting.study_report import study_command
from thriftnet.storage import parse_json, storage_error, write_atomic
from thriftnet.training.lock import LOCK
from thriftnet.training.run_folder import RunFolder
from thriftnet.tuning.config import ResolvedStudy, load
from thriftnet.tuning.pruning import make_pruner, may_stop, step_of
from thriftnet.tuning.space import grid, parse_constraint, value_at
from thriftnet.tuning.storage import (
    JOURNAL,
    check_trial,
    odd_records,
    one_writer,
    open_storage,
    repair_journal,
    require_optuna,
    without_password,
)
from thriftnet.tuning.trial import Job, Outcome

if TYPE_CHECKING:
    import optuna
    from optuna.trial import FrozenTrial

MAX_DRAWS = 1000
"""Draws in a row that constraints may refuse."""
ATTEMPTS = 2
"""A trial whose worker was killed is run again once."""
USUAL_SIDE_PX = 32
_FOLDER = re.compile(r"(\d{4,})(?:\.running-(\d+))?")
_FIRST_FILES = {"trials", "study.lock", "recipe.toml", "study.toml"}
"""What may be there when the making of a study was interrupted."""
_MAY_CHANGE = {"trials", "time_limit_minutes", "recipe"}  # the recipe's values are compared one by one


class Search:
    """The one process's hold on a study; `open_search` makes it."""

    def __init__(
        self,
        folder: Path,
        study: ResolvedStudy,
        data: str,
        trials: optuna.Study,
        say: Callable[[str], None],
    ) -> None:
        self.folder, self.study, self.config, self.data, self.say = folder, study, study.config, data, say
        self.optuna = trials
        for trial in self.trials():
            check_trial(trial)
        self.track: tuple[str, ...] = ()
        """Trackers that are told of the trials."""
        self.losses: Counter[int] = Counter()
        self.began = time.monotonic()
        self.earlier_s = float(trials.user_attrs.get("elapsed_s", 0.0))
        self._distributions = {key: axis.distribution() for key, axis in self.config.space.items()}
        self._adopt()
        self._waiting = deque(number_of(trial) for trial in self.trials() if not trial.state.is_finished())
        self._identities = {number_of(trial): self._identity(trial.params) for trial in self.trials()}

    # What there is.

    def trials(self) -> list[FrozenTrial]:
        """All trials in the order in which they were begun."""
        return self.optuna.get_trials(deepcopy=False)

    def finished(self) -> int:
        return sum(trial.state.is_finished() for trial in self.trials())

    @cached_property
    def planned(self) -> int | None:
        """How many trials there are to be; None where only time ends the study."""
        return planned_trials(self.study)

    @property
    def elapsed_s(self) -> float:
        """How long the study has run, in all sessions."""
        return self.earlier_s + time.monotonic() - self.began

    # What comes next.

    def next_job(self) -> Job | None:
        """The next trial to train: first what was interrupted, then new settings; None where there is nothing to do."""
        while True:
            if self._waiting:
                trial = self._trial(self._waiting.popleft())
            else:
                new = self._begin_trial()
                if new is None:
                    return None
                trial = new
            job = self._job(trial)
            if job is not None:
                return job

    def report(self, job: Job, epoch: int, value: float) -> bool:
        """Record an epoch's objective where a step ends; returns whether the trial is to be pruned there."""
        from optuna.trial import Trial

        step = step_of(self.config, epoch, job.recipe.training.epochs)
        if step is None:
            return False
        trial = self._trial(job.number)
        handle = Trial(self.optuna, trial._trial_id)
        if step not in trial.intermediate_values:
            handle.report(value, step)
        return may_stop(self.config, epoch) and bool(handle.should_prune())  # the median pruner answers in NumPy

    def finish(self, job: Job, outcome: Outcome) -> None:
        """Record how a trial ended."""
        planned = job.recipe.training.epochs
        history = self._history(job.path)
        for row in history:
            if step_of(self.config, row["epoch"], planned) not in self._trial(job.number).intermediate_values:
                self.report(job, row["epoch"], row[job.objective])
        facts: dict[str, Any] = {"epochs": len(history), "planned_epochs": planned}
        value = None
        if history:
            facts["elapsed_s"] = history[-1]["elapsed_s"]
        if outcome.state == "pruned":
            # An estimate: the epochs left out, each as long as the mean of those trained.
            facts["saved_s"] = facts["elapsed_s"] / len(history) * (planned - len(history))
        if outcome.state != "failed":
            result = RunFolder(job.path).read_json("result.json")
            facts |= {"parameters": result["parameters"], "kept_epoch": result["selected_epoch"]}
            value = result["selected"][job.objective]
        if outcome.state == "completed" and not math.isfinite(value if value is not None else math.nan):
            outcome = Outcome("failed", f"{job.objective} = {value} at the kept epoch")
        if job.path.is_dir() and any(job.path.iterdir()):
            job.path.rename(self._folder(job.number))
        elif job.path.is_dir():
            job.path.rmdir()
        self._tell(job.number, outcome, value, facts)

    def lost(self, job: Job, why: str) -> None:
        """A trial's worker is gone: the trial is run again, but only once."""
        self.losses[job.number] += 1
        if self.losses[job.number] < ATTEMPTS:
            self.say(f"trial {job.number}: its worker {why}; it goes on with another from its last saved epoch")
            self._waiting.append(job.number)
            return
        self.finish(job, Outcome("failed", f"its worker {why}; the one before was lost too"))

    def note_time(self) -> None:
        """Record how long the study has run."""
        self.optuna.set_user_attr("elapsed_s", self.elapsed_s)

    # The making of a trial.

    def _begin_trial(self) -> FrozenTrial | None:
        from optuna.trial import TrialState, create_trial

        limit = self.config.time_limit_minutes
        if limit is not None and self.elapsed_s >= 60 * limit:
            return None
        if self.config.trials is not None and len(self.trials()) >= self.config.trials:
            return None
        number = 1 + max([*self._identities, *self._folders()], default=-1)
        setting = self._next_point() if self.config.sampler.name == "grid" else self._draw(number)
        if setting is None:
            return None
        identity = self._identity(setting)
        attributes: dict[str, Any] = {"number": number}
        twin = next((other for other, known in self._identities.items() if known == identity), None)
        if twin is not None:
            attributes["reused_from"] = twin
        # One entry of the journal holds all of it, so there is no trial with half of its setting.
        self.optuna.add_trial(
            create_trial(
                state=TrialState.RUNNING, params=setting, distributions=self._distributions, user_attrs=attributes
            )
        )
        self._identities[number] = identity
        return self._trial(number)

    def _next_point(self) -> dict[str, Any] | None:
        tried = [trial.params for trial in self.trials()]
        return next((point for point in self._points if point not in tried), None)

    @cached_property
    def _points(self) -> list[dict[str, Any]]:
        return grid_points(self.study)

    def _draw(self, number: int) -> dict[str, Any]:
        """A setting from seed, number and the trials so far alone: a study that goes on draws as if never stopped.

        Optuna draws in memory, from a copy of what is recorded, so that a refused draw leaves no trace.
        """
        import optuna

        memory = optuna.create_study(direction=self.optuna.direction)
        memory.add_trials(self.trials())
        refusal = None
        for draw in range(MAX_DRAWS):
            memory.sampler = self._sampler(number, draw)
            asked = memory.ask(self._distributions)
            refusal = refused(self.study, asked.params)
            if refusal is None:
                return dict(asked.params)
            memory.tell(asked, state=optuna.trial.TrialState.FAIL)
        raise StudyError(
            f"{MAX_DRAWS:,} settings in a row failed the constraints, the last one because {refusal}; loosen the "
            "constraints or change the space"
        )

    def _sampler(self, number: int, draw: int) -> optuna.samplers.BaseSampler:
        import optuna

        key = f"{self.config.sampler.seed}:{number}:{draw}".encode()
        seed = int.from_bytes(hashlib.sha256(key).digest()[:4], "big")
        if self.config.sampler.name == "random":
            return optuna.samplers.RandomSampler(seed=seed)
        with warnings.catch_warnings():
            # Called experimental since 2021; without it several workers would be sent to the same place.
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            return optuna.samplers.TPESampler(
                n_startup_trials=self.config.sampler.startup_trials, seed=seed, constant_liar=True
            )

    def _identity(self, setting: dict[str, Any]) -> str:
        """What makes two settings the same training: their recipe, or for an impossible one the setting itself."""
        try:
            return recipes.content_hash(self.study.recipe_of(setting))
        except RecipeError:
            return json.dumps(setting, sort_keys=True)

    # The way from a trial to its job, and back to its record.

    def _job(self, trial: FrozenTrial) -> Job | None:
        """The job of a trial; None where it needs no training and was recorded, or waits for its twin."""
        number = number_of(trial)
        if "reused_from" in trial.user_attrs:
            self._reuse(trial)
            return None
        try:
            recipe = self.study.recipe_of(trial.params)
            check_recipe_network(recipe)
        except (RecipeError, BudgetError) as error:
            self._tell(number, Outcome("failed", str(error)), None, {})
            return None
        path, config = self._claim(number), self.config
        job = Job(number, recipe, self.data, path, config.objective, config.name, self.track)
        # What was trained but not recorded when this process or a worker was killed.
        stop = False
        history = self._history(job.path)
        for row in history:
            stop = self.report(job, row["epoch"], row[job.objective])
        if stop and len(history) < recipe.training.epochs:
            self.finish(job, Outcome("pruned"))
            return None
        return job

    def _claim(self, number: int) -> Path:
        """The folder of a new attempt, which takes over what earlier ones have saved."""
        found = self._folders().get(number, {})
        claimed = self.folder / "trials" / f"{number:04d}.running-{max(found, default=0) + 1}"
        if found:
            latest = found.get(0) or found[max(found)]
            latest.rename(claimed)
            # A worker that only sleeps still holds this lock, but of a folder that it no longer finds.
            (claimed / LOCK).unlink(missing_ok=True)
            if not RunFolder(claimed).has("recipe.toml"):
                shutil.rmtree(claimed)  # killed before its first step: it would look occupied
        claimed.mkdir(exist_ok=True)  # now, so that no other attempt gets this name
        return claimed

    def _folder(self, number: int) -> Path:
        return self.folder / "trials" / f"{number:04d}"

    def _folders(self) -> dict[int, dict[int, Path]]:
        """Number of a trial -> number of an attempt (0: the trial has ended) -> its folder."""
        found: dict[int, dict[int, Path]] = {}
        for path in (self.folder / "trials").iterdir():
            if match := _FOLDER.fullmatch(path.name):
                found.setdefault(int(match[1]), {})[int(match[2] or 0)] = path
        return found

    def _history(self, path: Path) -> list[dict[str, Any]]:
        """The saved epochs; none where a kill came between the files of the first, which resuming makes again."""
        try:
            return RunFolder(path).read_history()
        except RunFolderError:
            return []

    def _tell(self, number: int, outcome: Outcome, value: float | None, facts: dict[str, Any]) -> None:
        from optuna.trial import Trial, TrialState

        trial = self._trial(number)
        if outcome.reason:
            facts = facts | {"reason": outcome.reason}
        Trial(self.optuna, trial._trial_id).set_user_attr("facts", facts)
        state = {"completed": TrialState.COMPLETE, "pruned": TrialState.PRUNED, "failed": TrialState.FAIL}
        self.optuna.tell(trial.number, value if outcome.state == "completed" else None, state[outcome.state])
        self.note_time()
        self.say(self._line(self._trial(number)))
        for other in self.trials():
            if other.user_attrs.get("reused_from") == number and not other.state.is_finished():
                self._reuse(other)

    def _reuse(self, trial: FrozenTrial) -> None:
        """Give a trial the result of its twin, once that has one."""
        from optuna.trial import TrialState

        twin = self._trial(trial.user_attrs["reused_from"])
        if not twin.state.is_finished():
            return
        state = {TrialState.COMPLETE: "completed", TrialState.PRUNED: "pruned"}.get(twin.state, "failed")
        facts = {
            key: twin.user_attrs["facts"][key] for key in twin.user_attrs["facts"].keys() - {"elapsed_s", "saved_s"}
        }
        outcome = Outcome(state, facts.pop("reason", ""))  # type: ignore[arg-type]
        self._tell(number_of(trial), outcome, twin.value, facts)

    def _trial(self, number: int) -> FrozenTrial:
        return next(trial for trial in self.trials() if number_of(trial) == number)

    def _line(self, trial: FrozenTrial) -> str:
        """One finished trial for somebody who watches."""
        facts = trial.user_attrs["facts"]
        setting = "  ".join(f"{key}={shown(value)}" for key, value in trial.params.items())
        measure, name = self.config.objective.replace("_", " "), self.config.objective
        if "reused_from" in trial.user_attrs:
            what = f"the same training as trial {trial.user_attrs['reused_from']}, whose result is used"
        elif trial.state.name == "COMPLETE":
            what = f"{measure} {shown_objective(name, trial.value)}  {facts['epochs']} epochs"
        elif trial.state.name == "PRUNED":
            what = f"{measure} {shown_objective(name, trial.value)}  pruned after epoch {facts['epochs']}"
        else:
            what = f"failed: {facts['reason']}"
        of = f"/{self.planned}" if self.planned is not None else ""
        return f"{self.finished()}{of}  trial {number_of(trial)}  {what}  {setting}"

    # What a crash left behind.

    def _adopt(self) -> None:
        """Record trials whose folders are there although the journal has lost them; their recipes hold the settings."""
        from optuna.trial import TrialState, create_trial

        known = {number_of(trial) for trial in self.trials()}
        for number, attempts in sorted(self._folders().items()):
            path = attempts.get(0) or attempts[max(attempts)]
            folder = RunFolder(path)
            if number in known or not folder.has("recipe.toml"):
                continue
            try:
                recipe = folder.read_recipe()
                setting = self._setting_of(recipe)
            except (RunFolderError, ValueError, KeyError):
                self.say(f"{path} is not of this study; it is left alone")
                continue
            self.say(f"trial {number}: its record was lost and is made again from {path}")
            self.optuna.add_trial(
                create_trial(
                    state=TrialState.RUNNING,
                    params=setting,
                    distributions=self._distributions,
                    user_attrs={"number": number},
                )
            )

    def _setting_of(self, recipe: RecipeConfig) -> dict[str, Any]:
        """The setting that made `recipe`, as Optuna stores it. Raises KeyError or ValueError where none did."""
        setting = {key: axis.encode(value_at(recipe, key)) for key, axis in self.config.space.items()}
        if recipes.content_hash(self.study.recipe_of(setting)) != recipes.content_hash(recipe):
            raise ValueError("another recipe")
        return setting


def grid_points(study: ResolvedStudy) -> list[dict[str, Any]]:
    """The settings of a grid that the constraints allow."""
    return [point for point in grid(study.config.space) if refused(study, point) is None]


def planned_trials(study: ResolvedStudy) -> int | None:
    """How many trials there are to be; None where only time ends the study."""
    return len(grid_points(study)) if study.config.sampler.name == "grid" else study.config.trials


def refused(study: ResolvedStudy, setting: dict[str, Any]) -> str | None:
    """Which constraint a setting fails, or None; an impossible recipe fails later, as a trial with its reason."""
    constraints = [parse_constraint(text) for text in study.config.constraints]
    if not constraints:
        return None
    try:
        measure = partial(_measured, study.recipe_of(setting))
        return next((why for each in constraints if (why := each.refusal(measure)) is not None), None)
    except RecipeError:
        return None


def _measured(recipe: RecipeConfig, name: str) -> Any:
    """What a constraint calls `name`. Raises RecipeError for a network that cannot be built."""
    if name == "parameters":
        return count_parameters(recipe.model, PAPER_CHANNELS, PAPER_CLASSES)
    if name == "macs":
        side = recipe.data.image_side or USUAL_SIDE_PX
        network = build_on_meta(recipe.model, PAPER_CHANNELS, PAPER_CLASSES)
        return summarize(network, (PAPER_CHANNELS, side, side)).macs
    return value_at(recipe, name)


def number_of(trial: FrozenTrial) -> int:
    """The trial's number, that of its folder."""
    return int(trial.user_attrs["number"])


def shown(value: Any) -> str:
    """A setting's value for people."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def shown_objective(objective: str, value: float | None) -> str:
    """The objective's value for people."""
    if value is None:
        return "-"
    return f"{value:.2%}" if objective == "validation_accuracy" else f"{value:.4f}"


@contextmanager
def open_search(
    folder: Path, study: ResolvedStudy, data: str, storage: str | None, say: Callable[[str], None]
) -> Iterator[Search]:
    """Begin the study in `folder`, or go on with it, as its only process.

    Raises StudyError where the folder holds another study, or another process runs it.
    """
    require_optuna()
    begun = (folder / "study.json").is_file()
    if (
        not begun
        and folder.exists()
        and (not folder.is_dir() or {path.name for path in folder.iterdir()} - _FIRST_FILES)
    ):
        raise StudyError(f"{folder} holds something else than a study; choose another --out")
    try:
        (folder / "trials").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise storage_error(folder, error, "nothing was trained") from None
    with one_writer(folder):
        if storage is not None:
            with odd_records(folder, storage):
                open_storage(folder, storage)  # before anything is written that names it
        if begun:
            facts = _check_same(folder, study, data, storage)
        else:
            facts = {
                "name": f"{study.config.name}-{secrets.token_hex(4)}",  # one storage may hold many studies of this name
                "data": data,
                "storage": None if storage is None else without_password(storage),
            }
            write_atomic(folder / "recipe.toml", recipes.to_toml(study.base))
        write_atomic(folder / "study.toml", study.to_toml())
        if not begun:
            write_atomic(folder / "study.json", json.dumps(facts, indent=2) + "\n")
        if storage is None:
            cut = repair_journal(folder)
            if cut:
                say(
                    f"{folder / JOURNAL} was damaged: its last {cut:,} bytes are now in journal.torn; every trial "
                    "with a folder is kept"
                )
        with odd_records(folder, storage):
            search = Search(folder, study, data, open_trials(folder, study, facts["name"], storage), say)
        try:
            yield search
        finally:
            search.note_time()


def open_trials(folder: Path, study: ResolvedStudy, name: str, storage: str | None) -> optuna.Study:
    """Optuna's study of that name, made where it is not there yet, with this study's pruner."""
    import optuna

    return optuna.create_study(
        storage=open_storage(folder, storage),
        study_name=name,
        direction="maximize" if study.config.maximize else "minimize",
        pruner=make_pruner(study.config),
        load_if_exists=True,
    )


def read_facts(folder: Path) -> dict[str, Any]:
    """study.json. Raises StudyError unless `folder` is a study's."""
    path = folder / "study.json"
    try:
        facts: dict[str, Any] = parse_json(path.read_bytes())
        return {key: facts[key] for key in ("name", "data", "storage")}
    except (FileNotFoundError, NotADirectoryError):
        raise StudyError(f"{folder} is not a study's folder; `thriftnet study run` prints the one it made") from None
    except (ValueError, KeyError, TypeError):
        raise StudyError(f"{path} is damaged; restore it from a copy") from None


def _check_same(folder: Path, study: ResolvedStudy, data: str, storage: str | None) -> dict[str, Any]:
    facts = read_facts(folder)
    stored = load(str(folder / "study.toml"))
    differing = [key for key, _, _ in recipes.differences(stored.base, study.base)]
    before, now = (each.config.model_dump(mode="json", exclude={"overrides", *_MAY_CHANGE}) for each in (stored, study))
    differing += [f"the study's {key}" for key in before if before[key] != now[key]]
    if differing:
        raise StudyError(
            f"{folder} holds a study that differs in {', '.join(differing[:5])}; choose another --out, or go on with: "
            f"{study_command(str(folder), facts['data'], facts['storage'])}"
        )
    given = {"data": data, "storage": None if storage is None else without_password(storage)}
    for what, value in given.items():
        if facts[what] != value and not (what == "data" and same_place(facts[what], data)):
            raise StudyError(
                f"{folder} holds a study with --{what} {facts[what] or 'none'}, not {value or 'none'}; give the same, "
                "or choose another --out"
            )
    return facts
