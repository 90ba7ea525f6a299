# wasi:http 0.2: messages, bodies, and requests of guests to other servers (Spin: http,
# 8.2 and 10.1).
#
# Rule 1: what the text of wasi:http calls a child of something is a part of the same
# Python object here; what may be taken once is taken once.
# Rule 2: header names are lower case, values are bytes. Names that belong to the
# connection are hidden from a guest and refused when it sets them.
# Rule 3: a request goes out when its body is finished, through the client and under the
# rules of outbound_http.py: to other servers from a thread of a bounded pool, so that
# several are under way at once; to components of the application in the guest's own
# thread, when it first waits for the answer.

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ClassVar

from .. import forks
from ..component.values import Err, Ok
from ..errors import DeadlineExceeded, GatewayError, LimitExceeded, Trap
from ..messages import Headers
from .base import HostContext
from .outbound_http import HOP_BY_HOP, HttpFailure, Incoming, OutboundHttp, Outgoing, checked, permit
from .wasi_io import (
    READY,
    BytesInput,
    InputStream,
    IoError,
    OutputStream,
    Pollable,
    StreamClosed,
    StreamFailed,
    Waker,
    waker,
)

_TEXT = """
package wasi:http@0.2.0;
interface types {
  use wasi:clocks/monotonic-clock@0.2.0.{duration};
  use wasi:io/streams@0.2.0.{input-stream, output-stream};
  use wasi:io/error@0.2.0.{error as io-error};
  use wasi:io/poll@0.2.0.{pollable};
  variant method { get, head, post, put, delete, connect, options, trace, patch, other(string) }
  variant scheme { HTTP, HTTPS, other(string) }
  record DNS-error-payload { rcode: option<string>, info-code: option<u16> }
  record TLS-alert-received-payload { alert-id: option<u8>, alert-message: option<string> }
  record field-size-payload { field-name: option<string>, field-size: option<u32> }
  variant error-code {
    DNS-timeout, DNS-error(DNS-error-payload), destination-not-found, destination-unavailable,
    destination-IP-prohibited, destination-IP-unroutable, connection-refused, connection-terminated,
    connection-timeout, connection-read-timeout, connection-write-timeout, connection-limit-reached,
    TLS-protocol-error, TLS-certificate-error, TLS-alert-received(TLS-alert-received-payload),
    HTTP-request-denied, HTTP-request-length-required, HTTP-request-body-size(option<u64>),
    HTTP-request-method-invalid, HTTP-request-URI-invalid, HTTP-request-URI-too-long,
    HTTP-request-header-section-size(option<u32>), HTTP-request-header-size(option<field-size-payload>),
    HTTP-request-trailer-section-size(option<u32>), HTTP-request-trailer-size(field-size-payload),
    HTTP-response-incomplete, HTTP-response-header-section-size(option<u32>),
    HTTP-response-header-size(field-size-payload), HTTP-response-body-size(option<u64>),
    HTTP-response-trailer-section-size(option<u32>), HTTP-response-trailer-size(field-size-payload),
    HTTP-response-transfer-coding(option<string>), HTTP-response-content-coding(option<string>),
    HTTP-response-timeout, HTTP-upgrade-failed, HTTP-protocol-error, loop-detected, configuration-error,
    internal-error(option<string>),
  }
  http-error-code: func(err: borrow<io-error>) -> option<error-code>;
  variant header-error { invalid-syntax, forbidden, immutable }
  type field-key = string;
  type field-name = field-key;
  type field-value = list<u8>;
  resource fields {
    constructor();
    from-list: static func(entries: list<tuple<field-name, field-value>>) -> result<fields, header-error>;
    get: func(name: field-name) -> list<field-value>;
    has: func(name: field-name) -> bool;
    set: func(name: field-name, value: list<field-value>) -> result<_, header-error>;
    delete: func(name: field-name) -> result<_, header-error>;
    append: func(name: field-name, value: field-value) -> result<_, header-error>;
    entries: func() -> list<tuple<field-name, field-value>>;
    clone: func() -> fields;
  }
  type headers = fields;
  type trailers = fields;
  resource incoming-request {
    method: func() -> method;
    path-with-query: func() -> option<string>;
    scheme: func() -> option<scheme>;
    authority: func() -> option<string>;
    headers: func() -> headers;
    consume: func() -> result<incoming-body>;
  }
  resource outgoing-request {
    constructor(headers: headers);
    body: func() -> result<outgoing-body>;
    method: func() -> method;
    set-method: func(method: method) -> result;
    path-with-query: func() -> option<string>;
    set-path-with-query: func(path-with-query: option<string>) -> result;
    scheme: func() -> option<scheme>;
    set-scheme: func(scheme: option<scheme>) -> result;
    authority: func() -> option<string>;
    set-authority: func(authority: option<string>) -> result;
    headers: func() -> headers;
  }
  resource request-options {
    constructor();
    connect-timeout: func() -> option<duration>;
    set-connect-timeout: func(duration: option<duration>) -> result;
    first-byte-timeout: func() -> option<duration>;
    set-first-byte-timeout: func(duration: option<duration>) -> result;
    between-bytes-timeout: func() -> option<duration>;
    set-between-bytes-timeout: func(duration: option<duration>) -> result;
  }
  resource response-outparam {
    send-informational: func(status: u16, headers: headers) -> result<_, error-code>;
    set: static func(param: response-outparam, response: result<outgoing-response, error-code>);
  }
  type status-code = u16;
  resource incoming-response {
    status: func() -> status-code;
    headers: func() -> headers;
    consume: func() -> result<incoming-body>;
  }
  resource incoming-body {
    %stream: func() -> result<input-stream>;
    finish: static func(this: incoming-body) -> future-trailers;
  }
  resource future-trailers {
    subscribe: func() -> pollable;
    get: func() -> option<result<result<option<trailers>, error-code>>>;
  }
  resource outgoing-response {
    constructor(headers: headers);
    status-code: func() -> status-code;
    set-status-code: func(status-code: status-code) -> result;
    headers: func() -> headers;
    body: func() -> result<outgoing-body>;
  }
  resource outgoing-body {
    write: func() -> result<output-stream>;
    finish: static func(this: outgoing-body, trailers: option<trailers>) -> result<_, error-code>;
  }
  resource future-incoming-response {
    subscribe: func() -> pollable;
    get: func() -> option<result<result<incoming-response, error-code>>>;
  }
}
interface incoming-handler {
  use types.{incoming-request, response-outparam};
  handle: func(request: incoming-request, response-out: response-outparam);
}
interface outgoing-handler {
  use types.{outgoing-request, request-options, future-incoming-response, error-code};
  handle: func(request: outgoing-request, options: option<request-options>)
    -> result<future-incoming-response, error-code>;
}
"""
TYPES, OUTGOING, INCOMING = (
    f"wasi:http/{name}@0.2" for name in ("types", "outgoing-handler", "incoming-handler")
)
INTERFACES = {TYPES: _TEXT, OUTGOING: _TEXT, INCOMING: _TEXT}

