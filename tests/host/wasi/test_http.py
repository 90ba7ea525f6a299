"""wasi:http/types as functions: fields, and what an outgoing message may be told.

Where RFC and WIT leave a choice, the tables have what `wasmtime serve` 49 answers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from wasm_gateway.component.values import Err, Ok
from wasm_gateway.errors import LimitExceeded
from wasm_gateway.host.wasi import io as wasi_io
from wasm_gateway.host.wasi.http import (
    FAILED,
    FORBIDDEN_NAME,
    IMMUTABLE,
    MAX_FIELDS,
    MAX_URI,
    SYNTAX,
    Fields,
    IncomingBody,
    OutgoingRequest,
    OutgoingResponse,
    WasiHttp,
)
from wasm_gateway.messages import Headers

F = WasiHttp.FUNCTIONS


@pytest.fixture
def call(context: Callable[..., Any]) -> Callable[..., Any]:
    """`call("fields.set", fields, "a", [b"1"])`"""
    ctx = context()

    def call(name: str, *arguments: Any) -> Any:
        found = next(F[kind + name] for kind in ("[method]", "[static]", "[constructor]") if kind + name in F)
        return found(ctx, *arguments)

    return call


# name -> what append, set and delete say of it
NAMES = {
    "x-a": None,
    "X-Up": None,
    "content-length": None,
    "te": None,
    "trailer": None,
    "date": None,
    "status": None,
    "connection": FORBIDDEN_NAME,
    "Keep-Alive": FORBIDDEN_NAME,
    "host": FORBIDDEN_NAME,
    "transfer-encoding": FORBIDDEN_NAME,
    "upgrade": FORBIDDEN_NAME,
    "proxy-connection": FORBIDDEN_NAME,
    "proxy-authenticate": FORBIDDEN_NAME,
    "proxy-authorization": FORBIDDEN_NAME,
    "http2-settings": FORBIDDEN_NAME,
    "": SYNTAX,
    "a b": SYNTAX,
    "a:b": SYNTAX,
    "\u00e9": SYNTAX,
}


@pytest.mark.parametrize(("name", "said"), NAMES.items())
def test_names(call: Callable[..., Any], name: str, said: Any) -> None:
    fields = Fields()
    assert call("fields.append", fields, name, b"1") == said
    assert call("fields.set", fields, name, [b"2", b"3"]) == said
    assert call("fields.get", fields, name) == ([] if said else [b"2", b"3"])
    assert call("fields.has", fields, name.upper()) is (said is None)
    assert call("fields.delete", fields, name) == said
    assert fields.pairs == []
    assert isinstance(call("fields.from-list", [("x", b""), (name, b"1")]), Err if said else Fields)
    # a mistake in the name counts before the fields are found to be fixed
    fixed = Fields([("x-a", b"1")], mutable=False)
    for function, arguments in (("append", [b"1"]), ("set", [[b"1"]]), ("delete", [])):
        assert call(f"fields.{function}", fixed, name, *arguments) == (said or IMMUTABLE)
    assert fixed.pairs == [("x-a", b"1")]


@pytest.mark.parametrize(
    ("value", "said"),
    [
        *((value, None) for value in (b"", b" ", b"\t", b"  pad  ", b"\xff\xfe", b"\x80")),
        *((value, SYNTAX) for value in (b"a\nb", b"a\rb", b"a\0", b"\x1f", b"\x7f")),
    ],
)
def test_values(call: Callable[..., Any], value: bytes, said: Any) -> None:
    fields = Fields()
    assert call("fields.append", fields, "a", value) == said
    assert call("fields.set", fields, "b", [b"1", value]) == said
    assert fields.pairs == ([] if said else [("a", value), ("b", b"1"), ("b", value)])


def test_copies(call: Callable[..., Any]) -> None:
    fixed = Fields([("b", b"1"), ("a", b"2"), ("b", b"3")], mutable=False)
    copy = call("fields.clone", fixed)
    assert call("fields.set", copy, "B", []) is None
    assert call("fields.entries", copy) == [("a", b"2")]
    assert call("fields.get", fixed, "B") == [b"1", b"3"]


@pytest.mark.parametrize("status", [0, 99, 100, 101, 200, 418, 600, 999, 1000, 65535])
def test_status(call: Callable[..., Any], status: int) -> None:
    response = OutgoingResponse(Fields())
    allowed = 100 <= status <= 999
    assert call("outgoing-response.set-status-code", response, status) == (None if allowed else FAILED)
    assert call("outgoing-response.status-code", response) == (status if allowed else 200)


AUTHORITIES = (
    *("a", "a:1", "u@a", "u:p@h:1", "@a", "[::1]", "[::1]:80", ":80", "a.", "a..b"),
    *("a:65535", "a:00080", "1.2.3.4:5", "a!$&'()*+,;=~b", "a%zz@b"),
)
NO_AUTHORITIES = (
    *("", "a:65536", "a:99999", "a b", "\u00e9", "a/b", "a:b", "a?b", "a#b", "::1", "a:", ":", "@", "a@"),
    *("a:-1", "[", "]", "a[", "[::1", "%41", "a\\b", 'a"b', "a\nb"),
)
TARGETS = (
    *("", "/", "//x", "?a", "?", "??", "/a#b", "/?a#b", "/%zz", "/\u00e9", "/?\u00e9", "/\U0001f600"),
    *('/a"b', "/a{}|\\^[]b", "/?a{}|\\^`[]b"),
)
NO_TARGETS = (
    *("a", "a/b", "*", "*?", "#", "#a", "http://a/b", "/a b", "/a\nb", "/a<b", "/a>b", "/a`b", "/a\x7fb"),
    *("/?a b", '/?a"b', "/?a<b", "/?a>b", "/?a\0b"),
)
SCHEMES = (("HTTP", None), ("HTTPS", None), ("other", "ftp"), ("other", "a+b.c-1"), None)
NO_SCHEMES = (("other", "x y"), ("other", ""), ("other", "1"), ("other", "a_b"), ("other", "\u00e9"))
METHODS = (("get", None), ("patch", None), ("other", "PURGE"))
NO_METHODS = (("other", "x y"), ("other", ""), ("other", "a\n"))


@pytest.mark.parametrize(
    ("what", "good", "bad"),
    [
        ("authority", AUTHORITIES, NO_AUTHORITIES),
        ("path-with-query", TARGETS, NO_TARGETS),
        ("scheme", SCHEMES, NO_SCHEMES),
        ("method", METHODS, NO_METHODS),
    ],
)
def test_outgoing_requests(call: Callable[..., Any], what: str, good: Any, bad: Any) -> None:
    request = OutgoingRequest(Fields())
    for value in good:
        assert call(f"outgoing-request.set-{what}", request, value) is None, value
        assert call(f"outgoing-request.{what}", request) == value
    last = good[-1]
    for value in bad:
        assert call(f"outgoing-request.set-{what}", request, value) == FAILED, value
        assert call(f"outgoing-request.{what}", request) == last


@pytest.mark.parametrize(("what", "form"), [("path-with-query", "/{}"), ("authority", "{}.x")])
def test_a_uri_is_not_longer_than_one_can_be(call: Callable[..., Any], what: str, form: str) -> None:
    """What is not ASCII is quoted, which takes far more memory than the guest has of it."""
    request, room = OutgoingRequest(Fields()), MAX_URI - len(form.format(""))
    assert call(f"outgoing-request.set-{what}", request, form.format("a" * room)) is None
    assert call(f"outgoing-request.set-{what}", request, form.format("a" * (room + 1))) == FAILED


@pytest.mark.parametrize("of", ["request", "response"])
@pytest.mark.parametrize("written", [(b"ab",), (b"ab", b"c"), (b"abcd",), (b"abc", b"d")])
def test_a_body_is_as_long_as_it_was_said_to_be(
    call: Callable[..., Any], context: Callable[..., Any], of: str, written: tuple[bytes, ...]
) -> None:
    message = call(f"outgoing-{of}", Fields([("content-length", b"3")]))
    body = call(f"outgoing-{of}.body", message)
    stream, ctx = call("outgoing-body.write", body), context()
    size = 0
    for data in written:
        size += len(data)
        assert wasi_io.check_write(ctx, stream) > 0
        result = wasi_io.write(ctx, stream, data)
        if size <= 3:
            assert result is None
        else:
            case, error = result.value
            assert (case, error.http_code) == ("last-operation-failed", (f"HTTP-{of}-body-size", size))
    assert call("outgoing-body.finish", body, None) == (
        None if size == 3 else Err((f"HTTP-{of}-body-size", size))
    )
    assert body.finished is (size == 3)
    assert wasi_io.check_write(ctx, stream) == Err(("closed", None))


# Trailers of what comes in


class Pieces(wasi_io.InputStream):
    """A stream that has what `pieces` says at each read: b"" for nothing yet, or raises it."""

    def __init__(self, *pieces: bytes | Exception) -> None:
        self.pieces = [*pieces]
        self.wanted = True

    def read(self, ctx: Any, length: int) -> bytes:
        piece = self.pieces[0]
        if isinstance(piece, Exception):
            raise piece
        return self.pieces.pop(0)

    def abandon(self) -> None:
        self.wanted = False


BROKEN = wasi_io.StreamFailed(wasi_io.IoError("reset", ("connection-terminated", None)))


@pytest.mark.parametrize(
    ("end", "trailers", "found"),
    [
        (wasi_io.StreamClosed(), None, Ok(None)),
        (wasi_io.StreamClosed(), Headers(), Ok(None)),
        (wasi_io.StreamClosed(), Headers([("Host", "x")]), Ok(None)),
        (wasi_io.StreamClosed(), Headers([("X", "\xe9"), ("te", "y")]), [("x", b"\xe9"), ("te", b"y")]),
        (BROKEN, Headers([("x", "y")]), Err(("connection-terminated", None))),
        (wasi_io.StreamFailed(wasi_io.IoError("odd")), None, Err(("internal-error", "odd"))),
    ],
)
def test_trailers(call: Callable[..., Any], end: Exception, trailers: Headers | None, found: Any) -> None:
    content = Pieces(b"ab", b"", b"c", end)
    body = IncomingBody(content, None if trailers is None else lambda: trailers)
    future = call("incoming-body.finish", body)
    assert call("future-trailers.get", future) is None
    assert len(content.pieces) == 4  # nobody has waited for it yet
    pollable = call("future-trailers.subscribe", future)
    assert not pollable.ready()
    assert call("future-trailers.get", future) is None
    assert pollable.ready()
    got = call("future-trailers.get", future)
    if isinstance(found, list):
        fields = got.value.value
        assert (fields.pairs, fields.mutable) == (found, False)
    else:
        assert got == Ok(found)
    assert call("future-trailers.get", future) == Err(None)
    assert content.wanted
    F["[resource-drop]future-trailers"](None, future)
    assert not content.wanted


def test_trailers_of_what_is_there_whole(call: Callable[..., Any], context: Callable[..., Any]) -> None:
    for content in (wasi_io.BytesInput(b"abc"), wasi_io.IteratorInput([b"a", b"", b"bc"])):
        future = call("incoming-body.finish", IncomingBody(content, None))
        assert call("future-trailers.get", future) is None
        assert wasi_io.blocking_read(context(), content, 4) in (b"abc", b"a")
        wasi_io.blocking_read(context(), content, 4)
        wasi_io.blocking_read(context(), content, 4)
        assert call("future-trailers.get", future) == Ok(Ok(None))


def test_what_follows_an_outgoing_body(call: Callable[..., Any], context: Callable[..., Any]) -> None:
    body = call("outgoing-response.body", OutgoingResponse(Fields()))
    trailers = Fields()
    call("fields.append", trailers, "X", b"\xe9")
    assert call("outgoing-body.finish", body, trailers) is None
    assert body.trailers == Headers([("x", "\xe9")])
    call("fields.append", trailers, "y", bytes(MAX_FIELDS - 3).replace(b"\0", b"y"))
    with pytest.raises(LimitExceeded):
        call("fields.append", trailers, "z", b"")
