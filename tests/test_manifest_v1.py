# Version 1 manifests become version 2 applications (Spin: manifest, section 6).

from __future__ import annotations

from pathlib import Path

import pytest

from wasm_gateway.errors import ManifestError
from wasm_gateway.manifest import (
    Build,
    Component,
    Executor,
    FileMapping,
    HttpTrigger,
    Manifest,
    OtherTrigger,
    PathSource,
    RedisTrigger,
    UrlSource,
    Variable,
    parse_manifest,
)
from wasm_gateway.manifest_v1 import DATABASE_HOSTS

FILE = Path("/app/spin.toml")
DIGEST = "sha256:" + "0123456789abcdef" * 4

HEAD = """spin_manifest_version = "1"
name = "app"
trigger = { type = "http" }
"""


def parse(text: str) -> Manifest:
    return parse_manifest(text, FILE)


def component(body: str) -> Component:
    """The only component of a manifest, whose table has `body`."""
    manifest = parse(
        f'{HEAD}[[component]]\nid = "one"\nsource = "one.wasm"\ntrigger = {{ route = "/" }}\n{body}\n'
    )
    return manifest.components["one"]


def test_the_smallest_manifest() -> None:
    assert parse(HEAD) == Manifest(path=FILE, name="app", application_triggers={"http": {}})


def test_the_old_name_of_the_version() -> None:
    assert parse(HEAD.replace("spin_manifest_version", "spin_version")) == parse(HEAD)
    with pytest.raises(ManifestError, match="duplicate field `spin_manifest_version`"):
        parse(HEAD + 'spin_version = "1"')


def test_every_key() -> None:
    manifest = parse(
        f"""
spin_manifest_version = "1"
name = "every"
version = "1.2.3"
description = "All of it"
authors = ["A", "B"]
trigger = {{ type = "http", base = "/" }}

[variables]
host = {{ default = "localhost" }}
token = {{ required = true, secret = true }}

[[component]]
id = "one"
source = "one.wasm"
description = "The first"
config = {{ where = "http://{{{{ host }}}}/" }}
environment = {{ LOUD = "1" }}
files = ["static/**/*", {{ source = "dist", destination = "/" }}]
exclude_files = ["**/*.bak"]
allowed_outbound_hosts = ["https://example.com:443"]
allowed_http_hosts = ["example.org"]
key_value_stores = ["default", "Not A Label"]
sqlite_databases = ["Nor This"]
ai_models = ["llama"]
[component.trigger]
route = "/one/..."
executor = {{ type = "wagi" }}
[component.build]
command = "make"
workdir = "src"
watch = ["src/**/*.c"]

[[component]]
id = "two"
source = {{ url = "https://example.com/two.wasm", digest = "{DIGEST}" }}
[component.trigger]
route = "/two"
"""
    )
    assert manifest == Manifest(
        path=FILE,
        name="every",
        version="1.2.3",
        description="All of it",
        authors=("A", "B"),
        variables={
            "host": Variable("host", default="localhost"),
            "token": Variable("token", required=True, secret=True),
        },
        triggers=(
            HttpTrigger("trigger-one", "/one/...", "one", executor=Executor("wagi")),
            HttpTrigger("trigger-two", "/two", "two"),
        ),
        components={
            "one": Component(
                "one",
                PathSource(Path("/app/one.wasm")),
                description="The first",
                variables={"where": "http://{{ host }}/"},
                environment={"LOUD": "1"},
                files=("static/**/*", FileMapping("dist", "/")),
                exclude_files=("**/*.bak",),
                allowed_outbound_hosts=(
                    "https://example.com:443",
                    "http://example.org",
                    "https://example.org",
                ),
                # labels of version 1 may have any form
                key_value_stores=("default", "Not A Label"),
                sqlite_databases=("Nor This",),
                ai_models=("llama",),
                build=Build(("make",), "src", ("src/**/*.c",)),
            ),
            "two": Component(
                "two",
                UrlSource("https://example.com/two.wasm", DIGEST),
                allowed_outbound_hosts=DATABASE_HOSTS,
            ),
        },
        application_triggers={"http": {"base": "/"}},
    )
    assert "`base` is deprecated" in manifest.warnings[0]


def test_redis() -> None:
    manifest = parse(
        """
spin_manifest_version = "1"
name = "app"
trigger = { type = "redis", address = "redis://r" }
[[component]]
id = "one"
source = "one.wasm"
trigger = { channel = "news" }
"""
    )
    assert manifest.triggers == (RedisTrigger("trigger-one", "one", "news", "redis://r"),)


