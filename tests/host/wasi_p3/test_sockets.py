"""wasi:sockets 0.3 against real peers: its words and streams over the sockets of wasi/test_sockets.py."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from types import CoroutineType
from typing import Any

import pytest

from tests.host.giving import give
from tests.host.wasi.test_sockets import ANY, V6, datagrams, descriptors, echo, peer, reset, swallow, v4, v6
from tests.wasi_p3_wat import BYTES, CommandToolkit, pipes
from wasm_gateway.component.streams import HostStream, SharedStream
from wasm_gateway.component.types import U8Type
from wasm_gateway.component.values import Err, Ok
from wasm_gateway.errors import DeadlineExceeded
from wasm_gateway.host.base import Deadline
from wasm_gateway.host.network import Network
from wasm_gateway.host.outbound import BlockedNetworks
from wasm_gateway.host.wasi.sockets import MAX_SOCKETS, WasiSockets
from wasm_gateway.host.wasi.tcp import WasiTcp
from wasm_gateway.host.wasi.udp import WasiUdp
from wasm_gateway.host.wasi_p3 import sockets as wasi_p3_sockets
from wasm_gateway.host.wasi_p3.sockets import LOOKUP, MAX_DATAGRAM, TYPES, Sockets

RC = "0.3.0-rc-2026-03-15"


def error(code: str, text: str | None = None) -> Err:
    return Err((code, text))


DENIED, INVALID, STATE = error("access-denied"), error("invalid-argument"), error("invalid-state")
QUOTA = error("other", "connection quota exhausted")


class Functions:
    """The functions for one instance, called by their names; a coroutine is waited for."""

    def __init__(self, ctx: Any, sockets: WasiSockets) -> None:
        self.ctx = ctx
        family = Sockets(sockets, WasiTcp(sockets), WasiUdp(sockets))
        self.table = family.functions(TYPES) | family.functions(LOOKUP)

    def begin(self, name: str, *arguments: Any) -> Any:
        return (self.table.get(name) or self.table[f"[method]{name}"])(self.ctx, *arguments)

    def __call__(self, name: str, *arguments: Any) -> Any:
        result = self.begin(name, *arguments)
        return self.ctx.run(result)[0][1] if isinstance(result, CoroutineType) else result

    def tcp(self, family: str = "ipv4") -> Any:
        return self("[static]tcp-socket.create", family)

    def udp(self, family: str = "ipv4") -> Any:
        return self("[static]udp-socket.create", family)

    def connect(self, address: Any) -> Any:
        sock = self.tcp(address[0])
        assert self("tcp-socket.connect", sock, address) is None
        return sock

    def drop(self, resource: str, sock: Any) -> None:
        self.table[f"[resource-drop]{resource}"](self.ctx, sock)

    # Streams

    def receive(self, sock: Any) -> tuple[Any, Any]:
        source, promise = self("tcp-socket.receive", sock)
        return HostStream(self.ctx.loop, U8Type(), source), promise

    def read_all(self, stream: Any) -> bytes:
        got = b""
        while data := self.ctx.run(stream.take(1 << 20))[0][1]:
            got += data
        return got

    def send(self, sock: Any) -> tuple[SharedStream, Any]:
        stream = SharedStream(U8Type())
        return stream, self("tcp-socket.send", sock, stream)

    def give(self, stream: SharedStream, data: bytes) -> bool:
        took: bool = self.ctx.run(give(stream, data))[0][1]
        return took

    def end(self, promise: Any) -> Any:
        if isinstance(promise, Err):
            return promise
        found: list[Any] = []
        promise.then(found.append)
        self.ctx.loop.run_until(lambda: bool(found))
        return found[0]


Guest = Callable[..., Functions]


@pytest.fixture
def guest(context: Any) -> Guest:
    """Makes the functions of an instance: `guest(allowed, blocked=["private"], limit=2)`."""

    def guest(
        allowed: Any = ANY, *, blocked: Any = (), limit: int | None = None, seconds: float = 120.0
    ) -> Functions:
        network = Network(BlockedNetworks(blocked).blocks)
        return Functions(context(allowed=allowed, seconds=seconds), WasiSockets(network, limit))

    return guest


# Who may go where


@pytest.mark.parametrize(
    ("allowed", "address", "wanted"),
    [
        ((), v4(80), DENIED),
        (("tcp://127.0.0.1:81", "udp://127.0.0.1:80"), v4(80), DENIED),
        (("tcp://[::2]:80",), v6(80), DENIED),
        (ANY, v6(80, 0, 0, 0, 0, 0, 0xFFFF, 0x7F00, 1), INVALID),
        (ANY, v4(0), INVALID),
        (ANY, v4(80, 224, 0, 0, 1), INVALID),
    ],
)
def test_refused_connections(guest: Guest, allowed: Any, address: Any, wanted: Err) -> None:
    do = guest(allowed)
    sock = do.tcp(address[0])
    assert do("tcp-socket.connect", sock, address) == wanted
    assert do("tcp-socket.get-remote-address", sock) == STATE


def test_blocked_networks(guest: Guest) -> None:
    do = guest(blocked=["private"])
    assert do("tcp-socket.connect", do.tcp(), v4(80)) == DENIED
    sock = do.udp()
    assert do("udp-socket.connect", sock, v4(80)) == DENIED
    assert do("udp-socket.send", sock, b"x", v4(80)) == DENIED
    assert do("udp-socket.bind", sock, v4(0)) == DENIED
    assert do("udp-socket.get-local-address", sock) == STATE


def test_tcp_neither_binds_nor_listens(guest: Guest) -> None:
    do = guest()
    sock = do.tcp()
    assert do("tcp-socket.bind", sock, v4(0)) == DENIED
    assert do("tcp-socket.bind", sock, v6(0)) == INVALID
    assert do("tcp-socket.listen", sock) == DENIED
    assert do("tcp-socket.get-is-listening", sock) is False
    assert do("tcp-socket.get-local-address", sock) == STATE
    with peer(echo) as port:
        sock = do.connect(v4(port))
        assert do("tcp-socket.listen", sock) == do("tcp-socket.bind", sock, v4(0)) == STATE
        do.drop("tcp-socket", sock)


def test_names_are_not_looked_up(guest: Guest) -> None:
    assert guest()("resolve-addresses", "localhost") == error("permanent-resolver-failure")


def test_sockets_are_bounded_in_number(guest: Guest) -> None:
    do = guest()
    made = [do.tcp() for _ in range(MAX_SOCKETS)]
    assert do.tcp() == do.udp() == QUOTA
    do.drop("tcp-socket", made.pop())
    assert not isinstance(do.udp(), Err)
    do = guest(limit=1)
    with peer(lambda connection: None) as port:
        do.connect(v4(port))
        assert do("tcp-socket.connect", do.tcp(), v4(port)) == QUOTA
        assert do.udp() == QUOTA


# TCP


@pytest.mark.parametrize(
    "address", [v4, pytest.param(v6, marks=pytest.mark.skipif(not V6, reason="no IPv6"))]
)
def test_a_connection(guest: Guest, address: Any) -> None:
    do = guest()
    sent = bytes(range(256)) * 4096
    with peer(echo, "::1" if address is v6 else "127.0.0.1") as port:
        sock = do.connect(address(port))
        assert do("tcp-socket.get-remote-address", sock) == address(port)
        assert do("tcp-socket.get-local-address", sock)[0] == do("tcp-socket.get-address-family", sock)
        stream, sending = do.send(sock)
        source, receiving = do.receive(sock)
        got: list[bytes] = []

        async def read() -> None:
            while data := await source.take(1 << 16):
                got.append(data)

        async def write() -> None:
            assert await give(stream, sent)
            stream.drop()

        do.ctx.run(read(), write())
        assert b"".join(got) == sent
        assert do.end(sending) == do.end(receiving) == Ok()
        source.drop()
        do.drop("tcp-socket", sock)
        assert sock.closed


def test_streams_are_given_once(guest: Guest) -> None:
    do = guest()
    with peer(echo) as port:
        unconnected = do.tcp()
        sock = do.connect(v4(port))
        used = do.send(sock), do.receive(sock)
        for other in (unconnected, sock):
            stream, sending = do.send(other)
            source, receiving = do.receive(other)
            assert do.end(sending) == do.end(receiving) == STATE
            assert do.read_all(source) == b""
            assert do.give(stream, b"x") is False
        assert do("tcp-socket.connect", sock, v4(port)) == STATE
        assert used[0][1] is not used[1][1]
        assert do.ctx.run_closers() == []


def test_streams_outlive_the_socket(guest: Guest) -> None:
    do = guest()
    with peer(swallow) as port:
        sock = do.connect(v4(port))
        (stream, sending), (source, receiving) = do.send(sock), do.receive(sock)
        do.drop("tcp-socket", sock)
        assert do.give(stream, b"12345")
        stream.drop()
        assert do.end(sending) == Ok()
        assert (do.read_all(source), do.end(receiving)) == (b"5", Ok())
        assert not sock.closed
        source.drop()
        assert sock.closed


def test_a_socket_without_streams_is_closed_with_its_handle(guest: Guest) -> None:
    do = guest()
    with peer(echo) as port:
        sock = do.connect(v4(port))
        do.drop("tcp-socket", sock)
        assert sock.closed
    with peer(swallow) as port:
        sock = do.connect(v4(port))
        stream, sending = do.send(sock)
        do.drop("tcp-socket", sock)
        do.give(stream, b"x")
        stream.drop()
        assert do.end(sending) == Ok()
        assert sock.closed


def test_a_refused_connection(guest: Guest) -> None:
    do = guest()
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        sock = do.tcp()
        address = v4(unused.getsockname()[1])
        assert do("tcp-socket.connect", sock, address) == error("connection-refused")
    assert do("tcp-socket.connect", sock, address) == STATE
    assert do.end(do.send(sock)[1]) == STATE


def test_a_peer_that_breaks_off(guest: Guest) -> None:
    do = guest()
    with peer(reset) as port:
        sock = do.connect(v4(port))
        (stream, sending), (source, receiving) = do.send(sock), do.receive(sock)
        assert do.give(stream, b"x")
        assert do.read_all(source) == b""
        assert do.end(receiving) == error("connection-reset")
        # the system tells it once; then nothing can be sent any more
        while do.give(stream, b"more"):
            pass
        assert do.end(sending) in (error("connection-broken"), error("connection-reset"))


def test_a_slow_peer_holds_the_guest_up(guest: Guest) -> None:
    """What is written waits in the guest's own memory."""
    goes_on = threading.Event()

    def slow(connection: socket.socket) -> None:
        goes_on.wait(60)
        swallow(connection)

    do = guest()
    with peer(slow) as port:
        sock = do.connect(v4(port))
        (stream, sending), (source, receiving) = do.send(sock), do.receive(sock)
        sent = [0]

        async def write() -> None:
            for _ in range(64):
                assert await give(stream, bytes(1 << 20))
                sent[0] += 1
            stream.drop()

        hosted = do.ctx.loop.spawn(write())
        while do.ctx.loop.step():
            pass
        assert not hosted.over
        assert sent[0] < 64
        goes_on.set()
        assert (do.read_all(source), do.end(receiving), do.end(sending)) == (b"%d" % (64 << 20), Ok(), Ok())


