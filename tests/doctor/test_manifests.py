# Each diagnosis of a manifest's text: what it says, and the text that its repair leaves.

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wasm_gateway.doctor.drafts import Draft, toml
from wasm_gateway.doctor.findings import Finding, Level
from wasm_gateway.doctor.manifests import diagnose, read, same, upgraded
from wasm_gateway.manifest import parse_manifest

V2 = """spin_manifest_version = 2
[application]
name = "x"
[[trigger.http]]
route = "/x"
component = "a"
[component.a]
source = "a.wasm"
"""
V1 = """spin_manifest_version = "1"
name = "x"
trigger = { type = "http" }
[[component]]
id = "a"
source = "a.wasm"
[component.trigger]
route = "/x"
"""


def treated(text: str, folder: Path) -> tuple[list[Finding], str]:
    findings, repaired, _ = diagnose(Draft(text), folder / "spin.toml")
    return findings, repaired


@pytest.mark.parametrize(
    ("text", "level", "what", "repaired"),
    [
        pytest.param(
            V2.replace("spin_manifest_version = 2\n", "# Mine\n"),
            *(Level.BROKEN, "is missing"),
            V2.replace("2\n", "2\n# Mine\n", 1),
            id="no version",
        ),
        pytest.param(
            V2.replace("spin_manifest_version = 2\n", "#:schema there\n"),
            *(Level.BROKEN, "is missing"),
            "#:schema there\n" + V2,
            id="no version, a schema",
        ),
        pytest.param(V2.replace("= 2", '= "2"'), Level.BROKEN, 'and is "2"', V2, id="version as text"),
        pytest.param(
            V2.replace("= 2", "=77 # ?"), Level.BROKEN, "and is 77", V2.replace("= 2", "=2 # ?"), id="77"
        ),
        pytest.param(
            V2.replace("trigger.http", "trigger.HTTP"), Level.BROKEN, "no trigger `HTTP`", V2, id="upper case"
        ),
        pytest.param(
            V2.replace("[trigger.http]", '[ trigger . "wagi" ]'),
            *(Level.BROKEN, "no trigger `wagi`"),
            V2.replace("[trigger.http]", "[ trigger . http ]"),
            id="executor as trigger",
        ),
        pytest.param(
            V2 + '[application.trigger.http]\nbase = "/" # all\n',
            *(Level.HINT, "no effect"),
            V2 + "[application.trigger.http]\n",
            id="base without effect",
        ),
        pytest.param(
            V2.replace('name = "x"\n', 'name = "x"\ntrigger.http = { base = "/api/" }\n'),
            *(Level.BROKEN, 'base path "/api/"'),
            V2.replace('name = "x"\n', 'name = "x"\ntrigger.http = {  }\n').replace('"/x"', '"/api/x"'),
            id="base",
        ),
        pytest.param(
            V2 + 'allowed_http_hosts = ["example.com"]\n',
            *(Level.HINT, "deprecated"),
            V2 + 'allowed_outbound_hosts = ["http://example.com", "https://example.com"]\n',
            id="hosts",
        ),
        pytest.param(
            V2 + 'allowed_outbound_hosts = ["http://self"] # here\nallowed_http_hosts = [\n "self" # ?\n]\n',
            *(Level.HINT, "deprecated"),
            V2 + 'allowed_outbound_hosts = ["http://self"] # here\n',
            id="both hosts",
        ),
        pytest.param(
            V2 + 'allowed_outbound_hosts = ["insecure:allow-all"]\n',
            *(Level.BROKEN, "is refused"),
            V2 + 'allowed_outbound_hosts = ["*://*:*"]\n',
            id="all hosts",
        ),
        pytest.param(
            V2.replace('"a"\n', '"a"\nexecutor = "wagi"\n', 1),
            *(Level.BROKEN, "is a table"),
            V2.replace('"a"\n', '"a"\nexecutor = { type = "wagi" }\n', 1),
            id="executor as text",
        ),
        pytest.param(
            V2.replace('"a"\n', '"a"\nexecutor = { type = "wagi", entrypoint = "_start" }\n', 1),
            *(Level.HINT, "`entrypoint` is deprecated"),
            V2.replace('"a"\n', '"a"\nexecutor = { type = "wagi" }\n', 1),
            id="entry point",
        ),
        pytest.param(
            V2 + '[component.a.build]\ncommand = "cargo build --target wasm32-wasi"\n',
            *(Level.RISK, "wasm32-wasi"),
            V2 + '[component.a.build]\ncommand = "cargo build --target wasm32-wasip1"\n',
            id="old target of Rust",
        ),
        pytest.param(
            V2 + 'allowed_models = ["llama2-chat"]\n',
            *(Level.BROKEN, "no key `allowed_models`"),
            V2 + 'ai_models = ["llama2-chat"]\n',
            id="another name",
        ),
        pytest.param(
            V2 + '[component.a.enviroment]\nX = "y"\n[component.a.config]\nz = "1"\n',
            *(Level.BROKEN, "no key `enviroment`"),
            V2 + '[component.a.environment]\nX = "y"\n[component.a.variables]\nz = "1"\n',
            id="misspelt tables",
        ),
        pytest.param(
            V1.replace("spin_manifest_version", "spin_version"),
            Level.HINT,
            "old name",
            upgraded(V1),
            id="old key",
        ),
        pytest.param(V1.replace('"1"', "1"), Level.BROKEN, "and is 1", upgraded(V1), id="1 as number"),
        pytest.param(
            V1.replace('trigger = { type = "http" }\n', ""),
            *(Level.BROKEN, "has no trigger"),
            upgraded(V1),
            id="v1 without trigger",
        ),
        pytest.param(
            V1.replace('type = "http"', 'type = "spin"'),
            Level.BROKEN,
            "no trigger `spin`",
            upgraded(V1),
            id="v1 type",
        ),
        pytest.param(
            V1.replace('{ type = "http" }', '{ type = "http", base = "/" }'),
            *(Level.HINT, "no effect"),
            upgraded(V1),
            id="v1 base",
        ),
        pytest.param(
            V1.replace('{ type = "http" }', '{ base = "/b", type = "http" }'),
            *(Level.BROKEN, "base path"),
            upgraded(V1.replace("/x", "/b/x")),
            id="v1 base path",
        ),
        pytest.param(
            V1.replace('[component.trigger]\nroute = "/x"\n', ""),
            *(Level.BROKEN, "no route"),
            upgraded(V1.replace("/x", "/...")),
            id="v1 without route",
        ),
    ],
)
def test_repaired(tmp_path: Path, text: str, level: Level, what: str, repaired: str) -> None:
    findings, after = treated(text, tmp_path)
    (finding,) = [each for each in findings if what in each.what]
    assert (finding.level, finding.repairable, after) == (level, True, repaired)
    # and once is enough
    again, unchanged = treated(after, tmp_path)
    assert (again, unchanged) == ([], after)


