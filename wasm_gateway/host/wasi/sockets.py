# wasi:sockets 0.2: the network, and what TCP (tcp.py) and UDP (udp.py) share
# (Spin: host interfaces, 2).
#
# Rule 1: as in Spin, a guest goes to addresses and never to names, and each address that
# it connects to, binds to or sends to has to be in `allowed_outbound_hosts` (tcp://,
# udp://) and in no blocked network. What holds for IPv4 cannot be evaded through an IPv6
# address that embeds it: sockets are of one family, mapped addresses are refused.
# Rule 2: a call never blocks. A guest waits through pollables, which end at its deadline.
# Rule 3: sockets are bounded in number and closed with their instance at the latest. A
# descriptor is open as long as the guest holds the socket or one of its streams, and
# pollables ask the socket for its descriptor each time: its number may be another's by then.

from __future__ import annotations

import errno
import ipaddress
import socket
import sys
from collections.abc import Callable
from typing import Any, TypeVar

from ...component.values import Err
from ..base import HostContext
from ..network import Network
from ..pools import Places
from .io import READABLE, READY, WRITABLE, IoError, Pollable, wait_descriptors

_TEXT = """
package wasi:sockets@0.2.0;
interface network {
  resource network;
  enum error-code {
    unknown, access-denied, not-supported, invalid-argument, out-of-memory, timeout, concurrency-conflict,
    not-in-progress, would-block, invalid-state, new-socket-limit, address-not-bindable, address-in-use,
    remote-unreachable, connection-refused, connection-reset, connection-aborted, datagram-too-large,
    name-unresolvable, temporary-resolver-failure, permanent-resolver-failure,
  }
  enum ip-address-family { ipv4, ipv6 }
  type ipv4-address = tuple<u8, u8, u8, u8>;
  type ipv6-address = tuple<u16, u16, u16, u16, u16, u16, u16, u16>;
  variant ip-address { ipv4(ipv4-address), ipv6(ipv6-address) }
  record ipv4-socket-address { port: u16, address: ipv4-address }
  record ipv6-socket-address { port: u16, flow-info: u32, address: ipv6-address, scope-id: u32 }
  variant ip-socket-address { ipv4(ipv4-socket-address), ipv6(ipv6-socket-address) }
}
interface instance-network {
  use network.{network};
  instance-network: func() -> network;
}
interface ip-name-lookup {
  use wasi:io/poll@0.2.0.{pollable};
  use network.{network, error-code, ip-address};
  resolve-addresses: func(network: borrow<network>, name: string)
    -> result<resolve-address-stream, error-code>;
  resource resolve-address-stream {
    resolve-next-address: func() -> result<option<ip-address>, error-code>;
    subscribe: func() -> pollable;
  }
}
"""
INTERFACES = {f"wasi:sockets/{name}@0.2": _TEXT for name in ("network", "instance-network", "ip-name-lookup")}

# Sockets that one instance may have.
MAX_SOCKETS = 64
# Bytes that a call takes or gives at most.
MAX_BYTES = 64 << 10
# What a guest may ask the system to keep for each direction of a socket; the system has limits of its own.
MAX_BUFFER = 1 << 20
# flow-info has 32 bits in WIT, and 20 in the header of IPv6 (RFC 8200, 3).
MAX_FLOW_INFO = 0xFFFFF

_ERRORS = {
    "access-denied": "EACCES EPERM",
    "not-supported": "EAFNOSUPPORT ENOPROTOOPT EOPNOTSUPP EPFNOSUPPORT EPROTONOSUPPORT ESOCKTNOSUPPORT",
    "invalid-argument": "EINVAL",
    "out-of-memory": "ENOBUFS ENOMEM",
    "timeout": "ETIMEDOUT",
    "invalid-state": "EDESTADDRREQ EISCONN ENOTCONN",
    "new-socket-limit": "EMFILE ENFILE",
    "address-not-bindable": "EADDRNOTAVAIL",
    "address-in-use": "EADDRINUSE",
    "remote-unreachable": "EHOSTDOWN EHOSTUNREACH ENETDOWN ENETUNREACH ENONET",
    "connection-refused": "ECONNREFUSED",
    "connection-reset": "ECONNRESET",
    "connection-aborted": "ECONNABORTED",
    "datagram-too-large": "EMSGSIZE",
}
_CODES = {
    getattr(errno, name): code
    for code, names in _ERRORS.items()
    for name in names.split()
    if hasattr(errno, name)
}

ACCESS_DENIED = Err("access-denied")
CONCURRENCY_CONFLICT = Err("concurrency-conflict")
INVALID_ARGUMENT = Err("invalid-argument")
INVALID_STATE = Err("invalid-state")
NEW_SOCKET_LIMIT = Err("new-socket-limit")
NOT_IN_PROGRESS = Err("not-in-progress")
NOT_SUPPORTED = Err("not-supported")
WOULD_BLOCK = Err("would-block")