def test_a_peer_that_does_not_read_ends_at_the_deadline(guest: Guest) -> None:
    do = guest()
    with socket.create_server(("127.0.0.1", 0)) as server:
        sock = do.connect(v4(server.getsockname()[1]))
        do.ctx.deadline = Deadline(0.2)
        stream, _ = do.send(sock)

        async def write() -> None:
            while await give(stream, bytes(1 << 20)):
                pass

        with pytest.raises(DeadlineExceeded):
            do.ctx.run(write())
        source, _ = do.receive(sock)
        with pytest.raises(DeadlineExceeded):
            do.read_all(source)


def test_an_instance_leaves_no_descriptor(guest: Guest) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        before = descriptors()
        do = guest()
        for _ in range(3):
            sock = do.connect(v4(port))
            stream, _ = do.send(sock)
            do.receive(sock)
            do.give(stream, b"x")
        do.ctx.loop.spawn(do.begin("tcp-socket.connect", do.tcp(), v4(port)))
        do("udp-socket.connect", do.udp(), v4(port))
        assert descriptors() > before
        assert do.ctx.run_closers() == []
        assert descriptors() <= before


def test_properties(guest: Guest) -> None:
    do = guest()
    for resource, make, names in (
        ("tcp-socket", do.tcp, ("hop-limit", "keep-alive-count")),
        ("udp-socket", do.udp, ("unicast-hop-limit",)),
    ):
        sock = make()
        assert do(f"{resource}.get-address-family", sock) == "ipv4"
        for name in names:
            assert do(f"{resource}.set-{name}", sock, 0) == INVALID
            assert do(f"{resource}.set-{name}", sock, 7) is None
            assert do(f"{resource}.get-{name}", sock) == 7
        for name in ("receive-buffer-size", "send-buffer-size"):
            assert do(f"{resource}.set-{name}", sock, 0) == INVALID
            assert do(f"{resource}.set-{name}", sock, 8192) is None
            assert do(f"{resource}.get-{name}", sock) >= 4096
    sock = do.tcp()
    assert do("tcp-socket.set-keep-alive-enabled", sock, True) is None
    assert do("tcp-socket.get-keep-alive-enabled", sock) is True
    assert do("tcp-socket.set-keep-alive-idle-time", sock, 0) == INVALID
    assert do("tcp-socket.set-keep-alive-idle-time", sock, 5_000_000_000) is None
    assert do("tcp-socket.get-keep-alive-idle-time", sock) == 5_000_000_000
    assert do("tcp-socket.set-listen-backlog-size", sock, 0) == INVALID
    assert do("tcp-socket.set-listen-backlog-size", sock, 5) is None


