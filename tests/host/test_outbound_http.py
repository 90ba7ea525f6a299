from __future__ import annotations

import gzip
import multiprocessing
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest

from wasm_gateway.component.values import Err
from wasm_gateway.component.wit import parse_interface
from wasm_gateway.errors import DeadlineExceeded, Saturated
from wasm_gateway.host import descriptors, outbound_http
from wasm_gateway.host.addresses import MAX_ADDRESS
from wasm_gateway.host.limits import Budget
from wasm_gateway.host.network import Network
from wasm_gateway.host.outbound_http import INTERFACES, Client, OutboundHttp
from wasm_gateway.messages import Headers, Request, Response

INTERFACE = "fermyon:spin/http"
DENIED, INVALID, FAILED = Err("destination-not-allowed"), Err("invalid-url"), Err("runtime-error")


class Handler(BaseHTTPRequestHandler):
    """What the server of these tests answers, by the first part of the path."""

    protocol_version = "HTTP/1.1"
    server: Server  # type: ignore[assignment]

    def answer(self) -> None:
        name, _, rest = self.path[1:].partition("/")
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        self.server.seen.append((self.command, self.path, self.headers.items(), body))
        self.server.connections.add(self.client_address)
        getattr(self, f"answer_{name.partition('?')[0]}", self.answer_echo)(rest, body)

    do_GET = do_POST = do_PUT = do_DELETE = do_PATCH = do_HEAD = do_OPTIONS = answer

    def say(self, status: int, body: bytes = b"", *headers: tuple[str, str]) -> None:
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def answer_echo(self, rest: str, body: bytes) -> None:
        self.say(200, body, ("x-one", "1"), ("X-One", "2"), ("x-latin", "\xe4"))

    def answer_status(self, rest: str, body: bytes) -> None:
        self.say(int(rest), b"status")

    def answer_redirect(self, rest: str, body: bytes) -> None:
        status, _, location = rest.partition("/")
        location = unquote(location).replace("SELF", self.server.origin)
        self.say(int(status), b"see there", ("location", location))

    def answer_loop(self, rest: str, body: bytes) -> None:
        left = int(rest)
        if left:
            self.say(302, b"", ("location", f"/loop/{left - 1}"))
        else:
            self.say(200, b"end")

    def answer_chunked(self, rest: str, body: bytes) -> None:
        self.send_response(200)
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        for part in (b"one", b"two", b""):
            self.wfile.write(b"%x\r\n%s\r\n" % (len(part), part))

    def answer_gzip(self, rest: str, body: bytes) -> None:
        data = gzip.compress(b"packed " * 1000) + gzip.compress(b"twice")
        self.say(200, data[: len(data) - int(rest or 0)], ("content-encoding", "gzip"))

    def answer_bomb(self, rest: str, body: bytes) -> None:
        self.say(200, gzip.compress(bytes(3 << 20)), ("content-encoding", "gzip"))

    def answer_endless(self, rest: str, body: bytes) -> None:
        self.send_response(200)
        self.end_headers()
        self.close_connection = True
        try:
            while True:
                self.wfile.write(bytes(65536))
        except OSError:
            pass

    def answer_dribble(self, rest: str, body: bytes) -> None:
        self.send_response(200)
        self.send_header("content-length", "100000")
        self.end_headers()
        self.close_connection = True
        try:
            while not self.server.stop.wait(0.01):
                self.wfile.write(b"x")
        except OSError:
            pass

    def answer_short(self, rest: str, body: bytes) -> None:
        self.send_response(200)
        self.send_header("content-length", "100")
        self.end_headers()
        self.wfile.write(b"short")
        self.close_connection = True

    def answer_hints(self, rest: str, body: bytes) -> None:
        for status in (100, 103, 102, 103):
            self.send_response_only(status)
            self.send_header("link", "</a>")
            self.end_headers()
        self.send_response(200)
        self.send_header("content-length", "2")
        self.end_headers()
        self.wfile.write(b"ok")

    def answer_silence(self, rest: str, body: bytes) -> None:
        self.server.stop.wait(120)
        self.close_connection = True

    def log_message(self, *_: Any) -> None:
        pass


