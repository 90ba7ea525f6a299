# wasi:sockets 0.3: sockets and policy are those of 0.2 (wasi/sockets.py, wasi/tcp.py,
# wasi/udp.py), streams those of the Component Model (Spin: host interfaces, 2).
#
# Rule 1: whom a guest may reach is decided there. TCP does not bind and does not listen, no
# name is looked up.
# Rule 2: a UDP socket that the guest did not bind is bound when it first sends or connects,
# without being asked for. It hears only those to whom it has sent.

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ...component.concurrency import wait
from ...component.values import Err
from ..base import HostContext
from ..wasi.io import IoError
from ..wasi.sockets import (
    ACCESS_DENIED,
    INVALID_STATE,
    MAX_BYTES,
    Address,
    IpAddress,
    Readiness,
    WasiSockets,
    failure,
    readable,
    writable,
)
from ..wasi.tcp import TcpSocket, WasiTcp, start_bind
from ..wasi.udp import UdpSocket, WasiUdp
from .streams import given, refused, taken

_TEXT = """
package wasi:sockets@0.3.0;
interface types {
  use wasi:clocks/types@0.3.0.{duration};
  variant error-code {
    access-denied, not-supported, invalid-argument, out-of-memory, timeout, invalid-state,
    address-not-bindable, address-in-use, remote-unreachable, connection-refused, connection-broken,
    connection-reset, connection-aborted, datagram-too-large, other(option<string>),
  }
  enum ip-address-family { ipv4, ipv6 }
  type ipv4-address = tuple<u8, u8, u8, u8>;
  type ipv6-address = tuple<u16, u16, u16, u16, u16, u16, u16, u16>;
  variant ip-address { ipv4(ipv4-address), ipv6(ipv6-address) }
  record ipv4-socket-address { port: u16, address: ipv4-address }
  record ipv6-socket-address { port: u16, flow-info: u32, address: ipv6-address, scope-id: u32 }
  variant ip-socket-address { ipv4(ipv4-socket-address), ipv6(ipv6-socket-address) }
  resource tcp-socket {
    create: static func(address-family: ip-address-family) -> result<tcp-socket, error-code>;
    bind: func(local-address: ip-socket-address) -> result<_, error-code>;
    connect: async func(remote-address: ip-socket-address) -> result<_, error-code>;
    listen: func() -> result<stream<tcp-socket>, error-code>;
    send: func(data: stream<u8>) -> future<result<_, error-code>>;
    receive: func() -> tuple<stream<u8>, future<result<_, error-code>>>;
    get-local-address: func() -> result<ip-socket-address, error-code>;
    get-remote-address: func() -> result<ip-socket-address, error-code>;
    get-is-listening: func() -> bool;
    get-address-family: func() -> ip-address-family;
    set-listen-backlog-size: func(value: u64) -> result<_, error-code>;
    get-keep-alive-enabled: func() -> result<bool, error-code>;
    set-keep-alive-enabled: func(value: bool) -> result<_, error-code>;
    get-keep-alive-idle-time: func() -> result<duration, error-code>;
    set-keep-alive-idle-time: func(value: duration) -> result<_, error-code>;
    get-keep-alive-interval: func() -> result<duration, error-code>;
    set-keep-alive-interval: func(value: duration) -> result<_, error-code>;
    get-keep-alive-count: func() -> result<u32, error-code>;
    set-keep-alive-count: func(value: u32) -> result<_, error-code>;
    get-hop-limit: func() -> result<u8, error-code>;
    set-hop-limit: func(value: u8) -> result<_, error-code>;
    get-receive-buffer-size: func() -> result<u64, error-code>;
    set-receive-buffer-size: func(value: u64) -> result<_, error-code>;
    get-send-buffer-size: func() -> result<u64, error-code>;
    set-send-buffer-size: func(value: u64) -> result<_, error-code>;
  }
  resource udp-socket {
    create: static func(address-family: ip-address-family) -> result<udp-socket, error-code>;
    bind: func(local-address: ip-socket-address) -> result<_, error-code>;
    connect: func(remote-address: ip-socket-address) -> result<_, error-code>;
    disconnect: func() -> result<_, error-code>;
    send: async func(data: list<u8>, remote-address: option<ip-socket-address>) -> result<_, error-code>;
    receive: async func() -> result<tuple<list<u8>, ip-socket-address>, error-code>;
    get-local-address: func() -> result<ip-socket-address, error-code>;
    get-remote-address: func() -> result<ip-socket-address, error-code>;
    get-address-family: func() -> ip-address-family;
    get-unicast-hop-limit: func() -> result<u8, error-code>;
    set-unicast-hop-limit: func(value: u8) -> result<_, error-code>;
    get-receive-buffer-size: func() -> result<u64, error-code>;
    set-receive-buffer-size: func(value: u64) -> result<_, error-code>;
    get-send-buffer-size: func() -> result<u64, error-code>;
    set-send-buffer-size: func(value: u64) -> result<_, error-code>;
  }
}
interface ip-name-lookup {
  use types.{ip-address};
  variant error-code {
    access-denied, invalid-argument, name-unresolvable, temporary-resolver-failure,
    permanent-resolver-failure, other(option<string>),
  }
  resolve-addresses: async func(name: string) -> result<list<ip-address>, error-code>;
}
"""
TYPES, LOOKUP = "wasi:sockets/types@0.3", "wasi:sockets/ip-name-lookup@0.3"
INTERFACES = {TYPES: _TEXT, LOOKUP: _TEXT}

