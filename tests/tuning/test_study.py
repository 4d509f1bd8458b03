"""What a study tries, records, reuses, prunes, and keeps through every interruption."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import optuna
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.training.conftest import tiny_recipe
from tests.tuning.conftest import GRID, RANDOM, Place, make_place, results
from thriftnet import campaign
from thriftnet import recipe as recipes
from thriftnet.errors import Interrupted, NonFiniteLossError, StorageError, StudyError
from thriftnet.training.interruption import StopRequest
from thriftnet.training.run_folder import RunFolder
from thriftnet.tuning import trial as trials
from thriftnet.tuning.config import load
from thriftnet.tuning.engines import run_here
from thriftnet.tuning.storage import JOURNAL
from thriftnet.tuning.study import Search, open_search
from thriftnet.tuning.trial import Job, Outcome, run_trial

TPE = RANDOM.replace('name = "random"', 'name = "tpe"').replace("seed = 3", "seed = 3, startup_trials = 2")
FEW = """
recipe = "tiny.toml"
sampler = { name = "random", seed = 0 }
trials = 6
[space]
optimizer.lr = { values = [0.01, 0.1] }
optimizer.momentum = { values = [0.0, 0.9] }
"""


def setting_of(search: Search) -> list[dict[str, Any]]:
    return [trial.params for trial in search.trials()]


def trained(place: Place) -> list[str]:
    return sorted(path.name for path in (place.out / "trials").iterdir())


def facts(search: Search, number: int) -> dict[str, Any]:
    return dict(search.trials()[number].user_attrs["facts"])


class Killed(BaseException):
    """What ends a process without leaving it time for anything."""


def test_a_grid_has_exactly_its_points_each_a_run(place: Place) -> None:
    with place.search(GRID) as search:
        run_here(search, StopRequest())
        points = [(a, b) for a in (0.01, 0.1) for b in (0.0, 0.9)]
        assert [tuple(setting.values()) for setting in setting_of(search)] == points
        for number, (lr, momentum) in enumerate(points):
            folder = RunFolder(place.out / "trials" / f"{number:04d}")
            assert (folder.read_recipe().optimizer.lr, folder.read_recipe().optimizer.momentum) == (lr, momentum)
            result = folder.read_json("result.json")
            assert result["status"] == "completed"
            assert results(search)[number] == ("COMPLETE", result["selected"]["validation_accuracy"])
            history = folder.read_history()
            assert search.trials()[number].intermediate_values == {
                row["epoch"]: row["validation_accuracy"] for row in history
            }
            assert facts(search, number) == {
                "epochs": 2,
                "planned_epochs": 2,
                "elapsed_s": result["elapsed_s"],
                "parameters": 1319,
                "kept_epoch": result["selected_epoch"],
            }
        assert search.next_job() is None
    assert trained(place) == ["0000", "0001", "0002", "0003"]
    assert place.said[-1].startswith("4/4  trial 3  validation accuracy ")


def test_constraints_leave_points_out(place: Place) -> None:
    text = GRID.replace("[space]", 'constraints = ["optimizer.lr > optimizer.momentum"]\n[space]')
    with place.search(text) as search:
        run_here(search, StopRequest())
        assert [tuple(setting.values()) for setting in setting_of(search)] == [(0.01, 0.0), (0.1, 0.0)]


def test_constraints_on_the_network_hold_for_every_draw(place: Place) -> None:
    text = RANDOM.replace("trials = 4", 'trials = 3\nconstraints = ["model.stem.width < 4", "parameters <= 1_409"]')
    with place.search(text) as search:
        run_here(search, StopRequest())
        assert [setting["model.stem.width"] < 4 for setting in setting_of(search)] == [True] * 3
        assert all(facts(search, number)["parameters"] <= 1292 for number in range(3))


def test_constraints_that_leave_nothing_are_told(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("thriftnet.tuning.study.MAX_DRAWS", 5)
    text = RANDOM.replace("trials = 4", 'trials = 3\nconstraints = ["macs <= 1000"]')
    with pytest.raises(
        StudyError, match=r"5 settings in a row failed the constraints, .* macs = [\d,]+ is not <= 1000"
    ):
        place.run(text)


def test_the_objective_may_be_the_loss(place: Place) -> None:
    with place.search('objective = "validation_loss"\n' + GRID) as search:
        run_here(search, StopRequest())
        assert search.optuna.direction.name == "MINIMIZE"
        result = RunFolder(place.out / "trials" / "0001").read_json("result.json")
        assert results(search)[1] == ("COMPLETE", result["selected"]["validation_loss"])


@pytest.mark.parametrize("text", [RANDOM, TPE], ids=["random", "tpe"])
def test_a_study_that_is_stopped_anywhere_tries_and_finds_the_same(
    place: Place, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = place.run(text)
    with place.search(text) as search:
        drawn = setting_of(search)
    shutil.rmtree(place.out)
    asked = {"epochs": 0}

    def once(job: Job, report: trials.Report) -> Outcome:
        """The second epoch of every trial is only reached in another session."""

        def stops(epoch: int, value: float) -> bool:
            asked["epochs"] += 1
            if asked["epochs"] % 3 == 0:
                raise Interrupted("stopped", 15)
            return report(epoch, value)

        return run_trial(job, stops)

    sessions = 0
    while True:
        sessions += 1
        assert sessions < 20
        with place.search(text) as search:
            try:
                while (job := search.next_job()) is not None:
                    search.finish(job, once(job, lambda epoch, value, job=job: search.report(job, epoch, value)))
            except Interrupted:
                continue
            assert setting_of(search) == drawn
            assert results(search) == whole
        break
    assert sessions > 2
    assert trained(place) == ["0000", "0001", "0002", "0003"]


def test_more_trials_may_be_asked_for_later(place: Place) -> None:
    first = place.run(RANDOM, trials=2)
    both = place.run(RANDOM, trials=4)
    assert {number: both[number] for number in (0, 1)} == first
    assert sorted(both) == [0, 1, 2, 3]


def test_the_time_limit_counts_all_sessions(place: Place) -> None:
    text = RANDOM.replace("trials = 4", "time_limit_minutes = 1000.0")
    with place.search(text) as search:
        assert search.planned is None
        assert search.next_job() is not None
        search.earlier_s = 60_000.0
        assert search.next_job() is None  # and the one that has begun is not lost:
    with place.search(text) as search:
        assert search.elapsed_s >= 60_000
        job = search.next_job()
        assert job is not None
        assert job.number == 0
        assert search.next_job() is None


def test_a_setting_that_comes_again_is_not_trained_again(place: Place) -> None:
    with place.search(FEW) as search:
        run_here(search, StopRequest())
        drawn = [tuple(setting.values()) for setting in setting_of(search)]
        assert len(set(drawn)) < len(drawn) == 6
        for number, setting in enumerate(drawn):
            first = drawn.index(setting)
            assert results(search)[number] == results(search)[first]
            assert search.trials()[number].user_attrs.get("reused_from") == (first if first != number else None)
            assert ("elapsed_s" in facts(search, number)) == (first == number)
    assert trained(place) == sorted({f"{drawn.index(setting):04d}" for setting in drawn})


def test_a_setting_that_is_in_training_is_waited_for(place: Place) -> None:
    with place.search(FEW.replace("trials = 6", "trials = 12")) as search:
        jobs = []
        while (job := search.next_job()) is not None:
            jobs.append(job)
        assert len(jobs) <= 4
        assert len(search.trials()) == 12
        for job in jobs:
            search.finish(job, run_trial(job, lambda epoch, value: False))
        assert search.finished() == 12
        assert len({(json.dumps(trial.params), trial.value) for trial in search.trials()}) == len(jobs)


def test_two_points_of_a_grid_that_train_the_same_are_trained_once(place: Place) -> None:
    text = GRID.replace("optimizer.momentum = { values = [0.0, 0.9] }", 'optimizer.eps = { values = ["none", 1e-8] }')
    text += '[overrides]\noptimizer.name = "adam"\noptimizer.momentum = "none"\noptimizer.nesterov = "none"\n'
    found = place.run(text)
    assert len(found) == 4
    assert found[0] == found[1]
    assert trained(place) == ["0000", "0002"]


class TestFailures:
    def test_a_network_over_its_budget_fails_with_its_reason_and_the_study_goes_on(self, place: Place) -> None:
        text = GRID.replace(
            "optimizer.momentum = { values = [0.0, 0.9] }", "model.widths = { values = [[900, 900], [4, 8]] }"
        )
        with place.search(text) as search:
            run_here(search, StopRequest())
            assert [trial.state.name for trial in search.trials()] == ["FAIL", "COMPLETE", "FAIL", "COMPLETE"]
            assert "over the budget of 5,000,000" in facts(search, 0)["reason"]
        assert trained(place) == ["0001", "0003"]
        assert any("failed: tiny has" in line for line in place.said)

    def test_settings_that_exclude_each_other_fail_with_their_reason(self, place: Place) -> None:
        text = GRID.replace("[0.01, 0.1]", "[0.01]").replace(
            "[space]", "[space]\nschedule.warmup_epochs = { values = [0.0, 2.0] }"
        )
        with place.search(text) as search:
            run_here(search, StopRequest())
            failed = [
                facts(search, at)["reason"] for at, trial in enumerate(search.trials()) if trial.state.name == "FAIL"
            ]
        assert len(failed) == 2
        assert "warmup_epochs" in failed[0]

    def test_a_loss_that_is_no_number_fails_and_the_study_goes_on(
        self, place: Place, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from thriftnet.training import loop

        usual = loop.train_step

        def explodes(learner: Any, *arguments: Any) -> Any:
            if learner.optimizer_config.lr == 0.1:
                raise NonFiniteLossError("the loss is nan")
            return usual(learner, *arguments)

        monkeypatch.setattr(loop, "train_step", explodes)
        with place.search(GRID) as search:
            run_here(search, StopRequest())
            assert [trial.state.name for trial in search.trials()] == ["COMPLETE", "COMPLETE", "FAIL", "FAIL"]
            assert facts(search, 2)["reason"].startswith("the loss is nan in epoch 1, step 1")

    @pytest.mark.parametrize(
        ("axis", "reason"),
        [
            ('"augment.ops.1.pad_px" = { values = [16, 2] }', "pad_px = 16"),
            ("data.train_images = { values = [2, 60] }", "data.train_images = 2 "),
        ],
    )
    def test_what_the_images_make_impossible_fails_alone(self, place: Place, axis: str, reason: str) -> None:
        recipe = tiny_recipe(
            augment={"ops": [{"op": "horizontal_flip"}, {"op": "padded_crop", "pad_px": 2, "padding": "reflect"}]},
            training={"epochs": 1},
        )
        (place.folder / "tiny.toml").write_text(recipes.to_toml(recipe), encoding="utf-8")
        with place.search(GRID.split("[space]")[0] + f"[space]\n{axis}\n") as search:
            run_here(search, StopRequest())
            assert [trial.state.name for trial in search.trials()] == ["FAIL", "COMPLETE"]
            assert reason in facts(search, 0)["reason"]

    def test_a_fault_of_the_program_fails_the_trial_and_its_traceback_is_kept(
        self, place: Place, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from thriftnet.training import loop

        usual = loop.train_step

        def breaks(learner: Any, *arguments: Any) -> Any:
            if learner.optimizer_config.lr == 0.1:
                raise ValueError("of our\nown making")
            return usual(learner, *arguments)

        monkeypatch.setattr(loop, "train_step", breaks)
        with place.search(GRID) as search:
            run_here(search, StopRequest())
            assert [trial.state.name for trial in search.trials()] == ["COMPLETE", "COMPLETE", "FAIL", "FAIL"]
            assert facts(search, 2)["reason"].startswith("unexpected ValueError: of our own making; its traceback.txt")
        assert "in breaks" in (place.out / "trials" / "0002" / "traceback.txt").read_text(encoding="utf-8")

    def test_an_objective_that_is_no_number_is_never_best(self, place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
        from thriftnet.training import loop

        monkeypatch.setattr(loop._Run, "_evaluate", lambda *_: (math.nan, 1.0))
        with place.search(GRID) as search:
            run_here(search, StopRequest())
            assert {trial.state.name for trial in search.trials()} == {"FAIL"}
            assert facts(search, 0)["reason"].startswith("the validation loss is nan after epoch 1")
        assert RunFolder(place.out / "trials" / "0000").has_epoch is False


class TestPruning:
    TEXT = (
        GRID.replace("optimizer.momentum = { values = [0.0, 0.9] }", "training.seed = { values = [0, 1] }")
        + "[overrides]\ntraining.epochs = 4\n"
        + '[pruning]\nname = "median"\nstartup_trials = 2\nwarmup_epochs = 1\n'
    )

    def worse_and_worse(self, place: Place, text: str) -> Search:
        """Trial n reports -n at each epoch, so that each is worse than the median before it."""
        with place.search(text) as search:
            while (job := search.next_job()) is not None:

                def report(epoch: int, value: float, job: Job = job) -> bool:
                    return search.report(job, epoch, -float(job.number))

                search.finish(job, run_trial(job, report))
            return search

    def test_stops_after_the_warmup_and_records_epoch_and_time_saved(self, place: Place) -> None:
        search = self.worse_and_worse(place, self.TEXT)
        assert [trial.state.name for trial in search.trials()] == ["COMPLETE", "COMPLETE", "PRUNED", "PRUNED"]
        for number in (2, 3):
            found = facts(search, number)
            assert (found["epochs"], found["planned_epochs"]) == (2, 4)
            assert found["saved_s"] == pytest.approx(found["elapsed_s"])  # two epochs trained, two left out
            assert sorted(search.trials()[number].intermediate_values) == [1, 2]
            events = (place.out / "trials" / f"{number:04d}" / "events.jsonl").read_text()
            assert '"pruned"' in events
        assert trained(place) == ["0000", "0001", "0002", "0003"]
        assert "pruned after epoch 2" in place.said[-1]

    def test_successive_halving(self, place: Place) -> None:
        text = self.TEXT.split("[pruning]")[0] + '[pruning]\nname = "successive_halving"\nreduction_factor = 2\n'
        search = self.worse_and_worse(place, text)
        assert [trial.state.name for trial in search.trials()] == ["COMPLETE", "PRUNED", "PRUNED", "PRUNED"]
        assert [facts(search, number)["epochs"] for number in (1, 2, 3)] == [1, 1, 1]

    @pytest.mark.parametrize("worse_by", [0.0, 0.01])
    def test_trials_of_different_lengths_are_compared_at_the_same_share_of_their_epochs(
        self, place: Place, worse_by: float
    ) -> None:
        """Accuracy rises with the share of the schedule: at equal epochs each trial of 8 would lose to those of 4."""
        text = (
            GRID.replace("optimizer.lr = { values = [0.01, 0.1] }", "training.epochs = { values = [4, 8] }")
            + '[pruning]\nname = "median"\nstartup_trials = 2\nwarmup_epochs = 1\n'
        )
        with place.search(text) as search:
            while (job := search.next_job()) is not None:

                def report(epoch: int, value: float, job: Job = job) -> bool:
                    share = epoch / job.recipe.training.epochs
                    return search.report(job, epoch, share - worse_by * (job.recipe.training.epochs == 8))

                search.finish(job, run_trial(job, report))
            states = [trial.state.name for trial in search.trials()]
            assert states == ["COMPLETE"] * 4 if worse_by == 0.0 else ["COMPLETE"] * 2 + ["PRUNED"] * 2
            assert sorted(search.trials()[0].intermediate_values) == [2, 5, 7, 10]
            if worse_by:  # epoch 2 of 8 is the first that a trial of 4 has too, and lies after the warm-up
                assert [facts(search, number)["epochs"] for number in (2, 3)] == [2, 2]

    def test_a_decision_whose_record_was_lost_is_made_again_without_training(
        self, place: Place, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        before = self.worse_and_worse(place, self.TEXT).trials()
        journal = place.out / JOURNAL
        lines = journal.read_bytes().splitlines(keepends=True)
        last = max(at for at, line in enumerate(lines) if json.loads(line)["op_code"] == 6)
        journal.write_bytes(b"".join(lines[: last - 1]) + lines[last][:-7])
        monkeypatch.setattr(campaign, "fit", lambda *_, **__: pytest.fail("trained again"))
        with place.search(self.TEXT) as search:
            run_here(search, StopRequest())
            assert search.trials()[3].state == before[3].state
            assert search.trials()[3].intermediate_values == before[3].intermediate_values


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A finished study of four trials, made once: its place, journal, results and settings."""
    folder = tmp_path_factory.mktemp("finished")
    place = make_place(folder)
    found = place.run(RANDOM)
    with place.search(RANDOM) as search:
        drawn = setting_of(search)
    return place, (place.out / JOURNAL).read_bytes(), found, drawn


