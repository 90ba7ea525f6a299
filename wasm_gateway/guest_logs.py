# What guests write to stdout and stderr: to Python's logging, to Spin's log files,
# and raw to our own stderr for the components that are followed.
#
# Rule 1: nothing a guest writes can cost without bound. A line waits in at most
# MAX_PARTIAL bytes, a component writes RATE bytes a second after a burst of BURST,
# a file is set aside at MAX_FILE; what is over is dropped, counted and reported.
# Rule 2: files and the copy on stderr are raw, byte for byte, as Spin has them
# (Spin: host interfaces, 2). A record of `logging` is one line of printable text:
# a guest can forge neither a second record nor a colour of the terminal.
# Rule 3: several threads, processes and instances may write at once. Each writes
# whole lines, in one append (O_APPEND) per write; no lock is held across processes
# but for the rename that sets a full file aside.
# Rule 4: a log that cannot be written never fails a request.

from __future__ import annotations

import logging
import os
import re
import stat
import sys
import threading
import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Literal

from . import forks

log = logging.getLogger("wasm_gateway")

Stream = Literal["stdout", "stderr"]

# A line longer than this is passed on in pieces.
MAX_PARTIAL = 8 << 10
# Bytes a second and component and process; a line counts LINE_COST more, since a
# record of `logging` costs some 10 us whatever its length.
RATE = 1 << 20
BURST = 4 << 20
LINE_COST = 64
# A log file of this size is renamed to `<name>.1`, replacing the one before.
MAX_FILE = 64 << 20
# Characters of one record.
MAX_RECORD = 4 << 10
# How often a file is looked at, whether somebody has moved it (logrotate), in seconds.
CHECK_EVERY = 1.0

# stderr is where runtimes report panics and uncaught exceptions.
LEVELS: dict[Stream, int] = {"stdout": logging.INFO, "stderr": logging.WARNING}

_UNSAFE_IN_NAMES = re.compile(r'[/\\?<>:*|"\x00-\x1f\x7f]')
_UNPRINTABLE = re.compile(r"[\x00-\x08\x0a-\x1f\x7f-\x9f\u2028\u2029]")


def file_name(component: str, stream: Stream) -> str:
    """The name of a component's log file (Spin: command line, 4)."""
    safe = _UNSAFE_IN_NAMES.sub("_", component).strip(". ") or "_"
    return f"{safe[:200]}_{stream}.txt"


def truncate(log_dir: str | os.PathLike[str]) -> None:
    """Empty every `*stdout.txt` and `*stderr.txt` in `log_dir` (Spin: --truncate-logs)."""
    folder = Path(log_dir)
    for stream in LEVELS:
        for path in folder.glob(f"*{stream}.txt"):
            os.truncate(path, 0)


def write_stderr(data: bytes) -> None:
    """All of `data` to this process's stderr, past every buffer; a closed stderr is not an error."""
    view = memoryview(data)
    try:
        while view:
            view = view[os.write(2, view) :]
    except OSError:
        return


class GuestLogs:
    """Where the output of an application's guests goes.

    `log_dir`: folder of Spin's log files, made when it is needed; None for no files. `follow`: ids of the
    components whose output is also copied to `echo` (this process's stderr); None for all of them.
    The loggers are `wasm_gateway.guest.<component>`: stdout is INFO, stderr is WARNING.
    """

    def __init__(
        self,
        log_dir: str | os.PathLike[str] | None = None,
        *,
        follow: Collection[str] | None = (),
        echo: Callable[[bytes], object] = write_stderr,
        rate: int = RATE,
        burst: int = BURST,
        max_file: int = MAX_FILE,
    ) -> None:
        self.log_dir = Path(log_dir) if log_dir else None
        self._follow = follow
        self._echo = echo
        self._rate, self._burst, self._max_file = rate, burst, max_file
        self._lock = threading.Lock()  # guards _components
        self._components: dict[str, ComponentLog] = {}
        forks.watch(self)

    def after_fork(self) -> None:
        self._lock = threading.Lock()
        for component in self._components.values():
            component.lock = threading.Lock()

    def component(self, component: str) -> ComponentLog:
        """The log of one component."""
        found = self._components.get(component)
        if found is None:
            with self._lock:
                found = self._components.get(component)
                if found is None:
                    follows = self._follow is None or component in self._follow
                    found = self._components[component] = ComponentLog(
                        component,
                        self.log_dir,
                        self._echo if follows else None,
                        Budget(self._rate, self._burst),
                        self._max_file,
                    )
        return found

    def open(self, component: str) -> InstanceLog:
        """The log of one instance of `component`: its lines stay whole among those of other instances."""
        return InstanceLog(self.component(component))

    def write(self, component: str, stream: Stream, data: bytes) -> None:
        """`data` as it is, without waiting for the end of its line."""
        if data:
            self.component(component).emit(stream, data)

    def close(self) -> None:
        """Close the files. Writing afterwards opens them again."""
        with self._lock:
            for component in self._components.values():
                component.close()


