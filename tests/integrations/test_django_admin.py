# The admin pages of a Django site, its commands, and whom they tell.

from __future__ import annotations

import io
import json
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import django
import pytest
import wasmtime
from django.contrib import admin
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import Permission, User
from django.core.management import CommandError, call_command
from django.http import HttpRequest, HttpResponse
from django.test import Client, override_settings
from django.urls import path, re_path

from tests.integrations.conftest import printer
from tests.test_swap import put, until
from wasm_gateway.errors import ComponentError, GuestError
from wasm_gateway.integrations.django.admin import DialAdmin
from wasm_gateway.integrations.django.conf import owner
from wasm_gateway.integrations.django.ledger import DjangoLedger
from wasm_gateway.integrations.django.management.commands import wasm_mode, wasm_report, wasm_rollback
from wasm_gateway.integrations.django.models import Dial
from wasm_gateway.integrations.django.signals import (
    component_loaded,
    dial_turned,
    guest_failed,
    shadow_mismatch,
)
from wasm_gateway.migration.counters import CANARY_GUEST, End
from wasm_gateway.migration.ledger import Change, Mismatch

django.setup()

MIDDLEWARE = [
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "wasm_gateway.integrations.django.WasmGatewayMiddleware",
]
PAGE, TURN = "/admin/wasm_gateway/dial/", "/admin/wasm_gateway/dial/turn/"
NATIVE, GUEST = b"native", b"hello from wasm"


def view(request: HttpRequest) -> HttpResponse:
    return HttpResponse(b"native")


class Urls:
    urlpatterns = [path("admin/", admin.site.urls), re_path("", view)]


@pytest.fixture(autouse=True)
def site(manifest: Path, cache_dir: Path, tmp_path: Path, db: None) -> Iterator[dict[str, Any]]:
    gateway = {"MANIFEST": manifest, "CACHE_DIR": cache_dir, "STATE_DIR": "", "LEDGER": "django"}
    with override_settings(
        WASM_GATEWAY=gateway, MIDDLEWARE=MIDDLEWARE, ROOT_URLCONF=Urls, STATIC_URL="static/"
    ):
        yield gateway
        owner.close()


def user(*permissions: str) -> Client:
    """Somebody of the staff who may do that, logged in; CSRF is checked for him."""
    made = User.objects.create_user(f"user{User.objects.count()}", is_staff=True)
    made.user_permissions.set(Permission.objects.filter(codename__in=permissions))
    client = Client(enforce_csrf_checks=True)
    client.force_login(made)
    return client


def turn(client: Client, **form: str) -> Any:
    client.get(PAGE)
    token = client.cookies["csrftoken"].value if "csrftoken" in client.cookies else ""
    return client.post(TURN, form | {"csrfmiddlewaretoken": token}, follow=True)


def test_who_may_see_and_turn() -> None:
    nobody, viewer, turner = user(), user("view_dial"), user("change_dial")
    assert nobody.get(PAGE).status_code == 403
    text = viewer.get(PAGE).content.decode()
    assert "/wasm/echo/..." in text
    assert "<button" not in text.partition('id="content-main"')[2]
    assert "Kill switch" in turner.get(PAGE).content.decode()
    values = {"name": "hello", "action": "turn", "mode": "native", "percent": "100"}
    assert turn(viewer, **values).status_code == 403
    assert turn(turner, **values).status_code == 200
    assert turner.post(TURN, values).status_code == 403  # no CSRF token
    assert turner.get(TURN).status_code == 405
    assert Client().get(PAGE).status_code == 302


def test_a_dial_is_turned_by_somebody() -> None:
    told: list[Change] = []

    def hear(sender: Any, change: Change, **_: Any) -> None:
        told.append(change)

    dial_turned.connect(hear)
    client = user("change_dial")
    assert Client().get("/wasm/hello").content == GUEST
    response = turn(client, name="hello", action="turn", mode="native", percent="100", slide="100", was="100")
    assert "hello: native 100%" in response.content.decode()
    assert Client().get("/wasm/hello").content == NATIVE
    [change] = told
    assert (change.name, change.values) == ("hello", {"mode": "native", "percent": 100.0})
    assert change.by == "user0"
    pilot = owner.gateway().pilot
    assert pilot is not None
    assert pilot.ledger is not None
    assert [each.by for each in pilot.ledger.changes()] == ["user0"]
    [entry] = LogEntry.objects.all()
    assert (entry.user.get_username(), entry.object_repr) == ("user0", "hello")
    assert "native 100%" in entry.get_change_message()

    response = turn(client, name="hello", action="reset")
    assert "(turned)" not in response.content.decode()
    assert Client().get("/wasm/hello").content == GUEST
    assert LogEntry.objects.count() == 2