METHODS = ("get", "head", "post", "put", "delete", "connect", "options", "trace", "patch")
_METHOD_OF = {name.upper(): (name, None) for name in METHODS}

# Names that belong to the connection (Spin: http, 8.2).
FORBIDDEN = HOP_BY_HOP - {"content-length", "te", "trailer"} | {"host", "http2-settings"}
# What one `fields` may hold, names and values (Spin: http, 8.2).
MAX_FIELDS = 128 << 10
# What a request of a guest may send, since it is kept until it is whole.
MAX_OUTGOING_BODY = 64 << 20
# Threads for requests to other servers, of all guests of an application together.
MAX_SENDERS = 64

_NAME = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+").fullmatch  # RFC 9110, token
_BAD_VALUE = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]").search  # RFC 9110, field values
_BAD_TARGET = re.compile(r"[^!-~]").search
_AUTHORITY = re.compile(r"[A-Za-z0-9\-._~%!$&'()*+,;=:@\[\]]+").fullmatch

IMMUTABLE, SYNTAX, FORBIDDEN_NAME = (
    Err((case, None)) for case in ("immutable", "invalid-syntax", "forbidden")
)
FAILED = Err(None)


class Fields:
    """The resource fields: (name, value) pairs in order."""

    __slots__ = ("mutable", "pairs", "size")

    def __init__(self, pairs: Iterable[tuple[str, bytes]] = (), mutable: bool = True) -> None:
        self.pairs = list(pairs)
        self.mutable = mutable
        self.size = -1  # counted when it first grows

    def grow(self, name: str, values: Iterable[bytes]) -> None:
        if self.size < 0:
            self.size = sum(len(key) + len(value) for key, value in self.pairs)
        for value in values:
            self.size += len(name) + len(value)
            if self.size > MAX_FIELDS:
                raise LimitExceeded(f"fields of more than {MAX_FIELDS} bytes", "headers")
            self.pairs.append((name, value))

    def drop(self, name: str) -> None:
        self.pairs = [pair for pair in self.pairs if pair[0] != name]
        self.size = -1

    def frozen(self) -> Fields:
        self.mutable = False
        return self


