# How much native stack a thread has left.
#
# wasmtime lets each guest that is entered use MAX_WASM_STACK from where that happens,
# whether so much is there or not. Where guests call each other in one thread, each
# goes on where the one before stopped: without a look at what is left, a few that
# recurse before they call on would run over the end of the stack, and a process dies of that.

from __future__ import annotations

import ctypes
import sys
import threading

MAX_WASM_STACK = 512 << 10  # wasmtime's default (Config::max_wasm_stack)

# What host functions and Python take on top, measured: 20 KiB for a call from guest to guest.
RESERVE = 192 << 10


def _unknown() -> tuple[int, int]:
    return 0, 0


def _linux() -> tuple[int, int]:
    attributes = ctypes.create_string_buffer(128)  # pthread_attr_t: 56 or 64 bytes
    address, size = ctypes.c_void_p(), ctypes.c_size_t()
    library = ctypes.PyDLL(None)
    library.pthread_self.restype = ctypes.c_void_p
    library.pthread_getattr_np.argtypes = [ctypes.c_void_p, ctypes.c_void_p]
    if library.pthread_getattr_np(library.pthread_self(), attributes):
        return _unknown()
    library.pthread_attr_getstack(attributes, ctypes.byref(address), ctypes.byref(size))
    library.pthread_attr_destroy(attributes)
    return address.value or 0, (address.value or 0) + size.value


def _darwin() -> tuple[int, int]:
    library = ctypes.PyDLL(None)
    for name, result in (
        ("pthread_self", ctypes.c_void_p),
        ("pthread_get_stackaddr_np", ctypes.c_size_t),
        ("pthread_get_stacksize_np", ctypes.c_size_t),
    ):
        getattr(library, name).restype = result
    this = ctypes.c_void_p(library.pthread_self())
    end: int = library.pthread_get_stackaddr_np(this)
    return end - library.pthread_get_stacksize_np(this), end


def _windows() -> tuple[int, int]:
    low, high = ctypes.c_size_t(), ctypes.c_size_t()
    kernel = ctypes.WinDLL("kernel32")  # type: ignore[attr-defined,unused-ignore]
    kernel.GetCurrentThreadStackLimits(ctypes.byref(low), ctypes.byref(high))
    return low.value, high.value


_BOUNDS = {"linux": _linux, "darwin": _darwin, "win32": _windows}.get(sys.platform, _unknown)


class _Thread(threading.local):
    bounds: tuple[int, int] | None = None


_thread = _Thread()


def room(address: int) -> int | None:
    """The bytes of this thread's stack below `address`, which lies on it; None when that cannot be known."""
    bounds = _thread.bounds
    if bounds is None:
        try:
            bounds = _BOUNDS()
        except (AttributeError, OSError):  # a C library without these functions
            bounds = _unknown()
        _thread.bounds = bounds
    lowest, end = bounds
    return address - lowest if lowest <= address < end else None
