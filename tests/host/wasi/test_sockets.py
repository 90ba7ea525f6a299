"""wasi:sockets against real peers: who may go where, and how many; TCP; UDP; whole guests."""

from __future__ import annotations

import os
import select
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from wasm_gateway.component.values import Err
from wasm_gateway.errors import DeadlineExceeded, Trap
from wasm_gateway.host.base import Deadline
from wasm_gateway.host.network import Network
from wasm_gateway.host.outbound import BlockedNetworks
from wasm_gateway.host.wasi import io as wasi_io
from wasm_gateway.host.wasi.sockets import MAX_BYTES, MAX_SOCKETS, NETWORK, WasiSockets
from wasm_gateway.host.wasi.tcp import WasiTcp
from wasm_gateway.host.wasi.udp import MAX_DATAGRAMS, WasiUdp

ANY = ("tcp://*:*", "udp://*:*")
V6 = socket.has_ipv6


def v4(port: int, *octets: int) -> Any:
    return "ipv4", (port, octets or (127, 0, 0, 1))


def v6(port: int, *words: int, flow: int = 0) -> Any:
    return "ipv6", (port, flow, words or (0, 0, 0, 0, 0, 0, 0, 1), 0)


class Functions:
    """The functions of both kinds of sockets for one instance, called by their names."""

    def __init__(self, ctx: Any, sockets: WasiSockets) -> None:
        self.ctx = ctx
        tcp, udp = WasiTcp(sockets), WasiUdp(sockets)
        self.table: dict[str, Any] = {}
        for family, names in (
            (sockets, ("network", "instance-network", "ip-name-lookup")),
            (tcp, ("tcp", "tcp-create-socket")),
            (udp, ("udp", "udp-create-socket")),
        ):
            for name in names:
                self.table.update(family.functions(f"wasi:sockets/{name}@0.2"))

    def __call__(self, name: str, *arguments: Any) -> Any:
        return (self.table.get(name) or self.table[f"[method]{name}"])(self.ctx, *arguments)

    def tcp(self, family: str = "ipv4") -> Any:
        return self("create-tcp-socket", family)

    def start_connect(self, address: Any, sock: Any = None) -> Any:
        return self("tcp-socket.start-connect", sock or self.tcp(address[0]), NETWORK, address)

    def connect(self, address: Any) -> tuple[Any, Any, Any]:
        """A connected socket and its streams."""
        sock = self.tcp(address[0])
        assert self.start_connect(address, sock) is None
        wasi_io.wait_any(self.ctx, [self("tcp-socket.subscribe", sock)])
        streams = self("tcp-socket.finish-connect", sock)
        assert not isinstance(streams, Err), streams
        return sock, *streams

    def udp(self, address: Any = None) -> Any:
        """A bound socket."""
        address = address or v4(0)
        sock = self("create-udp-socket", address[0])
        assert self("udp-socket.start-bind", sock, NETWORK, address) is None
        assert self("udp-socket.finish-bind", sock) is None
        return sock

    def wait(self, stream: Any) -> None:
        """Until there is a datagram."""
        wasi_io.wait_any(self.ctx, [self("incoming-datagram-stream.subscribe", stream)])

    def send(self, stream: Any, *datagrams: Any) -> Any:
        assert self("outgoing-datagram-stream.check-send", stream) == MAX_DATAGRAMS
        return self("outgoing-datagram-stream.send", stream, list(datagrams))

    def drop(self, resource: str, value: Any) -> None:
        self.table[f"[resource-drop]{resource}"](self.ctx, value)

    # Streams

    def read_all(self, stream: Any) -> bytes:
        got = b""
        while not isinstance(data := wasi_io.blocking_read(self.ctx, stream, 1 << 20), Err):
            got += data
        assert data == Err(("closed", None))
        return got

    def write(self, stream: Any, data: bytes) -> Any:
        permit = wasi_io.check_write(self.ctx, stream)
        return permit if isinstance(permit, Err) else wasi_io.write(self.ctx, stream, data)

    def fill(self, stream: Any) -> int:
        """Write until the system takes no more, nor soon after; how much that was."""
        written = 0
        while True:
            if wasi_io.poll(self.ctx, [stream.pollable(), wasi_io.Timer(time.monotonic() + 0.05)]) == [1]:
                return written
            if wasi_io.check_write(self.ctx, stream):
                assert wasi_io.write(self.ctx, stream, bytes(MAX_BYTES)) is None
                written += MAX_BYTES


Guest = Callable[..., Functions]


@pytest.fixture
def guest(context: Any) -> Guest:
    """Makes the functions of an instance: `guest(allowed, blocked=["private"], limit=2, total=3)`."""

    def guest(
        allowed: Any = ANY,
        *,
        blocked: Any = (),
        limit: int | None = None,
        total: int | None = None,
        seconds: float = 120.0,
        sockets: WasiSockets | None = None,
    ) -> Functions:
        network = Network(BlockedNetworks(blocked).blocks, total)
        return Functions(context(allowed=allowed, seconds=seconds), sockets or WasiSockets(network, limit))

    return guest


@contextmanager
def peer(behave: Callable[[socket.socket], None], host: str = "127.0.0.1") -> Iterator[int]:
    """A TCP server whose first connection is for `behave`; its port."""
    failed: list[BaseException] = []
    with socket.create_server((host, 0), family=socket.AF_INET6 if ":" in host else socket.AF_INET) as server:
        server.settimeout(60)

        def serve() -> None:
            try:
                connection = server.accept()[0]
                with connection:
                    connection.settimeout(60)
                    behave(connection)
            except OSError as error:
                failed.append(error)

        thread = threading.Thread(target=serve)
        thread.start()
        yield server.getsockname()[1]
        thread.join()
    assert not failed


def echo(connection: socket.socket) -> None:
    while data := connection.recv(65536):
        connection.sendall(data)


