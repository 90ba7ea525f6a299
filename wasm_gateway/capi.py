# The dozen functions of wasmtime's C API that a request needs, with our own prototypes.
#
# Rule 1: only this file declares prototypes, and it tests them when it is imported:
# every symbol and the size of every structure; engine.py adds a round trip through
# guest and host. engine.py and instance.py call what is declared here.
# Rule 2: a pointer is a plain int (c_void_p), and structures are bytes at known
# offsets, so that a call costs what ctypes itself costs and nothing more.
# Rule 3: a function that can run guest code releases the GIL (CDLL): the guest may
# loop for ever, and the ticker that ends it needs the GIL. All others keep it
# (PyDLL): a release costs more than they do, and lets another thread in between.
#
# Everything done once (configuration, compilation, types) goes through the public
# classes of the wasmtime package instead, in engine.py.

from __future__ import annotations

import ctypes
import re
from collections.abc import Callable, Iterable
from ctypes import c_bool, c_char_p, c_int, c_int64, c_size_t, c_ssize_t, c_uint64, c_void_p, py_object
from pathlib import Path
from typing import Any

import wasmtime
from wasmtime import _bindings as bindings

from .errors import HostError

# wasm.h and wasmtime/*.h of wasmtime 42 to 50, on every 64-bit platform.
RAW_SIZE = 16  # wasmtime_val_raw_t
FUNC_SIZE = 16  # wasmtime_func_t: store id, private
MEMORY_SIZE = 24  # wasmtime_memory_t
INSTANCE_SIZE = 16  # wasmtime_instance_t
EXTERN_SIZE = 32  # wasmtime_extern_t: kind at 0, the union at 8
EXTERN_UNION = 8
EXTERN_MEMORY = b"\x03"  # wasmtime_extern_kind_t

# wasmtime_func_unchecked_callback_t: env, caller, args_and_results, their number -> trap or NULL
UncheckedCallback = ctypes.CFUNCTYPE(c_void_p, c_void_p, c_void_p, c_void_p, c_size_t)

_PATH = wasmtime._ffi.filename
_keeping_gil = ctypes.PyDLL(str(_PATH))
_releasing_gil = ctypes.CDLL(str(_PATH))


def wasmtime_version() -> str:
    """The version of the installed wasmtime package, such as "50.0.1"."""
    for path in Path(wasmtime.__file__).parent.parent.glob("wasmtime-*.dist-info"):
        return path.name.removesuffix(".dist-info").removeprefix("wasmtime-")
    from importlib.metadata import version  # 20 ms, where the package lies elsewhere

    return version("wasmtime")


def unusable(reason: str) -> HostError:
    """The error for a wasmtime package that is not as this file expects."""
    return HostError(
        f"the installed wasmtime package {wasmtime_version()} cannot be used: {reason}; "
        "install another version of it (50 or newer)"
    )


def _declare(library: ctypes.CDLL, name: str, result: Any, *arguments: Any) -> Callable[..., Any]:
    try:
        function = library[name]  # a fresh object, the package's own prototypes stay as they are
    except AttributeError:
        raise unusable(f"its library lacks {name}") from None
    function.restype = result
    function.argtypes = arguments
    return function


_P = c_void_p
store_new = _declare(_keeping_gil, "wasmtime_store_new", _P, _P, _P, _P)
store_context = _declare(_keeping_gil, "wasmtime_store_context", _P, _P)
store_delete = _declare(_keeping_gil, "wasmtime_store_delete", None, _P)
store_limiter = _declare(
    _keeping_gil, "wasmtime_store_limiter", None, _P, c_int64, c_int64, c_int64, c_int64, c_int64
)
context_set_epoch_deadline = _declare(_keeping_gil, "wasmtime_context_set_epoch_deadline", None, _P, c_uint64)
engine_increment_epoch = _declare(_keeping_gil, "wasmtime_engine_increment_epoch", None, _P)
instance_export_get = _declare(
    _keeping_gil, "wasmtime_instance_export_get", c_bool, _P, _P, c_char_p, c_size_t, _P
)
memory_data = _declare(_keeping_gil, "wasmtime_memory_data", _P, _P, _P)
memory_data_size = _declare(_keeping_gil, "wasmtime_memory_data_size", c_size_t, _P, _P)
trap_new = _declare(_keeping_gil, "wasmtime_trap_new", _P, c_char_p, c_size_t)
# One without a start function runs no guest code, so there are two of these.
instance_pre_instantiate = _declare(_keeping_gil, "wasmtime_instance_pre_instantiate", _P, _P, _P, _P, _P)
instance_pre_instantiate_and_start = _declare(
    _releasing_gil, "wasmtime_instance_pre_instantiate", _P, _P, _P, _P, _P
)
linker_instantiate = _declare(_releasing_gil, "wasmtime_linker_instantiate", _P, _P, _P, _P, _P, _P)
linker_define_instance = _declare(
    _keeping_gil, "wasmtime_linker_define_instance", _P, _P, _P, c_char_p, c_size_t, _P
)
func_call_unchecked = _declare(_releasing_gil, "wasmtime_func_call_unchecked", _P, _P, _P, _P, c_size_t, _P)

