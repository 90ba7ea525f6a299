"""wasi:clocks and wasi:random 0.3: as in 0.2, but waiting is a coroutine."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest

from wasm_gateway.errors import DeadlineExceeded
from wasm_gateway.host.wasi.clocks import MAX_RANDOM_BYTES, SECOND
from wasm_gateway.host.wasi_p3.clocks import Clocks

MONOTONIC, SYSTEM, TIMEZONE = (
    Clocks.FUNCTIONS[f"wasi:clocks/{name}@0.3"] for name in ("monotonic-clock", "system-clock", "timezone")
)


def test_the_time_is_that_of_the_host() -> None:
    before = time.time()
    seconds, nanoseconds = SYSTEM["now"](None)
    assert int(before) <= seconds <= time.time()
    assert 0 <= nanoseconds < SECOND
    assert 0 < MONOTONIC["get-resolution"](None) < SECOND
    assert 0 < SYSTEM["get-resolution"](None) < SECOND
    first, second = MONOTONIC["now"](None), MONOTONIC["now"](None)
    assert 0 < first <= second
    assert TIMEZONE["iana-id"](None) == TIMEZONE["to-debug-string"](None) == "UTC"
    assert TIMEZONE["utc-offset"](None, (0, 0)) == 0


def test_waiting(context: Callable[..., Any]) -> None:
    ctx = context()
    start: int = MONOTONIC["now"](ctx)
    later = ctx.loop.spawn(MONOTONIC["wait-for"](ctx, 3600 * SECOND))
    waits = (
        MONOTONIC["wait-for"](ctx, 2_000_000),
        MONOTONIC["wait-until"](ctx, start),
        MONOTONIC["wait-for"](ctx, 0),
    )
    assert [i for i, _ in ctx.run(*waits)] == [1, 2, 0]
    assert MONOTONIC["now"](ctx) - start >= 2_000_000
    assert not later.over
    later.close()


def test_waiting_ends_with_the_deadline(context: Callable[..., Any]) -> None:
    ctx = context(seconds=0.01)
    with pytest.raises(DeadlineExceeded):
        ctx.run(MONOTONIC["wait-until"](ctx, (1 << 64) - 1))


def test_random_numbers(context: Callable[..., Any]) -> None:
    random = Clocks.FUNCTIONS["wasi:random/random@0.3"]
    assert len(random["get-random-bytes"](None, 32)) == 32
    assert len(random["get-random-bytes"](None, (1 << 64) - 1)) == MAX_RANDOM_BYTES
    seed = Clocks.FUNCTIONS["wasi:random/insecure-seed@0.3"]["get-insecure-seed"]
    a, b = context(), context()
    assert seed(a) == seed(a) != seed(b)
