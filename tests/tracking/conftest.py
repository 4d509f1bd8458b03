"""Real trackers without a network: what they wrote is read back from their own files."""

from __future__ import annotations

import json
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(autouse=True)
def nobody_is_logged_in(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("WANDB_MODE", "WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE", "WANDB_PROJECT", "WANDB_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "no-netrc"))
    monkeypatch.setenv("WANDB_CACHE_DIR", str(tmp_path / "wandb-cache"))
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path / "wandb-config"))


def records(path: Path) -> Iterator[Any]:
    """The records of a `.wandb` file: protobuf messages in LevelDB's log format, after a header of seven bytes.

    Blocks of 32 KiB hold fragments: masked CRC-32C (4 bytes, here not checked), length (2), type (1: whole, 2: first,
    3: middle, 4: last). W&B has no public reader in Python.
    """
    from wandb.proto import wandb_internal_pb2

    data = path.read_bytes()
    assert data[:4] == b":W&B"
    position, parts = 7, b""
    while position < len(data):
        left = 32768 - position % 32768
        if left < 7:
            position += left
            continue
        if position + 7 > len(data):
            return
        _, length, kind = struct.unpack("<IHB", data[position : position + 7])
        if kind == 0 or position + 7 + length > len(data):
            return  # a block that is only reserved, or a record that is not yet whole
        parts += data[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(parts)
            parts = b""
            yield record


@dataclass
class OfflineRun:
    """What one `.wandb` file says."""

    run: Any = None
    config: dict[str, Any] = field(default_factory=dict)
    points: dict[str, list[tuple[int, Any]]] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)
    exit_code: int | None = None


def unflattened(items: Any) -> dict[str, Any]:
    """Values by name; a nested one comes in parts, each under the path of its keys."""
    found: dict[str, Any] = {}
    for item in items:
        *outer, last = list(item.nested_key) or [item.key]
        place = found
        for key in outer:
            place = place.setdefault(key, {})
        place[last] = json.loads(item.value_json)
    return found


def read_wandb(run_folder: Path) -> list[OfflineRun]:
    """One for each time that the run was opened, in that order."""
    paths = list((run_folder / "tracking").glob("wandb/offline-run-*/*.wandb"))
    return [read_complete(path) for path in sorted(paths, key=lambda path: path.parent.name)]


def read_complete(path: Path) -> OfflineRun:
    """W&B's own process writes the file's end a moment after `finish` has returned."""
    for _ in range(200):
        offline = read_offline(path)
        if offline.exit_code is not None:
            return offline
        time.sleep(0.05)
    raise AssertionError(f"{path} has no end")


def read_offline(path: Path) -> OfflineRun:
    offline = OfflineRun()
    for record in records(path):
        kind = record.WhichOneof("record_type")
        if kind == "run":
            offline.run = record.run
            for item in record.run.config.update:
                offline.config[item.key] = json.loads(item.value_json)
        elif kind == "history":
            row = unflattened(record.history.item)
            for key, value in row.items():
                if not key.startswith("_"):
                    offline.points.setdefault(key, []).append((row["_step"], value))
        elif kind == "summary":
            offline.summary |= unflattened(record.summary.update)
        elif kind == "exit":
            offline.exit_code = record.exit.exit_code
    return offline


@dataclass
class Board:
    """What TensorBoard would show of a run."""

    scalars: dict[str, list[tuple[int, float]]]
    images: dict[str, list[tuple[int, int, int]]]
    """(step, width, height)."""
    texts: dict[str, str]


def read_tensorboard(run_folder: Path) -> Board:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.util import tensor_util

    events = EventAccumulator(str(run_folder / "tracking" / "tensorboard"), size_guidance={"scalars": 0, "images": 0})
    events.Reload()
    tags = events.Tags()
    return Board(
        {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in tags["scalars"]},
        {tag: [(event.step, event.width, event.height) for event in events.Images(tag)] for tag in tags["images"]},
        {
            tag.removesuffix("/text_summary"): tensor_util.make_ndarray(events.Tensors(tag)[-1].tensor_proto)[
                0
            ].decode()
            for tag in tags["tensors"]
        },
    )
