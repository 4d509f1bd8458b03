"""Runs commands of thriftnet with little memory: one JSON list of arguments a line in, one JSON outcome a line out.

Each command has a process of its own, forked from this one, which has imported everything; it may map ROOM_MB more
than this one has, and is ended after LIMIT_S.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
import tempfile
import time
import traceback
from typing import Any

ROOM_MB = 400
LIMIT_S = 60
"""So long on a machine that has much else to do; what a test looks at is the CPU time."""


def run(arguments: list[str]) -> dict[str, Any]:
    """The command's exit status (`hang`: none), standard error and CPU seconds."""
    with tempfile.TemporaryFile() as stderr:
        child = os.fork()
        if child == 0:
            _be_the_command(arguments, stderr.fileno())
        ended, status, usage = _wait(child)
        stderr.seek(0)
        said = stderr.read().decode("utf-8", "replace")
    return {
        "status": os.waitstatus_to_exitcode(status) if ended else "hang",
        "stderr": said,
        "cpu_s": usage.ru_utime + usage.ru_stime,
    }


def _be_the_command(arguments: list[str], stderr: int) -> None:
    from thriftnet import cli

    status: object = 99
    try:
        os.dup2(stderr, 2)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        with open("/proc/self/statm") as pages:
            mapped = int(pages.read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (mapped + ROOM_MB * 2**20,) * 2)
        sys.argv = ["thriftnet", *arguments]
        cli.main()
        status = 0
    except SystemExit as stop:
        status = stop.code or 0
    except BaseException:
        traceback.print_exc()
    sys.stderr.flush()
    os._exit(status if isinstance(status, int) else 99)


def _wait(child: int) -> tuple[bool, int, Any]:
    begun, ended = time.monotonic(), True
    while True:
        found, status, usage = os.wait4(child, os.WNOHANG)
        if found:
            return ended, status, usage
        if ended and time.monotonic() - begun > LIMIT_S:
            os.kill(child, signal.SIGKILL)
            ended = False
        time.sleep(0.01)


def main() -> None:
    """Until standard input ends."""
    import thriftnet.api
    import thriftnet.data.parquet
    import thriftnet.tuning.config  # noqa: F401

    for line in sys.stdin:
        print(json.dumps(run(json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
