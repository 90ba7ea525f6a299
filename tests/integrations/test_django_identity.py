# What a Django site lends to guests of who asks.

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import io
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import django
import pytest
from django.contrib.auth.models import Group, User
from django.core.checks import run_checks
from django.core.management import CommandError, call_command
from django.http import HttpRequest, HttpResponse
from django.middleware.csrf import get_token
from django.test import AsyncClient, Client, override_settings
from django.urls import re_path

from wasm_gateway.host.identity import HEADER
from wasm_gateway.integrations.django.conf import owner

django.setup()

SESSIONS = "django.contrib.sessions.middleware.SessionMiddleware"
LOCALE = "django.middleware.locale.LocaleMiddleware"
CSRF = "django.middleware.csrf.CsrfViewMiddleware"
AUTH = "django.contrib.auth.middleware.AuthenticationMiddleware"
OURS = "wasm_gateway.integrations.django.WasmGatewayMiddleware"


def view(request: HttpRequest) -> HttpResponse:
    return HttpResponse(get_token(request))


class Urls:
    urlpatterns = [re_path("", view)]


@pytest.fixture(autouse=True)
def site(asking: Path, cache_dir: Path, django_db_blocker: Any) -> Iterator[dict[str, Any]]:
    gateway = {"MANIFEST": asking, "CACHE_DIR": cache_dir, "STATE_DIR": ""}
    with (
        override_settings(
            WASM_GATEWAY=gateway,
            MIDDLEWARE=[SESSIONS, LOCALE, CSRF, AUTH, OURS],
            ROOT_URLCONF=Urls,
            LANGUAGES=[("en", "English"), ("de", "Deutsch")],
            LANGUAGE_CODE="en",
        ),
        django_db_blocker.unblock(),
    ):
        yield gateway
    owner.close()


Ask = Callable[..., Any]


@pytest.fixture(params=["sync", "async"])
def ask(request: pytest.FixtureRequest) -> Ask:
    def sync(path: str, client: Any = None, **headers: str) -> Any:
        return (client or Client()).get(path, headers=headers)

    def asynchronous(path: str, client: Any = None, **headers: str) -> Any:
        async def main() -> Any:
            other = AsyncClient()
            if client is not None:
                other.cookies = client.cookies
            return await other.get(path, headers=headers)

        return asyncio.run(main())

    return sync if request.param == "sync" else asynchronous


def logged_in(name: str, staff: bool = False, *groups: str) -> Client:
    user = User.objects.create_user(name, is_staff=staff)
    user.groups.set([Group.objects.create(name=group) for group in groups])
    client = Client()
    client.force_login(user)
    return client


@pytest.mark.django_db(transaction=True)
def test_the_user(ask: Ask) -> None:
    assert ask("/wasm/who").content == b"nobody"
    ada = logged_in("Ad\u00e4", True, "writers", "readers")
    pk = User.objects.get().pk
    assert ask("/wasm/who", ada).content.decode() == f"{pk}|Ad\u00e4|readers|writers|1"
    assert ask("/wasm/who", logged_in("bob")).content.decode() == f"{pk + 1}|bob|0"


@pytest.mark.django_db(transaction=True)
def test_the_user_beside_the_view(site: dict[str, Any], tmp_path: Path, ask: Ask) -> None:
    changed = {"RULES": {"who": {"mode": "shadow"}}, "LEDGER": tmp_path / "ledger.db"}
    client = logged_in("ada")
    with override_settings(WASM_GATEWAY=site | changed):
        assert len(ask("/wasm/who", client).content) == 64
        pilot = owner.gateway().pilot
        assert pilot is not None
        assert pilot.ledger is not None
        end = time.monotonic() + 60
        while not pilot.ledger.mismatches():
            assert time.monotonic() < end
            time.sleep(0.01)
        assert pilot.ledger.mismatches()[0].guest["body"] == f"{User.objects.get().pk}|ada|0"


def test_the_locale(ask: Ask) -> None:
    assert ask("/wasm/locale").content == b"en"
    assert ask("/wasm/locale", **{"accept-language": "de"}).content == b"de"


def test_csrf() -> None:
    client = Client(enforce_csrf_checks=True)
    response = client.get("/wasm/token")
    token = response.content.decode()
    assert len(token) == 64
    assert client.cookies["csrftoken"].value not in ("", token)  # the secret stays where it is

    def verify(token: str, client: Client = client) -> bytes:
        return bytes(client.post("/wasm/verify", token, content_type="text/plain").content)

    assert verify(token) == b"1"
    assert verify(client.get("/form").content.decode()) == b"1"
    for other in ("", "x", token[:-1], token[::-1], client.get("/").content.decode()[:63] + "!"):
        assert verify(other) == b"0"
    assert verify(token, Client(enforce_csrf_checks=True)) == b"0"
    # and a view takes a token that a guest has put into its form
    assert client.post("/form", {"csrfmiddlewaretoken": token}).status_code == 200