class Server(ThreadingHTTPServer):
    daemon_threads = True
    scheme = "http"

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.seen: list[tuple[str, str, list[tuple[str, str]], bytes]] = []
        self.connections: set[Any] = set()
        self.stop = threading.Event()

    @property
    def origin(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self.server_address[1]}"

    @property
    def headers(self) -> dict[str, str]:
        """Those of the last request, names in lower case."""
        return {name.lower(): value for name, value in self.seen[-1][2]}

    def handle_error(self, *_: Any) -> None:
        pass  # a client that goes away is part of these tests


@contextmanager
def serving(server: Server) -> Iterator[Server]:
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield server
    finally:
        server.stop.set()
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def server() -> Iterator[Server]:
    with serving(Server()) as made:
        yield made


@pytest.fixture
def family(network: Network) -> Iterator[OutboundHttp]:
    made = OutboundHttp(network)
    yield made
    made.close()


@pytest.fixture
def guest(context: Callable[..., Any]) -> Any:
    return context(allowed=["http://127.0.0.1:*"])


def send(
    family: OutboundHttp,
    ctx: Any,
    uri: str,
    method: str = "get",
    headers: list[tuple[str, str]] | None = None,
    body: bytes | None = None,
) -> Any:
    return family.functions(INTERFACE)["send-request"](ctx, (method, uri, headers or [], [], body))


def test_functions_are_those_of_the_interface(family: OutboundHttp) -> None:
    declared = parse_interface(INTERFACE, INTERFACES[INTERFACE])
    assert set(family.functions(INTERFACE)) == set(declared.funcs)
    assert parse_interface("fermyon:spin/http-types", INTERFACES["fermyon:spin/http-types"])
    assert family.functions("fermyon:spin/other") == {}


# Requests and responses.


@pytest.mark.parametrize("method", ["get", "post", "put", "delete", "patch", "head", "options"])
def test_a_guest_sends_requests(family: OutboundHttp, guest: Any, server: Server, method: str) -> None:
    body = None if method in ("get", "head") else b"\x00body"
    headers = [("X-Two", "a"), ("x-two", "b"), ("content-type", "text/x"), ("x-umlaut", "ä")]
    status, answer_headers, answer = send(
        family, guest, f"{server.origin}/echo/a%20b?q=1&r", method, headers, body
    )
    assert status == 200
    assert answer == (b"" if method == "head" else body or b"")
    ((command, path, sent, sent_body),) = server.seen
    assert (command, path, sent_body) == (method.upper(), "/echo/a%20b?q=1&r", body or b"")
    lower = [(name.lower(), value) for name, value in sent]
    assert [pair for pair in lower if pair[0] == "x-two"] == [("x-two", "a"), ("x-two", "b")]
    assert ("content-type", "text/x") in lower
    assert ("x-umlaut", "Ã¤") in lower  # UTF-8 on the wire, shown as Latin-1
    assert ("host", server.origin.removeprefix("http://")) in lower
    assert "user-agent" not in server.headers
    assert server.headers["accept-encoding"] == "gzip"
    assert ("x-one", "1") in answer_headers
    assert ("x-one", "2") in answer_headers
    assert not any(name == "x-latin" for name, _ in answer_headers)  # not ASCII: dropped


def test_a_response_without_a_body(family: OutboundHttp, guest: Any, server: Server) -> None:
    status, _, body = send(family, guest, f"{server.origin}/status/404")
    assert (status, body) == (404, b"status")
    assert send(family, guest, f"{server.origin}/status/500")[0] == 500
    assert send(family, guest, f"{server.origin}")[0] == 200
    assert server.seen[-1][1] == "/"
    assert send(family, guest, f"{server.origin}?a=b#fragment")[0] == 200
    assert server.seen[-1][1] == "/?a=b"


def test_framing_is_ours(family: OutboundHttp, guest: Any, server: Server) -> None:
    """A guest that lies about its body would put a second request on a connection that others use."""
    smuggled = b"GET /smuggled HTTP/1.1\r\nhost: x\r\n\r\n"
    lies = [("content-length", "0"), ("transfer-encoding", "chunked"), ("Connection", "close"), ("TE", "x")]
    for _ in range(2):
        assert send(family, guest, f"{server.origin}/echo", "post", lies, smuggled)[2] == smuggled
    assert [path for _, path, _, _ in server.seen] == ["/echo", "/echo"]
    assert server.headers["content-length"] == str(len(smuggled))
    assert not {"transfer-encoding", "connection", "te"} & set(server.headers)
    assert len(server.connections) == 1


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("a b", "x"),
        ("", "x"),
        ("a:", "x"),
        ("ä", "x"),
        ("a", "x\r\ny: z"),
        ("a", "x\ny"),
        ("a", "\0"),
        ("a\n", ""),
    ],
)
def test_invalid_headers_are_refused(
    family: OutboundHttp, guest: Any, server: Server, name: str, value: str
) -> None:
    assert send(family, guest, f"{server.origin}/echo", headers=[(name, value)]) == FAILED
    assert server.seen == []