def test_other_triggers_keep_their_tables() -> None:
    manifest = parse(
        'spin_manifest_version = "1"\nname = "app"\ntrigger = { type = "timer", speed = 2 }\n'
        '[[component]]\nid = "one"\nsource = "1"\ntrigger = {}'
    )
    assert manifest.triggers == (OtherTrigger("trigger-one", "timer", {"component": "one"}),)
    assert manifest.application_triggers == {"timer": {"speed": 2}}


@pytest.mark.parametrize(
    ("id", "expected"),
    [
        ("plain", "plain"),
        ("snake_case", "snake-case"),
        ("mixedCase", "mixedcase"),
        ("A_b", "a-b"),
        ("UP-low", "UP-low"),
    ],
)
def test_ids_are_mended(id: str, expected: str) -> None:
    manifest = parse(f'{HEAD}[[component]]\nid = "{id}"\nsource = "1"\ntrigger = {{ route = "/" }}')
    assert list(manifest.components) == [expected]
    assert manifest.triggers == (HttpTrigger(f"trigger-{expected}", "/", expected),)


def test_of_two_components_with_one_id_the_last_wins() -> None:
    manifest = parse(
        f"""{HEAD}
[[component]]
id = "hello"
source = "first.wasm"
trigger = {{ route = "/first" }}
[[component]]
id = "hello"
source = "last.wasm"
trigger = {{ route = "/last" }}
"""
    )
    assert manifest.triggers == (
        HttpTrigger("trigger-hello", "/first", "hello"),
        HttpTrigger("trigger-hello", "/last", "hello"),
    )
    assert [c.source for c in manifest.components.values()] == [PathSource(Path("/app/last.wasm"))]


# -- hosts -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "hosts"),
    [
        ("", DATABASE_HOSTS),
        ("allowed_outbound_hosts = []", ()),
        ("allowed_outbound_hosts = ['redis://r']", ("redis://r",)),
        ("allowed_http_hosts = ['h']", (*DATABASE_HOSTS, "http://h", "https://h")),
        ("allowed_outbound_hosts = []\nallowed_http_hosts = ['h']", ("http://h", "https://h")),
    ],
)
def test_databases_were_open_by_default(body: str, hosts: tuple[str, ...]) -> None:
    assert component(body).allowed_outbound_hosts == hosts


@pytest.mark.parametrize(
    ("entries", "hosts"),
    [
        (["h"], ["http://h", "https://h"]),
        (["http://h"], ["http://h", "https://h"]),
        (["https://h/"], ["http://h", "https://h"]),
        (["h:7777"], ["http://h:7777", "https://h:7777"]),
        (["localhost:3001"], ["http://localhost:3001", "https://localhost:3001"]),
        (["https://example.com:8443"], ["http://example.com:8443", "https://example.com:8443"]),
        (["192.168.0.1:80"], ["http://192.168.0.1:80", "https://192.168.0.1:80"]),
        (["[::1]:80"], ["http://[::1]:80", "https://[::1]:80"]),
        (["self"], ["http://self"]),
        (["b", "self"], ["http://b", "https://b", "http://self"]),
        (["insecure:allow-all"], ["http://*:*", "https://*:*", "http://self"]),
        (["ftp://x", "insecure:allow-all", "/"], ["http://*:*", "https://*:*", "http://self"]),
        ([], []),
    ],
)
def test_http_hosts(entries: list[str], hosts: list[str]) -> None:
    one = component(f"allowed_outbound_hosts = []\nallowed_http_hosts = {entries}")
    assert list(one.allowed_outbound_hosts) == hosts


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("http://h/path", "http://h/path contains a path, should be host and optional port only"),
        ("h/path/", "h/path/ contains a path, should be host and optional port only"),
        ("ftp://h", "ftp://h isn't a valid host or host:port string"),
        ("", " isn't a valid host or host:port string"),
        ("http://", "http:// isn't a valid host or host:port string"),
        ("*.example.com", "*.example.com isn't a valid host or host:port string"),
        ("a b", "a b isn't a valid host or host:port string"),
        ("h:port", "h:port isn't a valid host or host:port string"),
        ("h:99999", "h:99999 isn't a valid host or host:port string"),
        ("user@h", "user@h isn't a valid host or host:port string"),
        ("h?q", "h?q isn't a valid host or host:port string"),
        ("[::1", "[::1 isn't a valid host or host:port string"),
    ],
)
def test_mistakes_in_http_hosts(entry: str, message: str) -> None:
    with pytest.raises(ManifestError) as caught:
        component(f"\nallowed_http_hosts = ['good', '{entry}', 'ftp://other']")
    assert caught.value.message == (
        "One or more allowed_http_hosts entries was invalid:\n"
        f"{message}\nftp://other isn't a valid host or host:port string"
    )
    assert caught.value.line == 9


