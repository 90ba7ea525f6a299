# The definitions of a component as its binary states them (Binary.md), names as there.
#
# Rule 1: this is syntax: indices are what the bytes say and may lead nowhere.
# resolve.py gives them their meaning.
# Rule 2: `offset` is where a definition begins in the outermost binary, for errors.

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from .core import CoreImport, CoreModule
from .layout import CoreFuncType

CoreSort = Literal["func", "table", "memory", "global", "tag", "type", "module", "instance"]
# A sort of the component level, or "core func", "core module", ... for one of the core level.
Sort = Literal[
    "core func",
    "core table",
    "core memory",
    "core global",
    "core tag",
    "core type",
    "core module",
    "core instance",
    "func",
    "value",
    "type",
    "component",
    "instance",
]


@dataclass(frozen=True, slots=True)
class SortIndex:
    """One item of an index space."""

    sort: Sort
    index: int


# Types. A value type is the name of a primitive one, or an index into the space of types.

ValTypeRef = str | int


@dataclass(frozen=True, slots=True)
class PrimitiveDef:
    name: str


@dataclass(frozen=True, slots=True)
class RecordDef:
    fields: tuple[tuple[str, ValTypeRef], ...]


@dataclass(frozen=True, slots=True)
class VariantDef:
    cases: tuple[tuple[str, ValTypeRef | None], ...]


@dataclass(frozen=True, slots=True)
class ListDef:
    t: ValTypeRef
    length: int | None = None


@dataclass(frozen=True, slots=True)
class MapDef:
    key: ValTypeRef
    value: ValTypeRef


@dataclass(frozen=True, slots=True)
class TupleDef:
    ts: tuple[ValTypeRef, ...]


@dataclass(frozen=True, slots=True)
class FlagsDef:
    labels: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class EnumDef:
    labels: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class OptionDef:
    t: ValTypeRef


@dataclass(frozen=True, slots=True)
class ResultDef:
    ok: ValTypeRef | None
    err: ValTypeRef | None


@dataclass(frozen=True, slots=True)
class OwnDef:
    resource: int


@dataclass(frozen=True, slots=True)
class BorrowDef:
    resource: int


@dataclass(frozen=True, slots=True)
class StreamDef:
    t: ValTypeRef | None


@dataclass(frozen=True, slots=True)
class FutureDef:
    t: ValTypeRef | None


@dataclass(frozen=True, slots=True)
class FuncDef:
    params: tuple[tuple[str, ValTypeRef], ...]
    result: ValTypeRef | None
    async_: bool = False


@dataclass(frozen=True, slots=True)
class ResourceDef:
    """`rep` is the letter of its representation (i), `dtor` a core function."""

    rep: str
    dtor: int | None
    async_dtor: bool = False


@dataclass(frozen=True, slots=True)
class InstanceTypeDef:
    declarations: tuple[Definition, ...]


@dataclass(frozen=True, slots=True)
class ComponentTypeDef:
    declarations: tuple[Definition, ...]


DefType = (
    PrimitiveDef
    | RecordDef
    | VariantDef
    | ListDef
    | MapDef
    | TupleDef
    | FlagsDef
    | EnumDef
    | OptionDef
    | ResultDef
    | OwnDef
    | BorrowDef
    | StreamDef
    | FutureDef
    | FuncDef
    | ResourceDef
    | InstanceTypeDef
    | ComponentTypeDef
)


# What an import or export is said to be (externdesc).


@dataclass(frozen=True, slots=True)
class ExternDesc:
    """`sort` is "core module", "func", "value", "type", "component" or "instance".

    `index` is the type's, except for a type of `bound` "sub resource" (no index) and for a value:
    `value` is its type, or `index` the value that it equals.
    """

    sort: Sort
    index: int | None = None
    bound: Literal["eq", "sub resource"] | None = None
    value: ValTypeRef | None = None


@dataclass(frozen=True, slots=True)
class ExternName:
    """A name, with the attributes that binaries of today may give it (such as ("implements", ...))."""

    name: str
    attributes: tuple[tuple[str, str], ...] = ()


# Definitions, in the order of the binary.


@dataclass(frozen=True, slots=True)
class CoreModuleDef:
    """An embedded core module: its bytes, and what they import and export."""

    offset: int
    code: memoryview
    module: CoreModule


