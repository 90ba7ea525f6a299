# wasi:sockets 0.2: TCP connections (Spin: host interfaces, 2).
#
# Rule 1: TCP does not bind, listen or accept, as in Spin.
# Rule 2: the states are those of TcpSocketOperationalSemantics.md (WebAssembly/wasi-sockets).
# What is refused before the system was asked leaves a socket as it was.
# Rule 3: what a guest has written is sent before its side of the connection is closed,
# if the deadline leaves time for it; until it is sent, check-write gives 0.

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any

from ...component.values import Err
from ...errors import DeadlineExceeded
from ..base import HostContext
from .io import (
    READABLE,
    WRITABLE,
    InputStream,
    OutputStream,
    Pollable,
    StreamClosed,
    StreamFailed,
    background,
    wait_any,
)
from .sockets import (
    ACCESS_DENIED,
    CONCURRENCY_CONFLICT,
    INVALID_ARGUMENT,
    INVALID_STATE,
    MAX_BYTES,
    NEW_SOCKET_LIMIT,
    NOT_IN_PROGRESS,
    NOT_SUPPORTED,
    WOULD_BLOCK,
    Address,
    Readiness,
    Socket,
    SocketError,
    WasiSockets,
    failure,
    methods,
)

_TEXT = """
package wasi:sockets@0.2.0;
interface tcp {
  use wasi:io/streams@0.2.0.{input-stream, output-stream};
  use wasi:io/poll@0.2.0.{pollable};
  use wasi:clocks/monotonic-clock@0.2.0.{duration};
  use wasi:sockets/network@0.2.0.{network, error-code, ip-socket-address, ip-address-family};
  enum shutdown-type { receive, send, both }
  resource tcp-socket {
    start-bind: func(network: borrow<network>, local-address: ip-socket-address) -> result<_, error-code>;
    finish-bind: func() -> result<_, error-code>;
    start-connect: func(network: borrow<network>, remote-address: ip-socket-address)
      -> result<_, error-code>;
    finish-connect: func() -> result<tuple<input-stream, output-stream>, error-code>;
    start-listen: func() -> result<_, error-code>;
    finish-listen: func() -> result<_, error-code>;
    accept: func() -> result<tuple<tcp-socket, input-stream, output-stream>, error-code>;
    local-address: func() -> result<ip-socket-address, error-code>;
    remote-address: func() -> result<ip-socket-address, error-code>;
    is-listening: func() -> bool;
    address-family: func() -> ip-address-family;
    set-listen-backlog-size: func(value: u64) -> result<_, error-code>;
    keep-alive-enabled: func() -> result<bool, error-code>;
    set-keep-alive-enabled: func(value: bool) -> result<_, error-code>;
    keep-alive-idle-time: func() -> result<duration, error-code>;
    set-keep-alive-idle-time: func(value: duration) -> result<_, error-code>;
    keep-alive-interval: func() -> result<duration, error-code>;
    set-keep-alive-interval: func(value: duration) -> result<_, error-code>;
    keep-alive-count: func() -> result<u32, error-code>;
    set-keep-alive-count: func(value: u32) -> result<_, error-code>;
    hop-limit: func() -> result<u8, error-code>;
    set-hop-limit: func(value: u8) -> result<_, error-code>;
    receive-buffer-size: func() -> result<u64, error-code>;
    set-receive-buffer-size: func(value: u64) -> result<_, error-code>;
    send-buffer-size: func() -> result<u64, error-code>;
    set-send-buffer-size: func(value: u64) -> result<_, error-code>;
    subscribe: func() -> pollable;
    shutdown: func(shutdown-type: shutdown-type) -> result<_, error-code>;
  }
}
interface tcp-create-socket {
  use wasi:sockets/network@0.2.0.{network, error-code, ip-address-family};
  use tcp.{tcp-socket};
  create-tcp-socket: func(address-family: ip-address-family) -> result<tcp-socket, error-code>;
}
"""
INTERFACES = {f"wasi:sockets/{name}@0.2": _TEXT for name in ("tcp", "tcp-create-socket")}

# The least that systems have as the most (Linux: MAX_TCP_KEEPIDLE, MAX_TCP_KEEPCNT).
MAX_KEEP_ALIVE_SECONDS = 32767
MAX_KEEP_ALIVE_COUNT = 127
SECOND = 10**9

# TCP_KEEPIDLE has another name on macOS.
_IDLE = "TCP_KEEPIDLE" if hasattr(socket, "TCP_KEEPIDLE") else "TCP_KEEPALIVE"

_RECEIVE, _SEND = ("receive", "both"), ("send", "both")


