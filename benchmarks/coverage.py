"""How often do intervals of a difference hold the truth, when seeds and images both vary?

    python benchmarks/coverage.py            # two minutes of one core; docs/statistics.md quotes the table

Comparisons of two recipes with paired seeds are simulated whose true difference is 0. On each image each seed's
difference is the sum of three normal draws: the image's (20 %), the seed's (a column of the table) and one of its own
(20 %). Of each interval the share that holds 0 is printed; it should be 95 %.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from thriftnet.evaluation.compare import crossed_estimate, mean_interval

IMAGES, COMPARISONS, RESAMPLES = 200, 2000, 300
SEEDS, SEED_SDS = (2, 3, 5, 10), (0.0, 0.01, 0.04)


def coverage(seeds: int, seed_sd: float, comparisons: int, key: int) -> Sequence[float]:
    """Share of intervals that hold 0: seeds and images by `crossed_estimate`, seeds alone, images alone, bootstrap.

    The bootstrap draws seeds and images, each with replacement (A. B. Owen, Annals of Applied Statistics 1(2), 2007).
    """
    generator = np.random.default_rng(key)
    held = np.zeros(4)
    for _ in range(comparisons):
        scores = (
            generator.normal(0, 0.2, IMAGES)
            + generator.normal(0, seed_sd, (seeds, 1))
            + generator.normal(0, 0.2, (seeds, IMAGES))
        )
        of_images = scores.mean(0)
        margin = 1.972 * of_images.std(ddof=1) / IMAGES**0.5
        drawn_seeds = generator.multinomial(seeds, [1 / seeds] * seeds, RESAMPLES) / seeds
        drawn_images = generator.multinomial(IMAGES, [1 / IMAGES] * IMAGES, RESAMPLES) / IMAGES
        resampled = np.quantile(((drawn_seeds @ scores) * drawn_images).sum(1), [0.025, 0.975])
        both, alone = crossed_estimate(scores).interval(), mean_interval(scores.mean(1).tolist())
        bounds = [
            (both.low, both.high),
            (alone.low, alone.high),
            of_images.mean() + margin * np.array([-1, 1]),
            resampled,
        ]
        held += [low <= 0 <= high for low, high in bounds]
    return (held / comparisons).tolist()


def main() -> None:
    print("| seeds | a seed moves accuracy by | seeds and images | seeds alone | images alone | bootstrap of both |")
    print("|---:|---:|---:|---:|---:|---:|")
    for seeds in SEEDS:
        for seed_sd in SEED_SDS:
            cells = " | ".join(f"{100 * share:.0f} %" for share in coverage(seeds, seed_sd, COMPARISONS, key=seeds))
            print(f"| {seeds} | {100 * seed_sd:.0f} % | {cells} |", flush=True)


if __name__ == "__main__":
    main()
