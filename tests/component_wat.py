"""Components in text, whose imports are written down from what this host offers.

A test names the functions that it calls and writes the core code that calls them; the types, the lowering
and the core signatures come out of the host's own declarations. Fixture `components` is the Toolkit.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pytest

from tests.guest_wat import vector
from wasm_gateway.component.layout import MAX_FLAT_ASYNC_PARAMS, flatten_functype, flatten_types
from wasm_gateway.component.names import canonical_name
from wasm_gateway.component.types import (
    BorrowType,
    EnumType,
    FlagsType,
    FuncType,
    FutureType,
    InterfaceType,
    ListType,
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
)
from wasm_gateway.engine import wat2wasm
from wasm_gateway.host.application import Hosts
from wasm_gateway.runtime_config import RuntimeConfig

CORE = {"i": "i32", "l": "i64", "f": "f32", "d": "f64"}
# In front of the name of a function that a guest calls asynchronously.
ASYNC = "async "
HTTP = "wasi:http/types@0.2.0"
STREAMS = "wasi:io/streams@0.2.0"

# Memory, an allocator that frees all at once ($reset): `$main` has both. 0 to 4095 are the test's own.
FIELDS = """
    (memory (export "memory") 4)
    (global $top (mut i32) (i32.const 65536))
    (func $reset (export "reset") (global.set $top (i32.const 65536)))
    (func $realloc (export "cabi_realloc") (param i32 i32 i32 i32) (result i32)
      (global.set $top (i32.and (i32.add (global.get $top) (i32.const 15)) (i32.const -16)))
      (global.get $top)
      (global.set $top (i32.add (global.get $top) (local.get 3)))
      (block (br_if 0 (i32.le_u (global.get $top) (i32.mul (memory.size) (i32.const 65536))))
        (drop (memory.grow (i32.add (i32.shr_u (local.get 3) (i32.const 16)) (i32.const 1))))))"""
MEMORY = f"""
  (core module $mem {FIELDS})
  (core instance $m (instantiate $mem))
  (alias core export $m "memory" (core memory $memory))
  (alias core export $m "cabi_realloc" (core func $realloc))
  (alias core export $m "reset" (core func $reset))"""

# What a guest of wasi:http needs to answer: $answer(out, status, pointer, length).
ANSWER = """
    (func $answer (param $out i32) (param $status i32) (param $at i32) (param $size i32)
      (local $response i32) (local $body i32) (local $stream i32) (local $chunk i32)
      (local.set $response (call $outgoing-response (call $fields)))
      (drop (call $outgoing-response.set-status-code (local.get $response) (local.get $status)))
      (call $outgoing-response.body (local.get $response) (i32.const 4000))
      (local.set $body (i32.load (i32.const 4004)))
      (call $response-outparam.set (local.get $out) (i32.const 0) (local.get $response) (i32.const 0)
        (i64.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0))
      (call $outgoing-body.write (local.get $body) (i32.const 4000))
      (local.set $stream (i32.load (i32.const 4004)))
      (loop $more
        (local.set $chunk (select (local.get $size) (i32.const 4096)
          (i32.lt_u (local.get $size) (i32.const 4096))))
        (call $output-stream.blocking-write-and-flush (local.get $stream) (local.get $at) (local.get $chunk)
          (i32.const 4000))
        (local.set $at (i32.add (local.get $at) (local.get $chunk)))
        (local.set $size (i32.sub (local.get $size) (local.get $chunk)))
        (br_if $more (local.get $size)))
      (call $drop.output-stream (local.get $stream))
      (call $outgoing-body.finish (local.get $body) (i32.const 0) (i32.const 0) (i32.const 4000)))"""
ANSWERING = {
    HTTP: (
        *("[constructor]fields", "[constructor]outgoing-response", "[method]outgoing-response.body"),
        *("[method]outgoing-response.set-status-code", "[static]response-outparam.set"),
        *("[method]outgoing-body.write", "[static]outgoing-body.finish"),
    ),
    STREAMS: ("[method]output-stream.blocking-write-and-flush", "[resource-drop]output-stream"),
}

# For a guest that does it by itself: code that begins a response whose body is `$sink`, and ends it; and one
# that reads a chunk of the request, writes it to the response, forgets it.
ECHO_USES = {
    HTTP: ("[method]incoming-request.consume", "[method]incoming-body.stream"),
    STREAMS: (
        *("[method]input-stream.blocking-read", "[method]output-stream.check-write"),
        *("[method]output-stream.write", "[resource-drop]input-stream"),
    ),
}
BEGIN = """
  (local.set $response (call $outgoing-response (call $fields)))
  (call $outgoing-response.body (local.get $response) (i32.const 16))
  (local.set $body (i32.load (i32.const 20)))
  (call $response-outparam.set (local.get $out) (i32.const 0) (local.get $response) (i32.const 0)
    (i64.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0))
  (call $outgoing-body.write (local.get $body) (i32.const 16))
  (local.set $sink (i32.load (i32.const 20)))"""
LOCALS = "(local $response i32) (local $body i32) (local $sink i32) (local $in i32)"
END = """
  (call $drop.output-stream (local.get $sink))
  (call $outgoing-body.finish (local.get $body) (i32.const 0) (i32.const 0) (i32.const 16))"""
ECHO = f"""{LOCALS}
  (call $incoming-request.consume (local.get $request) (i32.const 16))
  (call $incoming-body.stream (i32.load (i32.const 20)) (i32.const 16))
  (local.set $in (i32.load (i32.const 20)))
  {BEGIN}
  (block $done (loop $more
    (call $input-stream.blocking-read (local.get $in) (i64.const 65536) (i32.const 16))
    (br_if $done (i32.load (i32.const 16)))
    (call $output-stream.check-write (local.get $sink) (i32.const 32))
    (if (i64.lt_u (i64.load (i32.const 40)) (i64.extend_i32_u (i32.load (i32.const 24))))
      (then (unreachable)))
    (call $output-stream.write (local.get $sink) (i32.load (i32.const 20)) (i32.load (i32.const 24))
      (i32.const 32))
    (call $reset)
    (br $more)))
  {END}"""

# For a guest that passes bodies on, trailers included: $pump copies a stream to its end and drops both;
# $trailers waits for what follows the incoming-body and finishes the outgoing-body with it.
PUMP_USES = {
    HTTP: (
        *("[static]incoming-body.finish", "[method]future-trailers.subscribe"),
        *("[method]future-trailers.get", "[resource-drop]future-trailers"),
    ),
    STREAMS: ("[method]output-stream.blocking-splice", "[resource-drop]input-stream"),
    "wasi:io/poll@0.2.0": ("[method]pollable.block", "[resource-drop]pollable"),
}
PUMP = """
  (func $pump (param $in i32) (param $sink i32)
    (loop $more
      (call $output-stream.blocking-splice (local.get $sink) (local.get $in) (i64.const 65536) (i32.const 16))
      (br_if $more (i32.eqz (i32.load8_u (i32.const 16)))))
    (call $drop.input-stream (local.get $in))
    (call $drop.output-stream (local.get $sink)))
  (func $wait (param $pollable i32)
    (call $pollable.block (local.get $pollable))
    (call $drop.pollable (local.get $pollable)))
  (func $trailers (param $body i32) (param $out i32) (local $future i32)
    (local.set $future (call $incoming-body.finish (local.get $body)))
    (call $wait (call $future-trailers.subscribe (local.get $future)))
    (call $future-trailers.get (local.get $future) (i32.const 64))
    (if (i32.ne (i32.load8_u (i32.const 64)) (i32.const 1)) (then (unreachable)))
    (if (i32.load8_u (i32.const 72)) (then (unreachable)))
    (if (i32.load8_u (i32.const 80)) (then (unreachable)))
    (call $outgoing-body.finish (local.get $out)
      (i32.load8_u (i32.const 88)) (i32.load (i32.const 92)) (i32.const 16))
    (if (i32.load8_u (i32.const 16)) (then (unreachable)))
    (call $future-trailers.get (local.get $future) (i32.const 64))
    (if (i32.eqz (i32.load8_u (i32.const 72))) (then (unreachable)))
    (call $drop.future-trailers (local.get $future)))"""
RECEIVE = """
  (call $incoming-request.consume (local.get $request) (i32.const 16))
  (local.set $received (i32.load (i32.const 20)))
  (call $incoming-body.stream (local.get $received) (i32.const 16))
  (local.set $in (i32.load (i32.const 20)))"""
PASS_ON = f"""{LOCALS} (local $received i32) {RECEIVE} {BEGIN}
  (call $pump (local.get $in) (local.get $sink))
  (call $trailers (local.get $received) (local.get $body))"""
# The same by way of another server, whose authority are the bytes from 1024 on, as many as $size.
PROXY_USES = {
    HTTP: (
        *("[constructor]outgoing-request", "[method]outgoing-request.body", "[method]fields.append"),
        *("[method]outgoing-request.set-method", "[method]outgoing-request.set-authority"),
        *("[method]outgoing-request.set-path-with-query", "[method]outgoing-request.set-scheme"),
        *("[method]future-incoming-response.subscribe", "[method]future-incoming-response.get"),
        *("[method]incoming-response.consume", "[resource-drop]future-incoming-response"),
    ),
    "wasi:http/outgoing-handler@0.2.0": ("handle",),
}
PROXY_DATA = """
  (data (i32.const 900) "te") (data (i32.const 902) "trailers") (data (i32.const 910) "/b")
  (data (i32.const 920) "trailer") (data (i32.const 930) "x-sum, x-more")"""


def proxy(size: int) -> str:
    return f"""{LOCALS} (local $received i32) (local $asked i32) (local $out2 i32) (local $future i32)
  (local $fields i32) {RECEIVE}
  (local.set $fields (call $fields))
  (call $fields.append (local.get $fields) (i32.const 900) (i32.const 2) (i32.const 902) (i32.const 8)
    (i32.const 16))
  (call $fields.append (local.get $fields) (i32.const 920) (i32.const 7) (i32.const 930) (i32.const 13)
    (i32.const 16))
  (local.set $asked (call $outgoing-request (local.get $fields)))
  (drop (call $outgoing-request.set-method (local.get $asked) (i32.const 2) (i32.const 0) (i32.const 0)))
  (drop (call $outgoing-request.set-scheme (local.get $asked) (i32.const 1) (i32.const 0) (i32.const 0)
    (i32.const 0)))
  (drop (call $outgoing-request.set-authority (local.get $asked)
    (i32.const 1) (i32.const 1024) (i32.const {size})))
  (drop (call $outgoing-request.set-path-with-query (local.get $asked)
    (i32.const 1) (i32.const 910) (i32.const 2)))
  (call $outgoing-request.body (local.get $asked) (i32.const 16))
  (local.set $out2 (i32.load (i32.const 20)))
  (call $handle (local.get $asked) (i32.const 0) (i32.const 0) (i32.const 32))
  (if (i32.load8_u (i32.const 32)) (then (unreachable)))
  (local.set $future (i32.load (i32.const 40)))
  (call $outgoing-body.write (local.get $out2) (i32.const 16))
  (call $pump (local.get $in) (i32.load (i32.const 20)))
  (call $trailers (local.get $received) (local.get $out2))
  (call $wait (call $future-incoming-response.subscribe (local.get $future)))
  (call $future-incoming-response.get (local.get $future) (i32.const 64))
  (if (i32.load8_u (i32.const 80)) (then (unreachable)))
  (call $drop.future-incoming-response (local.get $future))
  (call $incoming-response.consume (i32.load (i32.const 88)) (i32.const 16))
  (local.set $received (i32.load (i32.const 20)))
  (call $incoming-body.stream (local.get $received) (i32.const 16))
  (local.set $in (i32.load (i32.const 20)))
  {BEGIN}
  (call $pump (local.get $in) (local.get $sink))
  (call $trailers (local.get $received) (local.get $body))"""


# What a task needs: its result, and to wait for what it has begun.
TASK_BUILTINS = """
    (core func $task.return (canon task.return (result string) (memory $memory)))
    (core func $waitable-set.new (canon waitable-set.new))
    (core func $waitable-set.wait (canon waitable-set.wait (memory $memory)))
    (core func $waitable-set.drop (canon waitable-set.drop))
    (core func $waitable.join (canon waitable.join))
    (core func $subtask.cancel (canon subtask.cancel))
    (core func $subtask.drop (canon subtask.drop))