# The most that a datagram has (RFC 768: its length is a u16).
MAX_DATAGRAM = 65535
# Whom an unbound socket hears; whoever it sent to longest ago is forgotten first.
MAX_PEERS = 1024

# What 0.2 has and 0.3 has not; the text is Spin's.
_OTHERS: dict[str, tuple[str, str | None]] = {
    "unknown": ("other", None),
    "would-block": ("other", None),
    "concurrency-conflict": ("invalid-state", None),
    "not-in-progress": ("invalid-state", None),
    "new-socket-limit": ("other", "connection quota exhausted"),
}

# What both kinds of sockets tell under a name of their own in 0.2 ("hop-limit", "set-hop-limit"), and with
# "get-" in 0.3.
_BOTH = ("local-address", "remote-address", "address-family", "receive-buffer-size", "send-buffer-size")
_TCP = (
    *("is-listening", "listen-backlog-size", "keep-alive-enabled", "keep-alive-idle-time"),
    *("keep-alive-interval", "keep-alive-count", "hop-limit"),
)
_UDP = ("unicast-hop-limit",)

_ANY = {
    "ipv4": Address(("ipv4", (0, (0, 0, 0, 0)))),
    "ipv6": Address(("ipv6", (0, 0, (0, 0, 0, 0, 0, 0, 0, 0), 0))),
}


def error_code(code: str) -> tuple[str, str | None]:
    """An error-code of 0.2 among those of 0.3."""
    return _OTHERS.get(code, (code, None))


def code(error: IoError | None) -> tuple[str, str | None]:
    """The error-code of a connection's stream."""
    return error_code("connection-broken" if error is None else getattr(error, "code", "unknown"))


def told(result: Any) -> Any:
    return Err(error_code(result.value)) if isinstance(result, Err) else result


