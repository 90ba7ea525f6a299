# Generating the code that brings a guest's values in: load, lift_flat.
#
# In memory: `slots` lists the scalars that lie at fixed offsets, one Struct
# unpacks them all, `finish` turns them into the value; only behind a
# discriminant is there another read. Lists unpack element by element with one
# Struct.iter_unpack over the whole range, which was checked before.
#
# The text refers to `inst`, `mem`, `view` and `size` (of the memory, as last
# seen), `handles`, and inside lists to `left`, what is left of LIFT_LIMIT.

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from struct import Struct, unpack
from typing import Any, Literal

from ..errors import Trap
from .concurrency import ErrorContext, entry
from .emit import Slot, Writer, letters, plus, targets
from .layout import (
    MAX_LIST_BYTE_LENGTH,
    MAX_STRING_BYTE_LENGTH,
    UTF16_TAG,
    CoreType,
    alignment,
    discriminant_size,
    elem_size,
    field_offsets,
    flags_size,
    flatten_type,
    payload_offset,
)
from .memory import Memory
from .names import is_label
from .streams import READABLE, CopyState, lift_end
from .types import (
    BoolType,
    BorrowType,
    CaseType,
    CharType,
    EnumType,
    ErrorContextType,
    F32Type,
    F64Type,
    FlagsType,
    FutureType,
    ListType,
    OptionType,
    OwnType,
    RecordType,
    ResourceType,
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
    children,
    contains,
    element_of,
)
from .values import Err, Ok, Some, record_class

StringEncoding = Literal["utf8", "utf16", "latin1+utf16"]

# What the values of one list may cost the host, in bytes. A guest may let every string
# of a list point at the same bytes, so the size of its memory is no bound. Lifting that
# much takes about a second, in which no deadline is looked at.
# - wasmtime: 128 MiB a call, counted in bytes of the guest
LIFT_LIMIT = 128 << 20
# A call with more strings and lists than this beside each other has one LIFT_LIMIT for all.
MANY_ROOTS = 4
# Inside a list, strings up to this size are paid for with the element that holds them.
SMALL_STRING = 256
# Code that is nested deeper than this goes into a function of its own (CPython: at most 20 loops).
MAX_INDENT = 12

SCALARS: dict[type[ValType], str] = {
    BoolType: "?",
    S8Type: "b",
    U8Type: "B",
    S16Type: "h",
    U16Type: "H",
    S32Type: "i",
    U32Type: "I",
    S64Type: "q",
    U64Type: "Q",
    F32Type: "f",
    F64Type: "d",
    CharType: "I",
}
UNSIGNED = {1: "B", 2: "H", 4: "I"}

# How a core value that may carry several types becomes one of them; other types need nothing.
NARROW: dict[type[ValType], str] = {
    BoolType: "({} != 0)",
    S8Type: "((({} & 0xFF) ^ 0x80) - 0x80)",
    U8Type: "({} & 0xFF)",
    S16Type: "((({} & 0xFFFF) ^ 0x8000) - 0x8000)",
    U16Type: "({} & 0xFFFF)",
    S32Type: "(({} ^ 0x80000000) - 0x80000000)",
    S64Type: "(({} ^ 0x8000000000000000) - 0x8000000000000000)",
}
# (have, want) of the joined flat types of a variant; other pairs need nothing
COERCE: dict[tuple[CoreType, CoreType], str] = {
    ("i32", "f32"): "unpack_f(pack_I({}))[0]",
    ("i64", "i32"): "({} & 0xFFFFFFFF)",
    ("i64", "f32"): "unpack_f(pack_I({} & 0xFFFFFFFF))[0]",
    ("i64", "f64"): "unpack_d(pack_Q({}))[0]",
}

# An expression and its core type; None where it can hold nothing but a value of the wanted type.
FlatValue = tuple[str, "CoreType | None"]


def reach(mem: Memory, end: int, size: int) -> tuple[memoryview, int]:
    """A string or list<u8> of `size` bytes that ends at `end`, behind what was known of the memory."""
    if size > MAX_STRING_BYTE_LENGTH:
        raise Trap(f"string or list of {size} bytes is too long")
    mem.ensure(end)
    return mem.view, mem.size


