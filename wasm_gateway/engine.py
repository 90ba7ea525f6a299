# The wasmtime engine of this process: settings, compiled code, epochs.
#
# Rule 1: one Engine per process and set of options, shared by every gateway; its
# pool of instances is a property of the machine and not of an application.
# Rule 2: guests are compiled once, and kept on disk (compile_cache.py).
# Rule 3: whatever does not survive a fork is started lazily, in the process that
# needs it: the compiler never uses threads of its own (a child that compiles after
# its parent's compiler made a thread pool hangs for ever), and the ticker is born
# again in each child.

from __future__ import annotations

import ctypes
import faulthandler
import logging
import math
import mmap
import struct
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import wasmtime

from . import capi, forks
from .compile_cache import CompileCache
from .component.rewrite import ALLOCATORS, REALLOC_EACH, REVISION
from .errors import ComponentError, HostError, LinkError, Saturated, UnsupportedError

log = logging.getLogger("wasm_gateway.engine")

TICK_SECONDS = 0.01

# A pool slot reserves address space, not memory: 4 GiB and its guard each, so that
# bounds checks cost nothing. 256 slots are 1 TiB of the 128 TiB that there are.
POOL_SLOTS = 256
POOL_SLOT_BYTES = (4 << 30) + (64 << 20)

# What one guest may have of each, in one core module or in several together.
MAX_INSTANCES, MAX_TABLES, MAX_MEMORIES = 64, 64, 16

# What one memory can grow to where address space is limited.
SCARCE_MEMORY_BYTES = 128 << 20

# Bytes of each slot that stay mapped when an instance ends, and are put back in order instead of being given
# back and faulted in again, 2 us for each page of 4 KiB. All of them are written, 3 us for each 100 KiB, also
# where the guest has touched none: most compilers put a stack of 1 MiB there. A memory that is no larger is
# spared the system call.
KEEP_RESIDENT_BYTES = 128 << 10


class Current(threading.local):
    """Which instance runs in this thread; host callbacks find theirs here."""

    instance: Any = None


current = Current()


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """What an engine is made from; equal options share one engine.

    `pooling`: keep slots for instances ready (else each is allocated on demand).
    `hardened`: explicit bounds checks instead of signals, slower (17 -> 26 ms in a tight loop), but
    immune to signal handlers that other code installs later.
    """

    pooling: bool = True
    hardened: bool = False


class _Guard:
    """A lock that is as new in a forked child."""

    def __init__(self) -> None:
        self.after_fork()
        forks.watch(self)

    def after_fork(self) -> None:
        self.lock = threading.Lock()


