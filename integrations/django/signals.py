# What a site can hear of: `from wasm_gateway.integrations.django.signals import dial_turned`.
#
# A receiver runs where the signal is sent: in the thread of a request, or in one of the gateway's own;
# what it raises is logged and stops nothing. The sender is the class Site.

from __future__ import annotations

from typing import Any

from django.dispatch import Signal

# Somebody has turned a dial, in this process: `change` is a migration.ledger.Change, whose name is that of a
# component or a route, or begins with "guest:" (an order to reload or to roll back). Needs a LEDGER.
dial_turned = Signal()

# A guest has failed: `component`, `route`, `error`, `outcome` (outcomes.Outcome); `role` is what it was asked
# for (observe.Role): the answer, which the site may give in its place (FALLBACK), or one to compare (SHADOW).
# Connect it in AppConfig.ready: guests are watched where somebody listens when the gateway is made.
guest_failed = Signal()

# Guest and view have answered differently: `mismatch` is a migration.ledger.Mismatch. Needs a LEDGER.
shadow_mismatch = Signal()

# A guest answers from now on, in this process: `component`, `dialect`, and `act`, by which it came: "open"
# with the gateway, "swap" in the place of another one, "rollback" for the second time. The receiver must not
# reload any. Connect it in AppConfig.ready.
component_loaded = Signal()

_SIGNALS = {
    "dial_turned": dial_turned,
    "guest_failed": guest_failed,
    "shadow_mismatch": shadow_mismatch,
    "component_loaded": component_loaded,
}


class Site:
    """The sender of all signals."""


def tell(what: str, /, **facts: Any) -> None:
    """Send a signal (telling.py)."""
    _SIGNALS[what].send_robust(sender=Site, **facts)
