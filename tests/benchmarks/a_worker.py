"""A worker that counts, for the test of the protocol."""

import sys

from benchmarks.common import Row, run_worker, serve

from thriftnet.errors import UserError


def work(arguments: Row) -> None:
    count = arguments["start"]
    if count < 0:
        raise UserError(f"start = {count} is below zero")

    def measure() -> Row:
        nonlocal count
        count += 1
        return {"value": count}

    serve({"warm": True}, measure)


if __name__ == "__main__":
    run_worker(work, sys.argv[2])
