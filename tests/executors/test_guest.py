"""What every dialect's requests and responses are checked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import SimpleNamespace

import pytest

from wasm_gateway.errors import BodyTooLarge, GuestError, LimitExceeded
from wasm_gateway.executors.guest import (
    MAX_RESPONSE_HEADERS,
    SlowBody,
    UndecodableHeader,
    checked_headers,
    complete,
    decoded,
    whole_body,
)
from wasm_gateway.messages import Headers, Request


def test_header_values_are_given_to_guests_as_text() -> None:
    headers = Headers([("A", "plain"), ("b", "caf\xc3\xa9")])
    assert decoded(headers) == [("a", "plain"), ("b", "café")]


def test_a_header_value_that_is_not_utf8_is_a_500() -> None:
    with pytest.raises(UndecodableHeader, match="'b' is not UTF-8") as caught:
        decoded(Headers([("b", "caf\xe9")]))
    assert caught.value.status == 500


def test_response_headers_keep_the_last_of_a_name_and_become_bytes() -> None:
    headers = checked_headers([("Set-Cookie", "a"), ("X", "é"), ("set-cookie", "b"), ("tab", "a\tb")])
    assert list(headers) == [("set-cookie", "b"), ("x", "\xc3\xa9"), ("tab", "a\tb")]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("", "x"),
        ("two words", "x"),
        ("colon:", "x"),
        ("new\nline", "x"),
        ("é", "x"),
        ("x", "a\r\nset-cookie: stolen=1"),
        ("x", "a\0b"),
        ("x", "\x7f"),
    ],
)
def test_headers_that_http_does_not_allow(name: str, value: str) -> None:
    with pytest.raises(GuestError, match="invalid header"):
        checked_headers([(name, value)])


def test_a_million_headers_end_at_the_limit() -> None:
    taken = 0

    def endless() -> Iterator[tuple[str, str]]:
        nonlocal taken
        for number in range(1_000_000):
            taken += 1
            yield f"x-{number}", "v" * 20

    with pytest.raises(LimitExceeded):
        checked_headers(endless())
    assert taken < MAX_RESPONSE_HEADERS / 20


def test_a_body_is_read_to_its_limit_and_no_further() -> None:
    asked = 0

    def endless() -> Iterator[bytes]:
        nonlocal asked
        while True:
            asked += 1
            yield b"x" * 1000

    with pytest.raises(BodyTooLarge) as caught:
        whole_body(Request("POST", "/", body=endless()), 10_000, 60.0)
    assert caught.value.status == 413
    assert asked == 11


@pytest.mark.parametrize(("body", "whole"), [((), b""), ((b"ab",), b"ab"), ((b"a", b"", b"b"), b"ab")])
def test_a_body_in_one_piece(body: tuple[bytes, ...], whole: bytes) -> None:
    assert whole_body(Request("POST", "/", body=iter(body) if body else body), 2, 60.0) == whole


class Dripping:
    """A body whose next byte comes, but not in time for all; `waits`: whether that can be known before."""

    def __init__(self, waits: bool, clock: list[float]) -> None:
        self.clock = clock
        self.taken = 0
        self.wait: Callable[[float], bool] | None = self.in_time if waits else None

    def in_time(self, seconds: float) -> bool:
        if seconds < 25.0:
            self.clock[0] += seconds
            return False
        return True

    def __iter__(self) -> Iterator[bytes]:
        while True:
            self.clock[0] += 25.0
            self.taken += 1
            yield b"x"


@pytest.mark.parametrize(("waits", "seconds", "taken"), [(True, 1.0, 1), (False, 1.0, 2), (True, 60.0, 2)])
def test_a_client_that_drips_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch, waits: bool, seconds: float, taken: int
) -> None:
    clock = [1000.0]
    monkeypatch.setattr("wasm_gateway.executors.guest.time", SimpleNamespace(monotonic=lambda: clock[0]))
    body = Dripping(waits, clock)
    with pytest.raises(SlowBody) as caught:
        whole_body(Request("POST", "/", body=body), 10_000, seconds)
    assert caught.value.status == 408
    assert body.taken == taken


def test_a_response_is_bounded() -> None:
    assert complete(200, Headers(), b"1234", 4).body == (b"1234",)
    assert complete(200, Headers(), None, 4).body == ()
    with pytest.raises(LimitExceeded, match="longer than 4"):
        complete(200, Headers(), b"12345", 4)
