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

from ..component.canon import Callback, lower_import, raw_import
from ..component.core import CoreModule, core_module
from ..component.decode import World, embedded_worlds
from ..component.layout import flatten_functype
from ..component.lift import StringEncoding
from ..component.types import FuncType, InterfaceType, describe_mismatch
from ..engine import HostFunction, core_type, current
from ..errors import HostError, LinkError, UnsupportedError
from ..host.application import Hosts, MissingDriver
from ..host.base import HostContext
from ..host.wasi_preview1 import FUNCTIONS as WASI_FUNCTIONS
from ..host.wasi_preview1 import Preview1
from . import legacy_flat

log = logging.getLogger("wasm_gateway")

WASI = "wasi_snapshot_preview1"

# Interfaces through which a guest may run another one in its own thread (Spin: http, 10.3).
RUNS_GUESTS = frozenset({"fermyon:spin/http"})


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

    def exported(self, interface: str, function: str) -> FuncType | None:
        """The type of a function that the module's embedded world exports, None when it does not."""
        found = self.world.exports.get(interface) if self.world else None
        return found.funcs.get(function) if isinstance(found, InterfaceType) else None


def link(wasm: bytes, hosts: Hosts) -> Linkage:
    """Find a host function for each import of the core module `wasm`.

    Raises DecodeError for malformed bytes, LinkError for an import that nobody offers, or that is offered
    with another type, UnsupportedError for one that no core module here may have.
    """
    module = core_module(wasm)
    world = embedded_worlds(module) if module.has_world else None
    functions: dict[tuple[str, str], HostFunction] = {}
    missing: dict[str, MissingDriver] = {}
    wasi = Preview1().functions()
    for item in module.imports:
        if item.kind != "func":
            raise UnsupportedError(
                f"imports the {item.kind} {item.module}.{item.name}; a guest brings its own",
                f"imported {item.kind}",
            )
        key = (item.module, item.name)
        if key in functions:  # AssemblyScript imports some twice
            _same(*key, item.signature, (functions[key].params, functions[key].results))
        elif item.module == WASI:
            functions[key] = _wasi(item.name, wasi, *item.signature)
        else:
            try:
                functions[key] = _interface(item.module, item.name, world, hosts, *item.signature)
            except MissingDriver as error:
                missing[item.module] = error
                functions[key] = _missing(*key, *item.signature, error)
    for name, reason in missing.items():
        log.warning("%s is imported, and a call of it would fail: %s", name, reason)
    return Linkage(module, world, tuple(functions.values()))


def _wasi(name: str, family: dict[str, Callable[..., int | None]], params: str, results: str) -> HostFunction:
    declared = WASI_FUNCTIONS.get(name)
    if declared is None:
        raise LinkError(f"imports {WASI}.{name}, which does not exist", WASI)
    _same(WASI, name, (params, results), (declared.params, declared.results))
    callback = raw_import(f"{WASI}.{name}", params, results, family[name], current)
    return HostFunction(WASI, name, params, results, callback)


def _interface(
    module: str, name: str, world: World | None, hosts: Hosts, params: str, results: str
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
    if interface in RUNS_GUESTS:
        callback = _noting_stack(callback)
    return HostFunction(module, name, params, results, callback)


def _noting_stack(callback: Callback) -> Callback:
    """The same callback; the instance knows how far down the native stack it was called."""

    def noting(env: int, caller: int, raw: int, nargs: int) -> int | None:
        current.instance.called_from = raw  # arguments lie in the frame of the guest that passes them
        return callback(env, caller, raw, nargs)

    return noting


def _missing(module: str, name: str, params: str, results: str, missing: MissingDriver) -> HostFunction:
    """A function that fails when it is called: most SDKs import every interface, whatever the guest uses."""

    def refuse(ctx: HostContext, *_: object) -> int:
        raise HostError(str(missing))

    callback = raw_import(f"{module}.{name}", params, results, refuse, current)
    return HostFunction(module, name, params, results, callback)


def _same(module: str, name: str, guest: tuple[str, str], host: tuple[str, str]) -> None:
    if guest != host:
        raise LinkError(
            f"imports {module}.{name} with the core type {core_type(*guest)}, but it is {core_type(*host)}",
            module,
        )