def failure(error: OSError) -> Err:
    """The error-code for an error of the system."""
    return Err(_CODES.get(error.errno or 0, "unknown"))


class SocketError(IoError):
    """An io error of a socket's stream; `code` is an error-code."""

    __slots__ = ("code",)

    def __init__(self, what: str, error: OSError) -> None:
        super().__init__(f"{what} failed: {error.strerror}")
        self.code: str = failure(error).value


# Addresses

IpAddress = ipaddress.IPv4Address | ipaddress.IPv6Address


class Address:
    """An ip-socket-address. `name` is what socket functions of Python take, `wit` the guest's value."""

    def __init__(self, wit: Any) -> None:
        self.wit = wit
        self.family, fields = wit
        self.ip: IpAddress
        if self.family == "ipv4":
            self.port, octets = fields
            self.ip = ipaddress.IPv4Address(bytes(octets))
            self.name: tuple[Any, ...] = (str(self.ip), self.port)
        else:
            self.port, self.flow_info, words, scope = fields
            self.ip = ipaddress.IPv6Address(b"".join(word.to_bytes(2, "big") for word in words))
            self.name = (str(self.ip), self.port, self.flow_info, scope)

    @classmethod
    def of(cls, name: tuple[Any, ...]) -> Address:
        """The address that a socket function of Python gave."""
        if len(name) == 2:
            return cls(("ipv4", (name[1], tuple(ipaddress.IPv4Address(name[0]).packed))))
        packed = ipaddress.IPv6Address(name[0].partition("%")[0]).packed
        words = tuple(int.from_bytes(packed[at : at + 2], "big") for at in range(0, 16, 2))
        return cls(("ipv6", (name[1], name[2], words, name[3])))

    def __eq__(self, other: object) -> bool:
        """Whether both are the same endpoint, whatever their flow-info and scope-id."""
        return isinstance(other, Address) and (self.ip, self.port) == (other.ip, other.port)

    __hash__ = None  # type: ignore[assignment]

    def fits(self, family: str) -> bool:
        """Whether a socket of this family can use the address: IPv4 in IPv6 is not for IPv6 sockets."""
        if self.family != family:
            return False
        if isinstance(self.ip, ipaddress.IPv4Address):
            return True
        mapped = self.ip.ipv4_mapped is not None
        compatible = 1 < int(self.ip) < 1 << 32  # RFC 4291, 2.5.5.1; neither :: nor ::1
        return not mapped and not compatible and self.flow_info <= MAX_FLOW_INFO

    @property
    def is_unicast(self) -> bool:
        return not self.ip.is_multicast and self.ip != _BROADCAST

    @property
    def is_remote(self) -> bool:
        """Whether it can be somebody's."""
        return self.port != 0 and not self.ip.is_unspecified


_BROADCAST = ipaddress.IPv4Address("255.255.255.255")


# Sockets


class Socket:
    """What tcp-socket and udp-socket share; open from the first `retain` to the last `release`."""

    def __init__(self, family: str, sock: socket.socket) -> None:
        self.family = family
        self.sock = sock
        self.give_back: Callable[[], object] | None = None  # its place among all sockets
        self._holders = 0
        self._hop_limit = (
            (socket.IPPROTO_IP, socket.IP_TTL)
            if family == "ipv4"
            else (socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS)
        )

    @property
    def closed(self) -> bool:
        return self.sock.fileno() < 0

    def retain(self) -> None:
        self._holders += 1

    def release(self) -> None:
        self._holders -= 1
        if not self._holders:
            self.close()

    def close(self) -> None:
        self.sock.close()
        give_back, self.give_back = self.give_back, None
        if give_back is not None:
            give_back()

    def ready(self, event: int) -> bool:
        """Whether it is ready for `event`, or never will be."""
        return self.closed or wait_descriptors([(self.sock.fileno(), event)], 0)

    def local_address(self) -> Any:
        try:
            return Address.of(self.sock.getsockname()).wit
        except OSError as error:
            return failure(error)

    # Options

    def option(self, level: int, name: int) -> Any:
        try:
            return self.sock.getsockopt(level, name)
        except OSError as error:
            return failure(error)

    def set_option(self, level: int, name: int, value: int) -> Any:
        try:
            self.sock.setsockopt(level, name, value)
        except OSError as error:
            return failure(error)
        return None

    def hop_limit(self) -> Any:
        return self.option(*self._hop_limit)

    def set_hop_limit(self, value: int) -> Any:
        return self.set_option(*self._hop_limit, value) if value else INVALID_ARGUMENT

    def buffer_size(self, name: int) -> Any:
        size = self.option(socket.SOL_SOCKET, name)
        # Linux doubles what it is told, for its own overhead (socket(7), SO_RCVBUF)
        return size // 2 if sys.platform == "linux" and not isinstance(size, Err) else size

    def set_buffer_size(self, name: int, value: int) -> Any:
        if not value:
            return INVALID_ARGUMENT
        self.set_option(socket.SOL_SOCKET, name, min(value, MAX_BUFFER))
        return None  # "Any other value will never cause an error"


