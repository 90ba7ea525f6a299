# What a site can hear of: `from wasm_gateway.integrations.django.signals import dial_turned`.
#
# A receiver runs where the signal is sent: in the thread of a request, or in one of the gateway's own;
# what it raises is logged and stops nothing.

from __future__ import annotations

from typing import Any

from django.dispatch import Signal

from wasm_gateway.observe import Call, Outcome, Quiet, Role

# Somebody has turned a dial, in this process: `change` is a migration.ledger.Change, whose name is that of a
# component or a route, or begins with "guest:" (an order to reload or to roll back). Needs a LEDGER.
dial_turned = Signal()

# A guest has failed: `component`, `route`, `error`, `outcome` (observe.Outcome); `role` is what it was asked
# for (observe.Role): the answer, which the site may give in its place (FALLBACK), or one to compare (SHADOW).
# Connect it in AppConfig.ready: guests are watched where somebody listens when the gateway is made.
guest_failed = Signal()

# Guest and view have answered differently: `mismatch` is a migration.ledger.Mismatch. Needs a LEDGER.
shadow_mismatch = Signal()

# Ends that are not a guest's failure.
_OTHERS = (Outcome.OK, Outcome.REFUSED, Outcome.DISCONNECTED)


class FailureTeller(Quiet):
    """The observer that sends `guest_failed`."""

    def end(self, call: Call, begun: Any) -> None:
        if call.outcome not in _OTHERS:
            guest_failed.send_robust(
                sender=FailureTeller,
                component=call.component,
                route=call.route,
                error=call.error,
                outcome=call.outcome,
                role=Role(call.role),
            )