def swallow(connection: socket.socket) -> None:
    """Reads to the end, then tells how much there was."""
    size = 0
    while data := connection.recv(65536):
        size += len(data)
    connection.sendall(b"%d" % size)


def reset(connection: socket.socket) -> None:
    connection.recv(1)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


# Who may go where


@pytest.mark.parametrize(
    ("allowed", "address", "wanted"),
    [
        ((), v4(80), "access-denied"),
        (("tcp://127.0.0.1:81",), v4(80), "access-denied"),
        (("udp://127.0.0.1:80",), v4(80), "access-denied"),
        (("http://127.0.0.1:80",), v4(80), "access-denied"),
        (("tcp://localhost:80",), v4(80), "access-denied"),
        (("tcp://10.0.0.0/8:80",), v4(80), "access-denied"),
        (("tcp://[::2]:80",), v6(80), "access-denied"),
        # 127.0.0.1 in IPv6: mapped, compatible, translated
        (("tcp://127.0.0.1:*",), v6(80, 0, 0, 0, 0, 0, 0xFFFF, 0x7F00, 1), "invalid-argument"),
        (("*://*:*",), v6(80, 0, 0, 0, 0, 0, 0xFFFF, 0x7F00, 1), "invalid-argument"),
        (("*://*:*",), v6(80, 0, 0, 0, 0, 0, 0, 0x7F00, 1), "invalid-argument"),
        (("tcp://127.0.0.1:*",), v6(80, 0x64, 0xFF9B, 0, 0, 0, 0, 0x7F00, 1), "access-denied"),
        # nobody's addresses
        (("*://*:*",), v4(0), "invalid-argument"),
        (("*://*:*",), v4(80, 0, 0, 0, 0), "invalid-argument"),
        (("*://*:*",), v4(80, 224, 0, 0, 1), "invalid-argument"),
        (("*://*:*",), v4(80, 255, 255, 255, 255), "invalid-argument"),
        (("*://*:*",), v6(80, *[0] * 8), "invalid-argument"),
        (("*://*:*",), v6(80, 0xFF02, 0, 0, 0, 0, 0, 0, 1), "invalid-argument"),
        (("*://*:*",), v6(80, flow=1 << 20), "invalid-argument"),
    ],
)
def test_refused_connections(guest: Guest, allowed: Any, address: Any, wanted: str) -> None:
    do = guest(allowed)
    sock = do.tcp(address[0])
    assert do.start_connect(address, sock) == Err(wanted)
    # nothing was begun
    assert do("tcp-socket.finish-connect", sock) == Err("not-in-progress")


@pytest.mark.parametrize(
    "allowed", ["tcp://127.0.0.1:{}", "*://127.0.0.1:*", "*://127.0.0.0/24:{}", "tcp://*:*"]
)
def test_allowed_connections(guest: Guest, allowed: str) -> None:
    with peer(echo) as port:
        do = guest((allowed.format(port),))
        do("tcp-socket.shutdown", do.connect(v4(port))[0], "both")


@pytest.mark.parametrize(
    ("blocked", "address"),
    [
        ("private", v4(80)),
        ("127.0.0.0/8", v4(80)),
        ("::1/128", v6(80)),
        ("127.0.0.0/8", v6(80, 0x64, 0xFF9B, 0, 0, 0, 0, 0x7F00, 1)),
    ],
)
def test_blocked_networks(guest: Guest, blocked: str, address: Any) -> None:
    do = guest(blocked=[blocked])
    assert do.start_connect(address) == Err("access-denied")
    sock = do("create-udp-socket", address[0])
    assert do("udp-socket.start-bind", sock, NETWORK, address) == Err("access-denied")


def test_names_are_not_looked_up(guest: Guest) -> None:
    do = guest()
    assert do("instance-network") is NETWORK
    assert do("resolve-addresses", NETWORK, "localhost") == Err("permanent-resolver-failure")


# How many


def test_sockets_of_an_instance_are_bounded(guest: Guest) -> None:
    do = guest()
    made = [do.tcp() for _ in range(MAX_SOCKETS)]
    assert do.tcp() == do("create-udp-socket", "ipv4") == Err("new-socket-limit")
    do.drop("tcp-socket", made.pop())
    assert not isinstance(do.tcp(), Err)


def test_sockets_of_all_instances_are_bounded(guest: Guest) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = v4(server.getsockname()[1])
        sockets = WasiSockets(Network(), 2)
        do, other = guest(sockets=sockets), guest(sockets=sockets)
        sock = do.tcp()
        datagrams = do("create-udp-socket", "ipv4")
        assert do.start_connect(address, sock) is None
        assert other("create-udp-socket", "ipv4") == Err("new-socket-limit")
        refused = other.tcp()
        assert other.start_connect(address, refused) == Err("new-socket-limit")
        do.drop("udp-socket", datagrams)
        assert other.start_connect(address, refused) is None
        assert do.ctx.run_closers() == other.ctx.run_closers() == []
        do = guest(sockets=sockets)
        assert [do.start_connect(address) for _ in range(3)] == [None, None, Err("new-socket-limit")]


def test_sockets_count_among_all_connections(guest: Guest) -> None:
    network = Network(max_connections=1)
    do = guest(sockets=WasiSockets(network, 5))
    place = network.places.take()
    assert place is not None
    assert do("create-udp-socket", "ipv4") == Err("new-socket-limit")
    place()
    assert not isinstance(do("create-udp-socket", "ipv4"), Err)
    assert network.places.take() is None
    assert do.ctx.run_closers() == []
    assert network.places.take() is not None


def test_an_instance_leaves_no_descriptor(guest: Guest) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        before = descriptors()
        do = guest()
        do.connect(v4(port))
        do.start_connect(v4(port))
        do.tcp()
        do("udp-socket.stream", do.udp(), v4(port))
        assert descriptors() > before
        assert do.ctx.run_closers() == []
        assert descriptors() <= before


