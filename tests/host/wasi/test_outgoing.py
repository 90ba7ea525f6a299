"""wasi:http/outgoing-handler against real servers: several at once, bodies in pieces, timeouts, failures."""

from __future__ import annotations

import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote_to_bytes

import pytest

from tests.component_wat import HTTP
from wasm_gateway.component.values import Err, Ok
from wasm_gateway.errors import DeadlineExceeded, LimitExceeded, Trap
from wasm_gateway.host.network import Network
from wasm_gateway.host.outbound_http import OutboundHttp
from wasm_gateway.host.wasi import io as wasi_io
from wasm_gateway.host.wasi import outgoing as wasi_outgoing
from wasm_gateway.host.wasi.http import IMMUTABLE, Fields, OutgoingRequest, RequestOptions, WasiHttp
from wasm_gateway.host.wasi.outgoing import (
    MAX_REQUESTS,
    PIPE_BYTES,
    WHOLE_BYTES,
    FutureResponse,
    OutgoingHandler,
)
from wasm_gateway.messages import Headers, Request, Response

F = WasiHttp.FUNCTIONS


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server  # type: ignore[assignment]

    def setup(self) -> None:
        super().setup()
        self.server.connections += 1

    def log_message(self, *_: Any) -> None:
        pass

    def chunks(self) -> Iterator[bytes]:
        """The request body as it comes."""
        if self.headers.get("transfer-encoding") == "chunked":
            while size := int(self.rfile.readline(), 16):
                yield self.rfile.read(size)
                self.rfile.readline()
            while (line := self.rfile.readline()) != b"\r\n":
                self.server.trailers.append(line)
        elif length := int(self.headers.get("content-length", 0)):
            yield self.rfile.read(length)

    def answer(self) -> None:
        headers = {name.title(): value for name, value in self.headers.items()}
        self.server.seen.append((self.command, self.path, headers))
        getattr(self, "answer_" + self.path[1:].partition("?")[0])()

    do_GET = do_POST = do_PUT = do_HEAD = do_BREW = answer

    def begin(self, status: int = 200, *headers: tuple[str, str]) -> None:
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        self.end_headers()

    def answer_echo(self) -> None:
        body = b"".join(self.chunks())
        self.begin(
            201, ("content-length", str(len(body))), ("x-two", "a"), ("x-two", "b"), ("keep-alive", "1")
        )
        if self.command != "HEAD":
            self.wfile.write(body)

    def answer_count(self) -> None:
        """How many bytes there were, which are never together."""
        text = b"%d" % sum(map(len, self.chunks()))
        self.begin(200, ("content-length", str(len(text))))
        self.wfile.write(text)

    def answer_meet(self) -> None:
        """Answers once two requests are here."""
        self.server.meeting.wait(60)
        self.begin(200, ("content-length", "3"))
        self.wfile.write(b"met")

    def answer_large(self) -> None:
        self.begin(200, ("content-length", str(64 << 20)))
        try:
            for _ in range(1024):
                self.wfile.write(bytes(65536))
                self.server.written += 65536
        except OSError:
            self.server.gone.set()

    def answer_steps(self) -> None:
        """A second piece when the first has been read."""
        self.begin(200, ("content-length", "6"))
        self.wfile.write(b"one")
        self.server.step.wait(60)
        self.wfile.write(b"two")

    def answer_chunks(self) -> None:
        """The request body in chunks; behind it comes the query, unquoted, or, for "cut", nothing at all."""
        body = list(self.chunks())
        self.begin(200, ("transfer-encoding", "chunked"), ("trailer", "x-sum"))
        for chunk in body:
            self.wfile.write(b"%x\r\n%b\r\n" % (len(chunk), chunk))
        rest = unquote_to_bytes(self.path.partition("?")[2])
        if rest == b"cut":
            self.wfile.write(b"5\r\nhal")
            self.close_connection = True
        else:
            self.wfile.write(b"0\r\n" + rest)
            self.close_connection = not rest.endswith(b"\r\n\r\n") and rest != b"\r\n"

    def answer_while(self) -> None:
        """Each piece of the request as it comes; the head is there before the first one."""
        self.begin(200, ("transfer-encoding", "chunked"))
        for chunk in self.chunks():
            self.wfile.write(b"%x\r\n%b\r\n" % (len(chunk), chunk.upper()))
        self.wfile.write(b"0\r\n\r\n")

    def answer_enough(self) -> None:
        """All of the answer after the first piece of the request; then the end, or, for "go", the rest."""
        chunks = self.chunks()
        self.server.taken = len(next(chunks))
        self.begin(413, ("content-length", "6"))
        self.wfile.write(b"enough")
        if self.path.endswith("?go"):
            self.server.taken += sum(map(len, chunks))
            self.server.gone.set()
        else:
            self.close_connection = True

    def answer_short(self) -> None:
        self.begin(200, ("content-length", "100"))
        self.wfile.write(b"short")
        self.close_connection = True

    def answer_b(self) -> None:
        """The request body and its trailers, in chunks."""
        body = b"".join(self.chunks())
        self.begin(200, ("transfer-encoding", "chunked"))
        self.wfile.write(b"%x\r\n%b\r\n0\r\n" % (len(body), body))
        self.wfile.write(b"".join(self.server.trailers) + b"Host: evil\r\n\r\n")

    def answer_heavy(self) -> None:
        self.begin(200, ("transfer-encoding", "chunked"))
        self.wfile.write(b"0\r\n" + HEAVY)
        self.close_connection = True

    def answer_silence(self) -> None:
        self.server.stop.wait(60)
        self.close_connection = True

    def answer_stall(self) -> None:
        self.begin(200, ("content-length", "100"))
        self.wfile.write(b"some")
        self.server.stop.wait(60)
        self.close_connection = True


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.seen: list[tuple[str, str, dict[str, str]]] = []
        self.trailers: list[bytes] = []
        self.meeting = threading.Barrier(2)
        self.step, self.stop, self.gone = threading.Event(), threading.Event(), threading.Event()
        self.written = self.connections = self.taken = 0

    @property
    def authority(self) -> str:
        return f"127.0.0.1:{self.server_address[1]}"

    def handle_error(self, *_: Any) -> None:
        pass  # clients that go away are part of these tests


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    thread = threading.Thread(target=made.serve_forever, args=(0.01,))
    thread.start()
    yield made
    made.stop.set()
    made.step.set()
    made.shutdown()
    thread.join()
    made.server_close()


