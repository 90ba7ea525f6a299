# wasi:clocks and wasi:random 0.2: the real ones, as preview 1 has them.

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any, ClassVar

from ...errors import Trap
from ..base import HostContext
from .io import Pollable, Timer

_CLOCKS = """
package wasi:clocks@0.2.0;
interface monotonic-clock {
  use wasi:io/poll@0.2.0.{pollable};
  type instant = u64;
  type duration = u64;
  now: func() -> instant;
  resolution: func() -> duration;
  subscribe-instant: func(when: instant) -> pollable;
  subscribe-duration: func(when: duration) -> pollable;
}
interface wall-clock {
  record datetime { seconds: u64, nanoseconds: u32 }
  now: func() -> datetime;
  resolution: func() -> datetime;
}
interface timezone {
  use wall-clock.{datetime};
  record timezone-display { utc-offset: s32, name: string, in-daylight-saving-time: bool }
  display: func(when: datetime) -> timezone-display;
  utc-offset: func(when: datetime) -> s32;
}
"""
_RANDOM = """
package wasi:random@0.2.0;
interface random {
  get-random-bytes: func(len: u64) -> list<u8>;
  get-random-u64: func() -> u64;
}
interface insecure {
  get-insecure-random-bytes: func(len: u64) -> list<u8>;
  get-insecure-random-u64: func() -> u64;
}
interface insecure-seed { insecure-seed: func() -> tuple<u64, u64>; }
"""
INTERFACES = {
    "wasi:clocks/monotonic-clock@0.2": _CLOCKS,
    "wasi:clocks/wall-clock@0.2": _CLOCKS,
    "wasi:clocks/timezone@0.2": _CLOCKS,
    "wasi:random/random@0.2": _RANDOM,
    "wasi:random/insecure@0.2": _RANDOM,
    "wasi:random/insecure-seed@0.2": _RANDOM,
}

SECOND = 10**9
# wasmtime has the same limit.
MAX_RANDOM_BYTES = 64 << 20


def resolution(clock: int) -> int:
    return max(1, round(time.clock_getres(clock) * SECOND))


def subscribe_instant(ctx: HostContext, when: int) -> Pollable:
    return Timer(when / SECOND)


def subscribe_duration(ctx: HostContext, duration: int) -> Pollable:
    return Timer(time.monotonic() + duration / SECOND)


def random_bytes(ctx: HostContext, length: int) -> bytes:
    if length > MAX_RANDOM_BYTES:
        raise Trap(f"{length} random bytes, at most {MAX_RANDOM_BYTES} are given at once")
    return os.urandom(length)


def random_u64(ctx: HostContext) -> int:
    return int.from_bytes(os.urandom(8), "little")


class WasiClocks:
    """wasi:clocks and wasi:random; they share nothing among instances."""

    FUNCTIONS: ClassVar[dict[str, dict[str, Callable[..., Any]]]] = {
        "wasi:clocks/monotonic-clock@0.2": {
            "now": lambda ctx: time.monotonic_ns(),
            "resolution": lambda ctx: resolution(time.CLOCK_MONOTONIC),
            "subscribe-instant": subscribe_instant,
            "subscribe-duration": subscribe_duration,
        },
        "wasi:clocks/wall-clock@0.2": {
            "now": lambda ctx: divmod(time.time_ns(), SECOND),
            "resolution": lambda ctx: divmod(resolution(time.CLOCK_REALTIME), SECOND),
        },
        # the host's own zone is not for a guest to know
        "wasi:clocks/timezone@0.2": {
            "display": lambda ctx, when: (0, "UTC", False),
            "utc-offset": lambda ctx, when: 0,
        },
        "wasi:random/random@0.2": {"get-random-bytes": random_bytes, "get-random-u64": random_u64},
        "wasi:random/insecure@0.2": {
            "get-insecure-random-bytes": random_bytes,
            "get-insecure-random-u64": random_u64,
        },
        "wasi:random/insecure-seed@0.2": {
            "insecure-seed": lambda ctx: (random_u64(ctx), random_u64(ctx)),
        },
    }

    def functions(self, interface: str) -> dict[str, Callable[..., Any]]:
        return self.FUNCTIONS[interface]

    def close(self) -> None:
        pass