@pytest.mark.parametrize(
    ("fields", "percent"),
    [
        ({"percent": "12.5", "slide": "0", "was": "0.4"}, "12.5"),
        ({"percent": "0.4", "slide": "30", "was": "0.4"}, "30"),
        ({"percent": "0.4", "slide": "0", "was": "0.4"}, "0.4"),
        ({"percent": "7"}, "7"),
    ],
)
def test_a_number_and_a_slider_for_the_share(fields: dict[str, str], percent: str) -> None:
    response = turn(user("change_dial"), name="/wasm/hello", action="turn", mode="canary", **fields)
    assert f"/wasm/hello: canary {percent}%" in response.content.decode()
    pilot = owner.gateway().pilot
    assert pilot is not None
    assert pilot.rule("hello", "/wasm/hello").percent == float(percent)


@pytest.mark.parametrize(
    "form",
    [
        {"name": "nothing", "action": "turn", "mode": "native", "percent": "1"},
        {"name": "hello", "action": "turn", "mode": "never", "percent": "1"},
        {"name": "hello", "action": "turn", "mode": "canary", "percent": "101"},
        {"name": "hello", "action": "turn", "mode": "canary", "percent": "nan"},
        {"name": "hello", "action": "turn", "mode": "canary", "percent": "<b>"},
        {"name": "hello", "action": "turn", "mode": "canary"},
        {"name": "hello", "action": "burn"},
        {},
    ],
)
def test_what_cannot_be_turned(form: dict[str, str]) -> None:
    response = turn(user("change_dial"), **form)
    assert 'class="error"' in response.content.decode()
    assert b"<b>" not in response.content
    assert Client().get("/wasm/hello").content == GUEST
    assert not LogEntry.objects.exists()


def test_the_kill_switch_counts_for_every_route(site: dict[str, Any], manifest: Path) -> None:
    with manifest.open("a") as file:
        file.write('\n[[trigger.http]]\nroute = "/wasm/new"\ncomponent = "hello"')
        file.write('\nexecutor = { type = "wagi" }')
    with override_settings(WASM_GATEWAY=site | {"RULES": {"/wasm/new": {"mode": "wasm"}}}):
        client = user("change_dial")
        turn(client, name="hello", action="kill")
        assert [Client().get(path).content for path in ("/wasm/hello", "/wasm/new")] == [NATIVE] * 2
        assert {entry.object_repr for entry in LogEntry.objects.all()} == {"hello", "/wasm/new"}
        assert Client().get("/wasm/cookie").content != NATIVE


def test_what_the_page_shows(manifest: Path) -> None:
    text = manifest.read_text().replace(
        'source = "hello.wasm"', 'source = "hello.wasm"\ndescription = "<Hi>"'
    )
    manifest.write_text(text)
    owner.close()
    Client().get("/wasm/hello")
    pilot = owner.gateway().pilot
    assert pilot is not None
    assert pilot.ledger is not None
    for number in range(8):
        pilot.ledger.record(mismatch(f"/<{number}>"))
    pilot.count("hello", "shadow different")
    pilot.took("hello", 0.01, 0.001)
    for number in range(8):
        pilot.ended("hello", CANARY_GUEST, End.ERROR if number else End.OK, 0.001)
    page = user("view_dial").get(PAGE).content.decode()
    hello = page.partition('id="component-hello"')[2].partition('id="component-cookie"')[0]
    assert "&lt;Hi&gt;" in hello
    assert "wasm: 1" in hello
    assert "view: median" in hello
    cells = [re.findall("<td>(.*?)</td>", row) for row in hello.partition('class="canary"')[2].split("<tr")]
    assert [row[:7] for row in cells if row] == [
        ["0", "-", "0", "0", "0", "0", "0"],
        ["8", "87.50%", "1", "0", "0", "7", "0"],
    ]
    assert "canary guest" not in hello
    assert "different: 1" in hello
    assert "closed" in hello
    assert "/&lt;7&gt;" in hello
    assert "/&lt;2&gt;" not in hello


