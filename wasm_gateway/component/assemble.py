# A link plan -> one with fewer modules, and the bytes of each module as it is compiled.
#
# Rule 1: a guest cannot tell. What is taken out is proven, from its code, to do nothing
# but pass on: the two modules by which wit-component breaks a circle of imports
# ("shim" and "fixup": functions that call through a table, and a segment that fills
# it). Where anything is different, the plan stays as it is.
# Rule 2: afterwards every import is named after what meets it, ("h", k) for the k-th
# host function and (step, k) for the k-th export that is used of that step's
# instance, so that the engine finds it by name; other exports are not made.

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

from ..errors import DecodeError, UnsupportedError
from .core import CoreModule, sections
from .plan import (
    Builtin,
    CoreDefinition,
    CoreItem,
    GuestResource,
    HostFunction,
    Lifted,
    Lowered,
    Options,
    Plan,
    ResourceBuiltin,
    Slot,
    Step,
)
from .reader import Reader
from .rewrite import NAME_OF_HOST, Names

# What stands for "a core function that the host brings".
HostDefinition = Lowered | ResourceBuiltin | Builtin


@dataclass(frozen=True, slots=True)
class Image:
    """A module as one step instantiates it: Plan.modules[module], renamed by `names`."""

    module: int
    names: Names


@dataclass(frozen=True, slots=True)
class Assembly:
    """What a plan comes to for the engine.

    `images[i]` is that of step i; `hosts` are the host's functions, in the order of their numbers, each
    with its core type. `exports[i]` says what the exports of step i that are used are called now.
    """

    plan: Plan
    images: tuple[Image, ...]
    hosts: tuple[tuple[HostDefinition, str, str], ...]
    exports: tuple[Mapping[str, str], ...] = field(default_factory=tuple)

    def name(self, item: CoreItem) -> str:
        return self.exports[item.step][item.name]


def assemble(plan: Plan) -> Assembly:
    """Name everything in `plan` after what meets it."""
    used: list[dict[str, str]] = [{} for _ in plan.steps]
    for item in _items(plan):
        names = used[item.step]
        names.setdefault(item.name, str(len(names)))
    hosts: dict[int, tuple[int, HostDefinition, str, str]] = {}  # by id: to compare types takes long
    images = []
    for step, exports in zip(plan.steps, used, strict=True):
        imports: dict[tuple[str, str], tuple[str, str]] = {}
        for declared in plan.modules[step.module].module.imports:
            key = declared.module, declared.name
            if key in imports:
                continue
            definition = step.imports[key]
            if isinstance(definition, CoreItem):
                imports[key] = str(definition.step), used[definition.step][definition.name]
            else:
                params, results = declared.signature
                number = hosts.setdefault(id(definition), (len(hosts), definition, params, results))[0]
                imports[key] = NAME_OF_HOST, str(number)
        images.append(Image(step.module, Names(imports, exports)))
    functions = tuple(host[1:] for host in hosts.values())
    return Assembly(plan, tuple(images), functions, tuple(used))


def _items(plan: Plan, imported: bool = True) -> Iterator[CoreItem]:
    """Every export of a core instance that something in `plan` refers to.

    Without `imported` those are left out that a core module imports as they are.
    """

    def within(definition: object) -> Iterator[CoreItem]:
        match definition:
            case CoreItem():
                yield definition
            case Lowered(callee, options, _):
                yield from within(callee)
                yield from within(options)
            case Lifted(core, _, options, _):
                yield from within(core)
                yield from within(options)
            case Options():
                yield from within(definition.post_return)
                yield from within(definition.callback)

    for step in plan.steps:
        for definition in step.imports.values():
            if imported or not isinstance(definition, CoreItem):
                yield from within(definition)
    for slot in plan.slots:
        yield from within(slot.memory)
        yield from within(slot.realloc)
    for resource in plan.resources:
        yield from within(resource.dtor)
    for function in plan.functions.values():
        yield from within(function)
    for functions in plan.exports.values():
        for exported in functions.values():
            yield from within(exported)


# Shim and fixup.


def simplify(plan: Plan) -> Plan:
    """`plan` without pairs of modules that only pass calls on through a table."""
    for shim in range(len(plan.steps)):
        targets = _targets(plan, shim)
        if targets is not None:
            fixup, functions = targets
            return simplify(_without(plan, {shim, fixup}, functions))
    return plan


def _targets(plan: Plan, shim: int) -> tuple[int, dict[CoreItem, CoreDefinition]] | None:
    """What each function of the step `shim` calls in the end, and the step that says so; None if unsure."""
    try:
        return _targets_of(plan, shim)
    except (DecodeError, UnsupportedError):  # the engine says what is wrong about a body
        return None


def _targets_of(plan: Plan, shim: int) -> tuple[int, dict[CoreItem, CoreDefinition]] | None:
    step = plan.steps[shim]
    if step.imports:
        return None
    passes = passed_on(plan.modules[step.module].code, plan.modules[step.module].module)
    if passes is None:
        return None
    table, slots = passes
    users = [
        i for i, other in enumerate(plan.steps) if CoreItem(shim, table, "table") in other.imports.values()
    ]
    if len(users) != 1:
        return None
    [fixup] = users
    if any(item.step == fixup for item in _items(plan)):
        return None
    filler = plan.steps[fixup]
    filled = filled_table(plan.modules[filler.module].code, plan.modules[filler.module].module)
    if filled is None:
        return None
    functions: dict[CoreItem, CoreDefinition] = {}
    signatures = {e.name: e.type for e in plan.modules[step.module].module.exports if e.type is not None}
    for name, slot in slots.items():
        if slot not in filled:
            return None
        key, signature = filled[slot]
        definition = filler.imports[key]
        if signature != signatures[name]:
            return None  # such a call traps
        if isinstance(definition, CoreItem):
            # what another module exports may come later than who imports the shim
            used = [i for i, s in enumerate(plan.steps) if CoreItem(shim, name, "func") in s.imports.values()]
            if any(i <= definition.step for i in used if i != fixup):
                return None
            if definition.step in (shim, fixup):
                return None  # it calls itself
        functions[CoreItem(shim, name, "func")] = definition
    # what is not imported, but lifted, a destructor and so on, has to be some module's
    if any(not isinstance(functions.get(item, item), CoreItem) for item in _items(plan, imported=False)):
        return None
    return fixup, functions


