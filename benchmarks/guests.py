# The guests that are measured: one per dialect, all with the same answer, made from
# text when they are needed; and an application (a spin.toml) of them.

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import wasmtime

from wasm_gateway import Gateway
from wasm_gateway.messages import Headers, Request

ANSWER = b"hello, world\n"
CONTENT_TYPE = "text/plain"

EXAMPLE = Path(__file__).resolve().parent.parent / "example_projects" / "finicky_whiskers"

# The variable that names a copy of https://github.com/fermyon/finicky-whiskers, whose prebuilt guests
# are measured as well when it is set.
REAL_GAME = "FINICKY_WHISKERS"
ULID = "01GP14HFG7S0CAAP35GWP82DDR"


@dataclass(frozen=True, slots=True)
class Guest:
    """A guest, and the lines of its component's table in spin.toml."""

    name: str
    wasm: bytes
    settings: str = ""
    wagi: bool = False

    @property
    def route(self) -> str:
        return f"/wasm/{self.name}"


def application(folder: Path, guests: Iterable[Guest]) -> Path:
    """The spin.toml, made in `folder`, that has each guest at its route."""
    lines = ["spin_manifest_version = 2", '[application]\nname = "benchmarks"\nversion = "1.0.0"']
    for guest in guests:
        (folder / f"{guest.name}.wasm").write_bytes(guest.wasm)
        lines.append(f'[[trigger.http]]\nroute = "{guest.route}"\ncomponent = "{guest.name}"')
        if guest.wagi:
            lines.append('executor = { type = "wagi" }')
        lines.append(f'[component.{guest.name}]\nsource = "{guest.name}.wasm"\n{guest.settings}')
    path = folder / "spin.toml"
    path.write_text("\n".join(lines) + "\n")
    return path


def hello_guests() -> tuple[Guest, ...]:
    """The same answer in each dialect."""
    return (
        Guest("wagi", wagi(), wagi=True),
        Guest("flat", legacy_flat()),
        Guest("spin", spin_1()),
    )


def key_reader() -> Guest:
    """A Spin 1 guest that answers with the value of the key "answer"."""
    return Guest("spin-key", spin_1_key(), 'key_value_stores = ["default"]')


# Text -> binary


def wagi() -> bytes:
    """Takes its environment, as every CGI program's libc does, and writes its answer."""
    output = f"content-type: {CONTENT_TYPE}\n\n".encode() + ANSWER
    return wasm(f"""(module
      (import "wasi_snapshot_preview1" "environ_sizes_get" (func $sizes (param i32 i32) (result i32)))
      (import "wasi_snapshot_preview1" "environ_get" (func $environ (param i32 i32) (result i32)))
      (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
      (memory (export "memory") 1)
      (data (i32.const 0) "{escaped(output)}")
      (func (export "_start")
        (if (call $sizes (i32.const 256) (i32.const 260)) (then unreachable))
        (if (call $environ (i32.const 1024) (i32.const 8192)) (then unreachable))
        (i32.store (i32.const 264) (i32.const 0))
        (i32.store (i32.const 268) (i32.const {len(output)}))
        (if (call $write (i32.const 1) (i32.const 264) (i32.const 1) (i32.const 272))
          (then unreachable))))""")


def legacy_flat() -> bytes:
    return wasm(
        f"(module {body('canonical_abi_realloc')} {RECORD} (func (export {q(FLAT_EXPORT)}) {TAKES} {GIVES}))"
    )


def spin_1(answer: bytes = ANSWER) -> bytes:
    """With another `answer` it is another module to the cache."""
    export = q("fermyon:spin/inbound-http#handle-request")
    return with_world(
        wasm(f"(module {body('cabi_realloc', answer)} {RECORD} (func (export {export}) {TAKES} {GIVES}))")
    )


def spin_1_key() -> bytes:
    """The answer is what the store has under the key "answer"."""
    # result<store, error> at 512, result<list<u8>, error> at 544: failed @0, then handle or (at, size) @4
    return with_world(
        wasm(f"""(module
          (import "fermyon:spin/key-value" "open" (func $open (param i32 i32 i32)))
          (import "fermyon:spin/key-value" "get" (func $get (param i32 i32 i32 i32)))
          {body("cabi_realloc", b"")} {RECORD}
          (data (i32.const 448) "default")
          (data (i32.const 456) "answer")
          (func (export "fermyon:spin/inbound-http#handle-request") {TAKES}
            (call $open (i32.const 448) (i32.const 7) (i32.const 512))
            (if (i32.load8_u (i32.const 512)) (then unreachable))
            (call $get (i32.load (i32.const 516)) (i32.const 456) (i32.const 6) (i32.const 544))
            (if (i32.load8_u (i32.const 544)) (then unreachable))
            (i32.store (i32.const 84) (i32.load (i32.const 548)))
            (i32.store (i32.const 88) (i32.load (i32.const 552)))
            {GIVES}))""")
    )


