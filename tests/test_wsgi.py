# The WSGI door. A guest here is a Python function: what is behind Gateway.handle is
# none of a door's business. tests/integrations/test_servers.py runs real guests
# behind real servers.

from __future__ import annotations

import io
import os
import select
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any
from wsgiref.util import setup_testing_defaults
from wsgiref.validate import validator

import pytest
from werkzeug.middleware.dispatcher import DispatcherMiddleware
from werkzeug.test import Client, EnvironBuilder, run_wsgi_app

from wasm_gateway.errors import GuestError, RequestError
from wasm_gateway.messages import Begin, Headers, Request, Response
from wasm_gateway.router import RouteMatch, Router
from wasm_gateway.wsgi import InputBody, WsgiGateway, hung_up, outgoing, raw_path, status_line, to_request


class Guests:
    """Routes whose guests are functions."""

    def __init__(self, routes: dict[str, Callable[[Request], Response | None]]) -> None:
        self.match = Router(routes.items()).match

    def choose(self, match: RouteMatch, facts: object) -> None:
        return None

    def follow(self) -> None:
        """There is no ledger."""

    def handle(
        self, request: Request, match: RouteMatch, begin: Begin | None = None, turn: object = None
    ) -> Response | None:
        guest: Any = match.route.target
        return guest(request)


class Wire:
    """A server: calls the app as PEP 3333 has it, and keeps what came out."""

    def __init__(self, app: Any, environ: dict[str, Any]) -> None:
        self.closed = False
        body = app(environ, self.start_response)
        try:
            self.body = b"".join(body)
        finally:
            if hasattr(body, "close"):
                body.close()

    def start_response(self, status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
        self.status = status
        self.headers = headers
        return None


def environ(path: str = "/", **extra: Any) -> dict[str, Any]:
    result = {
        "REQUEST_METHOD": "GET",
        "PATH_INFO": path,
        "SCRIPT_NAME": "",
        "QUERY_STRING": "",
        "HTTP_HOST": "example.com",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "REMOTE_ADDR": "10.0.0.7",
        "REMOTE_PORT": "4711",
        "wsgi.url_scheme": "http",
        "wsgi.input": io.BytesIO(),
    }
    result.update({key.replace("wsgi_", "wsgi."): value for key, value in extra.items()})
    return result


def native(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "6")])
    return [b"native"]


def text(*chunks: bytes, status: int = 200, **headers: str) -> Response:
    pairs = [(name.replace("_", "-"), value) for name, value in headers.items()]
    return Response(status, Headers([("content-type", "text/plain"), *pairs]), chunks)


def door(guest: Callable[[Request], Response | None], app: Any = None, route: str = "/...") -> WsgiGateway:
    return WsgiGateway(Guests({route: guest}), app)  # type: ignore[arg-type]


class Stream:
    """A body that is still being made."""

    def __init__(self, *chunks: bytes, error: Exception | None = None) -> None:
        self.made = self._make(chunks, error)
        self.closed = 0

    def _make(self, chunks: tuple[bytes, ...], error: Exception | None) -> Iterator[bytes]:
        yield from chunks
        if error is not None:
            raise error

    def __iter__(self) -> Iterator[bytes]:
        return self.made

    def close(self) -> None:
        self.closed += 1


# Who answers


def test_a_matched_path_is_the_guests_and_any_other_the_apps() -> None:
    app = door(lambda request: text(b"guest"), native, "/wasm/...")
    assert Wire(app, environ("/wasm/x")).body == b"guest"
    assert Wire(app, environ("/other")).body == b"native"


def test_without_an_app_no_route_is_an_empty_404() -> None:
    wire = Wire(door(lambda request: text(b"guest"), route="/wasm"), environ("/other"))
    assert (wire.status, wire.body) == ("404 Not Found", b"")
    assert wire.headers == [("content-length", "0")]


def test_the_app_answers_when_the_gateway_declines_and_finds_the_body_unread() -> None:
    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        start_response("200 OK", [])
        return [environ["wsgi.input"].read(5)]

    request = environ("/", CONTENT_LENGTH="5", wsgi_input=io.BytesIO(b"hello"))
    assert Wire(door(lambda request: None, app), request).body == b"hello"


# The path


