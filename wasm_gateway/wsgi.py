# The Gateway as a WSGI application or middleware (PEP 3333), and the two halves of
# a door that asgi.py and the integrations share: which raw path a server means,
# and which head of a response may leave the process.
#
# Rule 1: a door translates and decides nothing: routes, limits, and which headers a
# guest sees, are the gateway's. What makes no sense as a request goes no further.
# Rule 2: a native route pays for `raw_path` and `match`, and for nothing else.
# Rule 3: nothing that could break the framing of HTTP goes out. A field that HTTP
# does not allow is a 500; hop-by-hop fields are the server's and are dropped; a
# body is as long as its content-length says, or the connection breaks.

from __future__ import annotations

import logging
import os
import re
import select
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache, partial
from http import HTTPStatus
from io import BytesIO
from time import perf_counter
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote_to_bytes

from .errors import Disconnected, GatewayError, GuestError, RequestError
from .messages import NOT_TRAILERS, STREAMED, Headers, Request, Response, Trailers
from .migration.compare import Answer
from .migration.counters import Unseen
from .migration.requests import RequestFacts, set_cookie
from .migration.tee import Tee

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

    from .gateway import Gateway
    from .migration.pilot import Turn
    from .policy import Visitor
    from .router import RouteMatch

log = logging.getLogger("wasm_gateway")

# Bytes asked of wsgi.input at a time; a server may hand out fewer.
# - werkzeug, gunicorn: 64 KiB too
CHUNK_BYTES = 64 << 10

# Keys of an environ that look like headers and are none. Some servers (granian, wsgiref) put the
# process' own environment in: a guest must not see it, nor take HTTP_PROXY for a header ("httpoxy").
NOT_HEADERS = frozenset(
    (
        *("HTTP_CONTENT_TYPE", "HTTP_CONTENT_LENGTH", "HTTP_PROXY"),
        *(key for key in os.environ if key.startswith("HTTP_")),
    )
)

# Headers whose keys have no HTTP_ before them.
BARE_HEADERS = ("CONTENT_TYPE", "CONTENT_LENGTH")

Host = Callable[["WSGIEnvironment"], str | None]


