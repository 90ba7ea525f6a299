"""wasi:http/types as functions: fields, and what an outgoing message may be told.

Where RFC and WIT leave a choice, the tables have what `wasmtime serve` 49 answers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from wasm_gateway.component.values import Err
from wasm_gateway.host.wasi_http import (
    FAILED,
    FORBIDDEN_NAME,
    IMMUTABLE,
    SYNTAX,
    Fields,
    OutgoingRequest,
    OutgoingResponse,
    WasiHttp,
)

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
