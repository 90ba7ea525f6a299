# What is written for other machines: that it is what they take, and what it says.

from __future__ import annotations

import json
import os
import re
import stat
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml as pyyaml
from click.testing import CliRunner, Result
from hypothesis import given, settings
from hypothesis import strategies as st

from wasm_gateway.cli import cli
from wasm_gateway.export import caveats, containerfile, kubernetes_name, spin_commands, spinapp, yaml
from wasm_gateway.manifest import load_manifest, parse_manifest
from wasm_gateway.sites import find_site

ROOT = Path(__file__).parent.parent
GAME = ROOT / "example_projects" / "finicky_whiskers"

MANIFEST = """
spin_manifest_version = 2
[application]
name = "Größe 9: \\"x\\""
version = "1.0"
[variables]
password = { required = true }
greeting = { default = "hi" }
token = { default = "", secret = true }
[[trigger.http]]
route = "/a"
component = "a"
[[trigger.cron]]
component = "b"
[component.a]
source = "guests/a.wasm"
allowed_outbound_hosts = ["postgres://db.example", "https://x.example"]
[component.a.tool.wasm-gateway]
timeout = "1s"
host_interfaces = ["site:users/api"]
[component.b]
source = "b.wasm"
[component.b.build]
command = "make"
"""


def manifest(folder: Path, text: str = MANIFEST) -> Any:
    (folder / "spin.toml").write_text(text)
    return parse_manifest(text, folder / "spin.toml")


def run(*arguments: str) -> Result:
    result = CliRunner().invoke(cli, ["export", *arguments], prog_name="wasm-gateway")
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


# SpinApp

# The spec of core.spinkube.dev/v1alpha1, as far as it is used: a type; a closed table, in which "!" marks
# what is required; a list of one.
REFERENCE = {"name": str, "key!": str, "optional": bool}
PROBE = {"httpGet": {"path!": str}}
SPEC = {
    "executor!": str,
    "image!": str,
    "replicas": int,
    "components": [str],
    "checks": {"liveness": PROBE, "readiness": PROBE},
    "runtimeConfig": {"loadFromSecret": str},
    "variables": [{"name!": str, "value": str, "valueFrom": {"secretKeyRef": REFERENCE}}],
    "resources": {"limits": {"cpu": str, "memory": str}, "requests": {"cpu": str, "memory": str}},
}


def conforms(value: object, shape: Any, place: str = "spec") -> None:
    match shape:
        case dict():
            assert isinstance(value, dict), place
            names = {name.removesuffix("!"): each for name, each in shape.items()}
            assert set(value) <= set(names), place
            assert {name[:-1] for name in shape if name.endswith("!")} <= set(value), place
            for name, each in value.items():
                conforms(each, names[name], f"{place}.{name}")
        case [item]:
            assert isinstance(value, list), place
            assert value, place
            for each in value:
                conforms(each, item, f"{place}[]")
        case _:
            assert type(value) is shape, place


def test_a_spinapp(tmp_path: Path) -> None:
    text = spinapp(
        manifest(tmp_path), "ghcr.io/me/x:1.0", replicas=3, components=["a"], runtime_config="my config.toml"
    )
    found = pyyaml.safe_load(text)
    assert list(found) == ["apiVersion", "kind", "metadata", "spec"]
    assert (found["apiVersion"], found["kind"]) == ("core.spinkube.dev/v1alpha1", "SpinApp")
    assert found["metadata"] == {"name": "gr-e-9-x"}
    spec = found["spec"]
    conforms(spec, SPEC)
    assert (spec["image"], spec["replicas"], spec["components"]) == ("ghcr.io/me/x:1.0", 3, ["a"])
    references = {each["name"]: each["valueFrom"]["secretKeyRef"] for each in spec["variables"]}
    assert references == {
        "password": {"name": "gr-e-9-x-variables", "key": "password", "optional": False},
        "token": {"name": "gr-e-9-x-variables", "key": "token", "optional": True},
    }
    comments = [line for line in text.splitlines() if line.startswith("#")]
    assert any("--from-file='runtime-config.toml=my config.toml'" in line for line in comments)
    assert any("trigger-cron" in line for line in comments)