def test_the_host_header_of_a_guest_is_sent(family: OutboundHttp, guest: Any, server: Server) -> None:
    assert send(family, guest, f"{server.origin}/echo", headers=[("Host", "virtual.example")])[0] == 200
    assert [value for name, value in server.seen[0][2] if name.lower() == "host"] == ["virtual.example"]


def test_user_info_becomes_authorization(family: OutboundHttp, guest: Any, server: Server) -> None:
    address = server.origin.replace("http://", "http://me:p%40ss@")
    assert send(family, guest, f"{address}/echo")[0] == 200
    assert server.headers["authorization"] == "Basic bWU6cEBzcw=="
    assert send(family, guest, f"{address}/echo", headers=[("Authorization", "mine")])[0] == 200
    assert server.headers["authorization"] == "mine"


def test_chunked_responses_are_joined(family: OutboundHttp, guest: Any, server: Server) -> None:
    assert send(family, guest, f"{server.origin}/chunked")[2] == b"onetwo"


def test_gzip_is_unpacked(family: OutboundHttp, guest: Any, server: Server) -> None:
    status, headers, body = send(family, guest, f"{server.origin}/gzip")
    assert (status, body) == (200, b"packed " * 1000 + b"twice")
    assert not {"content-encoding", "content-length"} & {name for name, _ in headers}
    assert send(family, guest, f"{server.origin}/gzip/5") == FAILED
    send(family, guest, f"{server.origin}/echo", headers=[("range", "bytes=0-5")])
    assert "accept-encoding" not in server.headers
    send(family, guest, f"{server.origin}/echo", headers=[("accept-encoding", "br")])
    assert server.headers["accept-encoding"] == "br"


# Permissions.


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("http://127.0.0.2:{port}/", DENIED),
        ("http://localhost:{port}/", DENIED),
        ("https://127.0.0.1:{port}/", DENIED),
        ("http://127.0.0.1:{port}@127.0.0.2:{port}/", DENIED),
        ("http://127.0.0.1:{port}#@127.0.0.2:{port}/", DENIED),
        ("http://127.0.0.1:{port}?@127.0.0.2:{port}/", DENIED),
        ("http://127.0.0.1:{port}\\@127.0.0.2:{port}/", DENIED),
        ("http://2130706434:{port}/", DENIED),
        ("ftp://127.0.0.1:{port}/", DENIED),
        ("127.0.0.1:{port}/", DENIED),
        ("/path", DENIED),
        ("//127.0.0.1:{port}/", DENIED),
        ("", DENIED),
        ("http://", DENIED),
        ("http://127.0.0.1:{port}/a b", INVALID),
        ("http://127.0.0.1:{port}/a\r\nHost: x", INVALID),
        ("http://127.0.0.1:{port}/ä", INVALID),
    ],
)
def test_requests_are_denied_by_default(
    family: OutboundHttp, guest: Any, server: Server, uri: str, expected: Err
) -> None:
    assert send(family, guest, uri.replace("{port}", str(server.server_address[1]))) == expected
    assert server.seen == []


def test_nothing_is_allowed_without_a_grant(
    family: OutboundHttp, context: Callable[..., Any], server: Server
) -> None:
    assert send(family, context(), server.origin) == DENIED
    assert send(family, context(), "/") == DENIED
    assert server.seen == []


def test_a_url_without_a_scheme_is_invalid(family: OutboundHttp, context: Callable[..., Any]) -> None:
    ctx = context(allowed=["*://*:*"])
    assert send(family, ctx, "example.com/path") == INVALID
    assert send(family, ctx, "ftp://127.0.0.1/") == INVALID


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirects_are_checked_like_the_first_request(
    family: OutboundHttp, guest: Any, server: Server, status: int
) -> None:
    """Spin follows them without looking. Each hop here needs the permission that it would need alone."""
    for target in ("http://127.0.0.2:1/", "http://localhost:1/", "https://127.0.0.1/", "ftp://127.0.0.1:1/"):
        assert send(family, guest, f"{server.origin}/redirect/{status}/{target}") == DENIED
    assert len(server.seen) == 4


