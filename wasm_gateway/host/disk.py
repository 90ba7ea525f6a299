# How much disk the guests of one component may fill, below the folders that they may write to.
#
# Rule 1: what counts is the size of a file, holes included, and ENTRY for each name. It is given back
# with the last name, and not before whoever has the file open closes it.
# Rule 2: whoever changes something holds `lock` from the look before to the count after, so that
# requests side by side cannot fill the same room twice. A file is opened under it too: it counts as
# open from then on.
# Rule 3: what others remove (another process, the operator) is found by looking again when there
# is no room left.

from __future__ import annotations

import errno
import os
import stat
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from .. import forks

# What a name takes, whatever it is of: an inode and its place in a folder, near enough (ext4: a block).
ENTRY = 4096
# A look at all files takes some 3 us for each; beyond so many nobody looks.
MAX_LOOKED_AT = 100_000
# Between two looks: so long, and so many times as long as one took.
LOOK_SECONDS, LOOK_SHARE = 1.0, 20

Key = tuple[int, int]


class Disk:
    """What is added below `folders`, at most `limit` bytes (None: any number), from the first change on.

    Each process counts for itself.
    """

    def __init__(self, limit: int | None, folders: Sequence[bytes] = ()) -> None:
        self._limit = limit
        self._folders = folders
        self.used = 0
        self._before: int | None = None
        self._next_look = 0.0
        self.after_fork()
        forks.watch(self)

    def after_fork(self) -> None:
        self.lock = threading.Lock()  # guards what follows, and `used`
        self._open: dict[Key, set[Any]] = {}  # files that guests have open, each with an `fd`
        self._nameless: set[Key] = set()  # of these, those whose last name we have removed

    @contextmanager
    def adding(self, size: int) -> Iterator[None]:
        """Count `size` bytes more, or fewer, when what is done meanwhile succeeds; ENOSPC."""
        with self.lock:
            self.want(size)
            yield
            self.count(size)

    @contextmanager
    def removing(self, status: Callable[[], os.stat_result | None]) -> Iterator[None]:
        """The name of what has this status, if any, is removed meanwhile."""
        with self.lock:
            gone = status()
            yield
            if gone is not None:
                self.count(-self._freed(gone))

    @contextmanager
    def changing(self, fd: int) -> Iterator[int]:
        """The size of the file `fd`; how it changes until this is left is counted."""
        with self.lock:
            before = os.fstat(fd).st_size
            try:
                yield before
            finally:
                self.count(os.fstat(fd).st_size - before)

    # The rest is called with `lock` held.

    def want(self, size: int) -> None:
        """ENOSPC when there is no room for `size` bytes more."""
        if self._limit is None or size <= 0:
            return
        if self._before is None:
            self._before = self._look()
        if self.used + size > self._limit:
            self._look_again()
            if self.used + size > self._limit:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def count(self, size: int) -> None:
        """`size` bytes were added. Who removes what he has not added gains no room by that."""
        self.used = max(0, self.used + size)

    def opened(self, key: Key, file: Any) -> None:
        self._open.setdefault(key, set()).add(file)

    def closing(self, key: Key, file: Any, fd: int) -> None:
        """`file`, which has been `opened`, is about to close its `fd`."""
        files = self._open.get(key, set())
        files.discard(file)
        if not files:
            self._open.pop(key, None)
            if key in self._nameless:
                self._nameless.remove(key)
                self.count(-os.fstat(fd).st_size)

    def _freed(self, status: os.stat_result) -> int:
        """What has become free now that a name of what had this status is gone."""
        if not stat.S_ISREG(status.st_mode) or status.st_nlink > 1:
            return ENTRY
        key = status.st_dev, status.st_ino
        if key in self._open:
            self._nameless.add(key)
            return ENTRY
        return ENTRY + status.st_size

    def _look(self) -> int:
        """What is there now: -1 for too much to look at."""
        total, count, linked = 0, 0, set()
        folders = list(self._folders)
        while folders:
            try:
                entries = os.scandir(folders.pop())
            except OSError:
                continue
            with entries:
                for entry in entries:
                    count += 1
                    if count > MAX_LOOKED_AT:
                        return -1
                    try:
                        status = entry.stat(follow_symlinks=False)
                    except OSError:
                        continue  # gone meanwhile
                    total += ENTRY
                    if stat.S_ISDIR(status.st_mode):
                        folders.append(os.fsencode(entry.path))
                    elif stat.S_ISREG(status.st_mode):
                        if status.st_nlink > 1:
                            key = status.st_dev, status.st_ino
                            if key in linked:
                                continue
                            linked.add(key)
                        total += status.st_size
        return total

    def _look_again(self) -> None:
        begin = time.monotonic()
        if self._before in (None, -1) or begin < self._next_look:
            return
        found = self._look()
        end = time.monotonic()
        self._next_look = end + max(LOOK_SECONDS, LOOK_SHARE * (end - begin))
        if found != -1:
            # one that is being closed has no number any more, and waits for the lock
            fds = [max(file.fd for file in self._open[key]) for key in self._nameless]
            found += sum(os.fstat(fd).st_size for fd in fds if fd >= 0)
            self.used = min(self.used, max(0, found - self._before))
