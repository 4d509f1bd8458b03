"""What has to run: each training once, in a telling order, with an estimate from what is there."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.ledger.conftest import Bench
from thriftnet import recipe as recipes
from thriftnet.data.kept import KeptSource
from thriftnet.errors import RunFolderError, UserError
from thriftnet.ledger.claims import Claims, load_claims, training_key
from thriftnet.ledger.plan import DataShape, Plan, Request, checked_request, duration, plan, read_requests
from thriftnet.ledger.write import Ledger

CIFAR = DataShape(images=50_000, channels=3, side=32, classes=10, fingerprint="of CIFAR")
PACKAGED = load_claims()


def packaged(tmp_path: Path, claims: Claims = PACKAGED, **options: object) -> Plan:
    return plan(Request.model_validate(options), claims, CIFAR, tmp_path)


def test_runs_that_several_need_are_planned_once(tmp_path: Path) -> None:
    found = packaged(tmp_path, seeds=1)
    keys = [(job.key, job.recipe.training.seed) for job in found.jobs]
    assert len(keys) == len(set(keys))
    [amp] = [job for job in found.jobs if "tirumalasetty-amp-time" in job.uses and job.recipe.perturbation is not None]
    assert {"tirumalasetty-amp-equal-epochs", "tirumalasetty-amp-as-run", "tirumalasetty-amp-pgd"} <= set(amp.uses)
    assert [attack.name for attack in amp.attacks] == ["fgsm", "pgd"]
    assert amp.needs_sharpness
    [sgd] = [job for job in found.jobs if job.needs_sharpness and job is not amp]
    assert sgd.recipe.perturbation is None
    assert sgd.recipe.optimizer == amp.recipe.optimizer


def test_the_key_is_over_training_and_not_over_names() -> None:
    recipe = recipes.load("liu-4x2")
    renamed = recipes.with_changes(
        recipe.model_copy(update={"name": "other", "summary": "x"}), {"training": {"seed": 5}}
    )
    assert training_key(renamed) == training_key(recipe)
    assert training_key(recipes.with_changes(recipe, {"optimizer": {"lr": 0.02}})) != training_key(recipe)


def test_directions_are_narrowed_and_rows_are_not(tmp_path: Path) -> None:
    found = packaged(tmp_path, seeds=1)
    assert {pair.a.width for pair in found.pairs} == {0.25}
    assert {row.shortened.width for row in found.rows} == {1.0}
    narrowed = packaged(tmp_path, seeds=1, width=0.5)
    assert {row.shortened.width for row in narrowed.rows} == {0.5}


def test_labels_say_what_was_shortened(tmp_path: Path) -> None:
    found = packaged(tmp_path, scale=0.1, train_images=5_000, seeds=1)
    by_id = {row.claim.id: row.shortened for row in found.rows}
    assert by_id["liu-trial-5-accuracy"].labels == ("scaled 7/70 epochs", "scaled 5,000/50,000 images")
    pairs = {pair.direction.id: pair for pair in found.pairs}
    assert pairs["liu-kernel"].a.labels == (
        "twin 0.25",
        "scaled 7/70 epochs",
        "scaled 5,000/45,000 images",
    )
    assert packaged(tmp_path, seeds=1).rows[0].shortened.labels == ()


def test_a_swing_keeps_its_own_period_and_a_phase_its_share_of_an_epoch(tmp_path: Path) -> None:
    """45,000 images in batches of 128 are 352 steps, in batches of 256 176; the authors had 391 and 196."""
    pairs = {pair.direction.id: pair for pair in packaged(tmp_path, seeds=1).pairs}
    assert pairs["liu-kernel"].a.recipe.schedule.half_period_steps == 200
    smooth, same = pairs["liu-smoothness"], pairs["liu-smoothness-same-phase"]
    assert smooth.a.recipe.schedule.half_period_steps == round(352 / 1.955) == 180
    assert smooth.b.recipe.schedule.half_period_steps == round(176 / 0.98) == 180
    assert same.b.recipe.schedule.half_period_steps == round(176 / 1.955) == 90


def test_seeds_of_directions_come_round_by_round_and_rows_once(bench: Bench) -> None:
    jobs = bench.plan(seeds=2).jobs
    order = [("+" if job.uses[0].startswith("one-r") else "-", job.recipe.training.seed) for job in jobs]
    assert order == [("+", 0), ("+", 0), ("-", 0), ("-", 0), ("+", 1), ("+", 1), ("-", 1), ("-", 1)]


def test_only_what_is_asked_for(bench: Bench) -> None:
    assert not bench.plan(directions=False).pairs
    assert not bench.plan(rows=False).rows
    assert {row.claim.id for row in bench.plan(paper="two").rows} == {"two-final"}


def test_work_counts_passes_images_and_epochs(tmp_path: Path) -> None:
    jobs = {use: job for job in packaged(tmp_path, seeds=1, directions=False).jobs for use in job.uses}
    plain, amp = jobs["tirumalasetty-sgd-accuracy"], jobs["tirumalasetty-amp-accuracy"]
    assert amp.epoch_work == 2 * plain.epoch_work
    assert amp.remaining_work == 100 * amp.epoch_work
    concatenated = jobs["xu-resnet18-accuracy"]
    assert concatenated.recipe.augment.concatenate_originals
    macs = concatenated.epoch_work / 100_000
    assert macs == int(macs)  # 100,000 images an epoch


def test_estimates_come_from_the_nearest_runs(finished: tuple[Bench, object]) -> None:
    bench, _ = finished
    more = bench.plan(seeds=3, width=0.5)
    assert [job.recipe.training.seed for job in more.missing] == [2, 2, 2, 2]
    job = more.missing[0]
    [first, second] = [other for other in more.jobs if other.key == job.key and other is not job]
    speeds = [other.recipe.training.epochs / other.run.result["elapsed_s"] for other in (first, second)]
    expected = job.recipe.training.epochs / (sum(speeds) / 2)
    assert more.estimates_s()[job] == pytest.approx(expected)
    lines = more.summary()
    assert lines[0] == "12 runs in all: 8 are there, 4 are missing"
    assert lines[-1].startswith("about ")


def test_an_estimate_comes_rather_from_another_recipe_of_the_same_width(
    bench: Bench, finished: tuple[Bench, Ledger]
) -> None:
    """A narrow network does fewer multiply-accumulates in a second than a wide one."""
    result = finished[1].plan.jobs[0].run.result
    narrow, wide = bench.plan(width=0.5), bench.plan()
    [narrow_best] = [row.jobs[0] for row in narrow.rows if row.claim.id == "one-best"]
    [best] = [row.jobs[0] for row in wide.rows if row.claim.id == "one-best"]
    [final] = [row.jobs[0] for row in wide.rows if row.claim.id == "two-final"]
    assert (narrow_best.width, best.width, narrow_best.recipe.name) == (0.5, 1.0, best.recipe.name)
    for job, elapsed_s in ((narrow_best, 1000.0), (final, 8.0)):
        job.path.mkdir(parents=True)
        (job.path / "recipe.toml").touch()
        (job.path / "result.json").write_text(json.dumps(result | {"elapsed_s": elapsed_s}))
    earlier = [Request(scale=0.5, seeds=1, width=0.5)]
    found = plan(Request(scale=0.5, seeds=1), bench.claims, DataShape.of(KeptSource(bench.source)), bench.out, earlier)
    estimates = {job.path: left for job, left in found.estimates_s().items()}
    assert estimates[best.path] == pytest.approx(8.0 * best.epoch_work / final.epoch_work)


def test_a_row_that_is_measured_nearer_to_its_paper_is_not_trained_again(finished: tuple[Bench, Ledger]) -> None:
    bench, _ = finished
    done = Request(scale=0.5, seeds=2, width=0.5)

    def missing(request: Request, earlier: Request = done) -> set[str]:
        shape = DataShape.of(KeptSource(bench.source))
        return {use for job in plan(request, bench.claims, shape, bench.out, [earlier]).missing for use in job.uses}

    shorter = Request(scale=0.25, seeds=2, width=0.5, directions=False)
    rows = {"one-best", "one-plateau", "two-final"}
    assert missing(shorter) == set()
    assert missing(shorter.model_copy(update={"seeds": 1})) == set()
    assert missing(shorter.model_copy(update={"seeds": 3})) == rows  # of so many it is not there
    assert missing(shorter.model_copy(update={"width": 1.0})) == rows  # shortened less in one way, more in another
    assert missing(shorter, done.model_copy(update={"scale": 1.0})) == rows  # asked for, but not there


def test_the_runs_of_a_row_do_not_spare_themselves(finished: tuple[Bench, Ledger]) -> None:
    bench, _ = finished
    found = bench.plan(seeds=2, width=0.5, directions=False)
    assert found.summary()[0] == "4 runs in all: 4 are there, 0 are missing"


def test_nothing_is_known_before_an_epoch(bench: Bench) -> None:
    found = bench.plan()
    assert set(found.estimates_s().values()) == {None}
    assert found.summary()[-1] == "how long they take is known once one epoch is there"


def test_requests_are_kept_and_damaged_ones_are_told(tmp_path: Path) -> None:
    assert read_requests(tmp_path) == []
    (tmp_path / "requests.json").write_text(json.dumps([{"seeds": 2}]))
    assert read_requests(tmp_path) == [Request(seeds=2)]
    (tmp_path / "requests.json").write_text('[{"seeds": 0}]')
    with pytest.raises(RunFolderError, match=r"requests\.json is damaged"):
        read_requests(tmp_path)


def test_impossible_requests_are_refused() -> None:
    with pytest.raises(UserError, match="scale = 0"):
        checked_request(scale=0.0)
    with pytest.raises(UserError, match=r"width = 1\.5"):
        checked_request(width=1.5)
    with pytest.raises(UserError, match="nothing is left to reproduce"):
        checked_request(rows=False, directions=False)


def test_times_are_said_in_their_unit() -> None:
    assert [duration(each) for each in (40, 720, 12_240)] == ["40 s", "12 min", "3.4 h"]
