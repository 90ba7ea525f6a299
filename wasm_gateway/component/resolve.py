# Definitions of a component -> its link plan: every index, alias, nested component
# and instance resolved, once.
#
# Rule 1: a component is evaluated as it would be instantiated (evaluate.py), its imports
# met by the host, or by exports of other components. What comes out of the core parts
# is not run but written down (plan.py).
# Rule 2: types of imports are matched with what meets them: resource types that they
# bring become the host's own, all the rest has to be equal.
# Rule 3: foreign definitions raise DecodeError (invalid, with the offset), LinkError
# (the host, or another component, does not offer what is imported) or
# UnsupportedError, and take bounded time.

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from ..errors import DecodeError, LinkError, UnsupportedError
from . import syntax as s
from .core import core_module
from .evaluate import CoreInstance, CoreItem, Evaluator, Scope, code_cost
from .items import (
    Budget,
    Component,
    Func,
    Instance,
    InstanceT,
    Item,
    Mismatch,
    Module,
    instance_of,
    root_of,
    sort_of,
)
from .layout import CoreFuncType
from .names import canonical_name
from .plan import (
    Builtin,
    CoreDefinition,
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
from .plan import CoreItem as CoreExport
from .rewrite import forwarding
from .subtype import Matching, same_functions, same_values
from .types import FuncType, InterfaceType, ResourceType, ValType, World, brief, describe_mismatch

# What a component of today has: 14 core modules (Python).
MAX_STEPS = 64
MAX_PARTS = 256

Offered = Callable[[str], "InterfaceType | FuncType | None"]
# What meets an import of a component instance: (name, what it is expected to be, the resource types that
# this binds, offset) -> item
Supply = Callable[[str, Item, list[ResourceType], int], Item]
Provided = Mapping[str, tuple[s.ComponentDef, "str | None"]]


@dataclass(frozen=True, slots=True)
class Chain:
    """Components that stand before another one, outermost first, each with a name for errors.

    Each imports and exports one of `interfaces` (canonical names): it is handed the export of the next one.
    Each is instantiated as often as it stands here. In Plan.owners they come behind those of `provided`.
    """

    components: Sequence[tuple[str, s.ComponentDef]] = ()
    interfaces: frozenset[str] = frozenset()


NO_CHAIN = Chain()


@contextmanager
def stack_is_deep_enough() -> Iterator[None]:
    """What may be nested takes most of Python's 1,000 frames; a site may have used up some before."""
    try:
        yield
    except RecursionError:
        raise UnsupportedError(
            "nested more deeply than the stack that is left here allows", "deep nesting"
        ) from None


def validate(component: s.ComponentDef) -> None:
    """Check everything that the specification asks of a component (Binary.md, Explainer.md).

    Whatever is valid passes, asynchronous functions and values included, unless it is too large
    (UnsupportedError). Core modules' code is left to the engine. Raises DecodeError.
    """
    with stack_is_deep_enough():
        Evaluator().evaluate(component, None)


def world_of(component: s.ComponentDef) -> World:
    """What a component imports and exports, with nothing to meet its imports.

    Items other than interfaces and functions are left out. Raises DecodeError, UnsupportedError.
    """
    evaluator = Evaluator()
    with stack_is_deep_enough():
        type_ = evaluator.evaluate(component, None)
    imports, exports = (_described(items, evaluator.budget) for items in (type_.imports, type_.exports))
    return World("root", imports, exports)


def _described(items: Mapping[str, Item], budget: Budget) -> dict[str, InterfaceType | FuncType]:
    found: dict[str, InterfaceType | FuncType] = {}
    for name, item in items.items():
        if isinstance(item, Instance | InstanceT):
            budget.spend(len(item.exports))
            found[name] = interface_of(name, Instance(item.exports))
        elif isinstance(item, Func):
            found[name] = item.type
    return found


def resolve(
    component: s.ComponentDef,
    offered: Offered,
    provided: Provided | None = None,
    chain: Chain = NO_CHAIN,
) -> Plan:
    """The link plan of `component`, its imports met by what the host offers.

    `offered(name)` gives the type of the interface or function that the host has under an imported name,
    None for none. `provided` meets imports with exports of other components, as `compose` says; `chain`
    stands before it, and then what the outermost of the chain exports is what the plan exports.

    Raises DecodeError where `component` is not valid, LinkError where an import is not met, or with
    another type, UnsupportedError for what is not implemented.
    """
    with stack_is_deep_enough():
        return Resolver(offered).plan(component, provided or {}, chain)


def compose(main: s.ComponentDef, provided: Provided, offered: Offered) -> Plan:
    """The link plan of `main` together with the components that it depends on.

    `provided` maps a dependency name to a component and the name of its export (None: that of the
    import). A dependency name is an import of `main`, with or without its version, or a package
    ("a:b", "a:b@1.2.0") whose interfaces are all meant (Spin: manifest, 9). Each component is instantiated
    once; what it imports itself is met by the host. `Plan.owners` says to whom each part belongs.

    Raises LinkError where a dependency name matches no import, a component has no such export, or one of
    another type, and for `main` and its dependencies whatever `resolve` raises.
    """
    return resolve(main, offered, provided)


class Resolver(Evaluator):
    """Evaluates components and writes down what their instances come to."""

    strict = False

    def __init__(self, offered: Offered) -> None:
        super().__init__()
        self.offered = offered
        self.modules: list[PlanModule] = []
        self.module_numbers: dict[int, int] = {}
        self.steps: list[Step] = []
        self.slots: list[list[CoreExport | None]] = []  # memory, realloc
        self.slot_numbers: dict[CoreExport, list[int]] = {}
        self.resources: list[GuestResource] = []
        self.imports: dict[str, InterfaceType | FuncType] = {}
        self.parts: list[Scope] = []
        self.forwarding: dict[CoreFuncType, PlanModule] = {}
        self.forwarded: dict[int, tuple[CoreItem, CoreExport]] = {}  # by id, with what keeps that valid
        self.concurrent = False
        self.owners: list[int] = []
        self.owner = 0

    def validator(self) -> Evaluator:
        evaluator = Evaluator()
        evaluator.budget, evaluator.facts, evaluator.depth = self.budget, self.facts, self.depth
        return evaluator

    def plan(self, component: s.ComponentDef, provided: Provided, chain: Chain = NO_CHAIN) -> Plan:
        supply = self.dependencies(component, provided) if provided else self.host
        first = self.owner + 1
        self.owner = 0
        instance = self.instantiated(component, None, supply)
        for number, (name, outer) in reversed(list(enumerate(chain.components, first))):
            self.owner = number
            instance = self.before(instance, name, outer, chain.interfaces)
        functions: dict[str, Lifted] = {}
        exports: dict[str, dict[str, Lifted | HostFunction]] = {}
        interfaces: dict[str, InterfaceType] = {}
        for name, item in instance.exports.items():
            if isinstance(item, Func) and isinstance(item.target, Lifted):
                self.budget.spend(code_cost(item.type))
                functions[name] = item.target
            elif isinstance(item, Instance):
                for each in item.exports.values():
                    self.budget.spend(code_cost(each.type) if isinstance(each, Func) else 1)
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
            parts=max(len(self.owners), 1),
            resources=tuple(self.resources),
            imports=self.imports,
            functions=functions,
            exports=exports,
            interfaces=interfaces,
            owners=tuple(self.owners) or (0,),
            parents=tuple(self.parents()) or (None,),
            concurrent=self.concurrent,
        )

    def parents(self) -> Iterator[int | None]:
        for scope in self.parts:
            instantiator = scope.instantiator
            yield None if instantiator is None else instantiator.part

    def instantiated(
        self, definition: s.ComponentDef, parent: Scope | None, supply: Supply, by: Scope | None = None
    ) -> Instance:
        """An instance of a component, its imports met by `supply`; `by` instantiates it, None: the host."""
        scope = Scope("component", parent, supply=supply, instantiator=by)
        self.run(scope, definition)
        return instance_of(scope.exports.items)

    # Imports.

    def import_(self, scope: Scope, d: s.Import) -> None:
        variables: list[ResourceType] = []
        expected = self.declared(scope, d.desc, d.offset, variables)
        self.add_import(scope, d, scope.supply(d.name.name, expected, variables, d.offset))

    def host(self, name: str, expected: Item, variables: list[ResourceType], offset: int) -> Item:
        """What the host has for an import of an outermost component."""
        match expected:
            case Instance(exports):
                return self.host_instance(name, exports, variables)
            case Func(ft):
                offer = self.offered(name)
                if not isinstance(offer, FuncType):
                    raise LinkError(f"imports a function {name}, which this gateway does not offer", name)
                self.check_function("", name, ft, offer)
                self.imports[name] = offer
                return Func(ft, HostFunction("", name, ft))
            case ValType():
                return expected
        raise LinkError(f"imports the {sort_of(expected)} {name}, which no host can offer", name)

    def host_instance(
        self, name: str, expected: Mapping[str, Item], variables: list[ResourceType]
    ) -> Instance:
        """An instance of the host's interface `name`, with what is expected of it.

        Value types are what they are: whether the host knows their names does not matter, but those that
        it knows have to be the same.
        """
        offer = self.offered(name)
        if not isinstance(offer, InterfaceType):
            if any(not isinstance(item, ValType) for item in expected.values()):
                raise LinkError(f"imports {name}, which this gateway does not offer", name)
            offer = InterfaceType(name)
        self.imports[name] = offer
        self.budget.spend(len(expected))
        matching = self.matching(variables)
        exports: dict[str, Item] = {}
        for key, item in expected.items():
            match item:
                case ResourceType():
                    known = offer.types.get(key)
                    if isinstance(known, ResourceType):
                        try:
                            matching.match(known, item)
                        except Mismatch:
                            raise LinkError(
                                f"{name} {key}: the guest declares the resource {item} of "
                                f"{item.interface or 'its own'}, the host offers that of {known.interface}",
                                name,
                            ) from None
                        exports[key] = known
                    elif root_of(item) in matching.variables - matching.bound.keys():
                        raise LinkError(
                            f"imports the resource {key} of {name}, which the host does not have", name
                        )
                    else:
                        exports[key] = matching.substitution.resource(item)
                case ValType():
                    declared = matching.substitution.val(item)
                    known = offer.types.get(key)
                    if known is not None and (
                        not isinstance(known, ValType) or not same_values(known, declared, self.budget)
                    ):
                        raise LinkError(
                            f"{name} {key}: the guest declares {brief(declared)}, the host offers {known}",
                            name,
                        )
                    exports[key] = declared
                case Func(ft):
                    declared_ft = matching.substitution.func(ft)
                    offered = offer.funcs.get(key)
                    if offered is None:
                        raise LinkError(
                            f"imports {key} of {name} ({brief(declared_ft)}), which the host does not have",
                            name,
                        )
                    self.check_function(name, key, declared_ft, offered)
                    exports[key] = Func(declared_ft, HostFunction(name, key, declared_ft))
                case _:
                    raise LinkError(
                        f"imports the {sort_of(item)} {key} of {name}, which no host can offer", name
                    )
        return Instance(exports)

    def check_function(self, interface: str, name: str, guest: FuncType, host: FuncType) -> None:
        if not same_functions(guest, host, self.budget, names=False):
            text = f"{interface} {name}".strip()
            problem = describe_mismatch(text, guest, host)
            raise LinkError(problem or f"{text}: a resource of another interface", interface or name)

    # Components that main depends on.

    def dependencies(self, main: s.ComponentDef, provided: Provided) -> Supply:
        """Instances of the components that `main` depends on, as what meets its imports."""
        wanted = [d.name.name for d in main.definitions if isinstance(d, s.Import)]
        instances: dict[int, tuple[Instance, int]] = {}
        meets: dict[str, tuple[str, Item]] = {}
        for key, (component, export) in provided.items():
            if id(component) not in instances:
                self.owner = len(instances) + 1
                instances[id(component)] = self.instantiated(component, None, self.host), self.owner
            instance = instances[id(component)][0]
            matching = [name for name in wanted if meant(key, name)]
            if not matching:
                raise LinkError(f"does not import {key}, which a dependency of that name is to provide", key)
            for name in matching:
                if name in meets:
                    raise LinkError(
                        f"two dependencies are to provide {name}: {meets[name][0]} and {key}", name
                    )
                found = find_export(instance, export or name)
                if found is None:
                    has = ", ".join(instance.exports) or "nothing"
                    raise LinkError(
                        f"the dependency {key} exports no {export or name} to provide the import {name}; "
                        f"it exports {has}",
                        name,
                    )
                meets[name] = key, found

        def supply(name: str, expected: Item, variables: list[ResourceType], offset: int) -> Item:
            if name not in meets:
                return self.host(name, expected, variables, offset)
            key, found = meets[name]
            matching = self.matching(variables)
            try:
                matching.match(found, expected)
            except Mismatch as mismatch:
                raise LinkError(
                    f"imports {name}, which the dependency {key} exports with another type: {mismatch}", name
                ) from None
            return matching.view(found, expected)

        return supply

    # Components that stand before main.

    def before(
        self, inner: Instance, title: str, outer: s.ComponentDef, interfaces: frozenset[str]
    ) -> Instance:
        """An instance of `outer`, which imports what `inner` exports of `interfaces`."""
        handed = [
            d.name.name
            for d in outer.definitions
            if isinstance(d, s.Import) and canonical_name(d.name.name) in interfaces
        ]
        if not handed:
            raise LinkError(
                f"{title} imports none of {', '.join(sorted(interfaces))} to hand requests on to", title
            )

        def supply(name: str, expected: Item, variables: list[ResourceType], offset: int) -> Item:
            if name not in handed:
                return self.host(name, expected, variables, offset)
            found = find_export(inner, name)
            if found is None:
                has = ", ".join(inner.exports) or "nothing"
                raise LinkError(f"{title} imports {name}, and what it stands before exports {has}", name)
            matching = self.matching(variables)
            try:
                matching.match(found, expected)
            except Mismatch as mismatch:
                raise LinkError(
                    f"{title} imports {name}, and what it stands before exports it with another type: "
                    f"{mismatch}",
                    name,
                ) from None
            return matching.view(found, expected)

        instance = self.instantiated(outer, None, supply)
        if not any(canonical_name(name) in interfaces for name in instance.exports):
            raise LinkError(f"{title} exports none of {', '.join(sorted(interfaces))}", title)
        return instance

    # Instances.

    def nested(self, scope: Scope, d: s.ComponentDef) -> None:
        scope.components.append(Component(None, d, scope))

    def instance(
        self, scope: Scope, component: Component, arguments: Mapping[str, Item], offset: int
    ) -> Instance:
        if component.definition is None:
            raise UnsupportedError(
                "instantiating a component that the host is to bring", "imported components"
            )

        def supply(name: str, expected: Item, variables: list[ResourceType], _: int) -> Item:
            if name not in arguments:
                raise DecodeError(f"no argument is given for the import {name!r}", offset)
            matching = self.matching(variables)
            try:
                matching.match(arguments[name], expected)
            except Mismatch as mismatch:
                raise DecodeError(f"the argument {name!r}: {mismatch}", offset) from None
            return matching.view(arguments[name], expected)

        return self.instantiated(component.definition, component.scope, supply, scope)

    def seen_as(
        self, scope: Scope, matching: Matching, found: Item, expected: Item, variables: list[ResourceType]
    ) -> Item:
        return matching.view(found, expected)

    def part(self, scope: Scope) -> int:
        """The number of the component instance that `scope` is."""
        if scope.part is None:
            if len(self.owners) == MAX_PARTS:
                raise UnsupportedError(f"more than {MAX_PARTS} component instances", "large components")
            scope.part = len(self.owners)
            self.owners.append(self.owner)
            self.parts.append(scope)
            around = scope.instantiator
            # who enters or leaves the outermost one is the host, which never does so in between
            if around is not None and around.instantiator is not None:
                self.part(around)
        return scope.part

    # What core code is there.

    def resource(self, scope: Scope, what: s.ResourceDef, offset: int) -> ResourceType:
        dtor = self.destructor(scope, what, offset)
        if what.async_dtor:
            raise UnsupportedError("destructors that are async are not supported", "async destructors")
        part = self.part(scope)
        rt = ResourceType("", part=part)
        self.resources.append(GuestResource(rt, part, self.exported(scope, dtor)))
        return rt

    def core_instance(
        self, scope: Scope, module: Module, imports: Mapping[tuple[str, str], CoreItem]
    ) -> CoreInstance:
        if module.plan is None:
            raise UnsupportedError(
                "instantiating a core module that the host is to bring", "imported modules"
            )
        if len(self.steps) == MAX_STEPS:
            raise UnsupportedError(f"more than {MAX_STEPS} core instances", "large components")
        number = self.module_numbers.setdefault(id(module.plan.code), len(self.modules))
        if number == len(self.modules):
            self.modules.append(module.plan)
        definitions: dict[tuple[str, str], CoreDefinition] = {}
        for key, item in imports.items():
            assert item.definition is not None
            definitions[key] = item.definition
        step = len(self.steps)
        self.steps.append(Step(number, self.part(scope), definitions))
        exports = module.type.exports

        def export(name: str) -> CoreItem | None:
            if name not in exports:
                return None
            kind, t = exports[name]
            return CoreItem(kind, t, CoreExport(step, name, kind))  # type: ignore[arg-type]

        return CoreInstance(export)

    def resolved(
        self,
        scope: Scope,
        options: s.CanonOptions,
        memory: CoreItem | None,
        realloc: CoreItem | None,
        post_return: CoreItem | None,
        callback: CoreItem | None,
    ) -> Options:
        slot = self.slot(self.exported(scope, memory), self.exported(scope, realloc))
        post, back = self.exported(scope, post_return), self.exported(scope, callback)
        return Options(options.encoding, slot, post, options.async_, back)

    def exported(self, scope: Scope, item: CoreItem | None) -> CoreExport | None:
        """The same item as the export of a module: a function that none has gets one around it."""
        if item is None:
            return None
        if isinstance(item.definition, CoreExport):
            return item.definition
        known = self.forwarded.get(id(item))
        if known is None:
            if item.type not in self.forwarding:
                code = forwarding(item.type)
                self.forwarding[item.type] = PlanModule(memoryview(code), core_module(code))
            plan = self.forwarding[item.type]
            module = Module(self.module_type_of(plan.module, 0), plan)
            found = self.core_instance(scope, module, {("", ""): item}).export("")
            assert found is not None
            assert isinstance(found.definition, CoreExport)
            known = self.forwarded[id(item)] = item, found.definition
        return known[1]

    def slot(self, memory: CoreExport | None, realloc: CoreExport | None) -> int:
        """The number of a memory with its allocator; who needs no allocator shares it."""
        if memory is None:
            return 0
        for i in self.slot_numbers.setdefault(memory, []):
            slot = self.slots[i]
            if realloc is None or slot[1] in (None, realloc):
                slot[1] = realloc or slot[1]
                return i
        self.slots.append([memory, realloc])
        self.slot_numbers[memory].append(len(self.slots) - 1)
        return len(self.slots) - 1

    def lifted(self, scope: Scope, func: CoreItem, ft: FuncType, options: Options, d: s.CanonLift) -> Func:
        if d.options.async_:
            self.concurrent = True
            if options.callback is None:
                raise UnsupportedError(
                    "an asynchronous export without a callback needs a second stack", "stackful async lift"
                )
        core = self.exported(scope, func)
        assert core is not None
        return Func(ft, Lifted(core, ft, options, self.part(scope)))

    def lowered(self, scope: Scope, func: Func, options: Options, d: s.CanonLower) -> CoreDefinition | None:
        if func.type.async_:
            self.concurrent = True
        assert func.target is not None
        return Lowered(func.target, options, self.part(scope))

    def is_local(self, scope: Scope, rt: ResourceType) -> bool:
        return rt.part is not None and rt.part == scope.part

    def resource_builtin(self, scope: Scope, rt: ResourceType, d: s.CanonResource) -> CoreDefinition | None:
        if d.async_:
            raise UnsupportedError("resource.drop that is async is not supported yet", "async drop")
        return ResourceBuiltin(d.kind, rt, self.part(scope))

    def builtin(self, scope: Scope, d: s.CanonBuiltin) -> None:
        core, type_, options = self.builtin_type(scope, d)
        if d.name.startswith("thread.") and d.name != "thread.yield":
            raise UnsupportedError(f"needs the built-in {d.name}, and threads are not supported", d.name)
        self.concurrent = True
        flag, number = False, 0
        match d.name, d.immediates:
            case ("waitable-set.wait" | "waitable-set.poll", (bool(flag), int(memory))):
                options = Options(slot=self.slot(self.exported(scope, scope.core_memories[memory]), None))
            case ("context.get" | "context.set", (_, int(number))):
                pass
            case _, (*_, bool(flag)):
                pass
            case _:
                flag = d.options is not None and d.options.async_
        definition = Builtin(d.name, self.part(scope), type_, options or Options(), flag, number)
        scope.core_funcs.append(CoreItem("func", core, definition))

    def start(self, scope: Scope, d: s.Start) -> None:
        raise UnsupportedError("start functions of components are not supported", "start")

    def value(self, scope: Scope, d: s.ValueDef) -> None:
        raise UnsupportedError("values at the level of components are not supported", "values")


