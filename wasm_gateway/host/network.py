# The one way from this host to the network, for every family that goes out.
#
# Rule 1: a name is resolved here, the operator's blocked networks are checked against
# the addresses found, and the connection is made to a checked address: a name that
# resolves otherwise a moment later cannot slip through (DNS rebinding).
# Rule 2: nothing waits longer than the instance may live. Sockets made here carry the
# Deadline of the call they serve, and every wait of theirs is cut at it, also inside
# drivers, whatever timeouts these set. So a peer that sends a byte now and then
# cannot hold a request longer either.
# Rule 3: who may go where is decided before, from `allowed_outbound_hosts`.

from __future__ import annotations

import ipaddress
import queue
import select
import socket
import ssl
import struct
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

from .. import forks
from ..errors import DeadlineExceeded
from . import descriptors
from .base import Deadline
from .pools import Places

SockAddr = tuple[Any, ...]

# SO_LINGER: whoever closes the socket resets the connection.
_RESET = struct.pack("hh" if sys.platform == "win32" else "ii", 1, 0)

# Lookups cannot be interrupted, so each has a thread of its own that is left behind when the deadline
# comes first. As many may be under way at once in a process; the system's resolver gives up after
# some 10 to 30 s.
MAX_LOOKUPS = 32

# Connections of all guests of this process, whatever application they are of.
ALL_CONNECTIONS = Places(descriptors.share(descriptors.CONNECTIONS))

# When a name has several addresses, none is given less than this, in seconds, before the next is tried.
LEAST_CONNECT_SECONDS = 1.0


class DestinationBlocked(OSError):
    """Every address of the destination is in a blocked network (WIT: destination-IP-prohibited)."""


class NameNotResolved(OSError):
    """The name has no address, or cannot be looked up (WIT: DNS-error)."""


class Breakable(Deadline):
    """A deadline that is over when another thread says so; a socket that waits until then waits no longer."""

    __slots__ = ("_cut", "socket")

    def __init__(self, whole: Deadline) -> None:
        self.seconds, self.at, self.gone = whole.seconds, whole.at, whole.gone
        self.socket: _Bounded | None = None  # the last one that waited
        self._cut = False

    def remaining(self) -> float:
        if self._cut:
            raise DeadlineExceeded(self.seconds)
        return super().remaining()

    def cut(self) -> None:
        self._cut = True
        sock = self.socket
        if sock is not None:
            sock.cut(self)


class _Bounded(socket.socket):
    """A socket whose every wait ends at `deadline`, with DeadlineExceeded."""

    deadline: Deadline | None = None
    # Where one thread sends while another one receives, which TLS cannot do at the same moment.
    _turn: threading.Lock | None = None

    def share(self, shared: bool) -> None:
        """Whether one thread may send while another one receives."""
        self._turn = threading.Lock() if shared else None

    def settimeout(self, value: float | None) -> None:
        if self.deadline is None:
            super().settimeout(value)
        # else the deadline is the only timeout; a driver's own setting would only hide it

    def _bounded(self, method: str, *arguments: Any) -> Any:
        deadline = self.deadline
        if self._turn is not None:
            return self._in_turn(self._turn, method, *arguments)
        if deadline is None:
            return getattr(super(), method)(*arguments)
        if isinstance(deadline, Breakable):
            deadline.socket = self
        super().settimeout(deadline.remaining())
        try:
            return getattr(super(), method)(*arguments)
        except TimeoutError:
            deadline.remaining()
            raise

    def _in_turn(self, turn: threading.Lock, method: str, *arguments: Any) -> Any:
        """The same, but that it waits without keeping others from their turn."""
        while True:
            left = None if self.deadline is None else self.deadline.remaining()
            with turn:
                super().settimeout(0)
                try:
                    return getattr(super(), method)(*arguments)
                except ssl.SSLWantReadError:
                    writable = False
                except ssl.SSLWantWriteError:
                    writable = True
                except BlockingIOError:
                    writable = method == "send"
            _wait(self.fileno(), writable, left)

    def cut(self, deadline: Deadline) -> None:
        """Break off whatever goes on for `deadline`, from any thread; nothing once it is somebody else's."""
        if self.deadline is deadline:
            self.break_off()

    def break_off(self) -> None:
        """Whoever waits for the connection fails, and so does the peer, also where it waits for us."""
        try:
            self.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            socket.socket.shutdown(self, socket.SHUT_RDWR)  # TLS or not
        except OSError:
            pass  # it is closed

    def connect(self, address: Any) -> Any:
        return self._bounded("connect", address)

    def recv(self, *arguments: Any) -> Any:
        return self._bounded("recv", *arguments)

    def recv_into(self, *arguments: Any) -> Any:
        return self._bounded("recv_into", *arguments)

    def send(self, *arguments: Any) -> Any:
        return self._bounded("send", *arguments)

    def sendall(self, data: Any, *arguments: Any) -> Any:
        if self._turn is None:
            return self._bounded("sendall", data, *arguments)
        left = memoryview(data).cast("B")
        while left:
            left = left[self._in_turn(self._turn, "send", left, *arguments) :]
        return None


