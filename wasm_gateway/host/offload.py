# Calls that wait for somebody else, on behalf of coroutines: in a thread of a bounded pool,
# so that the other tasks of the instance go on meanwhile.
#
# Rule 1: only where there is something that could go on. A thread costs as much as a short
# call (switching, waking), so that what has nobody beside it is called where it is. That
# is known when the guest has said all that it wants and waits.
# Rule 2: when nobody waits for a call any more (the guest cancels it, the instance ends), its
# deadline is over at once, and what it came to is undone.
# Rule 3: a thing that calls use, as a connection, serves one of them at a time, in the order
# in which they ask. Who ends it while a call is under way in a thread leaves that to the call.

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from .. import forks
from ..component.concurrency import Turn, wait
from ..component.values import End
from .base import HostContext
from .limits import VALUE_OVERHEAD, Share, kept
from .network import Breakable
from .wasi.io import READY, Pollable, wait_any, waker

if TYPE_CHECKING:
    from concurrent.futures import ThreadPoolExecutor

# Threads for all guests of an application together, and those that one instance may have.
MAX_THREADS = 64
MAX_OF_INSTANCE = 16


class Turns(Pollable):
    """Places for calls; ready where one is free.

    They are taken in the instance's own thread and given back in any. `queue` are those that want one.
    """

    def __init__(self, places: int = 1) -> None:
        self.queue: deque[_Ticket] = deque()
        self._lock = threading.Lock()  # guards the other two
        self._free = self._places = places
        self._ended: Callable[[], object] | None = None

    def ready(self) -> bool:
        return self._free > 0

    def take(self) -> None:
        with self._lock:
            self._free -= 1

    def give(self) -> None:
        with self._lock:
            self._free += 1
            ended = self._ended if self._free == self._places else None
        if ended is not None:
            ended()

    def settle(self, ctx: HostContext) -> None:
        """Wait for a free place in the midst of a function that is no coroutine; DeadlineExceeded."""
        if not self._free:
            wait_any(ctx, [self])

    def end(self, end: Callable[[], object]) -> None:
        """Call `end()` when no call is under way any more: now, or at the end of the last one."""
        with self._lock:
            if self._free < self._places:
                self._ended = end
                return
        end()


class _Ticket(Pollable):
    """A place in the queue for `turns`; ready when it is the first, and a turn is free."""

    def __init__(self, turns: Turns) -> None:
        self.turns = turns
        turns.queue.append(self)

    def ready(self) -> bool:
        return self.turns.queue[0] is self and self.turns.ready()

    def take(self) -> None:
        self.turns.queue.popleft()
        self.turns.take()


class _Call(Pollable):
    """A call in a thread; ready when it is over, and then `result` is there."""

    def __init__(
        self,
        deadline: Breakable,
        function: Callable[..., Any],
        arguments: Sequence[Any],
        over: Callable[[], object],
        undo: Callable[[Any], object] | None,
    ) -> None:
        self._deadline = deadline
        self._function = function
        self._arguments = arguments
        self._tell = over
        self._undo = undo
        self._lock = threading.Lock()  # guards the rest
        self._abandoned = False
        self._over = False
        self._error: BaseException | None = None
        self._value: Any = None

    def __call__(self) -> None:
        try:
            self._deadline.remaining()
            self._value = self._function(self._deadline, *self._arguments)
        except BaseException as error:  # a thread has nobody above it
            self._error = error
        with self._lock:
            self._over = True
            abandoned = self._abandoned
        try:
            if abandoned:
                self._take_back()
        finally:
            self._tell()

    def ready(self) -> bool:
        return self._over

    def result(self) -> Any:
        if self._error is not None:
            raise self._error
        return self._value

    def abandon(self) -> None:
        """Nobody waits for it any more."""
        with self._lock:
            self._abandoned = True
            over = self._over
        if over:
            self._take_back()
        else:
            self._deadline.cut()

    def _take_back(self) -> None:
        if self._undo is not None and self._error is None:
            self._undo(self._value)


