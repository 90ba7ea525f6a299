"""Two answers: which differences count, how they are told, and what is kept of them."""

from __future__ import annotations

import gzip
import json
import time
import zlib
from typing import Any

import pytest

from wasm_gateway.component_options import ComponentOptions
from wasm_gateway.messages import Headers, Request
from wasm_gateway.migration.compare import (
    MAX_BODY,
    MAX_DIFFERENCE,
    MAX_DIFFERENCES,
    Answer,
    Comparison,
    html_lines,
    redacted_target,
)

REQUEST = Request("GET", "/a/b", "x=1", authority="x.test")


def answer(body: bytes | str = b"", status: int = 200, **headers: str) -> Answer:
    pairs = [(name.replace("_", "-"), value) for name, value in headers.items()]
    return Answer(status, Headers(pairs), body.encode() if isinstance(body, str) else body)


def differences(
    native: Answer, guest: Answer, request: Request = REQUEST, function: Any = None, **options: Any
) -> list[str]:
    return Comparison(ComponentOptions().updated(options), function).differences(request, native, guest)


def test_status() -> None:
    assert differences(answer(), answer()) == []
    assert differences(answer(), answer(status=404)) == ["status: 200, guest 404"]


@pytest.mark.parametrize(
    ("name", "one", "other"),
    [
        ("content_type", "text/html; charset=UTF-8", "text/html;charset=utf-8"),
        ("vary", "Cookie, Accept", "accept,cookie"),
        ("location", "/a/c", "http://x.test/a/c"),
        ("location", "c", "/a/c"),
        ("cache_control", "Max-Age=5, private", "max-age=5,private"),
        ("x_other", "1", "2"),
        ("date", "then", "now"),
    ],
)
def test_headers_that_mean_the_same(name: str, one: str, other: str) -> None:
    assert differences(answer(**{name: one}), answer(**{name: other})) == []


@pytest.mark.parametrize(
    ("name", "one", "other"),
    [
        ("content-type", "text/html", "text/plain"),
        ("vary", "cookie", "accept"),
        ("location", "/a/c", "https://x.test/a/c"),
        ("cache-control", "private", "public"),
    ],
)
def test_headers_that_differ(name: str, one: str, other: str) -> None:
    key = name.replace("-", "_")
    [found] = differences(answer(**{key: one}), answer(**{key: other}))
    assert found == f"{name}: {one!r}, guest {other!r}"
    [found] = differences(answer(**{key: one}), answer())
    assert found.endswith("guest none")


def test_headers_are_chosen() -> None:
    one, other = answer(x_version="1", vary="a"), answer(x_version="2")
    assert differences(one, other, compare_headers=["X-Version"]) == ["x-version: '1', guest '2'"]


def test_cookies_are_compared_by_their_names() -> None:
    one = Answer(200, Headers([("set-cookie", "a=1"), ("set-cookie", "b=2; Path=/")]))
    other = Answer(200, Headers([("set-cookie", "b=3"), ("set-cookie", "a=4")]))
    assert differences(one, other) == []
    assert differences(one, answer(set_cookie="a=1")) == ["set-cookie: a, b, guest a"]


# Bodies


def test_bytes() -> None:
    assert differences(answer("a\nb\nc"), answer("a\nb\nc")) == []
    assert differences(answer("a\nb\nc\n"), answer("a\nB\nB\nc\n")) == [
        "body: 1 lines from line 2, guest 2",
        "- b",
        "+ B",
        "+ B",
    ]
    assert differences(answer("a\n"), answer("a\r\n")) == ["body: other ends of lines"]
    assert differences(answer("a"), answer("b"), compare_body="none") == []
    assert len(differences(answer(bytes(range(256))), answer(b"\xff\xfe\n"))) > 1


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_compression_does_not_count(encoding: str) -> None:
    pack = gzip.compress if encoding == "gzip" else zlib.compress
    packed = Answer(200, Headers([("content-encoding", encoding)]), pack(b"the body"))
    assert differences(packed, answer("the body")) == []
    assert differences(packed, answer("a body"))[1:] == ["- the body", "+ a body"]
    broken = Answer(200, Headers([("content-encoding", encoding)]), b"not packed")
    assert differences(broken, answer("not packed")) == []
    bomb = Answer(200, Headers([("content-encoding", encoding)]), pack(bytes(64 << 20)))
    assert differences(bomb, answer("a")) != []


def test_bodies_that_http_does_not_have() -> None:
    assert differences(answer("a"), answer(""), Request("HEAD", "/")) == []
    assert differences(answer("", status=304), answer("x", status=304)) == []


JSON = {"content_type": "application/json"}