def reach_list(mem: Memory, end: int, length: int, limit: int) -> tuple[memoryview, int]:
    """The same for a list of `length` elements, of which the host takes at most `limit`."""
    if length > limit:
        raise Trap(f"list of {length} elements is too long")
    mem.ensure(end)
    return mem.view, mem.size


def reach_inner(mem: Memory, end: int, cost: int, left: int) -> tuple[memoryview, int, int]:
    """The same inside a list: what it costs is paid from what is `left`."""
    left -= cost
    if left < 0:
        raise Trap(f"list holds more than {LIFT_LIMIT} bytes of values")
    mem.ensure(end)
    return mem.view, mem.size, left


SUPPORT: dict[str, Any] = {
    "ERR": Err(),
    "Err": Err,
    "ErrorContext": ErrorContext,
    "IDLE": CopyState.IDLE,
    "LIFT_LIMIT": LIFT_LIMIT,
    "NAN": float("nan"),
    "OK": Ok(),
    "Ok": Ok,
    "Some": Some,
    "Trap": Trap,
    "entry": entry,
    "lift_end": lift_end,
    "pack_I": Struct("<I").pack,
    "pack_Q": Struct("<Q").pack,
    "reach": reach,
    "reach_inner": reach_inner,
    "reach_list": reach_list,
    "tuple_new": tuple.__new__,
    "unpack": unpack,
    "unpack_d": Struct("<d").unpack,
    "unpack_f": Struct("<f").unpack,
}