def test_the_game_as_a_spinapp() -> None:
    found = pyyaml.safe_load(spinapp(load_manifest(GAME / "spin.toml"), "x"))
    conforms(found["spec"], SPEC)
    assert found["spec"]["checks"]["liveness"] == {"httpGet": {"path": "/.well-known/spin/health"}}


def test_what_does_not_travel_is_told(tmp_path: Path) -> None:
    text = MANIFEST.replace('"b.wasm"', '"b.wat"')
    (about_text,) = [each for each in caveats(manifest(tmp_path, text)) if "is text" in each]
    assert about_text.startswith(
        "component b is text, which Spin does not read: make a binary of it (wasm-tools"
    )
    found = caveats(manifest(tmp_path))
    assert len(found) == 3
    assert "site:users/api" in found[0]
    assert found[1] == "Spin does not read timeout (of a)"
    assert "plugin trigger-cron" in found[2]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("Hello World", "hello-world"),
        ("9", "app-9"),
        ("", "app"),
        ("é", "app"),
        ("a" * 60, "a" * 50),
        ("-x-", "x"),
    ],
)
def test_names(name: str, expected: str) -> None:
    assert kubernetes_name(name) == expected
    assert re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", expected)


TEXT = st.text(st.characters(exclude_categories=["Cs"]))
VALUE = st.recursive(
    TEXT | st.booleans() | st.integers() | st.none(),
    lambda inner: (
        st.dictionaries(TEXT, inner, max_size=3)
        | st.lists(TEXT | st.integers() | st.dictionaries(TEXT, inner, min_size=1, max_size=3), max_size=3)
    ),
    max_leaves=10,
)


@settings(max_examples=50)
@given(st.dictionaries(TEXT | st.sampled_from(["no", "Null", "aB1"]), VALUE, max_size=3))
def test_yaml_is_read_back(value: dict[str, Any]) -> None:
    assert (pyyaml.safe_load("\n".join(yaml(value))) or {}) == value


# Spin


def test_spin_commands(tmp_path: Path) -> None:
    folder = tmp_path / "it's here"
    folder.mkdir()
    text = spin_commands(manifest(folder), "ghcr.io/me/x:1.0")
    commands = [line for line in text.splitlines() if not line.startswith("#")]
    assert commands[0] == "set -eu"
    assert commands[2:] == ["spin build -f spin.toml", "spin registry push -f spin.toml ghcr.io/me/x:1.0"]


@pytest.mark.skipif(os.name == "nt", reason="runs a shell script")
def test_the_script_runs(tmp_path: Path) -> None:
    folder = tmp_path / "it's here"
    tools = tmp_path / "bin"
    folder.mkdir()
    tools.mkdir()
    spin = tools / "spin"
    spin.write_text('#!/bin/sh\npwd >> "$LOG"\necho "$@" >> "$LOG"\n')
    spin.chmod(0o755)
    manifest(folder)
    result = run("spin", "-f", str(folder), "-o", str(tmp_path / "out"), "--image", "ghcr.io/me/x:1.0")
    script = tmp_path / "out" / "push.sh"
    assert result.stdout == f"{script}\n"
    assert script.stat().st_mode & stat.S_IXUSR
    environment = {"PATH": f"{tools}{os.pathsep}{os.environ['PATH']}", "LOG": str(tmp_path / "log")}
    subprocess.run([script], env=environment, check=True, timeout=60)
    assert (tmp_path / "log").read_text().splitlines() == [
        *(str(folder), "build -f spin.toml"),
        *(str(folder), "registry push -f spin.toml ghcr.io/me/x:1.0"),
    ]