class Engine:
    """A wasmtime engine with the settings of a server. Use `Engine.shared`."""

    # Whether faulthandler was enabled when the first engine of this process was made.
    made_under_faulthandler: bool | None = None

    def __init__(self, options: EngineOptions) -> None:
        self.options = options
        self.pooling = options.pooling and has_address_space()
        if options.pooling and not self.pooling:
            log.warning(
                "address space is limited (ulimit -v): instances are made on demand, with %d MiB at most",
                SCARCE_MEMORY_BYTES >> 20,
            )
        config = wasmtime.Config()
        address = capi.pointer(config)
        capi.config_bool["epoch_interruption"](address, True)
        capi.config_bool["memory_init_cow"](address, True)
        capi.config_bool["memory_may_move"](address, False)  # component/memory.py relies on it
        capi.config_bool["parallel_compilation"](address, False)  # rule 3
        if options.hardened:
            capi.config_bool["signals_based_traps"](address, False)
        if self.pooling:
            pool = capi.pooling_new()
            for name, value in (
                ("total_core_instances", POOL_SLOTS * 4),
                ("total_memories", POOL_SLOTS),
                ("total_tables", POOL_SLOTS * 4),
                ("max_core_instance_size", 4 << 20),
                ("max_memories_per_module", MAX_MEMORIES),
                ("max_tables_per_module", MAX_TABLES),
                ("table_elements", 1 << 17),
                ("linear_memory_keep_resident", KEEP_RESIDENT_BYTES),
                ("table_keep_resident", 16 << 10),
            ):
                capi.pooling_set[name](pool, value)
            capi.pooling_strategy_set(address, pool)
            capi.pooling_delete(pool)
        elif options.pooling:
            # Address space is scarce: reserve what a guest may have and no guard, and check bounds instead.
            capi.config_u64["memory_reservation"](address, SCARCE_MEMORY_BYTES)
            capi.config_u64["memory_guard_size"](address, 0)
        if Engine.made_under_faulthandler is None:
            Engine.made_under_faulthandler = faulthandler.is_enabled()
        self.wasmtime_engine = wasmtime.Engine(config)
        self.address = capi.pointer(self.wasmtime_engine)
        self._tested = False
        self.ticker = Ticker(self.wasmtime_engine)
        # What compiled code depends on, besides the module.
        self.fingerprint = (
            f"{capi.wasmtime_version()} {sys.platform} {options.hardened} {self.pooling} {REVISION}"
        )

    _shared: weakref.WeakValueDictionary[EngineOptions, Engine] = weakref.WeakValueDictionary()
    _shared_guard = _Guard()

    @classmethod
    def shared(cls, options: EngineOptions = EngineOptions()) -> Engine:
        """The engine of this process for `options`, made at the first call."""
        refuse_greenlets()
        with cls._shared_guard.lock:
            engine = cls._shared.get(options)
            if engine is None:
                engine = cls._shared[options] = cls(options)
            return engine

    def test(self) -> None:
        """Try a round trip through guest and host, once; HostError when wasmtime is not as expected."""
        if not self._tested:
            round_trip(self)
            self._tested = True

    def compile(
        self,
        wasm: bytes | memoryview,
        cache: CompileCache | None = None,
        prepare: Callable[[bytes | memoryview], bytes] | None = None,
        variant: str = "",
    ) -> wasmtime.Module:
        """The compiled module of `wasm` (binary), from the cache where it holds it.

        `prepare` is applied to the bytes before they are compiled, and not when the cache holds the
        result; `variant` tells apart what it makes of the same bytes. Raises ComponentError when the bytes
        are no valid core module, UnsupportedError when it has more memories or tables than an instance may.
        """
        if cache is not None:
            module = cache.load(self, wasm, variant)
            if module is not None:
                return module
        try:
            module = wasmtime.Module(self.wasmtime_engine, bytes(wasm) if prepare is None else prepare(wasm))
        except wasmtime.WasmtimeError as error:
            if "pooling allocator requirements" in str(error):
                raise UnsupportedError(
                    f"a module that fits in no instance: {error}", "module limits"
                ) from error
            raise ComponentError(f"not a valid WebAssembly module: {error}") from error
        if cache is not None:
            cache.store(self, wasm, module, variant)
            # Code in a file is shared between processes, and need not stay in memory.
            module = cache.load(self, wasm, variant) or module
        give_back_memory()
        return module

    def check_signal_handlers(self) -> None:
        """Keep a trap of a guest from ending this process after somebody touched faulthandler.

        The handler that is installed last sees a guest's out-of-bounds access first. wasmtime's must be
        that one, and it is installed with the first engine of a process (wasmtime #9317): a
        `faulthandler.enable()` after that is undone, which brings wasmtime's handler back; a `disable()`
        after it has removed wasmtime's too, which is beyond repair: HostError.
        """
        if self.options.hardened or faulthandler.is_enabled() == Engine.made_under_faulthandler:
            return
        if Engine.made_under_faulthandler:
            raise HostError(
                "faulthandler was disabled after the WebAssembly engine was made, which removed the engine's "
                "signal handlers; disable it earlier, leave it enabled, or set hardened = true"
            )
        faulthandler.disable()
        log.warning(
            "faulthandler was enabled after the WebAssembly engine, so that a trap of a guest would have "
            "ended this process; it is disabled again. Enable it first (python -X faulthandler), or set "
            "hardened = true"
        )


def wat2wasm(text: bytes, name: str = "<text>") -> bytes:
    """The binary form of a module or component in text form; ComponentError where that is wrong."""
    try:
        return bytes(wasmtime.wat2wasm(text))
    except wasmtime.WasmtimeError as error:
        raise ComponentError(f"not valid WebAssembly text: {error}".replace("<anon>", name)) from error


def give_back_memory() -> None:
    """Return to the system what was freed: after compiling a Python guest glibc keeps 200 MiB of it."""
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # musl keeps nothing, and has no such thing
        if trim is not None:
            trim(0)


def faulthandler_order_ok() -> bool:
    """False when faulthandler was enabled or disabled after the first engine of this process was made."""
    return Engine.made_under_faulthandler in (None, faulthandler.is_enabled())


