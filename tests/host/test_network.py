from __future__ import annotations

import multiprocessing
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from wasm_gateway.errors import DeadlineExceeded
from wasm_gateway.host import network as module
from wasm_gateway.host.base import Deadline
from wasm_gateway.host.network import (
    DestinationBlocked,
    NameNotResolved,
    Network,
    is_idle,
    shares,
    wait_ready,
)
from wasm_gateway.host.outbound import BlockedNetworks


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What names resolve to: a list of addresses, or an exception."""
    known: dict[str, Any] = {}

    def getaddrinfo(host: str, port: int, *_: Any, **__: Any) -> Any:
        found = known[host]
        if isinstance(found, Exception):
            raise found
        family = {True: socket.AF_INET6, False: socket.AF_INET}
        return [(family[":" in ip], socket.SOCK_STREAM, 6, "", (ip, port)) for ip in found]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    return known


def test_addresses_are_not_looked_up(names: dict[str, Any]) -> None:
    network = Network()
    assert network.resolve("127.0.0.1", 80, Deadline(60)) == [(socket.AF_INET, ("127.0.0.1", 80))]
    assert network.resolve("::1", 80, Deadline(60)) == [(socket.AF_INET6, ("::1", 80, 0, 0))]


def test_names_are_looked_up(names: dict[str, Any]) -> None:
    names["a.example"] = ["10.0.0.1", "192.0.2.1"]
    found = Network().resolve("a.example", 80, Deadline(60))
    assert found == [(socket.AF_INET, ("10.0.0.1", 80)), (socket.AF_INET, ("192.0.2.1", 80))]


@pytest.mark.parametrize("found", [[], socket.gaierror(socket.EAI_NONAME, "unknown"), UnicodeError("label")])
def test_names_that_are_unknown(names: dict[str, Any], found: Any) -> None:
    names["a.example"] = found
    with pytest.raises(NameNotResolved):
        Network().resolve("a.example", 80, Deadline(60))


def test_blocked_addresses_are_left_out(names: dict[str, Any]) -> None:
    network = Network(BlockedNetworks(["private"]).blocks)
    names["mixed.example"] = ["10.0.0.1", "::ffff:10.0.0.2", "8.8.8.8"]
    names["private.example"] = ["10.0.0.1", "fc00::1"]
    assert network.resolve("mixed.example", 80, Deadline(60)) == [(socket.AF_INET, ("8.8.8.8", 80))]
    for host in ("private.example", "127.0.0.1", "::1", "::ffff:127.0.0.1"):
        with pytest.raises(DestinationBlocked):
            network.resolve(host, 80, Deadline(60))


def test_a_lookup_ends_at_the_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_LOOKUPS", 2)
    release = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: release.wait(30) and [])
    network = Network()
    begin = time.monotonic()
    for _ in range(3):  # the third finds no place for another
        with pytest.raises(DeadlineExceeded):
            network.resolve("slow.example", 80, Deadline(0.05))
    assert time.monotonic() - begin < 25
    release.set()
    for thread in threading.enumerate():  # it would ask what another test puts there
        if thread.name == "look up slow.example":
            thread.join(60)


def test_a_forked_child_has_all_places_for_lookups(
    monkeypatch: pytest.MonkeyPatch, names: dict[str, Any]
) -> None:
    monkeypatch.setattr(module, "MAX_LOOKUPS", 1)
    names["a.example"] = ["192.0.2.1"]
    network = Network()
    assert network._lookups.acquire(blocking=False)
    process = multiprocessing.get_context("fork").Process(
        target=network.resolve, args=("a.example", 80, Deadline(60))
    )
    process.start()
    process.join(60)
    assert process.exitcode == 0


def test_the_next_address_is_tried(names: dict[str, Any]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        names["a.example"] = ["127.0.0.9", "127.0.0.1"]
        with Network().connect("a.example", server.getsockname()[1], Deadline(60)) as sock:
            assert sock.getpeername()[0] == "127.0.0.1"
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def full_server() -> socket.socket:
    """A server that accepts no more connections, so that the next one waits."""
    server = socket.socket()
    server.bind(("127.0.0.1", 0))
    server.listen(0)
    return server


def test_an_address_that_does_not_answer_leaves_time_for_the_next(
    monkeypatch: pytest.MonkeyPatch, names: dict[str, Any]
) -> None:

    def hurried(count: int, deadline: Deadline) -> Iterator[Deadline]:
        """Little time for the first one, and for the next all that there is."""
        for number, share in enumerate(shares(count, deadline)):
            yield share if number else Deadline(0.1)

    monkeypatch.setattr(module, "shares", hurried)
    with full_server() as silent:
        port = silent.getsockname()[1]
        fillers = [socket.socket() for _ in range(4)]
        try:
            for filler in fillers:
                filler.setblocking(False)
                filler.connect_ex(("127.0.0.1", port))
            with socket.create_server(("127.0.0.2", port)):
                names["a.example"] = ["127.0.0.1", "127.0.0.2"]
                with Network().connect("a.example", port, Deadline(60)) as sock:
                    assert sock.getpeername()[0] == "127.0.0.2"
            names["b.example"] = ["127.0.0.1", "127.0.0.1"]
            with pytest.raises(DeadlineExceeded):
                Network().connect("b.example", port, Deadline(0.3))
        finally:
            for filler in fillers:
                filler.close()


def test_shares(monkeypatch: pytest.MonkeyPatch) -> None:
    deadline = Deadline(30_000)
    first, second, last = shares(3, deadline)
    assert first.seconds == pytest.approx(10_000, abs=100)
    assert second.seconds == pytest.approx(15_000, abs=100)
    assert last is deadline
    assert list(shares(0, deadline)) == []
    monkeypatch.setattr(module, "LEAST_CONNECT_SECONDS", 1000.0)
    short = Deadline(500)
    assert list(shares(2, short)) == [short, short]


@pytest.mark.parametrize(
    "wait",
    [
        lambda sock: sock.recv(1),
        lambda sock: sock.recv_into(bytearray(1)),
        lambda sock: sock.makefile("rb").readline(),
        lambda sock: sock.sendall(bytes(100_000_000)),
        lambda sock: [sock.send(bytes(1_000_000)) for _ in range(1000)],
    ],
)
def test_waits_end_at_the_deadline(wait: Callable[[socket.socket], object]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        sock = Network().connect("127.0.0.1", server.getsockname()[1], Deadline(60))
        peer, _ = server.accept()
        with sock, peer:
            sock.settimeout(None)  # as drivers do
            sock.deadline = Deadline(0.1)
            begin = time.monotonic()
            with pytest.raises(DeadlineExceeded):
                wait(sock)
            assert time.monotonic() - begin < 25


def test_idle_connections() -> None:
    left, right = socket.socketpair()
    with left, right:
        assert is_idle(left)
        right.send(b"x")
        assert not is_idle(left)
        assert left.recv(1) == b"x"
        assert is_idle(left)
        right.close()
        assert not is_idle(left)


def test_waiting_for_a_descriptor() -> None:
    left, right = socket.socketpair()
    with left, right:
        assert wait_ready(left.fileno(), 0) == (False, False)
        assert wait_ready(left.fileno(), 5, writable=True) == (False, True)
        right.send(b"x")
        assert wait_ready(left.fileno(), 5) == (True, False)
        assert wait_ready(left.fileno(), 5, writable=True) == (True, True)
        right.close()
        assert wait_ready(left.fileno(), 5)[0]
