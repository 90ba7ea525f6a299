# The types of the Component Model, named as in CanonicalABI.md.
#
# Rule 1: a type is an immutable value; `==` compares structure. Names that a WIT
# text gives to a record, variant, enum or flags are kept for people and compare
# equal whatever they are.
# Rule 2: str(type) is WIT text that tells structure apart: two types whose texts
# are the same are the same to a guest.
#
# Types form graphs with shared parts, so that walking one as a tree may take
# time exponential in the bytes that declared it. Each type therefore knows its
# `weight` (nodes of that tree) and `depth`; who builds types from foreign input
# passes them through `bounded`, and every later walk is short.

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

from ..errors import UnsupportedError
from .names import canonical_name

# The largest type of the WASI and Spin packages has about 300 nodes and 9 levels.
MAX_TYPE_WEIGHT = 10_000
MAX_TYPE_DEPTH = 64


class ValType:
    """Base of all value types."""

    __slots__ = ()
    weight: int = 1
    depth: int = 1
    borrows: bool = False  # whether a borrow is somewhere in it

    def __str__(self) -> str:
        return "".join(words(self))


def _measure(parent: ValType, *children: ValType | None) -> None:
    weight, depth, borrows = 1, 0, False
    for child in children:
        if child is None:
            weight += 1
        else:
            weight += child.weight
            depth = max(depth, child.depth)
            borrows = borrows or child.borrows
    object.__setattr__(parent, "weight", weight)
    object.__setattr__(parent, "depth", depth + 1)
    object.__setattr__(parent, "borrows", borrows)


T = TypeVar("T", bound=ValType)


def bounded(t: T) -> T:
    """`t`, or UnsupportedError when it is too large or too deeply nested to generate code for."""
    if t.weight > MAX_TYPE_WEIGHT or t.depth > MAX_TYPE_DEPTH:
        raise UnsupportedError(
            f"type of {t.weight} nodes and {t.depth} levels (at most {MAX_TYPE_WEIGHT} and {MAX_TYPE_DEPTH})",
            "large types",
        )
    return t


@dataclass(frozen=True, slots=True)
class PrimValType(ValType):
    def __hash__(self) -> int:
        return hash(type(self))


class BoolType(PrimValType):
    __slots__ = ()


class S8Type(PrimValType):
    __slots__ = ()


class U8Type(PrimValType):
    __slots__ = ()


class S16Type(PrimValType):
    __slots__ = ()


class U16Type(PrimValType):
    __slots__ = ()


class S32Type(PrimValType):
    __slots__ = ()


class U32Type(PrimValType):
    __slots__ = ()


class S64Type(PrimValType):
    __slots__ = ()


class U64Type(PrimValType):
    __slots__ = ()


class F32Type(PrimValType):
    __slots__ = ()


class F64Type(PrimValType):
    __slots__ = ()


class CharType(PrimValType):
    __slots__ = ()


class StringType(PrimValType):
    __slots__ = ()


class ErrorContextType(PrimValType):
    __slots__ = ()


PRIMITIVES: dict[str, PrimValType] = {
    "bool": BoolType(),
    "s8": S8Type(),
    "u8": U8Type(),
    "s16": S16Type(),
    "u16": U16Type(),
    "s32": S32Type(),
    "u32": U32Type(),
    "s64": S64Type(),
    "u64": U64Type(),
    "f32": F32Type(),
    "f64": F64Type(),
    "char": CharType(),
    "string": StringType(),
    "error-context": ErrorContextType(),
}
PRIMITIVE_NAMES = {type(t): name for name, t in PRIMITIVES.items()}


@dataclass(frozen=True, eq=False, slots=True)
class ResourceType:
    """A resource type.

    Equal when both come from the same named interface, in compatible versions; one that has no interface
    (defined by a guest) is equal to itself alone. `dtor(inst, rep)` runs when its last owner drops it.
    `part` is the number of the component instance that defines it, None for one of the host: that instance
    is lent its bare representation.
    """

    name: str
    interface: str | None = None
    dtor: Callable[[Any, Any], Any] | None = None
    part: int | None = None

    def __post_init__(self) -> None:
        if self.interface is not None:
            object.__setattr__(self, "interface", canonical_name(self.interface))

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        return (
            isinstance(other, ResourceType)
            and self.interface is not None
            and self.interface == other.interface
            and self.name == other.name
        )

    def __hash__(self) -> int:
        return hash((self.name, self.interface))

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True)
class ListType(ValType):
    """`list<t>`, or `list<t, length>` whose elements lie in place."""

    t: ValType
    length: int | None = None

    def __post_init__(self) -> None:
        _measure(self, self.t)


