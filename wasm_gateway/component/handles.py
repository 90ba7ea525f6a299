# The table of handles of one instance, and what a handle remembers.
#
# CanonicalABI.md, Table State and Resource State. An index that a guest hands
# over is never trusted: each look-up checks that it is there and of the type
# that the signature names. Index 0 is never given out.

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from ..errors import Trap
from .types import ResourceType


class BorrowScope:
    """The call of an export that borrows were lowered into; all must be dropped before it returns."""

    __slots__ = ("num_borrows",)

    def __init__(self) -> None:
        self.num_borrows = 0

    def leave(self) -> None:
        if self.num_borrows:
            raise Trap(f"{self.num_borrows} borrow handles still remain at the end of the call")


class Entry:
    """What a table may hold besides handles of resources: waitables, sets of them, error contexts."""

    rt = None
    own = False


class ResourceHandle:
    """A handle that owns; `rep` is the host's object, or the guest's number for its own resource."""

    __slots__ = ("num_lends", "rep", "rt")

    own = True
    borrow_scope: BorrowScope | None = None

    def __init__(self, rt: ResourceType, rep: Any) -> None:
        self.rt = rt
        self.rep = rep
        self.num_lends = 0


class BorrowHandle(ResourceHandle):
    """A handle that is borrowed until the call of `borrow_scope` ends."""

    __slots__ = ("borrow_scope",)

    own = False

    def __init__(self, rt: ResourceType, rep: Any, borrow_scope: BorrowScope) -> None:
        super().__init__(rt, rep)
        self.borrow_scope: BorrowScope | None = borrow_scope


class HandleTable:
    """Handles by index. Generated code does what `lift_own` and `remove` do in `array` and `free` itself."""

    __slots__ = ("array", "free", "limit")

    # What one guest may hold at a time, in all of its tables. Far below the 2**28 - 1 of the specification:
    # a handle costs the host about 150 bytes, and what is behind it a few hundred more.
    MAX_LENGTH = 1 << 16

    def __init__(self, limit: int = MAX_LENGTH) -> None:
        self.array: list[ResourceHandle | None] = [None]
        self.free: list[int] = []
        self.limit = limit

    def __len__(self) -> int:
        return len(self.array) - 1 - len(self.free)

    def get(self, i: int, rt: ResourceType) -> ResourceHandle:
        """The handle at `i`, which has to be one of `rt`."""
        h = self.array[i] if 0 < i < len(self.array) else None
        if h is None:
            raise Trap(f"unknown handle index {i}")
        if h.rt is not rt and h.rt != rt:
            raise Trap(f"handle index {i} is of type {h.rt}, not {rt}")
        return h

    def add(self, h: ResourceHandle) -> int:
        if self.free:
            i = self.free.pop()
            self.array[i] = h
            return i
        i = len(self.array)
        if i > self.limit:
            raise Trap(f"more than {self.limit} handles")
        self.array.append(h)
        return i

    def remove(self, i: int, rt: ResourceType) -> ResourceHandle:
        """Take the handle out of the table; it must not be lent to a call that is under way."""
        h = self.get(i, rt)
        if h.num_lends:
            raise Trap(f"handle index {i} is still lent")
        self.array[i] = None
        self.free.append(i)
        return h

    def lift_own(self, i: int, rt: ResourceType) -> Any:
        """Move the resource behind an own handle out of the guest."""
        h = self.get(i, rt)
        if not h.own:
            raise Trap(f"handle index {i} is borrowed, not owned")
        return self.remove(i, rt).rep

    def lower_own(self, rt: ResourceType, rep: Any) -> int:
        """Give a resource to the guest."""
        h = ResourceHandle(rt, rep)
        array = self.array
        if self.free:
            i = self.free.pop()
            array[i] = h
            return i
        i = len(array)
        if i > self.limit:
            raise Trap(f"more than {self.limit} handles")
        array.append(h)
        return i

    def lower_borrow(self, rt: ResourceType, rep: Any, scope: BorrowScope) -> int:
        """Lend a resource of the host to the guest, until `scope` ends."""
        i = self.add(BorrowHandle(rt, rep, scope))
        scope.num_borrows += 1
        return i

    def close(self, inst: Any) -> None:
        """Drop what the guest left behind: the host's destructors run, newest handle first.

        The first error of one is raised when all have had their turn.
        """
        array, self.array, self.free = self.array, [None], []
        raised: list[Exception] = []
        for h in reversed(array):
            if h is not None and h.own and h.rt.part is None and h.rt.dtor is not None:
                try:
                    h.rt.dtor(inst, h.rep)
                except Exception as error:
                    raised.append(error)
        if raised:
            raise raised[0]


class Part:
    """The state of a component instance behind the first, which an instance keeps itself.

    `may_leave`, `entered`: CanonicalABI.md, Component Instance State.
    """

    __slots__ = ("entered", "handles", "may_leave")

    def __init__(self, handles: HandleTable) -> None:
        self.handles = handles
        self.may_leave = True
        self.entered = False


def canon_resource_new(inst: Any, rt: ResourceType, rep: int) -> int:
    """A guest makes a handle for its own resource."""
    if not inst.may_leave:
        raise Trap("resource.new: cannot leave the component instance")
    table: HandleTable = inst.handles
    return table.add(ResourceHandle(rt, rep))


def enter(inst: Any, parts: Iterable[int]) -> list[Any]:
    """The state of these component instances, which are being run from now on; Trap when one is already.

    CanonicalABI.md, may_enter_from and enter_from; `leave` ends it.
    """
    states = [inst.parts[part] if part else inst for part in parts]
    for state in states:
        if state.entered:
            raise Trap("cannot enter a component instance that is running already")
    for state in states:
        state.entered = True
    return states


def leave(states: Iterable[Any]) -> None:
    for state in states:
        state.entered = False


def canon_resource_drop(
    inst: Any, rt: ResourceType, i: int, state: Any = None, enters: Sequence[int] = ()
) -> None:
    """A guest drops a handle; the destructor of an owned resource runs.

    `state` is that of the component instance that drops it, `inst` itself where there is one alone;
    `enters` are the component instances that the destructor enters, even where there is none.
    """
    if state is None:
        state = inst
    if not state.may_leave:
        raise Trap("resource.drop: cannot leave the component instance")
    h = state.handles.remove(i, rt)
    if h.own:
        states = enter(inst, enters) if enters else ()
        if rt.dtor is not None:
            rt.dtor(inst, h.rep)
        leave(states)
    elif h.borrow_scope is not None:
        h.borrow_scope.num_borrows -= 1


def canon_resource_rep(inst: Any, rt: ResourceType, i: int) -> int:
    """The number that a guest keeps behind a handle of its own resource."""
    rep: int = inst.handles.get(i, rt).rep
    return rep
