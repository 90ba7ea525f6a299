from __future__ import annotations

import random

import pytest
import wasmtime

from wasm_gateway.component.core import (
    CoreExport,
    CoreImport,
    GlobalType,
    Limits,
    MemoryType,
    TableType,
    core_module,
    preamble,
    producers,
)
from wasm_gateway.component.layout import CoreFuncType
from wasm_gateway.errors import DecodeError, UnsupportedError

WAT = """(module
  (type $unused (struct (field i8) (field (mut i32)) (field (ref null $unused))))
  (rec (type $a (sub (array (mut f64)))) (type $b (func (param externref (ref null $a) v128))))
  (import "env" "f" (func (param i32 i64 f32 f64) (result i64)))
  (import "env" "t" (table 1 10 funcref))
  (import "env" "m" (memory 1 2))
  (import "env" "big" (memory i64 1))
  (import "env" "g" (global (mut i32)))
  (import "env" "tag" (tag (param i32)))
  (import "wasi_snapshot_preview1" "fd_write" (func (param i32 i32 i32 i32) (result i32)))
  (func $start)
  (func (export "run") (type $b))
  (func (export "two") (result i32 i32) i32.const 1 i32.const 2)
  (memory (export "memory") 1)
  (global (export "g") i32 (i32.const 7))
  (export "again" (func 0))
  (start $start)
  (data (i32.const 0) "data")
  (@custom "one" "content")
  (@producers (language "Rust" "") (processed-by "rustc" "1.80.0") (processed-by "clang" "18"))
)"""


def section(number: int, content: bytes) -> bytes:
    assert len(content) < 128
    return bytes([number, len(content)]) + content


EMPTY = b"\0asm\1\0\0\0"


def test_module() -> None:
    module = core_module(bytes(wasmtime.wat2wasm(WAT)))
    assert module.imports == (
        CoreImport("env", "f", "func", CoreFuncType("ilfd", "l")),
        CoreImport("env", "t", "table", None, TableType(b"\x70", Limits(1, 10))),
        CoreImport("env", "m", "memory", None, MemoryType(Limits(1, 2))),
        CoreImport("env", "big", "memory", None, MemoryType(Limits(1, is64=True))),
        CoreImport("env", "g", "global", None, GlobalType(b"\x7f", True)),
        CoreImport("env", "tag", "tag", None, CoreFuncType("i", "")),
        CoreImport("wasi_snapshot_preview1", "fd_write", "func", CoreFuncType("iiii", "i")),
    )
    assert module.imports[0].signature == ("ilfd", "l")
    assert module.exports == (
        CoreExport("run", "func", 3, CoreFuncType("rrv", "")),
        CoreExport("two", "func", 4, CoreFuncType("", "ii")),
        CoreExport("memory", "memory", 2, None, MemoryType(Limits(1))),
        CoreExport("g", "global", 1, None, GlobalType(b"\x7f", False)),
        CoreExport("again", "func", 0, CoreFuncType("ilfd", "l")),
    )
    assert {name: bytes(data) for name, data in module.custom_sections}["one"] == b"content"
    assert module.producers == {"language": {"Rust": ""}, "processed-by": {"rustc": "1.80.0", "clang": "18"}}
    assert module.has_start
    assert not module.has_world


@pytest.mark.parametrize(
    ("field", "expected"),
    [
        ('(memory (export "x") 1 65536)', MemoryType(Limits(1, 65536))),
        ('(memory (export "x") 1 2 shared)', MemoryType(Limits(1, 2, True))),
        ('(memory (export "x") 9 (pagesize 1))', MemoryType(Limits(9, page=0))),
        ('(table (export "x") 1 2 externref)', TableType(b"\x6f", Limits(1, 2))),
        ('(table (export "x") 3 (ref null func))', TableType(b"\x70", Limits(3))),
        ('(table (export "x") 3 (ref func) (ref.func $f))', TableType(b"\x64\x70", Limits(3))),
        ('(table 1 funcref) (table (export "x") 3 (ref null $t))', TableType(None, Limits(3))),
        ('(global (export "x") (mut i64) (i64.const -1))', GlobalType(b"\x7e", True)),
        ('(global f32 (f32.const 1)) (global (export "x") f64 (f64.const 1))', GlobalType(b"\x7c", False)),
        (
            (
                "(global $g i32 (i32.const 1)) (global i32 (i32.add (global.get $g) (i32.const 400)))"
                ' (global (export "x") f32 (f32.const 1))'
            ),
            GlobalType(b"\x7d", False),
        ),
        ('(global (ref i31) (ref.i31 (i32.const 1))) (global (export "x") i32 (i32.const 1))', None),
        ('(global (export "x") (ref null $t) (ref.null $t))', GlobalType(None, False)),
        ('(global (export "x") funcref (ref.func $f))', GlobalType(b"\x70", False)),
        ('(tag (export "x") (param i64))', CoreFuncType("l", "")),
    ],
)
def test_types_of_what_is_exported(field: str, expected: object) -> None:
    wasm = bytes(wasmtime.wat2wasm(f"(module (type $t (func)) (func $f) (elem declare func $f) {field})"))
    [export] = core_module(wasm).exports
    assert export.extern == expected


