# Generating the code that gives values to a guest: store, lower_flat.
#
# `parts` allocates what a value refers to (realloc once for each string and list,
# in the order of the specification) and returns the scalars, which then go out
# with one pack. A case of a variant packs its discriminant with its payload.
#
# A list of strings, or of tuples of strings (headers), costs a crossing into the guest
# for each of them; where the instance has `realloc_each`, which makes all these calls
# of the guest's own allocator in the same order on the other side, it costs one.
#
# The text refers to `inst`, `mem`, `realloc`, and `scope` where borrows are lent.
# The memory may grow at every realloc, so that `mem.view` is read each time.

from __future__ import annotations

from collections.abc import Callable, Sequence
from operator import add
from struct import Struct, error, pack, pack_into, unpack_from
from typing import Any

from ..errors import Trap
from .emit import Writer, letters, plus, targets
from .layout import UTF16_TAG, CoreType, alignment, elem_size, field_offsets, flatten_type, payload_offset
from .lift import MAX_INDENT, SCALARS, StringEncoding, cases_of, group_cases, is_one_of, slots_of
from .memory import Memory
from .streams import GIVEN, READABLE, Shared
from .types import (
    BoolType,
    BorrowType,
    CharType,
    EnumType,
    ErrorContextType,
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
    ValType,
    VariantType,
    brief,
    children,
    contains,
    element_of,
)
from .values import Err, Ok

# How a value becomes an unsigned core value; other types need nothing.
WIDEN: dict[type[ValType], str] = {
    BoolType: "(1 if {} else 0)",
    S8Type: "({} & 0xFFFFFFFF)",
    S16Type: "({} & 0xFFFFFFFF)",
    S32Type: "({} & 0xFFFFFFFF)",
    S64Type: "({} & 0xFFFFFFFFFFFFFFFF)",
}
# (have, want) of the joined flat types of a variant; other pairs need nothing
COERCE: dict[tuple[CoreType, CoreType], str] = {
    ("f32", "i32"): "unpack_I(pack_f({}))[0]",
    ("f32", "i64"): "unpack_I(pack_f({}))[0]",
    ("f64", "i64"): "unpack_Q(pack_d({}))[0]",
}

# Offset, struct letter, expression. Without a letter: what lies there is stored already.
Part = tuple[int, str, str]

# What goes wrong when a value of the host is not of the declared type.
MISFITS = (TypeError, ValueError, KeyError, IndexError, AttributeError, OverflowError, error)


def misfit(name: str, expected: object, exc: BaseException) -> TypeError:
    text = brief(expected)
    if len(text) > 200:
        text = f"{text[:200]}..."
    return TypeError(f"{name}: the value does not fit {text}: {type(exc).__name__}: {exc}")


def wrong_side(value: object) -> TypeError:
    return TypeError(f"Ok or Err expected, not {type(value).__name__}")


def store_each(inst: Any, slot: int, mem: Memory, ptr: int, texts: list[Any]) -> None:
    """Store `texts` (bytes) in the guest, and the pointer and length of each one from `ptr` on."""
    if not texts:
        return
    sizes = list(map(len, texts))
    words = [0] * (2 * len(texts))
    words[1::2] = sizes
    shape = f"<{len(words)}I"
    pack_into(shape, mem.view, ptr, *words)
    inst.realloc_each(slot, ptr, len(texts))
    pointers = unpack_from(shape, mem.view, ptr)[::2]
    ends = list(map(add, pointers, sizes))
    mem.ensure(max(ends))
    view = mem.view
    for start, end, text in zip(pointers, ends, texts, strict=True):
        view[start:end] = text


def char_to_i32(c: str) -> int:
    i = ord(c)
    if 0xD800 <= i <= 0xDFFF:
        raise ValueError(f"{c!r} is not a Unicode scalar value")
    return i


def encode_latin1_or_utf16(text: str) -> tuple[bytes, int]:
    """The bytes and the tagged number of code units."""
    try:
        data = text.encode("latin-1")
    except UnicodeEncodeError:
        data = text.encode("utf-16-le")
        return data, len(data) // 2 | UTF16_TAG
    return data, len(data)


SUPPORT: dict[str, Any] = {
    "Err": Err,
    "MISFITS": MISFITS,
    "Ok": Ok,
    "Shared": Shared,
    "Trap": Trap,
    "char_to_i32": char_to_i32,
    "encode_latin1_or_utf16": encode_latin1_or_utf16,
    "misfit": misfit,
    "pack": pack,
    "pack_d": Struct("<d").pack,
    "pack_f": Struct("<f").pack,
    "store_each": store_each,
    "unpack_I": Struct("<I").unpack,
    "unpack_Q": Struct("<Q").unpack,
    "wrong_side": wrong_side,
}


