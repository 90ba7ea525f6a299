from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from wasm_gateway.component.layout import (
    alignment,
    elem_size,
    field_offsets,
    flatten_functype,
    flatten_type,
    flatten_types,
    payload_offset,
)
from wasm_gateway.component.types import (
    PRIMITIVES,
    CaseType,
    EnumType,
    FlagsType,
    FuncType,
    ListType,
    OptionType,
    OwnType,
    ResourceType,
    ResultType,
    StreamType,
    TupleType,
    ValType,
    VariantType,
)
from wasm_gateway.errors import UnsupportedError

P = PRIMITIVES
BYTES, STRING = ListType(P["u8"]), P["string"]


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_against_the_oracle(data, types, oracle) -> None:
    t = data.draw(types.TYPES)
    assert alignment(t) == oracle.alignment(t)
    assert elem_size(t) == oracle.elem_size(t)
    flat = oracle.flatten(t)
    if len(flat) <= 16:
        assert list(flatten_type(t)) == flat
    else:
        assert len(flatten_types((t,))) > 16


# From host-interfaces of Spin 1, whose modules have been seen to use exactly these.
VALUE = VariantType(
    (CaseType("integer", P["s64"]), CaseType("real", P["f64"]), CaseType("text", STRING), CaseType("null"))
)
ERROR = VariantType((CaseType("no-such-key"), CaseType("io", STRING)))
ROW_SET = TupleType((ListType(TupleType((STRING, EnumType(("a", "b"))))), ListType(ListType(VALUE))))
HEADERS = ListType(TupleType((STRING, STRING)))
RESPONSE = TupleType((P["u16"], OptionType(HEADERS), OptionType(BYTES)))


@pytest.mark.parametrize(
    ("t", "size", "align", "flat"),
    [
        (VALUE, 16, 8, "i32 i64 i32"),
        (ERROR, 12, 4, "i32 i32 i32"),
        (ResultType(BYTES, ERROR), 16, 4, "i32 i32 i32 i32"),
        (ResultType(P["u64"], ERROR), 24, 8, "i32 i64 i32 i32"),
        (ResultType(ROW_SET, ERROR), 20, 4, "i32 i32 i32 i32 i32"),
        (TupleType((STRING, EnumType(("a", "b")))), 12, 4, "i32 i32 i32"),
        (RESPONSE, 28, 4, "i32 i32 i32 i32 i32 i32 i32"),
        (ResultType(RESPONSE, EnumType(("a",))), 32, 4, "i32 i32 i32 i32 i32 i32 i32 i32"),
        (ResultType(None, EnumType(("a", "b"))), 2, 1, "i32 i32"),
        (EnumType(tuple(map(str, range(256)))), 1, 1, "i32"),
        (EnumType(tuple(map(str, range(257)))), 2, 2, "i32"),
        (FlagsType(tuple(map(str, range(17)))), 4, 4, "i32"),
        (VariantType((CaseType("a", P["f32"]), CaseType("b", P["u32"]))), 8, 4, "i32 i32"),
        (VariantType((CaseType("a", P["f32"]), CaseType("b", P["f64"]))), 16, 8, "i32 i64"),
        (ListType(P["u16"], 3), 6, 2, "i32 i32 i32"),
        (OwnType(ResourceType("r")), 4, 4, "i32"),
        (StreamType(P["u64"]), 4, 4, "i32"),
    ],
)
def test_known(t: ValType, size: int, align: int, flat: str) -> None:
    assert (elem_size(t), alignment(t), " ".join(flatten_type(t))) == (size, align, flat)


def test_offsets() -> None:
    assert field_offsets((P["u16"], OptionType(HEADERS), OptionType(BYTES))) == (0, 4, 16)
    assert field_offsets((P["u8"], P["u64"], P["u8"])) == (0, 8, 16)
    assert payload_offset(VALUE.cases) == 8
    assert payload_offset((CaseType("a"), CaseType("b", P["u8"]))) == 1


@pytest.mark.parametrize(
    ("ft", "lower", "lift"),
    [
        (FuncType(), ("", ""), ("", "")),
        (FuncType((("a", P["s64"]), ("b", P["f32"])), P["f64"]), ("lf", "d"), ("lf", "d")),
        (FuncType((("a", STRING),), ResultType(BYTES)), ("iii", ""), ("ii", "i")),
        (FuncType((("a", TupleType((P["u8"],) * 16)),)), ("i" * 16, ""), ("i" * 16, "")),
        (FuncType((("a", TupleType((P["u8"],) * 17)),), STRING), ("ii", ""), ("i", "i")),
        (FuncType((("a", ListType(P["f64"], 1000)),)), ("i", ""), ("i", "")),
    ],
)
def test_flatten_functype(ft: FuncType, lower: tuple[str, str], lift: tuple[str, str]) -> None:
    assert flatten_functype(ft, "lower") == lower
    assert flatten_functype(ft, "lift") == lift


def test_what_does_not_fit_is_not_counted_to_its_end() -> None:
    t: ValType = TupleType((P["u8"], P["f32"]))
    for _ in range(5):
        t = ListType(t, 17)
    assert elem_size(t) == 8 * 17**5
    assert len(flatten_type(t)) == 17


def test_too_many_flags() -> None:
    with pytest.raises(UnsupportedError):
        elem_size(FlagsType(tuple(map(str, range(33)))))
