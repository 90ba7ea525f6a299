# The admin pages: who answers each route, and the dials to say so; who turned them; where guests
# and views differ.
#
# Rule 1: everything works without JavaScript, with one form for each dial.
# Rule 2: to see needs the permission `view_dial`, to turn `change_dial`; whatever is turned is in the
# admin's log and among the ledger's changes.

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from django.contrib import admin, messages
from django.core.exceptions import ImproperlyConfigured, PermissionDenied
from django.http import HttpRequest, HttpResponse, HttpResponseNotAllowed, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse
from django.utils import timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString

from wasm_gateway.errors import GatewayError
from wasm_gateway.migration import report
from wasm_gateway.migration.counters import FALLBACK, End
from wasm_gateway.migration.ledger import mismatch_of
from wasm_gateway.migration.orders import Act
from wasm_gateway.policy import BadValue, Mode

from ..dials import NoDials, kill, order, pilot_of, rows, turn
from .conf import owner
from .models import Change, Dial, Mismatch

if TYPE_CHECKING:
    from wasm_gateway.gateway import Gateway

    DialModelAdmin = admin.ModelAdmin[Dial]
    ChangeModelAdmin = admin.ModelAdmin[Change]
    MismatchModelAdmin = admin.ModelAdmin[Mismatch]
else:
    DialModelAdmin = ChangeModelAdmin = MismatchModelAdmin = admin.ModelAdmin

# Of each component, shown beside its dials.
MISMATCHES = 5


def _when(seconds: float) -> datetime:
    moment = datetime.fromtimestamp(seconds, UTC)
    return timezone.localtime(moment)


@admin.register(Dial)
class DialAdmin(DialModelAdmin):
    """One page for all dials, in place of a list of those that are turned."""

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def get_urls(self) -> list[URLPattern]:
        site = self.admin_site
        return [
            path("", site.admin_view(self.changelist_view), name="wasm_gateway_dial_changelist"),
            path("turn/", site.admin_view(self.turn_view), name="wasm_gateway_dial_turn"),
        ]

    def changelist_view(
        self, request: HttpRequest, extra_context: Mapping[str, Any] | None = None
    ) -> TemplateResponse:
        if not self.has_view_permission(request):
            raise PermissionDenied
        context = {
            **self.admin_site.each_context(request),
            "title": "Wasm routes",
            "opts": self.opts,
            "modes": list(Mode),
            "may_turn": self.has_change_permission(request),
            **(extra_context or {}),
        }
        try:
            context["components"] = self._components(owner.gateway())
        except (NoDials, GatewayError, ImproperlyConfigured) as error:
            context["problem"] = str(error)
        return TemplateResponse(request, "wasm_gateway/dials.html", context)

    def _components(self, gateway: Gateway) -> list[dict[str, Any]]:
        pilot = pilot_of(gateway)
        assert pilot.ledger is not None
        pilot.flush()  # what this process has counted is there; others follow within seconds
        found: list[dict[str, Any]] = []
        known = rows(gateway)
        ids = [row.component for row in known if row.route is None]
        reports = {one.component: one for one in report.read(pilot.ledger, ids, limit=0).components}
        for row in known:
            if row.route is None:
                last = pilot.ledger.mismatches(row.component, MISMATCHES)
                one = reports[row.component]
                found.append(
                    {
                        "id": row.component,
                        "description": row.description,
                        "since": None if one.since is None else _when(one.since),
                        "counts": _counts(one),
                        "shadow": _beside(one),
                        "times": [
                            (side, latency.number, report.duration(latency.p50), report.duration(latency.p95))
                            for side, latency in (("view", one.native), ("guest", one.guest))
                            if latency.number
                        ],
                        "ends": list(End),
                        "canary": [
                            ("view" if side == "native" else side, report.arm_cells(arm))
                            for side, arm in one.canary.items()
                        ],
                        "breaker": pilot.breaker(row.component).state,
                        "mismatches": [(_when(each.at), each) for each in last],
                        "rows": [],
                    }
                )
            found[-1]["rows"].append(row)
        return found

    def turn_view(self, request: HttpRequest) -> HttpResponse:
        """POST: `name`, and `action`: turn (to `mode`, `percent`, `slide`), reset, kill, reload, rollback."""
        if request.method != "POST":
            return HttpResponseNotAllowed(["POST"])
        if not self.has_change_permission(request):
            raise PermissionDenied
        try:
            for name, done in self._turn(owner.gateway(), request):
                self.log_change(request, Dial(name=name), done)
                messages.success(request, f"Turned {name}: {done}")
        except (NoDials, BadValue, GatewayError) as error:
            messages.error(request, str(error))
        return HttpResponseRedirect(reverse(f"{self.admin_site.name}:wasm_gateway_dial_changelist"))

    def _turn(self, gateway: Gateway, request: HttpRequest) -> list[tuple[str, str]]:
        """What has been turned, and how; BadValue, NoDials, GatewayError."""
        form, by = request.POST, request.user.get_username()
        name = form.get("name", "")
        row = {each.name: each for each in rows(gateway)}.get(name)
        if row is None:
            raise BadValue(f"{name!r} is neither a component nor a route", "name")
        match form.get("action"):
            case "kill":
                return [(each, "kill switch: native") for each in kill(gateway, row.component, by)]
            case Act.RELOAD | Act.ROLLBACK as act:
                return [(row.component, order(gateway, Act(act), row.component, by))]
            case "reset":
                turn(gateway, name, None, by)
                return [(name, "as the manifest says")]
            case "turn":
                percent = _percent(form)
                values = {**(row.dial or {}), "mode": form.get("mode", ""), "percent": percent}
                turn(gateway, name, values, by)
                return [(name, f"{values['mode']} {percent:g}%")]
        raise BadValue("nothing to do", "action")


