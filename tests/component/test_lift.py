# Tables of what guests pass and what hosts see; canon's tests compare with the oracle.

from __future__ import annotations

import math
import struct
from typing import Any

import pytest

from wasm_gateway.component.canon import lower_import, source
from wasm_gateway.component.layout import flatten_functype
from wasm_gateway.component.lift import LIFT_LIMIT, MANY_ROOTS, SMALL_STRING
from wasm_gateway.component.memory import Memory
from wasm_gateway.component.types import (
    PRIMITIVES,
    CaseType,
    EnumType,
    FieldType,
    FlagsType,
    FuncType,
    ListType,
    OptionType,
    RecordType,
    ResultType,
    TupleType,
    ValType,
    VariantType,
)
from wasm_gateway.component.values import Err, Ok, Some
from wasm_gateway.errors import Trap

P = PRIMITIVES
BYTES, STRING = ListType(P["u8"]), P["string"]
FLOATS = VariantType((CaseType("f32", P["f32"]), CaseType("u32", P["u32"])))
MIXED = VariantType(
    (
        CaseType("none"),
        CaseType("u8", P["u8"]),
        CaseType("s16", P["s16"]),
        CaseType("f32", P["f32"]),
        CaseType("f64", P["f64"]),
        CaseType("s64", P["s64"]),
        CaseType("text", STRING),
        CaseType("inner", FLOATS),
    )
)
HALF_PI = 1.5707963705062866  # as f32


def bits(value: float, letters: str) -> int:
    result: int = struct.unpack("<" + letters[1], struct.pack("<" + letters[0], value))[0]
    return result


def lifted(
    new_instance: Any, current: Any, t: ValType, flat: tuple[Any, ...], memory: bytes = b"", **kw: Any
) -> Any:
    """What the host sees of one parameter."""
    inst = new_instance(bytearray(memory.ljust(256, b"\0")))
    ft = FuncType((("p", t),))
    seen: list[Any] = []
    callback = lower_import("f", ft, lambda _, value: seen.append(value), current, **kw)
    inst.call(callback, flatten_functype(ft, "lower"), *flat)
    return seen[0]


@pytest.mark.parametrize(
    ("t", "flat", "value"),
    [
        (P["bool"], (0,), False),
        (P["bool"], (1,), True),
        (P["bool"], (256,), True),
        (P["u8"], (0xABCDEF12,), 0x12),
        (P["s8"], (0x80,), -128),
        (P["s8"], (0xFFFFFF7F,), 127),
        (P["u16"], (0xABCDEF12,), 0xEF12),
        (P["s16"], (0x18000,), -32768),
        (P["u32"], (2**32 - 1,), 2**32 - 1),
        (P["s32"], (2**32 - 1,), -1),
        (P["u64"], (2**64 - 1,), 2**64 - 1),
        (P["s64"], (2**63,), -(2**63)),
        (P["f32"], (HALF_PI,), HALF_PI),
        (P["f64"], (-0.0,), -0.0),
        (P["char"], (0x10FFFF,), "\U0010ffff"),
        (P["char"], (0xD7FF,), "\ud7ff"),
        (EnumType(("a", "b")), (1,), "b"),
        (FlagsType(("a", "b", "c")), (0xFFFFFFFE,), 6),
        (OptionType(P["u8"]), (0, 7), None),
        (OptionType(P["u8"]), (1, 0x107), 7),
        (OptionType(OptionType(P["u8"])), (0, 1, 7), None),
        (OptionType(OptionType(P["u8"])), (1, 0, 7), Some(None)),
        (OptionType(OptionType(P["u8"])), (1, 1, 7), Some(7)),
        (ResultType(), (0,), Ok()),
        (ResultType(), (1,), Err()),
        (ResultType(P["f32"], P["s8"]), (0, bits(HALF_PI, "fI")), Ok(HALF_PI)),
        (ResultType(P["f32"], P["s8"]), (1, 0xFFFFFFFF), Err(-1)),
        (MIXED, (0, 99, 99), ("none", None)),
        (MIXED, (1, 2**64 - 1, 0), ("u8", 255)),
        (MIXED, (2, 0x18000, 0), ("s16", -32768)),
        (MIXED, (3, bits(HALF_PI, "fI") | 7 << 32, 0), ("f32", HALF_PI)),
        (MIXED, (4, bits(math.pi, "dQ"), 0), ("f64", math.pi)),
        (MIXED, (5, 2**63, 0), ("s64", -(2**63))),
        (MIXED, (6, 0, 2), ("text", "\0\0")),
        (MIXED, (7, 0, bits(HALF_PI, "fI")), ("inner", ("f32", HALF_PI))),
        (MIXED, (7, 1, 2**32 - 1), ("inner", ("u32", 2**32 - 1))),
        (ListType(P["u8"], 3), (1, 2, 0x103), b"\1\2\3"),
        (ListType(P["s8"], 2), (1, 255), [1, -1]),
        (TupleType((P["u8"], P["s64"])), (0x101, 2**64 - 1), (1, -1)),
    ],
)
def test_flat(t, flat, value, new_instance, current) -> None:
    seen = lifted(new_instance, current, t, flat)
    assert seen == value
    assert type(seen) is type(value)


