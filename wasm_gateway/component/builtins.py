# The canonical built-ins of concurrency, as functions (inst, *core values) -> core value.
#
# CanonicalABI.md, from `canon context.get` on, with those names. What their signature
# says is known when a guest is loaded, and bound here once; `raw_import` makes the
# callback around them.

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from typing import Any

from ..errors import Trap
from .canon import check_values, element_codec, lift_string, lower_string
from .concurrency import (
    BLOCKED,
    Callee,
    ConcurrentInstance,
    ErrorContext,
    LiftOptions,
    Subtask,
    Task,
    Waitable,
    WaitableSet,
    entry,
    remove,
)
from .layout import alignment, elem_size
from .lift import lift_cost
from .plan import Builtin
from .streams import (
    Codec,
    CopyEnd,
    ReadableFutureEnd,
    ReadableStreamEnd,
    SharedFuture,
    SharedStream,
    WritableFutureEnd,
    WritableStreamEnd,
    cancel_copy,
    copy,
    drop_end,
)
from .types import FutureType, StreamType, U8Type, ValType, element_of, same_type

# What the elements may take that are on their way from one guest to another, in bytes of the host.
COPY_LIMIT = 4 << 20
# Of the debug message of an error context, in characters: a guest may hold as many of these as handles, and
# what is kept of a message is the host's to say (CanonicalABI.md, canon error-context.new).
MAX_MESSAGE = 1000

ENDS: dict[str, type[CopyEnd]] = {
    "stream.read": ReadableStreamEnd,
    "stream.write": WritableStreamEnd,
    "future.read": ReadableFutureEnd,
    "future.write": WritableFutureEnd,
    "stream.cancel-read": ReadableStreamEnd,
    "stream.cancel-write": WritableStreamEnd,
    "future.cancel-read": ReadableFutureEnd,
    "future.cancel-write": WritableFutureEnd,
    "stream.drop-readable": ReadableStreamEnd,
    "stream.drop-writable": WritableStreamEnd,
    "future.drop-readable": ReadableFutureEnd,
    "future.drop-writable": WritableFutureEnd,
}


def builtin(definition: Builtin) -> Callable[..., int | None]:
    """The function behind `definition`, which is any but task.return."""
    name, part, flag = definition.name, definition.part, definition.flag
    if name in ENDS:
        return _copying(definition)
    if name in ("stream.new", "future.new"):
        return partial(_new, part, definition.type)
    match name:
        case "context.get":
            return lambda inst: inst.loop.storage(part)[definition.number]
        case "context.set":
            return partial(_context_set, part, definition.number)
        case "waitable-set.wait" | "waitable-set.poll":
            return partial(_wait, part, flag, definition.options.slot, name == "waitable-set.wait")
        case "subtask.cancel":
            return partial(_subtask_cancel, part, flag)
        case "thread.yield":
            return partial(_yield, part, flag)
        case "error-context.new" | "error-context.debug-message":
            return _error_context(definition)
    function = SIMPLE[name]
    if name.startswith("backpressure"):  # these leave nothing
        return lambda inst, *core: function(inst.loop.instance(part), *core)
    return lambda inst, *core: function(inst, _leaving(inst, part), *core)


def _leaving(inst: Any, part: int) -> Any:
    """The state of the component instance `part`, which calls out."""
    state = inst.parts[part] if part else inst
    if not state.may_leave:
        raise Trap("the component instance cannot be left now")
    return state


# Tasks.


def _context_set(part: int, slot: int, inst: Any, value: int) -> None:
    inst.loop.storage(part)[slot] = value


def _task_cancel(inst: Any, state: Any) -> None:
    task: Task = inst.loop.task
    if task.callee.callback is None:
        raise Trap("task.cancel in a task that is lifted synchronously")
    task.cancel()


def task_return(definition: Builtin, options: LiftOptions | None) -> Callable[..., None]:
    """canon task.return with these options: (inst, result), where it has one.

    `options` are None where they do not matter for such a result.
    """
    fits: Callee | None = None  # the one that was last seen to have this type and these options

    def returns(inst: Any, result: Any = None) -> None:
        nonlocal fits
        task: Task = inst.loop.task
        if task.callee is not fits:
            check(task.callee)
            fits = task.callee
        task.return_((result,))

    def check(callee: Callee) -> None:
        if callee.callback is None:
            raise Trap("task.return in a task that is lifted synchronously")
        if not same_type(callee.type.result, definition.type):
            raise Trap(f"task.return of another type than {callee.name} has")
        if options is not None and options != callee.options:
            raise Trap(f"task.return with another string encoding or memory than {callee.name} has")

    return returns


def _yield(part: int, cancellable: bool, inst: Any) -> int:
    _leaving(inst, part)
    loop = inst.loop
    if loop.task.deliver_pending_cancel(cancellable):
        return 1
    loop.let_go()
    return int(loop.task.deliver_pending_cancel(cancellable))


def _backpressure(change: int) -> Callable[[ConcurrentInstance], None]:
    def function(instance: ConcurrentInstance) -> None:
        instance.backpressure += change
        if not 0 <= instance.backpressure < 1 << 16:
            raise Trap("backpressure counter overflow or underflow")

    return function


def _backpressure_set(instance: ConcurrentInstance, on: int) -> None:
    instance.backpressure = int(on != 0)


# Waitable sets.


def _waitable_set_new(inst: Any, state: Any) -> int:
    index: int = state.handles.add(WaitableSet())
    return index


