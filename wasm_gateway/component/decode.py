# The component binary format -> definitions (Binary.md).
#
# Rule 1: bytes are read once, in order, into index spaces; a definition may refer
# only to what is there already. So time is linear in the bytes, but for types that
# share parts, which types.bounded keeps small.
# Rule 2: foreign bytes raise DecodeError (malformed) or UnsupportedError (not
# implemented), and nothing else.
#
# Here so far: types in all their forms, and what the custom sections
# component-type* of a core module say, which are components that define a world.

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import dataclass, field
from functools import lru_cache, partial
from typing import Literal, TypeVar

from ..errors import DecodeError, UnsupportedError
from .core import CoreExport, CoreImport, CoreModule, core_module, preamble, producers, sections
from .names import canonical_name
from .reader import Reader
from .types import (
    PRIMITIVES,
    BorrowType,
    CaseType,
    EnumType,
    FieldType,
    FlagsType,
    FuncType,
    FutureType,
    InterfaceType,
    ListType,
    OptionType,
    OwnType,
    RecordType,
    ResourceType,
    ResultType,
    StreamType,
    TupleType,
    ValType,
    VariantType,
    World,
    bounded,
    brief,
    weight_of,
)

__all__ = [
    "CoreExport",
    "CoreImport",
    "CoreModule",
    "World",
    "core_module",
    "embedded_worlds",
    "preamble",
    "producers",
]

# Scopes inside each other; wit-component needs 4.
MAX_NESTING = 32
# Sections component-type* of one module: one for each library with bindings. Each may take a second.
MAX_WORLDS = 32

PRIMITIVE_CODES = {
    0x7F: "bool",
    0x7E: "s8",
    0x7D: "u8",
    0x7C: "s16",
    0x7B: "u16",
    0x7A: "s32",
    0x79: "u32",
    0x78: "s64",
    0x77: "u64",
    0x76: "f32",
    0x75: "f64",
    0x74: "char",
    0x73: "string",
    0x64: "error-context",
}
SORTS = {1: "func", 2: "value", 3: "type", 4: "component", 5: "instance"}
LABEL = re.compile(r"[A-Za-z][A-Za-z0-9]*(-[A-Za-z0-9]+)*")
ENCODINGS: dict[int, Literal["utf8", "utf16", "latin1+utf16"]] = {0: "utf8", 1: "utf16", 2: "latin1+utf16"}


@dataclass
class InstanceDef:
    """An instance type: what it exports. `resources` are those that it makes anew."""

    exports: dict[str, Extern]
    resources: list[ResourceType]
    name: str | None = None

    def interface(self, name: str) -> InterfaceType:
        """As the interface `name`, which becomes that of its resources."""
        if self.name is None:
            self.name = name
            for rt in self.resources:
                object.__setattr__(rt, "interface", canonical_name(name))
        elif self.resources and self.name != name:
            raise UnsupportedError(
                f"instance type of {self.name} is used as {name} too", "one resource type under two names"
            )
        types: dict[str, ValType | ResourceType] = {}
        funcs: dict[str, FuncType] = {}
        for key, extern in self.exports.items():
            if isinstance(extern.what, FuncType) and extern.sort == "func":
                funcs[key] = extern.what
            elif isinstance(extern.what, ValType | ResourceType):
                types[key] = extern.what
        return InterfaceType(name, types, funcs)


@dataclass
class ComponentDef:
    """A component type: what it imports and exports."""

    imports: dict[str, Extern]
    exports: dict[str, Extern]


TypeDef = ValType | FuncType | ResourceType | InstanceDef | ComponentDef


@dataclass(frozen=True)
class Extern:
    """What an import or export is: its sort, and its type (a type itself for the sort "type")."""

    sort: str
    what: TypeDef


D = TypeVar("D", bound=TypeDef)


@dataclass
class Scope:
    """The index spaces of a component, component type or instance type."""

    parent: Scope | None = None
    types: list[TypeDef] = field(default_factory=list)
    funcs: list[FuncType] = field(default_factory=list)
    instances: list[InstanceDef] = field(default_factory=list)
    components: list[ComponentDef] = field(default_factory=list)
    resources: list[ResourceType] = field(default_factory=list)
    imports: dict[str, Extern] = field(default_factory=dict)
    exports: dict[str, Extern] = field(default_factory=dict)
    depth: int = 0

    def add(self, extern: Extern, offset: int) -> None:
        """What is imported, exported or aliased gets the next index of its sort."""
        match extern.sort, extern.what:
            case "type", what:
                self.types.append(what)
            case "func", FuncType() as what:
                self.funcs.append(what)
            case "instance", InstanceDef() as what:
                self.instances.append(what)
            case "component", ComponentDef() as what:
                self.components.append(what)
            case _:
                raise DecodeError(f"the type is not that of a {extern.sort}", offset)


