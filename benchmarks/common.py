"""What the benchmarks share: taking turns, medians, the environment, results that can be gone on with, workers.

A result file holds one row a key. A row that is there, with the same settings, is not measured again; a file from
another machine or torch is refused, so that no table mixes two.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shlex
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from thriftnet import recipe as recipes
from thriftnet import runtime as runtimes
from thriftnet.config import RuntimeConfig
from thriftnet.data.dataset import LabelledImages, Source
from thriftnet.errors import ThriftnetError, UserError
from thriftnet.reporting.figures import save
from thriftnet.storage import write_atomic

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ROOT = Path(__file__).resolve().parents[1]
RESULTS = Path(__file__).resolve().parent / "results"
OWN_RECIPES = ("fast", "best", "laptop")
"""Recipes of our own that belong beside the papers' networks, as far as they exist."""
ALLOCATOR_VARIABLES = ("LD_PRELOAD", "MALLOC_CONF", "MALLOC_ARENA_MAX", "MALLOC_TRIM_THRESHOLD_", "OMP_NUM_THREADS")
CLASSES = 10

Row = dict[str, Any]


NETWORKS = (
    "xu-resnet18",
    "xu-resnetlarge",
    "li-resnet",
    "liu-4x2",
    "liu-5stage",
    "liu-4x3",
    "ramavath-resnet9",
    "ramavath-table1",
    "tirumalasetty-resnext29",
)
"""The recipes of the papers' nine networks, each with its own batch and augmentation."""


def paper_recipes() -> list[str]:
    """A recipe of each of the papers' networks, and the one that takes two passes a step."""
    return [*NETWORKS, "tirumalasetty-resnext29-amp"]


def paper_experiments() -> list[str]:
    """Every experiment of the papers once; some recipes are another's under the name of a table's row."""
    papers = {name: recipes.load(name) for name in recipes.names() if recipes.load(name).paper}
    kept: list[str] = []
    for name in sorted(papers, key=lambda each: each not in NETWORKS):
        same = (recipes.differences(papers[name], papers[other]) for other in kept)
        if not any({key for key, _, _ in changed} <= {"summary"} for changed in same):
            kept.append(name)
    return kept


def compared_recipes() -> list[str]:
    """The papers' recipes and, as far as they exist, our own."""
    return paper_recipes() + [name for name in OWN_RECIPES if name in recipes.names()]


def alternate(sides: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """Each side's values, one a round; the sides take turns, in the opposite order every other round.

    A machine that slows down so slows all sides, and none is always the one after a pause.
    """
    values: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(rounds):
        for name in list(sides) if number % 2 == 0 else reversed(list(sides)):
            values[name].append(sides[name]())
    return values


def median_ratio(numerator: Sequence[float], denominator: Sequence[float]) -> float:
    """Median of the ratios round by round."""
    return statistics.median(n / d for n, d in zip(numerator, denominator, strict=True))


def geometric_mean(values: Sequence[float]) -> float:
    """Raises ValueError without values."""
    return math.exp(statistics.fmean(math.log(value) for value in values))


class RandomImages(Source):
    """Random images with random labels: the arithmetic of training does not depend on what they show."""

    format, location = "random", "random images"
    class_names = tuple(f"class {label}" for label in range(CLASSES))

    def __init__(self, count: int, side: int = 32) -> None:
        self.count, self.side = count, side

    def train(self) -> LabelledImages:
        generator = torch.Generator().manual_seed(0)
        shape = (self.count, 3, self.side, self.side)
        images = torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)
        return LabelledImages(images, torch.arange(self.count) % CLASSES)

    def test(self) -> LabelledImages:
        return self.train()


def rows_first(images: Tensor) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """uint8 [N, C, H, W] as the arrays [N, H, W, C] that Pillow reads."""
    return np.ascontiguousarray(images.permute(0, 2, 3, 1).numpy())


