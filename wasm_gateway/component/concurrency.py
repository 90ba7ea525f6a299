# Tasks, subtasks and waitables of one instance, and the loop that drives them.
#
# CanonicalABI.md, sections Tasks, Waitable State and Subtask State, with those names, for
# guests that give control back where they wait (async lift with a callback).
#
# Rule 1: everything happens in the thread of the instance and in a fixed order: what
# waits longest goes first. Other threads only make pollables ready.
# Rule 2: where a guest blocks in the middle of a call (a synchronous lower, waitable-set.wait),
# the loop runs on top of it. What would need a second stack ends in a Trap.
# Rule 3: the host's part of a call is a coroutine. It waits with `await wait(pollable)` and
# is closed when nobody waits for it any more, with the instance at the latest.
#
# What is asked of an instance: parts, handles, wait_any(pollables), which returns when one of
# them is ready, or raises DeadlineExceeded, deadline.remaining(), which only raises it, and
# role: on whose behalf the host acts, which is for a coroutine whoever it was begun for.

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Coroutine, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum, IntEnum
from typing import Any, Protocol

from ..errors import Trap
from .handles import BorrowScope, Entry, HandleTable, enter, leave
from .types import FuncType

# Tasks and coroutines of one instance that wait; each takes some KiB of the host's memory.
MAX_WAITING = 10_000
# Calls of thread.yield inside each other; behind that a task goes on at once.
MAX_YIELDING = 8


class Pollable(Protocol):
    """Something to wait for; `inside`: only this instance's own thread can make it ready."""

    inside: bool

    def ready(self) -> bool: ...


class Condition:
    """Ready when `test()` is true; nothing outside of the instance makes it so."""

    inside = True

    def __init__(self, test: Callable[[], bool]) -> None:
        self.ready = test


class Turn:
    """Ready when everybody else has had a turn."""

    inside = True

    def __init__(self) -> None:
        self._asked = False

    def ready(self) -> bool:
        asked, self._asked = self._asked, True
        return asked


class wait:
    """In a coroutine of the host: until `pollable` is ready."""

    def __init__(self, pollable: Pollable) -> None:
        self._pollable = pollable

    def __await__(self) -> Generator[Pollable, None, None]:
        while not self._pollable.ready():
            yield self._pollable


class CallbackCode(IntEnum):
    EXIT = 0
    YIELD = 1
    WAIT = 2


class EventCode(IntEnum):
    NONE = 0
    SUBTASK = 1
    STREAM_READ = 2
    STREAM_WRITE = 3
    FUTURE_READ = 4
    FUTURE_WRITE = 5
    TASK_CANCELLED = 6


Event = tuple[int, int, int]
NO_EVENT: Event = (EventCode.NONE, 0, 0)
CANCELLED: Event = (EventCode.TASK_CANCELLED, 0, 0)

BLOCKED = 0xFFFF_FFFF


# Waitables.


class Waitable(Entry):
    """What a guest can wait for: its `event` makes the code and the two numbers that it is told."""

    # in the class, as of most there is never more
    event: Callable[[], Event] | None = None
    wset: WaitableSet | None = None
    has_sync_waiter = False

    def set_pending_event(self, event: Callable[[], Event]) -> None:
        self.event = event
        if self.wset is not None:
            self.wset.pending[self] = None

    def has_pending_event(self) -> bool:
        return self.event is not None

    def get_pending_event(self) -> Event:
        event, self.event = self.event, None
        assert event is not None
        if self.wset is not None:
            del self.wset.pending[self]
        return event()

    def wait_for_pending_event(self, loop: Loop) -> None:
        self.has_sync_waiter = True
        loop.block(self.has_pending_event)
        self.has_sync_waiter = False

    def join(self, wset: WaitableSet | None) -> None:
        if self.wset is not None:
            del self.wset.elems[self]
            self.wset.pending.pop(self, None)
        self.wset = wset
        if wset is not None:
            wset.elems[self] = None
            if self.event is not None:
                wset.pending[self] = None

    def drop(self) -> None:
        self.join(None)

    def forget(self) -> None:
        """The instance is at its end: nobody waits any more, and nothing leads back to here."""
        self.event = self.wset = None