def mismatch(target: str) -> Mismatch:
    answers = {"status": 200, "body": "<a>"}, {"status": 500}
    return Mismatch("hello", "/wasm/hello", "GET", target, ("status: 200, 500",), *answers, 0.001, 0.0002)


def test_changes_and_mismatches_are_read_only() -> None:
    client = user("view_change", "view_mismatch", "change_dial")
    turn(client, name="hello", action="turn", mode="canary", percent="5")
    pilot = owner.gateway().pilot
    assert pilot is not None
    assert pilot.ledger is not None
    pilot.ledger.record(mismatch("/<x>"))
    assert "mode = canary, percent = 5.0" in client.get("/admin/wasm_gateway/change/").content.decode()
    text = client.get("/admin/wasm_gateway/mismatch/").content.decode()
    assert "GET /&lt;x&gt;" in text
    assert "1 ms, 0.2 ms" in text
    from wasm_gateway.integrations.django import models

    number = models.Mismatch.objects.get().pk
    text = client.get(f"/admin/wasm_gateway/mismatch/{number}/change/").content.decode()
    assert "status: 200, 500" in text
    assert "&lt;a&gt;" in text
    for kind, pk in (("change", models.Change.objects.get().pk), ("mismatch", number)):
        assert client.get(f"/admin/wasm_gateway/{kind}/add/").status_code == 403
        assert client.get(f"/admin/wasm_gateway/{kind}/{pk}/delete/").status_code == 403


def test_a_site_hears_of_mismatches(site: dict[str, Any], tmp_path: Path) -> None:
    told: list[Mismatch] = []

    def hear(sender: Any, mismatch: Mismatch, **_: Any) -> None:
        told.append(mismatch)

    shadow_mismatch.connect(hear)
    for ledger in ("django", tmp_path / "ledger.db"):
        with override_settings(
            WASM_GATEWAY=site | {"LEDGER": ledger, "RULES": {"hello": {"mode": "shadow"}}}
        ):
            assert Client().get("/wasm/hello").content == NATIVE
            pilot = owner.gateway().pilot
            assert pilot is not None
            assert pilot.ledger is not None
            end = time.monotonic() + 60
            while not pilot.ledger.mismatches():
                assert time.monotonic() < end
                time.sleep(0.01)
    assert [each.target for each in told] == ["/wasm/hello"] * 2


def test_a_site_hears_of_guests_that_fail(site: dict[str, Any]) -> None:
    told: list[Any] = []

    def hear(sender: Any, signal: Any, **words: Any) -> None:
        told.append(tuple(words.values()))
        raise RuntimeError("a receiver of no use")

    guest_failed.connect(hear)
    try:
        with override_settings(WASM_GATEWAY=site | {"RULES": {"trap": {"fallback": True}}}):
            assert Client().get("/wasm/trap").content == NATIVE
            assert Client().get("/wasm/hello").content == GUEST
        [(component, route, error, outcome, role)] = told
        assert (component, route, outcome, role) == ("trap", "/wasm/trap", "trap", "fallback")
        assert isinstance(error, GuestError)
    finally:
        guest_failed.disconnect(hear)
        owner.close()


def test_a_site_hears_of_guests_that_are_loaded(site: dict[str, Any], manifest: Path) -> None:
    told: list[Any] = []

    def hear(sender: Any, signal: Any, component: str, dialect: str, act: str) -> None:
        if component == "hello":
            told.append((dialect, act))
        raise RuntimeError("a receiver of no use")

    component_loaded.connect(hear)
    try:
        gateway = owner.gateway().open()
        put(manifest.parent / "hello.wasm", wasmtime.wat2wasm(printer("content-type: text/plain\n\nnewer")))
        gateway.reload("hello")
        gateway.rollback("hello")
        assert told == [("wagi", "open"), ("wagi", "swap"), ("wagi", "rollback")]
        (manifest.parent / "hello.wasm").write_bytes(b"garbage")
        with pytest.raises(ComponentError):
            gateway.reload("hello")
        assert len(told) == 3
    finally:
        component_loaded.disconnect(hear)


def test_without_a_ledger_the_page_says_what_to_set(site: dict[str, Any]) -> None:
    with override_settings(WASM_GATEWAY=site | {"LEDGER": None}):
        assert "see the setting LEDGER" in user("view_dial").get(PAGE).content.decode()


# Commands


def run(command: str, *arguments: str, **options: Any) -> list[str]:
    output = io.StringIO()
    call_command(command, *arguments, stdout=output, **options)
    return output.getvalue().splitlines()