def test_what_is_not_lent_ends_the_guest(asking: Path, caplog: Any) -> None:
    text = asking.read_text()
    asking.write_text(text.replace('lend = ["user"]', 'lend = ["locale"]'))
    owner.close()
    assert (Client().get("/wasm/who").status_code, Client().get("/wasm/locale").status_code) == (500, 200)
    assert 'add "user" to `lend` in [component.who.tool.wasm-gateway]' in caplog.text


def test_a_guest_that_is_lent_nothing_does_not_start(asking: Path) -> None:
    text = asking.read_text()
    asking.write_text(text.replace('lend = ["user"]', "lend = []"))
    owner.close()
    problems = [str(message.msg) for message in run_checks(include_deployment_checks=True)]
    assert any("name in `lend` in [component.who.tool.wasm-gateway]" in problem for problem in problems)


# Headers


def environment(body: bytes) -> dict[str, str]:
    return dict(text.decode().split("=", 1) for text in body.partition(b"\0\0")[0].split(b"\0"))


def told(manifest: Path, options: str) -> None:
    """`echo` with these options from now on."""
    text = manifest.read_text()
    table = "[component.echo.tool.wasm-gateway]"
    manifest.write_text(text.replace(table, f"{table}\n{options}"))
    owner.close()


@pytest.mark.django_db(transaction=True)
def test_a_signed_header(asking: Path, ask: Ask) -> None:
    told(asking, 'lend = ["user", "locale"]\nidentity_headers = true\ncookies = false')
    client = logged_in("ada", True, "writers")
    forged = {HEADER: "e30.00"}
    variables = environment(ask("/wasm/echo", client, **forged).content)
    assert "HTTP_COOKIE" not in variables
    payload, _, signature = variables["HTTP_WASM_GATEWAY_IDENTITY"].partition(".")
    claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    assert abs(claims.pop("iat") - time.time()) < 60
    user = {"id": str(User.objects.get().pk), "name": "ada", "groups": ["writers"], "is_staff": True}
    assert claims == {"component": "echo", "user": user, "locale": "en"}
    output = io.StringIO()
    call_command("wasm_identity_key", "echo", stdout=output)
    key = output.getvalue().strip().encode()
    assert hmac.new(key, payload.encode(), hashlib.sha256).hexdigest() == signature
    variables = environment(ask("/wasm/echo", **forged).content)
    claims = json.loads(
        base64.urlsafe_b64decode(variables["HTTP_WASM_GATEWAY_IDENTITY"].partition(".")[0] + "==")
    )
    assert claims["user"] is None


def test_without_being_asked_nobody_is_told(asking: Path, ask: Ask) -> None:
    client = Client()
    client.cookies["a"] = "b"
    variables = environment(ask("/wasm/echo", client, **{HEADER: "forged"}).content)
    assert variables["HTTP_COOKIE"] == "a=b"
    assert "HTTP_WASM_GATEWAY_IDENTITY" not in variables


def test_keys_differ() -> None:
    keys = set()
    for secret in ("one", "two"):
        with override_settings(SECRET_KEY=secret):
            owner.close()
            for component in ("echo", "who"):
                output = io.StringIO()
                call_command("wasm_identity_key", component, stdout=output)
                keys.add(output.getvalue())
        with pytest.raises(CommandError, match="there is no component 'nobody'"):
            call_command("wasm_identity_key", "nobody")
    assert len(keys) == 4


# Checks


@pytest.mark.parametrize(
    ("middleware", "expected"),
    [
        ([SESSIONS, LOCALE, CSRF, AUTH, OURS], []),
        ([SESSIONS, CSRF, AUTH, OURS], []),
        ([SESSIONS, LOCALE, CSRF, OURS, AUTH], ["W006"]),
        ([SESSIONS, CSRF, AUTH, OURS, LOCALE], ["W007"]),
        ([SESSIONS, LOCALE, AUTH, OURS, CSRF], ["W007"]),
        ([OURS], ["W006", "W007"]),
    ],
)
def test_where_the_middleware_stands(middleware: list[str], expected: list[str]) -> None:
    with override_settings(MIDDLEWARE=middleware):
        found = [str(message.id).partition(".")[2] for message in run_checks(tags=["wasm_gateway"])]
    assert [each for each in found if each.startswith("W")] == expected
