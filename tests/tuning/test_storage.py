"""The journal, torn at any byte, and what messages and files may show of a storage's URL."""

from __future__ import annotations

from pathlib import Path

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import Trial, TrialState, create_trial

from thriftnet.errors import StudyError
from thriftnet.tuning.storage import (
    JOURNAL,
    odd_records,
    one_writer,
    open_storage,
    repair_journal,
    whole_part,
    without_password,
)


def states(folder: Path) -> list[str]:
    """Of the trials that Optuna itself reads."""
    storage = JournalStorage(JournalFileBackend(str(folder / JOURNAL)))
    try:
        study = optuna.load_study(storage=storage, study_name="s")
    except KeyError:
        return []
    return [trial.state.name for trial in study.get_trials()]


@pytest.fixture(scope="module")
def journal(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    folder = tmp_path_factory.mktemp("journal")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(storage=JournalStorage(JournalFileBackend(str(folder / JOURNAL))), study_name="s")
    for number, value in enumerate((1.0, 2.0)):
        study.add_trial(create_trial(state=TrialState.RUNNING, user_attrs={"number": number}))
        trial = Trial(study, study.get_trials()[-1]._trial_id)
        trial.suggest_float("x", 0, 1)
        trial.report(value, 1)
        trial.set_user_attr("facts", {"epochs": 1})
        study.tell(trial, value)
    return (folder / JOURNAL).read_bytes()


def test_cut_at_every_byte_it_is_read_again_and_can_be_appended_to(journal: bytes, tmp_path: Path) -> None:
    path = tmp_path / JOURNAL
    ends = [at + 1 for at, byte in enumerate(journal) if byte == ord("\n")]
    for cut in range(len(journal) + 1):
        assert whole_part(journal[:cut]) == max((end for end in ends if end <= cut), default=0)
    for cut in (0, 5, ends[0] + 3, ends[-1] - 1, ends[-1]):
        path.write_bytes(journal[:cut])
        whole = whole_part(journal[:cut])
        assert repair_journal(tmp_path) == cut - whole
        assert path.read_bytes() == journal[:whole]
        if cut != whole:
            assert (tmp_path / "journal.torn").read_bytes() == journal[whole:cut]
        before = states(tmp_path)
        study = optuna.create_study(
            storage=JournalStorage(JournalFileBackend(str(path))), study_name="s", load_if_exists=True
        )
        study.tell(study.ask(), 3.0)
        assert states(tmp_path) == [*before, "COMPLETE"]


def test_a_damaged_line_in_the_middle_ends_what_is_kept(journal: bytes, tmp_path: Path) -> None:
    lines = journal.splitlines(keepends=True)
    (tmp_path / JOURNAL).write_bytes(b"".join([*lines[:3], b"\0\0\0\n", *lines[3:]]))
    with (
        pytest.raises(StudyError, match=r"is damaged.*`thriftnet study run` keeps what comes before"),
        odd_records(tmp_path, None),
    ):
        open_storage(tmp_path, None)
    assert repair_journal(tmp_path) == 4 + sum(map(len, lines[3:]))
    assert (tmp_path / JOURNAL).read_bytes() == b"".join(lines[:3])
    assert repair_journal(tmp_path) == 0


def test_the_link_that_a_killed_writer_left_is_not_waited_for(journal: bytes, tmp_path: Path) -> None:
    (tmp_path / JOURNAL).write_bytes(journal)
    (tmp_path / f"{JOURNAL}.lock").symlink_to(tmp_path / JOURNAL)
    repair_journal(tmp_path)
    assert not (tmp_path / f"{JOURNAL}.lock").is_symlink()


def test_one_writer_at_a_time(tmp_path: Path) -> None:
    with (
        one_writer(tmp_path),
        pytest.raises(StudyError, match="another process is running the study"),
        one_writer(tmp_path),
    ):
        pass
    with one_writer(tmp_path):
        pass


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://user:secret@host/db", "postgresql://host/db"),
        ("postgresql://me:S3cr/et@host:5432/db", "postgresql://host:5432/db"),
        ("mysql+pymysql://me:sec@ret@host/db?charset=utf8", "mysql+pymysql://host/db?charset=utf8"),
        ("postgresql://host/db?user=me&password=secret&sslmode=require", "postgresql://host/db?sslmode=require"),
        ("postgresql:///db?passwd=secret&host=h", "postgresql:///db?host=h"),
        ("redis://:secret@host:6379/0", "redis://host:6379/0"),
        ("sqlite:///studies.db", "sqlite:///studies.db"),
    ],
)
def test_no_password_is_shown(url: str, shown: str) -> None:
    assert without_password(url) == shown


@pytest.mark.parametrize(
    "url",
    ["nonsense://user:S3cr/et@host/db", "nonsense://h/db?password=S3cr%2Fet", "sqlite:///no/such/folder?token=S3cr/et"],
)
def test_no_password_is_in_an_error(tmp_path: Path, url: str) -> None:
    with pytest.raises(StudyError) as caught, odd_records(tmp_path, url):
        open_storage(tmp_path, url)
    assert "cannot be opened" in str(caught.value)
    assert "cr/et" not in str(caught.value)
    assert "cr%2Fet" not in str(caught.value)
    assert caught.value.__suppress_context__
