"""Images a second of CPU time for each corruption, one thread: `python -m benchmarks.corruptions`; prints only."""

from __future__ import annotations

import time

import torch

from benchmarks.common import print_table
from thriftnet.evaluation.corruptions import CORRUPTIONS, SEVERITIES, corrupt

IMAGES = 500


def main() -> None:
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (IMAGES, 3, 32, 32), dtype=torch.uint8, generator=generator)
    rows = []
    for name in CORRUPTIONS:
        corrupt(images[:10], name, 1)
        begun = time.process_time()
        for severity in SEVERITIES:
            corrupt(images, name, severity)
        rows.append((name, f"{IMAGES * len(SEVERITIES) / (time.process_time() - begun):,.0f}"))
    print_table(("corruption", "images/s of CPU time, mean of five severities"), rows)


if __name__ == "__main__":
    main()
