# Timing that holds on a machine which does other things too.
#
# Rule 1: what is compared is interleaved (A B A B ...), so that a slow second hits all
# of it; the order turns round every time.
# Rule 2: medians, of many short calls each timed alone; a mean would measure the neighbours.
# Beside them stands the CPU time of the process, which neighbours change far less.
# Rule 3: where the rounds disagree, more are run, and the table says by how much they do.

from __future__ import annotations

import asyncio
import statistics
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from itertools import repeat
from time import perf_counter_ns, process_time_ns
from typing import TypeVar

Key = TypeVar("Key")


@dataclass(frozen=True, slots=True)
class Block:
    """`run(count)` does something `count * size` times and gives `count` times in microseconds."""

    run: Callable[[int], list[float]]
    size: int = 1


# The rounds disagree when the middle half of their medians is wider than this part of the median;
# then as many again are run, so many times at most.
WIDE = 0.10
AGAIN = 2

# A round of one subject is not much longer than this, in microseconds: the others' turn comes soon.
ROUND_US = 60_000


@dataclass(frozen=True, slots=True)
class Effort:
    """How long to measure: `rounds` of `calls` each, after `warmup` calls that do not count."""

    rounds: int
    calls: int
    warmup: int


USUAL = Effort(rounds=9, calls=150, warmup=50)
QUICK = Effort(rounds=2, calls=3, warmup=1)


@dataclass(frozen=True, slots=True)
class Timing:
    """Microseconds of one call; `cpu` is the process' own, user and system, over all its threads.

    `spread` is the middle half of the rounds' medians, in percent of the median.
    """

    median: float
    p95: float
    cpu: float
    spread: float


def calls(function: Callable[[], object]) -> Block:
    """Times each call of `function`."""

    def block(count: int) -> list[float]:
        times = []
        for _ in repeat(None, count):
            begin = perf_counter_ns()
            function()
            times.append((perf_counter_ns() - begin) / 1e3)
        return times

    return Block(block)


def many(function: Callable[[], object], size: int = 500) -> Block:
    """Times `size` calls of `function` together, for those that take less than the clock does."""

    def block(count: int) -> list[float]:
        times = []
        for _ in repeat(None, count):
            begin = perf_counter_ns()
            for _ in repeat(None, size):
                function()
            times.append((perf_counter_ns() - begin) / 1e3 / size)
        return times

    return Block(block, size)


def awaits(
    loop: asyncio.AbstractEventLoop, function: Callable[[], Awaitable[object]], size: int = 1
) -> Block:
    """Times `size` times `await function()` on `loop` together."""

    async def block(count: int) -> list[float]:
        times = []
        for _ in repeat(None, count):
            begin = perf_counter_ns()
            for _ in repeat(None, size):
                await function()
            times.append((perf_counter_ns() - begin) / 1e3 / size)
        return times

    return Block(lambda count: loop.run_until_complete(block(count)), size)


def interleaved(subjects: Mapping[Key, Block], effort: Effort) -> dict[Key, Timing]:
    """Every subject's timing; each round runs all of them, every other round in reverse."""
    samples = {name: Samples(block, effort) for name, block in subjects.items()}
    for _ in range(1 + AGAIN):
        for turn in range(effort.rounds):
            order = list(samples.values())
            for sample in reversed(order) if turn % 2 else order:
                sample.take()
        if effort is QUICK or all(sample.spread() <= WIDE for sample in samples.values()):
            break
    return {name: sample.timing() for name, sample in samples.items()}


class Samples:
    """The rounds of one subject."""

    def __init__(self, block: Block, effort: Effort) -> None:
        self._block = block
        usual = statistics.median(block.run(effort.warmup)) * block.size
        self._count = max(min(effort.calls, int(ROUND_US / usual)), 3)
        self._times: list[list[float]] = []
        self._cpu: list[float] = []

    def take(self) -> None:
        begin = process_time_ns()
        self._times.append(self._block.run(self._count))
        self._cpu.append((process_time_ns() - begin) / 1e3 / self._count / self._block.size)

    def spread(self) -> float:
        """How far the medians of the rounds lie apart: their middle half, as a part of the median."""
        medians = [statistics.median(times) for times in self._times]
        if len(medians) < 4:
            return 0.0
        low, middle, high = statistics.quantiles(medians, n=4)
        return (high - low) / middle

    def timing(self) -> Timing:
        together = sorted(time for times in self._times for time in times)
        return Timing(
            median=statistics.median(together),
            p95=together[len(together) * 95 // 100],
            cpu=statistics.median(self._cpu),
            spread=self.spread() * 100,
        )