@pytest.mark.parametrize(
    ("raw", "script", "path_info", "expected"),
    [
        (None, "", "/a/b", "/a/b"),
        (None, "", "", "/"),
        (None, "/app", "/a", "/a"),
        (None, "", "/caf\xc3\xa9", "/caf%C3%A9"),
        (None, "", "/a b?c#d%", "/a%20b%3Fc%23d%25"),
        (None, "", "/-._~!$&'()*+,;=:@", "/-._~!$&'()*+,;=:@"),
        (None, "", "*", None),
        ("/a/b", "", "/a/b", "/a/b"),
        ("/a/b?x=1?y", "", "/a/b", "/a/b"),
        ("/a%2Fb", "", "/a/b", "/a%2Fb"),
        ("/caf%c3%a9", "", "/caf\xc3\xa9", "/caf%c3%a9"),
        ("//a//b/", "", "//a//b/", "//a//b/"),
        ("/app/a%2Fb", "/app", "/a/b", "/a%2Fb"),
        ("/app", "/app", "", "/"),
        ("/app/", "/app", "/", "/"),
        ("/b%C3%BC/a%2Fb", "/b\xc3\xbc", "/a/b", "/a%2Fb"),
        # what a proxy put in front, or left away
        ("/a%2Fb", "/app", "/a/b", "/a%2Fb"),
        ("http://example.com/a%2Fb?q", "", "/a/b", "/a%2Fb"),
        ("http://example.com", "", "/", "/"),
        ("*", "", "*", None),
        # a middleware rewrote the path: the request line no longer says the same
        ("/old", "", "/new", "/new"),
        ("/old%2Fpath", "/app", "/new path", "/new%20path"),
        # never what PATH_INFO does not say, however it is spelled
        ("/admin%2F..%2Fpublic", "", "/public", "/public"),
        ("/caf\xe9", "", "/caf\xe9", "/caf%E9"),
    ],
)
def test_raw_path(raw: str | None, script: str, path_info: str, expected: str | None) -> None:
    variables = {"SCRIPT_NAME": script, "PATH_INFO": path_info}
    for name in ("RAW_URI", "REQUEST_URI"):
        assert raw_path(variables | ({} if raw is None else {name: raw})) == expected


@pytest.mark.parametrize(
    ("raw", "script", "path_info", "expected"),
    [
        ("/caf%C3%A9/a%20b", "", "/caf\xc3\xa9/a b", "/a%20b"),
        (None, "", "/caf\xc3\xa9/a b", "/a%20b"),
        ("/app/caf%C3%A9/a%2Fb?q", "/app", "/caf\xc3\xa9/a/b", "/a%2Fb"),
        ("/c%61f%C3%A9/a", "", "/caf\xc3\xa9/a", "/a"),
        ("/caf%C3%A9", "", "/caf\xc3\xa9", "/"),
        ("/caf%C3%A9/", "", "/caf\xc3\xa9/", "/"),
        ("/caf%C3%A9s", "", "/caf\xc3\xa9s", None),
        ("/", "", "/", None),
        ("/app/a", "/app", "/a", None),
    ],
)
def test_raw_path_below_a_prefix(raw: str | None, script: str, path_info: str, expected: str | None) -> None:
    variables = {"SCRIPT_NAME": script, "PATH_INFO": path_info} | ({} if raw is None else {"RAW_URI": raw})
    assert raw_path(variables, "/caf\xe9") == expected


def test_a_path_that_is_not_latin1_is_nobodys() -> None:
    assert raw_path({"PATH_INFO": "/\u20ac"}) is None


def test_routes_lie_below_the_script_name() -> None:
    seen: list[Request] = []

    def guest(request: Request) -> Response:
        seen.append(request)
        return text(b"guest")

    app = DispatcherMiddleware(native, {"/app": door(guest, route="/a/...")})
    client = Client(app)
    assert client.get("/app/a/b%2Fc?q=%20").data == b"guest"
    assert client.get("/app/other").status_code == 404
    assert client.get("/a/b").data == b"native"
    assert [(request.path, request.query) for request in seen] == [("/a/b%2Fc", "q=%20")]


# The request


def test_every_part_of_a_request() -> None:
    request = to_request(
        environ(
            "/a",
            REQUEST_METHOD="PATCH",
            QUERY_STRING="x=%20&y",
            HTTP_X_TWO_WORDS="caf\xe9",
            CONTENT_TYPE="text/plain",
            CONTENT_LENGTH="0",
            HTTP_CONTENT_TYPE="spoofed/type",
            HTTP_CONTENT_LENGTH="99",
            HTTP_PROXY="http://evil/",
            wsgi_url_scheme="https",
            SERVER_PROTOCOL="HTTP/1.0",
        ),
        "/a",
    )
    assert (request.method, request.target, request.scheme) == ("PATCH", "/a?x=%20&y", "https")
    assert (request.authority, request.client, request.protocol) == (
        "example.com",
        ("10.0.0.7", 4711),
        "HTTP/1.0",
    )
    assert sorted(request.headers) == [
        ("content-length", "0"),
        ("content-type", "text/plain"),
        ("host", "example.com"),
        ("x-two-words", "caf\xe9"),
    ]
    assert request.body == ()