def _refused(name: str, values: Iterable[bytes] = ()) -> Err | None:
    """Why a guest may not have this field; `name` in lower case."""
    if _NAME(name) is None or any(map(_BAD_VALUE, values)):
        return SYNTAX
    return FORBIDDEN_NAME if name in FORBIDDEN else None


def fields_from_list(ctx: HostContext, entries: list[tuple[str, bytes]]) -> Any:
    fields = Fields()
    for name, value in entries:
        refused = fields_append(ctx, fields, name, value)
        if refused is not None:
            return refused
    return fields


def fields_get(ctx: HostContext, fields: Fields, name: str) -> list[bytes]:
    name = name.lower()
    return [value for key, value in fields.pairs if key == name]


def fields_has(ctx: HostContext, fields: Fields, name: str) -> bool:
    name = name.lower()
    return any(key == name for key, _ in fields.pairs)


def fields_set(ctx: HostContext, fields: Fields, name: str, values: list[bytes]) -> Any:
    if not fields.mutable:
        return IMMUTABLE
    name = name.lower()
    refused = _refused(name, values)
    if refused is None:
        fields.drop(name)
        fields.grow(name, values)
    return refused


def fields_delete(ctx: HostContext, fields: Fields, name: str) -> Any:
    if not fields.mutable:
        return IMMUTABLE
    refused = _refused(name.lower())
    if refused is None:
        fields.drop(name.lower())
    return refused


def fields_append(ctx: HostContext, fields: Fields, name: str, value: bytes) -> Any:
    if not fields.mutable:
        return IMMUTABLE
    name = name.lower()
    refused = _refused(name, (value,))
    if refused is None:
        fields.grow(name, (value,))
    return refused


# Messages that come in.


class IncomingBody:
    """The resource incoming-body; `stream` is its content."""

    __slots__ = ("content", "taken")

    def __init__(self, content: InputStream) -> None:
        self.content = content
        self.taken = False


class IncomingMessage:
    """incoming-request and incoming-response: what they share."""

    __slots__ = ("_body", "fields")

    def __init__(self, fields: Fields, content: InputStream) -> None:
        self.fields = fields.frozen()
        self._body: IncomingBody | None = IncomingBody(content)

    def consume(self, ctx: HostContext) -> Any:
        body, self._body = self._body, None
        return FAILED if body is None else body


class IncomingRequest(IncomingMessage):
    """The resource incoming-request. `method` is HTTP's; `target` is path and query."""

    __slots__ = ("authority", "method", "target")

    def __init__(
        self,
        method: str,
        target: str,
        authority: str | None,
        headers: Headers,
        content: InputStream,
    ) -> None:
        pairs = [(name, value.encode("latin-1")) for name, value in headers.pairs if name not in FORBIDDEN]
        super().__init__(Fields(pairs), content)
        self.method = _METHOD_OF.get(method) or ("other", method)
        self.target = target
        self.authority = authority


class IncomingResponse(IncomingMessage):
    __slots__ = ("status",)

    def __init__(self, status: int, fields: Fields, content: InputStream) -> None:
        super().__init__(fields, content)
        self.status = status


def body_stream(ctx: HostContext, body: IncomingBody) -> Any:
    if body.taken:
        return FAILED
    body.taken = True
    return body.content


