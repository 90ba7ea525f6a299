"""Secrets are not kept, wherever they stand."""

from __future__ import annotations

import json
import time

import pytest

from wasm_gateway.migration import redact

GONE = redact.REDACTED


@pytest.mark.parametrize(
    ("name", "value", "kept"),
    [
        ("set-cookie", "sid=abc; Path=/", f"sid={GONE}"),
        ("cookie", "sid=abc", GONE),
        ("authorization", "Basic YTpi", GONE),
        ("x-api-key", "abc", GONE),
        ("content-type", "text/html; charset=utf-8", "text/html; charset=utf-8"),
        ("location", "/login?next=/a&token=abc", f"/login?next=/a&token={GONE}"),
        ("www-authenticate", "Bearer abc", GONE),
        ("cache-control", "private", "private"),
    ],
)
def test_headers(name: str, value: str, kept: str) -> None:
    assert redact.header(name, value) == kept


@pytest.mark.parametrize(
    ("target", "kept"),
    [
        ("/a", "/a"),
        ("/a?b=1&c", "/a?b=1&c"),
        ("/a?", "/a?"),
        ("/a?sessionid=x&b=2", f"/a?sessionid={GONE}&b=2"),
        ("/a?access_token=x", f"/a?access_token={GONE}"),
        ("/a?token", "/a?token"),
        ("/reset/0123456789abcdef0123456789abcdef", f"/reset/{GONE}"),
        ("https://user:word@x.test/", f"https{GONE}x.test/"),
        ("/a?author=me", "/a?author=me"),
    ],
)
def test_targets(target: str, kept: str) -> None:
    assert redact.target(target) == kept


@pytest.mark.parametrize(
    "text",
    [
        "password=t0psecret",
        "my-password : t0psecret",
        'the "client_secret": "t0psecret"',
        "session_key='t0psecret with spaces'",
        "Authorization: t0psecret",
        "sent Bearer t0psecret",
        "eyJhbGciOiJIUzI1NiJ9.t0psecret.t0psecret",
        "CSRFToken=t0psecret&x=1",
    ],
)
def test_text(text: str) -> None:
    kept = redact.text(f"before {text} after")
    assert "t0psecret" not in kept
    assert kept.startswith("before ")
    assert GONE in kept


@pytest.mark.parametrize(
    "text", ["the author: Ada", "a = 1", "12:30", "https://x.test/a", "count: 3, total: 4"]
)
def test_text_that_tells_nothing(text: str) -> None:
    assert redact.text(text) == text


def test_json() -> None:
    value = {"user": {"name": "Ada", "password": ["a", "b"], "n": 1}, "items": [{"apiKey": "x", "id": None}]}
    expected = {"user": {"name": "Ada", "password": GONE, "n": 1}, "items": [{"apiKey": GONE, "id": None}]}
    assert redact.json_value(value) == expected
    assert redact.json_value("password=x y") == f"password={GONE} y"


@pytest.mark.parametrize(
    ("line", "kept"),
    [
        ('<input name="token" value="x">', f'<input name="token" value="{GONE}">'),
        ('<input type="password" value="x">', f'<input type="password" value="{GONE}">'),
        ('<meta content="x" name="csrf-token">', f'<meta content="{GONE}" name="csrf-token">'),
        ('<input name="age" value="7">', '<input name="age" value="7">'),
    ],
)
def test_tags(line: str, kept: str) -> None:
    assert redact.html_tag(line) == kept


@pytest.mark.parametrize(
    "piece",
    ["a", "key", "key ", 'key="', "key: '", "eyJ-", "eyJ.", "://a:", "Basic ", "a-", "0", '"', "key=\n"],
)
def test_nothing_takes_long(piece: str) -> None:
    """A pattern that began again at each character would take minutes."""
    text = piece * (redact.MAX_TEXT // len(piece))
    begin = time.process_time()
    redact.text(text)
    redact.html_tag(f"<{text}")
    redact.target(f"/{text}?{text}")
    assert time.process_time() - begin < 20


def test_what_is_kept_is_bounded() -> None:
    assert len(redact.text("x" * (1 << 20))) == redact.MAX_TEXT
    assert json.dumps(redact.json_value({"a": "x " * (1 << 20)})).count("x") == redact.MAX_TEXT // 2