def test_wasm_mode() -> None:
    assert run("wasm_mode", "hello", "canary", "--percent", "0") == ["hello: canary 0%"]
    assert Client().get("/wasm/hello").content == NATIVE
    assert run("wasm_mode")[:3] == [
        "hello  canary 0% (turned)",
        "  /wasm/hello  canary 0%",
        "cookie  wasm",
    ]
    assert run("wasm_mode", "/wasm/hello", "wasm") == ["/wasm/hello: wasm"]
    assert Client().get("/wasm/hello").content == GUEST
    run("wasm_mode", "/wasm/hello", "manifest")
    run("wasm_mode", "hello", "manifest")
    assert run("wasm_mode")[:2] == ["hello  wasm", "  /wasm/hello  wasm"]
    pilot = owner.gateway().pilot
    assert pilot is not None
    assert pilot.ledger is not None
    assert all(change.by.endswith(" (wasm_mode)") for change in pilot.ledger.changes())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nothing", "wasm"], "neither a component nor a route"),
        (["hello"], "which mode"),
        (["hello", "canary", "--percent", "101"], "from 0 to 100"),
        (["hello", "manifest", "--percent", "1"], "no share"),
        (["hello", "never"], "invalid choice"),
    ],
)
def test_wasm_mode_says_what_is_wrong(arguments: list[str], message: str) -> None:
    with pytest.raises(CommandError, match=message):
        run("wasm_mode", *arguments)


def test_wasm_mode_needs_a_ledger(site: dict[str, Any]) -> None:
    with override_settings(WASM_GATEWAY=site | {"LEDGER": None}), pytest.raises(CommandError, match="LEDGER"):
        run("wasm_mode", "hello", "native")


def test_wasm_report() -> None:
    assert run("wasm_report")[-1] == "No mismatches."
    Client().get("/wasm/hello")
    pilot = owner.gateway().pilot
    assert pilot is not None
    assert pilot.ledger is not None
    for target in ("/a", "/b"):
        pilot.ledger.record(mismatch(target))
    pilot.flush()
    lines = run("wasm_report", "hello", "--limit", "1")
    assert lines[1].split()[:2] == ["hello", "1"]
    assert any("hello GET /b: native 1 ms, guest 0.2 ms" in line for line in lines)
    assert "  status: 200, 500" in lines
    assert run("wasm_report", "cookie")[-1] == "No mismatches."
    rows = json.loads("\n".join(run("wasm_report", format="json")))["mismatches"]
    assert [row["target"] for row in rows] == ["/b", "/a"]
    run("wasm_report", "--forget")
    assert run("wasm_report", "hello")[-1] == "No mismatches."
    with pytest.raises(CommandError, match="no component 'other'"):
        run("wasm_report", "other")


# Orders to all processes


def test_a_guest_is_reloaded_and_rolled_back(manifest: Path) -> None:
    client, viewer = user("change_dial"), user("view_dial")
    assert Client().get("/wasm/hello").content == GUEST
    put(manifest.parent / "hello.wasm", wasmtime.wat2wasm(printer("content-type: text/plain\n\nnewer")))
    assert turn(viewer, name="hello", action="reload").status_code == 403
    response = turn(client, name="hello", action="reload")
    assert "loads the guest again" in response.content.decode()
    until(lambda: Client().get("/wasm/hello").content == b"newer")
    turn(client, name="hello", action="rollback")
    until(lambda: Client().get("/wasm/hello").content == GUEST)
    assert run("wasm_reload", "hello") == ["hello: each process loads the guest again within a second or so"]
    until(lambda: Client().get("/wasm/hello").content == b"newer")
    assert run("wasm_rollback", "hello")[0].startswith("hello: each process goes back")
    until(lambda: Client().get("/wasm/hello").content == GUEST)
    run("wasm_reload", verbosity=0)
    until(lambda: Client().get("/wasm/hello").content == b"newer")
    pilot = owner.gateway().pilot
    assert pilot is not None
    assert pilot.ledger is not None
    changes = [(change.name, change.by.partition("(")[2]) for change in pilot.ledger.changes()]
    assert changes[0] == ("guest:", "wasm_reload)")
    assert changes[3:] == [("guest:hello", ""), ("guest:hello", "")]
    assert [entry.object_repr for entry in LogEntry.objects.all()] == ["hello", "hello"]
    page = client.get("/admin/wasm_gateway/change/")
    assert page.status_code == 403  # to see who has turned what is a permission of its own
    until(lambda: pilot.counts()["hello"].get("order obeyed") == 5)
    pilot.flush()
    assert "hello orders, by process: obeyed 5, failed 0" in run("wasm_report", "hello")