def _telling(function: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *arguments: told(function(*arguments))


def _properties(
    before: dict[str, Callable[..., Any]], resource: str, names: tuple[str, ...]
) -> dict[str, Callable[..., Any]]:
    method = f"[method]{resource}."
    found = {
        f"{method}{new}-{name}": before.get(f"{method}{old}{name}")
        for name in names
        for new, old in (("get", ""), ("set", "set-"))
    }
    return {name: _telling(function) for name, function in found.items() if function is not None}


# TCP


def bind(ctx: HostContext, sock: TcpSocket, wit: Any) -> Any:
    return told(start_bind(ctx, sock, None, wit))


def listen(ctx: HostContext, sock: TcpSocket) -> Any:
    # which would bind it
    return told(ACCESS_DENIED if sock.state == "unbound" else INVALID_STATE)


def send(ctx: HostContext, sock: TcpSocket, data: Any) -> Any:
    output, sock.output = sock.output, None
    if output is None:
        data.drop()
        return Err(("invalid-state", None))
    return taken(ctx, data, output, code)


def receive(ctx: HostContext, sock: TcpSocket) -> Any:
    source, sock.input = sock.input, None
    return refused(("invalid-state", None)) if source is None else given(source, code)


def drop(ctx: HostContext, sock: TcpSocket) -> None:
    """The guest's handle is gone, and with it the sides of the connection that nobody has asked for."""
    for side in (sock.input, sock.output):
        if side is not None:
            sock.release()
    sock.input = sock.output = None
    sock.release()


# UDP


class DatagramSocket(UdpSocket):
    """The resource udp-socket. `peers` are the only ones whom it hears, None for anybody."""

    peers: dict[IpAddress, None] | None = None

    def bind_itself(self) -> Err | None:
        """Bind to a port that the system chooses, unless it is bound."""
        if self.state != "unbound":
            return None
        refused = self.start_bind(_ANY[self.family])
        if refused is None:
            self.finish_bind()
            self.peers = {}
        found: Err | None = refused
        return found

    def hear(self, ip: IpAddress) -> None:
        if self.peers is not None:
            self.peers.pop(ip, None)
            self.peers[ip] = None
            if len(self.peers) > MAX_PEERS:
                del self.peers[next(iter(self.peers))]

    def hears(self, sender: Address) -> bool:
        if self.remote is not None:
            # some that others sent may have been waiting already
            return self.remote == sender
        return self.peers is None or sender.ip in self.peers


def disconnect(ctx: HostContext, sock: DatagramSocket) -> Any:
    if sock.remote is None:
        return told(INVALID_STATE)
    try:
        sock.connect(None)
    except OSError as error:
        return told(failure(error))
    return None


async def receive_datagram(ctx: HostContext, sock: DatagramSocket) -> Any:
    if sock.state == "unbound":
        return told(INVALID_STATE)
    while True:
        ctx.deadline.remaining()  # strangers may send all the time
        try:
            data, name = sock.sock.recvfrom(MAX_BYTES)
        except BlockingIOError:
            await wait(readable(sock))
        except OSError as error:
            return told(failure(error))
        else:
            sender = Address.of(name)
            if sock.hears(sender):
                return data, sender.wit


class Sockets:
    """wasi:sockets 0.3, over the sockets of 0.2 and with their limits."""

    def __init__(self, sockets: WasiSockets, tcp: WasiTcp, udp: WasiUdp) -> None:
        self._tcp = tcp
        self._udp = udp
        drop_udp = "[resource-drop]udp-socket"
        tcp_before = tcp.functions("wasi:sockets/tcp@0.2")
        udp_before = udp.functions("wasi:sockets/udp@0.2")
        self._functions: dict[str, dict[str, Callable[..., Any]]] = {
            TYPES: {
                "[static]tcp-socket.create": _telling(tcp.create),
                "[method]tcp-socket.bind": bind,
                "[method]tcp-socket.connect": self.connect,
                "[method]tcp-socket.listen": listen,
                "[method]tcp-socket.send": send,
                "[method]tcp-socket.receive": receive,
                "[resource-drop]tcp-socket": drop,
                **_properties(tcp_before, "tcp-socket", _BOTH + _TCP),
                "[static]udp-socket.create": lambda ctx, family: told(
                    udp.create(ctx, family, DatagramSocket)
                ),
                "[method]udp-socket.bind": self.bind_datagrams,
                "[method]udp-socket.connect": self.connect_datagrams,
                "[method]udp-socket.disconnect": disconnect,
                "[method]udp-socket.send": self.send_datagram,
                "[method]udp-socket.receive": receive_datagram,
                drop_udp: udp_before[drop_udp],
                **_properties(udp_before, "udp-socket", _BOTH + _UDP),
            },
            # Spin does not look names up for guests either
            LOOKUP: {"resolve-addresses": lambda ctx, name: Err(("permanent-resolver-failure", None))},
        }

    def functions(self, interface: str) -> dict[str, Callable[..., Any]]:
        return self._functions[interface]

    def close(self) -> None:
        pass

    async def connect(self, ctx: HostContext, sock: TcpSocket, wit: Any) -> Any:
        refused = self._tcp.start_connect(ctx, sock, None, wit)
        if refused is not None:
            return told(refused)
        await wait(Readiness(sock, sock.pending))
        result = sock.finish_connect()
        return told(result) if isinstance(result, Err) else None

    def bind_datagrams(self, ctx: HostContext, sock: DatagramSocket, wit: Any) -> Any:
        refused = self._udp.start_bind(ctx, sock, None, wit)
        return told(sock.finish_bind() if refused is None else refused)

    def connect_datagrams(self, ctx: HostContext, sock: DatagramSocket, wit: Any) -> Any:
        address = Address(wit)
        refused = self._udp.refuse_peer(ctx, sock, address) or sock.bind_itself()
        if refused is not None:
            return told(refused)
        try:
            sock.connect(address)
        except OSError as error:
            return told(failure(error))
        sock.hear(address.ip)
        return None

    async def send_datagram(self, ctx: HostContext, sock: DatagramSocket, data: bytes, wit: Any) -> Any:
        if len(data) > MAX_DATAGRAM:
            return Err(("datagram-too-large", None))
        address = None if wit is None else Address(wit)
        while True:
            # each time: another task of the guest may have connected it meanwhile
            refused = self._udp.refuse(ctx, sock, address) or sock.bind_itself()
            if refused is not None:
                return told(refused)
            try:
                sock.send(data, address)
            except BlockingIOError:
                await wait(writable(sock))
            except OSError as error:
                return told(failure(error))
            else:
                if address is not None:
                    sock.hear(address.ip)
                return None