class Workers:
    """The threads of one application, started when they are needed.

    Requests that go on after `close` are served as before, and no thread is kept for the next call.
    """

    def __init__(self) -> None:
        self._closed = False
        self.after_fork()
        forks.watch(self)

    def after_fork(self) -> None:
        self._lock = threading.Lock()  # guards start and end
        self._threads: ThreadPoolExecutor | None = None

    def close(self) -> None:
        with self._lock:
            threads, self._threads = self._threads, None
            self._closed = True
        if threads is not None:
            threads.shutdown(wait=False)  # what nobody waits for ends soon, and gives back what it has

    async def run(
        self,
        ctx: HostContext,
        function: Callable[..., Any],
        *arguments: Any,
        turns: Turns | None = None,
        undo: Callable[[Any], object] | None = None,
    ) -> Any:
        """What `function(deadline, *arguments)` comes to.

        It may run in another thread, and touches nothing of the instance. It is one of the calls of `turns`.
        `undo(result)` is called, in any thread, where nobody waits for the result any more.
        """
        ticket = None if turns is None else _Ticket(turns)
        try:
            places = await self._admitted(ctx, ticket)
        except BaseException:
            if ticket is not None:
                ticket.turns.queue.remove(ticket)
            raise
        if ticket is not None:
            ticket.take()
        if places is None:
            if ctx.before_wait is not None:
                ctx.before_wait()
            try:
                return function(ctx.deadline, *arguments)
            finally:
                if turns is not None:
                    turns.give()
        places.take()
        wake = waker(ctx).wake

        told = False

        def over() -> None:
            nonlocal told
            if told:  # where no thread could be started another one takes the call all the same
                return
            told = True
            places.give()
            if turns is not None:
                turns.give()
            wake()

        call = _Call(Breakable(ctx.deadline), function, arguments, over, undo)
        try:
            self._submit(call)
        except BaseException:
            call.abandon()
            over()
            raise
        try:
            await wait(call)
        except GeneratorExit:
            call.abandon()
            raise
        return call.result()

    async def _admitted(self, ctx: HostContext, ticket: _Ticket | None) -> Turns | None:
        """Wait until a call may begin: the places of threads, one of which is free, or None for no thread."""
        await wait(Turn())
        if ticket is not None:
            await wait(ticket)
        if not ctx.loop.has_others():
            return None
        places: Turns | None = ctx.state.get(self)
        if places is None:
            places = ctx.state[self] = Turns(MAX_OF_INSTANCE)
        # neither is held while the other one is waited for
        while not (places.ready() and (ticket is None or ticket.ready())):
            await wait(places)
            if ticket is not None:
                await wait(ticket)
        return places

    def _submit(self, call: _Call) -> None:
        from concurrent.futures import ThreadPoolExecutor

        with self._lock:
            threads = self._threads
            if threads is None:
                threads = ThreadPoolExecutor(MAX_THREADS, thread_name_prefix="wasm-call")
                if not self._closed:
                    self._threads = threads
            threads.submit(call)
            if self._closed:
                threads.shutdown(wait=False)


class Elements:
    """Values that are there, as a stream for a guest (component/streams.py, Rule 3).

    `share` is what they take of the instance's, until they are read or wanted no more.
    """

    def __init__(self, values: Sequence[Any], share: Share | None = None) -> None:
        self._values = values
        self._at = 0
        self._share = share

    def read(self, ctx: HostContext, length: int) -> Sequence[Any]:
        at = self._at
        if at >= len(self._values):
            raise End
        self._at = at + length
        return self._values[at : self._at]

    def pollable(self) -> Pollable:
        return READY

    def close(self, ctx: HostContext) -> None:
        self._values = ()
        self._share = None


_SIZED = frozenset((str, bytes))


def share_of(ctx: HostContext, rows: Sequence[Sequence[Any]]) -> Share:
    """That of rows of (case, value) pairs; LimitExceeded."""
    size = sum([len(value) for row in rows for _, value in row if type(value) in _SIZED])
    nested = sum([len(value) for row in rows for _, value in row if type(value) in (list, tuple)])
    count = sum(map(len, rows)) + nested
    return kept(ctx, size + VALUE_OVERHEAD * count)
