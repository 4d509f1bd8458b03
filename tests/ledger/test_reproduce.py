"""The whole: trained, stopped anywhere, gone on with, and written with every label."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import thriftnet
from tests.ledger.conftest import Bench
from tests.training.conftest import TinySource
from tests.training.test_lock import HOLD
from thriftnet import campaign
from thriftnet import recipe as recipes
from thriftnet.api import landscape
from thriftnet.data.kept import KeptSource
from thriftnet.data.npz import NpzSource
from thriftnet.errors import Interrupted, NonFiniteLossError, RunFolderError, UserError
from thriftnet.ledger import train as ledger_train
from thriftnet.ledger.findings import find
from thriftnet.ledger.measured import Measured
from thriftnet.ledger.page import ledger_page
from thriftnet.ledger.plan import Request
from thriftnet.ledger.rows import RowFinding
from thriftnet.ledger.train import train_plan
from thriftnet.ledger.write import Ledger, command_of
from thriftnet.reporting.page import Table
from thriftnet.training.progress import SilentDisplay
from thriftnet.training.run_folder import RunFolder

Finished = tuple[Bench, Ledger]


class TerminatedAfter(SilentDisplay):
    """This process gets a real SIGTERM after this many epochs, counted over all runs."""

    def __init__(self, epochs: int) -> None:
        self.left = epochs

    def epoch(self, row: dict[str, Any], selected: bool) -> None:
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGTERM)


def weights(out: Path) -> dict[str, bytes]:
    return {str(path.relative_to(out)): path.read_bytes() for path in sorted(out.rglob("last.safetensors"))}


def stored(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / "ledger.json").read_text(encoding="utf-8"))
    return found


def test_a_complete_ledger_has_a_number_for_every_row_and_direction(finished: Finished) -> None:
    bench, ledger = finished
    assert ledger.complete
    assert ledger.findings.missing == []
    assert all(row.measured is not None for row in ledger.findings.rows.values())
    found = stored(bench.out)
    assert {each["id"] for each in found["claims"]} == {claim.id for claim in bench.claims.claim}
    for direction in found["directions"].values():
        assert [value["seed"] for value in direction["values"]] == [0, 1]
        assert direction["verdict"] in ("holds", "fails", "not decided")
        assert direction["difference"]["interval"] is not None


def test_the_splits_are_read_once_for_all_runs(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    for split in ("train", "test"):
        original = getattr(NpzSource, split)
        monkeypatch.setattr(
            NpzSource, split, lambda self, split=split, original=original: (read.append(split), original(self))[1]
        )
    ledger = bench.reproduce(directions=False, seeds=2)
    [final] = [row for row in ledger.plan.rows if row.claim.id == "two-final"]
    assert all(job.run.folder.has("evaluation-test.json") for job in final.jobs)  # two runs are measured
    assert sorted(read) == ["test", "train"]


def test_data_too_few_for_a_paper_are_refused_before_anything_is_trained(tmp_path: Path) -> None:
    out = tmp_path / "ledger"
    arguments = ("--data", "digits", "--out", out, "--scale", 0.05)
    outcome = thriftnet("reproduce", "ramavath", *arguments)
    assert outcome.status == 2
    assert outcome.error == (
        "thriftnet: ramavath-resnet9 holds 5,000 images out for validation, and these data have 1,438 to train on; "
        "give larger data with --data, or leave out the accuracies and curves: --no-rows"
    )
    assert not out.exists()
    assert thriftnet("reproduce", "ramavath", *arguments, "--no-rows", "--write-only").status in (0, 1)


def test_the_numbers_are_those_of_the_runs(finished: Finished) -> None:
    _, ledger = finished
    plan, findings = ledger.plan, ledger.findings
    [best] = [row for row in plan.rows if row.claim.id == "one-best"]
    accuracies = [100 * job.run.result["selected"]["test_accuracy"] for job in best.jobs]
    measured = findings.rows["one-best"].measured
    assert measured is not None
    assert measured.value == pytest.approx(sum(accuracies) / 2)
    assert findings.rows["one-best"].difference == pytest.approx(measured.value - 91.5)
    [final] = [row for row in plan.rows if row.claim.id == "two-final"]
    opened = [json.loads((job.path / "evaluation-test.json").read_text())["accuracy"] for job in final.jobs]
    of_last = findings.rows["two-final"].measured
    assert of_last is not None
    assert of_last.value == pytest.approx(50 * sum(opened))
    for value, a, b in zip(
        findings.directions["one-rate"].values, plan.pairs[0].a_jobs, plan.pairs[0].b_jobs, strict=True
    ):
        accuracy = [100 * job.run.result["selected"]["validation_accuracy"] for job in (a, b)]
        assert (value.a, value.b, value.difference) == pytest.approx((*accuracy, accuracy[0] - accuracy[1]))


def test_sharpness_is_that_of_the_landscape_command_and_measured_where_it_is_missing(
    finished: Finished, tmp_path: Path
) -> None:
    """Runs of an earlier ledger have no such file: the same command adds it without training anything again."""
    bench = replace(finished[0], out=tmp_path / "copy")
    shutil.copytree(finished[0].out, bench.out)
    [pair] = [each for each in finished[1].plan.pairs if each.direction.id == "one-flat"]
    path = bench.out / pair.b_jobs[1].path.relative_to(finished[0].out)
    trained = {name: (path / name).read_bytes() for name in ("metrics.csv", "events.jsonl", "selected.safetensors")}
    (path / "sharpness.json").unlink()
    again = bench.reproduce(seeds=2, width=0.5)
    assert {name: (path / name).read_bytes() for name in trained} == trained
    values = again.findings.directions["one-flat"].values
    assert [value.difference for value in values] == [value.a - value.b for value in values]
    around = landscape([path], data=str(bench.data), out=tmp_path / "around", grid=3, lines=1)
    assert values[1].b == around.runs[0].sharpness.rise > 0


def test_attacks_need_no_more_memory_than_a_training_step(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    monkeypatch.setattr(ledger_train, "attacked_accuracy", lambda *_, batch_size, **__: sizes.append(batch_size) or 0.5)
    ledger = bench.reproduce(rows=False)
    training = ledger.plan.jobs[0].recipe.training
    assert training.batch_size < training.evaluation_batch_size
    assert set(sizes) == {training.batch_size}


def test_a_run_that_another_command_is_training_is_left_to_it(bench: Bench) -> None:
    taken = bench.plan().jobs[0]
    taken.path.mkdir(parents=True)
    other = subprocess.Popen([sys.executable, "-c", HOLD, str(taken.path)], stdout=subprocess.PIPE, text=True)
    try:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        said: list[str] = []
        ledger = bench.reproduce(say=said.append)
        assert [job.path for job in ledger.plan.missing] == [taken.path]
        assert not ledger.complete
        assert said.count("another command is training it; it is left to that") == 2
        assert said[-1] == "other commands are still training 1 of 4 runs; the same command looks again"
    finally:
        other.kill()
        other.wait()
    before = weights(bench.out)
    assert bench.reproduce().complete
    assert before.items() <= weights(bench.out).items()


def test_two_commands_share_the_work_of_a_folder(bench: Bench) -> None:
    code = (
        "import sys; from thriftnet import api; from thriftnet.training.progress import SilentDisplay\n"
        "data, out, claims = sys.argv[1:]\n"
        "api.reproduce(data=data, out=out, claims=claims, scale=0.5, seeds=2, display=SilentDisplay())"
    )
    arguments = [sys.executable, "-c", code, str(bench.data), str(bench.out), str(bench.claims_path)]
    commands = [subprocess.Popen(arguments, env=os.environ | {"OMP_NUM_THREADS": "1"}) for _ in range(2)]
    assert [command.wait() for command in commands] == [0, 0]
    assert bench.reproduce(seeds=2, write_only=True).complete
    events = [(path.parent / "events.jsonl").read_text() for path in bench.out.rglob("recipe.toml")]
    assert len(events) == 8
    assert all(text.count('"event": "started"') == 1 and '"event": "resumed"' not in text for text in events)


def test_cost_of_test_selection_is_best_minus_last(finished: Finished) -> None:
    _, ledger = finished
    [best] = [row for row in ledger.plan.rows if row.claim.id == "one-best"]
    curves = [[100 * row["test_accuracy"] for row in job.run.history] for job in best.jobs]
    [cost] = ledger.findings.selection_costs
    assert cost.recipe == "tiny"
    assert cost.cost.value == pytest.approx(sum(max(curve) - curve[-1] for curve in curves) / 2)
    assert "test-selected" in cost.cost.labels
    assert "2 runs" in cost.cost.labels


def numbers_of(findings: Any) -> list[Measured]:
    found = [row.measured for row in findings.rows.values()]
    found += [each.difference for each in findings.directions.values()]
    found += [each.cost for each in findings.selection_costs] + [findings.all_selection_costs]
    return [each for each in found if each is not None]


def test_every_number_carries_its_labels(finished: Finished) -> None:
    """Half the epochs, half the width: no measured number stands anywhere without both words."""
    bench, ledger = finished
    measured = numbers_of(ledger.findings)
    assert len(measured) == 3 + 4 + 2
    for number in measured:
        assert re.search(r"\[.*twin 0\.5; scaled 2/4 epochs.*(2 seeds|2 runs)\]", number.text)
        assert "tiny.npz" in number.conditions
        assert "min a run on" in number.conditions
    pages = [(bench.out / name).read_text(encoding="utf-8") for name in ("ledger.html", "ledger.md")]
    for number in measured:
        for page in pages:
            assert number.text in page
    # Whatever has decimals in the tables of measured things carries the labels too.
    tables = [
        block
        for section in ledger_page(ledger.findings, ["x"]).sections
        for block in section.blocks
        if isinstance(block, Table)
    ]
    shown = 0
    for table in tables:
        for column in ("measured", "difference", "A's values", "B's values", "A - B", "accuracy"):
            if column in table.columns:
                cells = [row[table.columns.index(column)] for row in table.rows]
                for cell in cells:
                    assert cell is None or "[twin 0.5; scaled 2/4 epochs" in str(cell), cell
                    shown += 1
    assert shown > 15


def test_a_direction_says_what_and_of_which_epoch_it_was_measured(finished: Finished) -> None:
    """An attack meets the selected weights, an early accuracy is of one epoch; neither is of every epoch."""
    _, ledger = finished
    found = {id: each.difference for id, each in ledger.findings.directions.items()}
    assert {id: (each.split, each.selection) for id, each in found.items() if each is not None} == {
        "one-rate": ("validation", "validation-selected"),
        "one-rate-early": ("validation", "epoch 1"),
        "one-robust": ("at most 1,000 validation images", "validation-selected"),
        "one-flat": ("at most 1,000 training images", "validation-selected"),
    }


def test_a_side_that_hardly_learned_is_named_beside_the_verdict(finished: Finished) -> None:
    """Three classes: below two thirds."""
    bench, ledger = finished
    found = ledger.findings.directions["one-rate"]
    mean = sum(each.b for each in found.values) / len(found.values)
    assert mean < 66
    note = f"B hardly learned: {mean:.1f} %, guessing gives 33.3 %"
    assert note in found.hardly_learned
    assert note in (bench.out / "ledger.md").read_text(encoding="utf-8")
    assert not ledger.findings.directions["one-flat"].hardly_learned


def test_a_test_selected_number_says_so_everywhere(finished: Finished) -> None:
    _, ledger = finished
    assert "test-selected" in ledger.findings.rows["one-best"].measured.text  # type: ignore[union-attr]
    assert "test-selected" not in ledger.findings.rows["two-final"].measured.text  # type: ignore[union-attr]
    runs = [job.accuracy for job in ledger.findings.jobs if "% test" in job.accuracy]
    assert runs
    assert all("test-selected" in each for each in runs)


def test_twins_reproduce_nothing(finished: Finished) -> None:
    _, ledger = finished
    row = ledger.findings.rows["one-best"]
    assert row.status == "not reproduced: a twin of 0.5 of every width"
    assert row.explanations == ("narrowed to 0.5 of every width", "fewer epochs: 2 of 4", "another data set: tiny.npz")


def test_the_page_has_every_part(finished: Finished) -> None:
    bench, _ = finished
    page = (bench.out / "ledger.html").read_text(encoding="utf-8")
    for expected in (
        "Ada, Bob",
        "What selecting on the test set costs",
        "should be 4,587,690",
        "the next line says stochastic gradient descent",
        "not measured here: nothing here",
        "Nothing: every run that was asked for is there.",
        "thriftnet reproduce all --data tiny.npz --out out --scale 0.5 --width 0.5 --seeds 2",
    ):
        assert expected in page
    assert page.count("<svg") == 2
    assert str(bench.out) not in page


def test_nothing_is_trained_again(finished: Finished, monkeypatch: pytest.MonkeyPatch) -> None:
    bench, ledger = finished
    monkeypatch.setattr(campaign, "fit", lambda *_, **__: pytest.fail("trained again"))
    monkeypatch.setattr(ledger_train.inference, "measure", lambda *_, **__: pytest.fail("measured again"))
    assert train_plan(ledger.plan, bench.source)


def test_write_only_trains_nothing_and_lists_what_is_missing(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(campaign, "fit", lambda *_, **__: pytest.fail("trained"))
    ledger = bench.reproduce(write_only=True)
    assert not ledger.complete
    assert {row.status for row in ledger.findings.rows.values()} == {"missing"}
    assert {found.verdict for found in ledger.findings.directions.values()} == {"missing"}
    text = (bench.out / "ledger.md").read_text(encoding="utf-8")
    assert "4 runs are missing" in text
    assert text.count("| missing |") == 3 + 4
    assert "Missing: no run that selects on the test set is finished." in text
    listed = [job.folder for job in ledger.findings.jobs]
    assert len(listed) == 4
    assert all(folder in text for folder in listed)


def test_interrupted_anywhere_the_same_call_goes_on_to_the_same_weights(bench: Bench, tmp_path: Path) -> None:
    whole = Bench(bench.claims_path, bench.data, tmp_path / "whole")
    whole.reproduce(directions=False)
    for epochs in (1, 2):  # in the first run, then in the second
        with pytest.raises(Interrupted, match="the same command goes on") as stopped:
            bench.reproduce(directions=False, display=TerminatedAfter(epochs))
        assert stopped.value.exit_status == 143
    ledger = bench.reproduce(directions=False)
    assert ledger.complete
    assert weights(bench.out) == weights(whole.out)
    assert stored(bench.out)["rows"]["one-best"]["measured"]["value"] == pytest.approx(
        stored(whole.out)["rows"]["one-best"]["measured"]["value"]
    )


def test_it_stops_when_its_time_is_used_up_and_says_what_is_missing(bench: Bench) -> None:
    said: list[str] = []
    ledger = bench.reproduce(directions=False, hours=0.0, say=said.append)
    assert not ledger.complete
    assert said == ["the time is used up; 2 of 2 runs are missing; the same command goes on"]
    # A clock that passes the deadline in the first epoch: it is kept, and the second is missing.
    ticks = iter([0.0, 0.0, *[7200.0] * 99])
    plan = bench.plan(directions=False)
    assert not train_plan(plan, KeptSource(bench.source), hours=1.0, clock=lambda: next(ticks))
    assert [job.epochs_done for job in plan.jobs] == [1, 0]
    found = find(plan, bench.claims, bench.out)
    assert found.rows["one-best"].status == "missing: 1 of 2 epochs are there"
    assert [job.state for job in found.missing] == ["started", "missing"]
    assert found.missing[0].estimate_s is not None
    assert bench.reproduce(directions=False).complete


def test_the_last_epoch_is_never_lost_to_the_deadline(bench: Bench) -> None:
    ticks = iter([0.0, 0.0, 0.0, *[7200.0] * 99])  # past the deadline only in the second, last epoch
    plan = bench.plan(directions=False)
    with pytest.MonkeyPatch.context() as patch:
        drawn: list[Any] = []
        patch.setattr(campaign, "draw_training_figures", lambda run, data: drawn.append(run.path))
        train_plan(plan, KeptSource(bench.source), hours=1.0, clock=lambda: next(ticks))
    assert plan.jobs[0].finished
    assert drawn == [plan.jobs[0].path]


def test_a_run_that_diverges_is_marked_and_the_rest_goes_on(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    original = campaign.fit

    def fit(recipe: Any, *arguments: Any, **options: Any) -> Any:
        if recipe.optimizer.lr == 0.0001:
            arguments[1].create()
            raise NonFiniteLossError("the loss is nan")
        return original(recipe, *arguments, **options)

    monkeypatch.setattr(campaign, "fit", fit)
    ledger = bench.reproduce()
    assert ledger.complete
    found = ledger.findings.directions["one-rate"]
    assert found.diverged == ("B, seed 0",)
    assert (found.values, found.verdict, found.missing_seeds) == ((), "missing", ())
    assert ledger.findings.rows["one-best"].measured is not None
    monkeypatch.setattr(campaign, "fit", lambda *_, **__: pytest.fail("tried again"))
    bench.reproduce()
    assert "diverged: B, seed 0" in (bench.out / "ledger.md").read_text(encoding="utf-8")


def test_the_most_faithful_runs_of_all_requests_are_shown(bench: Bench) -> None:
    bench.reproduce(directions=False, scale=0.25, paper="two")
    ledger = bench.reproduce(directions=False, scale=1.0, paper="two")
    row = ledger.findings.rows["two-final"]
    assert row.measured is not None
    assert row.measured.epochs == 4
    assert not any(label.startswith(("scaled", "twin")) for label in row.measured.labels)
    assert re.match(r"(above|below) the claim by \d+\.\d\d points|agrees", row.status)
    commands = (bench.out / "ledger.md").read_text(encoding="utf-8").split("```")[1].split("\n")[1:-1]
    assert [command.split("--scale")[1:] for command in commands] == [[" 0.25 --seeds 1 --no-directions"], []]
    # A less faithful request later neither changes the row nor asks for a run.
    later = bench.reproduce(directions=False, scale=0.5, paper="two", write_only=True)
    assert later.findings.rows["two-final"] == row
    assert later.findings.missing == []
    again = bench.reproduce(directions=False, scale=1.0, paper="two", write_only=True)
    assert again.findings.missing == []


def test_an_accuracy_without_a_number_is_measured_and_compared_with_nothing(bench: Bench) -> None:
    """Three of Li's four combinations were trained and no number of them is printed."""
    text = bench.claims_path.read_text(encoding="utf-8")
    bench.claims_path.write_text(text.replace('claimed = [89.0, 90.0]\nunit = "%"\n', ""), encoding="utf-8")
    ledger = bench.reproduce(directions=False, paper="two")
    row = ledger.findings.rows["two-final"]
    assert row.measured is not None
    assert (row.difference, row.status) == (None, "measured; no number is claimed")
    assert row.measured.text in (bench.out / "ledger.html").read_text(encoding="utf-8")


