# wasi:io 0.2: errors, pollables and streams, for every other family of WASI 0.2.
#
# Rule 1: a stream or pollable of a guest is a Python object of the classes below; other
# families extend them (bodies of HTTP, files, sockets). What is said of streams in WIT
# is done here once, on top of a few methods.
# Rule 2: nothing waits longer than the instance's deadline, and nothing waits by turning
# in a circle: a pollable is due at a time, follows a file descriptor, or is woken from
# another thread through its instance's Waker.

from __future__ import annotations

import math
import select
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, ClassVar

from ...component.values import End, Err
from ...errors import Trap
from ..base import HostContext
from ..limits import Share

_TEXT = """
package wasi:io@0.2.0;
interface error {
  resource error { to-debug-string: func() -> string; }
}
interface poll {
  resource pollable {
    ready: func() -> bool;
    block: func();
  }
  poll: func(in: list<borrow<pollable>>) -> list<u32>;
}
interface streams {
  use error.{error};
  use poll.{pollable};
  variant stream-error { last-operation-failed(error), closed }
  resource input-stream {
    read: func(len: u64) -> result<list<u8>, stream-error>;
    blocking-read: func(len: u64) -> result<list<u8>, stream-error>;
    skip: func(len: u64) -> result<u64, stream-error>;
    blocking-skip: func(len: u64) -> result<u64, stream-error>;
    subscribe: func() -> pollable;
  }
  resource output-stream {
    check-write: func() -> result<u64, stream-error>;
    write: func(contents: list<u8>) -> result<_, stream-error>;
    blocking-write-and-flush: func(contents: list<u8>) -> result<_, stream-error>;
    flush: func() -> result<_, stream-error>;
    blocking-flush: func() -> result<_, stream-error>;
    subscribe: func() -> pollable;
    write-zeroes: func(len: u64) -> result<_, stream-error>;
    blocking-write-zeroes-and-flush: func(len: u64) -> result<_, stream-error>;
    splice: func(src: borrow<input-stream>, len: u64) -> result<u64, stream-error>;
    blocking-splice: func(src: borrow<input-stream>, len: u64) -> result<u64, stream-error>;
  }
}
"""
INTERFACES = {"wasi:io/error@0.2": _TEXT, "wasi:io/poll@0.2": _TEXT, "wasi:io/streams@0.2": _TEXT}

# The most that one read gives, whatever the guest asks for.
MAX_READ = 1 << 20
# What a stream that never blocks lets a guest write at once.
PERMIT = 1 << 20
# Seconds after which a guest that waits is asked for: its client may have left.
WATCH_SECONDS = 0.25
# The limit of the blocking-...-and-flush functions (wasi:io/streams, output-stream).
MAX_BLOCKING_WRITE = 4096

# Events of a descriptor: POLLIN and POLLOUT, also where there is no select.poll.
READABLE, WRITABLE = 1, 4


class IoError:
    """The resource wasi:io/error: what went wrong, for people; `http_code` is an error-code of wasi:http."""

    __slots__ = ("debug", "http_code")

    def __init__(self, debug: str, http_code: Any = None) -> None:
        self.debug = debug
        self.http_code = http_code


class StreamClosed(End):
    """The end of a stream."""


class StreamFailed(Exception):
    """An operation of a stream failed; the stream is closed."""

    def __init__(self, error: IoError) -> None:
        super().__init__(error.debug)
        self.error = error


# Pollables.


class Pollable:
    """The resource wasi:io/poll pollable.

    `due` is when it becomes ready (time.monotonic), `fd` the descriptor and the events (READABLE, WRITABLE)
    that make it so, looked at when `ready` has said no. With neither, another thread makes it ready and
    then calls Waker.wake().
    """

    due: float | None = None
    fd: tuple[int, int] | None = None
    inside = False  # whether nothing but the guest itself makes it ready

    def ready(self) -> bool:
        raise NotImplementedError


class _Ready(Pollable):
    def ready(self) -> bool:
        return True


READY = _Ready()


class Timer(Pollable):
    """Ready at the monotonic time `due`."""

    def __init__(self, due: float) -> None:
        self.due = due

    def ready(self) -> bool:
        return self.due is not None and time.monotonic() >= self.due


