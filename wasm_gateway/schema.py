# A JSON schema (draft 7) of the [tool.wasm-gateway] tables, for editors and validators.
#
# Rule 1: it is made of the readers that the manifest itself uses: an option is here because
# it has a reader there, and what values it may have is said once for each reader.
# Rule 2: it refuses nothing that a reader takes. A few values that it takes are refused
# later (a size of 0, a range that ends before it begins).
# Rule 3: the rest of a spin.toml is Spin's, and has its schema; ours lets it be.

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Callable, Mapping
from typing import Any, Final

from . import policy
from .component_options import (
    BODY_RULES,
    DEFAULT_OPTIONS,
    LENDABLE,
    OPTION_READERS,
    SIZE_UNITS,
    TIME_UNITS,
    ComponentOptions,
    parse_count_range,
    parse_duration,
    parse_one,
    parse_size,
)
from .manifest import TOOL
from .policy import PLAIN, Failure, Mode

Schema = dict[str, Any]

# What Spin's own manifests name in their first line.
SPIN_SCHEMA: Final = "https://schemas.spinframework.dev/spin/manifest-v2/latest.json"


def _any_case(text: str) -> str:
    return "".join(f"[{letter}{letter.upper()}]" for letter in text)


def _quantity(units: list[str]) -> Schema:
    """A text of a number and one of `units` (patterns)."""
    return {"type": "string", "pattern": rf"^\s*[0-9]+(\.[0-9]+)?\s*({'|'.join(units)})\s*$"}


_TOKEN: Final = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_SWITCH: Final = {"type": "string", "pattern": rf"^(header|query):{_TOKEN}(=.*)?$"}
_FAILURE: Final = {"enum": [str(failure) for failure in Failure]}
_TEXTS: Final = {"type": "array", "items": {"type": "string"}}
_COUNT: Final = {"type": "integer", "minimum": 1, "maximum": 2**31 - 1}


def _one_or_list(item: Schema) -> list[Schema]:
    return [item, {"type": "array", "items": item}]


# What values a reader takes.
SHAPES: Final[Mapping[Callable[..., Any], Schema]] = {
    parse_duration: {
        "anyOf": [
            {"type": "number", "exclusiveMinimum": 0, "maximum": 86_400},
            _quantity(list(TIME_UNITS)),
        ]
    },
    parse_size: {
        "anyOf": [
            {"type": "integer", "minimum": 1},
            _quantity([_any_case(u) for u in SIZE_UNITS]),
        ]
    },
    parse_count_range: {
        "anyOf": [_COUNT, {"type": "string", "pattern": r"^[0-9]+(\.\.[0-9]+)?$"}],
    },
    parse_one: {"const": 1},
    OPTION_READERS["max_concurrency"]: _COUNT,
    OPTION_READERS["stream"]: {"type": "boolean"},
    OPTION_READERS["host_interfaces"]: _TEXTS,
    OPTION_READERS["lend"]: {"anyOf": _one_or_list({"enum": list(LENDABLE)})},
    OPTION_READERS["shadow_allowed_hosts"]: _TEXTS,
    OPTION_READERS["compare_body"]: {"enum": list(BODY_RULES)},
    OPTION_READERS["compare_headers"]: _TEXTS,
    OPTION_READERS["compare_ignore"]: {"type": "array", "items": {"type": "string", "pattern": "^/"}},
    OPTION_READERS["routes"]: {"type": "object", "additionalProperties": {"$ref": "#/definitions/rule"}},
    policy.READERS["mode"]: {"enum": [str(mode) for mode in Mode]},
    policy.READERS["methods"]: {"anyOf": _one_or_list({"type": "string", "pattern": rf"^{_TOKEN}$"})},
    policy.READERS["percent"]: {"type": "number", "minimum": 0, "maximum": 100},
    policy.READERS["sticky"]: {
        "anyOf": [
            {"enum": ["cookie", "user", "none"]},
            {"type": "string", "pattern": rf"^header:{_TOKEN}$"},
        ]
    },
    policy.READERS["opt_in"]: {"anyOf": _one_or_list(_SWITCH)},
    policy.READERS["staff"]: {"type": "boolean"},
    policy.READERS["groups"]: {"anyOf": _one_or_list({"type": "string", "minLength": 1})},
    policy.READERS["fallback"]: {"anyOf": [{"type": "boolean"}, *_one_or_list(_FAILURE)]},
}