@pytest.fixture
def outbound(network: Network) -> Iterator[OutboundHttp]:
    made = OutboundHttp(network)
    yield made
    made.close()


@pytest.fixture
def handler(outbound: OutboundHttp) -> Iterator[OutgoingHandler]:
    made = OutgoingHandler(outbound)
    yield made
    made.close()


@pytest.fixture
def guest(context: Callable[..., Any]) -> Any:
    return context(allowed=["http://127.0.0.1:*", "http://*.spin.internal", "http://self"])


def call(name: str, *arguments: Any) -> Any:
    return F[name](*arguments)


def outgoing(
    ctx: Any,
    authority: str,
    path: str = "/echo",
    method: str = "get",
    headers: list[tuple[str, bytes]] | None = None,
) -> OutgoingRequest:
    fields = call("[static]fields.from-list", ctx, headers or [])
    assert isinstance(fields, Fields)
    request = call("[constructor]outgoing-request", ctx, fields)
    case = (method, None) if method in ("get", "head", "post", "put") else ("other", method)
    assert call("[method]outgoing-request.set-method", ctx, request, case) is None
    assert call("[method]outgoing-request.set-path-with-query", ctx, request, path) is None
    assert call("[method]outgoing-request.set-authority", ctx, request, authority) is None
    assert call("[method]outgoing-request.set-scheme", ctx, request, ("HTTP", None)) is None
    assert isinstance(request, OutgoingRequest)
    return request


def body_of(ctx: Any, request: OutgoingRequest) -> tuple[Any, Any]:
    body = call("[method]outgoing-request.body", ctx, request)
    return body, call("[method]outgoing-body.write", ctx, body)


def finish(ctx: Any, body: Any, trailers: Fields | None = None) -> Any:
    return call("[static]outgoing-body.finish", ctx, body, trailers)


def write_all(ctx: Any, stream: Any, data: bytes) -> None:
    """As a guest writes: what check-write permits, waiting where that is nothing."""
    while data:
        permit = wasi_io.check_write(ctx, stream)
        assert isinstance(permit, int)
        if not permit:
            wasi_io.wait_any(ctx, [stream.pollable()])
            continue
        assert wasi_io.write(ctx, stream, data[:permit]) is None
        data = data[permit:]


def wait(ctx: Any, future: Any) -> Any:
    """The incoming-response, or Err(error-code)."""
    assert call("[method]future-incoming-response.subscribe", ctx, future) is future
    wasi_io.wait_any(ctx, [future])
    got = call("[method]future-incoming-response.get", ctx, future)
    assert isinstance(got, Ok)
    return got.value.value if isinstance(got.value, Ok) else got.value


def until(condition: Callable[[], object]) -> None:
    """Wait for what another thread is about to do."""
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.001)


def stream_of(ctx: Any, response: Any) -> Any:
    body = call("[method]incoming-response.consume", ctx, response)
    return call("[method]incoming-body.stream", ctx, body)


def rest(ctx: Any, stream: Any) -> bytes:
    data = b""
    while True:
        piece = wasi_io.blocking_read(ctx, stream, 1 << 20)
        if isinstance(piece, Err):
            assert piece.value == ("closed", None)
            return data
        data += piece


def test_a_request_without_a_body(server: Server, handler: OutgoingHandler, guest: Any) -> None:
    request = outgoing(guest, server.authority, "/echo?q=1", headers=[("x-a", b"1"), ("accept", b"*/*")])
    response = wait(guest, handler.handle(guest, request, None))
    assert call("[method]incoming-response.status", guest, response) == 201
    fields = call("[method]incoming-response.headers", guest, response)
    assert [value for name, value in fields.pairs if name == "x-two"] == [b"a", b"b"]
    assert "keep-alive" not in dict(fields.pairs)
    assert rest(guest, stream_of(guest, response)) == b""
    [(method, path, headers)] = server.seen
    assert (method, path, headers["X-A"], headers["Accept"]) == ("GET", "/echo?q=1", "1", "*/*")
    assert {"Transfer-Encoding", "User-Agent", "Accept-Encoding"}.isdisjoint(headers)


@pytest.mark.parametrize(
    ("path", "sent"),
    [
        ("/echo?\u00e9=\u20ac&%C3", "/echo?%C3%A9=%E2%82%AC&%C3"),
        ("/echo?a=b#c", "/echo?a=b"),
    ],
)
def test_what_is_no_url_yet_is_quoted(
    server: Server, handler: OutgoingHandler, guest: Any, path: str, sent: str
) -> None:
    wait(guest, handler.handle(guest, outgoing(guest, server.authority, path), None))
    assert server.seen[0][1] == sent


