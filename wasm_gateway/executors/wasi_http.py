# Guests of wasi:http 0.2: they export incoming-handler (Spin: http, 8.2).

from __future__ import annotations

from collections.abc import Iterator

from ..component.values import Err
from ..errors import BodyTooLarge, GuestError, GuestExit, LimitExceeded
from ..host.wasi_http import IncomingRequest, OutgoingResponse, ResponseOutparam
from ..host.wasi_io import BytesInput, InputStream, IteratorInput
from ..messages import Headers, Request, Response
from ..router import RouteMatch
from .guest import MAX_RESPONSE_HEADERS, Guest, LiftedFunction


class WasiHttpExecutor:
    """Calls `handler`, `handle: func(request: incoming-request, response-out: response-outparam)`."""

    dialect = "wasi-http"
    injects_headers = True

    def __init__(self, guest: Guest, handler: LiftedFunction) -> None:
        self.guest = guest
        self.handler = handler

    def execute(self, request: Request, match: RouteMatch) -> Response:
        guest = self.guest
        limits = guest.options
        answer = Answer(limits.max_response_body)
        incoming = IncomingRequest(
            request.method,
            request.target,
            request.authority,
            request.headers,
            request_body(request, limits.max_request_body),
        )
        with guest.instantiate() as instance:
            try:
                self.handler(instance, incoming, ResponseOutparam(answer.set))
            except GuestExit as exit_:
                if exit_.code or not answer.done:
                    raise
        return answer.response()


def request_body(request: Request, limit: int) -> InputStream:
    """The body as it comes; BodyTooLarge once it is longer than `limit` bytes."""
    body = request.body
    if isinstance(body, tuple) and len(body) < 2:
        if body and len(body[0]) > limit:
            raise BodyTooLarge(limit)
        return BytesInput(body[0] if body else b"")
    length = request.headers.get("content-length")
    if length is not None and length.isdigit() and int(length) > limit:
        raise BodyTooLarge(limit)

    def bounded() -> Iterator[bytes]:
        size = 0
        for chunk in body:
            size += len(chunk)
            if size > limit:
                raise BodyTooLarge(limit)
            yield chunk

    return IteratorInput(bounded())


class Answer:
    """What a guest gives to its response-outparam, and the body that it writes."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.size = 0
        self.chunks: list[bytes] = []
        self.head: OutgoingResponse | Err | None = None
        self.done = False

    def set(self, response: OutgoingResponse | Err) -> None:
        self.head = response
        if isinstance(response, OutgoingResponse):
            response.body.connect(self.take, self.finish)
            if not response.taken:
                response.body.end(True)

    def take(self, data: bytes) -> None:
        self.size += len(data)
        if self.size > self.limit:
            raise LimitExceeded(f"response body is longer than {self.limit} bytes", "max_response_body")
        self.chunks.append(data)

    def finish(self, well: bool) -> None:
        self.done = well

    def response(self) -> Response:
        """The whole response; GuestError when there is none."""
        head = self.head
        if head is None:
            raise GuestError("guest returned without setting a response")
        if isinstance(head, Err):
            raise GuestError(f"guest answered with the error-code {head.value[0]}")
        if not self.done:
            raise GuestError("guest did not finish its response body")
        size = 0
        pairs = []
        for name, value in head.fields.pairs:
            size += len(name) + len(value)
            pairs.append((name, value.decode("latin-1")))
        if size > MAX_RESPONSE_HEADERS:
            raise LimitExceeded(f"response headers of {size} bytes", "headers")
        return Response(head.status, Headers.trusted(tuple(pairs)), tuple(self.chunks))
