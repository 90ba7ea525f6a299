"""A bounded copy of what goes by."""

from __future__ import annotations

import pytest

from wasm_gateway.messages import Headers
from wasm_gateway.migration.counters import Unseen
from wasm_gateway.migration.tee import Tee

HEADERS = Headers([("content-type", "text/plain")])


@pytest.mark.parametrize("size", range(1, 12))
@pytest.mark.parametrize("limit", [0, 9, 10, 11])
def test_a_body_in_pieces(size: int, limit: int) -> None:
    body = b"0123456789"
    tee = Tee(limit)
    for at in range(0, len(body), size):
        tee.see(body[at : at + size])
    tee.seconds = 0.5
    answer = tee.answer(418, HEADERS)
    assert (answer.status, answer.headers, answer.seconds) == (418, HEADERS, 0.5)
    if limit < len(body):
        assert (answer.body, answer.unseen) == (None, Unseen.LONG)
    else:
        assert (answer.body, answer.unseen) == (body, None)


def test_no_body_at_all() -> None:
    assert Tee(0).answer(204, HEADERS).body == b""


def test_what_is_too_long_is_not_kept() -> None:
    tee = Tee(10)
    for _ in range(3):
        tee.see(b"x" * 4)
    assert tee._chunks == []


def test_the_first_reason_counts() -> None:
    tee = Tee(1)
    tee.lose(Unseen.FILE)
    tee.see(b"too long")
    tee.lose(Unseen.CUT)
    assert tee.answer(200, HEADERS).unseen is Unseen.FILE
