# The two snapshots of WASI 0.2 of 2023 that Spin links, 0.2.0-rc-2023-10-18 and
# 0.2.0-rc-2023-11-10, over the families of 0.2 (Spin: host interfaces, 1 and 2).
#
# Rule 1: a snapshot's texts are those of 0.2 with the edits below, its functions those of 0.2
# by their names; what differs is adapted here, and nothing is implemented twice.
# Rule 2: its resource types are its own, the objects behind them are those of 0.2.
# Rule 3: a failure that a snapshot has no error for is a trap, as in Spin.
#
# Where Spin is at odds with a snapshot's text, the text counts: what today's WASI has no more is
# done, or answered with `unsupported` (Spin traps), and milliseconds are milliseconds (Spin takes
# them for nanoseconds).

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any

from ..component.types import InterfaceType
from ..component.values import Err, Ok
from ..errors import Trap
from . import wasi_cli, wasi_clocks, wasi_filesystem, wasi_http, wasi_io, wasi_outgoing
from .base import HostContext
from .wasi_http import FAILED, Fields, OutgoingRequest, OutgoingResponse, RequestOptions

OCTOBER, NOVEMBER = "0.2.0-rc-2023-10-18", "0.2.0-rc-2023-11-10"
_HTTP = wasi_http.WasiHttp.FUNCTIONS

# What a snapshot says otherwise, by package: (words of 0.2, its own words).
_EDITS: dict[tuple[str, str], tuple[tuple[str, str], ...]] = {
    (NOVEMBER, "wasi:http"): (
        ("    has: func(name: field-name) -> bool;\n", ""),
        ("-timeout: func(", "-timeout-ms: func("),
        ("<result<result<option<trailers>, error-code>>>", "<result<option<trailers>, error-code>>"),
    ),
    (OCTOBER, "wasi:io"): (
        ("interface error {\n  resource error { to-debug-string: func() -> string; }\n}\n", ""),
        ("  use error.{error};\n", "  resource error { to-debug-string: func() -> string; }\n"),
        ("pollable {\n    ready: func() -> bool;\n    block: func();\n  }", "pollable;"),
        ("  poll: func(", "  poll-one: func(in: borrow<pollable>);\n  poll-list: func("),
        ("src: borrow<input-stream>", "src: input-stream"),
        (
            "    splice: func(",
            "    forward: func(src: input-stream) -> result<u64, stream-error>;\n    splice: func(",
        ),
    ),
    (OCTOBER, "wasi:clocks"): (
        ("  subscribe-instant: func(when: instant)", "  subscribe: func(when: instant, absolute: bool)"),
        ("  subscribe-duration: func(when: duration) -> pollable;\n", ""),
    ),
    (OCTOBER, "wasi:filesystem"): (
        (
            "open-flags: open-flags, %flags: descriptor-flags)",
            "open-flags: open-flags, %flags: descriptor-flags, modes: modes)",
        ),
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
    ),
}

# wasi:http of October: little of it is as in 0.2.
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


def _text(text: str, snapshot: str, package: str) -> str:
    """A text of 0.2 in the words of a snapshot."""
    if (snapshot, package) == (OCTOBER, "wasi:http"):
        text = _HTTP_OCTOBER
    for words, own in _EDITS.get((snapshot, package), ()):
        assert words in text, (snapshot, package, words)
        text = text.replace(words, own)
    return text.replace("@0.2.0", f"@{snapshot}")


INTERFACES = {
    name.replace("@0.2", f"@{snapshot}"): _text(text, snapshot, name.partition("/")[0])
    for snapshot in (OCTOBER, NOVEMBER)
    for family in (wasi_io, wasi_clocks, wasi_cli, wasi_filesystem, wasi_http, wasi_outgoing)
    for name, text in family.INTERFACES.items()
}


# What both have.


def trailers_get(ctx: HostContext, future: Any) -> Any:
    """future-trailers.get, which may be called again in 0.2 alone."""
    found = _HTTP["[method]future-trailers.get"](ctx, future)
    if found == FAILED:
        raise Trap("the trailers have been taken already")
    return found and found.value