def _wait(part: int, cancellable: bool, slot: int, waits: bool, inst: Any, si: int, ptr: int) -> int:
    wset = entry(_leaving(inst, part).handles, si, WaitableSet)
    get = wset.wait_for_event if waits else wset.poll
    code, p1, p2 = get(inst.loop, cancellable)
    memory = inst.memories[slot]
    if ptr & 3:
        raise Trap(f"pointer {ptr:#x} is not aligned to 4")
    memory.ensure(ptr + 8)
    memory.store_u32(ptr, p1)
    memory.store_u32(ptr + 4, p2)
    return int(code)


def _waitable_set_drop(inst: Any, state: Any, si: int) -> None:
    wset = entry(state.handles, si, WaitableSet)
    wset.drop()
    remove(state.handles, si)


def _waitable_join(inst: Any, state: Any, wi: int, si: int) -> None:
    waitable = entry(state.handles, wi, Waitable)
    if waitable.has_sync_waiter:
        raise Trap("waitable.join of something that a task waits for")
    waitable.join(entry(state.handles, si, WaitableSet) if si else None)


# Subtasks.


def _subtask_cancel(part: int, async_: bool, inst: Any, i: int) -> int:
    subtask = entry(_leaving(inst, part).handles, i, Subtask)
    if subtask.resolve_delivered():
        raise Trap("subtask.cancel of a subtask that has resolved already")
    if subtask.cancellation_requested:
        raise Trap("subtask.cancel of a subtask that is being cancelled")
    if subtask.wset is not None and not async_:
        raise Trap("a synchronous subtask.cancel of a subtask in a waitable set")
    if not subtask.resolved():
        subtask.cancellation_requested = True
        subtask.on_cancel()
        if not subtask.resolved():
            if async_:
                return BLOCKED
            subtask.wait_for_pending_event(inst.loop)
    subtask.get_pending_event()
    return int(subtask.state)


def _subtask_drop(inst: Any, state: Any, i: int) -> None:
    subtask = entry(state.handles, i, Subtask)
    subtask.drop()
    remove(state.handles, i)


# Streams and futures.


def _new(part: int, t: Any, inst: Any) -> int:
    handles = _leaving(inst, part).handles
    if isinstance(t, StreamType):
        stream = SharedStream(element_of(t))
        readable, writable = handles.add(ReadableStreamEnd(stream)), handles.add(WritableStreamEnd(stream))
    else:
        future = SharedFuture(element_of(t))
        readable, writable = handles.add(ReadableFutureEnd(future)), handles.add(WritableFutureEnd(future))
    packed: int = readable | writable << 32
    return packed


def _copying(definition: Builtin) -> Callable[..., int | None]:
    name, part, flag = definition.name, definition.part, definition.flag
    kind = ENDS[name]
    assert isinstance(definition.type, StreamType | FutureType)
    t = definition.type.t
    verb = name.partition(".")[2]
    if verb.startswith("drop"):
        return lambda inst, i: drop_end(_leaving(inst, part), kind, t, i)
    if verb.startswith("cancel"):
        return lambda inst, i: cancel_copy(inst.loop, _leaving(inst, part), kind, t, flag, i)
    if t is not None:
        check_values(name, [t])
    codec = cache(lambda: None if t is None else codec_of(definition, t))

    def function(inst: Any, i: int, ptr: int, n: int = 1) -> int:
        return copy(inst.loop, _leaving(inst, part), part, kind, t, codec(), flag, i, ptr, n)

    return function


def codec_of(definition: Builtin, t: ValType) -> Codec:
    """That of a stream or future of `t`, in the memory that a built-in names."""
    slot = definition.options.slot
    load, store = element_codec(definition.name, t, slot, definition.options.encoding, definition.part)

    def ensure(inst: Any, end: int) -> None:
        memory = inst.memories[slot]
        if end > memory.size:
            memory.ensure(end)

    at_once = max(1, COPY_LIMIT // (1 if t == U8Type() else lift_cost(t)))
    return Codec(elem_size(t), alignment(t), load, store, ensure, at_once)


# Error contexts.


def _error_context(definition: Builtin) -> Callable[..., int | None]:
    part, options = definition.part, definition.options
    if definition.name == "error-context.new":
        read = lift_string(definition.name, options.slot, options.encoding, part)

        def new(inst: Any, ptr: int, units: int) -> int:
            index: int = _leaving(inst, part).handles.add(ErrorContext(read(inst, ptr, units)[:MAX_MESSAGE]))
            return index

        return new
    write = lower_string(definition.name, options.slot, options.encoding, part)

    def debug_message(inst: Any, i: int, ptr: int) -> None:
        write(inst, ptr, entry(_leaving(inst, part).handles, i, ErrorContext).message)

    return debug_message


def _error_context_drop(inst: Any, state: Any, i: int) -> None:
    entry(state.handles, i, ErrorContext)
    remove(state.handles, i)


SIMPLE: dict[str, Callable[..., int | None]] = {
    "task.cancel": _task_cancel,
    "backpressure.inc": _backpressure(1),
    "backpressure.dec": _backpressure(-1),
    "backpressure.set": _backpressure_set,
    "waitable-set.new": _waitable_set_new,
    "waitable-set.drop": _waitable_set_drop,
    "waitable.join": _waitable_join,
    "subtask.drop": _subtask_drop,
    "error-context.drop": _error_context_drop,
}
