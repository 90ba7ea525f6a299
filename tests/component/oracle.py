# An interpreter of the canonical ABI in the words of CanonicalABI.md, slow and plain:
# what the generated code is checked against. Values are those of component/values.py.
#
# It shares nothing with layout.py, lift.py and lower.py.

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from wasm_gateway.component.types import (
    BoolType,
    CharType,
    EnumType,
    F32Type,
    F64Type,
    FlagsType,
    ListType,
    OptionType,
    RecordType,
    ResultType,
    S8Type,
    S16Type,
    S32Type,
    S64Type,
    StringType,
    TupleType,
    U8Type,
    U16Type,
    U32Type,
    U64Type,
    ValType,
    VariantType,
)
from wasm_gateway.component.values import Err, Ok, Some

MAX_STRING_BYTE_LENGTH = MAX_LIST_BYTE_LENGTH = 2**28 - 1


class OracleTrap(Exception):
    """The rules say: trap."""


def trap_if(condition: bool) -> None:
    if condition:
        raise OracleTrap


INTEGERS: dict[type[ValType], tuple[int, bool]] = {
    U8Type: (1, False),
    U16Type: (2, False),
    U32Type: (4, False),
    U64Type: (8, False),
    S8Type: (1, True),
    S16Type: (2, True),
    S32Type: (4, True),
    S64Type: (8, True),
}

Case = tuple[Any, "ValType | None"]


def cases(t: ValType) -> list[Case] | None:
    """Labels and payloads of what despecializes to a variant."""
    match t:
        case VariantType(cs):
            return [(c.label, c.t) for c in cs]
        case EnumType(labels):
            return [(label, None) for label in labels]
        case OptionType(u):
            return [("none", None), ("some", u)]
        case ResultType(ok, err):
            return [("ok", ok), ("error", err)]
    return None


def fields(t: ValType) -> list[ValType] | None:
    match t:
        case RecordType(fs):
            return [f.t for f in fs]
        case TupleType(ts):
            return list(ts)
    return None


def align_to(ptr: int, alignment: int) -> int:
    return math.ceil(ptr / alignment) * alignment


def discriminant_size(cs: list[Case]) -> int:
    return {0: 1, 1: 1, 2: 2, 3: 4}[math.ceil(math.log2(len(cs)) / 8)]


def alignment(t: ValType) -> int:
    if (fs := fields(t)) is not None:
        return max(map(alignment, fs))
    if (cs := cases(t)) is not None:
        return max(discriminant_size(cs), max_case_alignment(cs))
    match t:
        case BoolType():
            return 1
        case F32Type() | CharType() | StringType() | ListType(_, None):
            return 4
        case F64Type():
            return 8
        case ListType(u, _):
            return alignment(u)
        case FlagsType(labels):
            return 1 if len(labels) <= 8 else 2 if len(labels) <= 16 else 4
    return INTEGERS[type(t)][0]


def max_case_alignment(cs: list[Case]) -> int:
    return max([1, *(alignment(u) for _, u in cs if u is not None)])


def elem_size(t: ValType) -> int:
    if (fs := fields(t)) is not None:
        size = 0
        for f in fs:
            size = align_to(size, alignment(f)) + elem_size(f)
        return align_to(size, alignment(t))
    if (cs := cases(t)) is not None:
        size = align_to(discriminant_size(cs), max_case_alignment(cs))
        size += max([0, *(elem_size(u) for _, u in cs if u is not None)])
        return align_to(size, alignment(t))
    match t:
        case BoolType():
            return 1
        case F32Type() | CharType():
            return 4
        case F64Type() | StringType() | ListType(_, None):
            return 8
        case ListType(u, int(length)):
            return length * elem_size(u)
        case FlagsType(labels):
            return 1 if len(labels) <= 8 else 2 if len(labels) <= 16 else 4
    return INTEGERS[type(t)][0]


def flatten(t: ValType) -> list[str]:
    if (fs := fields(t)) is not None:
        return [core for f in fs for core in flatten(f)]
    if (cs := cases(t)) is not None:
        flat: list[str] = []
        for _, u in cs:
            for i, core in enumerate([] if u is None else flatten(u)):
                if i < len(flat):
                    flat[i] = join(flat[i], core)
                else:
                    flat.append(core)
        return ["i32", *flat]
    match t:
        case U64Type() | S64Type():
            return ["i64"]
        case F32Type():
            return ["f32"]
        case F64Type():
            return ["f64"]
        case StringType() | ListType(_, None):
            return ["i32", "i32"]
        case ListType(u, int(length)):
            return flatten(u) * length
    return ["i32"]


