"""A ledger of two made-up papers on tiny data: every kind of claim, trainings of a second in all."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import write_tiny_data
from tests.training.conftest import tiny_recipe
from thriftnet import campaign
from thriftnet import recipe as recipes
from thriftnet.data.dataset import Source
from thriftnet.data.kept import KeptSource
from thriftnet.data.open import open_source
from thriftnet.ledger.claims import Claims, load_claims
from thriftnet.ledger.plan import DataShape, Plan, Request, plan
from thriftnet.ledger.write import Ledger, reproduce

CLAIMS = """
[[paper]]
id = "one"
authors = "Ada, Bob"
title = "Brightness in three classes"

[[paper]]
id = "two"
authors = "Cleo"
title = "More of it"

[[claim]]
id = "one-best"
paper = "one"
place = "Table 1"
statement = "The best trial"
selection = "test-selected"
claimed = [91.5]
unit = "%"
kind = "accuracy"
recipe = "{selected}"

[[claim]]
id = "one-plateau"
paper = "one"
place = "Figure 1"
statement = "A plateau is reached early"
selection = "not said"
kind = "curve"
recipe = "{selected}"
quantity = "late_gain"
from_share = 0.5

[[claim]]
id = "one-faster"
paper = "one"
place = "Results"
statement = "A high rate is better"
selection = "test-selected"
claimed = [5.0]
unit = "points"
kind = "direction"
directions = ["one-rate", "one-rate-early", "one-robust", "one-flat"]

[[claim]]
id = "one-table"
paper = "one"
place = "Figure 2"
statement = "The layer table"
selection = "none"
kind = "audit"
table = "li-resnet"

[[claim]]
id = "one-sentence"
paper = "one"
place = "Methodology"
statement = "Adam was used"
selection = "none"
kind = "audit"
contradiction = "ramavath-optimizer"

[[claim]]
id = "one-custom"
paper = "one"
place = "Abstract"
statement = "On images nobody else has"
selection = "custom test"
claimed = [81.2]
unit = "%"
kind = "elsewhere"
measured_by = "nothing here"
shifted = "one-best"

[[claim]]
id = "two-final"
paper = "two"
place = "Table 2"
statement = "The final accuracy"
selection = "last epoch"
claimed = [89.0, 90.0]
unit = "%"
kind = "accuracy"
recipe = "{last}"

[[direction]]
id = "one-rate"
paper = "one"
question = "Learning rate 0.05 against 0.0001"
claimed_difference = 5.0
a = {{ label = "0.05", recipe = "{selected}" }}
b = {{ label = "0.0001", recipe = "{selected}", changes = {{ optimizer = {{ lr = 0.0001 }} }} }}

[[direction]]
id = "one-rate-early"
paper = "one"
question = "The same, after one epoch"
measure = "early_accuracy"
at_epoch = 1
a = {{ label = "0.05", recipe = "{selected}" }}
b = {{ label = "0.0001", recipe = "{selected}", changes = {{ optimizer = {{ lr = 0.0001 }} }} }}

[[direction]]
id = "one-robust"
paper = "one"
question = "The same, under FGSM"
measure = "adversarial_accuracy"
attack = {{ name = "fgsm", epsilon_levels = 2.0 }}
a = {{ label = "0.05", recipe = "{selected}" }}
b = {{ label = "0.0001", recipe = "{selected}", changes = {{ optimizer = {{ lr = 0.0001 }} }} }}

[[direction]]
id = "one-flat"
paper = "one"
question = "The same, how flat"
measure = "sharpness"
claimed_sign = "lower"
a = {{ label = "0.05", recipe = "{selected}" }}
b = {{ label = "0.0001", recipe = "{selected}", changes = {{ optimizer = {{ lr = 0.0001 }} }} }}
"""


@dataclass(frozen=True)
class Bench:
    """Claims, data and a folder for one test."""

    claims_path: Path
    data: Path
    out: Path

    @property
    def claims(self) -> Claims:
        return load_claims(self.claims_path)

    @property
    def source(self) -> Source:
        return open_source(str(self.data))

    def reproduce(self, **options: Any) -> Ledger:
        """Short requests by default: two of four epochs, one seed."""
        arguments = {name: options.pop(name) for name in ("hours", "write_only", "display", "say") if name in options}
        request = Request(**({"scale": 0.5, "seeds": 1} | options))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(campaign, "draw_training_figures", lambda *_: None)  # tests/test_campaign.py has them drawn
            return reproduce(request, self.claims, self.source, self.out, **arguments)

    def plan(self, **options: Any) -> Plan:
        request = Request(**({"scale": 0.5, "seeds": 1} | options))
        return plan(request, self.claims, DataShape.of(KeptSource(self.source)), self.out)


def make_bench(folder: Path) -> Bench:
    """Recipes, claims and data in `folder`."""
    selected, last = folder / "selected.toml", folder / "final.toml"
    selected.write_text(
        recipes.to_toml(tiny_recipe(data={"validation_images": 0}, training={"selection": "test"})), encoding="utf-8"
    )
    last.write_text(
        recipes.to_toml(tiny_recipe(data={"validation_images": 0}, training={"selection": "last"})), encoding="utf-8"
    )
    claims, data = folder / "claims.toml", folder / "tiny.npz"
    claims.write_text(CLAIMS.format(selected=selected, last=last), encoding="utf-8")
    write_tiny_data(data)
    return Bench(claims, data, folder / "out")


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return make_bench(tmp_path)


@pytest.fixture(scope="session")
def finished(shared_ledger: tuple[Bench, Ledger]) -> tuple[Bench, Ledger]:
    """A whole ledger of two seeds; tests must not write into it."""
    return shared_ledger
