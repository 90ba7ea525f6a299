# Streams and futures: what lies between two ends, one of which may be the host's.
#
# CanonicalABI.md, sections Buffer State, Stream State and Future State, with those names.
#
# Rule 1: elements move when both ends are there, from the writer's memory to the
# reader's; nothing is kept in between. So a slow reader holds its writer up.
# Rule 2: bytes move as bytes. Of a stream<u8> nobody makes a list of numbers.
# Rule 3: what the host gives as a stream is a source, as wasi:io has them: read(ctx, n),
# which gives b"" where nothing is there yet and raises End at the end, pollable(), close(ctx).
# What it gives as a future is a coroutine, a Promise, or the value.

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum, IntEnum
from types import CoroutineType
from typing import Any

from ..errors import Trap
from .concurrency import (
    BLOCKED,
    Condition,
    Event,
    EventCode,
    Hosted,
    Loop,
    Waitable,
    entry,
    remove,
    wait,
)
from .types import (
    F32Type,
    F64Type,
    FutureType,
    S8Type,
    S16Type,
    S32Type,
    S64Type,
    StreamType,
    U8Type,
    U16Type,
    U32Type,
    U64Type,
    ValType,
    same_type,
)
from .values import End

MAX_LENGTH = (1 << 28) - 1  # Buffer.MAX_LENGTH
NUMBERS = (U8Type, U16Type, U32Type, U64Type, S8Type, S16Type, S32Type, S64Type, F32Type, F64Type)

# The most that a Drain takes at once.
DRAIN_ELEMENTS = 1 << 20


class CopyResult(IntEnum):
    COMPLETED = 0
    DROPPED = 1
    CANCELLED = 2


class CopyState(Enum):
    IDLE = 1
    COPYING = 2
    CANCELLING_COPY = 3
    DONE = 4


Reclaim = Callable[[], None]
OnCopy = Callable[[Reclaim], None]
OnCopyDone = Callable[[CopyResult], None]


def _goes_on(reclaim: Reclaim) -> None:
    """An OnCopy of who does not take the buffer back."""


# Buffers.


@dataclass(frozen=True, slots=True)
class Codec:
    """How elements lie in memory: `load(inst, ptr, n)` gives n of them, `store(inst, ptr, values)` puts them.

    `ensure(inst, end)` traps where the memory ends before. `at_once` are so many as the host takes into its
    own memory, where they are larger than in that of a guest.
    """

    size: int
    align: int
    load: Callable[[Any, int, int], Sequence[Any]]
    store: Callable[[Any, int, Sequence[Any]], object]
    ensure: Callable[[Any, int], object]
    at_once: int


class GuestBuffer:
    """`length` elements of the guest at `ptr`, of which `progress` are copied; `codec` is None for units."""

    __slots__ = ("codec", "inst", "length", "progress", "ptr")

    def __init__(self, inst: Any, codec: Codec | None, ptr: int, length: int) -> None:
        if length > MAX_LENGTH:
            raise Trap(f"a buffer of {length} elements is too long")
        if codec is not None and length:
            if ptr & (codec.align - 1):
                raise Trap(f"pointer {ptr:#x} is not aligned to {codec.align}")
            codec.ensure(inst, ptr + length * codec.size)
        self.inst = inst
        self.codec = codec
        self.ptr = ptr
        self.length = length
        self.progress = 0

    def remain(self) -> int:
        return self.length - self.progress

    @property
    def at_once(self) -> int:
        return self.length if self.codec is None else self.codec.at_once

    def read(self, n: int) -> Sequence[Any]:
        values: Sequence[Any]
        if self.codec is None:
            values = range(n)  # of units nothing counts but how many there are
        else:
            values = self.codec.load(self.inst, self.ptr, n)
            self.ptr += n * self.codec.size
        self.progress += n
        return values

    def write(self, values: Sequence[Any]) -> None:
        if self.codec is not None:
            self.codec.store(self.inst, self.ptr, values)
            self.ptr += len(values) * self.codec.size
        self.progress += len(values)


class HostBuffer:
    """What the host takes of a stream or future, up to `length` elements, or gives to one (`values`)."""

    def __init__(self, length: int, values: Sequence[Any] | None = None) -> None:
        self.length = self.at_once = length
        self.values = values
        self.progress = 0

    def remain(self) -> int:
        return self.length - self.progress

    def read(self, n: int) -> Sequence[Any]:
        assert self.values is not None
        self.progress += n
        return self.values[self.progress - n : self.progress]

    def write(self, values: Sequence[Any]) -> None:
        assert self.values is None
        self.values = values
        self.progress += len(values)