def wait_for(device: torch.device) -> None:
    """Until the device has done all that was asked of it."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def environment(config: RuntimeConfig | None = None) -> Row:
    """What the numbers depend on: the product's own list, and allocator and thread variables where they are set."""
    variables = {name: os.environ[name] for name in ALLOCATOR_VARIABLES if name in os.environ}
    if "LD_PRELOAD" in variables:  # the library's name is enough, the place differs everywhere
        variables["LD_PRELOAD"] = " ".join(Path(part).name for part in variables["LD_PRELOAD"].split())
    return runtimes.environment(runtimes.resolve(config or RuntimeConfig())) | {"variables": variables}


def command_line(arguments: Sequence[str]) -> str:
    """The command as a reader would type it: paths shortened to their names."""
    module = f"benchmarks.{Path(arguments[0]).stem}".removesuffix(".__main__")
    short = [Path(text).name if os.sep in text else text for text in arguments[1:]]
    return shlex.join(["python", "-m", module, *short])


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


@dataclass
class Store:
    """A result file and its rows; every finished row is on the disk at once."""

    path: Path
    benchmark: str
    settings: Row
    """What a row depends on beside its key; a row with other settings is measured again."""
    again: bool = False
    """Measure finished rows once more."""
    environment: Row = field(default_factory=environment)
    rows: dict[str, Row] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.settings = json.loads(json.dumps(self.settings))
        if self.path.exists():
            stored = json.loads(self.path.read_text(encoding="utf-8"))
            if machine(stored["environment"]) == machine(self.environment):
                self.rows = stored["rows"]
            elif not self.again:
                raise UserError(
                    f"{self.path} was measured on {', '.join(machine(stored['environment']))}, not on "
                    f"{', '.join(machine(self.environment))}; give another --out, or --again to replace it"
                )
        self._measured: set[str] = set()

    def finished(self, key: str) -> bool:
        """Whether the row is there, with these settings, and needs no measuring."""
        if self.again and key not in self._measured:
            return False
        return key in self.rows and self.rows[key]["settings"] == self.settings

    def row(self, key: str, measure: Callable[[], Row]) -> Row:
        """The finished row, or what `measure` returns, stored."""
        if not self.finished(key):
            self.put(key, measure())
        return self.rows[key]

    def put(self, key: str, values: Row) -> None:
        """Store a row as finished now."""
        stamp = {"settings": self.settings, "measured_at": now(), "git_commit": runtimes.git_commit()}
        self.rows[key] = json.loads(json.dumps(values)) | stamp
        self._measured.add(key)
        self.write()

    def write(self, **summary: Any) -> None:
        """The file, with `summary` beside the rows."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        content = {
            "benchmark": self.benchmark,
            "command": command_line(sys.argv),
            "written_at": now(),
            "environment": self.environment,
            **summary,
            "rows": self.rows,
        }
        write_atomic(self.path, json.dumps(content, indent=1) + "\n")

    def draw(self, figure: Figure) -> None:
        """The figure, beside the rows."""
        save(figure, self.path.with_suffix(".png"))


def machine(environment: Row) -> tuple[str, ...]:
    """What all rows of a file share."""
    return environment["device_name"], f"{environment['cores']} cores", f"torch {environment['packages']['torch']}"


class Worker:
    """A fresh process that measures a round whenever it is told to; between rounds it sleeps.

    A process of its own gives each side its own threads, allocator and memory, as a user has them.
    """

    def __init__(self, module: str, arguments: Row, variables: Mapping[str, str] | None = None) -> None:
        self.name = module
        self.process = subprocess.Popen(
            [sys.executable, "-m", module, "--worker", json.dumps(arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env=os.environ | dict(variables or {}),
        )
        self.ready = self._read()
        """What it said once it was warm."""

    def round(self) -> Row:
        """What one round measured."""
        assert self.process.stdin is not None
        try:
            self.process.stdin.write("round\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            raise ThriftnetError(f"{self.name} ended with status {self.process.wait()}; see its output above") from None
        return self._read()

    def close(self) -> None:
        """End it; it leaves by itself when its input ends."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        try:
            self.process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process.stdout.close()

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _read(self) -> Row:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith("{"):
                message: Row = json.loads(line)
                if "error" in message:
                    raise ThriftnetError(f"{self.name}: {message['error']}")
                return message
        raise ThriftnetError(f"{self.name} ended with status {self.process.wait()}; see its output above")


