# wasi:http/types 0.2: messages and their bodies (Spin: http, 8.2).
#
# Rule 1: what the text of wasi:http calls a child of something is a part of the same
# Python object here; what may be taken once is taken once.
# Rule 2: header names are lower case, values are bytes. Names that belong to the
# connection are hidden from a guest and refused when it sets them.

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any, ClassVar, Literal, Protocol

from ...component.values import Err, Ok
from ...errors import LimitExceeded, Trap
from ...messages import NO_HEADERS, Headers, Trailers
from ..base import HostContext
from ..limits import Share, kept
from ..outbound_http import HOP_BY_HOP
from .io import (
    MAX_READ,
    PERMIT,
    READY,
    InputStream,
    IoError,
    OutputStream,
    Pollable,
    StreamClosed,
    StreamFailed,
)

# What can become of an exchange, in 0.2 and 0.3.
TEXT_OF_ERRORS = """\
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
  }"""
TEXT = """
package wasi:http@0.2.0;
interface types {
  use wasi:clocks/monotonic-clock@0.2.0.{duration};
  use wasi:io/streams@0.2.0.{input-stream, output-stream};
  use wasi:io/error@0.2.0.{error as io-error};
  use wasi:io/poll@0.2.0.{pollable};
  variant method { get, head, post, put, delete, connect, options, trace, patch, other(string) }
  variant scheme { HTTP, HTTPS, other(string) }
%ERRORS
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
""".replace("%ERRORS", TEXT_OF_ERRORS)
TYPES, OUTGOING, INCOMING = (
    f"wasi:http/{name}@0.2" for name in ("types", "outgoing-handler", "incoming-handler")
)
INTERFACES = {TYPES: TEXT, INCOMING: TEXT}

METHODS = ("get", "head", "post", "put", "delete", "connect", "options", "trace", "patch")
_METHOD_OF = {name.upper(): (name, None) for name in METHODS}


def method_of(name: str) -> tuple[str, str | None]:
    """The variant `method` for HTTP's name."""
    return _METHOD_OF.get(name) or ("other", name)


# Names that belong to the connection (Spin: http, 8.2).
FORBIDDEN = HOP_BY_HOP - {"content-length", "te", "trailer"} | {"host", "http2-settings"}
# What one `fields` may hold, names and values (Spin: http, 8.2).
MAX_FIELDS = 128 << 10
# What a field takes besides its name and its value.
FIELD_OVERHEAD = 128
# Texts of a request that are longer than this are counted.
SHORT_TEXT = 256
# What a guest may write to a body before it is sent, or to a component of its own application.
MAX_OUTGOING_BODY = 64 << 20

_NAME = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+").fullmatch  # RFC 9110, token
_BAD_VALUE = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]").search  # RFC 9110, field values
# Bytes of a path with its query, and of an authority, as in wasmtime. Quoting takes a hundred times as much.
MAX_URI = 65_534

# What wasmtime takes, more than RFC 3986, 3.3 and 3.4 allow: quoted when it is sent, without the fragment.
_TARGET = re.compile(r"(?:/[^\x00-\x20<>?`\x7f]*)?(?:\?[^\x00-\x20\"<>\x7f]*)?").fullmatch
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*").fullmatch  # RFC 3986, 3.1
# RFC 3986, 3.2, with no percent-encoded host
_AUTHORITY = re.compile(
    r"(?:[A-Za-z0-9\-._~%!$&'()*+,;=:]*@(?=.))?(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9\-._~!$&'()*+,;=]*)(?::([0-9]{1,5}))?"
).fullmatch

IMMUTABLE, SYNTAX, FORBIDDEN_NAME = (
    Err((case, None)) for case in ("immutable", "invalid-syntax", "forbidden")
)
FAILED = Err(None)


def _size(pairs: Iterable[tuple[str, bytes]]) -> int:
    return sum([len(name) + len(value) for name, value in pairs])


def _bounded(size: int) -> int:
    if size > MAX_FIELDS:
        raise LimitExceeded(f"fields of more than {MAX_FIELDS} bytes", "headers")
    return size