class InstanceLog:
    """Output of one instance, held back until its line is complete; used by one thread."""

    __slots__ = ("_component", "_partial")

    def __init__(self, component: ComponentLog) -> None:
        self._component = component
        self._partial: dict[Stream, bytearray] = {}

    def write(self, stream: Stream, data: bytes) -> None:
        """`data` as the guest wrote it; it may end anywhere."""
        partial = self._partial.get(stream)
        end = data.rfind(b"\n") + 1
        if partial is None and end == len(data):  # whole lines, the usual case
            if data:
                self._component.emit(stream, data)
            return
        if partial is None:
            partial = self._partial[stream] = bytearray()
        if end:
            self._component.emit(stream, bytes(partial) + data[:end])
            partial.clear()
            data = data[end:]
        if len(partial) + len(data) > MAX_PARTIAL:
            self._component.emit(stream, bytes(partial) + data)
            partial.clear()
        else:
            partial += data

    def close(self) -> None:
        """Pass on what has no end of line yet. Safe to call twice."""
        for stream, partial in self._partial.items():
            if partial:
                self._component.emit(stream, bytes(partial))
                partial.clear()


class Budget:
    """A token bucket: `rate` a second, `burst` at the most."""

    __slots__ = ("_at", "_left", "burst", "rate")

    def __init__(self, rate: int, burst: int) -> None:
        self.rate, self.burst = rate, burst
        self._left = float(burst)
        self._at = time.monotonic()

    def take(self, cost: int) -> bool:
        now = time.monotonic()
        self._left = min(self.burst, self._left + (now - self._at) * self.rate)
        self._at = now
        if cost > self._left:
            return False
        self._left -= cost
        return True


class ComponentLog:
    """The output of all instances of one component in this process."""

    def __init__(
        self,
        component: str,
        log_dir: Path | None,
        echo: Callable[[bytes], object] | None,
        budget: Budget,
        max_file: int,
    ) -> None:
        self.id = component
        self.lock = threading.Lock()  # guards budget, files and the number dropped
        self._echo = echo
        self._budget = budget
        self._dropped = 0
        self._files: dict[Stream, LogFile] = {}
        if log_dir is not None:
            self._files = {
                stream: LogFile(log_dir / file_name(component, stream), max_file) for stream in LEVELS
            }
        self._logger = logging.getLogger(f"wasm_gateway.guest.{component}")

    def emit(self, stream: Stream, data: bytes) -> None:
        """`data` to every place it belongs, or to none when the component is over its budget."""
        with self.lock:
            if not self._budget.take(len(data) + LINE_COST * data.count(b"\n")):
                first, self._dropped = not self._dropped, self._dropped + len(data)
                if first:
                    rate = self._budget.rate
                    log.warning("output of component %r is over %d bytes/s: dropping it", self.id, rate)
                return
            if self._dropped:
                data = b"[wasm-gateway] %d bytes dropped\n%s" % (self._dropped, data)
                self._dropped = 0
            file = self._files.get(stream)
            if file is not None:
                file.append(data)
        if self._echo is not None:
            self._echo(data)
        level = LEVELS[stream]
        if self._logger.isEnabledFor(level):
            for line in data.splitlines():
                self._logger.log(level, "%s", printable(line), extra={"component": self.id, "stream": stream})

    def close(self) -> None:
        with self.lock:
            for file in self._files.values():
                file.close()


def printable(line: bytes) -> str:
    """One line of a guest as text that can be shown: no control characters, bounded."""
    text = line[: MAX_RECORD * 4].decode("utf-8", "backslashreplace")
    text = _UNPRINTABLE.sub(lambda match: match[0].encode("unicode_escape").decode(), text)
    return text if len(text) <= MAX_RECORD else f"{text[:MAX_RECORD]} ... ({len(line)} bytes)"


class LogFile:
    """A file that only grows, shared with other processes, set aside when it is full.

    Not thread-safe: ComponentLog's lock is held around it.
    """

    def __init__(self, path: Path, max_size: int) -> None:
        self.path = path
        self._max_size = max_size
        self._fd: int | None = None
        self._checked = 0.0
        self._failed = False

    def append(self, data: bytes) -> None:
        try:
            fd = self._ready()
            view = memoryview(data)
            while view:
                view = view[os.write(fd, view) :]
        except OSError as error:
            self.close()
            if not self._failed:  # once until it works again: a full disk is no reason to fill the other log
                log.error("output of guests cannot be written to %s: %s", self.path, error)
            self._failed = True
        else:
            self._failed = False

    def close(self) -> None:
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def _ready(self) -> int:
        """The descriptor to write to: opened, not moved away by somebody, not full."""
        now = time.monotonic()
        if self._fd is not None and now - self._checked > CHECK_EVERY:
            self._checked = now
            if not self._is_ours(self._fd):
                self.close()
        if self._fd is None:
            self._fd = self._open()
            self._checked = now
        status = os.fstat(self._fd)
        if status.st_size >= self._max_size and stat.S_ISREG(status.st_mode):
            self._set_aside(self._fd)
            os.close(self._fd)
            self._fd = None
            self._fd = self._open()
        return self._fd

    def _open(self) -> int:
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_BINARY", 0)
        try:
            return os.open(self.path, flags, 0o644)
        except FileNotFoundError:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            return os.open(self.path, flags, 0o644)

    def _is_ours(self, fd: int) -> bool:
        """Whether the path still names the file behind `fd`."""
        try:
            return os.path.samestat(os.stat(self.path), os.fstat(fd))
        except FileNotFoundError:
            return False

    def _set_aside(self, fd: int) -> None:
        """Rename the full file, unless another process was first: the file's own lock decides."""
        if sys.platform == "win32":
            return  # an open file cannot be renamed there, and there is no flock
        import fcntl

        fcntl.flock(fd, fcntl.LOCK_EX)
        try:
            if self._is_ours(fd):
                os.replace(self.path, f"{self.path}.1")
        finally:
            fcntl.flock(fd, fcntl.LOCK_UN)