def say(message: Row) -> None:
    """A worker's answer to its parent."""
    print(json.dumps(message), flush=True)


def asked_for_a_round() -> bool:
    """Wait for the parent; false once it wants no more rounds."""
    return sys.stdin.readline() == "round\n"


def serve(ready: Row, measure: Callable[[], Row]) -> None:
    """The life of a worker whose rounds are one call each."""
    say(ready)
    while asked_for_a_round():
        say(measure())


class OutOfTime(ThriftnetError):
    """A process did not end within its time and was stopped."""


def child(module: str, arguments: Row, limit_s: float | None = None) -> tuple[Row, Row]:
    """(the answer, {wall_s, cpu_s}) of a fresh process, from its start to its end: imports and clean-up included.

    Raises ThriftnetError where it fails, OutOfTime where it takes longer than `limit_s`.
    """
    return timed_command([sys.executable, "-m", module, "--worker", json.dumps(arguments)], limit_s)


def timed_command(command: Sequence[str], limit_s: float | None = None) -> tuple[Row, Row]:
    """As `child`, for any command whose last line of standard output is a JSON object."""
    started = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert process.stdout is not None
    stopped = threading.Event()

    def stop() -> None:
        stopped.set()
        process.kill()

    timer = threading.Timer(limit_s if limit_s is not None else threading.TIMEOUT_MAX, stop)
    timer.daemon = True
    timer.start()
    output = process.stdout.read()
    timer.cancel()
    # wait4 gives the CPU time of this process and of those that it waited for (data loader workers).
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    process.stdout.close()
    if stopped.is_set():
        raise OutOfTime(f"stopped after {duration(limit_s or 0)}")
    spent = {"wall_s": time.perf_counter() - started, "cpu_s": usage.ru_utime + usage.ru_stime}
    lines = output.strip().splitlines()
    try:
        answer = json.loads(lines[-1]) if lines else None
    except json.JSONDecodeError:
        answer = None
    if isinstance(answer, dict) and "error" in answer:
        raise ThriftnetError(str(answer["error"]))
    if process.returncode != 0 or not isinstance(answer, dict):
        raise ThriftnetError(
            f"{Path(command[0]).name} ended with status {process.returncode} and no JSON object on its last line; "
            "see its output above"
        )
    return answer, spent


def run_worker(work: Callable[[Row], None], arguments: str) -> None:
    """Do a worker's job; an error made on purpose reaches the parent as one line."""
    try:
        work(json.loads(arguments))
    except ThriftnetError as error:
        say({"error": str(error)})
        sys.exit(error.exit_status)


def parser(documentation: str | None, name: str) -> argparse.ArgumentParser:
    """The options that every benchmark has."""
    made = argparse.ArgumentParser(description=documentation, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--worker", help=argparse.SUPPRESS)
    made.add_argument("--out", type=Path, default=RESULTS / f"{name}.json", help="the result file")
    made.add_argument("--again", action="store_true", help="measure rows that are finished once more")
    return made


def run_main(main: Callable[[], None]) -> None:
    """An error made on purpose is one line and an exit status, not a traceback."""
    try:
        main()
    except ThriftnetError as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        sys.exit(error.exit_status)


def announce(what: str, pending: int, seconds_each: float) -> None:
    """What is left to do and about how long that takes."""
    left = f"about {duration(pending * seconds_each)} on two cores" if pending else "all of it is stored"
    print(f"{what}: {pending} to measure, {left}", flush=True)


def duration(seconds: float) -> str:
    """`40 s`, `12 min`, `3 h 20 min`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"


def print_table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """The first column to the left, the others to the right."""
    cells = [list(header), *([str(cell) for cell in row] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for row in cells:
        first, *others = (
            cell.ljust(width) if not i else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        print("  ".join([first, *others]).rstrip())