def test_blocked_networks_are_blocked(context: Callable[..., Any], server: Server) -> None:
    """Also for names, of which the address that was checked is the one that is used."""
    asked = []

    def blocked(address: str) -> bool:
        asked.append(address)
        return address in ("127.0.0.1", "::1")

    family = OutboundHttp(Network(blocked))
    ctx = context(allowed=["http://*:*"])
    port = server.server_address[1]
    assert send(family, ctx, f"http://127.0.0.1:{port}/") == FAILED
    assert send(family, ctx, f"http://localhost:{port}/") == FAILED
    assert send(family, ctx, f"http://2130706433:{port}/") == FAILED
    assert send(family, ctx, f"http://[::1]:{port}/") == FAILED
    assert server.seen == []
    assert set(asked) <= {"127.0.0.1", "::1"}
    family.close()


def test_a_name_is_resolved_once(
    monkeypatch: pytest.MonkeyPatch, context: Callable[..., Any], server: Server
) -> None:
    """DNS rebinding: the first answer is allowed, and every later one would be the metadata service."""
    answers = iter([("127.0.0.1", 0), ("169.254.169.254", 0), ("169.254.169.254", 0)])
    real = socket.getaddrinfo

    def getaddrinfo(host: str, port: int, *arguments: Any, **options: Any) -> Any:
        if host != "rebind.example":
            return real(host, port, *arguments, **options)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (next(answers)[0], port))]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    checked: list[str] = []
    family = OutboundHttp(Network(lambda address: checked.append(address) or address.startswith("169.254.")))
    ctx = context(allowed=["http://*:*"])
    uri = f"http://rebind.example:{server.server_address[1]}/"
    assert send(family, ctx, uri)[0] == 200
    family.close()
    assert send(family, ctx, uri) == FAILED
    assert checked == ["127.0.0.1", "169.254.169.254"]
    family.close()


# Redirects.


def test_redirects_are_followed(family: OutboundHttp, guest: Any, server: Server) -> None:
    assert send(family, guest, f"{server.origin}/redirect/302/SELF/echo?x")[0] == 200
    assert server.seen[-1][1] == "/echo?x"
    assert send(family, guest, f"{server.origin}/redirect/302/../../echo/b")[0] == 200
    assert server.seen[-1][1] == "/echo/b"
    # not as a URL should be: a space, and Latin-1
    assert send(family, guest, f"{server.origin}/redirect/302//echo/c%20%C3%A4")[0] == 200
    assert server.seen[-1][1] == "/echo/c%20%E4"
    assert send(family, guest, f"{server.origin}/status/302")[0] == 302  # without Location


def test_redirects_are_limited(family: OutboundHttp, guest: Any, server: Server) -> None:
    assert send(family, guest, f"{server.origin}/loop/10")[2] == b"end"
    assert send(family, guest, f"{server.origin}/loop/11") == FAILED
    assert len(server.seen) == 11 + 11


@pytest.mark.parametrize(
    ("status", "method", "following"),
    [
        (301, "post", "GET"),
        (302, "put", "GET"),
        (303, "patch", "GET"),
        (303, "head", "HEAD"),
        (302, "get", "GET"),
        (307, "post", "POST"),
        (308, "delete", "DELETE"),
    ],
)
def test_methods_of_redirects(
    family: OutboundHttp, guest: Any, server: Server, status: int, method: str, following: str
) -> None:
    headers = [("content-type", "text/x"), ("x-kept", "1")]
    assert send(family, guest, f"{server.origin}/redirect/{status}//echo", method, headers, b"body")[0] == 200
    command, _, _, body = server.seen[-1]
    assert command == following
    kept = method.upper() == following
    assert body == (b"body" if kept else b"")
    assert ("content-type" in server.headers) is kept
    assert server.headers["x-kept"] == "1"