class Fields:
    """The resource fields: (name, value) pairs in order."""

    __slots__ = ("mutable", "pairs", "share", "size")

    def __init__(
        self, pairs: Iterable[tuple[str, bytes]] = (), mutable: bool = True, share: Share | None = None
    ) -> None:
        self.pairs = list(pairs)
        self.mutable = mutable
        self.size = -1  # counted when it first grows
        self.share = share  # of those that a guest makes
        if share is not None and self.pairs:
            share.resize(_size(self.pairs) + FIELD_OVERHEAD * len(self.pairs))

    def append(self, name: str, value: bytes) -> None:
        if self.size < 0:
            self.size = _size(self.pairs)
        size = len(name) + len(value)
        _bounded(self.size + size)
        if self.share is not None:
            self.share.resize(self.share.size + size + FIELD_OVERHEAD)
        self.size += size
        self.pairs.append((name, value))

    def replace(self, name: str, values: Iterable[bytes]) -> None:
        """All of the name go, and these come."""
        pairs = [pair for pair in self.pairs if pair[0] != name]
        pairs += [(name, value) for value in values]
        size = _bounded(_size(pairs))
        if self.share is not None:
            self.share.resize(size + FIELD_OVERHEAD * len(pairs))
        self.pairs, self.size = pairs, size

    def copy(self) -> Fields:
        """One that can be changed."""
        return Fields(self.pairs, share=None if self.share is None else self.share.beside())

    def frozen(self) -> Fields:
        self.mutable = False
        return self

    @classmethod
    def received(cls, headers: Headers) -> Fields:
        """What a guest may see of `headers`."""
        return cls(
            [(name, value.encode("latin-1")) for name, value in headers.pairs if name not in FORBIDDEN]
        )

    def headers(self) -> Headers:
        return Headers.trusted(tuple([(name, value.decode("latin-1")) for name, value in self.pairs]))


def _refused(name: str) -> Err | None:
    """Why no guest may change the field of this `name`, which is in lower case."""
    if _NAME(name) is None:
        return SYNTAX
    return FORBIDDEN_NAME if name in FORBIDDEN else None


def _checked(name: str, value: bytes) -> bytes | None:
    """`value` as it is kept, None if it is none."""
    if name == "content-length":  # RFC 9110, 8.6, and a u64 as in wasmtime
        number = value.lstrip(b"0")
        if not value.isdigit() or len(number) > 20 or int(number or b"0") >> 64:
            return None
        return number or b"0"
    return value if _BAD_VALUE(value) is None else None


def fields_from_list(ctx: HostContext, entries: list[tuple[str, bytes]]) -> Any:
    fields = Fields(share=kept(ctx))
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


# These look for what is wrong in the order of wasmtime.


def fields_set(ctx: HostContext, fields: Fields, name: str, values: list[bytes]) -> Any:
    name = name.lower()
    refused = _refused(name)
    if refused is not None:
        return refused
    if not fields.mutable:
        return IMMUTABLE
    kept = []
    for value in values:
        checked = _checked(name, value)
        if checked is None:
            return SYNTAX
        kept.append(checked)
    fields.replace(name, kept)
    return None


def fields_delete(ctx: HostContext, fields: Fields, name: str) -> Any:
    name = name.lower()
    refused = _refused(name)
    if refused is not None:
        return refused
    if not fields.mutable:
        return IMMUTABLE
    fields.replace(name, ())
    return None


def fields_append(ctx: HostContext, fields: Fields, name: str, value: bytes) -> Any:
    name = name.lower()
    refused = _refused(name)
    if refused is not None:
        return refused
    checked = _checked(name, value)
    if checked is None:
        return SYNTAX
    if not fields.mutable:
        return IMMUTABLE
    fields.append(name, checked)
    return None


# Messages that come in.


class IncomingBody:
    """The resource incoming-body. `trailers` follow its content, if any can."""

    __slots__ = ("content", "taken", "trailers")

    def __init__(self, content: InputStream, trailers: Trailers | None) -> None:
        self.content = content
        self.trailers = trailers
        self.taken = False