def test_field_values_are_bytes(server: Server, handler: OutgoingHandler, guest: Any) -> None:
    values = [("x-latin", b"\xe9\xff"), ("x-utf", "\u20ac".encode())]
    wait(guest, handler.handle(guest, outgoing(guest, server.authority, headers=values), None))
    headers = server.seen[0][2]
    assert headers["X-Latin"].encode("latin-1") == b"\xe9\xff"
    assert headers["X-Utf"].encode("latin-1") == "\u20ac".encode()


@pytest.mark.parametrize("size", [0, 5, WHOLE_BYTES])
def test_a_short_body_goes_with_its_length(
    server: Server, handler: OutgoingHandler, guest: Any, size: int
) -> None:
    request = outgoing(guest, server.authority, method="post")
    body, stream = body_of(guest, request)
    future = handler.handle(guest, request, None)
    write_all(guest, stream, b"x" * size)
    assert finish(guest, body) is None
    assert rest(guest, stream_of(guest, wait(guest, future))) == b"x" * size
    assert "Transfer-Encoding" not in server.seen[0][2]
    assert server.seen[0][2].get("Content-Length", "0") == str(size)


@pytest.mark.parametrize("declared", [False, True])
def test_a_long_body_is_sent_while_it_is_written(
    server: Server, handler: OutgoingHandler, guest: Any, declared: bool
) -> None:
    size = 20 * PIPE_BYTES
    headers = [("content-length", b"%d" % size)] if declared else []
    request = outgoing(guest, server.authority, "/count", "put", headers)
    body, stream = body_of(guest, request)
    future = handler.handle(guest, request, None)
    for _ in range(20):
        write_all(guest, stream, bytes(PIPE_BYTES))
    assert finish(guest, body) is None
    assert rest(guest, stream_of(guest, wait(guest, future))) == b"%d" % size
    assert server.seen[0][2].get("Content-Length") == (str(size) if declared else None)


def test_what_is_written_before_the_request_is_handled(
    server: Server, handler: OutgoingHandler, guest: Any
) -> None:
    request = outgoing(guest, server.authority, method="post")
    body, stream = body_of(guest, request)
    write_all(guest, stream, b"early ")
    future = handler.handle(guest, request, None)
    write_all(guest, stream, b"late")
    finish(guest, body)
    assert rest(guest, stream_of(guest, wait(guest, future))) == b"early late"


def test_requests_are_under_way_together(server: Server, handler: OutgoingHandler, guest: Any) -> None:
    futures = [handler.handle(guest, outgoing(guest, server.authority, "/meet"), None) for _ in range(2)]
    assert [rest(guest, stream_of(guest, wait(guest, future))) for future in futures] == [b"met", b"met"]


def test_a_response_is_read_while_it_comes(server: Server, handler: OutgoingHandler, guest: Any) -> None:
    response = wait(guest, handler.handle(guest, outgoing(guest, server.authority, "/steps"), None))
    stream = stream_of(guest, response)
    assert wasi_io.blocking_read(guest, stream, 100) == b"one"
    assert wasi_io.read(guest, stream, 100) == b""
    server.step.set()
    wasi_io.wait_any(guest, [stream.pollable()])
    assert wasi_io.read(guest, stream, 2) == b"tw"
    assert rest(guest, stream) == b"o"


def test_a_response_that_nobody_reads_is_not_taken_in(
    server: Server, handler: OutgoingHandler, guest: Any
) -> None:
    response = wait(guest, handler.handle(guest, outgoing(guest, server.authority, "/large"), None))
    stream = stream_of(guest, response)
    assert len(wasi_io.blocking_read(guest, stream, 1000)) == 1000
    assert stream._pipe._size <= PIPE_BYTES + 65536
    stream.abandon()  # as when the guest drops the body
    assert server.gone.wait(60)
    assert server.written < 64 << 20


def test_the_end_of_the_instance_breaks_off(
    server: Server, handler: OutgoingHandler, context: Callable[..., Any]
) -> None:
    ctx = context(allowed=["http://127.0.0.1:*"])
    wait(ctx, handler.handle(ctx, outgoing(ctx, server.authority, "/large"), None))
    request = outgoing(ctx, server.authority, "/count", "post")
    _, stream = body_of(ctx, request)
    handler.handle(ctx, request, None)
    write_all(ctx, stream, bytes(2 * WHOLE_BYTES))
    assert ctx.run_closers() == []
    assert server.gone.wait(60)
    handler.close()
    join_senders()


def test_a_response_that_breaks_off(server: Server, handler: OutgoingHandler, guest: Any) -> None:
    response = wait(guest, handler.handle(guest, outgoing(guest, server.authority, "/short"), None))
    stream = stream_of(guest, response)
    pieces = b""
    while isinstance(piece := wasi_io.blocking_read(guest, stream, 100), bytes):
        pieces += piece
    assert pieces in (b"short", b"")
    case, error = piece.value
    assert case == "last-operation-failed"
    assert call("http-error-code", guest, error) == ("HTTP-response-incomplete", None)


# Trailers


def trailers_of(ctx: Any, body: Any) -> Any:
    """The trailers, None, or Err(error-code); the rest of the body is not asked for."""
    future = call("[static]incoming-body.finish", ctx, body)
    assert call("[method]future-trailers.subscribe", ctx, future) is future
    wasi_io.wait_any(ctx, [future])
    got = call("[method]future-trailers.get", ctx, future)
    assert isinstance(got, Ok)
    assert call("[method]future-trailers.get", ctx, future) == Err(None)
    call("[resource-drop]future-trailers", ctx, future)
    return got.value.value if isinstance(got.value, Ok) else got.value


