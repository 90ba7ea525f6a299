# Whether an item is what it is said to be (Explainer.md, Type Checking; subtyping of
# instances, components and core modules).
#
# Rule 1: types of values and functions have to be equal, names of parameters included;
# an instance may export more than its type says, a component may import less.
# Rule 2: resource types that the expected type binds are found on the way: `bound`
# holds them afterwards.

from __future__ import annotations

from collections.abc import Iterable, Mapping

from .core import GlobalType, Limits, MemoryType, TableType
from .items import (
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
    Value,
    kind_of,
    root_of,
    sort_of,
)
from .layout import CoreFuncType
from .types import FuncType, ResourceType, ValType, brief


def same_values(a: ValType | None, b: ValType | None, budget: Budget) -> bool:
    if a is b:
        return True
    if a is None or b is None or a.weight != b.weight or a.depth != b.depth:
        return False
    budget.spend(a.weight)
    return a == b


def same_functions(a: FuncType, b: FuncType, budget: Budget, names: bool = True) -> bool:
    """Whether they agree; what parameters are called matters unless `names` is False."""
    if a.async_ != b.async_ or len(a.params) != len(b.params):
        return False
    if names and any(p[0] != q[0] for p, q in zip(a.params, b.params, strict=True)):
        return False
    return same_values(a.result, b.result, budget) and all(
        same_values(p[1], q[1], budget) for p, q in zip(a.params, b.params, strict=True)
    )


class Matching:
    """One comparison: expected items may refer to `variables`, which are bound by what is found.

    `component_type` gives the type of a component whose type is not known yet.
    """

    def __init__(
        self,
        variables: Iterable[ResourceType],
        facts: Facts,
        budget: Budget,
        component_type: object,
    ) -> None:
        self.facts = facts
        self.budget = budget
        self.component_type = component_type
        self.variables = {root_of(rt) for rt in variables}
        self.bound: dict[int, ResourceType] = {}
        self.substitution = Substitution(self.bound, facts, budget)

    def inner(self, variables: Iterable[ResourceType]) -> Matching:
        return Matching(variables, self.facts, self.budget, self.component_type)

    def match(self, found: Item, expected: Item) -> None:
        """Raises Mismatch."""
        self.budget.spend(1)
        match expected, found:
            case ResourceType(), ResourceType():
                root = root_of(expected)
                if root in self.variables and root not in self.bound:
                    self.bound[root] = found
                elif self.bound.get(root, expected) != found:
                    raise Mismatch(f"the resource type {found} is not {expected}")
            case ValType(), ValType():
                if not same_values(found, self.substitution.val(expected), self.budget):
                    raise Mismatch(f"{brief(found)} found, {brief(expected)} expected")
            case FuncType(), FuncType():
                self.functions(found, expected)
            case Func(), Func():
                self.functions(found.type, expected.type)
            case Instance(), Instance():
                self.instances(found.exports, expected.exports)
            case InstanceT(), InstanceT():
                self.both_ways(found, expected)
            case ComponentT(), ComponentT():
                self.components(found, self.substitution.item(expected))
                self.components(self.substitution.item(expected), found)
            case Component(), Component():
                assert isinstance(expected.type, ComponentT)
                self.components(self.type_of(found), self.substitution.item(expected.type))
            case Module(), Module():
                modules(found.type, expected.type)
            case Value(), Value():
                self.match(found.type, expected.type)
            case _:
                if sort_of(found) == sort_of(expected):
                    raise Mismatch(f"{kind_of(found)} found, {kind_of(expected)} expected")
                raise Mismatch(f"a {sort_of(found)} found, a {sort_of(expected)} expected")

    def type_of(self, component: Component) -> ComponentT:
        if component.type is not None:
            return component.type
        found = self.component_type(component)  # type: ignore[operator]
        assert isinstance(found, ComponentT)
        return found

    def functions(self, found: FuncType, expected: FuncType) -> None:
        expected = self.substitution.func(expected)
        if not same_functions(found, expected, self.budget):
            raise Mismatch(f"{brief(found)} found, {brief(expected)} expected")

    def instances(self, found: Mapping[str, Item], expected: Mapping[str, Item]) -> None:
        for name, item in expected.items():
            if name not in found:
                raise Mismatch(f"the export {name!r} is missing")
            try:
                self.match(found[name], item)
            except Mismatch as mismatch:
                raise Mismatch(f"export {name!r}: {mismatch}") from None

    def both_ways(self, a: InstanceT, b: InstanceT) -> None:
        b = self.substitution.item(b)
        for found, expected in ((a, b), (b, a)):
            self.inner(expected.fresh).instances(found.exports, expected.exports)

    def components(self, found: ComponentT, expected: ComponentT) -> None:
        """Imports the other way round: what is expected has to bring all that is imported."""
        inner = self.inner(found.bound)
        for name, item in found.imports.items():
            if name not in expected.imports:
                raise Mismatch(f"nothing is said of its import {name!r}")
            try:
                inner.match(expected.imports[name], item)
            except Mismatch as mismatch:
                raise Mismatch(f"import {name!r}: {mismatch}") from None
        exports = inner.substitution.items(found.exports)
        self.inner(expected.fresh).instances(exports, expected.exports)

    def view(self, found: Item, expected: Item) -> Item:
        """What of `found`, which matches, is expected, in the words of the latter."""
        match expected, found:
            case Func(), Func():
                return Func(self.substitution.func(expected.type), found.target)
            case Instance(), Instance():
                exports = {name: self.view(found.exports[name], i) for name, i in expected.exports.items()}
                return Instance(exports, expected.depth)
            case Component(), Component():
                t = self.substitution.item(expected.type)
                return Component(t, found.definition, found.scope)
            case Module(), Module():
                return Module(expected.type, found.plan)
            case ResourceType(), ResourceType():
                return found
        item: Item = self.substitution.item(expected)
        return item