def test_sockets_that_were_dropped_are_forgotten(guest: Guest) -> None:
    do = guest()
    for _ in range(MAX_SOCKETS + 1):
        do.drop("tcp-socket", do.tcp())
    assert len(do.ctx._closers) == 2  # one closes the sockets, one the loop
    assert [len(held) for held in do.ctx.state.values()] == [1]


def test_a_pollable_does_not_follow_another_socket(guest: Guest) -> None:
    """Numbers of descriptors are used again."""
    do = guest()
    with socket.create_server(("127.0.0.1", 0)) as server:
        _, source, sink = streams = do.connect(v4(server.getsockname()[1]))
        number = streams[0].sock.fileno()
        left = [source.pollable(), sink.pollable(), do("tcp-socket.subscribe", streams[0])]
        assert not left[0].ready()
        do.drop("tcp-socket", streams[0])
        assert not left[0].ready()  # its streams hold it
        source.close(do.ctx)
        sink.close(do.ctx)
        successor = do.tcp()
        assert successor.sock.fileno() == number
        assert all(pollable.ready() for pollable in left)
        assert [pollable.fd for pollable in left] == [None] * 3


# Options


@pytest.mark.parametrize(
    "family", ["ipv4", pytest.param("ipv6", marks=pytest.mark.skipif(not V6, reason="no IPv6"))]
)
def test_options(guest: Guest, family: str) -> None:
    do = guest()
    tcp, udp = do.tcp(family), do("create-udp-socket", family)
    assert do("tcp-socket.address-family", tcp) == do("udp-socket.address-family", udp) == family
    for sock, prefix, limit in (
        (tcp, "tcp-socket.", "hop-limit"),
        (udp, "udp-socket.", "unicast-hop-limit"),
    ):
        names = [limit, "receive-buffer-size", "send-buffer-size"]
        if sock is tcp:
            names += ["keep-alive-idle-time", "keep-alive-interval", "keep-alive-count"]
        for name in names:
            value = 2_000_000_000 if name[-4:] in ("time", "rval") else 65536 if "size" in name else 42
            assert do(f"{prefix}set-{name}", sock, 0) == Err("invalid-argument")
            assert do(f"{prefix}set-{name}", sock, value) is None
            assert do(f"{prefix}{name}", sock) == value
        for name in names[1:]:
            assert do(f"{prefix}set-{name}", sock, 2**32 - 1) is None
            assert 0 < do(f"{prefix}{name}", sock) <= 32767 * 10**9
    assert do("tcp-socket.keep-alive-enabled", tcp) is False
    assert do("tcp-socket.set-keep-alive-enabled", tcp, True) is None
    assert do("tcp-socket.keep-alive-enabled", tcp) is True
    # times are rounded to seconds, upwards
    assert do("tcp-socket.set-keep-alive-interval", tcp, 1) is None
    assert do("tcp-socket.keep-alive-interval", tcp) == 1_000_000_000


# TCP


def test_a_connection(guest: Guest) -> None:
    do = guest()
    with peer(echo) as port:
        sock, source, sink = do.connect(v4(port))
        assert do("tcp-socket.remote-address", sock) == v4(port)
        family, (local, octets) = do("tcp-socket.local-address", sock)
        assert (family, octets, local != port) == ("ipv4", (127, 0, 0, 1), True)
        assert wasi_io.read(do.ctx, source, 10) == b""
        assert wasi_io.blocking_write_and_flush(do.ctx, sink, b"hello") is None
        assert wasi_io.blocking_read(do.ctx, source, 2) == b"he"
        assert wasi_io.blocking_read(do.ctx, source, 100) == b"llo"
        sink.close(do.ctx)  # says that no more will come
        assert do.read_all(source) == b""


@pytest.mark.skipif(not V6, reason="no IPv6")
def test_a_connection_over_ipv6(guest: Guest) -> None:
    do = guest(("tcp://[::1]:*",))
    with peer(echo, "::1") as port:
        sock, source, sink = do.connect(v6(port))
        assert do("tcp-socket.remote-address", sock) == v6(port)
        assert do.write(sink, b"six") is None
        assert wasi_io.blocking_read(do.ctx, source, 100) == b"six"
        assert do("tcp-socket.shutdown", sock, "send") is None


def test_states_of_a_connection(guest: Guest) -> None:
    do = guest()
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = v4(server.getsockname()[1])
        sock = do.tcp()
        for name in ("finish-bind", "finish-connect", "finish-listen"):
            assert do(f"tcp-socket.{name}", sock) == Err("not-in-progress")
        for name in ("start-listen", "accept", "local-address", "remote-address"):
            assert do(f"tcp-socket.{name}", sock) == Err("invalid-state")
        assert do("tcp-socket.shutdown", sock, "both") == Err("invalid-state")
        assert do("tcp-socket.is-listening", sock) is False
        assert do("tcp-socket.set-listen-backlog-size", sock, 0) == Err("invalid-argument")
        assert do("tcp-socket.set-listen-backlog-size", sock, 5) is None
        assert do("tcp-socket.start-bind", sock, NETWORK, v4(0)) == Err("access-denied")
        assert do("tcp-socket.start-bind", sock, NETWORK, v6(0)) == Err("invalid-argument")
        subscribed = do("tcp-socket.subscribe", sock)
        assert subscribed.ready()
        assert do.start_connect(address, sock) is None
        for name, *arguments in (
            ("start-connect", NETWORK, address),
            ("start-bind", NETWORK, v4(0)),
            ("start-listen",),
        ):
            assert do(f"tcp-socket.{name}", sock, *arguments) == Err("concurrency-conflict")
        assert do("tcp-socket.set-listen-backlog-size", sock, 5) == Err("invalid-state")
        wasi_io.wait_any(do.ctx, [subscribed])
        assert len(do("tcp-socket.finish-connect", sock)) == 2
        assert do("tcp-socket.finish-connect", sock) == Err("not-in-progress")
        assert do.start_connect(address, sock) == Err("invalid-state")


