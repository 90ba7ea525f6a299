# wasi:http/client 0.3: requests of guests to other servers, through the machinery of 0.2
# (wasi/outgoing.py), which says where they go and what bounds them.

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ...component.concurrency import Turn, wait
from ...component.streams import HostStream
from ...component.values import Err, Ok
from ..base import HostContext
from ..wasi.http import IncomingResponse, OutgoingBody, OutgoingRequest
from ..wasi.io import InputStream, StreamClosed, StreamFailed
from ..wasi.outgoing import OutgoingHandler
from .http import CLIENT, TEXT, Contents, Received, Request, Response

INTERFACES = {CLIENT: TEXT}

# Bytes that are taken from a guest at once.
CHUNK_BYTES = 64 << 10
TERMINATED = ("connection-terminated", None)


class Client:
    """wasi:http/client; `handler` is that of 0.2."""

    def __init__(self, handler: OutgoingHandler) -> None:
        self._handler = handler

    def functions(self, interface: str) -> dict[str, Callable[..., Any]]:
        return {"send": self.send}

    def close(self) -> None:
        pass

    async def send(self, ctx: HostContext, request: Request) -> Any:
        """The Response, or Err(error-code)."""
        out = OutgoingRequest(request.fields)
        out.method, out.target = request.method, request.target
        out.scheme, out.authority = request.scheme, request.authority
        out.taken = True
        future = self._handler.handle(ctx, out, request.options)
        if isinstance(future, Err):
            request.body.consumed(future)
            request.body.drop()
            return future
        upload = _Upload(request, out.body)
        sending = ctx.loop.spawn(upload.run(ctx))
        try:
            # a short body comes before the answer is asked for, and goes with its length
            await wait(Turn())
            await wait(future)
        except GeneratorExit:
            sending.close()
            future.drop()
            upload.stop()
            raise
        result = future.get(ctx).value
        if isinstance(result, Err):
            sending.close()
            upload.stop()
            return upload.failed(result)
        upload.answered()
        return _response(ctx, result.value)


def _response(ctx: HostContext, incoming: IncomingResponse) -> Response:
    body = incoming.consume(ctx)
    return Response(incoming.fields, Received(body.content, body.trailers), incoming.status)


class _Upload:
    """The body of a request on its way, as fast as it is taken."""

    def __init__(self, request: Request, body: OutgoingBody) -> None:
        self._from = request.body
        self._body = body
        self._result: Any = None  # what the guest is to be told of it
        self._answered = False
        self._reads: tuple[Contents, Any] | None = None  # what it reads, and the trailers behind

    async def run(self, ctx: HostContext) -> None:
        body = self._body
        source, trailers = self._from.given(ctx)
        if isinstance(source, InputStream):
            trailers.then(_nothing)  # there is no body that they could follow
            self._over(_finished(body, Ok(None)))
            return
        self._reads = source, trailers
        try:
            await _write(source, body)
        except (StreamClosed, StreamFailed) as failure:
            self._over(Err(failure.error.http_code if isinstance(failure, StreamFailed) else TERMINATED))
            self.stop()
            body.end(False)
        else:
            self._reads = None
            trailers.then(lambda result: self._over(_finished(body, result)))

    def stop(self) -> None:
        """Nobody reads the rest: a guest that still writes is told, and waits no longer."""
        reads, self._reads = self._reads, None
        if reads is not None:
            source, trailers = reads
            source.drop()
            trailers.then(_nothing)

    def _over(self, result: Any) -> None:
        self._result = result
        if self._answered or isinstance(result, Err):
            self._from.consumed(result)

    def answered(self) -> None:
        """Not before was it transmitted."""
        self._answered = True
        if self._result is not None:
            self._from.consumed(self._result)

    def failed(self, result: Err) -> Err:
        """What to say of a request that failed: of what the guest has done wrong, if that is why."""
        if isinstance(self._result, Err) and self._result.value is not TERMINATED:
            result = self._result
        self._from.consumed(result)
        return result


def _nothing(result: Any) -> None:
    pass


async def _write(source: Contents, body: OutgoingBody) -> None:
    while data := await source.take(CHUNK_BYTES):
        flow = body.flow
        if flow is not None:
            await wait(flow.writable())
        body.accept(bytes(data))
    if isinstance(source, HostStream):
        source.drop()


def _finished(body: OutgoingBody, result: Any) -> Any:
    """End the body; what the guest is told of it."""
    if isinstance(result, Err):
        body.end(False)
        return result
    refused = body.finish(result.value)
    return Ok() if refused is None else refused