def test_below_a_quarter_of_the_epochs_nothing_is_reproduced(bench: Bench) -> None:
    recipe = bench.claims_path.parent / "final.toml"
    recipe.write_text(recipe.read_text().replace("epochs = 4", "epochs = 9"))
    ledger = bench.reproduce(directions=False, paper="two", scale=0.2)
    row = ledger.findings.rows["two-final"]
    assert isinstance(row, RowFinding)
    assert row.status == "not reproduced: 2 of 9 epochs"


def test_half_the_epochs_of_under_half_the_images_are_under_a_quarter_of_the_training(bench: Bench) -> None:
    half = bench.reproduce(directions=False, paper="two", train_images=45).findings.rows["two-final"]
    assert "the claim by" in half.status
    bench.out.rename(bench.out.with_name("before"))  # otherwise the longer training is shown
    less = bench.reproduce(directions=False, paper="two", train_images=42).findings.rows["two-final"].status
    assert less == "not reproduced: 2 of 4 epochs of 42 of 90 images"


def test_a_folder_of_another_training_is_refused(bench: Bench) -> None:
    plan = bench.plan(directions=False)
    other = plan.jobs[0].path
    bench.reproduce(directions=False)
    folder = RunFolder(other)
    folder.write_recipe(recipes.with_changes(folder.read_recipe(), {"optimizer": {"lr": 0.06}}))
    (other / "result.json").unlink()
    with pytest.raises(RunFolderError, match="another recipe"):
        bench.reproduce(directions=False)