"""
TASK_SIGNATURES = {
    "task.return": "(param i32 i32)",
    "waitable-set.new": "(result i32)",
    "waitable-set.wait": "(param i32 i32) (result i32)",
    "waitable-set.drop": "(param i32)",
    "waitable.join": "(param i32 i32)",
    "subtask.cancel": "(param i32) (result i32)",
    "subtask.drop": "(param i32)",
}
AWAIT = """
    (func $await (param $packed i32)
      (local $set i32) (local $subtask i32)
      (if (i32.eq (i32.and (local.get $packed) (i32.const 15)) (i32.const 2)) (then (return)))
      (local.set $subtask (i32.shr_u (local.get $packed) (i32.const 4)))
      (local.set $set (call $waitable-set.new))
      (call $waitable.join (local.get $subtask) (local.get $set))
      (loop $again
        (drop (call $waitable-set.wait (local.get $set) (i32.const 4080)))
        (br_if $again (i32.ne (i32.load (i32.const 4084)) (i32.const 2))))
      (call $subtask.drop (local.get $subtask))
      (call $waitable-set.drop (local.get $set)))"""


Uses = Mapping[str, Sequence[str]]


def joined(*several: Uses) -> Uses:
    """The functions of all, interface by interface."""
    names = dict.fromkeys(name for uses in several for name in uses)
    return {name: list(dict.fromkeys(f for uses in several for f in uses.get(name, ()))) for name in names}


class _Interface:
    """An instance type as text: what `functions` of an interface need."""

    def __init__(self, component: Component, name: str, type_: InterfaceType) -> None:
        self.component = component
        self.name = name
        self.type = type_
        self.lines: list[str] = []
        self.known: dict[Any, str] = {}

    def resource(self, rt: ResourceType) -> str:
        found = self.known.get(rt)
        if found is not None:
            return found
        label = f"$r{len(self.known)}"
        if rt.interface == canonical_name(self.name):
            self.lines.append(f'(export "{rt.name}" (type {label} (sub resource)))')
        else:
            outer = self.component.resource(rt)
            self.lines.append(f"(alias outer 1 {outer} (type {label}o))")
            self.lines.append(f'(export "{rt.name}" (type {label} (eq {label}o)))')
        self.known[rt] = label
        return label

    def valtype(self, t: ValType) -> str:
        match t:
            case PrimValType():
                return str(t)
            case ListType(u):
                return f"(list {self.valtype(u)})"
            case OptionType(u):
                return f"(option {self.valtype(u)})"
            case ResultType(ok, err):
                inner = "" if ok is None else f" {self.valtype(ok)}"
                return f"(result{inner}{'' if err is None else f' (error {self.valtype(err)})'})"
            case TupleType(ts):
                return f"(tuple {' '.join(map(self.valtype, ts))})"
            case StreamType(u) | FutureType(u):
                kind = "stream" if isinstance(t, StreamType) else "future"
                return f"({kind}{'' if u is None else ' ' + self.valtype(u)})"
            case OwnType(rt):
                return f"(own {self.resource(rt)})"
            case BorrowType(rt):
                return f"(borrow {self.resource(rt)})"
        found = self.known.get(id(t))
        if found is not None:
            return found
        match t:
            case RecordType(fields, name):
                text = "(record " + " ".join(f'(field "{f.label}" {self.valtype(f.t)})' for f in fields)
            case VariantType(cases, name):
                text = "(variant " + " ".join(
                    f'(case "{c.label}"{"" if c.t is None else " " + self.valtype(c.t)})' for c in cases
                )
            case EnumType(labels, name):
                text = "(enum " + " ".join(f'"{label}"' for label in labels)
            case FlagsType(labels, name):
                text = "(flags " + " ".join(f'"{label}"' for label in labels)
            case _:
                raise NotImplementedError(t)
        label = f"$t{len(self.known)}"
        self.lines.append(f"(type {label}o {text}))")
        self.lines.append(f'(export "{name}" (type {label} (eq {label}o)))')
        self.known[id(t)] = label
        return label

    def functype(self, ft: FuncType) -> str:
        params = "".join(f' (param "{name}" {self.valtype(t)})' for name, t in ft.params)
        kind = "func async" if ft.async_ else "func"
        return f"({kind}{params}{'' if ft.result is None else f' (result {self.valtype(ft.result)})'})"

    def function(self, name: str) -> None:
        self.lines.append(f'(export "{name}" {self.functype(self.type.funcs[name])})')


class Component:
    def __init__(self, hosts: Hosts, uses: Uses) -> None:
        self.hosts = hosts
        self.uses = {name: list(functions) for name, functions in uses.items()}
        self.imports: dict[str, _Interface] = {}
        self.resources: dict[ResourceType, str] = {}
        self.text: list[str] = []

    def interface(self, name: str) -> _Interface:
        """The import of an interface, with the functions that are used; once for compatible versions."""
        canonical = canonical_name(name)
        found = self.imports.get(canonical)
        if found is None:
            offered = self.hosts.interface(name)
            assert offered is not None, name
            found = self.imports[canonical] = _Interface(self, name, offered.type)
            for key in self.uses.get(name, ()):
                if key.startswith("[resource-drop]"):
                    rt = offered.type.types[key.removeprefix("[resource-drop]")]
                    assert isinstance(rt, ResourceType)
                    found.resource(rt)
                else:
                    found.function(key.removeprefix(ASYNC))
        return found

    def resource(self, rt: ResourceType) -> str:
        """The name of a resource type at the level of the component; its interface is imported before."""
        found = self.resources.get(rt)
        if found is None:
            assert rt.interface is not None
            whole = f"{rt.interface}.0" if rt.interface.endswith(("@0.2", "@0.3")) else rt.interface
            name = next((n for n in self.uses if canonical_name(n) == rt.interface), whole)
            interface = self.interface(name)
            interface.resource(rt)
            found = self.resources[rt] = f"$res{len(self.resources)}"
        return found

    def emit(self, interface: _Interface, number: int) -> None:
        lines = "\n    ".join(interface.lines)
        self.text.append(f'  (import "{interface.name}" (instance $i{number}\n    {lines}))')
        for rt, name in self.resources.items():
            if rt.interface == canonical_name(interface.name):
                self.text.append(f'  (alias export $i{number} "{rt.name}" (type {name}))')


def core_label(function: str) -> str:
    """The name of a lowered function in core text: `fields.get`, `drop.fields`, `async.store.get`."""
    if function.startswith(ASYNC):
        return "async." + core_label(function.removeprefix(ASYNC))
    for prefix in ("[constructor]", "[method]", "[static]"):
        function = function.removeprefix(prefix)
    return "drop." + function.removeprefix("[resource-drop]") if "[resource-drop]" in function else function


def core_signature(ft: FuncType, async_: bool = False) -> str:
    """The core type of a lowered function, as text."""
    if async_:
        params = flatten_types(ft.param_types())
        types = " i32" if len(params) > MAX_FLAT_ASYNC_PARAMS else "".join(f" {core}" for core in params)
        return f" (param{types}{'' if ft.result is None else ' i32'}) (result i32)"
    flat = flatten_functype(ft, "lower")
    return "".join(f" (param {CORE[letter]})" for letter in flat.params) + "".join(
        f" (result {CORE[letter]})" for letter in flat.results
    )


class Toolkit:
    """Makes components; `interfaces` of the site are known to it too."""

    def __init__(self, interfaces: Iterable[Any] = ()) -> None:
        self.hosts = Hosts(RuntimeConfig(), interfaces=tuple(interfaces))

    def with_interfaces(self, *interfaces: Any) -> Toolkit:
        return Toolkit(interfaces)

    def text(
        self,
        core: str,
        uses: Uses,
        export: str,
        *,
        resources: Sequence[ResourceType] = (),
        builtins: str = "",
        signatures: Mapping[str, str] | None = None,
    ) -> str:
        """A component around the core code `core`, which finds what it uses as `$fields.get` and the like.

        `export` is what follows the instance `$core` of that code; `builtins` are definitions of core
        functions that it finds too, by their names in `signatures`.
        """
        component, numbers = self._importing(uses, resources)
        lowered, imported, given = [], [], []
        for name, functions in uses.items():
            interface = component.interface(name)
            number = numbers[canonical_name(name)]
            for function in functions:
                label = core_label(function)
                if function.startswith("[resource-drop]"):
                    rt = interface.type.types[function.removeprefix("[resource-drop]")]
                    assert isinstance(rt, ResourceType)
                    lowered.append(f"(core func ${label} (canon resource.drop {component.resource(rt)}))")
                    signature = "(param i32)"
                else:
                    async_ = function.startswith(ASYNC)
                    function = function.removeprefix(ASYNC)
                    options = f"(memory $memory) (realloc $realloc){' async' if async_ else ''}"
                    lowered.append(
                        f'(core func ${label} (canon lower (func $i{number} "{function}") {options}))'
                    )
                    signature = core_signature(interface.type.funcs[function], async_)
                imported.append(f'(import "h" "{label}" (func ${label} {signature}))')
                given.append(f'(export "{label}" (func ${label}))')
        for label, signature in (signatures or {}).items():
            imported.append(f'(import "h" "{label}" (func ${label} {signature}))')
            given.append(f'(export "{label}" (func ${label}))')
        new_line = "\n    "
        return f"""(component
{new_line.join(component.text)}
{MEMORY}
    {builtins}
    {new_line.join(lowered)}
  (core module $main
    (import "h" "memory" (memory 1))
    (import "h" "realloc" (func $realloc (param i32 i32 i32 i32) (result i32)))
    (import "h" "reset" (func $reset))
    {new_line.join(imported)}
    {core})
  (core instance $core (instantiate $main (with "h" (instance
    (export "memory" (memory $memory)) (export "realloc" (func $realloc)) (export "reset" (func $reset))
    {new_line.join(given)}))))
  {export.format(**{rt.name.replace("-", "_"): component.resource(rt) for rt in resources})}
)"""

    def _importing(
        self, uses: Uses, resources: Sequence[ResourceType]
    ) -> tuple[Component, Mapping[str, int]]:
        """The imports of a component as text, and which instance each of them is."""
        component = Component(self.hosts, uses)
        for rt in resources:
            component.resource(rt)
        for name in uses:
            component.interface(name)
        for name, functions in uses.items():
            for function in functions:
                if function.startswith("[resource-drop]"):
                    found = component.interface(name).type.types[function.removeprefix("[resource-drop]")]
                    assert isinstance(found, ResourceType)
                    component.resource(found)
        numbers = {name: number for number, name in enumerate(component.imports)}
        for name in self._ordered(component):
            component.emit(component.imports[name], numbers[name])
        return component, numbers

    @staticmethod
    def _ordered(component: Component) -> list[str]:
        """Imports after those whose resources they use."""
        ordered: list[str] = []

        def place(name: str) -> None:
            if name not in ordered:
                for rt in component.imports[name].known:
                    if isinstance(rt, ResourceType) and rt.interface != name:
                        assert rt.interface is not None
                        place(rt.interface)
                ordered.append(name)

        for name in component.imports:
            place(name)
        return ordered

    def http(
        self,
        body: str,
        uses: Uses | None = None,
        functions: str = "",
        data: str = "",
        *,
        version: str = "0.2.0",
        answer: tuple[str, Uses] = (ANSWER, ANSWERING),
    ) -> bytes:
        """A guest of wasi:http: `body` is the code of handle(request, out), which may call $answer.

        `functions` are more core functions, `data` are data segments. `version` takes the place of 0.2.0
        in names, `answer` is the code of $answer and what it uses.
        """
        merged, resources = self._handling(uses, version, answer[1])
        core = f"""{data}{answer[0]}
    {functions}
    (func (export "handle") (param $request i32) (param $out i32)
      {body})"""
        export = """(alias core export $core "handle" (core func $exported))
  (type $handler (func
    (param "request" (own {incoming_request})) (param "response-out" (own {response_outparam}))))
  (func $lifted (type $handler) (canon lift (core func $exported)))
  (component $shim
    (import "in" (type $q (sub resource)))
    (import "out" (type $o (sub resource)))
    (type $f (func (param "request" (own $q)) (param "response-out" (own $o))))
    (import "handle" (func $h (type $f)))
    (export $qe "incoming-request" (type $q))
    (export $oe "response-outparam" (type $o))
    (type $fe (func (param "request" (own $qe)) (param "response-out" (own $oe))))
    (export "handle" (func $h) (func (type $fe))))
  (instance $shimmed (instantiate $shim
    (with "in" (type {incoming_request})) (with "out" (type {response_outparam}))
    (with "handle" (func $lifted))))
  (export "wasi:http/incoming-handler@0.2.0" (instance $shimmed))""".replace("0.2.0", version)
        return wat2wasm(self.text(core, merged, export, resources=resources).encode())

    def _handling(
        self, uses: Uses | None, version: str, answering: Uses
    ) -> tuple[dict[str, list[str]], Sequence[ResourceType]]:
        """What a handler uses that may answer, and the resources that it is called with."""
        merged: dict[str, list[str]] = {}
        for used in (answering, uses or {}):
            for name, more in used.items():
                known = merged.setdefault(name.replace("@0.2.0", f"@{version}"), [])
                known += [function for function in more if function not in known]
        types = self.hosts.interface(HTTP.replace("0.2.0", version))
        assert types is not None
        request, out = types.type.types["incoming-request"], types.type.types["response-outparam"]
        assert isinstance(request, ResourceType)
        assert isinstance(out, ResourceType)
        return merged, (request, out)

    def http_module(
        self,
        body: str,
        uses: Uses | None = None,
        functions: str = "",
        data: str = "",
        *,
        version: str = "0.2.0",
        answer: tuple[str, Uses] = (ANSWER, ANSWERING),
        imports: str = "",
        exports: str = "",
    ) -> bytes:
        """The same as `http`, as a core module with its world in a custom section.

        `imports` are more imports of the module, `exports` more exports of the world.
        """
        merged, resources = self._handling(uses, version, answer[1])
        component, _ = self._importing(merged, resources)
        request, out = (component.resource(rt) for rt in resources)
        for name, used in merged.items():
            for function in used:
                signature = "(param i32)"
                if not function.startswith("[resource-drop]"):
                    signature = core_signature(component.interface(name).type.funcs[function])
                imports += f'(import "{name}" "{function}" (func ${core_label(function)} {signature}))'
        handler = f"wasi:http/incoming-handler@{version}"
        wasm = wat2wasm(
            f"""(module {imports} {FIELDS} {data}{answer[0]} {functions}
              (func (export "{handler}#handle") (param $request i32) (param $out i32)
                {body}))""".encode()
        )
        new_line = "\n"
        world = f"""(component (@custom "wit-component-encoding" "\\04\\00")
          (type (component (type (component
            {new_line.join(component.text)}
            (export "{handler}" (instance
              (alias outer 1 {request} (type $q)) (alias outer 1 {out} (type $o))
              (export "incoming-request" (type $request (eq $q)))
              (export "response-outparam" (type $out (eq $o)))
              (export "handle" (func (param "request" (own $request)) (param "response-out" (own $out))))))
            {exports}
          )) (export "test:guests/guest" (component (type 0)))))
          (export "guest" (type 0)))"""
        content = vector(b"component-type:guest") + wat2wasm(world.encode())
        return wasm + b"\0" + vector(content)

    def command(self, body: str, uses: Uses, data: str = "", *, version: str = "0.2.0") -> bytes:
        """A command, which exports wasi:cli/run: `body` is the code of run, and gives 1 for an error."""
        core = f"""{data}
    (func (export "run") (result i32)
      {body})"""
        export = f"""(alias core export $core "run" (core func $exported))
  (func $lifted (result (result)) (canon lift (core func $exported)))
  (instance $run (export "run" (func $lifted)))
  (export "wasi:cli/run@{version}" (instance $run))"""
        named = {name.replace("@0.2.0", f"@{version}"): functions for name, functions in uses.items()}
        return wat2wasm(self.text(core, named, export).encode())

    def task(
        self, body: str, uses: Uses, data: str = "", *, types: str = "", reads: Uses | None = None
    ) -> bytes:
        """A component with a function `run: async func() -> string`, lifted with a callback.

        `body` is its code, which calls $task.return; $await waits for the call whose packed state it is
        given. `types` are definitions of types; `reads` says which of them are read as "stream" and "future":
        $read.NAME reads synchronously.
        """
        builtins = TASK_BUILTINS
        signatures = dict(TASK_SIGNATURES)
        for kind, names in (reads or {}).items():
            for name in names:
                options = "(memory $memory) (realloc $realloc)"
                builtins += f"(core func $read.{name} (canon {kind}.read ${name} {options}))"
                size = " i32" if kind == "stream" else ""
                signatures[f"read.{name}"] = f"(param i32 i32{size}) (result i32)"
        core = f"""{data} {AWAIT}
    (func (export "back") (param i32 i32 i32) (result i32) unreachable)
    (func (export "run") (result i32)
      {body}
      (i32.const 0))"""
        export = """(alias core export $core "run" (core func $exported))
  (alias core export $core "back" (core func $callback))
  (func $lifted async (result string)
    (canon lift (core func $exported) async (memory $memory) (realloc $realloc) (callback $callback)))
  (export "run" (func $lifted))"""
        text = self.text(core, uses, export, builtins=types + builtins, signatures=signatures)
        return wat2wasm(text.encode())

    def echo(self) -> bytes:
        """A guest of wasi:http that gives back what it is sent, chunk by chunk."""
        return self.http(ECHO, ECHO_USES)

    def passing_on(self) -> bytes:
        """A guest of wasi:http that gives back the body and the trailers that it is sent."""
        return self.http(PASS_ON, joined(ECHO_USES, PUMP_USES), PUMP)

    def proxy(self, authority: str) -> bytes:
        """The same, from another server: a POST to `authority`, which must be allowed."""
        data = f'{PROXY_DATA} (data (i32.const 1024) "{authority}")'
        return self.http(proxy(len(authority)), joined(ECHO_USES, PUMP_USES, PROXY_USES), PUMP, data)

    def waiting(self, text: bytes, seconds: int) -> bytes:
        """A guest of wasi:http that writes `text` and ends so many seconds later."""
        uses = {
            STREAMS: ("[method]output-stream.check-write", "[method]output-stream.write"),
            "wasi:clocks/monotonic-clock@0.2.0": ("subscribe-duration",),
            "wasi:io/poll@0.2.0": ("[method]pollable.block",),
        }
        body = f"""{LOCALS}{BEGIN}
  (call $output-stream.check-write (local.get $sink) (i32.const 32))
  (call $output-stream.write (local.get $sink) (i32.const 64) (i32.const {len(text)}) (i32.const 32))
  (call $pollable.block (call $subscribe-duration (i64.const {seconds}_000_000_000)))
  {END}"""
        return self.http(body, uses, data=f'(data (i32.const 64) "{text.decode()}")')


@pytest.fixture(scope="session")
def components() -> Toolkit:
    return Toolkit()