# wasi:io, wasi:clocks and wasi:filesystem of October.


def _giving(splice: Callable[..., Any]) -> Callable[..., Any]:
    """`splice` of a stream that the guest gives away."""

    def giving(ctx: HostContext, stream: Any, source: Any, length: int) -> Any:
        try:
            return splice(ctx, stream, source, length)
        finally:
            source.close(ctx)

    return giving


def forward(ctx: HostContext, stream: wasi_io.OutputStream, source: wasi_io.InputStream) -> Any:
    """All of `source`, to its end; the length of that."""
    size = 0
    try:
        while not isinstance(count := wasi_io.blocking_splice(ctx, stream, source, wasi_io.MAX_READ), Err):
            ctx.deadline.remaining()  # a file that is appended to itself has no end
            size += count
    finally:
        source.close(ctx)
    if count.value[0] != "closed":
        return count
    flushed = wasi_io.blocking_flush(ctx, stream)  # closed itself, if that was meant
    return size if flushed is None else flushed


def subscribe(ctx: HostContext, when: int, absolute: bool) -> wasi_io.Pollable:
    return (wasi_clocks.subscribe_instant if absolute else wasi_clocks.subscribe_duration)(ctx, when)


def open_at(
    ctx: HostContext, descriptor: Any, path_flags: int, path: str, open_flags: int, flags: int, modes: int
) -> Any:
    return wasi_filesystem.open_at(ctx, descriptor, path_flags, path, open_flags, flags)


def unsupported(ctx: HostContext, *_: Any) -> Err:
    return Err("unsupported")


# wasi:http of October.


def _or_trap(name: str) -> Callable[..., Any]:
    """The function `name` of 0.2, whose error is a trap."""
    function = _HTTP[name]

    @wraps(function)
    def trapping(ctx: HostContext, *arguments: Any) -> Any:
        result = function(ctx, *arguments)
        if isinstance(result, Err):
            raise Trap(f"{name}: {'invalid' if result.value is None else result.value[0]}")
        return result

    return trapping


def unexpected(code: tuple[str, Any]) -> tuple[str, str]:
    """An error-code of 0.2 as an error: as text, in the way that Spin's guests know."""
    case, payload = code
    name = "".join(map(str.capitalize, case.split("-")))
    return "unexpected-error", f"ErrorCode::{name}" + ("" if payload is None else f"({payload})")


_WORDS = {
    "invalid-url": "invalid url",
    "timeout-error": "timeout",
    "protocol-error": "protocol error",
    "unexpected-error": "unexpected error",
}


def outparam_set(ctx: HostContext, param: Any, response: Any) -> None:
    if isinstance(response, Err):
        case, text = response.value
        response = Err(("internal-error", f"{_WORDS[case]}: {text}"))
    _HTTP["[static]response-outparam.set"](ctx, param, response)


def new_request(
    ctx: HostContext, method: Any, target: str | None, scheme: Any, authority: str | None, fields: Fields
) -> OutgoingRequest:
    # Without authority it is one to the own application, as in 0.2; Spin puts a port alone there.
    request = OutgoingRequest(Fields(fields.pairs))
    for set_, value in zip(_SETTERS, (method, target, scheme, authority), strict=True):
        set_(ctx, request, value)
    return request


def new_response(ctx: HostContext, status: int, fields: Fields) -> OutgoingResponse:
    response = OutgoingResponse(Fields(fields.pairs))
    _set_status(ctx, response, status)
    return response


def some_trailers(ctx: HostContext, future: Any) -> Any:
    """future-trailers.get: there are always some, which may be none."""
    found = trailers_get(ctx, future)
    if isinstance(found, Err):
        return Err(unexpected(found.value))
    return found and Ok(found.value or Fields(mutable=False))


def response_get(ctx: HostContext, future: Any) -> Any:
    found = _HTTP["[method]future-incoming-response.get"](ctx, future)
    if isinstance(found, Ok) and isinstance(found.value, Err):
        return Ok(Err(unexpected(found.value.value)))
    return found