@pytest.mark.parametrize("kind", ["f32", "f64"])
def test_nan_has_one_form(kind: str, new_instance, current) -> None:
    payload = {"f32": b"\x01\x00\xc0\xff", "f64": b"\x01\0\0\0\0\0\xf8\xff"}[kind]
    for value in lifted(new_instance, current, ListType(P[kind]), (0, 1), payload):
        assert struct.pack("<d", value) == struct.pack("<d", math.nan)


REQUEST = RecordType(
    (
        FieldType("status-code", P["u16"]),
        FieldType("headers", ListType(TupleType((STRING, STRING)))),
        FieldType("class", P["u8"]),
    )
)
# pointers and lengths at 0, what they point to from 64 on
WORDS = (
    struct.pack("<8I", 64, 3, 67, 0, 70, 2, 72, 4) + bytes(32) + b"onetwoo\xc3\xa9\xf0\x9f\x90\x88".ljust(32)
)


@pytest.mark.parametrize(
    ("t", "flat", "value"),
    [
        (STRING, (64, 3), "one"),
        (STRING, (256, 0), ""),
        (STRING, (70, 3), "oé"),
        (BYTES, (64, 3), b"one"),
        (ListType(STRING), (0, 2), ["one", ""]),
        (ListType(TupleType((STRING, BYTES))), (0, 1), [("one", b"")]),
        (ListType(P["u16"]), (0, 4), [64, 0, 3, 0]),
        (ListType(P["s32"]), (0, 2), [64, 3]),
        (ListType(P["bool"]), (0, 5), [True, False, False, False, True]),
        (ListType(P["char"]), (0, 2), ["@", "\3"]),
        (ListType(EnumType(tuple("abcd"))), (5, 2), ["a", "a"]),
        (ListType(OptionType(P["u8"])), (5, 1), [None]),
        (ListType(ListType(P["u8"], 2)), (64, 2), [b"on", b"et"]),
        (ListType(TupleType((ListType(P["u8"], 2), P["u16"]))), (64, 2), [(b"on", 0x7465), (b"wo", 0xC36F)]),
        (REQUEST, (70000, 0, 1, 3), (4464, [("one", "")], 3)),
    ],
)
def test_memory(t, flat, value, new_instance, current) -> None:
    assert lifted(new_instance, current, t, flat, WORDS) == value


def test_record_has_names(new_instance, current) -> None:
    request = lifted(new_instance, current, REQUEST, (200, 0, 0, 3), WORDS)
    assert (request.status_code, request.headers, request.class_) == (200, [], 3)


def test_seventeen_parameters_come_through_memory(new_instance, current) -> None:
    t = TupleType((P["u8"],) * 17)
    assert lifted(new_instance, current, t, (4,), bytes(4) + bytes(range(17))) == tuple(range(17))
    with pytest.raises(Trap, match="f: out of bounds"):
        lifted(new_instance, current, t, (240,))
    with pytest.raises(Trap, match="f: pointer 0x4 is not aligned to 8"):
        lifted(new_instance, current, TupleType((P["u64"],) * 17), (4,))


@pytest.mark.parametrize(
    ("encoding", "flat", "memory", "value"),
    [
        ("utf16", (0, 3), "aé🐈".encode("utf-16-le"), None),
        ("utf16", (0, 4), "aé🐈".encode("utf-16-le"), "aé🐈"),
        ("latin1+utf16", (0, 2), b"a\xe9", "aé"),
        ("latin1+utf16", (2, 4 | 1 << 31), b"\0\0" + "aé🐈".encode("utf-16-le"), "aé🐈"),
    ],
)
def test_encodings(encoding, flat, memory, value, new_instance, current) -> None:
    if value is None:  # half a pair
        with pytest.raises(Trap, match=f"f: string is not {encoding}"):
            lifted(new_instance, current, STRING, flat, memory, encoding=encoding)
    else:
        assert lifted(new_instance, current, STRING, flat, memory, encoding=encoding) == value
        with pytest.raises(Trap, match="f: pointer 0x1 is not aligned to 2"):
            lifted(new_instance, current, STRING, (1, flat[1]), memory, encoding=encoding)


