# What all core-module dialects share: each import of the module finds its host function.
#
# Rule 1: an import is met by name and by type, when the guest is loaded. What the
# module says of its imports (its embedded world, or the flat ABI of wit-bindgen 0.2)
# is compared with what this host declares; a difference is a LinkError.
# Rule 2: linking never depends on what a component is granted; grants are checked at
# each call (Spin: host interfaces, 1).

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

from ..component.canon import (
    Callback,
    lift_export,
    lower_import,
    raw_import,
    resource_import,
    uses_memory,
)
from ..component.core import CoreModule, core_module
from ..component.decode import World, embedded_worlds
from ..component.emit import uninterrupted_entry
from ..component.layout import flatten_functype
from ..component.lift import StringEncoding
from ..component.names import canonical_name
from ..component.rewrite import ALLOCATORS
from ..component.types import FuncType, InterfaceType, ResourceType, describe_mismatch
from ..engine import HostFunction, Program, core_type, current
from ..errors import HostError, LinkError, UnsupportedError
from ..host import identity
from ..host.application import Hosts, MissingDriver, Offered
from ..host.base import Grants, HostContext
from ..host.wasi.preview1 import FUNCTIONS as WASI_FUNCTIONS
from ..host.wasi.preview1 import Preview1
from . import legacy_flat
from .guest import LiftedFunction

log = logging.getLogger("wasm_gateway")

WASI = "wasi_snapshot_preview1"

# Functions through which a guest may run another one in its own thread (Spin: http, 10.3): those that make a
# request, or wait for its answer. Interfaces in every version.
RUNS_GUESTS = {
    "fermyon:spin/http": {"send-request"},
    "wasi:io/poll": {"poll", "poll-one", "poll-list", "[method]pollable.ready", "[method]pollable.block"},
    "wasi:http/types": {"[method]future-incoming-response.get"},
}
# Functions of a module that stand for canonical built-ins of a resource, the host's or, imported from
# "[export]" and an interface, its own: the names that wit-component takes. Those of BuildTargets.md, which
# begin with "cm32p2", no SDK uses yet.
RESOURCE_DROP = "[resource-drop]"
OF_EXPORT = "[export]"
STANDARD_NAMES = "cm32p2"
_BUILTINS: dict[str, Literal["new", "rep", "drop"]] = {
    "[resource-new": "new",
    "[resource-rep": "rep",
    "[resource-drop": "drop",
}


@dataclass(frozen=True, slots=True)
class Linkage:
    """How a core module meets this host: a host function for each import, and what it exports."""

    module: CoreModule
    world: World | None
    functions: tuple[HostFunction, ...]

    @property
    def encoding(self) -> StringEncoding:
        """How the guest wants its strings."""
        return "utf8" if self.world is None else self.world.encoding

    def exported(self, interface: str, function: str) -> tuple[str, FuncType] | None:
        """The export and the type of a function that the embedded world has under this canonical name."""
        for name, found in (self.world.exports if self.world else {}).items():
            if canonical_name(name) == interface and isinstance(found, InterfaceType):
                type_ = found.funcs.get(function)
                return None if type_ is None else (f"{name}#{function}", type_)
        return None


def link(wasm: bytes, hosts: Hosts, grants: Grants | None = None) -> Linkage:
    """Find a host function for each import of the core module `wasm`.

    Raises DecodeError for malformed bytes, LinkError for an import that nobody offers, or that is offered
    with another type, UnsupportedError for one that no core module here may have.
    """
    module = core_module(wasm)
    world = embedded_worlds(module) if module.has_world else None
    functions: dict[tuple[str, str], HostFunction] = {}
    missing: dict[str, MissingDriver] = {}
    wasi = Preview1().functions()
    own = _OwnResources(module, world)
    for item in module.imports:
        if item.kind != "func":
            raise UnsupportedError(
                f"imports the {item.kind} {item.module}.{item.name}; a guest brings its own",
                f"imported {item.kind}",
            )
        if item.module.startswith(STANDARD_NAMES):
            raise UnsupportedError(
                f"imports {item.module}.{item.name}, as the standard build target names it: "
                "make it a component (wasm-tools component new)",
                "standard names in core modules",
            )
        key = (item.module, item.name)
        if key in functions:  # AssemblyScript imports some twice
            _same(*key, item.signature, (functions[key].params, functions[key].results))
        elif item.module == WASI:
            functions[key] = _wasi(item.name, wasi, *item.signature)
        elif item.module.startswith(OF_EXPORT):
            functions[key] = own.function(item.module, item.name, *item.signature)
        else:
            try:
                functions[key] = _interface(item.module, item.name, world, hosts, grants, *item.signature)
            except MissingDriver as error:
                missing[item.module] = error
                functions[key] = _missing(*key, *item.signature, error)
    for name, reason in missing.items():
        mention(name, reason)
    return Linkage(module, world, tuple(functions.values()))


