# What the indices of a component lead to: functions, instances, components, core
# modules and types, and what substituting resource types makes of them.
#
# Rule 1: an item is the same thing whether it is only a type (a component is being
# validated) or somebody (it is being instantiated): then `target`, `definition` or
# `plan` says who.
# Rule 2: a resource type that is bound by a type (`sub resource`) or defined by a
# component that nobody has instantiated yet is an AbstractResource. Whoever opens the
# type puts other ones in their places (Explainer.md, Type Checking).
# Rule 3: items share parts, so that walking one as a tree may take time exponential
# in the bytes that declared it: whoever walks pays from a Budget for each step.

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ..errors import UnsupportedError
from . import syntax as s
from .layout import align_to, discriminant_size, flags_size
from .plan import HostFunction, Lifted, PlanModule
from .types import (
    BorrowType,
    CaseType,
    EnumType,
    FieldType,
    FlagsType,
    FuncType,
    FutureType,
    ListType,
    OptionType,
    OwnType,
    PrimValType,
    RecordType,
    ResourceType,
    ResultType,
    StreamType,
    StringType,
    TupleType,
    ValType,
    VariantType,
    children,
)

if TYPE_CHECKING:
    from .evaluate import Scope

# Instances in instances, component types in component types, and so on; wit-component needs 4.
MAX_ITEM_DEPTH = 64
# Steps of evaluation for one guest: definitions, exports looked at, nodes of types compared. The largest
# Python guest takes 60,000; a million takes about a second.
MAX_STEPS_OF_EVALUATION = 1_000_000


class Budget:
    """What may be evaluated for one guest."""

    def __init__(self, limit: int = MAX_STEPS_OF_EVALUATION) -> None:
        self.limit = self.left = limit

    def spend(self, count: int) -> None:
        self.left -= count
        if self.left < 0:
            raise UnsupportedError(
                f"more than {self.limit} steps to resolve it, instantiations counted", "large components"
            )


class Mismatch(Exception):
    """An item is not what it is said to be; the text says in what."""


@dataclass(frozen=True, slots=True, eq=False)
class AbstractResource(ResourceType):
    """A resource type of which nothing is known but who it is: `root`.

    Each name that it is imported or exported by is another object with the same root, so that one can
    tell under which of them a type refers to it (Explainer.md, External Visibility of Types).
    """

    root: object = field(default_factory=object)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, AbstractResource) and self.root is other.root

    def __hash__(self) -> int:
        return hash(self.root)

    def alias(self, name: str) -> AbstractResource:
        return AbstractResource(name, root=self.root)


def root_of(rt: ResourceType) -> int:
    """The identity of a resource type, for dictionaries; valid while it lives."""
    return id(rt.root) if isinstance(rt, AbstractResource) else id(rt)


@dataclass(frozen=True, slots=True, eq=False)
class Func:
    """A function: its type, and who it is; None where only its type is known."""

    type: FuncType
    target: HostFunction | Lifted | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Instance:
    """An instance: what it exports, by name."""

    exports: Mapping[str, Item]
    depth: int = 1


@dataclass(frozen=True, slots=True, eq=False)
class InstanceT:
    """An instance type; `fresh` are the resource types that each of its instances has anew."""

    exports: Mapping[str, Item]
    fresh: tuple[ResourceType, ...] = ()
    depth: int = 1


@dataclass(frozen=True, slots=True, eq=False)
class ComponentT:
    """A component type: `bound` are the resource types that its imports bring."""

    imports: Mapping[str, Item]
    exports: Mapping[str, Item]
    bound: tuple[ResourceType, ...] = ()
    fresh: tuple[ResourceType, ...] = ()
    depth: int = 1


@dataclass(frozen=True, slots=True, eq=False)
class Component:
    """A component: its type, where that is known already, and its definitions and where they stand."""

    type: ComponentT | None
    definition: s.ComponentDef | None = None
    scope: Scope | None = None


# (kind, type), the type being that of a function or what core.py says of other kinds; None: not known
CoreExtern = tuple[str, Any]


@dataclass(frozen=True, slots=True, eq=False)
class ModuleT:
    """The type of a core module."""

    imports: Mapping[tuple[str, str], CoreExtern]
    exports: Mapping[str, CoreExtern]


@dataclass(frozen=True, slots=True, eq=False)
class Module:
    """A core module: its type, and what it is; None where only the type is known."""

    type: ModuleT
    plan: PlanModule | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Value:
    type: ValType


Type = ValType | FuncType | ResourceType | InstanceT | ComponentT
Item = Func | Instance | Component | Module | Value | Type


def sort_of(item: Item) -> s.Sort:
    match item:
        case Func():
            return "func"
        case Instance():
            return "instance"
        case Component():
            return "component"
        case Module():
            return "core module"
        case Value():
            return "value"
    return "type"