def test_credentials_do_not_follow_to_another_place(family: OutboundHttp, guest: Any, server: Server) -> None:
    secrets = [("authorization", "a"), ("cookie", "b"), ("host", "virtual.example"), ("x-other", "c")]
    assert send(family, guest, f"{server.origin}/redirect/302/SELF/echo", headers=secrets)[0] == 200
    assert server.headers["authorization"] == "a"
    assert server.headers["host"] == "virtual.example"
    with serving(Server()) as other:
        assert (
            send(family, guest, f"{server.origin}/redirect/307/{other.origin}/echo", headers=secrets)[0]
            == 200
        )
        assert not {"authorization", "cookie"} & set(other.headers)
        assert other.headers["host"] == other.origin.removeprefix("http://")
        assert other.headers["x-other"] == "c"


# Inside the application.


def test_requests_to_oneself_stay_inside(family: OutboundHttp, context: Callable[..., Any]) -> None:
    ctx = context(allowed=["http://self"])
    asked: list[Request] = []

    def answer(request: Request) -> Response:
        asked.append(request)
        return Response(201, Headers([("X-A", "1"), ("x-latin", "\xe4")]), iter([b"one", b"two"]))

    ctx.answer_self = answer
    headers = [("Host", "evil.example"), ("x-b", "2"), ("content-length", "99")]
    assert send(family, ctx, "/path/a%20b?q#f", "post", headers, b"body") == (201, [("x-a", "1")], b"onetwo")
    (request,) = asked
    assert (request.method, request.path, request.query) == ("POST", "/path/a%20b", "q")
    assert list(request.body) == [b"body"]
    assert request.headers.get_all("content-length") == ["4"]
    assert request.headers.get("x-b") == "2"


def test_redirects_of_oneself(family: OutboundHttp, context: Callable[..., Any], server: Server) -> None:
    ctx = context(allowed=["http://self"])
    places = {"/a": "/b?x=1", "/b": f"{server.origin}/echo"}
    ctx.answer_self = lambda request: Response(302, Headers([("location", places[request.path])]))
    assert send(family, ctx, "/a") == DENIED
    assert server.seen == []


def test_a_path_is_not_longer_than_a_url_can_be(family: OutboundHttp, context: Callable[..., Any]) -> None:
    ctx = context(allowed=["http://self"])
    ctx.answer_self = lambda request: Response(200)
    assert send(family, ctx, "/" * MAX_ADDRESS) == (200, [], b"")
    assert send(family, ctx, "/" * (MAX_ADDRESS + 1)) == INVALID


def test_without_an_application_there_is_no_self(family: OutboundHttp, context: Callable[..., Any]) -> None:
    assert send(family, context(allowed=["http://self"]), "/path") == INVALID


def test_a_full_application_is_too_many_requests(family: OutboundHttp, context: Callable[..., Any]) -> None:
    def busy(request: Request) -> Response:
        raise Saturated("busy")

    ctx = context(allowed=["http://self"])
    ctx.answer_self = busy
    assert send(family, ctx, "/path") == Err("too-many-requests")


def test_components_are_called_without_a_network(family: OutboundHttp, context: Callable[..., Any]) -> None:
    ctx = context(allowed=["http://back.spin.internal"])
    asked: list[tuple[str, Request]] = []

    def answer(component: str, request: Request) -> Response:
        asked.append((component, request))
        return Response(200, Headers(), (b"from " + component.encode(),))

    ctx.answer = answer
    uri = "http://back.spin.internal/deep/path?q=1"
    assert send(family, ctx, uri, "post", [("host", "x")], b"body") == (200, [], b"from back")
    ((component, request),) = asked
    assert component == "back"
    assert (request.path, request.query, request.authority) == ("/deep/path", "q=1", "back.spin.internal")
    assert "host" not in request.headers
    assert send(family, ctx, "http://front.spin.internal/") == DENIED
    assert send(family, ctx, "http://a.back.spin.internal/") == DENIED


def test_a_body_from_inside_is_closed(family: OutboundHttp, context: Callable[..., Any]) -> None:
    closed = []

    class Body:
        def __iter__(self) -> Iterator[bytes]:
            yield b"x"

        def close(self) -> None:
            closed.append(True)

    ctx = context(allowed=["http://self"])
    ctx.answer_self = lambda request: Response(200, Headers(), Body())
    assert send(family, ctx, "/")[2] == b"x"
    assert closed == [True]


# Limits.


