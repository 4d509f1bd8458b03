"""The targets under Atheris, which mutates inputs towards code that they have not reached yet.

    pip install atheris                                     (Linux, CPython 3.11 to 3.13)
    python -m tests.fuzz.coverage_guided TARGET... --seconds 60 --out results/fuzz.json

Without a TARGET all of them take their turn. Each has a process of its own with a limit of memory; a finding is kept
in --findings, once for each place in the code, and fuzzing goes on. `--replay FILE TARGET` runs one kept input again.
The result of a target is added to its earlier ones in --out; `findings` there are those of all times, mended or not.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory, mkdtemp
from typing import Any

from thriftnet.storage import write_atomic

MEMORY_MB = 3000
"""A process with torch and the libraries has about 600 MB before the first input; no input of 100 kB needs 2 GB."""
RESERVE_S = 10
"""Below this no further process is worth its start."""


def fuzz(target_name: str, seconds: int, findings: Path, corpus: Path, seed: int, covers: list[str]) -> None:
    """Fuzz in this process until the time is over; libFuzzer ends the process itself."""
    import atheris

    with atheris.instrument_imports(include=covers):
        from tests.fuzz.targets import MOST_BYTES, TARGETS, WAITING_S, check, memory

    target = TARGETS[target_name]
    for number, content in enumerate(target.examples()):
        (corpus / f"example-{number:03d}").write_bytes(content)
    place = Path(mkdtemp(dir=memory()))
    seen: set[str] = set()

    def one_input(content: bytes) -> None:
        folder = place / "input"
        folder.mkdir()
        try:
            check(target, content, folder)
        except BaseException as error:
            where = _place(error)
            if where not in seen:
                seen.add(where)
                name = f"{target_name}-{hashlib.sha256(content).hexdigest()[:12]}"
                (findings / name).write_bytes(content)
                print(f"FINDING {json.dumps({'place': where, 'input': name})}", file=sys.stderr, flush=True)
                traceback.print_exception(error, limit=-6)
            if isinstance(error, KeyboardInterrupt):
                raise
        finally:
            shutil.rmtree(folder)

    options = {
        "max_total_time": seconds,
        "max_len": MOST_BYTES,
        "timeout": 2 * WAITING_S,
        "rss_limit_mb": MEMORY_MB,
        "print_final_stats": 1,
        "seed": seed,
        "verbosity": 1,
        "artifact_prefix": f"{findings}/{target_name}-",
    }
    atheris.Setup([sys.argv[0], *(f"-{key}={value}" for key, value in options.items()), str(corpus)], one_input)
    atheris.Fuzz()


def _place(error: BaseException) -> str:
    """Kind of error and the innermost frame of our own code: the same place is the same finding."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if "/thriftnet/" in frame.filename] or list(frames)
    return f"{type(error).__name__} at {Path(ours[-1].filename).name}:{ours[-1].lineno} in {ours[-1].name}"


def run_target(name: str, seconds: int, findings: Path, corpus: Path, covers: Sequence[str]) -> dict[str, Any]:
    """Fuzz one target for so long, in as many processes as it takes. Returns its numbers."""
    from tests.fuzz.targets import memory

    begun, executions, covered, places, inputs, seed = time.monotonic(), 0, 0, set[str](), list[str](), 1
    corpus.mkdir(parents=True, exist_ok=True)
    findings.mkdir(parents=True, exist_ok=True)
    while (left := seconds - int(time.monotonic() - begun)) >= RESERVE_S or seed == 1:
        command = [sys.executable, "-m", "tests.fuzz.coverage_guided", name, *covers, "--seconds", str(max(1, left)),
                   "--findings", str(findings), "--corpus", str(corpus), "--here", str(seed)]  # fmt: skip
        # libFuzzer ends its process without the clean-up of Python's.
        with TemporaryDirectory(dir=memory()) as place, (findings / f"{name}.log").open("a+b") as log:
            start = log.seek(0, 2)
            environment = os.environ | {"TMPDIR": place}
            status = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=log, env=environment).returncode
            log.seek(start)
            said = log.read().decode("utf-8", "replace")
        counts = re.findall(r"stat::number_of_executed_units: +(\d+)", said) or re.findall(r"^#(\d+)\t", said, re.M)
        executions += int(counts[-1]) if counts else 0
        covered = max([covered, *map(int, re.findall(r" cov: (\d+)", said))])
        for found in re.findall(r"^FINDING (.+)$", said, re.M):
            places.add(json.loads(found)["place"])
            inputs.append(json.loads(found)["input"])
        if status != 0 and "out-of-memory" in said:
            places.add("more than the limit of memory")
        elif status != 0 and "timeout" in said:
            places.add("hang")
        elif status != 0:
            places.add(f"the process ended with status {status}")
        seed += 1
    return {
        "executions": executions,
        "elapsed_s": round(time.monotonic() - begun),
        "covered_edges": covered,
        "findings": sorted(places),
    }


def added(earlier: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """The numbers of a target from several sessions."""
    return {
        "executions": earlier["executions"] + new["executions"],
        "elapsed_s": earlier["elapsed_s"] + new["elapsed_s"],
        "covered_edges": max(earlier["covered_edges"], new["covered_edges"]),
        "findings": sorted({*earlier["findings"], *new["findings"]}),
    }


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.coverage_guided")
    parser.add_argument("targets", nargs="*", metavar="TARGET")
    parser.add_argument("--seconds", type=int, default=60, help="for each target")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--findings", type=Path, default=Path("fuzz-findings"))
    parser.add_argument("--corpus", type=Path)
    parser.add_argument("--replay", type=Path)
    parser.add_argument("--here", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.here is not None:
        name, *covers = given.targets
        fuzz(name, given.seconds, given.findings, given.corpus, given.here, covers)
        return
    from tests.fuzz.targets import TARGETS, check

    if given.replay is not None:
        print(check(TARGETS[given.targets[0]], given.replay.read_bytes(), Path(mkdtemp())))
        return
    for name in given.targets or TARGETS:
        corpus = given.corpus or given.findings / "corpus"
        numbers = run_target(name, given.seconds, given.findings, corpus / name, TARGETS[name].covers)
        print(name, json.dumps(numbers), flush=True)
        if given.out is not None:
            stored = json.loads(given.out.read_text()) if given.out.exists() else {}
            stored[name] = added(stored[name], numbers) if name in stored else numbers
            write_atomic(given.out, json.dumps(stored, indent=2) + "\n")


if __name__ == "__main__":
    main()
