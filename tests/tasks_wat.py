# Components with tasks, made from text: the parts of a guest, which call the host and each other, and
# the host that they call, which keeps a log.
#
# Every function takes one thing and returns one, each of which is one i32 for core code: a number (u32), or
# the end of a stream or future, by the letters of KINDS.

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from wasm_gateway import HostInterface
from wasm_gateway.component.concurrency import Condition, wait
from wasm_gateway.component.streams import Promise
from wasm_gateway.component.values import End
from wasm_gateway.engine import Engine, wat2wasm
from wasm_gateway.executors.component import Linked, link_component
from wasm_gateway.host.application import Hosts
from wasm_gateway.host.base import Deadline, Grants
from wasm_gateway.host.wasi.io import Timer
from wasm_gateway.instance import Instance, Limits
from wasm_gateway.runtime_config import RuntimeConfig

KINDS = {
    "u": "u32",
    "s": "(stream u8)",
    "n": "(stream u32)",
    "z": "(stream)",
    "t": "(stream string)",
    "f": "(future u32)",
    "g": "(future string)",
    "b": "(borrow $thing)",
    "o": "(own $thing)",
}


# The host.


class Source:
    """The source of a stream: `pieces`; where one is b"" the guest has to wait."""

    def __init__(self, pieces: list[bytes]) -> None:
        self.pieces = pieces
        self.closed = 0

    def read(self, ctx: Any, length: int) -> bytes:
        if not self.pieces:
            raise End
        data, rest = self.pieces[0][:length], self.pieces[0][length:]
        if data:
            self.pieces[:1] = [rest] if rest else []
        return data

    def pollable(self) -> Condition:
        return Condition(self._ready)

    def _ready(self) -> bool:
        """Not when it is asked first."""
        if self.pieces and not self.pieces[0]:
            del self.pieces[0]
            return False
        return True

    def close(self, ctx: Any) -> None:
        self.closed += 1


class Host(HostInterface):
    """What guests call; `log` is what they said, `ended` which coroutines were broken off."""

    wit = """package test:tasks@1.0.0;
    interface host {
        resource thing { }
        log: func(n: u32) -> u32;
        make: func(n: u32) -> thing;
        lend: async func(t: borrow<thing>) -> u32;
        open: func(n: u32) -> u32;
        gate: async func(n: u32) -> u32;
        sleep: async func(ms: u32) -> u32;
        source: func(n: u32) -> stream<u8>;
        sink: async func(s: stream<u8>) -> u32;
        peek: async func(s: stream<u8>) -> u32;
        back: func(s: stream<u8>) -> stream<u8>;
        count: async func(s: stream<string>) -> u32;
        soon: func(n: u32) -> future<u32>;
        word: func(n: u32) -> future<string>;
        value: async func(f: future<u32>) -> u32;
    }"""

    class Thing:
        """When it is closed, the words are there that the host has promised."""

        def __init__(self, promised: list[tuple[Promise, str]]) -> None:
            self.closed = 0
            self.promised = promised

        def close(self, guest: Any) -> None:
            self.closed += 1
            for promise, word in self.promised:
                promise.settle(word)

    def __init__(self, pieces: tuple[bytes, ...] = (b"hello ", b"", b"world")) -> None:
        self.said: list[int] = []
        self.opened: set[int] = set()
        self.ended: list[int] = []
        self.pieces = pieces
        self.sources: list[Source] = []
        self.things: list[Host.Thing] = []
        self.taken: list[bytes] = []
        self.promised: list[tuple[Promise, str]] = []

    def log(self, guest: Any, n: int) -> int:
        self.said.append(n)
        return n

    def make(self, guest: Any, n: int) -> Thing:
        self.things.append(self.Thing(self.promised))
        return self.things[-1]

    async def lend(self, guest: Any, thing: Thing) -> int:
        return await self.gate(guest, 1)

    def open(self, guest: Any, n: int) -> int:
        """Whoever waits at the gate goes on."""
        self.opened.add(n)
        return n

    async def gate(self, guest: Any, n: int) -> int:
        try:
            await wait(Condition(lambda: n in self.opened))
        except GeneratorExit:
            self.ended.append(n)
            raise
        return n + 100

    async def sleep(self, guest: Any, ms: int) -> int:
        try:
            await wait(Timer(time.monotonic() + ms / 1000))
        except GeneratorExit:
            self.ended.append(ms)
            raise
        return ms

    def source(self, guest: Any, n: int) -> Source:
        self.sources.append(Source(list(self.pieces)))
        return self.sources[-1]

    async def sink(self, guest: Any, stream: Any) -> int:
        """All of it; how long it was."""
        size = 0
        while data := await stream.take(4):
            self.taken.append(bytes(data))
            size += len(data)
        stream.drop()
        return size

    async def peek(self, guest: Any, stream: Any) -> int:
        """Only some bytes."""
        data = await stream.take(4)
        stream.drop()
        return len(data)

    def back(self, guest: Any, stream: Any) -> Any:
        return stream

    async def count(self, guest: Any, stream: Any) -> int:
        size = 0
        while texts := await stream.take(3):
            self.taken += [text.encode() for text in texts]
            size += len(texts)
        return size

    def soon(self, guest: Any, n: int) -> Any:
        return self.gate(guest, n)

    def word(self, guest: Any, n: int) -> Promise:
        """One of `n` letters, promised."""
        promise = Promise()
        self.promised.append((promise, "w" * n))
        return promise

    async def value(self, guest: Any, future: Any) -> int:
        result: int = await future.value()
        return result


