# What is known of a migration, for people: read from the ledger, shown as text.
#
# Rule 1: reading changes nothing, and needs no gateway.
# Rule 2: what guests and clients wrote is shown as one line of printable text each, whatever is in it.

from __future__ import annotations

import difflib
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from .counters import (
    CANARY_GUEST,
    CANARY_NATIVE,
    FAILED_ORDER,
    FALLBACK,
    GUEST,
    NATIVE,
    OBEYED,
    OUTCOMES,
    SHADOW,
    SIDES,
    End,
    Unseen,
    ended,
    is_time,
    number,
    quantile,
    uncompared,
)
from .ledger import SINCE, Ledger, Mismatch

# Of the same lines around a difference.
CONTEXT = 2
MAX_LINE = 300


@dataclass(frozen=True, slots=True)
class Latency:
    """How long one side took, in seconds, of the requests that both answered; None where there were none."""

    number: int
    p50: float | None
    p95: float | None


@dataclass(frozen=True, slots=True)
class Arm:
    """One side of a canary: how its answers ended (counters.End), and how long they took."""

    ends: Mapping[str, int]
    latency: Latency

    @property
    def answers(self) -> int:
        return sum(self.ends.values())

    @property
    def errors(self) -> float | None:
        """The share of those that are the server's errors, from 0 to 1; None where there are none."""
        wrong = self.ends[End.ERROR] + self.ends[End.FAILED]
        return wrong / self.answers if self.answers else None


@dataclass(frozen=True, slots=True)
class ComponentReport:
    """What all processes have counted of a component since `since` (None: nothing yet).

    `reasons` says who answered and why (policy.Choice), `shadow` what became of guests beside the site:
    "equal", "different", "failed", "dropped", "uncompared", and `uncompared` why not (counters.Unseen).
    `canary` has the two sides of a canary: "native" and "guest"; it is empty where there was none.
    `orders` says how often a process has obeyed one about its guest. `dial` is what is turned for it now.
    """

    component: str
    since: float | None
    reasons: Mapping[str, int]
    fallbacks: int
    shadow: Mapping[str, int]
    native: Latency
    guest: Latency
    uncompared: Mapping[str, int] = field(default_factory=dict)
    orders: Mapping[str, int] = field(default_factory=dict)
    dial: Mapping[str, object] = field(default_factory=dict)
    canary: Mapping[str, Arm] = field(default_factory=dict)

    @property
    def requests(self) -> int:
        return sum(self.reasons.values())


@dataclass(frozen=True, slots=True)
class Report:
    """Components in order, dials of routes by their patterns, and the last mismatches, the newest first."""

    components: tuple[ComponentReport, ...]
    routes: Mapping[str, Mapping[str, object]]
    mismatches: tuple[Mismatch, ...]


def read(ledger: Ledger, components: Collection[str], *, limit: int = 10) -> Report:
    """What `ledger` has of `components`, with `limit` mismatches; HostError."""
    counters, dials = ledger.counters(), ledger.dials()
    mismatches = [one for name in components for one in ledger.mismatches(name, limit)]
    mismatches.sort(key=lambda mismatch: mismatch.at, reverse=True)
    return Report(
        tuple(_component(name, counters.get(name, {}), dials.get(name, {})) for name in components),
        {name: values for name, values in dials.items() if name.startswith("/")},
        tuple(mismatches[:limit]),
    )


def forget(ledger: Ledger, components: Collection[str]) -> None:
    """Begin to count anew, and forget the mismatches of `components`; HostError."""
    for name in components:
        ledger.forget(name)


def _component(name: str, counts: Mapping[str, int], dial: Mapping[str, object]) -> ComponentReport:
    unseen = {str(why): counts.get(uncompared(why), 0) for why in Unseen}
    given = {"obeyed": counts.get(OBEYED, 0), "failed": counts.get(FAILED_ORDER, 0)}
    ends = {ended(side, end) for side in SIDES for end in End}
    others = {SINCE, FALLBACK, OBEYED, FAILED_ORDER, *OUTCOMES, *map(uncompared, Unseen), *ends}
    arms = {"native": _arm(counts, CANARY_NATIVE), "guest": _arm(counts, CANARY_GUEST)}
    return ComponentReport(
        component=name,
        since=counts.get(SINCE),
        reasons={key: n for key, n in sorted(counts.items()) if key not in others and not is_time(key)},
        fallbacks=counts.get(FALLBACK, 0),
        shadow={outcome.removeprefix(SHADOW): counts.get(outcome, 0) for outcome in OUTCOMES},
        native=_latency(counts, NATIVE),
        guest=_latency(counts, GUEST),
        uncompared={why: n for why, n in unseen.items() if n},
        orders=given if any(given.values()) else {},
        dial=dial,
        canary=arms if any(arm.answers for arm in arms.values()) else {},
    )


