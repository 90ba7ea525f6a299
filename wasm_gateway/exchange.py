# A request between an event loop and the thread in which its guest runs: the bridge that the ASGI
# door, Django's async mode and granian's threads (direct.py) share.
#
# Rule 1: everything between the two sides is bounded: bytes of a request, chunks of a response, and
# the time that either side waits for the other.
# Rule 2: an instance is used and closed by the thread that made it; the loop never closes a response,
# it cancels the exchange and the thread does the rest.
# Rule 3: short guests pay for one hop to a thread and back; what only long ones need (watching for the
# client to leave) starts when a guest turns out to be long. What the loop and a thread do while both
# are awake costs most: they wait for each other's GIL.

from __future__ import annotations

import asyncio
import logging
import threading
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, MutableMapping
from contextvars import copy_context
from math import inf
from typing import TYPE_CHECKING, Any

from .errors import Disconnected, GuestError
from .messages import STREAMED, Request, Response, Trailers
from .workers import OUTBOX_CHUNKS, STALL_SECONDS, Stalled, Workers, post
from .wsgi import Meter, begun, outgoing

if TYPE_CHECKING:
    from .gateway import Gateway
    from .migration.pilot import Turn
    from .router import RouteMatch

log = logging.getLogger("wasm_gateway")

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]

# Bytes of a request that wait for their guest; more is left to the server's flow control.
# - uvicorn's high-water mark: 64 KiB
INBOX_BYTES = 64 << 10

# Seconds after which a guest is a long one, and a client that leaves is noticed.
WATCH_SECONDS = 0.05


class Inbox:
    """A request body on its way from `receive`, on the event loop, to the thread that iterates it.

    Iterating raises Disconnected when the client leaves, Stalled when it sends nothing for STALL_SECONDS.
    The server is asked for the body when the thread asks, or when `start` is called in order to notice
    that the client leaves: `on_disconnect` is called then, on the loop.
    """

    __slots__ = (
        *("_chunks", "_ended", "_full", "_loop", "_ready", "_receive", "_room", "_size", "_task"),
        *("left", "news", "on_disconnect"),
    )

    def __init__(self, receive: Receive) -> None:
        self.on_disconnect: Callable[[], object] | None = None
        self.news: Callable[[], object] | None = None
        self.left = False
        self._receive = receive
        self._loop = asyncio.get_running_loop()
        self._task: asyncio.Task[None] | None = None
        self._ready = threading.Condition(threading.Lock())  # guards what follows, and `left`
        self._chunks: deque[bytes] = deque()
        self._size = 0
        self._ended = self._full = False
        self._room: asyncio.Event | None = None

    # on the loop

    def start(self) -> None:
        """Begin to read from the server; nothing the second time."""
        if self._task is None and not self.left:
            self._room = asyncio.Event()
            self._task = self._loop.create_task(self._pump(self._room))

    def stop(self) -> None:
        """The request is over, whoever still waits for its body."""
        self.on_disconnect = None
        if self._task is not None:
            self._task.cancel()
        self._leave()

    async def give_back(self) -> Receive:
        """A `receive` for somebody else, who gets the request from its start."""
        if self._task is None:
            return self._receive
        self._task.cancel()
        await asyncio.wait([self._task])
        told_end = False

        async def receive() -> Message:
            nonlocal told_end
            if self._chunks or (self._ended and not told_end):
                body = b"".join(self._chunks)
                self._chunks.clear()
                told_end = self._ended
                return {"type": "http.request", "body": body, "more_body": not told_end}
            if self.left:
                return {"type": "http.disconnect"}
            return await self._receive()

        return receive

    async def whole(self) -> tuple[bytes]:
        """All of the body, for a guest that runs on the loop."""
        chunks = []
        while True:
            message = await self._receive()
            if message["type"] != "http.request":
                raise Disconnected("client disconnected")
            chunks.append(message.get("body", b""))
            if not message.get("more_body", False):
                return (b"".join(chunks),)

    async def _pump(self, room: asyncio.Event) -> None:
        more = True
        while True:
            try:
                message = await self._receive()
            except Exception as error:
                log.debug("the server's receive failed: %r", error)
                break
            if message["type"] != "http.request" or not more:
                break
            chunk = message.get("body", b"")
            more = message.get("more_body", False)
            with self._ready:
                if chunk:
                    self._chunks.append(chunk)
                    self._size += len(chunk)
                self._ended = not more
                self._full = self._size >= INBOX_BYTES
                if self._full:
                    room.clear()
                else:
                    room.set()
                self._ready.notify()
            if self.news is not None:
                self.news()
            await room.wait()
        self._leave()
        if self.on_disconnect is not None:
            self.on_disconnect()

    def _leave(self) -> None:
        with self._ready:
            self.left = True
            self._ready.notify()
        if self.news is not None:
            self.news()

    # in the thread

    def __iter__(self) -> Iterator[bytes]:
        return self

    def wait(self, seconds: float) -> bool:
        """Whether there is something to take, or to find out, within `seconds`."""
        with self._ready:
            if self._task is None and not self.left and not post(self._loop, self.start):
                raise Disconnected("the event loop is closed")
            there = self._ready.wait_for(self._has_news, min(seconds, STALL_SECONDS))
        if not there and seconds > STALL_SECONDS:
            raise Stalled(f"client sent nothing for {STALL_SECONDS:g} s")
        return there

    def _has_news(self) -> bool:
        return bool(self._chunks) or self._ended or self.left

    def __next__(self) -> bytes:
        self.wait(inf)
        with self._ready:
            if not self._chunks:
                if self._ended:
                    raise StopIteration
                raise Disconnected("client disconnected")
            chunk = self._chunks.popleft()
            self._size -= len(chunk)
            if self._full and self._size < INBOX_BYTES:
                self._full = False
                assert self._room is not None
                post(self._loop, self._room.set)
            return chunk