# name -> kind of parameter, kind of result, async
HOST: dict[str, tuple[str, str, bool]] = {
    "log": ("u", "u", False),
    "make": ("u", "o", False),
    "lend": ("b", "u", True),
    "open": ("u", "u", False),
    "gate": ("u", "u", True),
    "sleep": ("u", "u", True),
    "source": ("u", "s", False),
    "sink": ("s", "u", True),
    "peek": ("s", "u", True),
    "back": ("s", "s", False),
    "count": ("t", "u", True),
    "soon": ("u", "f", False),
    "word": ("u", "g", False),
    "value": ("f", "u", True),
}

# The guest.

MEMORY = """(core module $libc (memory (export "memory") 2) (global $top (mut i32) (i32.const 65536))
  (func (export "realloc") (param i32 i32 i32 i32) (result i32)
    (global.set $top (i32.and (i32.add (global.get $top) (i32.const 7)) (i32.const -8)))
    (global.get $top) (global.set $top (i32.add (global.get $top) (local.get 3)))))
(core instance $libc (instantiate $libc))
(alias core export $libc "memory" (core memory $memory))
(alias core export $libc "realloc" (core func $realloc))"""

# name -> options and type as canon writes them, core type
BUILTINS: dict[str, tuple[str, str]] = {
    "cancel": ("task.cancel", ""),
    "get": ("context.get i32 0", "(result i32)"),
    "set": ("context.set i32 0", "(param i32)"),
    "inc": ("backpressure.inc", ""),
    "dec": ("backpressure.dec", ""),
    "yield": ("thread.yield", "(result i32)"),
    "set-new": ("waitable-set.new", "(result i32)"),
    "set-wait": ("waitable-set.wait (memory $memory)", "(param i32 i32) (result i32)"),
    "set-poll": ("waitable-set.poll (memory $memory)", "(param i32 i32) (result i32)"),
    "set-drop": ("waitable-set.drop", "(param i32)"),
    "join": ("waitable.join", "(param i32 i32)"),
    "sub-cancel": ("subtask.cancel", "(param i32) (result i32)"),
    "sub-cancel-async": ("subtask.cancel async", "(param i32) (result i32)"),
    "sub-drop": ("subtask.drop", "(param i32)"),
    "error-new": ("error-context.new (memory $memory)", "(param i32 i32) (result i32)"),
    "error-message": ("error-context.debug-message (memory $memory) (realloc $realloc)", "(param i32 i32)"),
    "error-drop": ("error-context.drop", "(param i32)"),
    "thing-drop": ("resource.drop $thing", "(param i32)"),
    "return": ("task.return (result u32)", "(param i32)"),
}