def _wasi(name: str, family: dict[str, Callable[..., int | None]], params: str, results: str) -> HostFunction:
    declared = WASI_FUNCTIONS.get(name)
    if declared is None:
        raise LinkError(f"imports {WASI}.{name}, which does not exist", WASI)
    _same(WASI, name, (params, results), (declared.params, declared.results))
    callback = raw_import(f"{WASI}.{name}", params, results, family[name], current)
    return HostFunction(WASI, name, params, results, callback)


def _interface(
    module: str,
    name: str,
    world: World | None,
    hosts: Hosts,
    grants: Grants | None,
    params: str,
    results: str,
) -> HostFunction:
    """One function of a WIT interface, by the canonical ABI."""
    if world is None and module in legacy_flat.INTERFACES:
        interface, function = legacy_flat.INTERFACES[module], legacy_flat.RENAMED.get((module, name), name)
    else:
        interface, function = module, name
    try:
        offered = hosts.interface(interface)
    except MissingDriver as missing:
        if interface.rpartition("/")[2] == missing.interface:
            raise
        # what the operator has configured behind another interface needs it
        raise LinkError(str(missing), missing.interface) from missing
    if offered is None:
        raise LinkError(f"imports {module}.{name}, which this gateway does not offer", interface)
    may_have(offered, interface, grants)
    if function.startswith(RESOURCE_DROP):
        rt = offered.type.types.get(function.removeprefix(RESOURCE_DROP))
        if not isinstance(rt, ResourceType):
            raise LinkError(f"imports {module}.{name}, a resource that {interface} does not have", interface)
        _same(module, name, (params, results), ("i", ""))
        callback = resource_import("drop", f"{interface}#{function}", rt, current)
        return HostFunction(module, name, params, results, callback)
    declared = offered.type.funcs.get(function)
    if declared is None:
        raise LinkError(f"imports {module}.{name}, a function that {interface} does not have", interface)
    if world is not None:
        imported = world.imports.get(interface)
        wanted = imported.funcs.get(function) if isinstance(imported, InterfaceType) else None
        if wanted is None:
            raise LinkError(f"imports {module}.{name}, which its embedded world does not declare", interface)
        mismatch = describe_mismatch(f"{interface} {function}", wanted, declared)
        if mismatch is not None:
            raise LinkError(mismatch, interface)
    flat_params, flat_results = flatten_functype(declared, "lower")
    _same(module, name, (params, results), ("".join(flat_params), "".join(flat_results)))
    name_, host = f"{interface}#{function}", offered.functions[function]
    callback = lower_import(
        name_, declared, host, current, encoding="utf8" if world is None else world.encoding
    )
    if runs_guests(interface, function):
        callback = noting_stack(callback)
    return HostFunction(module, name, params, results, callback)


class _OwnResources:
    """The resources that a module defines, in interfaces that it exports."""

    def __init__(self, module: CoreModule, world: World | None) -> None:
        self._module = module
        self._world = world
        self._known: dict[tuple[str, str], ResourceType] = {}

    def function(self, module: str, name: str, params: str, results: str) -> HostFunction:
        """The built-in `name` of one of them, imported from `module`."""
        interface = module.removeprefix(OF_EXPORT)
        prefix, _, resource = name.partition("]")
        kind = _BUILTINS.get(prefix)
        if kind is None:
            raise LinkError(f"imports {module}.{name}, which this gateway does not offer", interface)
        _same(module, name, (params, results), ("i", "" if kind == "drop" else "i"))
        rt = self._known.get((interface, resource))
        if rt is None:
            rt = self._known[interface, resource] = self._resource(interface, resource)
        return HostFunction(
            module, name, params, results, resource_import(kind, f"{interface}#{name}", rt, current)
        )

    def _resource(self, interface: str, name: str) -> ResourceType:
        exported = self._world.exports.get(interface) if self._world else None
        declared = exported.types.get(name) if isinstance(exported, InterfaceType) else None
        if not isinstance(declared, ResourceType) or declared.interface != canonical_name(interface):
            raise LinkError(
                f"imports what the resource {name} of {interface} needs, "
                "which no embedded world says that it exports",
                interface,
            )
        export = f"{interface}#[dtor]{name}"
        found = self._module.export(export)
        if found is None:
            return ResourceType(name, part=0)
        if found.type is None or (found.type.params, found.type.results) != ("i", ""):
            raise LinkError(
                f"exports {export}, a destructor, which has to be {core_type('i', '')}", interface
            )

        def destroy(instance: Any, rep: int) -> None:
            destructor = instance.function(export)
            assert destructor is not None
            destructor(rep)

        return ResourceType(name, dtor=destroy, part=0)


