# Tables of what hosts return and what guests find; canon's tests compare with the oracle.

from __future__ import annotations

import math
import struct
from typing import Any

import pytest

from wasm_gateway.component.canon import lift_export, lower_import
from wasm_gateway.component.layout import flatten_functype
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
    VariantType,
)
from wasm_gateway.component.values import Err, Ok, Some

P = PRIMITIVES
BYTES, STRING = ListType(P["u8"]), P["string"]
MIXED = VariantType(
    (
        CaseType("none"),
        CaseType("f32", P["f32"]),
        CaseType("f64", P["f64"]),
        CaseType("s8", P["s8"]),
        CaseType("text", STRING),
    )
)
HALF = 0x3FC90FDB  # the bits of pi / 2 as f32


@pytest.mark.parametrize(
    ("t", "value", "core"),
    [
        (P["bool"], True, 1),
        (P["bool"], [], 0),
        (P["u8"], 255, 255),
        (P["s8"], -1, 2**32 - 1),
        (P["s16"], -32768, 2**32 - 32768),
        (P["s32"], -1, 2**32 - 1),
        (P["u32"], 2**32 - 1, 2**32 - 1),
        (P["s64"], -1, 2**64 - 1),
        (P["f32"], 0.5, 0.5),
        (P["f64"], math.pi, math.pi),
        (P["char"], "🐈", 0x1F408),
        (EnumType(("a", "b")), "b", 1),
        (FlagsType(("a", "b")), 3, 3),
        (ResultType(), Ok(), 0),
        (ResultType(), Err(), 1),
        (ResultType(), None, 0),
        (TupleType((P["s8"],)), (-1,), 2**32 - 1),
        (VariantType((CaseType("a"), CaseType("b"))), ("b", None), 1),
        (ListType(P["u8"], 1), b"\7", 7),
    ],
)
def test_flat_result(t, value, core, new_instance, current) -> None:
    inst = new_instance()
    ft = FuncType((), t)
    assert inst.call(lower_import("f", ft, lambda _: value, current), flatten_functype(ft, "lower")) == core


@pytest.mark.parametrize(
    ("t", "value", "flat"),
    [
        (MIXED, ("none", None), (0, 0, 0)),
        (MIXED, ("f32", 1.5707963705062866), (1, HALF, 0)),
        (MIXED, ("f64", 1.0), (2, 0x3FF << 52, 0)),
        (MIXED, ("s8", -1), (3, 2**32 - 1, 0)),
        (MIXED, ("text", "ab"), (4, 1024, 2)),
        (OptionType(STRING), None, (0, 0, 0)),
        (OptionType(OptionType(P["u8"])), Some(None), (1, 0, 0)),
        (OptionType(OptionType(P["u8"])), Some(7), (1, 1, 7)),
        (ResultType(P["u8"], P["f32"]), Err(1.5707963705062866), (1, HALF)),
        (TupleType((STRING, BYTES)), ("", b"xyz"), (1024, 0, 1024, 3)),
        (ListType(P["s16"]), [], (1024, 0)),
        (ListType(P["s8"], 2), [-1, 1], (2**32 - 1, 1)),
    ],
)
def test_flat_parameters(t, value, flat, new_instance) -> None:
    seen: list[Any] = []
    lift_export("f", FuncType((("p", t),)))(new_instance(), lambda *core: seen.extend(core), None, value)
    assert tuple(seen) == flat


ROW = RecordType((FieldType("a", P["u8"]), FieldType("b", OptionType(P["u32"])), FieldType("c", P["u16"])))


