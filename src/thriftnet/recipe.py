"""TOML file -> RecipeConfig: one parent a file, `key=value` overrides, errors that name the nearest right key."""

from __future__ import annotations

import hashlib
import json
import os
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ValidationError

from thriftnet.config import RecipeConfig, Section
from thriftnet.errors import RecipeError, escaped, nearest
from thriftnet.storage import user_path, why_refused

MAX_RECIPE_BYTES = 1_000_000
MAX_FILES = 3
MOST_SHOWN = 200
"""Characters of a wrong value in a message."""
MAX_DEPTH = 20
"""Tables within tables; a recipe has four. What goes through them does so by recursion."""
MOST_OVERRIDE_CHARACTERS = 10_000
"""Of one --set: the longest sensible value is a list of operations."""
ABSENT = "none"  # takes an inherited or packaged value away: TOML has no null


def names() -> list[str]:
    """The packaged recipes, sorted; files that begin with an underscore only serve as parents."""
    return sorted(
        entry.name.removesuffix(".toml")
        for entry in _packaged().iterdir()
        if entry.name.endswith(".toml") and not entry.name.startswith("_")
    )


def load(name_or_path: str, overrides: Sequence[str] = (), *, sealed: bool = False) -> RecipeConfig:
    """The resolved recipe of a packaged name or of a TOML file, with `section.key=value` overrides applied.

    What a source claims of its network (`expect`) does not survive a change of [model], here or in a child's file.
    `sealed`: under the honest protocol. Of what overrides and the user's own files set it replaces only what the
    protocol excludes.

    Raises RecipeError for an unknown name, an unknown key, a wrong type or an impossible combination, and for an
    override that the protocol excludes.
    """
    files = _files(name_or_path)
    name, tables = files[0].name, _merged(files)
    if any(override.startswith("model.") for override in overrides):
        tables.pop("expect", None)
    for override in overrides:
        _apply_override(tables, override)
    if sealed:
        _seal(tables, _merged([file for file in files if not file.packaged]), set_by(overrides))
    tables.setdefault("name", name)
    return validate(tables, name)


def _seal(tables: dict[str, Any], own: Mapping[str, Any], overridden: Mapping[str, Any]) -> None:
    """Put `tables` under the honest protocol, given what the user's files set and the values of overrides by key."""
    for section, field, excluded, honest_value in (
        ("data", "validation_images", 0, None),
        ("training", "selection", "test", "validation"),
    ):
        key, table = f"{section}.{field}", tables.setdefault(section, {})
        if overridden.get(key) == excluded:
            raise RecipeError(f"--set {key}={excluded} and --protocol honest exclude each other; leave one of them out")
        written = own[section].get(field) if isinstance(own.get(section), dict) else None
        if key not in overridden and written in (None, ABSENT, excluded) and isinstance(table, dict):
            table[field] = honest_value


def set_by(overrides: Sequence[str]) -> dict[str, Any]:
    """The values of `overrides` by dotted key: `training={epochs=3}` sets `training.epochs`. Raises RecipeError."""
    tables: dict[str, Any] = {}
    for override in overrides:
        _apply_override(tables, override)
    return _flatten(tables)


def refuse_set_twice(overrides: Sequence[str], option: str, keys: Sequence[str]) -> None:
    """Raise RecipeError where `overrides` set one of `keys`, which `option` would change without a word."""
    twice = next((key for key in set_by(overrides) for each in keys if f"{key}.".startswith(f"{each}.")), None)
    if twice is not None:
        raise RecipeError(f"--set {twice} and {option} would both set {twice}; leave one of them out")


def validate(tables: dict[str, Any], name: str) -> RecipeConfig:
    """The typed recipe of nested `tables`; raises RecipeError with one line for the first thing that is wrong."""
    try:
        return RecipeConfig.model_validate(tables)
    except ValidationError as error:
        raise RecipeError(f"recipe {name}: {explain(error)}") from None


def with_changes(recipe: RecipeConfig, changes: Mapping[str, Any]) -> RecipeConfig:
    """`recipe` with single fields replaced and all checks run again: {"training": {"epochs": 3}}."""
    return validate(_merge(recipe.model_dump(exclude_unset=True), changes), recipe.name)


def with_overrides(recipe: RecipeConfig, overrides: Sequence[str]) -> RecipeConfig:
    """`recipe` with `section.key=value` overrides applied as `load` applies them; raises RecipeError as it does."""
    tables = recipe.model_dump(mode="json", exclude_unset=True)
    if any(override.startswith("model.") for override in overrides):
        tables.pop("expect", None)
    for override in overrides:
        _apply_override(tables, override)
    return validate(tables, recipe.name)


