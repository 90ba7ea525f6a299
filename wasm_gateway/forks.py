# Forks: what a parent's threads hold and what it opened, its child must not use.
#
# A lock that another thread of the parent held is never given back in the child,
# where that thread does not go on; so locks are made anew.
#
# A child that spoke, or said goodbye, on an inherited connection would corrupt the
# parent's session, and sqlite3_close() in a child is undefined behaviour (SQLite,
# "How To Corrupt An SQLite Database File", 2.6). So a child abandons what it
# inherited: it is neither used nor closed nor finalised, and made anew when needed.
#
# A fork in the midst of what takes a lock of wasmtime's, as compiling does, would leave it
# taken in the child for ever (4 of 267 children hung that were forked while another thread
# compiled). `postponed` has forks wait for it.
#
# This is the one registry of the process, because os.register_at_fork takes
# callbacks that can never be taken back.

from __future__ import annotations

# The last import in a list is asked first before a fork. These two have locks that compiling needs: asked
# before us, they would be held while we wait for it.
import concurrent.futures.thread  # noqa: F401
import ctypes
import logging  # noqa: F401
import os
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

# Seconds that a fork waits for what must not be cut in two: the largest guests take 10 to compile, or 40 when
# the machine is busy.
MAX_POSTPONED = 60.0


class ForkAware(Protocol):
    """An object that holds connections, locks or threads of this process."""

    def after_fork(self) -> None:
        """Called in the child, whose only thread this is: forget everything, locks too."""
        ...


_watched: weakref.WeakSet[ForkAware] = weakref.WeakSet()


def watch(owner: ForkAware) -> None:
    """Call `owner.after_fork()` in each child process, as long as `owner` lives."""
    _watched.add(owner)


@contextmanager
def postponed() -> Iterator[None]:
    """Meanwhile this process is not forked by another thread."""
    with _postponing.lock:
        yield


class _Postponing:
    """The lock, and whether whoever forks has got it in time."""

    def __init__(self) -> None:
        self.start_over()

    def start_over(self) -> None:
        self.lock = threading.RLock()
        self._held = False

    def before(self) -> None:
        self._held = self.lock.acquire(timeout=MAX_POSTPONED)

    def after_in_parent(self) -> None:
        if self._held:
            self._held = False
            self.lock.release()


_postponing = _Postponing()


def abandon(thing: object) -> None:
    """Keep `thing` for ever, so that nothing closes it in this process."""
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(thing))


def _after_fork_in_child() -> None:
    _postponing.start_over()
    failure: BaseException | None = None
    for owner in list(_watched):
        try:
            owner.after_fork()
        except BaseException as error:
            failure = error
    if failure is not None:
        raise failure  # Python reports it; the child goes on


if hasattr(os, "register_at_fork"):  # not on Windows, which has no fork
    os.register_at_fork(
        before=_postponing.before,
        after_in_parent=_postponing.after_in_parent,
        after_in_child=_after_fork_in_child,
    )
