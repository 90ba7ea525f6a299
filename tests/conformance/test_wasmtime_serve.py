"""Real guests of wasi:http 0.2 and 0.3 answer here as they do under `wasmtime serve` (README.md)."""

from __future__ import annotations

import http.client
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.services import free_port
from tests.wasi_p3_wat import HTTP as HTTP_P3
from tests.wasi_p3_wat import P3Toolkit
from wasm_gateway import Gateway
from wasm_gateway.messages import Headers, Request

PROGRAM = os.environ.get("WASMTIME")
FOLDER = os.environ.get("GUESTS")

# A guest of ten megabytes is compiled for half a minute.
START_SECONDS = 300

# What wasmtime wants to hear before it runs guests of WASI 0.3; the one in text copies synchronously.
ASYNC = ("-W", "component-model-async=y,component-model-more-async-builtins=y")

# Fields of the connection, and of the server itself; which of the framings a server takes is its own affair.
OURS_NOT = frozenset(("connection", "content-length", "date", "keep-alive", "server", "transfer-encoding"))


@dataclass(frozen=True)
class Ask:
    """A request; `chunked` sends the body without its length."""

    what: str
    target: str
    method: str = "GET"
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes | None = None
    chunked: bool = False

    def pieces(self) -> list[bytes]:
        assert self.body is not None
        return [self.body[at : at + 50_000] for at in range(0, len(self.body), 50_000)]


@dataclass(frozen=True)
class Answer:
    """A response; several fields of one name are in order, different names are not."""

    status: int
    headers: tuple[tuple[str, tuple[str, ...]], ...]
    length: str | None
    body: bytes

    @classmethod
    def of(cls, status: int, pairs: list[tuple[str, str]], body: bytes) -> Answer:
        fields: dict[str, list[str]] = {}
        for name, value in pairs:
            fields.setdefault(name.lower(), []).append(value)
        lengths = fields.get("content-length", [])
        assert len(lengths) < 2
        headers = tuple(sorted((name, tuple(fields[name])) for name in fields.keys() - OURS_NOT))
        return cls(status, headers, lengths[0] if lengths else None, body)

    def all_of(self, name: str) -> list[str]:
        """The values of a repeatable field, joined or not (RFC 9110, 5.3)."""
        values = dict(self.headers).get(name, ())
        return [part.strip() for value in values for part in value.split(",")]


MEBIBYTE = bytes(range(256)) * 4096
ASKS = (
    Ask("hello", "/hello", headers=(("X-Echo", "this, and that"),)),
    Ask("hello-latin-1", "/hello", headers=(("x-echo", "d\xe9j\xe0 vu"), ("cookie", "a=1; b=2"))),
    Ask("hello-without", "/hello"),
    Ask("hello-head", "/hello", "HEAD"),
    Ask("echo-0", "/echo", "POST", body=b""),
    Ask("echo-5", "/echo", "POST", body=b"\0\xff\r\n\n"),
    Ask("echo-1MiB", "/echo", "POST", body=MEBIBYTE),
    Ask("echo-chunked", "/echo", "POST", body=MEBIBYTE[:200_001], chunked=True),
    Ask("status", "/status"),
    Ask("nothing", "/no%20such/%C3%A9?a=b%20c&d"),
)
Side = Callable[[Ask], Answer]

# The first two are made from TEXT and TEXT_P3.
GUESTS = [Path("text.wasm"), Path("p3/text.wasm")]
if FOLDER:
    GUESTS += [path for at in ("*.wasm", "p3/*.wasm") for path in sorted(Path(FOLDER).resolve().glob(at))]
pytestmark = pytest.mark.skipif(PROGRAM is None, reason="WASMTIME does not name a program (see README.md)")

