# Guests that are built while a development server serves them.
#
# Rule 1: what is saved is built, and what is not there or older than its sources when the server starts. Of
# all processes that serve a manifest one builds (BuildReport.claim); another takes over where it has ended.
# Rule 2: a guest that was built is taken at once, and one line says so. What could not be built is said with
# the compiler's words, and reported to all that serve.
# Rule 3: what is wrong with the manifest is said by who replaces it (swap.py).

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path

from .. import forks
from ..errors import GatewayError
from ..guest_logs import printable
from ..watch import Watcher
from .build import Job, Rebuilder
from .build_report import BuildFailure, BuildReport

log = logging.getLogger("wasm_gateway")

# Seconds after which a build is said to be under way.
LONG_BUILD = 3.0
# Looking takes at most a sixth of the time, where there are many sources, but is put off for no longer.
REST = 5
MAX_REST = 5.0


class Workshop:
    """Builds the guests of a gateway in a thread, from `start` to `stop`.

    `read` gives the jobs as the manifest at `path` says them now. `serves` says whether there is a guest of a
    component; `built` is called with its id, its new file, and how that came about.
    """

    def __init__(
        self,
        path: Path,
        read: Callable[[], list[Job]],
        report: BuildReport,
        cache_dir: Path,
        *,
        serves: Callable[[str], bool],
        built: Callable[[str, Path | None, str], object],
    ) -> None:
        self._serves = serves
        self._built = built
        self._path = path
        self._read = read
        self._cache_dir = cache_dir
        self.report = report
        self._rebuilder: Rebuilder | None = None
        self._watcher = Watcher(self.look)
        self._start_over()
        forks.watch(self)

    def _start_over(self) -> None:
        self._rest_until = 0.0
        self._lock = threading.Lock()  # guards the next
        self._slow: threading.Timer | None = None

    def after_fork(self) -> None:
        self._rebuilder = None
        self.report.abandon()
        self._start_over()

    def start(self) -> None:
        """Build from now on. A first build is waited for, but not for long (watch.FIRST_LOOK_SECONDS)."""
        self._watcher.start()

    def stop(self) -> None:
        """Build no more; what is being built is ended."""
        rebuilder = self._rebuilder
        if rebuilder is not None:
            rebuilder.stop()
        self._watcher.stop()
        self._rebuilder = None
        self.report.release()

    def look(self, at_once: bool = False) -> None:
        """Build what has changed, where this is the process that builds."""
        begun = time.monotonic()
        if begun < self._rest_until or not self.report.claim():
            return
        rebuilder = self._rebuilder
        try:
            if rebuilder is None:
                try:
                    rebuilder = Rebuilder(self._path, self._read, self._cache_dir, self._say)
                except GatewayError:
                    return
                self._rebuilder = rebuilder
                outcomes = rebuilder.outdated()
            else:
                outcomes = rebuilder.look()
        finally:
            with self._lock:
                slow, self._slow = self._slow, None
            if slow is not None:
                slow.cancel()
        if not outcomes:
            now = time.monotonic()
            self._rest_until = now + min(REST * (now - begun), MAX_REST)
            return
        # Who sees the page finds the reason in the log, and who gets the new guest sees no page.
        for outcome in outcomes:
            if outcome.failure is not None:
                self._failed(outcome.failure)
        self.report.write(rebuilder.failures)
        for outcome in outcomes:
            if outcome.failure is None:
                how = f"built in {outcome.seconds:.1f} s"
                self._built(outcome.job.component, outcome.job.output, how)

    def _say(self, line: str) -> None:
        """What a build says, in any thread; that it has begun is said to all if it takes its time."""
        log.info("%s", line)
        with self._lock:
            if self._slow is None:
                self._slow = threading.Timer(LONG_BUILD, log.warning, ("%s", line))
                self._slow.daemon = True
                self._slow.start()

    def _failed(self, failure: BuildFailure) -> None:
        goes_on = self._serves(failure.component)
        then = "the last good guest goes on" if goes_on else "it has no earlier guest"
        # The compiler's words may hold a guest's: no line of them may look like another record.
        lines = [*failure.what.splitlines(), *failure.output.splitlines()]
        text = "\n    ".join(printable(line.encode(errors="backslashreplace")) for line in lines)
        log.error("component %s could not be built, and %s: %s", failure.component, then, text)