# UDP


def test_datagrams(guest: Guest) -> None:
    do = guest()
    with datagrams() as other:
        address = v4(other.getsockname()[1])
        sock = do.udp()
        assert do("udp-socket.bind", sock, v4(0)) is None
        assert do("udp-socket.bind", sock, v4(0)) == STATE
        assert do("udp-socket.send", sock, b"one", address) is None
        data, sender = other.recvfrom(100)
        assert data == b"one"
        assert do("udp-socket.get-local-address", sock) == v4(sender[1])
        other.sendto(b"two", sender)
        assert do("udp-socket.receive", sock) == (b"two", address)


def test_a_socket_that_binds_itself_hears_whom_it_has_sent_to(guest: Guest) -> None:
    """It may send to one host and be bound to none."""
    with datagrams() as other, datagrams("127.0.0.2") as stranger:
        port = other.getsockname()[1]
        do = guest([f"udp://127.0.0.1:{port}"])
        sock = do.udp()
        assert do("udp-socket.receive", sock) == STATE
        assert do("udp-socket.bind", sock, v4(0)) == DENIED
        assert do("udp-socket.send", sock, b"x", v4(stranger.getsockname()[1], 127, 0, 0, 2)) == DENIED
        assert do("udp-socket.get-local-address", sock) == STATE
        assert do("udp-socket.send", sock, b"one", v4(port)) is None
        data, sender = other.recvfrom(100)
        assert data == b"one"
        assert do("udp-socket.get-local-address", sock)[1][0] == sender[1]
        stranger.sendto(b"no", ("127.0.0.1", sender[1]))
        other.sendto(b"yes", ("127.0.0.1", sender[1]))
        assert do("udp-socket.receive", sock) == (b"yes", v4(port))