class Budget:
    """What the types of all functions of one binary may weigh, since each is walked sooner or later."""

    # The world of Spin 1 weighs 3,000, that of wasi:http 0.2 with all it imports 6,000.
    LIMIT = 1_000_000

    def __init__(self) -> None:
        self.spent = 0

    def spend(self, ft: FuncType) -> FuncType:
        self.spent += weight_of(ft)
        if self.spent > self.LIMIT:
            raise UnsupportedError(f"functions whose types have more than {self.LIMIT} nodes", "large types")
        return ft


class TypeReader:
    """Reads definitions from `reader` into `scope`."""

    def __init__(self, reader: Reader, scope: Scope, budget: Budget) -> None:
        self.reader = reader
        self.scope = scope
        self.budget = budget

    # References.

    def index(self, space: Sequence[D], what: str) -> D:
        start, index = self.reader.pos, self.reader.u32()
        return at(space, index, what, start)

    def type_of(self, kind: type[D]) -> D:
        """The type at an index, which has to be of this kind."""
        start = self.reader.pos
        found = self.index(self.scope.types, "type")
        if not isinstance(found, kind):
            raise DecodeError(f"type {kind.__name__} expected, not {type(found).__name__}", start)
        return found

    def valtype(self) -> ValType:
        start, code = self.reader.pos, self.reader.peek()
        if code in PRIMITIVE_CODES:
            self.reader.byte()
            return PRIMITIVES[PRIMITIVE_CODES[code]]
        index = self.reader.s33()
        if index < 0:
            raise DecodeError(f"{code:#04x} is no value type", start)
        found = at(self.scope.types, index, "type", start)
        if not isinstance(found, ValType):
            raise DecodeError(f"type {index} is not that of a value", start)
        return found

    def optional_valtype(self) -> ValType | None:
        return self.valtype() if self.reader.expect("optional type", 0, 1) else None

    def label(self) -> str:
        start, label = self.reader.pos, self.reader.name()
        if LABEL.fullmatch(label) is None:
            raise DecodeError(f"{label!r} is no label", start)
        return label

    def labelled(self, item: Callable[[], tuple[str, ValType | None]]) -> list[tuple[str, ValType | None]]:
        """A vector of items that begin with labels, each its own."""
        start = self.reader.pos
        items = self.reader.vec(item)
        if len({label.lower() for label, _ in items}) < len(items):
            raise DecodeError("a label is there twice", start)
        return items

    def labels(self) -> tuple[str, ...]:
        return tuple(label for label, _ in self.labelled(lambda: (self.label(), None)))

    # Types.

    def type(self) -> TypeDef:
        """deftype; it gets the next index of types."""
        start, code = self.reader.pos, self.reader.byte()
        if code in PRIMITIVE_CODES:
            return PRIMITIVES[PRIMITIVE_CODES[code]]
        read = DEFTYPES.get(code)
        if read is None:
            raise DecodeError(f"{code:#04x} is no type", start)
        found = read(self)
        if isinstance(found, ValType):
            if found.weight == 1 and isinstance(
                found, RecordType | TupleType | VariantType | EnumType | FlagsType
            ):
                raise DecodeError("type is empty", start)
            bounded(found)
        return found

    def record(self) -> ValType:
        fields = self.labelled(lambda: (self.label(), self.valtype()))
        return RecordType(tuple(FieldType(label, t) for label, t in fields if t is not None))

    def variant(self) -> ValType:
        return VariantType(tuple(CaseType(label, t) for label, t in self.labelled(self.case)))

    def case(self) -> tuple[str, ValType | None]:
        label, t = self.label(), self.optional_valtype()
        if self.reader.expect("end of a case", 0, 1):
            self.reader.u32()  # `refines`, of 2022 and 2023
        return label, t

    def list(self) -> ValType:
        return ListType(self.valtype())

    def fixed_list(self) -> ValType:
        t, start = self.valtype(), self.reader.pos
        length = self.reader.u32()
        if length == 0:
            raise DecodeError("list of length 0", start)
        return ListType(t, length)

    def tuple(self) -> ValType:
        return TupleType(tuple(self.reader.vec(self.valtype)))

    def flags(self) -> ValType:
        labels = self.labels()
        if len(labels) > 32:
            raise UnsupportedError(f"flags with {len(labels)} labels", "flags of more than 32 labels")
        return FlagsType(labels)

    def enum(self) -> ValType:
        return EnumType(self.labels())

    def option(self) -> ValType:
        return OptionType(self.valtype())

    def result(self) -> ValType:
        ok = self.optional_valtype()
        return ResultType(ok, self.optional_valtype())

    def own(self) -> ValType:
        return OwnType(self.type_of(ResourceType))

    def borrow(self) -> ValType:
        return BorrowType(self.type_of(ResourceType))

    def stream(self) -> ValType:
        return StreamType(self.optional_valtype())

    def future(self) -> ValType:
        return FutureType(self.optional_valtype())

    def map(self) -> ValType:
        raise UnsupportedError("maps are not supported", "maps")

    def func(self, async_: bool = False) -> FuncType:
        params = self.labelled(lambda: (self.label(), self.valtype()))
        start = self.reader.pos
        if self.reader.expect("kind of result", 0, 1) == 0:
            result: ValType | None = self.valtype()
        else:
            # Since 2024 always empty; before, functions could return several named values,
            # which lie in memory as a tuple does.
            results = [t for _, t in self.labelled(lambda: (self.label(), self.valtype())) if t is not None]
            result = (results[0] if len(results) == 1 else TupleType(tuple(results))) if results else None
        if result is not None and result.borrows:
            raise DecodeError("a function cannot return a borrow", start)
        return self.budget.spend(FuncType(tuple((k, t) for k, t in params if t is not None), result, async_))

    def resource(self) -> TypeDef:
        raise UnsupportedError("resources that are defined, not imported or exported", "defined resources")

    def instance(self) -> InstanceDef:
        inner = self.inner()
        for _ in range(self.reader.count()):
            inner.declaration(instance=True)
        return InstanceDef(inner.scope.exports, inner.scope.resources)

    def component(self) -> ComponentDef:
        inner = self.inner()
        for _ in range(self.reader.count()):
            inner.declaration(instance=False)
        return ComponentDef(inner.scope.imports, inner.scope.exports)

    def inner(self) -> TypeReader:
        if self.scope.depth >= MAX_NESTING:
            raise UnsupportedError(f"types nested more than {MAX_NESTING} deep", "deeply nested types")
        return TypeReader(self.reader, Scope(self.scope, depth=self.scope.depth + 1), self.budget)

    # Declarations and definitions.

    def declaration(self, instance: bool) -> None:
        """instancedecl or componentdecl."""
        start = self.reader.pos
        match self.reader.byte():
            case 0x00:
                raise UnsupportedError("core types inside a component type", "core types")
            case 0x01:
                self.scope.types.append(self.type())
            case 0x02:
                self.alias()
            case 0x03 if not instance:
                self.extern(self.scope.imports)
            case 0x04:
                self.extern(self.scope.exports)
            case code:
                raise DecodeError(f"{code:#04x} is no declaration", start)

    def extern(self, names: dict[str, Extern]) -> None:
        """importdecl or exportdecl."""
        start = self.reader.pos
        name = self.extern_name(names)
        extern = self.extern_type(name)
        self.scope.add(extern, start)
        names[name] = extern

    def extern_name(self, names: dict[str, Extern]) -> str:
        start = self.reader.pos
        kind = self.reader.expect("kind of name", 0, 1, 2)
        name = self.reader.name()
        if kind == 2:
            for _ in range(self.reader.count()):
                self.reader.expect("attribute", 0, 1, 2)
                self.reader.name()
        if name in names:
            raise DecodeError(f"{name!r} is there twice", start)
        return name

    def extern_type(self, name: str) -> Extern:
        start = self.reader.pos
        match self.reader.byte():
            case 0x01:
                return Extern("func", self.type_of(FuncType))
            case 0x03:
                if self.reader.expect("bound of a type", 0, 1) == 0:
                    return Extern("type", named(self.index(self.scope.types, "type"), name))
                rt = ResourceType(name)
                self.scope.resources.append(rt)
                return Extern("type", rt)
            case 0x04:
                return Extern("component", self.type_of(ComponentDef))
            case 0x05:
                return Extern("instance", self.type_of(InstanceDef))
            case 0x00:
                raise UnsupportedError(
                    f"core module {name!r} as an import or export", "imported core modules"
                )
            case 0x02:
                raise UnsupportedError(f"value {name!r} as an import or export", "values")
            case code:
                raise DecodeError(f"{code:#04x} is no kind of import or export", start)

    def sort(self) -> str:
        start, code = self.reader.pos, self.reader.byte()
        if code == 0:
            raise UnsupportedError("core definitions inside a component type", "core definitions")
        if code not in SORTS:
            raise DecodeError(f"{code:#04x} is no sort", start)
        return SORTS[code]

    def alias(self) -> None:
        start, sort = self.reader.pos, self.sort()
        match self.reader.byte():
            case 0x00:
                instance = self.index(self.scope.instances, "instance")
                name = self.reader.name()
                extern = instance.exports.get(name)
                if extern is None or extern.sort != sort:
                    raise DecodeError(f"the instance exports no {sort} {name!r}", start)
                self.scope.add(extern, start)
            case 0x02:
                scope: Scope | None = self.scope
                for _ in range(self.reader.u32()):
                    if scope is None:
                        break
                    scope = scope.parent
                if scope is None:
                    raise DecodeError("alias reaches out too far", start)
                if sort not in ("type", "component"):
                    raise DecodeError(f"a {sort} cannot be aliased from outside", start)
                spaces: dict[str, Sequence[TypeDef]] = {"type": scope.types, "component": scope.components}
                self.scope.add(Extern(sort, self.index(spaces[sort], sort)), start)
            case _:
                raise DecodeError("unknown kind of alias", start)

    def export(self) -> None:
        """An export of a component, which is a new index too."""
        start = self.reader.pos
        name = self.extern_name(self.scope.exports)
        sort = self.sort()
        space: Sequence[TypeDef]
        match sort:
            case "type":
                space = self.scope.types
            case "func":
                space = self.scope.funcs
            case "instance":
                space = self.scope.instances
            case "component":
                space = self.scope.components
            case _:
                raise UnsupportedError(f"{sort} {name!r} is exported", f"exported {sort}s")
        extern = Extern(sort, self.index(space, sort))
        if self.reader.expect("ascribed type", 0, 1):
            extern = self.extern_type(name)
        self.scope.add(extern, start)
        self.scope.exports[name] = extern


