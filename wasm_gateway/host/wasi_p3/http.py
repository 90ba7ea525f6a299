# wasi:http/types 0.3: messages whose bodies are streams (Spin: http, 8.3).
#
# Rule 1: a request and a response are each one class, whoever made them: a guest passes
# on what it was given. The host makes streams and futures of a message when a guest
# wants its body, and not before.
# Rule 2: fields obey the rules of 0.2, but that a guest sees its host.

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, ClassVar

from ...component.streams import HostFuture, HostStream, Promise, SharedFuture, SharedStream
from ...component.types import U8Type
from ...component.values import Err, Ok
from ...errors import LimitExceeded
from ...messages import NO_HEADERS, Headers, Trailers
from ..base import HostContext
from ..limits import Share, kept
from ..wasi.http import (
    FAILED,
    FORBIDDEN,
    TEXT_OF_ERRORS,
    Fields,
    RequestOptions,
    fields_append,
    fields_delete,
    fields_from_list,
    fields_get,
    fields_has,
    fields_set,
    is_target,
    is_token,
    keep,
    method_of,
    set_authority,
)
from ..wasi.io import InputStream, Pollable, StreamClosed, StreamFailed

TEXT = f"""
package wasi:http@0.3.0;
interface types {{
  use wasi:clocks/types@0.3.0.{{duration}};
  variant method {{ get, head, post, put, delete, connect, options, trace, patch, other(string) }}
  variant scheme {{ HTTP, HTTPS, other(string) }}
{TEXT_OF_ERRORS}
  variant header-error {{ invalid-syntax, forbidden, immutable, size-exceeded, other(option<string>) }}
  variant request-options-error {{ not-supported, immutable, other(option<string>) }}
  type field-name = string;
  type field-value = list<u8>;
  resource fields {{
    constructor();
    from-list: static func(entries: list<tuple<field-name, field-value>>) -> result<fields, header-error>;
    get: func(name: field-name) -> list<field-value>;
    has: func(name: field-name) -> bool;
    set: func(name: field-name, value: list<field-value>) -> result<_, header-error>;
    delete: func(name: field-name) -> result<_, header-error>;
    get-and-delete: func(name: field-name) -> result<list<field-value>, header-error>;
    append: func(name: field-name, value: field-value) -> result<_, header-error>;
    copy-all: func() -> list<tuple<field-name, field-value>>;
    clone: func() -> fields;
  }}
  type headers = fields;
  type trailers = fields;
  resource request {{
    new: static func(
      headers: headers, contents: option<stream<u8>>,
      trailers: future<result<option<trailers>, error-code>>, options: option<request-options>,
    ) -> tuple<request, future<result<_, error-code>>>;
    get-method: func() -> method;
    set-method: func(method: method) -> result;
    get-path-with-query: func() -> option<string>;
    set-path-with-query: func(path-with-query: option<string>) -> result;
    get-scheme: func() -> option<scheme>;
    set-scheme: func(scheme: option<scheme>) -> result;
    get-authority: func() -> option<string>;
    set-authority: func(authority: option<string>) -> result;
    get-options: func() -> option<request-options>;
    get-headers: func() -> headers;
    consume-body: static func(this: request, res: future<result<_, error-code>>)
      -> tuple<stream<u8>, future<result<option<trailers>, error-code>>>;
  }}
  resource request-options {{
    constructor();
    get-connect-timeout: func() -> option<duration>;
    set-connect-timeout: func(duration: option<duration>) -> result<_, request-options-error>;
    get-first-byte-timeout: func() -> option<duration>;
    set-first-byte-timeout: func(duration: option<duration>) -> result<_, request-options-error>;
    get-between-bytes-timeout: func() -> option<duration>;
    set-between-bytes-timeout: func(duration: option<duration>) -> result<_, request-options-error>;
    clone: func() -> request-options;
  }}
  type status-code = u16;
  resource response {{
    new: static func(
      headers: headers, contents: option<stream<u8>>,
      trailers: future<result<option<trailers>, error-code>>,
    ) -> tuple<response, future<result<_, error-code>>>;
    get-status-code: func() -> status-code;
    set-status-code: func(status-code: status-code) -> result;
    get-headers: func() -> headers;
    consume-body: static func(this: response, res: future<result<_, error-code>>)
      -> tuple<stream<u8>, future<result<option<trailers>, error-code>>>;
  }}
}}
interface handler {{
  use types.{{request, response, error-code}};
  handle: async func(request: request) -> result<response, error-code>;
}}
interface client {{
  use types.{{request, response, error-code}};
  send: async func(request: request) -> result<response, error-code>;
}}
"""
TYPES, HANDLER, CLIENT = (f"wasi:http/{name}@0.3" for name in ("types", "handler", "client"))
INTERFACES = {TYPES: TEXT, HANDLER: TEXT}

SIZE_EXCEEDED = Err(("size-exceeded", None))
IMMUTABLE = Err(("immutable", None))
BYTE = U8Type()

Contents = SharedStream | HostStream
Future = SharedFuture | HostFuture


# Bodies.