def json_differences(native: Any, guest: Any, *ignore: str, **options: Any) -> list[str]:
    one, other = (answer(json.dumps(value), content_type="application/json") for value in (native, guest))
    return differences(one, other, compare_ignore=list(ignore), **options)


def test_json_is_compared_by_its_values() -> None:
    one = answer('{"a": 1, "b": [1.0, "é"]}', **JSON)
    other = answer('{"b":[1,"\\u00e9"],"a":1}', content_type="application/json")
    assert differences(one, other) == []
    assert differences(one, other, compare_body="bytes") != []
    assert differences(answer("[1]", **JSON), answer("[1", **JSON))[1:] == ["- [1]", "+ [1"]


@pytest.mark.parametrize(
    ("native", "guest", "expected"),
    [
        ({"a": {"b": [1, 2]}}, {"a": {"b": [1, 3]}}, ["/a/b/1: 2, guest 3"]),
        ({"a": 1}, {"b": 1}, ["/a: 1, guest nothing", "/b: nothing, guest 1"]),
        ([1, 2, 3], [1, 2], ["/: 3 items, guest 2"]),
        ({"a": [1]}, {"a": {"0": 1}}, ["/a: a list of 1, guest an object of 1"]),
        (True, 1, ["/: true, guest 1"]),
        ({"a": None}, {}, ["/a: null, guest nothing"]),
        ({"x/y": {"~": "1"}}, {"x/y": {"~": "2"}}, ['/x~1y/~0: "1", guest "2"']),
        ({"api_key": "a"}, {"api_key": "b"}, ["/api_key: [redacted], guest [redacted]"]),
    ],
)
def test_json_that_differs(native: Any, guest: Any, expected: list[str]) -> None:
    assert json_differences(native, guest) == expected


@pytest.mark.parametrize(
    ("path", "equal"),
    [
        ("/items", True),
        ("/items/*", True),
        ("/items/*/at", True),
        ("/*/*/at", True),
        ("/items/0/at", False),
        ("/items/*/n", False),
        ("/items/*/at/more", False),
        ("/item", False),
    ],
)
def test_json_with_paths_that_do_not_count(path: str, equal: bool) -> None:
    one = {"at": 1, "a/b": 1, "items": [{"at": 1, "n": 1}, {"at": 2, "n": 2}]}
    other = {"at": 2, "a/b": 2, "items": [{"at": 3, "n": 1}, {"at": 4, "n": 2}]}
    assert (json_differences(one, other, "/at", "/a~1b", path) == []) is equal
    assert json_differences(one, other, path) != []


PAGE = """<!DOCTYPE html><!-- made then --><html><body class="b a"  id=x>
  <form><input type='hidden' name="csrfmiddlewaretoken" value="one"><p>Some   text</form>
  <script nonce="one">let a = 1;</script></body></html>"""


def test_html_is_compared_by_what_it_means() -> None:
    other = (
        '<!doctype html>\n<html><body id="x" class="a b"><form>'
        '<input name="csrfmiddlewaretoken" value="two" type="hidden">\n<p>Some text</form>'
        '<script nonce="two">let a = 1;</script><!-- made now --></body></html>\n'
    )
    kind = "text/html; charset=utf-8"
    assert differences(answer(PAGE, content_type=kind), answer(other, content_type=kind)) == []
    changed = other.replace("Some", "Other")
    assert differences(answer(PAGE, content_type=kind), answer(changed, content_type=kind)) == [
        "body: 1 lines from line 7, guest 1",
        "- Some text",
        "+ Other text",
    ]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("<p>a</p>", "<p>b</p>"),
        ("<p>a</p>", "<b>a</b>"),
        ('<a href="/x">a</a>', '<a href="/y">a</a>'),
        ('<input name="age" value="1">', '<input name="age" value="2">'),
        ("<p>a", "<p>a<p"),
        ("<b>a</b>", "<b>a"),
    ],
)
def test_html_that_differs(one: str, other: str) -> None:
    assert differences(answer(one), answer(other), compare_body="html") != []


@pytest.mark.parametrize(
    "page", ["<![foo[", "<![if x", "<!doctype [<!x", "<![CDATA[x]]>", "<!>", "<![", "</ x"]
)
def test_declarations_that_are_none(page: str) -> None:
    assert differences(answer(f"<p>{page}>"), answer("<p>a"), compare_body="html") != []
    assert differences(answer(f"<p>{page}>"), answer(f"<p>{page}>"), compare_body="html") == []
    Comparison(ComponentOptions(compare_body="html")).kept(answer(page), answer("<p>"))