def kind_of(item: Item) -> str:
    """What an item is, for error texts."""
    match item:
        case FuncType():
            return "a function type"
        case InstanceT():
            return "an instance type"
        case ComponentT():
            return "a component type"
        case ResourceType():
            return "a resource type"
        case ValType():
            return "a value type"
    return f"a {sort_of(item)}"


def depth_of(item: Item) -> int:
    match item:
        case Instance() | InstanceT() | ComponentT():
            return item.depth
        case Component(ComponentT() as t):
            return t.depth
    return 0


def deeper(*sides: Iterable[Item]) -> int:
    """The depth of what holds these items; UnsupportedError where that is too much."""
    depth = 1 + max((depth_of(item) for side in sides for item in side), default=0)
    if depth > MAX_ITEM_DEPTH:
        raise UnsupportedError(f"instances or types nested more than {MAX_ITEM_DEPTH} deep", "deep nesting")
    return depth


def instance_of(exports: Mapping[str, Item]) -> Instance:
    return Instance(exports, deeper(exports.values()))


NAMED = (RecordType, VariantType, EnumType, FlagsType)


class Facts:
    """What is known of value types, each looked at once. They are kept alive by it."""

    def __init__(self) -> None:
        self._resources: dict[int, tuple[ValType, bool]] = {}
        self._sizes: dict[int, tuple[ValType, int, int]] = {}
        self._pointers: dict[int, tuple[ValType, bool]] = {}

    def has_resources(self, t: ValType) -> bool:
        """Whether a handle is somewhere in `t`."""
        known = self._resources.get(id(t))
        if known is None:
            found = isinstance(t, OwnType | BorrowType) or any(self.has_resources(u) for u in children(t))
            known = self._resources[id(t)] = t, found
        return known[1]

    def has_pointers(self, t: ValType | None) -> bool:
        """Whether a value of type `t` has parts elsewhere in memory (strings, lists)."""
        if t is None:
            return False
        known = self._pointers.get(id(t))
        if known is None:
            match t:
                case StringType() | ListType(_, None):
                    found = True
                case StreamType() | FutureType():
                    found = False
                case _:
                    found = any(map(self.has_pointers, children(t)))
            known = self._pointers[id(t)] = t, found
        return known[1]

    def size64(self, t: ValType) -> tuple[int, int]:
        """Size and alignment in a 64-bit memory, which bound value types (Binary.md, max value size)."""
        known = self._sizes.get(id(t))
        if known is None:
            known = self._sizes[id(t)] = t, *self._size64(t)
        return known[1:]

    def _size64(self, t: ValType) -> tuple[int, int]:
        match t:
            case ListType(u, length):
                if length is None:
                    return 16, 8
                size, alignment = self.size64(u)
                return size * length, alignment
            case RecordType(fields):
                return self._record(tuple(f.t for f in fields))
            case TupleType(ts):
                return self._record(ts)
            case VariantType(cases):
                return self._variant(len(cases), tuple(c.t for c in cases))
            case EnumType(labels):
                return self._variant(len(labels), ())
            case OptionType(u):
                return self._variant(2, (u,))
            case ResultType(ok, err):
                return self._variant(2, (ok, err))
            case FlagsType(labels):
                return (flags_size(len(labels)),) * 2
            case _:
                size = SIZES.get(str(t), 4)
                return size, min(size, 8)

    def _record(self, ts: Sequence[ValType]) -> tuple[int, int]:
        end, most = 0, 1
        for size, alignment in map(self.size64, ts):
            end = align_to(end, alignment) + size
            most = max(most, alignment)
        return align_to(end, most), most

    def _variant(self, cases: int, payloads: Sequence[ValType | None]) -> tuple[int, int]:
        sizes = [self.size64(t) for t in payloads if t is not None]
        payload = max((alignment for _, alignment in sizes), default=1)
        most = max(discriminant_size(cases), payload)
        end = align_to(discriminant_size(cases), payload) + max((size for size, _ in sizes), default=0)
        return align_to(end, most), most


SIZES = {"bool": 1, "s8": 1, "u8": 1, "s16": 2, "u16": 2, "s64": 8, "u64": 8, "f64": 8, "string": 16}