def refuse_greenlets() -> None:
    """Raise HostError in a process that gevent or eventlet has patched.

    They switch C stacks inside host functions, which ends the process (wasmtime's trap handlers are a
    stack per thread).
    """
    for name, asked, threads in (
        ("gevent.monkey", "is_module_patched", "threading"),
        ("eventlet.patcher", "is_monkey_patched", "thread"),
    ):
        module: Any = sys.modules.get(name)
        if module is not None and getattr(module, asked)(threads):
            raise HostError(
                f"{name.partition('.')[0]} has replaced the threads of this process, and a WebAssembly guest "
                "would crash it: use a server with real threads (gunicorn --worker-class gthread, granian)"
            )


def has_address_space() -> bool:
    """Whether the pool's reservation fits, since wasmtime aborts the process where it does not."""
    if sys.platform == "win32":
        return True
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    try:
        # PROT_NONE: address space alone, no memory stands behind it
        mmap.mmap(-1, POOL_SLOTS * POOL_SLOT_BYTES * 2, flags=flags, prot=0).close()
    except (OSError, ValueError, OverflowError):
        return False
    return True


class Ticker:
    """Counts the engine's epoch up every 10 ms, while guests run and not otherwise.

    A guest's deadline is a number of epochs, so this is what interrupts it. `running` holds a key per
    instance; single dict operations are atomic under the GIL, hence no lock on the way of a request.

    Its thread comes late where others keep the GIL, and makes up for it then: a guest whose calls of the host
    take long does not get more time. `behind` is what a guest that begins meanwhile has to be given on top.
    """

    def __init__(self, engine: wasmtime.Engine) -> None:
        self._engine = engine  # held: its last owner may drop it while the thread counts
        self._address = capi.pointer(engine)
        self.running: dict[int, None] = {}
        self._lock = threading.Lock()  # guards the start of the thread
        self._last = 0.0  # until when time is counted
        self._start_over()
        forks.watch(self)

    def after_fork(self) -> None:
        self._lock = threading.Lock()
        self.running.clear()
        self._start_over()

    def _start_over(self) -> None:
        self.idle = True
        self._wake = threading.Event()
        self._thread: threading.Thread | None = None

    def wake(self) -> None:
        """Called with the instance in `running`: makes sure that epochs are counted.

        Saturated where the system has no thread left for that: without one no guest would ever be ended.
        """
        if self._thread is None:
            with self._lock:
                if self._thread is None:
                    thread = threading.Thread(
                        target=self._run,
                        args=(weakref.ref(self), self._wake),
                        name="wasm-epochs",
                        daemon=True,
                    )
                    try:
                        thread.start()
                    except RuntimeError as error:
                        raise Saturated(f"no thread can be started: {error}") from error
                    self._thread = thread
        self._wake.set()

    def behind(self) -> float:
        """The seconds that will be counted at once."""
        return 0.0 if self.idle else max(0.0, time.monotonic() - self._last)

    def _tick(self, now: float) -> None:
        """Count up to `now`, once at least."""
        for _ in range(max(1, int((now - self._last) / TICK_SECONDS))):
            capi.engine_increment_epoch(self._address)
        self._last = now  # only now: who begins in between gets too much rather than too little

    @staticmethod
    def _run(this: weakref.ref[Ticker], wake: threading.Event) -> None:
        pause = threading.Event()
        while True:
            wake.wait()
            ticker = this()
            if ticker is None:
                return
            wake.clear()
            ticker._last = time.monotonic()
            ticker.idle = False
            quiet = 0
            # A few empty ticks before it sleeps: waking a thread costs a request more than a tick costs
            # the process.
            while quiet < 50:
                del ticker
                pause.wait(TICK_SECONDS)
                ticker = this()
                if ticker is None:
                    return
                ticker._tick(time.monotonic())
                quiet = 0 if ticker.running else quiet + 1
            ticker.idle = True
            if ticker.running:  # came in between
                wake.set()
            del ticker


def ticks(seconds: float) -> int:
    """How many epochs `seconds` are, at least; the tick under way does not count."""
    return math.ceil(seconds / TICK_SECONDS) + 1


@dataclass(frozen=True, slots=True)
class HostFunction:
    """A host function for one import: its core type and the ctypes callback body.

    `params` and `results` are letters of core types: i (i32), l (i64), f (f32), d (f64).
    """

    module: str
    name: str
    params: str
    results: str
    callback: Callable[[int, int, int, int], int | None]


_VALTYPES = {
    "i": wasmtime.ValType.i32,
    "l": wasmtime.ValType.i64,
    "f": wasmtime.ValType.f32,
    "d": wasmtime.ValType.f64,
}


