# Numbers that processes count for themselves and add up in the ledger now and then.
#
# Rule: what is counted is bounded: the components of the manifest, and names of a fixed set. A time is
# counted in one of some 40 classes, each 1.4 times as long as the one before.

from __future__ import annotations

import threading
from bisect import bisect_left
from collections import Counter
from collections.abc import Mapping
from enum import StrEnum

# Upper bounds of the classes of times, in seconds: from 0.1 ms to some 70 s. What is longer has one more.
BOUNDS = tuple(1e-4 * 2 ** (step / 2) for step in range(40))

# Beside the reasons of choices (policy.Choice): the site answered in the guest's place.
FALLBACK = "fallback"

# What becomes of a guest beside the site.
SHADOW = "shadow "
EQUAL = f"{SHADOW}equal"
DIFFERENT = f"{SHADOW}different"
FAILED = f"{SHADOW}failed"  # the guest trapped, or the like; it is a difference too
DROPPED = f"{SHADOW}dropped"  # too many waited
UNCOMPARED = f"{SHADOW}uncompared"  # there were no two whole answers
OUTCOMES = (EQUAL, DIFFERENT, FAILED, DROPPED, UNCOMPARED)


class Unseen(StrEnum):
    """Why there are no two whole answers; each is counted beside UNCOMPARED, as `uncompared` names it."""

    REQUEST = "request too long"  # or of a length that nobody knew before
    REFUSED = "request refused"  # it is none that a guest can be given
    LONG = "answer too long"
    CUT = "answer cut off"
    FILE = "file"  # that the server sends itself
    GUEST = "guest's answer too long"


# What came of orders to processes about their guests (orders.py).
OBEYED = "order obeyed"
FAILED_ORDER = "order failed"


def uncompared(why: Unseen) -> str:
    return f"{UNCOMPARED}, {why}"


# Whose answer took that time.
NATIVE, GUEST = "native", "guest"
# The same of the requests of a canary, which either the one answers or the other.
CANARY_NATIVE, CANARY_GUEST = SIDES = "canary native", "canary guest"


class End(StrEnum):
    """What became of a request of a canary; for each side it is counted as `ended` names it."""

    OK = "2xx"
    REDIRECTED = "3xx"
    REFUSED = "4xx"
    ERROR = "5xx"
    FAILED = "failed"  # an exception without an answer; of the guest: the site answered instead


_ENDS = {"2": End.OK, "3": End.REDIRECTED, "4": End.REFUSED, "5": End.ERROR}


def end_of(status: int) -> End:
    """What an answer with that status is; a status that is none is a failure."""
    return _ENDS.get(f"{status:03}"[:1], End.FAILED)


def ended(side: str, end: End) -> str:
    return f"{side} {end}"


_TIME = "time of "

Counts = Mapping[str, Mapping[str, int]]  # by component and name


class Counters:
    """Counts of one process. Safe for any number of threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # guards the others
        self._counts: dict[str, Counter[str]] = {}
        self._new: dict[str, Counter[str]] = {}

    def add(self, component: str, name: str, number: int = 1) -> None:
        with self._lock:
            for counts in (self._counts, self._new):
                found = counts.get(component)
                if found is None:
                    found = counts[component] = Counter()
                found[name] += number

    def took(self, component: str, side: str, seconds: float) -> None:
        """One more answer of that side took so long."""
        self.add(component, time_name(side, bisect_left(BOUNDS, seconds)))

    def all(self) -> dict[str, dict[str, int]]:
        """Everything since the process began."""
        with self._lock:
            return {component: dict(counts) for component, counts in self._counts.items()}

    def take(self) -> dict[str, dict[str, int]]:
        """What is new since it was taken last."""
        with self._lock:
            new, self._new = self._new, {}
        return {component: dict(counts) for component, counts in new.items()}

    def give_back(self, counts: Counts) -> None:
        """What was taken could not be added up; it is new again."""
        with self._lock:
            for component, values in counts.items():
                self._new.setdefault(component, Counter()).update(values)


def time_name(side: str, index: int) -> str:
    return f"{_TIME}{side} {index}"


def is_time(name: str) -> bool:
    return name.startswith(_TIME)


def quantile(counts: Mapping[str, int], side: str, share: float) -> float | None:
    """The time that `share` of the answers of a side did not exceed, about; None where there are none."""
    classes = [counts.get(time_name(side, index), 0) for index in range(len(BOUNDS) + 1)]
    rank = share * sum(classes)
    seen = 0
    for index, number in enumerate(classes):
        if number and seen + number >= rank:
            if index == len(BOUNDS):
                return BOUNDS[-1]
            low = BOUNDS[index - 1] if index else 0.0
            return low + (BOUNDS[index] - low) * (rank - seen) / number
        seen += number
    return None


def number(counts: Mapping[str, int], side: str) -> int:
    """How many answers of a side were timed."""
    return sum(counts.get(time_name(side, index), 0) for index in range(len(BOUNDS) + 1))