class Substitution:
    """Puts resource types in the places of others, in whatever refers to them.

    `mapping` goes from root_of to the new one and may grow between calls, as long as nothing was given
    before that refers to what is added.
    """

    def __init__(self, mapping: dict[int, ResourceType], facts: Facts, budget: Budget) -> None:
        self.mapping = mapping
        self.facts = facts
        self.budget = budget
        self._done: dict[int, tuple[object, Any]] = {}  # by id, with what keeps that valid

    def _once(self, old: Any, make: Any) -> Any:
        known = self._done.get(id(old))
        if known is None:
            self.budget.spend(1)
            known = self._done[id(old)] = old, make(old)
        return known[1]

    def resource(self, rt: ResourceType) -> ResourceType:
        return self._once(rt, self._resource)  # type: ignore[no-any-return]

    def _resource(self, rt: ResourceType) -> ResourceType:
        new = self.mapping.get(root_of(rt))
        if new is None:
            return rt
        return new.alias(rt.name) if isinstance(new, AbstractResource) else new

    def val(self, t: ValType) -> ValType:
        if not self.facts.has_resources(t):
            return t
        return self._once(t, self._val)  # type: ignore[no-any-return]

    def optional(self, t: ValType | None) -> ValType | None:
        return None if t is None else self.val(t)

    def _val(self, t: ValType) -> ValType:
        match t:
            case OwnType(rt):
                return OwnType(self.resource(rt))
            case BorrowType(rt):
                return BorrowType(self.resource(rt))
            case ListType(u, length):
                return type(t)(self.val(u), length)
            case RecordType(fields, name):
                return RecordType(tuple(FieldType(f.label, self.val(f.t)) for f in fields), name)
            case TupleType(ts):
                return TupleType(tuple(map(self.val, ts)))
            case VariantType(cases, name):
                return VariantType(tuple(CaseType(c.label, self.optional(c.t)) for c in cases), name)
            case OptionType(u):
                return OptionType(self.val(u))
            case ResultType(ok, err):
                return ResultType(self.optional(ok), self.optional(err))
            case StreamType(u):
                return StreamType(self.optional(u))
            case FutureType(u):
                return FutureType(self.optional(u))
        raise AssertionError(t)

    def func(self, ft: FuncType) -> FuncType:
        return self._once(ft, self._func)  # type: ignore[no-any-return]

    def _func(self, ft: FuncType) -> FuncType:
        params = tuple((name, self.val(t)) for name, t in ft.params)
        result = self.optional(ft.result)
        if result is ft.result and all(a[1] is b[1] for a, b in zip(params, ft.params, strict=True)):
            return ft
        return FuncType(params, result, ft.async_)

    def item(self, item: Any) -> Any:
        match item:
            case ValType():
                return self.val(item)
            case ResourceType():
                return self.resource(item)
            case FuncType():
                return self.func(item)
        return self._once(item, self._item)

    def _item(self, item: Any) -> Any:
        match item:
            case Func(ft, target):
                return Func(self.func(ft), target)
            case Instance(exports, depth):
                self.budget.spend(3 + len(exports))
                return Instance(self.items(exports), depth)
            case InstanceT(exports, fresh, depth):
                return InstanceT(self.items(exports), fresh, depth)
            case ComponentT(imports, exports, bound, fresh, depth):
                return ComponentT(self.items(imports), self.items(exports), bound, fresh, depth)
            case Component(t, definition, scope):
                return item if t is None else Component(self.item(t), definition, scope)
            case Value(t):
                return Value(self.val(t))
        return item

    def items(self, items: Mapping[str, Item]) -> dict[str, Item]:
        return {name: self.item(item) for name, item in items.items()}


def under_name(item: Any, name: str) -> Any:
    """A type as it is known under the name that it is imported or exported by."""
    match item:
        case AbstractResource():
            return item.alias(name)
        case ValType() if not isinstance(item, PrimValType):
            item = copy(item)  # what is meant by one name may be seen, by another one not
            if isinstance(item, NAMED) and item.name is None:
                object.__setattr__(item, "name", name)
        case ResourceType(name=""):
            object.__setattr__(item, "name", name)
    return item


def free_resources(item: Item, facts: Facts, budget: Budget, bound: frozenset[int] = frozenset()) -> bool:
    """Whether `item` refers to a resource type that it does not bind itself."""
    budget.spend(1)
    match item:
        case ResourceType():
            return root_of(item) not in bound
        case ValType():
            return facts.has_resources(item) and _free(item, facts, budget, bound)
        case FuncType() | Func(FuncType()):
            ft = item if isinstance(item, FuncType) else item.type
            ts = (*ft.param_types(), *(() if ft.result is None else (ft.result,)))
            return any(free_resources(t, facts, budget, bound) for t in ts)
        case Instance(exports):
            return any(free_resources(i, facts, budget, bound) for i in exports.values())
        case InstanceT(exports, fresh):
            bound |= {root_of(rt) for rt in fresh}
            return any(free_resources(i, facts, budget, bound) for i in exports.values())
        case ComponentT(imports, exports, by_imports, fresh):
            bound |= {root_of(rt) for rt in (*by_imports, *fresh)}
            return any(
                free_resources(i, facts, budget, bound) for i in (*imports.values(), *exports.values())
            )
        case Component(ComponentT() as t):
            return free_resources(t, facts, budget, bound)
        case Value(t):
            return free_resources(t, facts, budget, bound)
    return False


def _free(t: ValType, facts: Facts, budget: Budget, bound: frozenset[int]) -> bool:
    if isinstance(t, OwnType | BorrowType):
        return root_of(t.rt) not in bound
    budget.spend(1)
    return any(_free(u, facts, budget, bound) for u in children(t) if facts.has_resources(u))
