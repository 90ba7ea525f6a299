# Routes that guests and views of a Flask app share, and what guests are told of who asks.

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import wasmtime
from flask import Blueprint, Flask, current_app, request, session
from werkzeug.middleware.dispatcher import DispatcherMiddleware
from werkzeug.test import Client

from tests.integrations.conftest import printer
from tests.test_swap import put, until
from wasm_gateway import Visitor
from wasm_gateway.errors import ManifestError
from wasm_gateway.host.identity import Identity
from wasm_gateway.integrations.flask import WasmGateway, signals
from wasm_gateway.integrations.flask.commands import wasm
from wasm_gateway.integrations.flask.identity import FlaskSite
from wasm_gateway.migration.ledger import Mismatch, SqliteLedger

Make = Callable[..., Flask]
NATIVE, GUEST = b"native ", b"hello from wasm"


def visitor() -> Visitor | None:
    name = session.get("name")
    return None if name is None else Visitor(name, frozenset({"testers"}), name == "ada", name.title())


@pytest.fixture
def make(asking: Path, cache_dir: Path, tmp_path: Path) -> Make:
    """A factory of apps, as an app's own would be: `make(RULES=..., ...)`."""
    extension = WasmGateway()

    def make(name: str = "shop", **settings: Any) -> Flask:
        app = Flask(name, root_path=str(tmp_path))
        app.config.update(SECRET_KEY=name, WASM_GATEWAY_CACHE_DIR=cache_dir, WASM_GATEWAY_STATE_DIR="")
        app.config.update({f"WASM_GATEWAY_{key}": value for key, value in settings.items()})
        shop = Blueprint("shop", name, url_prefix="/wasm")

        @shop.route("/<path:rest>", methods=["GET", "POST"])
        def any_path(rest: str) -> bytes:
            return b"native " + request.get_data()

        @app.post("/login/<who>")
        def login(who: str) -> str:
            session["name"] = who
            return current_app.name

        app.register_blueprint(shop)
        extension.init_app(app)
        return app

    return make


def test_a_blueprint_answers_for_a_guest(make: Make) -> None:
    client = make(RULES={"hello": {"mode": "native"}, "trap": {"fallback": True}}).test_client()
    assert client.get("/wasm/hello").data == NATIVE
    assert client.post("/wasm/trap", data=b"body").data == b"native body"
    assert client.get("/wasm/cookie").data != NATIVE


def test_below_a_prefix(make: Make) -> None:
    app = make(RULES={"trap": {"fallback": True}, "hello": {"mode": "canary", "percent": 1e-9}})
    client = Client(DispatcherMiddleware(Flask("root"), {"/below": app}))
    assert client.post("/below/wasm/trap", data=b"body").data == b"native body"
    response = client.get("/below/wasm/hello")
    assert (response.data, "Path=/below;" in response.headers["set-cookie"]) == (NATIVE, True)
    variables = client.get("/below/wasm/echo/a%20b").data
    assert b"PATH_INFO=/a%20b\0" in variables
    assert client.get("/wasm/trap").status_code == 404


def test_people_whom_the_app_knows(make: Make) -> None:
    rules = {"hello": {"mode": "canary", "percent": 0, "staff": True}}
    client = make(VISITOR=visitor, RULES=rules).test_client()
    assert client.get("/wasm/hello").data == NATIVE
    client.post("/login/bob")
    assert client.get("/wasm/hello").data == NATIVE
    client.post("/login/ada")
    assert client.get("/wasm/hello").data == GUEST


def test_who_asks_is_lent(make: Make) -> None:
    client = make(VISITOR=visitor, LOCALE=lambda: request.accept_languages.best or "").test_client()
    assert client.get("/wasm/who").data == b"nobody"
    client.post("/login/ada")
    assert client.get("/wasm/who").data == b"ada|Ada|testers|1"
    assert client.get("/wasm/locale", headers={"accept-language": "de-CH"}).data == b"de-CH"
    assert client.get("/wasm/token").data == b""
    assert client.post("/wasm/verify", data=b"x").data == b"0"


def test_who_asks_is_lent_beside_the_view_too(make: Make, tmp_path: Path) -> None:
    app = make(VISITOR=visitor, RULES={"who": {"mode": "shadow"}}, LEDGER=tmp_path / "ledger.db")
    client = app.test_client()
    client.post("/login/ada")
    with client.get("/wasm/who") as response:
        assert response.data == NATIVE
    ledger = app.extensions["wasm_gateway"].pilot.ledger
    end = time.monotonic() + 60
    while not ledger.mismatches():
        assert time.monotonic() < end
        time.sleep(0.01)
    assert ledger.mismatches()[0].guest["body"] == "ada|Ada|testers|1"


