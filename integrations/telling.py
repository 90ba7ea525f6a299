# What a site hears of, whatever the framework that sends it: `tell(WHAT, **facts)`.
#
# - "dial_turned": somebody has turned a dial, or given an order, in this process: `change`
# - "shadow_mismatch": guest and view have answered differently: `mismatch`
# - "guest_failed": `component`, `route`, `error`, `outcome`, `role`
# - "component_loaded": `component`, `dialect`, `act`
#
# Rule: whoever is told raises nothing. It is called in the thread of a request, or in one of the gateway's.

from __future__ import annotations

from typing import Any, Protocol

from wasm_gateway.loader import Loaded
from wasm_gateway.migration.ledger import Change, Ledger, Mismatch
from wasm_gateway.observe import Call, Quiet, Role
from wasm_gateway.outcomes import Outcome

# Ends that are not a guest's failure.
_OTHERS = (Outcome.OK, Outcome.REFUSED, Outcome.DISCONNECTED)


class Tell(Protocol):
    def __call__(self, what: str, /, **facts: Any) -> object: ...


class TellingLedger:
    """A ledger that tells what this process writes into `inner`."""

    def __init__(self, inner: Ledger, tell: Tell) -> None:
        self._inner = inner
        self._tell = tell
        self.stamp, self.dials, self.changes, self.note = inner.stamp, inner.dials, inner.changes, inner.note
        self.mismatches, self.add, self.counters = inner.mismatches, inner.add, inner.counters
        self.forget, self.close = inner.forget, inner.close

    def turn(self, change: Change) -> None:
        self._inner.turn(change)
        self._tell("dial_turned", change=change)

    def record(self, mismatch: Mismatch) -> None:
        self._tell("shadow_mismatch", mismatch=mismatch)
        self._inner.record(mismatch)


class FailureTeller(Quiet):
    """An observer that tells of guests that have failed."""

    def __init__(self, tell: Tell) -> None:
        self._tell = tell

    def end(self, call: Call, begun: Any) -> None:
        if call.outcome not in _OTHERS:
            self._tell(
                "guest_failed",
                component=call.component,
                route=call.route,
                error=call.error,
                outcome=call.outcome,
                role=Role(call.role),
            )


def load_teller(tell: Tell) -> Any:
    """What GatewayOptions.loaded is, that tells of guests."""

    def loaded(guest: Loaded) -> None:
        tell("component_loaded", component=guest.component, dialect=guest.dialect, act=guest.act)

    return loaded
