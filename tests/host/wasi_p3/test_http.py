"""wasi:http/types 0.3: what differs from 0.2 (wasi/test_http.py); tables as wasmtime 49 has them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.host.wasi.test_http import AUTHORITIES, NO_AUTHORITIES, NO_TARGETS, TARGETS
from wasm_gateway.component.streams import HostFuture, HostStream, Promise
from wasm_gateway.component.values import Err, Ok
from wasm_gateway.host.wasi.http import FAILED, FORBIDDEN_NAME, IMMUTABLE, MAX_FIELDS, SYNTAX, Fields
from wasm_gateway.host.wasi.io import BytesInput
from wasm_gateway.host.wasi_p3.http import (
    BYTE,
    SIZE_EXCEEDED,
    Http,
    Options,
    Received,
    Request,
    Response,
    incoming,
)
from wasm_gateway.messages import NO_HEADERS, Headers

F = Http.FUNCTIONS


@pytest.fixture
def ctx(context: Callable[..., Any]) -> Any:
    return context()


@pytest.fixture
def call(ctx: Any) -> Callable[..., Any]:
    """`call("fields.set", fields, "a", [b"1"])`"""

    def call(name: str, *arguments: Any) -> Any:
        found = next(F[kind + name] for kind in ("[method]", "[static]", "[constructor]") if kind + name in F)
        return found(ctx, *arguments)

    return call


def future(ctx: Any, value: Any) -> HostFuture:
    return HostFuture(ctx.loop, None, value)


def contents(ctx: Any, data: bytes) -> HostStream:
    return HostStream(ctx.loop, BYTE, BytesInput(data))


def told(promise: Promise) -> list[Any]:
    """What has been said by now."""
    found: list[Any] = []
    promise.then(found.append)
    return found


# Fields


def test_a_guest_sees_its_host_but_nothing_of_the_connection() -> None:
    hidden = (
        "connection",
        "keep-alive",
        "proxy-connection",
        "transfer-encoding",
        "upgrade",
        "http2-settings",
    )
    shown = ("host", "te", "trailer", "content-length", "expect", "x-a")
    headers = Headers([(name, "1") for name in (*hidden, *shown)])
    request = incoming("GET", "/", "http", "x", headers, Received(BytesInput(b""), None))
    assert [name for name, _ in request.fields.pairs] == list(shown)


@pytest.mark.parametrize("name", ["host", "connection", "b d", "x-a"])
def test_what_is_wrong_counts_in_this_order(call: Callable[..., Any], name: str) -> None:
    """Name, who may set it, then the value and whether the fields may be changed at all."""
    said = {"host": FORBIDDEN_NAME, "connection": FORBIDDEN_NAME, "b d": SYNTAX}.get(name)
    fixed = Fields([("x-a", b"1")], mutable=False)
    assert call("fields.append", fixed, name, b"a\n") == (said or SYNTAX)
    assert call("fields.set", fixed, name, [b"a\n"]) == (said or IMMUTABLE)
    assert call("fields.delete", fixed, name) == (said or IMMUTABLE)
    assert call("fields.get-and-delete", fixed, name) == (said or IMMUTABLE)
    assert fixed.pairs == [("x-a", b"1")]


def test_get_and_delete(call: Callable[..., Any]) -> None:
    fields = Fields([("a", b"1"), ("b", b"2"), ("a", b"3")])
    assert call("fields.get-and-delete", fields, "A") == [b"1", b"3"]
    assert call("fields.get-and-delete", fields, "A") == []
    assert call("fields.copy-all", fields) == [("b", b"2")]


@pytest.mark.parametrize(
    ("value", "kept"),
    [
        *((b"5", b"5"), (b"05", b"5"), (b"000", b"0"), (b"18446744073709551615", b"18446744073709551615")),
        *(
            (value, None)
            for value in (b"", b"-1", b"+5", b" 5", b"5 ", b"a", b"5, 5", b"18446744073709551616")
        ),
        *((b"9" * 5000, None), (b"\xb2", None)),
    ],
)
def test_content_length_is_a_number(call: Callable[..., Any], value: bytes, kept: bytes | None) -> None:
    fields = Fields()
    assert call("fields.append", fields, "Content-Length", value) == (None if kept else SYNTAX)
    assert call("fields.get", fields, "content-length") == ([kept] if kept else [])
    assert call("fields.set", fields, "content-length", [value]) == (None if kept else SYNTAX)
    made = call("fields.from-list", [("content-length", value)])
    assert made.pairs == [("content-length", kept)] if kept else made == SYNTAX


def test_fields_that_are_too_large(call: Callable[..., Any]) -> None:
    """They are as they were, and can be added to."""
    fields, large = Fields([("a", b"1")]), bytes(b"x" * MAX_FIELDS)
    assert call("fields.append", fields, "b", large) == SIZE_EXCEEDED
    assert call("fields.set", fields, "a", [b"2", large]) == SIZE_EXCEEDED
    assert fields.pairs == [("a", b"1")]
    assert call("fields.append", fields, "c", large[:-3]) is None
    assert call("fields.append", fields, "d", b"") == SIZE_EXCEEDED
    assert call("fields.delete", fields, "c") is None
    assert call("fields.append", fields, "d", b"") is None
    assert call("fields.from-list", [("a", large)]) == SIZE_EXCEEDED


# Messages


@pytest.fixture
def request_(call: Callable[..., Any], ctx: Any) -> Request:
    made, _ = call("request.new", Fields([("a", b"1")]), None, future(ctx, Ok(None)), None)
    assert isinstance(made, Request)
    return made


def test_a_new_request(call: Callable[..., Any], request_: Request) -> None:
    assert call("request.get-method", request_) == ("get", None)
    for name in ("path-with-query", "scheme", "authority", "options"):
        assert call(f"request.get-{name}", request_) is None
    headers = call("request.get-headers", request_)
    assert call("fields.append", headers, "b", b"1") == IMMUTABLE
    copy = call("fields.clone", headers)
    assert call("fields.append", copy, "b", b"1") is None
    assert call("fields.copy-all", headers) == [("a", b"1")]


@pytest.mark.parametrize(
    ("what", "values"),
    [
        (
            "method",
            {
                **{("other", name): ("other", name) for name in ("FOO", "get", "M-S!")},
                **{("other", name.upper()): (name, None) for name in ("get", "head", "patch", "connect")},
                **{("other", name): None for name in ("", "a b", "\u00e9", "a\n")},
            },
        ),
        (
            "scheme",
            {
                **{
                    ("other", name): ("other", name)
                    for name in ("HTTP", "ftp", "a+b-c.d", "1a", "", "x" * 64)
                },
                **{("other", name): (name.upper(), None) for name in ("http", "https")},
                **{("other", name): None for name in ("a b", "a:", "a_b", "x" * 65, "\u00e9")},
            },
        ),
        (
            "path-with-query",
            {
                **{name: name.partition("#")[0] or "/" for name in TARGETS},
                "#": "/",
                "#a": "/",
                "/a?b#c": "/a?b",
                "/a# <>": "/a",
                **{name: None for name in NO_TARGETS if "#" not in name},
            },
        ),
        ("authority", {**{name: name for name in AUTHORITIES}, **dict.fromkeys(NO_AUTHORITIES)}),
    ],
)
def test_what_a_guest_sets(call: Callable[..., Any], request_: Request, what: str, values: Any) -> None:
    """It finds it in its simplest form; what is refused changes nothing."""
    last = call(f"request.get-{what}", request_)
    for value, found in values.items():
        said = call(f"request.set-{what}", request_, value)
        assert said == (FAILED if found is None else None), value
        last = last if found is None else found
        assert call(f"request.get-{what}", request_) == last, value
    if what != "method":
        assert call(f"request.set-{what}", request_, None) is None
        assert call(f"request.get-{what}", request_) is None


@pytest.mark.parametrize("status", [0, 99, 100, 103, 200, 599, 600, 999, 1000, 65535])
def test_status(call: Callable[..., Any], ctx: Any, status: int) -> None:
    response, _ = call("response.new", Fields(), None, future(ctx, Ok(None)))
    allowed = 100 <= status <= 599
    assert call("response.set-status-code", response, status) == (None if allowed else FAILED)
    assert call("response.get-status-code", response) == (status if allowed else 200)


def test_options(call: Callable[..., Any], ctx: Any) -> None:
    options = call("request-options")
    assert call("request-options.set-connect-timeout", options, 5) is None
    request, _ = call("request.new", Fields(), None, future(ctx, Ok(None)), options)
    given = call("request.get-options", request)
    assert call("request-options.get-connect-timeout", given) == 5
    for name in ("connect", "first-byte", "between-bytes"):
        assert call(f"request-options.set-{name}-timeout", given, 6) == IMMUTABLE
    copy = call("request-options.clone", given)
    assert isinstance(copy, Options)
    assert call("request-options.set-connect-timeout", copy, 7) is None
    assert call("request-options.get-connect-timeout", given) == 5


# Bodies


def taken(ctx: Any, stream: Any) -> bytes:
    """The whole of a stream of the host."""
    found: list[bytes] = []
    while data := ctx.run(stream.take(3))[0][1]:
        found.append(data)
    stream.drop()
    return b"".join(found)


@pytest.mark.parametrize("kind", ["request", "response"])
@pytest.mark.parametrize("result", [Ok(), Err(("loop-detected", None))])
def test_a_message_of_the_guest_that_it_consumes_itself(
    call: Callable[..., Any], ctx: Any, kind: str, result: Any
) -> None:
    """Its contents and trailers come out as they went in; whoever made it hears the result."""
    trailers = Fields([("x", b"1")])
    options = (None,) if kind == "request" else ()
    message, sent = call(
        f"{kind}.new", Fields(), contents(ctx, b"hello"), future(ctx, Ok(trailers)), *options
    )
    heard = told(sent)
    stream, after = call(f"{kind}.consume-body", message, future(ctx, result))
    assert heard == [result]
    assert taken(ctx, stream) == b"hello"
    assert ctx.run(after.value())[0][1] == Ok(trailers)


@pytest.mark.parametrize("kind", ["request", "response"])
def test_a_message_that_is_dropped_was_not_sent(call: Callable[..., Any], ctx: Any, kind: str) -> None:
    options = (None,) if kind == "request" else ()
    message, sent = call(f"{kind}.new", Fields(), contents(ctx, b"a"), future(ctx, Ok(None)), *options)
    heard = told(sent)
    F[f"[resource-drop]{kind}"](ctx, message)
    assert [type(one) for one in heard] == [Err]


@pytest.mark.parametrize(
    ("pairs", "found"),
    [(None, None), ((), None), ((("x", "1"), ("host", "h"), ("upgrade", "u")), [("x", b"1")])],
)
@pytest.mark.parametrize("read", [True, False])
def test_trailers(call: Callable[..., Any], ctx: Any, pairs: Any, found: Any, read: bool) -> None:
    """They come at the end of the body; without it, if the guest drops that, there are none."""
    trailers = None if pairs is None else lambda: Headers(pairs)
    response = Response(Fields(), Received(BytesInput(b"abcdef"), trailers))
    stream, after = call("response.consume-body", response, future(ctx, Ok()))
    heard = told(after)
    ctx.run(stream.take(2))
    assert heard == []
    if read:
        assert taken(ctx, stream) == b"cdef"
    else:
        stream.drop()
    [end] = heard
    assert isinstance(end, Ok)
    pairs_found = end.value and end.value.pairs
    assert pairs_found == (found if read else None)
    assert NO_HEADERS.pairs == ()
