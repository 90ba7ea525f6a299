"""Components of wasi:http 0.3 in text, made as those of 0.2 are (component_wat.py).

A guest is written straight on: its handler is lifted with a callback, and calls the built-ins and what it
lowers synchronously (`$body.read`), where it then waits within its code, or asynchronously (`$body.read~`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from types import MappingProxyType

from tests.component_wat import MEMORY, Component, Toolkit, Uses, core_label, core_signature
from wasm_gateway.component.layout import flatten_types
from wasm_gateway.component.names import canonical_name
from wasm_gateway.component.types import ResourceType
from wasm_gateway.engine import wat2wasm

HTTP = "wasi:http/types@0.3.0"
CLOCK = "wasi:clocks/monotonic-clock@0.3.0"
CLIENT = "wasi:http/client@0.3.0"

ERROR_TYPES = ("DNS-error-payload", "TLS-alert-received-payload", "field-size-payload", "error-code")
_BYTES = "(memory $memory) (realloc $realloc)"
# Built-ins: name in core text -> definition, core parameters, core result.
_ENDS = {
    "body": ("stream", "$body", "i32 i32 i32"),
    "trailers": ("future", "$trailers", "i32 i32"),
    "sent": ("future", "$sent", "i32 i32"),
}
BUILTINS: dict[str, tuple[str, str, str]] = {
    "set.new": ("waitable-set.new", "", "i32"),
    "set.wait": ("waitable-set.wait (memory $memory)", "i32 i32", "i32"),
    "set.poll": ("waitable-set.poll (memory $memory)", "i32 i32", "i32"),
    "set.drop": ("waitable-set.drop", "i32", ""),
    "join": ("waitable.join", "i32 i32", ""),
    "subtask.drop": ("subtask.drop", "i32", ""),
    "subtask.cancel": ("subtask.cancel", "i32", "i32"),
}


def _end(name: str, kind: str, type_: str, params: str) -> dict[str, tuple[str, str, str]]:
    """The built-ins of a type of streams or futures."""
    return {
        f"{name}.new": (f"{kind}.new {type_}", "", "i64"),
        f"{name}.read": (f"{kind}.read {type_} {_BYTES}", params, "i32"),
        f"{name}.write": (f"{kind}.write {type_} {_BYTES}", params, "i32"),
        f"{name}.read~": (f"{kind}.read {type_} async {_BYTES}", params, "i32"),
        f"{name}.write~": (f"{kind}.write {type_} async {_BYTES}", params, "i32"),
        f"{name}.drop-readable": (f"{kind}.drop-readable {type_}", "i32", ""),
        f"{name}.drop-writable": (f"{kind}.drop-writable {type_}", "i32", ""),
    }


for _name, (_kind, _type, _params) in _ENDS.items():
    BUILTINS |= _end(_name, _kind, _type, _params)


def _builtin(named: tuple[str, tuple[str, str, str]]) -> tuple[str, str, str]:
    label, (definition, given, result) = named
    signature = f"(param {given})" * bool(given) + f" (result {result})" * bool(result)
    return label, f"(canon {definition})", signature


# What every guest here uses.
ANSWERING: Uses = {
    HTTP: (
        "[constructor]fields",
        "[static]response.new",
        "[static]request.consume-body",
        "[resource-drop]request",
    )
}
# $new(): makes a response without fields, whose body is written to $tx and the trailers to $ttx.
# $return(response) gives it back, $finish() ends body and trailers. $consume(request): $rx is its body then.
FUNCTIONS = """
  (global $tx (mut i32) (i32.const 0)) (global $ttx (mut i32) (i32.const 0))
  (global $rx (mut i32) (i32.const 0)) (global $rtrailers (mut i32) (i32.const 0))
  (func $high (param i64) (result i32) (i32.wrap_i64 (i64.shr_u (local.get 0) (i64.const 32))))
  (func $new (result i32) (local $b i64) (local $t i64)
    (local.set $b (call $body.new)) (local.set $t (call $trailers.new))
    (global.set $tx (call $high (local.get $b))) (global.set $ttx (call $high (local.get $t)))
    (call $response.new (call $fields) (i32.const 1) (i32.wrap_i64 (local.get $b))
      (i32.wrap_i64 (local.get $t)) (i32.const 4000))
    (call $sent.drop-readable (i32.load (i32.const 4004)))
    (i32.load (i32.const 4000)))
  (func $return (param i32)
    (call $task.return (i32.const 0) (local.get 0) (i32.const 0) (i64.const 0) (i32.const 0) (i32.const 0)
      (i32.const 0) (i32.const 0)))
  (func $refuse
    (call $task.return (i32.const 1) (i32.const 35) (i32.const 0) (i64.const 0) (i32.const 0) (i32.const 0)
      (i32.const 0) (i32.const 0)))
  (func $finish
    (call $body.drop-writable (global.get $tx))
    (memory.fill (i32.const 3904) (i32.const 0) (i32.const 64))
    (drop (call $trailers.write (global.get $ttx) (i32.const 3904)))
    (call $trailers.drop-writable (global.get $ttx)))
  (func $consume (param i32) (local $f i64)
    (local.set $f (call $sent.new))
    (call $request.consume-body (local.get 0) (i32.wrap_i64 (local.get $f)) (i32.const 4000))
    (global.set $rx (i32.load (i32.const 4000)))
    (global.set $rtrailers (i32.load (i32.const 4004)))
    (memory.fill (i32.const 3904) (i32.const 0) (i32.const 64))
    (drop (call $sent.write (call $high (local.get $f)) (i32.const 3904)))
    (call $sent.drop-writable (call $high (local.get $f))))
  (func $write (param $at i32) (param $size i32) (local $n i32)
    (block $over (loop $more
      (br_if $over (i32.eqz (local.get $size)))
      (local.set $n (call $body.write (global.get $tx) (local.get $at) (local.get $size)))
      (br_if $over (i32.and (local.get $n) (i32.const 15)))
      (local.set $n (i32.shr_u (local.get $n) (i32.const 4)))
      (local.set $at (i32.add (local.get $at) (local.get $n)))
      (local.set $size (i32.sub (local.get $size) (local.get $n)))
      (br $more))))
  (func $echo (local $n i32)
    (block $over (loop $more
      (local.set $n (call $body.read (global.get $rx) (i32.const 8192) (i32.const 32768)))
      (call $write (i32.const 8192) (i32.shr_u (local.get $n) (i32.const 4)))
      (br_if $more (i32.eqz (i32.and (local.get $n) (i32.const 15))))))
    (call $body.drop-readable (global.get $rx)))"""


Line = tuple[str, str, str]  # name, definition, core signature


def lowered(
    component: Component, numbers: Mapping[str, int], merged: Uses, uses: Uses, async_uses: Uses
) -> list[Line]:
    """The functions of `merged`, lowered for those of `uses`, asynchronously for those of `async_uses`."""
    lines: list[Line] = []
    for table, suffix in ((merged, ""), (async_uses, "~")):
        for name, names in table.items():
            interface = component.interface(name)
            for function in names:
                if not suffix and function in async_uses.get(name, ()) and function not in uses.get(name, ()):
                    continue
                label = core_label(function)
                if function.startswith("[resource-drop]"):
                    rt = interface.type.types[function.removeprefix("[resource-drop]")]
                    assert isinstance(rt, ResourceType)
                    lines.append((label, f"(canon resource.drop {component.resource(rt)})", "(param i32)"))
                    continue
                ft = interface.type.funcs[function]
                number = numbers[canonical_name(name)]
                options = f"(memory $memory) (realloc $realloc){' async' if suffix else ''}"
                signature = core_signature(ft)
                if suffix:
                    flat = flatten_types(ft.param_types())
                    params = ["i32"] if len(flat) > 4 else list(flat)
                    params += ["i32"] * (ft.result is not None)
                    signature = "".join(f"(param {p})" for p in params) + " (result i32)"
                lowered = f'(canon lower (func $i{number} "{function}") {options})'
                lines.append((label + suffix, lowered, signature))
    return lines


class P3Toolkit(Toolkit):
    """Makes guests of wasi:http 0.3."""

    def handler(
        self,
        body: str,
        uses: Uses | None = None,
        *,
        async_uses: Uses | None = None,
        functions: str = "",
        data: str = "",
        callback: str = "unreachable",
        version: str = "0.3.0",
    ) -> bytes:
        """`body` is the code of handle(request), which gives a callback code; `functions` are more of it.

        `async_uses` are lowered asynchronously, with "~" behind their name.
        """
        return wat2wasm(
            self._handler(body, uses or {}, async_uses or {}, functions, data, callback)
            .replace("@0.3.0", f"@{version}")
            .encode()
        )

    def _handler(
        self, body: str, uses: Uses, async_uses: Uses, functions: str, data: str, callback: str
    ) -> str:
        merged: dict[str, list[str]] = {}
        for used in (ANSWERING, uses, async_uses):
            for name, more in used.items():
                known = merged.setdefault(name, [])
                known += [function for function in more if function not in known]
        types = self.hosts.interface(HTTP)
        assert types is not None
        wanted = [types.type.types[name] for name in ("request", "response", "fields")]
        resources = [rt for rt in wanted if isinstance(rt, ResourceType)]
        component, numbers = self._importing(merged, resources)
        request, response, fields = (component.resource(rt) for rt in resources)
        lines = lowered(component, numbers, merged, uses, async_uses)
        lines += map(_builtin, BUILTINS.items())
        lines.append(
            (
                "task.return",
                "(canon task.return (result $answer) (memory $memory))",
                "(param i32 i32 i32 i64 i32 i32 i32 i32)",
            )
        )
        new_line = "\n    "
        http = numbers[canonical_name(HTTP)]
        aliases = new_line.join(f'(alias export $i{http} "{name}" (type ${name}))' for name in ERROR_TYPES)
        shim = component.interface(HTTP)
        definitions = _error_code(shim.lines)
        return f"""(component
{new_line.join(component.text)}
    {aliases}
  (type $body (stream u8))
  (type $trailers (future (result (option (own {fields})) (error $error-code))))
  (type $sent (future (result (error $error-code))))
  (type $answer (result (own {response}) (error $error-code)))
{MEMORY}
    {new_line.join(f"(core func ${label} {definition})" for label, definition, _ in lines)}
  (core module $main
    (import "h" "memory" (memory 1))
    (import "h" "realloc" (func $realloc (param i32 i32 i32 i32) (result i32)))
    (import "h" "reset" (func $reset))
    {new_line.join(f'(import "h" "{label}" (func ${label} {signature}))' for label, _, signature in lines)}
    {data}{FUNCTIONS}{functions}
    (func (export "handle") (param $request i32) (result i32)
      {body})
    (func (export "callback") (param $event i32) (param $waitable i32) (param $code i32) (result i32)
      {callback}))
  (core instance $core (instantiate $main (with "h" (instance
    (export "memory" (memory $memory)) (export "realloc" (func $realloc)) (export "reset" (func $reset))
    {new_line.join(f'(export "{label}" (func ${label}))' for label, _, _ in lines)}))))
  (alias core export $core "callback" (core func $callback))
  (func $handle async (param "request" (own {request})) (result $answer)
    (canon lift (core func $core "handle") async (callback $callback) (memory $memory) (realloc $realloc)))
  (component $shim
    (import "request" (type $r (sub resource)))
    (import "response" (type $p (sub resource)))
    {definitions}
    (import "f" (func $f async (param "request" (own $r)) (result (result (own $p) (error $ece)))))
    (export $re "request" (type $r))
    (export $pe "response" (type $p))
    (export $ee "error-code" (type $ece))
    (export "handle" (func $f)
      (func async (param "request" (own $re)) (result (result (own $pe) (error $ee))))))
  (instance $handler (instantiate $shim
    (with "request" (type {request})) (with "response" (type {response}))
    {new_line.join(f'(with "{name}" (type ${name}))' for name in ERROR_TYPES)}
    (with "f" (func $handle))))
  (export "wasi:http/handler@0.3.0" (instance $handler)))"""


def _error_code(lines: Sequence[str]) -> str:
    """The definitions of error-code and what it is made of, as imports, from those of an instance type."""
    found, definition = [], ""
    for line in lines:
        if line.startswith("(type "):
            definition = line
        for name in ERROR_TYPES:
            if line.startswith(f'(export "{name}" '):
                line = line.replace("(export", "(import")
                if name == "error-code":
                    line = re.sub(r"\(type \$\w+ ", "(type $ece ", line)
                found += [definition, line]
    return "\n    ".join(found)


# Commands.


class CommandToolkit(Toolkit):
    """Makes commands of wasi:cli 0.3, which export `run`."""

    def command(
        self,
        body: str,
        uses: Uses,
        types: str = "",
        ends: Mapping[str, tuple[str, str]] = MappingProxyType({}),
        *,
        async_uses: Uses | None = None,
        data: str = "",
        callback: str = "unreachable",
        answer: str = "(result)",
        version: str = "0.3.0",
    ) -> bytes:
        """`body` is the code of `run`, which calls `$return` (0: ok, 1: error) and gives a callback code.

        `types` are definitions at the level of the component, where the last interface in `uses` is `$last`,
        and its error-code `$error-code`. `ends` are streams and futures: name in core text -> kind, type of
        elements.
        """
        async_uses = async_uses or {}
        merged = {name: list(functions) for name, functions in uses.items()}
        for name, more in async_uses.items():
            known = merged.setdefault(name, [])
            known += [function for function in more if function not in known]
        component, numbers = self._importing(merged, ())
        lines = lowered(component, numbers, merged, uses, async_uses)
        builtins = {
            name: builtin for name, builtin in BUILTINS.items() if name.partition(".")[0] not in _ENDS
        }
        for name, (kind, _) in ends.items():
            builtins |= _end(name, kind, f"${name}", "i32 i32 i32" if kind == "stream" else "i32 i32")
        lines += map(_builtin, builtins.items())
        lines.append(("return", "(canon task.return (result $answer))", "(param i32)"))
        new_line = "\n    "
        last = list(uses)[-1]
        types = types.replace("$last", f"$i{numbers[canonical_name(last)]}")
        error = '"error-code" (type $error-code)'
        if any(line.startswith('(export "error-code" ') for line in component.interface(last).lines):
            types = f"(alias export $i{numbers[canonical_name(last)]} {error}) {types}"
        types += "".join(f"(type ${name} ({kind} {t}))" for name, (kind, t) in ends.items())
        text = f"""(component
{new_line.join(component.text)}
    {types}
  (type $answer {answer})
{MEMORY}
    {new_line.join(f"(core func ${label} {definition})" for label, definition, _ in lines)}
  (core module $main
    (import "h" "memory" (memory 1))
    {new_line.join(f'(import "h" "{label}" (func ${label} {signature}))' for label, _, signature in lines)}
    {data}
    (func (export "run") (result i32)
      {body})
    (func (export "callback") (param $event i32) (param $waitable i32) (param $code i32) (result i32)
      {callback}))
  (core instance $core (instantiate $main (with "h" (instance
    (export "memory" (memory $memory))
    {new_line.join(f'(export "{label}" (func ${label}))' for label, _, _ in lines)}))))
  (alias core export $core "callback" (core func $callback))
  (func $run async (result $answer) (canon lift (core func $core "run") async (callback $callback)))
  (instance $exported (export "run" (func $run)))
  (export "wasi:cli/run@0.3.0" (instance $exported)))"""
        return wat2wasm(text.replace("@0.3.0", f"@{version}").encode())


# For a command that reads and writes bytes: the streams `body`, the futures `done` that tell how they ended.
# $open makes a stream: $rx is what to give away, $write and $end are about the other end. $check(future)
# traps unless that future is ok, $failed(future) gives the case of its error, which lies at 4032 + `at`.
def pipes(at: int) -> str:
    return f"""
    (global $tx (mut i32) (i32.const 0)) (global $rx (mut i32) (i32.const 0))
    (func $open (local $b i64)
      (local.set $b (call $body.new))
      (global.set $rx (i32.wrap_i64 (local.get $b)))
      (global.set $tx (i32.wrap_i64 (i64.shr_u (local.get $b) (i64.const 32)))))
    (func $write (param $at i32) (param $size i32) (local $n i32)
      (block $over (loop $more
        (br_if $over (i32.eqz (local.get $size)))
        (local.set $n (call $body.write (global.get $tx) (local.get $at) (local.get $size)))
        (br_if $over (i32.and (local.get $n) (i32.const 15)))
        (local.set $n (i32.shr_u (local.get $n) (i32.const 4)))
        (local.set $at (i32.add (local.get $at) (local.get $n)))
        (local.set $size (i32.sub (local.get $size) (local.get $n)))
        (br $more))))
    (func $end (call $body.drop-writable (global.get $tx)))
    (func $failed (param $future i32) (result i32)
      (if (call $done.read (local.get $future) (i32.const 4032)) (then unreachable))
      (call $done.drop-readable (local.get $future))
      (if (result i32) (i32.load8_u (i32.const 4032))
        (then (i32.load8_u (i32.const {4032 + at}))) (else (i32.const -1))))
    (func $check (param $future i32)
      (if (i32.ne (call $failed (local.get $future)) (i32.const -1)) (then unreachable)))"""


# The ends of these.
BYTES = {"body": ("stream", "u8"), "done": ("future", "(result (error $error-code))")}