def test_a_training_begun_under_another_name_is_taken(bench: Bench) -> None:
    bench.reproduce(directions=False, paper="two")
    renamed = bench.claims_path.parent / "renamed.toml"
    (bench.claims_path.parent / "final.toml").rename(renamed)
    bench.claims_path.write_text(bench.claims_path.read_text().replace("final.toml", "renamed.toml"))
    assert bench.reproduce(directions=False, paper="two", write_only=True).complete


def test_one_recipe_alone_is_trained_and_shown_among_its_papers_claims(bench: Bench) -> None:
    [best] = [claim.recipe for claim in bench.claims.claim if claim.id == "one-best"]  # type: ignore[union-attr]
    ledger = bench.reproduce(paper=best)
    assert ledger.complete
    assert {row.claim.recipe for row in ledger.plan.rows} == {best}
    assert ledger.plan.pairs == ()
    outcomes = {each["id"]: each["outcome"] for each in stored(bench.out)["claims"]}
    assert set(outcomes) == {claim.id for claim in bench.claims.claim if claim.paper == "one"}
    assert outcomes["one-faster"] == "not asked for"
    assert "one-best" in ledger.findings.rows
    with pytest.raises(UserError, match=r"selected\.toml; leave out --no-rows"):
        bench.reproduce(paper=best, rows=False)
    assert len(json.loads((bench.out / "requests.json").read_text())) == 1


