"""What a module gains and loses before it is compiled, and that it cannot tell."""

from __future__ import annotations

from typing import Any

import pytest
import wasmtime

from wasm_gateway.component.canon import lift_export
from wasm_gateway.component.core import core_module
from wasm_gateway.component.rewrite import REALLOC_EACH, Names, rewrite, u32
from wasm_gateway.component.types import FuncType, ListType, StringType, TupleType, U8Type
from wasm_gateway.engine import Engine, Program
from wasm_gateway.errors import DeadlineExceeded, Trap
from wasm_gateway.host.base import Deadline, Grants
from wasm_gateway.instance import Instance, Limits

# An allocator that writes down its arguments from 0 on, and hands out memory from 4096 on.
ALLOCATOR = """(module
  (memory (export "memory") 1 4)
  (global $next (mut i32) (i32.const 4096))
  (global $log (mut i32) (i32.const 0))
  (func $realloc (export "cabi_realloc") (param i32 i32 i32 i32) (result i32)
    (i32.store (global.get $log) (local.get 2))
    (i32.store offset=4 (global.get $log) (local.get 3))
    (global.set $log (i32.add (global.get $log) (i32.const 8)))
    (global.set $next (i32.and (i32.add (global.get $next)
      (i32.sub (local.get 2) (i32.const 1))) (i32.sub (i32.const 0) (local.get 2))))
    (global.get $next)
    (global.set $next (i32.add (global.get $next) (local.get 3))))
  (func (export "take") (param i32 i32) (result i32) (local.get 0)))"""

PAIRS = ListType(TupleType((StringType(), StringType())))
HEADERS = [("host", "localhost"), ("empty", ""), ("café", "x" * 300), ("", "")]


def binary(wat: str) -> bytes:
    return bytes(wasmtime.wat2wasm(wat))


def rewritten(wasm: bytes) -> bytes:
    return rewrite(wasm, core_module(wasm))


def program(wasm: bytes) -> Program:
    engine = Engine.shared()
    return Program(engine, engine.compile(wasm), [])


def instance(program: Program, seconds: float = 120.0) -> Instance:
    return Instance(program, Grants("g"), Deadline(seconds), Limits(1 << 20, 1000), None)  # type: ignore[arg-type]


def memory_after(wasm: bytes, type_: Any, value: Any) -> bytes:
    """All of the guest's memory after it was given `value`."""
    lifted = lift_export("take", FuncType((("value", type_),), None))
    with instance(program(wasm)) as guest:
        lifted(guest, lambda *flat: None, None, value)
        return guest.memories[0].read(0, 65536)


@pytest.mark.parametrize(
    ("type_", "value"),
    [
        (PAIRS, HEADERS),
        (PAIRS, []),
        (ListType(StringType()), ["one", "", "three"]),
        (ListType(TupleType((StringType(), ListType(U8Type())))), [("k", b"\0\xff"), ("", b"")]),
        (ListType(ListType(U8Type())), [b"abc"] * 50),
    ],
)
def test_a_guest_cannot_tell_one_crossing_from_many(type_: Any, value: Any) -> None:
    plain = binary(ALLOCATOR)
    with instance(program(rewritten(plain))) as guest:
        assert guest.realloc_each is not None
    with instance(program(plain)) as guest:
        assert guest.realloc_each is None
    assert memory_after(rewritten(plain), type_, value) == memory_after(plain, type_, value)


def test_a_value_of_another_shape_is_our_own_mistake() -> None:
    with pytest.raises(TypeError):
        memory_after(rewritten(binary(ALLOCATOR)), PAIRS, [("one",)])


