"""wasi:clocks and wasi:random: the real ones, bounded."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest

from wasm_gateway.errors import Trap
from wasm_gateway.host.wasi.clocks import MAX_RANDOM_BYTES, SECOND, WasiClocks
from wasm_gateway.host.wasi.io import wait_any

MONOTONIC, WALL, TIMEZONE = (
    WasiClocks.FUNCTIONS[f"wasi:clocks/{name}@0.2"] for name in ("monotonic-clock", "wall-clock", "timezone")
)
RANDOM, INSECURE, SEED = (
    WasiClocks.FUNCTIONS[f"wasi:random/{name}@0.2"] for name in ("random", "insecure", "insecure-seed")
)


def test_the_time_is_that_of_the_host() -> None:
    before = time.time()
    seconds, nanoseconds = WALL["now"](None)
    assert int(before) <= seconds <= time.time()
    assert 0 <= nanoseconds < SECOND
    assert 0 < MONOTONIC["resolution"](None) < SECOND
    assert (0, 0) < WALL["resolution"](None) < (1, 0)
    first, second = MONOTONIC["now"](None), MONOTONIC["now"](None)
    assert 0 < first <= second


def test_waiting(context: Callable[..., Any]) -> None:
    ctx = context()
    start = MONOTONIC["now"](ctx)
    wait_any(ctx, [MONOTONIC["subscribe-duration"](ctx, 2_000_000)])
    assert MONOTONIC["now"](ctx) - start >= 2_000_000
    assert MONOTONIC["subscribe-instant"](ctx, start).ready()
    assert not MONOTONIC["subscribe-instant"](ctx, (1 << 64) - 1).ready()


def test_the_zone_is_utc() -> None:
    assert TIMEZONE["display"](None, (0, 0)) == (0, "UTC", False)
    assert TIMEZONE["utc-offset"](None, (0, 0)) == 0


def test_random_numbers() -> None:
    for family, name in ((RANDOM, "get-random"), (INSECURE, "get-insecure-random")):
        a, b = family[f"{name}-bytes"](None, 32), family[f"{name}-bytes"](None, 32)
        assert (len(a), len(b)) == (32, 32)
        assert a != b
        assert 0 <= family[f"{name}-u64"](None) < 1 << 64
        with pytest.raises(Trap, match="at most"):
            family[f"{name}-bytes"](None, MAX_RANDOM_BYTES + 1)
    assert SEED["insecure-seed"](None) != SEED["insecure-seed"](None)