def test_peers_are_bounded_in_number(guest: Guest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wasi_p3_sockets, "MAX_PEERS", 2)
    do = guest()
    sock = do.udp()
    for last in (2, 3, 2, 4):
        assert do("udp-socket.send", sock, b"", v4(9, 127, 0, 0, last)) is None
    assert [str(ip) for ip in sock.peers] == ["127.0.0.2", "127.0.0.4"]


def test_one_peer(guest: Guest) -> None:
    do = guest()
    with datagrams() as other, datagrams() as stranger:
        address, strange = v4(other.getsockname()[1]), v4(stranger.getsockname()[1])
        sock = do.udp()
        assert do("udp-socket.disconnect", sock) == do("udp-socket.get-remote-address", sock) == STATE
        assert do("udp-socket.send", sock, b"x", None) == INVALID
        assert do("udp-socket.connect", sock, address) is None
        assert do("udp-socket.get-remote-address", sock) == address
        local = do("udp-socket.get-local-address", sock)[1][0]
        assert do("udp-socket.send", sock, b"one", None) is None
        assert do("udp-socket.send", sock, b"two", address) is None
        assert do("udp-socket.send", sock, b"x", strange) == INVALID
        assert [other.recvfrom(100)[0] for _ in range(2)] == [b"one", b"two"]
        stranger.sendto(b"no", ("127.0.0.1", local))
        other.sendto(b"yes", ("127.0.0.1", local))
        assert do("udp-socket.receive", sock) == (b"yes", address)
        # another one, and then none
        assert do("udp-socket.connect", sock, strange) is None
        assert do("udp-socket.send", sock, b"three", None) is None
        assert stranger.recvfrom(100)[0] == b"three"
        assert do("udp-socket.disconnect", sock) is None
        assert do("udp-socket.get-remote-address", sock) == STATE
        assert do("udp-socket.get-local-address", sock)[1][0] == local
        assert do("udp-socket.send", sock, b"four", address) is None
        assert other.recvfrom(100)[0] == b"four"