HTTP = "wasi:http/types@0.2.0"
STREAMS = "wasi:io/streams@0.2.0"
USES = {
    HTTP: (
        *("[method]fields.append", "[method]fields.get", "[method]incoming-request.path-with-query"),
        *("[method]incoming-request.headers", "[method]incoming-request.consume"),
        *("[method]incoming-body.stream", "[resource-drop]incoming-body", "[resource-drop]fields"),
    ),
    STREAMS: ("[method]input-stream.blocking-read", "[resource-drop]input-stream"),
}
DATA = """
  (data (i32.const 1024) "content-type") (data (i32.const 1040) "text/plain")
  (data (i32.const 1056) "x-echo") (data (i32.const 1064) "x-one") (data (i32.const 1072) "x-many")
  (data (i32.const 1080) "1ab") (data (i32.const 1088) "hello\\n") (data (i32.const 1096) "none")
  (data (i32.const 1104) "short and stout\\n")"""
FUNCTIONS = """
  (func $add (param $fields i32) (param $name i32) (param $n i32) (param $value i32) (param $v i32)
    (call $fields.append (local.get $fields) (local.get $name) (local.get $n)
      (local.get $value) (local.get $v) (i32.const 16))
    (if (i32.load8_u (i32.const 16)) (then (unreachable))))
  (global $sink (mut i32) (i32.const 0))
  (func $begin (param $out i32) (param $status i32) (param $fields i32) (result i32)
    (local $response i32) (local $body i32)
    (local.set $response (call $outgoing-response (local.get $fields)))
    (drop (call $outgoing-response.set-status-code (local.get $response) (local.get $status)))
    (call $outgoing-response.body (local.get $response) (i32.const 16))
    (local.set $body (i32.load (i32.const 20)))
    (call $response-outparam.set (local.get $out) (i32.const 0) (local.get $response) (i32.const 0)
      (i64.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0))
    (call $outgoing-body.write (local.get $body) (i32.const 16))
    (global.set $sink (i32.load (i32.const 20)))
    (local.get $body))
  (func $send (param $at i32) (param $size i32)
    (call $output-stream.blocking-write-and-flush (global.get $sink) (local.get $at) (local.get $size)
      (i32.const 16))
    (if (i32.load8_u (i32.const 16)) (then (unreachable))))
  (func $end (param $body i32)
    (call $drop.output-stream (global.get $sink))
    (call $outgoing-body.finish (local.get $body) (i32.const 0) (i32.const 0) (i32.const 16))
    (if (i32.load8_u (i32.const 16)) (then (unreachable))))
  (func $hello (param $request i32) (param $out i32) (local $fields i32) (local $headers i32)
    (call $add (local.tee $fields (call $fields))
      (i32.const 1024) (i32.const 12) (i32.const 1040) (i32.const 10))
    (local.set $headers (call $incoming-request.headers (local.get $request)))
    (call $fields.get (local.get $headers) (i32.const 1056) (i32.const 6) (i32.const 32))
    (if (i32.load (i32.const 36))
      (then (call $add (local.get $fields) (i32.const 1056) (i32.const 6)
        (i32.load (i32.load (i32.const 32))) (i32.load offset=4 (i32.load (i32.const 32)))))
      (else (call $add (local.get $fields) (i32.const 1056) (i32.const 6) (i32.const 1096) (i32.const 4))))
    (call $drop.fields (local.get $headers))
    (call $begin (local.get $out) (i32.const 200) (local.get $fields))
    (call $send (i32.const 1088) (i32.const 6))
    (call $end))
  (func $status (param $out i32) (local $fields i32)
    (call $add (local.tee $fields (call $fields))
      (i32.const 1064) (i32.const 5) (i32.const 1080) (i32.const 1))
    (call $add (local.get $fields) (i32.const 1072) (i32.const 6) (i32.const 1081) (i32.const 1))
    (call $add (local.get $fields) (i32.const 1072) (i32.const 6) (i32.const 1082) (i32.const 1))
    (call $begin (local.get $out) (i32.const 418) (local.get $fields))
    (call $send (i32.const 1104) (i32.const 16))
    (call $end))
  (func $echo (param $request i32) (param $out i32) (local $body i32) (local $in i32)
    (call $incoming-request.consume (local.get $request) (i32.const 16))
    (local.set $body (i32.load (i32.const 20)))
    (call $incoming-body.stream (local.get $body) (i32.const 16))
    (local.set $in (i32.load (i32.const 20)))
    (call $begin (local.get $out) (i32.const 200) (call $fields))
    (block $done (loop $more
      (call $reset)
      (call $input-stream.blocking-read (local.get $in) (i64.const 4096) (i32.const 32))
      (br_if $done (i32.load (i32.const 32)))
      (call $send (i32.load (i32.const 36)) (i32.load (i32.const 40)))
      (br $more)))
    (call $drop.input-stream (local.get $in))
    (call $drop.incoming-body (local.get $body))
    (call $end))"""
