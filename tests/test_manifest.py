# Version 2 manifests: what every key means, and what is refused (Spin: manifest).

from __future__ import annotations

import dataclasses
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

import wasm_gateway.manifest
from wasm_gateway.component_options import ComponentOptions, parse_duration, parse_size
from wasm_gateway.errors import ManifestError
from wasm_gateway.manifest import (
    INHERITABLE,
    WAGI_ARGV,
    Build,
    Component,
    Dependency,
    Executor,
    FileMapping,
    HttpTrigger,
    Manifest,
    OtherTrigger,
    PathSource,
    RedisTrigger,
    RegistrySource,
    StaticResponse,
    UrlSource,
    Variable,
    error_in,
    find_manifest,
    load_manifest,
    parse_manifest,
    select_components,
)
from wasm_gateway.manifest_ids import id_error

FILE = Path("/app/spin.toml")
DIGEST = "sha256:" + "0123456789abcdef" * 4

MINIMAL = """
spin_manifest_version = 2
[application]
name = "x"
[[trigger.http]]
route = "/..."
component = "x"
[component.x]
source = "x.wasm"
"""

HEAD = 'spin_manifest_version = 2\napplication = { name = "app" }\n'


def parse(text: str, **options: str) -> Manifest:
    return parse_manifest(text, FILE, **options)


def component(body: str, **options: str) -> Component:
    """The component "one" of a manifest whose table for it has `body`."""
    text = f'{HEAD}[trigger]\n[component.one]\nsource = "one.wasm"\n{body}\n'
    return parse(text, **options).components["one"]


def trigger(body: str, *, type: str = "http") -> HttpTrigger | RedisTrigger | OtherTrigger:
    """The trigger whose table has `body`, in a manifest with the components "one" and "two"."""
    components = '[component]\none = { source = "1" }\ntwo = { source = "2" }'
    text = f"{HEAD}[[trigger.{type}]]\n{body}\n{components}"
    return parse(text).triggers[0]


def refused(text: str, message: str, *, line: int | None = None, key: str | None = None) -> None:
    with pytest.raises(ManifestError) as caught:
        parse(text)
    assert message in caught.value.message
    assert caught.value.path == FILE
    assert str(caught.value).startswith(str(FILE))
    if line is not None:
        assert caught.value.line == line
        assert f"{FILE}:{line}: " in str(caught.value)
    if key is not None:
        assert caught.value.key == key


# -- whole manifests ---------------------------------------------------------------------------------


def test_the_smallest_manifest() -> None:
    assert parse(MINIMAL) == Manifest(
        path=FILE,
        name="x",
        triggers=(HttpTrigger("x-http-trigger", "/...", "x"),),
        components={"x": Component("x", PathSource(Path("/app/x.wasm")))},
    )


def test_every_key() -> None:
    manifest = parse(
        f"""
spin_manifest_version = 2

[application]
name = "every"
version = "1.2.3"
description = "All of it"
authors = ["A <a@example.com>", "B"]
targets = ["spin-up:3.5", {{ url = "https://example.com/t" }}, {{ path = "t.toml" }}]

[application.trigger.redis]
address = "redis://{{{{ host }}}}"

[application.trigger.other]
anything = [1, 2]

[application.tool.something]
key = 1

[variables]
host = {{ default = "localhost", description = "Where" }}
token = {{ required = true, secret = true }}

[[trigger.http]]
id = "front"
route = "/front/..."
component = "one"
executor = {{ type = "wagi", argv = "$1" }}

[[trigger.http]]
route = {{ private = true }}
component = "two"

[[trigger.http]]
id = "teapot"
route = "/teapot"
static_response = {{ status_code = 418, headers = {{ X-Pot = "tea" }}, body = "short" }}

[[trigger.redis]]
component = "two"
channel = "news-{{{{ host }}}}"

[[trigger.other]]
component = "one"
every = "second"

[component.one]
source = "target/one.wasm"
description = "The first"
variables = {{ where = "http://{{{{ host }}}}/", who = "x" }}
environment = {{ LOUD = "1", quiet = "0" }}
files = ["static/**/*", {{ source = "dist", destination = "/" }}]
exclude_files = ["**/*.bak"]
allowed_outbound_hosts = ["https://example.com", "redis://{{{{ host }}}}"]
key_value_stores = ["default", "snake_case"]
sqlite_databases = ["kebab-case"]
ai_models = ["llama"]
targets = ["spin-up:3.4"]
build = {{ command = ["make a", "make b"], workdir = "src", watch = ["src/**/*.c"] }}
tool = {{ other = {{ x = 1 }} }}

[component.two]
source = {{ url = "https://example.com/two.wasm", digest = "{DIGEST}" }}
"""
    )
    assert manifest == Manifest(
        path=FILE,
        name="every",
        version="1.2.3",
        description="All of it",
        authors=("A <a@example.com>", "B"),
        targets=("spin-up:3.5", {"url": "https://example.com/t"}, {"path": "t.toml"}),
        variables={
            "host": Variable("host", default="localhost", description="Where"),
            "token": Variable("token", required=True, secret=True),
        },
        triggers=(
            HttpTrigger("front", "/front/...", "one", executor=Executor("wagi", "$1")),
            HttpTrigger("two-http-trigger", None, "two"),
            HttpTrigger("teapot", "/teapot", static_response=StaticResponse(418, {"X-Pot": "tea"}, "short")),
            RedisTrigger("two-redis-trigger", "two", "news-{{ host }}", "redis://{{ host }}"),
            OtherTrigger("one-other-trigger", "other", {"component": "one", "every": "second"}),
        ),
        components={
            "one": Component(
                "one",
                PathSource(Path("/app/target/one.wasm")),
                description="The first",
                variables={"where": "http://{{ host }}/", "who": "x"},
                environment={"LOUD": "1", "quiet": "0"},
                files=("static/**/*", FileMapping("dist", "/")),
                exclude_files=("**/*.bak",),
                allowed_outbound_hosts=("https://example.com", "redis://{{ host }}"),
                key_value_stores=("default", "snake_case"),
                sqlite_databases=("kebab-case",),
                ai_models=("llama",),
                targets=("spin-up:3.4",),
                build=Build(("make a", "make b"), "src", ("src/**/*.c",)),
                tool={"other": {"x": 1}},
            ),
            "two": Component("two", UrlSource("https://example.com/two.wasm", DIGEST)),
        },
        application_triggers={"redis": {"address": "redis://{{ host }}"}, "other": {"anything": [1, 2]}},
        tool={"something": {"key": 1}},
    )
    assert manifest.http_triggers == manifest.triggers[:3]
    assert manifest.redis_triggers == manifest.triggers[3:4]
    assert manifest.folder == Path("/app")
    assert list(manifest.components["one"].variables) == ["where", "who"]