class Drain(HostBuffer):
    """The host reads all of a stream: `sink` gets what the guest writes, within the guest's own call.

    `over` is called at the end. This is the buffer of the read, which goes on until then.
    """

    def __init__(
        self, shared: SharedStream, sink: Callable[[Sequence[Any]], object], over: Callable[[], object]
    ) -> None:
        super().__init__(DRAIN_ELEMENTS)
        self.sink = sink
        self._over = over
        self._again = True
        while self._again:  # what is there already
            self._again = False
            shared.read(None, self, self._on_copy, self._on_copy_done)

    def _pass_on(self) -> None:
        values, self.values, self.progress = self.values, None, 0
        if values:
            self.sink(values)

    def _on_copy(self, reclaim: Reclaim) -> None:
        self._pass_on()

    def _on_copy_done(self, result: CopyResult) -> None:
        # COMPLETED only for what was there already: after that the read waits
        if result is CopyResult.COMPLETED:
            self._pass_on()
            self._again = True
        else:
            self._over()


class Receiver(HostBuffer):
    """The host reads a future: `callback` gets the value, within the guest's own call. The buffer of that."""

    def __init__(self, callback: Callable[[Any], object]) -> None:
        super().__init__(1)
        self.callback = callback

    def on_copy_done(self, result: CopyResult) -> None:
        if self.values is not None:
            self.callback(self.values[0])


Buffer = GuestBuffer | HostBuffer


def move(source: Buffer, into: Buffer) -> None:
    """As many elements as there are and fit; fewer to or from the host, which comes again for the others."""
    left = min(source.remain(), into.remain())
    while left:
        n = min(left, source.at_once, into.at_once)
        into.write(source.read(n))
        left -= n
        if isinstance(source, HostBuffer) or isinstance(into, HostBuffer):
            return
        if left:
            source.inst.deadline.remaining()  # the guest, which is stopped when it is over, does not run


# What two ends share.


class Shared:
    """A stream or future of `t`: the pending end's component instance, buffer and callbacks."""

    dropped = False
    part: int | None = None
    buffer: Buffer | None = None
    on_copy: OnCopy | None = None
    on_copy_done: OnCopyDone | None = None

    def __init__(self, t: ValType | None) -> None:
        self.t = t

    def reset_pending(self) -> None:
        self.part = self.buffer = self.on_copy = self.on_copy_done = None

    def set_pending(
        self, part: int | None, buffer: Buffer, on_copy: OnCopy | None, on_copy_done: OnCopyDone
    ) -> None:
        self.part = part
        self.buffer = buffer
        self.on_copy = on_copy
        self.on_copy_done = on_copy_done

    def notify_pending(self, result: CopyResult) -> None:
        on_copy_done = self.on_copy_done
        self.reset_pending()
        assert on_copy_done is not None
        on_copy_done(result)

    def cancel(self) -> None:
        self.notify_pending(CopyResult.CANCELLED)

    def drop(self) -> None:
        if not self.dropped:
            self.dropped = True
            if self.buffer is not None:
                self.notify_pending(CopyResult.DROPPED)

    def check_same(self, part: int | None) -> None:
        if part is not None and part == self.part and not (self.t is None or isinstance(self.t, NUMBERS)):
            raise Trap("cannot read from and write to a stream or future within one component instance yet")


