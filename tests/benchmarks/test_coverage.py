"""The simulation behind docs/statistics.md, in small."""

from benchmarks.coverage import coverage


def test_only_an_interval_of_both_holds_the_truth_where_both_vary() -> None:
    both, seeds_alone, images_alone, bootstrap = coverage(seeds=5, seed_sd=0.02, comparisons=300, key=0)
    assert 0.9 <= both <= 0.99
    assert seeds_alone < both
    assert images_alone < both
    assert 0.8 <= bootstrap <= 1.0