def test_the_environment_of_the_process_is_not_taken_for_headers() -> None:
    # granian and wsgiref put it beside the request's
    code = """
import os
from wasm_gateway.wsgi import to_request
environ = dict(os.environ) | {"REQUEST_METHOD": "GET", "HTTP_HOST": "a", "HTTP_ACCEPT": "*/*"}
environ |= {"wsgi.url_scheme": "http", "wsgi.input": None}
print(sorted(to_request(environ, "/").headers))
"""
    variables = {**os.environ, "HTTP_SECRET": "hunter2"}
    result = subprocess.run([sys.executable, "-c", code], env=variables, capture_output=True, check=True)
    assert result.stdout.decode().strip() == "[('accept', '*/*'), ('host', 'a')]"


@pytest.mark.parametrize(
    ("variables", "query"),
    [
        ({"QUERY_STRING": ""}, None),
        ({"QUERY_STRING": "", "RAW_URI": "/?"}, ""),
        ({"QUERY_STRING": "a", "RAW_URI": "/?a"}, "a"),
        ({"QUERY_STRING": "caf\xe9 "}, "caf%E9%20"),
    ],
)
def test_query(variables: dict[str, str], query: str | None) -> None:
    assert to_request(environ() | variables, "/").query == query


@pytest.mark.parametrize(
    ("address", "port", "client"),
    [("::1", "80", ("::1", 80)), ("10.0.0.1", None, ("10.0.0.1", 0)), ("", None, None), ("a", "x", ("a", 0))],
)
def test_client(address: str, port: str | None, client: tuple[str, int] | None) -> None:
    variables = environ(REMOTE_ADDR=address)
    del variables["REMOTE_PORT"]
    if port is not None:
        variables["REMOTE_PORT"] = port
    assert to_request(variables, "/").client == client


def test_authority_of_an_absolute_target() -> None:
    variables = environ(RAW_URI="http://Example.com/a")
    assert to_request(variables, "/a").authority == "Example.com"

    del variables["HTTP_HOST"]
    assert to_request(variables, "/a").authority == "Example.com"

    variables["HTTP_HOST"] = "other.com"
    with pytest.raises(RequestError, match="different hosts"):
        to_request(variables, "/a")
    assert Wire(door(lambda request: text(b"guest")), variables).status == "400 Bad Request"


@pytest.mark.parametrize(
    "host",
    [
        *(
            "example.com",
            "example.com:8080",
            "EXAMPLE.com:",
            "127.0.0.1",
            "[::1]:80",
            "a_b.c",
            "[::ffff:1.2.3.4]",
        )
    ],
)
def test_hosts(host: str) -> None:
    assert to_request(environ(HTTP_HOST=host), "/").authority == host


@pytest.mark.parametrize(
    "host",
    ["", "a b", "a.example, b.example", "a,b", "user@a", "a:b", "http://a", "a/b", "a?", "[::1", "caf\xe9"],
)
def test_no_host_several_and_bad_ones_are_a_400(host: str) -> None:
    variables = environ(HTTP_HOST=host)
    wire = Wire(door(lambda request: text(b"guest")), variables)
    assert (wire.status, wire.body) == ("400 Bad Request", b"")
    del variables["HTTP_HOST"]
    assert Wire(door(lambda request: text(b"guest")), variables).status == "400 Bad Request"


def test_a_path_that_looks_absolute_is_no_authority() -> None:
    assert to_request(environ(RAW_URI="/a?b=http://other.com/"), "/a").authority == "example.com"


def test_the_sites_rule_about_hosts() -> None:
    seen: list[Request] = []

    def guest(request: Request) -> Response:
        seen.append(request)
        return text(b"guest")

    def host(environ: dict[str, Any]) -> str:
        if environ["HTTP_HOST"] == "evil.com":
            raise RequestError("no")
        return "public.example"

    app = WsgiGateway(Guests({"/": guest}), host=host)  # type: ignore[arg-type]
    assert Wire(app, environ(HTTP_HOST="evil.com")).status == "400 Bad Request"
    assert Wire(app, environ(HTTP_HOST="backend:8000")).body == b"guest"
    assert [(request.authority, request.headers.get_all("host")) for request in seen] == [
        ("public.example", ["public.example"])
    ]