class WaitableSet(Entry):
    """`elems` are in it; `pending` are those that have an event, in the order in which they got it."""

    def __init__(self) -> None:
        self.elems: dict[Waitable, None] = {}
        self.pending: OrderedDict[Waitable, None] = OrderedDict()
        self.num_waiting = 0

    def has_pending_event(self) -> bool:
        return bool(self.pending)

    def get_pending_event(self) -> Event:
        """Of the one that has had it longest: none waits for ever behind others."""
        return next(iter(self.pending)).get_pending_event()

    def wait_for_event(self, loop: Loop, cancellable: bool) -> Event:
        self.num_waiting += 1
        cancelled = loop.block(self.has_pending_event, cancellable)
        event = CANCELLED if cancelled else self.get_pending_event()
        self.num_waiting -= 1
        return event

    def poll(self, loop: Loop, cancellable: bool) -> Event:
        if loop.task.deliver_pending_cancel(cancellable):
            return CANCELLED
        return self.get_pending_event() if self.has_pending_event() else NO_EVENT

    def drop(self) -> None:
        if self.elems:
            raise Trap("cannot drop a waitable set that has waitables in it")
        if self.num_waiting:
            raise Trap("cannot drop a waitable set that somebody waits for")


class ErrorContext(Entry):
    def __init__(self, message: str) -> None:
        self.message = message


def entry(table: HandleTable, i: int, kind: type[Any]) -> Any:
    """The `kind` of thing at index `i`; Trap where there is none."""
    found = table.array[i] if 0 < i < len(table.array) else None
    if found is None:
        raise Trap(f"unknown handle index {i}")
    if not isinstance(found, kind):
        raise Trap(f"handle index {i} is not a {kind.__name__}")
    return found


def remove(table: HandleTable, i: int) -> None:
    table.array[i] = None
    table.free.append(i)


# Subtasks.


class Subtask(Waitable):
    """A call that a guest has made, of a function of the host or of another component instance."""

    class State(IntEnum):
        STARTING = 0
        STARTED = 1
        RETURNED = 2
        CANCELLED_BEFORE_STARTED = 3
        CANCELLED_BEFORE_RETURNED = 4

    def __init__(self) -> None:
        self.state = Subtask.State.STARTING
        self.lenders: list[Any] | None = []
        self.cancellation_requested = False
        self.on_cancel: Callable[[], object] | None = None

    def resolved(self) -> bool:
        return self.state >= Subtask.State.RETURNED

    def resolve(self, state: State) -> None:
        self.state = state
        self.on_cancel = None  # which leads back to here

    def deliver_resolve(self) -> None:
        assert self.lenders is not None
        for handle in self.lenders:
            handle.num_lends -= 1
        self.lenders = None

    def resolve_delivered(self) -> bool:
        return self.lenders is None

    def forget(self) -> None:
        super().forget()
        self.on_cancel = None

    def drop(self) -> None:
        if not self.resolve_delivered():
            raise Trap("cannot drop a subtask which has not yet resolved")
        super().drop()


# Tasks.


# LiftOptions, as far as they matter: the string encoding and the memory.
LiftOptions = tuple[str, object]


@dataclass(frozen=True, slots=True)
class Callee:
    """A lifted function of a guest whose component instances are concurrent; `options` are those of its lift.

    `call(inst, scope, args)` calls it with the lifted arguments: for a synchronous lift it gives the lifted
    result, for an asynchronous one the packed code. `callback(inst)` is that of such a lift. `around` are
    the parts that the host enters with it.
    """

    name: str
    type: FuncType
    part: int
    call: Callable[[Any, BorrowScope, Sequence[Any]], Any]
    callback: Callable[[Any], Callable[[int, int, int], int]] | None
    around: tuple[int, ...]
    options: LiftOptions | None = None


class Link(Enum):
    """Who called a task that is on the stack: the loop, or the task below, which waits for it or does not."""

    LOOP = 0
    SYNC = 1
    ASYNC = 2


