# Guests made from WebAssembly text, and applications of them.
#
# A test writes the body of a handler; what every guest has besides (memory,
# allocator, imports, the embedded world) is put around it here. Fixture `wat` is the
# Toolkit, fixture `application` makes and opens gateways, which are closed after the test.
#
# In every text, (str "...") stands for two constants: address and length of these bytes.
# Imports are declared by being called: $kv_open, $sql_execute, $http_send, ... (IMPORTS).

from __future__ import annotations

import gc
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import wasmtime

from wasm_gateway import Gateway
from wasm_gateway.messages import Headers, Request, Response

WORLD = (Path(__file__).parent / "guests" / "world.wat").read_text()

# Handler of one request; the same flat signature in both ABIs (Spin: http, 7.3).
PARAMS = """(param $method i32) (param $uri i32) (param $uri_len i32)
  (param $headers i32) (param $headers_len i32) (param $params i32) (param $params_len i32)
  (param $has_body i32) (param $body i32) (param $body_len i32) (result i32)"""

# WAT name -> interface, its module name in the flat ABI, function, its name there, number of i32 parameters
IMPORTS = {
    "kv_open": ("key-value", "key-value", "open", "open", 3),
    "kv_get": ("key-value", "key-value", "get", "get", 4),
    "kv_set": ("key-value", "key-value", "set", "set", 6),
    "kv_exists": ("key-value", "key-value", "exists", "exists", 4),
    "kv_keys": ("key-value", "key-value", "get-keys", "get-keys", 2),
    "kv_close": ("key-value", "key-value", "close", "close", 1),
    "sql_open": ("sqlite", "sqlite", "open", "open", 3),
    "sql_execute": ("sqlite", "sqlite", "execute", "execute", 6),
    "config_get": ("config", "spin-config", "get-config", "get-config", 3),
    "http_send": ("http", "wasi-outbound-http", "send-request", "request", 11),
}

WASI = {
    "fd_write": "(param i32 i32 i32 i32) (result i32)",
    "fd_read": "(param i32 i32 i32 i32) (result i32)",
    "path_open": "(param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)",
    "environ_sizes_get": "(param i32 i32) (result i32)",
    "environ_get": "(param i32 i32) (result i32)",
    "args_sizes_get": "(param i32 i32) (result i32)",
    "args_get": "(param i32 i32) (result i32)",
    "poll_oneoff": "(param i32 i32 i32 i32) (result i32)",
    "proc_exit": "(param i32)",
}

# Addresses: 0 scratch of the helpers, 64 results of imports, 128 the response, 1024 data,
# 64 KiB the output that $out collects, 1 MiB the heap.
HELPERS = """
  (memory (export "memory") 17)
  (global $heap (mut i32) (i32.const 0x100000))
  (global $end (mut i32) (i32.const 0x10000))
  (func $take (param $size i32) (result i32) (local $at i32)
    (local.set $at (global.get $heap))
    (global.set $heap (i32.and (i32.const -8)
      (i32.add (i32.const 7) (i32.add (local.get $at) (local.get $size)))))
    (if (i32.gt_u (global.get $heap) (i32.shl (memory.size) (i32.const 16))) (then
      (if (i32.eq (i32.const -1)
          (memory.grow (i32.add (i32.const 1) (i32.shr_u (local.get $size) (i32.const 16)))))
        (then unreachable))))
    (local.get $at))
  (func $out (param $at i32) (param $size i32)
    (memory.copy (global.get $end) (local.get $at) (local.get $size))
    (global.set $end (i32.add (global.get $end) (local.get $size))))
  (func $out_byte (param $byte i32)
    (i32.store8 (global.get $end) (local.get $byte))
    (global.set $end (i32.add (global.get $end) (i32.const 1))))
  (func $out_number (param $n i32)
    (if (i32.ge_u (local.get $n) (i32.const 10))
      (then (call $out_number (i32.div_u (local.get $n) (i32.const 10)))))
    (call $out_byte (i32.add (i32.const 48) (i32.rem_u (local.get $n) (i32.const 10)))))
  (func $out_headers (param $at i32) (param $count i32)
    (block $done (loop $next
      (br_if $done (i32.eqz (local.get $count)))
      (call $out (i32.load (local.get $at)) (i32.load offset=4 (local.get $at)))
      (call $out_byte (i32.const 61))
      (call $out (i32.load offset=8 (local.get $at)) (i32.load offset=12 (local.get $at)))
      (call $out_byte (i32.const 10))
      (local.set $at (i32.add (local.get $at) (i32.const 16)))
      (local.set $count (i32.sub (local.get $count) (i32.const 1)))
      (br $next))))
"""