class IncomingMessage:
    """incoming-request and incoming-response: what they share."""

    __slots__ = ("_body", "_fields", "_headers", "share")

    def __init__(self, headers: Headers, content: InputStream, trailers: Trailers | None = None) -> None:
        self._headers = headers
        self._fields: Fields | None = None  # made when the guest asks for them
        self._body: IncomingBody | None = IncomingBody(content, trailers)
        self.share: Share | None = None  # of one that a guest has asked for

    @property
    def fields(self) -> Fields:
        if self._fields is None:
            self._fields = Fields.received(self._headers).frozen()
        return self._fields

    def consume(self, ctx: HostContext) -> Any:
        body, self._body = self._body, None
        return FAILED if body is None else body

    def keep(self, ctx: HostContext) -> None:
        """The guest gets it; LimitExceeded."""
        pairs = self._headers.pairs
        size = FIELD_OVERHEAD * len(pairs) + sum([len(name) + len(value) for name, value in pairs])
        self.share = kept(ctx, size)

    def drop(self) -> None:
        """A body that was not taken is wanted by nobody."""
        if self._body is not None:
            self._body.content.abandon()


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
        trailers: Trailers | None = None,
    ) -> None:
        super().__init__(headers, content, trailers)
        self.method = method_of(method)
        self.target = target
        self.authority = authority


class IncomingResponse(IncomingMessage):
    __slots__ = ("status",)

    def __init__(
        self, status: int, headers: Headers, content: InputStream, trailers: Trailers | None = None
    ) -> None:
        super().__init__(headers, content, trailers)
        self.status = status


def body_stream(ctx: HostContext, body: IncomingBody) -> Any:
    if body.taken:
        return FAILED
    body.taken = True
    return body.content


class FutureTrailers(Pollable):
    """The resource future-trailers, and its pollable; what the guest has left of the body is dropped.

    Nothing is read for it before the guest waits, as in wasmtime.
    """

    def __init__(self, ctx: HostContext, body: IncomingBody) -> None:
        self._ctx = ctx
        self._body = body
        self._result: Any = None  # Ok(Fields | None) or Err(error-code)
        self._taken = False

    def ready(self) -> bool:
        if self._result is None:
            self._result = self._read_on()
        return self._result is not None

    def _read_on(self) -> Any:
        """The result if the body is over, None if the rest of it has not come yet."""
        content = self._body.content
        try:
            while content.read(self._ctx, MAX_READ):
                self._ctx.deadline.remaining()
        except StreamClosed:
            trailers = self._body.trailers
            fields = Fields.received(NO_HEADERS if trailers is None else trailers())
            return Ok(fields.frozen() if fields.pairs else None)
        except StreamFailed as failure:
            return Err(failure.error.http_code or ("internal-error", failure.error.debug))
        return None

    def get(self, ctx: HostContext) -> Any:
        if self._taken:
            return FAILED
        if self._result is None and not (self._body.content.at_end() and self.ready()):
            return None
        self._taken = True
        return Ok(self._result)

    def drop(self) -> None:
        self._body.content.abandon()


# Messages that go out.


class Flow(Protocol):
    """What limits the speed at which a body can be written."""

    def room(self) -> int: ...

    def writable(self) -> Pollable: ...