def test_a_refused_connection(guest: Guest) -> None:
    do = guest()
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        sock = do.tcp()
        assert do.start_connect(v4(unused.getsockname()[1]), sock) is None
        wasi_io.wait_any(do.ctx, [do("tcp-socket.subscribe", sock)])
        assert do("tcp-socket.finish-connect", sock) == Err("connection-refused")
        assert do("tcp-socket.finish-connect", sock) == Err("not-in-progress")
        assert do.start_connect(v4(1), sock) == Err("invalid-state")
        assert do("tcp-socket.subscribe", sock).ready()


@pytest.mark.skipif(not V6, reason="no IPv6")
def test_a_connection_that_the_system_refuses_at_once(guest: Guest) -> None:
    do = guest()
    sock = do.tcp("ipv6")
    # of the local link, and no word of which
    assert do.start_connect(v6(80, 0xFE80, 0, 0, 0, 0, 0, 0, 1), sock) is None
    assert do("tcp-socket.subscribe", sock).ready()
    assert do("tcp-socket.finish-connect", sock) == Err("invalid-argument")


@pytest.fixture
def deaf() -> Iterator[int]:
    """The port of a server whose queue of connections is full: who connects waits."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen(0)
        waiting = [socket.socket() for _ in range(3)]
        for sock in waiting:
            sock.setblocking(False)
            sock.connect_ex(server.getsockname())
        yield server.getsockname()[1]
        for sock in waiting:
            sock.close()


def test_connecting_ends_at_the_deadline(guest: Guest, deaf: int) -> None:
    do = guest()
    sock = do.tcp()
    # subscribed before there is something to wait for, as wasi-libc does
    subscribed = do("tcp-socket.subscribe", sock)
    assert do.start_connect(v4(deaf), sock) is None
    assert do("tcp-socket.finish-connect", sock) == Err("would-block")
    do.ctx.deadline = Deadline(0.3)
    with pytest.raises(DeadlineExceeded):
        wasi_io.wait_any(do.ctx, [subscribed])


def test_a_silent_peer_ends_at_the_deadline(guest: Guest) -> None:
    do = guest()
    with socket.create_server(("127.0.0.1", 0)) as server:
        _, source, _ = do.connect(v4(server.getsockname()[1]))
        do.ctx.deadline = Deadline(0.3)
        with pytest.raises(DeadlineExceeded):
            wasi_io.blocking_read(do.ctx, source, 1)


def test_a_peer_that_does_not_read_ends_at_the_deadline(guest: Guest) -> None:
    do = guest()
    with socket.create_server(("127.0.0.1", 0)) as server:
        _, _, sink = do.connect(v4(server.getsockname()[1]))
        do.ctx.deadline = Deadline(0.5)

        def write_forever() -> None:
            while wasi_io.blocking_write_and_flush(do.ctx, sink, bytes(4096)) is None:
                pass

        with pytest.raises(DeadlineExceeded):
            write_forever()
        # what the system holds, and one permit
        assert len(sink._rest) <= MAX_BYTES
        started = time.monotonic()
        sink.close(do.ctx)
        assert time.monotonic() - started < 50


def test_a_permit_is_all_that_is_kept(guest: Guest) -> None:
    do = guest()
    with socket.create_server(("127.0.0.1", 0)) as server:
        _, _, sink = do.connect(v4(server.getsockname()[1]))
        do.fill(sink)
        assert 0 < len(sink._rest) <= MAX_BYTES
        with pytest.raises(Trap, match="permitted 0"):
            wasi_io.write(do.ctx, sink, b"x")


def test_a_flood_is_read_as_the_guest_likes(guest: Guest) -> None:
    do = guest()

    def flood(connection: socket.socket) -> None:
        try:
            while True:
                connection.sendall(bytes(1 << 20))
        except (BrokenPipeError, ConnectionResetError):
            pass

    with peer(flood) as port:
        sock, source, sink = do.connect(v4(port))
        for _ in range(100):
            assert 0 < len(wasi_io.blocking_read(do.ctx, source, 2**64 - 1)) <= MAX_BYTES
        for stream in (source, sink):
            stream.close(do.ctx)
        do.drop("tcp-socket", sock)


def test_a_peer_that_closes_its_side_can_be_written_to(guest: Guest) -> None:
    do = guest()
    got = []

    def half_close(connection: socket.socket) -> None:
        connection.sendall(b"bye")
        connection.shutdown(socket.SHUT_WR)
        got.append(connection.recv(10))

    with peer(half_close) as port:
        _, source, sink = do.connect(v4(port))
        assert do.read_all(source) == b"bye"
        assert wasi_io.read(do.ctx, source, 1) == Err(("closed", None))
        assert do.write(sink, b"and you") is None
    assert got == [b"and you"]


def test_a_peer_that_breaks_off(guest: Guest) -> None:
    do = guest()
    with peer(reset) as port:
        _, source, sink = do.connect(v4(port))
        assert do.write(sink, b"x") is None
        result = wasi_io.blocking_read(do.ctx, source, 1)
        assert isinstance(result, Err)
        assert result.value[0] == "last-operation-failed"
        assert result.value[1].debug.startswith("receiving failed")
        assert wasi_io.read(do.ctx, source, 1) == Err(("closed", None))
        assert do.write(sink, b"x") == Err(("closed", None))
        assert do.write(sink, b"x") == Err(("closed", None))
        assert sink.pollable().ready()


@pytest.mark.parametrize("how", ["send", "both"])
def test_shutdown_sends_what_was_written_first(guest: Guest, how: str) -> None:
    do = guest()
    got = []

    def late(connection: socket.socket) -> None:
        go.wait(60)
        size = 0
        while data := connection.recv(1 << 20):
            size += len(data)
        got.append(size)

    go = threading.Event()
    with peer(late) as port:
        sock, source, sink = do.connect(v4(port))
        written = do.fill(sink)
        assert sink._rest
        assert do("tcp-socket.shutdown", sock, how) is None
        assert do("tcp-socket.shutdown", sock, how) is None
        assert wasi_io.check_write(do.ctx, sink) == 0
        go.set()
        assert wasi_io.blocking_flush(do.ctx, sink) == Err(("closed", None))
        if how == "both":  # else the peer may have closed its side by now, or not
            assert wasi_io.read(do.ctx, source, 1) == Err(("closed", None))
    assert got == [written]


def test_shutdown_of_receiving_drops_what_is_there(guest: Guest) -> None:
    do = guest()
    with peer(echo) as port:
        sock, source, sink = do.connect(v4(port))
        assert do.write(sink, b"hello") is None
        wasi_io.wait_any(do.ctx, [source.pollable()])
        assert do("tcp-socket.shutdown", sock, "receive") is None
        assert wasi_io.read(do.ctx, source, 10) == Err(("closed", None))
        assert source.pollable().ready()
        assert do("tcp-socket.shutdown", sock, "send") is None


def test_a_dropped_stream_sends_what_was_written_first(guest: Guest) -> None:
    do = guest()
    with peer(swallow) as port:
        sock, source, sink = do.connect(v4(port))
        do.drop("tcp-socket", sock)
        for _ in range(100):
            assert wasi_io._blocking_write(do.ctx, sink, bytes(MAX_BYTES)) is None
        assert do.write(sink, bytes(MAX_BYTES)) is None
        sink.close(do.ctx)
        assert not wasi_io.background(do.ctx)
        assert do.read_all(source) == b"%d" % (101 * MAX_BYTES)


def test_what_was_written_is_sent_while_the_guest_waits_for_the_answer(guest: Guest) -> None:
    do = guest()
    go = threading.Event()
    size = []

    def behave(connection: socket.socket) -> None:
        go.wait(60)
        left = size[0]
        while left:
            left -= len(connection.recv(left))
        connection.sendall(b"got it")

    with peer(behave) as port:
        _, source, sink = do.connect(v4(port))
        size.append(do.fill(sink))
        assert sink._rest
        go.set()
        assert wasi_io.blocking_read(do.ctx, source, 100) == b"got it"
        assert do.ctx.state[wasi_io.background] == set()


def test_without_poll(guest: Guest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows has select.select alone."""
    monkeypatch.delattr(select, "poll")
    do = guest()
    with peer(echo) as port:
        _, source, sink = do.connect(v4(port))
        wasi_io.waker(do.ctx).wake()
        assert wasi_io.blocking_write_and_flush(do.ctx, sink, b"hello") is None
        assert wasi_io.blocking_read(do.ctx, source, 100) == b"hello"
        sink.close(do.ctx)
        assert do.read_all(source) == b""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        sock = do.tcp()
        assert do.start_connect(v4(unused.getsockname()[1]), sock) is None
        wasi_io.wait_any(do.ctx, [do("tcp-socket.subscribe", sock)])
        assert do("tcp-socket.finish-connect", sock) == Err("connection-refused")
    wasi_io.wait_any(do.ctx, [wasi_io.Timer(time.monotonic() + 0.01)])
    incoming, _ = do("udp-socket.stream", do.udp(), None)
    do.ctx.deadline = Deadline(0.1)
    with pytest.raises(DeadlineExceeded):
        do.wait(incoming)


