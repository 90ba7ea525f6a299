# Instances that answer more than one request (Spin: http, 8.3), for guests whose dialect allows it.
#
# Rule 1: off unless a component asks for it: what one request leaves in an instance, the next one finds.
# Rule 2: an instance answers one request at a time, and is kept only where nothing of the
# last one goes on. One that failed is closed.

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Iterable

from .. import forks
from ..instance import Instance
from .guest import Guest

log = logging.getLogger("wasm_gateway")


class _Kept:
    """An instance, the requests that it may still answer, and when it has waited long enough.

    It is entered for each of them.
    """

    __slots__ = ("instance", "left", "reuse", "until")

    def __init__(self, reuse: Reuse, instance: Instance, left: int) -> None:
        self.reuse = reuse
        self.instance = instance
        self.left = left
        self.until = 0.0

    def __enter__(self) -> Instance:
        return self.instance

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        instance = self.instance
        self.left -= 1
        good = kind is None and not instance.closed and self.left > 0 and instance.loop.idle
        if not (good and self.reuse.keep(self)):
            instance.close()


class Reuse:
    """The idle instances of a guest, the one that was last used on top. Safe for any number of threads."""

    def __init__(self, guest: Guest) -> None:
        self._guest = guest
        self._low, self._high = guest.options.max_instance_reuse_count
        self._idle_seconds = guest.options.idle_instance_timeout
        self._idle: list[_Kept] = []
        self._start_over()
        forks.watch(self)

    def _start_over(self) -> None:
        self._lock = threading.Lock()  # guards the list and the timer
        self._timer: threading.Timer | None = None
        self._closed = False

    def after_fork(self) -> None:
        """Instances of the parent, whose memory is the parent's, are left alone."""
        if self._idle:
            forks.abandon(self._idle)
            self._idle = []
        self._start_over()

    def instance(self) -> _Kept:
        """What gives, entered with `with`, an instance for one request; it is kept if that ends well."""
        with self._lock:
            kept = self._idle.pop() if self._idle else None
        if kept is None:
            instance = self._guest.instantiate().__enter__()
            # from Low up to, and not including, High (Spin: command line, serve options)
            return _Kept(self, instance, random.randrange(self._low, max(self._high, self._low + 1)))
        try:
            self._guest.renew(kept.instance)
        except BaseException:
            kept.instance.close()
            raise
        return kept

    def keep(self, kept: _Kept) -> bool:
        """Put it to the idle ones; False where nobody wants them any more."""
        kept.until = time.monotonic() + self._idle_seconds
        with self._lock:
            if self._closed:
                return False
            kept.instance.rest()
            self._idle.append(kept)
            if self._timer is None and not self._wait():
                self._idle.remove(kept)
                return False
        return True

    def _wait(self) -> bool:
        """Have the idle ones looked at later; False where no thread can be started for that."""
        timer = threading.Timer(self._idle_seconds, self._expire)
        timer.daemon = True
        timer.name = "wasm-idle"
        try:
            timer.start()
        except RuntimeError:
            return False
        self._timer = timer
        return True

    def _expire(self) -> None:
        """Close what has waited for too long."""
        now = time.monotonic()
        with self._lock:
            expired = [kept for kept in self._idle if kept.until <= now]
            self._idle = [kept for kept in self._idle if kept.until > now]
            self._timer = None
            if self._idle and not self._wait():
                expired += self._idle
                self._idle = []
        self._end(expired)

    def _end(self, idle: Iterable[_Kept]) -> None:
        for kept in idle:
            try:
                kept.instance.close()
            except Exception:
                component_id = self._guest.grants.id
                log.exception(
                    "component %s: an instance could not be closed",
                    component_id,
                    extra={"component": component_id},
                )

    def close(self) -> None:
        """Close all that are idle, and keep no more."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
        self._end(idle)

    def reopen(self) -> None:
        """Keep instances again."""
        with self._lock:
            self._closed = False
