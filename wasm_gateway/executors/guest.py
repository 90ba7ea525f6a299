# One component, loaded: what is made once and used by each of its requests.
#
# Rule 1: an executor turns a Request into a call of a fresh instance and back; what
# all of them share (limits, grants, the WASI world, header rules) is here.
# Rule 2: whatever the guest hands back is checked here, once, before a door sees it.

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from .. import stack
from ..component.handles import enter, leave
from ..component.types import FuncType
from ..component_options import ComponentOptions
from ..engine import CoreSignature, Program, current
from ..errors import BodyTooLarge, GuestError, LimitExceeded, RequestError
from ..host.base import Deadline, Grants, OutboundRules
from ..host.wasi.state import WasiState, WasiTemplate
from ..instance import Instance, Limits, Services
from ..linked import LinkedProgram
from ..messages import Begin, Headers, Request, Response
from ..observe import current as watched
from ..router import RouteMatch

# Interfaces of HTTP handlers (Spin: http, 7), also of those that stand before others.
HTTP_0_2_HANDLERS = (
    "wasi:http/incoming-handler@0.2",
    "wasi:http/incoming-handler@0.2.0-rc-2023-11-10",
    "wasi:http/incoming-handler@0.2.0-rc-2023-10-18",
)
HTTP_P3_HANDLERS = ("wasi:http/handler@0.3", "wasi:http/handler@0.3.0-rc-2026-03-15")
HTTP_HANDLERS = frozenset({*HTTP_0_2_HANDLERS, *HTTP_P3_HANDLERS})


class LiftedFunction:
    """A function that a guest exports: called with an instance and Python values (component/values.py).

    `initialize` is a core function that is called before, as for a reactor; `enters` are the component
    instances that are being run meanwhile, of a guest that has several.
    """

    __slots__ = ("_core", "_enters", "_initialize", "_lift", "_post_return", "type")

    def __init__(
        self,
        type: FuncType,
        lift: Callable[..., Any],
        core: CoreSignature,
        post_return: CoreSignature | None = None,
        initialize: CoreSignature | None = None,
        enters: Sequence[int] = (),
    ) -> None:
        self.type = type
        self._enters = enters
        self._lift = lift
        self._core = core
        self._post_return = post_return
        self._initialize = initialize

    def __call__(self, instance: Instance, *arguments: Any) -> Any:
        """The lifted result; Err where the function's `result` is an error."""
        if self._initialize is not None:
            instance.core(self._initialize)()
        post_return = None if self._post_return is None else instance.core(self._post_return)
        states = enter(instance, self._enters) if self._enters else ()
        result = self._lift(instance, instance.core(self._core), post_return, *arguments)
        leave(states)  # not after a trap: there is no way into what trapped
        return result


@dataclass(frozen=True, slots=True, eq=False)
class Provider:
    """A component that meets imports of another one (Spin: manifest, 9), or stands before it.

    `name` is an import of the other one, or its package; `export` what meets it, None for the export of
    the same name. Of one that stands before another, `name` is for people. It may do nothing but what the
    other one may do and it inherits: `grants`, and the files where `files` is true.
    """

    name: str
    wasm: bytes
    export: str | None
    grants: Grants
    files: bool = False


@dataclass(frozen=True, slots=True)
class Guest:
    """One component as its executor sees it; `instantiate` makes the world of one request."""

    grants: Grants
    options: ComponentOptions
    limits: Limits
    program: Program | LinkedProgram
    wasi: WasiTemplate
    services: Services

    def instantiate(self, wasi: WasiState | None = None) -> Instance:
        """A fresh instance whose deadline starts now; use it with `with`.

        One that is made while another one runs in this thread serves that one (service chaining), and
        ends no later; LimitExceeded when that goes too deep.
        """
        if watched.call is not None:
            watched.call.starting()
        seconds, depth = self._bounds()
        if wasi is None:
            wasi = self.wasi.state()
        instance = Instance(self.program, self.grants, Deadline(seconds), self.limits, self.services, wasi)
        instance.depth = depth
        return instance

    def beside(self, outbound: OutboundRules) -> Guest:
        """The same for requests that the site answers: nothing that it does may be seen."""
        return replace(
            self,
            grants=self.grants.beside(outbound),
            options=replace(self.options, max_instance_reuse_count=(1, 2)),
            wasi=self.wasi.read_only(),
        )

    def renew(self, instance: Instance) -> None:
        """Begin another request with an instance that rests (Instance.rest)."""
        seconds, depth = self._bounds()
        instance.renew(Deadline(seconds))
        instance.depth = depth

    def _bounds(self) -> tuple[float, int]:
        """The seconds of a request from now on, and how many guests wait for it in this thread."""
        outer = current.instance
        if outer is None:
            return self.options.timeout, 0
        return min(self.options.timeout, outer.deadline.remaining()), _deeper(outer)


# How many guests may wait for each other in one thread. Spin has no such limit; each of ours takes a
# place, an instance and some 15 of Python's 1,000 frames.
MAX_DEPTH = 16
# The same where the size of the stack cannot be known; it is 1 MiB at least on every common platform.
MAX_DEPTH_BLIND = 1