def asked_for(ctx: Any, handler: OutgoingHandler, authority: str, path: str) -> Any:
    """The incoming-body of the response."""
    future = handler.handle(ctx, outgoing(ctx, authority, path, "post"), None)
    return call("[method]incoming-response.consume", ctx, wait(ctx, future))


HEAVY = b"x: " + b"y" * (128 << 10) + b"\r\n\r\n"


@pytest.mark.parametrize(
    ("behind", "found"),
    [
        (b"\r\n", None),
        (b"", None),  # some servers leave the section out, and close
        (b"X-Sum: 1 \r\nx-sum:2\r\n\r\n", [("x-sum", b"1"), ("x-sum", b"2")]),
        (b"x-sum: 1\r\nhost: x\r\nTransfer-Encoding: x\r\n\r\n", [("x-sum", b"1")]),
        (b"x: \xe9\r\n\r\n", [("x", b"\xe9")]),
        (b"host: x\r\n\r\n", None),
        (b"x-sum: 1\r\n", ("HTTP-response-incomplete", None)),
        (b"x-sum: 1", ("HTTP-response-incomplete", None)),
        (b"cut", ("HTTP-response-incomplete", None)),
        (b"x-sum\r\n\r\n", ("HTTP-protocol-error", None)),
        (b"x-sum: 1\r\n folded\r\n\r\n", ("HTTP-protocol-error", None)),
        (HEAVY, ("HTTP-response-trailer-section-size", None)),
    ],
)
def test_what_follows_a_response(
    server: Server, handler: OutgoingHandler, guest: Any, behind: bytes, found: Any
) -> None:
    body = asked_for(
        guest, handler, server.authority, "/chunks?" + quote(behind) if len(behind) < 1000 else "/heavy"
    )
    trailers = trailers_of(guest, body)
    if isinstance(found, list):
        assert trailers.pairs == found
        assert call("[method]fields.append", guest, trailers, "x", b"1") == IMMUTABLE
    else:
        assert trailers == (Err(found) if found else None)


def test_trailers_wait_for_the_end_of_the_body(server: Server, handler: OutgoingHandler, guest: Any) -> None:
    body = asked_for(guest, handler, server.authority, "/steps")
    stream = call("[method]incoming-body.stream", guest, body)
    assert wasi_io.blocking_read(guest, stream, 2) == b"on"
    stream.close(guest)
    future = call("[static]incoming-body.finish", guest, body)
    assert call("[method]future-trailers.get", guest, future) is None
    assert not future.ready()
    # others are waited for at the same time
    timer = wasi_io.Timer(time.monotonic() + 0.01)
    assert wasi_io.poll(guest, [future, timer]) == [1]
    server.step.set()
    assert wasi_io.poll(guest, [future]) == [0]
    assert call("[method]future-trailers.get", guest, future) == Ok(Ok(None))


def test_trailers_of_a_body_that_was_read_are_there_at_once(
    server: Server, handler: OutgoingHandler, guest: Any
) -> None:
    body = asked_for(guest, handler, server.authority, "/chunks?x-sum:1%0d%0a%0d%0a")
    assert rest(guest, call("[method]incoming-body.stream", guest, body)) == b""
    future = call("[static]incoming-body.finish", guest, body)
    assert call("[method]future-trailers.get", guest, future).value.value.pairs == [("x-sum", b"1")]


def test_a_connection_is_kept_after_trailers(server: Server, handler: OutgoingHandler, guest: Any) -> None:
    for _ in range(3):
        body = asked_for(guest, handler, server.authority, "/chunks?x-sum:1%0d%0a%0d%0a")
        assert trailers_of(guest, body).pairs == [("x-sum", b"1")]
        until(lambda: not wasi_outgoing.under_way(guest))
        body = asked_for(guest, handler, server.authority, "/echo")
        assert trailers_of(guest, body) is None
        until(lambda: not wasi_outgoing.under_way(guest))
    assert server.connections == 1


# the names in the request's trailer field, its content-length -> what goes out behind the body
@pytest.mark.parametrize(
    ("announced", "length", "sent"),
    [
        (b"x-sum, X-More", None, [b"x-sum: 1\r\n", b"x-more: \xe9\r\n"]),
        (b"x-sum", None, [b"x-sum: 1\r\n"]),
        (b"authorization, content-type", None, []),
        (None, None, []),
        (b"x-sum", 5, []),
    ],
)
@pytest.mark.parametrize("size", [5, 3 * WHOLE_BYTES])
def test_what_follows_a_request(
    server: Server,
    handler: OutgoingHandler,
    guest: Any,
    size: int,
    announced: bytes | None,
    length: int | None,
    sent: list[bytes],
) -> None:
    headers = [("te", b"trailers"), ("te", b"gzip")]
    if announced is not None:
        headers.append(("trailer", announced))
    if length is not None:
        headers.append(("content-length", b"%d" % size))
    request = outgoing(guest, server.authority, "/count", "post", headers)
    body, stream = body_of(guest, request)
    future = handler.handle(guest, request, None)
    write_all(guest, stream, bytes(size))
    trailers = Fields()
    for name, value in (
        ("x-sum", b"1"),
        ("authorization", b"x"),
        ("content-type", b"x"),
        ("x-more", b"\xe9"),
    ):
        assert call("[method]fields.append", guest, trailers, name, value) is None
    assert finish(guest, body, trailers) is None
    assert rest(guest, stream_of(guest, wait(guest, future))) == b"%d" % size
    assert server.trailers == sent
    [(_, _, seen)] = server.seen
    assert seen.get("Te") == "trailers"
    assert seen.get("Connection", "").lower() == "te"


