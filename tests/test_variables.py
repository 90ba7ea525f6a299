# Templates, providers and their order (Spin: manifest, section 10; command line, 3.4).

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from wasm_gateway.errors import ManifestError
from wasm_gateway.manifest import Manifest, Variable, parse_manifest
from wasm_gateway.runtime_config import RuntimeConfig, parse_runtime_config
from wasm_gateway.variables import (
    EnvProvider,
    InvalidName,
    ProviderFailed,
    StaticProvider,
    Template,
    Undefined,
    VariableError,
    Variables,
    check_name,
    parse_variable_options,
    providers,
)

# -- names and templates -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a", "abc", "a1b2c3", "a_1", "a_1_b_3", "a_b"])
def test_names(name: str) -> None:
    assert check_name(name) == name


@pytest.mark.parametrize("name", ["", "aX", "1bc", "_x", "x.y", "x_", "a__b", "x-y", "é", "a b", "a\n", "٣"])
def test_what_is_no_name(name: str) -> None:
    with pytest.raises(InvalidName):
        check_name(name)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ""),
        ("plain", "plain"),
        ("{{ a }}", "<a>"),
        ("{{a}}", "<a>"),
        ("{{  \t a\n }}", "<a>"),
        ("prefix-{{ a }}-suffix", "prefix-<a>-suffix"),
        ("{{ a }}{{ b_1 }}", "<a><b_1>"),
        ("one } two }} three { four", "one } two }} three { four"),
        ("{{ a }}}}", "<a>}}"),
        ("{ {{ a }} }", "{ <a> }"),
    ],
)
def test_templates(text: str, expected: str) -> None:
    assert Template.parse(text).resolve(lambda name: f"<{name}>") == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{{", "invalid variable template: unmatched '{{' in template"),
        ("a {{ b", "invalid variable template: unmatched '{{' in template"),
        ("{{ a }} {{ b }", "invalid variable template: unmatched '{{' in template"),
        ("{{}}", 'invalid variable name ""'),
        ("{{ A }}", 'invalid variable name "A"'),
        ("{{ a b }}", 'invalid variable name "a b"'),
        ("{{{{ a }}}}", 'invalid variable name "{{ a"'),
        ("{{{ a }}}", 'invalid variable name "{ a"'),
    ],
)
def test_malformed_templates(text: str, message: str) -> None:
    with pytest.raises(VariableError) as caught:
        Template.parse(text)
    assert message in str(caught.value)
    # no mistake of the guest that asks for the variable
    assert caught.value.kind == "other"


def test_values_are_not_templates() -> None:
    assert Template.parse("{{ a }}").resolve(lambda name: "{{ b }}") == "{{ b }}"


# -- providers ---------------------------------------------------------------------------------------


def test_the_environment() -> None:
    environ = {"SPIN_VARIABLE_A_B": "1", "MY_A_B": "2", "_A_B": "3", "spin_variable_a_b": "4"}
    assert EnvProvider(environ=environ).get("a_b") == "1"
    assert EnvProvider("MY", environ=environ).get("a_b") == "2"
    assert EnvProvider("", environ=environ).get("a_b") == "3"
    assert EnvProvider(environ=environ).get("b") is None
    # looked up when asked for
    provider = EnvProvider(environ=environ)
    environ["SPIN_VARIABLE_B"] = "5"
    assert provider.get("b") == "5"


def test_the_environment_of_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPIN_VARIABLE_A", "1")
    assert EnvProvider().get("a") == "1"


def test_a_dotenv_file(tmp_path: Path) -> None:
    dotenv = tmp_path / ".env"
    dotenv.write_text(
        "# comment\n"
        "SPIN_VARIABLE_A=from file\n"
        "export SPIN_VARIABLE_B = 'single # quoted'\n"
        'SPIN_VARIABLE_C="double\\nquoted" # comment\n'
        "SPIN_VARIABLE_D=é\n"
        "SPIN_VARIABLE_E=\n"
        "OTHER=x\n",
        encoding="utf-8",
    )
    provider = EnvProvider(dotenv=dotenv, environ={"SPIN_VARIABLE_A": "from process"})
    assert [provider.get(name) for name in "abcdef"] == [
        "from process",
        "single # quoted",
        "double\nquoted",
        "é",
        "",
        None,
    ]
    # read once
    dotenv.write_text("SPIN_VARIABLE_B=changed")
    assert provider.get("b") == "single # quoted"


def test_a_dotenv_file_that_is_missing_or_unreadable(tmp_path: Path) -> None:
    assert EnvProvider(dotenv=tmp_path / ".env", environ={}).get("a") is None
    (tmp_path / ".env").write_bytes(b"SPIN_VARIABLE_A=\xff")
    with pytest.raises(ProviderFailed):
        EnvProvider(dotenv=tmp_path / ".env", environ={}).get("a")


