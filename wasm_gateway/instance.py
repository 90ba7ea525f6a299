# The world of one request: a wasmtime store and everything that must die with it.
#
# Rule 1: an instance is made, used and closed on one thread, and closed explicitly;
# nothing of it is left to the garbage collector.
# Rule 2: a Python exception never crosses wasmtime. A callback parks it here and
# returns a trap; whoever called the guest finds it here and raises it.
# Rule 3: no view of guest memory outlives the store.
#
# All C structures of an instance lie in one buffer of bytes, at the offsets that
# engine.py and, for guests of several modules, linked.py give.

from __future__ import annotations

import ctypes
import struct
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from . import capi
from .component.memory import Memory
from .engine import (
    EACH,
    MAX_INSTANCES,
    MAX_MEMORIES,
    MAX_TABLES,
    MEMORY,
    RAW,
    REALLOC,
    TRAP,
    CoreSignature,
    Program,
    current,
    ticks,
)
from .errors import DeadlineExceeded, LimitExceeded, Saturated, Trap
from .host.base import Deadline, Grants, HostContext, Stream
from .linked import LinkedProgram
from .messages import Request, Response
from .observe import current as watched

if TYPE_CHECKING:
    from .component.concurrency import Loop
    from .component.handles import HandleTable

TRAP_END = TRAP + 8
_Extern = ctypes.c_char * capi.EXTERN_SIZE

_REALLOC_ARGUMENTS = struct.Struct("<I12xI12xI12xI")
_EACH_ARGUMENTS = struct.Struct("<I12xI")
_U32 = struct.Struct("<I")
_POINTER = struct.Struct("=Q")
_NULL = bytes(8)
_NO_EXTERN = bytes(capi.EXTERN_SIZE)
# An import that has to fail gets this as its trap; the reason is parked.
_HOST_TRAP = b"host function failed"

# wasmtime's words for a pool that has no slot left, or for minimum sizes over a limit.
_POOL_FULL = "maximum concurrent"


# Frames that a callback of the guest must have left, to report that there are no more: an exception
# that leaves a callback ends the process.
FRAMES = 16


def _nested(count: int) -> Callable[[], object]:
    """A function that takes `count` frames, and does nothing else."""
    inner = _nested(count - 1) if count > 1 else bool
    return lambda: inner()


_need_frames = _nested(FRAMES)  # RecursionError when fewer are left


class InstanceLog(Protocol):
    """Where one instance's output goes."""

    def write(self, stream: Stream, data: bytes) -> None: ...

    def close(self) -> None: ...


class Services(Protocol):
    """What the application around an instance does for it; the gateway is one."""

    def chain(self, caller: HostContext, component_id: str, request: Request) -> Response: ...

    def self_request(self, caller: HostContext, request: Request) -> Response: ...

    def open_log(self, component_id: str) -> InstanceLog: ...


class Limits:
    """What one instance may take: bytes of each memory, elements of each table."""

    __slots__ = ("max_memory", "max_table_elements")

    def __init__(self, max_memory: int, max_table_elements: int) -> None:
        self.max_memory = max_memory
        self.max_table_elements = max_table_elements


class _NoMemory(list[Memory]):
    """Of a guest whose start function calls out, or that exports none."""

    def __getitem__(self, slot: Any) -> Any:
        raise Trap("the guest's memory is not there yet, or not exported as `memory`")


_NO_MEMORY = _NoMemory()


class _MissingMemory(Memory):
    """Of a module that is still to be instantiated."""

    __slots__ = ()

    def __init__(self) -> None:
        super().__init__(lambda: memoryview(bytearray()))

    def ensure(self, end: int) -> None:
        raise Trap("the guest's memory is not there yet")

    def close(self) -> None:
        pass  # there is one for all


_MISSING = _MissingMemory()