class Task:
    """A call of `callee`; `on_start` gives its arguments, `on_resolve` takes the result.

    The result is a tuple of one, None when the task was cancelled.
    """

    class State(Enum):
        INITIAL = 1
        STARTED = 2
        PENDING_CANCEL = 3
        CANCEL_DELIVERED = 4
        RESOLVED = 5

    state = State.INITIAL
    wset: WaitableSet | None = None  # what it waits for, None: it only yields

    def __init__(
        self,
        loop: Loop,
        callee: Callee,
        on_start: Callable[[], Sequence[Any]],
        on_resolve: Callable[[tuple[Any] | None], object],
        link: Link,
    ) -> None:
        self.loop = loop
        self.callee = callee
        self.on_start = on_start
        self.on_resolve = on_resolve
        self.link = link
        self.scope = BorrowScope()
        self.storage = [0, 0]
        self.instance = loop.instance(callee.part)

    @property
    def resolved(self) -> bool:
        return self.state is Task.State.RESOLVED

    def enter(self) -> None:
        """Task.enter_implicit_thread, then as far as it goes."""
        if self.callee.type.async_:
            if self.instance.has_backpressure() or self.instance.num_waiting_to_enter:
                self.instance.num_waiting_to_enter += 1
                self.loop.suspend(self)
                return
            self.instance.exclusive = self
        self.run(self._start)

    def run(self, step: Callable[[], object]) -> None:
        stack = self.loop.stack
        stack.append(self)
        step()  # where it raises, the instance is at its end
        stack.pop()

    def _start(self) -> None:
        self.state = Task.State.STARTED
        arguments = self.on_start()
        returned = self.callee.call(self.loop.inst, self.scope, arguments)
        if self.callee.callback is None:
            self.return_((returned,))
            self.exit()
        else:
            self._goes_on(returned)

    def _goes_on(self, packed: int) -> None:
        """What the guest wants next, as its code or callback said."""
        while True:
            code, si = packed & 0xF, packed >> 4
            if code == CallbackCode.EXIT:
                self.exit()
                return
            self.instance.exclusive = None
            if code == CallbackCode.WAIT:
                self.wset = entry(self.instance.handles(), si, WaitableSet)
                self.wset.num_waiting += 1
            elif code == CallbackCode.YIELD:
                self.wset = None
            else:
                raise Trap(f"{self.callee.name}: unsupported callback code {code}")
            if not self.deliver_pending_cancel(True):
                self.loop.suspend(self)
                return
            packed = self._call_back(self._event(True))

    def _event(self, cancelled: bool) -> Event:
        wset, self.wset = self.wset, None
        if wset is not None:
            wset.num_waiting -= 1
        if cancelled:
            return CANCELLED
        return NO_EVENT if wset is None else wset.get_pending_event()

    def _call_back(self, event: Event) -> int:
        self.instance.exclusive = self
        assert self.callee.callback is not None
        return self.callee.callback(self.loop.inst)(*event)

    def ready(self) -> bool:
        """Whether what it waits for is there."""
        if self.state is Task.State.INITIAL:
            return not self.instance.has_backpressure()
        return self.instance.exclusive is None and (self.wset is None or self.wset.has_pending_event())

    def resume(self, cancelled: bool = False) -> None:
        """Go on, from the loop or from where it is cancelled."""
        self.link = Link.LOOP
        if self.state is Task.State.INITIAL:
            self.instance.num_waiting_to_enter -= 1
            self.instance.exclusive = self
            self.run(self._start)
        else:
            self.run(lambda: self._goes_on(self._call_back(self._event(cancelled))))

    def exit(self) -> None:
        if self.state is not Task.State.RESOLVED:
            raise Trap(f"{self.callee.name}: the task ends without having returned")
        if self.callee.type.async_:
            self.instance.exclusive = None

    def return_(self, result: tuple[Any]) -> None:
        if self.state is Task.State.RESOLVED:
            raise Trap("task.return or task.cancel of a task that has returned")
        self.scope.leave()
        self.on_resolve(result)
        self.state = Task.State.RESOLVED

    def cancel(self) -> None:
        """canon task.cancel."""
        if self.state is not Task.State.CANCEL_DELIVERED:
            raise Trap("task.cancel of a task whose cancellation was not requested, or that has returned")
        self.scope.leave()
        self.on_resolve(None)
        self.state = Task.State.RESOLVED

    def request_cancellation(self, enters: Sequence[int]) -> None:
        """Tell the task that nobody waits for it; `enters` are the parts that its caller would enter."""
        waits = self in self.loop.waiting
        if self.state is Task.State.INITIAL:
            del self.loop.waiting[self]
            self.instance.num_waiting_to_enter -= 1
            self.state = Task.State.CANCEL_DELIVERED
            self.cancel()
        elif waits and self.instance.exclusive is None and self.loop.may_enter(enters):
            del self.loop.waiting[self]
            self.state = Task.State.CANCEL_DELIVERED
            states = enter(self.loop.inst, enters)
            self.resume(cancelled=True)
            leave(states)
        else:
            self.state = Task.State.PENDING_CANCEL

    def deliver_pending_cancel(self, cancellable: bool) -> bool:
        if cancellable and self.state is Task.State.PENDING_CANCEL:
            self.state = Task.State.CANCEL_DELIVERED
            return True
        return False