class Waker:
    """Ends the waiting of an instance from any thread; `waker(ctx)` makes the one of an instance."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # guards the descriptors against a late wake
        self._read, self._write = socket.socketpair()  # select.select takes no pipe on Windows
        self._read.setblocking(False)
        self._write.setblocking(False)
        self._open = True

    def wake(self) -> None:
        with self._lock:
            if self._open:
                try:
                    self._write.send(b"\0")
                except BlockingIOError:
                    pass  # enough of them are there already

    def fileno(self) -> int:
        return self._read.fileno()

    def clear(self) -> None:
        try:
            while self._read.recv(4096):
                pass
        except BlockingIOError:
            pass

    def close(self) -> None:
        with self._lock:
            self._open = False
            self._read.close()
            self._write.close()


def waker(ctx: HostContext) -> Waker:
    """The Waker of this instance; asked for before a thread is given something to do."""
    found: Waker | None = ctx.state.get(Waker)
    if found is None:
        found = ctx.state[Waker] = Waker()
        ctx.on_close(found.close)
    return found


def background(ctx: HostContext) -> set[Pollable]:
    """What goes on while this instance waits for something else: asked whether it is ready until it is."""
    found: set[Pollable] = ctx.state.setdefault(background, set())
    return found


def wait_any(ctx: HostContext, pollables: Sequence[Pollable]) -> None:
    """Return when one of `pollables` is ready at least; DeadlineExceeded when none is in time."""
    woken: Waker | None = ctx.state.get(Waker)
    beside: set[Pollable] = ctx.state.get(background, set())
    while True:
        if woken is not None:
            woken.clear()
        if any(pollable.ready() for pollable in pollables):
            return
        if ctx.before_wait is not None:
            ctx.before_wait()
        beside -= {pollable for pollable in beside if pollable.ready()}
        waited = [*pollables, *beside]
        left = ctx.deadline.remaining()
        if ctx.deadline.gone is not None:
            left = min(left, WATCH_SECONDS)
        dues = [pollable.due for pollable in waited if pollable.due is not None]
        if dues:
            left = min(left, max(0.0, min(dues) - time.monotonic()))
        wanted = {pollable.fd for pollable in waited if pollable.fd is not None}
        if woken is not None:
            wanted.add((woken.fileno(), READABLE))
        wait_descriptors(wanted, left)


def wait_descriptors(wanted: Iterable[tuple[int, int]], timeout: float) -> bool:
    """Wait for so many seconds until one of these descriptors has its events, or fails; whether one has."""
    events: dict[int, int] = {}
    for fd, event in wanted:
        events[fd] = events.get(fd, 0) | event
    if hasattr(select, "poll"):
        poll = select.poll()
        for fd, event in events.items():
            poll.register(fd, event)
        return bool(poll.poll(math.ceil(timeout * 1000)))
    if not events:  # Windows: "empty sequences for all three are not allowed"
        time.sleep(timeout)
        return False
    reads, writes = ([fd for fd in events if events[fd] & event] for event in (READABLE, WRITABLE))
    return any(select.select(reads, writes, list(events), timeout))


# Streams.


class InputStream:
    """The resource wasi:io/streams input-stream."""

    def read(self, ctx: HostContext, length: int) -> bytes:
        """Up to `length` bytes that are there now, b"" for none; StreamClosed at the end, StreamFailed."""
        raise NotImplementedError

    def blocking_read(self, ctx: HostContext, length: int) -> bytes:
        """The same, but waits for the first byte."""
        while True:
            data = self.read(ctx, length)
            if data or not length:
                return data
            wait_any(ctx, [self.pollable()])

    def at_end(self) -> bool:
        """Whether it is known, without waiting for anybody, that nothing more comes."""
        return False

    def pollable(self) -> Pollable:
        """Ready when a read would not be in vain."""
        return READY

    def close(self, ctx: HostContext) -> None:
        """The guest dropped the stream."""

    def abandon(self) -> None:
        """Nobody will read the rest, not even for what comes after it."""


class OutputStream:
    """The resource wasi:io/streams output-stream; `permit` is what check-write has allowed."""

    permit = 0

    def check_write(self, ctx: HostContext) -> int:
        """How many bytes may be written now; StreamClosed, StreamFailed."""
        return PERMIT

    def write(self, ctx: HostContext, data: bytes) -> None:
        """Take all of `data`, no longer than check_write said."""
        raise NotImplementedError

    def flush(self, ctx: HostContext) -> None:
        """Begin to pass on what was written; until that is done check_write gives 0."""

    def blocking_write(self, ctx: HostContext, data: bytes) -> None:
        """Write all of `data`, and wait until it is passed on."""
        at = 0
        while at < len(data):
            permit = self.wait(ctx)
            chunk = data if not at and permit >= len(data) else data[at : at + permit]
            self.write(ctx, chunk)
            at += len(chunk)
        self.flush(ctx)
        self.wait(ctx)

    def wait(self, ctx: HostContext) -> int:
        """What check_write gives, once that is more than 0."""
        while not (permit := self.check_write(ctx)):
            wait_any(ctx, [self.pollable()])
        return permit

    def pollable(self) -> Pollable:
        """Ready when check_write would give more than 0, or fail."""
        return READY

    def close(self, ctx: HostContext) -> None:
        """The guest dropped the stream."""


class BytesInput(InputStream):
    """A stream of bytes that are there."""

    def __init__(self, data: bytes = b"") -> None:
        self._data = data
        self._at = 0
        self.share: Share | None = None  # where the instance holds it

    def read(self, ctx: HostContext, length: int) -> bytes:
        at = self._at
        data = self._data[at : at + length]
        if not data and length:
            raise StreamClosed
        self._at = at + len(data)
        return data

    def at_end(self) -> bool:
        return self._at >= len(self._data)


class IteratorInput(InputStream):
    """A stream of chunks from an iterable, which is asked for the next one when all before is read."""

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self._chunks: Iterator[bytes] = iter(chunks)
        self._chunk = b""
        self._at = 0
        self._over = False

    def read(self, ctx: HostContext, length: int) -> bytes:
        if not length:
            return b""
        while self._at >= len(self._chunk):
            following = None if self._over else self.next(ctx)
            if following is None:
                self._chunk, self._at, self._over = b"", 0, True
                raise StreamClosed
            self._chunk, self._at = following, 0
        at, chunk = self._at, self._chunk
        self._at = at + length
        return chunk if not at and len(chunk) <= length else chunk[at : at + length]

    def at_end(self) -> bool:
        return self._over

    def next(self, ctx: HostContext) -> bytes | None:
        """The next chunk, None at the end."""
        return next(self._chunks, None)


class SinkOutput(OutputStream):
    """A stream into a function, which may raise."""

    def __init__(self, sink: Callable[[bytes], object]) -> None:
        self._sink = sink

    def write(self, ctx: HostContext, data: bytes) -> None:
        self._sink(data)


# What guests call.

_CLOSED = Err(("closed", None))


def _failure(exc: StreamClosed | StreamFailed) -> Err:
    return _CLOSED if isinstance(exc, StreamClosed) else Err(("last-operation-failed", exc.error))


def read(ctx: HostContext, stream: InputStream, length: int) -> Any:
    try:
        return stream.read(ctx, min(length, MAX_READ))
    except (StreamClosed, StreamFailed) as exc:
        return _failure(exc)


def blocking_read(ctx: HostContext, stream: InputStream, length: int) -> Any:
    try:
        return stream.blocking_read(ctx, min(length, MAX_READ))
    except (StreamClosed, StreamFailed) as exc:
        return _failure(exc)


def skip(ctx: HostContext, stream: InputStream, length: int) -> Any:
    data = read(ctx, stream, length)
    return data if isinstance(data, Err) else len(data)


def blocking_skip(ctx: HostContext, stream: InputStream, length: int) -> Any:
    data = blocking_read(ctx, stream, length)
    return data if isinstance(data, Err) else len(data)


def check_write(ctx: HostContext, stream: OutputStream) -> Any:
    try:
        stream.permit = permit = stream.check_write(ctx)
    except (StreamClosed, StreamFailed) as exc:
        return _failure(exc)
    return permit


def write(ctx: HostContext, stream: OutputStream, data: bytes) -> Any:
    if len(data) > stream.permit:
        raise Trap(f"output-stream.write of {len(data)} bytes, where check-write permitted {stream.permit}")
    stream.permit -= len(data)
    try:
        stream.write(ctx, data)
    except (StreamClosed, StreamFailed) as exc:
        return _failure(exc)
    return None


def flush(ctx: HostContext, stream: OutputStream) -> Any:
    stream.permit = 0
    try:
        stream.flush(ctx)
    except (StreamClosed, StreamFailed) as exc:
        return _failure(exc)
    return None


def _blocking_write(ctx: HostContext, stream: OutputStream, data: bytes) -> Any:
    stream.permit = 0
    try:
        stream.blocking_write(ctx, data)
    except (StreamClosed, StreamFailed) as exc:
        return _failure(exc)
    return None


def blocking_write_and_flush(ctx: HostContext, stream: OutputStream, data: bytes) -> Any:
    if len(data) > MAX_BLOCKING_WRITE:
        raise Trap(f"blocking-write-and-flush of {len(data)} bytes, at most {MAX_BLOCKING_WRITE} are allowed")
    return _blocking_write(ctx, stream, data)


def blocking_flush(ctx: HostContext, stream: OutputStream) -> Any:
    return _blocking_write(ctx, stream, b"")


def write_zeroes(ctx: HostContext, stream: OutputStream, length: int) -> Any:
    if length > stream.permit:
        raise Trap(f"output-stream.write-zeroes of {length} bytes, where {stream.permit} were permitted")
    return write(ctx, stream, bytes(length))


def blocking_write_zeroes_and_flush(ctx: HostContext, stream: OutputStream, length: int) -> Any:
    if length > MAX_BLOCKING_WRITE:
        raise Trap(
            f"blocking-write-zeroes-and-flush of {length} bytes, at most {MAX_BLOCKING_WRITE} are allowed"
        )
    return _blocking_write(ctx, stream, bytes(length))


def splice(ctx: HostContext, stream: OutputStream, source: InputStream, length: int) -> Any:
    try:
        permit = stream.check_write(ctx)
        data = source.read(ctx, min(length, permit, MAX_READ))
        stream.write(ctx, data)
    except (StreamClosed, StreamFailed) as exc:
        return _failure(exc)
    stream.permit = 0
    return len(data)


def blocking_splice(ctx: HostContext, stream: OutputStream, source: InputStream, length: int) -> Any:
    try:
        permit = stream.wait(ctx)
        data = source.blocking_read(ctx, min(length, permit, MAX_READ))
        stream.write(ctx, data)
    except (StreamClosed, StreamFailed) as exc:
        return _failure(exc)
    stream.permit = 0
    return len(data)


def poll(ctx: HostContext, pollables: Sequence[Pollable]) -> list[int]:
    """The places of those that are ready, one at least (wasi:io/poll)."""
    if not pollables:
        raise Trap("poll of no pollable")
    while True:
        ready = [i for i, pollable in enumerate(pollables) if pollable.ready()]
        if ready:
            return ready
        wait_any(ctx, pollables)


class WasiIo:
    """wasi:io; it shares nothing among instances."""

    FUNCTIONS: ClassVar[dict[str, dict[str, Callable[..., Any]]]] = {
        "wasi:io/error@0.2": {"[method]error.to-debug-string": lambda ctx, error: error.debug},
        "wasi:io/poll@0.2": {
            "[method]pollable.ready": lambda ctx, pollable: pollable.ready(),
            "[method]pollable.block": lambda ctx, pollable: wait_any(ctx, [pollable]),
            "poll": poll,
        },
        "wasi:io/streams@0.2": {
            "[method]input-stream.read": read,
            "[method]input-stream.blocking-read": blocking_read,
            "[method]input-stream.skip": skip,
            "[method]input-stream.blocking-skip": blocking_skip,
            "[method]input-stream.subscribe": lambda ctx, stream: stream.pollable(),
            "[resource-drop]input-stream": lambda ctx, stream: stream.close(ctx),
            "[method]output-stream.check-write": check_write,
            "[method]output-stream.write": write,
            "[method]output-stream.blocking-write-and-flush": blocking_write_and_flush,
            "[method]output-stream.flush": flush,
            "[method]output-stream.blocking-flush": blocking_flush,
            "[method]output-stream.subscribe": lambda ctx, stream: stream.pollable(),
            "[method]output-stream.write-zeroes": write_zeroes,
            "[method]output-stream.blocking-write-zeroes-and-flush": blocking_write_zeroes_and_flush,
            "[method]output-stream.splice": splice,
            "[method]output-stream.blocking-splice": blocking_splice,
            "[resource-drop]output-stream": lambda ctx, stream: stream.close(ctx),
        },
    }

    def functions(self, interface: str) -> dict[str, Callable[..., Any]]:
        return self.FUNCTIONS[interface]

    def close(self) -> None:
        pass