def test_trailers_inside_the_application(handler: OutgoingHandler, guest: Any) -> None:
    def answer(component: str, request: Request) -> Response:
        body = b"".join(request.body)
        assert request.trailers is not None
        return Response(200, Headers(), (body,), request.trailers)

    guest.answer = answer
    request = outgoing(guest, "back.spin.internal", "/x", "post")
    body, stream = body_of(guest, request)
    future = handler.handle(guest, request, None)
    write_all(guest, stream, b"hello")
    assert finish(guest, body, Fields([("x-sum", b"5")])) is None
    incoming = call("[method]incoming-response.consume", guest, wait(guest, future))
    assert trailers_of(guest, incoming).pairs == [("x-sum", b"5")]


# What is no longer wanted


@pytest.mark.parametrize("where", ["future", "response", "body", "trailers", "instance"])
@pytest.mark.parametrize("path", ["/silence", "/stall"])
def test_what_is_dropped_is_broken_off_at_once(
    server: Server, handler: OutgoingHandler, context: Callable[..., Any], where: str, path: str
) -> None:
    """However long the server is silent, and however much time the guest has."""
    guest = context(allowed=["http://127.0.0.1:*"], seconds=600)
    future = handler.handle(guest, outgoing(guest, server.authority, path), None)
    future.ready()
    if path == "/silence":
        until(lambda: server.seen)
    if where == "instance":
        assert guest.run_closers() == []
    elif path == "/silence" or where == "future":
        call("[resource-drop]future-incoming-response", guest, future)
    else:
        response = wait(guest, future)
        call("[resource-drop]future-incoming-response", guest, future)
        if where == "response":
            call("[resource-drop]incoming-response", guest, response)
        else:
            body = call("[method]incoming-response.consume", guest, response)
            stream = call("[method]incoming-body.stream", guest, body)
            stream.close(guest)
            if where == "body":
                call("[resource-drop]incoming-body", guest, body)
            else:
                trailers = call("[static]incoming-body.finish", guest, body)
                call("[resource-drop]future-trailers", guest, trailers)
    handler.close()
    join_senders()


def test_over_tls(
    server: Server, network: Network, handler: OutgoingHandler, context: Callable[..., Any], certificate: Path
) -> None:
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(certificate / "cert.pem", certificate / "key.pem")
    server.socket = tls.wrap_socket(server.socket, server_side=True)
    network.tls_context().load_verify_locations(certificate / "cert.pem")
    guest = context(allowed=["https://localhost:*"], seconds=600)
    authority = server.authority.replace("127.0.0.1", "localhost")

    def ask(path: str) -> Any:
        request = outgoing(guest, authority, path, "post", [("trailer", b"x-sum")])
        assert call("[method]outgoing-request.set-scheme", guest, request, ("HTTPS", None)) is None
        body, stream = body_of(guest, request)
        future = handler.handle(guest, request, None)
        write_all(guest, stream, b"hello")
        assert finish(guest, body, Fields([("x-sum", b"5")])) is None
        return future

    body = call("[method]incoming-response.consume", guest, wait(guest, ask("/b")))
    assert trailers_of(guest, body).pairs == [("x-sum", b"5")]
    # dropped while it waits for a server that says nothing
    future = ask("/silence")
    until(lambda: len(server.seen) == 2)
    call("[resource-drop]future-incoming-response", guest, future)
    handler.close()
    join_senders()


# Both directions at once.


def test_a_response_comes_while_the_request_is_written(
    server: Server, handler: OutgoingHandler, guest: Any
) -> None:
    for _ in range(2):
        request = outgoing(guest, server.authority, "/while", "post")
        body, stream = body_of(guest, request)
        future = handler.handle(guest, request, None)
        answer = stream_of(guest, wait(guest, future))
        for text in (b"one", b"two", b"three"):
            write_all(guest, stream, text)
            assert wasi_io.blocking_read(guest, answer, 100) == text.upper()
        assert finish(guest, body) is None
        assert rest(guest, answer) == b""
        until(lambda: not wasi_outgoing.under_way(guest))
    assert server.connections == 1, "whole on both sides, it serves the next one"


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
def test_more_goes_both_ways_than_lies_in_between(
    server: Server,
    network: Network,
    handler: OutgoingHandler,
    context: Callable[..., Any],
    certificate: Path,
    tls: bool,
) -> None:
    """A server that writes what it reads stops reading where nobody takes it."""
    size, scheme, authority = 8 << 20, "HTTP", server.authority
    if tls:
        served = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        served.load_cert_chain(certificate / "cert.pem", certificate / "key.pem")
        server.socket = served.wrap_socket(server.socket, server_side=True)
        network.tls_context().load_verify_locations(certificate / "cert.pem")
        scheme, authority = "HTTPS", authority.replace("127.0.0.1", "localhost")
    guest = context(allowed=["*://127.0.0.1:*", "*://localhost:*"], seconds=600)
    request = outgoing(guest, authority, "/while", "post")
    assert call("[method]outgoing-request.set-scheme", guest, request, (scheme, None)) is None
    body, stream = body_of(guest, request)
    answer = stream_of(guest, wait(guest, handler.handle(guest, request, None)))
    sent = taken = 0
    while taken < size:
        ready = wasi_io.poll(guest, [answer.pollable(), *([stream.pollable()] if sent < size else [])])
        if 0 in ready:
            piece = wasi_io.read(guest, answer, 1 << 20)
            assert piece.strip(b"A") == b""
            taken += len(piece)
        if 1 in ready:
            permit = min(wasi_io.check_write(guest, stream), size - sent)
            assert wasi_io.write(guest, stream, b"a" * permit) is None
            sent += permit
    assert finish(guest, body) is None
    assert rest(guest, answer) == b""
    assert taken == size
    until(lambda: not wasi_outgoing.under_way(guest))
    handler.close()
    join_senders()


