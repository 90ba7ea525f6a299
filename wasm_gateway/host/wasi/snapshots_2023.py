# The two snapshots of WASI 0.2 of 2023 that Spin links, 0.2.0-rc-2023-10-18 and
# 0.2.0-rc-2023-11-10, over the families of 0.2 (Spin: host interfaces, 1 and 2).
#
# Rule 1: a snapshot's texts are those of 0.2 with the edits below, its functions those of 0.2
# by their names; what differs is adapted here, and nothing is implemented twice.
# Rule 2: its resource types are its own, the objects behind them are those of 0.2.
# Rule 3: a failure that a snapshot has no error for is a trap, as in Spin.
#
# Where Spin is at odds with a snapshot's text, the text counts: what WASI has no more is done, or
# answered with `unsupported` (Spin traps); milliseconds are milliseconds (Spin takes them for
# nanoseconds); datagrams can be sent and received (Spin refuses both).

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from typing import Any

from ...component.types import InterfaceType
from ...component.values import Err, Ok
from ...errors import Trap
from ..base import HostContext
from . import cli, clocks, filesystem, http, io, outgoing, sockets, tcp, udp
from .http import FAILED, Fields, OutgoingRequest, OutgoingResponse, RequestOptions
from .io import READY, InputStream, OutputStream
from .sockets import NOT_IN_PROGRESS, NOT_SUPPORTED, WOULD_BLOCK, Socket

OCTOBER, NOVEMBER = "0.2.0-rc-2023-10-18", "0.2.0-rc-2023-11-10"
FAMILIES = (io, clocks, cli, filesystem, sockets, tcp, udp, http, outgoing)

_FAMILY = "    address-family: func() -> ip-address-family;\n"
_IPV6_ONLY = (
    _FAMILY,
    f"""{_FAMILY}    ipv6-only: func() -> result<bool, error-code>;
    set-ipv6-only: func(value: bool) -> result<_, error-code>;
""",
)
# Words of 0.2, and those that a snapshot has in their place. What it has not, and nobody would miss, stays.
EDITS: dict[str, tuple[tuple[str, str], ...]] = {
    NOVEMBER: (
        # http
        ("    has: func(name: field-name) -> bool;\n", ""),
        ("-timeout: func(", "-timeout-ms: func("),
        ("<result<result<option<trailers>, error-code>>>", "<result<option<trailers>, error-code>>"),
        # sockets
        _IPV6_ONLY,
    ),
    OCTOBER: (
        # io
        ("interface error {\n  resource error { to-debug-string: func() -> string; }\n}\n", ""),
        ("  use error.{error};\n", "  resource error { to-debug-string: func() -> string; }\n"),
        ("pollable {\n    ready: func() -> bool;\n    block: func();\n  }", "pollable;"),
        ("  poll: func(", "  poll-one: func(in: borrow<pollable>);\n  poll-list: func("),
        ("src: borrow<input-stream>", "src: input-stream"),
        (
            "    splice: func(",
            "    forward: func(src: input-stream) -> result<u64, stream-error>;\n    splice: func(",
        ),
        # clocks
        ("  subscribe-instant: func(when: instant)", "  subscribe: func(when: instant, absolute: bool)"),
        ("  subscribe-duration: func(when: duration) -> pollable;\n", ""),
        # filesystem
        ("%flags: descriptor-flags)", "%flags: descriptor-flags, modes: modes)"),
        (
            "  resource descriptor {\n",
            """  flags modes { readable, writable, executable }
  variant access-type { access(modes), exists }
  resource descriptor {
    access-at: func(path-flags: path-flags, path: string, %type: access-type) -> result<_, error-code>;
    change-file-permissions-at: func(path-flags: path-flags, path: string, modes: modes)
      -> result<_, error-code>;
    change-directory-permissions-at: func(path-flags: path-flags, path: string, modes: modes)
      -> result<_, error-code>;
    lock-shared: func() -> result<_, error-code>;
    lock-exclusive: func() -> result<_, error-code>;
    try-lock-shared: func() -> result<_, error-code>;
    try-lock-exclusive: func() -> result<_, error-code>;
    unlock: func() -> result<_, error-code>;
""",
        ),
        # sockets
        _IPV6_ONLY,
        ("{network, error-code, ip-address}", "{network, error-code, ip-address, ip-address-family}"),
        (
            "func(network: borrow<network>, name: string)",
            """func(network: borrow<network>, name: string,
    address-family: option<ip-address-family>, include-unavailable: bool)""",
        ),
        ("    keep-alive-enabled: func", "    keep-alive: func"),
        ("    set-keep-alive-enabled: func", "    set-keep-alive: func"),
        ("    hop-limit: func", "    unicast-hop-limit: func"),
        ("    set-hop-limit: func", "    set-unicast-hop-limit: func"),
        (
            "    is-listening: func() -> bool;\n",
            """    no-delay: func() -> result<bool, error-code>;
    set-no-delay: func(value: bool) -> result<_, error-code>;
""",
        ),
        (
            """    %stream: func(remote-address: option<ip-socket-address>)
      -> result<tuple<incoming-datagram-stream, outgoing-datagram-stream>, error-code>;
""",
            """    start-connect: func(network: borrow<network>, remote-address: ip-socket-address)
      -> result<_, error-code>;
    finish-connect: func() -> result<_, error-code>;
    receive: func(max-results: u64) -> result<list<datagram>, error-code>;
    send: func(datagrams: list<datagram>) -> result<u64, error-code>;
""",
        ),
        (
            """  resource incoming-datagram-stream {
    receive: func(max-results: u64) -> result<list<incoming-datagram>, error-code>;
    subscribe: func() -> pollable;
  }
  resource outgoing-datagram-stream {
    check-send: func() -> result<u64, error-code>;
    send: func(datagrams: list<outgoing-datagram>) -> result<u64, error-code>;
    subscribe: func() -> pollable;
  }
""",
            "",
        ),
        ("record incoming-datagram {", "record datagram {"),
    ),
}