# UDP


@contextmanager
def datagrams(host: str = "127.0.0.1") -> Iterator[socket.socket]:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        sock.settimeout(60)
        sock.bind((host, 0))
        yield sock


def test_datagrams_to_anybody(guest: Guest) -> None:
    do = guest()
    with datagrams() as one, datagrams() as two:
        ports = [sock.getsockname()[1] for sock in (one, two)]
        incoming, outgoing = do("udp-socket.stream", do.udp(), None)
        assert do("incoming-datagram-stream.receive", incoming, 10) == []
        assert do("incoming-datagram-stream.receive", incoming, 0) == []
        sent = [(b"one", v4(ports[0])), (b"", v4(ports[1])), (bytes(60000), v4(ports[1]))]
        assert do.send(outgoing, *sent) == 3
        assert [one.recv(9), two.recv(9), len(two.recv(65536))] == [b"one", b"", 60000]
        local = do("udp-socket.local-address", incoming.owner)
        one.sendto(b"1", ("127.0.0.1", local[1][0]))
        do.wait(incoming)
        assert do("incoming-datagram-stream.receive", incoming, 10) == [(b"1", v4(ports[0]))]


@pytest.mark.skipif(not V6, reason="no IPv6")
def test_datagrams_over_ipv6(guest: Guest) -> None:
    do = guest()
    with datagrams("::1") as other:
        address = v6(other.getsockname()[1])
        incoming, outgoing = do("udp-socket.stream", do.udp(v6(0)), address)
        assert do.send(outgoing, (b"six", None)) == 1
        data, sender = other.recvfrom(10)
        other.sendto(data * 2, sender)
        do.wait(incoming)
        assert do("incoming-datagram-stream.receive", incoming, 10) == [(b"sixsix", address)]


def test_datagrams_of_others_do_not_come_from_the_one_peer(guest: Guest) -> None:
    do = guest()
    with datagrams() as peer, datagrams() as stranger:
        sock = do.udp()
        local = ("127.0.0.1", do("udp-socket.local-address", sock)[1][0])
        address = v4(peer.getsockname()[1])
        stranger.sendto(b"early", local)
        incoming, outgoing = do("udp-socket.stream", sock, address)
        assert do("udp-socket.remote-address", sock) == address
        stranger.sendto(b"late", local)
        peer.sendto(b"peer", local)
        got: list[Any] = []
        while not got:
            do.wait(incoming)
            got = do("incoming-datagram-stream.receive", incoming, 10)
        assert got == [(b"peer", address)]
        assert do.send(outgoing, (b"a", address)) == do.send(outgoing, (b"b", None)) == 1
        assert [peer.recv(9), peer.recv(9)] == [b"a", b"b"]
        assert do.send(outgoing, (b"c", v4(stranger.getsockname()[1]))) == Err("invalid-argument")


