# What a site can hear of: `from wasm_gateway.integrations.django.signals import dial_turned`.
#
# A receiver runs where the signal is sent: in the thread of a request, or in one of the gateway's own;
# what it raises is logged and stops nothing.

from __future__ import annotations

from django.dispatch import Signal

# Somebody has turned a dial, in this process: `change` is a migration.ledger.Change. Needs a LEDGER.
dial_turned = Signal()

# A guest has failed: `component`, `route`, `error`, and `outcome` (observe.Outcome); `replaced` is whether
# the site answers in its place.
guest_failed = Signal()

# Guest and view have answered differently: `mismatch` is a migration.ledger.Mismatch. Needs a LEDGER.
shadow_mismatch = Signal()