# Of wasi:http little was as it is in 0.2.
_HTTP_OCTOBER = """
package wasi:http@0.2.0;
interface types {
  use wasi:io/streams@0.2.0.{input-stream, output-stream};
  use wasi:io/poll@0.2.0.{pollable};
  variant method { get, head, post, put, delete, connect, options, trace, patch, other(string) }
  variant scheme { HTTP, HTTPS, other(string) }
  variant error {
    invalid-url(string), timeout-error(string), protocol-error(string), unexpected-error(string),
  }
  resource fields {
    constructor(entries: list<tuple<string, list<u8>>>);
    get: func(name: string) -> list<list<u8>>;
    set: func(name: string, value: list<list<u8>>);
    delete: func(name: string);
    append: func(name: string, value: list<u8>);
    entries: func() -> list<tuple<string, list<u8>>>;
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
    constructor(method: method, path-with-query: option<string>, scheme: option<scheme>,
      authority: option<string>, headers: borrow<headers>);
    write: func() -> result<outgoing-body>;
  }
  record request-options {
    connect-timeout-ms: option<u32>,
    first-byte-timeout-ms: option<u32>,
    between-bytes-timeout-ms: option<u32>,
  }
  resource response-outparam {
    set: static func(param: response-outparam, response: result<outgoing-response, error>);
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
    get: func() -> option<result<trailers, error>>;
  }
  resource outgoing-response {
    constructor(status-code: status-code, headers: borrow<headers>);
    write: func() -> result<outgoing-body>;
  }
  resource outgoing-body {
    write: func() -> result<output-stream>;
    finish: static func(this: outgoing-body, trailers: option<trailers>);
  }
  resource future-incoming-response {
    get: func() -> option<result<result<incoming-response, error>>>;
    subscribe: func() -> pollable;
  }
}
interface incoming-handler {
  use types.{incoming-request, response-outparam};
  handle: func(request: incoming-request, response-out: response-outparam);
}
interface outgoing-handler {
  use types.{outgoing-request, request-options, future-incoming-response, error};
  handle: func(request: outgoing-request, options: option<request-options>)
    -> result<future-incoming-response, error>;
}
"""