DEFTYPES: dict[int, Callable[[TypeReader], TypeDef]] = {
    0x72: TypeReader.record,
    0x71: TypeReader.variant,
    0x70: TypeReader.list,
    0x6F: TypeReader.tuple,
    0x6E: TypeReader.flags,
    0x6D: TypeReader.enum,
    0x6B: TypeReader.option,
    0x6A: TypeReader.result,
    0x69: TypeReader.own,
    0x68: TypeReader.borrow,
    0x67: TypeReader.fixed_list,
    0x66: TypeReader.stream,
    0x65: TypeReader.future,
    0x63: TypeReader.map,
    0x43: partial(TypeReader.func, async_=True),
    0x42: TypeReader.instance,
    0x41: TypeReader.component,
    0x40: TypeReader.func,
    0x3F: TypeReader.resource,
}


def at(space: Sequence[D], index: int, what: str, offset: int) -> D:
    if index >= len(space):
        raise DecodeError(f"there is no {what} {index}", offset)
    return space[index]


def named(found: TypeDef, name: str) -> TypeDef:
    """A type under the name that it is exported or imported by, if it has none yet."""
    if isinstance(found, RecordType | VariantType | EnumType | FlagsType) and found.name is None:
        found = copy(found)
        object.__setattr__(found, "name", name)
    return found


