# The native side of the site: pages, the login, and what the gateway has to tell.

from statistics import median

from django.conf import settings
from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import redirect, render
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_POST, require_safe

from wasm_gateway.integrations.django import get_gateway
from wasm_gateway.messages import Headers, Request


@require_safe
def home(request: HttpRequest) -> HttpResponse:
    return render(request, "arena/home.html")


@require_safe
def about(request: HttpRequest) -> HttpResponse:
    rows = {row["component"]: row for row in get_gateway().describe()}
    return render(request, "arena/about.html", {"routes": rows.values()})


@require_safe
def live(request: HttpRequest) -> HttpResponse:
    return render(request, "arena/live.html")


@require_safe
@never_cache
def live_data(request: HttpRequest) -> JsonResponse:
    """{"total", "components": [{"component", "dialect", "started", "failed", "median_us", "last_us": [...]}]}

    Since this process began, durations in microseconds, oldest first; the median is that of `last_us`.
    """
    components = [
        {
            "component": row.component,
            "dialect": row.dialect,
            "started": row.started,
            "failed": row.failed,
            "median_us": round(median(row.last_us), 1) if row.last_us else None,
            "last_us": [round(duration, 1) for duration in row.last_us],
        }
        for row in get_gateway().stats()
    ]
    return JsonResponse({"total": sum(row["started"] for row in components), "components": components})


@login_required
@require_POST
def clear(request: HttpRequest) -> HttpResponse:
    """Forget all rounds and scores. A native view decides who may; a guest does it."""
    headers = Headers([("x-reset-token", settings.RESET_TOKEN)])
    answer = get_gateway().handle(Request("POST", "/reset", headers=headers))
    if answer is None or answer.status != 200:
        return HttpResponse("The guest refused.\n", status=502, content_type="text/plain")
    return redirect("home")