def passed_on(code: memoryview, module: CoreModule) -> tuple[str, dict[str, int]] | None:
    """The table's export of a module whose functions only call through it, and the index that each calls.

    None for a module that does, has or exports anything else.
    """
    tables = [e for e in module.exports if e.kind == "table"]
    if len(tables) != 1 or module.imports or module.has_start or tables[0].index != 0:
        return None
    if any(e.kind not in ("func", "table") for e in module.exports):
        return None
    bodies: list[Reader] = []
    type_indices: list[int] = []
    for number, _, section in sections(code):
        if number == 3:
            type_indices = section.vec(section.u32)
        elif number == 10:
            bodies = [section.sub(section.u32()) for _ in range(section.count())]
        elif number == 4:
            if section.u32() != 1:
                return None
        elif number not in (0, 1, 7):
            return None
    if len(bodies) != len(type_indices):
        return None
    calls: dict[str, int] = {}
    for export in module.exports:
        if export.type is not None:
            target = _passes(bodies[export.index], len(export.type.params), type_indices[export.index])
            if target is None:
                return None
            calls[export.name] = target
    return tables[0].name, calls


def _passes(body: Reader, params: int, type_index: int) -> int | None:
    """The index that a body calls in table 0 with its own parameters and type, None if it does otherwise."""
    if body.u32() != 0:  # locals
        return None
    for i in range(params):
        if body.byte() != 0x20 or body.u32() != i:
            return None
    if body.byte() != 0x41:
        return None
    index = body.s33()
    if body.byte() != 0x11 or body.u32() != type_index or body.u32() != 0 or body.byte() != 0x0B:
        return None
    return index if not body.left else None


def filled_table(
    code: memoryview, module: CoreModule
) -> dict[int, tuple[tuple[str, str], tuple[str, str]]] | None:
    """What a module that does nothing but fill an imported table puts at each of its places.

    The values are the (module, name) of the imported function, and its type. None for any other module.
    """
    imports = module.imports
    if module.exports or module.has_start or sum(i.kind == "table" for i in imports) != 1:
        return None
    functions = [i for i in imports if i.kind == "func"]
    if len(functions) + 1 != len(imports):
        return None
    filled: dict[int, tuple[tuple[str, str], tuple[str, str]]] = {}
    for number, _, section in sections(code):
        if number == 9:
            if section.u32() != 1 or section.u32() != 0:  # one segment, active in table 0, of functions
                return None
            if section.byte() != 0x41:
                return None
            at = section.s33()
            if section.byte() != 0x0B:
                return None
            for place, index in enumerate(section.vec(section.u32), at):
                if index >= len(functions):
                    return None
                item = functions[index]
                filled[place] = (item.module, item.name), item.signature
        elif number not in (0, 1, 2):
            return None
    return filled


def _without(plan: Plan, dropped: set[int], instead: Mapping[CoreItem, CoreDefinition]) -> Plan:
    """`plan` without the steps `dropped`, their functions replaced by what they stand for."""
    kept = [i for i in range(len(plan.steps)) if i not in dropped]
    numbers = {old: new for new, old in enumerate(kept)}

    def item(old: CoreItem) -> CoreItem:
        found = instead.get(old, old)
        assert isinstance(found, CoreItem)  # _targets has seen to that
        return replace(found, step=numbers[found.step])

    def core(old: CoreDefinition) -> CoreDefinition:
        if isinstance(old, CoreItem):
            found = instead.get(old, old)
            return item(old) if isinstance(found, CoreItem) else core(found)
        if isinstance(old, Lowered):
            callee = old.callee if isinstance(old.callee, HostFunction) else lifted(old.callee)
            return replace(old, callee=callee, options=options(old.options))
        return old

    def options(old: Options) -> Options:
        return replace(old, post_return=optional(old.post_return), callback=optional(old.callback))

    def lifted(old: Lifted) -> Lifted:
        return replace(old, core=item(old.core), options=options(old.options))

    def exported(old: Lifted | HostFunction) -> Lifted | HostFunction:
        return old if isinstance(old, HostFunction) else lifted(old)

    def optional(old: CoreItem | None) -> CoreItem | None:
        return None if old is None else item(old)

    steps = [plan.steps[i] for i in kept]
    modules = sorted({step.module for step in steps})
    return replace(
        plan,
        modules=tuple(plan.modules[i] for i in modules),
        steps=tuple(
            Step(modules.index(step.module), step.part, {k: core(d) for k, d in step.imports.items()})
            for step in steps
        ),
        slots=tuple(Slot(optional(slot.memory), optional(slot.realloc)) for slot in plan.slots),
        resources=tuple(GuestResource(r.rt, r.part, optional(r.dtor)) for r in plan.resources),
        functions={name: lifted(function) for name, function in plan.functions.items()},
        exports={
            interface: {name: exported(function) for name, function in functions.items()}
            for interface, functions in plan.exports.items()
        },
    )
