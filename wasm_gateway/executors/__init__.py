"""One file per dialect of guests; `load_guest` finds out which one a guest speaks."""

from __future__ import annotations

from collections.abc import Iterable

from ..component.core import preamble
from ..component.rewrite import exports, rewrite
from ..component.types import FuncType, describe_mismatch
from ..engine import CompileCache, Engine, Program
from ..errors import LinkError, UnsupportedError
from ..host.application import Hosts
from ..host.base import Grants
from ..host.files import MountPoint
from ..host.wasi_state import WasiTemplate
from ..instance import Limits, Services
from ..manifest import ComponentOptions
from . import legacy_flat, spin
from .core_module import Linkage, link
from .guest import Executor, Guest, MessageExecutor
from .legacy_flat import LegacyFlatExecutor, LegacyFlatRedisExecutor
from .spin import SpinExecutor, SpinRedisExecutor
from .wagi import WagiExecutor

__all__ = ["Executor", "Guest", "Linkage", "MessageExecutor", "dialects", "link", "load_guest"]

# What this host recognises, for the error that lists it (Spin: http, 7).
KNOWN = (
    "fermyon:spin/inbound-http (a Spin 1 module)",
    "handle-http-request (a module of the older flat ABI)",
    '_start (a WASI command, with executor = { type = "wagi" })',
)


def load_guest(
    wasm: bytes,
    *,
    engine: Engine,
    cache: CompileCache | None,
    hosts: Hosts,
    grants: Grants,
    options: ComponentOptions,
    mounts: Iterable[MountPoint] = (),
    services: Services,
    wagi_argv: str | None = None,
    wants_http: bool = True,
    wants_messages: bool = False,
) -> tuple[Executor | None, MessageExecutor | None]:
    """Compile and link `wasm`, and make the executors that its triggers want.

    `wagi_argv` is the trigger's argv pattern when its executor is WAGI. Raises DecodeError,
    UnsupportedError or LinkError when the guest cannot serve its triggers.
    """
    if preamble(wasm) == "component":
        raise UnsupportedError(
            "is a component, and this version runs core modules alone (WAGI, Spin 1, the flat ABI)",
            "components",
        )
    linkage = link(wasm, hosts)
    module = linkage.module
    program = Program(
        engine,
        engine.compile(wasm, cache, lambda wasm: rewrite(wasm, module)),
        linkage.functions,
        exports=exports(module),
        starts=module.has_start,
    )
    guest = Guest(
        grants=grants,
        options=options,
        limits=Limits(options.max_memory, options.max_table_elements),
        program=program,
        wasi=WasiTemplate(grants.environment, mounts),
        services=services,
        encoding=linkage.encoding,
    )
    http = _http_executor(guest, linkage, wagi_argv) if wants_http else None
    messages = _message_executor(guest, linkage) if wants_messages else None
    if wagi_argv is None and ("memory", "memory") not in {(e.name, e.kind) for e in module.exports}:
        raise LinkError("exports no memory, which its host has to share with it")
    return http, messages


def dialects(linkage: Linkage) -> list[str]:
    """What a core module could be run as, by its exports."""
    names = {item.name for item in linkage.module.exports}
    return [
        name
        for name, export in (
            (SpinExecutor.dialect, spin.HTTP_EXPORT),
            (SpinRedisExecutor.dialect, spin.REDIS_EXPORT),
            (LegacyFlatExecutor.dialect, legacy_flat.HTTP_EXPORT),
            (LegacyFlatRedisExecutor.dialect, legacy_flat.REDIS_EXPORT),
            (WagiExecutor.dialect, "_start"),
        )
        if export in names
    ]


def _http_executor(guest: Guest, linkage: Linkage, wagi_argv: str | None) -> Executor:
    if wagi_argv is not None:
        return WagiExecutor(guest, wagi_argv)
    functions = guest.program.functions
    if spin.HTTP_EXPORT in functions:
        return SpinExecutor(guest, _exported(linkage, "fermyon:spin/inbound-http", "handle-request"))
    if legacy_flat.HTTP_EXPORT in functions:
        return LegacyFlatExecutor(guest, spin.declared("fermyon:spin/inbound-http", "handle-request"))
    raise LinkError("exports no HTTP handler that is known here: " + "; ".join(KNOWN))


def _message_executor(guest: Guest, linkage: Linkage) -> MessageExecutor:
    functions = guest.program.functions
    if spin.REDIS_EXPORT in functions:
        return SpinRedisExecutor(guest, _exported(linkage, "fermyon:spin/inbound-redis", "handle-message"))
    if legacy_flat.REDIS_EXPORT in functions:
        return LegacyFlatRedisExecutor(guest, spin.declared("fermyon:spin/inbound-redis", "handle-message"))
    raise LinkError("exports no handler of Redis messages: fermyon:spin/inbound-redis, handle-redis-message")


def _exported(linkage: Linkage, interface: str, function: str) -> FuncType:
    """The type of an exported function, which the module's embedded world must agree with."""
    declared = spin.declared(interface, function)
    exported = linkage.exported(interface, function)
    if exported is None:
        raise LinkError(
            f"exports {interface}#{function} without an embedded component-type that describes it", interface
        )
    mismatch = describe_mismatch(f"{interface} {function}", exported, declared)
    if mismatch is not None:
        raise LinkError(mismatch, interface)
    return declared