def meant(key: str, name: str) -> bool:
    """Whether the dependency name `key` means the import `name`; a version counts where `key` has one."""
    wanted, _, version = key.partition("@")
    base, _, _ = name.partition("@")
    if wanted == base:
        return not version or canonical_name(key) == canonical_name(name)
    package, slash, interface = base.partition("/")
    if not slash or wanted != package:
        return False
    return not version or canonical_name(f"{wanted}/{interface}@{version}") == canonical_name(name)


def find_export(instance: Instance, wanted: str) -> Item | None:
    """The export `wanted`, of a compatible version; of any one where `wanted` has none."""
    if wanted in instance.exports:
        return instance.exports[wanted]
    for name, item in instance.exports.items():
        if canonical_name(name) == canonical_name(wanted):
            return item
    if "@" not in wanted:
        found = [item for name, item in instance.exports.items() if name.partition("@")[0] == wanted]
        if len(found) == 1:
            return found[0]
    return None


def interface_of(name: str, instance: Instance) -> InterfaceType:
    types: dict[str, ValType | ResourceType] = {}
    funcs: dict[str, FuncType] = {}
    for key, item in instance.exports.items():
        if isinstance(item, Func):
            funcs[key] = item.type
        elif isinstance(item, ValType | ResourceType):
            types[key] = item
    return InterfaceType(name, types, funcs)
