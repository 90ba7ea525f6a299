"""What is different in the flat ABI of wit-bindgen 0.2: names, and that nothing describes the types.

Requests and responses are those of test_spin.py, which runs all of its tests for both dialects.
"""

from __future__ import annotations

from typing import Any

import pytest

from wasm_gateway.errors import LinkError
from wasm_gateway.executors import link
from wasm_gateway.executors.legacy_flat import INTERFACES
from wasm_gateway.host.application import Hosts
from wasm_gateway.runtime_config import RuntimeConfig

GOOD = '(call $text (i32.const 200) (str "good"))'

# Spin: host interfaces, 9: the number of i32 parameters, or the letters of all of them
FLAT = {
    "wasi-outbound-http": {"request": 11},
    "spin-config": {"get-config": 3},
    "outbound-redis": {
        "publish": 7,
        "set": 7,
        "get": 5,
        "incr": 5,
        "smembers": 5,
        "del": 5,
        "sadd": 7,
        "srem": 7,
        "execute": 7,
    },
    "outbound-pg": {"query": 7, "execute": 7},
    "outbound-mysql": {"query": 7, "execute": 7},
    "sqlite": {"open": 3, "execute": 6, "close": 1},
    "key-value": {"open": 3, "get": 4, "delete": 4, "exists": 4, "set": 6, "get-keys": 2, "close": 1},
    "llm": {"infer": "iiii" + "i" + "ififif" + "i", "generate-embeddings": 5},
}


def test_the_table_has_all_modules() -> None:
    assert FLAT.keys() == INTERFACES.keys()


@pytest.mark.parametrize(
    ("module", "name"), [(module, name) for module, functions in FLAT.items() for name in functions]
)
def test_every_import_of_the_flat_abi_has_its_signature(wat: Any, module: str, name: str) -> None:
    params = FLAT[module][name]
    letters = "i" * params if isinstance(params, int) else params
    types = " ".join({"i": "i32", "f": "f32"}[letter] for letter in letters)
    wasm = wat.assemble(f'(module (import "{module}" "{name}" (func (param {types}))))')
    (function,) = link(wasm, Hosts(RuntimeConfig())).functions
    assert (function.params, function.results) == (letters, "")
    with pytest.raises(LinkError, match="with the core type"):
        link(
            wat.assemble(f'(module (import "{module}" "{name}" (func (param {types} i32))))'),
            Hosts(RuntimeConfig()),
        )


def test_a_guest_may_call_the_allocator_by_its_new_name(wat: Any, application: Any, ask: Any) -> None:
    allocator = (
        '(func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) (call $take (local.get 3)))'
    )
    gateway = application(a=wat.flat(GOOD, allocator=allocator))
    assert ask(gateway, "/a") == (200, b"good")


def test_nothing_is_freed_that_ends_with_the_request(wat: Any, application: Any, ask: Any) -> None:
    """Spin calls canonical_abi_free; the memory that it puts in order is not looked at again."""
    free = '(func (export "canonical_abi_free") (param i32 i32 i32) unreachable)'
    gateway = application(a=wat.flat(GOOD, free))
    assert ask(gateway, "/a") == (200, b"good")


def test_start_is_not_called(wat: Any, application: Any, ask: Any) -> None:
    """Spin: http, 7.2."""
    gateway = application(a=wat.flat(GOOD, '(func (export "_start") unreachable)'))
    assert ask(gateway, "/a") == (200, b"good")


def test_a_world_decides_which_of_two_handlers_is_called(wat: Any, application: Any, ask: Any) -> None:
    both = """(func (export "handle-http-request")
      (param i32 i32 i32 i32 i32 i32 i32 i32 i32 i32) (result i32)
      (call $text (i32.const 200) (str "flat")))"""
    gateway = application(a=wat.spin('(call $text (i32.const 200) (str "spin"))', both), b=wat.flat(GOOD))
    assert ask(gateway, "/a") == (200, b"spin")
    assert [row.dialect for row in gateway.stats()] == ["spin", "legacy-flat"]


def test_results_of_host_functions_lie_where_the_flat_abi_has_them(
    wat: Any, application: Any, ask: Any
) -> None:
    """Spin: host interfaces, 9, memory layout: key-value and sqlite."""
    body = """
      (call $kv_open (str "default") (i32.const 64))
      (call $out_number (i32.load8_u (i32.const 64)))
      (local.set $i (i32.load (i32.const 68)))
      (call $kv_set (local.get $i) (str "b") (str "value") (i32.const 64))
      (call $out_number (i32.load8_u (i32.const 64)))
      (call $kv_exists (local.get $i) (str "b") (i32.const 64))
      (call $out_number (i32.load8_u (i32.const 64))) (call $out_number (i32.load8_u (i32.const 68)))
      (call $kv_get (local.get $i) (str "nothing") (i32.const 64))
      (call $out_number (i32.load8_u (i32.const 64))) (call $out_number (i32.load8_u (i32.const 68)))
      (call $kv_keys (local.get $i) (i32.const 64))
      (call $out_number (i32.load8_u (i32.const 64))) (call $out_number (i32.load (i32.const 72)))
      (call $out (i32.load (i32.load (i32.const 68))) (i32.load offset=4 (i32.load (i32.const 68))))
      (call $out_byte (i32.const 32))
      (call $sql_open (str "default") (i32.const 64))
      (local.set $i (i32.load (i32.const 68)))
      (i32.store8 (i32.const 512) (i32.const 0)) (i64.store (i32.const 520) (i64.const 7))
      (i32.store8 (i32.const 528) (i32.const 2)) (call $pointer (i32.const 536) (str "text"))
      (call $sql_execute (local.get $i) (str "SELECT ?, ?") (i32.const 512) (i32.const 2) (i32.const 64))
      (call $out_number (i32.load8_u (i32.const 64)))
      (call $out_number (i32.load (i32.const 72))) (call $out_number (i32.load (i32.const 80)))
      (local.set $i (i32.load (i32.load (i32.const 76))))
      (call $out_number (i32.load8_u (local.get $i)))
      (call $out_number (i32.wrap_i64 (i64.load offset=8 (local.get $i))))
      (call $out_number (i32.load8_u offset=16 (local.get $i)))
      (call $out (i32.load offset=24 (local.get $i)) (i32.load offset=28 (local.get $i)))
      (call $respond (i32.const 200))"""
    pointer = """(func $pointer (param $at i32) (param i32 i32)
      (i32.store (local.get $at) (local.get 1)) (i32.store offset=4 (local.get $at) (local.get 2)))"""
    gateway = application(
        a=application.part(
            wat.flat(body, pointer), key_value_stores=["default"], sqlite_databases=["default"]
        )
    )
    # ok; ok; ok true; error no-such-key (4); ok 1 key "b". Then: ok, 2 columns, 1 row: integer 7, text
    assert ask(gateway, "/a") == (
        200,
        b"0" + b"0" + b"01" + b"14" + b"01b" + b" " + b"021" + b"07" + b"2text",
    )