class ConcurrentInstance:
    """What a component instance needs besides handles and flags (CanonicalABI.md, Component Instances)."""

    def __init__(self, inst: Any, part: int) -> None:
        self._inst = inst
        self._part = part
        self.backpressure = 0
        self.num_waiting_to_enter = 0
        self.exclusive: Task | None = None

    def handles(self) -> HandleTable:
        state = self._inst.parts[self._part] if self._part else self._inst
        table: HandleTable = state.handles
        return table

    def has_backpressure(self) -> bool:
        return self.backpressure > 0 or self.exclusive is not None


class Hosted:
    """A coroutine of the host that waits for `pollable`; `on_done` gets what it returned."""

    def __init__(
        self, loop: Loop, coroutine: Coroutine[Any, None, Any], on_done: Callable[[Any], object] | None
    ) -> None:
        self._loop = loop
        self._role = loop.inst.role
        self._coroutine = coroutine
        self._on_done = on_done
        self.pollable: Pollable | None = None
        self.over = False

    def step(self) -> None:
        """As far as it goes without waiting."""
        inst = self._loop.inst
        role, inst.role = inst.role, self._role
        try:
            self.pollable = self._coroutine.send(None)
        except StopIteration as done:
            self.over = True
            if self._on_done is not None:
                self._on_done(done.value)
        else:
            self._loop.hosted[self] = None
        inst.role = role  # where it raised something else, the instance is at its end

    def close(self) -> None:
        """Nobody waits for it any more."""
        if not self.over:
            self.over = True
            self._loop.hosted.pop(self, None)
            inst = self._loop.inst
            role, inst.role = inst.role, self._role
            try:
                self._coroutine.close()
            finally:
                inst.role = role