def test_bodies_are_bounded(
    monkeypatch: pytest.MonkeyPatch, family: OutboundHttp, context: Callable[..., Any], server: Server
) -> None:
    monkeypatch.setattr(outbound_http, "Budget", lambda: Budget(1 << 20))
    ctx = context(allowed=["http://127.0.0.1:*", "http://self"])
    assert send(family, ctx, f"{server.origin}/endless") == FAILED
    assert send(family, ctx, f"{server.origin}/bomb") == FAILED
    ctx.answer_self = lambda request: Response(200, Headers(), (bytes(65536) for _ in range(100)))
    assert send(family, ctx, "/") == FAILED
    assert send(family, ctx, f"{server.origin}/echo", "post", body=b"fine")[2] == b"fine"


@pytest.mark.parametrize("path", ["silence", "dribble"])
def test_slow_servers_end_at_the_deadline(
    family: OutboundHttp, context: Callable[..., Any], server: Server, path: str
) -> None:
    ctx = context(allowed=["http://127.0.0.1:*"], seconds=0.2)
    begin = time.monotonic()
    with pytest.raises(DeadlineExceeded):
        send(family, ctx, f"{server.origin}/{path}")
    assert time.monotonic() - begin < 50


def test_a_kept_connection_has_the_deadline_of_its_request(
    family: OutboundHttp, context: Callable[..., Any], guest: Any, server: Server
) -> None:
    assert send(family, guest, f"{server.origin}/echo")[0] == 200
    begin = time.monotonic()
    with pytest.raises(DeadlineExceeded):
        send(family, context(allowed=["http://127.0.0.1:*"], seconds=0.2), f"{server.origin}/silence")
    assert time.monotonic() - begin < 50
    assert len(server.connections) == 1


def test_a_name_that_takes_too_long(
    monkeypatch: pytest.MonkeyPatch, family: OutboundHttp, context: Callable[..., Any]
) -> None:
    release = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: release.wait(120) and [])
    begin = time.monotonic()
    with pytest.raises(DeadlineExceeded):
        send(family, context(allowed=["http://*:*"], seconds=0.1), "http://slow.example/")
    assert time.monotonic() - begin < 50
    release.set()
    for thread in threading.enumerate():  # it would ask what another test puts there
        if thread.name == "look up slow.example":
            thread.join(60)