# Once per component.
linker_define_func_unchecked = _declare(
    _keeping_gil,
    "wasmtime_linker_define_func_unchecked",
    *(_P, _P, c_char_p, c_size_t, c_char_p, c_size_t, _P, _P, _P, _P),
)
linker_instantiate_pre = _declare(_keeping_gil, "wasmtime_linker_instantiate_pre", _P, _P, _P, _P)
linker_clone = _declare(_keeping_gil, "wasmtime_linker_clone", _P, _P)
linker_delete = _declare(_keeping_gil, "wasmtime_linker_delete", None, _P)
linker_allow_shadowing = _declare(_keeping_gil, "wasmtime_linker_allow_shadowing", None, _P, c_bool)
instance_pre_delete = _declare(_keeping_gil, "wasmtime_instance_pre_delete", None, _P)

# Once per engine: settings that the package's Config class does not have.
config_bool = {
    name: _declare(_keeping_gil, f"wasmtime_config_{name}_set", None, _P, c_bool)
    for name in (
        "epoch_interruption",
        "memory_init_cow",
        "memory_may_move",
        "parallel_compilation",
        "signals_based_traps",
    )
}
config_u64 = {
    name: _declare(_keeping_gil, f"wasmtime_config_{name}_set", None, _P, c_uint64)
    for name in ("memory_reservation", "memory_guard_size")
}
pooling_new = _declare(_keeping_gil, "wasmtime_pooling_allocation_config_new", _P)
pooling_delete = _declare(_keeping_gil, "wasmtime_pooling_allocation_config_delete", None, _P)
pooling_strategy_set = _declare(_keeping_gil, "wasmtime_pooling_allocation_strategy_set", None, _P, _P)
_pooling_u32 = (
    *("total_core_instances", "total_memories", "total_tables", "max_unused_warm_slots"),
    *("max_memories_per_module", "max_tables_per_module"),
)
_pooling_size = (
    *("max_core_instance_size", "max_memory_size", "table_elements"),
    *("linear_memory_keep_resident", "table_keep_resident"),
)
pooling_set = {
    name: _declare(_keeping_gil, f"wasmtime_pooling_allocation_config_{name}_set", None, _P, ctypes.c_uint32)
    for name in _pooling_u32
} | {
    name: _declare(_keeping_gil, f"wasmtime_pooling_allocation_config_{name}_set", None, _P, c_size_t)
    for name in _pooling_size
}

# memoryview of guest memory: PyBUF_WRITE is 0x200.
_view_from_memory = ctypes.PYFUNCTYPE(py_object, c_void_p, c_ssize_t, c_int)(
    ("PyMemoryView_FromMemory", ctypes.pythonapi)
)


def view_of(address: int, size: int) -> memoryview:
    """A writable view of `size` bytes at `address`; using it after they are gone crashes the process."""
    view: memoryview = _view_from_memory(address, size, 0x200)
    return view


def pointer(managed: Any) -> int:
    """The address behind one of the package's own objects."""
    address = ctypes.cast(managed.ptr(), c_void_p).value
    assert address is not None
    return address


def error_message(address: int) -> str:
    """The text of a wasmtime_error_t, which is freed."""
    error = wasmtime.WasmtimeError._from_ptr(ctypes.cast(address, ctypes.POINTER(bindings.wasmtime_error_t)))
    text = reason(str(error))
    error.close()
    return text


def reason(message: str) -> str:
    """What wasmtime's several lines of message come to: the last line, the root of their causes."""
    lines = message.rstrip("\0\n ").split("\n")
    return re.sub(r"^\s*(\d+: )?(wasm trap: )?", "", lines[-1])


def take_trap(address: int) -> tuple[str, str | None, list[str]]:
    """Message, code (wasmtime's name, None for a host's trap) and frames of a trap, which is freed."""
    trap = wasmtime.Trap._from_ptr(ctypes.cast(address, ctypes.POINTER(bindings.wasm_trap_t)))
    try:
        code = trap.trap_code
        name = None if code is None else code.name
    except ValueError:  # a code newer than the package's own enum
        name = "UNKNOWN"
    frames = [
        f"{frame.func_name or f'function[{frame.func_index}]'}+{frame.module_offset:#x}"
        for frame in trap.frames
    ]
    message = reason(trap.message)
    trap.close()
    return message, name, frames


def _self_test(expected: Iterable[tuple[Any, int]]) -> None:
    for structure, size in expected:
        if ctypes.sizeof(structure) != size:
            raise unusable(f"{structure.__name__} has {ctypes.sizeof(structure)} bytes, {size} expected")


_self_test(
    [
        (bindings.wasmtime_val_raw_t, RAW_SIZE),
        (bindings.wasmtime_func_t, FUNC_SIZE),
        (bindings.wasmtime_memory_t, MEMORY_SIZE),
        (bindings.wasmtime_instance_t, INSTANCE_SIZE),
        (bindings.wasmtime_extern_t, EXTERN_SIZE),
    ]
)
