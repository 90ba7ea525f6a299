# Guests of wasi:http 0.2: they export incoming-handler (Spin: http, 8.2).
#
# Rule 1: the guest runs in the thread that asked for the response. A short one is given
# back whole; a long one, and one that waits, goes out through the door's Begin.
# Rule 2: once a guest has finished a response, nothing takes that back: what goes wrong
# afterwards is logged. wasmtime has sent it by then, and guests count on that.

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable

from .. import observe
from ..component.values import Err
from ..errors import BodyTooLarge, DeadlineExceeded, GuestError, GuestExit, LimitExceeded
from ..guest_logs import printable
from ..host.base import Deadline, HostContext, OutboundRules
from ..host.wasi.http import IncomingRequest, OutgoingResponse, ResponseOutparam
from ..host.wasi.io import BytesInput, InputStream, IteratorInput
from ..messages import STREAMED, Begin, Headers, Request, Response, Trailers
from ..router import RouteMatch
from .guest import MAX_RESPONSE_HEADERS, Guest, KeepsNothing, LiftedFunction

log = logging.getLogger("wasm_gateway")

# Bytes of a response that are kept together, and seconds that they wait, before they go out.
CHUNK_BYTES = 64 << 10
CHUNK_SECONDS = 0.02


class WasiHttpExecutor(KeepsNothing):
    """Calls `handler`, `handle: func(request: incoming-request, response-out: response-outparam)`."""

    dialect = "wasi-http"
    injects_headers = True

    def __init__(self, guest: Guest, handler: LiftedFunction) -> None:
        self.guest = guest
        self.handler = handler
        self.streams = guest.options.stream

    def beside(self, outbound: OutboundRules) -> WasiHttpExecutor:
        return WasiHttpExecutor(self.guest.beside(outbound), self.handler)

    def execute(self, request: Request, match: RouteMatch, begin: Begin | None = None) -> Response:
        guest = self.guest
        limits = guest.options
        answer = Answer(limits.max_response_body, begin if self.streams else None, request.method)
        incoming = IncomingRequest(
            request.method,
            request.target,
            request.authority,
            request.headers,
            request_body(request, limits.max_request_body),
            request.trailers,
        )
        with guest.instantiate() as instance:
            answer.watch(instance, request)
            try:
                self.handler(instance, incoming, ResponseOutparam(answer.set))
            except GuestError as error:
                if not answer.stands(error, guest.grants.id):
                    raise
        return answer.response()


def request_body(
    request: Request, limit: int, make: Callable[[Iterable[bytes], int], InputStream] | None = None
) -> InputStream:
    """The body as it comes, which `make(body, limit)` reads; BodyTooLarge past `limit` bytes."""
    body = request.body
    if isinstance(body, tuple) and len(body) < 2:
        if body and len(body[0]) > limit:
            raise BodyTooLarge(limit)
        return BytesInput(body[0] if body else b"")
    length = request.headers.get("content-length")
    if length is not None and length.isdigit() and int(length) > limit:
        raise BodyTooLarge(limit)
    return (make or RequestInput)(body, limit)


class RequestInput(IteratorInput):
    """The body of a request that comes in while it is read: `limit` bytes at most, within the deadline."""

    def __init__(self, body: Iterable[bytes], limit: int) -> None:
        super().__init__(body)
        self._limit = limit
        self._size = 0
        self._wait: Callable[[float], bool] | None = getattr(body, "wait", None)

    def next(self, ctx: HostContext) -> bytes | None:
        if self._size and ctx.before_wait is not None:
            ctx.before_wait()
        left = ctx.deadline.remaining()
        if self._wait is not None and not self._wait(left):
            raise DeadlineExceeded(ctx.deadline.seconds)
        chunk = super().next(ctx)
        if chunk is not None:
            self._size += len(chunk)
            if self._size > self._limit:
                raise BodyTooLarge(self._limit)
        return chunk


def note(error: GuestError, component_id: str) -> None:
    """Log what went wrong in a guest that has given its response."""
    observe.note(error)
    text = printable(f"{type(error).__name__}: {error}".encode(errors="backslashreplace"))
    log.error(
        "component %s: failed after its response: %s", component_id, text, extra={"component": component_id}
    )