class Loop:
    """Everything of one instance that waits; closed with it."""

    def __init__(self, inst: Any) -> None:
        self.inst = inst
        self.stack: list[Task] = []  # those whose code is on the native stack
        # what waits, longest first; as keys, since each may go at any time
        self.waiting: dict[Task, None] = {}
        self.hosted: dict[Hosted, None] = {}
        # What context.get and context.set are about where no task of the guest's runs: of the allocator that
        # is being called, and of the start functions of each part.
        self.allocating: list[int] | None = None
        self._starting: dict[int, list[int]] = {}
        self._yielding = 0
        self._instances: dict[int, ConcurrentInstance] = {}
        self._closers: dict[int, Callable[[], object]] = {}

    def instance(self, part: int) -> ConcurrentInstance:
        found = self._instances.get(part)
        if found is None:
            found = self._instances[part] = ConcurrentInstance(self.inst, part)
        return found

    @property
    def task(self) -> Task:
        """The task whose code runs."""
        if not self.stack:
            raise Trap("a built-in of tasks is called where no task runs")
        return self.stack[-1]

    def storage(self, part: int) -> list[int]:
        """What context.get and context.set of `part` are about: Thread.storage.

        A call of an allocator has a thread of its own (LiftLowerContext.reallocate).
        """
        if self.allocating is not None:
            return self.allocating
        if self.stack:
            return self.stack[-1].storage
        return self._starting.setdefault(part, [0, 0])

    # Calls

    def call(
        self,
        callee: Callee,
        on_start: Callable[[], Sequence[Any]],
        on_resolve: Callable[[tuple[Any] | None], object],
        enters: Sequence[int],
        link: Link = Link.LOOP,
    ) -> Task:
        """Begin a call of a guest's function, and run it as far as it goes."""
        task = Task(self, callee, on_start, on_resolve, link)
        states = enter(self.inst, enters)
        task.enter()
        leave(states)
        return task

    def spawn(
        self, coroutine: Coroutine[Any, None, Any], on_done: Callable[[Any], object] | None = None
    ) -> Hosted:
        """Run a coroutine of the host beside the guest's tasks."""
        try:
            self._bounded()
        except Trap:
            coroutine.close()
            raise
        hosted = Hosted(self, coroutine, on_done)
        hosted.step()
        return hosted

    def result_of(self, coroutine: Coroutine[Any, None, Any]) -> Any:
        """What a coroutine of the host comes to; the guest's task blocks."""
        results: list[Any] = []
        hosted = self.spawn(coroutine, results.append)
        if not hosted.over:
            self.block(lambda: hosted.over)
        return results[0]

    # Component instances that are being run

    def _states(self) -> list[Any]:
        """The state of each."""
        return [self.inst, *self.inst.parts[1:]]

    def may_enter(self, parts: Sequence[int]) -> bool:
        return not any((self.inst.parts[part] if part else self.inst).entered for part in parts)

    # Waiting

    def suspend(self, task: Task) -> None:
        self._bounded()
        self.waiting[task] = None

    def _bounded(self) -> None:
        if len(self.waiting) + len(self.hosted) >= MAX_WAITING:
            raise Trap(f"more than {MAX_WAITING} tasks wait")

    def run_until(self, done: Callable[[], bool]) -> None:
        """Let everything go on until `done()`; Trap when nothing can any more, DeadlineExceeded."""
        while not done():
            self.inst.deadline.remaining()  # a coroutine that always finds something to do asks nobody
            if not self.step():
                outside = [
                    h.pollable for h in self.hosted if h.pollable is not None and not h.pollable.inside
                ]
                if not outside:
                    raise Trap("deadlock detected: event loop cannot make further progress")
                self.inst.wait_any(outside)

    def step(self) -> bool:
        """Let one go on that can, of those that wait the one that has waited longest; False: none can."""
        for hosted in self.hosted:
            assert hosted.pollable is not None
            if hosted.pollable.ready():
                del self.hosted[hosted]
                hosted.step()
                return True
        for task in self.waiting:
            if task.ready():
                del self.waiting[task]
                states = enter(self.inst, task.callee.around)
                task.resume()
                leave(states)
                return True
        return False

    def has_others(self) -> bool:
        """Whether something could go on, or may soon, beside the coroutine that runs now."""
        return any(task.ready() for task in self.waiting) or any(
            hosted.pollable is not None and not (hosted.pollable.inside and not hosted.pollable.ready())
            for hosted in self.hosted
        )

    @property
    def idle(self) -> bool:
        """Whether nothing waits any more."""
        return not self.waiting and not self.hosted

    def block(self, done: Callable[[], bool], cancellable: bool = False) -> bool:
        """The current task waits in the middle of its code; True when it was cancelled meanwhile."""
        task = self.task
        if task.deliver_pending_cancel(cancellable):
            return True
        if done():
            return False
        self._check_block()
        with self._aside():
            self.run_until(lambda: done() or (cancellable and task.state is Task.State.PENDING_CANCEL))
        return False if done() else task.deliver_pending_cancel(cancellable)

    def let_go(self) -> None:
        """canon thread.yield: let one of the others go on, where that is possible."""
        if self._yielding < MAX_YIELDING and all(
            task.callee.type.async_ and task.link is not Link.ASYNC for task in self.stack
        ):
            self._yielding += 1
            with self._aside():
                self.step()
            self._yielding -= 1

    @contextmanager
    def _aside(self) -> Iterator[None]:
        """To the others it is meanwhile as if what is on the stack were not there."""
        states = self._states()
        entered = [state.entered for state in states]
        stack, self.stack = self.stack, []
        role = self.inst.role
        for state in states:
            state.entered = False
        yield
        self.inst.role = role
        for state, before in zip(states, entered, strict=True):
            state.entered = before
        self.stack = stack

    def _check_block(self) -> None:
        for task in reversed(self.stack):
            if not task.callee.type.async_:
                raise Trap("cannot block a synchronous task before returning")
            if task.link is Link.ASYNC:
                raise Trap(
                    f"{task.callee.name} blocks while its caller goes on, which needs a second stack: "
                    "this host runs asynchronous functions that are lifted with a callback"
                )
            if task.link is Link.LOOP:
                return

    # The end

    def on_close(self, key: object, close: Callable[[], object]) -> None:
        """Call `close` when the instance ends, unless `settled(key)` before."""
        if len(self._closers) >= MAX_WAITING:
            raise Trap(f"more than {MAX_WAITING} streams of the host are open")
        self._closers[id(key)] = close

    def settled(self, key: object) -> None:
        self._closers.pop(id(key), None)

    def close(self) -> None:
        """Break off what is under way, the newest first; the first error is raised when all is done.

        What ends may have something for the guest, which does not run any more and is not given it.
        """
        self.waiting.clear()
        self.stack.clear()
        for instance in self._instances.values():
            instance.exclusive = None
        for state in self._states():
            for entry in state.handles.array:
                if isinstance(entry, Waitable):
                    entry.forget()
        raised: list[Exception] = []
        while self.hosted or self._closers:
            close = next(reversed(self.hosted)).close if self.hosted else self._closers.popitem()[1]
            try:
                close()
            except Exception as error:
                raised.append(error)
        if raised:
            raise raised[0]