class BoundedSocket(_Bounded):
    """A TCP socket whose waits end at its `deadline`."""


class BoundedSSLSocket(_Bounded, ssl.SSLSocket):
    """A TLS socket whose waits end at its `deadline`."""

    def do_handshake(self, *arguments: Any) -> Any:
        return self._bounded("do_handshake", *arguments)


class BoundedContext(ssl.SSLContext):
    """Makes TLS sockets that have the deadline of the socket below, the handshake included."""

    sslsocket_class = BoundedSSLSocket

    def wrap_socket(self, sock: socket.socket, *arguments: Any, **options: Any) -> BoundedSSLSocket:
        deadline = getattr(sock, "deadline", None)
        options["do_handshake_on_connect"] = False
        wrapped = super().wrap_socket(sock, *arguments, **options)
        assert isinstance(wrapped, BoundedSSLSocket)
        wrapped.deadline = deadline
        try:
            wrapped.do_handshake()
        except BaseException:
            wrapped.close()
            raise
        return wrapped


def _wait(fd: int, writable: bool, timeout: float | None) -> None:
    """Until `fd` can be written, or else read, or has failed, or the time is over."""
    if hasattr(select, "poll"):
        poll = select.poll()
        poll.register(fd, select.POLLOUT if writable else select.POLLIN)
        poll.poll(None if timeout is None else timeout * 1000)
    else:
        select.select([] if writable else [fd], [fd] if writable else [], [fd], timeout)


def is_idle(sock: socket.socket) -> bool:
    """Whether a connection that should be silent is: no bytes waiting, and the peer has not hung up."""
    if hasattr(select, "poll"):
        poll = select.poll()
        poll.register(sock, select.POLLIN)
        return not poll.poll(0)
    return not select.select([sock], [], [], 0)[0]


def shares(count: int, deadline: Deadline) -> Iterator[Deadline]:
    """Deadlines for `count` things tried one after the other, so that the first does not use up all time."""
    for left in range(count, 1, -1):
        remaining = deadline.remaining()
        share = max(LEAST_CONNECT_SECONDS, remaining / left)
        yield Deadline(share) if share < remaining else deadline
    if count:
        yield deadline


def wait_ready(fd: int, timeout: float, *, writable: bool = False) -> tuple[bool, bool]:
    """Wait until `fd` can be read (or, if asked, written): (readable, writable), both False at the timeout.

    A descriptor on which something went wrong is readable.
    """
    if hasattr(select, "poll"):
        poll = select.poll()
        poll.register(fd, select.POLLIN | (select.POLLOUT if writable else 0))
        events = dict(poll.poll(timeout * 1000)).get(fd, 0)
        return bool(events & ~select.POLLOUT), bool(events & select.POLLOUT)
    found = select.select([fd], [fd] if writable else [], [], timeout)
    return bool(found[0]), bool(found[1])


