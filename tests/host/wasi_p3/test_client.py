"""wasi:http/client against a real server, by whole guests that pass its answers on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.host.wasi.test_outgoing import Server, server
from tests.wasi_p3_wat import CLIENT, HTTP, P3Toolkit
from wasm_gateway import Gateway
from wasm_gateway.component.streams import (
    CopyResult,
    HostBuffer,
    HostFuture,
    HostStream,
    Promise,
    SharedStream,
)
from wasm_gateway.component.values import Err, Ok
from wasm_gateway.host.outbound_http import OutboundHttp
from wasm_gateway.host.wasi.http import Fields
from wasm_gateway.host.wasi.io import BytesInput
from wasm_gateway.host.wasi.outgoing import OutgoingHandler
from wasm_gateway.host.wasi_p3.client import Client
from wasm_gateway.host.wasi_p3.http import BYTE, Body
from wasm_gateway.host.wasi_p3.http import Request as Asked
from wasm_gateway.messages import STREAMED, Headers, Request, Response

__all__ = ["server"]

# $ask(path, contents?, contents, trailers): a POST request to the server; its handle.
SETTERS = tuple(
    f"[method]request.set-{name}" for name in ("method", "scheme", "authority", "path-with-query")
)
USES = {HTTP: ("[static]request.new", *SETTERS, "[method]fields.append")}


def asking(authority: str) -> dict[str, str]:
    functions = f"""
  (func $ask (param $path i32) (param $size i32) (param $some i32) (param $contents i32) (param $trailers i32)
    (result i32) (local $request i32) (local $fields i32)
    (local.set $fields (call $fields))
    (call $fields.append (local.get $fields) (i32.const 600) (i32.const 2) (i32.const 602) (i32.const 8)
      (i32.const 16))
    (call $fields.append (local.get $fields) (i32.const 620) (i32.const 7) (i32.const 630) (i32.const 5)
      (i32.const 16))
    (call $request.new (local.get $fields) (local.get $some) (local.get $contents) (local.get $trailers)
      (i32.const 0) (i32.const 0) (i32.const 4000))
    (local.set $request (i32.load (i32.const 4000)))
    (call $sent.drop-readable (i32.load (i32.const 4004)))
    (drop (call $request.set-method (local.get $request) (i32.const 2) (i32.const 0) (i32.const 0)))
    (drop (call $request.set-scheme (local.get $request) (i32.const 1) (i32.const 0) (i32.const 0)
      (i32.const 0)))
    (drop (call $request.set-authority (local.get $request) (i32.const 1) (i32.const 1024)
      (i32.const {len(authority)})))
    (drop (call $request.set-path-with-query (local.get $request) (i32.const 1) (local.get $path)
      (local.get $size)))
    (local.get $request))
  (func $no-trailers (result i32) (local $t i64)
    (local.set $t (call $trailers.new))
    (memory.fill (i32.const 3904) (i32.const 0) (i32.const 64))
    (drop (call $trailers.write~ (call $high (local.get $t)) (i32.const 3904)))
    (i32.wrap_i64 (local.get $t)))
  (func $answer-with (param $at i32)
    (if (i32.load8_u (local.get $at))
      (then (call $task.return (i32.const 1) (i32.load8_u offset=8 (local.get $at)) (i32.const 0)
        (i64.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0)))
      (else (call $return (i32.load offset=8 (local.get $at))))))"""
    data = f"""(data (i32.const 600) "te") (data (i32.const 602) "trailers") (data (i32.const 620) "trailer")
      (data (i32.const 630) "x-sum") (data (i32.const 700) "/meet") (data (i32.const 710) "/echo")
      (data (i32.const 720) "/steps") (data (i32.const 730) "/b") (data (i32.const 740) "/count")
      (data (i32.const 750) "/short") (data (i32.const 760) "/large") (data (i32.const 770) "/while")
      (data (i32.const 1024) "{authority}")"""
    return {"functions": functions, "data": data}


Serve = Callable[..., Gateway]


@pytest.fixture
def serve(application: Any, server: Server) -> Serve:
    toolkit = P3Toolkit()

    def serve(code: str, hosts: Any = None, *, authority: str | None = None, **options: Any) -> Gateway:
        wasm = toolkit.handler(code, **asking(authority or server.authority), **options)
        allowed = [f"http://{server.authority}"] if hosts is None else hosts
        made: Gateway = application(a=application.part(wasm, allowed_outbound_hosts=allowed))
        return made

    return serve


SEND = {CLIENT: ("send",)}


def ask(path: int, size: int) -> str:
    """Asks without a body and answers with what comes."""
    return f"""
      (call $drop.request (local.get $request))
      (call $send (call $ask (i32.const {path}) (i32.const {size}) (i32.const 0) (i32.const 0)
        (call $no-trailers)) (i32.const 200))
      (call $answer-with (i32.const 200))
      (i32.const 0)"""


def proxy(path: int, size: int) -> str:
    """The body and trailers are passed on in both directions."""
    return f"""
      (call $consume (local.get $request))
      (call $send (call $ask (i32.const {path}) (i32.const {size}) (i32.const 1) (global.get $rx)
        (global.get $rtrailers)) (i32.const 200))
      (call $answer-with (i32.const 200))
      (i32.const 0)"""


def uses(*more: dict[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
    merged = dict(USES)
    for one in more:
        merged |= one
    return merged


def request(body: Any = (), **fields: Any) -> Request:
    return Request("POST", "/a", None, Headers(), body, authority="x", **fields)


def whole(response: Response | None) -> tuple[int, bytes]:
    assert response is not None
    return response.status, b"".join(response.body)


def test_an_answer_is_passed_on(serve: Serve, server: Server) -> None:
    assert whole(serve(ask(710, 5), uses=uses(SEND)).handle(request())) == (201, b"")
    [(method, path, headers)] = server.seen
    assert (method, path, headers["Host"]) == ("POST", "/echo", server.authority)
    assert "Transfer-Encoding" not in headers


@pytest.mark.parametrize("body", [(b"one",), (b"one", b"two"), (bytes(100_000),) * 5])
def test_bodies_are_passed_on(serve: Serve, body: tuple[bytes, ...]) -> None:
    response = serve(proxy(710, 5), uses=uses(SEND)).handle(request(body))
    assert whole(response) == (201, b"".join(body))


def test_trailers_are_passed_on(serve: Serve, server: Server) -> None:
    trailers = Headers([("x-sum", "1")])
    response = serve(proxy(730, 2), uses=uses(SEND)).handle(request((b"a",), trailers=lambda: trailers))
    assert whole(response) == (200, b"a")
    assert server.trailers == [b"x-sum: 1\r\n"]
    assert response is not None
    assert response.trailers is not None
    assert response.trailers() == trailers


class Conversation:
    """The body of a client that goes on when it has heard the answer to what it said; also its door."""

    news: Callable[[], object] | None = None

    def __init__(self, *pieces: bytes) -> None:
        self.pieces = pieces
        self.sent = 0
        self.heard: list[bytes] = []

    def __iter__(self) -> Iterator[bytes]:
        for piece in self.pieces:
            assert self.wait(0)
            self.sent += len(piece)
            yield piece

    def wait(self, seconds: float) -> bool:
        return len(b"".join(self.heard)) >= self.sent

    def __call__(self, head: Response) -> Callable[[bytes | None], object]:
        def send(chunk: bytes | None) -> None:
            self.heard.append(chunk or b"")
            if self.news is not None:
                self.news()

        return send


def test_a_conversation_is_passed_on(serve: Serve) -> None:
    """Guest and server answer each piece before the next one is there."""
    client = Conversation(b"one", b"two", b"three")
    response = serve(proxy(770, 6), uses=uses(SEND)).handle(request(client), None, client)
    assert response is STREAMED
    assert b"".join(client.heard) == b"ONETWOTHREE"


def test_two_requests_are_under_way_at_once(serve: Serve) -> None:
    """The server answers neither before both are there."""
    code = """
      (local $set i32) (local $left i32)
      (call $drop.request (local.get $request))
      (local.set $set (call $set.new))
      (local.set $left (i32.const 2))
      (loop $both
        (call $join (i32.shr_u (call $send~ (call $ask (i32.const 700) (i32.const 5) (i32.const 0)
            (i32.const 0) (call $no-trailers))
            (i32.add (i32.const 200) (i32.shl (local.get $left) (i32.const 6))))
          (i32.const 4)) (local.get $set))
        (local.set $left (i32.sub (local.get $left) (i32.const 1)))
        (br_if $both (local.get $left)))
      (local.set $left (i32.const 2))
      (loop $each
        (drop (call $set.wait (local.get $set) (i32.const 100)))
        (call $join (i32.load (i32.const 100)) (i32.const 0))
        (call $subtask.drop (i32.load (i32.const 100)))
        (local.set $left (i32.sub (local.get $left) (i32.const 1)))
        (br_if $each (local.get $left)))
      (call $answer-with (i32.const 264))
      (i32.const 0)"""
    assert whole(serve(code, uses=USES, async_uses=SEND).handle(request())) == (200, b"met")


def test_a_request_that_nobody_wants_any_more(serve: Serve, server: Server) -> None:
    """Its subtask is cancelled while the server is silent; the guest then answers by itself."""
    code = """
      (local $task i32)
      (call $drop.request (local.get $request))
      (local.set $task (i32.shr_u (call $send~ (call $ask (i32.const 700) (i32.const 5) (i32.const 0)
        (i32.const 0) (call $no-trailers)) (i32.const 200)) (i32.const 4)))
      (if (i32.ne (call $subtask.cancel (local.get $task)) (i32.const 4)) (then unreachable))
      (call $subtask.drop (local.get $task))
      (call $return (call $new))
      (call $write (i32.const 600) (i32.const 2))
      (call $finish)
      (i32.const 0)"""
    assert whole(serve(code, uses=USES, async_uses=SEND).handle(request())) == (200, b"te")


def test_what_is_not_allowed(serve: Serve, caplog: Any) -> None:
    assert whole(serve(ask(710, 5), [], uses=uses(SEND)).handle(request())) == (500, b"")
    assert "HTTP-request-denied" in caplog.text


def test_a_server_that_is_not_there(serve: Serve, caplog: Any) -> None:
    gateway = serve(ask(710, 5), ["http://127.0.0.1:1"], authority="127.0.0.1:1", uses=uses(SEND))
    assert whole(gateway.handle(request())) == (500, b"")
    assert "connection-refused" in caplog.text


def test_an_answer_that_breaks_off(serve: Serve, caplog: Any) -> None:
    """The guest passes on what it gets, so its own response breaks off too."""
    assert whole(serve(ask(750, 6), uses=uses(SEND)).handle(request())) == (500, b"")
    assert "did not finish its response body" in caplog.text


# What became of a request, by the functions themselves


class Sent:
    """A request of `data`, and what its guest hears."""

    def __init__(self, ctx: Any, authority: str, data: bytes | None, trailers: Any, **fields: str) -> None:
        promise = Promise()
        body = None if data is None else HostStream(ctx.loop, BYTE, BytesInput(data))
        pairs = [(name.replace("_", "-"), value.encode()) for name, value in fields.items()]
        self.request = Asked(Fields(pairs), Body(body, HostFuture(ctx.loop, None, trailers), promise))
        self.request.method, self.request.scheme = ("post", None), ("HTTP", None)
        self.request.target, self.request.authority = "/count", authority
        self.heard: list[Any] = []
        promise.then(self.heard.append)


DATA = bytes(range(256)) * 4
LARGE = bytes(300_000)


@pytest.fixture
def ctx(context: Callable[..., Any]) -> Any:
    return context(allowed=["*://*:*"])


@pytest.fixture
def client(network: Any) -> Iterator[Client]:
    outbound = OutboundHttp(network)
    handler = OutgoingHandler(outbound)
    yield Client(handler)
    handler.close()
    outbound.close()


@pytest.mark.parametrize(
    ("data", "length", "trailers", "code"),
    [
        (DATA, 1024, Ok(None), None),
        (DATA, None, Ok(None), None),
        (None, None, Ok(None), None),
        (None, 0, Ok(None), None),
        (LARGE, None, Ok(None), None),
        (DATA, 1023, Ok(None), ("HTTP-request-body-size", 1024)),
        (DATA, 1025, Ok(None), ("HTTP-request-body-size", 1024)),
        (LARGE, 300_001, Ok(None), ("HTTP-request-body-size", 300_000)),
        (None, 5, Ok(None), ("HTTP-request-body-size", 0)),
        (DATA, None, Err(("loop-detected", None)), ("loop-detected", None)),
        (LARGE, None, Err(("loop-detected", None)), ("loop-detected", None)),
    ],
)
def test_what_became_of_a_body(
    ctx: Any, client: Client, server: Server, data: bytes | None, length: int | None, trailers: Any, code: Any
) -> None:
    """A guest that breaks its word hears what it did, from `send` and from the future of its request."""
    fields = {} if length is None else {"content_length": str(length)}
    sent = Sent(ctx, server.authority, data, trailers, **fields)
    [(_, found)] = ctx.run(client.send(ctx, sent.request))
    if code is None:
        assert (found.status, sent.heard) == (200, [Ok()])
    else:
        assert (found, sent.heard) == (Err(code), [Err(code)])


@pytest.mark.parametrize(
    ("scheme", "authority", "code"),
    [
        (("other", "ftp"), "127.0.0.1:1", "HTTP-protocol-error"),
        (("HTTP", None), "127.0.0.1:1", "connection-refused"),
        (("HTTP", None), "nowhere.invalid:80", "DNS-error"),
        (None, "server", "TLS-protocol-error"),  # https, if nothing is said
    ],
)
def test_what_never_arrived_was_not_sent(
    ctx: Any, client: Client, server: Server, scheme: Any, authority: str, code: str
) -> None:
    sent = Sent(ctx, server.authority if authority == "server" else authority, None, Ok(None))
    sent.request.scheme = scheme
    [(_, found)] = ctx.run(client.send(ctx, sent.request))
    assert isinstance(found, Err)
    assert found.value[0] == code
    assert sent.heard == [found]


def test_who_still_writes_to_a_request_that_failed_is_told(ctx: Any, client: Client) -> None:
    """Else a guest would wait for ever for somebody to take the rest of its body."""
    body = SharedStream(BYTE)
    written: list[CopyResult] = []
    sent = Sent(ctx, "127.0.0.1:1", None, Ok(None))
    sent.request.body.contents = body  # type: ignore[union-attr]
    [(_, found)] = ctx.run(client.send(ctx, sent.request))
    assert found == Err(("connection-refused", None))
    body.write(None, HostBuffer(3, b"abc"), lambda reclaim: None, written.append)
    assert written == [CopyResult.DROPPED]
