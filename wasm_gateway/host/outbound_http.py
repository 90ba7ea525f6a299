# fermyon:spin/http: requests of guests to other servers (Spin: http, 10.2).
#
# Rule 1: a request goes to the host and port that were checked (addresses.py,
# network.py). Spin follows redirects without looking again; here every hop is
# checked like the first, or a permitted host could send a guest anywhere.
# Rule 2: framing is ours. What a guest says about the length or the connection is
# dropped, so that one guest cannot spoil a connection that another will use.
# Rule 3: requests to the application itself and to its components stay in this
# process (Spin: http, 10.3); requests of the first kind go over the network in Spin.
# Rule 4: all of a response that is kept is bounded while it comes, decompressed.
#
# urllib3 is the client: connections, pooling, TLS, parsing. It is used without its
# own redirects, retries and decompression.

from __future__ import annotations

import http.client
import re
import socket
import threading
import zlib
from base64 import b64encode
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, BinaryIO, TypeVar
from urllib.parse import quote, urljoin

import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import HTTPError, ProtocolError
from urllib3.util import SKIP_HEADER

from .. import forks
from ..component.values import Err
from ..errors import Saturated
from ..messages import NO_HEADERS, Headers, Request, Trailers
from . import descriptors
from .addresses import MAX_ADDRESS, Address, BadAddress, parse_address
from .base import Deadline, HostContext
from .limits import VALUE_OVERHEAD, Budget
from .network import Network
from .pools import WAIT, Places
from .trace_context import traced

_TYPES = """
interface http-types {
  type http-status = u16;
  type body = list<u8>;
  type headers = list<tuple<string, string>>;
  type params = list<tuple<string, string>>;
  type uri = string;
  enum method { get, post, put, delete, patch, head, options }
  record request { method: method, uri: uri, headers: headers, params: params, body: option<body> }
  record response { status: http-status, headers: option<headers>, body: option<body> }
  enum http-error {
    success, destination-not-allowed, invalid-url, request-error, runtime-error, too-many-requests,
  }
}
"""
INTERFACES = {
    "fermyon:spin/http-types": "package fermyon:spin;" + _TYPES,
    "fermyon:spin/http": "package fermyon:spin;"
    + _TYPES
    + """
interface http {
  use http-types.{request, response, http-error};
  send-request: func(req: request) -> result<response, http-error>;
}
""",
}

SCHEMES = ("http", "https")
MAX_REDIRECTS = 10  # as Spin's client
# Idle connections are kept for so many hosts, and at most as many for each.
POOL_HOSTS = 64
POOL_SIZE = 16
_CHUNK = 65536
# Bytes of the trailers of one response (Spin: http, 8.2, as for any `fields`).
MAX_TRAILERS = 128 << 10
_LAST_CHUNK = b"0\r\n\r\n"  # RFC 9112, 7.1, and no trailers behind it

# The connection's business, not the guest's (RFC 9110, 7.6.1, and those that frame a message).
_HOP_BY_HOP = """connection content-length keep-alive proxy-authenticate proxy-authorization
proxy-connection te trailer transfer-encoding upgrade"""
HOP_BY_HOP = frozenset(_HOP_BY_HOP.split())
# What a redirect to another host must not carry along.
_CREDENTIALS = frozenset({"authorization", "cookie", "cookie2", "proxy-authorization", "www-authenticate"})
# What described a body that a redirect drops.
_OF_BODY = frozenset({"content-type", "content-encoding", "content-language", "content-location"})
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_WITHOUT_BODY = frozenset({"GET", "HEAD", "OPTIONS", "DELETE"})
_IDEMPOTENT = _WITHOUT_BODY | {"PUT"}  # RFC 9110, 9.2.2

_NAME = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")  # RFC 9110, token
_VALUE = re.compile(r"[^\x00-\x08\x0a-\x1f\x7f]*")  # RFC 9110, field values
_BAD_VALUE = re.compile(r"[\x00-\x1f\x7f]").search
_URL = re.compile(r"[!-~]*")  # printable ASCII; the rest has to be percent-encoded
URL_CHARACTERS = "".join(map(chr, range(0x21, 0x7F)))

Pairs = list[tuple[str, str]]
E = TypeVar("E", bound=BaseException)