class Lowering:
    """Writes into `out` how values are lowered into memory number `memory`; strings become `encoding`."""

    def __init__(self, out: Writer, encoding: StringEncoding, memory: int) -> None:
        self.out = out
        self.encoding = encoding
        self.memory = memory
        self.scope = "None"  # of borrows
        self.helpers: list[tuple[int, str]] = []

    def store(self, t: ValType, value: str, base: str, offset: int) -> None:
        """Store `value` at `base + offset`, a range that was checked before."""
        self.pack(self.parts(t, value, base, offset), base)

    def pack(self, parts: Sequence[Part], base: str) -> None:
        """One pack for each run of scalars with nothing but padding between."""
        run: list[Part] = []
        for part in [*parts, (0, "", "")]:
            if part[1]:
                run.append(part)
                continue
            if len(run) == 1 and run[0][1] == "B":
                self.out.emit(f"mem.view[{plus(base, run[0][0])}] = {run[0][2]}")
            elif run:
                pack_into = self.out.struct("pack_into", letters((at, letter) for at, letter, _ in run))
                values = ", ".join(value for _, _, value in run)
                self.out.emit(f"{pack_into}(mem.view, {plus(base, run[0][0])}, {values})")
            run = []

    def parts(self, t: ValType, value: str, base: str, offset: int) -> list[Part]:
        """Store what `value` refers to; return the scalars that belong at `offset`."""
        match t:
            case StringType():
                ptr, units = self.store_string_into_range(value)
                return [(offset, "I", ptr), (offset + 4, "I", units)]
            case ListType(u, None):
                ptr, length = self.store_list_into_range(u, value)
                return [(offset, "I", ptr), (offset + 4, "I", length)]
            case ListType(u, int(length)):
                value = self.out.bind(value)
                with self.out.block(f"if len({value}) != {length}:"):
                    self.out.emit(f'raise ValueError(f"{length} elements expected, not {{len({value})}}")')
                self.store_list_into_valid_range(
                    u, value, self.out.bind(plus(base, offset), "p"), str(length)
                )
                return [(offset, "", "")]
            case RecordType() | TupleType():
                ts = children(t)
                fields = zip(ts, field_offsets(ts), self.fields(value, len(ts)), strict=True)
                return [part for u, at, v in fields for part in self.parts(u, v, base, offset + at)]
            case VariantType() | OptionType() | ResultType():
                return self.store_variant(t, self.out.bind(value), base, offset)
            case _:
                return [(offset, slots_of(t, 0)[0][1], self.scalar(t, value))]

    def scalar(self, t: ValType, value: str) -> str:
        """The number that stands for a basic value; a signed one or a bool as it is."""
        match t:
            case CharType():
                return f"char_to_i32({value})"
            case EnumType(labels):
                index = {label: i for i, label in enumerate(labels)}
                return f"{self.out.constant('INDEX', index, labels)}[{value}]"
            case OwnType(rt):
                h = self.out.temp("h")
                self.out.emit(f"{h} = {self.out.state}.handles.lower_own({self.resource(rt)}, {value})")
                return h
            case StreamType() | FutureType():
                return self.lower_end(t, value)
            case ErrorContextType():
                h = self.out.temp("h")
                self.out.emit(f"{h} = {self.out.state}.handles.add({value})")
                return h
            case BorrowType(rt) if rt.part != self.out.part:
                h = self.out.temp("h")
                self.out.emit(
                    f"{h} = {self.out.state}.handles.lower_borrow({self.resource(rt)}, {value}, scope)"
                )
                return h
            case _:
                return value

    def lower_end(self, t: StreamType | FutureType, value: str) -> str:
        """lower_stream, lower_future: a readable end for the guest; what it was not given yet becomes one."""
        h = self.out.temp("h")
        given = self.out.constant("GIVEN", GIVEN[type(t)])
        element = self.out.constant("ELEMENT", element_of(t), id(element_of(t)))
        self.out.emit(f"{h} = {value}")
        with self.out.block(f"if not isinstance({h}, (Shared, {given})):"):
            self.out.emit(f"{h} = {given}(inst.loop, {element}, {h})")
        kind = self.out.constant("KIND", READABLE[type(t)])
        self.out.emit(f"{h} = {self.out.state}.handles.add({kind}({h}))")
        return h

    def resource(self, rt: ResourceType) -> str:
        return self.out.constant("RESOURCE", rt, id(rt))

    def fields(self, value: str, count: int) -> list[str]:
        names = [self.out.temp("v") for _ in range(count)]
        self.out.emit(f"{targets(names)} = {value}")
        return names

    def allocate(self, size: str, align: int) -> str:
        """A checked pointer to so many new bytes of the guest."""
        ptr = self.out.temp("p")
        self.out.emit(f"{ptr} = realloc({self.memory}, 0, 0, {align}, {size})")
        if align > 1:
            with self.out.block(f"if {ptr} & {align - 1}:"):
                self.out.emit(
                    f'raise Trap(f"realloc returned {{{ptr}:#x}}, which is not aligned to {align}")'
                )
        with self.out.block(f"if {ptr} + {size} > mem.size:"):
            self.out.emit(f"mem.ensure({ptr} + {size})")
        return ptr

    def store_bytes(self, data: str, size: str, align: int) -> str:
        ptr = self.allocate(size, align)
        self.out.emit(f"mem.view[{ptr} : {ptr} + {size}] = {data}")
        return ptr

    def store_string_into_range(self, value: str) -> tuple[str, str]:
        """The source counts as encoded just as the guest wants it, so that one realloc is exact."""
        data, size = self.out.temp("s"), self.out.temp("n")
        match self.encoding:
            case "utf8":
                self.out.emit(f"{data} = {value}.encode()")
                self.out.emit(f"{size} = len({data})")
                return self.store_bytes(data, size, 1), size
            case "utf16":
                self.out.emit(f'{data} = {value}.encode("utf-16-le")')
                self.out.emit(f"{size} = len({data})")
                return self.store_bytes(data, size, 2), f"{size} // 2"
            case _:
                units = self.out.temp("u")
                self.out.emit(f"{data}, {units} = encode_latin1_or_utf16({value})")
                self.out.emit(f"{size} = len({data})")
                return self.store_bytes(data, size, 2), units

    def store_list_into_range(self, t: ValType, value: str) -> tuple[str, str]:
        value, length = self.out.bind(value), self.out.temp("n")
        size = elem_size(t)
        self.out.emit(f"{length} = len({value})")
        total = self.out.bind(f"{length} * {size}" if size > 1 else length, "b")
        ptr = self.allocate(total, alignment(t))
        self.store_list_into_valid_range(t, value, ptr, length)
        return ptr, length

    def store_list_into_valid_range(self, t: ValType, value: str, ptr: str, length: str) -> None:
        size = elem_size(t)
        end = f"{ptr} + {length}{f' * {size}' if size > 1 else ''}"
        if t == U8Type():
            self.out.emit(f"mem.view[{ptr} : {end}] = {value}")
            return
        if type(t) in SCALARS and not isinstance(t, CharType):
            self.out.emit(f'mem.view[{ptr} : {end}] = pack(f"<{{{length}}}{SCALARS[type(t)]}", *{value})')
            return
        if self.is_of_texts(t):
            texts = self.out.temp("t")
            with self.out.block('if getattr(inst, "realloc_each", None) is not None:'):
                self.out.emit(f"{texts} = []")
                element = self.out.temp("v")
                with self.out.block(f"for {element} in {value}:"):
                    self.collect_texts(t, element, texts)
                self.out.emit(f"store_each(inst, {self.memory}, mem, {ptr}, {texts})")
            with self.out.block("else:"):
                self.store_elements(t, value, ptr)
        else:
            self.store_elements(t, value, ptr)

    def store_elements(self, t: ValType, value: str, ptr: str) -> None:
        element, at = self.out.temp("v"), self.out.temp("q")
        self.out.emit(f"{at} = {ptr}")
        with self.out.block(f"for {element} in {value}:"):
            self.store_deep(t, element, at, 0)
            self.out.emit(f"{at} += {elem_size(t)}")

    def is_of_texts(self, t: ValType) -> bool:
        """Whether a value of `t` is nothing but strings and lists of bytes, one or side by side."""
        match t:
            case StringType():
                return self.encoding == "utf8"
            case ListType(U8Type(), None):
                return True
            case RecordType() | TupleType():
                return bool(children(t)) and all(self.is_of_texts(u) for u in children(t))
            case _:
                return False

    def collect_texts(self, t: ValType, value: str, texts: str) -> None:
        match t:
            case StringType():
                self.out.emit(f"{texts}.append({value}.encode())")
            case ListType():
                self.out.emit(f"{texts}.append({value})")
            case _:
                for u, v in zip(children(t), self.fields(value, len(children(t))), strict=True):
                    self.collect_texts(u, v, texts)

    def store_deep(self, t: ValType, value: str, base: str, offset: int) -> None:
        """`store`, in a function of its own where the text is nested deeply already."""
        if self.out.indent < MAX_INDENT:
            self.store(t, value, base, offset)
            return
        helper = self.out.temp("store_")
        realloc = "realloc" if contains(t, (StringType, ListType)) else "None"
        with (
            self.out.aside(0) as lines,
            self.out.block(f"def {helper}(inst, mem, realloc, scope, value, base):"),
        ):
            self.store(t, "value", "base", 0)
        self.helpers += lines
        self.out.emit(f"{helper}(inst, mem, {realloc}, {self.scope}, {value}, {plus(base, offset)})")

    def store_variant(self, t: ValType, value: str, base: str, offset: int, bare: bool = False) -> list[Part]:
        at = offset + payload_offset(cases_of(t))
        letter = slots_of(t, 0)[0][1]
        if not group_cases(cases_of(t)):
            index = self.out.temp("d")
            self.match_case(t, value, lambda d, u, v: self.out.emit(f"{index} = {d}"), bare)
            return [(offset, letter, index)]

        def write(d: str, u: ValType | None, v: str) -> None:
            if u is not None and self.out.indent >= MAX_INDENT:
                self.pack([(offset, letter, d)], base)
                self.store_deep(u, v, base, at)
            else:
                payload = [] if u is None else self.parts(u, v, base, at)
                self.pack([(offset, letter, d), *payload], base)

        self.match_case(t, value, write, bare)
        return [(offset, "", "")]

    def match_case(
        self, t: ValType, value: str, write: Callable[[str, ValType | None, str], None], bare: bool
    ) -> None:
        """`write(discriminant, payload type, payload)` for each way that the value may go.

        With `bare`, what is neither Ok nor Err is the payload of an Ok.
        """
        emit, block = self.out.emit, self.out.block
        match t:
            case OptionType(u):
                with block(f"if {value} is None:"):
                    write("0", None, "")
                with block("else:"):
                    write("1", u, f"{value}.value" if isinstance(u, OptionType) else value)
            case ResultType(ok, err):
                with block(f"if type({value}) is Err:"):
                    write("1", err, f"{value}.value")
                with block("else:" if bare else f"elif type({value}) is Ok:"):
                    if bare and ok is not None:
                        with block(f"if type({value}) is Ok:"):
                            emit(f"{value} = {value}.value")
                        write("0", ok, value)
                    else:
                        write("0", ok, f"{value}.value")
                if not bare:
                    with block("else:"):
                        emit(f"raise wrong_side({value})")
            case VariantType(cases):
                label, payload, d = self.out.temp("c"), self.out.temp("v"), self.out.temp("d")
                labels = tuple(c.label for c in cases)
                index = self.out.constant("INDEX", {name: i for i, name in enumerate(labels)}, labels)
                emit(f"{label}, {payload} = {value}")
                emit(f"{d} = {index}[{label}]")
                groups = group_cases(cases)
                for n, (u, indices) in enumerate(groups.items()):
                    with block(f"{'elif' if n else 'if'} {is_one_of(d, indices)}:"):
                        write(str(indices[0]) if len(indices) == 1 else d, u, payload)
                if not groups:
                    write(d, None, "")
                elif any(c.t is None for c in cases):
                    with block("else:"):
                        write(d, None, "")

    def lower_flat(self, t: ValType, value: str, bare: bool = False) -> list[str]:
        """Expressions for the core values that carry `value`."""
        match t:
            case StringType():
                return [*self.store_string_into_range(value)]
            case ListType(u, None):
                return [*self.store_list_into_range(u, value)]
            case ListType(u, int(length)):
                return [core for v in self.fields(value, length) for core in self.lower_flat(u, v)]
            case RecordType() | TupleType():
                ts = children(t)
                fields = zip(ts, self.fields(value, len(ts)), strict=True)
                return [core for u, v in fields for core in self.lower_flat(u, v)]
            case VariantType() | OptionType() | ResultType():
                wants = flatten_type(t)
                names = [self.out.temp("x") for _ in wants]

                def write(d: str, u: ValType | None, v: str) -> None:
                    flat = [d]
                    if u is not None:
                        pairs = zip(flatten_type(u), wants[1:], strict=False)
                        cores = zip(pairs, self.lower_flat(u, v), strict=True)
                        flat += [COERCE.get(pair, "{}").format(core) for pair, core in cores]
                    flat += ["0"] * (len(wants) - len(flat))
                    self.out.emit(f"{', '.join(names)} = {', '.join(flat)}")

                self.match_case(t, self.out.bind(value), write, bare)
                return names
            case _:
                return [WIDEN.get(type(t), "{}").format(self.scalar(t, value))]
