# A context that host functions are called with, as an instance is for them.

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import partial
from types import CoroutineType
from typing import Any

import pytest

from wasm_gateway.component.concurrency import Loop, wait
from wasm_gateway.component.handles import HandleTable
from wasm_gateway.component.values import End, Err
from wasm_gateway.host.base import Deadline, Grants, HostContext
from wasm_gateway.host.network import Network
from wasm_gateway.host.offload import Elements
from wasm_gateway.host.outbound import AllowedHosts
from wasm_gateway.host.wasi.io import Timer, Waker, wait_any
from wasm_gateway.messages import Request, Response


def _whole(ctx: Any, value: Any) -> Any:
    """`value`, where streams are lists; the error at the end of one is all that counts."""
    if type(value) is not tuple or not any(isinstance(part, Elements) for part in value):
        return value
    *parts, end = value
    if isinstance(end, Err):
        return end
    return tuple(_elements(ctx, part) if isinstance(part, Elements) else part for part in parts)


def _elements(ctx: Any, source: Elements) -> list[Any]:
    found: list[Any] = []
    while True:
        try:
            found += source.read(ctx, 2)
        except End:
            return found


class Context(HostContext):
    """A HostContext whose requests inside the application go to functions of the test."""

    __slots__ = ("answer", "answer_self", "entered", "handles", "loop", "parts")

    def __init__(self, component: Grants, deadline: Deadline) -> None:
        super().__init__(component, deadline)
        self.answer: Callable[[str, Request], Response] = super().chain
        self.answer_self: Callable[[Request], Response] = super().self_request
        self.parts: list[Any] = []
        self.entered = False
        self.handles = HandleTable()
        self._begin()

    def _begin(self) -> None:
        self.loop = Loop(self)
        self.on_close(self.loop.close)

    def run_closers(self) -> list[BaseException]:
        """As at the end of an instance; the context may be used again."""
        raised = super().run_closers()
        self.state.pop(Waker, None)
        self._begin()
        return raised

    def wait_any(self, pollables: Any) -> None:
        wait_any(self, pollables)

    def run(self, *coroutines: Any) -> list[tuple[int, Any]]:
        """What coroutines of host functions come to, with their places, in the order in which they end."""
        order: list[tuple[int, Any]] = []
        for i, coroutine in enumerate(coroutines):
            self.loop.spawn(coroutine, partial(lambda i, result: order.append((i, result)), i))
        self.loop.run_until(lambda: len(order) == len(coroutines))
        return order

    async def patient(self) -> None:
        """Something that waits for something outside, so that calls are given to threads."""
        await wait(Timer(time.monotonic() + 3600))

    def settle(self, value: Any) -> Any:
        """What a host function gave; of a coroutine function what it comes to, beside another that waits.

        Rows that come as a stream are made a list.
        """
        if type(value) is CoroutineType:
            other = self.loop.spawn(self.patient())
            try:
                [(_, value)] = self.run(value)
            finally:
                other.close()
        return _whole(self, value)

    def chain(self, component_id: str, request: Request) -> Response:
        return self.answer(component_id, request)

    def self_request(self, request: Request) -> Response:
        return self.answer_self(request)


@pytest.fixture
def context() -> Iterator[Callable[..., Context]]:
    """Makes contexts: `context(allowed=["http://*:*"], seconds=5, key_value_stores=frozenset({"a"}), ...)`.

    They are closed after the test, as instances are.
    """
    made: list[Context] = []

    def make(*, allowed: tuple[str, ...] | list[str] = (), seconds: float = 120.0, **grants: Any) -> Context:
        outbound = AllowedHosts(list(allowed), components=("front", "back"))
        ctx = Context(Grants("guest", outbound=outbound, **grants), Deadline(seconds))
        made.append(ctx)
        return ctx

    yield make
    for ctx in made:
        assert ctx.run_closers() == []


@pytest.fixture
def network() -> Network:
    """A network without blocked addresses."""
    return Network()
