# The definitions of a component, evaluated in order, each into the next place of its
# index space: validation (Binary.md, Explainer.md), and what resolve.py builds on.
#
# Rule 1: here a component is evaluated for its type: imports are what their types say,
# with resource types that equal nothing else, and nobody is behind a function.
# resolve.py's Resolver overrides what is different when there is somebody.
# Rule 2: each component is evaluated once where it stands; to instantiate it is to
# match arguments with its imports and to substitute resource types in its exports.
# Rule 3: foreign definitions raise DecodeError (invalid, with the offset) or
# UnsupportedError; time is bounded by a Budget, depth by MAX_ITEM_DEPTH.

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from ..errors import DecodeError, UnsupportedError
from . import syntax as s
from .core import CoreModule, MemoryType
from .items import (
    NAMED,
    AbstractResource,
    Budget,
    Component,
    ComponentT,
    CoreExtern,
    Facts,
    Func,
    Instance,
    InstanceT,
    Item,
    Mismatch,
    Module,
    ModuleT,
    Substitution,
    Type,
    Value,
    deeper,
    free_resources,
    instance_of,
    kind_of,
    root_of,
    sort_of,
    under_name,
)
from .layout import CoreFuncType
from .names import annotated, is_interface_name, is_label, takes_suffix, unique_key
from .plan import CoreDefinition, Options, PlanModule
from .signatures import BUILTINS, CALLBACK, DESTRUCTOR, REALLOC, Lifting, Lowering, Returning
from .subtype import Matching, core_matches
from .types import (
    PRIMITIVES,
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
    MapType,
    OptionType,
    OwnType,
    PrimValType,
    RecordType,
    ResourceType,
    ResultType,
    StreamType,
    TupleType,
    ValType,
    VariantType,
    bounded,
    brief,
    children,
    weight_of,
)

# Every value type has to be smaller (Binary.md).
MAX_VALUE_SIZE = 1 << 28

# Primitive types that are no keys of a map (Explainer.md, keytype).
NO_KEYS = (F32Type, F64Type, ErrorContextType)

# What is instantiated in a chain of components.
MAX_NESTING = 64


@dataclass(frozen=True, slots=True, eq=False)
class CoreItem:
    """A core function, table, memory, global or tag: its type, and who it is where that is known."""

    kind: str
    type: Any
    definition: CoreDefinition | None = None


@dataclass(frozen=True, slots=True, eq=False)
class CoreInstance:
    """A core instance: what it exports, None for other names."""

    export: Callable[[str], CoreItem | None]


class Side:
    """The imports, or the exports, of a component or type: names, and what they confer."""

    def __init__(self) -> None:
        self.items: dict[str, Item] = {}
        self.keys: dict[str, str] = {}
        self.resources: dict[str, ResourceType] = {}
        self.visible: dict[int, object] = {}  # types under a name that can be seen from outside, by id


@dataclass(slots=True, eq=False)
class Scope:
    """The index spaces of a component, a component type or an instance type."""

    kind: Literal["component", "component type", "instance type"]
    parent: Scope | None
    types: list[Type] = field(default_factory=list)
    funcs: list[Func] = field(default_factory=list)
    instances: list[Instance] = field(default_factory=list)
    components: list[Component] = field(default_factory=list)
    values: list[Value] = field(default_factory=list)
    core_types: list[object] = field(default_factory=list)
    core_modules: list[Module] = field(default_factory=list)
    core_instances: list[CoreInstance] = field(default_factory=list)
    core_funcs: list[CoreItem] = field(default_factory=list)
    core_tables: list[CoreItem] = field(default_factory=list)
    core_memories: list[CoreItem] = field(default_factory=list)
    core_globals: list[CoreItem] = field(default_factory=list)
    core_tags: list[CoreItem] = field(default_factory=list)
    imports: Side = field(default_factory=Side)
    exports: Side = field(default_factory=Side)
    bound: list[ResourceType] = field(default_factory=list)  # resource types that imports bring
    fresh: list[ResourceType] = field(default_factory=list)  # those that are new with each instance
    local: dict[int, ResourceType] = field(default_factory=dict)  # those defined here
    unused: set[int] = field(default_factory=set)  # values that nothing has consumed yet
    context: str | None = None  # the core type of context.get and context.set, which is one
    part: int | None = None  # of a component, once it has anything that runs
    instantiator: Scope | None = None  # the component instance that this one was instantiated by
    supply: Any = None  # what meets its imports, where somebody does (resolve.Supply)

    def space(self, sort: s.Sort) -> list[Any]:
        space: list[Any] = getattr(self, SPACES[sort])
        return space


SPACES: dict[s.Sort, str] = {
    "type": "types",
    "func": "funcs",
    "instance": "instances",
    "component": "components",
    "value": "values",
    "core type": "core_types",
    "core module": "core_modules",
    "core instance": "core_instances",
    "core func": "core_funcs",
    "core table": "core_tables",
    "core memory": "core_memories",
    "core global": "core_globals",
    "core tag": "core_tags",
}


