# Connections that are kept for the next request.
#
# Rule 1: a connection is used by one thread at a time: taken, used, given back.
# Rule 2: whoever gives one back has put it in the state of a fresh one; a connection
# in any other state is given up instead.
# Rule 3: a pool belongs to a process; a forked child starts with an empty one.
# Rule 4: those that are kept count among all of this process (descriptors.py); when they are
# too many, one that comes back is closed.

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

from .. import forks
from . import descriptors
from .base import Deadline

C = TypeVar("C")

# How long a request waits for a connection when all are in use, in seconds: long enough for a
# short burst, short enough to tell the guest before its caller gives up.
WAIT = 5.0


class Places:
    """So many connections at once, over all that share this; `limit` None is any number.

    Who takes a place takes one of `within` too.
    """

    def __init__(self, limit: int | None = None, within: Places | None = None) -> None:
        self._limit = limit
        self._within = within
        self.after_fork()
        forks.watch(self)

    def after_fork(self) -> None:
        self._free = None if self._limit is None else threading.Semaphore(self._limit)

    def take(self, wait: float = 0.0) -> Callable[[], object] | None:
        """What gives the place back, to be called once; None when none was free for `wait` seconds."""
        free, within = self._free, self._within
        if free is None:
            return _nothing if within is None else within.take(wait)
        ends = time.monotonic() + wait
        if not free.acquire(timeout=wait):
            return None
        if within is None:
            return free.release
        outer = within.take(max(0.0, ends - time.monotonic()))
        if outer is None:
            free.release()
            return None

        def give_back() -> None:
            outer()
            free.release()

        return give_back


def _nothing() -> None:
    pass


class PoolFull(Exception):
    """All connections stayed in use for WAIT seconds."""


class _Entry(Generic[C]):
    __slots__ = ("idle", "used")

    def __init__(self) -> None:
        self.idle: list[C] = []
        self.used = 0


class Pool(Generic[C]):
    """Connections by key, at most `per_key` for each; idle ones are kept for the `keys` last used keys.

    `idle` limits those that are kept for a key, where that is less; `places` those in use at the same time
    over all keys. `close` ends a connection.
    """

    def __init__(
        self,
        close: Callable[[C], object],
        *,
        per_key: int,
        keys: int,
        idle: int | None = None,
        places: Places | None = None,
        wait: float = WAIT,
    ) -> None:
        self._close = close
        self._per_key = per_key
        self._keys = keys
        self._idle = per_key if idle is None else idle
        self._places = places or Places()
        self._wait = wait
        self._start()
        forks.watch(self)

    def _start(self) -> None:
        self._free = threading.Condition()  # guards the rest, notified when a connection comes back
        self._entries: OrderedDict[Hashable, _Entry[C]] = OrderedDict()
        self._taken: list[Callable[[], object]] = []  # places, one for each in use
        self._closed = False

    def take(self, key: Hashable, deadline: Deadline, *, fresh: bool = False) -> C | None:
        """An idle connection, or None (`fresh`: always): the caller may open one. Either is owed to `give`.

        Raises PoolFull, or DeadlineExceeded when that comes first.
        """
        with self._free:
            entry = self._entries.get(key)
            if entry is None or entry.used >= self._per_key:
                entry = self._wait_for(key, deadline)
            entry.used += 1
            self._entries.move_to_end(key)
        try:
            place = self._places.take(min(self._wait, deadline.remaining()))
            if place is None:
                deadline.remaining()
                raise PoolFull
        except BaseException:
            with self._free:
                entry.used -= 1
                self._free.notify_all()
            raise
        with self._free:
            self._taken.append(place)
            if fresh or not entry.idle:
                return None
            descriptors.kept.give()
            return entry.idle.pop()

    def _wait_for(self, key: Hashable, deadline: Deadline) -> _Entry[C]:
        def find() -> _Entry[C] | None:
            entry = self._entries.get(key)
            if entry is None:
                entry = self._entries[key] = _Entry()
            return entry if entry.used < self._per_key else None

        entry = find()
        if entry is None:
            entry = self._free.wait_for(find, min(self._wait, deadline.remaining()))
            if entry is None:
                deadline.remaining()
                raise PoolFull
        return entry

    def give(self, key: Hashable, connection: C | None) -> None:
        """Take back a connection for the next one who asks, or None when it was given up."""
        surplus: list[C] = []
        with self._free:
            entry = self._entries.get(key)
            if entry is None:  # only a fork forgets what is in use: it is the parent's
                forks.abandon(connection)
                return
            entry.used -= 1
            self._taken.pop()()
            if connection is not None:
                full = self._closed or len(entry.idle) >= self._idle or not descriptors.kept.try_take()
                (surplus if full else entry.idle).append(connection)
            if len(self._entries) > self._keys:
                surplus += self._forget_oldest()
            self._free.notify_all()
        for connection in surplus:
            self._close(connection)

    def _forget_oldest(self) -> list[C]:
        """Drop the keys used longest ago that nobody uses now; what they kept is to be closed."""
        surplus: list[C] = []
        for key in list(self._entries):
            if len(self._entries) <= self._keys:
                break
            if self._entries[key].used == 0:
                surplus += self._entries.pop(key).idle
        descriptors.kept.give(len(surplus))
        return surplus

    def close(self) -> None:
        """Close the idle connections; those in use are closed when they come back."""
        with self._free:
            self._closed = True
            idle = [connection for entry in self._entries.values() for connection in entry.idle]
            for entry in self._entries.values():
                entry.idle = []
            descriptors.kept.give(len(idle))
        for connection in idle:
            self._close(connection)

    def after_fork(self) -> None:
        for entry in self._entries.values():
            for connection in entry.idle:
                forks.abandon(connection)
        self._start()