def test_a_manifest_cannot_be_changed() -> None:
    manifest = parse(MINIMAL)
    with pytest.raises(dataclasses.FrozenInstanceError):
        manifest.name = "y"  # type: ignore[misc]
    with pytest.raises(TypeError):
        manifest.components["y"] = manifest.components["x"]  # type: ignore[index]
    with pytest.raises(TypeError):
        manifest.components["x"].environment["A"] = "1"  # type: ignore[index]


# -- versions ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message", "line"),
    [
        ("", "missing field `spin_manifest_version`", None),
        ("# nothing", "missing field `spin_manifest_version`", None),
        ("\nspin_manifest_version = 1", "invalid manifest version: 1", 2),
        ('spin_manifest_version = "2"', 'invalid manifest version: "2"', 1),
        ('spin_manifest_version = "0"', 'invalid manifest version: "0"', 1),
        ('spin_version = "77.301.12"', 'invalid manifest version: "77.301.12"', 1),
        ("spin_manifest_version = 2.0", "invalid manifest version: 2.0", 1),
        ("spin_manifest_version = true", "invalid manifest version", 1),
        ("spin_manifest_version = [2]", "invalid manifest version", 1),
        # the old name of the key counts for the version, and is then unknown to version 2
        (MINIMAL.replace("spin_manifest_version", "spin_version"), "unknown field `spin_version`", 2),
    ],
)
def test_versions(text: str, message: str, line: int | None) -> None:
    refused(text, message, line=line)


# -- refused -----------------------------------------------------------------------------------------

# what is put in place of what in MINIMAL, the message, the line
REFUSED = [
    ('name = "x"', 'name = "x', "invalid TOML", 4),
    ('route = "/..."', "", "missing field `route`", 5),
    ('name = "x"', "", "missing field `name`", 3),
    ('name = "x"', "name = 1", "invalid type: integer `1`, expected a string", 4),
    ('name = "x"', 'name = "x"\nunknown = 1', "unknown field `unknown`", 5),
    ('name = "x"', 'name = "x"\nauthors = "me"', "expected an array", 5),
    ('name = "x"', 'name = "x"\nauthors = ["me", 1]', "invalid type: integer `1`, expected a string", 5),
    ('name = "x"', 'name = "x"\ntargets = [{ path = "a", url = "b" }]', "expected a string, `{url}`", 5),
    ('name = "x"', 'name = "x"\ntool = 1', "expected a table", 5),
    ('name = "x"', 'name = "x"\ntool.a = 1', "expected a table", 5),
    ("[application]", "[app]", "missing field `application`", None),
    ("[application]", "[[application]]", "invalid type: array, expected a table", 3),
    ('source = "x.wasm"', 'source = "x.wasm"\n[other]', "unknown field `other`", 10),
    ("[[trigger.http]]", "[[triggers.http]]", "missing field `trigger`", None),
    ("[[trigger.http]]", "[trigger.http]", "invalid type: table, expected an array", 5),
    ('component = "x"', 'component = "y"', "no such component: `y`", 7),
    ('component = "x"', 'component = "1-2-3"', "must start with an ASCII letter; got '1'", 7),
    ('component = "x"', "component = 1", "expected a component id or a table", 7),
    ('component = "x"', 'component = "x"\nunknown = 1', "unknown field `unknown`", 8),
    ("[component.x]", "[component.bad_id]", "words must be separated with '-', not '_'", 8),
    ('source = "x.wasm"', "", "missing field `source`", 8),
    ('source = "x.wasm"', "source = 1", "invalid type: integer `1`", 9),
    # keys of a version 1 component
    ('source = "x.wasm"', 'source = "x.wasm"\nroute = "/"', "unknown field `route`", 10),
    ('source = "x.wasm"', 'source = "x.wasm"\nconfig = {}', "unknown field `config`", 10),
    ('source = "x.wasm"', 'source = "x.wasm"\ntrigger = {}', "unknown field `trigger`", 10),
    ('source = "x.wasm"', 'source = "x.wasm"\nexecutor = {}', "unknown field `executor`", 10),
]


@pytest.mark.parametrize(("old", "new", "message", "line"), REFUSED)
def test_refused(old: str, new: str, message: str, line: int | None) -> None:
    assert MINIMAL.count(old) == 1
    refused(MINIMAL.replace(old, new), message, line=line)


