# Microseconds of one `gateway.handle`, by dialect, and where they go.
#
# Every request gets a fresh instance of a guest that was compiled before; nothing of
# it is left when `handle` returns.

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from wasm_gateway import Gateway
from wasm_gateway.stopwatch import PHASES, Stopwatch

from . import guests, measure, wasi_http
from .report import Cell, Table

ROUND = "0123456789abcdef0123456789abcdef"
UNTIL = 4_000_000_000_000  # ms since 1970: a round that never ends
ROUND_VALUE = f"1 {UNTIL} 3 2 1 15 {'012345' * 5}"


@dataclass(frozen=True, slots=True)
class Subject:
    """A row: a request to one of the gateways."""

    what: str
    gateway: str
    target: str
    method: str = "GET"


HELLO = (
    Subject("WAGI: takes its environment, answers", "memory", "/wasm/wagi"),
    Subject("legacy flat: answers", "memory", "/wasm/flat"),
    Subject("Spin 1: answers", "memory", "/wasm/spin"),
    Subject("wasi:http 0.2: answers", "memory", "/wasm/wasi-http"),
    Subject("Spin 1: reads a key, store in memory", "memory", "/wasm/spin-key"),
    Subject("Spin 1: reads a key, store in SQLite", "sqlite", "/wasm/spin-key"),
)
EXAMPLE = (
    Subject("example: redirect (C, WAGI)", "example", "/go"),
    Subject("example: session (Rust, flat): random numbers, clock, 1 write", "example", "/session", "POST"),
    Subject("example: score (C, Spin 1): clock, 1 read", "example", f"/score?id={ROUND}"),
    Subject("example: fileserver (Rust, flat): a file of 14 KB", "example", "/play/index.html"),
)
REAL = (
    Subject("Finicky Whiskers: redirect (TinyGo, WAGI)", "real", "/"),
    Subject("Finicky Whiskers: scoreboard (Rust, Spin 1): 1 read", "real", f"/score?ulid={guests.ULID}"),
)

NOTES = """
A fresh instance (store, memory, handles) for each request, from the pool, compiled before.

store: store, limits, instance. guest: guest code, entering it, its allocator. abi: arguments and answer, to
and from its memory. host: host functions, with their arguments and results. drop: the end of the store.
rest: routing, headers, checks, counters. Measured in runs of their own, where the stopwatch slows everything
a little, so they come to somewhat more than the median.

Spin guests are given 7 headers (spin-path-info, spin-full-url ...) more than the client sent.
"""
REAL_GAME_NOTE = f"""
The guests of the real Finicky Whiskers are measured too when {guests.REAL_GAME} names its folder.
"""


@contextmanager
def gateways() -> Iterator[dict[str, Gateway]]:
    """The applications that are asked, by name, opened."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        manifest = guests.application(
            folder, [*guests.hello_guests(), wasi_http.component(), guests.key_reader()]
        )
        answer = {"answer": guests.ANSWER.decode()}
        cache = folder / "cache"
        made = {
            "memory": Gateway.from_manifest(manifest, state_dir="", cache_dir=cache, key_value=answer),
            "sqlite": Gateway.from_manifest(
                manifest, state_dir=folder / "state", cache_dir=cache, key_value=answer
            ),
            "example": Gateway.from_manifest(
                guests.EXAMPLE / "spin.toml",
                state_dir="",
                cache_dir=cache,
                key_value={f"round:{ROUND}": ROUND_VALUE},
            ),
        }
        real = guests.real_game()
        if real is not None:
            blank = f'{{"ulid":"{guests.ULID}","beef":0,"fish":0,"chicken":0,"veg":0,"total":0}}'
            made["real"] = Gateway.from_manifest(
                real / "spin.toml",
                components=["redirect-to-index", "scoreboard"],
                state_dir="",
                cache_dir=cache,
                key_value={f"fw-{guests.ULID}": blank},
            )
        try:
            yield {name: gateway.open() for name, gateway in made.items()}
        finally:
            for gateway in made.values():
                gateway.close()


def functions(made: dict[str, Gateway]) -> dict[tuple[str, int], Callable[[], object]]:
    """What is timed, by row and number of client headers."""
    return {
        (subject.what, len(headers)): guests.caller(
            made[subject.gateway], guests.request(subject.target, headers, method=subject.method)
        )
        for subject in (*HELLO, *EXAMPLE, *REAL)
        for headers in ((guests.FEW, guests.MANY) if subject in HELLO or subject in REAL else (guests.MANY,))
        if subject.gateway in made
    }


def run(quick: bool) -> list[Table]:
    effort = measure.QUICK if quick else measure.USUAL
    with gateways() as made:
        blocks = {key: measure.calls(function) for key, function in functions(made).items()}
        totals = measure.interleaved(blocks, effort)
    stopwatch = Stopwatch()
    with stopwatch.watching(), gateways() as made:
        for gateway in made.values():
            stopwatch.watch(gateway)
        splits = stopwatch.split(functions(made), effort.rounds, effort.calls, effort.warmup)
    rows: list[tuple[Cell, ...]] = []
    for key, total in totals.items():
        what, headers = key
        rows.append(
            (
                what,
                headers,
                total.median,
                total.p95,
                total.cpu,
                total.spread,
                *[splits[key][p] for p in PHASES],
            )
        )
    columns = (
        "guest",
        "client headers",
        "median us",
        "p95 us",
        "CPU us",
        "spread %",
        *[f"{p} us" for p in PHASES],
    )
    notes = NOTES
    if guests.real_game() is None:
        notes += REAL_GAME_NOTE
    return [Table("gateway.handle", columns, tuple(rows), notes)]