def test_refused_datagrams(guest: Guest) -> None:
    do = guest()
    sock = do.udp()
    assert do("udp-socket.send", sock, bytes(MAX_DATAGRAM + 1), v4(9)) == error("datagram-too-large")
    assert do("udp-socket.send", sock, bytes(MAX_DATAGRAM), v4(9)) == error("datagram-too-large")
    for address in (v4(0), v4(9, 0, 0, 0, 0), v6(9)):
        assert do("udp-socket.send", sock, b"x", address) == INVALID
        assert do("udp-socket.connect", sock, address) == INVALID
    assert do("udp-socket.bind", do.udp(), v6(0)) == INVALID


def test_a_peer_that_is_not_there(guest: Guest) -> None:
    do = guest()
    with datagrams() as gone:
        gone.connect(("127.0.0.1", 9))  # and hears nobody else
        sock = do.udp()
        assert do("udp-socket.connect", sock, v4(gone.getsockname()[1])) is None
        assert do("udp-socket.send", sock, b"x", None) is None
        assert do("udp-socket.receive", sock) == error("connection-refused")


def test_waiting_for_a_datagram_ends_at_the_deadline(guest: Guest) -> None:
    do = guest()
    sock = do.udp()
    assert do("udp-socket.bind", sock, v4(0)) is None
    do.ctx.deadline = Deadline(0.05)
    with pytest.raises(DeadlineExceeded):
        do("udp-socket.receive", sock)


# Whole commands, by WAGI

HELLO = "content-type: text/plain\n\nhello"
TCP = "[method]tcp-socket."
# A result at 64 that is an error: the exit code is 100 and the number of its case.
CHECK = """(if (i32.load8_u (i32.const 64)) (then
  (call $exit-with-code (i32.add (i32.const 100) (i32.load8_u (i32.const 68))))))"""