def _handling(handle: Callable[..., Any]) -> Callable[..., Any]:
    """outgoing-handler.handle over that of 0.2."""

    def handling(ctx: HostContext, request: Any, milliseconds: Any) -> Any:
        options = None
        if milliseconds is not None:
            options = RequestOptions()
            options.connect, options.first_byte, options.between_bytes = (
                None if ms is None else ms * 1_000_000 for ms in milliseconds
            )
        result = handle(ctx, request, options)
        return Err(unexpected(result.value)) if isinstance(result, Err) else result

    return handling


_SETTERS = [
    _or_trap(f"[method]outgoing-request.set-{part}")
    for part in ("method", "path-with-query", "scheme", "authority")
]
_set_status = _or_trap("[method]outgoing-response.set-status-code")

# What is not as in 0.2, or has another name there.
_CHANGES: dict[str, Mapping[str, Callable[..., Any]]] = {
    f"wasi:http/types@{NOVEMBER}": {
        "[method]future-trailers.get": trailers_get,
        **{
            f"{name}-ms": function
            for name, function in _HTTP.items()
            if name.startswith("[method]request-options.")
        },
    },
    f"wasi:io/poll@{OCTOBER}": {
        "poll-list": wasi_io.poll,
        "poll-one": lambda ctx, pollable: wasi_io.wait_any(ctx, [pollable]),
    },
    f"wasi:io/streams@{OCTOBER}": {
        **wasi_io.WasiIo.FUNCTIONS["wasi:io/error@0.2"],
        "[method]output-stream.splice": _giving(wasi_io.splice),
        "[method]output-stream.blocking-splice": _giving(wasi_io.blocking_splice),
        "[method]output-stream.forward": forward,
    },
    f"wasi:clocks/monotonic-clock@{OCTOBER}": {"subscribe": subscribe},
    f"wasi:filesystem/types@{OCTOBER}": {
        "[method]descriptor.open-at": open_at,
        **{
            f"[method]descriptor.{name}": unsupported
            for name in (
                *("access-at", "change-file-permissions-at", "change-directory-permissions-at"),
                *("lock-shared", "lock-exclusive", "try-lock-shared", "try-lock-exclusive", "unlock"),
            )
        },
    },
    f"wasi:http/types@{OCTOBER}": {
        "[constructor]fields": _or_trap("[static]fields.from-list"),
        "[method]fields.set": _or_trap("[method]fields.set"),
        "[method]fields.delete": _or_trap("[method]fields.delete"),
        "[method]fields.append": _or_trap("[method]fields.append"),
        "[constructor]outgoing-request": new_request,
        "[method]outgoing-request.write": _HTTP["[method]outgoing-request.body"],
        "[static]response-outparam.set": outparam_set,
        "[method]future-trailers.get": some_trailers,
        "[constructor]outgoing-response": new_response,
        "[method]outgoing-response.write": _HTTP["[method]outgoing-response.body"],
        "[static]outgoing-body.finish": _or_trap("[static]outgoing-body.finish"),
        "[method]future-incoming-response.get": response_get,
    },
}


class Snapshots:
    """Both snapshots; `functions_of` gives those of an interface of 0.2, `type_of` the type of one here."""

    def __init__(
        self,
        functions_of: Callable[[str], Mapping[str, Callable[..., Any]]],
        type_of: Callable[[str], InterfaceType],
    ) -> None:
        self._functions_of = functions_of
        self._type_of = type_of

    def functions(self, interface: str) -> dict[str, Callable[..., Any]]:
        name, _, snapshot = interface.partition("@")
        functions = {**self._functions_of(f"{name}@0.2"), **_CHANGES.get(interface, {})}
        if (name, snapshot) == ("wasi:http/outgoing-handler", OCTOBER):
            functions["handle"] = _handling(functions["handle"])
        type_ = self._type_of(interface)
        known = type_.funcs.keys() | {f"[resource-drop]{key}" for key in type_.types}
        return {key: function for key, function in functions.items() if key in known}

    def close(self) -> None:
        pass