COMPONENT_MISTAKES = [
    ("description = 1", "expected a string"),
    ("variables = { BAD = '' }", "Lower-case identifiers must be all lowercase; got 'BAD'"),
    ("variables = { a-b = '' }", "words must be separated with '_', not '-'"),
    ("variables = { a = 1 }", "invalid type: integer `1`, expected a string"),
    ("variables = []", "expected a table"),
    ("environment = { A = true }", "invalid type: boolean `true`, expected a string"),
    ("files = 'a'", "expected an array"),
    ("files = [1]", "expected a pattern or `{source, destination}`"),
    ("files = [{ source = 'a' }]", "missing field `destination`"),
    ("files = [{ destination = 'a' }]", "missing field `source`"),
    ("files = [{ source = 'a', destination = '/', x = 1 }]", "unknown field `x`"),
    ("exclude_files = [{}]", "expected a string"),
    ("allowed_outbound_hosts = 'a'", "expected an array"),
    ("allowed_http_hosts = ['http://a/b']", "contains a path"),
    ("key_value_stores = ['Bad Label']", "expected kebab-case or snake_case"),
    ("key_value_stores = ['a-b_c']", "expected kebab-case or snake_case"),
    ("sqlite_databases = ['']", "expected kebab-case or snake_case"),
    ("ai_models = [1]", "expected a string"),
    ("targets = [1]", "expected a string, `{url}` or `{path}`"),
    ("build = 'make'", "expected a table"),
    ("build = {}", "missing field `command`"),
    ("build = { command = 1 }", "expected a string or an array of strings"),
    ("build = { command = ['a', 1] }", "invalid type: integer `1`, expected a string"),
    (
        "build = { command = 'a', workdir = '/b' }",
        "The workdir specified in the application file must be relative.",
    ),
    ("build = { command = 'a', watch = 'b' }", "expected an array"),
    ("build = { command = 'a', x = 1 }", "unknown field `x`"),
    ("profile = { p = { x = 1 } }", "unknown field `x`"),
    ("profile = { p = { files = [] } }", "unknown field `files`"),
    ("profile = { p = { build = { command = 'a', workdir = 'b' } } }", "unknown field `workdir`"),
    ("profile = { p = { build = {} } }", "missing field `command`"),
    ("tool.wasm-gateway = { timeout = 'soon' }", "'soon' is not a duration"),
    ("tool.wasm-gateway = { x = 1 }", "unknown field `x`"),
    ("dependencies_inherit_configuration = 'all'", "expected a boolean"),
]


@pytest.mark.parametrize(("body", "message"), COMPONENT_MISTAKES)
def test_mistakes_in_a_component(body: str, message: str) -> None:
    text = f'{HEAD}[trigger]\n[component.one]\nsource = "one.wasm"\n\n{body}\n'
    refused(text, message, line=7)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("'dir/a.wasm'", PathSource(Path("/app/dir/a.wasm"))),
        ("'/elsewhere/a.wasm'", PathSource(Path("/elsewhere/a.wasm"))),
        (f"{{ url = 'http://h/a', digest = '{DIGEST}' }}", UrlSource("http://h/a", DIGEST)),
        (
            f"{{ url = 'http://h/a', digest = 'sha256:{DIGEST[7:].upper()}' }}",
            UrlSource("http://h/a", DIGEST),
        ),
        ("{ package = 'a:b', version = '1.2.3' }", RegistrySource("a:b", "=1.2.3")),
        (
            "{ package = 'a:b', version = '=1.2.3-rc.1', registry = 'r.example' }",
            RegistrySource("a:b", "=1.2.3-rc.1", "r.example"),
        ),
    ],
)
def test_sources(source: str, expected: object) -> None:
    text = f"{HEAD}[trigger]\n[component.one]\nsource = {source}"
    assert parse(text).components["one"].source == expected


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("[]", "expected a path, `{url, digest}` or `{package, version}`"),
        ("{}", "missing field `url`"),
        ("{ url = 'http://h/a' }", "missing field `digest`"),
        (
            "{ url = 'http://h/a', digest = 'not-a-digest' }",
            "invalid `digest` \"not-a-digest\"; must start with 'sha256:'",
        ),
        ("{ url = 'http://h/a', digest = 'sha256:../../etc/passwd' }", "invalid `digest`"),
        (f"{{ url = 'http://h/a', digest = '{DIGEST}', x = 1 }}", "unknown field `x`"),
        ("{ package = 'a:b' }", "missing field `version`"),
        ("{ package = 'a:b', version = '^1.0' }", "expected one exact version"),
        ("{ package = 'ab', version = '1.0.0' }", "expected `namespace:name`"),
    ],
)
def test_mistakes_in_a_source(source: str, message: str) -> None:
    refused(f"{HEAD}[trigger]\n[component.one]\nsource = {source}", message, line=5)


@pytest.mark.parametrize(
    ("definition", "message"),
    [
        ("{}", "must be `required` OR have a `default`"),
        ("{ required = false }", "must be `required` OR have a `default`"),
        ("{ required = true, default = '' }", "must be `required` OR have a `default`"),
        ("{ default = 1 }", "invalid type: integer `1`, expected a string"),
        ("{ required = 'yes' }", "expected a boolean"),
        ("{ default = '', x = 1 }", "unknown field `x`"),
        ("'text'", "expected a table"),
    ],
)
def test_mistakes_in_a_variable(definition: str, message: str) -> None:
    refused(f"{HEAD}[trigger]\n[variables]\nname = {definition}", message, line=5)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("bad+name", "'_'-separated words may only contain alphanumeric ASCII; got '+'"),
        ("a-b", "words must be separated with '_', not '-'"),
        ("ABC", "Lower-case identifiers must be all lowercase; got 'ABC'"),
    ],
)
def test_names_of_variables(name: str, message: str) -> None:
    refused(f'{HEAD}[trigger]\n[variables]\n"{name}" = {{ default = "" }}', message, line=5)


@pytest.mark.parametrize(
    ("text", "delimiter", "problem"),
    [
        ("a", "-", None),
        ("one-two3", "-", None),
        ("HTTP-handler", "-", None),
        ("a_b1", "_", None),
        ("", "-", "empty"),
        ("bad_id", "-", "words must be separated with '-', not '_'"),
        ("bad-id", "_", "words must be separated with '_', not '-'"),
        ("a--b", "-", "'-'-separated words must not be empty"),
        ("-a", "-", "'-'-separated words must not be empty"),
        ("a-", "-", "'-'-separated words must not be empty"),
        ("1-2-3", "-", "'-'-separated words must start with an ASCII letter; got '1'"),
        ("a-1b", "-", "'-'-separated words must start with an ASCII letter; got '1'"),
        ("é", "-", "'-'-separated words must start with an ASCII letter; got 'é'"),
        ("a+b", "-", "'-'-separated words may only contain alphanumeric ASCII; got '+'"),
        ("aé", "-", "'-'-separated words may only contain alphanumeric ASCII; got 'é'"),
        ("a²", "-", "'-'-separated words may only contain alphanumeric ASCII; got '²'"),
        ("a b", "-", "'-'-separated words may only contain alphanumeric ASCII; got ' '"),
        ("fooBar", "-", "'-'-separated words must be all lowercase or all UPPERCASE; got 'fooBar'"),
        ("Http-handler", "-", "'-'-separated words must be all lowercase or all UPPERCASE; got 'Http'"),
    ],
)
def test_ids(text: str, delimiter: str, problem: str | None) -> None:
    assert id_error(text, delimiter) == problem


