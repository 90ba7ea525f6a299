"""The writing end of a stream, as a guest's is, for tests of host functions that read one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from wasm_gateway.component.concurrency import Condition, wait
from wasm_gateway.component.streams import CopyResult, HostBuffer, SharedStream


async def give(stream: SharedStream, values: Sequence[Any]) -> bool:
    """Write `values` to `stream`; False when nobody reads any more."""
    while values:
        buffer = HostBuffer(len(values), values)
        over: list[CopyResult] = []

        def on_copy(reclaim: Callable[[], None], over: list[CopyResult] = over) -> None:
            reclaim()
            over.append(CopyResult.COMPLETED)

        stream.write(None, buffer, on_copy, over.append)
        try:
            await wait(Condition(lambda over=over: bool(over)))  # type: ignore[misc]
        except GeneratorExit:
            if stream.buffer is buffer:
                stream.reset_pending()
            raise
        if over[0] is not CopyResult.COMPLETED:
            return False
        values = values[buffer.progress :]
    return True