# Containers

INSTRUCTIONS = {"FROM", "ENV", "RUN", "WORKDIR", "COPY", "USER", "EXPOSE", "CMD"}


def instructions(text: str) -> list[tuple[str, str]]:
    pairs = [line.partition(" ") for line in text.splitlines() if line and not line.startswith("#")]
    assert {name for name, _, _ in pairs} <= INSTRUCTIONS
    return [(name, rest) for name, _, rest in pairs]


def test_the_game_in_a_container() -> None:
    found = instructions(containerfile(load_manifest(GAME / "spin.toml"), find_site(GAME)))
    names = [name for name, _ in found]
    assert names[0] == "FROM"
    assert names[-1] == "CMD"
    assert json.loads(found[-1][1])[0] == "gunicorn"
    assert json.loads(found[-1][1])[-1] == "finicky_whiskers.wsgi:application"
    # compiled by the user that serves
    assert names.index("USER") < found.index(("RUN", "python manage.py wasm_compile"))
    assert ("USER", "site") in found
    assert ("RUN", "pip install 'wasm-gateway[django]' gunicorn") in found


def test_a_flask_app_with_requirements(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text("from flask import Flask\napp = Flask(__name__)")
    (tmp_path / "requirements.txt").write_text("flask\n")
    found = instructions(containerfile(manifest(tmp_path), find_site(tmp_path)))
    copy = found.index(("COPY", "requirements.txt ./"))
    assert found[copy + 1] == ("RUN", "pip install -r requirements.txt")
    assert ("RUN", "pip install 'wasm-gateway[flask,postgres]' gunicorn") in found
    assert ("RUN", "flask --app app:app wasm compile") in found


def test_without_a_site(tmp_path: Path) -> None:
    (tmp_path / ".git").mkdir()
    (tmp_path / "pyproject.toml").write_text("[build-system]\n")
    found = instructions(containerfile(manifest(tmp_path), find_site(tmp_path)))
    assert ("RUN", "pip install .") in found
    assert ("RUN", "wasm-gateway compile -f spin.toml") in found
    assert json.loads(found[-1][1]) == ["wasm-gateway", "up", "-f", "spin.toml", "--listen", "0.0.0.0:8000"]


def test_what_lies_outside_is_refused(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    manifest(tmp_path / "in", MANIFEST.replace('"b.wasm"', '"../b.wasm"'))
    result = run("container", "-f", str(tmp_path / "in"))
    assert result.exit_code == 1
    assert "lies outside of" in result.stderr


def test_files_are_not_written_over(tmp_path: Path) -> None:
    (tmp_path / ".git").mkdir()
    manifest(tmp_path)
    command = ["container", "-f", str(tmp_path), "-o", str(tmp_path)]
    assert run(*command).exit_code == 0
    ignored = (tmp_path / ".containerignore").read_text().splitlines()
    assert ".git" in ignored
    assert "**/.spin" in ignored
    assert run(*command).exit_code == 1
    assert run(*command, "--force").exit_code == 0


def test_guests_are_never_ignored(tmp_path: Path) -> None:
    (tmp_path / ".git").mkdir()
    manifest(tmp_path, MANIFEST.replace("guests/a.wasm", "target/wasm32-wasip2/release/a.wasm"))
    run("container", "-f", str(tmp_path), "-o", str(tmp_path))
    assert "**/target" not in (tmp_path / ".containerignore").read_text().splitlines()


def test_to_stdout_with_a_note(tmp_path: Path) -> None:
    manifest(tmp_path)
    result = run("spinapp", "-f", str(tmp_path))
    assert pyyaml.safe_load(result.stdout)["spec"]["image"] == "registry.example.com/gr-e-9-x:1.0"
    assert "--image REF is not given" in result.stderr
    assert run("spinapp", "-f", str(tmp_path), "--image", "x").stderr == ""
