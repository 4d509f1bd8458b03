"""A run on disk: what each file is called, and how it is written and read.

    recipe.toml                   the resolved recipe          data.json     what was trained on, mean, std, hash
    environment.json              versions, device, threads    metrics.csv   one row an epoch
    selected.safetensors          weights of the kept epoch    events.jsonl  what happened, when
    last.safetensors              weights of the last epoch    result.json   the outcome so far
    resume.pt                     state to go on from          figures/      drawn from the above

Every file but events.jsonl is written atomically: it is complete or absent.
"""

from __future__ import annotations

import contextlib
import csv
import hashlib
import io
import json
import shlex
from collections.abc import Mapping, Sequence
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
from thriftnet.errors import RecipeError, RunFolderError
from thriftnet.storage import storage_error, write_atomic

Which = Literal["selected", "last"]

REMADE_ON_RESUME = ("data.json", "last.safetensors", "metrics.csv", "result.json")
AFTER_AN_EPOCH = ("resume.pt", "last.safetensors", "metrics.csv", "result.json")


class RunFolder:
    """Access to the files of one run. Opening reads nothing; each method raises what it names."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)

    def create(self) -> None:
        """Make the folder. Raises RunFolderError if something is in the way, StorageError if it cannot be made."""
        if self.path.is_dir() and any(self.path.iterdir()):
            raise RunFolderError(
                f"run folder {self.path} is not empty; choose another --out, or go on with --resume {self.path}"
            )
        if self.path.exists() and not self.path.is_dir():
            raise RunFolderError(f"run folder {self.path} is a file; choose another --out")
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise storage_error(self.path, error, "nothing was trained") from None
        # Found out now rather than after the first epoch.
        write_atomic(self.path / "events.jsonl", "")

    def discard(self) -> None:
        """Take away what `create` made, so that the same command can be given again."""
        # It runs while another error is on its way to the user, and that one matters more.
        with contextlib.suppress(OSError):
            (self.path / "events.jsonl").unlink()
            self.path.rmdir()

    def require(self) -> None:
        """Raise RunFolderError unless this looks like a run folder."""
        if not self.path.is_dir():
            raise RunFolderError(f"run folder {self.path} does not exist; `thriftnet train` prints the folder it made")
        self._existing("recipe.toml")

    def write_json(self, name: str, value: Mapping[str, Any]) -> None:
        """Write `value` under `name`, indented, NaN refused."""
        self._write(name, json.dumps(value, indent=2, allow_nan=False) + "\n")

    def read_json(self, name: str) -> dict[str, Any]:
        """Raises RunFolderError if the file is missing or damaged."""
        path = self._existing(name)
        try:
            value = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise self._damaged(name, error) from None
        if not isinstance(value, dict):
            raise self._damaged(name, "it is not a JSON object")
        return value

    def has(self, name: str) -> bool:
        return (self.path / name).is_file()

    @property
    def has_epoch(self) -> bool:
        """Whether anything is left of a completed epoch, so that training from the beginning would destroy it."""
        return any(map(self.has, AFTER_AN_EPOCH))

    @property
    def resume_command(self) -> str:
        return f"thriftnet train --resume {shlex.quote(str(self.path))}"

    def write_recipe(self, recipe: RecipeConfig) -> None:
        self._write("recipe.toml", recipes.to_toml(recipe))

    def read_recipe(self) -> RecipeConfig:
        """Raises RunFolderError if the file is missing or damaged."""
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
            with self._existing("metrics.csv").open(encoding="utf-8", newline="") as file:
                return [{key: _number(value) for key, value in row.items()} for row in csv.DictReader(file)]
        except (OSError, ValueError, TypeError) as error:
            raise self._damaged("metrics.csv", error) from None

    def log(self, event: str, **details: Any) -> None:
        """Append one line to events.jsonl."""
        line = json.dumps({"time": datetime.now(UTC).isoformat(timespec="seconds"), "event": event, **details})
        path = self.path / "events.jsonl"
        try:
            with path.open("a", encoding="utf-8") as file:
                file.write(line + "\n")
        except OSError as error:
            raise storage_error(path, error, "what the run already holds is safe") from None

    def write_weights(self, which: Which, network: nn.Module, epoch: int) -> None:
        """All parameters and buffers, fp32, contiguous; the epoch is in the file's metadata."""
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
        self._write(f"{which}.safetensors", save_safetensors(tensors, {"epoch": str(epoch)}))

    def read_weights(self, which: Which) -> dict[str, Tensor]:
        """Raises RunFolderError if the file is missing or damaged."""
        name = f"{which}.safetensors"
        try:
            return load_safetensors(self._existing(name).read_bytes())
        except (OSError, SafetensorError) as error:
            raise self._damaged(name, error) from None

    def weights_sha256(self, which: Which) -> str:
        """In hexadecimal, of the whole file. Raises RunFolderError if it is missing or cannot be read."""
        name = f"{which}.safetensors"
        try:
            return hashlib.sha256(self._existing(name).read_bytes()).hexdigest()
        except OSError as error:
            raise self._damaged(name, error) from None

    def write_resume_state(self, state: Mapping[str, Any]) -> None:
        buffer = io.BytesIO()
        torch.save(dict(state), buffer)
        self._write("resume.pt", buffer.getvalue())

    def read_resume_state(self) -> dict[str, Any]:
        """Read with torch's restricted unpickler. Raises RunFolderError if the file is missing or damaged."""
        path = self._existing("resume.pt")
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # torch raises many kinds for a damaged archive; all mean the same to the user
            raise self._damaged("resume.pt", error) from None
        if not isinstance(state, dict):
            raise self._damaged("resume.pt", "it holds no training state")
        return state

    def _write(self, name: str, content: bytes | str) -> None:
        write_atomic(self.path / name, content)

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
            return "give the folder that `thriftnet train` printed, or restore the file from a copy"
        if name in REMADE_ON_RESUME and self.has("resume.pt"):
            data = " --data DATA" if name == "data.json" else ""
            return f"make it again with: {self.resume_command}{data}"
        if not self.has_epoch:
            return f"no epoch was completed yet; go on with: {self.resume_command}"
        if name == "resume.pt":
            return "to evaluate and predict it is not needed, but to go on restore it from a copy or train again"
        return "restore it from a copy or train again"


class UnwrittenRunFolder(RunFolder):
    """The run folder of a process that leaves all writing to the main one."""

    def create(self) -> None:
        pass

    def discard(self) -> None:
        pass

    def log(self, event: str, **details: Any) -> None:
        pass

    def _write(self, name: str, content: bytes | str) -> None:
        pass


def _number(text: str | None) -> int | float | None:
    if text is None:
        raise ValueError("a row is too short")
    if text == "":
        return None
    return int(text) if text.lstrip("-").isdigit() else float(text)