def honest(recipe: RecipeConfig, held_out: int | None = None) -> RecipeConfig:
    """The same recipe under the honest protocol: `held_out` images for validation (None: a tenth), the test sealed."""
    return with_changes(recipe, {"data": {"validation_images": held_out}, "training": {"selection": "validation"}})


def content_hash(recipe: RecipeConfig) -> str:
    """Twelve hexadecimal digits over every value that is not its default, whatever the file's formatting.

    So a field that a later version adds leaves the hash of older runs as it is, where its default does what was done
    before. A default that a version changes alters it: a run's own file states every value.
    """
    text = json.dumps(_beyond_defaults(recipe), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _beyond_defaults(value: Any) -> Any:
    """`value` as JSON has it, without the fields of sections that hold their default.

    What tells kinds of sections apart, as `op` does, has no default and stays.
    """
    if isinstance(value, Section):
        return {
            name: _beyond_defaults(getattr(value, name))
            for name, field in type(value).model_fields.items()
            if getattr(value, name) != field.get_default(call_default_factory=True)
        }
    if isinstance(value, (list, tuple)):
        return [_beyond_defaults(item) for item in value]
    return value


def to_toml(recipe: RecipeConfig) -> str:
    """Every resolved value as TOML that `load` reads back; absent values and those without meaning are left out."""
    values = recipe.model_dump(mode="json", exclude_none=True)
    _drop_inapplicable(recipe, values)
    return tables_to_toml(values)


def tables_to_toml(values: dict[str, Any]) -> str:
    """Plain values as TOML: single ones first, then a section for each table, whose own tables are inline."""
    lines = [f"{key} = {_toml_value(value)}" for key, value in values.items() if not isinstance(value, dict)]
    for section, table in values.items():
        if isinstance(table, dict):
            lines += ["", f"[{section}]"] + [f"{key} = {_toml_value(value)}" for key, value in table.items()]
    return "\n".join(lines) + "\n"


def differences(first: RecipeConfig, second: RecipeConfig) -> list[tuple[str, Any, Any]]:
    """(dotted key, value in first, value in second) for every resolved value that differs."""
    left, right = _flatten(first.model_dump(mode="json")), _flatten(second.model_dump(mode="json"))
    return [
        (key, left.get(key), right.get(key))
        for key in dict.fromkeys([*left, *right])
        if left.get(key) != right.get(key) and key != "name"
    ]


def _drop_inapplicable(section: Section, values: dict[str, Any]) -> None:
    """Remove from the dumped `values` of a section, and of those inside it, what has no meaning there."""
    for field in section.inapplicable():
        values.pop(field, None)
    for field, inner in section:
        if isinstance(inner, Section):
            _drop_inapplicable(inner, values[field])


def _packaged() -> Any:
    return resources.files("thriftnet") / "recipes"


def sources(name_or_path: str) -> list[tuple[str, str]]:
    """(name, text) of a recipe's file and of those it inherits, the child first, with their comments.

    Raises RecipeError as `load` does where a file cannot be read or parsed.
    """
    return [(file.name, file.text) for file in _files(name_or_path)]


@dataclass(frozen=True)
class _File:
    """A recipe's file, or one that it inherits."""

    name: str
    text: str
    tables: dict[str, Any]
    owner: Literal["thriftnet", "a run", "the user"]

    @property
    def packaged(self) -> bool:
        return self.owner == "thriftnet"


_OF_THE_OWNER = ("name", "paper", "summary", "expect")
"""What a file says of itself: of another's recipe that inherits it, it is not true."""


def _merged(files: Sequence[_File]) -> dict[str, Any]:
    """The tables of a recipe, the first of `files`, merged over its parents."""
    merged = dict(files[-1].tables) if files else {}
    for parent, file in zip(reversed(files), reversed(files[:-1]), strict=False):
        dropped = _OF_THE_OWNER if file.owner != parent.owner else ("expect",) if "model" in file.tables else ()
        merged = _merge({key: value for key, value in merged.items() if key not in ("name", *dropped)}, file.tables)
    return merged


def _files(name_or_path: str) -> list[_File]:
    """A recipe's file, then those of its parents; each is sought beside its child, then packaged."""
    found: list[_File] = []
    folder: Path | None = None
    while True:
        if folder is not None and (beside := folder / f"{name_or_path.removesuffix('.toml')}.toml").is_file():
            name_or_path = str(beside)
        name, text, folder = _read(name_or_path)
        tables = _parse(text, name)
        parent = tables.pop("inherits", None)
        found.append(_File(name, text, tables, _owner(name, folder)))
        if parent is None:
            return found
        if not isinstance(parent, str):
            raise RecipeError(f"recipe {name}: inherits = {parent!r} must be the name of one recipe")
        if len(found) == MAX_FILES:
            raise RecipeError(
                f"recipe {name} inherits {parent}: a recipe may span {MAX_FILES} files at most, so that it stays "
                "readable"
            )
        name_or_path = parent


def _read(name_or_path: str) -> tuple[str, str, Path | None]:
    """(name, text, folder of the file or None when packaged)."""
    if name_or_path.endswith(".toml") or os.sep in name_or_path:
        path = user_path(name_or_path)
        try:
            if path.stat().st_size > MAX_RECIPE_BYTES:
                raise RecipeError(
                    f"recipe {path} is larger than {MAX_RECIPE_BYTES:,} bytes; recipes are about 25 lines"
                )
            return escaped(path.stem), path.read_text(encoding="utf-8-sig"), path.parent
        except OSError as error:
            why = why_refused(error) or error.strerror or error
            raise RecipeError(f"recipe {path} cannot be read: {why}") from None
        except UnicodeDecodeError:
            raise RecipeError(f"recipe {path} is not UTF-8 text; save it as UTF-8") from None
    entry = _packaged() / f"{name_or_path}.toml"
    if not entry.is_file():
        hint = nearest(name_or_path, names())
        raise RecipeError(
            f"no recipe named {name_or_path!r}{hint}; `thriftnet recipes` lists them, a file ends in .toml"
        )
    return name_or_path, entry.read_text(encoding="utf-8"), None


def _owner(name: str, folder: Path | None) -> Literal["thriftnet", "a run", "the user"]:
    if folder is None or folder.resolve() == Path(str(_packaged())).resolve():
        return "thriftnet"
    return "a run" if name == "recipe" and (folder / "events.jsonl").is_file() else "the user"


def parse_toml(text: str) -> dict[str, Any]:
    """Raises ValueError for what is not TOML, has a number of too many digits, or is nested deeper than MAX_DEPTH."""
    try:
        tables = tomllib.loads(text)
    except RecursionError:
        raise ValueError(f"it is nested deeper than {MAX_DEPTH} levels") from None
    level: list[Any] = [tables]
    for _ in range(MAX_DEPTH):
        level = [inner for value in level for inner in (value.values() if isinstance(value, dict) else value)]
        level = [value for value in level if isinstance(value, dict | list)]
    if level:
        raise ValueError(f"it is nested deeper than {MAX_DEPTH} levels")
    return tables


def _parse(text: str, name: str) -> dict[str, Any]:
    try:
        return parse_toml(text)
    except ValueError as error:
        raise RecipeError(f"recipe {name} is not valid TOML: {error}") from None


def _merge(parent: dict[str, Any], child: Mapping[str, Any]) -> dict[str, Any]:
    """Tables merge key by key; every other value of the child replaces the parent's, and `none` takes it away."""
    merged = dict(parent)
    for key, value in child.items():
        both_tables = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merge(merged[key], value) if both_tables else value
        if _takes_away(key, value):
            del merged[key]
    return merged


def _takes_away(key: str | int, value: Any) -> bool:
    """Whether `value` stands for none. A section's `name` stays: without it the default kind would come back."""
    return value == ABSENT and key != "name"


def _apply_override(tables: dict[str, Any], override: str) -> None:
    """`optimizer.lr=0.05`, `augment.ops.0.degrees=10` or `model.widths=[16, 32]`, written into `tables`.

    `none` takes a value away, so that the default holds again.
    """
    if len(override) > MOST_OVERRIDE_CHARACTERS:
        raise RecipeError(
            f"--set {override[:40]}... has {len(override):,} characters; {MOST_OVERRIDE_CHARACTERS:,} are the most"
        )
    key, equals, raw = override.partition("=")
    steps = key.strip().split(".")
    if not equals or not all(steps) or len(steps) > MAX_DEPTH:
        raise RecipeError(f"--set {override!r} is not of the form section.key=value, for example optimizer.lr=0.05")
    try:
        value = parse_toml(f"value = {raw.strip()}")["value"]
    except tomllib.TOMLDecodeError:
        value = raw.strip()  # a bare word is a string: optimizer.name=adam
    except ValueError as error:
        raise RecipeError(f"--set {key} is not valid TOML: {error}") from None
    place: Any = tables
    for depth, step in enumerate(steps):
        last = depth == len(steps) - 1
        if isinstance(place, list):
            if not step.isdigit() or int(step) >= len(place):
                raise RecipeError(f"--set {key}: {step!r} is not an index of a list of {len(place)}")
            step_key: Any = int(step)
        elif isinstance(place, dict):
            step_key = step
            if not last:
                place.setdefault(step, {})
        else:
            raise RecipeError(f"--set {key}: {'.'.join(steps[:depth])} is a value, not a table")
        if last and _takes_away(step_key, value) and isinstance(place, dict):
            place.pop(step_key, None)
        elif last:
            place[step_key] = value
        else:
            place = place[step_key]


def explain(error: ValidationError, root: type[BaseModel] = RecipeConfig) -> str:
    """One complaint about a file of the form `root` as `field = value: what is wrong`, with the nearest right key.

    Unknown keys first: a misspelt key is often also a missing one.
    """
    complaint = min(error.errors(), key=lambda each: each["type"] != "extra_forbidden")
    place = list(complaint["loc"])
    # pydantic names the variant of an operation too (augment.ops.0.rotation.degrees); the file has no such level.
    shown = [
        step
        for at, step in enumerate(place)
        if step not in (*(_tag(each) for each in _sections_at(place[:at], root)), "constrained-int")
    ]
    field = ".".join(map(str, shown)) or "recipe"
    if complaint["type"] == "extra_forbidden":
        known = _fields_at(place[:-1], root)
        hint = nearest(str(place[-1]), known) or f"; known here: {', '.join(known)}"
        return f"unknown key {field} = {complaint['input']!r:.{MOST_SHOWN}}{hint}"
    if complaint["type"] == "missing":
        return f"{field} is missing"
    message = complaint["msg"].removeprefix("Value error, ")
    if complaint["type"] == "value_error":
        if (
            message.endswith("; remove it") and root is RecipeConfig
        ):  # from a file of one's own, or a value of a packaged one
            message += f" (--set {field}.{message.split()[0]}={ABSENT})"
        return f"[{field}] {message}" if place else message
    message = message[0].lower() + message[1:]
    word = complaint["input"]
    expected = str(complaint.get("ctx", {}).get("expected", complaint.get("ctx", {}).get("expected_tags", "")))
    hint = ""
    if word == ABSENT and place[-1] == "name" and _is_optional(place[:-1], root):
        section = ".".join(map(str, shown[:-1]))
        hint = f"; to do without: --set {section}={ABSENT}, or {section} = '{ABSENT}' above the sections of a file"
    elif isinstance(word, str):
        hint = nearest(word, [name.strip("' ") for name in expected.replace(" or ", ",").split(",")])
    return f"{field} = {word!r:.{MOST_SHOWN}}: {message}{hint}"


def _fields_at(place: Sequence[int | str], root: type[BaseModel]) -> list[str]:
    """Field names of the section at `place`."""
    return sorted({name for section in _sections_at(place, root) for name in section.model_fields})


def _is_optional(place: Sequence[int | str], root: type[BaseModel]) -> bool:
    """Whether a recipe may have no section at `place`."""
    fields = [section.model_fields.get(str(place[-1])) for section in _sections_at(place[:-1], root)] if place else []
    return any(field is not None and field.default is None for field in fields)


def _sections_at(place: Sequence[int | str], root: type[BaseModel]) -> list[type[BaseModel]]:
    """The section classes that `place` may hold, walking the types of `root`."""
    candidates: list[Any] = [root]
    for step in place:
        if isinstance(step, int):
            continue
        following: list[Any] = []
        for section in candidates:
            if step in section.model_fields:
                following += _sections(section.model_fields[step].annotation)
        tagged = [section for section in candidates if _tag(section) == step]
        candidates = tagged or following or candidates
    return candidates


def _sections(annotation: Any) -> list[type[BaseModel]]:
    """Every section class that appears inside an annotation such as `tuple[A | B, ...] | None`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [section for inner in getattr(annotation, "__args__", ()) for section in _sections(inner)]


def _tag(section: type[BaseModel]) -> str | None:
    """The `op` word of an augmentation's section."""
    field = section.model_fields.get("op")
    return field.annotation.__args__[0] if field is not None and field.annotation is not None else None


def _flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, list) and any(isinstance(entry, dict) for entry in value):
        items = {str(index): entry for index, entry in enumerate(value)}.items()
    else:
        return {prefix: value}
    flat: dict[str, Any] = {}
    for key, inner in items:
        flat |= _flatten(inner, f"{prefix}.{key}" if prefix else str(key))
    return flat


def _toml_value(value: Any) -> str:
    """JSON's form of strings, numbers, booleans and lists is also TOML's; tables become inline tables."""
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {_toml_value(inner)}" for key, inner in value.items()) + " }"
    if isinstance(value, list):
        return "[" + ", ".join(_toml_value(inner) for inner in value) + "]"
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")  # TOML alone refuses a raw DEL
