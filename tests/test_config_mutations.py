# A mistake in every key: whatever stands in the place of a value, at any depth, the answer is
# either a configuration or a ManifestError that names the key. Never another exception.

from __future__ import annotations

import copy
import datetime
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import tomli

from wasm_gateway.errors import ManifestError
from wasm_gateway.manifest import parse_manifest
from wasm_gateway.runtime_config import parse_runtime_config

FILE = Path("/app/config.toml")
DIGEST = "sha256:" + "0" * 64

V2 = f"""
spin_manifest_version = 2
[application]
name = "a"
version = "1"
description = ""
authors = ["a"]
targets = ["t", {{ url = "u" }}]
trigger.redis.address = "redis://a"
trigger.http.base = "/"
tool.wasm-gateway = {{ timeout = 1, stream = true }}
[variables]
one = {{ default = "", description = "", secret = true, required = false }}
[[trigger.http]]
id = "t"
route = "/"
component = "one"
executor = {{ type = "wagi", argv = "", entrypoint = "_start" }}
dependencies.middleware = [{{ component = "two" }}, {{ path = "p", inherit_configuration = ["files"] }}]
[[trigger.http]]
route = {{ private = true }}
component = {{ source = "x" }}
[[trigger.http]]
route = "/s"
static_response = {{ status_code = 200, headers = {{ a = "b" }}, body = "" }}
[[trigger.redis]]
component = "one"
channel = "c"
address = "redis://a"
[[trigger.other]]
component = "one"
components = {{ a = "one", b = [{{ source = "x" }}] }}
[component.one]
source = {{ url = "http://u", digest = "{DIGEST}" }}
description = ""
variables = {{ v = "" }}
environment = {{ E = "" }}
files = ["f", {{ source = "s", destination = "/" }}]
exclude_files = ["e"]
allowed_outbound_hosts = ["h"]
allowed_http_hosts = ["h"]
key_value_stores = ["default"]
sqlite_databases = ["default"]
ai_models = ["m"]
targets = ["t"]
build = {{ command = ["c"], workdir = "w", watch = ["w"] }}
dependencies_inherit_configuration = true
tool = {{ x = {{ y = 1 }}, wasm-gateway = {{ max_memory = "1MiB" }} }}
[component.one.dependencies]
"a:b/c@1.0.0" = "1"
"d:e/f" = {{ version = "1", registry = "r", package = "g:h", export = "x" }}
plain = {{ component = "two", export = "x" }}
[component.one.profile.p]
source = "s"
environment = {{ E = "" }}
build.command = "c"
dependencies = {{ local = {{ path = "p" }} }}
[component.two]
source = {{ package = "a:b", version = "1.0.0", registry = "r" }}
"""

V1 = f"""
spin_manifest_version = "1"
name = "a"
version = "1"
description = ""
authors = ["a"]
trigger = {{ type = "http", base = "/" }}
[variables]
one = {{ default = "" }}
[[component]]
id = "one"
source = {{ url = "http://u", digest = "{DIGEST}" }}
description = ""
config = {{ v = "" }}
environment = {{ E = "" }}
files = ["f", {{ source = "s", destination = "/" }}]
exclude_files = ["e"]
allowed_outbound_hosts = ["h"]
allowed_http_hosts = ["h"]
key_value_stores = ["default"]
sqlite_databases = ["default"]
ai_models = ["m"]
build = {{ command = "c", workdir = "w", watch = ["w"] }}
trigger = {{ route = "/", executor = {{ type = "spin" }} }}
"""

RUNTIME = """
state_dir = "s"
log_dir = "l"
max_instance_memory = 1
key_value_store.a = { type = "spin", path = "p", max_size = 1 }
key_value_store.b = { type = "redis", url = "u" }
key_value_store.c = { type = "django_cache", alias = "a" }
key_value_store.d = { type = "azure_cosmos", account = "a", database = "d", container = "c", key = "k" }
key_value_store.e = { type = "aws_dynamo", region = "r", table = "t", consistent_read = true, token = "t" }
sqlite_database.a = { type = "spin", path = "p", allow_attach_file = true, max_size = "1GiB" }
sqlite_database.b = { type = "libsql", url = "http://u", token = "t" }
llm_compute = { type = "remote_http", url = "u", auth_token = "t", api_type = "default" }
variables_provider = [
    { type = "static", values = { a = "b" } }, { type = "env", prefix = "p", dotenv_path = "d" },
    { type = "vault", url = "u", token = "t", mount = "m" }, { type = "azure_key_vault", vault_url = "u" },
]
outbound_http = { connection_pooling = true, max_connections = 1 }
outbound_pg.max_connections = 1
outbound_mqtt = { max_connections = 1, max_payload_size_bytes = 1 }
outbound_networking = { block_networks = ["private", "10.0.0.0/8"], max_total_connections = 1 }
client_tls = [{ component_ids = ["c"], hosts = ["h"], ca_use_webpki_roots = true, ca_roots_file = "r" }]
"""

WRONG: list[Any] = [-5, 2**70, True, "", "\0{{", datetime.date(2020, 1, 1), [], {}, [1], {"": ""}]


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of every value in a document."""
    if path:
        yield path
    for name, child in (
        value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    ):
        yield from places(child, (*path, name))


def mutated(text: str) -> Iterator[tuple[tuple[Any, ...], dict[str, Any]]]:
    """The document with one value replaced or left out."""
    original = tomli.loads(text)
    for path in list(places(original)):
        for value in [*WRONG, None]:
            document = copy.deepcopy(original)
            table = document
            for name in path[:-1]:
                table = table[name]
            if value is None:
                del table[path[-1]]
            else:
                table[path[-1]] = value
            yield path, document


def dump(value: Any) -> str:
    """The TOML text of a value, in one line."""
    match value:
        case dict():
            return (
                "{ "
                + ", ".join(f"{json.dumps(name)} = {dump(child)}" for name, child in value.items())
                + " }"
            )
        case list():
            return "[" + ", ".join(map(dump, value)) + "]"
        case str() | bool():
            return json.dumps(value)
        case _:
            return str(value)


@pytest.mark.parametrize(
    ("text", "parse"),
    [(V2, parse_manifest), (V1, parse_manifest), (RUNTIME, parse_runtime_config)],
    ids=["version 2", "version 1", "runtime config"],
)
def test_any_mistake(text: str, parse: Callable[[str, Path], object]) -> None:
    assert parse(text, FILE)
    accepted = []
    errors = []
    for path, document in mutated(text):
        lines = {name: dump(value) for name, value in document.items()}
        try:
            parse("\n".join(f"{name} = {line}" for name, line in lines.items()), FILE)
            accepted.append(path)
        except ManifestError as error:
            errors.append((error, list(lines).index(path[0]) + 1 if path[0] in lines else None))
    assert len(errors) > 300
    assert len(accepted) > 10
    for error, _ in errors:
        assert error.path == FILE
        assert error.message
        assert error.line is not None or "missing field" in error.message
    # nearly always it is the line that was changed; some mistakes show in another key
    right = sum(error.line == line for error, line in errors)
    assert right / len(errors) > 0.7