def _text(text: str, snapshot: str) -> str:
    """A text of 0.2 in the words of a snapshot."""
    if snapshot == OCTOBER and text is http.TEXT:
        text = _HTTP_OCTOBER
    for words, own in EDITS[snapshot]:
        text = text.replace(words, own)
    return text.replace("@0.2.0", f"@{snapshot}")


INTERFACES = {
    name.replace("@0.2", f"@{snapshot}"): _text(text, snapshot)
    for snapshot in (OCTOBER, NOVEMBER)
    for family in FAMILIES
    for name, text in family.INTERFACES.items()
}

# By name. Each function below takes those of 0.2 and gives what a snapshot has besides, or otherwise.
Functions = Mapping[str, Callable[..., Any]]


# wasi:io, wasi:clocks and wasi:filesystem of October.


def _poll(of: Functions) -> Functions:
    return {"poll-list": of["poll"], "poll-one": of["[method]pollable.block"]}


def _streams(of: Functions) -> Functions:
    return {
        **io.WasiIo.FUNCTIONS["wasi:io/error@0.2"],
        "[method]output-stream.splice": _giving(io.splice),
        "[method]output-stream.blocking-splice": _giving(io.blocking_splice),
        "[method]output-stream.forward": forward,
    }


def _giving(splice: Callable[..., Any]) -> Callable[..., Any]:
    """`splice` of a stream that the guest gives away."""

    def giving(ctx: HostContext, stream: OutputStream, source: InputStream, length: int) -> Any:
        try:
            return splice(ctx, stream, source, length)
        finally:
            source.close(ctx)

    return giving


def forward(ctx: HostContext, stream: OutputStream, source: InputStream) -> Any:
    """All of `source`, to its end; the length of that."""
    size = 0
    try:
        while not isinstance(count := io.blocking_splice(ctx, stream, source, io.MAX_READ), Err):
            ctx.deadline.remaining()  # a file that is appended to itself has no end
            size += count
    finally:
        source.close(ctx)
    if count.value[0] != "closed":
        return count
    flushed = io.blocking_flush(ctx, stream)  # closed itself, if that was meant
    return size if flushed is None else flushed


def _monotonic_clock(of: Functions) -> Functions:
    instant, duration = of["subscribe-instant"], of["subscribe-duration"]
    return {"subscribe": lambda ctx, when, absolute: (instant if absolute else duration)(ctx, when)}


def _files(of: Functions) -> Functions:
    open_at = of["[method]descriptor.open-at"]
    gone = (
        *("access-at", "change-file-permissions-at", "change-directory-permissions-at", "lock-shared"),
        *("lock-exclusive", "try-lock-shared", "try-lock-exclusive", "unlock"),
    )
    return {
        # its last parameter is modes, of a file that is made
        "[method]descriptor.open-at": lambda ctx, *arguments: open_at(ctx, *arguments[:-1]),
        **{f"[method]descriptor.{name}": lambda ctx, *_: Err("unsupported") for name in gone},
    }


# wasi:sockets.


def _name_lookup(of: Functions) -> Functions:
    resolve = of["resolve-addresses"]
    return {"resolve-addresses": lambda ctx, network, name, family, unavailable: resolve(ctx, network, name)}


def ipv6_only(ctx: HostContext, sock: Socket) -> Any:
    return NOT_SUPPORTED if sock.family == "ipv4" else True


def set_ipv6_only(ctx: HostContext, sock: Socket, value: bool) -> Any:
    return None if sock.family == "ipv6" and value else NOT_SUPPORTED


