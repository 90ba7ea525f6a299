# Where values lie in linear memory and how they flatten to core values.
#
# CanonicalABI.md, sections Despecialization, Alignment, Element Size and
# Flattening, in that order and with those names, for 32-bit memories.

from __future__ import annotations

from functools import lru_cache
from typing import Literal, NamedTuple

from ..errors import UnsupportedError
from .types import (
    BoolType,
    BorrowType,
    CaseType,
    CharType,
    EnumType,
    ErrorContextType,
    F32Type,
    F64Type,
    FieldType,
    FlagsType,
    FuncType,
    FutureType,
    ListType,
    OptionType,
    OwnType,
    RecordType,
    ResultType,
    S8Type,
    S16Type,
    S32Type,
    S64Type,
    StreamType,
    StringType,
    TupleType,
    U8Type,
    U16Type,
    U32Type,
    U64Type,
    ValType,
    VariantType,
)

CoreType = Literal["i32", "i64", "f32", "f64"]

MAX_FLAT_PARAMS = 16
MAX_FLAT_ASYNC_PARAMS = 4
MAX_FLAT_RESULTS = 1
MAX_STRING_BYTE_LENGTH = (1 << 28) - 1
MAX_LIST_BYTE_LENGTH = (1 << 28) - 1
UTF16_TAG = 1 << 31


def despecialize(t: ValType) -> ValType:
    """The record, variant or basic type that `t` stands for."""
    match t:
        case TupleType(ts):
            return RecordType(tuple(FieldType(str(i), u) for i, u in enumerate(ts)))
        case EnumType(labels):
            return VariantType(tuple(CaseType(label) for label in labels))
        case OptionType(u):
            return VariantType((CaseType("none"), CaseType("some", u)))
        case ResultType(ok, err):
            return VariantType((CaseType("ok", ok), CaseType("error", err)))
        case _:
            return t


def align_to(ptr: int, alignment: int) -> int:
    return (ptr + alignment - 1) // alignment * alignment


def discriminant_size(cases: int) -> int:
    """Bytes of the discriminant of a variant with so many cases."""
    return 1 if cases <= 0x100 else 2 if cases <= 0x10000 else 4


def flags_size(labels: int) -> int:
    """Bytes of a flags value with so many labels."""
    if labels > 32:
        raise UnsupportedError(f"flags with {labels} labels", "flags of more than 32 labels")
    return 1 if labels <= 8 else 2 if labels <= 16 else 4


@lru_cache(maxsize=4096)
def alignment(t: ValType) -> int:
    match despecialize(t):
        case BoolType() | S8Type() | U8Type():
            return 1
        case S16Type() | U16Type():
            return 2
        case S64Type() | U64Type() | F64Type():
            return 8
        case S32Type() | U32Type() | F32Type() | CharType() | StringType() | ErrorContextType():
            return 4
        case ListType(u, length):
            return 4 if length is None else alignment(u)
        case RecordType(fields):
            return max((alignment(f.t) for f in fields), default=1)
        case VariantType(cases):
            return max(discriminant_size(len(cases)), max_case_alignment(cases))
        case FlagsType(labels):
            return flags_size(len(labels))
        case OwnType() | BorrowType() | StreamType() | FutureType():
            return 4
        case _:
            raise AssertionError(t)


def max_case_alignment(cases: tuple[CaseType, ...]) -> int:
    return max((alignment(c.t) for c in cases if c.t is not None), default=1)


@lru_cache(maxsize=4096)
def elem_size(t: ValType) -> int:
    match despecialize(t):
        case BoolType() | S8Type() | U8Type():
            return 1
        case S16Type() | U16Type():
            return 2
        case S64Type() | U64Type() | F64Type() | StringType():
            return 8
        case S32Type() | U32Type() | F32Type() | CharType() | ErrorContextType():
            return 4
        case ListType(u, length):
            return 8 if length is None else length * elem_size(u)
        case RecordType(fields):
            size = 0
            for f in fields:
                size = align_to(size, alignment(f.t)) + elem_size(f.t)
            return align_to(size, alignment(t))
        case VariantType(cases):
            size = max((elem_size(c.t) for c in cases if c.t is not None), default=0)
            return align_to(payload_offset(cases) + size, alignment(t))
        case FlagsType(labels):
            return flags_size(len(labels))
        case OwnType() | BorrowType() | StreamType() | FutureType():
            return 4
        case _:
            raise AssertionError(t)


def payload_offset(cases: tuple[CaseType, ...]) -> int:
    """Where the payload of a variant begins."""
    return align_to(discriminant_size(len(cases)), max_case_alignment(cases))


def field_offsets(ts: tuple[ValType, ...]) -> tuple[int, ...]:
    """Where each of the fields of a record with these types begins."""
    offsets, end = [], 0
    for t in ts:
        offset = align_to(end, alignment(t))
        offsets.append(offset)
        end = offset + elem_size(t)
    return tuple(offsets)


@lru_cache(maxsize=4096)
def flatten_type(t: ValType) -> tuple[CoreType, ...]:
    match despecialize(t):
        case S64Type() | U64Type():
            return ("i64",)
        case F32Type():
            return ("f32",)
        case F64Type():
            return ("f64",)
        case StringType() | ListType(_, None):
            return ("i32", "i32")
        case ListType(u, int(length)):
            # beyond the limit of parameters only the number "too many" matters
            many = MAX_FLAT_PARAMS + 1
            return (flatten_type(u) * min(length, many))[:many]
        case RecordType(fields):
            return flatten_types(tuple(f.t for f in fields))
        case VariantType(cases):
            return flatten_variant(cases)
        case _:
            return ("i32",)


def flatten_types(ts: tuple[ValType, ...]) -> tuple[CoreType, ...]:
    flat: tuple[CoreType, ...] = ()
    for t in ts:
        flat += flatten_type(t)
        if len(flat) > MAX_FLAT_PARAMS:
            break
    return flat


def flatten_variant(cases: tuple[CaseType, ...]) -> tuple[CoreType, ...]:
    flat: list[CoreType] = []
    for c in cases:
        for i, core in enumerate(() if c.t is None else flatten_type(c.t)):
            if i < len(flat):
                flat[i] = join(flat[i], core)
            else:
                flat.append(core)
    return ("i32", *flat)


def join(a: CoreType, b: CoreType) -> CoreType:
    if a == b:
        return a
    if {a, b} == {"i32", "f32"}:
        return "i32"
    return "i64"


class CoreFuncType(NamedTuple):
    """A core function type, a letter for each value: i (i32), l (i64), f (f32), d (f64)."""

    params: str
    results: str


CORE_LETTER: dict[CoreType, str] = {"i32": "i", "i64": "l", "f32": "f", "f64": "d"}


def flatten_functype(ft: FuncType, context: Literal["lift", "lower"]) -> CoreFuncType:
    """The core type of a synchronous function, exported ("lift") or imported ("lower")."""
    params = "".join(CORE_LETTER[core] for core in flatten_types(ft.param_types()))
    results = "" if ft.result is None else "".join(CORE_LETTER[core] for core in flatten_type(ft.result))
    if len(params) > MAX_FLAT_PARAMS:
        params = "i"
    if len(results) > MAX_FLAT_RESULTS:
        if context == "lower":
            return CoreFuncType(params + "i", "")
        results = "i"
    return CoreFuncType(params, results)