class Evaluator:
    """Validates definitions; `strict` asks too for what does not matter when they are executed (names)."""

    strict = True

    def __init__(self) -> None:
        self.budget = Budget()
        self.facts = Facts()
        self.depth = 0

    # Components and types, definition by definition.

    def component_type(self, component: Component) -> ComponentT:
        """The type of a component; evaluated now, where nobody has needed it yet."""
        if component.type is None:
            assert component.definition is not None
            t = Evaluator.evaluate(self.validator(), component.definition, component.scope)
            object.__setattr__(component, "type", t)
        assert component.type is not None
        return component.type

    def validator(self) -> Evaluator:
        """Who evaluates components for their types, at the same expense."""
        return self

    def evaluate(self, definition: s.ComponentDef, parent: Scope | None) -> ComponentT:
        scope = Scope("component", parent)
        self.run(scope, definition)
        imports, exports = scope.imports.items, scope.exports.items
        return ComponentT(
            imports,
            exports,
            tuple(scope.bound),
            tuple(scope.fresh),
            deeper(imports.values(), exports.values()),
        )

    def run(self, scope: Scope, definition: s.ComponentDef) -> None:
        """Evaluate a component into `scope`."""
        self.depth += 1
        if self.depth > MAX_NESTING:
            raise UnsupportedError(f"components nested more than {MAX_NESTING} deep", "deep nesting")
        self.budget.spend(50 + len(definition.definitions))
        handlers = self.handlers
        for d in definition.definitions:
            handlers[type(d)](self, scope, d)
        if scope.unused and self.strict:
            raise DecodeError(f"value {min(scope.unused)} is not used", definition.offset)
        self.depth -= 1

    def declarations(
        self, kind: Literal["component type", "instance type"], parent: Scope, ds: tuple[s.Definition, ...]
    ) -> Scope:
        scope = Scope(kind, parent)
        self.budget.spend(20 + len(ds))
        for d in ds:
            match d:
                case s.TypeDef(offset, s.ResourceDef()):
                    raise DecodeError("a resource can only be defined in a component", offset)
                case s.AliasExport(offset, sort) if sort not in ("type", "instance"):
                    raise DecodeError(f"a {sort} cannot be aliased in a type", offset)
                case s.AliasOuter(offset, sort) if sort not in ("type", "core type"):
                    raise DecodeError(f"a {sort} cannot be aliased in a type", offset)
                case s.Export(offset, name, None, desc):
                    assert desc is not None
                    self.budget.spend(1)
                    item = self.declared(scope, desc, offset, scope.fresh)
                    self.add_export(scope, name, item, offset)
                case s.Import() if kind == "component type":
                    Evaluator.import_(self, scope, d)
                case s.TypeDef() | s.AliasExport() | s.AliasOuter() | s.CoreTypeDef():
                    self.handlers[type(d)](self, scope, d)
                case _:
                    raise DecodeError(f"{type(d).__name__} cannot stand in a type", d.offset)
        return scope

    # References.

    def at(self, scope: Scope, sort: s.Sort, index: int | None, offset: int) -> Any:
        space = scope.space(sort)
        if index is None or index >= len(space):
            raise DecodeError(f"there is no {sort} {index}", offset)
        return space[index]

    def item(self, scope: Scope, index: s.SortIndex, offset: int) -> Any:
        if index.sort.startswith("core") and index.sort != "core module":
            raise DecodeError(f"a {index.sort} where only items of components can stand", offset)
        if index.sort == "value":
            self.consume(scope, index.index, offset)
        return self.at(scope, index.sort, index.index, offset)

    def consume(self, scope: Scope, index: int, offset: int) -> None:
        self.at(scope, "value", index, offset)
        if index not in scope.unused:
            raise DecodeError(f"value {index} is used twice", offset)
        scope.unused.remove(index)

    def add(self, scope: Scope, sort: s.Sort, item: Any) -> None:
        space = scope.space(sort)
        if sort == "value":
            scope.unused.add(len(space))
        space.append(item)

    def typed(self, scope: Scope, index: int | None, kind: type[Any], what: str, offset: int) -> Any:
        found = self.at(scope, "type", index, offset)
        if not isinstance(found, kind):
            raise DecodeError(f"type {index} is {kind_of(found)}, not {what}", offset)
        return found

    # Imports and exports.

    def declared(self, scope: Scope, desc: s.ExternDesc, offset: int, fresh: list[ResourceType]) -> Item:
        """An item of the type `desc`; the resource types that it brings are added to `fresh`."""
        match desc.sort:
            case "func":
                return Func(self.typed(scope, desc.index, FuncType, "a function type", offset))
            case "type":
                if desc.bound == "sub resource":
                    rt = AbstractResource("")
                    fresh.append(rt)
                    return rt
                t: Type = self.at(scope, "type", desc.index, offset)
                return t
            case "instance":
                it = self.typed(scope, desc.index, InstanceT, "an instance type", offset)
                return self.opened(it, fresh)
            case "component":
                return Component(self.typed(scope, desc.index, ComponentT, "a component type", offset))
            case "core module":
                mt = self.at(scope, "core type", desc.index, offset)
                if not isinstance(mt, ModuleT):
                    raise DecodeError(f"core type {desc.index} is not a module type", offset)
                return Module(mt)
            case "value":
                if desc.bound == "eq":
                    return Value(self.at(scope, "value", desc.index, offset).type)
                assert desc.value is not None
                return Value(self.valtype(scope, desc.value, offset))
        raise DecodeError(f"a {desc.sort} cannot be imported or exported", offset)

    def opened(self, it: InstanceT, fresh: list[ResourceType]) -> Instance:
        """An instance of which nothing is known but its type."""
        self.budget.spend(5 + 5 * len(it.fresh))
        new: dict[int, ResourceType] = {root_of(rt): AbstractResource(rt.name) for rt in it.fresh}
        fresh += new.values()
        if not new:
            return Instance(it.exports, it.depth)
        substitution = Substitution(new, self.facts, self.budget)
        return Instance(substitution.items(it.exports), it.depth)

    def import_(self, scope: Scope, d: s.Import) -> None:
        item = self.declared(scope, d.desc, d.offset, scope.bound)
        self.add_import(scope, d, item)

    def add_import(self, scope: Scope, d: s.Import, item: Item) -> None:
        name = d.name.name
        item = under_name(item, name) if d.desc.sort == "type" else item
        self.check_name(scope.imports, d.name, item, d.offset)
        if self.strict:
            self.check_visible(item, [scope.imports.visible], "import", name, d.offset)
            self.show(item, [scope.imports.visible, scope.exports.visible])
        scope.imports.items[name] = item
        self.add(scope, d.desc.sort, item)

    def export(self, scope: Scope, d: s.Export) -> None:
        assert d.item is not None
        item = self.item(scope, d.item, d.offset)
        if d.desc is not None:
            item = self.ascribed(scope, d.name.name, item, d.desc, d.offset)
        self.add_export(scope, d.name, item, d.offset)
        if isinstance(item, Value):
            scope.unused.discard(len(scope.values) - 1)

    def ascribed(self, scope: Scope, name: str, item: Item, desc: s.ExternDesc, offset: int) -> Item:
        """`item` as something of the type `desc`."""
        variables: list[ResourceType] = []
        expected = self.declared(scope, desc, offset, variables)
        matching = self.matching(variables)
        try:
            matching.match(item, expected)
        except Mismatch as mismatch:
            raise DecodeError(
                f"the export {name!r} is not what it is said to be: {mismatch}", offset
            ) from None
        return self.seen_as(scope, matching, item, expected, variables)

    def seen_as(
        self, scope: Scope, matching: Matching, found: Item, expected: Item, variables: list[ResourceType]
    ) -> Item:
        """What is known of `found` once it was said to be `expected`."""
        scope.fresh += variables
        return expected

    def add_export(self, scope: Scope, name: s.ExternName, item: Item, offset: int) -> None:
        key = name.name
        sort = sort_of(item)
        if sort == "type":
            item = under_name(item, key)
        self.check_name(scope.exports, name, item, offset)
        if self.strict:
            if scope.kind != "instance type":
                visible = [scope.exports.visible]
                self.check_visible(item, visible, "export", key, offset)
            self.show(item, [scope.exports.visible])
        scope.exports.items[key] = item
        self.add(scope, sort, item)

    def check_name(self, side: Side, name: s.ExternName, item: Item, offset: int) -> None:
        """Names are well-formed and unique; those of a resource's functions say what they are."""
        text = name.name
        if text in side.items:
            raise DecodeError(f"the name {text!r} is there twice", offset)
        if not self.strict:
            return
        key = unique_key(text)
        if key is None:
            raise DecodeError(f"{text!r} is no name of an import or export (in kebab case)", offset)
        if key in side.keys:
            raise DecodeError(f"the name {text!r} conflicts with {side.keys[key]!r}", offset)
        side.keys[key] = text
        for attribute, value in name.attributes:
            if attribute == "implements":
                if not isinstance(item, Instance):
                    raise DecodeError(f"{text!r}: only instances can implement an interface", offset)
                if not is_label(text):
                    raise DecodeError(f"{text!r} is no plain name, and cannot be said to implement", offset)
                if not is_interface_name(value):
                    raise DecodeError(f"{text!r} implements {value!r}, which is no interface", offset)
            elif attribute == "versionsuffix":
                versioned = dict(name.attributes).get("implements", text)
                if not takes_suffix(versioned, value):
                    raise DecodeError(f"{value!r} is no rest of the version in {versioned!r}", offset)
        if isinstance(item, ResourceType):
            side.resources[text] = item
        parts = annotated(text)
        if parts is not None:
            problem = misnamed(parts, item, side.resources)
            if problem is not None:
                raise DecodeError(f"{text!r} {problem}", offset)

    # External visibility of types.

    def check_visible(
        self, item: Item, visible: list[dict[int, object]], what: str, name: str, offset: int
    ) -> None:
        if not self.visible(item, visible):
            raise DecodeError(
                f"the {what} {name!r} refers to a type that has no name outside the component", offset
            )

    def visible(self, item: Item, scopes: list[dict[int, object]]) -> bool:
        """Whether all types that `item` refers to have a name in one of `scopes`."""
        self.budget.spend(1)
        match item:
            case Func(ft) | (FuncType() as ft):
                ts = (*ft.param_types(), *(() if ft.result is None else (ft.result,)))
                return all(self.visible_type(t, scopes) for t in ts)
            case Value(t):
                return self.visible_type(t, scopes)
            case Instance(exports) | InstanceT(exports):
                inner: dict[int, object] = {}
                both = [*scopes, inner]
                for each in exports.values():
                    if not self.visible(each, both):
                        return False
                    self.show(each, [inner])
                return True
            case ValType():
                if isinstance(item, NAMED):
                    return all(self.visible_type(t, scopes) for t in children(item))
                return self.visible_type(item, scopes)
        return True

    def visible_type(self, t: ValType, scopes: list[dict[int, object]]) -> bool:
        self.budget.spend(1)
        if isinstance(t, NAMED):
            return any(id(t) in names for names in scopes)
        if isinstance(t, OwnType | BorrowType):
            return any(id(t.rt) in names for names in scopes)
        return all(self.visible_type(u, scopes) for u in children(t))

    def show(self, item: Item, scopes: list[dict[int, object]]) -> None:
        """What is imported or exported as `item` gives its types a name."""
        match item:
            case ValType() | ResourceType():
                for names in scopes:
                    names[id(item)] = item
            case Instance(exports):
                self.budget.spend(len(exports))
                for each in exports.values():
                    self.show(each, scopes)

    # Instances.

    def nested(self, scope: Scope, d: s.ComponentDef) -> None:
        scope.components.append(Component(self.evaluate(d, scope)))

    def instantiate(self, scope: Scope, d: s.Instantiate) -> None:
        component: Component = self.at(scope, "component", d.component, d.offset)
        self.budget.spend(len(d.args))
        arguments: dict[str, Item] = {}
        for name, index in d.args:
            if name in arguments:
                raise DecodeError(f"{name!r} is given twice", d.offset)
            arguments[name] = self.item(scope, index, d.offset)
        scope.instances.append(self.instance(scope, component, arguments, d.offset))

    def instance(
        self, scope: Scope, component: Component, arguments: Mapping[str, Item], offset: int
    ) -> Instance:
        """An instance of `component`, known by its type."""
        ct = self.component_type(component)
        matching = self.matching(ct.bound)
        substitution = Renaming(matching.bound, self.facts, self.budget)
        for name, expected in ct.imports.items():
            if name not in arguments:
                raise DecodeError(f"no argument is given for the import {name!r}", offset)
            try:
                matching.match(arguments[name], expected)
                substitution.identify(expected, arguments[name])
            except Mismatch as mismatch:
                raise DecodeError(f"the argument {name!r}: {mismatch}", offset) from None
        self.budget.spend(20 + 5 * len(ct.fresh))
        for rt in ct.fresh:
            new = AbstractResource(rt.name)
            scope.fresh.append(new)
            matching.bound[root_of(rt)] = new
        return instance_of(substitution.items(ct.exports))

    def matching(self, variables: Iterable[ResourceType]) -> Matching:
        return Matching(variables, self.facts, self.budget, self.component_type)

    def inline_exports(self, scope: Scope, d: s.InlineExports) -> None:
        side = Side()
        self.budget.spend(len(d.exports))
        for name, index in d.exports:
            item = self.item(scope, index, d.offset)
            self.check_name(side, name, item, d.offset)
            side.items[name.name] = item
            side.resources.clear()  # names of resources count where they are declared, or exported
        scope.instances.append(instance_of(side.items))

    def alias_export(self, scope: Scope, d: s.AliasExport) -> None:
        instance: Instance = self.at(scope, "instance", d.instance, d.offset)
        item = instance.exports.get(d.name)
        if item is None or sort_of(item) != d.sort:
            raise DecodeError(f"instance {d.instance} exports no {d.sort} {d.name!r}", d.offset)
        self.add(scope, d.sort, item)

    def alias_outer(self, scope: Scope, d: s.AliasOuter) -> None:
        if d.sort not in ("type", "component", "core module", "core type"):
            raise DecodeError(f"a {d.sort} cannot be aliased from outside", d.offset)
        target, crossed = scope, False
        for _ in range(d.count):
            crossed = crossed or target.kind == "component"
            if target.parent is None:
                raise DecodeError(f"there are no {d.count} scopes around this one", d.offset)
            target = target.parent
        item = self.at(target, d.sort, d.index, d.offset)
        if crossed and self.strict and d.sort == "type" and free_resources(item, self.facts, self.budget):
            raise DecodeError(
                f"type {d.index} refers to resources, and cannot be aliased from inside", d.offset
            )
        self.add(scope, d.sort, item)

    # Types.

    def type_definition(self, scope: Scope, d: s.TypeDef) -> None:
        scope.types.append(self.type(scope, d.what, d.offset))

    def type(self, scope: Scope, what: s.DefType, offset: int) -> Type:
        match what:
            case s.FuncDef():
                return self.func_type(scope, what, offset)
            case s.InstanceTypeDef(ds):
                inner = self.declarations("instance type", scope, ds)
                exports = inner.exports.items
                return InstanceT(exports, tuple(inner.fresh), deeper(exports.values()))
            case s.ComponentTypeDef(ds):
                inner = self.declarations("component type", scope, ds)
                imports, exports = inner.imports.items, inner.exports.items
                depth = deeper(imports.values(), exports.values())
                return ComponentT(imports, exports, tuple(inner.bound), tuple(inner.fresh), depth)
            case s.ResourceDef():
                return self.resource(scope, what, offset)
        t = bounded(self.value_type(scope, what, offset))
        if self.facts.size64(t)[0] >= MAX_VALUE_SIZE:
            raise DecodeError("values of this type exceed the maximum byte size", offset)
        return t

    def func_type(self, scope: Scope, what: s.FuncDef, offset: int) -> FuncType:
        self.labels([label for label, _ in what.params], "function", offset, 0)
        params = tuple((label, self.valtype(scope, t, offset)) for label, t in what.params)
        result = self.optional(scope, what.result, offset)
        if result is not None and result.borrows:
            raise DecodeError("the result of a function cannot contain a borrow", offset)
        ft = FuncType(params, result, what.async_)
        self.budget.spend(weight_of(ft))
        return ft

    def resource(self, scope: Scope, what: s.ResourceDef, offset: int) -> ResourceType:
        self.destructor(scope, what, offset)
        rt = AbstractResource("")
        scope.local[root_of(rt)] = rt
        scope.fresh.append(rt)
        return rt

    def destructor(self, scope: Scope, what: s.ResourceDef, offset: int) -> CoreItem | None:
        if what.rep == "l":
            raise UnsupportedError("a resource is represented by an i64", "memory64")
        if what.rep != "i":
            raise DecodeError("a resource is represented by an i32", offset)
        if what.dtor is None:
            return None
        dtor: CoreItem = self.at(scope, "core func", what.dtor, offset)
        if dtor.type != DESTRUCTOR:
            raise DecodeError("the core type of a destructor is (i32) -> ()", offset)
        return dtor

    def value_type(self, scope: Scope, what: s.DefType, offset: int) -> ValType:
        match what:
            case s.PrimitiveDef(name):
                return PRIMITIVES[name]
            case s.RecordDef(fields):
                self.labels([label for label, _ in fields], "record", offset)
                return RecordType(tuple(FieldType(n, self.valtype(scope, t, offset)) for n, t in fields))
            case s.VariantDef(cases):
                self.labels([label for label, _ in cases], "variant", offset)
                return VariantType(tuple(CaseType(n, self.optional(scope, t, offset)) for n, t in cases))
            case s.ListDef(t, length):
                if length == 0:
                    raise DecodeError("a list of no elements", offset)
                return ListType(self.valtype(scope, t, offset), length)
            case s.MapDef(k, v):
                key = self.valtype(scope, k, offset)
                if not isinstance(key, PrimValType) or isinstance(key, NO_KEYS):
                    raise DecodeError(f"{brief(key)} cannot be the key of a map", offset)
                return MapType(TupleType((key, self.valtype(scope, v, offset))))
            case s.TupleDef(ts):
                if not ts:
                    raise DecodeError("a tuple of nothing", offset)
                self.budget.spend(len(ts))
                return TupleType(tuple(self.valtype(scope, t, offset) for t in ts))
            case s.FlagsDef(labels):
                self.labels(labels, "flags", offset)
                if len(labels) > 32:
                    raise DecodeError("more than 32 flags", offset)
                return FlagsType(labels)
            case s.EnumDef(labels):
                self.labels(labels, "enum", offset)
                return EnumType(labels)
            case s.OptionDef(t):
                return OptionType(self.valtype(scope, t, offset))
            case s.ResultDef(ok, err):
                return ResultType(self.optional(scope, ok, offset), self.optional(scope, err, offset))
            case s.OwnDef(index):
                return OwnType(self.typed(scope, index, ResourceType, "a resource type", offset))
            case s.BorrowDef(index):
                return BorrowType(self.typed(scope, index, ResourceType, "a resource type", offset))
            case s.StreamDef(t) | s.FutureDef(t):
                element = self.optional(scope, t, offset)
                if element is not None and element.borrows:
                    raise DecodeError("a stream or future cannot contain a borrow", offset)
                if isinstance(what, s.FutureDef):
                    return FutureType(element)
                if isinstance(element, CharType):
                    raise DecodeError("stream<char> is not valid", offset)
                return StreamType(element)
        raise AssertionError(what)

    def labels(self, labels: Sequence[str], what: str, offset: int, least: int = 1) -> None:
        self.budget.spend(len(labels))
        seen = set()
        for label in labels:
            if not is_label(label):  # the name of a Python attribute later on
                raise DecodeError(f"{label!r} in a {what} is not in kebab case", offset)
            seen.add(label.lower())
        if len(labels) < least:
            raise DecodeError(f"a {what} of nothing", offset)
        if len(seen) < len(labels):
            raise DecodeError(f"a label of a {what} is there twice", offset)

    def valtype(self, scope: Scope, t: s.ValTypeRef, offset: int) -> ValType:
        if isinstance(t, str):
            return PRIMITIVES[t]
        found: ValType = self.typed(scope, t, ValType, "a value type", offset)
        return found

    def optional(self, scope: Scope, t: s.ValTypeRef | None, offset: int) -> ValType | None:
        return None if t is None else self.valtype(scope, t, offset)

    # Core modules and instances.

    def core_module(self, scope: Scope, d: s.CoreModuleDef) -> None:
        scope.core_modules.append(
            Module(self.module_type_of(d.module, d.offset), PlanModule(d.code, d.module))
        )

    def module_type_of(self, module: CoreModule, offset: int) -> ModuleT:
        self.budget.spend(len(module.imports) + len(module.exports))
        imports: dict[tuple[str, str], CoreExtern] = {}
        for item in module.imports:
            if (item.module, item.name) in imports and self.strict:
                raise DecodeError(f"the core import {item.module}::{item.name} is there twice", offset)
            imports[item.module, item.name] = item.kind, item.type or item.extern
        return ModuleT(imports, {e.name: (e.kind, e.type or e.extern) for e in module.exports})

    def core_type(self, scope: Scope, d: s.CoreTypeDef) -> None:
        what = d.what
        if isinstance(what, s.ModuleType):
            scope.core_types.append(self.module_type(scope, what, d.offset))
        else:
            scope.core_types += what

    def module_type(self, scope: Scope, what: s.ModuleType, offset: int) -> ModuleT:
        def outer(t: Any) -> Any:
            if not isinstance(t, s.OuterCoreType):
                return t
            target: Scope | None = scope
            for _ in range(t.count - 1):
                if target is None:
                    break
                target = target.parent
            if target is None or t.count == 0:
                raise DecodeError(f"there are no {t.count} scopes around this one", t.offset)
            return self.at(target, "core type", t.index, t.offset)

        self.budget.spend(len(what.types) + len(what.imports) + len(what.exports))
        for t in what.types:
            outer(t)
        imports: dict[tuple[str, str], CoreExtern] = {}
        for item in what.imports:
            if (item.module, item.name) in imports:
                raise DecodeError(f"the core import {item.module}::{item.name} is there twice", offset)
            imports[item.module, item.name] = item.kind, outer(item.type or item.extern)
        exports: dict[str, CoreExtern] = {}
        for name, (kind, t) in what.exports:
            if name in exports:
                raise DecodeError(f"the core export {name!r} is there twice", offset)
            exports[name] = kind, outer(t)
        return ModuleT(imports, exports)

    def core_instantiate(self, scope: Scope, d: s.CoreInstantiate) -> None:
        module: Module = self.at(scope, "core module", d.module, d.offset)
        self.budget.spend(len(d.args) + len(module.type.imports))
        arguments: dict[str, CoreInstance] = {}
        for name, index in d.args:
            if name in arguments:
                raise DecodeError(f"{name!r} is given twice", d.offset)
            arguments[name] = self.at(scope, "core instance", index, d.offset)
        imports: dict[tuple[str, str], CoreItem] = {}
        for key, extern in module.type.imports.items():
            given = arguments.get(key[0])
            if given is None:
                raise DecodeError(f"no argument is given for the core import {key[0]!r}", d.offset)
            found = given.export(key[1])
            if found is None:
                raise DecodeError(f"the core instance given as {key[0]!r} exports no {key[1]!r}", d.offset)
            if not core_matches((found.kind, found.type), extern):
                raise DecodeError(
                    f"the core import {'::'.join(key)} is given a {found.kind} of another type", d.offset
                )
            imports[key] = found
        scope.core_instances.append(self.core_instance(scope, module, imports))

    def core_instance(
        self, scope: Scope, module: Module, imports: Mapping[tuple[str, str], CoreItem]
    ) -> CoreInstance:
        exports = module.type.exports
        return CoreInstance(lambda name: CoreItem(*exports[name]) if name in exports else None)

    def core_inline_exports(self, scope: Scope, d: s.CoreInlineExports) -> None:
        exports: dict[str, CoreItem] = {}
        self.budget.spend(len(d.exports))
        for name, index in d.exports:
            if name in exports:
                raise DecodeError(f"the core export {name!r} is there twice", d.offset)
            item = self.at(scope, index.sort, index.index, d.offset)
            if not isinstance(item, CoreItem):
                raise DecodeError(f"a {index.sort} cannot be exported here", d.offset)
            exports[name] = item
        scope.core_instances.append(CoreInstance(exports.get))

    def alias_core_export(self, scope: Scope, d: s.AliasCoreExport) -> None:
        instance: CoreInstance = self.at(scope, "core instance", d.instance, d.offset)
        item = instance.export(d.name)
        if item is None or f"core {item.kind}" != d.sort:
            raise DecodeError(f"core instance {d.instance} exports no {d.sort} {d.name!r}", d.offset)
        scope.space(d.sort).append(item)

    # Canonical definitions.

    def options(
        self,
        scope: Scope,
        options: s.CanonOptions,
        needs: Lifting | Lowering | Returning,
        results: str | None,
        offset: int,
    ) -> Options:
        """Checks canonical options. `results` are the core results that post-return takes."""
        if options.others:
            raise UnsupportedError(f"the canonical option {options.others[0]}", options.others[0])
        memory = realloc = post_return = callback = None
        if options.memory is not None:
            memory = self.at(scope, "core memory", options.memory, offset)
            if isinstance(memory.type, MemoryType):  # a subtype of (memory 0)
                if memory.type.limits.is64:
                    raise UnsupportedError("values in memories of 64 bits are not supported", "memory64")
                if memory.type.limits.shared or memory.type.limits.page != 16:
                    raise DecodeError("the canonical option memory is one of another type", offset)
        elif needs.memory:
            raise DecodeError("the canonical option memory is required", offset)
        if options.realloc is not None:
            if memory is None:
                raise DecodeError("the canonical option realloc requires memory", offset)
            realloc = self.core_func(scope, options.realloc, REALLOC, "realloc", offset)
        elif needs.realloc:
            raise DecodeError("the canonical option realloc is required", offset)
        if options.post_return is not None:
            if results is None or options.async_:
                raise DecodeError("the canonical option post-return is only for synchronous lifts", offset)
            post_return = self.core_func(
                scope, options.post_return, CoreFuncType(results, ""), "post-return", offset
            )
        if options.callback is not None:
            if not options.async_ or not isinstance(needs, Lifting):
                raise DecodeError("the canonical option callback is only for asynchronous lifts", offset)
            callback = self.core_func(scope, options.callback, CALLBACK, "callback", offset)
        return self.resolved(scope, options, memory, realloc, post_return, callback)

    def core_func(
        self, scope: Scope, index: int, expected: CoreFuncType, option: str, offset: int
    ) -> CoreItem:
        func: CoreItem = self.at(scope, "core func", index, offset)
        if func.type != expected:
            raise DecodeError(f"the canonical option {option} is a core function of another type", offset)
        return func

    def resolved(
        self,
        scope: Scope,
        options: s.CanonOptions,
        memory: CoreItem | None,
        realloc: CoreItem | None,
        post_return: CoreItem | None,
        callback: CoreItem | None,
    ) -> Options:
        return Options(options.encoding)

    def lift(self, scope: Scope, d: s.CanonLift) -> None:
        func: CoreItem = self.at(scope, "core func", d.core_func, d.offset)
        ft: FuncType = self.typed(scope, d.type, FuncType, "a function type", d.offset)
        if d.options.async_ and not ft.async_:
            raise DecodeError("the canonical option async requires an async function type", d.offset)
        self.budget.spend(code_cost(ft))
        needs = Lifting(ft, self.facts, d.options.async_, d.options.callback is not None)
        options = self.options(scope, d.options, needs, needs.core.results, d.offset)
        if func.type != needs.core:
            raise DecodeError(
                f"{brief(ft)} is lifted from a core function of type {core_text(func.type)}, "
                f"and not {core_text(needs.core)}",
                d.offset,
            )
        scope.funcs.append(self.lifted(scope, func, ft, options, d))

    def lifted(self, scope: Scope, func: CoreItem, ft: FuncType, options: Options, d: s.CanonLift) -> Func:
        return Func(ft)

    def lower(self, scope: Scope, d: s.CanonLower) -> None:
        func: Func = self.at(scope, "func", d.func, d.offset)
        if d.options.async_ and not func.type.async_:
            raise DecodeError("the canonical option async requires an async function type", d.offset)
        self.budget.spend(code_cost(func.type))
        needs = Lowering(func.type, self.facts, d.options.async_)
        options = self.options(scope, d.options, needs, None, d.offset)
        scope.core_funcs.append(CoreItem("func", needs.core, self.lowered(scope, func, options, d)))

    def lowered(self, scope: Scope, func: Func, options: Options, d: s.CanonLower) -> CoreDefinition | None:
        return None

    def canon_resource(self, scope: Scope, d: s.CanonResource) -> None:
        rt: ResourceType = self.typed(scope, d.type, ResourceType, "a resource type", d.offset)
        if d.kind != "drop" and not self.is_local(scope, rt):
            raise DecodeError(
                f"resource.{d.kind} of a resource that is not defined here (not local)", d.offset
            )
        t = DESTRUCTOR if d.kind == "drop" else CoreFuncType("i", "i")
        scope.core_funcs.append(CoreItem("func", t, self.resource_builtin(scope, rt, d)))

    def is_local(self, scope: Scope, rt: ResourceType) -> bool:
        return root_of(rt) in scope.local

    def resource_builtin(self, scope: Scope, rt: ResourceType, d: s.CanonResource) -> CoreDefinition | None:
        return None

    def builtin(self, scope: Scope, d: s.CanonBuiltin) -> None:
        scope.core_funcs.append(CoreItem("func", self.builtin_type(scope, d)[0]))

    def builtin_type(
        self, scope: Scope, d: s.CanonBuiltin
    ) -> tuple[CoreFuncType, ValType | None, Options | None]:
        """The core type of a built-in, the type that it is about and its options; all are checked."""
        offset, name = d.offset, d.name
        about: ValType | None = None
        options: Options | None = None
        if name == "task.return":
            t: Any = d.immediates[0]
            about = self.optional(scope, t, offset)
            needs = Returning(about, self.facts)
            assert d.options is not None
            if d.options.realloc is not None or d.options.async_:
                raise DecodeError("task.return takes no realloc and no async", offset)
            return needs.core, about, self.options(scope, d.options, needs, None, offset)
        if name in ("context.get", "context.set"):
            letter, slot = d.immediates
            if letter not in ("i", "l") or not isinstance(slot, int) or slot > 1:
                raise DecodeError(f"{name} of a slot that does not exist", offset)
            if scope.context not in (None, letter):
                raise DecodeError(f"{name} of another type than before", offset)
            scope.context = letter
            core = CoreFuncType("", letter) if name == "context.get" else CoreFuncType(letter, "")
            return core, None, None
        kind = name.partition(".")[0]
        if kind in ("stream", "future"):
            index: Any = d.immediates[0]
            sort = StreamType if kind == "stream" else FutureType
            about = found = self.typed(scope, index, sort, f"a {kind} type", offset)
            if d.options is not None:
                options = self.copy_options(scope, d, found.t)
        elif d.options is not None:  # error-context
            message = Returning(None, self.facts)
            message.memory = True
            message.realloc = name == "error-context.debug-message"
            options = self.options(scope, d.options, message, None, offset)
        elif name in ("waitable-set.wait", "waitable-set.poll"):
            memory: Any = d.immediates[1]
            self.at(scope, "core memory", memory, offset)
        elif name in ("thread.new-indirect", "thread.spawn-ref", "thread.spawn-indirect"):
            indices: Any = d.immediates[-2:] if name != "thread.spawn-ref" else d.immediates[-1:]
            for sort_, i in zip(("core type", "core table"), indices, strict=False):
                self.at(scope, sort_, i, offset)  # type: ignore[arg-type]
        if name not in BUILTINS:
            raise UnsupportedError(f"the built-in {name}", name)
        return CoreFuncType(*BUILTINS[name]), about, options

    def copy_options(self, scope: Scope, d: s.CanonBuiltin, element: ValType | None) -> Options:
        assert d.options is not None
        needs = Returning(None, self.facts)
        needs.memory = element is not None
        needs.realloc = d.name.endswith("read") and self.facts.has_pointers(element)
        return self.options(scope, d.options, needs, None, d.offset)

    # Values.

    def start(self, scope: Scope, d: s.Start) -> None:
        func: Func = self.at(scope, "func", d.func, d.offset)
        if len(d.args) != len(func.type.params):
            raise DecodeError("start with another number of arguments than its function has", d.offset)
        for index, t in zip(d.args, func.type.param_types(), strict=True):
            self.consume(scope, index, d.offset)
            if scope.values[index].type != t:
                raise DecodeError(f"value {index} is no {brief(t)}", d.offset)
        results = () if func.type.result is None else (func.type.result,)
        if d.results != len(results):
            raise DecodeError("start with another number of results than its function has", d.offset)
        for t in results:
            self.add(scope, "value", Value(t))

    def value(self, scope: Scope, d: s.ValueDef) -> None:
        self.add(scope, "value", Value(self.valtype(scope, d.type, d.offset)))

    handlers: Mapping[Any, Callable[[Any, Scope, Any], None]]


