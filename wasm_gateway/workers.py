# The threads in which guests run while something else waits: an event loop (asgi.py),
# or the thread of a server that takes a response only as an iterator (`relay`).
#
# Rule: everything between the two sides is bounded: jobs that wait, chunks of a
# response, and the time that either side waits for the other.

from __future__ import annotations

import asyncio
import atexit
import logging
import os
import queue
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from contextvars import copy_context
from functools import partial

from .errors import Disconnected, GuestError, RequestError, Saturated
from .messages import STREAMED, Begin, Response

log = logging.getLogger("wasm_gateway")

# Requests that wait for a thread; the next one is told to come back later.
BACKLOG = 1024

# Seconds after which a thread without work ends.
IDLE_SECONDS = 10.0

# Chunks of a response that wait for the server; then the guest waits.
# - a2wsgi: 10
OUTBOX_CHUNKS = 8

# Seconds that either side waits for the client to send or to take the next bytes.
# - nginx client_body_timeout, send_timeout: 60
# - Django, body_receive_timeout: 60
STALL_SECONDS = 60.0


class Stalled(RequestError):
    """The client went on sending or reading nothing."""

    status = 408


Job = tuple[Callable[[], object], Callable[[], object] | None]


class Workers:
    """At most `size` threads that run jobs, started when there is work and ended after a while without.

    A forked child begins with none. Threads of a process that exits are given `LINGER_SECONDS` to finish.
    """

    LINGER_SECONDS = 5.0

    def __init__(self, size: int, *, backlog: int = BACKLOG, idle: float = IDLE_SECONDS) -> None:
        if size < 1:
            raise ValueError("a pool has at least one thread")
        self.size = size
        self.backlog = backlog
        self.idle = idle
        self._start_over()
        # A thread killed inside a guest, as daemons are at exit, would unwind through foreign frames.
        atexit.register(_linger, weakref.ref(self))

    def _start_over(self) -> None:
        self._pid = os.getpid()
        self._lock = threading.Lock()  # guards all that follows
        self._jobs: dict[str, deque[Job]] = {}  # those that wait, by whose they are
        # one for each of them, and one more for each thread that is to end
        self._calls: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._closed = False
        self._threads: set[threading.Thread] = set()
        self._busy = 0  # jobs that run or wait

    def submit(
        self,
        function: Callable[..., object],
        *arguments: object,
        of: str = "",
        then: Callable[[], object] | None = None,
    ) -> None:
        """Run `function(*arguments)`, which handles its own errors; Saturated when too many wait.

        Where jobs wait, each `of` (a route) has its turn: many of a slow one hold up no other for long.

        `then`, which raises nothing, is called when the thread has nothing left to do: whoever it wakes
        wants the GIL at once, and waiting for each other costs both.
        """
        if self._pid != os.getpid():
            self._start_over()
        with self._lock:
            if self._closed:
                raise Saturated("the pool is closed")
            if self.full:
                raise Saturated(f"{self.backlog} requests wait for a thread")
            if self._busy >= len(self._threads) and len(self._threads) < self.size:
                thread = threading.Thread(target=self._run, name="wasm-guest", daemon=True)
                self._threads.add(thread)
                try:
                    thread.start()
                except RuntimeError as error:
                    self._threads.discard(thread)
                    if not self._threads:
                        raise Saturated(f"no thread can be started: {error}") from error
            self._busy += 1
            self._jobs.setdefault(of, deque()).append((partial(function, *arguments), then))
        self._calls.put(None)

    @property
    def full(self) -> bool:
        """Whether there is no room for one more job, just now."""
        return self._busy >= self.size + self.backlog

    async def call(self, function: Callable[[], object]) -> None:
        """Run `function` in a thread, and wait for it."""
        loop = asyncio.get_running_loop()
        done: asyncio.Future[None] = loop.create_future()

        def job() -> None:
            try:
                function()
            except Exception as error:
                post(loop, _settle, done, error)
            else:
                post(loop, _settle, done, None)

        self.submit(job)
        await done

    def close(self) -> None:
        """Take no more jobs, forget those that wait, and wait for those that run."""
        if self._pid != os.getpid():
            return
        with self._lock:
            self._closed = True
            threads = list(self._threads)
            self._busy -= sum(map(len, self._jobs.values()))
            self._jobs.clear()
        for _ in threads:
            self._calls.put(None)
        for thread in threads:
            if thread is not threading.current_thread():
                thread.join()

    def _next(self) -> Job | None:
        """The next job; None, and this thread is no more one of ours, when there is none for it."""
        with self._lock:
            if not self._jobs:
                self._threads.discard(threading.current_thread())
                return None
            of, jobs = next(iter(self._jobs.items()))
            del self._jobs[of]
            job = jobs.popleft()
            if jobs:
                self._jobs[of] = jobs  # behind all others
            return job

    def _run(self) -> None:
        while True:
            try:
                self._calls.get(timeout=self.idle)
            except queue.Empty:
                with self._lock:
                    if self._jobs:
                        continue
                    self._threads.discard(threading.current_thread())
                    return
            found = self._next()
            if found is None:
                return
            job, then = found
            del found
            try:
                job()
            except BaseException:
                log.exception("a job of the thread pool failed")
            del job
            with self._lock:
                self._busy -= 1
            if then is not None:
                then()
            del then


