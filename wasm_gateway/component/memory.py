# A guest's linear memory, as the host sees it.
#
# Rule 1: every pointer comes from a hostile guest; nothing is read or written
# before `ensure` has compared its end with the size of the memory.
# Rule 2: no slice of a view leaves a function. Reading through a stale one is a
# crash and not an exception, so bytes are copied out and `close` releases all.
#
# The memory grows but its base does not move (the engine is configured so): a
# view taken before it grew is short, never wrong. Generated code (canon.py)
# compares with `size` in line and calls `ensure` only when a pointer lies
# behind the end that was last seen.

from __future__ import annotations

from collections.abc import Callable
from struct import Struct

from ..errors import Trap

U16 = Struct("<H")
U32 = Struct("<I")
U64 = Struct("<Q")


class Memory:
    """A linear memory; `refresh()` returns a writable memoryview (unsigned bytes) of all of it, as it is."""

    __slots__ = ("_old", "_refresh", "size", "view")

    view: memoryview
    size: int

    def __init__(self, refresh: Callable[[], memoryview]) -> None:
        self._refresh = refresh
        self._old: list[memoryview] = []
        self.view = refresh()
        self.size = len(self.view)

    def ensure(self, end: int) -> None:
        """Trap unless the first `end` bytes exist; looks again first, since the guest may have grown."""
        if end > self.size:
            self._old.append(self.view)  # a caller up the stack may still hold it
            self.view = self._refresh()
            self.size = len(self.view)
            if end > self.size:
                raise Trap(f"out of bounds memory access: {end:#x} is past the end, {self.size:#x}")

    def read(self, ptr: int, size: int) -> bytes:
        """A copy of `size` bytes at `ptr`."""
        end = ptr + size
        if end > self.size:
            self.ensure(end)
        return bytes(self.view[ptr:end])

    def write(self, ptr: int, data: bytes | bytearray | memoryview) -> None:
        """Copy `data` (bytes) to `ptr`."""
        end = ptr + len(data)
        if end > self.size:
            self.ensure(end)
        self.view[ptr:end] = data

    def load_u8(self, ptr: int) -> int:
        if ptr >= self.size:
            self.ensure(ptr + 1)
        return self.view[ptr]

    def load_u16(self, ptr: int) -> int:
        if ptr + 2 > self.size:
            self.ensure(ptr + 2)
        value: int = U16.unpack_from(self.view, ptr)[0]
        return value

    def load_u32(self, ptr: int) -> int:
        if ptr + 4 > self.size:
            self.ensure(ptr + 4)
        value: int = U32.unpack_from(self.view, ptr)[0]
        return value

    def load_u64(self, ptr: int) -> int:
        if ptr + 8 > self.size:
            self.ensure(ptr + 8)
        value: int = U64.unpack_from(self.view, ptr)[0]
        return value

    def store_u8(self, ptr: int, value: int) -> None:
        if ptr >= self.size:
            self.ensure(ptr + 1)
        self.view[ptr] = value

    def store_u16(self, ptr: int, value: int) -> None:
        if ptr + 2 > self.size:
            self.ensure(ptr + 2)
        U16.pack_into(self.view, ptr, value)

    def store_u32(self, ptr: int, value: int) -> None:
        if ptr + 4 > self.size:
            self.ensure(ptr + 4)
        U32.pack_into(self.view, ptr, value)

    def store_u64(self, ptr: int, value: int) -> None:
        if ptr + 8 > self.size:
            self.ensure(ptr + 8)
        U64.pack_into(self.view, ptr, value)

    def close(self) -> None:
        """Release every view; any later access raises ValueError instead of touching freed memory."""
        for view in self._old:
            view.release()
        self._old.clear()
        self.view.release()
        self.size = 0