def _ends() -> Iterator[tuple[str, tuple[str, str]]]:
    for letter in "snztfg":
        word = "future" if letter in "fg" else "stream"
        both = "" if letter == "z" else "(memory $memory)"
        reads = f"{both} (realloc $realloc)" if letter in "tg" else both
        core = "(param i32 i32) (result i32)" if word == "future" else "(param i32 i32 i32) (result i32)"
        yield f"{letter}.new", (f"{word}.new ${letter}", "(result i64)")
        for verb, options in (("read", reads), ("write", both)):
            yield f"{letter}.{verb}", (f"{word}.{verb} ${letter} async {options}", core)
            yield f"{letter}.{verb}-sync", (f"{word}.{verb} ${letter} {options}", core)
            yield f"{letter}.cancel-{verb}", (f"{word}.cancel-{verb} ${letter}", "(param i32) (result i32)")
            yield (
                f"{letter}.cancel-{verb}-async",
                (f"{word}.cancel-{verb} ${letter} async", "(param i32) (result i32)"),
            )
        for end in ("readable", "writable"):
            yield f"{letter}.drop-{end}", (f"{word}.drop-{end} ${letter}", "(param i32)")
        yield f"return-{letter}", (f"task.return (result ${letter})", "(param i32)")


BUILTINS |= dict(_ends())

# What core code of a guest may use besides; the results of waiting lie at 16 and 20.
HELPERS = """
  (func $high (param i64) (result i32) (i32.wrap_i64 (i64.shr_u (local.get 0) (i64.const 32))))
  (func $say (param i32) (drop (call $log (local.get 0))))
  (func $opened (param i32) (drop (call $open (local.get 0))))
  (func $index (param i32) (result i32) (i32.shr_u (local.get 0) (i32.const 4)))
  (func $state (param i32) (result i32) (i32.and (local.get 0) (i32.const 15)))
  ;; the set with this one waitable in it
  (func $only (param i32) (result i32) (local $set i32)
    (local.set $set (call $set-new)) (call $join (local.get 0) (local.get $set)) (local.get $set))
  ;; wait for it alone; its payload
  (func $await (param i32) (result i32) (local $set i32)
    (local.set $set (call $only (local.get 0)))
    (drop (call $set-wait (local.get $set) (i32.const 16)))
    (call $join (local.get 0) (i32.const 0)) (call $set-drop (local.get $set))
    (i32.load (i32.const 20)))
"""


@dataclass(frozen=True)
class Part:
    """A component of the guest: core code, and what it exports by name, as HOST has it.

    An export whose core code has a function "callback-NAME" too is lifted asynchronously.
    `imports` are exports of parts before it.
    """

    core: str
    exports: Mapping[str, tuple[str, str, bool]] = field(default_factory=lambda: {"run": ("u", "u", True)})
    imports: Mapping[str, tuple[str, str, bool]] = field(default_factory=dict)

    def text(self) -> str:
        types = " ".join(f"(type ${letter} {KINDS[letter]})" for letter in "snztfg")
        functions = {**HOST, **self.imports}
        given, imported, lowered = [], [], []

        def gives(name: str, canon: str, core: str) -> None:
            lowered.append(f"(core func ${name} (canon {canon}))")
            given.append(f'(export "{name}" (func ${name}))')
            imported.append(f'(import "h" "{name}" (func ${name} {core}))')

        for name, (canon, core) in BUILTINS.items():
            gives(name, canon, core)
        outside = [f'(import "{name}" (func $f-{name} {signature(t)}))' for name, t in functions.items()]
        for name, (_, _, async_) in functions.items():
            options = "(memory $memory) (realloc $realloc)"
            gives(name, f"lower (func $f-{name}) {options}", "(param i32) (result i32)")
            if async_:
                gives(
                    f"{name}-async",
                    f"lower (func $f-{name}) async {options}",
                    "(param i32 i32) (result i32)",
                )
        lifted = []
        for name, t in self.exports.items():
            later = f'async (callback (core func $core "callback-{name}"))'
            options = later if f'"callback-{name}"' in self.core else ""
            lifted.append(
                f'(func (export "{name}") {signature(t)} (canon lift (core func $core "{name}") {options}))'
            )
        new_line = "\n"
        return f"""
(import "thing" (type $thing (sub resource)))
{new_line.join(outside)}
{types} {MEMORY}
{new_line.join(lowered)}
(core module $main (import "h" "memory" (memory 1))
{new_line.join(imported)} {HELPERS} {self.core})
(core instance $core (instantiate $main (with "h" (instance
  (export "memory" (memory $memory)) {" ".join(given)}))))
{new_line.join(lifted)}"""


