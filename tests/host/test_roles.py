"""On whose behalf host functions act: what is begun for one component goes on for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from wasm_gateway.component.concurrency import Turn, wait
from wasm_gateway.component.streams import HostFuture, HostStream
from wasm_gateway.component.types import U8Type
from wasm_gateway.component.values import End
from wasm_gateway.host.base import Grants
from wasm_gateway.host.outbound import AllowedHosts, Both, SafeHosts
from wasm_gateway.host.wasi.io import READY

ONE, OTHER = (Grants("one"), None), (Grants("other"), None)


@pytest.fixture
def ctx(context: Callable[..., Any]) -> Any:
    made = context()
    made.role = ONE
    return made


def test_what_is_left_beside_the_site() -> None:
    """What a component may not reach it may not reach beside the site either."""
    allowed = AllowedHosts(["http://a.test", "http://b.test", "http://self"])
    both = Both(allowed, SafeHosts(["http://a.test", "http://c.test"]))
    whole = Grants("one", outbound=allowed, key_value_stores=frozenset({"a"})).beside(both)
    assert whole.scratch
    assert whole.key_value_stores == {"a"}
    assert whole.outbound is both
    assert Grants("other").beside(both).outbound is None
    reached = [both.check_url(f"http://{host}.test/x", "https") for host in "abc"]
    assert reached == [True, False, False]
    assert not both.allows_self()
    assert Both(allowed, SafeHosts(["http://self"])).allows_self()
    assert both.is_chained("a.spin.internal") == "a"


def test_coroutines(ctx: Any) -> None:
    seen: list[str] = []

    async def inner() -> None:
        await wait(Turn())
        seen.append(ctx.component.id)

    async def outer() -> None:
        seen.append(ctx.component.id)
        await wait(Turn())
        seen.append(ctx.component.id)
        ctx.loop.spawn(inner())

    over: list[str] = []
    ctx.loop.spawn(outer(), lambda result: over.append(ctx.component.id))
    ctx.role = OTHER
    ctx.loop.run_until(lambda: len(seen) == 3)
    assert seen == ["one"] * 3
    assert over == ["one"]
    assert ctx.role == OTHER


def test_coroutines_that_nobody_waits_for(ctx: Any) -> None:
    seen: list[str] = []

    async def patient() -> None:
        try:
            await ctx.patient()
        finally:
            seen.append(ctx.component.id)

    hosted = ctx.loop.spawn(patient())
    ctx.role = OTHER
    hosted.close()
    assert (seen, ctx.role) == (["one"], OTHER)


class Source:
    def __init__(self) -> None:
        self.readers: list[str] = []

    def read(self, ctx: Any, length: int) -> bytes:
        self.readers.append(ctx.component.id)
        if len(self.readers) > 2:
            raise End
        return b"x"

    def pollable(self) -> Any:
        return READY

    def close(self, ctx: Any) -> None:
        pass


def test_streams(ctx: Any) -> None:
    source = Source()
    stream = HostStream(ctx.loop, U8Type(), source)
    ctx.role = OTHER
    for expected in (b"x", b"x", b""):
        [(_, found)] = ctx.run(stream.take(1))
        assert bytes(found) == expected
    assert source.readers == ["one"] * 3
    assert ctx.role == OTHER


def test_futures(ctx: Any) -> None:
    async def result() -> str:
        await wait(Turn())
        name: str = ctx.component.id
        return name

    future = HostFuture(ctx.loop, None, result())
    ctx.role = OTHER
    assert ctx.run(future.value()) == [(0, "one")]


def test_who_waits_goes_on_as_it_was(ctx: Any) -> None:
    with ctx.loop._aside():
        ctx.role = OTHER
    assert ctx.role == ONE