def test_an_app_without_a_word(make: Make) -> None:
    client = make().test_client()
    assert (client.get("/wasm/who").data, client.get("/wasm/locale").data) == (b"nobody", b"")


def test_several_apps_and_their_users(make: Make) -> None:
    one, two = make("one", VISITOR=visitor).test_client(), make("two", VISITOR=lambda: None).test_client()
    for client in (one, two):
        client.post("/login/ada")
    assert one.get("/wasm/who").data == b"ada|Ada|testers|1"
    assert two.get("/wasm/who").data == b"nobody"


def test_a_signed_header(make: Make, asking: Path) -> None:
    table = "[component.echo.tool.wasm-gateway]"
    text = asking.read_text().replace(
        table, f'{table}\nlend = ["user"]\nidentity_headers = true\ncookies = false'
    )
    asking.write_text(text)
    client = make(VISITOR=visitor).test_client()
    client.post("/login/ada")
    body = client.get("/wasm/echo").data
    variables = dict(text.decode().split("=", 1) for text in body.partition(b"\0\0")[0].split(b"\0"))
    payload = variables["HTTP_WASM_GATEWAY_IDENTITY"].partition(".")[0]
    assert json.loads(base64.urlsafe_b64decode(payload + "=="))["user"]["id"] == "ada"
    assert "HTTP_COOKIE" not in variables
    # no secret, no header, and no answer that looks like one
    app = make(VISITOR=visitor)
    app.config["SECRET_KEY"] = None
    assert app.test_client().get("/wasm/echo").status_code == 500


@pytest.mark.parametrize("value", ["no.such.module", "json.nothing", "", 5])
def test_a_visitor_that_is_no_function(make: Make, value: Any) -> None:
    with pytest.raises(ManifestError, match="VISITOR"):
        make(VISITOR=value)


def test_a_visitor_by_its_name(make: Make) -> None:
    assert make(VISITOR="wasm_gateway.policy.Visitor").test_client().get("/wasm/who").data == b"nobody"


# Commands


def test_flask_wasm_mode(make: Make, tmp_path: Path) -> None:
    app = make(LEDGER=tmp_path / "ledger.db", RULES={"cookie": {"methods": "GET"}})
    runner, client = app.test_cli_runner(), app.test_client()
    assert client.get("/wasm/hello").data == GUEST
    assert "cookie  wasm GET, HEAD" in runner.invoke(wasm, ["mode"]).output.splitlines()
    result = runner.invoke(wasm, ["mode", "hello", "canary", "--percent", "0"])
    assert result.output == "hello: canary 0%\n"
    assert client.get("/wasm/hello").data == NATIVE
    lines = runner.invoke(wasm, ["mode"]).output.splitlines()
    assert lines[:2] == ["hello  canary 0% (turned)", "  /wasm/hello  canary 0%"]
    assert runner.invoke(wasm, ["mode", "hello", "manifest"]).exit_code == 0
    assert client.get("/wasm/hello").data == GUEST
    for arguments, message in (
        (["mode", "nothing", "wasm"], "neither a component nor a route"),
        (["mode", "hello"], "which mode"),
        (["mode", "hello", "canary", "--percent", "101"], "from 0 to 100"),
    ):
        result = runner.invoke(wasm, arguments)
        assert result.exit_code != 0
        assert message in result.output


def test_flask_wasm_report(make: Make, tmp_path: Path) -> None:
    app = make(LEDGER=tmp_path / "ledger.db")
    runner = app.test_cli_runner()
    pilot = app.extensions["wasm_gateway"].open().pilot
    answers = {"status": 200}, {"status": 500}
    pilot.ledger.record(
        Mismatch("hello", "/wasm/hello", "GET", "/wasm/hello", ("status",), *answers, 0.1, 0.2)
    )
    assert "hello GET /wasm/hello" in runner.invoke(wasm, ["report"]).output
    assert "No mismatches" in runner.invoke(wasm, ["report", "cookie"]).output
    assert json.loads(runner.invoke(wasm, ["report", "--format", "json"]).output)["mismatches"]
    assert runner.invoke(wasm, ["report", "other"]).exit_code == 1
    assert "hello GET" in runner.invoke(wasm, ["report", "cookie", "hello", "--forget"]).output
    assert "No mismatches" in runner.invoke(wasm, ["report"]).output


def test_commands_without_a_ledger(make: Make) -> None:
    for command in (["mode", "hello", "native"], ["report"], ["reload"], ["rollback", "hello"]):
        result = make().test_cli_runner().invoke(wasm, command)
        assert (result.exit_code, "LEDGER" in result.output) == (1, True)