# Sends what is at 0 to the port, receives it, writes it to stdout by giving that the stream; `connect` is
# asynchronous: its arguments lie at 128.
TALK = """(local $socket i32) (local $sent i32) (local $set i32)
  (call $tcp-socket.create (i32.const 0) (i32.const 64)) {CHECK}
  (local.set $socket (i32.load (i32.const 68)))
  (i32.store (i32.const 128) (local.get $socket))
  (i32.store16 (i32.const 136) (i32.const {port})) (i32.store (i32.const 138) (i32.const 0x0100007f))
  (local.set $sent (call $tcp-socket.connect~ (i32.const 128) (i32.const 64)))
  (if (i32.ne (i32.const 2) (local.get $sent)) (then
    (local.set $set (call $set.new))
    (call $join (i32.shr_u (local.get $sent) (i32.const 4)) (local.get $set))
    (drop (call $set.wait (local.get $set) (i32.const 200)))
    (call $join (i32.shr_u (local.get $sent) (i32.const 4)) (i32.const 0))
    (call $subtask.drop (i32.shr_u (local.get $sent) (i32.const 4)))))
  {CHECK}
  (call $open)
  (local.set $sent (call $tcp-socket.send (local.get $socket) (global.get $rx)))
  (call $write (i32.const 0) (i32.const {size}))
  (call $end)
  (call $tcp-socket.receive (local.get $socket) (i32.const 80))
  (call $drop.tcp-socket (local.get $socket))
  (drop (call $write-via-stream (i32.load (i32.const 80))))
  (call $check (local.get $sent))
  (call $check (i32.load (i32.const 84)))
  (call $return (i32.const 0)) (i32.const 0)"""


@pytest.fixture(scope="module")
def toolkit() -> CommandToolkit:
    return CommandToolkit()


Run = Callable[..., tuple[int, bytes]]


@pytest.fixture
def run(application: Any, toolkit: CommandToolkit, ask: Any) -> Run:
    """What the command TALK answers that talks to the port and may reach `allowed`."""

    def run(port: int, *allowed: str, version: str = "0.3.0", **settings: Any) -> tuple[int, bytes]:
        uses = {
            "wasi:cli/stdout@0.3.0": ("write-via-stream",),
            "wasi:cli/exit@0.3.0": ("exit-with-code",),
            "wasi:sockets/types@0.3.0": (
                *("[static]tcp-socket.create", f"{TCP}send", f"{TCP}receive", "[resource-drop]tcp-socket"),
            ),
        }
        text = HELLO.replace("\n", "\\n")
        wasm = toolkit.command(
            TALK.format(CHECK=CHECK, port=port, size=len(HELLO)),
            uses,
            ends=BYTES,
            data=f'(data (i32.const 0) "{text}")' + pipes(4),
            async_uses={"wasi:sockets/types@0.3.0": (f"{TCP}connect",)},
            version=version,
        )
        part = application.part(wasm, wagi=True, allowed_outbound_hosts=list(allowed), **settings)
        answer: tuple[int, bytes] = ask(application(a=part), "/a")
        return answer

    return run


@pytest.mark.parametrize("version", ["0.3.0", RC])
def test_a_command(run: Run, version: str) -> None:
    with peer(echo) as port:
        assert run(port, f"tcp://127.0.0.1:{port}", version=version) == (200, b"hello")


def test_a_command_is_refused(run: Run, caplog: Any) -> None:
    assert run(9, "tcp://127.0.0.1:10", "udp://127.0.0.1:9") == (500, b"")
    assert "exited with code 100" in caplog.text  # access-denied


def test_a_command_that_nobody_hears(run: Run, caplog: Any) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        assert run(unused.getsockname()[1], "tcp://127.0.0.1:*") == (500, b"")
    assert "exited with code 109" in caplog.text  # connection-refused


def test_a_command_that_waits_for_ever_ends_at_its_deadline(run: Run) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        settings = {"tool.wasm-gateway": {"timeout": "200ms"}}
        assert run(server.getsockname()[1], "tcp://127.0.0.1:*", **settings)[0] == 504