class Content:
    """The source of a stream that the host gives; `end` is the trailers behind it, or what went wrong."""

    def __init__(self, stream: InputStream, trailers: Trailers | None) -> None:
        self._stream = stream
        self._trailers = trailers
        self.end = Promise()

    def read(self, ctx: HostContext, length: int) -> bytes:
        try:
            return self._stream.read(ctx, length)
        except StreamClosed:
            fields = Fields.received(NO_HEADERS if self._trailers is None else self._trailers())
            self.end.settle(Ok(fields if fields.pairs else None))
            raise
        except StreamFailed as failure:
            self.end.settle(Err(failure.error.http_code or ("internal-error", failure.error.debug)))
            raise StreamClosed from failure

    def pollable(self) -> Pollable:
        return self._stream.pollable()

    def close(self, ctx: HostContext) -> None:
        self._stream.abandon()
        self._stream.close(ctx)
        self.end.settle(Ok(None))


class Body:
    """Contents and trailers of a message that a guest made; `sent` is told what became of it."""

    __slots__ = ("contents", "sent", "trailers")

    def __init__(self, contents: Contents | None, trailers: Future, sent: Promise) -> None:
        self.contents = contents
        self.trailers = trailers
        self.sent = sent

    def given(self, ctx: HostContext) -> tuple[Contents | InputStream, Future]:
        return _EMPTY if self.contents is None else self.contents, self.trailers

    def consumed(self, result: Any) -> None:
        self.sent.settle(result)

    def drop(self) -> None:
        """Nobody wants it: whoever writes to it is told, and so is who waits for its being sent."""
        if self.contents is not None:
            self.contents.drop()
        self.trailers.drop()
        self.sent.settle(Err(("internal-error", "the message was dropped")))


class Received:
    """The same of a message that came from outside: `stream`, and `trailers` where some can follow."""

    __slots__ = ("stream", "trailers")

    def __init__(self, stream: InputStream, trailers: Trailers | None) -> None:
        self.stream = stream
        self.trailers = trailers

    def given(self, ctx: HostContext) -> tuple[Contents | InputStream, Any]:
        content = Content(self.stream, self.trailers)
        return HostStream(ctx.loop, BYTE, content), content.end

    def consumed(self, result: Any) -> None:
        """Nobody outside can be told."""

    def drop(self) -> None:
        self.stream.abandon()


class _Empty(InputStream):
    def read(self, ctx: HostContext, length: int) -> bytes:
        raise StreamClosed


_EMPTY = _Empty()


# Messages.

# Names of a received message that belong to its connection.
HIDDEN = FORBIDDEN - {"host"}


def received(headers: Headers) -> Fields:
    """What a guest sees of `headers`."""
    pairs = [(name, value.encode("latin-1")) for name, value in headers.pairs if name not in HIDDEN]
    return Fields(pairs, mutable=False)


class Request:
    """The resource request. `method` and `scheme` are WIT's; `target` is path and query.

    Of one that was received the fields are made when a guest asks for them.
    """

    __slots__ = ("_fields", "authority", "body", "method", "options", "scheme", "shares", "target")

    def __init__(
        self, fields: Fields | Headers, body: Body | Received, options: Options | None = None
    ) -> None:
        self._fields = fields
        self.body = body
        self.options = options
        self.method: tuple[str, Any] = ("get", None)
        self.target: str | None = None
        self.scheme: tuple[str, Any] | None = None
        self.authority: str | None = None
        self.shares: tuple[Share, ...] = ()

    @property
    def fields(self) -> Fields:
        fields = self._fields
        if isinstance(fields, Headers):
            fields = self._fields = received(fields)
        return fields


class Response:
    """The resource response."""

    __slots__ = ("body", "fields", "status")

    def __init__(self, fields: Fields, body: Body | Received, status: int = 200) -> None:
        self.fields = fields.frozen()
        self.body = body
        self.status = status


class Options(RequestOptions):
    """The resource request-options."""

    __slots__ = ("mutable",)

    def __init__(self, of: Options | None = None, mutable: bool = True) -> None:
        super().__init__()
        self.mutable = mutable
        if of is not None:
            self.connect, self.first_byte, self.between_bytes = of.connect, of.first_byte, of.between_bytes


def incoming(
    method: str,
    target: str,
    scheme: str,
    authority: str | None,
    headers: Headers,
    body: Received,
) -> Request:
    """The request that a guest is to answer; `method` and `scheme` are HTTP's."""
    request = Request(headers, body)
    request.method = method_of(method)
    request.target = target
    request.scheme = _SCHEMES.get(scheme) or ("other", scheme)
    request.authority = authority
    return request


# What wasmtime takes, more than RFC 3986, 3.1 allows.
_SCHEME = re.compile(r"[A-Za-z0-9+.-]{0,64}").fullmatch
_SCHEMES: dict[str, tuple[str, Any]] = {"http": ("HTTP", None), "https": ("HTTPS", None)}


