# How many files and connections all guests of this process may have open together.
#
# Rule: a guest that opens all that it may, or several of them, takes nothing from the
# server around them: a process without a descriptor left accepts no request, native
# ones included. What a process has is up to whoever started it (RLIMIT_NOFILE; 1,024 is
# a common figure), so shares of that are counted here.

from __future__ import annotations

import errno
import os
import threading
from types import ModuleType

from .. import forks

resource: ModuleType | None
try:
    import resource
except ImportError:  # Windows, which has no such limit
    resource = None

# Of all descriptors that the process may have, the percentage that guests have for files and databases, for
# connections, and for those that are kept for the next guest. The rest is the server's.
FILES = 25
CONNECTIONS = 40
KEPT = 10


def share(percentage: int) -> int | None:
    """So much of what this process may have; None for no limit."""
    if resource is None:
        return None
    whole: int = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return None if whole == resource.RLIM_INFINITY else max(whole * percentage // 100, 1)


class Descriptors:
    """Counts those that are in use; `percentage` of the process's may be."""

    def __init__(self, percentage: int) -> None:
        self._percentage = percentage
        self.after_fork()
        forks.watch(self)

    def after_fork(self) -> None:
        self._lock = threading.Lock()  # guards the number
        self.used = 0
        self.limit = share(self._percentage)

    def take(self, count: int = 1) -> None:
        """`count` more are about to be in use; EMFILE when they cannot be."""
        with self._lock:
            if self.limit is not None and self.used + count > self.limit:
                raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
            self.used += count

    def try_take(self) -> bool:
        """The same for one; whether it can be."""
        try:
            self.take()
        except OSError:
            return False
        return True

    def give(self, count: int = 1) -> None:
        """`count` are closed. A child closes some that its parent has taken."""
        with self._lock:
            self.used = max(self.used - count, 0)


files = Descriptors(FILES)
kept = Descriptors(KEPT)
