# A context that host functions are called with, as an instance is for them.

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from wasm_gateway.component.concurrency import Loop
from wasm_gateway.host.base import Deadline, Grants, HostContext
from wasm_gateway.host.network import Network
from wasm_gateway.host.outbound import AllowedHosts
from wasm_gateway.host.wasi_io import wait_any
from wasm_gateway.messages import Request, Response


class Context(HostContext):
    """A HostContext whose requests inside the application go to functions of the test."""

    __slots__ = ("answer", "answer_self", "entered", "loop", "parts")

    def __init__(self, component: Grants, deadline: Deadline) -> None:
        super().__init__(component, deadline)
        self.answer: Callable[[str, Request], Response] = super().chain
        self.answer_self: Callable[[Request], Response] = super().self_request
        self.parts: list[Any] = []
        self.entered = False
        self.loop = Loop(self)
        self.on_close(self.loop.close)

    def wait_any(self, pollables: Any) -> None:
        wait_any(self, pollables)

    def run(self, *coroutines: Any) -> list[tuple[int, Any]]:
        """What coroutines of host functions come to, with their places, in the order in which they end."""
        order: list[tuple[int, Any]] = []
        for i, coroutine in enumerate(coroutines):
            self.loop.spawn(coroutine, partial(lambda i, result: order.append((i, result)), i))
        self.loop.run_until(lambda: len(order) == len(coroutines))
        return order

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

    def make(*, allowed: tuple[str, ...] | list[str] = (), seconds: float = 20.0, **grants: Any) -> Context:
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


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate for localhost, and its key, in one file."""
    folder = tmp_path_factory.mktemp("tls")
    openssl = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]
    openssl += ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    openssl += ["-keyout", str(folder / "key.pem"), "-out", str(folder / "cert.pem")]
    try:
        subprocess.run(openssl, check=True, capture_output=True)
    except FileNotFoundError:
        pytest.skip("openssl is not installed")
    return folder