class HttpFailure(Exception):
    """A request without a response; `case` is that of the unversioned interface's error."""

    def __init__(self, case: str, text: str = "") -> None:
        super().__init__(text or case)
        self.case = case


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A request on its way out; `target` is an absolute URL, or a path of the application itself.

    `plain`: nothing is asked for, or unpacked, that the guest has not asked for itself. `length` is how
    long a body in pieces is, None where that is not known. `trailers` go out behind a body in pieces
    without a length, or to a component of the application. A body that can be given up (`give_up`) is sent by
    a thread of its own, so that the response may come before it ends; it is, when nobody takes more of it.
    """

    method: str
    target: str
    headers: tuple[tuple[str, str], ...]
    body: bytes | Iterable[bytes] | None
    plain: bool = False
    length: int | None = None
    trailers: Trailers | None = None


@dataclass(frozen=True, slots=True)
class Incoming:
    """A response that has come in whole."""

    status: int
    headers: Pairs
    body: bytes
    trailers: Headers = NO_HEADERS


@dataclass(frozen=True, slots=True)
class Answer:
    """A response whose body comes in while `chunks` are read; they raise what a Client does."""

    status: int
    headers: Pairs
    chunks: Iterable[bytes]
    trailers: Trailers


class Upload:
    """A request that is being sent in a thread of its own, while its response may come already.

    It goes out over `sock`; `body` can be given up.
    """

    def __init__(self, sock: Any, body: Any) -> None:
        self.sock = sock
        self.failure: BaseException | None = None  # what ended it, but for a server that takes no more
        self.complete = False
        self.ending = False  # the body has ended
        self._body = body
        self._head = threading.Event()
        self._hold = sock.makefile("wb", 0)  # who closes the connection leaves us the descriptor
        sock.share(True)
        self._thread: threading.Thread | None = None

    def start(self, send: Callable[[], object]) -> None:
        """Let `send` send head and `chunks()`, and call `head_is_sent` in between.

        Returns when that is called, after which a response can come; raises what went wrong so far.
        """
        thread = threading.Thread(target=self._run, args=(send,), name="wasm-http-upload", daemon=True)
        try:
            thread.start()
        except RuntimeError as error:  # there are too many
            self._hold.close()
            raise OSError(str(error)) from error
        self._thread = thread
        self._head.wait()
        if self.failure is not None:
            raise self.failure

    def head_is_sent(self) -> None:
        self._head.set()

    def chunks(self) -> Iterator[bytes]:
        """The body, for the connection."""
        yield from self._body
        self.ending = True

    def _run(self, send: Callable[[], object]) -> None:
        try:
            send()
            self.complete = True
        except (BrokenPipeError, ConnectionResetError) as error:
            if not self._head.is_set():
                self.failure = _without_frames(error)
            # else a server may answer without having read everything
        except BaseException as error:
            self.failure = _without_frames(error)
            self.sock.break_off()
        finally:
            self._body.give_up()
            self._hold.close()
            self._head.set()

    def over(self, seconds: float | None = None) -> bool:
        """Wait until it is over, so many seconds at most; whether it is."""
        thread = self._thread
        if thread is None:
            return True
        thread.join(seconds)
        return not thread.is_alive()

    def cancel(self) -> None:
        """Nobody waits for it any more."""
        self._body.give_up()
        self.sock.break_off()
        self.over()


class Client:
    """HTTP over the connections of one application.

    `pooling` keeps connections for later requests; `max_connections` limits the requests that are under
    way at once (runtime config: outbound_http).
    """

    def __init__(self, network: Network, max_connections: int | None = None, *, pooling: bool = True) -> None:
        self._network = network
        self._places = Places(max_connections, network.places)
        self._pooling = pooling
        self._current = threading.local()
        self._manager: urllib3.PoolManager | None = None
        forks.watch(self)

    def after_fork(self) -> None:
        if self._manager is not None:
            forks.abandon(self._manager)
            self._manager = None

    def _pools(self) -> urllib3.PoolManager:
        manager = self._manager
        if manager is None:
            # should two threads come here at once, one keeps a manager of its own for this request
            manager = urllib3.PoolManager(POOL_HOSTS, maxsize=POOL_SIZE, retries=False)
            manager.pool_classes_by_scheme = _pool_classes(self._network, self._current)
            if self._pooling:
                self._manager = manager
        return manager

    def send(self, request: Outgoing, address: Address, deadline: Deadline) -> Incoming:
        """Send `request` to `address`; HttpFailure, DeadlineExceeded."""
        with self.open(request, address, deadline) as answer:
            budget = Budget()
            for name, value in answer.headers:
                budget.spend(VALUE_OVERHEAD + len(name) + len(value))
            return Incoming(answer.status, answer.headers, _joined(answer.chunks, budget))

    @contextmanager
    def open(
        self,
        request: Outgoing,
        address: Address,
        deadline: Deadline,
        connected: Callable[[HTTPConnection], object] | None = None,
    ) -> Iterator[Answer]:
        """The same, with the body still to come; `connected` is called with the connection when there is one.

        Left before the end of the body, or with an exception, it closes the connection.
        """
        give_back = self._places.take(min(WAIT, deadline.remaining()))
        if give_back is None:
            deadline.remaining()
            raise HttpFailure("too-many-requests")
        self._current.deadline, self._current.kept = deadline, False
        self._current.connected = connected
        self._current.behind = None if isinstance(request.body, bytes | None) else request.trailers
        self._current.trailers = NO_HEADERS
        self._current.upload = None
        pools = self._pools()
        well = False
        try:
            response = self._begin_exchange(pools, request, address)
            try:
                yield self._receive(response, request.plain)
            except BaseException:
                response.close()
                raise
            finally:
                response.release_conn()
            well = True
        except (HTTPError, OSError, ValueError, zlib.error) as error:
            upload = self._current.upload
            if upload is not None and upload.failure is not None:
                raise upload.failure from _without_frames(error)
            raise HttpFailure("runtime-error", str(error)) from _without_frames(error)
        finally:
            upload, self._current.upload = self._current.upload, None
            if upload is not None:
                upload.over() if well else upload.cancel()
            if not self._pooling:
                _close(pools)
            give_back()

    def _begin_exchange(
        self, pools: urllib3.PoolManager, request: Outgoing, address: Address
    ) -> urllib3.BaseHTTPResponse:
        try:
            return self._exchange(pools, request, address)
        except ProtocolError as error:
            # A server may close an idle connection at the moment when it is used again.
            if (
                not self._current.kept
                or request.method not in _IDEMPOTENT
                or not isinstance(request.body, bytes | None)
                or not _hung_up(error)
            ):
                raise
            return self._exchange(pools, request, address)

    @staticmethod
    def _exchange(
        pools: urllib3.PoolManager, request: Outgoing, address: Address
    ) -> urllib3.BaseHTTPResponse:
        return pools.urlopen(
            request.method,
            f"{address.scheme}://{address.authority}{_path_and_query(address)}",
            body=request.body,
            headers=_wire_headers(request, address),
            redirect=False,
            retries=False,
            preload_content=False,
            decode_content=False,
            timeout=None,
        )

    def _receive(self, response: urllib3.BaseHTTPResponse, plain: bool) -> Answer:
        headers = [(name.lower(), value) for name, value in response.headers.items()]
        chunks = _pieces(response)
        if not plain and response.headers.get("content-encoding", "").strip().lower() == "gzip":
            # as Spin's client: unpacked, and nothing left that tells of it
            chunks = _gunzip(chunks)
            headers = [pair for pair in headers if pair[0] not in ("content-encoding", "content-length")]
        return Answer(response.status, headers, chunks, lambda: self._current.trailers)

    def close(self) -> None:
        manager, self._manager = self._manager, None
        if manager is not None:
            _close(manager)


def _pieces(response: urllib3.BaseHTTPResponse) -> Iterable[bytes]:
    """The body as it comes; `stream` waits for whole pieces, and forgets the trailers."""
    while data := response.read1(_CHUNK, decode_content=False):
        yield data


def _close(manager: urllib3.PoolManager) -> None:
    """Close idle connections now; `clear` alone leaves that to the garbage collector."""
    keys = manager.pools.keys()
    for key in keys:
        pool = manager.pools.get(key)
        if pool is not None:
            pool.close()
    manager.clear()


def _pool_classes(network: Network, current: threading.local) -> dict[str, Any]:
    """urllib3's pools, with connections over sockets of `network` that end at `current.deadline`.

    They tell in `current.kept` whether the request of this thread went over a kept connection, and in
    `current.trailers` what came behind its response; `current.behind` goes out behind its body.
    """

    class Trailing(http.client.HTTPResponse):
        def _read_status(self) -> tuple[str, int, str]:
            """Past early hints and their like (RFC 9110, 15.2); http.client itself knows 100 alone."""
            while True:
                version, status, reason = super()._read_status()  # type: ignore[misc]
                if not 102 <= status <= 199:
                    return version, status, reason
                http.client.parse_headers(self.fp)

        def _read_and_discard_trailer(self) -> None:
            current.trailers = _read_trailers(self.fp)

    class Bounded(HTTPConnection):
        response_class = Trailing
        sock: Any
        behind: Trailers | None = None
        upload: Upload | None = None
        idle = False  # and counted as such

        def wake(self) -> None:
            if self.idle:
                self.idle = False
                descriptors.kept.give()

        def close(self) -> None:
            self.wake()
            super().close()

        def _new_conn(self) -> socket.socket:
            sock = network.connect(self.host, self.port, current.deadline)
            try:
                if current.connected is not None:
                    current.connected(self)
            except BaseException:
                sock.close()
                raise
            return sock

        def send(self, data: Any) -> None:
            if data == _LAST_CHUNK and self.behind is not None:
                fields = "".join([f"{name}: {value}\r\n" for name, value in self.behind().pairs])
                data = b"0\r\n" + fields.encode("latin-1") + b"\r\n"
            if self.upload is not None:
                self.upload.sock.sendall(data)  # the response may have ended the connection
            else:
                super().send(data)

        def endheaders(self, *arguments: Any, **options: Any) -> None:
            super().endheaders(*arguments, **options)
            if self.upload is not None:
                self.upload.head_is_sent()

        def request(self, *arguments: Any, **options: Any) -> None:
            current.kept = self.sock is not None  # from an earlier request
            if current.kept:
                self.sock.deadline = current.deadline
                if current.connected is not None:
                    current.connected(self)
            self.behind, self.upload = current.behind, None
            body = options.get("body")
            if not hasattr(body, "give_up"):
                super().request(*arguments, **options)
                return
            if self.sock is None:
                self.connect()
            upload = self.upload = current.upload = Upload(self.sock, body)
            options["body"] = upload.chunks()
            upload.start(partial(super().request, *arguments, **options))

        def cut(self, deadline: Deadline) -> None:
            """Break off what goes on for `deadline`; from any thread."""
            sock = self.sock if self.upload is None else self.upload.sock
            if sock is not None:
                sock.cut(deadline)

    def kept(connection: Any) -> Any:
        """The connection, for another request, or None where it still sends this one, or never will."""
        if connection is not None and connection.upload is not None:
            upload = connection.upload
            # where the body has ended, there is nothing left to do but to end
            if not upload.over(1.0 if upload.ending else 0.0) or not upload.complete:
                connection.close()
                return None
            if connection.sock is not None:
                connection.sock.share(False)
            connection.upload = None
        return connection

    class BoundedTls(Bounded, HTTPSConnection):
        pass

    class PlainPool(HTTPConnectionPool):
        ConnectionCls = Bounded

        def _get_conn(self, timeout: float | None = None) -> Any:
            connection: Any = super()._get_conn(timeout)
            connection.wake()
            return connection

        def _put_conn(self, connection: Any) -> None:
            connection = kept(connection)
            if connection is not None and connection.sock is not None:
                connection.idle = descriptors.kept.try_take()
                if not connection.idle:
                    connection.close()
            super()._put_conn(connection)

    class EncryptedPool(PlainPool, HTTPSConnectionPool):
        ConnectionCls = BoundedTls

        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options | {"ssl_context": network.tls_context()})

    return {"http": PlainPool, "https": EncryptedPool}


def _read_trailers(file: BinaryIO) -> Headers:
    """The trailer section of a chunked message (RFC 9112, 7.1.2), which is read to its end."""
    fields: list[tuple[str, str]] = []
    left = MAX_TRAILERS
    while line := file.readline(left):
        left -= len(line)
        if line in (b"\r\n", b"\n"):
            return Headers.trusted(tuple(fields))
        if not left:
            raise http.client.HTTPException(f"trailers of more than {MAX_TRAILERS} bytes")
        if not line.endswith(b"\n"):
            raise http.client.IncompleteRead(b"")
        name, colon, value = line.decode("latin-1").rstrip("\r\n").partition(":")
        value = value.strip(" \t")
        if not colon or _NAME.fullmatch(name) is None or _VALUE.fullmatch(value) is None:
            raise http.client.HTTPException("invalid trailers")
        fields.append((name.lower(), value))
    if fields:
        raise http.client.IncompleteRead(b"")
    # Some servers end the connection here, as if there were no such section; so it has always been read.
    return NO_HEADERS


def _path_and_query(address: Address) -> str:
    path = address.path or "/"
    return path if address.query is None else f"{path}?{address.query}"


def _without_frames(error: E) -> E:
    """`error` and what led to it: urllib3's frames refer to these, and to the body of the request."""
    one: BaseException | None = error
    while one is not None:
        one.__traceback__ = None
        one = one.__cause__ or one.__context__
    return error


