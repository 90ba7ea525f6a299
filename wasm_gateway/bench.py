# The latency of one route: how it is spread, and where the time of a request goes.
#
# Rule 1: requests go one after the other to `Gateway.handle`; servers, sockets and waiting
# for a place are not in the figures.
# Rule 2: the spread comes from a gateway that nobody watches, the phases from a second
# one, taken apart (stopwatch.py), which is a little slower for it.
# Rule 3: whatever a guest answers is a sample; how often which status came is told.

from __future__ import annotations

import math
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import perf_counter_ns

from .errors import ManifestError
from .gateway import Gateway, Target
from .messages import Request
from .stopwatch import PHASES, Stopwatch

WARM_UP = 20
# The phases are medians of so many requests at most: they settle early, and each costs stamps.
MAX_LAPS = 500
BINS = 10
BAR = 40

WORDS = {
    "store": "instance, start",
    "guest": "guest code",
    "abi": "arguments, answer",
    "host": "host calls",
    "drop": "instance, end",
    "rest": "gateway",
}


@dataclass(frozen=True, slots=True)
class Bin:
    """How many requests took from `low` up to and not including `high` microseconds."""

    low: float
    high: float
    count: int


@dataclass(frozen=True, slots=True)
class Result:
    """What a route did; times in microseconds. `first` is the first request after the guest was loaded.

    `phases` are medians, by the names of stopwatch.PHASES; both they and `host_calls` are of one request.
    """

    route: str
    component: str | None
    statuses: dict[int, int]
    body_bytes: int
    first: float
    samples: tuple[float, ...]
    phases: dict[str, float]
    host_calls: int

    def percentile(self, percent: float) -> float:
        """The sample below or at which `percent` of them lie (nearest rank)."""
        return self.samples[max(0, math.ceil(len(self.samples) * percent / 100) - 1)]

    def as_json(self) -> dict[str, object]:
        """The same for programs."""
        named = {f"p{percent}": self.percentile(percent) for percent in (50, 95, 99)}
        return {
            "route": self.route,
            "component": self.component,
            "requests": len(self.samples),
            "statuses": {str(status): count for status, count in self.statuses.items()},
            "body_bytes": self.body_bytes,
            "us": {
                "first": self.first,
                "min": self.samples[0],
                "mean": sum(self.samples) / len(self.samples),
                **named,
                "max": self.samples[-1],
            },
            "phases_us": self.phases,
            "host_calls": self.host_calls,
            "histogram": [
                {"from": each.low, "to": each.high, "count": each.count} for each in histogram(self.samples)
            ],
        }

    def lines(self) -> list[str]:
        """The same for people."""
        answers = ", ".join(f"{count} x {status}" for status, count in sorted(self.statuses.items()))
        owner = f"component {self.component}" if self.component else "static response"
        lines = [
            f"{self.route}: {owner}, {len(self.samples)} requests one after the other",
            f"  answers   {answers}; {self.body_bytes} bytes of body",
            "  latency   "
            + ", ".join(f"p{percent} {_time(self.percentile(percent))}" for percent in (50, 95, 99))
            + f"; {_time(self.samples[0])} to {_time(self.samples[-1])}, the first {_time(self.first)}",
            "",
        ]
        bins = histogram(self.samples)
        most = max(each.count for each in bins)
        for each in bins:
            what = f"{_time(each.low):>9} .. {_time(each.high)}"
            lines.append(f"  {what:22} {_bar(each.count, most):{BAR}} {each.count}".rstrip())
        total = sum(self.phases.values()) or 1.0
        lines += ["", "  where the time goes (median; watched, which takes a little longer)"]
        for phase, time in self.phases.items():
            words = WORDS[phase] + (f" ({self.host_calls})" if phase == "host" else "")
            lines.append(f"  {words:22} {_bar(time, total):{BAR}} {_time(time)}".rstrip())
        return lines


def run(make: Callable[[], Gateway], request: Request, count: int) -> Result:
    """What the route of `request` takes, `count` times; `make` gives a gateway that is not open yet.

    Raises ManifestError for a path without a route, and what Gateway.open raises.
    """
    with make() as gateway:
        match = gateway.match(request.path)
        if match is None:
            raise ManifestError(f"no route answers {request.path}", path=gateway.manifest.path)
        target = match.route.target
        begin = perf_counter_ns()
        response = gateway.handle(request)
        first = (perf_counter_ns() - begin) / 1e3
        assert response is not None
        body_bytes = sum(map(len, response.body))
        for _ in range(WARM_UP):
            gateway.handle(request)
        statuses: Counter[int] = Counter()
        samples = []
        for _ in range(count):
            begin = perf_counter_ns()
            response = gateway.handle(request)
            samples.append((perf_counter_ns() - begin) / 1e3)
            assert response is not None
            statuses[response.status] += 1
    stopwatch = Stopwatch()
    with stopwatch.watching(), make() as gateway:
        stopwatch.watch(gateway)

        def handle() -> object:
            return gateway.handle(request)

        phases = stopwatch.split({0: handle}, 1, min(count, MAX_LAPS), min(count, WARM_UP))[0]
        host_calls = stopwatch.entries("host", handle)
    return Result(
        route=match.route.raw,
        component=target.trigger.component if isinstance(target, Target) else None,
        statuses=dict(statuses),
        body_bytes=body_bytes,
        first=first,
        samples=tuple(sorted(samples)),
        phases={phase: max(0.0, phases[phase]) for phase in PHASES},
        host_calls=host_calls,
    )


def histogram(samples: Sequence[float]) -> list[Bin]:
    """`samples`, which are sorted, in BINS bins up to the 98th percentile, and one for the rest.

    Each is wider than the one before by the same factor: a machine that pauses now and then makes the slowest
    ones a hundred times as slow as most, which would all be in the first of equal bins.
    """
    low = max(samples[0], 0.1)  # the clock knows nothing finer
    edge = samples[min(len(samples) - 1, len(samples) * 98 // 100)]
    factor = max((edge / low) ** (1 / BINS), 1.005)
    edges = [low * factor**n for n in range(BINS + 1)]
    counts = [0] * (BINS + 1)
    for sample in samples:
        counts[max(0, bisect_right(edges, sample) - 1)] += 1
    bins = [Bin(edges[n], edges[n + 1], count) for n, count in enumerate(counts[:BINS])]
    if counts[BINS]:
        bins.append(Bin(edges[BINS], max(samples[-1], edges[BINS]), counts[BINS]))
    while len(bins) > 1 and not bins[-1].count:
        bins.pop()
    return bins


def _bar(part: float, whole: float) -> str:
    return "#" * (max(1, round(BAR * part / whole)) if part and whole else 0)


def _time(us: float) -> str:
    if us < 100:
        return f"{us:.1f} us"
    if us < 10_000:
        return f"{us:.0f} us"
    return f"{us / 1e3:.1f} ms" if us < 1e6 else f"{us / 1e6:.2f} s"