# What an editor shows beside a key.
DESCRIPTIONS: Final[Mapping[str, str]] = {
    "timeout": "Wall clock of a request, first to last instruction: seconds, or a text like 250ms.",
    "max_memory": "Size of each linear memory: bytes, or a text like 64MiB.",
    "max_table_elements": "Elements of each table.",
    "max_request_body": "Longest request body; past it a client gets 413.",
    "max_response_body": "Longest response body; past it a client gets 500.",
    "max_concurrency": "Instances of the component at once, in each process; past it a client gets 503.",
    "max_disk": "What guests add to folders that they may write to, in each process; past it a disk is full.",
    "stream": "Whether a response may begin before the guest has finished.",
    "inline": "Whether the guest runs on the event loop: for one that answers at once and waits for nobody.",
    "routes": "Who answers, by the pattern of a route.",
    "max_kept_body": "The longest request body that is kept for the site to answer instead.",
    "breaker_failures": "So many failures in a row, and the site answers for a while.",
    "breaker_pause": "How long the site answers then, before one request tries the guest again.",
    "host_interfaces": "Interfaces of the site that the component may import.",
    "lend": "What of who asks the component may know.",
    "identity_headers": "Whether the same is in a signed header of each request.",
    "cookies": "Whether the component sees the client's cookies.",
    "shadow_allowed_hosts": "Of allowed_outbound_hosts, those that it reaches beside the site.",
    "compare_body": "How the bodies of guest and site are compared; auto goes by the content type.",
    "compare_headers": "Headers that count when guest and site are compared.",
    "compare_ignore": "Paths in JSON that do not count, as /updated or /items/*/id.",
    "max_instance_reuse_count": "Requests that an instance of wasi:http 0.3 answers, or LOW..HIGH.",
    "max_instance_concurrent_reuse_count": "Spin's name for how many of them at once: here always one.",
    "idle_instance_timeout": "How long such an instance is kept without work.",
    "mode": "The guest answers (wasm), the site does (native), both by share (canary), or the site, with the "
    "guest beside it (shadow).",
    "methods": "Methods of the requests that the guest answers, the site the others; none for all.",
    "percent": "The share of visitors the guest answers (canary), or of requests it answers too (shadow).",
    "sticky": "What keeps a visitor on one side: cookie, user, header:NAME or none.",
    "opt_in": "For testers, who get the guest: header:NAME or query:NAME, with or without =VALUE.",
    "opt_out": "For testers, who get the site: header:NAME or query:NAME, with or without =VALUE.",
    "staff": "Whether the guest answers for the site's staff in any case.",
    "groups": "Groups of the site for whose members the guest answers in any case.",
    "csrf": "Django: whether CSRF is checked before the guest is asked; else as the site says.",
    "fallback": "Failures of the guest after which the site answers instead; true for all of them.",
}


def schema(*, with_spin: bool = False) -> Schema:
    """The schema of a spin.toml, as far as it is ours; `with_spin` refers to Spin's own for the rest."""
    tools = {"tool": {"type": "object", "properties": {TOOL: {"$ref": "#/definitions/options"}}}}
    tables: Schema = {
        "application": {"type": "object", "properties": tools},
        "component": {
            # an array in version 1, which has no tool tables
            "if": {"type": "object"},
            "then": {"additionalProperties": {"$ref": "#/definitions/component"}},
        },
        "trigger": {
            "type": "object",
            "additionalProperties": {
                "if": {"type": "array"},
                "then": {"items": {"properties": {"component": {"$ref": "#/definitions/component"}}}},
            },
        },
    }
    rules = {name: _property(name, reader) for name, reader in policy.READERS.items()}
    options = {name: _property(name, reader) for name, reader in OPTION_READERS.items()}
    found: Schema = {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": f"The [tool.{TOOL}] tables of a spin.toml",
        "type": "object",
        "properties": tables,
        "definitions": {
            "component": {"if": {"type": "object"}, "then": {"properties": tools}},
            "options": {"type": "object", "properties": options | rules, "additionalProperties": False},
            "rule": {"type": "object", "properties": rules, "additionalProperties": False},
        },
    }
    if with_spin:
        found["allOf"] = [{"$ref": SPIN_SCHEMA}]
    return found


def _property(name: str, reader: Callable[..., Any]) -> Schema:
    found: Schema = {"description": DESCRIPTIONS[name], **SHAPES[reader]}
    default = getattr(PLAIN, name) if name in policy.READERS else DEFAULTS[name]
    if default is not None:
        found["default"] = _plain(default)
    if reader is parse_count_range:
        found["default"] = default[0]  # kept as a range
    return found


DEFAULTS: Final = {
    each.name: getattr(DEFAULT_OPTIONS, each.name) for each in dataclasses.fields(ComponentOptions)
}


def _plain(value: object) -> object:
    """A default as a manifest would have it."""
    match value:
        case enum.Enum():
            return str(value)
        case frozenset():
            return sorted(map(str, value))
        case tuple():
            return list(map(str, value))
        case Mapping():
            return dict(value)
        case _:
            return value
