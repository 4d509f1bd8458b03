"""The same study by one process, two processes and a Ray cluster of two nodes: its trials, and the wall time of each.

    python -m benchmarks.studies [STUDY] --data DATA [--width 0.25] [--scale 1] [--set KEY=VALUE ...] [--rounds 3]

Each side is the command `thriftnet study run` in a fresh folder, from its start to its end. One process trains with all
cores; the others have two workers with half of the cores each. The cluster is started before its command, which is
timed apart, and ended after it; both of its nodes are on this machine. Needs the extras `tune` and `ray`.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.common import Row, Store, announce, median_ratio, parser, print_table, run_main
from thriftnet.errors import ThriftnetError

WORKERS = 2
SIDES = {
    "process": "one process",
    "processes": f"{WORKERS} processes",
    "ray": f"Ray, {WORKERS} nodes",
}
OBJECT_STORE_BYTES = 80 * 2**20


@contextmanager
def cluster(cores_each: int) -> Iterator[str]:
    """The address of a Ray cluster of two nodes on this machine."""
    from thriftnet.tuning.ray_engine import QUIET

    os.environ.update(QUIET)
    from ray.cluster_utils import Cluster

    node: dict[str, Any] = {"num_cpus": cores_each, "object_store_memory": OBJECT_STORE_BYTES}
    made: Any = Cluster(initialize_head=True, head_node_args=node | {"include_dashboard": False})
    try:
        made.add_node(**node)
        made.wait_for_nodes()
        yield str(made.address)
    finally:
        made.shutdown()


def study(arguments: list[str]) -> str:
    """Standard output of `thriftnet study ...`; raises ThriftnetError where it fails."""
    done = subprocess.run([sys.executable, "-m", "thriftnet", "study", *arguments], stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise ThriftnetError(
            f"thriftnet study {arguments[0]} ended with status {done.returncode}; see its output above"
        )
    return done.stdout


def timed_study(engine: str, arguments: list[str]) -> Row:
    """Wall seconds of the whole command, and what every trial was and found."""
    with tempfile.TemporaryDirectory() as folder:
        run = ["run", *arguments, "--out", folder + "/study", "--engine", engine]
        if engine == "ray":
            started = time.perf_counter()
            with cluster((os.cpu_count() or WORKERS) // WORKERS) as address:
                begun = time.perf_counter()
                study([*run, "--workers", str(WORKERS), "--address", address])
                spent = {"wall_s": time.perf_counter() - begun, "cluster_start_s": begun - started}
        else:
            begun = time.perf_counter()
            study(run + (["--workers", str(WORKERS)] if engine == "processes" else []))
            spent = {"wall_s": time.perf_counter() - begun}
        trials = json.loads(study(["show", folder + "/study", "--json"]))["trials"]
    found = [{key: trial[key] for key in ("number", "state", "setting", "objective")} for trial in trials]
    return spent | {"trials": sorted(found, key=lambda trial: trial["number"])}


def compared(rows: dict[str, Row], rounds: int) -> Row:
    """Engine -> median seconds, ratio to one process, and how its trials differ from that one's."""

    def of(engine: str) -> list[Row]:
        return [rows[f"{engine} {number}"] for number in range(rounds)]

    def settings(row: Row) -> list[Any]:
        return [(trial["number"], trial["setting"]) for trial in row["trials"]]

    plain = of("process")
    return {
        engine: {
            "wall_s": statistics.median(row["wall_s"] for row in of(engine)),
            "times_one_process": median_ratio([row["wall_s"] for row in plain], [row["wall_s"] for row in of(engine)]),
            "same_trials": all(settings(row) == settings(plain[0]) for row in of(engine)),
            "completed": [sum(trial["state"] == "completed" for trial in row["trials"]) for row in of(engine)],
            "largest_difference_of_objective": max(
                (
                    abs(mine["objective"] - other["objective"])
                    for row in of(engine)
                    for mine, other in zip(row["trials"], plain[0]["trials"], strict=True)
                    if None not in (mine["objective"], other["objective"])
                ),
                default=None,
            ),
        }
        for engine in SIDES
    }


def main() -> None:
    options_parser = parser(__doc__, "studies")
    options_parser.add_argument("study", nargs="?", default="xu-grid", help="a packaged study, or a file")
    options_parser.add_argument("--data", required=True, help="what `thriftnet --data` takes")
    options_parser.add_argument("--width", type=float, default=0.25)
    options_parser.add_argument("--scale", type=float, default=1.0)
    options_parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    options_parser.add_argument("--rounds", type=int, default=3)
    options = options_parser.parse_args()
    measure(options)


def measure(options: Namespace) -> None:
    settings = {key: getattr(options, key) for key in ("study", "width", "scale", "set")}
    settings |= {"data": Path(options.data).name, "workers": WORKERS}
    store = Store(options.out, "studies", settings, options.again)
    arguments = [options.study, "--data", options.data, "--width", str(options.width), "--scale", str(options.scale)]
    arguments += [part for change in options.set for part in ("--set", change)]
    # The opposite order every other round: a machine that slows down slows all sides alike.
    order = [
        (engine, number)
        for number in range(options.rounds)
        for engine in (SIDES if number % 2 == 0 else reversed(list(SIDES)))
    ]
    announce("studies", sum(not store.finished(f"{engine} {number}") for engine, number in order), 60)
    for engine, number in order:
        row = store.row(f"{engine} {number}", lambda engine=engine: timed_study(engine, arguments))  # type: ignore[misc]
        print(f"{SIDES[engine]}: {row['wall_s']:.1f} s for {len(row['trials'])} trials", flush=True)
    summary = compared(store.rows, options.rounds)
    store.write(summary=summary)
    print_table(
        ("engine", "wall time", "times one process", "same trials", "objective differs by at most"),
        [
            (
                SIDES[engine],
                f"{found['wall_s']:.1f} s",
                f"{found['times_one_process']:.2f}",
                "yes" if found["same_trials"] else "no",
                f"{found['largest_difference_of_objective']:.4f}",
            )
            for engine, found in summary.items()
        ],
    )
    print(options.out)


if __name__ == "__main__":
    run_main(main)