class OutgoingBody:
    """The resource outgoing-body. `take(data)` gets what is written, `finish(ok)` its end."""

    __slots__ = (
        *("_finish", "_of", "_sent", "_share", "_take", "_trailing", "_waiting", "_written"),
        *("declared", "finished", "flow", "trailers"),
    )

    def __init__(self, of: Literal["request", "response"], fields: Fields) -> None:
        self._of = of
        self.declared = _content_length(fields)
        self.flow: Flow | None = None
        self._sent = 0
        self._take: Callable[[bytes], object] | None = None
        self._finish: Callable[[bool], object] | None = None
        self._written = False  # whether its stream was taken
        self._waiting: list[bytes] | None = None  # what was written before it was connected
        self._share = None if fields.share is None else fields.share.beside()  # of that
        self._trailing: Share | None = None  # of the trailers
        self.finished: bool | None = None  # None until it is, then whether it ended well
        self.trailers = NO_HEADERS  # known when it is finished

    def connect(
        self, take: Callable[[bytes], object], finish: Callable[[bool], object], flow: Flow | None = None
    ) -> None:
        """From now on `take` gets each chunk, the earlier ones first, and `finish` is called once.

        `flow` says how much may be written, if that is ever limited.
        """
        self._take, self._finish, self.flow = take, finish, flow
        if self._waiting is not None:
            chunks, self._waiting = self._waiting, None
            for chunk in chunks:
                take(chunk)
            if self._share is not None:
                self._share.resize(0)
        if self.finished is not None:
            self._end(self.finished)

    def write(self, ctx: HostContext) -> Any:
        if self._written:
            return FAILED
        self._written = True
        return BodyOutput(self)

    def accept(self, data: bytes) -> None:
        if self.finished is not None:
            raise StreamClosed
        self._sent += len(data)
        if self.declared is not None and self._sent > self.declared:
            raise StreamFailed(self._wrong_size())
        if self._take is not None:
            self._take(data)
        elif self._sent > MAX_OUTGOING_BODY:
            raise LimitExceeded(f"a body of more than {MAX_OUTGOING_BODY} bytes that is not sent", "body")
        else:
            if self._share is not None:
                self._share.resize(self._sent)
            if self._waiting is None:
                self._waiting = []
            self._waiting.append(data)

    def finish(self, trailers: Fields | None = None) -> Any:
        if self.declared is not None and self._sent != self.declared:
            self.end(False)
            return Err(self._wrong_size().http_code)
        if trailers is not None and self.finished is None:
            self.trailers, self._trailing = trailers.headers(), trailers.share
        self.end(True)
        return None

    def _wrong_size(self) -> IoError:
        text = f"{self._sent} bytes are not what content-length says"
        return IoError(text, (f"HTTP-{self._of}-body-size", self._sent))

    def end(self, well: bool) -> None:
        if self.finished is None:
            self.finished = well
            self._end(well)

    def _end(self, well: bool) -> None:
        finish = self._finish
        # Both lead back here, by way of their owner; nothing is to wait for the garbage collector.
        self._take = self._finish = self.flow = None
        if finish is not None:
            finish(well)


class BodyOutput(OutputStream):
    """The stream of an outgoing-body."""

    def __init__(self, body: OutgoingBody) -> None:
        self._body = body

    def check_write(self, ctx: HostContext) -> int:
        body = self._body
        if body.finished is not None:
            raise StreamClosed
        return PERMIT if body.flow is None else body.flow.room()

    def write(self, ctx: HostContext, data: bytes) -> None:
        self._body.accept(data)

    def blocking_write(self, ctx: HostContext, data: bytes) -> None:
        if self._body.flow is not None:
            super().blocking_write(ctx, data)
        elif data or self._body.finished is not None:
            self._body.accept(data)

    def pollable(self) -> Pollable:
        flow = self._body.flow
        return (flow and flow.writable()) or READY


def _content_length(fields: Fields) -> int | None:
    for name, value in fields.pairs:
        if name == "content-length":
            return int(value) if value.isdigit() and len(value) < 20 else None
    return None


class OutgoingResponse:
    """The resource outgoing-response."""

    __slots__ = ("body", "fields", "status", "taken")

    def __init__(self, fields: Fields) -> None:
        self.fields = fields.frozen()
        self.status = 200
        self.body = OutgoingBody("response", fields)
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

    __slots__ = ("authority", "body", "fields", "method", "scheme", "shares", "taken", "target")

    def __init__(self, fields: Fields) -> None:
        self.fields = fields.frozen()
        self.method: tuple[str, Any] = ("get", None)
        self.target: str | None = None
        self.scheme: tuple[str, Any] | None = None
        self.authority: str | None = None
        self.body = OutgoingBody("request", fields)
        self.taken = False
        self.shares: tuple[Share, ...] = ()


def is_token(name: str) -> bool:
    return _NAME(name) is not None


def is_target(text: str) -> bool:
    return len(text) <= MAX_URI and _TARGET(text) is not None