def _hung_up(error: ProtocolError) -> bool:
    """Whether the server closed the connection instead of answering."""
    return any(isinstance(cause, ConnectionError) for cause in (*error.args, error.__cause__))


def _wire_headers(request: Outgoing, address: Address) -> urllib3.HTTPHeaderDict:
    headers = urllib3.HTTPHeaderDict()
    names = set()
    for name, value in request.headers:
        headers.add(name, value)
        names.add(name)
    if "accept-encoding" not in names:
        # as Spin's client: a part of a packed body could not be unpacked
        headers.add("accept-encoding", SKIP_HEADER if request.plain or "range" in names else "gzip")
    if request.length is not None and not isinstance(request.body, bytes | None):
        headers.add("content-length", str(request.length))
    if "user-agent" not in names:
        headers.add("user-agent", SKIP_HEADER)
    if "te" in names:
        headers.add("connection", "te")  # RFC 9110, 10.1.4
    if address.user is not None and "authorization" not in names:
        pair = f"{address.user}:{address.password or ''}".encode()
        headers.add("authorization", "Basic " + b64encode(pair).decode())
    return headers


def _gunzip(chunks: Iterable[bytes]) -> Iterable[bytes]:
    """The content of gzip members, in pieces of a bounded size; zlib.error when it is broken or cut."""
    unpack = zlib.decompressobj(wbits=31)
    begun = False
    for chunk in chunks:
        while chunk:
            begun = True
            yield unpack.decompress(chunk, _CHUNK)
            if unpack.eof:
                chunk = unpack.unused_data
                unpack, begun = zlib.decompressobj(wbits=31), False
            else:
                chunk = unpack.unconsumed_tail
    if begun:
        raise zlib.error("incomplete gzip data")