def test_lower_ids() -> None:
    assert id_error("a_b", "_", lower=True) is None
    assert id_error("a_BC", "_", lower=True) == "Lower-case identifiers must be all lowercase; got 'BC'"


# -- triggers ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("route = '/a'\ncomponent = 'one'", HttpTrigger("one-http-trigger", "/a", "one")),
        ("route = { private = true }\ncomponent = 'one'", HttpTrigger("one-http-trigger", None, "one")),
        (
            "route = '/a'\nstatic_response = {}",
            HttpTrigger("http-trigger1", "/a", static_response=StaticResponse()),
        ),
        (
            # unknown keys of a static response are ignored
            "route = '/a'\nstatic_response = { body = '', future = 1 }",
            HttpTrigger("http-trigger1", "/a", static_response=StaticResponse(body="")),
        ),
        (
            "route = '/'\ncomponent = 'one'\nexecutor = { type = 'http' }",
            HttpTrigger("one-http-trigger", "/", "one"),
        ),
        (
            "route = '/'\ncomponent = 'one'\nexecutor = { type = 'spin' }",
            HttpTrigger("one-http-trigger", "/", "one"),
        ),
        (
            "route = '/'\ncomponent = 'one'\nexecutor = { type = 'wagi', entrypoint = '_start' }",
            HttpTrigger("one-http-trigger", "/", "one", executor=Executor("wagi", WAGI_ARGV)),
        ),
        # the http trigger ignores `components`, whose ids must be ids all the same
        (
            "route = '/'\ncomponent = 'one'\ncomponents = { x = ['two'] }",
            HttpTrigger("one-http-trigger", "/", "one"),
        ),
    ],
)
def test_http_triggers(body: str, expected: HttpTrigger) -> None:
    assert trigger(body) == expected


HTTP_MISTAKES = [
    ("component = 'one'", "missing field `route`"),
    ("route = 1\ncomponent = 'one'", "must be a string pattern or `{ private = true }`"),
    ("route = { private = false }\ncomponent = 'one'", "one"),
    ("route = { private = false }\ncomponent = 'one'", "must be a string pattern or `{ private = true }`"),
    ("route = { private = true, x = 1 }\ncomponent = 'one'", "must be a string pattern"),
    ("route = '/'", "Triggers must specify either component or static_response - http-trigger1 has neither"),
    (
        "id = 'mine'\nroute = '/'\ncomponent = 'one'\nstatic_response = {}",
        "Triggers must specify either component or static_response - mine has both",
    ),
    ("route = '/'\nstatic_response = { status_code = 70000 }", "invalid value: 70000"),
    ("route = '/'\nstatic_response = { status_code = '200' }", "expected an integer"),
    ("route = '/'\nstatic_response = { headers = { a = 1 } }", "expected a string"),
    ("route = '/'\nstatic_response = { body = 1 }", "expected a string"),
    ("route = '/'\ncomponent = 'one'\nexecutor = 'wagi'", 'invalid type: string "wagi", expected a table'),
    ("route = '/'\ncomponent = 'one'\nexecutor = {}", "missing field `type`"),
    ("route = '/'\ncomponent = 'one'\nexecutor = { type = 'wasi-http' }", "unknown variant `wasi-http`"),
    ("route = '/'\ncomponent = 'one'\nexecutor = { type = 'http', argv = '' }", "unknown field `argv`"),
    ("route = '/'\ncomponent = 'one'\nexecutor = { type = 'wagi', x = '' }", "unknown field `x`"),
    (
        "route = '/'\ncomponent = 'one'\nexecutor = { type = 'wagi', entrypoint = 'main' }",
        "Wagi component 'one' cannot use deprecated 'entrypoint' field",
    ),
    ("route = '/'\ncomponent = 'one'\nid = 1", "expected a string"),
    (
        "route = '/'\ncomponent = 'three'",
        "no such component: `three`, configured for trigger `three-http-trigger`",
    ),
    (
        "route = '/'\ncomponent = 'one'\ncomponents = { x = 'Bad_' }",
        "words must be separated with '-', not '_'",
    ),
    (
        "route = '/'\ncomponent = 'one'\ndependencies = { other = [] }",
        "the HTTP trigger's only allowed trigger dependency is `middleware`",
    ),
    ("route = '/'\ncomponent = 'one'\ndependencies.middleware = [{}]", "expected one of the keys"),
    (
        "route = '/'\ncomponent = 'one'\ndependencies.middleware = [{ component = 'three' }]",
        "dependency ID three does not exist",
    ),
]


@pytest.mark.parametrize(("body", "message"), HTTP_MISTAKES)
def test_mistakes_in_an_http_trigger(body: str, message: str) -> None:
    with pytest.raises(ManifestError, match=re.escape(message)) as caught:
        trigger(body)
    assert caught.value.line is not None
    assert caught.value.key is not None
    assert caught.value.key.startswith("trigger.http[0]")


@pytest.mark.parametrize(
    ("application", "body", "address"),
    [
        ("", "", ""),
        ("", "address = 'redis://a'", "redis://a"),
        ("[application.trigger.redis]\naddress = 'redis://b'", "", "redis://b"),
        ("[application.trigger.redis]\naddress = 'redis://b'", "address = 'redis://a'", "redis://a"),
    ],
)
def test_redis_triggers(application: str, body: str, address: str) -> None:
    # HEAD has an inline [application], which cannot be extended
    text = f"""
spin_manifest_version = 2
[application]
name = "app"
{application}
[[trigger.redis]]
component = "one"
channel = "c"
{body}
[component.one]
source = "1"
"""
    assert parse(text).redis_triggers == (RedisTrigger("one-redis-trigger", "one", "c", address),)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("channel = 'c'", "missing field `component`"),
        ("component = 'one'", "missing field `channel`"),
        ("component = 'one'\nchannel = 1", "expected a string"),
        ("component = 'one'\nchannel = 'c'\nroute = '/'", "unknown field `route`"),
        ("component = 'one'\nchannel = 'c'\ndependencies.middleware = []", "has no trigger dependencies"),
        ("component = 'three'\nchannel = 'c'", "no such component"),
    ],
)
def test_mistakes_in_a_redis_trigger(body: str, message: str) -> None:
    with pytest.raises(ManifestError, match=re.escape(message)):
        trigger(body, type="redis")


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ('http = { base = "/x" }', "base path is no longer supported"),
        ('http = { base = "" }', "base path is no longer supported"),
        ('http = { base = "/", x = 1 }', "unknown field `x`"),
        ('redis = { channel = "x" }', "unknown field `channel`"),
        ("redis = { address = 1 }", "expected a string"),
        ("redis = 1", "expected a table"),
    ],
)
def test_mistakes_in_application_triggers(table: str, message: str) -> None:
    refused(MINIMAL.replace('name = "x"', f'name = "x"\ntrigger.{table}'), message, line=5)