def may_have(offered: Offered, interface: str, grants: Grants | None) -> None:
    """LinkError when `offered` is the site's own and not lent to the component of these grants."""
    if offered.lent and grants is not None and canonical_name(interface) not in grants.host_interfaces:
        table = f"[component.{grants.id}.tool.wasm-gateway]"
        raise LinkError(
            f"imports {interface}, which tells who asks: name in `lend` in {table} what it may know"
            if canonical_name(interface) == canonical_name(identity.INTERFACE)
            else f"imports {interface}, which the site lends to components that name it: add it to "
            f"`host_interfaces` in {table}",
            interface,
        )


def runs_guests(interface: str, function: str) -> bool:
    return function in RUNS_GUESTS.get(interface.partition("@")[0], ())


def noting_stack(callback: Callback) -> Callback:
    """The same callback; the instance knows how far down the native stack it was called."""

    def noting(env: int, caller: int, raw: int, nargs: int) -> int | None:
        current.instance.called_from = raw  # arguments lie in the frame of the guest that passes them
        return callback(env, caller, raw, nargs)

    noting.__code__ = uninterrupted_entry(noting.__code__)
    return noting


def refusing(missing: MissingDriver) -> Callable[..., int]:
    """A function that fails when it is called: most SDKs import every interface, whatever the guest uses."""

    def refuse(ctx: HostContext, *_: object) -> int:
        raise HostError(str(missing))

    return refuse


def mention(interface: str, missing: MissingDriver) -> None:
    log.info("%s is imported, and a call of it would fail: %s", interface, missing)


def _missing(module: str, name: str, params: str, results: str, missing: MissingDriver) -> HostFunction:
    callback = raw_import(f"{module}.{name}", params, results, refusing(missing), current)
    return HostFunction(module, name, params, results, callback)


def _same(module: str, name: str, guest: tuple[str, str], host: tuple[str, str]) -> None:
    if guest != host:
        raise LinkError(
            f"imports {module}.{name} with the core type {core_type(*guest)}, but it is {core_type(*host)}",
            module,
        )


# Made once for all guests that export the same function.
_lift = lru_cache(lift_export)


def lift(program: Program, linkage: Linkage, export: str, type_: FuncType) -> LiftedFunction:
    """The export `export` of a core module as a function of `type_`; LinkError where it cannot be one.

    A reactor's `_initialize` is called before it, as it is for any component made of such a module.
    """
    flat = flatten_functype(type_, "lift")
    post_return = f"cabi_post_{export}"
    if not program.exports(export, *flat):
        raise LinkError(f"exports no function {export}", export)
    frees = program.exports(post_return, flat.results, "")
    initializes = program.exports("_initialize", "", "")
    needs_allocator = any(uses_memory(t) for t in type_.param_types())
    if needs_allocator and not any(program.exports(name, "iiii", "i") for name in ALLOCATORS):
        raise LinkError(f"exports no allocator ({' or '.join(ALLOCATORS)}), which {export} needs", export)
    if ("memory", "memory") not in {(item.name, item.kind) for item in linkage.module.exports}:
        raise LinkError("exports no memory, which its host has to share with it")
    core = program.signature(export)
    assert core is not None
    return LiftedFunction(
        type_,
        _lift(export, type_, 0, linkage.encoding),
        core,
        program.signature(post_return) if frees else None,
        program.signature("_initialize") if initializes else None,
    )
