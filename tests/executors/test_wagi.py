"""CGI in and out, as Spin's WAGI has it (Spin: http, 8.4). Guests that run are in test_gateway.py."""

from __future__ import annotations

import pytest

from wasm_gateway.errors import GuestError, LimitExceeded
from wasm_gateway.executors.wagi import DEFAULT_ARGV, Output, arguments, environment, response, split
from wasm_gateway.messages import Headers, Request
from wasm_gateway.router import Router


@pytest.mark.parametrize(
    ("argv", "path", "query", "expected"),
    [
        (DEFAULT_ARGV, "/a/b", None, ["/a/b", ""]),  # the trailing empty argument is Spin's
        (DEFAULT_ARGV, "/a", "x=1&y=2", ["/a", "x=1", "y=2"]),
        (DEFAULT_ARGV, "/a", "x=%20", ["/a", "x=%20"]),  # nothing is decoded
        ("tool --flag ${ARGS}", "/a", "b", ["tool", "--flag", "b"]),
        ("a  b", "/", None, ["a", "", "b"]),  # split at each single space
        ("fixed", "/", "x", ["fixed"]),
    ],
)
def test_arguments(argv: str, path: str, query: str | None, expected: list[str]) -> None:
    assert arguments(argv, Request("GET", path, query)) == expected


def variables(request: Request, pattern: str = "/base/:name/...", length: int = 0) -> dict[str, str]:
    match = Router([(pattern, None)]).match(request.path)
    assert match is not None
    return dict(environment(request, match, length))


def test_environment_of_a_request() -> None:
    request = Request(
        "POST",
        "/base/x/rest%20of",
        "a=1&b=%202",
        Headers(
            [
                ("Host", "example.com:8080"),
                ("Content-Type", "text/plain"),
                ("X-Custom-Foo", "bar"),
                ("Authorization", "secret"),
                ("X-Twice", "one"),
                ("X-Twice", "two"),
                ("X-Odd", "\xff"),
            ]
        ),
        authority="example.com:8080",
        client=("127.0.0.1", 50000),
    )
    got = variables(request, length=12)
    expected = {
        "AUTH_TYPE": "",
        "CONTENT_LENGTH": "12",
        "CONTENT_TYPE": "text/plain",
        "GATEWAY_INTERFACE": "CGI/1.1",
        "QUERY_STRING": "a=1&b=%202",
        "REMOTE_ADDR": "127.0.0.1",
        "REMOTE_HOST": "127.0.0.1",
        "REMOTE_USER": "",
        "REQUEST_METHOD": "POST",
        "SCRIPT_NAME": "/base/:name",
        "PATH_INFO": "/rest%20of",
        "PATH_TRANSLATED": "/rest of",
        "X_RAW_PATH_INFO": "/rest%20of",
        "SERVER_NAME": "example.com",
        "SERVER_PORT": "8080",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "SERVER_SOFTWARE": "WAGI/1",
        "X_FULL_URL": "http://example.com:8080/base/x/rest%20of?a=1&b=%202",
        "X_MATCHED_ROUTE": "/base/:name/...",
        "X_BASE_PATH": "/",
        "X_RAW_COMPONENT_ROUTE": "/base/:name/...",
        "X_COMPONENT_ROUTE": "/base/:name",
        "X_CLIENT_ADDR": "127.0.0.1:50000",
        "X_PATH_MATCH_NAME": "x",
        "HTTP_HOST": "example.com:8080",
        "HTTP_CONTENT_TYPE": "text/plain",
        "HTTP_X_CUSTOM_FOO": "bar",
        "HTTP_X_TWICE": "two",
        "HTTP_X_ODD": "CORRUPT VALUE",
    }
    assert got == expected


def test_environment_without_host_client_and_query() -> None:
    got = variables(Request("GET", "/base/x"))
    assert (got["SERVER_NAME"], got["SERVER_PORT"]) == ("default_host", "80")
    assert got["REMOTE_ADDR"] == got["QUERY_STRING"] == got["PATH_INFO"] == ""
    assert got["CONTENT_LENGTH"] == "0"


def test_an_address_as_the_host() -> None:
    got = variables(Request("GET", "/base/x", authority="[2001:db8::1]:8080"))
    assert (got["SERVER_NAME"], got["SERVER_PORT"]) == ("[2001:db8::1]", "8080")
    assert variables(Request("GET", "/base/x", authority="[::1]"))["SERVER_PORT"] == "80"


