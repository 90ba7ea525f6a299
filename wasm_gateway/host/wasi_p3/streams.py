# Streams between guests of WASI 0.3 and the streams of wasi:io (wasi/io.py), which know
# files, sockets and standard streams already.
#
# Rule 1: what the host gives has a future beside it, which tells how the stream ended.
# Rule 2: what a guest gives is written in the very call in which the guest writes, as far
# as the output takes it: nothing of that is lost where the guest traps or exits next. A
# coroutine goes on where the output is full, and ends with the instance.
# Rule 3: of each stream there is one chunk at a time in the host's memory.

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ...component.concurrency import Condition, wait
from ...component.streams import CopyResult, HostBuffer, Promise
from ...component.values import Err, Ok
from ..base import HostContext
from ..wasi.io import (
    MAX_READ,
    PERMIT,
    InputStream,
    IoError,
    OutputStream,
    Pollable,
    StreamClosed,
    StreamFailed,
)

# What tells an error-code: of an IoError, or of None where an output takes no more and says no reason.
Code = Callable[[IoError | None], Any]


class Ending(InputStream):
    """`source` for a guest; `end` tells how it ended: Ok, or Err of an error-code."""

    def __init__(self, source: InputStream, code: Code) -> None:
        self._source = source
        self._code = code
        self.end = Promise()

    def read(self, ctx: HostContext, length: int) -> bytes:
        try:
            return self._source.read(ctx, min(length, MAX_READ))
        except StreamClosed:
            self.end.settle(Ok())
            raise
        except StreamFailed as failed:
            self.end.settle(Err(self._code(failed.error)))
            raise StreamClosed from None

    def pollable(self) -> Pollable:
        return self._source.pollable()

    def close(self, ctx: HostContext) -> None:
        self.end.settle(Ok())
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


def given(source: InputStream, code: Code) -> tuple[InputStream, Promise]:
    """The stream and the future of a `...-via-stream` that reads."""
    ending = Ending(source, code)
    return ending, ending.end


def refused(error: Any) -> tuple[InputStream, Err]:
    """The same where there is nothing to read."""
    return Elements([]), Err(error)


class _Consumer(HostBuffer):
    """What is read into it goes to `output`, as much as that takes."""

    def __init__(self, ctx: HostContext, output: OutputStream) -> None:
        super().__init__(PERMIT)
        self._ctx = ctx
        self._output = output
        self.failure: StreamClosed | StreamFailed | None = None

    def remain(self) -> int:
        try:
            return self._output.check_write(self._ctx)
        except (StreamClosed, StreamFailed) as failure:
            self.failure = failure
            return 1  # which `write` drops

    def write(self, values: Any) -> None:
        if self.failure is None:
            try:
                self._output.write(self._ctx, values)
            except (StreamClosed, StreamFailed) as failure:
                self.failure = failure


async def _consume(ctx: HostContext, stream: Any, output: OutputStream, code: Code) -> Any:
    consumer = _Consumer(ctx, output)
    result = CopyResult.COMPLETED
    while consumer.failure is None and result is not CopyResult.DROPPED:
        ctx.deadline.remaining()  # a file that is appended to itself never ends
        await wait(output.pollable())
        over: list[CopyResult] = []

        def on_copy(reclaim: Callable[[], None], over: list[CopyResult] = over) -> None:
            # the next write finds the buffer still there, if there is room and nothing went wrong
            if consumer.failure is not None:
                reclaim()
                over.append(CopyResult.COMPLETED)

        stream.read(None, consumer, on_copy, over.append)
        await wait(Condition(lambda over=over: bool(over)))  # type: ignore[misc]
        result = over[0]
    stream.drop()
    failure = consumer.failure
    try:
        while failure is None and not output.check_write(ctx):
            await wait(output.pollable())  # for what it has taken and not yet passed on
    except (StreamClosed, StreamFailed) as late:
        failure = late
    output.close(ctx)
    if failure is None:
        return Ok()
    return Err(code(failure.error if isinstance(failure, StreamFailed) else None))


def taken(ctx: HostContext, stream: Any, output: OutputStream, code: Code) -> Promise:
    """The future of a `...-via-stream` that writes what comes from the guest's `stream` to `output`.

    Ok when all is written, Err of an error-code when not. What is under way goes on whether the guest
    keeps the future or not.
    """
    end = Promise()
    ctx.loop.spawn(_consume(ctx, stream, output, code), end.settle)
    return end