def test_flask_wasm_reload_and_rollback(make: Make, asking: Path, tmp_path: Path) -> None:
    app = make(LEDGER=tmp_path / "ledger.db")
    runner, client = app.test_cli_runner(), app.test_client()
    assert client.get("/wasm/hello").data == GUEST
    put(asking.parent / "hello.wasm", wasmtime.wat2wasm(printer("content-type: text/plain\n\nnewer")))
    for command, expected in (
        (["reload", "hello"], b"newer"),
        (["rollback", "hello"], GUEST),
        (["reload"], b"newer"),
    ):
        result = runner.invoke(wasm, command)
        assert (result.exit_code, "each process" in result.output) == (0, True)
        until(lambda: client.get("/wasm/hello").data == expected)  # noqa: B023
    result = runner.invoke(wasm, ["rollback", "nothing"])
    assert (result.exit_code, "no component 'nothing'" in result.output) == (1, True)
    assert runner.invoke(wasm, ["rollback"]).exit_code == 2


def test_flask_wasm_identity_key(make: Make) -> None:
    """The key with which a header that a guest sees is signed."""
    app = make()
    runner = app.test_cli_runner()
    key = runner.invoke(wasm, ["identity-key", "echo"]).output.strip()
    assert key == Identity(FlaskSite(lambda: None, None, None), lambda: "shop").key("echo")
    assert key != runner.invoke(wasm, ["identity-key", "hello"]).output.strip()
    for component, secret, message in (("nobody", "shop", "no component"), ("echo", None, "needs a secret")):
        app.config["SECRET_KEY"] = secret
        result = runner.invoke(wasm, ["identity-key", component])
        assert (result.exit_code, message in result.output) == (1, True)


# Signals


def test_an_app_hears_of_its_own_guests(make: Make, asking: Path, tmp_path: Path) -> None:
    told: list[tuple[Any, str, Any]] = []

    def hear(name: str) -> Callable[..., None]:
        def receiver(sender: Any, **facts: Any) -> None:
            told.append((sender, name, facts))
            raise RuntimeError("a receiver of no use")

        return receiver

    receivers = {name: hear(name) for name in signals.signals}
    for name, receiver in receivers.items():
        signals.signals[name].connect(receiver)
    try:
        rules = {"trap": {"fallback": True}, "hello": {"mode": "shadow"}}
        one = make("one", RULES=rules, LEDGER=tmp_path / "ledger.db")
        two = make("two")
        opened = {(sender, facts["component"]) for sender, name, facts in told if name == "component_loaded"}
        assert {(one, "hello"), (two, "hello"), (one, "who")} <= opened
        told.clear()
        one.extensions["wasm_gateway"].reload("hello")
        assert told == [(one, "component_loaded", {"component": "hello", "dialect": "wagi", "act": "swap"})]
        told.clear()
        assert one.test_client().get("/wasm/trap").data == NATIVE
        [(sender, name, facts)] = told
        assert (sender, name, facts["component"], facts["role"]) == (one, "guest_failed", "trap", "fallback")
        told.clear()
        assert one.test_cli_runner().invoke(wasm, ["mode", "echo", "native"]).exit_code == 0
        [(sender, name, facts)] = told
        assert (sender, name, facts["change"].name) == (one, "dial_turned", "echo")
        told.clear()
        with one.test_client().get("/wasm/hello") as response:
            assert response.data == NATIVE
        until(lambda: told)
        [(sender, name, facts)] = told
        assert (sender, name, facts["mismatch"].component) == (one, "shadow_mismatch", "hello")
    finally:
        for name, receiver in receivers.items():
            signals.signals[name].disconnect(receiver)


def test_a_route_is_turned_though_its_guest_cannot_be_loaded(
    make: Make, asking: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLASK_RUN_FROM_CLI", "true")
    (asking.parent / "hello.wasm").write_bytes(b"garbage")
    runner = make(LEDGER=tmp_path / "ledger.db").test_cli_runner()
    result = runner.invoke(wasm, ["rollback", "hello"])
    assert (result.exit_code, "'hello' has no earlier guest" in result.output) == (1, True)
    with closing(SqliteLedger(tmp_path / "ledger.db")) as ledger:
        ledger.note("served:hello", {"component": "hello", "digest": "2" * 64, "before": "1" * 64})
    for command in (["mode", "hello", "native"], ["rollback", "hello"], ["report"], ["mode"]):
        assert runner.invoke(wasm, command).exit_code == 0
    assert runner.invoke(wasm, ["reload", "hello"]).exit_code == 1