@pytest.mark.parametrize(
    ("t", "value", "stored", "heap"),
    [
        (STRING, "né", struct.pack("<2I", 1024, 3), "né".encode()),
        (BYTES, bytearray(b"abc"), struct.pack("<2I", 1024, 3), b"abc"),
        (BYTES, memoryview(b"abc"), struct.pack("<2I", 1024, 3), b"abc"),
        (ListType(P["s16"]), (1, -1), struct.pack("<2I", 1024, 2), b"\1\0\xff\xff"),
        (ListType(P["bool"]), [True, False, 3], struct.pack("<2I", 1024, 3), b"\1\0\1"),
        (ListType(P["char"]), "ab", struct.pack("<2I", 1024, 2), b"a\0\0\0b\0\0\0"),
        (
            ListType(TupleType((STRING, STRING))),
            [("k", "v1"), ("", "w")],
            struct.pack("<2I", 1024, 2),
            struct.pack("<8I", 1056, 1, 1057, 2, 1059, 0, 1059, 1) + b"kv1w",
        ),
        (ROW, (1, 2, 3), struct.pack("<B3xB3xIH", 1, 1, 2, 3), b""),
        (ROW, (1, None, 3), struct.pack("<B3xB7xH", 1, 0, 3), b""),
        (MIXED, ("text", "x"), struct.pack("<B7xII", 4, 1024, 1), b"x"),
        (ResultType(BYTES, EnumType(("a", "b"))), b"x", struct.pack("<B3xII", 0, 1024, 1), b"x"),
        (ResultType(BYTES, EnumType(("a", "b"))), Err("b"), b"\1\0\0\0\1", b""),
        (TupleType((P["u8"], ListType(P["u8"], 2), P["u8"])), (1, b"\2\3", 4), b"\1\2\3\4", b""),
    ],
)
def test_stored_result(t, value, stored, heap, new_instance, current) -> None:
    for each in (False, True):
        inst = new_instance(each=each)
        inst.call(lower_import("f", FuncType((), t), lambda _: value, current), ("i", ""), 64)
        assert inst.bytes[64 : 64 + len(stored)] == stored
        assert inst.bytes[1024 : 1024 + len(heap)] == heap
        assert not any(inst.bytes[64 + len(stored) : 1024])
        assert not any(inst.bytes[1024 + len(heap) :])


@pytest.mark.parametrize(
    ("encoding", "text", "units", "data", "align"),
    [
        ("utf16", "aé", 2, "aé".encode("utf-16-le"), 2),
        ("utf16", "🐈", 2, "🐈".encode("utf-16-le"), 2),
        ("latin1+utf16", "aé", 2, b"a\xe9", 2),
        ("latin1+utf16", "aĀ", 2 | 1 << 31, "aĀ".encode("utf-16-le"), 2),
    ],
)
def test_encodings(encoding, text, units, data, align, new_instance, current) -> None:
    inst = new_instance()
    callback = lower_import("f", FuncType((), STRING), lambda _: text, current, encoding=encoding)
    inst.call(callback, ("i", ""), 64)
    assert inst.bytes[64:72] == struct.pack("<2I", 1024, units)
    assert inst.bytes[1024 : 1024 + len(data)] == data
    assert inst.reallocs == [(0, 0, align, len(data))]


def test_seventeen_parameters_go_through_memory(new_instance) -> None:
    inst = new_instance()
    ft = FuncType(tuple((f"p{i}", P["u8"]) for i in range(17)))
    seen: list[int] = []
    lift_export("f", ft)(inst, seen.append, None, *range(17))
    assert seen == [1024]
    assert inst.reallocs == [(0, 0, 1, 17)]
    assert inst.bytes[1024:1041] == bytes(range(17))


def test_order_of_allocations(new_instance, current) -> None:
    """The list's own room, then for each element its parts, in order (CanonicalABI.md, store_list)."""
    t = ListType(TupleType((STRING, ListType(P["u32"]))))
    for each in (False, True):
        inst = new_instance(each=each)
        value = [("abc", [1]), ("", [2, 3])]
        inst.call(lower_import("f", FuncType((), t), lambda _, v=value: v, current), ("i", ""), 64)
        assert inst.reallocs == [(0, 0, 4, 32), (0, 0, 1, 3), (0, 0, 4, 4), (0, 0, 1, 0), (0, 0, 4, 8)]


def test_misfit_of_a_long_type_is_told_briefly(new_instance, current) -> None:
    t = EnumType(tuple(f"label-{i}" for i in range(1000)))
    with pytest.raises(TypeError) as caught:
        new_instance().call(lower_import("f", FuncType((), t), lambda _: "other", current), ("", "i"))
    assert len(str(caught.value)) < 300
    assert str(caught.value).endswith("...: KeyError: 'other'")