# the targets differ in their lengths
TEXT = """
  (local $size i32)
  (call $incoming-request.path-with-query (local.get $request) (i32.const 16))
  (if (i32.eq (local.tee $size (i32.load (i32.const 24))) (i32.const 6))
    (then (call $hello (local.get $request) (local.get $out)) (return)))
  (if (i32.eq (local.get $size) (i32.const 7)) (then (call $status (local.get $out)) (return)))
  (if (i32.eq (local.get $size) (i32.const 5))
    (then (call $echo (local.get $request) (local.get $out)) (return)))
  (call $end (call $begin (local.get $out) (i32.const 404) (call $fields)))"""

# The same in wasi:http 0.3.
USES_P3 = {
    HTTP_P3: (
        *("[method]fields.append", "[method]fields.get", "[method]request.get-path-with-query"),
        *("[method]request.get-headers", "[resource-drop]fields", "[method]response.set-status-code"),
    )
}
FUNCTIONS_P3 = """
  (func $add (param $fields i32) (param $name i32) (param $n i32) (param $value i32) (param $v i32)
    (call $fields.append (local.get $fields) (local.get $name) (local.get $n)
      (local.get $value) (local.get $v) (i32.const 16))
    (if (i32.load8_u (i32.const 16)) (then (unreachable))))
  (func $begin (param $status i32) (param $fields i32) (local $b i64) (local $t i64)
    (local.set $b (call $body.new)) (local.set $t (call $trailers.new))
    (global.set $tx (call $high (local.get $b))) (global.set $ttx (call $high (local.get $t)))
    (call $response.new (local.get $fields) (i32.const 1) (i32.wrap_i64 (local.get $b))
      (i32.wrap_i64 (local.get $t)) (i32.const 4000))
    (call $sent.drop-readable (i32.load (i32.const 4004)))
    (drop (call $response.set-status-code (i32.load (i32.const 4000)) (local.get $status)))
    (call $return (i32.load (i32.const 4000))))
  (func $hello (param $request i32) (local $fields i32) (local $headers i32)
    (call $add (local.tee $fields (call $fields))
      (i32.const 1024) (i32.const 12) (i32.const 1040) (i32.const 10))
    (local.set $headers (call $request.get-headers (local.get $request)))
    (call $fields.get (local.get $headers) (i32.const 1056) (i32.const 6) (i32.const 32))
    (if (i32.load (i32.const 36))
      (then (call $add (local.get $fields) (i32.const 1056) (i32.const 6)
        (i32.load (i32.load (i32.const 32))) (i32.load offset=4 (i32.load (i32.const 32)))))
      (else (call $add (local.get $fields) (i32.const 1056) (i32.const 6) (i32.const 1096) (i32.const 4))))
    (call $drop.fields (local.get $headers))
    (call $begin (i32.const 200) (local.get $fields))
    (call $write (i32.const 1088) (i32.const 6)))
  (func $status (local $fields i32)
    (call $add (local.tee $fields (call $fields))
      (i32.const 1064) (i32.const 5) (i32.const 1080) (i32.const 1))
    (call $add (local.get $fields) (i32.const 1072) (i32.const 6) (i32.const 1081) (i32.const 1))
    (call $add (local.get $fields) (i32.const 1072) (i32.const 6) (i32.const 1082) (i32.const 1))
    (call $begin (i32.const 418) (local.get $fields))
    (call $write (i32.const 1104) (i32.const 16)))
  (func $answer (param $request i32) (local $size i32)
    (call $request.get-path-with-query (local.get $request) (i32.const 16))
    (if (i32.eq (local.tee $size (i32.load (i32.const 24))) (i32.const 6))
      (then (call $hello (local.get $request)) (return)))
    (if (i32.eq (local.get $size) (i32.const 7)) (then (call $status) (return)))
    (if (i32.eq (local.get $size) (i32.const 5))
      (then
        (call $consume (local.get $request))
        (call $begin (i32.const 200) (call $fields))
        (call $echo)
        (return)))
    (call $begin (i32.const 404) (call $fields)))"""
