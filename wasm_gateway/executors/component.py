# A component -> a program and the functions that it exports: decoded, resolved against
# this host, its modules compiled and linked.
#
# Rule 1: an import is met by name and by type, when the guest is loaded (resolve.py);
# what is left for a request is to carry out the plan.
# Rule 2: linking never depends on what a component is granted; grants are checked at
# each call (Spin: host interfaces, 1). Of a composition each component has its own.

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..compile_cache import CompileCache
from ..component.assemble import HostDefinition, assemble, simplify
from ..component.builtins import task_return
from ..component.canon import (
    Callback,
    fuse,
    lift_export,
    lower_import,
    lower_import_async,
    raw_import,
    resource_import,
    uses_memory,
)
from ..component.concurrency import Callee
from ..component.core import preamble
from ..component.layout import flatten_functype
from ..component.names import canonical_name
from ..component.parse import parse_component
from ..component.plan import Builtin, CoreItem, Lifted, Lowered, Plan, ResourceBuiltin
from ..component.plan import HostFunction as HostCall
from ..component.resolve import Chain, resolve
from ..component.shortcuts import builtin_import
from ..component.syntax import ComponentDef
from ..component.types import FuncType, InterfaceType
from ..engine import Engine, HostFunction, current
from ..errors import DecodeError, UnsupportedError
from ..host.application import Hosts, MissingDriver
from ..host.base import Grants
from ..linked import LinkedProgram, compile_all
from .concurrent import (
    ConcurrentFunction,
    callee_of,
    destructor_of,
    guest_call,
    guest_subtask,
    host_subtask,
    lift_options,
    waiting,
)
from .core_module import may_have, mention, noting_stack, refusing, runs_guests
from .guest import HTTP_HANDLERS, LiftedFunction, Provider


@dataclass(frozen=True, slots=True)
class Linked:
    """A component ready to be instantiated. `functions` are its exports by canonical interface and name.

    The interface is "" for a function that it exports by itself.
    """

    plan: Plan
    program: LinkedProgram
    functions: Mapping[tuple[str, str], LiftedFunction | ConcurrentFunction]


class Offers:
    """What the host has for a component's imports."""

    def __init__(self, hosts: Hosts, grants: Grants | None = None) -> None:
        self._hosts = hosts
        self._grants = grants

    def __call__(self, name: str) -> InterfaceType | FuncType | None:
        """The type of the interface `name`, None when this host has no such thing.

        LinkError when it is lent, and not to this component; without grants nobody is asked.
        """
        try:
            offered = self._hosts.interface(name)
        except MissingDriver:
            return self._hosts.described(name)  # a guest that never calls it runs without
        if offered is None:
            return None
        may_have(offered, name, self._grants)
        return offered.type

    def function(self, interface: str, name: str) -> tuple[FuncType, Callable[..., Any]]:
        offered = self._hosts.interface(interface)
        assert offered is not None, interface
        return offered.type.funcs[name], offered.functions[name]


def read(
    wasm: bytes,
    hosts: Hosts,
    grants: Grants | None = None,
    providers: Sequence[Provider] = (),
    chain: Sequence[Provider] = (),
) -> tuple[Plan, list[Provider]]:
    """The plan of a component, its imports found at this host or at `providers`, and whose each part is.

    `chain` are handlers of HTTP that stand before it, outermost first. Plan.owners counts from 1 in the
    list. Raises DecodeError, UnsupportedError or LinkError.
    """
    components: dict[tuple[object, ...], tuple[ComponentDef, Provider]] = {}
    provided = {}
    for provider in providers:
        # two names may mean one component: it is instantiated once
        key = (provider.wasm, id(provider.grants), provider.files)
        if key not in components:
            components[key] = _parsed(provider), provider
        provided[provider.name] = components[key][0], provider.export
    parsed = {provider.wasm: _parsed(provider) for provider in chain}
    before = Chain([(provider.name, parsed[provider.wasm]) for provider in chain], HTTP_HANDLERS)
    main = parse_component(wasm)
    try:
        plan = resolve(main, Offers(hosts, grants), provided, before)
    except DecodeError as error:
        if not providers and not chain:
            raise
        raise DecodeError(f"it, or a dependency: {error.reason}", error.offset) from error
    return simplify(plan), [*(provider for _, provider in components.values()), *chain]


