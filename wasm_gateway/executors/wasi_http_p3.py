# Guests of wasi:http 0.3: they export handler, whose messages have streams for bodies
# (Spin: http, 8.3).
#
# Rule 1: as in 0.2 the guest runs in the thread that asked for the response, and what it
# writes is sent on when it waits. A slow client holds it up in its write.
# Rule 2: the response counts once its trailers are there. What the guest does after that
# goes on to its deadline, and what goes wrong in it is logged.

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Any

from ..component.streams import Drain, HostStream, SharedStream
from ..component.values import Err, Ok
from ..errors import GuestError
from ..host.base import HostContext, OutboundRules
from ..host.wasi.http import OutgoingResponse
from ..host.wasi.io import Pollable, StreamClosed, StreamFailed, waker
from ..host.wasi_p3.http import Received, incoming
from ..host.wasi_p3.http import Response as GuestResponse
from ..instance import Instance
from ..messages import Begin, Request, Response
from ..router import RouteMatch
from .concurrent import ConcurrentFunction
from .guest import Guest
from .reuse import Reuse
from .wasi_http import CHUNK_BYTES, Answer, RequestInput, request_body


class WasiHttpP3Executor:
    """Calls `handler`, `handle: async func(request: request) -> result<response, error-code>`."""

    dialect = "wasi-http-p3"
    injects_headers = True

    def __init__(self, guest: Guest, handler: ConcurrentFunction) -> None:
        self.guest = guest
        self.handler = handler
        self.streams = guest.options.stream
        self._reuse = Reuse(guest) if guest.options.max_instance_reuse_count > (1, 2) else None

    def close(self) -> None:
        if self._reuse is not None:
            self._reuse.close()

    def reopen(self) -> None:
        if self._reuse is not None:
            self._reuse.reopen()

    def beside(self, outbound: OutboundRules) -> WasiHttpP3Executor:
        return WasiHttpP3Executor(self.guest.beside(outbound), self.handler)

    def execute(self, request: Request, match: RouteMatch, begin: Begin | None = None) -> Response:
        guest = self.guest
        limits = guest.options
        answer = Answer(limits.max_response_body, begin if self.streams else None, request.method)
        body = request_body(request, limits.max_request_body, AwaitedInput)
        given = incoming(
            request.method,
            request.target,
            request.scheme,
            request.authority,
            request.headers,
            Received(body, request.trailers),
        )
        reuse = self._reuse
        with guest.instantiate() if reuse is None else reuse.instance() as instance:
            answer.watch(instance, request)
            loop = instance.loop
            try:
                self.handler.begin(instance, (given,), partial(_resolved, instance, answer))
                if not answer.over:
                    loop.run_until(lambda: answer.over)
                if loop.waiting:
                    loop.run_until(lambda: not loop.waiting)
            except GuestError as error:
                if not answer.stands(error, guest.grants.id):
                    raise
                instance.close()
            body.abandon()
        return answer.response()


def _resolved(instance: Instance, answer: Answer, returned: tuple[Any] | None) -> None:
    """The handler has returned: from now on the guest's writes go to the client."""
    if returned is None:
        raise GuestError("guest cancelled its own task")
    [result] = returned
    if isinstance(result, Err):
        answer.set(result)
        answer.finish(False)
        return
    _Sending(instance, answer, result.value if isinstance(result, Ok) else result)


class _Sending:
    """A response on its way to `answer`."""

    _source: SharedStream | HostStream
    _trailers: Any

    def __init__(self, instance: Instance, answer: Answer, response: GuestResponse) -> None:
        self._loop = instance.loop
        self._head = head = OutgoingResponse(response.fields)
        self._of = response.body
        head.status = response.status
        head.taken = True
        answer.set(head)
        source, self._trailers = response.body.given(instance)
        if isinstance(source, SharedStream | HostStream):
            self._source = source
            self._loop.on_close(self, self._broken_off)
            if isinstance(source, SharedStream):
                Drain(source, self._take, self._body_over)
            else:
                self._loop.spawn(self._pass_on(source))
        else:
            # without a body there is nothing that trailers could follow
            self._trailers.then(lambda result: None)
            if answer.complete():
                head.body.end(True)  # content-length is that of the body which another request would get
                self._of.consumed(Ok())
            else:
                self._end(Ok(None))

    def _take(self, data: Any) -> None:
        try:
            self._head.body.accept(data)
        except StreamFailed as failure:
            self._end(Err(failure.error.http_code))
            self._source.drop()
        except StreamClosed:
            pass  # so the response ended before

    async def _pass_on(self, source: HostStream) -> None:
        """The guest gives away what it was given itself."""
        while data := await source.take(CHUNK_BYTES):
            self._take(data)
        source.drop()
        self._body_over()

    def _body_over(self) -> None:
        self._trailers.then(self._end)

    def _broken_off(self) -> None:
        """The instance is at its end, and the response is not."""
        self._head.body.end(False)

    def _end(self, result: Any) -> None:
        self._loop.settled(self)
        body = self._head.body
        if isinstance(result, Err):
            body.end(False)
            self._of.consumed(result)
            return
        refused = body.finish(result.value)
        self._of.consumed(Ok() if refused is None else refused)


class AwaitedInput(RequestInput):
    """The body of a request: while its guest waits for it, other tasks go on.

    Where a door gives no way to see whether something has come, they wait too.
    """

    def __init__(self, body: Iterable[bytes], limit: int) -> None:
        super().__init__(body, limit)
        self._body = body

    def there(self) -> bool:
        """Whether a read would not wait."""
        return self._over or self._at < len(self._chunk) or self._wait is None or self._wait(0)

    def read(self, ctx: HostContext, length: int) -> bytes:
        if length and not self.there():
            self._body.news = waker(ctx).wake  # type: ignore[attr-defined]
            return b""
        return super().read(ctx, length)

    def pollable(self) -> Pollable:
        return _Arrival(self)

    def abandon(self) -> None:
        """The request is over."""
        self._chunk, self._at, self._over = b"", 0, True


class _Arrival(Pollable):
    def __init__(self, body: AwaitedInput) -> None:
        self._body = body

    def ready(self) -> bool:
        return self._body.there()
