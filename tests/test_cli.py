# The commands: usage, texts, exit codes. What `up` serves is in test_serve.py.

from __future__ import annotations

import json
import logging
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import wasmtime
from click.testing import CliRunner, Result

from wasm_gateway.cli import cli

MANIFEST = """
spin_manifest_version = 2
[application]
name = "texts"

[[trigger.http]]
route = "/hello"
component = "hello"
executor = { type = "wagi" }

[[trigger.http]]
route = "/..."
component = "hello"
executor = { type = "wagi" }

[[trigger.http]]
id = "fixed"
route = "static"
static_response = { body = "x" }

[[trigger.http]]
route = { private = true }
component = "inner"
executor = { type = "wagi" }

[[trigger.redis]]
channel = "news"
address = "redis://localhost"
component = "reader"

[component.hello]
source = "hello.wasm"
description = "Says hello"
[component.inner]
source = "hello.wasm"
[component.reader]
source = "reader.wasm"
"""
HELLO = """
(module
  (import "wasi_snapshot_preview1" "fd_write" (func (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "environ_get" (func (param i32 i32) (result i32)))
  (memory (export "memory") 1) (func (export "_start")))
"""
READER = """
(module
  (import "key-value" "close" (func (param i32)))
  (memory (export "memory") 1)
  (func (export "canonical_abi_realloc") (param i32 i32 i32 i32) (result i32) (i32.const 1024))
  (func (export "handle-redis-message") (param i32 i32) (result i32) (i32.const 256)))
"""


@pytest.fixture(autouse=True)
def logging_as_before() -> Iterator[None]:
    """The command sets the log of its process up; here that is the process of all tests."""
    loggers = [logging.getLogger(name) for name in ("wasm_gateway", "wasm_gateway.guest")]
    before = [(logger.level, logger.propagate, logger.handlers[:]) for logger in loggers]
    yield
    for logger, (level, propagate, handlers) in zip(loggers, before, strict=True):
        logger.setLevel(level)
        logger.propagate = propagate
        logger.handlers[:] = handlers


@pytest.fixture
def app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "spin.toml").write_text(MANIFEST)
    (tmp_path / "hello.wasm").write_bytes(wasmtime.wat2wasm(HELLO))
    (tmp_path / "reader.wasm").write_bytes(wasmtime.wat2wasm(READER))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path


def run(*arguments: str) -> Result:
    result = CliRunner().invoke(cli, list(arguments), prog_name="wasm-gateway")
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


# The command itself


def test_importing_it_imports_nothing_heavy() -> None:
    code = "import sys, wasm_gateway.cli; print('\\n'.join(sys.modules))"
    modules = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, check=True, text=True, timeout=60
    )
    heavy = {
        "wasmtime",
        "granian",
        "rich",
        "redis",
        "urllib3",
        "sqlite3",
        "django",
        "flask",
        "asyncio",
        "tomli",
    }

    assert heavy & {name.partition(".")[0] for name in modules.stdout.split()} == set()


def test_python_m() -> None:
    result = subprocess.run(
        [sys.executable, "-m", "wasm_gateway", "--help"],
        capture_output=True,
        check=True,
        text=True,
        timeout=60,
    )
    assert result.stdout.startswith("Usage: wasm-gateway [OPTIONS] COMMAND")
    for command in ("up", "routes", "check", "compile", "inspect"):
        assert f"\n  {command} " in result.stdout


@pytest.mark.parametrize("command", ["up", "routes", "check", "compile", "inspect"])
def test_help(command: str) -> None:
    result = run(command, "--help")
    assert result.exit_code == 0
    assert "--from PATH" in result.output


# Finding the manifest


def test_no_manifest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".git").mkdir()
    monkeypatch.chdir(tmp_path)
    result = run("routes")

    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith("Error: Default file 'spin.toml' not found")