@pytest.mark.parametrize(
    ("t", "flat", "message"),
    [
        (P["char"], (0x110000,), "0x110000 is not a Unicode scalar value"),
        (P["char"], (0xD800,), "0xd800 is not"),
        (P["char"], (0xDFFF,), "0xdfff is not"),
        (EnumType(("a", "b"), "method"), (2,), "2 is not a case of enum method"),
        (OptionType(P["u8"]), (2, 0), "2 is not a case of option"),
        (ResultType(), (2**32 - 1,), "4294967295 is not a case of result"),
        (MIXED, (8, 0, 0), "8 is not a case of variant"),
        (MIXED, (7, 2 | 1 << 32, 0), "2 is not a case of variant"),
        (STRING, (255, 2), "0x101 is past the end, 0x100"),
        (STRING, (2**32 - 1, 1), "out of bounds"),
        (STRING, (0, 2**28), "string or list of 268435456 bytes is too long"),
        (STRING, (32, 2), "string is not utf8"),
        (ListType(P["u16"]), (1, 0), "pointer 0x1 is not aligned to 2"),
        (ListType(P["u64"]), (0, 33), "0x108 is past the end"),
        (ListType(STRING), (0, 32), "is past the end|is not utf8|holds more"),
        (ListType(ListType(STRING)), (32, 1), "pointer"),
    ],
)
def test_traps(t, flat, message, new_instance, current) -> None:
    memory = bytes(32) + b"\xff\xfe\0\0\xff\xff\xff\xff" + b"\xff" * 200
    with pytest.raises(Trap, match=f"^f: .*({message})"):
        lifted(new_instance, current, t, flat, memory)


@pytest.mark.parametrize("name", ["x{print(1)}", 'x"); print(1) #', "x\n", "none", "é", "a" * 65])
@pytest.mark.parametrize("make", [EnumType, lambda labels, name: VariantType((CaseType("a"),), name)])
def test_names_of_types_never_become_code(name, make, new_instance, current, capsys) -> None:
    """A guest of several components names the types that its own calls are made of."""
    t = make(("a",), name)
    text = source(lower_import("f", FuncType((("p", t),)), print, current))
    assert name not in text or name == "none"
    with pytest.raises(Trap, match=r"f: 7 is not a case of (enum|variant)( none)?$"):
        lifted(new_instance, current, t, (7,))
    assert not capsys.readouterr().out


def test_what_inner_strings_cost(new_instance, current) -> None:
    """Small strings are paid for with their element, larger ones one by one; honest lists pass."""
    inst = new_instance(1 << 20)
    count, size = 1000, SMALL_STRING + 1
    inst.bytes[: 8 * count] = struct.pack("<II", 65536, size) * count
    seen: list[Any] = []
    callback = lower_import("f", FuncType((("p", ListType(STRING)),)), lambda _, v: seen.append(v), current)
    inst.call(callback, ("ii", ""), 0, count)
    assert seen == [["\0" * size] * count]
    assert count * size * 100 < LIFT_LIMIT
    assert "left = LIFT_LIMIT" in source(callback)


@pytest.mark.parametrize(
    ("t", "value"),
    [(STRING, "ab"), (ListType(P["u16"]), [0x6261, 0]), (ListType(STRING), ["ab", ""])],
)
def test_memory_that_grew_since_it_was_seen(t, value, new_instance, current) -> None:
    inst = new_instance(4096)
    inst.visible = 1024
    inst.memories = [Memory(lambda: memoryview(inst.bytes)[: inst.visible])]
    inst.visible = 4096
    inst.bytes[2048:2050] = b"ab"
    inst.bytes[512:528] = struct.pack("<4I", 2048, 2, 4096, 0)
    seen: list[Any] = []
    callback = lower_import("f", FuncType((("p", t),)), lambda _, v: seen.append(v), current)
    inst.call(callback, ("ii", ""), 512 if t == ListType(STRING) else 2048, 2)
    assert seen == [value]
    assert inst.memories[0].size == 4096


def test_many_strings_beside_each_other_share_a_budget(new_instance, current) -> None:
    """They may all be the same bytes."""
    size = LIFT_LIMIT // MANY_ROOTS
    inst = new_instance(size)
    seen: list[Any] = []

    def call(count: int, size: int) -> None:
        ft = FuncType((("p", TupleType((STRING,) * count)),))
        callback = lower_import("f", ft, lambda _, v: seen.append(sum(map(len, v))), current)
        inst.call(callback, flatten_functype(ft, "lower"), *(0, size) * count)

    call(MANY_ROOTS, size)
    call(MANY_ROOTS + 1, size // 2)
    assert seen == [LIFT_LIMIT, LIFT_LIMIT // 8 * 5]
    with pytest.raises(Trap, match="holds more than"):
        call(MANY_ROOTS + 1, size)


@pytest.mark.parametrize(
    "t",
    [
        TupleType((ListType(STRING),) * 5),
        ListType(OptionType(STRING), 5),
        TupleType((OptionType(ListType(ListType(P["u16"]))),) * 5),
        TupleType((STRING,) * 17),
    ],
)
def test_one_budget_for_many(t, current) -> None:
    text = source(lower_import("f", FuncType((("p", t),)), print, current))
    assert text.count("left = LIFT_LIMIT") == 1


def test_no_budget_where_no_list_can_multiply(current) -> None:
    t = TupleType((STRING, ListType(P["u32"]), OptionType(BYTES)))
    assert "left =" not in source(lower_import("f", FuncType((("p", t),)), print, current))