# How a core value lies in a wasmtime_val_raw; what is none of the four has no place in one.
_RAW = {"i": "I12x", "l": "Q8x", "f": "f12x", "d": "d8x"}
_LETTERS = {"i32": "i", "i64": "l", "f32": "f", "f64": "d"}

# What a call has room for: 16 flat parameters and a return pointer (CanonicalABI.md, MAX_FLAT_PARAMS).
# wasmtime reads and writes as many values as the guest's type says.
CALL_SLOTS = 17

# All C structures of an instance lie in one buffer of bytes, at these offsets; those of a guest of
# several modules go on behind it (linked.py).
INSTANCE, TRAP, MEMORY, REALLOC, EACH, RAW = 0, 16, 32, 64, 96, 128
BUFFER_SIZE = RAW + CALL_SLOTS * capi.RAW_SIZE
_Buffer = ctypes.c_char * BUFFER_SIZE


class CoreSignature:
    """An exported function: how its arguments and its result lie in an array of wasmtime_val_raw.

    `at` is where the instance that exports it lies in the buffer.
    """

    __slots__ = ("at", "has_result", "name", "params", "results", "slots")

    def __init__(self, name: str, params: str, results: str, at: int = INSTANCE) -> None:
        self.name = name.encode()
        self.at = at
        self.params = struct.Struct("<" + "".join(_RAW.get(letter, "16x") for letter in params))
        self.results = struct.Struct("<" + "".join(_RAW.get(letter, "16x") for letter in results))
        self.slots = max(len(params), len(results), 1)
        self.has_result = len(results) == 1 and results in _RAW


class Program:
    """A module linked with its host functions: made once, instantiated for each request.

    `exports` are the functions that the module exports, with the letters of their parameters and results
    (see HostFunction; any other letter for any other type). `starts` says that instantiation runs guest
    code (a start function). Raises LinkError when an import is not among `functions`, or has another type.
    """

    buffer_type: Any = _Buffer
    parts = 1  # component instances
    new_loop = None  # it has no tasks

    def __init__(
        self,
        engine: Engine,
        module: wasmtime.Module,
        functions: Iterable[HostFunction] = (),
        *,
        exports: Mapping[str, tuple[str, str]] | None = None,
        starts: bool = True,
    ) -> None:
        self.engine = engine
        self.module = module
        self.functions = _exports(module) if exports is None else exports
        self._signatures: dict[str, CoreSignature | None] = {}
        self._linker = wasmtime.Linker(engine.wasmtime_engine)
        self._callbacks = define(self._linker, functions)  # alive as long as guest code can call them
        self.pre = instance_pre(self, self._linker, module)
        # A function that is called without its type being looked at again has to have this one.
        allocators = (name for name in ALLOCATORS if self.functions.get(name) == ("iiii", "i"))
        allocator = next(allocators, None)
        self.allocators = (None if allocator is None else self.signature(allocator),)
        self.realloc_each = (
            self.signature(REALLOC_EACH) if self.functions.get(REALLOC_EACH) == ("ii", "") else None
        )
        self.instantiate: Callable[..., int | None] = (
            capi.instance_pre_instantiate_and_start if starts else capi.instance_pre_instantiate
        )

    def signature(self, name: str) -> CoreSignature | None:
        """How the exported function `name` is called, None when there is none that fits CALL_SLOTS."""
        try:
            return self._signatures[name]
        except KeyError:
            type_ = self.functions.get(name)
            fits = type_ is not None and max(map(len, type_)) <= CALL_SLOTS
            signature = CoreSignature(name, *type_) if type_ is not None and fits else None
            self._signatures[name] = signature
            return signature

    def exports(self, name: str, params: str, results: str) -> bool:
        """Whether there is an exported function `name`; LinkError when it has another type than this one."""
        type_ = self.functions.get(name)
        if type_ not in (None, (params, results)):
            raise LinkError(
                f"exports {name} with the core type {core_type(*type_)}, but it has to be "
                f"{core_type(params, results)}"
            )
        return type_ is not None


def define(linker: wasmtime.Linker, functions: Iterable[HostFunction]) -> list[Any]:
    """Make `functions` known to `linker`; what is returned has to live as long as guests can call them."""
    address = capi.pointer(linker)
    callbacks = []
    types: dict[tuple[str, str], wasmtime.FuncType] = {}
    for function in functions:
        callback = capi.UncheckedCallback(function.callback)
        callbacks.append(callback)
        signature = function.params, function.results
        type_ = types.get(signature)
        if type_ is None:
            params, results = ([_VALTYPES[letter]() for letter in letters] for letters in signature)
            type_ = types[signature] = wasmtime.FuncType(params, results)
        module_name, name = function.module.encode(), function.name.encode()
        error = capi.linker_define_func_unchecked(
            *(address, module_name, len(module_name), name, len(name)),
            *(capi.pointer(type_), ctypes.cast(callback, ctypes.c_void_p), None, None),
        )
        if error:
            raise LinkError(capi.error_message(error), function.module)
    return callbacks