def with_allocator(body: str) -> bytes:
    return rewritten(
        binary(
            f"""(module (memory (export "memory") 1 4) (global $n (mut i32) (i32.const 0))
            (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32)
              (global.set $n (i32.add (global.get $n) (i32.const 1)))
              (if (i32.eq (global.get $n) (i32.const 1)) (then (return (i32.const 4096))))
              {body}))"""
        )
    )


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("(i32.const -1)", "out of bounds"),
        ("(i32.const 65530)", "out of bounds"),
        ("unreachable", "unreachable"),
        ("(i32.store (i32.const 4100) (i32.const -1)) (i32.const 0)", None),  # spoils its own lengths
        ("(drop (memory.grow (i32.const 1))) (i32.const 70000)", None),  # grows meanwhile
    ],
)
def test_a_hostile_allocator(body: str, message: str | None) -> None:
    wasm = with_allocator(body)
    if message is None:
        assert len(memory_after(wasm, PAIRS, HEADERS)) == 65536
    else:
        with pytest.raises(Trap, match=message):
            memory_after(wasm, PAIRS, HEADERS)


def test_an_allocator_that_never_returns_ends_at_the_deadline() -> None:
    lifted = lift_export("take", FuncType((("value", PAIRS),), None))
    looping = program(with_allocator("(loop (br 0)) unreachable"))
    with instance(looping, 0.05) as guest, pytest.raises(DeadlineExceeded):
        lifted(guest, lambda *flat: None, None, HEADERS)


MEMORY = '(memory (export "memory") 1)'
REALLOC = '(func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) (i32.const 0))'
IMPORTED = '(import "a" "r" (func $r (param i32 i32 i32 i32) (result i32)))'


@pytest.mark.parametrize(
    "wat",
    [
        "(module)",
        f"(module {MEMORY})",
        f"(module {REALLOC})",
        f"(module {MEMORY} {REALLOC.replace('i32 i32 i32 i32', 'i32')})",
        f'(module {IMPORTED} {MEMORY} (export "cabi_realloc" (func $r)))',
        f'(module {MEMORY} {REALLOC} (func (export "{REALLOC_EACH}")))',
    ],
    ids=["empty", "no-allocator", "no-memory", "another-type", "imported", "name-taken"],
)
def test_a_module_that_gets_no_function(wat: str) -> None:
    wasm = binary(wat)
    again = core_module(rewritten(wasm))
    assert (again.imports, again.exports) == (core_module(wasm).imports, core_module(wasm).exports)
    Engine.shared().compile(rewritten(wasm))


def test_types_that_come_in_groups_are_counted() -> None:
    grouped = ALLOCATOR.replace("(module", "(module (rec (type (func)) (type (struct)) (type (array i8)))", 1)
    wasm = rewritten(binary(grouped))
    assert memory_after(wasm, PAIRS, HEADERS) == memory_after(binary(ALLOCATOR), PAIRS, HEADERS)


def test_sections_for_debuggers_are_dropped_and_others_kept() -> None:
    section = b"\0" + u32(len(b"\x0b.debug_info") + 3) + b"\x0b.debug_info" + b"abc"
    other = b"\0" + u32(len(b"\x09producers") + 1) + b"\x09producers" + b"\0"
    wasm = binary(ALLOCATOR) + section + other
    names = [name for name, _ in core_module(rewritten(wasm)).custom_sections]
    assert "producers" in names
    assert ".debug_info" not in names


def test_a_function_stays_declared_for_who_refers_to_it() -> None:
    """ref.func may name what is exported (core spec, C.refs); its opcode stands among other bytes too."""
    wasm = binary("""(module
      (func (export "kept"))
      (func (export "named")) (export "named again" (func 1))
      (func (export "other"))
      (func (export "kept again")) (export "twice" (func 3))
      (func (result funcref)
        (drop (i64.const 0xffffffffd2)) (drop (i64.const 0x6952))
        (drop (ref.func 3)) (ref.func 1)))""")
    names = Names({}, {"kept": "0", "kept again": "1"})
    module = core_module(rewrite(wasm, core_module(wasm), names))
    assert [(item.name, item.index) for item in module.exports] == [("0", 0), ("1", 3), ("&1", 1), ("&3", 3)]
    Engine.shared().compile(rewrite(wasm, core_module(wasm), names))


@pytest.mark.parametrize("value", [0, 1, 127, 128, 16383, 16384, 2**32 - 1])
def test_u32_is_leb128(value: int) -> None:
    from wasm_gateway.component.reader import Reader

    reader = Reader(u32(value))
    assert reader.u32() == value
    assert reader.left == 0