def _joined(chunks: Iterable[bytes], budget: Budget) -> bytes:
    found = []
    for chunk in chunks:
        if not budget.spend(len(chunk)):
            raise HttpFailure("runtime-error", "response is too large")
        found.append(chunk)
    return b"".join(found)


def checked(method: str, uri: str, headers: Pairs, body: bytes | None) -> Outgoing:
    """A guest's request, as far as it may decide; HttpFailure when it is not HTTP."""
    kept = []
    for name, value in headers:
        if _NAME.fullmatch(name) is None or _VALUE.fullmatch(value) is None:
            raise HttpFailure("runtime-error", f"invalid header {name[:80]!r}")
        if name.lower() not in HOP_BY_HOP:
            # each character of a header value is a byte on the wire (messages.py, Rule 2)
            kept.append((name.lower(), value if value.isascii() else value.encode().decode("latin-1")))
    if len(uri) > MAX_ADDRESS or _URL.fullmatch(uri) is None:
        raise HttpFailure("invalid-url")
    return Outgoing(method.upper(), uri, tuple(kept), body or None)


class OutboundHttp:
    """fermyon:spin/http, the unversioned interface."""

    def __init__(self, network: Network, max_connections: int | None = None, *, pooling: bool = True) -> None:
        self.client = Client(network, max_connections, pooling=pooling)

    def functions(self, interface: str) -> dict[str, Callable[..., Any]]:
        return {"send-request": self.send_request} if interface == "fermyon:spin/http" else {}

    def close(self) -> None:
        self.client.close()

    def send_request(self, ctx: HostContext, request: Any) -> Any:
        # `params` is deprecated, and ignored by Spin too
        method, uri, headers, _params, body = request
        try:
            permit(ctx, uri)
            outgoing = checked(method, uri, headers, body)
            response = self.follow(ctx, replace(outgoing, headers=traced(ctx, outgoing.headers)))
        except HttpFailure as failure:
            return Err(failure.case)
        # Names and values are text for the guest: those that are not ASCII are dropped, as Spin does.
        ascii_headers = [pair for pair in response.headers if pair[1].isascii()]
        return response.status, ascii_headers, response.body

    def follow(self, ctx: HostContext, request: Outgoing) -> Incoming:
        """The response to a permitted `request`, after its redirects; HttpFailure, DeadlineExceeded."""
        for _ in range(MAX_REDIRECTS + 1):
            response = self.send_once(ctx, request)
            location = next((value for name, value in response.headers if name == "location"), None)
            if response.status not in _REDIRECTS or location is None:
                return response
            following = _redirected(request, response.status, location)
            if following is None:
                return response
            request = following
            permit(ctx, request.target)
        raise HttpFailure("runtime-error", "too many redirects")

    def open(
        self,
        ctx: HostContext,
        request: Outgoing,
        deadline: Deadline,
        connected: Callable[[HTTPConnection], object] | None = None,
    ) -> AbstractContextManager[Answer]:
        """One exchange with another server, whose target is permitted; see Client.open."""
        return self.client.open(request, parse_address(request.target, SCHEMES), deadline, connected)

    def send_once(self, ctx: HostContext, request: Outgoing) -> Incoming:
        """One exchange, to wherever the target is."""
        if request.target.startswith("/"):
            return _inside(request, request.target, lambda inner: ctx.self_request(inner))
        try:
            address = parse_address(request.target, SCHEMES)
        except BadAddress as error:
            raise HttpFailure("invalid-url", str(error)) from error
        outbound = ctx.component.outbound
        component = outbound.is_chained(address.host) if outbound is not None else None
        if component is not None:
            inner = replace(request, headers=tuple(pair for pair in request.headers if pair[0] != "host"))
            return _inside(
                inner,
                _path_and_query(address),
                lambda chained: ctx.chain(component, replace(chained, authority=address.host)),
            )
        return self.client.send(request, address, ctx.deadline)