def test_streams_belong_to_the_last_peer(guest: Guest) -> None:
    do = guest()
    with datagrams() as one, datagrams() as two:
        sock = do.udp()
        local = do("udp-socket.local-address", sock)
        stale = do("udp-socket.stream", sock, v4(one.getsockname()[1]))
        for peer in (two, one, None, two, None):
            address = peer and v4(peer.getsockname()[1])
            incoming, outgoing = do("udp-socket.stream", sock, address)
            assert do("udp-socket.local-address", sock) == local
            remote = do("udp-socket.remote-address", sock)
            assert remote == (Err("invalid-state") if address is None else address)
            assert do.send(outgoing, (b"x", address or v4(one.getsockname()[1]))) == 1
            data, sender = (peer or one).recvfrom(9)
            (peer or one).sendto(data, sender)
            do.wait(incoming)
            assert len(do("incoming-datagram-stream.receive", incoming, 9)) == 1
            assert do("incoming-datagram-stream.receive", stale[0], 1) == Err("invalid-state")
            assert do("outgoing-datagram-stream.check-send", stale[1]) == Err("invalid-state")
            assert do("outgoing-datagram-stream.send", stale[1], []) == Err("invalid-state")
            assert do("incoming-datagram-stream.subscribe", stale[0]).ready()
            stale = incoming, outgoing


def test_states_of_binding(guest: Guest) -> None:
    do = guest(("udp://127.0.0.1:0",))
    sock = do("create-udp-socket", "ipv4")
    assert do("udp-socket.finish-bind", sock) == Err("not-in-progress")
    assert do("udp-socket.local-address", sock) == Err("invalid-state")
    assert do("udp-socket.remote-address", sock) == Err("invalid-state")
    assert do("udp-socket.stream", sock, None) == Err("invalid-state")
    assert do("udp-socket.start-bind", sock, NETWORK, v6(0)) == Err("invalid-argument")
    assert do("udp-socket.start-bind", sock, NETWORK, v4(1)) == Err("access-denied")
    assert do("udp-socket.start-bind", sock, NETWORK, v4(0)) is None
    assert do("udp-socket.start-bind", sock, NETWORK, v4(0)) == Err("concurrency-conflict")
    assert do("udp-socket.stream", sock, None) == Err("invalid-state")
    assert do("udp-socket.subscribe", sock).ready()
    assert do("udp-socket.finish-bind", sock) is None
    assert do("udp-socket.finish-bind", sock) == Err("not-in-progress")
    assert do("udp-socket.start-bind", sock, NETWORK, v4(0)) == Err("invalid-state")
    assert do("udp-socket.local-address", sock)[1][0] > 0


def test_an_address_in_use_or_of_others(guest: Guest) -> None:
    do = guest()
    with datagrams() as other:
        sock = do("create-udp-socket", "ipv4")
        taken = v4(other.getsockname()[1])
        assert do("udp-socket.start-bind", sock, NETWORK, taken) == Err("address-in-use")
        foreign = v4(0, 192, 0, 2, 1)
        assert do("udp-socket.start-bind", sock, NETWORK, foreign) == Err("address-not-bindable")


def test_refused_datagrams(guest: Guest) -> None:
    with datagrams() as other:
        good = v4(other.getsockname()[1])
        do = guest(("udp://127.0.0.1:0", f"udp://127.0.0.1:{good[1][0]}"))
        sock = do.udp()
        _, outgoing = do("udp-socket.stream", sock, None)
        assert do.send(outgoing, (b"x", None)) == Err("invalid-argument")
        assert do.send(outgoing, (b"x", v4(0))) == Err("invalid-argument")
        assert do.send(outgoing, (b"x", v6(80))) == Err("invalid-argument")
        assert do.send(outgoing, (b"x", v4(9))) == Err("access-denied")
        assert do.send(outgoing, (bytes(65536), good)) == Err("datagram-too-large")
        # the first ones went out, so there is no error
        assert do.send(outgoing, (b"1", good), (b"2", good), (b"3", v4(9)), (b"4", good)) == 2
        assert [other.recv(9), other.recv(9)] == [b"1", b"2"]
        assert do("udp-socket.stream", sock, v4(9)) == Err("access-denied")
        assert do("udp-socket.stream", sock, v4(0)) == Err("invalid-argument")
        # what failed has not touched the streams
        assert do.send(outgoing, (b"5", good)) == 1


def test_sending_is_permitted_before(guest: Guest) -> None:
    do = guest()
    with datagrams() as other:
        address = v4(other.getsockname()[1])
        _, outgoing = do("udp-socket.stream", do.udp(), address)
        assert do("outgoing-datagram-stream.send", outgoing, []) == 0
        with pytest.raises(Trap, match="permitted 0"):
            do("outgoing-datagram-stream.send", outgoing, [(b"x", None)])
        with pytest.raises(Trap, match="permitted 16"):
            do.send(outgoing, *[(b"x", None)] * 17)
        assert do.send(outgoing, (b"x", None)) == 1
        with pytest.raises(Trap, match="permitted 0"):
            do("outgoing-datagram-stream.send", outgoing, [(b"x", None)])


def test_what_is_received_at_once_is_bounded(guest: Guest) -> None:
    do = guest()
    with datagrams() as other:
        sock = do.udp()
        incoming, _ = do("udp-socket.stream", sock, None)
        local = ("127.0.0.1", do("udp-socket.local-address", sock)[1][0])
        for _ in range(MAX_DATAGRAMS + 4):
            other.sendto(b"x", local)
        time.sleep(0.1)  # the system hands them over one by one
        do.wait(incoming)
        assert len(do("incoming-datagram-stream.receive", incoming, 2**64 - 1)) == MAX_DATAGRAMS
        assert len(do("incoming-datagram-stream.receive", incoming, 3)) == 3
        assert len(do("incoming-datagram-stream.receive", incoming, 2**64 - 1)) == 1
        for _ in range(3):
            other.sendto(bytes(40000), local)
        time.sleep(0.1)
        do.wait(incoming)
        got = [len(do("incoming-datagram-stream.receive", incoming, 16)) for _ in range(2)]
        assert got == [2, 1]


