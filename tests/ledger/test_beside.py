"""What stands beside a claim without a training of its own: a study in the ledger's folder, a shift in a run's."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.ledger.conftest import Bench
from tests.ledger.test_plan import CIFAR
from tests.tuning.conftest import GRID, make_place
from thriftnet import shift
from thriftnet.evaluation.corruptions import CORRUPTIONS
from thriftnet.ledger.beside import study_finding
from thriftnet.ledger.claims import ElsewhereClaim, StudyClaim, load_claims
from thriftnet.ledger.findings import find
from thriftnet.ledger.plan import Job, Request, plan
from thriftnet.shift import ShiftMeasurement, measure_shift

CLAIMS = {claim.id: claim for claim in load_claims().claim}


def grid_claim() -> StudyClaim:
    claim = CLAIMS["xu-grid"]
    assert isinstance(claim, StudyClaim)
    return claim


def test_a_study_that_is_not_there_is_missing_and_the_command_is_said(tmp_path: Path) -> None:
    assert study_finding(grid_claim(), tmp_path / "ledger") is None
    claims = load_claims().of_papers({"xu"})
    planned = plan(Request(paper="xu", seeds=1), claims, CIFAR, tmp_path / "ledger")
    said = find(planned, claims, tmp_path / "ledger").outcome(grid_claim())
    assert said == "missing: thriftnet study run xu-grid --data PATH --out ledger/studies/xu-grid"


def test_a_study_in_the_folder_is_read_with_what_was_shortened(tmp_path: Path) -> None:
    place = make_place(tmp_path)
    results = place.run(GRID)
    (tmp_path / "studies").mkdir()
    place.out.rename(tmp_path / "studies" / "xu-grid")
    said = study_finding(grid_claim(), tmp_path) or ""
    best = max(value for _, value in results.values() if value is not None)
    assert said.startswith("4 of 4 trials begun: 4 completed. Best: trial ")
    assert f"validation accuracy {best:.2%}" in said
    assert said.endswith("[tiny; 2 epochs; one seed a setting]")


def test_a_study_that_cannot_be_read_leaves_the_ledger_written(tmp_path: Path) -> None:
    (tmp_path / "studies" / "xu-grid").mkdir(parents=True)
    assert (study_finding(grid_claim(), tmp_path) or "").startswith("not read: ")


def test_every_custom_test_is_held_against_its_own_networks_accuracy() -> None:
    pairs = {claim.id: claim.shifted for claim in CLAIMS.values() if isinstance(claim, ElsewhereClaim)}
    assert pairs == {
        "xu-resnet18-custom": "xu-resnet18-accuracy",
        "xu-resnetlarge-custom": "xu-resnetlarge-accuracy",
    }


def test_a_shift_of_the_rows_run_is_read_with_what_was_shortened(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = {name: CORRUPTIONS[name] for name in ("gaussian_noise", "brightness")}
    monkeypatch.setattr(shift, "CORRUPTIONS", kept)
    before = bench.reproduce(directions=False, paper="one")
    assert before.findings.beside.keys() == set()
    [job] = [job for job in before.plan.jobs if "one-best" in job.uses]
    measured = shift_of(job, bench)
    ledger = bench.reproduce(directions=False, paper="one", write_only=True)
    clean, falls = 100 * measured.clean.accuracy, fall_by_severity(measured)
    claimed = 91.5 - 81.2
    near = min(falls, key=lambda level: abs(falls[level] - claimed))
    fall = sum(falls.values()) / 5
    assert ledger.findings.beside["one-custom"] == (
        f"{clean:.2f} % on 90 clean test images, {clean - fall:.2f} % under 2 corruptions of CIFAR-10-C x 5 "
        f"severities: a fall of {fall:.1f} points, the paper's of 10.3; nearest to that is severity {near} with "
        f"{falls[near]:.1f} [scaled 2/4 epochs; one seed; test-selected]"
    )
    text = (bench.out / "ledger.md").read_text(encoding="utf-8")
    assert f"not measured here: nothing here; {clean:.2f} % on 90 clean test images" in text


def shift_of(job: Job, bench: Bench) -> ShiftMeasurement:
    return measure_shift(job.run, data=str(bench.data))


def fall_by_severity(measured: ShiftMeasurement) -> dict[int, float]:
    return {
        level: 100 * (measured.clean.accuracy - measured.mean("accuracy", severities=[level])) for level in range(1, 6)
    }