class TcpSocket(Socket):
    """The resource tcp-socket."""

    def __init__(self, family: str, sock: socket.socket) -> None:
        super().__init__(family, sock)
        self.state = "unbound"  # then "connecting", "connected" or "closed"
        self._refused: OSError | None = None
        self.input: TcpInput | None = None
        self.output: TcpOutput | None = None

    def start_connect(self, address: Address) -> None:
        self.state = "connecting"
        try:
            self.sock.connect(address.name)
        except BlockingIOError:
            pass
        except OSError as error:
            self._refused = error

    def finish_connect(self) -> Any:
        if self.state != "connecting":
            return NOT_IN_PROGRESS
        if self._refused is None and not self.ready(WRITABLE):
            return WOULD_BLOCK
        number = self.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        error = self._refused or (OSError(number, "") if number else None)
        if error is not None:
            self.state = "closed"
            return failure(error)
        self.state = "connected"
        self.input, self.output = TcpInput(self), TcpOutput(self)
        return self.input, self.output

    def close(self) -> None:
        self.input = self.output = None
        self.shut(socket.SHUT_RDWR)  # a child forked meanwhile has the descriptor, too
        super().close()

    def pending(self) -> int | None:
        """What the socket waits for itself; its streams have pollables of their own."""
        return WRITABLE if self.state == "connecting" and self._refused is None else None

    def local_address(self) -> Any:
        return super().local_address() if self.state == "connected" else INVALID_STATE

    def remote_address(self) -> Any:
        if self.state != "connected":
            return INVALID_STATE
        try:
            return Address.of(self.sock.getpeername()).wit
        except OSError as error:
            return failure(error)

    def shutdown(self, how: str) -> Any:
        if self.input is None or self.output is None:
            return INVALID_STATE
        if how in _RECEIVE:
            self.input.shut()
        if how in _SEND:
            self.output.shut()
        return None

    def shut(self, how: int) -> None:
        try:
            self.sock.shutdown(how)
        except OSError:
            pass  # there is no connection any more

    # Keep-alive; some options are not there on some systems

    def keep_alive(self) -> Any:
        value = self.option(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        return value if isinstance(value, Err) else bool(value)

    def keep_alive_option(self, name: str, unit: int = 1) -> Any:
        option: int | None = getattr(socket, name, None)
        value = NOT_SUPPORTED if option is None else self.option(socket.IPPROTO_TCP, option)
        return value if isinstance(value, Err) else value * unit

    def set_keep_alive_option(self, name: str, value: int, most: int) -> Any:
        option: int | None = getattr(socket, name, None)
        if not value:
            return INVALID_ARGUMENT
        return None if option is None else self.set_option(socket.IPPROTO_TCP, option, min(value, most))


class TcpInput(InputStream):
    """The receiving side of a connection."""

    def __init__(self, owner: TcpSocket) -> None:
        self._owner = owner
        self._open = True
        owner.retain()

    def read(self, ctx: HostContext, length: int) -> bytes:
        if not self._open:
            raise StreamClosed
        if not length:
            return b""
        try:
            data = self._owner.sock.recv(min(length, MAX_BYTES))
        except BlockingIOError:
            return b""
        except OSError as error:
            self._open = False
            raise StreamFailed(SocketError("receiving", error)) from None
        if not data:
            self._open = False
            raise StreamClosed
        return data

    def pollable(self) -> Pollable:
        return Readiness(self._owner, lambda: READABLE if self._open else None)

    def shut(self) -> None:
        """Receive no more, not even what is there already."""
        if self._open:
            self._open = False
            self._owner.shut(socket.SHUT_RD)

    def close(self, ctx: HostContext) -> None:
        self.shut()
        self._owner.release()


class TcpOutput(OutputStream):
    """The sending side of a connection. It keeps what the system does not take, MAX_BYTES at most."""

    def __init__(self, owner: TcpSocket) -> None:
        self._owner = owner
        self._rest = b""
        self._open = True  # for more
        self._failure: SocketError | None = None
        self._progress = Readiness(owner, self._pending)
        owner.retain()

    def check_write(self, ctx: HostContext) -> int:
        self._send()
        if self._rest:
            return 0
        self._check()
        return MAX_BYTES

    def write(self, ctx: HostContext, data: bytes) -> None:
        self._check()
        self._rest += data
        self._send()
        if self._rest:
            # the guest may wait for the answer next, which does not come before this is sent
            background(ctx).add(self._progress)
        else:
            self._check()

    def _check(self) -> None:
        if self._failure is not None:
            error, self._failure = self._failure, None
            raise StreamFailed(error)
        if not self._open:
            raise StreamClosed

    def _send(self) -> None:
        """Pass on what the system takes, and the end of it."""
        if not self._rest:
            return
        try:
            while self._rest:
                self._rest = self._rest[self._owner.sock.send(self._rest) :]
        except BlockingIOError:
            return
        except OSError as error:
            self._rest = b""
            self._open = False
            if not isinstance(error, BrokenPipeError):
                self._failure = SocketError("sending", error)
        if not self._open:
            self._owner.shut(socket.SHUT_WR)

    def _pending(self) -> int | None:
        self._send()
        return WRITABLE if self._rest else None

    def pollable(self) -> Pollable:
        return self._progress

    def shut(self) -> None:
        """Take no more, and say so to the peer when all is sent."""
        if self._open:
            self._open = False
            if not self._rest:
                self._owner.shut(socket.SHUT_WR)

    def close(self, ctx: HostContext) -> None:
        self.shut()
        try:
            wait_any(ctx, [self._progress])
        except DeadlineExceeded:
            pass  # the guest ends here, too
        background(ctx).discard(self._progress)
        self._owner.release()


class WasiTcp:
    """The interfaces tcp and tcp-create-socket."""

    def __init__(self, sockets: WasiSockets) -> None:
        self._sockets = sockets
        own: dict[str, Callable[..., Any]] = {
            "start-bind": start_bind,
            "finish-bind": lambda ctx, sock: NOT_IN_PROGRESS,
            "start-connect": self.start_connect,
            "finish-connect": lambda ctx, sock: sock.finish_connect(),
            "start-listen": lambda ctx, sock: (
                CONCURRENCY_CONFLICT if sock.state == "connecting" else INVALID_STATE  # it is never bound
            ),
            "finish-listen": lambda ctx, sock: NOT_IN_PROGRESS,
            "accept": lambda ctx, sock: INVALID_STATE,
            "is-listening": lambda ctx, sock: False,
            "set-listen-backlog-size": lambda ctx, sock, value: (
                INVALID_ARGUMENT if not value else INVALID_STATE if sock.state != "unbound" else None
            ),
            "keep-alive-enabled": lambda ctx, sock: sock.keep_alive(),
            "set-keep-alive-enabled": lambda ctx, sock, value: sock.set_option(
                socket.SOL_SOCKET, socket.SO_KEEPALIVE, value
            ),
            "keep-alive-idle-time": lambda ctx, sock: sock.keep_alive_option(_IDLE, SECOND),
            "set-keep-alive-idle-time": lambda ctx, sock, value: sock.set_keep_alive_option(
                _IDLE, seconds(value), MAX_KEEP_ALIVE_SECONDS
            ),
            "keep-alive-interval": lambda ctx, sock: sock.keep_alive_option("TCP_KEEPINTVL", SECOND),
            "set-keep-alive-interval": lambda ctx, sock, value: sock.set_keep_alive_option(
                "TCP_KEEPINTVL", seconds(value), MAX_KEEP_ALIVE_SECONDS
            ),
            "keep-alive-count": lambda ctx, sock: sock.keep_alive_option("TCP_KEEPCNT"),
            "set-keep-alive-count": lambda ctx, sock, value: sock.set_keep_alive_option(
                "TCP_KEEPCNT", value, MAX_KEEP_ALIVE_COUNT
            ),
            "subscribe": lambda ctx, sock: Readiness(sock, sock.pending),
            "shutdown": lambda ctx, sock, how: sock.shutdown(how),
        }
        self._functions = {
            "wasi:sockets/tcp@0.2": methods("tcp-socket")
            | {f"[method]tcp-socket.{name}": function for name, function in own.items()},
            "wasi:sockets/tcp-create-socket@0.2": {"create-tcp-socket": self.create},
        }

    def functions(self, interface: str) -> dict[str, Callable[..., Any]]:
        return self._functions[interface]

    def close(self) -> None:
        pass

    def create(self, ctx: HostContext, family: str) -> Any:
        return self._sockets.open(ctx, TcpSocket, family, socket.SOCK_STREAM)

    def start_connect(self, ctx: HostContext, sock: TcpSocket, network: object, wit: Any) -> Any:
        if sock.state == "connecting":
            return CONCURRENCY_CONFLICT
        if sock.state != "unbound":
            return INVALID_STATE
        address = Address(wit)
        if not (address.fits(sock.family) and address.is_unicast and address.is_remote):
            return INVALID_ARGUMENT
        if not self._sockets.allows(ctx, "tcp", address):
            return ACCESS_DENIED
        if not self._sockets.admit(sock):
            return NEW_SOCKET_LIMIT
        sock.start_connect(address)
        return None


def start_bind(ctx: HostContext, sock: TcpSocket, network: object, wit: Any) -> Any:
    if sock.state == "connecting":
        return CONCURRENCY_CONFLICT
    if sock.state != "unbound":
        return INVALID_STATE
    address = Address(wit)
    return ACCESS_DENIED if address.fits(sock.family) and address.is_unicast else INVALID_ARGUMENT


def seconds(nanoseconds: int) -> int:
    """Whole seconds, rounded up, so that only 0 becomes 0."""
    return -(-nanoseconds // SECOND)