def join(a: str, b: str) -> str:
    if a == b:
        return a
    if {a, b} == {"i32", "f32"}:
        return "i32"
    return "i64"


@dataclass
class Context:
    """Memory, allocator (old, old_size, align, new_size) -> ptr, string encoding."""

    memory: bytearray
    realloc: Callable[[int, int, int, int], int]
    encoding: str = "utf8"
    reallocs: list[tuple[int, int, int, int]] = field(default_factory=list)

    def allocate(self, align: int, size: int) -> int:
        ptr = self.realloc(0, 0, align, size)
        trap_if(ptr != align_to(ptr, align))
        trap_if(ptr + size > len(self.memory))
        return ptr


def reinterpret(letters: str, value: Any) -> Any:
    return struct.unpack(f"<{letters[1]}", struct.pack(f"<{letters[0]}", value))[0]


def canonicalize_nan(f: float) -> float:
    return math.nan if math.isnan(f) else f


# Loading.


def load_int(cx: Context, ptr: int, size: int, signed: bool = False) -> int:
    return int.from_bytes(cx.memory[ptr : ptr + size], "little", signed=signed)


def load(cx: Context, ptr: int, t: ValType) -> Any:
    assert ptr == align_to(ptr, alignment(t))
    assert ptr + elem_size(t) <= len(cx.memory)
    if (fs := fields(t)) is not None:
        values = []
        for f in fs:
            ptr = align_to(ptr, alignment(f))
            values.append(load(cx, ptr, f))
            ptr += elem_size(f)
        return tuple(values)
    if (cs := cases(t)) is not None:
        index = load_int(cx, ptr, discriminant_size(cs))
        trap_if(index >= len(cs))
        label, u = cs[index]
        at = align_to(ptr + discriminant_size(cs), max_case_alignment(cs))
        return made(t, label, None if u is None else load(cx, at, u))
    match t:
        case BoolType():
            return bool(load_int(cx, ptr, 1))
        case F32Type():
            return canonicalize_nan(reinterpret("If", load_int(cx, ptr, 4)))
        case F64Type():
            return canonicalize_nan(reinterpret("Qd", load_int(cx, ptr, 8)))
        case CharType():
            return lift_char(load_int(cx, ptr, 4))
        case StringType():
            return load_string_from_range(cx, load_int(cx, ptr, 4), load_int(cx, ptr + 4, 4))
        case ListType(u, None):
            return load_list_from_range(cx, load_int(cx, ptr, 4), load_int(cx, ptr + 4, 4), u)
        case ListType(u, int(length)):
            return load_list_from_valid_range(cx, ptr, length, u)
        case FlagsType(labels):
            return load_int(cx, ptr, elem_size(t)) & (2 ** len(labels) - 1)
    return load_int(cx, ptr, *INTEGERS[type(t)])


def made(t: ValType, label: Any, payload: Any) -> Any:
    """A case as Python has it."""
    match t:
        case EnumType():
            return label
        case OptionType(u):
            if label == "none":
                return None
            return Some(payload) if isinstance(u, OptionType) else payload
        case ResultType():
            return Ok(payload) if label == "ok" else Err(payload)
    return label, payload


def lift_char(i: int) -> str:
    trap_if(i >= 0x110000)
    trap_if(0xD800 <= i <= 0xDFFF)
    return chr(i)


def load_string_from_range(cx: Context, ptr: int, units: int) -> str:
    align, size, codec = 1, units, "utf-8"
    if cx.encoding == "utf16":
        align, size, codec = 2, 2 * units, "utf-16-le"
    elif cx.encoding == "latin1+utf16":
        align, codec = 2, "latin-1"
        if units & 2**31:
            size, codec = 2 * (units ^ 2**31), "utf-16-le"
    trap_if(size > MAX_STRING_BYTE_LENGTH)
    trap_if(ptr != align_to(ptr, align))
    trap_if(ptr + size > len(cx.memory))
    try:
        return cx.memory[ptr : ptr + size].decode(codec)
    except UnicodeError:
        raise OracleTrap from None


