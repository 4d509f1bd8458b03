"""All CPU benchmarks in a sensible order; what is stored already is not measured again.

python -m benchmarks [--data DATA] [--parts throughput profile ...] [--again]
"""

from __future__ import annotations

import argparse
import subprocess
import sys

from benchmarks import convolution_kernels, memory, pipeline, throughput, time_to_accuracy
from benchmarks.common import ROOT, compared_recipes, duration, run_main
from thriftnet.errors import ThriftnetError


def parts(data: str) -> dict[str, tuple[list[str], float]]:
    """Name -> (command after `python -m`, estimated seconds on two cores from nothing)."""
    count = len(compared_recipes())
    memory_points = count + sum(map(len, memory.SWEEPS.values()))
    return {
        "throughput": (["benchmarks.throughput"], count * throughput.SECONDS_A_RECIPE),
        "profile": (["benchmarks.throughput", "--profile"], count * throughput.SECONDS_A_PROFILE),
        "convolution-kernels": (["benchmarks.convolution_kernels"], convolution_kernels.SECONDS),
        "pipeline": (["benchmarks.pipeline"], count * pipeline.SECONDS_A_RECIPE),
        "memory": (["benchmarks.memory"], memory_points * memory.SECONDS_A_POINT),
        "time-to-accuracy": (["benchmarks.time_to_accuracy", "--data", data], 3 * time_to_accuracy.SECONDS_A_RUN),
    }


def main() -> None:
    options_parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options_parser.add_argument("--data", default="digits", help="for time to accuracy: what `thriftnet --data` takes")
    options_parser.add_argument("--parts", nargs="+", choices=list(parts("")), default=list(parts("")))
    options_parser.add_argument("--again", action="store_true", help="measure what is stored once more")
    options = options_parser.parse_args()
    known = parts(options.data)
    for name in options.parts:
        print(f"{name}: about {duration(known[name][1])} from nothing")
    for name in options.parts:
        print(f"\n== {name}", flush=True)
        command = [sys.executable, "-m", *known[name][0], *(["--again"] if options.again else [])]
        status = subprocess.run(command, cwd=ROOT, check=False).returncode
        if status:
            raise ThriftnetError(f"{name} ended with status {status}; the same command goes on after what is stored")


if __name__ == "__main__":
    run_main(main)
