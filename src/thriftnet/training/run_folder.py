"""A run on disk: what each file is called, and how it is written and read.

    recipe.toml                   the resolved recipe          data.json     what was trained on, mean, std, hash
    environment.json              versions, device, threads    metrics.csv   one row an epoch
    selected.safetensors          weights of the kept epoch    events.jsonl  what happened, when
    last.safetensors              weights of the last epoch    result.json   the outcome so far
    resume-<updates>.pt           states to go on from         figures/      drawn from the above
    SHA256SUMS                    the digests of all these     .lock         who writes here now

Every file is written atomically, so it is complete or absent, by one process at a time; and it is checked against its
digest before it is read. A file that SHA256SUMS does not list is read as it is.
"""

from __future__ import annotations

import csv
import io
import json
import shlex
import warnings
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors
from safetensors.torch import save as save_safetensors
from torch import Tensor, nn

from thriftnet import recipe as recipes
from thriftnet.config import RecipeConfig
from thriftnet.errors import RecipeError, RunFolderError, StorageError, escaped
from thriftnet.memory import is_out_of_memory
from thriftnet.storage import PARTIAL, parse_json, storage_error, why_refused, write_atomic
from thriftnet.training import checksums, seen_images
from thriftnet.training.checkpoint import FoundState, newest_first, refusal, require_safe_reader, state_name
from thriftnet.training.checksums import Checksums, sha256
from thriftnet.training.lock import LOCK, only_writer
from thriftnet.training.records import check_file, check_history

Which = Literal["selected", "last"]

REMADE_ON_RESUME = (
    "data.json",
    seen_images.NAME,
    "selected.safetensors",
    "last.safetensors",
    "metrics.csv",
    "result.json",
)
AFTER_AN_EPOCH = ("last.safetensors", "metrics.csv", "result.json")
BEFORE_THE_RECIPE = (LOCK, checksums.NAME, "events.jsonl", "environment.json", "data.json", seen_images.NAME)
"""What a folder may hold before it is a run: recipe.toml is written last of what is known before the first step."""
MOST_FILE_BYTES = 8 * 2**30
"""The state of the largest network that a budget may allow, with three moments and two averages of it, has 3 GB."""
CHANGED = f"it was changed after it was written: its SHA-256 is not the one in {checksums.NAME}"


@dataclass
class _Batch:
    """What `as_one` has gathered."""

    files: dict[str, bytes] = field(default_factory=dict)
    removed: list[str] = field(default_factory=list)