def test_a_header_cannot_pretend_to_be_a_variable() -> None:
    got = variables(Request("GET", "/base/x", headers=Headers([("path-info", "/forged"), ("proxy", "x")])))
    assert got["PATH_INFO"] == ""
    assert got["HTTP_PATH_INFO"] == "/forged"
    assert "PROXY" not in got
    assert "HTTP_PROXY" not in got  # many a program's own setting ("httpoxy")


@pytest.mark.parametrize("first", [True, False])
def test_a_header_cannot_pass_for_another_one(first: bool) -> None:
    """A server in front vouches for X-Real-Ip, and has never heard of the other one."""
    pairs = [("x-real-ip", "192.0.2.1"), ("x_real_ip", "forged")]
    got = variables(Request("GET", "/base/x", headers=Headers(pairs if first else pairs[::-1])))
    assert got["HTTP_X_REAL_IP"] == "192.0.2.1"


@pytest.mark.parametrize(
    ("output", "head", "body"),
    [
        (b"a: b\n\nbody", b"a: b", b"body"),
        (b"a: b\r\n\r\nbody\r\n", b"a: b", b"body\r\n"),
        (b"a: b\n\r\nbody", b"a: b", b"body"),
        (b"a: b\r\n\nbody", b"a: b", b"body"),
        (b"a: b\nc: d\n\n\n\nx", b"a: b\nc: d", b"\n\nx"),
        (b"a: b\n\n", b"a: b", b""),
        (b"a: b\n", b"", b"a: b\n"),  # no empty line: all of it is body
        (b"", b"", b""),
        (b"\n\nx", b"", b"x"),
    ],
)
def test_split(output: bytes, head: bytes, body: bytes) -> None:
    assert split(output) == (head, body)


@pytest.mark.parametrize(
    ("output", "status", "headers", "body"),
    [
        (b"content-type: text/plain\n\nhi", 200, [("content-type", "text/plain")], b"hi"),
        (b"Content-Type:text/plain  \n\n", 200, [("content-type", "text/plain")], b""),
        (b"status: 404 Not Found\n\nno", 404, [], b"no"),
        (b"Status: 204\ncontent-type: a/b\n\n", 204, [("content-type", "a/b")], b""),
        (b"location: /x\n\n", 302, [("location", "/x")], b""),
        (b"location: /x\nstatus: 301\n\n", 301, [("location", "/x")], b""),
        (b"status: 301\nlocation: /x\n\n", 301, [("location", "/x")], b""),  # in either order
        (b"status: nonsense\ncontent-type: a/b\n\n", 502, [], b""),
        (b"status: 99\ncontent-type: a/b\n\n", 502, [], b""),
        (b"content-type: a/b\nset-cookie: a=1\nset-cookie: b=2\n\n", 200, None, b""),
        (b"no colon\ncontent-type: a/b\n\n", 200, [("content-type", "a/b")], b""),
        (b"content-type: a/b\nbad name: x\n\n", 200, [("content-type", "a/b")], b""),
        (b"content-type: text/\xc3\xa9\n\n", 200, [("content-type", "text/\xc3\xa9")], b""),
    ],
)
def test_response(output: bytes, status: int, headers: list[tuple[str, str]] | None, body: bytes) -> None:
    got = response(output, 1000)
    assert got.status == status
    assert b"".join(got.body) == body
    if headers is None:
        assert got.headers.get_all("set-cookie") == ["b=2"]  # the last one wins
    else:
        assert list(got.headers) == headers


@pytest.mark.parametrize("output", [b"", b"just text", b"x-other: y\n\nbody", b"content-type: a/b\n"])
def test_output_that_says_too_little_is_a_500_with_a_reason(output: bytes) -> None:
    got = response(output, 1000)
    assert got.status == 500
    assert got.body == (b"Exactly one of 'location' or 'content-type' must be specified",)


@pytest.mark.parametrize("output", [b"content-type: a/b\nx: \xff\n\n", b"content-type: a\x01b\n\n"])
def test_output_that_http_does_not_allow(output: bytes) -> None:
    with pytest.raises(GuestError):
        response(output, 1000)


def test_output_is_bounded() -> None:
    output = Output(4)
    output.write(b"1234")
    with pytest.raises(LimitExceeded, match="longer than 4 bytes") as caught:
        output.write(b"5")
    assert caught.value.limit == "max_response_body"