class SharedStream(Shared):
    """SharedStreamImpl; the host is the reading end by `take`, or by a Drain."""

    def read(self, part: int | None, into: Buffer, on_copy: OnCopy, on_copy_done: OnCopyDone) -> None:
        if self.dropped:
            on_copy_done(CopyResult.DROPPED)
        elif self.buffer is None:
            self.set_pending(part, into, on_copy, on_copy_done)
        else:
            self.check_same(part)
            if self.buffer.remain() > 0:
                if into.remain() > 0:
                    move(self.buffer, into)
                    assert self.on_copy is not None
                    self.on_copy(self.reset_pending)
                on_copy_done(CopyResult.COMPLETED)
            else:
                self.notify_pending(CopyResult.COMPLETED)
                self.set_pending(part, into, on_copy, on_copy_done)

    def write(self, part: int | None, source: Buffer, on_copy: OnCopy, on_copy_done: OnCopyDone) -> None:
        if self.dropped:
            on_copy_done(CopyResult.DROPPED)
        elif self.buffer is None:
            self.set_pending(part, source, on_copy, on_copy_done)
        else:
            self.check_same(part)
            if self.buffer.remain() > 0:
                if source.remain() > 0:
                    move(source, self.buffer)
                    assert self.on_copy is not None
                    self.on_copy(self.reset_pending)
                on_copy_done(CopyResult.COMPLETED)
            elif not source.length and not self.buffer.length:
                on_copy_done(CopyResult.COMPLETED)
            else:
                self.notify_pending(CopyResult.COMPLETED)
                self.set_pending(part, source, on_copy, on_copy_done)

    async def take(self, limit: int) -> Sequence[Any]:
        """The host reads: 1 to `limit` elements (bytes of a stream<u8>), none at the end."""
        buffer = HostBuffer(limit)
        over: list[CopyResult] = []

        def on_copy(reclaim: Reclaim) -> None:
            reclaim()
            over.append(CopyResult.COMPLETED)

        while True:
            over.clear()
            self.read(None, buffer, on_copy, over.append)
            try:
                await wait(Condition(lambda: bool(over)))
            except GeneratorExit:
                if self.buffer is buffer:
                    self.reset_pending()
                raise
            if buffer.values is not None or over[0] is not CopyResult.COMPLETED:
                return buffer.values or b""


class SharedFuture(Shared):
    """SharedFutureImpl; the host is the reading end by `value` or `then`."""

    def read(self, part: int | None, into: Buffer, on_copy: OnCopy, on_copy_done: OnCopyDone) -> None:
        if self.buffer is None:
            self.set_pending(part, into, None, on_copy_done)
        else:
            self.check_same(part)
            move(self.buffer, into)
            self.notify_pending(CopyResult.COMPLETED)
            on_copy_done(CopyResult.COMPLETED)

    def write(self, part: int | None, source: Buffer, on_copy: OnCopy, on_copy_done: OnCopyDone) -> None:
        if self.dropped:
            on_copy_done(CopyResult.DROPPED)
        elif self.buffer is None:
            self.set_pending(part, source, None, on_copy_done)
        else:
            self.check_same(part)
            move(source, self.buffer)
            self.notify_pending(CopyResult.COMPLETED)
            on_copy_done(CopyResult.COMPLETED)

    async def value(self) -> Any:
        """What the guest writes. It has to before it drops its end."""
        buffer = HostBuffer(1)
        over: list[CopyResult] = []
        self.read(None, buffer, _goes_on, over.append)
        try:
            await wait(Condition(lambda: bool(over)))
        except GeneratorExit:
            if self.buffer is buffer:
                self.reset_pending()
            raise
        assert buffer.values is not None
        return buffer.values[0]

    def then(self, callback: Callable[[Any], object]) -> None:
        """The host reads: `callback` gets the value once it is there."""
        receiver = Receiver(callback)
        self.read(None, receiver, _goes_on, receiver.on_copy_done)


# What the host gives.


class HostStream:
    """The readable side of a stream whose elements come from `source` (see Rule 3)."""

    def __init__(self, loop: Loop, t: ValType | None, source: Any) -> None:
        self.t = t
        self._loop = loop
        self._role = loop.inst.role
        self._source = source
        self._reading: Hosted | None = None
        self._on_copy_done: OnCopyDone | None = None
        self._over = False
        try:
            loop.on_close(self, self.drop)
        except Trap:
            source.close(loop.inst)
            raise

    def read(self, part: int | None, into: Buffer, on_copy: OnCopy, on_copy_done: OnCopyDone) -> None:
        self._on_copy_done = on_copy_done
        self._reading = self._loop.spawn(self._read(into))

    async def _read(self, into: Buffer) -> None:
        try:
            while not self._over:
                if not into.length:
                    await wait(self._source.pollable())
                    break
                values = self._next(into.remain())
                if values:
                    into.write(values)
                    break
                await wait(self._source.pollable())
        except End:
            self._over = True
        self._done(CopyResult.DROPPED if self._over else CopyResult.COMPLETED)

    def _next(self, limit: int) -> Sequence[Any]:
        """What the source has, on behalf of whoever it was given to first; End."""
        inst = self._loop.inst
        role, inst.role = inst.role, self._role
        try:
            values: Sequence[Any] = self._source.read(inst, limit)
        finally:
            inst.role = role
        return values

    def _done(self, result: CopyResult) -> None:
        done, self._on_copy_done, self._reading = self._on_copy_done, None, None
        if done is not None:
            done(result)

    def reset_pending(self) -> None:
        self._on_copy_done = None

    def cancel(self) -> None:
        reading = self._reading
        if reading is not None:
            reading.close()
        self._done(CopyResult.CANCELLED)

    def drop(self) -> None:
        self._loop.settled(self)
        reading, self._reading = self._reading, None
        if reading is not None:
            reading.close()
        self._over = True
        source, self._source = self._source, None
        if source is not None:
            source.close(self._loop.inst)

    async def take(self, limit: int) -> Sequence[Any]:
        """The host reads what it gave itself (a guest has passed it on)."""
        while not self._over:
            try:
                values = self._next(limit)
            except End:
                break
            if values:
                return values
            await wait(self._source.pollable())
        return b""