def instance_pre(owner: object, linker: wasmtime.Linker, module: wasmtime.Module) -> int:
    """The address of `module` with its imports found in `linker`; lives as long as `owner`."""
    slot = ctypes.c_void_p()
    error = capi.linker_instantiate_pre(capi.pointer(linker), capi.pointer(module), ctypes.addressof(slot))
    if error:
        raise LinkError(capi.error_message(error))
    assert slot.value is not None
    # Not at exit: daemons, as the threads of some servers are, go on to instantiate for a while.
    weakref.finalize(owner, capi.instance_pre_delete, slot.value).atexit = False
    return slot.value


def core_type(params: str, results: str) -> str:
    """A function type for a message, from its letters."""
    names = {letter: name for name, letter in _LETTERS.items()} | {"v": "v128", "r": "ref"}
    both = (" ".join(names.get(letter, letter) for letter in letters) for letters in (params, results))
    return "({}) -> ({})".format(*both)


def _exports(module: wasmtime.Module) -> dict[str, tuple[str, str]]:
    """The exported functions as wasmtime itself sees them; our own decoder is five times as fast."""

    def letters(types: Iterable[object]) -> str:
        return "".join(_LETTERS.get(str(type_), "?") for type_ in types)

    return {
        export.name: (letters(export.type.params), letters(export.type.results))
        for export in module.exports
        if isinstance(export.type, wasmtime.FuncType)
    }


_ROUND_TRIP = b"""(module (import "" "" (func $host (param i32 i64 f64) (result i32)))
  (memory (export "memory") 1) (data (i32.const 65530) "memory")
  (func (export "f") (param i64) (result i32)
    (call $host (i32.const -2) (local.get 0) (f64.const 0.5))))"""


def round_trip(engine: Engine) -> None:
    """Call a guest that calls the host, through every prototype of capi.py that a request uses.

    Raises HostError, with the version of the wasmtime package, when an argument, a result or memory is not
    what it must be: the structures of that version are others. Costs 3 ms, once per process.
    """
    seen: list[tuple[object, ...]] = []
    arguments = struct.Struct("<I12xQ8xd8x")

    def callback(env: int, caller: int, raw: int, count: int) -> None:
        seen.append((count, *arguments.unpack((ctypes.c_char * arguments.size).from_address(raw))))
        ctypes.c_uint32.from_address(raw).value = 2**32 - 3

    functions = [HostFunction("", "", "ild", "i", callback)]
    program = Program(engine, engine.compile(wat2wasm(_ROUND_TRIP)), functions, starts=False)
    buffer = (ctypes.c_char * 256)()
    address = ctypes.addressof(buffer)
    instance, trap, function, memory, raw = (address + offset for offset in (0, 16, 32, 64, 128))
    store = capi.store_new(engine.address, None, None)
    try:
        capi.store_limiter(store, 1 << 20, 1000, 1, 1, 1)
        context = capi.store_context(store)
        capi.context_set_epoch_deadline(context, ticks(60))
        seen.append((program.instantiate(program.pre, context, instance, trap),))
        seen.append(
            tuple(
                capi.instance_export_get(context, instance, name, len(name), extern)
                for name, extern in ((b"f", function), (b"memory", memory))
            )
        )
        ctypes.c_uint64.from_address(raw).value = 2**63
        call = capi.func_call_unchecked
        seen.append((call(context, function + capi.EXTERN_UNION, raw, 3, trap),))
        size = capi.memory_data_size(context, memory + capi.EXTERN_UNION)
        view = capi.view_of(capi.memory_data(context, memory + capi.EXTERN_UNION), size)
        seen.append((ctypes.c_uint32.from_address(raw).value, size, bytes(view[65530:])))
        view.release()
    finally:
        capi.store_delete(store)
    expected = [
        *((None,), (True, True), (3, 2**32 - 2, 2**63, 0.5), (None,)),
        (2**32 - 3, 65536, b"memory"),
    ]
    if seen != expected:
        raise capi.unusable(f"a call of a guest gave {seen}, where {expected} was expected")
