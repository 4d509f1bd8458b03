"""What keeping freed memory (runtime.keep_freed_memory) changes in a training step, each side in a process of its own.

    python -m benchmarks.allocator [--recipes NAME ...] [--batch-size N] [--rounds 3] [--preload LIBRARY] [--out FILE]

fp32 on one thread, so that processor time is free of waiting threads. `--preload` adds a side with another allocator,
such as libtcmalloc_minimal.so.4. Pages are those that the system had to clear in a step.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

WARMUP_STEPS, STEPS = 2, 3


def child(name: str, batch_size: int) -> None:
    from benchmarks.steps import Trainer
    from thriftnet import recipe as recipes
    from thriftnet.config import RuntimeConfig

    recipe = recipes.with_changes(recipes.load(name), {"training": {"batch_size": batch_size}})
    trainer = Trainer(recipe, RuntimeConfig(device="cpu", precision="fp32", threads=1))
    trainer.run(WARMUP_STEPS)
    pages, started = resource.getrusage(resource.RUSAGE_SELF).ru_minflt, time.process_time()
    trainer.run(STEPS)
    usage = resource.getrusage(resource.RUSAGE_SELF)
    measured = {
        "cpu_seconds": (time.process_time() - started) / STEPS,
        "pages": (usage.ru_minflt - pages) // STEPS,
        "peak_mb": usage.ru_maxrss // 1024,
    }
    print(json.dumps(measured))


def run(name: str, batch_size: int, variables: dict[str, str]) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.allocator", "--child", name, "--batch-size", str(batch_size)]
    done = subprocess.run(command, env=os.environ | variables, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipes", nargs="+", default=["liu-4x2", "xu-resnetlarge"])
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--preload", help="another allocator's library")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "allocator.json")
    arguments = parser.parse_args()
    if arguments.child:
        child(arguments.child, arguments.batch_size)
        return
    # The default number of arenas, said aloud: any MALLOC_ variable leaves the allocator alone.
    sides = {"as it comes": {"MALLOC_ARENA_MAX": str(8 * (os.cpu_count() or 1))}, "memory kept": {}}
    if arguments.preload:
        sides[Path(arguments.preload).name] = {"LD_PRELOAD": arguments.preload}
    rows = []
    print(f"{'recipe':<24} {'allocator':<28} {'CPU s a step':>12} {'ratio':>6} {'pages a step':>12} {'peak MB':>8}")
    for name in arguments.recipes:
        rounds = [
            {side: run(name, arguments.batch_size, values) for side, values in sides.items()}
            for _ in range(arguments.rounds)
        ]
        for side in sides:
            row = {"recipe": name, "batch_size": arguments.batch_size, "allocator": side}
            for measure in ("cpu_seconds", "pages", "peak_mb"):
                row[measure] = round(statistics.median(each[side][measure] for each in rounds), 3)
            ratios = [each["as it comes"]["cpu_seconds"] / each[side]["cpu_seconds"] for each in rounds]
            row["ratio"] = round(statistics.median(ratios), 3)
            rows.append(row)
            print(
                f"{name:<24} {side:<28} {row['cpu_seconds']:>12.3f} {row['ratio']:>6.2f} {row['pages']:>12,} "
                f"{row['peak_mb']:>8,}",
                flush=True,
            )
    from thriftnet import runtime as runtimes
    from thriftnet.config import RuntimeConfig

    environment = runtimes.environment(runtimes.resolve(RuntimeConfig(device="cpu", precision="fp32", threads=1)))
    stored = {"environment": environment, "rounds": arguments.rounds, "rows": rows}
    arguments.out.write_text(json.dumps(stored, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
