"""What another machine measured: its ledger.json stands for its runs."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.ledger.conftest import Bench
from tests.ledger.test_plan import CIFAR
from tests.ledger.test_reproduce import Finished, stored, weights
from thriftnet import campaign
from thriftnet.errors import RunFolderError, UserError
from thriftnet.ledger.claims import load_claims
from thriftnet.ledger.findings import find
from thriftnet.ledger.joined import read_joined
from thriftnet.ledger.plan import DataShape, Request, plan
from thriftnet.ledger.write import Ledger

MEASURED = {"seeds": 2, "width": 0.5}
"""What `finished` was asked for."""


@pytest.fixture
def untrained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(campaign, "fit", lambda *_, **__: pytest.fail("trained"))


def joining(finished: Finished, out: Path, name: str = "other") -> Bench:
    """A folder that has nothing but the finished ledger's json."""
    (out / "joined").mkdir(parents=True, exist_ok=True)
    shutil.copy(finished[0].out / "ledger.json", out / "joined" / f"{name}.json")
    return replace(finished[0], out=out)


def numbers(ledger: Ledger) -> dict[str, Any]:
    found = ledger.findings
    return {
        **{id: (row.measured, row.difference, row.status, row.explanations) for id, row in found.rows.items()},
        **{id: (each.difference, each.values, each.verdict) for id, each in found.directions.items()},
        "costs": (found.selection_costs, found.all_selection_costs),
    }


@pytest.mark.usefixtures("untrained")
def test_the_numbers_of_another_ledger_stand_here_and_are_not_trained(finished: Finished, tmp_path: Path) -> None:
    bench = joining(finished, tmp_path / "here")
    said: list[str] = []
    ledger = bench.reproduce(**MEASURED, say=said.append)
    assert ledger.complete
    assert not ledger.plan.jobs
    assert said == ["joined other: 3 accuracies and curves, 4 directions"]
    assert numbers(ledger) == numbers(finished[1])
    page = (bench.out / "ledger.md").read_text(encoding="utf-8")
    assert page.count("; joined from other |") == 3 + 4
    assert page.count("| finished, other |") == len(finished[1].plan.jobs)
    assert "Left out" not in page
    # Without a request of its own that asks for it, it stands there all the same.
    alone = bench.reproduce(paper="two", directions=False, seeds=1, width=0.5)
    assert alone.complete
    assert numbers(alone) == numbers(finished[1])


@pytest.mark.usefixtures("untrained")
def test_a_ledger_that_was_joined_can_be_joined_again(finished: Finished, tmp_path: Path) -> None:
    first = joining(finished, tmp_path / "first")
    first.reproduce(**MEASURED)
    second = replace(first, out=tmp_path / "second")
    (second.out / "joined").mkdir(parents=True)
    shutil.copy(first.out / "ledger.json", second.out / "joined" / "first.json")
    ledger = second.reproduce(**MEASURED)
    assert numbers(ledger) == numbers(finished[1])
    assert {job.joined for job in ledger.findings.jobs} == {"first"}


def test_only_what_is_lacking_is_trained_and_shown_where_it_is_more_faithful(
    finished: Finished, tmp_path: Path
) -> None:
    bench = joining(finished, tmp_path / "here")
    ledger = bench.reproduce(paper="two", directions=False, seeds=1)  # the whole width, not a twin
    assert [job.uses for job in ledger.plan.jobs] == [["two-final"]]
    whole, others = ledger.findings.rows["two-final"], ledger.findings.rows["one-best"]
    assert whole.measured is not None
    assert (whole.joined, whole.measured.labels) == ("", ("scaled 2/4 epochs", "one seed"))
    assert (others.joined, others.measured) == ("other", finished[1].findings.rows["one-best"].measured)
    # A second seed of what the other has as a twin is not asked for: the whole is there.
    trained = weights(bench.out)
    again = bench.reproduce(paper="two", directions=False, seeds=1, width=0.5)
    assert again.complete
    assert weights(bench.out) == trained
    # Three pairs are wanted and the other has two: they are trained here, since pairs are not put together.
    more = bench.plan(rows=False, seeds=3, width=0.5)
    assert len(more.missing) == 6
    asked = bench.reproduce(rows=False, seeds=3, width=0.5, write_only=True)
    assert len(asked.plan.missing) == 6
    assert asked.findings.directions["one-rate"].joined == "other"