# Worlds in core modules.


def embedded_worlds(wasm: bytes | CoreModule) -> World:
    """The union of the worlds in the custom sections component-type* of a core module.

    Raises DecodeError for malformed bytes and for sections that contradict each other, UnsupportedError
    for what is not implemented.
    """
    module = wasm if isinstance(wasm, CoreModule) else core_module(wasm)
    world: World | None = None
    count = 0
    for name, data in module.custom_sections:
        if name.startswith("component-type"):
            count += 1
            if count > MAX_WORLDS:
                raise UnsupportedError(f"more than {MAX_WORLDS} sections component-type", "large worlds")
            found = embedded_world(bytes(data))
            world = found if world is None else merge(world, found)
    return World("root") if world is None else world


@lru_cache(maxsize=16)  # every module made with one version of an SDK has the same section
def embedded_world(data: bytes) -> World:
    """What one section component-type* says.

    Version 3 (2023): a byte 3, the string encoding, the name of the world, a component that exports the
    type of its package. Version 4: a component alone that exports the type of a world, its encoding in
    a custom section.
    """
    reader = Reader(data)
    version = reader.peek()
    encoding, wanted = 0, ""
    if version == 0:
        component = data
    elif version == 3:
        reader.byte()
        encoding, wanted = reader.byte(), reader.name()
        component = data[reader.pos :]
    else:
        raise UnsupportedError(
            f"section component-type of version {version}, this host reads 3 and 4", "component-type versions"
        )
    if preamble(component) != "component":
        raise DecodeError("section component-type holds no component", 0)
    scope, budget, made_by = Scope(), Budget(), {}
    for number, name, section in sections(component):
        match number:
            case 0:
                if name == "wit-component-encoding":
                    start = section.pos
                    if section.byte() != 4:
                        raise UnsupportedError("wit-component-encoding is not 4", "component-type versions")
                    encoding = section.byte()
                    section.finish(f"wit-component-encoding at {start:#x}")
                elif name == "producers":
                    made_by = producers(section.take(section.left))
                continue
            case 6:
                section.vec(TypeReader(section, scope, budget).alias)
            case 7:
                types = TypeReader(section, scope, budget)
                for _ in range(section.count()):
                    scope.types.append(types.type())
            case 10:
                section.vec(partial(TypeReader(section, scope, budget).extern, scope.imports))
            case 11:
                section.vec(TypeReader(section, scope, budget).export)
            case _ if number <= 12:
                raise UnsupportedError(f"section {number} in an embedded world", "components in a world")
            case _:
                raise DecodeError(f"there is no section {number}", section.pos)
        section.finish(f"section {number}")
    if encoding not in ENCODINGS:
        raise DecodeError(f"there is no string encoding {encoding}", 1)
    worlds = {
        name: extern.what
        for package in scope.exports.values()
        if isinstance(package.what, ComponentDef)
        for name, extern in package.what.exports.items()
        if isinstance(extern.what, ComponentDef)
    }
    if wanted:
        worlds = {name: world for name, world in worlds.items() if last_label(name) == last_label(wanted)}
    if len(worlds) != 1:
        raise DecodeError(f"one world expected, not {len(worlds)}", 0)
    [(name, component_type)] = worlds.items()
    imports, exports = (
        {key: item for key, extern in side.items() if (item := world_item(key, extern)) is not None}
        for side in (component_type.imports, component_type.exports)
    )
    return World(name, imports, exports, ENCODINGS[encoding], made_by)