def load_list_from_range(cx: Context, ptr: int, length: int, t: ValType) -> Any:
    trap_if(length * elem_size(t) > MAX_LIST_BYTE_LENGTH)
    trap_if(ptr != align_to(ptr, alignment(t)))
    trap_if(ptr + length * elem_size(t) > len(cx.memory))
    return load_list_from_valid_range(cx, ptr, length, t)


def load_list_from_valid_range(cx: Context, ptr: int, length: int, t: ValType) -> Any:
    values = [load(cx, ptr + i * elem_size(t), t) for i in range(length)]
    return bytes(values) if t == U8Type() else values


# Storing.


def store_int(cx: Context, value: int, ptr: int, size: int, signed: bool = False) -> None:
    cx.memory[ptr : ptr + size] = value.to_bytes(size, "little", signed=signed)


def store(cx: Context, v: Any, t: ValType, ptr: int) -> None:
    assert ptr == align_to(ptr, alignment(t))
    assert ptr + elem_size(t) <= len(cx.memory)
    if (fs := fields(t)) is not None:
        for f, u in zip(v, fs, strict=True):
            ptr = align_to(ptr, alignment(u))
            store(cx, f, u, ptr)
            ptr += elem_size(u)
        return
    if (cs := cases(t)) is not None:
        index, payload = match_case(v, t, cs)
        store_int(cx, index, ptr, discriminant_size(cs))
        u = cs[index][1]
        if u is not None:
            store(cx, payload, u, align_to(ptr + discriminant_size(cs), max_case_alignment(cs)))
        return
    match t:
        case BoolType():
            store_int(cx, int(bool(v)), ptr, 1)
        case F32Type():
            cx.memory[ptr : ptr + 4] = struct.pack("<f", v)
        case F64Type():
            cx.memory[ptr : ptr + 8] = struct.pack("<d", v)
        case CharType():
            store_int(cx, ord(v), ptr, 4)
        case StringType():
            begin, units = store_string_into_range(cx, v)
            store_int(cx, begin, ptr, 4)
            store_int(cx, units, ptr + 4, 4)
        case ListType(u, None):
            begin, length = store_list_into_range(cx, v, u)
            store_int(cx, begin, ptr, 4)
            store_int(cx, length, ptr + 4, 4)
        case ListType(u, int(length)):
            assert len(v) == length
            store_list_into_valid_range(cx, v, ptr, u)
        case FlagsType():
            store_int(cx, v, ptr, elem_size(t))
        case _:
            size, signed = INTEGERS[type(t)]
            store_int(cx, v, ptr, size, signed)


def match_case(v: Any, t: ValType, cs: list[Case]) -> tuple[int, Any]:
    match t:
        case EnumType():
            return [label for label, _ in cs].index(v), None
        case OptionType(u):
            if v is None:
                return 0, None
            return 1, v.value if isinstance(u, OptionType) else v
        case ResultType():
            return int(type(v) is Err), v.value
    return [label for label, _ in cs].index(v[0]), v[1]


def store_string_into_range(cx: Context, text: str) -> tuple[int, int]:
    align, tag, unit = 1, 0, 1
    data = text.encode()
    if cx.encoding == "utf16":
        align, unit, data = 2, 2, text.encode("utf-16-le")
    elif cx.encoding == "latin1+utf16":
        align = 2
        if all(ord(c) < 256 for c in text):
            data = text.encode("latin-1")
        else:
            unit, tag, data = 2, 2**31, text.encode("utf-16-le")
    ptr = cx.allocate(align, len(data))
    cx.memory[ptr : ptr + len(data)] = data
    return ptr, len(data) // unit | tag


def store_list_into_range(cx: Context, v: Any, t: ValType) -> tuple[int, int]:
    ptr = cx.allocate(alignment(t), len(v) * elem_size(t))
    store_list_into_valid_range(cx, v, ptr, t)
    return ptr, len(v)


def store_list_into_valid_range(cx: Context, v: Any, ptr: int, t: ValType) -> None:
    for i, e in enumerate(v):
        store(cx, e, t, ptr + i * elem_size(t))


# Flat lifting. `values` are core values with their types.

Flat = Iterator[tuple[str, Any]]


