"""A guest that imports databases and brokers runs without their drivers; calls fail by name."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.component_wat import HTTP
from tests.wasi_p3_wat import P3Toolkit

REDIS, POSTGRES, MQTT = "spin:redis/redis@3.0.0", "spin:postgres/postgres@4.0.0", "spin:mqtt/mqtt@3.0.0"
REDIS_2, MYSQL_2 = "fermyon:spin/redis@2.0.0", "fermyon:spin/mysql@2.0.0"

RUN = """
import sys
for name in ("redis", "psycopg", "pymysql", "paho"):
    sys.modules[name] = None  # what is not installed
from wasm_gateway import Gateway
from wasm_gateway.messages import Request
with Gateway.from_manifest(sys.argv[1], disable_cache=True, state_dir="") as gateway:
    for path in ("/quiet", "/calls"):
        print(path, gateway.handle(Request("GET", path, authority="x")).status)
    print("check", gateway.check())
"""


def run(manifest: Path) -> tuple[list[str], str]:
    done = subprocess.run(
        [sys.executable, "-c", RUN, str(manifest)], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines(), done.stderr


@pytest.mark.parametrize("version", ["0.2", "0.3"])
def test_components(application: Any, components: Any, version: str) -> None:
    guests = {}
    for name in ("quiet", "calls"):
        if version == "0.2":
            call = "(call $connection.open (i32.const 0) (i32.const 0) (i32.const 16))" * (name == "calls")
            body = f"{call} (call $answer (local.get $out) (i32.const 200) (i32.const 0) (i32.const 5))"
            uses = {REDIS_2: ("[static]connection.open",), HTTP: ()}
            guests[name] = components.http(body, uses)
        else:
            call = "(drop (call $connection.open~ (i32.const 0) (i32.const 0) (i32.const 16)))"
            code = f"""(call $drop.request (local.get $request)) {call * (name == "calls")}
              (call $return (call $new)) (call $write (i32.const 0) (i32.const 5)) (call $finish)
              (i32.const 0)"""
            guests[name] = P3Toolkit().handler(code, async_uses={REDIS: ("[static]connection.open",)})
    parts = {name: application.part(wasm, route=f"/{name}") for name, wasm in guests.items()}
    printed, said = run(application.manifest(parts))
    assert printed == ["/quiet 200", "/calls 500", "check []"]
    assert "pip install 'wasm-gateway[redis]'" in said


@pytest.mark.parametrize(
    "interface", [REDIS, POSTGRES, MQTT, REDIS_2, MYSQL_2, "fermyon:spin/postgres@2.0.0"]
)
def test_types_are_known_without_a_driver(interface: str) -> None:
    """They are those that are offered with it."""
    code = f"""
import sys
for name in ("redis", "psycopg", "pymysql", "paho"):
    sys.modules[name] = None
from wasm_gateway.host.application import Hosts
from wasm_gateway.runtime_config import RuntimeConfig
found = Hosts(RuntimeConfig()).described({interface!r})
print(sorted((name, str(ft)) for name, ft in found.funcs.items()))
"""
    from wasm_gateway.host.application import Hosts
    from wasm_gateway.runtime_config import RuntimeConfig

    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    offered = Hosts(RuntimeConfig()).interface(interface)
    assert offered is not None
    assert done.stdout.strip() == str(sorted((name, str(ft)) for name, ft in offered.type.funcs.items()))