class Texts(Protocol):
    """A request, of whose texts the long ones have shares."""

    shares: tuple[Share, ...]


def keep(ctx: HostContext, request: Texts, text: str | None) -> None:
    """`request` keeps `text`, which a guest has set; LimitExceeded."""
    if text is not None and len(text) > SHORT_TEXT:
        request.shares = (*request.shares, kept(ctx, len(text)))


def set_method(ctx: HostContext, request: OutgoingRequest, method: tuple[str, Any]) -> Any:
    if method[0] == "other" and not is_token(method[1]):
        return FAILED
    keep(ctx, request, method[1])
    request.method = method
    return None


def set_target(ctx: HostContext, request: OutgoingRequest, target: str | None) -> Any:
    if target is not None and not is_target(target):
        return FAILED
    keep(ctx, request, target)
    request.target = target
    return None


def set_scheme(ctx: HostContext, request: OutgoingRequest, scheme: tuple[str, Any] | None) -> Any:
    if scheme is not None and scheme[0] == "other" and _SCHEME(scheme[1]) is None:
        return FAILED
    if scheme is not None:
        keep(ctx, request, scheme[1])
    request.scheme = scheme
    return None


def set_authority(ctx: HostContext, request: OutgoingRequest, authority: str | None) -> Any:
    if authority is not None:
        found = _AUTHORITY(authority) if len(authority) <= MAX_URI else None
        if not authority or found is None or int(found[1] or 0) > 65535:
            return FAILED
    keep(ctx, request, authority)
    request.authority = authority
    return None


class RequestOptions:
    """The resource request-options: timeouts in nanoseconds."""

    __slots__ = ("between_bytes", "connect", "first_byte")

    def __init__(self) -> None:
        self.connect: int | None = None
        self.first_byte: int | None = None
        self.between_bytes: int | None = None


class WasiHttp:
    """wasi:http/types; it shares nothing among instances."""

    def functions(self, interface: str) -> dict[str, Callable[..., Any]]:
        return self.FUNCTIONS if interface == TYPES else {}

    def close(self) -> None:
        pass

    FUNCTIONS: ClassVar[dict[str, Callable[..., Any]]] = {
        "http-error-code": lambda ctx, error: error.http_code,
        "[constructor]fields": lambda ctx: Fields(share=kept(ctx)),
        "[static]fields.from-list": fields_from_list,
        "[method]fields.get": fields_get,
        "[method]fields.has": fields_has,
        "[method]fields.set": fields_set,
        "[method]fields.delete": fields_delete,
        "[method]fields.append": fields_append,
        "[method]fields.entries": lambda ctx, fields: fields.pairs,
        "[method]fields.clone": lambda ctx, fields: Fields(fields.pairs, share=kept(ctx)),
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
        "[static]incoming-body.finish": FutureTrailers,
        "[method]future-trailers.subscribe": lambda ctx, future: future,
        "[method]future-trailers.get": lambda ctx, future: future.get(ctx),
        "[resource-drop]incoming-response": lambda ctx, response: response.drop(),
        "[resource-drop]incoming-body": lambda ctx, body: body.content.abandon(),
        "[resource-drop]future-trailers": lambda ctx, future: future.drop(),
        "[constructor]outgoing-response": lambda ctx, fields: OutgoingResponse(fields),
        "[method]outgoing-response.status-code": lambda ctx, response: response.status,
        "[method]outgoing-response.set-status-code": response_set_status,
        "[method]outgoing-response.headers": lambda ctx, response: response.fields,
        "[method]outgoing-response.body": take_body,
        "[method]outgoing-body.write": lambda ctx, body: body.write(ctx),
        "[static]outgoing-body.finish": lambda ctx, body, trailers: body.finish(trailers),
        "[resource-drop]outgoing-body": lambda ctx, body: body.end(False),
        "[method]future-incoming-response.subscribe": lambda ctx, future: future,
        "[method]future-incoming-response.get": lambda ctx, future: future.get(ctx),
        "[resource-drop]future-incoming-response": lambda ctx, future: future.drop(),
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
