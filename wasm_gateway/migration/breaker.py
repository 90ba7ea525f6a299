# A circuit breaker: after several failures in a row a component is left alone for a while.
#
# closed --(failures in a row)--> open --(pause)--> half open --(a success)--> closed
#                                  ^------------------(a failure)----'
#
# Rule 1: while half open one request at a time tries; all others are turned away.
# Rule 2: the clock is given, so that nothing here waits.

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from enum import StrEnum


class State(StrEnum):
    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half open"


class Breaker:
    """Opens after `failures` in a row, for `pause` seconds. Safe for any number of threads."""

    def __init__(self, failures: int, pause: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._limit = failures
        self._pause = pause
        self._clock = clock
        self._start_over()

    def _start_over(self) -> None:
        self._lock = threading.Lock()  # guards what follows
        self._failures = 0
        self._opened: float | None = None
        self._trial: float | None = None  # when the request that tries began

    after_fork = _start_over

    @property
    def state(self) -> State:
        with self._lock:
            if self._opened is None:
                return State.CLOSED
            return State.HALF_OPEN if self._clock() - self._opened >= self._pause else State.OPEN

    def admits(self) -> bool:
        """Whether a request may try now; it then has to say how it went, by `succeeded` or `failed`."""
        opened = self._opened
        if opened is None:
            return True
        with self._lock:
            opened = self._opened
            if opened is None:
                return True
            now = self._clock()
            if now - opened < self._pause:
                return False
            # one whose outcome nobody ever said does not keep all others out
            if self._trial is not None and now - self._trial < self._pause:
                return False
            self._trial = now
            return True

    def succeeded(self) -> None:
        if self._failures or self._opened is not None:
            with self._lock:
                self._failures = 0
                self._opened = self._trial = None

    def failed(self) -> None:
        with self._lock:
            self._failures += 1
            if self._failures >= self._limit or self._opened is not None:
                self._opened = self._clock()
                self._trial = None