class FutureTrailers:
    """The resource future-trailers; no door gives us any, so there are none, at once."""

    __slots__ = ("taken",)

    def __init__(self) -> None:
        self.taken = False


def trailers_get(ctx: HostContext, future: FutureTrailers) -> Any:
    if future.taken:
        return FAILED
    future.taken = True
    return Ok(Ok(None))


# Messages that go out.


class OutgoingBody:
    """The resource outgoing-body. `take(data)` gets what is written, `finish(ok)` its end."""

    __slots__ = ("_declared", "_finish", "_sent", "_stream", "_take", "finished")

    def __init__(self, fields: Fields) -> None:
        self._declared = _content_length(fields)
        self._sent = 0
        self._take: Callable[[bytes], object] | None = None
        self._finish: Callable[[bool], object] | None = None
        self._stream: BodyOutput | None = None
        self.finished: bool | None = None  # None until it is, then whether it ended well

    def connect(self, take: Callable[[bytes], object], finish: Callable[[bool], object]) -> None:
        """From now on `take` gets each chunk, the earlier ones first, and `finish` is called once."""
        self._take, self._finish = take, finish
        if self._stream is not None:
            chunks, self._stream.waiting = self._stream.waiting, []
            for chunk in chunks:
                take(chunk)
        if self.finished is not None:
            finish(self.finished)

    def write(self, ctx: HostContext) -> Any:
        if self._stream is not None:
            return FAILED
        self._stream = BodyOutput(self)
        return self._stream

    def accept(self, data: bytes) -> None:
        if self.finished is not None:
            raise StreamClosed
        self._sent += len(data)
        if self._declared is not None and self._sent > self._declared:
            raise StreamFailed(_wrong_size(self._sent))
        if self._take is not None:
            self._take(data)
        else:
            assert self._stream is not None
            self._stream.keep(data)

    def finish(self) -> Any:
        if self._declared is not None and self._sent != self._declared:
            self.end(False)
            return Err(_wrong_size(self._sent).http_code)
        self.end(True)
        return None

    def end(self, well: bool) -> None:
        if self.finished is None:
            self.finished = well
            if self._finish is not None:
                self._finish(well)


class BodyOutput(OutputStream):
    """The stream of an outgoing-body."""

    def __init__(self, body: OutgoingBody) -> None:
        self._body = body
        self.waiting: list[bytes] = []
        self._size = 0

    def write(self, ctx: HostContext, data: bytes) -> None:
        self._body.accept(data)

    def keep(self, data: bytes) -> None:
        """Written before the message was sent off."""
        self._size += len(data)
        if self._size > MAX_OUTGOING_BODY:
            raise LimitExceeded(f"a body of more than {MAX_OUTGOING_BODY} bytes that is not sent", "body")
        self.waiting.append(data)


def _content_length(fields: Fields) -> int | None:
    for name, value in fields.pairs:
        if name == "content-length":
            return int(value) if value.isdigit() and len(value) < 20 else None
    return None


def _wrong_size(sent: int) -> IoError:
    return IoError(f"{sent} bytes are not what content-length says", ("HTTP-request-body-size", sent))


def body_finish(ctx: HostContext, body: OutgoingBody, trailers: Fields | None) -> Any:
    # no door can send trailers; they are dropped
    return body.finish()


class OutgoingResponse:
    """The resource outgoing-response."""

    __slots__ = ("body", "fields", "status", "taken")

    def __init__(self, fields: Fields) -> None:
        self.fields = fields.frozen()
        self.status = 200
        self.body = OutgoingBody(fields)
        self.taken = False


def response_set_status(ctx: HostContext, response: OutgoingResponse, status: int) -> Any:
    if not 100 <= status <= 999:
        return FAILED
    response.status = status
    return None


def take_body(ctx: HostContext, message: OutgoingResponse | OutgoingRequest) -> Any:
    if message.taken:
        return FAILED
    message.taken = True
    return message.body


class ResponseOutparam:
    """The resource response-outparam; `answer(response)` gets an OutgoingResponse or an error-code."""

    __slots__ = ("_answer",)

    def __init__(self, answer: Callable[[OutgoingResponse | Err], object]) -> None:
        self._answer = answer


