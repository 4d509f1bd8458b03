"""Journals and databases with what no study wrote: told in one line, and repaired where that is said."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import thriftnet
from tests.tuning.conftest import GRID, Place
from thriftnet.errors import StudyError
from thriftnet.tuning.show import read_study
from thriftnet.tuning.storage import JOURNAL

TWO = GRID.replace("[0.0, 0.9]", "[0.0]")


def values(text: bytes) -> Callable[[bytes], bytes]:
    return lambda journal: re.sub(rb'"values":\[[^]]*\]', b'"values":' + text, journal)


ODD: dict[str, Callable[[bytes], bytes]] = {
    "half a line": lambda journal: journal[: len(journal) // 2 + 3],
    "a binary": lambda journal: bytes(range(256)) * 20,
    "nothing": lambda journal: b"",
    "bytes in the middle": lambda journal: journal[:300] + b"\xff\xfe\n" + journal[300:],
    "an unknown operation": lambda journal: journal + b'{"op_code":99,"worker_id":"x"}\n',
    "an operation of another type": lambda journal: journal + b'{"op_code":"create","worker_id":"x"}\n',
    "an operation without its fields": lambda journal: journal + b'{"op_code":4,"worker_id":"x"}\n',
    "a line nested deep": lambda journal: journal + b"[" * 100_000 + b"\n",
    "another study": lambda journal: journal.replace(b'"study_name":"', b'"study_name":"other'),
    "an unknown state": lambda journal: journal.replace(b'"state":1', b'"state":77'),
    "NaN as value": values(b"[NaN]"),
    "text as value": values(b'["x"]'),
    "two values": values(b"[1.0,2.0]"),
    "a trial without a number": lambda journal: journal.replace(b'"number":', b'"n":'),
    "a number in words": lambda journal: journal.replace(b'"number":1', b'"number":"one"'),
    "facts as a list": lambda journal: re.sub(rb'"facts":\{[^}]*\}', b'"facts":[1]', journal),
    "facts without epochs": lambda journal: journal.replace(b'"epochs"', b'"epxchs"'),
}


@pytest.mark.parametrize("name", ODD)
def test_a_journal_is_read_or_told_in_a_line_and_running_again_repairs_it(place: Place, name: str) -> None:
    finished = place.run(TWO)
    journal = place.out / JOURNAL
    journal.write_bytes(ODD[name](journal.read_bytes()))
    shown = thriftnet("study", "show", place.out, "--no-figures")
    assert shown.status == 0 or "`thriftnet study run` " in shown.error
    assert place.run(TWO) == finished
    assert [trial.state for trial in read_study(place.out).trials] == ["completed"] * 2


DATABASE: dict[str, str | bytes] = {
    "a binary": bytes(range(256)) * 20,
    "a table that is gone": "drop table trial_values",
    "an unknown state": "update trials set state = 'LOST'",
    "a trial without a number": "update trial_user_attributes set key = 'n' where key = 'number'",
    "facts that are no JSON": "update trial_user_attributes set value_json = '{' where key = 'facts'",
    "NaN as value": "update trial_values set value = null, value_type = 'FINITE'",
}


@pytest.mark.parametrize("name", DATABASE)
def test_a_database_is_told_in_a_line_that_says_what_can_be_done(place: Place, tmp_path: Path, name: str) -> None:
    database = tmp_path / "study.db"
    (place.folder / "study.toml").write_text(TWO, encoding="utf-8")
    command = ["study", "run", place.folder / "study.toml", "--data", place.data, "--out", place.out]
    storage = ["--storage", f"sqlite:///{database}"]
    assert thriftnet(*command, *storage).status == 0
    change = DATABASE[name]
    if isinstance(change, bytes):
        database.write_bytes(change)
    else:
        with sqlite3.connect(database) as connection:
            connection.execute(change)
        connection.close()
    for said in (thriftnet("study", "show", place.out, *storage).error, thriftnet(*command, *storage).error):
        assert "restore the database from a copy" in said


def test_a_lost_database_ends_the_study_in_a_line(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    from optuna.exceptions import StorageInternalError

    from thriftnet.tuning import study as studies

    def lost(*_: object) -> bool:
        raise StorageInternalError("the server has gone away")

    (place.folder / "study.toml").write_text(TWO, encoding="utf-8")
    monkeypatch.setattr(studies.Search, "report", lost)
    ended = thriftnet("study", "run", place.folder / "study.toml", "--data", place.data, "--out", place.out)
    assert re.search(r"storage .*journal\.log failed \(the server has gone away\); .* same command", ended.error)


def test_a_name_that_is_missing_says_so(place: Place) -> None:
    place.run(TWO)
    (place.out / JOURNAL).write_bytes(b"")
    with pytest.raises(StudyError, match="has no study; `thriftnet study run` makes it again"):
        read_study(place.out)


@pytest.mark.parametrize("text", ["", "[]", '{"name": "s"}', "[" * 100_000, "\xff"])
def test_a_damaged_study_json_is_told(place: Place, text: str) -> None:
    place.run(TWO)
    (place.out / "study.json").write_text(text, encoding="latin-1")
    assert "study.json is damaged; restore it from a copy" in thriftnet("study", "show", place.out).error


def test_a_wrong_storage_leaves_no_study_behind(place: Place) -> None:
    (place.folder / "study.toml").write_text(TWO, encoding="utf-8")
    ended = thriftnet(
        "study",
        "run",
        place.folder / "study.toml",
        "--data",
        place.data,
        "--out",
        place.out,
        "--storage",
        "nonsense://h/d",
    )
    assert "--storage nonsense://h/d cannot be opened" in ended.error
    assert not (place.out / "study.json").exists()
    assert len(place.run(TWO)) == 2