def _deeper(outer: Instance) -> int:
    """The depth of a guest that `outer` waits for; LimitExceeded when there is no room for it."""
    depth = outer.depth + 1
    room = stack.room(outer.called_from)
    if depth > (MAX_DEPTH if room is not None else MAX_DEPTH_BLIND):
        raise LimitExceeded(f"components call each other more than {depth - 1} deep", "depth")
    if room is not None and room < stack.MAX_WASM_STACK + stack.RESERVE:
        raise LimitExceeded(f"{room} bytes of stack are too few for a component to call another one", "depth")
    return depth


class Executor(Protocol):
    """One dialect of guests that answer HTTP requests (Spin: http, 7 and 8).

    `injects_headers` says whether its guests are told of the match in `spin-*` headers, `streams` whether
    it has any use for a Begin.
    """

    @property
    def dialect(self) -> str: ...

    @property
    def injects_headers(self) -> bool: ...

    @property
    def streams(self) -> bool: ...

    def beside(self, outbound: OutboundRules) -> Executor:
        """The same for Guest.beside."""
        ...

    def execute(self, request: Request, match: RouteMatch, begin: Begin | None = None) -> Response:
        """Answer `request` with a fresh instance; raises a GatewayError for what goes wrong.

        The response is whole, or STREAMED when it went out through `begin`.
        """
        ...

    def close(self) -> None:
        """Give up what is kept between requests; requests go on to be answered."""
        ...

    def reopen(self) -> None:
        """Keep things between requests again."""


class KeepsNothing:
    """The part of an Executor that is about what is kept between requests, where nothing is."""

    def close(self) -> None:
        pass

    def reopen(self) -> None:
        pass


class MessageExecutor(Protocol):
    """One dialect of guests that take messages of a Redis channel."""

    @property
    def dialect(self) -> str: ...

    def deliver(self, payload: bytes) -> None:
        """Hand `payload` to a fresh instance; raises a GatewayError for what goes wrong."""
        ...


_NAME = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+\Z").match  # RFC 9110, token
_BAD_VALUE = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]").search  # RFC 9110, field values; tab is allowed

# The bytes that all response headers of a guest may have together:
# - nginx proxy buffers: 8 * 8 KiB
# - wasmtime's fields limit in Spin: 128 KiB
MAX_RESPONSE_HEADERS = 128 << 10


def decoded(headers: Headers) -> list[tuple[str, str]]:
    """Request headers for a guest that takes text; RequestError when a value is not UTF-8 (Spin: http, 6)."""
    pairs = []
    for pair in headers.pairs:
        if not pair[1].isascii():
            try:
                pair = (pair[0], pair[1].encode("latin-1").decode())
            except UnicodeDecodeError:
                raise UndecodableHeader(f"the value of header {pair[0]!r} is not UTF-8") from None
        pairs.append(pair)
    return pairs


class UndecodableHeader(RequestError):
    """A header value that the guest's dialect cannot take; Spin answers 500."""

    status = 500


def checked_headers(pairs: Iterable[tuple[str, str]]) -> Headers:
    """Response headers from a guest's text pairs: a repeated name keeps its last value (Spin: http, 8.1).

    Raises GuestError for a name or value that HTTP does not allow, LimitExceeded when they are too many.
    """
    kept: dict[str, str] = {}
    size = 0
    for name, value in pairs:
        name = name.lower()
        if not value.isascii():
            value = value.encode().decode("latin-1")
        size += len(name) + len(value)
        if size > MAX_RESPONSE_HEADERS:
            raise LimitExceeded(f"response headers are longer than {MAX_RESPONSE_HEADERS} bytes", "headers")
        if _NAME(name) is None or _BAD_VALUE(value) is not None:
            raise GuestError(f"guest set an invalid header {name[:80]!r}: {value[:80]!r}")
        kept[name] = value
    return Headers.trusted(tuple(kept.items()))


# Seconds in which a body has to come for a guest that gets it whole; or as many as the guest itself may take.
BODY_SECONDS = 30.0


class SlowBody(RequestError):
    """The client takes too long to send a body."""

    status = 408


def whole_body(request: Request, limit: int, seconds: float) -> bytes:
    """The request body in one piece; BodyTooLarge past `limit` bytes, SlowBody for one that takes too long.

    A client that sends a byte now and then holds a thread of the server and a place of the component.
    """
    seconds = max(seconds, BODY_SECONDS)
    body = request.body
    if body == ():
        return b""
    wait: Callable[[float], bool] | None = getattr(body, "wait", None)
    pieces, ends = iter(body), time.monotonic() + seconds
    chunks, size = [], 0
    while True:
        left = ends - time.monotonic()
        if left <= 0 or (wait is not None and not wait(left)):
            raise SlowBody(f"the request body did not come within {seconds:g} s")
        chunk = next(pieces, None)
        if chunk is None:
            break
        size += len(chunk)
        if size > limit:
            raise BodyTooLarge(limit)
        chunks.append(chunk)
    return chunks[0] if len(chunks) == 1 else b"".join(chunks)


def complete(status: int, headers: Headers, body: bytes | None, limit: int) -> Response:
    """A response whose body is whole; LimitExceeded when that is longer than `limit` bytes."""
    if body and len(body) > limit:
        raise LimitExceeded(f"response body is longer than {limit} bytes", "max_response_body")
    return Response(status, headers, (body,) if body else ())
