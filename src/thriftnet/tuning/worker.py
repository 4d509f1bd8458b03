"""A process that trains trials for a study: `python -m thriftnet.tuning.worker`, started by an engine.

One JSON object a line. To the worker: a job, or the answer to an epoch. From it: `ready`; `alive` once a second, so
that a stopped or hung worker is noticed; `epoch`, after which it waits for the answer; the job's end. It ends when its
standard input does, so it never outlives the process that started it.
"""

from __future__ import annotations

import json
import os
import queue
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import Any, TextIO

HEARTBEAT_S = 1.0


class Line:
    """Both directions of the conversation with the engine."""

    def __init__(self, source: TextIO, target: TextIO) -> None:
        self.source, self.target = source, target
        self.lock = threading.Lock()
        self.received: queue.Queue[dict[str, Any]] = queue.Queue()
        for work in (self._listen, self._beat):
            threading.Thread(target=work, daemon=True).start()

    def say(self, kind: str, **details: Any) -> None:
        with self.lock:
            self.target.write(json.dumps({"kind": kind, **details}) + "\n")
            self.target.flush()

    def hear(self) -> dict[str, Any]:
        return self.received.get()

    def _listen(self) -> None:
        for text in self.source:
            self.received.put(json.loads(text))
        os._exit(0)  # nobody is left to report to; what is saved is whole

    def _beat(self) -> None:
        while True:
            try:
                self.say("alive")
            except OSError:
                os._exit(0)
            time.sleep(HEARTBEAT_S)


def main() -> None:
    """Train one job after another until standard input ends."""
    # What a library prints must not get into the conversation.
    target = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    line = Line(sys.stdin, target)

    from thriftnet import recipe as recipes
    from thriftnet.errors import Interrupted, ThriftnetError
    from thriftnet.tuning.trial import Job, run_trial

    line.say("ready", threads=os.environ.get("OMP_NUM_THREADS"))
    while True:
        told = line.hear()
        job = Job(
            told["number"],
            recipes.validate(told["recipe"], told["recipe"]["name"]),
            told["data"],
            Path(told["path"]),
            told["objective"],
            told["study"],
            tuple(told["track"]),
        )

        def report(epoch: int, value: float) -> bool:
            line.say("epoch", epoch=epoch, value=value)
            return bool(line.hear()["stop"])

        try:
            outcome = run_trial(job, report)
        except Interrupted as error:
            sys.exit(error.exit_status)
        except ThriftnetError as error:
            line.say("error", message=str(error), exit_status=error.exit_status)
        except Exception as error:
            traceback.print_exc()
            line.say(
                "error", message=f"unexpected {type(error).__name__}: {' '.join(str(error).split())}", exit_status=1
            )
        else:
            line.say("ended", state=outcome.state, reason=outcome.reason)


def job_message(job: Any) -> dict[str, Any]:
    """A job as a worker hears it."""
    return {
        "number": job.number,
        "recipe": job.recipe.model_dump(mode="json", exclude_unset=True),
        "data": job.data,
        "path": str(job.path),
        "objective": job.objective,
        "study": job.study,
        "track": job.track,
    }


if __name__ == "__main__":
    main()