# $respond: a status and the output so far. $text: a status and these bytes.
RESPONSES = """
  (func $respond (param $status i32) (result i32)
    (call $text (local.get $status) (i32.const 0x10000) (i32.sub (global.get $end) (i32.const 0x10000))))
  (func $text (param $status i32) (param $at i32) (param $size i32) (result i32)
    (i32.store16 (i32.const 128) (local.get $status))
    (i32.store8 (i32.const 132) (i32.const 0))
    (i32.store8 (i32.const 144) (i32.const 1))
    (i32.store (i32.const 148) (local.get $at))
    (i32.store (i32.const 152) (local.get $size))
    (i32.const 128))
"""

ALLOCATOR = """(func (export "{name}") (param i32 i32 i32 i32) (result i32) (call $take (local.get 3)))"""

# $write: these bytes to a descriptor; $print: to stdout.
WRITERS = """
  (func $write (param $fd i32) (param $at i32) (param $size i32)
    (i32.store (i32.const 0) (local.get $at))
    (i32.store (i32.const 4) (local.get $size))
    (drop (call $fd_write (local.get $fd) (i32.const 0) (i32.const 1) (i32.const 8))))
  (func $print (param $at i32) (param $size i32)
    (call $write (i32.const 1) (local.get $at) (local.get $size)))
"""

_STR = re.compile(r'\(str "((?:[^"\\]|\\.)*)"\)')
_CALLED = re.compile(r"call \$(\w+)")


@cache
def assemble(text: str) -> bytes:
    return bytes(wasmtime.wat2wasm(text))


def vector(data: bytes) -> bytes:
    """The length as unsigned LEB128, then the bytes."""
    size, length = len(data), bytearray()
    while size >= 0x80:
        length.append(size & 0x7F | 0x80)
        size >>= 7
    return bytes([*length, size]) + data


def quoted(data: bytes) -> str:
    return '"' + "".join(f"\\{byte:02x}" for byte in data) + '"'


