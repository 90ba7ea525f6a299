# One line for each request of a guest, by the logger `wasm_gateway.access`: its text for
# people, the fields of the record (Call.fields, and `path`) for programs.

from __future__ import annotations

import logging
from typing import Any

from ..guest_logs import printable
from . import Call, Quiet

log = logging.getLogger("wasm_gateway.access")


class AccessLog(Quiet):
    """Writes at level INFO when a request is over."""

    def end(self, call: Call, begun: Any) -> None:
        if not log.isEnabledFor(logging.INFO):
            return
        # a client may put anything into a path or a method: no line of its own, and no end of ours
        method, path = (
            printable(text.encode(errors="backslashreplace")).replace('"', "%22")
            for text in (call.request.method, call.request.path)
        )
        what = "message" if call.is_message else f'"{method} {path}" {call.status}'
        start = "" if call.start_seconds is None else f" start {call.start_seconds * 1e3:.3f} ms"
        log.info(
            "%s %s %s %d bytes %.3f ms%s",
            *(call.component, what, call.outcome, call.response_bytes, call.seconds * 1e3, start),
            extra={**call.fields(), "path": path},
        )