def test_runs_of_here_are_shown_before_equal_ones_of_another(finished: Finished, tmp_path: Path) -> None:
    bench = joining(finished, tmp_path / "here")
    shutil.copytree(finished[0].out / "runs", bench.out / "runs")
    ledger = bench.reproduce(**MEASURED)
    assert numbers(ledger) == numbers(finished[1])
    assert not any(found.joined for found in (*ledger.findings.rows.values(), *ledger.findings.directions.values()))
    assert not any(job.joined for job in ledger.findings.jobs)


@pytest.mark.usefixtures("untrained")
def test_what_is_never_reached_elsewhere_is_not_tried_here(finished: Finished, tmp_path: Path) -> None:
    claims = tmp_path / "claims.toml"
    text = finished[0].claims_path.read_text(encoding="utf-8")
    late = 'quantity = "late_gain"\nfrom_share = 0.5'
    assert late in text
    claims.write_text(text.replace(late, 'quantity = "epochs_to_accuracy"\nthreshold = 100.0'), encoding="utf-8")
    there = replace(finished[0], out=tmp_path / "there", claims_path=claims)
    shutil.copytree(finished[0].out, there.out)
    theirs = there.reproduce(**MEASURED).findings.rows["one-plateau"]
    assert theirs.status.startswith("not reproduced: never reached")
    here = joining((there, finished[1]), tmp_path / "here").reproduce(**MEASURED)
    assert here.complete
    ours = here.findings.rows["one-plateau"]
    assert (ours.status, ours.joined) == (theirs.status, "other")


def test_numbers_of_a_training_that_changed_are_left_out_and_named(finished: Finished, tmp_path: Path) -> None:
    bench = joining(finished, tmp_path / "here")
    for name in ("final.toml", "selected.toml"):
        shutil.copy(bench.claims_path.parent / name, tmp_path / name)
    final = tmp_path / "final.toml"
    final.write_text(final.read_text().replace("lr = 0.05", "lr = 0.06"))
    assert "lr = 0.06" in final.read_text()
    claims = tmp_path / "claims.toml"
    text = bench.claims_path.read_text(encoding="utf-8")
    claims.write_text(text.replace(str(bench.claims_path.parent / "final.toml"), str(final)), encoding="utf-8")
    ledger = replace(bench, claims_path=claims).reproduce(**MEASURED, write_only=True)
    assert ledger.findings.left_out == ("other: two-final",)
    assert ledger.findings.rows["two-final"].status == "missing"
    assert ledger.findings.rows["one-best"].joined == "other"
    assert "today is theirs: other: two-final." in (bench.out / "ledger.md").read_text(encoding="utf-8")


def test_another_measure_of_the_same_training_is_left_out(finished: Finished, tmp_path: Path) -> None:
    bench = joining(finished, tmp_path / "here")
    text = bench.claims_path.read_text(encoding="utf-8")
    claims = tmp_path / "claims.toml"
    changed = {"from_share = 0.5": "from_share = 0.25", "at_epoch = 1": "at_epoch = 2", "levels = 2.0": "levels = 1.0"}
    for old, new in changed.items():
        assert text.count(old) == 1
        text = text.replace(old, new)
    claims.write_text(text, encoding="utf-8")
    ledger = replace(bench, claims_path=claims).reproduce(**MEASURED, write_only=True)
    assert ledger.findings.left_out == ("other: one-plateau", "other: one-rate-early", "other: one-robust")
    assert not ledger.complete


def test_verdicts_and_differences_follow_the_claims_of_today(finished: Finished, tmp_path: Path) -> None:
    bench = joining(finished, tmp_path / "here")
    text = bench.claims_path.read_text(encoding="utf-8")
    turned = "claimed_difference = 5.0\na = {"
    assert text.count(turned) == 1
    claims = tmp_path / "claims.toml"
    text = text.replace(turned, 'claimed_sign = "lower"\na = {').replace("claimed = [91.5]", "claimed = [90.5]")
    claims.write_text(text, encoding="utf-8")
    ledger = replace(bench, claims_path=claims).reproduce(**MEASURED)
    before, after = (each.findings.rows["one-best"].difference for each in (finished[1], ledger))
    assert before is not None
    assert after == pytest.approx(before + 1.0)
    turned_verdict = {"holds": "fails", "fails": "holds", "not decided": "not decided"}
    theirs = finished[1].findings.directions["one-rate"].verdict
    assert ledger.findings.directions["one-rate"].verdict == turned_verdict[theirs]