# The request body


class Input(io.BytesIO):
    """Counts what is read, and fails when asked for more than there is to be."""

    def __init__(self, data: bytes, limit: int | None = None) -> None:
        super().__init__(data)
        self.limit = limit
        self.calls = 0

    def read(self, size: int | None = -1) -> bytes:
        self.calls += 1
        assert size is not None
        assert size > 0
        if self.limit is not None:
            assert self.tell() + size <= self.limit
        return super().read(size)


def body_of(**variables: Any) -> bytes:
    return b"".join(to_request(environ(**variables), "/").body)


def test_body_ends_at_its_content_length() -> None:
    source = Input(b"hello world", limit=5)
    assert body_of(CONTENT_LENGTH="5", wsgi_input=source) == b"hello"
    assert source.tell() == 5


def test_body_is_read_in_chunks_and_only_when_asked_for() -> None:
    source = Input(bytes(200_000), limit=200_000)
    body = to_request(environ(CONTENT_LENGTH="200000", wsgi_input=source), "/").body
    assert source.calls == 0
    assert [len(chunk) for chunk in body] == [65536, 65536, 65536, 3392]


@pytest.mark.parametrize("variables", [{}, {"CONTENT_LENGTH": ""}, {"CONTENT_LENGTH": "0"}])
def test_without_a_length_nothing_is_read(variables: dict[str, str]) -> None:
    source = Input(b"the next request", limit=0)
    assert to_request(environ(wsgi_input=source, **variables), "/").body == ()


@pytest.mark.parametrize(
    "variables",
    [{}, {"HTTP_TRANSFER_ENCODING": "chunked"}, {"HTTP_TRANSFER_ENCODING": "chunked", "CONTENT_LENGTH": "3"}],
)
def test_a_server_that_ends_the_input_is_read_to_the_end(variables: dict[str, str]) -> None:
    assert body_of(wsgi_input=Input(b"hello"), wsgi_input_terminated=True, **variables) == b"hello"


@pytest.mark.parametrize("length", ["-1", "+5", "5 ", "1_0", "0x5", "five", "5, 5", "\u0665", "9" * 30])
def test_a_content_length_that_is_no_number_is_a_400(length: str) -> None:
    wire = Wire(door(lambda request: text(b"guest")), environ(CONTENT_LENGTH=length))
    assert (wire.status, wire.body) == ("400 Bad Request", b"")


def test_a_body_that_ends_early_is_the_clients_error() -> None:
    body = InputBody(io.BytesIO(b"hel").read, 5)
    assert next(body) == b"hel"
    with pytest.raises(RequestError, match="disconnected"):
        next(body)
    assert list(body) == []


def test_an_error_of_the_servers_input_is_the_clients() -> None:
    def read(size: int) -> bytes:
        raise ConnectionResetError("gone")

    body = InputBody(read, None)
    with pytest.raises(RequestError, match="gone"):
        next(body)
    assert list(body) == []


def test_a_guest_that_reads_nothing_lets_the_server_ask_for_nothing() -> None:
    # a server sends "100 Continue" when wsgi.input is read
    source = Input(b"hello", limit=0)
    wire = Wire(
        door(lambda request: text(b"no", status=403)),
        environ(CONTENT_LENGTH="5", HTTP_EXPECT="100-continue", wsgi_input=source),
    )
    assert (wire.status, source.calls) == ("403 Forbidden", 0)


# The response


def sent(response: Response, method: str = "GET") -> tuple[str, dict[str, str], bytes]:
    wire = Wire(door(lambda request: response), environ(REQUEST_METHOD=method))
    assert len(dict(wire.headers)) == len(wire.headers)
    return wire.status, dict(wire.headers), wire.body


def test_a_whole_body_gets_its_length() -> None:
    assert sent(text(b"hello", b" world")) == (
        "200 OK",
        {"content-type": "text/plain", "content-length": "11"},
        b"hello world",
    )
    assert sent(text())[1]["content-length"] == "0"


def test_the_length_of_a_whole_body_is_not_the_guests_to_say() -> None:
    assert sent(text(b"hello", content_length="99"))[1]["content-length"] == "5"