def _arm(counts: Mapping[str, int], side: str) -> Arm:
    return Arm({str(end): counts.get(ended(side, end), 0) for end in End}, _latency(counts, side))


def _latency(counts: Mapping[str, int], side: str) -> Latency:
    return Latency(number(counts, side), quantile(counts, side, 0.5), quantile(counts, side, 0.95))


# As text

_COLUMNS = ("component", "requests", "fallbacks", *(name.removeprefix(SHADOW) for name in OUTCOMES))
_TIMES = ("native p50", "p95", "guest p50", "p95")
_CANARY = ("canary", "side", "answers", "errors", *End, "p50", "p95")


def text(report: Report) -> str:
    """A table, and the mismatches as diffs."""
    rows: list[Sequence[str]] = [(*_COLUMNS, *_TIMES)]
    for one in report.components:
        numbers = (one.requests, one.fallbacks, *one.shadow.values())
        times = (one.native.p50, one.native.p95, one.guest.p50, one.guest.p95)
        rows.append((one.component, *map(str, numbers), *map(duration, times)))
    lines = [*_table(rows), ""]
    canaries: list[Sequence[str]] = [_CANARY]
    for one in report.components:
        for side, arm in one.canary.items():
            canaries.append((one.component, side, *arm_cells(arm)))
    if len(canaries) > 1:
        lines += [*_table(canaries), ""]
    for one in report.components:
        if one.reasons:
            since = "" if one.since is None else f" since {_when(one.since)}"
            lines.append(f"{one.component}{since}: {_numbers(one.reasons)}")
        if one.uncompared:
            lines.append(f"{one.component} uncompared: {_numbers(one.uncompared)}")
        if one.orders:
            lines.append(f"{one.component} orders, by process: {_numbers(one.orders)}")
    turned = {one.component: one.dial for one in report.components if one.dial} | dict(report.routes)
    for name, values in turned.items():
        lines.append(f"{name} is turned to {', '.join(f'{key} = {value}' for key, value in values.items())}")
    if not report.mismatches:
        lines.append("No mismatches.")
    for mismatch in report.mismatches:
        lines += ["", *mismatch_lines(mismatch)]
    return "\n".join(printable(line) for line in lines)


def arm_cells(arm: Arm) -> list[str]:
    """Answers, the share of errors, how often each end, median and 95 percent of the time."""
    errors = "-" if arm.errors is None else f"{arm.errors:.2%}"
    times = duration(arm.latency.p50), duration(arm.latency.p95)
    return [str(arm.answers), errors, *map(str, arm.ends.values()), *times]


def _numbers(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {n}" for name, n in counts.items())


def mismatch_lines(mismatch: Mismatch) -> Iterator[str]:
    """One mismatch: whose, what is different, and a diff of the bodies."""
    times = f"native {duration(mismatch.native_seconds)}, guest {duration(mismatch.guest_seconds)}"
    yield f"{_when(mismatch.at)} {mismatch.component} {mismatch.method} {mismatch.target}: {times}"
    for difference in mismatch.differences:
        yield f"  {difference}"
    yield from (f"  {line}" for line in body_diff(mismatch))


def body_diff(mismatch: Mismatch) -> Iterator[str]:
    """A unified diff of what is kept of the bodies; nothing where they are the same, or one has none."""
    one, other = _body(mismatch.native), _body(mismatch.guest)
    if one and other:
        yield from difflib.unified_diff(one, other, "native", "guest", n=CONTEXT, lineterm="")


def _body(kept: Mapping[str, Any]) -> list[str]:
    return str(kept.get("body") or "").splitlines()


def _table(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for first, *rest in rows:
        cells = [first.ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(rest, widths[1:], strict=True))]
        yield "  ".join(cells).rstrip()


def duration(seconds: float | None) -> str:
    """As people read it: "1.2 ms"."""
    if seconds is None:
        return "-"
    return f"{seconds * 1000:.3g} ms" if seconds < 1 else f"{seconds:.3g} s"


def _when(at: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at))


def printable(line: str) -> str:
    """A line without control characters, not too long."""
    line = line if len(line) <= MAX_LINE else f"{line[:MAX_LINE]} ..."
    return "".join(c if c.isprintable() else "  " if c == "\t" else ascii(c)[1:-1] for c in line)