def _ipv6_only(resource: str) -> Functions:
    return {
        f"[method]{resource}.ipv6-only": ipv6_only,
        f"[method]{resource}.set-ipv6-only": set_ipv6_only,
    }


def no_delay(ctx: HostContext, sock: Socket) -> Any:
    value = sock.option(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    return value if isinstance(value, Err) else bool(value)


def set_no_delay(ctx: HostContext, sock: Socket, value: bool) -> Any:
    return sock.set_option(socket.IPPROTO_TCP, socket.TCP_NODELAY, value)


def _tcp(of: Functions) -> Functions:
    renamed = {
        "keep-alive": "keep-alive-enabled",
        "set-keep-alive": "set-keep-alive-enabled",
        "unicast-hop-limit": "hop-limit",
        "set-unicast-hop-limit": "set-hop-limit",
    }
    return {
        **_ipv6_only("tcp-socket"),
        **{f"[method]tcp-socket.{name}": of[f"[method]tcp-socket.{now}"] for name, now in renamed.items()},
        "[method]tcp-socket.no-delay": no_delay,
        "[method]tcp-socket.set-no-delay": set_no_delay,
    }


class UdpSocket:
    """The resource udp-socket of October: one of 0.2, and the streams that it receives and sends by."""

    __slots__ = ("connecting", "sending", "sock", "streams")

    def __init__(self, sock: Socket) -> None:
        self.sock = sock
        self.streams: tuple[Any, Any] | None = None
        self.connecting = False
        self.sending = False  # what would have blocked last


def _udp_create_socket(of: Functions) -> Functions:
    create = of["create-udp-socket"]

    def creating(ctx: HostContext, family: str) -> Any:
        sock = create(ctx, family)
        return sock if isinstance(sock, Err) else UdpSocket(sock)

    return {"create-udp-socket": creating}


def _udp(of: Functions) -> Functions:
    method, incoming, outgoing = (
        f"[method]{resource}."
        for resource in ("udp-socket", "incoming-datagram-stream", "outgoing-datagram-stream")
    )
    stream = of[f"{method}stream"]
    incoming_receive, incoming_subscribe = of[f"{incoming}receive"], of[f"{incoming}subscribe"]
    check_send, outgoing_send = of[f"{outgoing}check-send"], of[f"{outgoing}send"]
    outgoing_subscribe = of[f"{outgoing}subscribe"]

    def inner(function: Callable[..., Any]) -> Callable[..., Any]:
        return lambda ctx, own, *arguments: function(ctx, own.sock, *arguments)

    def release(ctx: HostContext, own: UdpSocket) -> None:
        streams, own.streams = own.streams, None
        if streams is not None:
            of["[resource-drop]incoming-datagram-stream"](ctx, streams[0])
            of["[resource-drop]outgoing-datagram-stream"](ctx, streams[1])

    def streams(ctx: HostContext, own: UdpSocket) -> Any:
        """Both streams, from and to anybody unless it has been connected, or an Err."""
        if own.streams is None:
            opened = stream(ctx, own.sock, None)
            if isinstance(opened, Err):
                return opened
            own.streams = opened
        return own.streams

    def start_connect(ctx: HostContext, own: UdpSocket, network: object, remote: Any) -> Any:
        opened = stream(ctx, own.sock, remote)
        if isinstance(opened, Err):
            return opened
        release(ctx, own)
        own.streams = opened
        own.connecting = True
        return None

    def finish_connect(ctx: HostContext, own: UdpSocket) -> Any:
        connecting, own.connecting = own.connecting, False
        return None if connecting else NOT_IN_PROGRESS

    def receive(ctx: HostContext, own: UdpSocket, count: int) -> Any:
        opened = streams(ctx, own)
        if isinstance(opened, Err):
            return opened
        own.sending = False
        received = incoming_receive(ctx, opened[0], count)
        return received if received or not count else WOULD_BLOCK

    def send(ctx: HostContext, own: UdpSocket, datagrams: Sequence[Any]) -> Any:
        opened = streams(ctx, own)
        permit = opened if isinstance(opened, Err) else check_send(ctx, opened[1])
        if isinstance(permit, Err):
            return permit
        own.sending = not permit
        if datagrams and not permit:
            return WOULD_BLOCK
        return outgoing_send(ctx, opened[1], datagrams[:permit])

    def subscribe(ctx: HostContext, own: UdpSocket) -> Any:
        if own.streams is None:
            return READY
        if own.sending:
            return outgoing_subscribe(ctx, own.streams[1])
        return incoming_subscribe(ctx, own.streams[0])

    def drop(ctx: HostContext, own: UdpSocket) -> None:
        release(ctx, own)
        of["[resource-drop]udp-socket"](ctx, own.sock)

    kept = {**of, **_ipv6_only("udp-socket")}
    return {
        **{name: inner(function) for name, function in kept.items() if name.startswith(method)},
        f"{method}start-connect": start_connect,
        f"{method}finish-connect": finish_connect,
        f"{method}receive": receive,
        f"{method}send": send,
        f"{method}subscribe": subscribe,
        "[resource-drop]udp-socket": drop,
    }


# wasi:http.


def _trailers(of: Functions) -> Callable[..., Any]:
    """future-trailers.get; that it may be called again, for an error, is of 0.2."""
    get = of["[method]future-trailers.get"]

    def trailers_get(ctx: HostContext, future: Any) -> Any:
        found = get(ctx, future)
        if found == FAILED:
            raise Trap("the trailers have been taken already")
        return None if found is None else found.value

    return trailers_get


def _http_november(of: Functions) -> Functions:
    options = "[method]request-options."
    return {
        "[method]future-trailers.get": _trailers(of),
        **{f"{name}-ms": function for name, function in of.items() if name.startswith(options)},
    }


def _or_trap(of: Functions, name: str) -> Callable[..., Any]:
    """The function `name` of 0.2, whose error is a trap."""
    function = of[name]

    @wraps(function)
    def trapping(ctx: HostContext, *arguments: Any) -> Any:
        result = function(ctx, *arguments)
        if isinstance(result, Err):
            raise Trap(f"{name}: {'invalid' if result.value is None else result.value[0]}")
        return result

    return trapping


def unexpected(code: tuple[str, Any]) -> tuple[str, str]:
    """An error-code of 0.2 as an error: as text, which begins as that of Spin does."""
    case, payload = code
    name = "".join(map(str.capitalize, case.split("-")))
    return "unexpected-error", f"ErrorCode::{name}" + ("" if payload is None else f"({payload})")


_WORDS = {
    "invalid-url": "invalid url",
    "timeout-error": "timeout",
    "protocol-error": "protocol error",
    "unexpected-error": "unexpected error",
}


def _http_october(of: Functions) -> Functions:
    setters = [
        _or_trap(of, f"[method]outgoing-request.set-{part}")
        for part in ("method", "path-with-query", "scheme", "authority")
    ]
    set_status = _or_trap(of, "[method]outgoing-response.set-status-code")
    outparam_set = of["[static]response-outparam.set"]
    trailers_get = _trailers(of)
    response_get = of["[method]future-incoming-response.get"]

    def new_request(ctx: HostContext, *parts: Any) -> OutgoingRequest:
        *values, fields = parts
        request = OutgoingRequest(fields.copy())
        # Without authority it is one to the own application, as in 0.2; Spin puts a port alone there.
        for set_, value in zip(setters, values, strict=True):
            set_(ctx, request, value)
        return request

    def new_response(ctx: HostContext, status: int, fields: Fields) -> OutgoingResponse:
        response = OutgoingResponse(fields.copy())
        set_status(ctx, response, status)
        return response

    def set_(ctx: HostContext, param: Any, response: Any) -> None:
        if isinstance(response, Err):
            case, text = response.value
            response = Err(("internal-error", f"{_WORDS[case]}: {text}"))
        outparam_set(ctx, param, response)

    def trailers(ctx: HostContext, future: Any) -> Any:
        found = trailers_get(ctx, future)
        if isinstance(found, Err):
            return Err(unexpected(found.value))
        # there are always some, which may be none
        return None if found is None else Ok(found.value or Fields(mutable=False))

    def get(ctx: HostContext, future: Any) -> Any:
        found = response_get(ctx, future)
        if isinstance(found, Ok) and isinstance(found.value, Err):
            return Ok(Err(unexpected(found.value.value)))
        return found

    return {
        "[constructor]fields": _or_trap(of, "[static]fields.from-list"),
        "[method]fields.set": _or_trap(of, "[method]fields.set"),
        "[method]fields.delete": _or_trap(of, "[method]fields.delete"),
        "[method]fields.append": _or_trap(of, "[method]fields.append"),
        "[constructor]outgoing-request": new_request,
        "[method]outgoing-request.write": of["[method]outgoing-request.body"],
        "[static]response-outparam.set": set_,
        "[method]future-trailers.get": trailers,
        "[constructor]outgoing-response": new_response,
        "[method]outgoing-response.write": of["[method]outgoing-response.body"],
        "[static]outgoing-body.finish": _or_trap(of, "[static]outgoing-body.finish"),
        "[method]future-incoming-response.get": get,
    }


def _outgoing_handler(of: Functions) -> Functions:
    send = of["handle"]

    def handle(ctx: HostContext, request: Any, milliseconds: Any) -> Any:
        options = None
        if milliseconds is not None:
            options = RequestOptions()
            options.connect, options.first_byte, options.between_bytes = (
                None if ms is None else ms * 1_000_000 for ms in milliseconds
            )
        result = send(ctx, request, options)
        return Err(unexpected(result.value)) if isinstance(result, Err) else result

    return {"handle": handle}


_CHANGES: dict[str, Callable[[Functions], Functions]] = {
    f"wasi:sockets/tcp@{NOVEMBER}": lambda of: _ipv6_only("tcp-socket"),
    f"wasi:sockets/udp@{NOVEMBER}": lambda of: _ipv6_only("udp-socket"),
    f"wasi:http/types@{NOVEMBER}": _http_november,
    f"wasi:io/poll@{OCTOBER}": _poll,
    f"wasi:io/streams@{OCTOBER}": _streams,
    f"wasi:clocks/monotonic-clock@{OCTOBER}": _monotonic_clock,
    f"wasi:filesystem/types@{OCTOBER}": _files,
    f"wasi:sockets/ip-name-lookup@{OCTOBER}": _name_lookup,
    f"wasi:sockets/tcp@{OCTOBER}": _tcp,
    f"wasi:sockets/udp@{OCTOBER}": _udp,
    f"wasi:sockets/udp-create-socket@{OCTOBER}": _udp_create_socket,
    f"wasi:http/types@{OCTOBER}": _http_october,
    f"wasi:http/outgoing-handler@{OCTOBER}": _outgoing_handler,
}


class Snapshots:
    """Both snapshots; `functions_of` gives those of an interface of 0.2, `type_of` the type of one here."""

    def __init__(
        self, functions_of: Callable[[str], Functions], type_of: Callable[[str], InterfaceType]
    ) -> None:
        self._functions_of = functions_of
        self._type_of = type_of

    def functions(self, interface: str) -> dict[str, Callable[..., Any]]:
        of = self._functions_of(f"{interface.partition('@')[0]}@0.2")
        changes = _CHANGES.get(interface)
        functions = dict(of) if changes is None else {**of, **changes(of)}
        type_ = self._type_of(interface)
        known = type_.funcs.keys() | {f"[resource-drop]{key}" for key in type_.types}
        return {key: function for key, function in functions.items() if key in known}

    def close(self) -> None:
        pass
