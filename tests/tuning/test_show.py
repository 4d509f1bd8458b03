"""What is shown of a study, also while it runs."""

from __future__ import annotations

from tests.tuning.conftest import GRID, Place
from thriftnet.reporting.page import Facts
from thriftnet.reporting.study_report import study_page
from thriftnet.tuning.show import read_study


def test_a_running_trial_has_the_epochs_of_its_last_step(place: Place) -> None:
    """Steps are tenths here; the first trial has 4 epochs, and two of them are five tenths."""
    text = GRID.replace("optimizer.lr = { values = [0.01, 0.1] }", "training.epochs = { values = [4, 8] }")
    with place.search(text) as search:
        job = search.next_job()
        assert job is not None
        for epoch in (1, 2):
            search.report(job, epoch, 0.5)
        assert [(trial.state, trial.epochs) for trial in read_study(place.out).trials] == [("running", 2)]


def test_numbers_of_a_reduced_recipe_say_so(place: Place) -> None:
    with place.search(GRID, width=0.5, changes=["data.train_images=20"]):
        study = read_study(place.out)
    assert study.recipe == "tiny (reduced: 0.5 of every width)"
    facts = {
        name: value
        for block in study_page(study).sections[0].blocks
        if isinstance(block, Facts)
        for name, value in block.pairs
    }
    assert facts["Base recipe"] == study.recipe
    assert facts["Training images"] == "20"
