# Definitions of a component -> its link plan: every index, alias, nested component
# and instance resolved, once.
#
# Rule 1: a component is evaluated as it would be instantiated: definitions in order,
# each into the next place of its index space. What comes out of the core parts is
# not run but written down (plan.py).
# Rule 2: types of imports are closures. Each use evaluates their declarations again,
# with the resources of whatever meets the import in the places of `sub resource`; so
# two types are compatible when they are equal afterwards.
# Rule 3: foreign definitions raise DecodeError (invalid, with the offset), LinkError
# (the host, or another component, does not offer what is imported) or
# UnsupportedError, and take bounded time: `Budget` counts what is evaluated.

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field
from typing import Any, TypeVar

from ..errors import DecodeError, LinkError, UnsupportedError
from . import syntax as s
from .layout import CoreFuncType, flatten_functype
from .names import canonical_name
from .plan import (
    CoreDefinition,
    CoreItem,
    GuestResource,
    HostFunction,
    Lifted,
    Lowered,
    Options,
    Plan,
    PlanModule,
    ResourceBuiltin,
    Slot,
    Step,
)
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
    bounded,
)

# What a component of today has: 14 core modules and 2,400 definitions (Python).
MAX_DEFINITIONS = 200_000
MAX_STEPS = 64
MAX_PARTS = 256

Offered = Callable[[str], "InterfaceType | FuncType | None"]


@dataclass(frozen=True, slots=True, eq=False)
class InstanceT:
    """An instance type: its declarations, and where they were made."""

    declarations: tuple[s.Definition, ...]
    scope: Scope


@dataclass(frozen=True, slots=True, eq=False)
class ComponentT:
    declarations: tuple[s.Definition, ...]
    scope: Scope


Type = ValType | FuncType | ResourceType | InstanceT | ComponentT


@dataclass(frozen=True, slots=True, eq=False)
class Func:
    """A function: its type, and who it is; None where only its type is known."""

    type: FuncType
    target: HostFunction | Lifted | None


@dataclass(frozen=True, slots=True, eq=False)
class Instance:
    """An instance: what it exports, by name."""

    exports: Mapping[str, Item]
    interface: InterfaceType | None = None  # of the host, where it comes from there


@dataclass(frozen=True, slots=True, eq=False)
class Component:
    """A component that can be instantiated: its definitions, and where they are."""

    definition: s.ComponentDef
    scope: Scope | None


@dataclass(frozen=True, slots=True, eq=False)
class CoreFunc:
    definition: CoreDefinition
    type: CoreFuncType


@dataclass(frozen=True, slots=True, eq=False)
class CoreInstance:
    """A core instance: the step that makes it, or items by name."""

    step: int | None
    module: PlanModule | None
    items: Mapping[str, tuple[str, Any]]


# What an index space, an export or an argument holds.
Item = Func | Type | Instance | Component | PlanModule
I = TypeVar("I")  # noqa: E741


class Budget:
    """What may be evaluated for one guest."""

    def __init__(self) -> None:
        self.left = MAX_DEFINITIONS

    def spend(self, count: int) -> None:
        self.left -= count
        if self.left < 0:
            raise UnsupportedError(
                f"more than {MAX_DEFINITIONS} definitions, instantiations counted", "large components"
            )


@dataclass(slots=True, eq=False)
class Scope:
    """The index spaces of a component, a component type or an instance type."""

    parent: Scope | None
    types: list[Type] = field(default_factory=list)
    funcs: list[Func] = field(default_factory=list)
    instances: list[Instance] = field(default_factory=list)
    components: list[Component | ComponentT] = field(default_factory=list)
    core_types: list[object] = field(default_factory=list)
    core_modules: list[PlanModule] = field(default_factory=list)
    core_instances: list[CoreInstance] = field(default_factory=list)
    core_funcs: list[CoreFunc] = field(default_factory=list)
    core_items: dict[str, list[CoreItem]] = field(
        default_factory=lambda: {"table": [], "memory": [], "global": [], "tag": []}
    )
    part: int | None = None  # of a component, once it has core code
    resources: list[ResourceType] = field(default_factory=list)

    def add(self, sort: str, item: Any) -> None:
        self.space(sort).append(item)

    def space(self, sort: str) -> list[Any]:
        match sort:
            case "type":
                return self.types
            case "func":
                return self.funcs
            case "instance":
                return self.instances
            case "component":
                return self.components
            case "core module":
                return self.core_modules
            case "core func":
                return self.core_funcs
            case "core instance":
                return self.core_instances
            case "core type":
                return self.core_types
            case "value":
                raise UnsupportedError("values at the level of components are not supported", "values")
        return self.core_items[sort.removeprefix("core ")]