class Renaming(Substitution):
    """Puts arguments' types in the places of those imported, which are equal but have other names outside."""

    def identify(self, imported: Item, argument: Item) -> None:
        """The types of an import are those of the argument that meets it."""
        match imported, argument:
            case Instance(exports), Instance(found):
                self.budget.spend(1 + len(exports))
                for name, each in exports.items():
                    self.identify(each, found[name])
            case (ValType(), ValType()) | (ResourceType(), ResourceType()):
                self._done[id(imported)] = imported, argument

    def val(self, t: ValType) -> ValType:
        if isinstance(t, PrimValType):
            return t
        return self._once(t, self._val)  # type: ignore[no-any-return]

    def _val(self, t: ValType) -> ValType:
        if isinstance(t, EnumType | FlagsType):
            return t
        new = super()._val(t)
        if isinstance(t, OwnType | BorrowType):
            return new if new.rt is not t.rt else t  # type: ignore[attr-defined]
        # a type in which nothing is another stays who it is
        same = all(a is b for a, b in zip(children(t), children(new), strict=True))
        return t if same else new


Evaluator.handlers = {
    s.CoreModuleDef: lambda e, scope, d: e.core_module(scope, d),
    s.CoreInstantiate: lambda e, scope, d: e.core_instantiate(scope, d),
    s.CoreInlineExports: lambda e, scope, d: e.core_inline_exports(scope, d),
    s.CoreTypeDef: lambda e, scope, d: e.core_type(scope, d),
    s.ComponentDef: lambda e, scope, d: e.nested(scope, d),
    s.Instantiate: lambda e, scope, d: e.instantiate(scope, d),
    s.InlineExports: lambda e, scope, d: e.inline_exports(scope, d),
    s.AliasExport: lambda e, scope, d: e.alias_export(scope, d),
    s.AliasCoreExport: lambda e, scope, d: e.alias_core_export(scope, d),
    s.AliasOuter: lambda e, scope, d: e.alias_outer(scope, d),
    s.TypeDef: lambda e, scope, d: e.type_definition(scope, d),
    s.CanonLift: lambda e, scope, d: e.lift(scope, d),
    s.CanonLower: lambda e, scope, d: e.lower(scope, d),
    s.CanonResource: lambda e, scope, d: e.canon_resource(scope, d),
    s.CanonBuiltin: lambda e, scope, d: e.builtin(scope, d),
    s.Start: lambda e, scope, d: e.start(scope, d),
    s.Import: lambda e, scope, d: e.import_(scope, d),
    s.Export: lambda e, scope, d: e.export(scope, d),
    s.ValueDef: lambda e, scope, d: e.value(scope, d),
}