def test_a_server_answers_and_takes_no_more(server: Server, handler: OutgoingHandler, guest: Any) -> None:
    request = outgoing(guest, server.authority, "/enough", "post")
    _, stream = body_of(guest, request)
    future = handler.handle(guest, request, None)
    future.ready()
    write_all(guest, stream, b"much")
    response = wait(guest, future)
    assert response.status == 413
    assert rest(guest, stream_of(guest, response)) == b"enough"
    closed = False
    end = time.monotonic() + 60
    while not closed and time.monotonic() < end:
        wasi_io.wait_any(guest, [stream.pollable()])
        permit = wasi_io.check_write(guest, stream)
        written = (
            permit if isinstance(permit, Err) else wasi_io.write(guest, stream, bytes(min(permit, 4096)))
        )
        closed = written == Err(("closed", None))
    assert closed
    handler.close()
    join_senders()


def test_a_server_answers_before_it_takes_the_rest(
    server: Server, handler: OutgoingHandler, guest: Any
) -> None:
    """What the guest still writes goes on; another request meanwhile has a connection of its own."""
    request = outgoing(guest, server.authority, "/enough?go", "post")
    body, stream = body_of(guest, request)
    future = handler.handle(guest, request, None)
    future.ready()
    write_all(guest, stream, b"much")
    incoming = call("[method]incoming-response.consume", guest, wait(guest, future))
    answer = call("[method]incoming-body.stream", guest, incoming)
    assert rest(guest, answer) == b"enough"
    answer.close(guest)
    call("[resource-drop]incoming-body", guest, incoming)
    other = handler.handle(guest, outgoing(guest, server.authority, "/echo"), None)
    assert wait(guest, other).status == 201
    assert server.connections == 2
    write_all(guest, stream, bytes(1 << 20))
    assert finish(guest, body) is None
    assert server.gone.wait(60)
    assert server.taken == (1 << 20) + 4
    until(lambda: not wasi_outgoing.under_way(guest))


def test_the_end_of_the_instance_ends_what_is_sent(
    server: Server, handler: OutgoingHandler, context: Callable[..., Any]
) -> None:
    guest = context(allowed=["http://127.0.0.1:*"], seconds=600)
    request = outgoing(guest, server.authority, "/enough?go", "post")
    _, stream = body_of(guest, request)
    future = handler.handle(guest, request, None)
    future.ready()
    write_all(guest, stream, b"much")
    assert rest(guest, stream_of(guest, wait(guest, future))) == b"enough"
    assert guest.run_closers() == []
    handler.close()
    join_senders()


def join_senders() -> None:
    """No thread is left waiting for the other side."""
    for thread in threading.enumerate():
        if thread.name.startswith("wasm-http"):
            thread.join(60)
            assert not thread.is_alive()


def test_nothing_is_sent_for_a_future_that_was_dropped(
    server: Server, handler: OutgoingHandler, guest: Any
) -> None:
    request = outgoing(guest, server.authority, "/count", "post")
    body, stream = body_of(guest, request)
    future = handler.handle(guest, request, None)
    write_all(guest, stream, b"x")
    call("[resource-drop]future-incoming-response", guest, future)
    assert wasi_io.write(guest, stream, b"") == Err(("closed", None))
    assert finish(guest, body) is None
    handler.close()
    join_senders()
    assert server.seen == []


@pytest.mark.parametrize(
    ("path", "option", "code"),
    [
        ("/silence", "first-byte", "connection-read-timeout"),
        ("/stall", "between-bytes", "connection-read-timeout"),
    ],
)
def test_timeouts(
    server: Server, handler: OutgoingHandler, guest: Any, path: str, option: str, code: str
) -> None:
    options = RequestOptions()
    call(f"[method]request-options.set-{option}-timeout", guest, options, 50_000_000)
    assert call(f"[method]request-options.{option}-timeout", guest, options) == 50_000_000
    result = wait(guest, handler.handle(guest, outgoing(guest, server.authority, path), options))
    if option == "between-bytes":
        stream = stream_of(guest, result)
        while isinstance(piece := wasi_io.blocking_read(guest, stream, 100), bytes):
            pass
        case, error = piece.value
        assert (case, call("http-error-code", guest, error)) == ("last-operation-failed", (code, None))
    else:
        assert result == Err((code, None))


def test_the_time_to_connect(handler: OutgoingHandler, guest: Any) -> None:
    options = RequestOptions()
    call("[method]request-options.set-connect-timeout", guest, options, 50_000_000)
    with ExitStack() as stack:
        full = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        for _ in range(8):  # more than it takes in
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(full.getsockname())
        authority = f"127.0.0.1:{full.getsockname()[1]}"
        result = wait(guest, handler.handle(guest, outgoing(guest, authority), options))
    assert result == Err(("connection-timeout", None))


def test_a_server_that_does_not_read_slows_the_guest(
    server: Server, handler: OutgoingHandler, context: Callable[..., Any]
) -> None:
    guest = context(allowed=["http://127.0.0.1:*"], seconds=600)
    request = outgoing(guest, server.authority, "/silence", "post")
    _, stream = body_of(guest, request)
    handler.handle(guest, request, None)
    end = time.monotonic() + 60
    while time.monotonic() < end:
        permit = wasi_io.check_write(guest, stream)
        if permit:
            assert wasi_io.write(guest, stream, bytes(min(permit, 65536))) is None
        elif wasi_io.poll(guest, [stream.pollable(), wasi_io.Timer(time.monotonic() + 0.2)]) == [1]:
            break
    else:
        raise AssertionError("all of it was taken")
    assert stream._body.flow._out._size <= PIPE_BYTES + 65536
    # the thread that sends it waits for the server, and does so no longer
    assert guest.run_closers() == []
    handler.close()
    join_senders()