@pytest.mark.parametrize(
    ("text", "what", "advice"),
    [
        pytest.param(
            V2.replace("trigger.http", "trigger.cron"), "a plugin of Spin", "-c/--component-id", id="plugin"
        ),
        pytest.param(
            V2.replace('"a"\n', '"a"\nexecutor = { type = "wagi", entrypoint = "go" }\n', 1),
            "WAGI guests begin at `_start`",
            "export the entry point",
            id="entry point",
        ),
        pytest.param(V2 + "nonsense = 1\n", "unknown field `nonsense`", "line 9", id="unknown key"),
        pytest.param(
            V2 + '[component.a.tool.wasm-gateway]\ntimeout = "long"\n',
            "not a duration",
            "schema",
            id="our table",
        ),
        pytest.param(
            V2 + 'allowed_http_hosts = ["a/b"]\n', "contains a path", "line 9", id="hosts that say nothing"
        ),
        pytest.param(
            V1.replace('route = "/x"', "")
            + '[[component]]\nid = "b"\nsource = "b.wasm"\n[component.trigger]\n',
            "no route",
            "say which",
            id="routes to be chosen",
        ),
    ],
)
def test_advice(tmp_path: Path, text: str, what: str, advice: str) -> None:
    findings, after = treated(text, tmp_path)
    found = [each for each in findings if what in each.what]
    assert found
    assert all(advice in each.advice and each.level is Level.BROKEN and not each.repairable for each in found)
    assert after == text


def test_one_mistake_does_not_hide_the_others(tmp_path: Path) -> None:
    text = (
        V2.replace("= 2", "= 3")
        .replace("trigger.http", "trigger.https")
        .replace('"a"\n', '"a"\nexecutor = "wagi"\n', 1)
        + 'allowed_http_hosts = ["example.com"]\n'
    )
    findings, after = treated(text, tmp_path)
    assert len(findings) == 4
    assert all(finding.repairable for finding in findings)
    assert parse_manifest(after, tmp_path / "spin.toml").http_triggers[0].executor.type == "wagi"