def resolve(
    component: s.ComponentDef,
    offered: Offered,
    provided: Mapping[str, tuple[s.ComponentDef, str | None]] | None = None,
) -> Plan:
    """The link plan of `component`, its imports met by what the host offers.

    `offered(name)` gives the type of the interface or function that the host has under an imported name,
    None for none. `provided` meets imports with an export of another component, or with the export of
    the same name (None); each of these is instantiated once, its own imports met by the host.

    Raises DecodeError where `component` is not valid, LinkError where an import is not met, or with
    another type, UnsupportedError for what is not implemented.
    """
    return Resolver(offered).plan(component, provided or {})


class Resolver:
    def __init__(self, offered: Offered) -> None:
        self.offered = offered
        self.budget = Budget()
        self.modules: list[PlanModule] = []
        self.steps: list[Step] = []
        self.slots: list[list[CoreDefinition | None]] = []  # memory, realloc
        self.resources: list[GuestResource] = []
        self.imports: dict[str, InterfaceType | FuncType] = {}
        self.parts = 0
        self.depth = 0

    def plan(
        self, component: s.ComponentDef, provided: Mapping[str, tuple[s.ComponentDef, str | None]]
    ) -> Plan:
        dependencies: dict[int, Instance] = {}
        arguments: dict[str, Item] = {}
        for name, (dependency, export) in provided.items():
            instance = dependencies.get(id(dependency))
            if instance is None:
                instance = dependencies[id(dependency)] = self.component(dependency, None, self.host_argument)
            wanted = canonical_name(export or name)
            found = next((i for n, i in instance.exports.items() if canonical_name(n) == wanted), None)
            if found is None:
                raise LinkError(f"the component that is to provide {name} exports no {export or name}", name)
            arguments[canonical_name(name)] = found

        def argument(name: str, scope: Scope, desc: s.ExternDesc, offset: int) -> Item:
            found = arguments.get(canonical_name(name))
            return self.host_argument(name, scope, desc, offset) if found is None else found

        instance = self.component(component, None, argument)
        functions: dict[str, Lifted] = {}
        exports: dict[str, dict[str, Lifted | HostFunction]] = {}
        interfaces: dict[str, InterfaceType] = {}
        for name, item in instance.exports.items():
            if isinstance(item, Func) and isinstance(item.target, Lifted):
                functions[name] = item.target
            elif isinstance(item, Instance):
                exports[name] = {
                    key: each.target
                    for key, each in item.exports.items()
                    if isinstance(each, Func) and each.target is not None
                }
                interfaces[name] = interface_of(name, item)
        return Plan(
            modules=tuple(self.modules),
            steps=tuple(self.steps),
            slots=tuple(Slot(memory, realloc) for memory, realloc in self.slots),
            parts=max(self.parts, 1),
            resources=tuple(self.resources),
            imports=self.imports,
            functions=functions,
            exports=exports,
            interfaces=interfaces,
        )

    # Imports that the host meets.

    def host_argument(self, name: str, scope: Scope, desc: s.ExternDesc, offset: int) -> Item:
        """What the host has for an import of the outermost component."""
        match desc.sort:
            case "instance":
                declared = self.at(scope, "type", desc.index, offset)
                offer = self.offered(name)
                if not isinstance(offer, InterfaceType):
                    offer = InterfaceType(name) if self.needs_nothing(declared) else None
                if offer is None:
                    raise LinkError(f"imports {name}, which this gateway does not offer", name)
                self.imports[name] = offer
                return host_instance(name, offer)
            case "func":
                offer = self.offered(name)
                if not isinstance(offer, FuncType):
                    raise LinkError(f"imports a function {name}, which this gateway does not offer", name)
                self.imports[name] = offer
                return Func(offer, HostFunction("", name, offer))
            case "type" if desc.bound == "eq":
                found: Item = self.at(scope, "type", desc.index, offset)
                return found
        raise LinkError(f"imports the {desc.sort} {name}, which no host can offer", name)

    def needs_nothing(self, declared: Type) -> bool:
        """Whether an instance type declares no function and no resource, so that any instance will do."""
        if not isinstance(declared, InstanceT):
            return False
        return not any(
            isinstance(d, s.Export)
            and d.desc is not None
            and (d.desc.sort != "type" or d.desc.bound == "sub resource")
            for d in declared.declarations
        )

    # Components.

    def component(
        self,
        definition: s.ComponentDef,
        parent: Scope | None,
        argument: Callable[[str, Scope, s.ExternDesc, int], Item],
    ) -> Instance:
        """An instance of a component, its imports met by `argument(name, scope, desc, offset)`."""
        self.depth += 1
        if self.depth > 64:
            raise UnsupportedError("components instantiated more than 64 deep", "deep nesting")
        self.budget.spend(1 + len(definition.definitions))
        scope = Scope(parent)
        exports: dict[str, Item] = {}
        for d in definition.definitions:
            match d:
                case s.Import(offset, name, desc):
                    item = argument(name.name, scope, desc, offset)
                    scope.add(desc.sort, self.conform(name.name, item, desc, scope, offset, parent is None))
                case s.Export(offset, name, item_index, desc):
                    assert item_index is not None
                    item = self.item(scope, item_index, offset)
                    if name.name in exports:
                        raise DecodeError(f"{name.name!r} is exported twice", offset)
                    if desc is not None:
                        item = self.conform(name.name, item, desc, scope, offset, False)
                    exports[name.name] = item = named(item, name.name)
                    scope.add(item_index.sort, item)
                case _:
                    self.definition(scope, d)
        self.depth -= 1
        return Instance(exports)

    def definition(self, scope: Scope, d: s.Definition) -> None:
        """Any definition of a component that is neither import nor export."""
        match d:
            case s.CoreModuleDef(_, code, module):
                scope.core_modules.append(PlanModule(code, module))
            case s.CoreInstantiate():
                scope.core_instances.append(self.core_instantiate(scope, d))
            case s.CoreInlineExports(offset, exports):
                items: dict[str, tuple[str, Any]] = {}
                for key, index in exports:
                    if key in items:
                        raise DecodeError(f"{key!r} is exported twice", offset)
                    kind = index.sort.removeprefix("core ")
                    items[key] = kind, self.at(scope, index.sort, index.index, offset)
                scope.core_instances.append(CoreInstance(None, None, items))
            case s.CoreTypeDef(_, what):
                scope.core_types.append(what)
            case s.ComponentDef():
                scope.components.append(Component(d, scope))
            case s.Instantiate():
                scope.instances.append(self.instantiate(scope, d))
            case s.InlineExports(offset, inline):
                named_items: dict[str, Item] = {}
                for name, index in inline:
                    if name.name in named_items:
                        raise DecodeError(f"{name.name!r} is exported twice", offset)
                    named_items[name.name] = self.item(scope, index, offset)
                scope.instances.append(Instance(named_items))
            case s.AliasCoreExport(offset, sort, index, key):
                instance: CoreInstance = self.at(scope, "core instance", index, offset)
                kind = sort.removeprefix("core ")
                scope.add(sort, self.core_export(instance, kind, key, offset))
            case s.CanonLift():
                scope.funcs.append(self.lift(scope, d))
            case s.CanonLower():
                scope.core_funcs.append(self.lower(scope, d))
            case s.CanonResource(offset, kind, index, async_):
                rt = self.at(scope, "type", index, offset)
                if not isinstance(rt, ResourceType):
                    raise DecodeError(f"type {index} is no resource", offset)
                if async_:
                    raise UnsupportedError("resource.drop that is async is not supported yet", "async drop")
                if kind != "drop" and rt.part != self.part(scope):
                    raise DecodeError(f"resource.{kind} of a resource that is not defined here", offset)
                type_ = CoreFuncType("i", "" if kind == "drop" else "i")
                scope.core_funcs.append(CoreFunc(ResourceBuiltin(kind, rt, self.part(scope)), type_))
            case s.CanonBuiltin(_, name):
                raise UnsupportedError(f"needs the built-in {name}, which is not supported yet", name)
            case s.Start():
                raise UnsupportedError("start functions of components are not supported", "start")
            case s.ValueDef():
                raise UnsupportedError("values at the level of components are not supported", "values")
            case s.TypeDef() | s.AliasExport() | s.AliasOuter():
                self.type_definition(scope, d)
            case _:
                raise DecodeError(f"{type(d).__name__} cannot stand here", 0)

    def part(self, scope: Scope) -> int:
        """The number of the component instance that `scope` is."""
        if scope.part is None:
            if self.parts == MAX_PARTS:
                raise UnsupportedError(f"more than {MAX_PARTS} component instances", "large components")
            scope.part, self.parts = self.parts, self.parts + 1
        return scope.part

    def instantiate(self, scope: Scope, d: s.Instantiate) -> Instance:
        component = self.at(scope, "component", d.component, d.offset)
        if not isinstance(component, Component):
            raise UnsupportedError("instantiating a component that is imported", "imported components")
        arguments: dict[str, Item] = {}
        for name, index in d.args:
            if name in arguments:
                raise DecodeError(f"{name!r} is given twice", d.offset)
            arguments[name] = self.item(scope, index, d.offset)

        def argument(name: str, inner: Scope, desc: s.ExternDesc, offset: int) -> Item:
            if name not in arguments:
                raise DecodeError(f"no argument is given for the import {name!r}", d.offset)
            return arguments[name]

        return self.component(component.definition, component.scope, argument)

    # References.

    def at(self, scope: Scope, sort: str, index: int | None, offset: int) -> Any:
        space = scope.space(sort)
        if index is None or index >= len(space):
            raise DecodeError(f"there is no {sort} {index}", offset)
        return space[index]

    def item(self, scope: Scope, index: s.SortIndex, offset: int) -> Any:
        if index.sort.startswith("core") and index.sort != "core module":
            raise DecodeError(f"a {index.sort} where only items of components can stand", offset)
        return self.at(scope, index.sort, index.index, offset)

    # Types.

    def type_definition(self, scope: Scope, d: s.TypeDef | s.AliasExport | s.AliasOuter) -> None:
        """What components and types may both have."""
        match d:
            case s.TypeDef(offset, what):
                scope.types.append(self.type(scope, what, offset))
            case s.AliasExport(offset, sort, index, key):
                instance: Instance = self.at(scope, "instance", index, offset)
                item = instance.exports.get(key)
                if item is None or sort_of(item) != sort:
                    raise DecodeError(f"the instance exports no {sort} {key!r}", offset)
                scope.add(sort, item)
            case s.AliasOuter(offset, sort, count, index):
                target: Scope | None = scope
                for _ in range(count):
                    target = None if target is None else target.parent
                if target is None:
                    raise DecodeError("alias reaches out too far", offset)
                if sort not in ("type", "component", "core module", "core type"):
                    raise DecodeError(f"a {sort} cannot be aliased from outside", offset)
                scope.add(sort, self.at(target, sort, index, offset))

    def type(self, scope: Scope, what: s.DefType, offset: int) -> Type:
        match what:
            case s.InstanceTypeDef(declarations):
                return InstanceT(declarations, scope)
            case s.ComponentTypeDef(declarations):
                return ComponentT(declarations, scope)
            case s.FuncDef(params, result, async_):
                unique([label for label, _ in params], offset)
                ft = FuncType(
                    tuple((label, self.valtype(scope, t, offset)) for label, t in params),
                    None if result is None else self.valtype(scope, result, offset),
                    async_,
                )
                if ft.result is not None and ft.result.borrows:
                    raise DecodeError("a function cannot return a borrow", offset)
                return ft
            case s.ResourceDef(rep, dtor, async_):
                if rep != "i":
                    raise DecodeError("a resource is represented by an i32", offset)
                if async_:
                    raise UnsupportedError(
                        "destructors that are async are not supported", "async destructors"
                    )
                part = self.part(scope)
                rt = ResourceType("resource", part=part)
                found = None
                if dtor is not None:
                    func: CoreFunc = self.at(scope, "core func", dtor, offset)
                    if func.type != CoreFuncType("i", ""):
                        raise DecodeError("a destructor takes one i32 and returns nothing", offset)
                    found = func.definition
                self.resources.append(GuestResource(rt, part, found))
                return rt
        return bounded(self.value_type(scope, what, offset))

    def value_type(self, scope: Scope, what: s.DefType, offset: int) -> ValType:
        def of(t: s.ValTypeRef) -> ValType:
            return self.valtype(scope, t, offset)

        def optional(t: s.ValTypeRef | None) -> ValType | None:
            return None if t is None else of(t)

        match what:
            case s.PrimitiveDef(name):
                return PRIMITIVES[name]
            case s.RecordDef(fields):
                unique([label for label, _ in fields], offset, "record")
                return RecordType(tuple(FieldType(label, of(t)) for label, t in fields))
            case s.VariantDef(cases):
                unique([label for label, _ in cases], offset, "variant")
                return VariantType(tuple(CaseType(label, optional(t)) for label, t in cases))
            case s.ListDef(t, length):
                if length == 0:
                    raise DecodeError("list of length 0", offset)
                return ListType(of(t), length)
            case s.TupleDef(ts):
                if not ts:
                    raise DecodeError("tuple of nothing", offset)
                return TupleType(tuple(map(of, ts)))
            case s.FlagsDef(labels):
                unique(labels, offset, "flags")
                if len(labels) > 32:
                    raise DecodeError("more than 32 flags", offset)
                return FlagsType(labels)
            case s.EnumDef(labels):
                unique(labels, offset, "enum")
                return EnumType(labels)
            case s.OptionDef(t):
                return OptionType(of(t))
            case s.ResultDef(ok, err):
                return ResultType(optional(ok), optional(err))
            case s.OwnDef(index):
                return OwnType(self.resource(scope, index, offset))
            case s.BorrowDef(index):
                return BorrowType(self.resource(scope, index, offset))
            case s.StreamDef(t):
                return StreamType(optional(t))
            case s.FutureDef(t):
                return FutureType(optional(t))
        raise DecodeError(f"{type(what).__name__} is no value type", offset)

    def valtype(self, scope: Scope, t: s.ValTypeRef, offset: int) -> ValType:
        if isinstance(t, str):
            return PRIMITIVES[t]
        found = self.at(scope, "type", t, offset)
        if not isinstance(found, ValType):
            raise DecodeError(f"type {t} is not that of a value", offset)
        return found

    def resource(self, scope: Scope, index: int, offset: int) -> ResourceType:
        found = self.at(scope, "type", index, offset)
        if not isinstance(found, ResourceType):
            raise DecodeError(f"type {index} is no resource", offset)
        return found

    # Does an item conform to what is said of it?

    def conform(
        self, name: str, item: Item, desc: s.ExternDesc, scope: Scope, offset: int, of_host: bool
    ) -> Any:
        """`item` seen as `desc` (in `scope`) says; LinkError for an import that the host meets otherwise."""
        problem = f"{name!r} is a {sort_of(item)}, and has to be a {desc.sort}"
        if sort_of(item) == desc.sort:
            match desc.sort:
                case "type":
                    if desc.bound == "sub resource":
                        if isinstance(item, ResourceType):
                            return item
                        problem = f"{name!r} has to be a resource"
                    else:
                        declared = self.at(scope, "type", desc.index, offset)
                        if isinstance(declared, InstanceT | ComponentT) or declared == item:
                            return named(declared, name)
                        problem = f"{name!r} is the type {item}, and has to be {declared}"
                case "func":
                    declared = self.at(scope, "type", desc.index, offset)
                    assert isinstance(item, Func)
                    if not isinstance(declared, FuncType):
                        raise DecodeError(f"type {desc.index} is not that of a function", offset)
                    if same_functions(declared, item.type):
                        return item
                    problem = f"{name!r} is {item.type}, and has to be {declared}"
                case "instance":
                    declared = self.at(scope, "type", desc.index, offset)
                    if not isinstance(declared, InstanceT):
                        raise DecodeError(f"type {desc.index} is not that of an instance", offset)
                    assert isinstance(item, Instance)
                    return self.instance(name, item, declared, offset, of_host)
                case _:
                    return item
        if of_host:
            raise LinkError(problem, name)
        raise DecodeError(problem, offset)

    def instance(
        self, name: str, item: Instance, declared: InstanceT, offset: int, of_host: bool
    ) -> Instance:
        """What of `item` the instance type declares, checked; in the names and types of the declarer."""
        self.budget.spend(1 + len(declared.declarations))
        scope = Scope(declared.scope)
        exports: dict[str, Item] = {}
        for d in declared.declarations:
            match d:
                case s.Export(at, export, _, desc):
                    assert desc is not None
                    key = export.name
                    if key in exports:
                        raise DecodeError(f"{key!r} is there twice", at)
                    found = item.exports.get(key)
                    if found is None:
                        if desc.sort == "type" and desc.bound == "eq":
                            # records and the like are what they are, whoever declares them
                            found = self.at(scope, "type", desc.index, at)
                        elif of_host:
                            text = self.said(scope, desc, at)
                            raise LinkError(
                                f"imports {key} of {name}{text}, which the host does not have", name
                            )
                        else:
                            raise DecodeError(f"the instance {name!r} exports no {key!r}", offset)
                    elif of_host and desc.bound != "sub resource":
                        self.agree(name, key, self.at(scope, "type", desc.index, at), found)
                    found = self.conform(key, found, desc, scope, at, of_host)
                    exports[key] = named(found, key)
                    scope.add(desc.sort, exports[key])
                case _:
                    self.declaration(scope, d)
        return Instance(exports, item.interface)

    def agree(self, name: str, key: str, declared: Type, offered: Item) -> None:
        """LinkError, with both types, where the host offers `key` of `name` as another one than declared."""
        match declared, offered:
            case FuncType(), Func(ft, _):
                agreed, text = same_functions(declared, ft), str(ft)
            case ValType(), _:
                agreed, text = declared == offered, str(offered)
            case _:
                return
        if not agreed:
            raise LinkError(f"{name} {key}: the guest declares {declared}, the host offers {text}", name)

    def said(self, scope: Scope, desc: s.ExternDesc, offset: int) -> str:
        if desc.sort != "func":
            return ""
        declared = self.at(scope, "type", desc.index, offset)
        return f" ({declared})"

    def declaration(self, scope: Scope, d: s.Definition) -> None:
        """A declaration of a type that is neither import nor export."""
        match d:
            case s.TypeDef(offset, s.ResourceDef()):
                raise DecodeError("a resource cannot be defined in a type", offset)
            case s.TypeDef() | s.AliasExport() | s.AliasOuter():
                self.type_definition(scope, d)
            case s.CoreTypeDef(_, what):
                scope.core_types.append(what)
            case _:
                raise DecodeError(f"{type(d).__name__} cannot stand in a type", getattr(d, "offset", 0))

    # Core definitions.

    def core_instantiate(self, scope: Scope, d: s.CoreInstantiate) -> CoreInstance:
        module: PlanModule = self.at(scope, "core module", d.module, d.offset)
        arguments: dict[str, CoreInstance] = {}
        for name, index in d.args:
            if name in arguments:
                raise DecodeError(f"{name!r} is given twice", d.offset)
            arguments[name] = self.at(scope, "core instance", index, d.offset)
        imports: dict[tuple[str, str], CoreDefinition] = {}
        for item in module.module.imports:
            given = arguments.get(item.module)
            if given is None:
                raise DecodeError(f"no argument is given for the core import {item.module!r}", d.offset)
            found = self.core_export(given, item.kind, item.name, d.offset)
            if isinstance(found, CoreFunc):
                if found.type != item.signature:
                    raise DecodeError(
                        f"the core import {item.module}.{item.name} is a function of another type", d.offset
                    )
                imports[item.module, item.name] = found.definition
            else:
                imports[item.module, item.name] = found
        if len(self.steps) == MAX_STEPS:
            raise UnsupportedError(f"more than {MAX_STEPS} core instances", "large components")
        number = next((i for i, m in enumerate(self.modules) if m.code is module.code), None)
        if number is None:
            number = len(self.modules)
            self.modules.append(module)
        self.steps.append(Step(number, self.part(scope), imports))
        return CoreInstance(len(self.steps) - 1, module, {})

    def core_export(self, instance: CoreInstance, kind: str, name: str, offset: int) -> Any:
        """A CoreFunc, or the CoreItem of another kind."""
        if instance.step is None:
            found = instance.items.get(name)
            if found is None or found[0] != kind:
                raise DecodeError(f"the core instance exports no {kind} {name!r}", offset)
            return found[1]
        assert instance.module is not None
        export = instance.module.module.export(name)
        if export is None or export.kind != kind:
            raise DecodeError(f"the core instance exports no {kind} {name!r}", offset)
        item = CoreItem(instance.step, name, export.kind)
        return item if export.type is None else CoreFunc(item, export.type)

    def options(self, scope: Scope, options: s.CanonOptions, offset: int) -> Options:
        if options.async_ or options.callback is not None:
            raise UnsupportedError("asynchronous lifting and lowering is not supported yet", "async")
        if options.others:
            raise UnsupportedError(f"the canonical option {options.others[0]}", options.others[0])
        memory = realloc = None
        if options.memory is not None:
            memory = self.at(scope, "core memory", options.memory, offset)
        if options.realloc is not None:
            func: CoreFunc = self.at(scope, "core func", options.realloc, offset)
            if func.type != CoreFuncType("iiii", "i"):
                raise DecodeError("realloc has another core type than (i32 i32 i32 i32) -> (i32)", offset)
            realloc = func.definition
        post_return = None
        if options.post_return is not None:
            func = self.at(scope, "core func", options.post_return, offset)
            if not isinstance(func.definition, CoreItem):
                raise UnsupportedError("post-return that is a host function", "lifted imports")
            post_return = func.definition
        return Options(options.encoding, self.slot(memory, realloc), post_return)

    def slot(self, memory: CoreDefinition | None, realloc: CoreDefinition | None) -> int:
        """The number of a memory with its allocator; who needs no allocator shares it."""
        if memory is None:
            return 0
        for i, slot in enumerate(self.slots):
            if slot[0] == memory and (realloc is None or slot[1] in (None, realloc)):
                slot[1] = realloc or slot[1]
                return i
        self.slots.append([memory, realloc])
        return len(self.slots) - 1

    def lift(self, scope: Scope, d: s.CanonLift) -> Func:
        func: CoreFunc = self.at(scope, "core func", d.core_func, d.offset)
        ft = self.at(scope, "type", d.type, d.offset)
        if not isinstance(ft, FuncType):
            raise DecodeError(f"type {d.type} is not that of a function", d.offset)
        options = self.options(scope, d.options, d.offset)
        if func.type != flatten_functype(ft, "lift"):
            raise DecodeError(f"a core function of another type is lifted to {ft}", d.offset)
        return Func(ft, Lifted(func.definition, ft, options, self.part(scope)))

    def lower(self, scope: Scope, d: s.CanonLower) -> CoreFunc:
        func: Func = self.at(scope, "func", d.func, d.offset)
        options = self.options(scope, d.options, d.offset)
        if options.post_return is not None:
            raise DecodeError("post-return cannot be given for canon lower", d.offset)
        if func.target is None:
            raise UnsupportedError("a function of a component that is imported", "imported components")
        return CoreFunc(Lowered(func.target, options, self.part(scope)), flatten_functype(func.type, "lower"))


