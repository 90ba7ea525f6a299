# wasi:sockets 0.2: UDP datagrams (Spin: host interfaces, 2).
#
# Rule 1: a socket is bound before it sends or receives, as WIT says; each address that it
# binds to, streams with or sends to is asked for.
# Rule 2: only the streams that `stream` gave last are of use; others say invalid-state.

from __future__ import annotations

import ctypes
import os
import socket
from collections.abc import Callable, Sequence
from typing import Any

from ...component.values import Err
from ...errors import Trap
from ..base import HostContext
from .io import READABLE, READY, WRITABLE, Pollable
from .sockets import (
    ACCESS_DENIED,
    CONCURRENCY_CONFLICT,
    INVALID_ARGUMENT,
    INVALID_STATE,
    MAX_BYTES,
    NEW_SOCKET_LIMIT,
    NOT_IN_PROGRESS,
    Address,
    Readiness,
    Socket,
    WasiSockets,
    failure,
    methods,
)

_TEXT = """
package wasi:sockets@0.2.0;
interface udp {
  use wasi:io/poll@0.2.0.{pollable};
  use wasi:sockets/network@0.2.0.{network, error-code, ip-socket-address, ip-address-family};
  record incoming-datagram { data: list<u8>, remote-address: ip-socket-address }
  record outgoing-datagram { data: list<u8>, remote-address: option<ip-socket-address> }
  resource udp-socket {
    start-bind: func(network: borrow<network>, local-address: ip-socket-address) -> result<_, error-code>;
    finish-bind: func() -> result<_, error-code>;
    %stream: func(remote-address: option<ip-socket-address>)
      -> result<tuple<incoming-datagram-stream, outgoing-datagram-stream>, error-code>;
    local-address: func() -> result<ip-socket-address, error-code>;
    remote-address: func() -> result<ip-socket-address, error-code>;
    address-family: func() -> ip-address-family;
    unicast-hop-limit: func() -> result<u8, error-code>;
    set-unicast-hop-limit: func(value: u8) -> result<_, error-code>;
    receive-buffer-size: func() -> result<u64, error-code>;
    set-receive-buffer-size: func(value: u64) -> result<_, error-code>;
    send-buffer-size: func() -> result<u64, error-code>;
    set-send-buffer-size: func(value: u64) -> result<_, error-code>;
    subscribe: func() -> pollable;
  }
  resource incoming-datagram-stream {
    receive: func(max-results: u64) -> result<list<incoming-datagram>, error-code>;
    subscribe: func() -> pollable;
  }
  resource outgoing-datagram-stream {
    check-send: func() -> result<u64, error-code>;
    send: func(datagrams: list<outgoing-datagram>) -> result<u64, error-code>;
    subscribe: func() -> pollable;
  }
}
interface udp-create-socket {
  use wasi:sockets/network@0.2.0.{network, error-code, ip-address-family};
  use udp.{udp-socket};
  create-udp-socket: func(address-family: ip-address-family) -> result<udp-socket, error-code>;
}
"""
INTERFACES = {f"wasi:sockets/{name}@0.2": _TEXT for name in ("udp", "udp-create-socket")}

# Datagrams that one call takes or gives.
MAX_DATAGRAMS = 16


class UdpSocket(Socket):
    """The resource udp-socket. `remote` is the only one whom it talks to, None for anybody."""

    def __init__(self, family: str, sock: socket.socket) -> None:
        super().__init__(family, sock)
        self.state = "unbound"  # then "binding" and "bound"
        self.remote: Address | None = None
        self.generation = 0  # of the streams that are of use
        self._local: Any = None

    def start_bind(self, address: Address) -> Any:
        try:
            self.sock.bind(address.name)
        except OSError as error:
            return failure(error)
        self._local = self.sock.getsockname()
        self.state = "binding"
        return None

    def finish_bind(self) -> Any:
        if self.state != "binding":
            return NOT_IN_PROGRESS
        self.state = "bound"
        return None

    def stream(self, remote: Address | None) -> Any:
        self.generation += 1
        try:
            self.connect(remote)
        except OSError as error:
            return failure(error)
        return DatagramStream(self), DatagramStream(self)

    def connect(self, remote: Address | None) -> None:
        """The system then tells when nobody listens at `remote`, and drops what others send."""
        if self.remote is not None:
            self.remote = None
            disconnect(self.sock)
            # Linux gives up a port that it had chosen itself
            if self.sock.getsockname() != self._local:
                self.sock.bind(self._local)
        if remote is not None:
            self.sock.connect(remote.name)
            self.remote = remote

    def send(self, data: bytes, address: Address | None) -> None:
        """Send to `address`, which a socket that is connected does not need; BlockingIOError, OSError."""
        if self.remote is not None:
            self.sock.send(data)
        else:
            assert address is not None
            self.sock.sendto(data, address.name)

    def local_address(self) -> Any:
        return INVALID_STATE if self.state == "unbound" else super().local_address()

    def remote_address(self) -> Any:
        return INVALID_STATE if self.remote is None else self.remote.wit


def disconnect(sock: socket.socket) -> None:
    """Undo connect(): POSIX connects to AF_UNSPEC for that, which socket.connect cannot say."""
    if os.name == "nt":
        sock.connect(("0.0.0.0", 0) if sock.family == socket.AF_INET else ("::", 0))
    else:
        # all bytes 0 are that family everywhere; BSD reports an error and does it nevertheless
        ctypes.CDLL(None).connect(sock.fileno(), bytes(28), 28)


