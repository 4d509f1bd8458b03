"""The quick form of the fuzzing: the same inputs in each run, mutated from good ones without looking at coverage."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz import targets
from tests.fuzz.targets import RUN_FILES, TARGETS, check
from thriftnet.config import RecipeConfig
from thriftnet.errors import RecipeError

FINDINGS = Path(__file__).parent / "findings"
"""Inputs that once led to another exception than ours, one folder a target."""
EXAMPLES = 50
SLOW_EXAMPLES = 2
INTERESTING = (
    b"",
    b"\0",
    b"\xff" * 8,
    b"\xff\xff\xff\x7f",
    b"1e999",
    b"-1",
    b"nan",
    b"[" * 40,
    b"{}",
    b"\n",
    b'"',
    b"\x1b[2J",
)
QUICK = settings(
    deadline=None,  # a hang is stopped by the target itself; a busy machine is no failure
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)


def mutated(draw: st.DrawFn, content: bytes) -> bytes:
    """A few bytes replaced, taken out, put in or repeated."""
    changed = bytearray(content)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(changed)))
        length = draw(st.sampled_from([0, 1, 2, 4, 8, 100]))
        new = draw(st.binary(max_size=4) | st.sampled_from(INTERESTING) | st.just(bytes(changed[at : at + length]) * 2))
        changed[at : at + length] = new
    return bytes(changed)


def tried(name: str, content: bytes, folder: Path) -> bool:
    place = folder / "input"
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    return check(TARGETS[name], content, place)


@pytest.mark.parametrize("name", TARGETS)
def test_good_examples_are_accepted(name: str, tmp_path: Path) -> None:
    examples = TARGETS[name].examples()
    some = examples[:1] if TARGETS[name].slow else examples
    assert any([tried(name, content, tmp_path) for content in some])  # noqa: C419 - each is to be tried


@pytest.mark.parametrize("name", TARGETS)
def test_a_mutated_input_is_right_or_refused_in_one_line(name: str, tmp_path: Path) -> None:
    examples = TARGETS[name].examples()

    @settings(QUICK, max_examples=SLOW_EXAMPLES if TARGETS[name].slow else EXAMPLES)
    @given(st.data())
    def run(data: st.DataObject) -> None:
        content = data.draw(st.sampled_from(examples))
        tried(name, data.draw(st.composite(mutated)(content)), tmp_path)

    run()


@pytest.mark.parametrize("name", [name for name, target in TARGETS.items() if not target.slow])
def test_any_bytes_are_right_or_refused_in_one_line(name: str, tmp_path: Path) -> None:
    @settings(QUICK, max_examples=20)
    @given(st.binary(max_size=200))
    def run(content: bytes) -> None:
        tried(name, content, tmp_path)

    run()


@pytest.mark.parametrize(
    ("name", "file"),
    [(folder.name, file) for folder in sorted(FINDINGS.iterdir()) for file in sorted(folder.iterdir())],
)
def test_what_was_found_once(name: str, file: Path, tmp_path: Path) -> None:
    tried(name, file.read_bytes(), tmp_path)


# Structure: what mutated bytes seldom reach

VALUES = st.sampled_from(
    [
        None,
        True,
        -1,
        0,
        1,
        3,
        10**9,
        2**63,
        10**400,
        -0.5,
        0.5,
        1e308,
        "",
        "none",
        "x\n\x1b[0m",
        [],
        [0],
        [[]],
        {},
        {"a": 1},
    ]
) | st.sampled_from([float("nan"), float("inf")])


def changed_somewhere(draw: st.DrawFn, value: Any) -> Any:
    """Nested JSON with one value replaced, removed, repeated or renamed."""
    if isinstance(value, dict) and value and draw(st.integers(0, 9)):
        key = draw(st.sampled_from(sorted(value)))
        how = draw(st.sampled_from(["inside", "inside", "without", "renamed", "replaced"]))
        others = {each: inner for each, inner in value.items() if each != key}
        if how == "inside":
            return value | {key: changed_somewhere(draw, value[key])}
        return others | {"without": {}, "renamed": {f"{key}x": value[key]}, "replaced": {key: draw(VALUES)}}[how]
    if isinstance(value, list) and value and draw(st.integers(0, 4)):
        at = draw(st.integers(0, len(value) - 1))
        new = draw(st.sampled_from(["inside", "twice", "without"]))
        middle = {"inside": [changed_somewhere(draw, value[at])], "twice": [value[at]] * 2, "without": []}[new]
        return [*value[:at], *middle, *value[at + 1 :]]
    return draw(VALUES)


JSON_FILES = [name for name in RUN_FILES if name.endswith(".json")]


def run_file(name: str, value: Any) -> bytes:
    return bytes([RUN_FILES.index(name)]) + json.dumps(value).encode()


@pytest.mark.parametrize(("target", "examples"), [("run", 80), ("run-report", 6), ("run-used", 3)])
def test_a_run_folder_with_another_value_somewhere(target: str, examples: int, tmp_path: Path) -> None:
    stored = {name: json.loads((targets.trained() / name).read_bytes()) for name in JSON_FILES}

    @settings(QUICK, max_examples=examples)
    @given(st.data())
    def run(data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(JSON_FILES))
        tried(target, run_file(name, data.draw(st.composite(changed_somewhere)(stored[name]))), tmp_path)

    run()


def test_a_joined_ledger_with_another_value_somewhere(tmp_path: Path) -> None:
    [example] = TARGETS["ledger"].examples()
    stored = json.loads(example)

    @settings(QUICK, max_examples=40)
    @given(st.data())
    def run(data: st.DataObject) -> None:
        tried("ledger", json.dumps(data.draw(st.composite(changed_somewhere)(stored))).encode(), tmp_path)

    run()


def plain(section: Any) -> Any:
    return json.loads(section.model_dump_json())


def test_a_recipe_with_another_value_somewhere(tmp_path: Path) -> None:
    from thriftnet import recipe as recipes

    bases = [plain(recipes.load(name)) for name in recipes.names()]

    @settings(QUICK, max_examples=150)
    @given(st.data())
    def run(data: st.DataObject) -> None:
        tables = data.draw(st.composite(changed_somewhere)(data.draw(st.sampled_from(bases))))
        if not isinstance(tables, dict):
            return
        try:
            recipe = recipes.validate(tables, "fuzzed")
        except RecipeError:
            return
        assert recipes.validate(plain(recipe), "again") == recipe

    run()


def test_every_field_of_a_recipe_has_an_upper_bound() -> None:
    """Of whole numbers and of lists: a field added later must not bring the gigabytes back."""

    def unbounded(schema: Any, place: str) -> list[str]:
        if isinstance(schema, list):
            return [found for each in schema for found in unbounded(each, place)]
        if not isinstance(schema, dict):
            return []
        here = []
        if schema.get("type") == "integer" and not {"maximum", "exclusiveMaximum"} & schema.keys():
            here.append(place)
        return here + [
            found
            for key, each in schema.items()
            for found in unbounded(each, f"{place}.{key}" if key not in ("properties", "$defs") else place)
        ]

    assert unbounded(RecipeConfig.model_json_schema(), "") == []