# -- refused -----------------------------------------------------------------------------------------

WHOLE = """spin_manifest_version = "1"
name = "app"
trigger = { type = "http" }
[variables]
v = { default = "" }
[[component]]
id = "first"
source = "first.wasm"
trigger = { route = "/" }
[[component]]
id = "bad_name"
source = "second.wasm"
[component.trigger]
route = "/second"
"""


@pytest.mark.parametrize(
    ("old", "new", "message", "line", "key"),
    [
        ('name = "app"\n', "", "missing field `name`", None, None),
        ('name = "app"', "name = 1", "expected a string", 2, "name"),
        ('name = "app"', 'name = "app"\nversion = 1', "expected a string", 3, "version"),
        ('name = "app"', 'name = "app"\nauthors = 1', "expected an array", 3, "authors"),
        ('name = "app"', 'name = "app"\napplication = {}', "unknown field `application`", 3, "application"),
        ('trigger = { type = "http" }\n', "", "missing field `trigger`", None, None),
        ('{ type = "http" }', "{}", "missing field `type`", 3, "trigger"),
        (
            '{ type = "http" }',
            '{ type = "http", base = "/x" }',
            "base path is no longer supported",
            3,
            "trigger.base",
        ),
        ('{ type = "http" }', '{ type = "http", x = 1 }', "unknown field `x`", 3, "trigger.x"),
        ('v = { default = "" }', "v = {}", "must be `required` OR have a `default`", 5, "variables.v"),
        ('v = { default = "" }', 'V = { default = "" }', "all lowercase", 5, "variables.V"),
        ('id = "bad_name"\n', "", "missing field `id`", 10, "component[1]"),
        (
            'id = "bad_name"',
            'id = "bad+name"',
            "may only contain alphanumeric ASCII; got '+'",
            11,
            "component[1].id",
        ),
        ('id = "bad_name"', 'id = "1_a"', "must start with an ASCII letter; got '1'", 11, "component[1].id"),
        ('source = "second.wasm"\n', "", "missing field `source`", 10, "component[1]"),
        ('source = "second.wasm"', "source = 1", "invalid type: integer `1`", 12, "component[1].source"),
        (
            'source = "second.wasm"',
            'source = "x"\nconfig = { a-b = "" }',
            "words must be separated with '_', not '-'",
            13,
            "component[1].config.a-b",
        ),
        (
            'source = "second.wasm"',
            'source = "x"\nfiles = ["a", 1]',
            "expected a pattern",
            13,
            "component[1].files[1]",
        ),
        (
            'source = "second.wasm"',
            'source = "x"\nbuild = { command = 1 }',
            "expected a string",
            13,
            "component[1].build.command",
        ),
        (
            'source = "second.wasm"',
            'source = "x"\nvariables = {}',
            "unknown field `variables`",
            13,
            "component[1].variables",
        ),
        (
            'source = "second.wasm"',
            'source = "x"\ntool = {}',
            "unknown field `tool`",
            13,
            "component[1].tool",
        ),
        ('[component.trigger]\nroute = "/second"\n', "", "missing field `trigger`", 10, "component[1]"),
        ('route = "/second"', "", "missing field `route`", 13, "component[1].trigger"),
        ('route = "/second"', 'route = "/"\nx = 1', "unknown field `x`", 15, "component[1].trigger.x"),
        ('route = "/second"', 'route = "/"\nid = "x"', "unknown field `id`", 15, "component[1].trigger.id"),
        (
            'route = "/second"',
            'route = "/"\nexecutor = { type = "x" }',
            "unknown variant `x`",
            15,
            "component[1].trigger.executor.type",
        ),
    ],
)
def test_refused(old: str, new: str, message: str, line: int | None, key: str | None) -> None:
    assert WHOLE.count(old) == 1
    parse(WHOLE)
    with pytest.raises(ManifestError) as caught:
        parse(WHOLE.replace(old, new))
    assert message in caught.value.message
    assert (caught.value.line, caught.value.key) == (line, key)