def last_label(name: str) -> str:
    """The world in "namespace:package/world@version"."""
    return name.partition("@")[0].rpartition("/")[2]


def world_item(name: str, extern: Extern) -> InterfaceType | FuncType | None:
    """An interface or a function; types of a world are nothing to link."""
    match extern.what:
        case InstanceDef() as instance:
            return instance.interface(name)
        case FuncType() as ft if extern.sort == "func":
            return ft
        case ComponentDef():
            raise UnsupportedError(f"component {name!r} in a world", "components in a world")
        case _:
            return None


def merge(a: World, b: World) -> World:
    """The union of two worlds of one module."""
    if a.encoding != b.encoding:
        raise UnsupportedError("several string encodings in one module", "mixed string encodings")
    sides = []
    for left, right in ((a.imports, b.imports), (a.exports, b.exports)):
        side = dict(left)
        for key, item in right.items():
            side[key] = merge_items(key, side[key], item) if key in side else item
        sides.append(side)
    return World(a.name, sides[0], sides[1], a.encoding, {**a.producers, **b.producers})


def merge_items(
    name: str, a: InterfaceType | FuncType, b: InterfaceType | FuncType
) -> InterfaceType | FuncType:
    """Each section may declare only what its own bindings use of an interface."""
    if isinstance(a, InterfaceType) and isinstance(b, InterfaceType):
        for key in a.funcs.keys() & b.funcs.keys():
            merge_items(f"{name} {key}", a.funcs[key], b.funcs[key])
        return InterfaceType(name, {**a.types, **b.types}, {**a.funcs, **b.funcs})
    if isinstance(a, FuncType) and isinstance(b, FuncType) and a == b:
        return a
    texts = [brief(item) if isinstance(item, FuncType) else "an interface" for item in (a, b)]
    raise DecodeError(f"{name} is declared in two ways: {texts[0]} and {texts[1]}", 0)