def permit(ctx: HostContext, target: str) -> None:
    """Raise HttpFailure unless the component may send a request to `target`."""
    outbound = ctx.component.outbound
    if outbound is None:
        raise HttpFailure("destination-not-allowed")
    allowed = outbound.allows_self() if target.startswith("/") else outbound.check_url(target, "https")
    if not allowed:
        raise HttpFailure("destination-not-allowed")


def _redirected(request: Outgoing, status: int, location: str) -> Outgoing | None:
    """The request that `location` asks for; None when it cannot be followed, as Spin's client sees it."""
    if _BAD_VALUE(location):
        return None
    target = urljoin(request.target, quote(location, safe=URL_CHARACTERS, encoding="latin-1"))
    method, body, headers = request.method, request.body, request.headers
    if status in (301, 302, 303) and method not in ("GET", "HEAD"):
        method, body = "GET", None
        headers = tuple(pair for pair in headers if pair[0] not in _OF_BODY)
    if _place(target) != _place(request.target):
        headers = tuple(pair for pair in headers if pair[0] not in _CREDENTIALS and pair[0] != "host")
    return Outgoing(method, target, headers, body)


def _place(target: str) -> str:
    """Where a target is: requests to another place must not carry credentials."""
    if target.startswith("/") and not target.startswith("//"):
        return ""
    try:
        address = parse_address(target, SCHEMES)
    except BadAddress:
        return target
    return f"{address.scheme}://{address.authority}"


def _inside(request: Outgoing, target: str, answer: Callable[[Request], Any]) -> Incoming:
    """An exchange within this process."""
    path, question, query = target.partition("#")[0].partition("?")
    assert isinstance(request.body, bytes | None)
    body = () if request.body is None else (request.body,)
    headers = list(request.headers)
    if request.body is not None or request.method not in _WITHOUT_BODY:
        headers.append(("content-length", str(len(request.body or b""))))
    inner = Request(request.method, path, query if question else None, Headers.trusted(tuple(headers)), body)
    inner.trailers = request.trailers
    try:
        response = answer(inner)
    except LookupError as error:  # nobody is there to answer
        raise HttpFailure("invalid-url", str(error)) from error
    except Saturated as error:
        raise HttpFailure("too-many-requests", str(error)) from error
    try:
        budget = Budget()
        pairs = [*response.headers]
        for name, value in pairs:
            budget.spend(VALUE_OVERHEAD + len(name) + len(value))
        whole = _joined(response.body, budget)
        trailers = response.trailers
        return Incoming(response.status, pairs, whole, NO_HEADERS if trailers is None else trailers())
    finally:
        response.close()