@pytest.mark.parametrize(
    "piece",
    [
        "<!--",
        "<",
        "<a ",
        "<a b='",
        "</",
        "<![CDATA[",
        "<?",
        "<script>",
        "&#",
        "&",
        "<a b=1 ",
        "<!a",
        '<a "',
        "x>",
    ],
)
def test_hostile_pages_take_no_time(piece: str) -> None:
    """html.parser alone needs minutes for some of these."""
    begin = time.process_time()
    html_lines(b"<p>" + piece.encode() * ((1 << 20) // len(piece)))
    assert time.process_time() - begin < 30


@pytest.mark.parametrize(
    "body",
    [
        b"[" * (1 << 20),
        b"[" * 900 + b"1," * 400_000 + b"1" + b"]" * 900,
        b'{"a":' * 500 + b"[]" + b"}" * 500,
        b"[" + b"[]," * 300_000 + b"[]]",
        b"1" * (1 << 20),
        b'{"' + b"k" * (1 << 20) + b'": 1}',
        b"\xff" * (1 << 20),
        b"\n" * (1 << 20),
    ],
)
def test_hostile_json_takes_little(body: bytes) -> None:
    begin = time.process_time()
    one, other = answer(body, **JSON), answer(body + b" 1", **JSON)
    comparison = Comparison(ComponentOptions())
    third = answer("[]", **JSON)
    for guest in (other, third):
        found = comparison.differences(REQUEST, one, guest)
        assert 0 < len(found) <= MAX_DIFFERENCES
        assert all(len(line) <= MAX_DIFFERENCE + 10 for line in found)
        kept = comparison.kept(one, guest)
        assert all(len(json.dumps(each)) < 20 * MAX_BODY for each in kept)
    assert time.process_time() - begin < 60


def test_differences_are_few_and_short() -> None:
    one = {f"k{number}": "x" * 1000 for number in range(100)}
    found = json_differences(one, {})
    assert len(found) == MAX_DIFFERENCES
    assert all(len(line) <= MAX_DIFFERENCE + 4 for line in found)
    assert found[-1].startswith("and ")


# The site's own


def test_a_function_of_the_site() -> None:
    seen: list[Answer] = []

    def compare(native: Answer, guest: Answer) -> list[str]:
        seen.extend((native, guest))
        return ["token=t0psecret", "b" * 1000]

    one, other = answer("a"), answer("b", status=404)
    found = differences(one, other, function=compare)
    assert seen == [one, other]
    assert found[0] == "status: 200, guest 404"
    assert found[1] == "token=[redacted]"
    assert len(found[2]) <= MAX_DIFFERENCE + 4


def test_a_function_that_fails(caplog: pytest.LogCaptureFixture) -> None:
    found = differences(answer(), answer(), function=lambda native, guest: 1 // 0)
    assert found == ["the site's own comparison failed: ZeroDivisionError"]
    assert "ZeroDivisionError" in caplog.text


# What is kept


def test_what_is_kept_begins_before_the_difference() -> None:
    lines = [f"line {number}" for number in range(10_000)]
    other = [*lines[:5000], "changed", *lines[5001:]]
    kept, guest = Comparison(ComponentOptions()).kept(
        answer("\n".join(lines), status=201, content_type="text/plain", x_other="1"),
        answer("\n".join(other)),
    )
    assert kept["status"] == 201
    assert kept["headers"] == [["content-type", "text/plain"]]
    assert "line 4999\nline 5000\n" in kept["body"]
    assert "line 4999\nchanged\n" in guest["body"]
    assert kept["body"].startswith("line ")
    assert len(kept["body"]) <= MAX_BODY
    assert kept["length"] == len("\n".join(lines))


def test_secrets_are_not_kept() -> None:
    comparison = Comparison(ComponentOptions())
    for kind, body in (
        ("application/json", '{"a": 1, "password": "t0psecret", "b": {"token": ["t0psecret"]}}'),
        ("text/html", '<form><input name="token" value="t0psecret"><p>key: t0psecret</form>'),
        ("text/plain", "one\nsession_id=t0psecret\ntwo"),
        ("application/octet-stream", "Authorization: Bearer t0psecret"),
    ):
        one = Answer(200, Headers([("content-type", kind), ("set-cookie", "sid=t0psecret")]), body.encode())
        other = Answer(500, Headers([("content-type", kind)]), body.replace("t0ps", "T0ps").encode())
        found = [*comparison.differences(REQUEST, one, other), *comparison.kept(one, other)]
        assert "t0psecret" not in json.dumps(found).lower()


def test_targets() -> None:
    assert redacted_target(Request("GET", "/a", "token=1&b=2")) == "/a?token=[redacted]&b=2"
    assert len(redacted_target(Request("GET", "/" + "a b" * 100_000, "c=1&" * 10_000))) <= 1000
