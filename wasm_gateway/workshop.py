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
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from . import forks
from .build import Job, Outcome, Rebuilder
from .build_report import BuildReport
from .errors import GatewayError
from .guest_logs import printable
from .watch import Watcher

if TYPE_CHECKING:
    from .gateway import Gateway

log = logging.getLogger("wasm_gateway")

# Seconds after which a build is said to be under way.
LONG_BUILD = 3.0


class Workshop:
    """Builds the guests of `gateway` in a thread, from `start` to `stop`.

    `read` gives the jobs as the manifest at `path` says them now.
    """

    def __init__(
        self,
        gateway: Gateway,
        path: Path,
        read: Callable[[], list[Job]],
        report: BuildReport,
        cache_dir: Path,
    ) -> None:
        self._gateway = gateway
        self._path = path
        self._read = read
        self._cache_dir = cache_dir
        self.report = report
        self._rebuilder: Rebuilder | None = None
        self._watcher = Watcher(self.look)
        forks.watch(self)

    def after_fork(self) -> None:
        self._rebuilder = None
        self.report.abandon()

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
        if not self.report.claim():
            return
        rebuilder = self._rebuilder
        slow = threading.Timer(LONG_BUILD, self._say_slow)
        slow.daemon = True
        slow.start()
        try:
            if rebuilder is None:
                try:
                    rebuilder = Rebuilder(self._path, self._read, self._cache_dir, log.info)
                except GatewayError:
                    return
                self._rebuilder = rebuilder
                outcomes = rebuilder.outdated()
            else:
                outcomes = rebuilder.look()
        finally:
            slow.cancel()
        if outcomes:
            self.report.write(rebuilder.failures)
        for outcome in outcomes:
            self._ended(outcome)

    def _say_slow(self) -> None:
        log.warning("components are being built")

    def _ended(self, outcome: Outcome) -> None:
        job, failure = outcome.job, outcome.failure
        if failure is None:
            self._gateway.swaps.built(job.component, job.output, f"built in {outcome.seconds:.1f} s")
            return
        goes_on = self._gateway.serves(job.component)
        then = "the last good guest goes on" if goes_on else "it has no earlier guest"
        # The compiler's words may hold a guest's: no line of them may look like another record.
        lines = [*failure.what.splitlines(), *failure.output.splitlines()]
        text = "\n    ".join(printable(line.encode(errors="backslashreplace")) for line in lines)
        log.error("component %s could not be built, and %s: %s", job.component, then, text)