def test_invalid_toml_says_where(tmp_path: Path) -> None:
    path = tmp_path / "spin.toml"
    path.write_text("a = 1\nb = = 2\n")
    _, (finding,), draft = read(path)
    assert draft is None
    assert (finding.level, finding.place) == (Level.BROKEN, "spin.toml:2")


def test_a_good_manifest_is_left_alone(tmp_path: Path) -> None:
    assert treated(V2, tmp_path) == ([], V2)


WATCH_RUST = 'watch = ["src/**/*.rs", "Cargo.toml"]\n'


@pytest.mark.parametrize(
    ("file", "content", "source", "expected"),
    [
        (
            "Cargo.toml",
            "",
            "target/wasm32-wasip1/release/a.wasm",
            'command = "cargo build --target wasm32-wasip1 --release"\n' + WATCH_RUST,
        ),
        (
            "web/package.json",
            '{"scripts": {"build": "tsc"}}',
            "web/dist/a.wasm",
            (
                'command = ["npm install", "npm run build"]\nworkdir = "web"\n'
                'watch = ["src/**/*.ts", "src/**/*.js", "package.json"]\n'
            ),
        ),
        ("web/Makefile", "", "web/a.wasm", 'command = "make"\nworkdir = "web"\n'),
        ("web/package.json", "{}", "web/a.wasm", None),
        ("Makefile", "", "../a.wasm", None),
    ],
)
def test_build_table(tmp_path: Path, file: str, content: str, source: str, expected: str | None) -> None:
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).write_text(content)
    text = V2.replace("a.wasm", source)
    findings, after = treated(text, tmp_path)
    if expected is None:
        assert (findings, after) == ([], text)
    else:
        (finding,) = findings
        assert (finding.level, finding.component) == (Level.HINT, "a")
        assert after == f"{text}\n[component.a.build]\n{expected}"


def test_line_ends_are_kept(tmp_path: Path) -> None:
    text = V2.replace("spin_manifest_version = 2\n", "").replace("\n", "\r\n")
    _, after = treated(text, tmp_path)
    assert after == V2.replace("\n", "\r\n")
    assert upgraded(V1.replace("\n", "\r\n")) == upgraded(V1).replace("\n", "\r\n")


# Version 1 to version 2

NAMES = st.from_regex(r"[a-z][a-z0-9]{0,8}(-[a-z][a-z0-9]{0,8})?", fullmatch=True)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
COMPONENT = st.fixed_dictionaries(
    {"id": NAMES, "source": TEXTS, "trigger": st.fixed_dictionaries({"route": TEXTS})},
    optional={
        "description": TEXTS,
        "environment": st.dictionaries(TEXTS, TEXTS, max_size=2),
        "config": st.dictionaries(st.sampled_from(["one", "two_words"]), TEXTS, max_size=2),
        "files": st.lists(TEXTS | st.fixed_dictionaries({"source": TEXTS, "destination": TEXTS}), max_size=2),
        "allowed_http_hosts": st.lists(
            st.sampled_from(["self", "a.example", "http://b.example:8080"]), max_size=2
        ),
        "allowed_outbound_hosts": st.lists(st.just("redis://*:6379"), max_size=1),
        "key_value_stores": st.lists(st.just("default"), max_size=1),
        "build": st.fixed_dictionaries({"command": TEXTS}, optional={"watch": st.lists(TEXTS, max_size=2)}),
    },
)
MANIFEST = st.fixed_dictionaries(
    {
        "spin_manifest_version": st.just("1"),
        "name": TEXTS,
        "trigger": st.fixed_dictionaries({"type": st.just("http")}, optional={"base": st.just("/")}),
        "component": st.lists(COMPONENT, min_size=1, max_size=4),
    },
    optional={
        "version": TEXTS,
        "authors": st.lists(TEXTS, max_size=2),
        "variables": st.dictionaries(
            NAMES.filter(lambda n: "-" not in n), st.just({"default": "x"}), max_size=2
        ),
    },
)


@settings(max_examples=40)
@given(MANIFEST)
def test_an_upgraded_manifest_means_the_same(document: dict[str, Any]) -> None:
    text = "".join(f"{key} = {toml(value)}\n" for key, value in document.items())
    path = Path("/app/spin.toml")
    assert same(parse_manifest(upgraded(text), path), parse_manifest(text, path))
    assert Draft(text).data == document


def test_comments_of_version_1_are_kept() -> None:
    text = "# An application\n" + V1.replace("[[component]]", "# The only one\n# of its kind\n[[component]]")
    after = upgraded(text)
    assert after.startswith("# An application\nspin_manifest_version = 2\n")
    assert "# The only one\n# of its kind\n[[trigger.http]]\n" in after
