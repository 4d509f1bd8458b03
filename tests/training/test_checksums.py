"""The file of digests: what it says while files are replaced, and that it checks itself."""

import random
import subprocess
from pathlib import Path

import pytest

from thriftnet.training.checksums import Checksums, sha256
from thriftnet.training.run_folder import RunFolder

A, B, C = (sha256(text) for text in (b"a", b"b", b"c"))


def test_digests_are_announced_then_settled() -> None:
    sums = Checksums({"x": A, "old": C})
    announced = sums.announce({"x": B, "y": C}, removed=["old"])
    assert announced.of("x") == (A, B)
    assert announced.of("y") == (C,)
    assert announced.of("old") == (C,)  # until it is gone it is what it was
    assert announced.of("z") == ()
    settled = sums.settle({"x": B, "y": C}, removed=["old"])
    assert settled == Checksums({"x": B, "y": C})
    # A killed process's announcement stands until its file is written again.
    assert announced.settle({"y": A}).of("x") == (A, B)
    assert announced.announce({"x": C}).settle({"x": C}).of("x") == (C,)


def test_it_is_read_back_and_every_flipped_bit_is_found() -> None:
    sums = Checksums({"recipe.toml": A, "figures/a b.png": B}).announce({"recipe.toml": C}, removed=["figures/a b.png"])
    content = sums.render().encode()
    assert Checksums.parse(content) == sums
    assert Checksums.parse(Checksums().render().encode()) == Checksums()
    for bit in random.Random(0).sample(range(8 * len(content)), 500):
        flipped = bytearray(content)
        flipped[bit // 8] ^= 1 << bit % 8
        with pytest.raises(ValueError, match="does not fit"):
            Checksums.parse(bytes(flipped))
    for damaged in (b"", b"\n", content[:-1], content[:100], content + b"\n"):
        with pytest.raises(ValueError, match="does not fit"):
            Checksums.parse(damaged)
    nonsense = b"not a checksum\n"
    with pytest.raises(ValueError, match="a line that is no checksum: not"):
        Checksums.parse(nonsense + f"# {sha256(nonsense)}\n".encode())


def test_sha256sum_reads_it(out: Path) -> None:
    folder = RunFolder(out)
    folder.create()
    folder.write_bytes("figures/curves.png", b"picture")
    checked = subprocess.run(["sha256sum", "--strict", "-c", "SHA256SUMS"], cwd=out, capture_output=True, text=True)
    assert checked.returncode == 0
    assert checked.stdout.splitlines() == ["events.jsonl: OK", "figures/curves.png: OK"]