TEXT_P3 = """
  (call $answer (local.get $request))
  (call $finish)
  (i32.const 0)"""


def over_http(port: int) -> Side:
    def side(ask: Ask) -> Answer:
        with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=60)) as connection:
            connection.putrequest(ask.method, ask.target, skip_accept_encoding=True)
            for name, value in ask.headers:
                connection.putheader(name, value)
            if ask.chunked:
                connection.putheader("transfer-encoding", "chunked")
                connection.endheaders(iter(ask.pieces()), encode_chunked=True)
            else:
                if ask.body is not None:
                    connection.putheader("content-length", str(len(ask.body)))
                connection.endheaders(ask.body)
            response = connection.getresponse()
            return Answer.of(response.status, response.getheaders(), response.read())

    return side


def by_hand(gateway: Gateway) -> Side:
    def side(ask: Ask) -> Answer:
        path, _, query = ask.target.partition("?")
        fields = [("host", "127.0.0.1"), *ask.headers]
        if ask.body is not None:
            fields.append(
                ("transfer-encoding", "chunked") if ask.chunked else ("content-length", str(len(ask.body)))
            )
        body = () if ask.body is None else iter(ask.pieces()) if ask.chunked else (ask.body,)
        response = gateway.handle(
            Request(ask.method, path, query or None, Headers(fields), body, authority="127.0.0.1")
        )
        assert response is not None
        content = b"" if ask.method == "HEAD" else b"".join(response.body)
        return Answer.of(response.status, list(response.headers), content)

    return side


@contextmanager
def serving(folder: Path, *command: str) -> Iterator[Side]:
    """What the server says that `command` starts, with {port} in it, until the end."""
    port = free_port()
    log = folder / "server.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [part.replace("{port}", str(port)) for part in command],
            cwd=folder,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        end = time.monotonic() + START_SECONDS
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except OSError:
                assert process.poll() is None, log.read_text(errors="replace")
                assert time.monotonic() < end, log.read_text(errors="replace")
                time.sleep(0.05)
        yield over_http(port)
    finally:
        process.terminate()
        try:
            process.wait(60)
        finally:
            process.kill()
            process.wait()


def _is_p3(path: Path) -> bool:
    return path.parent.name == "p3"


def _in_its_own_way(path: Path) -> bool:
    """Whether a guest follows no protocol."""
    return _is_p3(path) and path.name != "text.wasm"


