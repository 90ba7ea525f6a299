# wasi:clocks and wasi:random 0.3: as in 0.2, but that waiting is a function of its own.

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any, ClassVar

from ...component.concurrency import wait
from ..base import HostContext
from ..wasi.clocks import MAX_RANDOM_BYTES, SECOND, random_u64, resolution
from ..wasi.io import Timer

_CLOCKS = """
package wasi:clocks@0.3.0;
interface types { type duration = u64; }
interface monotonic-clock {
  use types.{duration};
  type mark = u64;
  now: func() -> mark;
  get-resolution: func() -> duration;
  wait-until: async func(when: mark);
  wait-for: async func(how-long: duration);
}
interface system-clock {
  use types.{duration};
  record instant { seconds: s64, nanoseconds: u32 }
  now: func() -> instant;
  get-resolution: func() -> duration;
}
interface timezone {
  use system-clock.{instant};
  iana-id: func() -> option<string>;
  utc-offset: func(when: instant) -> option<s64>;
  to-debug-string: func() -> string;
}
"""
_RANDOM = """
package wasi:random@0.3.0;
interface random {
  get-random-bytes: func(max-len: u64) -> list<u8>;
  get-random-u64: func() -> u64;
}
interface insecure {
  get-insecure-random-bytes: func(max-len: u64) -> list<u8>;
  get-insecure-random-u64: func() -> u64;
}
interface insecure-seed { get-insecure-seed: func() -> tuple<u64, u64>; }
"""
INTERFACES = {
    **{
        f"wasi:clocks/{name}@0.3": _CLOCKS
        for name in ("types", "monotonic-clock", "system-clock", "timezone")
    },
    **{f"wasi:random/{name}@0.3": _RANDOM for name in ("random", "insecure", "insecure-seed")},
}


async def wait_until(ctx: HostContext, when: int) -> None:
    await wait(Timer(when / SECOND))


async def wait_for(ctx: HostContext, duration: int) -> None:
    await wait(Timer(time.monotonic() + duration / SECOND))


def random_bytes(ctx: HostContext, max_length: int) -> bytes:
    return os.urandom(min(max_length, MAX_RANDOM_BYTES))


def insecure_seed(ctx: HostContext) -> tuple[int, int]:
    """The same for the whole life of an instance."""
    found: tuple[int, int] | None = ctx.state.get(insecure_seed)
    if found is None:
        found = ctx.state[insecure_seed] = random_u64(ctx), random_u64(ctx)
    return found


class Clocks:
    """wasi:clocks and wasi:random 0.3; they share nothing among instances."""

    FUNCTIONS: ClassVar[dict[str, dict[str, Callable[..., Any]]]] = {
        "wasi:clocks/types@0.3": {},
        "wasi:clocks/monotonic-clock@0.3": {
            "now": lambda ctx: time.monotonic_ns(),
            "get-resolution": lambda ctx: resolution(time.CLOCK_MONOTONIC),
            "wait-until": wait_until,
            "wait-for": wait_for,
        },
        "wasi:clocks/system-clock@0.3": {
            "now": lambda ctx: divmod(time.time_ns(), SECOND),
            "get-resolution": lambda ctx: resolution(time.CLOCK_REALTIME),
        },
        # the host's own zone is not for a guest to know
        "wasi:clocks/timezone@0.3": {
            "iana-id": lambda ctx: "UTC",
            "utc-offset": lambda ctx, when: 0,
            "to-debug-string": lambda ctx: "UTC",
        },
        "wasi:random/random@0.3": {"get-random-bytes": random_bytes, "get-random-u64": random_u64},
        "wasi:random/insecure@0.3": {
            "get-insecure-random-bytes": random_bytes,
            "get-insecure-random-u64": random_u64,
        },
        "wasi:random/insecure-seed@0.3": {
            "get-insecure-seed": insecure_seed,
        },
    }

    def functions(self, interface: str) -> dict[str, Callable[..., Any]]:
        return self.FUNCTIONS[interface]

    def close(self) -> None:
        pass