def test_the_base_that_changes_nothing_is_warned_about() -> None:
    manifest = parse(MINIMAL.replace('name = "x"', 'name = "x"\ntrigger.http.base = "/"'))
    assert len(manifest.warnings) == 1
    assert "`base` is deprecated" in manifest.warnings[0]


# -- generated ids -----------------------------------------------------------------------------------


def test_inline_components() -> None:
    manifest = parse(
        f"""{HEAD}
[[trigger.http]]
route = "/1"
component = "hello"
[[trigger.http]]
id = "admin-handler"
route = "/2"
component = {{ source = "admin.wasm", description = "inline" }}
[[trigger.http]]
route = "/3"
component = {{ source = "third.wasm" }}
[[trigger.example]]
components = {{ hello = "hello", inline1 = {{ source = "a" }}, inline2 = [{{ source = "b" }}, "hello"] }}
[component.hello]
source = "hello.wasm"
"""
    )
    assert [t.id for t in manifest.triggers] == [
        "hello-http-trigger",
        "admin-handler",
        "http-trigger1",
        "example-trigger1",
    ]
    assert [t.component for t in manifest.http_triggers] == [
        "hello",
        "admin-handler-component",
        "http-trigger1-component",
    ]
    assert manifest.triggers[3] == OtherTrigger(
        "example-trigger1",
        "example",
        {
            "components": {
                "hello": "hello",
                "inline1": "inline-component1",
                "inline2": ["inline-component2", "hello"],
            }
        },
    )
    assert list(manifest.components) == [
        "hello",
        "admin-handler-component",
        "http-trigger1-component",
        "inline-component1",
        "inline-component2",
    ]
    assert manifest.components["admin-handler-component"].description == "inline"


def test_generated_ids_avoid_those_in_use() -> None:
    manifest = parse(
        f"""{HEAD}
[[trigger.http]]
route = "/1"
component = "a"
[[trigger.http]]
route = "/2"
component = "a"
[[trigger.http]]
route = "/3"
component = "a"
[[trigger.http]]
id = "http-trigger2"
route = "/4"
component = {{ source = "x" }}
[[trigger.http]]
id = "Weird_Id"
route = "/5"
component = {{ source = "y" }}
[component.a]
source = "a"
[component.http-trigger2-component]
source = "b"
[component.inline-component1]
source = "c"
"""
    )
    assert [t.id for t in manifest.triggers] == [
        "a-http-trigger",
        "http-trigger1",
        "http-trigger3",
        "http-trigger2",
        "Weird_Id",
    ]
    assert [t.component for t in manifest.http_triggers] == [
        "a",
        "a",
        "a",
        "inline-component2",  # the natural id is taken, and so is the first number
        "inline-component3",  # the natural id is no id
    ]


def test_mistakes_in_an_inline_component_are_found_where_they_are() -> None:
    refused(
        f'{HEAD}[[trigger.http]]\nroute = "/"\ncomponent = {{ source = "x",\n  files = 1 }}',
        "expected an array",
        line=6,
        key="trigger.http[0].component.files",
    )


# -- profiles ----------------------------------------------------------------------------------------

PROFILED = """
environment = { A = "1", B = "2" }
build = { command = "make", workdir = "w", watch = ["*"] }
dependencies = { "a:b/c" = "1" }
[component.one.profile.debug]
source = "debug.wasm"
environment = { B = "3", C = "4" }
build = { command = "make debug" }
dependencies = { "a:b/c" = "2", "d:e" = "3" }
[component.one.profile.empty]
"""


def test_a_profile_overrides() -> None:
    one = component(PROFILED, profile="debug")
    assert one.source == PathSource(Path("/app/debug.wasm"))
    assert one.environment == {"A": "1", "B": "3", "C": "4"}
    assert one.build == Build(("make debug",), "w", ("*",))
    assert {name: each.source for name, each in one.dependencies.items()} == {
        "a:b/c": RegistrySource("a:b", "2"),
        "d:e": RegistrySource("d:e", "3"),
    }


def test_without_a_profile_or_with_an_empty_one_nothing_changes() -> None:
    one = component(PROFILED)
    assert one.source == PathSource(Path("/app/one.wasm"))
    assert one.environment == {"A": "1", "B": "2"}
    assert one == component(PROFILED, profile="empty")


def test_a_profile_may_bring_the_build() -> None:
    body = "profile.p.build.command = 'make'"
    assert component(body).build is None
    assert component(body, profile="p").build == Build(("make",))


def test_a_profile_that_no_component_has() -> None:
    with pytest.raises(ManifestError, match="Profile other is not defined in this application"):
        component(PROFILED, profile="other")


# -- deprecated --------------------------------------------------------------------------------------


def test_allowed_http_hosts_are_converted() -> None:
    manifest = parse(
        f"{HEAD}[trigger]\n[component.one]\nsource = ''\n"
        "allowed_outbound_hosts = ['redis://r']\nallowed_http_hosts = ['h:8080']"
    )
    one = manifest.components["one"]
    assert one.allowed_outbound_hosts == ("redis://r", "http://h:8080", "https://h:8080")
    assert "`allowed_http_hosts` is deprecated" in manifest.warnings[0]