def test_failures_are_runtime_errors(
    monkeypatch: pytest.MonkeyPatch, family: OutboundHttp, context: Callable[..., Any], server: Server
) -> None:
    def unknown(*_: Any, **__: Any) -> Any:
        raise socket.gaierror(socket.EAI_NONAME, "unknown")

    ctx = context(allowed=["http://*:*"])
    assert send(family, ctx, "http://127.0.0.1:1/") == FAILED
    assert send(family, ctx, f"{server.origin}/short") == FAILED
    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    assert send(family, ctx, "http://unknown.example/") == FAILED


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\r\n",
        b"garbage\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nno colon\r\n" + b"x" * 70_000,
        b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 200,
    ],
)
def test_a_hostile_server_is_an_error(family: OutboundHttp, guest: Any, data: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            connection, _ = listener.accept()
            with connection, suppress(OSError):  # who hangs up may leave something unread
                connection.recv(65536)
                connection.sendall(data)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        assert send(family, guest, f"http://127.0.0.1:{listener.getsockname()[1]}/") == FAILED
        thread.join(60)


@pytest.mark.parametrize(("own", "total"), [(1, None), (None, 1), (5, 1)])
def test_requests_at_once_are_limited(
    monkeypatch: pytest.MonkeyPatch, guest: Any, server: Server, own: int | None, total: int | None
) -> None:
    monkeypatch.setattr(outbound_http, "WAIT", 0.05)
    family = OutboundHttp(Network(max_connections=total), own)
    assert send(family, guest, f"{server.origin}/echo")[0] == 200
    give_back = family.client._places.take()
    assert give_back is not None
    assert send(family, guest, f"{server.origin}/echo") == Err("too-many-requests")
    give_back()
    assert send(family, guest, f"{server.origin}/echo")[0] == 200
    family.close()


# Connections.


def test_what_comes_before_a_response(family: OutboundHttp, guest: Any, server: Server) -> None:
    """Early hints and their like are no response, and leave nothing on the connection."""
    for _ in range(3):
        assert send(family, guest, f"{server.origin}/hints")[::2] == (200, b"ok")
    assert len(server.connections) == 1


def test_connections_are_kept(family: OutboundHttp, guest: Any, server: Server) -> None:
    for _ in range(5):
        assert send(family, guest, f"{server.origin}/echo")[0] == 200
    assert len(server.connections) == 1


def test_connections_that_are_kept_are_limited(
    monkeypatch: pytest.MonkeyPatch, network: Network, guest: Any, server: Server
) -> None:
    monkeypatch.setattr(descriptors, "kept", descriptors.Descriptors(descriptors.KEPT))
    family = OutboundHttp(network)
    for limit, connections in ((1, 1), (1, 1), (0, 1), (0, 2), (1, 3), (1, 3)):
        descriptors.kept.limit = limit
        assert send(family, guest, f"{server.origin}/echo")[0] == 200
        assert (descriptors.kept.used, len(server.connections)) == (limit, connections)
    family.close()
    assert descriptors.kept.used == 0


def test_connections_need_not_be_kept(network: Network, guest: Any, server: Server) -> None:
    family = OutboundHttp(network, pooling=False)
    for _ in range(3):
        assert send(family, guest, f"{server.origin}/echo")[0] == 200
    assert len(server.connections) == 3
    family.close()


@pytest.mark.parametrize(("method", "answers"), [("get", 200), ("put", 200), ("post", None)])
def test_a_kept_connection_that_is_closed_meanwhile(
    family: OutboundHttp, guest: Any, method: str, answers: int | None
) -> None:
    """The server hangs up when it hears the second request: it may be repeated if that does no harm."""
    heard = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            for _ in range(2):
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection:
                    heard.append(connection.recv(65536))
                    connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
                    heard.append(connection.recv(65536))

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        uri = f"http://127.0.0.1:{listener.getsockname()[1]}/"
        assert send(family, guest, uri, method)[0] == 200
        answer = send(family, guest, uri, method)
        assert answer == (FAILED if answers is None else (200, [("content-length", "0")], b""))
        assert len(heard) == (2 if answers is None else 3)
        family.close()
        listener.shutdown(socket.SHUT_RDWR)
    thread.join(60)


def _child(family: OutboundHttp, ctx: Any, uri: str) -> None:
    for _ in range(10):
        assert send(family, ctx, uri, "post", body=b"child")[2] == b"child"


def test_a_forked_child_connects_anew(family: OutboundHttp, guest: Any, server: Server) -> None:
    uri = f"{server.origin}/echo"
    send(family, guest, uri)
    fork = multiprocessing.get_context("fork")
    children = [fork.Process(target=_child, args=(family, guest, uri)) for _ in range(3)]
    for child in children:
        child.start()
    for _ in range(10):
        assert send(family, guest, uri, "post", body=b"parent")[2] == b"parent"
    for child in children:
        child.join(60)
        assert child.exitcode == 0
    assert len(server.connections) == 4


def test_threads_share_the_client(family: OutboundHttp, guest: Any, server: Server) -> None:
    wrong: list[Any] = []

    def work(number: int) -> None:
        for _ in range(10):
            answer = send(family, guest, f"{server.origin}/echo", "post", body=b"%d" % number)
            if answer[2] != b"%d" % number:
                wrong.append(answer)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_tls_verifies_certificates_and_names(certificate: Path, context: Callable[..., Any]) -> None:
    server = Server()
    server.scheme = "https"
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(certificate / "cert.pem", certificate / "key.pem")
    server.socket = tls.wrap_socket(server.socket, server_side=True)
    ctx = context(allowed=["https://*:*"])
    network = Network()
    family = OutboundHttp(network)
    with serving(server):
        uri = f"https://localhost:{server.server_address[1]}/echo"
        assert send(family, ctx, uri) == FAILED
        network.tls_context().load_verify_locations(certificate / "cert.pem")
        assert send(family, ctx, uri, "post", body=b"secret")[2] == b"secret"
        assert send(family, ctx, uri, "post", body=b"again")[2] == b"again"
        assert len(server.connections) == 1
        assert send(family, ctx, uri.replace("localhost", "127.0.0.1")) == FAILED
        late = context(allowed=["https://*:*"], seconds=0.2)
        with pytest.raises(DeadlineExceeded):
            send(family, late, uri.replace("/echo", "/dribble"))
    family.close()


def test_the_client_is_made_when_it_is_needed(network: Network) -> None:
    client = Client(network)
    client.close()
    assert client._manager is None
