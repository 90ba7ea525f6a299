# What an app can hear of, by blinker as Flask's own signals:
# `from wasm_gateway.integrations.flask.signals import dial_turned`.
#
# A receiver runs where the signal is sent: in the thread of a request, or in one of the gateway's own, and
# without a context of the app; what it raises is logged and stops nothing. The sender is the app.

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from blinker import Namespace

if TYPE_CHECKING:
    from flask import Flask

    from ..telling import Tell

log = logging.getLogger("wasm_gateway")

signals = Namespace()

# Somebody has turned a dial, in this process: `change` is a migration.ledger.Change, whose name is that of a
# component or a route, or begins with "guest:" (an order to reload or to roll back). Needs a LEDGER.
dial_turned = signals.signal("dial_turned")

# A guest has failed: `component`, `route`, `error`, `outcome` (outcomes.Outcome); `role` is what it was asked
# for (observe.Role): the answer, which the app may give in its place (FALLBACK), or one to compare (SHADOW).
# Connect it before `init_app`: guests are watched where somebody listens then.
guest_failed = signals.signal("guest_failed")

# Guest and view have answered differently: `mismatch` is a migration.ledger.Mismatch. Needs a LEDGER.
shadow_mismatch = signals.signal("shadow_mismatch")

# A guest answers from now on, in this process: `component`, `dialect`, and `act`, by which it came: "open"
# with the gateway, "swap" in the place of another one, "rollback" for the second time. The receiver must not
# reload any. Connect it before `init_app`.
component_loaded = signals.signal("component_loaded")


def teller(app: Callable[[], Flask | None]) -> Tell:
    """What sends the signals of an app (telling.py), which is held weakly."""

    def tell(what: str, /, **facts: Any) -> None:
        sender = app()
        if sender is None:
            return
        for receiver in list(signals[what].receivers_for(sender)):
            try:
                receiver(sender, **facts)
            except Exception:
                log.exception("a receiver of %s failed: %r", what, receiver)

    return tell