def test_studies_and_shifts_stand_beside_their_claims(finished: Finished, tmp_path: Path) -> None:
    bench = joining(finished, tmp_path / "here")
    path = bench.out / "joined" / "other.json"
    contents = json.loads(path.read_text(encoding="utf-8"))
    contents["beside"]["one-custom"] = "a fall of 9.0 points"
    path.write_text(json.dumps(contents), encoding="utf-8")
    bench.reproduce(**MEASURED)
    outcomes = {each["id"]: each["outcome"] for each in stored(bench.out)["claims"]}
    assert outcomes["one-custom"] == "not measured here: nothing here; a fall of 9.0 points (joined from other)"


def test_what_cannot_be_joined_is_refused_before_anything_is_trained(finished: Finished, tmp_path: Path) -> None:
    bench = joining(finished, tmp_path / "here")
    path = bench.out / "joined" / "other.json"
    whole = path.read_text(encoding="utf-8")
    for text, complaint in (
        ("{", r"other\.json cannot be joined \(the file: Invalid JSON"),
        (whole.replace('"one-best": {', '"one-best": [], "x": {', 1), r"\(rows\.one-best: "),
        (
            json.dumps({"claims": []}),
            r"\(data: Field required\); put a ledger\.json there that this version of thriftnet wrote, or remove it",
        ),
    ):
        path.write_text(text, encoding="utf-8")
        with pytest.raises(RunFolderError, match=complaint):
            bench.reproduce(**MEASURED)
    path.write_text(whole.replace('"paper": "all"', '"paper": "three"', 1), encoding="utf-8")
    with pytest.raises(UserError, match=r"other\.json is a ledger of other claims \(no paper .* named 'three'"):
        bench.reproduce(**MEASURED)
    path.write_text(whole, encoding="utf-8")
    arrays = dict(np.load(bench.data))
    for name in ("x_train", "y_train"):
        arrays[name] = np.concatenate([arrays[name]] * 2)
    np.savez(tmp_path / "larger.npz", **arrays)
    larger = replace(bench, data=tmp_path / "larger.npz")
    with pytest.raises(
        UserError, match=r"is a ledger of 90 images of 1 x 16 x 16 in 3 classes .*, and these data are 180"
    ):
        larger.reproduce(**MEASURED)
    # Another copy of the same set, as a JPEG copy is of CIFAR-10: every count is equal, one pixel is not.
    arrays = dict(np.load(bench.data))
    arrays["x_train"][0, 0, 0] ^= 1
    np.savez(tmp_path / "copy.npz", **arrays)
    with pytest.raises(UserError, match=r"\(fingerprint \w{12}\), and these data are 90 .* \(fingerprint \w{12}\)"):
        replace(bench, data=tmp_path / "copy.npz").reproduce(**MEASURED)
    path.write_text(whole.replace('"fingerprint": "', '"print": "', 1), encoding="utf-8")
    with pytest.raises(RunFolderError, match=r"data\.fingerprint"):
        bench.reproduce(**MEASURED)
    assert not (bench.out / "runs").exists()


def test_the_stored_ledger_is_of_the_recipes_as_they_are(tmp_path: Path) -> None:
    """A recipe that trains otherwise now would leave its number in results/ behind: that has to be measured again."""
    (tmp_path / "joined").mkdir()
    shutil.copy(Path(__file__).parents[2] / "results" / "ledger" / "ledger.json", tmp_path / "joined" / "stored.json")
    stored = json.loads((tmp_path / "joined" / "stored.json").read_text(encoding="utf-8"))["data"]
    shape = DataShape(**stored)
    assert shape == replace(CIFAR, fingerprint=shape.fingerprint)
    joined = read_joined(tmp_path, shape, load_claims())
    planned = plan(Request(rows=False, seeds=1), load_claims(), shape, tmp_path, joined.requests, joined.has)
    assert joined.left_out(planned) == ()
    found = find(planned, load_claims(), tmp_path, joined)
    assert {len(each.values) for each in found.directions.values()} <= {0, 3}
