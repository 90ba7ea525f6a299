# What a guest may make this host hold for it.
#
# Rule 1: a guest's own memory is limited elsewhere; here are the limits of what it
# makes us keep on its behalf: results, handles, connections.

from __future__ import annotations

from typing import Generic, TypeVar

# Spin: host interfaces, section 3. Bounds whatever is buffered on its way to a guest.
MAX_HOST_BUFFERED_BYTES = 128 << 20
RESULT_TOO_LARGE = f"query result exceeds limit of {MAX_HOST_BUFFERED_BYTES} bytes"

# What one value of a result costs us besides its bytes: a tuple of two, the value's object header, a
# place in a list. (Spin counts 24 to 32 bytes, what a variant takes in Rust.)
VALUE_OVERHEAD = 64

T = TypeVar("T")


class Budget:
    """Counts bytes of a result on its way to a guest; `spend` says whether they may still go on."""

    __slots__ = ("left",)

    def __init__(self, size: int = MAX_HOST_BUFFERED_BYTES) -> None:
        self.left = size

    def spend(self, size: int) -> bool:
        self.left -= size
        return self.left >= 0


class Handles(Generic[T]):
    """The u32 handles that one instance holds, at most `capacity` at a time.

    Numbers start at 0 and are not used again, so that a stale one is noticed.
    """

    __slots__ = ("capacity", "items", "next")

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.items: dict[int, T] = {}
        self.next = 0

    def push(self, item: T) -> int | None:
        """The handle of `item`, or None when the table is full."""
        items, handle = self.items, self.next
        if len(items) >= self.capacity or handle > 0xFFFF_FFFF:
            return None
        items[handle] = item
        self.next = handle + 1
        return handle