def modules(found: ModuleT, expected: ModuleT) -> None:
    for key, (kind, t) in found.imports.items():
        if key not in expected.imports:
            raise Mismatch(f"nothing is said of the core import {'::'.join(key)!r}")
        if not core_matches(expected.imports[key], (kind, t)):
            raise Mismatch(f"the core import {'::'.join(key)!r} has another type")
    for name, extern in expected.exports.items():
        if name not in found.exports:
            raise Mismatch(f"the core export {name!r} is missing")
        if not core_matches(found.exports[name], extern):
            raise Mismatch(f"the core export {name!r} has another type")


def core_matches(found: CoreExtern, expected: CoreExtern) -> bool:
    """Whether a core item may stand where another is expected, as far as their types are known."""
    kind, t = expected
    if found[0] != kind:
        return False
    match t, found[1]:
        case CoreFuncType(), CoreFuncType() as other:
            return t == other
        case MemoryType(limits), MemoryType(other):
            return within(other, limits)
        case TableType(element, limits), TableType(other_element, other):
            return same_or_unknown(element, other_element) and within(other, limits)
        case GlobalType(content, mutable), GlobalType(other_content, other_mutable):
            if mutable != other_mutable:
                return False
            # a reference that does not change may be one of a subtype: left to the engine
            references = not mutable and is_reference(content) and is_reference(other_content)
            return references or same_or_unknown(content, other_content)
    return True


def within(found: Limits, expected: Limits) -> bool:
    """Import matching of limits (core spec 4.5.3)."""
    if (found.shared, found.is64, found.page) != (expected.shared, expected.is64, expected.page):
        return False
    if found.minimum < expected.minimum:
        return False
    return expected.maximum is None or (found.maximum is not None and found.maximum <= expected.maximum)


def same_or_unknown(a: bytes | None, b: bytes | None) -> bool:
    return a is None or b is None or a == b


def is_reference(t: bytes | None) -> bool:
    return t is None or not 0x7B <= t[0] <= 0x7F
