# What is said of guests, and that it is what happens to them.

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import wasmtime

from wasm_gateway import Gateway, HostInterface
from wasm_gateway.doctor.findings import AUTHOR, YOU, Finding, Level
from wasm_gateway.doctor.guests import Row, diagnose
from wasm_gateway.engine import wat2wasm
from wasm_gateway.manifest import parse_manifest

COMMAND = """(module
  (import "wasi_snapshot_preview1" "fd_write" (func (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 1) (func (export "_start")))"""
READER = """(module
  (import "key-value" "close" (func (param i32)))
  (memory (export "memory") 1)
  (func (export "canonical_abi_realloc") (param i32 i32 i32 i32) (result i32) (i32.const 1024))
  (func (export "handle-http-request") (param i32 i32 i32 i32 i32 i32 i32 i32 i32 i32) (result i32)
    (i32.const 256)))"""
FOREIGN = """(module (import "elsewhere" "f" (func)) (memory (export "memory") 1) (func (export "_start")))"""


class Part(HostInterface):
    """Only the types matter."""

    wit = "package some:thing@1.0.0; interface part { part: func() -> u32; }"

    def part(self, ctx: object) -> int:
        raise NotImplementedError


PART = b"""(component (core module $m (func (export "part") (result i32) (i32.const 1)))
  (core instance $c (instantiate $m))
  (alias core export $c "part" (core func $lifted))
  (func $part (result u32) (canon lift (core func $lifted)))
  (instance $i (export "part" (func $part)))
  (export "some:thing/part@1.0.0" (instance $i)))"""


def look(folder: Path, component: str, trigger: str = "", **options: Any) -> tuple[Row, list[Finding]]:
    """The row of the only component, and what is found."""
    for name, text in (("command", COMMAND), ("reader", READER), ("foreign", FOREIGN)):
        (folder / f"{name}.wasm").write_bytes(wasmtime.wat2wasm(text))
    (folder / "no.wasm").write_bytes(b"no")
    text = f"""
spin_manifest_version = 2
[application]
name = "x"
[[trigger.http]]
route = "/x"
component = "a"
{trigger}
[component.a]
{component}
"""
    options = {"cache_dir": folder / "cache", **options}
    (row,), findings = diagnose(parse_manifest(text, folder / "spin.toml"), options)
    return row, findings


DEAD = '{ version = "^2", package = "some:thing", registry = "127.0.0.1:1" }'
WAGI = 'executor = { type = "wagi" }'


def test_one_that_runs(tmp_path: Path) -> None:
    assert look(tmp_path, 'source = "command.wasm"', WAGI) == (Row("a", True, "wagi", ("/x",)), [])


@pytest.mark.parametrize(
    ("component", "trigger", "what", "who", "advice"),
    [
        ('source = "b.wasm"', "", "Wasm file b.wasm is missing", YOU, "a `build` table would say how"),
        (
            'source = "b.wasm"\nbuild = { command = "X=1 no-such-tool build", workdir = "w" }',
            *(
                "",
                "is missing",
                YOU,
                "`wasm-gateway build -c a` (`X=1 no-such-tool build` in w/); `no-such-tool` is not",
            ),
        ),
        (
            'source = { package = "some:thing", version = "1.2.3", registry = "127.0.0.1:1" }',
            *("", "cannot be had: 127.0.0.1:1", YOU, "whether this machine reaches it"),
        ),
        (
            f'source = "command.wasm"\ndependencies.x = {DEAD}',
            *(WAGI, "the dependency x of component `a` cannot be had", YOU, "machine reaches it"),
        ),
        ('source = "command.wasm"', "", "", YOU, 'executor = { type = "wagi" }'),
        ('source = "no.wasm"', "", "not WebAssembly", AUTHOR, "build it again"),
        ('source = "foreign.wasm"', WAGI, "elsewhere", AUTHOR, "interface"),
        ('source = "command.wasm"\nfiles = ["site"]', WAGI, "does not exist", YOU, "mend the manifest"),
        ('source = "command.wasm"\nkey_value_stores = ["other"]', WAGI, "other", YOU, "mend"),
        (
            'source = "command.wasm"\nallowed_outbound_hosts = ["example.com"]',
            *(WAGI, "scheme", YOU, "mend the manifest"),
        ),
    ],
)
def test_one_that_does_not(
    tmp_path: Path, component: str, trigger: str, what: str, who: str, advice: str
) -> None:
    row, findings = look(tmp_path, component, trigger)
    broken = [each for each in findings if each.level is Level.BROKEN]
    assert not row.runs
    (finding,) = broken
    assert what in finding.what
    assert finding.who == who
    assert advice in finding.advice


def test_a_registry_it_cannot_reach_is_told(tmp_path: Path) -> None:
    digest = "0" * 64
    source = f'source = {{ url = "http://127.0.0.1:1/a.wasm", digest = "sha256:{digest}" }}'
    row, (finding,) = look(tmp_path, source)
    assert (row.runs, finding.level) == (False, Level.BROKEN)
    assert "127.0.0.1:1" in finding.what


