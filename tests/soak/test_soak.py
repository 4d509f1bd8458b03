"""The quick form of `make soak`."""

import random
from pathlib import Path

from tests.soak.killed import kill_at_random_moments
from tests.soak.soak import soak


def test_a_training_killed_at_random_moments_ends_with_the_same_bits(tmp_path: Path) -> None:
    counts = kill_at_random_moments(tmp_path, kills=15, epochs=4, rng=random.Random(0))
    assert counts["kills"] == 15
    assert counts["further than the one before"] >= 3  # else they came before anything was at stake


def test_a_training_killed_stopped_and_starved_ends_with_the_same_bits(tmp_path: Path) -> None:
    found = soak(tmp_path, events=4, epochs=2, seed=0)
    assert {event["event"] for event in found["events"]} == {"SIGKILL", "SIGTERM", "SIGSTOP", "full disk"}
