# Requests of granian that one of our threads answers, past the event loop.
#
# granian makes the scope of a request in a thread of its own, and that wakes the event loop. There
# the ASGI door wakes a thread for the guest, which wakes the loop again when it has the answer. Each
# of the three costs as much as a short guest. Here granian's thread wakes ours, which answers.
#
# Rule 1: this is for requests without a body. What else needs the loop (a response that goes out
# before it is whole, a client that may leave) begins there when it turns out to be needed.
# Rule 2: it relies on what granian does not promise: on the function that is replaced, and that
# `send` has taken a whole response when it returns, in whatever thread. With a granian that is not
# of KNOWN all goes through the loop, which costs more and changes nothing.

from __future__ import annotations

import asyncio
import inspect
import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

from .asgi import (
    LOOP_SECONDS,
    Scope,
    Send,
    has_body,
    head,
    raw_path,
    send_answer,
    to_request,
    whole,
)
from .errors import Disconnected, RequestError, Saturated
from .exchange import AsyncAnswer, Exchange, Lookouts, Receive
from .messages import Response, refusal
from .wsgi import Outgoing, outgoing

if TYPE_CHECKING:
    from .asgi import AsgiGateway
    from .gateway import Gateway
    from .messages import Request
    from .router import RouteMatch

log = logging.getLogger("wasm_gateway")

# The versions that somebody has looked at.
KNOWN = ("2.7.", "2.8.")
# Of granian._futures: makes the function that is called with each Call, in a thread of granian's.
SCHEDULE, PARAMETERS = "_cbsched_aioschedule", ["loop", "ctx", "cb"]


class Connection(Protocol):
    receive: Receive
    send: Send


class Call(Protocol):
    """A request as granian hands it over; it is over with `done` or `err`."""

    scope: Scope
    proto: Connection

    def done(self) -> None: ...

    def err(self, error: BaseException) -> None: ...


Take = Callable[[Call], object]


def install(door: AsgiGateway) -> bool:
    """Have this process' granian, which serves `door`, give its requests to `take` first, if that can be."""
    import granian
    from granian import _futures

    usual = getattr(_futures, SCHEDULE, None)
    known = granian.__version__.startswith(KNOWN)
    if not known or usual is None or list(inspect.signature(usual).parameters) != PARAMETERS:
        log.info("this version of granian is not known: each request wakes its event loop")
        return False

    def schedule(loop: asyncio.AbstractEventLoop, ctx: Any, cb: Any) -> Take:
        through_loop: Take = usual(loop, ctx, cb)
        lookouts = Lookouts(loop)

        def received(call: Call) -> None:
            try:  # what is raised here nobody catches
                taken = take(door, call, lookouts)
            except Exception:
                log.exception("a request is left to the event loop")
                taken = False
            if not taken:
                through_loop(call)

        return received

    setattr(_futures, SCHEDULE, schedule)
    return True


def take(door: AsgiGateway, call: Call, lookouts: Lookouts) -> bool:
    """Answer `call`, in a thread of the door's or, where the component is quick, in this one.

    False for one that is the event loop's.
    """
    scope = call.scope
    if scope["type"] != "http" or has_body(scope):
        return False
    path = raw_path(scope)
    match = None if path is None else door.gateway.match(path)
    if path is None or match is None:
        return False
    try:
        request = to_request(scope, path, ())
    except RequestError:
        return False  # it is refused there
    door.gateway.follow()
    exchange = Direct(door.gateway, request, match, call, lookouts)
    if door.gateway.runs_inline(match):
        exchange.run_here()
        return True
    lookouts.add(exchange)
    try:
        exchange.begin(door.workers)
    except Saturated:
        lookouts.discard(exchange)
        return False
    return True


class Direct(Exchange):
    """One request without a body: a thread answers it, or the loop once the response begins to go out."""

    __slots__ = ("_call", "_task")

    def __init__(
        self, gateway: Gateway, request: Request, match: RouteMatch, call: Call, lookouts: Lookouts
    ) -> None:
        super().__init__(gateway, request, match, call.proto.receive, loop=lookouts.loop)
        self._call = call
        self._lookouts = lookouts

    # in the thread

    def run_here(self) -> None:
        """Ask the gateway in this thread, where no other request is taken meanwhile."""
        since = time.monotonic()
        self._work()
        self._tell()
        if time.monotonic() - since > LOOP_SECONDS:
            self._gateway.leave_loop(self._match)

    def _tell(self) -> None:
        self._request.gone = None
        last, self._last = self._last, None
        assert self._lookouts is not None
        self._lookouts.discard(self)
        if last is not None:
            self._answer(*last)
        elif self._outbox is None:
            self._call.done()  # nobody waits

    def _answer(self, answer: AsyncAnswer | Exception | None) -> None:
        method, proto = self._request.method, self._call.proto
        reply: Outgoing | AsyncAnswer
        try:
            if isinstance(answer, RequestError | Saturated):
                log.info("%s %r: %s", method, self._request.path, answer)
                reply = outgoing(refusal(answer), method)
            elif isinstance(answer, Exception):
                raise answer
            else:
                reply = answer or outgoing(Response(404), method)
            status, fields, body = reply
            assert isinstance(body, tuple)
            proto.send(head(status, fields))
            proto.send(whole(body))
        except Exception as error:
            self._call.err(error)  # logs it, and sends a 500

    # on the loop

    def _deliver(self, answer: Any) -> None:
        """The response goes out from here on."""
        self._task = self._loop.create_task(self._stream(answer))

    async def _stream(self, answer: AsyncAnswer) -> None:
        try:
            await send_answer(self._call.proto.send, answer)
        except Disconnected as error:
            log.info("%s %r: %s", self._request.method, self._request.path, error)
        except Exception as error:
            self._call.err(error)
        finally:
            self.close()
            self._call.done()

    def _disconnected(self) -> None:
        self._closed = True
        if self._outbox is not None:
            self._outbox.close()
            self._outbox.fail(Disconnected("client disconnected"))