def test_a_peer_that_is_not_there(guest: Guest) -> None:
    do = guest()
    with datagrams() as gone:
        gone.connect(("127.0.0.1", 9))  # and hears nobody else
        incoming, outgoing = do("udp-socket.stream", do.udp(), v4(gone.getsockname()[1]))
        assert do.send(outgoing, (b"x", None)) == 1
        do.wait(incoming)
        assert do("incoming-datagram-stream.receive", incoming, 1) == Err("connection-refused")


def test_waiting_for_a_datagram_ends_at_the_deadline(guest: Guest) -> None:
    do = guest()
    incoming, _ = do("udp-socket.stream", do.udp(), None)
    do.ctx.deadline = Deadline(0.3)
    with pytest.raises(DeadlineExceeded):
        do.wait(incoming)


def test_streams_hold_their_socket(guest: Guest) -> None:
    do = guest()
    with datagrams() as other:
        sock = do.udp()
        incoming, outgoing = do("udp-socket.stream", sock, v4(other.getsockname()[1]))
        do.drop("udp-socket", sock)
        assert do.send(outgoing, (b"x", None)) == 1
        do.drop("incoming-datagram-stream", incoming)
        assert not sock.closed
        do.drop("outgoing-datagram-stream", outgoing)
        assert sock.closed
        assert do("incoming-datagram-stream.subscribe", incoming).ready()


# Whole guests

HELLO = "hello from a guest"
TCP_USES = {
    "wasi:sockets/instance-network@0.2.0": ("instance-network",),
    "wasi:sockets/tcp-create-socket@0.2.0": ("create-tcp-socket",),
    "wasi:sockets/tcp@0.2.0": (
        *("[method]tcp-socket.start-connect", "[method]tcp-socket.finish-connect"),
        *("[method]tcp-socket.subscribe", "[method]tcp-socket.shutdown", "[resource-drop]tcp-socket"),
    ),
    "wasi:io/poll@0.2.0": ("[method]pollable.block",),
    "wasi:io/streams@0.2.0": (
        *("[method]output-stream.blocking-write-and-flush", "[method]input-stream.blocking-read"),
        *("[resource-drop]input-stream", "[resource-drop]output-stream"),
    ),
}
UDP_USES = {
    "wasi:sockets/instance-network@0.2.3": ("instance-network",),
    "wasi:sockets/udp-create-socket@0.2.3": ("create-udp-socket",),
    "wasi:sockets/udp@0.2.3": (
        *("[method]udp-socket.start-bind", "[method]udp-socket.finish-bind", "[method]udp-socket.stream"),
        *("[method]outgoing-datagram-stream.check-send", "[method]outgoing-datagram-stream.send"),
        *("[method]incoming-datagram-stream.subscribe", "[method]incoming-datagram-stream.receive"),
    ),
    "wasi:io/poll@0.2.0": ("[method]pollable.block",),
}
# A result at 16: answers with 500 and the number of the error-code.
CHECK = """(if (i32.load8_u (i32.const 16)) (then
  (i32.store8 (i32.const 512) (i32.add (i32.const 48) (i32.load8_u (i32.const {error}))))
  (call $answer (local.get $out) (i32.const 500) (i32.const 512) (i32.const 1)) (return)))"""


def flat(port: int) -> str:
    """127.0.0.1 as an ip-socket-address."""
    return f"(i32.const 0) (i32.const {port}) (i32.const 127) (i32.const 0) (i32.const 0) (i32.const 1)" + (
        " (i32.const 0)" * 6
    )


def tcp_guest(port: int) -> str:
    """Sends HELLO to the port, answers with what comes back first."""
    return f"""(local $socket i32) (local $in i32) (local $sink i32)
      (call $create-tcp-socket (i32.const 0) (i32.const 16)) {CHECK.format(error=20)}
      (local.set $socket (i32.load (i32.const 20)))
      (call $tcp-socket.start-connect (local.get $socket) (call $instance-network)
        {flat(port)} (i32.const 16)) {CHECK.format(error=17)}
      (call $pollable.block (call $tcp-socket.subscribe (local.get $socket)))
      (call $tcp-socket.finish-connect (local.get $socket) (i32.const 16)) {CHECK.format(error=20)}
      (local.set $in (i32.load (i32.const 20)))
      (local.set $sink (i32.load (i32.const 24)))
      (call $output-stream.blocking-write-and-flush (local.get $sink)
        (i32.const 1024) (i32.const {len(HELLO)}) (i32.const 16))
      (if (i32.load8_u (i32.const 16)) (then unreachable))
      (call $tcp-socket.shutdown (local.get $socket) (i32.const 1) (i32.const 16)) {CHECK.format(error=17)}
      (call $input-stream.blocking-read (local.get $in) (i64.const 4096) (i32.const 32))
      (if (i32.load8_u (i32.const 32)) (then unreachable))
      (call $drop.input-stream (local.get $in))
      (call $drop.output-stream (local.get $sink))
      (call $drop.tcp-socket (local.get $socket))
      (call $answer (local.get $out) (i32.const 200) (i32.load (i32.const 36)) (i32.load (i32.const 40)))"""