class Instance(HostContext):
    """A fresh instance of `program`, entered with `with`; leaving closes it.

    Raises LimitExceeded when the guest's initial memory or table is over its limits, Saturated when
    the pool has no slot left, Trap when a start function traps.
    """

    handles: HandleTable
    loop: Loop

    __slots__ = (
        "_address",
        "_buffer",
        "_cores",
        "_has_each",
        "_has_realloc",
        "_log",
        "_parked",
        "_store",
        "called_from",
        "context",
        "depth",
        "entered",
        "handles",
        "loop",
        "may_leave",
        "parts",
        "program",
        "realloc_each",
        "services",
    )

    def __init__(
        self,
        program: Program | LinkedProgram,
        component: Grants,
        deadline: Deadline,
        limits: Limits,
        services: Services,
        wasi: Any = None,
    ) -> None:
        super().__init__(component, deadline)
        self.program = program
        self.services = services
        self.wasi = wasi
        self.memories = _NO_MEMORY
        # How many instances wait in this thread until this one is done, and where on the native stack the
        # guest last called a function that may run another one.
        self.depth = 0
        self.called_from = 0
        self.may_leave = True
        self.entered = False
        # The state of each component instance of a guest that has several; the first one's is here.
        self.parts: list[Any] = []
        # Many calls of the allocator in one crossing, where the module has been given that.
        self.realloc_each = self._realloc_each if program.realloc_each is not None else None
        self._log: InstanceLog | None = None
        self._parked: BaseException | None = None
        self._has_realloc = self._has_each = False
        self._buffer: Any = program.buffer_type()  # a slice of it is bytes, whatever typeshed says
        self._address = ctypes.addressof(self._buffer)
        self._cores: dict[CoreSignature, Callable[..., Any]] = {}
        self._store: int | None = None
        self.context: int = 0
        self._limit(limits)

    def _limit(self, limits: Limits) -> None:
        program = self.program
        engine = program.engine
        store = self._store = capi.store_new(engine.address, None, None)
        capi.store_limiter(
            store,
            limits.max_memory,
            limits.max_table_elements,
            MAX_INSTANCES,
            MAX_TABLES,
            MAX_MEMORIES,
        )
        self.context = capi.store_context(store)
        capi.context_set_epoch_deadline(self.context, ticks(self.deadline.seconds + engine.ticker.behind()))

    def __enter__(self) -> Instance:
        try:
            self._begin()
            self._instantiate()
        except BaseException:
            self.close()
            raise
        if watched.call is not None:
            watched.call.has_started()
        return self

    def _begin(self) -> None:
        engine = self.program.engine
        engine.check_signal_handlers()
        ticker = engine.ticker
        ticker.running[id(self)] = None
        if ticker.idle:
            ticker.wake()

    def rest(self) -> None:
        """Nothing runs until `renew`; meanwhile no time passes for the guest."""
        self.before_wait = self.request = None
        self.deadline.gone = None
        self.program.engine.ticker.running.pop(id(self), None)

    def renew(self, deadline: Deadline) -> None:
        """Go on, until `deadline`, after `rest`."""
        self.deadline = deadline
        self.called_from = 0
        behind = self.program.engine.ticker.behind()
        capi.context_set_epoch_deadline(self.context, ticks(deadline.seconds + behind))
        self._begin()

    def __exit__(self, *_: object) -> None:
        self.close()

    def _instantiate(self) -> None:
        address = self._address
        program = self.program
        outer, current.instance = current.instance, self
        try:
            if isinstance(program, LinkedProgram):
                self._instantiate_all(program)
                return
            error = program.instantiate(program.pre, self.context, address, address + TRAP)
        finally:
            current.instance = outer
        if error or self._buffer[TRAP:TRAP_END] != _NULL or self._parked is not None:
            self._raise(error)
        if capi.instance_export_get(self.context, address, b"memory", 6, address + MEMORY) and (
            self._buffer[MEMORY] == capi.EXTERN_MEMORY
        ):
            self.memories = [Memory(self._view)]

    def _instantiate_all(self, program: LinkedProgram) -> None:
        """Carry out the steps of a guest of several modules."""
        address, buffer, context = self._address, self._buffer, self.context
        trap = address + TRAP
        memories: list[Memory] = [_MISSING] * len(program.allocators)
        self.memories = memories
        self._hold(program.new_handles())
        if program.parts > 1:
            from .component.handles import Part

            self.parts = [self, *(Part(program.new_handles()) for _ in range(1, program.parts))]
            for part in self.parts[1:]:
                self.on_close(partial(part.handles.close, self))
        if program.new_loop is not None:
            self._runs(program.new_loop(self))
        linker = None
        try:
            for step in program.steps:
                at = address + step.at
                if step.pre is not None:
                    error = step.instantiate(step.pre, context, at, trap)
                else:
                    error = capi.linker_instantiate(linker, context, step.module, at, trap)
                if error or buffer[TRAP:TRAP_END] != _NULL or self._parked is not None:
                    self._raise(error)
                for name, offset, slots in step.memories:
                    capi.instance_export_get(context, at, name, len(name), address + offset)
                    memory = Memory(partial(self._view, offset))
                    for slot in slots:
                        memories[slot] = memory
                if step.name is not None:  # as has the first one, where a later one needs a linker
                    if linker is None:
                        linker = program.take_linker()
                    error = capi.linker_define_instance(linker, context, step.name, len(step.name), at)
                    if error:
                        self._raise(error)
        finally:
            if linker is not None:
                program.give_back(linker)

    @property
    def closed(self) -> bool:
        return self._store is None

    def close(self) -> None:
        """Run what was registered with on_close, then free the store. Safe to call twice."""
        store, self._store = self._store, None
        if store is None:
            return
        try:
            raised = self.run_closers() if self._closers else None
        finally:
            for memory in self.memories:
                memory.close()
            # All lead back here; nothing is to wait for the garbage collector.
            self.memories, self.realloc_each, self.parts, self._cores = _NO_MEMORY, None, [], {}
            self.program.engine.ticker.running.pop(id(self), None)
            capi.store_delete(store)
        if raised:
            raise raised[0]

    def __getattr__(self, name: str) -> Any:
        """`handles`, what the guest holds, and `loop`, its tasks: made when the first one is."""
        if name == "loop":
            from .component.concurrency import Loop

            return self._runs(Loop(self))
        if name != "handles":
            raise AttributeError(name)
        from .component.handles import HandleTable

        return self._hold(HandleTable())

    def _runs(self, loop: Loop) -> Loop:
        self.loop = loop
        self._closers.append(self._end_loop)
        return loop

    def _end_loop(self) -> None:
        self.loop.close()
        del self.loop  # which leads back here

    def _hold(self, table: HandleTable) -> HandleTable:
        self.handles = table
        self._closers.append(partial(table.close, self))
        return table

    def wait_any(self, pollables: Sequence[Any]) -> None:
        """Return when one of them is ready; DeadlineExceeded."""
        from .host.wasi.io import wait_any

        wait_any(self, pollables)

    # Memory

    def _view(self, offset: int = MEMORY) -> memoryview:
        if self._store is None:
            raise ValueError("the instance is closed, its memory is released")
        memory = self._address + offset + capi.EXTERN_UNION
        size = capi.memory_data_size(self.context, memory)
        return capi.view_of(capi.memory_data(self.context, memory), size) if size else memoryview(bytearray())

    def realloc(self, slot: int, old: int, old_size: int, align: int, new_size: int) -> int:
        """The guest's allocator (CanonicalABI.md, realloc); the pointer is not checked here."""
        at = REALLOC
        if slot:
            at = self._other_realloc(slot)
        elif not self._has_realloc:
            self._has_realloc = self._find_realloc(0, REALLOC)
        _REALLOC_ARGUMENTS.pack_into(self._buffer, RAW, old, old_size, align, new_size)
        self._call_found(at, 4)
        pointer: int = _U32.unpack_from(self._buffer, RAW)[0]
        return pointer

    def _find_realloc(self, slot: int, offset: int) -> bool:
        allocator = self.program.allocators[slot]
        if allocator is None:
            raise Trap("guest exports no cabi_realloc, which is needed to give it a string or a list")
        return self._find(allocator, offset)

    def _other_realloc(self, slot: int) -> int:
        """Where the allocator of a slot behind the first lies."""
        program = self.program
        assert isinstance(program, LinkedProgram)
        offset = program.realloc_at[slot]
        if self._buffer[offset : offset + capi.EXTERN_SIZE] == _NO_EXTERN:
            self._find_realloc(slot, offset)
        return offset

    def _realloc_each(self, slot: int, base: int, count: int) -> None:
        """realloc(0, 0, 1, length) for each of `count` (pointer, length) pairs at `base`, in order."""
        if slot:
            self._realloc_one_by_one(slot, base, count)
            return
        if not self._has_each:
            each = self.program.realloc_each
            assert each is not None
            self._has_each = self._find(each, EACH)
        _EACH_ARGUMENTS.pack_into(self._buffer, RAW, base, count)
        self._call_found(EACH, 2)

    def _realloc_one_by_one(self, slot: int, base: int, count: int) -> None:
        memory = self.memories[slot]
        for at in range(base, base + 8 * count, 8):
            memory.store_u32(at, self.realloc(slot, 0, 0, 1, memory.load_u32(at + 4)))

    def _find(self, function: CoreSignature, offset: int) -> bool:
        """Put the exported `function`, which exists, at `offset` of the buffer."""
        self._need(function)
        address, name = self._address, function.name
        found: bool = capi.instance_export_get(
            self.context, address + function.at, name, len(name), address + offset
        )
        assert found
        return found

    def _call_found(self, offset: int, slots: int) -> None:
        """Call the allocator at `offset` of the buffer, whose arguments are in place."""
        tasks = self.program.new_loop is not None
        if tasks:
            self.loop.allocating = [0, 0]
        self._enter(self._address + offset + capi.EXTERN_UNION, slots)
        if tasks:
            self.loop.allocating = None

    # Calls

    def _need(self, function: CoreSignature) -> None:
        """Trap where the module that exports `function` is still to be instantiated.

        A start function may get at it through a table that is not filled yet; wasmtime would end the process.
        """
        if self._buffer[function.at : function.at + 8] == _NULL:
            raise Trap("uninitialized element: the module of this function is not instantiated yet")

    def function(self, name: str) -> Callable[..., Any] | None:
        """The exported function `name` as a callable of core values, None when there is none.

        It takes and returns unsigned ints and floats, as the export's own type says; a second result
        is dropped (the canonical ABI has one at the most).
        """
        signature = self.program.signature(name)
        return None if signature is None else self.core(signature)

    def core(self, signature: CoreSignature) -> Callable[..., Any]:
        """The exported function `signature` of the program, called in the same way."""
        _need_frames()
        known = self._cores.get(signature)
        if known is not None:
            return known
        self._need(signature)
        extern, name = _Extern(), signature.name
        where = ctypes.addressof(extern)
        capi.instance_export_get(self.context, self._address + signature.at, name, len(name), where)
        call = self._cores[signature] = partial(self._call, signature, where + capi.EXTERN_UNION, extern)
        return call

    def _call(self, signature: CoreSignature, function: int, _alive: object, *arguments: Any) -> Any:
        signature.params.pack_into(self._buffer, RAW, *arguments)
        self._enter(function, signature.slots)
        return signature.results.unpack_from(self._buffer, RAW)[0] if signature.has_result else None

    def _enter(self, function: int, slots: int) -> None:
        """Call the wasmtime_func_t at the address `function`, whose arguments are in place."""
        assert self._store is not None, "the instance is closed"
        address = self._address
        outer = current.instance
        current.instance = self
        try:
            error = capi.func_call_unchecked(self.context, function, address + RAW, slots, address + TRAP)
        finally:
            current.instance = outer
        if error or self._parked is not None or self._buffer[TRAP:TRAP_END] != _NULL:
            self._raise(error)

    # Failure

    def park(self, error: BaseException) -> int:
        """Keep `error` for whoever called the guest, and give the trap that ends the guest meanwhile.

        The first one counts, but that what a signal handler raises (a KeyboardInterrupt) is never lost.
        """
        if self._parked is None or not isinstance(error, Exception):
            self._parked = error
        trap: int = capi.trap_new(_HOST_TRAP, len(_HOST_TRAP))
        return trap

    def _raise(self, error: int | None) -> None:
        """Raise what ended the guest: what a host function parked, else wasmtime's trap or error."""
        parked, self._parked = self._parked, None
        trap = _POINTER.unpack_from(self._buffer, TRAP)[0]
        _POINTER.pack_into(self._buffer, TRAP, 0)
        message, code, frames = capi.take_trap(trap) if trap else ("", None, [])
        text = capi.error_message(error) if error else message
        if parked is not None:
            try:
                raise parked
            finally:
                del parked  # its traceback leads to this frame, which would lead back to it
        if code == "INTERRUPT":
            raise DeadlineExceeded(self.deadline.seconds)
        if code == "STACK_OVERFLOW":
            raise Trap("call stack exhausted", frames)
        if _POOL_FULL in text:
            raise Saturated("no instance is free in the pool")
        if error and ("limit" in text or "exceed" in text):
            raise LimitExceeded(text, "max_memory")
        raise Trap(text or "guest trapped", frames)

    # What stays inside the application

    def chain(self, component_id: str, request: Request) -> Response:
        return self.services.chain(self, component_id, request)

    def self_request(self, request: Request) -> Response:
        return self.services.self_request(self, request)

    def log(self, stream: Stream, data: bytes) -> None:
        if self._log is None:
            beside = self.component.scratch
            self._log = self.services.open_log(f"{self.component.id}.shadow" if beside else self.component.id)
            self.on_close(self._log.close)
        self._log.write(stream, data)