class Toolkit:
    """Builders of guests. What they return is a .wasm file's content."""

    world = WORLD
    assemble = staticmethod(assemble)
    quoted = staticmethod(quoted)

    def section(self, name: str, content: bytes) -> bytes:
        """A custom section, to be appended to a module."""
        return b"\0" + vector(vector(name.encode()) + content)

    def world_section(self, world: str = WORLD) -> bytes:
        """The section `component-type` that says what the flat imports and exports of a module mean."""
        return self.section("component-type:guest", assemble(world))

    def module(self, text: str) -> bytes:
        """The module of these fields, helpers and imports put in front, (str "...") resolved."""
        return assemble(f"(module {self._complete(text, 'flat')})")

    def wagi(self, output: bytes) -> bytes:
        """A WAGI guest that prints `output`."""
        return self.command(f"(call $print (str {quoted(output)}))")

    def command(self, body: str, more: str = "") -> bytes:
        """A WASI command; `body` is that of _start, `more` are further fields."""
        return self.module(f'{more} (func (export "_start") {body})')

    def flat(self, body: str, more: str = "", *, allocator: str | None = None) -> bytes:
        """A guest of the flat ABI; `body` gives the address of a response."""
        return assemble(f"(module {self.handler('flat', body, more, allocator)})")

    def spin(
        self, body: str, more: str = "", *, allocator: str | None = None, world: str | None = WORLD
    ) -> bytes:
        """A Spin 1 module, with the world that describes it (none for None)."""
        wasm = assemble(f"(module {self.handler('spin', body, more, allocator)})")
        return wasm if world is None else wasm + self.world_section(world)

    def http(self, dialect: str, body: str, more: str = "", **options: Any) -> bytes:
        """`flat` or `spin`."""
        build: Callable[..., bytes] = getattr(self, dialect)
        return build(body, more, **options)

    def handler(self, dialect: str, body: str, more: str = "", allocator: str | None = None) -> str:
        """The fields of such a module."""
        flat = dialect == "flat"
        name = "canonical_abi_realloc" if flat else "cabi_realloc"
        export = "handle-http-request" if flat else "fermyon:spin/inbound-http#handle-request"
        if allocator is None:
            allocator = ALLOCATOR.format(name=name)
        text = f'{RESPONSES} {allocator} {more} (func (export "{export}") {PARAMS} (local $i i32) {body})'
        return self._complete(text, dialect)

    def _complete(self, text: str, dialect: str) -> str:
        called = dict.fromkeys(_CALLED.findall(text))
        writers = WRITERS if called.keys() & {"print", "write"} else ""
        called |= dict.fromkeys(_CALLED.findall(writers))
        imports = []
        for name in called:
            if name in WASI:
                imports.append(f'(import "wasi_snapshot_preview1" "{name}" (func ${name} {WASI[name]}))')
            elif name in IMPORTS:
                interface, flat_module, function, flat_function, params = IMPORTS[name]
                module = flat_module if dialect == "flat" else f"fermyon:spin/{interface}"
                function = flat_function if dialect == "flat" else function
                imports.append(f'(import "{module}" "{function}" (func ${name} (param{" i32" * params})))')
        data: list[str] = []
        position = 1024

        def place(match: re.Match[str]) -> str:
            nonlocal position
            size = len(_bytes(match[1]))
            data.append(f'(data (i32.const {position}) "{match[1]}")')
            here, position = position, position + size
            return f"(i32.const {here}) (i32.const {size})"

        text = _STR.sub(place, text)
        return "\n".join([*imports, HELPERS, writers, text, *data])


def _bytes(literal: str) -> bytes:
    """What a literal of the text format stands for."""
    escapes = {"n": b"\n", "t": b"\t", "r": b"\r", '"': b'"', "'": b"'", "\\": b"\\"}

    def one(match: re.Match[str]) -> str:
        text = match[1]
        return (escapes[text] if text in escapes else bytes([int(text, 16)])).decode("latin-1")

    ascii_text = literal.encode().decode("latin-1")
    return re.sub(r'\\([0-9a-fA-F]{2}|[ntr"\'\\])', one, ascii_text).encode("latin-1")


@dataclass
class Part:
    """One component of an application: its .wasm, its trigger, other keys of its table in spin.toml.

    `route` None makes it private, `triggers` replaces the trigger as a whole. `tool` are its
    [tool.wasm-gateway] settings.
    """

    wasm: bytes
    route: str | None = ""  # "/<id>/..."
    wagi: bool | str = False
    tool: Mapping[str, Any] = field(default_factory=dict)
    triggers: str | None = None
    keys: Mapping[str, Any] = field(default_factory=dict)


def toml(value: Any) -> str:
    """A value as it stands in TOML, tables inline."""
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{json.dumps(k)} = {toml(v)}" for k, v in value.items()) + " }"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(toml, value)) + "]"
    return json.dumps(value)


def write_manifest(folder: Path, parts: Mapping[str, Part], extra: str = "") -> Path:
    """spin.toml and the .wasm files of `parts` in `folder`; `extra` is more TOML at its end."""
    lines = ["spin_manifest_version = 2", "[application]", 'name = "guests"', 'version = "1.2.3"']
    for id, part in parts.items():
        if part.triggers is not None:
            lines.append(part.triggers)
        else:
            route = {"private": True} if part.route is None else part.route or f"/{id}/..."
            lines += ["[[trigger.http]]", f"route = {toml(route)}", f'component = "{id}"']
            if part.wagi:
                executor = {"type": "wagi"} | ({} if part.wagi is True else {"argv": part.wagi})
                lines.append(f"executor = {toml(executor)}")
    for id, part in parts.items():
        (folder / f"{id}.wasm").write_bytes(part.wasm)
        lines += [f"[component.{id}]", f'source = "{id}.wasm"']
        lines += [f"{key} = {toml(value)}" for key, value in part.keys.items()]
        if part.tool:
            lines += [f"[component.{id}.tool.wasm-gateway]"]
            lines += [f"{key} = {toml(value)}" for key, value in part.tool.items()]
    path = folder / "spin.toml"
    path.write_text("\n".join([*lines, extra]))
    return path