@dataclass(frozen=True, slots=True)
class CoreInstantiate:
    """(instantiate module (with name (instance index)) ...)."""

    offset: int
    module: int
    args: tuple[tuple[str, int], ...]


@dataclass(frozen=True, slots=True)
class CoreInlineExports:
    """A core instance made of items that are there; sorts are core ones."""

    offset: int
    exports: tuple[tuple[str, SortIndex], ...]


@dataclass(frozen=True, slots=True)
class OuterCoreType:
    """(alias outer count index (type)) inside a module type."""

    offset: int
    count: int
    index: int


@dataclass(frozen=True, slots=True)
class ModuleType:
    """What a core module has to import and export: (name, (kind, type)) for each export."""

    imports: tuple[CoreImport, ...]
    exports: tuple[tuple[str, tuple[str, object]], ...]
    types: tuple[object, ...] = ()


@dataclass(frozen=True, slots=True)
class CoreTypeDef:
    """The type of a core module, or core types that are defined together; None for what is no function."""

    offset: int
    what: ModuleType | tuple[CoreFuncType | None, ...]


@dataclass(frozen=True, slots=True)
class ComponentDef:
    """A nested component, or the outermost one."""

    offset: int
    definitions: tuple[Definition, ...]
    custom_sections: tuple[tuple[str, memoryview], ...] = ()


@dataclass(frozen=True, slots=True)
class Instantiate:
    """(instantiate component (with name item) ...)."""

    offset: int
    component: int
    args: tuple[tuple[str, SortIndex], ...]


@dataclass(frozen=True, slots=True)
class InlineExports:
    offset: int
    exports: tuple[tuple[ExternName, SortIndex], ...]


@dataclass(frozen=True, slots=True)
class AliasExport:
    offset: int
    sort: Sort
    instance: int
    name: str


@dataclass(frozen=True, slots=True)
class AliasCoreExport:
    """`sort` is a core one."""

    offset: int
    sort: Sort
    instance: int
    name: str


@dataclass(frozen=True, slots=True)
class AliasOuter:
    offset: int
    sort: Sort
    count: int
    index: int


@dataclass(frozen=True, slots=True)
class TypeDef:
    offset: int
    what: DefType


@dataclass(frozen=True, slots=True)
class CanonOptions:
    """canonopt; indices are into the core spaces."""

    encoding: Literal["utf8", "utf16", "latin1+utf16"] = "utf8"
    memory: int | None = None
    realloc: int | None = None
    post_return: int | None = None
    async_: bool = False
    callback: int | None = None
    others: tuple[str, ...] = ()  # what was named besides, such as "gc"


@dataclass(frozen=True, slots=True)
class CanonLift:
    offset: int
    core_func: int
    options: CanonOptions
    type: int


@dataclass(frozen=True, slots=True)
class CanonLower:
    offset: int
    func: int
    options: CanonOptions


@dataclass(frozen=True, slots=True)
class CanonResource:
    """canon resource.new, resource.drop or resource.rep of a type; `async_` of a drop."""

    offset: int
    kind: Literal["new", "drop", "rep"]
    type: int
    async_: bool = False


@dataclass(frozen=True, slots=True)
class CanonBuiltin:
    """Any other built-in, by the name that Binary.md gives it ("task.return", "stream.new", ...).

    Immediates stand in the order of the binary.
    """

    offset: int
    name: str
    immediates: tuple[object, ...] = ()
    options: CanonOptions | None = None


@dataclass(frozen=True, slots=True)
class Start:
    offset: int
    func: int
    args: tuple[int, ...]
    results: int


@dataclass(frozen=True, slots=True)
class Import:
    offset: int
    name: ExternName
    desc: ExternDesc


@dataclass(frozen=True, slots=True)
class Export:
    """In a component `item` is exported, as `desc` where one is given; in a type only `desc` is there."""

    offset: int
    name: ExternName
    item: SortIndex | None
    desc: ExternDesc | None = None


@dataclass(frozen=True, slots=True)
class ValueDef:
    offset: int
    type: ValTypeRef
    data: memoryview


Definition = (
    CoreModuleDef
    | CoreInstantiate
    | CoreInlineExports
    | CoreTypeDef
    | ComponentDef
    | Instantiate
    | InlineExports
    | AliasExport
    | AliasCoreExport
    | AliasOuter
    | TypeDef
    | CanonLift
    | CanonLower
    | CanonResource
    | CanonBuiltin
    | Start
    | Import
    | Export
    | ValueDef
)
