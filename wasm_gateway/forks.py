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
# This is the one registry of the process, because os.register_at_fork takes
# callbacks that can never be taken back.

from __future__ import annotations

import ctypes
import os
import weakref
from typing import Protocol


class ForkAware(Protocol):
    """An object that holds connections, locks or threads of this process."""

    def after_fork(self) -> None:
        """Called in the child, whose only thread this is: forget everything, locks too."""
        ...


_watched: weakref.WeakSet[ForkAware] = weakref.WeakSet()


def watch(owner: ForkAware) -> None:
    """Call `owner.after_fork()` in each child process, as long as `owner` lives."""
    _watched.add(owner)


def abandon(thing: object) -> None:
    """Keep `thing` for ever, so that nothing closes it in this process."""
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(thing))


def _after_fork_in_child() -> None:
    failure: BaseException | None = None
    for owner in list(_watched):
        try:
            owner.after_fork()
        except BaseException as error:
            failure = error
    if failure is not None:
        raise failure  # Python reports it; the child goes on


if hasattr(os, "register_at_fork"):  # not on Windows, which has no fork
    os.register_at_fork(after_in_child=_after_fork_in_child)