class DatagramStream:
    """The resources incoming-datagram-stream and outgoing-datagram-stream."""

    def __init__(self, owner: UdpSocket) -> None:
        self.owner = owner
        self.generation = owner.generation
        self.permit = 0
        owner.retain()

    @property
    def current(self) -> bool:
        return self.generation == self.owner.generation and not self.owner.closed

    def pollable(self, event: int) -> Pollable:
        return Readiness(self.owner, lambda: event if self.current else None)


def receive(ctx: HostContext, stream: DatagramStream, count: int) -> Any:
    owner = stream.owner
    if not stream.current:
        return INVALID_STATE
    datagrams: list[Any] = []
    size = 0
    for _ in range(min(count, MAX_DATAGRAMS)):
        try:
            data, name = owner.sock.recvfrom(MAX_BYTES)
        except BlockingIOError:
            break
        except OSError as error:
            if datagrams:
                break
            return failure(error)
        sender = Address.of(name)
        # some that others sent may have been waiting already
        if owner.remote is None or owner.remote == sender:
            datagrams.append((data, sender.wit))
            size += len(data)
        if size >= MAX_BYTES:
            break
    return datagrams


def check_send(ctx: HostContext, stream: DatagramStream) -> Any:
    if not stream.current:
        return INVALID_STATE
    stream.permit = MAX_DATAGRAMS if stream.owner.ready(WRITABLE) else 0
    return stream.permit


class WasiUdp:
    """The interfaces udp and udp-create-socket."""

    def __init__(self, sockets: WasiSockets) -> None:
        self._sockets = sockets
        own: dict[str, Callable[..., Any]] = {
            "[method]udp-socket.start-bind": self.start_bind,
            "[method]udp-socket.finish-bind": lambda ctx, sock: sock.finish_bind(),
            "[method]udp-socket.stream": self.stream,
            "[method]udp-socket.subscribe": lambda ctx, sock: READY,
            "[method]incoming-datagram-stream.receive": receive,
            "[method]incoming-datagram-stream.subscribe": lambda ctx, stream: stream.pollable(READABLE),
            "[resource-drop]incoming-datagram-stream": lambda ctx, stream: stream.owner.release(),
            "[method]outgoing-datagram-stream.check-send": check_send,
            "[method]outgoing-datagram-stream.send": self.send,
            "[method]outgoing-datagram-stream.subscribe": lambda ctx, stream: stream.pollable(WRITABLE),
            "[resource-drop]outgoing-datagram-stream": lambda ctx, stream: stream.owner.release(),
        }
        self._functions = {
            "wasi:sockets/udp@0.2": methods("udp-socket", "unicast-") | own,
            "wasi:sockets/udp-create-socket@0.2": {"create-udp-socket": self.create},
        }

    def functions(self, interface: str) -> dict[str, Callable[..., Any]]:
        return self._functions[interface]

    def close(self) -> None:
        pass

    def create(self, ctx: HostContext, family: str, made: type[UdpSocket] = UdpSocket) -> Any:
        sock = self._sockets.open(ctx, made, family, socket.SOCK_DGRAM)
        if isinstance(sock, UdpSocket) and not self._sockets.admit(sock):
            sock.close()
            return NEW_SOCKET_LIMIT
        return sock

    def start_bind(self, ctx: HostContext, sock: UdpSocket, network: object, wit: Any) -> Any:
        if sock.state != "unbound":
            return CONCURRENCY_CONFLICT if sock.state == "binding" else INVALID_STATE
        address = Address(wit)
        if not address.fits(sock.family):
            return INVALID_ARGUMENT
        if not self._sockets.allows(ctx, "udp", address):
            return ACCESS_DENIED
        return sock.start_bind(address)

    def stream(self, ctx: HostContext, sock: UdpSocket, wit: Any) -> Any:
        if sock.state != "bound":
            return INVALID_STATE
        remote = None if wit is None else Address(wit)
        refused = None if remote is None else self.refuse_peer(ctx, sock, remote)
        return refused or sock.stream(remote)

    def send(self, ctx: HostContext, stream: DatagramStream, datagrams: Sequence[Any]) -> Any:
        if not stream.current:
            return INVALID_STATE
        if not datagrams:
            return 0
        if len(datagrams) > stream.permit:
            raise Trap(f"send of {len(datagrams)} datagrams, where check-send permitted {stream.permit}")
        stream.permit = 0  # "Each call to send must be permitted by a preceding check-send"
        for sent, (data, wit) in enumerate(datagrams):
            try:
                address = None if wit is None else Address(wit)
                refused = self.refuse(ctx, stream.owner, address)
                if refused is None:
                    stream.owner.send(data, address)
            except BlockingIOError:
                return sent
            except OSError as error:
                refused = failure(error)
            if refused is not None:
                return sent or refused
        return len(datagrams)

    def refuse(self, ctx: HostContext, sock: UdpSocket, address: Address | None) -> Err | None:
        """What is wrong with sending to `address`, None: to whom the socket is connected."""
        if sock.remote is not None:
            return None if address is None or address == sock.remote else INVALID_ARGUMENT
        return INVALID_ARGUMENT if address is None else self.refuse_peer(ctx, sock, address)

    def refuse_peer(self, ctx: HostContext, sock: UdpSocket, remote: Address) -> Err | None:
        """What is wrong with `remote` as a destination."""
        if not (remote.fits(sock.family) and remote.is_remote):
            return INVALID_ARGUMENT
        return None if self._sockets.allows(ctx, "udp", remote) else ACCESS_DENIED
