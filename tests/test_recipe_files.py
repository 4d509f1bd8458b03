"""The form of the packaged recipe files: tagged values, one order of keys, a header, an honest protocol.

A paper's recipe tags every value with where it comes from: `# paper`, `# code` (the authors' public code) or
`# chosen`, with a reason after a colon where one helps. Exempt are the lines above the first table (inherits, paper,
summary) and [expect], which holds nothing but what the paper printed. Recipes of our own choose everything.
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from types import NoneType
from typing import Any, get_args

import pytest
from pydantic import BaseModel

from thriftnet import config, recipe

FOLDER = Path(recipe.__file__).parent / "recipes"
FILES = sorted(path.stem for path in FOLDER.glob("*.toml"))
BASES = [name for name in FILES if name.startswith("_")]
LISTED = [name for name in FILES if not name.startswith("_")]
PAPERS = [name for name in FILES if name in BASES or recipe.load(name).paper]
OURS = [name for name in FILES if name not in PAPERS]

TAG = re.compile(r"  ?# (paper|code|chosen)(: \S.*)?$")
VALUE_LINE = re.compile(r"\s*(\w+ = |\{ )")
NOT_A_VALUE = re.compile(r"\w+ = \[$")  # opens a list whose lines are tagged one by one

# (validation_images, selection), as each paper trained and chose its network.
PROTOCOLS = {
    "Xu, Tariq, Ahmed": (0, "last"),
    "Li": (0, "test"),
    "Liu, Douglas, Ji": (0, "test"),
    "Ramavath, Dantuluri, Mandya Shashidhara": (5_000, "validation"),
    "Tirumalasetty, Doma, Kadali": (0, "test"),
}
# What a paper's recipe states, itself or through its parent, so that a changed default changes no paper's recipe.
DECISIVE = {
    "model": ["stem", "blocks", "strides", "init"],
    "data": ["validation_images"],
    "augment": ["ops"],
    "optimizer": ["name", "lr", "weight_decay"],
    "schedule": ["name"],
    "training": ["epochs", "batch_size", "selection"],
}


def text(name: str) -> str:
    return (FOLDER / f"{name}.toml").read_text(encoding="utf-8")


def untagged_lines(recipe_text: str) -> list[str]:
    """Value lines of the tagged tables that lack a tag."""
    section, untagged = "", []
    for line in recipe_text.splitlines():
        if line.startswith("["):
            section = line.strip("[]")
        is_value = VALUE_LINE.match(line) and not NOT_A_VALUE.match(line)
        if section not in ("", "expect") and is_value and not TAG.search(line):
            untagged.append(line)
    return untagged


def test_the_folder_is_what_is_listed() -> None:
    assert recipe.names() == LISTED
    assert len(LISTED) >= 10
    assert OURS


@pytest.mark.parametrize("name", LISTED)
def test_resolves(name: str) -> None:
    config = recipe.load(name)
    assert config.name == name
    assert config.summary


@pytest.mark.parametrize("name", BASES)
def test_base_is_inherited_by_several(name: str) -> None:
    heirs = [heir for heir in LISTED if tomllib.loads(text(heir)).get("inherits") == name]
    assert len(heirs) >= 2


@pytest.mark.parametrize("name", PAPERS)
def test_every_value_of_a_paper_is_tagged(name: str) -> None:
    assert untagged_lines(text(name)) == []


def test_a_missing_tag_is_found() -> None:
    tagged = text("tirumalasetty-resnext29")
    values = [line for line in tagged.splitlines() if TAG.search(line)]
    assert len(values) > 20
    for line in values:
        bare = TAG.sub("", line)
        assert untagged_lines(tagged.replace(line, bare)) == [bare]


@pytest.mark.parametrize("name", FILES)
def test_header_says_source_and_command(name: str) -> None:
    header = text(name).split("\n" + next(line for line in text(name).splitlines() if not line.startswith("#")))[0]
    lines = header.splitlines()
    assert 1 <= len(lines) <= 3
    if name in BASES:
        assert lines[-1] == '# Only inherited (the name begins with "_"): not listed and not trainable by itself.'
    else:
        data = "digits" if name == "digits-demo" else "PATH"
        assert lines[-1] == f"# thriftnet train {name} --data {data}"


def assert_ordered(table: dict[str, Any], section: type[BaseModel], where: str) -> None:
    """Keys of `table` come in the order of the fields of `section`, in nested tables too."""
    fields = list(section.model_fields)
    keys = [key for key in table if key != "inherits"]
    assert keys == sorted(keys, key=fields.index), f"{where}: {keys}"
    for key in keys:
        if isinstance(table[key], dict):
            annotation = section.model_fields[key].annotation
            [nested] = [kind for kind in get_args(annotation) or (annotation,) if kind is not NoneType]
            assert isinstance(nested, type)
            assert_ordered(table[key], nested, f"{where}.{key}")


@pytest.mark.parametrize("name", FILES)
def test_keys_come_in_the_order_of_the_config(name: str) -> None:
    tables = tomllib.loads(text(name))
    if "inherits" in tables:
        assert next(iter(tables)) == "inherits"
    assert_ordered(tables, config.RecipeConfig, name)
    operations = {
        op.model_fields["op"].annotation.__args__[0]: op
        for op in vars(config).values()
        if isinstance(op, type) and issubclass(op, config.Section) and "op" in op.model_fields
    }
    for table in tables.get("augment", {}).get("ops", []):
        assert_ordered(table, operations[table["op"]], f"{name}.{table['op']}")


@pytest.mark.parametrize("name", [name for name in PAPERS if name in LISTED])
def test_paper_protocol_is_stated(name: str) -> None:
    config = recipe.load(name)
    assert (config.data.validation_images, config.training.selection) == PROTOCOLS[config.paper]
    for section, fields in DECISIVE.items():
        part = getattr(config, section)
        needless = {"blocks", "strides"} if config.model.family == "resnet9" else set()
        assert set(fields) - needless <= part.model_fields_set, f"[{section}] leaves a decisive field to a default"
    if config.optimizer.name == "sgd":
        assert "momentum" in config.optimizer.model_fields_set


@pytest.mark.parametrize("name", OURS)
def test_our_recipes_keep_the_test_set_sealed(name: str) -> None:
    config = recipe.load(name)
    assert config.training.selection != "test"
    assert config.expect.claimed_test_accuracy is None


def test_lines_are_short() -> None:
    assert [line for name in FILES for line in text(name).splitlines() if len(line) > 120] == []