class Answer:
    """What a guest gives to its response-outparam, and the body that it writes; `limit` is in bytes."""

    def __init__(self, limit: int, begin: Begin | None = None, method: str = "GET") -> None:
        self.limit = limit
        self.method = method
        self.size = 0
        self.chunks: list[bytes] = []
        self.head: OutgoingResponse | Err | None = None
        self.done = self.over = self._ended = False
        self._begin = begin
        self._send: Callable[[bytes | None], object] | None = None
        self._kept = 0
        self._since = 0.0
        self._deadline: Deadline

    def watch(self, instance: HostContext, request: Request) -> None:
        """Send what there is when the instance waits, and end it when nobody waits for the answer."""
        self._deadline = instance.deadline
        self._deadline.gone = request.gone
        instance.request = request
        instance.before_wait = self._before_wait

    def _before_wait(self) -> None:
        self.pass_on()
        if self.done and not self._ended and self._send is not None:
            self._ended = True
            self._send(None)
            self._deadline.gone = None  # whoever waited for it has it

    def set(self, response: OutgoingResponse | Err) -> None:
        if self.head is not None:
            return  # the handle is gone with the first call; nobody comes here twice
        self.head = response
        if isinstance(response, OutgoingResponse):
            self._since = time.monotonic()
            response.body.connect(self.take, self.finish)
            if not response.taken:
                response.body.end(True)

    def take(self, data: bytes) -> None:
        self.size += len(data)
        if self.size > self.limit:
            raise LimitExceeded(f"response body is longer than {self.limit} bytes", "max_response_body")
        self.chunks.append(data)
        if self._begin is not None:
            self._kept += len(data)
            if self._kept >= CHUNK_BYTES or time.monotonic() - self._since >= CHUNK_SECONDS:
                self.pass_on()

    def finish(self, well: bool) -> None:
        self.done, self.over = well, True

    def complete(self) -> bool:
        """Whether the response is all there: a body that the client never gets need not be."""
        head = self.head
        if not isinstance(head, OutgoingResponse):
            return False
        return self.done or self.method == "HEAD" or head.status in (204, 304)

    def stands(self, error: GuestError, component_id: str) -> bool:
        """Whether the response is all there in spite of `error`, which then is only logged."""
        if not self.complete():
            return False
        if not isinstance(error, GuestExit) or error.code:
            note(error, component_id)
        return True

    def pass_on(self) -> None:
        """Send what there is, if that is possible: the guest is about to wait, or has written a lot.

        A guest that goes on after its response works for nobody, to its deadline.
        """
        begin, head = self._begin, self.head
        if begin is None or not isinstance(head, OutgoingResponse):
            return
        if self._send is None:
            self._send = begin(Response(head.status, _headers(head), (), _trailers(head)))
        if self.chunks:
            self._flush()

    def _flush(self) -> None:
        chunks, self.chunks = self.chunks, []
        self._kept = 0
        self._since = time.monotonic()
        assert self._send is not None
        self._send(chunks[0] if len(chunks) == 1 else b"".join(chunks))

    def response(self) -> Response:
        """The whole response, or STREAMED; GuestError when there is none."""
        head = self.head
        if head is None:
            raise GuestError("guest returned without setting a response")
        if isinstance(head, Err):
            raise GuestError(f"guest answered with the error-code {head.value[0]}")
        if not self.complete():
            raise GuestError("guest did not finish its response body")
        if self._send is not None:
            self.pass_on()
            return STREAMED
        trailers = _trailers(head) if head.body.trailers.pairs else None
        return Response(head.status, _headers(head), tuple(self.chunks), trailers)


def _trailers(head: OutgoingResponse) -> Trailers:
    """What follows the body, once the guest has finished that. It leads to nothing else of the answer."""
    body = head.body
    return lambda: body.trailers


def _headers(head: OutgoingResponse) -> Headers:
    size = 0
    pairs = []
    for name, value in head.fields.pairs:
        size += len(name) + len(value)
        pairs.append((name, value.decode("latin-1")))
    if size > MAX_RESPONSE_HEADERS:
        raise LimitExceeded(f"response headers of {size} bytes", "headers")
    return Headers.trusted(tuple(pairs))
