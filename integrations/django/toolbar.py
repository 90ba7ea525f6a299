# A panel of the Debug Toolbar: who has answered a request, and why.
#
#     DEBUG_TOOLBAR_PANELS += ["wasm_gateway.integrations.django.toolbar.WasmPanel"]
#
# The toolbar's own middleware stands before WasmGatewayMiddleware.

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from debug_toolbar.panels import Panel
from django.http import HttpRequest, HttpResponseBase

from .conf import owner

if TYPE_CHECKING:
    from .sharing import Passage


class WasmPanel(Panel):
    is_async = True
    title = nav_title = "Wasm"
    template = "wasm_gateway/panel.html"

    @property
    def nav_subtitle(self) -> str:
        stats: dict[str, Any] = self.get_stats()  # type: ignore[no-untyped-call]
        return str(stats.get("answered", ""))

    def generate_stats(self, request: HttpRequest, response: HttpResponseBase) -> None:
        passage: Passage | None = getattr(request, "wasm", None)
        if passage is None:
            self.record_stats({"answered": "no Wasm route"})  # type: ignore[no-untyped-call]
            return
        facts = [("Route", passage.route), ("Component", passage.component or "(static response)")]
        turn = passage.turn
        if turn is not None:
            facts += [
                ("Mode", str(turn.rule.mode)),
                ("Share", f"{turn.rule.percent:g}%"),
                ("Chosen", f"{'guest' if turn.choice.guest else 'view'} ({turn.choice.reason})"),
                ("Beside the view", "yes" if turn.choice.shadow else "no"),
            ]
        for each in owner.gateway().stats():
            if each.component == passage.component and each.last_us:
                facts.append(("Time in the guest, last", f"{each.last_us[-1] / 1000:.2f} ms"))
        answered = "guest" if passage.by_guest else "view"
        if turn is not None and turn.choice.guest and not passage.by_guest:
            answered = "view (fallback)"
        self.record_stats({"answered": answered, "facts": facts})  # type: ignore[no-untyped-call]
