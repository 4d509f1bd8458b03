"""The command line with little memory: python -m tests.training.starved MIB ARGUMENTS... (Linux).

What the program has mapped when everything is imported, and so many MiB more, is all that the system gives it.
"""

from __future__ import annotations

import os
import resource
import sys
from pathlib import Path

import torch._dynamo  # what a training would import later is not what is to fail

from thriftnet import api as api
from thriftnet import cli


def main() -> None:
    more_mib, *arguments = sys.argv[1:]
    torch.zeros(8, 8).matmul(torch.zeros(8, 8, requires_grad=True)).sum().backward()  # starts what has to be started
    mapped = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    limit = mapped + int(more_mib) * 2**20
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    sys.argv = ["thriftnet", *arguments]
    cli.main()


if __name__ == "__main__":
    main()