def outparam_set(ctx: HostContext, param: ResponseOutparam, response: Any) -> None:
    param._answer(response if isinstance(response, Err) else response.value)


def send_informational(ctx: HostContext, param: ResponseOutparam, status: int, fields: Fields) -> Any:
    raise Trap("informational responses are not supported")


class OutgoingRequest:
    """The resource outgoing-request."""

    __slots__ = ("authority", "body", "fields", "method", "scheme", "taken", "target")

    def __init__(self, fields: Fields) -> None:
        self.fields = fields.frozen()
        self.method: tuple[str, Any] = ("get", None)
        self.target: str | None = None
        self.scheme: tuple[str, Any] | None = None
        self.authority: str | None = None
        self.body = OutgoingBody(fields)
        self.taken = False


def set_method(ctx: HostContext, request: OutgoingRequest, method: tuple[str, Any]) -> Any:
    if method[0] == "other" and _NAME(method[1]) is None:
        return FAILED
    request.method = method
    return None


def set_target(ctx: HostContext, request: OutgoingRequest, target: str | None) -> Any:
    if target is not None and _BAD_TARGET(target):
        return FAILED
    request.target = target
    return None


def set_scheme(ctx: HostContext, request: OutgoingRequest, scheme: tuple[str, Any] | None) -> Any:
    if scheme is not None and scheme[0] == "other" and not re.fullmatch(r"[A-Za-z][\w+.-]*", scheme[1]):
        return FAILED
    request.scheme = scheme
    return None


def set_authority(ctx: HostContext, request: OutgoingRequest, authority: str | None) -> Any:
    if authority is not None and _AUTHORITY(authority) is None:
        return FAILED
    request.authority = authority
    return None


class RequestOptions:
    """The resource request-options: timeouts in nanoseconds."""

    __slots__ = ("between_bytes", "connect", "first_byte")

    def __init__(self) -> None:
        self.connect: int | None = None
        self.first_byte: int | None = None
        self.between_bytes: int | None = None


# Requests on their way.


class FutureResponse(Pollable):
    """The resource future-incoming-response, and its pollable."""

    def __init__(self, waker: Waker | None) -> None:
        self._waker = waker
        self._result: Any = None  # Ok(Incoming) or Err(error-code)
        self._inside: Callable[[], Any] | None = None
        self._taken = False

    def settle(self, result: Any) -> None:
        """The result is there; from any thread."""
        self._result = result
        if self._waker is not None:
            self._waker.wake()

    def settle_inside(self, exchange: Callable[[], Any]) -> None:
        """`exchange` gives the result when somebody waits for it, in the guest's own thread."""
        self._inside = exchange

    def ready(self) -> bool:
        exchange, self._inside = self._inside, None
        if exchange is not None:
            self._result = exchange()
        return self._result is not None

    def get(self, ctx: HostContext) -> Any:
        if not self.ready():
            return None
        if self._taken:
            return FAILED
        self._taken = True
        result = self._result
        return Ok(result if isinstance(result, Err) else Ok(_incoming(result.value)))


def _incoming(response: Incoming) -> IncomingResponse:
    pairs = [(n, v.encode("latin-1")) for n, v in response.headers if n.lower() not in FORBIDDEN]
    return IncomingResponse(response.status, Fields(pairs), BytesInput(response.body))


# What HttpFailure means in words of wasi:http.
_CODES = {
    "destination-not-allowed": ("HTTP-request-denied", None),
    "invalid-url": ("HTTP-request-URI-invalid", None),
    "too-many-requests": ("connection-limit-reached", None),
}