def _parsed(provider: Provider) -> ComponentDef:
    if preamble(provider.wasm) != "component":
        raise UnsupportedError(
            f"the dependency {provider.name} is a core module: make it a component "
            "(wasm-tools component new)",
            "core modules as dependencies",
        )
    try:
        return parse_component(provider.wasm)
    except DecodeError as error:
        raise DecodeError(f"the dependency {provider.name}: {error.reason}", error.offset) from error


def link_component(
    wasm: bytes,
    engine: Engine,
    cache: CompileCache | None,
    hosts: Hosts,
    grants: Grants | None = None,
    providers: Sequence[Provider] = (),
    chain: Sequence[Provider] = (),
) -> Linked:
    """Decode, compile and link the component `wasm`, composed with the `providers` of its imports.

    `chain` stands before it.

    Raises DecodeError for malformed bytes, LinkError for an import that nobody offers, or that is offered
    with another type, UnsupportedError for features that are not there yet.
    """
    plan, owners = read(wasm, hosts, grants, providers, chain)
    return link_plan(plan, engine, cache, hosts, owners)


def link_plan(
    plan: Plan, engine: Engine, cache: CompileCache | None, hosts: Hosts, owners: Sequence[Provider] = ()
) -> Linked:
    assembly = assemble(plan)
    modules = compile_all(assembly, engine, cache)
    binder = _Binder(hosts, plan, _Roles(owners) if owners else None)
    functions = [
        HostFunction("h", str(i), params, results, binder.callback(definition, params, results))
        for i, (definition, params, results) in enumerate(assembly.hosts)
    ]
    program = LinkedProgram(engine, assembly, modules, functions)
    binder.program = program
    for resource in plan.resources:
        if resource.dtor is not None:
            if plan.concurrent:
                destructor = destructor_of(resource.part, resource.dtor, plan, program)
            else:
                destructor = _destructor(program, resource.dtor)
            object.__setattr__(resource.rt, "dtor", destructor)
    exported: dict[tuple[str, str], LiftedFunction | ConcurrentFunction] = {}
    for name, lifted in plan.functions.items():
        if isinstance(lifted, Lifted):
            exported["", name] = binder.exported(name, lifted)
    for interface, items in plan.exports.items():
        for name, item in items.items():
            if isinstance(item, Lifted):
                exported[canonical_name(interface), name] = binder.exported(f"{interface}#{name}", item)
    return Linked(plan, program, exported)