def test_unknown_paper_leaves_nothing_behind(bench: Bench) -> None:
    with pytest.raises(UserError, match="is named 'three'"):
        bench.reproduce(paper="three")
    assert not bench.out.exists()


def test_command_line_shows_the_plan_and_ends_with_the_page(tmp_path: Path, bench: Bench) -> None:
    out = tmp_path / "here"
    outcome = thriftnet(
        "reproduce", "ramavath", "--data", bench.data, "--out", out, "--write-only", "--seeds", 1, "--no-rows"
    )
    assert outcome.status == 0, outcome.stderr
    assert outcome.stdout.splitlines()[0] == "3 runs in all: 0 are there, 3 are missing"
    assert outcome.last_line == str(out / "ledger.html")
    assert "28 layers are not printed" in (out / "ledger.md").read_text(encoding="utf-8")
    refused = thriftnet("reproduce", "ramavath", "--data", bench.data, "--out", out, "--scale", "2")
    assert refused.status == 2
    assert "scale = 2.0" in refused.error


def test_values_of_the_json_are_finite(finished: Finished) -> None:
    bench, _ = finished

    def check(value: Any) -> None:
        if isinstance(value, dict | list):
            for inner in value.values() if isinstance(value, dict) else value:
                check(inner)
        elif isinstance(value, float):
            assert math.isfinite(value)

    check(stored(bench.out))


def test_the_command_of_a_request_asks_for_the_same(tmp_path: Path) -> None:
    request = Request(scale=1 / 3, width=0.1 + 0.2)
    words = command_of(request, TinySource(), tmp_path).split()
    assert [float(words[words.index(option) + 1]) for option in ("--scale", "--width")] == [1 / 3, 0.1 + 0.2]