class WsgiGateway:
    """`gateway` as a WSGI application, or as middleware around `app`.

    A path that no route of the manifest answers goes to `app`; without one it is a 404. Routes lie below
    SCRIPT_NAME, and there below `prefix` ("/shop"), which guests do not see and `app` does. `host` gives the
    authority of a request where the Host header alone is not trusted, and raises RequestError for one that
    is refused. `visitor` says who asks, for rules that depend on it.
    """

    def __init__(
        self,
        gateway: Gateway,
        app: WSGIApplication | None = None,
        *,
        prefix: str = "",
        host: Host | None = None,
        visitor: Callable[[WSGIEnvironment], Visitor] | None = None,
    ) -> None:
        self.gateway = gateway
        self.app = app
        self.prefix = prefix
        self.host = host
        self.visitor = visitor
        self._match = gateway.match
        self._writes = True  # whether the server's start_response gives a `write`, as PEP 3333 wants

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        path = raw_path(environ, self.prefix)
        match = None if path is None else self._match(path)
        if match is not None:
            assert path is not None
            if self.app is None:
                self.gateway.follow()
                answer = self._guest(environ, start_response, path, match)
            else:
                turn = self.gateway.choose(match, _Facts(environ, self.visitor))
                if turn is not None:
                    return self._shared(self.app, environ, start_response, path, match, turn)
                answer = self._guest(environ, start_response, path, match)
            if answer is not None:
                return answer
        if self.app is not None:
            return self.app(environ, start_response)
        return self._send(environ, start_response, Response(404), None)

    def _shared(
        self,
        app: WSGIApplication,
        environ: WSGIEnvironment,
        start_response: StartResponse,
        path: str,
        match: RouteMatch,
        turn: Turn,
    ) -> Iterable[bytes]:
        """A request that the guest answers, or the app, or first the one and then the other."""
        if turn.choice.cookie is not None:
            start_response = _with_cookie(environ, start_response, turn.choice.cookie)
        if turn.keeps_body:
            try:
                turn.kept = keep_body(environ, turn.limit)
            except RequestError as error:
                log.info("%s %r: %s", environ["REQUEST_METHOD"], path, error)
                return self._send(environ, start_response, Response(error.status), None)
        if turn.choice.guest:
            answer = self._guest(environ, start_response, path, match, turn)
            if answer is not None:
                return answer
            if turn.kept:
                environ["wsgi.input"] = BytesIO(turn.kept)
        elif turn.choice.shadow:
            if turn.kept is None:
                turn.unseen(Unseen.REQUEST)
            else:
                return self._overheard(app, environ, start_response, path, turn)
        elif turn.times_native:
            return _timed(app, environ, start_response, turn)
        return app(environ, start_response)

    def _overheard(
        self,
        app: WSGIApplication,
        environ: WSGIEnvironment,
        start_response: StartResponse,
        path: str,
        turn: Turn,
    ) -> Iterable[bytes]:
        """What the app answers; once it has gone out, the guest gets the same request."""
        given = environ.copy()  # the app may change it
        body = (turn.kept,) if turn.kept else ()

        def done(native: Answer) -> None:
            try:
                authority = None if self.host is None else self.host(given)
                request = to_request(given, path, authority=authority, body=body)
            except RequestError:
                turn.unseen(Unseen.REFUSED)
            else:
                turn.shadowed(request, native)

        overheard = Overheard(start_response, turn.limit, done)
        return overheard.body(app(environ, overheard.start), environ.get("wsgi.file_wrapper"))

    def _guest(
        self,
        environ: WSGIEnvironment,
        start_response: StartResponse,
        path: str,
        match: RouteMatch,
        turn: Turn | None = None,
    ) -> Iterable[bytes] | None:
        """What the guest answers; None where the app is to."""
        push: Push | None = None
        try:
            authority = None if self.host is None else self.host(environ)
            request = to_request(environ, path, authority=authority)
            if self._writes:
                push = Push(start_response, request.method)
            response = self.gateway.handle(request, match, push, turn)
        except RequestError as error:
            log.info("%s %r: %s", environ["REQUEST_METHOD"], path, error)
            response = Response(error.status)
        return None if response is None else self._send(environ, start_response, response, push)

    def _send(
        self,
        environ: WSGIEnvironment,
        start_response: StartResponse,
        response: Response,
        push: Push | None,
    ) -> Iterable[bytes]:
        if push is not None and push.begun:
            if push.kept is not None:
                self._writes = False
            rest = push.end(response)
            _send_trailers(environ, push.trailers)
            return rest
        status, headers, body = outgoing(response, environ["REQUEST_METHOD"])
        if isinstance(body, tuple) and not is_bodiless(environ["REQUEST_METHOD"], status):
            _send_trailers(environ, response.trailers)
        start_response(status_line(status), headers)
        return body


# Requests that are shared out


class _Facts(RequestFacts):
    """policy.Facts of an environ."""

    def __init__(
        self, environ: WSGIEnvironment, visitor: Callable[[WSGIEnvironment], Visitor] | None
    ) -> None:
        super().__init__(
            environ["REQUEST_METHOD"],
            environ.get("QUERY_STRING", ""),
            partial(visitor, environ) if visitor else None,
        )
        self._environ = environ

    def header(self, name: str) -> str | None:
        key = name.upper().replace("-", "_")
        value: str | None = self._environ.get(key if key in BARE_HEADERS else f"HTTP_{key}")
        return value