def test_the_order_of_providers(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("SPIN_VARIABLE_F=dotenv\nSPIN_VARIABLE_E=dotenv\nSPIN_VARIABLE_G=dotenv")
    (tmp_path / "my.env").write_text("MY_D=my.env")
    config = parse_runtime_config(
        """
[[variables_provider]]
type = "static"
values = { a = "static 1", b = "static 1" }
[[variables_provider]]
type = "env"
prefix = "MY"
dotenv_path = "my.env"
[[variables_provider]]
type = "vault"
url = ""
token = ""
mount = ""
[[variables_provider]]
type = "static"
values = { b = "static 2", c = "static 2", d = "static 2", e = "static 2" }
""",
        tmp_path / "runtime-config.toml",
    )
    environ = {
        "SPIN_VARIABLE_A": "env",
        "SPIN_VARIABLE_E": "env",
        "SPIN_VARIABLE_F": "env",
        "MY_C": "my env",
    }
    variables = Variables(
        {name: Variable(name, default="default") for name in "abcdefgh"},
        providers({"a": "command line"}, config, environ=environ, folder=tmp_path),
    )
    assert {name: variables.value(name) for name in "abcdefgh"} == {
        "a": "command line",
        "b": "static 1",
        "c": "my env",
        "d": "my.env",
        "e": "static 2",
        "f": "env",
        "g": "dotenv",
        "h": "default",
    }


def test_a_configured_env_provider_has_no_dotenv_by_itself(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("MY_A=1")
    config = parse_runtime_config('[[variables_provider]]\ntype = "env"\nprefix = "MY"', tmp_path / "c.toml")
    assert [p.get("a") for p in providers({}, config, environ={}, folder=tmp_path)] == [None, None, None]


def test_an_empty_value_is_a_value() -> None:
    variables = Variables({"a": Variable("a", default="x")}, [StaticProvider({"a": ""})])
    assert variables.value("a") == ""


# -- variables of an application and its components --------------------------------------------------


def manifest(variables: str, component: str = "", more: str = "") -> Manifest:
    return parse_manifest(
        'spin_manifest_version = 2\napplication.name = "app"\n[trigger]\n'
        f"[variables]\n{variables}\n[component.one]\nsource = '1'\n{component}\n{more}",
        Path("/app/spin.toml"),
    )


APP = manifest(
    "host = { default = 'localhost' }\ntoken = { required = true }\n",
    "variables = { url = 'http://{{ host }}/{{ token }}', fixed = 'x', host = '{{ host }}' }",
)


def test_a_guest_sees_its_component_variables_only() -> None:
    variables = Variables.from_manifest(APP, values={"token": "T", "unknown": "is ignored"}, environ={})
    own = variables.of(APP.components["one"])
    assert own.names == ("url", "fixed", "host")
    assert {name: own.get(name) for name in own.names} == {
        "url": "http://localhost/T",
        "fixed": "x",
        "host": "localhost",
    }
    assert own.get_all() == (("url", "http://localhost/T"), ("fixed", "x"), ("host", "localhost"))
    with pytest.raises(Undefined) as caught:
        own.get("token")
    assert caught.value.kind == "undefined"


@pytest.mark.parametrize("name", ["URL", "a-b", "", "a__b"])
def test_a_guest_that_asks_for_what_is_no_name(name: str) -> None:
    own = Variables.from_manifest(APP, values={"token": "T"}, environ={}).of(APP.components["one"])
    with pytest.raises(InvalidName) as caught:
        own.get(name)
    assert caught.value.kind == "invalid-name"


def test_a_value_that_is_missing_when_it_is_asked_for() -> None:
    own = Variables(APP.variables).of(APP.components["one"])
    with pytest.raises(ProviderFailed, match='no provider resolved required variable "token"') as caught:
        own.get("url")
    assert caught.value.kind == "provider"
    with pytest.raises(ProviderFailed):
        own.get_all()
    assert own.get("host") == "localhost"


def test_values_may_change_while_the_application_runs() -> None:
    environ = {"SPIN_VARIABLE_TOKEN": "1"}
    own = Variables.from_manifest(APP, environ=environ).of(APP.components["one"])
    assert own.get("url") == "http://localhost/1"
    environ["SPIN_VARIABLE_TOKEN"] = "2"
    assert own.get("url") == "http://localhost/2"


def test_a_required_variable_needs_a_value() -> None:
    with pytest.raises(
        ManifestError, match=r"no provider resolved required variable\(s\): \[token\]"
    ) as caught:
        Variables.from_manifest(APP, environ={})
    assert caught.value.path == Path("/app/spin.toml")
    for values, environ in [({"token": ""}, {}), ({}, {"SPIN_VARIABLE_TOKEN": ""})]:
        assert Variables.from_manifest(APP, values=values, environ=environ).value("token") == ""


class Later:
    """A provider whose values may come later."""

    dynamic = True

    def __init__(self) -> None:
        self.values: dict[str, str] = {}

    def get(self, name: str) -> str | None:
        return self.values.get(name)


def test_a_dynamic_provider_may_bring_it_later() -> None:
    later = Later()
    variables = Variables(APP.variables, [later])
    variables.check(APP)
    with pytest.raises(ProviderFailed):
        variables.value("token")
    later.values["token"] = "T"
    assert variables.value("token") == "T"


@pytest.mark.parametrize(
    ("component", "more", "message", "key"),
    [
        (
            "variables = { a = '{{ missing }}' }",
            "",
            'invalid variable template: unknown variable "missing"',
            "component.one.variables.a",
        ),
        (
            "variables = { a = '{{ host' }",
            "",
            "invalid variable template: unmatched '{{' in template",
            "component.one.variables.a",
        ),
        ("variables = { a = '{{ Host }}' }", "", 'invalid variable name "Host"', "component.one.variables.a"),
        (
            "allowed_outbound_hosts = ['http://a', 'http://{{ missing }}']",
            "",
            'unknown variable "missing"',
            "component.one.allowed_outbound_hosts[1]",
        ),
        (
            "",
            "[[trigger.redis]]\ncomponent = 'one'\nchannel = '{{ missing }}'",
            'unknown variable "missing"',
            "trigger.redis one-redis-trigger",
        ),
        (
            "",
            "[[trigger.redis]]\ncomponent = 'one'\nchannel = 'c'\naddress = '{{'",
            "unmatched '{{'",
            "trigger.redis one-redis-trigger",
        ),
    ],
)
def test_templates_are_checked_at_start(component: str, more: str, message: str, key: str) -> None:
    app = manifest("host = { default = '' }", component, more)
    with pytest.raises(ManifestError) as caught:
        Variables.from_manifest(app, environ={})
    assert message in caught.value.message
    assert caught.value.key == key


def test_the_line_of_a_bad_template_is_found(tmp_path: Path) -> None:
    text = (
        'spin_manifest_version = "1"\nname = "app"\ntrigger = { type = "http" }\n'
        '[[component]]\nid = "one"\nsource = "1"\ntrigger = { route = "/" }\n'
        'config = { a = "{{ missing }}" }\n'
    )
    path = tmp_path / "spin.toml"
    path.write_text(text)
    with pytest.raises(ManifestError) as caught:
        Variables.from_manifest(parse_manifest(text, path), RuntimeConfig(), environ={})
    assert (caught.value.key, caught.value.line) == ("component[0].config.a", 8)


def test_threads_share_the_variables() -> None:
    variables = Variables.from_manifest(APP, values={"token": "T"}, environ={})
    own = variables.of(APP.components["one"])
    seen: list[set[str]] = []

    def ask() -> None:
        seen.append({own.get("url") for _ in range(200)})

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == [{"http://localhost/T"}] * 4


# -- the command line --------------------------------------------------------------------------------


def test_variable_options(tmp_path: Path) -> None:
    (tmp_path / "text").write_bytes(" not trimmed é\r\n".encode())
    (tmp_path / "v.json").write_text('{"a": "json", "b": "json"}')
    (tmp_path / "v.toml").write_text('b = "toml"\nc = "toml"')
    options = ["a=1", "b=x=y", "d=", "e=@text", "@v.json", "@v.toml", "f=1", "f=2"]
    assert parse_variable_options(options, tmp_path) == {
        "a": "json",
        "b": "toml",
        "c": "toml",
        "d": "",
        "e": " not trimmed é\r\n",
        "f": "2",
    }
    assert parse_variable_options(["b=x=y"]) == {"b": "x=y"}
    assert parse_variable_options([f"@{tmp_path / 'v.toml'}"]) == {"b": "toml", "c": "toml"}


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("a", "variables must be in the form 'key=value' or '@file'"),
        ("", "variables must be in the form 'key=value' or '@file'"),
        ("=1", 'invalid variable name ""'),
        ("Bad=1", 'invalid variable name "Bad"'),
        ("a=@missing", "No such file"),
        ("a=@latin1", "not UTF-8"),
        ("@v.yaml", "variable files must end in .json or .toml"),
        ("@missing.json", "No such file"),
        ("@list.json", "expected an object of variables"),
        ("@number.json", "invalid type: int, expected a string"),
        ("@broken.json", "invalid JSON"),
        ("@number.toml", "invalid type: integer `1`, expected a string"),
        ("@broken.toml", "invalid TOML"),
        ("@name.toml", 'invalid variable name "Bad"'),
    ],
)
def test_mistakes_in_variable_options(tmp_path: Path, option: str, message: str) -> None:
    for name, text in [
        ("v.yaml", "a: 1"),
        ("list.json", "[]"),
        ("number.json", '{"a": 1}'),
        ("broken.json", "{"),
        ("number.toml", "a = 1"),
        ("broken.toml", "a"),
        ("name.toml", 'Bad = ""'),
    ]:
        (tmp_path / name).write_text(text)
    (tmp_path / "latin1").write_bytes(b"\xe9")
    with pytest.raises(ManifestError) as caught:
        parse_variable_options([option], tmp_path)
    assert message in str(caught.value)