class TestCrashes:
    def test_a_trial_goes_on_where_its_process_was_killed(self, place: Place) -> None:
        with place.search(GRID) as search:
            job = search.next_job()
            assert job is not None

            def report(epoch: int, value: float) -> bool:
                raise Killed

            with pytest.raises(Killed):
                run_trial(job, report)
        assert trained(place) == ["0000.running-1"]
        found = place.run(GRID)
        assert len(found) == 4
        events = (place.out / "trials" / "0000" / "events.jsonl").read_text()
        assert events.count('"started"') == 1
        assert events.count('"resumed"') == 1

    def test_a_folder_that_was_made_but_holds_nothing_is_no_obstacle(self, place: Place) -> None:
        with place.search(GRID) as search:
            job = search.next_job()
            assert job is not None
            (job.path / "events.jsonl").touch()
        assert set(place.run(GRID).values()) != {}
        assert trained(place) == ["0000", "0001", "0002", "0003"]

    def test_a_lost_worker_is_replaced_once(self, place: Place) -> None:
        with place.search(GRID) as search:
            first = search.next_job()
            assert first is not None
            search.lost(first, "was killed by signal 9")
            second = search.next_job()
            assert second is not None
            assert second.number == first.number
            assert second.path != first.path
            search.lost(second, "was killed by signal 9")
            assert search.trials()[0].state.name == "FAIL"
            assert facts(search, 0)["reason"] == "its worker was killed by signal 9; the one before was lost too"
            run_here(search, StopRequest())
            assert search.finished() == len(search.trials()) == 4
        assert trained(place) == ["0001", "0002", "0003"]

    def test_a_worker_that_comes_back_can_neither_write_nor_be_counted(self, place: Place) -> None:
        with place.search(GRID) as search:
            asleep = search.next_job()
            assert asleep is not None
            wakes: list[str] = []

            def sleeps(epoch: int, value: float) -> bool:
                """After its first epoch; meanwhile another worker does all of it."""
                search.lost(asleep, "was silent for 60 s")
                awake = search.next_job()
                assert awake is not None
                search.finish(awake, run_trial(awake, lambda epoch, value: False))
                wakes.append((place.out / "trials" / "0000" / "result.json").read_text())
                wakes.append((place.out / "trials" / "0000" / "events.jsonl").read_text())
                return False

            with pytest.raises(StorageError, match="its folder does not exist"):
                run_trial(asleep, sleeps)
            assert (place.out / "trials" / "0000" / "result.json").read_text() == wakes[0]
            assert (place.out / "trials" / "0000" / "events.jsonl").read_text() == wakes[1]
            run_here(search, StopRequest())
            assert search.finished() == len(search.trials()) == 4
        assert trained(place) == ["0000", "0001", "0002", "0003"]

    def torn_at(self, finished: Any, cut: int) -> None:
        """Cut the journal, go on: nothing is trained, and all trials are as they were."""
        place, journal, found, drawn = finished
        (place.out / JOURNAL).write_bytes(journal[:cut])
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(campaign, "fit", lambda *_, **__: pytest.fail("trained again"))
            assert place.run(RANDOM) == found
        with place.search(RANDOM) as search:
            assert setting_of(search) == drawn
        assert trained(place) == ["0000", "0001", "0002", "0003"]

    def test_a_log_torn_at_the_end_of_each_line_keeps_every_finished_trial(self, finished: Any) -> None:
        ends = [at for at, byte in enumerate(finished[1]) if byte == ord("\n")]
        for end in [-1, *ends]:
            self.torn_at(finished, end + 1)

    @given(share=st.floats(min_value=0, max_value=1))
    @settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    def test_a_log_torn_at_any_byte_keeps_every_finished_trial(self, finished: Any, share: float) -> None:
        self.torn_at(finished, round(share * len(finished[1])))

    def test_a_log_that_is_gone_is_made_again(self, finished: Any) -> None:
        place, _, found, _ = finished
        (place.out / JOURNAL).unlink()
        assert place.run(RANDOM) == found
        assert any("its record was lost and is made again" in line for line in place.said)

    def test_a_foreign_folder_is_left_alone(self, place: Place) -> None:
        place.run(GRID)
        with place.search(GRID) as search:
            assert search.finished() == 4
        foreign = place.out / "trials" / "0009"
        shutil.copytree(place.out / "trials" / "0000", foreign)
        text = (foreign / "recipe.toml").read_text()
        (foreign / "recipe.toml").write_text(text.replace("batch_size = 20", "batch_size = 30"))
        assert sorted(place.run(GRID)) == [0, 1, 2, 3]
        assert any("is not of this study; it is left alone" in line for line in place.said)
        assert foreign.is_dir()