@pytest.fixture(scope="module", params=GUESTS, ids=lambda path: "p3-" * _is_p3(path) + path.stem)
def guest(request: pytest.FixtureRequest, components: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path: Path = request.param
    if not path.is_absolute():
        name, path = path, tmp_path_factory.mktemp("text") / path
        path.parent.mkdir(exist_ok=True)
        if _is_p3(name):
            made = P3Toolkit().handler(TEXT_P3, USES_P3, functions=FUNCTIONS_P3, data=DATA)
        else:
            made = components.http(TEXT, USES, FUNCTIONS, DATA)
        path.write_bytes(made)
    return path


@pytest.fixture(scope="module")
def scratch(guest: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the application of `guest`, and its site."""
    folder = tmp_path_factory.mktemp(guest.stem)
    (folder / "spin.toml").write_text(
        'spin_manifest_version = 2\n[application]\nname = "guest"\nversion = "1.0.0"\n'
        f'[[trigger.http]]\nroute = "/..."\ncomponent = "guest"\n[component.guest]\nsource = "{guest}"\n'
    )
    (folder / "guest_site.py").write_text(
        "from wasm_gateway import Gateway\n"
        f'gateway = Gateway.from_manifest({str(folder / "spin.toml")!r}, cache_dir="cache", state_dir="")\n'
        "wsgi, asgi = gateway.wsgi(), gateway.asgi()\n"
    )
    return folder


@pytest.fixture(scope="module")
def expected(guest: Path, scratch: Path) -> Iterator[dict[Ask, Answer]]:
    """What wasmtime says."""
    assert PROGRAM is not None
    flags = (*("-S", "cli,p3"), *ASYNC) if _is_p3(guest) else ("-S", "cli")
    with serving(scratch, PROGRAM, "serve", *flags, "--addr", "127.0.0.1:{port}", str(guest)) as side:
        short = _in_its_own_way(guest)
        yield {ask: side(ask) for ask in ASKS if not short or len(ask.body or b"") < 1000}


@pytest.fixture(scope="module")
def gateway(scratch: Path) -> Iterator[Gateway]:
    with Gateway.from_manifest(
        scratch / "spin.toml", cache_dir=scratch / "cache", state_dir=""
    ).open() as opened:
        yield opened


# Behind: by hand, and through each kind of door, in the servers of test_servers.py.
SIDES = {
    "handle": (),
    "wsgi": ("gunicorn", "--bind", "127.0.0.1:{port}", "--threads", "2", "guest_site:wsgi"),
    "asgi": ("uvicorn", "--port", "{port}", "guest_site:asgi"),
}


@pytest.fixture(scope="module", params=SIDES)
def side(request: pytest.FixtureRequest, gateway: Gateway, scratch: Path) -> Iterator[Side]:
    command = SIDES[request.param]
    if not command:
        yield by_hand(gateway)
        return
    with serving(scratch, sys.executable, "-m", *command) as made:
        yield made


def test_the_guest_follows_the_protocol(guest: Path, expected: dict[Ask, Answer]) -> None:
    """Otherwise two failures would compare as equal."""
    if _in_its_own_way(guest):
        assert {answer.status for answer in expected.values()} <= {200, 404}
        return
    answers = {ask.what: answer for ask, answer in expected.items()}
    for ask in ASKS:
        answer = answers[ask.what]
        if ask.target == "/hello":
            assert answer.status == 200
            assert answer.body or ask.method == "HEAD"
            assert dict(answer.headers)["content-type"][0].startswith("text/plain")
        elif ask.target == "/echo":
            assert (answer.status, answer.body) == (200, ask.body)
    assert answers["hello"].all_of("x-echo") == ["this", "and that"]
    assert answers["status"].status == 418
    assert answers["status"].all_of("x-one") == ["1"]
    assert answers["status"].all_of("x-many") == ["a", "b"]


@pytest.mark.parametrize("ask", ASKS, ids=lambda ask: ask.what)
def test_the_same_answer(ask: Ask, side: Side, expected: dict[Ask, Answer]) -> None:
    if ask not in expected:
        pytest.skip("a server may hang up on a long body that nobody reads")
    wanted, got = expected[ask], side(ask)
    assert (got.status, got.headers) == (wanted.status, wanted.headers)
    assert got.body == wanted.body
    if got.length is not None and wanted.length is not None:
        assert got.length == wanted.length


def test_many_at_once(side: Side, expected: dict[Ask, Answer]) -> None:
    """Guests leave nothing behind, and do not see each other."""
    asks = tuple(expected) * 10
    with ThreadPoolExecutor(4) as threads:
        for ask, got in zip(asks, threads.map(side, asks), strict=True):
            assert (got.status, got.headers, got.body) == (
                *(expected[ask].status, expected[ask].headers, expected[ask].body),
            )