class Readiness(Pollable):
    """Ready when a socket is, for the event that `wanted` names then; None is ready."""

    def __init__(self, sock: Socket, wanted: Callable[[], int | None]) -> None:
        self._sock = sock
        self._wanted = wanted

    def ready(self) -> bool:
        event = None if self._sock.closed else self._wanted()
        # whoever waits asks this first, and looks at the descriptor right afterwards
        self.fd = None if event is None else (self._sock.sock.fileno(), event)
        return event is None or self._sock.ready(event)


def readable(sock: Socket) -> Pollable:
    return Readiness(sock, lambda: READABLE)


def writable(sock: Socket) -> Pollable:
    return Readiness(sock, lambda: WRITABLE)


def methods(resource: str, prefix: str = "") -> dict[str, Callable[..., Any]]:
    """The functions that both resources have; that of the hop limit begins with `prefix` in its name."""
    receive, send = socket.SO_RCVBUF, socket.SO_SNDBUF
    functions: dict[str, Callable[..., Any]] = {
        "address-family": lambda ctx, sock: sock.family,
        "local-address": lambda ctx, sock: sock.local_address(),
        "remote-address": lambda ctx, sock: sock.remote_address(),
        f"{prefix}hop-limit": lambda ctx, sock: sock.hop_limit(),
        f"set-{prefix}hop-limit": lambda ctx, sock, value: sock.set_hop_limit(value),
        "receive-buffer-size": lambda ctx, sock: sock.buffer_size(receive),
        "set-receive-buffer-size": lambda ctx, sock, value: sock.set_buffer_size(receive, value),
        "send-buffer-size": lambda ctx, sock: sock.buffer_size(send),
        "set-send-buffer-size": lambda ctx, sock, value: sock.set_buffer_size(send, value),
    }
    named = {f"[method]{resource}.{name}": function for name, function in functions.items()}
    return {**named, f"[resource-drop]{resource}": lambda ctx, sock: sock.release()}


# The family

S = TypeVar("S", bound=Socket)


class NetworkHandle:
    """The resource network: there is one, and what it allows is asked at each address."""


NETWORK = NetworkHandle()


class WasiSockets:
    """The network of wasi:sockets, and what a guest may have of it.

    `max_connections` limits the sockets of all guests together (runtime config: outbound_networking,
    max_socket_connections); they count among the connections of `network` too.
    """

    def __init__(self, network: Network, max_connections: int | None = None) -> None:
        self._network = network
        self._places = Places(max_connections, network.places)
        self._functions: dict[str, dict[str, Callable[..., Any]]] = {
            "wasi:sockets/network@0.2": {},
            "wasi:sockets/instance-network@0.2": {"instance-network": lambda ctx: NETWORK},
            "wasi:sockets/ip-name-lookup@0.2": {
                # Spin does not look names up for guests either, so there never is a stream
                "resolve-addresses": lambda ctx, network, name: Err("permanent-resolver-failure"),
                "[method]resolve-address-stream.resolve-next-address": lambda ctx, stream: None,
                "[method]resolve-address-stream.subscribe": lambda ctx, stream: READY,
            },
        }

    def functions(self, interface: str) -> dict[str, Callable[..., Any]]:
        return self._functions[interface]

    def close(self) -> None:
        pass

    def open(self, ctx: HostContext, made: type[S], family: str, kind: socket.SocketKind) -> S | Err:
        """A new socket of the guest."""
        held: list[Socket] | None = ctx.state.get(Socket)
        if held is None:
            held = ctx.state[Socket] = []
            ctx.on_close(lambda: _close_all(held))
        held[:] = [sock for sock in held if not sock.closed]
        if len(held) >= MAX_SOCKETS:
            return NEW_SOCKET_LIMIT
        try:
            sock = socket.socket(socket.AF_INET if family == "ipv4" else socket.AF_INET6, kind)
        except OSError as error:
            return failure(error)
        opened = made(family, sock)
        opened.retain()
        held.append(opened)
        sock.setblocking(False)
        if family == "ipv6":
            # "IPV6_V6ONLY is enabled by default and can't be configured otherwise"
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        return opened

    def admit(self, sock: Socket) -> bool:
        """Whether there is a place for `sock` among all sockets and connections; it is kept until the end."""
        sock.give_back = self._places.take()
        return sock.give_back is not None

    def allows(self, ctx: HostContext, scheme: str, address: Address) -> bool:
        """Whether the guest may use `address`; no goes to the log."""
        host = f"[{address.ip}]" if address.ip.version == 6 else str(address.ip)
        outbound = ctx.component.outbound
        if outbound is None or not outbound.check_url(f"{scheme}://{host}:{address.port}", scheme):
            return False
        return not self._network.blocked(str(address.ip))


def _close_all(held: list[Socket]) -> None:
    for sock in held:
        sock.close()
