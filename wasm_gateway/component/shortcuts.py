# The built-ins of concurrency that a guest calls at each request, as generated callbacks.
#
# Rule 1: what these are is said in builtins.py. Here is the short way through them, in
# line: for a handle that is as it should be, and a copy that is over at once. Of all
# that is out of the ordinary, and of every Trap, they leave the decision to builtins.py.
# Rule 2: a short way changes nothing before it has seen that it can go on to its end.

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .builtins import ENDS, builtin, codec_of
from .canon import NATIVE, SIGNATURE_LETTER, VAL_RAW, Callback, raw_import
from .concurrency import Waitable, WaitableSet
from .emit import Writer, callback, lazy, letters, targets
from .plan import Builtin
from .streams import (
    DRAIN_ELEMENTS,
    CopyState,
    Drain,
    ReadableFutureEnd,
    ReadableStreamEnd,
    Receiver,
    SharedFuture,
    SharedStream,
    WritableFutureEnd,
    WritableStreamEnd,
)
from .types import FutureType, StreamType, U8Type, ValType, element_of

SUPPORT: dict[str, Any] = {
    "DONE": CopyState.DONE,
    "Drain": Drain,
    "IDLE": CopyState.IDLE,
    "NATIVE": NATIVE,
    "Receiver": Receiver,
    "Waitable": Waitable,
    "WaitableSet": WaitableSet,
}

# Writes the short way of a built-in, whose core values are `inst` and a0, a1 ...
Short = Callable[[Writer, Builtin], None]


def builtin_import(definition: Builtin, params: str, results: str, current: Any) -> Callback:
    """The callback of the built-in `definition`, which is any but task.return (canon.raw_import)."""
    whole = builtin(definition)
    short = SHORT.get(definition.name)
    if short is None:
        return raw_import(definition.name, params, results, whole, current)
    return lazy(definition.name, current, lambda: _write(definition, short, whole, params, results))


def _write(
    definition: Builtin, short: Short, whole: Callable[..., Any], params: str, results: str
) -> tuple[str, dict[str, Any]]:
    out = Writer(definition.part)
    args = [f"a{i}" for i in range(len(params))]
    with callback(out):
        out.emit("inst = current.instance")
        if args:
            core = letters([(i * VAL_RAW, SIGNATURE_LETTER[x]) for i, x in enumerate(params)], 0)
            out.emit(f"{targets(args)} = {out.struct('unpack_from', core)}(NATIVE, raw)")
        short(out, definition)
        _return(out, results, f"WHOLE({', '.join(['inst', *args])})")
    return out.text(), {**SUPPORT, **out.constants, "WHOLE": whole}


def _return(out: Writer, results: str, value: str) -> None:
    if results:
        out.emit(f"{out.struct('pack_into', SIGNATURE_LETTER[results])}(NATIVE, raw, {value})")
    else:
        out.emit(value)


def _find(out: Writer, name: str, index: str) -> None:
    """`name` is what is at the index, None where there is nothing."""
    out.emit(f"{name} = array[{index}] if {index} < len(array) else None")


# Context, waitable sets.


def _context_get(out: Writer, definition: Builtin) -> None:
    out.emit("loop = inst.loop")
    with out.block("if loop.stack and loop.allocating is None:"):
        _return(out, "i", f"loop.stack[-1].storage[{definition.number}]")
        out.emit("return")


def _context_set(out: Writer, definition: Builtin) -> None:
    out.emit("loop = inst.loop")
    with out.block("if loop.stack and loop.allocating is None:"):
        out.emit(f"loop.stack[-1].storage[{definition.number}] = a0")
        out.emit("return")


def _set_new(out: Writer, definition: Builtin) -> None:
    with out.block(f"if {out.state}.may_leave:"):
        _return(out, "i", f"{out.state}.handles.add(WaitableSet())")
        out.emit("return")


def _set_drop(out: Writer, definition: Builtin) -> None:
    out.emit(f"handles = {out.state}.handles; array = handles.array")
    _find(out, "wset", "a0")
    good = "type(wset) is WaitableSet and not wset.elems and not wset.num_waiting"
    with out.block(f"if {out.state}.may_leave and {good}:"):
        out.emit("array[a0] = None; handles.free.append(a0)")
        out.emit("return")