def test_repeated_fields_stay_apart_and_in_order() -> None:
    response = Response(200, Headers([("set-cookie", "a=1"), ("x", "y"), ("set-cookie", "b=2")]), (b"",))
    wire = Wire(door(lambda request: response), environ())
    assert wire.headers[:3] == [("set-cookie", "a=1"), ("x", "y"), ("set-cookie", "b=2")]


def test_hop_by_hop_fields_stay_here() -> None:
    fields = [
        ("connection", "close"),
        ("keep-alive", "timeout=5"),
        ("transfer-encoding", "chunked"),
        ("upgrade", "websocket"),
        ("trailer", "x"),
        ("te", "trailers"),
        ("proxy-authenticate", "Basic"),
        ("status", "204 No Content"),
        ("x-accel-redirect", "/protected/secret"),
        ("x-sendfile", "/etc/passwd"),
        ("x-kept", "yes"),
    ]
    status, headers, body = sent(Response(200, Headers(fields), (b"hello",)))
    assert headers == {"x-kept": "yes", "content-length": "5"}
    assert (status, body) == ("200 OK", b"hello")


BAD_FIELDS = [
    ("x", "a\r\nset-cookie: b=1"),
    ("x", "a\nb"),
    ("x", "a\rb"),
    ("x", "a\0b"),
    ("x", "a\x7f"),
    ("x", "\u20ac"),
    ("x\r\ny", "a"),
    ("x:", "a"),
    ("x y", "a"),
    ("", "a"),
    ("caf\xe9", "a"),
    ("content-length", "5, 5"),
    ("content-length", "-1"),
    ("content-length", ""),
    ("content-length", "9" * 30),
]


@pytest.mark.parametrize("field", BAD_FIELDS)
def test_a_field_that_http_does_not_have_is_an_empty_500(field: tuple[str, str]) -> None:
    stream = Stream(b"hello")
    status, headers, body = sent(Response(200, Headers([field]), stream))
    assert (status, headers, body) == ("500 Internal Server Error", {"content-length": "0"}, b"")
    assert stream.closed == 1


def test_fields_that_http_does_have() -> None:
    fields = [("x-tab", "a\tb"), ("x-bytes", "caf\xe9"), ("x-!#$%&'*+-.^_`|~9", ""), ("x-space", "  a  ")]
    headers = sent(Response(200, Headers(fields)))[1]
    assert headers == {
        "x-tab": "a\tb",
        "x-bytes": "caf\xe9",
        "x-!#$%&'*+-.^_`|~9": "",
        "x-space": "a",
        "content-length": "0",
    }


@pytest.mark.parametrize("status", [-1, 0, 99, 100, 101, 199, 1000])
def test_a_status_that_is_no_answer_is_a_500(status: int) -> None:
    assert sent(text(b"x", status=status))[::2] == ("500 Internal Server Error", b"")


@pytest.mark.parametrize(
    ("status", "line"),
    [(200, "200 OK"), (404, "404 Not Found"), (599, "599 Unknown"), (999, "999 Unknown")],
)
def test_status_line(status: int, line: str) -> None:
    assert status_line(status) == line


@pytest.mark.parametrize(
    ("response", "headers"),
    [
        (text(b"hello"), {"content-length": "5"}),
        (text(content_length="7"), {"content-length": "7"}),
        (text(), {}),
        (text(content_encoding="gzip"), {"content-encoding": "gzip"}),
    ],
)
def test_head_has_the_head_of_a_get(response: Response, headers: dict[str, str]) -> None:
    assert sent(response, "HEAD") == ("200 OK", {"content-type": "text/plain", **headers}, b"")


def test_a_stream_is_closed_for_head_without_being_read() -> None:
    stream = Stream(b"hello", error=AssertionError("read"))
    assert sent(Response(200, Headers([("content-length", "5")]), stream), "HEAD") == (
        "200 OK",
        {"content-length": "5"},
        b"",
    )
    assert stream.closed == 1


def test_204_and_304_have_no_body() -> None:
    assert sent(text(b"hello", status=204)) == ("204 No Content", {"content-type": "text/plain"}, b"")
    assert sent(text(b"hello", status=304)) == ("304 Not Modified", {"content-type": "text/plain"}, b"")
    assert sent(text(status=304, content_length="5"))[1]["content-length"] == "5"