def host_instance(name: str, interface: InterfaceType) -> Instance:
    exports: dict[str, Item] = dict(interface.types)
    for key, ft in interface.funcs.items():
        exports[key] = Func(ft, HostFunction(name, key, ft))
    return Instance(exports, interface)


def interface_of(name: str, instance: Instance) -> InterfaceType:
    types: dict[str, ValType | ResourceType] = {}
    funcs: dict[str, FuncType] = {}
    for key, item in instance.exports.items():
        if isinstance(item, Func):
            funcs[key] = item.type
        elif isinstance(item, ValType | ResourceType):
            types[key] = item
    return InterfaceType(name, types, funcs)


def sort_of(item: Item) -> str:
    match item:
        case Func():
            return "func"
        case Instance():
            return "instance"
        case Component():
            return "component"
        case PlanModule():
            return "core module"
    return "type"


def same_functions(a: FuncType, b: FuncType) -> bool:
    """Whether they agree; names of parameters are not part of that."""
    return a.async_ == b.async_ and a.param_types() == b.param_types() and a.result == b.result


def named(item: Any, name: str) -> Any:
    """A type under the name that it is exported or imported by, if it has none yet."""
    if isinstance(item, RecordType | VariantType | EnumType | FlagsType) and item.name is None:
        item = copy(item)
        object.__setattr__(item, "name", name)
    elif isinstance(item, ResourceType) and item.part is not None and item.name == "resource":
        object.__setattr__(item, "name", name)
    return item


def unique(labels: Sequence[str], offset: int, what: str | None = None) -> None:
    """`labels` of which none comes twice; `what` must have one at least."""
    if what is not None and not labels:
        raise DecodeError(f"a {what} of nothing", offset)
    if len({label.lower() for label in labels}) < len(labels):
        raise DecodeError("a label is there twice", offset)
