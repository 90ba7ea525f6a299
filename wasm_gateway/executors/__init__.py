"""One file per dialect of guests; `load_guest` finds out which one a guest speaks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from ..compile_cache import CompileCache
from ..component.core import preamble
from ..component.names import canonical_name
from ..component.rewrite import exports, rewrite
from ..component.types import FuncType, ResultType, describe_mismatch
from ..component_options import ComponentOptions
from ..engine import Engine, Program
from ..errors import LinkError, UnsupportedError
from ..host.application import Hosts
from ..host.base import Grants
from ..host.files import MountPoint
from ..host.wasi.state import WasiTemplate
from ..instance import Limits, Services
from ..linked import LinkedProgram
from . import legacy_flat, spin
from .core_module import Linkage, lift, link
from .guest import (
    HTTP_0_2_HANDLERS,
    HTTP_P3_HANDLERS,
    Executor,
    Guest,
    LiftedFunction,
    MessageExecutor,
    Provider,
)
from .spin import SpinExecutor, SpinRedisExecutor
from .wagi import WagiExecutor

__all__ = [
    "Executor",
    "Guest",
    "Linkage",
    "MessageExecutor",
    "Provider",
    "component_dialects",
    "dialects",
    "link",
    "load_guest",
]

# What this host recognises, for the error that lists it (Spin: http, 7).
KNOWN = (
    "wasi:http/handler@0.3 (Spin 4, wasmtime serve), or its snapshot of 2026-03-15",
    "wasi:http/incoming-handler@0.2 (Spin 2 and 3, wasmCloud, wasmtime serve), or its two snapshots of 2023",
    "fermyon:spin/inbound-http (Spin 1)",
    "handle-http-request (a module of the older flat ABI)",
    '_start or wasi:cli/run (a WASI command, with executor = { type = "wagi" })',
)
WASI_HTTP_P3 = "wasi-http-p3"
# Interfaces of a command (Spin: http, 7). What exports the one of 0.3 exports that of 0.2 for its libc only.
CLI_RUN = (
    "wasi:cli/run@0.3",
    "wasi:cli/run@0.3.0-rc-2026-03-15",
    "wasi:cli/run@0.2",
    "wasi:cli/run@0.2.0-rc-2023-12-05",
    "wasi:cli/run@0.2.0-rc-2023-11-10",
    "wasi:cli/run@0.2.0-rc-2023-10-18",
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
    providers: Sequence[Provider] = (),
    chain: Sequence[Provider] = (),
) -> tuple[Executor | None, MessageExecutor | None]:
    """Compile and link `wasm`, and make the executors that its triggers want.

    `wagi_argv` is the trigger's argv pattern when its executor is WAGI, `providers` are what it is composed
    with, `chain` what stands before it. Raises DecodeError,
    UnsupportedError or LinkError when the guest cannot serve its triggers.
    """
    program: Program | LinkedProgram
    if preamble(wasm) == "component":
        # imported where it is needed: a worker without such guests starts faster
        from .component import link_component

        linked = link_component(wasm, engine, cache, hosts, grants, providers, chain)
        program = linked.program

        def find(interface: str, function: str) -> Any:
            return linked.functions.get((interface, function))
    elif providers or chain:
        raise UnsupportedError(
            "it is to be composed with other components, and it is a core module: make it a component "
            "(wasm-tools component new)",
            "dependencies of core modules",
        )
    else:
        linkage = link(wasm, hosts, grants)
        module = linkage.module
        program = core = Program(
            engine,
            engine.compile(wasm, cache, lambda wasm: rewrite(wasm, module)),
            linkage.functions,
            exports=exports(module),
            starts=module.has_start,
        )

        def find(interface: str, function: str) -> Any:
            return _core_export(core, linkage, interface, function)

    guest = Guest(
        grants=grants,
        options=options,
        limits=Limits(options.max_memory, options.max_table_elements),
        program=program,
        wasi=WasiTemplate(grants.environment, mounts, max_disk=options.max_disk),
        services=services,
    )
    http = _http_executor(guest, find, hosts, wagi_argv) if wants_http else None
    messages = _message_executor(guest, find) if wants_messages else None
    return http, messages


def dialects(linkage: Linkage) -> list[str]:
    """What a core module could be run as, by its exports."""
    names = set()
    for item in linkage.module.exports:
        interface, separator, function = item.name.partition("#")
        names.add(canonical_name(interface) + separator + function)
    return [
        name
        for name, exports in (
            ("wasi-http", [f"{interface}#handle" for interface in HTTP_0_2_HANDLERS]),
            ("spin", ["#".join(spin.HTTP)]),
            ("spin-redis", ["#".join(spin.REDIS)]),
            ("legacy-flat", [legacy_flat.HTTP_EXPORT]),
            ("legacy-flat-redis", [legacy_flat.REDIS_EXPORT]),
            (WagiExecutor.dialect, ["_start", *(f"{interface}#run" for interface in CLI_RUN)]),
        )
        if not names.isdisjoint(exports)
    ]


def component_dialects(exports: Iterable[str]) -> list[str]:
    """What a component could be run as, by the names of its exports."""
    names = {canonical_name(name) for name in exports}
    return [
        dialect
        for dialect, interfaces in (
            (WASI_HTTP_P3, HTTP_P3_HANDLERS),
            ("wasi-http", HTTP_0_2_HANDLERS),
            ("spin", spin.HTTP[:1]),
            ("spin-redis", (spin.REDIS[0], spin.REDIS_3[0])),
            (WagiExecutor.dialect, CLI_RUN),
        )
        if not names.isdisjoint(interfaces)
    ]


Find = Callable[[str, str], "LiftedFunction | None"]


def _http_executor(guest: Guest, find: Find, hosts: Hosts, wagi_argv: str | None) -> Executor:
    if wagi_argv is not None:
        for name in CLI_RUN:
            run = find(name, "run")
            if run is not None:
                expected = FuncType((), ResultType(), "@0.3" in name)
                return WagiExecutor(guest, wagi_argv, _checked(run, f"{name} run", expected))
        return WagiExecutor(guest, wagi_argv)
    for name in HTTP_P3_HANDLERS:
        handler = find(name, "handle")
        if handler is not None:
            from .wasi_http_p3 import WasiHttpP3Executor

            return WasiHttpP3Executor(
                guest, _checked(handler, f"{name} handle", hosts.exported(name).funcs["handle"])
            )
    for name in HTTP_0_2_HANDLERS:
        handler = find(name, "handle")
        if handler is not None:
            from .wasi_http import WasiHttpExecutor

            return WasiHttpExecutor(
                guest, _checked(handler, f"{name} handle", hosts.exported(name).funcs["handle"])
            )
    handler = find(*spin.HTTP)
    if handler is not None:
        return SpinExecutor(guest, _checked(handler, " ".join(spin.HTTP), spin.declared(*spin.HTTP)))
    handler = find("", legacy_flat.HTTP_EXPORT)
    if handler is not None:
        return SpinExecutor(guest, handler, "legacy-flat")
    raise LinkError("exports no HTTP handler that is known here: " + "; ".join(KNOWN))


def _message_executor(guest: Guest, find: Find) -> MessageExecutor:
    for exported in (spin.REDIS_3, spin.REDIS):
        handler = find(*exported)
        if handler is not None:
            return SpinRedisExecutor(guest, _checked(handler, " ".join(exported), spin.declared(*exported)))
    handler = find("", legacy_flat.REDIS_EXPORT)
    if handler is not None:
        return SpinRedisExecutor(guest, handler, "legacy-flat-redis")
    raise LinkError(
        "exports no handler of Redis messages: spin:redis/inbound-redis@3, fermyon:spin/inbound-redis, "
        "handle-redis-message"
    )


def _checked(handler: Any, name: str, expected: FuncType) -> Any:
    """`handler`, whose type has to be the one that this host calls."""
    mismatch = describe_mismatch(name, handler.type, expected)
    if mismatch is not None:
        raise LinkError(mismatch, name)
    return handler


def _core_export(program: Program, linkage: Linkage, interface: str, function: str) -> LiftedFunction | None:
    """A function that a core module exports by the canonical ABI, None where it does not."""
    if not interface:
        flat = {legacy_flat.HTTP_EXPORT: spin.HTTP, legacy_flat.REDIS_EXPORT: spin.REDIS}.get(function)
        if flat is None or function not in program.functions:
            return None
        return lift(program, linkage, function, spin.declared(*flat))
    exported = linkage.exported(interface, function)
    if exported is not None:
        name, type_ = exported
        return lift(program, linkage, name, type_) if name in program.functions else None
    if f"{interface}#{function}" in program.functions:
        raise LinkError(
            f"exports {interface}#{function} without an embedded component-type that describes it", interface
        )
    return None
