"""What the README says is so: its table of recipes, its commands, its links."""

import re
from pathlib import Path

import typer.main

from thriftnet import api, cli

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
DOCUMENTS = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "benchmarks" / "README.md",
    *(ROOT / "docs").glob("*.md"),
    ROOT / "results" / "README.md",
]


def test_the_table_of_networks_is_what_the_recipes_say() -> None:
    printed = {}
    for line in README.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("| `") and len(cells) == 5:
            printed[cells[0].strip("`")] = (cells[2], cells[3].split()[0])
    expected = {
        row["name"]: (f"{row['parameters']:,}", str(row["epochs"])) for row in api.recipe_table() if row["paper"]
    }
    assert printed.items() <= expected.items()
    assert set(printed.values()) == set(expected.values())  # every network is in it
    assert [name for name in expected if f"`{name}`" not in README] == []


def test_every_command_that_is_named_exists() -> None:
    group = typer.main.get_command(cli.app)
    commands = set(group.commands)  # type: ignore[attr-defined]
    for document in DOCUMENTS:
        named = set(re.findall(r"(?:^|[`$ ])thriftnet ([a-z]+)\b", _code(document.read_text(encoding="utf-8")), re.M))
        assert named <= commands, document.name


def test_every_option_of_the_table_exists() -> None:
    options: set[str] = set()
    pending = [typer.main.get_command(cli.app)]
    while pending:
        command = pending.pop()
        pending += list(getattr(command, "commands", {}).values())
        options |= {name for parameter in command.params for name in parameter.opts}
    named = {name for code in re.findall(r"`([^`\n]+)`", README) for name in re.findall(r"--[a-z][a-z-]*", code)}
    assert {"--tta", "--resume"} <= named <= options


def test_every_link_leads_somewhere() -> None:
    for document in DOCUMENTS:
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", document.read_text(encoding="utf-8")):
            assert (document.parent / target).exists(), f"{document.name}: {target}"


def test_the_make_targets_exist() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M))
    code = "\n".join(_code(path.read_text(encoding="utf-8")) for path in DOCUMENTS)
    named = set(re.findall(r"^make ([a-z]+)\b", code, re.M))
    assert {"demo", "test"} <= named
    assert named <= targets


def _code(text: str) -> str:
    """Only what stands as code: fenced, indented or between backticks."""
    fenced = re.findall(r"```.*?\n(.*?)```", text, re.S)
    indented = re.findall(r"^    (.*)$", text, re.M)
    return "\n".join(fenced + indented + re.findall(r"`([^`\n]+)`", text))