def request_new(
    ctx: HostContext, fields: Fields, contents: Contents | None, trailers: Future, options: Options | None
) -> tuple[Request, Promise]:
    sent = Promise()
    return Request(fields.frozen(), Body(contents, trailers, sent), options), sent


def response_new(
    ctx: HostContext, fields: Fields, contents: Contents | None, trailers: Future
) -> tuple[Response, Promise]:
    sent = Promise()
    return Response(fields, Body(contents, trailers, sent)), sent


def set_status(ctx: HostContext, response: Response, status: int) -> Any:
    if not 100 <= status <= 599:
        return FAILED
    response.status = status
    return None


# A guest finds what it sets in its simplest form, as in wasmtime.


def set_method(ctx: HostContext, request: Request, method: tuple[str, Any]) -> Any:
    if method[0] == "other":
        if not is_token(method[1]):
            return FAILED
        method = method_of(method[1])
        keep(ctx, request, method[1])
    request.method = method
    return None


def set_target(ctx: HostContext, request: Request, target: str | None) -> Any:
    if target is not None:
        target = target.partition("#")[0] or "/"
        if not is_target(target):
            return FAILED
    keep(ctx, request, target)
    request.target = target
    return None


def set_scheme(ctx: HostContext, request: Request, scheme: tuple[str, Any] | None) -> Any:
    if scheme is not None and scheme[0] == "other":
        if _SCHEME(scheme[1]) is None:
            return FAILED
        scheme = _SCHEMES.get(scheme[1], scheme)
    request.scheme = scheme
    return None


def consume_body(ctx: HostContext, message: Request | Response, result: Future) -> Any:
    body = message.body
    result.then(body.consumed)
    return body.given(ctx)


def get_options(ctx: HostContext, request: Request) -> Options | None:
    return None if request.options is None else Options(request.options, mutable=False)


# Fields.


def _bounded(change: Callable[..., Any]) -> Callable[..., Any]:
    """`change` of wasi:http 0.2, with an error where that traps."""

    def changed(ctx: HostContext, *arguments: Any) -> Any:
        try:
            return change(ctx, *arguments)
        except LimitExceeded:
            return SIZE_EXCEEDED

    return changed


def get_and_delete(ctx: HostContext, fields: Fields, name: str) -> Any:
    values = fields_get(ctx, fields, name)
    refused = fields_delete(ctx, fields, name)
    return values if refused is None else refused


class Http:
    """wasi:http/types 0.3; it shares nothing among instances."""

    def functions(self, interface: str) -> dict[str, Callable[..., Any]]:
        return self.FUNCTIONS

    def close(self) -> None:
        pass

    FUNCTIONS: ClassVar[dict[str, Callable[..., Any]]] = {
        "[constructor]fields": lambda ctx: Fields(share=kept(ctx)),
        "[static]fields.from-list": _bounded(fields_from_list),
        "[method]fields.get": fields_get,
        "[method]fields.has": fields_has,
        "[method]fields.set": _bounded(fields_set),
        "[method]fields.delete": fields_delete,
        "[method]fields.get-and-delete": get_and_delete,
        "[method]fields.append": _bounded(fields_append),
        "[method]fields.copy-all": lambda ctx, fields: fields.pairs,
        "[method]fields.clone": lambda ctx, fields: Fields(fields.pairs, share=kept(ctx)),
        "[static]request.new": request_new,
        "[method]request.get-method": lambda ctx, request: request.method,
        "[method]request.set-method": set_method,
        "[method]request.get-path-with-query": lambda ctx, request: request.target,
        "[method]request.set-path-with-query": set_target,
        "[method]request.get-scheme": lambda ctx, request: request.scheme,
        "[method]request.set-scheme": set_scheme,
        "[method]request.get-authority": lambda ctx, request: request.authority,
        "[method]request.set-authority": set_authority,
        "[method]request.get-options": get_options,
        "[method]request.get-headers": lambda ctx, request: request.fields,
        "[static]request.consume-body": consume_body,
        "[resource-drop]request": lambda ctx, request: request.body.drop(),
        "[constructor]request-options": lambda ctx: Options(),
        "[method]request-options.clone": lambda ctx, options: Options(options),
        "[static]response.new": response_new,
        "[method]response.get-status-code": lambda ctx, response: response.status,
        "[method]response.set-status-code": set_status,
        "[method]response.get-headers": lambda ctx, response: response.fields,
        "[static]response.consume-body": consume_body,
        "[resource-drop]response": lambda ctx, response: response.body.drop(),
    }


def _timeout(name: str, field: str) -> dict[str, Callable[..., Any]]:
    def get(ctx: HostContext, options: Options) -> Any:
        return getattr(options, field)

    def set_(ctx: HostContext, options: Options, duration: int | None) -> Any:
        if not options.mutable:
            return IMMUTABLE
        setattr(options, field, duration)
        return None

    return {f"[method]request-options.get-{name}": get, f"[method]request-options.set-{name}": set_}


Http.FUNCTIONS |= (
    _timeout("connect-timeout", "connect")
    | _timeout("first-byte-timeout", "first_byte")
    | _timeout("between-bytes-timeout", "between_bytes")
)