def take(flat: Flat, want: str) -> Any:
    have, value = next(flat)
    match have, want:
        case "i32", "f32":
            return canonicalize_nan(reinterpret("If", value))
        case "i64", "i32":
            return value % 2**32
        case "i64", "f32":
            return canonicalize_nan(reinterpret("If", value % 2**32))
        case "i64", "f64":
            return canonicalize_nan(reinterpret("Qd", value))
    assert have == want
    return value


def lift_flat(cx: Context, flat: Flat, t: ValType) -> Any:
    if (fs := fields(t)) is not None:
        return tuple(lift_flat(cx, flat, f) for f in fs)
    if (cs := cases(t)) is not None:
        index, *payload = [(want, take(flat, want)) for want in flatten(t)]
        trap_if(index[1] >= len(cs))
        label, u = cs[index[1]]
        return made(t, label, None if u is None else lift_flat(cx, iter(payload), u))
    match t:
        case BoolType():
            return take(flat, "i32") != 0
        case F32Type() | F64Type():
            return canonicalize_nan(take(flat, flatten(t)[0]))
        case CharType():
            return lift_char(take(flat, "i32"))
        case StringType():
            return load_string_from_range(cx, take(flat, "i32"), take(flat, "i32"))
        case ListType(u, None):
            return load_list_from_range(cx, take(flat, "i32"), take(flat, "i32"), u)
        case ListType(u, int(length)):
            values = [lift_flat(cx, flat, u) for _ in range(length)]
            return bytes(values) if u == U8Type() else values
        case FlagsType(labels):
            return take(flat, "i32") & (2 ** len(labels) - 1)
    size, signed = INTEGERS[type(t)]
    value = take(flat, flatten(t)[0]) % 2 ** (8 * size)
    return value - 2 ** (8 * size) if signed and value >= 2 ** (8 * size - 1) else value


def lower_flat(cx: Context, v: Any, t: ValType) -> list[Any]:
    if (fs := fields(t)) is not None:
        return [core for f, u in zip(v, fs, strict=True) for core in lower_flat(cx, f, u)]
    if (cs := cases(t)) is not None:
        index, value = match_case(v, t, cs)
        wants, payload = flatten(t)[1:], []
        u = cs[index][1]
        if u is not None:
            haves = flatten(u)
            for have, want, core in zip(haves, wants[: len(haves)], lower_flat(cx, value, u), strict=True):
                match have, want:
                    case "f32", "i32" | "i64":
                        core = reinterpret("fI", core)
                    case "f64", "i64":
                        core = reinterpret("dQ", core)
                payload.append(core)
        return [index, *payload, *[0] * (len(wants) - len(payload))]
    match t:
        case BoolType():
            return [int(v)]
        case CharType():
            return [ord(v)]
        case StringType():
            return [*store_string_into_range(cx, v)]
        case ListType(u, None):
            return [*store_list_into_range(cx, v, u)]
        case ListType(u, int()):
            return [core for e in v for core in lower_flat(cx, e, u)]
        case S8Type() | S16Type() | S32Type():
            return [v % 2**32]
        case S64Type():
            return [v % 2**64]
    return [v]


def lift_flat_values(cx: Context, max_flat: int, values: list[Any], ts: list[ValType]) -> list[Any]:
    flat = [core for t in ts for core in flatten(t)]
    if len(flat) > max_flat:
        t = TupleType(tuple(ts))
        trap_if(values[0] != align_to(values[0], alignment(t)))
        trap_if(values[0] + elem_size(t) > len(cx.memory))
        return list(load(cx, values[0], t))
    iterator = iter(zip(flat, values, strict=True))
    return [lift_flat(cx, iterator, t) for t in ts]


def lower_flat_values(
    cx: Context, max_flat: int, vs: list[Any], ts: list[ValType], out_param: int | None = None
) -> list[Any]:
    if sum(len(flatten(t)) for t in ts) > max_flat:
        t = TupleType(tuple(ts))
        ptr = cx.realloc(0, 0, alignment(t), elem_size(t)) if out_param is None else out_param
        trap_if(ptr != align_to(ptr, alignment(t)))
        trap_if(ptr + elem_size(t) > len(cx.memory))
        store(cx, tuple(vs), t, ptr)
        return [ptr] if out_param is None else []
    return [core for v, t in zip(vs, ts, strict=True) for core in lower_flat(cx, v, t)]