def _counts(one: report.ComponentReport) -> list[tuple[str, int]]:
    """Who has answered, how often, and how often in the guest's place."""
    fallbacks = [(FALLBACK, one.fallbacks)] if one.fallbacks else []
    return [*one.reasons.items(), *fallbacks]


def _beside(one: report.ComponentReport) -> list[tuple[str, int]]:
    """What became of guests beside the view, where anything has."""
    outcomes = [(what, number) for what, number in one.shadow.items() if number]
    return [*outcomes, *((f"of these {why}", number) for why, number in one.uncompared.items())]


def _percent(form: Mapping[str, str]) -> float:
    """The share from its two fields, a number and a slider: from the one that differs from what was."""
    number = form.get("percent", "")
    try:
        was = float(form.get("was", number))
        slide = float(form.get("slide", round(was)))
        return slide if float(number) == was and slide != round(was) else float(number)
    except ValueError:
        raise BadValue(f"{number!r} is not a number from 0 to 100", "percent") from None


class _ReadOnly:
    """What only the gateway writes."""

    def has_add_permission(self, request: HttpRequest, *_: Any) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


@admin.register(Change)
class ChangeAdmin(_ReadOnly, ChangeModelAdmin):
    list_display = ("name", "what", "by", "when")
    fields = ("name", "what", "by", "when")
    list_display_links = None

    @admin.display(description="turned to")
    def what(self, change: Change) -> str:
        if change.fields is None:
            return "as the manifest says"
        if "act" in change.fields:
            return str(change.fields["act"])  # an order to all processes
        return ", ".join(f"{name} = {value}" for name, value in change.fields.items())

    @admin.display(ordering="at")
    def when(self, change: Change) -> datetime:
        return _when(change.at)


@admin.register(Mismatch)
class MismatchAdmin(_ReadOnly, MismatchModelAdmin):
    list_display = ("request", "component", "first", "times", "when")
    list_filter = ("component",)
    fields = ("request", "component", "route", "when", "times", "differences", "view", "guest")

    def request(self, mismatch: Mismatch) -> str:
        return f"{mismatch.record['method']} {mismatch.record['target']}"

    def route(self, mismatch: Mismatch) -> str:
        return str(mismatch.record["route"])

    def when(self, mismatch: Mismatch) -> datetime:
        return _when(mismatch.record["at"])

    @admin.display(description="difference")
    def first(self, mismatch: Mismatch) -> str:
        return str((mismatch.record["differences"] or ["-"])[0])

    @admin.display(description="view, guest")
    def times(self, mismatch: Mismatch) -> str:
        seconds = mismatch.record["native_seconds"], mismatch.record["guest_seconds"]
        return ", ".join(map(report.duration, seconds))

    def differences(self, mismatch: Mismatch) -> SafeString:
        record = mismatch_of(mismatch.record)
        lines = [*record.differences, *report.body_diff(record)]
        return _text("\n".join(map(report.printable, lines)))

    def view(self, mismatch: Mismatch) -> SafeString:
        return _text(json.dumps(mismatch.record["native"], indent=2, ensure_ascii=False))

    def guest(self, mismatch: Mismatch) -> SafeString:
        return _text(json.dumps(mismatch.record["guest"], indent=2, ensure_ascii=False))


def _text(text: str) -> SafeString:
    return format_html('<pre style="white-space: pre-wrap; margin: 0">{}</pre>', text)