def _with_cookie(environ: WSGIEnvironment, start_response: StartResponse, value: str) -> StartResponse:
    secure = environ["wsgi.url_scheme"] == "https"
    field = "Set-Cookie", set_cookie(value, secure, environ.get("SCRIPT_NAME", "") or "/")

    def start(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
        return start_response(status, [*headers, field], exc_info)

    return start


def _timed(
    app: WSGIApplication, environ: WSGIEnvironment, start_response: StartResponse, turn: Turn
) -> Iterable[bytes]:
    """What the app answers, as one side of a canary."""
    overheard = Overheard(start_response, 0, lambda native: turn.native(native.status, native.seconds))
    try:
        return overheard.body(app(environ, overheard.start), environ.get("wsgi.file_wrapper"))
    except Exception:
        turn.native(0, 0.0)
        raise


class Overheard:
    """The response of an app as it goes by: `start` and `body` stand between app and server.

    `done` is told what it was once all of it has gone out.
    """

    __slots__ = ("_begin", "_done", "_headers", "_start", "_status", "tee")

    def __init__(self, start: StartResponse, limit: int, done: Callable[[Answer], object]) -> None:
        self._start = start
        self._done = done
        self._status = ""
        self._headers: list[tuple[str, str]] = []
        self._begin = perf_counter()
        self.tee = Tee(limit)

    def start(self, status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
        """The start_response of the app."""
        self._status, self._headers = status, headers
        write: Any = (
            self._start(status, headers) if exc_info is None else self._start(status, headers, exc_info)
        )
        if not callable(write):
            return write

        def writing(data: bytes) -> object:
            self.tee.see(data)
            return write(data)

        return writing

    def body(self, body: Iterable[bytes], file_wrapper: Any) -> Iterable[bytes]:
        """The body that the app has returned, seen by whoever iterates it."""
        self.tee.seconds = perf_counter() - self._begin
        if isinstance(file_wrapper, type) and isinstance(body, file_wrapper):
            self.tee.lose(Unseen.FILE)
            self.end()
            return body
        return (OverheardSized if hasattr(body, "__len__") else OverheardBody)(self, body)

    def end(self) -> None:
        """The response is over; never raises."""
        try:
            self._done(self.tee.answer(int(self._status[:3] or 0), Headers(self._headers)))
        except Exception:
            log.exception("a response could not be compared")


class OverheardBody:
    """The body of such a response."""

    __slots__ = ("_body", "_ended", "_next", "_overheard")

    def __init__(self, overheard: Overheard, body: Iterable[bytes]) -> None:
        self._overheard = overheard
        self._body = body
        self._next = iter(body).__next__
        self._ended = False

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        tee = self._overheard.tee
        begin = perf_counter()
        try:
            chunk = self._next()
        except StopIteration:
            self._ended = True
            raise
        finally:
            tee.seconds += perf_counter() - begin
        tee.see(chunk)
        return chunk

    def close(self) -> None:
        close = getattr(self._body, "close", None)
        try:
            if close is not None:
                close()
        finally:
            if not self._ended:
                self._overheard.tee.lose(Unseen.CUT)
            self._overheard.end()


class OverheardSized(OverheardBody):
    """The same of one whose length is known: servers state a content-length when that is 1 (PEP 3333)."""

    __slots__ = ()

    def __len__(self) -> int:
        return len(self._body)  # type: ignore[arg-type]


def keep_body(environ: WSGIEnvironment, limit: int) -> bytes | None:
    """The request body, which can be read from the start again; None when it is longer, or nobody knows.

    RequestError when the client leaves before its end.
    """
    length = content_length(environ.get("CONTENT_LENGTH")) or 0
    if length > limit or "HTTP_TRANSFER_ENCODING" in environ:
        return None
    if not length:
        return b""
    body = b"".join(InputBody(environ["wsgi.input"].read, length))
    environ["wsgi.input"] = BytesIO(body)
    return body


# From the server


def raw_path(environ: WSGIEnvironment, prefix: str = "") -> str | None:
    """The path below SCRIPT_NAME as it stood in the request line, never decoded; None when it is no path.

    With a `prefix` it is what follows that, and None where nothing does. PEP 3333 has it decoded only.
    gunicorn, uWSGI, mod_wsgi and Werkzeug add the request line; it counts where it says the same as
    SCRIPT_NAME and PATH_INFO, which a middleware may have changed. Without it PATH_INFO is quoted again.
    """
    path: str = environ.get("PATH_INFO", "")
    script: str = environ.get("SCRIPT_NAME", "")
    if prefix:
        prefix = prefix.encode().decode("latin-1")
        rest = below(path, prefix)
        if rest is None:
            return None
        path, script = rest, script + prefix
    raw: str | None = environ.get("RAW_URI") or environ.get("REQUEST_URI")
    return pick_path(raw, script, path, _latin1)


def below(path: str, prefix: str) -> str | None:
    """What of `path` follows the folder `prefix`; None where it does not lie there."""
    if path.startswith(prefix) and path[len(prefix) : len(prefix) + 1] in ("", "/"):
        return path[len(prefix) :]
    return None


def pick_path(
    raw: str | None, script: str, path: str, decode: Callable[[str], str], encoding: str = "latin-1"
) -> str | None:
    """The raw form of the decoded `path`, which follows the decoded prefix `script` in the target `raw`.

    `decode` is how the server made `path` from it, `encoding` leads back to bytes.
    """
    if raw is not None:
        raw = raw.partition("?")[0]
        # Nearly always: no prefix, nothing quoted.
        if raw == path and not script and raw.startswith("/") and raw.isascii():
            return raw
        found = _below(raw, script, path, decode, encoding)
        if found is not None:
            return found
    if not path:
        return "/"
    if not path.startswith("/"):
        return None  # "*", and whatever a CONNECT names
    try:
        return quote(path, safe="/:@!$&'()*+,;=~", encoding=encoding)
    except UnicodeEncodeError:
        return None


def _below(raw: str, script: str, path: str, decode: Callable[[str], str], encoding: str) -> str | None:
    """What of `raw` stands for `path`, None when `raw` does not say the same as `script` and `path`."""
    if not raw.startswith("/"):
        # RFC 9112, 3.2.2: absolute-form
        scheme, separator, rest = raw.partition("://")
        if not separator or "/" in scheme:
            return None
        _, slash, rest = rest.partition("/")
        raw = slash + rest
    if not raw.isascii():
        return None
    for prefix in (script, quote(script, encoding=encoding, errors="replace"), ""):
        if raw.startswith(prefix):
            rest = raw[len(prefix) :]
            # Django calls an empty path "/", other frameworks do not
            if decode(rest) == path or (not rest and path == "/"):
                return rest if rest.startswith("/") else None
    return None


def _latin1(raw: str) -> str:
    return unquote_to_bytes(raw).decode("latin-1")


def to_request(
    environ: WSGIEnvironment,
    path: str,
    *,
    authority: str | None = None,
    scheme: str | None = None,
    body: Iterable[bytes] | None = None,
) -> Request:
    """The request of `environ` at the raw `path` (what `raw_path` gave).

    `authority`, `scheme` and `body` replace what the environ says. Raises RequestError when two parts of
    the request contradict each other, or when it names no host.
    """
    fields = [
        (header_name(key), value)
        for key, value in environ.items()
        if key[:5] == "HTTP_" and key not in NOT_HEADERS
    ]
    for key, name in (("CONTENT_TYPE", "content-type"), ("CONTENT_LENGTH", "content-length")):
        value = environ.get(key)
        if value:
            fields.append((name, value))
    host = environ.get("HTTP_HOST")
    raw = environ.get("RAW_URI") or environ.get("REQUEST_URI") or ""
    if authority is None:
        authority = _authority(raw, host)
    elif authority != host:
        # The site decided which name counts (a proxy's); the guest sees that one alone.
        fields = [field for field in fields if field[0] != "host"]
        fields.append(("host", authority))
    query: str | None = environ.get("QUERY_STRING") or None
    if query is None and raw.endswith("?"):
        query = ""
    address = environ.get("REMOTE_ADDR")
    port = environ.get("REMOTE_PORT")
    return Request(
        method=environ["REQUEST_METHOD"],
        path=path,
        query=query if query is None or query.isascii() else visible(query),
        headers=Headers.trusted(tuple(fields)),
        body=input_body(environ) if body is None else body,
        scheme=environ["wsgi.url_scheme"] if scheme is None else scheme,
        authority=checked_authority(authority),
        client=(address, int(port) if port and str(port).isdecimal() else 0) if address else None,
        protocol=environ.get("SERVER_PROTOCOL", "HTTP/1.1"),
        gone=hung_up(environ),
    )


def hung_up(environ: WSGIEnvironment) -> Callable[[], bool] | None:
    """Says whether the client has closed its side, where the server shows its socket: gunicorn, Werkzeug.

    One of gevent's or eventlet's would not be asked without a switch to another greenlet.
    """
    sock: Any = environ.get("gunicorn.socket") or environ.get("werkzeug.socket")
    if _HUNG_UP is None or type(sock).__module__ not in ("socket", "ssl"):
        return None

    def gone() -> bool:
        if sock.fileno() < 0:
            return True
        asked = select.poll()
        asked.register(sock, _HUNG_UP)
        return bool(asked.poll(0))

    return gone


# Of Linux; elsewhere a door learns it by sending.
_HUNG_UP: int | None = getattr(select, "POLLRDHUP", None)


def _authority(raw: str, host: str | None) -> str | None:
    """Spin: http, 5: of the Host header or of the target's absolute form; both must agree."""
    if raw[:1] == "/" or "://" not in raw.partition("?")[0]:
        return host
    authority = re.split("[/?]", raw.partition("://")[2], maxsplit=1)[0]
    if host is not None and host.lower() != authority.lower():
        raise RequestError("the Host header and the request target name different hosts")
    return authority


_AUTHORITY = re.compile(r"(?:[A-Za-z0-9._~-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{0,5})?").fullmatch


def checked_authority(authority: str | None) -> str:
    """`authority` if it is a host and perhaps a port; RequestError for anything else, and for nothing.

    RFC 9112, 3.2 asks for a 400 then (Spin, http 5, closes the connection without one), also for several
    Host headers, which servers join with commas.
    """
    if authority is None or _AUTHORITY(authority) is None:
        raise RequestError(f"no valid host: {authority!r}")
    return authority


@lru_cache(maxsize=512)
def header_name(key: str) -> str:
    """The header that an environ key HTTP_... stands for, in lower case."""
    return key[5:].replace("_", "-").lower()


def visible(text: str) -> str:
    """`text` (one byte a character) with every byte that is not visible ASCII quoted."""
    return quote(text, safe="".join(map(chr, range(0x21, 0x7F))), encoding="latin-1", errors="replace")


def content_length(text: str | None) -> int | None:
    """The number in a request's content-length, None without one; RequestError when it is none."""
    if not text:
        return None
    if not (text.isascii() and text.isdigit() and len(text) <= 18):
        raise RequestError("invalid content-length")
    return int(text)


def input_body(environ: WSGIEnvironment) -> Iterable[bytes]:
    """The request body: what CONTENT_LENGTH grants, or all of it where the server ends the input itself."""
    length = content_length(environ.get("CONTENT_LENGTH"))
    if environ.get("wsgi.input_terminated") and (length is None or "HTTP_TRANSFER_ENCODING" in environ):
        # RFC 9112, 6.3: a transfer-encoding overrides any content-length
        return InputBody(environ["wsgi.input"].read, None)
    return InputBody(environ["wsgi.input"].read, length) if length else ()


class InputBody:
    """The bytes that `read(size)` gives, `length` of them or, when None, up to the end.

    Raises RequestError when the client went away before.
    """

    __slots__ = ("_left", "_read")

    def __init__(self, read: Callable[[int], bytes], length: int | None) -> None:
        self._read = read
        self._left = length

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        left = self._left
        if left == 0:
            raise StopIteration
        try:
            chunk = self._read(CHUNK_BYTES if left is None else min(left, CHUNK_BYTES))
        except Exception as error:
            # Every server has its own exceptions for a client that left, or that sends broken chunks.
            self._left = 0
            raise RequestError(f"the request body could not be read: {error!r}") from error
        if left is not None:
            if not chunk:
                self._left = 0
                raise Disconnected("client disconnected")
            self._left = left - len(chunk)
        elif not chunk:
            self._left = 0
            raise StopIteration
        return chunk


# To the server

# RFC 9110, 7.6.1 and the names that wasi:http forbids; PEP 3333 forbids applications to send them.
# "status" is CGI's, PEP 3333 has it in the status line.
DROPPED = frozenset(
    (
        *("connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "proxy-connection"),
        *("te", "trailer", "trailers", "transfer-encoding", "upgrade", "http2-settings", "status"),
    )
)
# By these a server in front is told to answer with a file, or from a place that only it can reach. A site may
# say so, and no guest: it would read what nobody granted it (nginx, Apache, lighttpd, LiteSpeed, Perlbal).
ORDERS = frozenset(
    (
        *("x-accel-redirect", "x-sendfile", "x-lighttpd-send-file", "x-lighttpd-send-tempfile"),
        *("x-sendfile2", "x-litespeed-location", "x-reproxy-url"),
    )
)

_NAME = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+").fullmatch  # RFC 9110, 5.6.2
_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*").fullmatch  # RFC 9110, 5.5

_STATUS_LINES = {status.value: f"{status.value} {status.phrase}" for status in HTTPStatus}

# PEP 3333 knows no trailers, in either direction. Only gunicorn takes those of a response, over HTTP/2.
SEND_TRAILERS = "gunicorn.http2.send_trailers"

# What `outgoing` gives: status, header fields, body (a tuple, or to be closed).
Outgoing = tuple[int, list[tuple[str, str]], "tuple[bytes, ...] | OutputBody"]


def status_line(status: int) -> str:
    """Code and phrase; a code that nobody registered gets a phrase too, PEP 3333 wants one."""
    return _STATUS_LINES.get(status) or f"{status} Unknown"


def outgoing(response: Response, method: str) -> Outgoing:
    """What of `response` goes to the client of a `method` request; the body must be closed if it can be.

    A response that HTTP cannot carry is logged and becomes an empty 500.
    """
    try:
        return _outgoing(response, method)
    except GuestError as error:
        log.error("response refused: %s", error)
        response.close()
        return 500, [("content-length", "0")], ()


def _outgoing(response: Response, method: str) -> Outgoing:
    status = response.status
    if not 200 <= status <= 999:
        # 1xx is no final answer, and a 101 would hand the connection over
        raise GuestError(f"guest answered with status {status}")
    fields: list[tuple[str, str]] = []
    length: int | None = None
    for name, value in response.headers.pairs:
        if _NAME(name) is None or _VALUE(value) is None:
            raise GuestError(f"guest set an invalid header {name[:80]!r}: {value[:80]!r}")
        if name in DROPPED or name in ORDERS:
            continue
        value = value.strip(" \t")
        if name == "content-length":
            if not (value.isascii() and value.isdigit() and len(value) <= 18):
                raise GuestError(f"guest set an invalid content-length {value[:80]!r}")
            if length is not None and length != int(value):
                raise GuestError("guest set two different content-lengths")
            length = int(value)
        else:
            fields.append((name, value))

    body = response.body
    whole = isinstance(body, tuple)
    bodiless = is_bodiless(method, status)
    if whole and not bodiless:
        assert isinstance(body, tuple)
        length = sum(map(len, body))
    elif whole and method == "HEAD" and length is None:
        # as for GET; a guest that left the body away as well told no length
        length = sum(map(len, body)) or None
    if length is not None and status != 204:
        fields.append(("content-length", str(length)))
    if bodiless:
        response.close()
        return status, fields, ()
    if isinstance(body, tuple):
        return status, fields, body
    return status, fields, OutputBody(response, length)


def is_bodiless(method: str, status: int) -> bool:
    """Whether HTTP has no body, and nothing behind one, in such a response (RFC 9110, 6.4.1)."""
    return method == "HEAD" or status in (204, 304)


def trailing(trailers: Trailers) -> list[tuple[str, str]]:
    """The fields that go out behind a body; GuestError for one that HTTP does not allow."""
    fields = []
    for name, value in trailers().pairs:
        if _NAME(name) is None or _VALUE(value) is None:
            raise GuestError(f"guest set an invalid trailer {name[:80]!r}: {value[:80]!r}")
        if name not in DROPPED and name not in ORDERS and name not in NOT_TRAILERS:
            fields.append((name, value.strip(" \t")))
    return fields


def _send_trailers(environ: WSGIEnvironment, trailers: Trailers | None) -> None:
    """Hand over what follows a body that is whole, to a server that sends such things."""
    send = environ.get(SEND_TRAILERS)
    if send is not None and trailers is not None:
        fields = trailing(trailers)
        if fields:
            send(fields)


class Meter:
    """Counts a body against the length that its head promised, if any; GuestError for a broken promise."""

    __slots__ = ("_left",)

    def __init__(self, length: int | None) -> None:
        self._left = length

    def count(self, chunk: bytes) -> None:
        if self._left is not None:
            self._left -= len(chunk)
            if self._left < 0:
                raise GuestError("guest's body is longer than its content-length")

    def end(self) -> None:
        if self._left:
            raise GuestError(f"guest's body ended {self._left} bytes before its content-length")


class OutputBody:
    """The body of a response that is still being made; `length` is what its head promises, if anything.

    A guest that breaks the promise raises GuestError where it does, and the server breaks the connection.
    """

    __slots__ = ("_next", "_response", "meter")

    def __init__(self, response: Response, length: int | None) -> None:
        self._response = response
        self._next = iter(response.body).__next__
        self.meter = Meter(length)

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        try:
            chunk = self._next()
        except StopIteration:
            self.meter.end()
            raise
        except GatewayError as error:
            log.error("response cut off: %s", error)
            raise
        self.meter.count(chunk)
        return chunk

    def close(self) -> None:
        self._response.close()


def begun(head: Response, method: str) -> tuple[int, list[tuple[str, str]], Meter | None]:
    """Status, fields and the meter of a body that follows in pieces; None where HTTP has none.

    GuestError for a head that HTTP cannot carry.
    """
    status, fields, body = _outgoing(Response(head.status, head.headers, iter(())), method)
    return status, fields, body.meter if isinstance(body, OutputBody) else None


class Push:
    """Sends a response while it is made, in the same thread, through the `write` of PEP 3333.

    With a server that has none, the chunks are `kept` for it to iterate.
    """

    __slots__ = ("_meter", "_method", "_start", "_write", "begun", "kept", "trailers")

    def __init__(self, start_response: StartResponse, method: str) -> None:
        self._start = start_response
        self._method = method
        self._meter: Meter | None = None
        self._write: Callable[[bytes], object] | None = None
        self.begun = False
        self.kept: list[bytes] | None = None
        self.trailers: Trailers | None = None

    def __call__(self, head: Response) -> Callable[[bytes | None], object]:
        status, fields, self._meter = begun(head, self._method)
        self.begun = True
        if self._meter is not None:
            self.trailers = head.trailers
        write: Any = self._start(status_line(status), fields)
        if not callable(write):
            self.kept = []
            write = self.kept.append
        self._write = write
        return self._send

    def _send(self, chunk: bytes | None) -> None:
        meter = self._meter
        if meter is None or not chunk:
            return
        meter.count(chunk)
        assert self._write is not None
        try:
            self._write(chunk)
        except Exception as error:
            # Every server has its own exceptions for a client that left.
            raise Disconnected(f"the response could not be sent: {error!r}") from error

    def end(self, response: Response) -> Iterable[bytes]:
        """What is left for the server; GuestError, at which it breaks the connection, for a failure."""
        if response is not STREAMED:
            raise GuestError("the response was cut off")
        if self._meter is not None:
            self._meter.end()
        return self.kept or ()
