# What helps to develop and test a Django site with guests: the fixture, the toolbar's panel.

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import django
import pytest
from django.contrib.auth.models import User
from django.http import HttpRequest, HttpResponse
from django.test import AsyncClient, Client, override_settings
from django.urls import include, path, re_path

from wasm_gateway.integrations.django.conf import owner
from wasm_gateway.integrations.django.testing import Guests, wasm_gateway

django.setup()
assert wasm_gateway  # the fixture, as pytest_plugins would bring it

MIDDLEWARE = [
    "debug_toolbar.middleware.DebugToolbarMiddleware",
    "wasm_gateway.integrations.django.WasmGatewayMiddleware",
]
NATIVE, GUEST = b"native", b"hello from wasm"


def view(request: HttpRequest) -> HttpResponse:
    return HttpResponse(b"native")


class Urls:
    urlpatterns = [path("__debug__/", include("debug_toolbar.urls")), re_path("", view)]


class Plain:
    urlpatterns = [re_path("", view)]


@pytest.fixture(autouse=True)
def site(asking: Path, cache_dir: Path, django_db_blocker: Any) -> Iterator[dict[str, Any]]:
    gateway = {"MANIFEST": asking, "CACHE_DIR": cache_dir, "STATE_DIR": ""}
    with override_settings(WASM_GATEWAY=gateway, MIDDLEWARE=MIDDLEWARE[1:], ROOT_URLCONF=Plain):
        yield gateway
    owner.close()


# The fixture


def test_a_guest_is_called(wasm_gateway: Guests) -> None:
    answer = wasm_gateway.call("/wasm/hello")
    assert (answer.status, answer.headers.get("content-type"), answer.text) == (
        200,
        "text/plain",
        "hello from wasm",
    )
    body = wasm_gateway.call(
        "/wasm/echo/a%20b?c=d", b"data", headers={"x-a": "1", "content-type": "text/x"}
    ).body
    variables, _, data = body.partition(b"\0\0")
    assert data == b"data"
    for expected in (b"REQUEST_METHOD=POST", b"PATH_INFO=/a%20b", b"QUERY_STRING=c=d", b"HTTP_X_A=1"):
        assert expected in variables.split(b"\0")
    assert b"CONTENT_TYPE=text/x" in variables
    assert wasm_gateway.call("/wasm/trap").status == 500
    with pytest.raises(LookupError, match="/nothing"):
        wasm_gateway.call("/nothing")


def test_a_guest_is_called_by_somebody(wasm_gateway: Guests) -> None:
    assert wasm_gateway.call("/wasm/who").text == "nobody"
    assert wasm_gateway.call("/wasm/locale", language="de").text == "de"


@pytest.mark.django_db
def test_a_guest_is_called_by_a_user(wasm_gateway: Guests) -> None:
    user = User.objects.create_user("ada")
    assert wasm_gateway.call("/wasm/who", user=user).text == f"{user.pk}|ada|0"


def test_rules_for_a_while(wasm_gateway: Guests) -> None:
    with wasm_gateway.with_rules(hello={"mode": "native"}):
        assert Client().get("/wasm/hello").content == NATIVE
        assert wasm_gateway.call("/wasm/hello").body == GUEST
        with wasm_gateway.with_rules(**{"/wasm/hello": {"mode": "wasm"}}):
            assert Client().get("/wasm/hello").content == GUEST
    assert Client().get("/wasm/hello").content == GUEST


# The panel


@pytest.fixture
def panel(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str, bool], dict[str, Any]]]:
    """`panel(path, async)`: what the panel has recorded."""
    from wasm_gateway.integrations.django import toolbar

    recorded: list[dict[str, Any]] = []

    class Watched(toolbar.WasmPanel):
        def record_stats(self, stats: dict[str, Any]) -> None:
            recorded.append(stats)
            super().record_stats(stats)

    monkeypatch.setattr(toolbar, "WasmPanel", Watched)
    monkeypatch.setattr("debug_toolbar.toolbar.DebugToolbar._panel_classes", None)

    def ask(path: str, is_async: bool) -> dict[str, Any]:
        recorded.clear()
        if is_async:

            async def main() -> Any:
                return await AsyncClient().get(path)

            asyncio.run(main())
        else:
            Client().get(path)
        return recorded[0]

    with override_settings(
        MIDDLEWARE=MIDDLEWARE,
        ROOT_URLCONF=Urls,
        DEBUG_TOOLBAR_CONFIG={"SHOW_TOOLBAR_CALLBACK": lambda request: True, "IS_RUNNING_TESTS": False},
        DEBUG_TOOLBAR_PANELS=["wasm_gateway.integrations.django.toolbar.WasmPanel"],
    ):
        yield ask
    monkeypatch.setattr("debug_toolbar.toolbar.DebugToolbar._panel_classes", None)


@pytest.mark.parametrize("is_async", [False, True])
def test_the_panel_says_who_has_answered(
    panel: Callable[[str, bool], dict[str, Any]], wasm_gateway: Guests, is_async: bool
) -> None:
    assert panel("/other", is_async) == {"answered": "no Wasm route"}
    stats = panel("/wasm/hello", is_async)
    assert stats["answered"] == "guest"
    facts = dict(stats["facts"])
    assert (facts["Route"], facts["Component"]) == ("/wasm/hello", "hello")
    assert re.fullmatch(r"\d+\.\d\d ms", facts["Time in the guest, last"])
    with wasm_gateway.with_rules(hello={"mode": "canary", "percent": 0}, trap={"fallback": True}):
        stats = panel("/wasm/hello", is_async)
        facts = dict(stats["facts"])
        assert (stats["answered"], facts["Chosen"], facts["Share"]) == ("view", "view (canary)", "0%")
        assert panel("/wasm/trap", is_async)["answered"] == "view (fallback)"