def test_the_deadline_of_the_guest(
    server: Server, handler: OutgoingHandler, context: Callable[..., Any]
) -> None:
    ctx = context(allowed=["http://127.0.0.1:*"], seconds=0.1)

    def end() -> None:
        """Who is late first, the guest or its request, is open."""
        future = handler.handle(ctx, outgoing(ctx, server.authority, "/silence"), None)
        late = wait(ctx, future)
        assert late in (Err(("connection-read-timeout", None)), Err(("connection-timeout", None)))
        ctx.deadline.remaining()

    with pytest.raises(DeadlineExceeded):
        end()


def test_options_of_no_time_at_all(server: Server, handler: OutgoingHandler, guest: Any) -> None:
    options = RequestOptions()
    call("[method]request-options.set-connect-timeout", guest, options, 0)
    result = handler.handle(guest, outgoing(guest, server.authority), options)
    assert result == Err(("connection-timeout", None))
    assert server.seen == []


@pytest.mark.parametrize(
    ("authority", "code"),
    [
        ("example.com", "HTTP-request-denied"),
        (":80", "HTTP-request-denied"),
    ],
)
def test_what_is_refused_at_once(handler: OutgoingHandler, guest: Any, authority: str, code: str) -> None:
    result = handler.handle(guest, outgoing(guest, authority), None)
    assert isinstance(result, Err)
    assert result.value[0] == code


def test_nobody_listens(handler: OutgoingHandler, guest: Any) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        authority = f"127.0.0.1:{free.getsockname()[1]}"
        result = wait(guest, handler.handle(guest, outgoing(guest, authority), None))
    assert result == Err(("connection-refused", None))


def test_a_body_that_is_not_finished(server: Server, handler: OutgoingHandler, guest: Any) -> None:
    request = outgoing(guest, server.authority, method="post")
    body, stream = body_of(guest, request)
    future = handler.handle(guest, request, None)
    write_all(guest, stream, b"half")
    call("[resource-drop]outgoing-body", guest, body)
    assert wait(guest, future) == Err(("HTTP-request-body-size", 4))
    assert server.seen == []


def test_a_body_of_another_length_than_declared(server: Server, handler: OutgoingHandler, guest: Any) -> None:
    request = outgoing(guest, server.authority, method="post", headers=[("content-length", b"3")])
    body, stream = body_of(guest, request)
    handler.handle(guest, request, None)
    write_all(guest, stream, b"ab")
    assert finish(guest, body) == Err(("HTTP-request-body-size", 2))
    write = wasi_io.check_write(guest, stream)
    assert write == Err(("closed", None))


def test_the_answer_is_given_once(server: Server, handler: OutgoingHandler, guest: Any) -> None:
    future = handler.handle(guest, outgoing(guest, server.authority), None)
    wait(guest, future)
    assert call("[method]future-incoming-response.get", guest, future) == Err(None)