class Promise:
    """A value that the host will give: `settle` it, once."""

    __slots__ = ("_arrive", "values")

    def __init__(self) -> None:
        self.values: Sequence[Any] = ()  # one, once it is there
        self._arrive: Callable[[Any], object] | None = None

    def settle(self, value: Any) -> None:
        """The value is there; a second one is not asked for."""
        if self.values:
            return
        self.values = [value]
        arrive, self._arrive = self._arrive, None
        if arrive is not None:
            arrive(value)

    def then(self, arrive: Callable[[Any], object]) -> None:
        """Call `arrive` with the value when it is there."""
        if self.values:
            arrive(self.values[0])
        else:
            self._arrive = arrive

    def forget(self) -> None:
        """Call nobody."""
        self._arrive = None


class HostFuture:
    """The readable side of a future: a coroutine's result, that of a Promise, or a value that is there."""

    _pending: tuple[Buffer, OnCopyDone] | None = None
    _running: Hosted | None = None

    def __init__(self, loop: Loop, t: ValType | None, source: Any) -> None:
        self.t = t
        if type(source) is Promise:
            self._promise = source
            return
        self._promise = Promise()
        if type(source) is CoroutineType:
            self._running = loop.spawn(source, self._promise.settle)
        else:
            self._promise.settle(source)

    def _arrive(self, value: Any) -> None:
        assert self._pending is not None
        (into, done), self._pending = self._pending, None
        into.write(self._promise.values)
        done(CopyResult.COMPLETED)

    def read(self, part: int | None, into: Buffer, on_copy: OnCopy, on_copy_done: OnCopyDone) -> None:
        self._pending = into, on_copy_done
        self._promise.then(self._arrive)

    def reset_pending(self) -> None:
        self._pending = None
        self._promise.forget()

    def cancel(self) -> None:
        assert self._pending is not None
        _, done = self._pending
        self.reset_pending()
        done(CopyResult.CANCELLED)

    def drop(self) -> None:
        if self._running is not None:
            self._running.close()

    async def value(self) -> Any:
        await wait(Condition(lambda: bool(self._promise.values)))
        return self._promise.values[0]

    def then(self, callback: Callable[[Any], object]) -> None:
        """The host reads what it gave itself (a guest has passed it on)."""
        receiver = Receiver(callback)
        self.read(None, receiver, _goes_on, receiver.on_copy_done)


GIVEN: dict[type[ValType], type[HostStream | HostFuture]] = {StreamType: HostStream, FutureType: HostFuture}

# Ends, in a guest's table.


class CopyEnd(Waitable):
    reads: bool
    kind: type[ValType]
    code: EventCode
    state = CopyState.IDLE

    def __init__(self, shared: Any) -> None:
        self.shared = shared

    def copying(self) -> bool:
        state = self.state
        return state is CopyState.COPYING or state is CopyState.CANCELLING_COPY

    def drop(self) -> None:
        if self.copying():
            raise Trap("cannot drop an end of a stream or future that is being read or written")
        self.shared.drop()
        super().drop()

    def forget(self) -> None:
        super().forget()
        self.shared.reset_pending()


class ReadableStreamEnd(CopyEnd):
    kind, code = StreamType, EventCode.STREAM_READ

    def copy(self, part: int, buffer: Buffer, on_copy: OnCopy, on_copy_done: OnCopyDone) -> None:
        self.shared.read(part, buffer, on_copy, on_copy_done)


class WritableStreamEnd(CopyEnd):
    kind, code = StreamType, EventCode.STREAM_WRITE

    def copy(self, part: int, buffer: Buffer, on_copy: OnCopy, on_copy_done: OnCopyDone) -> None:
        self.shared.write(part, buffer, on_copy, on_copy_done)