@dataclass(frozen=True)
class MapType(ListType):
    """`map<k, v>`: a list of pairs for the canonical ABI, but another type than that (Explainer.md, map).

    Made with the type of its pairs: MapType(TupleType((k, v))).
    """

    __hash__ = ListType.__hash__


@dataclass(frozen=True)
class FieldType:
    label: str
    t: ValType


@dataclass(frozen=True)
class RecordType(ValType):
    fields: tuple[FieldType, ...]
    name: str | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        _measure(self, *(f.t for f in self.fields))


@dataclass(frozen=True)
class TupleType(ValType):
    ts: tuple[ValType, ...]

    def __post_init__(self) -> None:
        _measure(self, *self.ts)


@dataclass(frozen=True)
class CaseType:
    label: str
    t: ValType | None = None


@dataclass(frozen=True)
class VariantType(ValType):
    cases: tuple[CaseType, ...]
    name: str | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        _measure(self, *(c.t for c in self.cases))


@dataclass(frozen=True)
class EnumType(ValType):
    labels: tuple[str, ...]
    name: str | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "weight", 1 + len(self.labels))


@dataclass(frozen=True)
class OptionType(ValType):
    t: ValType

    def __post_init__(self) -> None:
        _measure(self, self.t)


@dataclass(frozen=True)
class ResultType(ValType):
    ok: ValType | None = None
    err: ValType | None = None

    def __post_init__(self) -> None:
        _measure(self, self.ok, self.err)


@dataclass(frozen=True)
class FlagsType(ValType):
    """A set of 1 to 32 labels."""

    labels: tuple[str, ...]
    name: str | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "weight", 1 + len(self.labels))


@dataclass(frozen=True)
class OwnType(ValType):
    rt: ResourceType


@dataclass(frozen=True)
class BorrowType(ValType):
    rt: ResourceType

    borrows = True


@dataclass(frozen=True)
class StreamType(ValType):
    t: ValType | None = None

    def __post_init__(self) -> None:
        _measure(self, self.t)


@dataclass(frozen=True)
class FutureType(ValType):
    t: ValType | None = None

    def __post_init__(self) -> None:
        _measure(self, self.t)


@dataclass(frozen=True)
class FuncType:
    """A function: named parameters, at most one result."""

    params: tuple[tuple[str, ValType], ...] = ()
    result: ValType | None = None
    async_: bool = False

    def param_types(self) -> tuple[ValType, ...]:
        return tuple(t for _, t in self.params)

    def __str__(self) -> str:
        return "".join(words(self))


def weight_of(ft: FuncType) -> int:
    """The nodes of all of its types."""
    return sum(t.weight for t in (*ft.param_types(), ft.result) if t is not None)


@dataclass(frozen=True)
class InterfaceType:
    """An interface (an instance type of the binary format).

    Functions of a resource carry the names of the binary format: "[constructor]r", "[method]r.f",
    "[static]r.f".
    """

    name: str
    types: Mapping[str, ValType | ResourceType] = field(default_factory=dict)
    funcs: Mapping[str, FuncType] = field(default_factory=dict)

    def __hash__(self) -> int:
        return hash((self.name, tuple(self.types), tuple(self.funcs)))


@dataclass(frozen=True)
class World:
    """What a component imports and exports: functions, and interfaces by their full names.

    `encoding` is that of strings in a core module made for the world, `producers` say which tools made it.
    """

    name: str
    imports: Mapping[str, InterfaceType | FuncType] = field(default_factory=dict)
    exports: Mapping[str, InterfaceType | FuncType] = field(default_factory=dict)
    encoding: Literal["utf8", "utf16", "latin1+utf16"] = "utf8"
    producers: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    def __hash__(self) -> int:
        return hash((self.name, tuple(self.imports), tuple(self.exports)))