def test_smallest() -> None:
    module = core_module(EMPTY)
    assert (module.imports, module.exports, module.custom_sections, module.has_start) == ((), (), (), False)
    assert module.producers == {}
    assert core_module(EMPTY + section(0, b"\x0fcomponent-type:")).has_world


def test_preamble() -> None:
    assert preamble(EMPTY) == "module"
    assert preamble(b"\0asm\x0d\0\1\0") == "component"
    for data in (b"", b"\0as", b"\0asm", b"\0asm\1\0\0", b"\0asm\2\0\0\0", b"#!/bin/sh", b"(module)"):
        with pytest.raises(DecodeError):
            preamble(data)
    with pytest.raises(UnsupportedError, match="binary version 12"):
        preamble(b"\0asm\x0c\0\1\0")
    with pytest.raises(UnsupportedError):
        core_module(b"\0asm\x0d\0\1\0")


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        (section(14, b""), "there is no section 14"),
        (section(1, b"\0") * 2, "a second type section"),
        (section(1, b"\0\0"), "1 bytes too many in the type section"),
        (section(1, b"\1\x61"), "0x61 is no form of a type"),
        (section(1, b"\1\x60\1\x40\0"), "0x40 is no value type"),
        (section(2, b"\1\1a\1b\0\0"), "type 0 is not that of a function"),
        (section(1, b"\1\x5f\0") + section(2, b"\1\1a\1b\0\0"), "type 0 is not that of a function"),
        (section(2, b"\1\1a\1b\5"), "0x05 is no kind of import"),
        (section(2, b"\1\1a\1\xff\0\0"), "name is not UTF-8"),
        (section(2, b"\1\1a\1b\2\x10"), "0x10 is no kind of limits"),
        (section(7, b"\1\1a\0\0"), "there is no function 0"),
        (section(5, b"\1\0\1") + section(7, b"\2\1a\2\0\1a\2\0"), "'a' is exported twice"),
        (section(7, b"\1\1a\2\0"), "there is no memory 0"),
        (section(5, b"\1\0\1\0") + section(7, b"\1\1a\2\0"), "1 bytes too many in the memory section"),
        (section(5, b"\1\0\x81\x80\x04") + section(7, b"\1\1a\2\0"), r"at most 2\*\*16 pages"),
        (section(2, b"\1\1a\1b\2\1\0\x81\x80\x04"), r"at most 2\*\*16 pages"),
        (section(2, b"\1\1a\1b\2\x08\0\x11"), r"pages of 2\*\*17 bytes"),
        (section(4, b"\1\x40\1\x70\0\1") + section(7, b"\1\1a\1\0"), "no form of a table"),
        (section(0, b"\5abc"), "name of 5 bytes, 3 left"),
        (section(2, b"\xff\xff\xff\xff\x0f"), "4294967295 items in 0 bytes"),
        (b"\1\x05\0", "5 bytes expected, 1 left"),
    ],
)
def test_malformed(sections: bytes, message: str) -> None:
    with pytest.raises(DecodeError, match=message):
        core_module(EMPTY + sections)


@pytest.mark.parametrize("sections", [section(1, b"\1\x65\x60\0\0"), section(1, b"\1\x60\1\x65\x70\0")])
def test_types_that_threads_share(sections: bytes) -> None:
    with pytest.raises(UnsupportedError) as caught:
        core_module(EMPTY + sections)
    assert caught.value.feature == "shared types"


def test_malformed_producers_do_not_matter() -> None:
    module = core_module(EMPTY + section(0, b"\x09producers\5"))
    assert module.producers == {}
    with pytest.raises(DecodeError):
        producers(b"\1\1a\1\1b")
    assert producers(b"\1\1a\1\1b\1c") == {"a": {"b": "c"}}


def test_every_truncation_and_many_mutations() -> None:
    wasm = bytes(wasmtime.wat2wasm(WAT))
    whole = 0
    for size in range(len(wasm)):
        try:
            core_module(wasm[:size])
            whole += 1  # cut between two sections
        except DecodeError:
            pass
    assert whole < 15
    rng = random.Random(3)
    refused = 0
    for _ in range(800):
        data = bytearray(wasm)
        for _ in range(rng.choice((1, 1, 3))):
            data[rng.randrange(8, len(data))] = rng.choice((0, 1, 0x40, 0x7F, 0x80, 0xFF, rng.randrange(256)))
        try:
            core_module(bytes(data))
        except (DecodeError, UnsupportedError):
            refused += 1
    assert 300 < refused < 800