def test_an_instance_has_so_many_requests(
    server: Server, handler: OutgoingHandler, guest: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert MAX_REQUESTS == 128
    monkeypatch.setattr(wasi_outgoing, "MAX_REQUESTS", 2)
    for _ in range(5):
        stream = stream_of(guest, wait(guest, handler.handle(guest, outgoing(guest, server.authority), None)))
        assert rest(guest, stream) == b""
        until(lambda: not wasi_outgoing.under_way(guest))
    futures = [handler.handle(guest, outgoing(guest, server.authority, "/silence"), None) for _ in range(2)]
    result = handler.handle(guest, outgoing(guest, server.authority), None)
    assert result == Err(("connection-limit-reached", None))
    call("[resource-drop]future-incoming-response", guest, futures[0])
    assert isinstance(handler.handle(guest, outgoing(guest, server.authority), None), FutureResponse)


def test_no_instance_takes_the_threads_of_others(
    server: Server,
    handler: OutgoingHandler,
    context: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nor do its requests that wait for one of its own get lost."""
    monkeypatch.setattr(wasi_outgoing, "MAX_SENDERS", 3)
    monkeypatch.setattr(wasi_outgoing, "MAX_OF_INSTANCE", 2)
    greedy, other = (context(allowed=["http://127.0.0.1:*"]) for _ in range(2))

    def ask(ctx: Any, path: str) -> Any:
        future = handler.handle(ctx, outgoing(ctx, server.authority, path), None)
        assert isinstance(future, FutureResponse)
        return future

    silent = [ask(greedy, "/silence") for _ in range(4)]
    waiting = ask(greedy, "/echo")
    assert rest(other, stream_of(other, wait(other, ask(other, "/echo")))) == b""
    assert not waiting.settled
    for future in silent:
        call("[resource-drop]future-incoming-response", greedy, future)
    assert rest(greedy, stream_of(greedy, wait(greedy, waiting))) == b""


def test_another_component_answers_in_the_guests_own_thread(handler: OutgoingHandler, guest: Any) -> None:
    seen: list[Any] = []

    def answer(component: str, request: Request) -> Response:
        seen.append((component, request.method, request.target, b"".join(request.body)))
        seen.append(threading.get_ident())
        return Response(418, Headers([("x-a", "1")]), (b"tea", b"pot"))

    guest.answer = answer
    request = outgoing(guest, "back.spin.internal", "/x?y", "post")
    body, stream = body_of(guest, request)
    future = handler.handle(guest, request, None)
    write_all(guest, stream, b"hello")
    finish(guest, body)
    assert seen == []
    response = wait(guest, future)
    assert (response.status, rest(guest, stream_of(guest, response))) == (418, b"teapot")
    assert seen == [("back", "POST", "/x?y", b"hello"), threading.get_ident()]


def test_the_application_itself(handler: OutgoingHandler, guest: Any) -> None:
    guest.answer_self = lambda request: Response(200, Headers(), (request.target.encode(),))
    request = call("[constructor]outgoing-request", guest, Fields())
    call("[method]outgoing-request.set-path-with-query", guest, request, "/mine")
    response = wait(guest, handler.handle(guest, request, None))
    assert rest(guest, stream_of(guest, response)) == b"/mine"


def test_what_a_guest_may_keep_unsent(handler: OutgoingHandler, guest: Any) -> None:
    body, stream = body_of(guest, outgoing(guest, "127.0.0.1:1", method="post"))
    for _ in range(64):
        write_all(guest, stream, bytes(1 << 20))
    with pytest.raises(LimitExceeded):
        write_all(guest, stream, b"x")
    with pytest.raises(Trap):
        wasi_io.write(guest, stream, bytes(2 << 20))
    assert body.finished is None


# Whole guests


def posted(body: bytes, *trailers: tuple[str, str]) -> Request:
    request = Request("POST", "/a", None, Headers(), (body,), authority="x")
    request.trailers = lambda: Headers(trailers)
    return request


def test_a_guest_that_passes_on_what_it_is_sent(server: Server, components: Any, application: Any) -> None:
    wasm = components.proxy(server.authority)
    gateway = application(a=application.part(wasm, allowed_outbound_hosts=["http://127.0.0.1:*"]))
    for body in (b"hello", bytes(range(256)) * 4096):
        server.trailers.clear()
        response = gateway.handle(
            posted(body, ("x-sum", "5"), ("x-other", "6"), ("host", "x"), ("x-more", "7"))
        )
        assert response.status == 200
        assert b"".join(response.body) == body
        assert response.trailers() == Headers([("x-sum", "5"), ("x-more", "7")])


POLLS = {
    HTTP: (
        *("[constructor]outgoing-request", "[method]outgoing-request.set-authority"),
        *("[method]outgoing-request.set-path-with-query", "[method]outgoing-request.set-scheme"),
        *("[method]future-incoming-response.subscribe", "[method]future-incoming-response.get"),
    ),
    "wasi:http/outgoing-handler@0.2.0": ("handle",),
    "wasi:clocks/monotonic-clock@0.2.0": ("subscribe-duration",),
    "wasi:io/poll@0.2.0": ("poll", "[method]pollable.ready"),
}
ASK = """
  (func $ask (result i32) (local $asked i32)
    (local.set $asked (call $outgoing-request (call $fields)))
    (drop (call $outgoing-request.set-scheme (local.get $asked) (i32.const 1) (i32.const 0) (i32.const 0)
      (i32.const 0)))
    (drop (call $outgoing-request.set-authority (local.get $asked)
      (i32.const 1) (i32.const 1024) (i32.const {size})))
    (drop (call $outgoing-request.set-path-with-query (local.get $asked)
      (i32.const 1) (i32.const 910) (i32.const 5)))
    (call $handle (local.get $asked) (i32.const 0) (i32.const 0) (i32.const 32))
    (if (i32.load8_u (i32.const 32)) (then (unreachable)))
    (i32.load (i32.const 40)))"""
# Two requests to a server that answers none before it has both, and a timer: which is ready, is the answer.
MEET = """
  (i32.store (i32.const 2000) (call $subscribe-duration (i64.const 60_000_000_000)))
  (i32.store (i32.const 2004) (call $future-incoming-response.subscribe (call $ask)))
  (i32.store (i32.const 2008) (call $future-incoming-response.subscribe (call $ask)))
  (loop $again
    (call $poll (i32.const 2000) (i32.const 3) (i32.const 32))
    (br_if $again (i32.eqz (call $pollable.ready (i32.load (i32.const 2004)))))
    (br_if $again (i32.eqz (call $pollable.ready (i32.load (i32.const 2008))))))
  (i32.store8 (i32.const 0) (i32.add (i32.const 48) (i32.load (i32.load (i32.const 32)))))
  (call $answer (local.get $out) (i32.const 200) (i32.const 0) (i32.const 1))"""


def test_a_guest_that_polls_several_requests_and_a_timer(
    server: Server, components: Any, application: Any
) -> None:
    data = f'(data (i32.const 910) "/meet") (data (i32.const 1024) "{server.authority}")'
    wasm = components.http(MEET, POLLS, ASK.format(size=len(server.authority)), data)
    gateway = application(a=application.part(wasm, allowed_outbound_hosts=["http://127.0.0.1:*"]))
    response = gateway.handle(posted(b""))
    assert response.status == 200
    assert response.body in ((b"1",), (b"2",))


def test_an_exchange_leaves_no_garbage(
    server: Server, components: Any, application: Any, garbage: Any
) -> None:
    wasm = components.proxy(server.authority)
    gateway = application(a=application.part(wasm, allowed_outbound_hosts=["http://127.0.0.1:*"]))
    for body in (b"hello", bytes(100_000)):

        def work(body: bytes = body) -> None:
            assert b"".join(gateway.handle(posted(body)).body) == body

        assert garbage(work) == []