def test_a_manifest_above_is_used_and_named(app: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (app / "deep").mkdir()
    monkeypatch.chdir(app / "deep")
    assert run("routes").stdout == run("routes", "-f", str(app)).stdout


def test_a_mistake_in_the_manifest(app: Path) -> None:
    (app / "spin.toml").write_text(MANIFEST.replace('route = "/hello"', "route = 7"))
    result = run("routes")

    assert result.exit_code == 1
    assert result.stderr.startswith(f"Error: {app}/spin.toml:")
    assert "route" in result.stderr


# routes


def test_routes(app: Path) -> None:
    result = run("routes")
    assert result.exit_code == 0
    assert result.stdout == (
        "Available Routes:\n"
        "  hello: /hello\n"
        "    Says hello\n"
        "  hello: / (wildcard)\n"
        "    Says hello\n"
        "  fixed: /static\n"
        "  inner: (private)\n"
        "  reader: Redis channel news on redis://localhost\n"
    )


def test_routes_for_programs(app: Path) -> None:
    rows = json.loads(run("routes", "--format", "json").stdout)
    assert [row["trigger"] for row in rows] == ["http"] * 4 + ["redis"]
    assert rows[0] == {
        "trigger": "http",
        "id": rows[0]["id"],
        "route": "/hello",
        "component": "hello",
        "executor": "wagi",
        "description": "Says hello",
    }
    assert rows[2]["executor"] == "static"
    assert rows[3]["route"] is None
    assert rows[4]["channel"] == "news"


def test_routes_of_some_components(app: Path) -> None:
    assert run("routes", "-c", "inner").stdout == "Available Routes:\n  inner: (private)\n"

    result = run("routes", "-c", "nobody")
    assert result.exit_code == 1
    assert "nobody" in result.stderr


# up: what is refused before anything runs


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["app.toml"], "Did you mean `wasm-gateway up -f app.toml`?"),
        (["--quiet", "--follow", "hello"], "--quiet cannot be used with --follow"),
        (["--tls-cert", "spin.toml"], "--tls-cert and --tls-key go together"),
        (["--env", "X"], "must be of the form `key=value`"),
        (["--key-value", "=x"], "must be of the form `key=value`"),
        (["--listen", "3000"], "HOST:PORT"),
        (["--workers", "0"], "--workers"),
        (["--max-instance-memory", "lots"], "--max-instance-memory"),
        (["--request-timeout", "-1"], "--request-timeout"),
        (["--http1-max-buf-size", "100"], "--http1-max-buf-size"),
        (["--format", "xml"], "--format"),
    ],
)
def test_wrong_usage_of_up(app: Path, arguments: list[str], text: str) -> None:
    result = run("up", *arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert text in " ".join(result.stderr.split())


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["-f", "missing.toml"], "No such file or directory"),
        (["--follow", "nobody"], "no such component: nobody (there are: hello, inner, reader)"),
        (["--variable", "x"], "variables must be in the form 'key=value' or '@file'"),
        (["--runtime-config-file", "missing.toml"], "missing.toml"),
        (["-c", "nobody"], "nobody"),
    ],
)
def test_what_up_cannot_run(app: Path, arguments: list[str], text: str) -> None:
    result = run("up", "--listen", "127.0.0.1:0", *arguments)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.splitlines()[-1].startswith("Error: ")
    assert text in result.stderr


def test_a_trigger_of_an_unknown_kind(app: Path) -> None:
    (app / "spin.toml").write_text(MANIFEST.replace("trigger.redis", "trigger.sqs"))
    result = run("up", "--listen", "127.0.0.1:0")

    assert result.exit_code == 1
    assert "No built-in trigger named 'sqs'" in result.stderr


# check


def test_check_of_a_good_application(app: Path) -> None:
    result = run("check")
    assert (result.exit_code, result.stdout) == (0, "3 components: no problems\n")
    assert json.loads(run("check", "--format", "json").stdout) == []


def test_check_reports_every_problem_and_who_has_to_act(app: Path) -> None:
    (app / "hello.wasm").write_bytes(b"\0asm\x01\0\0\0broken")
    (app / "reader.wasm").unlink()
    result = run("check")

    assert result.exit_code == 1
    assert "component 'hello'" in result.stdout
    assert "component 'inner'" in result.stdout
    assert "reader.wasm" in result.stdout
    assert result.stdout.count("the author of the component") == 2
    assert result.stdout.count("the operator, in the manifest") == 1

    problems = json.loads(run("check", "--format", "json").stdout)
    assert [problem["component"] for problem in problems[:2]] == ["hello", "inner"]
    assert problems[2]["kind"] == "ManifestError"
    assert problems[2]["path"] == str(app / "spin.toml")


def test_check_of_an_import_that_nobody_offers(app: Path) -> None:
    (app / "hello.wasm").write_bytes(
        wasmtime.wat2wasm('(module (import "some:where/thing" "do" (func)) (func (export "_start")))')
    )
    (problem, _) = json.loads(run("check", "--format", "json").stdout)
    assert (problem["kind"], problem["interface"]) == ("LinkError", "some:where/thing")


def test_check_of_a_mistake_in_the_manifest(app: Path) -> None:
    (app / "spin.toml").write_text("spin_manifest_version = 3")
    (problem,) = json.loads(run("check", "--format", "json").stdout)
    assert problem["kind"] == "ManifestError"
    assert problem["line"] == 1


# compile


def test_compile_fills_the_cache(app: Path) -> None:
    result = run("compile", "--cache-dir", "here")
    assert result.exit_code == 0
    assert result.stdout == (
        "Compiling hello (1/3): done\nCompiling inner (2/3): done\nCompiling reader (3/3): done\n"
    )
    assert len(list((app / "here").rglob("*.cwasm"))) == 2  # hello and inner are one file
    assert not (app / ".spin").exists()


def test_compile_for_programs(app: Path) -> None:
    assert json.loads(run("compile", "--format", "json").stdout) == {"compiled": ["hello", "inner", "reader"]}


# inspect