def code_cost(ft: FuncType) -> int:
    """What a function is worth that code is to be generated for: each node of its types takes some lines."""
    return 10 * (1 + weight_of(ft))


def core_text(t: CoreFuncType) -> str:
    names = {"i": "i32", "l": "i64", "f": "f32", "d": "f64", "v": "v128", "r": "ref"}
    params, results = (" ".join(names[letter] for letter in side) for side in t)
    return f"({params}) -> ({results})"


def misnamed(parts: tuple[str, str, str], item: Item, resources: Mapping[str, ResourceType]) -> str | None:
    """What is wrong about an item with an annotated name, if anything is (Explainer.md, annotated names)."""
    kind, resource, _ = parts
    if not isinstance(item, Func):
        return "is not a function"
    ft = item.type
    rt = resources.get(resource)
    handle: ValType | None = None
    if kind == "constructor":
        handle = ft.result
        if isinstance(handle, ResultType):
            handle = handle.ok
        if not isinstance(handle, OwnType):
            return "has to return the resource, or a result of it"
    elif kind == "method":
        if not ft.params or ft.params[0][0] != "self":
            return "has to take a first parameter self"
        handle = ft.params[0][1]
        if not isinstance(handle, BorrowType):
            return "has to borrow its self"
    if rt is None:
        return f"belongs to a resource {resource!r} that has no such name here"
    if isinstance(handle, OwnType | BorrowType) and handle.rt != rt:
        return f"is about another resource than {resource!r}"
    return None