def test_orders_that_make_no_sense(site: dict[str, Any], manifest: Path) -> None:
    for command in ("wasm_reload", "wasm_rollback"):
        with pytest.raises(CommandError, match="no component 'nothing'"):
            run(command, "nothing")
        with (
            override_settings(WASM_GATEWAY=site | {"LEDGER": None}),
            pytest.raises(CommandError, match="LEDGER"),
        ):
            run(command, "hello")
    with pytest.raises(CommandError, match="component"):
        run("wasm_rollback")
    for limit in ("-1", "201", "x"):
        with pytest.raises(CommandError, match="limit"):
            run("wasm_report", "--limit", limit)
    # a guest that cannot be loaded is not ordered at all; others are
    (manifest.parent / "hello.wasm").write_bytes(b"garbage")
    owner.close()
    for names in (["hello"], []):
        with pytest.raises(CommandError, match="hello"):
            run("wasm_reload", *names)
    assert run("wasm_reload", "cookie")


@pytest.mark.parametrize("state", ["garbage", "gone"])
def test_a_route_is_turned_though_its_guest_cannot_be_loaded(
    manifest: Path, state: str, caplog: pytest.LogCaptureFixture
) -> None:
    """By somebody at a terminal, while processes that have the old guest go on; no check stops him."""
    guest = manifest.parent / "hello.wasm"
    if state == "gone":
        guest.unlink()
    else:
        guest.write_bytes(b"garbage")
    for module in (wasm_mode, wasm_rollback, wasm_report):
        assert not module.Command.requires_system_checks
    with pytest.raises(CommandError, match="'hello' has no earlier guest"):
        run("wasm_rollback", "hello")
    DjangoLedger().note("served:hello", {"component": "hello", "digest": "2" * 64, "before": "1" * 64})
    assert run("wasm_rollback", "hello")
    assert run("wasm_mode", "hello", "native") == ["hello: native"]
    assert run("wasm_mode")[0] == "hello  native (turned)"
    assert run("wasm_report")[-1] == "No mismatches."
    assert not [record for record in caplog.records if record.levelname == "ERROR"]
    assert owner.gateway()._entries is None


def test_somebody_without_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a container that runs under a number."""

    def unknown() -> str:
        raise KeyError("getpwuid(): uid not found: 12345")

    monkeypatch.setattr("getpass.getuser", unknown)
    run("wasm_mode", "hello", "native")
    pilot = owner.gateway().pilot
    assert pilot is not None
    assert pilot.ledger is not None
    assert pilot.ledger.changes()[0].by == f"user {os.getuid()} (wasm_mode)"


# Other sites than the default one


class Ops(admin.AdminSite):
    pass


ops = Ops(name="ops")
ops.register(Dial, DialAdmin)


class TwoSites:
    urlpatterns = [path("admin/", admin.site.urls), path("ops/", ops.urls), re_path("", view)]


def test_an_admin_site_of_another_name() -> None:
    with override_settings(ROOT_URLCONF=TwoSites):
        client = user("change_dial")
        text = client.get("/ops/wasm_gateway/dial/").content.decode()
        assert 'action="/ops/wasm_gateway/dial/turn/"' in text
        assert '="/admin/' not in text
        token = client.cookies["csrftoken"].value
        form = {"name": "hello", "action": "reset", "csrfmiddlewaretoken": token}
        response = client.post("/ops/wasm_gateway/dial/turn/", form)
        assert response["location"] == "/ops/wasm_gateway/dial/"


def test_counts_take_few_queries(django_assert_max_num_queries: Any) -> None:
    ledger = DjangoLedger()
    counts = {"hello": {f"name {number}": number for number in range(100)}}
    ledger._add(counts)
    with django_assert_max_num_queries(6):
        ledger._add(counts | {"hello": {**counts["hello"], "new": 1}})
    found = ledger.counters()["hello"]
    assert {name: found[name] for name in ("name 0", "name 7", "name 99", "new")} == {
        "name 0": 0,
        "name 7": 14,
        "name 99": 198,
        "new": 1,
    }