def udp_guest(port: int) -> str:
    return f"""(local $socket i32) (local $in i32) (local $sink i32)
      (call $create-udp-socket (i32.const 0) (i32.const 16)) {CHECK.format(error=20)}
      (local.set $socket (i32.load (i32.const 20)))
      (call $udp-socket.start-bind (local.get $socket) (call $instance-network) {flat(0)} (i32.const 16))
      {CHECK.format(error=17)}
      (call $udp-socket.finish-bind (local.get $socket) (i32.const 16)) {CHECK.format(error=17)}
      (call $udp-socket.stream (local.get $socket) (i32.const 1) {flat(port)} (i32.const 16))
      {CHECK.format(error=20)}
      (local.set $in (i32.load (i32.const 20)))
      (local.set $sink (i32.load (i32.const 24)))
      (call $outgoing-datagram-stream.check-send (local.get $sink) (i32.const 16)) {CHECK.format(error=24)}
      (i32.store (i32.const 64) (i32.const 1024))
      (i32.store (i32.const 68) (i32.const {len(HELLO)}))
      (call $outgoing-datagram-stream.send (local.get $sink) (i32.const 64) (i32.const 1) (i32.const 16))
      {CHECK.format(error=24)}
      (call $pollable.block (call $incoming-datagram-stream.subscribe (local.get $in)))
      (call $incoming-datagram-stream.receive (local.get $in) (i64.const 10) (i32.const 16))
      {CHECK.format(error=20)}
      (if (i32.ne (i32.load (i32.const 24)) (i32.const 1)) (then unreachable))
      (call $answer (local.get $out) (i32.const 200)
        (i32.load (i32.load (i32.const 20))) (i32.load offset=4 (i32.load (i32.const 20))))"""


@pytest.fixture
def ask_guest(application: Any, components: Any, ask: Any) -> Callable[..., tuple[int, bytes]]:
    """What a guest answers whose `allowed_outbound_hosts` are these; "{}" is the port."""

    def ask_guest(
        make: Callable[[int], str], uses: Any, port: int, *allowed: str, runtime: str = "", extra: str = ""
    ) -> tuple[int, bytes]:
        data = f'(data (i32.const 1024) "{HELLO}")'
        hosts = [entry.replace("{}", str(port)) for entry in allowed]
        part = application.part(components.http(make(port), uses, data=data), allowed_outbound_hosts=hosts)
        file = application.folder / "runtime.toml"
        file.write_text(runtime)
        gateway = application(extra, {"runtime_config": file}, a=part)
        answered: tuple[int, bytes] = ask(gateway, "/a")
        return answered

    return ask_guest


VARIABLES = '[variables]\nnetwork = { default = "127.0.0" }\n'


@pytest.mark.parametrize(
    ("allowed", "extra"),
    [
        ("tcp://127.0.0.1:{}", ""),
        ("*://127.0.0.1:{}", ""),
        ("*://127.0.0.0/24:{}", ""),
        ("*://{{ network }}.0/24:{}", VARIABLES),
    ],
)
def test_a_guest_of_tcp(ask_guest: Any, allowed: str, extra: str) -> None:
    with peer(echo) as port:
        assert ask_guest(tcp_guest, TCP_USES, port, allowed, extra=extra) == (200, HELLO.encode())


@pytest.mark.parametrize(
    ("allowed", "more", "answer"),
    [
        ((), {}, b"1"),
        (("*://127.0.0.2:{}",), {}, b"1"),
        (("*://127.0.0.1:1",), {}, b"1"),
        (("http://127.0.0.1:{}",), {}, b"1"),
        (("*://{{ network }}.0/24:{}",), {"extra": VARIABLES.replace("127.0.0", "127.0.1")}, b"1"),
        (("*://*:*",), {"runtime": '[outbound_networking]\nblock_networks = ["private"]'}, b"1"),
        (("*://*:*",), {"runtime": "[outbound_networking]\nmax_socket_connections = 0"}, b":"),
        (("*://*:*",), {"runtime": "[outbound_networking]\nmax_total_connections = 0"}, b":"),
        (("*://*:*",), {}, b">"),  # connection-refused: nobody listens
    ],
)
def test_a_guest_of_tcp_is_refused(ask_guest: Any, allowed: Any, more: Any, answer: bytes) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        assert ask_guest(tcp_guest, TCP_USES, port, *allowed, **more) == (500, answer)


@pytest.mark.parametrize(
    ("allowed", "status"),
    [
        (("udp://127.0.0.1:0", "udp://127.0.0.1:{}"), 200),
        (("*://127.0.0.1:*",), 200),
        (("udp://127.0.0.1:{}",), 500),  # it may not bind
        (("udp://127.0.0.1:0",), 500),
        (("tcp://127.0.0.1:*",), 500),
    ],
)
def test_a_guest_of_udp(ask_guest: Any, allowed: Any, status: int) -> None:
    with datagrams() as other:

        def serve() -> None:
            data, sender = other.recvfrom(100)
            other.sendto(data[::-1], sender)

        thread = threading.Thread(target=serve)
        if status == 200:
            thread.start()
        got = ask_guest(udp_guest, UDP_USES, other.getsockname()[1], *allowed)
        assert got == (status, HELLO.encode()[::-1] if status == 200 else b"1")
        if status == 200:
            thread.join()


def test_a_guest_leaves_nothing_open(application: Any, components: Any, ask: Any) -> None:
    data = f'(data (i32.const 1024) "{HELLO}")'
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        body = tcp_guest(port).partition("(call $output-stream.blocking-write-and-flush")[0]
        wasm = components.http(body + "unreachable", TCP_USES, data=data)
        gateway = application(a=application.part(wasm, allowed_outbound_hosts=["tcp://127.0.0.1:*"]))
        assert ask(gateway, "/a")[0] == 500
        before = descriptors()
        for _ in range(20):
            assert ask(gateway, "/a")[0] == 500
            server.accept()[0].close()
        assert descriptors() <= before


def test_a_guest_that_waits_for_ever_ends_at_its_deadline(
    application: Any, components: Any, ask: Any
) -> None:
    data = f'(data (i32.const 1024) "{HELLO}")'
    with socket.create_server(("127.0.0.1", 0)) as server:
        wasm = components.http(tcp_guest(server.getsockname()[1]), TCP_USES, data=data)
        part = application.part(wasm, allowed_outbound_hosts=["tcp://127.0.0.1:*"], tool={"timeout": "300ms"})
        assert ask(application(a=part), "/a")[0] == 504