class TestFolder:
    def test_another_study_or_data_set_is_refused_by_name(self, place: Place) -> None:
        place.run(GRID)
        with pytest.raises(
            StudyError, match=r"differs in training\.epochs; .*thriftnet study run .*out/study\.toml --out"
        ):
            place.run(GRID, changes=["training.epochs=3"])
        with pytest.raises(StudyError, match="differs in the study's space"):
            place.run(GRID.replace("0.9]", "0.95]"))
        (place.folder / "moved.npz").write_bytes((place.folder / "tiny.npz").read_bytes())
        moved = open_search(place.out, place.study(GRID), str(place.folder / "moved.npz"), None, print)
        with pytest.raises(StudyError, match=r"with --data .*tiny\.npz, not .*moved\.npz"):
            moved.__enter__()
        assert len(place.run(GRID)) == 4

    def test_its_own_file_goes_on_with_it(self, place: Place) -> None:
        found = place.run(GRID, changes=["training.epochs=1"])
        with open_search(place.out, load(str(place.out / "study.toml")), place.data, None, print) as search:
            run_here(search, StopRequest())
            assert results(search) == found

    def test_the_same_data_through_a_link_goes_on(self, place: Place) -> None:
        found = place.run(GRID, changes=["training.epochs=1"])
        (place.folder / "link.npz").symlink_to(place.data)
        study = load(str(place.out / "study.toml"))
        with open_search(place.out, study, str(place.folder / "link.npz"), None, print) as search:
            assert results(search) == found
        with (
            pytest.raises(StudyError, match="holds a study with --data"),
            open_search(place.out, study, str(place.folder / "other.npz"), None, print),
        ):
            pass

    def test_a_folder_with_something_else_is_refused_and_kept(self, place: Place) -> None:
        place.out.mkdir()
        (place.out / "thesis.txt").write_text("years of work")
        with pytest.raises(StudyError, match="holds something else than a study"):
            place.run(GRID)
        assert [path.name for path in place.out.iterdir()] == ["thesis.txt"]

    def test_a_storage_by_url_holds_the_trials_and_no_journal_is_made(self, place: Place) -> None:
        url = f"sqlite:///{place.folder / 'studies.db'}"
        for _ in range(2):
            with open_search(place.out, place.study(GRID), place.data, url, place.said.append) as search:
                run_here(search, StopRequest())
                found = results(search)
        assert not (place.out / JOURNAL).exists()
        name = json.loads((place.out / "study.json").read_text())["name"]
        recorded = optuna.load_study(storage=url, study_name=name)
        assert {trial.number: ("COMPLETE", trial.value) for trial in recorded.trials} == found
        with pytest.raises(StudyError, match="with --storage sqlite:"):
            place.run(GRID)


def test_the_folder_of_a_study_is_where_the_documentation_says(place: Place) -> None:
    place.run(GRID)
    assert {path.name for path in place.out.iterdir()} == {
        "journal.log",
        "recipe.toml",
        "study.json",
        "study.lock",
        "study.toml",
        "trials",
    }
    assert Path(place.out / "trials" / "0000" / "recipe.toml").is_file()
