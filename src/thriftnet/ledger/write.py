"""`thriftnet reproduce`: plan, train what is missing, write the ledger."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from thriftnet.data.dataset import Source
from thriftnet.data.kept import KeptSource
from thriftnet.errors import UserError
from thriftnet.ledger.claims import Claims
from thriftnet.ledger.findings import Findings, find
from thriftnet.ledger.joined import JoinedLedgers, read_joined
from thriftnet.ledger.page import ledger_page, to_markdown
from thriftnet.ledger.plan import DataShape, Plan, Request, plan, read_requests
from thriftnet.ledger.train import train_plan
from thriftnet.reporting.page import write_page
from thriftnet.storage import storage_error, write_atomic
from thriftnet.training.progress import Display


@dataclass(frozen=True)
class Ledger:
    """What `reproduce` leaves behind."""

    path: Path
    """The HTML page; ledger.md and ledger.json lie beside it."""
    plan: Plan
    findings: Findings
    complete: bool
    """Whether every run that was asked for is there, or has diverged."""


def reproduce(
    request: Request,
    claims: Claims,
    source: Source,
    out: Path,
    *,
    hours: float | None = None,
    write_only: bool = False,
    display: Display | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> Ledger:
    """Train what `request` lacks, and write the ledger of it and of the folder's earlier requests into `out`.

    What the ledgers in `out/joined` have measured stands in it too, and is not trained.

    With `write_only` nothing is trained or evaluated. Raises Interrupted after a signal (the same call goes on),
    RunFolderError for a damaged folder, StorageError where it cannot be written, UserError for an unknown paper or
    recipe, and where only directions are asked of what has none.
    """
    # Before the data is read, which may take long.
    if not claims.of(request.paper).direction and not request.rows:
        raise UserError(f"no direction is claimed of {request.paper}; leave out --no-rows, or name its paper")
    kept = KeptSource(source)
    shape = DataShape.of(kept)
    joined = read_joined(out, shape, claims)
    for line in joined.summary():
        say(line)
    requests, planned = _planned(request, claims, shape, out, joined)
    _remember(requests, out)
    if not write_only:
        train_plan(planned, kept, hours=hours, display=display, say=say)
        requests, planned = _planned(request, claims, shape, out, joined)  # others may have worked here meanwhile
    everything = list(dict.fromkeys([*joined.requests, *requests]))
    papers = {paper.id for each in everything for paper in claims.of(each.paper).paper}
    findings = find(planned, claims.of_papers(papers), out, joined)
    page = ledger_page(findings, [command_of(each, source, out) for each in everything])
    write_page(page, out / "ledger.html")
    write_atomic(out / "ledger.md", to_markdown(page))
    stored = {"data": asdict(shape), "requests": _stored(everything), **findings.as_dict()}
    write_atomic(out / "ledger.json", json.dumps(stored, indent=2, allow_nan=False) + "\n")
    return Ledger(out / "ledger.html", planned, findings, complete=not planned.missing)


def _planned(
    request: Request, claims: Claims, shape: DataShape, out: Path, joined: JoinedLedgers
) -> tuple[list[Request], Plan]:
    """(all requests of the folder, `request` last; what they and those of joined ledgers need)."""
    earlier = [each for each in read_requests(out) if each != request]
    others = [each for each in dict.fromkeys([*earlier, *joined.requests]) if each != request]
    return [*earlier, request], plan(request, claims, shape, out, others, joined.has)


def command_of(request: Request, source: Source, out: Path) -> str:
    """The command that gives `request` again."""
    words = ["thriftnet", "reproduce", request.paper, "--data", Path(source.location).name, "--out", out.name]
    words += ["--scale", str(request.scale)] if request.scale < 1 else []
    words += ["--width", str(request.width)] if request.width is not None else []
    words += ["--train-images", str(request.train_images)] if request.train_images is not None else []
    words += ["--seeds", str(request.seeds)]
    words += [] if request.directions else ["--no-directions"]
    words += [] if request.rows else ["--no-rows"]
    return shlex.join(words)


def _remember(requests: list[Request], out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise storage_error(out, error, "nothing was trained") from None
    write_atomic(out / "requests.json", json.dumps(_stored(requests), indent=2) + "\n")


def _stored(requests: list[Request]) -> list[dict[str, Any]]:
    return [each.model_dump(mode="json") for each in requests]
