# Streams between guests of WASI 0.3 and the streams of wasi:io (wasi_io.py), which know
# files, sockets and standard streams already.
#
# Rule 1: what the host gives has a future beside it, which tells how the stream ended.
# Rule 2: what a guest gives is written in the very call in which the guest writes, as far
# as the output takes it: nothing of that is lost where the guest traps or exits next. A
# coroutine goes on where the output is full, and ends with the instance.
# Rule 3: of each stream there is one chunk at a time in the host's memory.

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from ..component.concurrency import Condition, wait
from ..component.streams import CopyResult
from ..component.values import Err
from .base import HostContext
from .wasi_io import MAX_READ, InputStream, IoError, OutputStream, Pollable, StreamClosed, StreamFailed

# What tells an error-code: of an IoError, or of None where an output takes no more and says no reason.
Code = Callable[[IoError | None], Any]
Future = Coroutine[Any, Any, Any]


async def only(results: list[Any]) -> Any:
    """What comes into `results`, once it is there."""
    await wait(Condition(lambda: bool(results)))
    return results[0]


class Ending(InputStream):
    """`source` for a guest; `results` has how it ended when it has: None, or Err of an error-code."""

    def __init__(self, source: InputStream, code: Code) -> None:
        self._source = source
        self._code = code
        self.results: list[Any] = []

    def read(self, ctx: HostContext, length: int) -> bytes:
        if self.results:
            raise StreamClosed
        try:
            return self._source.read(ctx, min(length, MAX_READ))
        except StreamClosed:
            self.results.append(None)
            raise
        except StreamFailed as failed:
            self.results.append(Err(self._code(failed.error)))
            raise StreamClosed from None

    def pollable(self) -> Pollable:
        return self._source.pollable()

    def close(self, ctx: HostContext) -> None:
        if not self.results:
            self.results.append(None)
        self._source.close(ctx)


class Elements(InputStream):
    """A stream of `values` that are there, whatever they are."""

    def __init__(self, values: list[Any]) -> None:
        self._values = values
        self._at = 0

    def read(self, ctx: HostContext, length: int) -> Any:
        at = self._at
        values = self._values[at : at + length]
        if not values and length:
            raise StreamClosed
        self._at = at + len(values)
        return values


def given(source: InputStream, code: Code) -> tuple[InputStream, Future]:
    """The stream and the future of a `...-via-stream` that reads."""
    ending = Ending(source, code)
    return ending, only(ending.results)


async def failed(error: Any) -> Any:
    """The future of a stream that there is not."""
    return Err(error)


def refused(error: Any) -> tuple[InputStream, Future]:
    """The same where there is nothing to read."""
    return Elements([]), failed(error)


class _Consumer:
    """A buffer (streams.py) that is never full: what a stream is read into goes to `output`."""

    length = 1  # it takes elements; how many, `remain` says

    def __init__(self, ctx: HostContext, output: OutputStream) -> None:
        self._ctx = ctx
        self._output = output
        self.failure: StreamClosed | StreamFailed | None = None

    def remain(self) -> int:
        try:
            return self._output.check_write(self._ctx)
        except (StreamClosed, StreamFailed) as failure:
            self.failure = failure
            return 1  # which `write` drops

    def write(self, data: bytes) -> None:
        if self.failure is None:
            try:
                self._output.write(self._ctx, data)
            except (StreamClosed, StreamFailed) as failure:
                self.failure = failure


async def _consume(ctx: HostContext, stream: Any, output: OutputStream, code: Code) -> Any:
    consumer = _Consumer(ctx, output)
    result = CopyResult.COMPLETED
    while consumer.failure is None and result is not CopyResult.DROPPED:
        await wait(output.pollable())
        over: list[CopyResult] = []

        def on_copy(reclaim: Callable[[], None], over: list[CopyResult] = over) -> None:
            # the next write finds the buffer still there, if there is room and nothing went wrong
            if consumer.failure is not None:
                reclaim()
                over.append(CopyResult.COMPLETED)

        stream.read(None, consumer, on_copy, over.append)
        result = await only(over)
    stream.drop()
    failure = consumer.failure
    try:
        while failure is None and not output.check_write(ctx):
            await wait(output.pollable())  # for what it has taken and not yet passed on
    except (StreamClosed, StreamFailed) as late:
        failure = late
    output.close(ctx)
    if failure is None:
        return None
    return Err(code(failure.error if isinstance(failure, StreamFailed) else None))


def taken(ctx: HostContext, stream: Any, output: OutputStream, code: Code) -> Future:
    """The future of a `...-via-stream` that writes what comes from the guest's `stream` to `output`.

    None when all is written, Err of an error-code when not. What is under way goes on whether the guest
    keeps the future or not.
    """
    results: list[Any] = []
    ctx.loop.spawn(_consume(ctx, stream, output, code), results.append)
    return only(results)
