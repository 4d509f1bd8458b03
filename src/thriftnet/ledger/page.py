"""The ledger as a page, and any page as Markdown."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from thriftnet.ledger.audit import corrections
from thriftnet.ledger.claims import AccuracyClaim, AnyClaim, AuditClaim, CurveClaim
from thriftnet.ledger.directions import DirectionFinding
from thriftnet.ledger.findings import Findings
from thriftnet.ledger.measured import Measured
from thriftnet.ledger.plan import duration
from thriftnet.ledger.rows import REPRODUCED_FROM, RowFinding, difference_unit
from thriftnet.reporting.ledger_figures import ClaimDot, ForestRow, draw_claims, draw_forest, forest_data
from thriftnet.reporting.page import Block, Cell, Code, Drawing, Facts, Link, Page, Section, Table, Text

HOW_TO_READ = (
    "Claimed is what a paper prints, with how it chose the number; measured is what runs here showed. They are never "
    "mixed: a measured number carries its data, split, selection, seeds, epochs, time and device, and in square "
    "brackets what was changed. 'scaled 7/70 epochs' means fewer epochs (or images) than the paper's, 'twin 0.25' "
    "a network with that share of every width, 'test-selected' that the test set chose the epoch, as in some of the "
    "papers. An interval is the 95 % interval of the mean over seeds; one seed has none."
)
NOT_REPRODUCED = (
    f"A row below {REPRODUCED_FROM:.0%} of the paper's training (epochs times images), or of a twin, reproduces "
    "nothing and says so. Its number shows only that the recipe runs."
)
DIRECTIONS = (
    "A claim of the form 'A is better than B' can be tested on small networks and short trainings, if both sides are "
    "shortened alike. Each pair shares its seeds and the validation images; the test split stays sealed. A direction "
    "holds where the 95 % interval of the paired difference lies on the claimed side of zero, fails where it lies on "
    "the other, and is not decided otherwise. What a verdict says about the paper's full network is an extrapolation."
)
COST = (
    "A run that selects on the test set reports its best test epoch. What that adds over the last epoch, in the same "
    "run, is a part of the number that a fresh test set would not give."
)


def ledger_page(findings: Findings, commands: Sequence[str]) -> Page:
    """The whole ledger. `commands`, one a request, repeat it."""
    claims = findings.claims
    measured = sum(row.measured is not None for row in findings.rows.values())
    verdicts = Counter[str](found.verdict for found in findings.directions.values())
    words = {"holds": "hold", "fails": "fail", "not decided": "not decided", "missing": "missing"}
    tested = ", ".join(f"{verdicts[name]} {word}" for name, word in words.items() if verdicts[name]) or "none asked for"
    papers, missing = len(claims.paper), len(findings.missing)
    rows = f"{measured} of {len(findings.rows)} measured" if findings.rows else "none asked for"
    of_runs = {0: "No run is missing", 1: "1 run is missing"}.get(missing, f"{missing} runs are missing")
    lead = (
        f"{len(claims.claim)} claims of {papers} paper{'' if papers == 1 else 's'}. Accuracies and curves: {rows}. "
        f"Directions: {tested}. {of_runs}."
    )
    return Page(
        kind="reproduction",
        title="What the papers claim, and what is measured here",
        lead=lead,
        sections=[
            Section("How to read it", [Text(HOW_TO_READ), Text(NOT_REPRODUCED, note=True)]),
            *_claimed_and_measured(findings),
            *(Section(f"{paper.authors}", list(_paper(findings, paper.id))) for paper in claims.paper),
            *([Section("Directions", list(_directions(findings)))] if findings.directions else []),
            Section("What selecting on the test set costs", list(_cost(findings))),
            *([Section("The printed tables", list(_audit(findings)))] if findings.audits else []),
            Section("What is missing", list(_missing(findings))),
            Section("Runs", list(_runs(findings))),
            Section(
                "Again",
                [
                    Text(
                        "What was asked for, from the folder that holds this one and the data. Each command goes on "
                        "with what it lacks, and writes this page again."
                    ),
                    Code("\n".join(commands)),
                ],
            ),
        ],
    )


def to_markdown(page: Page) -> str:
    """A page as Markdown; of a figure the caption stays."""
    lines = [f"# {page.title}", "", page.lead, ""]
    for section in page.sections:
        lines += [f"## {section.title}", ""]
        for block in section.blocks:
            lines += [*_markdown(block), ""]
    return "\n".join(lines)


def _claimed_and_measured(findings: Findings) -> Iterator[Section]:
    dots = []
    for row in findings.rows.values():
        if isinstance(row.claim, AccuracyClaim) and row.measured is not None:
            shortened = any(label.startswith(("scaled", "twin")) for label in row.measured.labels)
            name = f"{row.claim.recipe}, {row.claim.split}"
            dots.append(ClaimDot(name, row.claim.claimed, row.measured.value, row.measured.interval, not shortened))
    if dots:
        caption = (
            "Claimed and measured accuracies; hollow circles are scaled trainings or twins, which reproduce less than "
            "their place on the axis suggests. Without a diamond no number is claimed. The papers measured on the "
            "original pixels."
        )
        yield Section("Claimed and measured", [Drawing(draw_claims(dots), caption, wide=True)])


def _paper(findings: Findings, paper: str) -> Iterator[Block]:
    title = next(each.title for each in findings.claims.paper if each.id == paper)
    yield Text(title)
    own = [claim for claim in findings.claims.claim if claim.paper == paper]
    numbers = [claim for claim in own if isinstance(claim, (AccuracyClaim, CurveClaim))]
    if numbers:
        yield Table(
            ["claim", "claimed", "measured", "difference", "outcome", "place", "explained by", "conditions"],
            [_number_row(findings, claim) for claim in numbers],
            "Numbers that a training gives.",
        )
    others = [claim for claim in own if claim not in numbers]
    if others:
        yield Table(
            ["claim", "claimed", "outcome", "kind", "place"],
            [[claim.statement, _claimed(claim), findings.outcome(claim), claim.kind, claim.place] for claim in others],
            "Directions, studies, tables and sentences.",
        )


def _number_row(findings: Findings, claim: AccuracyClaim | CurveClaim) -> list[Cell]:
    row = findings.rows.get(claim.id)
    left: list[Cell] = [f"{claim.statement} ({claim.recipe})", _claimed(claim)]
    if row is None:
        return [*left, None, None, "not asked for", claim.place, None, None]
    measured = row.measured
    return [
        *left,
        None if measured is None else measured.text,
        _difference(row),
        row.status,
        claim.place,
        "; ".join(row.explanations) or None,
        _conditions(measured, row.joined),
    ]


def _conditions(measured: Measured | None, joined: str) -> str | None:
    if measured is None:
        return None
    return f"{measured.conditions}; joined from {joined}" if joined else measured.conditions


def _difference(row: RowFinding) -> str | None:
    if row.difference is None or row.measured is None:
        return None
    unit = difference_unit(row.measured.unit)
    return f"{row.difference:+.2f} {unit} [{'; '.join(row.measured.labels)}]"


def _claimed(claim: AnyClaim) -> str | None:
    if not claim.claimed:
        return None
    text = claim.claimed_text if claim.unit != "parameters" else f"{claim.claimed[0]:,.0f} parameters"
    return text if claim.selection == "none" else f"{text} ({claim.selection})"


def _directions(findings: Findings) -> Iterator[Block]:
    yield Text(DIRECTIONS)
    found = list(findings.directions.values())
    drawn = [(each.direction.unit, _forest_row(each)) for each in found if each.difference is not None]
    if drawn:
        caption = (
            "Differences in the claimed sense, 95 % paired intervals over seeds: right of zero the paper is right. "
            "Open diamonds: the paper's own difference."
        )
        yield Drawing(draw_forest(forest_data(drawn)), caption, wide=True)
    columns = ["question", "verdict", "A", "B", "A's values", "B's values", "A - B", "claimed", "conditions", "note"]
    yield Table(columns, [_direction_row(each) for each in found], "Each direction with its seeds.")


def _forest_row(found: DirectionFinding) -> ForestRow:
    assert found.difference is not None  # the caller leaves the others out
    direction, sign = found.direction, found.direction.sign
    interval = found.difference.interval
    turned = None if interval is None else tuple(sorted(sign * bound for bound in interval))
    claimed = None if direction.claimed_difference is None else sign * direction.claimed_difference
    return ForestRow(
        direction.question,
        sign * found.difference.value,
        None if turned is None else (turned[0], turned[1]),
        claimed,
        found.verdict,
    )


def _direction_row(found: DirectionFinding) -> list[Cell]:
    direction = found.direction
    printed = direction.claimed_difference
    notes = [*([direction.note] if direction.note else []), *found.hardly_learned]
    notes += [f"diverged: {', '.join(found.diverged)}"] if found.diverged else []
    notes += [f"missing: seeds {', '.join(map(str, found.missing_seeds))}"] if found.missing_seeds else []
    return [
        direction.question,
        found.verdict,
        f"{direction.a.label} ({direction.a.recipe})",
        f"{direction.b.label} ({direction.b.recipe})",
        _side_values([value.a for value in found.values], found.a_labels),
        _side_values([value.b for value in found.values], found.b_labels),
        None if found.difference is None else found.difference.text,
        direction.claimed_sign + ("" if printed is None else f", {printed:+g} {direction.unit}"),
        _conditions(found.difference, found.joined),
        "; ".join(notes) or None,
    ]


def _side_values(values: Sequence[float], labels: Sequence[str]) -> str | None:
    if not values:
        return None
    return ", ".join(f"{value:.2f}" for value in values) + (f" [{'; '.join(labels)}]" if labels else "")


def _cost(findings: Findings) -> Iterator[Block]:
    yield Text(COST)
    if findings.all_selection_costs is None:
        yield Text("Missing: no run that selects on the test set is finished.", note=True)
        return
    rows: list[list[Cell]] = [[each.recipe, each.cost.text, each.cost.conditions] for each in findings.selection_costs]
    rows.append(["all of them", findings.all_selection_costs.text, findings.all_selection_costs.data])
    yield Table(["recipe", "best test epoch minus last epoch", "conditions"], rows)


def _audit(findings: Findings) -> Iterator[Block]:
    yield Text("The papers' layer tables, cell by cell against arithmetic; no training is needed.")
    yield Table(
        [
            "table",
            "place",
            "rows",
            "misprinted cells",
            "printed total",
            "sum of the rows",
            "corrected",
            "built",
            "finding",
        ],
        [
            [
                audit.table,
                audit.place,
                audit.rows,
                audit.misprinted_rows,
                audit.printed_total,
                audit.sum_of_rows,
                audit.corrected_sum,
                audit.built,
                audit.finding,
            ]
            for audit in findings.audits
        ],
        "Printed layer tables.",
    )
    named = {audit.table for audit in findings.audits}
    misprints = [each for each in corrections().misprint if each.table in named]
    if misprints:
        yield Table(
            ["table", "rows", "column", "printed", "correct", "why"],
            [
                [each.table, ", ".join(each.rows), each.column, each.printed, each.correct, each.why]
                for each in misprints
            ],
            "Misprints.",
        )
    settled = {claim.contradiction for claim in findings.claims.claim if isinstance(claim, AuditClaim)}
    contradictions = [each for each in corrections().contradiction if each.id in settled]
    if contradictions:
        yield Table(
            ["paper", "place", "sentence", "against it"],
            [[each.paper, each.place, each.sentence, each.against] for each in contradictions],
            "Sentences that the paper itself contradicts.",
        )


def _missing(findings: Findings) -> Iterator[Block]:
    missing = findings.missing
    if not missing:
        yield Text("Nothing: every run that was asked for is there.")
        return
    estimates = [job.estimate_s for job in missing if job.estimate_s is not None]
    if len(estimates) == len(missing):
        yield Text(f"About {duration(sum(estimates))} of training, at the speed of the runs that are there.")
    yield Table(
        ["run", "recipe", "seed", "epochs", "time left", "needed for"],
        [
            [
                job.folder,
                job.recipe,
                job.seed,
                f"{job.epochs_done} of {job.epochs}",
                None if job.estimate_s is None else duration(job.estimate_s),
                ", ".join(job.uses),
            ]
            for job in missing
        ],
        "Missing, in the order in which they would be trained.",
    )


def _runs(findings: Findings) -> Iterator[Block]:
    if findings.left_out:
        left_out = (
            f"Left out of joined ledgers, since no training planned today is theirs: {', '.join(findings.left_out)}."
        )
        yield Text(left_out, note=True)
    there = [job for job in findings.jobs if job.state != "missing"]
    joined = any(job.joined for job in there)
    if not there:
        yield Text("Missing: no run has begun.", note=True)
        return
    yield Table(
        ["run", "recipe", "seed", "state", "epochs", "accuracy", "training time", "used for"],
        [
            [
                job.folder,
                job.recipe,
                job.seed,
                ("finished" if job.state == "measured" else job.state) + (f", {job.joined}" if job.joined else ""),
                f"{job.epochs_done} of {job.epochs}",
                job.accuracy,
                None if job.elapsed_s is None else duration(job.elapsed_s),
                ", ".join(job.uses),
            ]
            for job in there
        ],
        "Every run that has begun." + (" Behind a comma the joined ledger that has it." if joined else ""),
    )


def _markdown(block: Block) -> list[str]:
    match block:
        case Text(text=text, note=note):
            return [f"> {text}" if note else text]
        case Facts(pairs=pairs):
            return [f"- {name}: {value}" for name, value in pairs]
        case Code(text=text):
            return ["```", text, "```"]
        case Drawing(caption=caption):
            return [f"*Figure (in the HTML page): {caption}*"]
        case Table():
            rows = [[_cell(value) for value in row] for row in block.rows]
            heads = ["| " + " | ".join(block.columns) + " |", "|" + "---|" * len(block.columns)]
            return [
                *([block.caption, ""] if block.caption else []),
                *heads,
                *("| " + " | ".join(row) + " |" for row in rows),
            ]
        case _:
            raise TypeError(f"no Markdown for {type(block).__name__}")


def _cell(value: Cell) -> str:
    if value is None:
        return "–"
    if isinstance(value, Link):
        value = value.value
    if isinstance(value, int):
        return f"{value:,}"
    return (f"{value:.4g}" if isinstance(value, float) else value).replace("|", "\\|").replace("\n", " ")