@pytest.mark.parametrize(
    ("pattern", "warned"), [("*", True), ("**/*", True), ("./**/*", False), ("a/*", False)]
)
def test_files_that_take_the_whole_folder_are_warned_about(pattern: str, warned: bool) -> None:
    manifest = parse(f"{HEAD}[trigger]\n[component.one]\nsource = ''\nfiles = ['{pattern}']")
    assert bool(manifest.warnings) == warned


# -- dependencies ------------------------------------------------------------------------------------

OTHER = "[component.other]\nsource = 'other.wasm'\n"


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ('"a:b/c" = ">=1.0, <2"', Dependency("a:b/c", RegistrySource("a:b", ">=1.0, <2"))),
        ('"a:b/c@1.2.0" = "*"', Dependency("a:b/c@1.2.0", RegistrySource("a:b", "*"))),
        (
            '"a:b/c" = { version = "~1.2", registry = "r", package = "d:e", export = "f" }',
            Dependency("a:b/c", RegistrySource("d:e", "~1.2", "r"), export="f"),
        ),
        ('"a:b/c" = { version = "1" }', Dependency("a:b/c", RegistrySource("a:b", "1"))),
        ('plain = { version = "1", package = "d:e" }', Dependency("plain", RegistrySource("d:e", "1"))),
        ('plain = { path = "lib.wasm" }', Dependency("plain", PathSource(Path("/app/lib.wasm")))),
        (
            'plain = { path = "lib.wasm", export = "x", inherit_configuration = true }',
            Dependency("plain", PathSource(Path("/app/lib.wasm")), export="x", inherit=INHERITABLE),
        ),
        (
            'plain = { path = "lib.wasm", inherit_configuration = ["files", "variables"] }',
            Dependency("plain", PathSource(Path("/app/lib.wasm")), inherit=("files", "variables")),
        ),
        (
            f'"a:b" = {{ url = "https://h/l", digest = "{DIGEST}", inherit_configuration = false }}',
            Dependency("a:b", UrlSource("https://h/l", DIGEST)),
        ),
        (
            '"a:b" = { component = "other", export = "x" }',
            Dependency("a:b", PathSource(Path("/app/other.wasm")), component="other", export="x"),
        ),
    ],
)
def test_dependencies(line: str, expected: Dependency) -> None:
    one = component(f"dependencies = {{ {line} }}\n{OTHER}")
    assert one.dependencies == {expected.name: expected}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('Plain_ = "1"', "invalid dependency name"),
        ('plain = "1"', 'dependency "plain" must specify a package name'),
        ('plain = { version = "1" }', 'dependency "plain" must specify a package name'),
        ('"a:b/c" = "one"', "expected a range of semantic versions"),
        ('"a:b/c" = { version = "1", package = "p" }', "expected `namespace:name`"),
        ('"a:b/c" = 1', "expected a table"),
        ('"a:b/c" = {}', "expected one of the keys"),
        ('"a:b/c" = { version = "1", path = "x" }', "unknown field `path`"),
        ('"a:b/c" = { path = "x", y = 1 }', "unknown field `y`"),
        ('"a:b/c" = { url = "http://h" }', "missing field `digest`"),
        ('"a:b/c" = { path = "x", inherit_configuration = ["all"] }', "unknown key `all`"),
        ('"a:b/c" = { path = "x", inherit_configuration = 1 }', "expected an array"),
        (
            '"a:b" = { version = "1", export = "x" }',
            'using an export to satisfy the package dependency "a:b" is not currently permitted',
        ),
        (
            '"a:b" = { path = "p", export = "x" }',
            'using an export to satisfy the package dependency "a:b" is not currently permitted',
        ),
        ('"a:b" = "1", "a:b/c" = "1"', "dependency conflicts with"),
        ('"a:b/c@1.0.0" = "1", "a:b/c@1.9.0" = "1"', "dependency conflicts with"),
        ('"a:b/c@0.2.0" = "1", "a:b@0.2.7" = "1"', "dependency conflicts with"),
        ('plain = { component = "missing" }', "dependency ID missing does not exist"),
        ('plain = { component = "Bad_Id" }', "words must be separated with '-', not '_'"),
    ],
)
def test_mistakes_in_dependencies(line: str, message: str) -> None:
    refused(
        f'{HEAD}[trigger]\n[component.one]\nsource = "one.wasm"\ndependencies = {{ {line} }}\n{OTHER}',
        message,
        line=6,
    )


@pytest.mark.parametrize(
    "lines",
    [
        '"a:b/c" = "1", "a:b/d" = "1"',
        '"a:b/c@1.0.0" = "1", "a:b/c@2.0.0" = "1"',
        '"a:b/c@0.1.0" = "1", "a:b/c@0.2.0" = "1"',
        '"a:b" = "1", "a:c" = "1"',
    ],
)
def test_dependencies_that_do_not_overlap(lines: str) -> None:
    assert len(component(f"dependencies = {{ {lines} }}").dependencies) == 2


@pytest.mark.parametrize("value", ["true", "false"])
def test_inheriting_is_said_in_one_place(value: str) -> None:
    with pytest.raises(ManifestError, match="mutually exclusive"):
        component(
            f"dependencies_inherit_configuration = {value}\n"
            "dependencies = { plain = { path = 'x', inherit_configuration = true } }"
        )
    one = component(
        f"dependencies_inherit_configuration = {value}\ndependencies = {{ plain = {{ path = 'x' }} }}"
    )
    assert one.dependencies["plain"].inherit == (INHERITABLE if value == "true" else ())


@pytest.mark.parametrize(
    ("own", "words"),
    [
        ("ai_models = ['a']", "AI models"),
        ("allowed_outbound_hosts = ['http://a']", "allowed outbound hosts"),
        ("allowed_http_hosts = ['a']", "allowed outbound hosts"),
        ("dependencies = { plain = { path = 'x' } }", "dependencies"),
        ("environment = { A = '1' }", "environment variables"),
        ("files = ['a']", "files"),
        ("key_value_stores = ['a']", "key-value stores"),
        ("sqlite_databases = ['a']", "SQLite databases"),
        ("variables = { a = '1' }", "variables"),
    ],
)
def test_a_dependency_has_no_permissions_of_its_own(own: str, words: str) -> None:
    message = f"Component other cannot be used as a dependency of one because it specifies: {words}"
    with pytest.raises(ManifestError, match=message):
        component(f"dependencies = {{ plain = {{ component = 'other' }} }}\n{OTHER}{own}")