def _waitable_join(out: Writer, definition: Builtin) -> None:
    out.emit(f"array = {out.state}.handles.array")
    _find(out, "waitable", "a0")
    _find(out, "wset", "a1")
    good = "isinstance(waitable, Waitable) and (type(wset) is WaitableSet or not a1)"
    with out.block(f"if {out.state}.may_leave and {good} and not waitable.has_sync_waiter:"):
        out.emit("waitable.join(wset)")
        out.emit("return")


# Streams and futures.

# What two ends share, and their kinds.
PAIRS: dict[type[ValType], tuple[type, type, type]] = {
    StreamType: (SharedStream, ReadableStreamEnd, WritableStreamEnd),
    FutureType: (SharedFuture, ReadableFutureEnd, WritableFutureEnd),
}


def _new(out: Writer, definition: Builtin) -> None:
    t: Any = definition.type
    shared, readable, writable = (out.constant("KIND", kind) for kind in PAIRS[type(t)])
    with out.block(f"if {out.state}.may_leave:"):
        out.emit(f"add = {out.state}.handles.add")
        out.emit(f"shared = {shared}({_element(out, t)})")
        out.emit(f"readable = add({readable}(shared))")
        _return(out, "l", f"readable | add({writable}(shared)) << 32")
        out.emit("return")


def _end(out: Writer, definition: Builtin) -> str:
    """Look the end up; a condition for its being what the signature says, where `shared` is behind it."""
    t: Any = definition.type
    out.emit(f"handles = {out.state}.handles; array = handles.array")
    _find(out, "end", "a0")
    kind = out.constant("KIND", ENDS[definition.name])
    good = f"type(end) is {kind} and (shared := end.shared).t is {_element(out, t)}"
    return f"{out.state}.may_leave and {good}"


def _element(out: Writer, t: StreamType | FutureType) -> str:
    element = element_of(t)
    return out.constant("ELEMENT", element, id(element))


def _write_end(out: Writer, definition: Builtin) -> None:
    """stream.write where the host takes all, future.write where it waits for the value."""
    t: Any = definition.type
    if t.t is None:
        return
    codec = codec_of(definition, t.t)
    stream = isinstance(t, StreamType)
    good = _end(out, definition) + " and end.state is IDLE"
    if not definition.flag:
        good += " and end.wset is None"
    if codec.align > 1:
        good += f" and not a1 & {codec.align - 1}"
    count = "a2" if stream else "1"
    if stream:
        good += f" and type(shared.buffer) is Drain and 0 < a2 <= {min(codec.at_once, DRAIN_ELEMENTS)}"
    else:
        good += " and type(shared.buffer) is Receiver"
    with out.block(f"if {good}:"):
        out.emit(f"mem = inst.memories[{definition.options.slot}]")
        out.emit(f"behind = a1 + {count}{f' * {codec.size}' * (codec.size != 1)}")
        with out.block("if behind > mem.size:"):
            out.emit("mem.ensure(behind)")
        if t.t == U8Type():
            values = "mem.view[a1:behind].tobytes()"
        else:
            values = f"{out.constant('load', codec.load)}(inst, a1, {count})"
        if stream:
            out.emit(f"shared.buffer.sink({values})")
            _return(out, "i", "a2 << 4")
        else:
            out.emit("receiver = shared.buffer")
            out.emit(f"[value] = {values}")
            out.emit("shared.reset_pending()")
            out.emit("receiver.callback(value)")
            out.emit("end.state = DONE")
            _return(out, "i", "0")
        out.emit("return")


def _drop_end(out: Writer, definition: Builtin) -> None:
    good = _end(out, definition) + " and end.wset is None"
    if definition.name == "future.drop-writable":
        good += " and end.state is DONE"
    else:
        good += " and (end.state is IDLE or end.state is DONE)"
    with out.block(f"if {good}:"):
        out.emit("array[a0] = None; handles.free.append(a0)")
        out.emit("shared.drop()")
        out.emit("return")


SHORT: dict[str, Short] = {
    "context.get": _context_get,
    "context.set": _context_set,
    "waitable-set.new": _set_new,
    "waitable-set.drop": _set_drop,
    "waitable.join": _waitable_join,
    "stream.new": _new,
    "future.new": _new,
    "stream.write": _write_end,
    "future.write": _write_end,
    "stream.drop-readable": _drop_end,
    "stream.drop-writable": _drop_end,
    "future.drop-readable": _drop_end,
    "future.drop-writable": _drop_end,
}
