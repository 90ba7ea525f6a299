# The keys of spin.toml and runtime-config.toml, from the readers: every key that one of them
# asks for while it reads the examples beside this file is in a table, with its words.

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Any, NamedTuple

import tomli

from wasm_gateway import schema
from wasm_gateway.component_options import (
    BODY_RULES,
    LENDABLE,
    OPTION_READERS,
    parse_count_range,
    parse_duration,
    parse_one,
    parse_size,
)
from wasm_gateway.manifest import parse_manifest
from wasm_gateway.policy import READERS, Failure, Mode
from wasm_gateway.runtime_config import parse_runtime_config
from wasm_gateway.toml import Table

from .text import code, size, table, words

HERE = Path(__file__).parent
WORDS = tomli.loads((HERE / "words.toml").read_text(encoding="utf-8"))

# How the reader asks -> what stands there.
ASKED = {
    "text": "string",
    "text_or": "string",
    "boolean": "boolean",
    "integer": "integer",
    "texts": "array of strings",
    "text_map": "table of strings",
    "array": "array",
    "table": "table",
    "tables": "array of tables",
    "take": "",
    "required": "",
    "__contains__": "",
}
# Names that are the operator's own, by the table that they are in.
NAMED = {
    "component": "ID",
    "variables": "NAME",
    "profile": "NAME",
    "tool": "TOOL",
    "key_value_store": "LABEL",
    "sqlite_database": "LABEL",
}


class Key(NamedTuple):
    """What stands at a key, and what stands for it where it is absent."""

    type: str
    default: str


@contextmanager
def recorded() -> Iterator[dict[str, Key]]:
    """The keys that are asked for meanwhile."""
    found: dict[str, Key] = {}
    originals = {name: getattr(Table, name) for name in ASKED}

    def recording(name: str, original: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(original)
        def ask(self: Table, key: str, *rest: Any) -> Any:
            value = original(self, key, *rest)
            place = dotted((*self.key, key))
            before = found.get(place, Key("", ""))
            default = code(json.dumps(rest[0])) if rest and rest[0] not in (None, "") else before.default
            found[place] = Key(ASKED[name] or before.type, default)
            return value

        return ask

    for name, original in originals.items():
        setattr(Table, name, recording(name, original))
    try:
        yield found
    finally:
        for name, original in originals.items():
            setattr(Table, name, original)


def dotted(key: tuple[str | int, ...]) -> str:
    parts: list[str] = []
    for index, part in enumerate(key):
        before = key[index - 1] if index else None
        if isinstance(part, int):
            parts[-1] += "[]"
        elif before == "dependencies" and "component" in key[:1]:
            parts.append("IMPORT")
        else:
            parts.append(NAMED.get(str(before), part))
    return ".".join(parts)


# Keys that have no words: they hold others, or are another form of what has words.
def _plain(found: Mapping[str, Key], known: Mapping[str, str]) -> dict[str, Key]:
    holders = {
        place for place in found if any(other.startswith((f"{place}.", f"{place}[].")) for other in found)
    }
    return {
        place: key
        for place, key in found.items()
        if place in known or not (place in holders or place.startswith(SAME) or place in UNNAMED)
    }


SAME = "trigger.http[].dependencies.middleware[]."  # as component.ID.dependencies.IMPORT
UNNAMED = ("spin_version", "trigger.http[].components")


def spin_toml(prefix: str) -> str:
    path = HERE / "spin.toml"
    with recorded() as found:
        parse_manifest(path.read_text(encoding="utf-8"), path)
    return _table(prefix, found, WORDS["spin"])


def runtime_config(prefix: str = "") -> str:
    path = HERE / "runtime-config.toml"
    with recorded() as found:
        parse_runtime_config(path.read_text(encoding="utf-8"), path)
    return _table(prefix, found, WORDS["runtime"])


def _table(prefix: str, found: Mapping[str, Key], texts: Mapping[str, Mapping[str, str]]) -> str:
    """The keys below `prefix`, in the order of their words."""
    known, types = texts["words"], texts["types"]
    keys = _plain(found, known)
    words(keys, known)
    rows = []
    for place, text in known.items():
        kind = types.get(place) or keys[place].type
        if not kind:
            raise ValueError(f"no type of {place}")
        if place.startswith(prefix):
            rows.append((code(place.removeprefix(prefix) or place), kind, keys[place].default, text))
    if not rows:
        raise ValueError(f"no key begins with {prefix}")
    return table(("key", "type", "default", "meaning"), rows)


def _one_of(values: Iterable[object]) -> str:
    return ", ".join(code(value) for value in values)


# What values a reader takes, as schema.SHAPES has them for programs.
VALUES: Mapping[Callable[..., Any], str] = {
    parse_duration: 'seconds, or a text such as `"250ms"`',
    parse_size: 'bytes, or a text such as `"64MiB"`',
    parse_count_range: 'number, or `"LOW..HIGH"`',
    parse_one: "`1`",
    OPTION_READERS["max_concurrency"]: "number",
    OPTION_READERS["stream"]: "boolean",
    OPTION_READERS["host_interfaces"]: "list of interfaces",
    OPTION_READERS["lend"]: f"list of {_one_of(LENDABLE)}",
    OPTION_READERS["shadow_allowed_hosts"]: "list of hosts",
    OPTION_READERS["compare_body"]: _one_of(BODY_RULES),
    OPTION_READERS["compare_headers"]: "list of names",
    OPTION_READERS["compare_ignore"]: "list of paths",
    OPTION_READERS["routes"]: "tables of the rules below, by pattern",
    READERS["mode"]: _one_of(Mode),
    READERS["percent"]: "0 to 100",
    READERS["sticky"]: "`cookie`, `user`, `header:NAME`, `none`",
    READERS["opt_in"]: "list of `header:NAME`, `query:NAME`, either with `=VALUE`",
    READERS["staff"]: "boolean",
    READERS["methods"]: "list of methods",
    READERS["groups"]: "list of names",
    READERS["fallback"]: f"list of {_one_of(Failure)}; or boolean",
}


def options() -> str:
    return _options(OPTION_READERS)


def rules() -> str:
    return _options(READERS)


def _options(readers: Mapping[str, Callable[..., Any]]) -> str:
    """Options of the tool.wasm-gateway tables, as their JSON schema has them."""
    properties = schema.schema()["definitions"]["options"]["properties"]
    rows = []
    for name in readers:
        option = properties[name]
        rows.append(
            (code(name), _shown(name, option.get("default")), VALUES[readers[name]], option["description"])
        )
    return table(("key", "default", "values", "meaning"), rows)


def _shown(name: str, default: object) -> str:
    if default in (None, [], {}):
        return "none"
    if OPTION_READERS.get(name) is parse_size:
        return code(json.dumps(size(default).replace(" ", "")))
    if OPTION_READERS.get(name) is parse_duration:
        return f'`"{default:g}s"`'
    return code(json.dumps(default))