FLAT_EXPORT = "handle-http-request"

# handle-request: func(req: request) -> response, flat: method, uri (2), headers (2), params (2), body (3)
TAKES = "(param i32 i32 i32 i32 i32 i32 i32 i32 i32 i32) (result i32)"
GIVES = "(i32.const 64)"

# record response at 64: status u16 @0, headers option<list> @4, body option<list<u8>> @16
RECORD = f"""
  (data (i32.const 64)
    "\\c8\\00\\00\\00" "\\01\\00\\00\\00\\60\\00\\00\\00\\01\\00\\00\\00" "\\01\\00\\00\\00")
  (data (i32.const 96)
    "\\70\\00\\00\\00\\0c\\00\\00\\00\\80\\00\\00\\00\\{len(CONTENT_TYPE):02x}\\00\\00\\00")
  (data (i32.const 112) "content-type")
  (data (i32.const 128) "{CONTENT_TYPE}")
"""


def body(realloc: str, answer: bytes = ANSWER) -> str:
    """Memory, an allocator that never frees, and the (pointer, size) of the answer."""
    return f"""
      (memory (export "memory") 2)
      (global $top (mut i32) (i32.const 4096))
      (func (export "{realloc}") (param i32) (param i32) (param $align i32) (param $size i32) (result i32)
        (local $at i32)
        (local.set $at (i32.and
          (i32.add (global.get $top) (i32.sub (local.get $align) (i32.const 1)))
          (i32.sub (i32.const 0) (local.get $align))))
        (global.set $top (i32.add (local.get $at) (local.get $size)))
        (if (i32.gt_u (global.get $top) (i32.const 131072)) (then unreachable))
        (local.get $at))
      (data (i32.const 84) "\\a0\\00\\00\\00\\{len(answer):02x}\\00\\00\\00")
      (data (i32.const 160) "{escaped(answer)}")"""


def wasm(text: str) -> bytes:
    return bytes(wasmtime.wat2wasm(text))


def with_world(module: bytes) -> bytes:
    """`module` and the section that says which types its imports and exports have (the example's)."""
    world = wasm((EXAMPLE / "guests" / "world.wat").read_text())
    payload = leb128(len(b"component-type")) + b"component-type" + world
    return module + b"\x00" + leb128(len(payload)) + payload


def leb128(value: int) -> bytes:
    encoded = bytearray()
    while value >= 0x80:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*encoded, value])


def escaped(data: bytes) -> str:
    return "".join(f"\\{byte:02x}" for byte in data)


def q(text: str) -> str:
    return f'"{text}"'


# Requests

# What curl sends, and what a browser does.
FEW = (("host", "127.0.0.1:8000"), ("user-agent", "curl/8.5.0"), ("accept", "*/*"))
MANY = (
    ("host", "127.0.0.1:8000"),
    ("user-agent", "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"),
    ("accept", "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"),
    ("accept-language", "en-US,en;q=0.5"),
    ("accept-encoding", "gzip, deflate, br, zstd"),
    ("referer", "http://127.0.0.1:8000/"),
    ("cookie", "sessionid=a2h7a9f0c1d2e3f4a5b6c7d8e9f0a1b2; csrftoken=q1w2e3r4t5y6u7i8o9p0a1s2d3f4g5h6"),
    ("upgrade-insecure-requests", "1"),
    ("sec-fetch-dest", "document"),
    ("priority", "u=0, i"),
)


def request(target: str, headers: tuple[tuple[str, str], ...] = FEW, *, method: str = "GET") -> Request:
    path, _, query = target.partition("?")
    return Request(
        method=method,
        path=path,
        query=query or None,
        headers=Headers.trusted(headers),
        authority="127.0.0.1:8000",
        client=("127.0.0.1", 50000),
    )


def caller(gateway: Gateway, message: Request) -> Callable[[], object]:
    """`gateway.handle(message)`, after one call that must have answered 200 or a redirect."""
    response = gateway.handle(message)
    if response is None or response.status not in (200, 302):
        raise RuntimeError(f"{message.path} answers {response}")
    return lambda: gateway.handle(message)


def real_game() -> Path | None:
    """The folder of the real Finicky Whiskers, None when the variable is not set."""
    value = os.environ.get(REAL_GAME)
    return Path(value) if value else None