def signature(t: tuple[str, str, bool]) -> str:
    param, result, async_ = t
    return f'{"async" * async_} (param "x" {KINDS[param]}) (result {KINDS[result]})'


def guest(*parts: Part) -> bytes:
    """Parts that are instantiated in this order. It exports what they do, of two by one name the later."""
    functions = " ".join(f'(export "{name}" (func {signature(t)}))' for name, t in HOST.items())
    thing = '(export "thing" (type $thing (sub resource)))'  # $thing is what signatures call it
    text = [f'(import "test:tasks/host@1.0.0" (instance $host {thing} {functions}))']
    text += ['(alias export $host "thing" (type $thing))']
    known: dict[str, str] = {}
    for i, part in enumerate(parts):
        withs = [f'(with "{name}" (func $host "{name}"))' for name in HOST]
        withs += [f'(with "{name}" (func {known[name]}))' for name in part.imports]
        text += [f"(component $C{i} {part.text()})"]
        text += [f'(instance $i{i} (instantiate $C{i} (with "thing" (type $thing)) {" ".join(withs)}))']
        known |= {name: f'$i{i} "{name}"' for name in part.exports}
    text += [f'(export "{name}" (func {function}))' for name, function in known.items()]
    return wat2wasm("\n".join(["(component", *text, ")"]).encode())


# Running it.


class Running:
    """An instance of a guest: `run(n)` calls what it exports, `instance.loop` are its tasks."""

    def __init__(self, instance: Instance, functions: Mapping[tuple[str, str], Any], host: Host) -> None:
        self.instance = instance
        self.functions = functions
        self.host = host

    def call(self, name: str, n: int) -> Any:
        return self.functions["", name](self.instance, n)

    def run(self, n: int = 0) -> Any:
        return self.call("run", n)


GRANTS = Grants("guest", host_interfaces=frozenset({"test:tasks/host@1"}))


def linked(*parts: Part, host: Host) -> Linked:
    hosts = Hosts(RuntimeConfig(), interfaces=[host])
    return link_component(guest(*parts), Engine.shared(), None, hosts, GRANTS)


def instance_of(linked: Linked, seconds: float = 120.0) -> Instance:
    services: Any = None  # nothing of an application is needed
    return Instance(linked.program, GRANTS, Deadline(seconds), Limits(64 << 20, 100_000), services)


@contextmanager
def running(*parts: Part, host: Host | None = None, seconds: float = 120.0) -> Iterator[Running]:
    host = host or Host()
    found = linked(*parts, host=host)
    with instance_of(found, seconds) as instance:
        yield Running(instance, found.functions, host)


def said(*parts: Part, n: int = 0, host: Host | None = None, seconds: float = 120.0) -> list[int]:
    """What the guest said while `run(n)` ran, and at last its result."""
    host = host or Host()
    with running(*parts, host=host, seconds=seconds) as guest:
        result = guest.run(n)
    return [*host.said, result]
