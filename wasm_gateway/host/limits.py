# What a guest may make this host hold for it.
#
# Rule 1: a guest's own memory is limited elsewhere; here are the limits of what it
# makes us keep on its behalf: results, handles, connections.
# Rule 2: what is behind handles counts together, however many there are (Share): each may
# be within a limit of its own, and all of them fill the memory of the server.

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

from ..errors import LimitExceeded, Trap
from .base import HostContext

# Spin: host interfaces, section 3. Bounds whatever is buffered on its way to a guest.
MAX_HOST_BUFFERED_BYTES = 128 << 20
RESULT_TOO_LARGE = f"query result exceeds limit of {MAX_HOST_BUFFERED_BYTES} bytes"

# What one value of a result costs us besides its bytes: a tuple of two, the value's object header, a
# place in a list. (Spin counts 24 to 32 bytes, what a variant takes in Rust.)
VALUE_OVERHEAD = 64

# Connections to servers of one kind that one instance may have open (Spin: host interfaces, 7).
MAX_CONNECTIONS = 1024
TOO_MANY_CONNECTIONS = "too many connections"

# What is kept behind all handles of one instance: fields, bodies that are not sent, answers not yet read.
MAX_KEPT_BYTES = 256 << 20

# What a SQLite file may grow to, that of a database or of key-value stores, where the operator does not say
# (runtime config: max_size). SQLite itself has no limit below 281 TB.
MAX_FILE_BYTES = 1 << 30

T = TypeVar("T")


class Budget:
    """Counts bytes of a result on its way to a guest; `spend` says whether they may still go on."""

    __slots__ = ("left",)

    def __init__(self, size: int = MAX_HOST_BUFFERED_BYTES) -> None:
        self.left = size

    def spend(self, size: int) -> bool:
        self.left -= size
        return self.left >= 0


class Share:
    """What one thing takes of MAX_KEPT_BYTES of its instance, until nobody refers to this any more."""

    __slots__ = ("_of", "size")

    def __init__(self, of: Budget, size: int = 0) -> None:
        self._of = of
        self.size = 0
        self.resize(size)

    def resize(self, size: int) -> None:
        """Take `size` bytes from now on; LimitExceeded when there are not so many."""
        budget = self._of
        left = budget.left + self.size - size
        if left < 0:
            raise LimitExceeded(f"more than {MAX_KEPT_BYTES} bytes are kept for the guest", "kept")
        budget.left, self.size = left, size

    def beside(self) -> Share:
        """One for another thing of the same instance."""
        return Share(self._of)

    def __del__(self) -> None:
        self._of.left += self.size


def kept(ctx: HostContext, size: int = 0) -> Share:
    """A share of `size` bytes; LimitExceeded."""
    budget: Budget | None = ctx.state.get(Share)
    if budget is None:
        budget = ctx.state[Share] = Budget(MAX_KEPT_BYTES)
    return Share(budget, size)


def weight(value: object) -> int:
    """The bytes of a lifted value, near enough: text and bytes, and a place for each element of a list."""
    if isinstance(value, str | bytes):
        return len(value)
    if isinstance(value, list | tuple):
        return VALUE_OVERHEAD * len(value) + sum(map(weight, value))
    return 0


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
        handle = self.next
        if self.is_full or handle > 0xFFFF_FFFF:
            return None
        self.items[handle] = item
        self.next = handle + 1
        return handle

    @property
    def is_full(self) -> bool:
        return len(self.items) >= self.capacity


class Held(Generic[T]):
    """What instances hold by number, at most `capacity` each; what one leaves behind ends with it.

    `release(ctx, item)` ends an item.
    """

    __slots__ = ("_capacity", "_release")

    def __init__(self, release: Callable[[HostContext, T], object], capacity: int = MAX_CONNECTIONS) -> None:
        self._release = release
        self._capacity = capacity

    def of(self, ctx: HostContext) -> Handles[T]:
        handles: Handles[T] | None = ctx.state.get(self)
        if handles is None:
            handles = ctx.state[self] = Handles(self._capacity)
            ctx.on_close(lambda: self._release_all(ctx, handles))
        return handles

    def _release_all(self, ctx: HostContext, handles: Handles[T]) -> None:
        while handles.items:
            self._release(ctx, handles.items.popitem()[1])

    def get(self, ctx: HostContext, handle: int) -> T:
        """The item of a resource, whose handle the engine has checked already."""
        try:
            return self.of(ctx).items[handle]
        except KeyError:
            raise Trap(f"nothing has the handle {handle}") from None

    def drop(self, ctx: HostContext, handle: int) -> None:
        items = self.of(ctx).items
        if handle in items:
            self._release(ctx, items.pop(handle))
