# W3C Trace Context on requests of guests to other servers (Spin: http, 10.1, rule 5).
#
# Rule: with a request goes the span that the guest itself has begun last, else what it was asked with,
# unless it says something itself. That comes from a client, and goes out in the guest's name: so it has to
# be what the specification says it is.

from __future__ import annotations

import re
from typing import NamedTuple

from ..observe import current as watched
from .base import HostContext

NAMES = ("traceparent", "tracestate")

# Key in HostContext.state: the spans of the guest that go on, by id, the last one last (wasi/otel.py).
SPANS = "spans"


class SpanContext(NamedTuple):
    """The record span-context of wasi:otel/tracing."""

    trace_id: str
    span_id: str
    trace_flags: int
    is_remote: bool
    trace_state: list[tuple[str, str]]


# Trace Context, 3.2.2: version, trace-id, parent-id, flags; a later version may have more behind them.
_IDS = "(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}"
_PARENT = re.compile(f"00-{_IDS}|(?!00|ff)[0-9a-f]{{2}}-{_IDS}(?:-[!-~]{{0,256}})?").fullmatch
# 3.3.1.5: at least 512 characters are to be passed on, of a list that is printable ASCII (3.3.1.3)
_STATE = re.compile(r"[\t -~]{1,512}").fullmatch


def traced(ctx: HostContext, headers: tuple[tuple[str, str], ...]) -> tuple[tuple[str, str], ...]:
    """`headers` (lower case) of a request of the guest, with those of its trace where it sets none itself."""
    if any(name in NAMES for name, _ in headers):
        return headers
    spans: dict[str, SpanContext] | None = ctx.state.get(SPANS)
    if spans:
        context = next(reversed(spans.values()))
        parent = f"00-{context.trace_id}-{context.span_id}-{context.trace_flags:02x}"
        return _along(headers, parent, ",".join([f"{key}={value}" for key, value in context.trace_state]))
    request = ctx.request
    if request is None and watched.call is not None:
        request = watched.call.request  # of a message: has what an observer made it carry
    if request is None:
        return headers
    parents = request.headers.get_all("traceparent")
    parent = parents[0] if len(parents) == 1 else ""
    return _along(headers, parent, ",".join(request.headers.get_all("tracestate")))


def _along(headers: tuple[tuple[str, str], ...], parent: str, state: str) -> tuple[tuple[str, str], ...]:
    if _PARENT(parent) is None:
        return headers
    along = [("traceparent", parent)]
    if _STATE(state) is not None:
        along.append(("tracestate", state))
    return (*headers, *along)
