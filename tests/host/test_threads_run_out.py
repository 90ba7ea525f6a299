"""A process that can start no more threads: a call fails, and nothing that it has taken is lost."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from wasm_gateway.host import network, postgres
from wasm_gateway.host.addresses import parse_address
from wasm_gateway.host.base import Deadline
from wasm_gateway.host.network import NameNotResolved, Network
from wasm_gateway.host.outbound_http import Client, HttpFailure, Outgoing
from wasm_gateway.host.postgres import PgConnection, parse
from wasm_gateway.host.rdbms import DatabaseFailure


@pytest.fixture
def no_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", fail)


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as made:
        yield made


def test_names_are_not_looked_up(no_threads: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network, "MAX_LOOKUPS", 1)
    way_out = Network()
    for _ in range(3):
        with pytest.raises(NameNotResolved, match="can't start new thread"):
            way_out.resolve("a.example", 80, Deadline(60))


def test_nobody_logs_in(no_threads: None, monkeypatch: pytest.MonkeyPatch, listener: socket.socket) -> None:
    slots = postgres._Slots(1)
    monkeypatch.setattr(postgres, "_logins", slots)
    target = parse(f"host=127.0.0.1 port={listener.getsockname()[1]} user=u")
    for _ in range(3):
        with pytest.raises(DatabaseFailure, match="can't start new thread"):
            PgConnection(target, Network(), Deadline(60))
    assert slots.free.acquire(blocking=False)


class Body:
    """One that is sent by a thread of its own."""

    def __iter__(self) -> Iterator[bytes]:
        yield b"x"

    def give_up(self) -> None:
        pass


def test_nothing_is_uploaded(no_threads: None, listener: socket.socket) -> None:
    way_out = Network(max_connections=1)
    client = Client(way_out)
    address = parse_address(f"http://127.0.0.1:{listener.getsockname()[1]}/", ("http",))
    request = Outgoing("POST", "/", (), Body(), length=1)
    for _ in range(3):
        with (
            pytest.raises(HttpFailure, match="can't start new thread"),
            client.open(request, address, Deadline(60)),
        ):
            pass
    give_back: Callable[[], Any] | None = way_out.places.take()
    assert give_back is not None
    give_back()
    client.close()
