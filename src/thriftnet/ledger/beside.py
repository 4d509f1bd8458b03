"""What stands beside a claim that no training of the plan settles: a search over settings, accuracy on shifted images.

Both are read where they lie and neither is run: a search takes as long as all rows, a shift opens the test split anew.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

from thriftnet.errors import UserError
from thriftnet.evaluation.corruptions import BENCHMARK, SEVERITIES
from thriftnet.ledger.claims import ElsewhereClaim, StudyClaim
from thriftnet.ledger.plan import Row
from thriftnet.reporting.study_report import study_lead
from thriftnet.shift import ShiftMeasurement, stored_shift
from thriftnet.tuning.show import read_study


def study_finding(claim: StudyClaim, out: Path) -> str | None:
    """How the study in `out/studies/<name>` stands; None without one.

    What keeps it from being read is its finding: the trainings of hours before it must not end without a ledger.
    """
    folder = out / "studies" / claim.study
    if not folder.is_dir():
        return None
    try:
        study = read_study(folder)
    except UserError as error:
        return f"not read: {error}"
    epochs = sorted({trial.planned_epochs for trial in study.trials if trial.planned_epochs is not None})
    labels = [study.recipe]
    labels += [f"{' to '.join(map(str, dict.fromkeys((epochs[0], epochs[-1]))))} epochs"] if epochs else []
    labels += [] if study.train_images is None else [f"{study.train_images:,} training images"]
    return f"{study_lead(study)} [{'; '.join([*labels, 'one seed a setting'])}]"


def shift_finding(claim: ElsewhereClaim, rows: Sequence[Row]) -> str | None:
    """How far accuracy falls on shifted images, of the most faithful runs that `evaluate --shift` has measured.

    `rows` are those of the accuracy that `claim` is held against. None where nothing was measured. What keeps a
    measurement from being read is the finding, as for a study.
    """
    for row in rows:
        try:
            found = [shift for job in row.jobs if job.finished and (shift := stored_shift(job.run)) is not None]
        except UserError as error:
            return f"not read: {error}"
        if found:
            labels = [*row.shortened.labels, "one seed" if len(found) == 1 else f"{len(found)} seeds"]
            labels += ["test-selected"] if found[0].stored.context["test_selected"] else []
            return _fall(found, row.claim.claimed[-1] - claim.claimed[-1], labels)
    return None


def _fall(found: Sequence[ShiftMeasurement], claimed: float, labels: Sequence[str]) -> str:
    first = found[0]
    clean = 100 * fmean(shift.clean.accuracy for shift in found)
    falls = [clean - 100 * fmean(shift.mean("accuracy", severities=[level]) for shift in found) for level in SEVERITIES]
    fall = fmean(falls)
    near = min(range(len(falls)), key=lambda place: abs(falls[place] - claimed))
    return (
        f"{clean:.2f} % on {first.stored.context['images']:,} clean {first.stored.context['split']} images, "
        f"{clean - fall:.2f} % under {len(set(first.corruptions) & set(BENCHMARK))} corruptions of CIFAR-10-C x 5 "
        f"severities: a fall of {fall:.1f} points, the paper's of {claimed:.1f}; nearest to that is severity "
        f"{SEVERITIES[near]} with {falls[near]:.1f} [{'; '.join(labels)}]"
    )
