# W3C Trace Context on requests of guests to other servers (Spin: http, 10.1, rule 5).
#
# Rule: what the guest was asked with goes along, unless it says something itself. It comes from a
# client, and goes out in the guest's name: so it has to be what the specification says it is.

from __future__ import annotations

import re

from .base import HostContext

NAMES = ("traceparent", "tracestate")

# Trace Context, 3.2.2: version, trace-id, parent-id, flags; a later version may have more behind them.
_IDS = "(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}"
_PARENT = re.compile(f"00-{_IDS}|(?!00|ff)[0-9a-f]{{2}}-{_IDS}(?:-[!-~]{{0,256}})?").fullmatch
# 3.3.1.5: at least 512 characters are to be passed on, of a list that is printable ASCII (3.3.1.3)
_STATE = re.compile(r"[\t -~]{1,512}").fullmatch


def traced(ctx: HostContext, headers: tuple[tuple[str, str], ...]) -> tuple[tuple[str, str], ...]:
    """`headers` (lower case) of a request of the guest, with those of its trace where it sets none itself."""
    request = ctx.request
    if request is None or any(name in NAMES for name, _ in headers):
        return headers
    parents = request.headers.get_all("traceparent")
    if len(parents) != 1 or _PARENT(parents[0]) is None:
        return headers
    state = ",".join(request.headers.get_all("tracestate"))
    along = [("traceparent", parents[0])]
    if _STATE(state) is not None:
        along.append(("tracestate", state))
    return (*headers, *along)