def test_inspect_a_file(app: Path) -> None:
    result = run("inspect", "hello.wasm", "--format", "json")
    found = json.loads(result.stdout)

    assert found["kind"] == "module"
    assert found["dialects"] == ["wagi"]
    assert found["size"] == (app / "hello.wasm").stat().st_size
    assert found["imports"] == {"wasi_snapshot_preview1": ["fd_write", "environ_get"]}
    assert found["exports"] == ["memory", "_start"]
    assert found["grants"] == [
        {"key": "environment", "needed_by": ["wasi_snapshot_preview1"], "given": None, "denied": False}
    ]


def test_inspect_a_text_file(app: Path) -> None:
    (app / "guest.wat").write_text(HELLO)
    assert json.loads(run("inspect", "guest.wat", "--format", "json").stdout)["dialects"] == ["wagi"]


def test_inspect_a_component_that_is_a_text(tmp_path: Path) -> None:
    run("new", "http-wat", "text", "-a", "-o", str(tmp_path))
    result = run("inspect", "text", "-f", str(tmp_path), "--format", "json")
    assert json.loads(result.stdout)["dialects"] == ["wagi"]


def test_inspect_a_component_says_what_is_denied(app: Path) -> None:
    (grant,) = json.loads(run("inspect", "reader", "--format", "json").stdout)["grants"]
    assert grant == {
        "key": "key_value_stores",
        "needed_by": ["fermyon:spin/key-value"],
        "given": [],
        "denied": True,
    }
    text = run("inspect", "reader").stdout
    assert "legacy-flat-redis" in text
    assert "key_value_stores" in text
    assert "denied" in text

    (app / "spin.toml").write_text(MANIFEST + 'key_value_stores = ["default"]\n')
    (grant,) = json.loads(run("inspect", "reader", "--format", "json").stdout)["grants"]
    assert (grant["given"], grant["denied"]) == (["default"], False)


def test_inspect_a_component_of_wasi_http(app: Path, components: Any) -> None:
    uses = {
        "wasi:clocks/monotonic-clock@0.2.0": ("now",),
        "wasi:cli/environment@0.2.0": ("get-environment",),
    }
    (app / "guest.wasm").write_bytes(components.http("", uses))
    found = json.loads(run("inspect", "guest.wasm", "--format", "json").stdout)

    assert found["kind"] == "component"
    assert found["dialects"] == ["wasi-http"]
    assert found["imports"]["wasi:clocks/monotonic-clock@0.2.0"] == ["now"]
    assert found["exports"] == ["wasi:http/incoming-handler@0.2.0"]
    assert [grant["key"] for grant in found["grants"]] == ["environment"]
    assert found["types"]["import wasi:clocks/monotonic-clock@0.2.0"] == ["now: func() -> u64"]
    assert found["problems"] == []


def test_inspect_and_check_show_what_does_not_fit(app: Path) -> None:
    text = """(component
      (import "wasi:clocks/monotonic-clock@0.2.5" (instance (export "now" (func (result u32))))))"""
    (app / "guest.wat").write_text(text)
    (problem,) = json.loads(run("inspect", "guest.wat", "--format", "json").stdout)["problems"]
    (app / "spin.toml").write_text(
        'spin_manifest_version = 2\n[application]\nname = "a"\n[[trigger.http]]\nroute = "/"\n'
        'component = "a"\n[component.a]\nsource = "guest.wat"\n'
    )
    (error,) = json.loads(run("check", "--format", "json").stdout)
    for message in (problem, error["message"]):
        for part in ("wasi:clocks/monotonic-clock@0.2.5 now", "func() -> u32", "func() -> u64"):
            assert part in message
    assert (error["kind"], error["interface"]) == ("LinkError", "wasi:clocks/monotonic-clock@0.2.5")


def test_inspect_nothing_that_is_there(app: Path) -> None:
    result = run("inspect", "nobody")
    assert result.exit_code == 1
    assert "neither a file nor a component" in result.stderr


def test_inspect_what_is_no_wasm(app: Path) -> None:
    result = run("inspect", "spin.toml")
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: ")


# Completion


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("wasm-gateway check -c ", ["hello", "inner", "reader"]),
        ("wasm-gateway up --component-id he", ["hello"]),
        ("wasm-gateway routes -f {app} -c i", ["inner"]),
        ("wasm-gateway check -f nowhere -c ", []),
        ("wasm-gateway sch", ["schema"]),
    ],
)
def test_completion(app: Path, monkeypatch: pytest.MonkeyPatch, words: str, expected: list[str]) -> None:
    typed = words.format(app=app).split(" ")
    monkeypatch.setenv("COMP_WORDS", " ".join(typed))
    monkeypatch.setenv("COMP_CWORD", str(len(typed) - 1))
    monkeypatch.setenv("_WASM_GATEWAY_COMPLETE", "bash_complete")
    result = CliRunner().invoke(cli, [], prog_name="wasm-gateway")
    assert [line.partition(",")[2] for line in result.stdout.split()] == expected