def test_middleware() -> None:
    found = trigger(
        "route = '/'\ncomponent = 'one'\n"
        "dependencies.middleware = [{ component = 'two' }, { path = 'm.wasm', inherit_configuration = true }]"
    )
    assert isinstance(found, HttpTrigger)
    assert found.middleware == (
        Dependency("middleware", PathSource(Path("/app/2")), component="two"),
        Dependency("middleware", PathSource(Path("/app/m.wasm")), inherit=INHERITABLE),
    )


# -- options -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "size"),
    [
        (1, 1),
        ("1", 1),
        ("17 B", 17),
        ("64MiB", 64 * 2**20),
        ("64 mib", 64 * 2**20),
        ("64M", 64 * 2**20),
        ("10MB", 10_000_000),
        ("1.5KiB", 1536),
        ("2GiB", 2**31),
    ],
)
def test_sizes(value: object, size: int) -> None:
    assert parse_size(value) == size


@pytest.mark.parametrize(
    "value", [0, -1, "", "MiB", "1 XB", "-1", "1e3", True, 1.5, None, "9999999999GiB", "٣"]
)
def test_what_is_no_size(value: object) -> None:
    with pytest.raises(ValueError, match="size"):
        parse_size(value)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [(1, 1.0), (0.5, 0.5), ("100ms", 0.1), ("2s", 2.0), ("1.5 s", 1.5), ("2m", 120.0), ("1h", 3600.0)],
)
def test_durations(value: object, seconds: float) -> None:
    assert parse_duration(value) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "value", [0, -1, "", "s", "1", "1 day", "MS", True, None, float("inf"), float("nan"), "25h", "2 S"]
)
def test_what_is_no_duration(value: object) -> None:
    with pytest.raises(ValueError, match="duration"):
        parse_duration(value)


def test_options_of_the_application_are_the_defaults_of_its_components() -> None:
    manifest = parse(
        """
spin_manifest_version = 2
[application]
name = "app"
[application.tool.wasm-gateway]
timeout = "100ms"
max_concurrency = 3
[trigger]
[component.one]
source = "1"
[component.one.tool.wasm-gateway]
timeout = 2
max_memory = "32MiB"
max_table_elements = 7
max_request_body = 5
max_response_body = "1kB"
max_disk = "1MiB"
stream = false
inline = true
mode = "wasm"
[component.two]
source = "2"
"""
    )
    assert manifest.options == ComponentOptions(timeout=0.1, max_concurrency=3)
    assert manifest.components["two"].options == manifest.options
    assert manifest.components["one"].options == ComponentOptions(
        timeout=2.0,
        max_memory=32 * 2**20,
        max_table_elements=7,
        max_request_body=5,
        max_response_body=1000,
        max_concurrency=3,
        max_disk=2**20,
        stream=False,
        inline=True,
    )
    assert manifest.components["one"].tool["wasm-gateway"]["timeout"] == 2


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("timeout", '"1"'),
        ("max_memory", '"64 MiBs"'),
        ("max_memory", "-1"),
        ("max_table_elements", '"many"'),
        ("max_request_body", "0"),
        ("max_response_body", "1.5"),
        ("max_concurrency", "0"),
        ("max_concurrency", "true"),
        ("max_disk", "0"),
        ("stream", "1"),
        ("inline", "1"),
        ("mode", '"turbo"'),
        ("max_instances", "1"),
    ],
)
@pytest.mark.parametrize("level", ["application", "component.x"])
def test_mistakes_in_options(option: str, value: str, level: str) -> None:
    text = f"{MINIMAL}\n[{level}.tool.wasm-gateway]\n{option} = {value}\n"
    refused(text, "", line=12, key=f"{level}.tool.wasm-gateway.{option}")


def test_a_site_can_override_options() -> None:
    options = ComponentOptions().updated({"timeout": "1s", "max_memory": 2**20})
    assert options == ComponentOptions(timeout=1.0, max_memory=2**20)
    with pytest.raises(ManifestError, match="unknown field `x`"):
        options.updated({"x": 1})


# -- files, and what is left of an application -------------------------------------------------------


def test_load_reads_the_file(tmp_path: Path) -> None:
    path = tmp_path / "spin.toml"
    path.write_text(MINIMAL)
    manifest = load_manifest(path)
    assert manifest == dataclasses.replace(
        parse(MINIMAL),
        path=path,
        components={"x": Component("x", PathSource(tmp_path / "x.wasm"))},
    )
    assert load_manifest(str(path)) == manifest


@pytest.mark.parametrize("triggers", ["[trigger]", "[trigger]\nhttp = []"])
def test_an_application_without_triggers_cannot_start(tmp_path: Path, triggers: str) -> None:
    (tmp_path / "spin.toml").write_text(f"{HEAD}{triggers}")
    with pytest.raises(ManifestError, match="No triggers in app"):
        load_manifest(tmp_path / "spin.toml")


@pytest.mark.parametrize("name", ["my.guest.wasm", "my.guest.wat"])
def test_a_single_file_is_an_application(tmp_path: Path, name: str) -> None:
    manifest = load_manifest(tmp_path / name)
    assert manifest.name == "my.guest"
    assert manifest.folder == tmp_path
    assert manifest.triggers == (HttpTrigger("http-trigger1", "/...", "http-trigger1-component"),)
    assert manifest.components == {
        "http-trigger1-component": Component("http-trigger1-component", PathSource(tmp_path / name))
    }


CHAINED = f"""{HEAD}
[[trigger.http]]
route = "/a"
component = "a"
[[trigger.http]]
route = "/b"
component = "b"
[[trigger.http]]
route = "/s"
static_response = {{}}
[[trigger.other]]
component = "b"
[component.a]
source = "a"
allowed_outbound_hosts = [
  "https://example.com", "HOSTS" ]
[component.b]
source = "b"
[component.c]
source = "c"
"""


