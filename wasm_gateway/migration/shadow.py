# The guest beside the site: it gets the same request once the native answer has gone out.
#
# Rule 1: nothing here is on the way of a request but one `submit`, which neither waits nor raises.
# Rule 2: everything is bounded: threads, what waits for them, the bodies that wait. What is too much
# is dropped and counted.
# Rule 3: it waits for a moment in which the process has little to do: who shares the GIL with a request makes
# that longer. Where there is none for a while it runs all the same, but for a small share of the time.
# Rule 4: what the guest may not do meanwhile is said in its Grants (host/base.py), not here.

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING

from ..errors import GatewayError, Saturated
from ..messages import Request, Response
from ..workers import Workers
from .compare import Answer, redacted_target
from .counters import DIFFERENT, DROPPED, EQUAL, FAILED, Unseen
from .ledger import Mismatch
from .tee import Tee

if TYPE_CHECKING:
    from .pilot import Turn

log = logging.getLogger("wasm_gateway")

# Guests that run beside the site at once in a process, and those that wait for that.
THREADS = 2
BACKLOG = 8

# A process that has used less than this share of a CPU for so many seconds, or for more where it had much to
# do before, has little to do; unless it was given none, which is seen when they become so many times as long.
#
# What that costs requests that come one upon the other, at the median (gunicorn gthread, two busy cores,
# native and shadow interleaved): a view of 0.7 ms 2.3 and -0.6 percent, one of 2 ms 1.6; with pauses of 13 ms
# 2.0. Looking around every 5 ms: 4.0 to 5.9, and 3.5. Without the bound below, and with all requests
# prepared: 7.3 to 13, and 3.7.
QUIET_SHARE = 0.3
QUIET_SECONDS = 0.005
MAX_PAUSE_SECONDS = 0.02
LATE = 1.5
# Seconds for which those that wait may begin then.
BURST_SECONDS = 0.02
# Seconds that are waited for that; after them one runs, and then none until that was this share of the time.
MAX_WAIT_SECONDS = 0.1
BUSY_SHARE = 0.02

# Mismatches that are kept of a component in a minute, by each process.
MAX_RECORDS = 10
MINUTE = 60.0

# Characters of a reason in the log; a guest may have had its say in it.
MAX_REASON = 1000

Around = Callable[[], AbstractContextManager[object]]


class Shadows:
    """Runs guests beside the site, and compares. Safe for any number of threads, and in forked children.

    `around` is entered around each in the thread in which it runs.
    """

    def __init__(self, around: Around = nullcontext) -> None:
        self._around = around
        self._workers = Workers(THREADS, backlog=BACKLOG)
        self.start_over()

    def start_over(self) -> None:
        """Locks as new, as a forked child must have them."""
        self._lock = threading.Lock()  # guards the next
        self._records: dict[str, deque[float]] = {}
        self._waiting = threading.Lock()  # of those that wait, one looks around; guards the next
        self._burst_ends = 0.0
        self._rest_ends = 0.0
        self._closed = False

    @property
    def full(self) -> bool:
        """Whether as many wait as may; then a request need not be prepared for it."""
        return self._workers.full

    def submit(self, turn: Turn, request: Request, native: Answer) -> None:
        """Have the guest of `turn` answer `request` as well, some time."""
        try:
            if native.unseen is not None:
                turn.unseen(native.unseen)
                return
            request = replace(request, gone=self._is_closed)
            self._workers.submit(self._run, turn, request, native, of=turn.route)
        except Saturated:
            turn.count(DROPPED)
        except Exception:
            log.exception("component %s: the guest does not run beside the site", turn.component)

    def _is_closed(self) -> bool:
        return self._closed

    def close(self) -> None:
        """Wait for those that run; those that wait are not run."""
        self._closed = True
        self._workers.close()

    # In a thread of its own

    def _wait(self) -> bool:
        """Whether the process has little to do; else it is time all the same."""
        with self._waiting:
            now = time.monotonic()
            if now < self._burst_ends:
                return True
            end = now + MAX_WAIT_SECONDS
            pause = QUIET_SECONDS
            while not self._closed and now < max(end, self._rest_ends):
                begin, used = now, time.process_time()
                time.sleep(pause)
                now = time.monotonic()
                used, passed = time.process_time() - used, now - begin
                if used < passed * QUIET_SHARE and passed < pause * LATE:
                    self._burst_ends = now + BURST_SECONDS
                    return True
                pause = min(pause * 2, MAX_PAUSE_SECONDS)  # to look around takes the GIL too
            return False

    def _run(self, turn: Turn, request: Request, native: Answer) -> None:
        quiet = self._wait()
        if self._closed:
            return
        begin = time.thread_time()
        try:
            with self._around():
                self._compare(turn, request, native)
        finally:
            if not quiet:
                self._rest_ends = time.monotonic() + (time.thread_time() - begin) / BUSY_SHARE

    def _compare(self, turn: Turn, request: Request, native: Answer) -> None:
        assert turn.answer is not None
        begin = time.perf_counter()
        failure: GatewayError | None = None
        guest = Answer(0)
        try:
            guest = whole(turn.answer(request), turn.limit)
        except GatewayError as error:
            if self._closed:
                return
            failure = error
        guest.seconds = time.perf_counter() - begin
        if guest.unseen is not None:
            turn.unseen(Unseen.GUEST)
            return
        turn.took(native.seconds, guest.seconds)
        if failure is not None:
            turn.count(FAILED)
            kind = type(failure).__name__
            if self._may_record(turn.component):
                what = f"{request.method} {redacted_target(request)!r}"
                text = str(failure)[:MAX_REASON]
                log.warning("component %s, beside the site: %s: %s: %r", turn.component, what, kind, text)
                self._record(turn, request, native, guest, (f"guest failed: {kind}",))
            return
        try:
            differences = turn.comparison.differences(request, native, guest)
        except Exception as error:
            log.exception("component %s: the answers cannot be compared", turn.component)
            differences = [f"cannot be compared: {type(error).__name__}"]
        turn.count(DIFFERENT if differences else EQUAL)
        if differences and self._may_record(turn.component):
            self._record(turn, request, native, guest, tuple(differences))

    def _may_record(self, component: str) -> bool:
        now = time.monotonic()
        with self._lock:
            times = self._records.setdefault(component, deque(maxlen=MAX_RECORDS))
            if len(times) == MAX_RECORDS and now - times[0] < MINUTE:
                return False
            times.append(now)
            return True

    def _record(
        self, turn: Turn, request: Request, native: Answer, guest: Answer, differences: tuple[str, ...]
    ) -> None:
        kept_native, kept_guest = turn.comparison.kept(native, guest)
        turn.record(
            Mismatch(
                component=turn.component,
                route=turn.route,
                method=request.method[:40],
                target=redacted_target(request),
                differences=differences,
                native=kept_native,
                guest=kept_guest,
                native_seconds=native.seconds,
                guest_seconds=guest.seconds,
            )
        )


def whole(response: Response, limit: int) -> Answer:
    """A response read to its end, or a little past `limit` bytes."""
    tee = Tee(limit)
    try:
        for chunk in response.body:
            tee.see(chunk)
            if tee.missing is not None:
                break
        return tee.answer(response.status, response.headers)
    finally:
        response.close()
