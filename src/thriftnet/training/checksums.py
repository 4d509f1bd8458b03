"""The SHA-256 of every file of a run folder, in a file that `sha256sum -c SHA256SUMS` reads too.

    <digest>  result.json              what the file holds
    # coming <digest>  result.json     what is being written; the file holds this or the line above
    # <digest>                          of everything above: this file checks itself

Files are replaced one by one, so their digests are announced before the first and settled after the last. Wherever a
process is killed, each file has a line that fits.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

NAME = "SHA256SUMS"
_LINE = re.compile(r"(?P<coming># coming )?(?P<digest>[0-9a-f]{64})  (?P<name>[^\n]+)")


def sha256(content: bytes) -> str:
    """In hexadecimal."""
    return hashlib.sha256(content).hexdigest()


@dataclass(frozen=True)
class Checksums:
    """Digests by file name; `coming` are those of files that may have been replaced, made or removed."""

    settled: Mapping[str, str] = field(default_factory=dict)
    coming: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def of(self, name: str) -> tuple[str, ...]:
        """Every digest that the file may have; empty where it is not listed."""
        return (*((self.settled[name],) if name in self.settled else ()), *self.coming.get(name, ()))

    @property
    def names(self) -> set[str]:
        return {*self.settled, *self.coming}

    def announce(self, new: Mapping[str, str], removed: Collection[str] = ()) -> Checksums:
        """Before files get the digests `new` and others are `removed`."""
        coming = dict(self.coming)
        for name, digest in new.items():
            coming[name] = (*coming.get(name, ()), digest)
        for name in removed:
            coming[name] = self.of(name)
        return Checksums({name: digest for name, digest in self.settled.items() if name not in removed}, coming)

    def settle(self, new: Mapping[str, str], removed: Collection[str] = ()) -> Checksums:
        """After it; what an earlier, killed process announced for other files stays."""
        gone = {*new, *removed}
        return Checksums(
            {name: digest for name, digest in self.settled.items() if name not in removed} | dict(new),
            {name: digests for name, digests in self.coming.items() if name not in gone},
        )

    def render(self) -> str:
        """The text of the file."""
        lines = [f"{digest}  {name}\n" for name, digest in sorted(self.settled.items())]
        lines += [f"# coming {digest}  {name}\n" for name in sorted(self.coming) for digest in self.coming[name]]
        text = "".join(lines)
        return f"{text}# {sha256(text.encode())}\n"

    @classmethod
    def parse(cls, content: bytes) -> Checksums:
        """Raises ValueError for anything that `render` did not write."""
        end = content.rfind(b"\n", 0, len(content) - 1) + 1
        listed, last = content[:end], content[end:]
        if last != f"# {sha256(listed)}\n".encode():
            raise ValueError("its own SHA-256, in its last line, does not fit")
        settled: dict[str, str] = {}
        coming: dict[str, tuple[str, ...]] = {}
        for line in listed.decode().split("\n")[:-1]:
            match = _LINE.fullmatch(line)
            if match is None:
                raise ValueError(f"it has a line that is no checksum: {line[:80]}")
            if match["coming"]:
                coming[match["name"]] = (*coming.get(match["name"], ()), match["digest"])
            else:
                settled[match["name"]] = match["digest"]
        return cls(settled, coming)