class Network:
    """The way out of one application, shared by its families.

    `blocked` says of an IP address in text whether the operator forbids it
    (runtime config: outbound_networking.block_networks); `max_connections` limits those that guests use at
    once, whatever for (max_total_connections): who makes one takes one of `places` first, which is one of
    ALL_CONNECTIONS too.
    """

    def __init__(
        self, blocked: Callable[[str], bool] = lambda address: False, max_connections: int | None = None
    ) -> None:
        self._blocked = blocked
        self.places = Places(max_connections, ALL_CONNECTIONS)
        self._tls: BoundedContext | None = None
        self.after_fork()
        forks.watch(self)

    def after_fork(self) -> None:
        # a lookup of another thread does not go on in the child, but would keep its place
        self._lookups = threading.Semaphore(MAX_LOOKUPS)

    def blocked(self, address: str) -> bool:
        """Whether the operator forbids this IP address."""
        return self._blocked(address)

    def resolve(self, host: str, port: int, deadline: Deadline) -> list[tuple[int, SockAddr]]:
        """The (family, socket address) pairs of `host` that may be connected to, at least one.

        Raises NameNotResolved, DestinationBlocked, DeadlineExceeded.
        """
        try:
            version = ipaddress.ip_address(host).version
        except ValueError:
            found = self._look_up(host, port, deadline)
        else:
            address: SockAddr = (host, port) if version == 4 else (host, port, 0, 0)
            found = [(socket.AF_INET if version == 4 else socket.AF_INET6, address)]
        allowed = [item for item in found if not self._blocked(item[1][0])]
        if not allowed:
            raise DestinationBlocked(f"all addresses of {host} are prohibited by the runtime config")
        return allowed

    def _look_up(self, host: str, port: int, deadline: Deadline) -> list[tuple[int, SockAddr]]:
        slots = self._lookups
        if not slots.acquire(timeout=deadline.remaining()):
            deadline.remaining()
            raise NameNotResolved(f"{host}: too many names are being looked up")
        answers: queue.SimpleQueue[list[tuple[int, SockAddr]] | OSError | UnicodeError] = queue.SimpleQueue()

        def look_up() -> None:
            try:
                found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
                answers.put([(item[0], item[4]) for item in found])
            except (OSError, UnicodeError) as error:
                answers.put(error)
            finally:
                slots.release()

        try:
            threading.Thread(target=look_up, name=f"look up {host}", daemon=True).start()
        except RuntimeError as error:  # there are too many
            slots.release()
            raise NameNotResolved(f"{host}: {error}") from error
        try:
            answer = answers.get(timeout=deadline.remaining())
        except queue.Empty:
            deadline.remaining()
            raise NameNotResolved(f"{host}: timed out") from None
        if isinstance(answer, list) and answer:
            return answer
        raise NameNotResolved(f"{host}: {answer or 'no address'}")

    def connect(self, host: str, port: int, deadline: Deadline) -> BoundedSocket:
        """A TCP connection to an allowed address of `host`; OSError, or DeadlineExceeded."""
        addresses = self.resolve(host, port, deadline)
        failure: OSError | None = None
        for (family, address), share in zip(addresses, shares(len(addresses), deadline), strict=True):
            sock = BoundedSocket(family, socket.SOCK_STREAM)
            sock.deadline = share
            try:
                sock.connect(address)
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            except OSError as error:
                sock.close()
                failure = error
            except DeadlineExceeded as error:
                sock.close()
                deadline.remaining()
                failure = TimeoutError(f"{host}: no answer")
                failure.__cause__ = error
            except BaseException:
                sock.close()
                raise
            else:
                sock.deadline = deadline
                return sock
        assert failure is not None
        raise failure

    def tls_context(self) -> BoundedContext:
        """Certificates and host names are verified, against the platform's roots."""
        context = self._tls
        if context is None:
            context = self._tls = BoundedContext(ssl.PROTOCOL_TLS_CLIENT)
            context.load_default_certs()
        return context

    def wrap(self, sock: BoundedSocket, host: str) -> BoundedSSLSocket:
        """TLS over `sock`, which is closed when the handshake fails (OSError, DeadlineExceeded)."""
        try:
            return self.tls_context().wrap_socket(sock, server_hostname=host)
        except BaseException:
            sock.close()
            raise