def words(t: ValType | FuncType) -> Iterator[str]:
    """The text of a type, piece by piece: it may be as long as its labels times its weight."""
    match t:
        case PrimValType():
            yield PRIMITIVE_NAMES[type(t)]
        case ListType(u, length):
            if isinstance(t, MapType) and isinstance(u, TupleType):
                yield from enclosed("map<", u.ts, ">")
            else:
                yield from enclosed("list<", [u], ">" if length is None else f", {length}>")
        case RecordType(fields):
            yield from enclosed("record { ", [(f.label, ": ", f.t) for f in fields], " }")
        case TupleType(ts):
            yield from enclosed("tuple<", ts, ">")
        case VariantType(cases):
            parts = [(c.label,) if c.t is None else (c.label, "(", c.t, ")") for c in cases]
            yield from enclosed("variant { ", parts, " }")
        case EnumType(labels):
            yield from enclosed("enum { ", labels, " }")
        case FlagsType(labels):
            yield from enclosed("flags { ", labels, " }")
        case OptionType(u):
            yield from enclosed("option<", [u], ">")
        case ResultType(None, None):
            yield "result"
        case ResultType(ok, None):
            yield from enclosed("result<", [ok or "_"], ">")
        case ResultType(ok, err):
            yield from enclosed("result<", [ok or "_", err or "_"], ">")
        case OwnType(rt):
            yield f"own<{rt}>"
        case BorrowType(rt):
            yield f"borrow<{rt}>"
        case StreamType(u) | FutureType(u):
            kind = "stream" if isinstance(t, StreamType) else "future"
            yield from (kind,) if u is None else enclosed(f"{kind}<", [u], ">")
        case FuncType(params, result, async_):
            yield from enclosed(f"{'async ' * async_}func(", [(name, ": ", u) for name, u in params], ")")
            if result is not None:
                yield " -> "
                yield from words(result)


Words = str | ValType | tuple[str | ValType, ...]


def enclosed(head: str, parts: Iterable[Words], tail: str) -> Iterator[str]:
    yield head
    comma = ""
    for part in parts:
        yield comma
        for word in part if isinstance(part, tuple) else (part,):
            yield from (word,) if isinstance(word, str) else words(word)
        comma = ", "
    yield tail


# The longest function of the WASI and Spin packages takes 1,600 letters.
MAX_TEXT = 4000


def brief(t: object) -> str:
    """The text of a type for a message: what a guest declares may have one of gigabytes."""
    text = ""
    for word in words(t) if isinstance(t, ValType | FuncType) else (str(t),):
        text += word
        if len(text) > MAX_TEXT:
            return f"{text[:MAX_TEXT]}..."
    return text


def children(t: ValType) -> tuple[ValType, ...]:
    """The types that `t` directly contains."""
    match t:
        case ListType(u) | OptionType(u):
            return (u,)
        case RecordType(fields):
            return tuple(f.t for f in fields)
        case TupleType(ts):
            return ts
        case VariantType(cases):
            return tuple(c.t for c in cases if c.t is not None)
        case ResultType(ok, err):
            return tuple(u for u in (ok, err) if u is not None)
        case StreamType(u) | FutureType(u):
            return () if u is None else (u,)
        case _:
            return ()


def contains(t: ValType | None, kinds: type[ValType] | tuple[type[ValType], ...]) -> bool:
    """Whether `t` is, or holds anywhere, one of `kinds`."""
    return t is not None and (isinstance(t, kinds) or any(contains(u, kinds) for u in children(t)))


def describe_mismatch(name: str, guest: FuncType, host: FuncType) -> str | None:
    """None when a guest that declares `name` as `guest` may call a host that declares it as `host`.

    Otherwise a text with both types. Names of parameters are not part of the agreement.
    """
    same = (
        guest.async_ == host.async_
        # what is as large as the host's own types has a text that can be compared
        and weight_of(guest) == weight_of(host)
        and str(guest.result) == str(host.result)
        and list(map(str, guest.param_types())) == list(map(str, host.param_types()))
    )
    return None if same else f"{name}: the guest declares {brief(guest)}, the host offers {brief(host)}"


# Comparisons of types that were made, with the types, so that their ids stay theirs.
_compared: dict[tuple[int, int], tuple[object, object, bool]] = {}
_MAX_COMPARED = 4096


_elements: dict[ValType, ValType] = {}


def element_of(t: StreamType | FutureType) -> ValType | None:
    """What `t` carries, as one object for all types that are equal, to be told apart by `is`.

    Two that are equal may be two objects all the same: `same_type` has the last word.
    """
    if t.t is None:
        return None
    if len(_elements) >= _MAX_COMPARED:
        _elements.clear()
    return _elements.setdefault(t.t, t.t)


def same_type(a: object, b: object) -> bool:
    """a == b for types that are compared at each request: a deep comparison is made once."""
    if a is b:
        return True
    key = id(a), id(b)
    found = _compared.get(key)
    if found is None:
        if len(_compared) >= _MAX_COMPARED:
            _compared.clear()
        found = _compared[key] = a, b, a == b
    return found[2]