def error_code(failure: HttpFailure) -> tuple[str, Any]:
    """The error-code for what became of a request."""
    known = _CODES.get(failure.case)
    if known is not None:
        return known
    cause: BaseException | None = failure.__cause__
    text = str(failure).lower()
    while cause is not None:
        if isinstance(cause, ConnectionRefusedError):
            return "connection-refused", None
        if isinstance(cause, TimeoutError):
            return "connection-timeout", None
        cause = cause.__cause__ or cause.__context__
    for words, code in (
        ("refused", "connection-refused"),
        ("name resolution", "DNS-error"),
        ("not known", "DNS-error"),
        ("no address", "DNS-error"),
        ("block", "destination-IP-prohibited"),
        ("certificate", "TLS-certificate-error"),
        ("ssl", "TLS-protocol-error"),
        ("too large", "HTTP-response-body-size"),
        ("closed connection", "connection-terminated"),
        ("reset", "connection-terminated"),
    ):
        if words in text:
            return code, ((None, None) if code == "DNS-error" else None)
    return "internal-error", "the request failed"


class WasiHttp:
    """wasi:http; `outbound` is the client that all versions of Spin's interface share."""

    def __init__(self, outbound: OutboundHttp) -> None:
        self._outbound = outbound
        self._senders: ThreadPoolExecutor | None = None
        self.after_fork()
        forks.watch(self)

    def after_fork(self) -> None:
        self._lock = threading.Lock()  # guards the start of the pool
        self._senders = None

    def functions(self, interface: str) -> dict[str, Callable[..., Any]]:
        if interface == OUTGOING:
            return {"handle": self.handle}
        return self.FUNCTIONS if interface == TYPES else {}

    def close(self) -> None:
        senders, self._senders = self._senders, None
        if senders is not None:
            senders.shutdown(wait=False, cancel_futures=True)

    def _pool(self) -> ThreadPoolExecutor:
        with self._lock:
            if self._senders is None:
                self._senders = ThreadPoolExecutor(MAX_SENDERS, thread_name_prefix="wasm-http")
            return self._senders

    def handle(self, ctx: HostContext, request: OutgoingRequest, options: RequestOptions | None) -> Any:
        """outgoing-handler.handle."""
        if options is not None and 0 in (options.connect, options.first_byte):
            return Err(("connection-timeout", None))
        method = request.method[1] if request.method[0] == "other" else request.method[0].upper()
        target = request.target or "/"
        authority = request.authority or ""
        own = authority == "" or authority.partition(":")[0] == "self.alt"
        if not own:
            scheme = request.scheme
            name = "https" if scheme is None else scheme[1] if scheme[0] == "other" else scheme[0].lower()
            target = f"{name}://{authority}{target if target[0] == '/' else '/' + target}"
        headers = [(name, value.decode("latin-1")) for name, value in request.fields.pairs]
        try:
            permit(ctx, target)
            outgoing = _outgoing(method, target, headers)
        except HttpFailure as failure:
            return Err(error_code(failure))
        inside = own or self._chained(ctx, authority)
        future = FutureResponse(None if inside else waker(ctx))
        chunks: list[bytes] = []
        size = 0

        def take(data: bytes) -> None:
            nonlocal size
            size += len(data)
            if size > MAX_OUTGOING_BODY:
                raise LimitExceeded(f"a request body of more than {MAX_OUTGOING_BODY} bytes", "body")
            chunks.append(data)

        def finish(well: bool) -> None:
            if not well:
                future.settle(Err(("HTTP-request-body-size", size)))
                return
            whole = Outgoing(outgoing.method, target, outgoing.headers, b"".join(chunks) or None, plain=True)
            if inside:
                future.settle_inside(lambda: self._exchange(ctx, whole))
            else:
                self._pool().submit(lambda: future.settle(self._exchange(ctx, whole)))

        request.body.connect(take, finish)
        if not request.taken:
            request.body.end(True)  # nobody can write to it any more
        return future

    @staticmethod
    def _chained(ctx: HostContext, authority: str) -> bool:
        outbound = ctx.component.outbound
        return outbound is not None and outbound.is_chained(authority.partition(":")[0]) is not None

    def _exchange(self, ctx: HostContext, request: Outgoing) -> Any:
        """Ok(Incoming) or Err(error-code); GatewayError of an exchange inside the application."""
        try:
            return Ok(self._outbound.send_once(ctx, request))
        except HttpFailure as failure:
            return Err(error_code(failure))
        except DeadlineExceeded:
            return Err(("connection-read-timeout", None))
        except GatewayError:
            raise
        except Exception as error:  # a thread has nobody above it who would see this
            return Err(("internal-error", type(error).__name__))

    FUNCTIONS: ClassVar[dict[str, Callable[..., Any]]] = {
        "http-error-code": lambda ctx, error: error.http_code,
        "[constructor]fields": lambda ctx: Fields(),
        "[static]fields.from-list": fields_from_list,
        "[method]fields.get": fields_get,
        "[method]fields.has": fields_has,
        "[method]fields.set": fields_set,
        "[method]fields.delete": fields_delete,
        "[method]fields.append": fields_append,
        "[method]fields.entries": lambda ctx, fields: fields.pairs,
        "[method]fields.clone": lambda ctx, fields: Fields(fields.pairs),
        "[method]incoming-request.method": lambda ctx, request: request.method,
        "[method]incoming-request.path-with-query": lambda ctx, request: request.target,
        "[method]incoming-request.scheme": lambda ctx, request: ("HTTP", None),
        "[method]incoming-request.authority": lambda ctx, request: request.authority,
        "[method]incoming-request.headers": lambda ctx, request: request.fields,
        "[method]incoming-request.consume": lambda ctx, request: request.consume(ctx),
        "[constructor]outgoing-request": lambda ctx, fields: OutgoingRequest(fields),
        "[method]outgoing-request.body": take_body,
        "[method]outgoing-request.method": lambda ctx, request: request.method,
        "[method]outgoing-request.set-method": set_method,
        "[method]outgoing-request.path-with-query": lambda ctx, request: request.target,
        "[method]outgoing-request.set-path-with-query": set_target,
        "[method]outgoing-request.scheme": lambda ctx, request: request.scheme,
        "[method]outgoing-request.set-scheme": set_scheme,
        "[method]outgoing-request.authority": lambda ctx, request: request.authority,
        "[method]outgoing-request.set-authority": set_authority,
        "[method]outgoing-request.headers": lambda ctx, request: request.fields,
        "[constructor]request-options": lambda ctx: RequestOptions(),
        "[method]response-outparam.send-informational": send_informational,
        "[static]response-outparam.set": outparam_set,
        "[method]incoming-response.status": lambda ctx, response: response.status,
        "[method]incoming-response.headers": lambda ctx, response: response.fields,
        "[method]incoming-response.consume": lambda ctx, response: response.consume(ctx),
        "[method]incoming-body.stream": body_stream,
        "[static]incoming-body.finish": lambda ctx, body: FutureTrailers(),
        "[method]future-trailers.subscribe": lambda ctx, future: READY,
        "[method]future-trailers.get": trailers_get,
        "[constructor]outgoing-response": lambda ctx, fields: OutgoingResponse(fields),
        "[method]outgoing-response.status-code": lambda ctx, response: response.status,
        "[method]outgoing-response.set-status-code": response_set_status,
        "[method]outgoing-response.headers": lambda ctx, response: response.fields,
        "[method]outgoing-response.body": take_body,
        "[method]outgoing-body.write": lambda ctx, body: body.write(ctx),
        "[static]outgoing-body.finish": body_finish,
        "[resource-drop]outgoing-body": lambda ctx, body: body.end(False),
        "[method]future-incoming-response.subscribe": lambda ctx, future: future,
        "[method]future-incoming-response.get": lambda ctx, future: future.get(ctx),
    }


def _timeout(name: str, field: str) -> dict[str, Callable[..., Any]]:
    def get(ctx: HostContext, options: RequestOptions) -> Any:
        return getattr(options, field)

    def set_(ctx: HostContext, options: RequestOptions, duration: int | None) -> None:
        setattr(options, field, duration)

    return {f"[method]request-options.{name}": get, f"[method]request-options.set-{name}": set_}


WasiHttp.FUNCTIONS |= (
    _timeout("connect-timeout", "connect")
    | _timeout("first-byte-timeout", "first_byte")
    | _timeout("between-bytes-timeout", "between_bytes")
)


def _outgoing(method: str, target: str, headers: list[tuple[str, str]]) -> Outgoing:
    kept = [pair for pair in headers if pair[0] not in HOP_BY_HOP]
    return checked(method, target, kept, None)