class _Binder:
    """Makes the callbacks of a component's host functions."""

    def __init__(self, hosts: Hosts, plan: Plan, roles: _Roles | None = None) -> None:
        self._offers = Offers(hosts)
        self._plan = plan
        self._roles = roles
        self.program: LinkedProgram | None = None  # known once all callbacks are
        self._callees: dict[int, Callee] = {}

    def callback(self, definition: HostDefinition, params: str, results: str) -> Callback:
        match definition:
            case ResourceBuiltin(kind, rt, part):
                enters = () if rt.part is None else self._plan.entering(rt.part, part)
                return resource_import(kind, f"[resource-{kind}]{rt}", rt, current, part, enters)
            case Lowered(HostCall() as callee):
                return self._host(callee, definition, params, results)
            case Lowered(Lifted() as callee):
                if self._plan.concurrent:
                    return self._concurrent(callee, definition)
                return self._guest(callee, definition)
            case Builtin():
                return self._builtin(definition, params, results)
        raise AssertionError(definition)

    def _host(self, callee: HostCall, lowered: Lowered, params: str, results: str) -> Callback:
        name = f"{callee.interface}#{callee.name}"
        try:
            type_, function = self._offers.function(callee.interface, callee.name)
        except MissingDriver as missing:
            mention(callee.interface, missing)
            return raw_import(name, params, results, refusing(missing), current)
        options = lowered.options
        if self._roles is not None:
            function = self._roles.playing(self._plan.owners[lowered.part], function)
        where = current, options.slot, options.encoding, lowered.part
        if options.async_:
            return lower_import_async(name, type_, host_subtask(function, lowered.part), *where)
        flat = tuple("".join(letters) for letters in flatten_functype(type_, "lower"))
        assert flat == (params, results), (name, flat, params, results)
        callback = lower_import(name, type_, waiting(function) if type_.async_ else function, *where)
        if runs_guests(callee.interface, callee.name):
            return noting_stack(callback)
        return callback

    def _guest(self, callee: Lifted, lowered: Lowered) -> Callback:
        """One component instance of the guest calls another one."""
        name = f"component instance {callee.part}"
        function: LiftedFunction | None = None

        def call(instance: Any, *arguments: Any) -> Any:
            nonlocal function
            if function is None:
                function = self.lifted(name, callee)
            return function(instance, *arguments)

        options = lowered.options
        enters = self._plan.entering(callee.part, lowered.part)
        return fuse(name, callee.type, call, current, options.slot, options.encoding, lowered.part, enters)

    def _concurrent(self, lifted: Lifted, lowered: Lowered) -> Callback:
        """The same where there are tasks."""
        name = f"component instance {lifted.part}"
        enters = self._plan.entering(lifted.part, lowered.part)
        where = current, lowered.options.slot, lowered.options.encoding, lowered.part

        def callee() -> Callee:
            return self.callee(name, lifted)

        if lowered.options.async_:
            begin = guest_subtask(callee, lowered.part, enters)
            return lower_import_async(name, lifted.type, begin, *where)
        return lower_import(name, lifted.type, guest_call(callee, enters), *where)

    def callee(self, name: str, lifted: Lifted) -> Callee:
        found = self._callees.get(id(lifted))
        if found is None:
            assert self.program is not None
            found = self._callees[id(lifted)] = callee_of(name, lifted, self._plan, self.program)
        return found

    def _builtin(self, definition: Builtin, params: str, results: str) -> Callback:
        if definition.name != "task.return":
            return builtin_import(definition, params, results, current)

        options = definition.options
        given = lift_options(options, self._plan) if uses_memory(definition.type) else None
        returns = task_return(definition, given)
        type_ = FuncType(() if definition.type is None else (("result", definition.type),))
        return lower_import(
            definition.name, type_, returns, current, options.slot, options.encoding, definition.part
        )

    def exported(self, name: str, lifted: Lifted) -> LiftedFunction | ConcurrentFunction:
        """A function as the host calls it."""
        plan = self._plan
        if plan.concurrent:
            return ConcurrentFunction(self.callee(name, lifted))
        return self.lifted(name, lifted, plan.entering(lifted.part, None) if plan.parts > 1 else ())

    def lifted(self, name: str, lifted: Lifted, enters: Sequence[int] = ()) -> LiftedFunction:
        program = self.program
        assert program is not None
        options = lifted.options
        return LiftedFunction(
            lifted.type,
            lift_export(name, lifted.type, options.slot, options.encoding, lifted.part),
            program.core(lifted.core),
            None if options.post_return is None else program.core(options.post_return),
            enters=enters,
        )


class _Roles:
    """On whose behalf the host acts for each component of a composition; 0 is the one that has the others.

    Each sees nothing but what it inherits. The role stays until another component calls: what the host
    begins meanwhile keeps it (component/concurrency.py).
    """

    def __init__(self, owners: Sequence[Provider]) -> None:
        self._owners = owners

    def playing(self, owner: int, function: Callable[..., Any]) -> Callable[..., Any]:
        """The same host function, for that component."""

        def played(ctx: Any, *arguments: Any) -> Any:
            roles = ctx.state.get(self)
            if roles is None:
                roles = ctx.state[self] = self._all(ctx)
            ctx.role = roles[owner]
            return function(ctx, *arguments)

        return played

    def _all(self, ctx: Any) -> list[Any]:
        """Of an instance, before its first call."""
        whole: Grants = ctx.component
        return [ctx.role] + [
            (
                owner.grants.beside(whole.outbound) if whole.scratch else owner.grants,
                ctx.wasi.narrowed(owner.grants.environment, files=owner.files),
            )
            for owner in self._owners
        ]


def _destructor(program: LinkedProgram, definition: CoreItem) -> Callable[[Any, Any], Any]:
    signature = program.core(definition)
    return lambda instance, rep: instance.core(signature)(rep)