def part(wasm: bytes, **settings: Any) -> Part:
    """A Part; what is no field of it is a key of the component's table."""
    names = ("route", "wagi", "tool", "triggers")
    fields = {name: settings.pop(name) for name in names if name in settings}
    return Part(wasm, **fields, keys=settings)


class Applications:
    """Makes gateways: `application(id=part | bytes, ...)`; opened, and closed after the test.

    `manifest` gives the path of a spin.toml alone. Options of Gateway.from_manifest go into `options`.
    """

    part = staticmethod(part)

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.made: list[Gateway] = []

    def manifest(self, parts: Mapping[str, Part | bytes], extra: str = "") -> Path:
        whole = {id: item if isinstance(item, Part) else Part(item) for id, item in parts.items()}
        return write_manifest(self.folder, whole, extra)

    def __call__(self, extra: str = "", options: Mapping[str, Any] | None = None, **parts: Any) -> Gateway:
        return self.gateway(self.manifest(parts, extra), **options or {}).open()

    def gateway(self, path: Path, **options: Any) -> Gateway:
        """Not opened."""
        gateway = Gateway.from_manifest(path, **{"disable_cache": True, **options})
        self.made.append(gateway)
        return gateway


def ask(
    gateway: Gateway,
    path: str,
    method: str = "GET",
    headers: Iterable[tuple[str, str]] = (),
    body: Iterable[bytes] = (),
    **more: Any,
) -> tuple[int, bytes]:
    """Status and body of the answer to a request; no route is (0, b"")."""
    response = answer(gateway, path, method, headers, body, **more)
    return (0, b"") if response is None else (response.status, b"".join(response.body))


def answer(
    gateway: Gateway,
    path: str,
    method: str = "GET",
    headers: Iterable[tuple[str, str]] = (),
    body: Iterable[bytes] = (),
    **more: Any,
) -> Response | None:
    path, question, query = path.partition("?")
    request = Request(method, path, query if question else None, Headers(headers), body, **more)
    return gateway.handle(request)


def garbage(work: Callable[[], object]) -> list[str]:
    """What `work` leaves behind each of three times; once may be what another test's thread has let go."""
    found: list[str] = []
    for _ in range(3):
        found = _garbage_of(work)
        if not found:
            break
    return found


def _garbage_of(work: Callable[[], object]) -> list[str]:
    """What `work` leaves to the collector of cycles: types of this package, and its functions as frames."""
    for _ in range(3):
        work()
    gc.collect()
    gc.disable()
    try:
        for _ in range(10):
            work()
        gc.set_debug(gc.DEBUG_SAVEALL)
        gc.collect()
        found = [
            f"{item.f_code.co_filename}: {item.f_code.co_name}"
            if isinstance(item, FrameType)
            else type(item).__module__ + "." + type(item).__qualname__
            for item in gc.garbage
        ]
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()
    return [name for name in found if "wasm_gateway" in name or "urllib3" in name]


@pytest.fixture(scope="session", name="garbage")
def _garbage() -> Callable[[Callable[[], object]], list[str]]:
    """`garbage(work)` names what only the collector of cycles frees."""
    return garbage


@pytest.fixture(scope="session")
def wat() -> Toolkit:
    return Toolkit()


@pytest.fixture
def application(tmp_path: Path) -> Iterator[Applications]:
    applications = Applications(tmp_path)
    yield applications
    for gateway in applications.made:
        gateway.close()


@pytest.fixture(scope="session", name="ask")
def _ask() -> Callable[..., tuple[int, bytes]]:
    """`ask(gateway, path, method, headers, body)` gives status and body."""
    return ask


@pytest.fixture(scope="session", name="answer")
def _answer() -> Callable[..., Response | None]:
    """The same, the whole Response."""
    return answer