class Lifting:
    """Writes into `out` how values are lifted; strings are in `encoding`."""

    def __init__(self, out: Writer, encoding: StringEncoding, lends_on: bool = False) -> None:
        self.out = out
        self.lends_on = lends_on  # whether what is lent is so longer than the text runs
        self.encoding = encoding
        self.helpers: list[tuple[int, str]] = []
        self.loops = 0  # lists around the value at hand, or 1 where `left` is shared by all
        self.shared = False
        self.branches = 0  # variants around it
        self.lent: list[str] = []  # handles that every call lends
        self.lenders = False  # whether there are others, in the variable `lenders`

    def share(self, ts: Sequence[ValType | None]) -> None:
        """Let all values of these types be paid from one LIFT_LIMIT, where there are many."""
        self.shared = sum(map(roots, ts)) > MANY_ROOTS
        self.loops = int(self.shared)

    def load(self, t: ValType, base: str, offset: int) -> str:
        """An expression for the `t` at `base + offset`, a range that was checked before."""
        slots = slots_of(t, offset)
        names = [self.out.temp("m") for _ in slots]
        if len(slots) == 1 and slots[0][1] == "B":
            self.out.emit(f"{names[0]} = view[{plus(base, slots[0][0])}]")
        elif slots:
            unpack_from = self.out.struct("unpack_from", letters(slots))
            self.out.emit(f"{targets(names)} = {unpack_from}(view, {plus(base, slots[0][0])})")
        return self.finish(t, iter(names), base, offset)

    def load_fields(self, ts: Sequence[ValType], base: str) -> list[str]:
        """Expressions for the fields of the record at `base`."""
        t = TupleType(tuple(ts))
        slots = slots_of(t, 0)
        names = [self.out.temp("m") for _ in slots]
        if slots:
            unpack_from = self.out.struct("unpack_from", letters(slots, 0))
            self.out.emit(f"{targets(names)} = {unpack_from}(view, {base})")
        left = iter(names)
        fields = zip(ts, field_offsets(t.ts), strict=True)
        return [self.finish(u, left, base, at) for u, at in fields]

    def finish(self, t: ValType, names: Iterator[str], base: str, offset: int) -> str:
        """An expression for the `t` whose scalars are in `names`."""
        match t:
            case StringType():
                return self.load_string_from_range(next(names), next(names))
            case ListType(u, None):
                return self.load_list_from_range(u, next(names), next(names))
            case ListType(u, int(length)):
                begin = self.out.bind(plus(base, offset), "p")
                end = f"{begin} + {length * elem_size(u)}"
                return self.load_list_from_valid_range(u, begin, end, str(length))
            case RecordType() | TupleType():
                ts = children(t)
                values = [
                    self.finish(u, names, base, offset + at)
                    for u, at in zip(ts, field_offsets(ts), strict=True)
                ]
                return self.record(t, values)
            case VariantType() | OptionType() | ResultType():
                at = offset + payload_offset(cases_of(t))
                return self.variant(t, next(names), lambda u: self.load_deep(u, base, at))
            case _:
                return self.scalar(t, next(names), None)

    def load_deep(self, t: ValType, base: str, offset: int) -> str:
        """`load`, in a function of its own where the text is nested deeply already."""
        if self.out.indent < MAX_INDENT:
            return self.load(t, base, offset)
        helper = self.out.temp("load_")
        loops, self.loops = self.loops, 1  # its caller's budget pays
        with self.out.aside(0) as lines, self.out.block(f"def {helper}(inst, mem, left, lenders, base):"):
            self.out.emit(f"view = mem.view; size = mem.size; handles = {self.out.state}.handles")
            self.out.emit(f"return {self.load(t, 'base', 0)}, left")
        self.loops = loops
        self.helpers += lines
        self.lenders = True
        value = self.out.temp("v")
        left = "left" if loops else "LIFT_LIMIT"
        self.out.emit(f"{value}, left = {helper}(inst, mem, {left}, lenders, {plus(base, offset)})")
        self.out.emit("view = mem.view; size = mem.size")
        return value

    def lift_flat(self, t: ValType, flat: Iterator[FlatValue]) -> str:
        """An expression for the `t` that the next core values carry."""
        match t:
            case StringType():
                return self.load_string_from_range(take(flat, "i32"), take(flat, "i32"))
            case ListType(u, None):
                return self.load_list_from_range(u, take(flat, "i32"), take(flat, "i32"))
            case ListType(u, int(length)):
                values = [self.lift_flat(u, flat) for _ in range(length)]
                return f"bytes(({', '.join(values)},))" if u == U8Type() else f"[{', '.join(values)}]"
            case RecordType() | TupleType():
                return self.record(t, [self.lift_flat(u, flat) for u in children(t)])
            case VariantType() | OptionType() | ResultType():
                case_index, *payload = [(take(flat, want), want) for want in flatten_type(t)]
                d = self.out.bind(case_index[0], "d")
                return self.variant(t, d, lambda u: self.lift_flat(u, iter(payload)))
            case _:
                name, have = next(flat)
                return self.scalar(t, coerce(name, have, flatten_type(t)[0]), have)

    def scalar(self, t: ValType, name: str, have: CoreType | None) -> str:
        """A basic value; `have` is None where `name` can hold nothing but a `t`."""
        match t:
            case F32Type() | F64Type():
                name = self.out.bind(name, "f")
                return f"({name} if {name} == {name} else NAN)"  # canonicalize_nan
            case CharType():
                name = self.out.bind(name, "c")
                with self.out.block(f"if {name} >= 0x110000 or 0xD800 <= {name} <= 0xDFFF:"):
                    self.out.emit(f'raise Trap(f"{{{name}:#x}} is not a Unicode scalar value")')
                return f"chr({name})"
            case EnumType(labels):
                name = self.out.bind(name, "d")
                self.check_discriminant(name, len(labels), t)
                return f"{self.out.constant('LABELS', labels)}[{name}]"
            case FlagsType(labels):
                return f"({name} & {(1 << len(labels)) - 1:#x})"
            case OwnType(rt):
                return self.lift_own(self.out.bind(name, "i"), self.resource(rt))
            case StreamType() | FutureType():
                return self.lift_end(self.out.bind(name, "i"), t)
            case ErrorContextType():
                return f"entry({self.out.state}.handles, {name}, ErrorContext)"
            case BorrowType(rt):
                return self.lift_borrow(self.out.bind(name, "i"), self.resource(rt))
            case _:
                return name if have is None else NARROW.get(type(t), "{}").format(name)

    def resource(self, rt: ResourceType) -> str:
        return self.out.constant("RESOURCE", rt, id(rt))

    def find(self, index: str) -> str:
        """The handle at `index`, or None, without a call of a method."""
        h = self.out.temp("h")
        with self.out.block("try:"):
            self.out.emit(f"{h} = handles.array[{index}]")
        with self.out.block("except IndexError:"):
            self.out.emit(f"{h} = None")
        return h

    def lift_own(self, index: str, resource: str) -> str:
        """HandleTable.lift_own, in line for a handle that is as it should be."""
        h = self.find(index)
        value = self.out.temp("v")
        with self.out.block(f"if {h} is None or {h}.rt is not {resource} or {h}.num_lends or not {h}.own:"):
            self.out.emit(f"{value} = handles.lift_own({index}, {resource})")
        with self.out.block("else:"):
            self.out.emit(f"{value} = {h}.rep; handles.array[{index}] = None; handles.free.append({index})")
        return value

    def lift_borrow(self, index: str, resource: str) -> str:
        """Found without a call of a method; lent until the import returns."""
        h = self.find(index)
        with self.out.block(f"if {h} is None or {h}.rt is not {resource}:"):
            self.out.emit(f"{h} = handles.get({index}, {resource})")
        self.out.emit(f"{h}.num_lends += 1")
        if self.loops or self.branches or self.lends_on:
            self.lenders = True
            self.out.emit(f"lenders.append({h})")
        else:
            self.lent.append(h)
        return f"{h}.rep"

    def lift_end(self, index: str, t: StreamType | FutureType) -> str:
        """streams.lift_end, in line for an end that is as it should be."""
        h = self.find(index)
        value = self.out.temp("v")
        kind = self.out.constant("KIND", READABLE[type(t)])
        same = f"{h}.shared.t is {self.out.constant('ELEMENT', element_of(t), id(element_of(t)))}"
        with self.out.block(f"if type({h}) is {kind} and {same} and {h}.state is IDLE and {h}.wset is None:"):
            self.out.emit(f"{value} = {h}.shared")
            self.out.emit(f"handles.array[{index}] = None; handles.free.append({index})")
        with self.out.block("else:"):
            end = self.out.constant("TYPE", t)
            self.out.emit(f"{value} = lift_end({self.out.state}, {index}, {end})")
        return value

    def check_discriminant(self, name: str, cases: int, t: ValType) -> None:
        with self.out.block(f"if {name} >= {cases}:"):
            self.out.emit(f'raise Trap(f"{{{name}}} is not a case of {kind_of(t)}")')

    def check_alignment(self, ptr: str, align: int) -> None:
        if align > 1:
            with self.out.block(f"if {ptr} & {align - 1}:"):
                self.out.emit(f'raise Trap(f"pointer {{{ptr}:#x}} is not aligned to {align}")')

    def check_bytes(self, end: str, size: str) -> None:
        """Of a string or list<u8>."""
        if self.loops:
            with self.out.block(f"if {end} > size or {size} > {SMALL_STRING}:"):
                self.out.emit(f"view, size, left = reach_inner(mem, {end}, {size}, left)")
        else:
            with self.out.block(f"if {end} > size or {size} > {MAX_STRING_BYTE_LENGTH}:"):
                self.out.emit(f"view, size = reach(mem, {end}, {size})")

    def load_string_from_range(self, begin: str, units: str) -> str:
        begin, units = self.out.bind(begin, "p"), self.out.bind(units, "n")
        end = self.out.temp("e")
        if self.encoding == "utf8":
            self.out.emit(f"{end} = {begin} + {units}")
            self.check_bytes(end, units)
            return f"view[{begin}:{end}].tobytes().decode()"
        size, encoding = self.out.temp("b"), '"utf-16-le"'
        if self.encoding == "utf16":
            self.out.emit(f"{size} = 2 * {units}")
        else:
            encoding = self.out.temp("encoding")
            with self.out.block(f"if {units} & {UTF16_TAG:#x}:"):
                self.out.emit(f'{size} = 2 * ({units} ^ {UTF16_TAG:#x}); {encoding} = "utf-16-le"')
            with self.out.block("else:"):
                self.out.emit(f'{size} = {units}; {encoding} = "latin-1"')
        self.out.emit(f"{end} = {begin} + {size}")
        self.check_alignment(begin, 2)
        self.check_bytes(end, size)
        return f"view[{begin}:{end}].tobytes().decode({encoding})"

    def load_list_from_range(self, t: ValType, begin: str, length: str) -> str:
        begin, length = self.out.bind(begin, "p"), self.out.bind(length, "n")
        end, size = self.out.temp("e"), elem_size(t)
        self.out.emit(f"{end} = {begin} + {f'{length} * {size}' if size > 1 else length}")
        self.check_alignment(begin, alignment(t))
        if t == U8Type():
            self.check_bytes(end, length)
        elif self.loops:
            self.out.emit(f"left -= {length} * {lift_cost(t)}")
            with self.out.block(f"if {end} > size or left < 0:"):
                self.out.emit(f"view, size, left = reach_inner(mem, {end}, 0, left)")
        else:
            limit = min(MAX_LIST_BYTE_LENGTH // size, LIFT_LIMIT // lift_cost(t))
            with self.out.block(f"if {end} > size or {length} > {limit}:"):
                self.out.emit(f"view, size = reach_list(mem, {end}, {length}, {limit})")
        return self.load_list_from_valid_range(t, begin, end, length)

    def load_list_from_valid_range(self, t: ValType, begin: str, end: str, length: str) -> str:
        match t:
            case U8Type():
                return f"view[{begin}:{end}].tobytes()"
            case BoolType():
                return f"[byte != 0 for byte in view[{begin}:{end}].tobytes()]"
            case S8Type() | S16Type() | U16Type() | S32Type() | U32Type() | S64Type() | U64Type():
                return f'list(unpack(f"<{{{length}}}{SCALARS[type(t)]}", view[{begin}:{end}]))'
            case F32Type() | F64Type():
                values = f'unpack(f"<{{{length}}}{SCALARS[type(t)]}", view[{begin}:{end}])'
                return f"[f if f == f else NAN for f in {values}]"
        if not self.loops and (contains(t, (StringType, ListType))):
            self.out.emit(f"left = LIFT_LIMIT - {length} * {lift_cost(t)}")
        slots, element, size = slots_of(t, 0), self.out.temp("q"), elem_size(t)
        names = [self.out.temp("m") for _ in slots]
        aside = not slots or self.out.indent + 1 >= MAX_INDENT
        self.loops += 1
        with self.out.aside(self.out.indent + 1) as body:
            value = self.load_deep(t, element, 0) if aside else self.finish(t, iter(names), element, 0)
        self.loops -= 1
        if aside:
            source = f"{element} in range({begin}, {end}, {size})"
        else:
            iter_unpack = self.out.struct("iter_unpack", letters(slots, size))
            source = f"{targets(names)} in {iter_unpack}(view[{begin}:{end}])"
        counted = not aside and any(element in text for text in (value, *(text for _, text in body)))
        if not body and not counted:
            return f"[{value} for {source}]"
        result = self.out.temp("r")
        self.out.emit(f"{result} = []")
        if counted:
            self.out.emit(f"{element} = {begin}")
        with self.out.block(f"for {source}:"):
            self.out.lines += body
            self.out.emit(f"{result}.append({value})")
            if counted:
                self.out.emit(f"{element} += {size}")
        return result

    def record(self, t: ValType, values: Sequence[str]) -> str:
        text = f"({', '.join(values)}{',' if len(values) == 1 else ''})"
        if isinstance(t, RecordType):
            key = tuple(f.label for f in t.fields), t.name
            cls = record_class(*key)
            return f"tuple_new({self.out.constant(cls.__name__, cls, key)}, {text})"
        return text

    def variant(self, t: ValType, d: str, payload: Callable[[ValType], str]) -> str:
        """load_variant, lift_flat_variant: `d` is the discriminant, `payload` lifts what goes with it."""
        value = self.out.temp("v")
        emit, block = self.out.emit, self.out.block
        self.branches += 1
        match t:
            case OptionType(u):
                with block(f"if {d} == 1:"):
                    some = payload(u)
                    emit(f"{value} = {f'Some({some})' if isinstance(u, OptionType) else some}")
                with block(f"elif {d} == 0:"):
                    emit(f"{value} = None")
                with block("else:"):
                    emit(f'raise Trap(f"{{{d}}} is not a case of option")')
            case ResultType(ok, err):
                with block(f"if {d} == 0:"):
                    emit(f"{value} = {'OK' if ok is None else f'Ok({payload(ok)})'}")
                with block(f"elif {d} == 1:"):
                    emit(f"{value} = {'ERR' if err is None else f'Err({payload(err)})'}")
                with block("else:"):
                    emit(f'raise Trap(f"{{{d}}} is not a case of result")')
            case VariantType(cases):
                self.check_discriminant(d, len(cases), t)
                labels = self.out.constant("LABELS", tuple(c.label for c in cases))
                groups = group_cases(cases)
                for n, (u, indices) in enumerate(groups.items()):
                    with block(f"{'elif' if n else 'if'} {is_one_of(d, indices)}:"):
                        emit(f"{value} = ({labels}[{d}], {payload(u)})")
                if not groups:
                    emit(f"{value} = ({labels}[{d}], None)")
                elif any(c.t is None for c in cases):
                    with block("else:"):
                        emit(f"{value} = ({labels}[{d}], None)")
        self.branches -= 1
        return value


def slots_of(t: ValType, offset: int) -> list[Slot]:
    """The scalars of a `t` at `offset` that are there whatever its value."""
    match t:
        case StringType() | ListType(_, None):
            return [(offset, "I"), (offset + 4, "I")]
        case ListType():
            return []
        case RecordType() | TupleType():
            ts = children(t)
            fields = zip(ts, field_offsets(ts), strict=True)
            return [slot for u, at in fields for slot in slots_of(u, offset + at)]
        case VariantType() | EnumType() | OptionType() | ResultType():
            return [(offset, UNSIGNED[discriminant_size(count_cases(t))])]
        case FlagsType(labels):
            return [(offset, UNSIGNED[flags_size(len(labels))])]
        case OwnType() | BorrowType() | StreamType() | FutureType() | ErrorContextType():
            return [(offset, "I")]
        case _:
            return [(offset, SCALARS[type(t)])]


def count_cases(t: ValType) -> int:
    return len(t.labels) if isinstance(t, EnumType) else len(cases_of(t))


def cases_of(t: ValType) -> tuple[CaseType, ...]:
    match t:
        case VariantType(cases):
            return cases
        case OptionType(u):
            return (CaseType("none"), CaseType("some", u))
        case ResultType(ok, err):
            return (CaseType("ok", ok), CaseType("error", err))
        case _:
            raise AssertionError(t)


def group_cases(cases: Sequence[CaseType]) -> dict[ValType, list[int]]:
    """The cases that have a payload, by its type."""
    groups: dict[ValType, list[int]] = {}
    for i, c in enumerate(cases):
        if c.t is not None:
            groups.setdefault(c.t, []).append(i)
    return groups


def is_one_of(name: str, indices: Sequence[int]) -> str:
    if len(indices) == 1:
        return f"{name} == {indices[0]}"
    return f"{name} in ({', '.join(map(str, indices))})"


def kind_of(t: ValType) -> str:
    """What to call a type in a message: short, and safe inside a literal.

    Its name is the guest's: one that is no label could be any Python text.
    """
    kind = type(t).__name__.removesuffix("Type").lower()
    name = getattr(t, "name", None)
    return f"{kind} {name}" if name is not None and len(name) <= 64 and is_label(name) else kind


def lift_cost(t: ValType) -> int:
    """About what one lifted value takes in the host's memory, its place in a list included."""
    match t:
        case BoolType():
            return 8
        case StringType() | ListType(U8Type(), None):
            return 72 + SMALL_STRING
        case ListType(_, None) | OwnType() | BorrowType():
            return 128  # of time, rather than of bytes
        case ListType(u, int(length)):
            return 72 + length * lift_cost(u)
        case RecordType() | TupleType():
            return 64 + sum(map(lift_cost, children(t)))
        case OptionType() | VariantType() | ResultType():
            return 72 + max(map(lift_cost, children(t)), default=0)
        case _:
            return 40


def roots(t: ValType | None) -> int:
    """The strings and lists in a `t` that are in no list."""
    match t:
        case None:
            return 0
        case StringType() | ListType(_, None):
            return 1
        case ListType(u, int(length)):
            return length * roots(u)
        case _:
            return sum(map(roots, children(t)))


def coerce(name: str, have: CoreType | None, want: CoreType) -> str:
    return name if have is None else COERCE.get((have, want), "{}").format(name)


def take(flat: Iterator[FlatValue], want: CoreType) -> str:
    name, have = next(flat)
    return coerce(name, have, want)