def test_trailers_go_to_the_server_that_takes_some() -> None:
    taken: list[Any] = []

    def guest(request: Request) -> Response:
        return Response(
            200, Headers(), (b"a",), lambda: Headers([("x-sum", "1"), ("te", "x"), ("host", "x")])
        )

    assert Wire(door(guest), environ()).body == b"a"  # PEP 3333 has none
    extra = {"gunicorn.http2.send_trailers": taken.append}
    assert Wire(door(guest), environ(**extra)).body == b"a"
    assert taken == [[("x-sum", "1")]]
    assert Wire(door(guest), environ(REQUEST_METHOD="HEAD", **extra)).body == b""
    assert Wire(door(lambda request: Response(200)), environ(**extra)).body == b""
    assert len(taken) == 1


def test_a_stream_goes_out_chunk_by_chunk_and_is_closed() -> None:
    made: list[bytes] = []

    def chunks() -> Iterator[bytes]:
        for chunk in (b"a", b"b"):
            made.append(chunk)
            yield chunk

    stream = Stream()
    stream.made = chunks()
    body = door(lambda request: Response(200, Headers(), stream))(environ(), lambda *_: lambda data: None)
    assert made == []
    iterator = iter(body)
    assert (next(iterator), made) == (b"a", [b"a"])
    assert (next(iterator), made) == (b"b", [b"a", b"b"])
    assert stream.closed == 0
    body.close()  # type: ignore[attr-defined]
    assert stream.closed == 1


@pytest.mark.parametrize(("length", "before"), [("2", [b"a"]), ("4", [b"a", b"bc"])])
def test_a_stream_that_breaks_its_promise_breaks_the_connection(length: str, before: list[bytes]) -> None:
    _, _, body = outgoing(Response(200, Headers([("content-length", length)]), Stream(b"a", b"bc")), "GET")
    iterator = iter(body)
    assert [next(iterator) for _ in before] == before
    with pytest.raises(GuestError, match="content-length"):
        next(iterator)


def test_a_stream_that_keeps_its_promise() -> None:
    response = Response(200, Headers([("content-length", "3")]), Stream(b"a", b"", b"bc"))
    assert sent(response) == ("200 OK", {"content-length": "3"}, b"abc")


def test_a_guest_that_fails_in_the_middle_cuts_the_body() -> None:
    stream = Stream(b"a", error=GuestError("trapped"))
    with pytest.raises(GuestError, match="trapped"):
        sent(Response(200, Headers(), stream))
    assert stream.closed == 1


# By the book


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "OPTIONS"])
@pytest.mark.parametrize("body", [(b"hello",), (), None])
def test_pep_3333_as_wsgiref_reads_it(method: str, body: tuple[bytes, ...] | None) -> None:
    def guest(request: Request) -> Response:
        received = b"".join(request.body)
        assert received == (b"hello" if method == "POST" else b"")
        headers = Headers([("content-type", "text/plain"), ("connection", "close"), ("status", "200")])
        return Response(200, headers, Stream(b"a", b"b") if body is None else body)

    variables: dict[str, Any] = {}
    setup_testing_defaults(variables)
    variables |= {"REQUEST_METHOD": method, "PATH_INFO": "/a", "QUERY_STRING": "", "SCRIPT_NAME": ""}
    if method == "POST":
        variables |= {"CONTENT_LENGTH": "5", "wsgi.input": io.BytesIO(b"hello rest")}
    variables["wsgi.errors"] = io.StringIO()
    wire = Wire(validator(door(guest)), variables)
    assert wire.status == "200 OK"
    assert wire.body == (b"" if method == "HEAD" else b"ab" if body is None else b"".join(body))


def test_with_werkzeugs_client() -> None:
    def guest(request: Request) -> Response:
        return text(b"".join(request.body), request.target.encode())

    builder = EnvironBuilder("/caf%C3%A9?a=b", method="POST", data=b"hello ")
    body, status, headers = run_wsgi_app(door(guest), builder.get_environ())
    assert (b"".join(body), status) == (b"hello /caf%C3%A9?a=b", "200 OK")
    assert headers["Content-Length"] == "20"


@pytest.mark.skipif(not hasattr(select, "POLLRDHUP"), reason="not told by this system")
@pytest.mark.parametrize("key", ["gunicorn.socket", "werkzeug.socket"])
def test_a_client_that_hangs_up(key: str) -> None:
    """It is seen behind bytes that nobody has read, where the server shows its socket."""
    ours, client = socket.socketpair()
    with ours:
        gone = hung_up({key: ours})
        assert gone is not None
        assert not gone()
        client.sendall(b"more")
        assert not gone()
        client.close()
        assert gone()
    assert gone()
    assert hung_up({}) is None
    assert hung_up({key: object()}) is None
