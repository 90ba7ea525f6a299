# An answer on its way to whoever asked, seen as it goes by: what a door needs to compare it afterwards.
#
# Rule 1: nothing here holds up a chunk, changes it, or raises.
# Rule 2: what is kept is bounded. Of an answer that is longer, or that was not seen to its end, there is no
# body, and it is known why not.

from __future__ import annotations

from ..messages import Headers
from .compare import Answer
from .counters import Unseen


class Tee:
    """A copy of a body of at most `limit` bytes; `seconds` is what the door says it took to make."""

    __slots__ = ("_chunks", "_left", "missing", "seconds")

    def __init__(self, limit: int) -> None:
        self._left = limit
        self._chunks: list[bytes] = []
        self.missing: Unseen | None = None
        self.seconds = 0.0

    def see(self, chunk: bytes) -> None:
        if self.missing is None:
            self._left -= len(chunk)
            if self._left < 0:
                self.lose(Unseen.LONG)
            else:
                self._chunks.append(chunk)

    def lose(self, why: Unseen) -> None:
        """There will be no body; the first reason counts."""
        if self.missing is None:
            self.missing = why
            self._chunks.clear()

    def answer(self, status: int, headers: Headers) -> Answer:
        """What was seen, under this head."""
        body = b"".join(self._chunks) if self.missing is None else None
        return Answer(status, headers, body, self.seconds, self.missing)
