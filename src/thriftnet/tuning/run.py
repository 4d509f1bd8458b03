"""From a resolved study to its folder, on the chosen engine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

from thriftnet.data.dataset import Source
from thriftnet.errors import Interrupted, StudyError
from thriftnet.reporting.study_report import StudyFacts
from thriftnet.tracking.load import require
from thriftnet.training.interruption import StopRequest, watch_signals
from thriftnet.tuning.config import ResolvedStudy
from thriftnet.tuning.engines import LEASE_S, local_pool, run_here
from thriftnet.tuning.show import draw_study_figures, read_study
from thriftnet.tuning.storage import storage_failures
from thriftnet.tuning.study import Search, open_search

Engine = Literal["process", "processes", "ray"]
USUAL_WORKERS = 2


def check_engine(engine: Engine, workers: int | None, address: str | None) -> None:
    """Raise StudyError for an option that the engine has no use for."""
    if workers is not None and engine == "process":
        raise StudyError(f"--workers {workers} belongs to --engine processes or ray; remove it, or choose one of them")
    if address is not None and engine != "ray":
        raise StudyError(f"--address {address} belongs to --engine ray; remove it, or choose that engine")


def run_study(
    folder: Path,
    study: ResolvedStudy,
    source: Source,
    engine: Engine,
    workers: int | None,
    address: str | None,
    storage: str | None,
    say: Callable[[str], None],
    lease_s: float = LEASE_S,
    track: Sequence[str] = (),
) -> StudyFacts:
    """Run `study` in `folder`, or go on with it, draw its figures and return what it found.

    Trackers named by `track` are told of every trial that is trained from now on. Raises Interrupted after a signal,
    when everything found so far is recorded, StudyError where every trial has failed, and what the engines raise.
    """
    require(track)
    for note in (*study.notes, *source.notes):
        say(note)
    with watch_signals() as request, open_search(folder, study, source.location, storage, say) as search:
        search.track = tuple(track)
        try:
            with storage_failures(folder, storage):
                _train(search, request, engine, workers or USUAL_WORKERS, address, lease_s)
        except Interrupted as error:
            of = f" of {search.planned}" if search.planned is not None else ""
            raise Interrupted(
                f"interrupted; {search.finished()}{of} trials have ended and are recorded in {folder}, "
                "of others the last complete epoch is saved; give the same command again to go on",
                error.signal_number,
            ) from None
    facts = read_study(folder, storage)
    draw_study_figures(facts, folder)
    failed = facts.of_state("failed")
    if failed and len(failed) == len(facts.trials):
        raise StudyError(
            f"all {len(failed)} trials failed, trial {failed[0].number} because {failed[0].reason}; change the study's "
            f"space or its recipe, and begin again in another folder than {folder}"
        )
    return facts


def _train(
    search: Search, request: StopRequest, engine: Engine, workers: int, address: str | None, lease_s: float
) -> None:
    if engine == "process":
        run_here(search, request)
    elif engine == "processes":
        local_pool(search, request, workers, lease_s).run()
    else:
        from thriftnet.tuning.ray_engine import cluster, ray_pool

        with cluster(address):
            ray_pool(search, request, workers, lease_s).run()
