# The schema says what the readers of the manifest say.

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import tomli
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from wasm_gateway.cli import cli
from wasm_gateway.component_options import OPTION_READERS, OPTIONS, ComponentOptions
from wasm_gateway.errors import ManifestError
from wasm_gateway.policy import READERS
from wasm_gateway.schema import DESCRIPTIONS, SHAPES, SPIN_SCHEMA, schema

ROOT = Path(__file__).parent.parent
SCHEMA = schema()
VALIDATOR = jsonschema.Draft7Validator(SCHEMA)


def accepts(table: dict[str, Any]) -> bool:
    document = {"component": {"a": {"tool": {"wasm-gateway": table}}}}
    return VALIDATOR.is_valid(document) and VALIDATOR.is_valid({"application": document["component"]["a"]})


def reads(table: dict[str, Any]) -> bool:
    try:
        ComponentOptions().updated(table)
    except ManifestError:
        return False
    return True


def test_it_is_a_schema() -> None:
    jsonschema.Draft7Validator.check_schema(SCHEMA)


def test_every_option_is_in_it_and_nothing_else() -> None:
    options = SCHEMA["definitions"]["options"]["properties"]
    assert set(options) == set(OPTIONS)
    assert set(SCHEMA["definitions"]["rule"]["properties"]) == set(READERS)
    assert set(DESCRIPTIONS) == set(OPTIONS)
    assert set(SHAPES) == {*OPTION_READERS.values(), *READERS.values()}


def test_defaults_are_values() -> None:
    for name, shape in SCHEMA["definitions"]["options"]["properties"].items():
        if name != "csrf":  # which is the site's setting
            assert accepts({name: shape["default"]}), name
            assert ComponentOptions().updated({name: shape["default"]}) == ComponentOptions(), name


VALUES = [
    *(True, False, 0, 1, 5, -1, 2**31, 100, 101, 1.5, 86_400, 86_401, "", "5", "cookie", "user", "none"),
    *("250ms", "1.5 s", "2h", "1 day", "64MiB", "10kb", "7 PB", " 5 m ", "1..3", "3..1", "x..y"),
    *(
        "wasm",
        "native",
        "canary",
        "shadow",
        "Wasm",
        "trap",
        ["trap", "limit"],
        ["no"],
        [],
        [""],
        ["staff"],
        [1],
    ),
    *(
        "header:x-a",
        "header:x a",
        "query:wasm=1",
        ["query:w", "header:h=a b"],
        ["other:x"],
        "header:",
        "query:a=é",
    ),
    *({}, {"/x": {}}, {"/x": {"mode": "native"}}, {"/x": {"mode": 1}}, {"/x": {"timeout": 1}}, {"/x": 1}),
    *("auto", "json", ["user", "csrf"], ["/a", "/b/*"], ["/a", "b"]),
    *("x", ["a:b/c"], "2024-01-01", "0", "0s", "1e5", 1e-9, 2**63),
]


# What a schema cannot say, or not in every validator: nothing of something, a range that is none.
BEYOND = {repr(value) for value in ("0", "0s", "3..1", 2**63)}


@pytest.mark.parametrize("name", OPTIONS)
def test_it_agrees_with_the_reader(name: str) -> None:
    for value in VALUES:
        table = {name: value}
        assert accepts(table) == reads(table) or (accepts(table) and repr(value) in BEYOND), value


def test_unknown_keys_are_refused() -> None:
    assert not accepts({"time_out": 1})


@given(st.sampled_from(OPTIONS), st.text() | st.integers() | st.floats(allow_nan=False) | st.lists(st.text()))
def test_it_refuses_nothing_that_is_read(name: str, value: object) -> None:
    if reads({name: value}):
        assert accepts({name: value})


@pytest.mark.parametrize(
    "path", sorted((ROOT / "example_projects").glob("*/spin.toml")), ids=lambda p: p.parent.name
)
def test_real_manifests(path: Path) -> None:
    VALIDATOR.validate(tomli.loads(path.read_text()))


@pytest.mark.parametrize(
    "block", re.findall(r"```toml\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
)
def test_manifests_of_the_readme(block: str) -> None:
    VALIDATOR.validate(tomli.loads(block))


def test_where_tables_may_stand() -> None:
    wrong = {"tool": {"wasm-gateway": {"timeout": "long"}, "other": {"timeout": "long"}}}
    assert not VALIDATOR.is_valid({"application": wrong})
    assert not VALIDATOR.is_valid({"component": {"a": wrong}})
    assert not VALIDATOR.is_valid({"trigger": {"http": [{"component": wrong}]}})
    assert VALIDATOR.is_valid({"trigger": {"http": [{"component": "a"}]}, "component": [{"id": "a"}]})
    assert VALIDATOR.is_valid({"application": {"tool": {"other": 1}}})


def test_the_command() -> None:
    assert json.loads(CliRunner().invoke(cli, ["schema"]).stdout) == SCHEMA
    with_spin = json.loads(CliRunner().invoke(cli, ["schema", "--with-spin"]).stdout)
    assert with_spin.pop("allOf") == [{"$ref": SPIN_SCHEMA}]
    assert with_spin == SCHEMA