def _linger(workers: weakref.ref[Workers]) -> None:
    pool = workers()
    if pool is None or pool._pid != os.getpid():
        return
    end = time.monotonic() + pool.LINGER_SECONDS
    while pool._busy and time.monotonic() < end:
        time.sleep(0.01)


def _settle(future: asyncio.Future[None], error: Exception | None) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(None)
    else:
        future.set_exception(error)


def post(loop: asyncio.AbstractEventLoop, callback: Callable[..., object], *arguments: object) -> bool:
    """Have the loop call `callback` soon; False when it has been closed meanwhile."""
    try:
        loop.call_soon_threadsafe(callback, *arguments)
    except RuntimeError:
        return False
    return True


# A response that is read in another thread than the one that makes it


def relay(workers: Workers, handle: Callable[[Begin], Response | None]) -> Response | None:
    """The response that `handle(begin)` makes in a thread: whole, or its body is made while it is read.

    Whoever reads the body closes it. Raises Saturated, and what `handle` raises.
    """
    made = _Relayed()
    workers.submit(copy_context().run, made.make, handle)
    return made.response()


class _Relayed:
    """The body of such a response; `make` runs in the thread, everything else where it is read."""

    def __init__(self) -> None:
        self._items: queue.Queue[Response | bytes | BaseException | None] = queue.Queue(OUTBOX_CHUNKS)
        self._closed = False
        self._begun = False

    # in the thread

    def make(self, handle: Callable[[Begin], Response | None]) -> None:
        last: Response | BaseException | None
        try:
            last = handle(self._begin)
            if self._begun:
                last = None if last is STREAMED else GuestError("the response was cut off")
        except BaseException as error:
            last = error
        try:
            self._put(last)
        except RequestError as error:
            log.debug("nobody waits for the end of a response: %s", error)

    def _begin(self, head: Response) -> Callable[[bytes | None], object]:
        self._begun = True
        self._put(head)
        return self._put

    def _put(self, item: Response | bytes | BaseException | None) -> None:
        try:
            if not self._closed:
                self._items.put(item, timeout=STALL_SECONDS)
        except queue.Full:
            raise Stalled(f"client took nothing for {STALL_SECONDS:g} s") from None
        if self._closed:
            raise Disconnected("client disconnected")

    # where it is read

    def response(self) -> Response | None:
        item = self._items.get()
        if isinstance(item, BaseException):
            raise item
        assert not isinstance(item, bytes)
        if item is not None and self._begun:
            return Response(item.status, item.headers, self, item.trailers)
        return item

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        item = self._items.get()
        if isinstance(item, bytes):
            return item
        self._items.put(item)  # it stays the last one
        if isinstance(item, BaseException):
            raise item
        raise StopIteration

    def close(self) -> None:
        """Nobody reads any more; the guest learns so when it writes."""
        self._closed = True
        try:
            while True:
                self._items.get_nowait()
        except queue.Empty:
            pass