class RunFolder:
    """Access to the files of one run. Opening reads nothing; each method raises what it names."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self._batch: _Batch | None = None

    def make(self) -> None:
        """Make the folder itself, unless it is there and empty, or no run had got as far as its recipe in it.

        Raises RunFolderError if something else is in the way, StorageError if it cannot be made.
        """
        if self.path.exists() and not self.path.is_dir():
            raise RunFolderError(f"run folder {self.path} is a file; choose another --out")
        self._refuse_occupied()
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise storage_error(self.path, error, "nothing was trained") from None

    def create(self) -> None:
        """`make` it and begin a run in it. Raises what `make` does, StorageError if it cannot be written to."""
        self.make()
        with self.only_writer():
            self._refuse_occupied()  # by who had the lock until now
            # Found out now rather than after the first epoch.
            self._write_checksums(Checksums())
            self._write("events.jsonl", "")

    def discard(self) -> None:
        """Take away what `create` made, so that the same command can be given again."""
        # It runs while another error is on its way to the user, and that one matters more.
        with suppress(OSError):
            for name in BEFORE_THE_RECIPE:
                (self.path / name).unlink(missing_ok=True)
            self.path.rmdir()

    def _refuse_occupied(self) -> None:
        names = {path.name for path in self.path.iterdir()} if self.path.is_dir() else set()
        if not {name for name in names if not name.startswith(PARTIAL)} <= set(BEFORE_THE_RECIPE):
            raise RunFolderError(
                f"run folder {self.path} is not empty; choose another --out, or go on with --resume {self.path}"
            )

    def only_writer(self) -> AbstractContextManager[None]:
        """Be the one that writes here while the block runs; every single write is one anyway. See `lock`."""
        return only_writer(self.path)

    def require(self) -> None:
        """Raise RunFolderError unless this looks like a run folder."""
        if not self.path.is_dir():
            raise RunFolderError(f"run folder {self.path} does not exist; `thriftnet train` prints the folder it made")
        self._existing("recipe.toml")

    def write_json(self, name: str, value: Mapping[str, Any]) -> None:
        """Write `value` under `name`, indented, NaN refused."""
        self._write(name, json.dumps(value, indent=2, allow_nan=False) + "\n")

    def read_json(self, name: str) -> dict[str, Any]:
        """Raises RunFolderError for a file that is missing, damaged, or (of those in `records`) no training's."""
        try:
            value = parse_json(self.read_bytes(name))
        except ValueError as error:
            raise self._damaged(name, error) from None
        if not isinstance(value, dict):
            raise self._damaged(name, "it is not a JSON object")
        try:
            check_file(name, value)
        except ValueError as error:
            raise self._damaged(name, error) from None
        return value

    def has(self, name: str) -> bool:
        return (self.path / name).is_file()

    @property
    def has_epoch(self) -> bool:
        """Whether anything is left of a completed epoch."""
        return any(map(self.has, AFTER_AN_EPOCH))

    @property
    def has_progress(self) -> bool:
        """Whether anything is left of earlier training, so that training from the beginning would destroy it."""
        return self.has_epoch or bool(self._states())

    @property
    def resume_command(self) -> str:
        return f"thriftnet train --resume {shlex.quote(str(self.path))}"

    @contextmanager
    def after_training(self) -> Iterator[None]:
        """Around what is written once a training is over: a StorageError then says so and how to go on."""
        try:
            yield
        except StorageError as error:
            raise StorageError(
                f"{error}; the training is finished and its weights are saved; for what is missing go on with: "
                f"{self.resume_command}"
            ) from None

    def write_recipe(self, recipe: RecipeConfig) -> None:
        self._write("recipe.toml", recipes.to_toml(recipe))

    def read_recipe(self) -> RecipeConfig:
        """Raises RunFolderError if the file is missing or damaged."""
        self.read_bytes("recipe.toml")
        try:
            return recipes.load(str(self._existing("recipe.toml").absolute()))
        except RecipeError as error:
            raise self._damaged("recipe.toml", error) from None

    def write_history(self, history: Sequence[Mapping[str, Any]]) -> None:
        """metrics.csv: one row an epoch, whole each time, so that it always agrees with the resume state."""
        text = io.StringIO()
        writer = csv.DictWriter(text, fieldnames=list(history[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(history)
        self._write("metrics.csv", text.getvalue())

    def read_history(self) -> list[dict[str, Any]]:
        """Rows of metrics.csv with numbers as numbers and empty cells as None; empty before the first epoch."""
        if not self.has_epoch:
            return []
        try:
            table = csv.DictReader(io.StringIO(self.read_bytes("metrics.csv").decode("utf-8-sig"), newline=""))
            rows = [{key: _number(value) for key, value in row.items()} for row in table]
            check_history(rows)
            return rows
        except (ValueError, TypeError, csv.Error) as error:
            raise self._damaged("metrics.csv", error) from None

    def log(self, event: str, **details: Any) -> None:
        """Add one line to events.jsonl. Raises RunFolderError where that file is damaged."""
        line = json.dumps({"time": datetime.now(UTC).isoformat(timespec="seconds"), "event": event, **details})
        with self.only_writer():
            earlier = self._batch.files.get("events.jsonl") if self._batch is not None else None
            if earlier is None:
                earlier = self.read_bytes("events.jsonl") if self.has("events.jsonl") else b""
            self._write("events.jsonl", earlier + line.encode() + b"\n")

    def write_weights(self, which: Which, network: nn.Module | Mapping[str, Tensor], epoch: int) -> None:
        """All parameters and buffers, fp32, contiguous; the epoch is in the file's metadata."""
        values = network.state_dict() if isinstance(network, nn.Module) else network
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in values.items()}
        self._write(f"{which}.safetensors", save_safetensors(tensors, {"epoch": str(epoch)}))

    def read_weights(self, which: Which) -> dict[str, Tensor]:
        """Raises RunFolderError if the file is missing or damaged."""
        name = f"{which}.safetensors"
        try:
            return load_safetensors(self.read_bytes(name))
        except SafetensorError as error:
            raise self._damaged(name, error) from None

    def weights_sha256(self, which: Which) -> str:
        """In hexadecimal, of the whole file. Raises RunFolderError if it is missing or damaged."""
        return sha256(self.read_bytes(f"{which}.safetensors"))

    def write_resume_state(self, state: Mapping[str, Any], updates: int = 0) -> None:
        """Write the state after so many updates; of the earlier ones the newest that is whole stays, as a reserve."""
        buffer = io.BytesIO()
        torch.save(dict(state), buffer)
        name, sums, others = state_name(updates), self._checksums(), self._states()
        # What is newer than this state was refused, or this one could not have been computed.
        ordered = newest_first({name, *others})
        older = ordered[ordered.index(name) + 1 :]
        reserve = next((each for each in older if self._is_whole(each, sums)), None)
        self._write(name, buffer.getvalue(), removed=[each for each in others if each not in (name, reserve)])

    def find_resume_state(self) -> FoundState:
        """The newest state that is whole. Raises RunFolderError, naming the newest, where there is none."""
        names, refused = self._states(), list[tuple[str, str]]()
        for name in names:
            try:
                return FoundState(name, self._read_state(name), tuple(refused))
            except RunFolderError as error:
                refused.append((name, str(error).split("; ")[0]))
        remedy = "to evaluate and predict it is not needed, but to go on restore it from a copy or train again"
        if not refused:
            raise RunFolderError(f"run folder {self.path} has no resume state; {remedy}")
        others = f", as is {' and '.join(names[1:])}" if names[1:] else ""
        raise RunFolderError(f"{refused[0][1]}{others}; {remedy}")

    def read_resume_state(self) -> dict[str, Any]:
        """What `find_resume_state` finds."""
        return self.find_resume_state().state

    def read_bytes(self, name: str) -> bytes:
        """A file of the run, checked against its SHA-256. Raises RunFolderError if it is missing or damaged."""
        while True:
            sums = self._checksums()
            try:
                size = self._existing(name).stat().st_size
                if size > MOST_FILE_BYTES:
                    raise self._damaged(name, f"it has {size:,} bytes, more than any file of a run")
                content = self._existing(name).read_bytes()
            except OSError as error:
                if why := why_refused(error):
                    raise RunFolderError(f"could not read {self.path / name}: {why}") from None
                raise self._damaged(name, error.strerror or error) from None
            expected = sums.of(name)
            if not expected or sha256(content) in expected:
                return content
            if self._checksums() == sums:  # else a writer has replaced the file between our two looks
                raise self._damaged(name, CHANGED)

    def write_bytes(self, name: str, content: bytes) -> None:
        """Write a file of the run; `name` may lie in a folder of its own, such as `figures/curves.png`."""
        self._write(name, content)

    def check(self) -> tuple[int, list[str]]:
        """(how many files are as they were written, those that SHA256SUMS does not list).

        Raises RunFolderError that names every file which is damaged or missing.
        """
        sums, whole, wrong = self._checksums(), 0, list[str]()
        for name in sorted(sums.names):
            if not self.has(name):
                wrong += [f"{name} is missing"] if name in sums.settled else []
            elif self._is_whole(name, sums):
                whole += 1
            else:
                wrong.append(f"{name} is damaged")
        if wrong:
            raise RunFolderError(
                f"run folder {self.path}: {', '.join(wrong)} ({len(wrong)} of {len(sums.names)} files); restore what "
                f"is wrong from a copy, or see what can be made again: {self.resume_command}"
            )
        present = {path.relative_to(self.path).as_posix() for path in self.path.rglob("*") if path.is_file()}
        return whole, sorted(present - sums.names - {LOCK, checksums.NAME})

    @contextmanager
    def as_one(self) -> Iterator[None]:
        """Gather the block's writes and do them in their order at its end: digests are announced and settled once."""
        batch = self._batch = _Batch()
        try:
            yield
        finally:
            self._batch = None
        with self.only_writer():
            self._replace(batch.files, batch.removed)

    def _states(self) -> list[str]:
        return newest_first([path.name for path in self.path.iterdir()]) if self.path.is_dir() else []

    def _read_state(self, name: str) -> dict[str, Any]:
        """Read with torch's restricted unpickler and nothing else. Raises UserError where torch is too old for that."""
        require_safe_reader(torch.__version__)
        if not self._checksums().of(name) and self.has(checksums.NAME):
            raise self._damaged(name, f"{checksums.NAME} does not list it")
        content = self.read_bytes(name)
        try:
            with zipfile.ZipFile(io.BytesIO(content)) as archive:
                if any(member.file_size > member.compress_size for member in archive.infolist()):
                    raise ValueError("it is compressed, which no state is")
            with warnings.catch_warnings():  # torch's name other readers, which are not restricted
                warnings.simplefilter("ignore")
                state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        except Exception as error:  # torch raises many kinds for a damaged archive; all mean the same to the user
            if is_out_of_memory(error):  # which says nothing against the file
                raise
            raise self._damaged(name, refusal(error) or error) from None
        if not isinstance(state, dict):
            raise self._damaged(name, "it holds no training state")
        return state

    def _is_whole(self, name: str, sums: Checksums) -> bool:
        return self.has(name) and sha256((self.path / name).read_bytes()) in sums.of(name)

    def _checksums(self) -> Checksums:
        if not self.has(checksums.NAME):
            return Checksums()
        try:
            return Checksums.parse((self.path / checksums.NAME).read_bytes())
        except (OSError, ValueError) as error:
            if why := why_refused(error):
                raise RunFolderError(f"could not read {self.path / checksums.NAME}: {why}") from None
            raise RunFolderError(
                f"{self.path / checksums.NAME} is damaged ({error}), so no file here can be checked; restore it from a "
                "copy, or remove it to use the files as they are"
            ) from None

    def _write_checksums(self, sums: Checksums) -> None:
        write_atomic(self.path / checksums.NAME, sums.render())

    def _write(self, name: str, content: bytes | str, removed: Sequence[str] = ()) -> None:
        encoded = escaped(content).encode() if isinstance(content, str) else content
        if self._batch is not None:
            self._batch.files[name] = encoded
            self._batch.removed += removed
            return
        with self.only_writer():
            self._replace({name: encoded}, removed)

    def _replace(self, files: Mapping[str, bytes], removed: Sequence[str] = ()) -> None:
        """Write `files` in their order, then remove `removed`; see `checksums` for why digests are written twice."""
        sums = self._checksums()
        digests = {name: sha256(content) for name, content in files.items()}
        self._write_checksums(sums.announce(digests, removed))
        try:
            for name, content in files.items():
                self._make_parent(name)
                write_atomic(self.path / name, content)
        except StorageError:
            new = Checksums(digests)
            there = {name: digest for name, digest in digests.items() if self._is_whole(name, new)}
            with suppress(StorageError):  # the first refusal is the one to tell of, and what is announced harms nothing
                self._write_checksums(sums.settle(there))
            raise
        for name in removed:
            self._remove(name)
        self._write_checksums(sums.settle(digests, removed))

    def _remove(self, name: str) -> None:
        try:
            (self.path / name).unlink(missing_ok=True)
        except OSError as error:
            raise storage_error(self.path / name, error, "what the run holds is safe") from None

    def _make_parent(self, name: str) -> None:
        folder = (self.path / name).parent
        if folder == self.path:
            return  # a run folder that was moved away under a writer must not come back
        try:
            folder.mkdir(exist_ok=True)
        except OSError as error:
            raise storage_error(folder, error, "the run itself is safe") from None

    def _existing(self, name: str) -> Path:
        path = self.path / name
        if not path.is_file():
            raise RunFolderError(f"run folder {self.path} has no {name}; {self._remedy(name)}")
        return path

    def _damaged(self, name: str, why: object) -> RunFolderError:
        # Libraries explain over several lines, or not at all.
        reason = " ".join(str(why).split())[:200] or type(why).__name__
        return RunFolderError(f"{self.path / name} is damaged ({reason}); {self._remedy(name)}")

    def _remedy(self, name: str) -> str:
        if name == "recipe.toml":
            if self.has(name):
                return (
                    "a run keeps the recipe it was begun with: restore the file from a copy; to train with a changed "
                    "one, start a new run with it"
                )
            return "give the folder that `thriftnet train` printed, or restore the file from a copy"
        if name == "events.jsonl":
            return "restore it from a copy, or remove it to begin a new record"
        if name in REMADE_ON_RESUME and self._states():
            data = " --data DATA" if name == "data.json" else ""
            return f"make it again with: {self.resume_command}{data}"
        if not self.has_progress:
            return f"no epoch was completed yet; go on with: {self.resume_command}"
        return "restore it from a copy or train again"


class UnwrittenRunFolder(RunFolder):
    """The run folder of a process that leaves all writing to the main one."""

    def make(self) -> None:
        pass

    def create(self) -> None:
        pass

    def only_writer(self) -> AbstractContextManager[None]:
        return nullcontext()

    def write_resume_state(self, state: Mapping[str, Any], updates: int = 0) -> None:
        pass

    def discard(self) -> None:
        pass

    def log(self, event: str, **details: Any) -> None:
        pass

    def _write(self, name: str, content: bytes | str, removed: Sequence[str] = ()) -> None:
        pass

    def _replace(self, files: Mapping[str, bytes], removed: Sequence[str] = ()) -> None:
        pass


def _number(text: str | None) -> int | float | None:
    if not isinstance(text, str):  # csv: None for a cell that is missing, a list of those that are too many
        raise ValueError("a row is too short or too long")
    if text == "":
        return None
    return int(text) if text.lstrip("-").isdigit() else float(text)