def test_a_subset_of_the_components() -> None:
    manifest = parse(CHAINED.replace("HOSTS", "http://c.spin.internal"))
    only = select_components(manifest, ["b"])
    assert list(only.components) == ["b"]
    assert [t.id for t in only.triggers] == ["b-http-trigger", "b-other-trigger"]
    both = select_components(manifest, ["c", "a"])
    assert list(both.components) == ["a", "c"]
    assert [t.id for t in both.triggers] == ["a-http-trigger"]


def test_load_takes_the_subset(tmp_path: Path) -> None:
    (tmp_path / "spin.toml").write_text(CHAINED.replace("HOSTS", "*://*:*"))
    assert list(load_manifest(tmp_path / "spin.toml", component_ids={"a", "b"}).components) == ["a", "b"]
    with pytest.raises(ManifestError, match="No triggers in app"):
        load_manifest(tmp_path / "spin.toml", component_ids=["c"])
    with pytest.raises(ManifestError, match=re.escape("no such component: `d` (there are: a, b, c)")):
        load_manifest(tmp_path / "spin.toml", component_ids=["a", "d"])


@pytest.mark.parametrize(
    "host",
    [
        "http://b.spin.internal",
        "https://b.spin.internal:80",
        "*://b.spin.internal:*",
        "http://*.spin.internal",
    ],
)
def test_a_component_that_calls_one_that_is_left_out(tmp_path: Path, host: str) -> None:
    path = tmp_path / "spin.toml"
    path.write_text(CHAINED.replace("HOSTS", host))
    with pytest.raises(ManifestError, match=re.escape(f"(`{host}`)")) as caught:
        load_manifest(path, component_ids=["a"])
    assert caught.value.key == "component.a.allowed_outbound_hosts[1]"
    assert caught.value.line == 18


@pytest.mark.parametrize(
    "host", ["http://nobody.spin.internal", "http://{{ x }}.spin.internal", "http://b.internal"]
)
def test_other_hosts_do_not_hinder_a_subset(host: str) -> None:
    assert list(select_components(parse(CHAINED.replace("HOSTS", host)), ["a"]).components) == ["a"]


def test_the_whole_application_may_chain_to_any_of_its_components() -> None:
    manifest = parse(CHAINED.replace("HOSTS", "http://*.spin.internal"))
    assert list(select_components(manifest, ["a", "b", "c"]).components) == ["a", "b", "c"]


def test_errors_found_later_have_their_line(tmp_path: Path) -> None:
    path = tmp_path / "spin.toml"
    path.write_text(f'{HEAD}[[trigger.http]]\nroute = "/"\ncomponent = {{ source = "x" }}\n')
    load_manifest(path)
    error = error_in(path, "is bad", "component", "http-trigger1-component", "source")
    assert str(error) == f"{path}:5: trigger.http[0].component.source: is bad"
    assert str(error_in(None, "is bad", "component", "x")) == "component.x: is bad"
    path.unlink()
    assert str(error_in(path, "is bad", "component", "x")) == f"{path}: component.x: is bad"


# -- where the manifest is ---------------------------------------------------------------------------


def test_find_what_is_named(tmp_path: Path) -> None:
    file = tmp_path / "spin.toml"
    with pytest.raises(ManifestError, match=r"does not contain a file named 'spin\.toml'"):
        find_manifest(tmp_path)
    with pytest.raises(ManifestError, match="No such file or directory"):
        find_manifest(file)
    file.write_text(MINIMAL)
    assert find_manifest(tmp_path) == file
    assert find_manifest(str(file)) == file
    wasm = tmp_path / "x.wasm"
    wasm.write_bytes(b"")
    assert find_manifest(wasm) == wasm


def test_find_above(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".git").mkdir()  # or the search would go on above this test's folder
    deep = tmp_path / "a" / "b"
    deep.mkdir(parents=True)
    monkeypatch.chdir(deep)
    with pytest.raises(ManifestError, match=r"Default file 'spin\.toml' not found"):
        find_manifest()
    (tmp_path / "spin.toml").write_text(MINIMAL)  # beside the .git it is still found
    assert find_manifest() == tmp_path / "spin.toml"
    (tmp_path / "a" / ".git").mkdir()
    with pytest.raises(ManifestError, match=r"Default file 'spin\.toml' not found"):
        find_manifest()
    (deep / "spin.toml").write_text(MINIMAL)
    assert find_manifest() == deep / "spin.toml"


def test_find_gives_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "spin.toml").write_text(MINIMAL)
    deep = tmp_path.joinpath(*"abcdefghijklmnopqrs")  # 19 levels
    (deep / "t").mkdir(parents=True)
    monkeypatch.chdir(deep)
    assert find_manifest() == tmp_path / "spin.toml"
    monkeypatch.chdir(deep / "t")
    with pytest.raises(ManifestError, match=r"Default file 'spin\.toml' not found"):
        find_manifest()


# -- cost --------------------------------------------------------------------------------------------


def test_a_manifest_is_read_in_milliseconds() -> None:
    text = HEAD + "".join(
        f"""
[[trigger.http]]
route = "/{name}/..."
component = "{name}"
[component.{name}]
source = "{name}.wasm"
files = [{{ source = "static", destination = "/" }}]
key_value_stores = ["default"]
build = {{ command = "make", watch = ["src/**/*.rs", "Cargo.toml"] }}
"""
        for name in ("a", "b", "c", "d", "e", "f", "g")
    )
    best = min(_timed(text) for _ in range(20))
    assert best < 0.020  # about 1 ms on an idle machine


def _timed(text: str) -> float:
    begin = time.thread_time()
    parse(text)
    return time.thread_time() - begin


def test_reading_a_manifest_imports_nothing_heavy() -> None:
    # the package itself may import more, so a bare one stands in for it
    code = f"""
import sys, types
package = sys.modules["wasm_gateway"] = types.ModuleType("wasm_gateway")
package.__path__ = [{str(Path(wasm_gateway.manifest.__file__).parent)!r}]
import wasm_gateway.assets, wasm_gateway.variables
print(*sys.modules)
"""
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    loaded = set(output.split())
    assert {"wasm_gateway.assets", "wasm_gateway.runtime_config"} <= loaded
    assert not loaded & {"urllib3", "http.client", "ssl", "dotenv", "wasmtime", "django", "json"}