class ReadableFutureEnd(CopyEnd):
    kind, code = FutureType, EventCode.FUTURE_READ

    def copy(self, part: int, buffer: Buffer, on_copy: OnCopy, on_copy_done: OnCopyDone) -> None:
        self.shared.read(part, buffer, on_copy, on_copy_done)


class WritableFutureEnd(CopyEnd):
    kind, code = FutureType, EventCode.FUTURE_WRITE

    def copy(self, part: int, buffer: Buffer, on_copy: OnCopy, on_copy_done: OnCopyDone) -> None:
        self.shared.write(part, buffer, on_copy, on_copy_done)

    def drop(self) -> None:
        if self.state is not CopyState.DONE:
            raise Trap("cannot drop future write end without first writing a value")
        super().drop()


READABLE: dict[type[ValType], type[CopyEnd]] = {StreamType: ReadableStreamEnd, FutureType: ReadableFutureEnd}


def end_of(state: Any, i: int, kind: type[CopyEnd], t: ValType | None) -> Any:
    """The end at index `i`; Trap unless it is of this kind and of elements `t`."""
    end = entry(state.handles, i, kind)
    if end.shared.t is not t and not same_type(end.shared.t, t):
        raise Trap(f"handle index {i} is of another element type")
    return end


def lift_end(state: Any, i: int, t: Any) -> Any:
    """lift_stream, lift_future: what is behind a readable end, which leaves the guest."""
    end = end_of(state, i, READABLE[type(t)], t.t)
    if end.state is not CopyState.IDLE:
        raise Trap(f"cannot lift the end of a {t} that is being read, or is done")
    if end.wset is not None:
        raise Trap(f"cannot lift the end of a {t} that is in a waitable set")
    remove(state.handles, i)
    return end.shared


def copy(
    loop: Loop,
    state: Any,
    part: int,
    kind: type[CopyEnd],
    t: ValType | None,
    codec: Codec | None,
    async_: bool,
    i: int,
    ptr: int,
    n: int,
) -> int:
    """stream_copy, future_copy: the packed result, or BLOCKED."""
    end = end_of(state, i, kind, t)
    if end.state is not CopyState.IDLE:
        raise Trap("cannot read or write while another copy is under way, or when it is over")
    if end.wset is not None and not async_:
        raise Trap("a synchronous copy of an end that is in a waitable set")
    buffer = GuestBuffer(loop.inst, codec, ptr, n)
    is_future = kind.kind is FutureType

    def event(result: CopyResult, reclaim: Reclaim | None) -> Event:
        if reclaim is not None:
            reclaim()
            if end.state is CopyState.CANCELLING_COPY:
                # wasmtime, and test/async/cancel-stream.wast; definitions.py says COMPLETED
                result = CopyResult.CANCELLED
        over = result is CopyResult.DROPPED or (is_future and result is CopyResult.COMPLETED)
        end.state = CopyState.DONE if over else CopyState.IDLE
        return kind.code, i, result if is_future else result | buffer.progress << 4

    def on_copy(reclaim: Reclaim) -> None:
        end.set_pending_event(lambda: event(CopyResult.COMPLETED, reclaim))

    def on_copy_done(result: CopyResult) -> None:
        end.set_pending_event(lambda: event(result, None))

    end.state = CopyState.COPYING
    end.copy(part, buffer, on_copy, on_copy_done)
    return _payload(loop, end, async_)


def cancel_copy(loop: Loop, state: Any, kind: type[CopyEnd], t: ValType | None, async_: bool, i: int) -> int:
    end = end_of(state, i, kind, t)
    if end.state is not CopyState.COPYING or end.has_sync_waiter:
        raise Trap("no copy is under way that could be cancelled")
    end.state = CopyState.CANCELLING_COPY
    if not end.has_pending_event():
        end.shared.cancel()
    # It never has to wait. definitions.py, and wasmtime since 48, trap all the same where the end is in a
    # waitable set and this is synchronous; but guests of wit-bindgen for Rust before 0.59 do so, to wake one
    # of their own tasks.
    return _payload(loop, end, async_)


def _payload(loop: Loop, end: CopyEnd, async_: bool) -> int:
    if not end.has_pending_event():
        if async_:
            return BLOCKED
        end.wait_for_pending_event(loop)
    return end.get_pending_event()[2]


def drop_end(state: Any, kind: type[CopyEnd], t: ValType | None, i: int) -> None:
    end = end_of(state, i, kind, t)
    end.drop()
    remove(state.handles, i)