class Lookouts:
    """Has each exchange of a loop look out for its client once it is WATCH_SECONDS old.

    One timer for all of them: with one each, most of them cancelled soon, the loop has hundreds at a time.
    Any thread may add and discard.
    """

    __slots__ = ("_due", "_lock", "_timed", "loop")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._lock = threading.Lock()  # guards what follows
        self._due: dict[Exchange, float] = {}  # soonest first
        self._timed = False

    def add(self, exchange: Exchange) -> None:
        due = self.loop.time() + WATCH_SECONDS
        with self._lock:
            self._due[exchange] = due
            timed, self._timed = self._timed, True
        if not timed:
            post(self.loop, self.loop.call_at, due, self._look)

    def discard(self, exchange: Exchange) -> None:
        with self._lock:
            self._due.pop(exchange, None)

    def _look(self) -> None:
        now = self.loop.time()
        found = []
        with self._lock:
            self._timed = False
            for exchange, due in self._due.items():
                if due > now:
                    self._timed = True
                    self.loop.call_at(due, self._look)
                    break
                found.append(exchange)
            for exchange in found:
                del self._due[exchange]
        for exchange in found:
            exchange.look_out()


class Outbox:
    """A response body on its way from the thread that makes it to the event loop, which iterates it.

    `close`, from any thread, tells the maker to stop.
    """

    __slots__ = ("_items", "_loop", "_room", "_waiter", "closed")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.closed = False
        self._loop = loop
        self._room = threading.Semaphore(OUTBOX_CHUNKS)
        self._items: deque[bytes | BaseException | None] = deque()
        self._waiter: asyncio.Future[None] | None = None

    # in the thread

    def put(self, chunk: bytes) -> None:
        """Hand over a chunk; waits while too many are on their way. Disconnected when nobody wants it."""
        if not self._room.acquire(timeout=STALL_SECONDS):
            raise Stalled(f"client took nothing for {STALL_SECONDS:g} s")
        if self.closed or not post(self._loop, self._arrive, chunk):
            raise Disconnected("client disconnected")

    def end(self, error: BaseException | None) -> None:
        """That was the last chunk, or what kept it from being made."""
        post(self._loop, self._arrive, error)

    # on the loop

    def fail(self, error: BaseException) -> None:
        """Raise `error` once what has arrived is taken."""
        self._arrive(error)

    def _arrive(self, item: bytes | BaseException | None) -> None:
        self._items.append(item)
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        while not self._items:
            self._waiter = self._loop.create_future()
            await self._waiter
        item = self._items.popleft()
        if isinstance(item, bytes):
            self._room.release()
            return item
        self._items.append(item)  # it stays the last one
        if item is None:
            raise StopAsyncIteration
        raise item

    def close(self) -> None:
        self.closed = True
        self._room.release()


# As `outgoing` gives it, but that the body of a response still being made is an Outbox.
AsyncAnswer = tuple[int, list[tuple[str, str]], "tuple[bytes, ...] | Outbox"]


