# Files that change: which of them did, and a thread that looks.
#
# Rule 1: a file is taken when it has stood still from one look to the next, since a
# compiler may be half way through writing it.
# Rule 2: nothing here knows what the files are. Their content is not read, only
# compared by when it was written, its size and its inode.
# Rule 3: one thread for each watcher and process, started when that process begins to
# serve: a server that only forks workers has none, and looks at nothing.

from __future__ import annotations

import logging
import os
import threading
import time
import weakref
from collections.abc import Callable, Hashable, Iterable
from pathlib import Path

from . import forks

log = logging.getLogger("wasm_gateway")

# Seconds between two looks.
# - Django's and Werkzeug's reloaders: 1
LOOK_SECONDS = 0.5
# Seconds that the first request of a process waits for the first look.
FIRST_LOOK_SECONDS = 2.0
# Seconds that the end of a process waits for a look under way.
LINGER_SECONDS = 5.0

Print = tuple[Path, int, int, int]
Prints = tuple[Print, ...]


def prints_of(paths: Iterable[Path]) -> Prints:
    """What changes with these files."""
    return tuple(map(_print, paths))


def _print(path: Path) -> Print:
    """What changes with the file; the same for one that is not there."""
    try:
        status = path.stat()
    except OSError:
        return path, 0, 0, 0
    return path, status.st_mtime_ns, status.st_size, status.st_ino


def changed_since(paths: Iterable[Path], moment: int) -> bool:
    """Whether anybody has written or replaced one of them since `moment`, in nanoseconds since 1970."""
    for path in paths:
        try:
            status = path.stat()
        except OSError:
            return True
        if max(status.st_mtime_ns, status.st_ctime_ns) > moment:
            return True
    return False


def _at_rest(path: Path) -> bool:
    """Whether nobody has written for as long as from one look to the next."""
    try:
        status = path.stat()
    except OSError:
        return True
    return time.time() - max(status.st_mtime, status.st_ctime) > LOOK_SECONDS


class Files:
    """What groups of files were like when somebody last took them. For one thread at a time."""

    def __init__(self) -> None:
        self._taken: dict[Hashable, Prints] = {}
        self._moving: dict[Hashable, Prints] = {}

    def take(self, key: Hashable, prints: Prints) -> None:
        """The files of `key` have been read, and had these prints before."""
        self._taken[key] = prints
        self._moving.pop(key, None)

    def taken(self, key: Hashable) -> Prints:
        """What the files of `key` were like then."""
        return self._taken.get(key, ())

    def take_too(self, key: Hashable, first: Path, paths: Iterable[Path]) -> None:
        """Of what `key` had before only `first` counts, and now `paths`, which are about to be read."""
        had = tuple(each for each in self._taken.get(key, ()) if each[0] == first)
        self._taken[key] = had + prints_of(paths)

    def changed(self, key: Hashable, paths: Iterable[Path], *, at_once: bool = False) -> bool:
        """Whether the files of `key` are others than those taken, and stand still; they are taken then.

        `at_once` believes the clock about standing still, where nobody has looked before.
        """
        paths = tuple(paths)
        now = prints_of(paths)
        if now == self._taken.get(key):
            self._moving.pop(key, None)
            return False
        still = now == self._moving.get(key) or (at_once and all(map(_at_rest, paths)))
        if not still:
            self._moving[key] = now
            return False
        self._taken[key] = now
        self._moving.pop(key, None)
        return True


class Watcher:
    """Calls a method every LOOK_SECONDS, in a thread, as long as its object lives.

    It is told as `at_once` that this is the first look of the process.
    """

    def __init__(self, look: Callable[[bool], object]) -> None:
        self._look = weakref.WeakMethod(look)
        self._start_over()
        forks.watch(self)

    def _start_over(self) -> None:
        self._lock = threading.Lock()  # guards start and stop
        self._end: Callable[[], object] | None = None
        self.running = False

    after_fork = _start_over

    def start(self) -> None:
        """Look, and go on looking in a thread; nothing the second time in a process.

        The first look is waited for, but not for long: it may have to compile a guest.
        """
        with self._lock:
            if self.running or self._look() is None:
                return
            looked, stop = threading.Event(), threading.Event()
            thread = threading.Thread(
                target=_run, args=(self._look, looked, stop), name="wasm-watch", daemon=True
            )
            try:
                thread.start()
            except RuntimeError as error:
                log.warning("changed guests are not noticed: no thread can be started: %s", error)
                return
            self._end = weakref.finalize(self, _stop, stop, thread, os.getpid())
            looked.wait(FIRST_LOOK_SECONDS)
            self.running = True

    def stop(self) -> None:
        """Look no more; a look under way is waited for."""
        with self._lock:
            end, self._end = self._end, None
            self.running = False
        if end is not None:
            end()


def _run(
    method: weakref.WeakMethod[Callable[[bool], object]], looked: threading.Event, stop: threading.Event
) -> None:
    while True:
        look = method()
        if look is None:
            return
        try:
            look(not looked.is_set())
        except Exception:
            log.exception("looking for changed files failed")
        del look
        looked.set()
        if stop.wait(LOOK_SECONDS):
            return


def _stop(stop: threading.Event, thread: threading.Thread, owner: int) -> None:
    if owner != os.getpid():
        return  # in a forked child, where nobody gives back what the thread holds
    stop.set()
    if thread is not threading.current_thread():
        thread.join(LINGER_SECONDS)