def test_a_dependency_that_may_be_another_one_tomorrow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, components: Any
) -> None:
    core = "(drop (call $part)) (call $answer (local.get $out) (i32.const 204) (i32.const 0) (i32.const 0))"
    main = components.with_interfaces(Part()).http(core, {"some:thing/part@1.0.0": ("part",)})
    (tmp_path / "main.wasm").write_bytes(main)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    (tmp_path / "wasm-pkg").mkdir()
    (tmp_path / "wasm-pkg" / "config.toml").write_text(
        f"[registry.here.local]\nroot = '{tmp_path}'\n[namespace_registries]\nsome = 'here'\n"
    )
    (tmp_path / "some" / "thing").mkdir(parents=True)
    (tmp_path / "some" / "thing" / "1.0.0.wasm").write_bytes(wat2wasm(PART))
    component = 'source = "main.wasm"\ndependencies = {{ "some:thing/part" = "{}" }}'
    row, (finding,) = look(tmp_path, component.format("^1"))
    assert (row.runs, finding.level) == (True, Level.HINT)
    assert "looked up at each start (some:thing@^1)" in finding.what
    assert look(tmp_path, component.format("=1.0.0")) == (row, [])


def test_a_required_variable(tmp_path: Path) -> None:
    variables = "[variables]\nsecret = { required = true }\n"
    component = 'source = "command.wasm"\nvariables = { token = "{{ secret }}" }\n' + variables
    row, (finding,) = look(tmp_path, component, WAGI)
    assert not row.runs
    assert "SPIN_VARIABLE_SECRET" in finding.what
    row, findings = look(tmp_path, component, WAGI, variables={"secret": "x"})
    assert (row.runs, findings) == (True, [])


def test_grants_that_are_missed(tmp_path: Path) -> None:
    row, (finding,) = look(tmp_path, 'source = "reader.wasm"')
    assert (row.runs, row.dialect) == (True, "legacy-flat")
    assert (finding.level, "key_value_stores" in finding.what) == (Level.HINT, True)
    assert look(tmp_path, 'source = "reader.wasm"\nkey_value_stores = ["default"]')[1] == []


def test_a_database_that_begins_empty(tmp_path: Path) -> None:
    component = (
        'source = "command.wasm"\nsqlite_databases = ["default"]\nbuild = { command = "x", workdir = "w" }'
    )
    assert look(tmp_path, component, WAGI)[1] == []
    (tmp_path / "w").mkdir()
    (tmp_path / "w" / "make.sql").write_text("CREATE TABLE t (x)")
    row, (finding,) = look(tmp_path, component, WAGI)
    assert (row.runs, finding.level) == (True, Level.HINT)
    assert "--sqlite @w/make.sql" in finding.advice


def test_models_are_not_here(tmp_path: Path) -> None:
    row, (finding,) = look(tmp_path, 'source = "command.wasm"\nai_models = ["llama2-chat"]', WAGI)
    assert (row.runs, finding.level) == (True, Level.RISK)


def test_an_extra_that_is_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = """(module
      (import "outbound-redis" "get" (func (param i32 i32 i32 i32 i32)))
      (memory (export "memory") 1)
      (func (export "canonical_abi_realloc") (param i32 i32 i32 i32) (result i32) (i32.const 1024))
      (func (export "handle-http-request") (param i32 i32 i32 i32 i32 i32 i32 i32 i32 i32) (result i32)
        (i32.const 256)))"""
    (tmp_path / "redis.wat").write_text(text)
    component = 'source = "redis.wat"\nallowed_outbound_hosts = ["redis://127.0.0.1:6379"]'
    assert look(tmp_path, component)[1] == []

    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "redis" else find(name))
    row, (finding,) = look(tmp_path, component)
    assert row.runs
    assert finding.level is Level.RISK
    assert "wasm-gateway[redis]" in finding.advice


def test_what_a_site_lends(tmp_path: Path) -> None:
    path = Path(__file__).parents[2] / "example_projects" / "django_scores" / "spin.toml"
    options = {"cache_dir": tmp_path}
    (row,), (finding,) = diagnose(parse_manifest(path.read_text(), path), options)
    assert not row.runs
    assert (finding.level, finding.component) == (Level.HINT, "board")
    assert "scores:site/board@1.0.0" in finding.what


def test_a_component_without_a_trigger(tmp_path: Path) -> None:
    (tmp_path / "b.wasm").write_bytes(wasmtime.wat2wasm(COMMAND))
    text = """
spin_manifest_version = 2
[application]
name = "x"
[[trigger.timer]]
component = "a"
[component.a]
source = "b.wasm"
[component.b]
source = "b.wasm"
"""
    manifest = parse_manifest(text, tmp_path / "spin.toml")
    rows, (finding,) = diagnose(manifest, {"cache_dir": tmp_path / "cache"})
    assert [row.runs for row in rows] == [False, True]
    assert rows[0].routes == ("timer (not served here)",)
    assert (finding.component, finding.level, finding.what) == ("b", Level.HINT, "no trigger leads to it")


def test_nothing_is_left_behind(tmp_path: Path) -> None:
    look(tmp_path, 'source = "reader.wasm"\nkey_value_stores = ["default"]')
    assert not (tmp_path / ".spin").exists()


def test_what_is_said_is_what_happens(tmp_path: Path) -> None:
    row, _ = look(tmp_path, 'source = "command.wasm"', WAGI)
    (tmp_path / "spin.toml").write_text(
        'spin_manifest_version = 2\napplication = { name = "x" }\n[[trigger.http]]\nroute = "/x"\n'
        'component = { source = "command.wasm" }\nexecutor = { type = "wagi" }\n'
    )
    with Gateway.from_manifest(tmp_path / "spin.toml", cache_dir=tmp_path / "cache", log_dir="") as gateway:
        assert row.runs
        assert gateway.describe()[0]["dialect"] == row.dialect