class Exchange:
    """One request in a thread, seen from an event loop. `close` it in any case, `request` is its own.

    With `receive`, and the `inbox` of the body if there is one, a client that leaves ends the exchange. A
    guest notices when it reads, writes or waits; one that only computes runs on, unheard, to its deadline.
    """

    __slots__ = (
        *("_closed", "_gateway", "_head", "_last", "_loop", "_match", "_meter", "_outbox", "_receive"),
        *("_request", "_turn", "_lookouts", "inbox", "trailers"),
    )

    _head: asyncio.Future[AsyncAnswer | None]

    def __init__(
        self,
        gateway: Gateway,
        request: Request,
        match: RouteMatch,
        receive: Receive | None = None,
        inbox: Inbox | None = None,
        turn: Turn | None = None,
        loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        self._gateway = gateway
        self._turn = turn
        self._request = request
        self._match = match
        self._receive = receive
        self.inbox = inbox
        self._loop = loop or asyncio.get_running_loop()
        self._outbox: Outbox | None = None
        self._meter: Meter | None = None
        self._lookouts: Lookouts | None = None
        self._last: tuple[AsyncAnswer | Exception | None] | None = None  # what the loop is to be told
        self._closed = False
        self.trailers: Trailers | None = None  # of the response, once there is its head
        request.gone = self._is_closed

    async def run(self, workers: Workers, lookouts: Lookouts | None = None) -> AsyncAnswer | None:
        """What the gateway answers, None for nothing. Raises Saturated, Disconnected."""
        self._head = self._loop.create_future()
        if self.inbox is not None:
            self.inbox.on_disconnect = self._disconnected
        # Asking for a body answers "Expect: 100-continue", which is the guest's to do.
        if lookouts is not None and (self.inbox is None or "expect" not in self._request.headers):
            self._lookouts = lookouts
            lookouts.add(self)
        try:
            self.begin(workers)
            answer = await self._head
        except BaseException:
            self.close()
            raise
        if answer is None and self._lookouts is not None:
            self._lookouts.discard(self)  # the request is somebody else's now
        return answer

    def begin(self, workers: Workers) -> None:
        """Have the gateway asked in a thread. Raises Saturated."""
        workers.submit(copy_context().run, self._work, of=self._match.route.raw, then=self._tell)

    def look_out(self) -> None:
        """Notice from now on that the client leaves; on the loop."""
        if self.inbox is None:
            assert self._receive is not None
            self.inbox = Inbox(self._receive)
            self.inbox.on_disconnect = self._disconnected
        self.inbox.start()

    def close(self) -> None:
        """Whatever is still going on, nobody waits for it."""
        self._closed = True
        if self._lookouts is not None:
            self._lookouts.discard(self)
        if self.inbox is not None:
            self.inbox.stop()
        if self._outbox is not None:
            self._outbox.close()

    def _is_closed(self) -> bool:
        return self._closed

    def _disconnected(self) -> None:
        self._closed = True
        gone = Disconnected("client disconnected")
        if not self._head.done():
            self._head.set_exception(gone)
        elif self._outbox is not None:
            self._outbox.close()
            self._outbox.fail(gone)

    def _deliver(self, answer: AsyncAnswer | Exception | None) -> None:
        if self._head.done():
            return
        if isinstance(answer, Exception):
            self._head.set_exception(answer)
        else:
            self._head.set_result(answer)

    def _begin(self, head: Response) -> Callable[[bytes | None], object]:
        """messages.Begin, in the thread."""
        status, fields, self._meter = begun(head, self._request.method)
        outbox = self._outbox = Outbox(self._loop)
        self.trailers = head.trailers
        if self._closed or not post(self._loop, self._deliver, (status, fields, outbox)):
            raise Disconnected("client disconnected")
        return self._send

    def _send(self, chunk: bytes | None) -> None:
        meter, outbox = self._meter, self._outbox
        assert outbox is not None
        if chunk is None:
            outbox.end(self._end(STREAMED))
        elif meter is not None and chunk:
            meter.count(chunk)
            outbox.put(chunk)

    def _end(self, response: Response) -> BaseException | None:
        """What to tell the loop about a response that has gone out, all but its end."""
        if response is not STREAMED:
            return GuestError("the response was cut off")
        try:
            if self._meter is not None:
                self._meter.end()
        except GuestError as error:
            return error
        return None

    def _work(self) -> None:
        if self._closed:
            return
        try:
            response = self._gateway.handle(self._request, self._match, self._begin, self._turn)
            if response is None:
                self._last = (None,)
                return
            if self._outbox is not None:
                self._outbox.end(self._end(response))
                return
            status, fields, body = outgoing(response, self._request.method)
            self.trailers = response.trailers
        except Exception as error:
            if self._outbox is not None:
                self._outbox.end(error)
            else:
                self._last = (error,)
            return
        if isinstance(body, tuple):
            self._last = ((status, fields, body),)
            return
        outbox = Outbox(self._loop)
        self._outbox = outbox
        try:
            if not self._closed and post(self._loop, self._deliver, (status, fields, outbox)):
                for chunk in body:
                    outbox.put(chunk)
        except Exception as error:
            outbox.end(error)
        else:
            outbox.end(None)
        finally:
            body.close()

    def _tell(self) -> None:
        """The last thing that the thread does."""
        self._request.gone = None  # it leads back here; nothing is to wait for the garbage collector
        last, self._last = self._last, None
        if last is not None:
            post(self._loop, self._deliver, *last)
